// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test that a call which waits for user memory makes no other task wait.
 *
 * A page of userfaultfd or of FUSE makes copy_from_user() and copy_to_user()
 * wait for as long as user space likes. For each command, and each of its
 * copies, a thread is stopped in the copy. Meanwhile another process takes
 * steps with the same objects: it maps, attaches, reports events, destroys each
 * object, and unbinds the devices. Each step must finish while the first call
 * still waits. A step that finishes only when the first call continues has
 * waited for user memory. The waiting task must be killable.
 *
 * Exceptions are in a table, with the reason. An entry that is no longer true
 * is a failure, too.
 */
#define _GNU_SOURCE
#include <stddef.h>

#include <linux/vfio.h>

#include "iommufd_gate.h"
#include "iommufd_kinds.h"

double budget;
u64 *steady;
struct fuse_gate fuse;

/*
 * The time after which a step counts as waiting. A step that does not wait
 * takes almost none of it; the limit is for busy machines.
 */
#define STEP_LIMIT_MS 2000
/* The same for steps that are expected to wait */
#define EXCEPTION_LIMIT_MS 250
#define REACH_LIMIT_MS 20000

#define IOVA_BASE MOCK_APERTURE_START

/* ---- the objects --------------------------------------------------------- */

struct scene {
	int fd;
	/*
	 * Device 0 is attached to @nested, 1 to @ioas[1] by an automatic HWPT
	 */
	u32 ioas[2];
	struct mock dev[2];
	u32 parent, viommu, vdevice, nested, fault, veventq, hw_queue;
	/* Not attached: nested in @parent; with dirty tracking */
	u32 lone, dirty;
	int fault_fd, veventq_fd, access, file;
	unsigned char *mem;
};

enum without {
	NO_VEVENTQ = 1,
	NO_HW_QUEUE = 2,
};

