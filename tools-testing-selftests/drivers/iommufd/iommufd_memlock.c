// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test the accounting of pinned memory, exact to the page.
 *
 * A page is pinned, and counts once, while at least one area with it is in an
 * IOAS that has a domain, or at least one access has pinned it. The model keeps
 * bitmaps of this. After each of a sequence of random calls (map, copy, unmap,
 * create or destroy a domain, pin and unpin by an access, change the process)
 * VmPin of the process must be that of the model, in each accounting mode, and
 * so must the count that is limited by RLIMIT_MEMLOCK: a call must fail with
 * ENOMEM if and only if it would exceed the limit, and must then change
 * nothing.
 *
 * A process that is killed must leave nothing pinned. Until then its threads
 * map and unmap concurrently, each at IOVAs of its own, so that each result is
 * known. Counts are compared with one thread only; for several threads see
 * iommufd_model.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "iommufd_options.h"
#include "iommufd_stress.h"
#include "kselftest.h"

enum mode {
	/* With CAP_IPC_LOCK: not limited */
	NONE,
	/* Charged to the user */
	USER,
	/* Charged to the process, as with VFIO */
	MM,
	MODES,
};

static const char *const mode_names[MODES] = { "none", "user", "mm" };

#define IOASES 2
#define DOMAINS 3
#define OBJECTS 96
#define AREAS 320
#define ITEMS 64
#define PAGES_MAX 64U
#define SLOT (PAGES_MAX * PAGE)
#define LIMIT 600U

/* The pages of one MAP, by index */
struct object {
	unsigned int pages;
	/* The owner, 0 or 1, see struct world */
	unsigned int owner;
};

/* An area: pages @first to @first + @pages of an object, in an IOAS */
struct area {
	unsigned int ioas, object, first, pages;
	u64 iova;
};

/* Pages of an object that the access of an IOAS has pinned */
struct item {
	unsigned int ioas, object, first, pages;
	u64 iova;
	u32 id;
};

struct world {
	int fd;
	enum mode mode;
	u64 rng;
	struct mock mock;
	u32 ioas[IOASES];
	int access[IOASES];
	u32 domains[IOASES][DOMAINS];
	unsigned int nr_domains[IOASES];
	struct object objects[OBJECTS];
	struct area areas[AREAS];
	struct item items[ITEMS];
	unsigned int limit;
	/* A second process, if there is one, and a socket to it */
	pid_t other;
	int ask, answer, memfd;
	void *mem;
	long long base_pin[2], base_lock[2];
	/* The last operation, for the report */
	char last[128];
	unsigned long refused, calls;
};

/* ---- the model ----------------------------------------------------------- */

/* The number of pinned pages that process @owner is charged for */
static unsigned int counted(const struct world *w, unsigned int owner)
{
	u64 pinned[OBJECTS] = {};
	unsigned int i, n = 0;

	for (i = 0; i < AREAS; i++) {
		const struct area *a = &w->areas[i];

		if (a->pages && w->nr_domains[a->ioas])
			pinned[a->object] |=
				(~0ULL >> (64 - a->pages)) << a->first;
	}
	for (i = 0; i < ITEMS; i++)
		if (w->items[i].pages)
			pinned[w->items[i].object] |=
				(~0ULL >> (64 - w->items[i].pages))
				<< w->items[i].first;
	for (i = 0; i < OBJECTS; i++)
		if (w->objects[i].owner == owner)
			n += __builtin_popcountll(pinned[i]);
	return n;
}

/* Free objects without areas and pins. */
static void forget(struct world *w)
{
	bool used[OBJECTS] = {};
	unsigned int i;

	for (i = 0; i < AREAS; i++)
		if (w->areas[i].pages)
			used[w->areas[i].object] = true;
	for (i = 0; i < OBJECTS; i++)
		if (!used[i])
			w->objects[i].pages = 0;
}

/*
 * ---- counts of the kernel -------------------------------------------------
 */

