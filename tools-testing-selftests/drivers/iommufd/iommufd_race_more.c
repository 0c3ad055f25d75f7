// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cases of iommufd_race in which somebody else takes part: exporters of
 * dma-bufs, hardware that reports faults and events, devices that are unbound,
 * virtual memory that is mapped and forked, another process.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <sys/wait.h>

#include "iommufd_race.h"
#include "kselftest.h"

/* ---- dma-bufs ------------------------------------------------------------ */

void turn_dmabuf(struct session *s, struct worker *w)
{
	int fd = get(&s->slot[0]), rc;

	switch (w->number) {
	case 0:
		begin(w);
		rc = do_dmabuf_get(s->fd, 16 * PAGE);
		if (done(w, OP_ALLOC, rc, 0) < 0)
			break;
		set(&s->slot[0], rc);
		nap(w, 3000);
		set(&s->slot[0], 0);
		close(rc);
		break;
	case 1:
		if (fd)
			TRY(w, OP_REVOKE,
			    do_dmabuf_revoke(s->fd, fd, below(&w->rng, 2)),
			    EBADF, EINVAL);
		nap(w, 200);
		break;
	case 2:
		turn_domain(s, w, s->ioas[below(&w->rng, 2)]);
		break;
	default:
		if (!fd ||
		    TRY(w, OP_MAP,
			do_map_file(s->fd, s->ioas[0], fd,
				    PAGE * below(&w->rng, 8), 8 * PAGE,
				    OWN_IOVA(w)), ENODEV, EBADF, EINVAL)) {
			nap(w, 500);
			break;
		}
		if (!TRY(w, OP_COPY,
			 do_copy(s->fd, s->ioas[1], OWN_IOVA(w), s->ioas[0],
				 OWN_IOVA(w), 8 * PAGE), ENODEV))
			TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[1],
						  OWN_IOVA(w), 8 * PAGE));
		TRY(w, OP_UNMAP,
		    do_unmap(s->fd, s->ioas[0], OWN_IOVA(w), 8 * PAGE));
	}
}

/* ---- event queues -------------------------------------------------------- */

static void wait_and_read(struct worker *w, int fd, void *buffer, size_t size)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	int rc;

	begin(w);
	rc = poll(&pollfd, 1, 1);
	done(w, OP_POLL, rc < 0 ? -errno : rc, 0);
	if (rc <= 0)
		return;
	begin(w);
	rc = read(fd, buffer, size);
	/* The number may be another file's by now. */
	done(w, OP_READ, rc < 0 ? -errno : rc, EAGAIN, EBADF, EINVAL, ENODEV,
	     0);
}

void turn_fault(struct session *s, struct worker *w)
{
	struct iommu_hwpt_pgfault *faults = w->buffer;
	struct iommu_hwpt_page_response answer = {};
	int fd = get(&s->slot[0]), rc;
	u32 fault, hwpt;

	switch (w->number) {
	case 0:
		if (TRY(w, OP_ALLOC, do_fault_alloc(s->fd, &fault, &fd)))
			break;
		if (!TRY(w, OP_HWPT, do_hwpt_alloc(s->fd, s->mock.idev,
						   s->hwpt[0], 0, fault,
						   &hwpt))) {
			TRY(w, OP_REPLACE,
			    do_replace(s->fd, s->mock.stdev, hwpt));
			set(&s->slot[0], fd);
			nap(w, 5000);
			TRY(w, OP_REPLACE, do_replace(s->fd, s->mock.stdev,
						      s->ioas[0]));
			destroy(w, hwpt);
		}
		set(&s->slot[0], 0);
		close(fd);
		/* Somebody may be reading its file. */
		destroy_after(w, fault);
		break;
	case 1:
	case 2:
		TRY(w, OP_TRIGGER,
		    do_trigger_iopf(s->fd, s->mock.idev, below(&w->rng, 512)));
		break;
	case 3:
		if (!fd)
			break;
		memset(faults, 0, sizeof(*faults));
		wait_and_read(w, fd, faults, sizeof(*faults) * 4);
		answer.cookie = below(&w->rng, 4) ? faults->cookie :
						    below(&w->rng, 64);
		begin(w);
		rc = write(fd, &answer, sizeof(answer));
		done(w, OP_WRITE, rc < 0 ? -errno : rc, EINVAL, EBADF, ENODEV,
		     0);
		break;
	default:
		if (fd)
			wait_and_read(w, fd, faults, sizeof(*faults));
	}
}

