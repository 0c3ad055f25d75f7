// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test boundary values: addresses, lengths, page sizes and counts at or beyond
 * their maximum, and memory that the CPU cannot access.
 *
 * Each test stands for bugs that the C driver had: a sum or an alignment that
 * wraps, a shift wider than its type, a count without a bound or off by one, a
 * page frame without a struct page. Expected are the results of the C driver of
 * today, also for calls with two errors. No page may stay pinned.
 */
#define _GNU_SOURCE
#include <sys/wait.h>

#include "iommufd_stress.h"
#include "kselftest.h"

#define LAST_PAGE (UINT64_MAX - (PAGE - 1))
#define HUGE_PAGE (2UL << 20)
/* The end of the page table of the mock driver */
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

/* Neither the address nor address plus length may wrap. */
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

/* The last IOVA can be used, and no range extends beyond it. */
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

/* Aligning an IOVA near the end must not wrap to a low one. */
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

/* A page size can be any power of two, also one that no page table has. */
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
	/* One word, with no memory behind it */
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

/* The kernel must not process as many entries as a u32 can express. */
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

/* Memory of a device has no pages that the CPU could access. */
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
	/* In a domain, with physical addresses */
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
 * An unmap calls the drivers of accesses a limited number of times: for each
 * area, with any number of adjacent areas.
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

/* ---- calls with two errors ----------------------------------------------- */

/* A value of a field that the call refuses */
struct wrong {
	const char *field;
	size_t offset, size;
	u64 value;
	int expected;
};

