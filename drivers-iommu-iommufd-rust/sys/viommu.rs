// SPDX-License-Identifier: GPL-2.0

//! vIOMMUs, vDEVICEs and HW queues: the operations of IOMMU drivers on them.
//!
//! The contract with the drivers about all objects that they extend is in
//! [`driven`](super::driven). In addition:
//!
//! - `iommufd_viommu::ops` is set by the init function, to operations that are constant and live as
//!   long as the driver's objects. The other fields of the core are only read.
//! - Drivers find vDEVICEs in `vdevs`, and use them only while they hold its `xa_lock`. They find
//!   event queues in `veventqs`, through `driver.c`, under a read lock of `veventqs_rwsem`.
//! - A driver may use the memory of a HW queue from the init function to the end of the destroy
//!   function.

use super::{
    bound_device::{
        BoundDevice,
        Iommu, //
    },
    driven::{
        Driver,
        Extended, //
    },
    hwpt::owned,
    layout::{
        HoldsPublished,
        Raw, //
    }, //
};
use core::ptr::{
    self,
    from_ref,
    null, //
};
use kernel::{
    bindings,
    error::to_result,
    iommu::domain::OwnedDomain,
    prelude::*, //
};

/// A destroy function of a driver, which undoes its init function.
pub(crate) type Destroy<C> = unsafe extern "C" fn(*mut C);

/// Operations on a vIOMMU whose init function was called.
impl Raw<bindings::iommufd_viommu> {
    /// Returns the operations of the driver, once its init function has set them.
    fn ops(&self) -> Option<&bindings::iommufd_viommu_ops> {
        // SAFETY: By the type invariants the field is initialised. It is null, or the driver's init
        // function has set it: see the contract at the top of this file.
        unsafe { (*self.get()).ops.as_ref() }
    }

    /// Returns whether the init function has set the operations.
    pub(crate) fn has_ops(&self) -> bool {
        self.ops().is_some()
    }

    /// Returns whether nested domains of the vIOMMU translate through this HWPT.
    pub(super) fn is_on_hwpt(&self, hwpt: &Raw<bindings::iommufd_hwpt_paging>) -> bool {
        // SAFETY: By the type invariants the field is initialised, and it does not change.
        ptr::eq(unsafe { (*self.get()).hwpt }, hwpt.get())
    }

    /// Has the driver carry out invalidations from user space. Afterwards `array.entry_num` is the
    /// number of those done.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver does not support that; those of the driver.
    pub(crate) fn cache_invalidate(&self, array: &mut bindings::iommu_user_data_array) -> Result {
        let Some(invalidate) = self.ops().and_then(|ops| ops.cache_invalidate) else {
            array.entry_num = 0;
            return Err(EOPNOTSUPP);
        };
        // SAFETY: The object is initialised, and lives during the call.
        to_result(unsafe { invalidate(self.get(), array) })
    }

    /// Returns the size and init function of the driver for a vDEVICE.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if they contradict each other, which is a bug of the driver.
    pub(crate) fn vdevice_driver(&self) -> Result<VdeviceDriver> {
        let (size, init) = self
            .ops()
            .map_or((0, None), |ops| (ops.vdevice_size, ops.vdevice_init));
        if size != 0
            && kernel::warn_on_once!(
                size < size_of::<bindings::iommufd_vdevice>() || init.is_none()
            )
        {
            return Err(EOPNOTSUPP);
        }
        Ok(VdeviceDriver {
            viommu: self.get(),
            size,
            init,
        })
    }