int setup_vevent(struct session *s)
{
	u32 virt = 0x99;
	int rc;

	rc = setup_device(s) ?:
	     do_viommu_alloc(s->fd, s->mock.idev, s->hwpt[0], NULL,
			     &s->slot[1]) ?:
	     do_vdevice_alloc(s->fd, s->slot[1], s->mock.idev, virt,
			      &s->slot[2]);
	rc = rc ?: do_nested_alloc(s->fd, s->mock.idev, s->slot[1],
				   &s->slot[3]);
	return rc ?: do_replace(s->fd, s->mock.stdev, s->slot[3]);
}

void turn_vevent(struct session *s, struct worker *w)
{
	int fd = get(&s->slot[0]);
	u32 id;

	switch (w->number) {
	case 0:
		if (TRY(w, OP_ALLOC,
			do_veventq_alloc(s->fd, s->slot[1], &id, &fd)))
			break;
		set(&s->slot[0], fd);
		nap(w, 3000);
		set(&s->slot[0], 0);
		close(fd);
		/* Somebody may be reading its file. */
		destroy_after(w, id);
		break;
	case 1:
		/* Nobody listens, or the device is not virtual now. */
		TRY(w, OP_TRIGGER, do_trigger_vevent(s->fd, s->mock.idev),
		    EOPNOTSUPP, ENOENT);
		break;
	case 2:
		nap(w, 3000);
		TRY(w, OP_REPLACE,
		    do_replace(s->fd, s->mock.stdev, s->ioas[0]));
		destroy(w, s->slot[2]);
		if (TRY(w, OP_ALLOC,
			do_vdevice_alloc(s->fd, s->slot[1], s->mock.idev, 0x99,
					 &id)))
			break;
		set(&s->slot[2], id);
		TRY(w, OP_REPLACE,
		    do_replace(s->fd, s->mock.stdev, s->slot[3]));
		break;
	default:
		if (fd)
			wait_and_read(w, fd, w->buffer, 256);
	}
}

/* ---- virtual IOMMUs ------------------------------------------------------ */

enum graph {
	STDEV,
	VIOMMU,
	VDEVICE,
	NESTED,
	HW_QUEUE,
	IDEV,
};

int setup_graph(struct session *s)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	rc = setup_device(s) ?: do_map(s->fd, s->ioas[0], page, PAGE, IOVA);
	munmap(page, PAGE);
	return rc;
}

static void make_graph(struct session *s, struct worker *w)
{
	u32 viommu = 0, nested = 0, id;
	struct mock mock = {};

	if (TRY(w, OP_ALLOC, do_mock_device(s->fd, s->hwpt[0], &mock)))
		return;
	set(&s->slot[IDEV], mock.idev);
	set(&s->slot[STDEV], mock.stdev);
	/* From here on anything may be gone, and the device with it. */
	if (TRY(w, OP_ALLOC,
		do_viommu_alloc(s->fd, mock.idev, s->hwpt[0], NULL, &viommu),
		ENOENT))
		return;
	/* HWPT_ALLOC says EINVAL where it is not the device that is gone. */
	if (!TRY(w, OP_ALLOC,
		 do_nested_alloc(s->fd, mock.idev, viommu, &nested), ENOENT,
		 EINVAL))
		set(&s->slot[NESTED], nested);
	set(&s->slot[VIOMMU], viommu);
	if (!TRY(w, OP_ALLOC,
		 do_hw_queue_alloc(s->fd, viommu, 0, IOVA, PAGE, &id),
		 ENOENT))
		set(&s->slot[HW_QUEUE], id);
	/* Another worker may make it, too. */
	if (!TRY(w, OP_ALLOC,
		 do_vdevice_alloc(s->fd, viommu, mock.idev, 7, &id),
		 ENOENT, EEXIST))
		set(&s->slot[VDEVICE], id);
	if (nested)
		TRY(w, OP_REPLACE, do_replace(s->fd, mock.stdev, nested),
		    ENOENT, EINVAL);
}

