// SPDX-License-Identifier: GPL-2.0

//! Attaching domains to groups of devices and to their PASIDs.
//!
//! The IOMMU core keeps a pointer to the *handle* of each attachment, `struct
//! iommufd_attach_handle`, from which `driver.c` and the fault handler find the device and the
//! HWPT. One of the devices, the *leader*, represents the group. An [`Attachment`] owns the handle,
//! holds HWPT and leader, and detaches when it is dropped.
//!
//! Contracts with C:
//!
//! - The core serialises operations on a group by the mutex of the group. It refuses to attach to a
//!   group or PASID that is attached.
//! - It follows the pointer to a handle from attach to replace or detach. Page faults that were
//!   handed over refer to the handle for longer: they are counted in it, see [`iopf`](super::iopf),
//!   and answered before it is freed. A fault whose handler has found the handle but not yet
//!   counted it is left to the core. On replace the core does not wait for such a handler, as it
//!   stores the new handle after the new domain is in use. The C driver has this window, too; only
//!   the core can close it.
//! - `driver.c` follows `idev` of a handle under the mutex of the group. For the id of the device
//!   it reads `dev_id` instead.

use super::{
    hwpt::HoldsHwpt,
    layout::{
        Holds,
        Raw, //
    }, //
};
use core::{
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    ptr::{
        self,
        addr_of_mut,
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Relaxed,
            Release, //
        },
        Atomic, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};

const _: () = assert!(offset_of!(bindings::iommufd_attach_handle, handle) == 0);

/// `struct iommufd_attach_handle`, with a field that C does not access.
#[repr(C)]
struct AttachHandle {
    c: Opaque<bindings::iommufd_attach_handle>,
    /// The number of groups of page faults that refer to it.
    faults: Atomic<i32>,
}

const _: () = assert!(offset_of!(AttachHandle, c) == 0);

/// An unattached handle.
pub(crate) struct NewHandle(KBox<AttachHandle>);

// SAFETY: The handle is memory, which belongs to no thread.
unsafe impl Send for NewHandle {}
// SAFETY: The fields that change while it is shared are written as a whole, see `set_leader()`.
unsafe impl Sync for NewHandle {}

impl NewHandle {
    /// Allocates a handle.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        let memory = AttachHandle {
            c: Opaque::zeroed(),
            faults: Atomic::new(0),
        };

        // User space chooses the number of handles.
        Ok(Self(KBox::new(memory, GFP_KERNEL_ACCOUNT)?))
    }

    /// Makes this device the leader.
    fn set_leader(&self, leader: &Raw<bindings::iommufd_device>) {
        let (handle, leader) = (self.0.c.get(), leader.get());

        // SAFETY: The handle is ours, and the device initialised; its id does not change. Readers
        // in C may run at the same time: they see the old or the new leader, both of which
        // `Attachment` holds until no reader is left.
        unsafe {
            addr_of_mut!((*handle).idev).write_volatile(leader);
            addr_of_mut!((*handle).dev_id).write_volatile((*leader).obj.id);
        }
    }

    /// Returns the pointer by which the core and page faults refer to the handle.
    fn as_raw(&self) -> *mut bindings::iommu_attach_handle {
        self.0.c.get().cast()
    }

    /// Attaches the domain of a HWPT to the group of a device (`IOMMU_NO_PASID`), or to a PASID of
    /// it. It must be unattached.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if the domain is not compatible with the devices; those of the IOMMU
    /// driver. The HWPT is returned with the error.
    pub(crate) fn attach<H, D>(
        self,
        hwpt: H,
        leader: D,
        pasid: u32,
    ) -> Result<Attachment<H, D>, (H, Error)>
    where
        H: HoldsHwpt,
        D: Holds<bindings::iommufd_device>,
    {
        let res = AttachArgs::new(&hwpt, &leader).and_then(|at| {
            self.set_leader(leader.raw());
            // SAFETY: Domain, group and device are valid. They stay so until they are detached,
            // which `Attachment` does before it drops the handles on them.
            to_result(unsafe {
                match pasid {
                    bindings::IOMMU_NO_PASID => {
                        bindings::iommu_attach_group_handle(at.domain, at.group, self.as_raw())
                    }
                    pasid => {
                        bindings::iommu_attach_device_pasid(at.domain, at.dev, pasid, self.as_raw())
                    }
                }
            })
        });

        match res {
            // INVARIANT: The domain was just attached.
            Ok(()) => Ok(Attachment {
                handle: ManuallyDrop::new(self),
                hwpt: ManuallyDrop::new(hwpt),
                leader,
                pasid,
            }),
            Err(err) => Err((hwpt, err)),
        }
    }

    /// Answers all page faults that refer to the handle, which is not attached any more, and frees
    /// it.
    fn end(self, hwpt: &impl HoldsHwpt) {
        loop {
            hwpt.answer_faults(self.as_raw());
            // Acquire: pairs with `put_fault()`, which follows each answer.
            if self.0.faults.load(Acquire) == 0 {
                break;
            }
            // A handler is running that has counted its group, but not queued it.
            fsleep(Delta::from_millis(1));
        }
    }
}

