// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA of an emulated PCI device through iommufd.
 *
 * QEMU's "edu" device has a DMA engine that copies between the bus and a 4 KiB
 * buffer in the device. User space drives it through the cdev of vfio-pci.
 * iommufd decides which memory the device can access, the IOMMU enforces it,
 * and the content of the memory shows the result. Each test opens the device
 * and releases everything at its end.
 *
 * Run QEMU with an IOMMU, and see vfio_edu.h.
 */
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "vfio_edu.h"

static struct edu edu;

static bool is_vtd(const char *name)
{
	return !strncmp(name, "dmar", 4);
}

static bool is_smmuv3(const char *name)
{
	return !strncmp(name, "smmu3.", 6);
}

/* The kernel log, for faults that the IOMMU reports */

static int kmsg_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);

	if (fd >= 0)
		lseek(fd, 0, SEEK_END);
	return fd;
}

/* A line of VT-d about a @direction ("Read", "Write") access to the page */
static bool is_vtd_fault(const char *line, const char *direction, u64 page)
{
	char addr[64], access[32], source[32];

	snprintf(access, sizeof(access), "[DMA %s ", direction);
	/* With or without the segment before it */
	snprintf(source, sizeof(source), "%s]", strchr(edu.bdf, ':') + 1);
	snprintf(addr, sizeof(addr), "fault addr 0x%llx ",
		 (unsigned long long)page);
	return strstr(line, access) && strstr(line, source) &&
	       strstr(line, addr);
}

/* A line of SMMUv3; the next line has the direction. */
static bool is_smmuv3_fault(const char *line, u64 page)
{
	const char *iova = strstr(line, " iova: ");
	char event[64];

	snprintf(event, sizeof(event), "F_TRANSLATION client: %s ", edu.bdf);
	return iova && strstr(line, event) &&
	       (strtoull(iova + 7, NULL, 16) & ~(page_size - 1)) == page;
}

/*
 * Wait for the IOMMU's report of a @direction access of our device to the page
 * of @iova, which comes by an interrupt after the access.
 */
static bool kmsg_has_fault(int fd, const char *direction, u64 iova)
{
	u64 page = iova & ~(page_size - 1);
	char line[1024];
	int tries = 300;
	ssize_t n;

	while (tries) {
		n = read(fd, line, sizeof(line) - 1);
		if (n < 0) {
			/*
			 * EPIPE: lines were overwritten before they were read.
			 */
			if (errno != EAGAIN && errno != EPIPE)
				return false;
			sleep_ms(10);
			tries--;
			continue;
		}
		line[n] = 0;
		if (is_vtd_fault(line, direction, page) ||
		    is_smmuv3_fault(line, page))
			return true;
	}
	return false;
}

/*
 * A device that is bound to an iommufd and attached to an empty IOAS, and
 * memory that is not mapped yet.
 */
FIXTURE(edu)
{
	int iommufd;
	int device;
	int kmsg;
	u32 device_id;
	u32 ioas;
	size_t bar_size;
	void *bar;
	u8 *mem;
};

FIXTURE_SETUP(edu)
{
	ASSERT_EQ(0, pinned_kib());

	self->kmsg = kmsg_open();
	ASSERT_LE(0, self->kmsg);

	self->iommufd = open("/dev/iommu", O_RDWR);
	ASSERT_LE(0, self->iommufd);
	self->device = open(edu.cdev, O_RDWR);
	ASSERT_LE(0, self->device);
	ASSERT_EQ(0, vfio_bind(self->device, self->iommufd, &self->device_id));
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &self->ioas));
	ASSERT_EQ(0, vfio_attach(self->device, self->ioas));

	ASSERT_EQ(0, edu_open_bar(self->device, &self->bar,
				  &self->bar_size));

	self->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->mem);
	fill(self->mem, MEM_SIZE, 1);
}

static void edu_close(struct _test_data_edu *self)
{
	munmap(self->bar, self->bar_size);
	close(self->device);
	close(self->iommufd);
}

FIXTURE_TEARDOWN(edu)
{
	edu_close(self);
	close(self->kmsg);
	EXPECT_EQ(0, pinned_kib());
}

/*
 * The device copies @count bytes from one IOVA to another; @from and @to are
 * the addresses of the CPU. The bytes around the destination must not change.
 */
