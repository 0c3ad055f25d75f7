// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operations of iommufd_model on memory: areas of IOVA and what they map, and
 * accesses to it.
 */
#define _GNU_SOURCE
#include <linux/vfio.h>

#include "iommufd_model.h"

#define ALL_FLAGS (IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE | \
		   IOMMU_IOAS_MAP_WRITEABLE)

/* ---- records ------------------------------------------------------------- */

static u64 *seen_of(unsigned int ioas, unsigned int place, unsigned int page)
{
	return &w->seen[ioas][place * AREA_PAGES + page];
}

/* PAGES pages are mapped there, from PAGE of SOURCE on. */
static void note_mapped(unsigned int ioas, unsigned int place,
			unsigned int first, unsigned int pages,
			enum source source, unsigned int page)
{
	static const u64 tags[SOURCES] = {
		[TRUNCATED] = SEEN_TRUNCATED,
		[VANISHING] = SEEN_VANISHING,
		[DMABUF] = SEEN_DMABUF,
	};
	unsigned int i;

	if (ioas >= STAYING)
		return;
	add(&w->balance[ioas], pages * PAGE);
	for (i = 0; i < pages; i++)
		__atomic_fetch_or(seen_of(ioas, place, first + i),
				  tags[source] ?: 1ULL << (page + i),
				  __ATOMIC_RELAXED);
}

static void note_unknown(unsigned int ioas)
{
	if (ioas < STAYING)
		set(&w->unknown[ioas], true);
}

/*
 * While a call maps or unmaps at a place, another UNMAP there may return EBUSY.
 */
static void begin_at(unsigned int ioas, unsigned int place)
{
	if (ioas < STAYING)
		depend(DEP_PLACE(ioas, place));
}

static void end_at(unsigned int ioas, unsigned int place)
{
	if (ioas < STAYING)
		undepend(DEP_PLACE(ioas, place));
}

/* ---- areas --------------------------------------------------------------- */

static int map_call(enum how how, u32 ioas, enum source source,
		    unsigned int page, u64 length, u64 iova)
{
	struct iommu_ioas_map_file file = {
		.size = sizeof(file),
		.flags = ALL_FLAGS,
		.ioas_id = ioas,
		.fd = source == BY_FILE ? w->file : w->truncated,
		.start = page * PAGE,
		.length = length,
		.iova = iova,
	};
	struct iommu_ioas_map map = {
		.size = sizeof(map),
		.flags = ALL_FLAGS,
		.ioas_id = ioas,
		.user_va = (uintptr_t)((source == BY_ADDRESS ?
					w->mem : w->vanishing) + page * PAGE),
		.length = length,
		.iova = iova,
	};

	if (source == BY_ADDRESS || source == VANISHING)
		return call_how(how, IOMMU_IOAS_MAP, &map, sizeof(map));
	if (source == DMABUF) {
		file.fd = get(&w->dmabuf[page % 2]);
		file.start = page / 2 % 2 * PAGE;
	}
	return call_how(how, IOMMU_IOAS_MAP_FILE, &file, sizeof(file));
}

int op_map(const u8 *arg, enum how how)
{
	unsigned int ioas = arg[0], place = arg[1], first = arg[2];
	unsigned int pages = arg[3] < AREA_PAGES - first ?
			     arg[3] + 1 : AREA_PAGES - first;
	unsigned int page = arg[5] + pages > PAGES ? PAGES - pages : arg[5];
	enum source source = arg[4];
	u32 id = ioas_of(ioas);
	int rc;

	if (is_plan(PLAN_FILES))
		source = source == VANISHING ? TRUNCATED :
			 source == TRUNCATED ? TRUNCATED : BY_FILE;
	if (!id)
		return -ENOENT;
	begin_at(ioas, place);
	rc = JUDGE("MAP", how,
		   map_call(how, id, source, page, pages * PAGE,
			    iova_of(place, first)), EEXIST,
		   ioas >= STAYING ? ENOENT : EEXIST,
		   ioas >= STAYING || source >= TRUNCATED ? EINVAL : EEXIST,
		   source == TRUNCATED || source == VANISHING ? EFAULT : EEXIST,
		   source == DMABUF ? ENODEV : EEXIST,
		   source == DMABUF ? EBADF : EEXIST);
	if (!rc)
		note_mapped(ioas, place, first, pages, source, page);
	if (rc == -EFAULT && how != PLAIN && ioas < STAYING) {
		/* The memory is mapped if only copying the response failed. */
		note_mapped(ioas, place, first, pages, source, page);
		note_unknown(ioas);
	}
	end_at(ioas, place);
	return rc;
}