    /// Returns the size and init function of the driver for a HW queue of a type.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver has no queues of this type.
    pub(crate) fn hw_queue_driver(
        &self,
        type_: bindings::iommu_hw_queue_type,
    ) -> Result<HwQueueDriver> {
        let ops = self.ops().ok_or(EOPNOTSUPP)?;
        if ops.get_hw_queue_size.is_none() {
            return Err(EOPNOTSUPP);
        }
        let init = ops.hw_queue_init_phys.ok_or(EOPNOTSUPP)?;
        // SAFETY: The vIOMMU lives during the call, and has the operation.
        let size = unsafe { bindings::iommufd_shim_hw_queue_size(self.get(), type_) };
        if size == 0 || kernel::warn_on_once!(size < size_of::<bindings::iommufd_hw_queue>()) {
            return Err(EOPNOTSUPP);
        }
        Ok(HwQueueDriver {
            viommu: self.get(),
            type_,
            size,
            init,
        })
    }
}

/// Allocates a nested domain by the driver of a vIOMMU, which gets `flags` and `data`. The caller
/// holds `viommu` until the domain is freed.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if the driver does not support that; those of the driver.
pub(super) fn alloc_domain_nested(
    viommu: &impl HoldsPublished<bindings::iommufd_viommu>,
    flags: u32,
    data: &bindings::iommu_user_data,
) -> Result<OwnedDomain> {
    let viommu = viommu.raw();
    let alloc = viommu
        .ops()
        .and_then(|ops| ops.alloc_domain_nested)
        .ok_or(EOPNOTSUPP)?;
    // SAFETY: The object was published, so that its driver has initialised it; it lives during the
    // call, and the caller holds it afterwards.
    let domain = unsafe { owned(alloc(viommu.get(), flags, data)) }?;

    // SAFETY: The domain is new and ours alone. The vIOMMU has an IOMMU.
    unsafe { (*domain.as_raw()).owner = (*(*viommu.get()).iommu_dev).ops };
    Ok(domain)
}

impl Extended for bindings::iommufd_viommu {
    unsafe fn destroy(object: &Raw<Self>) {
        if let Some(destroy) = object.ops().and_then(|ops| ops.destroy) {
            // SAFETY: By the requirements of this function, and the contract of `driven`.
            unsafe { destroy(object.get()) };
        }
    }
}

impl Extended for bindings::iommufd_vdevice {
    unsafe fn destroy(object: &Raw<Self>) {
        // SAFETY: By the type invariants the field is initialised, and it does not change.
        if let Some(destroy) = unsafe { (*object.get()).destroy } {
            // SAFETY: By the requirements of this function, and the contract of `driven`.
            unsafe { destroy(object.get()) };
        }
    }
}

impl Extended for bindings::iommufd_hw_queue {
    unsafe fn destroy(object: &Raw<Self>) {
        // SAFETY: By the type invariants the field is initialised, and it does not change.
        if let Some(destroy) = unsafe { (*object.get()).destroy } {
            // SAFETY: By the requirements of this function, and the contract of `driven`.
            unsafe { destroy(object.get()) };
        }
    }
}

/// The driver of an IOMMU that supports vIOMMUs of a type.
pub(crate) struct ViommuDriver<'d> {
    iommu: Iommu,
    ops: &'d bindings::iommu_ops,
    type_: bindings::iommu_viommu_type,
    size: usize,
}

impl<'d> ViommuDriver<'d> {
    /// Returns the driver of the IOMMU of a device.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the device has no IOMMU, or one that does not support vIOMMUs of this
    /// type.
    pub(crate) fn new(dev: &'d BoundDevice, type_: bindings::iommu_viommu_type) -> Result<Self> {
        let (Some(iommu), Some(ops)) = (dev.iommu(), dev.ops()) else {
            return Err(EOPNOTSUPP);
        };
        if ops.get_viommu_size.is_none() || ops.viommu_init.is_none() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The device is bound, and its IOMMU driver has the operation.
        let size = unsafe { bindings::iommufd_shim_viommu_size(ops, dev.as_raw(), type_) };
        if size == 0 || kernel::warn_on_once!(size < size_of::<bindings::iommufd_viommu>()) {
            return Err(EOPNOTSUPP);
        }
        Ok(Self {
            iommu,
            ops,
            type_,
            size,
        })
    }

