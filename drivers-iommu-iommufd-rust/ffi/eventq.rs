// SPDX-License-Identifier: GPL-2.0

//! Event queues where C has a hand in them.
//!
//! The IOMMU core calls the fault handler of a HWPT's domain. Contract: `domain->iommufd_hwpt` was
//! set when the domain was created, and the HWPT lives, with its fault queue, until no device is
//! attached to it any more and the core has ended all calls of the handler that came from attached
//! devices.
//!
//! `driver.c` appends events to the queues of a vIOMMU, in the structures of
//! `iommufd_rust_eventq.h`. Contract: it finds a queue in `iommufd_viommu::veventqs` and uses it
//! under a read lock of `veventqs_rwsem`; it touches what comes after `common.lock` under that lock
//! only; an event is in one list at most, allocated with `kmalloc()`, and belongs to the queue from
//! when it is appended. Reading takes events off the list; that is done here.

use crate::{
    context::Context,
    eventq::Fault,
    object::{
        Kind,
        Object,
        User, //
    },
    viommu::Viommu, //
};
use core::{
    marker::PhantomPinned,
    mem::offset_of,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    fs::anon_inode::{
        new_poll_head,
        PollHead, //
    },
    iommu::iopf::{
        Group,
        PageRequest,
        Pending, //
    },
    new_spinlock,
    prelude::*,
    sync::SpinLock,
    transmute::AsBytes,
    types::Opaque,
    uaccess::UserSliceReader, //
};

/// A page fault as `read()` tells it: `struct iommu_hwpt_pgfault`.
#[repr(transparent)]
pub(crate) struct PageFault(bindings::iommu_hwpt_pgfault);

// SAFETY: Integers without padding: the sum of their sizes is that of the structure.
unsafe impl AsBytes for PageFault {}
const _: () = assert!(size_of::<PageFault>() == size_of::<[u32; 8]>() + size_of::<u64>());

impl PageFault {
    pub(crate) fn new(request: &PageRequest, dev_id: u32, cookie: u32) -> Self {
        Self(bindings::iommu_hwpt_pgfault {
            flags: request.flags,
            dev_id,
            pasid: request.pasid,
            grpid: request.grpid,
            perm: request.perm,
            __reserved: 0,
            addr: request.addr,
            length: 0,
            cookie,
        })
    }
}

/// An answer as `write()` brings it: `struct iommu_hwpt_page_response`.
pub(crate) struct PageResponse {
    pub(crate) cookie: u32,
    pub(crate) code: u32,
}

const _: () = assert!(size_of::<PageResponse>() == size_of::<bindings::iommu_hwpt_page_response>());
const _: () = assert!(offset_of!(bindings::iommu_hwpt_page_response, code) == size_of::<u32>());

impl PageResponse {
    pub(crate) fn read(data: &mut UserSliceReader) -> Result<Self> {
        let [cookie, code] = data.read::<[u32; 2]>()?;
        Ok(Self { cookie, code })
    }
}

/// The id of the device whose requests these are.
pub(crate) fn device_id(group: &Pending) -> u32 {
    // SAFETY: A group that is in a fault queue came in through the handler below, under a handle
    // that is the first field of a `struct iommufd_attach_handle`. The handle is not freed before
    // `Fault::auto_respond()` has been called for it, and that takes the group from the queue under
    // a lock that the caller, who reads the queue, holds.
    unsafe {
        (*group
            .attach_handle()
            .cast::<bindings::iommufd_attach_handle>())
        .dev_id
    }
}
const _: () = assert!(offset_of!(bindings::iommufd_attach_handle, handle) == 0);

/// The `iopf_handler` of HWPTs that have a fault queue.
///
/// # Safety
///
/// To be called by the IOMMU core, for a group whose attach handle is one of a domain of such a
/// HWPT.
pub(crate) unsafe extern "C" fn iommufd_fault_iopf_handler(
    group: *mut bindings::iopf_group,
) -> c_int {
    // SAFETY: The IOMMU core passes a valid group and waits for the handler before the domain goes.
    let fault: Option<&Object<Fault>> =
        unsafe { super::hwpt::fault_of((*(*group).attach_handle).domain) };
    let (Some(fault), Some(group)) = (fault, NonNull::new(group)) else {
        // Not a HWPT with a fault queue: the core keeps the group.
        return ENODEV.to_errno();
    };
    // SAFETY: This is the handler, and it returns 0.
    fault.deliver(unsafe { Group::claim(group) });
    0
}

/// The part of `struct iommufd_veventq` that its lock protects.
#[repr(C)]
struct Events {
    deliver: bindings::list_head,
    num_events: u32,
    sequence: u32,
    lost: bindings::iommufd_vevent,
}

/// The events of one type of a vIOMMU: `struct iommufd_veventq`, less the object header, and with
/// the Rust part at the end.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Veventq {
    #[pin]
    node: Opaque<bindings::list_head>,
    type_: bindings::iommu_veventq_type,
    depth: u32,
    #[pin]
    pollers: PollHead,
    #[pin]
    events: SpinLock<Opaque<Events>>,
    viommu: User<Viommu>,
    #[pin]
    _pin: PhantomPinned,
}

