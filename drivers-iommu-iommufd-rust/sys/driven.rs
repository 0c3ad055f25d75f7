// SPDX-License-Identifier: GPL-2.0

//! Objects that IOMMU drivers extend.
//!
//! `include/linux/iommufd.h` lays out a structure for each kind. A driver embeds it at the start of
//! its own and tells the size of the whole; the memory behind the part of the core is zero until
//! the driver's init function runs.
//!
//! Contract with the drivers: their operations and destroy functions may be called with an object
//! from the start of its init function on. A destroy function is called once, if the init function
//! has set it, whether the init function succeeded or not. What the init function sets does not
//! change afterwards.

use super::layout::Raw;
use core::cell::UnsafeCell;
use kernel::prelude::*;

/// A structure of C that IOMMU drivers extend.
pub(crate) trait Extended: Sized {
    /// Has the driver undo what its init function did, if it says how.
    ///
    /// # Safety
    ///
    /// To be called once for an object, after its init function, if that was called.
    unsafe fn destroy(object: &Raw<Self>);
}

/// The driver that extends an object.
pub(crate) trait Driver {
    /// How C calls the object.
    type Raw: Extended;

    /// What the init function is told.
    type Args<'a>;

    /// The size of the object in bytes, from the header to the end of the driver's part.
    fn size(&self) -> usize;

    /// Has the driver initialise its part.
    ///
    /// # Errors
    ///
    /// What the driver says, which may have got half way; [`EINVAL`] if the object is not of the
    /// type and for the IOMMU that this was made for.
    ///
    /// # Safety
    ///
    /// The object must be of [`Self::size`] bytes. To be called once for an object.
    unsafe fn init(&self, object: &Raw<Self::Raw>, args: Self::Args<'_>) -> Result;
}

/// A field of an object that the init function of a driver sets: a pointer to a function or to
/// operations. It is read where C has it.
#[repr(transparent)]
pub(crate) struct InitSlot<T>(UnsafeCell<T>);

// SAFETY: Functions and operations are constant and belong to no thread.
unsafe impl<T> Send for InitSlot<T> {}
// SAFETY: Only the init function writes to it, before the object is shared.
unsafe impl<T> Sync for InitSlot<T> {}

impl<T> InitSlot<T> {
    /// A field that has this value unless the init function sets it.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}
