// SPDX-License-Identifier: GPL-2.0

//! Attachments to dma-bufs, whose memory belongs to a device.
//!
//! Contract with the exporter: calls in both directions pass a `struct dma_buf_attachment` whose
//! `importer_priv` is the [`Importer`] that the attachment was made for. The exporter calls
//! `invalidate_mappings` under the reservation lock of the buffer, from `dma_buf_dynamic_attach()`
//! on until `dma_buf_detach()` returns. An [`Import`] owns both, and detaches before the importer
//! is dropped, so that it is complete for as long as the exporter can call.
//!
//! The physical address is obtained outside of the dma-buf interface, by functions of VFIO and of
//! the mock driver.

use core::ops::Deref;
#[cfg(CONFIG_DMA_SHARED_BUFFER)]
use kernel::io::PhysAddr;
use kernel::prelude::*;

/// A piece of the physical address space.
#[cfg(CONFIG_DMA_SHARED_BUFFER)]
pub(crate) struct PhysRange {
    /// The first byte.
    pub(crate) start: PhysAddr,
    /// The number of bytes.
    pub(crate) len: usize,
}

/// The user of an imported dma-buf.
#[cfg(CONFIG_DMA_SHARED_BUFFER)]
pub(crate) trait Importer: Send + Sync {
    /// Receives the address of the memory. Called once, under the reservation lock of the buffer.
    ///
    /// # Errors
    ///
    /// Those of the importer, if it cannot use such memory. [`Self::revoked`] is not called then.
    fn mapped(&self, phys: PhysRange) -> Result;

    /// Stops using the memory at once. Called under the reservation lock of the buffer, after
    /// [`Self::mapped`] at any time.
    fn revoked(&self);

    /// Returns whether [`Self::returned`] is to be called. Not before [`Self::mapped`] was.
    fn returns(&self) -> bool;

    /// The memory can be used again, after it was revoked. Called as [`Self::revoked`].
    fn returned(&self, phys: PhysRange);
}

#[cfg(CONFIG_DMA_SHARED_BUFFER)]
mod imp {
    use super::{
        super::miscdev::global_device,
        *, //
    };
    use core::{
        marker::PhantomData,
        ptr::{
            self,
            NonNull, //
        }, //
    };
    use kernel::{
        bindings,
        error::{
            from_err_ptr,
            to_result, //
        },
        mm::virt::VmaRef,
        sync::SetOnce, //
    };

    /// A reference to a dma-buf.
    ///
    /// # Invariants
    ///
    /// The pointer is valid, and we own a reference.
    pub(crate) struct DmaBuf(NonNull<bindings::dma_buf>);

    // SAFETY: A dma-buf belongs to no thread.
    unsafe impl Send for DmaBuf {}
    // SAFETY: The fields used here are constant, or protected by the buffer's own lock.
    unsafe impl Sync for DmaBuf {}

    impl DmaBuf {
        /// Gets the dma-buf of a file descriptor.
        ///
        /// # Errors
        ///
        /// `EBADF` if there is no file, `EINVAL` if it is not a dma-buf.
        pub(crate) fn get(fd: i32) -> Result<Self> {
            // SAFETY: Any number is fine.
            let buf = from_err_ptr(unsafe { bindings::dma_buf_get(fd) })?;

            // INVARIANT: We have just got a reference.
            NonNull::new(buf).map(Self).ok_or(EINVAL)
        }

        /// Creates a buffer of the `len` bytes of a BAR that are mapped at `addr`. Returns [`None`]
        /// if the VMA is not a BAR that vfio-pci has mapped.
        ///
        /// # Errors
        ///
        /// `EINVAL` if the range is not one of pages of the VMA, `ENODEV` if the device is being
        /// removed, [`ENOMEM`].
        pub(crate) fn of_bar(vma: &VmaRef, addr: usize, len: usize) -> Result<Option<Self>> {
            // SAFETY: The VMA is valid, and its mm locked while there is a `VmaRef`.
            let buf = from_err_ptr(unsafe {
                bindings::iommufd_shim_vfio_dmabuf_from_vma(vma.as_ptr(), addr, len)
            });

            match buf {
                // INVARIANT: We have just got a reference.
                Ok(buf) => Ok(NonNull::new(buf).map(Self)),
                Err(EOPNOTSUPP) => Ok(None),
                Err(err) => Err(err),
            }
        }

