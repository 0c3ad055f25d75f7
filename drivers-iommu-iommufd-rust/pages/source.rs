// SPDX-License-Identifier: GPL-2.0

//! Where PFNs come from.
//!
//! Actors: a [`Source`] is what was mapped: user memory, a memory file or a dma-buf. It is mostly
//! [read](super::reader) under the mutex of the pages. [`Few`] pages of the current process are
//! pinned by one call instead, before that mutex is taken and before it is known what becomes of
//! them.
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

/// What was mapped. Everything in the pages room that depends on it matches all of these.
pub(super) enum Source {
    /// Memory of a process.
    User {
        /// The process.
        mm: ARef<Mm>,
        /// Where the first page is, a multiple of the page size.
        start: usize,
        /// Whether the pages may be written to.
        writable: bool,
    },
    /// A memory file. Its pages can always be written to.
    File {
        /// The file.
        file: ARef<File>,
        /// Which byte of it the first page begins with, a multiple of the page size.
        start: usize,
    },
    /// Memory of a device, that its exporter can revoke. It is not pinned, and no CPU touches it.
    DmaBuf {
        /// Where it is, and where it is mapped, attached to the buffer.
        memory: Pin<KBox<Import<Memory>>>,
        /// Which byte of it the first page begins with, a multiple of the page size.
        start: usize,
    },
}

/// Memory for pages that were taken from the source: so many need no allocation.
const ROOM: usize = 32;

/// So many pages are [few](Few).
pub(crate) const FEW: usize = 512;

/// Ranges of this size may be huge pages: 2 MiB.
pub(super) const HUGETLB_PAGES: usize = (2 << 20) / PAGE_SIZE;

/// Memory on the stack for a [`Reader`](super::reader::Reader), or [`Few`] pages.
pub(crate) struct Room {
    pub(super) pages: PinRoom<ROOM>,
    /// The process that pages are pinned from, if it is not the current one.
    pub(super) mm: Option<ARef<MmWithUser>>,
}

impl Room {
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
pub(crate) struct Few<'a>(PinQueue<'a>);

impl<'a> Few<'a> {
    /// No pages.
    #[inline]
    pub(crate) fn new(room: &'a mut Room) -> Self {
        Self(PinQueue::new(&mut room.pages))
    }

    /// Pins all pages of `range`, and tells whether that is done. It is not if this is not memory
    /// of the current process, or they are more than there is room for, or only some of them could
    /// be pinned.
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
        if pages > FEW || !is_current(mm) {
            return Ok(false);
        }

        let queue = &mut self.0;
        // The same places to fail as a reader has.
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

    /// The PFNs, if they are one run.
    #[inline]
    pub(super) fn only_run(&self) -> Option<Run> {
        self.0.only_run().map(|(pfn, len)| Run { pfn, len })
    }

    /// The PFNs, as runs that are as long as possible.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.0.runs().map(|(pfn, len)| Run { pfn, len })
    }

    /// Declares that the pins are stored.
    #[inline]
    fn store(&mut self) {
        self.0.forget();
    }

    /// Unpins the pages. If they are `writable`, a device may have written to them.
    fn unpin(&mut self, writable: bool) {
        while let Some(run) = self.0.next_run() {
            if writable {
                run.unpin_dirty();
            }
        }
    }
}

impl Inner {
    /// Ends what was done with few pages, which nobody held and which were counted as pinned: if it
    /// went well, their pins are stored now, else they are unpinned and paid for no more.
    #[inline]
    pub(super) fn end_few<T>(
        &mut self,
        few: &mut Few<'_>,
        pages: usize,
        writable: bool,
        result: Result<T>,
    ) -> Result<T> {
        if result.is_ok() {
            few.store();
        } else {
            few.unpin(writable);
            self.account.unpinned(pages);
            self.account.settle_less(None);
        }
        result
    }
}

/// Whether this is the memory of the current task, for which there is a faster way to pin it.
#[inline]
pub(super) fn is_current(mm: &Mm) -> bool {
    current!().mm().is_some_and(|own| core::ptr::eq(&**own, mm))
}

/// How many of the `pages` pages at `addr` to pin at first, if they may be a huge page of
/// hugetlbfs, whose first page is enough to pin all of it.
///
/// That is all of them where the address space ends before they do: GUP sees to that before
/// anything else, and returns `EOVERFLOW`.
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

/// How to pin user memory.
#[inline]
pub(super) fn pin_flags(writable: bool) -> PinFlags {
    if writable {
        PinFlags::LONGTERM.with(PinFlags::WRITE)
    } else {
        PinFlags::LONGTERM
    }
}

/// Gives `reserve` as much temporary memory for `count` pointers as there is, within limits. Little
/// memory makes things slow, not impossible.
#[inline]
pub(super) fn reserve_temporary(
    count: usize,
    mut reserve: impl FnMut(usize, Flags) -> Result,
) -> Result {
    const POINTER: usize = size_of::<*const ()>();

    if should_fail() {
        return Err(ENOMEM);
    }
    // Tests of error paths want to see the allocation, and to limit it.
    if count <= ROOM && !cfg!(CONFIG_IOMMUFD_TEST) {
        return Ok(());
    }

    let most = count.min((memory_limit() / POINTER).max(1));
    let least = most.min(PAGE_SIZE / POINTER);
    if most > least && reserve(most, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN).is_ok() {
        return Ok(());
    }
    reserve(least, GFP_KERNEL)
}
