// SPDX-License-Identifier: GPL-2.0

//! A kernel read/write semaphore.
//!
//! [`RwSemaphore`] is a sleeping lock that many readers or one writer may hold. It wraps
//! [`struct rw_semaphore`] together with the data that it protects, so that the data can only be
//! reached through a guard: [`ReadGuard`] shares it, [`WriteGuard`] owns it.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)
//!
//! Reference: <https://docs.kernel.org/locking/locktypes.html#rw-semaphore>
//!
//! [`struct rw_semaphore`]: srctree/include/linux/rwsem.h

use crate::{
    bindings,
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomPinned,
    mem::ManuallyDrop,
    ops::{
        Deref,
        DerefMut, //
    },
    pin::Pin, //
};
use pin_init::Wrapper;

/// Creates an [`RwSemaphore`] initialiser with the given name and a newly-created lock class.
///
/// It uses the name if one is given, otherwise it generates one based on the file name and line
/// number.
#[macro_export]
macro_rules! new_rwsem {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::sync::rwsem::RwSemaphore::new(
            $inner, $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}
pub use new_rwsem;

/// A read/write semaphore.
///
/// Exposes the kernel's [`struct rw_semaphore`]. Any number of readers may hold it at once, or a
/// single writer. Since acquiring it may sleep, it must not be used in atomic context. It is not
/// recursive: a task that acquires it a second time, even for reading, can deadlock with a writer
/// that came in between.
///
/// Instances need a lock class and to be pinned; create them with [`new_rwsem!`].
///
/// The C structure is the first field: C code that is given a pointer to an [`RwSemaphore`] may
/// treat it as a pointer to a `struct rw_semaphore`.
///
/// # Examples
///
/// ```
/// use kernel::sync::rwsem::{new_rwsem, RwSemaphore};
///
/// #[pin_data]
/// struct Table {
///     #[pin]
///     entries: RwSemaphore<KVec<u32>>,
/// }
///
/// let table = KBox::pin_init(
///     pin_init!(Table {
///         entries <- new_rwsem!(KVec::new(), "Table::entries"),
///     }),
///     GFP_KERNEL,
/// )?;
///
/// table.entries.write().push(7, GFP_KERNEL)?;
///
/// // Readers do not exclude each other, but they do exclude writers.
/// let first = table.entries.read();
/// let second = table.entries.try_read().ok_or(EBUSY)?;
/// assert_eq!(first[0], second[0]);
/// assert!(table.entries.try_write().is_none());
/// drop(first);
/// drop(second);
///
/// // A writer excludes everybody until it becomes a reader.
/// let mut writer = table.entries.try_write().ok_or(EBUSY)?;
/// writer[0] = 8;
/// assert!(table.entries.try_read().is_none());
/// let reader = writer.downgrade();
/// assert!(table.entries.try_read().is_some());
/// assert_eq!(reader[0], 8);
/// # Ok::<(), Error>(())
/// ```
///
/// [`struct rw_semaphore`]: srctree/include/linux/rwsem.h
#[repr(C)]
#[pin_data]
pub struct RwSemaphore<T: ?Sized> {
    /// The kernel lock object; must stay the first field, see the type's documentation.
    #[pin]
    sem: Opaque<bindings::rw_semaphore>,

    /// The wait list of a `struct rw_semaphore` points back to it.
    #[pin]
    _pin: PhantomPinned,

    /// The data protected by the lock.
    #[pin]
    data: UnsafeCell<T>,
}

// SAFETY: A semaphore that nobody borrows can be used from another thread if its data can.
unsafe impl<T: ?Sized + Send> Send for RwSemaphore<T> {}

// SAFETY: Readers on several threads get `&T` at the same time, hence `T: Sync`; a writer gets
// `&mut T` on whichever thread it runs, hence `T: Send`.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwSemaphore<T> {}

impl<T> RwSemaphore<T> {
    /// Constructs a new semaphore initialiser. Usually called through [`new_rwsem!`].
    pub fn new(
        data: impl PinInit<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            data <- UnsafeCell::pin_init(data),
            _pin: PhantomPinned,
            // SAFETY: `slot` is valid while the closure is called and both `name` and `key` have
            // static lifetimes so they live indefinitely.
            sem <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }
}

impl<T: ?Sized> RwSemaphore<T> {
    /// Acquires the semaphore for reading, sleeping until no writer holds it.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: The constructor initialised the semaphore.
        unsafe { bindings::down_read(self.sem.get()) };
        // SAFETY: It was just acquired for reading.
        unsafe { ReadGuard::new(self) }
    }

    /// Acquires the semaphore for reading if that is possible without sleeping.
    #[must_use = "if unused, the semaphore will be immediately released"]
    #[inline]
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        // SAFETY: The constructor initialised the semaphore.
        let acquired = unsafe { bindings::down_read_trylock(self.sem.get()) } != 0;
        // SAFETY: It was just acquired for reading.
        acquired.then(|| unsafe { ReadGuard::new(self) })
    }

    /// Acquires the semaphore for writing, sleeping until nobody else holds it.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: The constructor initialised the semaphore.
        unsafe { bindings::down_write(self.sem.get()) };
        // SAFETY: It was just acquired for writing.
        unsafe { WriteGuard::new(self) }
    }

    /// Acquires the semaphore for writing if that is possible without sleeping.
    #[must_use = "if unused, the semaphore will be immediately released"]
    #[inline]
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        // SAFETY: The constructor initialised the semaphore.
        let acquired = unsafe { bindings::down_write_trylock(self.sem.get()) } != 0;
        // SAFETY: It was just acquired for writing.
        acquired.then(|| unsafe { WriteGuard::new(self) })
    }

    /// Acquires the semaphore for writing while other semaphores of its lock class may be held.
    ///
    /// `nest` is the evidence that this cannot deadlock: whoever holds more than one lock of the
    /// class holds the write side of `nest` too, so there is never more than one such task, and
    /// the order among them does not matter. It is borrowed for as long as the result lives: `nest`
    /// cannot be released before. Lockdep is told so; nothing else differs from
    /// [`RwSemaphore::write`].
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::sync::{rwsem::{new_rwsem, RwSemaphore}, Arc};
    ///
    /// // One place in the source, hence one lock class for both.
    /// fn account(balance: u64) -> Result<Arc<RwSemaphore<u64>>> {
    ///     Arc::pin_init(new_rwsem!(balance, "account"), GFP_KERNEL)
    /// }
    ///
    /// let all = KBox::pin_init(new_rwsem!((), "all_accounts"), GFP_KERNEL)?;
    /// let (ours, theirs) = (account(10)?, account(0)?);
    ///
    /// let nest = all.write();
    /// let mut ours = ours.write_nested_in(&nest);
    /// let mut theirs = theirs.write_nested_in(&nest);
    /// core::mem::swap(&mut *ours, &mut *theirs);
    /// assert_eq!((*ours, *theirs), (0, 10));
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub fn write_nested_in<'a, U: ?Sized>(
        &'a self,
        nest: &'a WriteGuard<'_, U>,
    ) -> WriteGuard<'a, T> {
        // SAFETY: The constructors initialised both semaphores.
        unsafe { bindings::down_write_nest_lock(self.sem.get(), nest.lock.sem.get()) };
        // SAFETY: It was just acquired for writing.
        unsafe { WriteGuard::new(self) }
    }

    /// Returns the C semaphore.
    ///
    /// Releasing through it what a guard holds breaks that guard's promise.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::rw_semaphore {
        self.sem.get()
    }

    /// Returns the data without locking: the exclusive borrow shows that nobody else can.
    #[inline]
    pub fn get_mut(self: Pin<&mut Self>) -> &mut T
    where
        T: Unpin,
    {
        // SAFETY: Neither the semaphore nor the data is moved out of the reference; `T: Unpin`
        // allows the caller to move the data.
        unsafe { self.get_unchecked_mut() }.data.get_mut()
    }
}

