// SPDX-License-Identifier: GPL-2.0-only
/*
 * iommufd_bench: what takes more than one thread. Lookups of objects from
 * several processors, and the most memory that the kernel uses meanwhile.
 */
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
#define LOOKUPS 2000

/* In place of an id: what shares nothing, and what shares only the file */
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
	/* Looked up by an option's ioctl, or a control */
	u32 id;
	u64 from, to;
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
	int i;

	pin_to(worker->cpu);
	pthread_barrier_wait(&line);
	worker->from = now_ns();
	for (i = 0; i < LOOKUPS; i++) {
		if (worker->id == GETPID)
			syscall(SYS_getpid);
		else if (worker->id == ENOTTY_IOCTL)
			ioctl(iommufd, _IO(IOMMUFD_TYPE, 0xff), NULL);
		else if (ioctl(iommufd, IOMMU_OPTION, &cmd))
			fail("IOMMU_OPTION");
	}
	worker->to = now_ns();
	return NULL;
}

/* Calls per second of all threads together, from the first to the last */
static u64 throughput(const u32 *ids, int threads)
{
	struct worker workers[MAX_THREADS];
	u64 from = UINT64_MAX, to = 0;
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
		if (workers[i].from < from)
			from = workers[i].from;
		if (workers[i].to > to)
			to = workers[i].to;
	}
	pthread_barrier_destroy(&line);
	return 1000000000ULL * LOOKUPS * threads / (to - from);
}

/*
 * Wall time, so of interest is only how the rows of one kind relate: each with
 * @1, and all with the controls.
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
	/* Interleaved, as other load comes and goes. */
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
 * For the emulator, which can record writes between the markers: two threads on
 * two processors look up an object each.
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

		/* What is set up by the first calls is not the lookup's. */
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

/* Memory */

static bool sampling;
static u64 peak;

static void *sampler_main(void *arg)
{
	pin_to(sysconf(_SC_NPROCESSORS_ONLN) - 1);
	pthread_barrier_wait(&line);
	while (__atomic_load_n(&sampling, __ATOMIC_RELAXED)) {
		struct usage now = quick_usage();

		if (now.objects + now.tables > peak)
			peak = now.objects + now.tables;
	}
	return NULL;
}

/*
 * What a large mapping keeps, and what it takes to make it and to end it: with
 * a page table of its own, as that of the device keeps some levels.
 */
void bench_usage(const struct memory *mem)
{
	struct usage before, after;
	pthread_t sampler;
	u64 base = 0;
	u32 id, hwpt;

	if (!wanted("mem-objects mem-tables mem-peak"))
		return;
	begin_usage();
	id = ioas_alloc();
	hwpt = hwpt_alloc(id, 0);
	exact_usage();
	before = exact_usage();
	ioas_map(id, mem->base, mem->size, IOVA, IOMMU_IOAS_MAP_FIXED_IOVA);
	after = exact_usage();
	ioas_unmap(id, IOVA, mem->size);
	report_value("mem-objects", mem->kind, mem->size,
		     after.objects - before.objects, "bytes");
	report_value("mem-tables", mem->kind, mem->size,
		     after.tables - before.tables, "bytes");
	destroy(hwpt);

	if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
		hwpt = hwpt_alloc(id, 0);
		pthread_barrier_init(&line, NULL, 2);
		sampling = true;
		peak = 0;
		if (pthread_create(&sampler, NULL, sampler_main, NULL))
			fail("no thread");
		exact_usage();
		before = quick_usage();
		base = before.objects + before.tables;
		pthread_barrier_wait(&line);
		ioas_map(id, mem->base, mem->size, IOVA,
			 IOMMU_IOAS_MAP_FIXED_IOVA);
		ioas_unmap(id, IOVA, mem->size);
		__atomic_store_n(&sampling, false, __ATOMIC_RELAXED);
		pthread_join(sampler, NULL);
		pthread_barrier_destroy(&line);
		destroy(hwpt);
		report_value("mem-peak", mem->kind, mem->size,
			     peak > base ? peak - base : 0, "bytes");
	}
	destroy(id);
	end_usage();
}

/* What one area of one page keeps, page tables apart */
void bench_area_usage(const struct memory *mem)
{
	const unsigned int areas = 10000;
	struct usage before, after;
	unsigned int area;

	if (!wanted("mem-area"))
		return;
	begin_usage();
	exact_usage();
	before = exact_usage();
	for (area = 0; area < areas; area++)
		ioas_map(ioas, mem->base, SZ_4K, IOVA + area * SZ_4K,
			 IOMMU_IOAS_MAP_FIXED_IOVA);
	after = exact_usage();
	end_usage();
	ioas_unmap(ioas, IOVA, areas * SZ_4K);
	report_value("mem-area", mem->kind, SZ_4K,
		     (after.objects - before.objects) / areas, "bytes");
}
