// SPDX-License-Identifier: GPL-2.0

//! Boxes whose memory is freed after an RCU grace period.
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
    prelude::*, //
};
use core::{
    alloc::Layout,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// Types whose values are cleaned up before an RCU grace period, and whose memory is freed after
/// it.
///
/// # Safety
///
/// What RCU readers access of a value must stay valid for shared access when
/// [`drop_before_gp()`](Self::drop_before_gp) has run, until its memory is freed.
///
/// `drop_before_gp()` has a mutable reference while readers have shared ones. So a type whose
/// `drop_before_gp()` does anything must be `!Unpin`, by which its mutable references are not
/// exclusive for the compiler.
pub unsafe trait RcuFreeSafe {
    /// Cleans up the value, in place of its destructor.
    ///
    /// # Safety
    ///
    /// This must be called once. After that the value must not be used, nor dropped, except by RCU
    /// readers that found it before.
    unsafe fn drop_before_gp(self: Pin<&mut Self>);
}

macro_rules! impl_without_cleanup {
    ($($t:ty),*) => {
        $(
            // SAFETY: Nothing is done to the value.
            unsafe impl RcuFreeSafe for $t {
                #[inline]
                unsafe fn drop_before_gp(self: Pin<&mut Self>) {
                    const { assert!(!core::mem::needs_drop::<$t>()) };
                }
            }
        )*
    };
}

impl_without_cleanup! {i8, u8, i16, u16, i32, u32, i64, u64, isize, usize}

// SAFETY: Nothing is done to the values.
unsafe impl<T: RcuFreeSafe + Copy, const N: usize> RcuFreeSafe for [T; N] {
    #[inline]
    unsafe fn drop_before_gp(self: Pin<&mut Self>) {
        const { assert!(!core::mem::needs_drop::<T>()) };
    }
}

/// A box that cleans up its value at once and frees the memory after an RCU grace period.
///
/// Dropping the box calls [`RcuFreeSafe::drop_before_gp`]. The *memory* is freed when all RCU
/// read-side critical sections of that moment have ended. A reader that found the value through a
/// pointer protected by RCU can therefore still access those parts of it that `drop_before_gp()`
/// leaves intact, typically a reference count of zero.
///
/// The `rcu_head` lies behind the value, so `T` needs no room for it; this matters where the layout
/// of `T` is fixed by C. A `T` that is so large that this would be 4096 bytes behind its start does
/// not compile. Freeing by an `rcu_head` neither allocates nor sleeps; `synchronize_rcu()` is never
/// called.
///
/// The value lies at the start of its allocation, which has the alignment of `T`. If a size is
/// given, it has the alignment that C's `kzalloc()` of this size has, too: C code may put a
/// structure there that begins with a `T`. The `rcu_head` overlaps what follows the `T` in such a
/// structure, and is written only when the `T` has been cleaned up.
///
/// # Invariants
///
/// - `self.0` points to a pinned, valid `T` at the start of a `Kmalloc` allocation that this box
///   owns.
/// - `Self::HEAD` bytes into that allocation, behind the `T`, there is room for a
///   `struct kvfree_rcu_head`.
///
/// # Examples
///
/// ```
/// use kernel::sync::rcu::RcuFreeBox;
///
/// let b = RcuFreeBox::new(1u64, GFP_KERNEL)?;
/// assert_eq!(*b, 1);
/// // A C structure with room for the private data of a driver behind it:
/// let b = RcuFreeBox::pin_init_sized::<Error>(Ok([0u64; 2]), 64, GFP_KERNEL)?;
/// assert_eq!(b[1], 0);
/// // It may be of a type that has a greater alignment than the part that Rust knows.
/// for size in [16, 24, 64, 96, 192, 256, 4096, 12288] {
///     let b = RcuFreeBox::pin_init_sized::<Error>(Ok([0u64; 2]), size, GFP_KERNEL)?;
///     let align = 1 << size.trailing_zeros();
///     assert_eq!(RcuFreeBox::as_ptr(&b).as_ptr() as usize % align, 0);
/// }
/// // Where the initialiser fails, nothing is left behind.
/// let b = RcuFreeBox::pin_init_sized(Err::<u32, _>(EINVAL), 64, GFP_KERNEL);
/// assert_eq!(b.err(), Some(EINVAL));
/// # Ok::<(), Error>(())
/// ```
pub struct RcuFreeBox<T: RcuFreeSafe>(NonNull<T>);

// SAFETY: The box owns its `T`, hence `T: Send`. When it is sent, RCU readers may still have shared
// references on another thread, hence `T: Sync`. The memory can be freed on any thread.
unsafe impl<T: Send + Sync + RcuFreeSafe> Send for RcuFreeBox<T> {}
// SAFETY: A shared box gives out shared references only.
unsafe impl<T: Sync + RcuFreeSafe> Sync for RcuFreeBox<T> {}

/// Memory with room for a `T` that has not been initialised.
///
/// # Invariants
///
/// `base` is an allocation of [`Kmalloc`] with this layout, which `self` owns. It is aligned for a
/// `T`, with which it begins, and has room for a `struct kvfree_rcu_head` at
/// `RcuFreeBox::<T>::HEAD`.
struct Uninit<T: RcuFreeSafe> {
    base: NonNull<u8>,
    layout: Layout,
    _p: PhantomData<T>,
}

impl<T: RcuFreeSafe> Uninit<T> {
    /// The layout if no size is given.
    const LAYOUT: Layout = match Layout::from_size_align(Self::SIZE, RcuFreeBox::<T>::ALIGN) {
        Ok(layout) => layout,
        Err(_) => panic!(),
    };
    const SIZE: usize = RcuFreeBox::<T>::HEAD + size_of::<bindings::kvfree_rcu_head>();

    #[inline]
    fn alloc(size: usize, flags: Flags) -> Result<Self, AllocError> {
        let layout = if size == 0 {
            Self::LAYOUT
        } else {
            // What kzalloc() guarantees: the greatest power of two that divides the size.
            let align = (1 << size.trailing_zeros()).max(RcuFreeBox::<T>::ALIGN);

            Layout::from_size_align(size.max(Self::SIZE), align).map_err(|_| AllocError)?
        };

        // INVARIANT: The size has room for a `T` with the head behind it, and the alignment is that
        // of a `T` at least.
        Ok(Self {
            base: Kmalloc::alloc(layout, flags, NumaNode::NO_NODE)?.cast(),
            layout,
            _p: PhantomData,
        })
    }

    /// The place of the `T`.
    fn value(&self) -> NonNull<T> {
        self.base.cast()
    }

    /// The memory becomes that of a box.
    ///
    /// # Safety
    ///
    /// The `T` must have been initialised.
    unsafe fn into_box(self) -> RcuFreeBox<T> {
        // INVARIANT: By the type invariants and the requirements of this function.
        RcuFreeBox(ManuallyDrop::new(self).value())
    }
}

impl<T: RcuFreeSafe> Drop for Uninit<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and it is not used after this.
        unsafe { Kmalloc::free(self.base, self.layout) };
    }
}

