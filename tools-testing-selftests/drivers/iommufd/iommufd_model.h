/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the parts of iommufd_model.
 *
 * A *plan* is made from a seed: steps, each of a worker in a round, with all of
 * its arguments. An *episode* runs a plan in a process of its own, on a
 * *world*: one context, two IOASes that stay, and a few slots for everything
 * else, so that workers use the same objects. A plan can be run again, also
 * without some of its steps.
 *
 *   iommufd_model.c          options, episodes, checks between them
 *   iommufd_model_plan.c     making, printing, reading and shortening plans
 *   iommufd_model_world.c    workers and their rounds, records of dependencies
 *   iommufd_model_setup.c    start and end of a world
 *   iommufd_model_memory.c   operations on memory
 *   iommufd_model_objects.c  operations on objects
 *   iommufd_model_check.c    checks when all workers have stopped
 */
#ifndef __IOMMUFD_MODEL_H
#define __IOMMUFD_MODEL_H

#include "iommufd_delays.h"
#include "iommufd_stress.h"
#include "kselftest.h"

#define WORKERS_MAX 4
#define ROUNDS_MAX 6
#define WORKER_STEPS 14
#define STEPS_MAX (WORKERS_MAX * ROUNDS_MAX * WORKER_STEPS)
#define ARGS_MAX 6
#define OPS_MAX 64

/* The time limit of a call */
#define CALL_LIMIT_NS 2000000000ULL

/* ---- plans --------------------------------------------------------------- */

enum plan_flags {
	/* IOAS 0 is that of a VFIO type1 container, whose areas can be split */
	PLAN_TYPE1 = 1,
	/* RLIMIT_MEMLOCK applies to the process; otherwise to the user */
	PLAN_MM = 2,
	/* As root, without a limit */
	PLAN_ROOT = 4,
	/* Workers are processes; some exit or are killed */
	PLAN_PROCESSES = 8,
	/* All processes are killed while they run */
	PLAN_KILLED = 16,
	/* Rounds on one CPU, with SCHED_FIFO */
	PLAN_FIFO = 32,
	/* Only files are mapped, as CHANGE_PROCESS requires */
	PLAN_FILES = 64,
	/* Device 0 is attached to a HWPT for PASIDs between rounds */
	PLAN_PASID = 128,
	/* Each round begins with all objects of a vIOMMU */
	PLAN_NESTED = 256,
	PLAN_FLAGS = 512,
};

/* The memory of the structure of a call */
enum how {
	PLAIN,
	/* Read-only: copying the response fails */
	SEALED,
	/* Another worker changes its protection */
	TORN,
	/* Its end is not mapped */
	SPLIT,
	HOWS,
};

struct step {
	u8 round, worker, op, how;
	u8 arg[ARGS_MAX];
	/* How often to yield first, or to sleep in a round with SCHED_FIFO */
	u8 nap;
};

struct plan {
	u64 seed;
	u32 flags, nr_workers, nr_rounds, nr_steps;
	/* With PLAN_KILLED: kill after this number of microseconds */
	u32 kill_us;
	/* A delay in the driver, in microseconds, or 0 */
	u32 delay_us;
	char delay[DELAY_NAME];
	struct step steps[STEPS_MAX];
};

struct op {
	const char *name;
	int (*run)(const u8 *arg, enum how how);
	/* "name:limit ..." of its arguments */
	const char *args;
	/* Relative frequency */
	u8 weight;
	/* Requires one of these objects; or only if there is none */
	u16 needs, without;
	/* Need not ever succeed */
	bool may_fail;
	/* Its structure can be SEALED etc. */
	bool structured;
	/* If SEALED, nothing depends on the objects that it names */
	bool undone;
};

extern const struct op ops[];
extern const unsigned int nr_ops;

/* A place that an episode seldom comes to; iommufd_kinds does each time */
#define FAULT_TAKEN "fault_taken"

extern char delays[DELAYS_MAX][DELAY_NAME];
extern unsigned int nr_delays;

/* ---- reports ------------------------------------------------------------- */

