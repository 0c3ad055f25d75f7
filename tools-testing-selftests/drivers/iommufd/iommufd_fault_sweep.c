// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test each call with each failure that fault injection can trigger in it.
 *
 * A case (iommufd_fault_sweep_cases.c) is a context in some state and one
 * system call. The call is made with its first point of failure failing, then
 * in a new context with the second, until it succeeds without a failure. Points
 * of failure are allocations of slabs and pages, user copies, and
 * iommufd_should_fail(), as far as the kernel is configured for them. Each
 * time:
 *
 * - After a failure the state is that before the call (_state.c compares it),
 *   and the same call then succeeds with the same result as without failures.
 * - If the call succeeds in spite of a failure, the result is the same, too.
 * - The context can be destroyed, object by object or by closing it, and leaves
 *   no page pinned, no memory charged, no file and no reference to the module.
 *
 * RLIMIT_MEMLOCK is just enough for the call without failures, so that a charge
 * that is lost makes later calls fail.
 *
 * A case without a point of failure fails, unless marked. There is only one
 * thread, since others would change the state.
 *
 * If the uAPI lets a call take effect before its results are copied out, or in
 * part, the case says so. Calls that destroy must succeed in any case, also
 * with every allocation failing. Each case is also run once with a read-only
 * argument, as few kernels can inject failures of user copies.
 *
 * With two modules, the first one being the reference, cases run on both. Where
 * a case has such an exception, both must have the same outcomes.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "iommufd_fault_sweep.h"
#include "kselftest.h"

/* More points of failure than any call has */
#define NTH_MAX 5000
#define OUTCOMES 24
/* A case that takes longer hangs. */
#define SECONDS 1200

/* The outcome of a call, besides the errno */
enum state {
	UNCHANGED,
	DONE,
	/* Done in part */
	OTHER,
};

static const char *const state_names[] = { "unchanged", "done", "other" };

struct outcome {
	int error;
	enum state state;
	unsigned int times;
};

/* The result of a case, shared with the process that it runs in */
struct report {
	unsigned int points;
	struct outcome outcomes[OUTCOMES];
	unsigned int nr_outcomes;
	unsigned int wrong;
	/* The first error */
	char message[24576];
	struct text good;
	bool finished;
};

struct options {
	const char *module[2];
	const char *pattern;
	bool quick, verbose;
};

static struct options options;
static int nth_fd, all_fd, mem_file;
/* References to the module that are not ours */
static int others;
static struct world *w;

/* ---- injecting ----------------------------------------------------------- */

#define ATTRS "/sys/kernel/debug/"
static const char *const attrs[] = { "failslab", "fail_page_alloc" };

static void set_attr(const char *attr, const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), ATTRS "%s/%s", attr, name);
	/* Some kernels do not have all of them. */
	write_text(path, value);
}

/* Let any allocation fail, without a message */
static bool set_injection(void)
{
	unsigned int i;

	if (access(ATTRS "failslab/ignore-gfp-wait", W_OK))
		return false;
	for (i = 0; i < ARRAY_SIZE(attrs); i++) {
		set_attr(attrs[i], "ignore-gfp-wait", "N");
		set_attr(attrs[i], "ignore-gfp-highmem", "N");
		set_attr(attrs[i], "min-order", "0");
		set_attr(attrs[i], "verbose", "0");
	}
	/* These fail by fail-nth only. */
	set_attr("fail_usercopy", "verbose", "0");
	set_attr("fail_iommufd", "verbose", "0");
	return true;
}

static void arm(unsigned int nth)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%u", nth);

	if (pwrite(nth_fd, text, n, 0) != n)
		abort();
}

/* Was the point reached? Asking can fail, too. */
static bool disarm(void)
{
	char text[16] = "";
	ssize_t n = pread(nth_fd, text, sizeof(text) - 1, 0);
	bool left = n < 0;

	/* Writing can fail, too. */
	if (pwrite(nth_fd, "0", 1, 0) != 1) {
		left = true;
		arm(0);
	}
	return !left && !strcmp(text, "0\n");
}

/* Make all allocations of this task fail from now on, or stop that */
static void fail_all(bool on)
{
	unsigned int i;

	if (on)
		for (i = 0; i < ARRAY_SIZE(attrs); i++) {
			set_attr(attrs[i], "task-filter", "Y");
			set_attr(attrs[i], "times", "-1");
			set_attr(attrs[i], "space", "0");
			set_attr(attrs[i], "probability", "100");
		}
	/* It was opened earlier, while that was possible. */
	if (pwrite(all_fd, on ? "1" : "0", 1, 0) != 1)
		abort();
	if (!on)
		for (i = 0; i < ARRAY_SIZE(attrs); i++)
			set_attr(attrs[i], "probability", "0");
}

