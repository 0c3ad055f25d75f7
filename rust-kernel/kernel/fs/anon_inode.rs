// SPDX-License-Identifier: GPL-2.0

//! Files on the anonymous inode.
//!
//! Such a file has no name in any file system: it comes into the world as a file descriptor, and is
//! the usual way for the kernel to give user space a queue to read and to poll. Handing one out has
//! an order in which nothing can go wrong late:
//!
//! 1. [`PendingFile::new`] makes the file. It may fail. The file has no data yet: it can be dropped
//!    at any time, and its release, which may come long after, has nothing to touch.
//! 2. [`FileDescriptorReservation`] finds a place for it in the file table. It may fail.
//! 3. The number is told to user space, which may fail.
//! 4. [`PendingFile::install`] gives the file its data and makes it reachable. It cannot fail, and
//!    there is no way back.
//!
//! A file that owns a reference to an object that is itself under construction is where this order
//! pays: the reference is only taken once the object is complete.
//!
//! C header: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use crate::{
    bindings,
    error::{
        from_err_ptr,
        VTABLE_DEFAULT_ERROR, //
    },
    fs::{
        file::{
            FileDescriptorReservation,
            Offset, //
        },
        File, //
    },
    module::this_module,
    prelude::*,
    str::CStrExt as _,
    sync::{
        aref::ARef,
        poll::Poller, //
    },
    types::ForeignOwnable,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader,
        UserSliceWriter, //
    }, //
};
use core::{
    marker::PhantomData,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};

/// What a poller may be told: the file can be read without blocking.
pub const POLL_IN: u32 = bindings::POLLIN | bindings::POLLRDNORM;

/// What a poller may be told: the file can be written without blocking.
pub const POLL_OUT: u32 = bindings::POLLOUT;

/// The operations of a file on the anonymous inode.
///
/// The methods get what [`Self::Ptr`] borrows to, and may run on any number of threads at once.
#[vtable]
pub trait AnonFile: Sized + 'static {
    /// What the file owns, from [`PendingFile::install`] until it is released.
    type Ptr: ForeignOwnable + Send + Sync + 'static;

    /// What the link in `/proc/PID/fd` shows after `anon_inode:`.
    const NAME: &'static CStr;

    /// Reads into `out`, whose length is the number of bytes asked for.
    ///
    /// The file has no position of its own. `pos` is 0 unless the caller names an offset, as
    /// `io_uring` can.
    ///
    /// Returns the number of bytes read. Without this method `read()` says `EINVAL`.
    fn read(
        _this: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        _pos: Offset,
        _out: UserSliceWriter,
    ) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes what `data` holds, whose length is the number of bytes offered.
    ///
    /// `pos` is as for [`Self::read`]. Returns the number of bytes taken. Without this method
    /// `write()` says `EINVAL`.
    fn write(
        _this: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        _pos: Offset,
        _data: UserSliceReader,
    ) -> Result<usize> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Names the queues that `poller` is to wait on, by [`Poller::register_wait`]. Then returns
    /// what the file is ready for, as a mask of [`POLL_IN`] and [`POLL_OUT`].
    fn poll<'a>(_this: <Self::Ptr as ForeignOwnable>::Borrowed<'a>, _poller: &Poller<'a>) -> u32 {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A file that is not open to anyone yet.
///
/// Dropping it releases the file, as if it had never been.
///
/// # Invariants
///
/// `file` has the operations of `T`, null as `private_data`, and no other reference.
///
/// # Examples
///
/// A file that is always ready and gives zeroes:
///
/// ```
/// use kernel::{
///     fs::{anon_inode::{AnonFile, PendingFile, POLL_IN}, file},
///     sync::poll::Poller,
///     uaccess::UserSliceWriter,
/// };
///
/// struct Zeroes;
///
/// #[vtable]
/// impl AnonFile for Zeroes {
///     type Ptr = KBox<Zeroes>;
///     const NAME: &'static CStr = c"[zeroes]";
///
///     fn read(_this: &Zeroes, _pos: file::Offset, mut out: UserSliceWriter) -> Result<usize> {
///         let len = out.len();
///         while !out.is_empty() {
///             out.write(&0u8)?;
///         }
///         Ok(len)
///     }
///
///     fn poll<'a>(_this: &'a Zeroes, _poller: &Poller<'a>) -> u32 {
///         POLL_IN
///     }
/// }
///
/// # #[expect(dead_code)]
/// fn give_zeroes(tell_user: impl FnOnce(u32) -> Result) -> Result {
///     let data = KBox::new(Zeroes, GFP_KERNEL)?;
///     let file = PendingFile::<Zeroes>::new(file::flags::O_RDONLY)?;
///     let fd = file::FileDescriptorReservation::get_unused_fd_flags(file::flags::O_CLOEXEC)?;
///     tell_user(fd.reserved_fd())?;
///     file.install(fd, data);
///     Ok(())
/// }
///
/// // Dropped before anyone can see it.
/// drop(PendingFile::<Zeroes>::new(file::flags::O_RDONLY)?);
/// # Ok::<(), Error>(())
/// ```
#[must_use = "dropping the file releases it"]
pub struct PendingFile<T: AnonFile> {
    file: ARef<File>,
    _p: PhantomData<T>,
}

