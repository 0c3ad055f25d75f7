// SPDX-License-Identifier: GPL-2.0

//! Tests of object lifetimes, with a kind of object that only counts.
#![expect(unsafe_code, reason = "the table of kinds")]

use super::{
    claim,
    kinds,
    Dependency,
    IdDisposition,
    Kind,
    Owner,
    OwnerPtr,
    Ref,
    Reserved,
    Table,
    WriteSide, //
};
use kernel::{
    id_table::new_id_table,
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        rwsem::{
            new_rwsem,
            RwSemaphore, //
        },
        wait_queue::{
            new_wait_queue,
            WaitQueue, //
        },
        Arc, //
    }, //
};

/// The owner of probes.
#[pin_data]
struct Space {
    #[pin]
    objects: Table<Space>,
    #[pin]
    destroy_wait: WaitQueue,
    #[pin]
    tentative: RwSemaphore<()>,
}

impl Owner for Space {
    fn objects(&self) -> &Table<Self> {
        &self.objects
    }

    fn destroy_wait(&self) -> &WaitQueue {
        &self.destroy_wait
    }

    fn tentative_lock(&self) -> &RwSemaphore<()> {
        &self.tentative
    }
}

// Each test drops its space after its objects.
kinds! {
    Space;
    Probe = iommufd_object_type_IOMMUFD_OBJ_MAX in space: on;
}

/// An object that may depend on another one.
struct Probe {
    on: Option<Dependency<Probe>>,
    space: OwnerPtr<Space>,
    life: Arc<Life>,
}

/// Counters of destroyed and dropped probes.
struct Life {
    destroyed: Atomic<usize>,
    dropped: Atomic<usize>,
}

impl Life {
    fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self {
                destroyed: Atomic::new(0),
                dropped: Atomic::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// Returns the numbers of destroyed and of dropped probes.
    fn ended(&self) -> (usize, usize) {
        (self.destroyed.load(Relaxed), self.dropped.load(Relaxed))
    }
}

impl Kind for Probe {
    type Owner = Space;

    fn destroy(this: WriteSide<'_, Self>) {
        this.life.destroyed.fetch_add(1, Relaxed);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.life.dropped.fetch_add(1, Relaxed);
    }
}

fn space() -> Result<Pin<KBox<Space>>> {
    let space = try_pin_init!(Space {
        objects <- new_id_table!("iommufd_test::objects"),
        destroy_wait <- new_wait_queue!("iommufd_test::destroy_wait"),
        tentative <- new_rwsem!((), "iommufd_test::tentative"),
    }? Error);

    KBox::pin_init(space, GFP_KERNEL)
}

fn reserve<'a>(
    space: &'a Space,
    life: &Arc<Life>,
    on: Option<&Ref<'_, Probe>>,
) -> Result<Reserved<'a, Probe>> {
    space.reserve(Ok(Probe {
        on: on.map(|on| on.dependency()),
        space: OwnerPtr::from(space),
        life: life.clone(),
    }))
}

/// Publishes a probe and returns its id.
fn create(space: &Space, life: &Arc<Life>, on: Option<u32>) -> Result<u32> {
    let on = on.map(|id| space.get(id)).transpose()?;
    let probe = reserve(space, life, on.as_ref())?;
    let id = probe.id();

    probe.publish(|| Ok(()))?;
    Ok(id)
}

/// Returns the number of users of an object, that of the table included.
fn users(space: &Space, id: u32) -> Result<i32> {
    Ok(space.get::<Probe>(id)?.users())
}

#[kernel::prelude::kunit_tests(iommufd_objects)]
mod cases {
    use super::*;

    #[test]
    fn dependent_makes_busy() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;
        let two = create(&space, &life, Some(one))?;

