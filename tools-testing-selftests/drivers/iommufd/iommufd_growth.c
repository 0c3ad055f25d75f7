// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test how cost and memory grow with the number of objects.
 *
 * - cost: an operation is timed beside n objects and beside 8n, in one run. The
 *   ratio of the two must be small; each is the least of several tries.
 * - many: no number that user space chooses makes a valid call fail, even
 *   beyond the largest kmalloc().
 * - charged: memory of objects that user space can create in any number is
 *   charged to its memory cgroup.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <linux/vfio.h>

#include "iommufd_kinds.h"

double budget;

#define IOVA_BASE MOCK_APERTURE_START

/* ---- cost ---------------------------------------------------------------- */

#define TIMES_MORE 8
/*
 * The least of several tries is the cost without disturbance by other load. A
 * cost that grows with the number of objects does so in each try.
 *
 * The limit of the ratio of n to 8n objects: linear growth is eight, a tree is
 * little more than one, and a busy machine is less than two.
 */
#define RATIO_LIMIT 3.0
#define TRIES_MIN 2
#define TRIES_MAX 12
/* So near to linear growth, more tries do not help */
#define RATIO_HOPELESS 6.0

struct cost {
	/* The smaller number of objects */
	unsigned int n;
	/* Nanoseconds of one operation beside @n objects; negative on error */
	double (*each)(unsigned int n, const void *how);
	const void *how;
};

static bool stays_flat(const void *arg)
{
	const struct cost *cost = arg;
	double few = 0, many = 0, ns;
	unsigned int i;

	for (i = 0; i < TRIES_MAX; i++) {
		ns = cost->each(cost->n, cost->how);
		if (ns <= 0)
			return false;
		few = i && few < ns ? few : ns;
		ns = cost->each(cost->n * TIMES_MORE, cost->how);
		if (ns <= 0)
			return false;
		many = i && many < ns ? many : ns;
		/* Far from the limit: no further tries */
		if (i + 1 >= TRIES_MIN && many < few * RATIO_LIMIT)
			break;
		if (i + 1 >= TRIES_MIN && many > few * RATIO_HOPELESS)
			break;
	}
	ksft_print_msg("%u: %.0f ns each; %u: %.0f ns each; ratio %.2f\n",
		       cost->n, few, cost->n * TIMES_MORE, many, many / few);
	return many < few * RATIO_LIMIT;
}

static double failed(int rc, const char *what)
{
	must(rc ?: -EINVAL, what);
	return -1;
}

/* Areas of one page that is copied many times */
struct same_page {
	/* Created in descending order */
	bool down;
	/* A second HWPT of the IOAS, whose destruction is timed */
	bool second_goes;
	/* ... or whose creation */
	bool second_comes;
	/* ... or which stays */
	bool second;
	/* The copies are unmapped one by one */
	bool one_by_one;
};

static double same_page(unsigned int n, const void *how)
{
	const struct same_page *what = how;
	bool second = what->second || what->second_goes;
	void *page = anon(PAGE);
	u32 from = 0, to = 0, hwpt = 0;
	struct mock mock;
	unsigned int i;
	double spent;
	u64 start;
	int fd, rc;

	*(char *)page = 1;
	fd = open_iommufd();
	rc = do_ioas_alloc(fd, &from) ?: do_ioas_alloc(fd, &to) ?:
	     do_mock_device(fd, to, &mock) ?:
	     do_map(fd, from, page, PAGE, IOVA_BASE);
	if (!rc && second)
		rc = do_hwpt_alloc(fd, mock.idev, to, 0, 0, &hwpt);
	for (i = 0; i < n && !rc; i++)
		rc = do_copy(fd, to, IOVA_BASE +
			     (what->down ? n - 1 - i : i) * PAGE, from,
			     IOVA_BASE, PAGE);
	if (rc)
		return failed(rc, "set-up");
	start = now_ns();
	if (what->second_comes)
		rc = do_hwpt_alloc(fd, mock.idev, to, 0, 0, &hwpt);
	else if (what->second_goes)
		rc = do_destroy(fd, hwpt);
	else if (what->one_by_one)
		for (i = 0; i < n && !rc; i++)
			rc = do_unmap(fd, to, IOVA_BASE + i * PAGE, PAGE);
	else
		rc = do_unmap(fd, to, 0, UINT64_MAX);
	spent = now_ns() - start;
	close(fd);
	munmap(page, PAGE);
	return rc ? failed(rc, "what was timed") : spent / n;
}

