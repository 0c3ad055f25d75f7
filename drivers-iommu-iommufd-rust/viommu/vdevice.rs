// SPDX-License-Identifier: GPL-2.0

//! vDEVICEs: the guest's ids of devices.
//!
//! A device has at most one vDEVICE, which its [`VdeviceState`] records. User space destroys the
//! vDEVICE, or unbinding the device revokes it. The actors:
//!
//! - creation ([`alloc`]) sets the [`VdeviceState`] in its last step;
//! - destruction frees it after the driver's destroy function;
//! - unbinding the device ([`revoke`], called by `pre_destroy` of the device) closes it, and
//!   destroys the vDEVICE unless that is in progress: when lookups do not find the device any more,
//!   the vIOMMU is not busy because of it. Destruction of the device waits for the read side that
//!   the vDEVICE has of it. The id of the vDEVICE stays unused, as user space, which has not
//!   destroyed the vDEVICE, must not find another object under it.
//!
//! Locks: the group lock of the device, which protects [`VdeviceState`] and is held while the
//! driver's init and destroy functions run.
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
            ReservedIndex, //
            VdeviceLink,
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

/// State of the vDEVICE of a device.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) enum VdeviceState {
    /// There is no vDEVICE.
    #[default]
    Absent,
    /// The vDEVICE of this id. It may be being destroyed.
    Present(u32),
    /// The device is being unbound, and cannot get a vDEVICE any more.
    Closed,
}

impl VdeviceState {
    /// Called when the vDEVICE was destroyed.
    pub(crate) fn clear(&mut self) {
        if let VdeviceState::Present(_) = self {
            *self = VdeviceState::Absent;
        }
    }
}

/// A complete, unpublished vDEVICE, with its reserved index.
///
/// The fields are dropped in order: the driver's part is destroyed before the index is free.
#[must_use = "dropping the vDEVICE destroys it"]
struct ReadyVdevice<'a> {
    vdevice: Ready<'a, Vdevice>,
    slot: ReservedIndex<'a>,
}

impl ReadyVdevice<'_> {
    /// Publishes the vDEVICE if `answer` succeeds, and then enters it for drivers.
    ///
    /// # Errors
    ///
    /// Those of [`Reserved::publish`](crate::object::Reserved::publish).
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let Self { vdevice, slot } = self;
        let vdevice = vdevice.publish(|_, _| answer())?;

        // It is removed when it is destroyed, which waits for this read side.
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
    pub(crate) link: VdeviceLink<Dependency<Viommu>, RevocableRef<Device>>,
    destroy: InitSlot<Option<Destroy<bindings::iommufd_vdevice>>>,
}

same_offset!(Vdevice, link, iommufd_vdevice, viommu);
same_layout!(Vdevice, iommufd_vdevice: destroy);

impl Kind for Vdevice {
    type Owner = Context;

    fn destroy(this: WriteSide<'_, Self>) {
        let vdevice = this.object();
        let mut state = vdevice.device().vdevice_state();
        end(this);
        vdevice.link.take_out();
        state.clear();
    }
}

impl Vdevice {
    /// Creates a vDEVICE of `viommu`, with the driver's part, and reserves its index. It holds
    /// `device` until it is revoked.
    ///
    /// # Errors
    ///
    /// - [`EEXIST`] if the vIOMMU has a vDEVICE of this id;
    /// - [`EOPNOTSUPP`] if size and init function of the driver contradict each other, which is a
    ///   bug;
    /// - those of the driver, and of [`Context::reserve`](crate::context::Context::reserve).
    fn create<'a>(
        viommu: &'a Ref<'_, Viommu>,
        device: RevocableRef<Device>,
        virt_id: usize,
    ) -> Result<ReadyVdevice<'a>> {
        let driver = viommu.as_c().vdevice_driver()?;
        let this = Self {
            link: VdeviceLink::new(viommu.dependency(), device, virt_id),
            destroy: InitSlot::new(None),
        };
        let draft = Draft::reserve(viommu.owner(), driver, Ok::<_, Error>(this))?;
        let slot = viommu.vdevs().reserve(virt_id)?;
        let vdevice = draft.init(())?;
        Ok(ReadyVdevice { vdevice, slot })
    }

    /// Returns the device.
    pub(crate) fn device(&self) -> &Object<Device> {
        self.link.device()
    }
}

/// An unpublished vDEVICE, with the state that records it.
struct NewVdevice<'a, 's> {
    vdevice: ReadyVdevice<'a>,
    state: &'s mut VdeviceState,
}

impl Publish for NewVdevice<'_, '_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let id = self.vdevice.id();

        self.vdevice.publish(answer)?;
        // A destroyer of the vDEVICE waits for the group lock.
        *self.state = VdeviceState::Present(id);
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

    let mut state = device.vdevice_state();
    match *state {
        VdeviceState::Closed => return Err(ENOENT),
        VdeviceState::Present(_) => return Err(EEXIST),
        VdeviceState::Absent => (),
    }
    let vdevice = Vdevice::create(&viommu, device.revocable(), virt_id)?;

    cmd.out_vdevice_id = vdevice.id();
    cmd.publish(NewVdevice {
        vdevice,
        state: &mut state,
    })
}

/// Destroys the vDEVICE of a device that is about to be unbound. Called by `pre_destroy` of
/// devices.
///
/// Context: may sleep, until operations on the vDEVICE have ended.
pub(crate) fn revoke(device: &Object<Device>, ctx: &Context) {
    let VdeviceState::Present(id) =
        core::mem::replace(&mut *device.vdevice_state(), VdeviceState::Closed)
    else {
        return;
    };
    // If the vDEVICE is being destroyed already, its id is free, or that of another object.
    ctx.revoke::<Vdevice>(id, |vdevice| ptr::eq(vdevice.device(), device));
}
