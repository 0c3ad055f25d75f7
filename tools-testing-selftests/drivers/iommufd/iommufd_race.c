// SPDX-License-Identifier: GPL-2.0-only
/*
 * Race calls of several threads on one context against each other. Whatever the
 * interleaving, nothing may leak, no call may wait for long, and each result
 * must be explained by some order of the calls.
 *
 * A case (iommufd_race_cases.c) has workers that take turns at random. It runs
 * in sessions of some milliseconds, each on a context of its own. Half of them
 * end in order. In the other half the fd is replaced by one of /dev/null while
 * the workers run, so that one of their calls is the last to hold the context.
 * After each session the module has no users. After each case no page is
 * pinned, no mock device is left, as much can be pinned under RLIMIT_MEMLOCK as
 * before, and there are as many pages of page tables.
 *
 * A case lists the kinds of calls that it makes. Each must have succeeded.
 * EBUSY is allowed only while another worker was in a call that explains it,
 * which is checked.
 *
 * No verdict depends on the speed of the machine. How many calls succeed
 * depends on the scheduler: if they are too few, the case is repeated with the
 * workers pausing, longer and longer. Durations do not count pauses of the
 * machine.
 *
 * The same seed makes the same calls, but with another timing: a failure prints
 * the case, seed and time to run again. A case that must hit its window each
 * time belongs into iommufd_kinds, which uses one CPU and SCHED_FIFO; one that
 * takes several steps belongs into iommufd_model, which prints them.
 *
 * With modules to load, each case runs on each of them in turn, and unloads it
 * after the last session. A reference module (-r) is measured and not judged.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "iommufd_options.h"
#include "iommufd_race.h"
#include "kselftest.h"

/*
 * The longest duration of a call on any machine. A task that misses a wake-up
 * waits for a minute or forever.
 */
#define WAIT_LIMIT_NS (5 * 1000000000ULL)
#define UNLOAD_LIMIT_MS 60000
/* A case that takes this much longer than it should hangs. */
#define PATIENCE_SECONDS 300
/* How long to continue for calls that do not succeed */
#define CALM_SECONDS 60
#define CALM_FIRST_US 1000
#define CALM_LAST_US 64000
#define MEM_SIZE (64 * PAGE)
#define FEW_CALLS 200
/* The number of sessions with pauses; fewer if there is no time */
#define CALM_CALLS 100
#define LIMIT_PAGES 512
#define MODULES_MAX 4

static const char *const op_names[OP_NR] = {
	[OP_LOOKUP] = "lookup",	  [OP_ALLOC] = "alloc",
	[OP_ABORT] = "abort",	  [OP_DESTROY] = "destroy",
	[OP_MAP] = "map",	  [OP_UNMAP] = "unmap",
	[OP_COPY] = "copy",	  [OP_CHECK] = "check",
	[OP_HWPT] = "hwpt",	  [OP_REPLACE] = "replace",
	[OP_PIN] = "pin",	  [OP_UNPIN] = "unpin",
	[OP_RW] = "rw",		  [OP_REVOKE] = "revoke",
	[OP_TRIGGER] = "trigger", [OP_READ] = "read",
	[OP_WRITE] = "write",	  [OP_POLL] = "poll",
	[OP_MMAP] = "mmap",	  [OP_FORK] = "fork",
	[OP_CHANGE] = "change",	  [OP_PUNCH] = "punch",
	[OP_DIRTY] = "dirty",	  [OP_CUT] = "cut",
	[OP_ANSWER] = "answer",	  [OP_LOST] = "lost",
	[OP_ALONE] = "alone",
};

struct module {
	const char *path;
	const char *name;
	bool judged;
};

struct options {
	struct module modules[MODULES_MAX];
	unsigned int nr_modules;
	const char *only;
	double seconds;
	u64 seed;
	bool verbose;
};

/* The result of a case on one module */
struct outcome {
	struct op_stats stats[OP_NR];
	/* The sessions with the last pause; whether there will be more */
	struct op_stats calm[OP_NR];
	bool over;
	u64 sessions, worst_close_ns;
	unsigned int pace;
	enum op odd_op;
	int odd_errno;
	/* Left over: pinned pages, users of the module, devices, limit */
	long long pinned;
	int holders, devices;
	bool no_room;
	/* Sessions whose objects could not be destroyed in order */
	unsigned int unsettled;
	/* Pages of page tables, more than before */
	long long table_pages;
	int setup, unload;
	u64 unload_ns;
};

