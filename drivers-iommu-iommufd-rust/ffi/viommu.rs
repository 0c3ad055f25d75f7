// SPDX-License-Identifier: GPL-2.0

//! vIOMMUs, vDEVICEs and HW queues: the objects that IOMMU drivers extend.
//!
//! `include/linux/iommufd.h` lays out the three structures. A driver embeds one at the start of its
//! own and tells the size of the whole; the memory behind the part of the core is zero until the
//! driver's init function runs. The types here *are* those structures, less the object header,
//! which is why they have no field that C does not have.
//!
//! Contracts with the drivers:
//!
//! - The operations that `struct iommu_ops` and `struct iommufd_viommu_ops` name may be called with
//!   an object from the start of its init function on; a driver's destroy function is called once,
//!   if the init function has set it, whether the init function succeeded or not.
//! - `iommufd_viommu::ops` and the two `destroy` pointers are set by the init function and do not
//!   change afterwards. The other fields of the core are only read.
//! - Drivers find vDEVICEs in `vdevs`, and use what they found while they hold its `xa_lock`. They
//!   find event queues in `veventqs`, through `driver.c`, under a read lock of `veventqs_rwsem`.
//! - The `struct iommu_device` of a vIOMMU lives as long as devices are bound to it.

use super::eventq::{
    list_del,
    same_offset,
    Veventq, //
};
use crate::{
    access::{
        Access,
        Internal, //
    },
    context::Context,
    device::Device,
    ffi::pin::PagePtr,
    hwpt::HwptPaging,
    object::{
        Kind,
        Object,
        Ref,
        Registered,
        Reserved,
        RevocableRef,
        User, //
    }, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        null,
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::rwsem::{
        new_rwsem,
        RwSemaphore,
        WriteGuard, //
    },
    types::Opaque, //
};

/// Where the data of an [`Object`] begins: behind the header, aligned.
pub(super) const fn data_offset<T>() -> usize {
    size_of::<bindings::iommufd_object>().next_multiple_of(align_of::<T>())
}

/// An operation that a driver may provide.
macro_rules! op {
    ($ops:expr, $name:ident) => {{
        // SAFETY: The operations of a driver live as long as its objects.
        unsafe { $ops.as_ref() }.and_then(|ops| ops.$name)
    }};
}

/// A kind of object that has a part which belongs to the IOMMU driver.
pub(crate) trait Driven: Registered {
    /// Has the driver undo what its init function did.
    ///
    /// # Safety
    ///
    /// To be called once for an object, after its init function.
    unsafe fn call_destroy(this: &Object<Self>);
}

/// An object that the driver has not seen yet, with room for the driver's part.
#[must_use = "dropping a draft destroys the object"]
pub(crate) struct Draft<'a, T: Driven>(Reserved<'a, T>);

impl<'a, T: Driven> Draft<'a, T> {
    /// Has the driver initialise its part.
    ///
    /// # Safety
    ///
    /// `init` must call the driver's init function, or nothing if there is none, and the object
    /// must be as large as the driver asked for.
    unsafe fn init(self, init: impl FnOnce(&Object<T>) -> Result) -> Result<Ready<'a, T>> {
        // Also to be undone if the driver fails: it may have got half way.
        let ready = Ready(ManuallyDrop::new(self.0));
        init(&ready)?;
        Ok(ready)
    }
}

impl<T: Driven> Deref for Draft<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

/// An object that is complete, with its driver's part, but that nobody sees yet.
///
/// Dropping it undoes both, first the driver's part.
///
/// # Invariants
///
/// The init function of the driver has been called.
#[must_use = "dropping the object destroys it"]
pub(crate) struct Ready<'a, T: Driven>(ManuallyDrop<Reserved<'a, T>>);

impl<'a, T: Driven> Ready<'a, T> {
    /// Lets user space find the object. Cannot fail.
    pub(crate) fn publish(self) {
        self.into_inner().publish();
    }

