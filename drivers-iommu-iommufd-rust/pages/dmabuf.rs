// SPDX-License-Identifier: GPL-2.0

//! Memory of devices, imported by a dma-buf.
//!
//! The exporter of the dma-buf, a VFIO device, has physically contiguous memory that is not RAM.
//! The driver pins the buffer, gets its physical address and maps it like other memory. The
//! exporter can *revoke* it at any time, with locks of its own held: then it has to be unmapped at
//! once. Its areas stay, without a mapping. The buffer of a file is not mapped again. A BAR that a
//! VFIO container maps by its address ([`Kind::Bar`]) is mapped again when the exporter announces
//! that it is back: with VFIO's type1, such a mapping survives a reset.
//!
//! So there is a list of its mappings ([`Shown`]), and PFNs are always computed from the physical
//! address, never read from a domain. The record in the domain tier is kept as for other sources.
//! There are no in-kernel accesses, as the CPU must not access the memory.
//!
//! A mapping is identified by the domain and the first IOVA. There is at most one at a time: it is
//! added to the list before it is made, and one call removes it from the list and unmaps it under
//! the mutex of [`Memory`], while the area still occupies its IOVA. Either all mappings of the list
//! are made, or none, if the memory is revoked.
//!
//! Locks: revocation runs under the reservation lock of the dma-buf and takes the mutex of
//! [`Memory`]; it must take neither `domains_rwsem` nor the mutex of the pages: that is held when
//! memory is pinned, and the `mmap` lock can be held when a reservation lock is taken. The mutex of
//! [`Memory`] comes after that of the pages.
#![forbid(unsafe_code)]

use super::{
    fill::map_in_all,
    page_count,
    source::Source,
    Pages, //
};
#[cfg(CONFIG_DMA_SHARED_BUFFER)]
use crate::sys::dmabuf::{
    Importer,
    PhysRange, //
};
use crate::{
    mapping::{
        Mapping,
        Prot, //
    },
    range::IovaRange,
    sys::{
        dmabuf::DmaBuf,
        domain::PagingDomain,
        task::AccountMode,
        test::should_fail, //
    }, //
};
use kernel::{
    io::PhysAddr,
    mm::account::Process,
    new_mutex,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    rbtree::RBTree,
    sync::{
        Arc,
        Mutex, //
    },
    warn_on, //
};

/// The key of a mapping: the address of the domain and the first IOVA.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At {
    domain: usize,
    iova: usize,
}

impl At {
    fn new(domain: &PagingDomain, iova: IovaRange) -> Self {
        Self {
            domain: domain.as_raw().addr(),
            iova: iova.start,
        }
    }
}

/// A mapping of an area in one domain. Holds the domain, whose address is in the key.
#[cfg_attr(not(CONFIG_DMA_SHARED_BUFFER), expect(dead_code))]
struct Shown {
    iova: IovaRange,
    domain: Arc<PagingDomain>,
    /// The offset of the first mapped byte in the buffer.
    byte: usize,
    prot: Prot,
    /// Set if no page larger than [`PAGE_SIZE`] is used.
    small: bool,
}

impl Shown {
    /// Maps the memory, the first byte of which has the physical address `phys`.
    #[cfg(CONFIG_DMA_SHARED_BUFFER)]
    fn map(&self, phys: PhysAddr) -> Result {
        let domains = core::slice::from_ref(&self.domain);
        // CAST: Memory has addresses.
        let paddr = phys.wrapping_add(self.byte as PhysAddr);

        map_in_all(domains, self.iova, paddr, self.prot.mmio(), self.small)
    }
}

/// The kind of an imported buffer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One that user space has a file of. Its revocation is final, and areas of it are not split.
    File,
    /// A BAR that a VFIO container maps by its address, as VFIO's type1 does.
    Bar,
}

