// SPDX-License-Identifier: GPL-2.0

//! IOMMU domains: an I/O address space that devices can be attached to.
//!
//! A [`Domain`] is the kernel's `struct iommu_domain`. [`OwnedDomain`] owns one and frees it.
//! Ranges are `(iova, size)` as in the C API; `last` is inclusive.
//!
//! # Concurrency
//!
//! A page table has no lock of its own: calls on *disjoint* IOVA ranges may run in parallel, calls
//! on overlapping ones must be ordered by the caller. A reader of a range that races with an unmap
//! of it can follow a pointer into a table page that was just freed, so that reading is `unsafe`
//! too. Nothing here keeps the mapped memory alive: [`Domain::map`] hands memory to devices, and
//! its contract is where that responsibility is taken.
//!
//! # The first attach
//!
//! Some IOMMU drivers fill in the rest of a domain only when it is attached to a device for the
//! first time: page sizes, aperture, page table, and where the caches are. When asked to map before
//! that, some return an error (`arm-smmu`, `qcom_iommu`), and some follow a null pointer
//! (`mtk_iommu`, `sprd-iommu`). A domain is *complete* when it has been attached once, or when its
//! driver does not need that: because it fills in all when it allocates the domain, as those do
//! that have `iommu_ops::domain_alloc_paging_flags`, or because it checks. What needs a complete
//! domain is `unsafe` here; [`Domain::aperture`] and [`Domain::pgsize_bitmap`], which are numbers,
//! can be read at any time.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::{
    cell::Cell,
    mem::MaybeUninit,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use crate::{
    alloc::Flags,
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DmaAddress,
    error::{
        from_err_ptr,
        to_result, //
    },
    io::PhysAddr,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    },
    uaccess::UserPtr, //
};

/// An IOMMU domain that is owned elsewhere.
///
/// # Invariants
///
/// The wrapped `struct iommu_domain` is fully initialised by its IOMMU driver and valid for as long
/// as a reference to it exists.
#[repr(transparent)]
pub struct Domain(Opaque<bindings::iommu_domain>);

// SAFETY: An `iommu_domain` is not tied to the thread that made it; `OwnedDomain` frees it, from
// any task.
unsafe impl Send for Domain {}
// SAFETY: The safe methods read fields that are constant since the allocation of the domain, or
// numbers that are written as a whole, or call operations that may be called on any number of
// threads: `set_dirty_tracking`, for which VT-d and AMD-Vi take a lock of the domain, and SMMUv3
// has nothing to change; and `cache_invalidate_user`, which the C driver calls without a lock, too.
unsafe impl Sync for Domain {}

