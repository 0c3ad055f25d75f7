// SPDX-License-Identifier: GPL-2.0

//! vDEVICEs: the id by which a guest knows a device.
//!
//! A device has one [`Seat`], for at most one vDEVICE. User space may destroy the vDEVICE, or leave
//! that to the end of the device: unbinding the device revokes it. The actors:
//!
//! - creation ([`alloc`]) takes the seat as its last step;
//! - destruction, by whomever, leaves the seat after the driver has undone its part;
//! - the destroyer of the device ([`revoke`], its `pre_destroy`) closes the seat, and destroys the
//!   vDEVICE if nobody else does so already. Either way it then waits for the reference that the
//!   vDEVICE has on the device, which ends with it. The id of the vDEVICE stays unused: user space
//!   has not destroyed it, and must not find another object under it.
//!
//! Locks: the lock of the device's group, which guards the seat and is held while the driver's init
//! and destroy functions run.
#![forbid(unsafe_code)]

use super::{
    Vdevice,
    Viommu, //
};
use crate::{
    context::Context,
    device::Device,
    ioctl::{
        Command,
        Published, //
    },
    object::{
        Object,
        Publish, //
    },
    sys::vdevice::ReadyVdevice, //
};
use core::ptr;
use kernel::{
    bindings,
    prelude::*, //
};

/// The place of a device for a vDEVICE.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum Seat {
    /// There is none.
    #[default]
    Free,
    /// The vDEVICE of this id. It may be in the course of being destroyed.
    Taken(u32),
    /// The device is being unbound: there will be no more.
    Closed,
}

impl Seat {
    /// The vDEVICE has ended.
    pub(crate) fn leave(&mut self) {
        if let Seat::Taken(_) = self {
            *self = Seat::Free;
        }
    }
}

/// A vDEVICE that is not published, and the seat that it is to take.
struct NewVdevice<'a, 's> {
    vdevice: ReadyVdevice<'a>,
    seat: &'s mut Seat,
}

impl Publish for NewVdevice<'_, '_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let id = self.vdevice.id();

        self.vdevice.publish(answer)?;
        // Whoever destroys the vDEVICE waits for the lock of the seat.
        *self.seat = Seat::Taken(id);
        Ok(())
    }
}

/// IOMMU_VDEVICE_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_vdevice_alloc>) -> Result<Published> {
    // IOMMU drivers find vDEVICEs by an index of this type.
    let virt_id = usize::try_from(cmd.virt_id).map_err(|_| EINVAL)?;

    let ctx = cmd.ctx();
    let viommu = ctx.get::<Viommu>(cmd.viommu_id)?;
    let device = ctx.get::<Device>(cmd.dev_id)?;
    if !device.iommu().is_some_and(|iommu| viommu.is_on(iommu)) {
        return Err(EINVAL);
    }

    let mut seat = device.seat();
    match *seat {
        Seat::Closed => return Err(ENOENT),
        Seat::Taken(_) => return Err(EEXIST),
        Seat::Free => (),
    }
    let vdevice = Vdevice::create(&viommu, device.revocable(), virt_id)?;

    cmd.out_vdevice_id = vdevice.id();
    cmd.publish(NewVdevice {
        vdevice,
        seat: &mut seat,
    })
}

/// Ends the vDEVICE of a device that is being unbound: the `pre_destroy` of devices.
///
/// Context: may sleep, until operations on the vDEVICE have ended.
pub(crate) fn revoke(device: &Object<Device>, ctx: &Context) {
    let Seat::Taken(id) = core::mem::replace(&mut *device.seat(), Seat::Closed) else {
        return;
    };
    // If somebody else is destroying the vDEVICE, it is not there any more, or another object is.
    ctx.revoke::<Vdevice>(id, |vdevice| ptr::eq(vdevice.device(), device));
}
