// SPDX-License-Identifier: GPL-2.0

//! Pins that are stored as PFNs, and the memory behind them.
//!
//! While the layer above moves PFNs, pins are owned by a [`PinnedRun`]. Once they are stored, in an
//! IOMMU page table or with an in-kernel access, only the PFNs are left, as [`Run`]s. This file
//! converts one into the other.
//!
//! The *rule of pins*, which no type expresses: the layer above stores each pin of an index for as
//! long as a tier holds the index, and nowhere else. So a run that it reads from a tier, or has
//! stored itself, is pinned; it unpins an index once, when the last holder has released it. Pages
//! of a source that is not writable are never written.

use crate::range::Run;
use core::mem::{
    ManuallyDrop,
    MaybeUninit, //
};
use kernel::{
    bindings,
    fs::{
        File,
        LocalFile, //
    },
    mm::{
        folio::is_memory_file,
        gup::PinnedRun, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

/// A `struct page *`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct PagePtr(*mut bindings::page);

impl PagePtr {
    /// Returns the PFN of the page.
    #[inline]
    pub(crate) fn pfn(self) -> usize {
        // SAFETY: `name_pages()` made the pointer from a page that exists; this reads only its
        // address and constant fields.
        unsafe { bindings::page_to_pfn(self.0) }
    }
}

/// Converts the pins of a run to PFNs.
#[inline]
pub(crate) fn store(run: PinnedRun) -> Run {
    let (pfn, len) = run.into_raw();

    Run { pfn, len }
}

/// Converts stored pins back.
#[inline]
fn take(run: Run) -> PinnedRun {
    // SAFETY: By the rule above the pins of the run are stored. The caller is the only one that
    // converts them; it either unpins them or forgets the result, which leaves them stored.
    unsafe { PinnedRun::from_raw(run.pfn, run.len) }
}

/// Unpins pages whose pins are stored. If they are `dirty`, a device may have written to them.
#[inline]
pub(crate) fn unpin(run: Run, dirty: bool) {
    let run = take(run);

    if dirty {
        run.unpin_dirty();
    } else {
        drop(run);
    }
}

/// Copies bytes out of pages whose pins are stored, and stay so.
///
/// # Errors
///
/// `EINVAL` if there are fewer bytes behind `offset`.
pub(crate) fn read(run: Run, offset: usize, out: &mut [u8]) -> Result {
    ManuallyDrop::new(take(run)).read(offset, out)
}

/// Copies bytes into pages of a writable source, whose pins are stored, and stay so.
///
/// # Errors
///
/// `EINVAL` if there are fewer bytes behind `offset`.
pub(crate) fn write(run: Run, offset: usize, data: &[u8]) -> Result {
    write_pinned(&ManuallyDrop::new(take(run)), offset, data)
}

/// Copies bytes into pages of a writable source.
///
/// # Errors
///
/// `EINVAL` if there are fewer bytes behind `offset`.
pub(crate) fn write_pinned(run: &PinnedRun, offset: usize, data: &[u8]) -> Result {
    // SAFETY: Pages of a writable source are pinned for writing.
    unsafe { run.write(offset, data) }
}

/// Writes the pointer to a page whose pin is stored.
#[inline]
pub(crate) fn name_page(pfn: usize, slot: &mut MaybeUninit<PagePtr>) {
    // SAFETY: The page is pinned, thus exists.
    slot.write(PagePtr(unsafe { bindings::pfn_to_page(pfn) }));
}

/// Writes the pointers to the pages of a run, whose pins are stored, to the front of `out`.
pub(crate) fn name_pages(run: Run, out: &mut [MaybeUninit<PagePtr>]) {
    let len = run.len.min(out.len());
    let (front, _) = out.split_at_mut(len);

    for (slot, pfn) in front.iter_mut().zip(run.pfn..) {
        name_page(pfn, slot);
    }
}

/// Gets the memory file behind a file descriptor.
///
/// # Errors
///
/// `EBADF`; `EINVAL` if it is a file of another kind.
pub(crate) fn memory_file(fd: i32) -> Result<ARef<File>> {
    // CAST: No file has a negative number, nor one above `i32::MAX`.
    let file = LocalFile::fget(fd as u32)?;

    // Other files cannot be pinned, and one of them could be that of the context, which would then
    // keep itself alive.
    if !is_memory_file(&file) {
        return Err(EINVAL);
    }
    // SAFETY: This thread is in no system call that uses `fdget_pos()` on this file, which is of
    // shmem or hugetlbfs: these do not call this driver.
    Ok(unsafe { LocalFile::assume_no_fdget_pos(file) })
}

/// A list of pages whose pins are stored.
pub(crate) struct PageList(KVec<PagePtr>);

impl PageList {
    /// The capacity of a list, whose memory is one page.
    pub(crate) const MAX: usize = PAGE_SIZE / size_of::<PagePtr>();

    /// Creates an empty list.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KVec::with_capacity(Self::MAX, GFP_KERNEL_ACCOUNT)?))
    }

    /// Has `pin` fill the list with `count` pages, all of which it writes if it succeeds.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if `count` exceeds the capacity; those of `pin`.
    pub(crate) fn fill(
        &mut self,
        count: usize,
        pin: impl FnOnce(&mut [MaybeUninit<PagePtr>]) -> Result,
    ) -> Result {
        self.0.clear();
        let out = self.0.spare_capacity_mut().get_mut(..count).ok_or(EINVAL)?;
        pin(out)?;
        // SAFETY: There is room for `count` pages, and `pin()` has written them all.
        unsafe { self.0.inc_len(count) };
        Ok(())
    }

    /// Returns the PFNs of the pages.
    pub(crate) fn pfns(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|page| page.pfn())
    }
}

/// Maps `len` bytes of user memory for the current task, that of a KUnit test, and returns the
/// address.
#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
pub(crate) fn test_memory(len: usize) -> Result<usize> {
    use kernel::error::to_result;

    // SAFETY: A KUnit test runs in a kernel thread of its own, which keeps the memory to its end.
    to_result(unsafe { bindings::kunit_attach_mm() })?;
    // SAFETY: There is an address space now; the other arguments may be anything.
    let addr = unsafe {
        bindings::vm_mmap(
            core::ptr::null_mut(),
            0,
            len,
            (bindings::PROT_READ | bindings::PROT_WRITE) as c_ulong,
            (bindings::MAP_PRIVATE | bindings::MAP_ANONYMOUS) as c_ulong,
            0,
        )
    };
    if addr > usize::MAX - 4096 {
        return Err(ENOMEM);
    }
    Ok(addr)
}
