// SPDX-License-Identifier: GPL-2.0

//! The queue of groups of page faults that user space has not read, and its pollers.
//!
//! Queue and pollers are one type, so that queuing always wakes the pollers. This includes a group
//! that is requeued after a failed read: a poller may have found the queue empty in between.
#![forbid(unsafe_code)]

use kernel::{
    fs::anon_inode::{
        new_poll_head,
        PollHead,
        Poller, //
    },
    iommu::iopf::{
        Group,
        Pending,
        Queue, //
    },
    new_spinlock,
    prelude::*,
    sync::SpinLock, //
};

/// Unread groups, in the order in which they are to be read.
#[pin_data]
pub(super) struct Unread {
    #[pin]
    queue: SpinLock<Queue>,
    #[pin]
    pollers: PollHead,
}

impl Unread {
    /// Creates an empty queue.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- new_spinlock!(Queue::new(), "iommufd_fault::queue"),
            pollers <- new_poll_head!("iommufd_fault::pollers"),
        })
    }

    /// Appends a group and wakes the pollers.
    ///
    /// Context: any in which a spinlock can be taken, interrupts excepted.
    pub(super) fn push_back(&self, group: Group) {
        self.queue.lock().push_back(group);
        self.pollers.notify();
    }

    /// Requeues a group as the first one and wakes the pollers.
    pub(super) fn push_front(&self, group: Group) {
        self.queue.lock().push_front(group);
        self.pollers.notify();
    }

    /// Removes the first group, if there is one.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `fits` returns false; the group stays in the queue.
    pub(super) fn pop_front(&self, fits: impl FnOnce(&Pending) -> bool) -> Result<Option<Group>> {
        let mut queue = self.queue.lock();

        match queue.front() {
            Some(first) if !fits(first) => Err(EINVAL),
            _ => Ok(queue.pop_front()),
        }
    }

    /// Removes the groups for which `which` holds.
    pub(super) fn extract(&self, which: impl FnMut(&Pending) -> bool) -> Queue {
        self.queue.lock().extract(which)
    }

    /// Registers `poller`, to be woken when a group is queued. Returns whether there is one now.
    pub(super) fn poll<'a>(&'a self, poller: &Poller<'a>) -> bool {
        poller.wait_on(&self.pollers);
        !self.queue.lock().is_empty()
    }
}
