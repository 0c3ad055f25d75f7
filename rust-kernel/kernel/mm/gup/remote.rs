// SPDX-License-Identifier: GPL-2.0

//! Pinning of the memory of a process other than the current one.
//!
//! Locks: the `mmap` lock of that process, kept from call to call.

use super::PinFlags;
use crate::{
    bindings,
    mm::{
        MmWithUser,
        MmapReadGuard, //
    },
    prelude::*, //
};
use core::mem::forget;

/// The memory of another process, to pin pages from.
///
/// The `mmap` lock is taken at the first use and then kept, as long as GUP does not need to release
/// it: taking it for each call is slow. As long as it may be held, nothing may be done that needs
/// this lock, or one that is taken outside of it: call [`Self::unlock`] first.
///
/// # Examples
///
/// ```
/// use kernel::mm::gup::{PinFlags, PinQueue, PinRoom, RemoteMm};
///
/// # // SAFETY: This runs as a test, which has no address space.
/// # kernel::error::to_result(unsafe { kernel::bindings::kunit_attach_mm() })?;
/// let current = kernel::current!();
/// let mm = current.mm().ok_or(EINVAL)?;
/// let mut room = PinRoom::<1>::new();
/// let mut queue = PinQueue::new(&mut room);
/// let mut remote = RemoteMm::new(mm);
///
/// // Nothing is mapped there. The lock is kept.
/// assert_eq!(queue.pin_remote(&mut remote, 0, 1, PinFlags::READ), Err(EFAULT));
/// assert_eq!(queue.pin_remote(&mut remote, 0, 1, PinFlags::READ), Err(EFAULT));
/// remote.unlock();
/// // It is free now.
/// drop(mm.mmap_read_lock());
/// # Ok::<(), Error>(())
/// ```
pub struct RemoteMm<'a> {
    mm: &'a MmWithUser,
    guard: Option<MmapReadGuard<'a>>,
}

impl<'a> RemoteMm<'a> {
    /// Creates one that does not hold the lock.
    #[inline]
    pub fn new(mm: &'a MmWithUser) -> Self {
        Self { mm, guard: None }
    }

    /// Pins up to `count` pages from `addr` on, which may be any address. Returns how many, or a
    /// negative errno.
    ///
    /// Takes the lock if it is not held; on return it may be held or not.
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
        let mm = self.mm;
        let guard = self.guard.take().unwrap_or_else(|| mm.mmap_read_lock());
        let mut locked: c_int = 1;
        // SAFETY: `mm` has users, `guard` is its lock for reading, and `pages` has room by the
        // requirements of this function.
        let ret = unsafe {
            bindings::pin_user_pages_remote(mm.as_raw(), addr, count, flags.0, pages, &mut locked)
        };

        if locked != 0 {
            self.guard = Some(guard);
        } else {
            // GUP has released the lock.
            forget(guard);
        }
        ret
    }

    /// Releases the lock, if it is held.
    #[inline]
    pub fn unlock(&mut self) {
        self.guard = None;
    }
}