impl Domain {
    /// Borrows a domain.
    ///
    /// # Safety
    ///
    /// `ptr` must point to an initialised `struct iommu_domain` that stays valid for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::iommu_domain) -> &'a Self {
        // SAFETY: By the contract of this function; `Domain` is a transparent wrapper.
        unsafe { &*ptr.cast() }
    }

    /// The C domain, for calls into C. The pointer is not a right to change the domain.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::iommu_domain {
        self.0.get()
    }

    /// The operations of the domain.
    #[inline]
    fn ops(&self) -> Option<&bindings::iommu_domain_ops> {
        // SAFETY: By the type invariant. The operations are set before the domain can be used, are
        // constant, and live as long as it.
        unsafe { (*self.as_raw()).ops.as_ref() }
    }

    /// The operations that track writes, if the domain can do that.
    #[inline]
    fn dirty_ops(&self) -> Option<&bindings::iommu_dirty_ops> {
        // SAFETY: By the type invariant. The operations are set before the domain can be used, are
        // constant, and live as long as it.
        unsafe { (*self.as_raw()).dirty_ops.as_ref() }
    }

    /// Invalidates what the IOMMU has cached of a nested domain, as requests in user memory say.
    /// The IOMMU driver sets `array.entry_num` to the number of requests that it has handled.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the domain has no such operation, with no request handled; what the IOMMU
    /// driver returns.
    ///
    /// Context: process context; may sleep.
    pub fn cache_invalidate_user(&self, array: &mut bindings::iommu_user_data_array) -> Result {
        let Some(invalidate) = self.ops().and_then(|ops| ops.cache_invalidate_user) else {
            array.entry_num = 0;
            return Err(EOPNOTSUPP);
        };

        // SAFETY: The domain is valid by the type invariant, and the operation is its own. The
        // driver checks `array`, whose pointer is one to user memory.
        to_result(unsafe { invalidate(self.as_raw(), array) })
    }

    /// Whether the kernel owns the page table, so that [`Self::map`] works (as opposed to nested,
    /// identity and blocking domains).
    #[inline]
    pub fn is_paging(&self) -> bool {
        // SAFETY: By the type invariant; `type` is constant after initialisation.
        unsafe { (*self.as_raw()).type_ & bindings::__IOMMU_DOMAIN_PAGING != 0 }
    }

    /// Whether this domain was allocated for user-managed nested translation.
    #[inline]
    pub fn is_nested(&self) -> bool {
        // SAFETY: By the type invariant; `type` is constant after initialisation.
        unsafe { (*self.as_raw()).type_ == bindings::__IOMMU_DOMAIN_NESTED }
    }

    /// First and last (inclusive) IOVA that can be translated. They can change with the
    /// [first attach](self#the-first-attach).
    #[inline]
    pub fn aperture(&self) -> (DmaAddress, DmaAddress) {
        // SAFETY: By the type invariant. The IOMMU driver may write it at the same time; there is
        // no reference to it.
        unsafe {
            let geometry = &raw const (*self.as_raw()).geometry;

            (
                (&raw const (*geometry).aperture_start).read_volatile(),
                (&raw const (*geometry).aperture_end).read_volatile(),
            )
        }
    }

    /// Page sizes that the domain can map, as a bitmap of powers of two, in bytes. They can change
    /// with the [first attach](self#the-first-attach).
    #[inline]
    pub fn pgsize_bitmap(&self) -> usize {
        // SAFETY: By the type invariant. The IOMMU driver may write it at the same time, as a word;
        // there is no reference to it.
        unsafe { (&raw const (*self.as_raw()).pgsize_bitmap).read_volatile() }
    }

    /// Maps `size` bytes of physically contiguous memory at `iova`.
    ///
    /// On error nothing of the range is mapped.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the domain has no page table of ours or an argument is not aligned to
    /// [`Self::pgsize_bitmap`], `ENOMEM`, or what the IOMMU driver says.
    ///
    /// # Safety
    ///
    /// - The domain must be [complete](self#the-first-attach).
    /// - No other call may act on a range that overlaps `[iova, iova + size)` at the same time, and
    ///   nothing may be mapped there.
    /// - Until the range is unmapped again, every attached device can access
    ///   `[phys, phys + size)` as `prot` allows. The memory must stay allocated, and be memory that
    ///   devices may access like that, for all that time.
    #[inline]
    pub unsafe fn map(
        &self,
        iova: usize,
        phys: PhysAddr,
        size: usize,
        prot: u32,
        flags: Flags,
    ) -> Result {
        // SAFETY: The domain is valid by the type invariant, the range is the caller's by the
        // contract of this function. `prot` is a bit set that C declares as `int`.
        to_result(unsafe {
            bindings::iommu_map(
                self.as_raw(),
                iova,
                phys,
                size,
                prot as c_int,
                flags.as_raw(),
            )
        })
    }

    /// As [`Self::map`], but devices need not see the translations before [`Self::sync_map`].
    ///
    /// # Errors
    ///
    /// As [`Self::map`].
    ///
    /// # Safety
    ///
    /// As [`Self::map`].
    #[inline]
    pub unsafe fn map_nosync(
        &self,
        iova: usize,
        phys: PhysAddr,
        size: usize,
        prot: u32,
        flags: Flags,
    ) -> Result {
        // SAFETY: The domain is valid by the type invariant, the range is the caller's by the
        // contract of this function.
        let ret = unsafe {
            bindings::iommu_map_nosync(
                self.as_raw(),
                iova,
                phys,
                size,
                prot as c_int,
                flags.as_raw(),
            )
        };
        // Called for each page where memory is fragmented: spares a further call.
        if ret == 0 {
            return Ok(());
        }
        to_result(ret)
    }

    /// As [`Self::map_nosync`] for each of `runs`, one behind the other from `iova` on. This is
    /// faster where the runs are small. Two runs are never mapped by one page.
    ///
    /// On error nothing of the runs is mapped.
    ///
    /// # Errors
    ///
    /// As [`Self::map_nosync`] of the first run that fails.
    ///
    /// # Safety
    ///
    /// As [`Self::map`], for the range of IOVA that is as long as all runs, and the memory of each
    /// run.
    #[inline]
    pub unsafe fn map_runs_nosync(
        &self,
        iova: usize,
        runs: &[PhysRun],
        prot: u32,
        flags: Flags,
    ) -> Result {
        let num = c_uint::try_from(runs.len()).map_err(|_| EINVAL)?;
        // SAFETY: The domain is valid by the type invariant, the range is the caller's by the
        // contract of this function. `PhysRun` is what C calls a run, and there are `num` of them.
        to_result(unsafe {
            bindings::iommu_map_runs_nosync(
                self.as_raw(),
                iova,
                runs.as_ptr().cast(),
                num,
                prot as c_int,
                flags.as_raw(),
            )
        })
    }

    /// Makes devices see the translations of `size` bytes from `iova` on.
    ///
    /// # Errors
    ///
    /// What the IOMMU driver says.
    ///
    /// # Safety
    ///
    /// The domain must be [complete](self#the-first-attach).
    #[inline]
    pub unsafe fn sync_map(&self, iova: usize, size: usize) -> Result {
        // SAFETY: The domain is valid by the type invariant, and complete by the requirements of
        // this function. The IOMMU driver looks at the caches of the hardware, not at the page
        // table.
        to_result(unsafe { bindings::iommu_sync_map(self.as_raw(), iova, size) })
    }

    /// Unmaps `size` bytes from `iova` on and waits until no device can use the translations.
    ///
    /// Returns how many bytes from `iova` on are unmapped now. That is less than `size` if it meets
    /// a hole, and more if the range ends inside a larger page.
    ///
    /// # Safety
    ///
    /// - The domain must be [complete](self#the-first-attach).
    /// - No other call may act on a range that overlaps `[iova, iova + size)` at the same time.
    #[inline]
    pub unsafe fn unmap(&self, iova: usize, size: usize) -> usize {
        // SAFETY: The domain is valid by the type invariant, the range is the caller's by the
        // contract of this function.
        unsafe { bindings::iommu_unmap(self.as_raw(), iova, size) }
    }

    /// As [`Self::unmap`] for several ranges `(iova, size)`, with one wait for all of them.
    ///
    /// Returns whether each of them is unmapped now, and nothing else.
    ///
    /// # Safety
    ///
    /// As [`Self::unmap`], for each of the ranges until the end. The domain must be complete even
    /// if there are no ranges.
    #[inline]
    pub unsafe fn unmap_many(&self, ranges: impl Iterator<Item = (usize, usize)>) -> bool {
        let mut gather = MaybeUninit::uninit();
        let mut all = true;

        // SAFETY: This initialises the whole structure, which is not moved.
        unsafe { bindings::iommu_iotlb_gather_init(gather.as_mut_ptr()) };
        for (iova, size) in ranges {
            // SAFETY: The domain is valid by the type invariant, the gather is initialised and
            // belongs to this domain; the range is the caller's by the contract of this function.
            let done = unsafe {
                bindings::iommu_unmap_fast(self.as_raw(), iova, size, gather.as_mut_ptr())
            };

            all &= done == size;
        }
        // SAFETY: The domain is valid by the type invariant, the gather is initialised and belongs
        // to this domain. What was gathered is given up.
        unsafe { bindings::iommu_iotlb_sync(self.as_raw(), gather.as_mut_ptr()) };
        all
    }

    /// The physical address behind `iova`, or [`None`] if nothing is mapped there.
    ///
    /// (A mapping of physical address zero cannot be told from no mapping; the C API is alike.)
    ///
    /// # Safety
    ///
    /// - The domain must be [complete](self#the-first-attach).
    /// - `iova` must not be mapped or unmapped at the same time.
    #[inline]
    pub unsafe fn iova_to_phys(&self, iova: DmaAddress) -> Option<PhysAddr> {
        // SAFETY: The domain is valid by the type invariant; no table on the way to `iova` goes
        // away by the contract of this function.
        match unsafe { bindings::iommu_iova_to_phys(self.as_raw(), iova) } {
            0 => None,
            phys => Some(phys),
        }
    }

    /// Reads back what `size` bytes from `iova` on are mapped to, as runs of contiguous memory that
    /// are as long as possible. They begin at `iova` and follow each other, to the end of the range
    /// or to where there is no more room in `out`.
    ///
    /// All of the range should be mapped. For what is not, the result means nothing: physical
    /// address zero may be memory.
    ///
    /// # Safety
    ///
    /// - The domain must be [complete](self#the-first-attach).
    /// - The range must not be mapped or unmapped at the same time.
    #[inline]
    pub unsafe fn iova_to_phys_runs<'a>(
        &self,
        iova: usize,
        size: usize,
        out: &'a mut [MaybeUninit<PhysRun>],
    ) -> &'a [PhysRun] {
        let room = out.len().min(c_uint::MAX as usize);
        // SAFETY: The domain is valid by the type invariant; no table on the way to the range goes
        // away by the contract of this function. There is room for as many runs; `PhysRun` is what
        // C calls a run.
        let filled = unsafe {
            bindings::iommu_iova_to_phys_runs(
                self.as_raw(),
                iova,
                size,
                out.as_mut_ptr().cast(),
                room as c_uint,
            )
        };
        // SAFETY: C has filled in the first `filled` runs, which are at most `room`.
        unsafe { core::slice::from_raw_parts(out.as_ptr().cast(), filled as usize) }
    }

    /// Unmaps a range, as far as there is room in `out` for what it was mapped to, and waits until
    /// no device can use these translations. To be called until all is unmapped, with the same
    /// range and `unmapped`, which is zero at first: the number of bytes that are unmapped.
    ///
    /// The runs are those of [`Self::iova_to_phys_runs`] from `iova + unmapped` on, but all of them
    /// were mapped. There is none if nothing is mapped there, or there is no room. If the range
    /// ends inside a larger page, then that is unmapped as a whole, and `unmapped` exceeds `size`,
    /// but the runs do not.
    ///
    /// # Safety
    ///
    /// - The domain must be [complete](self#the-first-attach).
    /// - No other call may act on a range that overlaps `[iova, iova + size)` at the same time.
    /// - The first `unmapped` bytes of the range must be unmapped, and nothing have been mapped
    ///   there since.
    #[inline]
    pub unsafe fn unmap_runs<'a>(
        &self,
        iova: usize,
        size: usize,
        unmapped: &mut usize,
        out: &'a mut [MaybeUninit<PhysRun>],
    ) -> &'a [PhysRun] {
        let room = out.len().min(c_uint::MAX as usize);
        let mut gather = MaybeUninit::uninit();

        // SAFETY: This initialises the whole structure, which is not moved.
        unsafe { bindings::iommu_iotlb_gather_init(gather.as_mut_ptr()) };
        // SAFETY: The domain is valid by the type invariant, the gather is initialised and belongs
        // to this domain; the range is the caller's, and its front unmapped, by the contract of
        // this function. There is room for as many runs; `PhysRun` is what C calls a run.
        let filled = unsafe {
            bindings::iommu_unmap_runs_nosync(
                self.as_raw(),
                iova,
                size,
                unmapped,
                out.as_mut_ptr().cast(),
                room as c_uint,
                gather.as_mut_ptr(),
            )
        };
        // SAFETY: The domain is valid by the type invariant, the gather is initialised and belongs
        // to this domain. What was gathered is given up.
        unsafe { bindings::iommu_iotlb_sync(self.as_raw(), gather.as_mut_ptr()) };
        // SAFETY: C has filled in the first `filled` runs, which are at most `room`.
        unsafe { core::slice::from_raw_parts(out.as_ptr().cast(), filled as usize) }
    }

    /// Whether the domain can record which pages devices wrote to.
    #[inline]
    pub fn has_dirty_tracking(&self) -> bool {
        self.dirty_ops().is_some()
    }

    /// Starts or stops the recording of dirty pages.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` without [`Self::has_dirty_tracking`], else what the IOMMU driver says.
    pub fn set_dirty_tracking(&self, enable: bool) -> Result {
        let set = self
            .dirty_ops()
            .and_then(|ops| ops.set_dirty_tracking)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: The domain is valid and the operation is its own. Drivers serialise it, see the
        // `Sync` of `Domain`.
        to_result(unsafe { set(self.as_raw(), enable) })
    }

    /// Whether both are one domain.
    #[inline]
    pub fn ptr_eq(&self, other: &Domain) -> bool {
        ptr::eq(self, other)
    }
}

