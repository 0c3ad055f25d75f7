// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cases of iommufd_race with further participants: exporters of dma-bufs,
 * hardware that reports faults and events, devices that are unbound, VMAs that
 * are mapped and forked, another process.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <sys/wait.h>

#include <linux/falloc.h>
#include <linux/vfio.h>

#include "iommufd_race.h"
#include "kselftest.h"

/* ---- dma-bufs ------------------------------------------------------------ */

void turn_dmabuf(struct session *s, struct worker *w)
{
	int fd = get(&s->slot[0]), rc;

	switch (w->number) {
	case 0:
		begin(w);
		rc = do_dmabuf_get(s->fd, 16 * PAGE);
		if (done(w, OP_ALLOC, rc, 0) < 0)
			break;
		set(&s->slot[0], rc);
		nap(w, 3000);
		set(&s->slot[0], 0);
		close(rc);
		break;
	case 1:
		if (fd)
			TRY(w, OP_REVOKE,
			    do_dmabuf_revoke(s->fd, fd, below(&w->rng, 2)),
			    EBADF, EINVAL);
		nap(w, 200);
		break;
	case 2:
		turn_domain(s, w, s->ioas[below(&w->rng, 2)]);
		break;
	default:
		if (!fd ||
		    TRY(w, OP_MAP,
			do_map_file(s->fd, s->ioas[0], fd,
				    PAGE * below(&w->rng, 8), 8 * PAGE,
				    OWN_IOVA(w)), ENODEV, EBADF, EINVAL)) {
			nap(w, 500);
			break;
		}
		if (!TRY(w, OP_COPY,
			 do_copy(s->fd, s->ioas[1], OWN_IOVA(w), s->ioas[0],
				 OWN_IOVA(w), 8 * PAGE), ENODEV))
			TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[1],
						  OWN_IOVA(w), 8 * PAGE));
		TRY(w, OP_UNMAP,
		    do_unmap(s->fd, s->ioas[0], OWN_IOVA(w), 8 * PAGE));
	}
}

/* ---- event queues -------------------------------------------------------- */

/*
 * A new descriptor of the shared queue, which stays that of the same queue; -1
 * if there is none.
 */
static int hold_queue(struct session *s)
{
	u32 shown = get(&s->slot[0]);
	int fd;

	if (!shown)
		return -1;
	fd = dup(number_of(shown));
	/*
	 * If the queue was closed before dup(), its number may be that of
	 * another file.
	 */
	if (fd >= 0 && get(&s->slot[0]) != shown) {
		close(fd);
		return -1;
	}
	return fd;
}

/*
 * Returns the number of bytes read, or 0 on error. The time limit of poll()
 * hides a missed wake-up, which poll_wakes of iommufd_kinds tests.
 */
static int wait_and_read(struct worker *w, int fd, void *buffer, size_t size)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	int rc;

	begin(w);
	rc = poll(&pollfd, 1, 1);
	if (rc > 0 && pollfd.revents != POLLIN)
		rc = -EIO;
	else
		rc = rc < 0 ? -errno : rc ?: -ETIME;
	if (done(w, OP_POLL, rc, ETIME, 0) < 0)
		return 0;
	begin(w);
	rc = read(fd, buffer, size);
	/* Another thread may have read it first. */
	return done(w, OP_READ, rc < 0 ? -errno : rc, EAGAIN, 0);
}

/* Has the fault or event of this number been read before? */
static bool seen_before(struct session *s, u64 number)
{
	return __atomic_exchange_n(&s->seen[number % SEEN], number + 1,
				   __ATOMIC_ACQ_REL) == number + 1;
}

static bool is_fault(struct session *s, const struct iommu_hwpt_pgfault *f)
{
	u32 flags = IOMMU_PGFAULT_FLAGS_LAST_PAGE |
		    (s->pasid ? IOMMU_PGFAULT_FLAGS_PASID_VALID : 0);

	return f->flags == flags && f->dev_id == s->mock.idev &&
	       f->pasid == s->pasid && f->grpid < 512 && !f->length &&
	       f->perm == IOMMU_PGFAULT_PERM_READ && f->cookie &&
	       f->addr % PAGE == 8 && f->addr / PAGE < get(&s->faults) &&
	       f->grpid == f->addr / PAGE % 512 &&
	       !seen_before(s, f->addr / PAGE);
}

/* Read faults, check that each is as reported and new; returns their number. */
static int read_faults(struct worker *w, int fd,
		       struct iommu_hwpt_pgfault *faults, unsigned int most)
{
	int size = wait_and_read(w, fd, faults, most * sizeof(*faults)), i;
	bool ok = size < 0 || size % sizeof(*faults) == 0;

	if (size <= 0)
		return 0;
	size /= sizeof(*faults);
	for (i = 0; i < size; i++)
		ok &= is_fault(w->s, &faults[i]);
	TRY(w, OP_CHECK, ok ? 0 : -EIO);
	return size;
}