static int make_scene(struct scene *s, unsigned int without)
{
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	int rc;

	memset(s, 0, sizeof(*s));
	s->mem = anon(16 * PAGE);
	memset(s->mem, 1, 16 * PAGE);
	s->file = memfd_create("blocked", MFD_CLOEXEC);
	s->fd = open_iommufd();
	if (s->fd < 0 || s->file < 0 || ftruncate(s->file, 16 * PAGE))
		return -errno;
	rc = do_ioas_alloc(s->fd, &s->ioas[0]) ?:
	     do_ioas_alloc(s->fd, &s->ioas[1]) ?:
	     do_mock_device(s->fd, s->ioas[1], &s->dev[0]) ?:
	     do_mock_device(s->fd, s->ioas[1], &s->dev[1]) ?:
	     do_hwpt_alloc(s->fd, s->dev[0].idev, s->ioas[0],
			   IOMMU_HWPT_ALLOC_NEST_PARENT, 0, &s->parent) ?:
	     do_hwpt_alloc(s->fd, s->dev[0].idev, s->ioas[0],
			   IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0, &s->dirty) ?:
	     do_nested_alloc(s->fd, s->dev[0].idev, s->parent, &s->lone) ?:
	     do_map(s->fd, s->ioas[0], s->mem, 8 * PAGE, IOVA_BASE) ?:
	     do_map(s->fd, s->ioas[1], s->mem, 8 * PAGE, IOVA_BASE) ?:
	     do_fault_alloc(s->fd, &s->fault, &s->fault_fd) ?:
	     do_viommu_alloc(s->fd, s->dev[0].idev, s->parent, NULL,
			     &s->viommu) ?:
	     do_vdevice_alloc(s->fd, s->viommu, s->dev[0].idev, 7,
			      &s->vdevice) ?:
	     do_hwpt_alloc(s->fd, s->dev[0].idev, s->viommu, 0, s->fault,
			   &s->nested) ?:
	     do_replace(s->fd, s->dev[0].stdev, s->nested) ?:
	     do_access_create(s->fd, s->ioas[0], 0, &s->access);
	if (!rc && !(without & NO_VEVENTQ))
		rc = do_veventq_alloc(s->fd, s->viommu, &s->veventq,
				      &s->veventq_fd);
	if (!rc && !(without & NO_HW_QUEUE))
		rc = do_hw_queue_alloc(s->fd, s->viommu, 0, IOVA_BASE, PAGE,
				       &s->hw_queue);
	compat.ioas_id = s->ioas[0];
	rc = rc ?: call(s->fd, IOMMU_VFIO_IOAS, &compat);
	if (!rc && ioctl(s->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		rc = -errno;
	return rc;
}

/*
 * ---- the steps of the other process ---------------------------------------
 */

static int step_map(struct scene *s)
{
	return do_map(s->fd, s->ioas[0], s->mem, PAGE,
		      IOVA_BASE + 64 * PAGE) ?:
	       do_unmap(s->fd, s->ioas[0], IOVA_BASE + 64 * PAGE, PAGE);
}

static int step_copy(struct scene *s)
{
	return do_copy(s->fd, s->ioas[1], IOVA_BASE + 64 * PAGE, s->ioas[0],
		       IOVA_BASE, PAGE) ?:
	       do_unmap(s->fd, s->ioas[1], IOVA_BASE + 64 * PAGE, PAGE);
}

static int step_lookup(struct scene *s)
{
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = s->ioas[0],
	};
	int rc = call(s->fd, IOMMU_IOAS_IOVA_RANGES, &cmd);

	return rc == -EMSGSIZE ? 0 : rc;
}

static int step_domain(struct scene *s)
{
	u32 id;

	return do_hwpt_alloc(s->fd, s->dev[0].idev, s->ioas[0], 0, 0, &id) ?:
	       do_destroy(s->fd, id);
}

static int step_access(struct scene *s)
{
	int access;
	int rc = do_access_create(s->fd, s->ioas[0], 0, &access);

	if (!rc)
		close(access);
	return rc;
}

/* Called by the interrupt thread of an IOMMU */
static int step_vevent(struct scene *s)
{
	int rc = do_trigger_vevent(s->fd, s->dev[0].idev);

	return s->veventq ? rc : 0;
}

static int step_iopf(struct scene *s)
{
	return do_trigger_iopf(s->fd, s->dev[0].idev, 3);
}

static int step_poll(struct scene *s)
{
	struct pollfd ready[] = {
		{ .fd = s->fault_fd, .events = POLLIN },
		{ .fd = s->veventq_fd, .events = POLLIN },
	};

	return poll(ready, s->veventq ? 2 : 1, 0) < 0 ? -errno : 0;
}

static int step_attach(struct scene *s)
{
	return do_replace(s->fd, s->dev[1].stdev, s->parent) ?:
	       do_replace(s->fd, s->dev[1].stdev, s->ioas[0]) ?:
	       do_replace(s->fd, s->dev[1].stdev, s->ioas[1]);
}

static int step_leave(struct scene *s)
{
	return do_replace(s->fd, s->dev[0].stdev, s->ioas[1]);
}

/* EINVAL: some memory is not that of a file. */
static int step_process(struct scene *s)
{
	int rc = do_change_process(s->fd);

	return rc == -EINVAL ? 0 : rc;
}

static int destroy_if(struct scene *s, u32 id)
{
	return id ? do_destroy(s->fd, id) : 0;
}

static int step_nested(struct scene *s)
{
	return do_destroy(s->fd, s->nested);
}

static int step_fault(struct scene *s)
{
	return do_destroy(s->fd, s->fault);
}

static int step_vdevice(struct scene *s)
{
	return do_destroy(s->fd, s->vdevice);
}

static int step_hw_queue(struct scene *s)
{
	return destroy_if(s, s->hw_queue);
}

static int step_veventq(struct scene *s)
{
	return destroy_if(s, s->veventq);
}

static int step_viommu(struct scene *s)
{
	return do_destroy(s->fd, s->viommu);
}

static int step_lone(struct scene *s)
{
	return do_destroy(s->fd, s->lone);
}

static int step_dirty(struct scene *s)
{
	return do_destroy(s->fd, s->dirty);
}

static int step_parent(struct scene *s)
{
	return do_destroy(s->fd, s->parent);
}

static int step_unbind_other(struct scene *s)
{
	return do_destroy(s->fd, s->dev[1].stdev);
}

static int step_unbind(struct scene *s)
{
	return do_destroy(s->fd, s->dev[0].stdev);
}

static int step_unmap(struct scene *s)
{
	return do_unmap(s->fd, s->ioas[0], IOVA_BASE, PAGE * 8);
}

static int step_access_closes(struct scene *s)
{
	return close(s->access) ? -errno : 0;
}

static int step_ioas(struct scene *s)
{
	return do_destroy(s->fd, s->ioas[0]);
}

/* In an order in which each can succeed. */
static const struct {
	const char *name;
	int (*run)(struct scene *s);
} steps[] = {
#define STEP(name) { #name, step_##name }
	STEP(lookup), STEP(map), STEP(copy), STEP(domain), STEP(access),
	STEP(vevent), STEP(iopf), STEP(poll), STEP(attach), STEP(process),
	STEP(leave), STEP(nested), STEP(fault), STEP(vdevice), STEP(hw_queue),
	STEP(veventq), STEP(viommu), STEP(lone), STEP(dirty), STEP(parent),
	STEP(unbind_other), STEP(unbind), STEP(unmap), STEP(access_closes),
	STEP(ioas),
};

#define STEPS ARRAY_SIZE(steps)

static unsigned int step_by_name(const char *name, size_t length)
{
	unsigned int i;

	for (i = 0; i < STEPS; i++)
		if (strlen(steps[i].name) == length &&
		    !strncmp(steps[i].name, name, length))
			return i;
	ksft_exit_fail_msg("no step %s\n", name);
}

/* ---- the calls that are stopped ------------------------------------------ */

struct blocked_call {
	/* The number of an ioctl, or one of these */
	unsigned long nr;
#define READ_FILE 1
#define WRITE_FILE 2
	int fd;
	union {
		u32 size;
		unsigned char bytes[128];
		struct iommu_ioas_map map;
		struct iommu_ioas_map_file map_file;
		struct iommu_ioas_copy copy;
		struct iommu_ioas_unmap unmap;
		struct iommu_ioas_iova_ranges ranges;
		struct iommu_ioas_allow_iovas allow;
		struct iommu_option option;
		struct iommu_vfio_ioas vfio_ioas;
		struct iommu_hw_info hw_info;
		struct iommu_hwpt_alloc hwpt;
		struct iommu_hwpt_set_dirty_tracking track;
		struct iommu_hwpt_get_dirty_bitmap dirty;
		struct iommu_hwpt_invalidate invalidate;
		struct iommu_viommu_alloc viommu;
		struct iommu_vdevice_alloc vdevice;
		struct iommu_veventq_alloc veventq;
		struct iommu_hw_queue_alloc hw_queue;
		struct iommu_destroy destroy;
		struct vfio_iommu_type1_info info;
		struct vfio_iommu_type1_dma_map dma_map;
		struct vfio_iommu_type1_dma_unmap dma_unmap;
		struct iommu_test_cmd test;
	} cmd;
	size_t size;
	/* Offset of the pointer to the data, or 0 */
	size_t pointer;
	unsigned char data[64];
	/* Steps that make no sense with it */
	u32 not_steps;
	/* The mapping of the gate, or 0; and an access to it */
	u32 lazy_ioas;
	int access;
};

static void command(struct blocked_call *c, unsigned long nr, size_t size)
{
	c->nr = nr;
	c->size = size;
	c->cmd.size = size;
}

/* The data that POINTER of the command points to */
static void point(struct blocked_call *c, const void *pointer,
		  const void *from, size_t size)
{
	c->pointer = pointer - (const void *)&c->cmd;
	memcpy(c->data, from, size);
}

static void fill_ioas_alloc(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_ALLOC, sizeof(struct iommu_ioas_alloc));
}