/* Map at an IOVA that the kernel chooses, and unmap again. */
int op_map_any(const u8 *arg, enum how how)
{
	unsigned int ioas = arg[0], place, page, first, i;
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = ALL_FLAGS & ~IOMMU_IOAS_MAP_FIXED_IOVA,
		.ioas_id = w->ioas[ioas],
		.fd = w->file,
		.length = AREA_PAGES * PAGE,
	};
	int rc;

	page = arg[1] + AREA_PAGES > PAGES ? PAGES - AREA_PAGES : arg[1];
	cmd.start = page * PAGE;
	depend(DEP_CHOSEN);
	for (i = 0; i < ALL_PLACES; i++)
		begin_at(ioas, i);
	rc = JUDGE("MAP anywhere", PLAIN,
		   call(w->fd, IOMMU_IOAS_MAP_FILE, &cmd));
	if (!rc) {
		add(&w->balance[ioas], cmd.length);
		place = (cmd.iova - MOCK_APERTURE_START) / PAGE / PLACE_PAGES;
		first = (cmd.iova - MOCK_APERTURE_START) / PAGE % PLACE_PAGES;
		for (i = 0; i < AREA_PAGES; i++)
			if (cmd.iova >= MOCK_APERTURE_START && place < PLACES &&
			    first + i < AREA_PAGES)
				__atomic_fetch_or(seen_of(ioas, place,
							  first + i),
						  1ULL << (page + i),
						  __ATOMIC_RELAXED);
		rc = JUDGE("UNMAP of an IOVA that was chosen", PLAIN,
			   do_unmap(w->fd, w->ioas[ioas], cmd.iova,
				    cmd.length), ENOENT, EBUSY);
		if (!rc)
			add(&w->balance[ioas], -cmd.length);
		else
			set(&w->stray[ioas], true);
	}
	if (w->stray[ioas])
		note_unknown(ioas);
	undepend(DEP_CHOSEN);
	for (i = 0; i < ALL_PLACES; i++)
		end_at(ioas, i);
	return rc;
}

int op_type1_map(const u8 *arg, enum how how)
{
	unsigned int place = arg[0], first = arg[1];
	unsigned int pages = arg[2] < AREA_PAGES - first ?
			     arg[2] + 1 : AREA_PAGES - first;
	unsigned int page = arg[3] + pages > PAGES ? PAGES - pages : arg[3];
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)(w->mem + page * PAGE),
		.iova = iova_of(place, first),
		.size = pages * PAGE,
	};
	int rc;

	begin_at(0, place);
	rc = JUDGE("VFIO_IOMMU_MAP_DMA", how,
		   call_how(how, VFIO_IOMMU_MAP_DMA, &map, sizeof(map)),
		   EEXIST);
	if (!rc)
		note_mapped(0, place, first, pages, BY_ADDRESS, page);
	end_at(0, place);
	return rc;
}

/* A type1 unmap, which splits areas. */
int op_type1_unmap(const u8 *arg, enum how how)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.flags = arg[3] ? 0 : VFIO_DMA_UNMAP_FLAG_ALL,
		.iova = arg[3] ? iova_of(arg[0], arg[1]) : 0,
		.size = arg[3] ? (arg[2] + 1) * PAGE : 0,
	};
	unsigned int place = arg[0], i;
	int rc;

	for (i = 0; i < ALL_PLACES; i++)
		if (i == place || !arg[3])
			begin_at(0, i);
	/* Areas that an access has pinned, and dma-bufs, cannot be split. */
	rc = JUDGE("VFIO_IOMMU_UNMAP_DMA", how,
		   call_how(how, VFIO_IOMMU_UNMAP_DMA, &unmap, sizeof(unmap)),
		   EINVAL, EBUSY, ENOENT, EOPNOTSUPP);
	if (!rc)
		add(&w->balance[0], -unmap.size);
	else
		note_unknown(0);
	if (!rc && arg[3] && unmap.size > (arg[2] + 1) * PAGE)
		broken(UNMAPPED, "VFIO_IOMMU_UNMAP_DMA of %u pages reports %llu bytes",
		       arg[2] + 1, unmap.size);
	for (i = 0; i < ALL_PLACES; i++)
		if (i == place || !arg[3])
			end_at(0, i);
	return rc;
}

