/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared by all of these tests: random numbers, clocks, counters of pinned
 * pages, loading and unloading of the module, and wrappers of calls. They
 * return 0 or -errno; on error, output parameters are 0.
 */
#ifndef __IOMMUFD_STRESS_H
#define __IOMMUFD_STRESS_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/iommufd.h>
#include <linux/types.h>

#include "../../../../../drivers/iommu/iommufd/iommufd_test.h"
#include "kselftest.h"

/*
 * Pages of the mock driver are half of this, so larger pages are not supported.
 */
#define PAGE 4096UL

/* Memory shared with processes forked later; zeroes */
static inline void *shared_memory(size_t size)
{
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		ksft_exit_fail_msg("out of memory\n");
	return mem;
}

static inline bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 &&
		  write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return ok;
}

/* splitmix64 */
static inline u64 mix(u64 *state)
{
	u64 z = (*state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static inline u64 below(u64 *state, u64 n)
{
	return mix(state) % n;
}

/* A new seed each time, of few digits */
static inline u64 any_seed(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += (u64)ts.tv_nsec + getpid();
	return below(&(u64){ ts.tv_sec }, 1000000);
}

static inline u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/*
 * A clock for verdicts. It does not count pauses of the machine: a virtual
 * machine can be stopped for seconds. One step counts this much at most:
 */
#define STEP_MS 5
#define STEP_LONGEST_NS (4 * STEP_MS * 1000000ULL)

/* Whoever uses it has one. */
extern u64 *steady;

static inline void *run_steady(void *arg)
{
	u64 now, step, before = now_ns();

	for (;;) {
		usleep(STEP_MS * 1000);
		now = now_ns();
		step = now - before;
		if (step > STEP_LONGEST_NS)
			step = STEP_LONGEST_NS;
		__atomic_fetch_add(steady, step, __ATOMIC_RELAXED);
		before = now;
	}
	return arg;
}

/* Of this process; its later children read it, too */
static inline int start_steady(void)
{
	pthread_t thread;

	steady = shared_memory(PAGE);
	return -pthread_create(&thread, NULL, run_steady, NULL);
}

static inline u64 steady_ns(void)
{
	return __atomic_load_n(steady, __ATOMIC_RELAXED);
}

/* The number after NAME in a file of "name number" lines; -1 if missing */
static inline long long read_counter(const char *path, const char *name)
{
	size_t length = strlen(name);
	long long value = -1;
	char line[256];
	FILE *file = fopen(path, "r");

	while (file && fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, length) || !strchr(" :\t", line[length]))
			continue;
		value = strtoll(line + length + strspn(line + length, " :\t"),
				NULL, 10);
		break;
	}
	if (file)
		fclose(file);
	return value;
}

/* The value of NAME in /proc/PID/status, in pages; PID 0: this process */
static inline long long status_pages(pid_t pid, const char *name)
{
	char path[64] = "/proc/self/status";

	long long kb;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/status", pid);
	kb = read_counter(path, name);
	return kb < 0 ? -1 : kb * 1024 / (long long)PAGE;
}

/*
 * Counters of CPUs are summed up once a second or so, or when root asks for it.
 * If that fails, callers wait.
 */
static inline void refresh_counters(void)
{
	write_text("/proc/sys/vm/stat_refresh", "1");
}

/* Pages that are pinned by GUP, in the whole system */
static inline long long pages_pinned(void)
{
	refresh_counters();
	return read_counter("/proc/vmstat", "nr_foll_pin_acquired") -
	       read_counter("/proc/vmstat", "nr_foll_pin_released");
}

/* The same, once it does not change any more */
static inline long long pages_pinned_at_rest(void)
{
	long long now, before;

	now = pages_pinned();
	do {
		before = now;
		usleep(1200000);
		now = pages_pinned();
	} while (now != before);
	return now;
}

/* How many more than BEFORE there are, after waiting for it to settle */
static inline long long left_of(long long (*count)(void), long long before)
{
	long long now = count();
	unsigned int i;

	for (i = 0; i < 300 && now != before; i++) {
		usleep(100000);
		now = count();
	}
	return now - before;
}

static inline long long pages_left_pinned(long long before)
{
	return left_of(pages_pinned, before);
}

