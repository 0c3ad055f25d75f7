// SPDX-License-Identifier: GPL-2.0-only
/* iommufd_bench: kinds of memory, and the amount of it that the kernel uses */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>

#include "iommufd_bench.h"
#include "iommufd_bench_access.h"

static void touch(char *base, size_t size)
{
	size_t i;

	for (i = 0; i < size; i += SZ_4K)
		base[i] = 1;
}

/* Reserve address space at a multiple of 2 MiB. */
static void *reserve(size_t size, int flags, int fd)
{
	size_t room = size + SZ_2M;
	char *base, *aligned;

	base = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED)
		fail("no address space");
	aligned = (char *)(((uintptr_t)base + SZ_2M - 1) & ~(SZ_2M - 1));
	munmap(base, room);
	aligned = mmap(aligned, size, PROT_READ | PROT_WRITE, MAP_FIXED | flags,
		       fd, 0);
	return aligned == MAP_FAILED ? NULL : aligned;
}

static void *reserve_anon(size_t size, int advice)
{
	void *base = reserve(size, MAP_PRIVATE | MAP_ANONYMOUS, -1);

	if (base)
		madvise(base, size, advice);
	return base;
}

/* Split huge pages into 4 KiB pages, which stay where they are. */
static bool split(char *base, size_t size)
{
	int fd = open("/sys/kernel/debug/split_huge_pages", O_WRONLY);
	char range[64];
	bool ok;

	if (fd < 0)
		return false;
	snprintf(range, sizeof(range), "%d,0x%lx,0x%lx", getpid(),
		 (unsigned long)base, (unsigned long)base + size);
	ok = write(fd, range, strlen(range)) > 0;
	close(fd);
	return ok;
}

static bool get_anon4k(struct memory *mem)
{
	mem->base = reserve_anon(mem->size, MADV_HUGEPAGE);
	if (!mem->base)
		return false;
	touch(mem->base, mem->size);
	if (split(mem->base, mem->size)) {
		madvise(mem->base, mem->size, MADV_NOHUGEPAGE);
		return true;
	}
	munmap(mem->base, mem->size);
	mem->base = reserve_anon(mem->size, MADV_NOHUGEPAGE);
	if (!mem->base)
		return false;
	touch(mem->base, mem->size);
	return true;
}

/* Move every other page, so that no two neighbours are contiguous. */
static bool get_frag4k(struct memory *mem)
{
	size_t i;

	mem->base = reserve_anon(mem->size, MADV_NOHUGEPAGE);
	mem->extra = reserve_anon(mem->size, MADV_NOHUGEPAGE);
	if (!mem->base || !mem->extra)
		return false;
	for (i = 0; i < mem->size; i += SZ_4K) {
		mem->base[i] = 1;
		((char *)mem->extra)[i] = 1;
	}
	return true;
}

static bool get_thp(struct memory *mem)
{
	mem->base = reserve_anon(mem->size, MADV_HUGEPAGE);
	if (!mem->base)
		return false;
	touch(mem->base, mem->size);
	return true;
}

static bool get_file(struct memory *mem, unsigned int flags)
{
	mem->fd = memfd_create("iommufd_bench", flags | MFD_CLOEXEC);
	if (mem->fd < 0 || ftruncate(mem->fd, mem->size))
		return false;
	mem->base = reserve(mem->size, MAP_SHARED | MAP_POPULATE, mem->fd);
	return mem->base;
}

/* The same with pages of 2 MiB */
static bool get_hugefrag(struct memory *mem)
{
	int fd;
	unsigned int flags = MFD_HUGETLB | MFD_CLOEXEC;
	size_t i;

	mem->fd = memfd_create("iommufd_bench", flags);
	fd = memfd_create("iommufd_bench", flags);
	if (mem->fd < 0 || fd < 0 || ftruncate(mem->fd, mem->size) ||
	    ftruncate(fd, mem->size))
		return false;
	/* On error there are not enough pages. */
	mem->base = reserve(mem->size, MAP_SHARED, mem->fd);
	mem->extra = reserve(mem->size, MAP_SHARED, fd);
	close(fd);
	if (!mem->base || !mem->extra)
		return false;
	for (i = 0; i < mem->size; i += SZ_2M) {
		mem->base[i] = 1;
		((char *)mem->extra)[i] = 1;
	}
	return true;
}

void put_memory(struct memory *mem)
{
	if (mem->base)
		munmap(mem->base, mem->size);
	if (mem->extra)
		munmap(mem->extra, mem->size);
	if (mem->fd >= 0)
		close(mem->fd);
}

bool get_memory(struct memory *mem, const char *kind, size_t size)
{
	bool ok;

	*mem = (struct memory){ .kind = kind, .size = size, .fd = -1 };
	if (!strcmp(kind, "anon4k"))
		ok = get_anon4k(mem);
	else if (!strcmp(kind, "frag4k"))
		ok = get_frag4k(mem);
	else if (!strcmp(kind, "thp"))
		ok = get_thp(mem);
	else if (!strcmp(kind, "memfd"))
		ok = get_file(mem, 0);
	else if (!strcmp(kind, "hugefrag"))
		ok = get_hugefrag(mem);
	else
		ok = get_file(mem, MFD_HUGETLB);
	if (!ok) {
		fprintf(stderr, "iommufd_bench: no %zu MiB of %s\n",
			size / 1024 / 1024, kind);
		put_memory(mem);
	}
	return ok;
}

void *get_cold_memory(const char *kind, size_t size)
{
	if (!strcmp(kind, "hugetlb"))
		return reserve(size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
			       -1);
	return reserve_anon(size, strcmp(kind, "thp") ? MADV_NOHUGEPAGE :
							MADV_HUGEPAGE);
}

