// SPDX-License-Identifier: GPL-2.0-only
/*
 * The calls of a sequence: their arguments, and their results as text.
 *
 * A sequence is made from a seed, and each of its calls from a seed of its own,
 * so that the remaining calls do not change when some are left out. A number in
 * an argument selects an object or range of struct world, a model of the
 * context: most calls are then valid, and some are deliberately not.
 *
 * The text must depend only on the calls and the implementation. Memory is
 * mapped at fixed addresses. Where the layout of physical memory affects the
 * result, either both use the same memory, or the result is not recorded (see
 * struct object, tainted).
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <linux/vfio.h>

#include "iommufd_diff.h"
#include "kselftest.h"

/*
 * Memory to map. @SMALL and @HUGE are the same pages in every sequence; @ANON
 * is allocated by each. Nothing is mapped at @HOLE.
 */
#define SMALL 0x100000000000UL
#define SMALL_SIZE 0x100000UL
#define HUGE 0x100010000000UL
#define HUGE_SIZE 0x400000UL
#define ANON 0x100020000000UL
#define ANON_SIZE (512UL << 10)
#define READONLY 0x100030000000UL
#define READONLY_SIZE (64UL << 10)
#define HOLE 0x100040000000UL
/* One page, writable at @FRAME and read-only at @FRAME_RO */
#define FRAME 0x100050000000UL
#define FRAME_RO 0x100051000000UL
/* The arguments of calls; the next page is not mapped. */
#define BUFFER 0x100060000000UL
#define BUFFER_SIZE (64UL << 10)

enum kind {
	IOAS,
	IDEV,
	STDEV,
	PAGING,
	NESTED,
	FAULT,
	VIOMMU,
	VDEVICE,
	VEVENTQ,
	HW_QUEUE,
	ACCESS,
	DMABUF,
	KIND_NR,
};

#define PASIDS 4
#define ITEMS 8
#define COOKIES 16

struct object {
	enum kind kind;
	/* The id; the fd of an access or a dma-buf */
	u32 id;
	/* The fd of an event queue; -1 if it is closed */
	int fd;
	/* PAGING: its IOAS; ACCESS: the IOAS it is attached to. */
	u32 ioas;
	/*
	 * The object that it was made for: IDEV of a STDEV, VIOMMU of a VDEVICE
	 * ...
	 */
	u32 parent;
	/* STDEV: the HWPT that it is attached to */
	u32 pt;
	u32 fault;
	u32 flags;
	/* PAGING: made by an attach, destroyed by the last detach */
	bool automatic;
	/*
	 * IOAS: has pages that differ between runs, so results that depend on
	 * their being contiguous are not recorded
	 */
	bool tainted;
	u32 pasid[PASIDS], pasid_pt[PASIDS];
	u32 items[ITEMS];
	unsigned int nr_items;
	u32 cookies[COOKIES];
	unsigned int nr_cookies;
	u64 offset, length;
	void *map;
};

struct mapping {
	u32 ioas;
	u64 iova;
	u64 length;
	/* The memory as the CPU maps it; 0 for a dma-buf */
	u64 uva;
};

struct world {
	int fd;
	u64 rng;
	/* Make no call that is known to fail */
	bool good;
	/*
	 * One more than the way in which call_struct() has to spoil the
	 * argument
	 */
	unsigned int forced;
	bool files_only;
	/* Pinned memory is charged to a process that has exited */
	bool orphaned;
	const char *index;
	char number[16];
	char note[384];
	/*
	 * A few objects are enough for the results of calls. iommufd_growth
	 * tests large numbers.
	 */
	struct object objects[256];
	unsigned int nr_objects;
	struct mapping maps[256];
	unsigned int nr_maps;
	u32 dead[16];
	unsigned int nr_dead;
	struct diff_log *log;
	struct stats *stats;
};

/* Shared with all sequences. */
static int small_fd, huge_fd, null_fd;

/* ---- random numbers ------------------------------------------------------ */

static u64 under(struct world *w, u64 n)
{
	return below(&w->rng, n);
}

static bool chance(struct world *w, unsigned int percent)
{
	return under(w, 100) < percent;
}

/* Decide whether an argument is to be wrong */
static bool wrong(struct world *w, unsigned int percent)
{
	return chance(w, percent) && !w->good;
}

static u64 edge(struct world *w)
{
	static const u64 edges[] = {
		0, 1, 2047, 2048, PAGE - 1, PAGE, PAGE + 1,
		MOCK_APERTURE_START - PAGE, MOCK_APERTURE_START,
		MOCK_APERTURE_LAST - PAGE + 1, MOCK_APERTURE_LAST,
		1UL << 31, 1UL << 47, 1UL << 56, UINT64_MAX / 2,
		UINT64_MAX - 2 * PAGE + 1, UINT64_MAX - PAGE + 1,
		UINT64_MAX - 1, UINT64_MAX,
	};

	return edges[under(w, ARRAY_SIZE(edges))];
}

/* ---- the text ------------------------------------------------------------ */

__printf(2, 3)
static void put(struct world *w, const char *format, ...)
{
	struct diff_log *log = w->log;
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(log->text + log->used, log->size - log->used, format,
		      args);
	va_end(args);
	if (n > 0 && log->used + n < log->size)
		log->used += n;
}

/* Describe the next call */
__printf(2, 3)
static void note(struct world *w, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(w->note, sizeof(w->note), format, args);
	va_end(args);
}

static u64 hash(const void *data, size_t n)
{
	const u8 *p = data;
	u64 h = 0xcbf29ce484222325;

	while (n--)
		h = (h ^ *p++) * 0x100000001b3;
	return h;
}

/* Record a call: name, arguments, result */
static void result(struct world *w, enum command cmd, long rc)
{
	put(w, "%s %s %s -> ", w->index, commands[cmd].name, w->note);
	if (rc < 0)
		put(w, "%s", strerrorname_np(-rc) ?: "?");
	else
		put(w, "%ld", rc);
	w->note[0] = 0;
	if (!w->stats)
		return;
	w->stats->calls[cmd]++;
	w->stats->results[cmd][rc < 0 && -rc < ERRNO_MAX ? -rc : 0]++;
}

/* The bytes of an argument that a call has changed. */
static void changes(struct world *w, const void *before, const void *after,
		    size_t size)
{
	const u32 *old = before, *new = after;
	size_t i;

	for (i = 0; i < size / 4; i++)
		if (old[i] != new[i])
			put(w, " @%zu=%x", i * 4, new[i]);
}

/*
 * Make a call whose argument begins with its size. Sometimes the argument is
 * too short, too long, unmapped, or read-only.
 */
static long call_struct(struct world *w, enum command cmd, unsigned long nr,
			void *arg, size_t size)
{
	u8 before[256], longer[256] = {};
	unsigned int how = w->good ? 100 : under(w, 80);
	long rc;

	/* Not if the call is part of another one, and has to succeed */
	if (w->forced && !w->good)
		how = w->forced - 1;
	memcpy(before, arg, size);
	memcpy(longer, arg, size);
	switch (how) {
	case 0:
		*(u32 *)arg = w->forced ? 4 : under(w, size / 4) * 4;
		put(w, "size=%u ", *(u32 *)arg);
		rc = ioctl(w->fd, nr, arg);
		break;
	case 1:
	case 2:
		*(u32 *)longer = size + 24;
		if (how == 2)
			longer[size + 8] = 1;
		put(w, "size+24%s ", how == 2 ? "+1" : "");
		rc = ioctl(w->fd, nr, longer);
		memcpy(arg, longer, size);
		break;
	case 3:
		put(w, "nowhere ");
		rc = ioctl(w->fd, nr, (void *)HOLE);
		break;
	case 4:
		put(w, "read-only ");
		memcpy((void *)FRAME, arg, size);
		rc = ioctl(w->fd, nr, (void *)FRAME_RO);
		break;
	default:
		rc = ioctl(w->fd, nr, arg);
	}
	if (rc < 0)
		rc = -errno;
	result(w, cmd, rc);
	changes(w, before + 4, (u8 *)arg + 4, size - 4);
	put(w, "\n");
	return rc;
}

#define CALL(w, cmd, nr, arg) \
	call_struct(w, cmd, nr, arg, sizeof(*(__typeof__(arg))0))

static long call_test(struct world *w, enum command cmd,
		      struct iommu_test_cmd *arg)
{
	return call_struct(w, cmd, IOMMU_TEST_CMD, arg, sizeof(*arg));
}

/* ---- objects ------------------------------------------------------------- */

static struct object *add(struct world *w, enum kind kind, u32 id)
{
	static struct object spare;
	struct object *o = &spare;

	if (w->nr_objects < ARRAY_SIZE(w->objects))
		o = &w->objects[w->nr_objects++];
	memset(o, 0, sizeof(*o));
	o->kind = kind;
	o->id = id;
	o->fd = -1;
	return o;
}

static void forget(struct world *w, struct object *o)
{
	if (o->kind != ACCESS && o->kind != DMABUF)
		w->dead[w->nr_dead++ % ARRAY_SIZE(w->dead)] = o->id;
	*o = w->objects[--w->nr_objects];
}

static struct object *find(struct world *w, enum kind which, u32 id)
{
	unsigned int i;

	for (i = 0; i < w->nr_objects; i++)
		if (w->objects[i].kind == which && w->objects[i].id == id)
			return &w->objects[i];
	return NULL;
}

static struct object *find_any(struct world *w, u32 id)
{
	unsigned int i;

	for (i = 0; i < w->nr_objects; i++)
		if (w->objects[i].kind != ACCESS &&
		    w->objects[i].kind != DMABUF && w->objects[i].id == id)
			return &w->objects[i];
	return NULL;
}

static unsigned int count(struct world *w, enum kind kind)
{
	unsigned int i, n = 0;

	for (i = 0; i < w->nr_objects; i++)
		n += w->objects[i].kind == kind;
	return n;
}

static struct object *pick(struct world *w, enum kind kind)
{
	unsigned int i, n = count(w, kind);

	if (!n)
		return NULL;
	n = under(w, n);
	for (i = 0; i < w->nr_objects; i++)
		if (w->objects[i].kind == kind && !n--)
			return &w->objects[i];
	return NULL;
}

/* An object with one of FLAGS, if there is one */
static struct object *pick_with(struct world *w, enum kind wanted,
				u32 flags)
{
	struct object *o = NULL;
	unsigned int i;

	for (i = 0; i < 8; i++) {
		o = pick(w, wanted);
		if (!o || o->flags & flags)
			break;
	}
	return o;
}

/* An object made on PARENT, if there is one */
static struct object *pick_on(struct world *w, enum kind wanted, u32 parent)
{
	struct object *o = NULL;
	unsigned int i;

	for (i = 0; i < 12; i++) {
		o = pick(w, wanted);
		if (!o || o->parent == parent)
			break;
	}
	return o;
}

/* An id of no object, of a destroyed one, or of another type */
static u32 wrong_id(struct world *w)
{
	switch (under(w, 4)) {
	case 0:
		return under(w, 3) ? under(w, 64) : edge(w);
	case 1:
		return w->dead[under(w, ARRAY_SIZE(w->dead))];
	default:
		if (!w->nr_objects)
			return 0;
		return w->objects[under(w, w->nr_objects)].id;
	}
}

static u32 pick_id(struct world *w, enum kind kind)
{
	struct object *o = pick(w, kind);

	return !o || wrong(w, 6) ? wrong_id(w) : o->id;
}

static u32 id_of(struct world *w, struct object *o)
{
	return !o || wrong(w, 6) ? wrong_id(w) : o->id;
}

static void add_mapping(struct world *w, u32 ioas, u64 iova,
			u64 length, u64 uva)
{
	struct object *o = find(w, IOAS, ioas);

	if (o && uva >= ANON && uva < ANON + ANON_SIZE)
		o->tainted = true;
	if (w->nr_maps == ARRAY_SIZE(w->maps))
		w->nr_maps--;
	w->maps[w->nr_maps++] = (struct mapping){ ioas, iova, length, uva };
}

static void drop_mappings(struct world *w, u32 ioas, u64 iova,
			  u64 last)
{
	unsigned int i = 0;

	while (i < w->nr_maps) {
		struct mapping *m = &w->maps[i];

		if (m->ioas == ioas && m->iova <= last &&
		    m->iova + m->length - 1 >= iova)
			*m = w->maps[--w->nr_maps];
		else
			i++;
	}
}

