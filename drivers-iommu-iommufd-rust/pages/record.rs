// SPDX-License-Identifier: GPL-2.0

//! The records of the domain tier: which areas are mapped, and where their PFNs are.
//!
//! Actors: a [`Record`] says that an area is mapped in domains. [`Records`] has all of those of
//! one array of pages. The memory for a record is a [`Slot`]: the area has it while it is in no
//! domain, and lends it for the record while it is in one, so that nothing can fail then. The
//! first area that pages are made for is nearly always the only one: its record has a place in the
//! pages themselves, and costs neither an allocation nor a tree.
//!
//! Locks: all of it is protected by the mutex of the pages.
#![forbid(unsafe_code)]

use super::run::{
    Run,
    RunList, //
};
use crate::{
    ffi::domain::{
        PagingDomain,
        PhysRuns, //
    },
    mapping::Mapping,
    range::PageRange, //
};
use kernel::{
    interval_tree::{
        IntervalTree,
        Node, //
    },
    iommu::domain::PhysRun,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc,
    warn_on, //
};

/// Says that an area is mapped in domains.
pub(super) struct Record {
    /// What the area shows.
    pub(super) mapping: Mapping,
    /// A domain in which the PFNs can be read back.
    pub(super) storage: Arc<PagingDomain>,
    /// The PFNs of all of `mapping.pages()`, or an empty list: an [`Option`] would be larger.
    runs: RunList,
}

impl Record {
    /// So many runs are read back at a time, if there is memory (8 KiB): a walk of the page table
    /// costs about as much as 10 of its entries.
    const MANY: usize = 512;

    /// Says that `mapping` is shown in `storage`, with these PFNs if they are known.
    #[inline]
    pub(super) fn new(
        mapping: &Mapping,
        storage: Arc<PagingDomain>,
        runs: Option<RunList>,
    ) -> Self {
        Self {
            mapping: *mapping,
            storage,
            runs: runs.unwrap_or(RunList::new(0)),
        }
    }

    /// The PFNs, if they are known.
    #[inline]
    pub(super) fn known(&self) -> Option<&RunList> {
        (self.runs.len() != 0).then_some(&self.runs)
    }

    /// Reads the PFNs of the front of `range`, which is within the record, back from the domain: as
    /// many runs as there is room for in `read`.
    ///
    /// If there is memory, the room is made larger for ranges of many pages.
    pub(super) fn read_back<'a>(&self, range: PageRange, read: &'a mut PhysRuns) -> &'a [PhysRun] {
        if range.len() > PhysRuns::FEW && read.capacity() == PhysRuns::FEW {
            read.try_reserve(range.len().min(Self::MANY));
        }
        read.read(&self.storage, self.mapping.iova_of(range))
    }

    /// Whether this is the record of the area that shows `mapping` in the domains of which
    /// `is_ours` is true.
    ///
    /// Areas with the same pages differ in the mapping, or are in different domains. There can be
    /// two with the same mapping while one is being released, but then either record will do.
    #[inline]
    pub(super) fn is_of(&self, mapping: &Mapping, is_ours: impl Fn(&PagingDomain) -> bool) -> bool {
        let own = &self.mapping;

        own.iova == mapping.iova && own.first_byte == mapping.first_byte && is_ours(&self.storage)
    }
}

/// The memory for a record.
///
/// It is there before it is known whether there is anything to record, so that nothing can fail
/// later. While the area that it was made for is in no domain, the area has it.
pub(crate) struct Slot(Place);

enum Place {
    /// The place in the pages. There is one such slot for each array of pages.
    Own,
    /// A node for the tree. Always empty here.
    Node(KBox<Node<Option<Record>>>),
}

impl Slot {
    /// Allocates a slot.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Place::Node(Node::new(
            0,
            0,
            None,
            GFP_KERNEL_ACCOUNT,
        )?)))
    }

    /// The slot that new pages have in themselves. To be called once for each.
    #[inline]
    pub(super) const fn own() -> Self {
        Self(Place::Own)
    }
}

/// A record that was found.
pub(super) struct Found<'a> {
    /// The pages that it is about.
    pub(super) pages: PageRange,
    pub(super) record: &'a Record,
}

/// The records of some pages. They overlap if an IOAS shows pages twice, or several IOASes do.
pub(super) struct Records {
    own: Option<Record>,
    others: IntervalTree<Option<Record>>,
}

impl Records {
    #[inline]
    pub(super) const fn new() -> Self {
        Self {
            own: None,
            others: IntervalTree::new(),
        }
    }

