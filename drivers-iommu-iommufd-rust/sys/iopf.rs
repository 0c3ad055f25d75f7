// SPDX-License-Identifier: GPL-2.0

//! Page faults that the IOMMU core hands over.
//!
//! Contract with the IOMMU core: it calls the handler of a domain's faults with a group whose
//! attach handle is one of [`handle`](super::handle), which is attached. Handle, domain, HWPT and
//! fault queue live until the handler has counted the group: detaching waits for handlers, except
//! on replace, see there. The device is managed by the core as long as it is bound.
//!
//! A [`FaultGroup`] is counted in its handle: detaching waits until all of them are answered.

use super::{
    handle,
    hwpt::HwptLayout,
    layout::AsC, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    iommu::iopf::{
        Group,
        Pending,
        Queue,
        Response, //
    },
    prelude::*, //
};

/// A HWPT, with the destination of its page faults.
pub(crate) trait FaultRoute {
    /// Returns the fault queue of the HWPT, if it has one. It does not change once a device is
    /// attached.
    fn fault_queue(&self) -> Option<&impl FaultQueue>;
}

/// A consumer of groups of page faults.
pub(crate) trait FaultQueue {
    /// Takes ownership of a group, which is answered before the device is detached for good.
    ///
    /// Context: any in which a spinlock can be taken, interrupts excepted.
    fn deliver(&self, group: FaultGroup);
}

/// A HWPT handle that answers page faults on detach.
pub(crate) trait AnswerFaults {
    /// Answers the groups that refer to `handle`, which is not attached any more, so no group is
    /// added. The handle is not dereferenced.
    ///
    /// Context: process context; may sleep.
    fn answer_faults(&self, handle: *const bindings::iommu_attach_handle);
}

/// A group of page requests. Dropping it answers [`Response::Invalid`], which may sleep.
///
/// # Invariants
///
/// It is counted in its handle, by [`handle::count_fault`].
#[must_use = "the device waits for an answer"]
pub(crate) struct FaultGroup(ManuallyDrop<Group>);

impl FaultGroup {
    /// Answers the requests.
    ///
    /// Context: process context; may sleep.
    pub(crate) fn respond(self, response: Response) {
        let handle = self.attach_handle();

        self.into_group().respond(response);
        // SAFETY: By the type invariants the group is counted, and it was just answered.
        unsafe { handle::put_fault(handle) };
    }

    /// Returns the id of the leader of the devices whose page faults these are. It can change while
    /// they are queued: when the leader is detached, another device replaces it.
    pub(crate) fn leader_id(&self) -> u32 {
        // SAFETY: By the type invariants the group was counted.
        unsafe { handle::leader_id(self.attach_handle()) }
    }

    /// Returns the inner group, which stays counted.
    fn into_group(self) -> Group {
        let mut this = ManuallyDrop::new(self);

        // SAFETY: `this` is not used again, and not dropped.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl Deref for FaultGroup {
    type Target = Pending;

    fn deref(&self) -> &Pending {
        &self.0
    }
}

impl Drop for FaultGroup {
    fn drop(&mut self) {
        let handle = self.attach_handle();

        // SAFETY: `self` is being dropped, and does not use it again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
        // SAFETY: By the type invariants the group is counted, and it was just answered.
        unsafe { handle::put_fault(handle) };
    }
}

/// A queue of groups. Dropping it answers what is in it, as [`FaultGroup`] does.
///
/// # Invariants
///
/// All groups in the queue are counted, as those of [`FaultGroup`]s are.
#[pin_data(PinnedDrop)]
pub(crate) struct FaultGroups {
    #[pin]
    queue: Queue,
}

impl FaultGroups {
    /// Creates an empty queue.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- Queue::new(),
        })
    }

    /// Returns whether the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns the first group.
    pub(crate) fn front(&self) -> Option<&Pending> {
        self.queue.front()
    }

    /// Appends a group.
    pub(crate) fn push_back(self: Pin<&mut Self>, group: FaultGroup) {
        self.project().queue.push_back(group.into_group());
    }

    /// Requeues a group as the first one.
    pub(crate) fn push_front(self: Pin<&mut Self>, group: FaultGroup) {
        self.project().queue.push_front(group.into_group());
    }

    /// Removes the first group.
    pub(crate) fn pop_front(self: Pin<&mut Self>) -> Option<FaultGroup> {
        let group = self.project().queue.pop_front()?;

        // INVARIANT: It is counted, by the type invariants.
        Some(FaultGroup(ManuallyDrop::new(group)))
    }

    /// Moves the groups for which `which` returns true to the end of `to`. Both keep their order.
    pub(crate) fn extract(
        self: Pin<&mut Self>,
        to: Pin<&mut Self>,
        which: impl FnMut(&Pending) -> bool,
    ) {
        self.project().queue.extract(to.project().queue, which);
    }
}

#[pinned_drop]
impl PinnedDrop for FaultGroups {
    fn drop(mut self: Pin<&mut Self>) {
        while let Some(group) = self.as_mut().pop_front() {
            drop(group);
        }
    }
}

/// Makes the IOMMU core hand page faults of the domain of a HWPT, which was
/// [linked](super::hwpt::link), to the fault queue of the HWPT.
pub(crate) fn route<H, C>(hwpt: &H)
where
    H: FaultRoute + AsC<C>,
    C: HwptLayout,
{
    let hwpt = C::common(hwpt.as_c()).get();

    // SAFETY: The HWPT is initialised as far as C accesses it, so that it has a domain. The handler
    // is written as a whole. It is called while the domain is attached: `Attachment` ensures that
    // the domain points back to its HWPT, which is an `H`.
    unsafe { (&raw mut (*(*hwpt).domain).iopf_handler).write_volatile(Some(handler::<H>)) };
}

/// The `iopf_handler` of HWPTs that have a fault queue.
///
/// # Safety
///
/// `group` must be as the contract at the top of this file says, of the domain of a HWPT that is an
/// `H`. If this returns 0, it takes ownership of the group.
unsafe extern "C" fn handler<H: FaultRoute>(group: *mut bindings::iopf_group) -> c_int {
    // SAFETY: By the requirements of this function the handle is attached; the attachment holds the
    // HWPT that the domain names.
    let (hwpt, handle): (&H, _) = unsafe {
        let handle = (*group).attach_handle;
        let domain = (*handle).domain;

        (&*(*domain).__bindgen_anon_1.iommufd_hwpt.cast(), handle)
    };
    let (Some(queue), Some(group)) = (hwpt.fault_queue(), NonNull::new(group)) else {
        // Not a HWPT with a fault queue: the core keeps the group.
        return ENODEV.to_errno();
    };
    // SAFETY: By the requirements of this function the handle is attached, with an `Attachment`:
    // its domain is linked to a HWPT.
    unsafe { handle::count_fault(handle) };
    // SAFETY: This is the handler, and it returns 0. The group is counted, so the device is not
    // detached for good before the group is answered.
    let group = unsafe { Group::claim(group) };
    // INVARIANT: It was just counted.
    queue.deliver(FaultGroup(ManuallyDrop::new(group)));
    0
}