        /// Returns the number of bytes.
        pub(crate) fn size(&self) -> usize {
            // SAFETY: By the type invariant; the size is constant.
            unsafe { (*self.0.as_ptr()).size }
        }

        /// Runs `f` with the reservation lock held.
        fn with_resv<R>(&self, f: impl FnOnce() -> R) -> R {
            // SAFETY: By the type invariant; the lock is as long-lived as the buffer.
            let resv = unsafe { (*self.0.as_ptr()).resv };

            // Without a `ww_acquire_ctx` it waits and cannot fail.
            // SAFETY: The lock is initialised, and kept by the buffer, of which we have a
            // reference.
            let _ = unsafe { bindings::dma_resv_lock(resv, ptr::null_mut()) };
            let res = f();
            // SAFETY: Taken above.
            unsafe { bindings::dma_resv_unlock(resv) };
            res
        }

        /// Creates an importer, attaches it to the buffer, and passes it the address of the memory.
        ///
        /// # Errors
        ///
        /// Those of `importer` and of [`Importer::mapped`]; [`ENOMEM`]; `EOPNOTSUPP` if the
        /// exporter has no function for the physical address; those of the exporter.
        pub(crate) fn import<T: Importer>(
            self,
            importer: impl PinInit<T, Error>,
        ) -> Result<Pin<KBox<Import<T>>>> {
            let import = KBox::pin_init(
                try_pin_init!(Import {
                    attachment: SetOnce::new(),
                    importer <- importer,
                }? Error),
                GFP_KERNEL_ACCOUNT,
            )?;
            let importer = &raw const import.importer;

            // SAFETY: The buffer and the device are valid, the operations are constant. The
            // importer is pinned, and outlives the attachment: that is either dropped at the end of
            // this function, before `import`, or becomes the field of `import` that is dropped
            // before the importer.
            let attach = from_err_ptr(unsafe {
                bindings::dma_buf_dynamic_attach(
                    self.0.as_ptr(),
                    global_device(),
                    AttachOps::<T>::OPS,
                    importer.cast_mut().cast(),
                )
            })?;
            // INVARIANT: Just attached, and not pinned yet.
            let mut attachment = Attachment {
                attach: NonNull::new(attach).ok_or(EINVAL)?,
                pinned: false,
                buf: self,
            };
            let Attachment { pinned, buf, .. } = &mut attachment;

            buf.with_resv(|| -> Result {
                // SAFETY: The attachment is valid and the reservation lock is held.
                to_result(unsafe { bindings::dma_buf_pin(attach) })?;
                // INVARIANT: It was just pinned.
                *pinned = true;

                // SAFETY: The attachment is valid, and the reservation lock is held.
                let phys = unsafe { phys_of(attach) }?;
                // From here on it can be revoked, as soon as the lock is free.
                import.importer.mapped(phys)
            })?;
            // INVARIANT: The attachment is that of the importer.
            import.attachment.populate(attachment);
            Ok(import)
        }
    }

    impl Drop for DmaBuf {
        fn drop(&mut self) {
            // SAFETY: By the type invariant we own a reference.
            unsafe { bindings::dma_buf_put(self.0.as_ptr()) };
        }
    }

    /// Gets the physical address of a buffer from its exporter.
    ///
    /// # Safety
    ///
    /// `attach` must be valid, and the reservation lock of its buffer be held.
    unsafe fn phys_of(attach: *mut bindings::dma_buf_attachment) -> Result<PhysRange> {
        let mut phys = bindings::phys_vec::default();

        #[cfg(CONFIG_IOMMUFD_TEST)]
        let mock = {
            // SAFETY: By the contract of this function.
            let ret = unsafe { bindings::iommufd_test_dma_buf_iommufd_map(attach, &mut phys) };

            to_result(ret)
        };
        #[cfg(not(CONFIG_IOMMUFD_TEST))]
        let mock: Result = Err(EOPNOTSUPP);

        if mock == Err(EOPNOTSUPP) {
            // SAFETY: By the contract of this function.
            to_result(unsafe { bindings::iommufd_shim_vfio_dmabuf_map(attach, &mut phys) })?;
        } else {
            mock?;
        }
        Ok(PhysRange {
            start: phys.paddr,
            len: phys.len,
        })
    }

