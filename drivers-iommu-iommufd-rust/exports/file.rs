// SPDX-License-Identifier: GPL-2.0

//! The file operations of the character devices.
//!
//! `shim.c` declares `iommufd_fops`. Contract: the VFS calls `open` once per file, other operations
//! between a successful `open` and `release`, and `release` when the file is not used any more.
//! `private_data` is the context from `open` to `release`. See [`miscdev`] for the devices.

use crate::{
    context::Context,
    ioctl,
    object::Owner as _,
    sys::{
        file::{
            FilePtr,
            OpeningFile,
            PrivateData, //
        },
        miscdev,
        task::AccountMode, //
    },
    viommu::mmap, //
};
use kernel::{
    bindings,
    error::from_result,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    mm::virt::VmaNew,
    prelude::*,
    types::ForeignOwnable, //
};

// SAFETY: A context is made with an `OpeningFile`: it becomes the private data of that file, and is
// dropped in the `release` of the file, after the last reference was put, or its pointer to the
// file is cleared there.
unsafe impl PrivateData for Context {
    fn file(&self) -> &FilePtr {
        self.c.file()
    }
}

/// Returns the context of a file of this driver.
///
/// # Safety
///
/// `file` must have been opened by [`iommufd_fops_open`], and not be released for `'a`.
unsafe fn private_data<'a>(file: *mut bindings::file) -> &'a Context {
    // SAFETY: By the requirements of this function: `private_data` is the context from `open` to
    // `release`.
    unsafe { &*(*file).private_data.cast::<Context>() }
}

/// Returns the context of a file.
///
/// # Errors
///
/// [`EBADFD`] if it is not a file of this driver.
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
    // SAFETY: A file with these operations was opened by `iommufd_fops_open()`, and it is not
    // released while there is a reference to it.
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
    // Users of the VFIO container expect the accounting of VFIO.
    let vfio = cfg!(CONFIG_IOMMUFD_VFIO_CONTAINER)
        && core::ptr::eq(device, (&raw const bindings::iommufd_vfio_misc_dev).cast());
    if vfio && !miscdev::is_iommu_registered() {
        // The init function of the module can still fail, see `sys::miscdev`.
        return ENODEV.to_errno();
    }
    let mode = if vfio {
        kernel::pr_info_once!("IOMMUFD is providing /dev/vfio/vfio, not VFIO.\n");
        AccountMode::Mm
    } else {
        AccountMode::User
    };
    from_result(|| {
        // SAFETY: By the requirements of this function. If this fails the context is dropped; else
        // it becomes the private data below, which `iommufd_fops_release()` drops.
        let file_to_be = unsafe { OpeningFile::new(file) };
        let ctx = KBox::pin_init(Context::new(file_to_be, mode), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: By the requirements of this function the file is ours alone.
        unsafe { (*file).private_data = ctx.into_foreign().cast() };
        Ok(0)
    })
}

/// Destroys a context, after the last reference to its file was put.
///
/// # Safety
///
/// [`iommufd_fops_open`] must have opened `file`, which must not be used any more.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fops_release(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: By the requirements of this function: `open` put the context there, and this is its
    // last use.
    let ctx = unsafe { <Pin<KBox<Context>>>::from_foreign((*file).private_data.cast()) };
    if !ctx.destroy_all() {
        // The objects that are left point to the context: leak it, and clear its pointer to the
        // file.
        // SAFETY: By the requirements of this function.
        unsafe { ctx.c.file().clear() };
        core::mem::forget(ctx);
        return 0;
    }
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

/// Maps an MMIO region that an IOMMU driver offers.
///
/// # Safety
///
/// [`iommufd_fops_open`] must have opened `file`, and `vma` must be a VMA of it that is being set
/// up.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fops_mmap(
    file: *mut bindings::file,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: By the requirements of this function; the VMA is undergoing setup, and holds the
    // file.
    let (ctx, vma) = unsafe { (private_data(file), VmaNew::from_raw(vma)) };

    from_result(|| mmap::mmap(ctx, vma).map(|()| 0))
}

/// As [`miscdev::global_device`], for C.
///
/// # Safety
///
/// None.
#[export]
pub(crate) unsafe extern "C" fn iommufd_global_device() -> *mut bindings::device {
    miscdev::global_device()
}
