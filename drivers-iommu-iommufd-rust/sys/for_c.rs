// SPDX-License-Identifier: GPL-2.0

//! Pointers that are there for C.

/// A pointer that only C follows: a field of a structure whose layout C knows.
///
/// What it points to is as C expects, and lives as long: whoever makes the structure sees to that.
#[repr(transparent)]
pub(crate) struct ForC<T>(*const T);

// SAFETY: The pointer is not followed.
unsafe impl<T> Send for ForC<T> {}
// SAFETY: The pointer is not followed.
unsafe impl<T> Sync for ForC<T> {}

impl<T> From<*const T> for ForC<T> {
    fn from(target: *const T) -> Self {
        Self(target)
    }
}

impl<T> From<&T> for ForC<T> {
    fn from(target: &T) -> Self {
        Self(target)
    }
}
