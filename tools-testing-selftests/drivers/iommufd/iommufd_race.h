/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by the parts of iommufd_race: iommufd_race_cases.c and
 * iommufd_race_more.c have the cases, iommufd_race.c runs, counts and judges
 * them.
 */
#ifndef __IOMMUFD_RACE_H
#define __IOMMUFD_RACE_H

#include <pthread.h>

#include "iommufd_stress.h"

/* The kinds of calls that are counted */
enum op {
	OP_LOOKUP,
	OP_ALLOC,
	OP_ABORT,
	OP_DESTROY,
	OP_MAP,
	OP_UNMAP,
	OP_COPY,
	OP_CHECK,
	OP_HWPT,
	OP_REPLACE,
	OP_PIN,
	OP_UNPIN,
	OP_RW,
	OP_REVOKE,
	OP_TRIGGER,
	OP_READ,
	OP_WRITE,
	OP_POLL,
	OP_MMAP,
	OP_FORK,
	OP_CHANGE,
	OP_PUNCH,
	OP_DIRTY,
	OP_CUT,
	/* A response to a fault that only the writer can respond to */
	OP_ANSWER,
	/* An event that reports lost ones */
	OP_LOST,
	/*
	 * A DESTROY of an object that nothing has depended on during the call
	 */
	OP_ALONE,
	OP_NR,
};

#define WORKERS_MAX 8
#define SLOTS 8
#define ERRNOS 134
/* Numbers of faults and events, and the descriptors they are read from */
#define SEEN 65536U

struct op_stats {
	u64 calls, good, worst_ns;
	/* The number of calls by result */
	u32 errnos[ERRNOS];
};

struct session;

/* One thread; @stats are of the case. */
struct worker {
	struct session *s;
	unsigned int number;
	u64 rng;
	struct op_stats stats[OP_NR];
	/* The first result that no interleaving explains */
	enum op odd_op;
	int odd_errno;
	u64 start;
	/* Memory and buffers of this worker only */
	void *mem, *buffer;
	u32 id[SLOTS];
	int fd[SLOTS];
	u64 state;
	/* Turns, and calls, begun and ended: odd during one */
	u32 turns, calls;
};

/*
 * One context and its workers. @slot has the ids or descriptors that they
 * share; 0 is none.
 */
struct session {
	int fd;
	unsigned int number;
	const struct race_case *what;
	/* The fd has been replaced by one of /dev/null. */
	bool closed;
	bool stop;
	/* Of a reference module */
	bool reference;
	/* All but worker 0 pause before a turn, up to so many microseconds */
	unsigned int pace;
	u32 slot[SLOTS];
	/*
	 * The number of objects that were shared so far (see show()); calls
	 * that create or destroy dependents: the number in progress, and begun.
	 */
	u32 shown, changing, changes;
	/* Odd while the device is detached and its queue still shared */
	u32 moves;
	/* Faults reported so far in all sessions; each has a number */
	u64 faults;
	/* The last fault or event of a number that was read */
	u64 *seen;
	u32 pasid;
	u64 offset;
	struct mock mock;
	u32 ioas[2];
	u32 hwpt[2];
	int memfd;
	pid_t child;
	u64 rng;
	struct worker *workers;
};

struct race_case {
	const char *name;
	const char *about;
	unsigned int threads;
	int (*setup)(struct session *s);
	/* One turn of worker @w; the first is number 0 */
	void (*turn)(struct session *s, struct worker *w);
	/* Release what a worker holds when its session has ended */
	void (*leave)(struct session *s, struct worker *w);
	/* After the last turn, before the close */
	void (*cleanup)(struct session *s);
	/* Every session ends in order */
	bool orderly;
	/* If no worker was killed: destroy the remaining objects in order */
	bool (*settle)(struct session *s);
	/*
	 * Percent of the calls of each kind that must succeed; if the
	 * scheduling does not allow this, with pauses of all but worker 0.
	 */
	unsigned int least;
	/*
	 * The kinds of calls that the case makes, and no others. Each must have
	 * succeeded.
	 */
	u32 ops;
	/* Kinds of which a smaller percentage succeeds */
	struct {
		enum op op;
		unsigned int least;
	} rare[6];
};

extern const struct race_case race_cases[];
extern const unsigned int nr_race_cases;

#define get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define set(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define take(p) __atomic_exchange_n(p, 0, __ATOMIC_ACQ_REL)

static inline void begin(struct worker *w)
{
	set(&w->calls, w->calls + 1);
	w->start = steady_ns();
}

/* Count the result of a call; the allowed errnos end with 0. */
int done(struct worker *w, enum op which, int rc, ...);

#define TRY(w, which, expr, ...)					\
({									\
	struct worker *__w = (w);					\
									\
	begin(__w);							\
	done(__w, which, (expr), ##__VA_ARGS__, 0);			\
})

/* ---- cases ---------------------------------------------------------------- */

#define OP(name) (1U << OP_##name)

#define MAGIC 0x5afec0deU
#define IOVA MOCK_APERTURE_START
/* IOVAs of worker W: no other one maps there. */
#define OWN_IOVA(w) (IOVA + ((w)->number + 1) * 0x1000000ULL)

void nap(struct worker *w, unsigned int us);
/* Destroy an object that others only look up: nothing depends on it. */
int destroy(struct worker *w, u32 id);
/* Destroy an object that others may depend on until their turns end. */
int destroy_after(struct worker *w, u32 id);
/*
 * Was one of the workers FIRST to LAST in a call at any time since BEFORE, a
 * result of calls_between()?
 */
u32 calls_between(struct session *s, unsigned int first, unsigned int last);
bool called_since(struct session *s, unsigned int first, unsigned int last,
		  u32 before);
/* Share an id or descriptor, with a number that is not reused. */
u32 show(struct session *s, u32 number);
u32 number_of(u32 shown);
/* Two IOASes; a device on the first, and a HWPT of each */
int setup_ioas(struct session *s);
int setup_device(struct session *s);
/* A domain that is created and destroyed */
void turn_domain(struct session *s, struct worker *w, u32 ioas);

void cleanup_process(struct session *s);
int setup_graph(struct session *s);
int setup_process(struct session *s);
int setup_vevent(struct session *s);
int setup_dirty(struct session *s);
int setup_file(struct session *s);
int setup_pasid(struct session *s);
int setup_type1(struct session *s);
void cleanup_file(struct session *s);
void cleanup_pasid(struct session *s);
void cleanup_type1(struct session *s);
void turn_dirty(struct session *s, struct worker *w);
void turn_file(struct session *s, struct worker *w);
void turn_type1(struct session *s, struct worker *w);
bool settle_graph(struct session *s);
void turn_dmabuf(struct session *s, struct worker *w);
void turn_fault(struct session *s, struct worker *w);
void turn_graph(struct session *s, struct worker *w);
void turn_mmap(struct session *s, struct worker *w);
void turn_process(struct session *s, struct worker *w);
void turn_unbind(struct session *s, struct worker *w);
void turn_vevent(struct session *s, struct worker *w);

#endif
