// SPDX-License-Identifier: GPL-2.0

//! Objects: creation, lookup, dependencies and destruction.
//!
//! Everything that user space refers to by an id is an [`Object`]. The table of an [`Owner`] maps
//! ids to objects. This layer is generic: the owner lists the kinds of objects ([`Kinds`]). The
//! actors, as types:
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
//! | [`WriteSide`] | the write side: exclusive access to the object | [`Kind::destroy`] |
//!
//! The header of an object, whose layout C knows, has two counts. `wait_cnt` counts the read sides,
//! plus one while lookups find the object. `users` counts the [`User`]s and the published objects
//! that depend on it, plus one for the table. Both are zero until the object is published, unless
//! its creator takes users in advance ([`Reserved::hold`]), and a count is never raised from zero.
//! A lookup takes no lock: it reads the table under RCU and takes a read side if `wait_cnt` is not
//! zero. Destruction has these steps. If the driver that created an object destroys it,
//! [`Kind::pre_destroy`] comes first.
//!
//! 1. Under the lock of the table: claim `users`, which succeeds only if there is no other user,
//!    and take the object out of the table. This is the only place that returns EBUSY. The object
//!    ceases to be a user of its [`Registered::dependencies`], but keeps its read sides of them.
//! 2. Put the `wait_cnt` of the table. If read sides are left, the destroyer sleeps until they are
//!    put. It does so on a wait queue of the owner, as the object may be freed when the last reader
//!    wakes the destroyer.
//! 3. [`Kind::destroy`]; then Drop, which puts the read sides of its dependencies. The memory is
//!    freed after an RCU grace period, as a lookup may still have a pointer to the header, where it
//!    finds `wait_cnt` zero.
//!
//! EBUSY is returned while there is a user, and only then: an object whose creation fails has never
//! been one. It becomes a user of its dependencies when it is published, which is the last step of
//! its creation ([`Reserved::publish`]). An operation that makes a [`User`] does so in its last
//! step that can fail ([`Ref::lasting_user`], [`Dependency::move_user`]).
//!
//! Two operations need a user before their last step that can fail, and make it under
//! [`Tentative`]: attaching or moving a group to a HWPT, and allocating a HW queue, which the IOMMU
//! driver may make depend on another one. Only IOMMU_DESTROY waits for these, before it returns
//! EBUSY; operations that begin meanwhile wait for it. An attach takes as long as the IOMMU driver
//! needs, which may wait for page faults that the core handles (SVA); this driver accesses no user
//! memory meanwhile.
//!
//! If an object is destroyed with its last user, users are put by [`User::put_or_claim`], even to
//! undo a failed operation: the user may be the last one by then. This is done before the
//! [`Tentative`] ends, so that IOMMU_DESTROY of the IOAS of such a HWPT finds the HWPT claimed.
//!
//! Memory order: publishing is a release store, and a lookup has an address dependency on the
//! pointer it loads, so it sees the complete object. Putting a read side is a release, and the
//! destroyer puts the last count, or reads zero, with acquire, so it sees all writes of the
//! readers. Putting a user is a release and claiming is fully ordered, so the claimer sees all
//! writes of former users. Taking a count is relaxed: taking it and claiming it, or putting the
//! last one, are read-modify-writes of one variable, so one comes first. KCSAN does not instrument
//! Rust: `Documentation/litmus-tests/iommufd/` has the arguments for tools/memory-model, each named
//! after the two sides.
//!
//! Locks: [`Owner::tentative_lock`], which destroyers take for writing with no other lock of this
//! driver held; the spinlock of the table, innermost. No lock of this layer is held while waiting
//! for readers.
#![deny(unsafe_code)]

use crate::sys::{
    delay::Place,
    test::should_fail, //
};
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

/// Disposition of the id of a destroyed object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IdDisposition {
    /// It can be used again.
    Free,
    /// It stays unused until the owner is closed: user space, which has not destroyed the object
    /// itself, must not find another one under its id.
    Bury,
}

