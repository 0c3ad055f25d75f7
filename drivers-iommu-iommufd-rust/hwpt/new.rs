// SPDX-License-Identifier: GPL-2.0

//! Paging HWPTs that are being created: allocated ([`NewPaging`]), then filled and in the list of
//! the IOAS ([`ListedPaging`]), then published. Dropping one undoes what was done.
//!
//! Locks: from the list on, the mutex of the IOAS is held until the HWPT is published.
#![forbid(unsafe_code)]

use super::{
    AnyHwpt,
    Candidate,
    HwptIds,
    HwptPaging,
    HwptRef,
    ListEntry,
    ALLOC_PASID,
    DIRTY_TRACKING,
    FAULT_ID_VALID,
    NEST_PARENT, //
};
use crate::{
    context::Context,
    device::Device,
    ioas::Ioas,
    object::{
        Dependency,
        LateDependency,
        Owner as _,
        Publish,
        Ref,
        Reserved,
        Tentative, //
    },
    sys::{
        domain::{
            HwptDomain,
            PagingDomain, //
        },
        hwpt::{
            link,
            new_paging, //
        },
        sw_msi::SwMsiMaps, //
    }, //
};
use kernel::{
    bindings,
    iommu::group::Capability,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc, //
    }, //
};

/// A paging HWPT that is in no IOAS yet. Dropping it frees it.
pub(crate) struct NewPaging<'a>(Reserved<'a, HwptPaging>);

impl<'a> NewPaging<'a> {
    /// Makes an automatic HWPT for a device.
    ///
    /// # Errors
    ///
    /// - [`ENODEV`] if the device has lost its IOMMU;
    /// - [`ENOMEM`], or an error of the IOMMU driver.
    pub(crate) fn auto(ctx: &'a Context, ioas: &Ref<'_, Ioas>, device: &Device) -> Result<Self> {
        Self::new(ctx, ioas, device, 0, None, true)
    }

    /// Makes a HWPT.
    ///
    /// # Errors
    ///
    /// - [`ENODEV`] if the device has lost its IOMMU;
    /// - [`EOPNOTSUPP`] for features that the IOMMU or this kernel does not support;
    /// - [`ENOMEM`], or an error of the IOMMU driver.
    pub(super) fn new(
        ctx: &'a Context,
        ioas: &Ref<'_, Ioas>,
        device: &Device,
        flags: u32,
        data: Option<&bindings::iommu_user_data>,
        auto: bool,
    ) -> Result<Self> {
        let ops = device.ops().ok_or(ENODEV)?;
        if (flags != 0 || data.is_some()) && ops.domain_alloc_paging_flags.is_none() {
            return Err(EOPNOTSUPP);
        }
        if flags & !(NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | ALLOC_PASID) != 0 {
            return Err(EOPNOTSUPP);
        }
        if flags & DIRTY_TRACKING != 0 && !device.dev().can(Capability::DirtyTracking) {
            return Err(EOPNOTSUPP);
        }
        // A nesting parent has no fault queue: faults of a nested HWPT go to the queue of that.
        if flags & FAULT_ID_VALID != 0 && flags & NEST_PARENT != 0 {
            return Err(EOPNOTSUPP);
        }

        let mut domain = new_paging(ops, device.dev(), flags & !FAULT_ID_VALID, data)?;
        // Set before the first mapping, as some IOMMUs store it in each entry, and never changed:
        // devices that can enforce it can use a HWPT that does not, but not the other way round.
        let enforces_coherency =
            device.enforce_cache_coherency() && domain.enforce_cache_coherency();
        // An IOMMU driver that reports the capability must not fail for a new domain.
        if kernel::warn_on!(device.enforce_cache_coherency() && !enforces_coherency) {
            return Err(EINVAL);
        }

        let shared = Arc::new(domain, GFP_KERNEL_ACCOUNT)?;
        let hwpt = ctx.reserve(try_init!(HwptPaging {
            paging: HwptDomain::from(shared),
            present_sw_msi: SwMsiMaps::new(),
            auto,
            nest_parent: flags & NEST_PARENT != 0,
            pasid_compatible: flags & ALLOC_PASID != 0,
            enforces_coherency,
            fault: LateDependency::new(),
            ioas: ioas.dependency(),
            list_key: Atomic::new(0),
        }? Error))?;
        link(&*hwpt);
        Ok(Self(hwpt))
    }

