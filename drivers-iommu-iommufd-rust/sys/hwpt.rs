// SPDX-License-Identifier: GPL-2.0

//! The domains of HWPTs: how IOMMU drivers make them, and how C gets from one to the HWPT.
//!
//! A [`PagingDomain`] has a page table that this driver fills; a nested domain has one that user
//! space fills. The domain points back to the HWPT that it was made for ([`link`]); `driver.c` and
//! the handler of page faults ([`iopf`](super::iopf)) follow that pointer while a device is
//! attached.
//!
//! Contract with C: the operations in `struct iommu_ops` of a device's IOMMU driver do not change
//! while the device is bound, and the pointers to user memory in `struct iommu_user_data` are
//! checked by who reads through them. An IOMMU driver that returns a domain gives it away, and
//! stays for as long as the domain is there, as does what the domain belongs to: like an IOMMU, a
//! domain may be kept longer than the device that it was made for.
//!
//! Contract with the layer above: a HWPT is linked to the domain that was made for it, and keeps
//! what that was made of, the parent of a nested domain and the vIOMMU, until the domain is freed.

use super::{
    bound_device::BoundDevice,
    domain::PagingDomain,
    iopf::FaultRoute, //
};
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    iommu::domain::{
        Domain,
        OwnedDomain, //
    },
    prelude::*, //
};

/// What user space tells the driver in the driver's own terms, if anything.
pub(crate) fn user_data(type_: u32, address: u64, len: u32) -> Option<bindings::iommu_user_data> {
    (len != 0).then_some(bindings::iommu_user_data {
        type_,
        // CAST: As `u64_to_user_ptr()`. Who reads through the pointer checks it.
        uptr: address as usize as *mut c_void,
        // CAST: `usize` has at least 32 bits.
        len: len as usize,
    })
}

/// Asks the IOMMU driver of `dev` for a domain that the kernel fills. `flags` and `data` are for
/// the driver.
///
/// # Errors
///
/// What the IOMMU driver says.
pub(crate) fn new_paging(
    ops: &bindings::iommu_ops,
    dev: &BoundDevice,
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<PagingDomain> {
    let domain = match ops.domain_alloc_paging_flags {
        Some(alloc) => {
            let data = data.map_or(ptr::null(), ptr::from_ref);
            // SAFETY: The operation belongs to the IOMMU driver of the bound device, or makes the
            // domains for devices without one, and ignores the device.
            let domain = unsafe { owned(alloc(dev.as_raw(), flags, data)) }?;

            // SAFETY: The domain is new, nobody else sees it.
            unsafe { (*domain.as_raw()).owner = ops };
            domain
        }
        // SAFETY: By the contract at the top of this file. Whoever attaches the domain detaches it
        // before the HWPT can go (`super::handle`).
        None => unsafe { OwnedDomain::new_paging(dev) }?,
    };

    // SAFETY: The domain is new: nobody maps into it.
    Ok(unsafe { PagingDomain::from_owned(domain) })
}

/// Asks the IOMMU driver of `dev` for a domain that user space fills, on top of `parent`.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if the driver has no such domains, or what it says.
pub(crate) fn new_nested(
    ops: &bindings::iommu_ops,
    dev: &BoundDevice,
    parent: &Domain,
    flags: u32,
    data: &bindings::iommu_user_data,
) -> Result<OwnedDomain> {
    let alloc = ops.domain_alloc_nested.ok_or(EOPNOTSUPP)?;
    // SAFETY: The operation belongs to the IOMMU driver of the bound device. The parent stays until
    // the domain is freed.
    let domain = unsafe { owned(alloc(dev.as_raw(), parent.as_raw(), flags, data)) }?;

    // SAFETY: The domain is new, nobody else sees it.
    unsafe { (*domain.as_raw()).owner = ops };
    Ok(domain)
}

/// Invalidates what the IOMMU has cached of a nested domain. The driver counts in `array` what it
/// has done.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if the domain cannot do that, which leaves nothing done, or what the IOMMU driver
/// says.
pub(crate) fn cache_invalidate(
    domain: &Domain,
    array: &mut bindings::iommu_user_data_array,
) -> Result {
    let Some(invalidate) = domain.ops().and_then(|ops| ops.cache_invalidate_user) else {
        array.entry_num = 0;
        return Err(EOPNOTSUPP);
    };

    // SAFETY: The operation is that of the domain.
    to_result(unsafe { invalidate(domain.as_raw(), array) })
}

/// Takes over a domain that an IOMMU driver has just made.
///
/// # Safety
///
/// `domain` is an error pointer or a new domain that nobody else owns.
pub(super) unsafe fn owned(domain: *mut bindings::iommu_domain) -> Result<OwnedDomain> {
    let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENOMEM)?;

    // SAFETY: By the requirements of this function, and the contract at the top of this file.
    // Whoever attaches the domain detaches it before the HWPT can go (`super::handle`).
    Ok(unsafe { OwnedDomain::from_raw(domain) })
}

/// Makes the domain of a new HWPT point back to it.
pub(crate) fn link<H: FaultRoute>(domain: &Domain, hwpt: &H) {
    let domain = domain.as_raw();

    // SAFETY: The domain was made for this HWPT, which nobody else sees yet. Who follows the
    // pointer does so while the domain is attached, and an attachment keeps the HWPT.
    unsafe {
        (*domain).__bindgen_anon_1.iommufd_hwpt = ptr::from_ref(hwpt).cast_mut().cast();
        (*domain).cookie_type = bindings::iommu_domain_cookie_type_IOMMU_COOKIE_IOMMUFD;
    }
}
