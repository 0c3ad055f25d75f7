// SPDX-License-Identifier: GPL-2.0

//! Tables of objects that are found by id, under RCU.
//!
//! An [`IdTable`] gives out ids and maps them to objects. It is an [`xarray`] used in one
//! particular way, in which three moments are kept apart:
//!
//! 1. [`IdTable::reserve`] allocates an id. Readers do not see it yet, and everything that may fail
//!    is done while the id is only reserved.
//! 2. [`Reservation::publish`] makes the object visible. It cannot fail.
//! 3. [`Guard::into_entry`] finds it again under the lock, from where [`Entry::remove`] takes it
//!    out, and [`Entry::bury`] does so but keeps the id from being used again. Both give up the
//!    lock: what they return can be dropped where its destructor may sleep.
//!
//! Readers ([`IdTable::load`]) take no lock and write nothing. They get a reference that is valid
//! while the RCU read lock is held, which is long enough to take a reference count on the object,
//! if it still has one to give.
//!
//! Memory order: the xarray publishes by `rcu_assign_pointer()`, after which a reader's loads
//! depend on the address that it has loaded, so it sees what was written to the object before. A
//! reader that has loaded the pointer just before it was removed reads memory that is still the
//! object's, as its owner waits for a grace period after that. (`IOMMUFD+publish+lookup` and
//! `IOMMUFD+lookup+free` in `Documentation/litmus-tests/iommufd/`.)
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)
//!
//! [`xarray`]: crate::xarray

