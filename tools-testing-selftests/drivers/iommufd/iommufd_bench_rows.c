// SPDX-License-Identifier: GPL-2.0-only
/*
 * iommufd_bench: what is measured, one function for each group of rows.
 */
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

/* Objects, and calls that do little but find one */
void bench_small(void)
{
	struct sample alloc = NEW_SAMPLE, free = NEW_SAMPLE;
	struct sample ranges = NEW_SAMPLE, option = NEW_SAMPLE;
	struct sample allow = NEW_SAMPLE, info = NEW_SAMPLE;
	struct sample hwpt_new = NEW_SAMPLE, hwpt_free = NEW_SAMPLE;
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
	report("ioas-alloc", "-", 0, &alloc, 1);
	report("ioas-destroy", "-", 0, &free, 1);
	report("iova-ranges", "-", 0, &ranges, 1);
	report("allow-iovas", "-", 0, &allow, 1);
	report("option", "-", 0, &option, 1);
	report("hw-info", "-", 0, &info, 1);
	report("hwpt-alloc", "-", 0, &hwpt_new, 1);
	report("hwpt-destroy", "-", 0, &hwpt_free, 1);
}

/* The same for a VFIO container, or what imitates it */
void bench_compat_small(int fd)
{
	struct sample extension = NEW_SAMPLE, info = NEW_SAMPLE;
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
	report("vfio-extension", "-", 0, &extension, 1);
	report("vfio-info", "-", 0, &info, 1);
}

void bench_map(const struct backend *backend, const char *prefix,
	       const struct memory *mem, size_t size)
{
	struct sample map = NEW_SAMPLE, unmap = NEW_SAMPLE;
	char map_name[32], unmap_name[32];
	int i;

	snprintf(map_name, sizeof(map_name), "%smap", prefix);
	snprintf(unmap_name, sizeof(unmap_name), "%sunmap", prefix);
	if (!wanted(map_name) && !wanted(unmap_name))
		return;
	/* The first round fills caches and allocates page tables. */
	for (i = 0; i <= rounds_of(size); i++) {
		/* The profile is of what is asked for. */
		if (i && wanted(map_name))
			start(&map);
		backend->map(mem, size, IOVA);
		if (i && wanted(map_name))
			stop(&map);
		if (i && wanted(unmap_name))
			start(&unmap);
		backend->unmap(IOVA, size);
		if (i && wanted(unmap_name))
			stop(&unmap);
	}
	report(map_name, mem->kind, size, &map, 1);
	report(unmap_name, mem->kind, size, &unmap, 1);
}

/* Memory that nobody has touched: most of the cost is the kernel's. */
void bench_cold(const struct backend *backend, const char *kind, size_t size)
{
	struct memory mem = { .kind = kind, .size = size, .fd = -1 };
	struct sample map = NEW_SAMPLE;
	int i;

	if (!wanted("cold-map"))
		return;
	for (i = 0; i <= rounds_of(size); i++) {
		mem.base = get_cold_memory(kind, size);
		if (!mem.base)
			return;
		start(&map);
		backend->map(&mem, size, IOVA);
		stop(&map);
		backend->unmap(IOVA, size);
		munmap(mem.base, size);
	}
	report("cold-map", kind, size, &map, 1);
}

/* One call that unmaps many areas of @size; the cost is for each of them. */
void bench_unmap_range(const struct backend *backend, const struct memory *mem,
		       size_t size, unsigned int areas)
{
	struct sample sample = NEW_SAMPLE;
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
	report("unmap-range", mem->kind, size, &sample, areas);
}

/* The kernel has to look behind @areas neighbours for a free address. */
void bench_alloc_iova(const struct memory *mem, unsigned int areas)
{
	struct sample sample = NEW_SAMPLE;
	char op[32];
	unsigned int area;
	u64 iova;
	int i;

	snprintf(op, sizeof(op), "map-any@%u", areas);
	if (!wanted(op))
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
	report(op, mem->kind, SZ_4K, &sample, 1);
	if (areas)
		ioas_unmap(ioas, 0, areas * SZ_4K);
}

