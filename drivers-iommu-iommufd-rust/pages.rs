// SPDX-License-Identifier: GPL-2.0

//! Pinning of pages, and storage of their PFNs.
//!
//! [`Pages`] is a linear array of pages, created by one map command. A page is identified by its
//! *index*. The first and the last page may belong to the array in part only. Areas of any number
//! of IO page tables map slices of it, at byte granularity, and in-kernel accesses use ranges of
//! it.
//!
//! A page is pinned, and charged, once, while at least one *holder* holds its index. Its PFN is
//! found, in this order, in
//!
//! 1. an in-kernel access that holds it ([`cpu_access`]), which stores it in memory;
//! 2. the storage domain of an area ([`domain`]): in its page table, and mostly in memory, too;
//! 3. the source ([`source`]), where it has to be pinned first.
//!
//! [`tiers`] has the holders, [`record`] the storage domains among them. [`reader`] finds PFNs,
//! [`fill`] and [`drain`] move them into domains and out of them. [`account`] charges them, [`run`]
//! has the arithmetic. Memory of devices is handled separately, see [`dmabuf`] and [`bar`].
//!
//! Releasing pages never fails: its allocations are made in advance, or are optional.
//!
//! PFNs always move as runs of contiguous pages. `last` is inclusive. An index plus one does not
//! overflow, unlike an IOVA plus one.
//!
//! Locks: the mutex of the pages protects everything that changes about them. It is taken inside of
//! `domains_rwsem` and `iova_rwsem`, and outside of the `mmap` lock; for reservation locks see
//! [`dmabuf`]. No two of these mutexes are held at the same time.
#![forbid(unsafe_code)]

mod account;
mod bar;
mod cpu_access;
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
    account::Handover,
    bar::{
        divide,
        Part, //
    },
    cpu_access::{
        RwBuf,
        RwFlags, //
    },
    domain::{
        AreaPages,
        SpareSlot, //
    },
    source::{
        PinBuffer,
        PinnedBatch,
        BATCH_PAGES, //
    }, //
};

use self::{
    account::{
        mode_for_current,
        Account, //
    },
    dmabuf::Kind,
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

/// A linear array of pages that can be mapped in IO page tables.
#[pin_data]
pub(crate) struct Pages {
    source: Source,
    npages: usize,
    /// Set if devices may write to the pages.
    writable: bool,
    #[pin]
    inner: Mutex<Inner>,
}

/// The fields of [`Pages`] that change.
struct Inner {
    tiers: Tiers,
    account: Account,
}

// Most areas have pages of their own: the pages have to fit into 256 bytes.
#[cfg(CONFIG_64BIT)]
static_assert!(size_of::<Inner>() <= 168 && size_of::<Source>() <= 24);

/// Pages that no area maps yet.
///
/// The record of the first area is embedded in them, see [`AreaPages::first`].
pub(crate) struct NewPages(Arc<Pages>);

impl core::ops::Deref for NewPages {
    type Target = Pages;

    #[inline]
    fn deref(&self) -> &Pages {
        &self.0
    }
}

/// Returns the number of pages of the `len` bytes from `start_byte` (less than a page) on.
fn page_count(start_byte: usize, len: usize) -> Result<usize> {
    if len == 0 || len > usize::MAX - PAGE_SIZE {
        return Err(EINVAL);
    }
    // Does not overflow, by the check above.
    Ok((start_byte + len).div_ceil(PAGE_SIZE))
}

impl Pages {
    /// Creates pages of the `len` bytes from `start_byte` (less than a page) on.
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

    /// Creates pages of memory of the current process. Also returns the byte in them at which the
    /// `len` bytes at `uptr` begin.
    ///
    /// Nothing is pinned yet; memory that does not exist is noticed when it is pinned.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` if `uptr` plus `len` overflows, `EINVAL` if `len` is zero,
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

    /// Creates pages of the `len` bytes from byte `start` of a file on. Also returns the byte in
    /// them at which these begin. The file is a dma-buf or a memory file.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is zero or a dma-buf has fewer bytes, `EOVERFLOW` if the end overflows,
    /// `EBADF` if there is no file, `EINVAL` if it is of another kind, `ENOMEM`, and what the
    /// exporter of a dma-buf returns. A memory file that is too short is noticed when it is pinned.
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
            let pages = Self::from_dmabuf(Kind::File, buf, start, len, writable)?;
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

    /// Fast path: pins all pages of `range`, which have no holders, before any lock is taken.
    /// Returns whether it has done so; if not, use [`AreaPages::fill`].
    ///
    /// # Errors
    ///
    /// As pinning them later.
    #[inline]
    pub(crate) fn pin_batch(&self, range: PageRange, batch: &mut PinnedBatch<'_>) -> Result<bool> {
        batch.pin(&self.source, range)
    }

    /// Returns the number of pages.
    pub(crate) fn npages(&self) -> usize {
        self.npages
    }

    /// Returns whether devices may write to the pages.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Returns whether these are pages of a memory file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Source::File { .. })
    }

    /// Returns whether these are memory of a device.
    pub(crate) fn is_dmabuf(&self) -> bool {
        matches!(self.source, Source::DmaBuf { .. })
    }

    /// Returns whether areas of the pages can be split.
    pub(crate) fn can_split(&self) -> bool {
        match &self.source {
            Source::User { .. } | Source::File { .. } => true,
            Source::DmaBuf { memory, .. } => memory.can_split(),
        }
    }

    /// Returns the address of a byte in its process or file. An IOVA with the same alignment lets a
    /// domain use large pages where the memory has them.
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
    /// Unpins the pages of a run, beginning at `index`, that have no holder.
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

    /// Unpins the pages of a list that have no holder.
    ///
    /// Looks up holders once per span of indexes, not per run.
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
        // Holders have a reference to the pages, so there are none.
        warn_on!(!self.tiers.is_empty());
        warn_on!(!self.account.is_empty());
    }
}
