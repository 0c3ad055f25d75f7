// SPDX-License-Identifier: GPL-2.0

//! Poll queues that outlive their pollers.
//!
//! C header: [`include/linux/poll.h`](srctree/include/linux/poll.h)

use crate::{
    bindings,
    prelude::*,
    sync::{
        wait_queue::WaitQueue,
        LockClassKey, //
    }, //
};
use core::marker::PhantomData;

/// The pollers of a file: a [`WaitQueue`] that nothing else waits on.
///
/// Unlike [`PollCondVar`](super::PollCondVar), which may be dropped while it is being polled and
/// therefore waits for a grace period then, a `PollHead` is borrowed from the data of the file:
/// [`Poller`] requires that it outlives its pollers.
///
/// It has the layout of `struct wait_queue_head`.
///
/// # Examples
///
/// ```
/// use kernel::sync::poll::{new_poll_head, PollHead, Poller};
///
/// #[pin_data]
/// struct Queue {
///     #[pin]
///     pollers: PollHead,
/// }
///
/// impl Queue {
///     fn poll<'a>(&'a self, poller: &Poller<'a>) {
///         poller.register_wait(&self.pollers);
///     }
/// }
///
/// let queue = KBox::pin_init(pin_init!(Queue {
///     pollers <- new_poll_head!("Queue::pollers"),
/// }), GFP_KERNEL)?;
/// queue.pollers.notify_all();
/// # Ok::<(), Error>(())
/// ```
#[repr(transparent)]
#[pin_data]
pub struct PollHead {
    #[pin]
    queue: WaitQueue,
}

impl PollHead {
    /// Constructs a queue without waiters. [`new_poll_head!`](crate::new_poll_head) supplies the
    /// arguments.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- WaitQueue::new(name, key),
        })
    }

    /// Wakes all pollers, of those that poll exclusively only one.
    ///
    /// Context: any.
    pub fn notify_all(&self) {
        self.queue.wake(bindings::TASK_INTERRUPTIBLE, 1);
    }
}

/// Creates a [`PollHead`] initialiser with the given name and a newly-created lock class.
#[macro_export]
macro_rules! new_poll_head {
    ($($name:literal)?) => {
        $crate::sync::poll::PollHead::new(
            $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}
pub use new_poll_head;

/// One call of `poll()` on a file whose data is borrowed for `'a`.
///
/// # Invariants
///
/// - `file` is valid, and `table` is null or a valid `poll_table` for `file`, while the poller
///   lives.
/// - `'a` does not end before the release of `file`. By then its pollers have left the queues:
///   `poll()` and `select()` hold a reference to the file, and `eventpoll_release()` runs before
///   the release.
pub struct Poller<'a> {
    file: *mut bindings::file,
    table: *mut bindings::poll_table,
    /// Invariant in `'a`: if it was covariant, a queue with a shorter life could be registered.
    _data: PhantomData<fn(&'a PollHead) -> &'a PollHead>,
}

impl<'a> Poller<'a> {
    /// Creates a poller for a call of `file_operations::poll`.
    ///
    /// # Safety
    ///
    /// - `file` must be valid, and `table` null or a valid `poll_table` for `file`, while the
    ///   result lives.
    /// - `'a` must not end before the release of `file`.
    pub unsafe fn from_raw(file: *mut bindings::file, table: *mut bindings::poll_table) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            file,
            table,
            _data: PhantomData,
        }
    }

    /// Registers the poller with `head`, to be woken when that is notified.
    ///
    /// To be called before the state is read that decides whether the file is ready.
    pub fn register_wait(&self, head: &'a PollHead) {
        // SAFETY: By the type invariants, file and table are valid, and the entries that this may
        // add to the queue are gone before `'a` ends.
        unsafe { bindings::poll_wait(self.file, head.queue.as_ptr(), self.table) };
    }
}