static void fill_destroy(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_DESTROY, sizeof(struct iommu_destroy));
	must(do_ioas_alloc(s->fd, &c->cmd.destroy.id), "IOAS_ALLOC");
}

static void fill_map(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_MAP, sizeof(struct iommu_ioas_map));
	c->cmd.map.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
	c->cmd.map.ioas_id = s->ioas[0];
	c->cmd.map.user_va = (uintptr_t)s->mem;
	c->cmd.map.length = PAGE;
	c->pointer = offsetof(struct iommu_ioas_map, user_va);
}

static void fill_map_file(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_MAP_FILE, sizeof(struct iommu_ioas_map_file));
	c->cmd.map_file.flags = IOMMU_IOAS_MAP_READABLE;
	c->cmd.map_file.ioas_id = s->ioas[0];
	c->cmd.map_file.fd = s->file;
	c->cmd.map_file.length = PAGE;
}

static void fill_copy(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_COPY, sizeof(struct iommu_ioas_copy));
	c->cmd.copy.flags = IOMMU_IOAS_MAP_READABLE;
	c->cmd.copy.dst_ioas_id = s->ioas[1];
	c->cmd.copy.src_ioas_id = s->ioas[0];
	c->cmd.copy.src_iova = IOVA_BASE;
	c->cmd.copy.length = PAGE;
}

static void fill_unmap(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_UNMAP, sizeof(struct iommu_ioas_unmap));
	c->cmd.unmap.ioas_id = s->ioas[1];
	c->cmd.unmap.iova = IOVA_BASE;
	c->cmd.unmap.length = 8 * PAGE;
	/* It takes what they use. */
	c->not_steps = 0;
}

static void fill_iova_ranges(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_IOVA_RANGES, sizeof(struct iommu_ioas_iova_ranges));
	c->cmd.ranges.ioas_id = s->ioas[0];
	c->cmd.ranges.num_iovas = 4;
	c->cmd.ranges.allowed_iovas = (uintptr_t)s->mem;
	c->pointer = offsetof(struct iommu_ioas_iova_ranges, allowed_iovas);
}

static void fill_allow_iovas(struct blocked_call *c, struct scene *s)
{
	struct iommu_iova_range range = {
		.start = MOCK_APERTURE_START,
		.last = MOCK_APERTURE_LAST,
	};

	command(c, IOMMU_IOAS_ALLOW_IOVAS, sizeof(struct iommu_ioas_allow_iovas));
	c->cmd.allow.ioas_id = s->ioas[0];
	c->cmd.allow.num_iovas = 1;
	point(c, &c->cmd.allow.allowed_iovas, &range, sizeof(range));
}

static void fill_option(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_OPTION, sizeof(struct iommu_option));
	c->cmd.option.option_id = IOMMU_OPTION_HUGE_PAGES;
	c->cmd.option.op = IOMMU_OPTION_OP_GET;
	c->cmd.option.object_id = s->ioas[0];
}

static void fill_vfio_ioas(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_VFIO_IOAS, sizeof(struct iommu_vfio_ioas));
	c->cmd.vfio_ioas.op = IOMMU_VFIO_IOAS_GET;
}

static void fill_change_process(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_IOAS_CHANGE_PROCESS,
		sizeof(struct iommu_ioas_change_process));
}

