// SPDX-License-Identifier: GPL-2.0

//! Removing areas.
//!
//! Unmap removes an area from the domains and from the tree. Large areas are unmapped without the
//! lock of the space, in the state `Emptying` (see [`super::areas`]). Adjacent small areas with
//! known PFNs are removed with the lock held, unmapped with one IOTLB flush, and unpinned after the
//! lock was released. The most frequent case, one such area, has a path of its own.
//!
//! If accesses have pinned pages of an area, they are called to unpin with no lock held, and the
//! unmap is tried again.
//!
//! Locks: as for [`super::map`].
#![forbid(unsafe_code)]

use super::{
    areas::{
        Area,
        Content,
        Live, //
        UnmapBatch,
    },
    IoPagetable,
    IovaSpace, //
};
use crate::{
    mapping::Mapping,
    range::IovaRange,
    sys::delay::Place, //
};
use kernel::{
    bindings,
    gap_tree::Entry,
    prelude::*, //
};

/// The number of times that accesses are called to unpin an area before unmap fails.
const MAX_TRIES: u32 = 100;

/// The progress of an unmap.
struct Unmap {
    /// The rest of the range; [`None`] at the end.
    rest: Option<IovaRange>,
    bytes: usize,
    /// The number of times that accesses were called to unpin the area at the start of `rest`.
    tries: u32,
}

impl Unmap {
    /// Records that areas of `bytes` bytes, up to `last`, are or will be unmapped. New areas that
    /// are mapped there meanwhile stay.
    #[inline]
    fn advance(&mut self, bytes: usize, last: usize) {
        self.bytes = self.bytes.wrapping_add(bytes);
        self.rest = self.rest.and_then(|rest| rest.after(last));
        self.tries = 0;
    }
}

/// The next step of an unmap.
enum UnmapStep {
    /// Nothing is left.
    Done,
    /// The batch is full.
    More,
    /// The first area of the rest has accesses, which have to unpin.
    Accessed(IovaRange),
    /// Unmap this area by itself, without the lock of the space.
    Single(Mapping, Live),
}

/// The way in which an area is unmapped.
enum UnmapPath {
    /// Accesses have to unpin first.
    Accessed,
    /// Together with others, see [`UnmapBatch`].
    Batched,
    /// By itself, see [`UnmapStep::Single`].
    Single,
}

impl UnmapPath {
    /// Determines the path of the first area of `rest`.
    ///
    /// # Errors
    ///
    /// See [`IoPagetable::unmap`].
    #[inline(always)]
    fn of(area: Area<'_>, rest: IovaRange) -> Result<Self> {
        let live = area.live().ok_or(EBUSY)?;

        if live.is_locked() {
            Err(EBUSY)
        } else if !rest.covers(area.iova()) {
            Err(ENOENT)
        } else if live.is_accessed() {
            Ok(Self::Accessed)
        } else if UnmapBatch::accepts(area, live) {
            Ok(Self::Batched)
        } else {
            Ok(Self::Single)
        }
    }
}

impl IoPagetable {
    /// Unmaps all areas in `range`, one after the other. Areas are unmapped as a whole.
    ///
    /// Returns how many bytes were unmapped, even on error.
    ///
    /// # Errors
    ///
    /// The first area that fails, and those behind it, stay:
    ///
    /// - `EBUSY` if it is in transition, or locked;
    /// - `ENOENT` if a part of it is not in `range`;
    /// - `EDEADLK` if accesses do not unpin it.
    #[inline]
    pub(crate) fn unmap(&self, range: IovaRange) -> (usize, Result) {
        match self.unmap_one(range) {
            Some(bytes) => (bytes, Ok(())),
            None => self.unmap_in_steps(range),
        }
    }

    /// Fast path of [`IoPagetable::unmap`]: one area that ends with `range`, and that can be
    /// [`UnmapPath::Batched`].
    fn unmap_one(&self, range: IovaRange) -> Option<usize> {
        let domains = self.domains.read();
        let mut space = self.iova.write();

        let entry = space.areas.first_mut(range)?;
        let area = Area::of(entry.node());
        if area.iova().last != range.last {
            return None;
        }
        let Ok(UnmapPath::Batched) = UnmapPath::of(area, range) else {
            return None;
        };

        let node = entry.remove();
        let area = Area::of(&node);
        let mapping = area.mapping();
        for domain in domains.list.iter() {
            domain.unmap(mapping.iova);
        }
        Place::Unmapped.delay();
        let has_files = area.pages().is_some_and(|pages| pages.is_file());
        let locked = has_files.then_some(space);
        area.release();
        drop(locked);
        Some(mapping.len())
    }

