// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cases of iommufd_fault_sweep: each is a context in some state and one
 * system call. All commands of /dev/iommu and of a VFIO container, and the
 * in-kernel interfaces that the mock driver calls.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <signal.h>

#include <linux/iommufd.h>
#include <linux/vfio.h>

#include "iommufd_fault_sweep.h"
#include "kselftest.h"

#define RW (IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE)
#define FIXED (RW | IOMMU_IOAS_MAP_FIXED_IOVA)

/* ---- setting up ---------------------------------------------------------- */

static long done(struct world *w, long rc, int line)
{
	if (rc < 0 && !w->error) {
		w->error = errno;
		w->line = line;
	}
	return rc;
}

/* A call of setup that must succeed. */
#define MUST(w, call) done(w, call, __LINE__)

static __u32 add_ioas(struct world *w)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	MUST(w, ioctl(w->fd, IOMMU_IOAS_ALLOC, &cmd));
	return cmd.out_ioas_id;
}

static void add_map(struct world *w, __u32 ioas, __u64 iova, __u64 uva,
		    __u64 length)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = FIXED,
		.ioas_id = ioas,
		.user_va = uva,
		.length = length,
		.iova = iova,
	};

	MUST(w, ioctl(w->fd, IOMMU_IOAS_MAP, &cmd));
}

static void add_map_file(struct world *w, int fd, __u64 start, __u64 iova,
			 __u64 length)
{
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = FIXED,
		.ioas_id = w->ioas,
		.fd = fd,
		.start = start,
		.length = length,
		.iova = iova,
	};

	MUST(w, ioctl(w->fd, IOMMU_IOAS_MAP_FILE, &cmd));
}

static void add_dmabuf(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DMABUF_GET,
		.dmabuf_get = { .length = 4 * PAGE, .open_flags = O_CLOEXEC },
	};

	w->dmabuf = MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
}

static void add_device_on(struct world *w, __u32 pt, __u32 *stdev, __u32 *idev,
			  __u32 *hwpt)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
		.id = pt,
		.mock_domain_flags.dev_flags = MOCK_FLAGS_DEVICE_PASID,
	};

	MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
	*stdev = cmd.mock_domain_flags.out_stdev_id;
	*idev = cmd.mock_domain_flags.out_idev_id;
	*hwpt = cmd.mock_domain_flags.out_hwpt_id;
}

static void add_device(struct world *w)
{
	add_device_on(w, w->ioas, &w->stdev, &w->idev, &w->hwpt);
}

static __u32 add_hwpt(struct world *w, __u32 pt, __u32 flags, __u32 fault)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOMMU_TEST_IOTLB_DEFAULT };
	bool nested = pt != w->ioas && pt != w->ioas2;
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.dev_id = w->idev,
		.pt_id = pt,
		.data_type = nested ? IOMMU_HWPT_DATA_SELFTEST :
				      IOMMU_HWPT_DATA_NONE,
		.data_len = nested ? sizeof(data) : 0,
		.data_uptr = (uintptr_t)&data,
		.fault_id = fault,
	};

	MUST(w, ioctl(w->fd, IOMMU_HWPT_ALLOC, &cmd));
	return cmd.out_hwpt_id;
}

static void replace(struct world *w, __u32 stdev, __u32 pt)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = stdev,
		.mock_domain_replace.pt_id = pt,
	};

	MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
}

static int add_access(struct world *w, __u32 ioas, __u32 flags)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = ioas,
		.create_access.flags = flags,
	};

	MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
	return cmd.create_access.out_access_fd;
}

static void pin(struct world *w, __u64 iova, __u64 length)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_ACCESS_PAGES,
		.id = w->pin_fd,
		.access_pages = {
			.flags = MOCK_FLAGS_ACCESS_WRITE,
			.iova = iova,
			.length = length,
		},
	};

	MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
	w->pinned = cmd.access_pages.out_access_pages_id;
}

static void set_open(struct world *w)
{
	w->fd = MUST(w, open("/dev/iommu", O_RDWR | O_CLOEXEC));
}

static void set_ioas(struct world *w)
{
	set_open(w);
	w->ioas = add_ioas(w);
	w->ioas2 = add_ioas(w);
}

static void add_maps(struct world *w)
{
	add_map(w, w->ioas, IOVA_FIRST, MEM, FIRST_SIZE);
	add_map(w, w->ioas, IOVA_SECOND, SECOND_MEM, SECOND_SIZE);
}

static void set_mapped(struct world *w)
{
	set_ioas(w);
	add_maps(w);
}

static void set_device(struct world *w)
{
	set_mapped(w);
	add_device(w);
}

/* An IOAS without mappings */
static void set_bare_device(struct world *w)
{
	set_ioas(w);
	add_device(w);
}

/* Two IOASes with a device each */
static void set_devices(struct world *w)
{
	set_device(w);
	add_device_on(w, w->ioas2, &w->stdev2, &w->idev2, &w->hwpt2);
}

/* Two domains of one IOAS */
static void set_two(struct world *w)
{
	set_device(w);
	w->paging = add_hwpt(w, w->ioas, 0, 0);
	add_device_on(w, w->paging, &w->stdev2, &w->idev2, &w->hwpt2);
}

/* Pages of three areas pinned by an access; some also mapped by a domain */
static void set_access(struct world *w)
{
	set_mapped(w);
	w->pin_fd = add_access(w, w->ioas,
			       MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES);
	w->rw_fd = add_access(w, w->ioas, 0);
}

static void set_access_device(struct world *w)
{
	set_access(w);
	add_device(w);
}

static void set_pinned(struct world *w)
{
	set_access(w);
	pin(w, IOVA_FIRST + PAGE, FIRST_SIZE - 3 * PAGE);
}

static void set_pinned_device(struct world *w)
{
	set_access_device(w);
	pin(w, IOVA_FIRST + PAGE, FIRST_SIZE - 3 * PAGE);
}

static void set_dmabuf(struct world *w)
{
	set_device(w);
	add_dmabuf(w);
}