/* Pins of accesses to one page, with areas or without */
static double same_page_pins(unsigned int n, const void *how)
{
	void *page = anon(PAGE);
	unsigned int i;
	int fd, rc, access;
	double spent;
	u32 ioas, *item;
	u64 start;

	*(char *)page = 1;
	item = calloc(n, sizeof(*item));
	fd = open_iommufd();
	rc = do_ioas_alloc(fd, &ioas) ?:
	     do_map(fd, ioas, page, PAGE, IOVA_BASE) ?:
	     do_access_create(fd, ioas,
			      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
			      &access);
	if (rc || !item)
		return failed(rc, "set-up");
	start = now_ns();
	for (i = 0; i < n && !rc; i++)
		rc = do_access_pin(fd, access, IOVA_BASE, PAGE, 0, &item[i]);
	/* The mock driver has a list of them, the newest last. */
	for (i = 0; i < n && !rc; i++)
		rc = do_access_unpin(fd, access, item[i]);
	spent = now_ns() - start;
	close(access);
	close(fd);
	free(item);
	munmap(page, PAGE);
	return rc ? failed(rc, "pins") : spent / n;
}

/* HWPTs of an IOAS: one more beside n */
static double many_hwpts(unsigned int n, const void *how)
{
	struct mock mock;
	u32 ioas, *id;
	unsigned int i;
	double spent;
	int fd, rc;
	u64 start;

	id = calloc(n, sizeof(*id));
	fd = open_iommufd();
	rc = do_ioas_alloc(fd, &ioas) ?: do_mock_device(fd, ioas, &mock);
	for (i = 0; i < n && !rc; i++)
		rc = do_hwpt_alloc(fd, mock.idev, ioas, 0, 0, &id[i]);
	if (rc || !id)
		return failed(rc, "set-up");
	start = now_ns();
	for (i = 0; i < n && !rc; i++)
		rc = do_destroy(fd, id[i]);
	spent = now_ns() - start;
	close(fd);
	free(id);
	return rc ? failed(rc, "DESTROY") : spent / n;
}

/* In-kernel accesses of an IOAS that are created and destroyed */
static double many_accesses(unsigned int n, const void *how)
{
	unsigned int i;
	int fd, rc, *access;
	double spent;
	u64 start;
	u32 ioas;

	access = calloc(n, sizeof(*access));
	fd = open_iommufd();
	rc = do_ioas_alloc(fd, &ioas);
	if (rc || !access)
		return failed(rc, "set-up");
	start = now_ns();
	for (i = 0; i < n && !rc; i++)
		rc = do_access_create(fd, ioas, 0, &access[i]);
	for (i = 0; i < n; i++)
		close(access[i]);
	spent = now_ns() - start;
	close(fd);
	free(access);
	return rc ? failed(rc, "accesses") : spent / n;
}

/* IOASes, and the change of their process. */
static double change_process(unsigned int n, const void *how)
{
	unsigned int i;
	double spent;
	u64 start;
	int fd, rc = 0;
	u32 ioas;

	fd = open_iommufd();
	for (i = 0; i < n && !rc; i++)
		rc = do_ioas_alloc(fd, &ioas);
	if (rc)
		return failed(rc, "set-up");
	start = now_ns();
	for (i = 0; i < 4 && !rc; i++)
		rc = do_change_process(fd);
	spent = now_ns() - start;
	close(fd);
	return rc ? failed(rc, "CHANGE_PROCESS") : spent / n / 4;
}

/* PASIDs of a device, the last and the first ones */
#define PASIDS_TIMED 256

struct pasids {
	bool detach;
	/* In descending order */
	bool down;
};

static int pasid_device(int fd, u32 *stdev, u32 *hwpt)
{
	struct mock mock = {};
	u32 ioas;
	int rc;

	rc = do_ioas_alloc(fd, &ioas) ?:
	     do_mock_device_with(fd, ioas, MOCK_FLAGS_DEVICE_PASID, &mock);
	*stdev = mock.stdev;
	/*
	 * A device with PASIDs is attached to a HWPT that was created for
	 * PASIDs.
	 */
	return rc ?: do_hwpt_alloc(fd, mock.idev, ioas, IOMMU_HWPT_ALLOC_PASID,
				   0, hwpt) ?:
	       do_replace(fd, *stdev, *hwpt);
}

