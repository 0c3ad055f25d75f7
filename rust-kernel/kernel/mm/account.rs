// SPDX-License-Identifier: GPL-2.0

//! Accounting of pinned memory.
//!
//! Pinned memory is charged against `RLIMIT_MEMLOCK`: either to the user ([`UserStruct`], which
//! sums up over all processes, as io_uring does) or to the process ([`Mm`], as VFIO does).
//! Besides, each process shows how much of its memory is pinned (`VmPin` in `/proc/pid/status`).
//!
//! C headers: [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h) and
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::Mm;
use crate::{
    bindings,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    },
    task::Task,
    types::Opaque, //
};
use core::ptr::NonNull;

/// The kernel's `struct user_struct`: what is counted for each user.
///
/// # Invariants
///
/// Values of this type are always refcounted with `get_uid()`.
#[repr(transparent)]
pub struct UserStruct(Opaque<bindings::user_struct>);

// SAFETY: `free_uid()` may be called from any task.
unsafe impl Send for UserStruct {}
// SAFETY: All methods may be called in parallel.
unsafe impl Sync for UserStruct {}

// SAFETY: By the type invariant, this type is always refcounted.
unsafe impl AlwaysRefCounted for UserStruct {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: `self` is valid.
        unsafe { bindings::get_uid(self.0.get()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference.
        unsafe { bindings::free_uid(obj.cast().as_ptr()) };
    }
}

impl UserStruct {
    /// The user that the current task runs as.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::account::UserStruct;
    ///
    /// let user = UserStruct::current();
    /// assert!(user.is(&UserStruct::current()));
    ///
    /// ```
    pub fn current() -> ARef<UserStruct> {
        // SAFETY: A task always has credentials and these a user; they are replaced by the task
        // itself only.
        let user = unsafe { bindings::get_uid(bindings::current_user()) };

        // SAFETY: Not null by the above, and we have just taken a reference.
        unsafe { ARef::from_raw(NonNull::new_unchecked(user.cast())) }
    }

    /// Whether both are the same user.
    #[inline]
    pub fn is(&self, other: &UserStruct) -> bool {
        core::ptr::eq(self, other)
    }
}

/// The counter exists for those who need it.
#[cfg(any(
    CONFIG_NET,
    CONFIG_IO_URING,
    CONFIG_VFIO_PCI_ZDEV_KVM,
    CONFIG_IOMMUFD,
    CONFIG_SECRETMEM
))]
impl UserStruct {
    #[inline]
    fn locked_vm(&self) -> &Atomic<isize> {
        // SAFETY: The counter is valid for as long as `self`, and accessed atomically by all.
        // `atomic_long_t` is an `isize` in memory.
        unsafe { Atomic::from_ptr((&raw mut (*self.0.get()).locked_vm).cast()) }
    }

    /// Charges `pages` pages, unless the sum gets above `limit`, in pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(CONFIG_NET)] {
    /// use kernel::mm::account::UserStruct;
    ///
    /// let user = UserStruct::current();
    ///
    /// user.charge_locked_vm(1, usize::MAX)?;
    /// assert_eq!(user.charge_locked_vm(1, 1), Err(ENOMEM));
    /// user.uncharge_locked_vm(1);
    /// # }
    /// # Ok::<(), Error>(())
    /// ```
    pub fn charge_locked_vm(&self, pages: usize, limit: usize) -> Result {
        let counter = self.locked_vm();
        let mut old = counter.load(Relaxed);

        loop {
            // CAST: The counter is never negative: what is uncharged was charged.
            let new = (old as usize).checked_add(pages).ok_or(ENOMEM)?;
            if new > limit || new > isize::MAX as usize {
                return Err(ENOMEM);
            }
            match counter.cmpxchg(old, new as isize, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => old = now,
            }
        }
    }

    /// Undoes as much of [`Self::charge_locked_vm`].
    pub fn uncharge_locked_vm(&self, pages: usize) {
        // CAST: What was charged fits.
        self.locked_vm().fetch_sub(pages as isize, Relaxed);
    }
}

/// How many pages of memory `task` may lock or pin: its `RLIMIT_MEMLOCK`.
pub fn memlock_limit(task: &Task) -> usize {
    // SAFETY: A task that is referenced has limits.
    (unsafe { bindings::task_rlimit(task.as_ptr(), bindings::RLIMIT_MEMLOCK) }) / PAGE_SIZE
}

impl Mm {
    #[inline]
    fn pinned_vm(&self) -> &Atomic<i64> {
        // SAFETY: The counter is valid for as long as `self`, and accessed atomically by all.
        // `atomic64_t` is an `i64` in memory.
        unsafe { Atomic::from_ptr((&raw mut (*self.as_raw()).__bindgen_anon_1.pinned_vm).cast()) }
    }

    /// Adds to the number of pinned pages that the process shows.
    #[inline]
    pub fn add_pinned_vm(&self, pages: usize) {
        // CAST: No memory has 2^63 pages.
        self.pinned_vm().add(pages as i64, Relaxed);
    }

    /// Undoes [`Self::add_pinned_vm`].
    #[inline]
    pub fn sub_pinned_vm(&self, pages: usize) {
        // CAST: No memory has 2^63 pages.
        self.pinned_vm().fetch_sub(pages as i64, Relaxed);
    }
}

impl Mm {
    fn account_locked_vm(&self, pages: usize, charge: bool, task: &Task) -> Result {
        // No process has so many, and the C function adds without a look.
        if pages > usize::MAX / PAGE_SIZE {
            return Err(ENOMEM);
        }
        // SAFETY: The address space is valid, though the process may have exited.
        unsafe { bindings::mmap_write_lock(self.as_raw()) };
        // SAFETY: The address space is valid, and its lock is held for writing; the task is valid.
        let ret = unsafe {
            bindings::__account_locked_vm(self.as_raw(), pages, charge, task.as_ptr(), false)
        };
        // SAFETY: Taken above.
        unsafe { bindings::mmap_write_unlock(self.as_raw()) };
        to_result(ret)
    }

    /// Charges `pages` pages to the process, unless the sum gets above the `RLIMIT_MEMLOCK` of
    /// `task`. Takes the `mmap` lock for writing. The process may have exited: its counter is there
    /// for as long as `self`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn charge_locked_vm(&self, pages: usize, task: &Task) -> Result {
        self.account_locked_vm(pages, true, task)
    }

    /// Undoes as much of [`Self::charge_locked_vm`]. Takes the `mmap` lock for writing.
    pub fn uncharge_locked_vm(&self, pages: usize, task: &Task) {
        // Giving back cannot fail.
        let _ = self.account_locked_vm(pages, false, task);
    }
}
