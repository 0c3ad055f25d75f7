/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A client of VFIO and iommufd for QEMU's "edu" device, whose DMA engine copies
 * between the bus and a 4 KiB buffer in the device. Shared by its tests:
 * finding the device, system calls, registers.
 *
 * Run QEMU with "-device edu,dma_mask=0xffffffffffffffff": the default mask of
 * 28 bits truncates higher IOVAs. A transfer takes 100 ms, by a timer of the
 * device. Not every test uses everything here.
 */
#ifndef __VFIO_EDU_H
#define __VFIO_EDU_H

#include <dirent.h>
#include <limits.h>

#include <linux/io.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "kselftest_harness.h"
#include "iommufd_stress.h"

/* A test that takes longer hangs, on any machine; in seconds */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 300

#define EDU_VENDOR 0x1234
#define EDU_DEVICE 0x11e8

/* Registers in BAR 0. Those of the DMA engine are 64 bits wide. */
#define EDU_ID 0x00
#define EDU_ID_VALUE 0x010000ed
#define EDU_LIVENESS 0x04
#define EDU_IRQ_STATUS 0x24
#define EDU_IRQ_ACK 0x64
#define EDU_DMA_SRC 0x80
#define EDU_DMA_DST 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_CMD 0x98
#define EDU_DMA_RUN 0x1
#define EDU_DMA_TO_MEMORY 0x2
#define EDU_DMA_IRQ 0x4
#define EDU_DMA_IRQ_STATUS 0x100

/* The address of the device's buffer for the DMA engine */
#define EDU_BUF 0x40000
#define EDU_BUF_SIZE 4096

#define MEM_SIZE (16UL * page_size)
#define LOW_IOVA 0x10000000UL
#define HIGH_IOVA 0x1234500000UL
/* The MSI window of Arm IOMMU drivers */
#define MSI_WINDOW 0x8000000UL

#define MAP_RW (IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)
#define DMA_RW (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)

static unsigned long page_size;

/* A device, bound to vfio-pci */
struct edu {
	char bdf[32];
	char cdev[PATH_MAX];
};

/* Sysfs */

static bool read_text(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return false;
	buf[n] = 0;
	return true;
}

static bool has_id(const char *name, long vendor, long device)
{
	static const char *const files[] = { "vendor", "device" };
	const long ids[] = { vendor, device };
	char path[PATH_MAX], text[16];
	int i;

	for (i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", name,
			 files[i]);
		if (!read_text(path, text, sizeof(text)) ||
		    strtol(text, NULL, 16) != ids[i])
			return false;
	}
	return true;
}

static bool device_has_id(const char *name)
{
	return has_id(name, EDU_VENDOR, EDU_DEVICE);
}

/* The first entry of @path that @match accepts, in @name */
static bool find_entry(const char *path, bool (*match)(const char *name),
		       char *name, size_t size)
{
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || !match(entry->d_name))
			continue;
		snprintf(name, size, "%s", entry->d_name);
		found = true;
	}
	closedir(dir);
	return found;
}

/* vfioN, or noiommu-vfioN */
static bool is_vfio_cdev(const char *name)
{
	return strstr(name, "vfio");
}

static bool driver_is_vfio_pci(const char *bdf)
{
	char path[PATH_MAX], link[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", bdf);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return false;
	link[n] = 0;
	return !strcmp(strrchr(link, '/') + 1, "vfio-pci");
}

static void unbind_driver(const char *bdf)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver/unbind",
		 bdf);
	write_text(path, bdf);
}

static void set_driver_override(const char *bdf, const char *driver)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override",
		 bdf);
	write_text(path, driver);
}

static void edu_give_back(const struct edu *edu)
{
	unbind_driver(edu->bdf);
	set_driver_override(edu->bdf, "\n");
	write_text("/sys/bus/pci/drivers_probe", edu->bdf);
}

