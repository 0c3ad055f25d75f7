// SPDX-License-Identifier: GPL-2.0

//! The current task: its privileges, the accounting of its pinned memory, and whether it is killed.

use kernel::{
    bindings,
    current,
    prelude::*,
    task::might_sleep, //
};

pub(crate) use kernel::{
    capability::capable,
    mm::account::AccountMode, //
};

/// Whether the current task is being killed: what takes long should give up. It never returns to
/// user space, so nobody sees the error.
///
/// As `fatal_signal_pending()`.
pub(crate) fn is_being_killed() -> bool {
    const KILL: kernel::ffi::c_ulong = 1 << (bindings::SIGKILL - 1);
    let task = current!();

    // SAFETY: The task is valid. Others set bits of the word meanwhile, and any value will do.
    let pending = || unsafe { (&raw const (*task.as_ptr()).pending.signal.sig[0]).read_volatile() };
    task.signal_pending() && pending() & KILL != 0
}

/// Asked in each turn of a loop whose length user space chooses. May sleep.
///
/// # Errors
///
/// [`EINTR`] if the current task is being killed.
pub(crate) fn go_on() -> Result {
    might_sleep();
    if is_being_killed() {
        return Err(EINTR);
    }
    Ok(())
}