/*
 * A populated IOAS gets its first page table, a second one, and a copy in
 * another IOAS that has one.
 */
void bench_second(const struct memory *mem, size_t size)
{
	struct sample fill = NEW_SAMPLE, drain = NEW_SAMPLE;
	struct sample fill2 = NEW_SAMPLE, drain2 = NEW_SAMPLE;
	struct sample copy = NEW_SAMPLE, unmap = NEW_SAMPLE;
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
	for (i = 0; i <= rounds_of(size); i++) {
		if (i)
			start(&copy);
		ioas_copy(src, dst, size);
		if (i)
			stop(&copy);
		start(&unmap);
		ioas_unmap(dst, IOVA, size);
		stop(&unmap);
	}
	destroy(hwpt2);
	destroy(hwpt);
	destroy(dst);
	destroy(src);
	report("fill", mem->kind, size, &fill, 1);
	report("drain", mem->kind, size, &drain, 1);
	report("second-fill", mem->kind, size, &fill2, 1);
	report("second-drain", mem->kind, size, &drain2, 1);
	report("copy", mem->kind, size, &copy, 1);
	report("copy-unmap", mem->kind, size, &unmap, 1);
}

/* Reading the dirty bits of a page table in which none is set */
void bench_dirty(const struct memory *mem, size_t size)
{
	struct sample on = NEW_SAMPLE, read = NEW_SAMPLE;
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
	report("dirty-start", mem->kind, size, &on, 1);
	report("dirty-read", mem->kind, size, &read, 1);
}

static void bench_one_access(const char *prefix, u32 id,
			     const struct memory *mem, size_t size)
{
	static const char * const names[] = { "pin", "unpin", "write", "read" };
	struct iommufd_bench_access op = {
		.iommufd = iommufd,
		.ioas_id = id,
		.iova = IOVA,
		.length = size,
	};
	struct sample samples[4] = {
		NEW_SAMPLE, NEW_SAMPLE, NEW_SAMPLE, NEW_SAMPLE
	};
	int i, fd = open("/dev/" IOMMUFD_BENCH_ACCESS, O_RDWR | O_CLOEXEC);
	char name[32];

	if (fd < 0)
		return;
	timed_ioctl(NULL, fd, IOMMUFD_BENCH_ACCESS_ATTACH, &op, "attach");
	/* Copying is few instructions, but takes as long as a timer tick. */
	for (i = 0; i < (size < SZ_2M ? 2 : 12) * repeats; i++) {
		timed_ioctl(&samples[0], fd, IOMMUFD_BENCH_ACCESS_PIN, &op,
			    "pin");
		timed_ioctl(&samples[1], fd, IOMMUFD_BENCH_ACCESS_UNPIN, &op,
			    "unpin");
		op.write = 1;
		timed_ioctl(&samples[2], fd, IOMMUFD_BENCH_ACCESS_RW, &op,
			    "write");
		op.write = 0;
		timed_ioctl(&samples[3], fd, IOMMUFD_BENCH_ACCESS_RW, &op,
			    "read");
	}
	close(fd);
	for (i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "%s%s", prefix, names[i]);
		report(name, mem->kind, size, &samples[i], 1);
	}
}

/* An in-kernel user of memory that no device, and that a device can reach */
void bench_access(const struct memory *mem, size_t size)
{
	u32 id;

	if (wanted("access-pin access-unpin access-write access-read")) {
		id = ioas_alloc();
		ioas_map(id, mem->base, size, IOVA, IOMMU_IOAS_MAP_FIXED_IOVA);
		bench_one_access("access-", id, mem, size);
		destroy(id);
	}
	if (wanted("shared-pin shared-unpin shared-write shared-read")) {
		ioas_map(ioas, mem->base, size, IOVA,
			 IOMMU_IOAS_MAP_FIXED_IOVA);
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
	struct sample up = NEW_SAMPLE, down = NEW_SAMPLE;
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
	report("vm-start", mem->kind, mem->size, &up, 1);
	report("vm-stop", mem->kind, mem->size, &down, 1);
}
