// SPDX-License-Identifier: GPL-2.0

//! Attaching devices to a HWPT or an IOAS, which user space names by id.
//!
//! The IOMMU attaches groups, the caller attaches devices. The first device of a group attaches the
//! group; the others join, and must name the same HWPT. The last one that leaves detaches the
//! group. The reserved regions of a device are added to the IOAS when it joins, and removed when it
//! leaves. This holds for each PASID, except that reserved regions only concern DMA without a
//! PASID.
//!
//! If the id is that of an IOAS, an automatic HWPT of it that is compatible with the device is
//! used, or a new one is made ([`attach_to_ioas`]). An automatic HWPT is destroyed when no group is
//! attached to it.
//!
//! An [`Attachment`] has at least one device and owns a user of its HWPT. Replacing puts the user
//! of the old HWPT and leaving puts the user, both under the group lock: when others find the group
//! attached to another HWPT, the old user is put. Partial work is undone by Drop. A [`Candidate`]
//! gets a user only when the IOMMU driver is called, under `Tentative`, so that IOMMU_DESTROY does
//! not return EBUSY because of an attach that fails.
//!
//! Locks: the mutex of the IOAS, where one is named; then the group lock, which all functions here
//! take; then, in callees, those of the IO page table, or `Context::tentative`, the mutex of the
//! IOMMU group and `sw_msi_lock`. A claimed automatic HWPT is finished with none of them held.
#![forbid(unsafe_code)]

use super::{
    attached::Attached,
    group::{
        AttachmentReservation,
        Group,
        GroupGuard,
        GroupState, //
    },
    Device, //
};
use crate::{
    context::Context,
    hwpt::{
        AnyHwpt,
        Candidate,
        HwptNested,
        HwptPaging,
        HwptRef,
        KnownPaging,
        NewPaging, //
    },
    ioas::Ioas,
    object::{
        Dependency,
        Destroying,
        Object,
        Owner as _,
        Ref,
        User, //
    },
    sys::{
        delay::Place,
        sw_msi, //
    }, //
};
use core::mem::ManuallyDrop;
use kernel::{
    bindings,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    }, //
};

/// DMA without a PASID.
pub(crate) const NO_PASID: u32 = bindings::IOMMU_NO_PASID;

/// Devices by id.
type Devices = RBTree<u32, User<Device>>;

/// A PASID of a group, attached to a HWPT.
///
/// # Invariants
///
/// `devices` is not empty; all are of the group, and one of them is the leader of `attached`.
pub(crate) struct Attachment {
    attached: ManuallyDrop<Attached>,
    devices: Devices,
}

impl Attachment {
    /// Returns the PASID.
    pub(super) fn pasid(&self) -> u32 {
        self.attached.pasid()
    }

    fn hwpt(&self) -> AnyHwpt<'_> {
        self.attached.hwpt()
    }

    fn has(&self, device: &User<Device>) -> bool {
        self.devices.get(&device.id()).is_some()
    }
}

/// One or all attached devices of a group.
#[derive(Clone, Copy)]
enum DeviceSet<'a> {
    One(&'a User<Device>),
    All(&'a Devices),
}

impl DeviceSet<'_> {
    /// Calls `f` with each of them, until it fails.
    fn try_for_each(self, mut f: impl FnMut(&User<Device>) -> Result) -> Result {
        match self {
            Self::One(device) => f(device),
            Self::All(devices) => devices.values().try_for_each(f),
        }
    }
}

/// Reserved regions of devices in an IOAS. Removes them when dropped.
struct Reservation<'a> {
    ioas: Dependency<Ioas>,
    devices: DeviceSet<'a>,
    armed: bool,
}

impl<'a> Reservation<'a> {
    /// Creates the owner of the reserved regions of `devices`.
    fn new(ioas: &Dependency<Ioas>, devices: DeviceSet<'a>) -> Self {
        Self {
            ioas: ioas.another(),
            devices,
            armed: true,
        }
    }

