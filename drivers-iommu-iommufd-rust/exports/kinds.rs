// SPDX-License-Identifier: GPL-2.0

//! The kinds of objects: the Rust type and the C structure for each value of `enum
//! iommufd_object_type`. Each Rust type asserts that it has the layout of its structure.

use crate::{
    context::Context,
    object::kinds, //
};

// A context is freed by `iommufd_fops_release()`, only if no object is left, or by
// `iommufd_fops_open()` on failure, before an id was reserved in its table.
kinds! {
    Context;
    crate::eventq::Fault = iommufd_object_type_IOMMUFD_OBJ_FAULT in ctx;
    crate::eventq::Veventq = iommufd_object_type_IOMMUFD_OBJ_VEVENTQ: queue.viommu;
    crate::viommu::HwQueue =
        iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE as iommufd_hw_queue extended_by driver:
        viommu;
    crate::viommu::Vdevice = iommufd_object_type_IOMMUFD_OBJ_VDEVICE
        as iommufd_vdevice extended_by driver: link.viommu;
    crate::viommu::Viommu = iommufd_object_type_IOMMUFD_OBJ_VIOMMU
        as iommufd_viommu extended_by driver in ictx: hwpt;
    crate::access::Access = iommufd_object_type_IOMMUFD_OBJ_ACCESS;
    crate::device::Device = iommufd_object_type_IOMMUFD_OBJ_DEVICE as iommufd_device in ictx;
    crate::hwpt::HwptNested = iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED as iommufd_hwpt_nested:
        domain.viommu,
        domain.parent,
        fault;
    crate::hwpt::HwptPaging =
        iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING as iommufd_hwpt_paging in ioas.ctx:
        ioas,
        fault;
    crate::ioas::Ioas = iommufd_object_type_IOMMUFD_OBJ_IOAS in ctx;
    #[cfg(CONFIG_IOMMUFD_TEST)]
    crate::exports::selftest::Selftest = iommufd_object_type_IOMMUFD_OBJ_SELFTEST;
}