static void set_dmabuf_mapped(struct world *w)
{
	set_dmabuf(w);
	add_map_file(w, w->dmabuf, 0, IOVA_DMABUF, 4 * PAGE);
}

static void set_dirty(struct world *w)
{
	struct iommu_hwpt_set_dirty_tracking track = {
		.size = sizeof(track),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
	};
	__u64 bits = 0xa5;
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DIRTY,
		.dirty = {
			.iova = IOVA_FIRST,
			.length = FIRST_SIZE,
			.page_size = PAGE,
			.uptr = (uintptr_t)&bits,
		},
	};

	set_device(w);
	w->dirty = add_hwpt(w, w->ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0);
	replace(w, w->stdev, w->dirty);
	track.hwpt_id = w->dirty;
	MUST(w, ioctl(w->fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &track));
	cmd.id = w->dirty;
	MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
}

/* A HWPT that can be a nesting parent */
static void set_parent(struct world *w)
{
	set_device(w);
	w->paging = add_hwpt(w, w->ioas, IOMMU_HWPT_ALLOC_NEST_PARENT |
			     IOMMU_HWPT_ALLOC_PASID, 0);
	replace(w, w->stdev, w->paging);
}

static void set_viommu(struct world *w)
{
	struct iommu_viommu_selftest data = { .in_data = 7 };
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};

	set_parent(w);
	cmd.dev_id = w->idev;
	cmd.hwpt_id = w->paging;
	MUST(w, ioctl(w->fd, IOMMU_VIOMMU_ALLOC, &cmd));
	w->viommu = cmd.out_viommu_id;
	w->mmap_offset = data.out_mmap_offset;
	w->mmap_length = data.out_mmap_length;
}

static void set_mmapped(struct world *w)
{
	void *map;

	set_viommu(w);
	map = mmap(NULL, w->mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED,
		   w->fd, w->mmap_offset);
	MUST(w, map == MAP_FAILED ? -1 : 0);
	w->map = map;
}

static void set_vdevice(struct world *w)
{
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.virt_id = VIRT_ID,
	};

	set_viommu(w);
	cmd.dev_id = w->idev;
	cmd.viommu_id = w->viommu;
	MUST(w, ioctl(w->fd, IOMMU_VDEVICE_ALLOC, &cmd));
	w->vdevice = cmd.out_vdevice_id;
}

/* All objects of a vIOMMU, with an event and a fault pending */
static void set_events(struct world *w)
{
	struct iommu_fault_alloc fault = { .size = sizeof(fault) };
	struct iommu_veventq_alloc veventq = {
		.size = sizeof(veventq),
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 2,
	};
	struct iommu_hw_queue_alloc queue = {
		.size = sizeof(queue),
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.nesting_parent_iova = IOVA_SECOND,
		.length = PAGE,
	};

	set_vdevice(w);
	MUST(w, ioctl(w->fd, IOMMU_FAULT_QUEUE_ALLOC, &fault));
	w->fault = fault.out_fault_id;
	w->fault_fd = fault.out_fault_fd;
	fcntl(w->fault_fd, F_SETFL, O_NONBLOCK);
	veventq.viommu_id = w->viommu;
	MUST(w, ioctl(w->fd, IOMMU_VEVENTQ_ALLOC, &veventq));
	w->veventq = veventq.out_veventq_id;
	w->veventq_fd = veventq.out_veventq_fd;
	fcntl(w->veventq_fd, F_SETFL, O_NONBLOCK);
	w->nested = add_hwpt(w, w->viommu, IOMMU_HWPT_FAULT_ID_VALID, w->fault);
	replace(w, w->stdev, w->nested);
	queue.viommu_id = w->viommu;
	MUST(w, ioctl(w->fd, IOMMU_HW_QUEUE_ALLOC, &queue));
	w->queue = queue.out_hw_queue_id;
}

static long trigger_vevent(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_TRIGGER_VEVENT,
		.trigger_vevent.dev_id = w->idev,
	};

	return ioctl(w->fd, IOMMU_TEST_CMD, &cmd);
}

static long trigger_fault(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_TRIGGER_IOPF,
		.trigger_iopf = {
			.dev_id = w->idev,
			.grpid = 2,
			.perm = IOMMU_PGFAULT_PERM_READ,
			.addr = 0xdeadbea0,
		},
	};

	return ioctl(w->fd, IOMMU_TEST_CMD, &cmd);
}

/* The fault is reported by a workqueue. */
static void wait_fault(struct world *w)
{
	struct pollfd p = { .fd = w->fault_fd, .events = POLLIN };

	poll(&p, 1, 5000);
}

static void set_pending(struct world *w)
{
	set_events(w);
	MUST(w, trigger_vevent(w));
	MUST(w, trigger_fault(w));
	wait_fault(w);
}

static void set_answerable(struct world *w)
{
	struct iommu_hwpt_pgfault fault;

	set_pending(w);
	MUST(w, read(w->fault_fd, &fault, sizeof(fault)));
	w->cookie = fault.cookie;
}

static void set_pasid(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_ATTACH,
		.pasid_attach.pasid = PASID,
	};

	set_parent(w);
	w->hwpt2 = add_hwpt(w, w->ioas2, IOMMU_HWPT_ALLOC_PASID, 0);
	cmd.id = w->stdev;
	cmd.pasid_attach.pt_id = w->paging;
	MUST(w, ioctl(w->fd, IOMMU_TEST_CMD, &cmd));
}

static void set_vfio(struct world *w)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_VFIO_IOAS_SET,
	};

	set_ioas(w);
	cmd.ioas_id = w->ioas;
	MUST(w, ioctl(w->fd, IOMMU_VFIO_IOAS, &cmd));
	/* A container type cannot be set once pages are mapped for a device. */
	MUST(w, ioctl(w->fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU));
	add_maps(w);
	add_device(w);
}

static void set_compat(struct world *w)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_VFIO_IOAS_SET,
	};

	set_bare_device(w);
	cmd.ioas_id = w->ioas;
	MUST(w, ioctl(w->fd, IOMMU_VFIO_IOAS, &cmd));
}

