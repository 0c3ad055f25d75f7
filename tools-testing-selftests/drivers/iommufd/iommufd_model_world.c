// SPDX-License-Identifier: GPL-2.0-only
/*
 * The world of an episode of iommufd_model: its workers and their rounds,
 * results of calls, and records of dependencies.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "iommufd_model.h"

struct world *w;
__thread unsigned int self;
__thread const struct step *now;

const char *const kind_names[KINDS] = {
	"nested HWPT", "vDEVICE", "HW queue", "vEVENTQ", "vIOMMU",
	"fault queue", "parent HWPT", "HWPT", "IOAS",
};

/* ---- judgements ---------------------------------------------------------- */

void broken(enum invariant which, const char *format, ...)
{
	enum invariant none = HOLDS;
	va_list args;

	if (!__atomic_compare_exchange_n(&report->broken, &none, which, false,
					 __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
		return;
	va_start(args, format);
	vsnprintf(report->text, sizeof(report->text), format, args);
	va_end(args);
}

void timed(const char *what, u64 start)
{
	u64 took = steady_ns() - start;

	if (took > CALL_LIMIT_NS)
		broken(TIME, "%s took %lu ms", what, took / 1000000);
}

int judge(const char *what, enum how how, int rc, ...)
{
	bool may = !rc || (how != PLAIN && rc == -EFAULT);
	va_list args;
	int e;

	va_start(args, rc);
	while ((e = va_arg(args, int)))
		may |= rc == -e;
	va_end(args);
	if (!may)
		broken(ANSWER, "%s: %s", what, strerror(-rc));
	/* Reading the rest of the structure must fail. */
	if (!rc && how == SPLIT)
		broken(ANSWER, "%s succeeds without its arguments", what);
	return rc;
}

int call_how(enum how how, unsigned long nr, void *cmd, size_t size)
{
	unsigned char *split = w->open[self] + PAGE - sizeof(u64);
	int rc;

	switch (how) {
	case SEALED:
		memcpy(w->open[self], cmd, size);
		return call(w->fd, nr, w->sealed[self]);
	case TORN:
		memcpy(w->open[self], cmd, size);
		rc = call(w->fd, nr, w->torn[self]);
		memcpy(cmd, w->open[self], size);
		return rc;
	case SPLIT:
		memcpy(split, cmd, sizeof(u64));
		return call(w->fd, nr, split);
	default:
		return call(w->fd, nr, cmd);
	}
}

int test_how(enum how how, struct iommu_test_cmd *cmd)
{
	cmd->size = sizeof(*cmd);
	return call_how(how, IOMMU_TEST_CMD, cmd, sizeof(*cmd));
}

/* ---- dependents ---------------------------------------------------------- */

static struct dep *dep_of(u32 key)
{
	return &w->deps[key < DEPS ? key : key % DEP_IDS];
}

void depend(u32 key)
{
	add(&dep_of(key)->now, 1);
	add(&dep_of(key)->ever, 1);
}

void undepend(u32 key)
{
	add(&dep_of(key)->now, -1);
}

void depend_loosely(u32 key)
{
	add(&dep_of(key)->loose, 1);
}

void record(u32 new, u32 a, u32 b, u32 c)
{
	u32 *on = dep_of(new)->on;

	on[0] = a;
	on[1] = b;
	on[2] = c;
}

void leave(enum kind kind, u32 id)
{
	unsigned int i;

	for (i = 0; i < LEFT_MAX; i++)
		if (give(&w->left[kind][i], id))
			return;
	/* There is no place for it: the last close destroys it. */
	set(&w->lost, true);
}

u32 key_of(enum kind kind, u32 id)
{
	const u32 *on = dep_of(id)->on;

	/* The second HW queue of a vIOMMU is a user of the first. */
	return kind == HW_QUEUE && !on[1] ? DEP_QUEUE(on[0]) : id;
}

/*
 * Destroy an object whose id only the caller has, so that it cannot be reused
 * meanwhile. On EBUSY the object still exists.
 */
int destroy_object(enum kind kind, u32 id)
{
	struct dep *dep = dep_of(key_of(kind, id)), *forks = dep_of(DEP_FORKS);
	u32 ever = get(&dep->ever), users = get(&dep->now), on[3], i;
	u32 forked = get(&forks->ever), forking = get(&forks->now);
	int rc;

	memcpy(on, dep_of(id)->on, sizeof(on));
	rc = JUDGE("DESTROY", PLAIN, do_destroy(w->fd, id), EBUSY,
		   kind == VDEVICE ? ENOENT : EBUSY);
	add(&report->destroys, 1);
	if (rc == -EBUSY) {
		add(&report->busy, 1);
		if (!users && get(&dep->ever) == ever && !on_c && !forking &&
		    get(&forks->ever) == forked)
			broken(BUSY, "DESTROY of a %s, on which nothing depends: EBUSY",
			       kind_names[kind]);
		return rc;
	}
	/* A vDEVICE may have been destroyed with its device. */
	if (rc == -ENOENT && !get(&w->unplugged))
		broken(BUSY, "DESTROY of a vDEVICE: ENOENT");
	for (i = 0; i < 3; i++)
		if (on[i])
			undepend(on[i]);
	return rc;
}

int destroy_or_leave(enum kind kind, u32 id)
{
	int rc = destroy_object(kind, id);

	if (rc == -EBUSY)
		leave(kind, id);
	return rc;
}

u32 take_object(enum kind kind, unsigned int slot)
{
	u64 queue;

	if (kind != FAULT && kind != VEVENTQ)
		return take(&w->objects[kind][slot]);
	queue = take(&w->queues[kind][slot]);
	if (queue)
		close(queue >> 32);
	return queue;
}

u32 object_in(enum kind kind, unsigned int slot)
{
	if (kind != FAULT && kind != VEVENTQ)
		return get(&w->objects[kind][slot]);
	return get(&w->queues[kind][slot]);
}

u32 ioas_of(unsigned int n)
{
	return n < STAYING ? w->ioas[n] : get(&w->objects[IOAS][n - STAYING]);
}

struct device device_of(unsigned int n)
{
	u64 hot;

	if (n < ARRAY_SIZE(w->dev))
		return w->dev[n];
	hot = get(&w->hot);
	return (struct device){ .stdev = hot >> 32, .idev = hot };
}

/* ---- workers ------------------------------------------------------------- */

static void wait_on(u32 *at, u32 value, unsigned int ms)
{
	struct timespec most = { .tv_nsec = ms * 1000000 };

	syscall(SYS_futex, at, FUTEX_WAIT, value, &most, NULL, 0);
}

static void wake(u32 *at)
{
	syscall(SYS_futex, at, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/*
 * On one CPU the thread with the highest priority preempts the others anywhere.
 */
static void set_policy(unsigned int round)
{
	bool fifo = is_plan(PLAN_FIFO) && round % 2;
	struct sched_param param = { .sched_priority = fifo ? 1 + self : 0 };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	if (!fifo)
		memset(&cpus, 0xff, sizeof(cpus));
	sched_setaffinity(0, sizeof(cpus), &cpus);
	sched_setscheduler(0, fifo ? SCHED_FIFO : SCHED_OTHER, &param);
}

static void run_step(unsigned int index)
{
	const struct step *step = &w->plan->steps[index];
	unsigned int i;
	int rc;

	if (is_plan(PLAN_FIFO) && step->round % 2)
		usleep(step->nap * 4);
	else
		for (i = 0; i < step->nap; i++)
			sched_yield();
	now = step;
	rc = ops[step->op].run(step->arg, step->how);
	report->results[index].rc = rc;
	report->results[index].when = add(&report->completed, 1);
	add(&report->calls[step->op], 1);
	if (rc >= 0)
		add(&report->good[step->op], 1);
}

static void run_round(unsigned int round)
{
	const struct plan *plan = w->plan;
	unsigned int i;

	set_policy(round);
	/* Start together, but do not wait long for the others. */
	add(&w->ready, 1);
	for (i = 0; i < 50 && get(&w->ready) < plan->nr_workers; i++)
		sched_yield();
	for (i = 0; i < plan->nr_steps; i++)
		if (plan->steps[i].worker == self &&
		    plan->steps[i].round == round)
			run_step(i);
}

static void *work(void *arg)
{
	unsigned int round;

	self = (uintptr_t)arg;
	for (round = 0; round < w->plan->nr_rounds; round++) {
		while (get(&w->go) <= round && !get(&w->stop))
			wait_on(&w->go, round, 100);
		if (get(&w->stop))
			break;
		run_round(round);
		set(&w->finished[self], round + 1);
		wake(&w->finished[self]);
	}
	set_policy(0);
	/* Keep the memory of this process until the end. */
	while (!get(&w->stop))
		wait_on(&w->stop, 0, 100);
	return NULL;
}

static void nothing(int nr)
{
}

static void start_workers(void)
{
	/* A signal that interrupts sleeping calls */
	struct sigaction action = { .sa_handler = nothing };
	uintptr_t i;
	pid_t pid;

	sigaction(SIGUSR1, &action, NULL);
	for (i = 0; i < w->plan->nr_workers; i++) {
		if (!is_plan(PLAN_PROCESSES)) {
			if (pthread_create(&w->threads[i], NULL, work,
					   (void *)i))
				broken(ENDS, "a worker cannot be started");
			continue;
		}
		/* The world is in shared memory. */
		pid = fork();
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			work((void *)i);
			_exit(0);
		}
		set(&w->pids[i], pid);
	}
}

/* Has the worker exited, as some plans require? */
static bool is_gone(unsigned int worker)
{
	int status;

	if (!is_plan(PLAN_PROCESSES))
		return false;
	if (!w->pids[worker])
		return true;
	if (waitpid(w->pids[worker], &status, WNOHANG) != w->pids[worker])
		return false;
	if (status && (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL))
		broken(ENDS, "a worker ended with status %x", status);
	w->pids[worker] = 0;
	set(&w->lost, true);
	return true;
}

static void wait_for_workers(unsigned int round)
{
	unsigned int i;
	u32 seen;

	for (i = 0; i < w->plan->nr_workers; i++)
		while ((seen = get(&w->finished[i])) <= round && !is_gone(i))
			wait_on(&w->finished[i], seen, 5);
}

static void end_workers(void)
{
	unsigned int i;

	set(&w->stop, 1);
	wake(&w->stop);
	wake(&w->go);
	for (i = 0; i < w->plan->nr_workers; i++)
		if (!is_plan(PLAN_PROCESSES))
			pthread_join(w->threads[i], NULL);
		else if (w->pids[i])
			waitpid(w->pids[i], NULL, 0);
}

void run_episode(const struct plan *plan)
{
	int rc = start_steady() ?: set_up(plan);
	unsigned int round;

	if (rc) {
		broken(ENDS, "it cannot be set up: %s", strerror(-rc));
		return;
	}
	start_workers();
	set(&report->running, 1);
	for (round = 0; round < plan->nr_rounds; round++) {
		report->round = round;
		w->ready = 0;
		set(&w->go, round + 1);
		wake(&w->go);
		wait_for_workers(round);
		if (w->lost)
			break;
		check_rest(false);
		add(&report->rounds, 1);
		if (report->broken)
			break;
		if (round + 1 < plan->nr_rounds)
			replenish();
	}
	if (w->lost) {
		end_workers();
		tear_down_lost();
		return;
	}
	/* The memory of processes exists only until they exit. */
	check_rest(true);
	end_workers();
	tear_down();
}

/* ---- operations on workers ----------------------------------------------- */

/* Change the protection of the arguments of another worker. */
int op_protect(const u8 *arg, enum how how)
{
	static const int prots[] = {
		PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
	};

	return mprotect(w->torn[arg[0]], PAGE, prots[arg[1]]) ? -errno : 0;
}

int op_signal(const u8 *arg, enum how how)
{
	unsigned int worker = arg[0] % w->plan->nr_workers;

	if (!is_plan(PLAN_PROCESSES))
		return -pthread_kill(w->threads[worker], SIGUSR1);
	if (!get(&w->pids[worker]))
		return -ESRCH;
	return kill(w->pids[worker], SIGUSR1) ? -errno : 0;
}

/* Another process has copies of all descriptors for a while. */
int op_fork(const u8 *arg, enum how how)
{
	pid_t pid;

	depend(DEP_FORKS);
	pid = fork();
	if (!pid)
		_exit(0);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	undepend(DEP_FORKS);
	return pid < 0 ? -errno : 0;
}

int op_exit(const u8 *arg, enum how how)
{
	set(&w->lost, true);
	_exit(0);
}

int op_kill(const u8 *arg, enum how how)
{
	pid_t pid = get(&w->pids[arg[0] % w->plan->nr_workers]);

	if (!pid)
		return -ESRCH;
	/* Its steps may be done, but its memory is unmapped when it exits. */
	set(&w->lost, true);
	return kill(pid, SIGKILL) ? -errno : 0;
}