/*
 * Pages of IOMMU page tables in the whole system. Those of kernel drivers do
 * not change unless a device is bound.
 */
static inline long long table_pages(void)
{
	refresh_counters();
	return read_counter("/proc/vmstat", "nr_iommu_pages");
}

static inline long long table_pages_left(long long before)
{
	return left_of(table_pages, before);
}

/* The number of users of the module; 0 if it is built in */
static inline int module_holders(void)
{
	char text[16] = "";
	int fd = open("/sys/module/iommufd/refcnt", O_RDONLY);

	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return atoi(text);
}

/* The same, once it is at most LEAST, or after a minute */
static inline int holders_at_most(int least)
{
	u64 end = now_ns() + 60000000000ULL;
	int now = module_holders();

	while (now > least && now_ns() < end) {
		usleep(2000);
		now = module_holders();
	}
	return now;
}

static inline int module_load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = syscall(SYS_finit_module, fd, "", 0) ? -errno : 0;
	close(fd);
	return rc;
}

/* Unload it, within TIMEOUT_MS: closing a file can complete late */
static inline int module_unload(unsigned int timeout_ms)
{
	u64 end = now_ns() + timeout_ms * 1000000ULL;

	while (syscall(SYS_delete_module, "iommufd", O_NONBLOCK)) {
		if ((errno != EAGAIN && errno != EBUSY) || now_ns() > end)
			return -errno;
		usleep(1000);
	}
	return 0;
}

/* With CAP_IPC_LOCK, a process is neither limited nor charged to the user. */
static inline int drop_ipc_lock(void)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &head, caps))
		return -errno;
	caps[0].effective &= ~(1U << CAP_IPC_LOCK);
	return syscall(SYS_capset, &head, caps) ? -errno : 0;
}

/* ---- calls --------------------------------------------------------------- */

static inline int call(int fd, unsigned long nr, void *arg)
{
	return ioctl(fd, nr, arg) ? -errno : 0;
}

static inline int do_destroy(int fd, u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return call(fd, IOMMU_DESTROY, &cmd);
}

static inline int do_ioas_alloc(int fd, u32 *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	int rc = call(fd, IOMMU_IOAS_ALLOC, &cmd);

	*id = cmd.out_ioas_id;
	return rc;
}

static inline int do_map(int fd, u32 ioas, void *va, u64 length, u64 iova)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.user_va = (uintptr_t)va,
		.length = length,
		.iova = iova,
	};

	return call(fd, IOMMU_IOAS_MAP, &cmd);
}

static inline int do_map_file(int fd, u32 ioas, int file, u64 start,
			      u64 length, u64 iova)
{
	struct iommu_ioas_map_file cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.fd = file,
		.start = start,
		.length = length,
		.iova = iova,
	};

	return call(fd, IOMMU_IOAS_MAP_FILE, &cmd);
}

static inline int do_unmap(int fd, u32 ioas, u64 iova, u64 length)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.iova = iova,
		.length = length,
	};

	return call(fd, IOMMU_IOAS_UNMAP, &cmd);
}

static inline int do_copy(int fd, u32 to, u64 to_iova, u32 from,
			  u64 from_iova, u64 length)
{
	struct iommu_ioas_copy cmd = {
		.size = sizeof(cmd),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.dst_ioas_id = to,
		.src_ioas_id = from,
		.length = length,
		.dst_iova = to_iova,
		.src_iova = from_iova,
	};

	return call(fd, IOMMU_IOAS_COPY, &cmd);
}

static inline int do_hwpt_alloc_as(int fd, u32 dev, u32 pt, u32 flags,
				   u32 fault, bool nested, u32 *id)
{
	struct iommu_hwpt_selftest data = {
		.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
	};
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags | (fault ? IOMMU_HWPT_FAULT_ID_VALID : 0),
		.dev_id = dev,
		.pt_id = pt,
		.fault_id = fault,
		.data_type = nested ? IOMMU_HWPT_DATA_SELFTEST :
				      IOMMU_HWPT_DATA_NONE,
		.data_len = nested ? sizeof(data) : 0,
		.data_uptr = nested ? (uintptr_t)&data : 0,
	};
	int rc = call(fd, IOMMU_HWPT_ALLOC, &cmd);

	*id = cmd.out_hwpt_id;
	return rc;
}

