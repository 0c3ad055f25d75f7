// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads that do anything to a little, and a model that knows what must hold
 * when they rest.
 *
 * An episode has a seed, from which each thread makes its operations: which
 * one, on which of a few places, whether its answer can be written. After each
 * round all of them rest, and what is there is looked at:
 *
 * - what UNMAP has reported is what was mapped, less what still is: no area is
 *   lost or unmapped twice;
 * - a page that a kernel access reads at an IOVA is one that was mapped there,
 *   and each domain of the IOAS has the very same page at it; where nothing can
 *   be read, no domain has anything;
 * - at the end, each object can be destroyed in the order of dependency, and none
 *   says EBUSY; then nothing is pinned (VmPin, VmLck, and the references of each
 *   page);
 * - no call has taken long.
 *
 * What is found is printed with its seed and with what the threads have done in
 * the last round. The same seed does the same again, though not always at the
 * same moments.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "iommufd_stress.h"
#include "kselftest.h"

u64 *steady;

#define THREADS 3
#define OPS 16
/* Operations that a thread chooses from in a round. */
#define THEME 5
#define ROUNDS 24

/* Memory: pages that know their number. */
#define PAGES 32
/* Places for areas, in each of the IOASes. */
#define PLACES 6
#define AREA_PAGES 4
#define PLACE_PAGES 16

#define CALL_LIMIT_NS 2000000000ULL
#define EPISODE_SECONDS 120

static u64 place_iova(unsigned int place)
{
	return MOCK_APERTURE_START + place * PLACE_PAGES * PAGE;
}

/* Kinds of objects, in the order in which they can be destroyed. */
enum object_kind {
	NESTED,
	VDEVICE,
	HW_QUEUE,
	VEVENTQ,
	VIOMMU,
	FAULT,
	PARENT,
	HWPT,
	/* Baits only. */
	IOASES,
	KINDS,
};

static const char * const what_names[] = {
	"nested HWPT", "vDEVICE", "HW queue", "vEVENTQ", "vIOMMU",
	"fault queue", "parent HWPT", "HWPT", "IOAS",
};

#define SLOTS 3
#define LEFT 64

#define READY 6

enum bait {
	BAIT_IOAS,
	BAIT_PARENT,
	BAIT_VIOMMU,
	/* Of a device that comes to an IOAS; it goes with that device. */
	BAIT_AUTO,
	BAITS,
};

/* What a thread did, for whoever looks for the reason. */
struct done {
	u64 when;
	const char *op;
	int a, b, rc;
};

struct thread {
	pthread_t thread;
	unsigned int number;
	u64 rng;
	/* One page twice; answers that go to the second fail. */
	void *open, *sealed;
	/* What could not be destroyed yet, as somebody depends on it. */
	u32 left[KINDS][LEFT];
	struct done done[OPS];
	unsigned int nr_done;
};

/* In memory that survives the episode. */
struct report {
	u64 seed;
	unsigned int round;
	u64 calls, good, sequence;
	/* Which places could be read, at the end of a round. */
	u64 mapped_seen;
	bool bad;
	char text[256];
	struct thread threads[THREADS];
};

static struct report *report;

/* With C, who fails has users for a moment, and so has who looks only. */
static bool on_c;

static struct {
	int fd, file;
	u32 ioas[2];
	struct mock dev[2];
	u32 objects[KINDS][SLOTS];
	/* Files of the queues, and of two accesses that pin. */
	int fault_fd[SLOTS], veventq_fd[SLOTS];
	int access[2];
	u32 pins[2][SLOTS];
	unsigned char *mem;
	/* Bytes mapped less bytes that UNMAP has reported, of each IOAS. */
	s64 balance[2];
	/*
	 * Objects that are named by calls that fail, and by no other: their
	 * maker destroys them, and is never told that somebody depends on them.
	 */
	u32 bait[BAITS];
	/*
	 * They are made while all rest: so no call that may succeed names one
	 * by the id of an object that was there before.
	 */
	u32 ready[BAITS][READY], bait_parent;
	/* An UNMAP of several areas failed: nobody knows how many it took. */
	bool unknown[2];
	/* Of pages that have been mapped to a place: which first page. */
	u64 was_mapped[2][PLACES];
	pthread_barrier_t barrier;
	bool stop;
} w;

static void bad(const char *format, ...)
{
	va_list args;

	if (__atomic_exchange_n(&report->bad, true, __ATOMIC_ACQ_REL))
		return;
	va_start(args, format);
	vsnprintf(report->text, sizeof(report->text), format, args);
	va_end(args);
}

/* ---- bookkeeping --------------------------------------------------------- */

