// SPDX-License-Identifier: GPL-2.0

//! Boxes whose memory outlives them by an RCU grace period.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use crate::{
    alloc::{
        allocator::Kmalloc,
        AllocError,
        Allocator,
        Flags,
        NumaNode, //
    },
    bindings,
    ffi::c_void,
    prelude::*, //
};
use core::{
    alloc::Layout,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};

/// A box that frees its memory only after an RCU grace period.
///
/// Dropping it runs the destructor of `T` at once. The *memory* is given back when all RCU
/// read-side critical sections of that moment have ended. A reader that found the value through a
/// pointer protected by RCU can therefore still look at those parts of it that the destructor
/// leaves intact, typically a reference count that says zero.
///
/// The `rcu_head` lies in front of the value, so `T` needs no room for it; this matters where the
/// layout of `T` is fixed by C. An allocation that goes through `rcu_head` never has to fall back
/// to `synchronize_rcu()` for lack of memory.
///
/// # Invariants
///
/// - `self.0` points to a pinned, valid `T`, which lies `Self::OFFSET` bytes into a `Kmalloc`
///   allocation that this box owns.
/// - The first bytes of that allocation are room for a `struct kvfree_rcu_head`.
///
/// # Examples
///
/// ```
/// use kernel::sync::rcu_box::RcuBox;
///
/// let b = RcuBox::new(1u64, GFP_KERNEL)?;
/// assert_eq!(*b, 1);
/// // A C structure with room for the private data of a driver behind it:
/// let b = RcuBox::pin_init_sized::<Error>(Ok([0u64; 2]), 64, GFP_KERNEL)?;
/// assert_eq!(b[1], 0);
/// # Ok::<(), Error>(())
/// ```
pub struct RcuBox<T>(NonNull<T>);

// SAFETY: The box owns its `T`, and its memory can be freed on any thread.
unsafe impl<T: Send> Send for RcuBox<T> {}
// SAFETY: A shared box gives out shared references only.
unsafe impl<T: Sync> Sync for RcuBox<T> {}

/// Memory with room for a `T` that has not been initialised.
struct Uninit<T>(NonNull<T>);

impl<T> Uninit<T> {
    fn alloc(size: usize, flags: Flags) -> Result<Self, AllocError> {
        let size = size.max(size_of::<T>());
        let size = size.checked_add(RcuBox::<T>::OFFSET).ok_or(AllocError)?;
        let layout = Layout::from_size_align(size, RcuBox::<T>::ALIGN).map_err(|_| AllocError)?;
        let base = Kmalloc::alloc(layout, flags, NumaNode::NO_NODE)?.cast::<u8>();
        // SAFETY: The allocation is larger than `OFFSET`.
        Ok(Self(unsafe { base.add(RcuBox::<T>::OFFSET) }.cast()))
    }
}

impl<T> Drop for Uninit<T> {
    fn drop(&mut self) {
        let base = RcuBox::<T>::base(self.0);
        // SAFETY: `self.0` lies `OFFSET` bytes into an allocation made by `Self::alloc()`, which is
        // not at address zero. `Kmalloc` does not look at the layout.
        unsafe { Kmalloc::free(NonNull::new_unchecked(base), Layout::new::<T>()) };
    }
}

impl<T> RcuBox<T> {
    const ALIGN: usize = if align_of::<T>() > align_of::<bindings::kvfree_rcu_head>() {
        align_of::<T>()
    } else {
        align_of::<bindings::kvfree_rcu_head>()
    };
    const OFFSET: usize = size_of::<bindings::kvfree_rcu_head>().next_multiple_of(Self::ALIGN);

    /// The start of the allocation in which `ptr` lies, given that a box or [`Uninit`] owns it.
    fn base(ptr: NonNull<T>) -> *mut u8 {
        ptr.as_ptr().cast::<u8>().wrapping_sub(Self::OFFSET)
    }

    /// Allocates memory and moves `value` there.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if memory is short.
    pub fn new(value: T, flags: Flags) -> Result<Self, AllocError> {
        let memory = ManuallyDrop::new(Uninit::<T>::alloc(0, flags)?);
        // SAFETY: The memory is large and aligned enough for a `T`.
        unsafe { memory.0.write(value) };
        // INVARIANT: `Uninit` has the same layout, and the value was just written.
        Ok(Self(memory.0))
    }

    /// Allocates at least `size` bytes and initialises a `T` at their start.
    ///
    /// What lies behind the `T` is zeroed if `flags` say so.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if memory is short or nobody has so much; what `init` says.
    pub fn pin_init_sized<E>(
        init: impl PinInit<T, E>,
        size: usize,
        flags: Flags,
    ) -> Result<Pin<Self>, E>
    where
        E: From<AllocError>,
    {
        let memory = Uninit::<T>::alloc(size, flags)?;
        // SAFETY: The memory is large and aligned enough for a `T`, is not used on failure, and
        // does not move.
        unsafe { init.__init(memory.0.as_ptr()) }?;
        let memory = ManuallyDrop::new(memory);
        // INVARIANT: `Uninit` has the same layout, and the value was just initialised.
        // SAFETY: The box never moves its value.
        Ok(unsafe { Pin::new_unchecked(Self(memory.0)) })
    }

    /// Gives up the box for a raw pointer, to be taken back by [`Self::from_raw`].
    pub fn into_raw(this: Pin<Self>) -> NonNull<T> {
        // SAFETY: The value is not moved.
        ManuallyDrop::new(unsafe { Pin::into_inner_unchecked(this) }).0
    }

    /// Takes back a box.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of the same type or of a `T` that lies at the start
    /// of it and has the same alignment, and must not be used to make a second box. References that
    /// were made from it must have ended, except for those under RCU that look only at what the
    /// destructor of `T` leaves intact.
    pub unsafe fn from_raw(ptr: NonNull<T>) -> Pin<Self> {
        // INVARIANT: By the requirements of this function.
        // SAFETY: The box never moves its value.
        unsafe { Pin::new_unchecked(Self(ptr)) }
    }
}

impl<T> Deref for RcuBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for RcuBox<T> {
    fn drop(&mut self) {
        let base: *mut c_void = Self::base(self.0).cast();
        // SAFETY: By the type invariants the value is valid, and nobody uses it after this.
        unsafe { self.0.drop_in_place() };
        // SAFETY: By the type invariants, `base` is the start of a kmalloc() allocation that nobody
        // else frees, with room for the head in front of the value.
        unsafe { bindings::kvfree_call_rcu(base.cast(), base) };
    }
}
