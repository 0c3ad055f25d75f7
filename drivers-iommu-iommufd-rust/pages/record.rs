// SPDX-License-Identifier: GPL-2.0

//! PFN records: which areas are mapped in domains, and their PFNs.
//!
//! A [`Record`] exists for each area that is mapped in a domain. [`Records`] has those of one array
//! of pages. The memory for a record is a [`Slot`]. The area owns the slot while no domain maps it,
//! and exchanges it for the record, so that neither direction can fail. Most arrays of pages have
//! only one area: the record of the first one is embedded in the pages, and needs neither an
//! allocation nor a tree.
//!
//! An area finds its record by the [`Key`] that it got for its slot. IOVA, pages and domain do not
//! identify it: an area can be mapped where an equal one was unmapped and is not released yet. A
//! key is a number that counts the records of the pages, under their mutex. (The address of the
//! record would be unique, too. But the tree keeps records with the same first page in insertion
//! order, which is that of the numbers, so they can be found by bisection.)
//!
//! Locks: all of it is protected by the mutex of the pages.
#![forbid(unsafe_code)]

use super::run::{
    Run,
    RunList, //
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
        PhysRuns, //
    }, //
};
use kernel::{
    alloc::Flags,
    interval_tree::{
        Entry,
        IntervalTree,
        Node, //
    },
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

/// The record of an area that is mapped in domains.
pub(super) struct Record {
    /// The IOVA range of the area.
    iova: IovaRange,
    /// The first byte of the pages that is mapped.
    first_byte: usize,
    /// The storage domain, from which the PFNs can be read back.
    pub(super) storage: Arc<PagingDomain>,
    /// The PFNs of all pages of the area, or an empty list, which is smaller than an [`Option`].
    runs: RunList,
}

impl Record {
    /// The number of runs that are read back at a time, if there is memory (8 KiB). A walk of the
    /// page table costs about as much as reading 10 entries.
    const MANY: usize = 512;

    /// Creates the record of an area with this mapping, storage domain and PFNs, if known.
    #[inline]
    pub(super) fn new(
        mapping: &Mapping,
        storage: Arc<PagingDomain>,
        runs: Option<RunList>,
    ) -> Self {
        Self {
            iova: mapping.iova,
            first_byte: mapping.first_byte,
            storage,
            runs: runs.unwrap_or(RunList::new(0)),
        }
    }

    /// Returns the mapping of the area, without the protection, which is not recorded.
    #[inline]
    fn mapping(&self) -> Mapping {
        Mapping {
            iova: self.iova,
            first_byte: self.first_byte,
            prot: Prot(0),
        }
    }

    /// Returns the pages that the area maps.
    #[inline]
    pub(super) fn pages(&self) -> PageRange {
        self.mapping().pages()
    }

    /// Splits the record into those of the areas `left` and `right`.
    ///
    /// If there is no memory for the PFNs of one, they will be read from the domain.
    pub(super) fn split(self, left: &Mapping, right: &Mapping) -> (Self, Self) {
        let known = self.known().is_some();
        let Self { storage, runs, .. } = self;
        let (left_runs, right_runs) = if known {
            let (left, right) = runs.split(left.pages(), right.pages(), gfp_optional());

            (Some(left), Some(right))
        } else {
            (None, None)
        };

        (
            Self::new(left, storage.clone(), left_runs),
            Self::new(right, storage, right_runs),
        )
    }

    /// Returns the PFNs, if they are known.
    #[inline]
    pub(super) fn known(&self) -> Option<&RunList> {
        (self.runs.len() != 0).then_some(&self.runs)
    }

    /// Returns the PFNs, or an empty list if they are not known.
    #[inline]
    pub(super) fn runs(&self) -> &RunList {
        &self.runs
    }

    /// Reads the PFNs of the front of `range`, which is within the record, back from the domain: as
    /// many runs as `read` has room for.
    ///
    /// For many pages `read` is enlarged, if there is memory.
    pub(super) fn read_back<'a>(&self, range: PageRange, read: &'a mut PhysRuns) -> &'a [PhysRun] {
        if range.len() > PhysRuns::FEW && read.capacity() == PhysRuns::FEW {
            read.try_reserve(range.len().min(Self::MANY));
        }
        read.read(&self.storage, self.mapping().iova_of(range))
    }
}

