// SPDX-License-Identifier: GPL-2.0-only
/*
 * A PCI device without an IOMMU, by its VFIO cdev. Memory is mapped in an IOAS,
 * which pins it; IOMMU_IOAS_NOIOMMU_GET_PA returns its physical address, which
 * the device uses. And by a group in a container, which cannot map anything.
 *
 * Run QEMU without an IOMMU and with "-device edu,dma_mask=0xffffffffffffffff",
 * and the vfio module with enable_unsafe_noiommu_mode=1. See also vfio_edu.h.
 */
#include <sys/syscall.h>

#include <linux/capability.h>

#include "vfio_edu.h"

static struct edu edu;

static int get_pa(int iommufd, u32 ioas, u64 iova, u64 *length, u64 *pa)
{
	struct iommu_ioas_noiommu_get_pa cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.iova = iova,
		.length = *length,
	};

	if (ioctl(iommufd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd))
		return -errno;
	*length = cmd.length;
	*pa = cmd.out_phys;
	return 0;
}

FIXTURE(noiommu)
{
	int iommufd;
	int device;
	u32 id;
	u32 ioas;
	void *bar;
	size_t bar_size;
	u8 *mem;
};

FIXTURE_SETUP(noiommu)
{
	ASSERT_EQ(0, pinned_kib());
	self->iommufd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, self->iommufd);
	self->device = open(edu.cdev, O_RDWR);
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, vfio_bind(self->device, self->iommufd, &self->id));
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &self->ioas));
	ASSERT_EQ(0, vfio_attach(self->device, self->ioas));
	ASSERT_EQ(0, edu_open_bar(self->device, &self->bar,
				  &self->bar_size));
	self->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill(self->mem, MEM_SIZE, 1);
}

FIXTURE_TEARDOWN(noiommu)
{
	munmap(self->bar, self->bar_size);
	close(self->device);
	close(self->iommufd);
	EXPECT_EQ(0, pinned_kib());
}

TEST_F(noiommu, dma)
{
	u64 length, from = 0, to = 0;
	unsigned int i, n = MEM_SIZE / page_size;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());
	for (i = 0; i < n; i++) {
		u8 *src = self->mem + i * page_size + 16;
		u8 *dst = self->mem + (n - 1 - i) * page_size + 512;

		length = 64;
		ASSERT_EQ(0, get_pa(self->iommufd, self->ioas, LOW_IOVA +
				    (src - self->mem), &length, &from));
		EXPECT_EQ(64, length);
		length = 64;
		ASSERT_EQ(0, get_pa(self->iommufd, self->ioas, LOW_IOVA +
				    (dst - self->mem), &length, &to));
		fill(src, 64, i + 7);
		ASSERT_EQ(0, edu_fetch(self->bar, from, 64));
		ASSERT_EQ(0, edu_store(self->bar, to, 64));
		ASSERT_EQ(0, memcmp(src, dst, 64));
	}
}

TEST_F(noiommu, neighbours)
{
	u64 at = LOW_IOVA, end = LOW_IOVA + MEM_SIZE, length, pa = 0, next = 0;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	/* As far as reported, the next page is contiguous with it. */
	while (at < end) {
		length = UINT64_MAX;
		ASSERT_EQ(0, get_pa(self->iommufd, self->ioas, at, &length,
				    &pa));
		ASSERT_EQ(0, length % page_size);
		ASSERT_LE(at + length, end);
		for (; length; length -= page_size) {
			u64 one = page_size;

			ASSERT_EQ(0, get_pa(self->iommufd, self->ioas, at,
					    &one, &next));
			EXPECT_EQ(page_size, one);
			EXPECT_EQ(pa, next);
			pa += page_size;
			at += page_size;
		}
	}
	/* From within one page to within another */
	length = 3 * page_size;
	ASSERT_EQ(0, get_pa(self->iommufd, self->ioas, LOW_IOVA, &length,
			    &pa));
	length = 8;
	ASSERT_EQ(0, get_pa(self->iommufd, self->ioas, LOW_IOVA + 100, &length,
			    &next));
	EXPECT_EQ(8, length);
	EXPECT_EQ(pa + 100, next);
}