    /// Whether there is no record.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_none() && self.others.is_empty()
    }

    /// The record with the smallest start among those that have an index of `first ..= last`.
    #[inline]
    pub(super) fn first(&self, first: usize, last: usize) -> Option<Found<'_>> {
        let own = self.own.as_ref().filter(|record| {
            let pages = record.mapping.pages();

            pages.first <= last && first <= pages.last
        });
        let own = own.map(|record| Found {
            pages: record.mapping.pages(),
            record,
        });
        if self.others.is_empty() {
            return own;
        }

        let node = self.others.first(first, last);
        let other = node.and_then(|node| {
            Some(Found {
                pages: PageRange {
                    first: node.start(),
                    last: node.last(),
                },
                record: node.value().as_ref()?,
            })
        });
        match (&own, &other) {
            (Some(a), Some(b)) if a.pages.first <= b.pages.first => own,
            (_, Some(_)) => other,
            (_, None) => own,
        }
    }

    /// The record of an area. (See [`Record::is_of`].)
    #[inline]
    pub(super) fn of(
        &self,
        mapping: &Mapping,
        is_ours: impl Fn(&PagingDomain) -> bool,
    ) -> Option<&Record> {
        let PageRange { first, last } = mapping.pages();
        let is_it = |record: &&Record| record.is_of(mapping, &is_ours);

        if let Some(own) = self.own.as_ref().filter(is_it) {
            return Some(own);
        }
        let mut others = self.others.iter(first, last).map(Node::value);
        others.find_map(|record| record.as_ref().filter(is_it))
    }

    /// Adds the record of an area.
    #[inline(always)]
    pub(super) fn insert(&mut self, slot: Slot, record: Record) {
        match slot.0 {
            Place::Own => {
                warn_on!(self.own.is_some());
                self.own = Some(record);
            }
            Place::Node(node) => self.insert_node(node, record),
        }
    }

    fn insert_node(&mut self, mut node: KBox<Node<Option<Record>>>, record: Record) {
        let PageRange { first, last } = record.mapping.pages();

        // A mapping is never backwards.
        warn_on!(node.set_range(first, last).is_err());
        *node.value_mut() = Some(record);
        self.others.insert(node);
    }

    /// Takes the record of an area out, which must be there. (See [`Record::is_of`].)
    #[inline]
    pub(super) fn remove(
        &mut self,
        mapping: &Mapping,
        is_ours: impl Fn(&PagingDomain) -> bool,
    ) -> Option<(Slot, Record)> {
        let is_it = |record: &Record| record.is_of(mapping, &is_ours);

        if let Some(record) = self.own.take_if(|record| is_it(record)) {
            return Some((Slot(Place::Own), record));
        }

        let PageRange { first, last } = mapping.pages();
        let found = self
            .others
            .find_mut(first, last, |node| node.value().as_ref().is_some_and(is_it))
            .and_then(|entry| {
                let mut node = entry.remove();
                let record = node.value_mut().take()?;

                Some((Slot(Place::Node(node)), record))
            });
        warn_on!(found.is_none());
        found
    }

    /// The PFNs of an area, if they are known and one run, and its record is in the place of the
    /// pages, and the only one.
    #[inline]
    pub(super) fn only_run_of(
        &self,
        mapping: &Mapping,
        is_ours: impl Fn(&PagingDomain) -> bool,
    ) -> Option<Run> {
        if !self.others.is_empty() {
            return None;
        }
        let own = self
            .own
            .as_ref()
            .filter(|own| own.is_of(mapping, is_ours))?;

        own.runs.only_run()
    }

    /// Forgets the record in the place of the pages.
    #[inline]
    pub(super) fn forget_own(&mut self) {
        self.own = None;
    }

    /// Makes another domain the storage of an area's PFNs.
    pub(super) fn move_to(
        &mut self,
        mapping: &Mapping,
        is_ours: impl Fn(&PagingDomain) -> bool,
        storage: &Arc<PagingDomain>,
    ) {
        let is_it = |record: &Record| record.is_of(mapping, &is_ours);

        if let Some(own) = self.own.as_mut().filter(|record| is_it(record)) {
            own.storage = storage.clone();
            return;
        }

        let PageRange { first, last } = mapping.pages();
        let entry = self
            .others
            .find_mut(first, last, |node| node.value().as_ref().is_some_and(is_it));
        if let Some(mut entry) = entry {
            if let Some(record) = entry.value_mut() {
                record.storage = storage.clone();
            }
        }
    }
}

/// The number of pages of what was read back, of which the first and the last may be there in part.
#[inline]
pub(super) fn pages_of(runs: &[PhysRun]) -> usize {
    // Inside, runs begin and end with pages.
    let offset = runs
        .first()
        .map_or(0, |run| run.paddr() as usize % PAGE_SIZE);
    let bytes = runs.iter().map(PhysRun::len).sum::<usize>();

    (offset + bytes).div_ceil(PAGE_SIZE)
}

/// The PFNs of memory that IOVA is mapped to. The first and the last page may be there in part.
#[inline]
pub(super) fn pfns_of(phys: &PhysRun) -> Run {
    let paddr = phys.paddr() as usize;

    Run {
        pfn: paddr >> PAGE_SHIFT,
        // Memory is far from overflow.
        len: (paddr % PAGE_SIZE + phys.len() + (PAGE_SIZE - 1)) >> PAGE_SHIFT,
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_records)]
mod tests {
    use super::*;
    use crate::{
        ffi::test_domain,
        mapping::Prot,
        pages::run::Random,
        range::IovaRange, //
    };
    use test_domain::PAGES;