/// One or several complete, unpublished objects. Dropping this undoes their creation.
pub(crate) trait Publish {
    /// Publishes all of them if `answer` succeeds, else none.
    ///
    /// `answer` is called with the lock of the table held, once nothing else can fail.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if a dependency is being destroyed; those of `answer`.
    fn publish(self, answer: impl FnOnce() -> Result) -> Result;
}

impl<T: Registered> Publish for Reserved<'_, T> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        Reserved::publish(self, answer)
    }
}

/// Permission to make a [`User`] in an operation that can still fail and put it again.
/// IOMMU_DESTROY does not return EBUSY while this exists.
///
/// It is held for as long as an IOMMU driver takes to attach a HWPT, or to initialise a HW queue:
/// not while this driver accesses user memory, nor while it waits for a lock under which that is
/// done.
pub(crate) struct Tentative<'a>(#[expect(dead_code, reason = "a guard")] ReadGuard<'a, ()>);

/// The owner of objects and of their table.
pub(crate) trait Owner: Kinds + Send + Sync + 'static {
    /// Returns the table.
    fn objects(&self) -> &Table<Self>;

    /// Returns the queue on which destroyers wait for read sides.
    fn destroy_wait(&self) -> &WaitQueue;

    /// Returns the lock of which [`Tentative`] is the read side.
    fn tentative_lock(&self) -> &RwSemaphore<()>;

    /// Called when an object is about to be removed from the table, which is locked.
    fn forget(&self, _object: &Entry<'_, ObjectBox<Self>>) {}

    /// Keeps [`Self::destroy`] from returning EBUSY as long as the result exists.
    ///
    /// Context: may sleep.
    fn tentative(&self) -> Tentative<'_> {
        Tentative(self.tentative_lock().read())
    }

    /// Creates an unpublished object of kind `T`.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], [`EBUSY`] if there are no more ids, or those of `init`.
    ///
    /// Context: may sleep.
    fn reserve<T: Registered<Owner = Self>>(
        &self,
        init: impl PinInit<T, Error>,
    ) -> Result<Reserved<'_, T>> {
        self.reserve_sized(0, init)
    }

    /// As [`Self::reserve`], for objects with a driver's part: they have at least `size` bytes, the
    /// header included, and the bytes behind the `T` are zero.
    fn reserve_sized<T: Registered<Owner = Self>>(
        &self,
        size: usize,
        init: impl PinInit<T, Error>,
    ) -> Result<Reserved<'_, T>> {
        // An object that drivers extend is a `Draft` first.
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
        let found = self.find(id).ok_or(ENOENT);
        Place::Found.delay();
        found
    }

    /// As [`Self::get`], but without failure injection.
    fn find<T: Registered<Owner = Self>>(&self, id: u32) -> Option<Ref<'_, T>> {
        let rcu = rcu::read_lock();
        let header = self.objects().load(id, &rcu)?;
        Ref::try_lock(header, self)
    }

    /// As [`Self::get`], for any kind of object.
    fn get_any(&self, id: u32) -> Result<Ref<'_, Any<Self>>> {
        self.get(id)
    }

    /// Destroys the object of this id, unless it has users.
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

    /// Destroys the object of this id on behalf of the object that it belongs to, if `is`
    /// recognises it, it has no users, and it is not being destroyed. Its id stays unused.
    ///
    /// A concurrent destroy by id comes first, or returns [`ENOENT`].
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    fn revoke<T: Registered<Owner = Self>>(&self, id: u32, is: impl Fn(&Object<T>) -> bool) {
        // An object that belongs to another one has no tentative users, so a driver that unbinds
        // its device does not have to wait for them.
        let claimed = claim(self, id, IdDisposition::Bury, |object| {
            object.downcast().is_some_and(&is) && object.claim()
        });
        if let Ok(object) = claimed {
            object.finish();
        }
    }

    /// Destroys all objects of an owner that is being closed and not used otherwise. Returns
    /// whether none is left; otherwise the owner must not be freed.
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
        // A leaked user is a bug of this driver, or of the driver that owned it.
        !kernel::warn_on!(self.objects().lock().find(0).is_some())
    }
}