/// Physically contiguous memory that IOVA is, or is to be, mapped to.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PhysRun(bindings::iommu_phys_run);

impl PhysRun {
    /// `len` bytes from the physical address `paddr` on.
    #[inline]
    pub const fn new(paddr: PhysAddr, len: usize) -> Self {
        Self(bindings::iommu_phys_run { paddr, len })
    }

    /// The physical address of the first byte.
    #[inline]
    pub fn paddr(&self) -> PhysAddr {
        self.0.paddr
    }

    /// The number of bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len
    }
}

/// A domain that is freed when this is dropped.
///
/// C sees a non-null `struct iommu_domain *`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{Bound, Device},
///     iommu::domain::OwnedDomain,
/// };
///
/// /// The size in bytes of the largest page that can be mapped for the device.
/// fn largest_page(dev: &Device<Bound>) -> Result<usize> {
///     // SAFETY: The device is bound until the domain is gone, so that its IOMMU is there. Nothing
///     // is attached to the domain.
///     let domain = unsafe { OwnedDomain::new_paging(dev) }?;
///
///     domain.pgsize_bitmap().checked_ilog2().map(|order| 1 << order).ok_or(EINVAL)
/// }
/// ```
///
/// # Invariants
///
/// `ptr` is a valid domain that nobody else frees. When `self` is dropped, no device is attached to
/// it, and what its IOMMU driver needs to free it is still there.
#[repr(transparent)]
pub struct OwnedDomain {
    ptr: NonNull<bindings::iommu_domain>,
}

