// SPDX-License-Identifier: GPL-2.0-only
/*
 * At the edges: addresses, lengths, page sizes and numbers at or beyond the last
 * one there is, and memory that is not the CPU's.
 *
 * Each test stands for bugs that the C driver once had, or nearly: a sum that
 * wraps, an alignment that does, a shift wider than its type, a count without a
 * bound or with one too many, a page that is none. What is expected is what the
 * C driver of today says.
 */
#define _GNU_SOURCE
#include "iommufd_stress.h"
#include "kselftest.h"

#define LAST_PAGE (UINT64_MAX - (PAGE - 1))
#define HUGE_PAGE (2UL << 20)
/* Where the page table of the mock driver ends. */
#define APERTURE_SHIFT 38

static unsigned char *memory;

static bool is(const char *what, int rc, int expected)
{
	if (rc == expected)
		return true;
	ksft_print_msg("%s: %s, expected %s\n", what,
		       rc ? strerror(-rc) : "success",
		       expected ? strerror(-expected) : "success");
	return false;
}

/* Neither the process's address space nor the sum that tells its end wraps. */
static bool user_address(int fd, u32 ioas)
{
	u64 iova = MOCK_APERTURE_START;

	return is("MAP to beyond the last address",
		  do_map(fd, ioas, (void *)LAST_PAGE, 2 * PAGE, iova),
		  -EOVERFLOW) &
	       is("MAP to the last address",
		  do_map(fd, ioas, (void *)LAST_PAGE, PAGE, iova),
		  -EOVERFLOW) &
	       is("MAP of nearly all addresses",
		  do_map(fd, ioas, (void *)PAGE, LAST_PAGE, iova),
		  -EOVERFLOW) &
	       is("UNMAP of what was not mapped",
		  do_unmap(fd, ioas, iova, 2 * PAGE), -ENOENT);
}

static bool file_offset(int fd, u32 ioas)
{
	u64 iova = MOCK_APERTURE_START;
	int file = memfd_create("edges", MFD_CLOEXEC);
	bool ok;

	if (file < 0 || ftruncate(file, PAGE))
		return false;
	ok = is("MAP_FILE to beyond the last offset",
		do_map_file(fd, ioas, file, LAST_PAGE, 2 * PAGE, iova),
		-EOVERFLOW) &
	     is("MAP_FILE of nearly all offsets",
		do_map_file(fd, ioas, file, 2 * PAGE, LAST_PAGE, iova),
		-EOVERFLOW);
	close(file);
	return ok;
}

/* The last IOVA can be used, and nothing reaches beyond it. */
static bool last_iova(int fd, u32 ioas)
{
	u32 other;

	return is("IOAS_ALLOC", do_ioas_alloc(fd, &other), 0) &
	       is("MAP to beyond the last IOVA",
		  do_map(fd, ioas, memory, 2 * PAGE, LAST_PAGE), -EOVERFLOW) &
	       is("MAP to the last IOVA",
		  do_map(fd, ioas, memory, PAGE, LAST_PAGE), 0) &
	       is("MAP of it again",
		  do_map(fd, ioas, memory, PAGE, LAST_PAGE), -EEXIST) &
	       is("COPY from beyond the last IOVA",
		  do_copy(fd, other, PAGE, ioas, LAST_PAGE, 2 * PAGE),
		  -EOVERFLOW) &
	       is("COPY to beyond the last IOVA",
		  do_copy(fd, other, UINT64_MAX - PAGE / 2, ioas, LAST_PAGE,
			  PAGE), -EOVERFLOW) &
	       is("COPY from the last IOVA to it",
		  do_copy(fd, other, LAST_PAGE, ioas, LAST_PAGE, PAGE), 0) &
	       is("UNMAP to beyond the last IOVA",
		  do_unmap(fd, ioas, LAST_PAGE, 2 * PAGE), -EOVERFLOW) &
	       is("UNMAP of the last IOVA",
		  do_unmap(fd, ioas, LAST_PAGE, PAGE), 0) &
	       is("UNMAP of the copy",
		  do_unmap(fd, other, LAST_PAGE, PAGE), 0);
}