int op_copy(const u8 *arg, enum how how)
{
	unsigned int from = arg[0], to = arg[2], first = arg[4];
	unsigned int pages = arg[5] < AREA_PAGES - first ?
			     arg[5] + 1 : AREA_PAGES - first;
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd),
		.flags = ALL_FLAGS,
		.dst_ioas_id = ioas_of(to),
		.src_ioas_id = ioas_of(from),
		.length = pages * PAGE,
		.dst_iova = iova_of(arg[3], first),
		.src_iova = iova_of(arg[1], first),
	};
	struct copied *copied;
	int rc;

	if (!cmd.dst_ioas_id || !cmd.src_ioas_id)
		return -ENOENT;
	begin_at(to, arg[3]);
	/* The source may have been unmapped when its pages are pinned. */
	rc = JUDGE("COPY", how,
		   call_how(how, IOMMU_IOAS_COPY, &cmd, sizeof(cmd)), EEXIST,
		   ENOENT, EFAULT, EINVAL, ENODEV);
	if ((!rc || (rc == -EFAULT && how != PLAIN)) && to < STAYING) {
		copied = &w->copies[add(&w->nr_copies, 1) - 1];
		/*
		 * If the source is not one of the STAYING, its content is
		 * unknown.
		 */
		*copied = (struct copied){
			from, to, arg[1] * AREA_PAGES + first,
			arg[3] * AREA_PAGES + first, pages,
		};
		add(&w->balance[to], cmd.length);
	}
	if (rc == -EFAULT && how != PLAIN)
		note_unknown(to);
	end_at(to, arg[3]);
	return rc;
}

/*
 * The number of calls in progress at the places FROM to LAST; in *EVER, the
 * number that there have been.
 */
static u32 users_at(unsigned int ioas, unsigned int from, unsigned int last,
		    u32 *ever)
{
	unsigned int place;
	u32 users = 0;

	*ever = 0;
	for (place = from; place <= last; place++) {
		*ever += get(&w->deps[DEP_PLACE(ioas, place)].ever);
		users += get(&w->deps[DEP_PLACE(ioas, place)].now);
	}
	return users;
}

int op_unmap(const u8 *arg, enum how how)
{
	unsigned int ioas = arg[0], place = arg[1], first = arg[2];
	unsigned int pages = arg[3] < AREA_PAGES - first ?
			     arg[3] + 1 : AREA_PAGES - first;
	bool all = arg[4] == 0, whole = arg[4] > 2;
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas_of(ioas),
		.iova = all ? 0 : iova_of(place, whole ? 0 : first),
		.length = all ? UINT64_MAX :
			  (whole ? AREA_PAGES : pages) * PAGE,
	};
	unsigned int from = all ? 0 : place, i;
	unsigned int last = all ? ALL_PLACES - 1 : place;
	u32 others, ever, later, chosen = get(&w->deps[DEP_CHOSEN].ever);
	u64 asked = cmd.length;
	int rc;

	if (!cmd.ioas_id)
		return -ENOENT;
	if (ioas >= STAYING)
		return JUDGE("UNMAP", how,
			     call_how(how, IOMMU_IOAS_UNMAP, &cmd,
				      sizeof(cmd)), ENOENT, EBUSY, EINVAL);
	for (i = from; i <= last; i++)
		begin_at(ioas, i);
	others = users_at(ioas, from, last, &ever) - (last - from + 1);
	rc = JUDGE("UNMAP", how,
		   call_how(how, IOMMU_IOAS_UNMAP, &cmd, sizeof(cmd)), ENOENT,
		   EBUSY);
	users_at(ioas, from, last, &later);
	if (rc == -EBUSY && !others && later == ever && !on_c)
		broken(BUSY, "UNMAP of areas that nothing uses: EBUSY");
	if (!rc) {
		add(&w->balance[ioas], -cmd.length);
		if (!all && (!cmd.length || cmd.length > asked))
			broken(UNMAPPED, "UNMAP of %lu bytes reports %llu",
			       asked, cmd.length);
	} else if (rc != -ENOENT || !whole || get(&w->stray[ioas]) ||
		   get(&w->deps[DEP_CHOSEN].now) ||
		   get(&w->deps[DEP_CHOSEN].ever) != chosen) {
		/*
		 * Areas before the one that could not be unmapped were
		 * unmapped.
		 */
		note_unknown(ioas);
	}
	for (i = from; i <= last; i++)
		end_at(ioas, i);
	return rc;
}

