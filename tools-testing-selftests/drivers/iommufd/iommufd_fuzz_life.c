// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process of iommufd_fuzz: a context, threads that make calls, and one that
 * changes the memory of their arguments.
 *
 * Ids and descriptors that calls return are kept by type, so that most later
 * calls name an existing object.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <linux/vfio.h>

#include "iommufd_fuzz.h"
#include "kselftest.h"

#define MEM_PAGES 1024UL
#define ARENA_PAGES 32UL
#define RING 64
#define MAPPED 32

/* A range that was mapped, and may be unmapped again */
struct mapped {
	u32 ioas;
	u64 iova, length;
};

struct life {
	u64 seed;
	int fd;
	/* Only files are mapped: another process could become their owner. */
	bool files_only;
	struct mapped mapped[MAPPED];
	unsigned int nr_mapped;
	/* The last pin of an access, and the last device behind a vIOMMU */
	u32 pin_access, pin;
	u32 virtual_device, parent, viommu;
	/* The latest ids and descriptors by type; any thread may write them. */
	u32 ids[FD_KINDS][RING];
	unsigned int nr[FD_KINDS];
	u64 offsets[8];
	unsigned int nr_offsets;
	unsigned char *mem, *arena;
	bool over;
};

struct fuzzer {
	struct life *life;
	struct gauge *gauge;
	u64 rng;
	pthread_t thread;
};

static bool chance(u64 *rng, unsigned int percent)
{
	return below(rng, 100) < percent;
}

static void add(struct life *l, enum type kind, u32 id)
{
	unsigned int i = __atomic_fetch_add(&l->nr[kind], 1, __ATOMIC_RELAXED);

	l->ids[kind][i % RING] = id;
}

/* Forget an id. A thread that uses it at this moment may add it again. */
static void drop(struct life *l, u32 id)
{
	unsigned int kind, i;

	for (kind = ID; kind < KINDS; kind++)
		for (i = 0; i < RING; i++)
			if (l->ids[kind][i] == id)
				l->ids[kind][i] = l->ids[kind][0];
}

static void add_mapped(struct life *l, u32 ioas, u64 iova, u64 length)
{
	unsigned int i = __atomic_fetch_add(&l->nr_mapped, 1, __ATOMIC_RELAXED);

	l->mapped[i % MAPPED] = (struct mapped){ ioas, iova, length };
}

/* A range that was mapped, mostly a recent one */
static struct mapped some_mapped(struct life *l, u64 *rng)
{
	unsigned int n = __atomic_load_n(&l->nr_mapped, __ATOMIC_RELAXED);
	unsigned int back = below(rng, below(rng, 2) ? 4 : MAPPED);

	return back < n ? l->mapped[(n - 1 - back) % MAPPED] :
			  (struct mapped){ 0, MOCK_APERTURE_START, PAGE };
}

static u32 some(struct life *l, u64 *rng, enum type kind)
{
	unsigned int n = __atomic_load_n(&l->nr[kind], __ATOMIC_RELAXED);

	return n ? l->ids[kind][below(rng, n < RING ? n : RING)] : 0;
}

/* All descriptors are also in one list, to close them. */
static void add_fd(struct life *l, enum type kind, int fd)
{
	unsigned int n = __atomic_load_n(&l->nr[FD], __ATOMIC_RELAXED);

	if (n >= RING) {
		u32 old = l->ids[FD][n % RING];

		if (old > 2 && (int)old != l->fd)
			close(old);
	}
	add(l, FD, fd);
	if (kind != FD)
		add(l, kind, fd);
}

static u64 edge(u64 *rng)
{
	static const u64 edges[] = {
		0, 1, PAGE - 1, PAGE, PAGE + 1, 0x7fffffff, 0x80000000,
		0xffffffff, 0x100000000, 0x7fffffffffffffff,
		0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff,
	};

	return edges[below(rng, ARRAY_SIZE(edges))];
}

