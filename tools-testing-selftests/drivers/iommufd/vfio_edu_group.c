// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two PCI devices that the IOMMU cannot distinguish, behind a bridge that
 * aliases them: they are attached, moved and detached as a group, though user
 * space names them one by one.
 *
 * Run QEMU with an IOMMU, "-device pcie-pci-bridge,id=shared" and two of
 * "-device edu,bus=shared", and see vfio_edu.h. Two functions of one device,
 * "-device edu,addr=1e.0,multifunction=on" and "-device edu,addr=1e.1", are a
 * group as well, where there is no such bridge.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "vfio_edu.h"

static struct edu edus[2], functions[2];

/* Both bound to one iommufd, which has two IOASes that map different memory. */
FIXTURE(group)
{
	int iommufd;
	int device[2];
	u32 id[2];
	u32 ioas[2];
	void *bar[2];
	size_t bar_size;
	u8 *mem;
};

FIXTURE_SETUP(group)
{
	int i;

	ASSERT_EQ(0, pinned_kib());
	self->iommufd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, self->iommufd);
	self->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill(self->mem, MEM_SIZE, 1);
	for (i = 0; i < 2; i++) {
		self->device[i] = open(edus[i].cdev, O_RDWR);
		ASSERT_LE(0, self->device[i]);
		ASSERT_EQ(0, vfio_bind(self->device[i], self->iommufd,
				       &self->id[i]));
		ASSERT_EQ(0, edu_open_bar(self->device[i], &self->bar[i],
					  &self->bar_size));
		ASSERT_EQ(0, ioas_alloc(self->iommufd, &self->ioas[i]));
	}
	/*
	 * The first IOAS maps two pages at low IOVAs, the second two at high
	 * ones.
	 */
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas[0], self->mem,
			      2 * page_size, LOW_IOVA));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas[1],
			      self->mem + 4 * page_size, 2 * page_size,
			      HIGH_IOVA));
}

static void close_device(struct _test_data_group *self, int i)
{
	if (self->device[i] < 0)
		return;
	munmap(self->bar[i], self->bar_size);
	close(self->device[i]);
	self->device[i] = -1;
}

FIXTURE_TEARDOWN(group)
{
	close_device(self, 0);
	close_device(self, 1);
	close(self->iommufd);
	EXPECT_EQ(0, pinned_kib());
}

/*
 * The number of bytes that device @i copies from the first page at @iova to the
 * second
 */
static int carries(struct _test_data_group *self, int i, u64 iova, u8 *mem)
{
	return edu_carry(self->bar[i], iova, iova + page_size, mem,
			 mem + page_size);
}

static int sees_first(struct _test_data_group *self, int i)
{
	return carries(self, i, LOW_IOVA, self->mem);
}

static int sees_second(struct _test_data_group *self, int i)
{
	return carries(self, i, HIGH_IOVA, self->mem + 4 * page_size);
}

TEST_F(group, attach_each)
{
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[0]));
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());
	EXPECT_EQ(EDU_CARRIED, sees_first(self, 0));
	/* A group has one HWPT: the other device is attached to the same. */
	EXPECT_EQ(-EINVAL, vfio_attach(self->device[1], self->ioas[1]));
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[0]));
	EXPECT_EQ(EDU_CARRIED, sees_first(self, 1));
	EXPECT_EQ(EDU_CARRIED, sees_first(self, 0));
	EXPECT_EQ(0, sees_second(self, 1));
}

TEST_F(group, replace_moves_all)
{
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[0]));
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[0]));
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[1]));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 0));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 1));
	EXPECT_EQ(0, sees_first(self, 1));
	/* No device uses the first IOAS. */
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, self->ioas[1]));
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, self->ioas[0]));
	/* It is attached there already. */
	EXPECT_EQ(0, vfio_attach(self->device[1], self->ioas[1]));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 1));
}

TEST_F(group, first_leaves)
{
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[0]));
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[0]));
	ASSERT_EQ(0, vfio_detach(self->device[0]));
	EXPECT_EQ(EDU_CARRIED, sees_first(self, 1));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, self->ioas[0]));
	EXPECT_EQ(-EINVAL, vfio_attach(self->device[0], self->ioas[1]));
	/* A device that is attached can move the group. */
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[1]));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 1));
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[1]));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 0));
}