/* ---- a world ------------------------------------------------------------- */

static void set_memory_limit(unsigned int limit)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
		.memory_limit.limit = limit,
	};

	test_ioctl(w->check_fd, &cmd);
}

static void limit_memlock(rlim_t bytes)
{
	struct rlimit limit = { bytes, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &limit);
}

static bool make_world(const struct sweep_case *c, struct report *r)
{
	int check_fd = w->check_fd, mem_fd = w->mem_fd;

	memset(w, 0, sizeof(*w));
	w->check_fd = check_fd;
	w->mem_fd = mem_fd;
	w->fd = -1;
	w->fault_fd = -1;
	w->veventq_fd = -1;
	w->pin_fd = -1;
	w->rw_fd = -1;
	w->dmabuf = -1;
	memset((void *)MEM, 0x11, MEM_SIZE);
	set_memory_limit(c->flags & SMALL_BATCHES ? 48 : 65536);
	c->setup(w);
	if (w->error)
		snprintf(r->message, sizeof(r->message),
			 "setup fails at line %d: %s\n", w->line,
			 strerror(w->error));
	return !w->error;
}

__printf(2, 3)
static void complain(struct report *r, const char *format, ...)
{
	size_t used = strlen(r->message);
	va_list args;

	if (r->wrong++ > 3)
		return;
	va_start(args, format);
	vsnprintf(r->message + used, sizeof(r->message) - used, format, args);
	va_end(args);
}

/* The first line where two texts differ. */
static void complain_lines(struct report *r, const char *want, const char *got)
{
	const char *a = want, *b = got;

	while (*a && *b) {
		size_t an = strcspn(a, "\n"), bn = strcspn(b, "\n");

		if (an != bn || memcmp(a, b, an))
			break;
		a += an + !!a[an];
		b += bn + !!b[bn];
	}
	complain(r, "  want: %.*s\n", (int)strcspn(a, "\n"), a);
	r->wrong--;
	complain(r, "  have: %.*s\n", (int)strcspn(b, "\n"), b);
	r->wrong--;
}

static void end_world(struct report *r, unsigned int nth)
{
	static struct text left;
	int held;

	left.used = 0;
	left.bytes[0] = 0;
	take_apart(w, nth % 2, &left);
	if (left.used)
		complain(r, "point %u: after taking apart %s: %s", nth,
			 nth % 2 ? "by id" : "at once", left.bytes);
	/* The second context, with which pages are checked, is one. */
	held = holders_at_most(others + 1) - 1;
	if (held > others) {
		complain(r, "point %u: the module is still held\n", nth);
		/* By this point: the next one need not wait for it. */
		others = held;
	}
}

/* ---- a case -------------------------------------------------------------- */

struct states {
	/* State before the call; after it; its output and result */
	struct text before, after, out;
};

static struct states good, now;

static void look_anew(struct text *t)
{
	t->used = 0;
	t->bytes[0] = 0;
	look(w, t);
}

/*
 * The result of a call and its argument, without fields that differ in each run
 */
static void write_out(struct text *t, long rc)
{
	unsigned int i;

	t->used = 0;
	t->bytes[0] = 0;
	put(t, "returns %ld:", rc);
	for (i = 0; i < 128; i++)
		if (((__u32 *)FRAME)[i])
			put(t, " %u=%x", i, ((__u32 *)FRAME)[i]);
	put(t, "\n");
}

static void count(struct report *r, int error, enum state state)
{
	unsigned int i;

	for (i = 0; i < r->nr_outcomes; i++)
		if (r->outcomes[i].error == error &&
		    r->outcomes[i].state == state)
			break;
	if (i == OUTCOMES)
		return;
	if (i == r->nr_outcomes)
		r->outcomes[r->nr_outcomes++] =
			(struct outcome){ error, state, 0 };
	r->outcomes[i].times++;
}

/* Is this outcome allowed for the case? */
static bool allowed(const struct sweep_case *c, int error, enum state state)
{
	if (!error)
		return state == DONE ||
			(state == UNCHANGED && c->flags & LOSSY) ||
			(state == OTHER && c->flags & FALLBACK);
	if (state == UNCHANGED)
		/* Copying the argument or a lookup can fail in any case. */
		return !(c->flags & SURE) || error == EFAULT ||
			error == ENOENT;
	if (state == DONE)
		return (error == EFAULT && c->flags & COMMITS) ||
			(error == ENOMEM && c->flags & LOSSY);
	return error == EFAULT && c->flags & PARTIAL;
}

