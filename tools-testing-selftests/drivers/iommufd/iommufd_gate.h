/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A gate: memory at which an access waits until the gate is opened. It is a
 * page of userfaultfd (missing or write-protected) or of a FUSE file (not read
 * yet). Every user can create either.
 */
#ifndef __IOMMUFD_GATE_H
#define __IOMMUFD_GATE_H

#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <linux/fuse.h>
#include <linux/userfaultfd.h>

#include "iommufd_stress.h"

struct gate {
	/* Two pages, the second one being the gate */
	unsigned char *mem;
	/* The content of the gate once it is open */
	unsigned char *content;
	/* Armed; closed until gate_open() */
	bool fuse, protected;
	int uffd;
};

static inline void *gate_page(const struct gate *g)
{
	return g->mem + PAGE;
}

/* ---- userfaultfd --------------------------------------------------------- */

static inline int gate_make_uffd(struct gate *g)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP,
	};
	struct uffdio_register range = {
		.range.len = PAGE,
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
	};

	memset(g, 0, sizeof(*g));
	g->mem = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->content = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (g->mem == MAP_FAILED || g->content == MAP_FAILED || g->uffd < 0)
		return -errno;
	range.range.start = (uintptr_t)gate_page(g);
	if (ioctl(g->uffd, UFFDIO_API, &api) ||
	    ioctl(g->uffd, UFFDIO_REGISTER, &range))
		return -errno;
	return 0;
}

static inline int uffd_fill(struct gate *g)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)gate_page(g),
		.src = (uintptr_t)g->content,
		.len = PAGE,
	};

	return ioctl(g->uffd, UFFDIO_COPY, &copy) ? -errno : 0;
}

static inline int uffd_protect(struct gate *g, bool protect)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)gate_page(g), .len = PAGE },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(g->uffd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

/* ---- FUSE ---------------------------------------------------------------- */

/* Each page of its one file is a gate; NEXT_PAGE was not read yet. */
struct fuse_gate {
	int file;
	u64 next_page;
	/* In memory shared with the server */
	struct fuse_state {
		/* Make reads wait */
		bool closed;
		/* A read waits */
		bool reached;
		unsigned char content[PAGE];
	} *state;
};

#define FUSE_PAGES 4096

extern struct fuse_gate fuse;

static inline void fuse_reply(int dev, u64 unique, int error, const void *data,
			      size_t size)
{
	struct {
		struct fuse_out_header head;
		unsigned char data[PAGE];
	} out = {
		.head = {
			.len = sizeof(out.head) + size,
			.error = error,
			.unique = unique,
		},
	};

	if (size)
		memcpy(out.data, data, size);
	/* The reader may have exited. */
	if (write(dev, &out, out.head.len) < 0)
		return;
}

static inline void fuse_attributes(struct fuse_attr *attr, u64 node)
{
	attr->ino = node;
	attr->nlink = 1;
	attr->size = node == FUSE_ROOT_ID ? 0 : FUSE_PAGES * PAGE;
	attr->mode = node == FUSE_ROOT_ID ? S_IFDIR | 0700 : S_IFREG | 0600;
	attr->blksize = PAGE;
}

/*
 * In a process of its own, which the runner of the case kills: tasks that wait
 * for it continue then.
 */
static inline void fuse_serve(int dev, struct fuse_state *state)
{
	static struct {
		struct fuse_in_header head;
		union {
			struct fuse_read_in read;
			unsigned char bytes[FUSE_MIN_READ_BUFFER + 2 * PAGE];
		};
	} in;
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_write = PAGE,
	};
	struct fuse_entry_out entry = {};
	struct fuse_attr_out attr = {};
	struct fuse_open_out opened = { .fh = 1, .open_flags = FOPEN_NOFLUSH };
	size_t size;

	while (read(dev, &in, sizeof(in)) > 0) {
		u64 unique = in.head.unique;

		switch (in.head.opcode) {
		case FUSE_INIT:
			fuse_reply(dev, unique, 0, &init, sizeof(init));
			break;
		case FUSE_LOOKUP:
			entry.nodeid = FUSE_ROOT_ID + 1;
			fuse_attributes(&entry.attr, entry.nodeid);
			fuse_reply(dev, unique, 0, &entry, sizeof(entry));
			break;
		case FUSE_GETATTR:
			fuse_attributes(&attr.attr, in.head.nodeid);
			fuse_reply(dev, unique, 0, &attr, sizeof(attr));
			break;
		case FUSE_OPEN:
			fuse_reply(dev, unique, 0, &opened, sizeof(opened));
			break;
		case FUSE_READ:
			size = in.read.size < PAGE ? in.read.size : PAGE;
			__atomic_store_n(&state->reached, true,
					 __ATOMIC_RELEASE);
			while (__atomic_load_n(&state->closed, __ATOMIC_ACQUIRE))
				usleep(200);
			fuse_reply(dev, unique, 0, state->content, size);
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		case FUSE_RELEASE:
		case FUSE_DESTROY:
			fuse_reply(dev, unique, 0, NULL, 0);
			break;
		default:
			fuse_reply(dev, unique, -EOPNOTSUPP, NULL, 0);
		}
	}
}