int done(struct worker *w, enum op which, int rc, ...)
{
	struct op_stats *stats = &w->stats[which];
	u64 took = steady_ns() - w->start;
	bool excused = false;
	va_list list;
	int e;

	set(&w->calls, w->calls + 1);
	/* The file operations of /dev/null; earlier calls are not affected. */
	if (get(&w->s->closed) &&
	    (rc == -ENOTTY || rc == -ENODEV || rc == -EBADF))
		return rc;
	stats->calls++;
	if (took > stats->worst_ns)
		stats->worst_ns = took;
	if (rc >= 0) {
		stats->good++;
		return rc;
	}
	if (rc > -ERRNOS)
		stats->errnos[-rc]++;
	va_start(list, rc);
	while ((e = va_arg(list, int)))
		excused |= e == -rc;
	va_end(list);
	if (!excused && !w->odd_errno) {
		w->odd_op = which;
		w->odd_errno = -rc;
	}
	return rc;
}

/* ---- sessions ------------------------------------------------------------ */

struct crew {
	const struct race_case *what;
	struct session *s;
	struct worker workers[WORKERS_MAX];
	pthread_t threads[WORKERS_MAX];
	pthread_barrier_t start, end;
	bool quit;
};

static struct crew *crew;
u64 *steady;

static void *work(void *arg)
{
	struct worker *w = arg;

	for (;;) {
		pthread_barrier_wait(&crew->start);
		if (crew->quit)
			return NULL;
		while (!get(&w->s->stop)) {
			if (w->number && w->s->pace)
				nap(w, w->s->pace);
			set(&w->turns, w->turns + 1);
			crew->what->turn(w->s, w);
			set(&w->turns, w->turns + 1);
		}
		if (crew->what->leave)
			crew->what->leave(w->s, w);
		pthread_barrier_wait(&crew->end);
	}
}

static void hire(const struct race_case *what, u64 seed, bool reference)
{
	unsigned int i;

	if (start_steady())
		ksft_exit_fail_msg("cannot make a thread\n");
	crew = shared_memory(sizeof(*crew));
	crew->what = what;
	crew->s = shared_memory(sizeof(*crew->s));
	crew->s->what = what;
	crew->s->workers = crew->workers;
	crew->s->seen = shared_memory(SEEN * sizeof(*crew->s->seen));
	crew->s->rng = seed;
	crew->s->reference = reference;
	pthread_barrier_init(&crew->start, NULL, what->threads + 1);
	pthread_barrier_init(&crew->end, NULL, what->threads + 1);
	for (i = 0; i < what->threads; i++) {
		struct worker *w = &crew->workers[i];

		w->s = crew->s;
		w->number = i;
		w->rng = seed * 1000 + i;
		/* Private: memory to pin must not be shared. */
		w->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		w->buffer = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (w->mem == MAP_FAILED || w->buffer == MAP_FAILED ||
		    pthread_create(&crew->threads[i], NULL, work, w))
			ksft_exit_fail_msg("cannot make a thread\n");
	}
}

static void fire(void)
{
	unsigned int i;

	crew->quit = true;
	pthread_barrier_wait(&crew->start);
	for (i = 0; i < crew->what->threads; i++) {
		pthread_join(crew->threads[i], NULL);
		munmap(crew->workers[i].mem, MEM_SIZE);
		munmap(crew->workers[i].buffer, MEM_SIZE);
	}
}

/* One context; -errno if it cannot be created */
static int run_session(struct outcome *outcome, unsigned int number)
{
	struct session *s = crew->s;
	bool abrupt = number % 2 && !crew->what->orderly;
	u64 start, took;
	int null, rc;

	memset(s->slot, 0, sizeof(s->slot));
	/* Events of this session have new numbers. */
	memset(s->seen, 0, SEEN * sizeof(*s->seen));
	s->shown = 0;
	s->moves = 0;
	s->number = number;
	s->closed = false;
	s->stop = false;
	s->child = 0;
	s->memfd = -1;
	s->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	rc = crew->what->setup ? crew->what->setup(s) : 0;
	if (rc)
		return rc;

	pthread_barrier_wait(&crew->start);
	usleep(2000 + below(&s->rng, 40000) + 8 * s->pace);
	start = steady_ns();
	if (abrupt) {
		/* From here on only calls hold the context. */
		set(&s->closed, true);
		dup2(null, s->fd);
	}
	usleep(1000);
	set(&s->stop, true);
	pthread_barrier_wait(&crew->end);
	if (!abrupt)
		start = steady_ns();
	if (crew->what->cleanup)
		crew->what->cleanup(s);
	if (!abrupt && crew->what->settle && !crew->what->settle(s))
		outcome->unsettled++;
	close(s->fd);
	took = steady_ns() - start;
	if (took > outcome->worst_close_ns)
		outcome->worst_close_ns = took;
	if (s->memfd >= 0)
		close(s->memfd);
	close(null);
	return 0;
}

