// SPDX-License-Identifier: GPL-2.0-only
/* iommufd_bench: rows with several threads: lookups of objects */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/iommufd.h>

#include "iommufd_bench.h"

#define MAX_THREADS 4
/* Long enough that the start of the threads makes no difference */
#define WINDOW_NS 50000000ULL
/* Calls between two reads of the clock */
#define BATCH 64

/* Instead of an id: controls that share nothing, or only the file */
#define GETPID 0
#define ENOTTY_IOCTL UINT32_MAX

static void pin_to(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Lookups */

struct worker {
	pthread_t thread;
	int cpu;
	/* An id to look up by an ioctl, or a control */
	u32 id;
	/* Calls per second */
	u64 rate;
};

static pthread_barrier_t line;

static u64 now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void *worker_main(void *arg)
{
	struct worker *worker = arg;
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_GET,
		.object_id = worker->id,
	};
	u64 from, now, calls = 0;
	int i;

	pin_to(worker->cpu);
	pthread_barrier_wait(&line);
	from = now_ns();
	do {
		for (i = 0; i < BATCH; i++) {
			if (worker->id == GETPID)
				syscall(SYS_getpid);
			else if (worker->id == ENOTTY_IOCTL)
				ioctl(iommufd, _IO(IOMMUFD_TYPE, 0xff), NULL);
			else if (ioctl(iommufd, IOMMU_OPTION, &cmd))
				fail("IOMMU_OPTION");
		}
		calls += BATCH;
		now = now_ns();
	} while (now - from < WINDOW_NS);
	worker->rate = calls * 1000000000ULL / (now - from);
	return NULL;
}

/* Calls per second of all threads together */
static u64 throughput(const u32 *ids, int threads)
{
	struct worker workers[MAX_THREADS];
	u64 rate = 0;
	int i;

	pthread_barrier_init(&line, NULL, threads);
	for (i = 0; i < threads; i++) {
		workers[i].cpu = i;
		workers[i].id = ids[i];
		if (pthread_create(&workers[i].thread, NULL, worker_main,
				   &workers[i]))
			fail("no thread");
	}
	for (i = 0; i < threads; i++) {
		pthread_join(workers[i].thread, NULL);
		rate += workers[i].rate;
	}
	pthread_barrier_destroy(&line);
	return rate;
}

/*
 * Wall time. Only ratios between rows of one kind are of interest: each to the
 * row with @1 thread, and all to the controls.
 */
void bench_lookups(void)
{
	static const char * const names[] = {
		"threads-getpid", "threads-enotty", "threads-same",
		"threads-own"
	};
	u32 ids[4][MAX_THREADS];
	u64 best[4][MAX_THREADS + 1] = {};
	int i, kind, threads, cpus = sysconf(_SC_NPROCESSORS_ONLN);
	char op[32];

	if (!wanted("threads-getpid@1 threads-enotty@1 threads-same@1") &&
	    !wanted("threads-own@1"))
		return;
	for (i = 0; i < MAX_THREADS; i++) {
		ids[0][i] = GETPID;
		ids[1][i] = ENOTTY_IOCTL;
		ids[2][i] = ioas;
		ids[3][i] = ioas_alloc();
	}
	/* Interleaved, as the load of the machine changes. */
	for (i = 0; i < 2 * repeats; i++) {
		for (kind = 0; kind < 4; kind++) {
			for (threads = 1; threads <= MAX_THREADS; threads *= 2) {
				u64 now;

				if (threads > cpus)
					continue;
				now = throughput(ids[kind], threads);
				if (now > best[kind][threads])
					best[kind][threads] = now;
			}
		}
	}
	for (i = 0; i < MAX_THREADS; i++)
		destroy(ids[3][i]);
	for (kind = 0; kind < 4; kind++) {
		for (threads = 1; threads <= MAX_THREADS; threads *= 2) {
			snprintf(op, sizeof(op), "%s@%d", names[kind], threads);
			if (best[kind][threads])
				report_value(op, "-", 0, best[kind][threads],
					     "calls/s");
		}
	}
}

/*
 * For an emulator that records writes between the markers: two threads on two
 * CPUs look up an object each.
 */
static void *writer_main(void *arg)
{
	struct sample lookup = sample_of("lookup-writes");
	struct worker *worker = arg;
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_GET,
		.object_id = worker->id,
	};
	int i;

	pin_to(worker->cpu);
	pthread_barrier_wait(&line);
	for (i = 0; i < 100; i++) {
		int rc;

		/* The first calls allocate what is not part of a lookup. */
		if (i >= 50)
			start(&lookup);
		rc = ioctl(iommufd, IOMMU_OPTION, &cmd);
		if (i >= 50)
			stop(&lookup);
		if (rc)
			fail("IOMMU_OPTION");
	}
	if (!worker->cpu)
		report(&lookup, "-", 0, 1);
	return NULL;
}

void bench_lookup_writes(void)
{
	struct worker workers[2];
	int i;

	if (!wanted_only("lookup-writes"))
		return;
	pthread_barrier_init(&line, NULL, 2);
	for (i = 0; i < 2; i++) {
		workers[i].cpu = i;
		workers[i].id = ioas_alloc();
		if (pthread_create(&workers[i].thread, NULL, writer_main,
				   &workers[i]))
			fail("no thread");
	}
	for (i = 0; i < 2; i++) {
		pthread_join(workers[i].thread, NULL);
		destroy(workers[i].id);
	}
	pthread_barrier_destroy(&line);
}
