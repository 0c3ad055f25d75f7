// SPDX-License-Identifier: GPL-2.0

//! How areas go.
//!
//! An unmapper takes an area out of the domains and out of the space. What takes long is done
//! without the lock of the space, and until then the area only keeps its IOVA occupied (see
//! [`super::areas`]). Small areas whose PFNs are known are taken out with the lock held, as many as
//! there are in a row, with one flush of the IOMMU's caches, and are released behind it. Most calls
//! are about one of these, which goes by itself.
//!
//! Accesses are asked to let go of what they have pinned, with no lock held, and then it is tried
//! again.
//!
//! Locks: as for [`super::map`].
#![forbid(unsafe_code)]

use super::{
    areas::{
        Area,
        Content,
        Live, //
        TakenOut,
    },
    IoPagetable,
    IovaSpace, //
};
use crate::{
    mapping::Mapping,
    range::IovaRange, //
};
use kernel::{
    bindings,
    gap_tree::Entry,
    prelude::*, //
};

/// How often accesses are asked in vain to let go of an area.
const MAX_TRIES: u32 = 100;

/// How far an unmap has come.
struct Unmap {
    /// What is left; [`None`] at the end.
    rest: Option<IovaRange>,
    bytes: usize,
    /// How often accesses were asked to let go of the area at the start of `rest`.
    tries: u32,
}

impl Unmap {
    /// Areas of `bytes` bytes, up to `last`, are or will be unmapped. What others map behind our
    /// back into IOVA that is done stays.
    #[inline]
    fn advance(&mut self, bytes: usize, last: usize) {
        self.bytes = self.bytes.wrapping_add(bytes);
        self.rest = self.rest.and_then(|rest| rest.after(last));
        self.tries = 0;
    }
}

/// How an unmap goes on.
enum Next {
    /// It does not.
    End,
    /// There is more to do.
    More,
    /// There are accesses to this area, the first of what is left.
    Accessed(IovaRange),
    /// This area is to be taken out of the domains and the space, without the lock of the space.
    Alone(Mapping, Live),
}

/// How an area goes that is to be unmapped.
enum Way {
    /// Those who access it have to let go before.
    Accessed,
    /// With others, see [`TakenOut`].
    Together,
    /// As [`Next::Alone`].
    Alone,
}

impl Way {
    /// That of the first area of `rest`, which is to be unmapped.
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
        } else if TakenOut::takes(area, live) {
            Ok(Self::Together)
        } else {
            Ok(Self::Alone)
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
    /// At the first area for which it is so, and which stays with those behind it:
    ///
    /// - `EBUSY` if it is in transition, or locked;
    /// - `ENOENT` if part of it is not in `range`;
    /// - `EDEADLK` if accesses do not let go of it.
    #[inline]
    pub(crate) fn unmap(&self, range: IovaRange) -> (usize, Result) {
        match self.unmap_one(range) {
            Some(bytes) => (bytes, Ok(())),
            None => self.unmap_some(range),
        }
    }

    /// As [`IoPagetable::unmap`], if all there is in `range` is one area that ends where it does,
    /// and can go [`Way::Together`]. That is what most calls are about.
    fn unmap_one(&self, range: IovaRange) -> Option<usize> {
        let domains = self.domains.read();
        let mut space = self.iova.write();

        let entry = space.areas.first_mut(range)?;
        let area = Area::of(entry.node());
        if area.iova().last != range.last {
            return None;
        }
        let Ok(Way::Together) = Way::of(area, range) else {
            return None;
        };

        let node = entry.remove();
        let area = Area::of(&node);
        let mapping = area.mapping();
        for domain in domains.list.iter() {
            domain.unmap(mapping.iova);
        }
        let has_files = area.pages().is_some_and(|pages| pages.is_file());
        let locked = has_files.then_some(space);
        area.release();
        drop(locked);
        Some(mapping.len())
    }

    #[inline(never)]
    fn unmap_some(&self, range: IovaRange) -> (usize, Result) {
        let mut progress = Unmap {
            rest: Some(range),
            bytes: 0,
            tries: 0,
        };
        let result = self.try_unmap(&mut progress);

        (progress.bytes, result)
    }

    /// Unmaps all there is. See [`IoPagetable::unmap`].
    pub(crate) fn unmap_all(&self) -> (usize, Result) {
        self.unmap(IovaRange::ALL)
    }

    fn try_unmap(&self, progress: &mut Unmap) -> Result {
        while let Some(area) = self.unmap_unused(progress)? {
            // No lock is held: the drivers unpin what they have pinned, or wait for those who do.
            self.notify_unmap(area);
            progress.tries += 1;
            if kernel::warn_on!(progress.tries > MAX_TRIES) {
                // Another number than EDEADLK on some architectures.
                return Err(Error::from_errno(-(bindings::EDEADLOCK as c_int)));
            }
        }
        Ok(())
    }

    /// Unmaps areas up to the first that has accesses, if one has, and returns its range.
    fn unmap_unused(&self, progress: &mut Unmap) -> Result<Option<IovaRange>> {
        // No domain may come or go while an area is half way out of them.
        let domains = self.domains.read();
        let mut space = self.iova.write();

        loop {
            let mut taken = TakenOut::new();
            let next = space.empty_some(progress, &mut taken);

            taken.unmap_from(&domains.list);
            let locked = taken.has_files().then_some(space);
            taken.release();
            drop(locked);
            match next? {
                Next::End => return Ok(None),
                Next::Accessed(range) => return Ok(Some(range)),
                Next::More => space = self.iova.write(),
                Next::Alone(mapping, mut live) => {
                    live.pages.unfill(&mapping, &domains.list);
                    drop(live);
                    space = self.iova.write();
                    space.areas.vacate(mapping.iova.start);
                }
            }
        }
    }
}