#define WRONG_SIZED(type, name, size, v, error)				\
	{ #name, offsetof(struct type, name), size, v, -(error) }
#define WRONG(type, name, v, error)	WRONG_SIZED(type, name, 4, v, error)
#define WRONG64(type, name, v, error)	WRONG_SIZED(type, name, 8, v, error)

#define NOBODY 0x7fff0000
#define UNMAPPED_IOVA (MOCK_APERTURE_START + (1UL << 30))
#define FIXED IOMMU_IOAS_MAP_FIXED_IOVA

/*
 * For each command, in the order in which they are checked. With two of them
 * the errno is that of the first one. Without them the call succeeds, unless
 * noted.
 */
static const struct wrong map_wrongs[] = {
	WRONG(iommu_ioas_map, flags, 1 << 20, EOPNOTSUPP),
	WRONG(iommu_ioas_map, __reserved, 1, EOPNOTSUPP),
	WRONG64(iommu_ioas_map, iova, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_map, length, UINT64_MAX, EOVERFLOW),
	WRONG(iommu_ioas_map, flags, FIXED, EINVAL),
	WRONG(iommu_ioas_map, ioas_id, NOBODY, ENOENT),
	WRONG64(iommu_ioas_map, user_va, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_map, length, PAGE + 1, EINVAL),
	WRONG64(iommu_ioas_map, iova, MOCK_APERTURE_START, EEXIST),
	WRONG64(iommu_ioas_map, user_va, PAGE, EFAULT),
	{},
};

static const struct wrong map_file_wrongs[] = {
	WRONG(iommu_ioas_map_file, flags, 1 << 20, EOPNOTSUPP),
	WRONG64(iommu_ioas_map_file, iova, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_map_file, length, UINT64_MAX, EOVERFLOW),
	WRONG(iommu_ioas_map_file, flags, FIXED, EINVAL),
	WRONG(iommu_ioas_map_file, ioas_id, NOBODY, ENOENT),
	WRONG64(iommu_ioas_map_file, length, 0, EINVAL),
	WRONG64(iommu_ioas_map_file, start, LAST_PAGE + 1, EOVERFLOW),
	WRONG(iommu_ioas_map_file, fd, -1, EBADF),
	WRONG(iommu_ioas_map_file, fd, 0, EINVAL),
	WRONG64(iommu_ioas_map_file, length, PAGE + 1, EINVAL),
	WRONG64(iommu_ioas_map_file, iova, MOCK_APERTURE_START, EEXIST),
	{},
};

static const struct wrong copy_wrongs[] = {
	WRONG(iommu_ioas_copy, flags, 1 << 20, EOPNOTSUPP),
	WRONG64(iommu_ioas_copy, length, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_copy, src_iova, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_copy, dst_iova, UINT64_MAX, EOVERFLOW),
	WRONG(iommu_ioas_copy, flags, FIXED, EINVAL),
	WRONG(iommu_ioas_copy, src_ioas_id, NOBODY, ENOENT),
	WRONG64(iommu_ioas_copy, length, 0, EINVAL),
	WRONG64(iommu_ioas_copy, src_iova, UNMAPPED_IOVA, ENOENT),
	WRONG(iommu_ioas_copy, dst_ioas_id, NOBODY, ENOENT),
	WRONG64(iommu_ioas_copy, length, PAGE - 1, EINVAL),
	WRONG64(iommu_ioas_copy, dst_iova, MOCK_APERTURE_START, EEXIST),
	{},
};

static const struct wrong unmap_wrongs[] = {
	WRONG(iommu_ioas_unmap, ioas_id, NOBODY, ENOENT),
	WRONG64(iommu_ioas_unmap, iova, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_unmap, length, UINT64_MAX, EOVERFLOW),
	WRONG64(iommu_ioas_unmap, length, 0, EINVAL),
	WRONG64(iommu_ioas_unmap, iova, UNMAPPED_IOVA, ENOENT),
	{},
};

static const struct wrong ranges_wrongs[] = {
	WRONG(iommu_ioas_iova_ranges, __reserved, 1, EOPNOTSUPP),
	WRONG(iommu_ioas_iova_ranges, ioas_id, NOBODY, ENOENT),
	WRONG64(iommu_ioas_iova_ranges, allowed_iovas, PAGE, EFAULT),
	{},
};

static const struct wrong option_wrongs[] = {
	WRONG_SIZED(iommu_option, __reserved, 2, 1, EOPNOTSUPP),
	WRONG(iommu_option, option_id, 0xffff, EOPNOTSUPP),
	WRONG(iommu_option, object_id, NOBODY, ENOENT),
	WRONG_SIZED(iommu_option, op, 2, 0xffff, EOPNOTSUPP),
	WRONG64(iommu_option, val64, 2, EINVAL),
	{},
};

static const struct wrong hwpt_wrongs[] = {
	WRONG(iommu_hwpt_alloc, __reserved, 1, EOPNOTSUPP),
	WRONG(iommu_hwpt_alloc, data_len, 8, EINVAL),
	WRONG(iommu_hwpt_alloc, dev_id, NOBODY, ENOENT),
	WRONG(iommu_hwpt_alloc, pt_id, NOBODY, EINVAL),
	WRONG(iommu_hwpt_alloc, flags, 1 << 20, EOPNOTSUPP),
	WRONG(iommu_hwpt_alloc, flags, IOMMU_HWPT_FAULT_ID_VALID, ENOENT),
	{},
};

static const struct wrong nested_wrongs[] = {
	WRONG(iommu_hwpt_alloc, __reserved, 1, EOPNOTSUPP),
	WRONG(iommu_hwpt_alloc, data_len, 0, EINVAL),
	WRONG(iommu_hwpt_alloc, dev_id, NOBODY, ENOENT),
	WRONG(iommu_hwpt_alloc, pt_id, NOBODY, EINVAL),
	WRONG(iommu_hwpt_alloc, flags, 1 << 20, EOPNOTSUPP),
	WRONG(iommu_hwpt_alloc, data_type, 0x7777, EOPNOTSUPP),
	WRONG64(iommu_hwpt_alloc, data_uptr, PAGE, EFAULT),
	WRONG(iommu_hwpt_alloc, flags, IOMMU_HWPT_FAULT_ID_VALID, ENOENT),
	{},
};

/* The HWPT has no dirty tracking. */
static const struct wrong dirty_wrongs[] = {
	WRONG(iommu_hwpt_get_dirty_bitmap, flags, 1 << 20, EOPNOTSUPP),
	WRONG(iommu_hwpt_get_dirty_bitmap, __reserved, 1, EOPNOTSUPP),
	WRONG(iommu_hwpt_get_dirty_bitmap, hwpt_id, NOBODY, ENOENT),
	WRONG64(iommu_hwpt_get_dirty_bitmap, length, 0, EINVAL),
	WRONG64(iommu_hwpt_get_dirty_bitmap, iova, LAST_PAGE, EOVERFLOW),
	WRONG64(iommu_hwpt_get_dirty_bitmap, iova, 1, EINVAL),
	WRONG64(iommu_hwpt_get_dirty_bitmap, page_size, 0, EINVAL),
	{},
};

static const struct wrong invalidate_wrongs[] = {
	WRONG(iommu_hwpt_invalidate, __reserved, 1, EOPNOTSUPP),
	WRONG(iommu_hwpt_invalidate, entry_len, 0, EINVAL),
	WRONG64(iommu_hwpt_invalidate, data_uptr, 0, EINVAL),
	WRONG(iommu_hwpt_invalidate, hwpt_id, NOBODY, ENOENT),
	WRONG(iommu_hwpt_invalidate, data_type, 0x7777, EINVAL),
	WRONG64(iommu_hwpt_invalidate, data_uptr, PAGE, EFAULT),
	{},
};

static const struct wrong info_wrongs[] = {
	WRONG(iommu_hw_info, flags, 1 << 20, EOPNOTSUPP),
	WRONG_SIZED(iommu_hw_info, __reserved, 1, 1, EOPNOTSUPP),
	WRONG(iommu_hw_info, dev_id, NOBODY, ENOENT),
	WRONG64(iommu_hw_info, data_uptr, PAGE, EFAULT),
	{},
};

static const struct wrong viommu_wrongs[] = {
	WRONG(iommu_viommu_alloc, flags, 1, EOPNOTSUPP),
	WRONG(iommu_viommu_alloc, type, 0, EOPNOTSUPP),
	WRONG(iommu_viommu_alloc, dev_id, NOBODY, ENOENT),
	WRONG(iommu_viommu_alloc, type, 0x7777, EOPNOTSUPP),
	WRONG(iommu_viommu_alloc, hwpt_id, NOBODY, ENOENT),
	{},
};

static const struct wrong veventq_wrongs[] = {
	WRONG(iommu_veventq_alloc, flags, 1, EOPNOTSUPP),
	WRONG(iommu_veventq_alloc, __reserved, 1, EOPNOTSUPP),
	WRONG(iommu_veventq_alloc, type, 0, EOPNOTSUPP),
	WRONG(iommu_veventq_alloc, veventq_depth, 0, EINVAL),
	WRONG(iommu_veventq_alloc, veventq_depth, UINT32_MAX, EINVAL),
	WRONG(iommu_veventq_alloc, viommu_id, NOBODY, ENOENT),
	{},
};

static const struct wrong queue_wrongs[] = {
	WRONG(iommu_hw_queue_alloc, flags, 1, EOPNOTSUPP),
	WRONG(iommu_hw_queue_alloc, type, 0, EOPNOTSUPP),
	WRONG64(iommu_hw_queue_alloc, length, 0, EINVAL),
	WRONG64(iommu_hw_queue_alloc, nesting_parent_iova, UINT64_MAX, EOVERFLOW),
	WRONG(iommu_hw_queue_alloc, viommu_id, NOBODY, ENOENT),
	WRONG(iommu_hw_queue_alloc, type, 0x7777, EOPNOTSUPP),
	WRONG64(iommu_hw_queue_alloc, nesting_parent_iova, UNMAPPED_IOVA, ENOENT),
	WRONG(iommu_hw_queue_alloc, index, 0x7777, EINVAL),
	{},
};

static void put_wrong(void *args, const struct wrong *wrong)
{
	memcpy(args + wrong->offset, &wrong->value, wrong->size);
}

static bool order(int fd, unsigned long nr, const void *good, size_t size,
		  const struct wrong *wrongs, int expected)
{
	struct iommu_veventq_alloc veventq;
	const struct wrong *first, *second;
	unsigned char args[128];
	bool ok = true;
	char what[96];

	for (first = wrongs; first->field; first++) {
		for (second = first; second->field; second++) {
			if (second != first && second->offset == first->offset)
				continue;
			memcpy(args, good, size);
			put_wrong(args, second);
			put_wrong(args, first);
			snprintf(what, sizeof(what), "call %lx, %s=%lx, %s=%lx",
				 nr, first->field, first->value,
				 second->field, second->value);
			ok &= is(what, call(fd, nr, args), first->expected);
		}
	}
	memcpy(args, good, size);
	snprintf(what, sizeof(what), "call %lx", nr);
	ok &= is(what, call(fd, nr, args), expected);
	/* It holds the context while it is open. */
	if (nr == IOMMU_VEVENTQ_ALLOC) {
		memcpy(&veventq, args, sizeof(veventq));
		close(veventq.out_veventq_fd);
	}
	return ok;
}

#define ORDER(fd, nr, good, wrongs, expected)				\
	order(fd, nr, &(good), sizeof(good), wrongs, expected)

struct ids {
	u32 ioas, other, device, parent, nested, viommu;
	int file;
};

static bool orders(int fd, const struct ids *id)
{
	const u32 access = FIXED | IOMMU_IOAS_MAP_READABLE;
	const u64 iova = MOCK_APERTURE_START;
	struct iommu_hwpt_selftest config = {};
	struct iommu_iova_range ranges[8];
	struct iommu_ioas_map map = {
		.size = sizeof(map), .flags = access, .ioas_id = id->ioas,
		.user_va = (uintptr_t)memory, .length = PAGE,
		.iova = iova + PAGE,
	};
	struct iommu_ioas_map_file map_file = {
		.size = sizeof(map_file), .flags = access, .ioas_id = id->ioas,
		.fd = id->file, .length = PAGE, .iova = iova + 2 * PAGE,
	};
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy), .flags = access, .dst_ioas_id = id->ioas,
		.src_ioas_id = id->other, .length = PAGE,
		.dst_iova = iova + 3 * PAGE, .src_iova = iova,
	};
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap), .ioas_id = id->other, .iova = iova,
		.length = PAGE,
	};
	struct iommu_ioas_iova_ranges iovas = {
		.size = sizeof(iovas), .ioas_id = id->ioas,
		.num_iovas = ARRAY_SIZE(ranges),
		.allowed_iovas = (uintptr_t)ranges,
	};
	struct iommu_option option = {
		.size = sizeof(option), .option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_SET, .object_id = id->ioas, .val64 = 1,
	};
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt), .dev_id = id->device, .pt_id = id->ioas,
	};
	struct iommu_hwpt_alloc nest = {
		.size = sizeof(nest), .dev_id = id->device, .pt_id = id->parent,
		.data_type = IOMMU_HWPT_DATA_SELFTEST,
		.data_len = sizeof(config), .data_uptr = (uintptr_t)&config,
	};
	struct iommu_hwpt_get_dirty_bitmap dirty = {
		.size = sizeof(dirty), .hwpt_id = id->parent, .iova = iova,
		.length = 2 * PAGE, .page_size = PAGE,
		.data = (uintptr_t)memory,
	};
	struct iommu_hwpt_invalidate invalidate = {
		.size = sizeof(invalidate), .hwpt_id = id->nested,
		.data_uptr = (uintptr_t)memory,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.entry_len = sizeof(struct iommu_hwpt_invalidate_selftest),
		.entry_num = 1,
	};
	struct iommu_hw_info info = {
		.size = sizeof(info), .dev_id = id->device, .data_len = 8,
		.data_uptr = (uintptr_t)memory,
	};
	struct iommu_viommu_alloc vm = {
		.size = sizeof(vm), .type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = id->device, .hwpt_id = id->parent,
	};
	struct iommu_veventq_alloc veventq = {
		.size = sizeof(veventq), .viommu_id = id->viommu,
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST, .veventq_depth = 4,
	};
	struct iommu_hw_queue_alloc queue = {
		.size = sizeof(queue), .viommu_id = id->viommu,
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.nesting_parent_iova = iova, .length = PAGE,
	};

	return ORDER(fd, IOMMU_IOAS_MAP, map, map_wrongs, 0) &
	       ORDER(fd, IOMMU_IOAS_MAP_FILE, map_file, map_file_wrongs, 0) &
	       ORDER(fd, IOMMU_IOAS_COPY, copy, copy_wrongs, 0) &
	       ORDER(fd, IOMMU_IOAS_UNMAP, unmap, unmap_wrongs, 0) &
	       ORDER(fd, IOMMU_IOAS_IOVA_RANGES, iovas, ranges_wrongs, 0) &
	       ORDER(fd, IOMMU_OPTION, option, option_wrongs, 0) &
	       ORDER(fd, IOMMU_HWPT_ALLOC, hwpt, hwpt_wrongs, 0) &
	       ORDER(fd, IOMMU_HWPT_ALLOC, nest, nested_wrongs, 0) &
	       ORDER(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, dirty, dirty_wrongs,
		     -EOPNOTSUPP) &
	       ORDER(fd, IOMMU_HWPT_INVALIDATE, invalidate, invalidate_wrongs,
		     0) &
	       ORDER(fd, IOMMU_GET_HW_INFO, info, info_wrongs, 0) &
	       ORDER(fd, IOMMU_VIOMMU_ALLOC, vm, viommu_wrongs, 0) &
	       ORDER(fd, IOMMU_VEVENTQ_ALLOC, veventq, veventq_wrongs, 0) &
	       ORDER(fd, IOMMU_HW_QUEUE_ALLOC, queue, queue_wrongs, 0);
}

