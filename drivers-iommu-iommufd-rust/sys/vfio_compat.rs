// SPDX-License-Identifier: GPL-2.0

//! VFIO's view of iommufd: what `drivers/vfio` calls, and the structures of `uapi/linux/vfio.h`.
//!
//! Contract: VFIO calls these with a context that it holds a reference to, in process context.

use super::uapi::Uapi;
use crate::{
    context::Context,
    vfio_compat, //
};
use core::mem::offset_of;
use kernel::{
    bindings,
    error::from_result,
    prelude::*, //
};

/// A structure that has the layout of one of the uAPI, without its variable part.
macro_rules! vfio_uapi {
    ($($(#[$doc:meta])* $name:ident = $c:ident { $($field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Default)]
            pub(crate) struct $name {
                $(pub(crate) $field: $ty,)*
            }

            $(const _: () = assert!(
                offset_of!($name, $field) == offset_of!(bindings::$c, $field)
            );)*
            // No padding: the fields make up the structure.
            const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$ty>())*);
            // SAFETY: Integers only, and no padding.
            unsafe impl Uapi for $name {}
        )*
    };
}

vfio_uapi! {
    /// `struct vfio_iommu_type1_info`.
    Info = vfio_iommu_type1_info {
        argsz: u32,
        flags: u32,
        iova_pgsizes: u64,
        cap_offset: u32,
        pad: u32,
    }

    /// `struct vfio_iommu_type1_dma_map`.
    DmaMap = vfio_iommu_type1_dma_map {
        argsz: u32,
        flags: u32,
        vaddr: u64,
        iova: u64,
        size: u64,
    }

    /// `struct vfio_iommu_type1_dma_unmap`.
    DmaUnmap = vfio_iommu_type1_dma_unmap {
        argsz: u32,
        flags: u32,
        iova: u64,
        size: u64,
    }

    /// `struct vfio_info_cap_header`.
    CapHeader = vfio_info_cap_header {
        id: u16,
        version: u16,
        next: u32,
    }

    /// `struct vfio_iova_range`.
    CapRange = vfio_iova_range {
        start: u64,
        end: u64,
    }
}

/// The first version of `struct vfio_iommu_type1_info` ends here.
pub(crate) const INFO_MIN: usize = offset_of!(Info, cap_offset);

// What follows the header of the two capabilities.
const _: () =
    assert!(offset_of!(bindings::vfio_iommu_type1_info_dma_avail, avail) == size_of::<CapHeader>());
const _: () = assert!(
    offset_of!(bindings::vfio_iommu_type1_info_cap_iova_range, nr_iovas) == size_of::<CapHeader>()
);
const _: () = assert!(
    offset_of!(bindings::vfio_iommu_type1_info_cap_iova_range, iova_ranges)
        == size_of::<CapHeader>() + 2 * size_of::<u32>()
);

/// Writes the id of the IOAS that the container interface works on to `out_ioas_id`.
///
/// Returns 0, or `-ENODEV` if there is none.
///
/// # Safety
///
/// As the contract at the top of this file says. `out_ioas_id` must be valid for writes.
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
/// As the contract at the top of this file says.
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
/// As the contract at the top of this file says.
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
