// SPDX-License-Identifier: GPL-2.0

//! Creating and splitting areas. For removal see [`super::unmap`].
//!
//! Mapping occupies IOVA, fills the domains without the lock of the space, and publishes the areas.
//! Meanwhile the areas are in transition: `unmap` fails with `EBUSY`, other operations skip them.
//!
//! Small areas, which are the most frequent, are not in transition: their pages are pinned before
//! the space is locked, and they are mapped and inserted with it locked.
//!
//! Locks: see [`super`]. Pages are put without the lock of the space, as the last put can wait for
//! a dma-buf.
#![forbid(unsafe_code)]

use super::{
    areas::{
        AreaMemory,
        Live, //
    },
    fit::Request,
    new_areas::{
        NewArea,
        NewAreas, //
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
        NewPages,
        Pages,
        Part,
        PinBuffer,
        PinnedBatch,
        SpareSlot,
        BATCH_PAGES, //
    },
    range::{
        IovaRange,
        PageRange, //
    },
    sys::{
        delay::Place,
        task::{
            go_on,
            AccountMode, //
        }, //
    }, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The requested place of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Placement {
    /// At this IOVA.
    Fixed(usize),
    /// At an IOVA that the kernel chooses, see [`super::fit`].
    Any,
}

/// Returns the mapping of the `len` bytes of `pages` from `start_byte` on at `iova`.
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
    // Checked when the pages were created, or the source area was found.
    if kernel::warn_on!(mapping.pages().last >= pages.npages()) {
        return Err(EOVERFLOW);
    }
    Ok(mapping)
}

/// Maps all new areas in all domains. On error none is mapped.
fn fill(domains: &Domains, new_areas: &mut NewAreas) -> Result {
    if domains.list.is_empty() {
        return Ok(());
    }

    let mut result = Ok(());
    let mut filled = 0;
    for area in new_areas.iter_mut() {
        result = fill_one(domains, area);
        if result.is_err() {
            break;
        }
        filled += 1;
    }
    if result.is_err() {
        for area in new_areas.iter_mut().take(filled) {
            if let Some(mapping) = &area.mapping {
                area.pages.unfill(mapping, &domains.list);
            }
        }
    }
    result
}

fn fill_one(domains: &Domains, area: &mut NewArea) -> Result {
    go_on()?;
    let mapping = area.mapping.as_ref().ok_or(EINVAL)?;

    area.pages.fill(mapping, &domains.list, domains.small)
}

