// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cases of iommufd_race: what their threads do.
 *
 * With each call a worker names the errnos that some interleaving explains; any
 * other is a bug. ENOENT is the common one: the object was destroyed. EBUSY is
 * explained by a dependent, which a comment at each use names.
 *
 * Not tested, since the mock driver does not support it: fault groups of
 * several requests; groups of devices with faults, PASIDs or nesting (each mock
 * device is a group of its own, and those of vfio_edu have none of these);
 * copies by a kernel thread (IOMMUFD_ACCESS_RW_KTHREAD); a driver that holds a
 * context by iommufd_ctx_get(). Also not tested is memory management by the
 * kernel, such as collapsing, splitting, migrating or swapping: pinned memory
 * is exempt, and GUP has tests of its own.
 */
#define _GNU_SOURCE
#include <sched.h>

#include <linux/vfio.h>

#include "iommufd_race.h"
#include "kselftest.h"

void nap(struct worker *w, unsigned int us)
{
	usleep(below(&w->rng, us));
}

/* Destroy an object that others only look up: nothing depends on it. */
int destroy(struct worker *w, u32 id)
{
	return TRY(w, OP_DESTROY, do_destroy(w->s->fd, id), ENOENT);
}

/*
 * Destroy an object that others may have depended on by something that is
 * closed, or not shared any more. When the turns in which they found it have
 * ended, none of them does. At most one worker of a case does this, since two
 * would wait for each other.
 */
int destroy_after(struct worker *w, u32 id)
{
	struct session *s = w->s;
	unsigned int i;
	u32 turns;

	for (i = 0; i < s->what->threads; i++) {
		struct worker *other = &s->workers[i];

		turns = get(&other->turns);
		while (other != w && turns % 2 && get(&other->turns) == turns)
			usleep(20);
	}
	return destroy(w, id);
}

u32 calls_between(struct session *s, unsigned int first, unsigned int last)
{
	u32 calls = 0, n;
	unsigned int i;

	for (i = first; i <= last; i++) {
		n = get(&s->workers[i].calls);
		/* In a turn, which an even number never indicates */
		if (n % 2)
			return 1;
		calls += n;
	}
	return calls;
}

bool called_since(struct session *s, unsigned int first, unsigned int last,
		  u32 before)
{
	return before % 2 || calls_between(s, first, last) != before;
}

u32 show(struct session *s, u32 number)
{
	u32 shown = __atomic_add_fetch(&s->shown, 1, __ATOMIC_ACQ_REL);

	return shown << 16 | number;
}

u32 number_of(u32 shown)
{
	return shown & 0xffff;
}

int setup_ioas(struct session *s)
{
	return do_ioas_alloc(s->fd, &s->ioas[0]) ?:
	       do_ioas_alloc(s->fd, &s->ioas[1]);
}

/* Two IOASes, a device on the first, a HWPT of each. */
int setup_device(struct session *s)
{
	return setup_ioas(s) ?:
	       do_mock_device(s->fd, s->ioas[0], &s->mock) ?:
	       do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[0],
			     IOMMU_HWPT_ALLOC_NEST_PARENT, 0, &s->hwpt[0]) ?:
	       do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[1], 0, 0,
			     &s->hwpt[1]);
}

/* A domain that is created and destroyed */
void turn_domain(struct session *s, struct worker *w, u32 ioas)
{
	u32 id = 0;

	if (!TRY(w, OP_HWPT,
		 do_hwpt_alloc(s->fd, s->mock.idev, ioas, 0, 0, &id)))
		destroy(w, id);
}

/* ---- lookups against destroy --------------------------------------------- */

static void turn_owner(struct session *s, struct worker *w)
{
	u32 id = 0;

	if (TRY(w, OP_ALLOC, do_ioas_alloc(s->fd, &id)))
		return;
	set(&s->slot[0], id);
	nap(w, 300);
	destroy(w, id);
}

static void turn_lookup(struct session *s, struct worker *w)
{
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd) };
	int rc;

	if (!w->number) {
		turn_owner(s, w);
		return;
	}
	cmd.ioas_id = get(&s->slot[0]);
	begin(w);
	/* No range fits: EMSGSIZE means that it was found. */
	rc = call(s->fd, IOMMU_IOAS_IOVA_RANGES, &cmd);
	done(w, OP_LOOKUP, rc == -EMSGSIZE ? 0 : rc, ENOENT, 0);
}

