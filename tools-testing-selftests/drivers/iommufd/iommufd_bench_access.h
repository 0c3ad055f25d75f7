/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The interface of a test module in the kernel that pins and copies memory of
 * an IOAS, as a driver of mediated devices does, and that counts memory. The
 * module is not part of the kernel. Without /dev/iommufd_bench_access its rows
 * are left out or less exact.
 */
#ifndef _IOMMUFD_BENCH_ACCESS_H
#define _IOMMUFD_BENCH_ACCESS_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define IOMMUFD_BENCH_ACCESS "iommufd_bench_access"

/* The most bytes that one call can pin or copy */
#define IOMMUFD_BENCH_ACCESS_MAX (2 << 20)

/**
 * struct iommufd_bench_access - One operation on an in-kernel access
 * @iommufd: ATTACH: file of the context
 * @ioas_id: ATTACH: its IOAS; once for each open file
 * @iova: PIN, UNPIN, RW: first IOVA
 * @length: PIN, UNPIN, RW: bytes
 * @write: RW: into the IOAS
 */
struct iommufd_bench_access {
	__s32 iommufd;
	__u32 ioas_id;
	__u64 iova;
	__u64 length;
	__u64 write;
};

/**
 * struct iommufd_bench_usage - Memory of the whole kernel at this moment
 * @slab_pages: in slabs and kmalloc()
 * @vmalloc_pages: in vmalloc()
 * @table_pages: in page tables of IOMMUs
 * @most_pages: the most of all of these since WATCH
 *
 * What /proc/vmstat has, to the page: its counters lag behind each processor's.
 */
struct iommufd_bench_usage {
	__u64 slab_pages;
	__u64 vmalloc_pages;
	__u64 table_pages;
	__u64 most_pages;
};

#define IOMMUFD_BENCH_ACCESS_ATTACH _IOW('b', 1, struct iommufd_bench_access)
#define IOMMUFD_BENCH_ACCESS_PIN _IOW('b', 2, struct iommufd_bench_access)
#define IOMMUFD_BENCH_ACCESS_UNPIN _IOW('b', 3, struct iommufd_bench_access)
#define IOMMUFD_BENCH_ACCESS_RW _IOW('b', 4, struct iommufd_bench_access)
#define IOMMUFD_BENCH_ACCESS_USAGE _IOR('b', 5, struct iommufd_bench_usage)
/* Start and stop recording the most memory in use, on this CPU */
#define IOMMUFD_BENCH_ACCESS_WATCH _IO('b', 6)
#define IOMMUFD_BENCH_ACCESS_UNWATCH _IO('b', 7)

#endif
