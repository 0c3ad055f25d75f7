// SPDX-License-Identifier: GPL-2.0

//! Objects: how they come to be, are found, and end.
//!
//! Everything that user space names by an id is an [`Object`]. The table of a context maps ids to
//! objects. The actors, as types:
//!
//! | type | is | ends by |
//! |---|---|---|
//! | [`Reserved`] | an object that nobody sees yet | [`Reserved::publish`], or Drop: undo |
//! | [`Ref`] | the read side of the destroying lock: bounds one operation | Drop |
//! | [`RevocableRef`] | a read side that another object keeps, until `pre_destroy` | Drop |
//! | [`User`] | a lasting dependency: destroy by id says EBUSY while there is one | Drop |
//! | [`Destroying`] | on the way to the write side: the only owner | [`Destroying::finish`] |
//! | [`WriteSide`] | the write side: nobody else can reach the object | [`Kind::destroy`] |
//!
//! The header of an object, whose layout C knows, has two counts for this. `wait_cnt` counts the
//! read sides, plus one while the object may be found. `users` counts the [`User`]s, plus one for
//! the table. A lookup takes no lock: it reads the table under RCU and takes a read side unless
//! there are none to give. Destruction goes through these steps, in this order:
//!
//! 1. Under the lock of the table: claim `users`, which succeeds only if there is no other user,
//!    and take the object out of the table. This is the only place that says EBUSY.
//! 2. Give up the `wait_cnt` of the table. If read sides are left, [`Kind::pre_destroy`] asks their
//!    holders to let go, and the destroyer sleeps until they have. The wait queue is that of the
//!    context: the object may be gone when the last reader wakes the destroyer.
//! 3. [`Kind::destroy`], then Drop. The memory lives on for an RCU grace period, for those lookups
//!    that still hold a pointer to the header and will find its counts at zero.
//!
//! Memory order: publishing is a store with release semantics, and a lookup depends on the pointer
//! it loads, so it sees the object complete. Putting a read side is a release, and the destroyer
//! puts the last count, or reads zero, with acquire, so it sees all that the readers did. Putting a
//! user is a release and claiming is fully ordered, so who claims sees what was done by who
//! depended on the object. Taking a count is relaxed: what it needs is that it and the count's end
//! are read-modify-writes of one variable, of which one comes first. KCSAN does not see Rust: the
//! arguments are in `Documentation/litmus-tests/iommufd/`, for tools/memory-model, each named after
//! the two sides.
//!
//! Locks: the spinlock of the table, held for moments, innermost. Waiting for readers happens with
//! no lock of this room held.
#![forbid(unsafe_code)]

use crate::{
    context::Context,
    ffi, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::rcu, //
};

pub(crate) use crate::ffi::object::{
    Any,
    Kind,
    Object,
    ObjectBox,
    Ref,
    Registered,
    Reserved,
    RevocableRef,
    User,
    WriteSide, //
};

/// The table of the objects of a context.
pub(crate) type Table = kernel::id_table::IdTable<ObjectBox>;

/// The ids that user space may see.
const IDS: core::ops::RangeInclusive<u32> = 1..=i32::MAX as u32;

/// What becomes of the id of a destroyed object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Id {
    /// It can be used again.
    Free,
    /// It stays unused until the context is closed, so that user space does not mistake a new
    /// object for one that it has not destroyed itself.
    Bury,
}

