// SPDX-License-Identifier: GPL-2.0-only
/* iommufd_bench: the rows, one function for each group */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "iommufd_bench.h"
#include "iommufd_bench_access.h"

/* Run ioctl() and measure it; @sample may be NULL. */
static void timed_ioctl(struct sample *sample, int fd, unsigned long request,
			void *arg, const char *name)
{
	int rc;

	if (sample) {
		start(sample);
		rc = ioctl(fd, request, arg);
		stop(sample);
	} else {
		rc = ioctl(fd, request, arg);
	}
	if (rc < 0)
		fail("%s", name);
}

/* Objects, and calls that do little but a lookup */
void bench_small(void)
{
	struct sample alloc = sample_of("ioas-alloc");
	struct sample free = sample_of("ioas-destroy");
	struct sample ranges = sample_of("iova-ranges");
	struct sample option = sample_of("option");
	struct sample allow = sample_of("allow-iovas");
	struct sample info = sample_of("hw-info");
	struct sample hwpt_new = sample_of("hwpt-alloc");
	struct sample hwpt_free = sample_of("hwpt-destroy");
	struct iommu_iova_range iovas[8];
	u32 id, hwpt;
	int i;

	if (!wanted("ioas-alloc ioas-destroy hwpt-alloc hwpt-destroy") &&
	    !wanted("iova-ranges allow-iovas option hw-info"))
		return;
	for (i = 0; i < 10 * repeats; i++) {
		struct iommu_ioas_iova_ranges ranges_cmd = {
			.size = sizeof(ranges_cmd),
			.ioas_id = ioas,
			.num_iovas = 8,
			.allowed_iovas = (uintptr_t)iovas,
		};
		struct iommu_iova_range allowed = { 0, SZ_1G - 1 };
		struct iommu_ioas_allow_iovas allow_cmd = {
			.size = sizeof(allow_cmd),
			.num_iovas = 1,
			.allowed_iovas = (uintptr_t)&allowed,
		};
		struct iommu_option option_cmd = {
			.size = sizeof(option_cmd),
			.option_id = IOMMU_OPTION_HUGE_PAGES,
			.op = IOMMU_OPTION_OP_GET,
			.object_id = ioas,
		};
		struct iommu_hw_info info_cmd = {
			.size = sizeof(info_cmd),
			.dev_id = device_id,
		};

		start(&alloc);
		id = ioas_alloc();
		stop(&alloc);
		allow_cmd.ioas_id = id;
		timed_ioctl(&allow, iommufd, IOMMU_IOAS_ALLOW_IOVAS, &allow_cmd,
			    "IOMMU_IOAS_ALLOW_IOVAS");
		start(&hwpt_new);
		hwpt = hwpt_alloc(id, 0);
		stop(&hwpt_new);
		start(&hwpt_free);
		destroy(hwpt);
		stop(&hwpt_free);
		start(&free);
		destroy(id);
		stop(&free);
		timed_ioctl(&ranges, iommufd, IOMMU_IOAS_IOVA_RANGES,
			    &ranges_cmd, "IOMMU_IOAS_IOVA_RANGES");
		timed_ioctl(&option, iommufd, IOMMU_OPTION, &option_cmd,
			    "IOMMU_OPTION");
		timed_ioctl(&info, iommufd, IOMMU_GET_HW_INFO, &info_cmd,
			    "IOMMU_GET_HW_INFO");
	}
	report(&alloc, "-", 0, 1);
	report(&free, "-", 0, 1);
	report(&ranges, "-", 0, 1);
	report(&allow, "-", 0, 1);
	report(&option, "-", 0, 1);
	report(&info, "-", 0, 1);
	report(&hwpt_new, "-", 0, 1);
	report(&hwpt_free, "-", 0, 1);
}

