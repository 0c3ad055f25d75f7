// SPDX-License-Identifier: GPL-2.0

//! HW queues: guest memory that the IOMMU accesses by physical address.
//!
//! Such memory must be physically contiguous, and stay mapped while the IOMMU uses it: an internal
//! access pins it in the IOAS of the vIOMMU's HWPT, and locks its areas, so that unmapping them
//! fails. The queue owns the access, and destroys it after the driver's destroy function.
//!
//! The context owns the access and the queue, so the access holds no reference to the context.
//!
//! Locks: none of this file; those of an access.
#![forbid(unsafe_code)]

use super::Viommu;
use crate::{
    access::{
        Access,
        InternalAccess, //
    },
    command::Published,
    context::{
        Command,
        Context, //
    },
    object::{
        driven::{
            end,
            Draft,
            Ready, //
        },
        same_layout,
        Dependency,
        Kind,
        Object,
        Owner as _,
        Publish,
        Ref,
        Tentative,
        UserSlot,
        WriteSide, //
    },
    range::IovaRange,
    sys::{
        driven::InitSlot,
        pin::PageList,
        task::go_on,
        viommu::{
            Destroy,
            HwQueueDriver, //
        }, //
    }, //
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

/// Returns the address of the first page and the number of pages of `length` bytes from `base` on.
///
/// # Errors
///
/// [`ERANGE`] if the size of these pages overflows a `usize`.
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

/// The greatest number of pages of a queue, as in the C driver, which allocates one array of
/// pointers to them, of at most `INT_MAX` bytes.
const MAX_PAGES: usize = i32::MAX as usize / size_of::<*const ()>();

/// Returns the pieces in which `count` pages from IOVA `first` on are pinned and unpinned: first
/// address and number of pages of each.
fn pieces(first: usize, count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(PageList::MAX).map(move |done| {
        // The addresses are in the queue, whose last byte is an IOVA, so this does not wrap.
        let iova = first.wrapping_add(done << PAGE_SHIFT);

        (iova, PageList::MAX.min(count - done))
    })
}

/// Checks that page frames are consecutive.
#[derive(Default)]
struct Contiguous {
    first: Option<usize>,
    count: usize,
    broken: bool,
}

impl Contiguous {
    fn add(&mut self, pfn: usize) {
        let first = *self.first.get_or_insert(pfn);

        self.broken |= pfn.wrapping_sub(first) != self.count;
        self.count += 1;
    }

    /// Returns the first page frame, if all are consecutive.
    fn first(&self) -> Option<usize> {
        self.first.filter(|_| !self.broken)
    }
}

/// The pinned memory of an unpublished queue. Dropping it unpins.
struct QueueMemory<'a> {
    access: Option<InternalAccess<'a>>,
    first: usize,
    /// The number of pinned pages: whole pieces, or all of the queue.
    pinned: usize,
}

impl QueueMemory<'_> {
    /// Pins piece by piece: user space chooses the length.
    fn pin(&mut self, count: usize) -> Result<Contiguous> {
        let access = self.access.as_ref().ok_or(EINVAL)?;
        let mut list = PageList::new()?;
        let mut pages = Contiguous::default();

        for (iova, count) in pieces(self.first, count) {
            go_on()?;
            list.fill(count, |out| access.pin(iova, count << PAGE_SHIFT, out))?;
            self.pinned += count;
            list.pfns().for_each(|pfn| pages.add(pfn));
        }
        Ok(pages)
    }
}

impl Drop for QueueMemory<'_> {
    fn drop(&mut self) {
        if let Some(access) = &self.access {
            unpin_pieces(self.first, self.pinned, |range| access.unpin(range));
        }
    }
}

