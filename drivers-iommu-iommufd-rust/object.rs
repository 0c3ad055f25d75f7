// SPDX-License-Identifier: GPL-2.0

//! Objects: how they come to be, are found, and end.
//!
//! Everything that user space names by an id is an [`Object`]. The table of their [`Owner`] maps
//! ids to objects. Which kinds there are is not known here: see [`Kinds`]. The actors, as types:
//!
//! | type | is | ends by |
//! |---|---|---|
//! | [`Reserved`] | unpublished: no lookup finds it | [`Publish::publish`], or Drop: undo |
//! | [`Ref`] | the read side of the destroying lock: bounds one operation | Drop |
//! | [`RevocableRef`] | a read side that another object keeps, until `pre_destroy` | Drop |
//! | [`Dependency`] | a read side that another object keeps; a user once that is published | Drop |
//! | [`User`] | a user that is no object: destroy by id returns EBUSY while there is one | Drop |
//! | [`Tentative`] | a `User` that is made meanwhile may still be given up | Drop |
//! | [`Destroying`] | on the way to the write side: the only owner | [`Destroying::finish`] |
//! | [`WriteSide`] | the write side: nobody else can reach the object | [`Kind::destroy`] |
//!
//! The header of an object, whose layout C knows, has two counts for this. `wait_cnt` counts the
//! read sides, plus one while the object may be found. `users` counts the [`User`]s and the
//! published objects that depend on it, plus one for the table. Both are zero until the object is
//! published, unless who makes it takes users in advance ([`Reserved::hold`]), and nobody takes a
//! count from zero. A lookup takes no lock: it reads the table under RCU and takes a read side
//! unless there are none to give. Destruction goes through these steps, in this order. What the
//! driver of an object destroys ends for others first, by [`Kind::pre_destroy`].
//!
//! 1. Under the lock of the table: claim `users`, which succeeds only if there is no other user,
//!    and take the object out of the table. This is the only place that returns EBUSY. The object
//!    ceases to be a user of what [`Registered::dependencies`] names, of which it has read sides
//!    still.
//! 2. Give up the `wait_cnt` of the table. If read sides are left, the destroyer sleeps until they
//!    are put. The wait queue is that of the owner: the object may be gone when the last reader
//!    wakes the destroyer.
//! 3. [`Kind::destroy`]; then Drop, which puts its read sides of what it depended on. The memory
//!    lives on for an RCU grace period, for those lookups that still hold a pointer to the header
//!    and will find its counts at zero.
//!
//! EBUSY is returned while there is a user, and only then: a creation that fails has never been
//! one. An object becomes a user of what it depends on in the step that publishes it, which is its
//! last ([`Reserved::publish`]), and a [`User`] is the last that is made ([`Ref::lasting_user`],
//! [`Dependency::move_user`]).
//!
//! Two operations need a user before it is known whether it stays, and make it under
//! [`Tentative`]: attaching a group to a HWPT or moving it there, and allocating a HW queue, which
//! the IOMMU driver may make depend on another one. IOMMU_DESTROY, and nobody else, waits for these
//! before it returns EBUSY; further ones begin behind it. An attach can take as long as the IOMMU
//! driver needs, which may wait for page faults that the core handles (SVA); this driver accesses
//! no user memory meanwhile.
//!
//! A user of an object that goes with its last one is put by [`User::put_or_claim`], also where it
//! is given up: it may be the last by then. That comes before the [`Tentative`] ends, so that
//! IOMMU_DESTROY of the IOAS of such a HWPT finds it claimed.
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
//! Locks: [`Owner::tentative_lock`], which destroyers take for writing with no other lock of this
//! driver held; the spinlock of the table, held for moments, innermost. Waiting for readers happens
//! with no lock of this layer held.
#![deny(unsafe_code)]

use crate::sys::test::should_fail;
use kernel::{
    id_table::{
        Entry,
        IdTable, //
    },
    prelude::*,
    sync::{
        rcu,
        rwsem::{
            ReadGuard,
            RwSemaphore, //
        },
        wait_queue::WaitQueue, //
    }, //
};

pub(crate) mod driven;
mod header;
mod layout;

pub(crate) use self::{
    header::{
        kinds,
        Any,
        CLayout,
        Dependency,
        Depends,
        Header,
        Kind,
        KindOfC,
        Kinds,
        LateDependency,
        Object,
        ObjectBox,
        Owned,
        OwnerPtr,
        Ref,
        Registered,
        Reserved,
        RevocableRef,
        TableGuard,
        User,
        UserSlot,
        Visitor,
        WriteSide, //
    },
    layout::{
        same_layout,
        same_offset, //
    }, //
};

/// The table of the objects of an owner.
pub(crate) type Table<C> = IdTable<ObjectBox<C>>;