/* Only with 1024, the mock driver has other plans. */
static u32 pasid_of(unsigned int i)
{
	return 2000 + i;
}

static double many_pasids(unsigned int n, const void *how)
{
	const struct pasids *what = how;
	unsigned int i, first = n - PASIDS_TIMED;
	u32 stdev, hwpt;
	double spent;
	u64 start;
	int fd, rc;

	fd = open_iommufd();
	rc = pasid_device(fd, &stdev, &hwpt);
	for (i = 0; i < first && !rc; i++)
		rc = do_pasid_attach(fd, stdev,
				     pasid_of(what->down ? n - 1 - i : i),
				     hwpt);
	if (rc)
		return failed(rc, "set-up");
	start = now_ns();
	for (; i < n && !rc; i++)
		rc = do_pasid_attach(fd, stdev,
				     pasid_of(what->down ? n - 1 - i : i),
				     hwpt);
	spent = now_ns() - start;
	/* Detach all: the mock driver does not when the device is removed. */
	if (what->detach)
		start = now_ns();
	for (i = 0; i < n && !rc; i++) {
		if (what->detach && i == PASIDS_TIMED)
			spent = now_ns() - start;
		rc = do_pasid_detach(fd, stdev, pasid_of(i));
	}
	close(fd);
	return rc ? failed(rc, "PASIDs") : spent / PASIDS_TIMED;
}

/* Type1 splits pages off an area with n runs of pages behind them. */
#define CUTS 256
#define RUN_PAGES 16UL
#define THP "/sys/kernel/mm/transparent_hugepage/hugepages-"

/* Enable or disable large folios of a size, until it is changed back */
struct thp {
	const char *path;
	char before[16];
};

static bool thp_set(struct thp *thp, const char *path, const char *value)
{
	char text[64] = "", *chosen;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return false;
	close(fd);
	chosen = strchr(text, '[');
	thp->path = path;
	return chosen && sscanf(chosen, "[%15[a-z]", thp->before) == 1 &&
	       write_text(path, value);
}

static double type1_cuts(unsigned int n, const void *how)
{
	size_t length = n * RUN_PAGES * PAGE, i;
	struct iommu_vfio_ioas compat = {
		.size = sizeof(compat),
		.op = IOMMU_VFIO_IOAS_SET,
	};
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.iova = IOVA_BASE,
		.size = length,
	};
	struct thp small, large;
	struct mock mock;
	double spent;
	u64 start;
	char *mem;
	int fd, rc;

	if (!thp_set(&small, THP "64kB/enabled", "madvise") ||
	    !thp_set(&large, THP "2048kB/enabled", "never")) {
		ksft_print_msg("no folios of 64 KiB\n");
		_exit(KSFT_SKIP);
	}
	mem = anon(length + RUN_PAGES * PAGE);
	map.vaddr = ((uintptr_t)mem + RUN_PAGES * PAGE - 1) &
		    -(RUN_PAGES * PAGE);
	madvise((void *)map.vaddr, length, MADV_HUGEPAGE);
	/* In descending order, so that few are contiguous */
	for (i = n; i--;)
		*(char *)(map.vaddr + i * RUN_PAGES * PAGE) = 1;
	write_text(small.path, small.before);
	write_text(large.path, large.before);
	fd = open_iommufd();
	rc = do_ioas_alloc(fd, &compat.ioas_id) ?:
	     call(fd, IOMMU_VFIO_IOAS, &compat);
	if (!rc && ioctl(fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU))
		rc = -errno;
	rc = rc ?: do_mock_device(fd, compat.ioas_id, &mock) ?:
	     call(fd, VFIO_IOMMU_MAP_DMA, &map);
	if (rc)
		return failed(rc, "set-up");
	start = now_ns();
	for (i = 0; i < CUTS && !rc; i++) {
		struct vfio_iommu_type1_dma_unmap cut = {
			.argsz = sizeof(cut),
			.iova = IOVA_BASE + i * PAGE,
			.size = PAGE,
		};

		rc = call(fd, VFIO_IOMMU_UNMAP_DMA, &cut);
		if (!rc && cut.size != PAGE)
			rc = -EIO;
	}
	spent = now_ns() - start;
	close(fd);
	munmap(mem, length + RUN_PAGES * PAGE);
	return rc ? failed(rc, "a cut") : spent / CUTS;
}