use crate::{
    alloc::Flags,
    bindings,
    error::to_result,
    prelude::*,
    sync::{
        rcu,
        LockClassKey, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ops::{
        Deref,
        RangeInclusive, //
    },
    ptr::{
        null_mut,
        NonNull, //
    }, //
};

/// Creates an [`IdTable`] initialiser with the given name and a newly-created lock class.
///
/// It uses the name if one is given, otherwise it generates one based on the file name and line
/// number.
#[macro_export]
macro_rules! new_id_table {
    ($($name:literal)?) => {
        $crate::id_table::IdTable::new(
            $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}
pub use new_id_table;

/// An owning pointer that an [`IdTable`] can hold.
///
/// # Safety
///
/// - `into_raw()` returns a pointer that is aligned to at least 4 bytes and valid for shared access
///   until it is handed to `from_raw()`.
/// - The owner that `from_raw()` returns gives safe code no exclusive access to the target: readers
///   that found it in the table may still look at it.
/// - After that owner is dropped, the target must stay valid for shared access until an RCU grace
///   period has passed.
pub unsafe trait RcuPointer: Sized {
    /// What readers see.
    type Target: Sync;

    /// Turns the owner into a raw pointer.
    fn into_raw(self) -> NonNull<Self::Target>;

    /// Turns the raw pointer back into the owner.
    ///
    /// # Safety
    ///
    /// `ptr` must come from `into_raw()`. The owner that is returned must be the only one, or not
    /// be dropped and not be used for longer than the pointer is owned otherwise. When an owner has
    /// been dropped, shared references to the target may only be used under the RCU read lock.
    unsafe fn from_raw(ptr: NonNull<Self::Target>) -> Self;
}

/// A table that allocates ids and finds objects by them.
///
/// Instances need a lock class and to be pinned; create them with [`new_id_table!`].
///
/// # Invariants
///
/// `self.xa` is an initialised xarray that tracks free entries. Each of its entries is either
/// `XA_ZERO_ENTRY` (reserved, or buried) or a pointer from [`RcuPointer::into_raw`] that the table
/// owns.
///
/// # Examples
///
/// ```
/// use core::{ptr::NonNull, pin::Pin};
/// use kernel::{
///     id_table::{new_id_table, IdTable, RcuPointer},
///     sync::rcu::{self, RcuFreeBox},
/// };
///
/// struct Number(RcuFreeBox<u32>);
///
/// // SAFETY: The box is aligned for a pointer, its memory lives on for a grace period, and
/// // cleaning up a `u32` does not change it.
/// unsafe impl RcuPointer for Number {
///     type Target = u32;
///     fn into_raw(self) -> NonNull<u32> {
///         RcuFreeBox::into_raw(Pin::new(self.0))
///     }
///     unsafe fn from_raw(ptr: NonNull<u32>) -> Self {
///         // SAFETY: `ptr` comes from `into_raw()`.
///         Self(Pin::into_inner(unsafe { RcuFreeBox::from_raw(ptr) }))
///     }
/// }
///
/// let table: Pin<KBox<IdTable<Number>>> =
///     KBox::pin_init(new_id_table!("numbers"), GFP_KERNEL)?;
/// let slot = table.reserve(1..=31, GFP_KERNEL)?;
/// let id = slot.id();
/// assert_eq!(id, 1);
/// assert_eq!(table.load(id, &rcu::read_lock()), None);
/// slot.publish(Number(RcuFreeBox::new(42, GFP_KERNEL)?));
/// assert_eq!(table.load(id, &rcu::read_lock()), Some(&42));
///
/// // Who has the lock sees the owner.
/// assert_eq!(*table.lock().get(id).ok_or(ENOENT)?.0, 42);
///
/// // A reservation that is dropped gives its id back.
/// drop(table.reserve(1..=31, GFP_KERNEL)?);
/// assert_eq!(table.reserve(1..=31, GFP_KERNEL)?.id(), 2);
///
/// // What is removed is gone for new readers, a buried id is not used again. The lock is released
/// // before the object is dropped.
/// drop(table.lock().into_entry(id).ok_or(ENOENT)?.bury());
/// assert!(table.lock().into_entry(id).is_none());
/// assert_eq!(table.load(id, &rcu::read_lock()), None);
/// assert_eq!(table.reserve(1..=31, GFP_KERNEL)?.id(), 2);
///
/// // The table drops what is left in it.
/// let slot = table.reserve(1..=31, GFP_KERNEL)?;
/// let number = Number(RcuFreeBox::new(43, GFP_KERNEL)?);
/// // A last look, and the publication, in one step.
/// let mut guard = table.lock();
/// assert!(guard.find(0).is_none());
/// slot.publish_locked(&mut guard, number);
/// drop(guard);
/// drop(table);
/// # Ok::<(), Error>(())
/// ```
#[pin_data(PinnedDrop)]
pub struct IdTable<P: RcuPointer> {
    #[pin]
    xa: Opaque<bindings::xarray>,
    /// Invariant in `P`, as objects are put in through shared references: a table of those that
    /// live long must not pass for one of those that live shorter.
    _p: PhantomData<UnsafeCell<P>>,
}

// SAFETY: The table owns its objects, and the xarray can be used from any thread.
unsafe impl<P: RcuPointer + Send> Send for IdTable<P> {}
// SAFETY: Changes are serialised by the lock of the xarray, and readers get shared references to
// `P::Target`, which is `Sync`.
unsafe impl<P: RcuPointer + Send> Sync for IdTable<P> {}

#[pinned_drop]
impl<P: RcuPointer> PinnedDrop for IdTable<P> {
    fn drop(self: Pin<&mut Self>) {
        loop {
            let table = self.lock();
            let Some((id, _)) = table.find(0) else { break };
            // The lock is released first: the destructor may sleep, and may use the table.
            drop(table.into_entry(id).map(Entry::remove));
        }
        // SAFETY: The xarray is initialised, and the remaining entries own nothing.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}

impl<P: RcuPointer> IdTable<P> {
    /// Constructs an empty table, whose own memory is charged to the memory cgroup of its users.
    /// Usually called through [`new_id_table!`].
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: The xarray is initialised here, empty.
            // SAFETY: `xa` is valid while the closure is called, and `name` and `key` are static.
            xa <- Opaque::ffi_init(|xa| unsafe {
                bindings::xa_init_flags(
                    xa,
                    bindings::XA_FLAGS_ALLOC1 | bindings::XA_FLAGS_ACCOUNT,
                );
                bindings::xa_set_lock_class(xa, name.as_char_ptr(), key.as_ptr());
            }),
            _p: PhantomData,
        })
    }

    /// Reserves the lowest free id of `ids`. There is no id 0.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if all ids are in use, [`ENOMEM`] for lack of memory.
    ///
    /// Context: may sleep if `flags` allow.
    pub fn reserve(&self, ids: RangeInclusive<u32>, flags: Flags) -> Result<Reservation<'_, P>> {
        let mut id = 0;
        let limit = bindings::xa_limit {
            min: *ids.start(),
            max: *ids.end(),
        };
        // SAFETY: The xarray is initialised and tracks free entries. Without an entry, the xarray
        // stores `XA_ZERO_ENTRY`.
        to_result(unsafe {
            bindings::xa_alloc(self.xa.get(), &mut id, null_mut(), limit, flags.as_raw())
        })?;
        // INVARIANT: The id was just allocated.
        Ok(Reservation { table: self, id })
    }

    /// Finds a published object.
    ///
    /// The reference is good for as long as the RCU read lock is held. By then the object may have
    /// been removed from the table already.
    pub fn load<'rcu>(&'rcu self, id: u32, _rcu: &'rcu rcu::Guard) -> Option<&'rcu P::Target> {
        let mut walk = Walk::new(self.xa.get(), id);
        // SAFETY: The xarray is initialised, and `_rcu` is held.
        let object = unsafe { walk.load() };
        // SAFETY: By the type invariants the pointer comes from `P::into_raw()`. If the table gave
        // it up since, it stays valid for a grace period, which cannot end while `_rcu` lives.
        object.map(|object| unsafe { object.cast().as_ref() })
    }

    /// Locks the table for changes.
    ///
    /// Context: the lock is a spinlock; the holder must not sleep.
    pub fn lock(&self) -> Guard<'_, P> {
        // SAFETY: The xarray is initialised.
        unsafe { bindings::xa_lock(self.xa.get()) };
        // INVARIANT: The lock was just taken.
        Guard {
            table: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// An id that is taken but that readers do not see.
///
/// Dropping it frees the id.
///
/// # Invariants
///
/// The entry of `self.id` in the table is `XA_ZERO_ENTRY` and belongs to this reservation.
#[must_use = "dropping the reservation frees the id"]
pub struct Reservation<'a, P: RcuPointer> {
    table: &'a IdTable<P>,
    id: u32,
}

impl<'a, P: RcuPointer> Reservation<'a, P> {
    /// The id that was reserved.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Makes `object` visible to readers. Whatever was written to it before is visible to them,
    /// too.
    pub fn publish(self, object: P) {
        let _guard = self.table.lock();
        // SAFETY: The lock was just taken.
        unsafe { self.store(object) };
    }

    /// As [`Self::publish`], for a caller that has locked the table by `guard`.
    ///
    /// What the caller does before, with the lock held, and the publication are one step for all
    /// who lock the table.
    #[inline]
    pub fn publish_locked(self, guard: &mut Guard<'_, P>, object: P) {
        if !core::ptr::eq(self.table, guard.table) {
            // It is the lock of another table.
            return self.publish(object);
        }
        // SAFETY: By the invariants of `Guard` the lock is held.
        unsafe { self.store(object) };
    }

    /// Puts `object` in the place that is reserved.
    ///
    /// # Safety
    ///
    /// The lock of the table is held.
    #[inline]
    unsafe fn store(self, object: P) {
        let this = ManuallyDrop::new(self);
        let ptr = object.into_raw().as_ptr().cast();
        let mut walk = Walk::new(this.table.xa.get(), this.id);
        // INVARIANT: The table takes over the pointer.
        // SAFETY: The xarray is initialised and its lock is held. The entry exists, by the
        // invariant of `Reservation`, so that this neither allocates nor fails.
        unsafe { bindings::xas_store(&mut walk.0, ptr) };
    }

    /// Gives up the reservation for a bare id, to be taken back by [`Self::from_id`].
    pub fn into_id(self) -> u32 {
        ManuallyDrop::new(self).id
    }

    /// Takes back a reservation.
    ///
    /// # Safety
    ///
    /// `id` must come from [`Self::into_id`] of a reservation of `table`, once.
    pub unsafe fn from_id(table: &'a IdTable<P>, id: u32) -> Self {
        // INVARIANT: By the requirements of this function.
        Self { table, id }
    }
}

impl<P: RcuPointer> Drop for Reservation<'_, P> {
    fn drop(&mut self) {
        let guard = self.table.lock();
        // SAFETY: The xarray is initialised and its lock is held.
        unsafe { bindings::__xa_erase(guard.table.xa.get(), self.id as usize) };
    }
}

/// The lock of an [`IdTable`].
///
/// # Invariants
///
/// The lock of `self.table.xa` is held.
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct Guard<'a, P: RcuPointer> {
    table: &'a IdTable<P>,
    _not_send: NotThreadSafe,
}

