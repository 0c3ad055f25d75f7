// SPDX-License-Identifier: GPL-2.0

//! The mock IOMMU driver of the selftests, `drivers/iommu/iommufd/selftest.c`, which stays C.
//!
//! It is part of the module if `CONFIG_IOMMUFD_TEST` is set. It uses the objects of this driver
//! through the functions that are exported here, and provides hooks: injected failures, a limit for
//! temporary memory, and the mock device. Without the option the hooks are constants.
//!
//! Contract: `selftest.c` creates objects of type `IOMMUFD_OBJ_SELFTEST` only, follows each
//! creation by one of finalize and abort, and puts each object that it gets.

use crate::context::Context;
use kernel::{
    bindings,
    prelude::*, //
};

/// The mock driver: it is there while this lives.
pub(crate) struct Mock(());

impl Mock {
    /// Starts the mock driver, if it is configured.
    ///
    /// # Errors
    ///
    /// What the mock driver says.
    pub(crate) fn new() -> Result<Self> {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        // SAFETY: Called once, from the module init function.
        kernel::error::to_result(unsafe { bindings::iommufd_shim_test_init() })?;
        Ok(Self(()))
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        // SAFETY: The mock driver was started, and nobody uses it when the module exits.
        unsafe {
            bindings::iommufd_test_exit()
        };
    }
}

/// Whether the caller should fail now, to test how it does.
#[inline]
pub(crate) fn should_fail() -> bool {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    // SAFETY: No requirements.
    return unsafe { bindings::iommufd_should_fail() };
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    false
}

/// How many bytes a temporary allocation may have.
#[inline]
pub(crate) fn memory_limit() -> usize {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    // SAFETY: A test may change the value at any time; either is fine.
    return unsafe { (&raw const bindings::iommufd_test_memory_limit).read_volatile() };
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    65536
}

/// Lets a test name an IOVA by the number of its area, in `flags`. For fuzzers.
#[inline]
pub(crate) fn convert_iova(ctx: &Context, ioas_id: u32, iova: &mut u64, flags: &mut u32) {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    {
        let mut ucmd = bindings::iommufd_ucmd {
            ictx: ctx.as_ptr(),
            ..Default::default()
        };
        // SAFETY: Of the command only the context is used, and no lock is held.
        unsafe { bindings::iommufd_test_syz_conv_iova_id(&mut ucmd, ioas_id, iova, flags) };
    }
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    let _ = (ctx, ioas_id, iova, flags);
}

/// Whether the device is one of the mock driver.
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

#[cfg(CONFIG_IOMMUFD_TEST)]
mod mock {
    use crate::{
        context::Context,
        ioctl::Command,
        object::{
            Any,
            Kind,
            Ref,
            Reserved,
            WriteSide, //
        }, //
    };
    use kernel::{
        bindings,
        prelude::*, //
    };

    /// An object that belongs to the mock driver. Its structure is known to C only, which makes it
    /// by `_iommufd_object_alloc()`.
    pub(crate) struct Selftest(());

    impl Kind for Selftest {
        fn destroy(this: WriteSide<'_, Self>) {
            // SAFETY: The mock driver created the object, and nobody else uses it.
            unsafe { bindings::iommufd_selftest_destroy(this.as_ptr()) };
        }
    }

    /// Builds the view of a command that C has.
    fn c_command<R>(
        cmd: &mut Command<'_, bindings::iommu_test_cmd>,
        f: impl FnOnce(*mut bindings::iommufd_ucmd) -> R,
    ) -> R {
        let mut ucmd = bindings::iommufd_ucmd {
            ictx: cmd.ctx().as_ptr(),
            ubuffer: cmd.user().as_mut_ptr(),
            user_size: cmd.user_size(),
            cmd: core::ptr::from_mut(&mut **cmd).cast(),
        };
        f(&mut ucmd)
    }

    /// The number of IOMMU_TEST_CMD, a macro that bindgen does not evaluate.
    pub(crate) const IOMMUFD_CMD_TEST: u32 = bindings::IOMMUFD_CMD_BASE + 32;