static const char *error_name(int error)
{
	return error ? strerrorname_np(error) ?: "?" : "ok";
}

/* The call, whose argument starts as zeroes. */
static long call_case(const struct sweep_case *c)
{
	memset((void *)FRAME, 0, PAGE);
	return c->call(w);
}

/* Judge a call that failed in HOW; repeat it if it had no effect */
static void judge(const struct sweep_case *c, struct report *r, const char *how,
		  unsigned int nth, long rc)
{
	int error = rc < 0 ? -rc : 0;
	enum state state = OTHER;

	look_anew(&now.after);
	if (!strcmp(now.after.bytes, good.after.bytes))
		state = DONE;
	/* For a call without visible effect it is both. */
	if (!strcmp(now.after.bytes, good.before.bytes) &&
	    (error || state != DONE))
		state = UNCHANGED;
	count(r, error, state);
	if (!allowed(c, error, state)) {
		complain(r, "%s %u: %s, %s\n", how, nth, error_name(error),
			 state_names[state]);
		complain_lines(r, error ? now.before.bytes : good.after.bytes,
			       now.after.bytes);
		return;
	}
	if (!error) {
		write_out(&now.out, rc);
		if (state == DONE && strcmp(now.out.bytes, good.out.bytes)) {
			complain(r, "%s %u: succeeds otherwise\n", how, nth);
			complain_lines(r, good.out.bytes, now.out.bytes);
		}
		return;
	}
	if (state != UNCHANGED || c->flags & ONCE)
		return;

	w->readonly = false;
	rc = call_case(c);
	look_anew(&now.after);
	write_out(&now.out, rc);
	if (strcmp(now.after.bytes, good.after.bytes)) {
		complain(r, "%s %u: %s, then again: %s\n", how, nth,
			 error_name(error), error_name(rc < 0 ? -rc : 0));
		complain_lines(r, good.after.bytes, now.after.bytes);
	} else if (strcmp(now.out.bytes, good.out.bytes)) {
		complain(r, "%s %u: then again:\n", how, nth);
		complain_lines(r, good.out.bytes, now.out.bytes);
	}
}

/* The number of pages charged to the user */
static rlim_t pinned(const struct text *t)
{
	const char *at = t->bytes;
	rlim_t bytes = 0;

	while ((at = strstr(at, "VmPin="))) {
		at += strlen("VmPin=");
		bytes += strtoul(at, NULL, 10) * PAGE;
	}
	return bytes;
}

/* Make the call without failures. */
static bool run_good(const struct sweep_case *c, struct report *r)
{
	rlim_t most;
	long rc;

	limit_memlock(RLIM_INFINITY);
	if (!make_world(c, r))
		return false;
	look_anew(&good.before);
	rc = call_case(c);
	look_anew(&good.after);
	write_out(&good.out, rc);
	if (rc < 0) {
		complain(r, "fails by itself: %s\n", error_name(-rc));
		return false;
	}
	r->good = good.after;
	put(&r->good, "%s", good.out.bytes);
	end_world(r, 0);
	most = pinned(&good.before);
	if (pinned(&good.after) > most)
		most = pinned(&good.after);
	limit_memlock(c->flags & TWICE ? 2 * most : most);
	return true;
}

static bool prepare(const struct sweep_case *c, struct report *r)
{
	if (!make_world(c, r)) {
		r->wrong++;
		return false;
	}
	look_anew(&now.before);
	if (strcmp(now.before.bytes, good.before.bytes)) {
		complain(r, "setup does not come to the same\n");
		complain_lines(r, good.before.bytes, now.before.bytes);
	}
	return true;
}

static void run_case(const struct sweep_case *c, struct report *r)
{
	unsigned int nth, step = 1;
	bool reached;
	long rc;

	if (!run_good(c, r)) {
		r->wrong++;
		return;
	}
	for (nth = 1; nth < NTH_MAX && r->wrong < 8; nth += step) {
		/* The first few points, then fewer and fewer */
		if (options.quick && nth > 6)
			step = 1 + nth / 5;
		if (!prepare(c, r))
			return;
		arm(nth);
		rc = call_case(c);
		reached = disarm();
		if (reached)
			r->points++;
		judge(c, r, "point", nth, rc);
		end_world(r, nth);
		if (!reached)
			break;
	}
	if (nth >= NTH_MAX)
		complain(r, "no end of it\n");

	if (!prepare(c, r))
		return;
	w->readonly = true;
	rc = call_case(c);
	w->readonly = false;
	judge(c, r, "read-only argument", 0, rc);
	end_world(r, 1);

	if (c->flags & SURE) {
		if (!prepare(c, r))
			return;
		fail_all(true);
		rc = call_case(c);
		fail_all(false);
		judge(c, r, "all allocations", 0, rc);
		end_world(r, 0);
	}
	r->finished = true;
}