    /// Returns the IOMMU.
    pub(crate) fn iommu(&self) -> Iommu {
        self.iommu
    }

    /// Returns the type of the vIOMMUs.
    pub(crate) fn type_(&self) -> bindings::iommu_viommu_type {
        self.type_
    }
}

impl Driver for ViommuDriver<'_> {
    type Raw = bindings::iommufd_viommu;

    /// Driver-specific data.
    type Args<'a> = Option<&'a bindings::iommu_user_data>;

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn init(&self, object: &Raw<bindings::iommufd_viommu>, data: Self::Args<'_>) -> Result {
        let init = self.ops.viommu_init.ok_or(EOPNOTSUPP)?;
        let data = data.map_or(null(), from_ref);
        let viommu = object.get();
        // SAFETY: The object is initialised as far as C accesses it: it has the pointer to its
        // HWPT.
        let (iommu, type_, domain) = unsafe {
            (
                (*viommu).iommu_dev,
                (*viommu).type_,
                (*(*viommu).hwpt).common.domain,
            )
        };

        if kernel::warn_on!(!self.iommu.is(iommu) || type_ != self.type_) {
            return Err(EINVAL);
        }
        // SAFETY: By the requirements of this function; the IOMMU and the type are those that this
        // was made for. The object holds the HWPT, and so the domain.
        to_result(unsafe { init(viommu, domain, data) })
    }
}

/// The driver of a vIOMMU, for vDEVICEs, which it need not extend.
pub(crate) struct VdeviceDriver {
    viommu: *const bindings::iommufd_viommu,
    size: usize,
    init: Option<unsafe extern "C" fn(*mut bindings::iommufd_vdevice) -> c_int>,
}

impl Driver for VdeviceDriver {
    type Raw = bindings::iommufd_vdevice;
    type Args<'a> = ();

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn init(&self, object: &Raw<bindings::iommufd_vdevice>, (): ()) -> Result {
        // SAFETY: The object is initialised as far as C accesses it.
        let viommu = unsafe { (*object.get()).viommu };

        if kernel::warn_on!(!ptr::eq(viommu, self.viommu)) {
            return Err(EINVAL);
        }
        match self.init {
            // SAFETY: By the requirements of this function. The vIOMMU, which the object holds, is
            // the one that this was made for.
            Some(init) => to_result(unsafe { init(object.get()) }),
            None => Ok(()),
        }
    }
}

/// The driver of a vIOMMU, for HW queues of a type.
pub(crate) struct HwQueueDriver {
    viommu: *const bindings::iommufd_viommu,
    type_: bindings::iommu_hw_queue_type,
    size: usize,
    init:
        unsafe extern "C" fn(*mut bindings::iommufd_hw_queue, u32, bindings::phys_addr_t) -> c_int,
}

impl Driver for HwQueueDriver {
    type Raw = bindings::iommufd_hw_queue;

    /// An index for the driver, and the address of the memory of the queue, which is pinned and
    /// physically contiguous.
    type Args<'a> = (u32, bindings::phys_addr_t);

    fn size(&self) -> usize {
        self.size
    }

    unsafe fn init(
        &self,
        object: &Raw<bindings::iommufd_hw_queue>,
        (index, base_pa): (u32, bindings::phys_addr_t),
    ) -> Result {
        let queue = object.get();
        // SAFETY: The object is initialised as far as C accesses it.
        let (viommu, type_) = unsafe { ((*queue).viommu, (*queue).type_) };

        if kernel::warn_on!(!ptr::eq(viommu, self.viommu) || type_ != self.type_) {
            return Err(EINVAL);
        }
        // SAFETY: By the requirements of this function. The vIOMMU, which the object holds, and the
        // type are those that this was made for.
        to_result(unsafe { (self.init)(queue, index, base_pa) })
    }
}
