// SPDX-License-Identifier: GPL-2.0

//! Areas that are being mapped, from the allocation of their memory to their publication.
//!
//! One call maps one area; `IOMMU_IOAS_COPY` maps as many as the source has, which is a number that
//! user space chooses.
//!
//! Locks: none. New areas belong to the thread that maps them.
#![forbid(unsafe_code)]

use super::areas::AreaMemory;
use crate::{
    mapping::Mapping,
    pages::AreaPages, //
};
use kernel::{
    prelude::*,
    seg_vec::SegVec, //
};

/// A slice of pages that is to become an area.
pub(super) struct NewArea {
    pub(super) pages: AreaPages,
    pub(super) start_byte: usize,
    pub(super) len: usize,
    /// The memory of the area, until it occupies IOVA.
    pub(super) memory: Option<AreaMemory>,
    /// The mapping, once the area occupies IOVA.
    pub(super) mapping: Option<Mapping>,
}

impl NewArea {
    /// Creates an area of the `len` bytes of `pages` from `start_byte` on.
    pub(super) fn new(memory: AreaMemory, pages: AreaPages, start_byte: usize, len: usize) -> Self {
        Self {
            pages,
            start_byte,
            len,
            memory: Some(memory),
            mapping: None,
        }
    }
}

/// NewAreas that are mapped one after the other. A single one needs no memory.
pub(crate) struct NewAreas {
    first: Option<NewArea>,
    others: SegVec<NewArea>,
}

impl NewAreas {
    /// No new_areas.
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            others: SegVec::new(),
        }
    }

    /// A single area.
    pub(super) const fn one(area: NewArea) -> Self {
        Self {
            first: Some(area),
            others: SegVec::new(),
        }
    }

    /// Appends a area.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn push(&mut self, area: NewArea) -> Result {
        if self.first.is_none() {
            self.first = Some(area);
            return Ok(());
        }
        Ok(self.others.push(area, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?)
    }

    /// The first area.
    pub(super) fn first(&self) -> Option<&NewArea> {
        self.first.as_ref()
    }

    /// All new_areas, in order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut NewArea> {
        Iterator::chain(self.first.iter_mut(), self.others.iter_mut())
    }

    /// All new_areas, in order.
    pub(super) fn into_iter(self) -> impl Iterator<Item = NewArea> {
        Iterator::chain(self.first.into_iter(), self.others)
    }
}