/* With a fault queue it is nested. */
static inline int do_hwpt_alloc(int fd, u32 dev, u32 pt, u32 flags, u32 fault,
				u32 *id)
{
	return do_hwpt_alloc_as(fd, dev, pt, flags, fault, fault, id);
}

/* Nested in a parent or a vIOMMU */
static inline int do_nested_alloc(int fd, u32 dev, u32 pt, u32 *id)
{
	return do_hwpt_alloc_as(fd, dev, pt, 0, 0, true, id);
}

static inline int do_fault_alloc(int fd, u32 *id, int *queue)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	int rc = call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd);

	*id = cmd.out_fault_id;
	*queue = cmd.out_fault_fd;
	return rc;
}

static inline int do_viommu_alloc(int fd, u32 dev, u32 hwpt,
				  struct iommu_viommu_selftest *data, u32 *id)
{
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = dev,
		.hwpt_id = hwpt,
		.data_len = data ? sizeof(*data) : 0,
		.data_uptr = (uintptr_t)data,
	};
	int rc = call(fd, IOMMU_VIOMMU_ALLOC, &cmd);

	*id = cmd.out_viommu_id;
	return rc;
}

static inline int do_vdevice_alloc(int fd, u32 viommu, u32 dev, u64 virt_id,
				   u32 *id)
{
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.dev_id = dev,
		.virt_id = virt_id,
	};
	int rc = call(fd, IOMMU_VDEVICE_ALLOC, &cmd);

	*id = cmd.out_vdevice_id;
	return rc;
}

static inline int do_veventq_alloc(int fd, u32 viommu, u32 *id, int *queue)
{
	struct iommu_veventq_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 4,
	};
	int rc = call(fd, IOMMU_VEVENTQ_ALLOC, &cmd);

	*id = cmd.out_veventq_id;
	*queue = cmd.out_veventq_fd;
	return rc;
}

static inline int do_hw_queue_alloc(int fd, u32 viommu, u32 index, u64 iova,
				    u64 length, u32 *id)
{
	struct iommu_hw_queue_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.index = index,
		.nesting_parent_iova = iova,
		.length = length,
	};
	int rc = call(fd, IOMMU_HW_QUEUE_ALLOC, &cmd);

	*id = cmd.out_hw_queue_id;
	return rc;
}

static inline int do_change_process(int fd)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };

	return call(fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd);
}

/* Calls of the mock driver: CMD has op, id and arguments. */
static inline int do_test(int fd, struct iommu_test_cmd *cmd)
{
	cmd->size = sizeof(*cmd);
	return call(fd, IOMMU_TEST_CMD, cmd);
}

struct mock {
	u32 stdev, hwpt, idev;
};

/* A device of the mock driver, attached to PT */
static inline int do_mock_device(int fd, u32 pt, struct mock *mock)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN,
		.id = pt,
	};
	int rc = do_test(fd, &cmd);

	mock->stdev = cmd.mock_domain.out_stdev_id;
	mock->hwpt = cmd.mock_domain.out_hwpt_id;
	mock->idev = cmd.mock_domain.out_idev_id;
	return rc;
}

/* The same with MOCK_FLAGS_DEVICE_* */
static inline int do_mock_device_with(int fd, u32 pt, u32 flags,
				      struct mock *mock)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
		.id = pt,
		.mock_domain_flags.dev_flags = flags,
	};
	int rc = do_test(fd, &cmd);

	mock->stdev = cmd.mock_domain_flags.out_stdev_id;
	mock->hwpt = cmd.mock_domain_flags.out_hwpt_id;
	mock->idev = cmd.mock_domain_flags.out_idev_id;
	return rc;
}

static inline int do_replace(int fd, u32 stdev, u32 pt)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = stdev,
		.mock_domain_replace.pt_id = pt,
	};

	return do_test(fd, &cmd);
}

static inline int do_check_map(int fd, u32 hwpt, void *va, u64 length,
			       u64 iova)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MD_CHECK_MAP,
		.id = hwpt,
		.check_map = {
			.iova = iova,
			.length = length,
			.uptr = (uintptr_t)va,
		},
	};

	return do_test(fd, &cmd);
}

