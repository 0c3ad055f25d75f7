// SPDX-License-Identifier: GPL-2.0

//! The domain tier: pages that are mapped in IOMMU domains.
//!
//! Actors: an area of an IO page table shows a slice of the pages, in each domain that its IOAS
//! has. One of these domains is the area's *storage*: it knows the PFNs, and holding them there
//! costs no memory. A [`Record`] names it. As asking a domain is slow, the record also has the PFNs
//! themselves, where they are few runs: this is a cache that may be absent.
//!
//! [`fill`](super::fill) puts PFNs into domains, [`drain`](super::drain) takes them out. Taking out
//! never fails and works without memory.
//!
//! Locks: all of it is done under the mutex of the pages, and the caller holds `domains_rwsem`, so
//! that the list of domains stays as it is.
#![forbid(unsafe_code)]

use super::{
    fill::unmap_from_all,
    record::{
        Record,
        Slot, //
    },
    run::RunList,
    source::{
        Few,
        Source, //
    },
    Inner,
    Pages, //
};
use crate::{
    ffi::{
        domain::PagingDomain,
        pin, //
    },
    mapping::Mapping, //
};
#[cfg(CONFIG_IOMMUFD_TEST)]
use kernel::{
    page::PAGE_SHIFT,
    warn_on, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Whether `domain` is one of `domains`.
#[inline]
fn is_in(domains: &[Arc<PagingDomain>], domain: &PagingDomain) -> bool {
    domains.iter().any(|other| other.ptr_eq(domain))
}

impl Inner {
    /// Records an area.
    #[inline(always)]
    fn store(
        &mut self,
        slot: Slot,
        mapping: &Mapping,
        storage: Arc<PagingDomain>,
        runs: Option<RunList>,
    ) {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        check_runs(mapping, &storage, runs.as_ref());

        let record = Record::new(mapping, storage, runs);
        self.tiers.records.insert(slot, record);
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
            Source::DmaBuf { start, .. } => inner
                .map_dmabuf(*start, mapping, domains, small)
                .map(|()| None),
        };
        match res {
            Ok(runs) => {
                inner.store(slot, mapping, storage.clone(), runs);
                Ok(())
            }
            Err(err) => Err((err, slot)),
        }
    }

    /// Maps all pages of a new area, the first one that shows these pages, which were pinned
    /// beforehand. Else as [`Self::fill`]. Tells whether the PFNs are [known](Self::is_known) now.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`].
    #[inline]
    pub(crate) fn fill_few(
        &self,
        few: &mut Few<'_>,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
        slot: Slot,
    ) -> Result<bool> {
        let mut inner = self.lock();
        let storage = domains.first().ok_or(EINVAL)?;
        let runs = inner.map_few(few, self.writable, mapping, domains, small)?;
        let known = runs.is_some();

        inner.store(slot, mapping, storage.clone(), runs);
        Ok(known)
    }

    /// Whether the PFNs of an area are known, so that nobody reads them from a domain, as far as
    /// this can be told without waiting.
    ///
    /// Such an area can be unmapped from all its `domains` at any time, and be [released] later.
    ///
    /// [released]: Self::release
    #[inline]
    pub(crate) fn is_known(&self, mapping: &Mapping, domains: &[Arc<PagingDomain>]) -> bool {
        if self.is_dmabuf() {
            return false;
        }
        let is_ours = |domain: &PagingDomain| is_in(domains, domain);

        self.inner.try_lock().is_some_and(|inner| {
            inner
                .tiers
                .records
                .of(mapping, is_ours)
                .is_some_and(|record| record.known().is_some())
        })
    }

    /// Unpins the pages of an area that nobody else holds, after it was unmapped from all its
    /// `domains`. The PFNs of the area are [known](Self::is_known). Never fails, works without
    /// memory.
    #[inline]
    pub(crate) fn release(&self, mapping: &Mapping, domains: &[Arc<PagingDomain>]) {
        let is_ours = |domain: &PagingDomain| is_in(domains, domain);
        let mut inner = self.lock();
        let Inner { tiers, account, .. } = &mut *inner;

        if let Some(run) = tiers.only_run_of(mapping, is_ours) {
            pin::unpin(run, self.writable);
            account.unpinned(run.len);
            tiers.records.forget_own();
        } else if let Some((_slot, record)) = tiers.records.remove(mapping, is_ours) {
            // Mostly somebody else holds all or nothing of it.
            if tiers.hold_all(mapping.pages()) {
                return;
            }
            for (index, run) in record.known().iter().flat_map(|runs| runs.iter()) {
                inner.unpin_unheld(self.writable, index, run);
            }
        }
        inner.account.settle_less(None);
    }

    /// Unmaps an area that is about to go from all domains of its IOAS, and unpins the pages that
    /// nobody holds any more. Never fails, works without memory.
    ///
    /// `domains` are all that have the area, and there is one at least.
    pub(crate) fn unfill(&self, mapping: &Mapping, domains: &[Arc<PagingDomain>]) {
        let mut inner = self.lock();
        let is_ours = |domain: &PagingDomain| is_in(domains, domain);
        let Some((_slot, record)) = inner.tiers.records.remove(mapping, is_ours) else {
            return;
        };
        let storage = &record.storage;

        match &self.source {
            Source::User { .. } | Source::File { .. } => {
                let others = domains.iter().filter(|domain| !domain.ptr_eq(storage));
                unmap_from_all(others, mapping.iova);
                inner.drain(
                    self.writable,
                    mapping,
                    mapping.pages(),
                    storage,
                    record.known(),
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
            Source::DmaBuf { start, .. } => {
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
            let Some((free, record)) = inner.tiers.records.remove(mapping, is_ours) else {
                return;
            };
            let storage = &record.storage;

            match &self.source {
                Source::User { .. } | Source::File { .. } => {
                    let dirty = self.writable;
                    inner.drain(dirty, mapping, mapping.pages(), storage, record.known());
                    inner.account.settle_less(None);
                }
                Source::DmaBuf { .. } => inner.unmap_dmabuf(mapping, is_ours),
            }
            *slot = Some(free);
            return;
        };

        inner.tiers.records.move_to(mapping, is_ours, successor);
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
        let Some((slot, record)) = inner.tiers.records.remove(mapping, is_ours) else {
            return;
        };

        // Should there be no memory for the runs, they will be read from the domain.
        let slice = |range| {
            let gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
            record.known().and_then(|runs| runs.slice(range, gfp).ok())
        };
        inner.store(slot, left, record.storage.clone(), slice(left.pages()));
        inner.store(spare, right, record.storage.clone(), slice(right.pages()));
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

        if inner.is_revoked() {
            return Err(EINVAL);
        }
        let domain = inner
            .tiers
            .records
            .of(mapping, |domain| is_in(domains, domain))
            .map(|record| &record.storage)
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
        context::AccountMode,
        ffi::{
            pin::test_memory,
            test_domain, //
        },
        mapping::Prot,
        pages::{
            run::Random,
            Room, //
        },
        range::{
            IovaRange,
            PageRange, //
        },
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

    /// Pages of this test that are not all contiguous, from byte `offset` of its memory on.
    fn test_pages(addr: usize, offset: usize, len: usize) -> Result<(Arc<Pages>, Slot, usize)> {
        let (pages, start) = Pages::from_user(addr + offset, len, true, AccountMode::None)?;
        let (pages, slot) = pages.into_parts();

        Ok((pages, slot, start))
    }

    fn pinned(pages: &Pages) -> usize {
        pages.lock().account.pages()
    }

    /// Memory whose pages were touched in an order of their own.
    fn memory(random: &mut Random) -> Result<usize> {
        let addr = test_memory(test_domain::PAGES * PAGE_SIZE)?;

        for _ in 0..4 * test_domain::PAGES {
            let page = random.below(test_domain::PAGES);
            let user = UserPtr::from_addr(addr + page * PAGE_SIZE);

            UserSlice::new(user, 8).writer().write(&(page as u64))?;
        }
        Ok(addr)
    }

    /// Areas that are mapped at once and released are mapped and unmapped as those are that go step
    /// by step.
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
            let (pages, slot, start) = test_pages(addr, offset, len)?;
            let (others, other_slot, _) = test_pages(addr, offset, len)?;
            let iova = random.below(test_domain::PAGES - PAGES) * PAGE_SIZE;
            let mapping = Mapping::new(IovaRange::from_len(iova, len)?, start, prot)?;
            let small = round % 3 == 0;

            let mut room = Room::new();
            let mut few = Few::new(&mut room);
            // Unless a signal comes, or the like.
            if !pages.pin_few(mapping.pages(), &mut few)? {
                continue;
            }
            let known = pages.fill_few(&mut few, &mapping, &fasts, small, slot)?;
            drop(few);
            others
                .fill(&mapping, &slows, small, other_slot)
                .map_err(|(err, _)| err)?;
            assert!(test_domain::pfns(&fast) == test_domain::pfns(&slow));
            assert_eq!(pinned(&pages), mapping.pages().len());
            assert_eq!(pinned(&others), mapping.pages().len());
            assert!(known && pages.is_known(&mapping, &fasts));
            assert!(!pages.is_known(&mapping, &slows));

            // A part of it is held by an access, too, or it is shown twice.
            let hold = round % 2 == 0;
            let page = PageRange {
                first: mapping.pages().last,
                last: mapping.pages().last,
            };
            let mut out = [core::mem::MaybeUninit::uninit()];
            if hold {
                pages.pin_access(page, &mut out, true)?;
            }
            test_domain::take_flushes(&fast);
            fast.unmap_many(core::iter::once(mapping.iova));
            pages.release(&mapping, &fasts);
            assert_eq!(test_domain::take_flushes(&fast), 1);
            assert_eq!(pinned(&pages), usize::from(hold));
            if hold {
                pages.unpin_access(page);
                assert_eq!(pinned(&pages), 0);
            }
            others.unfill(&mapping, &slows);
            assert_eq!(pinned(&others), 0);
            assert!(test_domain::pfns(&fast) == [0; test_domain::PAGES]);
            assert!(test_domain::pfns(&slow) == [0; test_domain::PAGES]);
        }
        Ok(())
    }

    /// What cannot be mapped leaves nothing behind.
    #[test]
    fn small_areas_that_fail() -> Result {
        let mut random = Random::new(10);
        let addr = memory(&mut random)?;
        let domain = test_domain::new()?;
        let domains = [domain.clone()];
        let len = 20 * PAGE_SIZE;

        for page in 0..20 {
            let (pages, slot, start) = test_pages(addr, 0, len)?;
            let mapping = Mapping::new(IovaRange::from_len(0, len)?, start, Prot(1))?;
            let mut room = Room::new();
            let mut few = Few::new(&mut room);

            // Something is in the way.
            test_domain::set_pfn(&domain, page, 1);
            let mut table = [0; test_domain::PAGES];
            table[page] = 1;
            if pages.pin_few(mapping.pages(), &mut few)? {
                // The test domain refuses what it has, and the core unmaps what was mapped.
                let res = pages.fill_few(&mut few, &mapping, &domains, true, slot);

                assert!(res.is_err());
            }
            assert_eq!(pinned(&pages), 0);
            assert!(test_domain::pfns(&domain) == table);
            test_domain::set_pfn(&domain, page, 0);
        }
        Ok(())
    }
}
