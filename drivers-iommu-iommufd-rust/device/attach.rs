// SPDX-License-Identifier: GPL-2.0

//! Attaching: from a device and the id of a HWPT or an IOAS to DMA that works.
//!
//! The hardware attaches groups, the caller attaches devices. The first device of a group attaches
//! the group, the others join: they must name the same HWPT. The last to leave detaches it. Each
//! device brings its reserved regions into the IOAS as it joins and takes them out as it leaves.
//! All that holds for each PASID, except that reserved regions are those of DMA without a PASID.
//!
//! Naming an IOAS means: any HWPT of it that the kernel made itself and that suits the device, or
//! else a new one ([`attach_to_ioas`]). Such a HWPT goes when nobody is attached to it.
//!
//! An [`Attachment`] has at least one device and owns a user of its HWPT: replacing moves the user,
//! and leaving puts it. Both happen under the group lock, so that when a group is seen attached to
//! something else that user is gone. Everything that is half done is undone by Drop. A HWPT that is
//! only tried ([`Candidate`]) has no user because of that before the hardware is asked, so that
//! IOMMU_DESTROY does not say EBUSY because of an attach that fails.
//!
//! Locks: the mutex of the IOAS, where one is named; then the group lock, which all functions here
//! take; then, in callees, those of the IO page table, or `Context::tentative`, the mutex of the
//! IOMMU group and `sw_msi_lock`. An automatic HWPT that has ended is finished with none of them
//! held.
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
    sys::sw_msi, //
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

/// A PASID of a group is attached to a HWPT.
///
/// # Invariants
///
/// `devices` is not empty; all are of the group, and one of them is the leader of `attached`.
pub(crate) struct Attachment {
    attached: ManuallyDrop<Attached>,
    devices: Devices,
}

impl Attachment {
    /// Which PASID it is.
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

/// Devices of a group.
#[derive(Clone, Copy)]
enum Which<'a> {
    One(&'a User<Device>),
    All(&'a Devices),
}

impl Which<'_> {
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
    devices: Which<'a>,
    armed: bool,
}

impl<'a> Reservation<'a> {
    /// Nothing yet; what is added is for `devices`.
    fn new(ioas: &Dependency<Ioas>, devices: Which<'a>) -> Self {
        Self {
            ioas: ioas.another(),
            devices,
            armed: true,
        }
    }

    /// Reserves the regions of all the devices.
    fn of_all(ioas: &Dependency<Ioas>, devices: &'a Devices) -> Result<Self> {
        let this = Self::new(ioas, Which::All(devices));

        // Those that were not reached have nothing to remove.
        this.devices
            .try_for_each(|device| this.ioas.iopt.enforce_reserved(device.dev(), None))?;
        Ok(this)
    }

    /// Reserves the regions of a device that joins, and learns where its MSI window is.
    fn of_one(
        ioas: &Dependency<Ioas>,
        device: &'a User<Device>,
        group: &Group,
        lock: &GroupGuard<'_>,
    ) -> Result<Self> {
        let mut start = group.sw_msi_start();

        ioas.iopt.enforce_reserved(device.dev(), Some(&mut start))?;
        group.set_sw_msi_start(lock, start);
        Ok(Self::new(ioas, Which::One(device)))
    }

    /// The regions stay.
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

fn remove_reserved(ioas: &Object<Ioas>, devices: Which<'_>) {
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

/// Undoes what [`set_up_msi`] has reserved for a group that is not attached after all, unless
/// another one is attached, or is about to be and makes sure of it when it is, or there are pages.
fn undo_set_up_msi(ctx: &Context, group: &Group, hwpt: AnyHwpt<'_>) {
    if group.has_sw_msi() {
        HwptPaging::forget_msi_window(hwpt.paging(), ctx);
    }
}

/// Whether the group can use this HWPT for this PASID. [`EINVAL`] if not.
fn check(state: &GroupState, device: &Device, pasid: u32, hwpt: AnyHwpt<'_>) -> Result {
    // A response that says failure would turn off page requests for the siblings of the device too.
    if hwpt.fault().is_some() && device.dev().shares_page_requests() {
        return Err(EINVAL);
    }
    // Some IOMMUs can use PASIDs only if all the HWPTs of a device were made for that.
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

/// What a device brings along that is to be attached.
struct Joining<'a> {
    node: RBTreeNode<u32, User<Device>>,
    reserved: Option<Reservation<'a>>,
}

/// Attaches a device to a HWPT.
///
/// # Errors
///
/// - [`EBUSY`] if this PASID of the device is attached;
/// - [`EINVAL`] if its group is attached to another HWPT, or the HWPT does not suit it;
/// - [`EADDRINUSE`] if something is mapped in a reserved region of the device;
/// - [`ENOMEM`], or what the IOMMU driver says.
///
/// The error comes with the candidate.
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
            // It is, unless an attach of another group has failed meanwhile and undone it.
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

/// What comes before a device is attached to `hwpt`. See [`attach`] for the errors.
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
    // User space chooses how many there are.
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

/// Attaches the group of a device that is attached to another HWPT, with all its devices.
///
/// Returns the HWPT that it was attached to before if that has ended with it: the caller finishes
/// it when it holds no locks.
///
/// # Errors
///
/// [`EINVAL`] if this PASID of the device is not attached; else as [`attach`]. Nothing has changed
/// then.
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
        // An interrupt that was set up in the meantime has its page in the old domain only. If it
        // cannot be mapped now, for lack of memory, the interrupt is lost; the group stays where it
        // is, as the way back could fail, too.
        let _ = set_up_msi(ctx, group, at.hwpt());
    }
    if let Some(reserved) = reserved {
        reserved.keep();
    }
    if let Some(ioas) = leaves {
        remove_reserved(&ioas, Which::All(&at.devices));
    }
    Ok(old)
}

/// The IOAS of `old` if the reserved regions move to another one, that of `new`.
fn leaves_ioas(old: AnyHwpt<'_>, pasid: u32, new: AnyHwpt<'_>) -> Option<Dependency<Ioas>> {
    let (old, new) = (old.paging().ioas(), new.paging().ioas());

    // The id of one that is being destroyed may be that of the other.
    (pasid == NO_PASID && old.as_ptr() != new.as_ptr()).then(|| old.another())
}

/// Prepares what `devices`, the group of `device`, need in the IOAS and the domain of `hwpt`: it
/// `moves` to another IOAS, or not.
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

/// Takes a device out of what its group is attached to, which is detached with the last one: `put`
/// puts the user of that.
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
        put(Attached::detach(state.remove(pasid)?.attached))
    } else {
        if at.attached.is_led_by(device) {
            if let Some(other) = at.devices.values().next() {
                at.attached.set_leader(other.another());
            }
        }
        None
    };
    // Not before the user is put: who maps something there may then destroy the HWPT.
    if pasid == NO_PASID {
        ioas.iopt.remove_reserved(device.dev());
    }
    left
}

