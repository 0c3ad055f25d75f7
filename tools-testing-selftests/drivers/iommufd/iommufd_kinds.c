// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kinds of lifetime bugs of objects, each with a race that triggers it.
 *
 * - A creation fails after other threads could use the object. If the response
 *   cannot be copied out the call is undone, and no object may depend on the
 *   one that it created.
 * - A call that fails holds a user for a moment. IOMMU_DESTROY returns EBUSY if
 *   and only if the object has a user, and an automatic HWPT is destroyed with
 *   its last device: failing calls change neither.
 * - A requeued event wakes no poller. poll() must not sleep while an event is
 *   queued.
 * - Two areas with the same IOVA and pages are confused: pages stay pinned.
 * - A page table is read while another thread frees a part of it.
 * - Pages change their owner while another thread unpins them.
 *
 * Errnos, counts and VmPin are judged, not time: a case races for its budget,
 * and on a slow machine for longer, until it has done enough rounds.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>

#include <linux/vfio.h>

#include "iommufd_gate.h"
#include "iommufd_kinds.h"

double budget = 1.5;
u64 *steady;
struct fuse_gate fuse;

/* The least number of rounds for a verdict; delayed ones are fewer */
#define ROUNDS_MIN (delay_us ? 20UL : 200UL)
/* The limit of the time for them, as a multiple of the budget */
#define BUDGETS 20

#define IOVA_BASE MOCK_APERTURE_START

static u64 race_start;

/* One more round? */
static bool racing(unsigned long rounds)
{
	u64 spent = now_ns() - race_start, ns = budget * 1e9;

	return spent < ns || (rounds < ROUNDS_MIN && spent < BUDGETS * ns);
}

static bool raced_enough(unsigned long rounds)
{
	if (rounds >= ROUNDS_MIN)
		return true;
	ksft_print_msg("only %lu rounds\n", rounds);
	return false;
}

/* ---- common parts -------------------------------------------------------- */

/*
 * Two threads on one CPU, one of them with SCHED_FIFO: when that wakes up it
 * preempts the other one anywhere, and if it waits for a lock of the other one
 * it continues as soon as that is released. So it hits windows of nanoseconds
 * in a few percent of the rounds.
 */
static bool on_cpu_0(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	return must(sched_setaffinity(0, sizeof(set), &set) ? -errno : 0,
		    "sched_setaffinity");
}

static int urgent(void)
{
	const struct sched_param param = { .sched_priority = 10 };

	return sched_setscheduler(0, SCHED_FIFO, &param) ? -errno : 0;
}

static void sleep_us(unsigned int us)
{
	struct timespec ts = { .tv_nsec = us * 1000 };

	clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

struct scene {
	int fd;
	/* @dev is attached to [1]; the case may add a domain to [0]. */
	u32 ioas[2];
	struct mock dev;
	/* Without dirty tracking; with PASIDs. */
	struct mock other;
	int access;
	unsigned char *mem;
	/* Two mappings of one page: @sealed is read-only. */
	void *open, *sealed;
};

static int make_scene(struct scene *s)
{
	int page = memfd_create("kinds", MFD_CLOEXEC), rc;

	memset(s, 0, sizeof(*s));
	if (page < 0 || ftruncate(page, PAGE))
		return -errno;
	s->open = mmap(NULL, PAGE, RW_ALL, MAP_SHARED, page, 0);
	s->sealed = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, page, 0);
	if (s->open == MAP_FAILED || s->sealed == MAP_FAILED)
		return -errno;
	close(page);
	s->mem = anon(256 * PAGE);
	memset(s->mem, 1, 256 * PAGE);
	s->fd = open_iommufd();
	if (s->fd < 0)
		return -errno;
	rc = do_ioas_alloc(s->fd, &s->ioas[0]) ?:
	     do_ioas_alloc(s->fd, &s->ioas[1]) ?:
	     do_mock_device(s->fd, s->ioas[1], &s->dev);
	if (rc)
		return rc;
	return do_mock_device_with(s->fd, s->ioas[1],
				   MOCK_FLAGS_DEVICE_NO_DIRTY |
					   MOCK_FLAGS_DEVICE_PASID,
				   &s->other) ?:
	       do_access_create(s->fd, s->ioas[1],
				MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				&s->access);
}

/* Close the files, after which nothing may stay pinned. */
static bool leave_scene(struct scene *s)
{
	long long pinned;
	unsigned int i;

	close(s->access);
	close(s->fd);
	for (i = 0; i < 100; i++) {
		pinned = vm_pin();
		if (!pinned)
			return true;
		usleep(10000);
	}
	ksft_print_msg("%lld pages in VmPin after close\n", pinned);
	return false;
}

/* A call whose response cannot be copied out */
static int sealed_call(struct scene *s, unsigned long nr, const void *cmd,
		       size_t size)
{
	memcpy(s->open, cmd, size);
	return call(s->fd, nr, s->sealed);
}

#define SEALED(s, nr, cmd) sealed_call(s, nr, &(cmd), sizeof(cmd))

/* ---- calls that fail ----------------------------------------------------- */

/* Functions that create the objects that failing calls name */
static int make_ioas(struct scene *s, u32 *id)
{
	return do_ioas_alloc(s->fd, id);
}

/* A call that names a reused id must not find the IOAS without its area. */
static pthread_rwlock_t half_made = PTHREAD_RWLOCK_INITIALIZER;

/* An IOAS with an area that is not aligned to pages, which accesses refuse */
static int make_odd_ioas(struct scene *s, u32 *id)
{
	int rc;

	pthread_rwlock_wrlock(&half_made);
	rc = do_ioas_alloc(s->fd, id) ?:
	     do_map(s->fd, *id, s->mem + PAGE / 2, PAGE / 2,
		    IOVA_BASE + PAGE / 2);
	pthread_rwlock_unlock(&half_made);
	return rc;
}

static int make_parent(struct scene *s, u32 *id)
{
	return do_hwpt_alloc(s->fd, s->dev.idev, s->ioas[0],
			     IOMMU_HWPT_ALLOC_NEST_PARENT, 0, id);
}

static int make_dirty(struct scene *s, u32 *id)
{
	return do_hwpt_alloc(s->fd, s->dev.idev, s->ioas[0],
			     IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0, id);
}

static u32 viommu_parent;

static int make_viommu(struct scene *s, u32 *id)
{
	int rc = 0;

	if (!viommu_parent) {
		rc = make_parent(s, &viommu_parent) ?:
		     do_map(s->fd, s->ioas[0], s->mem, PAGE, IOVA_BASE);
	}
	return rc ?: do_viommu_alloc(s->fd, s->dev.idev, viommu_parent, NULL,
				     id);
}

static int make_fault(struct scene *s, u32 *id)
{
	int queue, rc = do_fault_alloc(s->fd, id, &queue);

	if (!rc)
		close(queue);
	return rc;
}

/* Functions that fail */
static int fail_hwpt_flags(struct scene *s, u32 id)
{
	u32 out;

	return do_hwpt_alloc(s->fd, s->dev.idev, id, 1U << 31, 0, &out);
}

static int fail_hwpt_answer(struct scene *s, u32 id)
{
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.dev_id = s->dev.idev,
		.pt_id = id,
	};

	return SEALED(s, IOMMU_HWPT_ALLOC, cmd);
}

static int nested(struct scene *s, u32 id, u32 type, u32 fault, bool sealed)
{
	struct iommu_hwpt_selftest data = {
		.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
	};
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = fault ? IOMMU_HWPT_FAULT_ID_VALID : 0,
		.dev_id = s->dev.idev,
		.pt_id = id,
		.fault_id = fault,
		.data_type = type,
		.data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};

	return sealed ? SEALED(s, IOMMU_HWPT_ALLOC, cmd) :
			call(s->fd, IOMMU_HWPT_ALLOC, &cmd);
}

static int fail_nested_type(struct scene *s, u32 id)
{
	return nested(s, id, IOMMU_HWPT_DATA_SELFTEST + 1, 0, false);
}

static int fail_nested_answer(struct scene *s, u32 id)
{
	return nested(s, id, IOMMU_HWPT_DATA_SELFTEST, 0, true);
}

