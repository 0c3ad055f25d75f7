// SPDX-License-Identifier: GPL-2.0

//! Unpublished objects, and their publication.
//!
//! Until an object is published both of its counts are zero. So lookups do not find it, and
//! `driver.c` refuses to make another object depend on it, although an IOMMU driver may have listed
//! it already: its creation can fail without side effects. [`Reserved::hold`] is the exception, for
//! objects that IOMMU drivers do not extend.
//!
//! Publication is one step under the lock of the table, under which destroyers claim, too: the
//! object becomes a user of its dependencies, the response is copied to user space, which is the
//! last operation that can fail, and the object enters the table. On failure all of it is undone
//! before the lock is released, so that no destroyer has returned EBUSY because of it.

use super::{
    Dependency,
    Header,
    Held,
    LateDependency,
    Object,
    ObjectBox,
    Owned,
    Ref,
    Registered,
    User, //
};
use crate::object::{
    Owner as _,
    Tentative, //
};
use core::{
    marker::PhantomPinned,
    mem::ManuallyDrop,
    ops::{
        Deref,
        RangeInclusive, //
    },
    ptr::NonNull, //
};
use kernel::{
    id_table::{
        Guard,
        Reservation, //
    },
    prelude::*,
    sync::{
        atomic::ordering::{
            Acquire,
            Relaxed, //
        },
        rcu::RcuFreeBox, //
    }, //
};

/// The table of the objects of an owner, locked.
pub(crate) type TableGuard<'a, C> = Guard<'a, ObjectBox<C>>;

impl<T: Registered> Object<T> {
    /// Puts the counts of `users` that a published object has of its dependencies.
    pub(super) fn put_dependencies(&self) {
        self.dependencies(&mut |header: &Header| {
            header.users.dec();
            true
        });
    }
}

/// `REFCOUNT_SATURATED`: a count that does not change any more.
const SATURATED: i32 = i32::MIN / 2;

/// An unpublished object. Dropping it undoes its creation.
///
/// # Invariants
///
/// - This owns the reservation of the id in the header, in the table of `owner`.
/// - If `depends`, the object has a count of `users` of each of its dependencies.
#[must_use = "dropping a reserved object destroys it"]
pub(crate) struct Reserved<'a, T: Registered> {
    object: ManuallyDrop<Pin<RcuFreeBox<Object<T>>>>,
    owner: &'a T::Owner,
    depends: bool,
}

impl<'a, T: Registered> Reserved<'a, T> {
    /// Allocates and initialises an object of `owner`, with the lowest free id of `ids`.
    pub(in crate::object) fn new(
        owner: &'a T::Owner,
        ids: RangeInclusive<u32>,
        size: usize,
        data: impl PinInit<T, Error>,
    ) -> Result<Self> {
        let id = owner.objects().reserve(ids, GFP_KERNEL_ACCOUNT)?;
        let header = Header::new(T::TYPE, id.id());
        let init = try_pin_init!(Object {
            header,
            data <- data,
            _pin: PhantomPinned,
        }? Error);
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO;
        let object = ManuallyDrop::new(RcuFreeBox::pin_init_sized(init, size, flags)?);

        id.into_id();
        // INVARIANT: It owns the reservation that `into_id()` consumed. The object is not a user.
        let this = Self {
            object,
            owner,
            depends: false,
        };
        // `Object::owner()` relies on this check.
        if kernel::warn_on_once!(!this.object.belongs_to(owner)) {
            return Err(EINVAL);
        }
        Ok(this)
    }