    /// Reserves the regions of all the devices.
    fn of_all(ioas: &Dependency<Ioas>, devices: &'a Devices) -> Result<Self> {
        let this = Self::new(ioas, DeviceSet::All(devices));

        // On error Drop removes those that were added; removing others has no effect.
        this.devices
            .try_for_each(|device| this.ioas.iopt.enforce_reserved(device.dev(), None))?;
        Ok(this)
    }

    /// Reserves the regions of a device that joins, and records the start of its MSI window.
    fn of_one(
        ioas: &Dependency<Ioas>,
        device: &'a User<Device>,
        group: &Group,
        lock: &GroupGuard<'_>,
    ) -> Result<Self> {
        let mut start = group.sw_msi_start();

        ioas.iopt.enforce_reserved(device.dev(), Some(&mut start))?;
        group.set_sw_msi_start(lock, start);
        Ok(Self::new(ioas, DeviceSet::One(device)))
    }

    /// Keeps the regions.
    fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.armed {
            remove_reserved(&self.ioas, self.devices);
        }
    }
}

fn remove_reserved(ioas: &Object<Ioas>, devices: DeviceSet<'_>) {
    // The closure does not fail.
    let _ = devices.try_for_each(|device| {
        ioas.iopt.remove_reserved(device.dev());
        Ok(())
    });
}

/// Maps the MSI pages of the group into the domain that it is about to use, and reserves the MSI
/// window on behalf of the domain.
fn set_up_msi(ctx: &Context, group: &Group, hwpt: AnyHwpt<'_>) -> Result {
    if !group.has_sw_msi() {
        return Ok(());
    }
    let paging = hwpt.paging();
    // More pages may be mapped while the group is attached, and all of them stay in the domain.
    paging.keep_msi_window(group.sw_msi_start())?;
    sw_msi::install(
        &ctx.c,
        group.sw_msi_start(),
        group.required_sw_msi(),
        paging.as_c(),
    )
}

/// Undoes the reservation of [`set_up_msi`] after an attach has failed, unless another group is
/// attached, or MSI pages are mapped. A group that is being attached at the same time reserves the
/// window again afterwards.
fn undo_set_up_msi(ctx: &Context, group: &Group, hwpt: AnyHwpt<'_>) {
    if group.has_sw_msi() {
        HwptPaging::forget_msi_window(hwpt.paging(), ctx);
    }
}

/// Checks that the group can use this HWPT for this PASID. Returns [`EINVAL`] if not.
fn check(state: &GroupState, device: &Device, pasid: u32, hwpt: AnyHwpt<'_>) -> Result {
    // A response of failure would disable page requests for the siblings of the device, too.
    if hwpt.fault().is_some() && device.dev().shares_page_requests() {
        return Err(EINVAL);
    }
    // Some IOMMUs can use PASIDs only if all HWPTs of a device were made for use with PASIDs.
    let compatible = match pasid {
        NO_PASID => hwpt.pasid_compatible() || !state.has_pasids(),
        _ => {
            let rid = state.find(NO_PASID);
            hwpt.pasid_compatible() && rid.is_none_or(|at| at.hwpt().pasid_compatible())
        }
    };
    if !compatible {
        return Err(EINVAL);
    }
    Ok(())
}

/// The prepared part of a device that is about to be attached.
struct Joining<'a> {
    node: RBTreeNode<u32, User<Device>>,
    reserved: Option<Reservation<'a>>,
}

/// Attaches a device to a HWPT.
///
/// # Errors
///
/// - [`EBUSY`] if this PASID of the device is attached already;
/// - [`EINVAL`] if its group is attached to another HWPT, or the HWPT is not compatible with it;
/// - [`EADDRINUSE`] if something is mapped in a reserved region of the device;
/// - [`ENOMEM`], or an error of the IOMMU driver.
///
/// The candidate is returned with the error.
fn attach<C: Candidate>(
    ctx: &Context,
    device: &User<Device>,
    pasid: u32,
    hwpt: C,
) -> Result<(), (C, Error)> {
    let group = device.group();
    let mut state = group.lock();
    let Joining { node, reserved } = match join(ctx, device, pasid, &state, hwpt.get()) {
        Ok(joining) => joining,
        Err(err) => return Err((hwpt, err)),
    };

    if let Some(at) = state.find_mut(pasid) {
        at.devices.insert(node);
    } else {
        let memory = AttachmentReservation::new(GFP_KERNEL_ACCOUNT)
            .and_then(|memory| check(&state, device, pasid, hwpt.get()).map(|()| memory));
        let memory = match memory {
            Ok(memory) => memory,
            Err(err) => return Err((hwpt, err)),
        };
        let attached = Attached::new(ctx, hwpt, device.another(), pasid)?;
        if reserved.is_some() && group.has_sw_msi() {
            // No effect, unless the failure of another group has undone the reservation meanwhile.
            let _ = attached
                .hwpt()
                .paging()
                .keep_msi_window(group.sw_msi_start());
        }
        let mut devices = Devices::new();
        devices.insert(node);
        // INVARIANT: The leader is the only device.
        state.add(memory, Attachment { attached, devices });
    }
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    Ok(())
}

