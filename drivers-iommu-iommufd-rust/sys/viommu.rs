// SPDX-License-Identifier: GPL-2.0

//! vIOMMUs, and what the objects that belong to them have in common with C.
//!
//! [`driven`](super::driven) has the contract with the drivers about all objects that they extend.
//! About vIOMMUs in particular:
//!
//! - `iommufd_viommu::ops` is set by the init function. The other fields of the core are only read.
//! - Drivers find vDEVICEs in `vdevs`, and use what they found while they hold its `xa_lock`. They
//!   find event queues in `veventqs`, through `driver.c`, under a read lock of `veventqs_rwsem`.

use super::{
    context::ContextPtr,
    device::Iommu,
    driven::{
        end,
        Destroy,
        Draft,
        Driven,
        InitSlot,
        Ready, //
    },
    layout::same_layout,
    vdevice::Vdevs, //
};
use crate::{
    context::Context,
    device::Device,
    hwpt::HwptPaging,
    object::{
        Dependency,
        InContext,
        Kind,
        Object,
        Ref,
        WriteSide, //
    }, //
};
use core::{
    marker::PhantomPinned,
    ptr::{
        from_ref,
        null,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    interop::list::CListHead,
    prelude::*,
    sync::rwsem::{
        new_rwsem,
        RwSemaphore, //
    }, //
};

/// A vIOMMU: `struct iommufd_viommu`, less the object header.
#[repr(C)]
#[pin_data]
pub(crate) struct Viommu {
    ictx: ContextPtr,
    iommu_dev: Iommu,
    pub(super) hwpt: Dependency<HwptPaging>,
    ops: InitSlot<*const bindings::iommufd_viommu_ops>,
    #[pin]
    pub(super) vdevs: Vdevs,
    /// Changed under `veventqs_rwsem`.
    #[pin]
    pub(super) veventqs: CListHead,
    #[pin]
    pub(super) veventqs_rwsem: RwSemaphore<()>,
    type_: bindings::iommu_viommu_type,
    #[pin]
    _pin: PhantomPinned,
}

same_layout!(Viommu, iommufd_viommu: ictx iommu_dev hwpt ops vdevs veventqs veventqs_rwsem type_);

impl Kind for Viommu {
    fn destroy(this: WriteSide<'_, Self>) {
        end(this);
    }
}

impl InContext for Viommu {
    fn ctx(&self) -> &Context {
        &self.ictx
    }
}

impl Driven for Viommu {
    type Raw = bindings::iommufd_viommu;

    fn destroy_fn(this: &Object<Self>) -> Option<Destroy<bindings::iommufd_viommu>> {
        this.ops()?.destroy
    }
}

impl Viommu {
    fn new(
        ctx: &Context,
        iommu_dev: Iommu,
        hwpt: Dependency<HwptPaging>,
        type_: bindings::iommu_viommu_type,
    ) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            ictx: ContextPtr::from(ctx),
            iommu_dev,
            hwpt,
            ops: InitSlot::new(null()),
            vdevs <- Vdevs::new(),
            veventqs <- CListHead::new(),
            veventqs_rwsem <- new_rwsem!((), "iommufd_viommu::veventqs_rwsem"),
            type_,
            _pin: PhantomPinned,
        }? Error)
    }

    /// What the driver can do, once its init function has said so.
    pub(super) fn ops(&self) -> Option<&bindings::iommufd_viommu_ops> {
        // SAFETY: It is null, or the driver's init function has set it to operations that are
        // constant and live as long as the driver's objects.
        unsafe { self.ops.get().as_ref() }
    }

    /// The HWPT that nested HWPTs of this vIOMMU translate through.
    pub(crate) fn hwpt(&self) -> &Dependency<HwptPaging> {
        &self.hwpt
    }

    /// Whether the vIOMMU is part of this IOMMU.
    pub(crate) fn is_on(&self, iommu: Iommu) -> bool {
        self.iommu_dev == iommu
    }

    /// Has the driver make a nested domain, which the caller is to free. `data` says how, in the
    /// driver's own terms.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver cannot do that, or what it says.
    pub(super) fn alloc_domain_nested(
        this: &Object<Self>,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<NonNull<bindings::iommu_domain>> {
        let alloc = this
            .ops()
            .and_then(|ops| ops.alloc_domain_nested)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: The object is initialised, and lives during the call.
        let domain = unsafe { alloc(this.as_ptr().cast(), flags, data) };
        let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENOMEM)?;
        // SAFETY: The domain is new, so that nobody else uses it.
        unsafe { (*domain.as_ptr()).owner = this.iommu_dev.ops() };
        Ok(domain)
    }

    /// Has the driver carry out invalidations from user space. Afterwards `array.entry_num` is how
    /// many it has done.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver cannot do that, or what it says.
    pub(crate) fn cache_invalidate(
        this: &Object<Self>,
        array: &mut bindings::iommu_user_data_array,
    ) -> Result {
        let Some(invalidate) = this.ops().and_then(|ops| ops.cache_invalidate) else {
            array.entry_num = 0;
            return Err(EOPNOTSUPP);
        };
        // SAFETY: The object is initialised, and lives during the call.
        to_result(unsafe { invalidate(this.as_ptr().cast(), array) })
    }
}