/* A mapping of IOAS (0: of any); a made-up one if there is none */
static struct mapping pick_mapping(struct world *w, u32 ioas)
{
	struct mapping none = {
		ioas, MOCK_APERTURE_START + under(w, 64) * 0x10000,
		PAGE * (1 + under(w, 4)), 0
	};
	unsigned int i, n = 0;

	for (i = 0; i < w->nr_maps; i++)
		n += !ioas || w->maps[i].ioas == ioas;
	if (!n)
		return none;
	n = under(w, n);
	for (i = 0; i < w->nr_maps; i++)
		if ((!ioas || w->maps[i].ioas == ioas) && !n--)
			return w->maps[i];
	return none;
}

static bool tainted(struct world *w, u32 ioas)
{
	struct object *o = find(w, IOAS, ioas);

	return !o || o->tainted;
}

/* A part of a mapping, more than it, or another range */
static void pick_range(struct world *w, struct mapping *m)
{
	u64 skip;

	if (w->good || chance(w, 60))
		return;
	switch (under(w, 8)) {
	case 0:
	case 1:
		skip = under(w, m->length / 2048 + 1) * 2048;
		m->iova += skip;
		m->uva = m->uva ? m->uva + skip : 0;
		m->length -= skip;
		break;
	case 2:
		m->length = under(w, m->length / 2048 + 1) * 2048;
		break;
	case 3:
		m->length += PAGE;
		break;
	case 4:
		skip = under(w, m->length + 1);
		m->iova += skip;
		m->uva = m->uva ? m->uva + skip : 0;
		m->length = under(w, m->length - skip + 1);
		break;
	case 5:
		m->iova = edge(w);
		break;
	case 6:
		m->length = edge(w);
		break;
	default:
		m->iova -= PAGE;
		m->uva -= m->uva ? PAGE : 0;
	}
}

/* ---- memory to map ------------------------------------------------------- */

static u64 pick_length(struct world *w)
{
	if (w->good)
		return PAGE * (1 + under(w, 8));
	switch (under(w, 24)) {
	case 0:
	case 1:
		return 2048 * (1 + under(w, 32));
	case 2:
		return 1 + under(w, 10000);
	case 3:
		return 2UL << 20;
	case 4:
		return 1UL << (12 + under(w, 10));
	case 5:
		return edge(w);
	default:
		return PAGE * (1 + under(w, 8));
	}
}

static u64 pick_offset(struct world *w, u64 size, u64 length)
{
	u64 room = length < size ? size - length : 0;

	if (wrong(w, 8))
		return under(w, room + 1);
	if (wrong(w, 12))
		return under(w, room / 2048 + 1) * 2048;
	return under(w, room / PAGE + 1) * PAGE;
}

static u64 pick_memory(struct world *w, u64 length)
{
	unsigned int n = under(w, 100);

	if (wrong(w, 3))
		return chance(w, 70) ? HOLE : edge(w);
	if (wrong(w, 4))
		return READONLY + pick_offset(w, READONLY_SIZE, length);
	if (length > SMALL_SIZE || n < 15)
		return HUGE + pick_offset(w, HUGE_SIZE, length);
	if (n < 45 && length <= ANON_SIZE)
		return ANON + pick_offset(w, ANON_SIZE, length);
	return SMALL + pick_offset(w, SMALL_SIZE, length);
}

static u64 pick_iova(struct world *w, u64 uva, u64 length)
{
	if (wrong(w, 8))
		return edge(w);
	if (wrong(w, 8))
		return MOCK_APERTURE_START + under(w, 1UL << 24);
	if (length >= 1UL << 20 && length < 1UL << 30)
		return (16 + under(w, 32)) * (2UL << 20) + uva % (2UL << 20);
	return MOCK_APERTURE_START + under(w, 256) * 0x10000 + uva % PAGE;
}

static u32 map_flags(struct world *w)
{
	u32 flags = 0;

	if (chance(w, 90))
		flags |= IOMMU_IOAS_MAP_READABLE;
	if (chance(w, 70) || (!flags && w->good))
		flags |= IOMMU_IOAS_MAP_WRITEABLE;
	if (chance(w, 40))
		flags |= IOMMU_IOAS_MAP_FIXED_IOVA;
	if (wrong(w, 2))
		flags |= 1 << (3 + under(w, 29));
	return flags;
}

/* ---- ioctls of /dev/iommu ------------------------------------------------ */

static void pasid_detach(struct world *w, struct object *dev, unsigned int i)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_DETACH,
		.id = dev->id,
		.pasid_detach.pasid = dev->pasid[i],
	};
	bool good = w->good;

	w->good = true;
	note(w, "dev=%u pasid=%u", dev->id, dev->pasid[i]);
	call_test(w, CMD_PASID_DETACH, &cmd);
	w->good = good;
	dev->pasid[i] = 0;
}

/* The mock does not detach PASIDs by itself. */
static void pasid_detach_all(struct world *w, struct object *dev)
{
	unsigned int i;

	for (i = 0; i < PASIDS; i++)
		if (dev->pasid[i])
			pasid_detach(w, dev, i);
}

/* A page table that an attach made goes when nothing is attached. */
static void drop_automatic(struct world *w, u32 pt)
{
	struct object *hwpt = find(w, PAGING, pt);
	unsigned int i, j;

	if (!hwpt || !hwpt->automatic)
		return;
	for (i = 0; i < w->nr_objects; i++) {
		struct object *o = &w->objects[i];

		if (o->kind != STDEV)
			continue;
		if (o->pt == pt)
			return;
		for (j = 0; j < PASIDS; j++)
			if (o->pasid[j] && o->pasid_pt[j] == pt)
				return;
	}
	forget(w, hwpt);
}

static void destroyed(struct world *w, u32 id)
{
	struct object *o = find_any(w, id), *other;
	u32 pt;

	if (!o)
		return;
	if (o->kind == IOAS)
		drop_mappings(w, id, 0, UINT64_MAX);
	if (o->kind == STDEV) {
		pt = o->pt;
		other = find(w, IDEV, o->parent);
		forget(w, o);
		if (other)
			forget(w, other);
		drop_automatic(w, pt);
		return;
	}
	if (o->fd >= 0)
		close(o->fd);
	forget(w, o);
}

static void op_destroy(struct world *w)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd) };
	struct object *o = NULL;
	unsigned int tries;

	/* Preferably one that few others depend on */
	for (tries = 0; tries < 4 && w->nr_objects; tries++) {
		o = &w->objects[under(w, w->nr_objects)];
		if (o->kind != ACCESS && o->kind != DMABUF &&
		    o->kind != IDEV && !o->automatic &&
		    (o->kind != IOAS || chance(w, 20)))
			break;
	}
	cmd.id = o && !wrong(w, 10) ? o->id : wrong_id(w);
	o = find(w, STDEV, cmd.id);
	if (o)
		pasid_detach_all(w, o);
	note(w, "id=%u", cmd.id);
	if (!CALL(w, CMD_DESTROY, IOMMU_DESTROY, &cmd))
		destroyed(w, cmd.id);
}

static void op_ioas_alloc(struct world *w)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (wrong(w, 5))
		cmd.flags = 1 << under(w, 32);
	note(w, "flags=%x", cmd.flags);
	if (!CALL(w, CMD_IOAS_ALLOC, IOMMU_IOAS_ALLOC, &cmd))
		add(w, IOAS, cmd.out_ioas_id);
}

static void op_iova_ranges(struct world *w)
{
	struct iommu_iova_range *ranges = (void *)BUFFER;
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = pick_id(w, IOAS),
		.num_iovas = chance(w, 70) ? 64 : under(w, 3),
		.allowed_iovas = wrong(w, 4) ? HOLE : BUFFER,
		.__reserved = wrong(w, 2),
	};
	unsigned int i, room = cmd.num_iovas;
	long rc;

	note(w, "ioas=%u n=%u reserved=%u%s", cmd.ioas_id, cmd.num_iovas,
	     cmd.__reserved, cmd.allowed_iovas == HOLE ? " nowhere" : "");
	rc = CALL(w, CMD_IOVA_RANGES, IOMMU_IOAS_IOVA_RANGES, &cmd);
	if (rc && rc != -EMSGSIZE)
		return;
	for (i = 0; i < room && i < cmd.num_iovas; i++)
		put(w, "\t%llx-%llx\n", ranges[i].start, ranges[i].last);
}

static void op_allow_iovas(struct world *w)
{
	struct iommu_iova_range *ranges = (void *)BUFFER;
	struct iommu_ioas_allow_iovas cmd = {
		.size = sizeof(cmd),
		.ioas_id = pick_id(w, IOAS),
		.num_iovas = under(w, 4),
		.allowed_iovas = wrong(w, 3) ? HOLE : BUFFER,
		.__reserved = wrong(w, 2),
	};
	u64 at = MOCK_APERTURE_START;
	unsigned int i;

	note(w, "ioas=%u n=%u reserved=%u%s", cmd.ioas_id, cmd.num_iovas,
	     cmd.__reserved, cmd.allowed_iovas == HOLE ? " nowhere" : "");
	for (i = 0; i < cmd.num_iovas; i++) {
		ranges[i].start = wrong(w, 10) ? edge(w) : at;
		ranges[i].last = wrong(w, 10) ? edge(w) :
			ranges[i].start + (1UL << (20 + under(w, 8))) - 1;
		at = ranges[i].last + 1 + under(w, 16) * PAGE;
		put(w, "(%llx-%llx) ", ranges[i].start, ranges[i].last);
	}
	CALL(w, CMD_ALLOW_IOVAS, IOMMU_IOAS_ALLOW_IOVAS, &cmd);
}

static void op_map(struct world *w)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = map_flags(w),
		.ioas_id = pick_id(w, IOAS),
		.__reserved = wrong(w, 1),
		.length = pick_length(w),
	};

	cmd.user_va = pick_memory(w, cmd.length);
	cmd.iova = cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA || chance(w, 5) ?
		pick_iova(w, cmd.user_va, cmd.length) : 0;
	note(w, "ioas=%u flags=%x va=%llx length=%llx iova=%llx r=%u",
	     cmd.ioas_id, cmd.flags, cmd.user_va, cmd.length, cmd.iova,
	     cmd.__reserved);
	if (!CALL(w, CMD_MAP, IOMMU_IOAS_MAP, &cmd))
		add_mapping(w, cmd.ioas_id, cmd.iova, cmd.length, cmd.user_va);
}

static void op_map_file(struct world *w)
{
	struct object *buf = pick(w, DMABUF);
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = map_flags(w),
		.ioas_id = pick_id(w, IOAS),
		.length = pick_length(w),
	};
	u64 uva = 0;

	if (wrong(w, 5)) {
		/*
		 * A context that is mapped into itself must be unmapped again.
		 */
		int others[] = { -1, 1000, null_fd, w->fd };

		cmd.fd = others[under(w, ARRAY_SIZE(others))];
		cmd.start = under(w, 4) * PAGE;
	} else if (buf && !w->files_only && chance(w, 35)) {
		cmd.fd = buf->id;
		cmd.length = wrong(w, 10) ? cmd.length :
			PAGE * (1 + under(w, buf->length / PAGE));
		cmd.start = pick_offset(w, buf->length, cmd.length);
	} else if (huge_fd >= 0 && (cmd.length > SMALL_SIZE || chance(w, 15))) {
		cmd.fd = huge_fd;
		cmd.start = pick_offset(w, HUGE_SIZE, cmd.length);
		uva = HUGE + cmd.start;
	} else {
		cmd.fd = small_fd;
		cmd.start = pick_offset(w, SMALL_SIZE, cmd.length);
		uva = SMALL + cmd.start;
	}
	if (wrong(w, 2))
		cmd.start = edge(w);
	if (cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA)
		cmd.iova = pick_iova(w, cmd.start, cmd.length);
	note(w, "ioas=%u flags=%x fd=%d start=%llx length=%llx iova=%llx",
	     cmd.ioas_id, cmd.flags, cmd.fd, cmd.start, cmd.length, cmd.iova);
	if (!CALL(w, CMD_MAP_FILE, IOMMU_IOAS_MAP_FILE, &cmd))
		add_mapping(w, cmd.ioas_id, cmd.iova, cmd.length, uva);
}

