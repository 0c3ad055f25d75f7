// SPDX-License-Identifier: GPL-2.0

//! The header of objects, whose layout C knows.
//!
//! `struct iommufd_object` is embedded by value, as the first member, in structures of IOMMU
//! drivers and of this one. Here it becomes [`Object<T>`]: header, then `T`, with the layout of C.
//! `driver.c` takes and puts `users` of objects that IOMMU drivers pass it; all else about the
//! counts is done here. Their meaning is described in [`crate::object`].
//!
//! Contracts with C:
//!
//! - A pointer to an object that C passes in belongs to a live object of that kind: C got it from a
//!   successful create function and has not passed it to the matching destroy function, or it holds
//!   a read side from `iommufd_get_object()`.
//! - `type` and `id` do not change after the object was created.
#![expect(unsafe_code, reason = "the core of this layer")]

use super::Owner;
use crate::sys::layout::{
    AsC,
    Raw, //
};
use core::{
    marker::{
        PhantomData,
        PhantomPinned, //
    },
    mem::offset_of,
    ops::Deref,
    ptr::{
        drop_in_place,
        from_mut,
        from_ref,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::ordering::{
            Full,
            Relaxed, //
        },
        rcu::RcuFreeSafe,
        Refcount, //
    }, //
};

mod guard;
mod owner;
mod reserved;

pub(crate) use self::{
    guard::{
        Dependency,
        LateDependency,
        Ref,
        RevocableRef,
        User,
        UserSlot, //
    },
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
    /// Creates the header of an unpublished object: both counts are zero, from which they are never
    /// raised.
    fn new(kind: KindOfC, id: u32) -> Self {
        Self {
            wait_cnt: Refcount::new(0),
            users: Refcount::new(0),
            kind,
            id,
        }
    }

    /// Returns the id by which user space refers to the object.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Changes `users` from one, which is that of the table, to zero. Returns false if there are
    /// others.
    pub(crate) fn claim(&self) -> bool {
        self.claim_with(0)
    }

    /// As [`Self::claim`], for a caller that holds `held` users, which the claim puts.
    ///
    /// Fully ordered, and users are never taken from zero: a claim or a concurrent new user fails
    /// (`IOMMUFD+user+claim`), and the claimer sees the writes of those who have put theirs
    /// (`IOMMUFD+put-user+claim`).
    fn claim_with(&self, held: i32) -> bool {
        self.users.as_atomic().cmpxchg(1 + held, 0, Full).is_ok()
    }
}

/// A kind of object, with its actions on destruction beyond Drop.
///
/// An object that was never published is only dropped. Cleanup that does not depend on publication
/// belongs in Drop.
pub(crate) trait Kind: Send + Sync + Sized {
    /// The owner of objects of this kind.
    type Owner: Owner;

    /// Revokes the [`RevocableRef`]s of other objects to this one, and puts the users that it
    /// holds.
    ///
    /// Called by [`User::destroy`] before the object is claimed: when lookups do not find it any
    /// more, nothing is busy because of it.
    fn pre_destroy(_this: &Object<Self>, _owner: &Self::Owner) {}

    /// Returns whether the object is destroyed with its last user. Its users are put by
    /// [`User::put_or_claim`], not dropped, as each could be the last one.
    fn goes_with_last_user(&self) -> bool {
        false
    }

    /// Called for a published object before it is dropped.
    fn destroy(_this: WriteSide<'_, Self>) {}
}

/// A kind of object that has a value of `enum iommufd_object_type`.
///
/// # Safety
///
/// - No other type has the same `TYPE`, and headers of this type are made only by this module, for
///   an `Object<Self>`.
/// - [`Self::dependencies`] visits what [`Depends::visit`] of the same fields visits.
/// - [`Self::belongs_to`] compares with the [`Owned::owner_ptr`], if that is implemented.
///
/// Implemented by the table of kinds, see [`kinds`].
pub(crate) unsafe trait Registered: Kind {
    /// The value in C.
    const TYPE: KindOfC;

    /// True if objects of this kind can depend on others.
    const DEPENDS: bool;

    /// True if objects of this kind have a part that belongs to an IOMMU driver, see
    /// [`driven`](super::driven).
    const DRIVEN: bool;

    /// Calls `f` with the header of each dependency, until `f` returns `false`. Returns `true` if
    /// it never did.
    fn dependencies(&self, f: &mut impl FnMut(&Header) -> bool) -> bool;

