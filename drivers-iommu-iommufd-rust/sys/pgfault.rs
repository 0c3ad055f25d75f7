// SPDX-License-Identifier: GPL-2.0

//! Page faults as user space reads and answers them.

use core::mem::offset_of;
use kernel::{
    bindings,
    iommu::iopf::{
        PageRequest,
        Pending, //
    },
    prelude::*,
    transmute::AsBytes,
    uaccess::UserSliceReader, //
};

/// The id of the device that stands for the group of devices (or the PASID) whose page faults these
/// are. It can change while they wait: when that device is detached, another one takes its place.
pub(crate) fn leader_id(group: &Pending) -> u32 {
    let handle: *const bindings::iommufd_attach_handle = group.attach_handle().cast();

    // SAFETY: By the contract of `super::iopf` with the handler of faults, which all groups of this
    // driver come from, they are under a handle of `super::handle` that lives until they are
    // answered, and a `Pending` has not been. The id is always written as a whole.
    unsafe { (&raw const (*handle).dev_id).read_volatile() }
}

/// A page fault as `read()` tells it: `struct iommu_hwpt_pgfault`.
#[repr(transparent)]
pub(crate) struct PageFault(bindings::iommu_hwpt_pgfault);

// SAFETY: Integers without padding: the sum of their sizes is that of the structure.
unsafe impl AsBytes for PageFault {}
const _: () = assert!(size_of::<PageFault>() == size_of::<[u32; 8]>() + size_of::<u64>());

impl PageFault {
    /// What user space learns of a request of the device `dev_id`. It answers by `cookie`.
    pub(crate) fn new(request: &PageRequest, dev_id: u32, cookie: u32) -> Self {
        Self(bindings::iommu_hwpt_pgfault {
            flags: request.flags,
            dev_id,
            pasid: request.pasid,
            grpid: request.grpid,
            perm: request.perm,
            __reserved: 0,
            addr: request.addr,
            length: 0,
            cookie,
        })
    }
}

/// An answer as `write()` brings it: `struct iommu_hwpt_page_response`.
pub(crate) struct PageResponse {
    /// Which requests it answers.
    pub(crate) cookie: u32,
    /// `IOMMUFD_PAGE_RESP_*`.
    pub(crate) code: u32,
}

const _: () = assert!(size_of::<PageResponse>() == size_of::<bindings::iommu_hwpt_page_response>());
const _: () = assert!(offset_of!(bindings::iommu_hwpt_page_response, code) == size_of::<u32>());

impl PageResponse {
    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// [`EFAULT`].
    pub(crate) fn read(data: &mut UserSliceReader) -> Result<Self> {
        let [cookie, code] = data.read::<[u32; 2]>()?;
        Ok(Self { cookie, code })
    }
}
