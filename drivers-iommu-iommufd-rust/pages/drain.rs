// SPDX-License-Identifier: GPL-2.0

//! How PFNs get out of domains.
//!
//! *Unmap before unpin*: memory that a device can reach is not given back. So the PFNs must be
//! known before: from the record of the area, or else by asking the domain. Nothing here fails or
//! needs memory.
//!
//! Most areas that go are small, and their PFNs are known. These are unmapped many at a time with
//! one flush, and then released ([`Pages::release`](super::Pages::release)). The others go one by
//! one, and are unmapped here.
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

/// So many pages are unmapped at a time: 1 GiB.
const UNMAP_PAGES: usize = 1 << (30 - PAGE_SHIFT);

impl Inner {
    /// Unmaps the front part `range` of a mapping from `domain`, and unpins the pages that nobody
    /// holds any more. `range` ends where a run ends. Never fails, works without memory.
    ///
    /// `domain` is the last one that has the mapping, and it is not, or no more, in the tree of
    /// holders. `runs` are the PFNs of `range` at least, if they are known.
    pub(super) fn drain(
        &mut self,
        writable: bool,
        mapping: &Mapping,
        range: PageRange,
        domain: &PagingDomain,
        runs: Option<&RunList>,
    ) {
        // Where there is nothing to unpin, PFNs are of no interest.
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
            // A bounded piece, but to the end of a run.
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
            // More memory means fewer flushes of the IOMMU's caches, but it works without.
            read.try_reserve(range.len().min(memory_limit() / size_of::<PhysRun>()));
        }
        while let Some(range) = rest {
            let runs = read.read(domain, mapping.iova_of(range));
            let pages = pages_of(runs);
            // What is mapped is there.
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
