// SPDX-License-Identifier: GPL-2.0

//! The sources of PFNs.
//!
//! A [`Source`] is what was mapped: user memory, a memory file or a dma-buf. It is mostly
//! [read](super::reader) under the mutex of the pages. A [`PinnedBatch`], a few pages of the
//! current process, is pinned by one call instead, before any lock is taken.
//!
//! Locks: pinning takes the `mmap` lock of the source's process.
#![forbid(unsafe_code)]

use super::{
    dmabuf::Memory,
    run::Run,
    Inner, //
};
use crate::{
    range::PageRange,
    sys::{
        dmabuf::Import,
        test::{
            memory_limit,
            should_fail, //
        }, //
    }, //
};
use core::mem::size_of;
use kernel::{
    alloc::Flags,
    fs::File,
    mm::{
        gup::{
            PinFlags,
            PinQueue,
            PinRoom, //
        },
        Mm,
        MmWithUser, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

/// The source of an array of pages. Code that depends on it matches all variants.
pub(super) enum Source {
    /// Memory of a process.
    User {
        /// The process.
        mm: ARef<Mm>,
        /// The address of the first page.
        start: usize,
        /// Whether the pages may be written to.
        writable: bool,
    },
    /// A memory file. Its pages can always be written to.
    File {
        /// The file.
        file: ARef<File>,
        /// The offset of the first page.
        start: usize,
    },
    /// Memory of a device, which its exporter can revoke. Not pinned, not accessed by the CPU.
    DmaBuf {
        /// Its physical ranges and the places where they are mapped; it owns the attachment.
        memory: Pin<KBox<Import<Memory>>>,
        /// The offset of the first page.
        start: usize,
    },
}

/// The number of pages that can be pinned at a time without an allocation.
const BUFFER_PAGES: usize = 32;

/// The greatest number of pages of a [`PinnedBatch`].
pub(crate) const BATCH_PAGES: usize = 512;

/// The length of a range from which on it may consist of huge pages: 2 MiB.
pub(super) const HUGETLB_PAGES: usize = (2 << 20) / PAGE_SIZE;

/// A buffer on the stack for a [`Reader`](super::reader::Reader) or a [`PinnedBatch`].
pub(crate) struct PinBuffer {
    pub(super) pages: PinRoom<BUFFER_PAGES>,
    /// The process that pages are pinned from, if it is not the current one.
    pub(super) mm: Option<ARef<MmWithUser>>,
}

impl PinBuffer {
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            pages: PinRoom::new(),
            mm: None,
        }
    }
}

/// A few pages of the current process, pinned by one call.
///
/// Dropping them unpins them.
pub(crate) struct PinnedBatch<'a>(PinQueue<'a>);

impl<'a> PinnedBatch<'a> {
    /// Creates an empty batch.
    #[inline]
    pub(crate) fn new(buffer: &'a mut PinBuffer) -> Self {
        Self(PinQueue::new(&mut buffer.pages))
    }

    /// Pins all pages of `range`, or none. Returns whether it has done so. It has not if this is
    /// not memory of the current process, if there are too many pages, or if GUP pins only some of
    /// them.
    ///
    /// # Errors
    ///
    /// As [`Reader::read_to`](super::reader::Reader::read_to).
    #[inline(always)]
    pub(super) fn pin(&mut self, source: &Source, range: PageRange) -> Result<bool> {
        let Source::User {
            mm,
            start,
            writable,
        } = source
        else {
            return Ok(false);
        };
        let pages = range.len();
        if pages > BATCH_PAGES || !is_current(mm) {
            return Ok(false);
        }

        let queue = &mut self.0;
        // The same points of fault injection as in a reader.
        if should_fail() {
            return Err(ENOMEM);
        }
        reserve_temporary(pages, |n, gfp| queue.reserve(n, gfp))?;
        if should_fail() {
            return Err(EFAULT);
        }

        let addr = start.wrapping_add(range.first.wrapping_mul(PAGE_SIZE));
        let flags = pin_flags(*writable);
        if pages > queue.capacity() {
            return Ok(false);
        }
        let mut most = if pages < HUGETLB_PAGES {
            pages
        } else {
            first_try(addr, pages)
        };
        loop {
            let mut pinned = queue.pin_current(addr, most, flags)?;
            if most != pages {
                pinned += queue.extend_hugetlb(pages - most);
            }
            if pinned == pages {
                return Ok(true);
            }
            queue.clear();
            if most == pages {
                return Ok(false);
            }
            most = pages;
        }
    }

    /// Returns the PFNs, if they are one run.
    #[inline]
    pub(super) fn only_run(&self) -> Option<Run> {
        self.0.only_run().map(|(pfn, len)| Run { pfn, len })
    }

    /// Returns the PFNs, as runs that are as long as possible.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.0.runs().map(|(pfn, len)| Run { pfn, len })
    }

    /// Gives up the pins, which have been stored.
    #[inline]
    fn store(&mut self) {
        self.0.forget();
    }

    /// Unpins the pages, and marks them dirty if they are `writable`.
    fn unpin(&mut self, writable: bool) {
        while let Some(run) = self.0.next_run() {
            if writable {
                run.unpin_dirty();
            }
        }
    }
}

impl Inner {
    /// Ends an operation on a batch of pages that had no holder and were counted as pinned. On
    /// success their pins are stored, else they are unpinned and uncharged.
    #[inline]
    pub(super) fn end_batch<T>(
        &mut self,
        batch: &mut PinnedBatch<'_>,
        pages: usize,
        writable: bool,
        result: Result<T>,
    ) -> Result<T> {
        if result.is_ok() {
            batch.store();
        } else {
            batch.unpin(writable);
            self.account.unpinned(pages);
            self.account.settle_less(None);
        }
        result
    }
}

/// Returns whether this is the mm of the current task, whose memory can be pinned faster.
#[inline]
pub(super) fn is_current(mm: &Mm) -> bool {
    current!().mm().is_some_and(|own| core::ptr::eq(&**own, mm))
}

/// Returns how many of the `pages` pages at `addr` to pin first if they may be a huge page of
/// hugetlbfs: one, with which the folio is found.
///
/// If the end overflows, it is all of them, for which GUP returns `EOVERFLOW`.
#[inline]
pub(super) fn first_try(addr: usize, pages: usize) -> usize {
    match pages
        .checked_mul(PAGE_SIZE)
        .and_then(|len| addr.checked_add(len))
    {
        Some(_) => 1,
        None => pages,
    }
}

/// Returns the flags to pin user memory.
#[inline]
pub(super) fn pin_flags(writable: bool) -> PinFlags {
    if writable {
        PinFlags::LONGTERM.with(PinFlags::WRITE)
    } else {
        PinFlags::LONGTERM
    }
}

/// Calls `reserve` to allocate temporary memory for at most `count` pointers. With less memory
/// pinning takes more steps, but works.
#[inline]
pub(super) fn reserve_temporary(
    count: usize,
    mut reserve: impl FnMut(usize, Flags) -> Result,
) -> Result {
    const POINTER: usize = size_of::<*const ()>();

    if should_fail() {
        return Err(ENOMEM);
    }
    // In test builds always allocate, so that tests can limit it and make it fail.
    if count <= BUFFER_PAGES && !cfg!(CONFIG_IOMMUFD_TEST) {
        return Ok(());
    }

    let most = count.min((memory_limit() / POINTER).max(1));
    let least = most.min(PAGE_SIZE / POINTER);
    if most > least && reserve(most, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN).is_ok() {
        return Ok(());
    }
    reserve(least, GFP_KERNEL)
}
