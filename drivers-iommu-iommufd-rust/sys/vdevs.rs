// SPDX-License-Identifier: GPL-2.0

//! The vDEVICEs of a vIOMMU, as the drivers of IOMMUs find them.
//!
//! See [`viommu`](super::viommu) for the contract with the drivers. What they find under the lock
//! of `vdevs` is complete, and stays: a vDEVICE is entered there when it has been published, and
//! its [`Link`] takes it out before anything of it is dropped.

use super::layout::{
    Holds,
    HoldsPublished,
    Raw, //
};
use core::{
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    ptr::{
        self,
        from_ref,
        null_mut, //
    }, //
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
/// The xarray is initialised. Its entries are reserved, or pointers to vDEVICEs that are published,
/// and whose [`Link`] names this xarray and the index.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
pub(crate) struct Vdevs {
    #[pin]
    xa: Opaque<bindings::xarray>,
}

// SAFETY: An xarray belongs to no thread, and vDEVICEs are `Send` and `Sync`.
unsafe impl Send for Vdevs {}
// SAFETY: An xarray has a lock of its own, which each change takes.
unsafe impl Sync for Vdevs {}

impl Vdevs {
    /// None yet.
    pub(crate) fn new() -> impl PinInit<Self> {
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
    pub(crate) fn reserve(&self, virt_id: usize) -> Result<Slot<'_>> {
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
pub(crate) struct Slot<'a> {
    vdevs: &'a Vdevs,
    virt_id: usize,
}

impl Slot<'_> {
    /// Lets drivers find a vDEVICE, for which the place was reserved, until it is
    /// [taken out](Link::take_out) or dropped. Cannot fail.
    pub(crate) fn fill(self, vdevice: &impl HoldsPublished<bindings::iommufd_vdevice>) {
        let vdevice = vdevice.raw().get();
        // SAFETY: The vDEVICE is initialised as far as C accesses it. It begins with a `Link`, see
        // `CLayout`, whose fields do not change, and which holds the vIOMMU.
        let is_of_link = unsafe {
            ptr::eq(&raw const (*(*vdevice).viommu).vdevs, self.vdevs.xa.get())
                && (*vdevice).virt_id == self.virt_id as u64
        };

        if kernel::warn_on!(!is_of_link) {
            return;
        }
        let this = ManuallyDrop::new(self);
        // INVARIANT: The vDEVICE is published, and its link was compared.
        // SAFETY: By the type invariants the xarray is initialised, and the index reserved: nothing
        // is allocated, so that it does not fail. An object is aligned as an entry has to be. The
        // link takes the entry out before the vDEVICE is dropped, which is not before the caller
        // gives up what it holds.
        unsafe {
            bindings::xa_store(
                this.vdevs.xa.get(),
                this.virt_id,
                vdevice.cast(),
                bindings::GFP_KERNEL,
            )
        };
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants: the index is reserved by this.
        unsafe { bindings::xa_erase(self.vdevs.xa.get(), self.virt_id) };
    }
}

/// What ties a vDEVICE to the vIOMMU that `V` holds, and to the device that `D` holds: the first
/// fields of `struct iommufd_vdevice` behind the object header.
///
/// Dropping it makes drivers find the vDEVICE no more.
#[repr(C)]
pub(crate) struct Link<V, D>
where
    V: Holds<bindings::iommufd_viommu>,
    D: Holds<bindings::iommufd_device>,
{
    /// The vIOMMU.
    pub(crate) viommu: V,
    device: D,
    virt_id: u64,
}

impl<V, D> Link<V, D>
where
    V: Holds<bindings::iommufd_viommu>,
    D: Holds<bindings::iommufd_device>,
{
    /// The link of a vDEVICE that is to be known as `virt_id`.
    pub(crate) fn new(viommu: V, device: D, virt_id: usize) -> Self {
        use bindings::iommufd_vdevice as C;
        const {
            assert!(size_of::<V>() == size_of::<*mut bindings::iommufd_viommu>());
            assert!(size_of::<D>() == size_of::<*mut bindings::iommufd_device>());
            assert!(offset_of!(C, idev) == offset_of!(C, viommu) + offset_of!(Self, device));
            assert!(offset_of!(C, virt_id) == offset_of!(C, viommu) + offset_of!(Self, virt_id));
        }

        Self {
            viommu,
            device,
            // CAST: `usize` has at most 64 bits.
            virt_id: virt_id as u64,
        }
    }

    /// The device.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Makes drivers find the vDEVICE no more, if they do.
    ///
    /// Context: waits for drivers that have the lock.
    pub(crate) fn take_out(&self) {
        let vdevice =
            from_ref(self).wrapping_byte_sub(offset_of!(bindings::iommufd_vdevice, viommu));
        let xa = self.viommu.raw().vdevs().xa.get();

        // CAST: It was a `usize`.
        // SAFETY: The xarray is initialised, and locked. The address of the vDEVICE is compared
        // only: if there is another entry, or none, nothing is stored, and NULL needs no memory.
        unsafe {
            bindings::xa_lock(xa);
            bindings::__xa_cmpxchg(
                xa,
                self.virt_id as usize,
                vdevice.cast_mut().cast(),
                null_mut(),
                bindings::GFP_KERNEL,
            );
            bindings::xa_unlock(xa);
        }
    }
}

impl<V, D> Drop for Link<V, D>
where
    V: Holds<bindings::iommufd_viommu>,
    D: Holds<bindings::iommufd_device>,
{
    fn drop(&mut self) {
        self.take_out();
    }
}

impl Raw<bindings::iommufd_viommu> {
    /// The vDEVICEs.
    fn vdevs(&self) -> &Vdevs {
        // SAFETY: The object is initialised, and has a `Vdevs` there: see `CLayout`.
        unsafe { &*(&raw const (*self.get()).vdevs).cast() }
    }
}
