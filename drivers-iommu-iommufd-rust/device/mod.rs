// SPDX-License-Identifier: GPL-2.0

//! Devices that a driver has bound to a context, so that user space controls their DMA.
//!
//! The actors: a [`Device`] is the object that the driver of a physical device owns, from
//! `iommufd_device_bind()` to `iommufd_device_unbind()`. While it exists the context owns DMA of
//! the whole IOMMU group, and DMA of the device is blocked until it is attached ([`attach`]).
//! Devices of one IOMMU group share a [`group::Group`].
//!
//! The driver is a user of the object, so that user space cannot destroy it, and each attachment is
//! another. A device has a [`VdeviceState`] for its vDEVICE. A vDEVICE holds a read side of the
//! device, which is revoked when the driver unbinds.
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
        VdeviceState, //
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

/// A device that is bound to a context. C accesses the first fields.
///
/// The fields are dropped in order: `member` releases the claim of DMA before the reference to the
/// context is put, which is last.
#[repr(C)]
pub(crate) struct Device {
    pub(crate) ictx: ContextPtr,
    igroup: ForC<Group>,
    dev: BoundDevice,
    member: Member,
    /// Set if domains for this device must enforce cache coherency, even for accesses of the device
    /// that request no snoop.
    enforce_cache_coherency: bool,
    vdevice_state: LockedBy<VdeviceState, GroupState>,
    /// [`None`] for devices of the selftests, which the context owns.
    _ctx: Option<ContextRef>,
}

same_offset!(Device, ictx, iommufd_device, ictx);
same_offset!(Device, igroup, iommufd_device, igroup);
same_offset!(Device, dev, iommufd_device, dev);

impl Device {
    /// Returns the physical device.
    pub(crate) fn dev(&self) -> &BoundDevice {
        &self.dev
    }

    /// Returns the group of the device.
    pub(crate) fn group(&self) -> &Group {
        &self.igroup
    }

    /// Returns whether the device has no IOMMU, so its DMA is neither translated nor blocked.
    pub(crate) fn is_noiommu(&self) -> bool {
        self.group().iommu().is_none()
    }

    /// Returns the IOMMU that translates for the device.
    pub(crate) fn iommu(&self) -> Option<Iommu> {
        if self.is_noiommu() {
            return None;
        }
        let iommu = self.dev.iommu();
        kernel::warn_on_once!(iommu.is_none());
        iommu
    }

    /// Returns the operations that allocate domains for the device.
    pub(crate) fn ops(&self) -> Option<&bindings::iommu_ops> {
        if self.is_noiommu() {
            return bound_device::noiommu_ops();
        }
        let ops = self.dev.ops();
        kernel::warn_on_once!(ops.is_none());
        ops
    }

    /// Set if domains for this device must enforce cache coherency, even for accesses of the device
    /// that request no snoop.
    pub(crate) fn enforce_cache_coherency(&self) -> bool {
        self.enforce_cache_coherency
    }

    /// Takes the group lock, and returns the state of the vDEVICE under it.
    pub(crate) fn vdevice_state(&self) -> VdeviceGuard<'_> {
        VdeviceGuard {
            group: self.group().lock(),
            vdevice: &self.vdevice_state,
        }
    }
}

/// The [`VdeviceState`] of a device, with the group lock held.
pub(crate) struct VdeviceGuard<'a> {
    group: GroupGuard<'a>,
    vdevice: &'a LockedBy<VdeviceState, GroupState>,
}

impl Deref for VdeviceGuard<'_> {
    type Target = VdeviceState;

    fn deref(&self) -> &VdeviceState {
        self.vdevice.access(&self.group)
    }
}

impl DerefMut for VdeviceGuard<'_> {
    fn deref_mut(&mut self) -> &mut VdeviceState {
        self.vdevice.access_mut(&mut self.group)
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
///   the group has another DMA owner;
/// - [`EBUSY`] if a driver of the kernel uses the group;
/// - [`ENOMEM`], or an error of the IOMMU driver.
pub(crate) fn bind(ctx: &Context, dev: BoundDevice) -> Result<User<Device>> {
    let noiommu = cfg!(CONFIG_IOMMUFD_NOIOMMU) && !dev.has_iommu();
    let member = if noiommu {
        Member::alone()?
    } else {
        // User space cannot flush caches, so mappings have to be coherent.
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
        vdevice_state: LockedBy::new(member.group().state(), VdeviceState::default()),
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

/// Checks that the device cannot raise arbitrary interrupts by writing to memory, which would
/// endanger the whole machine.
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