impl Context {
    /// Creates an object of kind `T` that nobody sees yet.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`EBUSY`] if there are no more ids, or what `init` returns.
    ///
    /// Context: may sleep.
    pub(crate) fn reserve<T: Registered>(
        &self,
        init: impl PinInit<T, Error>,
    ) -> Result<Reserved<'_, T>> {
        self.reserve_sized(0, init)
    }

    /// As [`Self::reserve`], for objects into which a driver puts data of its own: they have at
    /// least `size` bytes, counted from the header, and what lies behind the `T` is zero.
    pub(crate) fn reserve_sized<T: Registered>(
        &self,
        size: usize,
        init: impl PinInit<T, Error>,
    ) -> Result<Reserved<'_, T>> {
        let id = self.objects.reserve(IDS, GFP_KERNEL_ACCOUNT)?;
        Reserved::new(self, id, size, init)
    }

    /// Looks up an object and takes the read side of its destroying lock.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is no object of this id and kind.
    ///
    /// Context: does not sleep, takes no lock.
    pub(crate) fn get<T: Registered>(&self, id: u32) -> Result<Ref<'_, T>> {
        if ffi::test::should_fail() {
            return Err(ENOENT);
        }
        self.find(id).ok_or(ENOENT)
    }

    /// As [`Self::get`], for lookups that are not made to fail by tests.
    pub(crate) fn find<T: Registered>(&self, id: u32) -> Option<Ref<'_, T>> {
        let rcu = rcu::read_lock();
        let header = self.objects.load(id, &rcu)?;
        Ref::try_lock(header, self)
    }

    /// As [`Self::get`], for any kind of object.
    pub(crate) fn get_any(&self, id: u32) -> Result<Ref<'_, Any>> {
        self.get(id)
    }

    /// Destroys the object of this id, unless others depend on it.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is none, [`EBUSY`] if it has users.
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    pub(crate) fn destroy(&self, id: u32) -> Result {
        self.claim(id, Id::Free, |object| object.claim())?.finish();
        Ok(())
    }

    /// Destroys the object of this id on behalf of the object that it belongs to, if it is the one
    /// that `is` knows, nobody depends on it and nobody else destroys it. Its id stays unused.
    ///
    /// Whoever destroys it by its id meanwhile comes first or sees [`ENOENT`].
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    pub(crate) fn revoke<T: Registered>(&self, id: u32, is: impl FnOnce(&Object<T>) -> bool) {
        let claimed = self.claim(id, Id::Bury, |object| {
            object.downcast().is_some_and(is) && object.claim()
        });
        if let Ok(object) = claimed {
            object.finish();
        }
    }

    /// Takes the object out of the table if `claim` succeeds, which runs under the lock of the
    /// table.
    fn claim(
        &self,
        id: u32,
        then: Id,
        claim: impl FnOnce(&ObjectBox) -> bool,
    ) -> Result<Destroying<'_>> {
        let entry = self.objects.lock().into_entry(id).ok_or(ENOENT)?;
        if !claim(&entry.get()) {
            return Err(EBUSY);
        }
        self.vfio.forget(&entry);
        Ok(Destroying {
            object: match then {
                Id::Free => entry.remove(),
                Id::Bury => entry.bury(),
            },
            ctx: self,
        })
    }

    /// Claims the object with the lowest id, not below `from`, that nobody depends on.
    fn claim_leaf(&self, from: &mut u32) -> Option<Destroying<'_>> {
        loop {
            let id = self.objects.lock().find(*from)?.0;
            *from = id + 1;
            if let Ok(leaf) = self.claim(id, Id::Free, |object| object.claim()) {
                return Some(leaf);
            }
        }
    }

    /// Destroys all objects. The context is being closed: nobody else can use them.
    ///
    /// The users counts make a graph without cycles. Each round destroys its leaves, which makes
    /// leaves of the objects that only they depended on.
    pub(crate) fn destroy_all(&self) {
        loop {
            let mut from = 0;
            let mut progress = false;
            while let Some(leaf) = self.claim_leaf(&mut from) {
                leaf.finish();
                progress = true;
            }
            if !progress {
                break;
            }
        }
        // A user that was never put is a bug of this driver, or of the one that should put it.
        kernel::warn_on!(self.objects.lock().find(0).is_some());
    }

    /// IOMMU_DESTROY.
    pub(crate) fn destroy_command(
        cmd: &mut crate::ioctl::Command<'_, bindings::iommu_destroy>,
    ) -> Result {
        cmd.ctx().destroy(cmd.id)
    }
}

impl<T: Registered> User<T> {
    /// Destroys the object on behalf of a driver that created it and holds this, the last user.
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    pub(crate) fn destroy(self, ctx: &Context) {
        match ctx.claim(self.id(), Id::Free, |object| self.claim(object)) {
            Ok(object) => object.finish(),
            // The driver left something that depends on the object. It goes when the context does.
            Err(_) => {
                kernel::warn_on!(true);
            }
        }
    }

    /// Puts this user, and destroys the object if it was the last one.
    ///
    /// For objects that the kernel made on its own account. If something else depends on it as
    /// well, the object stays.
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    pub(crate) fn put_and_try_destroy(self, ctx: &Context) {
        // In one step, or of two that put the last users each could see the other's.
        let last = ctx.claim(self.id(), Id::Free, |object| {
            drop(self);
            object.claim()
        });
        if let Ok(object) = last {
            object.finish();
        }
    }
}

/// An object that is being destroyed: it is out of the table and has no users.
#[must_use = "the object leaks unless it is destroyed"]
struct Destroying<'a> {
    object: ObjectBox,
    ctx: &'a Context,
}

impl Destroying<'_> {
    /// Waits for the readers and destroys the object.
    ///
    /// The object may hold the last reference to the file of the context: nothing touches the
    /// context after the object is dropped.
    fn finish(self) {
        let Self { object, ctx } = self;
        let object = match object.end_lookups() {
            Ok(drained) => drained,
            Err(draining) => {
                draining.pre_destroy(ctx);
                draining.wait(&ctx.destroy_wait)
            }
        };
        object.destroy();
    }
}
