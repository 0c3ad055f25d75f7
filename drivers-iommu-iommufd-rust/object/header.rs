// SPDX-License-Identifier: GPL-2.0

//! The header of objects, whose layout C knows, and the guards that it counts.
//!
//! `struct iommufd_object` is embedded by value, as the first member, in structures of IOMMU
//! drivers and of this one. Here it becomes [`Object<T>`]: header, then `T`, laid out as C does. C
//! raises and puts `users` of objects it was given (`driver.c`); everything else about the counts
//! is done here. See [`crate::object`] for what they mean.
//!
//! Contracts with C:
//!
//! - A pointer to an object that C passes in belongs to a live object of that kind: C got it from a
//!   successful create function and has not passed it to the matching destroy function, or it holds
//!   a read side from `iommufd_get_object()`.
//! - `type` and `id` do not change after the object was created.
#![expect(unsafe_code, reason = "the core of this layer")]

use super::{
    Owner,
    Tentative, //
};
use crate::sys::{
    layout::{
        AsC,
        Holds,
        HoldsPublished,
        Raw, //
    },
    mmap::Keep, //
};
use core::{
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    ops::Deref,
    ptr::{
        drop_in_place,
        from_mut,
        from_ref,
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
                Full,
                Relaxed,
                Release, //
            },
            Atomic, //
        },
        rcu::RcuFreeSafe,
        Refcount,
        SetOnce, //
    }, //
};

mod owner;
mod reserved;

pub(crate) use self::{
    owner::{
        kinds,
        Kinds,
        ObjectBox,
        Visitor,
        WriteSide, //
    },
    reserved::{
        Reserved,
        TableGuard, //
    }, //
};

/// The value of `iommufd_object::type`.
pub(crate) type KindOfC = bindings::iommufd_object_type;

/// The header of every object: two counts, a kind and an id. See [`crate::object`].
#[repr(C)]
pub(crate) struct Header {
    wait_cnt: Refcount,
    users: Refcount,
    kind: KindOfC,
    id: u32,
}

const _: () = {
    use bindings::iommufd_object as C;

    assert!(offset_of!(Header, wait_cnt) == offset_of!(C, wait_cnt));
    assert!(offset_of!(Header, users) == offset_of!(C, users));
    assert!(offset_of!(Header, kind) == offset_of!(C, type_));
    assert!(offset_of!(Header, id) == offset_of!(C, id));
    assert!(size_of::<Header>() == size_of::<C>());
};

impl Header {
    /// The header of an unpublished object: both counts are zero, and nobody takes one from zero.
    fn new(kind: KindOfC, id: u32) -> Self {
        Self {
            wait_cnt: Refcount::new(0),
            users: Refcount::new(0),
            kind,
            id,
        }
    }

    /// The id by which user space knows the object.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Takes `users` from one, which is that of the table, to zero. Fails if there are others.
    pub(crate) fn claim(&self) -> bool {
        self.claim_with(0)
    }

    /// As [`Self::claim`] for a caller that has `held` users, which end with the claim.
    ///
    /// Fully ordered, and users are taken only from a count that is not zero: one of the two fails
    /// (`IOMMUFD+user+claim`), and the claimer sees what was done by those who have put theirs
    /// (`IOMMUFD+put-user+claim`).
    fn claim_with(&self, held: i32) -> bool {
        self.users.as_atomic().cmpxchg(1 + held, 0, Full).is_ok()
    }
}

/// A kind of object: what happens when one is destroyed, beyond dropping it.
///
/// An object that was never published is only dropped. What can be undone without knowing whether
/// it was published belongs in Drop.
pub(crate) trait Kind: Send + Sync + Sized {
    /// What objects of this kind belong to.
    type Owner: Owner;

    /// Ends what others have because of the object: it makes those let go who keep a
    /// [`RevocableRef`] to it, and gives up what the object is a user of.
    ///
    /// Called by the driver's user, before the object is claimed: when it cannot be found any more,
    /// nothing is busy because of it.
    fn pre_destroy(_this: &Object<Self>, _owner: &Self::Owner) {}

    /// Returns whether whoever puts the last user destroys the object. A user that is just dropped
    /// could be the last one.
    fn goes_with_last_user(&self) -> bool {
        false
    }