/* ---- processes ----------------------------------------------------------- */

static void *map_at(unsigned long at, size_t size, int prot, int fd)
{
	void *p = mmap((void *)at, size, prot,
		       MAP_SHARED | MAP_POPULATE | MAP_FIXED_NOREPLACE, fd, 0);

	if (p != (void *)at)
		ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
	return p;
}

/* Allocate memory for all cases; called first */
static void map_memory(void)
{
	int frame = memfd_create("frame", MFD_CLOEXEC);
	int mem = memfd_create("mem", MFD_CLOEXEC);

	if (frame < 0 || mem < 0 || ftruncate(frame, PAGE) ||
	    ftruncate(mem, MEM_SIZE))
		ksft_exit_fail_msg("memfd: %s\n", strerror(errno));
	map_at(MEM, MEM_SIZE, PROT_READ | PROT_WRITE, mem);
	madvise((void *)MEM, MEM_SIZE, MADV_NOHUGEPAGE);
	map_at(FRAME, PAGE, PROT_READ | PROT_WRITE, frame);
	map_at(FRAME_RO, PAGE, PROT_READ, frame);
	close(frame);
	w = shared_memory(sizeof(*w));
	mem_file = mem;
}

static void fork_case(const struct sweep_case *c, struct report *r)
{
	int status, held;
	pid_t pid;

	pid = fork();
	if (!pid) {
		alarm(SECONDS);
		/* Exempt from the limit */
		if (drop_ipc_lock())
			_exit(1);
		nth_fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
		all_fd = open("/proc/self/make-it-fail", O_RDWR | O_CLOEXEC);
		w->check_fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
		if (nth_fd < 0 || all_fd < 0 || w->check_fd < 0)
			_exit(1);
		/* Those that are higher belong to a world. */
		w->mem_fd = fcntl(mem_file, F_DUPFD_CLOEXEC, w->check_fd + 1);
		run_case(c, r);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_msg("cannot start a case\n");
	if (status)
		complain(r, "its process ended with %x\n", status);
	else if (!r->finished && !r->wrong)
		complain(r, "it did not finish\n");
	held = holders_at_most(others);
	if (held > others) {
		complain(r, "the module is held after its end\n");
		others = held;
	}
}

/* ---- modules ------------------------------------------------------------- */

static void load_module(const char *path)
{
	int rc = module_load(path);

	if (rc)
		ksft_exit_fail_msg("load %s: %s\n", path, strerror(-rc));
}

static void unload_module(const char *path)
{
	int rc = module_unload(60000);

	if (rc)
		ksft_exit_fail_msg("unload %s: %s\n", path, strerror(-rc));
}

/* ---- reporting ----------------------------------------------------------- */

static int by_outcome(const void *a, const void *b)
{
	const struct outcome *x = a, *y = b;

	return x->error != y->error ? x->error - y->error :
		(int)x->state - (int)y->state;
}

/* The outcomes in words, with or without how often. */
static void list_outcomes(struct report *r, bool times, char *to, size_t size)
{
	unsigned int i;
	size_t used = 0;

	qsort(r->outcomes, r->nr_outcomes, sizeof(r->outcomes[0]), by_outcome);
	to[0] = 0;
	for (i = 0; i < r->nr_outcomes && used < size; i++) {
		struct outcome *o = &r->outcomes[i];

		if (times)
			used += snprintf(to + used, size - used, " %u", o->times);
		used += snprintf(to + used, size - used, " %s/%s",
				 error_name(o->error), state_names[o->state]);
	}
}

static void print_lines(const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n");

		ksft_print_msg("%.*s\n", (int)n, text);
		text += n + !!text[n];
	}
}

static void print_report(const char *name, const struct sweep_case *c,
			 struct report *r)
{
	char outcomes[512];

	list_outcomes(r, true, outcomes, sizeof(outcomes));
	ksft_print_msg("%s%s: %u points:%s\n", name, c->name, r->points,
		       outcomes);
	print_lines(r->message);
	if (options.verbose)
		print_lines(r->good.bytes);
}

