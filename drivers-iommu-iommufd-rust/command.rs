// SPDX-License-Identifier: GPL-2.0

//! Execution of commands: reading the arguments and writing the response.
//!
//! User space passes a structure whose first field is its size. It is at least the size of the
//! first version of the command, and is negotiated by `UserSliceReader::read_struct()`. [`Command`]
//! is the kernel's copy of the structure, with its address in user memory.
//!
//! The arguments are read before the function of the command is called, and the response is written
//! after it has returned ([`Answer`]). Accesses to user memory can block for as long as user space
//! likes, and at those times no lock or reference is held that others wait for. A command that
//! creates objects writes the response in the step that publishes them, without sleeping
//! ([`Command::publish`]). If that needs a page fault, everything is undone, the page is faulted in
//! with nothing held, and the function is called again with the same arguments.
//!
//! Locks: none.
#![forbid(unsafe_code)]

use crate::{
    object::Publish,
    sys::{
        delay::Place,
        uapi::{
            Plain,
            Uapi, //
        }, //
    }, //
};
use core::ops::{
    Deref,
    DerefMut, //
};
use kernel::{
    prelude::*,
    transmute::AsBytes,
    uaccess::{
        nofault::{
            copy_to_user_nofault,
            fault_in_writeable, //
        },
        UserPtr,
        UserSlice, //
    }, //
};

/// A command in execution. Dereferences to the structure of the uAPI.
pub(crate) struct Command<'a, C, T> {
    ctx: &'a C,
    args: Plain<T>,
    user: UserPtr,
    user_size: u32,
    /// Set if writing the response in [`Self::publish`] needs a page fault.
    needs_fault: bool,
    /// The number of retries that are left.
    tries_left: u8,
}

impl<C, T> Deref for Command<'_, C, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.args.0
    }
}

impl<C, T> DerefMut for Command<'_, C, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.args.0
    }
}

impl<'a, C, T: Uapi> Command<'a, C, T> {
    /// Returns the context that the command is executed on.
    pub(crate) fn ctx(&self) -> &'a C {
        self.ctx
    }

    /// Returns the address of the structure in user memory.
    pub(crate) fn user(&self) -> UserPtr {
        self.user
    }

    /// Returns the size that user space has given, in bytes.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn user_size(&self) -> u32 {
        self.user_size
    }

    /// Returns the part of the structure that fits in the size from user space.
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

    /// Copies the structure back and publishes the objects that the command has created, in one
    /// step: both are done, or nothing. Called at the end of the function of a command; locks can
    /// be held.
    ///
    /// If the copy needs a page fault, the function is called again, so it must not have changed
    /// the arguments that it reads.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if something that the new object depends on is being destroyed.
    pub(crate) fn publish(&mut self, new: impl Publish) -> Result<Published> {
        let mut needs_fault = false;

        Place::Complete.delay();
        let result = new.publish(|| {
            copy_to_user_nofault(self.user, self.known()).inspect_err(|_| needs_fault = true)
        });

        self.needs_fault = needs_fault;
        result.map(|()| Published(()))
    }

    /// Faults the structure in, to copy it back without a page fault. Called with nothing held.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if that fails, or no retries are left.
    #[cold]
    fn prepare_retry(&mut self) -> Result {
        self.needs_fault = false;
        self.tries_left = self.tries_left.checked_sub(1).ok_or(EFAULT)?;
        fault_in_writeable(self.user, self.known().len())
    }
}

/// Returns the number of bytes up to the end of a field.
pub(crate) const fn end_of<T, F>(offset: usize, _field: fn(&T) -> &F) -> u32 {
    // CAST: The structures of the uAPI are small.
    (offset + size_of::<F>()) as u32
}

/// The result of the function of a command on success.
pub(crate) trait Outcome {
    /// Set if the command creates objects.
    const CREATES: bool = false;

    /// Writes the response, unless that is done already. Returns the value of the ioctl, which is
    /// not negative.
    fn finish<C, T: Uapi>(self, cmd: &Command<'_, C, T>) -> Result<isize>;
}

/// No response: the structure in user memory is not changed.
impl Outcome for () {
    fn finish<C, T: Uapi>(self, _cmd: &Command<'_, C, T>) -> Result<isize> {
        Ok(0)
    }
}

/// No response, but the ioctl returns a number.
impl Outcome for u32 {
    fn finish<C, T: Uapi>(self, _cmd: &Command<'_, C, T>) -> Result<isize> {
        // CAST: File descriptors and the like are less than 2^31.
        Ok(self as isize)
    }
}

/// A response to be written when the function of the command has returned.
pub(crate) enum Answer {
    /// The structure is copied back.
    Success,
    /// The structure is copied back, and the command fails.
    Failure(Error),
}

impl Outcome for Answer {
    fn finish<C, T: Uapi>(self, cmd: &Command<'_, C, T>) -> Result<isize> {
        cmd.respond()?;
        match self {
            Self::Success => Ok(0),
            Self::Failure(err) => Err(err),
        }
    }
}

/// A response, or none.
impl Outcome for Option<Answer> {
    fn finish<C, T: Uapi>(self, cmd: &Command<'_, C, T>) -> Result<isize> {
        self.map_or(Ok(0), |answer| answer.finish(cmd))
    }
}

/// The response is written and the created objects are published. Only [`Command::publish`] makes
/// one.
pub(crate) struct Published(());

impl Outcome for Published {
    const CREATES: bool = true;

    fn finish<C, T: Uapi>(self, _cmd: &Command<'_, C, T>) -> Result<isize> {
        Ok(0)
    }
}

/// The number of retries if the response needs a page fault. The page was present when the
/// arguments were read, so more than one retry means that it was reclaimed or unmapped again.
const RETRIES: u8 = 16;

/// Reads the arguments of one command and executes it.
pub(crate) fn execute<C, T: Uapi, R: Outcome>(
    ctx: &C,
    user: UserPtr,
    user_size: u32,
    min_size: u32,
    function: fn(&mut Command<'_, C, T>) -> Result<R>,
) -> Result<isize> {
    if user_size < min_size {
        return Err(EINVAL);
    }
    let args = UserSlice::new(user, user_size as usize)
        .reader()
        .read_struct()?;
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
