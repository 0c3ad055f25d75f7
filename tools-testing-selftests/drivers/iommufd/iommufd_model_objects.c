// SPDX-License-Identifier: GPL-2.0-only
/*
 * Operations of iommufd_model on objects: creation, attaching, destruction,
 * reports of hardware to them, and operations on workers.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "iommufd_model.h"

/* ---- creating ------------------------------------------------------------ */

/* Does the call certainly fail? Then it creates no dependent. */
static bool must_fail(enum how how)
{
	return how == SEALED || how == SPLIT;
}

static void begin(enum how how, u32 a, u32 b, u32 c)
{
	if (must_fail(how))
		return;
	if (a)
		depend(a);
	if (b)
		depend(b);
	if (c)
		depend(c);
}

static void end(enum how how, u32 a, u32 b, u32 c)
{
	if (must_fail(how))
		return;
	if (a)
		undepend(a);
	if (b)
		undepend(b);
	if (c)
		undepend(c);
}

/*
 * Record the result RC and ID of a call that creates an object which depends on
 * A, B and C. Put the object into its slot, or destroy it if that is taken.
 */
static int made(const char *what, enum how how, enum kind kind,
		unsigned int slot, int rc, u32 id, u32 a, u32 b, u32 c)
{
	if (rc) {
		end(how, a, b, c);
		return rc;
	}
	if (must_fail(how)) {
		broken(ANSWER, "%s succeeds without an answer", what);
		return rc;
	}
	record(id, a, b, c);
	if (!give(&w->objects[kind][slot], id))
		destroy_or_leave(kind, id);
	return 0;
}

int op_ioas(const u8 *arg, enum how how)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	int rc = JUDGE("IOAS_ALLOC", how,
		       call_how(how, IOMMU_IOAS_ALLOC, &cmd, sizeof(cmd)));

	return made("IOAS_ALLOC", how, IOAS, arg[0], rc, cmd.out_ioas_id, 0, 0,
		    0);
}

int op_hwpt(const u8 *arg, enum how how)
{
	static const u32 all_flags[] = {
		0, IOMMU_HWPT_ALLOC_NEST_PARENT,
		IOMMU_HWPT_ALLOC_DIRTY_TRACKING, IOMMU_HWPT_ALLOC_PASID,
		IOMMU_HWPT_ALLOC_NEST_PARENT,
		IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
		IOMMU_HWPT_ALLOC_DIRTY_TRACKING, 1U << 31,
	};
	u32 flags = all_flags[arg[3]];
	bool parent = flags & IOMMU_HWPT_ALLOC_NEST_PARENT;
	/* HW queues of vIOMMUs need their memory in IOAS 0. */
	u32 ioas = ioas_of(parent ? 0 : arg[2]);
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.dev_id = device_of(arg[1]).idev,
		.pt_id = ioas,
	};
	int rc;

	if (!ioas || !cmd.dev_id)
		return -ENOENT;
	begin(how, ioas, 0, 0);
	/*
	 * EFAULT: memory has vanished. EINVAL: the id was reused for another
	 * type. EADDRINUSE: an area is outside the aperture of the domain.
	 */
	rc = JUDGE("HWPT_ALLOC", how,
		   call_how(how, IOMMU_HWPT_ALLOC, &cmd, sizeof(cmd)), ENOENT,
		   EINVAL, EOPNOTSUPP, EFAULT, EADDRINUSE);
	return made("HWPT_ALLOC", how, parent ? PARENT : HWPT, arg[0], rc,
		    cmd.out_hwpt_id, ioas, 0, 0);
}