static bool agrees(const struct world *w)
{
	unsigned int owner, want;
	long long pin, lock;

	for (owner = 0; owner < (w->other ? 2 : 1); owner++) {
		pid_t pid = owner ? w->other : 0;

		want = counted(w, owner);
		pin = status_pages(pid, "VmPin") - w->base_pin[owner];
		lock = status_pages(pid, "VmLck") - w->base_lock[owner];
		if (pin == want && lock == (w->mode == MM ? want : 0))
			continue;
		ksft_print_msg("after %s: process %u: VmPin %lld, VmLck %lld, should be %u\n",
			       w->last, owner, pin, lock, want);
		return false;
	}
	return true;
}

/* The limited count: all pages of the user, or those of each process */
static unsigned int charged(const struct world *w)
{
	unsigned int own = counted(w, 0), others = counted(w, 1);

	if (w->mode == USER)
		return own + others;
	return own > others ? own : others;
}

/* ---- calls --------------------------------------------------------------- */

/*
 * Check a call that takes the count to @after: @rc is its result, @ok is
 * cleared if that is wrong. Returns whether the model does the same.
 */
static bool judged(struct world *w, int rc, unsigned int after, bool *ok)
{
	bool fits = w->mode == NONE || after <= w->limit;

	w->calls++;
	if (rc == (fits ? 0 : -ENOMEM)) {
		w->refused += !fits;
		return fits;
	}
	ksft_print_msg("%s: %s with %u of %u pages\n", w->last,
		       rc ? strerror(-rc) : "success", after, w->limit);
	*ok = false;
	return false;
}

/* The lowest slot of an IOAS without an area */
static u64 free_slot(const struct world *w, unsigned int ioas)
{
	u64 iova = MOCK_APERTURE_START;
	unsigned int i;

again:
	for (i = 0; i < AREAS; i++)
		if (w->areas[i].pages && w->areas[i].ioas == ioas &&
		    w->areas[i].iova / SLOT == iova / SLOT) {
			iova += SLOT;
			goto again;
		}
	return iova;
}

static struct area *free_area(struct world *w)
{
	unsigned int i;

	for (i = 0; i < AREAS; i++)
		if (!w->areas[i].pages)
			return &w->areas[i];
	return NULL;
}

static struct area *some_area(struct world *w)
{
	struct area *a = &w->areas[below(&w->rng, AREAS)];

	return a->pages ? a : NULL;
}

static bool try_map(struct world *w)
{
	struct area *a = free_area(w);
	unsigned int i, ioas = below(&w->rng, IOASES);
	u64 start = below(&w->rng, 64) * PAGE;
	bool ok = true;
	int rc;

	for (i = 0; i < OBJECTS && w->objects[i].pages; i++)
		;
	if (!a || i == OBJECTS)
		return true;
	a->ioas = ioas;
	a->iova = free_slot(w, ioas);
	a->object = i;
	a->first = 0;
	a->pages = 1 + below(&w->rng, below(&w->rng, 4) ? 16 : PAGES_MAX);
	w->objects[i].pages = a->pages;
	w->objects[i].owner = 0;
	snprintf(w->last, sizeof(w->last), "MAP of %u pages", a->pages);
	rc = w->other ? do_map_file(w->fd, w->ioas[ioas], w->memfd, start,
				    a->pages * PAGE, a->iova) :
			do_map(w->fd, w->ioas[ioas], w->mem + start,
			       a->pages * PAGE, a->iova);
	if (!judged(w, rc, charged(w), &ok)) {
		a->pages = 0;
		w->objects[i].pages = 0;
	}
	return ok;
}

static bool try_copy(struct world *w)
{
	struct area *from = some_area(w), *a = free_area(w);
	unsigned int skip, ioas = below(&w->rng, IOASES);
	bool ok = true;
	int rc;

	if (!from || !a)
		return true;
	skip = below(&w->rng, from->pages);
	a->ioas = ioas;
	a->iova = free_slot(w, ioas);
	a->object = from->object;
	a->first = from->first + skip;
	a->pages = 1 + below(&w->rng, from->pages - skip);
	snprintf(w->last, sizeof(w->last), "COPY of %u pages", a->pages);
	rc = do_copy(w->fd, w->ioas[ioas], a->iova, w->ioas[from->ioas],
		     from->iova + skip * PAGE, a->pages * PAGE);
	if (!judged(w, rc, charged(w), &ok))
		a->pages = 0;
	return ok;
}