/* The number of devices in its IOMMU group */
static unsigned int group_size(const char *bdf)
{
	char path[PATH_MAX];
	struct dirent *entry;
	unsigned int n = 0;
	DIR *dir;

	snprintf(path, sizeof(path),
		 "/sys/bus/pci/devices/%s/iommu_group/devices", bdf);
	dir = opendir(path);
	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	closedir(dir);
	return n;
}

static bool is_alone(const char *name)
{
	return device_has_id(name) && group_size(name) == 1;
}

static bool is_in_company(const char *name)
{
	return device_has_id(name) && group_size(name) > 1;
}

/* Bind it to vfio-pci; exits on error */
static void edu_take(struct edu *edu)
{
	char path[PATH_MAX], name[NAME_MAX + 1];

	if (access("/sys/bus/pci/drivers/vfio-pci", F_OK))
		ksft_exit_skip("no vfio-pci driver (modprobe vfio-pci)\n");
	if (!driver_is_vfio_pci(edu->bdf)) {
		unbind_driver(edu->bdf);
		set_driver_override(edu->bdf, "vfio-pci");
		write_text("/sys/bus/pci/drivers_probe", edu->bdf);
		if (!driver_is_vfio_pci(edu->bdf))
			ksft_exit_fail_msg("vfio-pci refuses %s\n", edu->bdf);
	}

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev",
		 edu->bdf);
	if (!find_entry(path, is_vfio_cdev, name, sizeof(name)))
		ksft_exit_fail_msg("%s has no VFIO cdev\n", edu->bdf);
	snprintf(edu->cdev, sizeof(edu->cdev), "/dev/vfio/devices/%s", name);
}

/* Memory of this process that is pinned, in KiB. */
static long pinned_kib(void)
{
	return read_counter("/proc/self/status", "VmPin");
}

/* iommufd */

static int iommufd_destroy(int iommufd, u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return ioctl(iommufd, IOMMU_DESTROY, &cmd) ? -errno : 0;
}

static int ioas_alloc(int iommufd, u32 *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(iommufd, IOMMU_IOAS_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_ioas_id;
	return 0;
}

static int ioas_map_flags(int iommufd, u32 ioas, void *va, size_t length,
			  u64 *iova, u32 flags)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.ioas_id = ioas,
		.user_va = (uintptr_t)va,
		.length = length,
		.iova = *iova,
	};

	if (ioctl(iommufd, IOMMU_IOAS_MAP, &cmd))
		return -errno;
	*iova = cmd.iova;
	return 0;
}

static int ioas_map(int iommufd, u32 ioas, void *va, size_t length,
		    u64 iova)
{
	return ioas_map_flags(iommufd, ioas, va, length, &iova,
			      MAP_RW | IOMMU_IOAS_MAP_FIXED_IOVA);
}

static int ioas_unmap(int iommufd, u32 ioas, u64 iova,
		      u64 *length)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.iova = iova,
		.length = *length,
	};

	if (ioctl(iommufd, IOMMU_IOAS_UNMAP, &cmd))
		return -errno;
	*length = cmd.length;
	return 0;
}

/* The first @n ranges; sets @n to their total number */
static int ioas_iova_ranges(int iommufd, u32 ioas,
			    struct iommu_iova_range *ranges, u32 *n)
{
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.num_iovas = *n,
		.allowed_iovas = (uintptr_t)ranges,
	};

	if (ioctl(iommufd, IOMMU_IOAS_IOVA_RANGES, &cmd))
		return -errno;
	*n = cmd.num_iovas;
	return 0;
}

static int ioas_last_iova(int iommufd, u32 ioas, u64 *last)
{
	struct iommu_iova_range ranges[32];
	u32 n = 32;
	int rc = ioas_iova_ranges(iommufd, ioas, ranges, &n);

	if (!rc)
		*last = ranges[n - 1].last;
	return rc;
}

static int hwpt_alloc(int iommufd, u32 device, u32 ioas, u32 *id)
{
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.dev_id = device,
		.pt_id = ioas,
	};

	if (ioctl(iommufd, IOMMU_HWPT_ALLOC, &cmd))
		return -errno;
	*id = cmd.out_hwpt_id;
	return 0;
}

/* VFIO */