/* The same for VFIO's container and for iommufd's */
void bench_compat_small(int fd)
{
	struct sample extension = sample_of("vfio-extension");
	struct sample info = sample_of("vfio-info");
	int i;

	if (!wanted("vfio-extension vfio-info"))
		return;
	for (i = 0; i < 10 * repeats; i++) {
		/* Room for the capabilities */
		union {
			struct vfio_iommu_type1_info cmd;
			char room[1024];
		} reply = { .cmd.argsz = sizeof(reply) };

		timed_ioctl(&extension, fd, VFIO_CHECK_EXTENSION,
			    (void *)(uintptr_t)VFIO_TYPE1v2_IOMMU,
			    "VFIO_CHECK_EXTENSION");
		timed_ioctl(&info, fd, VFIO_IOMMU_GET_INFO, &reply,
			    "VFIO_IOMMU_GET_INFO");
	}
	report(&extension, "-", 0, 1);
	report(&info, "-", 0, 1);
}

void bench_map(const struct backend *backend, const char *prefix,
	       const struct memory *mem, size_t size)
{
	char map_name[32], unmap_name[32];
	struct sample map, unmap;
	int i;

	snprintf(map_name, sizeof(map_name), "%smap", prefix);
	snprintf(unmap_name, sizeof(unmap_name), "%sunmap", prefix);
	map = sample_of(map_name);
	unmap = sample_of(unmap_name);
	if (map.muted && unmap.muted)
		return;
	/* Once to fill caches and allocate page tables */
	backend->map(mem, size, IOVA);
	backend->unmap(IOVA, size);
	for (i = 0; i < rounds_of(size); i++) {
		start(&map);
		backend->map(mem, size, IOVA);
		stop(&map);
		start(&unmap);
		backend->unmap(IOVA, size);
		stop(&unmap);
	}
	report(&map, mem->kind, size, 1);
	report(&unmap, mem->kind, size, 1);
}

/*
 * Make sure that few of the pages that are pinned next are contiguous, until
 * the result is freed. Long-term pins take pages from pageblocks of their own,
 * as this does: keep three of four pages of those.
 */
static struct memory scatter_free_pages(const struct backend *backend)
{
	struct memory mem = { .kind = "anon4k", .size = SZ_128M, .fd = -1 };
	size_t i;

	mem.base = get_cold_memory(mem.kind, mem.size);
	if (!mem.base)
		return mem;
	backend->map(&mem, mem.size, IOVA);
	backend->unmap(IOVA, mem.size);
	for (i = 0; i < mem.size; i += 4 * SZ_4K)
		madvise(mem.base + i, SZ_4K, MADV_DONTNEED);
	return mem;
}

/*
 * Memory that was not touched: most of the cost is that of the kernel. The rest
 * depends on how contiguous the new pages are, which would be random for single
 * pages.
 */
void bench_cold(const struct backend *backend, const char *kind, size_t size)
{
	struct memory mem = { .kind = kind, .size = size, .fd = -1 };
	struct memory kept = { .fd = -1 };
	struct sample map = sample_of("cold-map");
	int i;

	if (!wanted("cold-map"))
		return;
	if (!strcmp(kind, "anon4k") && size <= SZ_2M)
		kept = scatter_free_pages(backend);
	for (i = 0; i < rounds_of(size); i++) {
		mem.base = get_cold_memory(kind, size);
		if (!mem.base)
			break;
		start(&map);
		backend->map(&mem, size, IOVA);
		stop(&map);
		backend->unmap(IOVA, size);
		put_memory(&mem);
	}
	put_memory(&kept);
	report(&map, kind, size, 1);
}

/* One call that unmaps many areas of @size; the cost is for each of them. */
void bench_unmap_range(const struct backend *backend, const struct memory *mem,
		       size_t size, unsigned int areas)
{
	struct sample sample = sample_of("unmap-range");
	unsigned int area;
	int i;

	if (!wanted("unmap-range"))
		return;
	for (i = 0; i < (repeats + 1) / 2; i++) {
		for (area = 0; area < areas; area++)
			backend->map(mem, size, IOVA + area * 2 * size);
		start(&sample);
		backend->unmap(IOVA, areas * 2 * size);
		stop(&sample);
	}
	report(&sample, mem->kind, size, areas);
}

