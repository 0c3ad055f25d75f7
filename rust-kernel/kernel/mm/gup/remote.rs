// SPDX-License-Identifier: GPL-2.0

//! Pinning of the memory of a process other than the current one.
//!
//! Locks: the `mmap` lock of that process, kept from call to call.

use super::PinFlags;
use crate::{
    bindings,
    mm::{
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::aref::ARef,
    types::NotThreadSafe, //
};

/// The memory of another process, to pin pages from.
///
/// The `mmap` lock is taken at the first use and then kept, as long as GUP does not need to give it
/// up: taking it for each call is slow. As long as it may be held, nothing may be done that needs
/// this lock, or one that is taken outside of it: call [`Self::unlock`] first.
///
/// # Invariants
///
/// `locked` means that this task holds the `mmap` lock of `mm` for reading, on behalf of `self`.
pub struct RemoteMm {
    mm: ARef<MmWithUser>,
    locked: bool,
    // The lock belongs to the task.
    _nts: NotThreadSafe,
}

impl RemoteMm {
    /// Keeps the memory of a process from going away. [`None`] if it is gone already.
    pub fn new(mm: &Mm) -> Option<Self> {
        // INVARIANT: Not locked.
        Some(Self {
            mm: mm.mmget_not_zero()?,
            locked: false,
            _nts: NotThreadSafe,
        })
    }

    /// Pins up to `count` pages from `addr` on, which may be any address. Returns how many, or a
    /// negative errno.
    ///
    /// Takes the lock if it is not taken; on return it may be taken or not.
    ///
    /// # Safety
    ///
    /// `pages` must be valid for writing `count` pointers. As many as were pinned are initialised
    /// then, and the caller owns a pin on each.
    pub(super) unsafe fn pin(
        &mut self,
        addr: usize,
        count: usize,
        flags: PinFlags,
        pages: *mut *mut bindings::page,
    ) -> isize {
        self.lock();

        let mut locked: c_int = 1;
        // SAFETY: `mm` has users, this task holds its lock for reading, and `pages` has room by the
        // requirements of this function.
        let ret = unsafe {
            bindings::pin_user_pages_remote(
                self.mm.as_raw(),
                addr,
                count,
                flags.0,
                pages,
                &mut locked,
            )
        };
        // INVARIANT: GUP says whether it has given up the lock.
        self.locked = locked != 0;
        ret
    }

    fn lock(&mut self) {
        if !self.locked {
            // SAFETY: `mm` is valid.
            unsafe { bindings::mmap_read_lock(self.mm.as_raw()) };
            // INVARIANT: Just taken.
            self.locked = true;
        }
    }

    /// Gives up the lock, if it is held.
    pub fn unlock(&mut self) {
        if self.locked {
            // SAFETY: By the type invariant we hold it.
            unsafe { bindings::mmap_read_unlock(self.mm.as_raw()) };
            // INVARIANT: Just given up.
            self.locked = false;
        }
    }
}

impl Drop for RemoteMm {
    fn drop(&mut self) {
        self.unlock();
    }
}