/// Pins the memory of a queue, and returns its physical address.
///
/// # Errors
///
/// - [`ERANGE`] or [`ENOMEM`] if it is too large;
/// - [`EFAULT`] if it is not contiguous;
/// - [`EINTR`] if the current task is being killed;
/// - [`ENOENT`] if part of it is not mapped, and the other errors of an access. These take
///   precedence over that of memory that is not contiguous.
fn pin(viommu: &Object<Viommu>, base: u64, length: u64) -> Result<(QueueMemory<'_>, PhysAddr)> {
    let (first, count) = pages_of(base, length)?;
    if count > MAX_PAGES {
        return Err(ENOMEM);
    }
    let access = InternalAccess::new(viommu.owner())?;
    access.attach(viommu.hwpt().ioas())?;

    let mut memory = QueueMemory {
        access: Some(access),
        first,
        pinned: 0,
    };
    let pfn = memory.pin(count)?.first().ok_or(EFAULT)?;
    // CAST: A physical address can hold any page frame number times the page size, and the offset
    // in a page fits both types.
    let address = ((pfn as PhysAddr) << PAGE_SHIFT) + (base % PAGE_SIZE as u64) as PhysAddr;
    Ok((memory, address))
}

/// Calls `unpin` for the first `count` pages, which are whole pieces or all of a queue.
fn unpin_pieces(first: usize, count: usize, unpin: impl Fn(IovaRange)) {
    for (iova, count) in pieces(first, count) {
        // It was pinned, so there is no error.
        if let Ok(range) = IovaRange::from_len(iova, count << PAGE_SHIFT) {
            unpin(range);
        }
    }
}

/// Unpins the memory of a published queue, of `length` bytes from `base` on.
fn unpin(access: &Access, (base, length): (u64, usize)) {
    // It was pinned, so there is no error.
    if let Ok((first, count)) = pages_of(base, length as u64) {
        unpin_pieces(first, count, |range| access.unpin(range));
    }
}

/// A HW queue: `struct iommufd_hw_queue`, less the object header.
#[repr(C)]
pub(crate) struct HwQueue {
    pub(crate) viommu: Dependency<Viommu>,
    /// The access that pins the memory of the queue. Set when the queue is published.
    access: UserSlot<Access>,
    base_addr: u64,
    length: usize,
    type_: bindings::iommu_hw_queue_type,
    destroy: InitSlot<Option<Destroy<bindings::iommufd_hw_queue>>>,
}

same_layout!(HwQueue, iommufd_hw_queue: viommu access base_addr length type_ destroy);

impl Kind for HwQueue {
    type Owner = Context;

    fn destroy(this: WriteSide<'_, Self>) {
        end(this);
    }
}

impl HwQueue {
    /// Allocates a queue of `viommu`, of `length` bytes from `base_addr` in the guest's physical
    /// address space.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver has no queues of this type; those of
    /// [`Context::reserve`](crate::context::Context::reserve).
    fn reserve<'a>(
        viommu: &'a Ref<'_, Viommu>,
        type_: bindings::iommu_hw_queue_type,
        base_addr: u64,
        length: usize,
    ) -> Result<Draft<'a, Self, HwQueueDriver>> {
        let driver = viommu.as_c().hw_queue_driver(type_)?;
        let this = Self {
            viommu: viommu.dependency(),
            access: UserSlot::new(),
            base_addr,
            length,
            type_,
            destroy: InitSlot::new(None),
        };
        Draft::reserve(viommu.owner(), driver, Ok::<_, Error>(this))
    }

    /// Returns address and length of the queue in the guest's physical address space, in bytes.
    fn place(&self) -> (u64, usize) {
        (self.base_addr, self.length)
    }
}

impl<'a> Draft<'a, HwQueue, HwQueueDriver> {
    /// Has the driver initialise its part. The memory of the queue is pinned, and is physically
    /// contiguous from `base_pa`. `index` is for the driver.
    ///
    /// The driver can make the queue a user of another one until it is destroyed: `_tentative` is
    /// held until the queue is published, or its creation undone.
    ///
    /// # Errors
    ///
    /// Those of the driver.
    fn start(
        self,
        base_pa: bindings::phys_addr_t,
        index: u32,
        _tentative: &Tentative<'_>,
    ) -> Result<Ready<'a, HwQueue>> {
        self.init((index, base_pa))
    }
}

