// SPDX-License-Identifier: GPL-2.0

//! Mapping registers of an IOMMU that its driver offers to user space.
//!
//! A VMA is a user of the object that the region belongs to, taken through the table of objects,
//! where an owner that is still being made is not to be found. So the region cannot go while the
//! VMA is there, by abort as little as by destroy.
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
    // No owner is found that is not published, or is being destroyed.
    let region = find(&ctx.c, page, |id| {
        let rcu = rcu::read_lock();

        Ref::<Any>::try_lock(ctx.objects.load(id, &rcu)?, ctx)
    })
    .ok_or(ENXIO)?;
    if page != region.first_page() || length != region.length() {
        return Err(ENXIO);
    }

    // The user comes last: it is not given up again, so nobody has to wait until that is known.
    // Waiting here would be with `mmap_lock` held. Until then the read side holds the owner.
    map(vma, region, |owner| owner.lasting_user().map_err(|_| ENXIO))
}
