// SPDX-License-Identifier: GPL-2.0

//! Reserved regions: IOVA that a device's IOMMU cannot or must not translate freely.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::marker::PhantomData;

use crate::{
    bindings,
    container_of,
    device::{
        Bound,
        Device, //
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
#[pin_data(PinnedDrop)]
pub struct ResvRegions<'a> {
    dev: &'a Device<Bound>,
    #[pin]
    list: Opaque<bindings::list_head>,
}

impl<'a> ResvRegions<'a> {
    /// Asks the IOMMU driver for the reserved regions of `dev`. Without an IOMMU there are none.
    ///
    /// The driver may leave regions out when it runs out of memory; the C API cannot tell.
    pub fn new(dev: &'a Device<Bound>) -> impl PinInit<Self> + 'a {
        pin_init!(Self {
            dev,
            list <- Opaque::ffi_init(|list: *mut bindings::list_head| {
                // SAFETY: This initialises the pinned list head.
                unsafe { bindings::INIT_LIST_HEAD(list) };
                // SAFETY: `dev` is valid; `iommu` does not change while it is bound.
                if unsafe { !(*dev.as_raw()).iommu.is_null() } {
                    // SAFETY: `dev` has an IOMMU driver, the list is empty and initialised.
                    unsafe { bindings::iommu_get_resv_regions(dev.as_raw(), list) };
                }
            }),
        })
    }

    /// The regions, in the driver's order. They may overlap.
    pub fn iter(self: Pin<&Self>) -> Iter<'_> {
        let head = self.get_ref().list.get();

        Iter {
            // SAFETY: The list head was initialised by `new()`.
            next: unsafe { (*head).next },
            head,
            _list: PhantomData,
        }
    }
}

#[pinned_drop]
impl PinnedDrop for ResvRegions<'_> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The list came from `iommu_get_resv_regions()` for the same device, or is empty.
        unsafe { bindings::iommu_put_resv_regions(self.dev.as_raw(), self.list.get()) };
    }
}

/// Iterator over [`ResvRegions`].
///
/// # Invariants
///
/// `next` is `head` or the list node of a `struct iommu_resv_region` of that list, which does not
/// change while this exists.
pub struct Iter<'l> {
    head: *mut bindings::list_head,
    next: *mut bindings::list_head,
    _list: PhantomData<&'l ()>,
}

impl Iterator for Iter<'_> {
    type Item = ResvRegion;

    fn next(&mut self) -> Option<ResvRegion> {
        if core::ptr::eq(self.next, self.head) {
            return None;
        }
        // SAFETY: By the type invariant this is the node of a region.
        let region = unsafe { container_of!(self.next, bindings::iommu_resv_region, list) };
        // INVARIANT: The successor of a node is a node or the head.
        // SAFETY: The region is valid and constant for as long as the list is.
        self.next = unsafe { (*region).list.next };
        // SAFETY: As above.
        let region = unsafe { &*region };

        Some(ResvRegion {
            start: region.start,
            length: region.length,
            kind: match region.type_ {
                bindings::iommu_resv_type_IOMMU_RESV_DIRECT => ResvType::Direct,
                bindings::iommu_resv_type_IOMMU_RESV_DIRECT_RELAXABLE => ResvType::DirectRelaxable,
                bindings::iommu_resv_type_IOMMU_RESV_MSI => ResvType::Msi,
                bindings::iommu_resv_type_IOMMU_RESV_SW_MSI => ResvType::SwMsi,
                // A kind we do not know is best left alone.
                _ => ResvType::Reserved,
            },
        })
    }
}