    /// Leaves the undoing of the driver's part to [`Kind::destroy`].
    fn into_inner(self) -> Reserved<'a, T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used or dropped after this.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T: Driven> Deref for Ready<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

impl<T: Driven> Drop for Ready<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and the object was not published.
        unsafe { T::call_destroy(self) };
        // SAFETY: This is the drop of its owner.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// A vIOMMU: `struct iommufd_viommu`, less the object header.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Viommu {
    ictx: *mut bindings::iommufd_ctx,
    iommu_dev: NonNull<bindings::iommu_device>,
    hwpt: User<HwptPaging>,
    ops: UnsafeCell<*const bindings::iommufd_viommu_ops>,
    #[pin]
    vdevs: Opaque<bindings::xarray>,
    #[pin]
    veventqs: Opaque<bindings::list_head>,
    #[pin]
    veventqs_rwsem: RwSemaphore<()>,
    type_: bindings::iommu_viommu_type,
    #[pin]
    _pin: PhantomPinned,
}

same_offset!(Viommu, ictx, iommufd_viommu, ictx);
same_offset!(Viommu, iommu_dev, iommufd_viommu, iommu_dev);
same_offset!(Viommu, hwpt, iommufd_viommu, hwpt);
same_offset!(Viommu, ops, iommufd_viommu, ops);
same_offset!(Viommu, vdevs, iommufd_viommu, vdevs);
same_offset!(Viommu, veventqs, iommufd_viommu, veventqs);
same_offset!(Viommu, veventqs_rwsem, iommufd_viommu, veventqs_rwsem);
same_offset!(Viommu, type_, iommufd_viommu, type_);
const _: () = assert!(size_of::<Object<Viommu>>() == size_of::<bindings::iommufd_viommu>());

// SAFETY: The fields do not change while the object is shared, or have a lock.
unsafe impl Send for Viommu {}
// SAFETY: As above.
unsafe impl Sync for Viommu {}

impl Kind for Viommu {
    fn destroy(this: &Object<Self>, _ctx: &Context) {
        // SAFETY: The object was published after its init function, and is destroyed once.
        unsafe { Self::call_destroy(this) };
    }
}

impl Driven for Viommu {
    unsafe fn call_destroy(this: &Object<Self>) {
        if let Some(destroy) = op!(this.ops(), destroy) {
            // SAFETY: By the requirements of this function.
            unsafe { destroy(this.as_ptr().cast()) };
        }
    }
}

