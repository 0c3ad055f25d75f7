// SPDX-License-Identifier: GPL-2.0

//! Devices: the functions for VFIO and other drivers to bind, attach and unbind.
//!
//! Contracts with C:
//!
//! - The driver of the device passes a device that it is bound to, and stays bound until
//!   `iommufd_device_unbind()` has returned.
//! - `struct iommufd_device *` comes from a successful `iommufd_device_bind()`; it is a [`User`] of
//!   the device that the caller holds until it calls `iommufd_device_unbind()`. No other function
//!   is called with it during or after that call.
//! - Attach, replace and detach of one device do not overlap.

use crate::{
    context::Context,
    device::{
        self,
        attach::{
            self,
            AttachOp, //
        },
        Device, //
    },
    object::User,
    sys::bound_device::BoundDevice, //
};
use core::mem::ManuallyDrop;
use kernel::{
    bindings,
    error::from_result,
    prelude::*, //
};

/// Borrows the device object that a driver got from `iommufd_device_bind()`, and its context.
///
/// # Safety
///
/// The contract at the top of this file must hold, for `'a` and for as long as the result exists.
unsafe fn borrow<'a>(
    idev: *mut bindings::iommufd_device,
) -> (&'a Context, ManuallyDrop<User<Device>>) {
    // SAFETY: By the requirements of this function: the driver keeps the count, which keeps the
    // object alive, and the context outlives the object.
    unsafe {
        (
            Context::from_ptr((*idev).ictx),
            ManuallyDrop::new(User::from_raw(idev.cast())),
        )
    }
}

/// Binds a device to a context, see `include/linux/iommufd.h`.
///
/// Returns the device object, or an error pointer, and in `id` its id.
///
/// # Safety
///
/// The contract at the top of this file must hold. `ictx` must be live during the call, and `id`
/// valid for writing.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_bind(
    ictx: *mut bindings::iommufd_ctx,
    dev: *mut bindings::device,
    id: *mut u32,
) -> *mut bindings::iommufd_device {
    // SAFETY: By the requirements of this function. The device object owns the claim of DMA, and an
    // attachment whose leader it is holds a user of it: `iommufd_device_unbind()` does not destroy
    // the object before the attachment ends.
    let (ctx, dev) = unsafe { (Context::from_ptr(ictx), BoundDevice::new(dev)) };

    match device::bind(ctx, dev) {
        Ok(user) => {
            // SAFETY: By the requirements of this function.
            unsafe { *id = user.id() };
            user.into_raw().cast()
        }
        Err(err) => err.to_ptr(),
    }
}

/// Undoes `iommufd_device_bind()`.
///
/// # Safety
///
/// The contract at the top of this file must hold. `idev` is not valid after this.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_unbind(idev: *mut bindings::iommufd_device) {
    // SAFETY: By the requirements of this function.
    let (ctx, device) = unsafe { borrow(idev) };

    ManuallyDrop::into_inner(device).destroy(ctx);
}

/// Attaches a device, or a PASID of it, to a HWPT or an IOAS, see `include/linux/iommufd.h`.
///
/// # Safety
///
/// The contract at the top of this file must hold. `pt_id` must be valid for reading and writing.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_attach(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
    pt_id: *mut u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { change(idev, pasid, pt_id, AttachOp::Attach) }
}

/// Moves an attached device, or PASID of it, to another HWPT or IOAS.
///
/// # Safety
///
/// As for [`iommufd_device_attach`].
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_replace(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
    pt_id: *mut u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { change(idev, pasid, pt_id, AttachOp::Replace) }
}

/// # Safety
///
/// As for [`iommufd_device_attach`].
unsafe fn change(
    idev: *mut bindings::iommufd_device,
    pasid: u32,
    pt_id: *mut u32,
    op: AttachOp,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let ((ctx, device), id) = unsafe { (borrow(idev), &mut *pt_id) };

    from_result(|| attach::change(ctx, &device, pasid, id, op).map(|()| 0))
}

/// Detaches a device, or a PASID of it.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_detach(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
) {
    // SAFETY: By the requirements of this function.
    let (ctx, device) = unsafe { borrow(idev) };

    attach::detach(ctx, &device, pasid);
}

/// Returns the context that a device is bound to, without a reference of its own.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_to_ictx(
    idev: *mut bindings::iommufd_device,
) -> *mut bindings::iommufd_ctx {
    // SAFETY: By the requirements of this function.
    unsafe { borrow(idev) }.0.as_ptr()
}

/// Returns the id of the device.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_to_id(idev: *mut bindings::iommufd_device) -> u32 {
    // SAFETY: By the requirements of this function.
    unsafe { borrow(idev) }.1.id()
}

/// Returns whether a device of the IOMMU group is bound to the context.
///
/// # Safety
///
/// `ictx` must be NULL or live during the call, and so must `group`.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_has_group(
    ictx: *mut bindings::iommufd_ctx,
    group: *mut bindings::iommu_group,
) -> bool {
    if ictx.is_null() || group.is_null() {
        return false;
    }
    // SAFETY: By the requirements of this function both are live.
    let (ctx, id) = unsafe { (Context::from_ptr(ictx), bindings::iommu_group_id(group)) };

    ctx.groups.owns(id)
}
