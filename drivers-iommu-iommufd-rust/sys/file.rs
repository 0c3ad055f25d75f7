// SPDX-License-Identifier: GPL-2.0

//! Files, and references to their private data.

use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// A file that is being opened. It is passed to the constructor of its private data, and is not a
/// reference to the file.
///
/// # Invariants
///
/// There is one for a file. The value made with it becomes the private data of the file, or opening
/// the file fails.
pub(crate) struct OpeningFile(*mut bindings::file);

impl OpeningFile {
    /// Wraps a file.
    ///
    /// # Safety
    ///
    /// `file` must be in the course of being opened, and this be called once for it. The value made
    /// with the result must become its private data, to be dropped in its `release`, or be dropped
    /// before the open fails.
    pub(crate) unsafe fn new(file: *mut bindings::file) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(file)
    }

    /// Returns the C pointer to the file.
    pub(super) fn as_ptr(&self) -> *mut bindings::file {
        self.0
    }
}

/// A pointer to a file, which is not a reference to it. To C it is a pointer.
#[repr(transparent)]
pub(crate) struct FilePtr(UnsafeCell<*mut bindings::file>);

// SAFETY: A file belongs to no thread.
unsafe impl Send for FilePtr {}
// SAFETY: The pointer is read and written as a whole.
unsafe impl Sync for FilePtr {}

impl FilePtr {
    fn get(&self) -> *mut bindings::file {
        // SAFETY: The pointer is valid for reads, and is written as a whole.
        unsafe { self.0.get().read_volatile() }
    }

    /// Clears the pointer: the private data outlives the file.
    ///
    /// # Safety
    ///
    /// `release` of the file must be running: there is no reference to the file any more.
    pub(crate) unsafe fn clear(&self) {
        // SAFETY: The pointer is valid for writes, and is read as a whole.
        unsafe { self.0.get().write_volatile(null_mut()) };
    }
}

/// A type whose values are the private data of a file.
///
/// # Safety
///
/// A value of this type is the private data of [`Self::file`], stays where it is, and lives while
/// there is a reference to the file. If it lives longer than that, the file is NULL before the
/// `release` of the file has returned.
pub(crate) unsafe trait PrivateData: Send + Sync {
    /// Returns the pointer to the file; NULL if the value has outlived the file.
    fn file(&self) -> &FilePtr;
}

/// A reference to the private data of a file, which is a reference to the file.
///
/// Dropping the last one releases the file and its data.
///
/// # Invariants
///
/// Owns a reference to the file of the data.
pub(crate) struct PrivateRef<T: PrivateData>(NonNull<T>);

// SAFETY: A reference to a file can be put on any thread, and the data are `Sync`.
unsafe impl<T: PrivateData> Send for PrivateRef<T> {}
// SAFETY: A shared reference only gives access to the data, which are `Sync`.
unsafe impl<T: PrivateData> Sync for PrivateRef<T> {}

impl<T: PrivateData> PrivateRef<T> {
    /// Takes another reference to the file of `data`.
    ///
    /// # Errors
    ///
    /// [`EBADF`] if there is none left: the file is being closed.
    pub(crate) fn get(data: &T) -> Result<Self> {
        // SAFETY: The pointer is NULL, or `release` of the file has not returned yet, by the
        // requirements of `PrivateData`. Until then the memory is that of the file, even if its
        // count is zero. The pointer becomes NULL before `release` returns, so it never points to
        // another file.
        if unsafe { bindings::get_file_active(data.file().0.get()) }.is_null() {
            return Err(EBADF);
        }
        // INVARIANT: The reference was just taken.
        Ok(Self(NonNull::from(data)))
    }

    /// Takes over a reference that the caller has on the file of `data`.
    ///
    /// # Safety
    ///
    /// `data` must be live, and the caller must own a reference to their file, which passes to the
    /// result.
    pub(crate) unsafe fn from_raw(data: NonNull<T>) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(data)
    }

    /// Converts the reference to a pointer, for [`Self::from_raw`].
    pub(crate) fn into_raw(self) -> NonNull<T> {
        ManuallyDrop::new(self).0
    }
}

impl<T: PrivateData> Deref for PrivateRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants this owns a reference to the file, and the data live until
        // the file is released.
        unsafe { self.0.as_ref() }
    }
}

impl<T: PrivateData> Drop for PrivateRef<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours, and `self` is not used after this.
        unsafe { bindings::fput(self.file().get()) };
    }
}
