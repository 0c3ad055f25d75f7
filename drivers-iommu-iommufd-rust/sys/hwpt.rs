// SPDX-License-Identifier: GPL-2.0

//! The domains of HWPTs: how IOMMU drivers make them, and how C gets from one to the HWPT.
//!
//! A [`PagingDomain`] has a page table that this driver fills, a [`NestedDomain`] one that user
//! space fills. The domain points back to the HWPT that it was made for ([`link`]); `driver.c` and
//! the handler of page faults follow that pointer while a device is attached.
//!
//! Contract with C: the operations in `struct iommu_ops` of a device's IOMMU driver do not change
//! while the device is bound, and the pointers to user memory in `struct iommu_user_data` are
//! checked by who reads through them. An IOMMU driver that returns a domain gives it away, and
//! stays for as long as the domain is there, as does what the domain belongs to: like an IOMMU, a
//! domain may be kept longer than the device that it was made for.
//!
//! Contract with the IOMMU core: it calls the handler of a domain's faults with a group whose
//! attach handle is one of `super::attach`. Handle, domain, HWPT and fault queue live until the
//! handler returns: whoever detaches the device waits for that, and then answers what it delivered
//! before it frees the handle. The device is bound all that time, and so has its fault queue.

use super::{
    device::BoundDevice,
    domain::PagingDomain,
    object::{
        Depends,
        Header, //
    }, //
};
use crate::{
    eventq::Fault,
    hwpt::{
        HwptNested,
        HwptPaging, //
    },
    object::{
        Dependency,
        Object,
        Registered,
        Reserved, //
    },
    viommu::Viommu, //
};
use core::{
    mem::offset_of,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    iommu::{
        domain::{
            Domain,
            OwnedDomain, //
        },
        iopf::Group, //
    },
    prelude::*,
    sync::SetOnce, //
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
        // before the HWPT can go (`super::attach`).
        None => unsafe { OwnedDomain::new_paging(dev) }?,
    };

    // SAFETY: The domain is new: nobody maps into it.
    Ok(unsafe { PagingDomain::from_owned(domain) })
}

/// An [`iommu_domain`](Domain) whose page table user space fills, on top of that of a paging HWPT.
///
/// IOMMU drivers expect that the domain goes before what it was made of. C sees two pointers: the
/// domain and the parent, as in `struct iommufd_hwpt_nested`.
///
/// The fields are dropped in order.
#[repr(C)]
pub(crate) struct NestedDomain {
    domain: OwnedDomain,
    parent: Dependency<HwptPaging>,
    /// The vIOMMU that it was made for.
    viommu: Option<Dependency<Viommu>>,
}

// SAFETY: It visits the fields, in order.
unsafe impl Depends for NestedDomain {
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
        // The vIOMMU is a user of the parent, too.
        if !self.viommu.visit(f) {
            return false;
        }
        self.parent.visit(f)
    }
}

const _: () = {
    use bindings::{
        iommufd_hw_pagetable as Common,
        iommufd_hwpt_nested as C, //
    };
    const DOMAIN: usize = offset_of!(Common, domain);

    assert!(offset_of!(C, common) == 0);
    assert!(DOMAIN + offset_of!(NestedDomain, parent) == offset_of!(C, parent));
};

impl NestedDomain {
    /// Asks the IOMMU driver of `dev` for a domain.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver has no such domains or made one of another kind, or what it
    /// says.
    pub(crate) fn new(
        ops: &bindings::iommu_ops,
        dev: &BoundDevice,
        parent: Dependency<HwptPaging>,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<Self> {
        let alloc = ops.domain_alloc_nested.ok_or(EOPNOTSUPP)?;
        // SAFETY: The operation belongs to the IOMMU driver of the bound device. The parent stays
        // until the domain is freed.
        let domain = unsafe { owned(alloc(dev.as_raw(), parent.as_raw_domain(), flags, data)) }?;

        // SAFETY: The domain is new, nobody else sees it.
        unsafe { (*domain.as_raw()).owner = ops };
        Self {
            domain,
            parent,
            viommu: None,
        }
        .check()
    }

    /// Asks the driver of a vIOMMU for a domain.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub(crate) fn of_viommu(
        viommu: Dependency<Viommu>,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<Self> {
        let domain = Viommu::alloc_domain_nested(&viommu, flags, data)?;
        // SAFETY: The domain is new and ours. For the rest see `owned()`; the vIOMMU, too, is kept
        // until the domain is freed.
        let domain = unsafe { OwnedDomain::from_raw(domain) };

        Self {
            domain,
            parent: viommu.hwpt().another(),
            viommu: Some(viommu),
        }
        .check()
    }

    fn check(self) -> Result<Self> {
        if kernel::warn_on_once!(!self.is_nested()) {
            return Err(EOPNOTSUPP);
        }
        Ok(self)
    }

    /// The HWPT whose page table it is on top of.
    pub(crate) fn parent(&self) -> &Dependency<HwptPaging> {
        &self.parent
    }

    /// Invalidates what the IOMMU has cached. The driver counts in `array` what it has done.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the domain cannot do that, which leaves nothing done, or what the IOMMU
    /// driver says.
    pub(crate) fn cache_invalidate(&self, array: &mut bindings::iommu_user_data_array) -> Result {
        let Some(invalidate) = self.ops().and_then(|ops| ops.cache_invalidate_user) else {
            array.entry_num = 0;
            return Err(EOPNOTSUPP);
        };

        // SAFETY: The operation is that of the domain.
        kernel::error::to_result(unsafe { invalidate(self.as_raw(), array) })
    }
}

impl Deref for NestedDomain {
    type Target = Domain;