static int fail_fault_answer(struct scene *s, u32 id)
{
	return nested(s, viommu_parent, IOMMU_HWPT_DATA_SELFTEST, id, true);
}

static int fail_viommu_answer(struct scene *s, u32 id)
{
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = s->dev.idev,
		.hwpt_id = id,
	};

	return SEALED(s, IOMMU_VIOMMU_ALLOC, cmd);
}

/* The driver reads data from an invalid address. */
static int fail_viommu_data(struct scene *s, u32 id)
{
	u32 out;

	return do_viommu_alloc(s->fd, s->dev.idev, id, (void *)PAGE, &out);
}

static int fail_vdevice_answer(struct scene *s, u32 id)
{
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = id,
		.dev_id = s->dev.idev,
		.virt_id = 1,
	};

	return SEALED(s, IOMMU_VDEVICE_ALLOC, cmd);
}

static int fail_veventq_answer(struct scene *s, u32 id)
{
	struct iommu_veventq_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = id,
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 4,
	};

	return SEALED(s, IOMMU_VEVENTQ_ALLOC, cmd);
}

static int fail_queue_answer(struct scene *s, u32 id)
{
	struct iommu_hw_queue_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = id,
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.nesting_parent_iova = IOVA_BASE,
		.length = PAGE,
	};

	return SEALED(s, IOMMU_HW_QUEUE_ALLOC, cmd);
}

static int fail_queue_index(struct scene *s, u32 id)
{
	u32 out;

	return do_hw_queue_alloc(s->fd, id, IOMMU_TEST_HW_QUEUE_MAX,
				 IOVA_BASE, PAGE, &out);
}

/* The memory of the queue is not mapped. */
static int fail_queue_memory(struct scene *s, u32 id)
{
	u32 out;

	return do_hw_queue_alloc(s->fd, id, 0, IOVA_BASE + 64 * PAGE, PAGE,
				 &out);
}

static int fail_access_replace(struct scene *s, u32 id)
{
	return do_access_replace(s->fd, s->access, id);
}

/* A device without dirty tracking. */
static int fail_attach_dirty(struct scene *s, u32 id)
{
	return do_replace(s->fd, s->other.stdev, id);
}

/* A HWPT that was not created for PASIDs. */
static int fail_attach_pasid(struct scene *s, u32 id)
{
	return do_pasid_attach(s->fd, s->other.stdev, 7, id);
}

struct failing {
	int (*make)(struct scene *s, u32 *id);
	int (*fail)(struct scene *s, u32 id);
	/* The errno of the failure */
	int rc;
	/* Creates an object that depends on it */
	int (*depend)(struct scene *s, u32 id, u32 *out);
	/* Another errno, possible beside other threads that do the same */
	int also;
};

/* Functions that succeed */
static int depend_hwpt(struct scene *s, u32 id, u32 *out)
{
	return do_hwpt_alloc(s->fd, s->dev.idev, id, 0, 0, out);
}

static int depend_nested(struct scene *s, u32 id, u32 *out)
{
	return do_nested_alloc(s->fd, s->dev.idev, id, out);
}

static int depend_fault(struct scene *s, u32 id, u32 *out)
{
	return do_hwpt_alloc(s->fd, s->dev.idev, viommu_parent, 0, id, out);
}

struct failing_thread {
	struct scene *s;
	const struct failing *what;
	bool stop;
	/* The id to name, or 0; set when the thread has read 0 */
	u32 id, idle;
	/* The number of calls that failed with the expected errno */
	unsigned long failed;
	/* The first unexpected result */
	int odd;
};

static void *keep_failing(void *arg)
{
	struct failing_thread *f = arg;

	while (!__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE)) {
		u32 id = __atomic_load_n(&f->id, __ATOMIC_ACQUIRE);
		int rc;

		if (!id) {
			__atomic_store_n(&f->idle, 1, __ATOMIC_RELEASE);
			sched_yield();
			continue;
		}
		rc = f->what->fail(f->s, id);
		if (rc == f->what->rc)
			__atomic_fetch_add(&f->failed, 1, __ATOMIC_RELAXED);
		/* The object was destroyed: HWPT_ALLOC returns EINVAL. */
		else if (rc != -ENOENT && rc != -EINVAL && !f->odd)
			f->odd = rc ?: 1;
	}
	return NULL;
}

/* Wait until a call was made, so that the next step races with calls. */
static void start_failing(struct failing_thread *f, u32 id)
{
	unsigned long before = __atomic_load_n(&f->failed, __ATOMIC_RELAXED);
	u64 end = now_ns() + 1000000000;

	__atomic_store_n(&f->id, id, __ATOMIC_RELEASE);
	while (__atomic_load_n(&f->failed, __ATOMIC_RELAXED) == before &&
	       !__atomic_load_n(&f->odd, __ATOMIC_RELAXED) && now_ns() < end)
		sched_yield();
}

/* Returns when no call is in progress. */
static void end_failing(struct failing_thread *f)
{
	__atomic_store_n(&f->id, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&f->idle, 0, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&f->idle, __ATOMIC_ACQUIRE))
		sched_yield();
}

static bool failed_well(const struct failing_thread *f, unsigned long rounds)
{
	ksft_print_msg("%lu calls failed in %lu rounds\n", f->failed, rounds);
	if (f->odd)
		ksft_print_msg("one ended with %s instead\n",
			       f->odd > 0 ? "success" : strerror(-f->odd));
	return !f->odd && f->failed >= ROUNDS_MIN && raced_enough(rounds);
}

/* ---- destroying objects that failing calls name -------------------------- */

/* Objects that a thread creates and then destroys one by one */
#define VICTIMS 128
/*
 * Threads of each CPU: if one waits for a user of its victim that is not
 * running, others continue. There is also one with SCHED_FIFO.
 */
#define CPUS_MAX 4
#define CALMS_EACH 6
#define CALMS_MAX (CALMS_EACH * CPUS_MAX)
#define HUNTERS_MAX (CALMS_MAX + CPUS_MAX)
/* The least number of DESTROYs during a failing call, for a verdict */
#define MET_MIN 50
/*
 * One in this number of calls creates a dependent of the victim for a moment.
 */
#define DEPENDS_EACH 64
/* Recorded dependents of a thread: more than it creates during one DESTROY */
#define DEPENDENTS 256
/*
 * One in this number of DESTROYs waits for users of the victim, which can take
 * long in a virtual machine whose other CPU is not running.
 */
#define MEETS_EACH 64
/* The greatest distance of a failing call to the destroyer, in victims */
#define LEAD_MAX 8

enum dependent { BEING_MADE, MADE, NOT_MADE };

struct hunt {
	struct scene *s;
	const struct failing *what;
	/* The threads with SCHED_FIFO are the last ones of @all. */
	unsigned int cpus, calms, threads;
	bool stop;
	/*
	 * Each thread creates victims and destroys them; before each it makes a
	 * failing call that names a victim of another thread. Those with
	 * SCHED_FIFO create none: each preempts the threads of its CPU and
	 * destroys the objects that their calls name.
	 */
	struct hunter {
		struct hunt *h;
		pthread_t thread;
		unsigned int cpu;
		u64 rng;
		/* The victims; the destroyer of one clears it. */
		u32 ids[VICTIMS];
		/* Index of the next one to be destroyed */
		unsigned int at;
		unsigned int last_at[CALMS_MAX], lead;
		/* The id that its call names, or 0; its place in ids */
		u32 named, *slot;
		/* The numbers of dependents begun, and destroyed */
		unsigned long begun, ended;
		struct {
			u32 on, state;
		} dependents[DEPENDENTS];
		/* Calls with the expected errno; dependents created */
		unsigned long failed, depended;
		/* Destroyed victims; those destroyed during a failing call */
		unsigned long destroys, met;
		/* The value of @destroys at the last one of @met */
		unsigned long last_met;
		/* EBUSY with a dependent, and without one */
		unsigned long right, busy;
		bool forever;
		/* The first unexpected result */
		int odd;
	} all[HUNTERS_MAX];
};

/* Sums of all cases, in shared memory */
static struct {
	unsigned long destroys, busy;
	double seconds;
} *never_busy_in_all;

