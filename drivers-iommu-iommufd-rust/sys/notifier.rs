// SPDX-License-Identifier: GPL-2.0

//! Calling the driver of an access, to have it unpin memory that user space unmaps.
//!
//! Contract with the drivers: the operations and `data` that a driver passes stay valid until its
//! access is destroyed. Until then `unmap` may be called at any time, by any thread, with no lock
//! of this driver held; it returns when the range is unpinned. No lock that it takes is held around
//! the destruction of the access, which waits for it.
//!
//! An access owns an [`AccessDriver`], as long as which the driver can be called. IO page tables
//! share its [`Notifier`], which does nothing after the access is destroyed.

use crate::range::IovaRange;
use core::{
    ops::Deref,
    ptr, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        rwsem::{
            new_rwsem,
            RwSemaphore, //
        },
        Arc, //
    }, //
};

/// The callback of a driver: `iommufd_access_ops::unmap`.
type Unmap = unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong);

/// The callback of an access, as IO page tables hold it.
///
/// An IO page table may find it in its list after the access is destroyed: then it does nothing.
/// Waiting for `open` cannot deadlock with an `unmap`: [`Self::unmap`] only tries the lock, and
/// [`AccessDriver::close`] is called under the contract of `iommufd_access_destroy()`.
///
/// # Invariants
///
/// `unmap` may be called with `data` while the [`AccessDriver`] of this exists, which is as long as
/// `open` is true.
#[pin_data]
pub(crate) struct Notifier {
    unmap: Option<Unmap>,
    data: *mut c_void,
    alignment: usize,
    /// True if the driver may be called. Read-locked during a call.
    #[pin]
    open: RwSemaphore<bool>,
}

// SAFETY: `data` belongs to the driver, whose callback may be called on any thread.
unsafe impl Send for Notifier {}
// SAFETY: The callback of the driver may be called on several threads at once.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// Has the driver unpin `range`, unless the access is being destroyed.
    ///
    /// Context: may sleep; the caller holds no lock of an access, an IOAS or an IO page table.
    pub(crate) fn unmap(&self, range: IovaRange) {
        // There is a writer only while the access is being destroyed.
        let Some(open) = self.open.try_read() else {
            return;
        };
        if !*open {
            return;
        }
        if let Some(unmap) = self.unmap {
            // The whole space is one byte longer than a `usize` can express, as in `unmap_all()`.
            let len = range.len().unwrap_or(usize::MAX);
            // SAFETY: By the type invariants, as it is open; `close()` waits for the read side.
            unsafe { unmap(self.data, range.start, len) };
        }
    }

    /// Returns the alignment that mappings must have for this access: a power of two.
    pub(crate) fn alignment(&self) -> usize {
        self.alignment
    }

    /// Returns whether the access has a driver with an `unmap` callback.
    pub(crate) fn can_notify(&self) -> bool {
        self.unmap.is_some()
    }
}

/// The operations of the driver of an access, or NULL. C compares them with its own.
#[repr(transparent)]
pub(crate) struct AccessOps(*const bindings::iommufd_access_ops);

// SAFETY: The pointer is not followed.
unsafe impl Send for AccessOps {}
// SAFETY: The pointer is not followed.
unsafe impl Sync for AccessOps {}

/// The driver of an access, which can be called as long as this exists. Dropping it waits for calls
/// in progress.
///
/// # Invariants
///
/// There is one for a notifier.
pub(crate) struct AccessDriver {
    notifier: Arc<Notifier>,
    /// The notifier is closed.
    closed: Atomic<bool>,
    ops: *const bindings::iommufd_access_ops,
}

// SAFETY: `ops` is not followed, and a `Notifier` is `Send` and `Sync`.
unsafe impl Send for AccessDriver {}
// SAFETY: `ops` is not followed, and a `Notifier` is `Send` and `Sync`.
unsafe impl Sync for AccessDriver {}

impl AccessDriver {
    fn new(
        ops: *const bindings::iommufd_access_ops,
        unmap: Option<Unmap>,
        data: *mut c_void,
        alignment: usize,
    ) -> Result<Self> {
        let notifier = Arc::pin_init(
            pin_init!(Notifier {
                unmap,
                data,
                alignment,
                open <- new_rwsem!(true, "iommufd_access::notifier"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;

        // INVARIANT: The notifier is new.
        Ok(Self {
            notifier,
            closed: Atomic::new(false),
            ops,
        })
    }

    /// Wraps the operations of the driver that creates an access.
    ///
    /// # Safety
    ///
    /// `ops` and `data` must be as the contract at the top of this file says until the result is
    /// dropped.
    pub(crate) unsafe fn new_access(
        ops: *const bindings::iommufd_access_ops,
        data: *mut c_void,
    ) -> Result<Self> {
        // SAFETY: By the requirements of this function the operations are valid.
        let (unmap, pins) = unsafe { ((*ops).unmap, (*ops).needs_pin_pages() != 0) };

        Self::new(ops, unmap, data, if pins { PAGE_SIZE } else { 1 })
    }

    /// Creates the driver of an internal access, which is never notified.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn internal() -> Result<Self> {
        Self::new(ptr::null(), None, ptr::null_mut(), PAGE_SIZE)
    }

    /// Returns the operations of the driver, for C.
    pub(crate) fn ops(&self) -> AccessOps {
        AccessOps(self.ops)
    }

    /// Returns the notifier, for an IO page table.
    pub(crate) fn notifier(&self) -> Arc<Notifier> {
        self.notifier.clone()
    }

    /// Waits for calls of [`Notifier::unmap`] in progress, and prevents later ones.
    pub(crate) fn close(&self) {
        *self.notifier.open.write() = false;
        self.closed.store(true, Relaxed);
    }

    /// Has the driver unpin everything.
    ///
    /// Context: may sleep; the caller holds no lock of an access, an IOAS or an IO page table.
    pub(crate) fn unmap_all(&self) {
        if let Some(unmap) = self.notifier.unmap {
            // SAFETY: By the invariants of `Notifier`, as this exists.
            unsafe { unmap(self.notifier.data, 0, usize::MAX) };
        }
    }
}

impl Deref for AccessDriver {
    type Target = Notifier;

    fn deref(&self) -> &Notifier {
        &self.notifier
    }
}

impl Drop for AccessDriver {
    fn drop(&mut self) {
        if self.can_notify() && !self.closed.load(Relaxed) {
            self.close();
        }
    }
}
