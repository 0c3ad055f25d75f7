// SPDX-License-Identifier: GPL-2.0

//! HW queues: memory of a guest that the IOMMU works on by physical address.
//!
//! Such memory must be contiguous, and must not go while the IOMMU uses it: an access of the
//! kernel's own pins it in the IO page table under the vIOMMU, and locks the areas it lies in, so
//! that unmapping them fails. The queue owns the access, and ends it after its driver is done.
//!
//! The access belongs to the context, as the queue does: it holds no reference to it.
//!
//! Locks: none of this room; those of an access.
#![forbid(unsafe_code)]

use super::{
    HwQueue,
    Viommu, //
};
use crate::{
    access::Internal,
    ffi::hw_queue::PageList,
    ioctl::Command,
    range::IovaRange, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// The pages that `length` bytes from `base` lie in: the first address, and how many there are.
///
/// # Errors
///
/// [`ERANGE`] if there are more bytes in them than can be counted.
fn pages_of(base: u64, length: u64) -> Result<(usize, usize)> {
    let base = usize::try_from(base).map_err(|_| ERANGE)?;
    let offset = base % PAGE_SIZE;
    let bytes = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(offset))
        .and_then(|bytes| bytes.checked_add(PAGE_SIZE - 1))
        .ok_or(ERANGE)?;
    Ok((base - offset, bytes >> PAGE_SHIFT))
}

/// Pins the memory of a queue, and returns its physical address.
///
/// # Errors
///
/// - [`ERANGE`] or [`ENOMEM`] if it is too large;
/// - [`EFAULT`] if it is not contiguous;
/// - [`ENOENT`] if something of it is not mapped, and the other errors of an access.
fn pin(viommu: &Viommu, base: u64, length: u64) -> Result<(Internal<'_>, PhysAddr)> {
    let (first, count) = pages_of(base, length)?;
    if count > PageList::MAX {
        return Err(ENOMEM);
    }
    let ioas = viommu.hwpt().ioas();
    let memory = Internal::new(viommu.ctx())?;
    memory.attach(ioas)?;
    // User space chooses the length: no list of more than it has mapped, which is accounted.
    ioas.iopt
        .check_pin(IovaRange::from_len(first, count << PAGE_SHIFT)?)?;
    let mut pages = PageList::new(count)?;
    pages.pin(&memory, first)?;

    match pages.contiguous() {
        Some(pfn) => {
            // CAST: A physical address has room for any page frame, and both for what is in a page.
            let address = ((pfn as PhysAddr) << PAGE_SHIFT) + (base % PAGE_SIZE as u64) as PhysAddr;
            Ok((memory, address))
        }
        None => {
            memory.unpin(first, count << PAGE_SHIFT);
            Err(EFAULT)
        }
    }
}

/// Gives up the memory of a queue, which [`pin`] has pinned.
pub(crate) fn unpin(memory: Internal<'_>, (base, length): (u64, usize)) {
    // It was pinned, so there is no error.
    if let Ok((first, count)) = pages_of(base, length as u64) {
        memory.unpin(first, count << PAGE_SHIFT);
    }
}

/// IOMMU_HW_QUEUE_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_hw_queue_alloc>) -> Result {
    if cmd.flags != 0 || cmd.type_ == bindings::iommu_hw_queue_type_IOMMU_HW_QUEUE_TYPE_DEFAULT {
        return Err(EOPNOTSUPP);
    }
    let Some(more) = cmd.length.checked_sub(1) else {
        return Err(EINVAL);
    };
    cmd.nesting_parent_iova.checked_add(more).ok_or(EOVERFLOW)?;

    let viommu = cmd.ctx().get::<Viommu>(cmd.viommu_id)?;
    let queue = HwQueue::reserve(&viommu, cmd.type_)?;
    let (base, length) = (cmd.nesting_parent_iova, cmd.length);
    let (memory, base_pa) = pin(&viommu, base, length)?;
    // CAST: `pin()` refuses what does not fit.
    let queue = queue.start(memory, base, length as usize, base_pa, cmd.index)?;

    cmd.out_hw_queue_id = queue.id();
    cmd.respond()?;

    queue.publish();
    Ok(())
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(iommufd_hw_queue)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_SIZE as u64;

    #[test]
    fn pages() {
        assert_eq!(pages_of(0, 1), Ok((0, 1)));
        assert_eq!(pages_of(0, PAGE), Ok((0, 1)));
        assert_eq!(pages_of(0, PAGE + 1), Ok((0, 2)));
        assert_eq!(pages_of(PAGE - 1, 1), Ok((0, 1)));
        assert_eq!(pages_of(PAGE - 1, 2), Ok((0, 2)));
        assert_eq!(pages_of(5 * PAGE + 7, 2 * PAGE), Ok((5 * PAGE_SIZE, 3)));
    }

    #[test]
    fn too_many_bytes() {
        let top = u64::MAX - (PAGE - 1);
        assert_eq!(pages_of(u64::MAX, 1), Ok((top as usize, 1)));
        assert_eq!(pages_of(0, top), Ok((0, usize::MAX >> PAGE_SHIFT)));
        assert_eq!(pages_of(0, top + 1), Err(ERANGE));
        assert_eq!(pages_of(1, top), Err(ERANGE));
        assert_eq!(pages_of(PAGE - 1, u64::MAX), Err(ERANGE));
    }
}