static bool try_unmap(struct world *w)
{
	struct area *a = some_area(w);
	bool ok = true;
	unsigned int i;

	if (!a)
		return true;
	/* The unmap callback of the mock driver unpins. */
	for (i = 0; i < ITEMS; i++)
		if (w->items[i].ioas == a->ioas &&
		    w->items[i].iova / SLOT == a->iova / SLOT)
			w->items[i].pages = 0;
	snprintf(w->last, sizeof(w->last), "UNMAP of %u pages", a->pages);
	judged(w, do_unmap(w->fd, w->ioas[a->ioas], a->iova, a->pages * PAGE),
	       0, &ok);
	a->pages = 0;
	forget(w);
	return ok;
}

static bool try_domain(struct world *w)
{
	unsigned int ioas = below(&w->rng, IOASES);
	unsigned int *n = &w->nr_domains[ioas];
	bool ok = true;
	u32 id;
	int rc;

	if (*n == DOMAINS || (*n && below(&w->rng, 2))) {
		snprintf(w->last, sizeof(w->last), "a domain less of %u", *n);
		id = w->domains[ioas][--*n];
		judged(w, do_destroy(w->fd, id), 0, &ok);
		return ok;
	}
	snprintf(w->last, sizeof(w->last), "a domain more than %u", *n);
	++*n;
	rc = do_hwpt_alloc(w->fd, w->mock.idev, w->ioas[ioas], 0, 0,
			   &w->domains[ioas][*n - 1]);
	if (!judged(w, rc, charged(w), &ok))
		--*n;
	return ok;
}

static bool try_access(struct world *w)
{
	struct item *item = &w->items[below(&w->rng, ITEMS)];
	struct area *a = some_area(w);
	unsigned int skip;
	bool ok = true;
	int rc;

	if (item->pages) {
		snprintf(w->last, sizeof(w->last), "unpin of %u pages",
			 item->pages);
		rc = do_access_unpin(w->fd, w->access[item->ioas], item->id);
		item->pages = 0;
		judged(w, rc, 0, &ok);
		return ok;
	}
	if (!a)
		return true;
	skip = below(&w->rng, a->pages);
	item->ioas = a->ioas;
	item->iova = a->iova + skip * PAGE;
	item->object = a->object;
	item->first = a->first + skip;
	item->pages = 1 + below(&w->rng, a->pages - skip);
	snprintf(w->last, sizeof(w->last), "pin of %u pages", item->pages);
	rc = do_access_pin(w->fd, w->access[a->ioas], item->iova,
			   item->pages * PAGE, MOCK_FLAGS_ACCESS_WRITE,
			   &item->id);
	if (!judged(w, rc, charged(w), &ok))
		item->pages = 0;
	return ok;
}

/* The other process, or this one, becomes the owner of all pages. */
static bool try_change(struct world *w)
{
	unsigned int owner = below(&w->rng, 2), i;
	/* The new owner is charged before the old one is uncharged. */
	unsigned int most = counted(w, owner) + counted(w, !owner);
	bool ok = true;
	int rc;

	if (!w->other)
		return true;
	snprintf(w->last, sizeof(w->last), "CHANGE_PROCESS by process %u",
		 owner);
	if (owner) {
		if (write(w->ask, "c", 1) != 1 ||
		    read(w->answer, &rc, sizeof(rc)) != sizeof(rc))
			ksft_exit_fail_msg("the other process is gone\n");
	} else {
		rc = do_change_process(w->fd);
	}
	if (w->mode == USER)
		most += counted(w, !owner);
	if (judged(w, rc, most, &ok))
		for (i = 0; i < OBJECTS; i++)
			w->objects[i].owner = owner;
	return ok;
}

