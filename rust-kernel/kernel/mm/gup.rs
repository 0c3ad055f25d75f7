// SPDX-License-Identifier: GPL-2.0

//! Pinning of user pages.
//!
//! A *pinned* page stays where it is and stays allocated until it is unpinned, so that a device can
//! be told its physical address. See `Documentation/core-api/pin_user_pages.rst` for when to pin.
//!
//! Pages come out of a process's memory in an array, but nearly always form long stretches of
//! physically contiguous memory, and everything after pinning is cheaper for a stretch than for its
//! pages. So here is no array of pages: [`PinQueue`] is filled by GUP and hands out [`PinnedRun`]s.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    alloc::Flags,
    bindings,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};
use core::mem::ManuallyDrop;

mod remote;
mod slots;

pub use self::{
    remote::RemoteMm,
    slots::PinRoom, //
};

pub(super) use self::slots::Slots;

/// Whether neighbouring PFNs always have neighbouring `struct page`s.
const MEMMAP_IS_LINEAR: bool = cfg!(any(CONFIG_FLATMEM, CONFIG_SPARSEMEM_VMEMMAP));

/// So many pages are unpinned by one call: `unpin_user_page_range_dirty_lock()` takes an `unsigned
/// long`, but computes what is left in an `unsigned int`, and would never end for 2^32 pages.
const MOST_UNPINNED: usize = 1 << 30;

/// So many pages are looked at between two checks of whether there are more.
const SCAN: usize = 16;

/// How to pin pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PinFlags(u32);

impl PinFlags {
    /// The pages will only be read.
    pub const READ: PinFlags = PinFlags(0);

    /// The pages may be written to: breaks copy-on-write, fails on read-only memory.
    pub const WRITE: PinFlags = PinFlags(bindings::FOLL_WRITE);

    /// The pages are pinned for an unbounded time: moves them out of `ZONE_MOVABLE` and CMA, fails
    /// on memory that must not be held for long.
    pub const LONGTERM: PinFlags = PinFlags(bindings::FOLL_LONGTERM);

    /// These flags and those of `other`.
    #[inline]
    pub const fn with(self, other: PinFlags) -> PinFlags {
        PinFlags(self.0 | other.0)
    }
}

/// Physically contiguous pages, each pinned once.
///
/// Dropping the run unpins them.
///
/// # Examples
///
/// Runs that follow each other can be joined:
///
/// ```
/// use kernel::mm::gup::PinnedRun;
///
/// fn join(mut a: PinnedRun, b: PinnedRun) -> (PinnedRun, Option<PinnedRun>) {
///     match a.try_append(b) {
///         Ok(()) => (a, None),
///         Err(b) => (a, Some(b)),
///     }
/// }
/// ```
///
/// # Invariants
///
/// `self` owns one pin on each of the `len` pages from `pfn` on. They exist (are not a hole in the
/// memory map), and `len` is not zero.
pub struct PinnedRun {
    pfn: usize,
    len: usize,
}

// Pins belong to no thread: no impl of `Send` or `Sync` is needed, the fields are numbers.

impl PinnedRun {
    /// The page frame number of the first page.
    #[inline]
    pub fn pfn(&self) -> usize {
        self.pfn
    }

    /// The number of pages, never zero.
    #[inline]
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Joins `next` to the end of `self` if it is the continuation of it, else gives it back.
    #[inline]
    pub fn try_append(&mut self, next: PinnedRun) -> Result<(), PinnedRun> {
        if self.pfn + self.len != next.pfn {
            return Err(next);
        }
        // INVARIANT: The pins of `next` become ours.
        self.len += next.into_raw().1;
        Ok(())
    }

    /// Gives up the ownership of the pins, as `(pfn, len)`: to record them where no `PinnedRun` can
    /// be kept, like in a page table. [`Self::from_raw`] takes it back.
    #[inline]
    pub fn into_raw(self) -> (usize, usize) {
        let this = ManuallyDrop::new(self);

        (this.pfn, this.len)
    }

    /// Takes the ownership of pins.
    ///
    /// # Safety
    ///
    /// `len` must not be zero, and each of the pages `pfn .. pfn + len` must have a pin that nobody
    /// else owns. They need not have been pinned together.
    #[inline]
    pub unsafe fn from_raw(pfn: usize, len: usize) -> PinnedRun {
        // INVARIANT: By the contract of this function.
        PinnedRun { pfn, len }
    }

