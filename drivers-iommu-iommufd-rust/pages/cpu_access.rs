// SPDX-License-Identifier: GPL-2.0

//! Pages for the kernel itself: in-kernel accesses.
//!
//! Actors: a driver that emulates a device (an mdev) wants pages of an IOAS to read and write with
//! the CPU. It either *pins* a range of them, gets the pages, and unpins the same range when it is
//! done; or has bytes *copied* once. Ranges of different accesses overlap at will, and the same
//! range can be pinned many times, which is counted.
//!
//! What is pinned is an [`Access`], one of the [holders](super::tiers): it has the PFNs of its
//! whole range in memory, so that unpinning needs no memory and asks nobody, and so that it can
//! tell them to others.
//!
//! Copying looks for the cheapest way: through the mapping of user space, if it is that of the
//! current process or a kernel thread may borrow it; one page that is pinned for a moment; else the
//! slow path, which reads PFNs from wherever they are as a domain would see them.
//!
//! Locks: all but the fast ways of copying is done under the mutex of the pages.
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
        Few,
        Room,
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

/// Bytes to be copied.
pub(crate) enum RwBuf<'a> {
    /// Out of the pages.
    Read(&'a mut [u8]),
    /// Into the pages.
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

    /// Copies at address `addr` of the current task.
    fn copy_user(self, addr: usize) -> Result {
        let user = UserSlice::new(UserPtr::from_addr(addr), self.len());

        match self {
            Self::Read(out) => user.reader().read_slice(out),
            Self::Write(data) => user.writer().write_slice(data),
        }
    }

    /// Copies at most `most` bytes from the front of the buffer, and takes them off it, at `offset`
    /// in a run whose pins are stored.
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

/// How to copy.
#[derive(Clone, Copy, Default)]
pub(crate) struct RwFlags {
    /// The caller is a kernel thread that has no memory of its own. (`IOMMUFD_ACCESS_RW_KTHREAD`)
    pub(crate) kthread: bool,
    /// For tests: do not use the fast way. (`__IOMMUFD_ACCESS_RW_SLOW_PATH`)
    pub(crate) slow_path: bool,
}

impl Inner {
    /// Reads the PFNs of a range into a list, which is empty and begins at the same index, so that
    /// all of it is pinned. On error nothing is, and what is in the list means nothing.
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

        let mut room = Room::new();
        if self.tiers.is_empty() && self.collect_few(source, writable, range, &mut room, list)? {
            return Ok(());
        }

        let mut reader = Reader::new(source, range, &mut room)?;
        // A run that was read, but is not in the list.
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

    /// As [`Self::collect`], for pages that nobody holds and that one call can pin. Tells whether
    /// it is done.
    fn collect_few(
        &mut self,
        source: &Source,
        writable: bool,
        range: PageRange,
        room: &mut Room,
        list: &mut RunList,
    ) -> Result<bool> {
        let mut few = Few::new(room);
        if !few.pin(source, range)? {
            return Ok(false);
        }

        self.account.pinned(range.len());
        let res = few
            .runs()
            .try_for_each(|run| {
                list.push(run, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
                storing_may_fail()
            })
            .and_then(|()| self.account.settle(None));

        self.end_few(&mut few, range.len(), writable, res)
            .map(|()| true)
    }

    /// The access to exactly this range.
    fn find_access(&mut self, range: PageRange) -> Option<Entry<'_, Access>> {
        let PageRange { first, last } = range;

        self.tiers.accesses.find_mut(first, last, |node| {
            node.start() == first && node.last() == last
        })
    }
}

/// In C, each span of PFNs is stored in an XArray, and tests let this fail.
fn storing_may_fail() -> Result {
    if should_fail() {
        return Err(EINVAL);
    }
    Ok(())
}

/// Names the pages of a list in `out`.
fn name_pages(list: &RunList, mut out: &mut [MaybeUninit<PagePtr>]) {
    // Memory is mostly either contiguous over a long stretch or not at all.
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
    /// Pins a range for the kernel and names its pages in `out`, of which it initialises all.
    ///
    /// To be undone by [`Self::unpin_access`] with the same range.
    ///
    /// # Errors
    ///
    /// `EPERM` if `write` is wanted of pages that are not writable, `EINVAL` for a dma-buf or if
    /// `out` is not as long as the range, else what pinning says, `ENOMEM` if it is too much.
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

    /// Undoes one [`Self::pin_access`] of the same range. The caller does not use the pages any
    /// more.
    ///
    /// Never fails, works without memory.
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

    /// Copies bytes into or out of the pages, from byte `start_byte` on.
    ///
    /// The memory is shared with user space and devices: this is no snapshot.
    ///
    /// # Errors
    ///
    /// `EPERM` for writing to pages that are not writable, `EINVAL` for a dma-buf or no bytes,
    /// `EFAULT` if there is no memory any more, and others that pinning gives. Some of the bytes
    /// may have been copied.
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
            // The process may be gone, but pages of it may still be pinned.
            if let Some(mut mm) = RemoteMm::new(mm) {
                return self.rw_page(&mut mm, addr, buf);
            }
        }
        self.rw_slow(start_byte, buf)
    }

    /// Copies bytes of one page that is pinned as long as this takes.
    fn rw_page(&self, mm: &mut RemoteMm, addr: usize, buf: RwBuf<'_>) -> Result {
        if should_fail() {
            return Err(EINVAL);
        }

        let mut room = PinRoom::<1>::new();
        let mut queue = PinQueue::new(&mut room);
        let flags = if buf.is_write() {
            PinFlags::WRITE
        } else {
            PinFlags::READ
        };
        queue.pin_remote(mm, addr & !(PAGE_SIZE - 1), 1, flags)?;
        // Do not keep others waiting.
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

    /// Copies bytes of pages as a domain would see them, from wherever their PFNs are.
    fn rw_slow(&self, start_byte: usize, buf: RwBuf<'_>) -> Result {
        let range = PageRange::of_bytes(start_byte, buf.len())?;
        let mut inner = self.lock();
        let mut room = Room::new();
        let mut reader = Reader::new(&self.source, range, &mut room)?;
        let mut copy = Copy {
            buf,
            offset: start_byte % PAGE_SIZE,
            writable: self.writable,
            unpinned: 0,
        };

        let res = reader.read_to(&mut inner, &mut copy);
        reader.finish(&mut inner);
        inner.account.unpinned(copy.unpinned);
        inner.account.settle_less(None);
        res
    }
}

