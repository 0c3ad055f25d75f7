// SPDX-License-Identifier: GPL-2.0

//! Attaching domains to groups of devices and to their PASIDs.
//!
//! The IOMMU core keeps a pointer to the *handle* of each attachment, `struct
//! iommufd_attach_handle`, from which `driver.c` and the fault handler find the device and the
//! HWPT. One of the devices, the *leader*, stands for the group. An [`Attachment`] owns the handle,
//! holds HWPT and leader, and detaches when it is dropped.
//!
//! Contracts with C:
//!
//! - The core serialises what is done to a group by the mutex of the group. It refuses to attach
//!   where something is attached.
//! - It follows the pointer to a handle from when that is attached to when it is replaced or
//!   detached. Page faults that were handed over name it longer: they are counted in the handle,
//!   see [`iopf`](super::iopf), and answered before it is freed. A fault whose handler has found
//!   the handle and not counted it yet is left to the core. It does not wait for such a handler on
//!   replace, where it stores the new handle after the new domain is in use. This window is in the
//!   C driver, too; only the core can close it.
//! - `driver.c` follows `idev` of a handle under the mutex of the group, or for the id, which the
//!   handle has too, not at all.

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

/// `struct iommufd_attach_handle`, and what C does not know of it.
#[repr(C)]
struct Memory {
    c: Opaque<bindings::iommufd_attach_handle>,
    /// How many groups of page faults name it.
    faults: Atomic<i32>,
}

const _: () = assert!(offset_of!(Memory, c) == 0);

/// A handle with which nothing is attached.
pub(crate) struct NewHandle(KBox<Memory>);

// SAFETY: The handle is memory, which belongs to no thread.
unsafe impl Send for NewHandle {}
// SAFETY: What changes of it while it is shared is written as a whole, see `set_leader()`.
unsafe impl Sync for NewHandle {}

impl NewHandle {
    /// Allocates a handle.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        let memory = Memory {
            c: Opaque::zeroed(),
            faults: Atomic::new(0),
        };

        // User space chooses how many there are.
        Ok(Self(KBox::new(memory, GFP_KERNEL_ACCOUNT)?))
    }

    /// Makes this device the one that stands for the group.
    fn set_leader(&self, leader: &Raw<bindings::iommufd_device>) {
        let (handle, leader) = (self.0.c.get(), leader.get());

        // SAFETY: The handle is ours, and the device initialised; its id does not change. Readers
        // in C may run at the same time: they see the old or the new leader, and `Attachment` keeps
        // both for as long.
        unsafe {
            addr_of_mut!((*handle).idev).write_volatile(leader);
            addr_of_mut!((*handle).dev_id).write_volatile((*leader).obj.id);
        }
    }

    /// How the core, and a page fault, names the handle.
    fn as_raw(&self) -> *mut bindings::iommu_attach_handle {
        self.0.c.get().cast()
    }

    /// Attaches the domain of a HWPT to the group of a device, or to a PASID of it, which nothing
    /// is attached to; `IOMMU_NO_PASID` is the group.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if the domain does not suit the devices; what the IOMMU driver says.
    /// With the HWPT.
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
        let res = Place::new(&hwpt, &leader).and_then(|at| {
            self.set_leader(leader.raw());
            // SAFETY: Domain, group and device are valid. They are until they are detached, which
            // `Attachment` does before it gives up what holds them.
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

    /// Answers all page faults that name the handle, and frees it. Nothing is attached with it any
    /// more.
    fn end(self, hwpt: &impl HoldsHwpt) {
        loop {
            hwpt.answer_faults(self.as_raw());
            // Acquire: after what was done by those who have answered, see `put_fault()`.
            if self.0.faults.load(Acquire) == 0 {
                break;
            }
            // One was counted that is not in the queue yet: its handler is running.
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
    unsafe { (*handle.cast::<Memory>()).faults.fetch_add(1, Relaxed) };
}

/// Counts a group less, which was answered.
///
/// # Safety
///
/// The group must have been counted by [`count_fault`], once, and `handle` not be used after this.
pub(super) unsafe fn put_fault(handle: *mut bindings::iommu_attach_handle) {
    // SAFETY: By the requirements of this function: it is not freed while there is the count.
    unsafe { (*handle.cast::<Memory>()).faults.fetch_add(-1, Release) };
}

/// The id of the device that stands for the group of devices (or the PASID) that was attached with
/// `handle`.
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

/// The domain of a HWPT, and where it is to be attached.
struct Place {
    domain: *mut bindings::iommu_domain,
    dev: *mut bindings::device,
    group: *mut bindings::iommu_group,
}

impl Place {
    /// Where `dev` is.
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
        // Who follows that pointer relies on that the attachment holds the HWPT.
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

/// The domain of a HWPT is attached. Dropping this detaches it.
///
/// # Invariants
///
/// The domain of `hwpt`, which is linked to the HWPT, is attached to `pasid` of the IOMMU group of
/// `leader` with `handle`, whose leader that is.
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
    /// The HWPT.
    pub(crate) fn hwpt(&self) -> &H {
        &self.hwpt
    }

    /// The device that stands for the group.
    pub(crate) fn leader(&self) -> &D {
        &self.leader
    }

    /// The PASID, or `IOMMU_NO_PASID` for the group.
    pub(crate) fn pasid(&self) -> u32 {
        self.pasid
    }

    /// Attaches another HWPT instead, without a moment in between. Returns the HWPT of before,
    /// whose page faults are answered.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the device is of another group, or the domain does not suit it; what the IOMMU
    /// driver says. With the new HWPT; nothing has changed then.
    pub(crate) fn replace(
        &mut self,
        handle: NewHandle,
        hwpt: H,
        leader: D,
    ) -> Result<H, (H, Error)> {
        let res = Place::new(&hwpt, &leader).and_then(|at| {
            if kernel::warn_on!(at.group != self.group()) {
                return Err(EINVAL);
            }
            handle.set_leader(leader.raw());
            // SAFETY: Domain, group and device are valid, as for `NewHandle::attach()`. By the type
            // invariants there is something to replace.
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
        // of the group: nobody follows the leader of the old one.
        let hwpt = core::mem::replace(&mut *self.hwpt, hwpt);
        core::mem::replace(&mut *self.handle, handle).end(&hwpt);
        self.leader = leader;
        Ok(hwpt)
    }

    /// Makes another device of the same group the one that stands for it.
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

    /// Detaches. Returns the HWPT, whose page faults are answered.
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

    /// Detaches, and takes the HWPT out.
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
        // SAFETY: `self` is being dropped, and does not use them again.
        drop(unsafe { self.detach_and_take() });
    }
}

/// The IOMMU group of a device.
fn group_of(dev: &impl Holds<bindings::iommufd_device>) -> *mut bindings::iommu_group {
    // SAFETY: The device is bound: its group does not change.
    unsafe { (*dev.raw().bound().as_raw()).iommu_group }
}

/// Waits until those have released the mutex of the group who hold it now.
fn synchronize(group: *mut bindings::iommu_group) {
    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn stop(_dev: *mut bindings::device, _data: *mut c_void) -> c_int {
        1
    }

    // SAFETY: The group is that of a device that is bound. This takes the mutex, and the function
    // does nothing.
    unsafe { bindings::iommu_group_for_each_dev(group, null_mut(), Some(stop)) };
}
