// SPDX-License-Identifier: GPL-2.0

//! The commands of `/dev/iommu`.
//!
//! User space passes a structure whose first field is its size. The size may be any from the end of
//! the last field that the first version of the command had ([`commands!`] names it), and is
//! negotiated by [`copy_struct_from_user()`]. [`Command`] is the kernel's copy of it, together with
//! the way back.
//!
//! The arguments are read before the function of the command is called, and the answer is written
//! after it has returned ([`Answer`]): user memory can make that wait for as long as user space
//! likes, and by then nothing is held that anybody waits for. A command that creates objects is
//! answered in the step that publishes them, without sleeping ([`Command::publish`]). If that needs
//! a page fault, everything is undone, the page is faulted in with nothing held, and the function
//! is called again, with the same arguments.
//!
//! Locks: none.
#![forbid(unsafe_code)]

use crate::{
    context::{
        self,
        Context, //
    },
    device,
    eventq,
    hwpt,
    ioas,
    object::Publish,
    sys::uapi::{
        Plain,
        Uapi, //
    },
    vfio_compat,
    viommu, //
};
use core::ops::{
    Deref,
    DerefMut, //
};
use kernel::{
    bindings,
    ioctl::{
        _IO,
        _IOC_NR, //
    },
    prelude::*,
    transmute::AsBytes,
    uaccess::{
        copy_struct::{
            copy_struct_from_user,
            struct_size, //
        },
        nofault::{
            copy_to_user_nofault,
            fault_in_writeable, //
        },
        UserPtr,
        UserSlice, //
    }, //
};

/// A command in execution. Dereferences to the structure of the uAPI.
pub(crate) struct Command<'a, T> {
    ctx: &'a Context,
    args: Plain<T>,
    user: UserPtr,
    user_size: u32,
    /// The answer of [`Self::publish`] needs a page fault.
    needs_fault: bool,
    /// How often the command can be tried again.
    tries_left: u8,
}

impl<T> Deref for Command<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.args.0
    }
}

impl<T> DerefMut for Command<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.args.0
    }
}

impl<'a, T: Uapi> Command<'a, T> {
    /// The context that the command is executed on.
    pub(crate) fn ctx(&self) -> &'a Context {
        self.ctx
    }

    /// Where user space has the structure.
    pub(crate) fn user(&self) -> UserPtr {
        self.user
    }

    /// The size that user space knows the structure by, in bytes.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn user_size(&self) -> u32 {
        self.user_size
    }

    /// The structure as far as user space knows it.
    fn known(&self) -> &[u8] {
        let bytes = self.args.as_bytes();

        &bytes[..bytes.len().min(self.user_size as usize)]
    }

    /// Copies the structure back.
    ///
    /// # Errors
    ///
    /// [`EFAULT`].
    fn respond(&self) -> Result {
        let bytes = self.known();

        UserSlice::new(self.user, bytes.len())
            .writer()
            .write_slice(bytes)
    }

    /// Copies the structure back and publishes what the command has created, in one step: both are
    /// done, or nothing. It is the last thing that the function of a command does, and can be
    /// called with locks held.
    ///
    /// If the structure cannot be copied without a page fault, the function is called again, so it
    /// must not have changed what it reads of the arguments.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if something that the new object depends on is being destroyed.
    pub(crate) fn publish(&mut self, new: impl Publish) -> Result<Published> {
        let mut needs_fault = false;
        let result = new.publish(|| {
            copy_to_user_nofault(self.user, self.known()).inspect_err(|_| needs_fault = true)
        });

        self.needs_fault = needs_fault;
        result.map(|()| Published(()))
    }

    /// Makes it possible to copy the structure back without a page fault. To be called with nothing
    /// held.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if that is not possible, or was in vain too often.
    #[cold]
    fn prepare_retry(&mut self) -> Result {
        self.needs_fault = false;
        self.tries_left = self.tries_left.checked_sub(1).ok_or(EFAULT)?;
        fault_in_writeable(self.user, self.known().len())
    }
}

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
    // The only output. Unlike other commands, this one leaves the rest of the structure alone.
    let offset = core::mem::offset_of!(bindings::iommu_option, val64);
    UserSlice::new(cmd.user().wrapping_byte_add(offset), size_of::<u64>())
        .writer()
        .write(&cmd.val64)
}

