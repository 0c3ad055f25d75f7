// SPDX-License-Identifier: GPL-2.0-only
/*
 * Check random concurrent calls against a model.
 *
 * An episode (iommufd_model.h) has a plan that is made from a seed: two to four
 * workers, threads or processes, make calls of all kinds on a few shared
 * objects. Arguments can be unreadable or read-only, or in memory that is being
 * unmapped. Some rounds run on one CPU with SCHED_FIFO, and some workers are
 * killed. In two of three episodes tasks sleep between two steps of the driver
 * (iommufd_delays.h). After each round, when all workers have stopped, it is
 * checked that
 *
 * - the bytes that UNMAP has reported are those that were mapped, less those
 *   that still are;
 * - an access reads at each IOVA, byte for byte, a page that was mapped there,
 *   each domain maps the same page, and where nothing is mapped each domain can
 *   map;
 * - IOMMU_DESTROY returns EBUSY if and only if something depends on the object;
 *   also for calls that overlapped with others;
 *
 * and at the end of each episode that everything can be destroyed in the order
 * of dependencies, the table of objects is empty, nothing is pinned (VmPin,
 * VmLck, references of each page, counters of GUP), page tables are freed, and
 * the kernel log is empty. No call may take longer than its limit.
 *
 * A plan that fails is run again with fewer and fewer steps, as long as it
 * fails in the same way. The rest is printed, with a command that runs it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "iommufd_log.h"
#include "iommufd_options.h"
#include "iommufd_model.h"

u64 *steady;
struct report *report;
char delays[DELAYS_MAX][DELAY_NAME];
unsigned int nr_delays;
bool on_c;

/* An operation that takes longer hangs, and so does a killed process. */
#define HANG_MS 20000
/* How long to wait until freed memory is counted */
#define SETTLE_MS 5000
/* The longest time that is used beyond the given one */
#define PATIENCE 5

static struct {
	int log;
	long long pinned, tables;
	/* Values after each episode, see is_back() */
	bool wait;
	u64 episodes, killed;
} watch;

/* ---- what must hold between episodes ------------------------------------- */

static long long page_tables(void)
{
	return read_counter("/proc/vmstat", "nr_iommu_pages");
}

/*
 * Is a count back to BEFORE? RCU frees memory late, so this waits only now and
 * then.
 */
static bool is_back(long long (*count)(void), long long *before, bool wait,
		    long long *more)
{
	u64 end = now_ns() + SETTLE_MS * 1000000ULL;
	long long is;

	for (;;) {
		is = count();
		*more = is - *before;
		if (!*more || !wait)
			return true;
		if (now_ns() > end)
			break;
		usleep(10000);
	}
	/* Report it once. */
	*before = is;
	return false;
}

static void check_between(bool wait)
{
	long long more;
	char line[160];

	if (!is_back(pages_pinned, &watch.pinned, wait, &more))
		broken(PINS, "%lld more pages are pinned", more);
	/* pages_pinned() has updated the counts of all CPUs. */
	if (!is_back(page_tables, &watch.tables, wait, &more))
		broken(FLAT, "%lld more pages of page tables", more);
	while (log_next(watch.log, line, sizeof(line)))
		broken(SILENT, "%s", line);
}

/* ---- episodes ------------------------------------------------------------ */

/* The plan that is being run */
static const struct plan *running;

/* Time limits do not count pauses of the machine: see run_steady(). */
static bool is_late(unsigned int *waited_ms, u64 *before)
{
	u64 now = now_ns(), step;

	usleep(1000);
	step = (now - *before) / 1000000;
	*waited_ms += step < 20 ? step : 20;
	*before = now;
	return *waited_ms > HANG_MS;
}

static void give_up(const char *what)
{
	broken(ENDS, "%s", what);
	ksft_print_msg("not so that it ends: %s, round %u\n", report->text,
		       report->round);
	print_plan(running, report->results);
	ksft_test_result_fail("invariants\n");
	ksft_exit_fail_msg("there is no going on after that\n");
}

/* Orphans of it become children of this process. */
static void end_episode(pid_t pid)
{
	unsigned int waited = 0;
	u64 before = now_ns();
	pid_t gone;

	kill(-pid, SIGKILL);
	while ((gone = waitpid(-1, NULL, WNOHANG)) >= 0 || errno == EINTR)
		if (gone <= 0 && is_late(&waited, &before))
			give_up("a process of it cannot be killed");
}

/* Kill it while it runs. */
static void kill_episode(pid_t pid, u32 after_us)
{
	unsigned int waited = 0;
	u64 before = now_ns();
	int status = 0;

	while (!__atomic_load_n(&report->running, __ATOMIC_ACQUIRE) &&
	       !is_late(&waited, &before))
		;
	usleep(after_us);
	if (!waitpid(pid, &status, WNOHANG))
		watch.killed++;
	else if (status)
		broken(ENDS, "it ended with status %x", status);
	end_episode(pid);
}

