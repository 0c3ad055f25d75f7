// SPDX-License-Identifier: GPL-2.0

//! Access to the memory of a process from a kernel thread.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use super::MmWithUser;
use crate::{
    bindings,
    prelude::*,
    task::Task, //
};

/// Whether the current task is a kernel thread that has no user memory: [`with_mm`] would work.
pub fn can_use_mm() -> bool {
    let task = Task::current_raw();

    // SAFETY: The current task is valid, and only it changes its `mm` and this flag.
    unsafe { (*task).flags & bindings::PF_KTHREAD != 0 && (*task).mm.is_null() }
}

/// Runs `f` in a kernel thread that has the memory of a process as its user memory.
///
/// What reads and writes user memory ([`UserSlice`](crate::uaccess::UserSlice)) then reads and
/// writes the memory of that process. May sleep.
///
/// A [`CurrentTask`](crate::task::CurrentTask) that was obtained outside cannot be used in `f`, and
/// none from inside can be carried out: it is not [`Send`], which is required of `f` and `R`.
///
/// # Errors
///
/// `EINVAL` if the current task is no kernel thread or uses the memory of some process already;
/// then `f` was not called.
///
/// # Examples
///
/// ```
/// use kernel::{mm::{kthread, MmWithUser}, uaccess::{UserPtr, UserSlice}};
///
/// fn peek(mm: &MmWithUser, addr: usize) -> Result<u8> {
///     kthread::with_mm(mm, || {
///         UserSlice::new(UserPtr::from_addr(addr), 1).reader().read::<u8>()
///     })?
/// }
/// ```
pub fn with_mm<R: Send>(mm: &MmWithUser, f: impl FnOnce() -> R + Send) -> Result<R> {
    if !can_use_mm() {
        return Err(EINVAL);
    }

    // SAFETY: The address space has users for as long as it is borrowed. This is a kernel thread
    // without one.
    unsafe { bindings::kthread_use_mm(mm.as_raw()) };
    let res = f();
    // SAFETY: Pairs with the above; `f` cannot change it, as a nested call fails.
    unsafe { bindings::kthread_unuse_mm(mm.as_raw()) };
    Ok(res)
}
