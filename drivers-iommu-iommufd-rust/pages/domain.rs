// SPDX-License-Identifier: GPL-2.0

//! The domain tier: pages that are mapped in IOMMU domains.
//!
//! Actors: an area of an IO page table shows a slice of the pages, in each domain that its IOAS
//! has. One of these domains is the area's *storage*: it knows the PFNs, and holding them there
//! costs no memory. A [`Record`] in the tree of holders names it. As asking a domain is slow, the
//! record also has the PFNs themselves, where they are few runs: this is a cache that may be
//! absent. The memory of a record is its [`Slot`]; the area has it while no domain does.
//!
//! Two rules shape the code. *Cuts*: each run of contiguous PFNs of an area is mapped as a whole,
//! so that large pages are used, and so it has to be unmapped as a whole; an unmap ends where a run
//! ends. *Unmap before unpin*: memory that a device can reach is not given back.
//!
//! Taking out never fails and works without memory.
//!
//! Locks: all of it is done under the mutex of the pages, and the caller holds `domains_rwsem`, so
//! that the list of domains stays as it is.
#![forbid(unsafe_code)]

use super::{
    run::{
        Run,
        RunList, //
    },
    source::{
        Reader,
        Room,
        Source, //
    },
    Inner,
    Pages, //
};
use crate::{
    ffi::{
        domain::PagingDomain,
        pin,
        test::memory_limit, //
    },
    mapping::{
        Mapping,
        Prot, //
    },
    range::{
        IovaRange,
        PageRange, //
    },
};
use core::mem::size_of;
use kernel::{
    interval_tree::Node,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc,
    warn_on, //
};

/// What an area shows, and a domain in which it can be read back.
struct View {
    mapping: Mapping,
    storage: Arc<PagingDomain>,
}

/// Says that an area is mapped in domains. The interval of its node is `mapping.pages`.
pub(super) struct Record {
    /// Always there while the record is in the tree.
    view: Option<View>,
    /// The PFNs of all of `mapping.pages`, or nothing.
    runs: Option<RunList>,
}

impl Record {
    /// The first PFNs of `range`, which is within the record.
    ///
    /// # Errors
    ///
    /// None for a record of the tree.
    #[inline]
    pub(super) fn read(&self, range: PageRange, cursor: &mut Cursor) -> Result<Run> {
        if let Some(runs) = &self.runs {
            return Ok(runs.run_at(range.first).part(0, range.len()));
        }
        match &self.view {
            Some(view) => Ok(cursor.read(&view.mapping, &view.storage, range)),
            None => {
                warn_on!(true);
                Err(EINVAL)
            }
        }
    }

    /// Whether this is the record of the area that shows `mapping` in the domains of which
    /// `is_ours` is true. Areas with the same pages differ in the IOVA, or are in different
    /// domains.
    #[inline]
    fn is_of(&self, mapping: &Mapping, is_ours: impl Fn(&PagingDomain) -> bool) -> bool {
        self.view.as_ref().is_some_and(|view| {
            view.mapping.iova.start == mapping.iova.start && is_ours(&view.storage)
        })
    }
}

/// The memory for a record.
///
/// It is allocated before it is known whether there is anything to record, so that nothing can fail
/// later. While the area that it was made for is in no domain, the area has it.
pub(crate) struct Slot(KBox<Node<Record>>);

impl Slot {
    /// Allocates a slot.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub(crate) fn new() -> Result<Self> {
        let record = Record {
            view: None,
            runs: None,
        };

        Ok(Self(Node::new(0, 0, record, GFP_KERNEL_ACCOUNT)?))
    }
}

/// Reads PFNs back from a domain, each one once.
pub(super) struct Cursor {
    /// An index that was read ahead, and its PFN.
    ahead: Option<(usize, usize)>,
}

impl Cursor {
    #[inline]
    pub(super) const fn new() -> Self {
        Self { ahead: None }
    }