static u32 take(u32 *slot)
{
	return __atomic_exchange_n(slot, 0, __ATOMIC_ACQ_REL);
}

static u32 look(u32 *slot)
{
	return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

/* If it is empty. */
static bool give(u32 *slot, u32 id)
{
	u32 none = 0;

	return __atomic_compare_exchange_n(slot, &none, id, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static int account(struct thread *t, const char *op, int a, int b, u64 start,
		   int rc)
{
	u64 took = steady_ns() - start;

	if (t->nr_done < OPS)
		t->done[t->nr_done++] = (struct done){
			__atomic_add_fetch(&report->sequence, 1,
					   __ATOMIC_RELAXED),
			op, a, b, rc,
		};
	__atomic_add_fetch(&report->calls, 1, __ATOMIC_RELAXED);
	if (!rc)
		__atomic_add_fetch(&report->good, 1, __ATOMIC_RELAXED);
	if (took > CALL_LIMIT_NS)
		bad("%s took %lu ms", op, took / 1000000);
	return rc;
}

#define DO(t, op, a, b, expr) \
	({ u64 start_ = steady_ns(); \
	   account(t, op, a, b, start_, expr); })

/* ---- operations ---------------------------------------------------------- */

static void op_map(struct thread *t)
{
	unsigned int i = below(&t->rng, 2), place = below(&t->rng, PLACES);
	unsigned int page = below(&t->rng, PAGES - AREA_PAGES + 1);
	bool file = below(&t->rng, 3) == 0;
	int rc;

	/* Known before it can be seen. */
	__atomic_fetch_or(&w.was_mapped[i][place], 1ULL << page,
			  __ATOMIC_RELAXED);
	if (file)
		rc = DO(t, "MAP_FILE", i, place,
			do_map_file(w.fd, w.ioas[i], w.file, page * PAGE,
				    AREA_PAGES * PAGE, place_iova(place)));
	else
		rc = DO(t, "MAP", i, place,
			do_map(w.fd, w.ioas[i], w.mem + page * PAGE,
			       AREA_PAGES * PAGE, place_iova(place)));
	if (!rc)
		__atomic_add_fetch(&w.balance[i], AREA_PAGES * PAGE,
				   __ATOMIC_RELAXED);
	else if (rc != -EEXIST)
		bad("MAP: %s", strerror(-rc));
}

static void op_copy(struct thread *t)
{
	unsigned int from = below(&t->rng, 2), to = below(&t->rng, 2);
	unsigned int place = below(&t->rng, PLACES);
	unsigned int at = below(&t->rng, PLACES);
	int rc;

	/* Whatever was or will be there in this round. */
	__atomic_fetch_or(&w.was_mapped[to][at], ~0ULL, __ATOMIC_RELAXED);
	rc = DO(t, "COPY", from * 8 + place, to * 8 + at,
		do_copy(w.fd, w.ioas[to], place_iova(at), w.ioas[from],
			place_iova(place), AREA_PAGES * PAGE));
	if (!rc)
		__atomic_add_fetch(&w.balance[to], AREA_PAGES * PAGE,
				   __ATOMIC_RELAXED);
	else if (rc != -EEXIST && rc != -ENOENT)
		bad("COPY: %s", strerror(-rc));
}

static void op_unmap(struct thread *t)
{
	unsigned int i = below(&t->rng, 2), place = below(&t->rng, PLACES);
	bool all = below(&t->rng, 6) == 0;
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = w.ioas[i],
		.iova = all ? 0 : place_iova(place),
		.length = all ? UINT64_MAX : AREA_PAGES * PAGE,
	};
	int rc = DO(t, all ? "UNMAP all" : "UNMAP", i, place,
		    call(w.fd, IOMMU_IOAS_UNMAP, &cmd));

	if (!rc) {
		__atomic_sub_fetch(&w.balance[i], cmd.length,
				   __ATOMIC_RELAXED);
		if (!all && cmd.length != AREA_PAGES * PAGE)
			bad("UNMAP of an area reports %llu bytes", cmd.length);
	} else if (rc == -EBUSY) {
		/* Being mapped, or memory of a HW queue. */
		if (all)
			w.unknown[i] = true;
	} else if (rc != -ENOENT) {
		bad("UNMAP: %s", strerror(-rc));
	}
}

static int sealed_call(struct thread *t, unsigned long nr, const void *cmd,
		       size_t size)
{
	memcpy(t->open, cmd, size);
	return call(w.fd, nr, t->sealed);
}

/*
 * Puts into *FIELD whom to depend on: ID, or BAIT, and says which. Who names a
 * bait has to fail.
 */
static bool names_bait(struct thread *t, u32 *field, u32 id, enum bait bait)
{
	u32 other = look(&w.bait[bait]);
	bool is = other && below(&t->rng, 2);

	*field = is ? other : id;
	return is;
}

/* CMD is made; where to put what it made is up to the caller: its id or 0. */
static u32 create(struct thread *t, const char *op, unsigned long nr,
		  void *cmd, size_t size, const u32 *id, bool fails)
{
	int rc;

	if (fails || below(&t->rng, 4) == 0) {
		rc = DO(t, op, -1, 0, sealed_call(t, nr, cmd, size));
		if (!rc)
			bad("%s succeeds without an answer", op);
		return 0;
	}
	rc = DO(t, op, 0, 0, call(w.fd, nr, cmd));
	return rc ? 0 : *id;
}

/* It is destroyed when all rest. */
static void leave(struct thread *t, enum object_kind what, u32 id)
{
	unsigned int i;

	for (i = 0; i < LEFT; i++)
		if (give(&t->left[what][i], id))
			return;
	bad("too many %ss that somebody depends on", what_names[what]);
}

static void keep(struct thread *t, enum object_kind what, u32 id)
{
	int rc;

	if (!id || give(&w.objects[what][below(&t->rng, SLOTS)], id))
		return;
	rc = DO(t, "DESTROY at once", what, id, do_destroy(w.fd, id));
	/* Nobody else knows it: but for HW queues, by their driver. */
	if (rc == -EBUSY && (what == HW_QUEUE || on_c))
		leave(t, what, id);
	else if (rc)
		bad("DESTROY of a new %s: %s", what_names[what], strerror(-rc));
}

static void op_hwpt(struct thread *t)
{
	static const u32 all_flags[] = {
		0, IOMMU_HWPT_ALLOC_NEST_PARENT,
		IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 1U << 31,
	};
	u32 flags = all_flags[below(&t->rng, ARRAY_SIZE(all_flags))];
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.dev_id = w.dev[below(&t->rng, 2)].idev,
		/* vIOMMUs use HW queues in the first one. */
		.pt_id = w.ioas[flags == IOMMU_HWPT_ALLOC_NEST_PARENT ? 0 :
				below(&t->rng, 2)],
	};

	bool fails = names_bait(t, &cmd.pt_id, cmd.pt_id, BAIT_IOAS);

	keep(t, flags == IOMMU_HWPT_ALLOC_NEST_PARENT ? PARENT : HWPT,
	     create(t, "HWPT_ALLOC", IOMMU_HWPT_ALLOC, &cmd, sizeof(cmd),
		    &cmd.out_hwpt_id, fails));
}

static void op_nested(struct thread *t)
{
	struct iommu_hwpt_selftest data = {
		.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
	};
	u32 fault = below(&t->rng, 2) ?
		    look(&w.objects[FAULT][below(&t->rng, SLOTS)]) : 0;
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = fault ? IOMMU_HWPT_FAULT_ID_VALID : 0,
		.fault_id = fault,
		.dev_id = w.dev[below(&t->rng, 2)].idev,
		.pt_id = look(&w.objects[below(&t->rng, 2) ? PARENT : VIOMMU]
					[below(&t->rng, SLOTS)]),
		.data_type = IOMMU_HWPT_DATA_SELFTEST + (below(&t->rng, 8) == 0),
		.data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};

	static const enum bait baits[] = {
		BAIT_PARENT, BAIT_VIOMMU, BAIT_AUTO,
	};
	bool fails = names_bait(t, &cmd.pt_id, cmd.pt_id,
				baits[below(&t->rng, ARRAY_SIZE(baits))]);

	keep(t, NESTED, create(t, "HWPT_ALLOC nested", IOMMU_HWPT_ALLOC, &cmd,
			       sizeof(cmd), &cmd.out_hwpt_id, fails));
}