impl<P: RcuPointer> Drop for Guard<'_, P> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::xa_unlock(self.table.xa.get()) };
    }
}

impl<P: RcuPointer> Guard<'_, P> {
    /// Whether the table has neither objects nor reserved nor buried ids.
    pub fn is_empty(&self) -> bool {
        // SAFETY: The xarray is initialised.
        unsafe { bindings::xa_empty(self.table.xa.get()) }
    }

    /// Finds a published object.
    pub fn get(&self, id: u32) -> Option<Borrowed<'_, P>> {
        let mut walk = Walk::new(self.table.xa.get(), id);
        // SAFETY: The xarray is initialised and locked.
        let object = unsafe { walk.load() }?;
        // SAFETY: The xarray is locked, and `object` was found in it.
        Some(unsafe { Borrowed::new(object) })
    }

    /// Finds the published object with the lowest id that is not below `from`.
    pub fn find(&self, from: u32) -> Option<(u32, Borrowed<'_, P>)> {
        let mut index = from as usize;
        // SAFETY: The xarray is initialised. `xa_find()` skips `XA_ZERO_ENTRY`.
        let object = NonNull::new(unsafe {
            bindings::xa_find(
                self.table.xa.get(),
                &mut index,
                u32::MAX as usize,
                bindings::XA_PRESENT,
            )
        })?;
        // CAST: The search ended at `u32::MAX`.
        // SAFETY: The xarray is locked, and `object` was found in it.
        Some((index as u32, unsafe { Borrowed::new(object) }))
    }
}