/* The kernel chooses a free IOVA behind @areas areas. */
void bench_alloc_iova(const struct memory *mem, unsigned int areas)
{
	struct sample sample;
	char op[32];
	unsigned int area;
	u64 iova;
	int i;

	snprintf(op, sizeof(op), "map-any@%u", areas);
	sample = sample_of(op);
	if (sample.muted)
		return;
	for (area = 0; area < areas; area++)
		ioas_map(ioas, mem->base, SZ_4K, area * SZ_4K,
			 IOMMU_IOAS_MAP_FIXED_IOVA);
	for (i = 0; i <= repeats; i++) {
		start(&sample);
		iova = ioas_map(ioas, mem->base, SZ_4K, 0, 0);
		stop(&sample);
		ioas_unmap(ioas, iova, SZ_4K);
	}
	report(&sample, mem->kind, SZ_4K, 1);
	if (areas)
		ioas_unmap(ioas, 0, areas * SZ_4K);
}

/*
 * Add the first page table to a populated IOAS, then a second one, and copy to
 * another IOAS that has one.
 */
void bench_second(const struct memory *mem, size_t size)
{
	struct sample fill = sample_of("fill");
	struct sample drain = sample_of("drain");
	struct sample fill2 = sample_of("second-fill");
	struct sample drain2 = sample_of("second-drain");
	struct sample copy = sample_of("copy");
	struct sample unmap = sample_of("copy-unmap");
	u32 src, dst, hwpt, hwpt2;
	int i;

	if (!wanted("fill drain second-fill second-drain copy copy-unmap"))
		return;
	src = ioas_alloc();
	dst = ioas_alloc();
	ioas_map(src, mem->base, size, IOVA, IOMMU_IOAS_MAP_FIXED_IOVA);
	for (i = 0; i < rounds_of(size); i++) {
		start(&fill);
		hwpt = hwpt_alloc(src, 0);
		stop(&fill);
		start(&fill2);
		hwpt2 = hwpt_alloc(src, 0);
		stop(&fill2);
		start(&drain2);
		destroy(hwpt2);
		stop(&drain2);
		start(&drain);
		destroy(hwpt);
		stop(&drain);
	}
	hwpt = hwpt_alloc(src, 0);
	hwpt2 = hwpt_alloc(dst, 0);
	for (i = 0; i < rounds_of(size); i++) {
		start(&copy);
		ioas_copy(src, dst, size);
		stop(&copy);
		start(&unmap);
		ioas_unmap(dst, IOVA, size);
		stop(&unmap);
	}
	destroy(hwpt2);
	destroy(hwpt);
	destroy(dst);
	destroy(src);
	report(&fill, mem->kind, size, 1);
	report(&drain, mem->kind, size, 1);
	report(&fill2, mem->kind, size, 1);
	report(&drain2, mem->kind, size, 1);
	report(&copy, mem->kind, size, 1);
	report(&unmap, mem->kind, size, 1);
}