/* As many pages can be pinned as the limit allows, and not one more. */
static bool try_room(struct world *w)
{
	unsigned int room = w->limit - charged(w);
	u64 iova = MOCK_APERTURE_START + 512 * SLOT;
	bool ok = true;

	if (w->mode == NONE || w->other || !w->nr_domains[0] || !room)
		return true;
	snprintf(w->last, sizeof(w->last), "room for %u pages", room);
	judged(w, do_map(w->fd, w->ioas[0], w->mem, (room + 1) * PAGE, iova),
	       w->limit + 1, &ok);
	judged(w, do_map(w->fd, w->ioas[0], w->mem, room * PAGE, iova),
	       w->limit, &ok);
	judged(w, do_unmap(w->fd, w->ioas[0], iova, room * PAGE), 0, &ok);
	return ok;
}

/* ---- worlds -------------------------------------------------------------- */

static void set_limit(unsigned int pages)
{
	struct rlimit limit = { pages * PAGE, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &limit);
}

/* For each byte on @ask, reply with the result of CHANGE_PROCESS. */
static void be_other(int fd, int ask, int answer)
{
	char byte;
	int rc;

	while (read(ask, &byte, 1) == 1) {
		rc = do_change_process(fd);
		if (write(answer, &rc, sizeof(rc)) != sizeof(rc))
			break;
	}
	_exit(0);
}

static int make_world(struct world *w, enum mode which, bool two, u64 seed)
{
	struct iommu_option option = {
		.size = sizeof(option),
		.option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = which == MM,
	};
	int ask[2], answer[2], rc;
	unsigned int i;
	u32 scratch;
	pid_t pid;

	memset(w, 0, sizeof(*w));
	w->mode = which;
	w->rng = seed;
	w->limit = LIMIT;
	w->mem = mmap(NULL, (LIMIT + 65) * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	w->memfd = memfd_create("memlock", MFD_CLOEXEC);
	w->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (w->mem == MAP_FAILED || w->memfd < 0 || w->fd < 0 ||
	    ftruncate(w->memfd, 128 * PAGE))
		return -errno;
	rc = call(w->fd, IOMMU_OPTION, &option) ?:
	     do_ioas_alloc(w->fd, &scratch) ?:
	     do_mock_device(w->fd, scratch, &w->mock);
	for (i = 0; i < IOASES && !rc; i++)
		rc = do_ioas_alloc(w->fd, &w->ioas[i]) ?:
		     do_access_create(w->fd, w->ioas[i],
				      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
				      &w->access[i]);
	if (rc)
		return rc;
	set_limit(LIMIT);
	if (which != NONE)
		drop_ipc_lock();
	if (two) {
		if (pipe(ask) || pipe(answer))
			return -errno;
		pid = fork();
		if (!pid) {
			close(ask[1]);
			be_other(w->fd, ask[0], answer[1]);
		}
		/* The world is in shared memory. */
		w->other = pid;
		close(ask[0]);
		close(answer[1]);
		w->ask = ask[1];
		w->answer = answer[0];
	}
	for (i = 0; i < 2; i++) {
		w->base_pin[i] = status_pages(i ? w->other : 0, "VmPin");
		w->base_lock[i] = status_pages(i ? w->other : 0, "VmLck");
	}
	return 0;
}

static bool run_world(struct world *w, unsigned int calls)
{
	bool ok = true;
	unsigned int i;

	while (w->calls < calls && ok) {
		switch (below(&w->rng, 14)) {
		case 0 ... 2:
			ok = try_map(w);
			break;
		case 3 ... 4:
			ok = try_copy(w);
			break;
		case 5 ... 6:
			ok = try_unmap(w);
			break;
		case 7 ... 8:
			ok = try_domain(w);
			break;
		case 9 ... 11:
			ok = try_access(w);
			break;
		case 12:
			ok = try_change(w);
			break;
		default:
			ok = try_room(w);
		}
		ok = ok && agrees(w);
	}
	/* Close the files, in one order or the other. */
	snprintf(w->last, sizeof(w->last), "close");
	if (w->other) {
		close(w->ask);
		waitpid(w->other, NULL, 0);
		w->other = 0;
	}
	close(w->fd);
	for (i = 0; i < IOASES; i++)
		close(w->access[i]);
	memset(w->areas, 0, sizeof(w->areas));
	memset(w->items, 0, sizeof(w->items));
	return ok && agrees(w);
}

/* Pinned pages, and pages of page tables, at the start */
static long long pinned_before, tables_before;

static void run_mode(enum mode which, bool two, u64 seed, unsigned int calls)
{
	struct world *w = shared_memory(sizeof(*w));
	long long left;
	int status = 0, rc;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		rc = make_world(w, which, two, seed);
		if (rc) {
			ksft_print_msg("cannot be set up: %s\n",
				       strerror(-rc));
			_exit(1);
		}
		rc = !run_world(w, calls);
		fflush(stdout);
		_exit(rc);
	}
	waitpid(pid, &status, 0);
	left = pages_left_pinned(pinned_before);
	ksft_print_msg("%lu calls, %lu of them refused by the limit; %lld pages left pinned\n",
		       w->calls, w->refused, left);
	if (status)
		ksft_print_msg("again: iommufd_memlock -s %lu -n %u -k 0\n",
			       seed, calls);
	ksft_test_result(!status && !left && w->calls >= calls &&
			 !table_pages_left(tables_before) &&
			 (which == NONE || w->refused),
			 "mode %s, %s\n", mode_names[which],
			 two ? "two processes" : "one process");
	munmap(w, sizeof(*w));
}