/* ---- leftovers ----------------------------------------------------------- */

static int mock_devices(void)
{
	DIR *dir = opendir("/sys/bus/iommufd_mock/devices");
	struct dirent *entry;
	int n = 0;

	while (dir && (entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return n;
}

/* Can exactly as much be pinned as RLIMIT_MEMLOCK allows? */
static bool has_room(void)
{
	struct rlimit limit = { LIMIT_PAGES * PAGE, RLIM_INFINITY };
	struct rlimit old;
	struct mock mock;
	bool room;
	void *mem;
	u32 ioas;
	int fd;

	getrlimit(RLIMIT_MEMLOCK, &old);
	setrlimit(RLIMIT_MEMLOCK, &limit);
	mem = mmap(NULL, (LIMIT_PAGES + 1) * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	room = fd >= 0 && !do_ioas_alloc(fd, &ioas) &&
	       !do_mock_device(fd, ioas, &mock) &&
	       do_map(fd, ioas, mem, (LIMIT_PAGES + 1) * PAGE,
		      MOCK_APERTURE_START) == -ENOMEM &&
	       !do_map(fd, ioas, mem, LIMIT_PAGES * PAGE, MOCK_APERTURE_START);
	close(fd);
	munmap(mem, (LIMIT_PAGES + 1) * PAGE);
	setrlimit(RLIMIT_MEMLOCK, &old);
	return room;
}

/* ---- cases --------------------------------------------------------------- */

static void add_stats(struct op_stats *sum, const struct op_stats *stats)
{
	unsigned int i;

	sum->calls += stats->calls;
	sum->good += stats->good;
	if (stats->worst_ns > sum->worst_ns)
		sum->worst_ns = stats->worst_ns;
	for (i = 0; i < ERRNOS; i++)
		sum->errnos[i] += stats->errnos[i];
}

/* Add up the counts of the workers. */
static void collect(struct outcome *outcome)
{
	unsigned int i, j;

	if (outcome->pace != crew->s->pace)
		memset(outcome->calm, 0, sizeof(outcome->calm));
	outcome->pace = crew->s->pace;
	/* One can be another process. */
	for (i = 0; i < WORKERS_MAX; i++) {
		struct worker *w = &crew->workers[i];

		for (j = 0; j < OP_NR; j++) {
			add_stats(&outcome->stats[j], &w->stats[j]);
			add_stats(&outcome->calm[j], &w->stats[j]);
		}
		memset(w->stats, 0, sizeof(w->stats));
		if (w->odd_errno && !outcome->odd_errno) {
			outcome->odd_op = w->odd_op;
			outcome->odd_errno = w->odd_errno;
		}
	}
}

static bool has_share(const struct race_case *what,
		      const struct op_stats *stats, enum op which)
{
	unsigned int least = what->least, i;

	for (i = 0; i < ARRAY_SIZE(what->rare); i++)
		if (what->rare[i].least && what->rare[i].op == which)
			least = what->rare[i].least;
	return stats->good && stats->good * 100 >= stats->calls * least;
}

static bool enough(const struct race_case *what, const struct outcome *o,
		   enum op which)
{
	const struct op_stats *all = &o->stats[which], *calm = &o->calm[which];

	if (!(what->ops & (1U << which)))
		return true;
	/* The share of a few calls is not judged. */
	if ((all->good && all->calls < FEW_CALLS) ||
	    has_share(what, all, which))
		return true;
	return o->pace && (calm->calls >= CALM_CALLS || o->over) &&
	       has_share(what, calm, which);
}

static bool all_enough(const struct race_case *what,
		       const struct outcome *outcome)
{
	unsigned int i;

	for (i = 0; i < OP_NR; i++)
		if (!enough(what, outcome, i))
			return false;
	return true;
}

/* Run sessions for this time; false if there should be no more. */
static bool run_sessions(struct outcome *outcome, double seconds, int holders)
{
	u64 end = now_ns() + seconds * 1e9;

	do {
		outcome->setup = run_session(outcome, outcome->sessions++);
		if (outcome->setup)
			_exit(1);
		outcome->holders = holders_at_most(holders) - holders;
	} while (now_ns() < end && !outcome->holders);
	collect(outcome);
	return !outcome->holders;
}

/*
 * In a process of its own, so that anything left behind is a leak; an alarm
 * watches over it.
 */
static void run_case(const struct options *options,
		     const struct race_case *what, bool reference,
		     struct outcome *outcome)
{
	int holders = module_holders();
	struct rlimit limit = { 4096 * PAGE, RLIM_INFINITY };
	unsigned int *pace;
	u64 end;

	alarm(options->seconds + PATIENCE_SECONDS);
	setrlimit(RLIMIT_MEMLOCK, &limit);
	drop_ipc_lock();
	hire(what, options->seed, reference);
	pace = &crew->s->pace;
	if (run_sessions(outcome, options->seconds, holders)) {
		end = now_ns() + CALM_SECONDS * 1000000000ULL;
		*pace = CALM_FIRST_US;
		while (!all_enough(what, outcome) && now_ns() < end &&
		       run_sessions(outcome, 1 + options->seconds, holders))
			if (*pace < CALM_LAST_US)
				*pace *= 2;
		outcome->over = true;
	}
	fire();
	outcome->devices = mock_devices();
	outcome->no_room = !has_room();
}

static void print_op(const struct op_stats *stats, enum op which)
{
	char text[256];
	size_t used;
	int e;

	used = snprintf(text, sizeof(text),
			"    %-8s %8lu calls, %3lu%% good, worst %lu ms;",
			op_names[which], stats->calls,
			stats->good * 100 / stats->calls,
			stats->worst_ns / 1000000);
	for (e = 1; e < ERRNOS; e++)
		if (stats->errnos[e] && used < sizeof(text))
			used += snprintf(text + used, sizeof(text) - used,
					 " %s %u", strerrorname_np(e) ?: "?",
					 stats->errnos[e]);
	ksft_print_msg("%s\n", text);
}

static void report(const struct options *options,
		   const struct race_case *what, const struct module *module,
		   const struct outcome *o, int status)
{
	const struct op_stats *destroys = &o->stats[OP_DESTROY];
	u64 calls = 0, good = 0, worst = 0;
	bool ok = !status;
	unsigned int i;

	for (i = 0; i < OP_NR; i++) {
		calls += o->stats[i].calls;
		good += o->stats[i].good;
		if (o->stats[i].worst_ns > worst)
			worst = o->stats[i].worst_ns;
	}
	ksft_print_msg("%s on %s: %lu sessions, %lu calls, %lu%% succeeded\n",
		       what->name, module->name, o->sessions, calls,
		       calls ? good * 100 / calls : 0);
	ksft_print_msg("  worst DESTROY %.3f s (EBUSY %u), close %.3f s, any %.3f s; unload %.1f\n",
		       destroys->worst_ns / 1e9, destroys->errnos[EBUSY],
		       o->worst_close_ns / 1e9, worst / 1e9,
		       o->unload_ns / 1e9);
	if (o->pace)
		ksft_print_msg("  too few succeeded under fire; pauses of up to %u us\n",
			       o->pace);
	if (status)
		ksft_print_msg("  the process ended with status %x\n", status);
	if (o->setup)
		ksft_print_msg("  cannot be set up: %s\n",
			       strerror(-o->setup));
	for (i = 0; i < OP_NR; i++) {
		if (!(what->ops & (1U << i)) && o->stats[i].calls) {
			ksft_print_msg("  not in the list of the case: %s\n",
				       op_names[i]);
			ok = false;
		}
		if (what->ops & (1U << i) && !o->stats[i].calls)
			ksft_print_msg("  never called: %s\n", op_names[i]);
		if (!enough(what, o, i)) {
			ksft_print_msg("  too few succeed: %s\n", op_names[i]);
			ok = false;
		}
		if (!o->stats[i].calls)
			continue;
		if (!enough(what, o, i)) {
			print_op(&o->stats[i], i);
			if (o->calm[i].calls)
				print_op(&o->calm[i], i);
		} else if (options->verbose) {
			print_op(&o->stats[i], i);
		}
	}
	if (o->odd_errno) {
		ksft_print_msg("  nothing explains %s of %s\n",
			       strerrorname_np(o->odd_errno) ?: "?",
			       op_names[o->odd_op]);
		ok = false;
	}
	if (worst > WAIT_LIMIT_NS || o->worst_close_ns > WAIT_LIMIT_NS) {
		ksft_print_msg("  somebody waits too long\n");
		ok = false;
	}
	if (o->unsettled) {
		ksft_print_msg("  %u sessions ended with what cannot be destroyed\n",
			       o->unsettled);
		ok = false;
	}
	if (o->pinned || o->holders || o->devices || o->no_room ||
	    o->unload || o->table_pages) {
		ksft_print_msg("  left over: %lld pages pinned, %lld of page tables\n",
			       o->pinned, o->table_pages);
		ksft_print_msg("  %d holders, %d devices%s\n", o->holders,
			       o->devices,
			       o->no_room ? ", pages on the user's account" :
					    "");
		ksft_print_msg("  unload: %s\n", strerror(-o->unload));
		ok = false;
	}
	if (!ok)
		ksft_print_msg("  again: iommufd_race -s %lu -t %.1f %s\n",
			       options->seed, options->seconds, what->name);
	if (module->judged)
		ksft_test_result(ok && calls, "%s\n", what->name);
}

/* Pinned pages, and pages of page tables, before the case */
static long long pinned_before, table_pages_before;

static void run_on(const struct options *options,
		   const struct race_case *what, const struct module *module)
{
	struct outcome *outcome = shared_memory(sizeof(*outcome));
	int status = 0, rc;
	u64 start;
	pid_t pid;

	if (module->path) {
		rc = module_load(module->path);
		if (rc)
			ksft_exit_fail_msg("load %s: %s\n", module->path,
					   strerror(-rc));
	}
	fflush(stdout);
	pid = fork();
	if (!pid) {
		run_case(options, what, !module->judged, outcome);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_msg("cannot start a case\n");
	if (module->path) {
		start = now_ns();
		outcome->unload = module_unload(UNLOAD_LIMIT_MS);
		outcome->unload_ns = now_ns() - start;
	}
	outcome->pinned = pages_left_pinned(pinned_before);
	pinned_before += outcome->pinned;
	outcome->table_pages = table_pages_left(table_pages_before);
	table_pages_before += outcome->table_pages;
	report(options, what, module, outcome, status);
	if (outcome->unload)
		ksft_exit_fail_msg("%s does not go away\n", module->path);
	munmap(outcome, sizeof(*outcome));
}

/* ---- main ---------------------------------------------------------------- */

static struct options options = { .seconds = 2 };

static void add_module(const char *path, bool judged)
{
	struct module *module = &options.modules[options.nr_modules++];

	if (options.nr_modules > MODULES_MAX)
		ksft_exit_fail_msg("too many modules\n");
	module->path = path;
	module->judged = judged;
	module->name = "iommufd";
	if (path)
		module->name = strrchr(path, '/') ? strrchr(path, '/') + 1 :
						    path;
}

static void add_judged(const char *path)
{
	add_module(path, true);
}

static void add_reference(const char *path)
{
	add_module(path, false);
}

int main(int argc, char **argv)
{
	unsigned int i, j, judged = 0, n = 0;
	bool list = false;
	const struct test_option table[] = {
		{ 't', "SECONDS", .seconds = &options.seconds,
		  .help = "for each case" },
		{ 's', "SEED", .number64 = &options.seed,
		  .help = "of what the threads do" },
		{ 'm', "MODULE", .add = add_judged,
		  .help = "load this iommufd.ko for each case, and unload it after" },
		{ 'r', "MODULE", .add = add_reference,
		  .help = "the same, for comparison: what it does is shown, not judged" },
		{ 'v', .flag = &options.verbose,
		  .help = "what came of each kind of call" },
		{ 'l', .flag = &list, .help = "list the cases" },
	};
	int fd;

	options.seed = any_seed();
	options.only = argv[parse_options(argc, argv, "[CASE]", table,
					  ARRAY_SIZE(table))];
	for (i = 0; list && i < nr_race_cases; i++)
		printf("%-14s %s\n", race_cases[i].name, race_cases[i].about);
	if (list)
		return 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	ksft_print_header();
	if (!options.nr_modules) {
		fd = open("/dev/iommu", O_RDWR);
		if (fd < 0)
			ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
		close(fd);
		add_module(NULL, true);
	}
	for (i = 0; i < options.nr_modules; i++)
		judged += options.modules[i].judged;
	for (i = 0; i < nr_race_cases; i++)
		n += !options.only || !strcmp(race_cases[i].name, options.only);
	if (!n)
		ksft_exit_fail_msg("no such case: see -l\n");
	ksft_set_plan(n * judged);
	pinned_before = pages_pinned_at_rest();
	table_pages_before = table_pages();
	ksft_print_msg("seed %lu, %.1f s each\n", options.seed,
		       options.seconds);
	for (i = 0; i < nr_race_cases; i++)
		for (j = 0; j < options.nr_modules; j++)
			if (!options.only ||
			    !strcmp(race_cases[i].name, options.only))
				run_on(&options, &race_cases[i],
				       &options.modules[j]);
	ksft_finished();
}
