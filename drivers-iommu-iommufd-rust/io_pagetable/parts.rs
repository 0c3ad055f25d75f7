// SPDX-License-Identifier: GPL-2.0

//! Areas that are being mapped, from when memory for them was allocated to when they are published.
//!
//! One call maps one area, or for `IOMMU_IOAS_COPY` as many [`Parts`] as the source has: any number
//! that user space likes.
//!
//! Locks: none. Parts belong to the thread that maps them.
#![forbid(unsafe_code)]

use super::areas::Blank;
use crate::{
    mapping::Mapping,
    pages::AreaPages, //
};
use kernel::{
    prelude::*,
    seg_vec::SegVec, //
};

/// Some bytes of some pages, which are to become one area.
pub(super) struct Part {
    pub(super) pages: AreaPages,
    pub(super) start_byte: usize,
    pub(super) len: usize,
    /// The memory of the area, until IOVA is occupied with it.
    pub(super) blank: Option<Blank>,
    /// What the area shows, once IOVA is occupied.
    pub(super) mapping: Option<Mapping>,
}

impl Part {
    /// The `len` bytes of `pages` from `start_byte` on.
    pub(super) fn new(blank: Blank, pages: AreaPages, start_byte: usize, len: usize) -> Self {
        Self {
            pages,
            start_byte,
            len,
            blank: Some(blank),
            mapping: None,
        }
    }
}

/// Parts that are mapped one after the other. A single one needs no memory.
pub(crate) struct Parts {
    first: Option<Part>,
    others: SegVec<Part>,
}

impl Parts {
    /// No parts.
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            others: SegVec::new(),
        }
    }

    /// A single part.
    pub(super) const fn one(part: Part) -> Self {
        Self {
            first: Some(part),
            others: SegVec::new(),
        }
    }

    /// Appends a part.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn push(&mut self, part: Part) -> Result {
        if self.first.is_none() {
            self.first = Some(part);
            return Ok(());
        }
        Ok(self.others.push(part, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?)
    }

    /// The first part.
    pub(super) fn first(&self) -> Option<&Part> {
        self.first.as_ref()
    }

    /// All parts, in order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        Iterator::chain(self.first.iter_mut(), self.others.iter_mut())
    }

    /// All parts, in order.
    pub(super) fn into_iter(self) -> impl Iterator<Item = Part> {
        Iterator::chain(self.first.into_iter(), self.others)
    }
}