static void fill_hw_info(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_GET_HW_INFO, sizeof(struct iommu_hw_info));
	c->cmd.hw_info.dev_id = s->dev[0].idev;
	c->cmd.hw_info.data_len = 32;
	c->cmd.hw_info.data_uptr = (uintptr_t)s->mem;
	c->pointer = offsetof(struct iommu_hw_info, data_uptr);
}

static const struct iommu_hwpt_selftest hwpt_data = {
	.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
};

static void fill_hwpt(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_HWPT_ALLOC, sizeof(struct iommu_hwpt_alloc));
	c->cmd.hwpt.dev_id = s->dev[0].idev;
	c->cmd.hwpt.pt_id = s->ioas[0];
	c->cmd.hwpt.data_type = IOMMU_HWPT_DATA_SELFTEST;
	c->cmd.hwpt.data_len = sizeof(hwpt_data);
	point(c, &c->cmd.hwpt.data_uptr, &hwpt_data, sizeof(hwpt_data));
}

/*
 * The IOAS has no domain and maps the gate. Its memory is pinned by the first
 * HWPT, attach or access.
 */
static u32 lazy_ioas(struct blocked_call *c, struct scene *s)
{
	u32 id;

	must(do_ioas_alloc(s->fd, &id), "IOAS_ALLOC");
	c->lazy_ioas = id;
	return id;
}

static void fill_hwpt_pins(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_HWPT_ALLOC, sizeof(struct iommu_hwpt_alloc));
	c->cmd.hwpt.dev_id = s->dev[0].idev;
	c->cmd.hwpt.pt_id = lazy_ioas(c, s);
}

static void fill_attach_pins(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_TEST_CMD, sizeof(struct iommu_test_cmd));
	c->cmd.test.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE;
	c->cmd.test.id = s->dev[1].stdev;
	c->cmd.test.mock_domain_replace.pt_id = lazy_ioas(c, s);
}

static void fill_access_pins(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_TEST_CMD, sizeof(struct iommu_test_cmd));
	must(do_access_create(s->fd, lazy_ioas(c, s),
			      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
			      &c->access), "access");
	c->cmd.test.op = IOMMU_TEST_OP_ACCESS_PAGES;
	c->cmd.test.id = c->access;
	c->cmd.test.access_pages.iova = IOVA_BASE;
	c->cmd.test.access_pages.length = PAGE;
}

static void fill_hwpt_nested(struct blocked_call *c, struct scene *s)
{
	fill_hwpt(c, s);
	c->cmd.hwpt.pt_id = s->parent;
}

static void fill_hwpt_viommu(struct blocked_call *c, struct scene *s)
{
	fill_hwpt(c, s);
	c->cmd.hwpt.pt_id = s->viommu;
}

static void fill_hwpt_fault(struct blocked_call *c, struct scene *s)
{
	fill_hwpt(c, s);
	c->cmd.hwpt.pt_id = s->parent;
	c->cmd.hwpt.flags = IOMMU_HWPT_FAULT_ID_VALID;
	c->cmd.hwpt.fault_id = s->fault;
}

static void fill_set_dirty(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_HWPT_SET_DIRTY_TRACKING,
		sizeof(struct iommu_hwpt_set_dirty_tracking));
	c->cmd.track.hwpt_id = s->dirty;
	c->cmd.track.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE;
}

static void fill_get_dirty(struct blocked_call *c, struct scene *s)
{
	struct iommu_hwpt_set_dirty_tracking track = {
		.size = sizeof(track),
		.hwpt_id = s->dirty,
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
	};
	u64 first = 1;
	struct iommu_test_cmd write = {
		.op = IOMMU_TEST_OP_DIRTY,
		.id = s->dirty,
		.dirty = {
			.iova = IOVA_BASE,
			.length = PAGE,
			.page_size = PAGE,
			.uptr = (uintptr_t)&first,
		},
	};

	command(c, IOMMU_HWPT_GET_DIRTY_BITMAP,
		sizeof(struct iommu_hwpt_get_dirty_bitmap));
	must(call(s->fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &track) ?:
	     do_test(s->fd, &write), "tracking");
	c->cmd.dirty.hwpt_id = s->dirty;
	c->cmd.dirty.iova = IOVA_BASE;
	c->cmd.dirty.length = 8 * PAGE;
	c->cmd.dirty.page_size = PAGE;
	c->cmd.dirty.data = (uintptr_t)s->mem;
	c->pointer = offsetof(struct iommu_hwpt_get_dirty_bitmap, data);
}

static void fill_invalidate(struct blocked_call *c, struct scene *s)
{
	struct iommu_hwpt_invalidate_selftest one = {};

	command(c, IOMMU_HWPT_INVALIDATE, sizeof(struct iommu_hwpt_invalidate));
	c->cmd.invalidate.hwpt_id = s->lone;
	c->cmd.invalidate.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST;
	c->cmd.invalidate.entry_len = sizeof(one);
	c->cmd.invalidate.entry_num = 1;
	point(c, &c->cmd.invalidate.data_uptr, &one, sizeof(one));
}