    #[inline]
    fn deref(&self) -> &Domain {
        &self.domain
    }
}

/// Takes over a domain that an IOMMU driver has just made.
///
/// # Safety
///
/// `domain` is an error pointer or a new domain that nobody else owns.
unsafe fn owned(domain: *mut bindings::iommu_domain) -> Result<OwnedDomain> {
    let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENOMEM)?;

    // SAFETY: By the requirements of this function, and the contract at the top of this file.
    // Whoever attaches the domain detaches it before the HWPT can go (`super::attach`).
    Ok(unsafe { OwnedDomain::from_raw(domain) })
}

/// A kind of HWPT: its object starts with a `struct iommufd_hw_pagetable`.
pub(crate) trait Hwpt: Registered {
    /// The domain of the HWPT.
    fn domain(&self) -> &Domain;

    /// Where its page faults go.
    fn fault(&self) -> &FaultSlot;
}

/// The fault queue of a HWPT, if it has one.
///
/// # Invariants
///
/// It does not change once the HWPT has become a user of what it depends on.
pub(crate) struct FaultSlot(SetOnce<Dependency<Fault>>);

impl FaultSlot {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(SetOnce::new())
    }

    /// The fault queue.
    pub(crate) fn get(&self) -> Option<&Object<Fault>> {
        self.0.as_ref().map(|fault| &**fault)
    }
}

// SAFETY: By the type invariants it is the same one each time from the first call on.
unsafe impl Depends for FaultSlot {
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
        self.0.as_ref().is_none_or(|fault| fault.visit(f))
    }
}

/// Makes the domain of a new HWPT point back to it.
pub(crate) fn link<T: Hwpt>(hwpt: &Reserved<'_, T>) {
    let domain = hwpt.domain().as_raw();

    // SAFETY: The domain was made for this HWPT, which nobody else sees yet. Who follows the
    // pointer does so while the domain is attached, and an attachment keeps the HWPT.
    unsafe {
        (*domain).__bindgen_anon_1.iommufd_hwpt = hwpt.as_ptr().cast();
        (*domain).cookie_type = bindings::iommu_domain_cookie_type_IOMMU_COOKIE_IOMMUFD;
    }
}

/// Makes the IOMMU core hand page faults of the domain of a new HWPT to `fault`.
///
/// # Errors
///
/// [`EINVAL`] if the HWPT is attached, or has a fault queue.
pub(crate) fn route_faults<T: Hwpt>(
    hwpt: &mut Reserved<'_, T>,
    fault: Dependency<Fault>,
) -> Result {
    let domain = hwpt.domain().as_raw();

    // INVARIANT: A fresh HWPT is a user of nothing.
    if !hwpt.is_fresh() || !hwpt.fault().0.populate(fault) {
        return Err(EINVAL);
    }
    // SAFETY: The HWPT is borrowed exclusively and nothing is attached to its domain yet, as an
    // attachment has a user of the HWPT: nobody reads the field.
    unsafe { (*domain).iopf_handler = Some(iommufd_fault_iopf_handler) };
    Ok(())
}

/// The `iopf_handler` of HWPTs that have a fault queue.
///
/// # Safety
///
/// `group` must be as the contract at the top of this file says. If this returns 0, it is given
/// away.
unsafe extern "C" fn iommufd_fault_iopf_handler(group: *mut bindings::iopf_group) -> c_int {
    // SAFETY: By the requirements of this function.
    let fault = unsafe { fault_of((*(*group).attach_handle).domain) };
    let (Some(fault), Some(group)) = (fault, NonNull::new(group)) else {
        // Not a HWPT with a fault queue: the core keeps the group.
        return ENODEV.to_errno();
    };
    // SAFETY: This is the handler, and it returns 0. `super::attach` has the group answered before
    // the device is detached for good.
    fault.deliver(unsafe { Group::claim(group) });
    0
}

/// The fault queue of the HWPT that a domain belongs to.
///
/// # Safety
///
/// `domain` must have been passed to [`link`], through its HWPT, and a device must be attached to
/// it or be in the course of being detached, for `'a`.
unsafe fn fault_of<'a>(domain: *mut bindings::iommu_domain) -> Option<&'a Object<Fault>> {
    // SAFETY: By the requirements of this function; the attachment keeps the HWPT.
    let hwpt = unsafe {
        (*domain)
            .__bindgen_anon_1
            .iommufd_hwpt
            .cast::<bindings::iommufd_object>()
    };

    // SAFETY: It is the start of an `Object` of its type, as those that `link()` is called with
    // are.
    unsafe {
        match (*hwpt).type_ {
            bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING => {
                Object::<HwptPaging>::from_ptr(hwpt).fault().get()
            }
            bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED => {
                Object::<HwptNested>::from_ptr(hwpt).fault().get()
            }
            _ => None,
        }
    }
}