static void note_odd(struct hunter *me, int rc)
{
	if (!me->odd)
		me->odd = rc;
	__atomic_store_n(&me->h->stop, true, __ATOMIC_RELEASE);
}

/* Create a dependent of ID, and destroy it. */
static void depend_on(struct hunter *me, u32 id)
{
	unsigned int slot = me->begun % DEPENDENTS;
	struct scene *s = me->h->s;
	u32 dependent;
	int rc;

	me->dependents[slot].on = id;
	me->dependents[slot].state = BEING_MADE;
	__atomic_fetch_add(&me->begun, 1, __ATOMIC_SEQ_CST);
	rc = me->h->what->depend(s, id, &dependent);
	__atomic_store_n(&me->dependents[slot].state, rc ? NOT_MADE : MADE,
			 __ATOMIC_SEQ_CST);
	if (!rc) {
		me->depended++;
		rc = do_destroy(s->fd, dependent);
	}
	__atomic_fetch_add(&me->ended, 1, __ATOMIC_SEQ_CST);
	if (rc && rc != -ENOENT && rc != -EINVAL)
		note_odd(me, rc);
}

/*
 * Has T had a dependent of ID since its number BEFORE? Wait for one that is
 * being created, as its creation may fail.
 */
static bool had_dependent(struct hunter *t, u32 id, unsigned long before)
{
	unsigned long begun = __atomic_load_n(&t->begun, __ATOMIC_SEQ_CST), i;
	bool had = false;

	/* Older ones were overwritten. */
	if (begun - before > DEPENDENTS)
		return true;
	for (i = before; i < begun; i++) {
		u32 *state = &t->dependents[i % DEPENDENTS].state;

		if (t->dependents[i % DEPENDENTS].on != id)
			continue;
		while (__atomic_load_n(state, __ATOMIC_SEQ_CST) == BEING_MADE)
			sleep_us(20);
		had |= __atomic_load_n(state, __ATOMIC_SEQ_CST) == MADE;
	}
	return had;
}

static bool is_named(struct hunt *h, u32 id)
{
	unsigned int t;

	for (t = 0; t < h->calms; t++)
		if (__atomic_load_n(&h->all[t].named, __ATOMIC_SEQ_CST) == id)
			return true;
	return false;
}

static void destroy_victim(struct hunter *me, u32 id)
{
	unsigned long before[HUNTERS_MAX];
	struct hunt *h = me->h;
	bool named = is_named(h, id), had;
	u64 end = 0;
	unsigned int t;
	int rc;

	for (;;) {
		for (t = 0; t < h->threads; t++)
			before[t] = __atomic_load_n(&h->all[t].ended,
						    __ATOMIC_SEQ_CST);
		rc = do_destroy(h->s->fd, id);
		if (rc != -EBUSY)
			break;
		for (had = false, t = 0; t < h->threads; t++)
			had |= had_dependent(&h->all[t], id, before[t]);
		me->right += had;
		me->busy += !had;
		if (!end)
			end = now_ns() + 5000000000;
		me->forever |= now_ns() > end;
		if (!had)
			__atomic_store_n(&h->stop, true, __ATOMIC_RELEASE);
		if (me->forever)
			return;
		/* Let the owner of the dependent run. */
		sleep_us(20);
	}
	if (rc)
		note_odd(me, rc);
	me->destroys++;
	if (!named)
		return;
	me->met++;
	me->last_met = me->destroys;
}

/*
 * A victim that another thread is destroying or about to destroy, or NULL;
 * preferably of a thread that has made progress since the last look.
 */
static u32 *next_victim(struct hunter *me, struct hunter **of)
{
	struct hunt *h = me->h;
	unsigned int first = below(&me->rng, h->calms), i, n, at;
	u32 *slot = NULL;

	for (i = 0; i < h->calms; i++) {
		n = (first + i) % h->calms;
		at = __atomic_load_n(&h->all[n].at, __ATOMIC_ACQUIRE);
		if (&h->all[n] == me || at + me->lead >= VICTIMS)
			continue;
		*of = &h->all[n];
		slot = &h->all[n].ids[at + me->lead];
		if (at != me->last_at[n]) {
			me->last_at[n] = at;
			break;
		}
	}
	return slot;
}

static void fail_beside(struct hunter *me)
{
	struct hunter *other;
	u32 *slot = next_victim(me, &other), id;
	struct hunt *h = me->h;
	unsigned int at, i;
	int rc;

	id = slot ? __atomic_load_n(slot, __ATOMIC_ACQUIRE) : 0;
	if (!id) {
		/* They are being created, or this one is destroyed. */
		if (me->lead < LEAD_MAX)
			me->lead++;
		else
			me->lead = 0;
		return;
	}
	i = slot - other->ids;
	if (h->what->depend && !below(&me->rng, DEPENDS_EACH)) {
		depend_on(me, id);
		return;
	}
	me->slot = slot;
	__atomic_store_n(&me->named, id, __ATOMIC_SEQ_CST);
	rc = h->what->fail(h->s, id);
	__atomic_store_n(&me->named, 0, __ATOMIC_SEQ_CST);
	at = __atomic_load_n(&other->at, __ATOMIC_ACQUIRE);
	if (rc == h->what->rc) {
		me->failed++;
		/* Adjust the lead: the call was too early, or too late. */
		if (me->lead && at < i)
			me->lead--;
		else if (me->lead < LEAD_MAX && at > i + 1)
			me->lead++;
	} else if (rc == -ENOENT || rc == -EINVAL || rc == h->what->also) {
		/* Too late: HWPT_ALLOC returns EINVAL. */
		if (me->lead < LEAD_MAX)
			me->lead++;
	} else {
		note_odd(me, rc ?: 1);
	}
}

/* Destroy the victim in a slot. */
static void empty(struct hunter *me, u32 *slot)
{
	u32 id = __atomic_exchange_n(slot, 0, __ATOMIC_SEQ_CST);

	if (id)
		destroy_victim(me, id);
}

static void hunt(struct hunter *me)
{
	struct hunt *h = me->h;
	unsigned int i;
	u32 id;
	int rc = 0;

	while (!__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE) && !rc) {
		__atomic_store_n(&me->at, VICTIMS, __ATOMIC_RELEASE);
		for (i = 0; i < VICTIMS && !rc; i++) {
			rc = h->what->make(h->s, &id);
			if (rc)
				note_odd(me, rc);
			else
				__atomic_store_n(&me->ids[i], id,
						 __ATOMIC_RELEASE);
		}
		for (i = 0; i < VICTIMS; i++) {
			__atomic_store_n(&me->at, i, __ATOMIC_RELEASE);
			if (h->what->make == make_odd_ioas)
				pthread_rwlock_rdlock(&half_made);
			if (!__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE))
				fail_beside(me);
			if (h->what->make == make_odd_ioas)
				pthread_rwlock_unlock(&half_made);
			/*
			 * A victim that is in use is destroyed later, except
			 * now and then.
			 */
			id = __atomic_load_n(&me->ids[i], __ATOMIC_ACQUIRE);
			if (me->destroys - me->last_met >= MEETS_EACH ||
			    !is_named(h, id))
				empty(me, &me->ids[i]);
		}
		__atomic_store_n(&me->at, VICTIMS, __ATOMIC_RELEASE);
		for (i = 0; i < VICTIMS; i++)
			empty(me, &me->ids[i]);
	}
}

/* The preempted thread can be anywhere in its call. */
static void hunt_urgently(struct hunter *me)
{
	struct hunt *h = me->h;
	unsigned int i;

	if (!must(urgent(), "sched_setscheduler"))
		note_odd(me, -EPERM);
	while (!__atomic_load_n(&h->stop, __ATOMIC_ACQUIRE)) {
		sleep_us(20 + below(&me->rng, 150));
		for (i = me->cpu; i < h->calms; i += h->cpus)
			if (__atomic_load_n(&h->all[i].named, __ATOMIC_SEQ_CST))
				empty(me, h->all[i].slot);
	}
}

