// SPDX-License-Identifier: GPL-2.0-only
/*
 * The start of a world of iommufd_model, its objects at the start of a round,
 * and its end.
 */
#define _GNU_SOURCE
#include <linux/vfio.h>
#include <sys/resource.h>

#include "iommufd_model.h"

/* ---- start --------------------------------------------------------------- */

int create_device(u32 ioas, u32 flags, struct device *device)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
		.id = ioas,
		.mock_domain_flags.dev_flags = flags,
	};
	int rc = do_test(w->fd, &cmd);

	device->stdev = cmd.mock_domain_flags.out_stdev_id;
	device->idev = cmd.mock_domain_flags.out_idev_id;
	return rc;
}

static void *map_shared(int file, int prot)
{
	return mmap(NULL, PAGE, prot, MAP_SHARED, file, 0);
}

/* Map a page before an unmapped one. */
static void *map_before_hole(int file)
{
	void *hole = mmap(NULL, 2 * PAGE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (hole == MAP_FAILED)
		return hole;
	return mmap(hole, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		    file, 0);
}

/* Touch pages in random order, so that they are scattered in memory. */
static void *scattered_memory(void)
{
	unsigned int order[LONG_PAGES], i, n;
	u64 rng = w->plan->seed;
	unsigned char *mem;

	w->long_file = memfd_create("long", MFD_CLOEXEC);
	if (w->long_file < 0 || ftruncate(w->long_file, LONG_PAGES * PAGE))
		return NULL;
	mem = mmap(NULL, LONG_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		   w->long_file, 0);
	if (mem == MAP_FAILED)
		return NULL;
	for (i = 0; i < LONG_PAGES; i++) {
		n = below(&rng, i + 1);
		order[i] = order[n];
		order[n] = i;
	}
	for (i = 0; i < LONG_PAGES; i++)
		mem[order[i] * PAGE] = 1;
	return mem;
}

static int set_up_memory(void)
{
	unsigned char page[PAGE] = {};
	unsigned int i;
	int file;

	w->file = memfd_create("model", MFD_CLOEXEC);
	w->truncated = memfd_create("truncated", MFD_CLOEXEC);
	if (w->file < 0 || w->truncated < 0 ||
	    ftruncate(w->file, PAGES * PAGE))
		return -errno;
	/*
	 * The memory is a mapping of the file, so a page has the same number in
	 * both.
	 */
	w->mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		      w->file, 0);
	/* A private mapping: its pages are copied when they are pinned. */
	w->template = memfd_create("template", MFD_CLOEXEC);
	w->vanishing = mmap(NULL, PAGES * PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->mem == MAP_FAILED || w->vanishing == MAP_FAILED ||
	    w->template < 0)
		return -errno;
	for (i = 0; i < PAGES; i++) {
		fill_page(w->mem + i * PAGE, number_of(0, i));
		fill_page(page, number_of(SEEN_VANISHING, i));
		if (pwrite(w->template, page, PAGE, i * PAGE) != PAGE)
			return -errno;
	}
	w->long_mem = scattered_memory();
	if (!w->long_mem)
		return -errno;
	restore_memory();
	for (i = 0; i < WORKERS_MAX; i++) {
		file = memfd_create("arguments", MFD_CLOEXEC);
		if (file < 0 || ftruncate(file, PAGE))
			return -errno;
		w->open[i] = map_before_hole(file);
		w->sealed[i] = map_shared(file, PROT_READ);
		w->torn[i] = map_shared(file, PROT_READ | PROT_WRITE);
		close(file);
		if (w->open[i] == MAP_FAILED || w->sealed[i] == MAP_FAILED ||
		    w->torn[i] == MAP_FAILED)
			return -errno;
	}
	return 0;
}

static int set_mode(void)
{
	struct iommu_option option = {
		.size = sizeof(option),
		.option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = !!is_plan(PLAN_MM),
	};
	struct rlimit limit = { 1 << 24, RLIM_INFINITY };
	int rc = call(w->fd, IOMMU_OPTION, &option);

	setrlimit(RLIMIT_MEMLOCK, &limit);
	return rc ?: is_plan(PLAN_ROOT) ? 0 : drop_ipc_lock();
}

static int set_type1(void)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_VFIO_IOAS_SET,
		.ioas_id = w->ioas[0],
	};
	int rc = call(w->fd, IOMMU_VFIO_IOAS, &cmd);

	if (!rc && is_plan(PLAN_TYPE1) &&
	    ioctl(w->fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU))
		rc = -errno;
	return rc;
}

