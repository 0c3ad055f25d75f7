// SPDX-License-Identifier: GPL-2.0

//! Access to pages by the CPU, for in-kernel accesses.
//!
//! A driver that emulates a device (an mdev) reads and writes pages of an IOAS by the CPU. It
//! either *pins* a range, uses the pages, and unpins the same range; or *copies* bytes. Ranges of
//! different accesses can overlap, and the same range can be pinned several times, which is
//! counted.
//!
//! A pinned range is an [`Access`], one of the [holders](super::tiers). It stores the PFNs of its
//! whole range. So unpinning allocates nothing, and other users of the pages can read the PFNs from
//! it.
//!
//! Copying uses the first of these that is possible: the user mapping, if it is that of the current
//! process or a kernel thread can adopt it; pinning a single page temporarily; the slow path, which
//! reads the PFNs as for a domain.
//!
//! Locks: the mutex of the pages, except for the first two ways of copying.
#![forbid(unsafe_code)]

use super::{
    reader::{
        Reader,
        Sink, //
    },
    run::{
        Run,
        RunList, //
    },
    source::{
        PinBuffer,
        PinnedBatch,
        Source, //
    },
    tiers::{
        Access,
        Holder, //
    },
    Inner,
    Pages, //
};
use crate::{
    range::PageRange,
    sys::{
        pin::{
            self,
            PagePtr, //
        },
        test::should_fail, //
    }, //
};
use core::mem::{
    take,
    MaybeUninit, //
};
use kernel::{
    interval_tree::{
        Entry,
        Node, //
    },
    mm::{
        gup::{
            PinFlags,
            PinQueue,
            PinRoom,
            RemoteMm, //
        },
        kthread,
        Mm, //
    },
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    warn_on, //
};

/// A buffer to copy to or from.
pub(crate) enum RwBuf<'a> {
    /// Copy from the pages.
    Read(&'a mut [u8]),
    /// Copy to the pages.
    Write(&'a [u8]),
}

impl RwBuf<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Read(out) => out.len(),
            Self::Write(data) => data.len(),
        }
    }

    fn is_write(&self) -> bool {
        matches!(self, Self::Write(_))
    }

    /// Copies from or to address `addr` of the current task.
    fn copy_user(self, addr: usize) -> Result {
        let user = UserSlice::new(UserPtr::from_addr(addr), self.len());

        match self {
            Self::Read(out) => user.reader().read_slice(out),
            Self::Write(data) => user.writer().write_slice(data),
        }
    }

    /// Copies at most `most` bytes at `offset` of a run, whose pins are stored, and removes them
    /// from the front of the buffer.
    #[inline]
    fn copy_run(&mut self, most: usize, run: Run, offset: usize) -> Result {
        match self {
            Self::Read(out) => {
                let len = most.min(out.len());
                let (front, rest) = take(out).split_at_mut(len);

                *out = rest;
                pin::read(run, offset, front)
            }
            Self::Write(data) => {
                let (front, rest) = data.split_at(most.min(data.len()));

                *data = rest;
                pin::write(run, offset, front)
            }
        }
    }
}

/// Flags of a copy.
#[derive(Clone, Copy, Default)]
pub(crate) struct RwFlags {
    /// The caller is a kernel thread without an mm. (`IOMMUFD_ACCESS_RW_KTHREAD`)
    pub(crate) kthread: bool,
    /// For tests: use the slow path. (`__IOMMUFD_ACCESS_RW_SLOW_PATH`)
    pub(crate) slow_path: bool,
}