/* Aligned up from close to the end, an IOVA does not become a low one. */
static bool chosen_iova(int fd, u32 ioas)
{
	struct iommu_iova_range end = {
		.start = UINT64_MAX - 8 * PAGE + 1,
		.last = UINT64_MAX - PAGE,
	};
	struct iommu_ioas_allow_iovas allow = {
		.size = sizeof(allow),
		.ioas_id = ioas,
		.num_iovas = 1,
		.allowed_iovas = (uintptr_t)&end,
	};
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = IOMMU_IOAS_MAP_READABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)memory,
		.length = HUGE_PAGE,
	};
	bool ok;

	ok = is("ALLOW_IOVAS", call(fd, IOMMU_IOAS_ALLOW_IOVAS, &allow), 0) &
	     is("MAP of a huge page", call(fd, IOMMU_IOAS_MAP, &map), -ENOSPC);
	map.length = PAGE;
	ok &= is("MAP of a page", call(fd, IOMMU_IOAS_MAP, &map), 0);
	if (map.iova != end.start) {
		ksft_print_msg("a page is mapped at %llx\n", map.iova);
		ok = false;
	}
	return ok;
}

/* A page size may be any power of two, far beyond those of page tables. */
static bool dirty_bitmap(int fd, u32 ioas)
{
	struct iommu_hwpt_selftest data = {
		.pagetable_type = MOCK_IOMMUPT_HUGE,
	};
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt),
		.flags = IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
		.pt_id = ioas,
		.data_type = IOMMU_HWPT_DATA_SELFTEST,
		.data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};
	struct iommu_hwpt_set_dirty_tracking track = {
		.size = sizeof(track),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
	};
	u64 one = 1, *bits;
	struct mock mock;
	unsigned int shift;
	u32 other;
	bool ok;

	ok = is("IOAS_ALLOC", do_ioas_alloc(fd, &other), 0) &
	     is("a device", do_mock_device(fd, other, &mock), 0);
	hwpt.dev_id = mock.idev;
	ok &= is("HWPT_ALLOC", call(fd, IOMMU_HWPT_ALLOC, &hwpt), 0);
	track.hwpt_id = hwpt.out_hwpt_id;
	ok &= is("SET_DIRTY_TRACKING",
		 call(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &track), 0);
	/* One word, and nothing behind it. */
	bits = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!ok || bits == MAP_FAILED || munmap((void *)bits + PAGE, PAGE))
		return false;
	bits += PAGE / sizeof(*bits) - 1;

	for (shift = 12; shift < APERTURE_SHIFT; shift++) {
		u64 iova = 1UL << shift;
		struct iommu_test_cmd dirty = {
			.op = IOMMU_TEST_OP_DIRTY,
			.id = hwpt.out_hwpt_id,
			.dirty = {
				.iova = iova,
				.length = PAGE,
				.page_size = PAGE,
				.uptr = (uintptr_t)&one,
			},
		};
		struct iommu_hwpt_get_dirty_bitmap cmd = {
			.size = sizeof(cmd),
			.hwpt_id = hwpt.out_hwpt_id,
			.iova = iova,
			.length = iova,
			.page_size = iova,
			.data = (uintptr_t)bits,
		};

		*bits = 0;
		ok &= is("MAP", do_map(fd, ioas, memory, PAGE, iova), 0) &
		      is("a write", do_test(fd, &dirty), 0) &
		      is("GET_DIRTY_BITMAP",
			 call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd), 0) &
		      is("UNMAP", do_unmap(fd, ioas, iova, PAGE), 0);
		if (*bits != 1)
			ksft_print_msg("with pages of 2^%u bytes: %lx\n",
				       shift, *bits);
		ok &= *bits == 1;

		cmd.iova = -iova;
		cmd.length = 2 * iova;
		ok &= is("GET_DIRTY_BITMAP to beyond the last IOVA",
			 call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd),
			 -EOVERFLOW);
	}
	return ok;
}

/* The kernel does not go through as many entries as a number can say. */
static bool invalidations(int fd, u32 ioas)
{
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.data_uptr = (uintptr_t)memory,
	};
	const struct {
		u32 length, number;
		int expected;
	} calls[] = {
		{ 8, UINT32_MAX, -EINVAL },
		{ 8, (1 << 19) + 1, -EINVAL },
		{ UINT32_MAX, 1, -EINVAL },
		{ PAGE + 8, 1, -EINVAL },
		{ UINT32_MAX, UINT32_MAX, -EINVAL },
		{ 8, 4, 0 },
	};
	struct mock mock;
	unsigned int i;
	u32 parent;
	bool ok;

	ok = is("a device", do_mock_device(fd, ioas, &mock), 0) &
	     is("a parent", do_hwpt_alloc(fd, mock.idev, ioas,
					  IOMMU_HWPT_ALLOC_NEST_PARENT, 0,
					  &parent), 0);
	ok &= is("HWPT_ALLOC", do_nested_alloc(fd, mock.idev, parent,
					       &cmd.hwpt_id), 0);
	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		cmd.entry_len = calls[i].length;
		cmd.entry_num = calls[i].number;
		ok &= is("HWPT_INVALIDATE",
			 call(fd, IOMMU_HWPT_INVALIDATE, &cmd),
			 calls[i].expected);
	}
	return ok;
}