/// The read side of an [`RwSemaphore`]: shares its data with other readers.
///
/// # Invariants
///
/// The current task holds `lock` for reading on behalf of this guard.
#[must_use = "the semaphore is released immediately when the guard is unused"]
pub struct ReadGuard<'a, T: ?Sized> {
    lock: &'a RwSemaphore<T>,
    /// A semaphore must be released by the task that acquired it.
    _not_send: NotThreadSafe,
}

// SAFETY: A shared guard gives access to `&T`, and by `lock_ref()` to the semaphore.
unsafe impl<T: ?Sized + Send + Sync> Sync for ReadGuard<'_, T> {}

impl<'a, T: ?Sized> ReadGuard<'a, T> {
    /// Makes a guard of a read side that was acquired by other means.
    ///
    /// # Safety
    ///
    /// The current task holds `lock` for reading and hands that over to the guard, whose drop
    /// releases it. A caller that keeps it wraps the guard in [`ManuallyDrop`] and ends the
    /// guard's use before it releases the semaphore.
    #[inline]
    pub unsafe fn new(lock: &'a RwSemaphore<T>) -> Self {
        // SAFETY: The semaphore is initialised.
        unsafe { bindings::rwsem_assert_held(lock.sem.get()) };

        // INVARIANT: By the safety requirements of this function.
        Self {
            lock,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the semaphore that this guard holds.
    #[inline]
    pub fn lock_ref(&self) -> &'a RwSemaphore<T> {
        self.lock
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The read side is held, so there are no `&mut T`.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant the read side is held, by this task, for this guard.
        unsafe { bindings::up_read(self.lock.sem.get()) };
    }
}

/// The write side of an [`RwSemaphore`]: owns its data for the time being.
///
/// # Invariants
///
/// The current task holds `lock` for writing on behalf of this guard.
#[must_use = "the semaphore is released immediately when the guard is unused"]
pub struct WriteGuard<'a, T: ?Sized> {
    lock: &'a RwSemaphore<T>,
    /// A semaphore must be released by the task that acquired it.
    _not_send: NotThreadSafe,
}

