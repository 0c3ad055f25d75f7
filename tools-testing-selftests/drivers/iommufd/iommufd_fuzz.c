// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fuzz iommufd: invalid and hostile calls.
 *
 * Processes are started again and again. Each has a context, and threads that
 * make random calls: every ioctl with partly valid arguments (a table has the
 * type of each field) or with garbage; wrong sizes; read, write, poll and mmap
 * of every descriptor, half of them of another type. Arguments cross pages, are
 * unmapped or read-only, or are in pages that another thread changes, unmaps
 * and protects meanwhile. One process in four is killed while it runs, one in
 * four maps only files.
 *
 * Each call must return, the kernel log must stay empty, no page may stay
 * pinned, and no memory may be lost. Each command has to succeed now and then,
 * so that not every call ends in the check of its arguments.
 *
 * The second half makes calls that ask for too much, and sends SIGKILL during a
 * call: the process must exit soon.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include <linux/vfio.h>

#include "iommufd_fuzz.h"
#include "iommufd_log.h"
#include "iommufd_options.h"
#include "kselftest.h"

/*
 * A call hangs if it takes this long while so many other calls are made;
 * without others, if it takes ten minutes. A slow machine slows down all of
 * them.
 */
#define HANG_NS (30 * 1000000000ULL)
#define HANG_CALLS 2000
#define HANG_ALONE_NS (600 * 1000000000ULL)
/*
 * From SIGKILL until the process has exited, by a clock that does not count
 * pauses of the machine. Freeing a GiB can take longer on a busy machine or a
 * debug kernel, but not each time; KILL_MOST_NS is never exceeded.
 */
#define KILL_NS (2 * 1000000000ULL)
#define KILL_MOST_NS (20 * 1000000000ULL)
#define KILL_TRIES 4
/* After that many calls each command must have succeeded. */
#define CALLS_FOR_SUCCESS 15000
/*
 * Memory that may be in use at the end: caches of the kernel. Pinned pages and
 * page tables have to be back to the last page, and vmalloc() except for cached
 * stacks of threads.
 */
#define DRIFT_KB 16384
#define DRIFT_VMALLOC_KB 1024
/* How long to wait for memory that RCU, exiting processes and idle CPUs free */
#define SETTLE_TRIES 15

struct board *board;
u64 *steady;
const char *excluded[8];
unsigned int nr_excluded;

/* ---- the watch ----------------------------------------------------------- */

struct options {
	u64 seed, calls;
	unsigned int processes;
	bool verbose, on_c;
};

struct memory {
	long long free_kb, slab_kb, vmalloc_kb, pinned, table_pages;
};

static void settle(void)
{
	sleep(1);
	/* Without permission to drop caches they count as drift. */
	write_text("/proc/sys/vm/drop_caches", "3");
	sleep(1);
}

static void measure(struct memory *m)
{
	settle();
	m->free_kb = read_counter("/proc/meminfo", "MemFree");
	m->slab_kb = read_counter("/proc/meminfo", "SUnreclaim");
	m->vmalloc_kb = read_counter("/proc/meminfo", "VmallocUsed");
	m->table_pages = table_pages();
	m->pinned = pages_pinned_at_rest();
}

/* The kernel log since then */
static unsigned int read_log(int log)
{
	unsigned int lines = 0;
	char line[256];

	while (log_next(log, line, sizeof(line)))
		if (++lines <= 20)
			ksft_print_msg("the kernel says: %s\n", line);
	return lines;
}

static bool is_flat(const struct memory *before, const struct memory *after)
{
	return before->free_kb - after->free_kb < DRIFT_KB &&
	       after->slab_kb - before->slab_kb < DRIFT_KB / 2 &&
	       after->vmalloc_kb - before->vmalloc_kb < DRIFT_VMALLOC_KB &&
	       after->table_pages == before->table_pages;
}

/* A call that hangs; CALLS is how many there have been. */
static const char *hanging(u64 calls)
{
	/* When each call began, and the value of CALLS at that time */
	static struct {
		u64 since, calls;
	} seen[PROCESSES][THREADS];
	unsigned int i, j;

	for (i = 0; i < PROCESSES; i++)
		for (j = 0; j < THREADS; j++) {
			struct gauge *g = &board->gauges[i][j];
			u64 since = __atomic_load_n(&g->since, __ATOMIC_ACQUIRE);
			u64 now = now_ns();

			if (since != seen[i][j].since) {
				seen[i][j].since = since;
				seen[i][j].calls = calls;
			} else if (since && (now > since + HANG_ALONE_NS ||
					     (now > since + HANG_NS &&
					      calls > seen[i][j].calls + HANG_CALLS))) {
				return g->what;
			}
		}
	return NULL;
}