static inline int do_check_refs(int fd, void *va, u64 length, u32 refs)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MD_CHECK_REFS,
		.check_refs = {
			.length = length,
			.uptr = (uintptr_t)va,
			.refs = refs,
		},
	};

	return do_test(fd, &cmd);
}

/* The number of pins of a page, by MD_CHECK_REFS; or -errno */
static inline int page_pins(int fd, void *page)
{
	unsigned int refs;
	int rc;

	for (refs = 0; refs < 32; refs++) {
		rc = do_check_refs(fd, page, PAGE, refs);
		if (rc != -EIO)
			return rc ?: (int)refs;
	}
	return refs;
}

static inline int do_access_create(int fd, u32 ioas, u32 flags, int *access)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_CREATE_ACCESS,
		.id = ioas,
		.create_access.flags = flags,
	};
	int rc = do_test(fd, &cmd);

	*access = cmd.create_access.out_access_fd;
	return rc;
}

static inline int do_access_replace(int fd, int access, u32 ioas)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
		.id = access,
		.access_replace_ioas.ioas_id = ioas,
	};

	return do_test(fd, &cmd);
}

static inline int do_access_pin(int fd, int access, u64 iova, u64 length,
				u32 flags, u32 *item)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_PAGES,
		.id = access,
		.access_pages = {
			.flags = flags,
			.iova = iova,
			.length = length,
		},
	};
	int rc = do_test(fd, &cmd);

	*item = cmd.access_pages.out_access_pages_id;
	return rc;
}

static inline int do_access_unpin(int fd, int access, u32 item)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
		.id = access,
		.destroy_access_pages.access_pages_id = item,
	};

	return do_test(fd, &cmd);
}

static inline int do_access_rw(int fd, int access, u64 iova, void *buffer,
			       u64 length, u32 flags)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.id = access,
		.access_rw = {
			.iova = iova,
			.length = length,
			.uptr = (uintptr_t)buffer,
			.flags = flags,
		},
	};

	return do_test(fd, &cmd);
}

/* A dma-buf of the mock driver: its fd or -errno */
static inline int do_dmabuf_get(int fd, u32 length)
{
	struct iommu_test_cmd cmd = {
		.size = sizeof(cmd),
		.op = IOMMU_TEST_OP_DMABUF_GET,
		.dmabuf_get = { .length = length, .open_flags = O_CLOEXEC },
	};
	int rc = ioctl(fd, IOMMU_TEST_CMD, &cmd);

	return rc < 0 ? -errno : rc;
}

static inline int do_dmabuf_revoke(int fd, int dmabuf, bool revoked)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DMABUF_REVOKE,
		.dmabuf_revoke = { .dmabuf_fd = dmabuf, .revoked = revoked },
	};

	return do_test(fd, &cmd);
}

static inline int do_trigger_iopf_at(int fd, u32 idev, u32 grpid, u32 pasid,
				     u64 addr)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_TRIGGER_IOPF,
		.trigger_iopf = {
			.dev_id = idev,
			.pasid = pasid,
			.grpid = grpid,
			.perm = IOMMU_PGFAULT_PERM_READ,
			.addr = addr,
		},
	};

	return do_test(fd, &cmd);
}

static inline int do_trigger_iopf(int fd, u32 idev, u32 grpid)
{
	return do_trigger_iopf_at(fd, idev, grpid, 0, 0xdeadbeaf);
}

static inline int do_pasid_attach(int fd, u32 stdev, u32 pasid, u32 pt)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_PASID_ATTACH,
		.id = stdev,
		.pasid_attach = { .pasid = pasid, .pt_id = pt },
	};

	return do_test(fd, &cmd);
}

static inline int do_pasid_replace(int fd, u32 stdev, u32 pasid, u32 pt)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_PASID_REPLACE,
		.id = stdev,
		.pasid_replace = { .pasid = pasid, .pt_id = pt },
	};

	return do_test(fd, &cmd);
}

static inline int do_pasid_detach(int fd, u32 stdev, u32 pasid)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_PASID_DETACH,
		.id = stdev,
		.pasid_detach.pasid = pasid,
	};

	return do_test(fd, &cmd);
}

static inline int do_trigger_vevent(int fd, u32 idev)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_TRIGGER_VEVENT,
		.trigger_vevent.dev_id = idev,
	};

	return do_test(fd, &cmd);
}

#endif
