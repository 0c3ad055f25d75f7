// SPDX-License-Identifier: GPL-2.0

//! The guards of objects: each owns one count of the header, and ends by putting it.
//!
//! [`Ref`] bounds one operation; [`Dependency`] and [`RevocableRef`] are read sides that another
//! object keeps; [`User`] is a user that is no object itself. [`LateDependency`] and [`UserSlot`]
//! are fields for those that an object gets later.
//!
//! Locks: what may be the last count of a kept read side is put under the lock of the table.
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
            Hold,
            Keep, //
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
/// It bounds one operation: it must not be kept.
///
/// # Invariants
///
/// Owns one count of `wait_cnt` of the object, which belongs to `owner`.
pub(crate) struct Ref<'a, T: Registered> {
    pub(super) object: Held<T>,
    pub(super) owner: &'a T::Owner,
}

impl<'a, T: Registered> Ref<'a, T> {
    /// Takes the read side, if the object is of kind `T` and not being destroyed.
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

    /// Makes a user of the object. `_tentative` keeps it from being taken for one that stays, as
    /// long as it may still be given up.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the object is being destroyed: a destroyer claimed it after it was looked up.
    pub(crate) fn user(&self, _tentative: &Tentative<'_>) -> Result<User<T>> {
        self.object.user()
    }

    /// As [`Self::user`], for a user that stays, whatever comes: to make it is the last that may
    /// fail.
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

    /// Makes a read side that another object can keep until it is revoked.
    pub(crate) fn revocable(&self) -> RevocableRef<T>
    where
        T: Owned,
    {
        RevocableRef(Dependency(self.object.another_read_side()))
    }

    /// Hands the read side to C, to be taken back by [`Self::from_raw`].
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn into_raw(self) -> *mut bindings::iommufd_object {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Takes the read side back from C.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of an object of `owner` that is of kind `T`, once.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) unsafe fn from_raw(owner: &'a T::Owner, ptr: *mut bindings::iommufd_object) -> Self {
        // SAFETY: By the requirements of this function the count is there, and keeps the object.
        let object = unsafe { Object::from_ptr(ptr) };

        // INVARIANT: The count is the one that `into_raw()` gave away.
        Self {
            object: Held(NonNull::from(object)),
            owner,
        }
    }
}

impl<'a, C: Owner> Ref<'a, Any<C>> {
    /// The kind of the object.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn kind(&self) -> super::KindOfC {
        self.header.kind
    }

    /// The same read side, if the object is of kind `T`.
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
/// From then on the object may be gone; the owner is not, as the caller has a reference to it.
///
/// Memory order: the count is put with release, so that the destroyer, who reads zero with acquire,
/// sees what was done to the object (`IOMMUFD+put+drain`). The queue's lock, taken by both sides,
/// sees to it that either the destroyer reads zero or is woken (`IOMMUFD+put+wait`).
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

// SAFETY: The count is taken from one that is not zero, or by publishing the object; and a
// destroyer waits for it before the object ends.
unsafe impl<T: CLayout> HoldsPublished<T::Raw> for Ref<'_, T> {}

/// Puts a count of `wait_cnt` that the caller owns, which is not bounded by an operation on the
/// owner.
///
/// From then on the object may be gone, and the owner, too: what may be the last count is put under
/// the lock of the table, which a destroyer that has slept takes once more when it reads zero.
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

/// A dependency of an object on another one. C sees a pointer.
///
/// It is a read side: whoever destroys the other object waits for it. As long as the object that
/// has it is published, it is a user of the other one, too ([`Registered::dependencies`]), so that
/// nobody starts to destroy that. Before, nobody is told EBUSY because of it.
///
/// # Invariants
///
/// Owns one count of `wait_cnt` of the object.
#[repr(transparent)]
pub(crate) struct Dependency<T: Owned>(Held<T>);

impl<T: Owned> Dependency<T> {
    /// Another dependency on the same object.
    pub(crate) fn another(&self) -> Self {
        Self(self.0.another_read_side())
    }

