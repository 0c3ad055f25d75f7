// SPDX-License-Identifier: GPL-2.0

//! Mapping pages in domains.
//!
//! Actors: a [`Mapper`] maps the runs of an area one after the other, in all of its domains. They
//! come from a [`Reader`], under the mutex of the pages, by way of a [`Joiner`] that makes them as
//! long as they get. For few pages this costs more than the pages: a [`PinnedBatch`] is pinned
//! by one call, before any lock of the areas is taken, and mapped by [`Inner::map_batch`]. A
//! [`Collector`] keeps the runs for the record of the area, as long as they are worth their memory.
//!
//! A run is mapped as a whole, so that the domain can use large pages. Hence an unmap of a part of
//! an area has to end where a run ends: it would take all of a large page. What is mapped by
//! several calls is synced by one.
//!
//! Locks: see [`super::domain`].
#![forbid(unsafe_code)]

use super::{
    reader::{
        Reader,
        Sink, //
    },
    record::gfp_optional,
    run::{
        Run,
        RunList, //
    },
    source::{
        PinBuffer,
        PinnedBatch,
        Source, //
    },
    Inner, //
};
use crate::{
    mapping::{
        Mapping,
        Prot, //
    },
    range::{
        IovaRange,
        PageRange, //
    },
    sys::domain::PagingDomain, //
};
use kernel::{
    io::PhysAddr,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};

/// Collects the runs of a new record, until they are too many to be worth their memory.
struct Collector(Option<RunList>);

impl Collector {
    /// The runs of so many pages are always kept, and so are so many runs (256 bytes).
    const FEW_PAGES: usize = 64;
    const FEW: usize = 16;
    /// More runs are kept if they have so many pages on average: then they take an eighth of the
    /// page table's memory if that has small pages, or a quarter while the list has room to grow.
    const PAGES_PER_RUN: usize = 16;
    /// More runs than this are never kept: those behind the first fill a list that has grown by
    /// doubling from 15 (960 KiB).
    const MOST: usize = 1 + (15 << 12);

    #[inline]
    fn new(first: usize) -> Self {
        Self(Some(RunList::new(first)))
    }

    #[inline]
    fn push(&mut self, run: Run) {
        if self.0.is_some() {
            self.push_or_stop(run);
        }
    }

    fn push_or_stop(&mut self, run: Run) {
        let Some(list) = &mut self.0 else {
            return;
        };
        let runs = list.run_count();
        let keep = runs < Self::FEW
            || list.len() < Self::FEW_PAGES
            || (runs < Self::MOST && list.len() / runs >= Self::PAGES_PER_RUN);

        if !keep || list.push(run, gfp_optional()).is_err() {
            self.0 = None;
        }
    }
}

/// Maps contiguous memory in one domain, which is to be synced.
///
/// With `small`, no page larger than `PAGE_SIZE` is used, so that the area can be split later.
#[inline]
fn map_in(
    domain: &PagingDomain,
    iova: IovaRange,
    paddr: PhysAddr,
    prot: Prot,
    small: bool,
) -> Result {
    // No area has the whole space, so that it has a length.
    let len = iova.len().ok_or(EOVERFLOW)?;

    if !small {
        return domain.map_nosync(iova.start, paddr, len, prot);
    }
    map_small_in(domain, iova, len, paddr, prot)
}

fn map_small_in(
    domain: &PagingDomain,
    iova: IovaRange,
    len: usize,
    paddr: PhysAddr,
    prot: Prot,
) -> Result {
    // The alignment of such an IOAS is a page at least.
    for done in (0..len).step_by(PAGE_SIZE) {
        let piece = PAGE_SIZE.min(len - done);
        // CAST: What is mapped has addresses.
        let res = domain.map_nosync(iova.start + done, paddr + done as PhysAddr, piece, prot);

        if let Err(err) = res {
            if let Some(tail) = done.checked_sub(1) {
                domain.unmap(IovaRange {
                    start: iova.start,
                    last: iova.start + tail,
                });
            }
            return Err(err);
        }
    }
    Ok(())
}