/// Flags to allocate memory for an optimisation: without invoking the OOM killer or a warning.
#[inline]
pub(super) fn gfp_optional() -> Flags {
    GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN
}

/// Preallocated memory for a record.
///
/// Allocated with the area, which owns it while no domain maps the area.
pub(crate) struct Slot(SlotMemory);

enum SlotMemory {
    /// The record embedded in the pages. There is one such slot for each array of pages.
    Own,
    /// A node for the tree. Always empty here.
    Node(KBox<Node<Other>>),
}

/// The record of an area that is not the first one of its pages.
struct Other {
    number: u64,
    /// [`None`] if the node is that of a [`Slot`].
    record: Option<Record>,
}

/// The key of a record.
///
/// No two records of the same pages have the same key, nor is a key reused, except for the embedded
/// record: its key belongs to the owner of its [`Slot`], which is unique. Only [`Records::insert`]
/// makes keys, and they cannot be copied.
pub(super) struct Key(u64);

impl Key {
    /// The key of the embedded record.
    const OWN: u64 = 0;
}

impl Slot {
    /// Allocates a slot.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub(crate) fn new() -> Result<Self> {
        let other = Other {
            number: Key::OWN,
            record: None,
        };

        Ok(Self(SlotMemory::Node(Node::new(
            0,
            0,
            other,
            GFP_KERNEL_ACCOUNT,
        )?)))
    }

    /// Returns the slot of the embedded record. Called once for each array of pages.
    #[inline]
    pub(super) const fn own() -> Self {
        Self(SlotMemory::Own)
    }
}

/// The records of an array of pages. They overlap if several areas map the same pages.
pub(super) struct Records {
    own: Option<Record>,
    /// Records with the same first page are ordered by number, since numbers grow with each
    /// insertion.
    others: IntervalTree<Other>,
    /// The number of the newest record in `others`.
    newest: u64,
}

impl Records {
    #[inline]
    pub(super) const fn new() -> Self {
        Self {
            own: None,
            others: IntervalTree::new(),
            newest: Key::OWN,
        }
    }

    /// Returns whether there is no record.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.own.is_none() && self.others.is_empty()
    }

    /// Returns the record with the lowest first page of those that intersect `first ..= last`, and
    /// its pages.
    #[inline]
    pub(super) fn first(&self, first: usize, last: usize) -> Option<(PageRange, &Record)> {
        let own = self
            .own
            .as_ref()
            .map(|record| (record.pages(), record))
            .filter(|(pages, _)| pages.first <= last && first <= pages.last);
        if self.others.is_empty() {
            return own;
        }

        let node = self.others.first(first, last);
        let other = node.and_then(|node| {
            let pages = PageRange {
                first: node.start(),
                last: node.last(),
            };

            Some((pages, node.value().record.as_ref()?))
        });
        match (&own, &other) {
            (Some((a, _)), Some((b, _))) if a.first <= b.first => own,
            (_, Some(_)) => other,
            (_, None) => own,
        }
    }

    /// Returns the record of the area with this mapping and key.
    #[cfg(any(CONFIG_IOMMUFD_NOIOMMU, CONFIG_IOMMUFD_RUST_KUNIT_TEST))]
    #[inline]
    pub(super) fn of(&self, key: &Key, mapping: &Mapping) -> Option<&Record> {
        if key.0 == Key::OWN {
            return self.own.as_ref();
        }

        let node = self.others.last_where(not_behind(key, mapping))?;
        node.value().record.as_ref().filter(|_| is_of(node, key))
    }

    /// Returns the node of the area with this mapping and key.
    fn other_mut(&mut self, key: &Key, mapping: &Mapping) -> Option<Entry<'_, Other>> {
        self.others
            .last_where_mut(not_behind(key, mapping))
            .filter(|entry| is_of(entry.node(), key))
    }

    /// Adds the record of an area. Returns its key.
    #[inline(always)]
    pub(super) fn insert(&mut self, slot: Slot, record: Record) -> Key {
        match slot.0 {
            SlotMemory::Own => {
                warn_on!(self.own.is_some());
                self.own = Some(record);
                Key(Key::OWN)
            }
            SlotMemory::Node(node) => self.insert_node(node, record),
        }
    }

    fn insert_node(&mut self, mut node: KBox<Node<Other>>, record: Record) -> Key {
        let PageRange { first, last } = record.pages();

        // Does not overflow: at one insertion per nanosecond this takes 500 years.
        self.newest = self.newest.wrapping_add(1);
        // Cannot fail: a mapping is not backwards.
        warn_on!(node.set_range(first, last).is_err());
        *node.value_mut() = Other {
            number: self.newest,
            record: Some(record),
        };
        self.others.insert(node);
        Key(self.newest)
    }

    /// Removes the record of the area with this mapping and key, which must exist.
    #[inline]
    pub(super) fn remove(&mut self, key: &Key, mapping: &Mapping) -> Option<(Slot, Record)> {
        let found = if key.0 == Key::OWN {
            self.own
                .take()
                .map(|record| (Slot(SlotMemory::Own), record))
        } else {
            self.remove_other(key, mapping)
        };

        warn_on!(found.is_none());
        found
    }

    fn remove_other(&mut self, key: &Key, mapping: &Mapping) -> Option<(Slot, Record)> {
        let mut node = self.other_mut(key, mapping)?.remove();
        let record = node.value_mut().record.take()?;

        Some((Slot(SlotMemory::Node(node)), record))
    }

    /// Returns the PFNs of the area that has `key`, if they are known and one run, and its record
    /// is the embedded one and the only one.
    #[inline]
    pub(super) fn only_run_of(&self, key: &Key) -> Option<Run> {
        if key.0 != Key::OWN || !self.others.is_empty() {
            return None;
        }
        self.own.as_ref()?.runs.only_run()
    }

    /// Drops the embedded record.
    #[inline]
    pub(super) fn forget_own(&mut self) {
        self.own = None;
    }

    /// Makes `to` the storage domain of an area, if `from` is.
    pub(super) fn move_storage(
        &mut self,
        key: &Key,
        mapping: &Mapping,
        from: &PagingDomain,
        to: &Arc<PagingDomain>,
    ) {
        let record = if key.0 == Key::OWN {
            self.own.as_mut()
        } else {
            self.other_mut(key, mapping)
                .and_then(|entry| entry.into_value_mut().record.as_mut())
        };

        warn_on!(record.is_none());
        if let Some(record) = record.filter(|record| record.storage.ptr_eq(from)) {
            record.storage = to.clone();
        }
    }
}