static void op_copy(struct world *w)
{
	struct mapping m = pick_mapping(w, 0);
	struct iommu_ioas_copy cmd = { .size = sizeof(cmd) };
	struct object *src, *dst;

	pick_range(w, &m);
	cmd.flags = map_flags(w);
	cmd.dst_ioas_id = pick_id(w, IOAS);
	cmd.src_ioas_id = wrong(w, 4) ? wrong_id(w) : m.ioas;
	cmd.length = m.length;
	cmd.src_iova = m.iova;
	if (cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA)
		cmd.dst_iova = pick_iova(w, m.iova, m.length);
	/* The mock can look up a range by its number. */
	if (wrong(w, 5)) {
		cmd.flags |= MOCK_FLAGS_ACCESS_SYZ;
		cmd.src_iova = under(w, 4) | under(w, 2) * PAGE << 32;
	}
	note(w, "src=%u dst=%u flags=%x length=%llx from=%llx to=%llx",
	     cmd.src_ioas_id, cmd.dst_ioas_id, cmd.flags, cmd.length,
	     cmd.src_iova, cmd.dst_iova);
	if (CALL(w, CMD_COPY, IOMMU_IOAS_COPY, &cmd))
		return;
	src = find(w, IOAS, cmd.src_ioas_id);
	dst = find(w, IOAS, cmd.dst_ioas_id);
	if (dst && (!src || src->tainted))
		dst->tainted = true;
	if (!(cmd.flags & MOCK_FLAGS_ACCESS_SYZ))
		add_mapping(w, cmd.dst_ioas_id, cmd.dst_iova, cmd.length,
			    m.uva);
}

static void op_unmap(struct world *w)
{
	struct mapping m = pick_mapping(w, 0);
	struct iommu_ioas_unmap cmd = { .size = sizeof(cmd) };
	bool all = chance(w, 4);

	pick_range(w, &m);
	cmd.ioas_id = wrong(w, 4) ? wrong_id(w) : m.ioas;
	cmd.iova = all ? 0 : m.iova;
	cmd.length = all ? UINT64_MAX : m.length;
	if (wrong(w, 5)) {
		/* Several at once */
		cmd.iova &= ~0xfffffUL;
		cmd.length = 1UL << 20;
	}
	m.iova = cmd.iova;
	m.length = cmd.length;
	note(w, "ioas=%u iova=%llx length=%llx", cmd.ioas_id, cmd.iova,
	     cmd.length);
	if (!CALL(w, CMD_UNMAP, IOMMU_IOAS_UNMAP, &cmd))
		drop_mappings(w, cmd.ioas_id, m.iova,
			      all ? UINT64_MAX : m.iova + m.length - 1);
}

static void write_status(struct world *w)
{
	put(w, " VmPin=%lld VmLck=%lld", status_pages(0, "VmPin"),
	    status_pages(0, "VmLck"));
}

static void op_status(struct world *w)
{
	result(w, CMD_STATUS, 0);
	write_status(w);
	put(w, "\n");
}

static void op_change_process(struct world *w)
{
	struct iommu_ioas_change_process cmd = {
		.size = sizeof(cmd),
		.__reserved = wrong(w, 5),
	};
	bool other = chance(w, 15);
	pid_t pid;

	/*
	 * C warns when pages of a process that has exited change their owner.
	 */
	if (w->orphaned)
		return;
	pid = other ? fork() : 0;
	if (pid) {
		/*
		 * The other process becomes the owner of all pages, and exits.
		 */
		waitpid(pid, NULL, 0);
		w->orphaned = true;
		return;
	}
	note(w, "reserved=%u", cmd.__reserved);
	CALL(w, CMD_CHANGE_PROCESS, IOMMU_IOAS_CHANGE_PROCESS, &cmd);
	if (other) {
		op_status(w);
		_exit(0);
	}
}

static void op_option(struct world *w)
{
	bool huge = chance(w, 70);
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = huge ? IOMMU_OPTION_HUGE_PAGES :
				    IOMMU_OPTION_RLIMIT_MODE,
		.op = chance(w, 50) ? IOMMU_OPTION_OP_SET :
				      IOMMU_OPTION_OP_GET,
		.object_id = huge ? pick_id(w, IOAS) : wrong(w, 10),
		.val64 = wrong(w, 5) ? edge(w) : under(w, 2),
		.__reserved = wrong(w, 2),
	};

	if (wrong(w, 3))
		cmd.option_id = 2 + under(w, 4);
	if (wrong(w, 3))
		cmd.op = 2 + under(w, 4);
	note(w, "option=%u op=%u object=%u value=%llx r=%u", cmd.option_id,
	     cmd.op, cmd.object_id, cmd.val64, cmd.__reserved);
	CALL(w, CMD_OPTION, IOMMU_OPTION, &cmd);
}

static void op_vfio_ioas(struct world *w)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.op = chance(w, 60) ? IOMMU_VFIO_IOAS_SET : under(w, 3),
		.ioas_id = pick_id(w, IOAS),
		.__reserved = wrong(w, 2),
	};

	if (wrong(w, 4))
		cmd.op = 3 + under(w, 4);
	note(w, "op=%u ioas=%u r=%u", cmd.op, cmd.ioas_id, cmd.__reserved);
	CALL(w, CMD_VFIO_IOAS, IOMMU_VFIO_IOAS, &cmd);
}

static void op_hwpt_alloc(struct world *w)
{
	struct iommu_hwpt_selftest *data = (void *)BUFFER;
	struct object *dev = pick(w, STDEV);
	struct object *pt, *fault = NULL, *o;
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.__reserved = wrong(w, 1),
		.data_uptr = BUFFER,
	};
	enum kind kind;

	kind = chance(w, 50) ? IOAS : chance(w, 50) ? VIOMMU : PAGING;
	if (!count(w, kind))
		kind = IOAS;
	pt = kind == PAGING ? pick_with(w, PAGING,
					IOMMU_HWPT_ALLOC_NEST_PARENT) :
			      pick(w, kind);
	cmd.dev_id = !dev || wrong(w, 5) ? wrong_id(w) : dev->parent;
	cmd.pt_id = id_of(w, pt);
	data->iotlb = IOMMU_TEST_IOTLB_DEFAULT;
	data->pagetable_type = MOCK_IOMMUPT_DEFAULT;
	if (kind == IOAS) {
		if (chance(w, 40))
			cmd.flags |= IOMMU_HWPT_ALLOC_NEST_PARENT;
		if (chance(w, 35))
			cmd.flags |= IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
		if (chance(w, 40))
			cmd.flags |= IOMMU_HWPT_ALLOC_PASID;
		if (chance(w, 12)) {
			cmd.data_type = IOMMU_HWPT_DATA_SELFTEST;
			cmd.data_len = sizeof(*data);
			data->pagetable_type = under(w, 8);
			if (data->pagetable_type > 3)
				data->pagetable_type = 0;
		}
	} else {
		cmd.data_type = IOMMU_HWPT_DATA_SELFTEST;
		cmd.data_len = sizeof(*data);
		if (chance(w, 40))
			cmd.flags |= IOMMU_HWPT_ALLOC_PASID;
	}
	if (count(w, FAULT) &&
	    !(cmd.flags & IOMMU_HWPT_ALLOC_NEST_PARENT) && chance(w, 40)) {
		fault = pick(w, FAULT);
		cmd.flags |= IOMMU_HWPT_FAULT_ID_VALID;
		cmd.fault_id = id_of(w, fault);
	}
	if (wrong(w, 4))
		cmd.flags ^= 1 << under(w, 8);
	if (wrong(w, 3))
		cmd.data_type = under(w, 4);
	if (wrong(w, 3))
		cmd.data_len = under(w, 24);
	if (wrong(w, 3))
		cmd.data_uptr = HOLE;
	note(w, "dev=%u pt=%u flags=%x type=%x len=%u%s fault=%u pgtype=%u r=%u",
	     cmd.dev_id, cmd.pt_id, cmd.flags, cmd.data_type, cmd.data_len,
	     cmd.data_uptr == HOLE ? " nowhere" : "", cmd.fault_id,
	     data->pagetable_type, cmd.__reserved);
	if (CALL(w, CMD_HWPT_ALLOC, IOMMU_HWPT_ALLOC, &cmd))
		return;
	pt = find_any(w, cmd.pt_id);
	if (!pt)
		return;
	o = add(w, pt->kind == IOAS ? PAGING : NESTED, cmd.out_hwpt_id);
	o->flags = cmd.flags;
	o->parent = pt->id;
	o->ioas = pt->kind == IOAS ? pt->id : 0;
	o->fault = cmd.flags & IOMMU_HWPT_FAULT_ID_VALID ? cmd.fault_id : 0;
}

static void op_set_dirty(struct world *w)
{
	struct object *hwpt = pick_with(w, PAGING,
					IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	struct iommu_hwpt_set_dirty_tracking cmd = {
		.size = sizeof(cmd),
		.flags = wrong(w, 5) ? 1 << under(w, 8) : chance(w, 80),
		.hwpt_id = id_of(w, hwpt),
		.__reserved = wrong(w, 2),
	};

	note(w, "hwpt=%u flags=%x r=%u", cmd.hwpt_id, cmd.flags,
	     cmd.__reserved);
	CALL(w, CMD_SET_DIRTY, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd);
}

static void op_get_dirty(struct world *w)
{
	struct object *hwpt = pick_with(w, PAGING,
					IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	struct mapping m = pick_mapping(w, hwpt ? hwpt->ioas : 0);
	struct iommu_hwpt_get_dirty_bitmap cmd = { .size = sizeof(cmd) };
	u64 *bits = (void *)BUFFER;
	unsigned int i;

	pick_range(w, &m);
	cmd.hwpt_id = id_of(w, hwpt);
	cmd.flags = wrong(w, 3) ? 2 << under(w, 8) : chance(w, 30);
	cmd.__reserved = wrong(w, 2);
	cmd.page_size = wrong(w, 5) ? edge(w) : chance(w, 70) ? PAGE : 2048;
	cmd.iova = m.iova & ~(PAGE - 1);
	cmd.length = m.iova - cmd.iova + m.length;
	if (!wrong(w, 5))
		cmd.length = (cmd.length + PAGE - 1) & ~(PAGE - 1);
	cmd.data = wrong(w, 3) ? HOLE : BUFFER;
	memset(bits, 0, BUFFER_SIZE);
	note(w, "hwpt=%u flags=%x iova=%llx length=%llx page=%llx r=%u%s",
	     cmd.hwpt_id, cmd.flags, cmd.iova, cmd.length, cmd.page_size,
	     cmd.__reserved, cmd.data == HOLE ? " nowhere" : "");
	CALL(w, CMD_GET_DIRTY, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd);
	hwpt = find(w, PAGING, cmd.hwpt_id);
	if (!hwpt || tainted(w, hwpt->ioas))
		return;
	for (i = 0; i < BUFFER_SIZE / 8; i++)
		if (bits[i])
			put(w, "\tdirty[%u]=%lx\n", i, bits[i]);
}

static void op_invalidate(struct world *w)
{
	struct object *vdev = pick(w, VDEVICE);
	struct object *o = pick(w, chance(w, 50) ? NESTED : VIOMMU);
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = id_of(w, o),
		.data_uptr = wrong(w, 3) ? chance(w, 50) ? HOLE : 0 : BUFFER,
		.entry_num = under(w, 4),
		.__reserved = wrong(w, 2),
	};
	u32 *word = (void *)BUFFER;
	bool viommu = o && o->kind == VIOMMU;
	unsigned int i, step;

	cmd.data_type = viommu ? IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST :
				 IOMMU_HWPT_INVALIDATE_DATA_SELFTEST;
	cmd.entry_len = viommu ?
		sizeof(struct iommu_viommu_invalidate_selftest) :
		sizeof(struct iommu_hwpt_invalidate_selftest);
	if (wrong(w, 3))
		cmd.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID;
	if (wrong(w, 6))
		cmd.entry_len = under(w, 8) * 4;
	if (wrong(w, 2))
		cmd.entry_len = PAGE + 4;
	if (wrong(w, 2))
		cmd.entry_num = (1U << 19) + 1;
	memset(word, 0, 512);
	step = cmd.entry_len / 4;
	for (i = 0; i < 4 && i * step + 3 < 128; i++) {
		word[i * step] = wrong(w, 5) ? 2 : chance(w, 20);
		if (viommu)
			word[i * step + 1] = vdev && !wrong(w, 5) ?
				vdev->offset : under(w, 8);
		word[i * step + 1 + viommu] = wrong(w, 5) ? 4 : under(w, 4);
	}
	note(w, "id=%u type=%x len=%u num=%u r=%u%s data=%lx", cmd.hwpt_id,
	     cmd.data_type, cmd.entry_len, cmd.entry_num, cmd.__reserved,
	     cmd.data_uptr == HOLE ? " nowhere" :
	     cmd.data_uptr ? "" : " null", hash(word, 64));
	CALL(w, CMD_INVALIDATE, IOMMU_HWPT_INVALIDATE, &cmd);
}

static void op_hw_info(struct world *w)
{
	struct iommu_hw_info cmd = {
		.size = sizeof(cmd),
		.dev_id = pick_id(w, IDEV),
		.flags = wrong(w, 3) ? 2 : chance(w, 40),
		.data_len = under(w, 64),
		.data_uptr = wrong(w, 5) ? HOLE : BUFFER,
	};
	u32 *word = (void *)BUFFER;

	cmd.in_data_type = chance(w, 60) ? IOMMU_HW_INFO_TYPE_SELFTEST :
					   under(w, 4);
	if (wrong(w, 2))
		cmd.__reserved[under(w, 3)] = 1;
	memset(word, 0xff, 128);
	note(w, "dev=%u flags=%x len=%u type=%x%s", cmd.dev_id, cmd.flags,
	     cmd.data_len, cmd.in_data_type,
	     cmd.data_uptr == HOLE ? " nowhere" : "");
	CALL(w, CMD_HW_INFO, IOMMU_GET_HW_INFO, &cmd);
	put(w, "\tdata=%lx\n", hash(word, 128));
}

static void op_fault_alloc(struct world *w)
{
	struct iommu_fault_alloc cmd = {
		.size = sizeof(cmd),
		.flags = wrong(w, 5) ? 1 << under(w, 32) : 0,
	};

	note(w, "flags=%x", cmd.flags);
	if (!CALL(w, CMD_FAULT_ALLOC, IOMMU_FAULT_QUEUE_ALLOC, &cmd))
		add(w, FAULT, cmd.out_fault_id)->fd = cmd.out_fault_fd;
}

static void op_viommu_alloc(struct world *w)
{
	struct object *hwpt = pick_with(w, PAGING,
					IOMMU_HWPT_ALLOC_NEST_PARENT);
	struct iommu_viommu_selftest *data = (void *)BUFFER;
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.flags = wrong(w, 3),
		.type = wrong(w, 6) ? under(w, 3) : IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = pick_id(w, IDEV),
		.hwpt_id = id_of(w, hwpt),
		.data_uptr = BUFFER,
	};
	struct object *o;

	*data = (struct iommu_viommu_selftest){ .in_data = under(w, 1000) };
	if (chance(w, 60))
		cmd.data_len = sizeof(*data);
	if (wrong(w, 4))
		cmd.data_len = under(w, 40);
	if (wrong(w, 3))
		cmd.data_uptr = HOLE;
	note(w, "type=%x dev=%u hwpt=%u len=%u flags=%x data=%x%s", cmd.type,
	     cmd.dev_id, cmd.hwpt_id, cmd.data_len, cmd.flags, data->in_data,
	     cmd.data_uptr == HOLE ? " nowhere" : "");
	if (CALL(w, CMD_VIOMMU_ALLOC, IOMMU_VIOMMU_ALLOC, &cmd))
		return;
	o = add(w, VIOMMU, cmd.out_viommu_id);
	o->parent = cmd.hwpt_id;
	put(w, "\tdata=%x mmap=%llx+%llx\n", data->out_data,
	    data->out_mmap_offset, data->out_mmap_length);
	if (cmd.data_len >= sizeof(*data)) {
		o->offset = data->out_mmap_offset;
		o->length = data->out_mmap_length;
	}
}