/* Of one process, and of earlier ones in its place */
static u64 calls_of(unsigned int which)
{
	u64 calls = 0;
	unsigned int i;

	for (i = 0; i < THREADS; i++)
		calls += __atomic_load_n(&board->gauges[which][i].calls,
					 __ATOMIC_RELAXED);
	return calls;
}

static u64 sum_calls(u64 *good)
{
	u64 calls = 0;
	unsigned int i, j;

	*good = 0;
	for (i = 0; i < PROCESSES; i++)
		for (j = 0; j < THREADS; j++) {
			calls += board->gauges[i][j].calls;
			*good += board->gauges[i][j].good;
		}
	return calls;
}

static pid_t start_life(unsigned int which, u64 seed)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		live(which, seed);
	return pid;
}

/* The module may be in use by others. */
static int holders_before;

/* The number of additional users */
static int holders(void)
{
	return holders_at_most(holders_before) - holders_before;
}

static void run_fuzz(const struct options *options)
{
	u64 seed = options->seed * 1000000, killed = 0, crashed = 0, lives = 0;
	u64 rng = options->seed, calls, good, begin = now_ns();
	struct memory before, after;
	long long left;
	const char *hang = NULL;
	pid_t pids[PROCESSES];
	u64 doom[PROCESSES];
	unsigned int i, j, lines;
	int status, log;

	/* One process first, for memory that is allocated once and kept */
	pids[0] = start_life(0, seed++);
	waitpid(pids[0], &status, 0);
	measure(&before);
	log = log_open();
	memset(board, 0, sizeof(*board));

	for (i = 0; i < PROCESSES; i++)
		pids[i] = 0;
	do {
		for (i = 0; i < options->processes; i++) {
			if (pids[i] && waitpid(pids[i], &status, WNOHANG) ==
				       pids[i]) {
				/* Its stack may be freed, too. */
				if (WIFSIGNALED(status) ?
					    WTERMSIG(status) != SIGKILL :
					    WEXITSTATUS(status) == CRASHED)
					crashed++;
				for (j = 0; j < THREADS; j++)
					board->gauges[i][j].since = 0;
				pids[i] = 0;
				/* With one process, it is the one to blame. */
				if (options->processes == 1 && holders())
					ksft_exit_fail_msg("seed %lu holds the module\n",
							   seed - 1);
			}
			if (!pids[i]) {
				pids[i] = start_life(i, seed++);
				/* After so many of its calls. */
				doom[i] = lives % 4 != 1 ? 0 :
					  calls_of(i) +
					  below(&rng, CALLS_OF_A_LIFE);
				lives++;
			} else if (doom[i] && calls_of(i) >= doom[i]) {
				kill(pids[i], SIGKILL);
				doom[i] = 0;
				killed++;
			}
		}
		usleep(5000);
		calls = sum_calls(&good);
		hang = hanging(calls);
	} while (calls < options->calls && !hang);

	for (i = 0; i < options->processes; i++)
		kill(pids[i], SIGKILL);
	begin = now_ns() - begin;
	if (hang) {
		ksft_print_msg("%s does not return\n", hang);
		ksft_exit_fail_msg("there is no going on after that\n");
	}
	for (i = 0; i < options->processes; i++)
		waitpid(pids[i], &status, 0);
	calls = sum_calls(&good);
	left = pages_left_pinned(before.pinned);
	lines = read_log(log);
	for (i = 0; i < SETTLE_TRIES; i++) {
		measure(&after);
		if (is_flat(&before, &after))
			break;
	}

	ksft_print_msg("%lu calls in %lu s, %lu%% succeeded\n", calls,
		       begin / 1000000000, good * 100 / calls);
	ksft_print_msg("%lu processes, %lu were killed, %lu crashed\n", lives,
		       killed, crashed);
	ksft_print_msg("free memory %lld -> %lld kB, slab %lld -> %lld kB\n",
		       before.free_kb, after.free_kb, before.slab_kb,
		       after.slab_kb);
	ksft_print_msg("vmalloc %lld -> %lld kB, page tables %lld -> %lld pages\n",
		       before.vmalloc_kb, after.vmalloc_kb, before.table_pages,
		       after.table_pages);
	good = 0;
	for (i = 0; i < nr_commands; i++) {
		const char *never = commands[i].nr == IOMMU_IOAS_NOIOMMU_GET_PA ||
				    commands[i].nr == VFIO_IOMMU_DIRTY_PAGES ?
				    "never succeeds here" : NULL;

		if (!board->good[i] && !never)
			good++;
		if (options->verbose || (!board->good[i] && !never))
			ksft_print_msg("%-36s %8lu calls, %7lu succeeded\n",
				       commands[i].name, board->calls[i],
				       board->good[i]);
	}
	/* A short run cannot cover all commands. */
	ksft_test_result(!good || options->calls < CALLS_FOR_SUCCESS,
			 "every command succeeds now and then\n");
	ksft_test_result(killed * 8 >= lives ||
			 options->calls < CALLS_FOR_SUCCESS,
			 "one process in four is killed\n");
	ksft_test_result(!lines, "the kernel says nothing\n");
	ksft_test_result(!left && !holders(),
			 "no page stays pinned, nobody holds the module\n");
	ksft_test_result(is_flat(&before, &after), "memory is flat\n");
	if (ksft_get_fail_cnt())
		ksft_print_msg("again: iommufd_fuzz -s %lu -n %lu [-1]\n",
			       options->seed, options->calls);
	close(log);
}