/* Memory files, mapped by another process that stays alive */
static void set_other_process(struct world *w)
{
	int ready[2], end[2];
	pid_t pid;
	char byte;

	MUST(w, pipe(ready));
	MUST(w, pipe(end));
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (!pid) {
		set_ioas(w);
		add_map_file(w, w->mem_fd, 0, IOVA_FIRST, FIRST_SIZE);
		add_map_file(w, w->mem_fd, SECOND_MEM - MEM, IOVA_SECOND,
			     SECOND_SIZE);
		add_device(w);
		MUST(w, write(ready[1], "", 1));
		/* Until the case ends. */
		MUST(w, read(end[0], &byte, 1));
		_exit(0);
	}
	MUST(w, pid);
	w->helper = pid;
	MUST(w, read(ready[0], &byte, 1));
	close(ready[0]);
	close(ready[1]);
	w->helper_pipe = end[1];
}

/* ---- calling ------------------------------------------------------------- */

/* Place the argument, at a second address read-only */
static void *frame(void)
{
	return (void *)FRAME;
}

/* One that begins with its size. */
static void *frame_of(__u32 size)
{
	__u32 *argument = frame();

	*argument = size;
	return argument;
}

static long call_frame(struct world *w, unsigned long nr)
{
	long rc = ioctl(w->fd, nr, w->readonly ? FRAME_RO : FRAME);

	return rc < 0 ? -errno : rc;
}

#define COMMAND(type) \
	struct type *cmd __maybe_unused = frame_of(sizeof(struct type))

static long call_open(struct world *w)
{
	long rc = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	(void)w;
	return rc < 0 ? -errno : rc;
}

static long call_ioas_alloc(struct world *w)
{
	COMMAND(iommu_ioas_alloc);

	return call_frame(w, IOMMU_IOAS_ALLOC);
}

static long call_allow(struct world *w)
{
	COMMAND(iommu_ioas_allow_iovas);
	struct iommu_iova_range *ranges = (void *)(FRAME + 256);

	cmd->ioas_id = w->ioas;
	cmd->num_iovas = 2;
	cmd->allowed_iovas = (uintptr_t)ranges;
	ranges[0].start = IOVA_FIRST;
	ranges[0].last = IOVA_NEW - 1;
	ranges[1].start = IOVA_NEW;
	ranges[1].last = IOVA_DMABUF + (1UL << 20) - 1;
	return call_frame(w, IOMMU_IOAS_ALLOW_IOVAS);
}

static long call_ranges(struct world *w)
{
	COMMAND(iommu_ioas_iova_ranges);

	cmd->ioas_id = w->ioas;
	cmd->num_iovas = 8;
	cmd->allowed_iovas = FRAME + 256;
	return call_frame(w, IOMMU_IOAS_IOVA_RANGES);
}

static long map(struct world *w, __u32 flags, __u64 iova, __u64 length)
{
	COMMAND(iommu_ioas_map);

	cmd->flags = flags;
	cmd->ioas_id = w->ioas;
	cmd->user_va = NEW_MEM;
	cmd->length = length;
	cmd->iova = iova;
	return call_frame(w, IOMMU_IOAS_MAP);
}

static long call_map(struct world *w)
{
	return map(w, FIXED, IOVA_NEW, NEW_SIZE);
}

static long call_map_auto(struct world *w)
{
	return map(w, RW, 0, NEW_SIZE);
}

static long call_map_page(struct world *w)
{
	return map(w, FIXED, IOVA_NEW, PAGE);
}

static long map_file(struct world *w, int fd, __u64 iova, __u64 start,
		     __u64 length)
{
	COMMAND(iommu_ioas_map_file);

	cmd->flags = FIXED;
	cmd->ioas_id = w->ioas;
	cmd->fd = fd;
	cmd->start = start;
	cmd->length = length;
	cmd->iova = iova;
	return call_frame(w, IOMMU_IOAS_MAP_FILE);
}

static long call_map_file(struct world *w)
{
	return map_file(w, w->mem_fd, IOVA_NEW, NEW_MEM - MEM, NEW_SIZE);
}

static long call_map_dmabuf(struct world *w)
{
	return map_file(w, w->dmabuf, IOVA_DMABUF, 0, 4 * PAGE);
}

static long copy(struct world *w, __u32 to, __u64 src, __u64 dst, __u64 length)
{
	COMMAND(iommu_ioas_copy);

	cmd->flags = FIXED;
	cmd->dst_ioas_id = to;
	cmd->src_ioas_id = w->ioas;
	cmd->length = length;
	cmd->dst_iova = dst;
	cmd->src_iova = src;
	return call_frame(w, IOMMU_IOAS_COPY);
}

static long call_copy(struct world *w)
{
	return copy(w, w->ioas, IOVA_FIRST, IOVA_COPY, FIRST_SIZE);
}

static long call_copy_other(struct world *w)
{
	return copy(w, w->ioas2, IOVA_FIRST, IOVA_COPY, FIRST_SIZE);
}

static long call_copy_dmabuf(struct world *w)
{
	return copy(w, w->ioas, IOVA_DMABUF, IOVA_DMABUF + (1UL << 19),
		    4 * PAGE);
}

static long unmap(struct world *w, __u64 iova, __u64 length)
{
	COMMAND(iommu_ioas_unmap);

	cmd->ioas_id = w->ioas;
	cmd->iova = iova;
	cmd->length = length;
	return call_frame(w, IOMMU_IOAS_UNMAP);
}

static long call_unmap(struct world *w)
{
	return unmap(w, IOVA_FIRST, FIRST_SIZE);
}

static long call_unmap_two(struct world *w)
{
	return unmap(w, IOVA_FIRST, IOVA_SECOND + SECOND_SIZE - IOVA_FIRST);
}

static long call_unmap_all(struct world *w)
{
	return unmap(w, 0, ~0UL);
}

static long call_unmap_dmabuf(struct world *w)
{
	return unmap(w, IOVA_DMABUF, 4 * PAGE);
}

