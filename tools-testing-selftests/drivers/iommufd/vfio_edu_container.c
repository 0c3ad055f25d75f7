// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA of a PCI device for a program that uses a VFIO container with a group,
 * where /dev/vfio/vfio is provided by iommufd; and change of the process that
 * owns the memory while the device uses it.
 *
 * Run QEMU with an IOMMU, and see vfio_edu.h.
 */
#include <sys/wait.h>

#include "vfio_edu.h"

static struct edu edu;

FIXTURE(container)
{
	int container;
	int group;
	int device;
	void *bar;
	size_t bar_size;
	u8 *mem;
};

FIXTURE_VARIANT(container)
{
	int type;
};

FIXTURE_VARIANT_ADD(container, type1)
{
	.type = VFIO_TYPE1_IOMMU,
};

FIXTURE_VARIANT_ADD(container, type1v2)
{
	.type = VFIO_TYPE1v2_IOMMU,
};

FIXTURE_SETUP(container)
{
	self->container = open("/dev/vfio/vfio", O_RDWR);
	if (self->container < 0)
		SKIP(return, "no container");
	self->group = vfio_open_group(edu.bdf, "");
	ASSERT_LE(0, self->group);
	ASSERT_EQ(0, ioctl(self->group, VFIO_GROUP_SET_CONTAINER,
			   &self->container));
	ASSERT_EQ(0, ioctl(self->container, VFIO_SET_IOMMU, variant->type));
	self->device = ioctl(self->group, VFIO_GROUP_GET_DEVICE_FD, edu.bdf);
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, edu_open_bar(self->device, &self->bar,
				  &self->bar_size));
	self->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill(self->mem, MEM_SIZE, 1);
}

FIXTURE_TEARDOWN(container)
{
	munmap(self->bar, self->bar_size);
	close(self->device);
	close(self->group);
	close(self->container);
	EXPECT_EQ(0, pinned_kib());
}

/* The number of bytes that the device copies from page @from to page @to */
static int carries(void *bar, u8 *mem, u64 iova, int from, int to)
{
	return edu_carry(bar, iova + from * page_size, iova + to * page_size,
			 mem + from * page_size, mem + to * page_size);
}

TEST_F(container, dma)
{
	u64 size = MEM_SIZE;

	EXPECT_EQ(-EINVAL, dma_map(self->container, self->mem, MEM_SIZE,
				   LOW_IOVA, 0));
	ASSERT_EQ(0, dma_map(self->container, self->mem, MEM_SIZE, LOW_IOVA,
			     DMA_RW));
	EXPECT_EQ(-EEXIST, dma_map(self->container, self->mem, page_size,
				   LOW_IOVA + page_size, DMA_RW));
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 0, 15));
	ASSERT_EQ(0, dma_unmap(self->container, LOW_IOVA, &size));
	EXPECT_EQ(MEM_SIZE, size);
	EXPECT_EQ(0, pinned_kib());
	EXPECT_EQ(0, carries(self->bar, self->mem, LOW_IOVA, 0, 15));
}

/* Version 1 unmaps any part of a mapping, version 2 all of it or nothing. */
TEST_F(container, split)
{
	bool splits = variant->type == VFIO_TYPE1_IOMMU;
	u64 size = 2 * page_size;

	ASSERT_EQ(0, dma_map(self->container, self->mem, MEM_SIZE, LOW_IOVA,
			     DMA_RW));
	EXPECT_EQ(splits ? 0 : -ENOENT,
		  dma_unmap(self->container, LOW_IOVA + 6 * page_size, &size));
	EXPECT_EQ(splits ? 2 * page_size : 0, size);
	EXPECT_EQ((MEM_SIZE - size) / 1024, pinned_kib());
	EXPECT_EQ(splits ? 0 : EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 0, 6));
	EXPECT_EQ(splits ? 0 : EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 7, 0));
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 5, 8));
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 15, 0));
	if (!splits)
		return;

	/* Across the hole, and into the two remaining parts */
	size = 6 * page_size;
	EXPECT_EQ(0, dma_unmap(self->container, LOW_IOVA + 4 * page_size,
			       &size));
	EXPECT_EQ(4 * page_size, size);
	EXPECT_EQ(0, carries(self->bar, self->mem, LOW_IOVA, 0, 8));
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 3, 10));
	/* The hole can be mapped again. */
	ASSERT_EQ(0, dma_map(self->container, self->mem + 4 * page_size,
			     6 * page_size, LOW_IOVA + 4 * page_size, DMA_RW));
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 0, 8));
	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());
}

