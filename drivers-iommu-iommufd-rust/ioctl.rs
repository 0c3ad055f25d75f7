// SPDX-License-Identifier: GPL-2.0

//! The commands of `/dev/iommu`.
//!
//! [`command`](crate::command) executes a command. This is the table: number, structure, last field
//! of the first version of the structure, and function.
//!
//! Locks: none.
#![forbid(unsafe_code)]

#[cfg(CONFIG_IOMMUFD_TEST)]
use crate::sys::test::{
    self,
    IOMMUFD_CMD_TEST, //
};
use crate::{
    command::{
        end_of,
        execute, //
    },
    context::{
        self,
        Command,
        Context, //
    },
    device,
    eventq,
    hwpt,
    ioas,
    vfio_compat,
    viommu, //
};
use kernel::{
    bindings,
    ioctl::{
        _IO,
        _IOC_NR, //
    },
    prelude::*,
    uaccess::{
        copy_struct::struct_size,
        UserPtr,
        UserSlice, //
    }, //
};

/// IOMMU_OPTION.
fn option(cmd: &mut Command<'_, bindings::iommu_option>) -> Result {
    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    match cmd.option_id {
        bindings::iommufd_option_IOMMU_OPTION_RLIMIT_MODE => {
            context::option_rlimit_mode(cmd.ctx(), cmd)?
        }
        bindings::iommufd_option_IOMMU_OPTION_HUGE_PAGES => {
            ioas::option_huge_pages(cmd.ctx(), cmd)?
        }
        _ => return Err(EOPNOTSUPP),
    }
    // The only output. Unlike other commands, this one does not write the rest of the structure.
    let offset = core::mem::offset_of!(bindings::iommu_option, val64);
    UserSlice::new(cmd.user().wrapping_byte_add(offset), size_of::<u64>())
        .writer()
        .write(&cmd.val64)
}

/// IOMMU_TEST_CMD.
#[cfg(CONFIG_IOMMUFD_TEST)]
fn test(cmd: &mut Command<'_, bindings::iommu_test_cmd>) -> Result<u32> {
    let (ctx, user, user_size) = (cmd.ctx(), cmd.user(), cmd.user_size());

    test::execute(&ctx.c, user, user_size, cmd)
}

/// Defines `dispatch()` from rows of number, structure, last field of the first version, function.
macro_rules! commands {
    ($($(#[$attr:meta])* $nr:path: $args:ident, $last:ident => $function:path;)*) => {
        /// The greatest number of a command.
        const LAST: u32 = {
            let mut last = bindings::IOMMUFD_CMD_BASE;
            $($(#[$attr])* {
                if $nr > last {
                    last = $nr;
                }
            })*
            last
        };

        /// Executes command number `nr`.
        fn dispatch(ctx: &Context, cmd: u32, nr: u32, user: UserPtr) -> Result<isize> {
            let user_size = struct_size(user)?;
            // The direction and size bits must be zero.
            if cmd != _IO(u32::from(bindings::IOMMUFD_TYPE), nr) {
                return Err(ENOIOCTLCMD);
            }
            match nr {
                $($(#[$attr])* $nr => execute(
                    ctx,
                    user,
                    user_size,
                    const {
                        end_of(
                            core::mem::offset_of!(bindings::$args, $last),
                            |args: &bindings::$args| &args.$last,
                        )
                    },
                    $function,
                ),)*
                _ => Err(ENOIOCTLCMD),
            }
        }
    };
}

commands! {
    bindings::IOMMUFD_CMD_DESTROY: iommu_destroy, id => context::destroy;
    bindings::IOMMUFD_CMD_FAULT_QUEUE_ALLOC: iommu_fault_alloc, out_fault_fd => eventq::fault_alloc;
    bindings::IOMMUFD_CMD_GET_HW_INFO: iommu_hw_info, __reserved => device::hw_info::get;
    bindings::IOMMUFD_CMD_HWPT_ALLOC: iommu_hwpt_alloc, __reserved => hwpt::alloc;
    bindings::IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP:
        iommu_hwpt_get_dirty_bitmap, data => hwpt::get_dirty_bitmap;
    bindings::IOMMUFD_CMD_HWPT_INVALIDATE: iommu_hwpt_invalidate, __reserved => hwpt::invalidate;
    bindings::IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING:
        iommu_hwpt_set_dirty_tracking, __reserved => hwpt::set_dirty_tracking;
    bindings::IOMMUFD_CMD_HW_QUEUE_ALLOC: iommu_hw_queue_alloc, length => viommu::hw_queue::alloc;
    bindings::IOMMUFD_CMD_IOAS_ALLOC: iommu_ioas_alloc, out_ioas_id => ioas::alloc;
    bindings::IOMMUFD_CMD_IOAS_ALLOW_IOVAS:
        iommu_ioas_allow_iovas, allowed_iovas => ioas::allow_iovas;
    bindings::IOMMUFD_CMD_IOAS_CHANGE_PROCESS:
        iommu_ioas_change_process, __reserved => ioas::change_process;
    bindings::IOMMUFD_CMD_IOAS_COPY: iommu_ioas_copy, src_iova => ioas::copy;
    bindings::IOMMUFD_CMD_IOAS_IOVA_RANGES:
        iommu_ioas_iova_ranges, out_iova_alignment => ioas::iova_ranges;
    bindings::IOMMUFD_CMD_IOAS_MAP: iommu_ioas_map, iova => ioas::map;
    bindings::IOMMUFD_CMD_IOAS_MAP_FILE: iommu_ioas_map_file, iova => ioas::map_file;
    bindings::IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA:
        iommu_ioas_noiommu_get_pa, out_phys => ioas::noiommu_get_pa;
    bindings::IOMMUFD_CMD_IOAS_UNMAP: iommu_ioas_unmap, length => ioas::unmap;
    bindings::IOMMUFD_CMD_OPTION: iommu_option, val64 => option;
    bindings::IOMMUFD_CMD_VDEVICE_ALLOC: iommu_vdevice_alloc, virt_id => viommu::vdevice::alloc;
    bindings::IOMMUFD_CMD_VEVENTQ_ALLOC:
        iommu_veventq_alloc, out_veventq_fd => eventq::veventq_alloc;
    bindings::IOMMUFD_CMD_VFIO_IOAS: iommu_vfio_ioas, __reserved => vfio_compat::ioas_command;
    bindings::IOMMUFD_CMD_VIOMMU_ALLOC: iommu_viommu_alloc, out_viommu_id => viommu::alloc;
    #[cfg(CONFIG_IOMMUFD_TEST)]
    IOMMUFD_CMD_TEST: iommu_test_cmd, last => test;
}

/// Executes an ioctl on `/dev/iommu`, or on `/dev/vfio/vfio` if this driver provides it.
///
/// # Errors
///
/// - [`EFAULT`] if the arguments cannot be read;
/// - [`ENOIOCTLCMD`] if there is no such command;
/// - [`EINVAL`] if the structure is smaller than the first version of the command;
/// - [`E2BIG`] if a field that this kernel does not support is not zero;
/// - what the command returns.
///
/// Context: process context; may sleep.
pub(crate) fn ioctl(ctx: &Context, cmd: u32, arg: usize) -> Result<isize> {
    let nr = _IOC_NR(cmd);
    if !(bindings::IOMMUFD_CMD_BASE..=LAST).contains(&nr) {
        return vfio_compat::ioctl(ctx, cmd, arg);
    }
    dispatch(ctx, cmd, nr, UserPtr::from_addr(arg))
}