impl Viommu {
    fn new(
        ictx: *mut bindings::iommufd_ctx,
        iommu_dev: NonNull<bindings::iommu_device>,
        hwpt: User<HwptPaging>,
        type_: bindings::iommu_viommu_type,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ictx,
            iommu_dev,
            hwpt,
            ops: UnsafeCell::new(null()),
            // SAFETY: `slot` is valid for writes and stays where it is.
            vdevs <- Opaque::ffi_init(|slot| unsafe { bindings::xa_init_flags(slot, 0) }),
            // SAFETY: As above.
            veventqs <- Opaque::ffi_init(|slot| unsafe { bindings::INIT_LIST_HEAD(slot) }),
            veventqs_rwsem <- new_rwsem!((), "iommufd_viommu::veventqs_rwsem"),
            type_,
            _pin: PhantomPinned,
        }? Error)
    }

    fn ops(&self) -> *const bindings::iommufd_viommu_ops {
        // SAFETY: Only the init function writes the field, before the object is shared.
        unsafe { *self.ops.get() }
    }

    /// The context that the vIOMMU belongs to.
    pub(crate) fn ctx(&self) -> &Context {
        // SAFETY: The context outlives its objects.
        unsafe { Context::from_ptr(self.ictx) }
    }

    /// The HWPT that nested HWPTs of this vIOMMU translate through.
    pub(crate) fn hwpt(&self) -> &User<HwptPaging> {
        &self.hwpt
    }

    /// Whether the vIOMMU is part of this IOMMU.
    pub(crate) fn is_on(&self, iommu_dev: NonNull<bindings::iommu_device>) -> bool {
        self.iommu_dev == iommu_dev
    }

    /// Has the driver make a nested domain. `data` says how, in the driver's own terms.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver cannot do that, or what it says.
    pub(crate) fn alloc_domain_nested(
        this: &Object<Self>,
        flags: u32,
        data: &bindings::iommu_user_data,
    ) -> Result<NonNull<bindings::iommu_domain>> {
        let alloc = op!(this.ops(), alloc_domain_nested).ok_or(EOPNOTSUPP)?;
        // SAFETY: The object is initialised, and lives during the call.
        let domain = unsafe { alloc(this.as_ptr().cast(), flags, data) };
        let domain = NonNull::new(from_err_ptr(domain)?).ok_or(ENOMEM)?;
        // SAFETY: The domain is new, and the vIOMMU is part of the IOMMU.
        unsafe { (*domain.as_ptr()).owner = (*this.iommu_dev.as_ptr()).ops };
        Ok(domain)
    }

    /// Has the driver carry out invalidations from user space. Afterwards `array.entry_num` is how
    /// many it has done.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver cannot do that, or what it says.
    pub(crate) fn cache_invalidate(
        this: &Object<Self>,
        array: &mut bindings::iommu_user_data_array,
    ) -> Result {
        let Some(invalidate) = op!(this.ops(), cache_invalidate) else {
            array.entry_num = 0;
            return Err(EOPNOTSUPP);
        };
        // SAFETY: The object is initialised, and lives during the call.
        to_result(unsafe { invalidate(this.as_ptr().cast(), array) })
    }

    /// The event queues, locked for a change.
    pub(crate) fn veventqs(&self) -> Veventqs<'_> {
        Veventqs {
            viommu: self,
            _lock: self.veventqs_rwsem.write(),
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Viommu {
    fn drop(self: Pin<&mut Self>) {
        // The vDEVICEs depend on the vIOMMU, so that there are none.
        // SAFETY: The xarray is initialised, and not used any more.
        unsafe { bindings::xa_destroy(self.vdevs.get()) };
    }
}

/// What user space tells the driver in the driver's own terms, if anything.
pub(crate) fn user_data(type_: u32, address: u64, len: u32) -> Option<bindings::iommu_user_data> {
    (len != 0).then_some(bindings::iommu_user_data {
        type_,
        // CAST: As `u64_to_user_ptr()`. Who reads through the pointer checks it.
        uptr: address as usize as *mut c_void,
        len: len as usize,
    })
}

/// An IOMMU that can have vIOMMUs of a certain type.
pub(crate) struct ViommuDriver {
    iommu_dev: NonNull<bindings::iommu_device>,
    type_: bindings::iommu_viommu_type,
    size: usize,
}

impl ViommuDriver {
    /// The IOMMU of a device.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if it cannot have vIOMMUs of this type.
    pub(crate) fn of(device: &Device, type_: bindings::iommu_viommu_type) -> Result<Self> {
        let iommu_dev = device.iommu_device().ok_or(EOPNOTSUPP)?;
        // SAFETY: The IOMMU lives while a device is bound that uses it.
        let ops = unsafe { (*iommu_dev.as_ptr()).ops };
        if op!(ops, get_viommu_size).is_none() || op!(ops, viommu_init).is_none() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The device is bound, and the operation was just found.
        let size = unsafe { bindings::iommufd_shim_viommu_size(ops, device.dev_ptr(), type_) };
        if size == 0 || kernel::warn_on!(size < size_of::<Object<Viommu>>()) {
            return Err(EOPNOTSUPP);
        }
        Ok(Self {
            iommu_dev,
            type_,
            size,
        })
    }

    /// Allocates a vIOMMU.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if `hwpt` is being destroyed; those of [`Context::reserve`].
    pub(crate) fn reserve<'a>(
        &self,
        ctx: &'a Context,
        hwpt: &Ref<'_, HwptPaging>,
    ) -> Result<Draft<'a, Viommu>> {
        let viommu = Viommu::new(ctx.as_ptr(), self.iommu_dev, hwpt.user()?, self.type_);
        Ok(Draft(ctx.reserve_sized(self.size, viommu)?))
    }
}