/// As [`claim`], but if `condition` does not hold it is evaluated again when there are no tentative
/// users.
fn claim_settled<C: Owner>(
    owner: &C,
    id: u32,
    condition: impl Fn(&ObjectBox<C>) -> bool,
) -> Result<Destroying<'_, C>> {
    match claim(owner, id, IdDisposition::Free, &condition) {
        Err(err) if err == EBUSY => claim_again(owner, id, |object| condition(object)),
        result => result,
    }
}

/// As [`claim`], when there are no tentative users.
#[cold]
fn claim_again<C: Owner>(
    owner: &C,
    id: u32,
    condition: impl FnOnce(&ObjectBox<C>) -> bool,
) -> Result<Destroying<'_, C>> {
    let _settled = owner.tentative_lock().write();

    claim(owner, id, IdDisposition::Free, condition)
}

/// Removes the object from the table if `condition`, which runs under the lock of the table, holds.
/// It ceases to be a user of its dependencies.
fn claim<C: Owner>(
    owner: &C,
    id: u32,
    then: IdDisposition,
    condition: impl FnOnce(&ObjectBox<C>) -> bool,
) -> Result<Destroying<'_, C>> {
    let entry = owner.objects().lock().into_entry(id).ok_or(ENOENT)?;
    if !condition(&entry.get()) {
        return Err(EBUSY);
    }
    // Destroyers of the dependencies wait for its read sides, which it puts when it is dropped.
    entry.get().put_dependencies();
    owner.forget(&entry);
    Ok(Destroying {
        object: match then {
            IdDisposition::Free => entry.remove(),
            IdDisposition::Bury => entry.bury(),
        },
        owner,
    })
}

/// Claims the object with the lowest id, not below `from`, that has no users.
fn claim_leaf<'a, C: Owner>(owner: &'a C, from: &mut u32) -> Option<Destroying<'a, C>> {
    loop {
        let id = owner.objects().lock().find(*from)?.0;
        *from = id + 1;
        if let Ok(leaf) = claim(owner, id, IdDisposition::Free, |object| object.claim()) {
            return Some(leaf);
        }
    }
}

impl<T: Registered> User<T> {
    /// Claims the object if this is its last user, and puts the user in any case.
    ///
    /// For published objects that [are destroyed with their last user](Kind::goes_with_last_user),
    /// or that belong to the holder of this user. The caller finishes a claimed object when it
    /// holds no lock and no read side of it.
    pub(crate) fn put_or_claim(self, owner: &T::Owner) -> Option<Destroying<'_, T::Owner>> {
        // Put and claim under one lock: otherwise two last puts each see the other's user, and
        // neither destroys.
        claim(owner, self.id(), IdDisposition::Free, |object| {
            self.claim(object).map_err(Self::put_unclaimed).is_ok()
        })
        .ok()
    }

    /// Destroys the object on behalf of the driver that created it and holds this, its last user.
    /// Calls [`Kind::pre_destroy`] first.
    ///
    /// Context: may sleep, until the operations that use the object have ended.
    pub(crate) fn destroy(self, owner: &T::Owner) {
        T::pre_destroy(&self, owner);
        Place::PreDestroyed.delay();
        match self.put_or_claim(owner) {
            Some(object) => object.finish(),
            // The driver has left another user, which is a bug. The object is leaked, and so is the
            // owner if the object holds it.
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

/// An object that is being destroyed: it is not in the table, has no users and is not a user of
/// others.
#[must_use = "the object leaks unless it is destroyed"]
pub(crate) struct Destroying<'a, C: Owner> {
    object: ObjectBox<C>,
    owner: &'a C,
}

impl<C: Owner> Destroying<'_, C> {
    /// Waits for the readers and destroys the object.
    ///
    /// The object may hold the last reference to the owner, which is not accessed after the object
    /// is dropped.
    pub(crate) fn finish(self) {
        let Self { object, owner } = self;

        Place::Claimed.delay();
        let drained = object
            .end_lookups()
            .unwrap_or_else(|draining| draining.wait(owner));

        Place::Drained.delay();
        drained.destroy();
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
mod tests;