/* Only this thread has the cookie, so the response is for its own fault. */
static void answer_fault(struct worker *w, int fd, u32 cookie, u32 moves)
{
	struct iommu_hwpt_page_response answer = { .cookie = cookie };
	int rc;

	begin(w);
	rc = write(fd, &answer, sizeof(answer));
	rc = rc < 0 ? -errno : rc == sizeof(answer) ? 0 : -EIO;
	/* Faults of a device that is detached are answered by the kernel. */
	done(w, OP_ANSWER, rc,
	     moves % 2 || get(&w->s->moves) != moves ? EINVAL : 0, 0);
}

/* A cookie that may be valid by chance */
static void guess_answer(struct worker *w, int fd)
{
	struct iommu_hwpt_page_response answer = {
		.cookie = 1 + below(&w->rng, 64),
	};
	int rc;

	begin(w);
	rc = write(fd, &answer, sizeof(answer));
	done(w, OP_WRITE, rc < 0 ? -errno : rc == sizeof(answer) ? 0 : -EIO,
	     EINVAL, 0);
}

/* Attach the device itself, or its PASID. */
static int attach_faulting(struct session *s, u32 pt)
{
	return s->pasid ? do_pasid_replace(s->fd, s->mock.stdev, s->pasid, pt) :
			  do_replace(s->fd, s->mock.stdev, pt);
}

static void own_fault_queue(struct session *s, struct worker *w)
{
	struct iommu_hwpt_selftest data = {
		.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
	};
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt),
		.flags = IOMMU_HWPT_FAULT_ID_VALID |
			 (s->pasid ? IOMMU_HWPT_ALLOC_PASID : 0),
		.dev_id = s->mock.idev,
		.pt_id = s->hwpt[0],
		.data_type = IOMMU_HWPT_DATA_SELFTEST,
		.data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};
	u32 fault;
	int fd;

	if (TRY(w, OP_ALLOC, do_fault_alloc(s->fd, &fault, &fd)))
		return;
	hwpt.fault_id = fault;
	if (!TRY(w, OP_HWPT, call(s->fd, IOMMU_HWPT_ALLOC, &hwpt))) {
		TRY(w, OP_REPLACE, attach_faulting(s, hwpt.out_hwpt_id));
		set(&s->slot[0], show(s, fd));
		nap(w, 5000);
		set(&s->moves, s->moves + 1);
		TRY(w, OP_REPLACE, attach_faulting(s, s->hwpt[1]));
		destroy(w, hwpt.out_hwpt_id);
		set(&s->slot[0], 0);
		set(&s->moves, s->moves + 1);
	}
	close(fd);
	/* Another thread may still hold its file open. */
	destroy_after(w, fault);
}

void turn_fault(struct session *s, struct worker *w)
{
	struct iommu_hwpt_pgfault *faults = w->buffer;
	u32 moves = get(&s->moves);
	u64 number;
	int fd, n;

	switch (w->number) {
	case 0:
		own_fault_queue(s, w);
		return;
	case 1:
	case 2:
		number = __atomic_fetch_add(&s->faults, 1, __ATOMIC_ACQ_REL);
		TRY(w, OP_TRIGGER,
		    do_trigger_iopf_at(s->fd, s->mock.idev, number % 512,
				       s->pasid, number * PAGE + 8));
		return;
	}
	fd = hold_queue(s);
	if (fd < 0)
		return;
	n = read_faults(w, fd, faults, w->number == 3 ? 4 : 1);
	/*
	 * Only this worker responds, so faults that it has read have no
	 * response.
	 */
	if (w->number == 3) {
		if (below(&w->rng, 4) == 0)
			guess_answer(w, fd);
		else if (n)
			answer_fault(w, fd, faults->cookie, moves);
	}
	close(fd);
}

/* A device that is attached to a HWPT for PASIDs, with PASID 200 attached */
int setup_pasid(struct session *s)
{
	u32 own;

	s->pasid = 200;
	return setup_ioas(s) ?:
	       do_mock_device_with(s->fd, s->ioas[0], MOCK_FLAGS_DEVICE_PASID,
				   &s->mock) ?:
	       do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[0],
			     IOMMU_HWPT_ALLOC_NEST_PARENT |
			     IOMMU_HWPT_ALLOC_PASID, 0, &s->hwpt[0]) ?:
	       do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[1],
			     IOMMU_HWPT_ALLOC_PASID, 0, &s->hwpt[1]) ?:
	       do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[1],
			     IOMMU_HWPT_ALLOC_PASID, 0, &own) ?:
	       do_replace(s->fd, s->mock.stdev, own) ?:
	       do_pasid_attach(s->fd, s->mock.stdev, s->pasid, s->hwpt[1]);
}