static void fill_invalidate_viommu(struct blocked_call *c, struct scene *s)
{
	struct iommu_viommu_invalidate_selftest one = { .vdev_id = 7 };

	command(c, IOMMU_HWPT_INVALIDATE, sizeof(struct iommu_hwpt_invalidate));
	c->cmd.invalidate.hwpt_id = s->viommu;
	c->cmd.invalidate.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST;
	c->cmd.invalidate.entry_len = sizeof(one);
	c->cmd.invalidate.entry_num = 1;
	point(c, &c->cmd.invalidate.data_uptr, &one, sizeof(one));
}

static void fill_fault_queue(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_FAULT_QUEUE_ALLOC, sizeof(struct iommu_fault_alloc));
}

static void fill_viommu(struct blocked_call *c, struct scene *s)
{
	struct iommu_viommu_selftest data = { .in_data = 5 };

	command(c, IOMMU_VIOMMU_ALLOC, sizeof(struct iommu_viommu_alloc));
	c->cmd.viommu.type = IOMMU_VIOMMU_TYPE_SELFTEST;
	c->cmd.viommu.dev_id = s->dev[0].idev;
	c->cmd.viommu.hwpt_id = s->parent;
	c->cmd.viommu.data_len = sizeof(data);
	point(c, &c->cmd.viommu.data_uptr, &data, sizeof(data));
}

static void fill_vdevice(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_VDEVICE_ALLOC, sizeof(struct iommu_vdevice_alloc));
	c->cmd.vdevice.viommu_id = s->viommu;
	c->cmd.vdevice.dev_id = s->dev[1].idev;
	c->cmd.vdevice.virt_id = 9;
}

static void fill_veventq(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_VEVENTQ_ALLOC, sizeof(struct iommu_veventq_alloc));
	c->cmd.veventq.viommu_id = s->viommu;
	c->cmd.veventq.type = IOMMU_VEVENTQ_TYPE_SELFTEST;
	c->cmd.veventq.veventq_depth = 4;
}

static void fill_hw_queue(struct blocked_call *c, struct scene *s)
{
	command(c, IOMMU_HW_QUEUE_ALLOC, sizeof(struct iommu_hw_queue_alloc));
	c->cmd.hw_queue.viommu_id = s->viommu;
	c->cmd.hw_queue.type = IOMMU_HW_QUEUE_TYPE_SELFTEST;
	c->cmd.hw_queue.nesting_parent_iova = IOVA_BASE;
	c->cmd.hw_queue.length = PAGE;
}

static void fill_vfio_info(struct blocked_call *c, struct scene *s)
{
	command(c, VFIO_IOMMU_GET_INFO, sizeof(struct vfio_iommu_type1_info));
}

static void fill_vfio_map(struct blocked_call *c, struct scene *s)
{
	command(c, VFIO_IOMMU_MAP_DMA, sizeof(struct vfio_iommu_type1_dma_map));
	c->cmd.dma_map.flags = VFIO_DMA_MAP_FLAG_READ;
	c->cmd.dma_map.vaddr = (uintptr_t)s->mem;
	c->cmd.dma_map.iova = IOVA_BASE + 128 * PAGE;
	c->cmd.dma_map.size = PAGE;
	c->pointer = offsetof(struct vfio_iommu_type1_dma_map, vaddr);
}

static void fill_vfio_unmap(struct blocked_call *c, struct scene *s)
{
	command(c, VFIO_IOMMU_UNMAP_DMA, sizeof(struct vfio_iommu_type1_dma_unmap));
	must(do_map(s->fd, s->ioas[0], s->mem, PAGE, IOVA_BASE + 128 * PAGE),
	     "MAP");
	c->cmd.dma_unmap.iova = IOVA_BASE + 128 * PAGE;
	c->cmd.dma_unmap.size = PAGE;
}

static void fill_fault_read(struct blocked_call *c, struct scene *s)
{
	must(do_trigger_iopf(s->fd, s->dev[0].idev, 2), "a fault");
	c->nr = READ_FILE;
	c->fd = s->fault_fd;
	c->size = sizeof(struct iommu_hwpt_pgfault);
	/* The file of the queue is open. */
	c->not_steps = 1 << step_by_name("fault", 5);
}

static void fill_fault_write(struct blocked_call *c, struct scene *s)
{
	struct iommu_hwpt_page_response answer = {
		.code = IOMMUFD_PAGE_RESP_SUCCESS,
	};
	struct iommu_hwpt_pgfault got = {};

	must(do_trigger_iopf(s->fd, s->dev[0].idev, 2), "a fault");
	if (read(s->fault_fd, &got, sizeof(got)) != sizeof(got))
		must(-EIO, "read of the fault");
	answer.cookie = got.cookie;
	c->nr = WRITE_FILE;
	c->fd = s->fault_fd;
	c->size = sizeof(answer);
	memcpy(c->data, &answer, sizeof(answer));
	c->not_steps = 1 << step_by_name("fault", 5);
}

