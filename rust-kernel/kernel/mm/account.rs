// SPDX-License-Identifier: GPL-2.0

//! Accounting of pinned memory.
//!
//! Pinned memory is charged against `RLIMIT_MEMLOCK`, by one of two counters ([`AccountMode`]):
//! that of the user, which sums up over all processes, as io_uring does, or that of the process, as
//! VFIO does. Besides, each process shows how much of its memory is pinned (`VmPin` in
//! `/proc/pid/status`).
//!
//! A [`Charge`] owns what is charged, and uncharges it when it is dropped.
//!
//! C headers: [`include/linux/sched/user.h`](srctree/include/linux/sched/user.h) and
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

// `user_struct::locked_vm` exists for those who need it.
#![cfg(any(
    CONFIG_NET,
    CONFIG_IO_URING,
    CONFIG_VFIO_PCI_ZDEV_KVM,
    CONFIG_IOMMUFD,
    CONFIG_SECRETMEM
))]

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
use core::ptr::{
    self,
    NonNull, //
};

/// The counter that is charged for pinned pages, besides `VmPin`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccountMode {
    /// None: the process has `CAP_IPC_LOCK`.
    None,
    /// `user_struct::locked_vm`.
    User,
    /// `mm_struct::locked_vm`.
    Mm,
}

/// A process that pinned pages are charged to. It may have exited: its counters exist as long as
/// this.
#[derive(Clone)]
pub struct Process {
    mm: ARef<Mm>,
    /// The thread group leader, whose `RLIMIT_MEMLOCK` counts.
    task: ARef<Task>,
    user: ARef<UserStruct>,
}

impl Process {
    /// Returns the current process.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] in a kernel thread.
    pub fn current() -> Result<Self> {
        let current = current!();

        Ok(Self {
            mm: ARef::from(&**current.mm().ok_or(EINVAL)?),
            task: ARef::from(current.group_leader()),
            user: UserStruct::current(),
        })
    }

    /// Returns the address space.
    #[inline]
    pub fn mm(&self) -> &ARef<Mm> {
        &self.mm
    }

    /// Returns whether charges to `other` go to the same counters.
    fn shares_counters(&self, other: &Process, mode: AccountMode) -> bool {
        // `VmPin` is counted in each mode.
        ptr::eq(&*self.mm, &*other.mm)
            && (mode != AccountMode::User || ptr::eq(&*self.user, &*other.user))
    }

    /// Charges `pages` more pages, unless that exceeds the limit ([`ENOMEM`]).
    fn charge(&self, mode: AccountMode, pages: usize) -> Result {
        match mode {
            AccountMode::None => {}
            AccountMode::User => self
                .user
                .charge_locked_vm(pages, memlock_limit(&self.task))?,
            AccountMode::Mm => self.mm.account_locked_vm(pages, true, &self.task)?,
        }
        // CAST: No memory has 2^63 pages.
        self.mm.pinned_vm().add(pages as i64, Relaxed);
        Ok(())
    }

    /// Undoes as much of [`Self::charge`].
    fn uncharge(&self, mode: AccountMode, pages: usize) {
        match mode {
            AccountMode::None => {}
            AccountMode::User => self.user.uncharge_locked_vm(pages),
            AccountMode::Mm => {
                // Uncharging cannot fail.
                let _ = self.mm.account_locked_vm(pages, false, &self.task);
            }
        }
        // CAST: No memory has 2^63 pages.
        self.mm.pinned_vm().fetch_sub(pages as i64, Relaxed);
    }
}

/// Pages that are charged to a process.
///
/// Dropping it uncharges them. In the mode [`AccountMode::Mm`], each method that changes the number
/// of pages, and dropping it if there are pages, takes the `mmap` lock of the process for writing.
///
/// # Invariants
///
/// `pages` pages are charged to `process` in `mode`, on behalf of this.
///
/// # Examples
///
/// ```
/// use kernel::mm::account::{AccountMode, Charge, Process};
///
/// # // SAFETY: This runs as a test, which has no address space.
/// # kernel::error::to_result(unsafe { kernel::bindings::kunit_attach_mm() })?;
/// for mode in [AccountMode::User, AccountMode::Mm] {
///     let mut charge = Charge::new(Process::current()?, mode);
///
///     charge.grow_to(3)?;
///     // More than any limit. What was charged before stays.
///     assert_eq!(charge.grow_to(usize::MAX), Err(ENOMEM));
///     assert_eq!(charge.pages(), 3);
///
///     let other = charge.split_off(2);
///     assert_eq!((charge.pages(), other.pages()), (1, 2));
///     charge.freeze();
///     charge.shrink_to(0);
///     assert_eq!(charge.pages(), 1);
///     assert_eq!(charge.grow_to(2), Err(EBUSY));
///     charge.thaw();
///     charge.shrink_to(0);
///     assert_eq!(charge.pages(), 0);
///     drop(other);
/// }
/// # Ok::<(), Error>(())
/// ```
pub struct Charge {
    process: Process,
    mode: AccountMode,
    /// Whether the number of pages must not change.
    frozen: bool,
    pages: usize,
}