/// The ids that user space may see.
const IDS: core::ops::RangeInclusive<u32> = 1..=i32::MAX as u32;

/// What becomes of the id of a destroyed object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Id {
    /// It can be used again.
    Free,
    /// It stays unused until the owner is closed, so that user space does not mistake a new
    /// object for one that it has not destroyed itself.
    Bury,
}

/// An object, or several, that are complete and unpublished. Dropping this undoes everything.
pub(crate) trait Publish {
    /// Publishes all of it if `answer` succeeds. Nothing has been published if not.
    ///
    /// `answer` is called with the lock of the table held, once nothing else can fail.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if something that an object depends on is being destroyed; what `answer` returns.
    fn publish(self, answer: impl FnOnce() -> Result) -> Result;
}

impl<T: Registered> Publish for Reserved<'_, T> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        Reserved::publish(self, answer)
    }
}

/// While this exists, a [`User`] may be given up by who has made it, because something else failed.
/// IOMMU_DESTROY does not return EBUSY meanwhile.
///
/// It is held for as long as an IOMMU driver takes to attach a HWPT, or to initialise a HW queue:
/// not while this driver accesses user memory, nor while it waits for a lock under which that is
/// done.
pub(crate) struct Tentative<'a>(#[expect(dead_code, reason = "a guard")] ReadGuard<'a, ()>);

/// What objects belong to: it has their table.
pub(crate) trait Owner: Kinds + Send + Sync + 'static {
    /// The table.
    fn objects(&self) -> &Table<Self>;

    /// Where destroyers wait for read sides.
    fn destroy_wait(&self) -> &WaitQueue;

    /// See [`Tentative`], which is its read side.
    fn tentative_lock(&self) -> &RwSemaphore<()>;

    /// An object is about to leave the table, which is locked.
    fn forget(&self, _object: &Entry<'_, ObjectBox<Self>>) {}

    /// Keeps [`Self::destroy`] from returning EBUSY until it is known which users stay.
    ///
    /// Context: may sleep.
    fn tentative(&self) -> Tentative<'_> {
        Tentative(self.tentative_lock().read())
    }

    /// Creates an object of kind `T` that nobody sees yet.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`EBUSY`] if there are no more ids, or what `init` returns.
    ///
    /// Context: may sleep.
    fn reserve<T: Registered<Owner = Self>>(
        &self,
        init: impl PinInit<T, Error>,
    ) -> Result<Reserved<'_, T>> {
        self.reserve_sized(0, init)
    }

    /// As [`Self::reserve`], for objects into which a driver puts data of its own: they have at
    /// least `size` bytes, counted from the header, and what lies behind the `T` is zero.
    fn reserve_sized<T: Registered<Owner = Self>>(
        &self,
        size: usize,
        init: impl PinInit<T, Error>,
    ) -> Result<Reserved<'_, T>> {
        // What drivers extend is a `Draft` first.
        const { assert!(!T::DRIVEN) };

        Reserved::new(self, IDS, size, init)
    }

    /// Looks up an object and takes the read side of its destroying lock.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is no object of this id and kind.
    ///
    /// Context: does not sleep, takes no lock.
    fn get<T: Registered<Owner = Self>>(&self, id: u32) -> Result<Ref<'_, T>> {
        if should_fail() {
            return Err(ENOENT);
        }
        self.find(id).ok_or(ENOENT)
    }

    /// As [`Self::get`], for lookups that are not made to fail by tests.
    fn find<T: Registered<Owner = Self>>(&self, id: u32) -> Option<Ref<'_, T>> {
        let rcu = rcu::read_lock();
        let header = self.objects().load(id, &rcu)?;
        Ref::try_lock(header, self)
    }

    /// As [`Self::get`], for any kind of object.
    fn get_any(&self, id: u32) -> Result<Ref<'_, Any<Self>>> {
        self.get(id)
    }

    /// Destroys the object of this id, unless others depend on it.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if there is none, [`EBUSY`] if it has users.
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    fn destroy(&self, id: u32) -> Result {
        claim_settled(self, id, |object| object.claim())?.finish();
        Ok(())
    }

    /// Destroys the object of this id on behalf of the object that it belongs to, if it is the one
    /// that `is` knows, nobody depends on it and nobody else destroys it. Its id stays unused.
    ///
    /// Whoever destroys it by its id meanwhile comes first or sees [`ENOENT`].
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    fn revoke<T: Registered<Owner = Self>>(&self, id: u32, is: impl Fn(&Object<T>) -> bool) {
        // What belongs to another object has no tentative users: the driver that unbinds its device
        // need not wait until there are none.
        let claimed = claim(self, id, Id::Bury, |object| {
            object.downcast().is_some_and(&is) && object.claim()
        });
        if let Ok(object) = claimed {
            object.finish();
        }
    }

    /// Destroys all objects. The owner is being closed: nobody else can use them. Returns whether
    /// none is left; if one is, the owner has to stay, too.
    ///
    /// The users counts make a graph without cycles. Each round destroys its leaves, which makes
    /// leaves of the objects that only they depended on.
    #[must_use]
    fn destroy_all(&self) -> bool {
        loop {
            let mut from = 0;
            let mut progress = false;
            while let Some(leaf) = claim_leaf(self, &mut from) {
                leaf.finish();
                progress = true;
            }
            if !progress {
                break;
            }
        }
        // A user that was never put is a bug of this driver, or of the one that should put it.
        !kernel::warn_on!(self.objects().lock().find(0).is_some())
    }
}