int op_nested(const u8 *arg, enum how how)
{
	struct iommu_hwpt_selftest data = {
		.iotlb = IOMMU_TEST_IOTLB_DEFAULT,
	};
	u32 on = arg[2] == 2 ? get(&w->automatic) :
		 get(&w->objects[arg[2] ? PARENT : VIOMMU][arg[3]]);
	u32 fault = arg[4] < SLOTS ? object_in(FAULT, arg[4]) : 0;
	unsigned int again = 20;
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = fault ? IOMMU_HWPT_FAULT_ID_VALID : 0,
		.fault_id = fault,
		.dev_id = device_of(arg[1]).idev,
		.pt_id = on,
		/* An unknown type, or an invalid address */
		.data_type = IOMMU_HWPT_DATA_SELFTEST + (arg[5] == 0),
		.data_len = sizeof(data),
		.data_uptr = arg[5] == 1 ? PAGE : (uintptr_t)&data,
	};
	int rc;

	if (!on || !cmd.dev_id)
		return -ENOENT;
	/* The parent or the data is invalid: no dependent is created. */
	if ((arg[2] == 2 || arg[5] <= 1) && how != SPLIT)
		how = SEALED;
	begin(how, on, fault, 0);
	/*
	 * A device leaves an automatic HWPT quickly: repeat the call until it
	 * has.
	 */
	do {
		rc = JUDGE("HWPT_ALLOC of a nested one", how,
			   call_how(how, IOMMU_HWPT_ALLOC, &cmd, sizeof(cmd)),
			   ENOENT, EINVAL, EOPNOTSUPP, EFAULT);
	} while (arg[2] == 2 && rc && again-- && get(&w->automatic) == on);
	return made("HWPT_ALLOC of a nested one", how, NESTED, arg[0], rc,
		    cmd.out_hwpt_id, on, fault, 0);
}

int op_viommu(const u8 *arg, enum how how)
{
	struct iommu_viommu_selftest data = { .in_data = 0x600df00d };
	u32 parent = get(&w->objects[PARENT][arg[2]]);
	struct iommu_viommu_alloc cmd = {
		.size = sizeof(cmd),
		.type = IOMMU_VIOMMU_TYPE_SELFTEST,
		.dev_id = device_of(arg[1]).idev,
		.hwpt_id = parent,
		.data_len = arg[3] ? sizeof(data) : 0,
		.data_uptr = arg[3] ? (uintptr_t)&data : 0,
	};
	int rc;

	if (!parent || !cmd.dev_id)
		return -ENOENT;
	begin(how, parent, 0, 0);
	rc = JUDGE("VIOMMU_ALLOC", how,
		   call_how(how, IOMMU_VIOMMU_ALLOC, &cmd, sizeof(cmd)),
		   ENOENT, EINVAL);
	if (!rc && arg[3]) {
		if (data.out_data != data.in_data)
			broken(CONTENT, "VIOMMU_ALLOC loops back %x",
			       data.out_data);
		set(&w->regions[arg[0]], data.out_mmap_offset);
	}
	return made("VIOMMU_ALLOC", how, VIOMMU, arg[0], rc,
		    cmd.out_viommu_id, parent, 0, 0);
}

int op_vdevice(const u8 *arg, enum how how)
{
	u32 viommu = get(&w->objects[VIOMMU][arg[2]]);
	struct iommu_vdevice_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.dev_id = device_of(arg[1]).idev,
		.virt_id = 1 + arg[3],
	};
	int rc;

	if (!viommu || !cmd.dev_id)
		return -ENOENT;
	begin(how, viommu, 0, 0);
	/* EEXIST: the device has one, or the vIOMMU has one of this number. */
	rc = JUDGE("VDEVICE_ALLOC", how,
		   call_how(how, IOMMU_VDEVICE_ALLOC, &cmd, sizeof(cmd)),
		   ENOENT, EEXIST, EBUSY, EINVAL);
	if (!rc)
		add(&w->vdevices, 1);
	return made("VDEVICE_ALLOC", how, VDEVICE, arg[0], rc,
		    cmd.out_vdevice_id, viommu, 0, 0);
}

