// SPDX-License-Identifier: GPL-2.0

//! What the current task may do.

use kernel::bindings;

/// Whether the current task has the capability `cap` (`CAP_*`).
pub(crate) fn capable(cap: u32) -> bool {
    // CAST: Capabilities are small numbers.
    // SAFETY: No requirements beyond a current task, which there always is.
    unsafe { bindings::capable(cap as kernel::ffi::c_int) }
}
