// SPDX-License-Identifier: GPL-2.0

//! Devices: what this driver asks of `struct device` and its IOMMU driver, and the functions that
//! VFIO and others call to bind, attach and unbind.
//!
//! Contracts with C:
//!
//! - The driver of the device passes a device that it is bound to, and stays bound until
//!   `iommufd_device_unbind()` has returned. Until then the device has the same IOMMU driver and
//!   group as when it was passed.
//! - `struct iommufd_device *` comes from a successful `iommufd_device_bind()`; it is a [`User`] of
//!   the device that the caller holds until it calls `iommufd_device_unbind()`, when it calls no
//!   other function with it at the same time.
//! - The memory that an IOMMU driver returns from `hw_info` comes from kmalloc().

use crate::{
    context::Context,
    device::{
        self,
        attach::{
            self,
            Op, //
        },
        group::Group,
        Device, //
    },
    object::{
        Id,
        User, //
    }, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    device::Bound,
    error::{
        from_err_ptr,
        from_result, //
    },
    iommu::group::{
        self as iommu,
        Capability,
        DmaOwner, //
    },
    prelude::*, //
};

/// A device that stays bound to its driver for as long as this exists.
///
/// # Invariants
///
/// Owns a reference to a device that is bound, see the contract at the top of this file.
#[repr(transparent)]
pub(crate) struct BoundDevice(NonNull<bindings::device>);

// SAFETY: References to devices can be used and put on any thread.
unsafe impl Send for BoundDevice {}
// SAFETY: As above.
unsafe impl Sync for BoundDevice {}

impl BoundDevice {
    /// The device behind a pointer that its driver passes in.
    ///
    /// # Safety
    ///
    /// `dev` must be as the contract at the top of this file says, until this is dropped.
    unsafe fn new(dev: NonNull<bindings::device>) -> Self {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::get_device(dev.as_ptr()) };
        // INVARIANT: The reference was just taken.
        Self(dev)
    }

    /// How C sees the device.
    pub(crate) fn as_raw(&self) -> *mut bindings::device {
        self.0.as_ptr()
    }

    /// The IOMMU that translates for the device.
    pub(crate) fn iommu_device(&self) -> Option<NonNull<bindings::iommu_device>> {
        // SAFETY: The device is valid; the IOMMU of a bound device does not change.
        let iommu = unsafe { (*self.as_raw()).iommu.as_ref() }?;

        NonNull::new(iommu.iommu_dev)
    }

    /// The operations of the IOMMU driver.
    pub(crate) fn ops(&self) -> Option<&bindings::iommu_ops> {
        let iommu = self.iommu_device()?;

        // SAFETY: The IOMMU of a bound device and its driver live.
        unsafe { iommu.as_ref().ops.as_ref() }
    }

    /// Whether an IOMMU driver manages the device. It is not enough that it has a group: VFIO makes
    /// one for a device without an IOMMU.
    pub(crate) fn has_iommu(&self) -> bool {
        // SAFETY: The device is valid.
        unsafe { !(*self.as_raw()).iommu.is_null() }
    }

    /// Whether it is a device of the selftests.
    pub(crate) fn is_mock(&self) -> bool {
        // SAFETY: The device lives.
        unsafe { super::test::is_mock_dev(self.as_raw()) }
    }

    /// Whether the IOMMU of the device can do this.
    pub(crate) fn can(&self, cap: Capability) -> bool {
        iommu::capable(self, cap)
    }

    /// Takes control over DMA of the device's group, in the name of a context.
    ///
    /// # Errors
    ///
    /// [`EPERM`] if another has it, [`EBUSY`] if a driver uses it, or what the IOMMU driver says.
    pub(crate) fn claim_dma(&self, ctx: &Context) -> Result<DmaOwner> {
        // SAFETY: By the type invariants the device stays bound; the claim ends before the device
        // object does, and with it the promise of the driver.
        unsafe { DmaOwner::claim(self, NonNull::from(ctx).cast()) }
    }

    /// How many PASIDs the device can use; zero if PASID is not enabled.
    pub(crate) fn max_pasids(&self) -> u32 {
        // SAFETY: The device is valid; the field does not change while it is bound.
        unsafe { (*self.as_raw()).iommu.as_ref() }.map_or(0, |iommu| iommu.max_pasids)
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
        // SAFETY: The PCI device is valid.
        return self.pci().is_some_and(|pdev| unsafe {
            pdev.as_ref().is_virtfn() != 0 && bindings::pci_pri_supported(pdev.as_ptr())
        });
        #[cfg(not(CONFIG_PCI_PRI))]
        false
    }

    /// Asks the IOMMU driver what it is. `kind` is the type of data that user space wants.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says.
    pub(crate) fn hw_info(&self, kind: u32) -> Result<HwInfo> {
        let mut info = HwInfo {
            kind,
            data: ptr::null_mut(),
            len: 0,
        };
        let Some(ops) = self.ops().filter(|ops| ops.hw_info.is_some()) else {
            info.kind = bindings::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_NONE;
            return Ok(info);
        };
        // SAFETY: The operations are those of the device's IOMMU driver, and have this one.
        let data = unsafe {
            bindings::iommufd_shim_hw_info(ops, self.as_raw(), &mut info.len, &mut info.kind)
        };
        info.data = from_err_ptr(data)?.cast();
        Ok(info)
    }
}