impl<'a> Draft<'a, Viommu> {
    /// Has the driver initialise its part. `data` says how, in the driver's own terms.
    ///
    /// # Errors
    ///
    /// What the driver says; [`EOPNOTSUPP`] if it sets no operations, which is a bug.
    pub(crate) fn start(
        self,
        data: Option<&bindings::iommu_user_data>,
    ) -> Result<Ready<'a, Viommu>> {
        // SAFETY: The IOMMU lives while a device is bound that uses it.
        let ops = unsafe { (*self.iommu_dev.as_ptr()).ops };
        let init = op!(ops, viommu_init).ok_or(EOPNOTSUPP)?;
        let data = data.map_or(null(), core::ptr::from_ref);
        // SAFETY: `ViommuDriver` asked for the size. The HWPT and its domain outlive the object.
        unsafe {
            self.init(|viommu| {
                let domain = viommu.hwpt.as_raw_domain();
                to_result(init(viommu.as_ptr().cast(), domain, data))?;
                if kernel::warn_on!(viommu.ops().is_null()) {
                    return Err(EOPNOTSUPP);
                }
                Ok(())
            })
        }
    }
}

/// A place among the vDEVICEs of a vIOMMU that drivers do not see yet.
///
/// # Invariants
///
/// The index `virt_id` of `viommu.vdevs` is reserved, by this.
struct Slot<'a> {
    viommu: &'a Viommu,
    virt_id: usize,
}

impl<'a> Slot<'a> {
    /// Reserves the place.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if there is a vDEVICE of this id; [`ENOMEM`].
    fn new(viommu: &'a Viommu, virt_id: usize) -> Result<Self> {
        let vdevs = viommu.vdevs.get();
        // SAFETY: The xarray is initialised. `__xa_insert()` wants its lock, and may drop it to
        // allocate. Without an entry, it reserves the index.
        let ret = unsafe {
            bindings::xa_lock(vdevs);
            let ret = bindings::__xa_insert(vdevs, virt_id, null_mut(), bindings::GFP_KERNEL);
            bindings::xa_unlock(vdevs);
            ret
        };
        match to_result(ret) {
            // INVARIANT: The index was just reserved.
            Ok(()) => Ok(Self { viommu, virt_id }),
            Err(err) if err == EBUSY => Err(EEXIST),
            Err(err) => Err(err),
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // SAFETY: The xarray is initialised, and the index ours.
        unsafe { bindings::xa_erase(self.viommu.vdevs.get(), self.virt_id) };
    }
}

/// A vDEVICE that is complete, and its place, but that nobody sees yet.
#[must_use = "dropping the vDEVICE destroys it"]
pub(crate) struct ReadyVdevice<'a> {
    vdevice: Ready<'a, Vdevice>,
    slot: Slot<'a>,
}

impl ReadyVdevice<'_> {
    /// Lets drivers find the vDEVICE, and user space too. Cannot fail.
    pub(crate) fn publish(self) {
        let Self { vdevice, slot } = self;
        let slot = ManuallyDrop::new(slot);
        // SAFETY: The xarray is initialised, and the index reserved: nothing is allocated. The
        // entry is a pointer to an object, which is aligned. `Kind::destroy` takes it out again, as
        // the object is published now.
        unsafe {
            bindings::xa_store(
                slot.viommu.vdevs.get(),
                slot.virt_id,
                vdevice.as_ptr().cast(),
                bindings::GFP_KERNEL,
            )
        };
        vdevice.publish();
    }
}

impl Deref for ReadyVdevice<'_> {
    type Target = Object<Vdevice>;

    fn deref(&self) -> &Object<Vdevice> {
        &self.vdevice
    }
}

