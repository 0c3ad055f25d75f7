/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the parts of iommufd_fuzz: iommufd_fuzz_commands.c has the table of
 * commands, iommufd_fuzz_life.c makes the calls, iommufd_fuzz.c watches.
 */
#ifndef __IOMMUFD_FUZZ_H
#define __IOMMUFD_FUZZ_H

#include "iommufd_stress.h"

#define PROCESSES 2
#define THREADS 3
#define COMMANDS_MAX 64
/* The number of calls of a thread before its process exits */
#define CALLS_OF_A_LIFE 1000U

enum type {
	END,
	/* The size of the structure. */
	SIZE,
	/* A reserved field */
	ZERO,
	/* Flags, a small number, any number */
	FLAGS,
	FEW,
	ANY,
	/* An id, mostly of an object of this type */
	ID,
	IOAS,
	DEV,
	STDEV,
	PT,
	HWPT,
	FAULT,
	VIOMMU,
	KINDS,
	/* A descriptor, mostly of this type */
	FD = KINDS,
	ACCESS,
	MEMORY_FD,
	DMABUF,
	FD_KINDS,
	IOVA = FD_KINDS,
	LENGTH,
	/* Memory to map, and memory to read or write */
	MEMORY,
	BUFFER,
	BUFFER_LENGTH,
	/* One of a few defined values */
	MAGIC,
	PAGE_SIZES,
	OFFSET,
};

struct field {
	unsigned char offset, width;
	enum type type;
	/* The most frequent value, if there is one */
	u32 usual;
};

struct command {
	const char *name;
	unsigned long nr;
	unsigned int size;
	/* Relative frequency */
	unsigned int weight;
	struct field fields[12];
	/* Where the response has an id or a descriptor, and its type */
	unsigned char out_id, out_id2, out_fd;
	enum type id_kind, id2_kind, fd_kind;
	/* The operation of the mock driver. */
	u32 test_op;
};

extern const struct command commands[];
extern const unsigned int nr_commands;

/* State of a thread for the watch; shared memory */
struct gauge {
	u64 calls, good, since;
	const char *what;
};

struct board {
	struct gauge gauges[PROCESSES][THREADS];
	u64 calls[COMMANDS_MAX], good[COMMANDS_MAX];
};

extern struct board *board;
/* Leave out commands with this in their name */
extern const char *excluded[8];
extern unsigned int nr_excluded;

/*
 * One process, number @which on the board; does not return. Its status is
 * CRASHED if it touched memory that another thread had unmapped.
 */
#define CRASHED 3
void live(unsigned int which, u64 seed);

#endif
