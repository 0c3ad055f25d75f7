// SPDX-License-Identifier: GPL-2.0

//! Accesses: the functions for drivers that use the memory of an IOAS without an IOMMU, and the way
//! back to them when user space unmaps it.
//!
//! Contracts with C:
//!
//! - The driver passes operations and `data` to `iommufd_access_create()` that stay valid until
//!   `iommufd_access_destroy()` has returned. Until then `unmap` may be called at any time, by any
//!   thread, with no lock of this driver held; it returns after it has unpinned what it was asked
//!   for. No lock that it takes is held around `iommufd_access_destroy()`, which waits for it.
//! - `struct iommufd_access *` comes from a successful `iommufd_access_create()`; it is a [`User`]
//!   of the access that the caller holds until it calls `iommufd_access_destroy()`, when it calls
//!   no other function with it at the same time.

use super::{
    for_c::ForC,
    pin::PagePtr, //
};
use crate::{
    access::{
        Access,
        State, //
    },
    context::Context,
    io_pagetable::Notify,
    object::User,
    pages::{
        RwBuf,
        RwFlags, //
    },
    range::IovaRange, //
};
use core::{
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr, //
};
use kernel::{
    bindings,
    error::from_result,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        rwsem::{
            new_rwsem,
            RwSemaphore, //
        },
        Arc, //
    }, //
};

/// What a driver wants to be told of: `iommufd_access_ops::unmap`.
type Unmap = unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong);

/// The way to the driver of an access.
///
/// An IO page table lists it and may find it after the access is gone: then it does nothing. Nobody
/// waits for the lock while holding one that an `unmap` could need: [`Notify::unmap`] only tries
/// it, and [`Self::close`] is called under the contract of `iommufd_access_destroy()`.
///
/// # Invariants
///
/// `unmap` may be called with `data` while the access that was created with this lives. That is at
/// least as long as `open` says so.
#[pin_data]
pub(crate) struct Notifier {
    ops: *const bindings::iommufd_access_ops,
    unmap: Option<Unmap>,
    data: *mut c_void,
    alignment: usize,
    /// Whether the driver may be called. Read side: it is being called.
    #[pin]
    open: RwSemaphore<bool>,
}

// SAFETY: `ops` are constant, and `data` is for the driver, which is prepared for calls on any
// thread.
unsafe impl Send for Notifier {}
// SAFETY: The driver is prepared for calls by several threads at once.
unsafe impl Sync for Notifier {}

impl Notifier {
    fn new(
        ops: *const bindings::iommufd_access_ops,
        unmap: Option<Unmap>,
        data: *mut c_void,
        alignment: usize,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                ops,
                unmap,
                data,
                alignment,
                open <- new_rwsem!(true, "iommufd_access::notifier"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The notifier of an access that a driver creates.
    ///
    /// # Safety
    ///
    /// `ops` and `data` are as the contract at the top of this file says, until the access that is
    /// created with the result is destroyed.
    unsafe fn of_driver(
        ops: *const bindings::iommufd_access_ops,
        data: *mut c_void,
    ) -> Result<Arc<Self>> {
        // SAFETY: By the requirements of this function.
        let (unmap, pins) = unsafe { ((*ops).unmap, (*ops).needs_pin_pages() != 0) };

        Self::new(ops, unmap, data, if pins { PAGE_SIZE } else { 1 })
    }

    /// The notifier of an internal access: it notifies nobody.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn internal() -> Result<Arc<Self>> {
        Self::new(ptr::null(), None, ptr::null_mut(), PAGE_SIZE)
    }

    /// The operations of the driver, for C; NULL for an internal access.
    pub(crate) fn ops(&self) -> ForC<bindings::iommufd_access_ops> {
        ForC::from(self.ops)
    }

    /// What mappings must be aligned to for this access: a power of two.
    pub(crate) fn alignment(&self) -> usize {
        self.alignment
    }

    /// Whether there is a driver that wants to know.
    pub(crate) fn can_notify(&self) -> bool {
        self.unmap.is_some()
    }

    /// Waits until nobody is in [`Notify::unmap`], and turns it off.
    pub(crate) fn close(&self) {
        *self.open.write() = false;
    }
}

impl Notify for Notifier {
    fn unmap(&self, range: IovaRange) {
        // While there is a writer, the access is on its way out.
        let Some(open) = self.open.try_read() else {
            return;
        };
        if !*open {
            return;
        }
        if let Some(unmap) = self.unmap {
            // The whole space has one byte more than the length can say, as in `unmap_all()`.
            let len = range.len().unwrap_or(usize::MAX);
            // SAFETY: By the type invariants, as it is open; `close()` waits for the read side.
            unsafe { unmap(self.data, range.start, len) };
        }
    }
}

impl Access {
    /// Makes the driver unpin everything.
    ///
    /// Context: may sleep; the caller holds no lock of an access, an IOAS or an IO page table.
    pub(crate) fn unmap_all(&self) {
        let notifier = self.notifier();

        if let Some(unmap) = notifier.unmap {
            // SAFETY: By the type invariants: the notifier is that of `self`, which lives.
            unsafe { unmap(notifier.data, 0, usize::MAX) };
        }
    }
}

const _: () = {
    use core::mem::offset_of;

    // A Rust mutex is the C one, and behind it the data, of which the IOAS is first.
    assert!(
        size_of::<kernel::sync::Mutex<State>>()
            == size_of::<bindings::mutex>() + size_of::<State>()
    );
    assert!(
        offset_of!(bindings::iommufd_access, ioas)
            == offset_of!(bindings::iommufd_access, ioas_lock) + size_of::<bindings::mutex>()
    );
    assert!(size_of::<Option<User<crate::ioas::Ioas>>>() == size_of::<*mut c_void>());
};

/// The access that a driver got from `iommufd_access_create()`, lent.
///
/// # Safety
///
/// As the contract at the top of this file says, for as long as the result exists.
unsafe fn borrow(access: *mut bindings::iommufd_access) -> ManuallyDrop<User<Access>> {
    // SAFETY: By the requirements of this function; the count stays with the driver.
    ManuallyDrop::new(unsafe { User::from_raw(access.cast()) })
}

/// Creates an access, see `include/linux/iommufd.h`.
///
/// Returns it, or an error pointer, and in `id` the id that user space knows it by.
///
/// # Safety
///
/// As the contract at the top of this file says. `ictx` must be live during the call, and `id`
/// valid for writing.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_create(
    ictx: *mut bindings::iommufd_ctx,
    ops: *const bindings::iommufd_access_ops,
    data: *mut c_void,
    id: *mut u32,
) -> *mut bindings::iommufd_access {
    // SAFETY: By the requirements of this function.
    let (ctx, notifier) = unsafe { (Context::from_ptr(ictx), Notifier::of_driver(ops, data)) };

    match notifier.and_then(|notifier| Access::create(ctx, notifier)) {
        Ok(access) => {
            // SAFETY: By the requirements of this function.
            unsafe { *id = access.id() };
            access.into_raw().cast()
        }
        Err(err) => err.to_ptr(),
    }
}

