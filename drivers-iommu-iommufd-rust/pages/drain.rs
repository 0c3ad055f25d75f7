// SPDX-License-Identifier: GPL-2.0

//! Unmapping areas from domains and unpinning them.
//!
//! Pages are unmapped before they are unpinned, so that no device can access freed memory. The PFNs
//! are in the record of the area, or else the page table of the domain returns them when it is
//! unmapped. Nothing here fails or requires memory.
//!
//! Small areas with known PFNs do not come here: they are unmapped several at a time with one
//! flush, and then released ([`AreaPages::release`](super::AreaPages::release)).
//!
//! Locks: see [`super::domain`].
#![forbid(unsafe_code)]

use super::{
    record::{
        only_pfn_of,
        pfns_of, //
    },
    run::{
        Run,
        RunList, //
    },
    Inner, //
};
use crate::{
    mapping::Mapping,
    range::PageRange,
    sys::{
        domain::{
            PagingDomain,
            PhysRuns,
            Unmapping, //
        },
        pin,
        test::memory_limit, //
    }, //
};
use core::mem::size_of;
use kernel::{
    iommu::domain::PhysRun,
    page::PAGE_SHIFT, //
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
        let mut unmapping = Unmapping::new(domain, mapping.iova_of(range));
        let mut read = PhysRuns::new();
        let mut index = range.first;

        if range.len() > PhysRuns::FEW {
            // Optional: with more memory there are fewer IOTLB flushes.
            read.try_reserve(range.len().min(memory_limit() / size_of::<PhysRun>()));
        }
        while let Some((runs, last)) = unmapping.next(&mut read) {
            if self.tiers.is_empty() {
                let end = mapping.iova_to_index(last) + 1;

                // A constant for each page.
                if writable {
                    unpin_all(runs, true);
                } else {
                    unpin_all(runs, false);
                }
                self.account.unpinned(end - index);
                index = end;
            } else {
                for run in runs.iter().map(pfns_of) {
                    self.unpin_unheld(writable, index, run);
                    index += run.len;
                }
            }
        }
    }
}

/// Unpins the pages of runs that were unmapped. They have no other holder.
#[inline(always)]
fn unpin_all(runs: &[PhysRun], writable: bool) {
    for phys in runs {
        // Where memory is scattered most runs are a page, and this is done for each of them.
        match only_pfn_of(phys) {
            Some(pfn) => pin::unpin(Run { pfn, len: 1 }, writable),
            None => unpin_run(phys, writable),
        }
    }
}

/// Unpins the pages of any run. Not inlined, so that the path of a single page stays short.
#[inline(never)]
fn unpin_run(phys: &PhysRun, writable: bool) {
    pin::unpin(pfns_of(phys), writable);
}