static long call_change_process(struct world *w)
{
	COMMAND(iommu_ioas_change_process);

	return call_frame(w, IOMMU_IOAS_CHANGE_PROCESS);
}

static long option(struct world *w, __u32 which, __u32 object, __u64 value)
{
	COMMAND(iommu_option);

	cmd->option_id = which;
	cmd->op = IOMMU_OPTION_OP_SET;
	cmd->object_id = object;
	cmd->val64 = value;
	return call_frame(w, IOMMU_OPTION);
}

static long call_option_mode(struct world *w)
{
	return option(w, IOMMU_OPTION_RLIMIT_MODE, 0, 1);
}

static long call_option_huge(struct world *w)
{
	return option(w, IOMMU_OPTION_HUGE_PAGES, w->ioas, 0);
}

static long call_vfio_ioas(struct world *w)
{
	COMMAND(iommu_vfio_ioas);

	cmd->ioas_id = w->ioas2;
	cmd->op = IOMMU_VFIO_IOAS_SET;
	return call_frame(w, IOMMU_VFIO_IOAS);
}

static long call_vfio_ioas_clear(struct world *w)
{
	COMMAND(iommu_vfio_ioas);

	cmd->op = IOMMU_VFIO_IOAS_CLEAR;
	return call_frame(w, IOMMU_VFIO_IOAS);
}

static long call_vfio_set(struct world *w)
{
	long rc = ioctl(w->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);

	return rc < 0 ? -errno : rc;
}

static long call_vfio_extension(struct world *w)
{
	long rc = ioctl(w->fd, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU);

	return rc < 0 ? -errno : rc;
}

static long call_vfio_info(struct world *w)
{
	struct vfio_iommu_type1_info *info = frame();

	info->argsz = 256;
	return call_frame(w, VFIO_IOMMU_GET_INFO);
}

static long call_vfio_map(struct world *w)
{
	struct vfio_iommu_type1_dma_map *map = frame();

	map->argsz = sizeof(*map);
	map->flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
	map->vaddr = NEW_MEM;
	map->iova = IOVA_NEW;
	map->size = NEW_SIZE;
	return call_frame(w, VFIO_IOMMU_MAP_DMA);
}

static long vfio_unmap(struct world *w, __u32 flags, __u64 iova, __u64 size)
{
	struct vfio_iommu_type1_dma_unmap *unmap = frame();

	unmap->argsz = sizeof(*unmap);
	unmap->flags = flags;
	unmap->iova = iova;
	unmap->size = size;
	return call_frame(w, VFIO_IOMMU_UNMAP_DMA);
}

static long call_vfio_unmap(struct world *w)
{
	return vfio_unmap(w, 0, IOVA_FIRST, FIRST_SIZE);
}

/* From the middle: type1 splits the area, which allocates. */
static long call_vfio_split(struct world *w)
{
	return vfio_unmap(w, 0, IOVA_FIRST + 4 * PAGE, 4 * PAGE);
}

static long call_vfio_unmap_all(struct world *w)
{
	return vfio_unmap(w, VFIO_DMA_UNMAP_FLAG_ALL, 0, 0);
}

static long hwpt_alloc(struct world *w, __u32 pt, __u32 flags, bool data)
{
	COMMAND(iommu_hwpt_alloc);
	struct iommu_hwpt_selftest *selftest = (void *)(FRAME + 256);

	cmd->flags = flags;
	cmd->dev_id = w->idev;
	cmd->pt_id = pt;
	cmd->fault_id = w->fault;
	if (data) {
		cmd->data_type = IOMMU_HWPT_DATA_SELFTEST;
		cmd->data_len = sizeof(*selftest);
		cmd->data_uptr = (uintptr_t)selftest;
		selftest->iotlb = IOMMU_TEST_IOTLB_DEFAULT;
	}
	return call_frame(w, IOMMU_HWPT_ALLOC);
}

static long call_hwpt_paging(struct world *w)
{
	return hwpt_alloc(w, w->ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING |
			  IOMMU_HWPT_ALLOC_NEST_PARENT, false);
}

static long call_hwpt_nested(struct world *w)
{
	return hwpt_alloc(w, w->paging, 0, true);
}

static long call_hwpt_viommu(struct world *w)
{
	return hwpt_alloc(w, w->viommu, 0, true);
}

static long call_hwpt_fault(struct world *w)
{
	return hwpt_alloc(w, w->viommu, IOMMU_HWPT_FAULT_ID_VALID, true);
}

static long call_set_dirty(struct world *w)
{
	COMMAND(iommu_hwpt_set_dirty_tracking);

	cmd->hwpt_id = w->dirty;
	return call_frame(w, IOMMU_HWPT_SET_DIRTY_TRACKING);
}

static long get_dirty(struct world *w, __u32 flags)
{
	COMMAND(iommu_hwpt_get_dirty_bitmap);

	cmd->hwpt_id = w->dirty;
	cmd->flags = flags;
	cmd->iova = IOVA_FIRST;
	cmd->length = FIRST_SIZE;
	cmd->page_size = PAGE;
	cmd->data = FRAME + 256;
	return call_frame(w, IOMMU_HWPT_GET_DIRTY_BITMAP);
}

static long call_get_dirty(struct world *w)
{
	return get_dirty(w, 0);
}

static long call_peek_dirty(struct world *w)
{
	return get_dirty(w, IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR);
}

static long call_invalidate(struct world *w)
{
	COMMAND(iommu_hwpt_invalidate);
	struct iommu_hwpt_invalidate_selftest *inv = (void *)(FRAME + 256);

	cmd->hwpt_id = w->nested;
	cmd->data_uptr = (uintptr_t)inv;
	cmd->data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST;
	cmd->entry_len = sizeof(*inv);
	cmd->entry_num = 2;
	inv[0].iotlb_id = 1;
	inv[1].iotlb_id = 2;
	return call_frame(w, IOMMU_HWPT_INVALIDATE);
}

