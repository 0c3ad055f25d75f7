// SPDX-License-Identifier: GPL-2.0

//! The structures of `include/uapi/linux/iommufd.h` as plain bytes.
//!
//! They are made of integers, without implicit padding: the uAPI spells out each reserved field.

use kernel::{
    bindings,
    transmute::{
        AsBytes,
        FromBytes, //
    }, //
};

/// A structure of the uAPI.
///
/// # Safety
///
/// Any bytes are a valid value, and all bytes of a value are initialised.
pub(crate) unsafe trait Uapi {}

/// A structure of the uAPI, to be copied from and to user space.
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: By the requirements of `Uapi`.
unsafe impl<T: Uapi> FromBytes for Plain<T> {}
// SAFETY: By the requirements of `Uapi`.
unsafe impl<T: Uapi> AsBytes for Plain<T> {}

/// Marks structures as [`Uapi`].
macro_rules! uapi {
    ($($(#[$attr:meta])* $name:ident,)*) => {
        $(
            $(#[$attr])*
            // SAFETY: Integers only, and no padding.
            unsafe impl Uapi for bindings::$name {}
        )*
    };
}

// One line for each structure of the table of commands, which does not compile without it, and for
// each that one of them points to.
uapi! {
    iommu_destroy,
    iommu_fault_alloc,
    iommu_hw_info,
    iommu_hw_queue_alloc,
    iommu_hwpt_alloc,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_invalidate,
    iommu_hwpt_set_dirty_tracking,
    iommu_ioas_alloc,
    iommu_ioas_allow_iovas,
    iommu_ioas_change_process,
    iommu_ioas_copy,
    iommu_ioas_iova_ranges,
    iommu_ioas_map,
    iommu_ioas_map_file,
    iommu_vdevice_alloc,
    iommu_veventq_alloc,
    iommu_vfio_ioas,
    iommu_viommu_alloc,
    iommu_ioas_noiommu_get_pa,
    iommu_ioas_unmap,
    iommu_iova_range,
    iommu_option,
    #[cfg(CONFIG_IOMMUFD_TEST)]
    iommu_test_cmd,
}