/// Counts a group of page faults that is handed over.
///
/// # Safety
///
/// `handle` must be attached, with an [`Attachment`].
pub(super) unsafe fn count_fault(handle: *mut bindings::iommu_attach_handle) {
    // SAFETY: By the requirements of this function.
    unsafe {
        (*handle.cast::<AttachHandle>())
            .faults
            .fetch_add(1, Relaxed)
    };
}

/// Uncounts a group that was answered.
///
/// # Safety
///
/// The group must have been counted by [`count_fault`], once, and `handle` not be used after this.
pub(super) unsafe fn put_fault(handle: *mut bindings::iommu_attach_handle) {
    // SAFETY: By the requirements of this function: the handle is not freed while the group is
    // counted.
    unsafe {
        (*handle.cast::<AttachHandle>())
            .faults
            .fetch_add(-1, Release)
    };
}

/// Returns the id of the leader of the group, or PASID, that was attached with `handle`.
///
/// # Safety
///
/// A group must have been counted by [`count_fault`].
pub(super) unsafe fn leader_id(handle: *mut bindings::iommu_attach_handle) -> u32 {
    let handle: *const bindings::iommufd_attach_handle = handle.cast();

    // SAFETY: By the requirements of this function the handle has not been freed. The id is always
    // written as a whole.
    unsafe { (&raw const (*handle).dev_id).read_volatile() }
}

/// The arguments of the core's attach functions.
struct AttachArgs {
    domain: *mut bindings::iommu_domain,
    dev: *mut bindings::device,
    group: *mut bindings::iommu_group,
}

impl AttachArgs {
    /// Returns the arguments to attach `hwpt` to the group of `dev`.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the HWPT was not [linked](super::hwpt::link) to its domain; [`ENODEV`] if the
    /// device has no IOMMU.
    fn new(hwpt: &impl HoldsHwpt, dev: &impl Holds<bindings::iommufd_device>) -> Result<Self> {
        let hwpt = hwpt.hwpt().get();
        // SAFETY: The HWPT is initialised as far as C accesses it, so that it has a domain.
        let (domain, linked) = unsafe {
            let domain = (*hwpt).domain;

            (domain, (*domain).__bindgen_anon_1.iommufd_hwpt)
        };
        // The users of that pointer rely on the attachment holding the HWPT.
        if kernel::warn_on!(!ptr::eq(linked, hwpt)) {
            return Err(EINVAL);
        }
        let dev = dev.raw().bound();
        if !dev.has_iommu() {
            return Err(ENODEV);
        }
        let dev = dev.as_raw();
        // SAFETY: The device is bound: its group does not change.
        let group = NonNull::new(unsafe { (*dev).iommu_group }).ok_or(ENODEV)?;

        Ok(Self {
            domain,
            dev,
            group: group.as_ptr(),
        })
    }
}

/// An attachment of the domain of a HWPT. Dropping it detaches.
///
/// # Invariants
///
/// The domain of `hwpt`, which is linked to the HWPT, is attached to `pasid` of the IOMMU group of
/// `leader` with `handle`, which names that leader.
pub(crate) struct Attachment<H, D>
where
    H: HoldsHwpt,
    D: Holds<bindings::iommufd_device>,
{
    handle: ManuallyDrop<NewHandle>,
    hwpt: ManuallyDrop<H>,
    leader: D,
    pasid: u32,
}