static long call_invalidate_viommu(struct world *w)
{
	COMMAND(iommu_hwpt_invalidate);
	struct iommu_viommu_invalidate_selftest *inv = (void *)(FRAME + 256);

	cmd->hwpt_id = w->viommu;
	cmd->data_uptr = (uintptr_t)inv;
	cmd->data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST;
	cmd->entry_len = sizeof(*inv);
	cmd->entry_num = 2;
	inv[0].vdev_id = VIRT_ID;
	inv[0].cache_id = 1;
	inv[1].vdev_id = VIRT_ID;
	inv[1].cache_id = 2;
	return call_frame(w, IOMMU_HWPT_INVALIDATE);
}

static long call_hw_info(struct world *w)
{
	COMMAND(iommu_hw_info);

	cmd->dev_id = w->idev;
	cmd->data_len = 64;
	cmd->data_uptr = FRAME + 256;
	return call_frame(w, IOMMU_GET_HW_INFO);
}

static long call_fault_alloc(struct world *w)
{
	COMMAND(iommu_fault_alloc);

	return call_frame(w, IOMMU_FAULT_QUEUE_ALLOC);
}

static long viommu_alloc(struct world *w, bool data)
{
	COMMAND(iommu_viommu_alloc);
	struct iommu_viommu_selftest *selftest = (void *)(FRAME + 256);

	cmd->type = IOMMU_VIOMMU_TYPE_SELFTEST;
	cmd->dev_id = w->idev;
	cmd->hwpt_id = w->paging;
	if (data) {
		selftest->in_data = 9;
		cmd->data_len = sizeof(*selftest);
		cmd->data_uptr = (uintptr_t)selftest;
	}
	return call_frame(w, IOMMU_VIOMMU_ALLOC);
}

static long call_viommu_alloc(struct world *w)
{
	return viommu_alloc(w, false);
}

static long call_viommu_alloc_data(struct world *w)
{
	return viommu_alloc(w, true);
}

static long call_vdevice_alloc(struct world *w)
{
	COMMAND(iommu_vdevice_alloc);

	cmd->viommu_id = w->viommu;
	cmd->dev_id = w->idev;
	cmd->virt_id = VIRT_ID;
	return call_frame(w, IOMMU_VDEVICE_ALLOC);
}

static long call_veventq_alloc(struct world *w)
{
	COMMAND(iommu_veventq_alloc);

	cmd->viommu_id = w->viommu;
	cmd->type = IOMMU_VEVENTQ_TYPE_SELFTEST;
	cmd->veventq_depth = 2;
	return call_frame(w, IOMMU_VEVENTQ_ALLOC);
}

static long queue_alloc(struct world *w, __u32 index, __u64 iova)
{
	COMMAND(iommu_hw_queue_alloc);

	cmd->viommu_id = w->viommu;
	cmd->type = IOMMU_HW_QUEUE_TYPE_SELFTEST;
	cmd->index = index;
	cmd->nesting_parent_iova = iova;
	cmd->length = PAGE;
	return call_frame(w, IOMMU_HW_QUEUE_ALLOC);
}

static long call_queue_alloc(struct world *w)
{
	return queue_alloc(w, 0, IOVA_FIRST);
}

/* It depends on the previous one. */
static long call_queue_alloc_next(struct world *w)
{
	return queue_alloc(w, 1, IOVA_FIRST);
}

static long call_mmap(struct world *w)
{
	void *map = mmap((void *)0x100020000000UL, w->mmap_length,
			 PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED_NOREPLACE, w->fd,
			 w->mmap_offset);

	if (map == MAP_FAILED)
		return -errno;
	w->map = map;
	return 0;
}

static long call_munmap(struct world *w)
{
	if (munmap(w->map, w->mmap_length))
		return -errno;
	w->map = NULL;
	return 0;
}

static long call_read_fault(struct world *w)
{
	struct iommu_hwpt_pgfault *fault = frame();
	long rc = read(w->fault_fd, w->readonly ? (void *)FRAME_RO : fault,
		       sizeof(*fault));

	return rc < 0 ? -errno : rc;
}

static long call_answer_fault(struct world *w)
{
	struct iommu_hwpt_page_response *answer = frame();
	long rc;

	answer->cookie = w->cookie;
	answer->code = IOMMUFD_PAGE_RESP_SUCCESS;
	rc = write(w->fault_fd, answer, sizeof(*answer));
	return rc < 0 ? -errno : rc;
}

static long call_read_vevent(struct world *w)
{
	long rc = read(w->veventq_fd,
		       w->readonly ? (void *)FRAME_RO : frame(), 64);

	return rc < 0 ? -errno : rc;
}

static long call_poll(struct world *w)
{
	struct pollfd *p = frame();
	long rc;

	p[0].fd = w->fault_fd;
	p[0].events = POLLIN | POLLOUT;
	p[1].fd = w->veventq_fd;
	p[1].events = POLLIN;
	rc = poll(p, 2, 0);
	return rc < 0 ? -errno : rc;
}

static long call_trigger_vevent(struct world *w)
{
	return trigger_vevent(w) ? -errno : 0;
}

static long call_trigger_fault(struct world *w)
{
	return trigger_fault(w) ? -errno : 0;
}

/* ---- the mock ------------------------------------------------------------ */

static long test_op(struct world *w, __u32 op, __u32 id)
{
	struct iommu_test_cmd *cmd = (void *)FRAME;

	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return call_frame(w, IOMMU_TEST_CMD);
}

static long mock_device(struct world *w, __u32 pt)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->mock_domain_flags.dev_flags = MOCK_FLAGS_DEVICE_PASID;
	return test_op(w, IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, pt);
}

static long call_bind(struct world *w)
{
	return mock_device(w, w->ioas);
}

static long call_bind_hwpt(struct world *w)
{
	return mock_device(w, w->paging);
}

static long mock_replace(struct world *w, __u32 pt)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->mock_domain_replace.pt_id = pt;
	return test_op(w, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, w->stdev);
}

static long call_replace_ioas(struct world *w)
{
	return mock_replace(w, w->ioas2);
}

