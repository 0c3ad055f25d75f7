// SPDX-License-Identifier: GPL-2.0

//! Queues of events of a vIOMMU, to which `driver.c` appends.
//!
//! The structures are those of `iommufd_rust_eventq.h`. Contract: `driver.c` finds a queue in
//! `iommufd_viommu::veventqs` and uses it under a read lock of `veventqs_rwsem`; it accesses the
//! fields behind `common.lock` only under that lock; an event is allocated with `kmalloc()`, is in
//! at most one list, and belongs to the queue once it is appended, after which `driver.c` wakes the
//! pollers. Events are removed from the list only here.
//!
//! A [`ViommuQueue`] leaves the list of its vIOMMU before it is dropped.

use super::layout::{
    Holds,
    Raw, //
};
use core::{
    marker::PhantomPinned,
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    interop::list::{
        CList,
        CListHead, //
    },
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        poll::{
            new_poll_head,
            PollHead, //
        },
        rwsem::{
            new_rwsem,
            RwSemaphore,
            WriteGuard, //
        },
        SpinLock, //
    },
    transmute::AsBytes,
    types::Opaque, //
};

/// The part of `struct iommufd_veventq` that its lock protects.
///
/// # Invariants
///
/// The entries of the list are events that `driver.c` appended, and `lost.node` at most once.
#[repr(C)]
struct Events {
    deliver: bindings::list_head,
    num_events: u32,
    sequence: u32,
    lost: bindings::iommufd_vevent,
}

// SAFETY: The memory behind the pointers belongs to the queue, and to no thread.
unsafe impl Send for Events {}

/// A queue of events: `struct iommufd_veventq`, less the object header.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct EventQueue {
    /// Node in the list of the vIOMMU, protected by the lock of that.
    #[pin]
    node: CListHead,
    type_: bindings::iommu_veventq_type,
    depth: u32,
    #[pin]
    pollers: PollHead,
    #[pin]
    events: SpinLock<Opaque<Events>>,
    #[pin]
    _pin: PhantomPinned,
}

const _: () = {
    use bindings::iommufd_veventq as C;
    // The queue begins where the node is.
    const QUEUE: usize = offset_of!(C, node);
    // The data of a `SpinLock` follows the lock directly, aligned.
    const EVENTS: usize = offset_of!(C, common)
        + size_of::<bindings::spinlock_t>().next_multiple_of(align_of::<Events>());

    assert!(offset_of!(EventQueue, node) == 0);
    assert!(QUEUE + offset_of!(EventQueue, type_) == offset_of!(C, type_));
    assert!(QUEUE + offset_of!(EventQueue, depth) == offset_of!(C, depth));
    assert!(QUEUE + offset_of!(EventQueue, pollers) == offset_of!(C, wait_queue));
    assert!(QUEUE + offset_of!(EventQueue, events) == offset_of!(C, common));
    assert!(EVENTS + offset_of!(Events, deliver) == offset_of!(C, deliver));
    assert!(EVENTS + offset_of!(Events, num_events) == offset_of!(C, num_events));
    assert!(EVENTS + offset_of!(Events, sequence) == offset_of!(C, sequence));
    assert!(EVENTS + offset_of!(Events, lost) == offset_of!(C, lost_events_header));
};

impl EventQueue {
    /// Creates a queue that is in no list.
    fn new(type_: bindings::iommu_veventq_type, depth: u32) -> impl PinInit<Self, Error> {
        let events = Opaque::ffi_init(|slot: *mut Events| {
            // INVARIANT: The list is empty.
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
            node <- CListHead::new(),
            type_,
            depth,
            pollers <- new_poll_head!("iommufd_veventq::pollers"),
            events <- new_spinlock!(events, "iommufd_veventq::events"),
            _pin: PhantomPinned,
        }? Error)
    }

    /// Returns the pollers, which `driver.c` wakes when it has appended an event.
    pub(crate) fn pollers(&self) -> &PollHead {
        &self.pollers
    }

    /// Calls `f` with the events and the head of their list.
    fn with_events<R>(&self, f: impl FnOnce(*mut Events, &CListHead) -> R) -> R {
        let events = self.events.lock();
        let events = events.get();
        // SAFETY: The events are initialised, and their lock is held until `f` has returned: the
        // list does not change otherwise.
        let list = unsafe { CListHead::from_raw(&raw mut (*events).deliver) };

        f(events, list)
    }

