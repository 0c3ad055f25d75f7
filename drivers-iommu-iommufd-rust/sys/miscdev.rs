// SPDX-License-Identifier: GPL-2.0

//! The character devices.
//!
//! `shim.c` declares the two misc devices, whose fixed minor, node name and mode are data.
//! Contract: the misc core holds its mutex while it registers or deregisters a device and while it
//! opens one.
//!
//! # Registration
//!
//! When the init function of a module fails, the module loader frees its code without waiting for
//! open files. So no file may be open while the init function can still fail. Its last step that
//! can fail is the registration of `/dev/iommu`. `/dev/vfio/vfio` is registered before that, and
//! its `open()` returns [`ENODEV`], as it does without a registration, until `/dev/iommu` is
//! registered. When `misc_deregister()` returns no call of `open` is in progress, as both hold the
//! mutex.
//!
//! (In the other order `/dev/iommu` would have to refuse.)
//!
//! So while a file is open `/dev/iommu` is registered, and [`global_device`] has a device to
//! return.

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
/// `self.0` points to a static misc device, which is registered. `self.1` is the flag of this
/// device, which is true only while it is registered.
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
    /// [`ENOMEM`], or [`EBUSY`] if it is registered already or no minor number is free.
    pub(crate) fn iommu() -> Result<Self> {
        static TAKEN: Atomic<bool> = Atomic::new(false);

        Self::new(&raw mut bindings::iommufd_misc_dev, &TAKEN)
    }

    /// Registers `/dev/vfio/vfio`, if this driver is to provide it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`EBUSY`] if it is registered already, by VFIO or by this driver.
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

/// Returns the device of iommufd, for interfaces that take one, such as a dma-buf attachment.
///
/// It exists while a file is open.
pub(crate) fn global_device() -> *mut bindings::device {
    // SAFETY: `misc_register()` writes the field before a file can be open, and it does not change
    // while one is. `open` itself and the write hold the mutex of the misc core.
    unsafe { bindings::iommufd_misc_dev.this_device }
}
