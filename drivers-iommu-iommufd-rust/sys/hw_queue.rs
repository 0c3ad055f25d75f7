// SPDX-License-Identifier: GPL-2.0

//! HW queues, and the lists of pages by which their memory is found to be contiguous.
//!
//! See [`driven`](super::driven) and [`viommu`](super::viommu) for the contracts with the drivers.
//! The driver may use the memory of a queue from the init function to the end of the destroy
//! function: the access that has it pinned is given up after that.

use super::{
    driven::{
        end,
        Destroy,
        Draft,
        Driven,
        InitSlot,
        Ready, //
    },
    layout::same_layout,
    pin::PagePtr, //
};
use crate::{
    access::{
        Access,
        Internal, //
    },
    object::{
        Dependency,
        InContext as _,
        Kind,
        Object,
        Ref,
        Tentative,
        User,
        WriteSide, //
    },
    viommu::Viommu, //
};
use core::cell::UnsafeCell;
use kernel::{
    bindings,
    error::to_result,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// The access that has the memory of a queue pinned, from when the queue is published. C sees a
/// pointer.
///
/// # Invariants
///
/// It does not change while the queue is shared.
#[repr(transparent)]
struct AccessSlot(UnsafeCell<Option<User<Access>>>);

// SAFETY: A user can be put on any thread.
unsafe impl Send for AccessSlot {}
// SAFETY: Nothing is read through a shared reference.
unsafe impl Sync for AccessSlot {}

/// A HW queue: `struct iommufd_hw_queue`, less the object header.
#[repr(C)]
pub(crate) struct HwQueue {
    pub(super) viommu: Dependency<Viommu>,
    access: AccessSlot,
    base_addr: u64,
    length: usize,
    type_: bindings::iommu_hw_queue_type,
    destroy: InitSlot<Option<Destroy<bindings::iommufd_hw_queue>>>,
}

same_layout!(HwQueue, iommufd_hw_queue: viommu access base_addr length type_ destroy);

impl Driven for HwQueue {
    type Raw = bindings::iommufd_hw_queue;

    fn destroy_fn(this: &Object<Self>) -> Option<Destroy<bindings::iommufd_hw_queue>> {
        this.destroy.get()
    }
}

impl Kind for HwQueue {
    fn destroy(this: WriteSide<'_, Self>) {
        end(this);
    }
}

impl HwQueue {
    /// Allocates a queue of `viommu`, of `length` bytes from `base_addr` in the guest's physical
    /// address space.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver has no queues of this type; those of
    /// [`Context::reserve`](crate::context::Context::reserve).
    pub(crate) fn reserve<'a>(
        viommu: &'a Ref<'_, Viommu>,
        type_: bindings::iommu_hw_queue_type,
        base_addr: u64,
        length: usize,
    ) -> Result<Draft<'a, Self>> {
        let ops = viommu.ops().ok_or(EOPNOTSUPP)?;
        if ops.get_hw_queue_size.is_none() || ops.hw_queue_init_phys.is_none() {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The vIOMMU lives during the call, and has the operation.
        let size = unsafe { bindings::iommufd_shim_hw_queue_size(viommu.as_ptr().cast(), type_) };
        if size == 0 || kernel::warn_on_once!(size < size_of::<Object<Self>>()) {
            return Err(EOPNOTSUPP);
        }

        let this = Self {
            viommu: viommu.dependency(),
            // INVARIANT: The queue is not shared.
            access: AccessSlot(UnsafeCell::new(None)),
            base_addr,
            length,
            type_,
            destroy: InitSlot::new(None),
        };
        Draft::reserve(viommu.ctx(), size, Ok::<_, Error>(this))
    }

    /// Where the queue is: address and length, in bytes of the guest's physical address space.
    pub(crate) fn place(&self) -> (u64, usize) {
        (self.base_addr, self.length)
    }
}

impl<'a> Draft<'a, HwQueue> {
    /// Has the driver initialise its part. The memory of the queue is pinned, and is physically
    /// contiguous from `base_pa`. `index` is for the driver.
    ///
    /// The driver can make the queue a user of another one, which ends with the queue: `_tentative`
    /// is held until that is published, or undone.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(crate) fn start(
        self,
        base_pa: bindings::phys_addr_t,
        index: u32,
        _tentative: &Tentative<'_>,
    ) -> Result<Ready<'a, HwQueue>> {
        let init = self
            .viommu
            .ops()
            .and_then(|ops| ops.hw_queue_init_phys)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: `HwQueue::reserve()` asked for the size; the closure calls the init function.
        unsafe { self.init(|queue| to_result(init(queue.as_ptr().cast(), index, base_pa))) }
    }
}

impl Ready<'_, HwQueue> {
    /// Publishes the queue, and with it the access that has its memory pinned, which `memory` gives
    /// up for that. It is not called if publishing fails.
    ///
    /// # Errors
    ///
    /// Those of [`Ready::publish`].
    pub(crate) fn publish_with_memory<'m>(
        self,
        memory: impl FnOnce() -> Option<Internal<'m>>,
        answer: impl FnOnce() -> Result,
    ) -> Result {
        let queue = self.publish(|queue, table| {
            answer()?;
            let access = memory().and_then(|memory| memory.publish_along(table));
            // INVARIANT: The queue is not published yet.
            // SAFETY: By the type invariants nobody else accesses the slot: other parts of this
            // driver do so when they drop the queue, and IOMMU drivers do not.
            unsafe { *queue.access.0.get() = access };
            Ok(())
        });

        queue.map(drop)
    }
}

impl Drop for HwQueue {
    fn drop(&mut self) {
        if let Some(access) = self.access.0.get_mut().take() {
            let ctx = self.viommu.ctx();

            crate::viommu::hw_queue::unpin(&access, self.place());
            access.destroy(ctx);
        }
    }
}

/// Some of the pages of a HW queue.
pub(crate) struct PageList(KVec<PagePtr>);

impl PageList {
    /// How many pages a list has at most: its memory is a page, however long the queue is.
    pub(crate) const MAX: usize = PAGE_SIZE / size_of::<PagePtr>();

    /// An empty list.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KVec::with_capacity(Self::MAX, GFP_KERNEL_ACCOUNT)?))
    }

    /// Pins `count` pages from `iova` on.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the list has not so many; those of [`Internal::pin`].
    pub(crate) fn pin(&mut self, memory: &Internal<'_>, iova: usize, count: usize) -> Result {
        self.0.clear();
        let out = self.0.spare_capacity_mut().get_mut(..count).ok_or(EINVAL)?;
        memory.pin(iova, count << PAGE_SHIFT, out)?;
        // SAFETY: There is room for `count` pages, and `pin()` has written them all.
        unsafe { self.0.inc_len(count) };
        Ok(())
    }

    /// The page frames of the pages.
    pub(crate) fn pfns(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|page| page.pfn())
    }
}
