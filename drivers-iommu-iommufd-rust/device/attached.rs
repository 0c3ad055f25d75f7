// SPDX-License-Identifier: GPL-2.0

//! A group of devices, or a PASID of it, that is attached to a HWPT.
//!
//! An attachment owns its handle, keeps the HWPT and one of the devices (the *leader*), and is
//! undone by [`Attached::detach`].
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
        Handle,
        Place, //
    }, //
};
use core::mem::ManuallyDrop;
use kernel::{
    iommu::domain::Domain,
    prelude::*, //
};

/// A group of devices, or a PASID of it, is attached to a HWPT.
///
/// There is one only in a [`ManuallyDrop`], as its user of the HWPT is not to be dropped: one that
/// does not end by [`Self::detach`] leaks, and stays attached.
///
/// # Invariants
///
/// The domain of `hwpt` is attached to `pasid` of the IOMMU group of `leader`, with `handle`,
/// unless there is no handle: then there is no IOMMU.
pub(super) struct Attached {
    handle: Option<Handle>,
    hwpt: HwptRef,
    leader: User<Device>,
    pasid: u32,
}

impl Attached {
    /// Attaches the group of `leader`, or its `pasid`, to `hwpt`.
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
        let (handle, hwpt) = enter(candidate, &ctx.tentative(), &leader, pasid, Handle::attach)?;

        // INVARIANT: The domain was attached.
        Ok(ManuallyDrop::new(Self {
            handle,
            hwpt,
            leader,
            pasid,
        }))
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
        leader: User<Device>,
    ) -> Result<Option<Destroying<'c, Context>>, (C, Error)> {
        let tentative = ctx.tentative();
        let (handle, hwpt) = enter(candidate, &tentative, &leader, self.pasid, Handle::replace)?;

        if let Some(handle) = handle {
            answer_faults(self.hwpt.get(), self.handle.replace(handle));
        }
        self.leader = leader;
        // INVARIANT: The new domain is attached with the new handle.
        let old = core::mem::replace(&mut self.hwpt, hwpt);

        // Before anybody can see that the group is attached to another.
        Ok(old.put_or_claim(ctx))
    }

    /// Makes another device of the same group the one that stands for it.
    pub(super) fn set_leader(&mut self, leader: User<Device>) {
        if let Some(handle) = &self.handle {
            handle.set_leader(leader.as_c(), leader.id());
        }
        self.leader = leader;
    }

    /// Whether this device stands for the group.
    pub(super) fn is_led_by(&self, device: &User<Device>) -> bool {
        self.leader.id() == device.id()
    }

    /// What the group is attached to.
    pub(super) fn hwpt(&self) -> AnyHwpt<'_> {
        self.hwpt.get()
    }

    /// Which PASID it is; `IOMMU_NO_PASID` for DMA without one.
    pub(super) fn pasid(&self) -> u32 {
        self.pasid
    }

    /// Detaches. Returns the HWPT.
    pub(super) fn detach(this: ManuallyDrop<Self>) -> HwptRef {
        let Self {
            handle,
            hwpt,
            leader,
            pasid,
        } = ManuallyDrop::into_inner(this);

        if let (Some(handle), Some(place)) = (&handle, place(&leader, pasid)) {
            handle.detach(hwpt.get().domain(), place);
        }
        answer_faults(hwpt.get(), handle);
        hwpt
    }
}

/// Attaches the group of `leader`, or its `pasid`, to a HWPT, by `attach`. Without an IOMMU there
/// is nothing to attach, and no handle.
fn enter<C: Candidate>(
    candidate: C,
    tentative: &Tentative<'_>,
    leader: &User<Device>,
    pasid: u32,
    attach: fn(&Handle, &Domain, Place<'_>) -> Result,
) -> Result<(Option<Handle>, HwptRef), (C, Error)> {
    let Some(place) = place(leader, pasid) else {
        return Ok((None, candidate.attach(tentative, |_| Ok(()))?));
    };
    let handle = match Handle::new(leader.as_c(), leader.id()) {
        Ok(handle) => handle,
        Err(err) => return Err((candidate, err)),
    };
    let hwpt = candidate.attach(tentative, |domain| attach(&handle, domain, place))?;

    Ok((Some(handle), hwpt))
}

/// The place of a PASID of a device at the IOMMU, if there is one.
fn place(leader: &Device, pasid: u32) -> Option<Place<'_>> {
    Some(Place {
        group: leader.group().iommu()?,
        dev: leader.dev(),
        pasid,
    })
}

/// Answers the faults that wait for user space and name a handle, which is then freed.
fn answer_faults(hwpt: AnyHwpt<'_>, handle: Option<Handle>) {
    if let (Some(fault), Some(handle)) = (hwpt.fault(), &handle) {
        fault.auto_respond(handle.as_raw());
    }
}
