/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the halves of iommufd_fault_sweep share: the cases are in
 * iommufd_fault_sweep_cases.c, what is seen of a context from outside is in
 * iommufd_fault_sweep_state.c, and iommufd_fault_sweep.c injects the faults
 * and judges.
 */
#ifndef __IOMMUFD_FAULT_SWEEP_H
#define __IOMMUFD_FAULT_SWEEP_H

#include <stddef.h>
#include <sys/types.h>

#include "iommufd_stress.h"

/*
 * Memory to map: MEM_SIZE of small pages. The argument of a call is at FRAME,
 * and FRAME_RO is the same page, read-only.
 */
#define MEM 0x100000000000UL
#define MEM_SIZE (64 * PAGE)
#define FRAME 0x100010000000UL
#define FRAME_RO 0x100011000000UL

/* Where setup and calls map parts of MEM, all of them in the mock's aperture */
#define IOVA_FIRST 0x1000000UL
#define IOVA_SECOND 0x1100000UL
#define IOVA_NEW 0x1200000UL
#define IOVA_COPY 0x1300000UL
#define IOVA_DMABUF 0x1400000UL
#define FIRST_SIZE (12 * PAGE)
#define SECOND_SIZE (4 * PAGE)
#define NEW_SIZE (8 * PAGE)
#define SECOND_MEM (MEM + 16 * PAGE)
#define NEW_MEM (MEM + 32 * PAGE)

#define PASID 200
#define VIRT_ID 0x88

/* A context and what setup has put into it. */
struct world {
	int fd;
	/* Another context, to ask about pages with. */
	int check_fd;
	/* MEM as a file. */
	int mem_fd;
	int fault_fd, veventq_fd;
	int pin_fd, rw_fd;
	int dmabuf;
	__u32 ioas, ioas2;
	__u32 stdev, idev, hwpt;
	__u32 stdev2, idev2, hwpt2;
	__u32 paging, dirty, nested, fault, viommu, vdevice, veventq, queue;
	__u32 pinned;
	__u32 cookie;
	__u64 mmap_offset, mmap_length;
	void *map;
	/* A process that shares our files and not our memory. */
	pid_t helper;
	int helper_pipe;
	/* Make the call with an argument that cannot be written. */
	bool readonly;
	/* Failed while being set up, with this errno, at this line. */
	int error, line;
};

enum {
	/*
	 * Gives back or takes apart: succeeds with no memory left. It is also
	 * called with all allocations failing.
	 */
	SURE = 1 << 0,
	/*
	 * The uAPI has it done before its results are copied out: EFAULT may
	 * mean that all of it has been done.
	 */
	COMMITS = 1 << 1,
	/* May have done a part of it, just what C would have. */
	PARTIAL = 1 << 2,
	/* An event may be lost, and that be told by another. */
	LOSSY = 1 << 3,
	/* Success may come in another way, with another object. */
	FALLBACK = 1 << 5,
	/* Needs twice the memory that it leaves accounted. */
	TWICE = 1 << 6,
	/* The mock does not let it be called again. */
	ONCE = 1 << 7,
	/* Batches of a few pages: many more allocations. */
	SMALL_BATCHES = 1 << 4,
	/* Needs no memory, so that nothing can fail but a user copy. */
	NO_POINTS = 1 << 8,
};

struct sweep_case {
	const char *name;
	void (*setup)(struct world *w);
	/* One system call; the errno is returned negative. */
	long (*call)(struct world *w);
	unsigned int flags;
	/* Why COMMITS, PARTIAL, LOSSY. */
	const char *why;
};

extern const struct sweep_case sweep_cases[];
extern const unsigned int nr_sweep_cases;

struct text {
	size_t used;
	char bytes[16384];
};

__printf(2, 3)
void put(struct text *t, const char *format, ...);

/* Write down all that can be seen of W without changing it. */
void look(struct world *w, struct text *t);
/*
 * Take W apart, object by object, or by closing the context first, and write
 * down what stays behind.
 */
void take_apart(struct world *w, bool by_id, struct text *t);
long test_ioctl(int fd, void *cmd);

#endif
