// SPDX-License-Identifier: GPL-2.0

//! The storage and the motion of PFNs.
//!
//! [`Pages`] are a linear array of pages, that were mapped by one call of user space. An *index*
//! names one of them. The array begins at the page that has the first byte; the first and the last
//! page may belong to it in part only. Areas of any number of IO page tables show slices of it, at
//! byte granularity, and in-kernel accesses use ranges of it.
//!
//! A page is pinned while somebody holds its index, once, whatever the number of holders is, and
//! charged to the process that pays once. The PFN of an index is found, in this order, with
//!
//! 1. an in-kernel access that holds it ([`access`]), in memory;
//! 2. a domain in which an area is mapped ([`domain`]): in its page table, and mostly in memory
//!    too;
//! 3. the source ([`source`]), where it has to be pinned first.
//!
//! [`tiers`] knows the holders, [`record`] names the domains among them, [`reader`] finds PFNs,
//! [`fill`] and [`drain`] move them in and out of domains, [`account`] pays, [`run`] has the
//! arithmetic. Memory of devices goes its own way, see [`dmabuf`].
//!
//! One principle: giving back never fails. What could need memory to be given back has it from the
//! start, or does without.
//!
//! PFNs always move as runs of contiguous pages. `last` is inclusive. An index is far less than
//! `usize::MAX`, so that an index plus one is a number; an IOVA is not.
//!
//! Locks: the mutex of the pages protects everything that changes about them. It is taken inside of
//! `domains_rwsem` and `iova_rwsem`, and outside of the `mmap` lock; [`dmabuf`] tells how it is
//! with reservation locks. No two of these mutexes are held at the same time.
#![forbid(unsafe_code)]

mod access;
mod account;
mod dmabuf;
mod domain;
mod drain;
mod fill;
mod reader;
mod record;
pub(crate) mod run;
mod source;
mod tiers;

pub(crate) use self::{
    access::{
        RwBuf,
        RwFlags, //
    },
    account::Handover,
    domain::{
        AreaPages,
        SpareSlot, //
    },
    source::{
        Few,
        Room,
        FEW, //
    }, //
};

use self::{
    account::{
        mode_for_current,
        Account, //
    },
    run::{
        Run,
        RunList, //
    },
    source::Source,
    tiers::Tiers, //
};
use crate::{
    range::PageRange,
    sys::{
        dmabuf::DmaBuf,
        pin,
        task::AccountMode, //
    }, //
};
use core::mem::size_of;
use kernel::{
    mm::account::Process,
    new_mutex,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        Arc,
        Mutex,
        MutexGuard, //
    },
    warn_on, //
};

/// A linear array of pages that can be shown in IO page tables.
#[pin_data]
pub(crate) struct Pages {
    source: Source,
    npages: usize,
    /// Whether devices may write to the pages.
    writable: bool,
    #[pin]
    inner: Mutex<Inner>,
}

/// What changes about pages.
struct Inner {
    tiers: Tiers,
    account: Account,
}

// Most areas have pages of their own: these are to fit into 256 bytes.
#[cfg(CONFIG_64BIT)]
static_assert!(size_of::<Inner>() <= 168 && size_of::<Source>() <= 24);

/// Pages that no area shows yet.
///
/// The record of the first area that does has a place in them, see [`AreaPages::first`].
pub(crate) struct NewPages(Arc<Pages>);

impl core::ops::Deref for NewPages {
    type Target = Pages;

    #[inline]
    fn deref(&self) -> &Pages {
        &self.0
    }
}

/// How many pages have the `len` bytes from `start_byte` (less than a page) on.
fn page_count(start_byte: usize, len: usize) -> Result<usize> {
    if len == 0 || len > usize::MAX - PAGE_SIZE {
        return Err(EINVAL);
    }
    // Does not overflow, by the check above.
    Ok((start_byte + len).div_ceil(PAGE_SIZE))
}

impl Pages {
    /// Makes pages of the `len` bytes from `start_byte` (less than a page) on.
    fn new(
        source: Source,
        start_byte: usize,
        len: usize,
        writable: bool,
        mode: AccountMode,
        owner: Process,
    ) -> Result<Arc<Self>> {
        let inner = Inner {
            tiers: Tiers::new(),
            account: Account::new(mode, owner),
        };
        let pages = pin_init!(Self {
            source,
            npages: page_count(start_byte, len)?,
            writable,
            inner <- new_mutex!(inner, "iommufd_pages"),
        }? Error);

        Arc::pin_init(pages, GFP_KERNEL_ACCOUNT)
    }