static void check_copy(struct __test_metadata *_metadata,
		       struct _test_data_edu *self, u64 from_iova,
		       u64 to_iova, u8 *from, u8 *to,
		       size_t count)
{
	size_t start = to - self->mem;
	u8 *want;

	/* New bytes, different from those of earlier rounds */
	fill(from, count, count + start);
	want = malloc(MEM_SIZE);
	ASSERT_NE(NULL, want);
	memcpy(want, self->mem, MEM_SIZE);
	memcpy(want + start, from, count);

	ASSERT_EQ(0, edu_fetch(self->bar, from_iova, count));
	ASSERT_EQ(0, edu_store(self->bar, to_iova, count));
	ASSERT_EQ(0, memcmp(want, self->mem, MEM_SIZE));
	free(want);
}

/* A write by the device to @iova must not reach the memory. */
static void check_store_refused(struct __test_metadata *_metadata,
				struct _test_data_edu *self, u64 iova)
{
	u8 *before;

	before = malloc(MEM_SIZE);
	ASSERT_NE(NULL, before);
	memcpy(before, self->mem, MEM_SIZE);
	ASSERT_EQ(0, edu_store(self->bar, iova, 64));
	ASSERT_EQ(0, memcmp(before, self->mem, MEM_SIZE));
	free(before);
}

/*
 * A read by the device at @iova, whose memory has the bytes @secret, must not
 * get them. The device writes what it has read to @window, mapped at
 * @window_iova.
 */
static void check_fetch_refused(struct __test_metadata *_metadata,
				struct _test_data_edu *self, u64 iova,
				u8 *secret, u64 window_iova,
				u8 *window)
{
	fill_high(secret, 64, 42);
	fill_low(window, 64, 43);
	/* First fill the buffer with other bytes. */
	ASSERT_EQ(0, edu_fetch(self->bar, window_iova, 64));
	ASSERT_EQ(0, edu_fetch(self->bar, iova, 64));
	ASSERT_EQ(0, edu_store(self->bar, window_iova, 64));
	/* Not one of them. */
	ASSERT_EQ(0, bytes_seen(window, secret, 64));
}

TEST_F(edu, registers)
{
	EXPECT_EQ(EDU_ID_VALUE, readl(self->bar + EDU_ID));
	writel(0x12345678, self->bar + EDU_LIVENESS);
	EXPECT_EQ(~0x12345678, readl(self->bar + EDU_LIVENESS));
}

TEST_F(edu, both_ways)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + 4 * page_size,
		   self->mem, self->mem + 4 * page_size, EDU_BUF_SIZE);
}

TEST_F(edu, offsets)
{
	static const struct {
		size_t from;
		size_t to;
		size_t count;
	} cases[] = {
		{ 0, 4096, 1 },
		{ 4095, 8191, 2 },
		{ 1, 12289, EDU_BUF_SIZE },
		{ 3 * 4096 + 123, 8 * 4096 + 4093, 7 },
		{ 10 * 4096 - 64, 5 * 4096 - 2048, EDU_BUF_SIZE },
	};
	int i;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		check_copy(_metadata, self, LOW_IOVA + cases[i].from,
			   LOW_IOVA + cases[i].to, self->mem + cases[i].from,
			   self->mem + cases[i].to, cases[i].count);
}

/*
 * The kernel limits the number of reports in five seconds. After many faults,
 * wait and try again.
 */
static bool is_reported(void *bar, int kmsg, bool store, u64 iova)
{
	int i;

	for (i = 0; i < 5; i++) {
		if (i)
			sleep(6);
		if (store ? edu_store(bar, iova, 64) : edu_fetch(bar, iova, 64))
			return false;
		if (kmsg_has_fault(kmsg, store ? "Write" : "Read", iova))
			return true;
	}
	return false;
}

TEST_F(edu, fault_report)
{
	char name[NAME_MAX + 1];

	/* Other IOMMUs report in other words. */
	if (!find_entry("/sys/class/iommu", is_vtd, name, sizeof(name)) &&
	    !find_entry("/sys/class/iommu", is_smmuv3, name, sizeof(name)))
		SKIP(return, "neither a VT-d nor an SMMUv3");
	ASSERT_TRUE(is_reported(self->bar, self->kmsg, true,
				HIGH_IOVA + page_size));
	ASSERT_TRUE(is_reported(self->bar, self->kmsg, false, LOW_IOVA));
}

TEST_F(edu, above_4g)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      HIGH_IOVA));
	check_copy(_metadata, self, HIGH_IOVA + page_size - 16,
		   HIGH_IOVA + 7 * page_size, self->mem + page_size - 16,
		   self->mem + 7 * page_size, 256);
	/* Its low half alone is not mapped. */
	check_store_refused(_metadata, self, (u32)HIGH_IOVA);
}