// SAFETY: A shared guard gives access to `&T`, and by `lock_ref()` to the semaphore.
unsafe impl<T: ?Sized + Send + Sync> Sync for WriteGuard<'_, T> {}

impl<'a, T: ?Sized> WriteGuard<'a, T> {
    /// Makes a guard of a write side that was acquired by other means.
    ///
    /// # Safety
    ///
    /// The current task holds `lock` for writing, no other guard stands for that, and the task
    /// hands it over to the guard, whose drop releases it. A caller that keeps it wraps the guard
    /// in [`ManuallyDrop`] and ends the guard's use before it releases the semaphore.
    #[inline]
    pub unsafe fn new(lock: &'a RwSemaphore<T>) -> Self {
        // SAFETY: The semaphore is initialised.
        unsafe { bindings::rwsem_assert_held_write(lock.sem.get()) };

        // INVARIANT: By the safety requirements of this function.
        Self {
            lock,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the semaphore that this guard holds.
    #[inline]
    pub fn lock_ref(&self) -> &'a RwSemaphore<T> {
        self.lock
    }

    /// Turns the write side into a read side; no other writer gets in between.
    #[inline]
    pub fn downgrade(self) -> ReadGuard<'a, T> {
        let this = ManuallyDrop::new(self);

        // SAFETY: By the type invariant this task holds the write side, and nothing of `this` is
        // used any more but the shared reference to the lock.
        unsafe { bindings::downgrade_write(this.lock.sem.get()) };
        // SAFETY: This task holds the read side now, and only the new guard stands for it.
        unsafe { ReadGuard::new(this.lock) }
    }

    /// Returns a pinned mutable reference to the protected data.
    ///
    /// The guard implements [`DerefMut`] when `T: Unpin`; that should be used where it can be.
    #[inline]
    pub fn as_mut(&mut self) -> Pin<&mut T> {
        // SAFETY: The write side is held, and `data` is structurally pinned.
        unsafe { Pin::new_unchecked(&mut *self.lock.data.get()) }
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The write side is held, and `&mut T` are only lent through `&mut self`.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized + Unpin> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The write side is held, and the guard is borrowed exclusively.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant the write side is held, by this task, for this guard.
        unsafe { bindings::up_write(self.lock.sem.get()) };
    }
}