TEST_F(group, last_leaves)
{
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[0]));
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[0]));
	ASSERT_EQ(0, vfio_detach(self->device[1]));
	EXPECT_EQ(EDU_CARRIED, sees_first(self, 0));
	ASSERT_EQ(0, vfio_detach(self->device[0]));
	EXPECT_EQ(0, pinned_kib());
	EXPECT_EQ(0, sees_first(self, 0));
	EXPECT_EQ(0, sees_first(self, 1));
	/* Can be attached elsewhere. */
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[1]));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 1));
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, self->ioas[0]));
}

TEST_F(group, first_closed)
{
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[0]));
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[0]));
	/* Unbind it, too: the attach handle pointed to it. */
	close_device(self, 0);
	EXPECT_EQ(EDU_CARRIED, sees_first(self, 1));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, self->id[1]));
	EXPECT_EQ(-ENOENT, iommufd_destroy(self->iommufd, self->id[0]));
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[1]));
	EXPECT_EQ(EDU_CARRIED, sees_second(self, 1));
}

TEST_F(group, reserved_regions)
{
	struct iommu_iova_range free[32] = {}, used[32] = {}, now[32] = {};
	u32 n_free = 32, n_used = 32, n = 32;

	ASSERT_EQ(0, ioas_iova_ranges(self->iommufd, self->ioas[0], free,
				      &n_free));
	ASSERT_EQ(0, vfio_attach(self->device[0], self->ioas[0]));
	ASSERT_EQ(0, vfio_attach(self->device[1], self->ioas[0]));
	ASSERT_EQ(0, ioas_iova_ranges(self->iommufd, self->ioas[0], used,
				      &n_used));
	EXPECT_LT(n_free, n_used);
	/* Each has reserved regions; the last detach removes them. */
	ASSERT_EQ(0, vfio_detach(self->device[0]));
	ASSERT_EQ(0, ioas_iova_ranges(self->iommufd, self->ioas[0], now, &n));
	EXPECT_EQ(n_used, n);
	EXPECT_EQ(0, memcmp(used, now, sizeof(now)));
	ASSERT_EQ(0, vfio_detach(self->device[1]));
	n = 32;
	memset(now, 0, sizeof(now));
	ASSERT_EQ(0, ioas_iova_ranges(self->iommufd, self->ioas[0], now, &n));
	EXPECT_EQ(n_free, n);
	EXPECT_EQ(0, memcmp(free, now, sizeof(now)));
}

TEST_F(group, other_owner)
{
	int other;
	u32 id;

	/* Devices of a group must not access memory of two contexts. */
	close_device(self, 1);
	other = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, other);
	self->device[1] = open(edus[1].cdev, O_RDWR);
	ASSERT_LE(0, self->device[1]);
	EXPECT_EQ(-EPERM, vfio_bind(self->device[1], other, &id));
	close(self->device[1]);
	self->device[1] = -1;
	close(other);
}

/* Functions of one device: VFIO has no lock that covers both. */
FIXTURE(functions)
{
	int iommufd;
	int device[2];
};

FIXTURE_SETUP(functions)
{
	int i;
	u32 id;

	if (!*functions[0].bdf)
		SKIP(return, "no two functions of a device in one IOMMU group");
	self->iommufd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, self->iommufd);
	for (i = 0; i < 2; i++) {
		self->device[i] = open(functions[i].cdev, O_RDWR);
		ASSERT_LE(0, self->device[i]);
		ASSERT_EQ(0, vfio_bind(self->device[i], self->iommufd, &id));
	}
}

FIXTURE_TEARDOWN(functions)
{
	close(self->device[0]);
	close(self->device[1]);
	close(self->iommufd);
}

#define LEAVE_ROUNDS 1000

struct leaving {
	int device;
	bool urgent;
	long delay_ns, spent_ns;
	pthread_barrier_t *barrier;
	int rc;
};