int copy_long(unsigned int ioas, unsigned int place)
{
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd),
		.flags = ALL_FLAGS,
		.dst_ioas_id = w->ioas[ioas],
		.src_ioas_id = w->long_ioas,
		.length = LONG_PAGES * PAGE,
		.dst_iova = long_iova(place),
		.src_iova = long_iova(0),
	};

	return call(w->fd, IOMMU_IOAS_COPY, &cmd);
}

/*
 * All long areas map the same pages, also at the same IOVA in several IOASes.
 */
int op_long_copy(const u8 *arg, enum how how)
{
	unsigned int ioas = arg[0], place = arg[1];
	int rc;

	begin_at(ioas, PLACES + place);
	rc = JUDGE("COPY of a long area", PLAIN, copy_long(ioas, place),
		   EEXIST);
	if (!rc)
		add(&w->balance[ioas], LONG_PAGES * PAGE);
	end_at(ioas, PLACES + place);
	return rc;
}

int op_long_unmap(const u8 *arg, enum how how)
{
	unsigned int ioas = arg[0], place = PLACES + arg[1];
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = w->ioas[ioas],
		.iova = long_iova(arg[1]),
		.length = LONG_PAGES * PAGE,
	};
	u32 others, ever, later;
	int rc;

	begin_at(ioas, place);
	others = users_at(ioas, place, place, &ever) - 1;
	rc = JUDGE("UNMAP of a long area", PLAIN,
		   call(w->fd, IOMMU_IOAS_UNMAP, &cmd), ENOENT, EBUSY);
	users_at(ioas, place, place, &later);
	if (rc == -EBUSY && !others && later == ever && !on_c)
		broken(BUSY, "UNMAP of a long area that nothing uses: EBUSY");
	if (!rc)
		add(&w->balance[ioas], -cmd.length);
	if (!rc && cmd.length != LONG_PAGES * PAGE && !get(&w->stray[ioas]) &&
	    !get(&w->deps[DEP_CHOSEN].ever))
		broken(UNMAPPED, "UNMAP of a long area reports %llu bytes",
		       cmd.length);
	end_at(ioas, place);
	return rc;
}

/* ---- vanishing memory ---------------------------------------------------- */

int op_vanish(const u8 *arg, enum how how)
{
	unsigned int page = arg[0], pages = arg[1] + 1;
	void *at = w->vanishing + page * PAGE;

	if (page + pages > PAGES)
		pages = PAGES - page;
	switch (arg[2]) {
	case 0:
		return madvise(at, pages * PAGE, MADV_DONTNEED) ? -errno : 0;
	case 1:
		return mprotect(at, pages * PAGE, PROT_READ) ? -errno : 0;
	case 2:
		return mmap(at, pages * PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
			    0) == MAP_FAILED ? -errno : 0;
	default:
		return mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_FIXED, w->template,
			    page * PAGE) == MAP_FAILED ? -errno : 0;
	}
}

static int write_truncated(unsigned int page)
{
	unsigned char content[PAGE] = {};

	fill_page(content, number_of(SEEN_TRUNCATED, page));
	return pwrite(w->truncated, content, PAGE, page * PAGE) == PAGE ?
	       0 : -errno;
}

int op_truncate(const u8 *arg, enum how how)
{
	unsigned int page = arg[0];

	switch (arg[1]) {
	case 0:
		/* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */
		return fallocate(w->truncated, 3, page * PAGE, 2 * PAGE) ?
		       -errno : 0;
	case 1:
		return ftruncate(w->truncated, page * PAGE) ? -errno : 0;
	default:
		return ftruncate(w->truncated, PAGES * PAGE) ? -errno :
		       write_truncated(page);
	}
}

void restore_memory(void)
{
	unsigned int i;

	if (mmap(w->vanishing, PAGES * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED, w->template, 0) == MAP_FAILED ||
	    ftruncate(w->truncated, PAGES * PAGE))
		broken(ENDS, "memory cannot be restored: %s", strerror(errno));
	for (i = 0; i < PAGES; i++)
		if (write_truncated(i))
			broken(ENDS, "memory cannot be written: %s",
			       strerror(errno));
}

int op_dmabuf(const u8 *arg, enum how how)
{
	int fd = do_dmabuf_get(w->fd, (arg[1] + 1) * PAGE);

	if (fd < 0)
		return judge("DMABUF_GET", PLAIN, fd, 0);
	close(__atomic_exchange_n(&w->dmabuf[arg[0]], fd, __ATOMIC_ACQ_REL));
	return 0;
}