/// Prepares a device to be attached to `hwpt`. See [`attach`] for the errors.
fn join<'a>(
    ctx: &Context,
    device: &'a User<Device>,
    pasid: u32,
    state: &GroupGuard<'_>,
    hwpt: AnyHwpt<'_>,
) -> Result<Joining<'a>> {
    let group = device.group();
    let at = state.find(pasid);

    if let Some(at) = at {
        if at.has(device) {
            return Err(EBUSY);
        }
        if !at.hwpt().is_same(hwpt) {
            return Err(EINVAL);
        }
    }
    // User space chooses the number of attachments.
    let node = RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?;
    let reserved = if pasid == NO_PASID && !device.is_noiommu() {
        let reserved = Reservation::of_one(hwpt.paging().ioas(), device, group, state)?;

        if at.is_none() {
            set_up_msi(ctx, group, hwpt)?;
        }
        Some(reserved)
    } else {
        None
    };

    Ok(Joining {
        node: node.into_node(device.id(), device.another()),
        reserved,
    })
}

/// Moves the group of a device, with all its devices, from one HWPT to another.
///
/// Returns the old HWPT if it was claimed with its last user: the caller finishes it when it holds
/// no locks.
///
/// # Errors
///
/// [`EINVAL`] if this PASID of the device is not attached; else as [`attach`]. Nothing has changed.
fn replace<'c, C: Candidate>(
    ctx: &'c Context,
    device: &User<Device>,
    pasid: u32,
    hwpt: C,
) -> Result<Option<Destroying<'c, Context>>, (C, Error)> {
    let group = device.group();
    let mut state = group.lock();
    let suits = check(&state, device, pasid, hwpt.get());
    let at = match state.find_mut(pasid) {
        Some(at) if at.has(device) => at,
        _ => return Err((hwpt, EINVAL)),
    };

    if at.hwpt().is_same(hwpt.get()) {
        return Ok(None);
    }
    let leaves = leaves_ioas(at.hwpt(), pasid, hwpt.get());
    let reserved = match enter_ioas(
        ctx,
        device,
        pasid,
        &at.devices,
        leaves.is_some(),
        hwpt.get(),
    ) {
        Ok(reserved) => reserved,
        Err(err) => return Err((hwpt, err)),
    };
    if let Err(err) = suits {
        return Err((hwpt, err));
    }

    let old = at.attached.replace(ctx, hwpt, device.another())?;
    if pasid == NO_PASID && !device.is_noiommu() {
        // An interrupt that was set up meanwhile has its page only in the old domain. If mapping it
        // in the new one fails for lack of memory, the interrupt is lost; moving back could fail,
        // too.
        let _ = set_up_msi(ctx, group, at.hwpt());
    }
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    if let Some(ioas) = leaves {
        remove_reserved(&ioas, DeviceSet::All(&at.devices));
    }
    Ok(old)
}

/// Returns the IOAS of `old` if the reserved regions move to the IOAS of `new`.
fn leaves_ioas(old: AnyHwpt<'_>, pasid: u32, new: AnyHwpt<'_>) -> Option<Dependency<Ioas>> {
    let (old, new) = (old.paging().ioas(), new.paging().ioas());

    // Addresses are compared, as the id of an IOAS that is being destroyed can be reused.
    (pasid == NO_PASID && old.as_ptr() != new.as_ptr()).then(|| old.another())
}

