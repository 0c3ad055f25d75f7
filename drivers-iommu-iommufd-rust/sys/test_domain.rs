// SPDX-License-Identifier: GPL-2.0

//! A domain for KUnit tests: its page table is an array that no hardware uses.
//!
//! The tests of the layers above map, read back and unmap real pages in it, and check its entries
//! and the number of cache flushes.
//!
//! Contract: a test uses its domains from one thread only.

use super::domain::PagingDomain;
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    iommu::domain::OwnedDomain,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};

/// The number of pages of IOVA, from zero on, that can be mapped.
pub(crate) const PAGES: usize = 96;

#[repr(C)]
struct TestDomain {
    /// The first field: a pointer to it is a pointer to the structure.
    domain: bindings::iommu_domain,
    /// The physical address of each page that is mapped.
    table: [Option<bindings::phys_addr_t>; PAGES],
    flushes: usize,
}

static OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
    map_pages: Some(map_pages),
    unmap_pages: Some(unmap_pages),
    iotlb_sync: Some(iotlb_sync),
    iova_to_phys: Some(iova_to_phys),
    free: Some(free),
    // SAFETY: No operation is null.
    ..unsafe { MaybeUninit::zeroed().assume_init() }
};

/// Borrows the structure of a domain.
///
/// # Safety
///
/// `domain` must be made by [`new`], and not be used otherwise during `'a`.
unsafe fn of<'a>(domain: *mut bindings::iommu_domain) -> &'a mut TestDomain {
    // SAFETY: It is the first field; by the requirements of this function.
    unsafe { &mut *domain.cast() }
}

/// # Safety
///
/// `domain` must be one that was made here and is not in use otherwise, and `mapped` be valid for
/// reading and writing.
unsafe extern "C" fn map_pages(
    domain: *mut bindings::iommu_domain,
    iova: c_ulong,
    paddr: bindings::phys_addr_t,
    pgsize: usize,
    count: usize,
    _prot: c_int,
    _gfp: bindings::gfp_t,
    mapped: *mut usize,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let this = unsafe { of(domain) };

    for n in 0..count {
        match this.table.get_mut((iova + n * pgsize) >> PAGE_SHIFT) {
            Some(entry) if entry.is_none() => {
                *entry = Some(paddr + (n * pgsize) as bindings::phys_addr_t);
            }
            _ => return EINVAL.to_errno(),
        }
        // SAFETY: By the requirements of this function.
        unsafe { *mapped += pgsize };
    }
    0
}

/// # Safety
///
/// `domain` must be one that was made here and is not in use otherwise.
unsafe extern "C" fn unmap_pages(
    domain: *mut bindings::iommu_domain,
    iova: c_ulong,
    pgsize: usize,
    count: usize,
    _gather: *mut bindings::iommu_iotlb_gather,
) -> usize {
    // SAFETY: By the requirements of this function.
    let this = unsafe { of(domain) };
    let entries = this.table.iter_mut().skip(iova >> PAGE_SHIFT).take(count);

    let cleared = entries.map(core::mem::take);

    cleared.take_while(Option::is_some).count() * pgsize
}

/// # Safety
///
/// `domain` must be one that was made here and is not in use otherwise.
unsafe extern "C" fn iotlb_sync(
    domain: *mut bindings::iommu_domain,
    _gather: *mut bindings::iommu_iotlb_gather,
) {
    // SAFETY: By the requirements of this function.
    unsafe { of(domain) }.flushes += 1;
}

/// # Safety
///
/// `domain` must be one that was made here and is not in use otherwise.
unsafe extern "C" fn iova_to_phys(
    domain: *mut bindings::iommu_domain,
    iova: bindings::dma_addr_t,
) -> bindings::phys_addr_t {
    let iova = iova as usize;

    // SAFETY: By the requirements of this function.
    match unsafe { of(domain) }.table.get(iova >> PAGE_SHIFT) {
        Some(Some(paddr)) => paddr + (iova % PAGE_SIZE) as bindings::phys_addr_t,
        _ => 0,
    }
}

/// # Safety
///
/// `domain` must be one that was made here, and not be used after this.
unsafe extern "C" fn free(domain: *mut bindings::iommu_domain) {
    // SAFETY: `new()` made it from a box, and by the requirements of this function this ends it.
    drop(unsafe { KBox::from_raw(domain.cast::<TestDomain>()) });
}

/// Creates a domain in which nothing is mapped.
pub(crate) fn new() -> Result<Arc<PagingDomain>> {
    let domain = TestDomain {
        domain: bindings::iommu_domain {
            type_: bindings::__IOMMU_DOMAIN_PAGING,
            ops: &OPS,
            pgsize_bitmap: PAGE_SIZE,
            ..Default::default()
        },
        table: [None; PAGES],
        flushes: 0,
    };
    let domain = KBox::into_raw(KBox::new(domain, GFP_KERNEL)?);

    // SAFETY: A new domain, which is ours alone.
    let domain = unsafe {
        PagingDomain::from_owned(OwnedDomain::from_raw(NonNull::new_unchecked(domain.cast())))
    };
    Ok(Arc::new(domain, GFP_KERNEL)?)
}

/// Returns the PFN that is mapped at each page of IOVA, or zero.
pub(crate) fn pfns(domain: &PagingDomain) -> [usize; PAGES] {
    // SAFETY: A domain of a test, which one thread uses: see the contract at the top of this file.
    let this = unsafe { of(domain.as_raw()) };

    this.table
        .map(|paddr| (paddr.unwrap_or(0) >> PAGE_SHIFT) as usize)
}

/// Sets the entry of a page of IOVA. The page frame is not accessed.
pub(crate) fn set_pfn(domain: &PagingDomain, page: usize, pfn: Option<usize>) {
    // SAFETY: A domain of a test, which one thread uses: see the contract at the top of this file.
    let this = unsafe { of(domain.as_raw()) };

    if let Some(entry) = this.table.get_mut(page) {
        *entry = pfn.map(|pfn| (pfn as bindings::phys_addr_t) << PAGE_SHIFT);
    }
}

/// Returns the number of cache flushes since the last call.
pub(crate) fn take_flushes(domain: &PagingDomain) -> usize {
    // SAFETY: A domain of a test, which one thread uses: see the contract at the top of this file.
    core::mem::take(unsafe { &mut of(domain.as_raw()).flushes })
}