    /// Ends a published object, before it is dropped.
    fn destroy(_this: WriteSide<'_, Self>) {}
}

/// A kind of object that has a value of `enum iommufd_object_type`.
///
/// # Safety
///
/// - No other type has the same `TYPE`, and headers of this type are made only by this module, for
///   an `Object<Self>`.
/// - [`Self::dependencies`] visits what [`Depends::visit`] of the same fields visits.
/// - [`Self::belongs_to`] compares the one that [`Owned::owner_ptr`] returns, if that is
///   implemented.
///
/// Implemented by the table of kinds, see [`kinds`].
pub(crate) unsafe trait Registered: Kind {
    /// How C calls it.
    const TYPE: KindOfC;

    /// Whether objects of this kind can depend on others.
    const DEPENDS: bool;

    /// Whether objects of this kind have a part that belongs to an IOMMU driver, see
    /// [`driven`](super::driven).
    const DRIVEN: bool;

    /// Calls `f` with each object that this one depends on, until `f` returns `false`. Returns
    /// whether it never did.
    fn dependencies(&self, f: &mut impl FnMut(&Header) -> bool) -> bool;

    /// Returns whether the [`OwnerPtr`] of the object, if it has one, names this owner.
    fn belongs_to(&self, owner: &Self::Owner) -> bool;
}

/// A kind of object that C knows by a structure of its own.
///
/// # Safety
///
/// An `Object<Self>` begins as a [`Self::Raw`] does, and is initialised as far as C accesses that.
/// Where `sys` has a type for fields of that structure, the object has a field of that type there.
pub(crate) unsafe trait CLayout: Registered {
    /// The structure.
    type Raw;
}

/// A field of an object that names others on which the object depends.
///
/// # Safety
///
/// From when the object becomes a user of what it depends on, [`Self::visit`] visits the same
/// headers each time, in the same order; and `self` has a read side of each of these objects.
pub(crate) unsafe trait Depends {
    /// As [`Registered::dependencies`], for what this field names.
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool;
}

// SAFETY: It visits what there is, or nothing.
unsafe impl<D: Depends> Depends for Option<D> {
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
        self.as_ref().is_none_or(|depends| depends.visit(f))
    }
}

/// An object of kind `T`: `struct iommufd_xxx { struct iommufd_object obj; ... }` in C.
#[repr(C)]
#[pin_data]
pub(crate) struct Object<T> {
    header: Header,
    #[pin]
    data: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: RCU readers access the header only. It has no destructor and its counts are atomic, so
// that it is valid when the object has been dropped. Objects are `!Unpin`.
unsafe impl<T> RcuFreeSafe for Object<T> {
    unsafe fn drop_before_gp(self: Pin<&mut Self>) {
        // SAFETY: The object is not moved. By the requirements of this function it is dropped
        // once, and its data is not used after that.
        unsafe { drop_in_place(from_mut(self.get_unchecked_mut())) };
    }
}

impl<T> Object<T> {
    /// The id by which user space knows the object.
    pub(crate) fn id(&self) -> u32 {
        self.header.id()
    }

    /// Returns whether a destroyer has claimed the object, which was published.
    pub(crate) fn is_claimed(&self) -> bool {
        self.header.users.as_atomic().load(Relaxed) == 0
    }

    /// Whether the object has users beside the table. There may be others a moment later.
    pub(crate) fn is_used(&self) -> bool {
        self.header.users.as_atomic().load(Relaxed) > 1
    }

    /// How many users the object has, that of the table included.
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    pub(crate) fn users(&self) -> i32 {
        self.header.users.as_atomic().load(Relaxed)
    }

    /// How C sees the object.
    pub(crate) fn as_ptr(&self) -> *mut bindings::iommufd_object {
        from_ref(self).cast_mut().cast()
    }

    /// The object behind a pointer that C passes in.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a live object of kind `T` (see the contract at the top of this file),
    /// and the object must stay so for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut bindings::iommufd_object) -> &'a Self {
        // SAFETY: By the requirements of this function.
        unsafe { &*ptr.cast() }
    }
}

impl<T: CLayout> Object<T> {
    /// The object as C knows it.
    pub(crate) fn as_c(&self) -> &Raw<T::Raw> {
        // SAFETY: By the requirements of `CLayout`.
        unsafe { Raw::from_ptr(self.as_ptr().cast()) }
    }
}

// SAFETY: It is the object itself, and no other type has this `T::TYPE`.
unsafe impl<T: CLayout> AsC<T::Raw> for Object<T> {
    fn as_c(&self) -> &Raw<T::Raw> {
        Object::as_c(self)
    }
}

impl<T> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// Any kind of object. There is no value: objects are of some kind.
pub(crate) struct Any<C>(PhantomPinned, PhantomData<fn() -> C>);