impl Ready<'_, HwQueue> {
    /// Publishes the queue together with the access that pins its memory, which `memory` returns.
    /// That is not called if publishing fails.
    ///
    /// # Errors
    ///
    /// Those of [`Ready::publish`].
    fn publish_with_memory<'m>(
        self,
        memory: impl FnOnce() -> Option<InternalAccess<'m>>,
        answer: impl FnOnce() -> Result,
    ) -> Result {
        let queue = self.publish(|queue, table| {
            answer()?;
            if let Some(access) = memory().and_then(|memory| memory.publish_along(table)) {
                queue.access.set(access);
            }
            Ok(())
        });

        queue.map(drop)
    }
}

impl Drop for HwQueue {
    fn drop(&mut self) {
        if let Some(access) = self.access.take() {
            let ctx = self.viommu.owner();

            unpin(&access, self.place());
            access.destroy(ctx);
        }
    }
}

/// An unpublished queue, with its memory.
struct NewHwQueue<'a> {
    queue: Ready<'a, HwQueue>,
    tentative: Tentative<'a>,
    memory: QueueMemory<'a>,
}

impl Publish for NewHwQueue<'_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let Self {
            queue,
            tentative,
            mut memory,
        } = self;
        let result = queue.publish_with_memory(|| memory.access.take(), answer);

        // The queue is published, or its creation was undone. The memory is unpinned after that.
        drop(tentative);
        result
    }
}

/// IOMMU_HW_QUEUE_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_hw_queue_alloc>) -> Result<Published> {
    if cmd.flags != 0 || cmd.type_ == bindings::iommu_hw_queue_type_IOMMU_HW_QUEUE_TYPE_DEFAULT {
        return Err(EOPNOTSUPP);
    }
    let Some(more) = cmd.length.checked_sub(1) else {
        return Err(EINVAL);
    };
    cmd.nesting_parent_iova.checked_add(more).ok_or(EOVERFLOW)?;

    let viommu = cmd.ctx().get::<Viommu>(cmd.viommu_id)?;
    let (base, length) = (cmd.nesting_parent_iova, cmd.length);
    // CAST: `pin()` refuses what does not fit.
    let queue = HwQueue::reserve(&viommu, cmd.type_, base, length as usize)?;
    let (memory, base_pa) = pin(&viommu, base, length)?;
    let tentative = viommu.owner().tentative();
    let queue = queue.start(base_pa, cmd.index, &tentative)?;

    cmd.out_hw_queue_id = queue.id();
    cmd.publish(NewHwQueue {
        queue,
        tentative,
        memory,
    })
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

    #[test]
    fn pieces_are_all_of_a_queue_and_of_what_was_pinned_of_it() {
        const MAX: usize = PageList::MAX;

        // The last byte of IOVA may be in the queue.
        for count in [0, 1, MAX - 1, MAX, MAX + 1, 2 * MAX, 5 * MAX + 7] {
            for first in [0, 7 * PAGE_SIZE, 0_usize.wrapping_sub(count << PAGE_SHIFT)] {
                let mut next = first;

                for (n, (iova, pages)) in pieces(first, count).enumerate() {
                    // The pieces that are unpinned if pinning this one fails.
                    assert!(pieces(first, n * MAX).eq(pieces(first, count).take(n)));
                    assert_eq!(iova, next);
                    assert!((1..=MAX).contains(&pages));
                    next = next.wrapping_add(pages << PAGE_SHIFT);
                }
                assert_eq!(next, first.wrapping_add(count << PAGE_SHIFT));
            }
        }
    }

    #[test]
    fn contiguous() {
        let first = |pfns: &[usize]| {
            let mut pages = Contiguous::default();

            pfns.iter().for_each(|&pfn| pages.add(pfn));
            pages.first()
        };

        assert_eq!(first(&[]), None);
        assert_eq!(first(&[5]), Some(5));
        assert_eq!(first(&[0, 1, 2]), Some(0));
        for broken in [
            [5, 5, 6],
            [5, 6, 6],
            [5, 4, 7],
            [5, 7, 7],
            [5, 6, 8],
            [5, 6, 4],
        ] {
            assert_eq!(first(&broken), None);
        }
    }
}