TEST_F(edu, last_iova)
{
	u64 last = 0, iova;

	ASSERT_EQ(0, ioas_last_iova(self->iommufd, self->ioas, &last));
	ASSERT_LT(UINT32_MAX, last);
	iova = last - 2 * page_size + 1;
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, iova));
	check_copy(_metadata, self, iova, iova + 2 * page_size - 100, self->mem,
		   self->mem + 2 * page_size - 100, 100);
}

TEST_F(edu, scattered)
{
	static const int order[] = { 5, 2, 11, 8 };
	int i;

	/* Contiguous in IOVA, but not in memory */
	for (i = 0; i < ARRAY_SIZE(order); i++)
		ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas,
				      self->mem + order[i] * page_size,
				      page_size, LOW_IOVA + i * page_size));
	for (i = 0; i < ARRAY_SIZE(order); i++)
		fill(self->mem + order[i] * page_size, page_size, 100 + i);

	/* From the end of the first one on: page 5, then page 2 */
	ASSERT_EQ(0, edu_fetch(self->bar, LOW_IOVA + page_size - 100, 200));
	ASSERT_EQ(0, edu_store(self->bar, LOW_IOVA + 3 * page_size - 50, 200));
	EXPECT_EQ(0, memcmp(self->mem + 12 * page_size - 50,
			    self->mem + 6 * page_size - 100, 50));
	EXPECT_EQ(0, memcmp(self->mem + 8 * page_size,
			    self->mem + 6 * page_size - 50, 50));
	EXPECT_EQ(0, memcmp(self->mem + 8 * page_size + 50,
			    self->mem + 2 * page_size, 100));
}

TEST_F(edu, large)
{
	const size_t length = 8UL << 20;
	u8 *big;
	size_t i;

	big = mmap(NULL, 2 * length, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, big);
	/* Huge pages in the middle, if there are any */
	madvise(big, 2 * length, MADV_HUGEPAGE);
	fill(big, 2 * length, 5);
	big += page_size;
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, big, length,
			      HIGH_IOVA + page_size));
	ASSERT_EQ(length / 1024, pinned_kib());
	for (i = 0; i < length; i += length / 4 + page_size) {
		u8 *to = big + length - page_size - i;

		ASSERT_EQ(0, edu_fetch(self->bar, HIGH_IOVA + page_size + i,
				       page_size));
		ASSERT_EQ(0, edu_store(self->bar,
				       HIGH_IOVA + page_size + (to - big),
				       page_size));
		ASSERT_EQ(0, memcmp(big + i, to, page_size));
	}
}

/*
 * More than 4 GiB at once, above 1 TiB. The same huge pages are mapped
 * repeatedly, to use little memory and time.
 */
TEST_F(edu, beyond_4g)
{
	const size_t huge = 2UL << 20, length = (4UL << 30) + huge;
	const u64 iova = 2UL << 40;
	u64 last = 0, unmapped = length;
	u8 *mem, *end;
	size_t at;
	int fd;

	ASSERT_EQ(0, ioas_last_iova(self->iommufd, self->ioas, &last));
	if (last < iova + length - 1)
		SKIP(return, "the IOMMU ends before that");
	fd = memfd_create("edu", MFD_CLOEXEC | MFD_HUGETLB);
	if (fd < 0 || ftruncate(fd, 2 * huge))
		SKIP(return, "no huge pages");
	mem = mmap(NULL, length + huge, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	mem += huge - (uintptr_t)mem % huge;
	/*
	 * The last is the second huge page of the file, all others are the
	 * first.
	 */
	for (at = 0; at < length; at += huge)
		if (mmap(mem + at, huge, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd,
			 at + huge < length ? 0 : huge) != mem + at)
			SKIP(return, "no huge pages to have");
	end = mem + length - huge;
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, mem, length, iova));
	EXPECT_EQ(length / 1024, pinned_kib());
	EXPECT_EQ(EDU_CARRIED, edu_carry(self->bar, iova, iova + length - huge,
					 mem, end));
	EXPECT_EQ(EDU_CARRIED, edu_carry(self->bar, iova + length - 128,
					 iova + (4UL << 30) - huge + 64,
					 end + huge - 128, mem + 64));
	/* Its low half alone is not mapped. */
	EXPECT_EQ(0, edu_carry(self->bar, (u32)iova, iova, end, mem));
	ASSERT_EQ(0, ioas_unmap(self->iommufd, self->ioas, iova, &unmapped));
	EXPECT_EQ(length, unmapped);
	EXPECT_EQ(0, pinned_kib());
	close(fd);
}

