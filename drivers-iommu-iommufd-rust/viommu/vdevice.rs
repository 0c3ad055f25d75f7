// SPDX-License-Identifier: GPL-2.0

//! vDEVICEs: the id by which a guest knows a device.
//!
//! A device has one [`Seat`], for at most one vDEVICE. User space may destroy the vDEVICE, or leave
//! that to the end of the device: unbinding the device revokes it. The actors:
//!
//! - creation ([`alloc`]) takes the seat as its last step;
//! - destruction, by whomever, leaves the seat after the driver has undone its part;
//! - who unbinds the device ([`revoke`], its `pre_destroy`) closes the seat, and destroys the
//!   vDEVICE if nobody else does so already: when the device cannot be found any more, the vIOMMU
//!   is not busy because of it. The end of the device waits for the read side that the vDEVICE has
//!   of it. The id of the vDEVICE stays unused: user space has not destroyed it, and must not find
//!   another object under it.
//!
//! Locks: the lock of the device's group, which guards the seat and is held while the driver's init
//! and destroy functions run.
#![forbid(unsafe_code)]

use super::Viommu;
use crate::{
    command::Published,
    context::{
        Command,
        Context, //
    },
    device::Device,
    object::{
        driven::{
            end,
            Draft,
            Ready, //
        },
        same_layout,
        same_offset,
        Dependency,
        Kind,
        Object,
        Owner as _,
        Publish,
        Ref,
        RevocableRef,
        WriteSide, //
    },
    sys::{
        driven::InitSlot,
        vdevs::{
            Link,
            Slot, //
        },
        viommu::Destroy, //
    }, //
};
use core::{
    ops::Deref,
    ptr, //
};
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

/// A vDEVICE that is complete, and its place, but that nobody sees yet.
///
/// The fields are dropped in order: the driver is done before the place is free.
#[must_use = "dropping the vDEVICE destroys it"]
struct ReadyVdevice<'a> {
    vdevice: Ready<'a, Vdevice>,
    slot: Slot<'a>,
}

impl ReadyVdevice<'_> {
    /// Lets user space find the vDEVICE if `answer` succeeds, and then drivers, too.
    ///
    /// # Errors
    ///
    /// Those of [`Reserved::publish`](crate::object::Reserved::publish).
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let Self { vdevice, slot } = self;
        let vdevice = vdevice.publish(|_, _| answer())?;

        // Its end, which removes it, is not before the read side is put.
        slot.fill(&vdevice);
        Ok(())
    }
}

impl Deref for ReadyVdevice<'_> {
    type Target = Object<Vdevice>;

    fn deref(&self) -> &Object<Vdevice> {
        &self.vdevice
    }
}

/// A vDEVICE: `struct iommufd_vdevice`, less the object header.
#[repr(C)]
pub(crate) struct Vdevice {
    pub(crate) link: Link<Dependency<Viommu>, RevocableRef<Device>>,
    destroy: InitSlot<Option<Destroy<bindings::iommufd_vdevice>>>,
}

same_offset!(Vdevice, link, iommufd_vdevice, viommu);
same_layout!(Vdevice, iommufd_vdevice: destroy);

impl Kind for Vdevice {
    type Owner = Context;

    fn destroy(this: WriteSide<'_, Self>) {
        let vdevice = this.object();
        let mut seat = vdevice.device().seat();
        end(this);
        vdevice.link.take_out();
        seat.leave();
    }
}

impl Vdevice {
    /// Makes a vDEVICE of `viommu`, with the driver's part, and reserves its place. It keeps the
    /// device until it is revoked.
    ///
    /// # Errors
    ///
    /// - [`EEXIST`] if the vIOMMU has a vDEVICE of this id;
    /// - [`EOPNOTSUPP`] if the driver contradicts itself, which is a bug;
    /// - what the driver says, and those of [`Context::reserve`](crate::context::Context::reserve).
    fn create<'a>(
        viommu: &'a Ref<'_, Viommu>,
        device: RevocableRef<Device>,
        virt_id: usize,
    ) -> Result<ReadyVdevice<'a>> {
        let driver = viommu.as_c().vdevice_driver()?;
        let this = Self {
            link: Link::new(viommu.dependency(), device, virt_id),
            destroy: InitSlot::new(None),
        };
        let draft = Draft::reserve(viommu.owner(), driver, Ok::<_, Error>(this))?;
        let slot = viommu.vdevs().reserve(virt_id)?;
        let vdevice = draft.init(())?;
        Ok(ReadyVdevice { vdevice, slot })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Object<Device> {
        self.link.device()
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

/// Ends the vDEVICE of a device that is about to be unbound: the `pre_destroy` of devices.
///
/// Context: may sleep, until operations on the vDEVICE have ended.
pub(crate) fn revoke(device: &Object<Device>, ctx: &Context) {
    let Seat::Taken(id) = core::mem::replace(&mut *device.seat(), Seat::Closed) else {
        return;
    };
    // If somebody else is destroying the vDEVICE, it is not there any more, or another object is.
    ctx.revoke::<Vdevice>(id, |vdevice| ptr::eq(vdevice.device(), device));
}
