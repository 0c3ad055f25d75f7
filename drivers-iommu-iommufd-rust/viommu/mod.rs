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
//!   them while it initialises a vIOMMU (`sys::mmap`).
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
    device::Device,
    hwpt::HwptPaging,
    ioctl::{
        Command,
        Published, //
    },
    sys::viommu::ViommuDriver, //
};
use kernel::{
    bindings,
    prelude::*, //
};

pub(crate) mod hw_queue;
pub(crate) mod vdevice;

pub(crate) use self::vdevice::Seat;
pub(crate) use crate::sys::{
    hw_queue::HwQueue,
    vdevice::Vdevice,
    viommu::Viommu, //
};

/// IOMMU_VIOMMU_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_viommu_alloc>) -> Result<Published> {
    if cmd.flags != 0 || cmd.type_ == bindings::iommu_viommu_type_IOMMU_VIOMMU_TYPE_DEFAULT {
        return Err(EOPNOTSUPP);
    }

    let ctx = cmd.ctx();
    let device = ctx.get::<Device>(cmd.dev_id)?;
    let driver = ViommuDriver::of(&device, cmd.type_)?;
    let hwpt = ctx.get::<HwptPaging>(cmd.hwpt_id)?;
    if !hwpt.nest_parent() {
        return Err(EINVAL);
    }

    let data = crate::sys::hwpt::user_data(cmd.type_, cmd.data_uptr, cmd.data_len);
    let viommu = driver.reserve(ctx, &hwpt)?.start(data.as_ref())?;

    cmd.out_viommu_id = viommu.id();
    cmd.publish(viommu)
}