/* When the SCHED_FIFO thread wakes up it preempts the other, at any place. */
static void *leave(void *arg)
{
	const struct sched_param param = { .sched_priority = 10 };
	struct leaving *l = arg;
	struct timespec ts = { .tv_nsec = l->delay_ns };
	long start;

	if (l->urgent && sched_setscheduler(0, SCHED_FIFO, &param))
		l->rc = -errno;
	pthread_barrier_wait(l->barrier);
	if (l->delay_ns)
		nanosleep(&ts, NULL);
	start = now_ns();
	l->rc = l->rc ?: vfio_detach(l->device);
	l->spent_ns = now_ns() - start;
	return NULL;
}

/*
 * The last detach destroys the automatic HWPT, and the IOAS can be destroyed.
 */
TEST_F(functions, leave_at_once)
{
	pthread_barrier_t barrier;
	struct leaving l[2];
	pthread_t thread[2];
	cpu_set_t set;
	long range = 1000000;
	int i, round;
	u32 ioas;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	ASSERT_EQ(0, sched_setaffinity(0, sizeof(set), &set));
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, 2));
	for (round = 0; round < LEAVE_ROUNDS; round++) {
		ASSERT_EQ(0, ioas_alloc(self->iommufd, &ioas));
		for (i = 0; i < 2; i++) {
			ASSERT_EQ(0, vfio_attach(self->device[i], ioas));
			l[i] = (struct leaving){
				.device = self->device[i],
				.urgent = i,
				.delay_ns = i ? 1 + rand() % range : 0,
				.barrier = &barrier,
			};
		}
		for (i = 0; i < 2; i++)
			ASSERT_EQ(0, pthread_create(&thread[i], NULL, leave,
						    &l[i]));
		for (i = 0; i < 2; i++) {
			pthread_join(thread[i], NULL);
			ASSERT_EQ(0, l[i].rc);
		}
		ASSERT_EQ(0, iommufd_destroy(self->iommufd, ioas))
			TH_LOG("in round %d", round);
		/* To meet the other one, which may wait for it */
		if (l[0].spent_ns < range / 2)
			range -= range / 16;
		else if (l[0].spent_ns > 2 * range)
			range += range / 16;
	}
}

/* Another function of the same device is in the group, too. */
static bool is_function(const char *name)
{
	char path[PATH_MAX];
	int i;

	for (i = 0; i < 8; i++) {
		/* "0000:00:1e.0" */
		snprintf(path, sizeof(path),
			 "/sys/bus/pci/devices/%s/iommu_group/devices/%.*s.%d",
			 name, (int)strlen(name) - 2, name, i);
		if (name[strlen(name) - 1] != '0' + i && !access(path, F_OK))
			return is_in_company(name);
	}
	return false;
}

static bool is_bridged(const char *name)
{
	return is_in_company(name) && !is_function(name);
}

static const struct edu *first;

static bool is_the_other(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path),
		 "/sys/bus/pci/devices/%s/iommu_group/devices/%s", first->bdf,
		 name);
	return is_in_company(name) && strcmp(name, first->bdf) &&
	       !access(path, F_OK);
}

static bool find_pair(struct edu *pair, bool (*match)(const char *name))
{
	const char *devices = "/sys/bus/pci/devices";

	first = &pair[0];
	return find_entry(devices, match, pair[0].bdf, sizeof(pair[0].bdf)) &&
	       find_entry(devices, is_the_other, pair[1].bdf,
			  sizeof(pair[1].bdf));
}

static void give_back(void)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (*functions[i].cdev)
			edu_give_back(&functions[i]);
		if (*edus[i].cdev)
			edu_give_back(&edus[i]);
	}
}

int main(int argc, char **argv)
{
	int i;

	page_size = sysconf(_SC_PAGESIZE);
	if (!find_pair(functions, is_function))
		memset(functions, 0, sizeof(functions));
	if (!find_pair(edus, is_bridged))
		memcpy(edus, functions, sizeof(edus));
	if (!*edus[0].bdf)
		ksft_exit_skip("no two edu devices in one IOMMU group\n");
	atexit(give_back);
	for (i = 0; i < 2; i++) {
		edu_take(&edus[i]);
		if (*functions[i].bdf)
			edu_take(&functions[i]);
	}
	return test_harness_run(argc, argv);
}
