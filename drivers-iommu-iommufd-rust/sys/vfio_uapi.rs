// SPDX-License-Identifier: GPL-2.0

//! The structures of `include/uapi/linux/vfio.h` as plain bytes.

use super::uapi::Uapi;
use core::mem::offset_of;
use kernel::bindings;

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

// The fields behind the header of the two capabilities.
const _: () =
    assert!(offset_of!(bindings::vfio_iommu_type1_info_dma_avail, avail) == size_of::<CapHeader>());
const _: () = assert!(
    offset_of!(bindings::vfio_iommu_type1_info_cap_iova_range, nr_iovas) == size_of::<CapHeader>()
);
const _: () = assert!(
    offset_of!(bindings::vfio_iommu_type1_info_cap_iova_range, iova_ranges)
        == size_of::<CapHeader>() + 2 * size_of::<u32>()
);