/*
 * The mock driver does not detach PASIDs when a device is removed: its faults
 * would stay queued after it is freed.
 */
void cleanup_pasid(struct session *s)
{
	do_pasid_detach(s->fd, s->mock.stdev, s->pasid);
}

#define VIRT_ID 0x99
/* The number of sequence numbers of a queue, which start at 0 */
#define EVENTS_MAX 0x100000000ULL

int setup_vevent(struct session *s)
{
	int rc;

	rc = setup_device(s) ?:
	     do_viommu_alloc(s->fd, s->mock.idev, s->hwpt[0], NULL,
			     &s->slot[1]) ?:
	     do_vdevice_alloc(s->fd, s->slot[1], s->mock.idev, VIRT_ID,
			      &s->slot[2]);
	rc = rc ?: do_nested_alloc(s->fd, s->mock.idev, s->slot[1],
				   &s->slot[3]);
	return rc ?: do_replace(s->fd, s->mock.stdev, s->slot[3]);
}

/*
 * Events are read in the order of their numbers, with gaps, as other threads
 * read, too. A header for lost events has the number of the last one of them.
 * No event may be read twice.
 */
static void read_events(struct worker *w, int fd, u32 queue)
{
	char *at = w->buffer, *end;
	int size = wait_and_read(w, fd, at, 256);
	struct iommu_viommu_event_selftest event;
	struct iommufd_vevent_header head;
	bool ok = true, lost = false;
	s64 last = -1;

	if (size <= 0)
		return;
	for (end = at + size; ok && at < end; last = head.sequence) {
		ok = end - at >= (long)sizeof(head);
		if (!ok)
			break;
		memcpy(&head, at, sizeof(head));
		at += sizeof(head);
		ok = head.sequence > last;
		if (head.flags == IOMMU_VEVENTQ_FLAG_LOST_EVENTS) {
			lost = true;
			continue;
		}
		ok = ok && !head.flags && end - at >= (long)sizeof(event) &&
		     !seen_before(w->s, queue * EVENTS_MAX + head.sequence);
		if (!ok)
			break;
		memcpy(&event, at, sizeof(event));
		at += sizeof(event);
		ok = event.virt_id == VIRT_ID;
	}
	TRY(w, OP_CHECK, ok ? 0 : -EIO);
	if (lost)
		TRY(w, OP_LOST, 0);
}

void turn_vevent(struct session *s, struct worker *w)
{
	unsigned int i;
	u32 shown, id;
	int fd;

	switch (w->number) {
	case 0:
		if (TRY(w, OP_ALLOC,
			do_veventq_alloc(s->fd, s->slot[1], &id, &fd)))
			break;
		set(&s->slot[0], show(s, fd));
		nap(w, 3000);
		set(&s->slot[0], 0);
		close(fd);
		/* Another thread may still hold its file open. */
		destroy_after(w, id);
		break;
	case 1:
		/*
		 * There may be no queue or no vDEVICE now. Report more events
		 * than the queue holds, so that some are lost.
		 */
		for (i = below(&w->rng, 10); i--;)
			TRY(w, OP_TRIGGER,
			    do_trigger_vevent(s->fd, s->mock.idev), EOPNOTSUPP,
			    ENOENT);
		break;
	case 2:
		nap(w, 3000);
		TRY(w, OP_REPLACE,
		    do_replace(s->fd, s->mock.stdev, s->ioas[0]));
		destroy(w, s->slot[2]);
		if (TRY(w, OP_ALLOC,
			do_vdevice_alloc(s->fd, s->slot[1], s->mock.idev,
					 VIRT_ID, &id)))
			break;
		set(&s->slot[2], id);
		TRY(w, OP_REPLACE,
		    do_replace(s->fd, s->mock.stdev, s->slot[3]));
		break;
	default:
		shown = get(&s->slot[0]);
		fd = hold_queue(s);
		if (fd < 0)
			break;
		if (get(&s->slot[0]) == shown)
			read_events(w, fd, shown >> 16);
		close(fd);
	}
}

/* ---- virtual IOMMUs ------------------------------------------------------ */

enum graph {
	STDEV,
	VIOMMU,
	VDEVICE,
	NESTED,
	HW_QUEUE,
	/* The driver makes it depend on HW_QUEUE. */
	NEXT_QUEUE,
	IDEV,
};

int setup_graph(struct session *s)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	rc = setup_device(s) ?: do_map(s->fd, s->ioas[0], page, PAGE, IOVA);
	munmap(page, PAGE);
	return rc;
}

/* Enclose calls that create or destroy dependents. */
static void change_begins(struct session *s)
{
	__atomic_add_fetch(&s->changing, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&s->changes, 1, __ATOMIC_SEQ_CST);
}

static void change_ends(struct session *s)
{
	__atomic_sub_fetch(&s->changing, 1, __ATOMIC_SEQ_CST);
}

