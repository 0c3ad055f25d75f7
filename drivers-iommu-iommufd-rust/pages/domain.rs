// SPDX-License-Identifier: GPL-2.0

//! The domain tier: pages that are mapped in IOMMU domains.
//!
//! Each domain of an IOAS maps the slice of pages of each area. One of the domains is the area's
//! *storage domain*: its page table stores the PFNs without further memory. The [`Record`] of the
//! area names it. Reading a page table is slow, so the record also has the PFNs themselves, if they
//! are few runs: a cache. [`AreaPages`] has the pages of an area and the key to its record.
//!
//! [`fill`](super::fill) maps PFNs in domains, [`drain`](super::drain) unmaps them. Unmapping never
//! fails: its allocations are optional.
//!
//! Locks: all of it is done under the mutex of the pages, and the caller holds `domains_rwsem`, so
//! that the list of domains stays as it is.
#![forbid(unsafe_code)]

use super::{
    fill::unmap_from_all,
    record::{
        Key,
        Record,
        Slot, //
    },
    run::RunList,
    source::{
        PinnedBatch,
        Source, //
    },
    Inner,
    NewPages,
    Pages, //
};
use crate::{
    mapping::Mapping,
    sys::{
        domain::PagingDomain,
        pin, //
    }, //
};
use core::mem::replace;
#[cfg(CONFIG_IOMMUFD_TEST)]
use kernel::{
    page::PAGE_SHIFT,
    warn_on, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The pages of an area, and its record.
///
/// `mapping` is that of the area in all calls.
pub(crate) struct AreaPages {
    pages: Arc<Pages>,
    place: Storage,
}

/// State of the record of an area.
enum Storage {
    /// No domain maps the area. Preallocated memory for the record.
    Unstored(Slot),
    /// A domain maps the area, and there is a record.
    Stored {
        key: Key,
        /// Set if the PFNs are in the record, so they are not read from a domain.
        known: bool,
    },
    /// During a change from one to the other.
    Moving,
}

impl Storage {
    /// Takes the slot, if there is one, for a record.
    #[inline]
    fn take_slot(&mut self) -> Option<Slot> {
        match replace(self, Storage::Moving) {
            Storage::Unstored(slot) => Some(slot),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Inner {
    /// Inserts the record of an area.
    #[inline(always)]
    fn store(&mut self, slot: Slot, record: Record) -> Storage {
        let known = record.known().is_some();

        Storage::Stored {
            key: self.tiers.records.insert(slot, record),
            known,
        }
    }
}

impl AreaPages {
    /// Creates the pages of their first area, whose record is embedded in them.
    #[inline]
    pub(crate) fn first(pages: NewPages) -> Self {
        Self {
            pages: pages.0,
            place: Storage::Unstored(Slot::own()),
        }
    }

    /// Creates the pages of a further area.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(pages: Arc<Pages>) -> Result<Self> {
        Ok(Self {
            pages,
            place: Storage::Unstored(Slot::new()?),
        })
    }

    /// Returns the pages.
    #[inline]
    pub(crate) fn pages(&self) -> &Arc<Pages> {
        &self.pages
    }

    /// Returns whether a domain maps the area.
    #[inline]
    pub(crate) fn is_stored(&self) -> bool {
        matches!(self.place, Storage::Stored { .. })
    }

    /// Returns whether a domain maps the area, and its PFNs are in memory.
    ///
    /// Such an area can be unmapped from all its domains first and [released](Self::release) later.
    #[inline]
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.place, Storage::Stored { known: true, .. })
    }

    /// Maps an area that no domain maps, in all domains of its IOAS, of which there is at least
    /// one.
    ///
    /// # Errors
    ///
    /// What pinning or mapping returns, or `ENOMEM` if the limit of pinned pages is exceeded.
    /// Nothing has changed then.
    pub(crate) fn fill(
        &mut self,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result {
        let storage = domains.first().ok_or(EINVAL)?;
        let mut inner = self.pages.lock();

        let runs = inner.map(&self.pages, mapping, domains, small)?;
        #[cfg(CONFIG_IOMMUFD_TEST)]
        check_runs(mapping, storage, runs.as_ref());
        if let Some(slot) = self.place.take_slot() {
            self.place = inner.store(slot, Record::new(mapping, storage.clone(), runs));
        }
        Ok(())
    }

    /// As [`Self::fill`], for the first area of these pages, all of which are pinned already.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`].
    #[inline]
    pub(crate) fn fill_batch(
        &mut self,
        batch: &mut PinnedBatch<'_>,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result {
        let storage = domains.first().ok_or(EINVAL)?;
        let mut inner = self.pages.lock();

        let runs = inner.map_batch(batch, self.pages.writable, mapping, domains, small)?;
        #[cfg(CONFIG_IOMMUFD_TEST)]
        check_runs(mapping, storage, runs.as_ref());
        if let Some(slot) = self.place.take_slot() {
            self.place = inner.store(slot, Record::new(mapping, storage.clone(), runs));
        }
        Ok(())
    }

    /// Unpins the pages of an area that have no other holder, after it was unmapped from all its
    /// domains. The PFNs are [known](Self::is_known), or no domain has mapped it. Never fails,
    /// allocates nothing.
    #[inline]
    pub(crate) fn release(&self, mapping: &Mapping) {
        let Storage::Stored { key, .. } = &self.place else {
            return;
        };
        let mut inner = self.pages.lock();
        let writable = self.pages.writable;

        if let Some(run) = inner.tiers.only_run_of(key) {
            // Fast path for most areas: no other holders, so the record need not be removed first.
            pin::unpin(run, writable);
            inner.account.unpinned(run.len);
            inner.tiers.records.forget_own();
        } else if let Some((_slot, record)) = inner.tiers.records.remove(key, mapping) {
            inner.unpin_list(writable, record.runs());
        }
        inner.account.settle_less(None);
    }

    /// Unmaps an area from all its domains, and unpins the pages that have no holder any more.
    /// Never fails: allocations are optional.
    ///
    /// `domains` are all domains that map the area; the storage domain may be left out.
    pub(crate) fn unfill(&mut self, mapping: &Mapping, domains: &[Arc<PagingDomain>]) {
        let Storage::Stored { key, .. } = &self.place else {
            return;
        };
        let mut inner = self.pages.lock();
        let Some((slot, record)) = inner.tiers.records.remove(key, mapping) else {
            return;
        };
        let storage = &record.storage;
        let others = domains.iter().filter(|domain| !domain.ptr_eq(storage));

        match &self.pages.source {
            Source::User { .. } | Source::File { .. } => {
                let writable = self.pages.writable;

                unmap_from_all(others, mapping.iova);
                inner.drain(writable, mapping, mapping.pages(), storage, record.known());
                inner.account.settle_less(None);
            }
            Source::DmaBuf { memory, .. } => {
                others.for_each(|domain| memory.unmap(mapping, domain));
                memory.unmap(mapping, storage);
            }
        }
        self.place = Storage::Unstored(slot);
    }

    /// Maps an area in a further domain, or in the first one.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`]. Nothing has changed then.
    pub(crate) fn add_domain(
        &mut self,
        mapping: &Mapping,
        domain: &Arc<PagingDomain>,
        small: bool,
    ) -> Result {
        let domains = core::slice::from_ref(domain);

        if !self.is_stored() {
            return self.fill(mapping, domains, small);
        }
        let runs = self
            .pages
            .lock()
            .map(&self.pages, mapping, domains, small)?;
        #[cfg(CONFIG_IOMMUFD_TEST)]
        check_runs(mapping, domain, runs.as_ref());
        drop(runs);
        Ok(())
    }

    /// Unmaps an area from one of its domains. `successor` is another one, which becomes the
    /// storage domain if this was it. Never fails, allocates nothing.
    pub(crate) fn remove_domain(
        &self,
        mapping: &Mapping,
        domain: &PagingDomain,
        successor: &Arc<PagingDomain>,
    ) {
        let Storage::Stored { key, .. } = &self.place else {
            return;
        };
        let mut inner = self.pages.lock();
        let records = &mut inner.tiers.records;

        records.move_storage(key, mapping, domain, successor);
        match &self.pages.source {
            Source::User { .. } | Source::File { .. } => domain.unmap(mapping.iova),
            Source::DmaBuf { memory, .. } => memory.unmap(mapping, domain),
        }
    }

    /// Prepares for [`Self::split`], which is to follow: the part that can fail. `domains` are
    /// those that map the area.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Nothing has changed then.
    pub(crate) fn prepare_split(
        &self,
        left: &Mapping,
        right: &Mapping,
        domains: &[Arc<PagingDomain>],
    ) -> Result {
        match &self.pages.source {
            Source::User { .. } | Source::File { .. } => Ok(()),
            Source::DmaBuf { memory, start } => memory.split(*start, left, right, domains),
        }
    }

    /// Splits an area, whose domains, if there are any, use small pages only. Returns the pages of
    /// `right`. Never fails.
    ///
    /// Nothing is mapped or pinned. `spare` is for the record of the right area.
    pub(crate) fn split(
        &mut self,
        mapping: &Mapping,
        left: &Mapping,
        right: &Mapping,
        spare: SpareSlot,
    ) -> Self {
        let pages = self.pages.clone();
        let mut place = Storage::Unstored(spare.0);

        if let Storage::Stored { key, .. } = &self.place {
            let mut inner = self.pages.lock();

            if let Some((slot, record)) = inner.tiers.records.remove(key, mapping) {
                let (left, right) = record.split(left, right);

                self.place = inner.store(slot, left);
                if let Some(spare) = place.take_slot() {
                    place = inner.store(spare, right);
                }
            }
        }
        Self { pages, place }
    }
}

/// Preallocated memory for the record of the right area of a [split](AreaPages::split).
pub(crate) struct SpareSlot(Slot);

impl SpareSlot {
    /// Allocates the memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Slot::new()?))
    }
}

impl Inner {
    /// Maps pages in domains. Returns the PFNs, if they are few runs.
    fn map(
        &mut self,
        pages: &Pages,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result<Option<RunList>> {
        match &pages.source {
            source @ (Source::User { .. } | Source::File { .. }) => {
                self.map_pages(source, pages.writable, mapping, domains, small)
            }
            Source::DmaBuf { memory, start } => {
                memory.map(*start, mapping, domains, small).map(|()| None)
            }
        }
    }
}

impl AreaPages {
    /// Returns the physical address of `iova`, which is in `mapping`, and the number of contiguous
    /// bytes from there on, at most `most`. (`IOMMU_IOAS_NOIOMMU_GET_PA`)
    ///
    /// # Errors
    ///
    /// `EINVAL` if the memory was revoked, `EOPNOTSUPP` if no domain maps the area or the storage
    /// domain is not `usable`, `EINTR` if the current task is being killed.
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    pub(crate) fn phys_contig(
        &self,
        mapping: &Mapping,
        iova: usize,
        most: u64,
        usable: impl FnOnce(&PagingDomain) -> bool,
    ) -> Result<(u64, u64)> {
        let inner = self.pages.lock();
        // Nothing is unmapped by a revocation while this is held.
        let _dmabuf = match &self.pages.source {
            Source::DmaBuf { memory, .. } => Some(memory.lock_mapped()?),
            Source::User { .. } | Source::File { .. } => None,
        };
        let record = match &self.place {
            Storage::Stored { key, .. } => inner.tiers.records.of(key, mapping),
            Storage::Unstored(_) | Storage::Moving => None,
        };
        let domain = record
            .map(|record| &record.storage)
            .filter(|domain| usable(domain))
            .ok_or(EOPNOTSUPP)?;

        let paddr = domain.iova_to_phys(iova);
        // Pages of the memory, whose boundaries in the IOVA differ by the page offset.
        let index = mapping.iova_to_index(iova);
        let mut end = mapping.index_to_iova_last(index);
        let mut len = (end - iova) as u64 + 1;
        while len < most && end < mapping.iova.last {
            crate::sys::task::go_on()?;
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

/// Checks that runs are what the domain maps. A wrong one would unpin other memory.
#[cfg(CONFIG_IOMMUFD_TEST)]
fn check_runs(mapping: &Mapping, domain: &PagingDomain, runs: Option<&RunList>) {
    let Some(runs) = runs else { return };

    warn_on!(runs.range() != Some(mapping.pages()));
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

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_pages)]
mod tests {
    use super::*;
    use crate::{
        mapping::Prot,
        pages::{
            run::Random,
            PinBuffer, //
        },
        range::{
            IovaRange,
            PageRange, //
        },
        sys::{
            domain::RunQueue,
            pin::test_memory,
            task::AccountMode,
            test_domain, //
        }, //
    };
    use kernel::{
        bindings,
        page::PAGE_SIZE,
        uaccess::{
            UserPtr,
            UserSlice, //
        }, //
    };

    /// The size of the largest area.
    const PAGES: usize = 40;

    /// Creates pages of the memory of this test, from byte `offset` on.
    fn test_pages(addr: usize, offset: usize, len: usize) -> Result<(AreaPages, usize)> {
        let (pages, start) = Pages::from_user(addr + offset, len, true, AccountMode::None)?;

        Ok((AreaPages::first(pages), start))
    }

    fn pinned(area: &AreaPages) -> usize {
        area.pages.lock().account.pages()
    }

    /// Allocates memory and touches its pages in random order, so that they are not contiguous.
    fn memory(random: &mut Random) -> Result<usize> {
        let addr = test_memory(test_domain::PAGES * PAGE_SIZE)?;

        for _ in 0..4 * test_domain::PAGES {
            let page = random.below(test_domain::PAGES);
            let user = UserPtr::from_addr(addr + page * PAGE_SIZE);

            UserSlice::new(user, 8).writer().write(&(page as u64))?;
        }
        Ok(addr)
    }

    /// The fast path of small areas has the same results as the slow path.
    #[test]
    fn small_areas_are_as_large_ones() -> Result {
        let mut random = Random::new(9);
        let addr = memory(&mut random)?;
        let (fast, slow) = (test_domain::new()?, test_domain::new()?);
        let domains = |domain: &Arc<PagingDomain>| [domain.clone()];
        let (fasts, slows) = (domains(&fast), domains(&slow));
        let prot = Prot(bindings::IOMMU_READ | bindings::IOMMU_WRITE);

        for round in 0..100 {
            let len = (1 + random.below(PAGES)) * PAGE_SIZE;
            let offset = random.below(test_domain::PAGES - PAGES) * PAGE_SIZE;
            let (mut pages, start) = test_pages(addr, offset, len)?;
            let (mut others, _) = test_pages(addr, offset, len)?;
            let iova = random.below(test_domain::PAGES - PAGES) * PAGE_SIZE;
            let mapping = Mapping::new(IovaRange::from_len(iova, len)?, start, prot)?;
            let small = round % 3 == 0;

            let mut buffer = PinBuffer::new();
            let mut batch = PinnedBatch::new(&mut buffer);
            // It can decline, for example because of a signal.
            if !pages.pages.pin_batch(mapping.pages(), &mut batch)? {
                continue;
            }
            pages.fill_batch(&mut batch, &mapping, &fasts, small)?;
            drop(batch);
            others.fill(&mapping, &slows, small)?;
            assert!(test_domain::pfns(&fast) == test_domain::pfns(&slow));
            assert_eq!(pinned(&pages), mapping.pages().len());
            assert_eq!(pinned(&others), mapping.pages().len());
            assert!(pages.is_known() && others.is_known());

            // In some rounds an access holds a page of it, too.
            let hold = round % 2 == 0;
            let page = PageRange {
                first: mapping.pages().last,
                last: mapping.pages().last,
            };
            let mut out = [core::mem::MaybeUninit::uninit()];
            if hold {
                pages.pages.pin_access(page, &mut out, true)?;
            }
            test_domain::take_flushes(&fast);
            fast.unmap_many(core::iter::once(mapping.iova));
            pages.release(&mapping);
            assert_eq!(test_domain::take_flushes(&fast), 1);
            assert_eq!(pinned(&pages), usize::from(hold));
            if hold {
                pages.pages.unpin_access(page);
                assert_eq!(pinned(&pages), 0);
            }
            others.unfill(&mapping, &slows);
            assert_eq!(pinned(&others), 0);
            assert!(test_domain::pfns(&fast) == [0; test_domain::PAGES]);
            assert!(test_domain::pfns(&slow) == [0; test_domain::PAGES]);
        }
        Ok(())
    }

    /// An area is mapped where an equal one was unmapped and is not released yet. Both are split
    /// and removed in several orders.
    #[test]
    fn areas_that_look_alike() -> Result {
        let mut random = Random::new(12);
        let addr = memory(&mut random)?;
        let (domain, other) = (test_domain::new()?, test_domain::new()?);
        let domains = [domain.clone()];
        let prot = Prot(bindings::IOMMU_READ | bindings::IOMMU_WRITE);

        for round in 0..60 {
            let len = (2 + random.below(PAGES - 2)) * PAGE_SIZE;
            let (mut first, start) = test_pages(addr, 0, len)?;
            let mut second = AreaPages::new(first.pages.clone())?;
            let mapping = Mapping::new(IovaRange::from_len(0, len)?, start, prot)?;
            let cut = (1 + random.below(len / PAGE_SIZE - 1)) * PAGE_SIZE - 1;
            let (left, right) = mapping.split_at(cut)?;

            first.fill(&mapping, &domains, true)?;
            assert!(first.is_known());
            let first_right = first.split(&mapping, &left, &right, SpareSlot::new()?);
            assert!(first.is_known() && first_right.is_known());
            domain.unmap_many([left.iova, right.iova].into_iter());

            second.fill(&mapping, &domains, true)?;
            let table = test_domain::pfns(&domain);
            if round % 2 == 0 {
                second.add_domain(&mapping, &other, true)?;
                second.remove_domain(&mapping, &domain, &other);
                assert!(test_domain::pfns(&other) == table);
            }
            let mut second_right = second.split(&mapping, &left, &right, SpareSlot::new()?);
            assert_eq!(pinned(&first), len / PAGE_SIZE);

            // The last holder of a page unpins it.
            match round % 3 {
                0 => {
                    first.release(&left);
                    first_right.release(&right);
                    assert_eq!(pinned(&first), len / PAGE_SIZE);
                    second.unfill(&left, &[]);
                    assert_eq!(pinned(&first), right.pages().len());
                    second_right.unfill(&right, &[]);
                }
                1 => {
                    second.unfill(&left, &[]);
                    second_right.unfill(&right, &[]);
                    assert_eq!(pinned(&first), len / PAGE_SIZE);
                    first_right.release(&right);
                    assert_eq!(pinned(&first), left.pages().len());
                    first.release(&left);
                }
                _ => {
                    second.unfill(&left, &[]);
                    first.release(&left);
                    assert_eq!(pinned(&first), right.pages().len());
                    first_right.release(&right);
                    second_right.unfill(&right, &[]);
                }
            }
            assert_eq!(pinned(&first), 0);
            assert!(!second.is_stored() && !second_right.is_stored());
            for domain in [&domain, &other] {
                assert!(test_domain::pfns(domain) == [0; test_domain::PAGES]);
            }
        }
        Ok(())
    }

    /// A failed mapping leaves nothing pinned or mapped.
    #[test]
    fn small_areas_that_fail() -> Result {
        let mut random = Random::new(10);
        let addr = memory(&mut random)?;
        let domain = test_domain::new()?;
        let domains = [domain.clone()];
        let len = 20 * PAGE_SIZE;

        for page in 0..20 {
            let (mut pages, start) = test_pages(addr, 0, len)?;
            let mapping = Mapping::new(IovaRange::from_len(0, len)?, start, Prot(1))?;
            let mut buffer = PinBuffer::new();
            let mut batch = PinnedBatch::new(&mut buffer);

            // Occupy a page of the domain.
            test_domain::set_pfn(&domain, page, Some(1));
            let mut table = [0; test_domain::PAGES];
            table[page] = 1;
            if pages.pages.pin_batch(mapping.pages(), &mut batch)? {
                // The test domain refuses what it has, and the core unmaps what was mapped.
                let res = pages.fill_batch(&mut batch, &mapping, &domains, true);

                assert!(res.is_err() && !pages.is_stored());
            }
            assert_eq!(pinned(&pages), 0);
            assert!(test_domain::pfns(&domain) == table);
            test_domain::set_pfn(&domain, page, None);
        }
        Ok(())
    }

    /// What cannot be mapped in one of two domains leaves nothing behind in either, be it in the
    /// first list of runs, in the last, or where one ends.
    #[test]
    fn areas_of_several_lists_that_fail() -> Result {
        let mut random = Random::new(13);
        let addr = memory(&mut random)?;
        let domains = [test_domain::new()?, test_domain::new()?];
        let len = 90;
        let last = RunQueue::CAPACITY;

        for page in (0..len).filter(|page| page % 9 == 0 || (last - 2..=last + 1).contains(page)) {
            for (bad, small) in [(0, false), (0, true), (1, false), (1, true)] {
                let (mut pages, start) = test_pages(addr, 0, len * PAGE_SIZE)?;
                let iova = IovaRange::from_len(0, len * PAGE_SIZE)?;
                let mapping = Mapping::new(iova, start, Prot(1))?;
                let mut buffer = PinBuffer::new();
                let mut batch = PinnedBatch::new(&mut buffer);
                let mut table = [0; test_domain::PAGES];

                // Something is in the way.
                test_domain::set_pfn(&domains[bad], page, Some(1));
                table[page] = 1;
                if pages.pages.pin_batch(mapping.pages(), &mut batch)? {
                    let res = pages.fill_batch(&mut batch, &mapping, &domains, small);

                    assert!(res.is_err() && !pages.is_stored());
                }
                assert_eq!(pinned(&pages), 0);
                assert!(pages.fill(&mapping, &domains, small).is_err());
                assert!(!pages.is_stored());
                assert_eq!(pinned(&pages), 0);
                assert!(test_domain::pfns(&domains[bad]) == table);
                assert!(test_domain::pfns(&domains[1 - bad]) == [0; test_domain::PAGES]);
                test_domain::set_pfn(&domains[bad], page, None);
            }
        }
        Ok(())
    }
}