TEST_F(edu, kernel_chosen_iova)
{
	u64 first = 0, second = 0;

	ASSERT_EQ(0, ioas_map_flags(self->iommufd, self->ioas, self->mem,
				    page_size, &first, MAP_RW));
	ASSERT_EQ(0, ioas_map_flags(self->iommufd, self->ioas,
				    self->mem + page_size, page_size, &second,
				    MAP_RW));
	ASSERT_NE(first, second);
	ASSERT_NE(0, first);
	check_copy(_metadata, self, first, second + 8, self->mem,
		   self->mem + page_size + 8, 512);
}

TEST_F(edu, memfd)
{
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = self->ioas,
		.start = page_size,
		.length = 3 * page_size,
		.iova = LOW_IOVA,
	};
	u8 *view;

	cmd.fd = memfd_create("edu", MFD_CLOEXEC);
	ASSERT_LE(0, cmd.fd);
	ASSERT_EQ(0, ftruncate(cmd.fd, 4 * page_size));
	view = mmap(NULL, 4 * page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		    cmd.fd, 0);
	ASSERT_NE(MAP_FAILED, view);
	fill(view, 4 * page_size, 9);
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_IOAS_MAP_FILE, &cmd));
	/* Only the mapping keeps the file's pages. */
	ASSERT_EQ(0, close(cmd.fd));

	ASSERT_EQ(0, edu_fetch(self->bar, LOW_IOVA + 10, 1000));
	ASSERT_EQ(0, edu_store(self->bar, LOW_IOVA + 2 * page_size, 1000));
	EXPECT_EQ(0, memcmp(view + page_size + 10, view + 3 * page_size, 1000));
}

/*
 * The device accesses its own registers through the IOMMU, by a dma-buf that
 * vfio-pci exports.
 */
TEST_F(edu, dma_buf)
{
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = self->ioas,
		.length = page_size,
		.iova = HIGH_IOVA,
	};
	u64 length = page_size;
	u32 value = 0x3c5a1e0f;
	u32 *mem = (u32 *)self->mem;

	cmd.fd = vfio_export_bar(self->device, page_size);
	if (cmd.fd == -ENOTTY)
		SKIP(return, "no CONFIG_VFIO_PCI_DMABUF");
	ASSERT_LE(0, cmd.fd);
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_IOAS_MAP_FILE, &cmd));
	/* No memory of anybody. */
	EXPECT_EQ(0, pinned_kib());
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));

	ASSERT_EQ(0, edu_fetch(self->bar, HIGH_IOVA + EDU_ID, 4));
	ASSERT_EQ(0, edu_store(self->bar, LOW_IOVA, 4));
	EXPECT_EQ(EDU_ID_VALUE, mem[0]);

	mem[1] = value;
	ASSERT_EQ(0, edu_fetch(self->bar, LOW_IOVA + 4, 4));
	ASSERT_EQ(0, edu_store(self->bar, HIGH_IOVA + EDU_LIVENESS, 4));
	EXPECT_EQ(~value, readl(self->bar + EDU_LIVENESS));

	/* A disabled BAR can neither be mapped nor stay mapped. */
	ASSERT_EQ(0, vfio_set_command(self->device, 0, PCI_COMMAND_MEMORY));
	cmd.iova += page_size;
	EXPECT_EQ(-1, ioctl(self->iommufd, IOMMU_IOAS_MAP_FILE, &cmd));
	EXPECT_EQ(ENODEV, errno);
	ASSERT_EQ(0, vfio_set_command(self->device, PCI_COMMAND_MEMORY, 0));

	ASSERT_EQ(0, edu_fetch(self->bar, LOW_IOVA + 8, 4));
	ASSERT_EQ(0, edu_store(self->bar, HIGH_IOVA + EDU_LIVENESS, 4));
	EXPECT_EQ(~value, readl(self->bar + EDU_LIVENESS));

	/* What was revoked stays unmapped; a new mapping works. */
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_IOAS_MAP_FILE, &cmd));
	ASSERT_EQ(0, edu_fetch(self->bar, cmd.iova + EDU_ID, 4));
	ASSERT_EQ(0, edu_store(self->bar, LOW_IOVA + 12, 4));
	EXPECT_EQ(EDU_ID_VALUE, mem[3]);
	EXPECT_EQ(0, ioas_unmap(self->iommufd, self->ioas, HIGH_IOVA, &length));
	EXPECT_EQ(page_size, length);
	ASSERT_EQ(0, close(cmd.fd));
}

TEST_F(edu, never_mapped)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	check_store_refused(_metadata, self, HIGH_IOVA);
	check_fetch_refused(_metadata, self, LOW_IOVA + page_size,
			    self->mem + page_size, LOW_IOVA, self->mem);
}

