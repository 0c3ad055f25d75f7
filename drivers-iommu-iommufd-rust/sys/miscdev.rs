// SPDX-License-Identifier: GPL-2.0

//! The character devices.
//!
//! `shim.c` declares the two misc devices, whose fixed minor, node name and mode are data.
//! Contract: the misc core holds its mutex while it registers or deregisters a device and while it
//! opens one.
//!
//! # Registration
//!
//! The module loader does not wait for open files when the init function of a module fails: it
//! frees the code that they would call. So no file can be open as long as the init function can
//! still fail. `/dev/iommu` is the last thing that can, and `/dev/vfio/vfio`, which is registered
//! before it, refuses to be opened until `/dev/iommu` is there, with what `open()` returns before
//! the registration: [`ENODEV`]. A call of `open` itself is over when `misc_deregister()` returns,
//! as both hold the mutex.
//!
//! (The other order would only exchange the roles, with the refusals at `/dev/iommu`.)
//!
//! So there is no open file without `/dev/iommu`, and [`global_device`] always has a device.

use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Release, //
        },
        Atomic, //
    }, //
};

/// A registered misc device.
///
/// # Invariants
///
/// `self.0` points to a static misc device that is registered, and `self.1`, which is true only
/// then, is that of this device.
pub(crate) struct Registration(*mut bindings::miscdevice, &'static Atomic<bool>);

// SAFETY: A misc device can be deregistered on any thread.
unsafe impl Send for Registration {}
// SAFETY: There are no methods.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers `/dev/iommu`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`EBUSY`] if there is no minor number left, or it is registered.
    pub(crate) fn iommu() -> Result<Self> {
        static TAKEN: Atomic<bool> = Atomic::new(false);

        Self::new(&raw mut bindings::iommufd_misc_dev, &TAKEN)
    }

    /// Registers `/dev/vfio/vfio`, if this driver is to provide it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`EBUSY`] if VFIO has it, or it is registered.
    pub(crate) fn vfio() -> Result<Option<Self>> {
        if cfg!(CONFIG_IOMMUFD_VFIO_CONTAINER) {
            static TAKEN: Atomic<bool> = Atomic::new(false);

            Self::new(&raw mut bindings::iommufd_vfio_misc_dev, &TAKEN).map(Some)
        } else {
            Ok(None)
        }
    }

    fn new(device: *mut bindings::miscdevice, taken: &'static Atomic<bool>) -> Result<Self> {
        if taken.xchg(true, Acquire) {
            return Err(EBUSY);
        }
        // SAFETY: The devices of `shim.c` are static and complete. There is no other registration
        // of this one, by the type invariants.
        to_result(unsafe { bindings::misc_register(device) })
            .inspect_err(|_| taken.store(false, Release))?;
        // INVARIANT: It was just registered.
        Ok(Self(device, taken))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::misc_deregister(self.0) };
        self.1.store(false, Release);
    }
}

/// Returns whether `/dev/iommu` is registered. To be called under the mutex of the misc core.
pub(crate) fn is_iommu_registered() -> bool {
    from_err_ptr(global_device()).is_ok_and(|device| !device.is_null())
}

/// The device that stands for iommufd where an interface wants one, such as a dma-buf attachment.
///
/// It is there for as long as there are open files.
pub(crate) fn global_device() -> *mut bindings::device {
    // SAFETY: `misc_register()` has written the field before there are open files, and nobody
    // changes it while there are. `open` itself is called under the mutex of the misc core, as is
    // the write.
    unsafe { bindings::iommufd_misc_dev.this_device }
}
