// SPDX-License-Identifier: GPL-2.0

//! What the current task may do.

#[cfg(CONFIG_MULTIUSER)]
use kernel::bindings;

/// Whether the current task has the capability `cap` (`CAP_*`).
pub(crate) fn capable(cap: u32) -> bool {
    #[cfg(CONFIG_MULTIUSER)]
    // CAST: Capabilities are small numbers.
    // SAFETY: No requirements beyond a current task, which there always is.
    return unsafe { bindings::capable(cap as kernel::ffi::c_int) };
    // Without users, every task is the administrator's.
    #[cfg(not(CONFIG_MULTIUSER))]
    {
        let _ = cap;
        true
    }
}
