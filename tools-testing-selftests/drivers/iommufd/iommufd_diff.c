// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compare two implementations of iommufd: the same calls, one after the other
 * on the same kernel, must have the same results.
 *
 * Sequences of calls made from a seed run on each module, each in a process of
 * its own. Every result, errno, byte of output, chosen IOVA, mapping and pin
 * count is recorded as text (iommufd_diff_calls.c). The texts are compared. A
 * sequence that differs is shortened as long as it differs, and printed.
 *
 * So that no run passes on errors alone, each command must succeed in at least
 * a tenth of its calls (see CALLS_FOR_SHARE), and return each errno of its row
 * of commands[] and no other; errnos marked as rare, in a long run only.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "iommufd_diff.h"
#include "kselftest.h"

#define LOG_SIZE (4UL << 20)
/* The number of sequences that are shortened and printed */
#define SHOWN_MAX 4
/* The number of further ones of which the first lines are printed */
#define LISTED_MAX 40
/* Rounds of shortening, each of which loads both modules once */
#define ROUNDS_MAX 60
/* With fewer calls an errno, or a rare one, need not have occurred. */
#define CALLS_FOR_ERRNOS 50000
#define CALLS_FOR_RARE 400000
/*
 * With fewer calls of a command chance may take three standard deviations off
 * its share; all of it only if there are not even CALLS_FOR_ONE.
 */
#define CALLS_FOR_SHARE 1000
#define CALLS_FOR_ONE 60
/* A call that takes longer hangs, on any machine. */
#define SILENCE_SECONDS 300

/* The seed of the sequences that are the same in each run */
#define FIXED_SEED 1

struct options {
	/* The modules: first the reference, then the one to be tested */
	const char *module[2];
	const char *name[2];
	u64 seed;
	unsigned long calls;
	unsigned int length;
	const char *keep;
};

/* The output of all sequences on one module */
struct run {
	char **texts;
	struct stats *stats;
};

/* ---- modules ------------------------------------------------------------- */

/* NULL stands for the module that is loaded, or built in. */
static int load(const char *path)
{
	return path ? module_load(path) : 0;
}

static int unload(const char *path)
{
	return path ? module_unload(PATIENCE_SECONDS * 1000) : 0;
}

/* ---- running ------------------------------------------------------------- */

/* The last few lines. */
static void print_tail(const struct diff_log *log)
{
	const char *line = log->text + (log->used > 200 ? log->used - 200 : 0);
	size_t length;

	for (; *line; line += length + !!line[length]) {
		length = strcspn(line, "\n");
		ksft_print_msg("| %.*s\n", (int)length, line);
	}
}

/*
 * Wait for the process that runs a sequence, for as long as it makes calls. If
 * it hangs it is killed, and the call is printed first, in case it cannot be
 * killed.
 */
static int end_of(pid_t pid, u64 seed, const struct diff_log *log)
{
	struct pollfd ended = { .events = POLLIN };
	size_t used, now = 0;
	int status, n;

	ended.fd = syscall(SYS_pidfd_open, pid, 0);
	if (ended.fd < 0)
		ksft_exit_fail_msg("pidfd_open: %s\n", strerror(errno));
	do {
		used = now;
		n = poll(&ended, 1, SILENCE_SECONDS * 1000);
		now = log->used;
	} while (!n && now != used);
	if (!n) {
		ksft_print_msg("seed %lu: no call comes back for %u s after\n",
			       seed, SILENCE_SECONDS);
		print_tail(log);
		kill(pid, SIGKILL);
	}
	close(ended.fd);
	if (waitpid(pid, &status, 0) != pid)
		ksft_exit_fail_msg("waitpid: %s\n", strerror(errno));
	return status;
}

static char *run_sequence(const struct sequence *seq, struct diff_log *log,
			  struct stats *stats, int *held)
{
	int status, now;
	pid_t pid;

