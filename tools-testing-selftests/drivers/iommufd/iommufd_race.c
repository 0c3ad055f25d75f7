// SPDX-License-Identifier: GPL-2.0-only
/*
 * An IOAS that is destroyed while other threads change it, or destroy it too.
 * Needs no device.
 *
 * Whatever the interleaving: a user finds the object or ENOENT, the destroyer
 * is done soon after the last user has let go, and of several destroyers one
 * has it.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/types.h>

#include "kselftest_harness.h"

#define THREADS 4
#define SECONDS 5
/* For one destroy. A lost wakeup costs a minute; a busy machine much less. */
#define LIMIT 10.0

struct race {
	int iommufd;
	/* What the users use now; 0: nothing. */
	u32 ioas;
	bool stop;
	/* The first errno that none of them should have seen. */
	int unexpected;
	unsigned long uses;
	void *mem;
	/* One use of @ioas by user number @user; 0 or -errno. */
	int (*use)(struct race *race, u32 ioas, unsigned long user);
};

struct user {
	pthread_t thread;
	struct race *race;
	unsigned long number;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int ioas_alloc(int iommufd, u32 *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_ioas_id;
	return 0;
}

static int destroy(int iommufd, u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return ioctl(iommufd, IOMMU_DESTROY, &cmd) ? -errno : 0;
}

static int use_by_map(struct race *race, u32 ioas, unsigned long user)
{
	unsigned long page_size = sysconf(_SC_PAGESIZE);
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)race->mem,
		.length = page_size,
		.iova = 0x100000000 + user * page_size,
	};
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = ioas,
		.iova = map.iova,
		.length = map.length,
	};

	if (ioctl(race->iommufd, IOMMU_IOAS_MAP, &map))
		return -errno;
	return ioctl(race->iommufd, IOMMU_IOAS_UNMAP, &unmap) ? -errno : 0;
}

static int use_by_destroy(struct race *race, u32 ioas, unsigned long user)
{
	int rc = destroy(race->iommufd, ioas);

	/* Another user is just passing by. */
	return rc == -EBUSY ? -ENOENT : rc;
}

static void *use_it(void *arg)
{
	struct user *user = arg;
	struct race *race = user->race;
	u32 ioas;
	int rc;

	while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
		ioas = __atomic_load_n(&race->ioas, __ATOMIC_RELAXED);
		if (!ioas)
			continue;
		rc = race->use(race, ioas, user->number);
		if (rc && rc != -ENOENT)
			__atomic_store_n(&race->unexpected, -rc,
					 __ATOMIC_RELAXED);
		if (!rc)
			__atomic_fetch_add(&race->uses, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

FIXTURE(race)
{
	struct race race;
	struct user users[THREADS];
};

FIXTURE_VARIANT(race)
{
	int (*use)(struct race *race, u32 ioas, unsigned long user);
	bool destroys;
};

FIXTURE_VARIANT_ADD(race, amid_maps)
{
	.use = use_by_map,
};

FIXTURE_VARIANT_ADD(race, amid_destroys)
{
	.use = use_by_destroy,
	.destroys = true,
};

FIXTURE_SETUP(race)
{
	unsigned long i;

	self->race.use = variant->use;
	self->race.iommufd = open("/dev/iommu", O_RDWR);
	if (self->race.iommufd < 0)
		SKIP(return, "no /dev/iommu (modprobe iommufd)");
	self->race.mem = mmap(NULL, sysconf(_SC_PAGESIZE),
			      PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->race.mem);
	for (i = 0; i < THREADS; i++) {
		self->users[i].race = &self->race;
		self->users[i].number = i;
		ASSERT_EQ(0, pthread_create(&self->users[i].thread, NULL,
					    use_it, &self->users[i]));
	}
}

FIXTURE_TEARDOWN(race)
{
	EXPECT_EQ(0, close(self->race.iommufd));
}

TEST_F_TIMEOUT(race, destroy, 120)
{
	double end = now() + SECONDS, start, took, worst = 0;
	unsigned long i, busy = 0, destroyed = 0, rounds = 0;
	int rc;

	while (now() < end && worst < LIMIT) {
		u32 ioas = 0;

		ASSERT_EQ(0, ioas_alloc(self->race.iommufd, &ioas));
		__atomic_store_n(&self->race.ioas, ioas, __ATOMIC_RELAXED);
		/* Let some of them in. */
		usleep(rounds % 300);
		do {
			start = now();
			rc = destroy(self->race.iommufd, ioas);
			took = now() - start;
			if (took > worst)
				worst = took;
			/* A passing user may count as one who depends on it. */
			if (rc == -EBUSY)
				busy++;
		} while (rc == -EBUSY);
		if (!rc)
			destroyed++;
		else
			ASSERT_EQ(-ENOENT, rc);
		ASSERT_EQ(-ENOENT, destroy(self->race.iommufd, ioas));
		rounds++;
	}
	__atomic_store_n(&self->race.stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < THREADS; i++)
		ASSERT_EQ(0, pthread_join(self->users[i].thread, NULL));

	TH_LOG("%lu destroyed amid %lu uses, %lu times EBUSY, the slowest in %.3f s",
	       rounds, self->race.uses, busy, worst);
	EXPECT_EQ(0, self->race.unexpected);
	EXPECT_LT(0, self->race.uses);
	if (variant->destroys)
		destroyed += self->race.uses;
	EXPECT_EQ(rounds, destroyed);
	ASSERT_GT(LIMIT, worst);
}

TEST_HARNESS_MAIN