/// An IOMMU that can have vIOMMUs of a certain type.
pub(crate) struct ViommuDriver {
    iommu: Iommu,
    type_: bindings::iommu_viommu_type,
    size: usize,
}

impl ViommuDriver {
    /// The IOMMU of a device.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if it cannot have vIOMMUs of this type.
    pub(crate) fn of(device: &Device, type_: bindings::iommu_viommu_type) -> Result<Self> {
        let iommu = device.iommu().ok_or(EOPNOTSUPP)?;
        let ops = iommu.ops();
        if ops.get_viommu_size.is_none() || ops.viommu_init.is_none() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The device is bound, and its IOMMU driver has the operation.
        let size = unsafe { bindings::iommufd_shim_viommu_size(ops, device.dev_ptr(), type_) };
        if size == 0 || kernel::warn_on_once!(size < size_of::<Object<Viommu>>()) {
            return Err(EOPNOTSUPP);
        }
        Ok(Self { iommu, type_, size })
    }

    /// Allocates a vIOMMU.
    ///
    /// # Errors
    ///
    /// Those of [`Context::reserve`].
    pub(crate) fn reserve<'a>(
        &self,
        ctx: &'a Context,
        hwpt: &Ref<'_, HwptPaging>,
    ) -> Result<Draft<'a, Viommu>> {
        let viommu = Viommu::new(ctx, self.iommu, hwpt.dependency(), self.type_);
        Draft::reserve(ctx, self.size, viommu)
    }
}

impl<'a> Draft<'a, Viommu> {
    /// Has the driver initialise its part. `data` says how, in the driver's own terms.
    ///
    /// # Errors
    ///
    /// What the driver says; [`EOPNOTSUPP`] if it sets no operations, which is a bug.
    pub(crate) fn start(
        self,
        data: Option<&bindings::iommu_user_data>,
    ) -> Result<Ready<'a, Viommu>> {
        let init = self.iommu_dev.ops().viommu_init.ok_or(EOPNOTSUPP)?;
        let data = data.map_or(null(), from_ref);
        // SAFETY: `ViommuDriver` asked for the size. The HWPT and its domain outlive the object.
        unsafe {
            self.init(|viommu| {
                let domain = viommu.hwpt.as_raw_domain();
                to_result(init(viommu.as_ptr().cast(), domain, data))?;
                if kernel::warn_on_once!(viommu.ops().is_none()) {
                    return Err(EOPNOTSUPP);
                }
                Ok(())
            })
        }
    }
}