/* ---- killed -------------------------------------------------------------- */

/* A slot of one thread: one area, or none */
#define CHURN_SLOTS 16

struct churn {
	struct world *w;
	unsigned int number;
	u64 rng;
	u64 length[IOASES][CHURN_SLOTS];
};

/* Exit status if a call has a wrong result */
#define CHURN_WRONG 3

static void churn_is(const struct churn *c, const char *what, int rc,
		     int expected)
{
	if (rc == expected)
		return;
	ksft_print_msg("thread %u: %s: %s, expected %s\n", c->number, what,
		       rc ? strerror(-rc) : "success",
		       expected ? strerror(-expected) : "success");
	fflush(stdout);
	_exit(CHURN_WRONG);
}

/* Only this thread uses these IOVAs, so each result is known. */
static void *churn(void *arg)
{
	struct churn *c = arg;
	struct world *w = c->w;

	for (;;) {
		unsigned int slot = below(&c->rng, CHURN_SLOTS);
		unsigned int ioas = below(&c->rng, IOASES);
		u64 *had = &c->length[ioas][slot];
		u64 length = (1 + below(&c->rng, PAGES_MAX)) * PAGE;
		u64 iova = MOCK_APERTURE_START +
			   (c->number * CHURN_SLOTS + slot) * SLOT;
		u32 id;

		switch (below(&c->rng, 5)) {
		case 0:
			churn_is(c, "MAP",
				 do_map(w->fd, w->ioas[ioas], w->mem, length,
					iova), *had ? -EEXIST : 0);
			*had = *had ?: length;
			break;
		case 1:
			churn_is(c, "MAP_FILE",
				 do_map_file(w->fd, w->ioas[ioas], w->memfd, 0,
					     length, iova), *had ? -EEXIST : 0);
			*had = *had ?: length;
			break;
		case 2:
			churn_is(c, "a pin",
				 do_access_pin(w->fd, w->access[ioas], iova,
					       PAGE, 0, &id),
				 *had ? 0 : -ENOENT);
			break;
		case 3:
			churn_is(c, "HWPT_ALLOC",
				 do_hwpt_alloc(w->fd, w->mock.idev,
					       w->ioas[ioas], 0, 0, &id), 0);
			/*
			 * Keep some areas, but not so many that it gets slow.
			 */
			if (below(&c->rng, 16))
				churn_is(c, "DESTROY", do_destroy(w->fd, id),
					 0);
			break;
		default:
			churn_is(c, "UNMAP",
				 do_unmap(w->fd, w->ioas[ioas], iova,
					  *had ?: PAGE), *had ? 0 : -ENOENT);
			*had = 0;
		}
	}
	return NULL;
}

