// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checks of a world of iommufd_model when all of its workers have stopped.
 *
 * First, devices and accesses are attached as in the beginning, and unmapped
 * memory is mapped again, so that nothing depends on an object except what the
 * records say.
 */
#define _GNU_SOURCE
#include "iommufd_model.h"

/* The automatic HWPTs of the devices that stay */
static u32 automatic[STAYING];

/*
 * ---- stopping -------------------------------------------------------------
 */

void detach_pasids(u32 stdev)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_PASID_DETACH,
		.id = stdev,
	};

	for (cmd.pasid_detach.pasid = 1; cmd.pasid_detach.pasid <= 2;
	     cmd.pasid_detach.pasid++)
		if (do_test(w->fd, &cmd))
			broken(ANSWER, "detach of a PASID at rest");
}

static u32 put_back(u32 stdev, u32 ioas)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = stdev,
		.mock_domain_replace.pt_id = ioas,
	};
	int rc;

	detach_pasids(stdev);
	rc = do_test(w->fd, &cmd);
	if (rc)
		broken(ANSWER, "attach to an IOAS at rest: %s", strerror(-rc));
	return cmd.mock_domain_replace.pt_id;
}

static void come_to_rest(void)
{
	unsigned int i;
	int rc;

	restore_memory();
	for (i = 0; i < STAYING; i++) {
		automatic[i] = put_back(w->dev[i].stdev,
					!i && is_plan(PLAN_PASID) ?
					w->pasid_hwpt : w->ioas[i]);
		rc = do_access_replace(w->fd, w->access[i], w->ioas[i]);
		if (rc)
			broken(ANSWER, "access to an IOAS at rest: %s",
			       strerror(-rc));
	}
	if (w->hot)
		put_back(w->hot >> 32, w->ioas[0]);
	for (i = 0; i < DEPS; i++) {
		w->deps[i].now -= w->deps[i].loose;
		w->deps[i].loose = 0;
	}
}

/* ---- objects ------------------------------------------------------------- */

static u32 users_of(enum kind kind, u32 id)
{
	return w->deps[key_of(kind, id) % DEPS].now;
}

/* EBUSY if and only if something depends on it; true if it was destroyed */
static bool destroy_at_rest(enum kind kind, u32 id)
{
	u32 users = users_of(kind, id);
	int rc = destroy_object(kind, id);

	if (rc == -EBUSY && !users)
		broken(BUSY, "DESTROY of a %s at rest, on which nothing depends: EBUSY",
		       kind_names[kind]);
	/* vDEVICEs that were destroyed with their device are not recorded. */
	if (!rc && users && !w->unplugged)
		broken(BUSY, "DESTROY of a %s that is in use succeeds",
		       kind_names[kind]);
	return rc != -EBUSY;
}

static void destroy_left(enum kind kind)
{
	unsigned int i;

	for (i = 0; i < LEFT_MAX; i++)
		if (w->left[kind][i] &&
		    destroy_at_rest(kind, w->left[kind][i]))
			w->left[kind][i] = 0;
}

/* Automatic HWPTs are destroyed with their devices, so nothing keeps these. */
static void destroy_unused_ioases(void)
{
	unsigned int i;
	u32 id;

	for (i = 0; i < SLOTS; i++) {
		id = w->objects[IOAS][i];
		if (id && !users_of(IOAS, id) && destroy_at_rest(IOAS, id))
			w->objects[IOAS][i] = 0;
	}
}

static void destroy_all(void)
{
	enum kind kind;
	unsigned int i;
	u32 id;

	for (kind = 0; kind < KINDS; kind++) {
		for (i = 0; i < SLOTS; i++) {
			id = take_object(kind, i);
			if (id)
				leave(kind, id);
		}
		/* Destroy the second of two HW queues first. */
		destroy_left(kind);
		destroy_left(kind);
		for (i = 0; i < LEFT_MAX; i++)
			if (w->left[kind][i])
				broken(DESTROYED, "a %s cannot be destroyed at the end",
				       kind_names[kind]);
	}
}

/* ---- memory -------------------------------------------------------------- */