/*
 * ---- calls that ask for too much ------------------------------------------
 */

/* The same memory each time; otherwise a process could run out of memory. */
static void *reserve(size_t size)
{
	static struct {
		void *mem;
		size_t size;
	} had[4];
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(had) && had[i].mem; i++)
		if (had[i].size == size)
			return had[i].mem;
	if (i == ARRAY_SIZE(had))
		_exit(2);
	had[i].mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	had[i].size = size;
	return had[i].mem;
}

/* The call to be interrupted begins, or has ended. */
static void at_it(bool at)
{
	__atomic_store_n(&board->gauges[0][0].since, at ? now_ns() : 0,
			 __ATOMIC_RELEASE);
}

struct scene {
	int fd;
	u32 ioas, hwpt, nested;
	struct mock mock;
};

static int set_scene(struct scene *s)
{
	int rc;

	s->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (s->fd < 0)
		return -errno;
	rc = do_ioas_alloc(s->fd, &s->ioas) ?:
	     do_mock_device(s->fd, s->ioas, &s->mock) ?:
	     do_hwpt_alloc(s->fd, s->mock.idev, s->ioas,
			   IOMMU_HWPT_ALLOC_NEST_PARENT |
			   IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 0, &s->hwpt);
	return rc ?: do_nested_alloc(s->fd, s->mock.idev, s->hwpt, &s->nested);
}

static void much_invalidate(struct scene *s)
{
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = s->nested,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.entry_len = PAGE,
		.entry_num = 1 << 19,
	};

	/* Zeroes, which cost no memory. */
	cmd.data_uptr = (uintptr_t)reserve((size_t)cmd.entry_len *
					   cmd.entry_num);
	at_it(true);
	call(s->fd, IOMMU_HWPT_INVALIDATE, &cmd);
}

/* Must be refused, since its duration is unbounded. */
static bool refuses_too_much(void)
{
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.entry_len = 8,
		.entry_num = UINT32_MAX,
	};
	struct scene s = {};
	int rc;

	if (set_scene(&s))
		return false;
	cmd.hwpt_id = s.nested;
	cmd.data_uptr = (uintptr_t)reserve(8UL * cmd.entry_num);
	rc = call(s.fd, IOMMU_HWPT_INVALIDATE, &cmd);
	close(s.fd);
	return rc == -EINVAL;
}

static void much_map(struct scene *s)
{
	size_t size = 1UL << 30;

	/* Allocates the memory each time */
	madvise(reserve(size), size, MADV_DONTNEED);
	at_it(true);
	do_map(s->fd, s->ioas, reserve(size), size, MOCK_APERTURE_START);
}

static void much_map_file(struct scene *s)
{
	size_t size = 1UL << 30;
	int fd = memfd_create("much", MFD_CLOEXEC);

	if (ftruncate(fd, size))
		_exit(2);
	at_it(true);
	do_map_file(s->fd, s->ioas, fd, 0, size, MOCK_APERTURE_START);
	close(fd);
}

