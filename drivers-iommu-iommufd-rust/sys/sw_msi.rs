// SPDX-License-Identifier: GPL-2.0

//! The MSI window: IOVA where the kernel maps the pages that devices write to raise interrupts.
//!
//! `driver.c` lists the pages of a context, adds to the list when an interrupt is set up, and notes
//! in sets which of them a group uses and which a domain maps. Contract: it does all of that under
//! `sw_msi_lock` of the context, and what is listed stays as it is until the context ends.

use kernel::{
    bindings,
    types::Opaque, //
};

/// The pages of the MSI window that a domain maps or a group uses: `struct iommufd_sw_msi_maps`.
#[repr(transparent)]
pub(crate) struct SwMsiMaps(Opaque<bindings::iommufd_sw_msi_maps>);

// SAFETY: A set of bits; it belongs to no thread.
unsafe impl Send for SwMsiMaps {}
// SAFETY: It is accessed under `sw_msi_lock` only, see the contract at the top of this file.
unsafe impl Sync for SwMsiMaps {}

impl SwMsiMaps {
    /// No pages.
    pub(crate) fn new() -> Self {
        Self(Opaque::zeroed())
    }

    /// How C sees the set.
    #[cfg(CONFIG_IRQ_MSI_IOMMU)]
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_sw_msi_maps {
        self.0.get()
    }
}