/// The fields of [`Memory`] that change.
struct MemoryState {
    /// The physical address of the memory, unless it was revoked (or is not known yet).
    phys: Option<PhysAddr>,
    /// Set once the physical address was known, if the memory is mapped again after a revocation.
    #[cfg_attr(not(CONFIG_DMA_SHARED_BUFFER), expect(dead_code))]
    returns: bool,
    /// All mappings, or those that would exist without the revocation.
    ///
    /// User space can create any number, so each is an allocation of its own.
    shown: RBTree<At, Shown>,
}

impl MemoryState {
    fn new() -> Self {
        Self {
            phys: None,
            returns: false,
            shown: RBTree::new(),
        }
    }

    /// Adds mappings at `iova` of the memory from `byte` on for all domains; for none if allocation
    /// fails.
    fn note(
        &mut self,
        domains: &[Arc<PagingDomain>],
        iova: IovaRange,
        byte: usize,
        prot: Prot,
        small: bool,
    ) -> Result {
        for (n, domain) in domains.iter().enumerate() {
            let shown = Shown {
                iova,
                domain: domain.clone(),
                byte,
                prot,
                small,
            };
            let at = At::new(domain, iova);
            let res = self
                .shown
                .try_create_and_insert(at, shown, GFP_KERNEL_ACCOUNT);

            match res {
                // Not reached: the IOVA is that of a new area.
                Ok(before) => _ = warn_on!(before.is_some()),
                Err(err) => {
                    self.forget(domains.iter().take(n), iova);
                    return Err(err);
                }
            }
        }
        Ok(())
    }

    /// Undoes [`Self::note`].
    fn forget<'a>(
        &mut self,
        domains: impl Iterator<Item = &'a Arc<PagingDomain>>,
        iova: IovaRange,
    ) {
        for domain in domains {
            self.shown.remove(&At::new(domain, iova));
        }
    }
}

/// The imported memory of a dma-buf.
#[pin_data]
pub(super) struct Memory {
    /// The number of bytes from the start of the buffer to the end of the last page.
    #[cfg_attr(
        not(CONFIG_DMA_SHARED_BUFFER),
        allow(dead_code, reason = "all of it may be unused")
    )]
    needed: usize,
    kind: Kind,
    #[pin]
    state: Mutex<MemoryState>,
}

impl Memory {
    /// Creates memory for `npages` pages from byte `start` of a buffer on. Its physical address is
    /// not known yet.
    fn new(kind: Kind, start: usize, npages: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            kind,
            needed: npages
                .checked_mul(PAGE_SIZE)
                .and_then(|len| len.checked_add(start))
                .ok_or(EINVAL)?,
            state <- new_mutex!(MemoryState::new(), "iommufd_pages::dmabuf"),
        }? Error)
    }

    /// Returns whether this is enough memory.
    #[cfg(CONFIG_DMA_SHARED_BUFFER)]
    fn fits(&self, phys: &PhysRange) -> bool {
        // The last page may be partial.
        self.needed <= phys.len.div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE)
    }

    /// Prevents a revocation while the result exists.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the memory was revoked.
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    pub(super) fn lock_mapped(&self) -> Result<impl Sized + '_> {
        let state = self.state.lock();

        if state.phys.is_none() {
            return Err(EINVAL);
        }
        Ok(state)
    }

    /// Maps the memory, which begins at byte `start` of the buffer, in all domains, or in none if
    /// one of them fails. If it was revoked, the mapping is only added to the list.
    pub(super) fn map(
        &self,
        start: usize,
        mapping: &Mapping,
        domains: &[Arc<PagingDomain>],
        small: bool,
    ) -> Result {
        let mut state = self.state.lock();
        let (iova, prot) = (mapping.iova, mapping.prot);
        // Does not overflow: the size of the buffer was checked when the pages were created.
        let byte = start.wrapping_add(mapping.first_byte);

        state.note(domains, iova, byte, prot, small)?;
        let Some(phys) = state.phys else {
            return Ok(());
        };

        // CAST: Memory has addresses.
        let paddr = phys.wrapping_add(byte as PhysAddr);
        let res = if should_fail() {
            Err(ENOMEM)
        } else {
            map_in_all(domains, iova, paddr, prot.mmio(), small)
        };
        res.inspect_err(|_| state.forget(domains.iter(), iova))
    }

    /// Unmaps an area from one of its domains. Never fails.
    pub(super) fn unmap(&self, mapping: &Mapping, domain: &PagingDomain) {
        let mut state = self.state.lock();
        let shown = state.shown.remove(&At::new(domain, mapping.iova));

        // A revocation has already unmapped it.
        if !warn_on!(shown.is_none()) && state.phys.is_some() {
            domain.unmap(mapping.iova);
        }
    }

    /// Splits the mappings of an area in `domains`, where they use small pages. Nothing is mapped
    /// or unmapped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Nothing has changed then.
    pub(super) fn split(
        &self,
        start: usize,
        left: &Mapping,
        right: &Mapping,
        domains: &[Arc<PagingDomain>],
    ) -> Result {
        let mut state = self.state.lock();

        state.note(
            domains,
            right.iova,
            start.wrapping_add(right.first_byte),
            right.prot,
            true,
        )?;
        for domain in domains {
            let shown = state.shown.get_mut(&At::new(domain, left.iova));

            match shown {
                Some(shown) => shown.iova = left.iova,
                None => _ = warn_on!(true),
            }
        }
        Ok(())
    }

    /// Returns whether areas of the memory can be split.
    pub(super) fn can_split(&self) -> bool {
        self.kind == Kind::Bar
    }
}

