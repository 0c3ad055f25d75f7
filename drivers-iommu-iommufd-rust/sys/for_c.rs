// SPDX-License-Identifier: GPL-2.0

//! Shared pointers in fields that C reads.

use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::sync::Arc;

/// An [`Arc`] with the representation of a C pointer to the `T`, for fields of structures that C
/// reads.
///
/// # Invariants
///
/// Owns a reference from [`Arc::into_raw`].
#[repr(transparent)]
pub(crate) struct ForC<T>(NonNull<T>);

// SAFETY: As for an `Arc`.
unsafe impl<T: Send + Sync> Send for ForC<T> {}
// SAFETY: As for an `Arc`.
unsafe impl<T: Send + Sync> Sync for ForC<T> {}

impl<T> From<Arc<T>> for ForC<T> {
    fn from(shared: Arc<T>) -> Self {
        // INVARIANT: It owns the reference of `shared`. An `Arc` is not null.
        // SAFETY: As above.
        Self(unsafe { NonNull::new_unchecked(Arc::into_raw(shared).cast_mut()) })
    }
}

impl<T> Deref for ForC<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for ForC<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and it is not used after this.
        drop(unsafe { Arc::from_raw(self.0.as_ptr().cast_const()) });
    }
}