impl Charge {
    /// Creates a charge of no pages.
    #[inline]
    pub fn new(process: Process, mode: AccountMode) -> Self {
        // INVARIANT: Nothing is charged.
        Self {
            process,
            mode,
            frozen: false,
            pages: 0,
        }
    }

    /// Returns the number of pages that are charged.
    #[inline]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the mode in which they are charged.
    #[inline]
    pub fn mode(&self) -> AccountMode {
        self.mode
    }

    /// Charges pages until there are `pages`, if there are less.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if that exceeds the limit, [`EBUSY`] if the charge is frozen; nothing has changed
    /// then.
    ///
    /// Context: process context; may sleep.
    #[inline]
    pub fn grow_to(&mut self, pages: usize) -> Result {
        if pages > self.pages {
            if self.frozen {
                return Err(EBUSY);
            }
            self.process.charge(self.mode, pages - self.pages)?;
            // INVARIANT: The difference was just charged.
            self.pages = pages;
        }
        Ok(())
    }

    /// Uncharges pages until there are `pages`, if there are more. Does nothing if the charge is
    /// frozen.
    ///
    /// Context: process context; may sleep.
    #[inline]
    pub fn shrink_to(&mut self, pages: usize) {
        if pages < self.pages && !self.frozen {
            self.process.uncharge(self.mode, self.pages - pages);
            // INVARIANT: The difference was just uncharged.
            self.pages = pages;
        }
    }

    /// Keeps the number of pages as it is until the charge is thawed: while it is counted for a
    /// transfer to another process.
    #[inline]
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Ends [`Self::freeze`].
    #[inline]
    pub fn thaw(&mut self) {
        self.frozen = false;
    }

    /// Returns whether the charge is frozen.
    #[inline]
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Moves `pages` of the pages, or all if there are less, to a charge of their own. Moves none
    /// if the charge is frozen.
    pub fn split_off(&mut self, pages: usize) -> Charge {
        let pages = if self.frozen {
            0
        } else {
            pages.min(self.pages)
        };

        // INVARIANT: `pages` pages go from one to the other.
        self.pages -= pages;
        Charge {
            process: self.process.clone(),
            mode: self.mode,
            frozen: false,
            pages,
        }
    }

    /// Returns whether `process` has other counters than those that are charged.
    pub fn is_foreign_to(&self, process: &Process) -> bool {
        !self.process.shares_counters(process, self.mode)
    }

    /// Makes `process` the one that further pages are charged to, unless the pages are charged to
    /// other counters than its own. Returns whether that is done.
    pub fn set_process(&mut self, process: &Process) -> bool {
        if self.pages != 0 && self.is_foreign_to(process) {
            return false;
        }
        // INVARIANT: No page is charged, or the counters are the same.
        self.process = process.clone();
        true
    }
}

impl Drop for Charge {
    #[inline]
    fn drop(&mut self) {
        self.thaw();
        self.shrink_to(0);
    }
}

/// The kernel's `struct user_struct`: what is counted for each user.
///
/// # Invariants
///
/// Values of this type are always refcounted with `get_uid()`.
#[repr(transparent)]
struct UserStruct(Opaque<bindings::user_struct>);

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
    /// Returns the user that the current task runs as.
    fn current() -> ARef<UserStruct> {
        // SAFETY: A task always has credentials and these a user; they are replaced by the task
        // itself only.
        let user = unsafe { bindings::get_uid(bindings::current_user()) };

        // SAFETY: Not null by the above, and we have just taken a reference.
        unsafe { ARef::from_raw(NonNull::new_unchecked(user.cast())) }
    }

    #[inline]
    fn locked_vm(&self) -> &Atomic<isize> {
        // SAFETY: The counter is valid for as long as `self`, and accessed atomically by all.
        // `atomic_long_t` is an `isize` in memory.
        unsafe { Atomic::from_ptr((&raw mut (*self.0.get()).locked_vm).cast()) }
    }

    /// Charges `pages` pages, unless the sum gets above `limit`, in pages ([`ENOMEM`]).
    fn charge_locked_vm(&self, pages: usize, limit: usize) -> Result {
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
    fn uncharge_locked_vm(&self, pages: usize) {
        // CAST: What was charged fits.
        self.locked_vm().fetch_sub(pages as isize, Relaxed);
    }
}

/// Returns how many pages of memory `task` may lock or pin: its `RLIMIT_MEMLOCK`.
fn memlock_limit(task: &Task) -> usize {
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

    /// Charges `pages` pages to the process, unless the sum gets above the `RLIMIT_MEMLOCK` of
    /// `task` ([`ENOMEM`]), or uncharges them. Takes the `mmap` lock for writing. The process may
    /// have exited: its counter exists as long as `self`.
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
}
