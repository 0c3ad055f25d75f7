// SPDX-License-Identifier: GPL-2.0

//! Rust types whose memory layout C knows.

use kernel::types::Opaque;

/// Asserts that a field has the same offset as in C, for structures that are not objects.
macro_rules! same_plain_offset {
    ($rust:ty, $field:ident, $c:ident, $cfield:ident) => {
        const _: () = assert!(
            core::mem::offset_of!($rust, $field)
                == core::mem::offset_of!(kernel::bindings::$c, $cfield)
        );
    };
}
pub(crate) use same_plain_offset;

/// The C view of an object, which begins with its header. Other code of this driver, and C, can use
/// the object at the same time.
///
/// # Invariants
///
/// It is initialised as far as C accesses it.
#[repr(transparent)]
pub(crate) struct Raw<C>(Opaque<C>);

impl<C> Raw<C> {
    /// Returns the object behind a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must point to an object that begins with the layout of `C`, and that lives for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut C) -> &'a Self {
        // INVARIANT: By the requirements of this function.
        // SAFETY: By the requirements of this function; an `Opaque` has the layout of its content,
        // and makes no assumption about it.
        unsafe { &*ptr.cast() }
    }

    /// Returns the C pointer to the object.
    pub(super) fn get(&self) -> *mut C {
        self.0.get()
    }
}

/// An object that C knows as a `C`.
///
/// # Safety
///
/// [`Self::as_c`] returns the object itself, at its own address: a pointer to it that C passes back
/// points to a `Self`.
pub(crate) unsafe trait AsC<C> {
    /// Returns the C view of the object.
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

/// A handle on an object that is published and whose destruction has not begun.
///
/// # Safety
///
/// This holds as long as the handle exists.
pub(crate) unsafe trait HoldsPublished<C>: Holds<C> {}
