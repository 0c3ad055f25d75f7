// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA of one PCI device into the BAR of another one, which a VFIO container
 * maps by its address: where it arrives, and that it ends and comes back with
 * the memory of that device. /dev/vfio/vfio must be provided by iommufd.
 *
 * Run QEMU with an IOMMU, two edu devices in groups of their own or, for the
 * second, with a third one, and "-device e1000e", whose registers are in many
 * pages and which has a reset. See vfio_edu.h.
 */
#include <sys/wait.h>

#include "vfio_edu.h"

#define NIC_VENDOR 0x8086
#define NIC_DEVICE 0x10d3
/* A register of 32 bits for any value, the low half of a MAC address */
#define NIC_RAL8 0x5440
#define NIC_PAGE (NIC_RAL8 & ~(page_size - 1))
#define NIC_OFFSET (NIC_RAL8 & (page_size - 1))

static struct edu edu, mates[2], nic;

struct target {
	int group;
	int device;
	void *bar;
	size_t bar_size;
};

FIXTURE(bar)
{
	int container;
	struct target edu;
	struct target nic;
	u8 *mem;
	int log;
};

FIXTURE_VARIANT(bar)
{
	int type;
};

FIXTURE_VARIANT_ADD(bar, type1)
{
	.type = VFIO_TYPE1_IOMMU,
};

FIXTURE_VARIANT_ADD(bar, type1v2)
{
	.type = VFIO_TYPE1v2_IOMMU,
};

static int join(struct target *target, const struct edu *edu, int container)
{
	target->group = vfio_open_group(edu->bdf, "");
	if (target->group < 0)
		return target->group;
	return ioctl(target->group, VFIO_GROUP_SET_CONTAINER, &container) ?
		       -errno : 0;
}

static int get_device(struct target *target, const struct edu *edu)
{
	target->device = ioctl(target->group, VFIO_GROUP_GET_DEVICE_FD,
			       edu->bdf);
	if (target->device < 0)
		return -errno;
	return edu_open_bar(target->device, &target->bar, &target->bar_size);
}

static void put_device(struct target *target)
{
	munmap(target->bar, target->bar_size);
	close(target->device);
}

FIXTURE_SETUP(bar)
{
	self->container = open("/dev/vfio/vfio", O_RDWR);
	if (self->container < 0)
		SKIP(return, "no container");
	ASSERT_EQ(0, join(&self->edu, &edu, self->container));
	ASSERT_EQ(0, ioctl(self->container, VFIO_SET_IOMMU, variant->type));
	ASSERT_EQ(0, join(&self->nic, &nic, self->container));
	ASSERT_EQ(0, get_device(&self->edu, &edu));
	ASSERT_EQ(0, get_device(&self->nic, &nic));
	self->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	ASSERT_EQ(0, dma_map(self->container, self->mem, MEM_SIZE, LOW_IOVA,
			     DMA_RW));
	self->log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
	ASSERT_LE(0, self->log);
	lseek(self->log, 0, SEEK_END);
}

FIXTURE_TEARDOWN(bar)
{
	close(self->log);
	put_device(&self->nic);
	put_device(&self->edu);
	close(self->nic.group);
	close(self->edu.group);
	close(self->container);
	EXPECT_EQ(0, pinned_kib());
}

static u32 new_value(void)
{
	static u32 x = 0x3c5a1e0f;

	return x = x * 1664525 + 1013904223;
}

/* What edu reads at @iova */
static u32 peek(void *edu, u8 *mem, u64 iova)
{
	u32 *value = (u32 *)mem;

	/* Something else in its buffer, if nothing comes */
	*value = new_value();
	if (edu_fetch(edu, LOW_IOVA, 4) || edu_fetch(edu, iova, 4) ||
	    edu_store(edu, LOW_IOVA, 4))
		return 0;
	return *value;
}

static int poke(void *edu, u8 *mem, u64 iova, u32 value)
{
	*(u32 *)mem = value;
	return edu_fetch(edu, LOW_IOVA, 4) ?: edu_store(edu, iova, 4);
}

/*
 * edu writes to the register of the NIC at @iova, and reads it: how many of the
 * two succeed. Exactly one is an error.
 */
static int reaches(void *edu, u8 *mem, u64 iova, void *nic)
{
	u32 value = new_value();
	int n = 0;

	if (poke(edu, mem, iova, value))
		return -ETIMEDOUT;
	n += readl(nic + NIC_RAL8) == value;
	value = new_value();
	writel(value, nic + NIC_RAL8);
	n += peek(edu, mem, iova) == value;
	return n;
}

