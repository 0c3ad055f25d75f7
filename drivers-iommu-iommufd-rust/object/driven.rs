// SPDX-License-Identifier: GPL-2.0

//! Objects that IOMMU drivers extend, on their way from allocation to publication.
//!
//! The Rust types *are* the structures of [`driven`](crate::sys::driven), less the object header,
//! which is why they have no field that C does not have.
//!
//! The steps, as types: a [`Draft`] has memory for the driver's part, a [`Ready`] object has it
//! initialised, and once that is published [`Kind::destroy`] ends the driver's part.
//!
//! A driver may list an object in its init function, and find it there for another object before it
//! is published. As its creation can still fail, `driver.c` refuses to make another object depend
//! on it until then.
//!
//! [`Kind::destroy`]: super::Kind::destroy
#![expect(unsafe_code, reason = "the core of this layer")]

use super::{
    CLayout,
    Object,
    Publish,
    Ref,
    Reserved,
    TableGuard,
    WriteSide,
    IDS, //
};
use crate::sys::driven::{
    Driver,
    Extended, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref, //
};
use kernel::prelude::*;

/// A kind of object with a part that belongs to the IOMMU driver.
pub(crate) trait Driven: CLayout<Raw: Extended> {}

impl<T: CLayout<Raw: Extended>> Driven for T {}

/// Has the driver undo its init function, for an object that was published.
pub(crate) fn end<T: Driven>(this: WriteSide<'_, T>) {
    this.set_ended();
    // SAFETY: It was published by `Ready::publish()`, or its init function was not called; and an
    // object has one write side in its life.
    unsafe { undo_init(this.object()) };
}

/// Has the driver undo its init function.
///
/// # Safety
///
/// To be called once for an object, after its init function.
unsafe fn undo_init<T: Driven>(object: &Object<T>) {
    // SAFETY: By the requirements of this function.
    unsafe { T::Raw::destroy(object.as_c()) };
}

/// An object with memory for the driver's part, which is not initialised.
#[must_use = "dropping a draft destroys the object"]
pub(crate) struct Draft<'a, T: Driven, D: Driver<Raw = T::Raw>> {
    object: Reserved<'a, T>,
    driver: D,
}

impl<'a, T: Driven, D: Driver<Raw = T::Raw>> Draft<'a, T, D> {
    /// Allocates an object of the size that the driver needs.
    ///
    /// # Errors
    ///
    /// Those of [`Owner::reserve`](super::Owner::reserve).
    pub(crate) fn reserve(
        owner: &'a T::Owner,
        driver: D,
        data: impl PinInit<T, Error>,
    ) -> Result<Self> {
        const { assert!(T::DRIVEN) };

        Ok(Self {
            object: Reserved::new(owner, IDS, driver.size(), data)?,
            driver,
        })
    }

    /// Has the driver initialise its part.
    ///
    /// # Errors
    ///
    /// Those of the driver.
    pub(crate) fn init(self, args: D::Args<'_>) -> Result<Ready<'a, T>> {
        let Self { object, driver } = self;

        // INVARIANT: The destroy function is called even if the init function fails, which may have
        // stopped half way.
        let ready = Ready(ManuallyDrop::new(object));
        // SAFETY: The object was allocated with the size, and for this driver. The draft was
        // consumed, so it is called once.
        unsafe { driver.init(ready.as_c(), args) }?;
        Ok(ready)
    }
}

impl<T: Driven, D: Driver<Raw = T::Raw>> Deref for Draft<'_, T, D> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.object
    }
}

/// A complete, unpublished object, with its driver's part.
///
/// Dropping it undoes both, first the driver's part.
///
/// # Invariants
///
/// The init function of the driver has been called, and the destroy function has not.
#[must_use = "dropping the object destroys it"]
pub(crate) struct Ready<'a, T: Driven>(ManuallyDrop<Reserved<'a, T>>);

impl<'a, T: Driven> Ready<'a, T> {
    /// Publishes the object, as [`Reserved::publish`]. Returns a read side of it.
    ///
    /// # Errors
    ///
    /// Those of [`Reserved::publish`].
    pub(crate) fn publish(
        self,
        last: impl FnOnce(&Object<T>, &mut TableGuard<'_, T::Owner>) -> Result,
    ) -> Result<Ref<'a, T>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used or dropped after this.
        let reserved = unsafe { ManuallyDrop::take(&mut this.0) };

        // If this succeeds `Kind::destroy` ends the driver's part.
        reserved.publish_with_ref(last).map_err(|(reserved, err)| {
            // INVARIANT: Nothing has changed.
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
        // SAFETY: `self` is being dropped, and the field is not used again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}
