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
    /// - [`ENOMEM`], or what the IOMMU driver says.
    pub(crate) fn auto(ctx: &'a Context, ioas: &Ref<'_, Ioas>, device: &Device) -> Result<Self> {
        Self::new(ctx, ioas, device, 0, None, true)
    }

    /// Makes a HWPT.
    ///
    /// # Errors
    ///
    /// - [`ENODEV`] if the device has lost its IOMMU;
    /// - [`EOPNOTSUPP`] for what the IOMMU or this kernel cannot do;
    /// - [`ENOMEM`], or what the IOMMU driver says.
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
        // Only what user space fills in can fault on purpose.
        if flags & FAULT_ID_VALID != 0 && flags & NEST_PARENT != 0 {
            return Err(EOPNOTSUPP);
        }

        let mut domain = new_paging(ops, device.dev(), flags & !FAULT_ID_VALID, data)?;
        // This comes before the first mapping, as some IOMMUs note it in each entry, and never
        // changes: a HWPT for a device that cannot enforce it serves those that can, but not the
        // other way round.
        let enforces_coherency =
            device.enforce_cache_coherency() && domain.enforce_cache_coherency();
        // An IOMMU driver that claims the ability fails for a new domain.
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

    /// Gives up what was reserved in the IOAS for interrupts of devices that were attached.
    pub(crate) fn forget_msi_window(&self) {
        self.0.ioas.iopt.forget_msi_window(&self.0.paging);
    }

    /// Enters the HWPT in the list of its IOAS, and maps there what the IOAS maps.
    ///
    /// The mutex of the IOAS, which `hwpts` stands for, is held until the HWPT is published.
    ///
    /// # Errors
    ///
    /// [`EADDRINUSE`] if the IOAS maps what the domain cannot translate, or [`ENOMEM`]; with the
    /// HWPT, as it was.
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

/// A paging HWPT that is complete, but not published. Dropping it undoes everything.
///
/// The fields are dropped in order: it leaves the IOAS before it is freed.
pub(crate) struct ListedPaging<'a, 'h> {
    listed: Listed<'h>,
    pub(super) hwpt: Reserved<'a, HwptPaging>,
}

impl ListedPaging<'_, '_> {
    /// The id that the HWPT is going to have.
    pub(crate) fn id(&self) -> u32 {
        self.hwpt.id()
    }

    /// As [`Publish::publish`], of a HWPT that may be attached: one that cannot be published is
    /// returned.
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

/// A new HWPT is in the list of its IOAS, and its domain in the IO page table.
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

/// An automatic HWPT that is neither published nor filled: no lookup finds it yet.
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

/// An automatic HWPT that is complete: it is published in the step that attaches a group to it.
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