#define REACHES(_iova)                                            \
	reaches(self->edu.bar, self->mem, (_iova) + NIC_OFFSET, \
		self->nic.bar)

/*
 * The faults that the kernel's log has of @iova, since the last call. With
 * @wait, for up to two seconds until there is one: they are logged by a thread.
 */
static int faults(int log, u64 iova, bool wait)
{
	char line[8192], address[32];
	int tries = wait ? 200 : 0, n = 0;
	ssize_t len;

	snprintf(address, sizeof(address), "%llx",
		 (unsigned long long)iova >> 12);
	for (;;) {
		len = read(log, line, sizeof(line) - 1);
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0) {
			if (n || !tries--)
				return n;
			sleep_ms(10);
			continue;
		}
		line[len] = 0;
		n += strstr(line, address) &&
		     (strcasestr(line, "fault") || strstr(line, "F_"));
	}
}

static int nic_command(struct target *nic, bool memory)
{
	return vfio_set_command(nic->device, memory ? PCI_COMMAND_MEMORY : 0,
				memory ? 0 : PCI_COMMAND_MEMORY);
}

TEST_F(bar, part)
{
	u64 size = 2 * page_size;

	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE, size,
			     HIGH_IOVA, DMA_RW));
	/* A BAR is not charged to the process. */
	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
	EXPECT_EQ(-EEXIST, dma_map(self->container, self->nic.bar, page_size,
				   HIGH_IOVA + page_size, DMA_RW));
	ASSERT_EQ(0, dma_unmap(self->container, HIGH_IOVA, &size));
	EXPECT_EQ(2 * page_size, size);
	EXPECT_EQ(0, REACHES(HIGH_IOVA));
}

TEST_F(bar, whole)
{
	ASSERT_EQ(0, dma_map(self->container, self->nic.bar,
			     self->nic.bar_size, HIGH_IOVA, DMA_RW));
	EXPECT_EQ(2, REACHES(HIGH_IOVA + NIC_PAGE));
}

TEST_F(bar, misaligned)
{
	EXPECT_EQ(-EINVAL, dma_map(self->container, self->nic.bar + 8,
				   page_size, HIGH_IOVA, DMA_RW));
	EXPECT_EQ(-EINVAL, dma_map(self->container, self->nic.bar,
				   page_size - 8, HIGH_IOVA, DMA_RW));
	EXPECT_EQ(-EINVAL, dma_map(self->container, self->nic.bar, page_size,
				   HIGH_IOVA + 8, DMA_RW));
	/* Up to the end of the VMA, and behind it */
	EXPECT_EQ(0, dma_map(self->container,
			     self->nic.bar + self->nic.bar_size - page_size,
			     page_size, HIGH_IOVA, DMA_RW));
}

TEST_F(bar, disabled)
{
	int logged, i;

	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE,
			     page_size, HIGH_IOVA, DMA_RW));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));

	/*
	 * Find out whether this IOMMU's faults are logged: few in 5 seconds,
	 * so do not count those of other tests.
	 */
	sleep(6);
	ASSERT_EQ(0, poke(self->edu.bar, self->mem, HIGH_IOVA + 15 * page_size,
			  0));
	logged = !!faults(self->log, HIGH_IOVA + 15 * page_size, true);
	if (!logged)
		TH_LOG("faults are not logged");

	/* It can go and come any number of times. */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, nic_command(&self->nic, false));
		EXPECT_EQ(-EFAULT, dma_map(self->container, self->nic.bar,
					   page_size, HIGH_IOVA + page_size,
					   DMA_RW));
		ASSERT_EQ(0, poke(self->edu.bar, self->mem,
				  HIGH_IOVA + NIC_OFFSET, 0));
		EXPECT_LE(logged, faults(self->log, HIGH_IOVA, logged));

		ASSERT_EQ(0, nic_command(&self->nic, true));
		EXPECT_EQ(2, REACHES(HIGH_IOVA));
		EXPECT_EQ(0, faults(self->log, HIGH_IOVA, false));
		sleep(6);
	}
}

TEST_F(bar, unmapped_while_disabled)
{
	u64 size = page_size;

	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE,
			     page_size, HIGH_IOVA, DMA_RW));
	ASSERT_EQ(0, nic_command(&self->nic, false));
	ASSERT_EQ(0, dma_unmap(self->container, HIGH_IOVA, &size));
	EXPECT_EQ(page_size, size);
	ASSERT_EQ(0, nic_command(&self->nic, true));
	EXPECT_EQ(0, REACHES(HIGH_IOVA));
}