/* With two errors, the errno is always that of the one checked first. */
static bool first_reason(int fd, u32 ioas)
{
	struct ids id = { .ioas = ioas };
	struct mock mock;
	int pipes[2];
	bool ok;

	id.file = memfd_create("edges", MFD_CLOEXEC);
	if (id.file < 0 || ftruncate(id.file, 4 * PAGE))
		return false;
	/* fd 0 is a file that cannot be mapped. */
	if (pipe(pipes) || dup2(pipes[0], 0))
		return false;
	ok = is("IOAS_ALLOC", do_ioas_alloc(fd, &id.other), 0) &&
	     is("a device", do_mock_device(fd, ioas, &mock), 0) &&
	     is("MAP", do_map(fd, ioas, memory, PAGE, MOCK_APERTURE_START),
		0) &&
	     is("MAP of the other", do_map(fd, id.other, memory, PAGE,
					   MOCK_APERTURE_START), 0) &&
	     is("a parent", do_hwpt_alloc(fd, mock.idev, ioas,
					  IOMMU_HWPT_ALLOC_NEST_PARENT, 0,
					  &id.parent), 0) &&
	     is("a nested HWPT", do_nested_alloc(fd, mock.idev, id.parent,
						 &id.nested), 0) &&
	     is("a vIOMMU", do_viommu_alloc(fd, mock.idev, id.parent, NULL,
					    &id.viommu), 0);
	id.device = mock.idev;
	ok = ok && orders(fd, &id);
	close(pipes[0]);
	close(pipes[1]);
	close(id.file);
	return ok;
}