/* Record a new object, which depends on A and B, in a slot. */
static void provide(enum kind kind, unsigned int slot, int rc, u32 id, u32 a,
		    u32 b)
{
	/* EEXIST: there is one in another slot. */
	if (rc && (rc != -EEXIST || (kind != VDEVICE && kind != VEVENTQ)))
		broken(ANSWER, "a %s cannot be made at rest: %s",
		       kind_names[kind], strerror(-rc));
	if (rc)
		return;
	record(id, a, b, 0);
	if (a)
		depend(a);
	if (b)
		depend(b);
	w->objects[kind][slot] = id;
}

static void provide_queue(enum kind kind, int rc, u32 id, int fd, u32 on)
{
	provide(kind, 0, rc, id, on, 0);
	if (rc)
		return;
	w->objects[kind][0] = 0;
	fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	w->queues[kind][0] = (u64)fd << 32 | id;
}

static void replenish_nested(void)
{
	u32 viommu = w->objects[VIOMMU][0], id;
	int fd, rc;

	if (!w->queues[FAULT][0] && !is_plan(PLAN_PROCESSES)) {
		rc = do_fault_alloc(w->fd, &id, &fd);
		provide_queue(FAULT, rc, id, fd, 0);
	}
	if (!w->queues[VEVENTQ][0] && !is_plan(PLAN_PROCESSES)) {
		rc = do_veventq_alloc(w->fd, viommu, &id, &fd);
		provide_queue(VEVENTQ, rc, id, fd, viommu);
	}
	if (!w->objects[VDEVICE][0]) {
		rc = do_vdevice_alloc(w->fd, viommu, w->dev[0].idev, 1, &id);
		w->vdevices += !rc;
		provide(VDEVICE, 0, rc, id, viommu, 0);
	}
	if (!w->objects[NESTED][0]) {
		u32 fault = object_in(FAULT, 0);

		rc = do_hwpt_alloc_as(w->fd, w->dev[0].idev, viommu, 0, fault,
				      true, &id);
		provide(NESTED, 0, rc, id, viommu, fault);
	}
	/* With this HWPT the device could not use PASIDs. */
	if (is_plan(PLAN_PASID))
		return;
	/* Fails without a vDEVICE of the device. */
	id = w->objects[NESTED][0];
	depend(id);
	if (do_replace(w->fd, w->dev[0].stdev, id))
		undepend(id);
	else
		depend_loosely(id);
}

void replenish(void)
{
	u32 *parent = &w->objects[PARENT][0], id;
	int rc;

	if (!w->objects[IOAS][0]) {
		rc = do_ioas_alloc(w->fd, &id);
		provide(IOAS, 0, rc, id, 0, 0);
	}
	if (!*parent) {
		rc = do_hwpt_alloc(w->fd, w->dev[0].idev, w->ioas[0],
				   IOMMU_HWPT_ALLOC_NEST_PARENT, 0, &id);
		provide(PARENT, 0, rc, id, w->ioas[0], 0);
	}
	if (!w->objects[VIOMMU][0]) {
		rc = do_viommu_alloc(w->fd, w->dev[0].idev, *parent, NULL,
				     &id);
		provide(VIOMMU, 0, rc, id, *parent, 0);
	}
	if (!w->objects[HWPT][0]) {
		rc = do_hwpt_alloc(w->fd, w->dev[0].idev, w->ioas[1],
				   IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0, &id);
		provide(HWPT, 0, rc, id, w->ioas[1], 0);
	}
	if (!w->objects[HWPT][1]) {
		rc = do_hwpt_alloc(w->fd, w->dev[0].idev, w->ioas[0],
				   IOMMU_HWPT_ALLOC_PASID, 0, &id);
		provide(HWPT, 1, rc, id, w->ioas[0], 0);
	}
	if (is_plan(PLAN_NESTED))
		replenish_nested();
}