/// A vDEVICE: `struct iommufd_vdevice`, less the object header.
#[repr(C)]
pub(crate) struct Vdevice {
    viommu: User<Viommu>,
    idev: NonNull<Object<Device>>,
    virt_id: u64,
    destroy: UnsafeCell<Option<unsafe extern "C" fn(*mut bindings::iommufd_vdevice)>>,
}

same_offset!(Vdevice, viommu, iommufd_vdevice, viommu);
same_offset!(Vdevice, idev, iommufd_vdevice, idev);
same_offset!(Vdevice, virt_id, iommufd_vdevice, virt_id);
same_offset!(Vdevice, destroy, iommufd_vdevice, destroy);
const _: () = assert!(size_of::<Object<Vdevice>>() == size_of::<bindings::iommufd_vdevice>());

// SAFETY: The fields do not change while the object is shared. `idev` stands for a `RevocableRef`.
unsafe impl Send for Vdevice {}
// SAFETY: As above.
unsafe impl Sync for Vdevice {}

impl Driven for Vdevice {
    unsafe fn call_destroy(this: &Object<Self>) {
        // SAFETY: Only the init function writes the field, before the object is shared.
        if let Some(destroy) = unsafe { *this.destroy.get() } {
            // SAFETY: By the requirements of this function.
            unsafe { destroy(this.as_ptr().cast()) };
        }
    }
}

impl Kind for Vdevice {
    fn destroy(this: &Object<Self>, _ctx: &Context) {
        let mut seat = this.device().seat();
        // SAFETY: The object was published after its init function, and is destroyed once.
        unsafe { Self::call_destroy(this) };
        // CAST: It was a `usize`.
        // SAFETY: The xarray is initialised, and the index is that of this vDEVICE.
        unsafe { bindings::xa_erase(this.viommu.vdevs.get(), this.virt_id as usize) };
        seat.leave();
    }
}

impl Vdevice {
    /// Makes a vDEVICE of `viommu`, with the driver's part, and reserves its place. It keeps the
    /// device until it is revoked.
    ///
    /// # Errors
    ///
    /// - [`EEXIST`] if the vIOMMU has a vDEVICE of this id;
    /// - [`ENOENT`] if the vIOMMU is being destroyed;
    /// - [`EOPNOTSUPP`] if the driver contradicts itself, which is a bug;
    /// - what the driver says, and those of [`Context::reserve`].
    pub(crate) fn create<'a>(
        viommu: &'a Ref<'_, Viommu>,
        device: RevocableRef<Device>,
        virt_id: usize,
    ) -> Result<ReadyVdevice<'a>> {
        let ops = viommu.ops();
        // SAFETY: The operations live as long as the vIOMMU.
        let size = unsafe { ops.as_ref() }.map_or(0, |ops| ops.vdevice_size);
        let init = op!(ops, vdevice_init);
        if size != 0 && kernel::warn_on!(size < size_of::<Object<Self>>() || init.is_none()) {
            return Err(EOPNOTSUPP);
        }

        let this = Self {
            viommu: viommu.user()?,
            // SAFETY: The pointer of a reference is not null.
            idev: unsafe { NonNull::new_unchecked(device.into_raw().cast()) },
            // CAST: `usize` has at most 64 bits.
            virt_id: virt_id as u64,
            destroy: UnsafeCell::new(None),
        };
        let draft = Draft(viommu.ctx().reserve_sized(size, Ok::<_, Error>(this))?);
        let slot = Slot::new(viommu, virt_id)?;
        // SAFETY: The driver asked for the size; the closure calls its init function.
        let vdevice = unsafe {
            draft.init(|vdevice| match init {
                Some(init) => to_result(init(vdevice.as_ptr().cast())),
                None => Ok(()),
            })
        }?;
        Ok(ReadyVdevice { vdevice, slot })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Object<Device> {
        // SAFETY: `idev` stands for a `RevocableRef`, which keeps the device.
        unsafe { self.idev.as_ref() }
    }
}

