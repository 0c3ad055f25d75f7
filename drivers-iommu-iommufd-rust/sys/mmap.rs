// SPDX-License-Identifier: GPL-2.0

//! Mappings of MMIO that IOMMU drivers offer to user space.
//!
//! `driver.c` keeps the regions in `iommufd_ctx::mt_mmap`. Contract: an entry is a `struct
//! iommufd_mmap` from `kmalloc()`; its owner is an object of the context that is not freed before
//! the entry has left the tree, which needs the lock of the tree. The entry does not record whether
//! its owner is published: a driver makes it while it initialises the object.
//!
//! A VMA has a value of the layer above ([`VmaData`]) in `vm_private_data`, so that the region
//! exists as long as the VMA. The core of mm calls `open` for each copy of a VMA and `close` for
//! each that is removed. The VMA holds the file, and so the context.

use super::ctx::CFields;
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    maple_tree::MapleTreeAlloc,
    mm::virt::VmaNew,
    page::PAGE_SHIFT,
    prelude::*, //
};

/// An entry of the tree: `struct iommufd_mmap`.
#[repr(transparent)]
struct Entry(bindings::iommufd_mmap);

/// The regions of a context, by offset: `struct maple_tree`, which `MapleTreeAlloc` wraps.
type Regions = MapleTreeAlloc<KBox<Entry>>;
const _: () = assert!(size_of::<Regions>() == size_of::<bindings::maple_tree>());

/// A region of MMIO that a driver offers, with a handle on the object that owns it.
///
/// # Invariants
///
/// `owner` holds the owner of the region.
pub(crate) struct Region<H: HoldsOwner> {
    owner: H,
    first_page: usize,
    address: bindings::phys_addr_t,
    length: usize,
}

impl<H: HoldsOwner> Region<H> {
    /// Returns the offset of the region, in pages.
    pub(crate) fn first_page(&self) -> usize {
        self.first_page
    }

    /// Returns the number of bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

/// Finds the region that contains a page of the offset space. `hold` looks up the owner by its id.
/// If that is the id of another object by now, [`None`] is returned.
///
/// `hold` is called with a spinlock held.
pub(crate) fn find<H: HoldsOwner>(
    ctx: &CFields,
    page: usize,
    hold: impl FnOnce(u32) -> Option<H>,
) -> Option<Region<H>> {
    // SAFETY: The tree was initialised with the context, and its entries are as the contract at the
    // top of this file says.
    let regions: &Regions = unsafe { &*(&raw const (*ctx.as_ptr()).mt_mmap).cast() };

    let mut regions = regions.lock();
    let Entry(entry) = regions.load(page << PAGE_SHIFT)?;
    // SAFETY: The entry is in the tree, which is locked, so its owner has not been freed.
    let owner = hold(unsafe { (*entry.owner).id })?;

    // INVARIANT: The owner has not been freed, so no other object has its address.
    ptr::eq(owner.object(), entry.owner).then(|| Region {
        owner,
        first_page: entry.vm_pgoff,
        address: entry.mmio_addr,
        length: entry.length,
    })
}

/// A handle on the object that owns a region.
///
/// # Safety
///
/// [`Self::object`] returns the same object each time, which is not destroyed while the value
/// exists.
pub(crate) unsafe trait HoldsOwner {
    /// Returns the object.
    fn object(&self) -> *const bindings::iommufd_object;
}

/// A handle in the private data of a VMA: the mapped region exists as long as the VMA.
///
/// # Safety
///
/// [`Self::from_raw`] is the inverse of [`Self::into_raw`], and [`Self::another`] holds the same
/// object.
pub(crate) unsafe trait VmaData: HoldsOwner + Send + Sync + Sized {
    /// Converts it to a pointer.
    fn into_raw(self) -> *mut c_void;

    /// Converts it back.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`], once.
    unsafe fn from_raw(ptr: *mut c_void) -> Self;

    /// Returns another handle on the object, for a copy of the VMA.
    fn another(&self) -> Self;
}

/// Returns the page of the offset space at which a new VMA begins.
pub(crate) fn first_page(vma: &VmaNew) -> usize {
    // SAFETY: The VMA is being set up, by us alone.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// Maps a region into a new VMA. `keep` is called last, when nothing else can fail, with the handle
/// on the owner of the region; the VMA takes the handle that it returns.
///
/// # Errors
///
/// [`ENXIO`] if the VMA has another length, or `keep` returns a handle on another object;
/// [`ENOMEM`], or the error of `keep`. Nothing is mapped then.
pub(crate) fn map<H: HoldsOwner, K: VmaData>(
    vma: &VmaNew,
    region: Region<H>,
    keep: impl FnOnce(&H) -> Result<K>,
) -> Result {
    if vma.end() - vma.start() != region.length {
        return Err(ENXIO);
    }
    let vma = vma.as_ptr();

    // SAFETY: The VMA is being set up, by us alone, and as long as the region. The region is MMIO
    // of the owner that its driver offers to user space. It exists while `region` holds the owner,
    // and then while the VMA does. If this fails the core of mm undoes it and does not call the
    // operations.
    to_result(unsafe {
        (*vma).vm_pgoff = 0;
        (*vma).vm_ops = &VmOps::<K>::OPS;
        (*vma).vm_page_prot = bindings::pgprot_noncached((*vma).vm_page_prot);
        bindings::io_remap_pfn_range(
            vma,
            (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start,
            (region.address >> PAGE_SHIFT) as usize,
            region.length,
            (*vma).vm_page_prot,
        )
    })?;
    let keep = keep(&region.owner).and_then(|keep| {
        if kernel::warn_on!(!ptr::eq(keep.object(), region.owner.object())) {
            return Err(ENXIO);
        }
        Ok(keep)
    });
    let keep = keep.inspect_err(|_| {
        // User space can access the registers already, and the core of mm would unmap them only
        // after the owner is released.
        // SAFETY: The VMA is being set up, by us alone, and the region is what was mapped.
        unsafe {
            let start = (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start;
            bindings::zap_special_vma_range(vma, start, region.length);
        }
    })?;
    // SAFETY: The VMA is being set up, by us alone. Its operations own the handle from now on.
    unsafe { (*vma).vm_private_data = keep.into_raw() };
    Ok(())
}

/// The operations of VMAs whose private data is a `K`.
struct VmOps<K>(core::marker::PhantomData<K>);

impl<K: VmaData> VmOps<K> {
    // No static: with CONFIG_USERFAULTFD it has a raw pointer, and is not `Sync`.
    const OPS: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `vma` must be a copy of a VMA that [`map`] has set up, which is still there.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The copy of a VMA has the `vm_private_data` of the original, which still exists
        // and owns the handle: it is not dropped here.
        let keep = unsafe { K::from_raw((*vma).vm_private_data) };

        // SAFETY: The copy is being set up, by us alone.
        unsafe { (*vma).vm_private_data = keep.another().into_raw() };
        core::mem::forget(keep);
    }

    /// # Safety
    ///
    /// `vma` must be one that [`map`] has set up, or a copy of one, and not be used after this.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: Each VMA owns one handle, from `map()` or `open()`.
        drop(unsafe { K::from_raw((*vma).vm_private_data) });
    }
}