TEST_F(edu, unmapped)
{
	const u64 gone = LOW_IOVA + page_size;
	u64 length = page_size;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem + page_size,
			      page_size, gone));
	/* The IOMMU has cached it, and must invalidate it. */
	check_copy(_metadata, self, LOW_IOVA, gone, self->mem,
		   self->mem + page_size, 64);
	check_copy(_metadata, self, gone, LOW_IOVA, self->mem + page_size,
		   self->mem, 64);
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());

	ASSERT_EQ(0, ioas_unmap(self->iommufd, self->ioas, gone, &length));
	ASSERT_EQ(page_size, length);
	EXPECT_EQ(page_size / 1024, pinned_kib());
	check_store_refused(_metadata, self, gone);
	check_fetch_refused(_metadata, self, gone, self->mem + page_size,
			    LOW_IOVA, self->mem);
}

TEST_F(edu, unmap_everything)
{
	u64 length = UINT64_MAX;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, LOW_IOVA));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem + page_size,
			      page_size, HIGH_IOVA));
	check_copy(_metadata, self, LOW_IOVA, HIGH_IOVA, self->mem,
		   self->mem + page_size, 64);
	ASSERT_EQ(0, ioas_unmap(self->iommufd, self->ioas, 0, &length));
	EXPECT_EQ(3 * page_size, length);
	EXPECT_EQ(0, pinned_kib());
	check_store_refused(_metadata, self, LOW_IOVA);
	check_store_refused(_metadata, self, HIGH_IOVA);
}

TEST_F(edu, unmap_part)
{
	u64 length = page_size;

	/* A mapping is unmapped as a whole or not at all. */
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      4 * page_size, LOW_IOVA));
	ASSERT_EQ(-ENOENT, ioas_unmap(self->iommufd, self->ioas,
				      LOW_IOVA + page_size, &length));
	EXPECT_EQ(4 * page_size / 1024, pinned_kib());
	check_copy(_metadata, self, LOW_IOVA + page_size, LOW_IOVA, self->mem +
		   page_size, self->mem, 64);
}

TEST_F(edu, read_only)
{
	u64 iova = LOW_IOVA + page_size;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	ASSERT_EQ(0, ioas_map_flags(self->iommufd, self->ioas,
				    self->mem + page_size, page_size, &iova,
				    IOMMU_IOAS_MAP_READABLE |
				    IOMMU_IOAS_MAP_FIXED_IOVA));
	check_copy(_metadata, self, iova, LOW_IOVA, self->mem + page_size,
		   self->mem, 128);
	check_store_refused(_metadata, self, iova);
}

TEST_F(edu, read_only_memory)
{
	/*
	 * Memory that the process cannot write must be read-only for the
	 * device.
	 */
	ASSERT_EQ(0, mprotect(self->mem, page_size, PROT_READ));
	ASSERT_EQ(-EFAULT, ioas_map(self->iommufd, self->ioas, self->mem,
				    page_size, LOW_IOVA));
	EXPECT_EQ(0, pinned_kib());
	check_store_refused(_metadata, self, LOW_IOVA);
}

TEST_F(edu, copy_and_replace)
{
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd),
		.flags = MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA,
		.src_ioas_id = self->ioas,
		.length = 4 * page_size,
		.src_iova = LOW_IOVA,
		.dst_iova = HIGH_IOVA,
	};

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      4 * page_size, LOW_IOVA));
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &cmd.dst_ioas_id));
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_IOAS_COPY, &cmd));
	/* The copy has the same pages, pinned once. */
	EXPECT_EQ(4 * page_size / 1024, pinned_kib());
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);

	ASSERT_EQ(0, vfio_attach(self->device, cmd.dst_ioas_id));
	EXPECT_EQ(4 * page_size / 1024, pinned_kib());
	check_copy(_metadata, self, HIGH_IOVA, HIGH_IOVA + 2 * page_size,
		   self->mem, self->mem + 2 * page_size, 64);
	check_store_refused(_metadata, self, LOW_IOVA);

	/* After the original is unmapped, the copy still works. */
	ASSERT_EQ(0, iommufd_destroy(self->iommufd, self->ioas));
	EXPECT_EQ(4 * page_size / 1024, pinned_kib());
	check_copy(_metadata, self, HIGH_IOVA, HIGH_IOVA + 3 * page_size,
		   self->mem, self->mem + 3 * page_size, 64);
}

