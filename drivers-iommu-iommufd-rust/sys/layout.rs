// SPDX-License-Identifier: GPL-2.0

//! That Rust types lie in memory as C expects.

use kernel::types::Opaque;

/// Asserts that a field of what is not an object is where C has it.
macro_rules! same_plain_offset {
    ($rust:ty, $field:ident, $c:ident, $cfield:ident) => {
        const _: () = assert!(
            core::mem::offset_of!($rust, $field)
                == core::mem::offset_of!(kernel::bindings::$c, $cfield)
        );
    };
}
pub(crate) use same_plain_offset;

/// An object, whose header it begins with, as C knows it. Other code of this driver, and C, can use
/// it at the same time.
///
/// # Invariants
///
/// It is initialised as far as C accesses it.
#[repr(transparent)]
pub(crate) struct Raw<C>(Opaque<C>);

impl<C> Raw<C> {
    /// The object behind a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must point to an object whose layout begins as that of `C`, and which stays so for
    /// `'a`.
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut C) -> &'a Self {
        // INVARIANT: By the requirements of this function.
        // SAFETY: By the requirements of this function; an `Opaque` is laid out as what is in it,
        // and promises nothing about that.
        unsafe { &*ptr.cast() }
    }

    /// How C names the object.
    pub(super) fn get(&self) -> *mut C {
        self.0.get()
    }
}

/// An object that C knows as a `C`.
///
/// # Safety
///
/// [`Self::as_c`] returns the object itself, which has no other type where C knows it as a `C`.
pub(crate) unsafe trait AsC<C> {
    /// How C knows it.
    fn as_c(&self) -> &Raw<C>;
}

/// A handle on an object that C knows as a `C`.
///
/// # Safety
///
/// [`Self::raw`] returns the same object each time. It is neither dropped nor moved while the
/// handle exists.
pub(crate) unsafe trait Holds<C> {
    /// The object.
    fn raw(&self) -> &Raw<C>;
}

/// A handle on an object that was published, and whose end has not begun.
///
/// # Safety
///
/// That is so while the handle exists.
pub(crate) unsafe trait HoldsPublished<C>: Holds<C> {}
