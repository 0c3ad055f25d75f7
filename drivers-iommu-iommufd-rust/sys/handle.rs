// SPDX-License-Identifier: GPL-2.0

//! Attaching domains to groups of devices and to their PASIDs.
//!
//! The IOMMU core keeps a pointer to the *handle* of each attachment, `struct
//! iommufd_attach_handle`, from which `driver.c` and the fault handler find the device and the
//! HWPT. One of the devices, the *leader*, stands for the group.
//!
//! Contracts:
//!
//! - The layer above serialises all operations on the attachments of a group. It keeps the domain,
//!   its HWPT and the leader until they are detached, and detaches what is attached.
//! - The core follows the pointer to a handle from when it is attached to when it is replaced or
//!   detached. Page faults that were delivered before may name it longer; the layer above answers
//!   them, which its lock orders with their readers, before the handle is freed.
//! - `driver.c` follows `idev` of a handle under the mutex of the IOMMU group, or for the id, which
//!   the handle has too, not at all. When the leader changes, the old one is not freed before
//!   its DMA ownership is given up, which takes that mutex: readers of the old pointer are done
//!   then.

use super::{
    bound_device::BoundDevice,
    layout::Raw, //
};
use core::ptr::addr_of_mut;
use kernel::{
    bindings,
    error::to_result,
    iommu::{
        domain::Domain,
        group::Group, //
    },
    prelude::*,
    types::Opaque, //
};

const _: () = assert!(core::mem::offset_of!(bindings::iommufd_attach_handle, handle) == 0);

/// `struct iommufd_attach_handle`.
///
/// It is freed after what was attached with it is detached, and its faults are answered: see the
/// contract at the top of this file.
pub(crate) struct Handle(KBox<Opaque<bindings::iommufd_attach_handle>>);

// SAFETY: The handle is memory, which belongs to no thread.
unsafe impl Send for Handle {}
// SAFETY: What changes of it while it is shared is written as a whole, see `set_leader()`.
unsafe impl Sync for Handle {}

impl Handle {
    /// A handle that is not in use. `leader`, whose id this is, stands for the group.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(leader: &Raw<bindings::iommufd_device>, id: u32) -> Result<Self> {
        // User space chooses how many there are.
        let handle = Self(KBox::new(Opaque::zeroed(), GFP_KERNEL_ACCOUNT)?);
        handle.set_leader(leader, id);
        Ok(handle)
    }

    /// Makes another device of the same group the one that stands for it.
    pub(crate) fn set_leader(&self, leader: &Raw<bindings::iommufd_device>, id: u32) {
        let handle = self.0.get();

        // SAFETY: The handle is ours. Readers in C may run at the same time: they see the old or
        // the new leader, and by the contract at the top of this file both are there for as long.
        unsafe {
            addr_of_mut!((*handle).idev).write_volatile(leader.get());
            addr_of_mut!((*handle).dev_id).write_volatile(id);
        }
    }

    /// How C, and a page fault, names the handle.
    pub(crate) fn as_raw(&self) -> *mut bindings::iommu_attach_handle {
        // SAFETY: The handle is ours; this only computes an address in it.
        unsafe { addr_of_mut!((*self.0.get()).handle) }
    }

    /// Attaches `domain` to the group of `dev`, or to a PASID of it, which nothing is attached to.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if the domain does not suit the devices; what the IOMMU driver says.
    pub(crate) fn attach(&self, domain: &Domain, place: Place<'_>) -> Result {
        let domain = domain.as_raw();

        // SAFETY: Domain, group and device are valid, and kept until they are detached, by the
        // contract at the top of this file.
        to_result(unsafe {
            match place.pasid {
                bindings::IOMMU_NO_PASID => {
                    bindings::iommu_attach_group_handle(domain, place.group.as_raw(), self.as_raw())
                }
                pasid => bindings::iommu_attach_device_pasid(
                    domain,
                    place.dev.as_raw(),
                    pasid,
                    self.as_raw(),
                ),
            }
        })
    }

    /// As [`Self::attach`], in the place of the domain that is attached with another handle, which
    /// is not in use then, and without a moment in between.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`]; nothing has changed then.
    pub(crate) fn replace(&self, domain: &Domain, place: Place<'_>) -> Result {
        let domain = domain.as_raw();

        // SAFETY: Domain, group and device are valid, and kept until they are detached, by the
        // contract at the top of this file.
        to_result(unsafe {
            match place.pasid {
                bindings::IOMMU_NO_PASID => bindings::iommu_replace_group_handle(
                    place.group.as_raw(),
                    domain,
                    self.as_raw(),
                ),
                pasid => bindings::iommu_replace_device_pasid(
                    domain,
                    place.dev.as_raw(),
                    pasid,
                    self.as_raw(),
                ),
            }
        })
    }

    /// Detaches `domain`, which is attached with this handle.
    pub(crate) fn detach(&self, domain: &Domain, place: Place<'_>) {
        let domain = domain.as_raw();

        match place.pasid {
            // SAFETY: By the contract at the top of this file the domain is attached like this.
            bindings::IOMMU_NO_PASID => unsafe {
                bindings::iommu_detach_group_handle(domain, place.group.as_raw());
            },
            // SAFETY: By the contract at the top of this file the domain is attached like this.
            pasid => unsafe {
                bindings::iommu_detach_device_pasid(domain, place.dev.as_raw(), pasid);
            },
        }
    }
}

/// What a domain is attached to.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The IOMMU group.
    pub(crate) group: &'a Group,
    /// A device of the group.
    pub(crate) dev: &'a BoundDevice,
    /// The PASID of the device, or `IOMMU_NO_PASID` for the group.
    pub(crate) pasid: u32,
}