impl<'a, P: RcuPointer> Guard<'a, P> {
    /// Finds a published object, to be taken out of the table. Releases the lock if there is none.
    ///
    /// A reservation is not found: it stays with its holder.
    pub fn into_entry(self, id: u32) -> Option<Entry<'a, P>> {
        let mut walk = Walk::new(self.table.xa.get(), id);
        // SAFETY: The xarray is initialised and locked.
        let object = unsafe { walk.load() }?;
        // INVARIANT: The object was just found, and the table stays locked.
        Some(Entry {
            walk,
            object,
            _guard: self,
        })
    }
}

/// An object that a table owns, which is locked. Dereferences to its owner.
///
/// # Invariants
///
/// `self.0` is made from the pointer in the table, which stays there for `'a`.
pub struct Borrowed<'a, P: RcuPointer>(ManuallyDrop<P>, PhantomData<&'a P>);

impl<P: RcuPointer> Borrowed<'_, P> {
    /// # Safety
    ///
    /// `object` must be an object in a table that is locked, and stay there for the lifetime of the
    /// result.
    #[inline]
    unsafe fn new(object: NonNull<c_void>) -> Self {
        // SAFETY: By the invariants of the table the pointer comes from `into_raw()`. The owner is
        // not dropped, and the table has the pointer for as long as it is used.
        let owner = unsafe { P::from_raw(object.cast()) };

        // INVARIANT: By the requirements of this function.
        Self(ManuallyDrop::new(owner), PhantomData)
    }
}

impl<P: RcuPointer> Deref for Borrowed<'_, P> {
    type Target = P;

    #[inline]
    fn deref(&self) -> &P {
        &self.0
    }
}

/// A published object in a table that is locked, and the lock.
///
/// # Invariants
///
/// `walk` has come to the entry of the table that is `object`, and the table is locked since.
pub struct Entry<'a, P: RcuPointer> {
    walk: Walk,
    object: NonNull<c_void>,
    _guard: Guard<'a, P>,
}

impl<P: RcuPointer> Entry<'_, P> {
    /// The object.
    pub fn get(&self) -> Borrowed<'_, P> {
        // SAFETY: By the type invariants. It stays there while the entry is borrowed.
        unsafe { Borrowed::new(self.object) }
    }

    /// Takes the object out of the table, frees the id, and releases the lock.
    pub fn remove(mut self) -> P {
        // SAFETY: By the type invariants, the lock of the xarray is held. To erase needs no memory.
        unsafe { bindings::xas_store(&mut self.walk.0, null_mut()) };
        // SAFETY: By the invariants of the table, which has just forgotten the pointer: this is its
        // only owner.
        unsafe { P::from_raw(self.object.cast()) }
    }

    /// Takes the object out of the table but keeps the id from being used again. Releases the lock.
    pub fn bury(self) -> P {
        let xas = &self.walk.0;
        // SAFETY: By the type invariants, the lock of the xarray is held. The entry exists, so
        // nothing is allocated. An xarray that tracks free entries stores `XA_ZERO_ENTRY` for NULL.
        unsafe { bindings::__xa_store(xas.xa, xas.xa_index, null_mut(), 0) };
        // SAFETY: By the invariants of the table, which has just forgotten the pointer: this is its
        // only owner.
        unsafe { P::from_raw(self.object.cast()) }
    }
}

/// A walk to one entry of an xarray.
struct Walk(bindings::xa_state);

impl Walk {
    #[inline]
    fn new(xa: *mut bindings::xarray, id: u32) -> Self {
        let mut xas = MaybeUninit::uninit();
        // CAST: Ids are 32 bits wide, an index of the xarray is at least that.
        // SAFETY: `xas` is valid for writes; `xa` is only stored.
        unsafe { bindings::xas_init(xas.as_mut_ptr(), xa, id as usize) };
        // SAFETY: It was just initialised.
        Self(unsafe { xas.assume_init() })
    }

    /// Finds the entry, unless it is empty, reserved or buried.
    ///
    /// # Safety
    ///
    /// The xarray is initialised. Its lock, or the RCU read lock, is held since [`Self::new`].
    #[inline]
    unsafe fn load(&mut self) -> Option<NonNull<c_void>> {
        loop {
            // SAFETY: As required.
            let entry = unsafe { bindings::xas_load(&mut self.0) };
            // SAFETY: Looks at the pointer only.
            if unsafe { bindings::xa_is_zero(entry) } {
                return None;
            }
            // SAFETY: As required. A reader may see an entry that is being moved elsewhere.
            if !unsafe { bindings::xas_retry(&mut self.0, entry) } {
                return NonNull::new(entry);
            }
        }
    }
}
