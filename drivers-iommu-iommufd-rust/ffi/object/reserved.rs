// SPDX-License-Identifier: GPL-2.0

//! Objects on their way from allocation to publication.
//!
//! Until an object is published both of its counts are zero. So nobody can look it up, and
//! `driver.c` refuses to make another object depend on it, although IOMMU drivers may list it
//! already: that it can still be undone concerns nobody else.
//!
//! Publication is one step under the lock of the table, where destroyers claim objects, too: the
//! object becomes a user of all that it depends on, the last thing that may fail is done, which is
//! to answer user space, and the object enters the table. If any of it fails everything is undone
//! before the lock is released, so that no destroyer has seen a user that was none.

use super::{
    Header,
    Held,
    Object,
    ObjectBox,
    Ref,
    Registered,
    User, //
};
use crate::{
    context::Context,
    object::Tentative, //
};
use core::{
    marker::PhantomPinned,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
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
        rcu_box::RcuBox, //
    }, //
};

/// The table of the objects of a context, locked.
pub(crate) type TableGuard<'a> = Guard<'a, ObjectBox>;

/// The memory of an object that is not published.
///
/// # Invariants
///
/// If `depends`, the object has a count of `users` of each of its dependencies.
struct Unpublished<T: Registered> {
    object: ManuallyDrop<Pin<RcuBox<Object<T>>>>,
    depends: bool,
}

impl<T: Registered> Unpublished<T> {
    fn new(object: Pin<RcuBox<Object<T>>>) -> Self {
        // INVARIANT: It is a user of nothing.
        Self {
            object: ManuallyDrop::new(object),
            depends: false,
        }
    }

    /// Makes the object a user of its dependencies, unless it is.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if one of them is being destroyed. Then it is a user of none.
    fn depend(&mut self) -> Result {
        if self.depends {
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

    /// Undoes [`Self::depend`].
    fn undepend(&mut self) {
        // INVARIANT: The counts are put.
        if core::mem::take(&mut self.depends) {
            self.object.put_dependencies();
        }
    }

    /// Takes out the object. The caller sees to it that the counts of its dependencies are put if
    /// it has become a user of them.
    fn into_box(self) -> Pin<RcuBox<Object<T>>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and not dropped.
        unsafe { ManuallyDrop::take(&mut this.object) }
    }
}

impl<T: Registered> Object<T> {
    /// Puts the counts of `users` that a published object has.
    pub(super) fn put_dependencies(&self) {
        self.dependencies(&mut |header: &Header| {
            header.users.dec();
            true
        });
    }
}

impl<T: Registered> Deref for Unpublished<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.object
    }
}

impl<T: Registered> Drop for Unpublished<T> {
    fn drop(&mut self) {
        self.undepend();
        // A user that outlives the object ([`Reserved::hold`]) would point to freed memory: rather
        // leak it.
        // Acquire: after what was done by those who have put theirs, on whatever thread.
        if !kernel::warn_on!(self.header.users.as_atomic().load(Acquire) > 1) {
            // SAFETY: `self` is being dropped, so this is the last use.
            unsafe { ManuallyDrop::drop(&mut self.object) };
        }
    }
}

/// An object that is not published. Dropping it undoes everything.
#[must_use = "dropping a reserved object destroys it"]
pub(crate) struct Reserved<'a, T: Registered> {
    id: Reservation<'a, ObjectBox>,
    object: Unpublished<T>,
    ctx: &'a Context,
}

impl<'a, T: Registered> Reserved<'a, T> {
    /// Allocates and initialises the object of a reserved id.
    pub(crate) fn new(
        ctx: &'a Context,
        id: Reservation<'a, ObjectBox>,
        size: usize,
        data: impl PinInit<T, Error>,
    ) -> Result<Self> {
        let header = Header::new(T::TYPE, id.id());
        let init = try_pin_init!(Object {
            header,
            data <- data,
            _pin: PhantomPinned,
        }? Error);
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO;
        let object = Unpublished::new(RcuBox::pin_init_sized(init, size, flags)?);
        Ok(Self { id, object, ctx })
    }

    /// Returns whether the object is a user of nothing yet, and has none itself.
    pub(crate) fn is_fresh(&self) -> bool {
        !self.object.depends && self.object.header.users.as_atomic().load(Relaxed) == 0
    }