    /// Undoes the reservations of MSI windows of groups that were attached.
    pub(crate) fn forget_msi_window(&self) {
        self.0.ioas.iopt.forget_msi_window(&self.0.paging);
    }

    /// Enters the HWPT in the list of its IOAS, and maps all areas of the IOAS in the domain.
    ///
    /// The mutex of the IOAS, which guards `hwpts`, is held until the HWPT is published.
    ///
    /// # Errors
    ///
    /// [`EADDRINUSE`] if an area is outside the aperture of the domain, or [`ENOMEM`]. The
    /// unchanged HWPT is returned with the error.
    pub(crate) fn list<'h>(
        self,
        hwpts: &'h mut HwptIds,
    ) -> Result<ListedPaging<'a, 'h>, (Self, Error)> {
        match Listed::new(&self.0, hwpts) {
            Ok(listed) => Ok(ListedPaging {
                listed,
                hwpt: self.0,
            }),
            Err(err) => Err((self, err)),
        }
    }
}

/// A complete, unpublished paging HWPT. Dropping it undoes its creation.
///
/// The fields are dropped in order: it leaves the IOAS before it is freed.
pub(crate) struct ListedPaging<'a, 'h> {
    listed: Listed<'h>,
    pub(super) hwpt: Reserved<'a, HwptPaging>,
}

impl ListedPaging<'_, '_> {
    /// Returns the id of the HWPT.
    pub(crate) fn id(&self) -> u32 {
        self.hwpt.id()
    }

    /// As [`Publish::publish`], for a HWPT that may be attached, which is returned on error.
    pub(crate) fn publish_or_return(self) -> Result<(), (Self, Error)> {
        let Self { hwpt, mut listed } = self;

        match hwpt.publish_or_return() {
            Ok(()) => {
                listed.armed = false;
                Ok(())
            }
            Err((hwpt, err)) => Err((Self { listed, hwpt }, err)),
        }
    }
}

impl Publish for ListedPaging<'_, '_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let Self { hwpt, mut listed } = self;

        // The list cannot be used before its lock is released.
        Reserved::publish(hwpt, answer)?;
        listed.armed = false;
        Ok(())
    }
}

/// The entry of a new HWPT in the list of its IOAS, and of its domain in the IO page table.
/// Dropping it removes both.
struct Listed<'h> {
    hwpts: &'h mut HwptIds,
    entry: ListEntry,
    ioas: Dependency<Ioas>,
    domain: Arc<PagingDomain>,
    armed: bool,
}

impl<'h> Listed<'h> {
    fn new(hwpt: &Reserved<'_, HwptPaging>, hwpts: &'h mut HwptIds) -> Result<Self> {
        let memory = HwptIds::prepare(hwpt)?;
        hwpt.ioas.iopt.add_domain(&hwpt.paging)?;
        hwpts.add(hwpt, memory);
        Ok(Self {
            hwpts,
            entry: hwpt.list_entry(),
            ioas: hwpt.ioas.another(),
            domain: hwpt.paging.clone(),
            armed: true,
        })
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.hwpts.remove(self.entry);
            self.ioas.iopt.remove_domain(&self.domain);
        }
    }
}

/// An automatic HWPT that is neither published nor filled.
impl Candidate for &mut NewPaging<'_> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Paging(&self.0)
    }

    fn attach<A>(
        self,
        _tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        attach(HwptRef::Paging(self.0.hold())).map_err(|(user, err)| {
            user.put_unpublished();
            (self, err)
        })
    }
}

/// A complete automatic HWPT, which is published when a group is attached to it.
impl Candidate for ListedPaging<'_, '_> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Paging(&self.hwpt)
    }

    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        let Self { hwpt, mut listed } = self;
        let mut hwpt = match hwpt.depend(tentative) {
            Ok(hwpt) => hwpt,
            Err((hwpt, err)) => return Err((Self { listed, hwpt }, err)),
        };

        match attach(HwptRef::Paging(hwpt.hold())) {
            Ok(attached) => {
                listed.armed = false;
                hwpt.publish();
                Ok(attached)
            }
            Err((user, err)) => {
                user.put_unpublished();
                let hwpt = hwpt.give_up();

                Err((Self { listed, hwpt }, err))
            }
        }
    }
}
