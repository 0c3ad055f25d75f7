// SPDX-License-Identifier: GPL-2.0

//! The areas of an IO page table, and the states that they go through.
//!
//! | state | is in domains | may be | ends by |
//! |---|---|---|---|
//! | [`State::Filling`] | being put there | only aligned to | its mapper, either way |
//! | [`State::Live`] | in all | read, shared, split, moved to domains, accessed | unmap |
//! | [`State::Emptying`] | being taken out | nothing | removed by its unmapper |
//!
//! In both transitions the area only keeps its IOVA occupied: one thread has what belongs to it,
//! and comes back for the area by its IOVA, which no other area can have in the meantime. An area
//! that is small and simple skips them: it is put into the tree when it is in all domains, and
//! taken out of both with the lock held (see [`TakenOut`]).
//!
//! The tree knows the gaps between areas, for the choice of IOVA.
//!
//! Locks: the tree and the areas are protected by the `iova` lock. The counts of an area are raised
//! and lowered with that lock held for reading, and relied upon with it held for writing.
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

/// A range of IOVAs that is, was or will be populated.
#[derive(Clone, Copy)]
pub(crate) struct Area<'a>(&'a Node<Content>);

/// What an area has besides its IOVA, which is that of the node.
pub(crate) struct Content {
    first_byte: usize,
    prot: Prot,
    state: State,
    /// The next one of [`TakenOut`], which is in no tree.
    next: Option<KBox<Node<Content>>>,
}

// There is a slab of this size, and the next one has half as much again.
static_assert!(size_of::<Node<Content>>() <= 128);

/// What an area is good for.
enum State {
    Filling,
    Live(Live),
    Emptying,
}

/// What belongs to an area in use.
pub(super) struct Live {
    pub(super) pages: AreaPages,
    /// An unmap waits for the accesses to let go. There shall be no new ones.
    pub(super) prevent_access: bool,
    users: Users,
}

/// Who uses the pages of an area.
struct Users {
    /// Pins of accesses, which are asked to let go by unmap.
    accesses: Atomic<u32>,
    /// Pins of those that are not: as long as there are any, the area cannot be unmapped.
    locks: Atomic<u32>,
}

impl Live {
    /// An area without users.
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

    /// Counts an access, which forbids unmap if it is to `lock` the area.
    pub(super) fn begin_access(&self, lock: bool) {
        // The `iova` lock orders this before the unmap that reads it.
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

    /// Whether there are accesses. Only with the `iova` lock held for writing this stays true.
    pub(super) fn is_accessed(&self) -> bool {
        self.users.accesses.load(Relaxed) != 0
    }

    /// Whether the area must not be unmapped.
    pub(super) fn is_locked(&self) -> bool {
        self.users.locks.load(Relaxed) != 0
    }
}

impl<'a> Area<'a> {
    /// The area of a node.
    #[inline]
    pub(super) fn of(node: &'a Node<Content>) -> Self {
        Self(node)
    }

    /// Where the area is.
    #[inline]
    pub(crate) fn iova(self) -> IovaRange {
        IovaRange {
            start: self.0.start(),
            last: self.0.last(),
        }
    }

    /// Where the area is, and which part of its pages it shows.
    #[inline]
    pub(crate) fn mapping(self) -> Mapping {
        self.0.value().mapping(self.iova())
    }

    /// The pages of the area, unless it is in transition.
    pub(crate) fn pages(self) -> Option<&'a Arc<Pages>> {
        self.live().map(|live| live.pages.pages())
    }

    pub(super) fn live(self) -> Option<&'a Live> {
        match &self.0.value().state {
            State::Live(live) => Some(live),
            State::Filling | State::Emptying => None,
        }
    }

    /// Unpins the pages of an area that was taken out of the tree and of its domains, which may go
    /// [this way](TakenOut::takes).
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
            State::Live(live) => Some(live),
            State::Filling | State::Emptying => None,
        }
    }

    /// Begins to empty a live area: what belongs to it is the caller's now, who removes it later.
    pub(super) fn take_live(&mut self) -> Option<Live> {
        if !matches!(self.state, State::Live(_)) {
            return None;
        }
        match core::mem::replace(&mut self.state, State::Emptying) {
            State::Live(live) => Some(live),
            State::Filling | State::Emptying => None,
        }
    }
}

/// The memory for an area.
pub(super) struct Blank(NodeReservation<Content>);