TEST_F(edu, hwpt)
{
	u32 hwpt = 0;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, LOW_IOVA));
	ASSERT_EQ(0, hwpt_alloc(self->iommufd, self->device_id, self->ioas,
				&hwpt));
	/* With two page tables the pages are still pinned once. */
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());
	ASSERT_EQ(0, vfio_attach(self->device, hwpt));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, hwpt));
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);

	/* A later mapping is in both. */
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas,
			      self->mem + 2 * page_size, page_size, HIGH_IOVA));
	check_copy(_metadata, self, LOW_IOVA, HIGH_IOVA, self->mem,
		   self->mem + 2 * page_size, 64);
	ASSERT_EQ(0, vfio_attach(self->device, self->ioas));
	ASSERT_EQ(0, iommufd_destroy(self->iommufd, hwpt));
	check_copy(_metadata, self, HIGH_IOVA, LOW_IOVA,
		   self->mem + 2 * page_size, self->mem, 64);
}

TEST_F(edu, failed_replace)
{
	struct iommu_fault_alloc queue = { .size = sizeof(queue) };
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt),
		.flags = IOMMU_HWPT_FAULT_ID_VALID,
		.dev_id = self->device_id,
		.pt_id = self->ioas,
	};
	struct iommu_iova_range before[32] = {}, after[32] = {};
	u32 n = 32, again = 32, fault_hwpt;
	char name[NAME_MAX + 1];

	if (!find_entry("/sys/class/iommu", is_vtd, name, sizeof(name)))
		SKIP(return, "not a VT-d");
	ASSERT_EQ(0, ioas_iova_ranges(self->iommufd, self->ioas, before, &n));
	/* The MSI window is not usable. */
	ASSERT_LT(1, n);
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_FAULT_QUEUE_ALLOC, &queue));
	hwpt.fault_id = queue.out_fault_id;
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_HWPT_ALLOC, &hwpt));

	/*
	 * The device has no page requests: attaching fails, and it stays
	 * attached.
	 */
	ASSERT_EQ(-ENODEV, vfio_attach(self->device, hwpt.out_hwpt_id));
	ASSERT_EQ(0, ioas_iova_ranges(self->iommufd, self->ioas, after,
				      &again));
	EXPECT_EQ(n, again);
	EXPECT_EQ(0, memcmp(before, after, sizeof(before)));
	/* A replace that succeeds restores what VT-d has undone. */
	hwpt.flags = 0;
	hwpt.fault_id = 0;
	fault_hwpt = hwpt.out_hwpt_id;
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_HWPT_ALLOC, &hwpt));
	ASSERT_EQ(0, vfio_attach(self->device, hwpt.out_hwpt_id));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, fault_hwpt));
	close(queue.out_fault_fd);
}

TEST_F(edu, detach)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, LOW_IOVA));
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);
	ASSERT_EQ(0, vfio_detach(self->device));
	/* No device is attached, so the pages are not pinned. */
	EXPECT_EQ(0, pinned_kib());
	check_store_refused(_metadata, self, LOW_IOVA);

	ASSERT_EQ(0, vfio_attach(self->device, self->ioas));
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);
}

TEST_F(edu, destroy_busy)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, LOW_IOVA));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, self->ioas));
	EXPECT_EQ(-EBUSY, iommufd_destroy(self->iommufd, self->device_id));
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);
	ASSERT_EQ(0, vfio_detach(self->device));
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, self->ioas));
	EXPECT_EQ(-ENOENT, iommufd_destroy(self->iommufd, self->ioas));
}

TEST_F(edu, hw_info)
{
	struct iommu_hw_info_arm_smmuv3 smmu = {};
	struct iommu_hw_info_vtd vtd = {};
	struct iommu_hw_info cmd = {
		.size = sizeof(cmd),
		.dev_id = self->device_id,
	};
	char name[NAME_MAX + 1], path[PATH_MAX], text[64];

	if (find_entry("/sys/class/iommu", is_smmuv3, name, sizeof(name))) {
		cmd.data_len = sizeof(smmu);
		cmd.data_uptr = (uintptr_t)&smmu;
		ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_GET_HW_INFO, &cmd));
		EXPECT_EQ(IOMMU_HW_INFO_TYPE_ARM_SMMUV3, cmd.out_data_type);
		EXPECT_EQ(sizeof(smmu), cmd.data_len);
		/* IDR1.SIDSIZE, and IDR5 for the page size of the kernel */
		EXPECT_NE(0, smmu.idr[1] & 0x3f);
		EXPECT_NE(0, smmu.idr[5] & (page_size == 0x1000 ? 0x10 :
					    page_size == 0x4000 ? 0x20 : 0x40));
		return;
	}
	if (!find_entry("/sys/class/iommu", is_vtd, name, sizeof(name)))
		SKIP(return, "neither a VT-d nor an SMMUv3");
	cmd.data_len = sizeof(vtd);
	cmd.data_uptr = (uintptr_t)&vtd;
	ASSERT_EQ(0, ioctl(self->iommufd, IOMMU_GET_HW_INFO, &cmd));
	EXPECT_EQ(IOMMU_HW_INFO_TYPE_INTEL_VTD, cmd.out_data_type);
	EXPECT_EQ(sizeof(vtd), cmd.data_len);
	/* The registers as the VT-d driver prints them */
	snprintf(path, sizeof(path), "/sys/class/iommu/%s/intel-iommu/cap",
		 name);
	ASSERT_TRUE(read_text(path, text, sizeof(text)));
	EXPECT_EQ(strtoull(text, NULL, 16), vtd.cap_reg);
	snprintf(path, sizeof(path), "/sys/class/iommu/%s/intel-iommu/ecap",
		 name);
	ASSERT_TRUE(read_text(path, text, sizeof(text)));
	EXPECT_EQ(strtoull(text, NULL, 16), vtd.ecap_reg);
}

