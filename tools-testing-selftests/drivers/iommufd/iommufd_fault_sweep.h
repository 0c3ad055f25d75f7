/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the parts of iommufd_fault_sweep: the cases are in
 * iommufd_fault_sweep_cases.c; iommufd_fault_sweep_state.c records the state of
 * a context; iommufd_fault_sweep.c injects failures and judges.
 */
#ifndef __IOMMUFD_FAULT_SWEEP_H
#define __IOMMUFD_FAULT_SWEEP_H

#include <stddef.h>
#include <sys/types.h>

#include "iommufd_stress.h"

/*
 * Memory to map: MEM_SIZE bytes of small pages. The argument of a call is at
 * FRAME; FRAME_RO is the same page, read-only.
 */
#define MEM 0x100000000000UL
#define MEM_SIZE (64 * PAGE)
#define FRAME 0x100010000000UL
#define FRAME_RO 0x100011000000UL

/* Places where setup and calls map parts of MEM, in the mock's aperture */
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

/* A context, and the objects that setup has created */
struct world {
	int fd;
	/* Another context, to check pages with */
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
	/* A process that shares our files but not our memory */
	pid_t helper;
	int helper_pipe;
	/* Make the call with a read-only argument */
	bool readonly;
	/* Setup has failed with this errno at this line */
	int error, line;
};

enum {
	/*
	 * Releases or destroys: succeeds without memory. Also called with all
	 * allocations failing.
	 */
	SURE = 1 << 0,
	/*
	 * Takes effect before its results are copied out: after EFAULT all of
	 * it may be done.
	 */
	COMMITS = 1 << 1,
	/* May take effect in part, exactly as in C */
	PARTIAL = 1 << 2,
	/* An event may be lost, which another event reports */
	LOSSY = 1 << 3,
	/* May succeed in another way, with another object */
	FALLBACK = 1 << 5,
	/* Needs twice the memory that it leaves charged */
	TWICE = 1 << 6,
	/* The mock driver does not allow a second call */
	ONCE = 1 << 7,
	/* With batches of a few pages: many more allocations */
	SMALL_BATCHES = 1 << 4,
	/* Allocates nothing: only user copies can fail */
	NO_POINTS = 1 << 8,
};

struct sweep_case {
	const char *name;
	void (*setup)(struct world *w);
	/* One system call; returns a negative errno */
	long (*call)(struct world *w);
	unsigned int flags;
	/* The reason for COMMITS, PARTIAL, LOSSY */
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

/* Record the visible state of W without changing it */
void look(struct world *w, struct text *t);
/*
 * Destroy W, object by object or by closing the context first, and record what
 * is left
 */
void take_apart(struct world *w, bool by_id, struct text *t);
long test_ioctl(int fd, void *cmd);

#endif