/* Share a new object, or destroy it if the slot is taken. */
static void put_into(struct worker *w, enum graph what, u32 id)
{
	u32 none = 0, shown = show(w->s, id);

	if (!__atomic_compare_exchange_n(&w->s->slot[what], &none, shown, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		destroy(w, id);
}

static void make_graph(struct session *s, struct worker *w)
{
	u32 viommu = 0, nested = 0, id;
	struct mock mock = {};

	if (TRY(w, OP_ALLOC, do_mock_device(s->fd, s->hwpt[0], &mock)))
		return;
	set(&s->slot[IDEV], mock.idev);
	put_into(w, STDEV, mock.stdev);
	/* From here on each object, and the device, may have been destroyed. */
	if (TRY(w, OP_ALLOC,
		do_viommu_alloc(s->fd, mock.idev, s->hwpt[0], NULL, &viommu),
		ENOENT))
		return;
	/* HWPT_ALLOC returns EINVAL if the vIOMMU was destroyed. */
	if (!TRY(w, OP_ALLOC,
		 do_nested_alloc(s->fd, mock.idev, viommu, &nested), ENOENT,
		 EINVAL))
		put_into(w, NESTED, nested);
	put_into(w, VIOMMU, viommu);
	if (!TRY(w, OP_ALLOC,
		 do_hw_queue_alloc(s->fd, viommu, 0, IOVA, PAGE, &id),
		 ENOENT)) {
		put_into(w, HW_QUEUE, id);
		if (!TRY(w, OP_ALLOC,
			 do_hw_queue_alloc(s->fd, viommu, 1, IOVA, PAGE, &id),
			 ENOENT, EIO))
			put_into(w, NEXT_QUEUE, id);
	}
	/* Another worker may have created it. */
	if (!TRY(w, OP_ALLOC,
		 do_vdevice_alloc(s->fd, viommu, mock.idev, 7, &id),
		 ENOENT, EEXIST))
		put_into(w, VDEVICE, id);
	if (nested)
		TRY(w, OP_REPLACE, do_replace(s->fd, mock.stdev, nested),
		    ENOENT, EINVAL);
}

static void make_vdevice(struct session *s, struct worker *w)
{
	u32 id;

	if (!TRY(w, OP_ALLOC,
		 do_vdevice_alloc(s->fd, number_of(get(&s->slot[VIOMMU])),
				  get(&s->slot[IDEV]), 7, &id),
		 ENOENT, EEXIST))
		put_into(w, VDEVICE, id);
}

/* Is an object shared that may depend on it? */
static bool has_dependent(struct session *s, enum graph what)
{
	switch (what) {
	case VIOMMU:
		return get(&s->slot[VDEVICE]) || get(&s->slot[NESTED]) ||
		       get(&s->slot[HW_QUEUE]) || get(&s->slot[NEXT_QUEUE]);
	case NESTED:
		return get(&s->slot[STDEV]);
	case HW_QUEUE:
		return get(&s->slot[NEXT_QUEUE]);
	default:
		return false;
	}
}

/*
 * EBUSY is allowed only if a dependent may exist, or be created or destroyed
 * during the call. Otherwise the object in the slot must be destroyed, provided
 * that the slot does not change.
 */
static void destroy_graph(struct session *s, struct worker *w, enum graph what)
{
	u32 shown = get(&s->slot[what]), changes;
	bool alone;
	int rc;

	/*
	 * For each kind: the id may have been reused, so that this destroys an
	 * object of another kind.
	 */
	change_begins(s);
	changes = get(&s->changes);
	alone = get(&s->changing) == 1 && get(&s->slot[what]) == shown &&
		!has_dependent(s, what);
	begin(w);
	rc = do_destroy(s->fd, number_of(shown));
	alone = alone && get(&s->slot[what]) == shown &&
		!has_dependent(s, what) && get(&s->changes) == changes;
	done(w, OP_DESTROY, rc, ENOENT, alone ? 0 : EBUSY, 0);
	if (rc != -EBUSY)
		__atomic_compare_exchange_n(&s->slot[what], &shown, 0, false,
					    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	change_ends(s);
	if (alone && !rc)
		TRY(w, OP_ALONE, 0);
}

void turn_graph(struct session *s, struct worker *w)
{
	enum graph what = below(&w->rng, IDEV);
	unsigned int i;

	if (!w->number) {
		for (i = 0; i < IDEV && !get(&s->slot[i]); i++)
			;
		if (i == IDEV) {
			change_begins(s);
			make_graph(s, w);
			change_ends(s);
			nap(w, 1000);
			return;
		}
	}
	if (w->number == 1 && below(&w->rng, 4) == 0) {
		if (get(&s->slot[IDEV]) && get(&s->slot[VIOMMU])) {
			change_begins(s);
			make_vdevice(s, w);
			change_ends(s);
		}
		return;
	}
	if (get(&s->slot[what]))
		destroy_graph(s, w, what);
	/* Let the calls of the others end. */
	if (below(&w->rng, 2))
		nap(w, 200);
}

/* All workers have stopped: destroy the rest in order of dependency. */
bool settle_graph(struct session *s)
{
	static const enum graph order[] = {
		NEXT_QUEUE, HW_QUEUE, STDEV, VDEVICE, NESTED, VIOMMU,
	};
	unsigned int i;
	int rc;

	for (i = 0; i < ARRAY_SIZE(order); i++) {
		u32 shown = s->slot[order[i]];

		rc = shown ? do_destroy(s->fd, number_of(shown)) : 0;
		if (rc && rc != -ENOENT)
			return false;
	}
	return !do_destroy(s->fd, s->mock.stdev) &&
	       !do_destroy(s->fd, s->hwpt[0]) &&
	       !do_destroy(s->fd, s->hwpt[1]) &&
	       !do_unmap(s->fd, s->ioas[0], 0, UINT64_MAX) &&
	       !do_destroy(s->fd, s->ioas[0]) &&
	       !do_destroy(s->fd, s->ioas[1]);
}

/*
 * Unbinding a device destroys its vDEVICE. DESTROY of that by its id comes
 * first, or returns ENOENT; nothing depends on it. Each worker tries once, and
 * no id is reused before all have tried.
 */
void turn_unbind(struct session *s, struct worker *w)
{
	struct mock mock = {};
	unsigned int i;
	u32 viommu, id;

	if (w->number) {
		id = get(&s->slot[0]);
		if (!id || get(&s->slot[w->number])) {
			sched_yield();
			return;
		}
		TRY(w, OP_DESTROY, do_destroy(s->fd, id), ENOENT);
		set(&s->slot[w->number], 1);
		return;
	}
	if (TRY(w, OP_ALLOC, do_mock_device(s->fd, s->hwpt[0], &mock)))
		return;
	if (!TRY(w, OP_ALLOC, do_viommu_alloc(s->fd, mock.idev, s->hwpt[0],
					      NULL, &viommu))) {
		if (!TRY(w, OP_ALLOC, do_vdevice_alloc(s->fd, viommu, mock.idev,
						       7, &id))) {
			for (i = 1; i < w->s->what->threads; i++)
				set(&s->slot[i], 0);
			set(&s->slot[0], id);
			if (below(&w->rng, 2))
				nap(w, 30);
			destroy(w, mock.stdev);
			for (i = 1; i < w->s->what->threads; i++)
				while (!get(&s->slot[i]) && !get(&s->stop))
					sched_yield();
			set(&s->slot[0], 0);
			destroy(w, viommu);
			return;
		}
		destroy(w, viommu);
	}
	destroy(w, mock.stdev);
}

/* ---- mmap ---------------------------------------------------------------- */

static void use_mapping(struct worker *w, bool forks)
{
	u64 offset = get(&w->s->offset);
	unsigned int half;
	u32 *page;
	pid_t pid;
	int rc;

	if (!offset)
		return;
	begin(w);
	page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		    w->s->fd, offset);
	if (done(w, OP_MMAP, page == MAP_FAILED ? -errno : 0, ENXIO, ENOENT,
		 EINVAL, 0))
		return;
	TRY(w, OP_CHECK, get(page) == MAGIC ? 0 : -EIO);
	if (forks) {
		begin(w);
		pid = fork();
		if (!pid) {
			usleep(below(&w->rng, 500));
			_exit(*page != MAGIC);
		}
		done(w, OP_FORK, pid < 0 ? -errno : 0, 0);
		/*
		 * Unmap one half before the child exits, the other half
		 * afterwards.
		 */
		half = below(&w->rng, 2);
		munmap((void *)page + PAGE * half, PAGE);
		if (pid > 0 && waitpid(pid, &rc, 0) != pid)
			rc = -1;
		if (pid > 0)
			TRY(w, OP_CHECK, rc ? -EIO : 0);
		munmap((void *)page + PAGE * !half, PAGE);
		return;
	}
	munmap(page, 2 * PAGE);
}

void turn_mmap(struct session *s, struct worker *w)
{
	struct iommu_viommu_selftest data = { .in_data = MAGIC };
	u32 id;
	int rc;

	if (w->number) {
		use_mapping(w, w->number == 1);
		return;
	}
	if (TRY(w, OP_ALLOC, do_viommu_alloc(s->fd, s->mock.idev, s->hwpt[0],
					     &data, &id)))
		return;
	set(&s->offset, data.out_mmap_offset);
	nap(w, 3000);
	/*
	 * Each mapping is a user of it, also those of children. While the
	 * offset is shared there may always be one; after that, until the
	 * current turns have ended.
	 */
	rc = TRY(w, OP_DESTROY, do_destroy(s->fd, id), EBUSY);
	set(&s->offset, 0);
	if (rc == -EBUSY)
		destroy_after(w, id);
}

/* ---- change of process --------------------------------------------------- */

/* EBUSY is allowed only while another worker maps or unmaps. */
static void change_process(struct session *s, struct worker *w)
{
	u32 calls = calls_between(s, 2, 3);
	int rc;

	begin(w);
	rc = do_change_process(s->fd);
	done(w, OP_CHANGE, rc, called_since(s, 2, 3, calls) ? EBUSY : 0, 0);
}

/* Start another process that has the same file open. */
int setup_process(struct session *s)
{
	struct worker *w = &s->workers[WORKERS_MAX - 1];
	struct iommu_option mode = {
		.size = sizeof(mode),
		.option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = s->number / 2 % 2,
	};
	int null, rc;
	pid_t pid;

	s->memfd = memfd_create("race", MFD_CLOEXEC);
	if (s->memfd < 0 || ftruncate(s->memfd, 64 * PAGE))
		return -errno;
	rc = call(s->fd, IOMMU_OPTION, &mode) ?: setup_device(s);
	if (rc)
		return rc;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	/* The session is in shared memory: the child must not change it. */
	pid = fork();
	if (!pid) {
		w->s = s;
		while (!get(&s->stop)) {
			if (get(&s->closed))
				dup2(null, s->fd);
			change_process(s, w);
			nap(w, 300);
		}
		_exit(0);
	}
	s->child = pid;
	close(null);
	return pid < 0 ? -errno : 0;
}

/* The child must exit by itself. It has counted its calls in its own worker. */
void cleanup_process(struct session *s)
{
	struct worker *w = &s->workers[WORKERS_MAX - 1];
	int status;

	if ((waitpid(s->child, &status, 0) != s->child || status) &&
	    !w->odd_errno) {
		w->odd_op = OP_FORK;
		w->odd_errno = ECHILD;
	}
}

void turn_process(struct session *s, struct worker *w)
{
	u64 start = below(&w->rng, 32) * PAGE;
	u64 length = (1 + below(&w->rng, 32)) * PAGE;

	switch (w->number) {
	case 0:
		change_process(s, w);
		nap(w, 300);
		break;
	case 1:
		turn_domain(s, w, s->ioas[below(&w->rng, 2)]);
		break;
	default:
		if (TRY(w, OP_MAP, do_map_file(s->fd, s->ioas[0], s->memfd,
					       start, length, OWN_IOVA(w))))
			break;
		if (!TRY(w, OP_COPY,
			 do_copy(s->fd, s->ioas[1], OWN_IOVA(w), s->ioas[0],
				 OWN_IOVA(w), length)))
			TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[1],
						  OWN_IOVA(w), length));
		TRY(w, OP_UNMAP,
		    do_unmap(s->fd, s->ioas[0], OWN_IOVA(w), length));
	}
}

