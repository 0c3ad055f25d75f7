// SPDX-License-Identifier: GPL-2.0-only
/*
 * Destroy an IOAS while other threads keep looking it up.
 *
 * Actors: one owner creates an IOAS, shows its id to the readers, and destroys
 * it; four readers ask for its IOVA ranges as fast as they can. A reader that
 * still uses the object makes IOMMU_DESTROY wait for it, and a reader that lost
 * sees ENOENT. Nothing depends on the IOAS, so the wait is as long as one
 * ioctl: a longer one means that the reader's wake-up did not arrive.
 *
 * IOMMU_DESTROY may say EBUSY if the implementation counts a lookup as a user
 * of the object. That is counted and reported, not judged.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/iommufd.h>

#include "../../kselftest.h"

#define READERS 4
#define DEFAULT_SECONDS 10
/* Far above any scheduling delay, far below the kernel's time-out of 60 s */
#define SLOWEST_NS (10 * 1000000000ULL)

static int iommufd;
static atomic_uint shown_id;
static atomic_bool stop;

struct reader {
	pthread_t thread;
	uint64_t found;
	uint64_t lost;
	int error;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void *read_ranges(void *arg)
{
	struct reader *self = arg;

	while (!stop) {
		struct iommu_ioas_iova_ranges cmd = {
			.size = sizeof(cmd),
			.ioas_id = shown_id,
		};

		/* There is room for no range: EMSGSIZE says the IOAS was found */
		if (!ioctl(iommufd, IOMMU_IOAS_IOVA_RANGES, &cmd) ||
		    errno == EMSGSIZE) {
			self->found++;
		} else if (errno == ENOENT) {
			self->lost++;
		} else {
			self->error = errno;
			break;
		}
	}
	return NULL;
}

int main(int argc, char *argv[])
{
	unsigned int seconds = argc > 1 ? atoi(argv[1]) : DEFAULT_SECONDS;
	uint64_t destroyed = 0, busy = 0, slowest = 0, found = 0, lost = 0;
	struct reader readers[READERS] = {};
	uint64_t end;
	int error = 0;
	int i;

	ksft_print_header();
	iommufd = open("/dev/iommu", O_RDWR);
	if (iommufd < 0)
		ksft_exit_skip("cannot open /dev/iommu: %s\n", strerror(errno));
	ksft_set_plan(2);

	for (i = 0; i < READERS; i++)
		if (pthread_create(&readers[i].thread, NULL, read_ranges,
				   &readers[i]))
			ksft_exit_fail_msg("cannot create a thread\n");

	end = now_ns() + seconds * 1000000000ULL;
	while (!error && now_ns() < end && slowest < SLOWEST_NS) {
		struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
		struct iommu_destroy destroy = { .size = sizeof(destroy) };
		bool gone = false;

		if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &alloc)) {
			error = errno;
			break;
		}
		shown_id = alloc.out_ioas_id;
		destroy.id = alloc.out_ioas_id;
		while (!gone) {
			uint64_t start = now_ns();
			uint64_t took;

			gone = !ioctl(iommufd, IOMMU_DESTROY, &destroy);
			if (!gone && errno != EBUSY) {
				error = errno;
				break;
			}
			took = now_ns() - start;
			if (took > slowest)
				slowest = took;
			busy += !gone;
		}
		destroyed += gone;
	}

	stop = true;
	for (i = 0; i < READERS; i++) {
		pthread_join(readers[i].thread, NULL);
		found += readers[i].found;
		lost += readers[i].lost;
		if (readers[i].error)
			error = readers[i].error;
	}

	ksft_print_msg("%llu IOAS destroyed, slowest IOMMU_DESTROY %llu us, EBUSY %llu times\n",
		       (unsigned long long)destroyed,
		       (unsigned long long)slowest / 1000,
		       (unsigned long long)busy);
	ksft_print_msg("lookups: %llu found the IOAS, %llu came too late\n",
		       (unsigned long long)found, (unsigned long long)lost);

	if (error)
		ksft_print_msg("unexpected: %s\n", strerror(error));
	/* Without lookups on both sides of a destroy, nothing was tested */
	ksft_test_result(!error && destroyed && found && lost,
			 "lookups race with destroy\n");
	ksft_test_result(slowest < SLOWEST_NS, "destroy is woken\n");
	ksft_finished();
}
