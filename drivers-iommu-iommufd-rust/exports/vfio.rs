// SPDX-License-Identifier: GPL-2.0

//! The functions that `drivers/vfio` calls for a container.
//!
//! Contract: VFIO calls these with a context that it holds a reference to, in process context.

use crate::{
    context::Context,
    vfio_compat, //
};
use kernel::{
    bindings,
    error::from_result,
    prelude::*, //
};

/// Writes the id of the IOAS that the container interface works on to `out_ioas_id`.
///
/// Returns 0, or `-ENODEV` if there is none.
///
/// # Safety
///
/// The contract at the top of this file must hold. `out_ioas_id` must be valid for writes.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vfio_compat_ioas_get_id(
    ictx: *mut bindings::iommufd_ctx,
    out_ioas_id: *mut u32,
) -> c_int {
    from_result(|| {
        // SAFETY: By the requirements of this function.
        let ioas = vfio_compat::ioas(unsafe { Context::from_ptr(ictx) })?;
        // SAFETY: By the requirements of this function.
        unsafe { out_ioas_id.write(ioas.id()) };
        Ok(0)
    })
}

/// Makes an IOAS for the container interface to work on, unless there is one.
///
/// Returns 0, or `-EINVAL` if the container is one for devices without an IOMMU, or `-ENOMEM`.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vfio_compat_ioas_create(
    ictx: *mut bindings::iommufd_ctx,
) -> c_int {
    from_result(|| {
        // SAFETY: By the requirements of this function.
        vfio_compat::create(unsafe { Context::from_ptr(ictx) })?;
        Ok(0)
    })
}

/// Makes the container one for devices without an IOMMU.
///
/// Returns 0, or `-EINVAL` if it has an IOAS already.
///
/// # Safety
///
/// The contract at the top of this file must hold.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vfio_compat_set_no_iommu(
    ictx: *mut bindings::iommufd_ctx,
) -> c_int {
    from_result(|| {
        // SAFETY: By the requirements of this function.
        vfio_compat::set_no_iommu(unsafe { Context::from_ptr(ictx) })?;
        Ok(0)
    })
}