    /// Unpins the pages after marking them dirty.
    ///
    /// To be used if somebody may have written to them. May sleep.
    #[inline]
    pub fn unpin_dirty(self) {
        // SAFETY: We own the pins, and forget them.
        unsafe { unpin(self.pfn, self.len, true) };
        core::mem::forget(self);
    }

    /// Copies the bytes from `offset` on to `out`.
    ///
    /// The memory is shared with user space and devices. If they write at the same time, the bytes
    /// are a mix of old and new.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the run has fewer bytes; then nothing was copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result {
        let mut at = 0;

        self.for_each_page(offset, out.len(), |_, mem, len| {
            // SAFETY: `mem` is valid for `len` bytes, `out` has `len` bytes from `at` on as the
            // lengths add up to `out.len()`. This is C's `memcpy()`, not a copy by Rust, as others
            // may write to `mem`.
            unsafe { bindings::memcpy(out.as_mut_ptr().add(at).cast(), mem.cast(), len) };
            at += len;
        })
    }

    /// Copies `data` over the bytes from `offset` on and marks the pages dirty. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the run has fewer bytes; then nothing was copied.
    ///
    /// # Safety
    ///
    /// The pages must have been pinned with [`PinFlags::WRITE`] (or be memory that the caller may
    /// write to for another reason): else they can be shared with those who must not see a change,
    /// like the zero page.
    pub unsafe fn write(&self, offset: usize, data: &[u8]) -> Result {
        let mut at = 0;

        self.for_each_page(offset, data.len(), |page, mem, len| {
            // SAFETY: `mem` is valid for `len` bytes, `data` has `len` bytes from `at` on as the
            // lengths add up to `data.len()`. This is C's `memcpy()`, not a copy by Rust, as others
            // may access `mem`. By the requirements of this function we may write there.
            unsafe { bindings::memcpy(mem.cast(), data.as_ptr().add(at).cast(), len) };
            // SAFETY: The page is pinned by us.
            unsafe { bindings::set_page_dirty_lock(page) };
            at += len;
        })
    }

    /// Calls `f(page, mem, len)` for each page of the bytes `offset .. offset + len`, with the
    /// piece that is in the page mapped at `mem`. The pieces add up to `len` bytes.
    fn for_each_page(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(*mut bindings::page, *mut u8, usize),
    ) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end.div_ceil(PAGE_SIZE) > self.len {
            return Err(EINVAL);
        }

        let mut at = offset;
        while at < end {
            let in_page = at % PAGE_SIZE;
            let piece = (PAGE_SIZE - in_page).min(end - at);
            // SAFETY: By the type invariant the page exists, as `at` is within the run.
            let page = unsafe { bindings::pfn_to_page(self.pfn + at / PAGE_SIZE) };
            // SAFETY: The page is pinned, thus valid. It is unmapped below, in reverse order.
            let mapped = unsafe { bindings::kmap_local_page(page) };

            f(page, mapped.cast::<u8>().wrapping_add(in_page), piece);

            // SAFETY: `mapped` comes from `kmap_local_page()` and is the newest such mapping: `f`
            // leaves none behind, as no function here does.
            unsafe { bindings::kunmap_local(mapped) };
            at += piece;
        }
        Ok(())
    }
}

impl Drop for PinnedRun {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: We own the pins and are being dropped.
        unsafe { unpin(self.pfn, self.len, false) };
    }
}

/// Unpins pages.
///
/// # Safety
///
/// `len` is not zero. The caller owns a pin on each page and gives it up.
#[inline]
unsafe fn unpin(pfn: usize, len: usize, dirty: bool) {
    // What goes page by page is worth a shorter way.
    if len == 1 {
        // SAFETY: The page is pinned, thus exists, and stays in its folio.
        let folio = unsafe { bindings::page_folio(bindings::pfn_to_page(pfn)) };

        // SAFETY: The folio is valid, as its page is.
        if !dirty || unsafe { bindings::folio_test_dirty(folio) } {
            // SAFETY: The caller gives up one pin on the page, thus on the folio.
            unsafe { bindings::unpin_user_folio(folio, 1) };
            return;
        }
    }

    // The C function walks an array of `struct page`, which exists for a whole run only if the
    // memory map is linear.
    let most = if MEMMAP_IS_LINEAR { MOST_UNPINNED } else { 1 };
    let mut at = pfn;
    let mut left = len;

    while left > most {
        // SAFETY: The pages are pinned, thus exist; the caller gives up one pin on each.
        unsafe {
            bindings::unpin_user_page_range_dirty_lock(bindings::pfn_to_page(at), most, dirty)
        };
        at += most;
        left -= most;
    }
    // SAFETY: As above.
    unsafe { bindings::unpin_user_page_range_dirty_lock(bindings::pfn_to_page(at), left, dirty) };
}

