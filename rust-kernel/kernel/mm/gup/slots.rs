// SPDX-License-Identifier: GPL-2.0

//! Where GUP writes what it has pinned: an array of pointers, on the stack of the caller for a few,
//! allocated for more.

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};

/// Memory for a small queue of pages or folios, to be put on the stack.
///
/// It belongs to the caller so that a queue is cheap to move.
pub struct PinRoom<const N: usize>([MaybeUninit<NonNull<c_void>>; N]);

impl<const N: usize> PinRoom<N> {
    /// Creates room for `N` pages or folios.
    #[inline]
    pub const fn new() -> Self {
        Self([MaybeUninit::uninit(); N])
    }
}

impl<const N: usize> Default for PinRoom<N> {
    #[inline]
    fn default() -> Self {
        Self::new()
    }
}

/// Room for pointers of type `*mut T`, on the stack or allocated.
///
/// # Invariants
///
/// There is memory for `capacity` pointers at `slots`, which nobody else uses during `'a`; it
/// belongs to `_heap` if that has any.
pub(in crate::mm) struct Slots<'a, T> {
    slots: NonNull<*mut T>,
    capacity: usize,
    // An empty vector would call the allocator when it is dropped.
    _heap: Option<KVec<MaybeUninit<NonNull<T>>>>,
    _room: PhantomData<&'a mut [MaybeUninit<NonNull<T>>]>,
}

impl<'a, T> Slots<'a, T> {
    #[inline]
    pub(in crate::mm) fn new<const N: usize>(room: &'a mut PinRoom<N>) -> Self {
        // INVARIANT: All pointers have the same size, and `room` stays borrowed.
        Self {
            slots: NonNull::from(&mut room.0).cast(),
            capacity: N,
            _heap: None,
            _room: PhantomData,
        }
    }

    /// Allocates room for `count` pointers. What was in the old one is forgotten.
    pub(in crate::mm) fn allocate(&mut self, count: usize, flags: Flags) -> Result<(), AllocError> {
        let mut heap = KVec::with_capacity(count, flags)?;

        // INVARIANT: A vector has memory for as many elements as it has capacity, at this address.
        self.slots = NonNull::new(heap.as_mut_ptr()).ok_or(AllocError)?.cast();
        self.capacity = count;
        self._heap = Some(heap);
        Ok(())
    }

    #[inline]
    pub(in crate::mm) fn capacity(&self) -> usize {
        self.capacity
    }

    #[inline]
    pub(in crate::mm) fn as_ptr(&self) -> *mut *mut T {
        self.slots.as_ptr()
    }
}
