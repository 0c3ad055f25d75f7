// SPDX-License-Identifier: GPL-2.0

//! The groups of page faults that user space has not read, and those who poll for them.
//!
//! Queue and pollers are one type, so that nothing gets into the queue without waking the pollers.
//! That includes a group that a reader puts back: a poller that has looked in between saw an empty
//! queue and sleeps.
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

    /// Takes out the first group, if there is one.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `fits` refuses it; it stays in the queue.
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

    /// Has `poller` woken when a group is queued. Returns whether there is one now.
    pub(super) fn poll<'a>(&'a self, poller: &Poller<'a>) -> bool {
        poller.register_wait(&self.pollers);
        !self.queue.lock().is_empty()
    }
}
