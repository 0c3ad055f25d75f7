// SPDX-License-Identifier: GPL-2.0

//! Commands of user space: from a structure in its memory to the answer.
//!
//! User space passes a structure whose first field is its size. The size may be any from the end of
//! the last field that the first version of the command had, and is negotiated by
//! `UserSliceReader::read_struct()`. [`Command`] is the kernel's copy of it, together with the way
//! back.
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
    object::Publish,
    sys::uapi::{
        Plain,
        Uapi, //
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
    /// The answer of [`Self::publish`] needs a page fault.
    needs_fault: bool,
    /// How often the command can be tried again.
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
    /// What the command is executed on: a context.
    pub(crate) fn ctx(&self) -> &'a C {
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

/// The number of bytes up to the end of a field.
pub(crate) const fn end_of<T, F>(offset: usize, _field: fn(&T) -> &F) -> u32 {
    // CAST: The structures of the uAPI are small.
    (offset + size_of::<F>()) as u32
}

/// What the function of a command returns on success.
pub(crate) trait Outcome {
    /// Whether the command creates objects.
    const CREATES: bool = false;

    /// Answers the command, if that remains to be done. Returns the value of the ioctl, which is
    /// not negative.
    fn finish<C, T: Uapi>(self, cmd: &Command<'_, C, T>) -> Result<isize>;
}

/// The structure of user space stays as it is.
impl Outcome for () {
    fn finish<C, T: Uapi>(self, _cmd: &Command<'_, C, T>) -> Result<isize> {
        Ok(0)
    }
}

/// The structure of user space stays as it is, and the ioctl returns a number.
impl Outcome for u32 {
    fn finish<C, T: Uapi>(self, _cmd: &Command<'_, C, T>) -> Result<isize> {
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
    fn finish<C, T: Uapi>(self, cmd: &Command<'_, C, T>) -> Result<isize> {
        cmd.respond()?;
        match self {
            Self::Success => Ok(0),
            Self::Failure(err) => Err(err),
        }
    }
}

/// The command may be to be answered.
impl Outcome for Option<Answer> {
    fn finish<C, T: Uapi>(self, cmd: &Command<'_, C, T>) -> Result<isize> {
        self.map_or(Ok(0), |answer| answer.finish(cmd))
    }
}

/// The command has been answered, and what it has created is published. Only [`Command::publish`]
/// makes one.
pub(crate) struct Published(());

impl Outcome for Published {
    const CREATES: bool = true;

    fn finish<C, T: Uapi>(self, _cmd: &Command<'_, C, T>) -> Result<isize> {
        Ok(0)
    }
}

/// How often a command is tried again whose answer needs a page fault each time. The arguments were
/// read from the same memory, so the page is there unless somebody takes it away again.
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
