// SPDX-License-Identifier: GPL-2.0

//! The objects of the mock IOMMU driver of the selftests, `drivers/iommu/iommufd/selftest.c`.
//!
//! It uses the objects of this driver through the functions that are exported here. Contract:
//! `selftest.c` creates objects of type `IOMMUFD_OBJ_SELFTEST` only, follows each creation by one
//! of finalize and abort, and puts each object that it gets.

use crate::{
    context::{
        Any,
        Context, //
    },
    object::{
        Kind,
        Owner as _,
        Ref,
        Reserved,
        WriteSide, //
    }, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// An object of the mock driver, which allocates it by `_iommufd_object_alloc()`. Only C knows its
/// structure.
pub(crate) struct Selftest(());

impl Kind for Selftest {
    type Owner = Context;

    fn destroy(this: WriteSide<'_, Self>) {
        // SAFETY: The mock driver created the object, and this is the write side of it.
        unsafe { bindings::iommufd_selftest_destroy(this.as_ptr()) };
    }
}

/// Finds an object and takes its read side. Returns an error pointer if there is none.
///
/// # Safety
///
/// `ictx` must be a live context during the call.
#[export]
pub(crate) unsafe extern "C" fn iommufd_get_object(
    ictx: *mut bindings::iommufd_ctx,
    id: u32,
    kind: bindings::iommufd_object_type,
) -> *mut bindings::iommufd_object {
    // SAFETY: By the requirements of this function.
    let ctx = unsafe { Context::from_ptr(ictx) };
    match ctx.get_any(id) {
        Ok(object)
            if kind == bindings::iommufd_object_type_IOMMUFD_OBJ_ANY || kind == object.kind() =>
        {
            object.into_raw()
        }
        _ => ENOENT.to_ptr(),
    }
}

/// Puts a read side.
///
/// # Safety
///
/// `obj` must come from `iommufd_get_object()` with the same context, once.
#[export]
pub(crate) unsafe extern "C" fn iommufd_put_object(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) {
    // SAFETY: By the requirements of this function.
    drop(unsafe { Ref::<Any>::from_raw(Context::from_ptr(ictx), obj) });
}

/// Allocates an unpublished object of `size` bytes, or returns an error pointer.
///
/// # Safety
///
/// `ictx` must be a live context until the object is finalized or aborted.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_object_alloc(
    ictx: *mut bindings::iommufd_ctx,
    size: usize,
    kind: bindings::iommufd_object_type,
) -> *mut bindings::iommufd_object {
    if kind != bindings::iommufd_object_type_IOMMUFD_OBJ_SELFTEST {
        return EINVAL.to_ptr();
    }
    // SAFETY: By the requirements of this function.
    let ctx = unsafe { Context::from_ptr(ictx) };
    match ctx.reserve_sized(size, Ok(Selftest(()))) {
        Ok(object) => object.into_raw(),
        Err(err) => err.to_ptr(),
    }
}

/// Publishes an object.
///
/// # Safety
///
/// `obj` must come from `_iommufd_object_alloc()` with the same context, once.
#[export]
pub(crate) unsafe extern "C" fn iommufd_object_finalize(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) {
    // SAFETY: By the requirements of this function.
    let object = unsafe { Reserved::<Selftest>::from_raw(Context::from_ptr(ictx), obj) };

    // It depends on nothing.
    kernel::warn_on!(object.publish(|| Ok(())).is_err());
}

/// Frees an unpublished object.
///
/// # Safety
///
/// `obj` must come from `_iommufd_object_alloc()` with the same context, once.
#[export]
pub(crate) unsafe extern "C" fn iommufd_object_abort(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) {
    // SAFETY: By the requirements of this function.
    drop(unsafe { Reserved::<Selftest>::from_raw(Context::from_ptr(ictx), obj) });
}
