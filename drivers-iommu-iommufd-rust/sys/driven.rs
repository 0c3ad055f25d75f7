// SPDX-License-Identifier: GPL-2.0

//! Objects that IOMMU drivers extend.
//!
//! `include/linux/iommufd.h` declares a structure for each kind. A driver embeds it at the start of
//! its own structure and reports the size of that; the memory behind the embedded part is zero
//! until the driver's init function runs.
//!
//! Contract with the drivers: their operations and destroy functions may be called with an object
//! from the start of its init function on. If the init function has set a destroy function, that is
//! called once, even if the init function failed. The fields that the init function sets do not
//! change afterwards.

use super::layout::Raw;
use core::cell::UnsafeCell;
use kernel::prelude::*;

/// A structure of C that IOMMU drivers extend.
pub(crate) trait Extended: Sized {
    /// Calls the destroy function of the driver, if it has set one.
    ///
    /// # Safety
    ///
    /// To be called once for an object, after its init function, if that was called.
    unsafe fn destroy(object: &Raw<Self>);
}

/// The driver that extends an object.
pub(crate) trait Driver {
    /// The structure of C.
    type Raw: Extended;

    /// The arguments of the init function.
    type Args<'a>;

    /// The size of the object in bytes, from the header to the end of the driver's part.
    fn size(&self) -> usize;

    /// Has the driver initialise its part.
    ///
    /// # Errors
    ///
    /// Those of the driver, which may have stopped half way; [`EINVAL`] if this was made for
    /// another type or IOMMU than that of the object.
    ///
    /// # Safety
    ///
    /// The object must be of [`Self::size`] bytes. To be called once for an object.
    unsafe fn init(&self, object: &Raw<Self::Raw>, args: Self::Args<'_>) -> Result;
}

/// A field of an object that the init function of a driver sets: a pointer to a function or to
/// operations. Its layout is that of the field in C.
#[repr(transparent)]
pub(crate) struct InitSlot<T>(UnsafeCell<T>);

// SAFETY: Functions and operations are constant and belong to no thread.
unsafe impl<T> Send for InitSlot<T> {}
// SAFETY: Only the init function writes to it, before the object is shared.
unsafe impl<T> Sync for InitSlot<T> {}

impl<T> InitSlot<T> {
    /// Creates a field that has this value unless the init function sets it.
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
}