static long call_replace_hwpt(struct world *w)
{
	return mock_replace(w, w->hwpt);
}

static long call_replace_paging(struct world *w)
{
	return mock_replace(w, w->paging);
}

static long call_replace_nested(struct world *w)
{
	return mock_replace(w, w->nested);
}

static long call_pasid_attach(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->pasid_attach.pasid = PASID;
	cmd->pasid_attach.pt_id = w->paging;
	return test_op(w, IOMMU_TEST_OP_PASID_ATTACH, w->stdev);
}

static long call_pasid_replace(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->pasid_replace.pasid = PASID;
	cmd->pasid_replace.pt_id = w->hwpt2;
	return test_op(w, IOMMU_TEST_OP_PASID_REPLACE, w->stdev);
}

static long call_pasid_detach(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->pasid_detach.pasid = PASID;
	return test_op(w, IOMMU_TEST_OP_PASID_DETACH, w->stdev);
}

static long call_access_create(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->create_access.flags = MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES;
	return test_op(w, IOMMU_TEST_OP_CREATE_ACCESS, w->ioas);
}

static long call_access_replace(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->access_replace_ioas.ioas_id = w->ioas2;
	return test_op(w, IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, w->pin_fd);
}

static long access_pin(struct world *w, __u64 iova, __u64 length)
{
	struct iommu_test_cmd *cmd = frame();
	long rc;

	cmd->access_pages.flags = MOCK_FLAGS_ACCESS_WRITE;
	cmd->access_pages.iova = iova;
	cmd->access_pages.length = length;
	rc = test_op(w, IOMMU_TEST_OP_ACCESS_PAGES, w->pin_fd);
	/* The mock counts what fails, too. */
	cmd->access_pages.out_access_pages_id = 0;
	return rc;
}

static long call_pin(struct world *w)
{
	return access_pin(w, IOVA_FIRST, FIRST_SIZE);
}

static long call_pin_overlap(struct world *w)
{
	return access_pin(w, IOVA_FIRST + 4 * PAGE, FIRST_SIZE - 4 * PAGE);
}

static long call_unpin(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->destroy_access_pages.access_pages_id = w->pinned;
	return test_op(w, IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, w->pin_fd);
}

static long access_rw(struct world *w, __u32 flags, __u64 length)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->access_rw.iova = IOVA_FIRST + PAGE - 64;
	cmd->access_rw.length = length;
	cmd->access_rw.uptr = MEM + 48 * PAGE;
	cmd->access_rw.flags = flags;
	return test_op(w, IOMMU_TEST_OP_ACCESS_RW, w->rw_fd);
}

static long call_rw_read(struct world *w)
{
	return access_rw(w, 0, 3 * PAGE);
}

static long call_rw_read_slow(struct world *w)
{
	return access_rw(w, MOCK_ACCESS_RW_SLOW_PATH, 3 * PAGE);
}

static long call_rw_write(struct world *w)
{
	return access_rw(w, MOCK_ACCESS_RW_WRITE, 3 * PAGE);
}

static long call_rw_write_slow(struct world *w)
{
	return access_rw(w, MOCK_ACCESS_RW_WRITE | MOCK_ACCESS_RW_SLOW_PATH,
			 3 * PAGE);
}

static long call_reserve(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->add_reserved.start = IOVA_NEW;
	cmd->add_reserved.length = NEW_SIZE;
	return test_op(w, IOMMU_TEST_OP_ADD_RESERVED, w->ioas);
}

static long call_revoke(struct world *w)
{
	struct iommu_test_cmd *cmd = frame();

	cmd->dmabuf_revoke.dmabuf_fd = w->dmabuf;
	cmd->dmabuf_revoke.revoked = 1;
	return test_op(w, IOMMU_TEST_OP_DMABUF_REVOKE, 0);
}

/* ---- destroying ---------------------------------------------------------- */

static long destroy(struct world *w, __u32 id)
{
	COMMAND(iommu_destroy);

	cmd->id = id;
	return call_frame(w, IOMMU_DESTROY);
}

static long call_destroy_ioas(struct world *w)
{
	return destroy(w, w->ioas);
}

static long call_destroy_stdev(struct world *w)
{
	return destroy(w, w->stdev);
}

static long call_destroy_stdev2(struct world *w)
{
	return destroy(w, w->stdev2);
}

static long call_destroy_paging(struct world *w)
{
	return destroy(w, w->paging);
}

static long call_destroy_viommu(struct world *w)
{
	return destroy(w, w->viommu);
}

static long call_destroy_vdevice(struct world *w)
{
	return destroy(w, w->vdevice);
}

static long call_destroy_veventq(struct world *w)
{
	return destroy(w, w->veventq);
}

static long call_destroy_queue(struct world *w)
{
	return destroy(w, w->queue);
}

/* Of an event queue whose file has been closed. */
static void set_fault_closed(struct world *w)
{
	struct iommu_fault_alloc fault = { .size = sizeof(fault) };

	set_device(w);
	MUST(w, ioctl(w->fd, IOMMU_FAULT_QUEUE_ALLOC, &fault));
	w->fault = fault.out_fault_id;
	close(fault.out_fault_fd);
}

static long call_destroy_fault(struct world *w)
{
	return destroy(w, w->fault);
}

static void set_veventq_closed(struct world *w)
{
	set_pending(w);
	close(w->veventq_fd);
	w->veventq_fd = -1;
}

static void set_spare_nested(struct world *w)
{
	set_vdevice(w);
	w->nested = add_hwpt(w, w->viommu, 0, 0);
}

static long call_destroy_nested(struct world *w)
{
	return destroy(w, w->nested);
}

/* A HWPT of the IOAS that no device is attached to; it is filled. */
static void set_spare_paging(struct world *w)
{
	set_device(w);
	w->paging = add_hwpt(w, w->ioas, 0, 0);
}

static long close_file(int fd)
{
	return close(fd) ? -errno : 0;
}

static long call_close(struct world *w)
{
	return close_file(w->fd);
}