impl Inner {
    /// Pins a range and adds its PFNs to a list, which is empty and begins at the same index. On
    /// error nothing is pinned, and the contents of the list are undefined.
    fn collect(
        &mut self,
        source: &Source,
        writable: bool,
        range: PageRange,
        list: &mut RunList,
    ) -> Result {
        let (holder, last) = self.tiers.holder(range);
        if let Some(runs) = holder.known().filter(|_| last == range.last) {
            if let Holder::Domain(_) = holder {
                storing_may_fail()?;
            }
            *list = runs.slice(range, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
            return Ok(());
        }

        let mut buffer = PinBuffer::new();
        if self.tiers.is_empty()
            && self.collect_batch(source, writable, range, &mut buffer, list)?
        {
            return Ok(());
        }

        let mut reader = Reader::new(source, range, &mut buffer)?;
        // A run that was pinned but could not be added to the list.
        let mut stray: Option<Run> = None;

        let res = reader.read_to(self, &mut |run| {
            list.push(run, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)
                .map_err(|_| {
                    stray = Some(run);
                    ENOMEM
                })?;
            storing_may_fail()
        });
        let res = res.and_then(|()| reader.settle(self));
        reader.finish(self);

        if res.is_err() {
            self.unpin_list(writable, list);
            if let Some(run) = stray {
                self.unpin_unheld(writable, list.end(), run);
            }
            self.account.settle_less(None);
        }
        res
    }

    /// Fast path of [`Self::collect`], for pages without holders that one call can pin. Returns
    /// whether it has done so.
    fn collect_batch(
        &mut self,
        source: &Source,
        writable: bool,
        range: PageRange,
        buffer: &mut PinBuffer,
        list: &mut RunList,
    ) -> Result<bool> {
        let mut batch = PinnedBatch::new(buffer);
        if !batch.pin(source, range)? {
            return Ok(false);
        }

        self.account.pinned(range.len());
        let res = batch
            .runs()
            .try_for_each(|run| {
                list.push(run, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
                storing_may_fail()
            })
            .and_then(|()| self.account.settle(None));

        self.end_batch(&mut batch, range.len(), writable, res)
            .map(|()| true)
    }

    /// Returns the access with exactly this range.
    fn find_access(&mut self, range: PageRange) -> Option<Entry<'_, Access>> {
        let PageRange { first, last } = range;

        self.tiers.accesses.find_mut(first, last, |node| {
            node.start() == first && node.last() == last
        })
    }
}

/// A point of fault injection: the C driver stores each span of PFNs in an XArray.
fn storing_may_fail() -> Result {
    if should_fail() {
        return Err(EINVAL);
    }
    Ok(())
}

/// Writes the `struct page` pointers of a list to `out`.
fn name_pages(list: &RunList, mut out: &mut [MaybeUninit<PagePtr>]) {
    // Short runs: page by page is faster.
    if list.len() / 8 < list.run_count() {
        for (pfn, slot) in list.pfns().zip(out) {
            pin::name_page(pfn, slot);
        }
        return;
    }
    list.for_each(|run| {
        let rest = take(&mut out);
        let (front, rest) = rest.split_at_mut(run.len.min(rest.len()));

        pin::name_pages(run, front);
        out = rest;
    });
}

impl Pages {
    /// Pins a range for CPU access and initialises `out` with its `struct page` pointers.
    ///
    /// Undone by [`Self::unpin_access`] with the same range.
    ///
    /// # Errors
    ///
    /// `EPERM` if `write` is set and the pages are not writable, `EINVAL` for a dma-buf or if `out`
    /// is not as long as the range, what pinning returns, and `ENOMEM`, also beyond the limit.
    pub(crate) fn pin_access(
        &self,
        range: PageRange,
        out: &mut [MaybeUninit<PagePtr>],
        write: bool,
    ) -> Result {
        if write && !self.writable {
            return Err(EPERM);
        }
        if out.len() != range.len() {
            return Err(EINVAL);
        }
        if self.is_dmabuf() {
            return Err(EINVAL);
        }

        let mut inner = self.lock();
        if let Some(mut entry) = inner.find_access(range) {
            let access = entry.value_mut();

            access.users = access.users.saturating_add(1);
            name_pages(&access.runs, out);
            return Ok(());
        }

        let access = Access {
            users: 1,
            runs: RunList::new(range.first),
        };
        let mut node = Node::new(range.first, range.last, access, GFP_KERNEL_ACCOUNT)?;
        let list = &mut node.value_mut().runs;

        inner.collect(&self.source, self.writable, range, list)?;
        name_pages(list, out);
        inner.tiers.accesses.insert(node);
        Ok(())
    }

