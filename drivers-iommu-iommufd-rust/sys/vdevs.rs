// SPDX-License-Identifier: GPL-2.0

//! The vDEVICEs of a vIOMMU, as the drivers of IOMMUs find them.
//!
//! See [`viommu`](super::viommu) for the contract with the drivers. Contract with the layer above:
//! a vDEVICE is among those of its vIOMMU from when it has been published until it is destroyed,
//! and its device is there all that time, so that what drivers find under the lock of `vdevs` is
//! complete, and stays.

use super::layout::Raw;
use core::{
    mem::ManuallyDrop,
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

    /// Lets drivers not find the vDEVICE of this id any more.
    pub(crate) fn remove(&self, virt_id: usize) {
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
pub(crate) struct Slot<'a> {
    vdevs: &'a Vdevs,
    virt_id: usize,
}

impl Slot<'_> {
    /// Lets drivers find a vDEVICE, which is complete and published, until it is
    /// [removed](Vdevs::remove). Cannot fail.
    pub(crate) fn fill(self, vdevice: &Raw<bindings::iommufd_vdevice>) {
        let this = ManuallyDrop::new(self);
        // INVARIANT: By the contract at the top of this file.
        // SAFETY: By the type invariants the xarray is initialised, and the index reserved: nothing
        // is allocated, so that it does not fail. An object is aligned as an entry has to be.
        unsafe {
            bindings::xa_store(
                this.vdevs.xa.get(),
                this.virt_id,
                vdevice.get().cast(),
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
