// SPDX-License-Identifier: GPL-2.0

//! Pinning of the folios behind a memory file (`memfd`, hugetlbfs).
//!
//! As [`gup`](super::gup), but the memory is named by a file and needs to be mapped nowhere. The
//! page cache answers in folios, so that the cost is per folio and not per page.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::gup::{
    PinRoom,
    PinnedRun,
    Slots, //
};
use crate::{
    alloc::Flags,
    bindings,
    error::to_result,
    fs::{
        File,
        LocalFile, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use core::slice;

/// Whether a file is one of memory, of shmem or hugetlbfs: others cannot be pinned.
#[inline]
pub fn is_memory_file(file: &LocalFile) -> bool {
    // SAFETY: The file exists.
    unsafe { bindings::shmem_file(file.as_ptr()) || bindings::is_file_hugepages(file.as_ptr()) }
}

/// A queue of pinned folios, filled from a memory file, drained as runs of pages.
///
/// A small queue needs no memory but that on the stack. Folios that are still in it when it is
/// dropped are unpinned.
///
/// # Examples
///
/// ```
/// use kernel::{fs::File, mm::{folio::FolioQueue, gup::PinRoom}};
///
/// /// Pins the first page of `file`.
/// fn first_pfn(file: &File) -> Result<usize> {
///     let mut room = PinRoom::<1>::new();
///     let mut queue = FolioQueue::new(&mut room);
///
///     queue.pin(file, 0, 1)?;
///     let run = queue.next_run()?.ok_or(EINVAL)?;
///     Ok(run.pfn())
/// }
/// ```
///
/// # Invariants
///
/// - `head <= tail <= slots.capacity()`, and the slots `head .. tail` are initialised with folios
///   on each of which we own one pin.
/// - `offset`, in pages, is less than the size of the folio in slot `head`, if there is one.
/// - `pages` is at most the number of pages of these folios, less `offset`.
pub struct FolioQueue<'a> {
    slots: Slots<'a, bindings::folio>,
    head: usize,
    tail: usize,
    offset: usize,
    pages: usize,
}

// SAFETY: Pins belong to no thread, and the slots are ours.
unsafe impl Send for FolioQueue<'_> {}
// SAFETY: There are no methods that change something through a shared reference.
unsafe impl Sync for FolioQueue<'_> {}

impl<'a> FolioQueue<'a> {
    /// Creates an empty queue.
    #[inline]
    pub fn new<const N: usize>(room: &'a mut PinRoom<N>) -> Self {
        // INVARIANT: There is no folio.
        Self {
            slots: Slots::new(room),
            head: 0,
            tail: 0,
            offset: 0,
            pages: 0,
        }
    }

    /// Makes room for `folios` folios, in memory that is allocated for it.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there are folios in the queue, `ENOMEM`.
    pub fn reserve(&mut self, folios: usize, flags: Flags) -> Result {
        if !self.is_empty() {
            return Err(EBUSY);
        }
        self.clear();
        self.slots.allocate(folios, flags)?;
        // INVARIANT: The queue is empty.
        self.head = 0;
        self.tail = 0;
        Ok(())
    }

    /// How many folios there is room for.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// How many pages are in the queue.
    #[inline]
    pub fn len(&self) -> usize {
        self.pages
    }

    /// Whether no page is in the queue.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Pins up to `pages` pages of a memory file, from page number `first` on.
    ///
    /// Holes of the file are filled with memory. Returns how many pages are in the queue now: at
    /// most what there is room for.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `file` is no memory file, if it ends before the last page does, or no page is
    /// asked for; `EBUSY` if the queue is not empty; `ENOMEM`.
    pub fn pin(&mut self, file: &File, first: usize, pages: usize) -> Result<usize> {
        if !self.is_empty() {
            return Err(EBUSY);
        }
        // There can be folios without pages of interest.
        self.clear();

        let last = first
            .checked_add(pages)
            .ok_or(EINVAL)?
            .checked_sub(1)
            .ok_or(EINVAL)?;
        let max_offset = (i64::MAX as usize) >> PAGE_SHIFT;
        if last >= max_offset || pages == 0 {
            return Err(EINVAL);
        }

        let room = self.capacity().min(u32::MAX as usize);
        let mut offset: c_ulong = 0;
        // SAFETY: The file is valid; the slots have room for `room` folios.
        // CAST: The offsets were checked to fit, `room` was limited.
        let ret = unsafe {
            bindings::memfd_pin_folios(
                file.as_ptr(),
                (first * PAGE_SIZE) as i64,
                (last * PAGE_SIZE + (PAGE_SIZE - 1)) as i64,
                self.slots.as_ptr(),
                room as u32,
                &mut offset,
            )
        };
        // INVARIANT: The queue is empty.
        self.head = 0;
        self.tail = 0;
        self.pages = 0;
        if ret < 0 {
            // CAST: An errno fits.
            to_result(ret as c_int)?;
        }

        // INVARIANT: `ret` folios were filled in, each is pinned once. `offset` is the offset, in
        // bytes, of page `first` in its folio.
        self.tail = ret as usize;
        self.offset = offset / PAGE_SIZE;

        // INVARIANT: No more than what is there. If there was room for more, it is all.
        self.pages = if self.tail < room {
            pages
        } else {
            let sizes = self.folios().iter().map(|&folio| {
                // SAFETY: The folios are valid as they are pinned.
                unsafe { bindings::folio_nr_pages(folio) }
            });
            let found: usize = sizes.sum();
            found.saturating_sub(self.offset).min(pages)
        };
        Ok(self.pages)
    }

    /// Takes pages from the front as a run: those of a folio, or as many as are contiguous of
    /// folios that have one page each.
    ///
    /// Returns [`None`] if the queue is empty.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the folio cannot be pinned more often; then nothing has changed.
    #[inline]
    pub fn next_run(&mut self) -> Result<Option<PinnedRun>> {
        let mut folios = self.folios().iter().take(self.pages);
        let Some(&folio) = folios.next() else {
            return Ok(None);
        };
        // SAFETY: The folio is valid as it is pinned.
        let (first, pages) =
            unsafe { (bindings::folio_pfn(folio), bindings::folio_nr_pages(folio)) };

        if pages == 1 {
            let next = folios.zip(first + 1..).take_while(|&(&folio, pfn)| {
                // SAFETY: The same.
                unsafe { bindings::folio_nr_pages(folio) == 1 && bindings::folio_pfn(folio) == pfn }
            });
            let len = 1 + next.count();

            // INVARIANT: These folios, which have one page and one pin each, go to the run.
            self.head += len;
            self.pages -= len;
            // SAFETY: We owned a pin on each of these pages, which are neighbours.
            return Ok(Some(unsafe { PinnedRun::from_raw(first, len) }));
        }

        let offset = self.offset;
        let len = (pages - offset).min(self.pages);
        // Each page of the run needs its own pin. The pin of the folio itself serves for one of
        // them.
        if len > 1 {
            // SAFETY: The folio is valid and pinned.
            // CAST: A folio has less than 2^32 pages.
            to_result(unsafe { bindings::folio_add_pins(folio, (len - 1) as c_uint) })?;
        }
        // INVARIANT: Our pin on this folio goes to the run.
        self.pages -= len;
        self.head += 1;
        self.offset = 0;
        // SAFETY: These pages are `len` neighbouring pages of one folio, which has as many pins for
        // us.
        Ok(Some(unsafe { PinnedRun::from_raw(first + offset, len) }))
    }

    /// The folios from the front on.
    #[inline]
    fn folios(&self) -> &[*mut bindings::folio] {
        // SAFETY: By the type invariant these slots are initialised.
        unsafe { slice::from_raw_parts(self.slots.as_ptr().add(self.head), self.tail - self.head) }
    }

    /// Unpins all that is in the queue.
    pub fn clear(&mut self) {
        let len = self.tail - self.head;
        if len != 0 {
            let slots = self.slots.as_ptr().wrapping_add(self.head);
            // SAFETY: By the type invariant these are folios with pins of ours.
            unsafe { bindings::unpin_folios(slots, len) };
        }
        // INVARIANT: No folio is left.
        self.head = self.tail;
        self.offset = 0;
        self.pages = 0;
    }
}

impl Drop for FolioQueue<'_> {
    #[inline]
    fn drop(&mut self) {
        // There can be folios without pages of interest.
        if self.head != self.tail {
            self.clear();
        }
    }
}
