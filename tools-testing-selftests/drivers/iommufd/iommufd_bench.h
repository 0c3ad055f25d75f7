/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the parts of iommufd_bench: measuring, kinds of memory, and the
 * backends in which memory is mapped
 */
#ifndef _IOMMUFD_BENCH_H
#define _IOMMUFD_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <linux/compiler.h>
#include <linux/types.h>

#define SZ_4K 0x1000UL
#define SZ_64K 0x10000UL
#define SZ_2M 0x200000UL
#define SZ_128M 0x8000000UL
#define SZ_1G 0x40000000UL

/* Above the addresses that VT-d reserves, aligned for pages of any size */
#define IOVA (4 * SZ_1G)

/* iommufd_bench.c */

extern const char *device_name;
extern int repeats;
extern size_t large;

void __noreturn __printf(1, 2) fail(const char *format, ...);

/**
 * wanted - Is any of these operations asked for?
 * @ops: their names, separated by spaces
 */
bool wanted(const char *ops);
/* Does a pattern ask for it explicitly? */
bool wanted_only(const char *op);
bool wanted_size(size_t size);

/* Number of repeats for an operation on @size bytes; fewer for slow ones */
int rounds_of(size_t size);

/**
 * struct sample - The clock of one operation
 * @op: its name; where it is not asked for, nothing is measured
 * @muted: it is not asked for
 * @best: least cost so far, UINT64_MAX if there is none
 * @best_ns: least wall time so far
 * @insns: where the emulator leaves the count of instructions, else zero
 * @start: wall time of the start
 */
struct sample {
	const char *op;
	bool muted;
	u64 best;
	u64 best_ns;
	u64 insns;
	struct timespec start;
};

struct sample sample_of(const char *op);

/* Cost of measuring nothing */
extern u64 overhead_insns, overhead_ns;
/* Does an emulator count instructions? */
extern bool counted;

static __always_inline void start(struct sample *sample)
{
	if (sample->muted)
		return;
	sample->insns = 0;
	clock_gettime(CLOCK_MONOTONIC, &sample->start);
#ifdef __x86_64__
	asm volatile("nopl 0x494f5301(%%rax,%%rax,1)" ::: "memory");
#endif
}

static __always_inline void stop(struct sample *sample)
{
	struct timespec now;
	u64 cost, ns, scratch;

	if (sample->muted)
		return;
#ifdef __x86_64__
	/* In one translation block, for the plugin */
	asm volatile(".balign 32\n\t"
		     "nopl 0x494f5302(%%rax,%%rax,1)\n\t"
		     "mov %1, %0"
		     : "=&r"(scratch) : "m"(sample->insns) : "memory");
#else
	(void)scratch;
#endif
	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (now.tv_sec - sample->start.tv_sec) * 1000000000ULL +
	     now.tv_nsec - sample->start.tv_nsec;
	ns = ns > overhead_ns ? ns - overhead_ns : 0;
	counted = sample->insns;
	cost = counted ? sample->insns - overhead_insns : ns;
	if (cost < sample->best)
		sample->best = cost;
	if (ns < sample->best_ns)
		sample->best_ns = ns;
}

/**
 * report - Print one row, if it was measured
 * @sample: the operation and its cost
 * @memory: kind of memory, or "-"
 * @size: bytes of one operation, or 0
 * @count: how many operations one sample was of
 */
void report(const struct sample *sample, const char *memory, size_t size,
	    unsigned int count);

/* The same for a value that is not a cost of time */
void report_value(const char *op, const char *memory, size_t size, u64 value,
		  const char *unit);

/* iommufd_bench_memory.c */

struct memory {
	const char *kind;
	char *base;
	size_t size;
	/* Other memory that was allocated with it, to be freed with it */
	void *extra;
	int fd;
};

/**
 * get_memory - Allocate memory and touch all of it
 * @mem: to be filled
 * @kind: anon4k (pages of 4 KiB, contiguous in blocks of 2 MiB where debugfs
 *	  can split them), frag4k (no two are neighbours), thp, hugetlb, hugefrag
 *	  (of hugetlbfs, no two pages of 2 MiB are neighbours), memfd
 * @size: a multiple of 2 MiB
 *
 * Return: false, with a message, if there is not so much of it.
 */
bool get_memory(struct memory *mem, const char *kind, size_t size);
void put_memory(struct memory *mem);

/* The same kinds, but not touched; freed with munmap() */
void *get_cold_memory(const char *kind, size_t size);

/**
 * struct usage - Memory of the whole kernel, in bytes
 * @objects: what slab caches, kmalloc() and vmalloc() have handed out
 * @tables: page tables of IOMMUs
 * @most: the most of both since watch_usage(), by pages
 */
struct usage {
	u64 objects;
	u64 tables;
	u64 most;
};

/* Before and after read_usage(): opening files takes memory, too. */
void begin_usage(void);
void end_usage(void);

/* Exact, but slow: shrinks slab caches first */
struct usage exact_usage(void);
/* By pages, at this moment */
struct usage quick_usage(void);
/* From now on, record the most that this CPU uses, if that is possible */
bool watch_usage(void);
void unwatch_usage(void);

/* The rows of this */
void bench_usage(const struct memory *mem);
void bench_area_usage(const struct memory *mem);

/* iommufd_bench_calls.c */

struct backend {
	const char *name;
	void (*open)(void);
	void (*close)(void);
	void (*map)(const struct memory *mem, size_t size, u64 iova);
	void (*unmap)(u64 iova, size_t size);
};

/* Functions of /dev/iommu and of the device that is attached to ioas */
extern int iommufd;
extern u32 ioas, device_id;
/* Functions of VFIO's own container */
extern int container;

extern const struct backend iommufd_backend, type1_backend;
/* Other backends on top of an open iommufd_backend */
extern const struct backend file_backend, compat_backend;

u32 ioas_alloc(void);
void destroy(u32 id);
/* HWPT_ALLOC; 0 if the flags are not supported */
u32 hwpt_alloc(u32 pt_id, u32 flags);
u64 ioas_map(u32 id, void *va, size_t size, u64 iova, u32 flags);
void ioas_unmap(u32 id, u64 iova, size_t size);
void ioas_copy(u32 src, u32 dst, size_t size);

/* Find up to @max devices bound to vfio-pci; returns their number */
int find_devices(const char **names, int max);
int open_cdev(const char *name);
void bind_cdev(int device, int fd);
void attach_cdev(int device, u32 pt_id);
void detach_cdev(int device);
int open_group(const char *name);

/* iommufd_bench_rows.c, iommufd_bench_threads.c: what is measured */

/* Called with an open backend */
void bench_small(void);
void bench_compat_small(int fd);
void bench_map(const struct backend *backend, const char *prefix,
	       const struct memory *mem, size_t size);
void bench_cold(const struct backend *backend, const char *kind, size_t size);
void bench_unmap_range(const struct backend *backend, const struct memory *mem,
		       size_t size, unsigned int areas);
void bench_alloc_iova(const struct memory *mem, unsigned int areas);
void bench_second(const struct memory *mem, size_t size);
void bench_dirty(const struct memory *mem, size_t size);
void bench_access(const struct memory *mem, size_t size);
void bench_lookups(void);
void bench_lookup_writes(void);

/* Opens the backend itself */
void bench_vm(const struct backend *backend, const struct memory *mem);

#endif