/// Returns a predicate: a node is not behind that of the area with this mapping and key.
#[inline]
fn not_behind<'a>(key: &'a Key, mapping: &Mapping) -> impl FnMut(&Node<Other>) -> bool + 'a {
    let first = mapping.pages().first;

    move |node| (node.start(), node.value().number) <= (first, key.0)
}

/// Returns whether a node is that of the area that has `key`.
#[inline]
fn is_of(node: &Node<Other>, key: &Key) -> bool {
    node.value().number == key.0
}

/// Returns the number of pages of runs that were read back. The first and last may be partial.
#[inline]
pub(super) fn pages_of(runs: &[PhysRun]) -> usize {
    // Only the first and the last run can begin or end within a page.
    let offset = runs.first().map_or(0, |run| offset_in_page(run.paddr()));
    let bytes = runs.iter().map(PhysRun::len).sum::<usize>();

    (offset + bytes).div_ceil(PAGE_SIZE)
}

/// Returns the PFNs of a run that was read back. The first and last page may be partial.
#[inline]
pub(super) fn pfns_of(phys: &PhysRun) -> Run {
    let paddr = phys.paddr();

    Run {
        // CAST: The number of a page frame fits, where an address may not.
        pfn: (paddr >> PAGE_SHIFT) as usize,
        // Does not overflow: a run is physical memory.
        len: (offset_in_page(paddr) + phys.len() + (PAGE_SIZE - 1)) >> PAGE_SHIFT,
    }
}

/// Returns the PFN of a run that was read back, if it is one whole page.
#[inline]
pub(super) fn only_pfn_of(phys: &PhysRun) -> Option<usize> {
    let paddr = phys.paddr();

    // CAST: As in `pfns_of()`.
    (phys.len() == PAGE_SIZE && offset_in_page(paddr) == 0)
        .then_some((paddr >> PAGE_SHIFT) as usize)
}