/* Cases in which EFAULT has left something done, with C and here */
static unsigned int exceptions(const struct report *r)
{
	unsigned int i, seen = 0;

	for (i = 0; i < r->nr_outcomes; i++)
		if (r->outcomes[i].error && r->outcomes[i].state != UNCHANGED)
			seen |= 1 << r->outcomes[i].state;
	return seen;
}

static void compare(const struct sweep_case *c, struct report *want,
		    struct report *have)
{
	bool same = !strcmp(want->good.bytes, have->good.bytes);

	if (!same) {
		have->message[0] = 0;
		have->wrong = 0;
		complain_lines(have, want->good.bytes, have->good.bytes);
		print_lines(have->message);
	}
	if (exceptions(want) != exceptions(have)) {
		ksft_print_msg("%s: other exceptions\n", c->name);
		same = false;
	}
	ksft_test_result(same, "%s as in %s\n", c->name, options.module[0]);
}

static bool selected(const struct sweep_case *c)
{
	return !options.pattern || strstr(c->name, options.pattern);
}

static struct report *run_all(const char *name)
{
	struct report *reports = shared_memory(nr_sweep_cases * sizeof(*reports));
	unsigned int i;

	others = module_holders();

	for (i = 0; i < nr_sweep_cases; i++) {
		if (!selected(&sweep_cases[i]))
			continue;
		fork_case(&sweep_cases[i], &reports[i]);
		print_report(name, &sweep_cases[i], &reports[i]);
	}
	return reports;
}

static const char usage[] =
"usage: iommufd_fault_sweep [options] [MODULE.ko MODULE.ko]\n"
"\n"
"Makes each call with each of its points of failure failing. With modules,\n"
"loads one after the other and compares; the second is judged.\n"
"\n"
"  -q        only some of the points of each call\n"
"  -r NAME   only cases with NAME in their names\n"
"  -l        list the cases and their exceptions\n"
"  -v        show what an undisturbed call comes to\n";

static void list(void)
{
	unsigned int i;

	for (i = 0; i < nr_sweep_cases; i++)
		printf("%s%s%s%s\n", sweep_cases[i].name,
		       sweep_cases[i].flags & SURE ? " (sure)" : "",
		       sweep_cases[i].why ? ": " : "",
		       sweep_cases[i].why ?: "");
}

int main(int argc, char **argv)
{
	struct report *reports[2] = {};
	unsigned int i, points = 0, planned = 0;
	int option;

	while ((option = getopt(argc, argv, "qr:lvh")) != -1) {
		switch (option) {
		case 'q':
			options.quick = true;
			break;
		case 'r':
			options.pattern = optarg;
			break;
		case 'l':
			list();
			return 0;
		case 'v':
			options.verbose = true;
			break;
		default:
			fputs(usage, option == 'h' ? stdout : stderr);
			return option == 'h' ? 0 : 2;
		}
	}
	if (argc - optind != 0 && argc - optind != 2) {
		fputs(usage, stderr);
		return 2;
	}
	for (i = 0; i < (unsigned int)(argc - optind); i++)
		options.module[i] = argv[optind + i];

	ksft_print_header();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!set_injection())
		ksft_exit_skip("no fault injection in this kernel\n");
	map_memory();
	for (i = 0; i < nr_sweep_cases; i++)
		planned += selected(&sweep_cases[i]);
	ksft_set_plan(options.module[0] ? 2 * planned : planned);
	for (i = 0; i < 2; i++) {
		if (!options.module[0] && i)
			break;
		if (options.module[i]) {
			load_module(options.module[i]);
			/* Its directory came with it. */
			set_injection();
		}
		reports[i] = run_all(!options.module[i] ? "" :
				     i ? "second: " : "first: ");
		if (options.module[i])
			unload_module(options.module[i]);
	}
	for (i = 0; i < nr_sweep_cases; i++) {
		struct report *r = &reports[!!reports[1]][i];

		if (!selected(&sweep_cases[i]))
			continue;
		points += r->points;
		/* Calls that release memory must not need any. */
		if (!r->points && !(sweep_cases[i].flags & (SURE | NO_POINTS))) {
			ksft_print_msg("%s: no point of failure\n",
				       sweep_cases[i].name);
			r->wrong++;
		}
		ksft_test_result(!r->wrong, "%s\n", sweep_cases[i].name);
		if (reports[1])
			compare(&sweep_cases[i], &reports[0][i], r);
	}
	ksft_print_msg("%u points of failure\n", points);
	ksft_finished();
}
