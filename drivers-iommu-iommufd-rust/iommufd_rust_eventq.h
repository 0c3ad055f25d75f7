/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Structures of event queues and of mmap that driver.c and the Rust
 * implementation share. Rust asserts that its own types have this layout:
 * sys/veventq.rs and sys/mmap.rs.
 */
#ifndef __IOMMUFD_RUST_EVENTQ_H
#define __IOMMUFD_RUST_EVENTQ_H

#include <linux/iommufd.h>
#include <linux/limits.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <uapi/linux/iommufd.h>

/*
 * A region of MMIO that user space may map, by its offset in
 * iommufd_ctx::mt_mmap. An IOMMU driver adds it for an object that it extends,
 * and removes it before that object is freed.
 */
struct iommufd_mmap {
	struct iommufd_object *owner;
	/* The offset in pages; mmap() must request exactly this. */
	unsigned long vm_pgoff;
	phys_addr_t mmio_addr;
	size_t length;
};

/* An event of a vIOMMU, as the IOMMU driver reported it. */
struct iommufd_vevent {
	struct iommufd_vevent_header header;
	struct list_head node; /* in iommufd_veventq::deliver */
	ssize_t data_len;
	u8 event_data[] __counted_by(data_len);
};

/* Events of one type of one vIOMMU, on their way to user space. */
struct iommufd_veventq {
	struct iommufd_object obj;
	/* In iommufd_viommu::veventqs, under veventqs_rwsem. */
	struct list_head node;
	enum iommu_veventq_type type;
	/* The greatest number of unread events. */
	unsigned int depth;
	struct wait_queue_head wait_queue;
	struct {
		spinlock_t lock; /* protects all that follows */
	} common;
	struct list_head deliver;
	/* The number of unread events, without lost_events_header. */
	u32 num_events;
	/* The sequence number of the next event. */
	u32 sequence;
	/*
	 * Marks the loss of events at the end of the list. It has no data, so
	 * it is read as a bare header.
	 */
	struct iommufd_vevent lost_events_header;
};

/* Queues an event, or the lost_events_header, and numbers it. */
static inline void iommufd_vevent_handler(struct iommufd_veventq *veventq,
					  struct iommufd_vevent *vevent)
{
	struct list_head *lost = &veventq->lost_events_header.node;

	lockdep_assert_held(&veventq->common.lock);

	/* The sequence number of the new event shows the loss. */
	if (list_is_last(lost, &veventq->deliver))
		list_del_init(lost);

	vevent->header.sequence = veventq->sequence;
	veventq->sequence = (veventq->sequence + 1) & INT_MAX;
	list_add_tail(&vevent->node, &veventq->deliver);

	wake_up_interruptible(&veventq->wait_queue);
}

static inline struct iommufd_veventq *
iommufd_viommu_find_veventq(struct iommufd_viommu *viommu,
			    enum iommu_veventq_type type)
{
	struct iommufd_veventq *veventq;

	lockdep_assert_held(&viommu->veventqs_rwsem);

	list_for_each_entry(veventq, &viommu->veventqs, node)
		if (veventq->type == type)
			return veventq;
	return NULL;
}

#endif