    /// Returns whether the [`OwnerPtr`] of the object, if it has one, points to this owner.
    fn belongs_to(&self, owner: &Self::Owner) -> bool;
}

/// A kind of object that has a structure in C.
///
/// # Safety
///
/// An `Object<Self>` has the layout of a [`Self::Raw`] at its start, and is initialised as far as C
/// accesses that. If `sys` has a type for fields of that structure, the object has a field of that
/// type at their offset.
pub(crate) unsafe trait CLayout: Registered {
    /// The structure in C.
    type Raw;
}

/// A field of an object that contains dependencies of it.
///
/// # Safety
///
/// Once the object has become a user of its dependencies, [`Self::visit`] visits the same headers
/// each time, in the same order; and `self` has a read side of each of these objects.
pub(crate) unsafe trait Depends {
    /// As [`Registered::dependencies`], for those in this field.
    fn visit(&self, f: &mut impl FnMut(&Header) -> bool) -> bool;
}

// SAFETY: It visits the dependencies of the value, or none.
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

// SAFETY: RCU readers access only the header, which has no destructor and atomic counts, so it is
// valid after the object was dropped. Objects are `!Unpin`.
unsafe impl<T> RcuFreeSafe for Object<T> {
    unsafe fn drop_before_gp(self: Pin<&mut Self>) {
        // SAFETY: The object is not moved. By the requirements of this function it is dropped
        // once, and its data is not used after that.
        unsafe { drop_in_place(from_mut(self.get_unchecked_mut())) };
    }
}

impl<T> Object<T> {
    /// Returns the id by which user space refers to the object.
    pub(crate) fn id(&self) -> u32 {
        self.header.id()
    }

    /// Returns whether the object, which was published, has been claimed.
    pub(crate) fn is_claimed(&self) -> bool {
        self.header.users.as_atomic().load(Relaxed) == 0
    }

    /// Returns whether the object has users beside the table. The result may be outdated at once.
    pub(crate) fn is_used(&self) -> bool {
        self.header.users.as_atomic().load(Relaxed) > 1
    }

    /// Returns the number of users, that of the table included.
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    pub(crate) fn users(&self) -> i32 {
        self.header.users.as_atomic().load(Relaxed)
    }

    /// Returns the C pointer to the object.
    pub(crate) fn as_ptr(&self) -> *mut bindings::iommufd_object {
        from_ref(self).cast_mut().cast()
    }

    /// Returns the object behind a pointer that C passes in.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a live object of kind `T` (see the contract at the top of this file),
    /// which must live for `'a`.
    pub(crate) unsafe fn from_ptr<'a>(ptr: *mut bindings::iommufd_object) -> &'a Self {
        // SAFETY: By the requirements of this function.
        unsafe { &*ptr.cast() }
    }
}

impl<T: CLayout> Object<T> {
    /// Returns the C view of the object.
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

/// A placeholder for any kind of object. It has no values: each object is of a specific kind.
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

/// A pointer to an object with a count of it, the content of each guard.
///
/// # Invariants
///
/// Points to an object of kind `T`. The value that contains this owns a count of it, so the object
/// is not dropped.
#[repr(transparent)]
struct Held<T: Registered>(NonNull<Object<T>>);

// SAFETY: It gives access to the `T`, which is `Sync`, and the right to put a count, which is
// atomic.
unsafe impl<T: Registered> Send for Held<T> {}
// SAFETY: A shared reference gives access to the `T`, which is `Sync`.
unsafe impl<T: Registered> Sync for Held<T> {}

impl<T: Registered> Deref for Held<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        // SAFETY: By the type invariants: a destroyer fails to claim the object if it has users,
        // and waits until `wait_cnt` is zero.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Registered> Held<T> {
    /// Takes a count of `users`, unless the object has been claimed.
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

/// A kind of object of which other objects can hold a read side.
///
/// # Safety
///
/// [`Self::owner_ptr`] returns the same field each time, which is in the object or in a dependency
/// of it.
///
/// Implemented by the table of kinds, see [`kinds`].
pub(crate) unsafe trait Owned: Registered {
    /// Returns the owner of the object.
    fn owner_ptr(&self) -> &OwnerPtr<Self::Owner>;
}

impl<T: Owned> Object<T> {
    /// Returns the owner of the object.
    pub(crate) fn owner(&self) -> &T::Owner {
        // SAFETY: `Reserved::new()` has compared the pointer with the owner of the object, and it
        // does not change. The object has not been dropped, so the owner exists, by the
        // requirements of `Kinds`.
        unsafe { self.data.owner_ptr().0.as_ref() }
    }
}

/// The pointer from an object to its owner, in a field that C reads.
///
/// Only [`Object::owner`] follows it, for an object that belongs to that owner.
#[repr(transparent)]
pub(crate) struct OwnerPtr<C>(NonNull<C>);

// SAFETY: A reference to an owner, which is `Sync`.
unsafe impl<C: Sync> Send for OwnerPtr<C> {}
// SAFETY: A reference to an owner, which is `Sync`.
unsafe impl<C: Sync> Sync for OwnerPtr<C> {}

impl<C> OwnerPtr<C> {
    /// Returns whether it points to this owner.
    pub(crate) fn is(&self, owner: &C) -> bool {
        core::ptr::eq(self.0.as_ptr(), owner)
    }
}

impl<C> From<&C> for OwnerPtr<C> {
    fn from(owner: &C) -> Self {
        Self(NonNull::from(owner))
    }
}
