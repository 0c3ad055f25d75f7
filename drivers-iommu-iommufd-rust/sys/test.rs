// SPDX-License-Identifier: GPL-2.0

//! The hooks of the mock IOMMU driver of the selftests, `drivers/iommu/iommufd/selftest.c`, which
//! stays C.
//!
//! It is part of the module if `CONFIG_IOMMUFD_TEST` is set, and provides injected failures, a
//! limit for temporary memory, and the mock device. Without the option the hooks are constants.

use super::ctx::CFields;
#[cfg(CONFIG_IOMMUFD_TEST)]
use kernel::uaccess::UserPtr;
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        ordering::{
            Acquire,
            Release, //
        },
        Atomic, //
    }, //
};

/// The mock driver, which is started while this exists.
///
/// # Invariants
///
/// There is at most one, and only while [`STARTED`] is true.
pub(crate) struct Mock(());

/// The mock driver has been started.
static STARTED: Atomic<bool> = Atomic::new(false);

impl Mock {
    /// Starts the mock driver, if it is configured.
    ///
    /// # Errors
    ///
    /// Those of the mock driver; [`EBUSY`] if it was started already.
    pub(crate) fn new() -> Result<Self> {
        if STARTED.xchg(true, Acquire) {
            return Err(EBUSY);
        }
        #[cfg(CONFIG_IOMMUFD_TEST)]
        // SAFETY: The mock driver was not started yet, or stopped, by the type invariants.
        kernel::error::to_result(unsafe { bindings::iommufd_shim_test_init() })
            .inspect_err(|_| STARTED.store(false, Release))?;
        // INVARIANT: It was just set.
        Ok(Self(()))
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        // SAFETY: The mock driver was started, and is not used any more when the module exits.
        unsafe {
            bindings::iommufd_test_exit()
        };
        STARTED.store(false, Release);
    }
}

/// Returns whether the caller should fail now, to test its error handling.
#[inline]
pub(crate) fn should_fail() -> bool {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    // SAFETY: No requirements.
    return unsafe { bindings::iommufd_should_fail() };
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    false
}

/// Returns the greatest size in bytes of a temporary allocation.
#[inline]
pub(crate) fn memory_limit() -> usize {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    // SAFETY: A test may change the value at any time; either is fine.
    return unsafe { (&raw const bindings::iommufd_test_memory_limit).read_volatile() };
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    65536
}

/// Converts an area number in `iova`, which a flag marks, to an IOVA. For fuzzers.
#[inline]
pub(crate) fn convert_iova(ctx: &CFields, ioas_id: u32, iova: &mut u64, flags: &mut u32) {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    {
        let mut ucmd = bindings::iommufd_ucmd {
            ictx: ctx.as_ptr(),
            ..Default::default()
        };
        // SAFETY: Only the context of the command is used, and no lock is held.
        unsafe { bindings::iommufd_test_syz_conv_iova_id(&mut ucmd, ioas_id, iova, flags) };
    }
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    let _ = (ctx, ioas_id, iova, flags);
}

/// Returns whether the device is one of the mock driver.
///
/// # Safety
///
/// `dev` must point to a device that lives during the call.
pub(crate) unsafe fn is_mock_dev(dev: *mut bindings::device) -> bool {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    // SAFETY: By the requirements of this function.
    return unsafe { bindings::iommufd_selftest_is_mock_dev(dev) };
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    {
        let _ = dev;
        false
    }
}

/// The number of IOMMU_TEST_CMD, a macro that bindgen does not evaluate.
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) const IOMMUFD_CMD_TEST: u32 = bindings::IOMMUFD_CMD_BASE + 32;

/// Has the mock driver execute IOMMU_TEST_CMD, whose structure is at `user` in user memory and has
/// `user_size` bytes.
///
/// Some of its operations return a file descriptor.
///
/// # Errors
///
/// Those of the mock driver.
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) fn execute(
    ctx: &CFields,
    user: UserPtr,
    user_size: u32,
    cmd: &mut bindings::iommu_test_cmd,
) -> Result<u32> {
    let mut ucmd = bindings::iommufd_ucmd {
        ictx: ctx.as_ptr(),
        ubuffer: user.as_mut_ptr(),
        user_size,
        cmd: core::ptr::from_mut(cmd).cast(),
    };
    // SAFETY: `ucmd` describes a command that has been read, and lives during the call.
    let rc = unsafe { bindings::iommufd_test(&mut ucmd) };

    u32::try_from(rc).map_err(|_| Error::from_errno(rc))
}
