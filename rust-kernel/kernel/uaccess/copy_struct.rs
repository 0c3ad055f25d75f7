// SPDX-License-Identifier: GPL-2.0

//! Structures that grow over time.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use super::{
    UserPtr,
    UserSliceReader, //
};
use crate::{
    bindings,
    error::to_result,
    prelude::*,
    transmute::FromBytes, //
};
use core::mem::MaybeUninit;

/// Reads the first field of a structure in user space, which is its size in bytes.
///
/// The size is read again as a part of the structure, and may be another one then: it is the one
/// returned here that counts.
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

impl UserSliceReader {
    /// Reads a structure whose size in user space may be another than here, and which is all that
    /// is left of the reader.
    ///
    /// User space passes the size that it was compiled with. If it is smaller than `T`, the rest of
    /// the `T` is zero; if it is larger, the surplus must be zero. New fields for which zero means
    /// "as before" can therefore be added without a new ioctl or system call.
    ///
    /// The caller checks [`len()`](Self::len) for the least size that it needs.
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
    /// use kernel::uaccess::{UserPtr, UserSlice};
    ///
    /// fn read_args(arg: usize, size: usize) -> Result<[u64; 2]> {
    ///     if size < 8 {
    ///         return Err(EINVAL);
    ///     }
    ///     UserSlice::new(UserPtr::from_addr(arg), size).reader().read_struct()
    /// }
    ///
    /// assert_eq!(read_args(0, 4), Err(EINVAL));
    /// // Nothing is there to read: all of the structure is zero.
    /// let mut empty = UserSlice::new(UserPtr::from_addr(0), 0).reader();
    /// assert_eq!(empty.read_struct::<u64>(), Ok(0));
    /// // No address of user space.
    /// let mut args = UserSlice::new(UserPtr::from_addr(usize::MAX - 15), 16).reader();
    /// assert_eq!(args.read_struct::<[u64; 2]>(), Err(EFAULT));
    /// assert_eq!(args.len(), 16);
    /// ```
    #[doc(alias = "copy_struct_from_user")]
    #[inline]
    pub fn read_struct<T: FromBytes>(&mut self) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` is valid for writes of the size of `T`. User space may pass any address.
        to_result(unsafe {
            bindings::copy_struct_from_user(
                value.as_mut_ptr().cast(),
                size_of::<T>(),
                self.ptr.as_const_ptr(),
                self.length,
            )
        })?;
        self.ptr = self.ptr.wrapping_byte_add(self.length);
        self.length = 0;
        // SAFETY: On success all bytes were written, and any bytes make a `T: FromBytes`.
        Ok(unsafe { value.assume_init() })
    }
}