static void op_viommu(struct thread *t)
{
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = w.dev[below(&t->rng, 2)].idev,
		.hwpt_id = look(&w.objects[PARENT][below(&t->rng, SLOTS)]),
	};

	bool fails = names_bait(t, &cmd.hwpt_id, cmd.hwpt_id,
				below(&t->rng, 2) ? BAIT_PARENT : BAIT_AUTO);

	keep(t, VIOMMU, create(t, "VIOMMU_ALLOC", IOMMU_VIOMMU_ALLOC, &cmd,
			       sizeof(cmd), &cmd.out_viommu_id, fails));
}

static void op_vdevice(struct thread *t)
{
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = look(&w.objects[VIOMMU][below(&t->rng, SLOTS)]),
		.dev_id = w.dev[below(&t->rng, 2)].idev,
		.virt_id = 1 + below(&t->rng, 2),
	};

	bool fails = names_bait(t, &cmd.viommu_id, cmd.viommu_id, BAIT_VIOMMU);

	keep(t, VDEVICE, create(t, "VDEVICE_ALLOC", IOMMU_VDEVICE_ALLOC, &cmd,
				sizeof(cmd), &cmd.out_vdevice_id, fails));
}

static void op_hw_queue(struct thread *t)
{
	unsigned int index = below(&t->rng, 3);
	struct iommu_hw_queue_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = look(&w.objects[VIOMMU][below(&t->rng, SLOTS)]),
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.index = index,
		.nesting_parent_iova = place_iova(below(&t->rng, 2)),
		.length = PAGE,
	};

	bool fails = names_bait(t, &cmd.viommu_id, cmd.viommu_id, BAIT_VIOMMU);

	keep(t, HW_QUEUE, create(t, "HW_QUEUE_ALLOC", IOMMU_HW_QUEUE_ALLOC,
				 &cmd, sizeof(cmd), &cmd.out_hw_queue_id,
				 fails));
}

