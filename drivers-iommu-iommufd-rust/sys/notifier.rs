// SPDX-License-Identifier: GPL-2.0

//! The way to the driver of an access, which is told to unpin what user space unmaps.
//!
//! Contract with the drivers: the operations and `data` that a driver passes stay valid until its
//! access is destroyed. Until then `unmap` may be called at any time, by any thread, with no lock
//! of this driver held; it returns after it has unpinned what it was asked for. No lock that it
//! takes is held around the destruction of the access, which waits for it.
//!
//! An access owns an [`AccessDriver`]: while that exists the driver can be called. IO page tables
//! share its [`Notifier`], which does nothing when the access is gone.

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

/// What a driver wants to be told of: `iommufd_access_ops::unmap`.
type Unmap = unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong);

/// The way to the driver of an access.
///
/// An IO page table lists it and may find it after the access is gone: then it does nothing. Nobody
/// waits for the lock while holding one that an `unmap` could need: [`Self::unmap`] only tries
/// it, and [`AccessDriver::close`] is called under the contract of `iommufd_access_destroy()`.
///
/// # Invariants
///
/// `unmap` may be called with `data` while the [`AccessDriver`] of this exists. It does as long as
/// `open` is true.
#[pin_data]
pub(crate) struct Notifier {
    unmap: Option<Unmap>,
    data: *mut c_void,
    alignment: usize,
    /// Whether the driver may be called. Read side: it is being called.
    #[pin]
    open: RwSemaphore<bool>,
}

// SAFETY: `data` is for the driver, which is prepared for calls on any thread.
unsafe impl Send for Notifier {}
// SAFETY: The driver is prepared for calls by several threads at once.
unsafe impl Sync for Notifier {}

impl Notifier {
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

    /// What mappings must be aligned to for this access: a power of two.
    pub(crate) fn alignment(&self) -> usize {
        self.alignment
    }

    /// Whether there is a driver that wants to know.
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
/// that are under way.
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

    /// The driver that creates an access.
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

    /// That of an internal access: it is never notified.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn internal() -> Result<Self> {
        Self::new(ptr::null(), None, ptr::null_mut(), PAGE_SIZE)
    }

    /// The operations of the driver, for C.
    pub(crate) fn ops(&self) -> AccessOps {
        AccessOps(self.ops)
    }

    /// The notifier, for an IO page table.
    pub(crate) fn notifier(&self) -> Arc<Notifier> {
        self.notifier.clone()
    }

    /// Waits until nobody is in [`Notifier::unmap`], and turns it off.
    pub(crate) fn close(&self) {
        *self.notifier.open.write() = false;
        self.closed.store(true, Relaxed);
    }

    /// Makes the driver unpin everything.
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
