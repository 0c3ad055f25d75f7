// SPDX-License-Identifier: GPL-2.0

//! vDEVICEs, and how the drivers of IOMMUs find them.
//!
//! See [`driven`](super::driven) and [`viommu`](super::viommu) for the contracts with the drivers.
//! A vDEVICE is among those of its vIOMMU from when it has been published until it is destroyed,
//! and its device is there all that time, so that what drivers find under the lock of `vdevs` is
//! complete, and stays.

use super::{
    driven::{
        end,
        Destroy,
        Draft,
        Driven,
        InitSlot,
        Ready, //
    },
    layout::same_layout, //
};
use crate::{
    device::Device,
    object::{
        Dependency,
        InContext as _,
        Kind,
        Object,
        Ref,
        RevocableRef,
        WriteSide, //
    },
    viommu::Viommu, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::null_mut, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// The vDEVICEs of a vIOMMU, by the ids that the guest knows them by: a `struct xarray`.
///
/// # Invariants
///
/// The xarray is initialised. Its entries are pointers to vDEVICEs that are published and not
/// destroyed, or reserved.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
pub(super) struct Vdevs {
    #[pin]
    xa: Opaque<bindings::xarray>,
}

// SAFETY: An xarray belongs to no thread, and vDEVICEs are `Send` and `Sync`.
unsafe impl Send for Vdevs {}
// SAFETY: An xarray has a lock of its own, which each change takes.
unsafe impl Sync for Vdevs {}

impl Vdevs {
    /// None yet.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and stays where it is; name and lock class are
            // static.
            xa <- Opaque::ffi_init(|slot| unsafe {
                bindings::xa_init_flags(slot, 0);
                bindings::xa_set_lock_class(
                    slot,
                    c"iommufd_viommu::vdevs".as_char_ptr(),
                    kernel::static_lock_class!().as_ptr(),
                );
            }),
        })
    }

    /// Reserves the place of a vDEVICE that drivers do not see yet.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if there is a vDEVICE of this id; [`ENOMEM`].
    fn reserve(&self, virt_id: usize) -> Result<Slot<'_>> {
        let xa = self.xa.get();
        // SAFETY: By the type invariants. `__xa_insert()` wants the lock, and may drop it to
        // allocate. Without an entry, it reserves the index.
        let ret = unsafe {
            bindings::xa_lock(xa);
            let ret = bindings::__xa_insert(xa, virt_id, null_mut(), bindings::GFP_KERNEL);
            bindings::xa_unlock(xa);
            ret
        };
        to_result(ret).map_err(|err| if err == EBUSY { EEXIST } else { err })?;
        // INVARIANT: The index was just reserved.
        Ok(Slot {
            vdevs: self,
            virt_id,
        })
    }

    /// Lets drivers not find the vDEVICE of this id any more.
    fn remove(&self, virt_id: usize) {
        // SAFETY: By the type invariants. This waits for drivers that have the lock.
        unsafe { bindings::xa_erase(self.xa.get(), virt_id) };
    }
}

#[pinned_drop]
impl PinnedDrop for Vdevs {
    fn drop(self: Pin<&mut Self>) {
        // The vDEVICEs depend on the vIOMMU, so that there are none.
        // SAFETY: By the type invariants, and nobody uses the xarray any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}

/// A place that is taken. Dropping it frees it.
///
/// # Invariants
///
/// The index `virt_id` of `vdevs` is reserved, by this.
struct Slot<'a> {
    vdevs: &'a Vdevs,
    virt_id: usize,
}

impl Slot<'_> {
    /// Lets drivers find a vDEVICE. Cannot fail.
    ///
    /// # Safety
    ///
    /// The vDEVICE must be complete, and be removed before it is destroyed.
    unsafe fn fill(self, vdevice: &Object<Vdevice>) {
        let this = ManuallyDrop::new(self);
        // INVARIANT: By the requirements of this function.
        // SAFETY: By the type invariants the xarray is initialised, and the index reserved: nothing
        // is allocated, so that it does not fail. An object is aligned as an entry has to be.
        unsafe {
            bindings::xa_store(
                this.vdevs.xa.get(),
                this.virt_id,
                vdevice.as_ptr().cast(),
                bindings::GFP_KERNEL,
            )
        };
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.vdevs.remove(self.virt_id);
    }
}

/// A vDEVICE that is complete, and its place, but that nobody sees yet.
///
/// The fields are dropped in order: the driver is done before the place is free.
#[must_use = "dropping the vDEVICE destroys it"]
pub(crate) struct ReadyVdevice<'a> {
    vdevice: Ready<'a, Vdevice>,
    slot: Slot<'a>,
}

impl ReadyVdevice<'_> {
    /// Lets user space find the vDEVICE if `answer` succeeds, and then drivers, too.
    ///
    /// # Errors
    ///
    /// Those of [`Reserved::publish`](crate::object::Reserved::publish).
    pub(crate) fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let Self { vdevice, slot } = self;
        let vdevice = vdevice.publish(|_, _| answer())?;

        // SAFETY: It is complete, and published. Its end, which removes it, is not before the read
        // side is put.
        unsafe { slot.fill(&vdevice) };
        Ok(())
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
    pub(super) viommu: Dependency<Viommu>,
    idev: RevocableRef<Device>,
    virt_id: u64,
    destroy: InitSlot<Option<Destroy<bindings::iommufd_vdevice>>>,
}

same_layout!(Vdevice, iommufd_vdevice: viommu idev virt_id destroy);

impl Driven for Vdevice {
    type Raw = bindings::iommufd_vdevice;

    fn destroy_fn(this: &Object<Self>) -> Option<Destroy<bindings::iommufd_vdevice>> {
        this.destroy.get()
    }
}

impl Kind for Vdevice {
    fn destroy(this: WriteSide<'_, Self>) {
        let vdevice = this.object();
        let mut seat = vdevice.device().seat();
        end(this);
        // CAST: It was a `usize`.
        vdevice.viommu.vdevs.remove(vdevice.virt_id as usize);
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
    /// - [`EOPNOTSUPP`] if the driver contradicts itself, which is a bug;
    /// - what the driver says, and those of [`Context::reserve`](crate::context::Context::reserve).
    pub(crate) fn create<'a>(
        viommu: &'a Ref<'_, Viommu>,
        device: RevocableRef<Device>,
        virt_id: usize,
    ) -> Result<ReadyVdevice<'a>> {
        let (size, init) = viommu
            .ops()
            .map_or((0, None), |ops| (ops.vdevice_size, ops.vdevice_init));
        if size != 0 && kernel::warn_on_once!(size < size_of::<Object<Self>>() || init.is_none()) {
            return Err(EOPNOTSUPP);
        }

        let this = Self {
            viommu: viommu.dependency(),
            idev: device,
            // CAST: `usize` has at most 64 bits.
            virt_id: virt_id as u64,
            destroy: InitSlot::new(None),
        };
        let draft = Draft::reserve(viommu.ctx(), size, Ok::<_, Error>(this))?;
        let slot = viommu.vdevs.reserve(virt_id)?;
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
        &self.idev
    }
}