static void *start_hunter(void *arg)
{
	struct hunter *me = arg;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(me->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		note_odd(me, -errno);
	if (me < me->h->all + me->h->calms)
		hunt(me);
	else
		hunt_urgently(me);
	return NULL;
}

static bool hunted_well(struct hunt *h, double seconds)
{
	unsigned long met_min = delay_us ? 0 : MET_MIN;
	struct hunter sum = {};
	unsigned int t;

	for (t = 0; t < h->threads; t++) {
		const struct hunter *a = &h->all[t];

		sum.failed += a->failed;
		sum.depended += a->depended;
		sum.destroys += a->destroys;
		sum.met += a->met;
		sum.right += a->right;
		sum.busy += a->busy;
		sum.forever |= a->forever;
		if (a->odd && !sum.odd)
			sum.odd = a->odd;
	}
	never_busy_in_all->destroys += sum.destroys;
	never_busy_in_all->busy += sum.busy;
	never_busy_in_all->seconds += seconds;
	ksft_print_msg("%lu times DESTROY, %.0f a second\n", sum.destroys,
		       sum.destroys / seconds);
	ksft_print_msg("%lu of them during one of %lu failing calls\n", sum.met,
		       sum.failed);
	ksft_print_msg("EBUSY %lu times because of one of %lu dependents\n",
		       sum.right, sum.depended);
	if (sum.busy)
		ksft_print_msg("EBUSY %lu times without a dependent%s\n",
			       sum.busy, sum.forever ? ", permanently" : "");
	if (sum.odd)
		ksft_print_msg("a call ended with %s instead\n",
			       sum.odd > 0 ? "success" : strerror(-sum.odd));
	ksft_print_msg("in all: DESTROY %lu times, %.0f a second; EBUSY %lu times, wrongly\n",
		       never_busy_in_all->destroys,
		       never_busy_in_all->destroys / never_busy_in_all->seconds,
		       never_busy_in_all->busy);
	if (sum.met < met_min)
		ksft_print_msg("too few met\n");
	return !sum.busy && !sum.odd && sum.failed >= ROUNDS_MIN &&
	       sum.met >= met_min && sum.destroys >= times_each;
}

/*
 * Objects are destroyed while failing calls name them: DESTROY must return
 * EBUSY if and only if there is a dependent.
 */
static bool never_busy(const void *arg)
{
	unsigned int cpus = sysconf(_SC_NPROCESSORS_ONLN), t;
	static struct hunt h;
	struct scene s;
	u64 met, destroys;
	u32 id;
	bool ok;

	if (!must(make_scene(&s), "scene"))
		return false;
	h.s = &s;
	h.what = arg;
	h.cpus = cpus < CPUS_MAX ? cpus : CPUS_MAX;
	h.calms = CALMS_EACH * h.cpus;
	h.threads = h.calms + h.cpus;
	/* Create the parent before the threads start. */
	if (!must(h.what->make == make_fault ? make_parent(&s, &viommu_parent) :
		  h.what->make == make_viommu ? make_viommu(&s, &id) : 0,
		  "parent"))
		return false;
	race_start = now_ns();
	for (t = 0; t < h.threads; t++) {
		h.all[t].h = &h;
		h.all[t].rng = t;
		h.all[t].cpu = t % h.cpus;
		h.all[t].at = VICTIMS;
		pthread_create(&h.all[t].thread, NULL, start_hunter, &h.all[t]);
	}
	do {
		/* The alarm is for a hanging call, not for the whole case. */
		alarm(HANGS_SECONDS);
		usleep(20000);
		for (met = 0, destroys = 0, t = 0; t < h.threads; t++) {
			met += __atomic_load_n(&h.all[t].met, __ATOMIC_RELAXED);
			destroys += __atomic_load_n(&h.all[t].destroys,
						    __ATOMIC_RELAXED);
		}
	} while (!__atomic_load_n(&h.stop, __ATOMIC_ACQUIRE) &&
		 (racing(met < MET_MIN ? 0 : ROUNDS_MIN) ||
		  destroys < times_each));
	__atomic_store_n(&h.stop, true, __ATOMIC_RELEASE);
	for (t = 0; t < h.threads; t++)
		pthread_join(h.all[t].thread, NULL);
	ok = hunted_well(&h, (now_ns() - race_start) / 1e9);
	return leave_scene(&s) && ok;
}

/* ---- the last device of an automatic HWPT -------------------------------- */

/*
 * A device leaves its automatic HWPT while a failing call names that. The HWPT
 * must be destroyed: otherwise the IOAS can never be.
 */
static bool no_orphan(const void *arg)
{
	struct failing_thread f = { .what = arg };
	unsigned long rounds = 0, orphans = 0;
	struct scene s;
	pthread_t thread;
	u32 id, hwpt;
	bool ok;

	if (!must(make_scene(&s), "scene"))
		return false;
	f.s = &s;
	pthread_create(&thread, NULL, keep_failing, &f);
	race_start = now_ns();
	while (racing(rounds) && !orphans && !f.odd) {
		struct iommu_test_cmd cmd = {
			.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
			.id = s.dev.stdev,
		};
		int rc;

		if (!must(do_ioas_alloc(s.fd, &id), "IOAS_ALLOC"))
			return false;
		cmd.mock_domain_replace.pt_id = id;
		if (!must(do_test(s.fd, &cmd), "attach"))
			return false;
		hwpt = cmd.mock_domain_replace.pt_id;
		/* An attach finds automatic HWPTs by their IOAS. */
		start_failing(&f, f.what->make == make_ioas ? id : hwpt);
		rc = do_replace(s.fd, s.dev.stdev, s.ioas[1]);
		if (!must(rc, "attach elsewhere"))
			return false;
		rounds++;
		rc = do_destroy(s.fd, id);
		end_failing(&f);
		if (rc == -EBUSY) {
			orphans++;
			ksft_print_msg("the IOAS is busy without a device; its HWPT is %s\n",
				       do_destroy(s.fd, hwpt) == -ENOENT ?
					       "destroyed" : "still there");
		} else if (!must(rc, "DESTROY")) {
			return false;
		}
	}
	f.stop = true;
	pthread_join(thread, NULL);
	ok = orphans ? !!must(-EBUSY, "the last DESTROY") :
		       failed_well(&f, rounds);
	return leave_scene(&s) && ok;
}

/* ---- moving and unbinding in one step ------------------------------------ */

/*
 * A step that has two effects at once: if one call observes the first effect,
 * the next call must observe the second.
 */
struct step;

struct two_effects {
	int (*make)(struct step *st);
	int (*take)(struct step *st);
	/* The two calls; the first one returns @done after the step. */
	int (*see)(const struct step *st);
	int (*find)(const struct step *st);
	int done;
	/*
	 * Checks the results if it was made before the step, which returned rc
	 */
	bool (*not_yet)(const struct step *st, int rc);
	bool (*clean)(struct step *st);
	/*
	 * The calls start 20 to 20 + @spread microseconds after the step, or
	 * later if it is delayed.
	 */
	unsigned int spread;
	const char *seen, *wrong;
	/* Moves the device or access */
	int (*move)(struct scene *s, u32 to);
};

struct step {
	const struct two_effects *what;
	struct scene *s;
	struct mock dev;
	u32 old, new;
	unsigned int us;
	int seen, found;
};

static void *see_and_find(void *arg)
{
	struct step *st = arg;

	if (urgent())
		return NULL;
	sleep_us(st->us);
	st->seen = st->what->see(st);
	st->found = st->what->find(st);
	return NULL;
}

static bool at_once(const void *arg)
{
	unsigned long rounds = 0, met = 0, busy = 0;
	const struct two_effects *what = arg;
	struct scene s;
	bool ok = true;

	if (!on_cpu_0() || !must(make_scene(&s), "scene"))
		return false;
	race_start = now_ns();
	while (racing(met) && !busy && ok) {
		struct step st = { .what = what, .s = &s, .seen = -EIO };
		pthread_t thread;
		int rc;

		if (!must(what->make(&st), "make"))
			return false;
		st.us = 20 + rounds * 7 % (what->spread + 2 * delay_us);
		pthread_create(&thread, NULL, see_and_find, &st);
		/* Let the thread read its argument and sleep. */
		sched_yield();
		rc = what->take(&st);
		pthread_join(thread, NULL);
		rounds++;
		if (st.seen == what->done) {
			ok &= must(rc, "the step");
			met++;
			busy += st.found == -EBUSY;
		} else {
			ok &= what->not_yet(&st, rc);
		}
		ok &= what->clean(&st);
	}
	ksft_print_msg("%lu rounds, in %lu of them %s\n", rounds, met,
		       what->seen);
	if (busy)
		ksft_print_msg("%s\n", what->wrong);
	return leave_scene(&s) && ok && !busy && raced_enough(met);
}

/*
 * A device moves from one HWPT to another, or to an automatic one of another
 * IOAS, or an access from one IOAS to another. If DESTROY of the new one
 * returns EBUSY the move is done, so the old one has no user and can be
 * destroyed.
 */
static int make_hwpts(struct step *st)
{
	struct scene *s = st->s;

	return do_hwpt_alloc(s->fd, s->dev.idev, s->ioas[1], 0, 0, &st->old) ?:
	       do_hwpt_alloc(s->fd, s->dev.idev, s->ioas[1], 0, 0, &st->new) ?:
	       st->what->move(s, st->old);
}

static int make_hwpt_and_ioas(struct step *st)
{
	struct scene *s = st->s;

	return do_hwpt_alloc(s->fd, s->dev.idev, s->ioas[1], 0, 0, &st->old) ?:
	       do_ioas_alloc(s->fd, &st->new) ?:
	       st->what->move(s, st->old);
}

static int make_ioases(struct step *st)
{
	return do_ioas_alloc(st->s->fd, &st->old) ?:
	       do_ioas_alloc(st->s->fd, &st->new) ?:
	       st->what->move(st->s, st->old);
}

static int move_device(struct scene *s, u32 pt)
{
	return do_replace(s->fd, s->dev.stdev, pt);
}

static int move_access(struct scene *s, u32 ioas)
{
	return do_access_replace(s->fd, s->access, ioas);
}

static int move(struct step *st)
{
	return st->what->move(st->s, st->new);
}

static int destroy_new(const struct step *st)
{
	return do_destroy(st->s->fd, st->new);
}

static int destroy_old(const struct step *st)
{
	return do_destroy(st->s->fd, st->old);
}

static bool not_moved(const struct step *st, int rc)
{
	return must(st->seen, "DESTROY of the new one") &&
	       must(rc == -ENOENT ? 0 : rc ?: -EIO, "no move") &&
	       must(st->found == -EBUSY ? 0 : st->found ?: -EIO,
		    "no DESTROY of the old one");
}

static bool move_elsewhere(struct step *st)
{
	bool ok = must(st->what->move(st->s, st->s->ioas[1]), "move elsewhere");

	if (st->found)
		ok &= must(destroy_old(st), "DESTROY of the old one");
	if (st->seen)
		ok &= must(destroy_new(st), "DESTROY of the new one");
	return ok;
}

/*
 * A device is unbound, which destroys its vDEVICE. When lookups do not find the
 * device any more, the vIOMMU must not be busy because of the vDEVICE.
 */
static int make_vdevice(struct step *st)
{
	u32 vdevice;

	return do_mock_device(st->s->fd, st->s->ioas[1], &st->dev) ?:
	       make_viommu(st->s, &st->old) ?:
	       do_vdevice_alloc(st->s->fd, st->old, st->dev.idev, 1, &vdevice);
}

static int unbind(struct step *st)
{
	return do_destroy(st->s->fd, st->dev.stdev);
}

static int look_at_device(const struct step *st)
{
	struct iommu_hw_info cmd = {
		.size = sizeof(cmd),
		.dev_id = st->dev.idev,
	};

	return call(st->s->fd, IOMMU_GET_HW_INFO, &cmd);
}

static bool not_unbound(const struct step *st, int rc)
{
	return must(st->seen, "GET_HW_INFO") && must(rc, "unbind");
}

static bool clean_viommu(struct step *st)
{
	return !st->found || must(destroy_old(st), "DESTROY");
}

/* ---- failed creation of a HW queue --------------------------------------- */

/*
 * The driver lists a queue when it initialises it, and makes the next one
 * depend on it. If the response cannot be copied out the creation is undone,
 * and no queue may depend on it.
 */
static bool queue_undone(const void *arg)
{
	struct failing what = { NULL, fail_queue_answer, -EFAULT };
	struct failing_thread f = { .what = &what };
	unsigned long rounds = 0, came = 0;
	struct scene s;
	pthread_t thread;
	u32 viommu, id = 0;
	bool ok;
	int rc;

	if (!must(make_scene(&s), "scene") ||
	    !must(make_viommu(&s, &viommu), "vIOMMU") ||
	    !must(do_map(s.fd, s.ioas[0], s.mem + PAGE, 255 * PAGE,
			 IOVA_BASE + PAGE), "MAP"))
		return false;
	f.s = &s;
	pthread_create(&thread, NULL, keep_failing, &f);
	start_failing(&f, viommu);
	race_start = now_ns();
	while (racing(rounds < ROUNDS_MIN ? rounds :
		      __atomic_load_n(&f.failed, __ATOMIC_RELAXED)) &&
	       !came && !f.odd) {
		rc = do_hw_queue_alloc(s.fd, viommu, 1, IOVA_BASE, PAGE, &id);
		/* There is no previous queue, or it is not published. */
		if (!rc)
			came++;
		else if (rc != -EIO && rc != -ENOENT)
			return must(rc, "HW_QUEUE_ALLOC of the next");
		rounds++;
	}
	f.stop = true;
	pthread_join(thread, NULL);
	ok = failed_well(&f, rounds);
	if (came) {
		ok = false;
		ksft_print_msg("a queue depends on one whose creation failed\n");
		must(do_destroy(s.fd, id), "DESTROY of the queue");
	}
	ok &= must(do_destroy(s.fd, viommu), "DESTROY of the vIOMMU") &
	      must(do_destroy(s.fd, viommu_parent), "DESTROY of the HWPT") &
	      must(do_unmap(s.fd, s.ioas[0], 0, UINT64_MAX), "UNMAP") &
	      must(do_destroy(s.fd, s.ioas[0]), "DESTROY of the IOAS");
	return leave_scene(&s) && ok && !came;
}

/* ---- poll ---------------------------------------------------------------- */

struct reading {
	int queue;
	bool stop;
	void *buffer;
	size_t size;
	unsigned long reads;
};

/* Failing reads: the buffer is too short or read-only. */
static void *keep_reading(void *arg)
{
	struct reading *r = arg;

	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		if (read(r->queue, r->buffer, r->size) > 0)
			break;
		r->reads++;
	}
	return NULL;
}