TEST_F(noiommu, errors)
{
	struct iommu_ioas_noiommu_get_pa cmd = {
		.size = sizeof(cmd),
		.flags = 1,
		.ioas_id = self->ioas,
		.iova = LOW_IOVA,
		.length = page_size,
	};
	struct iommu_hw_info info = {
		.size = sizeof(info),
		.dev_id = self->id,
	};
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt),
		.flags = IOMMU_HWPT_ALLOC_NEST_PARENT,
		.dev_id = self->id,
		.pt_id = self->ioas,
	};
	u64 length = page_size, pa;
	u32 other = 0;

	EXPECT_EQ(-ENOENT, get_pa(self->iommufd, self->ioas, LOW_IOVA,
				  &length, &pa));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	EXPECT_EQ(-1, ioctl(self->iommufd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd));
	EXPECT_EQ(EOPNOTSUPP, errno);
	length = 0;
	EXPECT_EQ(-EINVAL, get_pa(self->iommufd, self->ioas, LOW_IOVA,
				  &length, &pa));
	length = page_size;
	EXPECT_EQ(-EOVERFLOW, get_pa(self->iommufd, self->ioas, UINT64_MAX,
				     &length, &pa));
	EXPECT_EQ(-ENOENT, get_pa(self->iommufd, self->id, LOW_IOVA, &length,
				  &pa));
	/* Where no such device is attached, nobody has to know. */
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &other));
	ASSERT_EQ(0, ioas_map(self->iommufd, other, self->mem, page_size,
			      LOW_IOVA));
	EXPECT_EQ(-EOPNOTSUPP, get_pa(self->iommufd, other, LOW_IOVA, &length,
				      &pa));
	EXPECT_EQ(-1, ioctl(self->iommufd, IOMMU_GET_HW_INFO, &info));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, ioctl(self->iommufd, IOMMU_HWPT_ALLOC, &hwpt));
	EXPECT_EQ(EOPNOTSUPP, errno);
}

TEST_F(noiommu, privileged)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct caps[2];
	u64 length = page_size, pa;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	ASSERT_EQ(0, syscall(SYS_capget, &head, caps));
	caps[0].effective &= ~(1U << CAP_SYS_RAWIO);
	ASSERT_EQ(0, syscall(SYS_capset, &head, caps));
	EXPECT_EQ(-EPERM, get_pa(self->iommufd, self->ioas, LOW_IOVA, &length,
				 &pa));
	EXPECT_EQ(-1, open(edu.cdev, O_RDWR));
	EXPECT_EQ(EPERM, errno);
}

TEST_F(noiommu, replace_and_detach)
{
	u64 length = page_size, pa = 0;
	u32 other = 0, hwpt = 0;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &other));
	ASSERT_EQ(0, ioas_map(self->iommufd, other, self->mem, 2 * page_size,
			      HIGH_IOVA));
	ASSERT_EQ(0, vfio_attach(self->device, other));
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());
	EXPECT_EQ(0, get_pa(self->iommufd, other, HIGH_IOVA, &length, &pa));
	EXPECT_EQ(-EOPNOTSUPP, get_pa(self->iommufd, self->ioas, LOW_IOVA,
				      &length, &pa));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, other));
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, self->ioas));

	ASSERT_EQ(0, hwpt_alloc(self->iommufd, self->id, other, &hwpt));
	ASSERT_EQ(0, vfio_attach(self->device, hwpt));
	EXPECT_EQ(0, get_pa(self->iommufd, other, HIGH_IOVA, &length, &pa));
	ASSERT_EQ(0, vfio_detach(self->device));
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, hwpt));
	EXPECT_EQ(0, pinned_kib());
	EXPECT_EQ(-EOPNOTSUPP, get_pa(self->iommufd, other, HIGH_IOVA,
				      &length, &pa));
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, other));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, self->id));
}

TEST_F(noiommu, closed_while_mapped)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	close(self->iommufd);
	self->iommufd = -1;
	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());
}

FIXTURE(container)
{
	int container;
	int group;
};

FIXTURE_SETUP(container)
{
	self->container = open("/dev/vfio/vfio", O_RDWR);
	ASSERT_LE(0, self->container);
	self->group = vfio_open_group(edu.bdf, "noiommu-");
	ASSERT_LE(0, self->group);
}

