// SPDX-License-Identifier: GPL-2.0

//! Structures that grow over time.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use super::UserPtr;
use crate::{
    bindings,
    error::to_result,
    prelude::*,
    transmute::FromBytes, //
};
use core::mem::MaybeUninit;

/// Reads the first field of a structure in user space, which is its size in bytes.
///
/// # Errors
///
/// [`EFAULT`] if the memory cannot be read.
///
/// Context: process context; may sleep.
#[inline]
pub fn struct_size(src: UserPtr) -> Result<u32> {
    let mut size = 0;
    // SAFETY: `size` is valid for writes. User space may pass any address.
    to_result(unsafe { bindings::get_user_u32(&mut size, src.as_const_ptr().cast()) })?;
    Ok(size)
}

/// Copies a structure from user space whose size there may be another than here.
///
/// User space passes the size that it was compiled with. If it is smaller than `T`, the rest of the
/// `T` is zero; if it is larger, the surplus must be zero. New fields for which zero means "as
/// before" can therefore be added without a new ioctl or system call.
///
/// The caller checks for the least size that it needs.
///
/// # Errors
///
/// - [`E2BIG`] if user space sets a byte behind the end of `T`.
/// - [`EFAULT`] if the memory cannot be read.
///
/// Context: process context; may sleep.
///
/// # Examples
///
/// ```
/// use kernel::uaccess::{copy_struct::copy_struct_from_user, UserPtr};
///
/// fn read_args(arg: usize, size: usize) -> Result<[u64; 2]> {
///     if size < 8 {
///         return Err(EINVAL);
///     }
///     copy_struct_from_user(UserPtr::from_addr(arg), size)
/// }
///
/// assert_eq!(read_args(0, 4), Err(EINVAL));
/// ```
#[inline]
pub fn copy_struct_from_user<T: FromBytes>(src: UserPtr, size: usize) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is valid for writes of the size of `T`. User space may pass any address.
    to_result(unsafe {
        bindings::copy_struct_from_user(
            value.as_mut_ptr().cast(),
            size_of::<T>(),
            src.as_const_ptr(),
            size,
        )
    })?;
    // SAFETY: On success all bytes were written, and any bytes make a `T: FromBytes`.
    Ok(unsafe { value.assume_init() })
}