int op_hw_queue(const u8 *arg, enum how how)
{
	u32 viommu = get(&w->objects[VIOMMU][arg[1]]);
	struct iommu_hw_queue_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
		.index = arg[2],
		.nesting_parent_iova = iova_of(arg[3], 0),
		.length = PAGE,
	};
	/*
	 * The mock driver makes it depend on the first queue at initialisation.
	 */
	u32 first = arg[2] == 1 ? DEP_QUEUE(viommu) : 0;
	u32 place = DEP_PLACE(0, arg[3]);
	int rc;

	if (!viommu)
		return -ENOENT;
	begin(how, viommu, 0, 0);
	if (first)
		depend(first);
	depend(place);
	/* A vIOMMU has at most two queues, and the second needs the first. */
	rc = JUDGE("HW_QUEUE_ALLOC", how,
		   call_how(how, IOMMU_HW_QUEUE_ALLOC, &cmd, sizeof(cmd)),
		   ENOENT, EINVAL, EEXIST, EIO, EFAULT, EBUSY);
	if (rc && first)
		undepend(first);
	if (rc) {
		undepend(place);
		end(how, viommu, 0, 0);
		return rc;
	}
	return made("HW_QUEUE_ALLOC", how, HW_QUEUE, arg[0], rc,
		    cmd.out_hw_queue_id, viommu, first, place);
}

/*
 * Put a queue into its slot, or close its file, which is a user, and destroy
 * it.
 */
static void put_queue(enum kind kind, unsigned int slot, u32 id, int fd)
{
	if (give(&w->queues[kind][slot], (u64)fd << 32 | id))
		return;
	close(fd);
	destroy_or_leave(kind, id);
}

static int made_queue(const char *what, enum how how, enum kind kind,
		      unsigned int slot, int rc, u32 id, int fd, u32 on)
{
	if (rc) {
		end(how, on, 0, 0);
		return rc;
	}
	if (must_fail(how)) {
		broken(ANSWER, "%s succeeds without an answer", what);
		return rc;
	}
	record(id, on, 0, 0);
	fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	put_queue(kind, slot, id, fd);
	return 0;
}

int op_fault_queue(const u8 *arg, enum how how)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	int rc = JUDGE("FAULT_QUEUE_ALLOC", how,
		       call_how(how, IOMMU_FAULT_QUEUE_ALLOC, &cmd,
				sizeof(cmd)));

	return made_queue("FAULT_QUEUE_ALLOC", how, FAULT, arg[0], rc,
			  cmd.out_fault_id, cmd.out_fault_fd, 0);
}

int op_veventq(const u8 *arg, enum how how)
{
	u32 viommu = get(&w->objects[VIOMMU][arg[1]]);
	struct iommu_veventq_alloc cmd = {
		.size = sizeof(cmd),
		.viommu_id = viommu,
		.type = IOMMU_VEVENTQ_TYPE_SELFTEST,
		.veventq_depth = 3,
	};
	int rc;

	if (!viommu)
		return -ENOENT;
	begin(how, viommu, 0, 0);
	/* EEXIST: the vIOMMU has a queue of this type. */
	rc = JUDGE("VEVENTQ_ALLOC", how,
		   call_how(how, IOMMU_VEVENTQ_ALLOC, &cmd, sizeof(cmd)),
		   ENOENT, EEXIST);
	return made_queue("VEVENTQ_ALLOC", how, VEVENTQ, arg[0], rc,
			  cmd.out_veventq_id, cmd.out_veventq_fd, viommu);
}

/* ---- destroying ---------------------------------------------------------- */

int op_destroy(const u8 *arg, enum how how)
{
	u32 *size = (void *)(w->open[self] + PAGE - sizeof(u32)), id;
	enum kind kind = arg[0];

	if (how == SPLIT) {
		/* The id is in unmapped memory. */
		*size = sizeof(struct iommu_destroy);
		return JUDGE("DESTROY", how,
			     call(w->fd, IOMMU_DESTROY, size));
	}
	id = take_object(kind, arg[1]);
	return id ? destroy_or_leave(kind, id) : -ENOENT;
}

/* ---- devices ------------------------------------------------------------- */

/* The page table that an argument names: an IOAS that stays, or a slot */
static u32 table_of(unsigned int on, unsigned int slot)
{
	static const enum kind kinds[] = { NESTED, PARENT, HWPT, IOAS };

	if (on == 0)
		return w->ioas[slot % STAYING];
	return get(&w->objects[kinds[on - 1]][slot]);
}