int op_revoke(const u8 *arg, enum how how)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DMABUF_REVOKE,
		.dmabuf_revoke = {
			.dmabuf_fd = get(&w->dmabuf[arg[0]]),
			.revoked = arg[1],
		},
	};

	/* It may have been closed, and its number be that of another file. */
	return JUDGE("DMABUF_REVOKE", how, test_how(how, &cmd), EBADF, EINVAL);
}

/* ---- accesses ------------------------------------------------------------ */

/* Unpin the pages in the slot, or pin if it is empty. */
int op_pin(const u8 *arg, enum how how)
{
	u32 *slot = &w->pins[arg[0]][arg[1]], id = take(slot);
	unsigned int first = arg[3];
	unsigned int pages = arg[4] < AREA_PAGES - first ?
			     arg[4] + 1 : AREA_PAGES - first;
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_PAGES,
		.id = w->access[arg[0]],
		.access_pages = {
			.flags = arg[5] ? MOCK_FLAGS_ACCESS_WRITE : 0,
			.iova = iova_of(arg[2], first),
			.length = pages * PAGE,
		},
	};
	int rc;

	/* ENOENT: they were unpinned because of an UNMAP. */
	if (id)
		return JUDGE("unpin", PLAIN,
			     do_access_unpin(w->fd, w->access[arg[0]], id - 1),
			     ENOENT);
	/* EBUSY: it is being unmapped. */
	rc = JUDGE("pin", how, test_how(how, &cmd), ENOENT, EINVAL, EFAULT,
		   EBUSY);
	if (rc)
		return rc;
	id = cmd.access_pages.out_access_pages_id;
	if (!give(slot, id + 1))
		JUDGE("unpin", PLAIN,
		      do_access_unpin(w->fd, w->access[arg[0]], id), ENOENT);
	return 0;
}

/* Check that the words are those of a page that can be mapped. */
static void check_read(const u32 *words)
{
	u32 number = words[0], i;

	/* A page of the truncated file: zero, or being written */
	if (!number || number - number_of(SEEN_TRUNCATED, 0) < PAGES)
		return;
	if (number - number_of(0, 0) >= PAGES &&
	    number - number_of(SEEN_VANISHING, 0) >= PAGES) {
		broken(CONTENT, "an access reads a page that begins with %x",
		       number);
		return;
	}
	for (i = 1; i < PAGE / sizeof(u32) - 1; i++)
		if (words[i] != number + i * 0x10000) {
			broken(CONTENT, "byte %lu of page %x is %x",
			       i * sizeof(u32), number, words[i]);
			return;
		}
}

int op_rw(const u8 *arg, enum how how)
{
	u32 words[PAGE / sizeof(u32)] = { 0x5a5a5a5a };
	bool write = arg[3];
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.id = w->access[arg[0]],
		.access_rw = {
			.iova = iova_of(arg[1], arg[2]),
			.length = PAGE,
			.uptr = (uintptr_t)(how == SEALED && !write ?
					    (void *)w->sealed[self] : words),
			.flags = (write ? MOCK_ACCESS_RW_WRITE : 0) |
				 (arg[4] ? MOCK_ACCESS_RW_SLOW_PATH : 0),
		},
	};
	int rc;

	if (write) {
		/* Only the last word of a page may be written. */
		cmd.access_rw.iova += PAGE - sizeof(u32);
		cmd.access_rw.length = sizeof(u32);
	}
	rc = JUDGE("read or write", how, test_how(how, &cmd), ENOENT, EINVAL,
		   EFAULT, EBUSY);
	if (!rc && !write && how != SEALED)
		check_read(words);
	return rc;
}

int op_access(const u8 *arg, enum how how)
{
	u32 id = ioas_of(arg[1]);
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
		.id = w->access[arg[0]],
		.access_replace_ioas.ioas_id = id,
	};
	int rc;

	if (!id)
		return -ENOENT;
	depend(id);
	rc = JUDGE("access to another IOAS", how, test_how(how, &cmd), ENOENT);
	if (rc)
		undepend(id);
	else
		depend_loosely(id);
	return rc;
}

int op_new_access(const u8 *arg, enum how how)
{
	u32 id = ioas_of(arg[0]);
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = id,
		.create_access.flags = arg[1] ?
			MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES : 0,
	};
	bool fails = how == SEALED || how == SPLIT;
	int rc;

	if (!id)
		return -ENOENT;
	if (!fails)
		depend(id);
	rc = JUDGE("access", how, test_how(how, &cmd), ENOENT);
	if (!rc && fails)
		broken(ANSWER, "an access is made without an answer");
	if (!rc)
		close(cmd.create_access.out_access_fd);
	if (!fails)
		undepend(id);
	return rc;
}

