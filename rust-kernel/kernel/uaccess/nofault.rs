// SPDX-License-Identifier: GPL-2.0

//! Access to user memory that does not sleep.
//!
//! A page of user memory may be missing for as long as user space likes: with userfaultfd, or on a
//! file system in user space. So an access that waits for it must not be made with a lock held that
//! others wait for. [`copy_to_user_nofault()`] fails instead, and [`fault_in_writeable()`] waits
//! for the pages when the locks are released; then the caller tries again.
//!
//! C headers: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h),
//! [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h)

use super::UserPtr;
use crate::{
    bindings,
    prelude::*, //
};

/// Copies bytes to user space, if that takes no page fault.
///
/// # Errors
///
/// [`EFAULT`] if a page is not there, or cannot be written without a page fault. Some bytes may
/// have been copied.
///
/// Context: any in which the memory of the current process can be accessed; does not sleep.
///
/// # Examples
///
/// ```
/// use kernel::{
///     sync::SpinLock,
///     uaccess::{nofault::{copy_to_user_nofault, fault_in_writeable}, UserPtr},
/// };
///
/// fn report(counter: &SpinLock<u64>, dst: UserPtr) -> Result {
///     for _ in 0..10 {
///         let counter = counter.lock();
///         if copy_to_user_nofault(dst, &counter.to_ne_bytes()).is_ok() {
///             return Ok(());
///         }
///         drop(counter);
///         fault_in_writeable(dst, size_of::<u64>())?;
///     }
///     Err(EFAULT)
/// }
/// ```
#[inline]
pub fn copy_to_user_nofault(dst: UserPtr, src: &[u8]) -> Result {
    // SAFETY: `src` is valid for reads of its length. User space may pass any address.
    let ret =
        unsafe { bindings::copy_to_user_nofault(dst.as_mut_ptr(), src.as_ptr().cast(), src.len()) };

    if ret != 0 {
        return Err(EFAULT);
    }
    Ok(())
}

/// Makes the pages of a range of user memory present and writable, as a page fault does.
///
/// They may be gone again when this returns, and where access to parts of a page is checked, as by
/// memory tagging, they may not be accessible all the same: a caller that tries again in a loop
/// sees to it that it ends.
///
/// # Errors
///
/// [`EFAULT`] if that is not possible, or the current task is being killed.
///
/// Context: process context; may sleep, for as long as user space likes.
pub fn fault_in_writeable(dst: UserPtr, len: usize) -> Result {
    // SAFETY: User space may pass any address.
    let left = unsafe { bindings::fault_in_safe_writeable(dst.as_const_ptr().cast(), len) };

    if left != 0 {
        return Err(EFAULT);
    }
    Ok(())
}