/* Its file goes with its slot: it is closed before the id is destroyed. */
static void keep_queue(struct thread *t, enum object_kind what, int *fds,
		       u32 id, int queue)
{
	unsigned int slot = below(&t->rng, SLOTS);
	int rc;

	if (!id)
		return;
	fcntl(queue, F_SETFL, O_RDWR | O_NONBLOCK);
	if (!look(&w.objects[what][slot]) && !fds[slot]) {
		int none = 0;

		if (__atomic_compare_exchange_n(&fds[slot], &none, queue, false,
						__ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED)) {
			if (give(&w.objects[what][slot], id))
				return;
			__atomic_store_n(&fds[slot], 0, __ATOMIC_RELEASE);
		}
	}
	close(queue);
	rc = DO(t, "DESTROY of a queue at once", what, id,
		do_destroy(w.fd, id));
	if (rc == -EBUSY && on_c)
		leave(t, what, id);
	else if (rc)
		bad("DESTROY of a new %s: %s", what_names[what], strerror(-rc));
}

static void op_fault(struct thread *t)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	u32 id = create(t, "FAULT_QUEUE_ALLOC", IOMMU_FAULT_QUEUE_ALLOC, &cmd,
			sizeof(cmd), &cmd.out_fault_id, false);

	keep_queue(t, FAULT, w.fault_fd, id, cmd.out_fault_fd);
}

static void op_veventq(struct thread *t)
{
	struct iommu_veventq_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = look(&w.objects[VIOMMU][below(&t->rng, SLOTS)]),
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 3,
	};
	bool fails = names_bait(t, &cmd.viommu_id, cmd.viommu_id, BAIT_VIOMMU);
	u32 id = create(t, "VEVENTQ_ALLOC", IOMMU_VEVENTQ_ALLOC, &cmd,
			sizeof(cmd), &cmd.out_veventq_id, fails);

	keep_queue(t, VEVENTQ, w.veventq_fd, id, cmd.out_veventq_fd);
}

static void close_queue(int *fds, unsigned int slot)
{
	int queue = __atomic_exchange_n(&fds[slot], 0, __ATOMIC_ACQ_REL);

	if (queue)
		close(queue);
}

static void op_destroy(struct thread *t)
{
	enum object_kind what = below(&t->rng, KINDS);
	unsigned int slot = below(&t->rng, SLOTS);
	u32 *from = &w.objects[what][slot], id = take(from);
	int rc;

	if (!id)
		return;
	if (what == FAULT)
		close_queue(w.fault_fd, slot);
	if (what == VEVENTQ)
		close_queue(w.veventq_fd, slot);
	rc = DO(t, "DESTROY", what, slot, do_destroy(w.fd, id));
	if (rc == -EBUSY)
		leave(t, what, id);
	else if (rc)
		bad("DESTROY of a %s: %s", what_names[what], strerror(-rc));
}

/* Others come to name one that is ready, and its end is near. */
static void op_bait(struct thread *t)
{
	static const enum object_kind baits[] = { IOASES, PARENT, VIOMMU };
	enum bait bait = below(&t->rng, BAIT_AUTO);
	unsigned int i, naps = below(&t->rng, 64);
	u32 id = take(&w.ready[bait][below(&t->rng, READY)]);
	int rc;

	if (!id)
		return;
	if (give(&w.bait[bait], id)) {
		for (i = 0; i < naps; i++)
			sched_yield();
		take(&w.bait[bait]);
	}
	rc = DO(t, "DESTROY of a bait", bait, id, do_destroy(w.fd, id));
	if (rc == -EBUSY && on_c)
		leave(t, baits[bait], id);
	else if (rc)
		bad("DESTROY of what only failing calls name: %s",
		    strerror(-rc));
}