/* Record the result RC of attaching to PT. */
static int attached(u32 pt, int rc)
{
	if (rc && rc != -EFAULT)
		undepend(pt);
	else
		depend_loosely(pt);
	return rc;
}

int op_attach(const u8 *arg, enum how how)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
		.id = device_of(arg[0]).stdev,
		.mock_domain_replace.pt_id = table_of(arg[1], arg[2]),
	};
	u32 pt = cmd.mock_domain_replace.pt_id;
	int rc;

	if (!pt || !cmd.id)
		return -ENOENT;
	depend(pt);
	rc = JUDGE("attach", how, test_how(how, &cmd), ENOENT, EINVAL, EFAULT,
		   EADDRINUSE);
	if (!rc && cmd.mock_domain_replace.pt_id != pt)
		set(&w->automatic, cmd.mock_domain_replace.pt_id);
	return attached(pt, rc);
}

static int pasid_call(u32 op, const char *what, const u8 *arg, enum how how)
{
	/* A HWPT for PASIDs, any HWPT, or a nested one */
	static const unsigned int tables[] = { 0, 3, 1 };
	struct iommu_test_cmd cmd = {
		.op = op,
		.id = device_of(arg[0]).stdev,
		.pasid_attach = {
			.pasid = 1 + arg[1],
			.pt_id = arg[2] ? table_of(tables[arg[2]], arg[3]) :
				 w->pasid_hwpt,
		},
	};
	u32 pt = cmd.pasid_attach.pt_id;

	if (!pt || !cmd.id)
		return -ENOENT;
	depend(pt);
	/*
	 * The PASID may be attached, or not; the device may not support PASIDs.
	 */
	return attached(pt, JUDGE(what, how, test_how(how, &cmd), ENOENT,
				  EINVAL, EFAULT, EBUSY, EADDRINUSE,
				  EOPNOTSUPP));
}

int op_pasid_attach(const u8 *arg, enum how how)
{
	return pasid_call(IOMMU_TEST_OP_PASID_ATTACH, "attach of a PASID", arg,
			  how);
}

int op_pasid_replace(const u8 *arg, enum how how)
{
	const u8 first[] = { arg[0], arg[1], 0, 0 };

	pasid_call(IOMMU_TEST_OP_PASID_ATTACH, "attach of a PASID", first,
		   PLAIN);
	return pasid_call(IOMMU_TEST_OP_PASID_REPLACE, "replace of a PASID",
			  arg, how);
}

int op_pasid_detach(const u8 *arg, enum how how)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_PASID_DETACH,
		.id = device_of(arg[0]).stdev,
		.pasid_detach.pasid = 1 + arg[1],
	};

	if (!cmd.id)
		return -ENOENT;
	return JUDGE("detach of a PASID", how, test_how(how, &cmd), ENOENT);
}

int op_plug(const u8 *arg, enum how how)
{
	u32 ioas = ioas_of(arg[0]);
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
		.id = ioas,
		.mock_domain_flags.dev_flags = MOCK_FLAGS_DEVICE_PASID |
			(arg[0] % 2 ? MOCK_FLAGS_DEVICE_NO_DIRTY : 0),
	};
	u32 stdev;
	int rc;

	if (!ioas)
		return -ENOENT;
	depend(ioas);
	rc = JUDGE("a device is added", how, test_how(how, &cmd), ENOENT,
		   EINVAL, EFAULT, EADDRINUSE);
	if (rc) {
		undepend(ioas);
		return rc;
	}
	depend_loosely(ioas);
	if (must_fail(how))
		broken(ANSWER, "a device is added without an answer");
	stdev = cmd.mock_domain_flags.out_stdev_id;
	if (give(&w->hot, (u64)stdev << 32 |
		 cmd.mock_domain_flags.out_idev_id))
		return 0;
	/* No object can depend on the device. */
	add(&w->unplugged, 1);
	return JUDGE("a device is removed", PLAIN, do_destroy(w->fd, stdev));
}

