// SPDX-License-Identifier: GPL-2.0

//! The character devices and their file operations.
//!
//! `shim.c` declares `iommufd_fops` and the two misc devices, whose fixed minor, node name and mode
//! are data. Contract: the VFS calls `open` once per file, everything else between a successful
//! `open` and `release`, and `release` when nobody else can use the file. `private_data` is the
//! context from `open` to `release`. The misc core holds its mutex while it registers or
//! deregisters a device and while it opens one.
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

use crate::{
    context::{
        AccountMode,
        Context, //
    },
    ioctl, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    prelude::*,
    types::ForeignOwnable, //
};

/// The file that a context belongs to, while it is being opened.
pub(crate) struct FileRef(*mut bindings::file);

impl FileRef {
    /// For a context that is not one of a file, in tests that take no reference to it.
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    pub(crate) fn none() -> Self {
        Self(core::ptr::null_mut())
    }

    /// How C sees the file.
    pub(super) fn as_ptr(&self) -> *mut bindings::file {
        self.0
    }
}

/// The context of a file that is known to be one of ours.
///
/// # Safety
///
/// `file` must have been opened by [`iommufd_fops_open`], and not be released for `'a`.
pub(super) unsafe fn private_data<'a>(file: *mut bindings::file) -> &'a Context {
    // SAFETY: By the requirements of this function: `private_data` is the context from `open` to
    // `release`.
    unsafe { &*(*file).private_data.cast::<Context>() }
}

/// The context of a file.
///
/// # Errors
///
/// [`EBADFD`] if it is the file of something else.
///
/// # Safety
///
/// The caller must hold a reference to `file` for `'a`.
pub(super) unsafe fn context_of<'a>(file: *mut bindings::file) -> Result<&'a Context> {
    // SAFETY: The caller holds a reference to the file, whose operations do not change.
    let fops = unsafe { (*file).f_op };
    if fops != &raw const bindings::iommufd_fops {
        return Err(EBADFD);
    }
    // SAFETY: A file with these operations was opened by ours, and a file that somebody has a
    // reference to is not released.
    Ok(unsafe { private_data(file) })
}

/// Opens `/dev/iommu` or `/dev/vfio/vfio`.
///
/// # Safety
///
/// `file` must be in the course of being opened, with the address of its misc device in
/// `private_data`, as `misc_open()` puts it there.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fops_open(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let device = unsafe { (*file).private_data };
    // Who opens the VFIO container expects the accounting of VFIO.
    let vfio = cfg!(CONFIG_IOMMUFD_VFIO_CONTAINER)
        && core::ptr::eq(device, (&raw const bindings::iommufd_vfio_misc_dev).cast());
    if vfio && from_err_ptr(global_device()).map_or(true, |device| device.is_null()) {
        // The init function of the module can still fail, see the top of this file.
        return ENODEV.to_errno();
    }
    let mode = if vfio {
        kernel::pr_info_once!("IOMMUFD is providing /dev/vfio/vfio, not VFIO.\n");
        AccountMode::Mm
    } else {
        AccountMode::User
    };
    from_result(|| {
        let ctx = KBox::pin_init(Context::new(FileRef(file), mode), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: By the requirements of this function nobody else uses the file yet.
        unsafe { (*file).private_data = ctx.into_foreign().cast() };
        Ok(0)
    })
}

/// Ends a context, with the last reference to its file.
///
/// # Safety
///
/// [`iommufd_fops_open`] must have opened `file`, and nobody must use it any more.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fops_release(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirements of this function: `open` put the context there, and this is its
    // last use.
    let ctx = unsafe { <Pin<KBox<Context>>>::from_foreign((*file).private_data.cast()) };
    ctx.destroy_all();
    drop(ctx);
    0
}

/// Executes a command.
///
/// # Safety
///
/// [`iommufd_fops_open`] must have opened `file`, and it must not be released during the call.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fops_ioctl(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: By the requirements of this function.
    let ctx = unsafe { private_data(file) };

    match ioctl::ioctl(ctx, cmd, arg) {
        Ok(value) => value,
        Err(err) => err.to_errno() as c_long,
    }
}

/// A registered misc device.
///
/// # Invariants
///
/// `self.0` points to a static misc device that is registered.
pub(crate) struct Registration(*mut bindings::miscdevice);

// SAFETY: A misc device can be deregistered on any thread.
unsafe impl Send for Registration {}
// SAFETY: There are no methods.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers `/dev/iommu`. To be done once.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`EBUSY`] if there is no minor number left.
    pub(crate) fn iommu() -> Result<Self> {
        Self::new(&raw mut bindings::iommufd_misc_dev)
    }

    /// Registers `/dev/vfio/vfio`, if this driver is to provide it. To be done once.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or [`EBUSY`] if VFIO has it.
    pub(crate) fn vfio() -> Result<Option<Self>> {
        if cfg!(CONFIG_IOMMUFD_VFIO_CONTAINER) {
            Self::new(&raw mut bindings::iommufd_vfio_misc_dev).map(Some)
        } else {
            Ok(None)
        }
    }

    fn new(device: *mut bindings::miscdevice) -> Result<Self> {
        // SAFETY: The devices of `shim.c` are static and complete. The module init function runs
        // once, so they are not registered yet.
        to_result(unsafe { bindings::misc_register(device) })?;
        // INVARIANT: It was just registered.
        Ok(Self(device))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::misc_deregister(self.0) };
    }
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

/// As [`global_device`], for C.
///
/// # Safety
///
/// None.
#[export]
pub(crate) unsafe extern "C" fn iommufd_global_device() -> *mut bindings::device {
    global_device()
}
