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
    parts::{
        Part,
        Parts, //
    },
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
        AreaPages,
        Few,
        NewPages,
        Pages,
        Room,
        SpareSlot,
        FEW, //
    },
    range::{
        IovaRange,
        PageRange, //
    },
    sys::task::go_on, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// Where to map.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Iova {
    /// Here, or not at all.
    Fixed(usize),
    /// Where there is room, see [`super::fit`].
    Any,
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

/// Puts all parts into all domains, if there are any. On error none is in any.
fn fill(domains: &Domains, parts: &mut Parts) -> Result {
    if domains.list.is_empty() {
        return Ok(());
    }

    let mut result = Ok(());
    let mut filled = 0;
    for part in parts.iter_mut() {
        result = fill_part(domains, part);
        if result.is_err() {
            break;
        }
        filled += 1;
    }
    if result.is_err() {
        for part in parts.iter_mut().take(filled) {
            if let Some(mapping) = &part.mapping {
                part.pages.unfill(mapping, &domains.list);
            }
        }
    }
    result
}

fn fill_part(domains: &Domains, part: &mut Part) -> Result {
    go_on()?;
    let mapping = part.mapping.as_ref().ok_or(EINVAL)?;

    part.pages.fill(mapping, &domains.list, domains.small)
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
    fn occupy(&mut self, parts: &mut Parts, iova: usize, prot: Prot) -> Result {
        let result = self.try_occupy(parts, iova, prot);

        if result.is_err() {
            self.vacate(parts);
        }
        result
    }

    fn try_occupy(&mut self, parts: &mut Parts, mut iova: usize, prot: Prot) -> Result {
        for part in parts.iter_mut() {
            let (pages, start, len) = (part.pages.pages(), part.start_byte, part.len);
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
    fn vacate(&mut self, parts: &mut Parts) {
        for mapping in parts.iter_mut().filter_map(|part| part.mapping.take()) {
            self.areas.vacate(mapping.iova.start);
        }
    }

    /// Ends the transition of all parts: the areas have them now.
    fn publish(&mut self, parts: Parts) {
        for part in parts.into_iter() {
            if let Some(mapping) = part.mapping {
                self.areas
                    .publish(mapping.iova.start, Live::new(part.pages));
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

        let mut pages = AreaPages::first(pages);
        if !domains.list.is_empty() {
            pages.fill_few(&mut few, &mapping, &domains.list, domains.small)?;
        }
        space.areas.insert(blank, mapping, Live::new(pages));
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
        let part = Part::new(blank, AreaPages::first(pages), start_byte, len);

        self.map_parts_in(domains, Parts::one(part), len, iova, prot)
    }

    /// Maps parts of pages, `len` bytes in all, one after the other. Returns the IOVA of the first.
    ///
    /// # Errors
    ///
    /// In this order, and with nothing mapped:
    ///
    /// - `EINVAL` if `len` is zero or not aligned;
    /// - for a given IOVA, `EINVAL` if it is not aligned, `EOVERFLOW`, `EINVAL` if it is reserved,
    ///   `EEXIST` if something is there;
    /// - for a chosen one, `EOVERFLOW`, `EINVAL`, `ENOSPC` or `EINTR`, see [`super::fit`];
    /// - `EPERM` if the pages must not be written but `prot` allows it, `EINVAL` if a part does not
    ///   start at an aligned byte, `EOVERFLOW`;
    /// - what [`AreaPages::fill`] returns, `EINTR` if the task is being killed.
    pub(crate) fn map_parts(
        &self,
        parts: Parts,
        len: usize,
        iova: Iova,
        prot: Prot,
    ) -> Result<usize> {
        self.map_parts_in(&self.domains.read(), parts, len, iova, prot)
    }

    fn map_parts_in(
        &self,
        domains: &Domains,
        mut parts: Parts,
        len: usize,
        iova: Iova,
        prot: Prot,
    ) -> Result<usize> {
        let address = |part: &Part| part.pages.pages().address(part.start_byte);

        let mut space = self.iova.write();
        let iova = space.choose(|| parts.first().map_or(0, address), len, iova)?;
        space.occupy(&mut parts, iova, prot)?;
        drop(space);

        // The domains stay as they are until the areas are published: a new one must get them from
        // us, or find them.
        let filled = fill(domains, &mut parts);

        let mut space = self.iova.write();
        match filled {
            Ok(()) => space.publish(parts),
            Err(_) => space.vacate(&mut parts),
        }
        filled.map(|()| iova)
    }

    /// Finds what is shown in `range`, to map it elsewhere.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOENT` if there is a gap, `EINTR` if the task is being killed.
    pub(crate) fn parts(&self, range: IovaRange) -> Result<Parts> {
        let mut parts = Parts::new();
        let space = self.iova.read();

        for piece in space.areas.contiguous(range) {
            let piece = piece?;
            let start_byte = piece.mapping.start_byte(piece.range.start);
            // Part of a mapping, which has a length.
            let len = piece.range.len().ok_or(EOVERFLOW)?;

            go_on()?;
            let pages = AreaPages::new(piece.live.pages.pages().clone())?;
            parts.push(Part::new(Blank::new()?, pages, start_byte, len))?;
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
        if live.pages.pages().is_dmabuf() {
            return Err(EOPNOTSUPP);
        }
        let (left, right) = mapping.split_at(last)?;
        let right_byte = right.start_byte(right.iova.start);
        if (right.iova.start | right_byte) & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let (blank, spare) = (Blank::new()?, SpareSlot::new()?);
        // What is pinned is not known by area, so that it could not be divided.
        if live.is_accessed() {
            return Err(EINVAL);
        }
        if live.pages.is_stored() && !domains.small {
            return Err(EINVAL);
        }

        self.areas.split(left, right, blank, spare);
        Ok(())
    }
}
