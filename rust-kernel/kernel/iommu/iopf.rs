// SPDX-License-Identifier: GPL-2.0

//! I/O page faults.
//!
//! A device that finds no translation for an address asks for the page. Its requests come in
//! groups, and each group is owed one answer, after which the device goes on or gives up. The IOMMU
//! core hands a group to the `iopf_handler` of the domain in which the fault happened; from there
//! on it belongs to the handler.
//!
//! [`Group`] is that ownership: it can be in one place only, and it cannot be lost without an
//! answer.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use crate::{
    bindings,
    container_of,
    device::Device,
    interop::list::{
        clist_create,
        CListHead, //
    },
    prelude::*,
    types::Opaque, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// The answer to a group of page requests.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The pages are there now: try again.
    Success,
    /// The requests cannot be satisfied: do not try again.
    Invalid,
    /// Something is wrong with the device: drop its faults from here on.
    Failure,
}

impl Response {
    fn as_raw(self) -> bindings::iommu_page_response_code {
        match self {
            Response::Success => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_SUCCESS,
            Response::Invalid => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_INVALID,
            Response::Failure => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_FAILURE,
        }
    }
}

/// One page that a device asks for.
#[derive(Copy, Clone, Debug)]
pub struct PageRequest {
    /// `IOMMU_FAULT_PAGE_REQUEST_*`: which of the other fields count, and whether it is the last
    /// request of its group.
    pub flags: u32,
    /// The process address space, where `flags` says so.
    pub pasid: u32,
    /// The number by which the device knows the group.
    pub grpid: u32,
    /// What the device wants to do: `IOMMU_FAULT_PERM_*`.
    pub perm: u32,
    /// The address of the page, an IOVA.
    pub addr: u64,
}

/// A group of page requests that has not been answered.
///
/// # Invariants
///
/// The group is off the list of its device, and the owner of this value is its only user: the
/// requests do not change.
#[repr(transparent)]
pub struct Pending(Opaque<bindings::iopf_group>);

// SAFETY: The only changes are made by the owner.
unsafe impl Sync for Pending {}

impl Pending {
    /// The number of requests.
    pub fn len(&self) -> usize {
        // SAFETY: By the type invariants.
        unsafe { (*self.0.get()).fault_count }
    }

    /// Whether there are no requests. A group has at least one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The requests, the last one at the end.
    pub fn requests(&self) -> impl Iterator<Item = PageRequest> + '_ {
        // SAFETY: By the type invariants the list is initialised and does not change. Its entries
        // are faults of the group.
        let faults = unsafe {
            let head = &raw mut (*self.0.get()).faults;
            clist_create!(head, Fault, bindings::iopf_fault, list)
        };
        faults.iter().map(Fault::request)
    }

    /// The attach handle under which the device faulted.
    ///
    /// Whether it still exists is up to the caller: whoever frees a handle must see to it first
    /// that the groups under it are answered.
    pub fn attach_handle(&self) -> *mut bindings::iommu_attach_handle {
        // SAFETY: By the type invariants.
        unsafe { (*self.0.get()).attach_handle }
    }

    /// Whether it is `dev` that faulted: the attach handle can be that of several devices.
    pub fn is_of(&self, dev: &Device) -> bool {
        // SAFETY: By the type invariants. The group has a reference to the fault parameters, whose
        // device does not change; it is only compared.
        ptr::eq(unsafe { (*(*self.0.get()).fault_param).dev }, dev.as_raw())
    }
}

/// A request as the IOMMU core keeps it.
#[repr(transparent)]
struct Fault(Opaque<bindings::iopf_fault>);

impl Fault {
    fn request(&self) -> PageRequest {
        // SAFETY: A fault in the list of a group was filled in before the group was handed over,
        // and does not change.
        let prm = unsafe { (*self.0.get()).fault.prm };
        PageRequest {
            flags: prm.flags,
            pasid: prm.pasid,
            grpid: prm.grpid,
            perm: prm.perm,
            addr: prm.addr,
        }
    }
}

/// The ownership of a group of page requests, and the duty to answer it.
///
/// Dropping it answers [`Response::Invalid`], which may sleep.
///
/// # Invariants
///
/// `self.0` points to a [`Pending`] that nobody else owns, of a device that the IOMMU core manages.
/// Its `node` is initialised, and in no list.
#[must_use = "the device waits for an answer"]
pub struct Group(NonNull<Pending>);

// SAFETY: A group may be answered from any thread.
unsafe impl Send for Group {}
// SAFETY: A shared reference gives no more than one to a `Pending`, which is `Sync`.
unsafe impl Sync for Group {}

impl Group {
    /// Takes over a group from the IOMMU core, and off the list of its device, from which the core
    /// would answer it in the handler's place.
    ///
    /// # Safety
    ///
    /// - `group` must be the argument of an `iopf_handler` that is running and that returns 0; this
    ///   may be called once for it.
    /// - The result must be answered while the IOMMU core still manages the device that faulted.
    ///   When the device leaves its fault queue, the core answers what is on the list of the
    ///   device: it does not know of this group any more.
    ///
    /// Context: process context; may sleep.
    pub unsafe fn claim(group: NonNull<bindings::iopf_group>) -> Self {
        // SAFETY: The group is valid by the requirements of this function. `node` is for the owner
        // of the group.
        unsafe {
            bindings::iopf_group_dequeue(group.as_ptr());
            bindings::INIT_LIST_HEAD(&raw mut (*group.as_ptr()).node);
        }
        // INVARIANT: A handler that returns 0 owns the group; the rest is required. The node was
        // just initialised.
        Self(group.cast())
    }