static void op_attach(struct thread *t)
{
	unsigned int dev = below(&t->rng, 2), kind = below(&t->rng, 5);
	u32 pt = kind < 2 ? w.ioas[kind] :
		 look(&w.objects[kind == 2 ? NESTED : kind == 3 ? PARENT : HWPT]
				[below(&t->rng, SLOTS)]);

	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = w.dev[dev].stdev,
		.mock_domain_replace.pt_id = pt,
	};

	if (pt && !DO(t, "attach", dev, kind, do_test(w.fd, &cmd)) && kind < 2)
		__atomic_store_n(&w.bait[BAIT_AUTO],
				 cmd.mock_domain_replace.pt_id,
				 __ATOMIC_RELEASE);
}

static void op_access(struct thread *t)
{
	unsigned int i = below(&t->rng, 2);

	DO(t, "access to another IOAS", i, 0,
	   do_access_replace(w.fd, w.access[i],
			     w.ioas[below(&t->rng, 2)]));
}

static void op_pin(struct thread *t)
{
	unsigned int i = below(&t->rng, 2), place = below(&t->rng, PLACES);
	u32 *slot = &w.pins[i][below(&t->rng, SLOTS)], id = take(slot);

	if (id) {
		/* The unmap callback may have been faster. */
		DO(t, "unpin", i, 0, do_access_unpin(w.fd, w.access[i], id));
		return;
	}
	if (DO(t, "pin", i, place,
	       do_access_pin(w.fd, w.access[i], place_iova(place),
			     PAGE * (1 + below(&t->rng, AREA_PAGES)),
			     MOCK_FLAGS_ACCESS_WRITE, &id)))
		return;
	if (!give(slot, id))
		do_access_unpin(w.fd, w.access[i], id);
}

static void op_read(struct thread *t)
{
	unsigned int i = below(&t->rng, 2), place = below(&t->rng, PLACES);
	u32 words[2 * PAGE / sizeof(u32)];

	if (!DO(t, "read", i, place,
		do_access_rw(w.fd, w.access[i], place_iova(place), words,
			     sizeof(words), 0)) &&
	    (!words[0] || words[0] > PAGES ||
	     words[PAGE / sizeof(u32)] != words[0] + 1))
		bad("read pages %u, %u", words[0], words[PAGE / sizeof(u32)]);
}

static void op_event(struct thread *t)
{
	unsigned int dev = below(&t->rng, 2), slot = below(&t->rng, SLOTS);
	struct iommu_hwpt_page_response answer = {
		.code = IOMMUFD_PAGE_RESP_SUCCESS,
	};
	struct iommu_hwpt_pgfault fault;
	unsigned char event[64];
	bool sealed = below(&t->rng, 3) == 0;
	int queue;

	switch (below(&t->rng, 4)) {
	case 0:
		DO(t, "fault", dev, 0,
		   do_trigger_iopf(w.fd, w.dev[dev].idev, slot));
		break;
	case 1:
		DO(t, "event", dev, 0,
		   do_trigger_vevent(w.fd, w.dev[dev].idev));
		break;
	case 2:
		/* Closed by another one, it may be another file: not one to lose. */
		queue = __atomic_exchange_n(&w.fault_fd[slot], 0,
					    __ATOMIC_ACQ_REL);
		if (!queue)
			break;
		if (read(queue, sealed ? t->sealed : &fault,
			 sizeof(fault)) == sizeof(fault)) {
			answer.cookie = fault.cookie;
			if (write(queue, &answer, sizeof(answer)) < 0)
				account(t, "answer", 0, 0, steady_ns(), -errno);
		}
		w.fault_fd[slot] = queue;
		break;
	default:
		queue = __atomic_exchange_n(&w.veventq_fd[slot], 0,
					    __ATOMIC_ACQ_REL);
		if (!queue)
			break;
		if (read(queue, sealed ? t->sealed : event,
			 below(&t->rng, sizeof(event))) < 0)
			account(t, "read of events", 0, 0, steady_ns(), -errno);
		w.veventq_fd[slot] = queue;
	}
}

static void op_look(struct thread *t)
{
	struct iommu_hw_info info = {
		.size = sizeof(info),
		.dev_id = w.dev[below(&t->rng, 2)].idev,
	};
	struct iommu_ioas_iova_ranges ranges = {
		.size = sizeof(ranges),
		.ioas_id = w.ioas[below(&t->rng, 2)],
	};

	switch (below(&t->rng, 3)) {
	case 0:
		DO(t, "GET_HW_INFO", 0, 0,
		   call(w.fd, IOMMU_GET_HW_INFO, &info));
		break;
	case 1:
		DO(t, "IOVA_RANGES", 0, 0,
		   call(w.fd, IOMMU_IOAS_IOVA_RANGES, &ranges));
		break;
	default:
		DO(t, "CHANGE_PROCESS", 0, 0, do_change_process(w.fd));
	}
}

