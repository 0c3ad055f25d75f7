// SPDX-License-Identifier: GPL-2.0

//! The areas of an IO page table, and their states.
//!
//! | state | mapped in domains | allowed operations | next |
//! |---|---|---|---|
//! | [`AreaState::Filling`] | in progress | alignment check | `Live`, or removed on error |
//! | [`AreaState::Live`] | in all | all: copy, split, access, add or remove a domain | `Emptying` |
//! | [`AreaState::Emptying`] | being unmapped | none | removed |
//!
//! In `Filling` and `Emptying`, the *transition*, the area in the tree only occupies its IOVA. One
//! thread owns its pages and finds the area again by its IOVA. Small areas have no transition: they
//! are inserted when all domains map them, and removed with the lock held (see [`UnmapBatch`]).
//!
//! The tree also finds gaps between areas, for the choice of an IOVA.
//!
//! Locks: the `iova` lock protects the tree and the areas. The use counts of an area change with
//! that lock held for reading, and are stable with it held for writing.
#![forbid(unsafe_code)]

use crate::{
    mapping::{
        Mapping,
        Prot, //
    },
    pages::{
        AreaPages,
        Pages,
        SpareSlot, //
    },
    range::IovaRange,
    sys::domain::PagingDomain, //
};
use kernel::{
    gap_tree::{
        self,
        Entry,
        GapTree,
        Node,
        NodeReservation, //
    },
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        Arc, //
    }, //
};

/// An area, in any state.
#[derive(Clone, Copy)]
pub(crate) struct Area<'a>(&'a Node<Content>);

/// The fields of an area besides its IOVA, which is the range of the node.
pub(crate) struct Content {
    first_byte: usize,
    prot: Prot,
    state: AreaState,
    /// The next area of an [`UnmapBatch`], whose areas are in no tree.
    next: Option<KBox<Node<Content>>>,
}

// kmalloc-128; the next size is 192.
static_assert!(size_of::<Node<Content>>() <= 128);

/// State of an area.
enum AreaState {
    Filling,
    Live(Live),
    Emptying,
}

/// The pages of an area that is not in transition.
pub(super) struct Live {
    pub(super) pages: AreaPages,
    /// An unmap waits for the accesses to unpin. New accesses are refused.
    pub(super) prevent_access: bool,
    users: Users,
}

/// Use counts of an area.
struct Users {
    /// Pins of all accesses.
    accesses: Atomic<u32>,
    /// Pins of internal accesses, which unmap cannot call. While not zero, unmap fails.
    locks: Atomic<u32>,
}

impl Live {
    /// Creates an area without users.
    #[inline]
    pub(super) fn new(pages: AreaPages) -> Self {
        Self {
            pages,
            prevent_access: false,
            users: Users {
                accesses: Atomic::new(0),
                locks: Atomic::new(0),
            },
        }
    }

    /// Counts a pin of an access, which prevents unmap if `lock` is set.
    pub(super) fn begin_access(&self, lock: bool) {
        // The `iova` lock orders this against unmap, which reads it.
        self.users.accesses.fetch_add(1, Relaxed);
        if lock {
            self.users.locks.fetch_add(1, Relaxed);
        }
    }

    /// Undoes [`Live::begin_access`].
    pub(super) fn end_access(&self, lock: bool) {
        if lock {
            kernel::warn_on!(self.users.locks.fetch_sub(1, Relaxed) == 0);
        }
        kernel::warn_on!(self.users.accesses.fetch_sub(1, Relaxed) == 0);
    }

    /// Returns whether accesses have pins. Stable with the `iova` lock held for writing.
    pub(super) fn is_accessed(&self) -> bool {
        self.users.accesses.load(Relaxed) != 0
    }

    /// Returns whether the area must not be unmapped.
    pub(super) fn is_locked(&self) -> bool {
        self.users.locks.load(Relaxed) != 0
    }
}

impl<'a> Area<'a> {
    /// Returns the area of a node.
    #[inline]
    pub(super) fn of(node: &'a Node<Content>) -> Self {
        Self(node)
    }

    /// Returns the IOVA range of the area.
    #[inline]
    pub(crate) fn iova(self) -> IovaRange {
        IovaRange {
            start: self.0.start(),
            last: self.0.last(),
        }
    }

    /// Returns the IOVA range of the area and the slice of its pages that it maps.
    #[inline]
    pub(crate) fn mapping(self) -> Mapping {
        self.0.value().mapping(self.iova())
    }

    /// Returns the pages of the area, unless it is in transition.
    pub(crate) fn pages(self) -> Option<&'a Arc<Pages>> {
        self.live().map(|live| live.pages.pages())
    }

    pub(super) fn live(self) -> Option<&'a Live> {
        match &self.0.value().state {
            AreaState::Live(live) => Some(live),
            AreaState::Filling | AreaState::Emptying => None,
        }
    }

    /// Unpins the pages of an area that was removed from the tree and unmapped from its domains.
    /// [`UnmapBatch::accepts`] it.
    #[inline(always)]
    pub(super) fn release(self) {
        if let Some(live) = self.live() {
            live.pages.release(&self.mapping());
        }
    }
}

