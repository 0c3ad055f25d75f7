// SPDX-License-Identifier: GPL-2.0

//! Reserved regions: IOVA that a device's IOMMU cannot or must not translate freely.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    interop::list::{
        clist_create,
        CListHead, //
    },
    io::PhysAddr,
    prelude::*,
    types::Opaque, //
};

/// Why a region is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResvType {
    /// Must be mapped one to one at all times.
    Direct,
    /// Asks to be mapped one to one, but can do without when user space drives the device.
    DirectRelaxable,
    /// Must never be mapped or used for DMA.
    Reserved,
    /// The hardware's window for message-signalled interrupts: it is not translated.
    Msi,
    /// Suggested place for the translation of interrupt messages, managed by software.
    SwMsi,
}

/// A reserved region of a device.
#[derive(Clone, Copy, Debug)]
pub struct ResvRegion {
    /// First byte of the region.
    pub start: PhysAddr,
    /// Bytes.
    pub length: usize,
    /// Why it is reserved.
    pub kind: ResvType,
}

/// The reserved regions of a device, as they were when this was made.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{Bound, Device},
///     iommu::resv::{ResvRegions, ResvType},
/// };
/// use pin_init::stack_pin_init;
///
/// /// Whether interrupt messages of the device go past the page table.
/// fn has_msi_window(dev: &Device<Bound>) -> bool {
///     stack_pin_init!(let regions = ResvRegions::new(dev));
///     let mut regions = regions.as_ref().iter();
///     regions.any(|region| region.kind == ResvType::Msi)
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct ResvRegions<'a> {
    dev: &'a Device<Bound>,
    #[pin]
    list: CListHead,
}

impl<'a> ResvRegions<'a> {
    /// Asks the IOMMU driver for the reserved regions of `dev`. Without an IOMMU there are none.
    ///
    /// The driver may leave regions out when it runs out of memory; the C API cannot tell.
    pub fn new(dev: &'a Device<Bound>) -> impl PinInit<Self> + 'a {
        pin_init!(Self {
            dev,
            list <- CListHead::new(),
            _: {
                let dev = dev.as_raw();
                // Firmware may describe an IOMMU for which there is no driver, and the C function
                // does not ask.
                // SAFETY: `dev` is valid, and keeps its IOMMU, or none, while it is bound.
                let has_iommu = unsafe {
                    let iommu = (*dev).iommu;
                    !iommu.is_null() && !(*iommu).iommu_dev.is_null()
                };
                if has_iommu {
                    // SAFETY: `dev` has an IOMMU driver, the list is empty and initialised.
                    unsafe { bindings::iommu_get_resv_regions(dev, list.as_raw()) };
                }
            },
        })
    }

    /// The regions, in the driver's order. They may overlap.
    pub fn iter(self: Pin<&Self>) -> impl Iterator<Item = ResvRegion> + '_ {
        let list = &self.get_ref().list;
        // SAFETY: The head was initialised by `new()`, and the list does not change until it is
        // dropped. Its entries are regions.
        let list =
            unsafe { clist_create!(list.as_raw(), RawRegion, bindings::iommu_resv_region, list) };

        list.iter().map(RawRegion::describe)
    }
}

#[pinned_drop]
impl PinnedDrop for ResvRegions<'_> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The list came from `iommu_get_resv_regions()` for the same device, or is empty.
        unsafe { bindings::iommu_put_resv_regions(self.dev.as_raw(), self.list.as_raw()) };
    }
}

/// A region as the IOMMU driver describes it.
#[repr(transparent)]
struct RawRegion(Opaque<bindings::iommu_resv_region>);

impl RawRegion {
    fn describe(&self) -> ResvRegion {
        let region = self.0.get();
        // SAFETY: The fields of a region in a list from `iommu_get_resv_regions()` are constant.
        let (start, length, kind) = unsafe { ((*region).start, (*region).length, (*region).type_) };

        ResvRegion {
            start,
            length,
            kind: match kind {
                bindings::iommu_resv_type_IOMMU_RESV_DIRECT => ResvType::Direct,
                bindings::iommu_resv_type_IOMMU_RESV_DIRECT_RELAXABLE => ResvType::DirectRelaxable,
                bindings::iommu_resv_type_IOMMU_RESV_MSI => ResvType::Msi,
                bindings::iommu_resv_type_IOMMU_RESV_SW_MSI => ResvType::SwMsi,
                // A kind we do not know is best left alone.
                _ => ResvType::Reserved,
            },
        }
    }
}