static void (* const ops[])(struct thread *t) = {
	op_map, op_map, op_copy, op_unmap, op_unmap, op_hwpt, op_nested,
	op_viommu, op_vdevice, op_hw_queue, op_fault, op_veventq, op_destroy,
	op_destroy, op_attach, op_attach, op_access, op_pin, op_pin, op_read,
	op_event, op_look, op_bait, op_bait,
};

static void *run_thread(void *arg)
{
	struct thread *t = arg;
	unsigned int i, round;
	/* A few only, so that they meet more often. */
	unsigned int theme[THEME];

	for (round = 0; ; round++) {
		pthread_barrier_wait(&w.barrier);
		if (w.stop)
			return NULL;
		t->nr_done = 0;
		for (i = 0; i < THEME; i++)
			theme[i] = below(&t->rng, ARRAY_SIZE(ops));
		for (i = 0; i < OPS; i++)
			ops[theme[below(&t->rng, THEME)]](t);
		pthread_barrier_wait(&w.barrier);
	}
}

/* ---- what must hold ------------------------------------------------------ */

/* The first page at a place, by a kernel access; 0: nothing can be read. */
static u32 page_at(unsigned int access, unsigned int place)
{
	u32 word = 0;

	if (do_access_rw(w.fd, w.access[access], place_iova(place), &word,
			 sizeof(word), 0))
		return 0;
	return word;
}

static void check_ioas(unsigned int i)
{
	s64 mapped = 0;
	unsigned int place, j;
	u32 page;

	if (do_access_replace(w.fd, w.access[0], w.ioas[i])) {
		bad("the access cannot be attached");
		return;
	}
	for (place = 0; place < PLACES; place++) {
		page = page_at(0, place);
		if (page) {
			mapped += AREA_PAGES * PAGE;
			report->mapped_seen++;
			if (page > PAGES ||
			    !(w.was_mapped[i][place] & (1ULL << (page - 1))))
				bad("IOAS %u, place %u: page %u was never mapped there",
				    i, place, page - 1);
		}
		for (j = 0; j < SLOTS; j++) {
			/* All HWPTs of the IOAS; parents are of the first one. */
			u32 hwpt = i ? 0 : w.objects[PARENT][j];

			if (!hwpt)
				continue;
			if (page && do_check_map(w.fd, hwpt, w.mem +
						 (page - 1) * PAGE,
						 AREA_PAGES * PAGE,
						 place_iova(place)))
				bad("IOAS %u, place %u: HWPT %u does not map page %u",
				    i, place, hwpt, page - 1);
			if (!page && !do_check_map(w.fd, hwpt, w.mem,
						   PAGE, place_iova(place)))
				bad("IOAS %u, place %u: HWPT %u maps what is not there",
				    i, place, hwpt);
		}
	}
	if (!w.unknown[i] && w.balance[i] != mapped)
		bad("IOAS %u: %ld bytes are mapped, %ld should be", i, mapped,
		    w.balance[i]);
	w.balance[i] = mapped;
	w.unknown[i] = false;
}

static bool try_destroy(enum object_kind what, u32 id)
{
	return !do_destroy(w.fd, id);
}

static bool must_destroy(enum object_kind what, u32 id)
{
	int rc = do_destroy(w.fd, id);

	if (rc)
		bad("DESTROY of a %s at rest: %s", what_names[what],
		    strerror(-rc));
	return !rc;
}

/* HOW says whether one is gone. */
static void for_all(enum object_kind what,
		    bool (*how)(enum object_kind what, u32 id))
{
	unsigned int i, j;

	for (i = 0; i < SLOTS; i++)
		if (w.objects[what][i] && how(what, w.objects[what][i]))
			w.objects[what][i] = 0;
	for (j = 0; j < THREADS; j++)
		for (i = 0; i < LEFT; i++) {
			u32 *id = &report->threads[j].left[what][i];

			if (*id && how(what, *id))
				*id = 0;
		}
}

static void make_ready(void)
{
	unsigned int i;
	int rc = 0;

	for (i = 0; i < READY && !rc; i++) {
		u32 *ioas = &w.ready[BAIT_IOAS][i];
		u32 *parent = &w.ready[BAIT_PARENT][i];
		u32 *viommu = &w.ready[BAIT_VIOMMU][i];

		if (!*ioas)
			rc = do_ioas_alloc(w.fd, ioas);
		if (!*parent && !rc)
			rc = do_hwpt_alloc(w.fd, w.dev[0].idev, w.ioas[0],
					   IOMMU_HWPT_ALLOC_NEST_PARENT, 0,
					   parent);
		if (!*viommu && !rc)
			rc = do_viommu_alloc(w.fd, w.dev[0].idev,
					     w.bait_parent, NULL, viommu);
	}
	if (rc)
		bad("a bait cannot be made: %s", strerror(-rc));
}