TEST_F(edu, interrupt)
{
	struct pollfd event = { .events = POLLIN };
	u64 count;

	event.fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, event.fd);
	ASSERT_EQ(0, vfio_set_msi(self->device, event.fd));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	EXPECT_EQ(0, poll(&event, 1, 0));
	ASSERT_EQ(0, edu_dma(self->bar, LOW_IOVA, EDU_BUF, 64, EDU_DMA_IRQ));
	ASSERT_EQ(1, poll(&event, 1, 60000));
	ASSERT_EQ(sizeof(count), read(event.fd, &count, sizeof(count)));
	EXPECT_EQ(1, count);
	EXPECT_EQ(EDU_DMA_IRQ_STATUS, readl(self->bar + EDU_IRQ_STATUS));
	writel(EDU_DMA_IRQ_STATUS, self->bar + EDU_IRQ_ACK);
	EXPECT_EQ(0, readl(self->bar + EDU_IRQ_STATUS));
	EXPECT_EQ(0, vfio_set_msi(self->device, -1));
	close(event.fd);
}

/* Raise the device's interrupt by a transfer to @iova, and wait for it. */
static bool interrupt_comes(struct _test_data_edu *self, int event, u64 iova)
{
	struct pollfd ready = { .fd = event, .events = POLLIN };
	u64 count;

	if (edu_dma(self->bar, iova, EDU_BUF, 64, EDU_DMA_IRQ) ||
	    poll(&ready, 1, 20000) != 1 ||
	    read(event, &count, sizeof(count)) != sizeof(count))
		return false;
	writel(EDU_DMA_IRQ_STATUS, self->bar + EDU_IRQ_ACK);
	return count == 1;
}

/* An interrupt that is set up keeps working wherever the device is attached. */
TEST_F(edu, interrupt_elsewhere)
{
	u32 other = 0, hwpt = 0;
	int event, i;

	event = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, event);
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &other));
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      LOW_IOVA));
	ASSERT_EQ(0, ioas_map(self->iommufd, other, self->mem, page_size,
			      LOW_IOVA));
	ASSERT_EQ(0, hwpt_alloc(self->iommufd, self->device_id, self->ioas,
				&hwpt));
	ASSERT_EQ(0, vfio_set_msi(self->device, event));
	for (i = 0; i < 2; i++) {
		EXPECT_TRUE(interrupt_comes(self, event, LOW_IOVA));
		ASSERT_EQ(0, vfio_attach(self->device, hwpt));
		EXPECT_TRUE(interrupt_comes(self, event, LOW_IOVA));
		ASSERT_EQ(0, vfio_detach(self->device));
		ASSERT_EQ(0, vfio_attach(self->device, other));
		EXPECT_TRUE(interrupt_comes(self, event, LOW_IOVA));
		ASSERT_EQ(0, vfio_attach(self->device, self->ioas));
	}
	EXPECT_EQ(0, vfio_set_msi(self->device, -1));
	close(event);
}

/*
 * The page that MSIs of a device are written to stays mapped in the HWPT when
 * the device is detached. No memory can be mapped there before the HWPT is
 * destroyed.
 */