/* ---- dirty pages --------------------------------------------------------- */

static int track_dirty(int fd, u32 hwpt)
{
	struct iommu_hwpt_set_dirty_tracking cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
		.hwpt_id = hwpt,
	};

	return call(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd);
}

static int get_dirty(int fd, u32 hwpt, u64 iova, u64 length, u64 *bits)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = hwpt,
		.iova = iova,
		.length = length,
		.page_size = PAGE,
		.data = (uintptr_t)bits,
	};

	return call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd);
}

static int make_dirty(int fd, u32 hwpt, u64 iova, u64 length, u64 *bits)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DIRTY,
		.id = hwpt,
		.dirty = {
			.iova = iova,
			.length = length,
			.page_size = PAGE,
			.uptr = (uintptr_t)bits,
		},
	};

	return do_test(fd, &cmd);
}

/* Two HWPTs of one IOAS with dirty tracking */
int setup_dirty(struct session *s)
{
	/* With small pages each page has a dirty bit of its own. */
	struct iommu_option small = {
		.size = sizeof(small),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_SET,
	};
	unsigned int i;
	int rc;

	rc = setup_ioas(s);
	small.object_id = s->ioas[0];
	rc = rc ?: call(s->fd, IOMMU_OPTION, &small) ?:
	     do_mock_device(s->fd, s->ioas[0], &s->mock);
	for (i = 0; i < 2 && !rc; i++)
		rc = do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[0],
				   IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0,
				   &s->hwpt[i]) ?:
		     track_dirty(s->fd, s->hwpt[i]);
	return rc;
}