/* More than 4 GiB, above 1 TiB: larger than a u32 */
static bool beyond_4g(int fd, u32 ioas)
{
	const u64 length = (8UL << 30) + PAGE, iova = 2UL << 40;
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = ioas,
		.iova = iova,
		.length = length,
	};
	u64 word = 0, *first, *last;
	unsigned char *mem;
	int access;
	u32 item;
	bool ok;

	mem = mmap(NULL, length, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		return false;
	first = (u64 *)mem;
	last = (u64 *)(mem + length) - 1;
	*first = 0x1111;
	*last = 0x2222;
	ok = is("MAP", do_map(fd, ioas, mem, length, iova), 0) &&
	     is("an access",
		do_access_create(fd, ioas,
				 MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				 &access), 0) &&
	     is("a read at its end",
		do_access_rw(fd, access, iova + length - 8, &word, 8, 0), 0);
	if (ok && word != *last) {
		ksft_print_msg("at its end is %lx\n", word);
		ok = false;
	}
	word = 0x3333;
	ok = ok &&
	     is("a write at its beginning",
		do_access_rw(fd, access, iova, &word, 8, MOCK_ACCESS_RW_WRITE),
		0) &&
	     is("a read beyond its end",
		do_access_rw(fd, access, iova + length - 4, &word, 8, 0),
		-ENOENT) &&
	     is("a pin at its end",
		do_access_pin(fd, access, iova + length - PAGE, PAGE,
			      MOCK_FLAGS_ACCESS_WRITE, &item), 0) &&
	     is("pins of its last page",
		page_pins(fd, mem + length - PAGE), 1) &&
	     is("pins of its first page", page_pins(fd, mem), 0) &&
	     is("UNMAP", call(fd, IOMMU_IOAS_UNMAP, &unmap), 0) &&
	     is("pins of its last page, then",
		page_pins(fd, mem + length - PAGE), 0);
	if (ok && (*first != 0x3333 || unmap.length != length)) {
		ksft_print_msg("at its beginning is %lx, %llx were unmapped\n",
			       *first, unmap.length);
		ok = false;
	}
	munmap(mem, length);
	return ok;
}