    /// The longest run from the front of `range`, which is within `mapping`.
    pub(super) fn read(
        &mut self,
        mapping: &Mapping,
        domain: &PagingDomain,
        range: PageRange,
    ) -> Run {
        // The page offset of the first page is in the address, too, and goes away here.
        let pfn_of =
            |index| (domain.iova_to_phys(mapping.index_to_iova(index)) >> PAGE_SHIFT) as usize;
        let mut run = match self.ahead.take() {
            Some((index, pfn)) if index == range.first => Run::page(pfn),
            _ => Run::page(pfn_of(range.first)),
        };

        for index in range.first + 1..=range.last {
            let page = Run::page(pfn_of(index));
            if !run.try_append(page) {
                self.ahead = Some((index, page.pfn));
                break;
            }
        }
        run
    }
}

/// Collects the runs of a new record, until they are too many to be worth their memory.
struct Collector(Option<RunList>);

impl Collector {
    /// Up to so many runs are always kept (1 KiB).
    const FEW: usize = 64;
    /// More runs are kept if they have so many pages on average: then they have less memory than
    /// an eighth of the page table.
    const PAGES_PER_RUN: usize = 16;
    /// More runs than this are never kept (1 MiB).
    const MOST: usize = 1 << 16;

    #[inline]
    fn new(first: usize) -> Self {
        Self(Some(RunList::new(first)))
    }

    #[inline]
    fn push(&mut self, run: Run) {
        let Some(list) = &mut self.0 else {
            return;
        };
        let runs = list.run_count();
        let keep =
            runs < Self::FEW || (runs < Self::MOST && list.len() / runs >= Self::PAGES_PER_RUN);

        if !keep || list.push(run, GFP_KERNEL_ACCOUNT | __GFP_NOWARN).is_err() {
            self.0 = None;
        }
    }
}