/* Memory of a device has no pages that the CPU could use. */
static bool device_memory(int fd, u32 ioas)
{
	const u32 slow = MOCK_ACCESS_RW_SLOW_PATH, to = MOCK_ACCESS_RW_WRITE;
	u64 iova = MOCK_APERTURE_START;
	unsigned int domain, i;
	struct mock mock;
	int dmabuf, access = -1;
	bool ok;
	u32 id;

	dmabuf = do_dmabuf_get(fd, 4 * PAGE);
	ok = is("a dma-buf", dmabuf < 0 ? dmabuf : 0, 0) &&
	     is("MAP_FILE", do_map_file(fd, ioas, dmabuf, 0, 4 * PAGE, iova),
		0) &&
	     is("an access",
		do_access_create(fd, ioas,
				 MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				 &access), 0);
	/* In a domain, it has physical addresses. */
	for (domain = 0; ok && domain < 2; domain++) {
		const u32 flags[] = { 0, slow, to, to | slow };

		ok &= is("a pin", do_access_pin(fd, access, iova, PAGE,
						MOCK_FLAGS_ACCESS_WRITE, &id),
			 -EINVAL);
		for (i = 0; i < ARRAY_SIZE(flags); i++)
			ok &= is("a copy by the CPU",
				 do_access_rw(fd, access, iova + 8, memory, 64,
					      flags[i]), -EINVAL);
		if (!domain)
			ok &= is("a device", do_mock_device(fd, ioas, &mock),
				 0);
	}
	close(access);
	close(dmabuf);
	return ok;
}

/*
 * Who has pinned memory is asked a limited number of times to let go of an
 * area: of each area, however many there are, and however close to each other.
 */
static bool accessed_areas(int fd, u32 ioas)
{
	const unsigned int areas = 128;
	u64 iova = MOCK_APERTURE_START;
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = ioas,
		.iova = iova,
		.length = areas * PAGE,
	};
	unsigned int i;
	int access;
	bool ok;
	u32 id;

	ok = is("an access",
		do_access_create(fd, ioas,
				 MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				 &access), 0);
	for (i = 0; ok && i < areas; i++)
		ok = is("MAP", do_map(fd, ioas, memory, PAGE, iova + i * PAGE),
			0) &&
		     is("a pin", do_access_pin(fd, access, iova + i * PAGE,
					       PAGE, 0, &id), 0);
	ok = ok && is("UNMAP of all", call(fd, IOMMU_IOAS_UNMAP, &unmap), 0);
	if (ok && unmap.length != areas * PAGE) {
		ksft_print_msg("%llu pages are unmapped\n",
			       unmap.length / PAGE);
		ok = false;
	}
	close(access);
	return ok;
}

static const struct {
	const char *name;
	bool (*run)(int fd, u32 ioas);
} tests[] = {
	{ "user_address", user_address },
	{ "file_offset", file_offset },
	{ "last_iova", last_iova },
	{ "chosen_iova", chosen_iova },
	{ "dirty_bitmap", dirty_bitmap },
	{ "invalidations", invalidations },
	{ "device_memory", device_memory },
	{ "accessed_areas", accessed_areas },
};

int main(void)
{
	unsigned int i;
	bool ok;
	u32 ioas;
	int fd;

	ksft_print_header();
	fd = open("/dev/iommu", O_RDWR);
	if (fd < 0)
		ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
	close(fd);
	ksft_set_plan(ARRAY_SIZE(tests));
	memory = mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	/* Aligned, so that its IOVA should be. */
	memory += HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE;
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
		ok = fd >= 0 && is("IOAS_ALLOC", do_ioas_alloc(fd, &ioas), 0) &&
		     tests[i].run(fd, ioas);
		close(fd);
		ksft_test_result(ok, "%s\n", tests[i].name);
	}
	ksft_finished();
}