    /// Undoes one [`Self::pin_access`] of the same range, whose pages are not in use any more.
    ///
    /// Never fails, allocates nothing.
    #[inline(never)]
    pub(crate) fn unpin_access(&self, range: PageRange) {
        let mut inner = self.lock();
        let Some(mut entry) = inner.find_access(range) else {
            warn_on!(true);
            return;
        };
        let access = entry.value_mut();

        access.users = access.users.saturating_sub(1);
        if access.users != 0 {
            return;
        }
        let node = entry.remove();
        inner.unpin_list(self.writable, &node.value().runs);
        inner.account.settle_less(None);
    }

    /// Copies bytes to or from the pages, from byte `start_byte` on.
    ///
    /// User space and devices can change the memory meanwhile: the copy is not a snapshot.
    ///
    /// # Errors
    ///
    /// `EPERM` for writing to pages that are not writable, `EINVAL` for a dma-buf or an empty
    /// buffer, `EFAULT` if the memory was unmapped, and what pinning returns. Some bytes may have
    /// been copied.
    pub(crate) fn rw(&self, start_byte: usize, buf: RwBuf<'_>, flags: RwFlags) -> Result {
        if buf.is_write() && !self.writable {
            return Err(EPERM);
        }
        match &self.source {
            Source::DmaBuf { .. } => Err(EINVAL),
            Source::File { .. } => self.rw_slow(start_byte, buf),
            Source::User { mm, start, .. } => self.rw_user(mm, *start, start_byte, buf, flags),
        }
    }

    fn rw_user(
        &self,
        mm: &Mm,
        start: usize,
        start_byte: usize,
        buf: RwBuf<'_>,
        flags: RwFlags,
    ) -> Result {
        let slow_path = cfg!(CONFIG_IOMMUFD_TEST) && flags.slow_path;
        let is_current = current!().mm().is_some_and(|own| core::ptr::eq(&**own, mm));
        let addr = start.wrapping_add(start_byte);

        if is_current && !slow_path {
            return buf.copy_user(addr);
        }
        if flags.kthread && kthread::can_use_mm() {
            return match mm.mmget_not_zero() {
                Some(mm) => kthread::with_mm(&mm, || buf.copy_user(addr))?,
                None => self.rw_slow(start_byte, buf),
            };
        }

        let pages = PageRange::of_bytes(start_byte, buf.len())?;
        if !flags.kthread && pages.len() == 1 {
            // Without an mm the process has exited. Pages of it may still be pinned: slow path.
            if let Some(mm) = mm.mmget_not_zero() {
                return self.rw_page(&mut RemoteMm::new(&mm), addr, buf);
            }
        }
        self.rw_slow(start_byte, buf)
    }

    /// Copies bytes of one page, which is pinned temporarily.
    fn rw_page(&self, mm: &mut RemoteMm<'_>, addr: usize, buf: RwBuf<'_>) -> Result {
        if should_fail() {
            return Err(EINVAL);
        }

        let mut buffer = PinRoom::<1>::new();
        let mut queue = PinQueue::new(&mut buffer);
        let flags = if buf.is_write() {
            PinFlags::WRITE
        } else {
            PinFlags::READ
        };
        queue.pin_remote(mm, addr & !(PAGE_SIZE - 1), 1, flags)?;
        // Not needed for the copy.
        mm.unlock();

        let Some(run) = queue.next_run() else {
            warn_on!(true);
            return Err(EINVAL);
        };
        match buf {
            RwBuf::Read(out) => run.read(addr % PAGE_SIZE, out),
            RwBuf::Write(data) => pin::write_pinned(&run, addr % PAGE_SIZE, data),
        }
    }