impl<H, D> Attachment<H, D>
where
    H: HoldsHwpt,
    D: Holds<bindings::iommufd_device>,
{
    /// Returns the HWPT.
    pub(crate) fn hwpt(&self) -> &H {
        &self.hwpt
    }

    /// Returns the device that represents the group.
    pub(crate) fn leader(&self) -> &D {
        &self.leader
    }

    /// Returns the PASID, or `IOMMU_NO_PASID` for the group.
    pub(crate) fn pasid(&self) -> u32 {
        self.pasid
    }

    /// Attaches another HWPT instead; DMA is not blocked in between. Answers the page faults of the
    /// old HWPT and returns it.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the device is of another group, or the domain is not compatible with it; those
    /// of the IOMMU driver. The new HWPT is returned with the error; nothing has changed.
    pub(crate) fn replace(
        &mut self,
        handle: NewHandle,
        hwpt: H,
        leader: D,
    ) -> Result<H, (H, Error)> {
        let res = AttachArgs::new(&hwpt, &leader).and_then(|at| {
            if kernel::warn_on!(at.group != self.group()) {
                return Err(EINVAL);
            }
            handle.set_leader(leader.raw());
            // SAFETY: Domain, group and device are valid, as for `NewHandle::attach()`. By the type
            // invariants a domain is attached, which is replaced.
            to_result(unsafe {
                match self.pasid {
                    bindings::IOMMU_NO_PASID => {
                        bindings::iommu_replace_group_handle(at.group, at.domain, handle.as_raw())
                    }
                    pasid => bindings::iommu_replace_device_pasid(
                        at.domain,
                        at.dev,
                        pasid,
                        handle.as_raw(),
                    ),
                }
            })
        });

        if let Err(err) = res {
            return Err((hwpt, err));
        }
        // INVARIANT: The new domain is attached with the new handle. The core has taken the mutex
        // of the group: there is no reader of the old leader left.
        let hwpt = core::mem::replace(&mut *self.hwpt, hwpt);
        core::mem::replace(&mut *self.handle, handle).end(&hwpt);
        self.leader = leader;
        Ok(hwpt)
    }

    /// Makes another device of the same group the leader.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it is of another group.
    pub(crate) fn set_leader(&mut self, leader: D) -> Result {
        if kernel::warn_on!(group_of(&leader) != self.group()) {
            return Err(EINVAL);
        }
        self.handle.set_leader(leader.raw());
        // INVARIANT: The handle was just changed.
        let old = core::mem::replace(&mut self.leader, leader);
        synchronize(self.group());
        drop(old);
        Ok(())
    }

    /// Detaches. Answers the page faults of the HWPT and returns it.
    pub(crate) fn detach(self) -> H {
        let mut this = ManuallyDrop::new(self);

        // SAFETY: `this` is not used again, and not dropped.
        let (hwpt, leader) =
            unsafe { (this.detach_and_take(), ptr::from_ref(&this.leader).read()) };
        drop(leader);
        hwpt
    }

    fn group(&self) -> *mut bindings::iommu_group {
        group_of(&self.leader)
    }

    /// Detaches, and moves the HWPT out.
    ///
    /// # Safety
    ///
    /// To be called once, and `hwpt` and `handle` not to be used after it.
    unsafe fn detach_and_take(&mut self) -> H {
        let dev = self.leader.raw().bound().as_raw();
        // SAFETY: By the type invariants the domain is attached like this, and both are held.
        unsafe {
            let domain = (*self.hwpt.hwpt().get()).domain;

            match self.pasid {
                bindings::IOMMU_NO_PASID => {
                    bindings::iommu_detach_group_handle(domain, self.group());
                }
                pasid => bindings::iommu_detach_device_pasid(domain, dev, pasid),
            }
        }
        // SAFETY: By the requirements of this function.
        let (handle, hwpt) = unsafe {
            (
                ManuallyDrop::take(&mut self.handle),
                ManuallyDrop::take(&mut self.hwpt),
            )
        };

        handle.end(&hwpt);
        hwpt
    }
}

impl<H, D> Drop for Attachment<H, D>
where
    H: HoldsHwpt,
    D: Holds<bindings::iommufd_device>,
{
    fn drop(&mut self) {
        // SAFETY: `self` is being dropped, and `hwpt` and `handle` are not used again.
        drop(unsafe { self.detach_and_take() });
    }
}

/// Returns the IOMMU group of a device.
fn group_of(dev: &impl Holds<bindings::iommufd_device>) -> *mut bindings::iommu_group {
    // SAFETY: The device is bound: its group does not change.
    unsafe { (*dev.raw().bound().as_raw()).iommu_group }
}

/// Waits until the current holder of the mutex of the group has released it.
fn synchronize(group: *mut bindings::iommu_group) {
    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn stop(_dev: *mut bindings::device, _data: *mut c_void) -> c_int {
        1
    }

    // SAFETY: The group is that of a device that is bound. This takes the mutex, and the callback
    // does nothing.
    unsafe { bindings::iommu_group_for_each_dev(group, null_mut(), Some(stop)) };
}