FIXTURE_TEARDOWN(container)
{
	close(self->group);
	close(self->container);
}

static int set_vfio_ioas(int iommufd, u32 ioas)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.op = IOMMU_VFIO_IOAS_SET,
	};

	return ioctl(iommufd, IOMMU_VFIO_IOAS, &cmd) ? -errno : 0;
}

TEST_F(container, maps_nothing)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.vaddr = (uintptr_t)self,
		.size = page_size,
	};
	struct vfio_iommu_type1_info info = { .argsz = sizeof(info) };
	struct vfio_region_info bar;
	int device;
	u32 value;

	EXPECT_EQ(1, ioctl(self->container, VFIO_CHECK_EXTENSION,
			   VFIO_TYPE1_IOMMU));
	EXPECT_EQ(-1, ioctl(self->container, VFIO_SET_IOMMU,
			    VFIO_NOIOMMU_IOMMU));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(0, ioctl(self->group, VFIO_GROUP_SET_CONTAINER,
			   &self->container));
	EXPECT_EQ(0, ioctl(self->container, VFIO_CHECK_EXTENSION,
			   VFIO_TYPE1_IOMMU));
	EXPECT_EQ(0, ioctl(self->container, VFIO_CHECK_EXTENSION,
			   VFIO_TYPE1v2_IOMMU));
	EXPECT_EQ(1, ioctl(self->container, VFIO_CHECK_EXTENSION,
			   VFIO_NOIOMMU_IOMMU));
	EXPECT_EQ(-1, ioctl(self->container, VFIO_SET_IOMMU,
			    VFIO_TYPE1v2_IOMMU));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(0, ioctl(self->container, VFIO_SET_IOMMU,
			   VFIO_NOIOMMU_IOMMU));

	device = ioctl(self->group, VFIO_GROUP_GET_DEVICE_FD, edu.bdf);
	ASSERT_LE(0, device);
	ASSERT_EQ(0, vfio_region(device, VFIO_PCI_BAR0_REGION_INDEX, &bar));
	ASSERT_EQ(0, vfio_set_command(device, PCI_COMMAND_MEMORY, 0));
	ASSERT_EQ(sizeof(value), pread(device, &value, sizeof(value),
				       bar.offset + EDU_ID));
	EXPECT_EQ(EDU_ID_VALUE, value);
	EXPECT_EQ(-1, ioctl(self->container, VFIO_IOMMU_MAP_DMA, &map));
	EXPECT_EQ(ENODEV, errno);
	EXPECT_EQ(-1, ioctl(self->container, VFIO_IOMMU_GET_INFO, &info));
	EXPECT_EQ(ENODEV, errno);
	close(device);
}

/* A context is with or without an IOMMU, whichever comes first. */
TEST_F(container, not_with_an_ioas)
{
	u32 ioas = 0;

	ASSERT_EQ(0, ioas_alloc(self->container, &ioas));
	ASSERT_EQ(0, set_vfio_ioas(self->container, ioas));
	EXPECT_EQ(-1, ioctl(self->group, VFIO_GROUP_SET_CONTAINER,
			    &self->container));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(container, then_an_ioas)
{
	u32 ioas = 0;

	ASSERT_EQ(0, ioctl(self->group, VFIO_GROUP_SET_CONTAINER,
			   &self->container));
	ASSERT_EQ(0, ioas_alloc(self->container, &ioas));
	ASSERT_EQ(0, set_vfio_ioas(self->container, ioas));
	/* Another device expects translation. */
	EXPECT_EQ(-1, ioctl(self->group, VFIO_GROUP_GET_DEVICE_FD, edu.bdf));
	EXPECT_EQ(EPERM, errno);
}

static void give_back(void)
{
	edu_give_back(&edu);
}

int main(int argc, char **argv)
{
	page_size = sysconf(_SC_PAGESIZE);
	if (!find_entry("/sys/bus/pci/devices", device_has_id, edu.bdf,
			sizeof(edu.bdf)))
		ksft_exit_skip("no edu device (QEMU: -device edu)\n");
	atexit(give_back);
	edu_take(&edu);
	if (!strstr(edu.cdev, "/noiommu-"))
		ksft_exit_skip("%s has an IOMMU\n", edu.bdf);
	return test_harness_run(argc, argv);
}