    /// Copies bytes, with the PFNs from a holder or from the source.
    fn rw_slow(&self, start_byte: usize, buf: RwBuf<'_>) -> Result {
        let range = PageRange::of_bytes(start_byte, buf.len())?;
        let mut inner = self.lock();
        let mut buffer = PinBuffer::new();
        let mut reader = Reader::new(&self.source, range, &mut buffer)?;
        let mut sink = CopySink {
            buf,
            offset: start_byte % PAGE_SIZE,
            writable: self.writable,
            unpinned: 0,
        };

        let res = reader.read_to(&mut inner, &mut sink);
        reader.finish(&mut inner);
        inner.account.unpinned(sink.unpinned);
        inner.account.settle_less(None);
        res
    }
}

/// A sink that copies bytes of the runs, and unpins those that were pinned for the copy.
struct CopySink<'a> {
    /// The part of the buffer that is left.
    buf: RwBuf<'a>,
    /// The offset into the next run.
    offset: usize,
    /// Set if the pages are to be marked dirty.
    writable: bool,
    /// The number of pages that were unpinned.
    unpinned: usize,
}

impl Sink for CopySink<'_> {
    #[inline]
    fn push(&mut self, run: Run) -> Result {
        let res = self.push_held(run);

        pin::unpin(run, self.writable);
        self.unpinned += run.len;
        res
    }

    #[inline]
    fn push_held(&mut self, run: Run) -> Result {
        let offset = take(&mut self.offset);
        let bytes = run.len.saturating_mul(PAGE_SIZE) - offset;

        self.buf.copy_run(bytes, run, offset)
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_access)]
mod tests {
    use super::*;
    use crate::{
        pages::{
            run::Random,
            NewPages, //
        },
        sys::{
            pin::test_memory,
            task::AccountMode, //
        }, //
    };
    use kernel::sync::Arc;

    const PAGES: usize = 48;

    /// Memory with known contents, from the middle of its first page on.
    fn test_pages() -> Result<(Arc<Pages>, usize, UserPtr)> {
        let addr = test_memory(PAGES * PAGE_SIZE)?;
        let mut writer = UserSlice::new(UserPtr::from_addr(addr), PAGES * PAGE_SIZE).writer();
        for n in 0..PAGES * PAGE_SIZE / 8 {
            writer.write(&(n as u64))?;
        }

        let len = (PAGES - 1) * PAGE_SIZE;
        let (NewPages(pages), start) = Pages::from_user(addr + 512, len, true, AccountMode::None)?;
        assert_eq!((pages.npages(), start), (PAGES, 512));
        Ok((pages, start, UserPtr::from_addr(addr)))
    }

    fn out(pages: usize) -> Result<KVec<MaybeUninit<PagePtr>>> {
        let mut out = KVec::with_capacity(pages, GFP_KERNEL)?;
        for _ in 0..pages {
            out.push(MaybeUninit::uninit(), GFP_KERNEL)?;
        }
        Ok(out)
    }

    fn pinned(pages: &Pages) -> usize {
        pages.lock().account.pages()
    }

    /// Returns the PFNs of the access with exactly this range.
    fn pfns(pages: &Pages, range: PageRange) -> Result<KVec<usize>> {
        let mut inner = pages.lock();
        let mut entry = inner.find_access(range).ok_or(ENOENT)?;
        let runs = &entry.value_mut().runs;
        let mut pfns = KVec::with_capacity(range.len(), GFP_KERNEL)?;

        assert_eq!(runs.range(), Some(range));
        for index in range.first..=range.last {
            pfns.push(runs.run_at(index).pfn, GFP_KERNEL)?;
        }
        Ok(pfns)
    }

    #[test]
    fn overlapping_accesses_pin_each_page_once() -> Result {
        let (pages, ..) = test_pages()?;
        let mut random = Random::new(5);
        let mut held: KVec<PageRange> = KVec::new();

        let all = PageRange {
            first: 0,
            last: PAGES - 1,
        };
        pages.pin_access(all, &mut out(PAGES)?, true)?;
        let known = pfns(&pages, all)?;
        pages.unpin_access(all);

        for round in 0..400 {
            // Unpin more and more often.
            if !held.is_empty() && random.below(400) < round {
                let range = held.remove(random.below(held.len())).map_err(|_| EINVAL)?;
                pages.unpin_access(range);
            } else {
                let first = random.below(PAGES);
                let last = (first + random.below(10)).min(PAGES - 1);
                let range = PageRange { first, last };
                let mut out = out(range.len())?;

                pages.pin_access(range, &mut out, true)?;
                held.push(range, GFP_KERNEL)?;
                // The same PFNs from the source and from other accesses.
                assert!(pfns(&pages, range)?.as_slice() == &known[first..=last]);
            }
            let model = (0..PAGES).filter(|&n| held.iter().any(|range| range.contains(n)));
            assert_eq!(pinned(&pages), model.count());
        }
        for range in held {
            pages.unpin_access(range);
        }
        assert_eq!(pinned(&pages), 0);
        Ok(())
    }