	log->used = 0;
	log->size = LOG_SIZE - sizeof(*log);
	pid = fork();
	if (!pid) {
		diff_run(seq, log, stats);
		_exit(0);
	}
	if (pid < 0)
		ksft_exit_fail_msg("cannot start a sequence\n");
	status = end_of(pid, seq->seed, log);
	if (status)
		log->used += snprintf(log->text + log->used,
				      log->size - log->used,
				      "%s: status %x\n",
				      WIFSIGNALED(status) ? "killed" : "exit",
				      status);
	now = holders_at_most(*held);
	if (now != *held)
		log->used += snprintf(log->text + log->used,
				      log->size - log->used,
				      "end holds the module %+d\n",
				      now - *held);
	*held = now;
	return strndup(log->text, log->used);
}

static void load_or_die(const struct options *options, unsigned int which)
{
	int rc = load(options->module[which]);

	if (rc)
		ksft_exit_fail_msg("load %s: %s\n", options->module[which],
				   strerror(-rc));
}

static void unload_or_die(const struct options *options, unsigned int which)
{
	int rc = unload(options->module[which]);

	if (rc)
		ksft_exit_fail_msg("unload %s: %s\n", options->module[which],
				   strerror(-rc));
}

static void keep(const struct options *options, unsigned int which,
		 const struct run *run, const struct sequence *seqs,
		 unsigned int n)
{
	char path[4096];
	unsigned int i;
	FILE *file;

	if (!options->keep)
		return;
	snprintf(path, sizeof(path), "%s/%s.log", options->keep,
		 options->name[which]);
	file = fopen(path, "w");
	if (!file)
		ksft_exit_fail_msg("%s: %s\n", path, strerror(errno));
	for (i = 0; i < n; i++)
		fprintf(file, "== seed %lu\n%s", seqs[i].seed, run->texts[i]);
	fclose(file);
}

/* The module cannot be unloaded: the last sequence is the reason. */
static void report_holder(const struct options *options, unsigned int which,
			  const struct sequence *seqs, unsigned int n,
			  const struct run *run)
{
	keep(options, which, run, seqs, n);
	ksft_exit_fail_msg("%s is held for ever after seed %lu\n",
			   options->name[which], seqs[n - 1].seed);
}

/* Run each of the N sequences on one module. */
static void run_all(const struct options *options, unsigned int which,
		    const struct sequence *seqs, unsigned int n,
		    struct run *run)
{
	struct diff_log *log = shared_memory(LOG_SIZE);
	int held = 0;
	unsigned int i;

	run->texts = calloc(n, sizeof(*run->texts));
	load_or_die(options, which);
	for (i = 0; i < n && !held; i++)
		run->texts[i] = run_sequence(&seqs[i], log, run->stats,
					     &held);
	if (held)
		report_holder(options, which, seqs, i, run);
	unload_or_die(options, which);
	munmap(log, LOG_SIZE);
}

static void free_texts(struct run *run, unsigned int n)
{
	while (n--)
		free(run->texts[n]);
	free(run->texts);
}

/* ---- comparing ----------------------------------------------------------- */

struct difference {
	const char *line[2];
	int length[2];
	unsigned int number;
};

static int line_length(const char *text)
{
	return strcspn(text, "\n");
}

/* Find the line with the call to which LINE of TEXT belongs */
static const char *owner(const char *text, const char *line)
{
	/* Lines that begin with a tab belong to the one before. */
	while (line > text && *line == '\t')
		for (line--; line > text && line[-1] != '\n'; line--)
			;
	return line;
}

/* The kind of a difference: the name of the command */
static const char *kind_of(const char *text, const struct difference *d,
			   char *kind, size_t size)
{
	const char *line = owner(text, d->line[0]);
	unsigned int i = 0;

	/* Without the number of the call. */
	line += strcspn(line, "\n ");
	line += strspn(line, " ");
	while (line[i] && !strchr("\n ", line[i]) && i + 1 < size) {
		kind[i] = line[i];
		i++;
	}
	kind[i] = 0;
	return kind;
}

/* The first line where two texts differ. */
static bool differ(const char *a, const char *b, struct difference *d)
{
	for (d->number = 1; *a || *b; d->number++) {
		int an = line_length(a), bn = line_length(b);

		if (an != bn || memcmp(a, b, an)) {
			d->line[0] = a;
			d->line[1] = b;
			d->length[0] = an;
			d->length[1] = bn;
			return true;
		}
		a += an + !!a[an];
		b += bn + !!b[bn];
	}
	return false;
}