/* The checks; a failing plan is shortened while the same one fails. */
enum invariant {
	HOLDS,
	/* A call returns a result that the model explains */
	ANSWER,
	/* IOMMU_DESTROY and UNMAP return EBUSY if and only if it is in use */
	BUSY,
	/* UNMAP reports the bytes that were mapped */
	UNMAPPED,
	/* Devices and accesses see the mapped memory */
	CONTENT,
	/*
	 * Everything can be destroyed, and the table of objects is empty then
	 */
	DESTROYED,
	/* VmPin, VmLck and the pins of each page are zero */
	PINS,
	/* The kernel log is empty */
	SILENT,
	/* Page tables and slab memory are freed */
	FLAT,
	/* No call takes longer than its limit */
	TIME,
	/* The episode ends, and not by a signal */
	ENDS,
};

struct result {
	/* Order of completion in the episode; 0: not run */
	u32 when;
	int rc;
};

/* In memory that survives the episode */
struct report {
	enum invariant broken;
	char text[200];
	u32 round;
	u64 areas, rounds, destroys, busy;
	u64 calls[OPS_MAX], good[OPS_MAX];
	/* How often tasks have slept at each place of list_delays() */
	u64 slept[DELAYS_MAX];
	/* Of the last plan */
	u32 completed;
	struct result results[STEPS_MAX];
	/* Set while the workers run */
	u32 running;
};

extern struct report *report;

/* The first failure counts. */
__printf(2, 3)
void broken(enum invariant which, const char *format, ...);

/* ---- worlds -------------------------------------------------------------- */

/* Numbered pages of each kind of memory */
#define PAGES 24
/* Places for areas in each IOAS */
#define PLACES 5
#define AREA_PAGES 4
#define PLACE_PAGES 16
#define SLOTS 3

/*
 * Long areas have places behind these. There are as many PFNs, and as far from
 * each other, as the driver does not keep beside the page table.
 */
#define LONG_PLACES 2
#define LONG_PAGES 160
#define ALL_PLACES (PLACES + LONG_PLACES)

/* IOASes that stay; arguments can also name slots of others. */
#define STAYING 2

enum source {
	/* Shared memory, mapped by its address or as a file */
	BY_ADDRESS,
	BY_FILE,
	/* A file that is truncated and punched; memory that is unmapped */
	TRUNCATED,
	VANISHING,
	DMABUF,
	SOURCES,
};

/* What may be mapped at a page of IOVA; the lower bits are page numbers */
#define SEEN_TRUNCATED 0x1000000000000000ULL
#define SEEN_VANISHING 0x2000000000000000ULL
#define SEEN_DMABUF 0x4000000000000000ULL

/* In the order in which they can be destroyed */
enum kind {
	NESTED,
	VDEVICE,
	HW_QUEUE,
	VEVENTQ,
	VIOMMU,
	FAULT,
	PARENT,
	HWPT,
	IOAS,
	KINDS,
};

extern const char *const kind_names[KINDS];

/*
 * Dependants, which make a call return EBUSY: their present number, and the
 * number that there have ever been. By id of the object, and by keys of other
 * things.
 */
struct dep {
	u32 now, ever;
	/*
	 * Of these, the ones that may end at any time, until all have stopped
	 */
	u32 loose;
	/* The objects that this object depends on */
	u32 on[3];
};

#define DEPS 4096
#define DEP_IDS 2048
/* Second queues of a vIOMMU, which the mock makes depend on the first */
#define DEP_QUEUE(viommu) (DEP_IDS + (viommu) % 1024)
/* Areas in transition or locked at a place */
#define DEP_PLACE(ioas, place) (DEP_IDS + 1024 + (ioas) * ALL_PLACES + (place))
/* Processes that have copies of all descriptors and mappings */
#define DEP_FORKS (DEP_IDS + 1100)
/* Areas at an IOVA that the kernel chose, which can overlap several places */
#define DEP_CHOSEN (DEP_IDS + 1101)

#define LEFT_MAX 64

struct device {
	u32 stdev, idev;
};

struct copied {
	u8 from, to, from_page, to_page, pages;
};

