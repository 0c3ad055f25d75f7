// SPDX-License-Identifier: GPL-2.0-only
/*
 * Record the state of a context without changing it: ids and types of objects,
 * IOVA ranges, memory as accesses read it and domains map it, dirty bits,
 * attachments, pins, charges, files, events.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "iommufd_fault_sweep.h"
#include "kselftest.h"

#define IDS 28
#define FDS 48

/* IOVAs that are checked, and the memory that can be mapped there */
static const struct {
	__u64 iova, uva;
} points[] = {
	{ NEW_SIZE, NEW_MEM },
	{ NEW_SIZE + NEW_SIZE - PAGE, NEW_MEM + NEW_SIZE - PAGE },
	{ IOVA_FIRST, MEM },
	{ IOVA_FIRST + FIRST_SIZE - PAGE, MEM + FIRST_SIZE - PAGE },
	{ IOVA_SECOND, SECOND_MEM },
	{ IOVA_SECOND + SECOND_SIZE - PAGE, SECOND_MEM + SECOND_SIZE - PAGE },
	{ IOVA_NEW, NEW_MEM },
	{ IOVA_NEW + 3 * PAGE, NEW_MEM + 3 * PAGE },
	{ IOVA_NEW + NEW_SIZE - PAGE, NEW_MEM + NEW_SIZE - PAGE },
	{ IOVA_COPY, MEM },
	{ IOVA_COPY + FIRST_SIZE - PAGE, MEM + FIRST_SIZE - PAGE },
	{ IOVA_DMABUF, 0 },
	{ IOVA_DMABUF + (1UL << 19), 0 },
};

void put(struct text *t, const char *format, ...)
{
	size_t room = sizeof(t->bytes) - t->used;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(t->bytes + t->used, room, format, args);
	va_end(args);
	if (n > 0 && (size_t)n < room)
		t->used += n;
}

long test_ioctl(int fd, void *cmd)
{
	return ioctl(fd, IOMMU_TEST_CMD, cmd) ? -errno : 0;
}

static const char *name_of(long rc)
{
	return rc < 0 ? strerrorname_np(-rc) ?: "?" : "ok";
}

/* ---- ids ----------------------------------------------------------------- */

static bool is_ioas(int fd, __u32 id)
{
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = id,
	};

	return !ioctl(fd, IOMMU_IOAS_IOVA_RANGES, &cmd) || errno == EMSGSIZE;
}

static bool is_paging(int fd, __u32 id)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MD_CHECK_MAP,
		.id = id,
	};

	return !test_ioctl(fd, &cmd);
}

static bool iotlb_is(int fd, __u32 id, __u32 n, __u32 value, bool *nested)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MD_CHECK_IOTLB,
		.id = id,
		.check_iotlb = { .id = n, .iotlb = value },
	};
	long rc = test_ioctl(fd, &cmd);

	*nested = rc != -ENOENT;
	return !rc;
}

static bool cache_is(int fd, __u32 id, __u32 n, __u32 value, bool *device)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DEV_CHECK_CACHE,
		.id = id,
		.check_dev_cache = { .id = n, .cache = value },
	};
	long rc = test_ioctl(fd, &cmd);

	*device = rc != -ENOENT;
	return !rc;
}

static bool attached(int fd, __u32 id, __u32 pasid, __u32 hwpt, bool *mock)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_CHECK_HWPT,
		.id = id,
		.pasid_check = { .pasid = pasid, .hwpt_id = hwpt },
	};
	long rc = test_ioctl(fd, &cmd);

	*mock = rc != -ENOENT;
	return !rc;
}

/* Of an object of any kind. */
static bool exists(int fd, __u32 id)
{
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = id,
		.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
	};

	return !ioctl(fd, IOMMU_HWPT_INVALIDATE, &cmd) || errno != ENOENT;
}

/* Record the ids that objects get next, which shows leaked reservations. */
static void look_next(int fd, struct text *t)
{
	struct iommu_ioas_alloc cmd[4];
	struct iommu_destroy gone = { .size = sizeof(gone) };
	unsigned int i;

	put(t, "next");
	for (i = 0; i < ARRAY_SIZE(cmd); i++) {
		cmd[i] = (struct iommu_ioas_alloc){ .size = sizeof(cmd[i]) };
		put(t, " %u", ioctl(fd, IOMMU_IOAS_ALLOC, &cmd[i]) ?
			0 : cmd[i].out_ioas_id);
	}
	while (i--) {
		gone.id = cmd[i].out_ioas_id;
		if (gone.id)
			ioctl(fd, IOMMU_DESTROY, &gone);
	}
	put(t, "\n");
}