/*
 * In a mount namespace of this process; root can mount, others need fusermount.
 */
static inline int fuse_start(void)
{
	char dir[] = "/tmp/iommufd-gate-XXXXXX", text[64];
	int dev, rc;
	pid_t pid;

	fuse.state = mmap(NULL, sizeof(*fuse.state), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (dev < 0 || fuse.state == MAP_FAILED || !mkdtemp(dir))
		return -errno;
	snprintf(text, sizeof(text), "fd=%d,rootmode=40000,user_id=0,group_id=0",
		 dev);
	rc = mount("gate", dir, "fuse", MS_NOSUID | MS_NODEV, text) ? -errno : 0;
	if (!rc) {
		pid = fork();
		if (!pid) {
			fuse_serve(dev, fuse.state);
			_exit(0);
		}
		snprintf(text, sizeof(text), "%s/gate", dir);
		fuse.file = open(text, O_RDWR | O_CLOEXEC);
		if (fuse.file < 0)
			rc = -errno;
		/* It exits with the file. */
		umount2(dir, MNT_DETACH);
	}
	close(dev);
	rmdir(dir);
	return rc;
}

static inline int gate_make_fuse(struct gate *g)
{
	int rc = fuse.file ? 0 : fuse_start();

	memset(g, 0, sizeof(*g));
	g->fuse = true;
	g->mem = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rc || g->mem == MAP_FAILED)
		return rc ?: -errno;
	g->content = fuse.state->content;
	memset(g->content, 0, PAGE);
	if (mmap(gate_page(g), PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, fuse.file,
		 fuse.next_page++ * PAGE) == MAP_FAILED)
		return -errno;
	/* Do not read any other page. */
	return madvise(gate_page(g), PAGE, MADV_RANDOM) ? -errno : 0;
}

/* ---- both ---------------------------------------------------------------- */

/* Close it for reads or, if PROTECTED (not with FUSE), for writes only */
static inline int gate_close(struct gate *g, bool protected)
{
	g->protected = protected;
	if (g->fuse) {
		fuse.state->reached = false;
		__atomic_store_n(&fuse.state->closed, true, __ATOMIC_RELEASE);
		return 0;
	}
	return protected ? uffd_fill(g) ?: uffd_protect(g, true) : 0;
}

/* Does a task wait at it? */
static inline bool gate_reached(struct gate *g)
{
	struct uffd_msg msg;

	if (g->fuse)
		return __atomic_load_n(&fuse.state->reached, __ATOMIC_ACQUIRE);
	return read(g->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	       msg.event == UFFD_EVENT_PAGEFAULT;
}

static inline int gate_open(struct gate *g)
{
	if (!g->fuse)
		return g->protected ? uffd_protect(g, false) : uffd_fill(g);
	__atomic_store_n(&fuse.state->closed, false, __ATOMIC_RELEASE);
	return 0;
}

#endif
