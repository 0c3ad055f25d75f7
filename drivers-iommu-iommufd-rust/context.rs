// SPDX-License-Identifier: GPL-2.0

//! The context: one open `/dev/iommu`.
//!
//! It lives from `open()` to `release()` and has no reference count of its own. Code that needs it
//! for longer than one operation holds the file ([`ContextRef`]). Objects that are owned from
//! outside, such as a bound device, do so. Objects that the context owns do not, as `release()`
//! would never be called.
//!
//! There is no lock for the whole context. Fields have locks of their own.
//!
//! Locks: [`Context::ioas_creation_lock`] is taken for reading to publish an IOAS, and for writing
//! by IOAS_CHANGE_PROCESS, to lock all of them. It is taken before any lock of an IOAS.
#![forbid(unsafe_code)]

use crate::{
    command,
    device::group::Groups,
    object::{
        self,
        ObjectBox,
        Owner,
        OwnerPtr,
        Table, //
    },
    sys::{
        ctx::CFields,
        file::{
            OpeningFile,
            PrivateRef, //
        },
        task::{
            capable,
            AccountMode, //
        }, //
    }, //
};
use kernel::{
    bindings,
    capability::Capability,
    id_table::{
        new_id_table,
        Entry, //
    },
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        rwsem::{
            new_rwsem,
            RwSemaphore, //
        },
        wait_queue::{
            new_wait_queue,
            WaitQueue, //
        },
        Arc, //
    }, //
};

/// A reference to a context: to its `struct file`.
///
/// Dropping the last one releases the file, and the context with it. An object that owns one must
/// drop it as the last step of its teardown.
pub(crate) type ContextRef = PrivateRef<Context>;

/// A pointer to the context in an object, which C reads.
pub(crate) type ContextPtr = OwnerPtr<Context>;

/// Any kind of object of a context.
pub(crate) type Any = object::Any<Context>;

/// A command in execution on a context.
pub(crate) type Command<'a, T> = command::Command<'a, Context, T>;

/// One open `/dev/iommu`.
///
/// C accesses the fields of `c`.
#[repr(C)]
#[pin_data]
pub(crate) struct Context {
    #[pin]
    pub(crate) c: CFields,
    #[pin]
    pub(crate) objects: Table<Context>,
    /// Destroyers of objects sleep here until there are no read sides.
    #[pin]
    pub(crate) destroy_wait: WaitQueue,
    /// Read-locked while a user of an object may be put again because of a failure, see
    /// [`crate::object`].
    #[pin]
    pub(crate) tentative: RwSemaphore<()>,
    #[pin]
    pub(crate) ioas_creation_lock: RwSemaphore<()>,
    /// The groups of the devices that are bound.
    pub(crate) groups: Arc<Groups>,
    /// Set if memory is charged to the process, as by VFIO type1. Changes only without objects.
    account_mm: Atomic<bool>,
    pub(crate) vfio: VfioContainer,
}

impl Owner for Context {
    fn objects(&self) -> &Table<Self> {
        &self.objects
    }

    fn destroy_wait(&self) -> &WaitQueue {
        &self.destroy_wait
    }

    fn tentative_lock(&self) -> &RwSemaphore<()> {
        &self.tentative
    }

    fn forget(&self, object: &Entry<'_, ObjectBox<Self>>) {
        self.vfio.forget(object);
    }
}

impl Context {
    /// Creates a context for `file`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(file: OpeningFile, mode: AccountMode) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            c <- CFields::new(file),
            objects <- new_id_table!("iommufd_ctx::objects"),
            destroy_wait <- new_wait_queue!("iommufd_ctx::destroy_wait"),
            tentative <- new_rwsem!((), "iommufd_ctx::tentative"),
            ioas_creation_lock <- new_rwsem!((), "iommufd_ctx::ioas_creation_lock"),
            groups: Groups::new()?,
            account_mm: Atomic::new(mode == AccountMode::Mm),
            vfio: VfioContainer::new(),
        }? Error)
    }

    /// Returns the pointer that C uses.
    pub(crate) fn as_ptr(&self) -> *mut bindings::iommufd_ctx {
        self.c.as_ptr()
    }

    /// Returns the accounting mode of memory that a process without CAP_IPC_LOCK maps.
    pub(crate) fn account_mode(&self) -> AccountMode {
        if self.account_mm.load(Relaxed) {
            AccountMode::Mm
        } else {
            AccountMode::User
        }
    }

    /// Sets [`Self::account_mode`] to a value of IOMMU_OPTION_RLIMIT_MODE.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if there is any object, even if it is only reserved; [`EINVAL`] if there is no
    /// such mode.
    fn set_account_mode(&self, mode: u64) -> Result {
        let objects = self.objects.lock();
        if !objects.is_empty() {
            return Err(EBUSY);
        }
        let mm = match mode {
            0 => false,
            1 => true,
            _ => return Err(EINVAL),
        };
        self.account_mm.store(mm, Relaxed);
        drop(objects);
        Ok(())
    }
}

/// State of a context that is used as a VFIO container.
pub(crate) struct VfioContainer {
    /// The id of the compatibility IOAS, or 0.
    pub(crate) ioas: Atomic<u32>,
    /// Set if the container is for devices without an IOMMU.
    pub(crate) no_iommu: Atomic<bool>,
}

impl VfioContainer {
    /// Creates the state of a context that is not used as a container.
    fn new() -> Self {
        Self {
            ioas: Atomic::new(0),
            no_iommu: Atomic::new(false),
        }
    }

    /// Resets the compatibility IOAS if it is this object, which is being removed from the table.
    pub(crate) fn forget(&self, object: &Entry<'_, ObjectBox<Context>>) {
        if self.ioas.load(Relaxed) == object.get().id() {
            self.ioas.store(0, Relaxed);
        }
    }

    /// Returns whether the container is for devices without an IOMMU.
    pub(crate) fn is_no_iommu(&self) -> bool {
        self.no_iommu.load(Relaxed)
    }
}

/// IOMMU_OPTION_RLIMIT_MODE.
pub(crate) fn option_rlimit_mode(ctx: &Context, option: &mut bindings::iommu_option) -> Result {
    if option.object_id != 0 {
        return Err(EOPNOTSUPP);
    }
    match u32::from(option.op) {
        bindings::iommufd_option_ops_IOMMU_OPTION_OP_GET => {
            option.val64 = u64::from(ctx.account_mode() == AccountMode::Mm);
            Ok(())
        }
        bindings::iommufd_option_ops_IOMMU_OPTION_OP_SET => {
            if !capable(Capability::SYS_RESOURCE) {
                return Err(EPERM);
            }
            ctx.set_account_mode(option.val64)
        }
        _ => Err(EOPNOTSUPP),
    }
}

/// IOMMU_DESTROY.
pub(crate) fn destroy(cmd: &mut Command<'_, bindings::iommu_destroy>) -> Result {
    cmd.ctx().destroy(cmd.id)
}