    /// Answers the requests.
    ///
    /// Context: process context; may sleep.
    pub fn respond(self, response: Response) {
        ManuallyDrop::new(self).answer(response);
    }

    /// Gives up the group for its node, which is in no list. It stays valid until the group is
    /// taken back by [`group_of`] and dropped.
    fn into_node<'a>(self) -> &'a CListHead {
        let group: *mut bindings::iopf_group = ManuallyDrop::new(self).0.as_ptr().cast();

        // SAFETY: By the type invariants the group is valid and its node is initialised.
        unsafe { CListHead::from_raw(&raw mut (*group).node) }
    }

    /// To be called once, as the end of the group.
    fn answer(&mut self, response: Response) {
        let group = self.0.as_ptr().cast();
        // SAFETY: By the type invariants the group is valid, nobody else refers to it, and the
        // device can be answered. The caller does not use it again.
        unsafe {
            bindings::iopf_group_response(group, response.as_raw());
            bindings::iopf_free_group(group);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.answer(Response::Invalid);
    }
}

impl Deref for Group {
    type Target = Pending;

    fn deref(&self) -> &Pending {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

/// A list of groups, linked by `iopf_group::node`. It allocates nothing.
///
/// # Examples
///
/// ```
/// use kernel::iommu::iopf::{Queue, Response};
/// use pin_init::stack_pin_init;
///
/// /// Answers the groups that ask for a page of this address space, and keeps the others.
/// fn answer_pasid(queue: Pin<&mut Queue>, pasid: u32, response: Response) {
///     stack_pin_init!(let ours = Queue::new());
///     queue.extract(ours.as_mut(), |group| {
///         group.requests().any(|request| request.pasid == pasid)
///     });
///
///     while let Some(group) = ours.as_mut().pop_front() {
///         group.respond(response);
///     }
/// }
///
/// stack_pin_init!(let queue = Queue::new());
/// answer_pasid(queue.as_mut(), 1, Response::Success);
/// assert!(queue.is_empty());
/// assert!(queue.as_mut().pop_front().is_none());
/// ```
///
/// Dropping the queue answers what is in it with [`Response::Invalid`], which may sleep. All else
/// does not: a queue can be protected by a spinlock.
///
/// # Invariants
///
/// The entries of the list are the `node`s of groups that the queue owns.
#[pin_data(PinnedDrop)]
pub struct Queue {
    #[pin]
    groups: CListHead,
}

impl Queue {
    /// Creates an empty queue.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: There is no entry.
            groups <- CListHead::new(),
        })
    }

    /// Returns whether there is no group in the queue.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.groups.is_linked()
    }

    /// Returns the first group.
    pub fn front(&self) -> Option<&Pending> {
        let first = self.groups.next();
        if *first == self.groups {
            return None;
        }
        // SAFETY: By the type invariants it is the node of a group that the queue owns, which is
        // not taken out while the queue is borrowed.
        Some(unsafe { group_of(first).as_ref() })
    }

    /// Appends a group.
    pub fn push_back(self: Pin<&mut Self>, group: Group) {
        // INVARIANT: The queue takes over the group.
        // SAFETY: The queue is borrowed exclusively. The node is in no list by the invariants of
        // `Group`, and stays valid as long as the queue owns the group.
        unsafe { self.groups.add_tail(group.into_node()) };
    }

    /// Inserts a group as the first one: requeues what [`Self::pop_front`] has taken.
    pub fn push_front(self: Pin<&mut Self>, group: Group) {
        // INVARIANT: The queue takes over the group.
        // SAFETY: As in `push_back()`.
        unsafe { self.groups.add(group.into_node()) };
    }

    /// Takes out the first group.
    pub fn pop_front(self: Pin<&mut Self>) -> Option<Group> {
        let first = self.groups.next();
        if *first == self.groups {
            return None;
        }
        // SAFETY: By the type invariants it is the node of a group.
        let group = unsafe { group_of(first) };
        // SAFETY: The queue is borrowed exclusively, and nobody else has a reference to the node.
        unsafe { first.del_init() };
        // INVARIANT: The queue gives up the group, whose node is in no list now.
        Some(Group(group))
    }

    /// Moves the groups for which `which` returns true to the end of `to`. The order of both is
    /// kept.
    pub fn extract(
        self: Pin<&mut Self>,
        to: Pin<&mut Queue>,
        mut which: impl FnMut(&Pending) -> bool,
    ) {
        let mut node = self.groups.next();

        while *node != self.groups {
            let next = node.next();
            // SAFETY: By the type invariants it is the node of a group that the queue owns.
            if which(unsafe { group_of(node).as_ref() }) {
                // INVARIANT: The group goes from one queue to the other.
                // SAFETY: Both queues are borrowed exclusively. The group stays valid, and so does
                // its node, which is in no list in between.
                unsafe {
                    node.del_init();
                    to.groups.add_tail(node);
                }
            }
            node = next;
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Queue {
    fn drop(mut self: Pin<&mut Self>) {
        while let Some(group) = self.as_mut().pop_front() {
            drop(group);
        }
    }
}

/// Returns the group that `node` is in.
///
/// # Safety
///
/// `node` must be the `node` of an `iopf_group`.
#[inline]
unsafe fn group_of(node: &CListHead) -> NonNull<Pending> {
    // SAFETY: By the requirements of this function.
    let group = unsafe { container_of!(node.as_raw(), bindings::iopf_group, node) };

    // SAFETY: It has a field with an address.
    unsafe { NonNull::new_unchecked(group) }.cast()
}
