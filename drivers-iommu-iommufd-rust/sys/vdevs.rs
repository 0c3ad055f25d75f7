// SPDX-License-Identifier: GPL-2.0

//! The table in which IOMMU drivers find the vDEVICEs of a vIOMMU.
//!
//! See [`viommu`](super::viommu) for the contract with the drivers. A vDEVICE that they find under
//! the lock of `vdevs` is complete and not destroyed while they hold it: it is entered after it was
//! published, and its [`VdeviceLink`] removes it before any part of it is dropped.

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

/// The vDEVICEs of a vIOMMU, by the guest's ids of them: a `struct xarray`.
///
/// # Invariants
///
/// The xarray is initialised. Its entries are reserved, or pointers to vDEVICEs that are published,
/// and whose [`VdeviceLink`] names this xarray and the index.
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
    /// Creates an empty table.
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

    /// Reserves the index of a vDEVICE that is not published.
    ///
    /// # Errors
    ///
    /// [`EEXIST`] if there is a vDEVICE of this id; [`ENOMEM`].
    pub(crate) fn reserve(&self, virt_id: usize) -> Result<ReservedIndex<'_>> {
        let xa = self.xa.get();
        // SAFETY: By the type invariants. `__xa_insert()` needs the lock, which it may drop to
        // allocate. A NULL entry reserves the index.
        let ret = unsafe {
            bindings::xa_lock(xa);
            let ret = bindings::__xa_insert(xa, virt_id, null_mut(), bindings::GFP_KERNEL);
            bindings::xa_unlock(xa);
            ret
        };
        to_result(ret).map_err(|err| if err == EBUSY { EEXIST } else { err })?;
        // INVARIANT: The index was just reserved.
        Ok(ReservedIndex {
            vdevs: self,
            virt_id,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Vdevs {
    fn drop(self: Pin<&mut Self>) {
        // The vDEVICEs depend on the vIOMMU, so none is left.
        // SAFETY: By the type invariants, and the xarray is not used any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}

/// A reserved index. Dropping it frees the index.
///
/// # Invariants
///
/// The index `virt_id` of `vdevs` is reserved, by this.
pub(crate) struct ReservedIndex<'a> {
    vdevs: &'a Vdevs,
    virt_id: usize,
}

impl ReservedIndex<'_> {
    /// Enters the vDEVICE for which the index was reserved: drivers find it until it is
    /// [removed](VdeviceLink::take_out) or dropped. Cannot fail.
    pub(crate) fn fill(self, vdevice: &impl HoldsPublished<bindings::iommufd_vdevice>) {
        let vdevice = vdevice.raw().get();
        // SAFETY: The vDEVICE is initialised as far as C accesses it. It begins with a
        // `VdeviceLink`, see `CLayout`, whose fields do not change, and which holds the vIOMMU.
        let is_of_link = unsafe {
            ptr::eq(&raw const (*(*vdevice).viommu).vdevs, self.vdevs.xa.get())
                && (*vdevice).virt_id == self.virt_id as u64
        };

        if kernel::warn_on!(!is_of_link) {
            return;
        }
        let this = ManuallyDrop::new(self);
        // INVARIANT: The vDEVICE is published, and its link names this xarray and index.
        // SAFETY: By the type invariants the xarray is initialised, and the index reserved: nothing
        // is allocated, so it does not fail. Objects have the alignment that entries need. The link
        // removes the entry before the vDEVICE is dropped, which is after the caller has released
        // its handle.
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

impl Drop for ReservedIndex<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants: the index is reserved by this.
        unsafe { bindings::xa_erase(self.vdevs.xa.get(), self.virt_id) };
    }
}

/// The references of a vDEVICE to its vIOMMU, which `V` holds, and its device, which `D` holds: the
/// first fields of `struct iommufd_vdevice` behind the object header.
///
/// Dropping it removes the vDEVICE from the table of the vIOMMU.
#[repr(C)]
pub(crate) struct VdeviceLink<V, D>
where
    V: Holds<bindings::iommufd_viommu>,
    D: Holds<bindings::iommufd_device>,
{
    /// The vIOMMU.
    pub(crate) viommu: V,
    device: D,
    virt_id: u64,
}

impl<V, D> VdeviceLink<V, D>
where
    V: Holds<bindings::iommufd_viommu>,
    D: Holds<bindings::iommufd_device>,
{
    /// Creates the link of a vDEVICE whose index is `virt_id`.
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

    /// Returns the device.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Removes the vDEVICE from the table of the vIOMMU, if it is there.
    ///
    /// Context: waits for drivers that hold the lock of the table.
    pub(crate) fn take_out(&self) {
        let vdevice =
            from_ref(self).wrapping_byte_sub(offset_of!(bindings::iommufd_vdevice, viommu));
        let xa = self.viommu.raw().vdevs().xa.get();

        // CAST: It was a `usize`.
        // SAFETY: The xarray is initialised, and locked. The address of the vDEVICE is compared
        // only: if the entry is another one, or NULL, nothing is stored. Storing NULL needs no
        // memory.
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

impl<V, D> Drop for VdeviceLink<V, D>
where
    V: Holds<bindings::iommufd_viommu>,
    D: Holds<bindings::iommufd_device>,
{
    fn drop(&mut self) {
        self.take_out();
    }
}

impl Raw<bindings::iommufd_viommu> {
    /// Returns the table of the vDEVICEs.
    fn vdevs(&self) -> &Vdevs {
        // SAFETY: The object is initialised, and has a `Vdevs` there: see `CLayout`.
        unsafe { &*(&raw const (*self.get()).vdevs).cast() }
    }
}