impl IovaSpace {
    /// Determines the IOVA of `len` bytes, and checks that it is free. `address` returns the
    /// address of the first byte in its process or file, for the alignment.
    #[inline]
    fn choose(
        &self,
        address: impl FnOnce() -> usize,
        len: usize,
        placement: Placement,
    ) -> Result<usize> {
        if len == 0 || len & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        match placement {
            Placement::Fixed(iova) => self.check_free(iova, len).map(|()| iova),
            Placement::Any => {
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

    /// Occupies consecutive IOVAs for all new areas, from `iova` on. On error for none.
    fn occupy(&mut self, new_areas: &mut NewAreas, iova: usize, prot: Prot) -> Result {
        let result = self.try_occupy(new_areas, iova, prot);

        if result.is_err() {
            self.vacate(new_areas);
        }
        result
    }

    fn try_occupy(&mut self, new_areas: &mut NewAreas, mut iova: usize, prot: Prot) -> Result {
        for area in new_areas.iter_mut() {
            let (pages, start, len) = (area.pages.pages(), area.start_byte, area.len);
            let mapping = mapping_at(pages, start, len, iova, prot, self.alignment)?;

            self.areas
                .occupy(area.memory.take().ok_or(EINVAL)?, mapping)?;
            area.mapping = Some(mapping);
            // Wraps behind the last area only: the sum of the lengths was checked.
            iova = iova.wrapping_add(area.len);
        }
        Ok(())
    }

    /// Undoes [`IovaSpace::occupy`].
    fn vacate(&mut self, new_areas: &mut NewAreas) {
        for mapping in new_areas.iter_mut().filter_map(|area| area.mapping.take()) {
            self.areas.vacate(mapping.iova.start);
        }
    }

    /// Makes all new areas live.
    fn publish(&mut self, new_areas: NewAreas) {
        for area in new_areas.into_iter() {
            if let Some(mapping) = area.mapping {
                self.areas
                    .publish(mapping.iova.start, Live::new(area.pages));
            }
        }
    }
}

impl IoPagetable {
    /// Maps `len` bytes of `pages` from `start_byte` on. Returns the IOVA.
    ///
    /// # Errors
    ///
    /// See [`IoPagetable::map_areas`].
    pub(crate) fn map(
        &self,
        pages: NewPages,
        start_byte: usize,
        len: usize,
        placement: Placement,
        prot: Prot,
    ) -> Result<usize> {
        let memory = AreaMemory::new()?;
        let domains = self.domains.read();
        let mut buffer = PinBuffer::new();
        let mut batch = PinnedBatch::new(&mut buffer);

        let mut pinned = Ok(true);
        if !domains.list.is_empty() {
            pinned = if len <= BATCH_PAGES * PAGE_SIZE {
                PageRange::of_bytes(start_byte, len)
                    .and_then(|range| pages.pin_batch(range, &mut batch))
            } else {
                Ok(false)
            };
        }
        Place::Pinned.delay();
        if let Ok(false) = pinned {
            return self.map_in_steps(&domains, memory, pages, (start_byte, len), placement, prot);
        }

        let mut space = self.iova.write();
        let iova = space.choose(|| pages.address(start_byte), len, placement)?;
        let mapping = mapping_at(&pages, start_byte, len, iova, prot, space.alignment)?;
        // An error of the IOVA comes before an error of pinning, as on the slow path.
        pinned?;

        let mut pages = AreaPages::first(pages);
        if !domains.list.is_empty() {
            pages.fill_batch(&mut batch, &mapping, &domains.list, domains.small)?;
        }
        space.areas.insert(memory, mapping, Live::new(pages));
        Ok(iova)
    }

    /// Maps the `(start_byte, len)` bytes of `pages`, with the space unlocked meanwhile.
    #[inline(never)]
    fn map_in_steps(
        &self,
        domains: &Domains,
        memory: AreaMemory,
        pages: NewPages,
        (start_byte, len): (usize, usize),
        placement: Placement,
        prot: Prot,
    ) -> Result<usize> {
        let area = NewArea::new(memory, AreaPages::first(pages), start_byte, len);

        self.map_areas_in(domains, NewAreas::one(area), len, placement, prot)
    }

    /// Maps new areas, `len` bytes in all, one behind the other. Returns the IOVA of the first.
    ///
    /// # Errors
    ///
    /// Nothing is mapped then. In this order:
    ///
    /// - `EINVAL` if `len` is zero or not aligned;
    /// - for a given IOVA, `EINVAL` if it is not aligned, `EOVERFLOW`, `EINVAL` if it is reserved,
    ///   `EEXIST` if something is there;
    /// - for a chosen one, `EOVERFLOW`, `EINVAL`, `ENOSPC` or `EINTR`, see [`super::fit`];
    /// - `EPERM` if `prot` allows writes and the pages do not, `EINVAL` if an area does not start
    ///   at an aligned byte, `EOVERFLOW`;
    /// - what [`AreaPages::fill`] returns, `EINTR` if the task is being killed.
    pub(crate) fn map_areas(
        &self,
        new_areas: NewAreas,
        len: usize,
        placement: Placement,
        prot: Prot,
    ) -> Result<usize> {
        self.map_areas_in(&self.domains.read(), new_areas, len, placement, prot)
    }

    fn map_areas_in(
        &self,
        domains: &Domains,
        mut new_areas: NewAreas,
        len: usize,
        placement: Placement,
        prot: Prot,
    ) -> Result<usize> {
        let address = |area: &NewArea| area.pages.pages().address(area.start_byte);

        let mut space = self.iova.write();
        let iova = space.choose(|| new_areas.first().map_or(0, address), len, placement)?;
        space.occupy(&mut new_areas, iova, prot)?;
        drop(space);

        Place::Occupied.delay();
        // The list of domains is locked until the areas are published: a new domain gets the areas
        // either here or from the tree.
        let filled = fill(domains, &mut new_areas);

        Place::Filled.delay();
        let mut space = self.iova.write();
        match filled {
            Ok(()) => space.publish(new_areas),
            Err(_) => space.vacate(&mut new_areas),
        }
        filled.map(|()| iova)
    }

    /// Maps the `len` bytes of `parts` at `iova`, one behind the other, each as an area of its own.
    ///
    /// # Errors
    ///
    /// As [`Self::map_areas`], and what creating the pages of a part returns. Nothing is mapped
    /// then.
    pub(crate) fn map_parts(
        &self,
        parts: impl Iterator<Item = Part>,
        len: usize,
        iova: usize,
        prot: Prot,
        mode: AccountMode,
    ) -> Result {
        let mut new_areas = NewAreas::new();

        for part in parts {
            let len = part.len;

            go_on()?;
            let (pages, start_byte) = part.into_pages(prot.writable(), mode)?;
            let pages = AreaPages::first(pages);
            new_areas.push(NewArea::new(AreaMemory::new()?, pages, start_byte, len))?;
        }
        self.map_areas(new_areas, len, Placement::Fixed(iova), prot)?;
        Ok(())
    }

    /// Returns new areas with the pages that are mapped in `range`, to map them elsewhere.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOENT` if there is a gap, `EINTR` if the task is being killed.
    pub(crate) fn areas_to_copy(&self, range: IovaRange) -> Result<NewAreas> {
        let mut new_areas = NewAreas::new();
        let space = self.iova.read();

        for slice in space.areas.contiguous(range) {
            let slice = slice?;
            let start_byte = slice.mapping.start_byte(slice.range.start);
            // A slice of a mapping, whose length fits.
            let len = slice.range.len().ok_or(EOVERFLOW)?;

            go_on()?;
            let pages = AreaPages::new(slice.live.pages.pages().clone())?;
            new_areas.push(NewArea::new(AreaMemory::new()?, pages, start_byte, len))?;
        }
        Ok(new_areas)
    }

    /// Splits areas, so that each of `lasts` that is in an area is its last IOVA.
    ///
    /// VFIO's type1 can unmap a part of what was mapped, and splits it first.
    ///
    /// # Errors
    ///
    /// - `EBUSY` if the area is in transition or being unmapped;
    /// - `EOPNOTSUPP` for a dma-buf that was mapped by its file;
    /// - `EINVAL` if a part would not be aligned, if there are accesses, or if a domain may map the
    ///   area by large pages;
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
        // As C, which lists the mappings of a dma-buf by area.
        if !live.pages.pages().can_split() {
            return Err(EOPNOTSUPP);
        }
        let (left, right) = mapping.split_at(last)?;
        let right_byte = right.start_byte(right.iova.start);
        if (right.iova.start | right_byte) & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let (memory, spare) = (AreaMemory::new()?, SpareSlot::new()?);
        // Pins are not recorded per area, so they cannot be split.
        if live.is_accessed() {
            return Err(EINVAL);
        }
        if live.pages.is_stored() && !domains.small {
            return Err(EINVAL);
        }
        live.pages.prepare_split(&left, &right, &domains.list)?;

        self.areas.split(left, right, memory, spare);
        Ok(())
    }
}