struct polling {
	bool vevent;
	/* The failing reads of the other thread */
	size_t size;
	bool sealed;
};

#define POLL_MS 2000

/*
 * Trigger, await and read one event. @missed: poll() slept while it was queued.
 */
static bool one_event(struct scene *s, int queue, bool vevent, bool *missed)
{
	struct pollfd ready = { .fd = queue, .events = POLLIN };
	struct iommu_hwpt_page_response answer = {
		.code = IOMMUFD_PAGE_RESP_SUCCESS,
	};
	union {
		struct iommu_hwpt_pgfault fault;
		struct {
			struct iommufd_vevent_header head;
			struct iommu_viommu_event_selftest event;
		} vevent;
	} got;
	size_t size = vevent ? sizeof(got.vevent) : sizeof(got.fault);
	u64 start, end;

	if (!must(vevent ? do_trigger_vevent(s->fd, s->dev.idev) :
			   do_trigger_iopf(s->fd, s->dev.idev, 2), "trigger"))
		return false;
	/* Mostly the event is queued by then, and the other thread reads. */
	sleep_us(100 + rand() % 200);
	start = steady_ns();
	/* On timeout poll() checks the queue again. */
	poll(&ready, 1, POLL_MS);
	*missed = steady_ns() - start > POLL_MS / 2 * 1000000ULL;
	/* The other thread may have dequeued it for a moment. */
	end = now_ns() + 10000000000;
	while (read(queue, &got, size) != size) {
		if (now_ns() > end) {
			ksft_print_msg("the event is lost\n");
			return false;
		}
		sleep_us(20);
	}
	if (vevent)
		return true;
	answer.cookie = got.fault.cookie;
	return write(queue, &answer, sizeof(answer)) == sizeof(answer);
}