/* A copy can have the memory of any mapping that was at the other place. */
static void follow_copies(void)
{
	bool more = true;
	unsigned int i, j;

	while (more) {
		more = false;
		for (i = 0; i < w->nr_copies; i++) {
			const struct copied *c = &w->copies[i];

			for (j = 0; j < c->pages; j++) {
				u64 *to = &w->seen[c->to][c->to_page + j];
				u64 from = c->from >= STAYING ? ~0ULL :
					   w->seen[c->from][c->from_page + j];

				more |= from & ~*to;
				*to |= from;
			}
		}
	}
	w->nr_copies = 0;
}

/* Is something mapped there? If not, each domain must be able to map. */
static bool is_mapped(unsigned int i, u64 iova)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = w->ioas[i],
		.iova = iova,
		.length = PAGE,
	};
	int rc = do_map_file(w->fd, w->ioas[i], w->file, 0, PAGE, iova);

	if (rc == -EEXIST)
		return true;
	if (rc) {
		broken(CONTENT, "IOAS %u, %lx: nothing can be mapped where nothing is: %s",
		       i, iova, strerror(-rc));
		return false;
	}
	rc = call(w->fd, IOMMU_IOAS_UNMAP, &unmap);
	if (rc || unmap.length != PAGE)
		broken(UNMAPPED, "UNMAP of a page reports %llu bytes, %s",
		       unmap.length, strerror(-rc));
	return false;
}

static bool is_hwpt_of(unsigned int i, u32 hwpt)
{
	return hwpt && (hwpt == automatic[i] ||
			w->deps[hwpt % DEP_IDS].on[0] == w->ioas[i]);
}

static void check_domain(unsigned int i, u32 hwpt, u64 iova, u32 page)
{
	int rc;

	if (!is_hwpt_of(i, hwpt))
		return;
	rc = do_check_map(w->fd, hwpt, w->mem + page * PAGE, PAGE, iova);
	if (rc)
		broken(CONTENT, "IOAS %u, %lx: HWPT %u does not map page %u: %s",
		       i, iova, hwpt, page, strerror(-rc));
}

/* The memory of a mapped page, as a mask */
static u64 check_page(unsigned int i, u64 iova, u64 seen)
{
	u32 words[PAGE / sizeof(u32)], page, slot;
	int rc;

	report->areas++;
	rc = do_access_rw(w->fd, w->eye, iova, words, sizeof(words), 0);
	if (rc) {
		if (rc != -EINVAL || !(seen & SEEN_DMABUF))
			broken(CONTENT, "IOAS %u, %lx: what is mapped cannot be read: %s",
			       i, iova, strerror(-rc));
		return SEEN_DMABUF;
	}
	page = words[0] - 1;
	if (!words[0] || words[0] - number_of(SEEN_TRUNCATED, 0) < PAGES) {
		if (!(seen & SEEN_TRUNCATED))
			broken(CONTENT, "IOAS %u, %lx: a page of a file never mapped there",
			       i, iova);
		return SEEN_TRUNCATED;
	}
	if (words[0] - number_of(SEEN_VANISHING, 0) < PAGES) {
		if (!(seen & SEEN_VANISHING))
			broken(CONTENT, "IOAS %u, %lx: memory that was never mapped there",
			       i, iova);
		return SEEN_VANISHING;
	}
	if (page >= PAGES || !(seen & (1ULL << page))) {
		broken(CONTENT, "IOAS %u, %lx: page %u was never mapped there",
		       i, iova, page);
		return seen;
	}
	if (memcmp(words, w->mem + page * PAGE, PAGE))
		broken(CONTENT, "IOAS %u, %lx: not what page %u holds", i, iova,
		       page);
	check_domain(i, automatic[i], iova, page);
	check_domain(i, w->pasid_hwpt, iova, page);
	for (slot = 0; slot < SLOTS; slot++) {
		check_domain(i, w->objects[PARENT][slot], iova, page);
		check_domain(i, w->objects[HWPT][slot], iova, page);
	}
	return 1ULL << page;
}

static void check_long_in(unsigned int i, u32 hwpt, unsigned int place)
{
	int rc;

	if (!is_hwpt_of(i, hwpt))
		return;
	rc = do_check_map(w->fd, hwpt, w->long_mem, LONG_PAGES * PAGE,
			  long_iova(place));
	if (rc)
		broken(CONTENT, "IOAS %u: HWPT %u does not map long area %u: %s",
		       i, hwpt, place, strerror(-rc));
}

