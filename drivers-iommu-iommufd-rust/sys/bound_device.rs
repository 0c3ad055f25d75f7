// SPDX-License-Identifier: GPL-2.0

//! Devices that are bound to a driver: queries to `struct device` and to the IOMMU driver.
//!
//! Contracts with C:
//!
//! - A device that is bound to a driver keeps its `struct dev_iommu`, its IOMMU and its group. The
//!   core removes them when the device is removed from its bus, which unbinds it first. The fields
//!   that are read here do not change while it is bound; others may.
//! - An IOMMU and its operations live as long as a device has it. A vIOMMU uses an IOMMU for
//!   longer, which relies on the IOMMU driver: if its IOMMUs can be removed, it holds those in use.
//! - `hw_info` of an IOMMU driver returns memory from kmalloc(), of the length that it stores in
//!   `length`.

use super::layout::Raw;
use core::{
    ops::Deref,
    ptr::{
        from_ref,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    device::Bound,
    error::from_err_ptr,
    iommu::group::{
        self as iommu,
        Capability,
        DmaOwner, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

/// The constant fields of the `struct dev_iommu` of a bound device.
struct DevIommu {
    iommu: Option<Iommu>,
    max_pasids: u32,
}

/// A device that stays bound to its driver for as long as this exists. To C it is a pointer.
///
/// # Invariants
///
/// The device is bound.
#[repr(transparent)]
pub(crate) struct BoundDevice(ARef<kernel::device::Device>);

impl BoundDevice {
    /// Returns the device behind a pointer that its driver passes in.
    ///
    /// # Safety
    ///
    /// `dev` must be valid, and bound to a driver until the result is dropped, and what
    /// [`Self::claim_dma`] returns, and each [`Attachment`](super::handle::Attachment) that has the
    /// device for its leader; the claims last.
    pub(crate) unsafe fn new(dev: *mut bindings::device) -> Self {
        // INVARIANT: By the requirements of this function.
        // SAFETY: By the requirements of this function: a device that is bound is referenced.
        Self(unsafe { kernel::device::Device::get_device(dev) })
    }

    /// Returns the C pointer to the device.
    pub(crate) fn as_raw(&self) -> *mut bindings::device {
        from_ref(&*self.0).cast_mut().cast()
    }

    /// Returns the data of the IOMMU core about the device.
    fn dev_iommu(&self) -> Option<DevIommu> {
        // SAFETY: The device is valid, and by the type invariants bound. So it keeps the structure,
        // and none of these fields changes.
        let (iommu, max_pasids) = unsafe {
            let dev_iommu = NonNull::new((*self.as_raw()).iommu)?.as_ptr();

            ((*dev_iommu).iommu_dev, (*dev_iommu).max_pasids)
        };

        Some(DevIommu {
            iommu: NonNull::new(iommu).map(Iommu),
            max_pasids,
        })
    }

    /// Returns the IOMMU that translates for the device.
    pub(crate) fn iommu(&self) -> Option<Iommu> {
        self.dev_iommu()?.iommu
    }

    /// Returns the operations of the IOMMU driver.
    pub(crate) fn ops(&self) -> Option<&bindings::iommu_ops> {
        let Iommu(iommu) = self.iommu()?;

        // SAFETY: By the contract at the top of this file the IOMMU and its operations, which its
        // driver registered it with, live as long as the device is bound, and so for longer than
        // `self`.
        Some(unsafe { &*(*iommu.as_ptr()).ops })
    }

    /// Returns whether an IOMMU driver manages the device. A group does not prove that: VFIO makes
    /// one for a device without an IOMMU.
    pub(crate) fn has_iommu(&self) -> bool {
        self.dev_iommu().is_some()
    }

    /// Returns the number of PASIDs that the device can use; zero if PASID is not enabled.
    pub(crate) fn max_pasids(&self) -> u32 {
        self.dev_iommu().map_or(0, |dev_iommu| dev_iommu.max_pasids)
    }

    /// Returns whether it is a device of the selftests.
    pub(crate) fn is_mock(&self) -> bool {
        // SAFETY: The device is valid.
        unsafe { super::test::is_mock_dev(self.as_raw()) }
    }

    /// Returns whether the IOMMU of the device has this capability.
    pub(crate) fn can(&self, cap: Capability) -> bool {
        iommu::capable(self, cap)
    }

    /// Claims DMA of the device's group for `owner`, to which the claim holds a reference.
    ///
    /// # Errors
    ///
    /// [`EPERM`] if it has another owner, [`EBUSY`] if a driver uses it, or the error of the IOMMU
    /// driver.
    pub(crate) fn claim_dma<T>(&self, owner: &Arc<T>) -> Result<DmaClaim<T>> {
        // INVARIANT: The device stays bound until the claim is dropped, by the requirements of
        // `Self::new()`.
        // SAFETY: By the requirements of `Self::new()` the device stays bound until the claim is
        // dropped, and domains of its group are detached before that. The claim keeps the owner.
        let claim = unsafe { DmaOwner::claim(self, NonNull::from(&**owner).cast()) }?;

        Ok(DmaClaim {
            _claim: claim,
            _owner: owner.clone(),
        })
    }

    fn pci(&self) -> Option<NonNull<bindings::pci_dev>> {
        // SAFETY: The device is valid.
        if !unsafe { bindings::dev_is_pci(self.as_raw()) } {
            return None;
        }
        // SAFETY: A device on the PCI bus is part of a `struct pci_dev`.
        let pdev = unsafe { kernel::container_of!(self.as_raw(), bindings::pci_dev, dev) };

        NonNull::new(pdev)
    }

    /// Returns the control bits of the PCI PASID capability, or a negative error; [`None`] for a
    /// device that is not on PCI.
    pub(crate) fn pci_pasid_control(&self) -> Option<i32> {
        let pdev = self.pci()?;

        #[cfg(CONFIG_PCI_PASID)]
        // SAFETY: The PCI device is valid.
        return Some(unsafe { bindings::pci_pasid_status(pdev.as_ptr()) });
        #[cfg(not(CONFIG_PCI_PASID))]
        {
            let _ = pdev;
            Some(EINVAL.to_errno())
        }
    }

    /// Returns whether the device shares the resources for page requests with its siblings: it is a
    /// PCI virtual function whose physical function supports page requests.
    pub(crate) fn shares_page_requests(&self) -> bool {
        #[cfg(CONFIG_PCI_PRI)]
        // SAFETY: The PCI device is valid; what kind of function it is does not change.
        return self.pci().is_some_and(|pdev| unsafe {
            bindings::pci_dev::is_virtfn_raw(pdev.as_ptr()) != 0
                && bindings::pci_pri_supported(pdev.as_ptr())
        });
        #[cfg(not(CONFIG_PCI_PRI))]
        false
    }

    /// Gets the description of the IOMMU from its driver. `kind` is the type of data that user
    /// space requests. Returns the type that the driver chose, and data in the layout of that type.
    ///
    /// # Errors
    ///
    /// Those of the IOMMU driver.
    pub(crate) fn hw_info(&self, mut kind: u32) -> Result<(u32, KVec<u8>)> {
        let Some(ops) = self.ops().filter(|ops| ops.hw_info.is_some()) else {
            let none = bindings::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_NONE;
            return Ok((none, KVec::new()));
        };
        let mut len = 0;
        // SAFETY: The operations are those of the device's IOMMU driver, and have this one.
        let data =
            unsafe { bindings::iommufd_shim_hw_info(ops, self.as_raw(), &mut len, &mut kind) };
        let data = from_err_ptr(data)?;
        if data.is_null() {
            return Ok((kind, KVec::new()));
        }
        // CAST: `usize` has at least 32 bits.
        let len = len as usize;
        // SAFETY: By the contract at the top of this file the memory comes from kmalloc(), has
        // `len` bytes, and is ours.
        Ok((kind, unsafe { KVec::from_raw_parts(data.cast(), len, len) }))
    }
}

impl Deref for BoundDevice {
    type Target = kernel::device::Device<Bound>;

    fn deref(&self) -> &Self::Target {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_bound() }
    }
}

impl Raw<bindings::iommufd_device> {
    /// Returns the bound device.
    pub(super) fn bound(&self) -> &BoundDevice {
        // SAFETY: The object is initialised, and has a `BoundDevice` there: see `CLayout`.
        unsafe { &*(&raw const (*self.get()).dev).cast() }
    }
}

/// The identity of an IOMMU, which may have been removed: it is only compared. To C it is a
/// pointer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Iommu(NonNull<bindings::iommu_device>);

// SAFETY: An IOMMU belongs to no thread.
unsafe impl Send for Iommu {}
// SAFETY: The pointer is compared only.
unsafe impl Sync for Iommu {}

impl Iommu {
    /// Returns whether it is this one.
    pub(super) fn is(self, iommu: *mut bindings::iommu_device) -> bool {
        self.0.as_ptr() == iommu
    }
}

/// Returns the type of data that user space requests, which is in a union with the type of the
/// answer.
pub(crate) fn wanted_hw_info(cmd: &bindings::iommu_hw_info) -> u32 {
    // SAFETY: All variants of the union are a `u32`.
    unsafe { cmd.__bindgen_anon_1.in_data_type }
}

/// Returns the operations that allocate domains for devices without an IOMMU.
pub(crate) fn noiommu_ops() -> Option<&'static bindings::iommu_ops> {
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    // SAFETY: A constant.
    return Some(unsafe { &*&raw const bindings::iommufd_noiommu_ops });
    #[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
    None
}

/// Returns whether the administrator accepts devices whose interrupts cannot be isolated.
pub(crate) fn allow_unsafe_interrupts() -> bool {
    // SAFETY: A `bool` that C writes as a whole, at any time; either value is fine.
    unsafe { (&raw const bindings::iommufd_allow_unsafe_interrupts).read_volatile() }
}

/// A claim of DMA of a device's group for an owner.
///
/// The fields are dropped in order: the core compares the address of the owner until the claim
/// ends.
pub(crate) struct DmaClaim<T> {
    _claim: DmaOwner,
    _owner: Arc<T>,
}

const _: () = assert!(size_of::<BoundDevice>() == size_of::<*mut bindings::device>());
