// SPDX-License-Identifier: GPL-2.0

//! Unmapping areas from domains and unpinning them.
//!
//! Pages are unmapped before they are unpinned, so that no device can access freed memory. The PFNs
//! have to be known before unmapping: from the record of the area, or else from the page table of
//! the domain. Nothing here fails or requires memory.
//!
//! Small areas with known PFNs do not come here: they are unmapped several at a time with one
//! flush, and then released ([`AreaPages::release`](super::AreaPages::release)).
//!
//! Locks: see [`super::domain`].
#![forbid(unsafe_code)]

use super::{
    record::{
        pages_of,
        pfns_of, //
    },
    run::RunList,
    Inner, //
};
use crate::{
    mapping::Mapping,
    range::PageRange,
    sys::{
        domain::{
            PagingDomain,
            PhysRuns, //
        },
        pin,
        test::memory_limit, //
    }, //
};
use core::mem::size_of;
use kernel::{
    iommu::domain::PhysRun,
    page::PAGE_SHIFT,
    warn_on, //
};

/// The number of pages that are unmapped at a time: 1 GiB.
const UNMAP_PAGES: usize = 1 << (30 - PAGE_SHIFT);

impl Inner {
    /// Unmaps `range`, the front of a mapping, from `domain`, and unpins the pages that have no
    /// holder any more. `range` ends where a run ends. Never fails, allocates nothing that it
    /// needs.
    ///
    /// No other domain has the mapping, and its record is not in the tiers. `runs` are the PFNs of
    /// `range` at least, if they are known.
    pub(super) fn drain(
        &mut self,
        writable: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
        runs: Option<&RunList>,
    ) {
        // Nothing to unpin, so the PFNs are not needed.
        if self.tiers.all_held(range) {
            domain.unmap(mapping.iova_of(range));
            return;
        }
        match runs {
            Some(runs) => self.drain_known(writable, mapping, range, domain, runs),
            None => self.drain_unknown(writable, mapping, range, domain),
        }
    }

    fn drain_known(
        &mut self,
        writable: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
        runs: &RunList,
    ) {
        let mut rest = Some(range);

        while let Some(range) = rest {
            // A bounded piece, extended to the end of a run.
            let near = range.last.min(range.first.saturating_add(UNMAP_PAGES - 1));
            let last = range.last.min(near + (runs.run_at(near).len - 1));
            let piece = PageRange {
                first: range.first,
                last,
            };

            domain.unmap(mapping.iova_of(piece));
            for (index, run) in runs.iter_range(piece) {
                self.unpin_unheld(writable, index, run);
            }
            rest = PageRange::new(last + 1, range.last);
        }
    }

    fn drain_unknown(
        &mut self,
        writable: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
    ) {
        let mut read = PhysRuns::new();
        let mut rest = Some(range);

        if range.len() > PhysRuns::FEW {
            // Optional: with more memory there are fewer IOTLB flushes.
            read.try_reserve(range.len().min(memory_limit() / size_of::<PhysRun>()));
        }
        while let Some(range) = rest {
            let runs = read.read(domain, mapping.iova_of(range));
            let pages = pages_of(runs);
            // A mapped range has at least one page.
            if warn_on!(pages == 0) {
                return;
            }
            let piece = PageRange {
                first: range.first,
                last: range.last.min(range.first + (pages - 1)),
            };

            domain.unmap(mapping.iova_of(piece));
            if self.tiers.is_empty() {
                for phys in runs {
                    pin::unpin(pfns_of(phys), writable);
                }
                self.account.unpinned(pages);
            } else {
                let mut index = piece.first;
                for run in runs.iter().map(pfns_of) {
                    self.unpin_unheld(writable, index, run);
                    index += run.len;
                }
            }
            rest = PageRange::new(piece.last + 1, range.last);
        }
    }
}
