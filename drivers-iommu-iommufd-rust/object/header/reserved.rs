// SPDX-License-Identifier: GPL-2.0

//! Objects on their way from allocation to publication.
//!
//! Until an object is published both of its counts are zero. So nobody can look it up, and
//! `driver.c` refuses to make another object depend on it, although IOMMU drivers may list it
//! already: that it can still be undone concerns nobody else. [`Reserved::hold`] is the exception,
//! for objects that no IOMMU driver sees.
//!
//! Publication is one step under the lock of the table, where destroyers claim objects, too: the
//! object becomes a user of all that it depends on, the last thing that may fail is done, which is
//! to answer user space, and the object enters the table. If any of it fails everything is undone
//! before the lock is released, so that no destroyer has seen a user that was none.

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
    /// Puts the counts of `users` that a published object has.
    pub(super) fn put_dependencies(&self) {
        self.dependencies(&mut |header: &Header| {
            header.users.dec();
            true
        });
    }
}

/// As `REFCOUNT_SATURATED`: a count that stays, whoever takes or puts one.
const SATURATED: i32 = i32::MIN / 2;

/// An object that is not published. Dropping it undoes everything.
///
/// # Invariants
///
/// - The id in the header is reserved in the table of `owner`, for this.
/// - If `depends`, the object has a count of `users` of each of its dependencies.
#[must_use = "dropping a reserved object destroys it"]
pub(crate) struct Reserved<'a, T: Registered> {
    object: ManuallyDrop<Pin<RcuFreeBox<Object<T>>>>,
    owner: &'a T::Owner,
    depends: bool,
}