int op_unplug(const u8 *arg, enum how how)
{
	u64 hot = take(&w->hot);

	if (!hot)
		return -ENOENT;
	add(&w->unplugged, 1);
	return JUDGE("a device is removed", PLAIN,
		     do_destroy(w->fd, hot >> 32));
}

/* ---- faults and events --------------------------------------------------- */

#define FAULT_ADDRESS 0xdeadb000

int op_fault(const u8 *arg, enum how how)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_TRIGGER_IOPF,
		.trigger_iopf = {
			.dev_id = device_of(arg[0]).idev,
			.pasid = arg[2],
			.grpid = arg[1],
			.perm = IOMMU_PGFAULT_PERM_READ,
			.addr = FAULT_ADDRESS,
		},
	};

	if (!cmd.trigger_iopf.dev_id)
		return -ENOENT;
	return JUDGE("a fault is reported", how, test_how(how, &cmd), ENOENT);
}

int op_event(const u8 *arg, enum how how)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_TRIGGER_VEVENT,
		.trigger_vevent.dev_id = device_of(arg[0]).idev,
	};

	if (!cmd.trigger_vevent.dev_id)
		return -ENOENT;
	/* There may be no vIOMMU or no queue, or the queue may be full. */
	return JUDGE("an event is reported", how, test_how(how, &cmd), ENOENT,
		     EOPNOTSUPP, EINVAL);
}

static bool is_ready(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLIN;
}

/*
 * Read up to SIZE bytes from a queue that no other thread reads, so that what
 * poll() has reported must be there. Returns the bytes or -errno.
 */
static int read_queue(int fd, bool look, enum how how, void *to, size_t size)
{
	bool ready = look && is_ready(fd);
	u64 start = steady_ns();
	ssize_t n;
	void *into = how == SEALED ? w->sealed[self] :
		     how == SPLIT ? w->open[self] + PAGE - 4 : to;

	n = read(fd, into, size);
	timed("read", start);
	if (n >= 0)
		return n;
	if (ready && errno == EAGAIN)
		broken(ANSWER, "poll() says that there is something to read");
	/* ESPIPE: the size is not a multiple of that of a fault. */
	return judge("read", how, -errno, EAGAIN, EINVAL,
		     size == 8 ? ESPIPE : EINVAL, 0);
}

/* Check a fault that was read, and respond to it. */
static void check_fault(int fd, const struct iommu_hwpt_pgfault *fault,
			unsigned int code)
{
	struct iommu_hwpt_page_response answer = {
		.cookie = fault->cookie,
		.code = code,
	};

	if (fault->addr != FAULT_ADDRESS || !fault->dev_id || !fault->cookie ||
	    fault->perm != IOMMU_PGFAULT_PERM_READ || fault->grpid > 2 ||
	    fault->pasid > 2)
		broken(CONTENT, "a fault of device %u at %llx, group %u, cookie %u",
		       fault->dev_id, fault->addr, fault->grpid,
		       fault->cookie);
	if (code > IOMMUFD_PAGE_RESP_INVALID)
		return;
	/* EINVAL: its device was detached meanwhile, which answers it. */
	if (write(fd, &answer, sizeof(answer)) < 0)
		judge("the answer to a fault", PLAIN, -errno, EINVAL, 0);
	if (write(fd, &answer, sizeof(answer)) >= 0)
		broken(ANSWER, "a fault is answered twice");
}

int op_read_faults(const u8 *arg, enum how how)
{
	u64 queue = take(&w->queues[FAULT][arg[0]]);
	struct iommu_hwpt_pgfault faults[2];
	int fd = queue >> 32, i, n;

	if (!queue)
		return -ENOENT;
	n = read_queue(fd, arg[3], how, faults,
		       arg[1] ? arg[1] * sizeof(faults[0]) : 8);
	for (i = 0; how == PLAIN && i < n / (int)sizeof(faults[0]); i++)
		check_fault(fd, &faults[i], arg[2]);
	put_queue(FAULT, arg[0], queue, fd);
	return n < 0 ? n : 0;
}

