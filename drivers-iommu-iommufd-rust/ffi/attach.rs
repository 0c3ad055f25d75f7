// SPDX-License-Identifier: GPL-2.0

//! Attaching domains to groups of devices and to their PASIDs.
//!
//! The IOMMU core keeps a pointer to the *handle* of each attachment, `struct
//! iommufd_attach_handle`, from which `driver.c` and the fault handler find the device and the
//! HWPT. An attachment owns its handle, keeps the HWPT and one of the devices (the *leader*), and
//! is undone when it is dropped.
//!
//! Contracts:
//!
//! - The caller serialises all operations on the attachments of a group: it holds the group lock.
//! - The core follows the pointer to a handle from when it is attached to when it is replaced or
//!   detached. Page faults that were delivered before may name it longer; they are answered here,
//!   which the fault queue's mutex orders with their readers, before the handle is freed.
//! - `driver.c` follows `idev` of a handle under the mutex of the IOMMU group, or for the id, which
//!   the handle has too, not at all. When the leader changes, the old one is not freed before
//!   its DMA ownership is given up, which takes that mutex: readers of the old pointer are done
//!   then.

use crate::{
    device::Device,
    hwpt::HwptRef,
    object::User, //
};
use core::ptr::addr_of_mut;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// `struct iommufd_attach_handle`.
struct Handle(KBox<Opaque<bindings::iommufd_attach_handle>>);

// SAFETY: The core reads the handle under its own locks.
unsafe impl Send for Handle {}
// SAFETY: As above.
unsafe impl Sync for Handle {}

impl Handle {
    fn new(leader: &User<Device>) -> Result<Self> {
        let handle = Self(KBox::new(Opaque::zeroed(), GFP_KERNEL)?);
        handle.set_leader(leader);
        Ok(handle)
    }

    fn set_leader(&self, leader: &User<Device>) {
        let handle = self.0.get();

        // SAFETY: The handle is valid. Readers see the old or the new value, both valid.
        unsafe {
            addr_of_mut!((*handle).idev).write_volatile(leader.as_ptr().cast());
            addr_of_mut!((*handle).dev_id).write_volatile(leader.id());
        }
    }

    fn as_raw(&self) -> *mut bindings::iommu_attach_handle {
        // SAFETY: The handle is valid.
        unsafe { addr_of_mut!((*self.0.get()).handle) }
    }
}

/// A group of devices, or a PASID of it, is attached to a HWPT.
///
/// # Invariants
///
/// The domain of `hwpt` is attached to `pasid` of the IOMMU group of `leader`, with `handle`,
/// unless there is no handle: then there is no IOMMU.
pub(crate) struct Attached {
    handle: Option<Handle>,
    hwpt: HwptRef,
    leader: User<Device>,
    pasid: u32,
}

impl Attached {
    /// Attaches the group of `leader`, or its `pasid`, to `hwpt`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if the domain does not suit the devices; what the IOMMU driver says.
    pub(crate) fn new(hwpt: HwptRef, leader: User<Device>, pasid: u32) -> Result<Self> {
        let Some(group) = leader.group().iommu() else {
            // INVARIANT: Without an IOMMU there is nothing to do.
            return Ok(Self {
                handle: None,
                hwpt,
                leader,
                pasid,
            });
        };
        let handle = Handle::new(&leader)?;
        let domain = hwpt.domain().as_raw();

        // SAFETY: Domain, group and device are valid, and kept by `hwpt` and `leader` until the
        // attachment is dropped.
        to_result(unsafe {
            match pasid {
                bindings::IOMMU_NO_PASID => {
                    bindings::iommu_attach_group_handle(domain, group.as_raw(), handle.as_raw())
                }
                pasid => bindings::iommu_attach_device_pasid(
                    domain,
                    leader.dev().as_raw(),
                    pasid,
                    handle.as_raw(),
                ),
            }
        })?;

        // INVARIANT: The domain was attached.
        Ok(Self {
            handle: Some(handle),
            hwpt,
            leader,
            pasid,
        })
    }

    /// Attaches to `hwpt` instead, without a moment in between. Returns the HWPT of before.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; nothing has changed then.
    pub(crate) fn replace(&mut self, hwpt: HwptRef, leader: User<Device>) -> Result<HwptRef> {
        if let Some(group) = leader.group().iommu() {
            let handle = Handle::new(&leader)?;
            let domain = hwpt.domain().as_raw();

            // SAFETY: As in `new()`.
            to_result(unsafe {
                match self.pasid {
                    bindings::IOMMU_NO_PASID => bindings::iommu_replace_group_handle(
                        group.as_raw(),
                        domain,
                        handle.as_raw(),
                    ),
                    pasid => bindings::iommu_replace_device_pasid(
                        domain,
                        leader.dev().as_raw(),
                        pasid,
                        handle.as_raw(),
                    ),
                }
            })?;
            let old = self.handle.replace(handle);
            answer_faults(&self.hwpt, old);
        }
        self.leader = leader;
        // INVARIANT: The new domain is attached with the new handle.
        Ok(core::mem::replace(&mut self.hwpt, hwpt))
    }

    /// Makes another device of the same group the one that stands for it.
    pub(crate) fn set_leader(&mut self, leader: User<Device>) {
        if let Some(handle) = &self.handle {
            handle.set_leader(&leader);
        }
        self.leader = leader;
    }

    /// Whether this device stands for the group.
    pub(crate) fn is_led_by(&self, device: &User<Device>) -> bool {
        self.leader.id() == device.id()
    }

    /// What the group is attached to.
    pub(crate) fn hwpt(&self) -> &HwptRef {
        &self.hwpt
    }

    /// Which PASID it is; `IOMMU_NO_PASID` for DMA without one.
    pub(crate) fn pasid(&self) -> u32 {
        self.pasid
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        let domain = self.hwpt.domain().as_raw();

        match (self.pasid, self.leader.group().iommu()) {
            // SAFETY: By the type invariants the domain is attached like this.
            (bindings::IOMMU_NO_PASID, Some(group)) => unsafe {
                bindings::iommu_detach_group_handle(domain, group.as_raw());
            },
            // SAFETY: As above.
            (pasid, _) => unsafe {
                bindings::iommu_detach_device_pasid(domain, self.leader.dev().as_raw(), pasid);
            },
        }
        answer_faults(&self.hwpt, Some(handle));
    }
}

/// Answers the faults that wait for user space and name a handle, which is then freed.
fn answer_faults(hwpt: &HwptRef, handle: Option<Handle>) {
    if let (Some(fault), Some(handle)) = (hwpt.fault(), &handle) {
        fault.auto_respond(handle.as_raw());
    }
}

const _: () = assert!(core::mem::offset_of!(bindings::iommufd_attach_handle, handle) == 0);
