// SPDX-License-Identifier: GPL-2.0-only
/*
 * iommufd_bench: the system calls, and the places where memory is mapped: an
 * IOAS with a device attached, or a VFIO container.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "iommufd_bench.h"

int iommufd = -1;
int container = -1;
u32 ioas, device_id;

static int vfio_device = -1;
static int vfio_group = -1;

u32 ioas_alloc(void)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &cmd))
		fail("IOMMU_IOAS_ALLOC");
	return cmd.out_ioas_id;
}

void destroy(u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	if (ioctl(iommufd, IOMMU_DESTROY, &cmd))
		fail("IOMMU_DESTROY");
}

u32 hwpt_alloc(u32 pt_id, u32 flags)
{
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.dev_id = device_id,
		.pt_id = pt_id,
	};

	if (ioctl(iommufd, IOMMU_HWPT_ALLOC, &cmd)) {
		if (flags && errno == EOPNOTSUPP)
			return 0;
		fail("IOMMU_HWPT_ALLOC");
	}
	return cmd.out_hwpt_id;
}

u64 ioas_map(u32 id, void *va, size_t size, u64 iova, u32 flags)
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

void ioas_copy(u32 src, u32 dst, size_t size)
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

void ioas_unmap(u32 id, u64 iova, size_t size)
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
static void vfio_map(int fd, const struct memory *mem, size_t size, u64 iova)
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

/* Devices */

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strverscmp((*a)->d_name, (*b)->d_name);
}

int find_devices(const char **names, int max)
{
	struct dirent **entries;
	int i, found, n = 0;

	if (device_name && max > 0) {
		names[0] = device_name;
		return 1;
	}
	found = scandir("/dev/vfio/devices", &entries, NULL, by_name);
	for (i = 0; i < found; i++) {
		if (n < max && entries[i]->d_name[0] != '.')
			names[n++] = strdup(entries[i]->d_name);
		free(entries[i]);
	}
	if (found >= 0)
		free(entries);
	errno = ENODEV;
	if (!n)
		fail("no device is bound to vfio-pci");
	return n;
}

int open_cdev(const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", name);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail("%s", path);
	return fd;
}

void bind_cdev(int device, int fd)
{
	struct vfio_device_bind_iommufd bind = {
		.argsz = sizeof(bind),
		.iommufd = fd,
	};

	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		fail("VFIO_DEVICE_BIND_IOMMUFD");
	device_id = bind.out_devid;
}

void attach_cdev(int device, u32 pt_id)
{
	struct vfio_device_attach_iommufd_pt attach = {
		.argsz = sizeof(attach),
		.pt_id = pt_id,
	};

	if (ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach))
		fail("VFIO_DEVICE_ATTACH_IOMMUFD_PT");
}

void detach_cdev(int device)
{
	struct vfio_device_detach_iommufd_pt detach = {
		.argsz = sizeof(detach)
	};

	if (ioctl(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &detach))
		fail("VFIO_DEVICE_DETACH_IOMMUFD_PT");
}

int open_group(const char *name)
{
	char path[PATH_MAX], link[PATH_MAX];
	ssize_t len;
	int group;

	snprintf(path, sizeof(path), "/sys/class/vfio-dev/%s/device/iommu_group",
		 name);
	len = readlink(path, link, sizeof(link) - 1);
	if (len < 0)
		fail("%s", path);
	link[len] = 0;
	snprintf(path, sizeof(path), "/dev/vfio%s", strrchr(link, '/'));
	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0)
		fail("%s", path);
	return group;
}

/* Backends */

static void open_iommufd(void)
{
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	const char *name;

	iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (iommufd < 0)
		fail("/dev/iommu");
	find_devices(&name, 1);
	vfio_device = open_cdev(name);
	bind_cdev(vfio_device, iommufd);
	ioas = ioas_alloc();
	attach_cdev(vfio_device, ioas);
	compat.ioas_id = ioas;
	if (ioctl(iommufd, IOMMU_VFIO_IOAS, &compat))
		fail("IOMMU_VFIO_IOAS");
}

static void close_iommufd(void)
{
	close(vfio_device);
	close(iommufd);
}

static void open_type1(void)
{
	const char *name;

	find_devices(&name, 1);
	vfio_group = open_group(name);
	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0)
		fail("/dev/vfio/vfio");
	if (ioctl(vfio_group, VFIO_GROUP_SET_CONTAINER, &container))
		fail("VFIO_GROUP_SET_CONTAINER");
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		fail("VFIO_SET_IOMMU");
}

static void close_type1(void)
{
	close(vfio_group);
	close(container);
}

const struct backend iommufd_backend = {
	"iommufd", open_iommufd, close_iommufd, iommufd_map, iommufd_unmap
};

const struct backend type1_backend = {
	"type1", open_type1, close_type1, type1_map, type1_unmap
};

const struct backend file_backend = {
	.name = "file", .map = ioas_map_file, .unmap = iommufd_unmap
};

const struct backend compat_backend = {
	.name = "compat", .map = compat_map, .unmap = compat_unmap
};