// SAFETY: See `Domain`.
unsafe impl Send for OwnedDomain {}
// SAFETY: See `Domain`.
unsafe impl Sync for OwnedDomain {}

impl OwnedDomain {
    /// Allocates a paging domain that `dev` can be attached to, with its driver's defaults.
    ///
    /// # Errors
    ///
    /// `ENODEV` if no IOMMU translates for `dev`, else what the IOMMU driver says.
    ///
    /// # Safety
    ///
    /// As for [`Self::from_raw`]: a domain does not keep its IOMMU or the driver of that, which
    /// stay for as long as a device has them.
    pub unsafe fn new_paging(dev: &Device<Bound>) -> Result<Self> {
        // SAFETY: `dev` is valid, and bound, so that its IOMMU driver cannot let go of it.
        let ptr = unsafe { bindings::iommu_paging_domain_alloc_flags(dev.as_raw(), 0) };

        // INVARIANT: The call above returned a new domain, which is ours; the rest is required.
        Ok(Self {
            ptr: NonNull::new(from_err_ptr(ptr)?).ok_or(ENOMEM)?,
        })
    }

    /// Takes over a domain.
    ///
    /// # Safety
    ///
    /// - `ptr` must be a valid domain that the caller owns.
    /// - When the result is dropped, no device may be attached to it, and the IOMMU and the IOMMU
    ///   driver that the domain was made by must still be there.
    #[inline]
    pub unsafe fn from_raw(ptr: NonNull<bindings::iommu_domain>) -> Self {
        // INVARIANT: By the contract of this function.
        Self { ptr }
    }

