// SPDX-License-Identifier: GPL-2.0

//! IOMMU_HWPT_ALLOC: a paging HWPT on an IOAS, or a nested one on a paging HWPT or a vIOMMU.
//!
//! Locks: the mutex of the IOAS, while a paging HWPT is filled and published.
#![forbid(unsafe_code)]

use super::{
    nested::NestedDomain,
    Hwpt,
    HwptNested,
    HwptPaging,
    NewPaging,
    ALLOC_PASID,
    FAULT_ID_VALID, //
};
use crate::{
    command::Published,
    context::{
        Command,
        Context, //
    },
    device::Device,
    eventq::Fault,
    ioas::Ioas,
    object::{
        Dependency,
        LateDependency,
        Object,
        Owner as _,
        Reserved, //
    },
    sys::{
        hwpt::{
            link,
            user_data, //
        },
        iopf::route, //
    },
    viommu::Viommu, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// Returns the arguments of a request for a nested HWPT that the IOMMU driver gets: flags and data.
///
/// # Errors
///
/// [`EOPNOTSUPP`] for unknown flags, or without data.
fn for_driver(
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<(u32, &bindings::iommu_user_data)> {
    if flags & !(FAULT_ID_VALID | ALLOC_PASID) != 0 {
        return Err(EOPNOTSUPP);
    }
    Ok((flags & !FAULT_ID_VALID, data.ok_or(EOPNOTSUPP)?))
}

/// Makes a nested HWPT on top of a parent.
fn new_nested<'a>(
    ctx: &'a Context,
    parent: Dependency<HwptPaging>,
    device: &Device,
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<Reserved<'a, HwptNested>> {
    let ops = device.ops().ok_or(ENODEV)?;
    let (driver_flags, data) = for_driver(flags, data)?;
    if ops.domain_alloc_nested.is_none() {
        return Err(EOPNOTSUPP);
    }
    if parent.auto || !parent.nest_parent || !parent.paging.is_owned_by(ops) {
        return Err(EINVAL);
    }
    let domain = NestedDomain::new(device.dev(), parent, driver_flags, data)?;

    reserve_nested(ctx, domain, flags)
}

/// Makes a nested HWPT for a vIOMMU.
fn new_nested_of_viommu<'a>(
    ctx: &'a Context,
    viommu: Dependency<Viommu>,
    device: &Device,
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<Reserved<'a, HwptNested>> {
    if !device.iommu().is_some_and(|iommu| viommu.is_on(iommu)) {
        return Err(EINVAL);
    }
    let (driver_flags, data) = for_driver(flags, data)?;
    let parent = viommu.hwpt().another();
    let domain = NestedDomain::of_viommu(viommu, parent, driver_flags, data)?;

    reserve_nested(ctx, domain, flags)
}

fn reserve_nested<'a>(
    ctx: &'a Context,
    domain: NestedDomain,
    flags: u32,
) -> Result<Reserved<'a, HwptNested>> {
    let hwpt = ctx.reserve(try_init!(HwptNested {
        domain,
        pasid_compatible: flags & ALLOC_PASID != 0,
        fault: LateDependency::new(),
    }? Error))?;
    link(&*hwpt);
    Ok(hwpt)
}

/// IOMMU_HWPT_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_hwpt_alloc>) -> Result<Published> {
    const NONE: u32 = bindings::iommu_hwpt_data_type_IOMMU_HWPT_DATA_NONE;

    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    if (cmd.data_type == NONE) != (cmd.data_len == 0) {
        return Err(EINVAL);
    }
    let data = user_data(cmd.data_type, cmd.data_uptr, cmd.data_len);
    let data = data.as_ref();
    let ctx = cmd.ctx();
    let device = ctx.get::<Device>(cmd.dev_id)?;
    let on = ctx.get_any(cmd.pt_id).map_err(|_| EINVAL)?;

    let on = match on.downcast::<Ioas>() {
        Ok(ioas) => {
            // The driver reads user memory, so this is done without the mutex.
            let hwpt = NewPaging::new(ctx, &ioas, &device, cmd.flags, data, false)?;
            // Pinning the mappings of the IOAS can block for as long as user space chooses, and
            // unbinding the device must not wait for that.
            drop(device);
            let mut hwpts = ioas.hwpts.lock();
            let mut hwpt = hwpt
                .list(&mut hwpts)
                .map_err(|(_, err)| lookup_error(&ioas, err))?;

            connect_fault_queue(cmd, &mut hwpt.hwpt)?;
            cmd.out_hwpt_id = hwpt.id();
            return cmd.publish(hwpt).map_err(|err| lookup_error(&ioas, err));
        }
        Err(other) => other,
    };
    match on.downcast::<HwptPaging>() {
        Ok(parent) => {
            let hwpt = new_nested(ctx, parent.dependency(), &device, cmd.flags, data)?;

            publish_nested(cmd, hwpt).map_err(|err| lookup_error(&parent, err))
        }
        Err(other) => {
            let viommu = other.downcast::<Viommu>().map_err(|_| EINVAL)?;
            let hwpt = new_nested_of_viommu(ctx, viommu.dependency(), &device, cmd.flags, data)?;

            publish_nested(cmd, hwpt).map_err(|err| lookup_error(&viommu, err))
        }
    }
}

fn publish_nested(
    cmd: &mut Command<'_, bindings::iommu_hwpt_alloc>,
    mut hwpt: Reserved<'_, HwptNested>,
) -> Result<Published> {
    connect_fault_queue(cmd, &mut hwpt)?;
    cmd.out_hwpt_id = hwpt.id();
    cmd.publish(hwpt)
}

/// Connects the fault queue, if one is requested.
fn connect_fault_queue<T: Hwpt>(
    cmd: &Command<'_, bindings::iommu_hwpt_alloc>,
    hwpt: &mut Reserved<'_, T>,
) -> Result {
    if cmd.flags & FAULT_ID_VALID == 0 {
        return Ok(());
    }
    let fault = cmd.ctx().get::<Fault>(cmd.fault_id)?.dependency();

    hwpt.add_dependency(|hwpt| hwpt.fault(), fault)?;
    route(&**hwpt);
    Ok(())
}

/// Returns the error for a failure to publish a HWPT on `on`: if that is being destroyed, the error
/// of a failed lookup, else `err`.
fn lookup_error<T>(on: &Object<T>, err: Error) -> Error {
    if on.is_claimed() {
        EINVAL
    } else {
        err
    }
}