/* ---- each kind ----------------------------------------------------------- */

static void look_ioas(int fd, __u32 id, struct text *t)
{
	struct iommu_iova_range ranges[16];
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = id,
		.num_iovas = ARRAY_SIZE(ranges),
		.allowed_iovas = (uintptr_t)ranges,
	};
	struct iommu_option huge = {
		.size = sizeof(huge),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_GET,
		.object_id = id,
	};
	struct iommu_test_cmd access = {
		.size = sizeof(access),
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = id,
	};
	unsigned int i;
	__u64 word;
	long rc;

	rc = ioctl(fd, IOMMU_IOAS_IOVA_RANGES, &cmd);
	put(t, " align=%llx", cmd.out_iova_alignment);
	for (i = 0; !rc && i < cmd.num_iovas; i++)
		put(t, " %llx-%llx", ranges[i].start, ranges[i].last);
	ioctl(fd, IOMMU_OPTION, &huge);
	put(t, " huge=%llu", huge.val64);

	rc = test_ioctl(fd, &access);
	if (rc) {
		put(t, " access %s", name_of(rc));
		return;
	}
	for (i = 0; i < ARRAY_SIZE(points); i++) {
		struct iommu_test_cmd rw = {
			.size = sizeof(rw),
			.op = IOMMU_TEST_OP_ACCESS_RW,
			.id = access.create_access.out_access_fd,
			.access_rw = {
				.iova = points[i].iova,
				.length = sizeof(word),
				.uptr = (uintptr_t)&word,
			},
		};

		rc = test_ioctl(fd, &rw);
		if (rc == -ENOENT)
			continue;
		put(t, " [%llx]", points[i].iova);
		if (rc)
			put(t, "%s", name_of(rc));
		else
			put(t, "%llx", word);
	}
	close(access.create_access.out_access_fd);
}

static void look_paging(int fd, __u32 id, struct text *t)
{
	struct iommu_hwpt_get_dirty_bitmap dirty = {
		.size = sizeof(dirty),
		.hwpt_id = id,
		.flags = IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
		.iova = IOVA_FIRST,
		.length = FIRST_SIZE,
		.page_size = PAGE,
	};
	unsigned int i;
	__u64 bits = 0;

	for (i = 0; i < ARRAY_SIZE(points); i++) {
		struct iommu_test_cmd cmd = {
			.size = sizeof(cmd),
			.op = IOMMU_TEST_OP_MD_CHECK_MAP,
			.id = id,
			.check_map = {
				.iova = points[i].iova,
				.length = PAGE,
				.uptr = points[i].uva,
			},
		};

		if (points[i].uva && !test_ioctl(fd, &cmd))
			put(t, " [%llx]", points[i].iova);
	}
	dirty.data = (uintptr_t)&bits;
	if (!ioctl(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &dirty))
		put(t, " dirty=%llx", bits);
}

static void look_attached(int fd, __u32 id, __u32 last, struct text *t)
{
	static const __u32 pasids[] = { 0, PASID, PASID + 1 };
	unsigned int i;
	__u32 hwpt;
	bool mock;

	for (i = 0; i < ARRAY_SIZE(pasids); i++) {
		if (attached(fd, id, pasids[i], 0, &mock))
			continue;
		for (hwpt = 1; hwpt <= last; hwpt++)
			if (attached(fd, id, pasids[i], hwpt, &mock))
				break;
		put(t, " %u->%u", pasids[i], hwpt <= last ? hwpt : 0);
	}
}

static void look_values(int fd, __u32 id,
			bool (*is)(int fd, __u32 id, __u32 n, __u32 value,
				   bool *kind),
			__u32 value, struct text *t)
{
	bool kind;
	__u32 i;

	put(t, " ");
	for (i = 0; i < 4; i++)
		put(t, "%c", is(fd, id, i, value, &kind) ? 'D' :
		    is(fd, id, i, 0, &kind) ? '0' : '?');
}

static void look_object(int fd, __u32 id, struct text *t)
{
	bool kind;

	if (!exists(fd, id))
		return;
	put(t, "%u:", id);
	if (is_ioas(fd, id)) {
		put(t, " ioas");
		look_ioas(fd, id, t);
	} else if (is_paging(fd, id)) {
		put(t, " paging");
		look_paging(fd, id, t);
	} else if (iotlb_is(fd, id, 0, 0, &kind), kind) {
		put(t, " nested");
		look_values(fd, id, iotlb_is, IOMMU_TEST_IOTLB_DEFAULT, t);
	} else if (cache_is(fd, id, 0, 0, &kind), kind) {
		put(t, " device");
		look_values(fd, id, cache_is, IOMMU_TEST_DEV_CACHE_DEFAULT, t);
	} else if (attached(fd, id, 0, 0, &kind), kind) {
		put(t, " mock");
		look_attached(fd, id, IDS, t);
	} else {
		put(t, " other");
	}
	put(t, "\n");
}