/* Pages written through one HWPT must be dirty in that one, once. */
static void use_dirty(struct session *s, struct worker *w)
{
	u64 length = (1 + below(&w->rng, 32)) * PAGE;
	u64 bits, got[2] = {}, again = 0;
	u64 all = (1ULL << length / PAGE) - 1;
	unsigned int from = below(&w->rng, 2);

	bits = mix(&w->rng) & all;
	if (TRY(w, OP_MAP, do_map(s->fd, s->ioas[0], w->mem, length,
				  OWN_IOVA(w))))
		return;
	TRY(w, OP_CHECK, make_dirty(s->fd, s->hwpt[from], OWN_IOVA(w), length,
				    &bits));
	/* Not in the other one. */
	if (below(&w->rng, 2))
		TRY(w, OP_CHECK, get_dirty(s->fd, s->hwpt[!from], OWN_IOVA(w),
					   length, &got[1]));
	TRY(w, OP_CHECK, get_dirty(s->fd, s->hwpt[from], OWN_IOVA(w), length,
				   &got[0]));
	TRY(w, OP_CHECK, get_dirty(s->fd, s->hwpt[from], OWN_IOVA(w), length,
				   &again));
	/* If the fd was replaced, one of these calls may have failed. */
	if (!get(&s->closed))
		TRY(w, OP_CHECK,
		    got[0] == bits && !got[1] && !again ? 0 : -EIO);
	TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[0], OWN_IOVA(w), length));
}