/* ---- many ---------------------------------------------------------------- */

/* kmalloc() ends at 4 MiB, which this number of 16-byte entries exceeds. */
#define BEYOND_64 (65536 + 64)
#define BEYOND_128 (32768 + 64)
#define BEYOND_16 (262144 + 64)

static void unlimited(void)
{
	struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &limit);
}

static bool copy_of_many(const void *arg)
{
	void *page = anon(PAGE);
	u32 from = 0, to = 0;
	int fd, rc;
	u64 i;

	unlimited();
	*(char *)page = 1;
	fd = open_iommufd();
	rc = do_ioas_alloc(fd, &from) ?: do_ioas_alloc(fd, &to);
	for (i = 0; i < BEYOND_128 && !rc; i++)
		rc = do_map(fd, from, page, PAGE, IOVA_BASE + i * PAGE);
	if (!must(rc, "MAP"))
		return false;
	rc = do_copy(fd, to, IOVA_BASE, from, IOVA_BASE, i * PAGE);
	must(rc, "one COPY of many areas");
	close(fd);
	return !rc && !vm_pin();
}

static bool many_dmabuf_copies(const void *arg)
{
	struct mock mock;
	u32 from = 0, to = 0;
	int fd, rc, dmabuf;
	u64 i;

	unlimited();
	fd = open_iommufd();
	dmabuf = do_dmabuf_get(fd, PAGE);
	rc = dmabuf < 0 ? dmabuf : 0;
	rc = rc ?: do_ioas_alloc(fd, &from) ?: do_ioas_alloc(fd, &to) ?:
	     do_mock_device(fd, to, &mock) ?:
	     do_map_file(fd, from, dmabuf, 0, PAGE, IOVA_BASE);
	if (!must(rc, "MAP_FILE"))
		return false;
	for (i = 0; i < BEYOND_64 && !rc; i++)
		rc = do_copy(fd, to, IOVA_BASE + i * PAGE, from, IOVA_BASE,
			     PAGE);
	if (rc)
		ksft_print_msg("after %lu copies of a dma-buf:\n", i);
	must(rc, "COPY");
	close(dmabuf);
	close(fd);
	return !rc;
}

static bool many_ioases(const void *arg)
{
	unsigned int i;
	int fd, rc = 0;
	u32 ioas;

	fd = open_iommufd();
	for (i = 0; i < BEYOND_16 && !rc; i++)
		rc = do_ioas_alloc(fd, &ioas);
	if (!must(rc, "IOAS_ALLOC"))
		return false;
	rc = do_change_process(fd);
	must(rc, "CHANGE_PROCESS of many IOASes");
	close(fd);
	return !rc;
}

static bool all_pasids(const void *arg)
{
	u32 stdev, hwpt;
	unsigned int i, done;
	int fd, rc;

	fd = open_iommufd();
	if (!must(pasid_device(fd, &stdev, &hwpt), "set-up"))
		return false;
	for (i = 0, rc = 0; i < BEYOND_64 && !rc; i++)
		rc = do_pasid_attach(fd, stdev, pasid_of(i), hwpt);
	done = i - !!rc;
	if (rc)
		ksft_print_msg("with %u PASIDs attached:\n", done);
	must(rc, "one more");
	for (i = done; i--;)
		if (do_pasid_detach(fd, stdev, pasid_of(i)))
			rc = -EIO;
	close(fd);
	return !rc;
}

/* ---- memory cgroups ------------------------------------------------------ */

/*
 * Memory for objects that user space can create in any number is charged to its
 * cgroup: at least LEAST bytes for each of N. Enforcing the limit is not
 * iommufd's task. The kernel updates the count in steps of up to half a MiB, so
 * N is large enough to exceed that.
 */
struct charge {
	unsigned int n, least;
	int (*each)(unsigned int i);
	/* A device attached to the IOAS */
	bool device;
};

static struct {
	int fd, access;
	u32 ioas, other;
	struct mock mock;
	unsigned char *mem;
} charged;

static int charge_ioas(unsigned int i)
{
	u32 id;

	return do_ioas_alloc(charged.fd, &id);
}

static int charge_area(unsigned int i)
{
	return do_map(charged.fd, charged.ioas, charged.mem, PAGE,
		      IOVA_BASE + (i + 1) * PAGE);
}

