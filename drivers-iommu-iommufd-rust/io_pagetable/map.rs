// SPDX-License-Identifier: GPL-2.0

//! How areas come, and are divided; [`super::unmap`] is how they go.
//!
//! A mapper occupies IOVA, fills domains without the lock of the space, and publishes the areas.
//! What it is doing to an area in the meantime, nobody else sees: `unmap` of an area in transition
//! is `EBUSY`, all others pass it by.
//!
//! Small areas, which are most of them, skip this: what may take long is done before (pages are
//! pinned), and the little that is left with the space locked.
//!
//! Locks: see [`super`]. Everything that may fail or may take long is done without the lock of the
//! space; pages are put without it, too, as the last reference may wait for a DMA buffer.
#![forbid(unsafe_code)]

use super::{
    areas::{
        Blank,
        Live, //
    },
    fit::Request,
    Domains,
    IoPagetable,
    IovaSpace, //
};
use crate::{
    mapping::{
        Mapping,
        Prot, //
    },
    pages::{
        Few,
        NewPages,
        Pages,
        Room,
        Slot,
        FEW, //
    },
    range::{
        IovaRange,
        PageRange, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

/// Where to map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Iova {
    /// Here, or not at all.
    Fixed(usize),
    /// Where there is room, see [`super::fit`].
    Any,
}

/// Some bytes of some pages, which are to become one area.
pub(crate) struct Part {
    pages: Arc<Pages>,
    start_byte: usize,
    len: usize,
    /// The memory of the area, until IOVA is occupied with it.
    blank: Option<Blank>,
    /// What the area shows, once IOVA is occupied.
    mapping: Option<Mapping>,
    /// Until a domain keeps the PFNs, or the area is published.
    slot: Option<Slot>,
}

impl Part {
    /// The `len` bytes of `pages` from `start_byte` on.
    pub(crate) fn new(pages: Arc<Pages>, start_byte: usize, len: usize) -> Self {
        Self {
            pages,
            start_byte,
            len,
            blank: None,
            mapping: None,
            slot: None,
        }
    }

    /// Allocates what an area needs.
    fn prepare(&mut self) -> Result {
        self.blank = Some(Blank::new()?);
        if self.slot.is_none() {
            self.slot = Some(Slot::new()?);
        }
        Ok(())
    }

    /// Puts the part into all domains, if there are any. On error it is in none.
    fn fill(&mut self, domains: &Domains) -> Result {
        let (Some(mapping), Some(slot)) = (&self.mapping, self.slot.take()) else {
            return Ok(());
        };
        if domains.list.is_empty() {
            self.slot = Some(slot);
            return Ok(());
        }
        self.pages
            .fill(mapping, &domains.list, domains.small, slot)
            .map_err(|(error, slot)| {
                self.slot = Some(slot);
                error
            })
    }

    /// Undoes [`Part::fill`].
    fn unfill(&mut self, domains: &Domains) {
        if let (Some(mapping), None) = (&self.mapping, &self.slot) {
            self.pages.unfill(mapping, &domains.list);
        }
    }
}

/// What `len` bytes of `pages` from `start_byte` on are if they are mapped at `iova`.
#[inline]
fn mapping_at(
    pages: &Pages,
    start_byte: usize,
    len: usize,
    iova: usize,
    prot: Prot,
    alignment: usize,
) -> Result<Mapping> {
    if prot.writable() && !pages.writable() {
        return Err(EPERM);
    }
    if (start_byte % PAGE_SIZE) & (alignment - 1) != 0 {
        return Err(EINVAL);
    }

    let range = IovaRange::from_len(iova, len)?;
    let mapping = Mapping::new(range, start_byte, prot)?;
    // The pages were made, or other areas found, to have these bytes.
    if kernel::warn_on!(mapping.pages().last >= pages.npages()) {
        return Err(EOVERFLOW);
    }
    Ok(mapping)
}

/// Puts all parts into all domains. On error none is in any.
fn fill(domains: &Domains, parts: &mut [Part]) -> Result {
    for n in 0..parts.len() {
        if let Err(error) = parts[n].fill(domains) {
            parts[..n].iter_mut().for_each(|part| part.unfill(domains));
            return Err(error);
        }
    }
    Ok(())
}

impl IovaSpace {
    /// Chooses where `len` bytes will be, and checks that they can be there. `address` is that of
    /// the first of them in memory, which tells what alignment will be useful.
    #[inline]
    fn choose(&self, address: impl FnOnce() -> usize, len: usize, iova: Iova) -> Result<usize> {
        if len == 0 || len & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        match iova {
            Iova::Fixed(iova) => self.check_free(iova, len).map(|()| iova),
            Iova::Any => {
                let iova = Request::new(address(), len, self.alignment)?.first_fit(
                    &self.allowed,
                    &self.reserved,
                    self.areas.tree(),
                )?;

                if cfg!(CONFIG_IOMMUFD_TEST)
                    && kernel::warn_on!(self.check_free(iova, len).is_err())
                {
                    return Err(EINVAL);
                }
                Ok(iova)
            }
        }
    }

    /// Checks that `len` bytes can be mapped at `iova`. `len` is not zero.
    fn check_free(&self, iova: usize, len: usize) -> Result {
        if iova & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }

        let range = IovaRange::from_len(iova, len)?;
        if self.reserved.first(range.start, range.last).is_some() {
            return Err(EINVAL);
        }
        if self.areas.first(range).is_some() {
            return Err(EEXIST);
        }
        Ok(())
    }

    /// Occupies IOVA for all parts, one after the other from `iova` on. On error for none.
    fn occupy(&mut self, parts: &mut [Part], iova: usize, prot: Prot) -> Result {
        let result = self.try_occupy(parts, iova, prot);

        if result.is_err() {
            self.vacate(parts);
        }
        result
    }

    fn try_occupy(&mut self, parts: &mut [Part], mut iova: usize, prot: Prot) -> Result {
        for part in parts {
            let (pages, start, len) = (&part.pages, part.start_byte, part.len);
            let mapping = mapping_at(pages, start, len, iova, prot, self.alignment)?;

            self.areas
                .occupy(part.blank.take().ok_or(EINVAL)?, mapping)?;
            part.mapping = Some(mapping);
            // Wraps behind the last part only: the sum of the lengths was checked.
            iova = iova.wrapping_add(part.len);
        }
        Ok(())
    }

    /// Undoes [`IovaSpace::occupy`].
    fn vacate(&mut self, parts: &mut [Part]) {
        for mapping in parts.iter_mut().filter_map(|part| part.mapping.take()) {
            self.areas.vacate(mapping.iova.start);
        }
    }

    /// Ends the transition of all parts: the areas have them now.
    fn publish(&mut self, parts: &mut [Part]) {
        for part in parts {
            if let Some(mapping) = part.mapping.take() {
                let live = Live::new(part.pages.clone(), part.slot.take(), false);

                self.areas.publish(mapping.iova.start, live);
            }
        }
    }
}

