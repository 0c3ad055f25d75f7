// SPDX-License-Identifier: GPL-2.0

//! Adding domains to an IO page table, removing them, and dirty tracking.
//!
//! Each domain maps all areas. A new domain gets the existing areas before it enters the list, with
//! both the list and the areas locked, so that later mappings neither miss nor repeat it.
//!
//! Removal does not fail and allocates nothing.
//!
//! Locks: see [`super`].
#![forbid(unsafe_code)]

use super::{
    areas::Live,
    Domains,
    IoPagetable,
    IovaSpace,
    Reserver, //
};
use crate::{
    mapping::Mapping,
    range::IovaRange,
    sys::{
        delay::Place,
        domain::PagingDomain,
        task::go_on, //
    }, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    uaccess::UserPtr, //
};

impl IovaSpace {
    /// Reserves the IOVAs that `domain` cannot translate.
    fn reserve_outside(&mut self, domain: &PagingDomain) -> Result {
        let aperture = domain.aperture();
        let below = aperture.start.checked_sub(1);

        if let Some(range) = below.and_then(|last| IovaRange::new(0, last)) {
            self.reserve(range, Reserver::from(domain))?;
        }
        if let Some(range) = IovaRange::ALL.after(aperture.last) {
            self.reserve(range, Reserver::from(domain))?;
        }
        Ok(())
    }

    /// Maps all areas in a domain that is not in the list. On error it maps none.
    fn fill(&mut self, domains: &Domains, domain: &Arc<PagingDomain>) -> Result {
        let mut filled = 0_usize;
        let result = self.areas.try_for_each_live(|mapping, live| {
            go_on()?;
            live.pages.add_domain(mapping, domain, domains.small)?;
            filled += 1;
            Ok(())
        });

        if result.is_err() {
            self.unfill(domains, domain, filled);
        }
        result
    }

    /// Unmaps the first `count` live areas from a domain that is not in the list.
    fn unfill(&mut self, domains: &Domains, domain: &PagingDomain, count: usize) {
        let mut rest = count;
        // A domain that stays becomes the storage domain.
        let successor = domains.list.first();
        let unfill = |mapping: &Mapping, live: &mut Live| {
            rest = rest.checked_sub(1).ok_or(ENOENT)?;
            match successor {
                Some(successor) => live.pages.remove_domain(mapping, domain, successor),
                None => live.pages.unfill(mapping, &[]),
            }
            Ok(())
        };

        // The only error is the end of the count.
        let _ = self.areas.try_for_each_live(unfill);
    }

    /// Adds a domain to the list, with all areas mapped in it.
    fn add_domain(&mut self, domains: &mut Domains, domain: &Arc<PagingDomain>) -> Result {
        self.reserve_outside(domain)?;
        // The page sizes can change with the first attach, so the alignment is stored.
        let alignment = domain.min_page_size();
        let memory = domains.alignments.prepare(alignment)?;
        domains.list.reserve()?;
        self.fill(domains, domain)?;
        Place::DomainFilled.delay();
        // Cannot fail: memory is reserved.
        domains.list.add(domain.clone())?;
        domain.place().set_alignment(alignment);
        domains.alignments.add(alignment, memory);
        Ok(())
    }

    /// Clears the dirty bits of all areas, except those of a dma-buf, see
    /// [`IoPagetable::read_dirty`].
    fn discard_dirty(&self, domain: &PagingDomain) -> Result {
        domain.discard_dirty(|dirty| {
            self.areas
                .iter()
                .filter(|area| area.pages().is_some_and(|pages| !pages.is_dmabuf()))
                .try_for_each(|area| {
                    go_on()?;
                    dirty.read(area.iova())
                })
        })
    }

    /// Checks the range and the page size of a command that reads dirty bits.
    fn check_dirty_range(&self, cmd: &bindings::iommu_hwpt_get_dirty_bitmap) -> Result<IovaRange> {
        let (start, len) = (cmd.iova, cmd.length);
        let last = start
            .checked_add(len.checked_sub(1).ok_or(EINVAL)?)
            .ok_or(EOVERFLOW)?;
        let is_aligned = |size: u64| (start | last.wrapping_add(1)) & size.wrapping_sub(1) == 0;
        let range = IovaRange {
            start: start.try_into().map_err(|_| EOVERFLOW)?,
            last: last.try_into().map_err(|_| EOVERFLOW)?,
        };

        if !is_aligned(self.alignment as u64) || cmd.page_size == 0 || !is_aligned(cmd.page_size) {
            return Err(EINVAL);
        }
        Ok(range)
    }
}