impl Deref for BoundDevice {
    type Target = kernel::device::Device<Bound>;

    fn deref(&self) -> &Self::Target {
        // SAFETY: By the type invariants.
        unsafe { kernel::device::Device::from_raw(self.as_raw()) }
    }
}

impl Drop for BoundDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::put_device(self.as_raw()) };
    }
}

/// What an IOMMU driver says about itself: `data` in the layout that `kind` stands for.
pub(crate) struct HwInfo {
    pub(crate) kind: u32,
    data: *mut u8,
    len: u32,
}

impl HwInfo {
    /// The data.
    pub(crate) fn data(&self) -> &[u8] {
        if self.data.is_null() {
            return &[];
        }
        // CAST: `usize` has at least 32 bits.
        // SAFETY: The IOMMU driver returned so many bytes.
        unsafe { core::slice::from_raw_parts(self.data, self.len as usize) }
    }
}

impl Drop for HwInfo {
    fn drop(&mut self) {
        // SAFETY: See the contract at the top of this file; NULL is fine.
        unsafe { bindings::kfree(self.data.cast()) };
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
    // SAFETY: A flag that may change at any time; either value is fine.
    unsafe { (&raw const bindings::iommufd_allow_unsafe_interrupts).read_volatile() }
}

/// Maps the pages of the MSI window that a group uses into a domain that it is to be attached to.
///
/// # Errors
///
/// What the IOMMU driver says.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) fn install_msi_pages(
    ctx: &Context,
    group: &Group,
    hwpt: &crate::object::Object<crate::hwpt::HwptPaging>,
) -> Result {
    let c = ctx.as_ptr();
    // SAFETY: The mutex is initialised and lives as long as the context.
    let lock = unsafe { kernel::sync::Mutex::<()>::from_raw(&raw mut (*c).sw_msi_lock) };
    let guard = lock.lock();
    // SAFETY: The lock is held.
    let required = unsafe { (*group.required_sw_msi().as_raw()).bitmap };
    // SAFETY: The list is initialised, and does not change while the lock is held.
    let head = unsafe { &raw mut (*c).sw_msi_list };
    // SAFETY: As above.
    let mut next = unsafe { (*head).next };

    while next != head {
        // SAFETY: As above; the entries of the list are of this type.
        let map = unsafe { kernel::container_of!(next, bindings::iommufd_sw_msi_map, sw_msi_item) };
        // SAFETY: The fields of an entry do not change.
        let (start, id) = unsafe { ((*map).sw_msi_start, (*map).id as usize) };
        // SAFETY: The lock is held, and entries stay as they are in the list.
        next = unsafe { (*next).next };

        let used = required
            .get(id / usize::BITS as usize)
            .is_some_and(|word| word & (1 << (id % usize::BITS as usize)) != 0);
        if used && start == group.sw_msi_start() {
            // SAFETY: The lock is held, and all are valid.
            kernel::error::to_result(unsafe {
                bindings::iommufd_sw_msi_install(c, hwpt.as_ptr().cast(), map)
            })?;
        }
    }
    drop(guard);
    Ok(())
}

/// No interrupt of this architecture goes through a window that the kernel maps.
#[cfg(not(CONFIG_IRQ_MSI_IOMMU))]
pub(crate) fn install_msi_pages(
    _ctx: &Context,
    _group: &Group,
    _hwpt: &crate::object::Object<crate::hwpt::HwptPaging>,
) -> Result {
    Ok(())
}

/// A pointer for C, which this driver never follows.
#[repr(transparent)]
pub(crate) struct ForC<T>(*const T);

// SAFETY: The pointer is not followed.
unsafe impl<T> Send for ForC<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for ForC<T> {}

impl<T> From<&T> for ForC<T> {
    fn from(target: &T) -> Self {
        Self(target)
    }
}

const _: () = {
    use core::mem::offset_of;
    const HEADER: usize = size_of::<bindings::iommufd_object>();

    assert!(Device::ICTX + HEADER == offset_of!(bindings::iommufd_device, ictx));
    assert!(Device::IGROUP + HEADER == offset_of!(bindings::iommufd_device, igroup));
    assert!(Device::DEV + HEADER == offset_of!(bindings::iommufd_device, dev));
    assert!(Group::SW_MSI_START == offset_of!(bindings::iommufd_group, sw_msi_start));
    assert!(Group::REQUIRED_SW_MSI == offset_of!(bindings::iommufd_group, required_sw_msi));
};

