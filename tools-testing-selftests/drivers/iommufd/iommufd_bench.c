// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the operations of iommufd cost, on a device's real page table.
 *
 * Usage: iommufd_bench [-b iommufd|type1|none] [-d vfioN] [-n repeats]
 *                      [-s large size in MiB] [-o operation] [-m memory]
 *                      [-S size in bytes]
 *
 * Each line of output is one operation:
 *
 *     bench <backend> <operation> <memory> <size> <cost> <insns|ns>
 *
 * where the cost is that of the whole system call, the least of the repeats.
 * A device has to be bound to vfio-pci (or any driver with a VFIO cdev); it
 * does no DMA. "none" measures the controls alone.
 *
 * In QEMU with the plugin of this repository the unit is guest instructions:
 * the plugin recognises two NOPs around what is measured, and puts the count
 * into the variable that is loaded after the second. Elsewhere those NOPs do
 * nothing, the variable keeps its value, and the unit is nanoseconds.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/compiler.h>
#include <linux/types.h>
#include <linux/vfio.h>

#define SZ_4K 0x1000UL
#define SZ_64K 0x10000UL
#define SZ_2M 0x200000UL
#define SZ_1G 0x40000000UL

/* Above the addresses that VT-d reserves, aligned for pages of any size */
#define IOVA (4 * SZ_1G)

static const char *device_name;
static const char *only;
static const char *only_kind;
static size_t only_size;
static int repeats = 5;
static size_t large = SZ_1G;

static void __noreturn __printf(1, 2)
fail(const char *format, ...)
{
	int error = errno;
	va_list args;

	fprintf(stderr, "iommufd_bench: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(1);
}

/* The clock */

struct sample {
	u64 best;
	u64 insns;
	struct timespec start;
};

static u64 overhead_insns, overhead_ns;
static bool counted;

static __always_inline void start(struct sample *sample)
{
	sample->insns = 0;
	clock_gettime(CLOCK_MONOTONIC, &sample->start);
#ifdef __x86_64__
	asm volatile("nopl 0x494f5301(%%rax,%%rax,1)" ::: "memory");
#endif
}

static __always_inline void stop(struct sample *sample)
{
	struct timespec now;
	u64 cost, ns;

#ifdef __x86_64__
	u64 scratch;

	/* In one translation block, so that the plugin sees them together. */
	asm volatile(".balign 32\n\t"
		     "nopl 0x494f5302(%%rax,%%rax,1)\n\t"
		     "mov %1, %0"
		     : "=&r"(scratch) : "m"(sample->insns) : "memory");
#endif
	clock_gettime(CLOCK_MONOTONIC, &now);
	ns = (now.tv_sec - sample->start.tv_sec) * 1000000000ULL +
	     now.tv_nsec - sample->start.tv_nsec;
	counted = sample->insns;
	if (counted)
		cost = sample->insns - overhead_insns;
	else
		cost = ns > overhead_ns ? ns - overhead_ns : 0;
	if (cost < sample->best)
		sample->best = cost;
}

static struct sample new_sample(void)
{
	return (struct sample){ .best = UINT64_MAX };
}

static void calibrate(void)
{
	struct sample sample = new_sample();
	int i;

	for (i = 0; i < 100; i++) {
		start(&sample);
		stop(&sample);
	}
	if (counted)
		overhead_insns = sample.best;
	else
		overhead_ns = sample.best;
}

/* Is the operation asked for? */
static bool wanted(const char *op)
{
	return !only || !strcmp(only, op);
}

static void report(const char *backend, const char *op, const char *memory,
		   size_t size, const struct sample *sample, unsigned int count)
{
	static const char units[] = "BKMG";
	int unit = 0;

	if (sample->best == UINT64_MAX || !wanted(op))
		return;
	while (size && size % 1024 == 0 && unit < 3) {
		size /= 1024;
		unit++;
	}
	printf("bench %s %s %s %zu%c %llu %s\n", backend, op, memory, size,
	       units[unit], (unsigned long long)sample->best / count,
	       counted ? "insns" : "ns");
	fflush(stdout);
}

/* Memory of every kind */

struct memory {
	const char *kind;
	void *base;
	size_t size;
	/* What was allocated in between, to be freed with it */
	void *extra;
	int fd;
};

static void touch(char *base, size_t size)
{
	size_t i;

	for (i = 0; i < size; i += SZ_4K)
		base[i] = 1;
}

/* Address space that starts at a multiple of 2 MiB. */
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

static bool get_anon(struct memory *mem, int advice, bool fragment)
{
	size_t i;

	mem->base = reserve(mem->size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!mem->base)
		return false;
	madvise(mem->base, mem->size, advice);
	if (!fragment) {
		touch(mem->base, mem->size);
		return true;
	}
	/* Every other page goes elsewhere, so that no two are neighbours. */
	mem->extra = reserve(mem->size, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!mem->extra)
		return false;
	madvise(mem->extra, mem->size, advice);
	for (i = 0; i < mem->size; i += SZ_4K) {
		((char *)mem->base)[i] = 1;
		((char *)mem->extra)[i] = 1;
	}
	return true;
}

static bool get_file(struct memory *mem, unsigned int flags)
{
	mem->fd = memfd_create("iommufd_bench", flags);
	if (mem->fd < 0 || ftruncate(mem->fd, mem->size))
		return false;
	mem->base = reserve(mem->size, MAP_SHARED | MAP_POPULATE, mem->fd);
	return mem->base;
}

static void put_memory(struct memory *mem)
{
	if (mem->base)
		munmap(mem->base, mem->size);
	if (mem->extra)
		munmap(mem->extra, mem->size);
	if (mem->fd >= 0)
		close(mem->fd);
}

static bool get_memory(struct memory *mem, const char *kind, size_t size)
{
	bool ok;

	*mem = (struct memory){ .kind = kind, .size = size, .fd = -1 };
	if (!strcmp(kind, "anon4k"))
		ok = get_anon(mem, MADV_NOHUGEPAGE, false);
	else if (!strcmp(kind, "frag4k"))
		ok = get_anon(mem, MADV_NOHUGEPAGE, true);
	else if (!strcmp(kind, "thp"))
		ok = get_anon(mem, MADV_HUGEPAGE, false);
	else if (!strcmp(kind, "memfd"))
		ok = get_file(mem, 0);
	else
		ok = get_file(mem, MFD_HUGETLB);
	if (!ok) {
		fprintf(stderr, "iommufd_bench: no %zu MiB of %s\n",
			size / 1024 / 1024, kind);
		put_memory(mem);
	}
	return ok;
}

/* Where mappings are made: an IOAS with a device attached, or a container */

struct backend {
	const char *name;
	void (*map)(const struct memory *mem, size_t size, u64 iova);
	void (*unmap)(u64 iova, size_t size);
};

static int iommufd = -1;
static int vfio_device = -1;
static int container = -1;
static u32 ioas, device_id;

static u32 ioas_alloc(void)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &cmd))
		fail("IOMMU_IOAS_ALLOC");
	return cmd.out_ioas_id;
}

