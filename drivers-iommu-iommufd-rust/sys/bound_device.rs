// SPDX-License-Identifier: GPL-2.0

//! Devices that are bound to a driver: what this driver asks of `struct device` and of the IOMMU
//! driver.
//!
//! Contracts with C:
//!
//! - A device that is bound to a driver keeps its `struct dev_iommu`, its IOMMU and its group. The
//!   core takes them away when the device is removed from its bus, which unbinds it first. What is
//!   read of them here does not change while it is bound; other fields may.
//! - An IOMMU and its operations live as long as a device has it. Who keeps an IOMMU for longer, as
//!   a vIOMMU does, relies on its driver: one whose IOMMUs can go holds those that are in use.
//! - What an IOMMU driver returns from `hw_info` is memory from kmalloc() of the length that it
//!   says.

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

/// What is constant in the `struct dev_iommu` of a device that is bound.
struct DevIommu {
    iommu: Option<Iommu>,
    max_pasids: u32,
}

/// A device that stays bound to its driver for as long as this exists. C sees a pointer.
///
/// # Invariants
///
/// The device is bound.
#[repr(transparent)]
pub(crate) struct BoundDevice(ARef<kernel::device::Device>);

impl BoundDevice {
    /// The device behind a pointer that its driver passes in.
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

    /// How C sees the device.
    pub(crate) fn as_raw(&self) -> *mut bindings::device {
        from_ref(&*self.0).cast_mut().cast()
    }

    /// What the IOMMU core knows of the device.
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

    /// The IOMMU that translates for the device.
    pub(crate) fn iommu(&self) -> Option<Iommu> {
        self.dev_iommu()?.iommu
    }

    /// The operations of the IOMMU driver.
    pub(crate) fn ops(&self) -> Option<&bindings::iommu_ops> {
        let Iommu(iommu) = self.iommu()?;

        // SAFETY: By the contract at the top of this file the IOMMU and its operations, which its
        // driver registered it with, live as long as the device is bound, and so for longer than
        // `self`.
        Some(unsafe { &*(*iommu.as_ptr()).ops })
    }

    /// Whether an IOMMU driver manages the device. It is not enough that it has a group: VFIO makes
    /// one for a device without an IOMMU.
    pub(crate) fn has_iommu(&self) -> bool {
        self.dev_iommu().is_some()
    }

    /// How many PASIDs the device can use; zero if PASID is not enabled.
    pub(crate) fn max_pasids(&self) -> u32 {
        self.dev_iommu().map_or(0, |dev_iommu| dev_iommu.max_pasids)
    }

    /// Whether it is a device of the selftests.
    pub(crate) fn is_mock(&self) -> bool {
        // SAFETY: The device is valid.
        unsafe { super::test::is_mock_dev(self.as_raw()) }
    }

    /// Whether the IOMMU of the device can do this.
    pub(crate) fn can(&self, cap: Capability) -> bool {
        iommu::capable(self, cap)
    }

    /// Takes control over DMA of the device's group, in the name of `owner`, which the claim keeps.
    ///
    /// # Errors
    ///
    /// [`EPERM`] if another has it, [`EBUSY`] if a driver uses it, or what the IOMMU driver says.
    pub(crate) fn claim_dma<T>(&self, owner: &Arc<T>) -> Result<DmaClaim<T>> {
        // INVARIANT: What the device is bound for includes the claim, by the requirements of
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

    /// The control bits of the PCI PASID capability, or a negative error; [`None`] for a device
    /// that is not on PCI.
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

    /// Whether the page requests of the device share their resources with those of its siblings: it
    /// is a virtual function on PCI, and the physical function supports page requests.
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

    /// Asks the IOMMU driver what it is. `kind` is the type of data that user space wants. Returns
    /// the type that it gets, and the data in the layout of that type.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says.
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
    /// The device that is bound.
    pub(super) fn bound(&self) -> &BoundDevice {
        // SAFETY: The object is initialised, and has a `BoundDevice` there: see `CLayout`.
        unsafe { &*(&raw const (*self.get()).dev).cast() }
    }
}

/// The name of an IOMMU, which need not be there any more. C sees a pointer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Iommu(NonNull<bindings::iommu_device>);

// SAFETY: An IOMMU belongs to no thread.
unsafe impl Send for Iommu {}
// SAFETY: The pointer is compared only.
unsafe impl Sync for Iommu {}

impl Iommu {
    /// Whether it is this one.
    pub(super) fn is(self, iommu: *mut bindings::iommu_device) -> bool {
        self.0.as_ptr() == iommu
    }
}

/// The type of data that user space wants, which shares its place with the answer.
pub(crate) fn wanted_hw_info(cmd: &bindings::iommu_hw_info) -> u32 {
    // SAFETY: All variants of the union are a `u32`.
    unsafe { cmd.__bindgen_anon_1.in_data_type }
}

/// The operations that make domains for devices without an IOMMU.
pub(crate) fn noiommu_ops() -> Option<&'static bindings::iommu_ops> {
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    // SAFETY: A constant.
    return Some(unsafe { &*&raw const bindings::iommufd_noiommu_ops });
    #[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
    None
}

/// Whether the administrator accepts devices whose interrupts cannot be isolated.
pub(crate) fn allow_unsafe_interrupts() -> bool {
    // SAFETY: A `bool` that C writes as a whole, at any time; either value is fine.
    unsafe { (&raw const bindings::iommufd_allow_unsafe_interrupts).read_volatile() }
}

/// DMA of a device's group is under the control of an owner.
///
/// The fields are dropped in order: the owner is compared until the claim ends.
pub(crate) struct DmaClaim<T> {
    _claim: DmaOwner,
    _owner: Arc<T>,
}

const _: () = assert!(size_of::<BoundDevice>() == size_of::<*mut bindings::device>());