/* Reading the dirty bits of a page table in which none is set */
void bench_dirty(const struct memory *mem, size_t size)
{
	struct sample on = sample_of("dirty-start");
	struct sample read = sample_of("dirty-read");
	struct iommu_hwpt_set_dirty_tracking set = { .size = sizeof(set) };
	struct iommu_hwpt_get_dirty_bitmap get = {
		.size = sizeof(get),
		.iova = IOVA,
		.length = size,
		.page_size = SZ_4K,
	};
	size_t bytes = size / SZ_4K / 8;
	void *bitmap;
	u32 id, hwpt;
	int i;

	if (!wanted("dirty-start dirty-read"))
		return;
	id = ioas_alloc();
	hwpt = hwpt_alloc(id, IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	if (!hwpt) {
		destroy(id);
		return;
	}
	bitmap = aligned_alloc(SZ_4K, bytes);
	if (!bitmap)
		fail("no memory for a bitmap");
	memset(bitmap, 0, bytes);
	ioas_map(id, mem->base, size, IOVA, IOMMU_IOAS_MAP_FIXED_IOVA);
	set.hwpt_id = hwpt;
	get.hwpt_id = hwpt;
	get.data = (uintptr_t)bitmap;
	for (i = 0; i < rounds_of(size); i++) {
		set.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE;
		timed_ioctl(&on, iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, &set,
			    "IOMMU_HWPT_SET_DIRTY_TRACKING");
		timed_ioctl(&read, iommufd, IOMMU_HWPT_GET_DIRTY_BITMAP, &get,
			    "IOMMU_HWPT_GET_DIRTY_BITMAP");
		set.flags = 0;
		timed_ioctl(NULL, iommufd, IOMMU_HWPT_SET_DIRTY_TRACKING, &set,
			    "IOMMU_HWPT_SET_DIRTY_TRACKING");
	}
	destroy(hwpt);
	destroy(id);
	free(bitmap);
	report(&on, mem->kind, size, 1);
	report(&read, mem->kind, size, 1);
}

/* Operations of an access; the last four with all of the memory pinned */
enum access_row {
	PIN, UNPIN, WRITE, READ, PIN_AGAIN, UNPIN_AGAIN, PIN_PART, UNPIN_PART,
	ACCESS_ROWS
};

static void bench_one_access(const char *prefix, u32 id,
			     const struct memory *mem, size_t size)
{
	static const char * const names[ACCESS_ROWS] = {
		"pin", "unpin", "write", "read", "pin-again", "unpin-again",
		"pin-part", "unpin-part"
	};
	struct iommufd_bench_access op = {
		.iommufd = iommufd,
		.ioas_id = id,
		.iova = IOVA,
		.length = size,
	};
	/* Another range, so that its PFNs are not stored as a whole */
	struct iommufd_bench_access part = {
		.iova = IOVA + SZ_4K,
		.length = size - SZ_4K,
	};
	struct sample samples[ACCESS_ROWS];
	int i, fd = open("/dev/" IOMMUFD_BENCH_ACCESS, O_RDWR | O_CLOEXEC);
	char ops[ACCESS_ROWS][32];

	if (fd < 0)
		return;
	for (i = 0; i < ACCESS_ROWS; i++) {
		snprintf(ops[i], sizeof(ops[i]), "%s%s", prefix, names[i]);
		samples[i] = sample_of(ops[i]);
	}
	timed_ioctl(NULL, fd, IOMMUFD_BENCH_ACCESS_ATTACH, &op, "attach");
	for (i = 0; i <= repeats; i++) {
		timed_ioctl(&samples[PIN], fd, IOMMUFD_BENCH_ACCESS_PIN, &op,
			    "pin");
		timed_ioctl(&samples[PIN_AGAIN], fd, IOMMUFD_BENCH_ACCESS_PIN,
			    &op, "pin");
		timed_ioctl(&samples[UNPIN_AGAIN], fd,
			    IOMMUFD_BENCH_ACCESS_UNPIN, &op, "unpin");
		if (part.length) {
			timed_ioctl(&samples[PIN_PART], fd,
				    IOMMUFD_BENCH_ACCESS_PIN, &part, "pin");
			timed_ioctl(&samples[UNPIN_PART], fd,
				    IOMMUFD_BENCH_ACCESS_UNPIN, &part, "unpin");
		}
		timed_ioctl(&samples[UNPIN], fd, IOMMUFD_BENCH_ACCESS_UNPIN,
			    &op, "unpin");
		op.write = 1;
		timed_ioctl(&samples[WRITE], fd, IOMMUFD_BENCH_ACCESS_RW, &op,
			    "write");
		op.write = 0;
		timed_ioctl(&samples[READ], fd, IOMMUFD_BENCH_ACCESS_RW, &op,
			    "read");
	}
	close(fd);
	for (i = 0; i < ACCESS_ROWS; i++)
		report(&samples[i], mem->kind, size, 1);
}

/*
 * In-kernel access to memory that no device can access, and to memory that one
 * can. A file is not mapped by this process, so copies take the slow path.
 */
void bench_access(const struct memory *mem, size_t size)
{
	const struct backend *backend = mem->fd >= 0 ? &file_backend :
						       &iommufd_backend;
	u32 id, before = ioas;

	if (wanted("access-pin access-unpin access-write access-read") ||
	    wanted("access-pin-again access-unpin-again") ||
	    wanted("access-pin-part access-unpin-part")) {
		id = ioas_alloc();
		ioas = id;
		backend->map(mem, size, IOVA);
		ioas = before;
		bench_one_access("access-", id, mem, size);
		destroy(id);
	}
	if (wanted("shared-pin shared-unpin shared-write shared-read") ||
	    wanted("shared-pin-again shared-unpin-again") ||
	    wanted("shared-pin-part shared-unpin-part")) {
		backend->map(mem, size, IOVA);
		bench_one_access("shared-", ioas, mem, size);
		ioas_unmap(ioas, IOVA, size);
	}
}

/*
 * A virtual machine as QEMU starts and stops it: attach a device, map the
 * memory in 4 large regions and 200 small ones, attach three more devices.
 */
#define VM_DEVICES 4
#define VM_SMALL 200

static void vm_regions(const struct backend *backend, const struct memory *mem,
		       bool map)
{
	size_t size = mem->size / 4;
	struct memory part = *mem;
	u64 iova = IOVA;
	int i;

	for (i = 0; i < 4 + VM_SMALL; i++) {
		if (i == 4) {
			size = SZ_64K;
			part.base = mem->base;
		}
		if (map)
			backend->map(&part, size, iova);
		else
			backend->unmap(iova, size);
		iova += size;
		part.base += size;
		if (part.base + size > mem->base + mem->size)
			part.base = mem->base;
	}
}

static void vm_iommufd(const struct memory *mem, const char **names, int n,
		       struct sample *up, struct sample *down)
{
	int i, devices[VM_DEVICES];

	iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (iommufd < 0)
		fail("/dev/iommu");
	for (i = 0; i < n; i++) {
		devices[i] = open_cdev(names[i]);
		bind_cdev(devices[i], iommufd);
	}
	start(up);
	ioas = ioas_alloc();
	attach_cdev(devices[0], ioas);
	vm_regions(&iommufd_backend, mem, true);
	for (i = 1; i < n; i++)
		attach_cdev(devices[i], ioas);
	stop(up);
	start(down);
	for (i = 1; i < n; i++)
		detach_cdev(devices[i]);
	vm_regions(&iommufd_backend, mem, false);
	detach_cdev(devices[0]);
	destroy(ioas);
	stop(down);
	for (i = 0; i < n; i++)
		close(devices[i]);
	close(iommufd);
}

static void vm_type1(const struct memory *mem, const char **names, int n,
		     struct sample *up, struct sample *down)
{
	int i, groups[VM_DEVICES];

	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0)
		fail("/dev/vfio/vfio");
	for (i = 0; i < n; i++)
		groups[i] = open_group(names[i]);
	start(up);
	if (ioctl(groups[0], VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		fail("VFIO_SET_IOMMU");
	vm_regions(&type1_backend, mem, true);
	for (i = 1; i < n; i++) {
		if (ioctl(groups[i], VFIO_GROUP_SET_CONTAINER, &container))
			fail("VFIO_GROUP_SET_CONTAINER");
	}
	stop(up);
	start(down);
	for (i = 1; i < n; i++) {
		if (ioctl(groups[i], VFIO_GROUP_UNSET_CONTAINER))
			fail("VFIO_GROUP_UNSET_CONTAINER");
	}
	vm_regions(&type1_backend, mem, false);
	if (ioctl(groups[0], VFIO_GROUP_UNSET_CONTAINER))
		fail("VFIO_GROUP_UNSET_CONTAINER");
	stop(down);
	for (i = 0; i < n; i++)
		close(groups[i]);
	close(container);
}

void bench_vm(const struct backend *backend, const struct memory *mem)
{
	struct sample up = sample_of("vm-start");
	struct sample down = sample_of("vm-stop");
	const char *names[VM_DEVICES];
	int i, n;

	if (!wanted("vm-start vm-stop"))
		return;
	n = find_devices(names, VM_DEVICES);
	for (i = 0; i <= rounds_of(mem->size); i++) {
		if (backend == &type1_backend)
			vm_type1(mem, names, n, &up, &down);
		else
			vm_iommufd(mem, names, n, &up, &down);
	}
	report(&up, mem->kind, mem->size, 1);
	report(&down, mem->kind, mem->size, 1);
}