static void much_allow(struct scene *s)
{
	u32 n = 8 << 20;
	struct iommu_iova_range *ranges = reserve(n * sizeof(*ranges));
	struct iommu_ioas_allow_iovas cmd = {
		.size = sizeof(cmd),
		.ioas_id = s->ioas,
		.num_iovas = n,
		.allowed_iovas = (uintptr_t)ranges,
	};
	u32 i;

	for (i = 0; i < n; i++) {
		ranges[i].start = i * 2 * PAGE;
		ranges[i].last = ranges[i].start + 1;
	}
	do_ioas_alloc(s->fd, &cmd.ioas_id);
	at_it(true);
	call(s->fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd);
}

static void much_ranges(struct scene *s)
{
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = s->ioas,
		.num_iovas = UINT32_MAX,
		.allowed_iovas = (uintptr_t)reserve(1UL << 36),
	};

	at_it(true);
	call(s->fd, IOMMU_IOAS_IOVA_RANGES, &cmd);
}

static void much_dirty(struct scene *s)
{
	size_t size = 64UL << 20;
	struct iommu_hwpt_set_dirty_tracking track = {
		.size = sizeof(track),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
		.hwpt_id = s->hwpt,
	};
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = s->hwpt,
		.iova = MOCK_APERTURE_START,
		.length = size,
		.page_size = MOCK_PAGE_SIZE,
		.data = (uintptr_t)reserve(1UL << 36),
	};

	do_map(s->fd, s->ioas, reserve(size), size, MOCK_APERTURE_START);
	call(s->fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &track);
	at_it(true);
	call(s->fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd);
}

static void much_hw_queue(struct scene *s)
{
	u32 viommu, id;

	if (do_viommu_alloc(s->fd, s->mock.idev, s->hwpt, NULL, &viommu))
		_exit(2);
	at_it(true);
	do_hw_queue_alloc(s->fd, viommu, 0, MOCK_APERTURE_START, 1UL << 39,
			  &id);
}

static void much_copy(struct scene *s)
{
	u64 iova = MOCK_APERTURE_START;
	u32 to;

	do_ioas_alloc(s->fd, &to);
	do_map(s->fd, s->ioas, reserve(PAGE), PAGE, iova);
	/*
	 * As many areas as possible in the time; close() removes all of them.
	 * The order in which they are made does not matter here: that is what
	 * iommufd_growth tests.
	 */
	at_it(true);
	while (!do_copy(s->fd, to, iova, s->ioas, MOCK_APERTURE_START, PAGE))
		iova += PAGE;
}

#define C_GOES_ON "goes on to the end"

static const struct {
	const char *name;
	void (*call)(struct scene *s);
	/* What the C driver does; not judged there */
	const char *c;
} demands[] = {
	{ "HWPT_INVALIDATE of 2^19 entries", much_invalidate },
	{ "MAP of 1 GiB", much_map },
	{ "MAP_FILE of 1 GiB", much_map_file, C_GOES_ON },
	{ "ALLOW_IOVAS of 2^23 ranges", much_allow, C_GOES_ON },
	{ "IOVA_RANGES with room for 2^32", much_ranges },
	{ "GET_DIRTY_BITMAP of 64 MiB", much_dirty },
	{ "HW_QUEUE_ALLOC of 512 GiB", much_hw_queue },
	{ "COPY without end", much_copy },
};

/*
 * Files that are not memory files, and that hold the context that maps them:
 * the context would hold itself.
 */
static bool refuses_itself(void)
{
	struct scene s = {};
	int files[5] = {}, veventq;
	u32 fault, viommu, id;
	unsigned int i;
	bool ok = true;

	if (set_scene(&s) ||
	    do_ioas_alloc(s.fd, &id) ||
	    do_fault_alloc(s.fd, &fault, &files[1]) ||
	    do_access_create(s.fd, s.ioas, 0, &files[2]) ||
	    do_viommu_alloc(s.fd, s.mock.idev, s.hwpt, NULL, &viommu) ||
	    do_veventq_alloc(s.fd, viommu, &fault, &veventq))
		return false;
	files[0] = s.fd;
	files[3] = veventq;
	files[4] = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (i = 0; i < ARRAY_SIZE(files); i++)
		if (do_map_file(s.fd, id, files[i], 0, PAGE,
				MOCK_APERTURE_START + i * PAGE) != -EINVAL) {
			ksft_print_msg("file %u is mapped\n", i);
			ok = false;
		}
	for (i = 0; i < ARRAY_SIZE(files); i++)
		close(files[i]);
	return ok && !holders();
}

/*
 * Kill the process during a call, about AFTER_MS after the first one began.
 * Returns the time until it has exited; UINT64_MAX if setup failed.
 */
