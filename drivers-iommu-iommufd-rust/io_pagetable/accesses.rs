// SPDX-License-Identifier: GPL-2.0

//! Accesses: drivers that use the memory of an IOAS by the CPU.
//!
//! An access pins pages of areas, or copies data. Unmapping an area with pins calls the `unmap`
//! callback of all accesses of the IO page table, which have to unpin. Internal accesses have no
//! callback: they lock their areas against unmap.
//!
//! Locks: the `domains` lock protects the list. Pinning, unpinning and copying hold the `iova` lock
//! for reading throughout, so that areas stay. Callbacks are called with no lock held.
#![forbid(unsafe_code)]

use super::{
    areas::AreaSlice,
    IoPagetable,
    IovaSpace, //
};
use crate::{
    pages::{
        RwBuf,
        RwFlags, //
    },
    range::IovaRange,
    sys::pin::PagePtr, //
};
use core::{
    mem::{
        take,
        MaybeUninit, //
    },
    ops::Range, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::Arc, //
};

/// The greatest number of accesses of an IO page table.
const MAX: u32 = 1 << 16;

/// The callback of an access.
pub(crate) trait Notify: Send + Sync {
    /// Unpins everything that the access has pinned in `range`.
    ///
    /// Does nothing for an access that is being destroyed, which unpins everything itself. Called
    /// with no lock held; the access may have been removed already.
    fn unmap(&self, range: IovaRange);
}

/// An access in the list of the IO page table.
pub(crate) struct AccessEntry {
    /// The alignment of IOVAs that the access needs, a power of two.
    pub(crate) alignment: usize,
    /// The callback to unpin; `None` for internal accesses, which lock what they pin.
    pub(crate) notify: Option<Arc<dyn Notify>>,
}

/// The accesses of an IO page table, by a number that is not reused.
pub(super) struct Accesses {
    by_id: RBTree<u64, AccessEntry>,
    next_id: u64,
    /// The number of accesses.
    count: u32,
}

impl Accesses {
    pub(super) fn new() -> Self {
        Self {
            by_id: RBTree::new(),
            next_id: 0,
            count: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds an access. Returns its number, which is greater than all earlier ones.
    fn add(&mut self, access: AccessEntry) -> Result<u64> {
        if self.count >= MAX {
            return Err(EBUSY);
        }
        let id = self.next_id;

        self.by_id
            .insert(RBTreeNode::new(id, access, GFP_KERNEL_ACCOUNT)?);
        self.next_id += 1;
        self.count += 1;
        Ok(id)
    }

    /// Removes an access. Allocates nothing.
    fn remove(&mut self, id: u64) -> Option<AccessEntry> {
        let removed = self.by_id.remove(&id)?;

        self.count -= 1;
        Some(removed)
    }

    /// Returns the first access of these numbers that has a callback.
    fn notify_in(&self, mut ids: Range<u64>) -> Option<(u64, Arc<dyn Notify>)> {
        loop {
            let cursor = self.by_id.cursor_lower_bound(&ids.start)?;
            let (&id, access) = cursor.current();

            if id >= ids.end {
                return None;
            }
            if let Some(notify) = &access.notify {
                return Some((id, notify.clone()));
            }
            ids.start = id + 1;
        }
    }
}

impl AreaSlice<'_> {
    /// Returns whether the slice consists of whole pages. The last page of a range may be partial.
    fn has_whole_pages(&self) -> bool {
        let end = self.mapping.start_byte(self.mapping.iova.last);

        self.mapping.start_byte(self.range.start) % PAGE_SIZE == 0
            && (self.is_last || end % PAGE_SIZE == PAGE_SIZE - 1)
    }

    /// Checks that an access may use the area.
    fn check_access(&self, write: bool, pin: bool) -> Result {
        if self.live.prevent_access || (pin && !self.has_whole_pages()) {
            return Err(EINVAL);
        }

        let prot = self.mapping.prot;
        let allowed = if write {
            prot.writable()
        } else {
            prot.readable()
        };
        allowed.then_some(()).ok_or(EPERM)
    }

    fn pin(&self, out: &mut [MaybeUninit<PagePtr>], write: bool, lock: bool) -> Result {
        self.check_access(write, true)?;
        let pages = self.mapping.pages_of(self.range);

        self.live.pages.pages().pin_access(pages, out, write)?;
        self.live.begin_access(lock);
        Ok(())
    }

    fn unpin(&self, lock: bool) {
        let pages = self.mapping.pages_of(self.range);

        self.live.pages.pages().unpin_access(pages);
        self.live.end_access(lock);
    }
}

impl IovaSpace {
    /// Calls `f` with the slice of each area in `range`, in order, until it fails. Fails with
    /// `ENOENT` at a gap.
    #[inline]
    fn try_for_each_slice<'a>(
        &'a self,
        range: IovaRange,
        mut f: impl FnMut(AreaSlice<'a>) -> Result,
    ) -> Result {
        // Fast path: drivers mostly use a few pages of one area.
        if let Some(area) = self.areas.at(range.start) {
            if let (true, Some(live)) = (area.iova().covers(range), area.live()) {
                return f(AreaSlice {
                    range,
                    mapping: area.mapping(),
                    live,
                    is_last: true,
                });
            }
        }
        self.areas.contiguous(range).try_for_each(|slice| f(slice?))
    }

