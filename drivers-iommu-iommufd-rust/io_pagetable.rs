// SPDX-License-Identifier: GPL-2.0

//! The IO page table: the IOVA space of an IOAS.
//!
//! An [`IoPagetable`] maps IOVAs to slices of pages. Each mapped slice is an *area*, a closed range
//! of IOVAs that overlaps no other area. Also in the IO page table are:
//!
//! - *domains*: the IOMMU page tables that devices use. Each of them maps all areas.
//! - *accesses*: drivers without an IOMMU that read and write the pages by the CPU.
//! - *reserved* ranges, each with one or more [`Reserver`]s: no area can be there. They may
//!   overlap.
//! - *allowed* ranges: nothing can be reserved there. If there are any, IOVAs are chosen from them.
//!
//! [`Pages`](crate::pages::Pages) pins memory and moves PFNs into domains and out of them. This can
//! take long and is done without the lock of the areas. Meanwhile the thread that does it owns the
//! area, whose state says so (see [`areas`]), and no other thread uses or changes the area. The
//! owner works on a copy of the area's mapping; no reference to an area outlives the lock.
//!
//! Submodules: [`areas`], the tree of areas; [`fit`], the search for free IOVAs; [`map`] and
//! [`unmap`]; [`reserved`], `domains` and `accesses`, as above.
//!
//! Locks, in order:
//!
//! 1. `domains` (C: `domains_rwsem`): the domains, the accesses, whether large pages may be used.
//!    Held for reading while an area is removed, and from when an area is filled until it is
//!    published, so that a new domain gets each area exactly once. While it is held for writing, no
//!    area is being emptied, and areas that are being filled are in no domain yet.
//! 2. `iova` (C: `iova_rwsem`): areas, reserved and allowed ranges, the alignment. An access that
//!    uses the pages of an area holds it for reading. The mock driver, in C, takes it, too.
//! 3. the mutex of the pages.
//!
//! The alignment is computed from the domains, the accesses and the page size. It changes only with
//! both locks held for writing, so either one is enough to read it.
#![forbid(unsafe_code)]

mod accesses;
mod areas;
mod domain_list;
mod domains;
mod fit;
mod map;
mod new_areas;
mod reserved;
mod unmap;

#[cfg(CONFIG_IOMMUFD_NOIOMMU)]
use crate::sys::domain::PagingDomain;
use crate::sys::{
    layout::same_plain_offset,
    task::go_on, //
};
use kernel::{
    interval_tree::IntervalTree,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        rwsem::{
            new_rwsem,
            ReadGuard,
            RwSemaphore,
            WriteGuard, //
        }, //
    }, //
};

pub(crate) use self::{
    accesses::{
        AccessEntry,
        Notify, //
    },
    areas::Area,
    map::Placement,
    reserved::Reserver, //
};

#[cfg(CONFIG_IOMMUFD_TEST)]
use self::areas::Content;
use self::{
    accesses::Accesses,
    areas::Areas,
    domain_list::{
        Alignments,
        DomainList, //
    },
    reserved::Owners, //
};

/// The IOVA space of an IOAS, its domains and its accesses.
///
/// C declares `struct io_pagetable` with one field, the semaphore that `iova` begins with.
#[repr(C)]
#[pin_data]
pub(crate) struct IoPagetable {
    #[pin]
    iova: RwSemaphore<IovaSpace>,
    #[pin]
    domains: RwSemaphore<Domains>,
}

same_plain_offset!(IoPagetable, iova, io_pagetable, iova_rwsem);

/// The areas and ranges. Protected by the `iova` lock.
pub(crate) struct IovaSpace {
    areas: Areas,
    /// Each range is in it once, with all of its owners.
    reserved: IntervalTree<Owners>,
    allowed: IntervalTree<()>,
    /// IOVA, length and page offset of each area are multiples of it. A power of two, at most
    /// [`PAGE_SIZE`]; less than that only if all domains and accesses allow it.
    alignment: usize,
}

/// The domains and accesses. Protected by the `domains` lock.
struct Domains {
    /// The first one is the storage domain of new areas.
    list: DomainList,
    accesses: Accesses,
    /// The alignments that the domains and accesses need.
    alignments: Alignments,
    /// Set if domains map pages one by one, so that areas can be split.
    small: bool,
}