static int charge_copy(unsigned int i)
{
	return do_copy(charged.fd, charged.other, IOVA_BASE + i * PAGE,
		       charged.ioas, IOVA_BASE, PAGE);
}

static int charge_hwpt(unsigned int i)
{
	u32 id;

	return do_hwpt_alloc(charged.fd, charged.mock.idev, charged.ioas, 0, 0,
			     &id);
}

static int charge_nested(unsigned int i)
{
	static u32 parent;
	int rc = 0;
	u32 id;

	if (!i)
		rc = do_hwpt_alloc(charged.fd, charged.mock.idev, charged.ioas,
				   IOMMU_HWPT_ALLOC_NEST_PARENT, 0, &parent);
	return rc ?: do_nested_alloc(charged.fd, charged.mock.idev, parent,
				     &id);
}

/* As many pages as there are PFNs to store for an access */
static int charge_pins(unsigned int i)
{
	u64 iova = IOVA_BASE + (1UL << 30);
	u32 item;

	if (!i)
		return do_map(charged.fd, charged.ioas, charged.mem,
			      4096 * PAGE, iova);
	return do_access_pin(charged.fd, charged.access,
			     iova + (i - 1) % 4096 * PAGE, PAGE, 0, &item);
}

static int charge_allowed(unsigned int i)
{
	static struct iommu_iova_range ranges[32768];
	struct iommu_ioas_allow_iovas cmd = {
		.size = sizeof(cmd),
		.ioas_id = charged.other,
		.num_iovas = ARRAY_SIZE(ranges),
		.allowed_iovas = (uintptr_t)ranges,
	};

	ranges[i].start = i * 2 * PAGE;
	ranges[i].last = ranges[i].start + PAGE - 1;
	/* All of them at once */
	return i + 1 < ARRAY_SIZE(ranges) ? 0 :
	       call(charged.fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd);
}

/* Move to a cgroup of its own; skip if there is none. */
static void enter_cgroup(char *dir)
{
	char path[128];

	if (!mkdtemp(dir) || mount("none", dir, "cgroup2", 0, NULL))
		_exit(KSFT_SKIP);
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", dir);
	if (!write_text(path, "+memory"))
		_exit(KSFT_SKIP);
	snprintf(path, sizeof(path), "%s/iommufd", dir);
	if (mkdir(path, 0700) && errno != EEXIST)
		_exit(KSFT_SKIP);
	snprintf(path, sizeof(path), "%s/iommufd/cgroup.procs", dir);
	if (!write_text(path, "0"))
		_exit(KSFT_SKIP);
}

static void leave_cgroup(const char *dir)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	write_text(path, "0");
	snprintf(path, sizeof(path), "%s/iommufd", dir);
	rmdir(path);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
}

static bool is_charged(const void *arg)
{
	char dir[] = "/tmp/iommufd-cgroup-XXXXXX", path[128];
	const struct charge *what = arg;
	long long before, after;
	unsigned int i;
	int rc;

	enter_cgroup(dir);
	snprintf(path, sizeof(path), "%s/iommufd/memory.stat", dir);
	charged.mem = anon(4096 * PAGE);
	memset(charged.mem, 1, 4096 * PAGE);
	charged.fd = open_iommufd();
	rc = do_ioas_alloc(charged.fd, &charged.ioas) ?:
	     do_ioas_alloc(charged.fd, &charged.other) ?:
	     do_map(charged.fd, charged.ioas, charged.mem, PAGE, IOVA_BASE) ?:
	     do_access_create(charged.fd, charged.ioas,
			      MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
			      &charged.access);
	if (!rc && what->device)
		rc = do_mock_device(charged.fd, charged.ioas, &charged.mock);
	before = read_counter(path, "kernel");
	for (i = 0; i < what->n && !rc; i++)
		rc = what->each(i);
	after = read_counter(path, "kernel");
	close(charged.access);
	close(charged.fd);
	leave_cgroup(dir);
	ksft_print_msg("%u of it: %lld bytes on the account, %lld each\n",
		       what->n, after - before, (after - before) / what->n);
	return must(rc, "one of them") && before >= 0 &&
	       after - before >= (long long)what->n * what->least;
}

/* ---- errnos -------------------------------------------------------------- */

/*
 * The end of the memory wraps when it is rounded up to pages. GUP fails when it
 * is asked for the last page. It is asked for this many pages at a time, and
 * the first ones do not exist either.
 */