impl Content {
    #[inline]
    fn mapping(&self, iova: IovaRange) -> Mapping {
        Mapping {
            iova,
            first_byte: self.first_byte,
            prot: self.prot,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            AreaState::Live(live) => Some(live),
            AreaState::Filling | AreaState::Emptying => None,
        }
    }

    /// Begins to empty a live area. The caller gets its pages, and removes the area later.
    pub(super) fn take_live(&mut self) -> Option<Live> {
        if !matches!(self.state, AreaState::Live(_)) {
            return None;
        }
        match core::mem::replace(&mut self.state, AreaState::Emptying) {
            AreaState::Live(live) => Some(live),
            AreaState::Filling | AreaState::Emptying => None,
        }
    }
}

/// Preallocated memory for an area.
pub(super) struct AreaMemory(NodeReservation<Content>);

impl AreaMemory {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(NodeReservation::new(GFP_KERNEL_ACCOUNT)?))
    }

    #[inline(always)]
    fn fill(self, mapping: Mapping, state: AreaState) -> Result<KBox<Node<Content>>> {
        let Mapping {
            iova,
            first_byte,
            prot,
        } = mapping;
        let content = Content {
            first_byte,
            prot,
            state,
            next: None,
        };

        self.0.fill(iova.start, iova.last, content)
    }
}

/// The areas of an IO page table, none of which overlaps another.
pub(super) struct Areas(GapTree<Content>);

impl Areas {
    pub(super) fn new() -> Self {
        Self(GapTree::new())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the tree, for a search for gaps.
    pub(super) fn tree(&self) -> &GapTree<Content> {
        &self.0
    }

    /// Returns all areas, ordered by IOVA.
    pub(super) fn iter(&self) -> impl Iterator<Item = Area<'_>> {
        self.0.iter(0, usize::MAX).map(Area::of)
    }

    /// Returns the first area that intersects `range`.
    pub(super) fn first(&self, range: IovaRange) -> Option<Area<'_>> {
        self.0.first(range.start, range.last).map(Area::of)
    }

    /// Returns the area that contains `iova`.
    pub(super) fn at(&self, iova: usize) -> Option<Area<'_>> {
        self.0.first(iova, iova).map(Area::of)
    }

    /// Returns the first area that intersects `range`, which can be removed.
    #[inline]
    pub(super) fn first_mut(&mut self, range: IovaRange) -> Option<Entry<'_, Content>> {
        self.0.first_mut(range.start, range.last)
    }

    /// Removes all areas that intersect `range`. Pays off for several areas.
    #[inline]
    pub(super) fn take(&mut self, range: IovaRange) -> impl Iterator<Item = KBox<Node<Content>>> {
        self.0.take(range.start, range.last).into_iter()
    }

    /// Calls `f` with each live area, ordered by IOVA, until it fails.
    pub(super) fn try_for_each_live(
        &mut self,
        mut f: impl FnMut(&Mapping, &mut Live) -> Result,
    ) -> Result {
        self.0
            .try_for_each_mut(0, usize::MAX, |(start, last), content| {
                let mapping = content.mapping(IovaRange { start, last });

                content.live_mut().map_or(Ok(()), |live| f(&mapping, live))
            })
    }

    /// Adds an area in the state `Filling`, which the caller owns.
    ///
    /// # Errors
    ///
    /// `EEXIST` if an area is there.
    pub(super) fn occupy(&mut self, memory: AreaMemory, mapping: Mapping) -> Result {
        let node = memory.fill(mapping, AreaState::Filling)?;

        self.0.insert(node).map_err(|_| EEXIST)
    }

    /// Adds an area that all domains map. Its IOVA must be free.
    #[inline(always)]
    pub(super) fn insert(&mut self, memory: AreaMemory, mapping: Mapping, live: Live) {
        // Fails only if the range is backwards, which a mapping is not.
        let Ok(node) = memory.fill(mapping, AreaState::Live(live)) else {
            return;
        };
        let inserted = self.0.insert(node);

        kernel::warn_on!(inserted.is_err());
    }

    /// Makes the area at `iova` live, which the caller has filled.
    pub(super) fn publish(&mut self, iova: usize, live: Live) {
        if let Some(entry) = self.0.first_mut(iova, iova) {
            entry.into_value_mut().state = AreaState::Live(live);
        }
    }

    /// Removes the area at `iova`, which the caller was filling or emptying.
    pub(super) fn vacate(&mut self, iova: usize) {
        let node = self.0.remove_first(iova, iova);

        // The area is in transition, and the caller owns its pages.
        kernel::warn_on!(node.is_none_or(|node| Area::of(&node).live().is_some()));
    }

    /// Splits the live area that consists of `left` and `right`.
    ///
    /// Allocates nothing: `memory` and `spare` are for the right area. The area must not have
    /// accesses.
    pub(super) fn split(
        &mut self,
        left: Mapping,
        right: Mapping,
        memory: AreaMemory,
        spare: SpareSlot,
    ) {
        let Some(mut node) = self.0.remove_first(left.iova.start, left.iova.start) else {
            return;
        };
        let mapping = Area::of(&node).mapping();
        let pages = node
            .value_mut()
            .live_mut()
            .map(|live| live.pages.split(&mapping, &left, &right, spare));

        // These cannot fail: neither range is backwards, and their IOVA is free.
        let _ = node.set_range(left.iova.start, left.iova.last);
        let right = pages.map(|pages| memory.fill(right, AreaState::Live(Live::new(pages))));
        for node in [Some(node), right.and_then(Result::ok)]
            .into_iter()
            .flatten()
        {
            let node = self.0.insert(node);

            kernel::warn_on!(node.is_err());
        }
    }

    /// Returns the slices of the live areas in `range`, up to the first gap.
    pub(super) fn contiguous(&self, range: IovaRange) -> Contiguous<'_> {
        Contiguous {
            areas: self.0.iter(range.start, range.last),
            rest: Some(range),
        }
    }
}