    /// Makes the IOMMU ignore requests of devices to bypass the CPU caches.
    ///
    /// Returns whether the domain enforces coherency now. To be called before anything is mapped:
    /// some IOMMUs encode it in each entry, and what is mapped stays as it is. Some IOMMU drivers
    /// change their page table for it without a lock, hence the exclusive borrow.
    pub fn enforce_cache_coherency(&mut self) -> bool {
        match self.ops().and_then(|ops| ops.enforce_cache_coherency) {
            // SAFETY: The domain is valid and the operation is its own. Nobody maps meanwhile, as
            // the domain is borrowed exclusively.
            Some(enforce) => unsafe { enforce(self.as_raw()) },
            None => false,
        }
    }
}

impl Deref for OwnedDomain {
    type Target = Domain;

    #[inline]
    fn deref(&self) -> &Domain {
        // SAFETY: By the type invariant, for as long as `self` exists.
        unsafe { Domain::from_raw(self.ptr.as_ptr()) }
    }
}

impl Drop for OwnedDomain {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::iommu_domain_free(self.ptr.as_ptr()) };
    }
}

/// A bitmap in user memory with one bit for each `page_size` bytes of an IOVA range.
///
/// Windows of it are pinned as they are needed, from the memory of the task that made the object:
/// it cannot leave that task.
///
/// # Invariants
///
/// `ptr` is a valid `struct iova_bitmap` that is ours.
struct IovaBitmap {
    ptr: NonNull<bindings::iova_bitmap>,
    _not_thread_safe: NotThreadSafe,
}

