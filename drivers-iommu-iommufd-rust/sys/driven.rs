// SPDX-License-Identifier: GPL-2.0

//! Objects that IOMMU drivers extend, on their way from allocation to publication.
//!
//! `include/linux/iommufd.h` lays out a structure for each kind. A driver embeds it at the start of
//! its own and tells the size of the whole; the memory behind the part of the core is zero until
//! the driver's init function runs. The Rust types *are* those structures, less the object header,
//! which is why they have no field that C does not have.
//!
//! The steps, as types: a [`Draft`] has room for the driver's part, a [`Ready`] object has it
//! initialised, and publishing that leaves the end of the driver's part to [`Kind::destroy`].
//!
//! A driver may list an object in its init function, and find it there for another object. It is
//! not published then, and may still be undone: `driver.c` refuses to make another object depend on
//! it until it is.
//!
//! Contract with the drivers: their operations and destroy functions may be called with an object
//! from the start of its init function on. A destroy function is called once, if the init function
//! has set it, whether the init function succeeded or not. What the init function sets does not
//! change afterwards.
//!
//! [`Kind::destroy`]: crate::object::Kind::destroy

use crate::{
    context::Context,
    object::{
        Object,
        Publish,
        Ref,
        Registered,
        Reserved,
        TableGuard,
        WriteSide, //
    }, //
};
use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ops::Deref, //
};
use kernel::prelude::*;

/// A function that a driver undoes its init function with.
pub(super) type Destroy<C> = unsafe extern "C" fn(*mut C);

/// A field of an object that the init function of a driver sets: a pointer to a function or to
/// operations.
#[repr(transparent)]
pub(super) struct InitSlot<T>(UnsafeCell<T>);

// SAFETY: Functions and operations are constant and belong to no thread.
unsafe impl<T> Send for InitSlot<T> {}
// SAFETY: Only the init function writes to it, before the object is shared.
unsafe impl<T> Sync for InitSlot<T> {}

impl<T: Copy> InitSlot<T> {
    /// A field that has this value unless the init function sets it.
    pub(super) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// What the init function has left there.
    pub(super) fn get(&self) -> T {
        // SAFETY: Only the init function writes to it, on the thread that calls that, before the
        // object is shared.
        unsafe { *self.0.get() }
    }
}

/// A kind of object that has a part which belongs to the IOMMU driver.
pub(crate) trait Driven: Registered {
    /// How C calls the object.
    type Raw;

    /// The function that undoes what the driver's init function did.
    fn destroy_fn(this: &Object<Self>) -> Option<unsafe extern "C" fn(*mut Self::Raw)>;
}

/// Has the driver undo what its init function did, for an object that was published.
pub(super) fn end<T: Driven>(this: WriteSide<'_, T>) {
    // SAFETY: It was published by `Ready::publish()`, as there is no other way for objects of such
    // a kind, and the write side of an object is had once.
    unsafe { undo_init(this.object()) };
}

/// Has the driver undo what its init function did.
///
/// # Safety
///
/// To be called once for an object, after its init function.
unsafe fn undo_init<T: Driven>(object: &Object<T>) {
    if let Some(destroy) = T::destroy_fn(object) {
        // SAFETY: By the requirements of this function, and the contract at the top of this file.
        unsafe { destroy(object.as_ptr().cast()) };
    }
}

/// An object that the driver has not seen yet, with room for the driver's part.
#[must_use = "dropping a draft destroys the object"]
pub(crate) struct Draft<'a, T: Driven>(Reserved<'a, T>);

impl<'a, T: Driven> Draft<'a, T> {
    /// Allocates an object of `size` bytes, counted from the header.
    ///
    /// # Errors
    ///
    /// Those of [`Context::reserve`].
    pub(super) fn reserve(
        ctx: &'a Context,
        size: usize,
        data: impl PinInit<T, Error>,
    ) -> Result<Self> {
        Ok(Self(ctx.reserve_sized(size, data)?))
    }

    /// Has the driver initialise its part.
    ///
    /// # Safety
    ///
    /// `init` must call the driver's init function, or nothing if there is none, and the object
    /// must be as large as the driver asked for.
    pub(super) unsafe fn init(
        self,
        init: impl FnOnce(&Object<T>) -> Result,
    ) -> Result<Ready<'a, T>> {
        // Also to be undone if the driver fails: it may have got half way.
        let ready = Ready(ManuallyDrop::new(self.0));
        init(&ready)?;
        Ok(ready)
    }
}

impl<T: Driven> Deref for Draft<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

/// An object that is complete, with its driver's part, but that nobody sees yet.
///
/// Dropping it undoes both, first the driver's part.
///
/// # Invariants
///
/// The init function of the driver has been called, and the destroy function has not.
#[must_use = "dropping the object destroys it"]
pub(crate) struct Ready<'a, T: Driven>(ManuallyDrop<Reserved<'a, T>>);

impl<'a, T: Driven> Ready<'a, T> {
    /// Lets user space find the object, as [`Reserved::publish`] does. Returns a read side of it.
    ///
    /// # Errors
    ///
    /// Those of [`Reserved::publish`].
    pub(crate) fn publish(
        self,
        last: impl FnOnce(&Object<T>, &mut TableGuard<'_>) -> Result,
    ) -> Result<Ref<'a, T>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used or dropped after this.
        let reserved = unsafe { ManuallyDrop::take(&mut this.0) };

        // The end of the driver's part is up to `Kind::destroy` if this succeeds.
        reserved.publish_with_ref(last).map_err(|(reserved, err)| {
            // INVARIANT: As it was.
            drop(Self(ManuallyDrop::new(reserved)));
            err
        })
    }
}

impl<T: Driven> Publish for Ready<'_, T> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        Ready::publish(self, |_, _| answer()).map(drop)
    }
}

impl<T: Driven> Deref for Ready<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

impl<T: Driven> Drop for Ready<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. The object was not published.
        unsafe { undo_init(&**self) };
        // SAFETY: `self` is being dropped, and does not use it again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}