impl Drop for Vdevice {
    fn drop(&mut self) {
        // SAFETY: The pointer comes from a reference to a device of this context.
        drop(unsafe {
            RevocableRef::<Device>::from_raw(self.viommu.ctx(), self.idev.as_ptr().cast())
        });
    }
}

/// A HW queue: `struct iommufd_hw_queue`, less the object header.
#[repr(C)]
pub(crate) struct HwQueue {
    viommu: User<Viommu>,
    /// An internal access that has the memory of the queue pinned.
    access: Option<User<Access>>,
    base_addr: u64,
    length: usize,
    type_: bindings::iommu_hw_queue_type,
    destroy: UnsafeCell<Option<unsafe extern "C" fn(*mut bindings::iommufd_hw_queue)>>,
}

same_offset!(HwQueue, viommu, iommufd_hw_queue, viommu);
same_offset!(HwQueue, access, iommufd_hw_queue, access);
same_offset!(HwQueue, base_addr, iommufd_hw_queue, base_addr);
same_offset!(HwQueue, length, iommufd_hw_queue, length);
same_offset!(HwQueue, type_, iommufd_hw_queue, type_);
same_offset!(HwQueue, destroy, iommufd_hw_queue, destroy);
const _: () = assert!(size_of::<Object<HwQueue>>() == size_of::<bindings::iommufd_hw_queue>());

// SAFETY: The fields do not change while the object is shared.
unsafe impl Send for HwQueue {}
// SAFETY: As above.
unsafe impl Sync for HwQueue {}

impl Driven for HwQueue {
    unsafe fn call_destroy(this: &Object<Self>) {
        // SAFETY: Only the init function writes the field, before the object is shared.
        if let Some(destroy) = unsafe { *this.destroy.get() } {
            // SAFETY: By the requirements of this function.
            unsafe { destroy(this.as_ptr().cast()) };
        }
    }
}

impl Kind for HwQueue {
    fn destroy(this: &Object<Self>, _ctx: &Context) {
        // SAFETY: The object was published after its init function, and is destroyed once.
        unsafe { Self::call_destroy(this) };
    }
}

impl HwQueue {
    /// Allocates a queue of `viommu`, without memory.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver has no queues of this type; [`ENOENT`] if the vIOMMU is being
    /// destroyed; those of [`Context::reserve`].
    pub(crate) fn reserve<'a>(
        viommu: &'a Ref<'_, Viommu>,
        type_: bindings::iommu_hw_queue_type,
    ) -> Result<Draft<'a, Self>> {
        let ops = viommu.ops();
        if op!(ops, get_hw_queue_size).is_none() || op!(ops, hw_queue_init_phys).is_none() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The vIOMMU lives during the call, and has the operation.
        let size = unsafe { bindings::iommufd_shim_hw_queue_size(viommu.as_ptr().cast(), type_) };
        if size == 0 || kernel::warn_on!(size < size_of::<Object<Self>>()) {
            return Err(EOPNOTSUPP);
        }

        let this = Self {
            viommu: viommu.user()?,
            access: None,
            base_addr: 0,
            length: 0,
            type_,
            destroy: UnsafeCell::new(None),
        };
        let queue = viommu.ctx().reserve_sized(size, Ok::<_, Error>(this))?;
        Ok(Draft(queue))
    }

    /// Where the queue is, in bytes of the guest's physical address space.
    pub(crate) fn place(&self) -> (u64, usize) {
        (self.base_addr, self.length)
    }
}