    /// Returns whether the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.with_events(|_, list| !list.is_linked())
    }

    /// Removes the first event, or the marker of lost events, if there is one.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it is larger than `room` bytes with its header; it stays in the queue.
    pub(crate) fn fetch(&self, room: usize) -> Result<Option<Vevent>> {
        self.with_events(|events, list| {
            if !list.is_linked() {
                return Ok(None);
            }
            let first = list.next().as_raw();
            // SAFETY: The lock is held. By the invariants of `Events` the entry is either the
            // marker, which is a field of the queue, or the node of an event, which the queue owns.
            let vevent = unsafe {
                let lost = &raw mut (*events).lost;
                if first == &raw mut (*lost).node {
                    Vevent::Lost((*lost).header)
                } else {
                    let event = kernel::container_of!(first, bindings::iommufd_vevent, node);
                    // INVARIANT: The queue owns it, and gives it up below.
                    Vevent::Event(OwnedVevent(NonNull::new_unchecked(event)))
                }
            };
            // On error the queue still owns the event.
            let vevent = ManuallyDrop::new(vevent);
            if vevent.size() > room {
                return Err(EINVAL);
            }
            // SAFETY: The lock is held, and there is no reference to the entry.
            unsafe { CListHead::from_raw(first).del_init() };
            Ok(Some(ManuallyDrop::into_inner(vevent)))
        })
    }

    /// Requeues an event that [`Self::fetch`] removed, and wakes the pollers: one may have found
    /// the queue empty in between.
    pub(crate) fn restore(&self, event: Vevent) {
        self.with_events(|events, list| {
            // SAFETY: The lock is held. The marker is in no list: only this one can have it, which
            // is empty. An owned event is in no list, and the queue owns it from now on.
            unsafe {
                let node = match event {
                    // The sequence numbers of the events behind it show the loss.
                    Vevent::Lost(_) if list.is_linked() => return,
                    Vevent::Lost(_) => &raw mut (*events).lost.node,
                    Vevent::Event(event) => &raw mut (*event.into_raw().as_ptr()).node,
                };
                list.add(CListHead::from_raw(node));
            }
        });
        self.pollers.notify_all();
    }

    /// Frees the place of an event that was fetched and has been read.
    pub(crate) fn consume(&self, event: Vevent) {
        if let Vevent::Event(_) = &event {
            self.with_events(|events, _| {
                // SAFETY: The events are initialised, and their lock is held.
                unsafe { (*events).num_events = (*events).num_events.wrapping_sub(1) };
            });
        }
    }
}

#[pinned_drop]
impl PinnedDrop for EventQueue {
    fn drop(self: Pin<&mut Self>) {
        // A queue that is being dropped is in no list, so no events are added.
        while let Ok(Some(event)) = self.fetch(usize::MAX) {
            drop(event);
        }
    }
}

/// A queue of events of the vIOMMU that `V` holds.
///
/// # Invariants
///
/// The node of `queue` is in a list only if `listed`. That is the list of the vIOMMU.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct ViommuQueue<V: Holds<bindings::iommufd_viommu>> {
    #[pin]
    queue: EventQueue,
    /// The vIOMMU.
    pub(crate) viommu: V,
    listed: Atomic<bool>,
}

impl<V: Holds<bindings::iommufd_viommu>> ViommuQueue<V> {
    /// Creates a queue that is not listed, so that IOMMU drivers do not find it.
    pub(crate) fn new(
        type_: bindings::iommu_veventq_type,
        depth: u32,
        viommu: V,
    ) -> impl PinInit<Self, Error> {
        // INVARIANT: It is in no list.
        try_pin_init!(Self {
            queue <- EventQueue::new(type_, depth),
            viommu,
            listed: Atomic::new(false),
        }? Error)
    }
}

impl<V: Holds<bindings::iommufd_viommu>> Deref for ViommuQueue<V> {
    type Target = EventQueue;

    fn deref(&self) -> &EventQueue {
        &self.queue
    }
}

#[pinned_drop]
impl<V: Holds<bindings::iommufd_viommu>> PinnedDrop for ViommuQueue<V> {
    fn drop(self: Pin<&mut Self>) {
        // The lock is held while a queue is created: an unlisted queue is dropped without taking
        // it.
        if self.listed.load(Relaxed) {
            let list = self.viommu.raw().veventqs().lock();

            // SAFETY: By the type invariants the node is in the list that is locked.
            unsafe { self.queue.node.del_init() };
            drop(list);
        }
    }
}

/// The list in which `driver.c` finds the event queues of a vIOMMU.
///
/// # Invariants
///
/// The entries of the list are nodes of the queues of [`ViommuQueue`]s of that vIOMMU.
#[repr(C)]
#[pin_data]
pub(crate) struct Veventqs {
    /// Changed under `rwsem`.
    #[pin]
    list: CListHead,
    #[pin]
    rwsem: RwSemaphore<()>,
}