static bool poll_wakes(const void *arg)
{
	const struct polling *what = arg;
	unsigned long rounds = 0;
	struct reading r = {};
	pthread_t thread;
	u32 parent, viommu, nested, id;
	struct scene s;
	bool ok = true, missed = false;
	int queue, rc;

	if (!must(start_steady(), "clock") || !must(make_scene(&s), "scene"))
		return false;
	rc = make_parent(&s, &parent);
	if (what->vevent)
		rc = rc ?: do_viommu_alloc(s.fd, s.dev.idev, parent, NULL,
					   &viommu) ?:
		     do_vdevice_alloc(s.fd, viommu, s.dev.idev, 5, &id) ?:
		     do_nested_alloc(s.fd, s.dev.idev, viommu, &nested) ?:
		     do_veventq_alloc(s.fd, viommu, &id, &queue);
	else
		rc = rc ?: do_fault_alloc(s.fd, &id, &queue) ?:
		     do_hwpt_alloc(s.fd, s.dev.idev, parent, 0, id, &nested);
	if (!must(rc ?: do_replace(s.fd, s.dev.stdev, nested), "queue"))
		return false;
	fcntl(queue, F_SETFL, O_RDWR | O_NONBLOCK);
	r.queue = queue;
	r.buffer = what->sealed ? s.sealed : s.open;
	r.size = what->size;
	if (!on_cpu_0())
		return false;
	pthread_create(&thread, NULL, keep_reading, &r);
	if (!must(urgent(), "sched_setscheduler"))
		return false;
	race_start = now_ns();
	while (ok && !missed && racing(rounds)) {
		ok = one_event(&s, queue, what->vevent, &missed);
		rounds++;
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	ksft_print_msg("%lu events, %lu failing reads\n", rounds,
		       r.reads);
	if (missed)
		ksft_print_msg("poll() slept while an event was queued\n");
	else
		ok &= r.reads >= ROUNDS_MIN && raced_enough(rounds);
	close(queue);
	return leave_scene(&s) && ok && !missed;
}

/* ---- areas with the same IOVA and pages ---------------------------------- */

#define HUGE_PAGE (2UL << 20)
#define HEAD 4096UL
#define TAIL 128UL
#define TAIL_IOVA (IOVA_BASE + HEAD * PAGE)

struct alike {
	int fd;
	u32 from, to;
	pthread_barrier_t turn;
	unsigned int delay_us;
	bool stop;
	/* The number of times that both areas existed */
	unsigned long came;
	int odd;
};

/* Map the same memory at the same IOVA while the old area is being unmapped. */
static void *map_alike(void *arg)
{
	struct alike *a = arg;
	int rc;

	a->odd = urgent();

	for (;;) {
		pthread_barrier_wait(&a->turn);
		if (a->stop)
			return NULL;
		sleep_us(a->delay_us);
		rc = do_copy(a->fd, a->to, TAIL_IOVA, a->from, TAIL_IOVA,
			     TAIL * PAGE);
		if (!rc) {
			a->came++;
			rc = do_unmap(a->fd, a->to, TAIL_IOVA, TAIL * PAGE);
			/*
			 * The UNMAP of the other thread may have removed both.
			 */
			if (rc == -ENOENT)
				rc = 0;
		}
		if (rc && rc != -EEXIST)
			a->odd = rc;
		pthread_barrier_wait(&a->turn);
	}
}

/*
 * While an area is being unmapped, another one maps the same memory at its IOVA
 * and is unmapped. Each must unpin exactly its own pins.
 */
static bool look_alike(const void *arg)
{
	struct vfio_iommu_type1_dma_unmap cut = {
		.argsz = sizeof(cut),
		.iova = IOVA_BASE,
		.size = HEAD * PAGE,
	};
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	struct alike a = {};
	unsigned long rounds = 0;
	unsigned char *mem, *at;
	long long pinned = 0;
	struct mock mock;
	pthread_t thread;
	size_t i;
	int rc;

	a.fd = open_iommufd();
	if (a.fd < 0 || !must(do_ioas_alloc(a.fd, &a.to), "IOAS_ALLOC") ||
	    !must(do_ioas_alloc(a.fd, &a.from), "IOAS_ALLOC"))
		return false;
	/*
	 * A type1 container splits areas: the rest of one becomes an area of
	 * its own.
	 */
	compat.ioas_id = a.to;
	if (!must(call(a.fd, IOMMU_VFIO_IOAS, &compat), "VFIO_IOAS"))
		return false;
	rc = ioctl(a.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) ? -errno : 0;
	if (!must(rc, "VFIO_SET_IOMMU") ||
	    !must(do_mock_device(a.fd, a.to, &mock), "device"))
		return false;
	/* Huge pages first; then small ones, touched from the end. */
	mem = anon(HEAD * PAGE + 3 * HUGE_PAGE);
	at = mem + HUGE_PAGE - (uintptr_t)mem % HUGE_PAGE;
	madvise(at, HEAD * PAGE, MADV_HUGEPAGE);
	madvise(at + HEAD * PAGE, HUGE_PAGE, MADV_NOHUGEPAGE);
	for (i = 0; i < HEAD; i++)
		at[i * PAGE] = 1;
	for (i = TAIL; i--;)
		at[(HEAD + i) * PAGE] = 1;
	if (!must(do_map(a.fd, a.from, at, (HEAD + TAIL) * PAGE, IOVA_BASE),
		  "MAP"))
		return false;

	if (!on_cpu_0())
		return false;
	pthread_barrier_init(&a.turn, NULL, 2);
	pthread_create(&thread, NULL, map_alike, &a);
	race_start = now_ns();
	while (racing(rounds) && !pinned && !a.odd) {
		if (!must(do_copy(a.fd, a.to, IOVA_BASE, a.from, IOVA_BASE,
				  (HEAD + TAIL) * PAGE), "COPY"))
			return false;
		if (ioctl(a.fd, VFIO_IOMMU_UNMAP_DMA, &cut))
			return must(-errno, "cut");
		cut.size = HEAD * PAGE;
		a.delay_us = 10 + rounds % 250;
		pthread_barrier_wait(&a.turn);
		rc = do_unmap(a.fd, a.to, TAIL_IOVA, TAIL * PAGE);
		pthread_barrier_wait(&a.turn);
		if (rc && rc != -ENOENT)
			return must(rc, "UNMAP");
		do_unmap(a.fd, a.to, 0, UINT64_MAX);
		pinned = vm_pin();
		rounds++;
	}
	a.stop = true;
	pthread_barrier_wait(&a.turn);
	pthread_join(thread, NULL);
	ksft_print_msg("%lu rounds, in %lu of them both areas existed\n", rounds,
		       a.came);
	if (pinned)
		ksft_print_msg("%lld pages in VmPin with nothing mapped\n", pinned);
	close(a.fd);
	return must(a.odd, "other thread") && !pinned && a.came &&
	       raced_enough(rounds) && !vm_pin();
}

/* ---- revoking a dma-buf while dirty bits are read ------------------------ */

#define DMABUF_SIZE (512 * PAGE)
#define DIRTY_PAGES (DMABUF_SIZE / PAGE + 1)
/* A present and dirty entry of the lowest level in the AMDv1 format */
#define DIRTY_ENTRY 0x6000000000001041ULL
#define PIPE_SIZE (256 * PAGE)

struct dirty_call {
	int fd;
	struct iommu_hwpt_get_dirty_bitmap cmd;
	bool ended;
	int rc;
};

static void *get_dirty(void *arg)
{
	struct dirty_call *c = arg;

	c->rc = call(c->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &c->cmd);
	__atomic_store_n(&c->ended, true, __ATOMIC_RELEASE);
	return NULL;
}

static int make_page_dirty(int fd, u32 hwpt, u64 iova)
{
	u64 bits = 1;
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DIRTY,
		.id = hwpt,
		.dirty = {
			.iova = iova,
			.length = PAGE,
			.page_size = PAGE,
			.uptr = (uintptr_t)&bits,
		},
	};

	return do_test(fd, &cmd);
}