    /// IOMMU_TEST_CMD.
    ///
    /// Some of its operations return a file descriptor.
    pub(crate) fn command(cmd: &mut Command<'_, bindings::iommu_test_cmd>) -> Result<u32> {
        c_command(cmd, |ucmd| {
            // SAFETY: `ucmd` describes a command that has been read, and lives during the call.
            let rc = unsafe { bindings::iommufd_test(ucmd) };
            u32::try_from(rc).map_err(|_| Error::from_errno(rc))
        })
    }

    /// Finds an object and takes its read side. Returns an error pointer if there is none.
    ///
    /// # Safety
    ///
    /// `ictx` must be a live context during the call.
    #[export]
    pub(crate) unsafe extern "C" fn iommufd_get_object(
        ictx: *mut bindings::iommufd_ctx,
        id: u32,
        kind: bindings::iommufd_object_type,
    ) -> *mut bindings::iommufd_object {
        // SAFETY: By the requirements of this function.
        let ctx = unsafe { Context::from_ptr(ictx) };
        match ctx.get_any(id) {
            Ok(object)
                if kind == bindings::iommufd_object_type_IOMMUFD_OBJ_ANY
                    || kind == object.kind() =>
            {
                object.into_raw()
            }
            _ => ENOENT.to_ptr(),
        }
    }

    /// Puts a read side.
    ///
    /// # Safety
    ///
    /// `obj` must come from `iommufd_get_object()` with the same context, once.
    #[export]
    pub(crate) unsafe extern "C" fn iommufd_put_object(
        ictx: *mut bindings::iommufd_ctx,
        obj: *mut bindings::iommufd_object,
    ) {
        // SAFETY: By the requirements of this function.
        drop(unsafe { Ref::<Any>::from_raw(Context::from_ptr(ictx), obj) });
    }

    /// Allocates an object of `size` bytes that nobody sees yet, or returns an error pointer.
    ///
    /// # Safety
    ///
    /// `ictx` must be a live context until the object is finalized or aborted.
    #[export]
    pub(crate) unsafe extern "C" fn _iommufd_object_alloc(
        ictx: *mut bindings::iommufd_ctx,
        size: usize,
        kind: bindings::iommufd_object_type,
    ) -> *mut bindings::iommufd_object {
        if kind != bindings::iommufd_object_type_IOMMUFD_OBJ_SELFTEST {
            return EINVAL.to_ptr();
        }
        // SAFETY: By the requirements of this function.
        let ctx = unsafe { Context::from_ptr(ictx) };
        match ctx.reserve_sized(size, Ok(Selftest(()))) {
            Ok(object) => object.into_raw(),
            Err(err) => err.to_ptr(),
        }
    }

    /// Publishes an object.
    ///
    /// # Safety
    ///
    /// `obj` must come from `_iommufd_object_alloc()` with the same context, once.
    #[export]
    pub(crate) unsafe extern "C" fn iommufd_object_finalize(
        ictx: *mut bindings::iommufd_ctx,
        obj: *mut bindings::iommufd_object,
    ) {
        // SAFETY: By the requirements of this function.
        let object = unsafe { Reserved::<Selftest>::from_raw(Context::from_ptr(ictx), obj) };

        // It depends on nothing.
        kernel::warn_on!(object.publish(|| Ok(())).is_err());
    }

    /// Frees an object that nobody has seen.
    ///
    /// # Safety
    ///
    /// `obj` must come from `_iommufd_object_alloc()` with the same context, once.
    #[export]
    pub(crate) unsafe extern "C" fn iommufd_object_abort(
        ictx: *mut bindings::iommufd_ctx,
        obj: *mut bindings::iommufd_object,
    ) {
        // SAFETY: By the requirements of this function.
        drop(unsafe { Reserved::<Selftest>::from_raw(Context::from_ptr(ictx), obj) });
    }
}
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) use mock::{
    command,
    Selftest,
    IOMMUFD_CMD_TEST, //
};