/*
 * Memory of a process that has exited or called execve(), which is the same:
 * pages that are pinned stay pinned, also for later domains; others cannot be
 * pinned any more.
 */
static bool dead_memory(int fd, u32 ioas)
{
	u64 iova = MOCK_APERTURE_START, word;
	u32 pinned, copies, item, hwpt;
	struct mock mock;
	int access[2], status;
	bool ok;
	pid_t pid;

	ok = is("IOAS_ALLOC", do_ioas_alloc(fd, &pinned) ?:
			      do_ioas_alloc(fd, &copies), 0) &&
	     is("a device", do_mock_device(fd, pinned, &mock), 0) &&
	     is("an access",
		do_access_create(fd, ioas,
				 MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				 &access[0]), 0) &&
	     is("another",
		do_access_create(fd, pinned,
				 MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				 &access[1]), 0);
	if (!ok)
		return false;
	pid = fork();
	if (!pid) {
		u64 *mem = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		mem[PAGE / sizeof(*mem)] = 0x4444;
		_exit(do_map(fd, ioas, mem, 4 * PAGE, iova) ||
		      do_map(fd, pinned, mem, 4 * PAGE, iova));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
		ksft_print_msg("nobody maps and ends\n");
		return false;
	}
	word = 0;
	ok = is("a read", do_access_rw(fd, access[0], iova + PAGE, &word, 8, 0),
		-EFAULT) &
	     is("a pin", do_access_pin(fd, access[0], iova, PAGE, 0, &item),
		-EFAULT) &
	     is("a read of what is pinned",
		do_access_rw(fd, access[1], iova + PAGE, &word, 8, 0), 0) &
	     is("a pin of what is pinned",
		do_access_pin(fd, access[1], iova, PAGE, 0, &item), 0) &
	     is("a second domain",
		do_hwpt_alloc(fd, mock.idev, pinned, 0, 0, &hwpt), 0) &
	     is("COPY", do_copy(fd, copies, iova, ioas, iova, 4 * PAGE), 0) &
	     is("COPY of what is pinned",
		do_copy(fd, copies, iova + 4 * PAGE, pinned, iova, 4 * PAGE),
		0) &
	     is("a domain of the copies",
		do_hwpt_alloc(fd, mock.idev, copies, 0, 0, &hwpt), -EFAULT) &
	     is("UNMAP", do_unmap(fd, ioas, iova, 4 * PAGE), 0) &
	     is("UNMAP of what is pinned",
		do_unmap(fd, pinned, iova, 4 * PAGE), 0) &
	     is("UNMAP of the copies",
		do_unmap(fd, copies, iova, 8 * PAGE), 0);
	if (word != 0x4444) {
		ksft_print_msg("what is pinned is %lx\n", word);
		ok = false;
	}
	close(access[0]);
	close(access[1]);
	return ok;
}

