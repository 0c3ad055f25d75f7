// SPDX-License-Identifier: GPL-2.0

//! The queue of groups of page faults that user space has not read, and its pollers.
//!
//! Queue and pollers are one type, so that queuing always wakes the pollers. This includes a group
//! that is requeued after a failed read: a poller may have found the queue empty in between.
#![forbid(unsafe_code)]

use crate::sys::iopf::{
    FaultGroup,
    FaultGroups, //
};
use kernel::{
    iommu::iopf::Pending,
    new_spinlock,
    prelude::*,
    sync::{
        poll::{
            new_poll_head,
            PollHead,
            Poller, //
        },
        SpinLock, //
    }, //
};

/// Unread groups, in the order in which they are to be read.
#[pin_data]
pub(super) struct Unread {
    #[pin]
    queue: SpinLock<FaultGroups>,
    #[pin]
    pollers: PollHead,
}

impl Unread {
    /// Creates an empty queue.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- new_spinlock!(FaultGroups::new(), "iommufd_fault::queue"),
            pollers <- new_poll_head!("iommufd_fault::pollers"),
        })
    }

    /// Appends a group and wakes the pollers.
    ///
    /// Context: any in which a spinlock can be taken, interrupts excepted.
    pub(super) fn push_back(&self, group: FaultGroup) {
        self.queue.lock().as_mut().push_back(group);
        self.pollers.notify_all();
    }

    /// Requeues a group as the first one and wakes the pollers.
    pub(super) fn push_front(&self, group: FaultGroup) {
        self.queue.lock().as_mut().push_front(group);
        self.pollers.notify_all();
    }

    /// Removes the first group, if there is one.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `fits` returns false; the group stays in the queue.
    pub(super) fn pop_front(
        &self,
        fits: impl FnOnce(&Pending) -> bool,
    ) -> Result<Option<FaultGroup>> {
        let mut queue = self.queue.lock();

        match queue.front() {
            Some(first) if !fits(first) => Err(EINVAL),
            _ => Ok(queue.as_mut().pop_front()),
        }
    }

    /// Moves the groups for which `which` returns true to `to`.
    pub(super) fn extract(&self, to: Pin<&mut FaultGroups>, which: impl FnMut(&Pending) -> bool) {
        self.queue.lock().as_mut().extract(to, which);
    }

    /// Registers `poller`, to be woken when a group is queued. Returns whether there is one now.
    pub(super) fn poll<'a>(&'a self, poller: &Poller<'a>) -> bool {
        poller.register_wait(&self.pollers);
        !self.queue.lock().is_empty()
    }
}