/// Asserts that a field of the data of an object is where C has it.
macro_rules! same_offset {
    ($rust:ty, $field:ident, $c:ident, $($cfield:tt)+) => {
        const _: () = assert!(
            super::viommu::data_offset::<$rust>() + core::mem::offset_of!($rust, $field)
                == core::mem::offset_of!(bindings::$c, $($cfield)+)
        );
    };
}
pub(super) use same_offset;

same_offset!(Veventq, node, iommufd_veventq, node);
same_offset!(Veventq, type_, iommufd_veventq, type_);
same_offset!(Veventq, depth, iommufd_veventq, depth);
same_offset!(Veventq, pollers, iommufd_veventq, wait_queue);
same_offset!(Veventq, events, iommufd_veventq, common);
// What a lock protects follows it directly, aligned.
const _: () = {
    let events = offset_of!(bindings::iommufd_veventq, common)
        + size_of::<bindings::spinlock_t>().next_multiple_of(align_of::<Events>());
    assert!(
        events + offset_of!(Events, num_events)
            == offset_of!(bindings::iommufd_veventq, num_events)
    );
    assert!(
        events + offset_of!(Events, sequence) == offset_of!(bindings::iommufd_veventq, sequence)
    );
    assert!(events + offset_of!(Events, deliver) == offset_of!(bindings::iommufd_veventq, deliver));
    assert!(
        events + offset_of!(Events, lost)
            == offset_of!(bindings::iommufd_veventq, lost_events_header)
    );
};

// SAFETY: The node is used under the lock of the vIOMMU's queues, the events under their own.
unsafe impl Send for Veventq {}
// SAFETY: As above.
unsafe impl Sync for Veventq {}

impl Kind for Veventq {
    fn destroy(this: &Object<Self>, _ctx: &Context) {
        this.viommu.veventqs().remove(this);
    }
}

impl Veventq {
    /// A queue that is in no list yet.
    pub(crate) fn new(
        type_: bindings::iommu_veventq_type,
        depth: u32,
        viommu: User<Viommu>,
    ) -> impl PinInit<Self, Error> {
        let events = Opaque::ffi_init(|slot: *mut Events| {
            // SAFETY: `slot` is valid for writes and stays where it is.
            unsafe {
                slot.write_bytes(0, 1);
                bindings::INIT_LIST_HEAD(&raw mut (*slot).deliver);
                bindings::INIT_LIST_HEAD(&raw mut (*slot).lost.node);
                (*slot).lost.header.flags =
                    bindings::iommu_veventq_flag_IOMMU_VEVENTQ_FLAG_LOST_EVENTS;
            }
        });
        try_pin_init!(Self {
            // SAFETY: `slot` is valid for writes and stays where it is.
            node <- Opaque::ffi_init(|slot| unsafe { bindings::INIT_LIST_HEAD(slot) }),
            type_,
            depth,
            pollers <- new_poll_head!("iommufd_veventq::pollers"),
            events <- new_spinlock!(events, "iommufd_veventq::events"),
            viommu,
            _pin: PhantomPinned,
        }? Error)
    }

    /// The vIOMMU whose events these are.
    pub(crate) fn viommu(&self) -> &Object<Viommu> {
        &self.viommu
    }

    /// The queue that `driver.c` notifies when it has appended an event.
    pub(crate) fn pollers(&self) -> &PollHead {
        &self.pollers
    }

    /// Whether there is nothing to read.
    pub(crate) fn is_empty(&self) -> bool {
        let events = self.events.lock();
        // SAFETY: The events are initialised, and their lock is held.
        unsafe { list_is_empty(&raw const (*events.get()).deliver) }
    }

    /// Takes out the first event, or a note that some were lost.
    pub(crate) fn fetch(&self) -> Option<Vevent> {
        let events = self.events.lock();
        let events = events.get();
        // SAFETY: The events are initialised, and their lock is held. What is in the list are the
        // events that `driver.c` appended, and at most once the header for lost ones.
        unsafe {
            let deliver = &raw mut (*events).deliver;
            if list_is_empty(deliver) {
                return None;
            }
            let first = (*deliver).next;
            list_del(first);
            let lost = &raw mut (*events).lost;
            if core::ptr::eq(first, &raw const (*lost).node) {
                return Some(Vevent::Lost((*lost).header));
            }
            let event = first.byte_sub(offset_of!(bindings::iommufd_vevent, node));
            // INVARIANT: The event is off the list, so this is its only owner.
            Some(Vevent::Event(OwnedVevent(NonNull::new_unchecked(
                event.cast(),
            ))))
        }
    }

    /// Puts back what [`Self::fetch`] took out.
    pub(crate) fn restore(&self, event: Vevent) {
        let events = self.events.lock();
        let events = events.get();
        // SAFETY: The events are initialised, and their lock is held.
        unsafe {
            let deliver = &raw mut (*events).deliver;
            let node = match event {
                // The events behind it tell by their numbers that some were lost.
                Vevent::Lost(_) if !list_is_empty(deliver) => return,
                Vevent::Lost(_) => &raw mut (*events).lost.node,
                Vevent::Event(event) => &raw mut (*event.into_raw().as_ptr()).node,
            };
            list_add(node, deliver);
        }
    }