    /// Undoes one pin of a range.
    fn unpin(&self, range: IovaRange, lock: bool) {
        let result = self.try_for_each_slice(range, |slice| {
            slice.unpin(lock);
            Ok(())
        });

        // Pinned areas are not unmapped, so there is no gap.
        kernel::warn_on!(result.is_err());
    }
}

/// Splits `len` bytes off the front of a buffer.
fn split_front<'a>(buf: &mut RwBuf<'a>, len: usize) -> Option<RwBuf<'a>> {
    Some(match buf {
        RwBuf::Read(bytes) => {
            let (front, rest) = take(bytes).split_at_mut_checked(len)?;
            *bytes = rest;
            RwBuf::Read(front)
        }
        RwBuf::Write(bytes) => {
            let (front, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            RwBuf::Write(front)
        }
    })
}

impl IoPagetable {
    /// Adds an access. Returns its number, for [`Self::remove_access`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EBUSY` if there are too many, `EADDRINUSE` if an area is not aligned as the
    /// access needs it, `EINTR` if the task is being killed.
    pub(crate) fn add_access(&self, access: AccessEntry) -> Result<u64> {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();
        let alignment = access.alignment;
        let memory = domains.alignments.prepare(alignment)?;
        let id = domains.accesses.add(access)?;

        domains.alignments.add(alignment, memory);
        if let Err(error) = space.update_alignment(&domains) {
            domains.alignments.remove(alignment);
            drop(domains.accesses.remove(id));
            return Err(error);
        }
        Ok(id)
    }

    /// Removes an access, which has no pins left.
    pub(crate) fn remove_access(&self, id: u64) {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();
        let removed = domains.accesses.remove(id);

        match &removed {
            Some(access) => domains.alignments.remove(access.alignment),
            None => {
                kernel::warn_on!(true);
            }
        }
        // The alignment does not grow, so this cannot fail.
        kernel::warn_on!(space.update_alignment(&domains).is_err());
        drop(space);
        drop(domains);
        // Drop the reference to the notifier without locks.
        drop(removed);
    }

    /// Pins the pages of a range, for writing if `write` is set. With `lock`, the areas cannot be
    /// unmapped until they are unpinned. `out` has one entry for each page of the range.
    ///
    /// # Errors
    ///
    /// Nothing is pinned then. Of the first area that fails:
    ///
    /// - `EINVAL` if the area is being unmapped, or does not start and end with whole pages;
    /// - `EPERM` if the area does not allow it;
    /// - what [`crate::pages::Pages::pin_access`] returns;
    /// - `ENOENT` at a gap.
    pub(crate) fn pin(
        &self,
        range: IovaRange,
        mut out: &mut [MaybeUninit<PagePtr>],
        write: bool,
        lock: bool,
    ) -> Result {
        let space = self.iova.read();
        let mut pinned = None;
        let pin = |slice: AreaSlice<'_>| {
            let count = slice.mapping.pages_of(slice.range).len();
            let (front, rest) = take(&mut out).split_at_mut_checked(count).ok_or(EINVAL)?;

            slice.pin(front, write, lock)?;
            out = rest;
            pinned = Some(slice.range.last);
            Ok(())
        };
        let result = space.try_for_each_slice(range, pin);

        if let (Err(_), Some(last)) = (&result, pinned) {
            space.unpin(IovaRange { last, ..range }, lock);
        }
        result
    }

    /// Undoes [`IoPagetable::pin`] of the same range.
    pub(crate) fn unpin(&self, range: IovaRange, lock: bool) {
        self.iova.read().unpin(range, lock);
    }

    /// Copies between a range and a buffer of its length.
    ///
    /// # Errors
    ///
    /// Part of the data may have been copied. Of the first area that fails: `EINVAL` if it is being
    /// unmapped, `EPERM` if it does not allow it, what [`crate::pages::Pages::rw`] returns, and
    /// `ENOENT` at a gap.
    pub(crate) fn rw(&self, range: IovaRange, mut buf: RwBuf<'_>, flags: RwFlags) -> Result {
        let space = self.iova.read();
        let write = matches!(buf, RwBuf::Write(_));

        space.try_for_each_slice(range, |slice| {
            slice.check_access(write, false)?;
            let part = slice.range.len().and_then(|len| split_front(&mut buf, len));
            let start_byte = slice.mapping.start_byte(slice.range.start);

            slice
                .live
                .pages
                .pages()
                .rw(start_byte, part.ok_or(EINVAL)?, flags)
        })
    }

    /// Calls the accesses to unpin `range`, whose areas cannot be pinned any more.
    ///
    /// The list can change during a call. An access that was added after the start has no pins
    /// there and is skipped; otherwise adding accesses could keep this loop running.
    pub(super) fn notify_unmap(&self, range: IovaRange) {
        let mut ids = 0..self.domains.read().accesses.next_id;

        loop {
            let found = self.domains.read().accesses.notify_in(ids.clone());
            let Some((id, notify)) = found else {
                break;
            };

            notify.unmap(range);
            ids.start = id + 1;
        }
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_io_pagetable_accesses)]
mod tests {
    use super::*;
    use crate::{
        io_pagetable::Placement,
        mapping::Prot,
        pages::Pages,
        sys::{
            pin::test_memory,
            task::AccountMode, //
        }, //
    };
    use kernel::bindings;

