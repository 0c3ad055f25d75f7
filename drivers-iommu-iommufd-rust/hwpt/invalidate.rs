// SPDX-License-Identifier: GPL-2.0

//! IOMMU_HWPT_INVALIDATE: invalidation of the IOMMU's caches of a nested HWPT or a vIOMMU.
//!
//! The IOMMU driver reads the entries of the array. It handles them in order, and stores the number
//! of handled ones in `entry_num`. A driver may stop before the end and return 0: it is then called
//! again for the rest, so that it can work in batches of its own size.
#![forbid(unsafe_code)]

use super::HwptNested;
use crate::{
    command::Answer,
    context::Command,
    object::Owner as _,
    sys::task::is_being_killed,
    viommu::Viommu, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserPtr, //
};

/// The greatest number of entries of one IOMMU_HWPT_INVALIDATE: far more than any useful batch, and
/// few enough not to stall a CPU.
const MAX_ENTRIES: u32 = 1 << 19;

/// IOMMU_HWPT_INVALIDATE.
pub(crate) fn invalidate(cmd: &mut Command<'_, bindings::iommu_hwpt_invalidate>) -> Result<Answer> {
    let mut done = 0;
    let result = do_invalidate(cmd, &mut done);

    // The number of handled entries is returned also on failure.
    cmd.entry_num = done;
    Ok(match result {
        Ok(()) => Answer::Success,
        Err(err) => Answer::Failure(err),
    })
}

fn do_invalidate(cmd: &Command<'_, bindings::iommu_hwpt_invalidate>, done: &mut u32) -> Result {
    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    // The length bounds the check that what follows the known part of an entry is zero.
    if cmd.entry_num != 0
        && (cmd.data_uptr == 0
            || cmd.entry_len == 0
            || cmd.entry_len as usize > PAGE_SIZE
            || cmd.entry_num > MAX_ENTRIES)
    {
        return Err(EINVAL);
    }
    let array = bindings::iommu_user_data_array {
        type_: cmd.data_type,
        // CAST: As `u64_to_user_ptr()`.
        uptr: UserPtr::from_addr(cmd.data_uptr as usize).as_mut_ptr(),
        // CAST: `usize` has at least 32 bits.
        entry_len: cmd.entry_len as usize,
        entry_num: cmd.entry_num,
    };

    match cmd.ctx().get_any(cmd.hwpt_id)?.downcast::<HwptNested>() {
        Ok(hwpt) => for_each_batch(array, done, |batch| {
            hwpt.domain.cache_invalidate_user(batch)
        }),
        Err(other) => {
            let viommu = other.downcast::<Viommu>().map_err(|_| EINVAL)?;
            for_each_batch(array, done, |batch| viommu.as_c().cache_invalidate(batch))
        }
    }
}

/// Calls an IOMMU driver for `array`, and again for the rest of it as long as the driver handles
/// some entries without an error. An empty array is passed on once: the driver checks its type.
///
/// Adds to `done` the numbers of entries that the driver reports, also on failure. If the driver
/// reports zero, or more than there are, it is not called again and its result is returned.
///
/// # Errors
///
/// Those of the driver, or [`EINTR`] if the task is being killed.
fn for_each_batch(
    array: bindings::iommu_user_data_array,
    done: &mut u32,
    mut driver: impl FnMut(&mut bindings::iommu_user_data_array) -> Result,
) -> Result {
    let (mut uptr, mut left) = (array.uptr, array.entry_num);

    loop {
        let mut batch = bindings::iommu_user_data_array {
            uptr,
            entry_num: left,
            ..array
        };
        let result = driver(&mut batch);
        let handled = batch.entry_num;

        *done = done.saturating_add(handled);
        result?;
        if handled == 0 || handled >= left {
            return Ok(());
        }
        left -= handled;
        // CAST: `usize` has at least 32 bits.
        uptr = uptr.wrapping_byte_add(array.entry_len.wrapping_mul(handled as usize));
        if is_being_killed() {
            return Err(EINTR);
        }
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(iommufd_invalidate)]
mod tests {
    use super::*;

    const LEN: usize = 24;

    /// Runs an array of `num` entries through a driver, which is given the index of the first entry
    /// and the number of entries of each call, and returns how many it handled and its result.
    /// Returns how many entries were handled of all, the result, and the number of calls.
    fn run(num: u32, driver: impl Fn(usize, u32) -> (u32, Result)) -> (u32, Result, usize) {
        let base = 0x1000;
        let array = bindings::iommu_user_data_array {
            type_: 7,
            uptr: UserPtr::from_addr(base).as_mut_ptr(),
            entry_len: LEN,
            entry_num: num,
        };
        let (mut done, mut calls) = (0, 0);
        let result = for_each_batch(array, &mut done, |batch| {
            let offset = batch.uptr.addr() - base;

            calls += 1;
            assert_eq!((batch.type_, batch.entry_len, offset % LEN), (7, LEN, 0));
            let (handled, result) = driver(offset / LEN, batch.entry_num);
            // Whatever a driver does to the rest of it, the next call gets what user space gave.
            *batch = bindings::iommu_user_data_array {
                type_: 0,
                uptr: core::ptr::null_mut(),
                entry_len: 0,
                entry_num: handled,
            };
            result
        });

        (done, result, calls)
    }

    #[test]
    fn driver_that_handles_all_is_called_once() {
        for num in [0, 1, 2, MAX_ENTRIES] {
            assert_eq!(run(num, |_, left| (left, Ok(()))), (num, Ok(()), 1));
        }
    }

    #[test]
    fn driver_that_handles_half_is_called_for_the_rest() {
        // 13: 7, 3, 2, 1.
        let half = |first: usize, left: u32| {
            assert_eq!(first + left as usize, 13);
            (left.div_ceil(2), Ok(()))
        };

        assert_eq!(run(13, half), (13, Ok(()), 4));
        assert_eq!(run(9, |_, left| (left.min(1), Ok(()))), (9, Ok(()), 9));
    }

    #[test]
    fn failure_ends_it_and_counts_what_was_handled() {
        // Entry 5 is bad.
        let bad = |first: usize, left: u32| match 5 - first {
            before @ 0..2 => (before as u32, Err(EINVAL)),
            _ => (left.min(2), Ok(())),
        };

        assert_eq!(run(8, bad), (5, Err(EINVAL), 3));
        assert_eq!(run(8, |_, _| (0, Err(EOPNOTSUPP))), (0, Err(EOPNOTSUPP), 1));
        // As with C, what a driver that failed leaves in the array is the answer.
        assert_eq!(run(8, |_, left| (left, Err(ENOMEM))), (8, Err(ENOMEM), 1));
    }

    #[test]
    fn driver_without_progress_is_not_called_again() {
        assert_eq!(run(8, |_, _| (0, Ok(()))), (0, Ok(()), 1));
        let stuck = |first, _| (if first == 0 { 3 } else { 0 }, Ok(()));
        assert_eq!(run(8, stuck), (3, Ok(()), 2));
        // Nor one that claims more than there was.
        assert_eq!(run(8, |_, left| (left + 1, Ok(()))), (9, Ok(()), 1));
        assert_eq!(run(8, |_, _| (u32::MAX, Ok(()))), (u32::MAX, Ok(()), 1));
    }
}
