// SPDX-License-Identifier: GPL-2.0

//! IOMMU groups: the sets of devices that the hardware cannot isolate from each other.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::ptr::NonNull;

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::to_result,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

/// An IOMMU group.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{Bound, Device},
///     iommu::group::Group,
/// };
///
/// /// Whether one of the devices can be given away without the other.
/// fn can_part(a: &Device<Bound>, b: &Device<Bound>) -> bool {
///     match (Group::of(a), Group::of(b)) {
///         (Some(a), Some(b)) => a.id() != b.id(),
///         _ => false,
///     }
/// }
/// ```
///
/// # Invariants
///
/// Instances are reference counted by `iommu_group_ref_get()` and `iommu_group_put()`.
#[repr(transparent)]
pub struct Group(Opaque<bindings::iommu_group>);

// SAFETY: A group may be used and put from any task.
unsafe impl Send for Group {}
// SAFETY: The methods take the group's mutex or read what is constant.
unsafe impl Sync for Group {}

// SAFETY: `get` and `put` change the reference count of the group.
unsafe impl AlwaysRefCounted for Group {
    fn inc_ref(&self) {
        // SAFETY: `self` shows that the count is not zero.
        unsafe { bindings::iommu_group_ref_get(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up the reference that it owns.
        unsafe { bindings::iommu_group_put(obj.cast().as_ptr()) };
    }
}

impl Group {
    /// The group of `dev`, or [`None`] if no IOMMU translates for it.
    pub fn of(dev: &Device<Bound>) -> Option<ARef<Self>> {
        // SAFETY: `dev` is valid, and bound, so that its group cannot go away under the call.
        let group = NonNull::new(unsafe { bindings::iommu_group_get(dev.as_raw()) })?;

        // SAFETY: The call above took the reference that moves into the result.
        Some(unsafe { ARef::from_raw(group.cast()) })
    }

    /// The C group, for calls into C.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::iommu_group {
        self.0.get()
    }

    /// The number that names the group in sysfs, unique for as long as the group exists.
    #[inline]
    pub fn id(&self) -> i32 {
        // SAFETY: `self` is valid.
        unsafe { bindings::iommu_group_id(self.as_raw()) }
    }

    /// Whether no device of the group can trigger an interrupt that is not its own by a plain
    /// memory write. Takes the group's mutex.
    pub fn has_isolated_msi(&self) -> bool {
        // SAFETY: `self` is valid.
        unsafe { bindings::iommu_group_has_isolated_msi(self.as_raw()) }
    }
}

/// What the IOMMU behind a device is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// DMA can be made coherent with the CPU caches.
    CacheCoherency,
    /// Coherency can be enforced against a device that asks to bypass the caches.
    EnforceCacheCoherency,
    /// Writes by devices can be tracked.
    DirtyTracking,
    /// The device may use address translation services.
    PciAts,
}

impl Capability {
    fn as_raw(self) -> bindings::iommu_cap {
        match self {
            Self::CacheCoherency => bindings::iommu_cap_IOMMU_CAP_CACHE_COHERENCY,
            Self::EnforceCacheCoherency => bindings::iommu_cap_IOMMU_CAP_ENFORCE_CACHE_COHERENCY,
            Self::DirtyTracking => bindings::iommu_cap_IOMMU_CAP_DIRTY_TRACKING,
            Self::PciAts => bindings::iommu_cap_IOMMU_CAP_PCI_ATS_SUPPORTED,
        }
    }
}

/// Whether the IOMMU behind `dev` has `cap`; `false` if there is none.
pub fn capable(dev: &Device<Bound>, cap: Capability) -> bool {
    // SAFETY: `dev` is valid, and bound, so that its IOMMU driver cannot let go of it.
    unsafe { bindings::device_iommu_capable(dev.as_raw(), cap.as_raw()) }
}

/// DMA of a device's group is under the exclusive control of one owner.
///
/// While this exists no kernel driver does DMA with a device of the group, and the group's DMA is
/// blocked until the owner attaches domains.
///
/// # Invariants
///
/// `iommu_device_claim_dma_owner()` succeeded for `dev` and is not undone yet. `dev` stays bound.
/// When the last owner of the group is dropped, no domain of theirs is attached to it.
pub struct DmaOwner {
    dev: ARef<Device>,
}

impl DmaOwner {
    /// Claims the group of `dev` for `owner`.
    ///
    /// Claims of several devices of a group coexist if they name the same owner: an address that is
    /// compared and never accessed. The lifetime of what is there is not looked after.
    ///
    /// # Errors
    ///
    /// `ENODEV` without a group, `EPERM` if another owner has it, `EBUSY` if a driver uses it.
    ///
    /// # Safety
    ///
    /// - The driver of `dev` must stay bound until the result is dropped: the device then belongs
    ///   to the group that was claimed, which the release relies on.
    /// - Until the result is dropped, `owner` must be the address of one and the same thing, which
    ///   stands for one owner. If it went away, and another owner came to the same address, that
    ///   one could claim the group, too, and devices of two owners would share DMA.
    /// - When the last claim of the group ends, all domains that were attached to the group or to
    ///   one of its PASIDs must have been detached.
    pub unsafe fn claim(dev: &Device<Bound>, owner: NonNull<c_void>) -> Result<Self> {
        // SAFETY: `dev` is valid and bound; the owner is not accessed.
        to_result(unsafe { bindings::iommu_device_claim_dma_owner(dev.as_raw(), owner.as_ptr()) })?;

        // INVARIANT: The claim succeeded; `dev` stays bound by the requirements of this function.
        Ok(Self {
            dev: ARef::from(&**dev),
        })
    }
}

impl Drop for DmaOwner {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this undoes one successful claim, and no domain is
        // attached if it is the last one.
        unsafe { bindings::iommu_device_release_dma_owner(self.dev.as_raw()) };
    }
}
