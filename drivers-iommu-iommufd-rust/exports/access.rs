// SPDX-License-Identifier: GPL-2.0

//! Accesses: the functions for drivers that use the memory of an IOAS without an IOMMU.
//!
//! Contracts with C:
//!
//! - The driver passes operations and `data` to `iommufd_access_create()` that are as
//!   [`notifier`](crate::sys::notifier) says until `iommufd_access_destroy()` has returned.
//! - `struct iommufd_access *` comes from a successful `iommufd_access_create()`; it is a [`User`]
//!   of the access that the caller holds until it calls `iommufd_access_destroy()`. No other
//!   function is called with it during or after that call, except to unpin in an `unmap` callback.

use crate::{
    access::Access,
    context::Context,
    object::User,
    pages::{
        RwBuf,
        RwFlags, //
    },
    range::IovaRange,
    sys::{
        notifier::AccessDriver,
        pin::PagePtr, //
    }, //
};
use core::mem::{
    ManuallyDrop,
    MaybeUninit, //
};
use kernel::{
    bindings,
    error::from_result,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Borrows the access that a driver got from `iommufd_access_create()`.
///
/// # Safety
///
/// The contract at the top of this file must hold, for as long as the result exists.
unsafe fn borrow(access: *mut bindings::iommufd_access) -> ManuallyDrop<User<Access>> {
    // SAFETY: By the requirements of this function; the driver keeps the count.
    ManuallyDrop::new(unsafe { User::from_raw(access.cast()) })
}

/// Creates an access, see `include/linux/iommufd.h`.
///
/// Returns it, or an error pointer, and in `id` its id.
///
/// # Safety
///
/// The contract at the top of this file must hold. `ictx` must be live during the call, and `id`
/// valid for writing.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_create(
    ictx: *mut bindings::iommufd_ctx,
    ops: *const bindings::iommufd_access_ops,
    data: *mut c_void,
    id: *mut u32,
) -> *mut bindings::iommufd_access {
    // SAFETY: By the requirements of this function. The access drops its `AccessDriver` before
    // `iommufd_access_destroy()` returns, or here if it is not created.
    let (ctx, driver) = unsafe { (Context::from_ptr(ictx), AccessDriver::new_access(ops, data)) };

    match driver.and_then(|driver| Access::create(ctx, driver)) {
        Ok(access) => {
            // SAFETY: By the requirements of this function.
            unsafe { *id = access.id() };
            access.into_raw().cast()
        }
        Err(err) => err.to_ptr(),
    }
}

/// Destroys an access. Its `unmap` callback is called to unpin everything.
///
/// # Safety
///
/// The contract at the top of this file must hold. `access` is not valid after this.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_destroy(access: *mut bindings::iommufd_access) {
    // SAFETY: By the requirements of this function. The context outlives its objects.
    let (access, ctx) = unsafe {
        let access = User::<Access>::from_raw(access.cast());
        let ctx = access.ctx().map(|ctx| Context::from_ptr(ctx.as_ptr()));
        (access, ctx)
    };

    match ctx {
        Some(ctx) => access.destroy(ctx),
        // Drivers never get an internal access.
        None => core::mem::forget(access),
    }
}

/// Calls `f` with an access and its context.
///
/// # Safety
///
/// The contract at the top of this file must hold.
unsafe fn with_context(
    access: *mut bindings::iommufd_access,
    f: impl FnOnce(&Access, &Context) -> Result,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    from_result(|| {
        // Drivers never get an internal access.
        let ctx = access.ctx().ok_or(EINVAL)?;
        f(&access, ctx).map(|()| 0)
    })
}

/// Attaches an access to an IOAS.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_attach(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { with_context(access, |access, ctx| access.attach(ctx, ioas_id)) }
}

/// Moves an access to another IOAS. Its `unmap` callback is called to unpin everything in the old
/// one.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_replace(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { with_context(access, |access, ctx| access.replace(ctx, ioas_id)) }
}

/// Detaches an access. Its `unmap` callback is called to unpin everything.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_detach(access: *mut bindings::iommufd_access) {
    // SAFETY: By the requirements of this function.
    unsafe { borrow(access) }.detach();
}

/// Pins the pages of `length` bytes from `iova` on, which must begin and end with a page.
///
/// # Safety
///
/// The contract at the top of this file must hold. `out_pages` must be valid for writing one
/// pointer for each page.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_pin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
    out_pages: *mut *mut bindings::page,
    flags: c_uint,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    #[cfg(CONFIG_IOMMUFD_TEST)]
    if kernel::warn_on!(!access.can_pin()) {
        return EINVAL.to_errno();
    }
    from_result(|| {
        let range = IovaRange::from_len(iova, length)?;
        // SAFETY: By the requirements of this function; the layout of a `PagePtr` is that of a
        // pointer.
        let pages = unsafe {
            core::slice::from_raw_parts_mut(
                out_pages.cast::<MaybeUninit<PagePtr>>(),
                length.div_ceil(PAGE_SIZE),
            )
        };
        access.pin(range, pages, flags & bindings::IOMMUFD_ACCESS_RW_WRITE != 0)?;
        Ok(0)
    })
}

/// Unpins the pages of a range that was pinned as a whole.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_unpin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
) {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    match IovaRange::from_len(iova, length) {
        Ok(range) => access.unpin(range),
        Err(_) => {
            kernel::warn_on!(true);
        }
    }
}

/// Copies between `data` and `len` bytes of memory from `iova` on.
///
/// # Safety
///
/// The contract at the top of this file must hold. `data` must be valid for `len` bytes: for
/// reading with `IOMMUFD_ACCESS_RW_WRITE`, else for writing. With `IOMMUFD_ACCESS_RW_KTHREAD` the
/// caller is a kernel thread.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_rw(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    data: *mut c_void,
    len: usize,
    flags: c_uint,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    from_result(|| {
        // If the range does not fit behind `iova`, nothing is copied.
        let range = IovaRange::from_len(iova, len)?;
        let data = data.cast::<u8>();
        let buf = if flags & bindings::IOMMUFD_ACCESS_RW_WRITE != 0 {
            // SAFETY: By the requirements of this function.
            RwBuf::Write(unsafe { core::slice::from_raw_parts(data, len) })
        } else {
            // SAFETY: By the requirements of this function. The bytes are only written.
            RwBuf::Read(unsafe { core::slice::from_raw_parts_mut(data, len) })
        };
        let flags = RwFlags {
            kthread: flags & bindings::IOMMUFD_ACCESS_RW_KTHREAD != 0,
            slow_path: flags & bindings::__IOMMUFD_ACCESS_RW_SLOW_PATH != 0,
        };
        access.rw(range, buf, flags)?;
        Ok(0)
    })
}