struct world {
	const struct plan *plan;
	int fd, file, truncated, template, long_file;
	u32 ioas[STAYING], pasid_hwpt;
	/* Source of copies of long areas; no device is attached to it */
	u32 long_ioas;
	/*
	 * Two that stay; and one that is added and removed: stdev << 32 | idev
	 */
	struct device dev[2];
	u64 hot;
	u32 objects[KINDS][SLOTS];
	/*
	 * Objects that could not be destroyed yet, as something depends on them
	 */
	u32 left[KINDS][LEFT_MAX];
	/*
	 * FAULT and VEVENTQ: fd << 32 | id. A worker that reads a queue takes
	 * it out of its slot, so that no other one closes it.
	 */
	u64 queues[KINDS][SLOTS];
	/* The last automatic HWPT of a device */
	u32 automatic;
	/* Offsets for mmap() */
	u64 regions[SLOTS];
	/* Two that pin, and one to check memory when all have stopped */
	int access[2], eye;
	u32 pins[2][SLOTS];
	int dmabuf[2];
	unsigned char *mem, *vanishing, *long_mem;
	struct dep deps[DEPS];
	/* Bytes mapped less bytes that UNMAP has reported */
	s64 balance[STAYING];
	/* A call has failed in a way that leaves this unknown */
	bool unknown[STAYING];
	/* An area at an IOVA that the kernel chose still exists */
	bool stray[STAYING];
	/* What may be mapped at each page of IOVA: see seen_of() */
	u64 seen[STAYING][PLACES * AREA_PAGES];
	struct copied copies[STEPS_MAX];
	u32 nr_copies;
	u32 unplugged, vdevices;
	/* A worker was killed, and what it knew is lost */
	bool lost;
	/* Of rounds. */
	u32 go, stop, ready, finished[WORKERS_MAX];
	pid_t pids[WORKERS_MAX];
	pthread_t threads[WORKERS_MAX];
	/* Memory for arguments; SEALED and TORN map the same page */
	unsigned char *open[WORKERS_MAX], *sealed[WORKERS_MAX],
		      *torn[WORKERS_MAX];
};

extern struct world *w;
extern bool on_c;

/* The worker that runs */
extern __thread unsigned int self;
extern __thread const struct step *now;

#define get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define set(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define take(p) __atomic_exchange_n(p, 0, __ATOMIC_ACQ_REL)
#define add(p, n) __atomic_add_fetch(p, n, __ATOMIC_ACQ_REL)

/* Put VALUE into a slot if that is empty */
#define give(p, value)							\
({									\
	typeof(p) to_ = (p);						\
	typeof(*to_) none_ = 0;						\
	__atomic_compare_exchange_n(to_, &none_, value, false,		\
				    __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);\
})

static inline bool is_plan(u32 flag)
{
	return w->plan->flags & flag;
}

static inline u64 iova_of(unsigned int place, unsigned int page)
{
	return MOCK_APERTURE_START + (place * PLACE_PAGES + page) * PAGE;
}

static inline u64 long_iova(unsigned int place)
{
	return iova_of(PLACES, 0) + place * 2 * LONG_PAGES * PAGE;
}

/* The number with which a page begins: TAG is SEEN_... or 0 */
static inline u32 number_of(u64 tag, unsigned int page)
{
	return (tag == SEEN_TRUNCATED ? 0x100 : tag == SEEN_VANISHING ? 0x200 :
		0) + page + 1;
}

static inline void fill_page(void *at, u32 number)
{
	u32 *words = at;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(u32) - 1; i++)
		words[i] = number + i * 0x10000;
}

/*
 * Check the result of a call, which can be one of the errnos that follow. With
 * unmapped memory, EFAULT too.
 */