TEST_F(bar, reset)
{
	int i;

	ASSERT_EQ(0, dma_map(self->container, self->nic.bar,
			     self->nic.bar_size, HIGH_IOVA, DMA_RW));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(2, REACHES(HIGH_IOVA + NIC_PAGE));
		ASSERT_EQ(0, ioctl(self->nic.device, VFIO_DEVICE_RESET));
		/* Its value of before is gone. */
		EXPECT_EQ(readl(self->nic.bar + NIC_RAL8),
			  peek(self->edu.bar, self->mem,
			       HIGH_IOVA + NIC_RAL8));
		EXPECT_EQ(2, REACHES(HIGH_IOVA + NIC_PAGE));
	}
}

/* Unlike with VFIO's type1, the mapping ends. */
TEST_F(bar, device_closed)
{
	u64 size = page_size;

	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE, size,
			     HIGH_IOVA, DMA_RW));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
	put_device(&self->nic);
	ASSERT_EQ(0, get_device(&self->nic, &nic));
	EXPECT_EQ(0, REACHES(HIGH_IOVA));
	ASSERT_EQ(0, ioctl(self->nic.device, VFIO_DEVICE_RESET));
	EXPECT_EQ(0, REACHES(HIGH_IOVA));
	/* Another mapping of it works, in its place, too. */
	EXPECT_EQ(-EEXIST, dma_map(self->container, self->nic.bar + NIC_PAGE,
				   page_size, HIGH_IOVA, DMA_RW));
	ASSERT_EQ(0, dma_unmap(self->container, HIGH_IOVA, &size));
	EXPECT_EQ(page_size, size);
	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE, size,
			     HIGH_IOVA, DMA_RW));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
}

TEST_F(bar, container_closed)
{
	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE,
			     page_size, HIGH_IOVA, DMA_RW));
	close(self->container);
	close(self->nic.group);
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
	ASSERT_EQ(0, ioctl(self->nic.device, VFIO_DEVICE_RESET));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
	self->container = -1;
	self->nic.group = -1;
}

/* Version 1 unmaps any part of a mapping, version 2 all of it or nothing. */
TEST_F(bar, cut)
{
	bool splits = variant->type == VFIO_TYPE1_IOMMU;
	u64 size = 2 * page_size, rest;
	int i;

	ASSERT_EQ(0, dma_map(self->container, self->nic.bar, 8 * page_size,
			     HIGH_IOVA, DMA_RW));
	EXPECT_EQ(splits ? 0 : -ENOENT,
		  dma_unmap(self->container, HIGH_IOVA + 2 * page_size, &size));
	EXPECT_EQ(splits ? 2 * page_size : 0, size);
	rest = 8 * page_size - size;
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(2, REACHES(HIGH_IOVA + NIC_PAGE));
		/* The status register, in the first page */
		EXPECT_EQ(readl(self->nic.bar + 8),
			  peek(self->edu.bar, self->mem, HIGH_IOVA + 8));
		/* Each part comes back. */
		ASSERT_EQ(0, nic_command(&self->nic, false));
		ASSERT_EQ(0, nic_command(&self->nic, true));
	}
	if (splits) {
		/* Another page in the hole, then cut while it is revoked */
		ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE,
				     page_size, HIGH_IOVA + 2 * page_size,
				     DMA_RW));
		EXPECT_EQ(2, REACHES(HIGH_IOVA + 2 * page_size));
		ASSERT_EQ(0, nic_command(&self->nic, false));
		size = page_size;
		ASSERT_EQ(0, dma_unmap(self->container,
				       HIGH_IOVA + 6 * page_size, &size));
		EXPECT_EQ(page_size, size);
		ASSERT_EQ(0, nic_command(&self->nic, true));
		EXPECT_EQ(2, REACHES(HIGH_IOVA + 2 * page_size));
		EXPECT_EQ(2, REACHES(HIGH_IOVA + NIC_PAGE));
	}
	size = 8 * page_size;
	EXPECT_EQ(0, dma_unmap(self->container, HIGH_IOVA, &size));
	EXPECT_EQ(rest, size);
	EXPECT_EQ(0, REACHES(HIGH_IOVA + NIC_PAGE));
}