/// As [`claim`], but a `condition` that does not hold is asked again when it is known which users
/// stay.
fn claim_settled<C: Owner>(
    owner: &C,
    id: u32,
    condition: impl Fn(&ObjectBox<C>) -> bool,
) -> Result<Destroying<'_, C>> {
    match claim(owner, id, Id::Free, &condition) {
        Err(err) if err == EBUSY => claim_again(owner, id, |object| condition(object)),
        result => result,
    }
}

/// As [`claim`], when it is known which users stay.
#[cold]
fn claim_again<C: Owner>(
    owner: &C,
    id: u32,
    condition: impl FnOnce(&ObjectBox<C>) -> bool,
) -> Result<Destroying<'_, C>> {
    let _settled = owner.tentative_lock().write();

    claim(owner, id, Id::Free, condition)
}

/// Takes the object out of the table if `condition` holds, which runs under the lock of the
/// table. It is a user of nothing from then on.
fn claim<C: Owner>(
    owner: &C,
    id: u32,
    then: Id,
    condition: impl FnOnce(&ObjectBox<C>) -> bool,
) -> Result<Destroying<'_, C>> {
    let entry = owner.objects().lock().into_entry(id).ok_or(ENOENT)?;
    if !condition(&entry.get()) {
        return Err(EBUSY);
    }
    // Whoever destroys what it depended on waits for its read sides, which end with it.
    entry.get().put_dependencies();
    owner.forget(&entry);
    Ok(Destroying {
        object: match then {
            Id::Free => entry.remove(),
            Id::Bury => entry.bury(),
        },
        owner,
    })
}

/// Claims the object with the lowest id, not below `from`, that nobody depends on.
fn claim_leaf<'a, C: Owner>(owner: &'a C, from: &mut u32) -> Option<Destroying<'a, C>> {
    loop {
        let id = owner.objects().lock().find(*from)?.0;
        *from = id + 1;
        if let Ok(leaf) = claim(owner, id, Id::Free, |object| object.claim()) {
            return Some(leaf);
        }
    }
}

impl<T: Registered> User<T> {
    /// Claims the object if this is its last user, and puts the user in any case.
    ///
    /// For published objects that [go with their last user](Kind::goes_with_last_user), or that
    /// belong to the holder of this user. An object that was claimed is to be finished when the
    /// caller holds no lock and no read side of it.
    pub(crate) fn put_or_claim(self, owner: &T::Owner) -> Option<Destroying<'_, T::Owner>> {
        // Put and claim under one lock: else two last puts each see the other's user and nobody
        // destroys.
        claim(owner, self.id(), Id::Free, |object| {
            self.claim(object).map_err(Self::put_unclaimed).is_ok()
        })
        .ok()
    }

    /// Destroys the object on behalf of a driver that created it and holds this, the last user.
    /// What others have because of it ends first ([`Kind::pre_destroy`]).
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    pub(crate) fn destroy(self, owner: &T::Owner) {
        T::pre_destroy(&self, owner);
        match self.put_or_claim(owner) {
            Some(object) => object.finish(),
            // The driver left something that depends on the object. It is leaked, and so is the
            // owner if the object holds that.
            None => {
                kernel::warn_on!(true);
            }
        }
    }

    /// As [`Self::put_or_claim`], and destroys the object if it was the last user.
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    pub(crate) fn put_and_try_destroy(self, owner: &T::Owner) {
        if let Some(object) = self.put_or_claim(owner) {
            object.finish();
        }
    }
}

/// An object that is being destroyed: it is out of the table, has no users and is none.
#[must_use = "the object leaks unless it is destroyed"]
pub(crate) struct Destroying<'a, C: Owner> {
    object: ObjectBox<C>,
    owner: &'a C,
}

impl<C: Owner> Destroying<'_, C> {
    /// Waits for the readers and destroys the object.
    ///
    /// The object may hold the last reference to the owner: nothing touches the owner after the
    /// object is dropped.
    pub(crate) fn finish(self) {
        let Self { object, owner } = self;

        let drained = object
            .end_lookups()
            .unwrap_or_else(|draining| draining.wait(owner));

        drained.destroy();
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
mod tests;