impl IovaBitmap {
    fn new(iova: usize, length: usize, page_size: usize, data: UserPtr) -> Result<Self> {
        // The C function takes the lowest bit of one and the last byte of the other, and does not
        // ask whether they are there.
        if page_size == 0 || length == 0 {
            return Err(EINVAL);
        }
        // A kernel thread has no memory to pin.
        if current!().mm().is_none() {
            return Err(EFAULT);
        }
        // SAFETY: The page size is not zero. `data` is only ever accessed through
        // pin_user_pages_fast(), which accepts any address.
        let ptr = from_err_ptr(unsafe {
            bindings::iova_bitmap_alloc(
                iova,
                length,
                page_size,
                data.as_const_ptr().cast_mut().cast(),
            )
        })?;

        // INVARIANT: A new object, which is ours.
        Ok(Self {
            ptr: NonNull::new(ptr).ok_or(EOPNOTSUPP)?,
            _not_thread_safe: NotThreadSafe,
        })
    }
}

impl Drop for IovaBitmap {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; unpins what is pinned.
        unsafe { bindings::iova_bitmap_free(self.ptr.as_ptr()) };
    }
}

/// Reads the dirty state of a domain: which pages did devices write to since it was last cleared?
///
/// Clearing needs a flush of the IOMMU's caches, which happens when this is dropped.
///
/// # Invariants
///
/// - `gather` is initialised, and gathers of `domain` only.
/// - If `flush` is set, `domain` is complete.
#[pin_data(PinnedDrop)]
pub struct DirtyReader<'d> {
    domain: &'d Domain,
    bitmap: Option<IovaBitmap>,
    clear: bool,
    /// Set if something may have been cleared.
    flush: Cell<bool>,
    /// What the IOMMU may still have cached.
    #[pin]
    gather: Opaque<bindings::iommu_iotlb_gather>,
}