TEST_F(container, unmap_all)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.flags = VFIO_DMA_UNMAP_FLAG_ALL,
	};

	ASSERT_EQ(0, dma_map(self->container, self->mem, 4 * page_size,
			     LOW_IOVA, DMA_RW));
	ASSERT_EQ(0, dma_map(self->container, self->mem, 4 * page_size,
			     HIGH_IOVA, DMA_RW));
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, HIGH_IOVA, 0, 1));
	ASSERT_EQ(0, ioctl(self->container, VFIO_IOMMU_UNMAP_DMA, &unmap));
	EXPECT_EQ(8 * page_size, unmap.size);
	EXPECT_EQ(0, pinned_kib());
	EXPECT_EQ(0, carries(self->bar, self->mem, HIGH_IOVA, 0, 1));
}

/* An iommufd with a memory file mapped, as in a live update of a VMM */
FIXTURE(successor)
{
	int iommufd;
	int device;
	void *bar;
	size_t bar_size;
	u8 *mem;
	u32 id;
	u32 ioas;
};

FIXTURE_SETUP(successor)
{
	struct iommu_ioas_map_file map = {
		.size = sizeof(map),
		.flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA,
		.length = MEM_SIZE,
		.iova = LOW_IOVA,
	};

	self->iommufd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, self->iommufd);
	self->device = open(edu.cdev, O_RDWR);
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, vfio_bind(self->device, self->iommufd, &self->id));
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &self->ioas));
	ASSERT_EQ(0, vfio_attach(self->device, self->ioas));
	ASSERT_EQ(0, edu_open_bar(self->device, &self->bar,
				  &self->bar_size));
	map.fd = memfd_create("successor", MFD_CLOEXEC);
	ASSERT_LE(0, map.fd);
	ASSERT_EQ(0, ftruncate(map.fd, MEM_SIZE));
	self->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
			 map.fd, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	map.ioas_id = self->ioas;
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_IOAS_MAP_FILE, &map));
	close(map.fd);
}

FIXTURE_TEARDOWN(successor)
{
	munmap(self->bar, self->bar_size);
	close(self->device);
	close(self->iommufd);
	EXPECT_EQ(0, pinned_kib());
}

TEST_F(successor, takes_over)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };
	int status;
	pid_t pid;

	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 0, 9));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		/*
		 * Nothing is charged to this process before it becomes the
		 * owner.
		 */
		if (pinned_kib() ||
		    ioctl(self->iommufd, IOMMU_IOAS_CHANGE_PROCESS, &cmd) ||
		    pinned_kib() != (long)MEM_SIZE / 1024 ||
		    carries(self->bar, self->mem, LOW_IOVA, 3, 12) !=
			    EDU_CARRIED)
			_exit(1);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, pinned_kib());
	/* The device still has access after its exit. */
	EXPECT_EQ(EDU_CARRIED,
		  carries(self->bar, self->mem, LOW_IOVA, 15, 1));
}

TEST_F(successor, memory_without_file)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };
	void *own = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u64 length = page_size;

	/* Anonymous memory cannot change its owner. */
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, own, page_size,
			      HIGH_IOVA));
	EXPECT_EQ(-1, ioctl(self->iommufd, IOMMU_IOAS_CHANGE_PROCESS, &cmd));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(0, ioas_unmap(self->iommufd, self->ioas, HIGH_IOVA,
				&length));
	EXPECT_EQ(0, ioctl(self->iommufd, IOMMU_IOAS_CHANGE_PROCESS, &cmd));
}

static void give_back(void)
{
	edu_give_back(&edu);
}

int main(int argc, char **argv)
{
	page_size = sysconf(_SC_PAGESIZE);
	if (!find_entry("/sys/bus/pci/devices", is_alone, edu.bdf,
			sizeof(edu.bdf)))
		ksft_exit_skip("no edu device (QEMU: -device edu) with an IOMMU\n");
	atexit(give_back);
	edu_take(&edu);
	return test_harness_run(argc, argv);
}