/* Can as much be pinned again, by any process of the user? */
static bool has_room(void)
{
	struct world w;
	bool ok = true;
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		if (make_world(&w, USER, false, 1))
			_exit(1);
		ok = !do_hwpt_alloc(w.fd, w.mock.idev, w.ioas[0], 0, 0,
				    &w.domains[0][0]);
		w.nr_domains[0] = 1;
		_exit(!(ok && try_room(&w)));
	}
	waitpid(pid, &status, 0);
	return !status;
}

static void run_killed(u64 seed, unsigned int rounds)
{
	unsigned int i, j, killed = 0, idle = 0;
	long long left, pinned, most = 0;
	struct churn churns[3] = {};
	pthread_t thread;
	struct world w;
	int status;
	pid_t pid;
	u64 rng = seed;
	bool ok;

	for (i = 0; i < rounds; i++) {
		fflush(stdout);
		pid = fork();
		if (!pid) {
			/* Its own count, in each mode */
			if (make_world(&w, i % MODES, false, seed + i))
				_exit(1);
			set_limit(100000);
			for (j = 0; j < ARRAY_SIZE(churns); j++) {
				churns[j].w = &w;
				churns[j].number = j;
				churns[j].rng = (seed + i) * 8 + j;
				if (pthread_create(&thread, NULL, churn,
						   &churns[j]))
					_exit(1);
			}
			pause();
		}
		/* Once something is pinned, within a minute */
		for (j = 0; !waitpid(pid, &status, WNOHANG); j++) {
			pinned = status_pages(pid, "VmPin");
			if (pinned <= 0 && j < 60000) {
				usleep(1000);
				continue;
			}
			if (pinned > most)
				most = pinned;
			idle += pinned <= 0;
			usleep(below(&rng, 100000));
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			break;
		}
		killed += WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
		if (WIFEXITED(status))
			ksft_print_msg("round %u: %s\n", i,
				       WEXITSTATUS(status) == CHURN_WRONG ?
					       "a call was wrong" :
					       "it could not be set up");
	}
	left = pages_left_pinned(pinned_before);
	ksft_print_msg("%u of %u processes killed, %u of them with nothing pinned\n",
		       killed, rounds, idle);
	ksft_print_msg("up to %lld pages pinned; %lld left pinned\n", most,
		       left);
	ok = killed == rounds && !idle && !left && has_room() &&
	     !table_pages_left(tables_before);
	ksft_test_result(ok, "killed processes leave nothing\n");
}

int main(int argc, char **argv)
{
	unsigned int calls = 500, rounds = 10;
	u64 seed = any_seed();
	const struct test_option options[] = {
		{ 'n', "CALLS", .number = &calls, .help = "in each mode" },
		{ 'k', "ROUNDS", .number = &rounds,
		  .help = "of processes that are killed" },
		{ 's', "SEED", .number64 = &seed, .help = "of the calls" },
	};
	int mode, fd;

	parse_options(argc, argv, "", options, ARRAY_SIZE(options));
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	fd = open("/dev/iommu", O_RDWR);
	if (fd < 0)
		ksft_exit_skip("no /dev/iommu (modprobe iommufd)\n");
	close(fd);
	ksft_set_plan(2 * MODES - 1 + !!rounds);
	ksft_print_msg("seed %lu\n", seed);
	pinned_before = pages_pinned_at_rest();
	tables_before = table_pages();
	for (mode = 0; mode < MODES; mode++) {
		run_mode(mode, false, seed, calls);
		/*
		 * With CAP_IPC_LOCK, the owner is the process that has mapped.
		 */
		if (mode != NONE)
			run_mode(mode, true, seed, calls);
	}
	if (rounds)
		run_killed(seed, rounds);
	ksft_finished();
}