/* Only the page of RAM, which is the last one, may be in the bitmap. */
static bool only_ram_is_dirty(const u64 *bits)
{
	unsigned int i, wrong = 0;

	for (i = 0; i < DIRTY_PAGES - 1; i++)
		wrong += bits[i / 64] >> i % 64 & 1;
	if (wrong)
		ksft_print_msg("%u pages of the dma-buf are dirty\n", wrong);
	if (bits[i / 64] >> i % 64 & 1)
		return !wrong;
	ksft_print_msg("RAM behind the dma-buf is clean\n");
	return false;
}

/*
 * GET_DIRTY_BITMAP pins the bitmap at the first dirty page, during its walk of
 * the page table, and is stopped there. A revocation, which must not wait for
 * it, unmaps the dma-buf and frees its page tables. Then a pipe on the same CPU
 * allocates their memory.
 */
static bool dirty_revoked(const void *arg)
{
	static u64 out[PIPE_SIZE / 8], in[PIPE_SIZE / 8];
	struct iommu_option small = {
		.size = sizeof(small),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = IOMMU_OPTION_OP_SET,
	};
	struct iommu_hwpt_set_dirty_tracking track = {
		.size = sizeof(track),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
	};
	struct dirty_call c = {
		.cmd = {
			.size = sizeof(c.cmd),
			.iova = IOVA_BASE,
			.length = DIRTY_PAGES * PAGE,
			.page_size = PAGE,
		},
	};
	u64 ram_iova = IOVA_BASE + DMABUF_SIZE, start;
	unsigned int i, changed = 0;
	int dmabuf, pipe_fds[2], rc;
	struct gate gate;
	struct scene s;
	pthread_t thread;
	bool ok;

	if (!must(gate_make_uffd(&gate), "gate") ||
	    !must(make_scene(&s), "scene") || !on_cpu_0() ||
	    !must(pipe(pipe_fds) ? -errno : 0, "pipe"))
		return false;
	if (fcntl(pipe_fds[1], F_SETPIPE_SZ, PIPE_SIZE) < PIPE_SIZE)
		return must(-errno, "size of the pipe");
	dmabuf = do_dmabuf_get(s.fd, DMABUF_SIZE);
	small.object_id = s.ioas[0];
	rc = call(s.fd, IOMMU_OPTION, &small) ?:
	     do_hwpt_alloc(s.fd, s.dev.idev, s.ioas[0],
			   IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0, &track.hwpt_id) ?:
	     do_map_file(s.fd, s.ioas[0], dmabuf, 0, DMABUF_SIZE, IOVA_BASE) ?:
	     do_map(s.fd, s.ioas[0], s.mem, PAGE, ram_iova) ?:
	     call(s.fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &track) ?:
	     make_page_dirty(s.fd, track.hwpt_id, IOVA_BASE) ?:
	     make_page_dirty(s.fd, track.hwpt_id, ram_iova);
	if (!must(rc, "dirty pages"))
		return false;
	for (i = 0; i < ARRAY_SIZE(out); i++)
		out[i] = DIRTY_ENTRY;

	c.fd = s.fd;
	c.cmd.hwpt_id = track.hwpt_id;
	c.cmd.data = (uintptr_t)gate_page(&gate);
	if (!must(gate_close(&gate, false), "gate"))
		return false;
	pthread_create(&thread, NULL, get_dirty, &c);
	start = now_ns();
	while (!gate_reached(&gate)) {
		if (__atomic_load_n(&c.ended, __ATOMIC_ACQUIRE) ||
		    now_ns() - start > 20000000000ULL) {
			ksft_print_msg("the call was not stopped\n");
			return false;
		}
		usleep(100);
	}
	rc = do_dmabuf_revoke(s.fd, dmabuf, true);
	if (write(pipe_fds[1], out, PIPE_SIZE) != PIPE_SIZE)
		return must(-EIO, "write to the pipe");
	if (!must(gate_open(&gate), "gate"))
		return false;
	pthread_join(thread, NULL);
	if (!must(rc, "revoke") || !must(c.rc, "GET_DIRTY_BITMAP"))
		return false;
	if (read(pipe_fds[0], in, PIPE_SIZE) != PIPE_SIZE)
		return must(-EIO, "read from the pipe");
	for (i = 0; i < ARRAY_SIZE(in); i++)
		changed += in[i] != DIRTY_ENTRY;
	if (changed)
		ksft_print_msg("%u words of other memory were changed\n",
			       changed);
	ok = only_ram_is_dirty(gate_page(&gate)) && !changed;

	/* The dma-buf is unmapped now: the result must be the same. */
	memset(gate_page(&gate), 0, PAGE);
	rc = make_page_dirty(s.fd, track.hwpt_id, ram_iova) ?:
	     call(s.fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &c.cmd);
	ok &= must(rc, "GET_DIRTY_BITMAP beside a revoked dma-buf") &&
	      only_ram_is_dirty(gate_page(&gate));
	close(dmabuf);
	return leave_scene(&s) && ok;
}

/* ---- changing the owner while the creation of a HWPT fails --------------- */

/* Pages that stay pinned, of ALL_PAGES; pages that are slow to pin */
#define STAY_PAGES 256
#define ALL_PAGES 512
#define LONG_PAGES 16384
#define LONG_IOVA (IOVA_BASE + ALL_PAGES * PAGE)
/* Areas that CHANGE_PROCESS visits between counting and the change */
#define OTHER_AREAS 8000
#define OTHER_IOVA (LONG_IOVA + LONG_PAGES * PAGE)
#define OWNER_ROUNDS 8

/* State of the child that becomes the owner, in shared memory */
struct owner {
	unsigned int asked, done;
	u64 start, end;
	int rc;
};

static void be_owner(int fd, struct owner *o)
{
	unsigned int round = 0;

	for (;;) {
		while (__atomic_load_n(&o->asked, __ATOMIC_ACQUIRE) == round)
			usleep(50);
		round++;
		o->start = now_ns();
		o->rc = do_change_process(fd);
		o->end = now_ns();
		__atomic_store_n(&o->done, round, __ATOMIC_RELEASE);
	}
}

static long long pages_of(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return read_counter(path, "VmPin") / (PAGE / 1024);
}

/* HWPT_ALLOC on an IOAS, and DESTROY of the IOAS */
struct lost_hwpt {
	int fd;
	u32 idev, ioas, hwpt;
	u64 end;
	int alloc_rc, destroy_rc;
};

static void *alloc_hwpt(void *arg)
{
	struct lost_hwpt *l = arg;

	l->alloc_rc = do_hwpt_alloc(l->fd, l->idev, l->ioas, 0, 0, &l->hwpt);
	l->end = now_ns();
	return NULL;
}

static void *destroy_ioas(void *arg)
{
	struct lost_hwpt *l = arg;

	l->destroy_rc = do_destroy(l->fd, l->ioas);
	return NULL;
}

/*
 * HWPT_ALLOC fails, as its IOAS is destroyed meanwhile, and unpins its pages.
 * Before that CHANGE_PROCESS counts these pages, which belong to another IOAS,
 * too; it then waits for the slow pages and visits many areas before it changes
 * the owner. Each process must be charged exactly for the pages that are pinned
 * for it.
 */
