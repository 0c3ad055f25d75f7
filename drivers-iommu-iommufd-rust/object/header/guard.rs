// SPDX-License-Identifier: GPL-2.0

//! The guards of objects: each owns one count of the header, and puts it when it is dropped.
//!
//! [`Ref`] bounds one operation; [`Dependency`] and [`RevocableRef`] are read sides that another
//! object holds; [`User`] is a user that is not an object. [`LateDependency`] and [`UserSlot`] are
//! fields that are set after the object was created.
//!
//! Locks: if the read side that an object holds may be the last, it is put under the lock of the
//! table.
#![expect(unsafe_code, reason = "the core of this layer")]

use super::{
    Any,
    CLayout,
    Depends,
    Header,
    Held,
    Object,
    Owned,
    Registered, //
};
use crate::{
    object::{
        Owner,
        Tentative, //
    },
    sys::{
        layout::{
            Holds,
            HoldsPublished,
            Raw, //
        },
        mmap::{
            HoldsOwner,
            VmaData, //
        }, //
    }, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            ordering::{
                Relaxed,
                Release, //
            },
            Atomic, //
        },
        SetOnce, //
    }, //
};

/// The read side of an object's destroying lock: the object lives until it is dropped.
///
/// It bounds one operation: it must not be stored.
///
/// # Invariants
///
/// Owns one count of `wait_cnt` of the object, which belongs to `owner`.
pub(crate) struct Ref<'a, T: Registered> {
    pub(super) object: Held<T>,
    pub(super) owner: &'a T::Owner,
}

impl<'a, T: Registered> Ref<'a, T> {
    /// Takes a read side, if the object is of kind `T` and published, and its destruction has not
    /// begun.
    ///
    /// `header` is of an object of `owner`, found under RCU or in the table while that is locked.
    pub(crate) fn try_lock(header: &Header, owner: &'a T::Owner) -> Option<Self> {
        if T::TYPE != Any::<T::Owner>::TYPE && header.kind != T::TYPE {
            return None;
        }
        // INVARIANT: The count was just taken, and the kind compared.
        header.wait_cnt.inc_not_zero().then(|| Self {
            object: Held(NonNull::from(header).cast()),
            owner,
        })
    }

    /// Makes a user of the object, which may be put again if the operation fails, as long as
    /// `_tentative` is held.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the object was claimed after it was looked up.
    pub(crate) fn user(&self, _tentative: &Tentative<'_>) -> Result<User<T>> {
        self.object.user()
    }

    /// As [`Self::user`], in the last step of an operation that can fail.
    pub(crate) fn lasting_user(&self) -> Result<User<T>> {
        self.object.user()
    }

    /// Makes a dependency for an object that is being created.
    pub(crate) fn dependency(&self) -> Dependency<T>
    where
        T: Owned,
    {
        Dependency(self.object.another_read_side())
    }

    /// Makes a read side that another object can hold until it is revoked.
    pub(crate) fn revocable(&self) -> RevocableRef<T>
    where
        T: Owned,
    {
        RevocableRef(Dependency(self.object.another_read_side()))
    }

    /// Converts the read side to a pointer for C, to be passed to [`Self::from_raw`].
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn into_raw(self) -> *mut bindings::iommufd_object {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Converts the pointer from C back to the read side.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of an object of `owner` that is of kind `T`, once.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) unsafe fn from_raw(owner: &'a T::Owner, ptr: *mut bindings::iommufd_object) -> Self {
        // SAFETY: By the requirements of this function there is a count, which keeps the object
        // alive.
        let object = unsafe { Object::from_ptr(ptr) };

        // INVARIANT: It owns the count of the value that `into_raw()` consumed.
        Self {
            object: Held(NonNull::from(object)),
            owner,
        }
    }
}

impl<'a, C: Owner> Ref<'a, Any<C>> {
    /// Returns the kind of the object.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn kind(&self) -> super::KindOfC {
        self.header.kind
    }

    /// Converts the read side, if the object is of kind `T`.
    pub(crate) fn downcast<T: Registered<Owner = C>>(self) -> Result<Ref<'a, T>, Self> {
        if self.header.kind != T::TYPE {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // INVARIANT: The count moves from `this`, and the kind was compared.
        Ok(Ref {
            object: Held(this.object.0.cast()),
            owner: this.owner,
        })
    }
}

impl<T: Registered> Deref for Ref<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.object
    }
}

impl<T: Registered> Drop for Ref<'_, T> {
    fn drop(&mut self) {
        put_read_side(&self.header, self.owner);
    }
}