impl IoPagetable {
    /// Adds `domain`, and maps all areas in it.
    ///
    /// # Errors
    ///
    /// Nothing has changed then. In this order:
    ///
    /// - `EEXIST` if it is in the list already;
    /// - `EINVAL` if it cannot map a single page;
    /// - `EADDRINUSE` if it cannot map an existing area or an allowed range;
    /// - `EINTR` if the current task is being killed;
    /// - `ENOMEM`, or what [`crate::pages::Pages::add_domain`] returns.
    pub(crate) fn add_domain(&self, domain: &Arc<PagingDomain>) -> Result {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();

        if kernel::warn_on!(domains.list.has(domain)) {
            return Err(EEXIST);
        }
        // Pages need not be contiguous, so a domain must be able to map single ones. If it can map
        // less than a page, areas may start and end within a page.
        let alignment = domain.min_page_size().max(space.alignment);
        if alignment > PAGE_SIZE {
            return Err(EINVAL);
        }
        if alignment != space.alignment {
            space.check_alignment(&domains, alignment)?;
        }

        space
            .add_domain(&mut domains, domain)
            .inspect_err(|_| space.unreserve(Reserver::from(&**domain)))?;
        space.alignment = alignment;
        Ok(())
    }

    /// Unmaps all areas from `domain` and removes it.
    pub(crate) fn remove_domain(&self, domain: &PagingDomain) {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();

        let Some(removed) = domains.list.remove(domain) else {
            kernel::warn_on!(true);
            return;
        };

        Place::DomainRemoved.delay();
        domains.alignments.remove(domain.place().alignment());
        space.unfill(&domains, domain, usize::MAX);
        space.unreserve(Reserver::from(domain));
        // The alignment does not grow, so this cannot fail.
        kernel::warn_on!(space.update_alignment(&domains).is_err());
        drop(space);
        drop(domains);
        // Frees the domain, if this is the last reference, without locks.
        drop(removed);
    }

    /// Starts or stops dirty tracking in `domain`. Starting clears all dirty bits.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the domain does not support it, `EINTR` if the current task is being killed,
    /// or what the IOMMU driver returns.
    pub(crate) fn set_dirty_tracking(&self, domain: &PagingDomain, enable: bool) -> Result {
        if !domain.has_dirty_tracking() {
            return Err(EOPNOTSUPP);
        }

        let space = self.iova.read();
        if enable {
            space.discard_dirty(domain)?;
        }
        domain.set_dirty_tracking(enable)
    }

    /// Reads the dirty bits of `domain` into a bitmap of user space.
    ///
    /// The walk ends at the first gap and at the first error of the IOMMU driver; what is behind
    /// reads as clean. As in C, this is not an error.
    ///
    /// Areas of a dma-buf are skipped and read as clean: a revocation unmaps them without the lock
    /// of the space, so a walk of their page tables could access freed memory.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if the range is empty, or not aligned to the space and the given page size;
    /// - `EOVERFLOW`;
    /// - `EOPNOTSUPP` if the domain has no dirty tracking;
    /// - `ENOMEM` if the bitmap cannot be used.
    pub(crate) fn read_dirty(
        &self,
        domain: &PagingDomain,
        flags: u32,
        cmd: &bindings::iommu_hwpt_get_dirty_bitmap,
    ) -> Result {
        let space = self.iova.read();
        let range = space.check_dirty_range(cmd)?;
        let clear = flags & NO_CLEAR == 0;
        // CAST: The bitmap goes by the lowest bit of it; sizes beyond the space have no other.
        let page_size = cmd.page_size as usize;
        // CAST: An address of user space, whatever it is.
        let bitmap = UserPtr::from_addr(cmd.data as usize);

        if !domain.has_dirty_tracking() {
            return Err(EOPNOTSUPP);
        }
        domain.read_dirty(range, page_size, bitmap, clear, |dirty| {
            // Errors end the walk, see above.
            let _ = space.areas.contiguous(range).try_for_each(|slice| {
                go_on()?;
                let slice = slice?;
                if slice.live.pages.pages().is_dmabuf() {
                    return Ok(());
                }
                dirty.read(slice.range)
            });
        })
    }
}

/// Flag: do not clear the dirty bits that are read.
const NO_CLEAR: u32 =
    bindings::iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