static void wait_for_episode(pid_t pid)
{
	u64 before = now_ns(), seen = 0, done;
	unsigned int waited = 0;
	int status;

	while (!waitpid(pid, &status, WNOHANG)) {
		done = __atomic_load_n(&report->completed, __ATOMIC_RELAXED) +
		       __atomic_load_n(&report->rounds, __ATOMIC_RELAXED);
		if (done != seen)
			waited = 0;
		seen = done;
		if (!is_late(&waited, &before))
			continue;
		broken(ENDS, "nothing ends any more");
		end_episode(pid);
		return;
	}
	if (status)
		broken(ENDS, "it ended with status %x", status);
	end_episode(pid);
}

/* Start the delay of a plan, or end it and count. */
static void delay_driver(const struct plan *plan, bool start)
{
	unsigned int i;

	if (!plan->delay_us)
		return;
	if (start) {
		if (!set_delay(plan->delay, plan->delay_us))
			ksft_exit_fail_msg("no delay %s\n", plan->delay);
		return;
	}
	for (i = 0; i < nr_delays; i++)
		if (!strcmp(plan->delay, delays[i]))
			report->slept[i] += delayed(delays[i]);
	set_delay(plan->delay, 0);
}

bool run_plan(const struct plan *plan)
{
	pid_t pid;
	int null;

	report->broken = HOLDS;
	report->round = 0;
	report->completed = 0;
	report->running = 0;
	memset(report->results, 0, sizeof(report->results));
	watch.episodes++;
	running = plan;
	delay_driver(plan, true);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		/* If it hangs, it must not keep our output open. */
		null = open("/dev/null", O_RDWR);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
		run_episode(plan);
		_exit(0);
	}
	if (pid < 0)
		ksft_exit_fail_msg("cannot start an episode\n");
	setpgid(pid, pid);
	if (plan->flags & PLAN_KILLED)
		kill_episode(pid, plan->kill_us);
	else
		wait_for_episode(pid);
	delay_driver(plan, false);
	check_between(watch.wait);
	return report->broken == HOLDS;
}

/* ---- slab ---------------------------------------------------------------- */

#define CACHES_MAX 512

struct slab {
	unsigned int n;
	char names[CACHES_MAX][40];
	unsigned long objects[CACHES_MAX];
};

static void write_one(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (write(fd, "1", 1) != 1)
		errno = 0;
	close(fd);
}

/* Objects in use, after RCU has freed; false if unknown */
static bool read_slab(struct slab *slab)
{
	char line[256], path[80];
	unsigned int i;
	FILE *file;

	for (i = 0; i < slab->n; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink",
			 slab->names[i]);
		write_one(path);
	}
	write_one("/sys/module/rcutree/parameters/do_rcu_barrier");
	usleep(300000);
	slab->n = 0;
	file = fopen("/proc/slabinfo", "r");
	while (file && fgets(line, sizeof(line), file) &&
	       slab->n < CACHES_MAX)
		if (sscanf(line, "%39s %lu", slab->names[slab->n],
			   &slab->objects[slab->n]) == 2)
			slab->n++;
	if (file)
		fclose(file);
	return slab->n;
}

/* A cache that has grown by this number in each of two phases */
static const char *growing(const struct slab s[3], unsigned long least)
{
	unsigned int i;

	for (i = 0; i < s[2].n; i++)
		if (i < s[0].n && i < s[1].n &&
		    !strcmp(s[0].names[i], s[2].names[i]) &&
		    !strcmp(s[1].names[i], s[2].names[i]) &&
		    s[1].objects[i] > s[0].objects[i] + least &&
		    s[2].objects[i] > s[1].objects[i] + least)
			return s[2].names[i];
	return NULL;
}

/* ---- main ---------------------------------------------------------------- */

static struct plan plan;
static double seconds = 5, shrink_seconds = 20;
static bool again, verbose;
static const char *plan_text;
static u64 seed;

static const struct test_option options[] = {
	{ 'c', .flag = &on_c,
	  .help = "the module is C's: leave out what it is known to do otherwise" },
	{ 't', "SECONDS", .seconds = &seconds, .help = "for episodes" },
	{ 's', "SEED", .number64 = &seed,
	  .help = "of the first episode; each has the next; 0: of the clock" },
	{ '1', .flag = &again, .help = "one episode, over and over" },
	{ 'p', "PLAN", .text = &plan_text,
	  .help = "the same with a plan that was printed" },
	{ 'S', "SECONDS", .seconds = &shrink_seconds,
	  .help = "to shrink what is found" },
	{ 'v', .flag = &verbose, .help = "how often each operation succeeds" },
};

/* The first operation that has not succeeded yet */
static const struct op *missing(void)
{
	unsigned int i;

	for (i = 0; i < nr_ops; i++)
		if (!report->good[i] && !ops[i].may_fail)
			return &ops[i];
	return NULL;
}

/* The first place at which no task has slept yet */
static const char *not_delayed(void)
{
	unsigned int i;

	for (i = 0; i < nr_delays; i++)
		if (!report->slept[i] && strcmp(delays[i], FAULT_TAKEN))
			return delays[i];
	return NULL;
}