/// Maps contiguous memory, whose first byte has the physical address `paddr`, in all domains, or in
/// none if one of them fails. They are to be [synced](sync_all).
fn map_in_all_nosync(
    domains: &[Arc<PagingDomain>],
    iova: IovaRange,
    paddr: PhysAddr,
    prot: Prot,
    small: bool,
) -> Result {
    for (n, domain) in domains.iter().enumerate() {
        if let Err(err) = map_in(domain, iova, paddr, prot, small) {
            unmap_from_all(domains.iter().take(n), iova);
            return Err(err);
        }
    }
    Ok(())
}

/// Makes sure that devices see what was mapped. On error it is to be unmapped.
#[inline]
fn sync_all(domains: &[Arc<PagingDomain>], iova: IovaRange) -> Result {
    domains.iter().try_for_each(|domain| domain.sync_map(iova))
}

/// As [`map_in_all_nosync`], but synced.
#[inline]
pub(super) fn map_in_all(
    domains: &[Arc<PagingDomain>],
    iova: IovaRange,
    paddr: PhysAddr,
    prot: Prot,
    small: bool,
) -> Result {
    map_in_all_nosync(domains, iova, paddr, prot, small)?;
    sync_all(domains, iova).inspect_err(|_| unmap_from_all(domains.iter(), iova))
}

/// Unmaps from all domains.
#[inline]
pub(super) fn unmap_from_all<'a>(
    domains: impl Iterator<Item = &'a Arc<PagingDomain>>,
    iova: IovaRange,
) {
    for domain in domains {
        domain.unmap(iova);
    }
}

/// Maps the runs of a mapping, in order.
///
/// Where memory is fragmented, this is done for each page.
struct Mapper<'a> {
    mapping: &'a Mapping,
    domains: &'a [Arc<PagingDomain>],
    small: bool,
    /// The only domain, if it may use large pages.
    only: Option<&'a PagingDomain>,
    /// How many bytes are not mapped,
    left: usize,
    /// the IOVA of the first of them, if there is one,
    iova: usize,
    /// and the number of bytes before it in its page.
    offset: usize,
}

impl<'a> Mapper<'a> {
    #[inline]
    fn new(mapping: &'a Mapping, domains: &'a [Arc<PagingDomain>], small: bool) -> Self {
        Self {
            mapping,
            domains,
            small,
            only: match domains {
                [domain] if !small => Some(domain),
                _ => None,
            },
            left: mapping.len(),
            iova: mapping.iova.start,
            offset: mapping.page_offset(),
        }
    }

    /// Maps the next run in all domains, or in none if one of them fails.
    #[inline(always)]
    fn map(&mut self, run: Run) -> Result {
        let (iova, prot) = (self.iova, self.mapping.prot);
        // CAST: Page frames have addresses.
        let paddr = ((run.pfn as PhysAddr) << PAGE_SHIFT) + self.offset as PhysAddr;
        // The last page may be shown in part only.
        let len = self.left.min(run.len * PAGE_SIZE - self.offset);

        if let Some(domain) = self.only {
            domain.map_nosync(iova, paddr, len, prot)?;
        } else {
            let range = IovaRange::from_len(iova, len)?;

            map_in_all_nosync(self.domains, range, paddr, prot, self.small)?;
        }
        // It wraps behind the last run at most, and is not used then.
        self.iova = iova.wrapping_add(len);
        self.left -= len;
        self.offset = 0;
        Ok(())
    }

    /// The index of the first page that is not mapped.
    fn index(&self) -> usize {
        match self.left {
            0 => self.mapping.pages().last + 1,
            _ => self.mapping.iova_to_index(self.iova),
        }
    }

    /// Ends the mapping. On error it is to be unmapped.
    #[inline]
    fn sync(&self) -> Result {
        sync_all(self.domains, self.mapping.iova)
    }

    /// What was mapped.
    fn mapped(&self) -> Option<PageRange> {
        PageRange::new(self.mapping.pages().first, self.index().checked_sub(1)?)
    }
}