/// Returns the number of bytes before `paddr` in its page.
#[inline]
fn offset_in_page(paddr: PhysAddr) -> usize {
    // CAST: Truncation keeps these bits.
    paddr as usize % PAGE_SIZE
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_records)]
mod tests {
    use super::*;
    use crate::{
        mapping::Prot,
        pages::run::Random,
        range::IovaRange,
        sys::test_domain, //
    };
    use core::mem::size_of;
    use test_domain::PAGES;

    /// Returns a mapping of `len` pages from index `first` on, at a page of IOVA.
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
                test_domain::set_pfn(&domain, page, Some(pfn));
            }
            let table = test_domain::pfns(&domain);
            let (page, first) = (random.below(8), random.below(100));
            let all = mapping(page, first, PAGES - page)?;
            let record = Record::new(&all, domain, None);
            let mut kept = PhysRuns::new();
            // With less room than that of the stack, or more.
            let mut little = PhysRuns::new();
            little.try_reserve(random.below(2 * PhysRuns::FEW));

            // Any range, with a new buffer and with one that is reused.
            for _ in 0..20 {
                let mut index = all.pages().first + random.below(all.pages().len());
                let last = all.pages().last.min(index + random.below(PAGES));

                while index <= last {
                    let range = PageRange { first: index, last };
                    let mut new = PhysRuns::new();
                    let runs = record.read_back(range, &mut new);
                    let others = record.read_back(range, &mut kept);
                    let few = little.read(&record.storage, record.mapping().iova_of(range));

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
                        // Runs are as long as possible.
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

    /// Physical address zero is memory on some machines.
    #[test]
    fn page_frame_zero_is_read_as_any_other() -> Result {
        let domain = test_domain::new()?;
        for (page, pfn) in [70, 0, 1, 0, 80].into_iter().enumerate() {
            test_domain::set_pfn(&domain, page, Some(pfn));
        }

        let all = mapping(0, 0, 5)?;
        let record = Record::new(&all, domain, None);
        let mut read = PhysRuns::new();
        let runs = record.read_back(all.pages(), &mut read);
        assert!(runs.iter().map(pfns_of).eq([
            Run { pfn: 70, len: 1 },
            Run { pfn: 0, len: 2 },
            Run { pfn: 0, len: 1 },
            Run { pfn: 80, len: 1 },
        ]));
        Ok(())
    }

    /// If a large allocation fails, a page is used.
    #[test]
    fn reading_back_falls_back_to_a_page() {
        let mut read = PhysRuns::new();

        assert_eq!(read.capacity(), PhysRuns::FEW);
        // More than any allocation has.
        read.try_reserve(1 << 30);
        assert_eq!(read.capacity(), PAGE_SIZE / size_of::<PhysRun>());
        read.try_reserve(PhysRuns::FEW + 1);
        assert_eq!(read.capacity(), PhysRuns::FEW + 1);
    }

    /// An area of the model.
    struct Known {
        key: Key,
        mapping: Mapping,
        storage: Arc<PagingDomain>,
        /// The first PFN. No two records have the same one, and a split record goes on with it.
        pfn: usize,
    }

    impl Known {
        /// Checks that the record is this area's.
        fn is_of(&self, record: &Record) -> bool {
            record.mapping()
                == Mapping {
                    prot: Prot(0),
                    ..self.mapping
                }
                && record.storage.ptr_eq(&self.storage)
                && record.known().and_then(RunList::only_run)
                    == Some(Run {
                        pfn: self.pfn,
                        len: self.mapping.pages().len(),
                    })
        }
    }

    /// Areas differ in their key, and may be equal in everything else.
    #[test]
    fn each_key_finds_the_record_of_its_area() -> Result {
        let domains = [test_domain::new()?, test_domain::new()?];
        let mut random = Random::new(8);
        let mut pfn = 0;

        for round in 0..40 {
            let mut records = Records::new();
            let mut model: KVec<Known> = KVec::new();
            let mut own = Some(Slot::own());

            for _ in 0..150 {
                let n = random.below(model.len().max(1));

                match random.below(8) {
                    0 | 1 if !model.is_empty() => {
                        let gone = model.remove(n).map_err(|_| EINVAL)?;
                        let (slot, record) =
                            records.remove(&gone.key, &gone.mapping).ok_or(ENOENT)?;

                        assert!(gone.is_of(&record));
                        assert!(records.of(&gone.key, &gone.mapping).is_none());
                        if let SlotMemory::Own = slot.0 {
                            own = Some(slot);
                        }
                    }
                    2 if !model.is_empty() => {
                        let from = &domains[random.below(2)];
                        let to = &domains[random.below(2)];
                        let area = &mut model[n];

                        records.move_storage(&area.key, &area.mapping, from, to);
                        if area.storage.ptr_eq(from) {
                            area.storage = to.clone();
                        }
                    }
                    3 if !model.is_empty() && model[n].mapping.pages().len() > 1 => {
                        let area = model.remove(n).map_err(|_| EINVAL)?;
                        let pages = 1 + random.below(area.mapping.pages().len() - 1);
                        let last = area.mapping.iova.start + (pages * PAGE_SIZE - 1);
                        let (left, right) = area.mapping.split_at(last)?;
                        let (slot, record) =
                            records.remove(&area.key, &area.mapping).ok_or(ENOENT)?;
                        let (first, second) = record.split(&left, &right);

                        for (slot, record, mapping, pfn) in [
                            (slot, first, left, area.pfn),
                            (Slot::new()?, second, right, area.pfn + pages),
                        ] {
                            let area = Known {
                                key: records.insert(slot, record),
                                mapping,
                                storage: area.storage.clone(),
                                pfn,
                            };
                            model.push(area, GFP_KERNEL)?;
                        }
                    }
                    _ => {
                        // From mostly different areas to equal ones.
                        let page = random.below(PAGES).min(round);
                        let index = random.below(40).min(40 - round);
                        let mapping = mapping(page, index, 1 + random.below(10))?;
                        let slot = match own.take_if(|_| random.below(2) == 0) {
                            Some(slot) => slot,
                            None => Slot::new()?,
                        };
                        let storage = domains[random.below(2)].clone();
                        let run = Run {
                            pfn,
                            len: mapping.pages().len(),
                        };
                        let runs = RunList::of(mapping.pages().first, run);
                        let record = Record::new(&mapping, storage.clone(), Some(runs));
                        let area = Known {
                            key: records.insert(slot, record),
                            mapping,
                            storage,
                            pfn,
                        };

                        model.push(area, GFP_KERNEL)?;
                        pfn += 1000;
                    }
                }

                assert_eq!(records.is_empty(), model.is_empty());
                for area in &model {
                    let record = records.of(&area.key, &area.mapping);

                    assert!(record.is_some_and(|record| area.is_of(record)));
                }
                let (a, b) = (random.below(50), random.below(50));
                let (first, last) = (a.min(b), a.max(b));
                let pages = model.iter().map(|area| area.mapping.pages());
                let hits = pages.filter(|pages| pages.first <= last && first <= pages.last);
                assert_eq!(
                    records.first(first, last).map(|(pages, _)| pages.first),
                    hits.map(|pages| pages.first).min()
                );
            }
            for area in &model {
                assert!(records.remove(&area.key, &area.mapping).is_some());
            }
            assert!(records.is_empty());
        }
        Ok(())
    }

    /// A page can be mapped any number of times.
    #[test]
    fn records_of_one_page_are_found_by_bisection() -> Result {
        const MANY: usize = 4096;
        let domain = test_domain::new()?;
        let mut records = Records::new();
        let mut keys = KVec::with_capacity(MANY, GFP_KERNEL)?;
        let one = mapping(3, 7, 1)?;

        for n in 0..MANY {
            // Different lengths, so that the insertion order is the only order.
            let mapping = mapping(3, 7, 1 + n % 5)?;
            let record = Record::new(&mapping, domain.clone(), None);

            keys.push(records.insert(Slot::new()?, record), GFP_KERNEL)?;
        }
        for (n, key) in keys.iter().enumerate() {
            let mut steps = 0;
            let mut not_behind = not_behind(key, &one);
            let node = records.others.last_where(|node| {
                steps += 1;
                not_behind(node)
            });

            assert!(node.is_some_and(|node| is_of(node, key)));
            // A red-black tree is at most twice as high as a perfect one.
            assert!(steps <= 2 * (MANY.ilog2() + 1));
            let record = records.of(key, &one).ok_or(ENOENT)?;
            assert_eq!(record.pages().len(), 1 + n % 5);
        }
        for key in keys.iter().rev() {
            assert!(records.remove(key, &one).is_some());
        }
        assert!(records.is_empty());
        Ok(())
    }
}