/* Open /dev/vfio/N for the group of @bdf; @prefix comes before N */
static int vfio_open_group(const char *bdf, const char *prefix)
{
	char path[PATH_MAX], link[PATH_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group",
		 bdf);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return -errno;
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s%s", prefix,
		 strrchr(link, '/') + 1);
	n = open(path, O_RDWR);
	return n < 0 ? -errno : n;
}

static int dma_map(int container, void *va, size_t size, u64 iova, u32 flags)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = flags,
		.vaddr = (uintptr_t)va,
		.iova = iova,
		.size = size,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &map) ? -errno : 0;
}

/* In a container. The size that was unmapped is returned in @size. */
static int dma_unmap(int container, u64 iova, u64 *size)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = iova,
		.size = *size,
	};
	int rc = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap);

	*size = unmap.size;
	return rc ? -errno : 0;
}

static int vfio_bind(int device, int iommufd, u32 *id)
{
	struct vfio_device_bind_iommufd cmd = {
		.argsz = sizeof(cmd),
		.iommufd = iommufd,
	};

	if (ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &cmd))
		return -errno;
	*id = cmd.out_devid;
	return 0;
}

/* Attaching a device that is attached already replaces its page table. */
static int vfio_attach(int device, u32 pt_id)
{
	struct vfio_device_attach_iommufd_pt cmd = {
		.argsz = sizeof(cmd),
		.pt_id = pt_id,
	};

	return ioctl(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd) ? -errno : 0;
}

static int vfio_detach(int device)
{
	struct vfio_device_detach_iommufd_pt cmd = { .argsz = sizeof(cmd) };

	return ioctl(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd) ? -errno : 0;
}

static int vfio_region(int device, u32 index,
		       struct vfio_region_info *info)
{
	*info = (struct vfio_region_info){
		.argsz = sizeof(*info),
		.index = index,
	};
	return ioctl(device, VFIO_DEVICE_GET_REGION_INFO, info) ? -errno : 0;
}

/* Enable memory accesses (PCI_COMMAND_MEMORY) and bus mastering */
static int vfio_set_command(int device, u16 set, u16 clear)
{
	struct vfio_region_info config;
	u16 command;
	int rc;

	rc = vfio_region(device, VFIO_PCI_CONFIG_REGION_INDEX, &config);
	if (rc)
		return rc;
	if (pread(device, &command, sizeof(command),
		  config.offset + PCI_COMMAND) != sizeof(command))
		return -errno;
	command = (command & ~clear) | set;
	if (pwrite(device, &command, sizeof(command),
		   config.offset + PCI_COMMAND) != sizeof(command))
		return -errno;
	return 0;
}

/* A dma-buf of the first @length bytes of BAR 0. */
static int vfio_export_bar(int device, size_t length)
{
	struct {
		struct vfio_device_feature header;
		struct vfio_device_feature_dma_buf dma_buf;
		struct vfio_region_dma_range range;
	} cmd = {
		.header = {
			.argsz = sizeof(cmd),
			.flags = VFIO_DEVICE_FEATURE_GET |
				 VFIO_DEVICE_FEATURE_DMA_BUF,
		},
		.dma_buf = {
			.region_index = VFIO_PCI_BAR0_REGION_INDEX,
			.open_flags = O_RDWR | O_CLOEXEC,
			.nr_ranges = 1,
		},
		.range = { .length = length },
	};
	int fd = ioctl(device, VFIO_DEVICE_FEATURE, &cmd);

	return fd < 0 ? -errno : fd;
}

/* Deliver the device's MSI to @eventfd; -1 disables it */
static int vfio_set_msi(int device, int eventfd)
{
	char buf[sizeof(struct vfio_irq_set) + sizeof(eventfd)]
		__aligned(__alignof__(struct vfio_irq_set));
	struct vfio_irq_set *cmd = (struct vfio_irq_set *)buf;

	*cmd = (struct vfio_irq_set){
		.argsz = sizeof(buf),
		.flags = VFIO_IRQ_SET_ACTION_TRIGGER |
			 VFIO_IRQ_SET_DATA_EVENTFD,
		.index = VFIO_PCI_MSI_IRQ_INDEX,
		.count = 1,
	};
	memcpy(cmd->data, &eventfd, sizeof(eventfd));
	return ioctl(device, VFIO_DEVICE_SET_IRQS, cmd) ? -errno : 0;
}