/// Makes runs that are as long as they get of those that are read, and maps them.
struct Joiner<'a> {
    mapper: Mapper<'a>,
    collector: Collector,
    /// What was read behind what is mapped, if `len` is not zero.
    pending: Run,
    /// What was read behind `pending`, after an error.
    stray: Option<Run>,
}

impl<'a> Joiner<'a> {
    #[inline]
    fn new(mapping: &'a Mapping, domains: &'a [Arc<PagingDomain>], small: bool) -> Self {
        Self {
            mapper: Mapper::new(mapping, domains, small),
            collector: Collector::new(mapping.pages().first),
            // Nothing continues this.
            pending: Run {
                pfn: usize::MAX,
                len: 0,
            },
            stray: None,
        }
    }

    /// Maps what is pending.
    #[inline(always)]
    fn flush(&mut self) -> Result {
        if self.pending.len != 0 {
            self.mapper.map(self.pending)?;
            self.collector.push(self.pending);
            self.pending.len = 0;
        }
        Ok(())
    }
}

impl Sink for Joiner<'_> {
    #[inline(always)]
    fn push(&mut self, run: Run) -> Result {
        if self.pending.try_append(run) {
            return Ok(());
        }
        self.flush().inspect_err(|_| self.stray = Some(run))?;
        self.pending = run;
        Ok(())
    }
}

impl Inner {
    /// Reads the PFNs of a mapping and maps them in all domains, or in none if something fails.
    /// Returns the PFNs, if they are few runs.
    pub(super) fn map_pages(
        &mut self,
        source: &Source,
        writable: bool,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result<Option<RunList>> {
        let mut buffer = PinBuffer::new();
        let mut reader = Reader::new(source, mapping.pages(), &mut buffer)?;
        let mut joiner = Joiner::new(mapping, domains, small);

        let res = reader
            .read_to(self, &mut joiner)
            .and_then(|()| joiner.flush())
            .and_then(|()| joiner.mapper.sync())
            .and_then(|()| reader.settle(self));

        reader.finish(self);
        let Joiner {
            mapper,
            collector,
            pending,
            stray,
        } = joiner;
        let Err(err) = res else {
            return Ok(collector.0);
        };

        // What was read but not mapped goes the same way.
        if pending.len != 0 {
            self.unpin_unheld(writable, mapper.index(), pending);
        }
        if let Some(stray) = stray {
            self.unpin_unheld(writable, mapper.index() + pending.len, stray);
        }
        if let (Some((storage, others)), Some(range)) = (domains.split_first(), mapper.mapped()) {
            unmap_from_all(others.iter(), mapping.iova_of(range));
            self.drain(writable, mapping, range, storage, collector.0.as_ref());
        }
        self.account.settle_less(None);
        Err(err)
    }

    /// Maps pages that were pinned beforehand, which are all of a mapping, and nobody holds. On
    /// error nothing is mapped. Returns the PFNs, if they are few runs.
    #[inline]
    pub(super) fn map_batch(
        &mut self,
        batch: &mut PinnedBatch<'_>,
        writable: bool,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result<Option<RunList>> {
        let mut mapper = Mapper::new(mapping, domains, small);
        let pages = mapping.pages().len();

        self.account.pinned(pages);
        let res = match batch.only_run() {
            Some(run) => mapper
                .map(run)
                .map(|()| Some(RunList::of(mapping.pages().first, run))),
            None => map_runs(batch, &mut mapper),
        };
        let res = res.and_then(|runs| {
            mapper.sync()?;
            self.account.settle(None)?;
            Ok(runs)
        });

        if res.is_err() {
            // Before they are unpinned.
            if let Some(range) = mapper.mapped() {
                unmap_from_all(domains.iter(), mapping.iova_of(range));
            }
        }
        self.end_batch(batch, pages, writable, res)
    }
}

/// Maps a few runs.
fn map_runs(batch: &PinnedBatch<'_>, mapper: &mut Mapper<'_>) -> Result<Option<RunList>> {
    let mut collector = Collector::new(mapper.mapping.pages().first);

    batch
        .runs()
        .try_for_each(|run| mapper.map(run).map(|()| collector.push(run)))?;
    Ok(collector.0)
}
