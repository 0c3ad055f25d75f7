// SPDX-License-Identifier: GPL-2.0

//! The functions of the IO page table for the mock driver of the selftests.
//!
//! Contract: a `struct io_pagetable` that C passes in is that of an IOAS that it got by
//! `iommufd_get_ioas()` and has not put, and C holds its `iova_rwsem` as each function requires. A
//! `struct iopt_area` that is passed out is only used until C releases that lock; its only field is
//! the node of the tree of areas, by which C steps to the next.

use crate::{
    io_pagetable::{
        IoPagetable,
        Reserver, //
    },
    ioas::Ioas,
    object::same_offset,
    range::IovaRange, //
};
use core::mem::ManuallyDrop;
use kernel::{
    bindings,
    prelude::*,
    sync::rwsem::{
        ReadGuard,
        WriteGuard, //
    }, //
};

// C finds the IO page table in the IOAS.
same_offset!(Ioas, iopt, iommufd_ioas, iopt);

/// # Safety
///
/// `iopt` is as the contract at the top of this file says, for `'a`.
unsafe fn from_raw<'a>(iopt: *mut bindings::io_pagetable) -> &'a IoPagetable {
    // SAFETY: C made the pointer from the one to the IOAS, with the offset that is asserted above.
    unsafe { &*iopt.cast() }
}

/// Finds the first area that intersects `start..=last`.
///
/// # Safety
///
/// `iopt` is as the contract at the top of this file says, and the calling task holds its
/// `iova_rwsem` for reading.
#[export]
pub(crate) unsafe extern "C" fn iopt_area_iter_first(
    iopt: *mut bindings::io_pagetable,
    start: usize,
    last: usize,
) -> *mut bindings::iopt_area {
    // SAFETY: By the requirements of this function.
    let iopt = unsafe { from_raw(iopt) };
    // SAFETY: The task holds the lock for reading, and C releases it, not the guard.
    let space = ManuallyDrop::new(unsafe { ReadGuard::new(iopt.iova_lock()) });
    let area = space.area_tree().first(start, last);

    area.map_or(core::ptr::null_mut(), |node| {
        node.as_ptr().cast_mut().cast()
    })
}

/// Reserves `start..=last` until the IOAS is destroyed.
///
/// # Safety
///
/// `iopt` is as the contract at the top of this file says, and the calling task holds its
/// `iova_rwsem` for writing.
#[export]
pub(crate) unsafe extern "C" fn iopt_reserve_iova(
    iopt: *mut bindings::io_pagetable,
    start: usize,
    last: usize,
    _owner: *mut c_void,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let iopt = unsafe { from_raw(iopt) };
    // SAFETY: The task holds the lock for writing, and C releases it, not the guard.
    let mut space = ManuallyDrop::new(unsafe { WriteGuard::new(iopt.iova_lock()) });
    let result = IovaRange::new(start, last)
        .ok_or(EINVAL)
        .and_then(|range| space.reserve(range, Reserver::Test));

    result.map_or_else(|error| error.to_errno(), |()| 0)
}