/// A queue of pinned user pages, filled by GUP, drained as runs.
///
/// A small queue needs no memory but that on the stack. Pages that are still in it when it is
/// dropped are unpinned.
///
/// # Examples
///
/// ```
/// use kernel::mm::gup::{PinFlags, PinQueue, PinRoom};
///
/// /// Finds out how many pages of physically contiguous memory there are at `addr`.
/// fn contiguous_pages(addr: usize, most: usize) -> Result<usize> {
///     let mut room = PinRoom::<16>::new();
///     let mut queue = PinQueue::new(&mut room);
///     if most > queue.capacity() {
///         queue.reserve(most, GFP_KERNEL)?;
///     }
///
///     queue.pin_current(addr, most, PinFlags::READ)?;
///     Ok(queue.next_run().map_or(0, |run| run.len()))
/// }
///
/// // A kernel thread, which runs this example, has no memory to pin.
/// assert_eq!(contiguous_pages(0x1000, 1), Err(EFAULT));
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// `head <= tail <= slots.capacity()`, and the slots `head .. tail` are initialised with pages on
/// each of which we own a pin. They are followed by the pages of `more`.
pub struct PinQueue<'a> {
    slots: Slots<'a, bindings::page>,
    head: usize,
    tail: usize,
    more: Option<PinnedRun>,
}

// SAFETY: Pins belong to no thread, and the slots are ours.
unsafe impl Send for PinQueue<'_> {}
// SAFETY: There are no methods that change something through a shared reference.
unsafe impl Sync for PinQueue<'_> {}

impl<'a> PinQueue<'a> {
    /// Creates an empty queue.
    #[inline]
    pub fn new<const N: usize>(room: &'a mut PinRoom<N>) -> Self {
        // INVARIANT: There is no page.
        Self {
            slots: Slots::new(room),
            head: 0,
            tail: 0,
            more: None,
        }
    }

    /// Makes room for `pages` pages, in memory that is allocated for it.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there are pages in the queue, `ENOMEM`.
    pub fn reserve(&mut self, pages: usize, flags: Flags) -> Result {
        if !self.is_empty() {
            return Err(EBUSY);
        }
        self.slots.allocate(pages, flags)?;
        // INVARIANT: The queue is empty.
        self.head = 0;
        self.tail = 0;
        Ok(())
    }

    /// How many pages there is room for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// How many pages are in the queue.
    #[inline]
    pub fn len(&self) -> usize {
        self.tail - self.head + self.more.as_ref().map_or(0, |more| more.len)
    }