impl Blank {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(NodeReservation::new(GFP_KERNEL_ACCOUNT)?))
    }

    #[inline(always)]
    fn fill(self, mapping: Mapping, state: State) -> Result<KBox<Node<Content>>> {
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

    /// The tree, for those who look for what is not in it.
    pub(super) fn tree(&self) -> &GapTree<Content> {
        &self.0
    }

    /// All areas, ordered by IOVA.
    pub(super) fn iter(&self) -> impl Iterator<Item = Area<'_>> {
        self.0.iter(0, usize::MAX).map(Area::of)
    }

    /// The first area that intersects `range`.
    pub(super) fn first(&self, range: IovaRange) -> Option<Area<'_>> {
        self.0.first(range.start, range.last).map(Area::of)
    }

    /// The area that has `iova`.
    pub(super) fn at(&self, iova: usize) -> Option<Area<'_>> {
        self.0.first(iova, iova).map(Area::of)
    }

    /// The first area that intersects `range`, to be removed.
    #[inline]
    pub(super) fn first_mut(&mut self, range: IovaRange) -> Option<Entry<'_, Content>> {
        self.0.first_mut(range.start, range.last)
    }

    /// Removes all areas that intersect `range`, for which there should be several.
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

    /// Occupies IOVA on behalf of the caller, who is going to fill it.
    ///
    /// # Errors
    ///
    /// `EEXIST` if an area is there.
    pub(super) fn occupy(&mut self, blank: Blank, mapping: Mapping) -> Result {
        let node = blank.fill(mapping, State::Filling)?;

        self.0.insert(node).map_err(|_| EEXIST)
    }

    /// Adds an area that is in all domains. Its IOVA must be free.
    #[inline(always)]
    pub(super) fn insert(&mut self, blank: Blank, mapping: Mapping, live: Live) {
        // It cannot be backwards.
        let Ok(node) = blank.fill(mapping, State::Live(live)) else {
            return;
        };
        let inserted = self.0.insert(node);

        kernel::warn_on!(inserted.is_err());
    }

    /// Makes use of an area that the caller has filled, and that starts at `iova`.
    pub(super) fn publish(&mut self, iova: usize, live: Live) {
        if let Some(entry) = self.0.first_mut(iova, iova) {
            entry.into_value_mut().state = State::Live(live);
        }
    }

    /// Removes an area that the caller was filling or emptying, and that starts at `iova`.
    pub(super) fn vacate(&mut self, iova: usize) {
        let node = self.0.remove_first(iova, iova);

        // The IOVA was occupied for the caller, and what belonged to it is the caller's.
        kernel::warn_on!(node.is_none_or(|node| Area::of(&node).live().is_some()));
    }

    /// Replaces the live area that has `left` and `right` by two.
    ///
    /// Needs no memory but that of `blank` and `spare`, which are for the right one. There must be
    /// no accesses to the area.
    pub(super) fn split(&mut self, left: Mapping, right: Mapping, blank: Blank, spare: SpareSlot) {
        let Some(mut node) = self.0.remove_first(left.iova.start, left.iova.start) else {
            return;
        };
        let mapping = Area::of(&node).mapping();
        let pages = node
            .value_mut()
            .live_mut()
            .map(|live| live.pages.split(&mapping, &left, &right, spare));

        // Neither can fail: the ranges are in order, and there is room. Both show the same pages.
        let _ = node.set_range(left.iova.start, left.iova.last);
        let right = pages.map(|pages| blank.fill(right, State::Live(Live::new(pages))));
        for node in [Some(node), right.and_then(Result::ok)]
            .into_iter()
            .flatten()
        {
            let node = self.0.insert(node);

            kernel::warn_on!(node.is_err());
        }
    }

    /// Divides `range` into the parts that the live areas have, which must not leave a gap.
    pub(super) fn contiguous(&self, range: IovaRange) -> Contiguous<'_> {
        Contiguous {
            areas: self.0.iter(range.start, range.last),
            rest: Some(range),
        }
    }
}

/// Live areas that were taken out of the tree, and are to be taken out of their domains, and then
/// released.
///
/// They are a list by themselves, so that it needs no memory.
pub(super) struct TakenOut {
    head: Option<KBox<Node<Content>>>,
    areas: usize,
    pages: usize,
    /// Whether there are pages of files. Who pays for these can change with the IOVA locked: they
    /// are to be released before it is not.
    has_files: bool,
}

impl TakenOut {
    /// So many areas are unmapped with one flush of the IOMMU's caches. They have so many pages at
    /// most: in the meantime the IOVA is locked.
    const MOST_AREAS: usize = 256;
    const MOST_PAGES: usize = 1024;
    /// An area with more pages goes alone, without the lock.
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

    /// Whether an area may go this way.
    #[inline(always)]
    pub(super) fn takes(area: Area<'_>, live: &Live) -> bool {
        if live.pages.is_known() {
            area.mapping().pages().len() <= Self::AREA_PAGES
        } else {
            // The last reference to a DMA buffer is put without the lock.
            !live.pages.is_stored() && !live.pages.pages().is_dmabuf()
        }
    }

    /// Counts an area that may and is live, and is going to be [pushed](Self::push).
    #[inline]
    pub(super) fn count(&mut self, area: Area<'_>) {
        self.areas += 1;
        self.pages += area.mapping().pages().len();
        self.has_files |= area.pages().is_some_and(|pages| pages.is_file());
    }

    /// Adds an area that was counted.
    #[inline]
    pub(super) fn push(&mut self, mut node: KBox<Node<Content>>) {
        node.value_mut().next = self.head.take();
        self.head = Some(node);
    }

    /// Whether it is time to unmap.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.areas >= Self::MOST_AREAS || self.pages >= Self::MOST_PAGES
    }

    /// Whether the areas must be released with the lock held.
    #[inline]
    pub(super) fn has_files(&self) -> bool {
        self.has_files
    }

    /// Unmaps all areas. Until then, their IOVA must not be used.
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

    /// Unpins the pages of all areas, which were unmapped, and frees them.
    #[inline(always)]
    pub(super) fn release(&mut self) {
        while let Some(mut node) = self.head.take() {
            self.head = node.value_mut().next.take();
            Area::of(&node).release();
        }
    }
}

/// The part of a range that one live area has.
pub(super) struct Piece<'a> {
    pub(super) range: IovaRange,
    pub(super) mapping: Mapping,
    pub(super) live: &'a Live,
    /// Whether the range ends with this part.
    pub(super) is_last: bool,
}

/// The parts of a range, in order: at the first gap there is an error (`ENOENT`), then nothing
/// more.
pub(super) struct Contiguous<'a> {
    areas: gap_tree::Iter<'a, Content>,
    rest: Option<IovaRange>,
}

impl<'a> Iterator for Contiguous<'a> {
    type Item = Result<Piece<'a>>;

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
        Some(Ok(Piece {
            range,
            mapping,
            live,
            is_last: self.rest.is_none(),
        }))
    }
}
