// SPDX-License-Identifier: GPL-2.0

//! A group of devices, or a PASID of it, that is attached to a HWPT.
//!
//! It keeps the HWPT and one of the devices (the *leader*), and is undone by [`Attached::detach`].
//!
//! The IOMMU driver decides whether a HWPT suits a group. The HWPT has a user before that, so that
//! it cannot be destroyed when it is attached. A [`Tentative`] is held until it is known whether
//! that user stays, and until the user of the HWPT of before is put.
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
        Destroying,
        Owner as _,
        Tentative,
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
    /// Attaches the group of `leader`, or its `pasid`, to `candidate`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EINVAL`] if the domain does not suit the devices; what the IOMMU driver says.
    /// They come with the candidate.
    pub(super) fn new<C: Candidate>(
        ctx: &Context,
        candidate: C,
        leader: User<Device>,
        pasid: u32,
    ) -> Result<ManuallyDrop<Self>, (C, Error)> {
        let attached = if leader.is_noiommu() {
            candidate.attach(&ctx.tentative(), |hwpt| {
                Ok(Self::NoIommu {
                    hwpt,
                    leader,
                    pasid,
                })
            })?
        } else {
            Self::ByIommu(enter(candidate, &ctx.tentative(), |handle, hwpt| {
                handle.attach(hwpt, leader, pasid)
            })?)
        };

        Ok(ManuallyDrop::new(attached))
    }

    /// Attaches to `candidate` instead, without a moment in between, and puts the user of the HWPT
    /// of before. Returns that if it is automatic and this was the last.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; nothing has changed then.
    pub(super) fn replace<'c, C: Candidate>(
        &mut self,
        ctx: &'c Context,
        candidate: C,
        new_leader: User<Device>,
    ) -> Result<Option<Destroying<'c, Context>>, (C, Error)> {
        let tentative = ctx.tentative();
        let old = match self {
            Self::ByIommu(at) => enter(candidate, &tentative, |handle, hwpt| {
                at.replace(handle, hwpt, new_leader)
            })?,
            Self::NoIommu { hwpt, leader, .. } => candidate.attach(&tentative, |new| {
                *leader = new_leader;
                Ok(replace(hwpt, new))
            })?,
        };

        // Before anybody can see that the group is attached to another.
        Ok(old.put_or_claim(ctx))
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
fn enter<C: Candidate, A>(
    candidate: C,
    tentative: &Tentative<'_>,
    attach: impl FnOnce(NewHandle, HwptRef) -> Result<A, (HwptRef, Error)>,
) -> Result<A, (C, Error)> {
    match NewHandle::new() {
        Ok(handle) => candidate.attach(tentative, |hwpt| attach(handle, hwpt)),
        Err(err) => Err((candidate, err)),
    }
}