void turn_dirty(struct session *s, struct worker *w)
{
	u64 bits[2] = {};
	u32 id = 0;

	switch (w->number) {
	case 0:
		/* The areas whose dirty bits worker 2 reads */
		if (!TRY(w, OP_MAP, do_map(s->fd, s->ioas[0], w->mem,
					   64 * PAGE, IOVA))) {
			nap(w, 300);
			TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[0], IOVA,
						  64 * PAGE));
		}
		nap(w, 100);
		break;
	case 1:
		if (TRY(w, OP_HWPT,
			do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[0],
				      IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0, &id)))
			break;
		TRY(w, OP_CHECK, track_dirty(s->fd, id));
		destroy(w, id);
		nap(w, 300);
		break;
	case 2:
		/* The areas may be unmapped: their bits are not read then. */
		bits[0] = ~0ULL;
		make_dirty(s->fd, s->hwpt[below(&w->rng, 2)], IOVA, 64 * PAGE,
			   bits);
		bits[0] = 0;
		TRY(w, OP_DIRTY,
		    get_dirty(s->fd, s->hwpt[below(&w->rng, 2)], IOVA,
			      64 * PAGE, bits), EINVAL, ENOENT);
		TRY(w, OP_CHECK, bits[1] ? -EIO : 0);
		break;
	default:
		use_dirty(s, w);
	}
}

/* ---- type1 --------------------------------------------------------------- */

#define CUT_PAGES 32

/* A type1 container, which splits areas, and two accesses to it */
int setup_type1(struct session *s)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	int pin, rw, rc;

	rc = setup_ioas(s);
	cmd.ioas_id = s->ioas[0];
	rc = rc ?: call(s->fd, IOMMU_VFIO_IOAS, &cmd);
	if (!rc && ioctl(s->fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU))
		rc = -errno;
	rc = rc ?: do_mock_device(s->fd, s->ioas[0], &s->mock) ?:
	     do_access_create(s->fd, s->ioas[0],
			      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES, &pin) ?:
	     do_access_create(s->fd, s->ioas[0], 0, &rw);
	if (rc)
		return rc;
	s->slot[0] = pin;
	s->slot[1] = rw;
	return 0;
}

void cleanup_type1(struct session *s)
{
	close(s->slot[0]);
	close(s->slot[1]);
}

static void cut_some(struct session *s, struct worker *w)
{
	u64 first = below(&w->rng, CUT_PAGES);
	struct vfio_iommu_type1_dma_unmap cmd = {
		.argsz = sizeof(cmd),
		.iova = IOVA + first * PAGE,
		.size = (1 + below(&w->rng, 4)) * PAGE,
	};
	u32 calls = calls_between(s, 0, 0);
	u64 size = cmd.size;
	int rc;

	begin(w);
	rc = call(s->fd, VFIO_IOMMU_UNMAP_DMA, &cmd);
	/*
	 * EINVAL: an access has pinned pages. ENOENT: nothing is mapped. EBUSY:
	 * worker 0 is mapping or unmapping it.
	 */
	rc = done(w, OP_CUT, rc, EINVAL, ENOENT,
		  called_since(s, 0, 0, calls) ? EBUSY : 0, 0);
	/* Less if there was a hole, but never more than requested */
	if (!rc && (cmd.size % PAGE || cmd.size > size))
		TRY(w, OP_CUT, -EPROTO);
}

