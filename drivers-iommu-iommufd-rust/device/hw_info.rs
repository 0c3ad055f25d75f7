// SPDX-License-Identifier: GPL-2.0

//! IOMMU_GET_HW_INFO: type and capabilities of the IOMMU of a device.
//!
//! Locks: none. No reference to the device is held while user memory is accessed, which can block:
//! unbinding would wait for it.
#![forbid(unsafe_code)]

use super::Device;
use crate::{
    command::Answer,
    context::Command,
    object::Owner as _,
    sys::{
        bound_device::wanted_hw_info,
        task::go_on, //
    }, //
};
use kernel::{
    bindings,
    iommu::group::Capability,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

const INPUT_TYPE: u32 = bindings::iommufd_hw_info_flags_IOMMU_HW_INFO_FLAG_INPUT_TYPE;

/// IOMMU_GET_HW_INFO.
pub(crate) fn get(cmd: &mut Command<'_, bindings::iommu_hw_info>) -> Result<Answer> {
    if cmd.flags & !INPUT_TYPE != 0 || cmd.__reserved != [0; 3] {
        return Err(EOPNOTSUPP);
    }
    // Without the flag the field is an output, and may hold anything.
    let kind = if cmd.flags & INPUT_TYPE != 0 {
        wanted_hw_info(cmd)
    } else {
        bindings::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_DEFAULT
    };
    let device = cmd.ctx().get::<Device>(cmd.dev_id)?;
    if device.is_noiommu() {
        return Err(EOPNOTSUPP);
    }

    let described = device.dev().ops().is_some_and(|ops| ops.hw_info.is_some());
    let (kind, data) = device.dev().hw_info(kind)?;
    // A driver that describes its IOMMU must return the type of the description.
    if kernel::warn_on_once!(
        described && kind == bindings::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_NONE
    ) {
        return Err(EOPNOTSUPP);
    }
    cmd.__bindgen_anon_1.out_data_type = kind;
    cmd.out_capabilities = capabilities(&device);
    // The supported PASIDs, even if PASID is not enabled: user space decides by this whether to
    // request HWPTs for use with PASIDs. The number is rounded down to a power of two.
    cmd.out_max_pasid_log2 = match device.dev().max_pasids() {
        0 => 0,
        // CAST: A logarithm of 32 bits.
        pasids => pasids.ilog2() as u8,
    };
    drop(device);

    write(cmd, &data)?;
    // The full length, which can be more than the buffer of user space.
    cmd.data_len = data.len().try_into().unwrap_or(u32::MAX);
    Ok(Answer::Success)
}

/// Copies the data to the buffer of user space, as much as fits, and clears the rest of the buffer.
fn write(cmd: &bindings::iommu_hw_info, data: &[u8]) -> Result {
    const ZEROS: [u8; 256] = [0; 256];
    // CAST: `usize` has at least 32 bits.
    let room = cmd.data_len as usize;
    // CAST: As `u64_to_user_ptr()`.
    let user = UserPtr::from_addr(cmd.data_uptr as usize);
    let mut writer = UserSlice::new(user, room).writer();

    let data = data.get(..room).unwrap_or(data);
    writer.write_slice(data)?;
    while !writer.is_empty() {
        go_on()?;
        let len = writer.len().min(ZEROS.len());
        writer.write_slice(&ZEROS[..len])?;
    }
    Ok(())
}

fn capabilities(device: &Device) -> u64 {
    use bindings::{
        iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING as DIRTY_TRACKING,
        iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED as PCI_ATS_NOT_SUPPORTED,
        iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_PASID_EXEC as PCI_PASID_EXEC,
        iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_PASID_PRIV as PCI_PASID_PRIV, //
    };
    let dev = device.dev();
    let mut caps = 0;

    if dev.can(Capability::DirtyTracking) {
        caps |= DIRTY_TRACKING;
    }
    if !dev.can(Capability::PciAts) {
        caps |= PCI_ATS_NOT_SUPPORTED;
    }
    // IOMMU drivers should enable PASID when they probe the device, if both sides support it. The
    // AMD driver enables and disables it when it attaches domains, so the answer depends on the
    // time.
    if dev.max_pasids() != 0 {
        // CAST: A negative value is an error.
        let bits = dev
            .pci_pasid_control()
            .map_or(0, |control| control.max(0) as u32);
        let enabled = bits & bindings::PCI_PASID_CTRL_ENABLE != 0;

        if enabled && bits & bindings::PCI_PASID_CTRL_EXEC != 0 {
            caps |= PCI_PASID_EXEC;
        }
        if enabled && bits & bindings::PCI_PASID_CTRL_PRIV != 0 {
            caps |= PCI_PASID_PRIV;
        }
    }
    u64::from(caps)
}