/* ---- the process --------------------------------------------------------- */

static void look_status(pid_t pid, struct text *t)
{
	put(t, " VmPin=%lld VmLck=%lld", status_pages(pid, "VmPin"),
	    status_pages(pid, "VmLck"));
}

static void look_process(struct world *w, struct text *t)
{
	struct pollfd p = { .events = POLLIN | POLLOUT };
	unsigned int i;

	put(t, "pins");
	for (i = 0; i < MEM_SIZE / PAGE; i += 2)
		put(t, " %d", page_pins(w->check_fd,
					(void *)(MEM + i * PAGE)));
	put(t, "\nprocess");
	look_status(0, t);
	if (w->helper) {
		put(t, " helper");
		look_status(w->helper, t);
	}
	put(t, "\nfiles");
	for (i = 3; i < FDS; i++) {
		if (fcntl(i, F_GETFD) < 0)
			continue;
		put(t, " %u", i);
		p.fd = i;
		if (((int)i == w->fault_fd || (int)i == w->veventq_fd) &&
		    poll(&p, 1, 0) >= 0)
			put(t, "=%x", p.revents);
	}
	put(t, "\n");
}

void look(struct world *w, struct text *t)
{
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_GET,
	};
	struct iommu_option mode = {
		.size = sizeof(mode),
		.option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_GET,
	};
	__u32 id;

	if (w->fd >= 0 && fcntl(w->fd, F_GETFD) >= 0) {
		for (id = 1; id <= IDS; id++)
			look_object(w->fd, id, t);
		look_next(w->fd, t);
		if (!ioctl(w->fd, IOMMU_VFIO_IOAS, &compat))
			put(t, "vfio %u\n", compat.ioas_id);
		if (!ioctl(w->fd, IOMMU_OPTION, &mode))
			put(t, "mode %llu\n", mode.val64);
	}
	look_process(w, t);
}

/* ---- the end ------------------------------------------------------------- */

/* The mock does not detach PASIDs by itself. */
static void detach_pasids(int fd)
{
	static const __u32 pasids[] = { PASID, PASID + 1 };
	unsigned int i;
	__u32 id;
	bool mock;

	for (id = 1; id <= IDS; id++) {
		attached(fd, id, 0, 0, &mock);
		for (i = 0; mock && i < ARRAY_SIZE(pasids); i++) {
			struct iommu_test_cmd cmd = {
				.size = sizeof(cmd),
				.op = IOMMU_TEST_OP_PASID_DETACH,
				.id = id,
				.pasid_detach.pasid = pasids[i],
			};

			if (!attached(fd, id, pasids[i], 0, &mock))
				test_ioctl(fd, &cmd);
		}
	}
}

/* Destroy objects that nothing depends on, until there are none. */
static void destroy_all(int fd, struct text *t)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd) };
	bool more = true;
	__u32 id;

	while (more) {
		more = false;
		for (id = IDS; id; id--) {
			cmd.id = id;
			more |= !ioctl(fd, IOMMU_DESTROY, &cmd);
		}
	}
	for (id = 1; id <= IDS; id++)
		if (exists(fd, id))
			put(t, "object %u cannot be destroyed\n", id);
}

void take_apart(struct world *w, bool by_id, struct text *t)
{
	bool open_still = w->fd >= 0 && fcntl(w->fd, F_GETFD) >= 0;
	int i;

	if (open_still)
		detach_pasids(w->fd);
	if (!by_id && open_still)
		close(w->fd);
	if (w->map)
		munmap(w->map, w->mmap_length);
	/* Close files that a call has opened. */
	for (i = 3; i < FDS; i++)
		if (i != w->fd && i != w->check_fd && i != w->mem_fd &&
		    i != w->helper_pipe && fcntl(i, F_GETFD) >= 0 && i > w->mem_fd)
			close(i);
	if (by_id && open_still) {
		destroy_all(w->fd, t);
		close(w->fd);
	}
	if (w->helper) {
		close(w->helper_pipe);
		waitpid(w->helper, NULL, 0);
	}
	for (i = 0; i < (int)(MEM_SIZE / PAGE); i++)
		if (page_pins(w->check_fd, (void *)(MEM + i * PAGE)))
			put(t, "page %d is still pinned\n", i);
}