static void destroy(u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	if (ioctl(iommufd, IOMMU_DESTROY, &cmd))
		fail("IOMMU_DESTROY");
}

static u32 hwpt_alloc(u32 pt_id)
{
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.dev_id = device_id,
		.pt_id = pt_id,
	};

	if (ioctl(iommufd, IOMMU_HWPT_ALLOC, &cmd))
		fail("IOMMU_HWPT_ALLOC");
	return cmd.out_hwpt_id;
}

static u64 ioas_map(u32 id, void *va, size_t size, u64 iova,
		    u32 flags)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
			 flags,
		.ioas_id = id,
		.user_va = (uintptr_t)va,
		.length = size,
		.iova = iova,
	};

	if (ioctl(iommufd, IOMMU_IOAS_MAP, &cmd))
		fail("IOMMU_IOAS_MAP");
	return cmd.iova;
}

static void ioas_map_file(const struct memory *mem, size_t size, u64 iova)
{
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = ioas,
		.fd = mem->fd,
		.length = size,
		.iova = iova,
	};

	if (ioctl(iommufd, IOMMU_IOAS_MAP_FILE, &cmd))
		fail("IOMMU_IOAS_MAP_FILE");
}

static void ioas_copy(u32 src, u32 dst, size_t size)
{
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE |
			 IOMMU_IOAS_MAP_FIXED_IOVA,
		.dst_ioas_id = dst,
		.src_ioas_id = src,
		.length = size,
		.dst_iova = IOVA,
		.src_iova = IOVA,
	};

	if (ioctl(iommufd, IOMMU_IOAS_COPY, &cmd))
		fail("IOMMU_IOAS_COPY");
}

static void ioas_unmap(u32 id, u64 iova, size_t size)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = id,
		.iova = iova,
		.length = size,
	};

	if (ioctl(iommufd, IOMMU_IOAS_UNMAP, &cmd))
		fail("IOMMU_IOAS_UNMAP");
}

static void iommufd_map(const struct memory *mem, size_t size, u64 iova)
{
	ioas_map(ioas, mem->base, size, iova, IOMMU_IOAS_MAP_FIXED_IOVA);
}