/// Copies bytes of the runs that are read, and unpins those that were pinned for that.
struct Copy<'a> {
    /// What is not copied yet.
    buf: RwBuf<'a>,
    /// Where it is in the next run.
    offset: usize,
    /// How to unpin.
    writable: bool,
    /// How many pages were unpinned.
    unpinned: usize,
}

impl Sink for Copy<'_> {
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

    /// Pages of memory of this test, from the middle of the first page on, whose bytes are known.
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

    /// The PFNs that the access to exactly this range has.
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
            // Let go of more and more.
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
                // Whether they come from the source, from other accesses or from both.
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

        // There is nothing behind the memory.
        assert!(pages
            .pin_access(range(40, 60), &mut out(21)?, true)
            .is_err());
        assert_eq!(pinned(&pages), 0);

        // What is held by others stays.
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

    /// Memory that ends with the address space, or behind it, is none, however much is pinned at a
    /// time.
    #[test]
    fn memory_that_wraps() -> Result {
        // The test may have no memory yet.
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
        // One page only, and the fast way where it is allowed.
        pages.rw(start, RwBuf::Write(&[1, 2, 3]), slow)?;
        let mut three = [0; 3];
        pages.rw(start, RwBuf::Read(&mut three), RwFlags::default())?;
        assert_eq!(three, [1, 2, 3]);
        pages.unpin_access(PageRange { first: 3, last: 9 });
        assert_eq!(pinned(&pages), 0);
        Ok(())
    }
}
