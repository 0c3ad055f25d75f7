// SPDX-License-Identifier: GPL-2.0

//! IOMMU domains that this driver fills.
//!
//! Two rules that no type expresses, see `Documentation/driver-api/iommufd-rust.rst`. The *rule of
//! ranges*: IOMMU drivers do not lock page tables, so that calls of one domain on overlapping IOVA
//! are ordered. That holds because the areas of an IO page table are disjoint and
//! one thread works on an area at a time: the one that holds its IOVA range in the IO page table
//! (`iova_rwsem` for writing, or the area is marked as in flight) or the mutex of its pages, or of
//! the memory behind a dma-buf. A reader of an area's IOVA excludes every unmapper of it: it holds
//! `iova_rwsem` and the area is not of a dma-buf, or it holds the mutex of that memory. (A
//! revocation holds only that mutex.) MSI pages lie in reserved IOVA, where there is no area, and
//! are mapped under `sw_msi_lock`. The *rule of pins*: what is mapped stays pinned until it is
//! unmapped. The pages own the pins and give them up only after the unmap.
//!
//! The domains are complete in the sense of [`kernel::iommu::domain`]: an automatic HWPT for a
//! device that is not attached yet is attached before its domain is listed in the IO page table.
//! One that a device moves to, and one that user space allocates, are listed before that, as in C;
//! but only devices whose IOMMU has `IOMMU_CAP_CACHE_COHERENCY` can be bound, and of the drivers of
//! these IOMMUs, the ones that wait for the first attach (`arm-smmu`, `qcom_iommu`) check for it.
//!
//! `super::hwpt` makes the domains, `super::handle` attaches devices to them.

use crate::{
    mapping::Prot,
    range::IovaRange, //
};
use core::{
    mem::MaybeUninit,
    ops::Deref,
    pin::Pin,
    ptr, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    iommu::domain::{
        DirtyReader,
        Domain,
        OwnedDomain,
        PhysRun, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        Arc, //
    },
    uaccess::UserPtr, //
};

/// An [`iommu_domain`](Domain) whose page table the kernel fills.
///
/// It is shared by the HWPT that it was made for and the IO page table whose areas it shows, and
/// freed with the last of them.
pub(crate) struct PagingDomain(OwnedDomain, ListPlace);

/// The domain of a HWPT, where C looks for it, and the share of it that the HWPT has.
///
/// # Invariants
///
/// `domain` is that of `shared`.
#[repr(C)]
pub(crate) struct HwptDomain {
    domain: *mut bindings::iommu_domain,
    shared: Arc<PagingDomain>,
}

// SAFETY: The pointer is that of what is shared, which is `Send` and `Sync`.
unsafe impl Send for HwptDomain {}
// SAFETY: The pointer is that of what is shared, which is `Send` and `Sync`.
unsafe impl Sync for HwptDomain {}

impl From<Arc<PagingDomain>> for HwptDomain {
    fn from(shared: Arc<PagingDomain>) -> Self {
        // INVARIANT: It is that of `shared`.
        Self {
            domain: shared.as_raw(),
            shared,
        }
    }
}

impl Deref for HwptDomain {
    type Target = Arc<PagingDomain>;

    #[inline]
    fn deref(&self) -> &Arc<PagingDomain> {
        &self.shared
    }
}

/// What the IO page table notes of a domain in its list, under its locks. Nobody else changes it.
pub(crate) struct ListPlace {
    position: Atomic<usize>,
    alignment: Atomic<usize>,
}

impl ListPlace {
    /// The position in the list, if there it is.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.position.load(Relaxed)
    }

    /// The alignment of IOVAs that was counted for the domain.
    #[inline]
    pub(crate) fn alignment(&self) -> usize {
        self.alignment.load(Relaxed)
    }

    /// Notes another position.
    #[inline]
    pub(crate) fn set_position(&self, position: usize) {
        self.position.store(position, Relaxed);
    }

    /// Notes another alignment.
    #[inline]
    pub(crate) fn set_alignment(&self, alignment: usize) {
        self.alignment.store(alignment, Relaxed);
    }
}

impl PagingDomain {
    /// Wraps a domain that the layers above are to fill.
    ///
    /// # Safety
    ///
    /// The domain must be a paging domain that nobody else maps into, except for MSI pages as the
    /// contract at the top of this file says.
    pub(super) unsafe fn from_owned(domain: OwnedDomain) -> Self {
        let place = ListPlace {
            position: Atomic::new(0),
            alignment: Atomic::new(0),
        };

        Self(domain, place)
    }