static bool owner_changes(const void *arg)
{
	struct owner *o = mmap(NULL, sizeof(*o), RW_ALL,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int all = memfd_create("all", MFD_CLOEXEC);
	int slow = memfd_create("slow", MFD_CLOEXEC);
	unsigned int i, round, met = 0;
	long long own, child;
	struct scene s;
	u32 source, id;
	bool ok = true;
	pid_t pid;
	int rc;

	if (o == MAP_FAILED || !must(make_scene(&s), "scene") ||
	    ftruncate(all, ALL_PAGES * PAGE) ||
	    ftruncate(slow, LONG_PAGES * PAGE))
		return false;
	source = s.ioas[0];
	/* The device is attached to the other IOAS, whose pages are pinned. */
	rc = do_map_file(s.fd, source, all, 0, ALL_PAGES * PAGE, IOVA_BASE) ?:
	     do_map_file(s.fd, source, slow, 0, LONG_PAGES * PAGE, LONG_IOVA) ?:
	     do_copy(s.fd, s.ioas[1], IOVA_BASE, source, IOVA_BASE,
		     STAY_PAGES * PAGE);
	for (i = 0; i < OTHER_AREAS && !rc; i++)
		rc = do_copy(s.fd, source, OTHER_IOVA + i * PAGE, source,
			     LONG_IOVA, PAGE);
	if (!must(rc, "areas"))
		return false;
	fflush(stdout);
	pid = fork();
	if (!pid)
		be_owner(s.fd, o);

	for (round = 1; round <= OWNER_ROUNDS && ok; round++) {
		struct lost_hwpt l = { .fd = s.fd, .idev = s.dev.idev };
		pthread_t maker, destroyer;
		u64 start = now_ns();

		if (fallocate(slow, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      0, LONG_PAGES * PAGE))
			return must(-errno, "fallocate");
		rc = do_ioas_alloc(s.fd, &id) ?:
		     do_copy(s.fd, id, IOVA_BASE, source, IOVA_BASE,
			     (ALL_PAGES + LONG_PAGES) * PAGE);
		if (!must(rc, "IOAS"))
			return false;
		l.ioas = id;
		pthread_create(&maker, NULL, alloc_hwpt, &l);
		/* Wait until it pins the slow pages. */
		while (pages_of(getpid()) == STAY_PAGES &&
		       now_ns() - start < 10000000000ULL)
			;
		pthread_create(&destroyer, NULL, destroy_ioas, &l);
		usleep(1000);
		__atomic_store_n(&o->asked, round, __ATOMIC_RELEASE);
		pthread_join(maker, NULL);
		pthread_join(destroyer, NULL);
		while (__atomic_load_n(&o->done, __ATOMIC_ACQUIRE) != round)
			usleep(50);
		if (!must(o->rc, "CHANGE_PROCESS"))
			return false;
		met += o->start < l.end;
		/*
		 * In C HWPT_ALLOC succeeds, and DESTROY of the IOAS returns
		 * EBUSY.
		 */
		if (!l.alloc_rc)
			ok &= must(do_destroy(s.fd, l.hwpt), "DESTROY of the HWPT");
		if (l.destroy_rc == -EBUSY && !l.alloc_rc)
			l.destroy_rc = do_destroy(s.fd, id);
		ok &= must(l.destroy_rc, "DESTROY");
		for (i = 0; i < 2; i++) {
			own = pages_of(getpid());
			child = pages_of(pid);
			if (own != (i ? STAY_PAGES : 0) ||
			    child != (i ? 0 : STAY_PAGES)) {
				ksft_print_msg("%s: %lld of %u, and %lld of 0\n",
					       i ? "back" : "changed",
					       i ? own : child, STAY_PAGES,
					       i ? child : own);
				ok = false;
			}
			if (!i && !must(do_change_process(s.fd),
					"CHANGE_PROCESS back"))
				return false;
		}
	}
	ksft_print_msg("%u rounds, in %u of them the calls overlapped\n", round - 1,
		       met);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return leave_scene(&s) && ok && met;
}

/* ---- the list ------------------------------------------------------------ */

#define C_BUSY "takes a user before it fails"
#define C_MOVED "puts the old user after others can find the new one"
#define C_ORPHAN "lets an automatic HWPT outlive its last device"

#define BUSY(what, delay_, make, how, errno_, depend, ...) \
	{ "never_busy." what, never_busy, \
	  &(const struct failing){ make, how, -(errno_), depend, \
				   ##__VA_ARGS__ }, C_BUSY, .counted = true, \
	  .delay = delay_ }
#define ORPHAN(what, make, how, errno_) \
	{ "no_orphan." what, no_orphan, \
	  &(const struct failing){ make, how, -(errno_) }, C_ORPHAN, \
	  .delay = "replaced" }
#define MOVED(what_, make_, move_, delay_) \
	{ "moved_at_once." what_, at_once, \
	  &(const struct two_effects){ \
		.make = make_, .take = move, .move = move_, \
		.see = destroy_new, .find = destroy_old, .done = -EBUSY, \
		.not_yet = not_moved, .clean = move_elsewhere, \
		.spread = 100, .seen = "the move was observed", \
		.wrong = "the old one is busy without an attachment" }, C_MOVED, \
	  .delay = delay_ }
#define POLL(what, delay_, c_, ...) \
	{ "poll_wakes." what, poll_wakes, \
	  &(const struct polling){ __VA_ARGS__ }, c_, .delay = delay_ }

static const struct kind kinds[] = {
	{ "queue_undone", queue_undone, NULL,
	  "lets a driver depend on what is not published" },
	BUSY("hwpt_flags", NULL, make_ioas, fail_hwpt_flags,
	     EOPNOTSUPP, depend_hwpt),
	BUSY("hwpt_answer", "complete", make_ioas, fail_hwpt_answer,
	     EFAULT, depend_hwpt),
	BUSY("nested_type", NULL, make_parent, fail_nested_type,
	     EOPNOTSUPP, depend_nested),
	BUSY("nested_answer", "complete", make_parent, fail_nested_answer,
	     EFAULT, depend_nested),
	BUSY("nested_viommu", "complete", make_viommu, fail_nested_answer,
	     EFAULT, depend_nested),
	BUSY("fault_answer", "complete", make_fault, fail_fault_answer,
	     EFAULT, depend_fault),
	BUSY("viommu_answer", "complete", make_parent, fail_viommu_answer,
	     EFAULT, depend_nested),
	BUSY("viommu_data", NULL, make_parent, fail_viommu_data,
	     EFAULT, depend_nested),
	BUSY("vdevice_answer", "complete", make_viommu, fail_vdevice_answer,
	     EFAULT, depend_nested, -EEXIST),
	BUSY("veventq_answer", "complete", make_viommu, fail_veventq_answer,
	     EFAULT, depend_nested, -EEXIST),
	BUSY("queue_answer", "complete", make_viommu, fail_queue_answer,
	     EFAULT, depend_nested, -EEXIST),
	BUSY("queue_index", NULL, make_viommu, fail_queue_index,
	     EINVAL, depend_nested),
	BUSY("queue_memory", NULL, make_viommu, fail_queue_memory,
	     ENOENT, depend_nested),
	BUSY("access_replace", NULL, make_odd_ioas, fail_access_replace,
	     EADDRINUSE, NULL),
	BUSY("attach_dirty", NULL, make_dirty, fail_attach_dirty,
	     EINVAL, NULL),
	BUSY("attach_pasid", NULL, make_dirty, fail_attach_pasid,
	     EINVAL, NULL),
	ORPHAN("nested_of_it", make_parent, fail_nested_type, EINVAL),
	ORPHAN("viommu_on_it", make_parent, fail_viommu_answer, EINVAL),
	ORPHAN("pasid_to_it", make_ioas, fail_attach_pasid, EINVAL),
	ORPHAN("hwpt_beside_it", make_ioas, fail_hwpt_flags, EOPNOTSUPP),
	POLL("fault", NULL, NULL, .size = 0),
	POLL("fault_unwritable", "fault_taken", NULL,
	     .size = sizeof(struct iommu_hwpt_pgfault), .sealed = true),
	POLL("vevent", NULL, NULL, .vevent = true,
	     .size = sizeof(struct iommufd_vevent_header)),
	POLL("vevent_unwritable", "event_taken", NULL, .vevent = true,
	     .size = sizeof(struct iommufd_vevent_header) +
		     sizeof(struct iommu_viommu_event_selftest),
	     .sealed = true),
	MOVED("hwpt", make_hwpts, move_device, "replaced"),
	MOVED("ioas", make_hwpt_and_ioas, move_device, "replaced"),
	MOVED("access", make_ioases, move_access, "access_moved"),
	{ "unbound_at_once", at_once, &(const struct two_effects){
		.make = make_vdevice, .take = unbind,
		.see = look_at_device, .find = destroy_old, .done = -ENOENT,
		.not_yet = not_unbound, .clean = clean_viommu,
		.spread = 300, .seen = "the device was not found",
		.wrong = "the vIOMMU is busy without a device" },
	  .delay = "pre_destroyed" },
	{ "look_alike", look_alike },
	{ "dirty_revoked", dirty_revoked },
	{ "owner_changes", owner_changes },
};

int main(int argc, char **argv)
{
	never_busy_in_all = shared_memory(sizeof(*never_busy_in_all));
	return run_kinds(kinds, ARRAY_SIZE(kinds), argc, argv);
}
