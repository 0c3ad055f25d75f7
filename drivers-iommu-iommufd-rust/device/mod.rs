// SPDX-License-Identifier: GPL-2.0

//! Devices: what a driver binds to a context, so that user space decides about its DMA.
//!
//! The actors: a [`Device`] is the object that the driver of a physical device owns, from
//! `iommufd_device_bind()` to `iommufd_device_unbind()`. While it exists its whole IOMMU group is
//! under the control of the context, and its DMA is blocked until it is attached
//! ([`attach`]). Devices of one IOMMU group share a [`group::Group`].
//!
//! The driver is a user of the object, so that user space cannot destroy it, and each attachment is
//! another. A vDEVICE, if there is one, has its [`Seat`] in the device and a read side of it, which
//! it gives up when the driver unbinds.
//!
//! Locks: the group lock, see [`group`].
#![forbid(unsafe_code)]

pub(crate) mod attach;
mod attached;
pub(crate) mod group;
pub(crate) mod hw_info;

use crate::{
    context::{
        Context,
        ContextPtr,
        ContextRef, //
    },
    object::{
        same_offset,
        Kind,
        Object,
        Owner as _,
        User, //
    },
    sys::{
        bound_device::{
            self,
            BoundDevice,
            Iommu, //
        },
        for_c::ForC, //
    },
    viommu::{
        self,
        Seat, //
    }, //
};
use core::ops::{
    Deref,
    DerefMut, //
};
use group::{
    Group,
    GroupGuard,
    GroupState,
    Groups,
    Member, //
};
use kernel::{
    bindings,
    iommu::group::Capability,
    prelude::*,
    sync::LockedBy, //
};

/// A device that is bound to a context. C knows how it begins.
///
/// The fields are dropped in order: `member` ends the control over DMA before the reference to the
/// context is put, which is last.
#[repr(C)]
pub(crate) struct Device {
    pub(crate) ictx: ContextPtr,
    igroup: ForC<Group>,
    dev: BoundDevice,
    member: Member,
    /// Whether domains for this device must override its wish to bypass the caches.
    enforce_cache_coherency: bool,
    seat: LockedBy<Seat, GroupState>,
    /// [`None`] for devices of the selftests: the context owns those.
    _ctx: Option<ContextRef>,
}

same_offset!(Device, ictx, iommufd_device, ictx);
same_offset!(Device, igroup, iommufd_device, igroup);
same_offset!(Device, dev, iommufd_device, dev);

impl Device {
    /// The physical device.
    pub(crate) fn dev(&self) -> &BoundDevice {
        &self.dev
    }

    /// The group of the device.
    pub(crate) fn group(&self) -> &Group {
        &self.igroup
    }

    /// Whether there is no IOMMU: nothing translates for the device and nothing holds it back.
    pub(crate) fn is_noiommu(&self) -> bool {
        self.group().iommu().is_none()
    }

    /// The IOMMU that translates for the device.
    pub(crate) fn iommu(&self) -> Option<Iommu> {
        if self.is_noiommu() {
            return None;
        }
        let iommu = self.dev.iommu();
        kernel::warn_on_once!(iommu.is_none());
        iommu
    }

    /// The operations that make domains for the device.
    pub(crate) fn ops(&self) -> Option<&bindings::iommu_ops> {
        if self.is_noiommu() {
            return bound_device::noiommu_ops();
        }
        let ops = self.dev.ops();
        kernel::warn_on_once!(ops.is_none());
        ops
    }

    /// Whether domains for this device must override its wish to bypass the caches.
    pub(crate) fn enforce_cache_coherency(&self) -> bool {
        self.enforce_cache_coherency
    }

    /// The place of the vDEVICE. Takes the group lock.
    pub(crate) fn seat(&self) -> SeatGuard<'_> {
        SeatGuard {
            state: self.group().lock(),
            seat: &self.seat,
        }
    }
}

/// Access to the seat of a device: the group lock is held.
pub(crate) struct SeatGuard<'a> {
    state: GroupGuard<'a>,
    seat: &'a LockedBy<Seat, GroupState>,
}

impl Deref for SeatGuard<'_> {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        self.seat.access(&self.state)
    }
}

impl DerefMut for SeatGuard<'_> {
    fn deref_mut(&mut self) -> &mut Seat {
        self.seat.access_mut(&mut self.state)
    }
}

impl Kind for Device {
    type Owner = Context;

    fn pre_destroy(this: &Object<Self>, ctx: &Context) {
        viommu::vdevice::revoke(this, ctx);
        attach::answer_faults(this);
    }
}

/// Binds a device to a context on behalf of its driver, which gets a user of it.
///
/// # Errors
///
/// - [`EINVAL`] if DMA of the device is not coherent with the caches;
/// - [`ENODEV`] if it has no IOMMU group;
/// - [`EPERM`] if its interrupts cannot be isolated, unless the administrator accepts that, or if
///   another owner has the group;
/// - [`EBUSY`] if a driver of the kernel uses the group;
/// - [`ENOMEM`], or what the IOMMU driver says.
pub(crate) fn bind(ctx: &Context, dev: BoundDevice) -> Result<User<Device>> {
    let noiommu = cfg!(CONFIG_IOMMUFD_NOIOMMU) && !dev.has_iommu();
    let member = if noiommu {
        Member::alone()?
    } else {
        // There is no way for user space to flush caches, so mappings are always coherent.
        if !dev.can(Capability::CacheCoherency) {
            return Err(EINVAL);
        }
        let mut member = Groups::join(&ctx.groups, &dev)?;
        check_interrupts(&dev, member.group())?;
        member.claim_dma(&dev, &ctx.groups)?;
        member
    };
    let enforce_cache_coherency = !noiommu && dev.can(Capability::EnforceCacheCoherency);
    let device = ctx.reserve(try_init!(Device {
        ictx: ContextPtr::from(ctx),
        igroup: ForC::from(member.group().clone()),
        seat: LockedBy::new(member.group().state(), Seat::default()),
        member,
        enforce_cache_coherency,
        _ctx: if dev.is_mock() {
            None
        } else {
            Some(ContextRef::get(ctx)?)
        },
        dev,
    }? Error))?;

    device.publish_with_user(|| Ok(()))
}

/// A device that can raise any interrupt by writing to memory is a danger to the whole machine.
fn check_interrupts(dev: &BoundDevice, group: &Group) -> Result {
    if dev.is_mock() || group.iommu().is_some_and(|group| group.has_isolated_msi()) {
        return Ok(());
    }
    if !bound_device::allow_unsafe_interrupts() {
        return Err(EPERM);
    }
    kernel::dev_warn!(
        &***dev,
        "MSI interrupts are not secure, they cannot be isolated by the platform. \
         Check that platform features like interrupt remapping are enabled. \
         Use the \"allow_unsafe_interrupts\" module parameter to override\n"
    );
    Ok(())
}