/// Live areas that were removed from the tree, to be unmapped from their domains together and then
/// released.
///
/// The list is linked through the areas, so it allocates nothing.
pub(super) struct UnmapBatch {
    head: Option<KBox<Node<Content>>>,
    areas: usize,
    pages: usize,
    /// Set if there are pages of files. IOMMU_IOAS_CHANGE_PROCESS, which locks the IOVA space, has
    /// to find all of these: they are released before it is unlocked.
    has_files: bool,
}

impl UnmapBatch {
    /// The number of areas and of pages from which on the batch is full. The IOVA space is locked
    /// until it is unmapped, with one IOTLB flush.
    const MOST_AREAS: usize = 256;
    const MOST_PAGES: usize = 1024;
    /// An area with more pages is unmapped by itself, without the lock.
    const AREA_PAGES: usize = 512;

    #[inline]
    pub(super) const fn new() -> Self {
        Self {
            head: None,
            areas: 0,
            pages: 0,
            has_files: false,
        }
    }

    /// Returns whether an area can be in a batch.
    #[inline(always)]
    pub(super) fn accepts(area: Area<'_>, live: &Live) -> bool {
        if live.pages.is_known() {
            area.mapping().pages().len() <= Self::AREA_PAGES
        } else {
            // Putting the last reference to a dma-buf can sleep: not with the lock held.
            !live.pages.is_stored() && !live.pages.pages().is_dmabuf()
        }
    }

    /// Counts an area that [is accepted](Self::accepts) and will be [pushed](Self::push).
    #[inline]
    pub(super) fn count(&mut self, area: Area<'_>) {
        self.areas += 1;
        self.pages += area.mapping().pages().len();
        self.has_files |= area.pages().is_some_and(|pages| pages.is_file());
    }

    /// Adds an area that has been counted.
    #[inline]
    pub(super) fn push(&mut self, mut node: KBox<Node<Content>>) {
        node.value_mut().next = self.head.take();
        self.head = Some(node);
    }

    /// Returns whether the batch is full.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.areas >= Self::MOST_AREAS || self.pages >= Self::MOST_PAGES
    }

    /// Returns whether the areas must be released with the lock held.
    #[inline]
    pub(super) fn has_files(&self) -> bool {
        self.has_files
    }

    /// Unmaps all areas. Their IOVA must not be reused before this.
    #[inline]
    pub(super) fn unmap_from(&self, domains: &[Arc<PagingDomain>]) {
        if self.head.is_none() {
            return;
        }
        for domain in domains {
            let mut next = self.head.as_deref();

            domain.unmap_many(core::iter::from_fn(|| {
                let node = next?;

                next = node.value().next.as_deref();
                Some(Area::of(node).iova())
            }));
        }
    }

    /// Unpins the pages of all areas, which are unmapped, and frees the areas.
    #[inline(always)]
    pub(super) fn release(&mut self) {
        while let Some(mut node) = self.head.take() {
            self.head = node.value_mut().next.take();
            Area::of(&node).release();
        }
    }
}

/// The slice of a live area that is in a given range.
pub(super) struct AreaSlice<'a> {
    pub(super) range: IovaRange,
    pub(super) mapping: Mapping,
    pub(super) live: &'a Live,
    /// Set if the range ends with this slice.
    pub(super) is_last: bool,
}

/// Iterates over the slices of a range, in order. Returns `ENOENT` at the first gap, and ends.
pub(super) struct Contiguous<'a> {
    areas: gap_tree::Iter<'a, Content>,
    rest: Option<IovaRange>,
}

impl<'a> Iterator for Contiguous<'a> {
    type Item = Result<AreaSlice<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let Some(area) = self.areas.next().map(Area::of) else {
            return Some(Err(ENOENT));
        };
        let (mapping, Some(live)) = (area.mapping(), area.live()) else {
            return Some(Err(ENOENT));
        };
        if !mapping.iova.contains(rest.start) {
            return Some(Err(ENOENT));
        }

        let range = IovaRange {
            start: rest.start,
            last: rest.last.min(mapping.iova.last),
        };
        self.rest = rest.after(range.last);
        Some(Ok(AreaSlice {
            range,
            mapping,
            live,
            is_last: self.rest.is_none(),
        }))
    }
}
