// SPDX-License-Identifier: GPL-2.0

//! Memory of devices, imported by a dma-buf.
//!
//! The exporter of the dma-buf, a VFIO device, has physically contiguous memory that is not RAM.
//! The driver pins the buffer, gets its physical address and maps it like other memory. The
//! exporter can
//! *revoke* it at any time, with locks of its own held: then it has to be unmapped at once, and is
//! not mapped again. Its areas stay, without a mapping.
//!
//! So there is a list of its mappings ([`Shown`]), and PFNs are always computed from the physical
//! address, never read from a domain. The record in the domain tier is kept as for other sources.
//! There are no in-kernel accesses, as the CPU must not access the memory.
//!
//! A mapping is identified by the domain and the first IOVA. There is at most one at a time: it is
//! added to the list before it is made, and one call removes it from the list and unmaps it under
//! the mutex of [`Memory`], while the area still occupies its IOVA.
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
    mapping::Mapping,
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
}

/// The fields of [`Memory`] that change.
struct MemoryState {
    /// The physical address of the memory, unless it was revoked (or is not known yet).
    phys: Option<PhysAddr>,
    /// All mappings, or those that would exist without the revocation.
    ///
    /// User space can create any number, so each is an allocation of its own.
    shown: RBTree<At, Shown>,
}

impl MemoryState {
    fn new() -> Self {
        Self {
            phys: None,
            shown: RBTree::new(),
        }
    }

    /// Adds mappings at `iova` for all domains; for none if allocation fails.
    fn note(&mut self, domains: &[Arc<PagingDomain>], iova: IovaRange) -> Result {
        for (n, domain) in domains.iter().enumerate() {
            let shown = Shown {
                iova,
                domain: domain.clone(),
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
    #[pin]
    state: Mutex<MemoryState>,
}

impl Memory {
    /// Creates memory for `npages` pages from byte `start` of a buffer on. Its physical address is
    /// not known yet.
    fn new(start: usize, npages: usize) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            needed: npages
                .checked_mul(PAGE_SIZE)
                .and_then(|len| len.checked_add(start))
                .ok_or(EINVAL)?,
            state <- new_mutex!(MemoryState::new(), "iommufd_pages::dmabuf"),
        }? Error)
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
        let iova = mapping.iova;

        state.note(domains, iova)?;
        let Some(phys) = state.phys else {
            return Ok(());
        };

        // Does not overflow: the size of the buffer was checked when the pages were created.
        let byte = start
            .wrapping_add(mapping.pages().first.wrapping_mul(PAGE_SIZE))
            .wrapping_add(mapping.page_offset());
        // CAST: Memory has addresses.
        let paddr = phys.wrapping_add(byte as PhysAddr);
        let res = if should_fail() {
            Err(ENOMEM)
        } else {
            map_in_all(domains, iova, paddr, mapping.prot.mmio(), small)
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
}

impl Pages {
    /// Creates pages of the `len` bytes from byte `start` of a dma-buf on, and attaches to it.
    /// `start` plus `len` does not overflow.
    ///
    /// # Errors
    ///
    /// As [`Self::from_fd`].
    pub(super) fn from_dmabuf(
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
            memory: buf.import(Memory::new(first_page, page_count(start_byte, len)?))?,
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
        // The last page may be partial.
        if self.needed > phys.len.div_ceil(PAGE_SIZE).saturating_mul(PAGE_SIZE) {
            return Err(EINVAL);
        }
        self.state.lock().phys = Some(phys.start);
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
}
