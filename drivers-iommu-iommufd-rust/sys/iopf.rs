// SPDX-License-Identifier: GPL-2.0

//! Page faults that the IOMMU core hands over.
//!
//! Contract with the IOMMU core: it calls the handler of a domain's faults with a group whose
//! attach handle is one of [`handle`](super::handle). Handle, domain, HWPT and fault queue live
//! until the handler returns: the layer above detaches the device, which waits for that, and then
//! answers what was delivered before it frees the handle. The device is bound all that time, and so
//! has its fault queue.

use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    iommu::{
        domain::Domain,
        iopf::Group, //
    },
    prelude::*, //
};

/// A HWPT, which begins with a `struct iommufd_hw_pagetable`, and where its page faults go.
pub(crate) trait FaultRoute {
    /// The fault queue of the HWPT, if it has one. It does not change once a device is attached.
    fn fault_queue(&self) -> Option<&impl FaultQueue>;
}

/// Takes groups of page faults.
pub(crate) trait FaultQueue {
    /// Takes a group, to have it answered before the device is detached for good.
    ///
    /// Context: any in which a spinlock can be taken, interrupts excepted.
    fn deliver(&self, group: Group);
}

/// Makes the IOMMU core hand page faults of the domain of a HWPT, which no device is attached to,
/// to the fault queue of the HWPT.
pub(crate) fn route<H: FaultRoute>(domain: &Domain, hwpt: &H) {
    let domain = domain.as_raw();

    // SAFETY: Nothing is attached to the domain yet: nobody reads the fields. The domain was made
    // for this HWPT, which an attachment keeps.
    unsafe {
        (*domain).__bindgen_anon_1.iommufd_hwpt = ptr::from_ref(hwpt).cast_mut().cast();
        (*domain).iopf_handler = Some(handler::<H>);
    }
}

/// The `iopf_handler` of HWPTs that have a fault queue.
///
/// # Safety
///
/// `group` must be as the contract at the top of this file says, of a domain that was passed to
/// [`route`] with a `H`. If this returns 0, it is given away.
unsafe extern "C" fn handler<H: FaultRoute>(group: *mut bindings::iopf_group) -> c_int {
    // SAFETY: By the requirements of this function; the attachment keeps the HWPT.
    let hwpt: &H = unsafe {
        let domain = (*(*group).attach_handle).domain;

        &*(*domain).__bindgen_anon_1.iommufd_hwpt.cast()
    };
    let (Some(queue), Some(group)) = (hwpt.fault_queue(), NonNull::new(group)) else {
        // Not a HWPT with a fault queue: the core keeps the group.
        return ENODEV.to_errno();
    };
    // SAFETY: This is the handler, and it returns 0. The layer above has the group answered before
    // the device is detached for good.
    queue.deliver(unsafe { Group::claim(group) });
    0
}