static u64 kill_one(unsigned int which, unsigned int after_ms)
{
	struct gauge *g = &board->gauges[0][0];
	struct scene scene = {};
	u64 start, end;
	pid_t pid;
	int status;

	at_it(false);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		for (;;) {
			if (set_scene(&scene))
				_exit(2);
			demands[which].call(&scene);
			at_it(false);
			close(scene.fd);
		}
	}
	end = now_ns() + after_ms * 1000000ULL;
	while (!__atomic_load_n(&g->since, __ATOMIC_ACQUIRE) ||
	       now_ns() < end) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return UINT64_MAX;
		if (now_ns() < end)
			usleep(1000);
	}
	start = steady_ns();
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (!WIFSIGNALED(status))
		return UINT64_MAX;
	return steady_ns() - start;
}

static void run_demands(const struct options *options, unsigned int rounds)
{
	long long pinned = pages_pinned_at_rest(), tables = table_pages();
	u64 rng = options->seed, took, worst;
	unsigned int i, j, tries;
	char name[64];
	bool ok;

	for (i = 0; i < ARRAY_SIZE(demands); i++) {
		snprintf(name, sizeof(name), "SIGKILL ends %s",
			 demands[i].name);
		if (options->on_c && demands[i].c) {
			ksft_test_result_code(KSFT_SKIP, name, "C %s",
					      demands[i].c);
			continue;
		}
		ok = true;
		for (worst = 0, j = 0; j < rounds; j++) {
			/* During the call, after different times */
			tries = 0;
			do {
				took = kill_one(i, 20 + below(&rng, 800));
				if (took > worst)
					worst = took;
			} while (took >= KILL_NS && took < KILL_MOST_NS &&
				 ++tries < KILL_TRIES);
			ok &= took < KILL_NS && worst < KILL_MOST_NS;
		}
		if (worst == UINT64_MAX)
			ksft_print_msg("%s: cannot be set up\n",
				       demands[i].name);
		else
			ksft_print_msg("%s: gone %lu ms after SIGKILL at worst\n",
				       demands[i].name, worst / 1000000);
		ksft_test_result(ok, "%s\n", name);
	}
	ksft_test_result(refuses_too_much(),
			 "HWPT_INVALIDATE of 2^32 entries is refused\n");
	ok = !pages_left_pinned(pinned) && !holders() &&
	     !table_pages_left(tables);
	ksft_test_result(ok, "the killed leave no page pinned\n");
	ksft_test_result(refuses_itself(), "a context does not hold itself\n");
}

/* ---- main ---------------------------------------------------------------- */

static void exclude(const char *name)
{
	excluded[nr_excluded++ % ARRAY_SIZE(excluded)] = name;
}

int main(int argc, char **argv)
{
	struct options options = { .seed = any_seed(), .calls = 40000 };
	unsigned int rounds = 1;
	bool one = false;
	const struct test_option table[] = {
		{ 'c', .flag = &options.on_c,
		  .help = "the module is C's: leave out what it is known to do otherwise" },
		{ 'n', "CALLS", .number64 = &options.calls,
		  .help = "random calls" },
		{ 's', "SEED", .number64 = &options.seed, .help = "of the calls" },
		{ 'k', "ROUNDS", .number = &rounds,
		  .help = "of calls that ask for too much, and are killed" },
		{ '1', .flag = &one,
		  .help = "one process at a time, to see which leaves something behind" },
		{ 'x', "NAME", .add = exclude,
		  .help = "without the commands that have NAME in theirs (up to 8 times)" },
		{ 'v', .flag = &options.verbose,
		  .help = "how often each command succeeded" },
	};
	int fd;

	parse_options(argc, argv, "", table, ARRAY_SIZE(table));
	options.processes = one ? 1 : PROCESSES;
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	fd = open("/dev/iommu", O_RDWR);
	if (fd < 0)
		ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
	close(fd);
	usleep(100000);
	holders_before = module_holders();
	ksft_set_plan((options.calls ? 5 : 0) +
		      (rounds ? ARRAY_SIZE(demands) + 3 : 0));
	board = shared_memory(sizeof(*board));
	ksft_print_msg("seed %lu\n", options.seed);
	if (start_steady())
		ksft_exit_fail_msg("cannot make a thread\n");
	if (options.calls)
		run_fuzz(&options);
	if (rounds)
		run_demands(&options, rounds);
	ksft_finished();
}