static void turn_hw_info(struct session *s, struct worker *w)
{
	struct iommu_hw_info cmd = { .size = sizeof(cmd) };
	struct mock mock = {};

	if (!w->number) {
		if (TRY(w, OP_ALLOC, do_mock_device(s->fd, s->ioas[0], &mock)))
			return;
		set(&s->slot[0], mock.idev);
		nap(w, 5000);
		destroy(w, mock.stdev);
		return;
	}
	cmd.dev_id = get(&s->slot[0]);
	TRY(w, OP_LOOKUP, call(s->fd, IOMMU_GET_HW_INFO, &cmd), ENOENT);
}

static void turn_map_destroy(struct session *s, struct worker *w)
{
	u32 ioas = get(&s->slot[0]);

	if (!w->number) {
		turn_owner(s, w);
		return;
	}
	if (!TRY(w, OP_MAP, do_map(s->fd, ioas, w->mem, PAGE, OWN_IOVA(w)),
		 ENOENT, EEXIST))
		TRY(w, OP_UNMAP, do_unmap(s->fd, ioas, OWN_IOVA(w), PAGE),
		    ENOENT);
	else
		nap(w, 50);
}

static void turn_destroy(struct session *s, struct worker *w)
{
	u32 id;

	if (!w->number) {
		turn_owner(s, w);
		return;
	}
	id = get(&s->slot[0]);
	/* Each is destroyed once, and looked up until the next one exists. */
	if (id == w->state) {
		sched_yield();
		return;
	}
	if (TRY(w, OP_DESTROY, do_destroy(s->fd, id), ENOENT) == -ENOENT)
		w->state = id;
}

static void turn_vfio_ioas(struct session *s, struct worker *w)
{
	struct iommu_vfio_ioas cmd = { .size = sizeof(cmd) };
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.vaddr = (uintptr_t)w->mem,
		.iova = OWN_IOVA(w),
		.size = PAGE,
	};
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = map.iova,
		.size = map.size,
	};

	switch (w->number) {
	case 0:
		turn_owner(s, w);
		break;
	case 1:
		cmd.op = IOMMU_VFIO_IOAS_SET;
		cmd.ioas_id = get(&s->slot[0]);
		TRY(w, OP_REPLACE, call(s->fd, IOMMU_VFIO_IOAS, &cmd), ENOENT);
		break;
	case 2:
		cmd.op = below(&w->rng, 8) ? IOMMU_VFIO_IOAS_GET :
					     IOMMU_VFIO_IOAS_CLEAR;
		TRY(w, OP_LOOKUP, call(s->fd, IOMMU_VFIO_IOAS, &cmd), ENODEV);
		break;
	default:
		if (!TRY(w, OP_MAP, call(s->fd, VFIO_IOMMU_MAP_DMA, &map),
			 ENODEV, EEXIST))
			TRY(w, OP_UNMAP,
			    call(s->fd, VFIO_IOMMU_UNMAP_DMA, &unmap), ENODEV,
			    ENOENT);
		else
			nap(w, 50);
	}
}

/* ---- create, publish, abort ---------------------------------------------- */

/*
 * The response cannot be copied out, so the object is undone; or TAKEN: another
 * worker has created the only one that is possible.
 */
static int aborted(struct worker *w, unsigned long nr, const void *cmd,
		   size_t size, int taken)
{
	int rc;

	memcpy(w->buffer, cmd, size);
	mprotect(w->buffer, PAGE, PROT_READ);
	begin(w);
	rc = call(w->s->fd, nr, w->buffer);
	rc = done(w, OP_ABORT, rc == -EFAULT ? 0 : rc ?: -EPROTO, taken, 0);
	mprotect(w->buffer, PAGE, PROT_READ | PROT_WRITE);
	return rc;
}

#define ABORTED(w, nr, cmd, taken) aborted(w, nr, &(cmd), sizeof(cmd), taken)

/* A vIOMMU that is not destroyed, and memory for its queues */
static int setup_create(struct session *s)
{
	return setup_graph(s) ?: do_viommu_alloc(s->fd, s->mock.idev,
						 s->hwpt[0], NULL,
						 &s->slot[0]);
}