/* The device */

static void sleep_ms(long ms)
{
	struct timespec time = { .tv_nsec = ms * 1000000 };

	nanosleep(&time, NULL);
}

/* Map BAR 0, and enable memory accesses and DMA */
static int edu_open_bar(int device, void **bar, size_t *size)
{
	struct vfio_region_info info;
	int rc;

	rc = vfio_region(device, VFIO_PCI_BAR0_REGION_INDEX, &info);
	if (rc)
		return rc;
	*size = info.size;
	*bar = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device,
		    info.offset);
	if (*bar == MAP_FAILED)
		return -errno;
	return vfio_set_command(device, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER,
				0);
}

static int edu_dma(void *bar, u64 src, u64 dst, u64 count,
		   u64 cmd)
{
	int i;

	writeq(src, bar + EDU_DMA_SRC);
	writeq(dst, bar + EDU_DMA_DST);
	writeq(count, bar + EDU_DMA_COUNT);
	writeq(cmd | EDU_DMA_RUN, bar + EDU_DMA_CMD);
	/*
	 * Sleep for at least a minute in all: a virtual machine may be starved.
	 */
	for (i = 0; i < 12000; i++) {
		if (!(readq(bar + EDU_DMA_CMD) & EDU_DMA_RUN))
			return 0;
		sleep_ms(5);
	}
	return -ETIMEDOUT;
}

/* The device reads @count bytes at @iova into its buffer. */
static int edu_fetch(void *bar, u64 iova, size_t count)
{
	return edu_dma(bar, iova, EDU_BUF, count, 0);
}

/* The device writes @count bytes of its buffer to @iova. */
static int edu_store(void *bar, u64 iova, size_t count)
{
	return edu_dma(bar, EDU_BUF, iova, count, EDU_DMA_TO_MEMORY);
}

/* Bytes that differ between pages, and between values of @seed */
static void fill(u8 *buf, size_t count, unsigned int seed)
{
	u32 x = seed * 2654435761u + 1;
	size_t i;

	for (i = 0; i < count; i++) {
		x = x * 1664525 + 1013904223;
		buf[i] = x >> 24;
	}
}

/* Bytes from 1 to 127. */
static void fill_low(u8 *buf, size_t count, unsigned int seed)
{
	size_t i;

	fill(buf, count, seed);
	for (i = 0; i < count; i++)
		buf[i] = 1 + buf[i] % 127;
}

/* Bytes from 128 to 254: different from fill_low() and from 0xff */
static void fill_high(u8 *buf, size_t count, unsigned int seed)
{
	size_t i;

	fill(buf, count, seed);
	for (i = 0; i < count; i++)
		buf[i] = 128 + buf[i] % 127;
}

/* The number of bytes that are equal to those of @secret */
static size_t bytes_seen(const u8 *buf, const u8 *secret, size_t count)
{
	size_t i, seen = 0;

	for (i = 0; i < count; i++)
		seen += buf[i] == secret[i];
	return seen;
}

#define EDU_CARRIED 64

/*
 * The device reads @from, whose IOVA is @from_iova, and writes to @to. Returns
 * the number of bytes that arrive, or -errno if it cannot be tried.
 */
static int edu_carry(void *bar, u64 from_iova, u64 to_iova, u8 *from, u8 *to)
{
	static unsigned int seed = 200;
	int rc;

	fill_high(from, EDU_CARRIED, ++seed);
	fill_low(to, EDU_CARRIED, seed);
	rc = edu_fetch(bar, from_iova, EDU_CARRIED);
	if (!rc)
		rc = edu_store(bar, to_iova, EDU_CARRIED);
	return rc ?: (int)bytes_seen(to, from, EDU_CARRIED);
}

#endif
