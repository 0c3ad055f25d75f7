// SPDX-License-Identifier: GPL-2.0

//! Tests of the life of objects, with a kind of object that does nothing else.
#![forbid(unsafe_code)]

use super::{
    Dependency,
    Id,
    InContext,
    Kind,
    Ref,
    Reserved,
    WriteSide, //
};
use crate::{
    context::{
        AccountMode,
        Context, //
    },
    sys::{
        context::ContextPtr,
        file::FileRef, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        Arc, //
    }, //
};

/// An object that may depend on another one.
pub(crate) struct Probe {
    pub(crate) on: Option<Dependency<Probe>>,
    ctx: ContextPtr,
    life: Arc<Life>,
}

/// How many probes have ended.
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

    /// How many were destroyed, and how many were dropped.
    fn ended(&self) -> (usize, usize) {
        (self.destroyed.load(Relaxed), self.dropped.load(Relaxed))
    }
}

impl Kind for Probe {
    fn destroy(this: WriteSide<'_, Self>) {
        this.life.destroyed.fetch_add(1, Relaxed);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.life.dropped.fetch_add(1, Relaxed);
    }
}

impl InContext for Probe {
    fn ctx(&self) -> &Context {
        &self.ctx
    }
}

fn context() -> Result<Pin<KBox<Context>>> {
    KBox::pin_init(Context::new(FileRef::none(), AccountMode::User), GFP_KERNEL)
}

fn reserve<'a>(
    ctx: &'a Context,
    life: &Arc<Life>,
    on: Option<&Ref<'_, Probe>>,
) -> Result<Reserved<'a, Probe>> {
    ctx.reserve(Ok(Probe {
        on: on.map(|on| on.dependency()),
        ctx: ContextPtr::from(ctx),
        life: life.clone(),
    }))
}

/// Publishes a probe and returns its id.
fn create(ctx: &Context, life: &Arc<Life>, on: Option<u32>) -> Result<u32> {
    let on = on.map(|id| ctx.get(id)).transpose()?;
    let probe = reserve(ctx, life, on.as_ref())?;
    let id = probe.id();

    probe.publish(|| Ok(()))?;
    Ok(id)
}

/// How many users an object has, that of the table included.
fn users(ctx: &Context, id: u32) -> Result<i32> {
    Ok(ctx.get::<Probe>(id)?.users())
}

#[kernel::prelude::kunit_tests(iommufd_objects)]
mod cases {
    use super::*;

    #[test]
    fn dependent_makes_busy() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let one = create(&ctx, &life, None)?;
        let two = create(&ctx, &life, Some(one))?;

