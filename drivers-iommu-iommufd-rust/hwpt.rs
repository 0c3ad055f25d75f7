// SPDX-License-Identifier: GPL-2.0

//! Hardware page tables: IOMMU domains as objects.
//!
//! There are two kinds. A *paging* HWPT ([`HwptPaging`]) has the mappings of one IOAS in the format
//! of one IOMMU: the kernel fills it. A *nested* HWPT ([`HwptNested`]) is filled by user space, and
//! translates to addresses that a paging HWPT, its parent, translates further. [`HwptRef`] is a
//! user of either.
//!
//! A paging HWPT is in the list of its IOAS, and its domain in the IO page table, from when it is
//! complete ([`ListedPaging`]) until it is destroyed. Both change under the mutex of the IOAS, so
//! that a search for a HWPT to attach to finds only complete ones, and two concurrent attaches do
//! not each make a HWPT. A HWPT that the kernel made for a device that was attached to an IOAS is
//! *automatic*: it is destroyed when no group is attached to it.
//!
//! Dependencies: a HWPT depends on its IOAS or its parent, on its vIOMMU and on its fault queue. An
//! attachment owns a user of the HWPT ([`HwptRef`]), which it puts by [`HwptRef::put_or_claim`]. A
//! [`Candidate`] is a HWPT that a group is about to be attached to, and becomes a `HwptRef` when it
//! is.
//!
//! Locks: the mutex of the IOAS ([`Ioas::hwpts`]); then the group lock, then those of the IO page
//! table.
#![forbid(unsafe_code)]

use crate::{
    context::Context,
    eventq::Fault,
    ioas::Ioas,
    object::{
        same_offset,
        CLayout,
        Dependency,
        Destroying,
        Kind,
        LateDependency,
        Object,
        User,
        WriteSide, //
    },
    sys::{
        domain::HwptDomain,
        hwpt::{
            HwptLayout,
            PagingOrNested, //
        },
        iopf::{
            AnswerFaults,
            FaultQueue,
            FaultRoute, //
        },
        sw_msi::{
            has_pages,
            SwMsiMaps, //
        }, //
    }, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    iommu::domain::Domain,
    prelude::*,
    sync::atomic::{
        ordering::Relaxed,
        Atomic, //
    }, //
};

mod alloc;
mod candidate;
mod dirty;
mod ids;
mod invalidate;
mod nested;
mod new;

pub(crate) use self::{
    alloc::alloc,
    candidate::{
        Candidate,
        KnownPaging, //
    },
    dirty::{
        get_dirty_bitmap,
        set_dirty_tracking, //
    },
    ids::HwptIds,
    invalidate::invalidate,
    new::NewPaging, //
};
use self::{
    ids::ListEntry,
    nested::NestedDomain, //
};

const NEST_PARENT: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT;
const DIRTY_TRACKING: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
const FAULT_ID_VALID: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID;
const ALLOC_PASID: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID;

/// A kind of HWPT: its object starts with a `struct iommufd_hw_pagetable`.
pub(crate) trait Hwpt: CLayout<Raw: HwptLayout> {
    /// Returns the domain of the HWPT.
    fn domain(&self) -> &Domain;

    /// Returns the fault queue for its page faults.
    fn fault(&self) -> &LateDependency<Fault>;
}

impl<T: Hwpt> FaultRoute for Object<T> {
    fn fault_queue(&self) -> Option<&impl FaultQueue> {
        self.fault().get().map(|fault| &**fault)
    }
}

/// A HWPT that the kernel fills. C accesses the first fields.
#[repr(C)]
pub(crate) struct HwptPaging {
    paging: HwptDomain,
    present_sw_msi: SwMsiMaps,
    auto: bool,
    nest_parent: bool,
    pasid_compatible: bool,
    enforces_coherency: bool,
    pub(crate) fault: LateDependency<Fault>,
    pub(crate) ioas: Dependency<Ioas>,
    /// Key in [`HwptIds`], if it is automatic. Changes with the mutex of the IOAS held.
    list_key: Atomic<u64>,
}

same_offset!(HwptPaging, paging, iommufd_hwpt_paging, common.domain);
same_offset!(
    HwptPaging,
    present_sw_msi,
    iommufd_hwpt_paging,
    present_sw_msi
);

impl HwptPaging {
    /// Returns the IOAS whose mappings it has.
    pub(crate) fn ioas(&self) -> &Dependency<Ioas> {
        &self.ioas
    }