static void *somewhere(struct fuzzer *f, size_t size)
{
	struct life *l = f->life;

	switch (below(&f->rng, 40)) {
	case 0:
		return NULL;
	case 1:
		return (void *)(uintptr_t)edge(&f->rng);
	case 2:
		return (void *)(uintptr_t)mix(&f->rng);
	case 3:
		/* The end of the arena, behind which nothing is mapped */
		return l->arena + ARENA_PAGES * PAGE - below(&f->rng, size + 8);
	case 4:
		return l->mem + below(&f->rng, MEM_PAGES * PAGE);
	default:
		return l->arena + below(&f->rng, (ARENA_PAGES - 2) * PAGE);
	}
}

static u64 value(struct fuzzer *f, const struct field *field,
		 unsigned int size)
{
	static const u32 magics[] = {
		IOMMU_HWPT_DATA_SELFTEST, IOMMU_VIOMMU_TYPE_SELFTEST,
		IOMMU_VEVENTQ_TYPE_SELFTEST, IOMMU_HW_INFO_TYPE_SELFTEST, 0,
		IOMMU_HWPT_INVALIDATE_DATA_SELFTEST_INVALID, 1,
	};
	struct life *l = f->life;
	enum type type = field->type;
	u64 *rng = &f->rng;

	if (chance(rng, 2))
		return edge(rng);
	if (type > ID && type < KINDS)
		/* Of this type, or of another */
		return some(l, rng, chance(rng, 90) ? type :
				    ID + below(rng, KINDS - ID));
	if (type >= FD && type < FD_KINDS)
		return some(l, rng, chance(rng, 90) ? type : FD);
	if (type < ID && type > ZERO && chance(rng, 70))
		return field->usual;
	if (type == MAGIC && chance(rng, 80))
		return field->usual;
	switch (type) {
	case SIZE:
		return size;
	case ZERO:
		return chance(rng, 1) ? mix(rng) : 0;
	case FLAGS:
		return below(rng, 16);
	case FEW:
		return below(rng, below(rng, 2) ? 4 : 24);
	case ID:
		return chance(rng, 50) ? some(l, rng, ID + below(rng, KINDS - ID)) :
					 below(rng, 64);
	case IOVA:
		return MOCK_APERTURE_START + below(rng, 64) * PAGE +
		       (chance(rng, 5) ? below(rng, PAGE) : 0);
	case LENGTH:
		return (1 + below(rng, chance(rng, 70) ? 4 : 256)) * PAGE -
		       (chance(rng, 5) ? below(rng, PAGE) : 0);
	case MEMORY:
		return (uintptr_t)l->mem + below(rng, MEM_PAGES) * PAGE +
		       (chance(rng, 10) ? below(rng, PAGE) : 0);
	case BUFFER:
		return (uintptr_t)somewhere(f, 64);
	case BUFFER_LENGTH:
		return below(rng, 64);
	case MAGIC:
		return magics[below(rng, ARRAY_SIZE(magics))];
	case PAGE_SIZES:
		return chance(rng, 50) ? PAGE : 1ULL << below(rng, 64);
	case OFFSET:
		return below(rng, 64) * PAGE;
	default:
		return mix(rng);
	}
}