/* In order of dependency, and then nothing is left. */
static void tear_down(void)
{
	unsigned int kind, slot, i;
	int rc;

	for (i = 0; i < 2; i++) {
		rc = do_replace(w.fd, w.dev[i].stdev, w.ioas[i]);
		if (rc)
			bad("attach at rest: %s", strerror(-rc));
	}
	for (slot = 0; slot < SLOTS; slot++) {
		close_queue(w.fault_fd, slot);
		close_queue(w.veventq_fd, slot);
	}
	for (kind = 0; kind < BAIT_AUTO; kind++)
		for (i = 0; i < READY; i++) {
			u32 id = w.ready[kind][i];

			if (id && do_destroy(w.fd, id))
				bad("DESTROY of a bait at rest");
		}
	for (kind = 0; kind < KINDS; kind++) {
		/* Of two HW queues, one depends on the other. */
		if (kind == HW_QUEUE)
			for_all(kind, try_destroy);
		for_all(kind, must_destroy);
	}
	must_destroy(PARENT, w.bait_parent);
	for (i = 0; i < 2; i++) {
		rc = do_unmap(w.fd, w.ioas[i], 0, UINT64_MAX);
		if (rc && rc != -ENOENT)
			bad("UNMAP at rest: %s", strerror(-rc));
		close(w.access[i]);
	}
	for (i = 0; i < 2; i++)
		if (do_destroy(w.fd, w.dev[i].stdev))
			bad("DESTROY of a device at rest");
	for (i = 0; i < 2; i++)
		if (do_destroy(w.fd, w.ioas[i]))
			bad("DESTROY of an IOAS at rest");
	rc = do_check_refs(w.fd, w.mem, PAGES * PAGE, 0);
	if (rc)
		bad("pages have references left: %s", strerror(-rc));
	close(w.fd);
	for (i = 0; i < 100 && read_counter("/proc/self/status", "VmPin"); i++)
		usleep(10000);
	if (read_counter("/proc/self/status", "VmPin"))
		bad("VmPin %lld kB with nothing mapped",
		    read_counter("/proc/self/status", "VmPin"));
}

static int set_up(u64 seed)
{
	unsigned int i;
	int rc, page;

	memset(&w, 0, sizeof(w));
	w.file = memfd_create("model", MFD_CLOEXEC);
	if (w.file < 0 || ftruncate(w.file, PAGES * PAGE))
		return -errno;
	/* The file is the memory, so that a page has one number in both. */
	w.mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		     w.file, 0);
	if (w.mem == MAP_FAILED)
		return -errno;
	for (i = 0; i < PAGES; i++)
		*(u32 *)(w.mem + i * PAGE) = i + 1;
	w.fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (w.fd < 0)
		return -errno;
	rc = do_ioas_alloc(w.fd, &w.ioas[0]) ?: do_ioas_alloc(w.fd, &w.ioas[1]);
	for (i = 0; i < 2 && !rc; i++)
		rc = do_mock_device(w.fd, w.ioas[i], &w.dev[i]) ?:
		     do_access_create(w.fd, w.ioas[i],
				      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				      &w.access[i]);
	/* Something to begin with. */
	rc = rc ?: do_map(w.fd, w.ioas[0], w.mem, AREA_PAGES * PAGE,
			  place_iova(0)) ?:
	     do_hwpt_alloc(w.fd, w.dev[0].idev, w.ioas[0],
			   IOMMU_HWPT_ALLOC_NEST_PARENT, 0,
			   &w.objects[PARENT][0]) ?:
	     do_hwpt_alloc(w.fd, w.dev[0].idev, w.ioas[0],
			   IOMMU_HWPT_ALLOC_NEST_PARENT, 0, &w.bait_parent) ?:
	     do_viommu_alloc(w.fd, w.dev[0].idev, w.objects[PARENT][0], NULL,
			     &w.objects[VIOMMU][0]);
	if (rc)
		return rc;
	w.balance[0] = AREA_PAGES * PAGE;
	w.was_mapped[0][0] = 1;
	pthread_barrier_init(&w.barrier, NULL, THREADS + 1);
	for (i = 0; i < THREADS; i++) {
		struct thread *t = &report->threads[i];

		memset(t, 0, sizeof(*t));
		t->number = i;
		t->rng = seed * THREADS + i;
		mix(&t->rng);
		page = memfd_create("sealed", MFD_CLOEXEC);
		if (page < 0 || ftruncate(page, PAGE))
			return -errno;
		t->open = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			       page, 0);
		t->sealed = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, page, 0);
		close(page);
		if (t->open == MAP_FAILED || t->sealed == MAP_FAILED)
			return -errno;
		pthread_create(&t->thread, NULL, run_thread, t);
	}
	return 0;
}