    /// An event that was fetched has been read: makes room for another one.
    pub(crate) fn consume(&self, event: Vevent) {
        if let Vevent::Event(_) = &event {
            let events = self.events.lock();
            let events = events.get();
            // SAFETY: The events are initialised, and their lock is held.
            unsafe { (*events).num_events = (*events).num_events.wrapping_sub(1) };
        }
        drop(event);
    }

    /// The node in the list of the vIOMMU, to be used under the lock of that list.
    pub(super) fn node(&self) -> *mut bindings::list_head {
        self.node.get()
    }

    /// The queue of a node.
    ///
    /// # Safety
    ///
    /// `node` must come from [`Self::node`] of a queue that lives for `'a`.
    pub(super) unsafe fn from_node<'a>(node: *mut bindings::list_head) -> &'a Self {
        // SAFETY: By the requirements of this function.
        unsafe { &*node.byte_sub(offset_of!(Self, node)).cast() }
    }

    /// The type of the events.
    pub(super) fn type_(&self) -> bindings::iommu_veventq_type {
        self.type_
    }
}

#[pinned_drop]
impl PinnedDrop for Veventq {
    fn drop(self: Pin<&mut Self>) {
        // A queue that is being dropped is in no list, so that there are no new events.
        while let Some(event) = self.fetch() {
            drop(event);
        }
    }
}

/// What `read()` finds in a [`Veventq`].
pub(crate) enum Vevent {
    /// Events were lost.
    Lost(bindings::iommufd_vevent_header),
    /// An event with its data.
    Event(OwnedVevent),
}

impl Vevent {
    /// The number of bytes of data behind the header.
    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Vevent::Lost(_) => &[],
            Vevent::Event(event) => event.data(),
        }
    }

    /// The header as user space gets it.
    pub(crate) fn header(&self) -> VeventHeader {
        match self {
            Vevent::Lost(header) => VeventHeader(*header),
            Vevent::Event(event) => event.header(),
        }
    }
}

/// The header of an event: `struct iommufd_vevent_header`.
#[repr(transparent)]
pub(crate) struct VeventHeader(bindings::iommufd_vevent_header);

// SAFETY: Two integers without padding.
unsafe impl AsBytes for VeventHeader {}
const _: () = assert!(size_of::<VeventHeader>() == size_of::<[u32; 2]>());

/// An event that is in no list.
///
/// # Invariants
///
/// Points to an event from `driver.c` that this owns: `data_len` bytes of data follow the
/// structure, in one `kmalloc()` allocation.
pub(crate) struct OwnedVevent(NonNull<bindings::iommufd_vevent>);

// SAFETY: An event is data.
unsafe impl Send for OwnedVevent {}

impl OwnedVevent {
    fn header(&self) -> VeventHeader {
        // SAFETY: By the type invariants.
        VeventHeader(unsafe { self.0.as_ref() }.header)
    }

    fn data(&self) -> &[u8] {
        let event = self.0.as_ptr();
        // SAFETY: By the type invariants. `driver.c` refuses events without data, and lengths come
        // from a `size_t` that an allocation was made with.
        unsafe {
            let data = event
                .cast::<u8>()
                .add(offset_of!(bindings::iommufd_vevent, event_data));
            // CAST: As just said.
            core::slice::from_raw_parts(data, (*event).data_len as usize)
        }
    }

    fn into_raw(self) -> NonNull<bindings::iommufd_vevent> {
        core::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for OwnedVevent {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::kfree(self.0.as_ptr().cast()) };
    }
}

/// # Safety
///
/// `head` must be an initialised list, whose lock is held.
pub(super) unsafe fn list_is_empty(head: *const bindings::list_head) -> bool {
    // SAFETY: By the requirements of this function.
    core::ptr::eq(unsafe { (*head).next }, head)
}

/// Inserts `new` at the front of a list.
///
/// # Safety
///
/// `head` must be an initialised list, whose lock is held, and `new` must be in no list and stay
/// valid while it is in this one.
unsafe fn list_add(new: *mut bindings::list_head, head: *mut bindings::list_head) {
    // SAFETY: By the requirements of this function. All entries of a list are valid.
    unsafe {
        let next = (*head).next;
        (*new).next = next;
        (*new).prev = head;
        (*next).prev = new;
        (*head).next = new;
    }
}

/// Takes `node` out of its list, and leaves it as a list of its own.
///
/// # Safety
///
/// `node` must be in a list, whose lock is held.
pub(super) unsafe fn list_del(node: *mut bindings::list_head) {
    // SAFETY: By the requirements of this function. All entries of a list are valid.
    unsafe {
        let (prev, next) = ((*node).prev, (*node).next);
        (*prev).next = next;
        (*next).prev = prev;
        bindings::INIT_LIST_HEAD(node);
    }
}