    /// The context that the object belongs to.
    pub(crate) fn ctx(&self) -> &'a Context {
        self.ctx
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
        User(Held(NonNull::from(&*self.object)))
    }

    /// Makes the object a user of its dependencies in advance, so that publishing it cannot fail.
    /// `_tentative` is held until it is published, or that is undone.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if one of them is being destroyed.
    pub(crate) fn depend(&mut self, _tentative: &Tentative<'_>) -> Result {
        self.object.depend()
    }

    /// Undoes [`Self::depend`].
    pub(crate) fn undepend(&mut self) {
        self.object.undepend();
    }

    /// Publishes the object, with more users and read sides than those of the table, if `last`
    /// succeeds. Returns where it is, or the object as it was.
    fn publish_with(
        mut self,
        users: i32,
        read_sides: i32,
        last: impl FnOnce(&Object<T>, &mut TableGuard<'_>) -> Result,
    ) -> Result<NonNull<Object<T>>, (Self, Error)> {
        let mut table = self.ctx.objects.lock();
        let depended = self.object.depends;
        let result = self
            .object
            .depend()
            .and_then(|()| last(&self.object, &mut table));

        if let Err(err) = result {
            if !depended {
                self.object.undepend();
            }
            drop(table);
            return Err((self, err));
        }
        Ok(self.enter(&mut table, users, read_sides))
    }

    /// Enters the object, which has become a user of its dependencies, in the table.
    fn enter(self, table: &mut TableGuard<'_>, users: i32, read_sides: i32) -> NonNull<Object<T>> {
        let Self { id, object, .. } = self;
        let ptr = NonNull::from(&*object);
        let header = &object.header;

        // From here on others can depend on the object. Zero is not changed by anybody else.
        header.wait_cnt.set(1 + read_sides);
        if header.users.as_atomic().load(Relaxed) == 0 {
            header.users.set(1);
        }
        for _ in 0..users {
            header.users.inc();
        }
        id.publish_locked(table, object.into_box().into());
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
        match self.publish_with(0, 0, |_, _| last()) {
            Ok(_) => Ok(()),
            Err((_, err)) => Err(err),
        }
    }

    /// As [`Self::publish`]. Keeps the object from being destroyed until the user is put.
    pub(crate) fn publish_with_user(self, last: impl FnOnce() -> Result) -> Result<User<T>> {
        match self.publish_with(1, 0, |_, _| last()) {
            // INVARIANT: The count was taken when it was published.
            Ok(object) => Ok(User(Held(object))),
            Err((_, err)) => Err(err),
        }
    }

    /// As [`Self::publish`], but what cannot be published is returned. Whoever destroys the object
    /// waits until the read side is put. `last` gets the object and the table.
    pub(crate) fn publish_with_ref(
        self,
        last: impl FnOnce(&Object<T>, &mut TableGuard<'_>) -> Result,
    ) -> Result<Ref<'a, T>, (Self, Error)> {
        let ctx = self.ctx;

        self.publish_with(0, 1, last).map(|object| Ref {
            // INVARIANT: The count was taken when it was published.
            object: Held(object),
            ctx,
        })
    }

    /// As [`Self::publish_with_user`], as a part of publishing another object of the same context:
    /// in the `last` of that, which has locked the table.
    pub(crate) fn publish_along(self, table: &mut TableGuard<'_>) -> User<T> {
        const { assert!(!T::DEPENDS) };
        // INVARIANT: The count is taken when it is published.
        User(Held(self.enter(table, 1, 0)))
    }

    /// Hands the object to C, to be taken back by [`Self::from_raw`].
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn into_raw(self) -> *mut bindings::iommufd_object {
        let Self { id, object, .. } = self;
        id.into_id();
        RcuBox::into_raw(object.into_box()).as_ptr().cast()
    }

    /// Takes the object back from C.
    ///
    /// # Safety
    ///
    /// `ptr` must come from [`Self::into_raw`] of an object of kind `T` of `ctx`, once.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) unsafe fn from_raw(ctx: &'a Context, ptr: *mut bindings::iommufd_object) -> Self {
        // SAFETY: By the requirements of this function, `ptr` is not NULL and comes from a box.
        let object = unsafe { RcuBox::from_raw(NonNull::new_unchecked(ptr).cast::<Object<T>>()) };
        // SAFETY: The id was a reservation in `into_raw()`.
        let id = unsafe { Reservation::from_id(&ctx.objects, object.id()) };
        Self {
            id,
            object: Unpublished::new(object),
            ctx,
        }
    }
}

impl<T: Registered> Deref for Reserved<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        &self.object
    }
}
