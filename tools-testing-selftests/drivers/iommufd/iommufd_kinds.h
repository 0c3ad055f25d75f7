/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by iommufd_kinds and iommufd_growth: each case runs in a process of
 * its own, so that one that leaks, hangs or crashes does not affect the others.
 */
#ifndef __IOMMUFD_KINDS_H
#define __IOMMUFD_KINDS_H

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <stdarg.h>
#include <sys/wait.h>

#include "iommufd_delays.h"
#include "iommufd_options.h"
#include "iommufd_stress.h"
#include "kselftest.h"

/* A case that takes longer hangs, on the slowest machine. */
#define HANGS_SECONDS 300
/* The same for a case, which sets an alarm for the time above. */
#define ENDS_SECONDS (HANGS_SECONDS + 30)

#define RW_ALL (PROT_READ | PROT_WRITE)

struct kind {
	const char *name;
	/* Returns true on success. */
	bool (*run)(const void *arg);
	const void *arg;
	/* The known bug of the C driver, where the case is not judged. */
	const char *c;
	/* On success it is killed by SIGKILL. */
	bool killed;
	/* It repeats its calls as often as -n requests. */
	bool counted;
	/* Run it again with this delay in the driver. */
	const char *delay;
};

#define CASE_DELAY_US 500

/* The delay in the driver while a case runs again, or 0 */
static unsigned int delay_us;

/* Repetitions per second on the slowest machine */
#define TIMES_PER_SECOND 200

/* The least number of repetitions of the running case */
static unsigned long times_each;

/* The time of a racing case in seconds; a slow machine takes longer. */
extern double budget;

/* VmPin of this process, in pages. */
static inline long long vm_pin(void)
{
	return status_pages(0, "VmPin");
}

static inline bool must(int rc, const char *what)
{
	if (!rc)
		return true;
	ksft_print_msg("%s: %s\n", what, strerror(-rc));
	return false;
}

static inline void *anon(size_t length)
{
	void *mem = mmap(NULL, length, RW_ALL, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			 0);

	if (mem == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	return mem;
}

static inline int open_iommufd(void)
{
	return open("/dev/iommu", O_RDWR | O_CLOEXEC);
}

/* The process group of the case that runs. */
static pid_t running;

/* ^C signals only our own process group. */
static inline void interrupted(int nr)
{
	if (running)
		kill(-running, SIGKILL);
	_exit(128 + nr);
}

/*
 * Kill the processes that are left of the process group of a case, and wait for
 * them: orphans become children of this process (PR_SET_CHILD_SUBREAPER).
 * PR_SET_PDEATHSIG is not enough: the parent may exit before it is set, and a
 * process that is left keeps our output open. Returns false if a process cannot
 * be killed.
 */
static inline bool end_case(pid_t group)
{
	u64 start = now_ns();
	pid_t pid;

	kill(-group, SIGKILL);
	while ((pid = waitpid(-1, NULL, WNOHANG)) >= 0) {
		if (pid)
			continue;
		usleep(500);
		if (now_ns() - start > ENDS_SECONDS * 1000000000ULL)
			return false;
	}
	return true;
}

/* Run it in a process of its own; returns a code of kselftest. */
static inline int run_case(const struct kind *kind)
{
	u64 seconds = ENDS_SECONDS, start = now_ns();
	int status = -1;
	bool ok;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		signal(SIGINT, SIG_DFL);
		signal(SIGTERM, SIG_DFL);
		alarm(HANGS_SECONDS);
		status = !kind->run(kind->arg);
		fflush(stdout);
		_exit(status);
	}
	if (pid < 0)
		ksft_exit_fail_msg("cannot start a case\n");
	/* A counted case sets its own alarms. */
	if (kind->counted)
		seconds += times_each / TIMES_PER_SECOND;
	/*
	 * Called by parent and child, so that it is done before either
	 * continues.
	 */
	setpgid(pid, pid);
	running = pid;
	while (!waitpid(pid, &status, WNOHANG)) {
		usleep(500);
		if (now_ns() - start < seconds * 1000000000ULL)
			continue;
		ksft_print_msg("cannot even be killed\n");
		return KSFT_FAIL;
	}
	ok = kind->killed ?
		WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL : !status;
	if (WIFSIGNALED(status) && !ok)
		ksft_print_msg("ended by signal %d\n", WTERMSIG(status));
	if (!end_case(pid)) {
		ksft_print_msg("a process of it cannot be killed\n");
		ok = false;
	}
	ksft_print_msg("%s: %.1f s\n", kind->name, (now_ns() - start) / 1e9);
	if (WIFEXITED(status) && WEXITSTATUS(status) == KSFT_SKIP)
		return KSFT_SKIP;
	return ok ? KSFT_PASS : KSFT_FAIL;
}

static inline void run_kind(const struct kind *kind, bool on_c)
{
	int code;

	if (on_c && kind->c) {
		ksft_test_result_code(KSFT_SKIP, kind->name, "C %s", kind->c);
		return;
	}
	code = run_case(kind);
	if (code == KSFT_PASS && kind->delay && !times_each &&
	    set_delay(kind->delay, CASE_DELAY_US)) {
		double all = budget;
		unsigned int times;

		budget /= 2;
		delay_us = CASE_DELAY_US;
		code = run_case(kind);
		budget = all;
		delay_us = 0;
		times = delayed(kind->delay);
		set_delay(kind->delay, 0);
		ksft_print_msg("again with a delay, %u times \"%s\"\n", times,
			       kind->delay);
		if (!times)
			code = KSFT_FAIL;
	}
	ksft_test_result_code(code, kind->name,
			      code == KSFT_SKIP ? "it says so" : NULL);
}

static inline int run_kinds(const struct kind *kinds, unsigned int n, int argc,
			    char **argv)
{
	bool on_c = false, list = false, *wanted;
	unsigned long times = 0, counted = 0;
	const struct test_option options[] = {
		{ 'c', .flag = &on_c,
		  .help = "the module is C's: leave out what it is known to do otherwise" },
		{ 't', "SECONDS", .seconds = &budget,
		  .help = "for each case that races" },
		{ 'n', "TIMES", .number64 = &times,
		  .help = "the cases that count do it so often, together" },
		{ 'l', .flag = &list, .help = "list the cases" },
	};
	unsigned int i, j, planned = 0;
	int fd, first = parse_options(argc, argv, "[CASE...]", options,
				      ARRAY_SIZE(options));

	for (i = 0; list && i < n; i++)
		printf("%s\n", kinds[i].name);
	if (list)
		return 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	fd = open_iommufd();
	if (fd < 0)
		ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
	close(fd);
	if (prctl(PR_SET_CHILD_SUBREAPER, 1))
		ksft_exit_fail_msg("no subreaper: %s\n", strerror(errno));
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	wanted = calloc(n, sizeof(*wanted));
	for (i = 0; wanted && i < n; i++) {
		wanted[i] = first == argc;
		for (j = first; j < argc; j++)
			wanted[i] |= !strncmp(kinds[i].name, argv[j],
					      strlen(argv[j]));
		planned += wanted[i];
		counted += wanted[i] && kinds[i].counted;
	}
	if (counted)
		times_each = (times + counted - 1) / counted;
	if (!planned)
		ksft_exit_fail_msg("no such case: see -l\n");
	ksft_set_plan(planned);
	for (i = 0; i < n; i++)
		if (wanted[i])
			run_kind(&kinds[i], on_c);
	ksft_finished();
}

#endif
