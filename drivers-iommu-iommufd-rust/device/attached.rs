// SPDX-License-Identifier: GPL-2.0

//! The attachment of a group of devices, or of a PASID of it, to a HWPT.
//!
//! It owns a user of the HWPT and of one device (the *leader*), and ends by [`Attached::detach`].
//!
//! The IOMMU driver decides whether a HWPT is compatible with a group. The user of the HWPT is made
//! before that, so that it is not destroyed while it is being attached. A [`Tentative`] is held
//! until the driver has decided, and until the user of the old HWPT is put.
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
    sys::{
        delay::Place,
        handle::{
            Attachment,
            NewHandle, //
        }, //
    }, //
};
use core::mem::{
    replace,
    ManuallyDrop, //
};
use kernel::prelude::*;

/// An attachment of a group of devices, or of a PASID of it.
///
/// It is always in a [`ManuallyDrop`], as its user of the HWPT must not be dropped: unless it is
/// ended by [`Self::detach`] it leaks and stays attached.
pub(super) enum Attached {
    /// With an IOMMU.
    ByIommu(Attachment<HwptRef, User<Device>>),
    /// Without an IOMMU.
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
    /// [`ENOMEM`]; [`EINVAL`] if the domain is not compatible with the devices; those of the IOMMU
    /// driver. The candidate is returned with the error.
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

    /// Attaches to `candidate` instead, without blocking DMA in between, and puts the user of the
    /// old HWPT. Returns the old HWPT if it is automatic and this was its last user.
    ///
    /// # Errors
    ///
    /// As [`Self::new`]; nothing has changed.
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

        Place::Replaced.delay();
        // Before others can find the group attached to the new HWPT.
        Ok(old.put_or_claim(ctx))
    }

    /// Makes another device of the same group the leader.
    pub(super) fn set_leader(&mut self, new_leader: User<Device>) {
        match self {
            // This cannot fail: the device is of the same group.
            Self::ByIommu(at) => _ = at.set_leader(new_leader),
            Self::NoIommu { leader, .. } => *leader = new_leader,
        }
    }

    /// Returns whether this device is the leader.
    pub(super) fn is_led_by(&self, device: &User<Device>) -> bool {
        let leader = match self {
            Self::ByIommu(at) => at.leader(),
            Self::NoIommu { leader, .. } => leader,
        };

        leader.id() == device.id()
    }

    /// Returns the user of the HWPT.
    fn hwpt_ref(&self) -> &HwptRef {
        match self {
            Self::ByIommu(at) => at.hwpt(),
            Self::NoIommu { hwpt, .. } => hwpt,
        }
    }

    /// Returns the HWPT.
    pub(super) fn hwpt(&self) -> AnyHwpt<'_> {
        self.hwpt_ref().get()
    }

    /// Returns the PASID; `IOMMU_NO_PASID` for DMA without one.
    pub(super) fn pasid(&self) -> u32 {
        match self {
            Self::ByIommu(at) => at.pasid(),
            Self::NoIommu { pasid, .. } => *pasid,
        }
    }

    /// Detaches. Returns the user of the HWPT.
    pub(super) fn detach(this: ManuallyDrop<Self>) -> HwptRef {
        match ManuallyDrop::into_inner(this) {
            Self::ByIommu(at) => at.detach(),
            Self::NoIommu { hwpt, .. } => hwpt,
        }
    }
}

/// Calls `attach` with a new handle and a user of the HWPT of `candidate`.
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