impl<'a> Draft<'a, HwQueue> {
    /// Gives the queue its memory and has the driver initialise its part.
    ///
    /// `memory` has pinned `length` bytes from `base_addr` in the guest's physical address space,
    /// which are physically contiguous from `base_pa`. `index` is for the driver.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(crate) fn start(
        mut self,
        memory: Internal<'_>,
        base_addr: u64,
        length: usize,
        base_pa: bindings::phys_addr_t,
        index: u32,
    ) -> Result<Ready<'a, HwQueue>> {
        let queue = self.0.data().get_mut();
        queue.access = memory.into_user();
        queue.base_addr = base_addr;
        queue.length = length;
        let init = op!(self.viommu.ops(), hw_queue_init_phys).ok_or(EOPNOTSUPP)?;
        // SAFETY: `HwQueue::reserve()` asked for the size.
        unsafe { self.init(|queue| to_result(init(queue.as_ptr().cast(), index, base_pa))) }
    }
}

impl Drop for HwQueue {
    fn drop(&mut self) {
        if let Some(access) = self.access.take() {
            let memory = Internal::from_user(access, self.viommu.ctx());
            crate::viommu::hw_queue::unpin(memory, self.place());
        }
    }
}

/// Room for the pages of a HW queue.
pub(crate) struct PageList {
    pages: KVVec<PagePtr>,
    count: usize,
}

impl PageList {
    /// Makes room for `count` pages.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new(count: usize) -> Result<Self> {
        // User space chooses the size: that it is too large is no reason to warn.
        let pages = KVVec::with_capacity(count, GFP_KERNEL | __GFP_NOWARN)?;
        Ok(Self { pages, count })
    }

    /// Pins the pages from `iova` on.
    ///
    /// # Errors
    ///
    /// Those of [`Internal::pin`].
    pub(crate) fn pin(&mut self, memory: &Internal<'_>, iova: usize) -> Result {
        self.pages.clear();
        let out = &mut self.pages.spare_capacity_mut()[..self.count];
        memory.pin(iova, self.count << PAGE_SHIFT, out)?;
        // SAFETY: There is room for `count` pages, and `pin()` has written them all.
        unsafe { self.pages.inc_len(self.count) };
        Ok(())
    }

    /// The first page frame of the pages, if each one follows on the one before.
    pub(crate) fn contiguous(&self) -> Option<usize> {
        let first = self.pages.first()?.pfn();
        self.pages
            .iter()
            .enumerate()
            .all(|(i, page)| page.pfn().wrapping_sub(first) == i)
            .then_some(first)
    }
}

/// The event queues of a vIOMMU, locked for a change.
pub(crate) struct Veventqs<'a> {
    viommu: &'a Viommu,
    _lock: WriteGuard<'a, ()>,
}

impl Veventqs<'_> {
    /// Whether there is a queue for events of this type.
    pub(crate) fn contains(&self, type_: bindings::iommu_veventq_type) -> bool {
        let head = self.viommu.veventqs.get();
        // SAFETY: The list is initialised and locked. Its entries are nodes of queues, which leave
        // the list before they go.
        unsafe {
            let mut node = (*head).next;
            while node != head {
                if Veventq::from_node(node).type_() == type_ {
                    return true;
                }
                node = (*node).next;
            }
        }
        false
    }

    /// Lets user space find a queue, and IOMMU drivers queue events. Cannot fail.
    ///
    /// A queue of another vIOMMU than this would get no events.
    pub(crate) fn publish(&mut self, veventq: Reserved<'_, Veventq>) -> User<Veventq> {
        let user = veventq.publish_with_user();
        if self.has(&user) {
            // SAFETY: The list is initialised and locked. The node is in no list, and leaves this
            // one when the object, which is published now, is destroyed.
            unsafe { bindings::list_add_tail(user.node(), self.viommu.veventqs.get()) };
        }
        user
    }

    /// Lets IOMMU drivers not find a queue any more.
    pub(super) fn remove(&mut self, veventq: &Object<Veventq>) {
        if self.has(veventq) {
            // SAFETY: The list is locked, and the node is in there, or a list of its own.
            unsafe { list_del(veventq.node()) };
        }
    }

    fn has(&self, veventq: &Veventq) -> bool {
        core::ptr::eq(&raw const **veventq.viommu(), self.viommu)
    }
}