    #[test]
    fn what_cannot_be_pinned_leaves_nothing_pinned() -> Result {
        let (pages, ..) = test_pages()?;
        let range = |first, last| PageRange { first, last };

        // The memory ends before the range.
        assert!(pages
            .pin_access(range(40, 60), &mut out(21)?, true)
            .is_err());
        assert_eq!(pinned(&pages), 0);

        // Pages of another access stay pinned.
        pages.pin_access(range(42, 45), &mut out(4)?, true)?;
        assert!(pages
            .pin_access(range(40, 60), &mut out(21)?, true)
            .is_err());
        assert_eq!(pinned(&pages), 4);
        assert_eq!(
            pages.pin_access(range(1, 2), &mut out(3)?, true),
            Err(EINVAL)
        );
        pages.unpin_access(range(42, 45));
        assert_eq!(pinned(&pages), 0);
        Ok(())
    }

    /// Memory at the end of the address space fails to be pinned, for each number of pages.
    #[test]
    fn memory_that_wraps() -> Result {
        // Gives the test an mm.
        test_pages()?;

        for count in [1, 2, 510, 511, 512, 513, 600] {
            let addr = 0_usize.wrapping_sub(count * PAGE_SIZE);
            let len = count * PAGE_SIZE - 512;
            let (NewPages(pages), _) = Pages::from_user(addr, len, true, AccountMode::None)?;
            let all = PageRange {
                first: 0,
                last: count - 1,
            };

            assert_eq!(
                pages.pin_access(all, &mut out(count)?, true),
                Err(EOVERFLOW)
            );
            assert_eq!(pinned(&pages), 0);
        }
        Ok(())
    }

    #[test]
    fn all_ways_of_copying_see_the_same_memory() -> Result {
        let (pages, start, addr) = test_pages()?;
        let slow = RwFlags {
            slow_path: true,
            ..RwFlags::default()
        };
        let mut random = Random::new(6);
        let mut ours = KVec::from_elem(0u8, 5 * PAGE_SIZE, GFP_KERNEL)?;
        let mut theirs = KVec::from_elem(0u8, 5 * PAGE_SIZE, GFP_KERNEL)?;

        pages.pin_access(PageRange { first: 3, last: 9 }, &mut out(7)?, true)?;
        for round in 0..60 {
            let len = 1 + random.below(5 * PAGE_SIZE - 1);
            let at = start + random.below(20 * PAGE_SIZE);
            let user = UserSlice::new(addr.wrapping_byte_add(at), len);
            let (ours, theirs) = (&mut ours[..len], &mut theirs[..len]);

            if round % 2 == 0 {
                pages.rw_slow(at, RwBuf::Read(ours))?;
                user.reader().read_slice(theirs)?;
            } else {
                ours.fill(round as u8);
                pages.rw_slow(at, RwBuf::Write(ours))?;
                pages.rw(at, RwBuf::Read(theirs), RwFlags::default())?;
            }
            assert!(ours == theirs);
            assert_eq!(pinned(&pages), 7);
        }
        // A single page, and the user mapping.
        pages.rw(start, RwBuf::Write(&[1, 2, 3]), slow)?;
        let mut three = [0; 3];
        pages.rw(start, RwBuf::Read(&mut three), RwFlags::default())?;
        assert_eq!(three, [1, 2, 3]);
        pages.unpin_access(PageRange { first: 3, last: 9 });
        assert_eq!(pinned(&pages), 0);
        Ok(())
    }
}