/// The number of bytes up to the end of a field.
const fn end_of<T, F>(offset: usize, _field: fn(&T) -> &F) -> u32 {
    // CAST: The structures of the uAPI are small.
    (offset + size_of::<F>()) as u32
}

/// What the function of a command returns on success.
trait Outcome {
    /// Whether the command creates objects.
    const CREATES: bool = false;

    /// Answers the command, if that remains to be done. Returns the value of the ioctl, which is
    /// not negative.
    fn finish<T: Uapi>(self, cmd: &Command<'_, T>) -> Result<isize>;
}

/// The structure of user space stays as it is.
impl Outcome for () {
    fn finish<T: Uapi>(self, _cmd: &Command<'_, T>) -> Result<isize> {
        Ok(0)
    }
}

/// The structure of user space stays as it is, and the ioctl returns a number.
impl Outcome for u32 {
    fn finish<T: Uapi>(self, _cmd: &Command<'_, T>) -> Result<isize> {
        // CAST: File descriptors and the like are less than 2^31.
        Ok(self as isize)
    }
}

/// The command is to be answered, when its function holds nothing any more.
pub(crate) enum Answer {
    /// The structure is copied back.
    Success,
    /// The structure is copied back, and the command fails all the same.
    Failure(Error),
}

impl Outcome for Answer {
    fn finish<T: Uapi>(self, cmd: &Command<'_, T>) -> Result<isize> {
        cmd.respond()?;
        match self {
            Self::Success => Ok(0),
            Self::Failure(err) => Err(err),
        }
    }
}

/// The command may be to be answered.
impl Outcome for Option<Answer> {
    fn finish<T: Uapi>(self, cmd: &Command<'_, T>) -> Result<isize> {
        self.map_or(Ok(0), |answer| answer.finish(cmd))
    }
}

/// The command has been answered, and what it has created is published. Only [`Command::publish`]
/// makes one.
pub(crate) struct Published(());

impl Outcome for Published {
    const CREATES: bool = true;

    fn finish<T: Uapi>(self, _cmd: &Command<'_, T>) -> Result<isize> {
        Ok(0)
    }
}

/// How often a command is tried again whose answer needs a page fault each time. The arguments were
/// read from the same memory, so the page is there unless somebody takes it away again.
const RETRIES: u8 = 16;

/// Reads the arguments of one command and executes it.
fn execute<T: Uapi, R: Outcome>(
    ctx: &Context,
    user: UserPtr,
    user_size: u32,
    min_size: u32,
    function: fn(&mut Command<'_, T>) -> Result<R>,
) -> Result<isize> {
    if user_size < min_size {
        return Err(EINVAL);
    }
    let args = copy_struct_from_user(user, user_size as usize)?;
    let mut cmd = Command {
        ctx,
        args,
        user,
        user_size,
        needs_fault: false,
        tries_left: RETRIES,
    };

    loop {
        let result = function(&mut cmd);

        if !R::CREATES || !cmd.needs_fault {
            return result?.finish(&cmd);
        }
        cmd.prepare_retry()?;
    }
}

/// Defines [`dispatch`] from rows of number, structure, last field of the first version, function.
macro_rules! commands {
    ($($(#[$attr:meta])* $nr:path: $args:ident, $last:ident => $function:path;)*) => {
        /// The highest number of a command.
        const LAST: u32 = {
            let mut last = bindings::IOMMUFD_CMD_BASE;
            $($(#[$attr])* {
                if $nr > last {
                    last = $nr;
                }
            })*
            last
        };

        /// Executes the command of number `nr`.
        fn dispatch(ctx: &Context, cmd: u32, nr: u32, user: UserPtr) -> Result<isize> {
            let user_size = struct_size(user)?;
            // The direction and size bits are not in use: they must be zero.
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
    bindings::IOMMUFD_CMD_DESTROY: iommu_destroy, id => Context::destroy_command;
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
    crate::sys::test::IOMMUFD_CMD_TEST: iommu_test_cmd, last => crate::sys::test::command;
}

/// Executes an ioctl on `/dev/iommu`, or on `/dev/vfio/vfio` if this driver provides it.
///
/// # Errors
///
/// - [`EFAULT`] if the arguments cannot be read;
/// - [`ENOIOCTLCMD`] for a number that is not one of a command;
/// - [`EINVAL`] if the structure is smaller than the first version of the command;
/// - [`E2BIG`] if it sets something that this kernel does not know;
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