int set_up(const struct plan *plan)
{
	unsigned int i;
	int rc;

	w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (w == MAP_FAILED)
		return -errno;
	w->plan = plan;
	rc = set_up_memory();
	if (rc)
		return rc;
	w->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (w->fd < 0)
		return -errno;
	rc = set_mode();
	for (i = 0; i < STAYING && !rc; i++)
		rc = do_ioas_alloc(w->fd, &w->ioas[i]);
	rc = rc ?: set_type1();
	for (i = 0; i < 2 && !rc; i++) {
		rc = create_device(w->ioas[i], i ? 0 : MOCK_FLAGS_DEVICE_PASID,
				   &w->dev[i]) ?:
		     do_access_create(w->fd, w->ioas[i],
				      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				      &w->access[i]);
		w->dmabuf[i] = do_dmabuf_get(w->fd, AREA_PAGES * PAGE);
		if (w->dmabuf[i] < 0)
			return w->dmabuf[i];
	}
	rc = rc ?: do_access_create(w->fd, w->ioas[0], 0, &w->eye) ?:
	     do_hwpt_alloc(w->fd, w->dev[0].idev, w->ioas[0],
			   IOMMU_HWPT_ALLOC_PASID, 0, &w->pasid_hwpt) ?:
	     do_ioas_alloc(w->fd, &w->long_ioas) ?:
	     do_map_file(w->fd, w->long_ioas, w->long_file, 0,
			 LONG_PAGES * PAGE, long_iova(0));
	if (rc)
		return rc;
	record(w->pasid_hwpt, w->ioas[0], 0, 0);
	if (is_plan(PLAN_PASID))
		rc = do_replace(w->fd, w->dev[0].stdev, w->pasid_hwpt);
	if (rc)
		return rc;
	replenish();
	/* The memory of a HW queue of the first round */
	rc = do_map_file(w->fd, w->ioas[0], w->file, 0, AREA_PAGES * PAGE,
			 iova_of(0, 0));
	w->balance[0] = AREA_PAGES * PAGE;
	for (i = 0; i < AREA_PAGES; i++)
		w->seen[0][i] = 1ULL << i;
	return rc;
}

/* ---- the end ------------------------------------------------------------- */

static bool may_bury(void)
{
	u32 i;

	for (i = 0; i < w->plan->nr_steps; i++)
		if (ops[w->plan->steps[i].op].run == op_plug)
			return true;
	return false;
}

/* The accounting mode can be set only if the table of objects is empty. */
static void check_table(void)
{
	int rc = set_mode();

	/*
	 * The id of a vDEVICE that was destroyed with its device stays in the
	 * table.
	 */
	if (rc == -EBUSY && may_bury())
		return;
	if (rc)
		broken(DESTROYED, "all objects are destroyed, and the table is not empty: %s",
		       strerror(-rc));
}

static void check_refs(void)
{
	int rc = do_check_refs(w->fd, w->mem, PAGES * PAGE, 0) ?:
		 do_check_refs(w->fd, w->long_mem, LONG_PAGES * PAGE, 0);

	if (rc)
		broken(PINS, "pages are still pinned: %s", strerror(-rc));
}

static void close_files(void)
{
	unsigned int i;

	for (i = 0; i < SLOTS; i++) {
		take_object(FAULT, i);
		take_object(VEVENTQ, i);
	}
	for (i = 0; i < 2; i++) {
		close(w->access[i]);
		close(w->dmabuf[i]);
	}
	close(w->eye);
}

static void check_account(void)
{
	long long pin = 0, lock = 0;
	unsigned int i;

	for (i = 0; i < 100; i++) {
		pin = read_counter("/proc/self/status", "VmPin");
		lock = read_counter("/proc/self/status", "VmLck");
		if (!pin && !lock)
			return;
		usleep(10000);
	}
	broken(PINS, "VmPin %lld kB, VmLck %lld kB after the last close", pin,
	       lock);
}

static void close_context(void)
{
	check_table();
	check_refs();
	close(w->fd);
	check_account();
}

static void destroy_last(const char *what, u32 id)
{
	int rc = do_destroy(w->fd, id);

	if (rc)
		broken(DESTROYED, "DESTROY of %s at the end: %s", what,
		       strerror(-rc));
}

/* In order of dependency, after check_rest(true). */
void tear_down(void)
{
	close_files();
	destroy_last("device 0", w->dev[0].stdev);
	destroy_last("device 1", w->dev[1].stdev);
	if (w->hot)
		destroy_last("device 2", w->hot >> 32);
	destroy_last("the HWPT for PASIDs", w->pasid_hwpt);
	destroy_last("IOAS 0", w->ioas[0]);
	destroy_last("IOAS 1", w->ioas[1]);
	destroy_last("the IOAS of long areas", w->long_ioas);
	close_context();
}

/* Destroy all objects except two devices. */
static void destroy_whatever(u32 but, u32 and_but)
{
	bool progress;
	u32 id;

	do {
		progress = false;
		for (id = 1; id < STEPS_MAX; id++)
			if (id != but && id != and_but)
				progress |= !do_destroy(w->fd, id);
	} while (progress);
}

/* Tear down without records, as a worker was killed. */
void tear_down_lost(void)
{
	close_files();
	detach_pasids(w->dev[0].stdev);
	/* vDEVICEs are destroyed before their devices. */
	destroy_whatever(w->dev[0].stdev, w->dev[1].stdev);
	destroy_whatever(0, 0);
	close_context();
}