const _: () = {
    use bindings::iommufd_viommu as C;
    const LIST: usize = offset_of!(C, veventqs);

    assert!(offset_of!(Veventqs, list) == 0);
    assert!(LIST + offset_of!(Veventqs, rwsem) == offset_of!(C, veventqs_rwsem));
};

impl Veventqs {
    /// Creates an empty list.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- CListHead::new(),
            rwsem <- new_rwsem!((), "iommufd_viommu::veventqs_rwsem"),
        })
    }

    /// Locks the event queues of a vIOMMU.
    pub(crate) fn lock(&self) -> VeventqsGuard<'_> {
        VeventqsGuard {
            list: &self.list,
            _lock: self.rwsem.write(),
        }
    }
}

/// The event queues of a vIOMMU, locked for a change.
pub(crate) struct VeventqsGuard<'a> {
    list: &'a CListHead,
    _lock: WriteGuard<'a, ()>,
}

impl VeventqsGuard<'_> {
    /// Returns whether there is a queue for events of this type.
    pub(crate) fn contains(&self, type_: bindings::iommu_veventq_type) -> bool {
        const NODE: usize = offset_of!(EventQueue, node);

        // SAFETY: The list is initialised, and does not change while it is locked. By the
        // invariants of `Veventqs` its entries are the nodes of queues, which leave the list before
        // they are dropped.
        let queues = unsafe { CList::<EventQueue, NODE>::from_raw(self.list.as_raw()) };

        queues.iter().any(|queue| queue.type_ == type_)
    }

    /// Lists `queue`, which is one of this vIOMMU: IOMMU drivers add events to it until it is
    /// dropped. To be called once for a queue.
    pub(crate) fn add<V: Holds<bindings::iommufd_viommu>>(&mut self, queue: &ViommuQueue<V>) {
        let own = ptr::eq(&queue.viommu.raw().veventqs().list, self.list);

        if kernel::warn_on!(!own || queue.listed.load(Relaxed)) {
            return;
        }
        // INVARIANT: It is the list of the vIOMMU.
        queue.listed.store(true, Relaxed);
        // SAFETY: The list is locked. `ViommuQueue` is pinned, as `new()` is a pin-initializer. By
        // its invariants the node is in no list, and leaves this one before it is dropped, which is
        // before the vIOMMU is, as `V` holds that.
        unsafe { self.list.add_tail(&queue.queue.node) };
    }
}

impl Raw<bindings::iommufd_viommu> {
    /// Returns the event queues.
    fn veventqs(&self) -> &Veventqs {
        // SAFETY: The object is initialised, and has a `Veventqs` there: see `CLayout`.
        unsafe { &*(&raw const (*self.get()).veventqs).cast() }
    }
}

/// An entry of an [`EventQueue`].
pub(crate) enum Vevent {
    /// Events were lost.
    Lost(bindings::iommufd_vevent_header),
    /// An event with its data.
    Event(OwnedVevent),
}

impl Vevent {
    /// Returns the data behind the header.
    pub(crate) fn data(&self) -> &[u8] {
        match self {
            Vevent::Lost(_) => &[],
            Vevent::Event(event) => event.data(),
        }
    }

    /// Returns the size of header and data in bytes.
    pub(crate) fn size(&self) -> usize {
        size_of::<VeventHeader>().saturating_add(self.data().len())
    }

    /// Returns the header for user space.
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

// SAFETY: An event is memory, which belongs to no thread.
unsafe impl Send for OwnedVevent {}

impl OwnedVevent {
    fn header(&self) -> VeventHeader {
        // SAFETY: By the type invariants.
        VeventHeader(unsafe { self.0.as_ref() }.header)
    }

    fn data(&self) -> &[u8] {
        let event = self.0.as_ptr();
        // SAFETY: By the type invariants, `data_len` bytes follow the structure.
        unsafe {
            let data = event
                .cast::<u8>()
                .add(offset_of!(bindings::iommufd_vevent, event_data));
            // CAST: The length comes from a `size_t` that an allocation was made with.
            core::slice::from_raw_parts(data, (*event).data_len as usize)
        }
    }

    fn into_raw(self) -> NonNull<bindings::iommufd_vevent> {
        ManuallyDrop::new(self).0
    }
}

impl Drop for OwnedVevent {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is ours, from kmalloc(), and not used after this.
        unsafe { bindings::kfree(self.0.as_ptr().cast()) };
    }
}