/* Memory that the kernel uses */

static void write_one(const char *path)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, "1", 1) != 1)
		fail("%s", path);
	close(fd);
}

/* The number after the first @name of a file of "name number" lines. */
static u64 number_in(const char *text, const char *name)
{
	size_t len = strlen(name);
	const char *line;

	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, name, len) &&
		    (line[len] == ' ' || line[len] == ':'))
			return strtoull(line + len + 1, NULL, 10);
	}
	return 0;
}

static void read_text(const char *path, char *text, size_t size)
{
	ssize_t len;
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		fail("%s", path);
	len = read(fd, text, size - 1);
	if (len < 0)
		fail("%s", path);
	text[len] = 0;
	close(fd);
}

static int usage_fd = -1;

void begin_usage(void)
{
	usage_fd = open("/dev/" IOMMUFD_BENCH_ACCESS, O_RDWR | O_CLOEXEC);
}

void end_usage(void)
{
	if (usage_fd >= 0)
		close(usage_fd);
}

struct usage quick_usage(void)
{
	struct iommufd_bench_usage pages = {};
	char text[16384];

	if (usage_fd < 0 ||
	    ioctl(usage_fd, IOMMUFD_BENCH_ACCESS_USAGE, &pages)) {
		read_text("/proc/vmstat", text, sizeof(text));
		pages.slab_pages = number_in(text, "nr_slab_reclaimable") +
				   number_in(text, "nr_slab_unreclaimable");
		pages.vmalloc_pages = number_in(text, "nr_vmalloc");
		pages.table_pages = number_in(text, "nr_iommu_pages");
	}
	return (struct usage){
		.objects = (pages.slab_pages + pages.vmalloc_pages) * SZ_4K,
		.tables = pages.table_pages * SZ_4K,
		.most = pages.most_pages * SZ_4K,
	};
}

bool watch_usage(void)
{
	return usage_fd >= 0 && !ioctl(usage_fd, IOMMUFD_BENCH_ACCESS_WATCH);
}

void unwatch_usage(void)
{
	ioctl(usage_fd, IOMMUFD_BENCH_ACCESS_UNWATCH);
}

/*
 * Count objects in use where there is a slab cache, and pages otherwise:
 * allocations of more than a few pages are in no slab.
 */
struct usage exact_usage(void)
{
	unsigned long active, objects, size, per_slab, pages, slabs;
	u64 in_use = 0, in_slabs = 0;
	struct usage usage;
	char line[512];
	glob_t caches;
	FILE *file;
	size_t i;

	/* Memory of earlier rows is freed after some grace periods. */
	usleep(300000);
	if (!glob("/sys/kernel/slab/*/shrink", 0, NULL, &caches)) {
		for (i = 0; i < caches.gl_pathc; i++)
			write_one(caches.gl_pathv[i]);
		globfree(&caches);
	}
	usage = quick_usage();
	file = fopen("/proc/slabinfo", "r");
	if (!file)
		fail("/proc/slabinfo");
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line,
			   "%*s %lu %lu %lu %lu %lu : tunables %*u %*u %*u : slabdata %*u %lu",
			   &active, &objects, &size, &per_slab, &pages,
			   &slabs) != 6)
			continue;
		in_use += (u64)active * size;
		in_slabs += (u64)slabs * pages * SZ_4K;
	}
	fclose(file);
	usage.objects = usage.objects + in_use - in_slabs;
	return usage;
}

/*
 * The memory that a large mapping keeps, and the most that is in use while it
 * is made and removed. With a page table of its own, as that of the device
 * keeps some levels.
 */
void bench_usage(const struct memory *mem)
{
	struct usage before, after;
	u32 id, hwpt;
	u64 base;

	if (!wanted("mem-objects mem-tables mem-peak"))
		return;
	begin_usage();
	id = ioas_alloc();
	hwpt = hwpt_alloc(id, 0);
	exact_usage();
	before = exact_usage();
	ioas_map(id, mem->base, mem->size, IOVA, IOMMU_IOAS_MAP_FIXED_IOVA);
	after = exact_usage();
	ioas_unmap(id, IOVA, mem->size);
	report_value("mem-objects", mem->kind, mem->size,
		     after.objects - before.objects, "bytes");
	report_value("mem-tables", mem->kind, mem->size,
		     after.tables - before.tables, "bytes");
	destroy(hwpt);

	hwpt = hwpt_alloc(id, 0);
	exact_usage();
	if (watch_usage()) {
		before = quick_usage();
		base = before.objects + before.tables;
		ioas_map(id, mem->base, mem->size, IOVA,
			 IOMMU_IOAS_MAP_FIXED_IOVA);
		/* The most is at least what is kept. */
		quick_usage();
		ioas_unmap(id, IOVA, mem->size);
		after = quick_usage();
		unwatch_usage();
		report_value("mem-peak", mem->kind, mem->size,
			     after.most - base, "bytes");
	}
	destroy(hwpt);
	destroy(id);
	end_usage();
}

/* The memory that an area of one page keeps, without page tables */
void bench_area_usage(const struct memory *mem)
{
	const unsigned int areas = 10000;
	struct usage before, after;
	unsigned int area;

	if (!wanted("mem-area"))
		return;
	begin_usage();
	exact_usage();
	before = exact_usage();
	for (area = 0; area < areas; area++)
		ioas_map(ioas, mem->base, SZ_4K, IOVA + area * SZ_4K,
			 IOMMU_IOAS_MAP_FIXED_IOVA);
	after = exact_usage();
	end_usage();
	ioas_unmap(ioas, IOVA, areas * SZ_4K);
	report_value("mem-area", mem->kind, SZ_4K,
		     (after.objects - before.objects) / areas, "bytes");
}