/* A long area is mapped in each domain, or has room there. Returns its bytes. */
static s64 check_long(unsigned int i, unsigned int place)
{
	struct iommu_ioas_unmap unmap = {
		.size = sizeof(unmap),
		.ioas_id = w->ioas[i],
		.iova = long_iova(place),
		.length = LONG_PAGES * PAGE,
	};
	unsigned int slot;
	int rc = copy_long(i, place);

	if (!rc) {
		rc = call(w->fd, IOMMU_IOAS_UNMAP, &unmap);
		if (rc || unmap.length != LONG_PAGES * PAGE)
			broken(UNMAPPED, "UNMAP of a long area reports %llu bytes, %s",
			       unmap.length, strerror(-rc));
		return 0;
	}
	if (rc != -EEXIST) {
		broken(CONTENT, "IOAS %u: long area %u cannot be mapped where nothing is: %s",
		       i, place, strerror(-rc));
		return 0;
	}
	/* Another area may be mapped there. */
	if (w->stray[i])
		return 0;
	check_long_in(i, automatic[i], place);
	check_long_in(i, w->pasid_hwpt, place);
	for (slot = 0; slot < SLOTS; slot++) {
		check_long_in(i, w->objects[PARENT][slot], place);
		check_long_in(i, w->objects[HWPT][slot], place);
	}
	return LONG_PAGES * PAGE;
}

static void check_ioas(unsigned int i)
{
	unsigned int place, page;
	s64 mapped = 0;

	if (do_access_replace(w->fd, w->eye, w->ioas[i])) {
		broken(ANSWER, "access to an IOAS at rest");
		return;
	}
	for (place = 0; place < PLACES; place++)
		for (page = 0; page < AREA_PAGES; page++) {
			u64 *seen = &w->seen[i][place * AREA_PAGES + page];
			u64 iova = iova_of(place, page);

			if (!is_mapped(i, iova)) {
				*seen = 0;
				continue;
			}
			mapped += PAGE;
			*seen = check_page(i, iova, *seen);
		}
	for (place = 0; place < LONG_PLACES; place++)
		mapped += check_long(i, place);
	if (!w->unknown[i] && w->balance[i] != mapped)
		broken(UNMAPPED, "IOAS %u: %ld bytes are mapped, by MAP and UNMAP it is %ld",
		       i, mapped, w->balance[i]);
	w->balance[i] = mapped;
	w->unknown[i] = w->stray[i];
}

/* Without mappings nothing is pinned, though the context is open. */
static void check_unpinned(void)
{
	struct iommu_ioas_unmap cmd;
	unsigned int i;
	int rc;

	for (i = 0; i < STAYING; i++) {
		cmd = (struct iommu_ioas_unmap){
			.size = sizeof(cmd),
			.ioas_id = w->ioas[i],
			.length = UINT64_MAX,
		};
		rc = call(w->fd, IOMMU_IOAS_UNMAP, &cmd);
		if (rc && rc != -ENOENT)
			broken(BUSY, "UNMAP of all at the end: %s",
			       strerror(-rc));
		if (!rc && !w->unknown[i] && (s64)cmd.length != w->balance[i])
			broken(UNMAPPED, "UNMAP of all reports %llu bytes of %ld",
			       cmd.length, w->balance[i]);
	}
	for (i = 0; i < 50 && read_counter("/proc/self/status", "VmPin"); i++)
		usleep(2000);
	if (read_counter("/proc/self/status", "VmPin"))
		broken(PINS, "VmPin %lld kB with nothing mapped",
		       read_counter("/proc/self/status", "VmPin"));
}

void check_rest(bool all)
{
	enum kind kind;
	unsigned int i;

	come_to_rest();
	follow_copies();
	for (kind = 0; kind < KINDS; kind++) {
		destroy_left(kind);
		if (kind == HW_QUEUE)
			destroy_left(kind);
	}
	destroy_unused_ioases();
	for (i = 0; i < STAYING; i++)
		check_ioas(i);
	if (!all)
		return;
	destroy_all();
	check_unpinned();
}