impl Pages {
    /// Creates pages of the `len` bytes from byte `start` of a dma-buf on, and attaches to it.
    /// `start` plus `len` does not overflow.
    ///
    /// # Errors
    ///
    /// As [`Self::from_fd`].
    pub(super) fn from_dmabuf(
        kind: Kind,
        buf: DmaBuf,
        start: usize,
        len: usize,
        writable: bool,
    ) -> Result<Arc<Self>> {
        // As in C, where the number of pages of a run has 32 bits.
        if buf.size().saturating_sub(start) < len || len / PAGE_SIZE >= u32::MAX as usize {
            return Err(EINVAL);
        }
        let (first_page, start_byte) = (start & PAGE_MASK, start % PAGE_SIZE);
        let owner = Process::current()?;
        let source = Source::DmaBuf {
            memory: buf.import(Memory::new(kind, first_page, page_count(start_byte, len)?))?,
            start: first_page,
        };

        Self::new(source, start_byte, len, writable, AccountMode::None, owner)
    }
}

#[cfg(CONFIG_DMA_SHARED_BUFFER)]
impl Importer for Memory {
    /// Stores the physical address. The reservation lock of the buffer is held.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is less memory than the size of the buffer.
    fn mapped(&self, phys: PhysRange) -> Result {
        if !self.fits(&phys) {
            return Err(EINVAL);
        }
        let mut state = self.state.lock();

        state.phys = Some(phys.start);
        state.returns = self.kind == Kind::Bar;
        Ok(())
    }

    /// Unmaps the memory from all domains. The exporter holds the reservation lock.
    fn revoked(&self) {
        let mut state = self.state.lock();

        if state.phys.take().is_some() {
            for shown in state.shown.values() {
                shown.domain.unmap(shown.iova);
            }
        }
    }

    fn returns(&self) -> bool {
        self.state.lock().returns
    }

    /// Maps the memory in all domains again. The exporter holds the reservation lock.
    ///
    /// If one of them fails, for want of memory for page tables, all of it stays revoked until the
    /// exporter takes it away and returns it the next time.
    fn returned(&self, phys: PhysRange) {
        let mut state = self.state.lock();

        if state.phys.is_some() || !self.fits(&phys) {
            return;
        }
        for (n, shown) in state.shown.values().enumerate() {
            if shown.map(phys.start).is_err() {
                for shown in state.shown.values().take(n) {
                    shown.domain.unmap(shown.iova);
                }
                return;
            }
        }
        state.phys = Some(phys.start);
    }
}