    /// What the IO page table notes of it.
    #[inline]
    pub(crate) fn place(&self) -> &ListPlace {
        &self.1
    }

    /// Maps `len` bytes of physical memory at `iova`. Devices need not see it before it is
    /// [synced](Self::sync_map).
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], or what the IOMMU driver says. Nothing is mapped then.
    #[inline]
    pub(crate) fn map_nosync(
        &self,
        iova: usize,
        paddr: PhysAddr,
        len: usize,
        prot: Prot,
    ) -> Result {
        // SAFETY: The domain is complete, and the range, which belongs to an area, is the caller's:
        // by the rule of ranges nobody else maps or unmaps there, and nothing is mapped. By the
        // rule of pins the memory stays until the range is unmapped, and may be accessed like that.
        unsafe {
            self.0
                .map_nosync(iova, paddr, len, prot.0, GFP_KERNEL_ACCOUNT)
        }
    }

    /// As [`Self::map_nosync`] for each of `runs`, one behind the other from `iova` on.
    ///
    /// # Errors
    ///
    /// As [`Self::map_nosync`] of the first run that fails. Nothing of the runs is mapped then.
    #[inline]
    pub(crate) fn map_runs_nosync(&self, iova: usize, runs: &[PhysRun], prot: Prot) -> Result {
        // SAFETY: See the contract at the top of this file.
        unsafe {
            self.0
                .map_runs_nosync(iova, runs, prot.0, GFP_KERNEL_ACCOUNT)
        }
    }

    /// Makes devices see all of `range`, which was mapped.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says. The range is mapped nevertheless.
    #[inline]
    pub(crate) fn sync_map(&self, range: IovaRange) -> Result {
        // SAFETY: The domain is complete.
        unsafe { self.0.sync_map(range.start, size_of_range(range)) }
    }

    /// Unmaps all of `range`, which was mapped. Devices cannot use it any more after this.
    #[inline]
    pub(crate) fn unmap(&self, range: IovaRange) {
        let size = size_of_range(range);

        // SAFETY: The domain is complete, and the range is the caller's: by the rule of ranges
        // nobody else maps, unmaps or reads there.
        let done = unsafe { self.0.unmap(range.start, size) };
        // Memory that stays mapped while its pins go would be open to devices.
        kernel::warn_on!(done != size);
    }

    /// As [`Self::unmap`] for several ranges, with one flush of the IOMMU's caches for all of them.
    #[inline]
    pub(crate) fn unmap_many(&self, ranges: impl Iterator<Item = IovaRange>) {
        let ranges = ranges.map(|range| (range.start, size_of_range(range)));

        // SAFETY: The domain is complete, and the ranges are the caller's: by the rule of ranges
        // nobody else maps, unmaps or reads there.
        let all = unsafe { self.0.unmap_many(ranges) };
        // Memory that stays mapped while its pins go would be open to devices.
        kernel::warn_on!(!all);
    }

    /// The physical address behind `iova`; zero if nothing is mapped there.
    #[cfg(any(CONFIG_IOMMUFD_NOIOMMU, CONFIG_IOMMUFD_TEST))]
    pub(crate) fn iova_to_phys(&self, iova: usize) -> PhysAddr {
        // CAST: The driver depends on 64BIT.
        // SAFETY: The domain is complete. By the rule of ranges the caller excludes who maps or
        // unmaps there.
        unsafe { self.0.iova_to_phys(iova as kernel::dma::DmaAddress) }.unwrap_or(0)
    }

    /// Has the domain override the wish of devices to bypass the CPU caches. Returns whether it
    /// does.
    pub(crate) fn enforce_cache_coherency(&mut self) -> bool {
        self.0.enforce_cache_coherency()
    }

    /// The IOVA that the domain can translate, as far as there is such IOVA.
    pub(crate) fn aperture(&self) -> IovaRange {
        let (first, last) = self.0.aperture();

        IovaRange {
            start: first.try_into().unwrap_or(usize::MAX),
            last: last.try_into().unwrap_or(usize::MAX),
        }
    }

    /// The sizes of pages that the domain can map, one bit each.
    #[inline]
    pub(crate) fn page_sizes(&self) -> usize {
        self.0.pgsize_bitmap()
    }

    /// The smallest page that the domain can map.
    #[inline]
    pub(crate) fn min_page_size(&self) -> usize {
        let sizes = self.page_sizes();

        sizes & sizes.wrapping_neg()
    }

    /// Whether the domain is one of those that this driver makes for devices without an IOMMU.
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    pub(crate) fn is_noiommu(&self) -> bool {
        super::bound_device::noiommu_ops().is_some_and(|ops| self.is_owned_by(ops))
    }

    /// Whether both are the same domain.
    #[inline]
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    /// How C sees the domain.
    #[inline]
    pub(crate) fn as_raw(&self) -> *mut bindings::iommu_domain {
        self.0.as_raw()
    }

    /// Whether the domain came from the driver with these operations.
    pub(crate) fn is_owned_by(&self, ops: &bindings::iommu_ops) -> bool {
        // SAFETY: The owner is set before the domain is shared.
        ptr::eq(unsafe { (*self.as_raw()).owner }, ops)
    }

    /// Starts or stops the tracking of writes.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] without [`Domain::has_dirty_tracking`], or what the IOMMU driver says.
    pub(crate) fn set_dirty_tracking(&self, enable: bool) -> Result {
        self.0.set_dirty_tracking(enable)
    }

    /// Lets `f` read which pages of `window` were written, into a bitmap of user space with one bit
    /// for each `page_size` bytes. With `clear`, what was read is clean afterwards.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if the bitmap cannot be accessed.
    pub(crate) fn read_dirty<R>(
        &self,
        window: IovaRange,
        page_size: usize,
        bitmap: UserPtr,
        clear: bool,
        f: impl FnOnce(&mut Dirty<'_, '_>) -> R,
    ) -> Result<R> {
        let size = size_of_range(window);
        let reader = DirtyReader::new(&self.0, (window.start, size), page_size, bitmap, clear);
        // Whatever went wrong, it is out of memory as far as user space is told.
        let reader = reader.map_err(|_| ENOMEM)?;
        pin_init::stack_pin_init!(let reader = reader);
        Ok(f(&mut Dirty {
            reader,
            window: Some(window),
        }))
    }

    /// Lets `f` mark ranges as clean.
    pub(crate) fn discard_dirty<R>(&self, f: impl FnOnce(&mut Dirty<'_, '_>) -> R) -> R {
        pin_init::stack_pin_init!(let reader = DirtyReader::discard(&self.0));
        f(&mut Dirty {
            reader,
            window: None,
        })
    }
}