static void fill_veventq_read(struct blocked_call *c, struct scene *s)
{
	must(do_trigger_vevent(s->fd, s->dev[0].idev), "an event");
	c->nr = READ_FILE;
	c->fd = s->veventq_fd;
	c->size = sizeof(struct iommufd_vevent_header) +
		  sizeof(struct iommu_viommu_event_selftest);
	/* Its file is open, and it is the vIOMMU's, and so on. */
	c->not_steps = 1 << step_by_name("veventq", 7) |
		       1 << step_by_name("viommu", 6) |
		       1 << step_by_name("parent", 6) |
		       1 << step_by_name("ioas", 4);
}

/* ---- the copies ---------------------------------------------------------- */

enum copy {
	/* The structure: all of it or its end */
	IN,
	/* The response, into the structure */
	OUT,
	/* The data that it points to: read, or written */
	DATA_IN,
	DATA_OUT,
	/* Written to memory that was read before */
	DATA_BACK,
	COPIES,
};

static const char * const copy_names[] = {
	"in", "out", "data_in", "data_out", "data_back",
};

static const struct command {
	const char *name;
	void (*fill)(struct blocked_call *c, struct scene *s);
	unsigned int copies;
	unsigned int without;
} commands[] = {
#define HAS(name, ...) { #name, fill_##name, __VA_ARGS__ }
#define B(copy) (1 << (copy))
	HAS(ioas_alloc, B(IN) | B(OUT)),
	HAS(destroy, B(IN)),
	HAS(map, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(map_file, B(IN) | B(OUT)),
	HAS(copy, B(IN) | B(OUT)),
	HAS(unmap, B(IN) | B(OUT)),
	HAS(iova_ranges, B(IN) | B(OUT) | B(DATA_OUT)),
	HAS(allow_iovas, B(IN) | B(DATA_IN)),
	HAS(option, B(IN) | B(OUT)),
	HAS(vfio_ioas, B(IN) | B(OUT)),
	HAS(change_process, B(IN)),
	HAS(hw_info, B(IN) | B(OUT) | B(DATA_OUT)),
	HAS(hwpt, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(hwpt_nested, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(hwpt_viommu, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(hwpt_fault, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(set_dirty, B(IN)),
	HAS(get_dirty, B(IN) | B(DATA_OUT)),
	HAS(invalidate, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(invalidate_viommu, B(IN) | B(OUT) | B(DATA_IN)),
	HAS(fault_queue, B(IN) | B(OUT)),
	HAS(viommu, B(IN) | B(OUT) | B(DATA_IN) | B(DATA_BACK)),
	HAS(vdevice, B(IN) | B(OUT)),
	HAS(veventq, B(IN) | B(OUT), NO_VEVENTQ),
	HAS(hw_queue, B(IN) | B(OUT), NO_HW_QUEUE),
	HAS(vfio_info, B(IN) | B(OUT)),
	HAS(vfio_map, B(IN) | B(DATA_IN)),
	HAS(vfio_unmap, B(IN) | B(OUT)),
	HAS(hwpt_pins, B(DATA_IN)),
	HAS(attach_pins, B(DATA_IN)),
	HAS(access_pins, B(DATA_IN)),
	HAS(fault_read, B(DATA_OUT)),
	HAS(fault_write, B(DATA_IN)),
	HAS(veventq_read, B(DATA_OUT)),
};

#define DRIVER \
	"the IOMMU driver reads and writes data of its own, with the objects that it gets held"
#define PINS \
	"the memory itself is what is asked for, and a domain shows all areas or waits for them"
#define LAZY \
	"the memory is pinned by who needs it first, in an IOAS that CHANGE_PROCESS has to lock"
#define CALLER \
	"and who attaches a device has a lock of it, as VFIO has"
#define DIRTY \
	"bits are cleared in the domain as they are written, of areas that stay meanwhile"
#define DIRTY_STEPS \
	"map domain access attach process leave hw_queue dirty unbind unmap access_closes"
#define PIN_STEPS "domain access attach hw_queue dirty access_closes"

/* The steps that may wait, and the reason. Steps are words. */
static const struct exception {
	const char *command;
	enum copy copy;
	const char *steps;
	const char *reason;
} exceptions[] = {
	{ "map", DATA_IN, PIN_STEPS, PINS },
	{ "vfio_map", DATA_IN, PIN_STEPS, PINS },
	{ "hwpt_pins", DATA_IN, "process", LAZY },
	{ "attach_pins", DATA_IN, "attach process unbind_other",
	  LAZY "; " CALLER },
	{ "access_pins", DATA_IN, "process", LAZY },
	{ "hwpt", DATA_IN, "unbind ioas", DRIVER },
	{ "hwpt_nested", DATA_IN, "parent unbind", DRIVER },
	{ "hwpt_viommu", DATA_IN, "viommu unbind", DRIVER },
	{ "hwpt_fault", DATA_IN, "parent unbind", DRIVER },
	{ "viommu", DATA_IN, "parent unbind", DRIVER },
	{ "viommu", DATA_BACK, "parent unbind", DRIVER },
	{ "get_dirty", DATA_OUT, DIRTY_STEPS, DIRTY },
	{ "invalidate", DATA_IN, "lone", DRIVER },
	{ "invalidate_viommu", DATA_IN, "viommu", DRIVER },
};

/* ---- a case -------------------------------------------------------------- */

struct run {
	const struct command *command;
	enum copy copy;
	bool fuse;
	bool kill;
};

/* The progress of the other process, in shared memory */
struct progress {
	bool go, leave;
	/* The current step; STEPS at the end */
	unsigned int step;
	u64 started[STEPS], spent[STEPS];
	int rc[STEPS];
	/* The result of the call that was stopped */
	int result;
	bool ended;
};

struct stopped {
	struct blocked_call *c;
	void *arg;
	struct progress *p;
};

static void *run_call(void *arg)
{
	struct stopped *stopped = arg;
	struct blocked_call *c = stopped->c;
	long rc;

	if (c->nr == READ_FILE)
		rc = read(c->fd, stopped->arg, c->size);
	else if (c->nr == WRITE_FILE)
		rc = write(c->fd, stopped->arg, c->size);
	else
		rc = ioctl(c->fd, c->nr, stopped->arg);
	stopped->p->result = rc < 0 ? -errno : 0;
	__atomic_store_n(&stopped->p->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

/*
 * In a process of its own, which end_case() kills if ours is killed. SKIP are
 * steps to leave out.
 */
static void be_others(struct scene *s, struct progress *p, u32 skip)
{
	unsigned int i;

	while (!__atomic_load_n(&p->go, __ATOMIC_ACQUIRE))
		usleep(200);
	close(s->fault_fd);
	if (s->veventq)
		close(s->veventq_fd);
	for (i = 0; i < STEPS; i++) {
		p->started[i] = steady_ns();
		__atomic_store_n(&p->step, i, __ATOMIC_RELEASE);
		if (skip & (1U << i))
			continue;
		p->rc[i] = steps[i].run(s);
		p->spent[i] = steady_ns() - p->started[i];
	}
	__atomic_store_n(&p->step, STEPS, __ATOMIC_RELEASE);
	/* What was left out comes with the exit. */
	while (!__atomic_load_n(&p->leave, __ATOMIC_ACQUIRE))
		usleep(200);
	_exit(0);
}

static void *place(struct gate *g, struct blocked_call *c, enum copy copy)
{
	uintptr_t data = (uintptr_t)gate_page(g);
	void *at;

	if (c->lazy_ioas) {
		memset(g->content, 1, PAGE);
		must(do_map(c->fd, c->lazy_ioas, gate_page(g), PAGE, IOVA_BASE),
		     "MAP of the gate");
		return &c->cmd;
	}
	if ((copy == IN || copy == OUT) && c->pointer &&
	    !*(u64 *)(c->cmd.bytes + c->pointer)) {
		at = anon(PAGE);
		memcpy(at, c->data, sizeof(c->data));
		*(u64 *)(c->cmd.bytes + c->pointer) = (uintptr_t)at;
	}
	switch (copy) {
	case IN:
		/* The size can be read, the rest cannot. */
		at = gate_page(g) - sizeof(u32);
		memcpy(at, &c->cmd, sizeof(u32));
		memcpy(g->content, c->cmd.bytes + sizeof(u32),
		       sizeof(c->cmd) - sizeof(u32));
		return at;
	case OUT:
		memcpy(g->content, &c->cmd, sizeof(c->cmd));
		return gate_page(g);
	default:
		memcpy(g->content, c->data, sizeof(c->data));
		if (c->nr == READ_FILE || c->nr == WRITE_FILE)
			return gate_page(g);
		memcpy(c->cmd.bytes + c->pointer, &data, sizeof(data));
		return &c->cmd;
	}
}

/*
 * Run the steps except those in SKIP. Returns the one that waited, STEPS if
 * none did, or -1 on another failure. FIRST_LIMIT is for those in WAITS.
 */
static int run_steps(const struct run *run, u32 skip, u32 waits)
{
	struct blocked_call *c = calloc(1, sizeof(*c));
	struct progress *p;
	struct stopped stopped;
	struct scene s;
	struct gate gate;
	pthread_t thread;
	int rc, status, waited = STEPS;
	unsigned int step;
	u64 start, limit;
	bool ok = true;
	pid_t pid;

	p = mmap(NULL, sizeof(*p), RW_ALL, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	/* First the gate, whose server must not have the files of the case. */
	if (!c || p == MAP_FAILED ||
	    !must(run->fuse ? gate_make_fuse(&gate) : gate_make_uffd(&gate),
		  "gate") ||
	    !must(make_scene(&s, run->command->without), "scene"))
		return -1;
	c->fd = s.fd;
	run->command->fill(c, &s);
	stopped = (struct stopped){ c, place(&gate, c, run->copy), p };
	skip |= c->not_steps;
	if (!must(gate_close(&gate, run->copy == OUT || run->copy == DATA_BACK),
		  "gate"))
		return -1;
	fflush(stdout);
	pid = fork();
	if (!pid)
		be_others(&s, p, skip);
	/* Of those who use the queues, one is enough. */
	if (c->fd != s.fault_fd)
		close(s.fault_fd);
	if (s.veventq && c->fd != s.veventq_fd)
		close(s.veventq_fd);
	close(s.access);

	pthread_create(&thread, NULL, run_call, &stopped);
	start = steady_ns();
	while (!gate_reached(&gate)) {
		if (!__atomic_load_n(&p->ended, __ATOMIC_ACQUIRE) &&
		    steady_ns() - start < REACH_LIMIT_MS * 1000000ULL) {
			usleep(100);
			continue;
		}
		ksft_print_msg("was not stopped: %s\n", strerror(-p->result));
		ok = false;
		break;
	}
	if (run->kill && ok)
		kill(getpid(), SIGKILL);

	__atomic_store_n(&p->go, true, __ATOMIC_RELEASE);
	start = steady_ns();
	while ((step = __atomic_load_n(&p->step, __ATOMIC_ACQUIRE)) < STEPS) {
		if (p->started[step])
			start = p->started[step];
		limit = waits & (1U << step) ? EXCEPTION_LIMIT_MS :
					       STEP_LIMIT_MS;
		if (ok && waited == STEPS &&
		    steady_ns() - start > limit * 1000000ULL) {
			waited = step;
			must(gate_open(&gate), "gate");
		}
		usleep(100);
	}
	if (waited == STEPS) {
		if (ok && __atomic_load_n(&p->ended, __ATOMIC_ACQUIRE)) {
			ksft_print_msg("went on without us\n");
			ok = false;
		}
		must(gate_open(&gate), "gate");
	}
	pthread_join(thread, NULL);
	__atomic_store_n(&p->leave, true, __ATOMIC_RELEASE);
	if (waitpid(pid, &status, 0) != pid || status)
		ok = must(-EIO, "the others");
	/* The objects may be destroyed, the memory is not. */
	rc = p->result;
	if (ok && (rc == -EFAULT || rc == -EBUSY)) {
		ksft_print_msg("came to %s\n", strerror(-rc));
		ok = false;
	}
	/*
	 * A step that was left out may leave users of objects that others
	 * destroy.
	 */
	for (step = 0; step < STEPS && ok && waited == STEPS; step++) {
		rc = p->rc[step];
		if (!rc || (skip && rc == -EBUSY))
			continue;
		ksft_print_msg("%s: %s\n", steps[step].name, strerror(-rc));
		ok = false;
	}
	close(s.fd);
	return ok ? waited : -1;
}

static const struct exception *exception_of(const struct run *run)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(exceptions); i++)
		if (exceptions[i].steps &&
		    !strcmp(exceptions[i].command, run->command->name) &&
		    exceptions[i].copy == run->copy)
			return &exceptions[i];
	return NULL;
}

static bool nobody_waits(const void *arg)
{
	const struct run *run = arg;
	const struct exception *exception = exception_of(run);
	u32 skip = 0, waits = 0, seen = 0;
	const char *word;
	size_t length;
	bool ok = true;
	unsigned int i;
	int waited;

	if (!must(start_steady(), "clock"))
		return false;
	for (word = exception ? exception->steps : ""; *word;
	     word += length + strspn(word + length, " ")) {
		length = strcspn(word, " ");
		waits |= 1U << step_by_name(word, length);
	}
	/* Again without the step that waited, to find all of them. */
	while ((waited = run_steps(run, skip, waits)) != STEPS) {
		if (waited < 0)
			return false;
		skip |= 1U << waited;
		seen |= 1U << waited;
	}
	for (i = 0; i < STEPS; i++) {
		if (seen & ~waits & (1U << i)) {
			ksft_print_msg("%s waits for user memory\n",
				       steps[i].name);
			ok = false;
		}
		if (waits & ~seen & (1U << i)) {
			ksft_print_msg("%s no longer waits: it is no exception\n",
				       steps[i].name);
			ok = false;
		}
	}
	if (exception && ok)
		ksft_print_msg("%s wait: %s\n", exception->steps,
			       exception->reason);
	return ok;
}

/* Ends by SIGKILL on success */
static bool is_killed(const void *arg)
{
	if (!must(start_steady(), "clock"))
		return false;
	run_steps(arg, 0, 0);
	return false;
}

int main(int argc, char **argv)
{
	static struct kind kinds[512];
	static struct run runs[512];
	static char names[512][64];
	unsigned int i, n = 0;
	enum copy copy;
	int how;

	for (how = 0; how < 3; how++)
		for (i = 0; i < ARRAY_SIZE(commands); i++)
			for (copy = 0; copy < COPIES; copy++) {
				if (!(commands[i].copies & (1 << copy)))
					continue;
				/* With FUSE, the first access is stopped. */
				if (how == 1 &&
				    (copy == OUT || copy == DATA_BACK))
					continue;
				snprintf(names[n], sizeof(names[n]),
					 "%s.%s.%s", how == 0 ? "uffd" :
					 how == 1 ? "fuse" : "killed",
					 commands[i].name, copy_names[copy]);
				runs[n] = (struct run){ &commands[i], copy,
							how == 1, how == 2 };
				kinds[n] = (struct kind){
					names[n],
					how == 2 ? is_killed : nobody_waits,
					&runs[n],
				};
				kinds[n].killed = how == 2;
				n++;
			}
	return run_kinds(kinds, n, argc, argv);
}