/// Detaches a device. Its DMA is blocked then, if no other device of its group is attached. An
/// automatic HWPT ends with its last user.
///
/// Context: may sleep; takes the group lock, and then, without that, the mutex of the IOAS.
pub(crate) fn detach(ctx: &Context, device: &User<Device>, pasid: u32) {
    let mut state = device.group().lock();
    let last = leave(&mut state, device, pasid, |hwpt| hwpt.put_or_claim(ctx));

    drop(state);
    if let Some(last) = last {
        last.finish();
    }
}

/// Answers the page faults of a device that is about to be unbound, and that has been detached. If
/// other devices of its group are attached, its faults are still in their fault queues.
pub(super) fn answer_faults(device: &Device) {
    let state = device.group().lock();

    for fault in state.attached().filter_map(|at| at.hwpt().fault()) {
        fault.respond_to_device(device.dev());
    }
}

/// Detaches a device from a new HWPT, which is not published.
///
/// Its driver attaches, replaces and detaches it one after the other, so it is still attached to
/// that.
fn undo_attach(device: &User<Device>, pasid: u32) {
    let mut state = device.group().lock();

    leave(&mut state, device, pasid, |hwpt| {
        hwpt.put_unpublished();
        None::<()>
    });
}

/// What to do with a device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// See [`attach`].
    Attach,
    /// See [`replace`].
    Replace,
}

impl Op {
    /// Returns what has ended with that.
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

/// Does `op` with the HWPT or IOAS of this id, and sets the id to that of the HWPT.
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
    op: Op,
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
    // All locks are released, and what was found is put.
    if let Some(old) = old {
        old.finish();
    }
    Ok(())
}

/// What a device can be attached to.
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

/// Does `op` with a HWPT of the IOAS that the kernel manages, making one if none suits the device.
///
/// Returns the id of the HWPT, and what has ended: see [`replace`].
fn attach_to_ioas<'c>(
    ctx: &'c Context,
    device: &User<Device>,
    pasid: u32,
    ioas: &Ref<'_, Ioas>,
    op: Op,
) -> Result<(u32, Option<Destroying<'c, Context>>)> {
    let mut hwpts = loop {
        let hwpts = ioas.hwpts.lock();
        let mut last = None;

        // Such HWPTs differ in nothing but the devices that they suit.
        for hwpt in hwpts.auto(ctx, ioas) {
            let id = hwpt.id();

            match op.apply(ctx, device, pasid, KnownPaging::new(ctx, hwpt)) {
                Ok(old) => return Ok((id, old)),
                // What was attached to it has left meanwhile.
                Err((hwpt, err)) if hwpt.was_last() => {
                    last = Some((hwpt, err));
                    break;
                }
                // It does not suit the device.
                Err((_, err)) if err == EINVAL => continue,
                // Its last user has just given it up.
                Err((hwpt, _)) if hwpt.hwpt().is_claimed() => continue,
                Err((_, err)) => return Err(err),
            }
        }
        let Some((hwpt, err)) = last else {
            break hwpts;
        };
        // Its end takes the mutex.
        drop(hwpts);
        hwpt.end();
        if err != EINVAL {
            return Err(err);
        }
    };

    let mut new = NewPaging::auto(ctx, ioas, device)?;
    // Some IOMMU drivers complete a domain when it is attached: that comes before it is filled.
    if op == Op::Attach {
        attach(ctx, device, pasid, &mut new).map_err(|(new, err)| {
            new.forget_msi_window();
            err
        })?;
    }
    let new = match new.list(&mut hwpts) {
        Ok(new) => new,
        Err((new, err)) => {
            if op == Op::Attach {
                undo_attach(device, pasid);
            }
            // Nobody uses it any more.
            new.forget_msi_window();
            drop(new);
            return Err(err);
        }
    };
    let id = new.id();
    match op {
        Op::Attach => match new.publish_or_return() {
            Ok(()) => Ok((id, None)),
            Err((_new, err)) => {
                undo_attach(device, pasid);
                Err(err)
            }
        },
        Op::Replace => replace(ctx, device, pasid, new)
            .map(|old| (id, old))
            .map_err(|(_, err)| err),
    }
}
