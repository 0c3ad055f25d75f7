// SPDX-License-Identifier: GPL-2.0

//! Accesses: CPU access to the memory of an IOAS, for drivers of devices without an IOMMU, such as
//! emulated ones.
//!
//! An [`Access`] is attached to one IOAS at a time. The driver pins pages there, or reads and
//! writes them. When user space unmaps, or the access moves to another IOAS, the driver is
//! *notified* by its `unmap` callback and must unpin before that returns. An *internal* access
//! ([`InternalAccess`]) belongs to this driver: it has no callback, so what it pins cannot be
//! unmapped.
//!
//! From attach to detach the access is in the list of its IO page table, as a [`Notifier`]. The
//! list has a reference to that, and uses neither the object nor its lock.
//!
//! The driver is a user of the object, which holds the context, and the access is a user of its
//! IOAS. An internal access holds neither the context nor a user of the IOAS: it belongs to a HW
//! queue, which depends on the IOAS through its vIOMMU.
//!
//! Locks: [`Access::state`], which the driver's callback takes to unpin, so it is not held while
//! notifying. The locks of the IO page table are taken inside of it.
#![forbid(unsafe_code)]

use crate::{
    context::{
        Context,
        ContextRef, //
    },
    io_pagetable::{
        AccessEntry,
        Notify, //
    },
    ioas::Ioas,
    object::{
        Dependency,
        Kind,
        Object,
        Owner as _,
        Reserved,
        TableGuard,
        User,
        WriteSide, //
    },
    pages::{
        RwBuf,
        RwFlags, //
    },
    range::IovaRange,
    sys::{
        delay::Place,
        notifier::{
            AccessDriver,
            AccessOps,
            Notifier, //
        },
        pin::PagePtr, //
    }, //
};
use core::mem::{
    offset_of,
    MaybeUninit, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

/// An access. C accesses its first fields.
#[repr(C)]
#[pin_data]
pub(crate) struct Access {
    ops: AccessOps,
    #[pin]
    state: Mutex<AccessState>,
    driver: AccessDriver,
    /// [`None`] for an internal access. Dropped last.
    ctx: Option<ContextRef>,
}

const _: () = {
    use bindings::iommufd_access as C;
    const HEADER: usize = size_of::<bindings::iommufd_object>();

    assert!(HEADER + offset_of!(Access, ops) == offset_of!(C, ops));
    assert!(HEADER + offset_of!(Access, state) == offset_of!(C, ioas_lock));
    // A Rust mutex is a C mutex followed by the data, whose first field is the IOAS.
    assert!(
        size_of::<Mutex<AccessState>>() == size_of::<bindings::mutex>() + size_of::<AccessState>()
    );
    assert!(offset_of!(AccessState, ioas) == 0);
    assert!(offset_of!(C, ioas) == offset_of!(C, ioas_lock) + size_of::<bindings::mutex>());
    assert!(size_of::<Option<Dependency<Ioas>>>() == size_of::<*mut c_void>());
};

impl Notify for Notifier {
    fn unmap(&self, range: IovaRange) {
        Self::unmap(self, range);
    }
}

/// The IOAS that an access is attached to. C accesses its first field.
#[repr(C)]
pub(crate) struct AccessState {
    /// A read side of the IOAS, for the pins.
    ioas: Option<Dependency<Ioas>>,
    /// A user of the IOAS that the access is attached to, or about to be: IOMMU_DESTROY returns
    /// EBUSY. [`None`] for an internal access, which belongs to an object that depends on the IOAS.
    user: Option<User<Ioas>>,
    /// The number of the access in the list of `ioas`.
    list_id: u64,
    /// The IOAS that the access is leaving, and its number there, while the driver unpins. A
    /// destroyer of that IOAS waits.
    leaving: Option<(Dependency<Ioas>, u64)>,
}

/// The state of an access, locked.
type StateGuard<'a> = Guard<'a, AccessState, MutexBackend>;

impl Access {
    /// Creates an access for a driver. It holds the context.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn create(ctx: &Context, driver: AccessDriver) -> Result<User<Self>> {
        Self::reserve(ctx, driver, Some(ContextRef::get(ctx)?))?.publish_with_user(|| Ok(()))
    }

    fn reserve(
        ctx: &Context,
        driver: AccessDriver,
        held: Option<ContextRef>,
    ) -> Result<Reserved<'_, Self>> {
        ctx.reserve(try_pin_init!(Self {
            ops: driver.ops(),
            state <- new_mutex!(
                AccessState {
                    ioas: None,
                    user: None,
                    list_id: 0,
                    leaving: None,
                },
                "iommufd_access::ioas_lock"
            ),
            driver,
            ctx: held,
        }? Error))
    }

    /// Returns the entry for the list of an IO page table.
    fn entry(&self) -> AccessEntry {
        AccessEntry {
            alignment: self.driver.alignment(),
            notify: (!self.is_internal()).then(|| self.driver.notifier() as Arc<dyn Notify>),
        }
    }

    fn is_internal(&self) -> bool {
        self.ctx.is_none()
    }

    /// Returns the context that the access holds.
    pub(crate) fn ctx(&self) -> Option<&Context> {
        self.ctx.as_deref()
    }

    /// Moves the access to another IOAS, of which it becomes a user unless it is internal.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] if it is being moved; [`EADDRINUSE`] if the mappings of the new IOAS are not
    /// aligned to what the driver needs; [`ENOMEM`]; [`ENOENT`] if the IOAS is being destroyed.
    fn move_to(&self, mut state: StateGuard<'_>, ioas: Dependency<Ioas>) -> Result {
        if state.leaving.is_some() {
            return Err(EBUSY);
        }
        if state
            .ioas
            .as_ref()
            .is_some_and(|old| old.as_ptr() == ioas.as_ptr())
        {
            return Ok(());
        }
        let list_id = ioas.iopt.add_access(self.entry())?;
        if !self.is_internal() {
            // In one step: the access is never a user of both. Nothing fails after this.
            ioas.move_user(&mut state.user)
                .inspect_err(|_| ioas.iopt.remove_access(list_id))?;
        }

        Place::AccessMoved.delay();
        self.switch(state, Some((ioas, list_id)));
        Ok(())
    }

    /// Moves the access from its IOAS, if any, to another one that already lists it and has its
    /// user, or to none. No other move is in progress. Releases the lock while it notifies.
    fn switch<'a>(&'a self, mut state: StateGuard<'a>, new: Option<(Dependency<Ioas>, u64)>) {
        if new.is_none() {
            state.user = None;
        }
        if let Some(old) = state.ioas.take() {
            // From here on the driver can unpin, but not pin.
            state.leaving = Some((old, state.list_id));
            if self.driver.can_notify() {
                drop(state);
                self.driver.unmap_all();
                state = self.state.lock();
            }
            if let Some((old, list_id)) = state.leaving.take() {
                old.iopt.remove_access(list_id);
            }
        }
        if let Some((ioas, list_id)) = new {
            state.ioas = Some(ioas);
            state.list_id = list_id;
        }
    }

    /// Attaches the access, which is not attached, to an IOAS.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is no such IOAS; else as [`Self::move_to`].
    pub(crate) fn attach(&self, ctx: &Context, ioas_id: u32) -> Result {
        let state = self.state.lock();

        if kernel::warn_on!(state.ioas.is_some()) {
            return Err(EINVAL);
        }
        self.move_to_id(ctx, state, ioas_id)
    }

    /// Moves the access, which is attached, to another IOAS.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if it is not attached or there is no such IOAS; else as [`Self::move_to`].
    pub(crate) fn replace(&self, ctx: &Context, ioas_id: u32) -> Result {
        let state = self.state.lock();

        if state.ioas.is_none() {
            return Err(ENOENT);
        }
        self.move_to_id(ctx, state, ioas_id)
    }

    fn move_to_id(&self, ctx: &Context, state: StateGuard<'_>, ioas_id: u32) -> Result {
        let ioas = ctx.get::<Ioas>(ioas_id)?;

        self.move_to(state, ioas.dependency())
    }

    /// Detaches the access.
    pub(crate) fn detach(&self) {
        let state = self.state.lock();

        if kernel::warn_on!(state.ioas.is_none()) {
            return;
        }
        // Only another move of the same access can be in progress: a bug of its driver.
        if !kernel::warn_on!(state.leaving.is_some()) {
            self.switch(state, None);
        }
    }

    /// Pins the pages of a range.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`] if the access is not attached, or part of the range is not mapped;
    /// - [`EINVAL`] if the range is not made of whole pages, or is being unmapped;
    /// - [`EPERM`] if the mapping does not allow it;
    /// - [`ENOMEM`], [`EFAULT`].
    pub(crate) fn pin(
        &self,
        range: IovaRange,
        pages: &mut [MaybeUninit<PagePtr>],
        write: bool,
    ) -> Result {
        let state = self.state.lock();
        let ioas = state.ioas.as_ref().ok_or(ENOENT)?;

        ioas.iopt.pin(range, pages, write, self.is_internal())
    }

    /// Unpins what was pinned by one [`Self::pin`] of the same range.
    pub(crate) fn unpin(&self, range: IovaRange) {
        let state = self.state.lock();
        let leaving = state.leaving.as_ref().map(|(ioas, _)| ioas);
        let ioas = leaving.or(state.ioas.as_ref());

        match ioas {
            Some(ioas) => ioas.iopt.unpin(range, self.is_internal()),
            // A bug of the driver: an access that is not attached has no pins.
            None => {
                kernel::warn_on!(true);
            }
        }
    }

    /// Reads or writes a range, which has the length of `buf`.
    ///
    /// # Errors
    ///
    /// As [`Self::pin`], but the range need not be made of whole pages.
    pub(crate) fn rw(&self, range: IovaRange, buf: RwBuf<'_>, flags: RwFlags) -> Result {
        let state = self.state.lock();
        let ioas = state.ioas.as_ref().ok_or(ENOENT)?;

        ioas.iopt.rw(range, buf, flags)
    }

    /// Returns whether the driver of this access supports pinning.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn can_pin(&self) -> bool {
        self.driver.alignment() == kernel::page::PAGE_SIZE
            && (self.is_internal() || self.driver.can_notify())
    }
}