/// Puts a count of `wait_cnt` that the caller owns.
///
/// The object may be freed from then on; the owner is not, as the caller has a reference to it.
///
/// Memory order: the count is put with release, and the destroyer reads zero with acquire, so it
/// sees all writes to the object (`IOMMUFD+put+drain`). Both sides take the queue's lock, so the
/// destroyer either reads zero or is woken (`IOMMUFD+put+wait`).
fn put_read_side<C: Owner>(header: &Header, owner: &C) {
    if header.wait_cnt.dec_and_test() {
        owner.destroy_wait().wake_all();
    }
}

// SAFETY: By the type invariants it has a count of the object, which is pinned.
unsafe impl<T: CLayout> Holds<T::Raw> for Ref<'_, T> {
    fn raw(&self) -> &Raw<T::Raw> {
        self.as_c()
    }
}

// SAFETY: The count was raised from one that is not zero, or by publishing the object; and a
// destroyer waits for it.
unsafe impl<T: CLayout> HoldsPublished<T::Raw> for Ref<'_, T> {}

/// Puts a count of `wait_cnt` that the caller owns, without a reference to the owner.
///
/// Object and owner may both be freed from then on. So a count that may be the last is put under
/// the lock of the table, which a destroyer that has slept takes once more after it reads zero.
///
/// Memory order: as [`put_read_side`].
fn put_kept_read_side<T: Owned>(object: &Object<T>) {
    let count = object.header.wait_cnt.as_atomic();
    let mut left = count.load(Relaxed);

    while left > 1 {
        match count.cmpxchg(left, left - 1, Release) {
            Ok(_) => return,
            Err(now) => left = now,
        }
    }
    let owner = object.owner();
    let _table = owner.objects().lock();

    put_read_side(&object.header, owner);
}

/// A dependency of an object on another one. To C it is a pointer.
///
/// It is a read side, so a destroyer of the other object waits for it. While the object that
/// contains it is published, that is also a user of the other one ([`Registered::dependencies`]),
/// so that destroying the other one fails with EBUSY.
///
/// # Invariants
///
/// Owns one count of `wait_cnt` of the object.
#[repr(transparent)]
pub(crate) struct Dependency<T: Owned>(Held<T>);

impl<T: Owned> Dependency<T> {
    /// Returns another dependency on the same object.
    pub(crate) fn another(&self) -> Self {
        Self(self.0.another_read_side())
    }

    /// Replaces `user` by one of this object, in the last step of an operation that can fail.
    ///
    /// This is one step for destroyers of the two objects: they never find a user of both.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the object is being destroyed. `user` is as it was then.
    pub(crate) fn move_user(&self, user: &mut Option<User<T>>) -> Result {
        // Destroyers claim under this lock.
        let _table = self.owner().objects().lock();

        *user = Some(self.0.user()?);
        Ok(())
    }
}

// SAFETY: The pointer does not change, and by the type invariants there is a read side.
unsafe impl<T: Owned> Depends for Dependency<T> {
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
        f(&self.0.header)
    }
}

impl<T: Owned> Deref for Dependency<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

// SAFETY: By the type invariants it has a count of the object, which is pinned.
unsafe impl<T: Owned + CLayout> Holds<T::Raw> for Dependency<T> {
    fn raw(&self) -> &Raw<T::Raw> {
        self.as_c()
    }
}

// SAFETY: It was made of a `Ref` or of another `Dependency`, and a destroyer waits for it, too.
unsafe impl<T: Owned + CLayout> HoldsPublished<T::Raw> for Dependency<T> {}

impl<T: Owned> Drop for Dependency<T> {
    fn drop(&mut self) {
        put_kept_read_side(self);
    }
}

/// A read side that another object holds. To C it is a pointer.
///
/// The other object puts it when [`Kind::pre_destroy`] of this object revokes it.
#[repr(transparent)]
pub(crate) struct RevocableRef<T: Owned>(Dependency<T>);

impl<T: Owned> Deref for RevocableRef<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

// SAFETY: It has the count of its `Dependency`.
unsafe impl<T: Owned + CLayout> Holds<T::Raw> for RevocableRef<T> {
    fn raw(&self) -> &Raw<T::Raw> {
        self.as_c()
    }
}

/// A user of an object that is not an object itself, such as a driver, a file or an attachment: the
/// object cannot be destroyed by its id while there is one. To C it is a pointer.
///
/// One that may be put again because the operation fails is made under [`Tentative`].
///
/// # Invariants
///
/// Owns one count of `users` of the object.
#[repr(transparent)]
pub(crate) struct User<T: Registered>(pub(super) Held<T>);

impl<T: Registered> User<T> {
    /// Returns another user of the same object.
    pub(crate) fn another(&self) -> Self {
        self.header.users.inc();
        // INVARIANT: The count was just taken.
        Self(Held(self.0 .0))
    }

