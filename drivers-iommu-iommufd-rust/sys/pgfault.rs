// SPDX-License-Identifier: GPL-2.0

//! Page faults as user space reads and answers them.

use core::mem::offset_of;
use kernel::{
    bindings,
    iommu::iopf::PageRequest,
    prelude::*,
    transmute::AsBytes,
    uaccess::UserSliceReader, //
};

/// A page fault as `read()` returns it: `struct iommu_hwpt_pgfault`.
#[repr(transparent)]
pub(crate) struct PageFault(bindings::iommu_hwpt_pgfault);

// SAFETY: Integers without padding: the sum of their sizes is that of the structure.
unsafe impl AsBytes for PageFault {}
const _: () = assert!(size_of::<PageFault>() == size_of::<[u32; 8]>() + size_of::<u64>());

impl PageFault {
    /// Composes the message for a request of the device `dev_id`. User space responds with
    /// `cookie`.
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

/// A response as `write()` passes it: `struct iommu_hwpt_page_response`.
pub(crate) struct PageResponse {
    /// The cookie of the requests that it responds to.
    pub(crate) cookie: u32,
    /// `IOMMUFD_PAGE_RESP_*`.
    pub(crate) code: u32,
}

const _: () = assert!(size_of::<PageResponse>() == size_of::<bindings::iommu_hwpt_page_response>());
const _: () = assert!(offset_of!(bindings::iommu_hwpt_page_response, code) == size_of::<u32>());

impl PageResponse {
    /// Reads a response.
    ///
    /// # Errors
    ///
    /// [`EFAULT`].
    pub(crate) fn read(data: &mut UserSliceReader) -> Result<Self> {
        let [cookie, code] = data.read::<[u32; 2]>()?;
        Ok(Self { cookie, code })
    }
}