/* Shared by refused_mmap() and its thread */
struct refused {
	int fd;
	/* The offset of a region; 0: none; -1: stop */
	u64 offset;
	/* The number of calls, and of those that were not refused */
	unsigned int calls, mapped;
};

static void *map_half_of_it(void *arg)
{
	struct refused *r = arg;
	u64 offset;

	while ((offset = __atomic_load_n(&r->offset, __ATOMIC_RELAXED)) !=
	       (u64)-1)
		if (offset) {
			r->calls++;
			r->mapped += mmap(NULL, PAGE, PROT_READ, MAP_SHARED,
					  r->fd, offset) != MAP_FAILED;
		}
	return NULL;
}

/* A refused mmap() must not make DESTROY of the owner return EBUSY. */
static bool refused_mmap(int fd, u32 ioas)
{
	struct iommu_viommu_selftest data = {};
	unsigned int busy = 0, failed = 0, i;
	struct refused refused = { .fd = fd };
	u32 parent, viommu;
	u64 end;
	struct mock mock;
	pthread_t thread;
	int rc;

	if (!is("a device", do_mock_device(fd, ioas, &mock), 0) ||
	    !is("a parent", do_hwpt_alloc(fd, mock.idev, ioas,
					  IOMMU_HWPT_ALLOC_NEST_PARENT, 0,
					  &parent), 0) ||
	    pthread_create(&thread, NULL, map_half_of_it, &refused))
		return false;
	/* A second, or a few if that is too short */
	end = now_ns() + 1000000000;
	for (i = 0; (i < 1000 || now_ns() < end) && !failed; i++) {
		if (do_viommu_alloc(fd, mock.idev, parent, &data, &viommu)) {
			failed++;
			break;
		}
		__atomic_store_n(&refused.offset, data.out_mmap_offset,
				 __ATOMIC_RELAXED);
		if (i % 2)
			sched_yield();
		/* A vIOMMU that stays busy is a failure. */
		while ((rc = do_destroy(fd, viommu)) == -EBUSY && busy < 1000)
			busy++;
		failed += !!rc;
	}
	__atomic_store_n(&refused.offset, (u64)-1, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	/*
	 * The threads do not wait for each other, so both must have run enough.
	 */
	ksft_print_msg("%u vIOMMUs, %u calls: %u times EBUSY, %u failed, %u mapped\n",
		       i, refused.calls, busy, failed, refused.mapped);
	return refused.calls >= 1000 && !busy && !failed && !refused.mapped;
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
	{ "first_reason", first_reason },
	{ "beyond_4g", beyond_4g },
	{ "dead_memory", dead_memory },
	{ "refused_mmap", refused_mmap },
};

int main(void)
{
	long long before, left;
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
	/* Aligned, so that the chosen IOVA is */
	memory += HUGE_PAGE - (uintptr_t)memory % HUGE_PAGE;
	before = pages_pinned_at_rest();
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
		ok = fd >= 0 && is("IOAS_ALLOC", do_ioas_alloc(fd, &ioas), 0) &&
		     tests[i].run(fd, ioas);
		close(fd);
		left = pages_left_pinned(before);
		before += left;
		if (left)
			ksft_print_msg("%lld pages stay pinned\n", left);
		ksft_test_result(ok && !left, "%s\n", tests[i].name);
	}
	ksft_finished();
}
