// SPDX-License-Identifier: GPL-2.0

//! Mappings of MMIO that IOMMU drivers offer to user space.
//!
//! `driver.c` keeps the regions in `iommufd_ctx::mt_mmap`. Contract: an entry is a
//! `struct iommufd_mmap` from `kmalloc()`; its owner is an object of the context that is not freed
//! before the entry has left the tree, which needs the lock of the tree. The entry does not say
//! whether its owner is published: a driver makes it while it initialises the object.
//!
//! A VMA keeps what the layer above gives it ([`Keep`]) in `vm_private_data`, so that the region
//! cannot go while the VMA is there. The core of mm calls `open` for each copy of a VMA and `close`
//! for each that goes; the VMA holds the file, so the context is there.

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

/// A region of MMIO, as its driver offers it, and what holds the object that it belongs to.
///
/// # Invariants
///
/// `owner` holds the owner of the region.
pub(crate) struct Region<H: Hold> {
    owner: H,
    first_page: usize,
    address: bindings::phys_addr_t,
    length: usize,
}

impl<H: Hold> Region<H> {
    /// The offset of the region, as a number of pages.
    pub(crate) fn first_page(&self) -> usize {
        self.first_page
    }

    /// The number of bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }
}

/// Finds the region that contains a page of the offset space. `hold` looks up the owner by its id,
/// which may be that of another object by now: none is found then.
///
/// `hold` is called with a spinlock held.
pub(crate) fn find<H: Hold>(
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

    // INVARIANT: The owner has not been freed, so that nothing else has its address.
    ptr::eq(owner.object(), entry.owner).then(|| Region {
        owner,
        first_page: entry.vm_pgoff,
        address: entry.mmio_addr,
        length: entry.length,
    })
}

/// What holds the owner of a region.
///
/// # Safety
///
/// What [`Self::object`] returns stays the same, and the object is not destroyed while the value
/// exists.
pub(crate) unsafe trait Hold {
    /// The object.
    fn object(&self) -> *const bindings::iommufd_object;
}

/// What a VMA keeps, so that the region that it maps stays.
///
/// # Safety
///
/// [`Self::from_raw`] of what [`Self::into_raw`] returned is the same value, and
/// [another](Self::another) one holds the same object.
pub(crate) unsafe trait Keep: Hold + Send + Sync + Sized {
    /// Makes a pointer of it.
    fn into_raw(self) -> *mut c_void;

    /// Takes it back.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`], once.
    unsafe fn from_raw(ptr: *mut c_void) -> Self;

    /// Another one, for a copy of the VMA.
    fn another(&self) -> Self;
}

/// The page of the offset space at which a new VMA begins.
pub(crate) fn first_page(vma: &VmaNew) -> usize {
    // SAFETY: The VMA is being set up, by us alone.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// Maps a region into a new VMA. `keep` is called when nothing else can fail, with what holds the
/// owner of the region; the VMA keeps what it returns.
///
/// # Errors
///
/// [`ENXIO`] if the VMA is not as long, or `keep` keeps something else; [`ENOMEM`], or what `keep`
/// returns. Nothing is mapped then.
pub(crate) fn map<H: Hold, K: Keep>(
    vma: &VmaNew,
    region: Region<H>,
    keep: impl FnOnce(&H) -> Result<K>,
) -> Result {
    if vma.end() - vma.start() != region.length {
        return Err(ENXIO);
    }
    let vma = vma.as_ptr();

    // SAFETY: The VMA is being set up, by us alone, and as long as the region. The region is MMIO
    // of the owner that its driver offers to user space. It stays while `region` holds the owner,
    // and then while the VMA keeps it. If this fails the core of mm takes back what it did and does
    // not call the operations.
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
        // User space can reach the registers already, and the core of mm unmaps them only when
        // nothing holds the owner any more.
        // SAFETY: The VMA is being set up, by us alone, and the region is what was mapped.
        unsafe {
            let start = (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start;
            bindings::zap_special_vma_range(vma, start, region.length);
        }
    })?;
    // SAFETY: The VMA is being set up, by us alone. Its operations take over what it keeps.
    unsafe { (*vma).vm_private_data = keep.into_raw() };
    Ok(())
}

/// The operations of VMAs that keep a `K`.
struct VmOps<K>(core::marker::PhantomData<K>);

impl<K: Keep> VmOps<K> {
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
        // SAFETY: The copy of a VMA has the `vm_private_data` of the original, which is still
        // there: what that keeps is not ours to drop.
        let keep = unsafe { K::from_raw((*vma).vm_private_data) };

        // SAFETY: The copy is being set up, by us alone.
        unsafe { (*vma).vm_private_data = keep.another().into_raw() };
        core::mem::forget(keep);
    }

    /// # Safety
    ///
    /// `vma` must be one that [`map`] has set up, or a copy of one, and not be used after this.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: Each VMA keeps one value, from `map()` or `open()`.
        drop(unsafe { K::from_raw((*vma).vm_private_data) });
    }
}
