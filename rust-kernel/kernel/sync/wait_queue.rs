// SPDX-License-Identifier: GPL-2.0

//! Wait queues with a condition.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use crate::{
    bindings,
    ffi::c_uint,
    prelude::*,
    sync::LockClassKey,
    task::{
        TASK_NORMAL,
        TASK_UNINTERRUPTIBLE, //
    },
    types::Opaque, //
};
use core::{
    marker::PhantomPinned,
    ptr, //
};

/// Creates a [`WaitQueue`] initialiser with the given name and a newly-created lock class.
#[macro_export]
macro_rules! new_wait_queue {
    ($($name:literal)?) => {
        $crate::sync::wait_queue::WaitQueue::new(
            $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}
pub use new_wait_queue;

/// A queue of tasks that wait for a condition, without a lock around the condition.
///
/// Where the condition is protected by a lock, [`CondVar`](crate::sync::CondVar) is the better
/// choice: it ties the condition to that lock. A `WaitQueue` is for conditions made of atomics,
/// such as a counter that reaches zero. The order of the accesses to those is up to the caller,
/// with one guarantee: what a task wrote before [`wake_all`](Self::wake_all) is seen by a waiter
/// that this call wakes, and a waiter that is not queued yet evaluates its condition after that
/// write.
///
/// # Examples
///
/// ```
/// use kernel::sync::{
///     atomic::{ordering::{Acquire, Release}, Atomic},
///     wait_queue::{new_wait_queue, WaitQueue},
/// };
///
/// #[pin_data]
/// struct Drain {
///     readers: Atomic<i32>,
///     #[pin]
///     empty: WaitQueue,
/// }
///
/// impl Drain {
///     fn leave(&self) {
///         if self.readers.fetch_add(-1, Release) == 1 {
///             self.empty.wake_all();
///         }
///     }
///
///     fn wait(&self) {
///         self.empty.wait_until(|| self.readers.load(Acquire) == 0);
///     }
/// }
///
/// let drain = KBox::pin_init(pin_init!(Drain {
///     readers: Atomic::new(1),
///     empty <- new_wait_queue!("Drain::empty"),
/// }), GFP_KERNEL)?;
/// drain.leave();
/// drain.wait();
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
#[pin_data]
pub struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
    /// The head is a list that its entries point to.
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A `struct wait_queue_head` can be used from any thread.
unsafe impl Send for WaitQueue {}
// SAFETY: A `struct wait_queue_head` has a lock of its own.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// Constructs a new wait queue initialiser.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            _pin: PhantomPinned,
            // SAFETY: `slot` is valid while the closure is called, and `name` and `key` are static.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Sleeps until `condition` holds, deaf to signals.
    ///
    /// `condition` is evaluated with the task state set to `TASK_UNINTERRUPTIBLE`: it must not
    /// sleep.
    ///
    /// Context: process context; may sleep.
    pub fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        if condition() {
            return;
        }

        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is valid for writes, and stays on this stack until `finish_wait()`.
        unsafe { bindings::init_wait(entry.get()) };

        loop {
            // SAFETY: `entry` was initialised above; `self.head` by the constructor.
            unsafe {
                bindings::prepare_to_wait(
                    self.head.get(),
                    entry.get(),
                    // CAST: `TASK_UNINTERRUPTIBLE` is a small positive constant.
                    TASK_UNINTERRUPTIBLE as c_int,
                )
            };
            if condition() {
                break;
            }
            // SAFETY: This is a place to sleep, as the caller knows. The entry stays on the stack,
            // and the task is in a state from which `wake_all()` wakes it.
            unsafe { bindings::schedule() };
        }

        // SAFETY: `entry` was initialised above; `self.head` by the constructor. After this call
        // the queue does not refer to `entry`.
        unsafe { bindings::finish_wait(self.head.get(), entry.get()) };
    }

    /// Wakes every waiter, whatever the state it sleeps in.
    ///
    /// Context: any.
    pub fn wake_all(&self) {
        self.wake(TASK_NORMAL as c_uint, 0);
    }

    /// Wakes the waiters in the given states: all of them, or of those that wait exclusively
    /// `exclusive` at most, if that is not 0.
    pub(crate) fn wake(&self, states: c_uint, exclusive: c_int) {
        // SAFETY: `self.head` was initialised by the constructor.
        unsafe { bindings::__wake_up(self.head.get(), states, exclusive, ptr::null_mut()) };
    }

    /// How C sees the queue.
    #[inline]
    pub fn as_ptr(&self) -> *mut bindings::wait_queue_head {
        self.head.get()
    }
}