static void op_vdevice_alloc(struct world *w)
{
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = pick_id(w, VIOMMU),
		.dev_id = pick_id(w, IDEV),
		.virt_id = wrong(w, 5) ? edge(w) : 1 + under(w, 8),
	};
	struct object *o;

	note(w, "viommu=%u dev=%u virt=%llx", cmd.viommu_id, cmd.dev_id,
	     cmd.virt_id);
	if (CALL(w, CMD_VDEVICE_ALLOC, IOMMU_VDEVICE_ALLOC, &cmd))
		return;
	o = add(w, VDEVICE, cmd.out_vdevice_id);
	o->parent = cmd.viommu_id;
	o->pt = cmd.dev_id;
	o->offset = cmd.virt_id;
}

static void op_veventq_alloc(struct world *w)
{
	struct iommu_veventq_alloc cmd = {
		.size = sizeof(cmd),
		.flags = wrong(w, 3),
		.viommu_id = pick_id(w, VIOMMU),
		.type = wrong(w, 10) ? under(w, 3) :
				       IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = wrong(w, 5) ? edge(w) : 1 + under(w, 3),
		.__reserved = wrong(w, 2),
	};

	note(w, "viommu=%u type=%x depth=%u flags=%x r=%u", cmd.viommu_id,
	     cmd.type, cmd.veventq_depth, cmd.flags, cmd.__reserved);
	if (!CALL(w, CMD_VEVENTQ_ALLOC, IOMMU_VEVENTQ_ALLOC, &cmd))
		add(w, VEVENTQ, cmd.out_veventq_id)->fd = cmd.out_veventq_fd;
}

static void op_hw_queue_alloc(struct world *w)
{
	struct object *viommu = pick(w, VIOMMU);
	struct object *hwpt = viommu ? find(w, PAGING, viommu->parent) : NULL;
	struct mapping m = pick_mapping(w, hwpt ? hwpt->ioas : 0);
	struct iommu_hw_queue_alloc cmd = {
		.size = sizeof(cmd),
		.flags = wrong(w, 3),
		.type = wrong(w, 4) ? under(w, 3) :
				      IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.index = wrong(w, 5) ? under(w, 4) : chance(w, 30),
	};

	pick_range(w, &m);
	cmd.viommu_id = id_of(w, viommu);
	cmd.nesting_parent_iova = m.iova;
	cmd.length = m.length;
	/* Its pages may be contiguous by chance. */
	if (cmd.length > PAGE - m.iova % PAGE && cmd.length < UINT64_MAX / 4 &&
	    (chance(w, 60) || !hwpt || tainted(w, hwpt->ioas)))
		cmd.length = PAGE - m.iova % PAGE;
	/* The core asks for as many pointers as there are pages. */
	if (cmd.length > 1UL << 30 && cmd.length < UINT64_MAX - PAGE)
		cmd.length = 1UL << 30;
	note(w, "viommu=%u type=%x index=%u iova=%llx length=%llx flags=%x",
	     cmd.viommu_id, cmd.type, cmd.index, cmd.nesting_parent_iova,
	     cmd.length, cmd.flags);
	if (!CALL(w, CMD_HW_QUEUE_ALLOC, IOMMU_HW_QUEUE_ALLOC, &cmd))
		add(w, HW_QUEUE, cmd.out_hw_queue_id)->parent = cmd.viommu_id;
}

static void op_noiommu_pa(struct world *w)
{
	struct mapping m = pick_mapping(w, 0);
	struct iommu_ioas_noiommu_get_pa cmd = {
		.size = sizeof(cmd),
		.flags = wrong(w, 5),
		.ioas_id = m.ioas,
		.iova = m.iova,
		.length = m.length,
	};

	note(w, "ioas=%u iova=%llx length=%llx flags=%x", cmd.ioas_id,
	     cmd.iova, cmd.length, cmd.flags);
	CALL(w, CMD_NOIOMMU_PA, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd);
}

static void op_unknown(struct world *w)
{
	static const unsigned long nrs[] = {
		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE - 1),
		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA + 1),
		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 31),
		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 33),
		_IO(IOMMUFD_TYPE, 0xff),
		_IOR(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC, int),
		_IO('i', IOMMUFD_CMD_IOAS_ALLOC),
		VFIO_IOMMU_DIRTY_PAGES,
		VFIO_IOMMU_ENABLE,
	};
	unsigned long nr = nrs[under(w, ARRAY_SIZE(nrs))];
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	note(w, "nr=%lx", nr);
	CALL(w, CMD_UNKNOWN, nr, &cmd);
}

/* ---- ioctls of VFIO ------------------------------------------------------ */

static long call_plain(struct world *w, enum command cmd, unsigned long nr,
		       unsigned long arg)
{
	long rc = ioctl(w->fd, nr, arg);

	if (rc < 0)
		rc = -errno;
	result(w, cmd, rc);
	put(w, "\n");
	return rc;
}

static void op_vfio_version(struct world *w)
{
	call_plain(w, CMD_VFIO_VERSION, VFIO_GET_API_VERSION, 0);
}

static void op_vfio_extension(struct world *w)
{
	unsigned long which = under(w, 14);

	note(w, "%lu", which);
	call_plain(w, CMD_VFIO_EXTENSION, VFIO_CHECK_EXTENSION, which);
}

static void op_vfio_set_iommu(struct world *w)
{
	unsigned long type = wrong(w, 20) ? under(w, 10) :
		chance(w, 60) ? VFIO_TYPE1v2_IOMMU : VFIO_TYPE1_IOMMU;

	note(w, "%lu", type);
	call_plain(w, CMD_VFIO_SET_IOMMU, VFIO_SET_IOMMU, type);
}

static void op_vfio_info(struct world *w)
{
	struct vfio_iommu_type1_info *info = (void *)BUFFER;
	u32 size = chance(w, 60) ? 512 : under(w, 256);
	unsigned long arg = wrong(w, 5) ? HOLE : BUFFER;
	unsigned int i;

	memset(info, 0, 512);
	info->argsz = size;
	note(w, "argsz=%u%s", size, arg == HOLE ? " nowhere" : "");
	call_plain(w, CMD_VFIO_INFO, VFIO_IOMMU_GET_INFO, arg);
	for (i = 0; i < 512 / 8; i++)
		if (((u64 *)BUFFER)[i])
			put(w, " %u=%lx", i, ((u64 *)BUFFER)[i]);
	put(w, "\n");
}

static u32 compat_ioas(struct world *w)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_VFIO_IOAS_GET,
	};

	return ioctl(w->fd, IOMMU_VFIO_IOAS, &cmd) ? 0 : cmd.ioas_id;
}

static void op_vfio_map(struct world *w)
{
	struct vfio_iommu_type1_dma_map *map = (void *)BUFFER;
	u32 ioas = compat_ioas(w);
	unsigned long arg = wrong(w, 3) ? HOLE : BUFFER;
	u64 length = pick_length(w);

	map->argsz = wrong(w, 3) ? under(w, sizeof(*map)) : sizeof(*map);
	map->flags = wrong(w, 5) ? under(w, 16) :
		VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
	map->vaddr = pick_memory(w, length);
	map->iova = pick_iova(w, map->vaddr, length);
	map->size = length;
	note(w, "flags=%x va=%llx iova=%llx size=%llx argsz=%u%s", map->flags,
	     map->vaddr, map->iova, map->size, map->argsz,
	     arg == HOLE ? " nowhere" : "");
	if (!call_plain(w, CMD_VFIO_MAP, VFIO_IOMMU_MAP_DMA, arg) && ioas)
		add_mapping(w, ioas, map->iova, length, map->vaddr);
}

static void op_vfio_unmap(struct world *w)
{
	struct vfio_iommu_type1_dma_unmap *unmap = (void *)BUFFER;
	u32 ioas = compat_ioas(w);
	struct mapping m = pick_mapping(w, ioas);
	unsigned long arg = wrong(w, 3) ? HOLE : BUFFER;
	bool all = wrong(w, 5);

	pick_range(w, &m);
	if (all && chance(w, 80))
		m = (struct mapping){ .ioas = ioas };
	unmap->argsz = wrong(w, 3) ? under(w, sizeof(*unmap)) : sizeof(*unmap);
	unmap->flags = wrong(w, 4) ? 4 : all ? VFIO_DMA_UNMAP_FLAG_ALL : 0;
	unmap->iova = m.iova;
	unmap->size = m.length;
	note(w, "flags=%x iova=%llx size=%llx argsz=%u%s", unmap->flags,
	     unmap->iova, unmap->size, unmap->argsz,
	     arg == HOLE ? " nowhere" : "");
	if (!call_plain(w, CMD_VFIO_UNMAP, VFIO_IOMMU_UNMAP_DMA, arg) && ioas)
		drop_mappings(w, ioas, m.iova,
			      all ? UINT64_MAX : m.iova + m.length - 1);
	put(w, "\tsize=%llx\n", unmap->size);
}

/* ---- files --------------------------------------------------------------- */