int op_read_events(const u8 *arg, enum how how)
{
	struct {
		struct iommufd_vevent_header head;
		struct iommu_viommu_event_selftest event;
	} events[2];
	u64 queue = take(&w->queues[VEVENTQ][arg[0]]);
	int fd = queue >> 32, i, n;

	if (!queue)
		return -ENOENT;
	n = read_queue(fd, arg[2], how, events,
		       arg[1] ? arg[1] * sizeof(events[0]) : 8);
	for (i = 0; how == PLAIN && i < n / (int)sizeof(events[0]); i++) {
		/* The header for lost events has no data and comes last. */
		if (events[i].head.flags)
			break;
		if (events[i].event.virt_id - 1 > 1)
			broken(CONTENT, "an event of device %u",
			       events[i].event.virt_id);
		if (i && events[i].head.sequence <=
			 events[i - 1].head.sequence)
			broken(CONTENT, "event %u comes after %u",
			       events[i].head.sequence,
			       events[i - 1].head.sequence);
	}
	put_queue(VEVENTQ, arg[0], queue, fd);
	return n < 0 ? n : 0;
}

/* ---- others -------------------------------------------------------------- */

/* Map memory of a vIOMMU, which is then in use. */
int op_mmap(const u8 *arg, enum how how)
{
	u64 region = get(&w->regions[arg[0]]), start;
	u32 *page;

	if (!region)
		return -ENOENT;
	/* The region may be that of another vIOMMU by now. */
	depend(DEP_FORKS);
	start = steady_ns();
	page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd,
		    region);
	timed("mmap", start);
	if (page == MAP_FAILED) {
		undepend(DEP_FORKS);
		return judge("mmap", PLAIN, -errno, ENXIO, 0);
	}
	if (arg[1] && page[0] != 0x600df00d)
		broken(CONTENT, "the memory of a vIOMMU has %x", page[0]);
	munmap(page, 2 * PAGE);
	undepend(DEP_FORKS);
	return 0;
}

int op_invalidate(const u8 *arg, enum how how)
{
	struct iommu_viommu_invalidate_selftest of_viommu[2] = {
		{ .vdev_id = 1, .cache_id = 1 },
		{ .flags = IOMMU_TEST_INVALIDATE_FLAG_ALL, .vdev_id = 2 },
	};
	struct iommu_hwpt_invalidate_selftest of_hwpt[2] = {
		{ .iotlb_id = 1 },
		{ .flags = IOMMU_TEST_INVALIDATE_FLAG_ALL },
	};
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = get(&w->objects[arg[0] ? VIOMMU : NESTED][arg[1]]),
		.data_type = arg[0] ? IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST :
				      IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.data_uptr = arg[0] ? (uintptr_t)of_viommu :
				      (uintptr_t)of_hwpt,
		.entry_len = arg[0] ? sizeof(of_viommu[0]) :
				      sizeof(of_hwpt[0]),
		.entry_num = arg[2],
	};

	if (!cmd.hwpt_id)
		return -ENOENT;
	/* EINVAL: the vIOMMU has no such vDEVICE. */
	return JUDGE("HWPT_INVALIDATE", how,
		     call_how(how, IOMMU_HWPT_INVALIDATE, &cmd, sizeof(cmd)),
		     ENOENT, EINVAL);
}

int op_hw_info(const u8 *arg, enum how how)
{
	struct iommu_test_hw_info info = {};
	struct iommu_hw_info cmd = {
		.size = sizeof(cmd),
		.dev_id = device_of(arg[0]).idev,
		.data_len = arg[1] * sizeof(info) / 2,
		.data_uptr = (uintptr_t)&info,
	};
	int rc;

	if (!cmd.dev_id)
		return -ENOENT;
	rc = JUDGE("GET_HW_INFO", how,
		   call_how(how, IOMMU_GET_HW_INFO, &cmd, sizeof(cmd)),
		   ENOENT);
	if (!rc && arg[1] == 2 &&
	    info.test_reg != IOMMU_HW_INFO_SELFTEST_REGVAL)
		broken(CONTENT, "GET_HW_INFO has %x", info.test_reg);
	return rc;
}