impl IoPagetable {
    /// Maps `len` bytes of `pages` from `start_byte` on. Returns the IOVA.
    ///
    /// # Errors
    ///
    /// See [`IoPagetable::map_parts`].
    pub(crate) fn map(
        &self,
        pages: NewPages,
        start_byte: usize,
        len: usize,
        iova: Iova,
        prot: Prot,
    ) -> Result<usize> {
        let blank = Blank::new()?;
        let domains = self.domains.read();
        let mut room = Room::new();
        let mut few = Few::new(&mut room);

        let mut pinned = Ok(true);
        if !domains.list.is_empty() {
            pinned = if len <= FEW * PAGE_SIZE {
                PageRange::of_bytes(start_byte, len)
                    .and_then(|range| pages.pin_few(range, &mut few))
            } else {
                Ok(false)
            };
        }
        if let Ok(false) = pinned {
            return self.map_in_steps(&domains, blank, pages, (start_byte, len), iova, prot);
        }

        let mut space = self.iova.write();
        let iova = space.choose(|| pages.address(start_byte), len, iova)?;
        let mapping = mapping_at(&pages, start_byte, len, iova, prot, space.alignment)?;
        // What could not be pinned matters only now.
        pinned?;

        let (pages, slot) = pages.into_parts();
        let live = if domains.list.is_empty() {
            Live::new(pages, Some(slot), false)
        } else {
            let list = &domains.list;
            let known = pages.fill_few(&mut few, &mapping, list, domains.small, slot)?;

            Live::new(pages, None, known)
        };
        space.areas.insert(blank, mapping, live);
        Ok(iova)
    }

    /// Maps the `(start_byte, len)` bytes of `pages`. The lock of the space is given up meanwhile.
    #[inline(never)]
    fn map_in_steps(
        &self,
        domains: &Domains,
        blank: Blank,
        pages: NewPages,
        (start_byte, len): (usize, usize),
        iova: Iova,
        prot: Prot,
    ) -> Result<usize> {
        let (pages, slot) = pages.into_parts();
        let mut part = Part::new(pages, start_byte, len);

        (part.blank, part.slot) = (Some(blank), Some(slot));
        self.map_prepared(domains, &mut [part], len, iova, prot)
    }