/* Objects of a vIOMMU that are undone */
static void abort_virtual(struct session *s, struct worker *w)
{
	struct iommu_viommu_alloc viommu = {
		.size = sizeof(viommu),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = s->mock.idev,
		.hwpt_id = s->hwpt[0],
	};
	struct iommu_vdevice_alloc vdevice = {
		.size = sizeof(vdevice),
		.viommu_id = s->slot[0],
		.dev_id = s->mock.idev,
		.virt_id = 7,
	};
	struct iommu_veventq_alloc veventq = {
		.size = sizeof(veventq),
		.viommu_id = s->slot[0],
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 4,
	};
	struct iommu_hw_queue_alloc queue = {
		.size = sizeof(queue),
		.viommu_id = s->slot[0],
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.nesting_parent_iova = IOVA,
		.length = PAGE,
	};
	u32 id;
	int rc;

	/*
	 * C lets a driver find a queue that is then undone, and warns: do not
	 * create the next one there.
	 */
	switch (below(&w->rng, s->reference ? 4 : 5)) {
	case 0:
		ABORTED(w, IOMMU_VIOMMU_ALLOC, viommu, 0);
		break;
	case 1:
		ABORTED(w, IOMMU_VDEVICE_ALLOC, vdevice, EEXIST);
		break;
	case 2:
		ABORTED(w, IOMMU_VEVENTQ_ALLOC, veventq, EEXIST);
		break;
	case 3:
		ABORTED(w, IOMMU_HW_QUEUE_ALLOC, queue, EEXIST);
		break;
	default:
		/* There is no previous queue; or one that is undone. */
		begin(w);
		rc = do_hw_queue_alloc(s->fd, s->slot[0], 1, IOVA, PAGE, &id);
		done(w, OP_ABORT,
		     rc == -EIO || rc == -ENOENT ? 0 : rc ?: -EPROTO, 0);
	}
}

static void turn_create(struct session *s, struct worker *w)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_fault_alloc fault = { .size = sizeof(fault) };
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt),
		.dev_id = s->mock.idev,
		.pt_id = s->ioas[0],
	};
	struct iommu_test_cmd mock = {
		.size = sizeof(mock),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN,
		.id = s->ioas[0],
	};
	struct iommu_test_cmd access = {
		.size = sizeof(access),
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = s->ioas[0],
	};
	unsigned int i = below(&w->rng, SLOTS);
	struct mock dev;
	u32 id = 0;
	int fd = 0;

	if (w->id[i]) {
		destroy(w, w->id[i]);
		w->id[i] = 0;
	}
	if (w->fd[i]) {
		close(w->fd[i]);
		w->fd[i] = 0;
	}
	switch (below(&w->rng, 14)) {
	case 0:
		ABORTED(w, IOMMU_IOAS_ALLOC, ioas, 0);
		break;
	case 1:
		ABORTED(w, IOMMU_HWPT_ALLOC, hwpt, 0);
		break;
	case 2:
		ABORTED(w, IOMMU_FAULT_QUEUE_ALLOC, fault, 0);
		break;
	case 3:
		if (!below(&w->rng, 16))
			ABORTED(w, IOMMU_TEST_CMD, mock, 0);
		break;
	case 4:
		ABORTED(w, IOMMU_TEST_CMD, access, 0);
		break;
	case 5:
		if (!TRY(w, OP_ALLOC, do_fault_alloc(s->fd, &id, &fd)) &&
		    below(&w->rng, 2)) {
			/*
			 * Close the file before the id is destroyed, or the
			 * other way round.
			 */
			close(fd);
			fd = 0;
		}
		break;
	case 6:
		if (!below(&w->rng, 16) &&
		    !TRY(w, OP_ALLOC, do_mock_device(s->fd, s->ioas[0], &dev)))
			id = dev.stdev;
		break;
	case 7:
		TRY(w, OP_ALLOC, do_access_create(s->fd, s->ioas[0],
						  below(&w->rng, 2), &fd));
		break;
	case 8:
		TRY(w, OP_ALLOC, do_viommu_alloc(s->fd, s->mock.idev,
						 s->hwpt[0], NULL, &id));
		break;
	case 10:
	case 11:
	case 12:
		abort_virtual(s, w);
		break;
	case 9:
		TRY(w, OP_ALLOC, do_hwpt_alloc(s->fd, s->mock.idev, s->ioas[0],
					       0, 0, &id));
		break;
	default:
		TRY(w, OP_ALLOC, do_ioas_alloc(s->fd, &id));
	}
	if (get(&s->stop) || s->closed) {
		if (fd)
			close(fd);
		return;
	}
	/* A fault queue whose file is open is not destroyed by its id. */
	w->id[i] = fd ? 0 : id;
	w->fd[i] = fd;
}