/// Reserves regions in the IOAS of `hwpt` for `devices`, the group of `device`, if the group
/// `moves` to another IOAS, and maps MSI pages in the domain of `hwpt`.
fn enter_ioas<'a>(
    ctx: &Context,
    device: &Device,
    pasid: u32,
    devices: &'a Devices,
    moves: bool,
    hwpt: AnyHwpt<'_>,
) -> Result<Option<Reservation<'a>>> {
    if pasid != NO_PASID || device.is_noiommu() {
        return Ok(None);
    }
    let reserved = if moves {
        Some(Reservation::of_all(hwpt.paging().ioas(), devices)?)
    } else {
        None
    };

    set_up_msi(ctx, device.group(), hwpt)?;
    Ok(reserved)
}

/// Removes a device from the attachment of its group. With the last device the group is detached,
/// and `put` puts the user of the HWPT.
fn leave<R>(
    state: &mut GroupState,
    device: &User<Device>,
    pasid: u32,
    put: impl FnOnce(HwptRef) -> Option<R>,
) -> Option<R> {
    let at = state.find_mut(pasid)?;
    at.devices.remove(&device.id())?;

    let ioas = at.hwpt().paging().ioas().another();
    let left = if at.devices.is_empty() {
        let hwpt = Attached::detach(state.remove(pasid)?.attached);

        Place::Detached.delay();
        put(hwpt)
    } else {
        if at.attached.is_led_by(device) {
            if let Some(other) = at.devices.values().next() {
                at.attached.set_leader(other.another());
            }
        }
        None
    };
    // After the user is put: a task that can map at a formerly reserved IOVA can destroy the HWPT,
    // too.
    if pasid == NO_PASID {
        ioas.iopt.remove_reserved(device.dev());
    }
    left
}

/// Detaches a device. If it is the last one of its group, DMA of the group is blocked. An automatic
/// HWPT is destroyed with its last user.
///
/// Context: may sleep; takes the group lock, and after that is released the mutex of the IOAS.
pub(crate) fn detach(ctx: &Context, device: &User<Device>, pasid: u32) {
    let mut state = device.group().lock();
    let last = leave(&mut state, device, pasid, |hwpt| hwpt.put_or_claim(ctx));

    drop(state);
    if let Some(last) = last {
        last.finish();
    }
}

/// Answers the page faults of a detached device that is about to be unbound. If other devices of
/// its group are attached, the fault queues of these may still contain its faults.
pub(super) fn answer_faults(device: &Device) {
    let state = device.group().lock();

    for fault in state.attached().filter_map(|at| at.hwpt().fault()) {
        fault.respond_to_device(device.dev());
    }
}

/// Detaches a device from a new, unpublished HWPT.
///
/// The driver does not attach, replace and detach concurrently, so the device is still attached to
/// it.
fn undo_attach(device: &User<Device>, pasid: u32) {
    let mut state = device.group().lock();

    leave(&mut state, device, pasid, |hwpt| {
        hwpt.put_unpublished();
        None::<()>
    });
}

/// The operation on a device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttachOp {
    /// See [`attach`].
    Attach,
    /// See [`replace`].
    Replace,
}

impl AttachOp {
    /// Returns the claimed old HWPT: see [`replace`].
    fn apply<'c, C: Candidate>(
        self,
        ctx: &'c Context,
        device: &User<Device>,
        pasid: u32,
        hwpt: C,
    ) -> Result<Option<Destroying<'c, Context>>, (C, Error)> {
        match self {
            Self::Attach => attach(ctx, device, pasid, hwpt).map(|()| None),
            Self::Replace => replace(ctx, device, pasid, hwpt),
        }
        .inspect_err(|(hwpt, _)| undo_set_up_msi(ctx, device.group(), hwpt.get()))
    }
}

