// SPDX-License-Identifier: GPL-2.0

//! The fields of a context that C accesses: `struct iommufd_ctx`.
//!
//! Contract: the context type of the layer above begins with a [`CFields`], so that the two have
//! the same address.

use super::file::{
    FilePtr,
    OpeningFile, //
};
use kernel::{
    bindings,
    container_of,
    interop::list::CListHead,
    prelude::*,
    types::Opaque, //
};

/// The fields that `driver.c` uses: the tree of mmap entries and the MSI pages of the context.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
pub(crate) struct CFields {
    #[pin]
    c: Opaque<bindings::iommufd_ctx>,
}

// SAFETY: The memory behind the pointers belongs to the context, and to no thread.
unsafe impl Send for CFields {}
// SAFETY: C serialises access to the fields with the locks that are among them. `file` is a
// `FilePtr`.
unsafe impl Sync for CFields {}

impl CFields {
    /// Initialises the fields of a new context, which belongs to `file`.
    pub(crate) fn new(file: OpeningFile) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and stays where it is.
            c <- Opaque::ffi_init(|slot| unsafe {
                bindings::iommufd_ctx_init(slot, file.as_ptr())
            }),
        })
    }

    /// Returns the C pointer to the context.
    pub(crate) fn as_ptr(&self) -> *mut bindings::iommufd_ctx {
        self.c.get()
    }

    /// Returns the file that the context belongs to.
    pub(crate) fn file(&self) -> &FilePtr {
        // SAFETY: The field is initialised, and laid out as a `FilePtr`. C does not access it.
        unsafe { &*(&raw const (*self.as_ptr()).file).cast() }
    }
}

#[pinned_drop]
impl PinnedDrop for CFields {
    fn drop(self: Pin<&mut Self>) {
        let c = self.c.get();
        // SAFETY: The fields were initialised by `iommufd_ctx_init()`, and the context is not used
        // any more. `driver.c` allocated the entries of the list with kzalloc(), and they are freed
        // only here.
        unsafe {
            let pages = CListHead::from_raw(&raw mut (*c).sw_msi_list);
            while pages.is_linked() {
                let page = pages.next();
                page.del_init();
                let page = container_of!(page.as_raw(), bindings::iommufd_sw_msi_map, sw_msi_item);
                bindings::kfree(page.cast_const().cast());
            }
            bindings::iommufd_ctx_fini(c);
        }
    }
}
