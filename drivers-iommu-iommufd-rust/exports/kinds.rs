// SPDX-License-Identifier: GPL-2.0

//! The kinds of objects: what the values of `enum iommufd_object_type` stand for, and which
//! structures of C they are. Each type asserts that it is laid out like its structure.

use crate::{
    context::Context,
    object::kinds, //
};

// A context ends in `iommufd_fops_release()`, which frees it only if no object is left, or in
// `iommufd_fops_open()`, where nobody has seen it.
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