/* Which of the last N episodes has left something? */
static void find_leak(unsigned int n)
{
	struct report first = *report;
	u64 last = seed;

	watch.wait = true;
	for (seed = last - n; seed < last; seed++) {
		make_plan(&plan, seed);
		if (!run_plan(&plan))
			return;
	}
	ksft_print_msg("one of the seeds %lu to %lu\n", last - n, last - 1);
	*report = first;
}

#define BATCH 8

/* Run episodes for this time, or until one fails. */
static bool run_episodes(double time, bool all_ops)
{
	u64 start = now_ns();
	unsigned int n = 0;
	double past;
	bool last;

	do {
		if (!plan_text)
			make_plan(&plan, seed);
		if (!run_plan(&plan))
			return false;
		n++;
		if (!again)
			seed++;
		past = (now_ns() - start) / 1e9;
		last = past > time &&
		       (!all_ops || past > time * PATIENCE ||
			(!missing() && !not_delayed() && watch.killed));
		if (n < BATCH && !last)
			continue;
		check_between(true);
		if (report->broken && !again)
			find_leak(n);
		if (report->broken)
			return false;
		n = 0;
	} while (!last);
	return true;
}

static void print_counts(void)
{
	u64 calls = 0, good = 0;
	unsigned int i;

	for (i = 0; i < nr_ops; i++) {
		calls += report->calls[i];
		good += report->good[i];
		if (verbose || (!report->good[i] && !ops[i].may_fail))
			ksft_print_msg("%-16s %8lu times, %lu succeeded\n",
				       ops[i].name, report->calls[i],
				       report->good[i]);
	}
	for (i = 0; i < nr_delays; i++)
		if (verbose || !report->slept[i])
			ksft_print_msg("%-16s %8lu sleeps\n", delays[i],
				       report->slept[i]);
	ksft_print_msg("%lu episodes, %lu of them killed, %lu rounds\n",
		       watch.episodes, watch.killed, report->rounds);
	ksft_print_msg("%lu operations, %lu%% succeeded\n", calls,
		       calls ? good * 100 / calls : 0);
	ksft_print_msg("%lu pages looked at; %lu times DESTROY, %lu times EBUSY\n",
		       report->areas, report->destroys, report->busy);
}

static void start_watch(void)
{
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
	close(fd);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1))
		ksft_exit_fail_msg("no subreaper: %s\n", strerror(errno));
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	nr_delays = list_delays(delays);
	watch.log = log_open();
	watch.pinned = pages_pinned_at_rest();
	watch.tables = page_tables();
}

int main(int argc, char **argv)
{
	static struct slab slabs[3];
	const struct op *op;
	const char *cache = NULL;
	bool holds, told;
	u64 half = 0;
	unsigned int i;

	parse_options(argc, argv, "", options, ARRAY_SIZE(options));
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (plan_text && !read_plan(&plan, plan_text)) {
		fprintf(stderr, "this is no plan\n");
		return 2;
	}
	if (!seed)
		seed = now_ns() % 1000000007 + 1;
	again |= !!plan_text;
	ksft_print_header();
	start_watch();
	ksft_set_plan(5);
	if (!plan_text)
		ksft_print_msg("seed %lu\n", seed);
	/* After a few episodes everything that is allocated once is. */
	holds = run_episodes(seconds / 4, false);
	told = read_slab(&slabs[0]);
	for (i = 1; i < 3 && holds; i++) {
		half = watch.episodes;
		holds = run_episodes(seconds * 3 / 8, i == 2 && !again);
		half = watch.episodes - half;
		read_slab(&slabs[i]);
	}
	print_counts();
	op = missing();
	if (holds) {
		for (i = 0; i < 3; i++) {
			cache = growing(slabs, half / 2 + 8);
			if (!cache)
				break;
			sleep(1);
			read_slab(&slabs[2]);
		}
	} else {
		watch.wait = report->broken == PINS || report->broken == FLAT;
		shrink(&plan, shrink_seconds);
	}
	ksft_test_result(holds, "invariants\n");
	if (op && !again && holds)
		ksft_print_msg("%s never succeeds\n", op->name);
	if (again || !holds)
		ksft_test_result_skip("every operation succeeds\n");
	else
		ksft_test_result(!op, "every operation succeeds\n");
	if (not_delayed() && !again && holds)
		ksft_print_msg("no task has come to %s\n", not_delayed());
	if (again || !holds || !nr_delays)
		ksft_test_result_skip("every delay is met\n");
	else
		ksft_test_result(!not_delayed(), "every delay is met\n");
	if (again || !holds)
		ksft_test_result_skip("episodes are killed\n");
	else
		ksft_test_result(watch.killed, "episodes are killed\n");
	if (cache)
		ksft_print_msg("%s grows\n", cache);
	if (!told || !holds)
		ksft_test_result_skip("slab is flat\n");
	else
		ksft_test_result(!cache, "slab is flat\n");
	ksft_finished();
}