/* Memory on both sides of a BAR, which VFIO's type1 maps as well */
TEST_F(bar, among_memory)
{
	u64 size = 5 * page_size;
	u8 *mem;

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(mem + page_size,
		  mremap(self->nic.bar + NIC_PAGE, 2 * page_size, 2 * page_size,
			 MREMAP_MAYMOVE | MREMAP_FIXED, mem + page_size));
	EXPECT_EQ(0, dma_map(self->container, mem, size, HIGH_IOVA, DMA_RW));
	EXPECT_EQ((MEM_SIZE + 3 * page_size) / 1024, pinned_kib());
	EXPECT_EQ(EDU_CARRIED, edu_carry(self->edu.bar, HIGH_IOVA,
					 HIGH_IOVA + 3 * page_size, mem,
					 mem + 3 * page_size));
	EXPECT_EQ(EDU_CARRIED, edu_carry(self->edu.bar,
					 HIGH_IOVA + 4 * page_size, LOW_IOVA,
					 mem + 4 * page_size, self->mem));
	EXPECT_EQ(2, reaches(self->edu.bar, self->mem,
			     HIGH_IOVA + page_size + NIC_OFFSET,
			     mem + page_size - NIC_PAGE));
	/* All of it or nothing */
	EXPECT_EQ(-EEXIST, dma_map(self->container, mem, size,
				   HIGH_IOVA - page_size, DMA_RW));
	EXPECT_EQ(0, dma_unmap(self->container, HIGH_IOVA, &size));
	EXPECT_EQ(5 * page_size, size);
	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());

	/* A hole behind it */
	ASSERT_EQ(0, munmap(mem + 3 * page_size, page_size));
	EXPECT_EQ(-EFAULT, dma_map(self->container, mem, 4 * page_size,
				   HIGH_IOVA, DMA_RW));
	EXPECT_EQ(MEM_SIZE / 1024, pinned_kib());
	munmap(mem, 5 * page_size);
}

TEST_F(bar, vma_gone)
{
	struct vfio_region_info info;
	void *other;

	ASSERT_EQ(0, vfio_region(self->nic.device, VFIO_PCI_BAR0_REGION_INDEX,
				 &info));
	other = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		     self->nic.device, info.offset + NIC_PAGE);
	ASSERT_NE(MAP_FAILED, other);
	ASSERT_EQ(0, dma_map(self->container, other, page_size, HIGH_IOVA,
			     DMA_RW));
	ASSERT_EQ(0, munmap(other, 2 * page_size));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
	EXPECT_EQ(-EFAULT, dma_map(self->container, other, page_size,
				   HIGH_IOVA + page_size, DMA_RW));
	ASSERT_EQ(0, ioctl(self->nic.device, VFIO_DEVICE_RESET));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
}

/* The VMA of a child, which is a copy */
TEST_F(bar, forked)
{
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(dma_map(self->container, self->nic.bar + NIC_PAGE,
			      page_size, HIGH_IOVA, DMA_RW) ? 1 : 0);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
}

TEST_F(bar, read_only)
{
	u32 value = new_value();

	ASSERT_EQ(0, mprotect(self->nic.bar + NIC_PAGE, page_size, PROT_READ));
	EXPECT_EQ(-EFAULT, dma_map(self->container, self->nic.bar + NIC_PAGE,
				   page_size, HIGH_IOVA, DMA_RW));
	/* The VMAs of the BAR are three now. */
	EXPECT_EQ(-EFAULT, dma_map(self->container, self->nic.bar,
				   8 * page_size, HIGH_IOVA, DMA_RW));
	ASSERT_EQ(0, dma_map(self->container, self->nic.bar, 8 * page_size,
			     HIGH_IOVA, VFIO_DMA_MAP_FLAG_READ));
	ASSERT_EQ(0, mprotect(self->nic.bar + NIC_PAGE, page_size,
			      PROT_READ | PROT_WRITE));
	writel(value, self->nic.bar + NIC_RAL8);
	EXPECT_EQ(value, peek(self->edu.bar, self->mem, HIGH_IOVA + NIC_RAL8));
	ASSERT_EQ(0, poke(self->edu.bar, self->mem, HIGH_IOVA + NIC_RAL8,
			  ~value));
	EXPECT_EQ(value, readl(self->nic.bar + NIC_RAL8));
	/* Still so after it has come back */
	ASSERT_EQ(0, nic_command(&self->nic, false));
	ASSERT_EQ(0, nic_command(&self->nic, true));
	EXPECT_EQ(value, peek(self->edu.bar, self->mem, HIGH_IOVA + NIC_RAL8));
	ASSERT_EQ(0, poke(self->edu.bar, self->mem, HIGH_IOVA + NIC_RAL8,
			  ~value));
	EXPECT_EQ(value, readl(self->nic.bar + NIC_RAL8));
}