    /// Shows `len` pages from index `first` on at a page of IOVA.
    fn mapping(page: usize, first: usize, len: usize) -> Result<Mapping> {
        let iova = IovaRange::from_len(page * PAGE_SIZE, len * PAGE_SIZE)?;

        Mapping::new(iova, first * PAGE_SIZE, Prot(0))
    }

    #[test]
    fn what_is_read_is_what_is_mapped() -> Result {
        let mut random = Random::new(7);

        for round in 0..50 {
            let domain = test_domain::new()?;
            let mut pfn = 1000;
            for page in 0..PAGES {
                // From fragmented to contiguous.
                pfn = if random.below(50) < round {
                    pfn + 1
                } else {
                    1000 + random.below(10_000)
                };
                test_domain::set_pfn(&domain, page, pfn);
            }
            let table = test_domain::pfns(&domain);
            let (page, first) = (random.below(8), random.below(100));
            let all = mapping(page, first, PAGES - page)?;
            let record = Record::new(&all, domain, None);
            let mut kept = PhysRuns::new();
            // Whatever there is memory for, there is room for something.
            let mut little = PhysRuns::new();
            little.try_reserve(random.below(2 * PhysRuns::FEW));

            // From anywhere, to anywhere, with room that there was or that is new.
            for _ in 0..20 {
                let mut index = all.pages().first + random.below(all.pages().len());
                let last = all.pages().last.min(index + random.below(PAGES));

                while index <= last {
                    let range = PageRange { first: index, last };
                    let mut new = PhysRuns::new();
                    let runs = record.read_back(range, &mut new);
                    let others = record.read_back(range, &mut kept);
                    let few = little.read(&record.storage, record.mapping.iova_of(range));

                    for read in [runs, few] {
                        assert!(read.len() >= PhysRuns::FEW || pages_of(read) == range.len());
                    }
                    for other in [others, few] {
                        assert!(runs
                            .iter()
                            .zip(other)
                            .all(|(a, b)| pfns_of(a) == pfns_of(b)));
                    }
                    let mut end = None;
                    let first = index;
                    for run in runs.iter().map(pfns_of) {
                        // As long as it gets.
                        assert!(run.len != 0 && end != Some(run.pfn));
                        for n in 0..run.len {
                            assert_eq!(table[page + index + n - all.pages().first], run.pfn + n);
                        }
                        end = Some(run.pfn + run.len);
                        index += run.len;
                    }
                    assert_eq!(index - first, pages_of(runs));
                    assert!(first < index && index <= last + 1);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_place_in_the_pages_is_as_good_as_a_node() -> Result {
        let domain = test_domain::new()?;
        let mut random = Random::new(8);

        for _ in 0..50 {
            let mut records = Records::new();
            let mut model: KVec<Mapping> = KVec::new();
            let mut own = Some(Slot::own());

            for _ in 0..60 {
                if random.below(3) == 0 && !model.is_empty() {
                    let gone = model
                        .remove(random.below(model.len()))
                        .map_err(|_| EINVAL)?;
                    let (slot, record) = records.remove(&gone, |_| true).ok_or(ENOENT)?;

                    assert!(record.mapping == gone);
                    if let Place::Own = slot.0 {
                        own = Some(slot);
                    }
                } else {
                    // No two with the same IOVA.
                    let page = random.below(PAGES);
                    if model
                        .iter()
                        .any(|other| other.iova.start == page * PAGE_SIZE)
                    {
                        continue;
                    }
                    let new = mapping(page, random.below(40), 1 + random.below(10))?;
                    let slot = match own.take_if(|_| random.below(2) == 0) {
                        Some(slot) => slot,
                        None => Slot::new()?,
                    };
                    let record = Record::new(&new, domain.clone(), None);

                    records.insert(slot, record);
                    model.push(new, GFP_KERNEL)?;
                }

                assert_eq!(records.is_empty(), model.is_empty());
                for m in &model {
                    assert!(records
                        .of(m, |_| true)
                        .is_some_and(|found| found.mapping == *m));
                    assert!(records.of(m, |_| false).is_none());
                }
                let (a, b) = (random.below(50), random.below(50));
                let (first, last) = (a.min(b), a.max(b));
                let hits = model
                    .iter()
                    .filter(|m| m.pages().first <= last && first <= m.pages().last);
                let found = records.first(first, last);
                assert_eq!(
                    found.map(|found| found.pages.first),
                    hits.map(|m| m.pages().first).min()
                );
            }
            for m in &model {
                assert!(records.remove(m, |_| true).is_some());
            }
            assert!(records.is_empty());
        }
        Ok(())
    }
}
