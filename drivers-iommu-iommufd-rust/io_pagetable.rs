// SPDX-License-Identifier: GPL-2.0

//! The IO page table: what is shown at which IOVA of an IOAS.
//!
//! An [`IoPagetable`] maps IOVAs to slices of pages. Each such slice is an *area*, a closed range
//! of IOVAs that overlaps no other. IOVA outside of areas is not populated. What else has a say:
//!
//! - *domains*: the IOMMU page tables that show the areas to devices. Each of them shows all areas.
//! - *accesses*: drivers without an IOMMU that read and write the pages themselves.
//! - *reserved* ranges, each of a [`Reserver`]: where no area may be. They may overlap each other.
//! - *allowed* ranges: where no reservation may be. If there are any, IOVA is chosen from them.
//!
//! PFNs are not of this layer: [`Pages`](crate::pages::Pages) pins memory, and moves PFNs in and
//! out of domains. That may take long and is done without the lock of the areas. The thread that
//! does it owns the area in the meantime, by its state (see [`areas`]): nobody else changes or uses
//! it. The thread works on copies of what the area says; no reference to an area outlives the lock.
//!
//! The modules inside of this one: [`areas`], the tree of them; [`fit`], the search for free IOVA;
//! [`map`] and [`unmap`], how areas come and go; [`reserved`], `domains` and `accesses`, as above.
//!
//! Locks, in order:
//!
//! 1. `domains` (C: `domains_rwsem`): the domains, the accesses, whether large pages may be used.
//!    Held for reading while an area is taken to pieces, and from the moment it is filled to when
//!    it is published, so that a new domain gets each area exactly once. Who holds it for writing
//!    sees no area that is being emptied; areas that are being filled are in no domain yet.
//! 2. `iova` (C: `iova_rwsem`): areas, reserved and allowed ranges, the alignment. An access that
//!    uses the pages of an area holds it for reading. C code of the mock driver takes it, too.
//! 3. the mutex of the pages.
//!
//! The alignment follows from the domains, the accesses and the size of pages; it changes with both
//! locks held for writing, so that it can be read under either.
#![forbid(unsafe_code)]

mod accesses;
mod areas;
mod domain_list;
mod domains;
mod fit;
mod map;
mod parts;
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
    map::Iova,
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

/// The IOVA space of an IOAS, the domains that show it and the accesses that use it.
///
/// C sees `struct io_pagetable`, whose only field is the semaphore that `iova` starts with.
#[repr(C)]
#[pin_data]
pub(crate) struct IoPagetable {
    #[pin]
    iova: RwSemaphore<IovaSpace>,
    #[pin]
    domains: RwSemaphore<Domains>,
}

same_plain_offset!(IoPagetable, iova, io_pagetable, iova_rwsem);

/// What is where. Reached through the `iova` lock.
pub(crate) struct IovaSpace {
    areas: Areas,
    /// Each range once, whoever reserves it.
    reserved: IntervalTree<Owners>,
    allowed: IntervalTree<()>,
    /// IOVA, length and page offset of each area are multiples of it: a power of two, at most
    /// [`PAGE_SIZE`], and less only while all domains can map less and no access needs more.
    alignment: usize,
}

/// Who shows and uses it. Reached through the `domains` lock.
struct Domains {
    /// The first of them keeps the PFNs of the areas, until it is removed.
    list: DomainList,
    accesses: Accesses,
    /// Of all domains and accesses.
    alignments: Alignments,
    /// Whether domains map pages one by one, so that areas can be split.
    small: bool,
}

impl IoPagetable {
    /// An empty space, with all IOVA that can be expressed, and without alignment.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            iova <- new_rwsem!(IovaSpace::new(), "io_pagetable::iova_rwsem"),
            domains <- new_rwsem!(Domains::new(), "io_pagetable::domains_rwsem"),
        })
    }

    /// Empties the space, which nobody uses any more. Needs no memory.
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
        // Domains, devices and accesses depend on the IOAS: they are gone, with what they brought.
        kernel::warn_on!(!domains.list.is_empty() || !domains.accesses.is_empty());
        kernel::warn_on!(!space.areas.is_empty() || !space.reserved.is_empty());
    }

    /// Locks the space to look at it.
    pub(crate) fn read(&self) -> ReadGuard<'_, IovaSpace> {
        self.iova.read()
    }

    /// Locks the space while those of other IOASes are locked, too. `nest` sees to it that only one
    /// thread does so.
    pub(crate) fn write_nested_in<'a>(
        &'a self,
        nest: &'a WriteGuard<'_, ()>,
    ) -> WriteGuard<'a, IovaSpace> {
        self.iova.write_nested_in(nest)
    }

    /// The lock of the space, for C.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn iova_lock(&self) -> &RwSemaphore<IovaSpace> {
        &self.iova
    }

    /// Whether domains may map pages larger than [`PAGE_SIZE`].
    pub(crate) fn large_pages(&self) -> bool {
        !self.domains.read().small
    }

    /// Sets whether domains may map pages larger than [`PAGE_SIZE`].
    ///
    /// # Errors
    ///
    /// When they are switched off: `EINVAL` if there is both a domain and an area, as it may be
    /// mapped by large pages; `EADDRINUSE` if an area is not aligned to [`PAGE_SIZE`].
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

    /// The physical address behind `iova`, and how many bytes are contiguous from there on, at most
    /// `max`. Only for devices without an IOMMU.
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

    /// The page sizes that VFIO's type1 reports: one bit each, for all that each domain can map.
    pub(crate) fn page_sizes(&self) -> usize {
        let domains = self.domains.read();
        let mut sizes = domains
            .list
            .iter()
            .fold(usize::MAX, |sizes, domain| sizes & domain.page_sizes());

        // Parts of a page are not reported, as type1 does.
        if sizes & !PAGE_MASK != 0 {
            sizes = sizes & PAGE_MASK | PAGE_SIZE;
        }
        // The alignment changes with the lock of the domains held, too.
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

    /// What IOVA, length and page offset of an area must be multiples of.
    pub(crate) fn alignment(&self) -> usize {
        self.alignment
    }

    /// The areas, ordered by their IOVA, those in transition included.
    pub(crate) fn areas(&self) -> impl Iterator<Item = Area<'_>> {
        self.areas.iter()
    }

    /// The tree of the areas, for C.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn area_tree(&self) -> &kernel::gap_tree::GapTree<Content> {
        self.areas.tree()
    }

    /// Whether all areas conform to a greater alignment. [`EINTR`] if the task is being killed.
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

    /// Makes the alignment what the domains and accesses ask for.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` if there is an area that does not conform; only if they ask for more than
    /// before.
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

    /// The least alignment that suits all.
    fn alignment(&self) -> usize {
        // A page is mapped at once if it is mapped one by one.
        let pages = if self.small { PAGE_SIZE } else { 1 };

        pages.max(self.alignments.greatest())
    }
}