/* ---- shortening ---------------------------------------------------------- */

/* The number of the call; -1 at the end of a sequence */
static int call_of(const char *text, const char *line)
{
	line = owner(text, line);
	return *line >= '0' && *line <= '9' ? atoi(line) : -1;
}

/* Run N sequences on both; return the first that differs in this KIND. */
static int first_that_differs(const struct options *options,
			      const struct sequence *seqs, unsigned int n,
			      const char *kind)
{
	struct run runs[2] = {};
	struct difference d;
	unsigned int i;
	char now[64];

	run_all(options, 0, seqs, n, &runs[0]);
	run_all(options, 1, seqs, n, &runs[1]);
	for (i = 0; i < n; i++)
		if (differ(runs[0].texts[i], runs[1].texts[i], &d) &&
		    !strcmp(kind_of(runs[0].texts[i], &d, now, sizeof(now)),
			    kind))
			break;
	free_texts(&runs[0], n);
	free_texts(&runs[1], n);
	return i < n ? (int)i : -1;
}

/*
 * Leave out calls as long as the texts still differ in a line of the same kind:
 * halves first, then smaller pieces. A round runs all candidates on one module
 * and then on the other, since changing the module takes most of the time.
 */
static void shrink(const struct options *options, const struct sequence *seq,
		   u8 *skip, const char *kind)
{
	unsigned int piece, rounds, n, i, j, nr_kept, length = seq->length;
	unsigned int *kept = calloc(length, sizeof(*kept));
	struct sequence *seqs = calloc(length, sizeof(*seqs));
	u8 *skips = malloc((size_t)length * length);
	int found;

	piece = length;
	for (rounds = 0; rounds < ROUNDS_MAX; rounds++) {
		for (nr_kept = 0, i = 0; i < length; i++)
			if (!skip[i])
				kept[nr_kept++] = i;
		if (piece >= nr_kept)
			piece = (nr_kept + 1) / 2;
		if (!piece || nr_kept < 2)
			break;
		n = (nr_kept + piece - 1) / piece;
		for (i = 0; i < n; i++) {
			u8 *own = skips + (size_t)i * length;

			memcpy(own, skip, length);
			for (j = i * piece; j < (i + 1) * piece; j++)
				if (j < nr_kept)
					own[kept[j]] = 1;
			seqs[i] = *seq;
			seqs[i].skip = own;
		}
		found = first_that_differs(options, seqs, n, kind);
		if (found >= 0)
			memcpy(skip, seqs[found].skip, length);
		else if (piece > 1)
			piece = (piece + 1) / 2;
		else
			break;
	}
	free(kept);
	free(seqs);
	free(skips);
}

/* Print a sequence up to the difference, and both versions of it. */
static void show(const struct options *options, const struct sequence *seq)
{
	struct run runs[2] = {};
	struct difference d;
	const char *line;

	run_all(options, 0, seq, 1, &runs[0]);
	run_all(options, 1, seq, 1, &runs[1]);
	if (!differ(runs[0].texts[0], runs[1].texts[0], &d)) {
		ksft_print_msg("it does not differ again\n");
	} else {
		for (line = runs[0].texts[0]; line < d.line[0];
		     line += line_length(line) + 1)
			ksft_print_msg("| %.*s\n", line_length(line), line);
		ksft_print_msg("- %s: %.*s\n", options->name[0], d.length[0],
			       d.line[0]);
		ksft_print_msg("+ %s: %.*s\n", options->name[1], d.length[1],
			       d.line[1]);
	}
	free_texts(&runs[0], 1);
	free_texts(&runs[1], 1);
}