impl<'d> DirtyReader<'d> {
    fn with(
        domain: &'d Domain,
        bitmap: Option<IovaBitmap>,
        clear: bool,
    ) -> impl PinInit<Self> + 'd {
        pin_init!(Self {
            domain,
            bitmap,
            clear,
            flush: Cell::new(false),
            // INVARIANT: A new gather.
            // SAFETY: This initialises the whole structure, which holds a list head and is pinned.
            gather <- Opaque::ffi_init(|g| unsafe { bindings::iommu_iotlb_gather_init(g) }),
        })
    }

    /// Reports dirty pages to user space: sets the bits of `data`, one for each `page_size` bytes
    /// from `iova` on, `length` bytes in all.
    ///
    /// The bits are set in the address space of the current task. Bits whose memory cannot be
    /// written are lost in silence. With `clear` the state is cleared as it is read.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `page_size` or `length` is zero; `ENOMEM`; `EFAULT` in a task without user
    /// memory.
    pub fn new(
        domain: &'d Domain,
        (iova, length): (usize, usize),
        page_size: usize,
        data: UserPtr,
        clear: bool,
    ) -> Result<impl PinInit<Self> + 'd> {
        let bitmap = IovaBitmap::new(iova, length, page_size, data)?;

        Ok(Self::with(domain, Some(bitmap), clear))
    }

    /// Clears the dirty state without reporting it.
    pub fn discard(domain: &'d Domain) -> impl PinInit<Self> + 'd {
        Self::with(domain, None, true)
    }

    /// Reads `size` bytes from `iova` on.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the domain cannot tell, else what the IOMMU driver says.
    ///
    /// # Safety
    ///
    /// - The domain must be [complete](self#the-first-attach).
    /// - Nothing of `[iova, iova + size)` may be mapped or unmapped at the same time. It must lie
    ///   within the range of the bitmap, if there is one.
    #[inline]
    pub unsafe fn read(self: Pin<&mut Self>, iova: usize, size: usize) -> Result {
        let read = self
            .domain
            .dirty_ops()
            .and_then(|ops| ops.read_and_clear_dirty)
            .ok_or(EOPNOTSUPP)?;
        // A flush is needed for what was cleared only: a read alone records nothing.
        // INVARIANT: The domain is complete by the requirements of this function.
        self.flush.set(self.clear);
        let (flags, gather) = if self.clear {
            (0, self.gather.get())
        } else {
            (bindings::IOMMU_DIRTY_NO_CLEAR as usize, ptr::null_mut())
        };
        let mut dirty = bindings::iommu_dirty_bitmap {
            bitmap: self
                .bitmap
                .as_ref()
                .map_or(ptr::null_mut(), |b| b.ptr.as_ptr()),
            gather,
        };

        // SAFETY: The domain, the bitmap and the gather are valid, the operation is the domain's
        // own, and the range stays as it is by the contract of this function.
        to_result(unsafe { read(self.domain.as_raw(), iova, size, flags, &mut dirty) })
    }
}

#[pinned_drop]
impl PinnedDrop for DirtyReader<'_> {
    fn drop(self: Pin<&mut Self>) {
        if self.flush.get() {
            // SAFETY: By the type invariants; the domain is valid. What was gathered is given up.
            unsafe { bindings::iommu_iotlb_sync(self.domain.as_raw(), self.gather.get()) };
        }
    }
}