impl<C: Owner> Kind for Any<C> {
    type Owner = C;
}

// SAFETY: No header has this type: the value stands for "any" in lookups. An `Object<Any>` is only
// a header.
unsafe impl<C: Owner> Registered for Any<C> {
    const TYPE: KindOfC = bindings::iommufd_object_type_IOMMUFD_OBJ_ANY;
    const DEPENDS: bool = false;
    const DRIVEN: bool = false;

    fn dependencies(&self, _f: &mut impl FnMut(&Header) -> bool) -> bool {
        true
    }

    fn belongs_to(&self, _owner: &C) -> bool {
        true
    }
}

/// The object of a guard.
///
/// # Invariants
///
/// Points to an object of kind `T`, of which whoever has this owns a count. So it is not dropped.
#[repr(transparent)]
struct Held<T: Registered>(NonNull<Object<T>>);

// SAFETY: Whoever has it can use the `T`, which is `Sync`, and put a count, which is atomic.
unsafe impl<T: Registered> Send for Held<T> {}
// SAFETY: Whoever shares it can use the `T`, which is `Sync`.
unsafe impl<T: Registered> Sync for Held<T> {}

impl<T: Registered> Deref for Held<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        // SAFETY: By the type invariants: a destroyer claims `users` only if there is none, and
        // waits for the counts of `wait_cnt`.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Registered> Held<T> {
    /// Takes a count of `users`, unless a destroyer has claimed the object.
    fn user(&self) -> Result<User<T>> {
        if !self.header.users.inc_not_zero() {
            return Err(ENOENT);
        }
        // INVARIANT: The count was just taken.
        Ok(User(Self(self.0)))
    }

    /// Takes another count of `wait_cnt`, of which this owns one.
    fn another_read_side(&self) -> Self {
        self.header.wait_cnt.inc();
        // INVARIANT: The count was just taken, from a count that is not zero.
        Self(self.0)
    }
}

/// The read side of an object's destroying lock: the object lives until it is dropped.
///
/// It bounds one operation: it must not be kept.
///
/// # Invariants
///
/// Owns one count of `wait_cnt` of the object, which belongs to `owner`.
pub(crate) struct Ref<'a, T: Registered> {
    object: Held<T>,
    owner: &'a T::Owner,
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
    pub(crate) fn kind(&self) -> KindOfC {
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

/// A kind of object of which other objects keep a read side.
///
/// # Safety
///
/// [`Self::owner_ptr`] returns the same field each time, which is in the object, or in one that it
/// depends on.
///
/// Implemented by the table of kinds, see [`kinds`].
pub(crate) unsafe trait Owned: Registered {
    /// What the object belongs to.
    fn owner_ptr(&self) -> &OwnerPtr<Self::Owner>;
}

impl<T: Owned> Object<T> {
    /// What the object belongs to.
    pub(crate) fn owner(&self) -> &T::Owner {
        // SAFETY: `Reserved::new()` has compared the pointer with the owner of the object, and it
        // does not change. The object has not been dropped, so that the owner is there, by the
        // requirements of `Kinds`.
        unsafe { self.data.owner_ptr().0.as_ref() }
    }
}

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
pub(crate) struct User<T: Registered>(Held<T>);

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

// SAFETY: It is the same count of the same object, which is not freed while there is one.
unsafe impl<T: Registered> Keep for User<T> {
    fn object(&self) -> *const bindings::iommufd_object {
        self.as_ptr()
    }

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
pub(crate) struct LateDependency<T: Owned>(SetOnce<Dependency<T>>);

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

/// What objects belong to, where C looks for it: a pointer in the object.
///
/// It is followed only if it is a field of an object of that very owner: see [`Object::owner`].
#[repr(transparent)]
pub(crate) struct OwnerPtr<C>(NonNull<C>);

// SAFETY: A reference to an owner, which is `Sync`.
unsafe impl<C: Sync> Send for OwnerPtr<C> {}
// SAFETY: A reference to an owner, which is `Sync`.
unsafe impl<C: Sync> Sync for OwnerPtr<C> {}

impl<C> OwnerPtr<C> {
    /// Returns whether it names this owner.
    pub(crate) fn is(&self, owner: &C) -> bool {
        core::ptr::eq(self.0.as_ptr(), owner)
    }
}

impl<C> From<&C> for OwnerPtr<C> {
    fn from(owner: &C) -> Self {
        Self(NonNull::from(owner))
    }
}