static void explain(const struct options *options, const struct sequence *seq,
		    const char *text, const struct difference *d)
{
	struct sequence shorter = *seq;
	u8 *skip = calloc(1, seq->length);
	int last = call_of(text, d->line[0]);
	char kind[64];

	/* Later calls cannot be the reason. */
	if (last >= 0)
		memset(skip + last + 1, 1, seq->length - last - 1);

	ksft_print_msg("seed %lu differs in line %u:\n", seq->seed, d->number);
	ksft_print_msg("- %s: %.*s\n", options->name[0], d->length[0],
		       d->line[0]);
	ksft_print_msg("+ %s: %.*s\n", options->name[1], d->length[1],
		       d->line[1]);
	kind_of(text, d, kind, sizeof(kind));
	shrink(options, seq, skip, kind);
	shorter.skip = skip;
	ksft_print_msg("made shorter:\n");
	show(options, &shorter);
	free(skip);
}

/* ---- reporting ----------------------------------------------------------- */

/* Is it one of the errnos of this command, and a rare one? */
static bool lists(const struct command_row *row, int error, bool *rare)
{
	const int *e;

	*rare = false;
	if (row->argument == STRUCT &&
	    (error == EINVAL || error == E2BIG || error == EFAULT))
		return true;
	for (e = row->errnos; *e; e++) {
		*rare = *e < 0;
		if (abs(*e) == error)
			return true;
	}
	return false;
}

/* Less than a tenth. */
static bool too_rare(unsigned long calls, unsigned long good)
{
	unsigned long least = calls / 10;

	if (good >= least)
		return false;
	if (calls >= CALLS_FOR_SHARE || (!good && calls >= CALLS_FOR_ONE))
		return true;
	return (least - good) * (least - good) > 9 * least;
}

static void report_command(const struct options *options, enum command cmd,
			   const struct stats *stats)
{
	const struct command_row *row = &commands[cmd];
	unsigned long calls = stats->calls[cmd];
	unsigned long good = stats->results[cmd][0];
	char seen[512] = "", missing[256] = "", extra[256] = "";
	bool ok = true, rare;
	int e;

	for (e = 1; e < ERRNO_MAX; e++) {
		unsigned long n = stats->results[cmd][e];
		const char *name = strerrorname_np(e) ?: "?";
		size_t used = strlen(seen);

		if (n)
			snprintf(seen + used, sizeof(seen) - used, " %s %lu",
				 name, n);
		if (n && !lists(row, e, &rare))
			snprintf(extra + strlen(extra),
				 sizeof(extra) - strlen(extra), " %s", name);
		if (n || !lists(row, e, &rare))
			continue;
		ok = ok && options->calls < (rare ? CALLS_FOR_RARE :
						    CALLS_FOR_ERRNOS);
		snprintf(missing + strlen(missing),
			 sizeof(missing) - strlen(missing), " %s%s", name,
			 rare ? " (rare)" : "");
	}
	ksft_print_msg("%s: %lu calls, %lu succeeded;%s\n", row->name, calls,
		       good, seen);
	if (!row->never && too_rare(calls, good)) {
		ksft_print_msg("succeeds too rarely\n");
		ok = false;
	}
	if (row->never)
		ksft_print_msg("never succeeds: %s\n", row->never);
	if (*missing)
		ksft_print_msg("not seen:%s\n", missing);
	if (*extra) {
		ksft_print_msg("not in the table:%s\n", extra);
		ok = false;
	}
	ksft_test_result(ok && calls, "command %s\n", row->name);
}

/* ---- main ---------------------------------------------------------------- */

static const char usage[] =
"usage: iommufd_diff [options] MODULE.ko [MODULE.ko]\n"
"\n"
"Runs sequences of calls on two modules that are both iommufd, and compares.\n"
"With one module (- is what is loaded), writes what it says.\n"
"\n"
"  -s SEED    of the first sequence, the next is one more (another one each time)\n"
"  -n CALLS   about so many on each module (50000)\n"
"  -f CALLS   more, before these, which are the same in each run (0): what a\n"
"             command has to come to does not depend on the seed then\n"
"  -l CALLS   in a sequence (250)\n"
"  -k DIR     keep what each module has said there, as NAME.log\n";

/* One module only: print its results. */
static int write_one(const struct options *options,
		     const struct sequence *seqs, unsigned int n)
{
	struct run run = {};
	unsigned int i;

	run_all(options, 0, seqs, n, &run);
	for (i = 0; i < n; i++)
		printf("== seed %lu\n%s", seqs[i].seed, run.texts[i]);
	return 0;
}

