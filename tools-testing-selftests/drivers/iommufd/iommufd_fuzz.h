/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of iommufd_fuzz share: iommufd_fuzz_commands.c tells what
 * there is to call, iommufd_fuzz_life.c calls it, iommufd_fuzz.c watches.
 */
#ifndef __IOMMUFD_FUZZ_H
#define __IOMMUFD_FUZZ_H

#include "iommufd_stress.h"

#define PROCESSES 2
#define THREADS 3
#define COMMANDS_MAX 64
/* Calls of a thread before its process ends. */
#define CALLS_OF_A_LIFE 1000U

enum type {
	END,
	/* The size of the structure. */
	SIZE,
	/* Nothing yet. */
	ZERO,
	/* Few bits, few values, any value. */
	FLAGS,
	FEW,
	ANY,
	/* An id, mostly of an object of this kind. */
	ID,
	IOAS,
	DEV,
	STDEV,
	PT,
	HWPT,
	FAULT,
	VIOMMU,
	KINDS,
	/* A descriptor, mostly such a one. */
	FD = KINDS,
	ACCESS,
	MEMORY_FD,
	DMABUF,
	FD_KINDS,
	IOVA = FD_KINDS,
	LENGTH,
	/* Memory to map, and memory to read or write. */
	MEMORY,
	BUFFER,
	BUFFER_LENGTH,
	/* One of a few numbers that mean something. */
	MAGIC,
	PAGE_SIZES,
	OFFSET,
};

struct field {
	unsigned char offset, width;
	enum type type;
	/* What it is most of the time, if that is one value. */
	u32 usual;
};

struct command {
	const char *name;
	unsigned long nr;
	unsigned int size;
	/* How often, relative to the others. */
	unsigned int weight;
	struct field fields[12];
	/* Where the answer has an id or a descriptor, and of what kind. */
	unsigned char out_id, out_id2, out_fd;
	enum type id_kind, id2_kind, fd_kind;
	/* The operation of the mock driver. */
	u32 test_op;
};

extern const struct command commands[];
extern const unsigned int nr_commands;

/* What the watch sees of a thread; shared with it. */
struct gauge {
	u64 calls, good, since;
	const char *what;
};

struct board {
	struct gauge gauges[PROCESSES][THREADS];
	u64 calls[COMMANDS_MAX], good[COMMANDS_MAX];
};

extern struct board *board;
/* Commands that have this in their name are left out. */
extern const char *excluded[8];
extern unsigned int nr_excluded;

/*
 * One process, number @which on the board: does not return. Its status is
 * CRASHED if memory went under its feet.
 */
#define CRASHED 3
void live(unsigned int which, u64 seed);

#endif
