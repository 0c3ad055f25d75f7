/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory that answers when it is told to: a page at which whoever touches it
 * waits until the gate is opened. Of userfaultfd (a page that is missing, or that
 * is write-protected), or of a file of FUSE (a page that is not read yet). Any
 * user can have either.
 */
#ifndef __IOMMUFD_GATE_H
#define __IOMMUFD_GATE_H

#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <linux/fuse.h>
#include <linux/userfaultfd.h>

#include "iommufd_stress.h"

struct gate {
	/* Two pages; what is behind the gate is the second one. */
	unsigned char *mem;
	/* The content of that, once it is open. */
	unsigned char *content;
	/* As it is armed; closed until gate_open(). */
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

/* Each page of its one file is another gate; this one is the next. */
struct fuse_server {
	int dev, file;
	char dir[32];
	u64 next_page;
	/* What was asked for while the gate was closed, or 0. */
	u64 waiting;
	size_t waiting_size;
	pthread_mutex_t lock;
	bool open;
	const unsigned char *content;
};

#define FUSE_PAGES 4096

extern struct fuse_server fuse;

static inline void fuse_reply(u64 unique, int error, const void *data,
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

	memcpy(out.data, data, size);
	/* Who asked may be gone. */
	if (write(fuse.dev, &out, out.head.len) < 0)
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

static inline void fuse_read(u64 unique, const struct fuse_read_in *in)
{
	static const unsigned char zeros[PAGE];
	size_t size = in->size < PAGE ? in->size : PAGE;

	pthread_mutex_lock(&fuse.lock);
	if (fuse.content && !fuse.open) {
		fuse.waiting_size = size;
		__atomic_store_n(&fuse.waiting, unique, __ATOMIC_RELEASE);
	} else {
		fuse_reply(unique, 0, fuse.content ?: zeros, size);
	}
	pthread_mutex_unlock(&fuse.lock);
}

static inline void *fuse_serve(void *arg)
{
	union {
		struct fuse_in_header head;
		unsigned char bytes[FUSE_MIN_READ_BUFFER + 2 * PAGE];
	} *in = malloc(sizeof(*in));
	struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_write = PAGE,
	};
	struct fuse_entry_out entry = {};
	struct fuse_attr_out attr = {};
	struct fuse_open_out opened = { .fh = 1 };
	void *body = in + 0;

	body += sizeof(in->head);
	while (read(fuse.dev, in, sizeof(*in)) > 0) {
		u64 unique = in->head.unique;

		switch (in->head.opcode) {
		case FUSE_INIT:
			fuse_reply(unique, 0, &init, sizeof(init));
			break;
		case FUSE_LOOKUP:
			entry.nodeid = FUSE_ROOT_ID + 1;
			fuse_attributes(&entry.attr, entry.nodeid);
			fuse_reply(unique, 0, &entry, sizeof(entry));
			break;
		case FUSE_GETATTR:
			fuse_attributes(&attr.attr, in->head.nodeid);
			fuse_reply(unique, 0, &attr, sizeof(attr));
			break;
		case FUSE_OPEN:
			fuse_reply(unique, 0, &opened, sizeof(opened));
			break;
		case FUSE_READ:
			fuse_read(unique, body);
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		case FUSE_FLUSH:
		case FUSE_RELEASE:
		case FUSE_DESTROY:
			fuse_reply(unique, 0, NULL, 0);
			break;
		default:
			fuse_reply(unique, -ENOSYS, NULL, 0);
		}
	}
	return arg;
}

/* Of this process alone, which root may mount and anybody may by fusermount. */
static inline int fuse_start(void)
{
	char options[64], path[64];
	pthread_t thread;

	pthread_mutex_init(&fuse.lock, NULL);
	fuse.dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse.dev < 0)
		return -errno;
	strcpy(fuse.dir, "/tmp/iommufd-gate-XXXXXX");
	if (!mkdtemp(fuse.dir))
		return -errno;
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.dev);
	if (mount("gate", fuse.dir, "fuse", MS_NOSUID | MS_NODEV, options))
		return -errno;
	pthread_create(&thread, NULL, fuse_serve, NULL);
	snprintf(path, sizeof(path), "%s/gate", fuse.dir);
	fuse.file = open(path, O_RDWR | O_CLOEXEC);
	/* The mount lives as long as the file does. */
	umount2(fuse.dir, MNT_DETACH);
	rmdir(fuse.dir);
	return fuse.file < 0 ? -errno : 0;
}

static inline int gate_make_fuse(struct gate *g)
{
	int rc = fuse.file ? 0 : fuse_start();

	memset(g, 0, sizeof(*g));
	g->fuse = true;
	g->content = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g->mem = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rc || g->content == MAP_FAILED || g->mem == MAP_FAILED)
		return rc ?: -errno;
	if (mmap(gate_page(g), PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, fuse.file,
		 fuse.next_page++ * PAGE) == MAP_FAILED)
		return -errno;
	/* No other pages with it, nor before it. */
	return madvise(gate_page(g), PAGE, MADV_RANDOM) ? -errno : 0;
}

/* ---- both ---------------------------------------------------------------- */

/* Close it, on who reads or, if PROTECTED (no FUSE), on who writes only. */
static inline int gate_close(struct gate *g, bool protected)
{
	g->protected = protected;
	if (g->fuse) {
		fuse.content = g->content;
		return 0;
	}
	return protected ? uffd_fill(g) ?: uffd_protect(g, true) : 0;
}

/* Does somebody wait at it? */
static inline bool gate_reached(struct gate *g)
{
	struct uffd_msg msg;

	if (g->fuse)
		return __atomic_load_n(&fuse.waiting, __ATOMIC_ACQUIRE);
	return read(g->uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	       msg.event == UFFD_EVENT_PAGEFAULT;
}

static inline int gate_open(struct gate *g)
{
	if (!g->fuse)
		return g->protected ? uffd_protect(g, false) : uffd_fill(g);
	pthread_mutex_lock(&fuse.lock);
	fuse.open = true;
	if (fuse.waiting)
		fuse_reply(fuse.waiting, 0, g->content, fuse.waiting_size);
	fuse.waiting = 0;
	pthread_mutex_unlock(&fuse.lock);
	return 0;
}

#endif