static void iommufd_unmap(u64 iova, size_t size)
{
	ioas_unmap(ioas, iova, size);
}

/* The same ioctls for VFIO's container and for iommufd's imitation of it */
static void vfio_map(int fd, const struct memory *mem, size_t size,
		     u64 iova)
{
	struct vfio_iommu_type1_dma_map cmd = {
		.argsz = sizeof(cmd),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)mem->base,
		.iova = iova,
		.size = size,
	};

	if (ioctl(fd, VFIO_IOMMU_MAP_DMA, &cmd))
		fail("VFIO_IOMMU_MAP_DMA");
}

static void vfio_unmap(int fd, u64 iova, size_t size)
{
	struct vfio_iommu_type1_dma_unmap cmd = {
		.argsz = sizeof(cmd),
		.iova = iova,
		.size = size,
	};

	if (ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &cmd))
		fail("VFIO_IOMMU_UNMAP_DMA");
}

static void type1_map(const struct memory *mem, size_t size, u64 iova)
{
	vfio_map(container, mem, size, iova);
}

static void type1_unmap(u64 iova, size_t size)
{
	vfio_unmap(container, iova, size);
}

static void compat_map(const struct memory *mem, size_t size, u64 iova)
{
	vfio_map(iommufd, mem, size, iova);
}

static void compat_unmap(u64 iova, size_t size)
{
	vfio_unmap(iommufd, iova, size);
}

static const struct backend backends[] = {
	{ "iommufd", iommufd_map, iommufd_unmap },
	{ "type1", type1_map, type1_unmap },
};

static const struct backend file_backend = {
	"iommufd", ioas_map_file, iommufd_unmap
};

static const struct backend compat_backend = {
	"iommufd", compat_map, compat_unmap
};