/// Destroys an access. Nothing must be pinned any more.
///
/// # Safety
///
/// As the contract at the top of this file says. `access` is not valid after this.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_destroy(access: *mut bindings::iommufd_access) {
    // SAFETY: By the requirements of this function. The context outlives its objects.
    let (access, ctx) = unsafe {
        let access = User::<Access>::from_raw(access.cast());
        let ctx = access.ctx().map(|ctx| Context::from_ptr(ctx.as_ptr()));
        (access, ctx)
    };

    match ctx {
        Some(ctx) => access.destroy(ctx),
        // An internal access never gets to a driver.
        None => core::mem::forget(access),
    }
}

/// Calls `f` with an access and its context.
///
/// # Safety
///
/// As the contract at the top of this file says.
unsafe fn with_context(
    access: *mut bindings::iommufd_access,
    f: impl FnOnce(&Access, &Context) -> Result,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    from_result(|| {
        // An internal access never gets to a driver.
        let ctx = access.ctx().ok_or(EINVAL)?;
        f(&access, ctx).map(|()| 0)
    })
}

/// Attaches an access to an IOAS.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_attach(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { with_context(access, |access, ctx| access.attach(ctx, ioas_id)) }
}

/// Moves an access to another IOAS. The driver is told to unpin everything in between.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_replace(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { with_context(access, |access, ctx| access.replace(ctx, ioas_id)) }
}

/// Detaches an access. The driver is told to unpin everything.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_detach(access: *mut bindings::iommufd_access) {
    // SAFETY: By the requirements of this function.
    unsafe { borrow(access) }.detach();
}

/// Pins the pages of `length` bytes from `iova` on, which must begin and end with a page.
///
/// # Safety
///
/// As the contract at the top of this file says. `out_pages` must be valid for writing one pointer
/// for each page.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_pin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
    out_pages: *mut *mut bindings::page,
    flags: c_uint,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    #[cfg(CONFIG_IOMMUFD_TEST)]
    if kernel::warn_on!(!access.can_pin()) {
        return EINVAL.to_errno();
    }
    from_result(|| {
        let range = IovaRange::from_len(iova, length)?;
        // SAFETY: By the requirements of this function; the layout of a `PagePtr` is that of a
        // pointer.
        let pages = unsafe {
            core::slice::from_raw_parts_mut(
                out_pages.cast::<MaybeUninit<PagePtr>>(),
                length.div_ceil(PAGE_SIZE),
            )
        };
        access.pin(range, pages, flags & bindings::IOMMUFD_ACCESS_RW_WRITE != 0)?;
        Ok(0)
    })
}

/// Unpins the pages of a range that was pinned as a whole.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_unpin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
) {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    match IovaRange::from_len(iova, length) {
        Ok(range) => access.unpin(range),
        Err(_) => {
            kernel::warn_on!(true);
        }
    }
}

/// Copies between `data` and `len` bytes of memory from `iova` on.
///
/// # Safety
///
/// As the contract at the top of this file says. `data` must be valid for reading or, if the flags
/// do not say write, for writing `len` bytes. With `IOMMUFD_ACCESS_RW_KTHREAD` the caller is a
/// kernel thread.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_rw(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    data: *mut c_void,
    len: usize,
    flags: c_uint,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let access = unsafe { borrow(access) };

    from_result(|| {
        // What there is no room for after `iova` is not copied in part.
        let range = IovaRange::from_len(iova, len)?;
        let data = data.cast::<u8>();
        let buf = if flags & bindings::IOMMUFD_ACCESS_RW_WRITE != 0 {
            // SAFETY: By the requirements of this function.
            RwBuf::Write(unsafe { core::slice::from_raw_parts(data, len) })
        } else {
            // SAFETY: By the requirements of this function. The bytes are only written.
            RwBuf::Read(unsafe { core::slice::from_raw_parts_mut(data, len) })
        };
        let flags = RwFlags {
            kthread: flags & bindings::IOMMUFD_ACCESS_RW_KTHREAD != 0,
            slow_path: flags & bindings::__IOMMUFD_ACCESS_RW_SLOW_PATH != 0,
        };
        access.rw(range, buf, flags)?;
        Ok(0)
    })
}