impl Kind for Access {
    type Owner = Context;

    fn pre_destroy(this: &Object<Self>, _ctx: &Context) {
        this.switch(this.state.lock(), None);
    }

    fn destroy(this: WriteSide<'_, Self>) {
        // Waits for a notification in progress, which may still unpin, and prevents later ones. The
        // access was detached by `pre_destroy`, and its driver does not attach it again.
        this.driver.close();
    }
}

/// An unpublished access that belongs to this driver: what it pins cannot be unmapped.
///
/// Dropping it detaches it; it must have no pins then.
pub(crate) struct InternalAccess<'a>(Option<Reserved<'a, Access>>);

impl<'a> InternalAccess<'a> {
    /// Creates an internal access that is not attached.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(ctx: &'a Context) -> Result<Self> {
        Ok(Self(Some(Access::reserve(
            ctx,
            AccessDriver::internal()?,
            None,
        )?)))
    }

    /// Publishes the access, in the step that publishes the object that it belongs to.
    pub(crate) fn publish_along(
        mut self,
        table: &mut TableGuard<'_, Context>,
    ) -> Option<User<Access>> {
        Some(self.0.take()?.publish_along(table))
    }

    /// Attaches the access to an IOAS.
    ///
    /// # Errors
    ///
    /// As [`Access::move_to`].
    pub(crate) fn attach(&self, ioas: &Dependency<Ioas>) -> Result {
        let access = self.0.as_ref().ok_or(EINVAL)?;

        access.move_to(access.state.lock(), ioas.another())
    }

    /// Pins the pages of `len` bytes from `iova` on, for reading.
    ///
    /// # Errors
    ///
    /// As [`Access::pin`]; [`EINVAL`] if `len` is zero, [`EOVERFLOW`] if the last byte does not fit
    /// into a `usize`.
    pub(crate) fn pin(
        &self,
        iova: usize,
        len: usize,
        pages: &mut [MaybeUninit<PagePtr>],
    ) -> Result {
        let access = self.0.as_ref().ok_or(EINVAL)?;

        access.pin(IovaRange::from_len(iova, len)?, pages, false)
    }

    /// Unpins what was pinned by one [`Self::pin`] of the same range.
    pub(crate) fn unpin(&self, range: IovaRange) {
        if let Some(access) = &self.0 {
            access.unpin(range);
        }
    }
}

impl Drop for InternalAccess<'_> {
    fn drop(&mut self) {
        if let Some(access) = &self.0 {
            access.switch(access.state.lock(), None);
        }
    }
}