static void leave_create(struct session *s, struct worker *w)
{
	unsigned int i;

	for (i = 0; i < SLOTS; i++) {
		if (w->fd[i])
			close(w->fd[i]);
		w->fd[i] = 0;
		w->id[i] = 0;
	}
}

/* ---- mappings against domains -------------------------------------------- */

static void turn_map_attach(struct session *s, struct worker *w)
{
	u64 length = (1 + below(&w->rng, 16)) * PAGE;
	u64 iova = OWN_IOVA(w) + below(&w->rng, 8) * PAGE;
	u32 pts[] = { s->ioas[0], s->ioas[1], s->hwpt[0], s->hwpt[1] };
	u32 calls;
	int rc;

	switch (w->number) {
	case 0:
		TRY(w, OP_REPLACE,
		    do_replace(s->fd, s->mock.stdev,
			       pts[below(&w->rng, ARRAY_SIZE(pts))]));
		break;
	case 1:
		turn_domain(s, w, s->ioas[below(&w->rng, 2)]);
		break;
	case 2:
		/* At a random place in the same few pages as the next one */
		iova = IOVA + below(&w->rng, 32) * PAGE;
		if (TRY(w, OP_MAP, do_map(s->fd, s->ioas[0], w->mem, length,
					  iova), EEXIST))
			nap(w, 200);
		break;
	case 3:
		/* A part of it is still being mapped by the previous one. */
		calls = calls_between(s, 2, 2);
		begin(w);
		rc = do_unmap(s->fd, s->ioas[0], IOVA, 64 * PAGE);
		done(w, OP_UNMAP, rc, ENOENT,
		     called_since(s, 2, 2, calls) ? EBUSY : 0, 0);
		nap(w, 500);
		break;
	default:
		/* Only this worker maps here: each result is exact. */
		if (TRY(w, OP_MAP,
			do_map(s->fd, s->ioas[0], w->mem, length, iova)))
			break;
		TRY(w, OP_CHECK, do_check_map(s->fd, s->hwpt[0], w->mem,
					      length, iova));
		TRY(w, OP_CHECK, do_check_refs(s->fd, w->mem, length, 1));
		if (!TRY(w, OP_COPY, do_copy(s->fd, s->ioas[1], iova,
					     s->ioas[0], iova, length))) {
			TRY(w, OP_UNMAP,
			    do_unmap(s->fd, s->ioas[0], iova, length));
			TRY(w, OP_CHECK, do_check_map(s->fd, s->hwpt[1],
						      w->mem, length, iova));
			TRY(w, OP_CHECK,
			    do_check_refs(s->fd, w->mem, length, 1));
			TRY(w, OP_UNMAP,
			    do_unmap(s->fd, s->ioas[1], iova, length));
		} else {
			TRY(w, OP_UNMAP,
			    do_unmap(s->fd, s->ioas[0], iova, length));
		}
		TRY(w, OP_CHECK, do_check_refs(s->fd, w->mem, length, 0));
	}
}

/* ---- accesses ------------------------------------------------------------ */

static int setup_access(struct session *s)
{
	int pin, rw, rc;

	/* With a domain and without */
	rc = setup_ioas(s);
	if (!rc && s->number / 2 % 2)
		rc = do_mock_device(s->fd, s->ioas[0], &s->mock);
	if (!rc)
		rc = do_access_create(s->fd, s->ioas[0],
				      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				      &pin);
	if (!rc)
		rc = do_access_create(s->fd, s->ioas[0], 0, &rw);
	if (rc)
		return rc;
	s->slot[0] = pin;
	s->slot[1] = rw;
	return 0;
}

static void cleanup_access(struct session *s)
{
	close(s->slot[0]);
	close(s->slot[1]);
}

