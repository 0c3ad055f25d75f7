// SPDX-License-Identifier: GPL-2.0

//! A group of devices, or a PASID of it, that is attached to a HWPT.
//!
//! It keeps the HWPT and one of the devices (the *leader*), and is undone by [`Attached::detach`].
//!
//! The IOMMU driver decides whether a HWPT suits a group. The HWPT has a user before that, so that
//! it cannot be destroyed when it is attached; a [`Tentative`](crate::object::Tentative) is held
//! until it is known whether the user stays.
//!
//! Locks: the caller holds the group lock.
#![forbid(unsafe_code)]

use super::Device;
use crate::{
    context::Context,
    hwpt::{
        AnyHwpt,
        Candidate,
        HwptRef, //
    },
    object::{
        Owner as _,
        User, //
    },
    sys::handle::{
        Attachment,
        NewHandle, //
    }, //
};
use core::mem::{
    replace,
    ManuallyDrop, //
};
use kernel::prelude::*;

/// A group of devices, or a PASID of it, is attached to a HWPT.
///
/// There is one only in a [`ManuallyDrop`], as its user of the HWPT is not to be dropped: one that
/// does not end by [`Self::detach`] leaks, and stays attached.
pub(super) enum Attached {
    /// By the IOMMU.
    ByIommu(Attachment<HwptRef, User<Device>>),
    /// There is no IOMMU.
    NoIommu {
        hwpt: HwptRef,
        leader: User<Device>,
        pasid: u32,
    },
}

impl Attached {
    /// Attaches the group of `leader`, or its `pasid`, to `hwpt`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if the domain does not suit the devices; what the IOMMU driver says.
    pub(super) fn new(
        ctx: &Context,
        candidate: &mut dyn Candidate,
        leader: User<Device>,
        pasid: u32,
    ) -> Result<ManuallyDrop<Self>> {
        let attached = if leader.is_noiommu() {
            Self::NoIommu {
                hwpt: candidate.user(&ctx.tentative())?,
                leader,
                pasid,
            }
        } else {
            Self::ByIommu(enter(ctx, candidate, |handle, hwpt| {
                handle.attach(hwpt, leader, pasid)
            })?)
        };

        Ok(ManuallyDrop::new(attached))
    }

    /// Attaches to `candidate` instead, without a moment in between. Returns the HWPT of before.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; nothing has changed then.
    pub(super) fn replace(
        &mut self,
        ctx: &Context,
        candidate: &mut dyn Candidate,
        new_leader: User<Device>,
    ) -> Result<HwptRef> {
        match self {
            Self::ByIommu(at) => enter(ctx, candidate, |handle, hwpt| {
                at.replace(handle, hwpt, new_leader)
            }),
            Self::NoIommu { hwpt, leader, .. } => {
                let new = candidate.user(&ctx.tentative())?;

                *leader = new_leader;
                Ok(replace(hwpt, new))
            }
        }
    }

    /// Makes another device of the same group the one that stands for it.
    pub(super) fn set_leader(&mut self, new_leader: User<Device>) {
        match self {
            // It is one of the same group.
            Self::ByIommu(at) => _ = at.set_leader(new_leader),
            Self::NoIommu { leader, .. } => *leader = new_leader,
        }
    }

    /// Whether this device stands for the group.
    pub(super) fn is_led_by(&self, device: &User<Device>) -> bool {
        let leader = match self {
            Self::ByIommu(at) => at.leader(),
            Self::NoIommu { leader, .. } => leader,
        };

        leader.id() == device.id()
    }

    /// The user of the HWPT that the group is attached to.
    fn hwpt_ref(&self) -> &HwptRef {
        match self {
            Self::ByIommu(at) => at.hwpt(),
            Self::NoIommu { hwpt, .. } => hwpt,
        }
    }

    /// What the group is attached to.
    pub(super) fn hwpt(&self) -> AnyHwpt<'_> {
        self.hwpt_ref().get()
    }

    /// Which PASID it is; `IOMMU_NO_PASID` for DMA without one.
    pub(super) fn pasid(&self) -> u32 {
        match self {
            Self::ByIommu(at) => at.pasid(),
            Self::NoIommu { pasid, .. } => *pasid,
        }
    }

    /// Detaches. Returns the HWPT.
    pub(super) fn detach(this: ManuallyDrop<Self>) -> HwptRef {
        match ManuallyDrop::into_inner(this) {
            Self::ByIommu(at) => at.detach(),
            Self::NoIommu { hwpt, .. } => hwpt,
        }
    }
}

/// Has `attach` attach a HWPT with a new handle. If that fails, it returns the user.
fn enter<T>(
    ctx: &Context,
    candidate: &mut dyn Candidate,
    attach: impl FnOnce(NewHandle, HwptRef) -> Result<T, (HwptRef, Error)>,
) -> Result<T> {
    let handle = NewHandle::new()?;
    let tentative = ctx.tentative();
    let hwpt = candidate.user(&tentative)?;

    attach(handle, hwpt).map_err(|(hwpt, err)| {
        candidate.give_up(hwpt);
        err
    })
}
