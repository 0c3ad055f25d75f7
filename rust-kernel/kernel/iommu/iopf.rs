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
    interop::list::clist_create,
    types::Opaque, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        null_mut,
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
/// `self.0` points to a [`Pending`] that nobody else owns, of a device that has its fault queue.
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
    /// - The result must be answered before the device leaves its fault queue: the IOMMU core,
    ///   which then answers what is on the list of the device, does not know of it any more.
    ///
    /// Context: process context; may sleep.
    pub unsafe fn claim(group: NonNull<bindings::iopf_group>) -> Self {
        // SAFETY: The group is valid by the requirements of this function.
        unsafe { bindings::iopf_group_dequeue(group.as_ptr()) };
        // INVARIANT: A handler that returns 0 owns the group; the rest is required.
        Self(group.cast())
    }

    /// Answers the requests.
    ///
    /// Context: process context; may sleep.
    pub fn respond(self, response: Response) {
        ManuallyDrop::new(self).answer(response);
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

/// A queue of groups. It allocates nothing: each group brings its own link.
///
/// # Examples
///
/// ```
/// use kernel::iommu::iopf::{Queue, Response};
///
/// /// Answers the groups that ask for a page of this address space, and keeps the others.
/// fn answer_pasid(queue: &mut Queue, pasid: u32, response: Response) {
///     let mut ours =
///         queue.extract(|group| group.requests().any(|request| request.pasid == pasid));
///
///     while let Some(group) = ours.pop_front() {
///         group.respond(response);
///     }
/// }
///
/// let mut queue = Queue::new();
/// answer_pasid(&mut queue, 1, Response::Success);
/// assert!(queue.is_empty());
/// ```
///
/// Dropping the queue answers what is in it with [`Response::Invalid`], which may sleep. All else
/// does not: a queue can be protected by a spinlock.
///
/// # Invariants
///
/// `first` starts a chain of groups, linked by `node.next` and ended by null, that the queue owns.
/// `last` is the end of the chain, or null if it is empty.
pub struct Queue {
    first: *mut bindings::iopf_group,
    last: *mut bindings::iopf_group,
}

// SAFETY: The queue owns its groups, which may be sent.
unsafe impl Send for Queue {}
// SAFETY: A shared reference gives no more than one to a `Pending`, which is `Sync`.
unsafe impl Sync for Queue {}

impl Queue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            first: null_mut(),
            last: null_mut(),
        }
    }

    /// Whether there is no group in the queue.
    pub fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// The first group.
    pub fn front(&self) -> Option<&Pending> {
        // SAFETY: By the type invariants the queue owns the group, which is not taken out while the
        // queue is borrowed. `Pending` is a transparent wrapper.
        unsafe { self.first.cast::<Pending>().as_ref() }
    }

    /// Appends a group.
    pub fn push_back(&mut self, group: Group) {
        let new = Self::into_link(group);
        // SAFETY: The queue owns the new group, and the last one if there is one. The link is for
        // the owner of the group to use.
        unsafe {
            (*new).node.next = null_mut();
            if self.last.is_null() {
                self.first = new;
            } else {
                (*self.last).node.next = new.cast();
            }
        }
        self.last = new;
    }

    /// Puts a group back where [`Self::pop_front`] took it.
    pub fn push_front(&mut self, group: Group) {
        let new = Self::into_link(group);
        // SAFETY: The queue owns the new group.
        unsafe { (*new).node.next = self.first.cast() };
        self.first = new;
        if self.last.is_null() {
            self.last = new;
        }
    }

    /// Takes out the first group.
    pub fn pop_front(&mut self) -> Option<Group> {
        let first = NonNull::new(self.first)?;
        // SAFETY: The queue owns the group.
        self.first = unsafe { (*first.as_ptr()).node.next.cast() };
        if self.first.is_null() {
            self.last = null_mut();
        }
        // INVARIANT: The queue gives up the group.
        Some(Group(first.cast()))
    }

    /// Takes out the groups for which `which` holds, and keeps the order of both.
    pub fn extract(&mut self, mut which: impl FnMut(&Pending) -> bool) -> Queue {
        let mut out = Queue::new();
        let mut rest = Queue::new();
        while let Some(group) = self.pop_front() {
            if which(&group) {
                out.push_back(group);
            } else {
                rest.push_back(group);
            }
        }
        core::mem::swap(self, &mut rest);
        out
    }

    fn into_link(group: Group) -> *mut bindings::iopf_group {
        ManuallyDrop::new(group).0.as_ptr().cast()
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        while let Some(group) = self.pop_front() {
            drop(group);
        }
    }
}