int judge(const char *what, enum how how, int rc, ...);
#define JUDGE(what, how, expr, ...)					\
({									\
	u64 start_ = steady_ns();					\
	const char *what_ = (what);					\
	int rc_ = (expr);						\
	timed(what_, start_);						\
	judge(what_, how, rc_, ##__VA_ARGS__, 0);			\
})
void timed(const char *what, u64 start);

/* Make a call with its structure in memory of kind HOW; copies back to CMD. */
int call_how(enum how how, unsigned long nr, void *cmd, size_t size);
int test_how(enum how how, struct iommu_test_cmd *cmd);

void depend(u32 key);
void undepend(u32 key);
/* From here on it can end at any time */
void depend_loosely(u32 key);
/* NEW depends on these */
void record(u32 new, u32 a, u32 b, u32 c);
/* Dependants that make DESTROY of ID return EBUSY, except DEP_FORKS */
u32 key_of(enum kind kind, u32 id);
/* DESTROY of an object that only the caller knows; EBUSY is judged */
int destroy_object(enum kind kind, u32 id);
/* A long area, to an IOAS that stays. */
int copy_long(unsigned int ioas, unsigned int place);
void leave(enum kind kind, u32 id);
/* Destroy it now or, if it is in use, when all have stopped */
int destroy_or_leave(enum kind kind, u32 id);
/* Empty a slot: returns the id, or 0. Closes a file */
u32 take_object(enum kind kind, unsigned int slot);
/* The content of a slot */
u32 object_in(enum kind kind, unsigned int slot);
/* The id of the IOAS that an argument names; 0 if there is none */
u32 ioas_of(unsigned int n);
struct device device_of(unsigned int n);

int set_up(const struct plan *plan);
/* Run the plan; the result is in the report */
void run_episode(const struct plan *plan);
int create_device(u32 ioas, u32 flags, struct device *device);

/* Create objects that a round needs and the previous one has destroyed */
void replenish(void);
/* Map unmapped memory again */
void restore_memory(void);
/* Run all checks, between rounds and at the end */
void check_rest(bool all);
void detach_pasids(u32 stdev);
void tear_down(void);
void tear_down_lost(void);

/* ---- operations ---------------------------------------------------------- */

int op_map(const u8 *arg, enum how how);
int op_map_any(const u8 *arg, enum how how);
int op_type1_map(const u8 *arg, enum how how);
int op_type1_unmap(const u8 *arg, enum how how);
int op_copy(const u8 *arg, enum how how);
int op_long_copy(const u8 *arg, enum how how);
int op_long_unmap(const u8 *arg, enum how how);
int op_unmap(const u8 *arg, enum how how);
int op_vanish(const u8 *arg, enum how how);
int op_truncate(const u8 *arg, enum how how);
int op_dmabuf(const u8 *arg, enum how how);
int op_revoke(const u8 *arg, enum how how);
int op_pin(const u8 *arg, enum how how);
int op_rw(const u8 *arg, enum how how);
int op_access(const u8 *arg, enum how how);
int op_new_access(const u8 *arg, enum how how);
int op_track(const u8 *arg, enum how how);
int op_dirty(const u8 *arg, enum how how);
int op_change_process(const u8 *arg, enum how how);
int op_ranges(const u8 *arg, enum how how);
int op_allow(const u8 *arg, enum how how);
int op_option(const u8 *arg, enum how how);

int op_ioas(const u8 *arg, enum how how);
int op_hwpt(const u8 *arg, enum how how);
int op_nested(const u8 *arg, enum how how);
int op_viommu(const u8 *arg, enum how how);
int op_vdevice(const u8 *arg, enum how how);
int op_hw_queue(const u8 *arg, enum how how);
int op_fault_queue(const u8 *arg, enum how how);
int op_veventq(const u8 *arg, enum how how);
int op_destroy(const u8 *arg, enum how how);
int op_attach(const u8 *arg, enum how how);
int op_pasid_attach(const u8 *arg, enum how how);
int op_pasid_replace(const u8 *arg, enum how how);
int op_pasid_detach(const u8 *arg, enum how how);
int op_plug(const u8 *arg, enum how how);
int op_unplug(const u8 *arg, enum how how);
int op_fault(const u8 *arg, enum how how);
int op_event(const u8 *arg, enum how how);
int op_read_faults(const u8 *arg, enum how how);
int op_read_events(const u8 *arg, enum how how);
int op_mmap(const u8 *arg, enum how how);
int op_invalidate(const u8 *arg, enum how how);
int op_hw_info(const u8 *arg, enum how how);
int op_protect(const u8 *arg, enum how how);
int op_signal(const u8 *arg, enum how how);
int op_fork(const u8 *arg, enum how how);
int op_exit(const u8 *arg, enum how how);
int op_kill(const u8 *arg, enum how how);

/* ---- plans --------------------------------------------------------------- */

void make_plan(struct plan *plan, u64 seed);
/* Read the output of print_plan(); false if it is wrong */
bool read_plan(struct plan *plan, const char *text);
void print_plan(const struct plan *plan, const struct result *results);
/* Run PLAN in a process; returns whether all checks pass */
bool run_plan(const struct plan *plan);
/* Leave out steps that REPORT's failure does not need, for this time */
void shrink(struct plan *plan, double seconds);

#endif
