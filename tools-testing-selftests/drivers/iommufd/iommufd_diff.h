/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the halves of iommufd_diff: iommufd_diff_calls.c makes the calls of
 * a sequence and records the results; iommufd_diff.c runs sequences on two
 * modules and compares the records.
 */
#ifndef __IOMMUFD_DIFF_H
#define __IOMMUFD_DIFF_H

#include <stddef.h>

#include "iommufd_stress.h"

/* The commands; each has a row in commands[]. */
enum command {
	CMD_DESTROY,
	CMD_IOAS_ALLOC,
	CMD_IOVA_RANGES,
	CMD_ALLOW_IOVAS,
	CMD_MAP,
	CMD_MAP_FILE,
	CMD_COPY,
	CMD_UNMAP,
	CMD_CHANGE_PROCESS,
	CMD_OPTION,
	CMD_VFIO_IOAS,
	CMD_HWPT_ALLOC,
	CMD_SET_DIRTY,
	CMD_GET_DIRTY,
	CMD_INVALIDATE,
	CMD_HW_INFO,
	CMD_FAULT_ALLOC,
	CMD_VIOMMU_ALLOC,
	CMD_VDEVICE_ALLOC,
	CMD_VEVENTQ_ALLOC,
	CMD_HW_QUEUE_ALLOC,
	CMD_NOIOMMU_PA,
	CMD_UNKNOWN,
	CMD_VFIO_VERSION,
	CMD_VFIO_EXTENSION,
	CMD_VFIO_SET_IOMMU,
	CMD_VFIO_INFO,
	CMD_VFIO_MAP,
	CMD_VFIO_UNMAP,
	CMD_MMAP,
	CMD_FAULT_READ,
	CMD_FAULT_WRITE,
	CMD_VEVENT_READ,
	CMD_VEVENT_WRITE,
	CMD_POLL,
	CMD_CLOSE,
	CMD_MOCK_DEVICE,
	CMD_MOCK_REPLACE,
	CMD_PASID_ATTACH,
	CMD_PASID_REPLACE,
	CMD_PASID_DETACH,
	CMD_PASID_CHECK,
	CMD_ACCESS_CREATE,
	CMD_ACCESS_REPLACE,
	CMD_ACCESS_PIN,
	CMD_ACCESS_UNPIN,
	CMD_ACCESS_RW,
	CMD_RESERVE,
	CMD_DIRTY,
	CMD_TRIGGER_FAULT,
	CMD_TRIGGER_VEVENT,
	CMD_DMABUF_GET,
	CMD_DMABUF_REVOKE,
	CMD_MEMORY_LIMIT,
	CMD_CHECK_MAP,
	CMD_CHECK_PINS,
	CMD_CHECK_IOTLB,
	CMD_CHECK_CACHE,
	CMD_STATUS,
	CMD_NR,
};

#define ERRNO_MAX 134

/* How long to wait for something that must happen; generous */
#define PATIENCE_SECONDS 60

struct command_row {
	const char *name;
	/* Relative frequency of the command */
	unsigned int weight;
	/* The argument begins with its size: EINVAL, E2BIG, EFAULT. */
	enum { PLAIN, STRUCT } argument;
	/* Further errnos of its code, negative if rare; ends with 0 */
	int errnos[14];
	/* The reason why it cannot succeed in this configuration */
	const char *never;
};

extern const struct command_row commands[CMD_NR];

/* The number of calls by result; [0] is success */
struct stats {
	unsigned long calls[CMD_NR];
	unsigned long results[CMD_NR][ERRNO_MAX];
};

/* Output of a sequence, shared with the process that started it */
struct diff_log {
	size_t used;
	size_t size;
	char text[];
};

struct sequence {
	u64 seed;
	unsigned int length;
	/* Calls to leave out, one byte each, or NULL */
	const u8 *skip;
};

/* Called once, before the first sequence: allocates the memory to map */
void diff_init(void);
/* Runs in a process of its own; writes one line for each call. */
void diff_run(const struct sequence *seq, struct diff_log *log,
	      struct stats *stats);

#endif
