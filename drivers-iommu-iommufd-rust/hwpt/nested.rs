// SPDX-License-Identifier: GPL-2.0

//! The domains of nested HWPTs.
//!
//! Locks: none.
#![forbid(unsafe_code)]

use super::{
    Hwpt as _,
    HwptPaging, //
};
use crate::{
    object::Dependency,
    sys::{
        bound_device::BoundDevice,
        hwpt, //
    },
    viommu::Viommu, //
};
use core::{
    mem::offset_of,
    ops::Deref, //
};
use kernel::{
    bindings,
    iommu::domain::{
        Domain,
        OwnedDomain, //
    },
    prelude::*, //
};

/// An [`iommu_domain`](Domain) whose page table user space fills, on top of that of a paging HWPT.
///
/// IOMMU drivers expect that the domain goes before what it was made of. C sees two pointers: the
/// domain and the parent, as in `struct iommufd_hwpt_nested`.
///
/// The fields are dropped in order.
#[repr(C)]
pub(crate) struct NestedDomain {
    domain: OwnedDomain,
    pub(crate) parent: Dependency<HwptPaging>,
    /// The vIOMMU that it was made for, which is a user of the parent, too.
    pub(crate) viommu: Option<Dependency<Viommu>>,
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
    pub(super) fn new(
        ops: &bindings::iommu_ops,
        dev: &BoundDevice,
        parent: Dependency<HwptPaging>,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<Self> {
        let domain = hwpt::new_nested(ops, dev, parent.domain(), flags, data)?;

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
    pub(super) fn of_viommu(
        viommu: Dependency<Viommu>,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<Self> {
        let domain = viommu.as_c().alloc_domain_nested(flags, data)?;

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
    pub(super) fn parent(&self) -> &Dependency<HwptPaging> {
        &self.parent
    }

    /// Invalidates what the IOMMU has cached. The driver counts in `array` what it has done.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the domain cannot do that, which leaves nothing done, or what the IOMMU
    /// driver says.
    pub(super) fn cache_invalidate(&self, array: &mut bindings::iommu_user_data_array) -> Result {
        hwpt::cache_invalidate(self, array)
    }
}

impl Deref for NestedDomain {
    type Target = Domain;

    #[inline]
    fn deref(&self) -> &Domain {
        &self.domain
    }
}