TEST_F(edu, interrupt_window)
{
	u64 length = page_size;
	u32 hwpt = 0;
	int event;

	/* With a window of the hardware this IOVA is free */
	if (!ioas_map(self->iommufd, self->ioas, self->mem, page_size,
		      MSI_WINDOW)) {
		EXPECT_EQ(0, ioas_unmap(self->iommufd, self->ioas, MSI_WINDOW,
					&length));
		EXPECT_EQ(page_size, length);
		return;
	}
	event = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, event);
	ASSERT_EQ(0, hwpt_alloc(self->iommufd, self->device_id, self->ioas,
				&hwpt));
	ASSERT_EQ(0, vfio_attach(self->device, hwpt));
	ASSERT_EQ(0, vfio_set_msi(self->device, event));
	ASSERT_EQ(0, vfio_detach(self->device));
	EXPECT_EQ(-EINVAL, ioas_map(self->iommufd, self->ioas, self->mem,
				    page_size, MSI_WINDOW));
	ASSERT_EQ(0, iommufd_destroy(self->iommufd, hwpt));
	EXPECT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, page_size,
			      MSI_WINDOW));
	EXPECT_EQ(0, ioas_unmap(self->iommufd, self->ioas, MSI_WINDOW,
				&length));
	EXPECT_EQ(0, vfio_attach(self->device, self->ioas));
	EXPECT_EQ(0, vfio_set_msi(self->device, -1));
	close(event);
}

TEST_F(edu, second_bind)
{
	u32 id;
	int other;

	/* One owner at a time. */
	EXPECT_EQ(-EINVAL, vfio_bind(self->device, self->iommufd, &id));
	other = open(edu.cdev, O_RDWR);
	if (other >= 0) {
		EXPECT_GT(0, vfio_bind(other, self->iommufd, &id));
		close(other);
	}
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem, MEM_SIZE,
			      LOW_IOVA));
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);
}

TEST_F(edu, iommufd_closed_first)
{
	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, LOW_IOVA));
	/* The bound device keeps the context, including the mappings. */
	ASSERT_EQ(0, close(self->iommufd));
	self->iommufd = -1;
	EXPECT_EQ(2 * page_size / 1024, pinned_kib());
	check_copy(_metadata, self, LOW_IOVA, LOW_IOVA + page_size, self->mem,
		   self->mem + page_size, 64);
	munmap(self->bar, self->bar_size);
	ASSERT_EQ(0, close(self->device));
	self->device = -1;
	EXPECT_EQ(0, pinned_kib());
}

TEST_F(edu, device_closed_first)
{
	u64 length = 2 * page_size;

	ASSERT_EQ(0, ioas_map(self->iommufd, self->ioas, self->mem,
			      2 * page_size, LOW_IOVA));
	munmap(self->bar, self->bar_size);
	ASSERT_EQ(0, close(self->device));
	self->device = -1;
	/* The mapping outlives the device, the pins do not. */
	EXPECT_EQ(0, pinned_kib());
	EXPECT_EQ(-ENOENT, iommufd_destroy(self->iommufd, self->device_id));
	EXPECT_EQ(0, ioas_unmap(self->iommufd, self->ioas, LOW_IOVA, &length));
	EXPECT_EQ(2 * page_size, length);
	EXPECT_EQ(0, iommufd_destroy(self->iommufd, self->ioas));
}

TEST_F(edu, killed)
{
	u8 *mem = self->mem;
	int pipes[2], status;
	u32 id = 0, ioas = 0;
	pid_t child;
	char c;

	/* Another process binds the device and exits without cleaning up. */
	edu_close(self);
	ASSERT_EQ(0, pipe(pipes));
	child = fork();
	ASSERT_LE(0, child);
	if (!child) {
		int iommufd = open("/dev/iommu", O_RDWR);
		int device = open(edu.cdev, O_RDWR);

		if (vfio_bind(device, iommufd, &id) ||
		    ioas_alloc(iommufd, &ioas) || vfio_attach(device, ioas) ||
		    ioas_map(iommufd, ioas, mem, MEM_SIZE, LOW_IOVA))
			_exit(1);
		if (write(pipes[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(1);
	}
	close(pipes[1]);
	ASSERT_EQ(1, read(pipes[0], &c, 1));
	close(pipes[0]);
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_TRUE(WIFSIGNALED(status));

	/* The device can be bound again. */
	self->iommufd = open("/dev/iommu", O_RDWR);
	self->device = open(edu.cdev, O_RDWR);
	ASSERT_EQ(0, vfio_bind(self->device, self->iommufd, &id));
	ASSERT_EQ(0, ioas_alloc(self->iommufd, &ioas));
	ASSERT_EQ(0, vfio_attach(self->device, ioas));
	ASSERT_EQ(0, ioas_map(self->iommufd, ioas, mem, MEM_SIZE, LOW_IOVA));
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