static void fill(struct worker *w)
{
	u32 *word = w->mem;
	unsigned int i;

	for (i = 0; i < 32 * PAGE / sizeof(*word); i++)
		word[i] = MAGIC;
}

static bool is_magic(const void *buffer, size_t size)
{
	const u32 *word = buffer;
	size_t i;

	for (i = 0; i < size / sizeof(*word); i++)
		if (word[i] != MAGIC)
			return false;
	return true;
}

static void pin_some(struct session *s, struct worker *w, int access, u64 iova,
		     unsigned int pages)
{
	u64 first = below(&w->rng, pages);
	u64 length = (1 + below(&w->rng, pages - first)) * PAGE;
	u32 item = 0;

	/* EINVAL: it is being unmapped, and new pins are refused. */
	if (TRY(w, OP_PIN,
		do_access_pin(s->fd, access, iova + first * PAGE, length,
			      below(&w->rng, 2) * MOCK_FLAGS_ACCESS_WRITE,
			      &item), ENOENT, EINVAL, EBADFD)) {
		nap(w, 200);
		return;
	}
	nap(w, 50);
	/* The unmap callback may have unpinned it. */
	TRY(w, OP_UNPIN, do_access_unpin(s->fd, access, item), ENOENT, EBADFD);
}

static void read_some(struct session *s, struct worker *w, int access,
		      u64 iova, unsigned int pages)
{
	u64 length = 4 + 4 * below(&w->rng, 2 * PAGE / 4);
	u64 offset = 4 * below(&w->rng, (pages * PAGE - length) / 4);

	if (TRY(w, OP_RW, do_access_rw(s->fd, access, iova + offset, w->buffer,
				       length, 0), ENOENT, EINVAL, EBADFD)) {
		nap(w, 200);
		return;
	}
	TRY(w, OP_CHECK, is_magic(w->buffer, length) ? 0 : -EIO);
}

static void turn_access(struct session *s, struct worker *w)
{
	unsigned int i;

	switch (w->number) {
	case 0:
		fill(w);
		for (i = 0; i < 2; i++)
			TRY(w, OP_MAP, do_map(s->fd, s->ioas[i], w->mem,
					      16 * PAGE, IOVA));
		/* The other half of an access's range */
		TRY(w, OP_MAP, do_map(s->fd, s->ioas[0], w->mem + 16 * PAGE,
				      16 * PAGE, IOVA + 16 * PAGE));
		nap(w, 2000);
		for (i = 0; i < 2; i++)
			TRY(w, OP_UNMAP,
			    do_unmap(s->fd, s->ioas[i], IOVA, 16 * PAGE));
		TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[0], IOVA + 16 * PAGE,
					  16 * PAGE));
		break;
	case 1:
		TRY(w, OP_REPLACE,
		    do_access_replace(s->fd, s->slot[0],
				      s->ioas[below(&w->rng, 2)]));
		nap(w, 1000);
		break;
	case 2:
	case 3:
		pin_some(s, w, s->slot[0], IOVA, 32);
		break;
	default:
		read_some(s, w, s->slot[1], IOVA, 32);
	}
}

static void turn_access_destroy(struct session *s, struct worker *w)
{
	int access = get(&s->slot[0]), fd;
	u32 ioas;

	if (w->number) {
		if (access && w->number % 2)
			pin_some(s, w, access, IOVA, 16);
		else if (access)
			read_some(s, w, access, IOVA, 16);
		else
			nap(w, 100);
		return;
	}
	fill(w);
	if (TRY(w, OP_ALLOC, do_ioas_alloc(s->fd, &ioas)) ||
	    TRY(w, OP_MAP, do_map(s->fd, ioas, w->mem, 16 * PAGE, IOVA)))
		return;
	if (TRY(w, OP_ALLOC,
		do_access_create(s->fd, ioas, MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				 &fd)))
		return;
	set(&s->slot[0], fd);
	nap(w, 5000);
	set(&s->slot[0], 0);
	close(fd);
	/* The last user destroys the access. */
	destroy_after(w, ioas);
}

/* -------------------------------------------------------------------------- */