    /// A callback that does nothing.
    struct NoopNotify;

    impl Notify for NoopNotify {
        fn unmap(&self, _range: IovaRange) {}
    }

    /// An access, with a callback if its alignment is greater than 1.
    fn entry(alignment: usize) -> Result<AccessEntry> {
        let notify = Arc::new(NoopNotify, GFP_KERNEL)? as Arc<dyn Notify>;

        Ok(AccessEntry {
            alignment,
            notify: (alignment > 1).then_some(notify),
        })
    }

    #[test]
    fn accesses_are_asked_in_order_and_once() -> Result {
        let mut accesses = Accesses::new();
        let mut ids = KVec::new();

        for alignment in [PAGE_SIZE, 1, 512, 1, 1, PAGE_SIZE] {
            ids.push(accesses.add(entry(alignment)?)?, GFP_KERNEL)?;
        }
        let all = 0..accesses.next_id;
        let ask = |accesses: &Accesses, from| Some(accesses.notify_in(from..all.end)?.0);

        assert_eq!(ask(&accesses, ids[0]), Some(ids[0]));
        assert_eq!(ask(&accesses, ids[0] + 1), Some(ids[2]));
        assert_eq!(ask(&accesses, ids[2] + 1), Some(ids[5]));
        assert_eq!(ask(&accesses, ids[5] + 1), None);

        // Accesses that are added later are not called.
        assert!(accesses.remove(ids[5]).is_some() && accesses.remove(ids[5]).is_none());
        let late = accesses.add(entry(PAGE_SIZE)?)?;
        assert!(late >= all.end);
        assert_eq!(ask(&accesses, ids[2] + 1), None);

        for id in [ids[0], late, ids[2], ids[1], ids[3], ids[4]] {
            assert!(accesses.remove(id).is_some());
        }
        assert!(accesses.is_empty() && accesses.count == 0);
        Ok(())
    }

    #[test]
    fn there_is_a_limit() -> Result {
        let mut accesses = Accesses::new();

        for _ in 0..MAX {
            accesses.add(AccessEntry {
                alignment: 1,
                notify: None,
            })?;
        }
        assert_eq!(accesses.add(entry(1)?), Err(EBUSY));
        assert!(accesses.remove(7).is_some());
        assert!(accesses.add(entry(1)?).is_ok());
        Ok(())
    }

    /// The properties of a slice that the test compares.
    type SliceKey = (IovaRange, IovaRange, bool);

    fn key(slice: &AreaSlice<'_>) -> SliceKey {
        (slice.range, slice.mapping.iova, slice.is_last)
    }

    #[test]
    fn parts_of_one_area_are_found_as_those_of_many() -> Result {
        let addr = test_memory(4 * PAGE_SIZE)?;
        let iopt = KBox::pin_init(IoPagetable::new(), GFP_KERNEL)?;

        // First page and number of pages of each area: neighbours and gaps.
        for (first, pages) in [(1, 1), (2, 3), (5, 1), (8, 4), (12, 2)] {
            let len = pages * PAGE_SIZE;
            let (pages, start_byte) = Pages::from_user(addr, len, true, AccountMode::None)?;
            let prot = Prot(bindings::IOMMU_READ);

            iopt.map(
                pages,
                start_byte,
                len,
                Placement::Fixed(first * PAGE_SIZE),
                prot,
            )?;
        }

        let space = iopt.read();
        for first in 0..16 {
            for last in first..16 {
                let range = IovaRange {
                    start: first * PAGE_SIZE + 8,
                    last: last * PAGE_SIZE + 16,
                };
                let (mut fast, mut slow): (KVec<SliceKey>, KVec<SliceKey>) =
                    (KVec::new(), KVec::new());

                let fast_result = space
                    .try_for_each_slice(range, |slice| Ok(fast.push(key(&slice), GFP_KERNEL)?));
                let slow_result = space
                    .areas
                    .contiguous(range)
                    .try_for_each(|slice| Ok(slow.push(key(&slice?), GFP_KERNEL)?));

                assert_eq!(fast_result, slow_result);
                assert!(fast.as_slice() == slow.as_slice());
            }
        }
        drop(space);
        iopt.destroy();
        Ok(())
    }
}
