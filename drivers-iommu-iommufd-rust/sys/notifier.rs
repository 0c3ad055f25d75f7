// SPDX-License-Identifier: GPL-2.0

//! The way to the driver of an access, which is told to unpin what user space unmaps.
//!
//! Contract with the drivers: the operations and `data` that a driver passes stay valid until its
//! access is destroyed. Until then `unmap` may be called at any time, by any thread, with no lock
//! of this driver held; it returns after it has unpinned what it was asked for. No lock that it
//! takes is held around the destruction of the access, which waits for it.
//!
//! Contract with the layer above: an access has the notifier that it was created with, and calls
//! [`Notifier::close`] before it ends; [`Notifier::unmap_all`] is called by the access only.

use super::for_c::ForC;
use crate::range::IovaRange;
use core::ptr;
use kernel::{
    bindings,
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
/// waits for the lock while holding one that an `unmap` could need: [`Self::unmap`] only tries
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
    pub(crate) unsafe fn of_driver(
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

    /// Waits until nobody is in [`Self::unmap`], and turns it off.
    pub(crate) fn close(&self) {
        *self.open.write() = false;
    }

    /// Has the driver unpin `range`, unless the access is on its way out.
    ///
    /// Context: may sleep; the caller holds no lock of an access, an IOAS or an IO page table.
    pub(crate) fn unmap(&self, range: IovaRange) {
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

    /// Makes the driver unpin everything.
    ///
    /// Context: may sleep; the caller holds no lock of an access, an IOAS or an IO page table.
    pub(crate) fn unmap_all(&self) {
        if let Some(unmap) = self.unmap {
            // SAFETY: By the contract at the top of this file the access lives.
            unsafe { unmap(self.data, 0, usize::MAX) };
        }
    }
}