static void op_mmap(struct world *w)
{
	struct object *o = pick(w, VIOMMU);
	u64 offset = o ? o->offset : 0;
	u64 length = o && o->length ? o->length : 2 * PAGE;
	int prot = PROT_READ | PROT_WRITE;
	int flags = MAP_SHARED;
	long rc = 0;
	void *at;

	if (o && o->map) {
		note(w, "unmap %u", o->id);
		munmap(o->map, o->length);
		o->map = NULL;
		result(w, CMD_MMAP, 0);
		put(w, "\n");
		return;
	}
	if (!offset && chance(w, 70))
		return;
	if (wrong(w, 5))
		offset += PAGE;
	if (wrong(w, 5))
		length = PAGE;
	if (wrong(w, 5))
		flags = MAP_PRIVATE;
	if (wrong(w, 5))
		prot |= PROT_EXEC;
	note(w, "offset=%lx length=%lx prot=%x flags=%x", offset, length, prot,
	     flags);
	at = mmap(NULL, length, prot, flags, w->fd, offset);
	if (at == MAP_FAILED)
		rc = -errno;
	result(w, CMD_MMAP, rc);
	if (!rc)
		put(w, " %x", *(u32 *)at);
	put(w, "\n");
	if (!rc && o && length == o->length && offset == o->offset)
		o->map = at;
	else if (!rc)
		munmap(at, length);
}

static bool readable(int fd, int seconds)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, seconds * 1000) == 1 && p.revents & POLLIN;
}

static void write_fault(struct world *w, const struct iommu_hwpt_pgfault *f)
{
	put(w, "\tfault flags=%x dev=%u pasid=%u grpid=%u perm=%x addr=%llx",
	    f->flags, f->dev_id, f->pasid, f->grpid, f->perm, f->addr);
	put(w, " length=%u cookie=%u r=%x\n", f->length, f->cookie,
	    f->__reserved);
}

static void add_cookie(struct object *o, u32 cookie)
{
	if (o->nr_cookies < COOKIES)
		o->cookies[o->nr_cookies++] = cookie;
}

static void op_fault_read(struct world *w)
{
	struct object *o = pick(w, FAULT);
	struct iommu_hwpt_pgfault *f = (void *)BUFFER;
	size_t size = sizeof(*f) * (1 + under(w, 3));
	unsigned long at = wrong(w, 10) ? HOLE : BUFFER;
	long rc;

	if (!o || o->fd < 0)
		return;
	if (wrong(w, 10))
		size = under(w, 2) ? 0 : under(w, 100);
	note(w, "fault=%u size=%zu%s", o->id, size,
	     at == HOLE ? " nowhere" : "");
	rc = read(o->fd, (void *)at, size);
	if (rc < 0)
		rc = -errno;
	result(w, CMD_FAULT_READ, rc);
	put(w, "\n");
	for (; rc >= (long)sizeof(*f); rc -= sizeof(*f), f++) {
		write_fault(w, f);
		add_cookie(o, f->cookie);
	}
}

static void op_fault_write(struct world *w)
{
	struct object *o = pick(w, FAULT);
	struct iommu_hwpt_page_response *r = (void *)BUFFER;
	unsigned long at = wrong(w, 5) ? HOLE : BUFFER;
	size_t i, n = 1 + under(w, 3), size;
	long rc;

	if (!o || o->fd < 0 || (!o->nr_cookies && chance(w, 80)))
		return;
	if (o->nr_cookies && n > o->nr_cookies)
		n = o->nr_cookies;
	put(w, "(");
	for (i = 0; i < n; i++) {
		r[i].cookie = o->nr_cookies && !wrong(w, 10) ?
			o->cookies[--o->nr_cookies] : under(w, 5);
		r[i].code = wrong(w, 5) ? 2 : under(w, 2);
		put(w, "%u:%u ", r[i].cookie, r[i].code);
	}
	put(w, ") ");
	size = n * sizeof(*r) + wrong(w, 5) * 4;
	note(w, "fault=%u size=%zu%s", o->id, size,
	     at == HOLE ? " nowhere" : "");
	rc = write(o->fd, (void *)at, size);
	if (rc < 0)
		rc = -errno;
	result(w, CMD_FAULT_WRITE, rc);
	put(w, "\n");
}

static void op_vevent_read(struct world *w)
{
	struct object *o = pick(w, VEVENTQ);
	unsigned long at = wrong(w, 8) ? HOLE : BUFFER;
	size_t size = 12 * (1 + under(w, 3));
	long rc, i;

	if (!o || o->fd < 0)
		return;
	if (wrong(w, 15))
		size = under(w, 40);
	note(w, "veventq=%u size=%zu%s", o->id, size,
	     at == HOLE ? " nowhere" : "");
	rc = read(o->fd, (void *)at, size);
	if (rc < 0)
		rc = -errno;
	result(w, CMD_VEVENT_READ, rc);
	for (i = 0; i < rc / 4; i++)
		put(w, " %x", ((u32 *)BUFFER)[i]);
	put(w, "\n");
}

static void op_vevent_write(struct world *w)
{
	struct object *o = pick(w, VEVENTQ);
	long rc;

	if (!o || o->fd < 0)
		return;
	note(w, "veventq=%u", o->id);
	rc = write(o->fd, (void *)BUFFER, 8);
	result(w, CMD_VEVENT_WRITE, rc < 0 ? -errno : rc);
	put(w, "\n");
}

static void op_poll(struct world *w)
{
	struct object *o = pick(w, chance(w, 50) ? FAULT : VEVENTQ);
	struct pollfd p = { .events = POLLIN | POLLOUT | POLLPRI };
	long rc;

	if (!o || o->fd < 0)
		return;
	p.fd = o->fd;
	note(w, "queue=%u", o->id);
	rc = poll(&p, 1, 0);
	result(w, CMD_POLL, rc < 0 ? -errno : rc);
	put(w, " events=%x\n", p.revents);
}

static void op_close(struct world *w)
{
	static const enum kind kinds[] = { ACCESS, FAULT, VEVENTQ, DMABUF };
	struct object *o = pick(w, kinds[under(w, ARRAY_SIZE(kinds))]);

	if (!o)
		return;
	if (o->kind == ACCESS || o->kind == DMABUF) {
		note(w, "file=%u", o->id);
		result(w, CMD_CLOSE, close(o->id) ? -errno : 0);
		forget(w, o);
	} else if (o->fd >= 0) {
		note(w, "queue=%u", o->id);
		result(w, CMD_CLOSE, close(o->fd) ? -errno : 0);
		o->fd = -1;
	} else {
		return;
	}
	put(w, "\n");
}

/* ---- what the mock offers ------------------------------------------------ */

static void attached(struct world *w, u32 ioas_or_hwpt, u32 pt)
{
	struct object *o;

	/* For an IOAS, it returns the HWPT that it has found or made. */
	if (!find(w, IOAS, ioas_or_hwpt) || find(w, PAGING, pt))
		return;
	o = add(w, PAGING, pt);
	o->ioas = ioas_or_hwpt;
	o->automatic = true;
}

static void op_mock_device(struct world *w)
{
	enum kind kind = chance(w, 70) ? IOAS : PAGING;
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
		.mock_domain_flags.dev_flags =
			chance(w, 70) ? MOCK_FLAGS_DEVICE_PASID : 0,
	};
	struct object *o;
	u32 pt;

	if (count(w, STDEV) >= 6)
		return;
	if (chance(w, 10))
		cmd.mock_domain_flags.dev_flags |= MOCK_FLAGS_DEVICE_NO_DIRTY;
	if (wrong(w, 3))
		cmd.mock_domain_flags.dev_flags |= 2;
	o = pick_with(w, count(w, kind) ? kind : IOAS,
		      IOMMU_HWPT_ALLOC_PASID);
	pt = id_of(w, o);
	cmd.id = pt;
	note(w, "pt=%u flags=%x", pt, cmd.mock_domain_flags.dev_flags);
	if (call_test(w, CMD_MOCK_DEVICE, &cmd))
		return;
	attached(w, pt, cmd.mock_domain_flags.out_hwpt_id);
	add(w, IDEV, cmd.mock_domain_flags.out_idev_id);
	o = add(w, STDEV, cmd.mock_domain_flags.out_stdev_id);
	o->flags = cmd.mock_domain_flags.dev_flags;
	o->parent = cmd.mock_domain_flags.out_idev_id;
	o->pt = cmd.mock_domain_flags.out_hwpt_id;
}

/* Any page table, or an IOAS, to attach to. */
static u32 pick_pt(struct world *w)
{
	static const enum kind kinds[] = { IOAS, PAGING, NESTED, NESTED };

	return pick_id(w, kinds[under(w, ARRAY_SIZE(kinds))]);
}

static void op_mock_replace(struct world *w)
{
	struct object *dev = pick(w, STDEV);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = id_of(w, dev),
	};
	u32 pt = pick_pt(w), old;
	struct object *o;
	long rc;

	/* By a vIOMMU, only devices that have a vDEVICE there */
	o = chance(w, 40) ? pick(w, VDEVICE) : NULL;
	if (o) {
		dev = pick_on(w, STDEV, o->pt);
		cmd.id = id_of(w, dev);
		pt = id_of(w, pick_on(w, NESTED, o->parent));
	} else if (chance(w, 40)) {
		o = pick_with(w, chance(w, 50) ? PAGING : NESTED,
			      IOMMU_HWPT_FAULT_ID_VALID);
		pt = id_of(w, o);
	}
	cmd.mock_domain_replace.pt_id = pt;
	note(w, "dev=%u pt=%u", cmd.id, pt);
	rc = call_test(w, CMD_MOCK_REPLACE, &cmd);
	dev = find(w, STDEV, cmd.id);
	/* Attached, but the id is not known. */
	if (dev && rc == -EFAULT)
		dev->pt = 0;
	if (rc || !dev)
		return;
	attached(w, pt, cmd.mock_domain_replace.pt_id);
	old = dev->pt;
	dev->pt = cmd.mock_domain_replace.pt_id;
	if (old != dev->pt)
		drop_automatic(w, old);
}

/* A device that can have PASIDs, on a page table that lets it. */
static struct object *pick_for_pasid(struct world *w)
{
	struct object *dev = NULL, *hwpt;
	unsigned int i;

	for (i = 0; i < 8; i++) {
		dev = pick(w, STDEV);
		if (!dev)
			break;
		hwpt = find_any(w, dev->pt);
		if (dev->flags & MOCK_FLAGS_DEVICE_PASID && hwpt &&
		    hwpt->flags & IOMMU_HWPT_ALLOC_PASID)
			break;
	}
	return dev;
}

static void op_pasid_attach(struct world *w)
{
	struct object *dev = pick_for_pasid(w);
	u32 pasid = chance(w, 15) ? IOMMU_TEST_PASID_RESERVED :
		wrong(w, 5) ? 1U << (20 + under(w, 12)) : 1 + under(w, 6);
	struct object *hwpt = pick_with(w, chance(w, 70) ? PAGING : NESTED,
					IOMMU_HWPT_ALLOC_PASID);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_ATTACH,
		.id = id_of(w, dev),
		.pasid_attach = { .pasid = pasid, .pt_id = id_of(w, hwpt) },
	};
	unsigned int i;

	dev = find(w, STDEV, cmd.id);
	for (i = 0; dev && i < PASIDS; i++)
		if (!dev->pasid[i])
			break;
	/* Nowhere to record it, and it must be detached later. */
	if (!dev || i == PASIDS)
		cmd.id = dev ? 0 : cmd.id;
	note(w, "dev=%u pasid=%u pt=%u", cmd.id, pasid,
	     cmd.pasid_attach.pt_id);
	if (call_test(w, CMD_PASID_ATTACH, &cmd) || !dev || i == PASIDS)
		return;
	dev->pasid[i] = pasid;
	dev->pasid_pt[i] = cmd.pasid_attach.pt_id;
}

static unsigned int pick_pasid(struct world *w, struct object *dev)
{
	unsigned int i, n = under(w, PASIDS);

	for (i = 0; dev && i < PASIDS; i++, n++)
		if (dev->pasid[n % PASIDS])
			break;
	return n % PASIDS;
}

static struct object *pick_pasid_dev(struct world *w)
{
	struct object *dev = NULL;
	unsigned int i;

	for (i = 0; i < 6; i++) {
		dev = pick(w, STDEV);
		if (!dev || dev->pasid[0] || dev->pasid[1] ||
		    dev->pasid[2] || dev->pasid[3])
			break;
	}
	return dev;
}

