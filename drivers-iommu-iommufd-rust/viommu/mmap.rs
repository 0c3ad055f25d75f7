// SPDX-License-Identifier: GPL-2.0

//! Mapping MMIO regions of an IOMMU that its driver offers to user space.
//!
//! A VMA is a user of the object that owns the region, which is looked up in the table of objects,
//! where unpublished objects are not found. So the region is not removed while the VMA exists:
//! neither by destroying the owner, nor by a failure of its creation.
//!
//! Locks: the lock of the tree of regions, a spinlock.
#![forbid(unsafe_code)]

use crate::{
    context::{
        Any,
        Context, //
    },
    object::Ref,
    sys::mmap::{
        find,
        first_page,
        map, //
    }, //
};
use kernel::{
    mm::virt::{
        flags,
        VmaNew, //
    },
    page::PAGE_MASK,
    prelude::*,
    sync::rcu, //
};

/// Maps a region of MMIO into a new VMA.
///
/// # Errors
///
/// - [`EINVAL`] for a private mapping;
/// - [`EPERM`] for an executable one;
/// - [`ENXIO`] unless offset and length are exactly those of a region whose owner is published;
/// - [`ENOMEM`].
pub(crate) fn mmap(ctx: &Context, vma: &VmaNew) -> Result {
    let length = vma.end() - vma.start();
    if length & !PAGE_MASK != 0 || vma.flags() & flags::SHARED == 0 {
        return Err(EINVAL);
    }
    if vma.flags() & flags::EXEC != 0 {
        return Err(EPERM);
    }

    let page = first_page(vma);
    // Fails if the owner is unpublished or being destroyed.
    let region = find(&ctx.c, page, |id| {
        let rcu = rcu::read_lock();

        Ref::<Any>::try_lock(ctx.objects.load(id, &rcu)?, ctx)
    })
    .ok_or(ENXIO)?;
    if page != region.first_page() || length != region.length() {
        return Err(ENXIO);
    }

    // The user is made last, and so never put because of a failure: a `Tentative` is not needed,
    // for which this would have to wait with `mmap_lock` held. Until then the read side holds the
    // owner.
    map(vma, region, |owner| owner.lasting_user().map_err(|_| ENXIO))
}
