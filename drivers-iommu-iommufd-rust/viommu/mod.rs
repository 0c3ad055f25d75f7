// SPDX-License-Identifier: GPL-2.0

//! vIOMMUs: parts of a physical IOMMU that belong to a guest.
//!
//! - A [`Viommu`] is a slice of an IOMMU, on a nesting parent HWPT, which translates the guest's
//!   physical addresses. The nested HWPTs, invalidations and events of the guest belong to it.
//! - A [`Vdevice`] is the guest's id of a device ([`vdevice`]).
//! - A [`HwQueue`] is guest memory that the IOMMU accesses directly, without the VMM
//!   ([`hw_queue`]).
//! - Registers of the IOMMU that the guest may access are mapped with mmap(); an IOMMU driver
//!   offers them while it initialises an object ([`mmap`]).
//!
//! The IOMMU driver extends these three kinds, and is called to initialise and to destroy them. An
//! object cannot be used before it is published: its id is not found; it is not in the lists of the
//! vIOMMU; mmap() of its regions fails, even if their offset is known; and if the driver has listed
//! it, other objects cannot depend on it yet. If a step after the init function fails, the destroy
//! function runs under the same locks as the init function.
//!
//! Dependencies: vDEVICE, HW queue, event queue and nested HWPT depend on the vIOMMU, and the
//! vIOMMU on its HWPT.
#![forbid(unsafe_code)]

use crate::{
    command::Published,
    context::{
        Command,
        Context,
        ContextPtr, //
    },
    device::Device,
    hwpt::HwptPaging,
    object::{
        driven::{
            end,
            Draft,
            Ready, //
        },
        same_layout,
        Dependency,
        Kind,
        Owner as _,
        Ref,
        WriteSide, //
    },
    sys::{
        bound_device::Iommu,
        driven::InitSlot,
        hwpt::user_data,
        vdevs::Vdevs,
        veventq::Veventqs,
        viommu::ViommuDriver, //
    }, //
};
use core::{
    marker::PhantomPinned,
    ptr::null, //
};
use kernel::{
    bindings,
    prelude::*, //
};

pub(crate) mod hw_queue;
pub(crate) mod mmap;
pub(crate) mod vdevice;

pub(crate) use self::{
    hw_queue::HwQueue,
    vdevice::{
        Vdevice, //
        VdeviceState,
    }, //
};

/// A vIOMMU: `struct iommufd_viommu`, less the object header.
#[repr(C)]
#[pin_data]
pub(crate) struct Viommu {
    pub(crate) ictx: ContextPtr,
    iommu_dev: Iommu,
    pub(crate) hwpt: Dependency<HwptPaging>,
    ops: InitSlot<*const bindings::iommufd_viommu_ops>,
    #[pin]
    vdevs: Vdevs,
    #[pin]
    pub(crate) veventqs: Veventqs,
    type_: bindings::iommu_viommu_type,
    #[pin]
    _pin: PhantomPinned,
}

same_layout!(Viommu, iommufd_viommu: ictx iommu_dev hwpt ops vdevs veventqs type_);

impl Kind for Viommu {
    type Owner = Context;

    fn destroy(this: WriteSide<'_, Self>) {
        end(this);
    }
}

impl Viommu {
    fn new<'a>(
        ctx: &'a Context,
        driver: &ViommuDriver<'_>,
        hwpt: Dependency<HwptPaging>,
    ) -> impl PinInit<Self, Error> + 'a {
        let (iommu_dev, type_) = (driver.iommu(), driver.type_());

        try_pin_init!(Self {
            ictx: ContextPtr::from(ctx),
            iommu_dev,
            hwpt,
            ops: InitSlot::new(null()),
            vdevs <- Vdevs::new(),
            veventqs <- Veventqs::new(),
            type_,
            _pin: PhantomPinned,
        }? Error)
    }

    /// Returns the HWPT that is the parent of nested HWPTs of this vIOMMU.
    pub(crate) fn hwpt(&self) -> &Dependency<HwptPaging> {
        &self.hwpt
    }

    /// Returns whether the vIOMMU is part of this IOMMU.
    pub(crate) fn is_on(&self, iommu: Iommu) -> bool {
        self.iommu_dev == iommu
    }

    /// Returns the table in which drivers find vDEVICEs.
    fn vdevs(&self) -> &Vdevs {
        &self.vdevs
    }
}

/// Allocates a vIOMMU.
///
/// # Errors
///
/// Those of [`Context::reserve`].
fn reserve<'a>(
    ctx: &'a Context,
    driver: ViommuDriver<'a>,
    hwpt: &Ref<'_, HwptPaging>,
) -> Result<Draft<'a, Viommu, ViommuDriver<'a>>> {
    let viommu = Viommu::new(ctx, &driver, hwpt.dependency());

    Draft::reserve(ctx, driver, viommu)
}

impl<'a> Draft<'a, Viommu, ViommuDriver<'_>> {
    /// Has the driver initialise its part, with driver-specific `data`.
    ///
    /// # Errors
    ///
    /// Those of the driver; [`EOPNOTSUPP`] if it sets no operations, which is a bug.
    fn start(self, data: Option<&bindings::iommu_user_data>) -> Result<Ready<'a, Viommu>> {
        let viommu = self.init(data)?;

        if kernel::warn_on_once!(!viommu.as_c().has_ops()) {
            return Err(EOPNOTSUPP);
        }
        Ok(viommu)
    }
}

/// IOMMU_VIOMMU_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_viommu_alloc>) -> Result<Published> {
    if cmd.flags != 0 || cmd.type_ == bindings::iommu_viommu_type_IOMMU_VIOMMU_TYPE_DEFAULT {
        return Err(EOPNOTSUPP);
    }

    let ctx = cmd.ctx();
    let device = ctx.get::<Device>(cmd.dev_id)?;
    device.iommu().ok_or(EOPNOTSUPP)?;
    let driver = ViommuDriver::new(device.dev(), cmd.type_)?;
    let hwpt = ctx.get::<HwptPaging>(cmd.hwpt_id)?;
    if !hwpt.nest_parent() {
        return Err(EINVAL);
    }

    let data = user_data(cmd.type_, cmd.data_uptr, cmd.data_len);
    let viommu = reserve(ctx, driver, &hwpt)?.start(data.as_ref())?;

    cmd.out_viommu_id = viommu.id();
    cmd.publish(viommu)
}