/// The device object that a driver got from `iommufd_device_bind()`, lent.
///
/// # Safety
///
/// As the contract at the top of this file says, for as long as the result exists.
unsafe fn borrow(idev: *mut bindings::iommufd_device) -> ManuallyDrop<User<Device>> {
    // SAFETY: By the requirements of this function; the count stays with the driver.
    ManuallyDrop::new(unsafe { User::from_raw(idev.cast()) })
}

/// The context of a device.
///
/// # Safety
///
/// As for [`borrow`].
unsafe fn context_of<'a>(idev: *mut bindings::iommufd_device) -> &'a Context {
    // SAFETY: By the requirements of this function; the context outlives its objects.
    unsafe { Context::from_ptr((*idev).ictx) }
}

/// Binds a device to a context, see `include/linux/iommufd.h`.
///
/// Returns the device object, or an error pointer, and in `id` the id that user space knows it by.
///
/// # Safety
///
/// As the contract at the top of this file says. `ictx` must be live during the call, and `id`
/// valid for writing.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_bind(
    ictx: *mut bindings::iommufd_ctx,
    dev: *mut bindings::device,
    id: *mut u32,
) -> *mut bindings::iommufd_device {
    // SAFETY: By the requirements of this function.
    let (ctx, dev) = unsafe {
        (
            Context::from_ptr(ictx),
            BoundDevice::new(NonNull::new_unchecked(dev)),
        )
    };
    match device::bind(ctx, dev) {
        Ok(user) => {
            // SAFETY: By the requirements of this function.
            unsafe { *id = user.id() };
            user.into_raw().cast()
        }
        Err(err) => err.to_ptr(),
    }
}

/// Undoes `iommufd_device_bind()`.
///
/// # Safety
///
/// As the contract at the top of this file says. `idev` is not valid after this.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_unbind(idev: *mut bindings::iommufd_device) {
    // SAFETY: By the requirements of this function.
    let (ctx, user) = unsafe { (context_of(idev), User::<Device>::from_raw(idev.cast())) };

    user.destroy(ctx, Id::Free);
}

/// Attaches a device, or a PASID of it, to a HWPT or an IOAS, see `include/linux/iommufd.h`.
///
/// # Safety
///
/// As the contract at the top of this file says. `pt_id` must be valid for reading and writing.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_attach(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
    pt_id: *mut u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { change(idev, pasid, pt_id, Op::Attach) }
}

/// Attaches a device, or a PASID of it, that is attached, to another HWPT or IOAS.
///
/// # Safety
///
/// As for [`iommufd_device_attach`].
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_replace(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
    pt_id: *mut u32,
) -> c_int {
    // SAFETY: By the requirements of this function.
    unsafe { change(idev, pasid, pt_id, Op::Replace) }
}

/// # Safety
///
/// As for [`iommufd_device_attach`].
unsafe fn change(
    idev: *mut bindings::iommufd_device,
    pasid: u32,
    pt_id: *mut u32,
    op: Op,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let (ctx, device, id) = unsafe { (context_of(idev), borrow(idev), &mut *pt_id) };

    from_result(|| attach::change(ctx, &device, pasid, id, op).map(|()| 0))
}

/// Detaches a device, or a PASID of it: its DMA is blocked then.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_detach(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
) {
    // SAFETY: By the requirements of this function.
    let (ctx, device) = unsafe { (context_of(idev), borrow(idev)) };

    if let Some(hwpt) = attach::detach(&device, pasid) {
        hwpt.put(ctx);
    }
}

/// The context that a device is bound to. The caller's reference is that of the device.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_to_ictx(
    idev: *mut bindings::iommufd_device,
) -> *mut bindings::iommufd_ctx {
    // SAFETY: By the requirements of this function.
    unsafe { (*idev).ictx }
}

/// The id that user space knows the device by.
///
/// # Safety
///
/// As the contract at the top of this file says.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_to_id(idev: *mut bindings::iommufd_device) -> u32 {
    // SAFETY: By the requirements of this function.
    unsafe { borrow(idev) }.id()
}

/// Whether a device of the IOMMU group is bound to the context.
///
/// # Safety
///
/// `ictx` must be NULL or live during the call. `group` is compared only.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_has_group(
    ictx: *mut bindings::iommufd_ctx,
    group: *mut bindings::iommu_group,
) -> bool {
    if ictx.is_null() || group.is_null() {
        return false;
    }
    // SAFETY: By the requirements of this function.
    let ctx = unsafe { Context::from_ptr(ictx) };

    ctx.any_object::<Device>(|device| {
        let of_device = device.group().iommu();
        of_device.is_some_and(|of_device| ptr::eq(of_device.as_raw(), group))
    })
}