    #[inline(never)]
    fn unmap_in_steps(&self, range: IovaRange) -> (usize, Result) {
        let mut progress = Unmap {
            rest: Some(range),
            bytes: 0,
            tries: 0,
        };
        let result = self.try_unmap(&mut progress);

        (progress.bytes, result)
    }

    /// Unmaps all areas. See [`IoPagetable::unmap`].
    pub(crate) fn unmap_all(&self) -> (usize, Result) {
        self.unmap(IovaRange::ALL)
    }

    fn try_unmap(&self, progress: &mut Unmap) -> Result {
        while let Some(area) = self.unmap_unused(progress)? {
            Place::Accessed.delay();
            // With no lock held: the drivers take locks to unpin.
            self.notify_unmap(area);
            progress.tries += 1;
            if kernel::warn_on!(progress.tries > MAX_TRIES) {
                // As in C. Differs from EDEADLK on some architectures.
                return Err(Error::from_errno(-(bindings::EDEADLOCK as c_int)));
            }
        }
        Ok(())
    }

    /// Unmaps areas up to the first one that has accesses. Returns its range, if there is one.
    fn unmap_unused(&self, progress: &mut Unmap) -> Result<Option<IovaRange>> {
        // The list of domains must not change while an area is being emptied.
        let domains = self.domains.read();
        let mut space = self.iova.write();

        loop {
            let mut batch = UnmapBatch::new();
            let next = space.take_some(progress, &mut batch);

            batch.unmap_from(&domains.list);
            Place::Unmapped.delay();
            let locked = batch.has_files().then_some(space);
            batch.release();
            drop(locked);
            match next? {
                UnmapStep::Done => return Ok(None),
                UnmapStep::Accessed(range) => return Ok(Some(range)),
                UnmapStep::More => space = self.iova.write(),
                UnmapStep::Single(mapping, mut live) => {
                    live.pages.unfill(&mapping, &domains.list);
                    drop(live);
                    Place::Emptied.delay();
                    space = self.iova.write();
                    space.areas.vacate(mapping.iova.start);
                }
            }
        }
    }
}

impl IovaSpace {
    /// Removes areas from the tree, from the start of the rest, into `batch` or as a single one.
    ///
    /// # Errors
    ///
    /// See [`IoPagetable::unmap`].
    fn take_some(&mut self, progress: &mut Unmap, batch: &mut UnmapBatch) -> Result<UnmapStep> {
        while let Some(rest) = progress.rest {
            if batch.is_full() {
                return Ok(UnmapStep::More);
            }
            let Some(mut entry) = self.areas.first_mut(rest) else {
                break;
            };
            let area = Area::of(entry.node());
            let iova = area.iova();

            match UnmapPath::of(area, rest)? {
                UnmapPath::Accessed => {
                    if let Some(live) = entry.value_mut().live_mut() {
                        live.prevent_access = true;
                    }
                    if iova.start != rest.start {
                        // This is another area than the one of the previous call.
                        progress.rest = IovaRange::new(iova.start, rest.last);
                        progress.tries = 0;
                    }
                    return Ok(UnmapStep::Accessed(iova));
                }
                UnmapPath::Single => {
                    let mapping = area.mapping();
                    let live = entry.value_mut().take_live().ok_or(EBUSY)?;

                    progress.advance(mapping.len(), iova.last);
                    return Ok(UnmapStep::Single(mapping, live));
                }
                UnmapPath::Batched => {
                    batch.count(area);
                    progress.advance(area.mapping().len(), iova.last);
                    match neighbours(&entry, progress, batch) {
                        None => batch.push(entry.remove()),
                        Some(last) => self
                            .areas
                            .take(IovaRange { last, ..iova })
                            .for_each(|node| batch.push(node)),
                    }
                }
            }
        }
        Ok(UnmapStep::Done)
    }
}

/// Counts the areas behind `entry` that can be in the same batch, and returns the last IOVA of the
/// last one. An area that fails ends the batch, and fails when it is the first of the rest.
#[inline]
fn neighbours(
    entry: &Entry<'_, Content>,
    progress: &mut Unmap,
    batch: &mut UnmapBatch,
) -> Option<usize> {
    let rest = progress.rest?;
    let (mut bytes, mut last) = (0_usize, None);

    for area in entry.iter_behind(rest.start, rest.last).map(Area::of) {
        if batch.is_full() || !matches!(UnmapPath::of(area, rest), Ok(UnmapPath::Batched)) {
            break;
        }

        batch.count(area);
        bytes = bytes.wrapping_add(area.mapping().len());
        last = Some(area.iova().last);
    }
    progress.advance(bytes, last?);
    last
}
