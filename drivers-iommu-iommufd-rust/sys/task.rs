// SPDX-License-Identifier: GPL-2.0

//! The current task: its privileges, the accounting of its pinned memory, pending SIGKILL.

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

/// Returns whether the current task is being killed, so that long operations end early. The task
/// never returns to user space, which cannot observe the error.
///
/// As `fatal_signal_pending()`.
pub(crate) fn is_being_killed() -> bool {
    const KILL: kernel::ffi::c_ulong = 1 << (bindings::SIGKILL - 1);
    let task = current!();

    // SAFETY: The task is valid. Others set bits of the word meanwhile, and any value will do.
    let pending = || unsafe { (&raw const (*task.as_ptr()).pending.signal.sig[0]).read_volatile() };
    task.signal_pending() && pending() & KILL != 0
}

/// Called in each iteration of a loop whose length user space chooses. May sleep.
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
