// SPDX-License-Identifier: GPL-2.0

//! The domains that show an IO page table to devices, and what was written through them.
//!
//! Each domain shows all areas. A domain that comes gets those that there are before it is in the
//! list, where mappers find it; both the list and the areas are locked meanwhile.
//!
//! Removal does not fail and needs no memory.
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
    /// Reserves all that `domain` cannot translate.
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

    /// Puts all areas into a domain that is not in the list. On error none is in it.
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

    /// Takes the first `count` live areas out of a domain that is not in the list.
    fn unfill(&mut self, domains: &Domains, domain: &PagingDomain, count: usize) {
        let mut rest = count;
        // One of those that stay keeps the PFNs.
        let successor = domains.list.first();
        let unfill = |mapping: &Mapping, live: &mut Live| {
            rest = rest.checked_sub(1).ok_or(ENOENT)?;
            match successor {
                Some(successor) => live.pages.remove_domain(mapping, domain, successor),
                None => live.pages.unfill(mapping, &[]),
            }
            Ok(())
        };

        // The error is the end of the count.
        let _ = self.areas.try_for_each_live(unfill);
    }

    /// Adds a domain to the list, with all areas in it.
    fn add_domain(&mut self, domains: &mut Domains, domain: &Arc<PagingDomain>) -> Result {
        self.reserve_outside(domain)?;
        // It can become another with the first attach.
        let alignment = domain.min_page_size();
        let memory = domains.alignments.prepare(alignment)?;
        domains.list.reserve()?;
        self.fill(domains, domain)?;
        // There is room.
        domains.list.add(domain.clone())?;
        domain.place().set_alignment(alignment);
        domains.alignments.add(alignment, memory);
        Ok(())
    }

    /// Clears the dirty bits of all areas, except for those of a dma-buf, see
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
    /// Shows this space in `domain`.
    ///
    /// # Errors
    ///
    /// In this order, and with nothing changed:
    ///
    /// - `EEXIST` if it is in there;
    /// - `EINVAL` if it cannot map a single page;
    /// - `EADDRINUSE` if there are areas that it cannot show, or allowed ranges;
    /// - `EINTR` if the current task is being killed;
    /// - `ENOMEM`, or what [`crate::pages::Pages::add_domain`] returns.
    pub(crate) fn add_domain(&self, domain: &Arc<PagingDomain>) -> Result {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();

        if kernel::warn_on!(domains.list.has(domain)) {
            return Err(EEXIST);
        }
        // Pages are neither guaranteed to be contiguous nor made so: a domain must take single
        // ones. If it takes smaller ones, areas may start and end within a page.
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

    /// Takes everything out of `domain` and forgets it.
    pub(crate) fn remove_domain(&self, domain: &PagingDomain) {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();

        let Some(removed) = domains.list.remove(domain) else {
            kernel::warn_on!(true);
            return;
        };

        domains.alignments.remove(domain.place().alignment());
        space.unfill(&domains, domain, usize::MAX);
        space.unreserve(Reserver::from(domain));
        // It can only become less, which suits any area.
        kernel::warn_on!(space.update_alignment(&domains).is_err());
        drop(space);
        drop(domains);
        // The domain may be freed, without our locks.
        drop(removed);
    }

    /// Starts or stops the tracking of writes through `domain`. It starts with a clean slate.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the domain cannot, `EINTR` if the current task is being killed, or what the
    /// IOMMU driver returns.
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

    /// Reads what was written through `domain` into a bitmap of user space.
    ///
    /// IOVA that is not mapped reads as clean, and so does what lies behind the first gap, or
    /// behind the first error of the IOMMU driver. User space depends on that not being an error.
    ///
    /// Memory of a dma-buf reads as clean, and the walk goes on behind it: a revocation unmaps it
    /// without the lock of the space, so that the walk could use freed page tables.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if the range is empty, or not aligned to the space and the given page size;
    /// - `EOVERFLOW`;
    /// - `EOPNOTSUPP` if the domain cannot track writes;
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
            // See above for why errors end the walk and nothing else.
            let _ = space.areas.contiguous(range).try_for_each(|piece| {
                go_on()?;
                let piece = piece?;
                if piece.live.pages.pages().is_dmabuf() {
                    return Ok(());
                }
                dirty.read(piece.range)
            });
        })
    }
}

/// Flag: what was read stays marked as written.
const NO_CLEAR: u32 =
    bindings::iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;
