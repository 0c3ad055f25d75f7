/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of iommufd_race share: iommufd_race_cases.c and
 * iommufd_race_more.c know what threads do to a context, iommufd_race.c lets
 * them, counts and judges.
 */
#ifndef __IOMMUFD_RACE_H
#define __IOMMUFD_RACE_H

#include <pthread.h>

#include "iommufd_stress.h"

/* What a call is counted as. */
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
	/* An answer to a fault that nobody but the writer can answer. */
	OP_ANSWER,
	/* An event that tells of lost ones. */
	OP_LOST,
	/* A DESTROY of what nothing depended on, at any moment of it. */
	OP_ALONE,
	OP_NR,
};

#define WORKERS_MAX 8
#define SLOTS 8
#define ERRNOS 134
/* Numbers of faults and events, and the descriptors that they come by. */
#define SEEN 65536U

struct op_stats {
	u64 calls, good, worst_ns;
	/* How often it said what. */
	u32 errnos[ERRNOS];
};

struct session;

/* One thread; @stats are of the case. */
struct worker {
	struct session *s;
	unsigned int number;
	u64 rng;
	struct op_stats stats[OP_NR];
	/* The first result that no interleaving excuses. */
	enum op odd_op;
	int odd_errno;
	u64 start;
	/* Memory and buffers that nobody else touches. */
	void *mem, *buffer;
	u32 id[SLOTS];
	int fd[SLOTS];
	u64 state;
	/* Begun and ended turns, and calls: odd in the midst of one. */
	u32 turns, calls;
};

/*
 * One context and those who race on it. What they show each other is in @slot,
 * ids or descriptors; 0 is nothing.
 */
struct session {
	int fd;
	unsigned int number;
	const struct race_case *what;
	/* The fd has been replaced by one of /dev/null under their feet. */
	bool closed;
	bool stop;
	/* Of a module that is there for comparison. */
	bool reference;
	/* All but worker 0 rest before a turn, up to so many microseconds. */
	unsigned int pace;
	u32 slot[SLOTS];
	/*
	 * What was put on show so far (see show()); calls that make or destroy
	 * what others may depend on: how many are going on, and have begun.
	 */
	u32 shown, changing, changes;
	/* Odd while the device leaves its HWPT, and its queue is still shown. */
	u32 moves;
	/* Faults reported so far in all sessions; each has a number. */
	u64 faults;
	/* The last fault or event of a number that was read. */
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
	/* One turn of worker @w; the first is number 0. */
	void (*turn)(struct session *s, struct worker *w);
	/* What a worker still holds when its session has ended. */
	void (*leave)(struct session *s, struct worker *w);
	/* After the last turn, before the close. */
	void (*cleanup)(struct session *s);
	/* No session ends abruptly. */
	bool orderly;
	/* If all are there: what is left can be destroyed in good order. */
	bool (*settle)(struct session *s);
	/*
	 * Percent of the calls of each kind that must succeed, under fire or,
	 * where who runs when does not allow for it, when all but worker 0
	 * take their time.
	 */
	unsigned int least;
	/*
	 * The kinds of calls that it makes, and no others: each must have
	 * succeeded, or the case shows less than it says.
	 */
	u32 ops;
	/* Kinds of which a smaller share succeeds, in percent. */
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

/* Counts what came of a call; the errnos that may be, ended by 0. */
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
/* IOVAs of worker W: nobody else maps there. */
#define OWN_IOVA(w) (IOVA + ((w)->number + 1) * 0x1000000ULL)

void nap(struct worker *w, unsigned int us);
/* Destroy what others use in passing: nothing depends on it. */
int destroy(struct worker *w, u32 id);
/* Destroy what others may depend on until their turns have ended. */
int destroy_after(struct worker *w, u32 id);
/*
 * Has one of the workers FIRST to LAST been in the midst of a call at any time
 * since BEFORE, which is what calls_between() has said then?
 */
u32 calls_between(struct session *s, unsigned int first, unsigned int last);
bool called_since(struct session *s, unsigned int first, unsigned int last,
		  u32 before);
/* An id or descriptor as it is shown: that of another one is never the same. */
u32 show(struct session *s, u32 number);
u32 number_of(u32 shown);
/* Two IOASes; a device on the first, and a HWPT of each. */
int setup_ioas(struct session *s);
int setup_device(struct session *s);
/* A domain that comes and goes. */
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