/* ---- dirty tracking ------------------------------------------------------ */

int op_track(const u8 *arg, enum how how)
{
	struct iommu_hwpt_set_dirty_tracking cmd = {
		.size = sizeof(cmd),
		.flags = arg[1] ? IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0,
		.hwpt_id = get(&w->objects[HWPT][arg[0]]),
	};

	if (!cmd.hwpt_id)
		return -ENOENT;
	/* HWPTs without dirty tracking refuse it. */
	return JUDGE("SET_DIRTY_TRACKING", how,
		     call_how(how, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd,
			      sizeof(cmd)), ENOENT, EOPNOTSUPP, EINVAL);
}

int op_dirty(const u8 *arg, enum how how)
{
	u64 bits[2] = { 0xf };
	u32 hwpt = get(&w->objects[HWPT][arg[0]]);
	struct iommu_test_cmd mark = {
		.op = IOMMU_TEST_OP_DIRTY,
		.id = hwpt,
		.dirty = {
			.iova = iova_of(arg[1], 0),
			.length = AREA_PAGES * PAGE,
			.page_size = PAGE,
			.uptr = (uintptr_t)bits,
		},
	};
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = hwpt,
		.flags = arg[2] ? 0 : IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
		.iova = iova_of(arg[1], 0),
		.length = AREA_PAGES * PAGE,
		.page_size = PAGE,
		.data = (uintptr_t)bits,
	};

	if (!hwpt)
		return -ENOENT;
	JUDGE("mark dirty", how, test_how(how, &mark), ENOENT, EINVAL);
	bits[0] = 0;
	/* The whole range has to be mapped. */
	return JUDGE("GET_DIRTY_BITMAP", how,
		     call_how(how, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd,
			      sizeof(cmd)), ENOENT, EINVAL, EOPNOTSUPP);
}

/* ---- commands of an IOAS ------------------------------------------------- */

int op_change_process(const u8 *arg, enum how how)
{
	/*
	 * All mappings must be of files, and no call may be mapping or
	 * unmapping.
	 */
	return JUDGE("CHANGE_PROCESS", PLAIN, do_change_process(w->fd),
		     is_plan(PLAN_FILES) ? EBUSY : EINVAL, EBUSY);
}

int op_ranges(const u8 *arg, enum how how)
{
	struct iommu_iova_range ranges[8];
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas_of(arg[0]),
		.num_iovas = ARRAY_SIZE(ranges),
		.allowed_iovas = (uintptr_t)ranges,
	};

	if (!cmd.ioas_id)
		return -ENOENT;
	return JUDGE("IOVA_RANGES", how,
		     call_how(how, IOMMU_IOAS_IOVA_RANGES, &cmd, sizeof(cmd)),
		     arg[0] < STAYING ? 0 : ENOENT);
}

int op_allow(const u8 *arg, enum how how)
{
	struct iommu_iova_range ranges[2] = {
		{ MOCK_APERTURE_START, iova_of(1, 0) - 1 },
		{ iova_of(1, 0), MOCK_APERTURE_LAST },
	};
	struct iommu_ioas_allow_iovas cmd = {
		.size = sizeof(cmd),
		.ioas_id = get(&w->objects[IOAS][arg[0]]),
		.num_iovas = arg[1],
		.allowed_iovas = (uintptr_t)ranges,
	};

	if (!cmd.ioas_id)
		return -ENOENT;
	return JUDGE("ALLOW_IOVAS", how,
		     call_how(how, IOMMU_IOAS_ALLOW_IOVAS, &cmd, sizeof(cmd)),
		     ENOENT);
}

int op_option(const u8 *arg, enum how how)
{
	struct iommu_option cmd = {
		.size = sizeof(cmd),
		.option_id = IOMMU_OPTION_HUGE_PAGES,
		.op = arg[1] ? IOMMU_OPTION_OP_SET : IOMMU_OPTION_OP_GET,
		.object_id = get(&w->objects[IOAS][arg[0]]),
		.val64 = arg[1] == 1,
	};

	if (!cmd.object_id)
		return -ENOENT;
	/*
	 * EINVAL: an area is not aligned to large pages, or is mapped with
	 * them.
	 */
	return JUDGE("OPTION", how,
		     call_how(how, IOMMU_OPTION, &cmd, sizeof(cmd)), ENOENT,
		     arg[1] ? EINVAL : ENOENT);
}