#define PAGES_AT_A_TIME 8192

static bool address_overflow(const void *arg)
{
	struct mock mock;
	bool ok = true;
	u32 ioas;
	u64 n;
	int fd, rc;

	fd = open_iommufd();
	if (!must(do_ioas_alloc(fd, &ioas) ?: do_mock_device(fd, ioas, &mock),
		  "set-up"))
		return false;
	for (n = 1; n <= 1UL << 14; n++) {
		if (n > 4 && n < 508)
			n = 508;
		else if (n > 516 && n < 8188)
			n = 8188;
		else if (n > 8196)
			n = 1UL << 14;
		rc = do_map(fd, ioas, (void *)-(n * PAGE), n * PAGE - PAGE / 2,
			    IOVA_BASE);
		if (rc == (n <= PAGES_AT_A_TIME ? -EOVERFLOW : -EFAULT))
			continue;
		ksft_print_msg("%lu pages: %s\n", (unsigned long)n,
			       strerror(-rc));
		ok = false;
	}
	close(fd);
	return ok;
}

/* ---- the list ------------------------------------------------------------ */

#define C_LINEAR "looks at each of them"

#define COST(what, c_, n_, each_, ...) \
	{ "cost." what, stays_flat, \
	  &(const struct cost){ n_, each_, __VA_ARGS__ }, c_ }
#define CHARGED(what, n_, least_, each_, ...) \
	{ "charged." what, is_charged, \
	  &(const struct charge){ n_, least_, each_, __VA_ARGS__ } }
#define SAME(...) (&(const struct same_page){ __VA_ARGS__ })
#define PASIDS(...) (&(const struct pasids){ __VA_ARGS__ })

static const struct kind kinds[] = {
	COST("unmap_all_up", C_LINEAR, 1000, same_page, SAME()),
	COST("unmap_all_down", C_LINEAR, 1000, same_page, SAME(.down = true)),
	COST("unmap_all_two", C_LINEAR, 1000, same_page, SAME(.second = true)),
	COST("unmap_all_two_down", C_LINEAR, 1000, same_page,
	     SAME(.second = true, .down = true)),
	COST("unmap_each", C_LINEAR, 1000, same_page, SAME(.one_by_one = true)),
	COST("unmap_each_down", C_LINEAR, 1000, same_page,
	     SAME(.one_by_one = true, .down = true)),
	COST("second_domain_comes", C_LINEAR, 1000, same_page,
	     SAME(.second_comes = true)),
	COST("second_domain_goes", NULL, 1000, same_page,
	     SAME(.second_goes = true)),
	COST("second_domain_goes_down", NULL, 1000, same_page,
	     SAME(.second_goes = true, .down = true)),
	COST("same_page_pins", NULL, 500, same_page_pins),
	COST("hwpts", C_LINEAR, 100, many_hwpts),
	COST("accesses", C_LINEAR, 200, many_accesses),
	COST("change_process", NULL, 1000, change_process),
	COST("pasid_attach", NULL, 1024, many_pasids, PASIDS()),
	COST("pasid_attach_down", NULL, 1024, many_pasids,
	     PASIDS(.down = true)),
	COST("pasid_detach", NULL, 1024, many_pasids, PASIDS(.detach = true)),
	COST("pasid_detach_down", NULL, 1024, many_pasids,
	     PASIDS(.detach = true, .down = true)),
	COST("type1_cuts", NULL, 512, type1_cuts),
	{ "many.copy_of_areas", copy_of_many },
	{ "many.dmabuf_copies", many_dmabuf_copies, NULL, C_LINEAR },
	{ "many.ioases", many_ioases },
	{ "many.pasids", all_pasids },
	CHARGED("ioas", 8000, 256, charge_ioas),
	CHARGED("area", 8000, 256, charge_area),
	CHARGED("copy", 8000, 96, charge_copy),
	CHARGED("hwpt", 500, 4096, charge_hwpt, .device = true),
	CHARGED("nested", 8000, 40, charge_nested, .device = true),
	CHARGED("pins", 8000, 64, charge_pins),
	CHARGED("allowed", 32768, 40, charge_allowed),
	{ "errno.address_overflow", address_overflow },
};

int main(int argc, char **argv)
{
	return run_kinds(kinds, ARRAY_SIZE(kinds), argc, argv);
}
