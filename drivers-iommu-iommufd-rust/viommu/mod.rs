// SPDX-License-Identifier: GPL-2.0

//! vIOMMUs: what a guest has of a physical IOMMU.
//!
//! - A [`Viommu`] is a slice of an IOMMU, on top of a HWPT that may be a nesting parent: it
//!   translates what the guest believes to be physical addresses. The nested HWPTs, invalidations
//!   and events of the guest go through it.
//! - A [`Vdevice`] tells the IOMMU by which id the guest knows a device ([`vdevice`]).
//! - A [`HwQueue`] is memory of the guest that the IOMMU reads or writes without the VMM in between
//!   ([`hw_queue`]).
//! - Registers of the IOMMU that the guest may touch are mapped with mmap(); an IOMMU driver offers
//!   them while it initialises a vIOMMU ([`mmap`]).
//!
//! All three are extended by the IOMMU driver, which is called while they are made and when they
//! end. Nobody can use them before they are published: not user space, by id; not by what the
//! vIOMMU lists; not mmap(), by a region whose offset gets known early; and an object that the
//! driver itself lists does not accept that another one depends on it. If a step after the driver's
//! fails, its destroy function runs, under the same locks as the init function.
//!
//! Dependencies: vDEVICE, HW queue and event queue on the vIOMMU; nested HWPT on the vIOMMU; vIOMMU
//! on the HWPT. They end in that order.
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
        Seat,
        Vdevice, //
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

    /// The HWPT that nested HWPTs of this vIOMMU translate through.
    pub(crate) fn hwpt(&self) -> &Dependency<HwptPaging> {
        &self.hwpt
    }

    /// Whether the vIOMMU is part of this IOMMU.
    pub(crate) fn is_on(&self, iommu: Iommu) -> bool {
        self.iommu_dev == iommu
    }

    /// The vDEVICEs, as the driver finds them.
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
    /// Has the driver initialise its part. `data` says how, in the driver's own terms.
    ///
    /// # Errors
    ///
    /// What the driver says; [`EOPNOTSUPP`] if it sets no operations, which is a bug.
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