    /// Reserves the MSI window that begins at `start` in the IOAS for as long as the HWPT exists.
    /// Until this returns a device that is about to be attached has it reserved.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn keep_msi_window(&self, start: PhysAddr) -> Result {
        self.ioas.iopt.keep_msi_window(&self.paging, start)
    }

    /// Undoes [`Self::keep_msi_window`], unless there are pages in the window, or a group is
    /// attached, for which pages may be added.
    pub(crate) fn forget_msi_window(this: &Object<Self>, ctx: &Context) {
        this.ioas.iopt.forget_msi_window_if(&this.paging, || {
            !this.is_used() && !has_pages(&ctx.c, &this.present_sw_msi)
        });
    }

    /// Returns whether it can be the parent of nested HWPTs.
    pub(crate) fn nest_parent(&self) -> bool {
        self.nest_parent
    }

    /// Returns its entry in the list of the IOAS.
    fn list_entry(&self) -> ListEntry {
        ListEntry {
            auto: self.auto.then(|| self.list_key.load(Relaxed)),
            incoherent: !self.enforces_coherency,
        }
    }
}

impl Hwpt for HwptPaging {
    fn domain(&self) -> &Domain {
        &self.paging
    }

    fn fault(&self) -> &LateDependency<Fault> {
        &self.fault
    }
}

impl Kind for HwptPaging {
    type Owner = Context;

    fn goes_with_last_user(&self) -> bool {
        self.auto
    }

    fn destroy(this: WriteSide<'_, Self>) {
        this.ioas.hwpts.lock().remove(this.list_entry());
        this.ioas.iopt.remove_domain(&this.paging);
    }
}

/// A HWPT that user space fills. C accesses the first fields.
#[repr(C)]
pub(crate) struct HwptNested {
    pub(crate) domain: NestedDomain,
    pasid_compatible: bool,
    pub(crate) fault: LateDependency<Fault>,
}

same_offset!(HwptNested, domain, iommufd_hwpt_nested, common.domain);

impl Hwpt for HwptNested {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn fault(&self) -> &LateDependency<Fault> {
        &self.fault
    }
}

impl Kind for HwptNested {
    type Owner = Context;
}

/// A HWPT of either kind, borrowed.
#[derive(Clone, Copy)]
pub(crate) enum AnyHwpt<'a> {
    /// Filled by the kernel.
    Paging(&'a Object<HwptPaging>),
    /// Filled by user space.
    Nested(&'a Object<HwptNested>),
}

impl<'a> AnyHwpt<'a> {
    /// Returns the domain of the HWPT.
    pub(crate) fn domain(self) -> &'a Domain {
        match self {
            Self::Paging(hwpt) => (**hwpt).domain(),
            Self::Nested(hwpt) => (**hwpt).domain(),
        }
    }

    /// Returns the HWPT that translates to physical addresses: itself or its parent.
    pub(crate) fn paging(self) -> &'a Object<HwptPaging> {
        match self {
            Self::Paging(hwpt) => hwpt,
            Self::Nested(hwpt) => &hwpt.domain.parent,
        }
    }

    /// Returns the fault queue for its page faults.
    pub(crate) fn fault(self) -> Option<&'a Object<Fault>> {
        match self {
            Self::Paging(hwpt) => hwpt.fault.get(),
            Self::Nested(hwpt) => hwpt.fault.get(),
        }
    }

    /// Returns whether it was made for use with PASIDs.
    pub(crate) fn pasid_compatible(self) -> bool {
        match self {
            Self::Paging(hwpt) => hwpt.pasid_compatible,
            Self::Nested(hwpt) => hwpt.pasid_compatible,
        }
    }

    /// Returns whether both are the same HWPT.
    pub(crate) fn is_same(self, other: AnyHwpt<'_>) -> bool {
        self.domain().ptr_eq(other.domain())
    }
}

/// A user of a HWPT of either kind, which an attachment owns.
pub(crate) type HwptRef = PagingOrNested<User<HwptPaging>, User<HwptNested>>;

impl AnswerFaults for HwptRef {
    fn answer_faults(&self, handle: *const bindings::iommu_attach_handle) {
        if let Some(fault) = self.get().fault() {
            fault.auto_respond(handle);
        }
    }
}

impl HwptRef {
    /// Returns the HWPT.
    pub(crate) fn get(&self) -> AnyHwpt<'_> {
        match self {
            Self::Paging(hwpt) => AnyHwpt::Paging(hwpt),
            Self::Nested(hwpt) => AnyHwpt::Nested(hwpt),
        }
    }

    /// Puts a user of an unpublished HWPT.
    pub(crate) fn put_unpublished(self) {
        match self {
            Self::Paging(hwpt) => hwpt.put_unclaimed(),
            Self::Nested(hwpt) => drop(hwpt),
        }
    }

    /// Puts the user of a former attachment, and claims an automatic HWPT if it was the last one.
    /// The caller finishes a claimed HWPT when it holds no lock, as that takes the mutex of the
    /// IOAS.
    ///
    /// Context: any locks may be held.
    pub(crate) fn put_or_claim(self, ctx: &Context) -> Option<Destroying<'_, Context>> {
        match self {
            Self::Paging(hwpt) if hwpt.auto => hwpt.put_or_claim(ctx),
            hwpt => {
                drop(hwpt);
                None
            }
        }
    }
}