    /// Claims the object and puts this user, if it is the last one and `object` is the header of
    /// its object.
    pub(crate) fn claim(self, object: &Header) -> Result<(), Self> {
        if !core::ptr::eq(&self.header, object) || !object.claim_with(1) {
            return Err(self);
        }
        // The claim has put the count.
        core::mem::forget(self);
        Ok(())
    }

    /// Puts this user of an object that is unpublished or has another user: these destroy it.
    pub(crate) fn put_unclaimed(self) {
        ManuallyDrop::new(self).header.users.dec();
    }

    /// Converts the user to a pointer for C, to be passed to [`Self::from_raw`].
    pub(crate) fn into_raw(self) -> *mut bindings::iommufd_object {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Converts the pointer from C back to the user.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of an object of kind `T`, once.
    pub(crate) unsafe fn from_raw(ptr: *mut bindings::iommufd_object) -> Self {
        // SAFETY: By the requirements of this function there is a count, which keeps the object
        // alive.
        let object = unsafe { Object::from_ptr(ptr) };

        // INVARIANT: It owns the count of the value that `into_raw()` consumed.
        Self(Held(NonNull::from(object)))
    }
}

impl<T: Registered> Deref for User<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.0
    }
}

impl<T: Registered> Drop for User<T> {
    fn drop(&mut self) {
        // If it were the last one, the object would never be destroyed.
        kernel::warn_on_once!(self.goes_with_last_user());
        self.header.users.dec();
    }
}

// SAFETY: By the type invariants it has a count of the object, which is pinned.
unsafe impl<T: CLayout> Holds<T::Raw> for User<T> {
    fn raw(&self) -> &Raw<T::Raw> {
        self.as_c()
    }
}

// SAFETY: It owns a count of the object, which is not destroyed while there is one.
unsafe impl<T: Registered> HoldsOwner for Ref<'_, T> {
    fn object(&self) -> *const bindings::iommufd_object {
        self.as_ptr()
    }
}

// SAFETY: It owns a count of the object, which is not destroyed while there is one.
unsafe impl<T: Registered> HoldsOwner for User<T> {
    fn object(&self) -> *const bindings::iommufd_object {
        self.as_ptr()
    }
}

// SAFETY: It is the same count of the same object.
unsafe impl<T: Registered> VmaData for User<T> {
    fn into_raw(self) -> *mut c_void {
        User::into_raw(self).cast()
    }

    unsafe fn from_raw(ptr: *mut c_void) -> Self {
        // SAFETY: By the requirements of this function.
        unsafe { User::from_raw(ptr.cast()) }
    }

    fn another(&self) -> Self {
        User::another(self)
    }
}

/// A dependency that may be set after the object was created.
///
/// # Invariants
///
/// It does not change once the object that contains it has become a user of its dependencies.
pub(crate) struct LateDependency<T: Owned>(pub(super) SetOnce<Dependency<T>>);

impl<T: Owned> LateDependency<T> {
    /// Creates an empty field.
    pub(crate) const fn new() -> Self {
        Self(SetOnce::new())
    }

    /// Returns the object that is depended on.
    pub(crate) fn get(&self) -> Option<&Object<T>> {
        self.0.as_ref().map(|dependency| &**dependency)
    }
}

// SAFETY: By the type invariants it is the same one each time.
unsafe impl<T: Owned> Depends for LateDependency<T> {
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
        self.0.as_ref().is_none_or(|dependency| dependency.visit(f))
    }
}

/// A user that may be set after the object was created. To C it is a pointer.
///
/// # Invariants
///
/// NULL, or a user that this owns. It is set at most once.
#[repr(transparent)]
pub(crate) struct UserSlot<T: Registered>(Atomic<*mut c_void>, PhantomData<User<T>>);

impl<T: Registered> UserSlot<T> {
    /// Creates an empty field.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(null_mut()), PhantomData)
    }

    /// Sets the user. To be called once: a second user is leaked, with a WARN.
    pub(crate) fn set(&self, user: User<T>) {
        // INVARIANT: The user is owned by this from now on.
        let set = self.0.cmpxchg(null_mut(), user.into_raw().cast(), Relaxed);

        kernel::warn_on!(set.is_err());
    }

    /// Removes and returns the user.
    pub(crate) fn take(&mut self) -> Option<User<T>> {
        let user = core::mem::replace(self.0.get_mut(), null_mut());

        // SAFETY: By the type invariants.
        (!user.is_null()).then(|| unsafe { User::from_raw(user.cast()) })
    }
}

impl<T: Registered> Drop for UserSlot<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