impl Deref for PagingDomain {
    type Target = Domain;

    #[inline]
    fn deref(&self) -> &Domain {
        &self.0
    }
}

/// The number of bytes of a range that is not all there is.
#[inline]
fn size_of_range(range: IovaRange) -> usize {
    // No area and no command has all 2^64 bytes: their lengths are numbers.
    range.len().unwrap_or(usize::MAX)
}

/// What was read back from a domain.
///
/// There is room for a few runs, and memory can be had for more.
pub(crate) struct PhysRuns {
    few: [MaybeUninit<PhysRun>; PhysRuns::FEW],
    many: Option<KVec<PhysRun>>,
    len: usize,
}

impl PhysRuns {
    /// So many runs need no memory.
    pub(crate) const FEW: usize = 32;

    /// Nothing was read.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self {
            few: [const { MaybeUninit::uninit() }; Self::FEW],
            many: None,
            len: 0,
        }
    }

    /// How many runs there is room for.
    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.many.as_ref().map_or(Self::FEW, KVec::capacity)
    }

    /// So many runs fit in a page, of which there is one even if memory is fragmented.
    const PAGE: usize = PAGE_SIZE / size_of::<PhysRun>();

    /// Makes room for `runs` runs, or else for a page of them, if they are more than there always
    /// is room for. No process is killed for it. What was read is forgotten.
    pub(crate) fn try_reserve(&mut self, runs: usize) {
        let gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;

        self.len = 0;
        if runs <= Self::FEW {
            return;
        }
        let some = KVec::with_capacity(runs, gfp).ok();
        self.many = match some {
            None if runs > Self::PAGE => KVec::with_capacity(Self::PAGE, gfp).ok(),
            some => some,
        };
    }

    /// All the room, for new runs.
    #[inline]
    fn room(&mut self) -> &mut [MaybeUninit<PhysRun>] {
        match &mut self.many {
            Some(many) => {
                many.clear();
                many.spare_capacity_mut()
            }
            None => &mut self.few,
        }
    }

    /// Reads the front of `range`, as far as there is room, see [`Domain::iova_to_phys_runs`].
    #[inline]
    pub(crate) fn read(&mut self, domain: &PagingDomain, range: IovaRange) -> &[PhysRun] {
        let (size, out) = (size_of_range(range), self.room());

        // SAFETY: The domain is complete. By the rule of ranges the caller excludes who maps or
        // unmaps there.
        self.len = unsafe { domain.0.iova_to_phys_runs(range.start, size, out) }.len();
        self.as_slice()
    }

    /// What was read last.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[PhysRun] {
        let first = match &self.many {
            Some(many) => many.as_ptr(),
            None => self.few.as_ptr().cast(),
        };

        // SAFETY: `Self::read()` or `Unmapping::next()` has initialised the first `len` runs.
        unsafe { core::slice::from_raw_parts(first, self.len) }
    }
}