/* IOMMU_IOAS_MAP maps memory only. IOMMU_IOAS_COPY copies what is mapped. */
TEST_F(bar, native)
{
	struct iommu_vfio_ioas get = {
		.size = sizeof(get),
		.op = IOMMU_VFIO_IOAS_GET,
	};
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy),
		.flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA,
		.length = page_size,
		.dst_iova = HIGH_IOVA + page_size,
		.src_iova = HIGH_IOVA,
	};

	ASSERT_EQ(0, ioctl(self->container, IOMMU_VFIO_IOAS, &get));
	EXPECT_EQ(-EFAULT, ioas_map(self->container, get.ioas_id,
				    self->nic.bar + NIC_PAGE, page_size,
				    HIGH_IOVA));
	ASSERT_EQ(0, dma_map(self->container, self->nic.bar + NIC_PAGE,
			     page_size, HIGH_IOVA, DMA_RW));
	copy.src_ioas_id = get.ioas_id;
	copy.dst_ioas_id = get.ioas_id;
	ASSERT_EQ(0, ioctl(self->container, IOMMU_IOAS_COPY, &copy));
	ASSERT_EQ(0, ioctl(self->nic.device, VFIO_DEVICE_RESET));
	EXPECT_EQ(2, REACHES(HIGH_IOVA));
	EXPECT_EQ(2, REACHES(HIGH_IOVA + page_size));
}

/* Two devices of one kind do DMA into each other's BAR. */
TEST_F(bar, each_other)
{
	struct target mate;
	u64 iovas[2] = { HIGH_IOVA, HIGH_IOVA + (16UL << 20) };
	struct target *all[2] = { &self->edu, &mate };
	int i;

	if (!*mates[0].cdev)
		SKIP(return, "no other edu device");
	ASSERT_EQ(0, join(&mate, &mates[0], self->container));
	ASSERT_EQ(0, get_device(&mate, &mates[0]));
	for (i = 0; i < 2; i++)
		ASSERT_EQ(0, dma_map(self->container, all[i]->bar,
				     all[i]->bar_size, iovas[i], DMA_RW));
	for (i = 0; i < 4; i++) {
		struct target *from = all[i % 2], *to = all[!(i % 2)];
		u64 iova = iovas[!(i % 2)];
		u32 value = new_value();

		EXPECT_EQ(EDU_ID_VALUE, peek(from->bar, self->mem,
					     iova + EDU_ID));
		EXPECT_EQ(0, poke(from->bar, self->mem, iova + EDU_LIVENESS,
				  value));
		/* The device inverts it. */
		EXPECT_EQ(~value, readl(to->bar + EDU_LIVENESS));
		EXPECT_EQ(~value, peek(from->bar, self->mem,
				       iova + EDU_LIVENESS));
		/* Its memory goes and comes back before the second round. */
		ASSERT_EQ(0, vfio_set_command(to->device, 0,
					      PCI_COMMAND_MEMORY));
		ASSERT_EQ(0, vfio_set_command(to->device, PCI_COMMAND_MEMORY,
					      0));
	}
	put_device(&mate);
	close(mate.group);
}

static bool is_nic(const char *name)
{
	return has_id(name, NIC_VENDOR, NIC_DEVICE);
}

static bool is_mate(const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path),
		 "/sys/bus/pci/devices/%s/iommu_group/devices/%s",
		 mates[0].bdf, name);
	return is_in_company(name) && strcmp(name, mates[0].bdf) &&
	       !access(path, F_OK);
}

static void give_back(void)
{
	edu_give_back(&edu);
	edu_give_back(&nic);
	if (*mates[0].cdev)
		edu_give_back(&mates[0]);
	if (*mates[1].cdev)
		edu_give_back(&mates[1]);
}

int main(int argc, char **argv)
{
	const char *devices = "/sys/bus/pci/devices";

	page_size = sysconf(_SC_PAGESIZE);
	if (!find_entry(devices, is_alone, edu.bdf, sizeof(edu.bdf)))
		ksft_exit_skip("no edu device (QEMU: -device edu) with an IOMMU\n");
	if (!find_entry(devices, is_nic, nic.bdf, sizeof(nic.bdf)))
		ksft_exit_skip("no e1000e device (QEMU: -device e1000e)\n");
	atexit(give_back);
	edu_take(&edu);
	edu_take(&nic);
	if (find_entry(devices, is_in_company, mates[0].bdf,
		       sizeof(mates[0].bdf)) &&
	    find_entry(devices, is_mate, mates[1].bdf, sizeof(mates[1].bdf))) {
		edu_take(&mates[0]);
		edu_take(&mates[1]);
	}
	return test_harness_run(argc, argv);
}
