// SPDX-License-Identifier: GPL-2.0

//! Event queues: files from which user space reads events of the IOMMU.
//!
//! - [`Fault`] carries groups of I/O page faults from the devices of the HWPTs that were created
//!   with it, and carries user space's answers back.
//! - [`Veventq`] carries the events of one type of a vIOMMU to the VMM.
//!
//! Each queue is an object of the context, and has exactly one file. The file is a [`User`] of the
//! queue: the queue cannot be destroyed while the file is open. The file also holds the context, so
//! that the queue stays when `/dev/iommu` is closed before the file.
//!
//! The file is created before the queue is published, but it owns nothing until then ([`NewFile`]).
//! If the creation of the queue fails, queue and file can be dropped in any order.
//!
//! [`User`]: crate::object::User
#![forbid(unsafe_code)]

use core::mem::MaybeUninit;
use kernel::{
    fs::{
        anon_inode::{
            AnonFile,
            PendingFile, //
        },
        file::{
            flags,
            FileDescriptorReservation, //
        }, //
    },
    prelude::*, //
};

mod cookies;
mod fault;
mod unread;
mod veventq;

pub(crate) use self::fault::Fault;
pub(crate) use self::veventq::Veventq;

/// IOMMU_FAULT_QUEUE_ALLOC.
pub(crate) use self::fault::alloc as fault_alloc;
/// IOMMU_VEVENTQ_ALLOC.
pub(crate) use self::veventq::alloc as veventq_alloc;

/// A file and its descriptor, without the data that the file will own.
struct NewFile<F: AnonFile<Ptr = KBox<F>>> {
    file: PendingFile<F>,
    fd: FileDescriptorReservation,
    data: KBox<MaybeUninit<F>>,
}

impl<F: AnonFile<Ptr = KBox<F>>> NewFile<F> {
    /// Creates a file and reserves a descriptor for it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`ENFILE`] or [`EMFILE`].
    fn new() -> Result<Self> {
        let data = KBox::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let file = PendingFile::new(flags::O_RDWR)?;
        let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
        Ok(Self { file, fd, data })
    }

    /// Returns the descriptor that the file will have.
    fn fd(&self) -> u32 {
        self.fd.reserved_fd()
    }

    /// Installs the file, which becomes the owner of `data`. Cannot fail.
    fn install(self, data: F) {
        self.file.install(self.fd, self.data.write(data));
    }
}

/// Returns the result of a partial read or write: an error is returned only if nothing was done.
fn partial(done: usize, result: Result) -> Result<usize> {
    match result {
        Err(err) if done == 0 => Err(err),
        _ => Ok(done),
    }
}