/// Maps contiguous memory in one domain.
///
/// With `small`, no page larger than `PAGE_SIZE` is used, so that the area can be split later.
#[inline]
fn map_in(domain: &PagingDomain, iova: IovaRange, paddr: u64, prot: Prot, small: bool) -> Result {
    // No area has the whole space, so that it has a length.
    let len = iova.len().ok_or(EOVERFLOW)?;

    if !small {
        return domain.map(iova.start, paddr, len, prot);
    }
    // The alignment of such an IOAS is a page at least.
    for done in (0..len).step_by(PAGE_SIZE) {
        let piece = PAGE_SIZE.min(len - done);
        let res = domain.map(iova.start + done, paddr + done as u64, piece, prot);

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
/// none if one of them fails.
#[inline]
pub(super) fn map_in_all(
    domains: &[Arc<PagingDomain>],
    iova: IovaRange,
    paddr: u64,
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

/// Whether `domain` is one of `domains`.
#[inline]
fn is_in(domains: &[Arc<PagingDomain>], domain: &PagingDomain) -> bool {
    domains.iter().any(|other| other.ptr_eq(domain))
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

/// Maps a run, whose first page is `index`, as a part of `mapping`.
#[inline]
fn map_run(
    mapping: &Mapping,
    domains: &[Arc<PagingDomain>],
    index: usize,
    run: Run,
    small: bool,
) -> Result {
    let pages = PageRange {
        first: index,
        last: index + run.len - 1,
    };
    let offset = if index == mapping.pages.first {
        mapping.page_offset
    } else {
        0
    };
    let paddr = ((run.pfn as u64) << PAGE_SHIFT) + offset as u64;

    map_in_all(domains, mapping.iova_of(pages), paddr, mapping.prot, small)
}

/// A few runs, between being unmapped and being unpinned.
///
/// More memory means fewer flushes of the IOMMU's caches, but it works without.
struct Batch {
    heap: KVec<Run>,
    inline: [Run; Batch::INLINE],
    len: usize,
}

impl Batch {
    const INLINE: usize = 16;

    fn new(pages: usize) -> Self {
        let mut heap = KVec::new();

        if pages > Self::INLINE {
            let room = pages.min(memory_limit() / size_of::<Run>());
            // If there is no memory to be had easily, never mind.
            let _ = heap.reserve(room, GFP_NOWAIT | __GFP_NOWARN);
        }
        Self {
            heap,
            inline: [Run::page(0); Self::INLINE],
            len: 0,
        }
    }

    fn clear(&mut self) {
        self.heap.clear();
        self.len = 0;
    }

    /// Appends a run, and tells whether there was room for it.
    fn push(&mut self, run: Run) -> bool {
        if self.heap.capacity() > Self::INLINE {
            return self.heap.push_within_capacity(run).is_ok();
        }
        match self.inline.get_mut(self.len) {
            Some(slot) => *slot = run,
            None => return false,
        }
        self.len += 1;
        true
    }

    fn has_room(&self) -> bool {
        if self.heap.capacity() > Self::INLINE {
            self.heap.len() < self.heap.capacity()
        } else {
            self.len < Self::INLINE
        }
    }

    fn runs(&self) -> &[Run] {
        if self.heap.capacity() > Self::INLINE {
            &self.heap
        } else {
            self.inline.get(..self.len).unwrap_or(&[])
        }
    }
}

/// So many pages are unmapped at a time: 1 GiB.
const UNMAP_PAGES: usize = 1 << (30 - PAGE_SHIFT);

impl Inner {
    /// Puts the record of an area in the tree.
    fn store(
        &mut self,
        slot: Slot,
        mapping: &Mapping,
        storage: Arc<PagingDomain>,
        runs: Option<RunList>,
    ) {
        let Slot(mut node) = slot;

        // A mapping is never backwards.
        warn_on!(node
            .set_range(mapping.pages.first, mapping.pages.last)
            .is_err());
        *node.value_mut() = Record {
            view: Some(View {
                mapping: *mapping,
                storage,
            }),
            runs,
        };
        self.tiers.stored.insert(node);
    }

    /// Takes the record of an area, which must be there, out of the tree. (See [`Record::is_of`].)
    fn unstore(
        &mut self,
        mapping: &Mapping,
        is_ours: impl Fn(&PagingDomain) -> bool,
    ) -> Option<(Slot, Arc<PagingDomain>, Option<RunList>)> {
        let PageRange { first, last } = mapping.pages;
        let entry = self
            .tiers
            .stored
            .find_mut(first, last, |node| node.value().is_of(mapping, &is_ours));
        let Some(entry) = entry else {
            warn_on!(true);
            return None;
        };

        let mut node = entry.remove();
        let record = node.value_mut();
        let runs = record.runs.take();
        let view = record.view.take()?;
        Some((Slot(node), view.storage, runs))
    }

    /// Unpins those pages of a run, the first of which is `index`, that nobody holds.
    #[inline]
    pub(super) fn unpin_unheld(&mut self, dirty: bool, index: usize, run: Run) {
        if self.tiers.is_empty() {
            pin::unpin(run, dirty);
            self.account.unpinned(run.len);
            return;
        }

        let Self { tiers, account, .. } = self;
        let range = PageRange {
            first: index,
            last: index + run.len - 1,
        };
        tiers.for_each_unheld(range, |unheld| {
            pin::unpin(run.part(unheld.first - index, unheld.len()), dirty);
            account.unpinned(unheld.len());
        });
    }

    /// Unmaps the front part `range` of a mapping from `domain`, and unpins the pages that nobody
    /// holds any more. `range` ends where a run ends. Never fails, works without memory.
    ///
    /// `domain` is the last one that has the mapping, and it is not, or no more, in the tree of
    /// holders. `runs` are the PFNs of `range` at least, if they are known.
    fn drain(
        &mut self,
        dirty: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
        runs: Option<&RunList>,
    ) {
        match runs {
            Some(runs) => self.drain_known(dirty, mapping, range, domain, runs),
            None => self.drain_unknown(dirty, mapping, range, domain),
        }
    }

    fn drain_known(
        &mut self,
        dirty: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
        runs: &RunList,
    ) {
        let mut rest = Some(range);

        while let Some(range) = rest {
            // A bounded piece, but to the end of a run.
            let near = range.last.min(range.first.saturating_add(UNMAP_PAGES - 1));
            let last = range.last.min(near + (runs.run_at(near).len - 1));
            let piece = PageRange {
                first: range.first,
                last,
            };

            domain.unmap(mapping.iova_of(piece));
            for (index, run) in runs.iter_range(piece) {
                self.unpin_unheld(dirty, index, run);
            }
            rest = PageRange::new(last + 1, range.last);
        }
    }

    fn drain_unknown(
        &mut self,
        dirty: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
    ) {
        let mut batch = Batch::new(range.len());
        let mut cursor = Cursor::new();
        let mut rest = Some(range);

        while let Some(range) = rest {
            // Where there is nothing to unpin, PFNs are of no interest.
            if self.tiers.hold_all(range) {
                domain.unmap(mapping.iova_of(range));
                return;
            }

            batch.clear();
            let mut end = Some(range);
            while let (Some(front), true) = (end, batch.has_room()) {
                let run = cursor.read(mapping, domain, front);
                batch.push(run);
                end = PageRange::new(front.first + run.len, front.last);
            }

            let last = end.map_or(range.last, |end| end.first - 1);
            domain.unmap(mapping.iova_of(PageRange {
                first: range.first,
                last,
            }));
            let mut index = range.first;
            for &run in batch.runs() {
                self.unpin_unheld(dirty, index, run);
                index += run.len;
            }
            rest = end;
        }
    }

    /// Reads the PFNs of a mapping and maps them in all domains, or in none if something fails.
    /// Returns the PFNs, if they are few runs.
    fn map_pages(
        &mut self,
        source: &Source,
        dirty: bool,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result<Option<RunList>> {
        let mut room = Room::new();
        let mut reader = Reader::new(source, mapping.pages, &mut room)?;
        let mut collector = Collector::new(mapping.pages.first);
        // The index of the first page that is not mapped, and the run that was read from there on.
        let mut index = mapping.pages.first;
        let mut pending: Option<Run> = None;

        let res = loop {
            let next = match reader.next(self) {
                Ok(next) => next,
                Err(err) => break Err(err),
            };
            let Some(run) = pending else {
                pending = next;
                if next.is_none() {
                    break Ok(());
                }
                continue;
            };
            if let Some(next) = next {
                if pending
                    .as_mut()
                    .is_some_and(|pending| pending.try_append(next))
                {
                    continue;
                }
            }
            // The run is as long as it gets.
            if let Err(err) = map_run(mapping, domains, index, run, small) {
                // What follows it was read already, but goes the same way.
                if let Some(next) = next {
                    self.unpin_unheld(dirty, index + run.len, next);
                }
                break Err(err);
            }
            collector.push(run);
            index += run.len;
            pending = next;
            if next.is_none() {
                break reader.settle(self);
            }
        };

        reader.finish(self);
        let Err(err) = res else {
            return Ok(collector.0);
        };

        if let Some(run) = pending {
            self.unpin_unheld(dirty, index, run);
        }
        if let Some((storage, others)) = domains.split_first() {
            if let Some(last) = index.checked_sub(1).filter(|&n| n >= mapping.pages.first) {
                let range = PageRange {
                    first: mapping.pages.first,
                    last,
                };

                unmap_from_all(others.iter(), mapping.iova_of(range));
                self.drain(dirty, mapping, range, storage, collector.0.as_ref());
            }
        }
        self.account.settle_less(None);
        Err(err)
    }
}

impl Pages {
    /// Maps the pages of a new area in all domains of its IOAS, of which there is one at least.
    ///
    /// # Errors
    ///
    /// What pinning or mapping says, or `ENOMEM` if more would be pinned than the limit allows.
    /// Nothing has changed then, and the slot comes back.
    pub(crate) fn fill(
        &self,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
        slot: Slot,
    ) -> Result<(), (Error, Slot)> {
        let mut inner = self.lock();
        let Some(storage) = domains.first() else {
            return Err((EINVAL, slot));
        };

        let res = match &self.source {
            Source::User { .. } | Source::File { .. } => {
                inner.map_pages(&self.source, self.writable, mapping, domains, small)
            }
            Source::DmaBuf { start } => inner
                .map_dmabuf(*start, mapping, domains, small)
                .map(|()| None),
        };
        match res {
            Ok(runs) => {
                #[cfg(CONFIG_IOMMUFD_TEST)]
                check_runs(mapping, storage, runs.as_ref());
                inner.store(slot, mapping, storage.clone(), runs);
                Ok(())
            }
            Err(err) => Err((err, slot)),
        }
    }

    /// Unmaps an area that is about to go from all domains of its IOAS, and unpins the pages that
    /// nobody holds any more. Never fails, works without memory.
    ///
    /// `domains` are all that have the area, and there is one at least.
    pub(crate) fn unfill(&self, mapping: &Mapping, domains: &[Arc<PagingDomain>]) {
        let mut inner = self.lock();
        let is_ours = |domain: &PagingDomain| is_in(domains, domain);
        let Some((_slot, storage, runs)) = inner.unstore(mapping, is_ours) else {
            return;
        };

        match &self.source {
            Source::User { .. } | Source::File { .. } => {
                let others = domains.iter().filter(|domain| !domain.ptr_eq(&storage));
                unmap_from_all(others, mapping.iova);
                inner.drain(
                    self.writable,
                    mapping,
                    mapping.pages,
                    &storage,
                    runs.as_ref(),
                );
                inner.account.settle_less(None);
            }
            Source::DmaBuf { .. } => inner.unmap_dmabuf(mapping, is_ours),
        }
    }

    /// Maps the pages of an area in a further domain, or in a first one: then `slot` is that of the
    /// area, and it is taken. It is [`None`] for an area that is in domains already.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`]. Nothing has changed then.
    pub(crate) fn add_domain(
        &self,
        mapping: &Mapping,
        domain: &Arc<PagingDomain>,
        small: bool,
        slot: &mut Option<Slot>,
    ) -> Result {
        let mut inner = self.lock();
        let domains = core::slice::from_ref(domain);

        let runs = match &self.source {
            Source::User { .. } | Source::File { .. } => {
                inner.map_pages(&self.source, self.writable, mapping, domains, small)?
            }
            Source::DmaBuf { start } => {
                inner.map_dmabuf(*start, mapping, domains, small)?;
                None
            }
        };
        #[cfg(CONFIG_IOMMUFD_TEST)]
        check_runs(mapping, domain, runs.as_ref());
        if let Some(slot) = slot.take() {
            inner.store(slot, mapping, domain.clone(), runs);
        }
        Ok(())
    }

    /// Unmaps an area from one of its domains. Never fails, works without memory.
    ///
    /// If it was the last one, the area gets its slot back, and the pages that nobody holds any
    /// more are unpinned. Else `successor` is one that stays.
    pub(crate) fn remove_domain(
        &self,
        mapping: &Mapping,
        domain: &PagingDomain,
        successor: Option<&Arc<PagingDomain>>,
        slot: &mut Option<Slot>,
    ) {
        let mut inner = self.lock();
        let is_ours = |other: &PagingDomain| other.ptr_eq(domain);

        let Some(successor) = successor else {
            let Some((free, storage, runs)) = inner.unstore(mapping, is_ours) else {
                return;
            };

            match &self.source {
                Source::User { .. } | Source::File { .. } => {
                    let dirty = self.writable;
                    inner.drain(dirty, mapping, mapping.pages, &storage, runs.as_ref());
                    inner.account.settle_less(None);
                }
                Source::DmaBuf { .. } => inner.unmap_dmabuf(mapping, is_ours),
            }
            *slot = Some(free);
            return;
        };

        let PageRange { first, last } = mapping.pages;
        let entry = inner
            .tiers
            .stored
            .find_mut(first, last, |node| node.value().is_of(mapping, is_ours));
        if let Some(mut entry) = entry {
            if let Some(view) = &mut entry.value_mut().view {
                view.storage = successor.clone();
            }
        }
        match &self.source {
            Source::User { .. } | Source::File { .. } => domain.unmap(mapping.iova),
            Source::DmaBuf { .. } => inner.unmap_dmabuf(mapping, is_ours),
        }
    }

    /// Makes two areas of one that is mapped in `domains`, which must use small pages. `spare` is
    /// for the record of the second one. Never fails.
    ///
    /// The pages are neither mapped nor pinned anew. Not to be used for a dma-buf.
    pub(crate) fn split(
        &self,
        mapping: &Mapping,
        left: &Mapping,
        right: &Mapping,
        domains: &[Arc<PagingDomain>],
        spare: Slot,
    ) {
        let mut inner = self.lock();
        let is_ours = |domain: &PagingDomain| is_in(domains, domain);
        let Some((slot, storage, runs)) = inner.unstore(mapping, is_ours) else {
            return;
        };

        // Should there be no memory for the runs, they will be read from the domain.
        let slice = |range| {
            let gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
            runs.as_ref().and_then(|runs| runs.slice(range, gfp).ok())
        };
        inner.store(slot, left, storage.clone(), slice(left.pages));
        inner.store(spare, right, storage, slice(right.pages));
    }

    /// The physical address behind `iova`, which is in `mapping`, and how many bytes from there on
    /// are contiguous, `most` of them at most. (`IOMMU_IOAS_NOIOMMU_GET_PA`)
    ///
    /// # Errors
    ///
    /// `EINVAL` if the memory was revoked, `EOPNOTSUPP` if the area is not mapped in one of
    /// `domains` or that one is not `usable`.
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    pub(crate) fn phys_contig(
        &self,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        iova: usize,
        most: u64,
        usable: impl FnOnce(&PagingDomain) -> bool,
    ) -> Result<(u64, u64)> {
        let inner = self.lock();
        let PageRange { first, last } = mapping.pages;

        if inner.is_revoked() {
            return Err(EINVAL);
        }
        let domain = inner
            .tiers
            .stored
            .iter(first, last)
            .map(Node::value)
            .find(|record| record.is_of(mapping, |domain| is_in(domains, domain)))
            .and_then(|record| record.view.as_ref())
            .map(|view| &view.storage)
            .filter(|domain| usable(domain))
            .ok_or(EOPNOTSUPP)?;

        let paddr = domain.iova_to_phys(iova);
        // Page boundaries are those of the memory: an IOVA can be off by the page offset.
        let index = mapping.iova_to_index(iova);
        let mut end = mapping.index_to_iova_last(index);
        let mut len = (end - iova) as u64 + 1;
        while len < most && end < mapping.iova.last {
            let next = end + 1;
            if domain.iova_to_phys(next) != paddr + len {
                break;
            }
            end = mapping.index_to_iova_last(mapping.iova_to_index(next));
            len += (end - next) as u64 + 1;
        }
        Ok((paddr, len.min(most)))
    }
}

/// Makes sure that runs are what the domain says. A wrong one would unpin memory of others.
#[cfg(CONFIG_IOMMUFD_TEST)]
fn check_runs(mapping: &Mapping, domain: &PagingDomain, runs: Option<&RunList>) {
    let Some(runs) = runs else { return };

    warn_on!(runs.range() != Some(mapping.pages));
    for (first, run) in runs.iter() {
        for (index, pfn) in [
            (first, run.pfn),
            (first + run.len - 1, run.pfn + run.len - 1),
        ] {
            let phys = domain.iova_to_phys(mapping.index_to_iova(index));
            warn_on!((phys >> PAGE_SHIFT) as usize != pfn);
        }
    }
}
