// SPDX-License-Identifier: GPL-2.0

//! The context as C knows it: `struct iommufd_ctx`.
//!
//! Contract: a `struct iommufd_ctx *` that C passes in comes from `iommufd_ctx_from_file()` or
//! `iommufd_ctx_from_fd()`, or belongs to an object that C was given, and C holds the reference to
//! the file that came with it. `struct iommufd_ctx` is the start of a [`Context`].

use super::file::FileRef;
use crate::context::Context;
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    container_of,
    interop::list::CListHead,
    prelude::*,
    types::Opaque, //
};

const _: () = assert!(core::mem::offset_of!(Context, c) == 0);

/// The fields that `driver.c` uses: the tree of mmap entries and the MSI pages of the context.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
pub(crate) struct CFields {
    #[pin]
    c: Opaque<bindings::iommufd_ctx>,
}

// SAFETY: What the pointers among the fields lead to belongs to the context, and to no thread.
unsafe impl Send for CFields {}
// SAFETY: C serialises access to the fields with the locks that are among them. `file` is set once,
// before the context is shared.
unsafe impl Sync for CFields {}

impl CFields {
    /// The fields of a new context, which belongs to `file`.
    pub(crate) fn new(file: FileRef) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and stays where it is.
            c <- Opaque::ffi_init(|slot| unsafe {
                bindings::iommufd_ctx_init(slot, file.as_ptr())
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for CFields {
    fn drop(self: Pin<&mut Self>) {
        let c = self.c.get();
        // SAFETY: The fields were initialised by `iommufd_ctx_init()`, and nobody else uses the
        // context any more. What is in the list was allocated by `driver.c` with kzalloc(), and is
        // freed here alone.
        unsafe {
            let pages = CListHead::from_raw(&raw mut (*c).sw_msi_list);
            while pages.is_linked() {
                let page = pages.next();
                page.del_init();
                let page = container_of!(page.as_raw(), bindings::iommufd_sw_msi_map, sw_msi_item);
                bindings::kfree(page.cast_const().cast());
            }
            bindings::iommufd_ctx_fini(c);
        }
    }
}

impl Context {
    /// How C sees the context.
    pub(crate) fn as_ptr(&self) -> *mut bindings::iommufd_ctx {
        self.c.c.get()
    }

    /// The context behind a pointer that C passes in.
    ///
    /// # Safety
    ///
    /// `ptr` must be as the contract at the top of this file says, and the reference to the file
    /// must be held for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut bindings::iommufd_ctx) -> &'a Self {
        // SAFETY: By the requirements of this function.
        unsafe { &*ptr.cast() }
    }

    fn file(&self) -> *mut bindings::file {
        // SAFETY: The field is set once, before the context is shared.
        unsafe { (*self.as_ptr()).file }
    }
}

/// The context that an object belongs to, where C looks for it: a pointer in the object.
///
/// It is a field of objects of that very context only, which outlives its objects.
#[repr(transparent)]
pub(crate) struct ContextPtr(NonNull<Context>);

// SAFETY: A reference to a context, which is `Sync`.
unsafe impl Send for ContextPtr {}
// SAFETY: A reference to a context, which is `Sync`.
unsafe impl Sync for ContextPtr {}

impl From<&Context> for ContextPtr {
    fn from(ctx: &Context) -> Self {
        Self(NonNull::from(ctx))
    }
}

impl Deref for ContextPtr {
    type Target = Context;

    fn deref(&self) -> &Context {
        // SAFETY: It is a field of an object of the context, which outlives its objects.
        unsafe { self.0.as_ref() }
    }
}

/// A reference to a context: to its `struct file`.
///
/// Dropping the last one releases the file, and the context with it. For an object that owns one,
/// this must be the last thing that its teardown does.
///
/// # Invariants
///
/// Owns a reference to the file of the context.
pub(crate) struct ContextRef(NonNull<Context>);

// SAFETY: A reference to a file can be put on any thread, and `Context` is `Sync`.
unsafe impl Send for ContextRef {}
// SAFETY: What a shared reference gives is a `&Context`, and that is `Sync`.
unsafe impl Sync for ContextRef {}

impl From<&Context> for ContextRef {
    fn from(ctx: &Context) -> Self {
        // SAFETY: The context lives, and this is an operation on it, so there is a reference to its
        // file: what runs while it is being closed takes none.
        unsafe { bindings::get_file(ctx.file()) };
        // INVARIANT: The reference was just taken.
        Self(NonNull::from(ctx))
    }
}

impl ContextRef {
    /// Takes over a reference that the caller has on the file of `ctx`.
    ///
    /// # Safety
    ///
    /// `ctx` must be live, and the caller must own a reference to its file, which it gives away.
    pub(crate) unsafe fn from_raw(ctx: NonNull<Context>) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(ctx)
    }

    /// Hands the reference to C.
    pub(crate) fn into_raw(self) -> *mut bindings::iommufd_ctx {
        core::mem::ManuallyDrop::new(self).as_ptr()
    }
}

impl Deref for ContextRef {
    type Target = Context;

    fn deref(&self) -> &Context {
        // SAFETY: By the type invariants there is a reference to the file, which has the context
        // until it is released.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for ContextRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours, and `self` is not used after this.
        unsafe { bindings::fput(self.file()) };
    }
}

/// Takes a reference to a context.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_get(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: By the requirements of this function.
    ContextRef::from(unsafe { Context::from_ptr(ictx) }).into_raw();
}

/// Puts a reference to a context.
///
/// # Safety
///
/// As the contract at the top of this file says. The caller gives up the reference.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_put(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: By the requirements of this function.
    drop(unsafe { ContextRef::from_raw(NonNull::from(Context::from_ptr(ictx))) });
}

/// The context of a file, with a reference of its own, or an error pointer.
///
/// # Safety
///
/// The caller must hold a reference to `file`.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_from_file(
    file: *mut bindings::file,
) -> *mut bindings::iommufd_ctx {
    // SAFETY: By the requirements of this function.
    match unsafe { super::file::context_of(file) } {
        Ok(ctx) => ContextRef::from(ctx).into_raw(),
        Err(err) => err.to_ptr(),
    }
}

/// The context of a file descriptor, with a reference, or an error pointer.
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
    match unsafe { super::file::context_of(file.as_ptr()) } {
        // The reference to the file becomes one to the context.
        Ok(ctx) => ctx.as_ptr(),
        Err(err) => {
            // SAFETY: The reference is ours to put.
            unsafe { bindings::fput(file.as_ptr()) };
            err.to_ptr()
        }
    }
}
