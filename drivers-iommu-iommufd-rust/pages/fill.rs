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
//! an area has to end where a run ends: it would take all of a large page. Runs are mapped many by
//! one call, which maps all of them or none. What is mapped by several calls is synced by one.
//!
//! Locks: see [`super::domain`].
#![forbid(unsafe_code)]

use super::{
    reader::{
        Reader,
        Sink, //
    },
    record::{
        gfp_optional,
        pfns_of, //
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
    sys::domain::{
        PagingDomain,
        RunQueue, //
    }, //
};
use kernel::{
    io::PhysAddr,
    iommu::domain::PhysRun,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc,
    warn_on, //
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

/// Maps contiguous memory, which is all of a mapping, in all domains, or in none if one of them
/// fails. They are to be [synced](sync_all).
#[inline]
fn map_only(mapping: &Mapping, domains: &[Arc<PagingDomain>], run: Run, small: bool) -> Result {
    let (iova, prot) = (mapping.iova, mapping.prot);
    // CAST: An offset in a page is part of an address.
    let paddr = phys_of(run).paddr() + mapping.page_offset() as PhysAddr;

    match domains {
        [domain] if !small => domain.map_nosync(iova.start, paddr, mapping.len(), prot),
        _ => map_in_all_nosync(domains, iova, paddr, prot, small),
    }
}

/// All of the memory of a run.
#[inline(always)]
fn phys_of(run: Run) -> PhysRun {
    // CAST: Page frames have addresses.
    PhysRun::new((run.pfn as PhysAddr) << PAGE_SHIFT, run.len * PAGE_SIZE)
}

/// Maps the runs of a mapping, in order, many by one call.
///
/// Where memory is scattered, [`Self::push`] is called for each page.
struct Mapper<'a> {
    mapping: &'a Mapping,
    domains: &'a [Arc<PagingDomain>],
    small: bool,
    /// What is pushed and not mapped.
    queue: &'a mut RunQueue,
    /// How many bytes are not mapped,
    left: usize,
    /// the IOVA of the first of them, if there is one,
    start: usize,
    /// and the number of bytes before it in its page.
    offset: usize,
}

impl<'a> Mapper<'a> {
    #[inline]
    fn new(
        mapping: &'a Mapping,
        domains: &'a [Arc<PagingDomain>],
        small: bool,
        queue: &'a mut RunQueue,
    ) -> Self {
        Self {
            mapping,
            domains,
            small,
            queue,
            left: mapping.len(),
            start: mapping.iova.start,
            offset: mapping.page_offset(),
        }
    }

    /// Takes the next run, which may be mapped later. On error, `run` is what was not taken.
    #[inline(always)]
    fn push(&mut self, run: &mut Run) -> Result {
        if self.small {
            return self.push_small(run);
        }
        self.enqueue(*run)?;
        run.len = 0;
        Ok(())
    }

    /// As [`Self::push`], page by page: two runs of the queue are never mapped by one page.
    fn push_small(&mut self, run: &mut Run) -> Result {
        while run.len != 0 {
            self.enqueue(run.part(0, 1))?;
            run.pfn = run.pfn.wrapping_add(1);
            run.len -= 1;
        }
        Ok(())
    }

    #[inline(always)]
    fn enqueue(&mut self, run: Run) -> Result {
        let run = phys_of(run);

        if !self.queue.push(run) {
            self.flush()?;
            // It is empty now.
            warn_on!(!self.queue.push(run));
        }
        Ok(())
    }

    /// Maps what was taken in all domains, or in none if one of them fails: it stays in the queue
    /// then.
    #[inline(never)]
    fn flush(&mut self) -> Result {
        let (start, prot) = (self.start, self.mapping.prot);
        if self.queue.as_slice().is_empty() {
            return Ok(());
        }
        let iova = self.clip_queue()?;

        for (n, domain) in self.domains.iter().enumerate() {
            let res = match self.queue.as_slice() {
                [run] => domain.map_nosync(start, run.paddr(), run.len(), prot),
                runs => domain.map_runs_nosync(start, runs, prot),
            };

            if let Err(err) = res {
                unmap_from_all(self.domains.iter().take(n), iova);
                return Err(err);
            }
        }
        self.queue.clear();
        // It wraps behind the last run at most, and is not used then.
        self.start = iova.last.wrapping_add(1);
        self.left -= iova.last - iova.start + 1;
        self.offset = 0;
        Ok(())
    }

    /// Leaves in the queue what is mapped of the first and the last page. Returns the IOVA of all
    /// of it.
    fn clip_queue(&mut self) -> Result<IovaRange> {
        let (offset, left) = (self.offset, self.left);
        let runs = self.queue.as_mut_slice();

        if let Some(first) = runs.first_mut() {
            // CAST: An offset in a page is part of an address.
            *first = PhysRun::new(first.paddr() + offset as PhysAddr, first.len() - offset);
        }
        let mut len = runs.iter().map(PhysRun::len).sum::<usize>();
        if let (Some(last), Some(behind)) = (runs.last_mut(), len.checked_sub(left)) {
            *last = PhysRun::new(last.paddr(), last.len() - behind);
            len = left;
        }
        IovaRange::from_len(self.start, len)
    }

    /// The index of the first page that is not mapped.
    fn index(&self) -> usize {
        match self.left {
            0 => self.mapping.pages().last + 1,
            _ => self.mapping.iova_to_index(self.start),
        }
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
    /// What was read behind what the mapper has, if `len` is not zero.
    pending: Run,
    /// What was read behind `pending`, after an error.
    stray: Option<Run>,
}

impl<'a> Joiner<'a> {
    #[inline]
    fn new(mapper: Mapper<'a>) -> Self {
        Self {
            collector: Collector::new(mapper.mapping.pages().first),
            mapper,
            // Nothing continues this.
            pending: Run {
                pfn: usize::MAX,
                len: 0,
            },
            stray: None,
        }
    }

    /// Gives what is pending to the mapper. On error the collector has it nevertheless.
    #[inline(always)]
    fn flush(&mut self) -> Result {
        if self.pending.len == 0 {
            return Ok(());
        }
        self.collector.push(self.pending);
        self.mapper.push(&mut self.pending)
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
        let mut queue = RunQueue::new();
        let mut joiner = Joiner::new(Mapper::new(mapping, domains, small, &mut queue));

        let res = reader
            .read_to(self, &mut joiner)
            .and_then(|()| joiner.flush())
            .and_then(|()| joiner.mapper.flush())
            .and_then(|()| sync_all(domains, mapping.iova))
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
        let mut index = mapper.index();
        let pending = (pending.len != 0).then_some(pending);
        for run in mapper.queue.as_slice().iter().map(pfns_of) {
            self.unpin_unheld(writable, index, run);
            index += run.len;
        }
        for run in [pending, stray].into_iter().flatten() {
            self.unpin_unheld(writable, index, run);
            index += run.len;
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
        let pages = mapping.pages().len();

        self.account.pinned(pages);
        let res = match batch.only_run() {
            Some(run) => map_only(mapping, domains, run, small)
                .map(|()| Some(RunList::of(mapping.pages().first, run))),
            None => map_runs(batch, mapping, domains, small),
        };
        let res = res.and_then(|runs| {
            sync_all(domains, mapping.iova)
                .and_then(|()| self.account.settle(None))
                // Before they are unpinned.
                .inspect_err(|_| unmap_from_all(domains.iter(), mapping.iova))?;
            Ok(runs)
        });

        self.end_batch(batch, pages, writable, res)
    }
}

/// Maps a few runs, which are all of a mapping. On error nothing is mapped.
fn map_runs(
    batch: &PinnedBatch<'_>,
    mapping: &Mapping,
    domains: &[Arc<PagingDomain>],
    small: bool,
) -> Result<Option<RunList>> {
    let mut queue = RunQueue::new();
    let mut mapper = Mapper::new(mapping, domains, small, &mut queue);
    let mut collector = Collector::new(mapping.pages().first);

    batch
        .runs()
        .try_for_each(|mut run| {
            collector.push(run);
            mapper.push(&mut run)
        })
        .and_then(|()| mapper.flush())
        .inspect_err(|_| {
            if let Some(range) = mapper.mapped() {
                unmap_from_all(domains.iter(), mapping.iova_of(range));
            }
        })?;
    Ok(collector.0)
}