impl IovaSpace {
    /// Takes areas out of the space that are to be unmapped, from the front.
    ///
    /// # Errors
    ///
    /// See [`IoPagetable::unmap`].
    fn empty_some(&mut self, progress: &mut Unmap, taken: &mut TakenOut) -> Result<Next> {
        while let Some(rest) = progress.rest {
            if taken.is_full() {
                return Ok(Next::More);
            }
            let Some(mut entry) = self.areas.first_mut(rest) else {
                break;
            };
            let area = Area::of(entry.node());
            let iova = area.iova();

            match Way::of(area, rest)? {
                Way::Accessed => {
                    if let Some(live) = entry.value_mut().live_mut() {
                        live.prevent_access = true;
                    }
                    if iova.start != rest.start {
                        // The area that was asked for, if one was, went without us.
                        progress.rest = IovaRange::new(iova.start, rest.last);
                        progress.tries = 0;
                    }
                    return Ok(Next::Accessed(iova));
                }
                Way::Alone => {
                    let mapping = area.mapping();
                    let live = entry.value_mut().take_live().ok_or(EBUSY)?;

                    progress.advance(mapping.len(), iova.last);
                    return Ok(Next::Alone(mapping, live));
                }
                Way::Together => {
                    taken.count(area);
                    progress.advance(area.mapping().len(), iova.last);
                    match neighbours(&entry, progress, taken) {
                        None => taken.push(entry.remove()),
                        Some(last) => self
                            .areas
                            .take(IovaRange { last, ..iova })
                            .for_each(|node| taken.push(node)),
                    }
                }
            }
        }
        Ok(Next::End)
    }
}

/// Counts the areas behind `entry` that can go together with it, and returns the last IOVA of the
/// last of them. Whatever is wrong with one is found when it is the first.
#[inline]
fn neighbours(
    entry: &Entry<'_, Content>,
    progress: &mut Unmap,
    taken: &mut TakenOut,
) -> Option<usize> {
    let rest = progress.rest?;
    let (mut bytes, mut last) = (0_usize, None);

    for area in entry.iter_behind(rest.start, rest.last).map(Area::of) {
        if taken.is_full() || !matches!(Way::of(area, rest), Ok(Way::Together)) {
            break;
        }

        taken.count(area);
        bytes = bytes.wrapping_add(area.mapping().len());
        last = Some(area.iova().last);
    }
    progress.advance(bytes, last?);
    last
}