    /// Maps parts of pages, `len` bytes in all, one after the other. Returns the IOVA of the first.
    ///
    /// # Errors
    ///
    /// In this order, and with nothing mapped:
    ///
    /// - `ENOMEM`;
    /// - `EINVAL` if `len` is zero or not aligned;
    /// - for a given IOVA, `EINVAL` if it is not aligned, `EOVERFLOW`, `EINVAL` if it is reserved,
    ///   `EEXIST` if something is there;
    /// - for a chosen one, `EOVERFLOW`, `EINVAL` or `ENOSPC`, see [`super::fit`];
    /// - `EPERM` if the pages must not be written but `prot` allows it, `EINVAL` if a part does not
    ///   start at an aligned byte, `EOVERFLOW`;
    /// - what [`Pages::fill`] returns.
    pub(crate) fn map_parts(
        &self,
        parts: &mut [Part],
        len: usize,
        iova: Iova,
        prot: Prot,
    ) -> Result<usize> {
        parts.iter_mut().try_for_each(Part::prepare)?;
        self.map_prepared(&self.domains.read(), parts, len, iova, prot)
    }

    fn map_prepared(
        &self,
        domains: &Domains,
        parts: &mut [Part],
        len: usize,
        iova: Iova,
        prot: Prot,
    ) -> Result<usize> {
        let address = |part: &Part| part.pages.address(part.start_byte);

        let mut space = self.iova.write();
        let iova = space.choose(|| parts.first().map_or(0, address), len, iova)?;
        space.occupy(parts, iova, prot)?;
        drop(space);

        // The domains stay as they are until the areas are published: a new one must get them from
        // us, or find them.
        let filled = fill(domains, parts);

        let mut space = self.iova.write();
        match filled {
            Ok(()) => space.publish(parts),
            Err(_) => space.vacate(parts),
        }
        filled.map(|()| iova)
    }

    /// Finds what is shown in `range`, to map it elsewhere.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or `ENOENT` if there is a gap.
    pub(crate) fn parts(&self, range: IovaRange) -> Result<KVec<Part>> {
        let mut parts = KVec::new();
        let space = self.iova.read();

        for piece in space.areas.contiguous(range) {
            let piece = piece?;
            let start_byte = piece.mapping.start_byte(piece.range.start);
            // Part of a mapping, which has a length.
            let len = piece.range.len().ok_or(EOVERFLOW)?;

            parts.push(
                Part::new(piece.live.pages.clone(), start_byte, len),
                GFP_KERNEL_ACCOUNT,
            )?;
        }
        Ok(parts)
    }

    /// Divides areas, so that each of `lasts` is the last IOVA of an area if it is in one.
    ///
    /// VFIO's type1 can unmap parts of what was mapped; it uses this before, to make it whole.
    ///
    /// # Errors
    ///
    /// - `EBUSY` if the area is in transition or being unmapped;
    /// - `EOPNOTSUPP` for a DMA buffer;
    /// - `EINVAL` if the parts would not be aligned, if there are accesses, or if a domain may show
    ///   the area by large pages;
    /// - `ENOMEM`.
    pub(crate) fn cut(&self, lasts: &[usize]) -> Result {
        let domains = self.domains.read();
        let mut space = self.iova.write();

        lasts
            .iter()
            .try_for_each(|&last| space.cut_at(&domains, last))
    }
}

impl IovaSpace {
    /// Makes `last` the last IOVA of an area, if it is in one. See [`IoPagetable::cut`].
    fn cut_at(&mut self, domains: &Domains, last: usize) -> Result {
        let Some(area) = self.areas.at(last) else {
            return Ok(());
        };
        let mapping = area.mapping();
        if last == mapping.iova.start || last == mapping.iova.last {
            return Ok(());
        }

        let live = area
            .live()
            .filter(|live| !live.prevent_access)
            .ok_or(EBUSY)?;
        // The trackers of a DMA buffer, which revocation goes by, are made for whole areas.
        if live.pages.is_dmabuf() {
            return Err(EOPNOTSUPP);
        }
        let (left, right) = mapping.split_at(last)?;
        let right_byte = right.start_byte(right.iova.start);
        if (right.iova.start | right_byte) & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let (blank, spare) = (Blank::new()?, Slot::new()?);
        // What is pinned is not known by area, so that it could not be divided.
        if live.is_accessed() {
            return Err(EINVAL);
        }
        if live.is_stored() && !domains.small {
            return Err(EINVAL);
        }

        let slot = if live.is_stored() {
            let list = &domains.list;
            live.pages.split(&mapping, &left, &right, list, spare);
            None
        } else {
            Some(spare)
        };
        self.areas.split(left, right, blank, slot);
        Ok(())
    }
}