void turn_type1(struct session *s, struct worker *w)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)w->mem,
		.iova = IOVA,
		.size = CUT_PAGES * PAGE,
	};
	u64 at = IOVA + below(&w->rng, CUT_PAGES - 4) * PAGE;
	u64 length = (1 + below(&w->rng, 4)) * PAGE;
	u32 item = 0, calls;
	int rc;

	switch (w->number) {
	case 0:
		if (!TRY(w, OP_MAP, call(s->fd, VFIO_IOMMU_MAP_DMA, &map)))
			nap(w, 2000);
		/* The area may be split, and parts may be being unmapped. */
		do {
			calls = calls_between(s, 2, 2);
			begin(w);
			rc = do_unmap(s->fd, s->ioas[0], 0, UINT64_MAX);
			done(w, OP_UNMAP, rc, ENOENT,
			     called_since(s, 2, 2, calls) ? EBUSY : 0, 0);
		} while (rc == -EBUSY);
		break;
	case 1:
		turn_domain(s, w, s->ioas[0]);
		nap(w, 300);
		break;
	case 2:
		cut_some(s, w);
		break;
	case 3:
		if (TRY(w, OP_PIN,
			do_access_pin(s->fd, s->slot[0], at, length,
				      MOCK_FLAGS_ACCESS_WRITE, &item),
			ENOENT, EINVAL)) {
			nap(w, 100);
			break;
		}
		nap(w, 50);
		TRY(w, OP_UNPIN, do_access_unpin(s->fd, s->slot[0], item),
		    ENOENT);
		break;
	case 4:
		if (!TRY(w, OP_COPY, do_copy(s->fd, s->ioas[1], OWN_IOVA(w),
					     s->ioas[0], at, length),
			 ENOENT, EINVAL))
			TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[1],
						  OWN_IOVA(w), length));
		break;
	default:
		TRY(w, OP_RW, do_access_rw(s->fd, s->slot[1], at, w->buffer,
					   length, 0), ENOENT, EINVAL);
	}
}

/* ---- a file that shrinks ------------------------------------------------- */

#define FILE_PAGES 64

int setup_file(struct session *s)
{
	int rw, rc;

	s->memfd = memfd_create("race", MFD_CLOEXEC);
	if (s->memfd < 0 || ftruncate(s->memfd, FILE_PAGES * PAGE))
		return -errno;
	rc = setup_device(s) ?: do_access_create(s->fd, s->ioas[0], 0, &rw);
	s->slot[0] = rc ? 0 : rw;
	return rc;
}

void cleanup_file(struct session *s)
{
	close(s->slot[0]);
}

/*
 * Mapped pages do not change when the file is truncated: each is zero or has
 * the word that was written.
 *
 * Each worker has its own pages of the file: memfd_pin_folios() can pin a new
 * page before its allocator has cleared it, so another worker could read old
 * content, with any driver.
 */
static void use_file(struct session *s, struct worker *w)
{
	u64 start = FILE_PAGES / 4 * w->number + below(&w->rng, 8), i;
	u64 length = (1 + below(&w->rng, 8)) * PAGE;
	u32 *first = w->buffer, *again = w->buffer + 32 * PAGE;
	bool ok = true;
	u32 word;

	for (i = 0; i < length / PAGE; i += 2) {
		word = MAGIC + start + i;
		TRY(w, OP_WRITE,
		    pwrite(s->memfd, &word, sizeof(word), (start + i) * PAGE) ==
		    sizeof(word) ? 0 : -EIO);
	}
	/* EINVAL: the file was truncated. */
	if (TRY(w, OP_MAP, do_map_file(s->fd, s->ioas[0], s->memfd,
				       start * PAGE, length, OWN_IOVA(w)),
		EINVAL)) {
		nap(w, 50);
		return;
	}
	TRY(w, OP_RW, do_access_rw(s->fd, s->slot[0], OWN_IOVA(w), first,
				   length, 0));
	nap(w, 300);
	TRY(w, OP_RW, do_access_rw(s->fd, s->slot[0], OWN_IOVA(w), again,
				   length, 0));
	for (i = 0; i < length / PAGE; i++) {
		word = first[i * PAGE / 4];
		ok &= !word || word == MAGIC + start + i;
	}
	/* If the fd was replaced, the last call may have read nothing. */
	if (!get(&s->closed))
		TRY(w, OP_CHECK, ok && !memcmp(first, again, length) ? 0 :
				 -EIO);
	TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[0], OWN_IOVA(w), length));
}

void turn_file(struct session *s, struct worker *w)
{
	u64 page = below(&w->rng, FILE_PAGES);

	switch (w->number) {
	case 0:
		if (below(&w->rng, 3))
			TRY(w, OP_PUNCH,
			    fallocate(s->memfd, FALLOC_FL_PUNCH_HOLE |
				      FALLOC_FL_KEEP_SIZE, page * PAGE,
				      8 * PAGE) ? -errno : 0);
		else
			TRY(w, OP_PUNCH,
			    ftruncate(s->memfd, page * PAGE) ||
			    ftruncate(s->memfd, FILE_PAGES * PAGE) ?
				    -errno : 0);
		nap(w, 300);
		break;
	case 1:
		turn_domain(s, w, s->ioas[0]);
		nap(w, 300);
		break;
	default:
		use_file(s, w);
	}
}