impl<T: AnonFile> PendingFile<T> {
    /// Makes a file that is opened with `flags`, of which the access mode and
    /// [`O_NONBLOCK`](crate::fs::file::flags::O_NONBLOCK) count.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] or [`ENFILE`], for lack of memory or of files; [`ENOENT`] if the module is going.
    ///
    /// Context: process context; may sleep.
    pub fn new(flags: u32) -> Result<Self> {
        // SAFETY: The name and the operations are static, and the operations deal with a null
        // `private_data`.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                T::NAME.as_char_ptr(),
                Vtable::<T>::OPS,
                null_mut(),
                // CAST: Flags are small positive numbers.
                flags as c_int,
            )
        })?;
        // SAFETY: `anon_inode_getfile()` returned a file and its only reference, which nobody has
        // called `fdget_pos` on. `File` is a transparent wrapper.
        let file = unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast::<File>())) };
        // INVARIANT: As just said.
        Ok(Self {
            file,
            _p: PhantomData,
        })
    }

    /// Opens the file to user space: gives it `data` and binds it to the descriptor `fd`.
    ///
    /// From here on the file is used, closed, and released, by whoever has the descriptor.
    pub fn install(self, fd: FileDescriptorReservation, data: T::Ptr) {
        // SAFETY: By the type invariants nobody else can reach the file. `fd_install()` publishes
        // what is written here.
        unsafe { (*self.file.as_ptr()).private_data = data.into_foreign() };
        fd.fd_install(self.file);
    }
}

/// The C side of an [`AnonFile`].
struct Vtable<T: AnonFile>(PhantomData<T>);

impl<T: AnonFile> Vtable<T> {
    const OPS: &'static bindings::file_operations = &bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        read: if T::HAS_READ { Some(Self::read) } else { None },
        write: if T::HAS_WRITE {
            Some(Self::write)
        } else {
            None
        },
        poll: if T::HAS_POLL { Some(Self::poll) } else { None },
        release: Some(Self::release),
        ..pin_init::zeroed()
    };

    /// The data of a file.
    ///
    /// # Safety
    ///
    /// `file` must be valid, have these operations, and have been opened to user space. `'a` must
    /// not outlast its release.
    unsafe fn data<'a>(file: *mut bindings::file) -> <T::Ptr as ForeignOwnable>::Borrowed<'a> {
        // SAFETY: `private_data` was set by `PendingFile::install()` before anyone could reach the
        // file, and does not change until the release, which is the only one to take it back.
        unsafe { <T::Ptr as ForeignOwnable>::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// As `file_operations::read` of a file with these operations.
    unsafe extern "C" fn read(
        file: *mut bindings::file,
        buf: *mut c_char,
        count: usize,
        pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: Only an open file is read, and it is not released meanwhile.
        let this = unsafe { Self::data(file) };
        // SAFETY: The position is null or valid for reads.
        let pos = unsafe { pos.as_ref() }.copied().unwrap_or(0);
        let out = UserSlice::new(UserPtr::from_ptr(buf.cast()), count).writer();
        result(T::read(this, pos, out), count)
    }

    /// # Safety
    ///
    /// As `file_operations::write` of a file with these operations.
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        buf: *const c_char,
        count: usize,
        pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: Only an open file is written, and it is not released meanwhile.
        let this = unsafe { Self::data(file) };
        // SAFETY: The position is null or valid for reads.
        let pos = unsafe { pos.as_ref() }.copied().unwrap_or(0);
        let data = UserSlice::new(UserPtr::from_ptr(buf.cast_mut().cast()), count).reader();
        result(T::write(this, pos, data), count)
    }

    /// # Safety
    ///
    /// As `file_operations::poll` of a file with these operations.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table,
    ) -> bindings::__poll_t {
        // SAFETY: Only an open file is polled. The data is borrowed until its release: nobody else
        // has access that is not shared before that.
        let this = unsafe { Self::data(file) };
        // SAFETY: File and table are valid for this call. The lifetime is that of the data, which
        // is released with the file.
        let poller = unsafe { Poller::from_raw(file, table) };

        T::poll(this, &poller)
    }

    /// # Safety
    ///
    /// As `file_operations::release` of a file with these operations.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The last reference is gone, so that nobody else looks at `private_data`. It is
        // null, or from `into_foreign()` and, as there is one release, taken back once.
        drop(unsafe { <T::Ptr as ForeignOwnable>::try_from_foreign((*file).private_data) });
        0
    }
}

/// What C is told of a transfer of at most `count` bytes.
fn result(ret: Result<usize>, count: usize) -> isize {
    match ret {
        // CAST: The VFS keeps the number of bytes asked for below `MAX_RW_COUNT`.
        Ok(done) => done.min(count) as isize,
        Err(err) => err.to_errno() as isize,
    }
}
