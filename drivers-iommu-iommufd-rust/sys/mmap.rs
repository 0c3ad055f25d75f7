// SPDX-License-Identifier: GPL-2.0

//! Mappings of MMIO that IOMMU drivers offer to user space.
//!
//! `driver.c` keeps the regions in `iommufd_ctx::mt_mmap`. Contract: an entry is a
//! `struct iommufd_mmap` from `kmalloc()`; its owner is an object of the context that is not freed
//! before the entry has left the tree, which needs the lock of the tree. The entry does not say
//! whether its owner is published: a driver makes it while it initialises the object.
//!
//! A VMA is a user of the owner of its region: `vm_private_data` is a [`User`] of it, taken through
//! the table of objects, where an owner that is still being made is not to be found. So the region
//! cannot go while the VMA is there, by abort as little as by destroy. The core of mm calls `open`
//! for each copy of a VMA and `close` for each that goes; the VMA holds the file, so the context is
//! there.

use crate::{
    context::Context,
    object::{
        Any,
        Ref,
        User, //
    }, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    maple_tree::MapleTreeAlloc,
    mm::virt::{
        flags,
        VmaNew, //
    },
    page::{
        PAGE_MASK,
        PAGE_SHIFT, //
    },
    prelude::*,
    sync::rcu, //
};

/// An entry of the tree: `struct iommufd_mmap`.
#[repr(transparent)]
struct Region(bindings::iommufd_mmap);

/// The regions of a context, by offset: `struct maple_tree`, which `MapleTreeAlloc` wraps.
type Regions = MapleTreeAlloc<KBox<Region>>;
const _: () = assert!(size_of::<Regions>() == size_of::<bindings::maple_tree>());

/// A region, and the read side of its owner.
struct Found<'a> {
    owner: Ref<'a, Any>,
    first_page: usize,
    address: bindings::phys_addr_t,
    length: usize,
}

/// Finds the region that contains a page of the offset space.
fn find(ctx: &Context, page: usize) -> Option<Found<'_>> {
    // SAFETY: The tree was initialised with the context, and its entries are as the contract at the
    // top of this file says.
    let regions: &Regions = unsafe { &*(&raw const (*ctx.as_ptr()).mt_mmap).cast() };

    let mut regions = regions.lock();
    let Region(region) = regions.load(page << PAGE_SHIFT)?;
    // SAFETY: The region is in the tree, which is locked, so its owner has not been freed.
    let id = unsafe { (*region.owner).id };
    let rcu = rcu::read_lock();
    let owner = Ref::<Any>::try_lock(ctx.objects.load(id, &rcu)?, ctx)?;
    if owner.as_ptr() != region.owner {
        // The owner is not published, or being destroyed; the id belongs to nobody, or to another.
        return None;
    }
    Some(Found {
        owner,
        first_page: region.vm_pgoff,
        address: region.mmio_addr,
        length: region.length,
    })
}

/// Maps a region of MMIO into a new VMA.
///
/// # Errors
///
/// - [`EINVAL`] for a private mapping;
/// - [`EPERM`] for an executable one;
/// - [`ENXIO`] unless offset and length are exactly those of a region whose owner is published;
/// - [`ENOMEM`].
fn mmap(ctx: &Context, vma: &VmaNew) -> Result {
    let length = vma.end() - vma.start();
    if length & !PAGE_MASK != 0 || vma.flags() & flags::SHARED == 0 {
        return Err(EINVAL);
    }
    if vma.flags() & flags::EXEC != 0 {
        return Err(EPERM);
    }

    let vma = vma.as_ptr();
    // SAFETY: The VMA is being set up, by us alone.
    let page = unsafe { (*vma).vm_pgoff };
    let found = find(ctx, page).ok_or(ENXIO)?;
    if page != found.first_page || length != found.length {
        return Err(ENXIO);
    }

    // The user comes first: user space can reach the registers as soon as they are mapped.
    let tentative = ctx.tentative();
    let owner = found.owner.user(&tentative).map_err(|_| ENXIO)?;
    // SAFETY: The VMA is being set up, by us alone. The region is MMIO of the owner that its driver
    // offers to user space, and stays while the VMA is a user of the owner. If this fails the core
    // of mm takes back what it did and does not call the operations.
    to_result(unsafe {
        (*vma).vm_pgoff = 0;
        (*vma).vm_ops = &VM_OPS;
        (*vma).vm_page_prot = bindings::pgprot_noncached((*vma).vm_page_prot);
        bindings::io_remap_pfn_range(
            vma,
            (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start,
            (found.address >> PAGE_SHIFT) as usize,
            length,
            (*vma).vm_page_prot,
        )
    })?;
    // SAFETY: The VMA is being set up, by us alone. Its operations take the user over.
    unsafe { (*vma).vm_private_data = owner.into_raw().cast() };
    Ok(())
}

// No static: with CONFIG_USERFAULTFD it has a raw pointer, and is not `Sync`.
const VM_OPS: bindings::vm_operations_struct = bindings::vm_operations_struct {
    open: Some(vma_open),
    close: Some(vma_close),
    ..pin_init::zeroed()
};

/// # Safety
///
/// `vma` must be a copy of a VMA that [`mmap`] has set up, which is still there.
unsafe extern "C" fn vma_open(vma: *mut bindings::vm_area_struct) {
    // SAFETY: The copy of a VMA has the `vm_private_data` of the original, which is still there: a
    // `User` that is not ours to drop.
    let owner = unsafe { User::<Any>::from_raw((*vma).vm_private_data.cast()) };
    core::mem::forget(owner.another());
    core::mem::forget(owner);
}

/// # Safety
///
/// `vma` must be one that [`mmap`] has set up, or a copy of one, and not be used after this.
unsafe extern "C" fn vma_close(vma: *mut bindings::vm_area_struct) {
    // SAFETY: Each VMA stands for one `User`, from `mmap()` or `vma_open()`.
    drop(unsafe { User::<Any>::from_raw((*vma).vm_private_data.cast()) });
}

/// Maps MMIO of an IOMMU driver.
///
/// # Safety
///
/// `file` must be a file of ours, and `vma` one of it that is being set up.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fops_mmap(
    file: *mut bindings::file,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: By the requirements of this function; the VMA is undergoing setup, and holds the
    // file.
    let (ctx, vma) = unsafe { (super::file::private_data(file), VmaNew::from_raw(vma)) };

    from_result(|| mmap(ctx, vma).map(|()| 0))
}
