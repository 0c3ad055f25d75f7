// SPDX-License-Identifier: GPL-2.0

//! Attaching domains to groups of devices and to their PASIDs.
//!
//! The IOMMU core keeps a pointer to the *handle* of each attachment, `struct
//! iommufd_attach_handle`, from which `driver.c` and the fault handler find the device and the
//! HWPT. An attachment owns its handle, keeps the HWPT and one of the devices (the *leader*), and
//! is undone when it is dropped.
//!
//! The IOMMU driver decides whether a HWPT suits a group. The HWPT has a user before that, so that
//! it cannot be destroyed when it is attached; a [`Tentative`](crate::object::Tentative) is held
//! until it is known whether the user stays.
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
    context::Context,
    device::{
        group::Group,
        Device, //
    },
    hwpt::{
        AnyHwpt,
        Candidate,
        HwptPaging,
        HwptRef, //
    },
    object::{
        Object,
        User, //
    }, //
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

// SAFETY: The handle is memory, which belongs to no thread.
unsafe impl Send for Handle {}
// SAFETY: What changes of it while it is shared is written as a whole, see `set_leader()`.
unsafe impl Sync for Handle {}

impl Handle {
    fn new(leader: &User<Device>) -> Result<Self> {
        // User space chooses how many there are.
        let handle = Self(KBox::new(Opaque::zeroed(), GFP_KERNEL_ACCOUNT)?);
        handle.set_leader(leader);
        Ok(handle)
    }

    fn set_leader(&self, leader: &User<Device>) {
        let handle = self.0.get();

        // SAFETY: The handle is ours. Readers in C may run at the same time: they see the old or
        // the new leader, and by the contract at the top of this file both are there for as long.
        unsafe {
            addr_of_mut!((*handle).idev).write_volatile(leader.as_ptr().cast());
            addr_of_mut!((*handle).dev_id).write_volatile(leader.id());
        }
    }