/// Runs `op` with the HWPT or IOAS of this id, and sets the id to that of the HWPT.
///
/// # Errors
///
/// [`ENOENT`] if there is no such object, [`EINVAL`] if it is of another kind; else as [`attach`]
/// and [`replace`].
pub(crate) fn change(
    ctx: &Context,
    device: &User<Device>,
    pasid: u32,
    pt_id: &mut u32,
    op: AttachOp,
) -> Result {
    let old = match Target::find(ctx, *pt_id)? {
        Target::Paging(hwpt) => op
            .apply(ctx, device, pasid, KnownPaging::new(ctx, hwpt))
            .map_err(|(hwpt, err)| {
                hwpt.end();
                err
            })?,
        Target::Nested(hwpt) => op.apply(ctx, device, pasid, hwpt).map_err(|(_, err)| err)?,
        Target::Ioas(ioas) => {
            let (id, old) = attach_to_ioas(ctx, device, pasid, &ioas, op)?;
            *pt_id = id;
            old
        }
    };
    // All locks are released, and all references to looked-up objects are put.
    if let Some(old) = old {
        old.finish();
    }
    Ok(())
}

/// An object that a device can be attached to.
enum Target<'a> {
    Paging(Ref<'a, HwptPaging>),
    Nested(Ref<'a, HwptNested>),
    Ioas(Ref<'a, Ioas>),
}

impl<'a> Target<'a> {
    fn find(ctx: &'a Context, id: u32) -> Result<Self> {
        let object = match ctx.get_any(id)?.downcast() {
            Ok(hwpt) => return Ok(Self::Paging(hwpt)),
            Err(other) => other,
        };
        match object.downcast() {
            Ok(hwpt) => Ok(Self::Nested(hwpt)),
            Err(other) => Ok(Self::Ioas(other.downcast().map_err(|_| EINVAL)?)),
        }
    }
}

/// Runs `op` with an automatic HWPT of the IOAS, making one if none is compatible with the device.
///
/// Returns the id of the HWPT, and the claimed old HWPT: see [`replace`].
fn attach_to_ioas<'c>(
    ctx: &'c Context,
    device: &User<Device>,
    pasid: u32,
    ioas: &Ref<'_, Ioas>,
    op: AttachOp,
) -> Result<(u32, Option<Destroying<'c, Context>>)> {
    let mut hwpts = loop {
        let hwpts = ioas.hwpts.lock();
        let mut last = None;

        // Automatic HWPTs differ only in the devices that they are compatible with.
        for hwpt in hwpts.auto(ctx, ioas) {
            let id = hwpt.id();

            match op.apply(ctx, device, pasid, KnownPaging::new(ctx, hwpt)) {
                Ok(old) => return Ok((id, old)),
                // All other devices have left it meanwhile.
                Err((hwpt, err)) if hwpt.was_last() => {
                    last = Some((hwpt, err));
                    break;
                }
                // It is not compatible with the device.
                Err((_, err)) if err == EINVAL => continue,
                // Its last user was just put.
                Err((hwpt, _)) if hwpt.hwpt().is_claimed() => continue,
                Err((_, err)) => return Err(err),
            }
        }
        let Some((hwpt, err)) = last else {
            break hwpts;
        };
        // Destroying it takes the mutex.
        drop(hwpts);
        hwpt.end();
        if err != EINVAL {
            return Err(err);
        }
    };

    let mut new = NewPaging::auto(ctx, ioas, device)?;
    // Some IOMMU drivers complete a domain when it is first attached, so this comes before the
    // domain is filled.
    if op == AttachOp::Attach {
        attach(ctx, device, pasid, &mut new).map_err(|(new, err)| {
            new.forget_msi_window();
            err
        })?;
    }
    let new = match new.list(&mut hwpts) {
        Ok(new) => new,
        Err((new, err)) => {
            if op == AttachOp::Attach {
                undo_attach(device, pasid);
            }
            // No group uses it any more.
            new.forget_msi_window();
            drop(new);
            return Err(err);
        }
    };
    let id = new.id();
    match op {
        AttachOp::Attach => match new.publish_or_return() {
            Ok(()) => Ok((id, None)),
            Err((_new, err)) => {
                undo_attach(device, pasid);
                Err(err)
            }
        },
        AttachOp::Replace => replace(ctx, device, pasid, new)
            .map(|old| (id, old))
            .map_err(|(_, err)| err),
    }
}