static void run_episode(u64 seed, unsigned int rounds)
{
	unsigned int i;
	int rc;

	alarm(EPISODE_SECONDS);
	rc = start_steady() ?: set_up(seed);
	if (rc) {
		bad("cannot be set up: %s", strerror(-rc));
		return;
	}
	for (report->round = 0; report->round < rounds && !report->bad;
	     report->round++) {
		make_ready();
		pthread_barrier_wait(&w.barrier);
		/* They do it. */
		pthread_barrier_wait(&w.barrier);
		for (i = 0; i < 2; i++)
			check_ioas(i);
	}
	w.stop = true;
	pthread_barrier_wait(&w.barrier);
	for (i = 0; i < THREADS; i++)
		pthread_join(report->threads[i].thread, NULL);
	tear_down();
}

static int by_time(const void *a, const void *b)
{
	const struct done *const *x = a, *const *y = b;

	return (*x)->when < (*y)->when ? -1 : 1;
}

/* What the threads did in the last round, in the order in which it ended. */
static void print_history(void)
{
	const struct done *all[THREADS * OPS];
	unsigned int i, j, n = 0;

	for (i = 0; i < THREADS; i++)
		for (j = 0; j < report->threads[i].nr_done; j++)
			all[n++] = &report->threads[i].done[j];
	qsort(all, n, sizeof(all[0]), by_time);
	for (i = 0; i < n; i++)
		ksft_print_msg("  thread %ld: %s %d %d: %s\n",
			       ((char *)all[i] - (char *)report->threads) /
			       sizeof(report->threads[0]),
			       all[i]->op, all[i]->a, all[i]->b,
			       all[i]->rc ? strerror(-all[i]->rc) : "ok");
}

static const char usage[] =
"usage: iommufd_model [options]\n"
"\n"
"  -c          the module is C's: let it say EBUSY\n"
"  -t SECONDS  (5)\n"
"  -s SEED     of the first episode; each one has the next (1)\n"
"  -n ROUNDS   of an episode (24)\n"
"  -1          one episode, over and over: what found something, again\n";

int main(int argc, char **argv)
{
	unsigned int rounds = ROUNDS, episodes = 0;
	double seconds = 5;
	bool again = false;
	long long pinned;
	u64 seed = 1, end;
	int option, status;
	pid_t pid;

	while ((option = getopt(argc, argv, "ct:s:n:1h")) != -1) {
		switch (option) {
		case 'c':
			on_c = true;
			break;
		case 't':
			seconds = strtod(optarg, NULL);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			rounds = strtoul(optarg, NULL, 0);
			break;
		case '1':
			again = true;
			break;
		default:
			fputs(usage, option == 'h' ? stdout : stderr);
			return option == 'h' ? 0 : 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	status = open("/dev/iommu", O_RDWR);
	if (status < 0)
		ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
	close(status);
	ksft_set_plan(2);
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	pinned = pages_pinned_at_rest();
	end = now_ns() + seconds * 1e9;
	do {
		report->seed = seed;
		fflush(stdout);
		pid = fork();
		if (!pid) {
			run_episode(seed, rounds);
			_exit(0);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid)
			ksft_exit_fail_msg("cannot start an episode\n");
		if (status)
			bad("the episode ended with status %x", status);
		episodes++;
		if (!again)
			seed++;
	} while (!report->bad && now_ns() < end);

	ksft_print_msg("%u episodes, %lu calls, %lu%% succeeded, %lu areas looked at\n",
		       episodes, report->calls,
		       report->good * 100 / (report->calls ?: 1),
		       report->mapped_seen);
	if (report->bad) {
		ksft_print_msg("seed %lu, round %u: %s\n", report->seed,
			       report->round, report->text);
		print_history();
		ksft_print_msg("again: iommufd_model -1 -s %lu -n %u\n",
			       report->seed, rounds);
	}
	ksft_test_result(!report->bad && report->mapped_seen &&
			 report->good * 5 > report->calls, "invariants\n");
	pinned = pages_left_pinned(pinned);
	if (pinned)
		ksft_print_msg("%lld pages left pinned\n", pinned);
	ksft_test_result(!pinned, "nothing left pinned\n");
	ksft_finished();
}