static void op_pasid_replace(struct world *w)
{
	struct object *dev = pick_pasid_dev(w);
	unsigned int i = pick_pasid(w, dev);
	u32 pasid = dev && dev->pasid[i] ? dev->pasid[i] : 1 + under(w, 6);
	struct object *hwpt = pick_with(w, chance(w, 70) ? PAGING : NESTED,
					IOMMU_HWPT_ALLOC_PASID);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_REPLACE,
		.id = id_of(w, dev),
		.pasid_replace = { .pasid = pasid, .pt_id = id_of(w, hwpt) },
	};

	/* Mostly when there is something to replace */
	if ((!dev || !dev->pasid[i]) && chance(w, 70))
		return;
	note(w, "dev=%u pasid=%u pt=%u", cmd.id, pasid,
	     cmd.pasid_replace.pt_id);
	if (!call_test(w, CMD_PASID_REPLACE, &cmd) && dev &&
	    dev->id == cmd.id)
		dev->pasid_pt[i] = cmd.pasid_replace.pt_id;
}

static void op_pasid_detach(struct world *w)
{
	struct object *dev = pick_pasid_dev(w);
	unsigned int i = pick_pasid(w, dev);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_DETACH,
	};

	if (dev && dev->pasid[i] && !w->forced && !wrong(w, 10)) {
		pasid_detach(w, dev, i);
		return;
	}
	cmd.id = wrong_id(w);
	cmd.pasid_detach.pasid = 7;
	note(w, "dev=%u pasid=7", cmd.id);
	call_test(w, CMD_PASID_DETACH, &cmd);
}

static void op_pasid_check(struct world *w)
{
	struct object *dev = pick_pasid_dev(w);
	unsigned int i = pick_pasid(w, dev);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_PASID_CHECK_HWPT,
		.id = id_of(w, dev),
	};

	if (dev && dev->pasid[i]) {
		cmd.pasid_check.pasid = dev->pasid[i];
		cmd.pasid_check.hwpt_id = dev->pasid_pt[i];
	} else if (dev) {
		cmd.pasid_check.hwpt_id = dev->pt;
	}
	if (wrong(w, 10))
		cmd.pasid_check.hwpt_id = wrong_id(w);
	note(w, "dev=%u pasid=%u hwpt=%u", cmd.id, cmd.pasid_check.pasid,
	     cmd.pasid_check.hwpt_id);
	call_test(w, CMD_PASID_CHECK, &cmd);
}

static void op_access_create(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = pick_id(w, IOAS),
		.create_access.flags = wrong(w, 4) ? 2 : chance(w, 70),
	};
	struct object *o;

	note(w, "ioas=%u flags=%x", cmd.id, cmd.create_access.flags);
	if (call_test(w, CMD_ACCESS_CREATE, &cmd))
		return;
	o = add(w, ACCESS, cmd.create_access.out_access_fd);
	o->ioas = cmd.id;
	o->flags = cmd.create_access.flags;
}

static void op_access_replace(struct world *w)
{
	struct object *o = pick(w, ACCESS);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
		.id = !o || wrong(w, 5) ? null_fd : o->id,
		.access_replace_ioas.ioas_id = pick_id(w, IOAS),
	};

	note(w, "access=%u ioas=%u", cmd.id, cmd.access_replace_ioas.ioas_id);
	if (!call_test(w, CMD_ACCESS_REPLACE, &cmd) && o) {
		o->ioas = cmd.access_replace_ioas.ioas_id;
		o->nr_items = 0;
	}
}

static void op_access_pin(struct world *w)
{
	struct object *o = pick_with(w, ACCESS, 1);
	struct mapping m = pick_mapping(w, o ? o->ioas : 0);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_ACCESS_PAGES,
		.id = !o || wrong(w, 4) ? null_fd : o->id,
	};

	pick_range(w, &m);
	cmd.access_pages.flags = wrong(w, 3) ? 2 : chance(w, 50);
	cmd.access_pages.iova = m.iova;
	cmd.access_pages.length = m.length;
	cmd.access_pages.uptr = chance(w, 90) ? m.uva : 0;
	if (wrong(w, 4)) {
		cmd.access_pages.flags |= MOCK_FLAGS_ACCESS_SYZ;
		cmd.access_pages.iova = under(w, 3);
		cmd.access_pages.uptr = 0;
	}
	/* The mock does not check for overflow before it allocates. */
	if (cmd.access_pages.iova > UINT64_MAX / 2)
		cmd.access_pages.iova = UINT64_MAX / 2;
	note(w, "access=%u flags=%x iova=%llx length=%llx va=%llx", cmd.id,
	     cmd.access_pages.flags, cmd.access_pages.iova,
	     cmd.access_pages.length, cmd.access_pages.uptr);
	if (!call_test(w, CMD_ACCESS_PIN, &cmd) && o && o->nr_items < ITEMS)
		o->items[o->nr_items++] = cmd.access_pages.out_access_pages_id;
}

static void op_access_unpin(struct world *w)
{
	struct object *o = pick_with(w, ACCESS, 1);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
		.id = !o || wrong(w, 4) ? null_fd : o->id,
	};

	cmd.destroy_access_pages.access_pages_id =
		o && o->nr_items && !wrong(w, 5) ?
		o->items[--o->nr_items] : under(w, 8);
	note(w, "access=%u item=%u", cmd.id,
	     cmd.destroy_access_pages.access_pages_id);
	call_test(w, CMD_ACCESS_UNPIN, &cmd);
}

static void op_access_rw(struct world *w)
{
	struct object *o = pick(w, ACCESS);
	struct mapping m = pick_mapping(w, o ? o->ioas : 0);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.id = !o || wrong(w, 4) ? null_fd : o->id,
	};
	u8 *bytes = (void *)BUFFER;
	u64 skip;
	unsigned int i;

	pick_range(w, &m);
	if (m.length && m.length <= 1UL << 30) {
		skip = chance(w, 50) ? under(w, m.length) : 0;
		m.iova += skip;
		m.length -= skip;
		if (m.length > 10000)
			m.length = 1 + under(w, 10000);
	}
	cmd.access_rw.flags = under(w, 2) * MOCK_ACCESS_RW_WRITE |
		(chance(w, 30) ? MOCK_ACCESS_RW_SLOW_PATH : 0);
	if (wrong(w, 3))
		cmd.access_rw.flags |= 8;
	if (wrong(w, 4)) {
		cmd.access_rw.flags |= MOCK_FLAGS_ACCESS_SYZ;
		m.iova = under(w, 3);
	}
	cmd.access_rw.iova = m.iova;
	cmd.access_rw.length = m.length;
	cmd.access_rw.uptr = wrong(w, 4) ? HOLE : BUFFER;
	for (i = 0; i < m.length && i < 10000; i++)
		bytes[i] = w->rng + i;
	note(w, "access=%u flags=%x iova=%llx length=%llx%s", cmd.id,
	     cmd.access_rw.flags, cmd.access_rw.iova, cmd.access_rw.length,
	     cmd.access_rw.uptr == HOLE ? " nowhere" : "");
	if (!call_test(w, CMD_ACCESS_RW, &cmd) && m.length <= BUFFER_SIZE)
		put(w, "\tdata=%lx\n", hash(bytes, m.length));
}

static void op_reserve(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_ADD_RESERVED,
		.id = pick_id(w, IOAS),
		.add_reserved = {
			.start = MOCK_APERTURE_START +
				 (128 + under(w, 128)) * 0x10000,
			.length = PAGE * (1 + under(w, 4)),
		},
	};

	if (wrong(w, 10))
		cmd.add_reserved.length = edge(w);
	note(w, "ioas=%u start=%llx length=%llx", cmd.id,
	     cmd.add_reserved.start, cmd.add_reserved.length);
	call_test(w, CMD_RESERVE, &cmd);
}

static void op_dirty(struct world *w)
{
	struct object *hwpt = pick_with(w, PAGING,
					IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
	struct mapping m = pick_mapping(w, hwpt ? hwpt->ioas : 0);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DIRTY,
		.id = id_of(w, hwpt),
	};
	u64 *bits = (void *)BUFFER;
	unsigned int i;

	if (m.length > 1UL << 20)
		m.length = 1UL << 20;
	for (i = 0; i < 16; i++)
		bits[i] = mix(&w->rng) & mix(&w->rng);
	cmd.dirty.page_size = wrong(w, 4) ? under(w, 3) : 2048;
	cmd.dirty.iova = m.iova & ~2047UL;
	cmd.dirty.length = (m.length & ~2047UL) + wrong(w, 4);
	cmd.dirty.uptr = wrong(w, 4) ? HOLE : BUFFER;
	note(w, "hwpt=%u iova=%llx length=%llx page=%llx bits=%lx%s", cmd.id,
	     cmd.dirty.iova, cmd.dirty.length, cmd.dirty.page_size,
	     hash(bits, 128), cmd.dirty.uptr == HOLE ? " nowhere" : "");
	call_test(w, CMD_DIRTY, &cmd);
}

/* The fault queue that gets what DEV reports for PASID, if any. */
static struct object *fault_queue(struct world *w, struct object *dev,
				  u32 pasid)
{
	u32 pt = dev->pt;
	struct object *hwpt, *fault;
	bool nested = false;
	unsigned int i;

	if (pasid) {
		nested = true;
		for (i = 0; i < PASIDS; i++) {
			if (dev->pasid[i] != pasid)
				continue;
			pt = dev->pasid_pt[i];
			nested = false;
		}
	}
	hwpt = find(w, NESTED, pt) ?: nested ? NULL : find(w, PAGING, pt);
	if (!hwpt || !hwpt->fault)
		return NULL;
	fault = find(w, FAULT, hwpt->fault);
	return fault && fault->fd >= 0 ? fault : NULL;
}

static struct object *bound_as(struct world *w, u32 dev_id)
{
	unsigned int i;

	for (i = 0; i < w->nr_objects; i++)
		if (w->objects[i].kind == STDEV &&
		    w->objects[i].parent == dev_id)
			return &w->objects[i];
	return NULL;
}

static struct object *pick_faulting(struct world *w)
{
	struct object *dev = NULL;
	unsigned int i;

	for (i = 0; i < 6; i++) {
		dev = pick(w, STDEV);
		if (!dev || fault_queue(w, dev, 0))
			break;
	}
	return dev;
}

/*
 * A worker delivers faults. Wait until it has arrived, so that at most one is
 * unread at a time: read earlier ones first.
 */
static void op_trigger_fault(struct world *w)
{
	struct object *dev = pick_faulting(w), *fault = NULL;
	struct iommu_hwpt_pgfault *f = (void *)BUFFER;
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_TRIGGER_IOPF,
		.trigger_iopf = {
			.pasid = chance(w, 80) ? 0 : 1 + under(w, 6),
			.grpid = under(w, 100),
			.perm = under(w, 16),
			.addr = edge(w),
		},
	};
	long rc;

	cmd.trigger_iopf.dev_id = !dev || wrong(w, 5) ? wrong_id(w) :
							dev->parent;
	/* A wrong cookie can be that of another device. */
	dev = bound_as(w, cmd.trigger_iopf.dev_id);
	if (dev)
		fault = fault_queue(w, dev, cmd.trigger_iopf.pasid);
	while (fault && readable(fault->fd, 0)) {
		rc = read(fault->fd, f, sizeof(*f));
		if (rc != sizeof(*f))
			break;
		note(w, "fault=%u", fault->id);
		result(w, CMD_FAULT_READ, rc);
		put(w, "\n");
		write_fault(w, f);
		add_cookie(fault, f->cookie);
	}
	note(w, "dev=%u pasid=%u grpid=%u perm=%x addr=%llx",
	     cmd.trigger_iopf.dev_id, cmd.trigger_iopf.pasid,
	     cmd.trigger_iopf.grpid, cmd.trigger_iopf.perm,
	     cmd.trigger_iopf.addr);
	rc = call_test(w, CMD_TRIGGER_FAULT, &cmd);
	if (!rc && fault)
		put(w, "\tarrived=%d\n", readable(fault->fd, PATIENCE_SECONDS));
	else if (!rc)
		/* It should not arrive, or we cannot know where. */
		usleep(dev && dev->pt ? 500 : 20000);
}

static void op_trigger_vevent(struct world *w)
{
	struct object *dev = NULL, *hwpt;
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_TRIGGER_VEVENT,
	};
	unsigned int i;

	for (i = 0; i < 12; i++) {
		dev = pick(w, STDEV);
		hwpt = dev ? find(w, NESTED, dev->pt) : NULL;
		if (!dev || (hwpt && find(w, VIOMMU, hwpt->parent)))
			break;
	}
	if (i == 12 && chance(w, 70))
		return;
	cmd.trigger_vevent.dev_id = !dev || wrong(w, 5) ? wrong_id(w) :
							  dev->parent;
	note(w, "dev=%u", cmd.trigger_vevent.dev_id);
	call_test(w, CMD_TRIGGER_VEVENT, &cmd);
}