/// A range of a domain that is being unmapped from its start on, by one owner of the range.
pub(crate) struct Unmapping<'a> {
    domain: &'a PagingDomain,
    range: IovaRange,
    unmapped: usize,
}

impl<'a> Unmapping<'a> {
    /// Begins to unmap all of `range`, which is mapped.
    #[inline]
    pub(crate) fn new(domain: &'a PagingDomain, range: IovaRange) -> Self {
        Self {
            domain,
            range,
            unmapped: 0,
        }
    }

    /// Unmaps the next part, and returns what it was mapped to, as many runs as `read` has room
    /// for, and the last IOVA of it. Devices cannot use it any more after this. [`None`] at the
    /// end.
    #[inline]
    pub(crate) fn next<'r>(&mut self, read: &'r mut PhysRuns) -> Option<(&'r [PhysRun], usize)> {
        let size = size_of_range(self.range);
        if self.unmapped >= size {
            return None;
        }

        // SAFETY: The domain is complete. By the rule of ranges nobody else maps, unmaps or reads
        // in the range until all of it is unmapped, so the parts that earlier calls have unmapped
        // are still unmapped.
        let runs = unsafe {
            self.domain
                .0
                .unmap_runs(self.range.start, size, &mut self.unmapped, read.room())
        };
        read.len = runs.len();
        // Memory that stays mapped while its pins go would be open to devices. What is not returned
        // stays pinned.
        if kernel::warn_on!(read.len == 0 || self.unmapped > size) {
            self.unmapped = size;
            return None;
        }
        Some((read.as_slice(), self.range.start + (self.unmapped - 1)))
    }
}

/// Runs that are to be mapped by one call.
///
/// # Invariants
///
/// The first `len` runs are initialised.
pub(crate) struct RunQueue {
    runs: [MaybeUninit<PhysRun>; RunQueue::CAPACITY],
    len: usize,
}

impl RunQueue {
    /// The number of runs that there is room for: what is done once for all of them is a few
    /// instructions for each, and they are 1 KiB of the stack.
    pub(crate) const CAPACITY: usize = 64;

    /// An empty queue.
    #[inline]
    pub(crate) const fn new() -> Self {
        // INVARIANT: There is no run.
        Self {
            runs: [const { MaybeUninit::uninit() }; Self::CAPACITY],
            len: 0,
        }
    }

    /// Appends a run, and returns whether there was room for it.
    #[inline(always)]
    pub(crate) fn push(&mut self, run: PhysRun) -> bool {
        let Some(slot) = self.runs.get_mut(self.len) else {
            return false;
        };

        slot.write(run);
        // INVARIANT: It was just initialised.
        self.len += 1;
        true
    }

    /// Removes all runs.
    #[inline]
    pub(crate) fn clear(&mut self) {
        // INVARIANT: There is no run.
        self.len = 0;
    }

    /// The runs, in order.
    #[inline]
    pub(crate) fn as_slice(&self) -> &[PhysRun] {
        // SAFETY: So many are initialised, by the type invariant.
        unsafe { core::slice::from_raw_parts(self.runs.as_ptr().cast(), self.len) }
    }

    /// As [`Self::as_slice`], to change them.
    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [PhysRun] {
        // SAFETY: So many are initialised, by the type invariant.
        unsafe { core::slice::from_raw_parts_mut(self.runs.as_mut_ptr().cast(), self.len) }
    }
}

/// Access to the dirty bits of a domain. See [`PagingDomain::read_dirty`].
pub(crate) struct Dirty<'r, 'd> {
    reader: Pin<&'r mut DirtyReader<'d>>,
    window: Option<IovaRange>,
}

impl Dirty<'_, '_> {
    /// Reads the bits of `range`, all of which is mapped, and none of it by a dma-buf.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for what is not in the window, or what the IOMMU driver says.
    #[inline]
    pub(crate) fn read(&mut self, range: IovaRange) -> Result {
        if self.window.is_some_and(|window| !window.covers(range)) {
            return Err(EINVAL);
        }
        // SAFETY: The domain is complete, and the range in the window. By the rule of ranges the
        // caller excludes who maps or unmaps there.
        unsafe { self.reader.as_mut().read(range.start, size_of_range(range)) }
    }
}