static unsigned long calls_of(const struct stats *stats)
{
	unsigned long calls = 0;
	unsigned int i;

	for (i = 0; i < CMD_NR; i++)
		calls += stats->calls[i];
	return calls;
}

static void compare(const struct options *options,
		    const struct sequence *seqs, unsigned int n)
{
	struct run runs[2] = {};
	char shown[SHOWN_MAX][64];
	unsigned int i, j, found = 0, nr_shown = 0;
	struct difference d;
	u64 start;
	char kind[64];

	ksft_print_header();
	ksft_set_plan(1 + CMD_NR);
	ksft_print_msg("seed %lu\n", options->seed);
	for (i = 0; i < 2; i++) {
		start = now_ns();
		runs[i].stats = shared_memory(sizeof(struct stats));
		run_all(options, i, seqs, n, &runs[i]);
		ksft_print_msg("%s: %lu calls in %u sequences, %.1f s\n",
			       options->name[i], calls_of(runs[i].stats), n,
			       (now_ns() - start) / 1e9);
		keep(options, i, &runs[i], seqs, n);
	}
	for (i = 0; i < n; i++) {
		if (!differ(runs[0].texts[i], runs[1].texts[i], &d))
			continue;
		found++;
		kind_of(runs[0].texts[i], &d, kind, sizeof(kind));
		for (j = 0; j < nr_shown; j++)
			if (!strcmp(shown[j], kind))
				break;
		if (j == nr_shown && j < SHOWN_MAX) {
			memcpy(shown[nr_shown++], kind, sizeof(kind));
			explain(options, &seqs[i], runs[0].texts[i], &d);
			continue;
		}
		if (found < LISTED_MAX)
			ksft_print_msg("seed %lu differs in line %u: %.*s\n",
				       seqs[i].seed, d.number, d.length[0],
				       d.line[0]);
	}
	ksft_print_msg("%u of %u sequences differ\n", found, n);
	ksft_test_result(!found, "results agree\n");
	for (i = 0; i < CMD_NR; i++)
		report_command(options, i, runs[0].stats);
	ksft_finished();
}

int main(int argc, char **argv)
{
	struct options options = {
		.seed = any_seed(), .calls = 50000, .length = 250,
	};
	struct sequence *seqs;
	unsigned int i, n, fixed = 0;
	int option;

	while ((option = getopt(argc, argv, "f:s:n:l:k:h")) != -1) {
		switch (option) {
		case 'f':
			fixed = strtoul(optarg, NULL, 0);
			break;
		case 's':
			options.seed = strtoul(optarg, NULL, 0);
			break;
		case 'n':
			options.calls = strtoul(optarg, NULL, 0);
			break;
		case 'l':
			options.length = strtoul(optarg, NULL, 0);
			break;
		case 'k':
			options.keep = optarg;
			break;
		default:
			fputs(usage, option == 'h' ? stdout : stderr);
			return option == 'h' ? 0 : 2;
		}
	}
	argc -= optind;
	argv += optind;
	if (!argc) {
		ksft_print_header();
		ksft_exit_skip("needs two modules; see -h\n");
	}
	if (argc > 2 || !options.length) {
		fputs(usage, stderr);
		return 2;
	}
	for (i = 0; i < (unsigned int)argc; i++) {
		options.module[i] = strcmp(argv[i], "-") ? argv[i] : NULL;
		options.name[i] = strrchr(argv[i], '/') ?
			strrchr(argv[i], '/') + 1 : argv[i];
	}

	options.calls += fixed;
	fixed = (fixed + options.length - 1) / options.length;
	n = (options.calls + options.length - 1) / options.length;
	seqs = calloc(n, sizeof(*seqs));
	for (i = 0; i < n; i++) {
		seqs[i].seed = i < fixed ? FIXED_SEED + i :
					   options.seed + i - fixed;
		seqs[i].length = options.length;
	}
	diff_init();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 1)
		return write_one(&options, seqs, n);
	compare(&options, seqs, n);
}