static void op_dmabuf_get(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DMABUF_GET,
		.dmabuf_get = {
			.length = PAGE * (1 + under(w, 8)),
			.open_flags = O_RDWR | O_CLOEXEC,
		},
	};
	struct object *o;
	long rc;

	if (count(w, DMABUF) >= 4)
		return;
	if (wrong(w, 5))
		cmd.dmabuf_get.length = edge(w);
	note(w, "length=%x", cmd.dmabuf_get.length);
	rc = call_test(w, CMD_DMABUF_GET, &cmd);
	if (rc <= 0)
		return;
	o = add(w, DMABUF, rc);
	o->length = (cmd.dmabuf_get.length + PAGE - 1) & ~(PAGE - 1);
}

static void op_dmabuf_revoke(struct world *w)
{
	struct object *o = pick(w, DMABUF);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DMABUF_REVOKE,
		.dmabuf_revoke = {
			.dmabuf_fd = !o || wrong(w, 10) ? null_fd : (int)o->id,
			.revoked = chance(w, 70),
		},
	};

	note(w, "fd=%d revoked=%u", cmd.dmabuf_revoke.dmabuf_fd,
	     cmd.dmabuf_revoke.revoked);
	call_test(w, CMD_DMABUF_REVOKE, &cmd);
}

static void op_memory_limit(struct world *w)
{
	static const u32 limits[] = {
		65536, 65536, 4096, 1024, 64, 16, 12, 11, 0,
	};
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
		.memory_limit.limit = limits[under(w, ARRAY_SIZE(limits))],
	};

	note(w, "limit=%u", cmd.memory_limit.limit);
	call_test(w, CMD_MEMORY_LIMIT, &cmd);
}

static void op_check_map(struct world *w)
{
	struct object *hwpt = pick(w, PAGING);
	struct mapping m = pick_mapping(w, hwpt ? hwpt->ioas : 0);
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MD_CHECK_MAP,
		.id = id_of(w, hwpt),
	};

	pick_range(w, &m);
	if (m.length > 32 * PAGE)
		m.length = 32 * PAGE;
	cmd.check_map.iova = m.iova;
	cmd.check_map.length = m.length;
	cmd.check_map.uptr = m.uva;
	note(w, "hwpt=%u iova=%llx length=%llx va=%llx", cmd.id,
	     cmd.check_map.iova, cmd.check_map.length, cmd.check_map.uptr);
	call_test(w, CMD_CHECK_MAP, &cmd);
}

static void op_check_pins(struct world *w)
{
	struct mapping m = pick_mapping(w, 0);
	u64 page;

	page = m.uva && m.length < SMALL_SIZE ?
		m.uva + under(w, m.length + 1) :
		SMALL + under(w, SMALL_SIZE);
	page &= ~(PAGE - 1);
	note(w, "%lx", page);
	result(w, CMD_CHECK_PINS, page_pins(w->fd, (void *)page));
	put(w, "\n");
}

static void op_check_iotlb(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_MD_CHECK_IOTLB,
		.id = pick_id(w, NESTED),
		.check_iotlb = {
			.id = wrong(w, 5) ? 4 : under(w, 4),
			.iotlb = chance(w, 60) ? IOMMU_TEST_IOTLB_DEFAULT : 0,
		},
	};

	note(w, "hwpt=%u n=%u value=%x", cmd.id, cmd.check_iotlb.id,
	     cmd.check_iotlb.iotlb);
	call_test(w, CMD_CHECK_IOTLB, &cmd);
}

static void op_check_cache(struct world *w)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DEV_CHECK_CACHE,
		.id = pick_id(w, IDEV),
		.check_dev_cache = {
			.id = wrong(w, 5) ? 4 : under(w, 4),
			.cache = chance(w, 60) ? IOMMU_TEST_DEV_CACHE_DEFAULT :
						 0,
		},
	};

	note(w, "dev=%u n=%u value=%x", cmd.id, cmd.check_dev_cache.id,
	     cmd.check_dev_cache.cache);
	call_test(w, CMD_CHECK_CACHE, &cmd);
}

/* ---- the table ----------------------------------------------------------- */

/*
 * The errnos that the code of each command can return, from reading the C
 * driver, the mock driver, and what they call. ENOMEM only where a limit causes
 * it, since no failures are injected here. Every errno must occur, and no
 * other. Rare ones occur less than twenty times in 50,000 calls.
 */
#define RARE(error) (-(error))

const struct command_row commands[CMD_NR] = {
	[CMD_DESTROY] = { "DESTROY", 60, STRUCT, { ENOENT, EBUSY } },
	[CMD_IOAS_ALLOC] = { "IOAS_ALLOC", 30, STRUCT, { EOPNOTSUPP } },
	[CMD_IOVA_RANGES] = { "IOAS_IOVA_RANGES", 25, STRUCT,
		{ RARE(EOPNOTSUPP), ENOENT, EMSGSIZE } },
	[CMD_ALLOW_IOVAS] = { "IOAS_ALLOW_IOVAS", 12, STRUCT,
		{ RARE(EOPNOTSUPP), ENOENT, EADDRINUSE } },
	[CMD_MAP] = { "IOAS_MAP", 120, STRUCT,
		{ EOPNOTSUPP, RARE(EOVERFLOW), ENOENT, RARE(EEXIST),
		  RARE(ENOSPC), ENOMEM } },
	[CMD_MAP_FILE] = { "IOAS_MAP_FILE", 60, STRUCT,
		{ EOPNOTSUPP, EOVERFLOW, ENOENT, RARE(EEXIST), RARE(ENOSPC),
		  ENOMEM, EBADF, ENODEV } },
	[CMD_COPY] = { "IOAS_COPY", 50, STRUCT,
		{ RARE(EOPNOTSUPP), RARE(EOVERFLOW), ENOENT, RARE(EEXIST),
		  RARE(ENOSPC), RARE(ENOMEM), EPERM } },
	[CMD_UNMAP] = { "IOAS_UNMAP", 90, STRUCT,
		{ ENOENT, EOVERFLOW, EBUSY } },
	[CMD_CHANGE_PROCESS] = { "IOAS_CHANGE_PROCESS", 15, STRUCT,
		{ RARE(EOPNOTSUPP), RARE(ENOMEM) } },
	[CMD_OPTION] = { "OPTION", 25, STRUCT,
		{ EOPNOTSUPP, ENOENT, RARE(EPERM), EBUSY, RARE(EADDRINUSE) } },
	[CMD_VFIO_IOAS] = { "VFIO_IOAS", 20, STRUCT,
		{ EOPNOTSUPP, ENOENT, ENODEV } },
	[CMD_HWPT_ALLOC] = { "HWPT_ALLOC", 60, STRUCT,
		{ EOPNOTSUPP, ENOENT, EADDRINUSE, RARE(ENOMEM) } },
	[CMD_SET_DIRTY] = { "HWPT_SET_DIRTY_TRACKING", 25, STRUCT,
		{ EOPNOTSUPP, ENOENT } },
	[CMD_GET_DIRTY] = { "HWPT_GET_DIRTY_BITMAP", 35, STRUCT,
		{ EOPNOTSUPP, ENOENT, RARE(EOVERFLOW) } },
	[CMD_INVALIDATE] = { "HWPT_INVALIDATE", 25, STRUCT,
		{ RARE(EOPNOTSUPP), ENOENT } },
	[CMD_HW_INFO] = { "GET_HW_INFO", 15, STRUCT, { EOPNOTSUPP, ENOENT } },
	[CMD_FAULT_ALLOC] = { "FAULT_QUEUE_ALLOC", 15, STRUCT,
		{ RARE(EOPNOTSUPP) } },
	[CMD_VIOMMU_ALLOC] = { "VIOMMU_ALLOC", 25, STRUCT,
		{ EOPNOTSUPP, ENOENT } },
	[CMD_VDEVICE_ALLOC] = { "VDEVICE_ALLOC", 25, STRUCT,
		{ ENOENT, EEXIST } },
	[CMD_VEVENTQ_ALLOC] = { "VEVENTQ_ALLOC", 20, STRUCT,
		{ EOPNOTSUPP, ENOENT, EEXIST } },
	[CMD_HW_QUEUE_ALLOC] = { "HW_QUEUE_ALLOC", 30, STRUCT,
		{ EOPNOTSUPP, ENOENT, EEXIST, RARE(EOVERFLOW), EIO, EPERM,
		  EADDRINUSE } },
	[CMD_NOIOMMU_PA] = { "IOAS_NOIOMMU_GET_PA", 3, STRUCT,
		{ EOPNOTSUPP }, "CONFIG_IOMMUFD_NOIOMMU=n" },
	[CMD_UNKNOWN] = { "unknown", 3, PLAIN, { ENOTTY, RARE(EFAULT) },
		"there is no such command" },
	[CMD_VFIO_VERSION] = { "VFIO_GET_API_VERSION", 3 },
	[CMD_VFIO_EXTENSION] = { "VFIO_CHECK_EXTENSION", 10, PLAIN,
		{ RARE(ENODEV) } },
	[CMD_VFIO_SET_IOMMU] = { "VFIO_SET_IOMMU", 12, PLAIN,
		{ EINVAL, ENODEV, RARE(EADDRINUSE) } },
	[CMD_VFIO_INFO] = { "VFIO_IOMMU_GET_INFO", 12, PLAIN,
		{ RARE(EINVAL), ENODEV, RARE(EFAULT) } },
	[CMD_VFIO_MAP] = { "VFIO_IOMMU_MAP_DMA", 30, PLAIN,
		{ EINVAL, ENODEV, EFAULT, RARE(EOVERFLOW), RARE(EEXIST),
		  RARE(ENOMEM) } },
	[CMD_VFIO_UNMAP] = { "VFIO_IOMMU_UNMAP_DMA", 30, PLAIN,
		{ EINVAL, ENODEV, RARE(EFAULT), RARE(EOVERFLOW), ENOENT,
		  RARE(EBUSY), RARE(EOPNOTSUPP) } },
	[CMD_MMAP] = { "mmap", 15, PLAIN,
		{ RARE(EINVAL), RARE(EPERM), ENXIO } },
	[CMD_FAULT_READ] = { "read fault queue", 25, PLAIN,
		{ ESPIPE, RARE(EINVAL), RARE(EFAULT) } },
	[CMD_FAULT_WRITE] = { "write fault queue", 25, PLAIN,
		{ RARE(ESPIPE), EINVAL, RARE(EFAULT) } },
	[CMD_VEVENT_READ] = { "read vEVENTQ", 25, PLAIN,
		{ RARE(EINVAL), RARE(EFAULT) } },
	[CMD_VEVENT_WRITE] = { "write vEVENTQ", 2, PLAIN, { EINVAL },
		"it cannot be written" },
	[CMD_POLL] = { "poll", 10 },
	[CMD_CLOSE] = { "close", 15 },
	[CMD_MOCK_DEVICE] = { "mock device", 25, STRUCT,
		{ ENOENT, EADDRINUSE, RARE(ENOMEM) } },
	[CMD_MOCK_REPLACE] = { "mock replace", 40, STRUCT,
		{ ENOENT, EADDRINUSE, RARE(ENOMEM) } },
	[CMD_PASID_ATTACH] = { "PASID attach", 30, STRUCT, { ENOENT, EBUSY } },
	[CMD_PASID_REPLACE] = { "PASID replace", 15, STRUCT,
		{ ENOENT, RARE(ENOMEM), RARE(EADDRINUSE) } },
	[CMD_PASID_DETACH] = { "PASID detach", 10, STRUCT, { ENOENT } },
	[CMD_PASID_CHECK] = { "PASID check", 10, STRUCT, { ENOENT } },
	[CMD_ACCESS_CREATE] = { "access create", 20, STRUCT,
		{ RARE(EOPNOTSUPP), ENOENT, EADDRINUSE } },
	[CMD_ACCESS_REPLACE] = { "access replace", 12, STRUCT,
		{ RARE(ENOENT), EBADFD, EADDRINUSE } },
	[CMD_ACCESS_PIN] = { "access pin", 50, STRUCT,
		{ EOPNOTSUPP, ENOENT, EBADFD, EPERM, ENOMEM, RARE(EBADE) } },
	[CMD_ACCESS_UNPIN] = { "access unpin", 25, STRUCT, { ENOENT, EBADFD } },
	[CMD_ACCESS_RW] = { "access rw", 60, STRUCT,
		{ EOPNOTSUPP, ENOENT, EBADFD, EPERM, ENOMEM, RARE(EOVERFLOW) } },
	[CMD_RESERVE] = { "reserve", 5, STRUCT,
		{ ENOENT, EADDRINUSE, RARE(EOVERFLOW) } },
	[CMD_DIRTY] = { "make dirty", 30, STRUCT, { ENOENT } },
	[CMD_TRIGGER_FAULT] = { "trigger fault", 25, STRUCT, { ENOENT } },
	[CMD_TRIGGER_VEVENT] = { "trigger vEVENT", 25, STRUCT,
		{ ENOENT, RARE(EOPNOTSUPP) } },
	[CMD_DMABUF_GET] = { "dma-buf get", 12, STRUCT },
	[CMD_DMABUF_REVOKE] = { "dma-buf revoke", 15, STRUCT },
	[CMD_MEMORY_LIMIT] = { "memory limit", 5, STRUCT },
	[CMD_CHECK_MAP] = { "check map", 60, STRUCT, { ENOENT } },
	[CMD_CHECK_PINS] = { "check pins", 25, PLAIN, { RARE(EFAULT) } },
	[CMD_CHECK_IOTLB] = { "check IOTLB", 10, STRUCT, { ENOENT } },
	[CMD_CHECK_CACHE] = { "check cache", 10, STRUCT, { ENOENT } },
	[CMD_STATUS] = { "VmPin and VmLck", 10 },
};

