// SPDX-License-Identifier: GPL-2.0

//! The MSI window: IOVAs at which the kernel maps the pages that devices write to in order to raise
//! interrupts.
//!
//! `driver.c` lists the pages of a context, adds to the list when an interrupt is set up, and
//! records in sets which of them a group uses and which a domain maps. Contract: it does all of
//! that under `sw_msi_lock` of the context, and the entries of the list do not change until the
//! context is freed.

use super::{
    ctx::CFields,
    layout::Raw, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    prelude::*,
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
    /// Creates an empty set.
    pub(crate) fn new() -> Self {
        Self(Opaque::zeroed())
    }

    /// Returns the C pointer to the set.
    #[cfg(CONFIG_IRQ_MSI_IOMMU)]
    fn as_raw(&self) -> *mut bindings::iommufd_sw_msi_maps {
        self.0.get()
    }
}

/// A page of the MSI window: `struct iommufd_sw_msi_map`.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
#[repr(transparent)]
struct SwMsiMap(Opaque<bindings::iommufd_sw_msi_map>);

/// Maps the pages of the MSI window at `window` that a group uses into the domain of a HWPT that it
/// is to be attached to.
///
/// # Errors
///
/// Those of the IOMMU driver.
///
/// Context: takes `sw_msi_lock`.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) fn install(
    ctx: &CFields,
    window: PhysAddr,
    used: &SwMsiMaps,
    hwpt: &Raw<bindings::iommufd_hwpt_paging>,
) -> Result {
    let c = ctx.as_ptr();
    // SAFETY: The mutex is initialised and lives as long as the context.
    let lock = unsafe { kernel::sync::Mutex::<()>::from_raw(&raw mut (*c).sw_msi_lock) };
    let _guard = lock.lock();
    // SAFETY: The list and the set are initialised, and do not change while the lock is held, that
    // is, to the end of this function. The list has entries of this type only.
    let (pages, used) = unsafe {
        let head = &raw mut (*c).sw_msi_list;
        (
            kernel::interop::list::clist_create!(
                head,
                SwMsiMap,
                bindings::iommufd_sw_msi_map,
                sw_msi_item
            ),
            (*used.as_raw()).bitmap,
        )
    };

    for page in pages.iter() {
        let page = page.0.get();
        // SAFETY: The entries of the list do not change.
        let (start, id) = unsafe { ((*page).sw_msi_start, (*page).id as usize) };
        let (word, bit) = (id / usize::BITS as usize, id % usize::BITS as usize);

        if start == window && used.get(word).is_some_and(|bits| bits >> bit & 1 != 0) {
            // SAFETY: The context, the HWPT and the page are valid, and the lock is held. The IOVA
            // lies in the MSI window, which is reserved: nothing else is mapped there.
            kernel::error::to_result(unsafe {
                bindings::iommufd_sw_msi_install(c, hwpt.get(), page)
            })?;
        }
    }
    Ok(())
}

/// Returns whether `maps` contains pages.
///
/// Context: takes `sw_msi_lock`.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) fn has_pages(ctx: &CFields, maps: &SwMsiMaps) -> bool {
    let c = ctx.as_ptr();
    // SAFETY: The mutex is initialised and lives as long as the context.
    let lock = unsafe { kernel::sync::Mutex::<()>::from_raw(&raw mut (*c).sw_msi_lock) };
    let _guard = lock.lock();
    // SAFETY: The set is initialised, and does not change while the lock is held.
    let bitmap = unsafe { (*maps.as_raw()).bitmap };

    bitmap.iter().any(|&bits| bits != 0)
}

/// This architecture has no MSI window that the kernel maps.
#[cfg(not(CONFIG_IRQ_MSI_IOMMU))]
pub(crate) fn has_pages(_ctx: &CFields, _maps: &SwMsiMaps) -> bool {
    false
}

/// This architecture has no MSI window that the kernel maps.
#[cfg(not(CONFIG_IRQ_MSI_IOMMU))]
pub(crate) fn install(
    _ctx: &CFields,
    _window: PhysAddr,
    _used: &SwMsiMaps,
    _hwpt: &Raw<bindings::iommufd_hwpt_paging>,
) -> Result {
    Ok(())
}