    fn as_raw(&self) -> *mut bindings::iommu_attach_handle {
        // SAFETY: The handle is ours; this only computes an address in it.
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
    pub(crate) fn new(
        ctx: &Context,
        candidate: &mut dyn Candidate,
        leader: User<Device>,
        pasid: u32,
    ) -> Result<Self> {
        let Some(group) = leader.group().iommu() else {
            // INVARIANT: Without an IOMMU there is nothing to do.
            return Ok(Self {
                handle: None,
                hwpt: candidate.user(&ctx.tentative())?,
                leader,
                pasid,
            });
        };
        let handle = Handle::new(&leader)?;
        let tentative = ctx.tentative();
        let hwpt = candidate.user(&tentative)?;
        let domain = hwpt.get().domain().as_raw();

        // SAFETY: Domain, group and device are valid, and kept by `hwpt` and `leader` until the
        // attachment is dropped.
        let result = to_result(unsafe {
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
        });
        if let Err(err) = result {
            candidate.give_up(hwpt);
            return Err(err);
        }

        // INVARIANT: The domain was attached.
        Ok(Self {
            handle: Some(handle),
            hwpt,
            leader,
            pasid,
        })
    }

    /// Attaches to `candidate` instead, without a moment in between. Returns the HWPT of before.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; nothing has changed then.
    pub(crate) fn replace(
        &mut self,
        ctx: &Context,
        candidate: &mut dyn Candidate,
        leader: User<Device>,
    ) -> Result<HwptRef> {
        let Some(group) = leader.group().iommu() else {
            let hwpt = candidate.user(&ctx.tentative())?;

            self.leader = leader;
            return Ok(core::mem::replace(&mut self.hwpt, hwpt));
        };
        let handle = Handle::new(&leader)?;
        let tentative = ctx.tentative();
        let hwpt = candidate.user(&tentative)?;
        let domain = hwpt.get().domain().as_raw();

        // SAFETY: Domain, group and device are valid, and kept by `hwpt` and `leader` until the
        // attachment is dropped.
        let result = to_result(unsafe {
            match self.pasid {
                bindings::IOMMU_NO_PASID => {
                    bindings::iommu_replace_group_handle(group.as_raw(), domain, handle.as_raw())
                }
                pasid => bindings::iommu_replace_device_pasid(
                    domain,
                    leader.dev().as_raw(),
                    pasid,
                    handle.as_raw(),
                ),
            }
        });
        if let Err(err) = result {
            candidate.give_up(hwpt);
            return Err(err);
        }
        drop(tentative);

        answer_faults(self.hwpt.get(), self.handle.replace(handle));
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
    pub(crate) fn hwpt(&self) -> AnyHwpt<'_> {
        self.hwpt.get()
    }

    /// A user of what the group is attached to.
    pub(crate) fn hwpt_user(&self) -> HwptRef {
        self.hwpt.another()
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
        let domain = self.hwpt.get().domain().as_raw();

        match (self.pasid, self.leader.group().iommu()) {
            // SAFETY: By the type invariants the domain is attached like this.
            (bindings::IOMMU_NO_PASID, Some(group)) => unsafe {
                bindings::iommu_detach_group_handle(domain, group.as_raw());
            },
            // SAFETY: By the type invariants the domain is attached like this.
            (pasid, _) => unsafe {
                bindings::iommu_detach_device_pasid(domain, self.leader.dev().as_raw(), pasid);
            },
        }
        answer_faults(self.hwpt.get(), Some(handle));
    }
}

/// Answers the faults that wait for user space and name a handle, which is then freed.
fn answer_faults(hwpt: AnyHwpt<'_>, handle: Option<Handle>) {
    if let (Some(fault), Some(handle)) = (hwpt.fault(), &handle) {
        fault.auto_respond(handle.as_raw());
    }
}

const _: () = assert!(core::mem::offset_of!(bindings::iommufd_attach_handle, handle) == 0);

/// A page of the MSI window: `struct iommufd_sw_msi_map`.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
#[repr(transparent)]
struct SwMsiMap(Opaque<bindings::iommufd_sw_msi_map>);

/// Maps the pages of the MSI window that a group uses into a domain that it is to be attached to.
///
/// # Errors
///
/// What the IOMMU driver says.
///
/// Context: takes `sw_msi_lock`.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) fn install_msi_pages(ctx: &Context, group: &Group, hwpt: &Object<HwptPaging>) -> Result {
    let c = ctx.as_ptr();
    // SAFETY: The mutex is initialised and lives as long as the context.
    let lock = unsafe { kernel::sync::Mutex::<()>::from_raw(&raw mut (*c).sw_msi_lock) };
    let _guard = lock.lock();
    // SAFETY: The list and the set are initialised, and do not change while the lock is held, that
    // is, to the end of this function. The list has entries of this type only.
    let (pages, used) = unsafe {
        let head = &raw mut (*c).sw_msi_list;
        (
            kernel::interop::list::clist_create!(
                head,
                SwMsiMap,
                bindings::iommufd_sw_msi_map,
                sw_msi_item
            ),
            (*group.required_sw_msi().as_raw()).bitmap,
        )
    };

    for page in pages.iter() {
        let page = page.0.get();
        // SAFETY: What is listed does not change.
        let (start, id) = unsafe { ((*page).sw_msi_start, (*page).id as usize) };
        let (word, bit) = (id / usize::BITS as usize, id % usize::BITS as usize);

        if start == group.sw_msi_start() && used.get(word).is_some_and(|bits| bits >> bit & 1 != 0)
        {
            // SAFETY: The context, the HWPT and the page are valid, and the lock is held. The IOVA
            // lies in the MSI window, which is reserved: nobody else maps there.
            kernel::error::to_result(unsafe {
                bindings::iommufd_sw_msi_install(c, hwpt.as_ptr().cast(), page)
            })?;
        }
    }
    Ok(())
}

/// No interrupt of this architecture goes through a window that the kernel maps.
#[cfg(not(CONFIG_IRQ_MSI_IOMMU))]
pub(crate) fn install_msi_pages(
    _ctx: &Context,
    _group: &Group,
    _hwpt: &Object<HwptPaging>,
) -> Result {
    Ok(())
}
