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
        Kind,
        Object,
        Ref,
        User,
        WriteSide, //
    },
    viommu::Viommu, //
};
use kernel::{
    bindings,
    error::to_result,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// A HW queue: `struct iommufd_hw_queue`, less the object header.
#[repr(C)]
pub(crate) struct HwQueue {
    viommu: User<Viommu>,
    /// An internal access that has the memory of the queue pinned.
    access: Option<User<Access>>,
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
    /// Allocates a queue of `viommu`, without memory.
    ///
    /// # Errors
    ///
    /// [`EOPNOTSUPP`] if the driver has no queues of this type; [`ENOENT`] if the vIOMMU is being
    /// destroyed; those of [`Context::reserve`](crate::context::Context::reserve).
    pub(crate) fn reserve<'a>(
        viommu: &'a Ref<'_, Viommu>,
        type_: bindings::iommu_hw_queue_type,
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
            viommu: viommu.user()?,
            access: None,
            base_addr: 0,
            length: 0,
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
    /// Gives the queue its memory and has the driver initialise its part.
    ///
    /// `memory` has pinned `length` bytes from `base_addr` in the guest's physical address space,
    /// which are physically contiguous from `base_pa`. `index` is for the driver.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(crate) fn start(
        mut self,
        memory: Internal<'_>,
        base_addr: u64,
        length: usize,
        base_pa: bindings::phys_addr_t,
        index: u32,
    ) -> Result<Ready<'a, HwQueue>> {
        let queue = self.data().get_mut();
        queue.access = memory.into_user();
        queue.base_addr = base_addr;
        queue.length = length;
        let init = self
            .viommu
            .ops()
            .and_then(|ops| ops.hw_queue_init_phys)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: `HwQueue::reserve()` asked for the size; the closure calls the init function.
        unsafe { self.init(|queue| to_result(init(queue.as_ptr().cast(), index, base_pa))) }
    }
}

impl Drop for HwQueue {
    fn drop(&mut self) {
        if let Some(access) = self.access.take() {
            let memory = Internal::from_user(access, self.viommu.ctx());
            crate::viommu::hw_queue::unpin(memory, self.place());
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