impl<'a, T: Registered> Reserved<'a, T> {
    /// Allocates and initialises an object of `owner`, with the lowest free one of `ids`.
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
        // INVARIANT: The reservation was just given up for the id in the header. The object is a
        // user of nothing.
        let this = Self {
            object,
            owner,
            depends: false,
        };
        // What names another owner is not made: `Object::owner()` relies on that.
        if kernel::warn_on_once!(!this.object.belongs_to(owner)) {
            return Err(EINVAL);
        }
        Ok(this)
    }

    /// Takes the reservation of the id back.
    ///
    /// # Safety
    ///
    /// To be called once.
    unsafe fn reservation(&self) -> Reservation<'a, ObjectBox<T::Owner>> {
        // SAFETY: By the type invariants and the requirements of this function.
        unsafe { Reservation::from_id(self.owner.objects(), self.object.id()) }
    }

    /// Makes the object a user of its dependencies, unless it is.
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

    /// Returns whether the object is a user of nothing yet, and has none itself.
    fn is_fresh(&self) -> bool {
        !self.depends && self.object.header.users.as_atomic().load(Relaxed) == 0
    }

    /// What the object belongs to.
    pub(crate) fn owner(&self) -> &'a T::Owner {
        self.owner
    }

    /// Makes a user of the object before it is published, which must be put before the object is
    /// dropped without having been published.
    ///
    /// It is not for objects that IOMMU drivers extend: `driver.c` lets others depend on the object
    /// from now on.
    pub(crate) fn hold(&mut self) -> User<T> {
        let users = &self.object.header.users;

        if users.as_atomic().load(Relaxed) == 0 {
            // That of the table, in advance.
            users.set(1);
        }
        users.inc();
        // INVARIANT: The count was just taken. `Drop` keeps the object if it is not put.
        User(Held(NonNull::from(&**self.object)))
    }

    /// Makes the object a user of its dependencies in advance, so that publishing it cannot fail.
    /// It is published, or that is undone, while `tentative` is held.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if one of them is being destroyed; with the object, as it was.
    pub(crate) fn depend<'t>(
        mut self,
        tentative: &'t Tentative<'_>,
    ) -> Result<Dependent<'a, 't, T>, (Self, Error)> {
        match self.take_dependencies() {
            // INVARIANT: It has just become one.
            Ok(()) => Ok(Dependent {
                object: self,
                _tentative: tentative,
            }),
            Err(err) => Err((self, err)),
        }
    }

    /// Enters what the object depends on in a slot of it, as long as it is a user of nothing and
    /// has none.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it is too late, or there is something in the slot.
    pub(crate) fn add_dependency<D: Owned>(
        &mut self,
        slot: impl FnOnce(&T) -> &LateDependency<D>,
        dependency: Dependency<D>,
    ) -> Result {
        // INVARIANT: A fresh object is a user of nothing.
        if !self.is_fresh() || !slot(&self.object).0.populate(dependency) {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Ends what [`Self::take_dependencies`] did.
    fn undepend(&mut self) {
        // INVARIANT: The counts are put.
        if T::DEPENDS && core::mem::take(&mut self.depends) {
            self.object.put_dependencies();
        }
    }

    /// Publishes the object with so many users and read sides beside those of the table, once
    /// `last` has done what else may fail. If that fails nothing has changed, and the object is
    /// returned.
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

    /// Enters the object, which has become a user of its dependencies, in the table.
    fn enter(
        self,
        table: &mut TableGuard<'_, T::Owner>,
        users: i32,
        read_sides: i32,
    ) -> NonNull<Object<T>> {
        let mut this = ManuallyDrop::new(self);
        let header = &this.object.header;
        let ptr = NonNull::from(&**this.object);

        // From here on others can depend on the object. Zero is not changed by anybody else.
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

    /// Lets user space find the object, if `last` succeeds. This is the last step of its creation.
    ///
    /// `last` is called with the lock of the table held, which is a spinlock, and does what else
    /// may fail and must not be undone.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if something that the object depends on is being destroyed; what `last` returns.
    pub(crate) fn publish(self, last: impl FnOnce() -> Result) -> Result {
        self.try_publish(0, 0, |_, _| last())
            .map(drop)
            .map_err(|(_, err)| err)
    }

    /// As [`Self::publish`], but what cannot be published is returned.
    pub(crate) fn publish_or_return(self) -> Result<(), (Self, Error)> {
        self.try_publish(0, 0, |_, _| Ok(())).map(drop)
    }

    /// As [`Self::publish`]. Keeps the object from being destroyed until the user is put.
    pub(crate) fn publish_with_user(self, last: impl FnOnce() -> Result) -> Result<User<T>> {
        self.try_publish(1, 0, |_, _| last())
            // INVARIANT: The count was taken when it was published.
            .map(|object| User(Held(object)))
            .map_err(|(_, err)| err)
    }

    /// As [`Self::publish`], but what cannot be published is returned. Whoever destroys the object
    /// waits until the read side is put. `last` gets the object and the table.
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

    /// As [`Self::publish_with_user`], as a part of publishing another object of the same owner:
    /// in the `last` of that, which has locked the table.
    pub(crate) fn publish_along(self, table: &mut TableGuard<'_, T::Owner>) -> User<T> {
        const { assert!(!T::DEPENDS) };
        // INVARIANT: The count is taken when it is published.
        User(Held(self.enter(table, 1, 0)))
    }

    /// Hands the object to C, to be taken back by [`Self::from_raw`].
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn into_raw(self) -> *mut kernel::bindings::iommufd_object {
        const { assert!(!T::DEPENDS) };
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and not dropped.
        RcuFreeBox::into_raw(unsafe { ManuallyDrop::take(&mut this.object) })
            .as_ptr()
            .cast()
    }

    /// Takes the object back from C.
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
        // INVARIANT: The id is reserved as it was in `into_raw()`. It depends on nothing.
        Self {
            object: ManuallyDrop::new(object),
            owner,
            depends: false,
        }
    }
}

/// An object that is not published, but a user of its dependencies: publishing it cannot fail.
///
/// # Invariants
///
/// `object` is a user of all its dependencies.
#[must_use = "dropping the object destroys it"]
pub(crate) struct Dependent<'a, 't, T: Registered> {
    object: Reserved<'a, T>,
    /// IOMMU_DESTROY does not return EBUSY because of it before this ends.
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

    /// The object, which is a user of nothing then.
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
        // Acquire: after what was done by those who have put theirs, on whatever thread.
        if kernel::warn_on!(users.as_atomic().load(Acquire) > 1) {
            // A user that outlives the object (`Self::hold()`) would point to freed memory. The
            // object stays where nobody can look it up or claim it, and keeps the owner.
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