#define FAULT_OPS \
	(OP(ALLOC) | OP(DESTROY) | OP(CHECK) | OP(HWPT) | OP(TRIGGER) | \
	 OP(READ) | OP(WRITE) | OP(ANSWER) | OP(POLL))

const struct race_case race_cases[] = {
	{
		.name = "lookup",
		.about = "an IOAS is looked up and destroyed",
		.threads = 5,
		.turn = turn_lookup,
		.ops = OP(LOOKUP) | OP(ALLOC) | OP(DESTROY),
		.least = 5,
	}, {
		.name = "hw_info",
		.about = "a device is asked about and unbound",
		.threads = 4,
		.setup = setup_ioas,
		.turn = turn_hw_info,
		.ops = OP(LOOKUP) | OP(ALLOC) | OP(DESTROY),
		/* A debug kernel takes ten times as long to create a device. */
		.least = 5,
		.rare = { { OP_ALLOC, 50 }, { OP_DESTROY, 50 } },
	}, {
		.name = "map_destroy",
		.about = "an IOAS is mapped into and destroyed",
		.threads = 5,
		.turn = turn_map_destroy,
		.ops = OP(ALLOC) | OP(DESTROY) | OP(MAP) | OP(UNMAP),
		.least = 5,
	}, {
		.name = "destroy",
		.about = "an IOAS is destroyed by several",
		.threads = 5,
		.turn = turn_destroy,
		.ops = OP(ALLOC) | OP(DESTROY),
		.least = 5,
	}, {
		.name = "vfio_ioas",
		.about = "the IOAS of the VFIO container is destroyed",
		.threads = 5,
		.turn = turn_vfio_ioas,
		.ops = OP(LOOKUP) | OP(ALLOC) | OP(DESTROY) | OP(MAP) |
		       OP(UNMAP) | OP(REPLACE),
		.least = 10,
		.rare = { { OP_LOOKUP, 3 } },
	}, {
		.name = "create",
		.about = "objects of all kinds are made, unmade and aborted",
		.threads = 4,
		.setup = setup_create,
		.turn = turn_create,
		.leave = leave_create,
		.ops = OP(ALLOC) | OP(ABORT) | OP(DESTROY),
		.least = 50,
	}, {
		.name = "map_attach",
		.about = "map, copy, unmap while domains come and go",
		.threads = 6,
		.setup = setup_device,
		.turn = turn_map_attach,
		.ops = OP(DESTROY) | OP(MAP) | OP(UNMAP) | OP(COPY) |
		       OP(CHECK) | OP(HWPT) | OP(REPLACE),
		.least = 90,
		.rare = { { OP_MAP, 10 }, { OP_UNMAP, 20 } },
	}, {
		.name = "access",
		.about = "accesses pin and read what is unmapped, and move",
		.threads = 5,
		.setup = setup_access,
		.turn = turn_access,
		.cleanup = cleanup_access,
		.ops = OP(MAP) | OP(UNMAP) | OP(CHECK) | OP(REPLACE) |
		       OP(PIN) | OP(UNPIN) | OP(RW),
		.least = 90,
		.rare = { { OP_PIN, 5 }, { OP_UNPIN, 5 }, { OP_RW, 10 } },
	}, {
		.name = "access_destroy",
		.about = "accesses pin and read while they are destroyed",
		.threads = 5,
		.turn = turn_access_destroy,
		.ops = OP(ALLOC) | OP(DESTROY) | OP(MAP) | OP(CHECK) |
		       OP(PIN) | OP(UNPIN) | OP(RW),
		.least = 20,
		.rare = { { OP_CHECK, 100 }, { OP_MAP, 100 },
			  { OP_UNPIN, 3 } },
	}, {
		.name = "dmabuf",
		.about = "dma-bufs are mapped, revoked and closed",
		.threads = 5,
		.setup = setup_device,
		.turn = turn_dmabuf,
		.ops = OP(ALLOC) | OP(DESTROY) | OP(MAP) | OP(UNMAP) |
		       OP(COPY) | OP(HWPT) | OP(REVOKE),
		.least = 20,
	}, {
		.name = "fault",
		.about = "faults are reported, read and answered while HWPTs go",
		.threads = 5,
		.setup = setup_device,
		.turn = turn_fault,
		.ops = FAULT_OPS | OP(REPLACE),
		.least = 90,
		.rare = { { OP_WRITE, 10 }, { OP_ANSWER, 50 }, { OP_POLL, 5 } },
	}, {
		.name = "pasid_fault",
		.about = "faults of a PASID, while its HWPT goes",
		.threads = 5,
		.setup = setup_pasid,
		.turn = turn_fault,
		.cleanup = cleanup_pasid,
		.orderly = true,
		.ops = FAULT_OPS | OP(REPLACE),
		.least = 90,
		.rare = { { OP_WRITE, 10 }, { OP_ANSWER, 50 }, { OP_POLL, 5 } },
	}, {
		.name = "vevent",
		.about = "events are reported and read while queues and vDEVICEs go",
		.threads = 5,
		.setup = setup_vevent,
		.turn = turn_vevent,
		.ops = OP(ALLOC) | OP(DESTROY) | OP(CHECK) | OP(REPLACE) |
		       OP(TRIGGER) | OP(READ) | OP(POLL) | OP(LOST),
		.least = 90,
		.rare = { { OP_TRIGGER, 5 }, { OP_POLL, 5 } },
	}, {
		.name = "viommu",
		.about = "what belongs to a vIOMMU is destroyed in every order",
		.threads = 5,
		.setup = setup_graph,
		.turn = turn_graph,
		.settle = settle_graph,
		.ops = OP(ALLOC) | OP(DESTROY) | OP(REPLACE) | OP(ALONE),
		.least = 20,
		.rare = { { OP_DESTROY, 10 } },
	}, {
		.name = "unbind",
		.about = "a vDEVICE is destroyed while its device is unbound",
		.threads = 4,
		.setup = setup_device,
		.turn = turn_unbind,
		.ops = OP(ALLOC) | OP(DESTROY),
		.least = 20,
	}, {
		.name = "mmap",
		.about = "pages of a vIOMMU are mapped and forked while it goes",
		.threads = 4,
		.setup = setup_device,
		.turn = turn_mmap,
		.ops = OP(ALLOC) | OP(DESTROY) | OP(CHECK) | OP(MMAP) |
		       OP(FORK),
		.least = 20,
		.rare = { { OP_CHECK, 100 }, { OP_DESTROY, 10 } },
	}, {
		.name = "process",
		.about = "IOAS_CHANGE_PROCESS of two processes against mappings",
		.threads = 4,
		.setup = setup_process,
		.turn = turn_process,
		.cleanup = cleanup_process,
		.ops = OP(DESTROY) | OP(MAP) | OP(UNMAP) | OP(COPY) |
		       OP(HWPT) | OP(CHANGE),
		.least = 90,
		.rare = { { OP_CHANGE, 10 } },
	}, {
		.name = "dirty",
		.about = "pages get dirty in two HWPTs while areas come and go",
		.threads = 5,
		.setup = setup_dirty,
		.turn = turn_dirty,
		.ops = OP(DESTROY) | OP(MAP) | OP(UNMAP) | OP(HWPT) |
		       OP(DIRTY) | OP(CHECK),
		.least = 90,
		.rare = { { OP_DIRTY, 20 } },
	}, {
		.name = "type1",
		.about = "a container cuts what accesses pin and others copy",
		.threads = 6,
		.setup = setup_type1,
		.turn = turn_type1,
		.cleanup = cleanup_type1,
		.ops = OP(DESTROY) | OP(MAP) | OP(UNMAP) | OP(HWPT) |
		       OP(CUT) | OP(COPY) | OP(PIN) | OP(UNPIN) | OP(RW),
		.least = 90,
		.rare = { { OP_CUT, 5 }, { OP_COPY, 5 }, { OP_PIN, 5 },
			  { OP_RW, 5 }, { OP_UNPIN, 5 } },
	}, {
		.name = "file",
		.about = "a file loses pages that are mapped",
		.threads = 4,
		.setup = setup_file,
		.turn = turn_file,
		.cleanup = cleanup_file,
		.ops = OP(DESTROY) | OP(MAP) | OP(UNMAP) | OP(HWPT) |
		       OP(CHECK) | OP(RW) | OP(PUNCH) | OP(WRITE),
		.least = 90,
		.rare = { { OP_MAP, 5 } },
	},
};

const unsigned int nr_race_cases = ARRAY_SIZE(race_cases);
