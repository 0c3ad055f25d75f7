// SPDX-License-Identifier: GPL-2.0

//! Ranges of addresses that contain BARs of devices.
//!
//! VFIO's type1 maps whatever is at an address of the process: memory, BARs that vfio-pci has
//! mapped there, or both. Memory is pinned. A BAR cannot be: its device can take it away. So a
//! range is divided where a BAR begins or ends, and a BAR is imported as a dma-buf that VFIO makes
//! of it, see [`dmabuf`](super::dmabuf). Then neither its VMA nor the file of the device is needed
//! any more.
//!
//! Locks: the VMAs are looked up under the `mmap` lock. Nothing is imported or pinned with it held.
#![forbid(unsafe_code)]

use super::{
    dmabuf::Kind,
    NewPages,
    Pages, //
};
use crate::sys::{
    dmabuf::DmaBuf,
    task::{
        go_on,
        AccountMode, //
    }, //
};
use kernel::{
    mm::virt::flags,
    page::PAGE_SIZE,
    prelude::*,
    seg_vec::SegVec, //
};

/// A part of a range of addresses: a BAR, or what is not one.
pub(crate) struct Part {
    bar: Option<DmaBuf>,
    addr: usize,
    /// The number of bytes.
    pub(crate) len: usize,
}

impl Part {
    /// Creates the pages of the part. Also returns the byte in them at which it begins.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the BAR is not accessible now, `ENOMEM`, and those of [`Pages::from_user`].
    pub(crate) fn into_pages(self, writable: bool, mode: AccountMode) -> Result<(NewPages, usize)> {
        let Some(bar) = self.bar else {
            return Pages::from_user(self.addr, self.len, writable, mode);
        };
        match Pages::from_dmabuf(Kind::Bar, bar, 0, self.len, writable) {
            // An access by the CPU would fault, too.
            Err(ENODEV) => Err(EFAULT),
            pages => Ok((NewPages(pages?), 0)),
        }
    }
}

/// Divides the `len` bytes at `addr` of the current process into parts. Returns [`None`] if there
/// is no BAR among them.
///
/// # Errors
///
/// `EFAULT` if there is no VMA somewhere, or a BAR must not be accessed like that; `ENOMEM`,
/// `EINTR` if the task is being killed.
pub(crate) fn divide(addr: usize, len: usize, writable: bool) -> Result<Option<SegVec<Part>>> {
    let end = addr.checked_add(len).ok_or(EOVERFLOW)?;
    if (addr | len) % PAGE_SIZE != 0 {
        return Ok(None);
    }
    let needed = if writable { flags::WRITE } else { flags::READ };
    let mut parts = SegVec::new();
    let mut push = |part| parts.push(part, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
    // The first byte that is neither in a part nor in a BAR.
    let (mut memory, mut at) = (addr, addr);

    let task = current!();
    let vmas = task.mm().ok_or(EFAULT)?.mmap_read_lock();
    while at < end {
        go_on()?;
        let vma = vmas.vma_lookup(at).ok_or(EFAULT)?;
        let next = vma.end().min(end);

        if let Some(bar) = DmaBuf::of_bar(vma, at, next - at)? {
            if vma.flags() & needed == 0 {
                return Err(EFAULT);
            }
            if memory < at {
                push(Part {
                    bar: None,
                    addr: memory,
                    len: at - memory,
                })?;
            }
            push(Part {
                bar: Some(bar),
                addr: at,
                len: next - at,
            })?;
            memory = next;
        }
        at = next;
    }
    drop(vmas);

    if memory == addr {
        return Ok(None);
    }
    if memory < end {
        push(Part {
            bar: None,
            addr: memory,
            len: end - memory,
        })?;
    }
    Ok(Some(parts))
}