impl<T: RcuFreeSafe> RcuFreeBox<T> {
    const ALIGN: usize = if align_of::<T>() > align_of::<bindings::kvfree_rcu_head>() {
        align_of::<T>()
    } else {
        align_of::<bindings::kvfree_rcu_head>()
    };
    /// The offset of the `struct kvfree_rcu_head`, in bytes.
    ///
    /// As with C's `kfree_rcu()` it lies less than 4096 bytes behind the start: the start of an
    /// allocation of whole pages is found from the offset of the head in its page.
    const HEAD: usize = {
        let head = size_of::<T>().next_multiple_of(align_of::<bindings::kvfree_rcu_head>());

        assert!(head < 4096);
        head
    };

    /// Allocates memory and moves `value` there.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if memory is short.
    pub fn new(value: T, flags: Flags) -> Result<Self, AllocError> {
        let memory = Uninit::alloc(0, flags)?;

        // SAFETY: The memory is large and aligned enough for a `T`.
        unsafe { memory.value().write(value) };
        // SAFETY: The value was just written.
        Ok(unsafe { memory.into_box() })
    }

    /// Allocates at least `size` bytes, aligned as `kzalloc(size)` aligns them, and initialises a
    /// `T` at their start.
    ///
    /// What lies behind the `T` is zeroed if `flags` say so. It is the caller's until the box is
    /// dropped; readers under RCU cannot look at it after that.
    ///
    /// # Errors
    ///
    /// [`AllocError`] on allocation failure or size overflow; what `init` returns.
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
        unsafe { init.__init(memory.value().as_ptr()) }?;
        // SAFETY: The value was just initialised, and the box never moves it.
        Ok(unsafe { Pin::new_unchecked(memory.into_box()) })
    }

    /// Returns the address of the value.
    ///
    /// It is good for whatever the owner of the box could do: for shared access while the box is
    /// borrowed, and for exclusive access while nobody else has any.
    #[inline]
    pub fn as_ptr(this: &Pin<Self>) -> NonNull<T> {
        // `Pin::deref()` would make a reference of it, which is good for less.
        // SAFETY: A `Pin` is transparent, and the value is not moved.
        unsafe { &*ptr::from_ref(this).cast::<Self>() }.0
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
    /// `ptr` must come from [`Self::into_raw`] of the same type, and must not be used to make a
    /// second box. References that were made from it must have ended, except for those of RCU
    /// readers to what [`RcuFreeSafe::drop_before_gp`] leaves intact.
    pub unsafe fn from_raw(ptr: NonNull<T>) -> Pin<Self> {
        // INVARIANT: By the requirements of this function.
        // SAFETY: The box never moves its value.
        unsafe { Pin::new_unchecked(Self(ptr)) }
    }
}

impl<T: RcuFreeSafe> Deref for RcuFreeBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl<T: RcuFreeSafe> Drop for RcuFreeBox<T> {
    fn drop(&mut self) {
        let base = self.0.as_ptr();

        // SAFETY: By the type invariants the value is valid and pinned. The box is being dropped,
        // so that this is called once, and only RCU readers use the value after it.
        unsafe { Pin::new_unchecked(&mut *base).drop_before_gp() };
        // SAFETY: By the type invariants, `base` is the start of a kmalloc() allocation that nobody
        // else frees. It has room for the head behind the value, which RCU readers do not access.
        unsafe {
            let head = base.byte_add(Self::HEAD);
            bindings::kvfree_call_rcu(head.cast(), base.cast());
        }
    }
}