        assert_eq!(users(&ctx, one)?, 2);
        assert_eq!(ctx.destroy(one), Err(EBUSY));
        assert_eq!(ctx.destroy(two), Ok(()));
        assert_eq!(users(&ctx, one)?, 1);
        assert_eq!(ctx.destroy(one), Ok(()));
        assert_eq!(ctx.destroy(one), Err(ENOENT));
        assert_eq!(life.ended(), (2, 2));
        Ok(())
    }

    #[test]
    fn unpublished_is_no_user() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let one = create(&ctx, &life, None)?;
        let probe = reserve(&ctx, &life, Some(&ctx.get(one)?))?;

        assert_eq!(users(&ctx, one)?, 1);
        // Nobody finds it, or can depend on it.
        assert!(ctx.find::<Probe>(probe.id()).is_none());
        assert_eq!(ctx.destroy(probe.id()), Err(ENOENT));
        assert_eq!(probe.users(), 0);
        drop(probe);
        assert_eq!(life.ended(), (0, 1));
        assert_eq!(ctx.destroy(one), Ok(()));
        Ok(())
    }

    #[test]
    fn answer_that_fails_publishes_nothing() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let one = create(&ctx, &life, None)?;
        let probe = reserve(&ctx, &life, Some(&ctx.get(one)?))?;
        let id = probe.id();

        // The last step is taken with the dependency ensured.
        let on = ctx.get::<Probe>(one)?;
        let result = probe.publish(|| {
            assert_eq!(on.users(), 2);
            Err(EFAULT)
        });
        assert_eq!(result, Err(EFAULT));
        assert_eq!(on.users(), 1);
        drop(on);

        assert!(ctx.find::<Probe>(id).is_none());
        assert_eq!(life.ended(), (0, 1));
        assert_eq!(ctx.destroy(one), Ok(()));
        Ok(())
    }

    #[test]
    fn claimed_dependency_fails_publication() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let one = create(&ctx, &life, None)?;
        let probe = reserve(&ctx, &life, Some(&ctx.get(one)?))?;

        // A destroyer comes first, and is to wait for the read side.
        let destroying = ctx.claim(one, Id::Free, |object| object.claim())?;
        let mut answered = false;
        let result = probe.publish(|| {
            answered = true;
            Ok(())
        });
        assert_eq!(result, Err(ENOENT));
        assert!(!answered);
        assert_eq!(life.ended(), (0, 1));
        // It does not wait any more.
        destroying.finish();
        assert_eq!(life.ended(), (1, 2));
        Ok(())
    }

    #[test]
    fn users_and_read_sides() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let user = reserve(&ctx, &life, None)?.publish_with_user(|| Ok(()))?;
        let id = user.id();

        assert_eq!(ctx.destroy(id), Err(EBUSY));
        user.put_and_try_destroy(&ctx);
        assert_eq!(life.ended(), (1, 1));

        // Two users: the last one destroys.
        let user = reserve(&ctx, &life, None)?.publish_with_user(|| Ok(()))?;
        let second = ctx.get::<Probe>(user.id())?.user(&ctx.tentative())?;
        user.put_and_try_destroy(&ctx);
        assert_eq!(life.ended(), (1, 1));
        second.put_and_try_destroy(&ctx);
        assert_eq!(life.ended(), (2, 2));

        // A read side is no user.
        let probe = reserve(&ctx, &life, None)?;
        let read_side = probe
            .publish_with_ref(|_, _| Ok(()))
            .map_err(|(_, err)| err)?;
        let destroying = ctx.claim(read_side.id(), Id::Free, |object| object.claim())?;
        assert_eq!(read_side.user(&ctx.tentative()).err(), Some(ENOENT));
        drop(read_side);
        destroying.finish();
        assert_eq!(life.ended(), (3, 3));
        Ok(())
    }

    #[test]
    fn held_before_publication() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let one = create(&ctx, &life, None)?;

        // Given up.
        let mut probe = reserve(&ctx, &life, Some(&ctx.get(one)?))?;
        let user = probe.hold();
        let tentative = ctx.tentative();
        probe.depend(&tentative)?;
        assert_eq!(users(&ctx, one)?, 2);
        probe.undepend();
        drop(user);
        drop(tentative);
        drop(probe);
        assert_eq!(users(&ctx, one)?, 1);
        assert_eq!(life.ended(), (0, 1));

        // Published.
        let mut probe = reserve(&ctx, &life, Some(&ctx.get(one)?))?;
        let (user, two) = (probe.hold(), probe.id());
        let tentative = ctx.tentative();
        probe.depend(&tentative)?;
        probe.publish(|| Ok(()))?;
        drop(tentative);
        assert_eq!(users(&ctx, one)?, 2);
        assert_eq!(users(&ctx, two)?, 2);
        assert_eq!(ctx.destroy(two), Err(EBUSY));
        user.put_and_try_destroy(&ctx);
        assert_eq!(users(&ctx, one)?, 1);
        assert_eq!(ctx.destroy(one), Ok(()));
        assert_eq!(life.ended(), (2, 3));
        Ok(())
    }

    #[test]
    fn closing_destroys_leaf_by_leaf() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let one = create(&ctx, &life, None)?;
        let two = create(&ctx, &life, Some(one))?;
        create(&ctx, &life, Some(two))?;
        create(&ctx, &life, Some(one))?;

        ctx.destroy_all();
        assert_eq!(life.ended(), (4, 4));
        Ok(())
    }

    /// The last user may go before the object is published: its maker holds another one, and puts
    /// that when it is.
    #[test]
    fn user_that_goes_before_the_object_is_published() -> Result {
        let (ctx, life) = (context()?, Life::new()?);
        let mut probe = reserve(&ctx, &life, None)?;
        let id = probe.id();
        let (keep, other) = (probe.hold(), probe.hold());

        other.put_and_try_destroy(&ctx);
        probe.publish(|| Ok(()))?;
        assert_eq!(life.ended(), (0, 0));
        assert!(ctx.find::<Probe>(id).is_some());
        keep.put_and_try_destroy(&ctx);
        assert_eq!(life.ended(), (1, 1));
        assert!(ctx.find::<Probe>(id).is_none());
        Ok(())
    }
}