static void open_iommufd(void)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach)
	};
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	char path[PATH_MAX];

	iommufd = open("/dev/iommu", O_RDWR);
	if (iommufd < 0)
		fail("/dev/iommu");
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", device_name);
	vfio_device = open(path, O_RDWR);
	if (vfio_device < 0)
		fail("%s", path);
	bind.iommufd = iommufd;
	if (ioctl(vfio_device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		fail("VFIO_DEVICE_BIND_IOMMUFD");
	device_id = bind.out_devid;
	ioas = ioas_alloc();
	attach.pt_id = ioas;
	if (ioctl(vfio_device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		fail("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
	compat.ioas_id = ioas;
	if (ioctl(iommufd, IOMMU_VFIO_IOAS, &compat))
		fail("IOMMU_VFIO_IOAS");
}

static void open_type1(void)
{
	char path[PATH_MAX], link[PATH_MAX];
	ssize_t len;
	int group;

	snprintf(path, sizeof(path),
		 "/sys/class/vfio-dev/%s/device/iommu_group", device_name);
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		fail("%s", path);
	link[len] = 0;
	snprintf(path, sizeof(path), "/dev/vfio%s", strrchr(link, '/'));
	group = open(path, O_RDWR);
	if (group < 0)
		fail("%s", path);
	container = open("/dev/vfio/vfio", O_RDWR);
	if (container < 0)
		fail("/dev/vfio/vfio");
	if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container))
		fail("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		fail("VFIO_SET_IOMMU");
}

/* Without a name, the first device there is */
static const char *find_device(void)
{
	struct dirent *entry;
	char *name = NULL;
	DIR *dir;

	dir = opendir("/dev/vfio/devices");
	if (!dir)
		fail("no device is bound to vfio-pci");
	while (!name && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.')
			name = strdup(entry->d_name);
	}
	closedir(dir);
	if (!name)
		fail("no device is bound to vfio-pci");
	return name;
}

/* What is measured */

static void bench_map(const struct backend *backend, const char *prefix,
		      const struct memory *mem, size_t size)
{
	struct sample map = new_sample(), unmap = new_sample();
	char map_name[32], unmap_name[32];
	int i;

	snprintf(map_name, sizeof(map_name), "%smap", prefix);
	snprintf(unmap_name, sizeof(unmap_name), "%sunmap", prefix);
	if (!wanted(map_name) && !wanted(unmap_name))
		return;
	/* The first round fills caches and allocates page tables. */
	for (i = 0; i <= repeats; i++) {
		bool measure = i;

		if (measure && wanted(map_name)) {
			start(&map);
			backend->map(mem, size, IOVA);
			stop(&map);
		} else {
			backend->map(mem, size, IOVA);
		}
		if (measure && wanted(unmap_name)) {
			start(&unmap);
			backend->unmap(IOVA, size);
			stop(&unmap);
		} else {
			backend->unmap(IOVA, size);
		}
	}
	if (wanted(map_name))
		report(backend->name, map_name, mem->kind, size, &map, 1);
	if (wanted(unmap_name))
		report(backend->name, unmap_name, mem->kind, size, &unmap, 1);
}

/* One call that unmaps many areas; the cost is for each of them. */
static void bench_unmap_range(const struct backend *backend,
			      const struct memory *mem, unsigned int areas)
{
	struct sample sample = new_sample();
	unsigned int area;
	int i;

	if (!wanted("unmap-range"))
		return;
	for (i = 0; i <= repeats; i++) {
		for (area = 0; area < areas; area++)
			backend->map(mem, SZ_4K, IOVA + area * 2 * SZ_4K);
		start(&sample);
		backend->unmap(IOVA, areas * 2 * SZ_4K);
		stop(&sample);
	}
	report(backend->name, "unmap-range", mem->kind, SZ_4K, &sample, areas);
}

/* The kernel has to look behind @areas neighbours for a free address. */
static void bench_alloc_iova(const struct memory *mem, unsigned int areas)
{
	struct sample sample = new_sample();
	char op[32];
	unsigned int area;
	u64 iova;
	int i;

	snprintf(op, sizeof(op), "map-any@%u", areas);
	if (!wanted(op))
		return;
	for (area = 0; area < areas; area++)
		iommufd_map(mem, SZ_4K, area * SZ_4K);
	for (i = 0; i <= repeats; i++) {
		start(&sample);
		iova = ioas_map(ioas, mem->base, SZ_4K, 0, 0);
		stop(&sample);
		iommufd_unmap(iova, SZ_4K);
	}
	report("iommufd", op, mem->kind, SZ_4K, &sample, 1);
	if (areas)
		iommufd_unmap(0, areas * SZ_4K);
}

/* A second page table: filled by a copy, and as a whole. */
static void bench_second(const struct memory *mem, size_t size)
{
	struct sample copy = new_sample(), unmap = new_sample();
	struct sample fill = new_sample(), drain = new_sample();
	u32 other, hwpt;
	int i;

	if (!wanted("copy") && !wanted("copy-unmap") && !wanted("second-fill") &&
	    !wanted("second-drain"))
		return;
	iommufd_map(mem, size, IOVA);
	other = ioas_alloc();
	hwpt = hwpt_alloc(other);
	for (i = 0; i <= repeats; i++) {
		start(&copy);
		ioas_copy(ioas, other, size);
		stop(&copy);
		start(&unmap);
		ioas_unmap(other, IOVA, size);
		stop(&unmap);
	}
	destroy(hwpt);
	destroy(other);
	for (i = 0; i <= repeats; i++) {
		start(&fill);
		hwpt = hwpt_alloc(ioas);
		stop(&fill);
		start(&drain);
		destroy(hwpt);
		stop(&drain);
	}
	iommufd_unmap(IOVA, size);
	report("iommufd", "copy", mem->kind, size, &copy, 1);
	report("iommufd", "copy-unmap", mem->kind, size, &unmap, 1);
	report("iommufd", "second-fill", mem->kind, size, &fill, 1);
	report("iommufd", "second-drain", mem->kind, size, &drain, 1);
}

static void bench_small(void)
{
	struct sample alloc = new_sample(), free = new_sample();
	struct sample ranges = new_sample(), option = new_sample();
	struct iommu_iova_range iovas[8];
	u32 id;
	int i;

	if (!wanted("ioas-alloc") && !wanted("ioas-destroy") &&
	    !wanted("iova-ranges") && !wanted("option"))
		return;
	for (i = 0; i < 10 * repeats; i++) {
		struct iommu_ioas_iova_ranges ranges_cmd = {
			.size = sizeof(ranges_cmd),
			.ioas_id = ioas,
			.num_iovas = 8,
			.allowed_iovas = (uintptr_t)iovas,
		};
		struct iommu_option option_cmd = {
			.size = sizeof(option_cmd),
			.option_id = IOMMU_OPTION_HUGE_PAGES,
			.op = IOMMU_OPTION_OP_GET,
			.object_id = ioas,
		};

		if (wanted("ioas-alloc") || wanted("ioas-destroy")) {
			start(&alloc);
			id = ioas_alloc();
			stop(&alloc);
			start(&free);
			destroy(id);
			stop(&free);
		}
		start(&ranges);
		if (ioctl(iommufd, IOMMU_IOAS_IOVA_RANGES, &ranges_cmd))
			fail("IOMMU_IOAS_IOVA_RANGES");
		stop(&ranges);
		start(&option);
		if (ioctl(iommufd, IOMMU_OPTION, &option_cmd))
			fail("IOMMU_OPTION");
		stop(&option);
	}
	report("iommufd", "ioas-alloc", "-", 0, &alloc, 1);
	report("iommufd", "ioas-destroy", "-", 0, &free, 1);
	report("iommufd", "iova-ranges", "-", 0, &ranges, 1);
	report("iommufd", "option", "-", 0, &option, 1);
}

/* What no driver can change */
static void bench_controls(const char *backend)
{
	struct sample getpid_cost = new_sample(), enotty = new_sample();
	int i, fd = open("/dev/null", O_RDWR);

	if (!wanted("getpid") && !wanted("enotty"))
		return;
	for (i = 0; i < 10 * repeats; i++) {
		start(&getpid_cost);
		syscall(SYS_getpid);
		stop(&getpid_cost);
		start(&enotty);
		ioctl(fd, IOMMU_DESTROY, NULL);
		stop(&enotty);
	}
	close(fd);
	report(backend, "getpid", "-", 0, &getpid_cost, 1);
	report(backend, "enotty", "-", 0, &enotty, 1);
}

static void bench_memory(const struct backend *backend, const char *kind,
			 const size_t *sizes)
{
	bool is_iommufd = backend == &backends[0];
	struct memory mem;
	int i;

	if (only_kind && strcmp(only_kind, kind))
		return;
	for (i = 0; sizes[i]; i++) {
		if (only_size && only_size != sizes[i])
			continue;
		if (!get_memory(&mem, kind, sizes[i] < SZ_2M ? SZ_2M : sizes[i]))
			continue;
		bench_map(backend, "", &mem, sizes[i]);
		if (is_iommufd) {
			if (mem.fd >= 0)
				bench_map(&file_backend, "file-", &mem,
					  sizes[i]);
			bench_map(&compat_backend, "compat-", &mem, sizes[i]);
			bench_second(&mem, sizes[i]);
		}
		put_memory(&mem);
	}
}

static void bench_areas(const struct backend *backend)
{
	struct memory mem;

	if (!get_memory(&mem, "anon4k", SZ_2M))
		return;
	bench_unmap_range(backend, &mem, 1000);
	if (backend == &backends[0]) {
		bench_alloc_iova(&mem, 0);
		bench_alloc_iova(&mem, 1000);
		bench_alloc_iova(&mem, 10000);
	}
	put_memory(&mem);
}

static void __noreturn usage(int status)
{
	fprintf(status ? stderr : stdout,
		"Usage: iommufd_bench [-b iommufd|type1|none] [-d vfioN] [-n repeats]\n"
		"                     [-s MiB of the large mappings] [-o operation]\n"
		"                     [-m kind of memory] [-S size in bytes]\n");
	exit(status);
}

int main(int argc, char **argv)
{
	const struct backend *backend = &backends[0];
	const size_t small[] = { SZ_4K, SZ_64K, SZ_2M, 0, 0 };
	size_t sizes[5];
	int opt;

	while ((opt = getopt(argc, argv, "b:d:n:s:o:m:S:h")) != -1) {
		switch (opt) {
		case 'b':
			if (!strcmp(optarg, "none"))
				backend = NULL;
			else if (!strcmp(optarg, "type1"))
				backend = &backends[1];
			else if (strcmp(optarg, "iommufd"))
				usage(2);
			break;
		case 'd':
			device_name = optarg;
			break;
		case 'n':
			repeats = atoi(optarg);
			break;
		case 's':
			large = atol(optarg) * 1024 * 1024;
			break;
		case 'o':
			only = optarg;
			break;
		case 'm':
			only_kind = optarg;
			break;
		case 'S':
			only_size = atol(optarg);
			break;
		default:
			usage(opt == 'h' ? 0 : 2);
		}
	}
	if (optind < argc || repeats < 1 || large < SZ_2M || large % SZ_2M)
		usage(2);

	calibrate();
	bench_controls(backend ? backend->name : "none");
	if (!backend)
		return 0;
	if (!device_name)
		device_name = find_device();
	if (backend == &backends[0]) {
		open_iommufd();
		bench_small();
	} else {
		open_type1();
	}
	bench_areas(backend);
	memcpy(sizes, small, sizeof(sizes));
	sizes[3] = large;
	bench_memory(backend, "anon4k", sizes);
	bench_memory(backend, "frag4k", sizes + 1);
	bench_memory(backend, "thp", sizes + 1);
	bench_memory(backend, "hugetlb", sizes + 2);
	bench_memory(backend, "memfd", sizes);
	return 0;
}