impl IoPagetable {
    /// Creates an empty IO page table: all IOVAs are free, the alignment is 1.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            iova <- new_rwsem!(IovaSpace::new(), "io_pagetable::iova_rwsem"),
            domains <- new_rwsem!(Domains::new(), "io_pagetable::domains_rwsem"),
        })
    }

    /// Unmaps everything. The IOAS has no users. Allocates nothing.
    pub(crate) fn destroy(&self) {
        let (mut domains, mut space) = (self.domains.read(), self.iova.write());
        if !space.areas.is_empty() {
            drop((space, domains));
            let (_, unmapped) = self.unmap_all();
            kernel::warn_on!(unmapped.is_err_and(|error| error != ENOENT));
            (domains, space) = (self.domains.read(), self.iova.write());
        }

        if cfg!(CONFIG_IOMMUFD_TEST) {
            space.unreserve(Reserver::Test);
        }
        // Domains, devices and accesses are users of the IOAS, so they have left it.
        kernel::warn_on!(!domains.list.is_empty() || !domains.accesses.is_empty());
        kernel::warn_on!(!space.areas.is_empty() || !space.reserved.is_empty());
    }

    /// Locks the space for reading.
    pub(crate) fn read(&self) -> ReadGuard<'_, IovaSpace> {
        self.iova.read()
    }

    /// Locks the space while those of other IOASes are locked, too. `nest` proves that only one
    /// thread does so.
    pub(crate) fn write_nested_in<'a>(
        &'a self,
        nest: &'a WriteGuard<'_, ()>,
    ) -> WriteGuard<'a, IovaSpace> {
        self.iova.write_nested_in(nest)
    }

    /// Returns the lock of the space, for C.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn iova_lock(&self) -> &RwSemaphore<IovaSpace> {
        &self.iova
    }

    /// Returns whether there are domains. What is mapped is checked when it is mapped in one.
    pub(crate) fn has_domains(&self) -> bool {
        !self.domains.read().list.is_empty()
    }

    /// Returns whether domains may map pages larger than [`PAGE_SIZE`].
    pub(crate) fn large_pages(&self) -> bool {
        !self.domains.read().small
    }

    /// Sets whether domains may map pages larger than [`PAGE_SIZE`].
    ///
    /// # Errors
    ///
    /// When large pages are disabled: `EINVAL` if there are both a domain and an area, which may
    /// use a large page; `EADDRINUSE` if an area is not aligned to [`PAGE_SIZE`].
    pub(crate) fn set_large_pages(&self, large: bool) -> Result {
        let mut domains = self.domains.write();
        let mut space = self.iova.write();

        if !large {
            if domains.small {
                return Ok(());
            }
            if !domains.list.is_empty() && !space.areas.is_empty() {
                return Err(EINVAL);
            }
        }

        let before = core::mem::replace(&mut domains.small, !large);
        space
            .update_alignment(&domains)
            .inspect_err(|_| domains.small = before)
    }

    /// Returns the physical address of `iova`, and the number of contiguous bytes from there on, at
    /// most `max`. Only for devices without an IOMMU.
    ///
    /// # Errors
    ///
    /// `ENOENT` if nothing is mapped there, and what [`crate::pages::AreaPages::phys_contig`]
    /// returns.
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    pub(crate) fn noiommu_phys(&self, iova: usize, max: u64) -> Result<(u64, u64)> {
        let _domains = self.domains.read();
        let space = self.iova.read();
        let area = space.areas.at(iova).ok_or(ENOENT)?;
        let live = area.live().ok_or(ENOENT)?;

        live.pages
            .phys_contig(&area.mapping(), iova, max, PagingDomain::is_noiommu)
    }

    /// Returns the page sizes that VFIO's type1 reports: a bit for each size that all domains have.
    pub(crate) fn page_sizes(&self) -> usize {
        let domains = self.domains.read();
        let mut sizes = domains
            .list
            .iter()
            .fold(usize::MAX, |sizes, domain| sizes & domain.page_sizes());

        // Like type1, do not report sizes below a page.
        if sizes & !PAGE_MASK != 0 {
            sizes = sizes & PAGE_MASK | PAGE_SIZE;
        }
        sizes.max(self.iova.read().alignment)
    }
}

impl IovaSpace {
    fn new() -> Self {
        Self {
            areas: Areas::new(),
            reserved: IntervalTree::new(),
            allowed: IntervalTree::new(),
            alignment: 1,
        }
    }

    /// Returns what IOVA, length and page offset of an area must be multiples of.
    pub(crate) fn alignment(&self) -> usize {
        self.alignment
    }

    /// Returns the areas in order of IOVA, including those in transition.
    pub(crate) fn areas(&self) -> impl Iterator<Item = Area<'_>> {
        self.areas.iter()
    }

    /// Returns the tree of areas, for C.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn area_tree(&self) -> &kernel::gap_tree::GapTree<Content> {
        self.areas.tree()
    }

    /// Checks that all areas conform to a greater alignment.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` if one does not, `EINTR` if the task is being killed.
    fn check_alignment(&self, domains: &Domains, alignment: usize) -> Result {
        let mask = alignment - 1;

        for area in self.areas.iter() {
            go_on()?;
            let mapping = area.mapping();
            if (mapping.iova.start | mapping.len() | mapping.page_offset()) & mask != 0 {
                return Err(EADDRINUSE);
            }
        }
        if cfg!(CONFIG_IOMMUFD_TEST) && kernel::warn_on!(domains.alignments.greatest() > alignment)
        {
            return Err(EADDRINUSE);
        }
        Ok(())
    }

    /// Sets the alignment to the one that the domains and accesses need.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` if an area does not conform, `EINTR` if the task is being killed; only if the
    /// alignment grows.
    fn update_alignment(&mut self, domains: &Domains) -> Result {
        let alignment = domains.alignment();

        if alignment > self.alignment {
            self.check_alignment(domains, alignment)?;
        }
        self.alignment = alignment;
        Ok(())
    }
}

impl Domains {
    fn new() -> Self {
        Self {
            list: DomainList::new(),
            accesses: Accesses::new(),
            alignments: Alignments::new(),
            small: false,
        }
    }

    /// Returns the least alignment that suits all domains and accesses.
    fn alignment(&self) -> usize {
        // Mapping page by page maps whole pages.
        let pages = if self.small { PAGE_SIZE } else { 1 };

        pages.max(self.alignments.greatest())
    }
}