    /// Makes pages of memory of the current process, and tells which byte of them is the first of
    /// the `len` bytes at `uptr`.
    ///
    /// Nothing is pinned yet, and whether there is memory will be seen then.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` if the address space ends before the memory does, `EINVAL` if `len` is zero,
    /// `ENOMEM`.
    pub(crate) fn from_user(
        uptr: usize,
        len: usize,
        writable: bool,
        mode: AccountMode,
    ) -> Result<(NewPages, usize)> {
        uptr.checked_add(len).ok_or(EOVERFLOW)?;

        let owner = Process::current()?;
        let source = Source::User {
            mm: owner.mm().clone(),
            start: uptr & PAGE_MASK,
            writable,
        };
        let start_byte = uptr % PAGE_SIZE;
        let mode = mode_for_current(mode);
        let pages = Self::new(source, start_byte, len, writable, mode, owner)?;
        Ok((NewPages(pages), start_byte))
    }

    /// Makes pages of the `len` bytes from byte `start` of a file on, and tells which byte of them
    /// is the first of these. The file is a dma-buf or a memory file.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is zero or a dma-buf has fewer bytes, `EOVERFLOW` if no file can have so
    /// many, `EBADF` if there is no file, `EINVAL` if it is of another kind, `ENOMEM`, and what the
    /// exporter of a dma-buf says. Whether a memory file has so many bytes will be seen when it is
    /// pinned.
    pub(crate) fn from_fd(
        fd: i32,
        start: usize,
        len: usize,
        writable: bool,
        mode: AccountMode,
    ) -> Result<(NewPages, usize)> {
        start
            .checked_add(len.checked_sub(1).ok_or(EINVAL)?)
            .ok_or(EOVERFLOW)?;
        let start_byte = start % PAGE_SIZE;

        if let Ok(buf) = DmaBuf::get(fd) {
            let pages = Self::from_dmabuf(buf, start, len, writable)?;
            return Ok((NewPages(pages), start_byte));
        }

        let source = Source::File {
            file: pin::memory_file(fd)?,
            start: start & PAGE_MASK,
        };
        let mode = mode_for_current(mode);
        let pages = Self::new(source, start_byte, len, writable, mode, Process::current()?)?;
        Ok((NewPages(pages), start_byte))
    }

    /// Pins all pages of `range`, of pages that nobody holds, if they are few, before it is known
    /// what becomes of them. Tells whether that is done; if not, there is nothing wrong, and
    /// [`Self::fill`] will do it.
    ///
    /// # Errors
    ///
    /// Those that pinning them later would have.
    #[inline]
    pub(crate) fn pin_few(&self, range: PageRange, few: &mut Few<'_>) -> Result<bool> {
        few.pin(&self.source, range)
    }

    /// The number of pages.
    pub(crate) fn npages(&self) -> usize {
        self.npages
    }

    /// Whether devices may be allowed to write to the pages.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Whether the pages are those of a memory file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Source::File { .. })
    }

    /// Whether the pages are memory of a device.
    pub(crate) fn is_dmabuf(&self) -> bool {
        matches!(self.source, Source::DmaBuf { .. })
    }

    /// The address of a byte: in the process or in the file. Large pages of the memory are aligned
    /// in it, so that an IOVA that is aligned alike allows for large pages in a domain.
    pub(crate) fn address(&self, start_byte: usize) -> usize {
        let start = match self.source {
            Source::User { start, .. } => start,
            Source::File { start, .. } => start,
            Source::DmaBuf { start, .. } => start,
        };

        start.wrapping_add(start_byte)
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    /// Unpins those pages of a run, the first of which is `index`, that nobody holds.
    #[inline]
    pub(super) fn unpin_unheld(&mut self, writable: bool, index: usize, run: Run) {
        if self.tiers.is_empty() {
            pin::unpin(run, writable);
            self.account.unpinned(run.len);
            return;
        }

        let Self { tiers, account, .. } = self;
        let range = PageRange {
            first: index,
            last: index + run.len - 1,
        };
        tiers.for_each_unheld(range, |unheld| {
            pin::unpin(run.part(unheld.first - index, unheld.len()), writable);
            account.unpinned(unheld.len());
        });
    }

    /// Unpins those pages of a list that nobody holds.
    ///
    /// Asks who holds them once for each span of indexes that has the same holders, not for each
    /// run.
    fn unpin_list(&mut self, writable: bool, list: &RunList) {
        let Self { tiers, account, .. } = self;

        if tiers.is_empty() {
            list.for_each(|run| pin::unpin(run, writable));
            account.unpinned(list.len());
            return;
        }
        let Some(range) = list.range() else {
            return;
        };
        tiers.for_each_unheld(range, |unheld| {
            for (_, run) in list.iter_range(unheld) {
                pin::unpin(run, writable);
            }
            account.unpinned(unheld.len());
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Whoever holds pages has a reference to them.
        warn_on!(!self.tiers.is_empty());
        warn_on!(!self.account.is_empty());
    }
}