static void (*const functions[CMD_NR])(struct world *w) = {
	[CMD_DESTROY] = op_destroy,
	[CMD_IOAS_ALLOC] = op_ioas_alloc,
	[CMD_IOVA_RANGES] = op_iova_ranges,
	[CMD_ALLOW_IOVAS] = op_allow_iovas,
	[CMD_MAP] = op_map,
	[CMD_MAP_FILE] = op_map_file,
	[CMD_COPY] = op_copy,
	[CMD_UNMAP] = op_unmap,
	[CMD_CHANGE_PROCESS] = op_change_process,
	[CMD_OPTION] = op_option,
	[CMD_VFIO_IOAS] = op_vfio_ioas,
	[CMD_HWPT_ALLOC] = op_hwpt_alloc,
	[CMD_SET_DIRTY] = op_set_dirty,
	[CMD_GET_DIRTY] = op_get_dirty,
	[CMD_INVALIDATE] = op_invalidate,
	[CMD_HW_INFO] = op_hw_info,
	[CMD_FAULT_ALLOC] = op_fault_alloc,
	[CMD_VIOMMU_ALLOC] = op_viommu_alloc,
	[CMD_VDEVICE_ALLOC] = op_vdevice_alloc,
	[CMD_VEVENTQ_ALLOC] = op_veventq_alloc,
	[CMD_HW_QUEUE_ALLOC] = op_hw_queue_alloc,
	[CMD_NOIOMMU_PA] = op_noiommu_pa,
	[CMD_UNKNOWN] = op_unknown,
	[CMD_VFIO_VERSION] = op_vfio_version,
	[CMD_VFIO_EXTENSION] = op_vfio_extension,
	[CMD_VFIO_SET_IOMMU] = op_vfio_set_iommu,
	[CMD_VFIO_INFO] = op_vfio_info,
	[CMD_VFIO_MAP] = op_vfio_map,
	[CMD_VFIO_UNMAP] = op_vfio_unmap,
	[CMD_MMAP] = op_mmap,
	[CMD_FAULT_READ] = op_fault_read,
	[CMD_FAULT_WRITE] = op_fault_write,
	[CMD_VEVENT_READ] = op_vevent_read,
	[CMD_VEVENT_WRITE] = op_vevent_write,
	[CMD_POLL] = op_poll,
	[CMD_CLOSE] = op_close,
	[CMD_MOCK_DEVICE] = op_mock_device,
	[CMD_MOCK_REPLACE] = op_mock_replace,
	[CMD_PASID_ATTACH] = op_pasid_attach,
	[CMD_PASID_REPLACE] = op_pasid_replace,
	[CMD_PASID_DETACH] = op_pasid_detach,
	[CMD_PASID_CHECK] = op_pasid_check,
	[CMD_ACCESS_CREATE] = op_access_create,
	[CMD_ACCESS_REPLACE] = op_access_replace,
	[CMD_ACCESS_PIN] = op_access_pin,
	[CMD_ACCESS_UNPIN] = op_access_unpin,
	[CMD_ACCESS_RW] = op_access_rw,
	[CMD_RESERVE] = op_reserve,
	[CMD_DIRTY] = op_dirty,
	[CMD_TRIGGER_FAULT] = op_trigger_fault,
	[CMD_TRIGGER_VEVENT] = op_trigger_vevent,
	[CMD_DMABUF_GET] = op_dmabuf_get,
	[CMD_DMABUF_REVOKE] = op_dmabuf_revoke,
	[CMD_MEMORY_LIMIT] = op_memory_limit,
	[CMD_CHECK_MAP] = op_check_map,
	[CMD_CHECK_PINS] = op_check_pins,
	[CMD_CHECK_IOTLB] = op_check_iotlb,
	[CMD_CHECK_CACHE] = op_check_cache,
	[CMD_STATUS] = op_status,
};

/* ---- a sequence ---------------------------------------------------------- */

/* The start of most sequences, which creates objects */
static const enum command opening[] = {
	CMD_OPTION, CMD_IOAS_ALLOC, CMD_IOAS_ALLOC, CMD_MOCK_DEVICE,
	CMD_MAP, CMD_MAP, CMD_MAP_FILE, CMD_ACCESS_CREATE, CMD_VFIO_IOAS,
	CMD_FAULT_ALLOC, CMD_DMABUF_GET, CMD_HWPT_ALLOC, CMD_HWPT_ALLOC,
	CMD_HWPT_ALLOC, CMD_VIOMMU_ALLOC, CMD_VDEVICE_ALLOC,
	CMD_VEVENTQ_ALLOC, CMD_HWPT_ALLOC, CMD_HWPT_ALLOC, CMD_SET_DIRTY,
	CMD_MOCK_DEVICE, CMD_MOCK_REPLACE, CMD_MOCK_REPLACE, CMD_PASID_ATTACH,
};

/*
 * Then, in each sequence, one command gets its argument spoilt in each way, so
 * that a run of a few hundred sequences covers all of them.
 */
#define FIRST_SPOILT 60
static const unsigned int spoilt[] = { 0, 2, 3 };

static void *map_at(unsigned long at, size_t size, int prot, int flags, int fd)
{
	void *p = mmap((void *)at, size, prot, flags | MAP_FIXED_NOREPLACE, fd,
		       0);

	if (p != (void *)at) {
		perror("mmap of the memory to map");
		exit(1);
	}
	return p;
}

void diff_init(void)
{
	int frame;

	small_fd = memfd_create("small", 0);
	huge_fd = memfd_create("huge", MFD_HUGETLB);
	frame = memfd_create("frame", 0);
	null_fd = open("/dev/null", O_RDWR);
	if (small_fd < 0 || frame < 0 || null_fd < 0 ||
	    ftruncate(small_fd, SMALL_SIZE) || ftruncate(frame, PAGE)) {
		perror("memfd");
		exit(1);
	}
	map_at(SMALL, SMALL_SIZE, PROT_READ | PROT_WRITE,
	       MAP_SHARED | MAP_POPULATE, small_fd);
	map_at(READONLY, READONLY_SIZE, PROT_READ, MAP_SHARED, small_fd);
	map_at(FRAME, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, frame);
	map_at(FRAME_RO, PAGE, PROT_READ, MAP_SHARED, frame);
	if (huge_fd < 0 || ftruncate(huge_fd, HUGE_SIZE)) {
		perror("huge pages");
		exit(1);
	}
	map_at(HUGE, HUGE_SIZE, PROT_READ | PROT_WRITE,
	       MAP_SHARED | MAP_POPULATE, huge_fd);
}

/* Privileges and memory limit of this process */
static void set_limits(u64 *rng, struct world *w)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct caps[2];
	struct rlimit limit;
	unsigned int drop = 0;

	if (mix(rng) % 2)
		drop |= 1 << CAP_IPC_LOCK;
	if (mix(rng) % 8 == 0)
		drop |= 1 << CAP_SYS_RESOURCE;
	limit.rlim_max = PAGE * (16 << mix(rng) % 5);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &limit);
	syscall(SYS_capget, &head, caps);
	caps[0].effective &= ~drop;
	syscall(SYS_capset, &head, caps);
	put(w, "limits drop=%x memlock=%lx\n", drop,
	    (unsigned long)limit.rlim_cur);
}

static enum command pick_command(u64 *rng)
{
	static unsigned int total;
	unsigned int i, n;

	if (!total)
		for (i = 0; i < CMD_NR; i++)
			total += commands[i].weight;
	n = mix(rng) % total;
	for (i = 0; n >= commands[i].weight; i++)
		n -= commands[i].weight;
	return i;
}

static void teardown(struct world *w)
{
	struct iommu_test_cmd limit = {
		.size = sizeof(limit),
		.op = IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
		.memory_limit.limit = 65536,
	};
	unsigned int i, n;

	w->index = "end";
	w->forced = 0;
	w->good = true;
	w->stats = NULL;
	for (i = 0; i < w->nr_objects; i++)
		if (w->objects[i].kind == STDEV)
			pasid_detach_all(w, &w->objects[i]);
	ioctl(w->fd, IOMMU_TEST_CMD, &limit);
	/* Close files in any order, and so the context */
	n = w->nr_objects ? under(w, w->nr_objects) : 0;
	for (i = 0; i <= w->nr_objects; i++) {
		struct object *o = &w->objects[i];

		if (i == n)
			close(w->fd);
		if (i == w->nr_objects)
			break;
		if (o->map)
			munmap(o->map, o->length);
		if (o->kind == ACCESS || o->kind == DMABUF)
			close(o->id);
		else if (o->fd >= 0)
			close(o->fd);
	}
	w->fd = open("/dev/iommu", O_RDWR);
	op_status(w);
	for (i = 0; i < SMALL_SIZE / PAGE; i++)
		if (page_pins(w->fd, (void *)(SMALL + i * PAGE)))
			put(w, "end page %u still pinned\n", i);
	for (i = 0; i < ANON_SIZE / PAGE; i++)
		if (page_pins(w->fd, (void *)(ANON + i * PAGE)))
			put(w, "end page %u of ours still pinned\n", i);
	close(w->fd);
}

void diff_run(const struct sequence *seq, struct diff_log *log,
	      struct stats *stats)
{
	static struct world w;
	u64 rng = seq->seed, call;
	bool vfio, opened;
	unsigned int i;

	memset(&w, 0, sizeof(w));
	w.log = log;
	w.stats = stats;
	mix(&rng);
	for (i = 0; i < SMALL_SIZE / 8; i++)
		((u64 *)SMALL)[i] = i * 0x0101010101010101UL;
	memset((void *)HUGE, 0x55, HUGE_SIZE);
	map_at(ANON, ANON_SIZE, PROT_READ | PROT_WRITE,
	       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise((void *)ANON, ANON_SIZE, MADV_NOHUGEPAGE);
	memset((void *)ANON, 0xaa, ANON_SIZE);
	map_at(BUFFER, BUFFER_SIZE, PROT_READ | PROT_WRITE,
	       MAP_PRIVATE | MAP_ANONYMOUS, -1);

	set_limits(&rng, &w);
	w.files_only = mix(&rng) % 4 == 0;
	opened = mix(&rng) % 8 != 0;
	vfio = mix(&rng) % 8 == 0;
	w.fd = open(vfio ? "/dev/vfio/vfio" : "/dev/iommu", O_RDWR);
	if (w.fd < 0) {
		put(&w, "open: %s\n", strerrorname_np(errno));
		return;
	}
	for (i = 0; i < seq->length; i++) {
		bool first = opened && i < ARRAY_SIZE(opening);
		enum command cmd = pick_command(&rng);

		call = mix(&rng);
		if (seq->skip && seq->skip[i])
			continue;
		if (first)
			cmd = opening[i];
		w.rng = call;
		w.good = first || chance(&w, 40);
		w.forced = 0;
		if (i >= FIRST_SPOILT &&
		    i < FIRST_SPOILT + ARRAY_SIZE(spoilt)) {
			cmd = seq->seed % CMD_NR;
			w.good = false;
			w.forced = 1 + spoilt[i - FIRST_SPOILT];
		}
		if (w.files_only && (cmd == CMD_MAP || cmd == CMD_VFIO_MAP))
			cmd = CMD_MAP_FILE;
		snprintf(w.number, sizeof(w.number), "%u", i);
		w.index = w.number;
		functions[cmd](&w);
	}
	teardown(&w);
}
