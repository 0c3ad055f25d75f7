// SPDX-License-Identifier: GPL-2.0

//! Contexts: the functions that take and put references.
//!
//! Contract: a `struct iommufd_ctx *` that C passes in comes from `iommufd_ctx_from_file()` or
//! `iommufd_ctx_from_fd()`, or belongs to an object that C was given, and C holds the reference to
//! the file that came with it. `struct iommufd_ctx` is the start of a [`Context`].

use super::file::context_of;
use crate::context::{
    Context,
    ContextRef, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

const _: () = assert!(core::mem::offset_of!(Context, c) == 0);

impl Context {
    /// Returns the context behind a pointer that C passes in.
    ///
    /// # Safety
    ///
    /// `ptr` must be as the contract at the top of this file says, and the reference to the file
    /// must be held for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut bindings::iommufd_ctx) -> &'a Self {
        // SAFETY: By the requirements of this function.
        unsafe { &*ptr.cast() }
    }
}

/// Takes a reference to a context.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_get(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: By the requirements of this function.
    match ContextRef::get(unsafe { Context::from_ptr(ictx) }) {
        Ok(ctx) => _ = ctx.into_raw(),
        // Not reached: the caller has a reference.
        Err(_) => _ = kernel::warn_on!(true),
    }
}

/// Puts a reference to a context.
///
/// # Safety
///
/// The contract at the top of this file must hold. The caller gives up the reference.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_put(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: By the requirements of this function.
    drop(unsafe { ContextRef::from_raw(NonNull::from(Context::from_ptr(ictx))) });
}

/// Returns the context of a file, with a reference of its own, or an error pointer.
///
/// # Safety
///
/// The caller must hold a reference to `file`.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_from_file(
    file: *mut bindings::file,
) -> *mut bindings::iommufd_ctx {
    // SAFETY: By the requirements of this function.
    match unsafe { context_of(file) }.and_then(ContextRef::get) {
        Ok(ctx) => ctx.into_raw().cast().as_ptr(),
        Err(err) => err.to_ptr(),
    }
}

/// Returns the context of a file descriptor, with a reference, or an error pointer.
///
/// # Safety
///
/// None beyond being called in process context.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_from_fd(
    fd: kernel::ffi::c_int,
) -> *mut bindings::iommufd_ctx {
    // CAST: A negative descriptor becomes one that is not open.
    // SAFETY: No requirements.
    let Some(file) = NonNull::new(unsafe { bindings::fget(fd as kernel::ffi::c_uint) }) else {
        return EBADF.to_ptr();
    };
    // SAFETY: `fget()` gave us a reference.
    match unsafe { context_of(file.as_ptr()) } {
        // The reference to the file becomes one to the context.
        Ok(ctx) => ctx.as_ptr(),
        Err(err) => {
            // SAFETY: The reference is ours to put.
            unsafe { bindings::fput(file.as_ptr()) };
            err.to_ptr()
        }
    }
}
