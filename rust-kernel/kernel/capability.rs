// SPDX-License-Identifier: GPL-2.0

//! Capabilities: the privileges of root, one by one.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h)

use crate::{
    bindings,
    prelude::*, //
};

/// A capability: `CAP_*` in C.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capability(c_int);

// CAST: Capabilities are small numbers.
impl Capability {
    /// May lock and pin any amount of memory.
    pub const IPC_LOCK: Self = Self(bindings::CAP_IPC_LOCK as c_int);
    /// May access hardware directly.
    pub const SYS_RAWIO: Self = Self(bindings::CAP_SYS_RAWIO as c_int);
    /// May exceed and change resource limits.
    pub const SYS_RESOURCE: Self = Self(bindings::CAP_SYS_RESOURCE as c_int);
}

/// Returns whether the current task has the capability `cap` in the initial user namespace. If so,
/// the task is marked as having used a privilege (`PF_SUPERPRIV`).
///
/// Security modules can refuse, and audit the request: to be called only where the answer decides.
///
/// Context: process context.
///
/// # Examples
///
/// ```
/// use kernel::capability::{capable, Capability};
///
/// # #[expect(dead_code)]
/// fn raise_limit(limit: &mut u32, to: u32) -> Result {
///     if to > *limit && !capable(Capability::SYS_RESOURCE) {
///         return Err(EPERM);
///     }
///     *limit = to;
///     Ok(())
/// }
///
/// // Kernel threads have all capabilities.
/// assert!(capable(Capability::IPC_LOCK));
/// ```
pub fn capable(cap: Capability) -> bool {
    #[cfg(CONFIG_MULTIUSER)]
    // SAFETY: `cap` is a capability that exists. There always is a current task.
    return unsafe { bindings::capable(cap.0) };
    // Without users, every task has every capability.
    #[cfg(not(CONFIG_MULTIUSER))]
    {
        let _ = cap;
        true
    }
}