    /// The attachment of an importer to a dma-buf. Dropping it detaches.
    ///
    /// # Invariants
    ///
    /// `attach` is a valid attachment to `buf` that we own; it is pinned if `pinned` is true.
    struct Attachment {
        attach: NonNull<bindings::dma_buf_attachment>,
        pinned: bool,
        buf: DmaBuf,
    }

    // SAFETY: An attachment belongs to no thread.
    unsafe impl Send for Attachment {}
    // SAFETY: There are no methods.
    unsafe impl Sync for Attachment {}

    impl Drop for Attachment {
        fn drop(&mut self) {
            let attach = self.attach.as_ptr();

            if self.pinned {
                self.buf.with_resv(|| {
                    // SAFETY: It is valid and pinned, and the reservation lock is held.
                    unsafe { bindings::dma_buf_unpin(attach) }
                });
            }
            // SAFETY: It is valid, is an attachment to this buffer, and not used any more.
            unsafe { bindings::dma_buf_detach(self.buf.0.as_ptr(), attach) };
        }
    }

    /// An importer that is attached to a dma-buf. Dropping it detaches it.
    ///
    /// # Invariants
    ///
    /// If there is an attachment, it was made for `importer`, and there is no other one that was.
    #[pin_data]
    pub(crate) struct Import<T> {
        /// Dropped first: as long as it exists, the exporter can call the importer.
        attachment: SetOnce<Attachment>,
        #[pin]
        importer: T,
    }

    impl<T> Deref for Import<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.importer
        }
    }

    /// The operations of all attachments of a kind of importers.
    struct AttachOps<T>(PhantomData<T>);

    impl<T: Importer> AttachOps<T> {
        const OPS: &'static bindings::dma_buf_attach_ops = &bindings::dma_buf_attach_ops {
            allow_peer2peer: true,
            invalidate_mappings: Some(Self::invalidate_mappings),
        };

        /// The exporter takes its memory away, or announces that it has returned.
        ///
        /// # Safety
        ///
        /// `attach` must be an attachment of a `T`, and the reservation lock of its buffer be held.
        unsafe extern "C" fn invalidate_mappings(attach: *mut bindings::dma_buf_attachment) {
            // SAFETY: `importer_priv` is the importer of an `Import`, a `T` by the requirements of
            // this function. It is pinned, and dropped only after `dma_buf_detach()` has returned.
            let importer: &T = unsafe { &*(*attach).importer_priv.cast() };

            importer.revoked();
            if importer.returns() {
                // SAFETY: By the requirements of this function the attachment is valid, and the
                // lock held. Both exporters have said whether the memory is revoked before they
                // call this.
                if let Ok(phys) = unsafe { phys_of(attach) } {
                    importer.returned(phys);
                }
            }
        }
    }
}

#[cfg(not(CONFIG_DMA_SHARED_BUFFER))]
mod imp {
    use super::*;

    /// There are no dma-bufs.
    pub(crate) enum DmaBuf {}

    /// There are no importers that are attached.
    pub(crate) struct Import<T>(DmaBuf, core::marker::PhantomData<T>);

    impl<T> Deref for Import<T> {
        type Target = T;

        fn deref(&self) -> &T {
            match self.0 {}
        }
    }

    impl DmaBuf {
        pub(crate) fn get(_fd: i32) -> Result<Self> {
            Err(ENXIO)
        }

        pub(crate) fn of_bar(
            _vma: &kernel::mm::virt::VmaRef,
            _addr: usize,
            _len: usize,
        ) -> Result<Option<Self>> {
            Ok(None)
        }

        pub(crate) fn size(&self) -> usize {
            match *self {}
        }

        pub(crate) fn import<T>(
            self,
            _importer: impl PinInit<T, Error>,
        ) -> Result<Pin<KBox<Import<T>>>> {
            match self {}
        }
    }
}

pub(crate) use imp::{
    DmaBuf,
    Import, //
};