static long call_close_pin(struct world *w)
{
	return close_file(w->pin_fd);
}

static long call_close_fault(struct world *w)
{
	int fd = w->fault_fd;

	w->fault_fd = -1;
	return close_file(fd);
}

static long call_close_veventq(struct world *w)
{
	int fd = w->veventq_fd;

	w->veventq_fd = -1;
	return close_file(fd);
}

/* ---- the list ------------------------------------------------------------ */

static const char mapped_then_copied[] =
	"The IOVA is copied out after the area is in place.";
static const char unmapped_then_copied[] =
	"The length is copied out after the areas are gone.";
static const char attached_then_copied[] =
	"The mock copies out the page table after the attachment.";
static const char cleared_then_copied[] =
	"Dirty bits are cleared as they are read, and the bitmap is user memory.";
static const char option_then_copied[] =
	"The value is copied out after it is set.";
static const char other_table[] =
	"An IOAS has another page table made where an attach says EINVAL.";
static const char lost[] =
	"An event that there is no memory for is lost, as hardware loses it.";

const struct sweep_case sweep_cases[] = {
	{ "open", set_ioas, call_open },
	{ "ioas_alloc", set_ioas, call_ioas_alloc },
	{ "allow_iovas", set_device, call_allow },
	{ "iova_ranges", set_device, call_ranges },
	{ "map", set_mapped, call_map, COMMITS, mapped_then_copied },
	{ "map_auto", set_mapped, call_map_auto, COMMITS, mapped_then_copied },
	{ "map_page", set_device, call_map_page, COMMITS, mapped_then_copied },
	{ "map_domain", set_device, call_map, COMMITS, mapped_then_copied },
	{ "map_domain_batches", set_device, call_map, COMMITS | SMALL_BATCHES,
	  mapped_then_copied },
	{ "map_domain_auto", set_device, call_map_auto, COMMITS,
	  mapped_then_copied },
	{ "map_first_of_domain", set_bare_device, call_map, COMMITS,
	  mapped_then_copied },
	{ "map_domains", set_two, call_map, COMMITS | SMALL_BATCHES,
	  mapped_then_copied },
	{ "map_file", set_mapped, call_map_file, COMMITS, mapped_then_copied },
	{ "map_file_domains", set_two, call_map_file, COMMITS | SMALL_BATCHES,
	  mapped_then_copied },
	{ "map_dmabuf", set_dmabuf, call_map_dmabuf, COMMITS,
	  mapped_then_copied },
	{ "copy", set_mapped, call_copy, COMMITS, mapped_then_copied },
	{ "copy_domain", set_device, call_copy, COMMITS | SMALL_BATCHES,
	  mapped_then_copied },
	{ "copy_domains", set_devices, call_copy_other,
	  COMMITS | SMALL_BATCHES, mapped_then_copied },
	{ "copy_pinned", set_pinned_device, call_copy, COMMITS,
	  mapped_then_copied },
	{ "copy_dmabuf", set_dmabuf_mapped, call_copy_dmabuf, COMMITS,
	  mapped_then_copied },
	{ "unmap", set_device, call_unmap, SURE | COMMITS,
	  unmapped_then_copied },
	{ "unmap_batches", set_two, call_unmap, SURE | COMMITS | SMALL_BATCHES,
	  unmapped_then_copied },
	{ "unmap_two", set_two, call_unmap_two, SURE | COMMITS,
	  unmapped_then_copied },
	{ "unmap_all", set_two, call_unmap_all, SURE | COMMITS,
	  unmapped_then_copied },
	{ "unmap_no_domain", set_mapped, call_unmap, SURE | COMMITS,
	  unmapped_then_copied },
	{ "unmap_pinned", set_pinned, call_unmap, SURE | COMMITS,
	  unmapped_then_copied },
	{ "unmap_pinned_domain", set_pinned_device, call_unmap_all,
	  SURE | COMMITS | SMALL_BATCHES, unmapped_then_copied },
	{ "unmap_dmabuf", set_dmabuf_mapped, call_unmap_dmabuf, SURE | COMMITS,
	  unmapped_then_copied },
	{ "change_process", set_other_process, call_change_process, TWICE,
	  "The new process is charged before the old one is discharged." },
	{ "option_rlimit_mode", set_open, call_option_mode,
	  COMMITS | NO_POINTS, option_then_copied },
	{ "option_huge_pages", set_ioas, call_option_huge, COMMITS,
	  option_then_copied },
	{ "vfio_ioas_set", set_vfio, call_vfio_ioas },
	{ "vfio_ioas_clear", set_vfio, call_vfio_ioas_clear, NO_POINTS },
	{ "vfio_set_iommu", set_compat, call_vfio_set, NO_POINTS },
	{ "vfio_check_extension", set_vfio, call_vfio_extension, NO_POINTS },
	{ "vfio_get_info", set_vfio, call_vfio_info, NO_POINTS },
	{ "vfio_map", set_vfio, call_vfio_map },
	{ "vfio_unmap", set_vfio, call_vfio_unmap, SURE | COMMITS,
	  unmapped_then_copied },
	{ "vfio_unmap_middle", set_vfio, call_vfio_split, COMMITS,
	  unmapped_then_copied },
	{ "vfio_unmap_all", set_vfio, call_vfio_unmap_all, SURE | COMMITS,
	  unmapped_then_copied },
	{ "hwpt_alloc", set_device, call_hwpt_paging },
	{ "hwpt_alloc_batches", set_device, call_hwpt_paging, SMALL_BATCHES },
	{ "hwpt_alloc_pinned", set_pinned_device, call_hwpt_paging,
	  SMALL_BATCHES },
	{ "hwpt_alloc_dmabuf", set_dmabuf_mapped, call_hwpt_paging },
	{ "hwpt_alloc_nested", set_parent, call_hwpt_nested },
	{ "hwpt_alloc_viommu", set_viommu, call_hwpt_viommu },
	{ "hwpt_alloc_fault", set_events, call_hwpt_fault },
	{ "set_dirty_tracking", set_dirty, call_set_dirty },
	{ "get_dirty", set_dirty, call_get_dirty, COMMITS | PARTIAL,
	  cleared_then_copied },
	{ "get_dirty_no_clear", set_dirty, call_peek_dirty },
	{ "invalidate", set_events, call_invalidate, COMMITS | PARTIAL,
	  "Entries that come before one that cannot be read are done." },
	{ "invalidate_viommu", set_events, call_invalidate_viommu, COMMITS,
	  "The number of entries done is copied out after they are." },
	{ "get_hw_info", set_device, call_hw_info },
	{ "fault_queue_alloc", set_device, call_fault_alloc },
	{ "fault_read", set_pending, call_read_fault },
	{ "fault_write", set_answerable, call_answer_fault, NO_POINTS },
	{ "viommu_alloc", set_parent, call_viommu_alloc },
	{ "viommu_alloc_mmap", set_parent, call_viommu_alloc_data },
	{ "vdevice_alloc", set_viommu, call_vdevice_alloc },
	{ "veventq_alloc", set_viommu, call_veventq_alloc },
	{ "veventq_read", set_pending, call_read_vevent, NO_POINTS },
	{ "poll", set_pending, call_poll, NO_POINTS },
	{ "hw_queue_alloc", set_viommu, call_queue_alloc, SMALL_BATCHES },
	{ "hw_queue_alloc_next", set_events, call_queue_alloc_next, ONCE,
	  "The mock never notes the index of a queue, and clears another's." },
	{ "mmap", set_viommu, call_mmap },
	{ "munmap", set_mmapped, call_munmap },
	{ "bind", set_mapped, call_bind },
	{ "bind_batches", set_mapped, call_bind, SMALL_BATCHES },
	{ "bind_pinned", set_pinned, call_bind, SMALL_BATCHES },
	{ "bind_second", set_device, call_bind, FALLBACK, other_table },
	{ "bind_hwpt", set_spare_paging, call_bind_hwpt },
	{ "replace_by_ioas", set_device, call_replace_ioas, COMMITS,
	  attached_then_copied },
	{ "replace_by_hwpt", set_devices, call_replace_ioas,
	  COMMITS | FALLBACK, other_table },
	{ "replace_by_same", set_device, call_replace_hwpt, COMMITS,
	  attached_then_copied },
	{ "replace_by_paging", set_spare_paging, call_replace_paging, COMMITS,
	  attached_then_copied },
	{ "replace_by_nested", set_spare_nested, call_replace_nested, COMMITS,
	  attached_then_copied },
	{ "pasid_attach", set_parent, call_pasid_attach },
	{ "pasid_replace", set_pasid, call_pasid_replace, COMMITS,
	  attached_then_copied },
	{ "pasid_detach", set_pasid, call_pasid_detach, SURE },
	{ "access_create", set_mapped, call_access_create },
	{ "access_replace", set_pinned, call_access_replace },
	{ "access_pin", set_access, call_pin, SMALL_BATCHES },
	{ "access_pin_domain", set_access_device, call_pin, SMALL_BATCHES },
	{ "access_pin_overlap", set_pinned, call_pin_overlap },
	{ "access_unpin", set_pinned, call_unpin, SURE },
	{ "access_unpin_domain", set_pinned_device, call_unpin,
	  SURE | SMALL_BATCHES },
	{ "access_rw_read", set_access, call_rw_read },
	{ "access_rw_read_slow", set_access, call_rw_read_slow },
	{ "access_rw_read_domain", set_access_device, call_rw_read },
	{ "access_rw_write", set_access, call_rw_write },
	{ "access_rw_write_slow", set_access_device, call_rw_write_slow },
	{ "reserve_iova", set_mapped, call_reserve },
	{ "report_event", set_events, call_trigger_vevent, LOSSY, lost },
	{ "report_fault", set_events, call_trigger_fault, LOSSY, lost },
	{ "dmabuf_revoke", set_dmabuf_mapped, call_revoke, SURE },
	{ "destroy_ioas", set_mapped, call_destroy_ioas, SURE },
	{ "destroy_hwpt", set_spare_paging, call_destroy_paging, SURE },
	{ "destroy_last_device", set_device, call_destroy_stdev,
	  SURE | SMALL_BATCHES },
	{ "destroy_device", set_two, call_destroy_stdev, SURE },
	{ "destroy_second_device", set_two, call_destroy_stdev2, SURE },
	{ "destroy_pinned_device", set_pinned_device, call_destroy_stdev,
	  SURE | SMALL_BATCHES },
	{ "destroy_dmabuf_device", set_dmabuf_mapped, call_destroy_stdev,
	  SURE },
	{ "destroy_vdevice_device", set_vdevice, call_destroy_stdev, SURE },
	{ "destroy_fault", set_fault_closed, call_destroy_fault, SURE },
	{ "destroy_nested", set_spare_nested, call_destroy_nested, SURE },
	{ "destroy_viommu", set_viommu, call_destroy_viommu, SURE },
	{ "destroy_vdevice", set_vdevice, call_destroy_vdevice, SURE },
	{ "destroy_hw_queue", set_events, call_destroy_queue, SURE },
	{ "destroy_veventq", set_veventq_closed, call_destroy_veventq, SURE },
	{ "close_fault_queue", set_pending, call_close_fault, SURE },
	{ "close_veventq", set_pending, call_close_veventq, SURE },
	{ "close_access", set_pinned_device, call_close_pin,
	  SURE | SMALL_BATCHES },
	{ "close_mapped", set_two, call_close, SURE | SMALL_BATCHES },
	{ "close_pinned", set_pinned_device, call_close, SURE },
	{ "close_dmabuf", set_dmabuf_mapped, call_close, SURE },
	{ "close_events", set_pending, call_close, SURE },
	{ "close_answerable", set_answerable, call_close, SURE },
	{ "close_mmapped", set_mmapped, call_close, SURE },
};

const unsigned int nr_sweep_cases = ARRAY_SIZE(sweep_cases);