    /// Makes `user`, whatever object it was of, one of this object. It stays, whatever comes: to
    /// make it is the last that may fail.
    ///
    /// It is one step for those who destroy either object: they do not see a user of both.
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

// SAFETY: It is a pointer that does not change, and by the type invariants it has a read side.
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

// SAFETY: It was made of a `Ref`, or of another one, and a destroyer waits for it, too.
unsafe impl<T: Owned + CLayout> HoldsPublished<T::Raw> for Dependency<T> {}

impl<T: Owned> Drop for Dependency<T> {
    fn drop(&mut self) {
        put_kept_read_side(self);
    }
}

/// A read side that another object keeps. C sees a pointer.
///
/// It is put when [`Kind::pre_destroy`] of the object asks for that.
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

/// A user of an object that is no object itself, such as a driver, a file or an attachment: the
/// object cannot be destroyed by its id while there is one. C sees a pointer.
///
/// One that may still be given up when something else fails is made under [`Tentative`].
///
/// # Invariants
///
/// Owns one count of `users` of the object.
#[repr(transparent)]
pub(crate) struct User<T: Registered>(pub(super) Held<T>);

impl<T: Registered> User<T> {
    /// Another user of the same object.
    pub(crate) fn another(&self) -> Self {
        self.header.users.inc();
        // INVARIANT: The count was just taken.
        Self(Held(self.0 .0))
    }

    /// As [`Header::claim`] of `object`, if that is the object, for whoever has this user, which
    /// ends then.
    pub(crate) fn claim(self, object: &Header) -> Result<(), Self> {
        if !core::ptr::eq(&self.header, object) || !object.claim_with(1) {
            return Err(self);
        }
        // The claim took the count.
        core::mem::forget(self);
        Ok(())
    }

    /// Puts this user, and leaves it to others to destroy the object: to who makes it, if it is not
    /// published; to who has another user.
    pub(crate) fn put_unclaimed(self) {
        ManuallyDrop::new(self).header.users.dec();
    }

    /// Hands the user to C, to be taken back by [`Self::from_raw`].
    pub(crate) fn into_raw(self) -> *mut bindings::iommufd_object {
        ManuallyDrop::new(self).as_ptr()
    }

    /// Takes the user back from C.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of an object of kind `T`, once.
    pub(crate) unsafe fn from_raw(ptr: *mut bindings::iommufd_object) -> Self {
        // SAFETY: By the requirements of this function the count is there, and keeps the object.
        let object = unsafe { Object::from_ptr(ptr) };

        // INVARIANT: The count is the one that `into_raw()` gave away.
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
        // If it were the last, nobody would ever destroy the object.
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

// SAFETY: It has a count of the object, which is not destroyed while there is one.
unsafe impl<T: Registered> Hold for Ref<'_, T> {
    fn object(&self) -> *const bindings::iommufd_object {
        self.as_ptr()
    }
}

// SAFETY: It has a count of the object, which is not destroyed while there is one.
unsafe impl<T: Registered> Hold for User<T> {
    fn object(&self) -> *const bindings::iommufd_object {
        self.as_ptr()
    }
}

// SAFETY: It is the same count of the same object.
unsafe impl<T: Registered> Keep for User<T> {
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

/// A dependency that is not there from the start, or never.
///
/// # Invariants
///
/// It does not change once the object that it is a field of has become a user of what it depends
/// on.
pub(crate) struct LateDependency<T: Owned>(pub(super) SetOnce<Dependency<T>>);

impl<T: Owned> LateDependency<T> {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(SetOnce::new())
    }

    /// What the object depends on.
    pub(crate) fn get(&self) -> Option<&Object<T>> {
        self.0.as_ref().map(|dependency| &**dependency)
    }
}

// SAFETY: By the type invariants it is the same one each time from the first call on.
unsafe impl<T: Owned> Depends for LateDependency<T> {
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
        self.0.as_ref().is_none_or(|dependency| dependency.visit(f))
    }
}

/// A user that is not there from the start, or never. C sees a pointer.
///
/// # Invariants
///
/// NULL, or a user that this owns. It changes once.
#[repr(transparent)]
pub(crate) struct UserSlot<T: Registered>(Atomic<*mut c_void>, PhantomData<User<T>>);

impl<T: Registered> UserSlot<T> {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(null_mut()), PhantomData)
    }

    /// Enters a user. Cannot be called twice: the second user is leaked.
    pub(crate) fn set(&self, user: User<T>) {
        // INVARIANT: The user is given away to this.
        let set = self.0.cmpxchg(null_mut(), user.into_raw().cast(), Relaxed);

        kernel::warn_on!(set.is_err());
    }

    /// Takes the user out.
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