/* Fields that are only valid together */
static void make_sense(struct fuzzer *f, const struct command *c, void *cmd)
{
	static const struct iommu_hwpt_selftest nested;
	struct mapped mapped = some_mapped(f->life, &f->rng);
	struct iommu_hwpt_get_dirty_bitmap *dirty = cmd;
	struct iommu_hwpt_set_dirty_tracking *track = cmd;
	struct vfio_iommu_type1_dma_unmap *vfio_unmap = cmd;
	struct iommu_hw_queue_alloc *queue = cmd;
	struct iommu_viommu_alloc *viommu = cmd;
	struct iommu_ioas_unmap *unmap = cmd;
	struct iommu_option *option = cmd;
	struct iommu_hwpt_alloc *hwpt = cmd;
	struct iommu_ioas_copy *copy = cmd;
	struct iommu_test_cmd *test = cmd;

	switch (c->nr) {
	case IOMMU_OPTION:
		option->option_id = below(&f->rng, 2);
		option->op = below(&f->rng, 2);
		option->val64 = below(&f->rng, 2);
		if (option->option_id == IOMMU_OPTION_RLIMIT_MODE)
			option->object_id = 0;
		break;
	case IOMMU_IOAS_COPY:
		copy->src_ioas_id = mapped.ioas;
		copy->src_iova = mapped.iova;
		copy->length = mapped.length;
		break;
	case IOMMU_IOAS_UNMAP:
		unmap->ioas_id = mapped.ioas;
		unmap->iova = mapped.iova;
		unmap->length = mapped.length;
		break;
	case VFIO_IOMMU_UNMAP_DMA:
		vfio_unmap->iova = mapped.iova;
		vfio_unmap->size = mapped.length;
		break;
	case IOMMU_HWPT_ALLOC:
		hwpt->data_type = 0;
		hwpt->data_len = 0;
		hwpt->pt_id = some(f->life, &f->rng, IOAS);
		hwpt->flags = below(&f->rng, 4) &
			      (IOMMU_HWPT_ALLOC_NEST_PARENT |
			       IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
		if (chance(&f->rng, 50)) {
			hwpt->flags = chance(&f->rng, 50) ?
				IOMMU_HWPT_FAULT_ID_VALID : 0;
			hwpt->pt_id = some(f->life, &f->rng,
					   chance(&f->rng, 50) ? HWPT :
								 VIOMMU);
			hwpt->data_type = IOMMU_HWPT_DATA_SELFTEST;
			hwpt->data_len = sizeof(nested);
			hwpt->data_uptr = (uintptr_t)&nested;
		}
		break;
	case IOMMU_VIOMMU_ALLOC:
		viommu->data_len = 0;
		if (chance(&f->rng, 50)) {
			viommu->dev_id = f->life->virtual_device;
			viommu->hwpt_id = f->life->parent;
		}
		break;
	case IOMMU_HW_QUEUE_ALLOC:
		if (chance(&f->rng, 50))
			queue->viommu_id = f->life->viommu;
		queue->nesting_parent_iova = mapped.iova;
		queue->length = PAGE;
		break;
	case IOMMU_HWPT_SET_DIRTY_TRACKING:
		track->flags &= IOMMU_HWPT_DIRTY_TRACKING_ENABLE;
		break;
	case IOMMU_HWPT_GET_DIRTY_BITMAP:
		dirty->page_size = PAGE;
		dirty->flags &= IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
		dirty->iova = mapped.iova;
		dirty->length = mapped.length;
		break;
	case IOMMU_TEST_CMD:
		if (c->test_op == IOMMU_TEST_OP_ACCESS_PAGES) {
			/*
			 * The mock driver cannot handle it, which is not tested
			 * here.
			 */
			test->access_pages.flags &= MOCK_FLAGS_ACCESS_WRITE;
			test->access_pages.iova = mapped.iova;
			test->access_pages.length = PAGE;
		}
		if (c->test_op == IOMMU_TEST_OP_DESTROY_ACCESS_PAGES) {
			test->id = f->life->pin_access;
			test->destroy_access_pages.access_pages_id =
				f->life->pin;
		}
		if (c->test_op == IOMMU_TEST_OP_TRIGGER_VEVENT &&
		    chance(&f->rng, 50))
			test->trigger_vevent.dev_id = f->life->virtual_device;
		if (c->test_op == IOMMU_TEST_OP_ACCESS_RW) {
			test->access_rw.flags &= MOCK_ACCESS_RW_WRITE |
						 MOCK_ACCESS_RW_SLOW_PATH;
			test->access_rw.iova = mapped.iova;
			test->access_rw.length = below(&f->rng, PAGE);
		}
	}
}

/* Record what successful calls have created or destroyed besides an id. */
static void remember(struct fuzzer *f, const struct command *c, const void *cmd)
{
	const struct iommu_ioas_map_file *map_file = cmd;
	const struct iommu_destroy *destroy = cmd;
	const struct iommu_ioas_copy *copy = cmd;
	const struct iommu_ioas_map *map = cmd;
	const struct iommu_test_cmd *test = cmd;

	switch (c->nr) {
	case IOMMU_TEST_CMD:
		if (c->test_op != IOMMU_TEST_OP_ACCESS_PAGES)
			break;
		f->life->pin_access = test->id;
		f->life->pin = test->access_pages.out_access_pages_id;
		break;
	case IOMMU_DESTROY:
		drop(f->life, destroy->id);
		break;
	case IOMMU_IOAS_MAP:
		add_mapped(f->life, map->ioas_id, map->iova, map->length);
		break;
	case IOMMU_IOAS_MAP_FILE:
		add_mapped(f->life, map_file->ioas_id, map_file->iova,
			   map_file->length);
		break;
	case IOMMU_IOAS_COPY:
		add_mapped(f->life, copy->dst_ioas_id, copy->dst_iova,
			   copy->length);
	}
}

static void note(struct fuzzer *f, const char *what)
{
	f->gauge->what = what;
	__atomic_store_n(&f->gauge->since, now_ns(), __ATOMIC_RELEASE);
}

static long count(struct fuzzer *f, long rc)
{
	__atomic_store_n(&f->gauge->since, 0, __ATOMIC_RELEASE);
	f->gauge->calls++;
	f->gauge->good += rc >= 0;
	return rc;
}

static void random_ioctl(struct fuzzer *f)
{
	static unsigned int total;
	u64 words[32] = {};
	unsigned char *cmd = (unsigned char *)words;
	const struct command *c;
	const struct field *field;
	unsigned int i, n;
	u32 size, id;
	void *arg;
	long rc;

	if (!total)
		for (i = 0; i < nr_commands; i++)
			total += commands[i].weight;
	n = below(&f->rng, total);
	for (c = commands; n >= c->weight; c++)
		n -= c->weight;
	for (i = 0; i < nr_excluded && i < 8; i++)
		if (strstr(c->name, excluded[i]))
			return;
	if (f->life->files_only && (c->nr == IOMMU_IOAS_MAP ||
				    c->nr == VFIO_IOMMU_MAP_DMA))
		return;

	for (field = c->fields; field->width; field++) {
		u64 v = value(f, field, c->size);

		memcpy(cmd + field->offset, &v, field->width);
	}
	if (chance(&f->rng, 70))
		make_sense(f, c, cmd);
	size = c->size;
	if (chance(&f->rng, 3))
		size = chance(&f->rng, 50) ? below(&f->rng, 256) :
					     edge(&f->rng);
	if (chance(&f->rng, 3))
		cmd[8 + below(&f->rng, c->size)] ^= 1 << below(&f->rng, 8);
	memcpy(cmd, &size, sizeof(size));
	if (c->test_op)
		memcpy(cmd + 4, &c->test_op, sizeof(c->test_op));

	arg = chance(&f->rng, 70) ? cmd : somewhere(f, c->size);
	/* It may be read-only or unmapped: let the kernel find out. */
	if (arg != cmd) {
		int pipefd[2];

		if (pipe(pipefd))
			return;
		if (write(pipefd[1], cmd, sizeof(words)) == sizeof(words))
			n = read(pipefd[0], arg, c->size);
		close(pipefd[0]);
		close(pipefd[1]);
	}
	note(f, c->name);
	rc = ioctl(f->life->fd, c->nr, arg);
	count(f, rc);
	i = c - commands;
	__atomic_fetch_add(&board->calls[i], 1, __ATOMIC_RELAXED);
	if (rc)
		return;
	__atomic_fetch_add(&board->good[i], 1, __ATOMIC_RELAXED);
	if (arg != cmd)
		return;
	remember(f, c, cmd);
	if (c->out_id) {
		memcpy(&id, cmd + c->out_id, sizeof(id));
		add(f->life, c->id_kind, id);
		if (c->id_kind == IOAS || c->id_kind == HWPT)
			add(f->life, PT, id);
	}
	if (c->out_id2) {
		memcpy(&id, cmd + c->out_id2, sizeof(id));
		add(f->life, c->id2_kind, id);
	}
	if (c->out_fd) {
		memcpy(&id, cmd + c->out_fd, sizeof(id));
		add_fd(f->life, c->fd_kind, id);
	}
}

static void random_garbage(struct fuzzer *f)
{
	u64 *arg = somewhere(f, 64);
	unsigned int nr = below(&f->rng, 256);

	/* Some commands of the mock driver are excluded. */
	if (nr == (IOMMU_TEST_CMD & 0xff))
		return;
	note(f, "garbage");
	count(f, ioctl(f->life->fd, (IOMMUFD_TYPE << 8) | nr,
		       chance(&f->rng, 90) ? (uintptr_t)arg :
					     mix(&f->rng)));
}

static void random_file_call(struct fuzzer *f)
{
	int fd = some(f->life, &f->rng, FD);
	size_t size = chance(&f->rng, 95) ? below(&f->rng, 200) :
					    edge(&f->rng) & 0xffffff;
	void *buffer = somewhere(f, 64);
	struct pollfd pollfd = { .fd = fd, .events = POLLIN | POLLOUT };
	int flags;

	switch (below(&f->rng, 8)) {
	case 0:
	case 1:
	case 2:
		flags = fcntl(fd, F_GETFL);
		if (flags < 0)
			return;
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
		note(f, "read");
		count(f, read(fd, buffer, size));
		break;
	case 3:
	case 4:
		flags = fcntl(fd, F_GETFL);
		if (flags < 0)
			return;
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
		note(f, "write");
		count(f, write(fd, buffer, size));
		break;
	case 5:
		note(f, "poll");
		count(f, poll(&pollfd, 1, 0));
		break;
	case 6:
		note(f, "lseek");
		count(f, lseek(fd, edge(&f->rng), below(&f->rng, 4)));
		break;
	default:
		note(f, "ioctl of another file");
		count(f, ioctl(fd, commands[below(&f->rng, 20)].nr, buffer));
	}
}

/* A VFIO container; type1, which splits areas */
static void random_container(struct fuzzer *f)
{
	note(f, "VFIO_SET_IOMMU");
	count(f, ioctl(f->life->fd, VFIO_SET_IOMMU, below(&f->rng, 10)));
	note(f, "VFIO_CHECK_EXTENSION");
	count(f, ioctl(f->life->fd, VFIO_CHECK_EXTENSION, below(&f->rng, 10)));
}

/* A device behind a vIOMMU, which random calls rarely create */
static void virtual_device(struct fuzzer *f)
{
	static const struct iommu_hwpt_selftest nested;
	struct life *l = f->life;
	struct iommu_hwpt_alloc hwpt = {
		.size = sizeof(hwpt),
		.data_type = IOMMU_HWPT_DATA_SELFTEST,
		.data_len = sizeof(nested),
		.data_uptr = (uintptr_t)&nested,
	};
	struct mock mock;
	u32 parent, id;
	int queue;

	note(f, "virtual device");
	if (count(f, do_mock_device(l->fd, some(l, &f->rng, IOAS), &mock)) ||
	    count(f, do_hwpt_alloc(l->fd, mock.idev, some(l, &f->rng, IOAS),
				   IOMMU_HWPT_ALLOC_NEST_PARENT, 0, &parent)) ||
	    count(f, do_viommu_alloc(l->fd, mock.idev, parent, NULL, &id)))
		return;
	hwpt.dev_id = mock.idev;
	hwpt.pt_id = id;
	add(l, DEV, mock.idev);
	add(l, STDEV, mock.stdev);
	add(l, HWPT, parent);
	add(l, VIOMMU, id);
	if (count(f, do_vdevice_alloc(l->fd, id, mock.idev, 7, &id)) ||
	    count(f, call(l->fd, IOMMU_HWPT_ALLOC, &hwpt)) ||
	    count(f, do_replace(l->fd, mock.stdev, hwpt.out_hwpt_id)))
		return;
	l->virtual_device = mock.idev;
	l->parent = parent;
	l->viommu = hwpt.pt_id;
	/* An event queue for its events */
	if (!count(f, do_veventq_alloc(l->fd, hwpt.pt_id, &id, &queue)))
		add_fd(l, FD, queue);
	add(l, HWPT, hwpt.out_hwpt_id);
	add(l, PT, hwpt.out_hwpt_id);
}

static void random_mmap(struct fuzzer *f)
{
	struct life *l = f->life;
	struct iommu_viommu_selftest data = { .in_data = 1 };
	u32 viommu;
	u64 offset;
	size_t size;
	void *p;

	if (chance(&f->rng, 20)) {
		note(f, "vIOMMU with a region");
		if (!count(f, do_viommu_alloc(l->fd,
					      some(l, &f->rng, DEV),
					      some(l, &f->rng, HWPT),
					      &data, &viommu))) {
			add(l, VIOMMU, viommu);
			l->offsets[l->nr_offsets++ % 8] =
				data.out_mmap_offset;
		}
		return;
	}
	offset = chance(&f->rng, 70) ? l->offsets[below(&f->rng, 8)] :
				       edge(&f->rng) & ~(PAGE - 1);
	size = chance(&f->rng, 80) ? 2 * PAGE : PAGE * below(&f->rng, 16);
	note(f, "mmap");
	p = mmap(NULL, size, below(&f->rng, 8),
		 chance(&f->rng, 90) ? MAP_SHARED : MAP_PRIVATE, l->fd,
		 offset);
	count(f, p == MAP_FAILED ? -1 : 0);
	if (p == MAP_FAILED)
		return;
	if (chance(&f->rng, 50))
		madvise(p, PAGE, below(&f->rng, 20));
	if (chance(&f->rng, 50)) {
		mprotect(p, PAGE, below(&f->rng, 8));
		mremap(p, size, size, MREMAP_MAYMOVE);
	}
	munmap(p, PAGE);
	if (size > PAGE)
		munmap(p + PAGE, size - PAGE);
}

static void random_file(struct fuzzer *f)
{
	struct life *l = f->life;
	int fds[2];

	switch (below(&f->rng, 8)) {
	case 0:
		add_fd(l, FD, open("/dev/iommu", O_RDWR | O_CLOEXEC));
		break;
	case 1:
		add_fd(l, FD, open("/dev/null", O_RDWR | O_CLOEXEC));
		break;
	case 2:
		add_fd(l, FD, eventfd(0, EFD_NONBLOCK));
		break;
	case 3:
		add_fd(l, FD, epoll_create1(0));
		break;
	case 4:
		fds[0] = memfd_create("fuzz", 0);
		if (fds[0] >= 0 && ftruncate(fds[0], 64 * PAGE))
			break;
		add_fd(l, MEMORY_FD, fds[0]);
		break;
	case 5:
		if (l->files_only)
			break;
		note(f, "dma-buf");
		fds[0] = count(f, do_dmabuf_get(l->fd, PAGE * 8));
		if (fds[0] >= 0) {
			add_fd(l, MEMORY_FD, fds[0]);
			add(l, DMABUF, fds[0]);
		}
		break;
	case 6:
		if (!pipe(fds)) {
			add_fd(l, FD, fds[0]);
			add_fd(l, FD, fds[1]);
		}
		break;
	default:
		add_fd(l, FD, -1);
	}
}

static void *fuzz(void *arg)
{
	struct fuzzer *f = arg;
	unsigned int i;

	for (i = 0; i < CALLS_OF_A_LIFE; i++) {
		switch (below(&f->rng, 20)) {
		case 0:
			random_garbage(f);
			break;
		case 1:
		case 2:
			random_file_call(f);
			break;
		case 3:
			random_mmap(f);
			break;
		case 4:
			if (chance(&f->rng, 30))
				random_file(f);
			else if (chance(&f->rng, 10))
				virtual_device(f);
			else if (chance(&f->rng, 20))
				random_container(f);
			break;
		default:
			random_ioctl(f);
		}
	}
	return NULL;
}

/* Change the memory that calls are using. */
static void *disturb(void *arg)
{
	struct life *l = arg;
	u64 rng = l->seed ^ 0x5555;
	unsigned char *p;

	while (!__atomic_load_n(&l->over, __ATOMIC_ACQUIRE)) {
		p = l->arena + below(&rng, ARENA_PAGES) * PAGE;
		switch (below(&rng, 6)) {
		case 0:
			mprotect(p, PAGE, PROT_READ);
			break;
		case 1:
			mprotect(p, PAGE, PROT_NONE);
			break;
		case 2:
			munmap(p, PAGE);
			break;
		case 3:
			p = l->mem + below(&rng, MEM_PAGES - 16) * PAGE;
			madvise(p, 16 * PAGE, MADV_DONTNEED);
			break;
		default:
			if (mmap(p, PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				 0) == p) {
				u64 *word = (u64 *)(p + 8 * below(&rng, 500));

				*word = below(&rng, 2) ? mix(&rng) :
							 below(&rng, 64);
			}
		}
		usleep(below(&rng, 300));
	}
	return NULL;
}

/* Exit quietly: the kernel logs an unhandled SIGSEGV. */
static void crash(int signal)
{
	_exit(CRASHED);
}

void live(unsigned int which, u64 seed)
{
	struct fuzzer fuzzers[THREADS] = {};
	struct life *l = calloc(1, sizeof(*l));
	struct rlimit limit = { .rlim_max = RLIM_INFINITY };
	struct sigaction action = { .sa_handler = crash };
	pthread_t disturber;
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	struct mock mock;
	u64 rng = seed;
	unsigned int i;
	int memory;
	u32 id = 0;

	l->seed = seed;
	l->files_only = seed % 4 == 3;
	l->fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	l->mem = mmap(NULL, MEM_PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	l->arena = mmap(NULL, (ARENA_PAGES + 1) * PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (l->fd < 0 || l->mem == MAP_FAILED || l->arena == MAP_FAILED)
		_exit(2);
	munmap(l->arena + ARENA_PAGES * PAGE, PAGE);
	add_fd(l, FD, l->fd);
	memory = memfd_create("fuzz", MFD_CLOEXEC);
	if (ftruncate(memory, 256 * PAGE))
		_exit(2);
	add_fd(l, MEMORY_FD, memory);

	if (mix(&rng) % 2)
		drop_ipc_lock();
	limit.rlim_cur = PAGE * (64 << mix(&rng) % 6);
	setrlimit(RLIMIT_MEMLOCK, &limit);
	/* Some objects to begin with */
	for (i = 0; i < 3; i++) {
		if (do_ioas_alloc(l->fd, &id))
			continue;
		add(l, IOAS, id);
		add(l, PT, id);
	}
	/* Of a container, the first IOAS, which can be destroyed */
	compat.ioas_id = l->ids[IOAS][0];
	call(l->fd, IOMMU_VFIO_IOAS, &compat);
	if (!do_mock_device(l->fd, id, &mock)) {
		add(l, DEV, mock.idev);
		add(l, STDEV, mock.stdev);
	}

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	pthread_create(&disturber, NULL, disturb, l);
	for (i = 0; i < THREADS; i++) {
		fuzzers[i].life = l;
		fuzzers[i].rng = seed * 7919 + i;
		fuzzers[i].gauge = &board->gauges[which][i];
		pthread_create(&fuzzers[i].thread, NULL, fuzz, &fuzzers[i]);
	}
	for (i = 0; i < THREADS; i++)
		pthread_join(fuzzers[i].thread, NULL);
	__atomic_store_n(&l->over, true, __ATOMIC_RELEASE);
	pthread_join(disturber, NULL);
	_exit(0);
}