        assert_eq!(users(&space, one)?, 2);
        assert_eq!(space.destroy(one), Err(EBUSY));
        assert_eq!(space.destroy(two), Ok(()));
        assert_eq!(users(&space, one)?, 1);
        assert_eq!(space.destroy(one), Ok(()));
        assert_eq!(space.destroy(one), Err(ENOENT));
        assert_eq!(life.ended(), (2, 2));
        Ok(())
    }

    #[test]
    fn unpublished_is_no_user() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;
        let probe = reserve(&space, &life, Some(&space.get(one)?))?;

        assert_eq!(users(&space, one)?, 1);
        // Lookups do not find it, and `users` is zero.
        assert!(space.find::<Probe>(probe.id()).is_none());
        assert_eq!(space.destroy(probe.id()), Err(ENOENT));
        assert_eq!(probe.users(), 0);
        drop(probe);
        assert_eq!(life.ended(), (0, 1));
        assert_eq!(space.destroy(one), Ok(()));
        Ok(())
    }

    #[test]
    fn answer_that_fails_publishes_nothing() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;
        let probe = reserve(&space, &life, Some(&space.get(one)?))?;
        let id = probe.id();

        // The probe is a user of its dependency when the last step runs.
        let on = space.get::<Probe>(one)?;
        let result = probe.publish(|| {
            assert_eq!(on.users(), 2);
            Err(EFAULT)
        });
        assert_eq!(result, Err(EFAULT));
        assert_eq!(on.users(), 1);
        drop(on);

        assert!(space.find::<Probe>(id).is_none());
        assert_eq!(life.ended(), (0, 1));
        assert_eq!(space.destroy(one), Ok(()));
        Ok(())
    }

    #[test]
    fn claimed_dependency_fails_publication() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;
        let probe = reserve(&space, &life, Some(&space.get(one)?))?;

        // A destroyer claims first. It has to wait for the read side.
        let destroying = claim(&*space, one, IdDisposition::Free, |object| object.claim())?;
        let mut answered = false;
        let result = probe.publish(|| {
            answered = true;
            Ok(())
        });
        assert_eq!(result, Err(ENOENT));
        assert!(!answered);
        assert_eq!(life.ended(), (0, 1));
        // The read side was put.
        destroying.finish();
        assert_eq!(life.ended(), (1, 2));
        Ok(())
    }

    #[test]
    fn users_and_read_sides() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let user = reserve(&space, &life, None)?.publish_with_user(|| Ok(()))?;
        let id = user.id();

        assert_eq!(space.destroy(id), Err(EBUSY));
        user.put_and_try_destroy(&space);
        assert_eq!(life.ended(), (1, 1));

        // Two users: the last one destroys.
        let user = reserve(&space, &life, None)?.publish_with_user(|| Ok(()))?;
        let second = space.get::<Probe>(user.id())?.user(&space.tentative())?;
        user.put_and_try_destroy(&space);
        assert_eq!(life.ended(), (1, 1));
        second.put_and_try_destroy(&space);
        assert_eq!(life.ended(), (2, 2));

        // A read side is not a user.
        let probe = reserve(&space, &life, None)?;
        let read_side = probe
            .publish_with_ref(|_, _| Ok(()))
            .map_err(|(_, err)| err)?;
        let destroying = claim(&*space, read_side.id(), IdDisposition::Free, |object| {
            object.claim()
        })?;
        assert_eq!(read_side.user(&space.tentative()).err(), Some(ENOENT));
        drop(read_side);
        destroying.finish();
        assert_eq!(life.ended(), (3, 3));
        Ok(())
    }

    #[test]
    fn held_before_publication() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let mut probe = reserve(&space, &life, None)?;

        // Dropped unpublished.
        drop(probe.hold());
        drop(probe);
        assert_eq!(life.ended(), (0, 1));

        // Published.
        let mut probe = reserve(&space, &life, None)?;
        let (user, id) = (probe.hold(), probe.id());
        probe.publish(|| Ok(()))?;
        assert_eq!(users(&space, id)?, 2);
        assert_eq!(space.destroy(id), Err(EBUSY));
        user.put_and_try_destroy(&space);
        assert_eq!(life.ended(), (1, 2));
        Ok(())
    }

    #[test]
    fn depends_before_publication() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;

        // Undone, and dropped.
        let probe = reserve(&space, &life, Some(&space.get(one)?))?;
        let tentative = space.tentative();
        let probe = probe.depend(&tentative).map_err(|(_, err)| err)?;
        assert_eq!(users(&space, one)?, 2);
        let probe = probe.give_up();
        assert_eq!(users(&space, one)?, 1);
        drop(probe.depend(&tentative).map_err(|(_, err)| err)?);
        drop(tentative);
        assert_eq!(users(&space, one)?, 1);
        assert_eq!(life.ended(), (0, 1));

        // Published.
        let probe = reserve(&space, &life, Some(&space.get(one)?))?;
        let two = probe.id();
        let tentative = space.tentative();
        let mut probe = probe.depend(&tentative).map_err(|(_, err)| err)?;
        let user = probe.hold();
        probe.publish();
        drop(tentative);
        assert_eq!(users(&space, one)?, 2);
        assert_eq!(users(&space, two)?, 2);
        assert_eq!(space.destroy(two), Err(EBUSY));
        user.put_and_try_destroy(&space);
        assert_eq!(users(&space, one)?, 1);
        assert_eq!(space.destroy(one), Ok(()));
        assert_eq!(life.ended(), (2, 3));

        // The dependency is being destroyed.
        let one = create(&space, &life, None)?;
        let probe = reserve(&space, &life, Some(&space.get(one)?))?;
        let destroying = claim(&*space, one, IdDisposition::Free, |object| object.claim())?;
        let tentative = space.tentative();
        let result = probe.depend(&tentative).map(drop).map_err(|(probe, err)| {
            drop(probe);
            err
        });
        assert_eq!(result, Err(ENOENT));
        destroying.finish();
        assert_eq!(life.ended(), (3, 5));
        Ok(())
    }

    /// Putting the last user claims the object at once, which ends its users of others. It is
    /// destroyed later, when the caller holds no locks.
    #[test]
    fn user_that_is_given_up_may_be_the_last() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;
        let on = space.get(one)?;
        let user = reserve(&space, &life, Some(&on))?.publish_with_user(|| Ok(()))?;
        let two = user.id();
        let tentative = space.tentative();
        let tried = space.get::<Probe>(two)?.user(&tentative)?;

        // Does not wait for the tentative user.
        user.put_and_try_destroy(&space);
        assert_eq!(life.ended(), (0, 0));
        assert_eq!(users(&space, one)?, 2);

        let claimed = tried.put_or_claim(&space).ok_or(EINVAL)?;
        drop(tentative);
        assert!(space.find::<Probe>(two).is_none());
        assert_eq!(users(&space, one)?, 1);
        assert_eq!(life.ended(), (0, 0));
        claimed.finish();
        assert_eq!(life.ended(), (1, 1));
        drop(on);
        assert_eq!(space.destroy(one), Ok(()));
        Ok(())
    }

    #[test]
    fn closing_destroys_leaf_by_leaf() -> Result {
        let (space, life) = (space()?, Life::new()?);
        let one = create(&space, &life, None)?;
        let two = create(&space, &life, Some(one))?;
        create(&space, &life, Some(two))?;
        create(&space, &life, Some(one))?;

        assert!(space.destroy_all());
        assert_eq!(life.ended(), (4, 4));
        Ok(())
    }
}