void turn_graph(struct session *s, struct worker *w)
{
	unsigned int i = below(&w->rng, IDEV), j;
	u32 id;

	if (!w->number) {
		for (j = 0; j < IDEV && !get(&s->slot[j]); j++)
			;
		if (j == IDEV) {
			make_graph(s, w);
			nap(w, 1000);
			return;
		}
	}
	if (w->number == 1 && below(&w->rng, 2)) {
		if (!get(&s->slot[IDEV]) || !get(&s->slot[VIOMMU]))
			return;
		if (!TRY(w, OP_ALLOC,
			 do_vdevice_alloc(s->fd, get(&s->slot[VIOMMU]),
					  get(&s->slot[IDEV]), 7, &id),
			 ENOENT, EEXIST))
			set(&s->slot[VDEVICE], id);
		return;
	}
	id = get(&s->slot[i]);
	if (!id) {
		sched_yield();
		return;
	}
	/* A vIOMMU has queues, a nested HWPT a device, and so on. */
	if (TRY(w, OP_DESTROY, do_destroy(s->fd, id), ENOENT, EBUSY) != -EBUSY)
		__atomic_compare_exchange_n(&s->slot[i], &id, 0, false,
					    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/*
 * Unbinding a device takes its vDEVICE with it. Who destroys that by its id
 * comes first, or finds nothing: no one depends on it. Each tries once, and no
 * id is used again before all have.
 */
void turn_unbind(struct session *s, struct worker *w)
{
	struct mock mock = {};
	unsigned int i;
	u32 viommu, id;

	if (w->number) {
		id = get(&s->slot[0]);
		if (!id || get(&s->slot[w->number])) {
			sched_yield();
			return;
		}
		TRY(w, OP_DESTROY, do_destroy(s->fd, id), ENOENT);
		set(&s->slot[w->number], 1);
		return;
	}
	if (TRY(w, OP_ALLOC, do_mock_device(s->fd, s->hwpt[0], &mock)))
		return;
	if (!TRY(w, OP_ALLOC, do_viommu_alloc(s->fd, mock.idev, s->hwpt[0],
					      NULL, &viommu))) {
		if (!TRY(w, OP_ALLOC, do_vdevice_alloc(s->fd, viommu, mock.idev,
						       7, &id))) {
			for (i = 1; i < w->s->what->threads; i++)
				set(&s->slot[i], 0);
			set(&s->slot[0], id);
			if (below(&w->rng, 2))
				nap(w, 30);
			destroy(w, mock.stdev);
			for (i = 1; i < w->s->what->threads; i++)
				while (!get(&s->slot[i]) && !get(&s->stop))
					sched_yield();
			set(&s->slot[0], 0);
			destroy(w, viommu);
			return;
		}
		destroy(w, viommu);
	}
	destroy(w, mock.stdev);
}

/* ---- mmap ---------------------------------------------------------------- */

static void use_mapping(struct worker *w, bool forks)
{
	u64 offset = get(&w->s->offset);
	unsigned int half;
	u32 *page;
	pid_t pid;
	int rc;

	if (!offset)
		return;
	begin(w);
	page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		    w->s->fd, offset);
	if (done(w, OP_MMAP, page == MAP_FAILED ? -errno : 0, ENXIO, ENOENT,
		 EINVAL, 0))
		return;
	TRY(w, OP_CHECK, get(page) == MAGIC ? 0 : -EIO);
	if (forks) {
		begin(w);
		pid = fork();
		if (!pid) {
			usleep(below(&w->rng, 500));
			_exit(*page != MAGIC);
		}
		done(w, OP_FORK, pid < 0 ? -errno : 0, 0);
		/* Half of it goes before the child's, half of it after. */
		half = below(&w->rng, 2);
		munmap((void *)page + PAGE * half, PAGE);
		if (pid > 0 && waitpid(pid, &rc, 0) == pid)
			TRY(w, OP_CHECK, rc ? -EIO : 0);
		munmap((void *)page + PAGE * !half, PAGE);
		return;
	}
	munmap(page, 2 * PAGE);
}

void turn_mmap(struct session *s, struct worker *w)
{
	struct iommu_viommu_selftest data = { .in_data = MAGIC };
	u32 id;
	int rc;

	if (w->number) {
		use_mapping(w, w->number == 1);
		return;
	}
	if (TRY(w, OP_ALLOC, do_viommu_alloc(s->fd, s->mock.idev, s->hwpt[0],
					     &data, &id)))
		return;
	set(&s->offset, data.out_mmap_offset);
	nap(w, 3000);
	/*
	 * Each mapping depends on it, a child's too, and as long as the offset
	 * is known there may be no moment without one.
	 */
	rc = TRY(w, OP_DESTROY, do_destroy(s->fd, id), EBUSY);
	set(&s->offset, 0);
	if (rc == -EBUSY)
		destroy_after(w, id);
}

/* ---- change of process --------------------------------------------------- */

/* Another process, which has the same file open. */
int setup_process(struct session *s)
{
	struct worker *w = &s->workers[WORKERS_MAX - 1];
	struct iommu_option mode = {
		.size = sizeof(mode),
		.option_id = IOMMU_OPTION_RLIMIT_MODE,
		.op = IOMMU_OPTION_OP_SET,
		.val64 = s->number / 2 % 2,
	};
	int null, rc;

	s->memfd = memfd_create("race", MFD_CLOEXEC);
	if (s->memfd < 0 || ftruncate(s->memfd, 64 * PAGE))
		return -errno;
	rc = call(s->fd, IOMMU_OPTION, &mode) ?: setup_device(s);
	if (rc)
		return rc;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	s->child = fork();
	if (!s->child) {
		w->s = s;
		while (!get(&s->stop)) {
			if (get(&s->closed))
				dup2(null, s->fd);
			TRY(w, OP_CHANGE, do_change_process(s->fd), EBUSY);
			nap(w, 300);
		}
		_exit(0);
	}
	close(null);
	return s->child < 0 ? -errno : 0;
}

void cleanup_process(struct session *s)
{
	waitpid(s->child, NULL, 0);
}

void turn_process(struct session *s, struct worker *w)
{
	u64 start = below(&w->rng, 32) * PAGE;
	u64 length = (1 + below(&w->rng, 32)) * PAGE;

	switch (w->number) {
	case 0:
		/* Something is being mapped: EBUSY. */
		TRY(w, OP_CHANGE, do_change_process(s->fd), EBUSY);
		nap(w, 300);
		break;
	case 1:
		turn_domain(s, w, s->ioas[below(&w->rng, 2)]);
		break;
	default:
		if (TRY(w, OP_MAP, do_map_file(s->fd, s->ioas[0], s->memfd,
					       start, length, OWN_IOVA(w))))
			break;
		if (!TRY(w, OP_COPY,
			 do_copy(s->fd, s->ioas[1], OWN_IOVA(w), s->ioas[0],
				 OWN_IOVA(w), length)))
			TRY(w, OP_UNMAP, do_unmap(s->fd, s->ioas[1],
						  OWN_IOVA(w), length));
		TRY(w, OP_UNMAP,
		    do_unmap(s->fd, s->ioas[0], OWN_IOVA(w), length));
	}
}