    /// Whether no page is in the queue.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail && self.more.is_none()
    }

    /// Prepares for GUP to fill the queue; returns how many pages to ask for.
    #[inline]
    fn begin(&self, pages: usize) -> Result<usize> {
        if !self.is_empty() {
            return Err(EBUSY);
        }
        // GUP counts in `int`.
        Ok(pages.min(self.capacity()).min(i32::MAX as usize))
    }

    /// Takes over what GUP filled in.
    ///
    /// # Safety
    ///
    /// The queue was empty, and if `ret` is positive, then the first `ret` slots hold valid pages
    /// with a pin for us on each.
    #[inline]
    unsafe fn finish(&mut self, ret: isize) -> Result<usize> {
        // INVARIANT: No page is in an empty queue.
        self.head = 0;
        self.tail = 0;
        if ret < 0 {
            // CAST: An errno fits.
            to_result(ret as c_int)?;
        }
        // INVARIANT: By the contract of this function.
        self.tail = ret as usize;
        Ok(self.tail)
    }

    /// Pins up to `pages` pages of the current task's memory from `addr` on.
    ///
    /// Returns how many pages are in the queue now: at most what there is room for, and fewer than
    /// asked for if memory further on cannot be pinned.
    ///
    /// # Errors
    ///
    /// `EFAULT` if there is no such memory or a kernel thread asks, `EBUSY` if the queue is not
    /// empty, and what GUP says else.
    #[inline(always)]
    pub fn pin_current(&mut self, addr: usize, pages: usize, flags: PinFlags) -> Result<usize> {
        let n = self.begin(pages)?;
        if n == 0 {
            return Ok(0);
        }
        // GUP takes for granted that there is memory.
        if current!().mm().is_none() {
            return Err(EFAULT);
        }

        // SAFETY: The slots have room for `n` pages, and any address is fine.
        // CAST: `begin()` limits `n`.
        let ret = unsafe {
            bindings::pin_user_pages_fast(addr, n as c_int, flags.0, self.slots.as_ptr())
        };
        // SAFETY: The queue was empty and GUP filled in and pinned `ret` pages.
        unsafe { self.finish(ret as isize) }
    }

    /// As [`Self::pin_current`], for the memory of another process.
    ///
    /// Takes `mm`'s lock if it is not taken; on return it may be taken or not.
    pub fn pin_remote(
        &mut self,
        mm: &mut RemoteMm<'_>,
        addr: usize,
        pages: usize,
        flags: PinFlags,
    ) -> Result<usize> {
        let n = self.begin(pages)?;
        if n == 0 {
            return Ok(0);
        }

        // SAFETY: The slots have room for `n` pages.
        let ret = unsafe { mm.pin(addr, n, flags, self.slots.as_ptr()) };
        // SAFETY: The queue was empty and GUP filled in and pinned `ret` pages.
        unsafe { self.finish(ret) }
    }

    /// If the last page in the queue is in a folio of hugetlbfs, pins those that follow it in the
    /// folio, at most `most` of them. Returns how many, and zero for other memory.
    ///
    /// Folios of hugetlbfs are always mapped as a whole, so that these are the pages that follow it
    /// in the process, too. This is far cheaper than to find that out for each page.
    pub fn extend_hugetlb(&mut self, most: usize) -> usize {
        if self.head == self.tail || self.more.is_some() || most == 0 {
            return 0;
        }

        // SAFETY: By the type invariant the slot has a valid page.
        let page = unsafe { *self.slots.as_ptr().add(self.tail - 1) };
        // SAFETY: The page is pinned, so that it stays in its folio.
        let folio = unsafe { bindings::page_folio(page) };
        // SAFETY: The folio is valid, as its page is.
        if !unsafe { bindings::folio_test_hugetlb(folio) } {
            return 0;
        }

        // SAFETY: The folio and the page are valid, and one is in the other.
        let (pfn, end) = unsafe {
            (
                bindings::page_to_pfn(page) + 1,
                bindings::folio_pfn(folio) + bindings::folio_nr_pages(folio),
            )
        };
        let len = most.min(end - pfn);
        // SAFETY: The folio is pinned. If there is no page, there is nothing to add.
        // CAST: A folio has less than 2^32 pages.
        if len == 0 || unsafe { bindings::folio_add_pins(folio, len as c_uint) } != 0 {
            return 0;
        }
        // INVARIANT: `len` pins were added to the folio, for as many pages of it.
        self.more = Some(PinnedRun { pfn, len });
        len
    }

    /// Takes the longest run from the front.
    ///
    /// Returns [`None`] if the queue is empty.
    #[inline(always)]
    pub fn next_run(&mut self) -> Option<PinnedRun> {
        if self.tail - self.head < 2 {
            return self.next_long_run();
        }

        // SAFETY: By the type invariant these slots are initialised.
        let (first, second) = unsafe {
            let slots = self.slots.as_ptr().add(self.head);
            (*slots, *slots.add(1))
        };
        if follows(first, 1, second) {
            return self.next_long_run();
        }
        // Where memory is scattered, this is done for each page.
        // INVARIANT: The pin moves from the queue to the run.
        self.head += 1;
        Some(PinnedRun {
            // SAFETY: The page is valid as it is pinned.
            pfn: unsafe { bindings::page_to_pfn(first) },
            len: 1,
        })
    }

    /// As [`Self::next_run`], which has the shortest way.
    #[inline(never)]
    fn next_long_run(&mut self) -> Option<PinnedRun> {
        let Some((pfn, len)) = self.run_at(0) else {
            return self.more.take();
        };

        // INVARIANT: The pins move from the queue to the run.
        self.head += len;
        let mut run = PinnedRun { pfn, len };

        if self.head == self.tail {
            if let Some(Err(more)) = self.more.take().map(|more| run.try_append(more)) {
                // Not reached: they follow each other.
                self.more = Some(more);
            }
        }
        Some(run)
    }

    /// The longest run behind the first `skip` pages of the array, as `(pfn, len)`. [`None`] if
    /// there is no such page.
    #[inline(always)]
    fn run_at(&self, skip: usize) -> Option<(usize, usize)> {
        // SAFETY: By the type invariant these slots are initialised.
        let queued = unsafe {
            core::slice::from_raw_parts(
                self.slots.as_ptr().add(self.head).cast_const(),
                self.tail - self.head,
            )
        };
        let queued = queued.get(skip..)?;
        let first = *queued.first()?;

        // Pages are mostly either contiguous over a long stretch or not at all.
        let mut len = 1;
        if queued.len() > 1 && follows(first, 1, queued[1]) {
            len = 2;
            // The count is fixed, so that the loop is unrolled: three instructions for each page.
            for some in queued[2..].chunks_exact(SCAN) {
                let mut at = 0;
                while at < SCAN && follows(first, len + at, some[at]) {
                    at += 1;
                }
                if at < SCAN {
                    break;
                }
                len += SCAN;
            }
            while len < queued.len() && follows(first, len, queued[len]) {
                len += 1;
            }
        }
        // SAFETY: The page is valid as it is pinned.
        Some((unsafe { bindings::page_to_pfn(first) }, len))
    }

    /// All pages in the queue, which stay there, as `(pfn, len)`, if they are one run.
    #[inline]
    pub fn only_run(&self) -> Option<(usize, usize)> {
        // Without an iterator: for a single page, all of this is a few instructions.
        let Some((pfn, len)) = self.run_at(0) else {
            return self.more.as_ref().map(|more| (more.pfn, more.len));
        };

        if len != self.tail - self.head {
            return None;
        }
        match &self.more {
            None => Some((pfn, len)),
            Some(more) if more.pfn == pfn + len => Some((pfn, len + more.len)),
            Some(_) => None,
        }
    }

    /// The runs of the pages in the queue, which stay there, each as `(pfn, len)`.
    #[inline]
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let queued = self.tail - self.head;
        let mut skip = 0;
        let mut more = self.more.as_ref().map(|more| (more.pfn, more.len));

        core::iter::from_fn(move || {
            let Some((pfn, len)) = self.run_at(skip) else {
                return more.take();
            };

            skip += len;
            // A folio that was pinned as a whole goes on behind its first page.
            let rest = match more {
                Some((next, rest)) if skip == queued && next == pfn + len => rest,
                _ => return Some((pfn, len)),
            };

            more = None;
            Some((pfn, len + rest))
        })
    }

    /// Empties the queue and gives up the ownership of its pins, as [`PinnedRun::into_raw`] does:
    /// they are recorded elsewhere.
    #[inline]
    pub fn forget(&mut self) {
        // INVARIANT: No page is left.
        self.head = self.tail;
        core::mem::forget(self.more.take());
    }

    /// Unpins all that is in the queue.
    pub fn clear(&mut self) {
        let len = self.tail - self.head;
        if len != 0 {
            let slots = self.slots.as_ptr().wrapping_add(self.head);
            // SAFETY: By the type invariant these are pages with pins of ours.
            unsafe { bindings::unpin_user_pages(slots, len) };
        }
        // INVARIANT: No page is left.
        self.head = self.tail;
        self.more = None;
    }
}

/// Whether `page` is the `n`th page after `first` in physical memory.
#[inline]
fn follows(first: *mut bindings::page, n: usize, page: *mut bindings::page) -> bool {
    // This is the whole cost of a page of contiguous memory: no call, no division.
    page == first.wrapping_add(n)
        && (MEMMAP_IS_LINEAR
            // SAFETY: Both are valid pages.
            || unsafe { bindings::page_to_pfn(page) == bindings::page_to_pfn(first) + n })
}

impl Drop for PinQueue<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.clear();
        }
    }
}