    /// Converts the id back to its reservation.
    ///
    /// # Safety
    ///
    /// To be called once.
    unsafe fn reservation(&self) -> Reservation<'a, ObjectBox<T::Owner>> {
        // SAFETY: By the type invariants and the requirements of this function.
        unsafe { Reservation::from_id(self.owner.objects(), self.object.id()) }
    }

    /// Makes the object a user of its dependencies, unless it is one already.
    fn take_dependencies(&mut self) -> Result {
        if !T::DEPENDS || self.depends {
            return Ok(());
        }
        let mut taken = 0_usize;
        let all = self.object.dependencies(&mut |header: &Header| {
            let alive = header.users.inc_not_zero();

            taken += usize::from(alive);
            alive
        });
        if !all {
            // The same ones are visited, in the same order.
            self.object.dependencies(&mut |header: &Header| {
                let was_taken = taken != 0;

                if was_taken {
                    taken -= 1;
                    header.users.dec();
                }
                was_taken
            });
            return Err(ENOENT);
        }
        // INVARIANT: The counts were just taken.
        self.depends = true;
        Ok(())
    }

    /// Returns whether the object has no users and is not a user of its dependencies.
    fn is_fresh(&self) -> bool {
        !self.depends && self.object.header.users.as_atomic().load(Relaxed) == 0
    }

    /// Returns the owner of the object.
    pub(crate) fn owner(&self) -> &'a T::Owner {
        self.owner
    }

    /// Makes a user of the unpublished object. If the object is dropped unpublished, the user must
    /// be put before.
    ///
    /// Not for objects that IOMMU drivers extend: `driver.c` allows dependencies on the object from
    /// now on.
    pub(crate) fn hold(&mut self) -> User<T> {
        let users = &self.object.header.users;

        if users.as_atomic().load(Relaxed) == 0 {
            // The user of the table, in advance.
            users.set(1);
        }
        users.inc();
        // INVARIANT: The count was just taken. `Drop` leaks the object if it is not put.
        User(Held(NonNull::from(&**self.object)))
    }

    /// Makes the object a user of its dependencies in advance, so that publishing it cannot fail.
    /// The object is published, or this is undone, while `tentative` is held.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if one of them is being destroyed. The unchanged object is returned with the
    /// error.
    pub(crate) fn depend<'t>(
        mut self,
        tentative: &'t Tentative<'_>,
    ) -> Result<Dependent<'a, 't, T>, (Self, Error)> {
        match self.take_dependencies() {
            // INVARIANT: It has just become a user of them.
            Ok(()) => Ok(Dependent {
                object: self,
                _tentative: tentative,
            }),
            Err(err) => Err((self, err)),
        }
    }

    /// Sets the dependency in the field that `slot` returns. The object must have no users and not
    /// be a user yet.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if the object is or has a user, or the field is set.
    pub(crate) fn add_dependency<D: Owned>(
        &mut self,
        slot: impl FnOnce(&T) -> &LateDependency<D>,
        dependency: Dependency<D>,
    ) -> Result {
        // INVARIANT: A fresh object is not a user of its dependencies.
        if !self.is_fresh() || !slot(&self.object).0.populate(dependency) {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Undoes [`Self::take_dependencies`].
    fn undepend(&mut self) {
        // INVARIANT: The counts are put.
        if T::DEPENDS && core::mem::take(&mut self.depends) {
            self.object.put_dependencies();
        }
    }

    /// Publishes the object if `last` succeeds, with `users` and `read_sides` beside those of the
    /// table. If this fails nothing has changed, and the object is returned.
    fn try_publish(
        mut self,
        users: i32,
        read_sides: i32,
        last: impl FnOnce(&Object<T>, &mut TableGuard<'_, T::Owner>) -> Result,
    ) -> Result<NonNull<Object<T>>, (Self, Error)> {
        let owner = self.owner;
        let mut table = owner.objects().lock();
        let result = self
            .take_dependencies()
            .and_then(|()| last(&self.object, &mut table));

        if let Err(err) = result {
            self.undepend();
            // The lock is a spinlock, and the caller may drop the object.
            drop(table);
            return Err((self, err));
        }
        Ok(self.enter(&mut table, users, read_sides))
    }

    /// Enters the object, which is a user of its dependencies, in the table.
    fn enter(
        self,
        table: &mut TableGuard<'_, T::Owner>,
        users: i32,
        read_sides: i32,
    ) -> NonNull<Object<T>> {
        let mut this = ManuallyDrop::new(self);
        let header = &this.object.header;
        let ptr = NonNull::from(&**this.object);

        // From here on others can take counts of the object. They do not change a count that is
        // zero.
        header.wait_cnt.set(1 + read_sides);
        if header.users.as_atomic().load(Relaxed) == 0 {
            header.users.set(1);
        }
        for _ in 0..users {
            header.users.inc();
        }
        // SAFETY: `this` is not used again, and not dropped.
        let (id, object) = unsafe { (this.reservation(), ManuallyDrop::take(&mut this.object)) };
        id.publish_locked(table, object.into());
        ptr
    }

    /// Publishes the object, if `last` succeeds. This is the last step of its creation.
    ///
    /// `last` is called with the lock of the table held, a spinlock. It does what can fail but not
    /// be undone.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if a dependency is being destroyed; those of `last`.
    pub(crate) fn publish(self, last: impl FnOnce() -> Result) -> Result {
        self.try_publish(0, 0, |_, _| last())
            .map(drop)
            .map_err(|(_, err)| err)
    }

    /// As [`Self::publish`], but the object is returned on error.
    pub(crate) fn publish_or_return(self) -> Result<(), (Self, Error)> {
        self.try_publish(0, 0, |_, _| Ok(())).map(drop)
    }

    /// As [`Self::publish`]. Returns a user, which keeps the object from being destroyed.
    pub(crate) fn publish_with_user(self, last: impl FnOnce() -> Result) -> Result<User<T>> {
        self.try_publish(1, 0, |_, _| last())
            // INVARIANT: The count was taken when it was published.
            .map(|object| User(Held(object)))
            .map_err(|(_, err)| err)
    }

    /// As [`Self::publish`], but the object is returned on error. Returns a read side, for which
    /// destroyers of the object wait. `last` gets the object and the table.
    pub(crate) fn publish_with_ref(
        self,
        last: impl FnOnce(&Object<T>, &mut TableGuard<'_, T::Owner>) -> Result,
    ) -> Result<Ref<'a, T>, (Self, Error)> {
        let owner = self.owner;

        self.try_publish(0, 1, last).map(|object| Ref {
            // INVARIANT: The count was taken when it was published.
            object: Held(object),
            owner,
        })
    }

    /// As [`Self::publish_with_user`], together with another object of the same owner: called by
    /// the `last` of that, which has the table locked.
    pub(crate) fn publish_along(self, table: &mut TableGuard<'_, T::Owner>) -> User<T> {
        const { assert!(!T::DEPENDS) };
        // INVARIANT: The count is taken when it is published.
        User(Held(self.enter(table, 1, 0)))
    }

    /// Converts the object to a pointer for C, to be passed to [`Self::from_raw`].
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn into_raw(self) -> *mut kernel::bindings::iommufd_object {
        const { assert!(!T::DEPENDS) };
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and not dropped.
        RcuFreeBox::into_raw(unsafe { ManuallyDrop::take(&mut this.object) })
            .as_ptr()
            .cast()
    }

    /// Converts the pointer from C back to the object.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of an object of kind `T` of `owner`, once.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) unsafe fn from_raw(
        owner: &'a T::Owner,
        ptr: *mut kernel::bindings::iommufd_object,
    ) -> Self {
        // SAFETY: By the requirements of this function, `ptr` is not NULL and comes from a box.
        let object =
            unsafe { RcuFreeBox::from_raw(NonNull::new_unchecked(ptr).cast::<Object<T>>()) };
        // INVARIANT: The reservation is that of the value that `into_raw()` consumed. It has no
        // dependencies.
        Self {
            object: ManuallyDrop::new(object),
            owner,
            depends: false,
        }
    }
}

/// An unpublished object that is a user of its dependencies: publishing it cannot fail.
///
/// # Invariants
///
/// `object` is a user of all its dependencies.
#[must_use = "dropping the object destroys it"]
pub(crate) struct Dependent<'a, 't, T: Registered> {
    object: Reserved<'a, T>,
    /// Keeps IOMMU_DESTROY from returning EBUSY because of these users.
    _tentative: &'t Tentative<'t>,
}

impl<'a, T: Registered> Dependent<'a, '_, T> {
    /// See [`Reserved::hold`].
    pub(crate) fn hold(&mut self) -> User<T> {
        self.object.hold()
    }

    /// Publishes the object.
    pub(crate) fn publish(self) {
        let mut table = self.object.owner.objects().lock();

        self.object.enter(&mut table, 0, 0);
    }

    /// Returns the object, which ceases to be a user of its dependencies.
    pub(crate) fn give_up(self) -> Reserved<'a, T> {
        let mut object = self.object;

        object.undepend();
        object
    }
}

impl<T: Registered> Deref for Dependent<'_, '_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.object
    }
}

impl<T: Registered> Deref for Reserved<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.object
    }
}

impl<T: Registered> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        self.undepend();
        // SAFETY: `self` is being dropped.
        let id = unsafe { self.reservation() };

        let users = &self.object.header.users;
        // Acquire: after the writes of all former users.
        if kernel::warn_on!(users.as_atomic().load(Acquire) > 1) {
            // A user that outlives the object (`Self::hold()`) would point to freed memory. The
            // object is leaked in the table, where it cannot be looked up or claimed, and keeps the
            // owner from being freed.
            users.set(SATURATED);
            // SAFETY: `self` is being dropped, so this is the last use.
            let object = unsafe { ManuallyDrop::take(&mut self.object) };

            id.publish(object.into());
            return;
        }
        // SAFETY: `self` is being dropped, so this is the last use.
        unsafe { ManuallyDrop::drop(&mut self.object) };
        drop(id);
    }
}
