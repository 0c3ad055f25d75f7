// SPDX-License-Identifier: GPL-2.0

//! The domains of HWPTs: allocation by IOMMU drivers, and the pointer from a domain to its HWPT.
//!
//! A [`PagingDomain`] has a page table that this driver fills; a nested domain has one that user
//! space fills. The domain points back to the HWPT that it was made for ([`link`]); `driver.c` and
//! the handler of page faults ([`iopf`](super::iopf)) follow that pointer while a device is
//! attached.
//!
//! Contract with C: the operations in `struct iommu_ops` of a device's IOMMU driver do not change
//! while the device is bound, and IOMMU drivers check the pointers to user memory in `struct
//! iommu_user_data` when they read through them. The caller owns a domain that an IOMMU driver
//! returns. The driver and its IOMMU exist as long as the domain, which may outlive the device that
//! it was made for.
//!
//! A [`NestedDomain`] holds its parent and its vIOMMU until it is freed.

use super::{
    bound_device::{
        noiommu_ops,
        BoundDevice, //
    },
    domain::PagingDomain,
    iopf::{
        AnswerFaults,
        FaultRoute, //
    },
    layout::{
        AsC,
        Holds,
        HoldsPublished,
        Raw, //
    },
    viommu::alloc_domain_nested, //
};
use core::{
    mem::offset_of,
    ops::Deref,
    ptr::{
        self,
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    iommu::domain::{
        Domain,
        OwnedDomain, //
    },
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

/// Returns the driver-specific data that user space passes, if any.
pub(crate) fn user_data(type_: u32, address: u64, len: u32) -> Option<bindings::iommu_user_data> {
    (len != 0).then_some(bindings::iommu_user_data {
        type_,
        // CAST: As `u64_to_user_ptr()`. The driver checks the pointer when it reads through it.
        uptr: address as usize as *mut c_void,
        // CAST: `usize` has at least 32 bits.
        len: len as usize,
    })
}

/// Allocates a domain that the kernel fills, by the IOMMU driver of `dev`, which gets `flags` and
/// `data`.
///
/// # Errors
///
/// Those of the IOMMU driver; [`EINVAL`] if the operations are neither those of the IOMMU of `dev`
/// nor those for devices without one.
pub(crate) fn new_paging(
    ops: &bindings::iommu_ops,
    dev: &BoundDevice,
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<PagingDomain> {
    let is_own = |own: Option<&bindings::iommu_ops>| own.is_some_and(|own| ptr::eq(own, ops));

    if kernel::warn_on!(!is_own(dev.ops()) && !is_own(noiommu_ops())) {
        return Err(EINVAL);
    }
    let domain = match ops.domain_alloc_paging_flags {
        Some(alloc) => {
            let data = data.map_or(ptr::null(), ptr::from_ref);
            // SAFETY: The operation belongs to the IOMMU driver of the bound device, or allocates
            // domains for devices without one and ignores the device.
            let domain = unsafe { owned(alloc(dev.as_raw(), flags, data)) }?;

            // SAFETY: The domain is new and ours alone.
            unsafe { (*domain.as_raw()).owner = ops };
            domain
        }
        // SAFETY: By the contract at the top of this file its driver exists as long as the domain.
        // An attachment holds the HWPT, which owns the domain (`super::handle`).
        None => unsafe { OwnedDomain::new_paging(dev) }?,
    };

    // SAFETY: The domain is new: nothing is mapped in it.
    Ok(unsafe { PagingDomain::from_owned(domain) })
}

/// An [`iommu_domain`](Domain) whose page table user space fills, on top of that of the HWPT that
/// `P` holds; possibly for the vIOMMU that `V` holds.
///
/// IOMMU drivers expect that the domain is freed before its parent and its vIOMMU. C accesses two
/// pointers, domain and parent, as in `struct iommufd_hwpt_nested`.
///
/// The fields are dropped in order.
#[repr(C)]
pub(crate) struct NestedDomain<P, V>
where
    P: Holds<bindings::iommufd_hwpt_paging>,
    V: Holds<bindings::iommufd_viommu>,
{
    domain: OwnedDomain,
    /// The HWPT through whose page table it translates.
    pub(crate) parent: P,
    /// The vIOMMU that it was made for, which depends on the parent, too.
    pub(crate) viommu: Option<V>,
}

impl<P, V> NestedDomain<P, V>
where
    P: Holds<bindings::iommufd_hwpt_paging>,
    V: Holds<bindings::iommufd_viommu>,
{
    /// Allocates a domain by the IOMMU driver of `dev`.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver does not support such domains or returned one of another kind;
    /// those of the driver.
    pub(crate) fn new(
        dev: &BoundDevice,
        parent: P,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<Self> {
        let ops = dev.ops().ok_or(ENODEV)?;
        let alloc = ops.domain_alloc_nested.ok_or(EOPNOTSUPP)?;
        // SAFETY: The operation belongs to the IOMMU driver of the bound device. The parent has a
        // domain, and `Self` holds it until the new one is freed.
        let domain = unsafe {
            let parent = (*parent.raw().get()).common.domain;

            owned(alloc(dev.as_raw(), parent, flags, data))
        }?;

        // SAFETY: The domain is new and ours alone.
        unsafe { (*domain.as_raw()).owner = ops };
        Self::check(domain, parent, None)
    }

    /// Allocates a domain by the driver of a vIOMMU. `parent` is the HWPT of the vIOMMU.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; [`EINVAL`] if `parent` is another HWPT.
    pub(crate) fn of_viommu(
        viommu: V,
        parent: P,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<Self>
    where
        V: HoldsPublished<bindings::iommufd_viommu>,
    {
        if kernel::warn_on!(!viommu.raw().is_on_hwpt(parent.raw())) {
            return Err(EINVAL);
        }
        let domain = alloc_domain_nested(&viommu, flags, data)?;

        Self::check(domain, parent, Some(viommu))
    }

    fn check(domain: OwnedDomain, parent: P, viommu: Option<V>) -> Result<Self> {
        use bindings::iommufd_hwpt_nested as C;
        const {
            assert!(offset_of!(C, common) == 0);
            assert!(size_of::<P>() == size_of::<*mut bindings::iommufd_hwpt_paging>());
            assert!(
                offset_of!(C, common.domain) + offset_of!(Self, parent) == offset_of!(C, parent)
            );
        }
        let this = Self {
            domain,
            parent,
            viommu,
        };

        if kernel::warn_on_once!(!this.is_nested()) {
            return Err(EOPNOTSUPP);
        }
        Ok(this)
    }
}

impl<P, V> Deref for NestedDomain<P, V>
where
    P: Holds<bindings::iommufd_hwpt_paging>,
    V: Holds<bindings::iommufd_viommu>,
{
    type Target = Domain;

    #[inline]
    fn deref(&self) -> &Domain {
        &self.domain
    }
}

/// Takes ownership of a domain that an IOMMU driver has just returned.
///
/// # Safety
///
/// `domain` must be an error pointer, or a new domain whose ownership passes to the result.
pub(super) unsafe fn owned(domain: *mut bindings::iommu_domain) -> Result<OwnedDomain> {
    let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENOMEM)?;

    // SAFETY: By the requirements of this function, and the contract at the top of this file: its
    // driver exists as long as the domain. An attachment holds the HWPT, which owns the domain
    // (`super::handle`).
    Ok(unsafe { OwnedDomain::from_raw(domain) })
}

/// A structure of C for a kind of HWPT.
///
/// # Safety
///
/// The structure begins with the field that [`Self::common`] returns.
pub(crate) unsafe trait HwptLayout: Sized {
    /// Returns the part that is common to all kinds.
    fn common(hwpt: &Raw<Self>) -> &Raw<bindings::iommufd_hw_pagetable>;
}

// SAFETY: It begins with the common part.
unsafe impl HwptLayout for bindings::iommufd_hwpt_paging {
    fn common(hwpt: &Raw<Self>) -> &Raw<bindings::iommufd_hw_pagetable> {
        // SAFETY: It is initialised, and begins like that.
        unsafe { Raw::from_ptr(&raw mut (*hwpt.get()).common) }
    }
}

// SAFETY: It begins with the common part.
unsafe impl HwptLayout for bindings::iommufd_hwpt_nested {
    fn common(hwpt: &Raw<Self>) -> &Raw<bindings::iommufd_hw_pagetable> {
        // SAFETY: It is initialised, and begins like that.
        unsafe { Raw::from_ptr(&raw mut (*hwpt.get()).common) }
    }
}

/// A handle on a HWPT of either kind.
#[must_use = "users of a HWPT are put by `put_or_claim()`"]
pub(crate) enum PagingOrNested<P, N> {
    /// Filled by the kernel.
    Paging(P),
    /// Filled by user space.
    Nested(N),
}

/// A handle on a HWPT.
///
/// # Safety
///
/// As for [`Holds`].
pub(crate) unsafe trait HoldsHwpt: AnswerFaults {
    /// The HWPT.
    fn hwpt(&self) -> &Raw<bindings::iommufd_hw_pagetable>;
}

// SAFETY: Both variants implement `Holds`.
unsafe impl<P, N> HoldsHwpt for PagingOrNested<P, N>
where
    Self: AnswerFaults,
    P: Holds<bindings::iommufd_hwpt_paging>,
    N: Holds<bindings::iommufd_hwpt_nested>,
{
    fn hwpt(&self) -> &Raw<bindings::iommufd_hw_pagetable> {
        match self {
            Self::Paging(hwpt) => HwptLayout::common(hwpt.raw()),
            Self::Nested(hwpt) => HwptLayout::common(hwpt.raw()),
        }
    }
}

/// Makes the domain of a new HWPT point back to it.
///
/// `driver.c` and the handler of page faults follow the pointer while the domain is attached, and
/// [`Attachment`](super::handle::Attachment) attaches a domain only if it points to the HWPT that
/// the attachment holds.
pub(crate) fn link<H, C>(hwpt: &H)
where
    H: FaultRoute + AsC<C>,
    C: HwptLayout,
{
    let hwpt = C::common(hwpt.as_c()).get();

    // SAFETY: The HWPT is initialised as far as C accesses it, so that it has a domain. Only this
    // function writes the field, and others read it after this HWPT was attached.
    let linked = unsafe {
        let domain = (*hwpt).domain;

        Atomic::from_ptr((&raw mut (*domain).__bindgen_anon_1.iommufd_hwpt).cast::<*mut c_void>())
            .cmpxchg(null_mut(), hwpt.cast(), Relaxed)
    };
    // A HWPT whose domain is that of another one cannot be attached.
    if kernel::warn_on!(linked.is_err()) {
        return;
    }
    // SAFETY: As above. Only the caller that has linked the domain writes this field.
    unsafe {
        (*(*hwpt).domain).cookie_type = bindings::iommu_domain_cookie_type_IOMMU_COOKIE_IOMMUFD;
    }
}
