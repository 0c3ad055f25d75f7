// SPDX-License-Identifier: GPL-2.0

//! Owning pointers to objects of any kind, their destruction, and the table of the kinds.
//!
//! The entries of the table of ids are [`ObjectBox`]es. One that was removed is destroyed in steps,
//! each of which is a type: lookups fail ([`Draining`]), the last read side is put ([`Drained`]),
//! and if there is no user either, that is the write side of the destroying lock ([`WriteSide`]),
//! under which [`Kind::destroy`] runs.
//!
//! See [`crate::object`] for the memory order of the counts.

use super::{
    Header,
    Kind,
    KindOfC,
    Object,
    Registered, //
};
use crate::object::Owner;
use core::{
    cell::Cell,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    id_table::RcuPointer,
    prelude::*,
    sync::{
        atomic::ordering::{
            Acquire,
            Relaxed, //
        },
        rcu::RcuFreeBox,
        Refcount, //
    }, //
};

/// An owning pointer to an object of any kind.
///
/// If the object has users or read sides when this is dropped, which is a bug of this driver, it is
/// leaked with a WARN: they would point to freed memory.
///
/// # Invariants
///
/// Points to the header of an `Object<T>` in an [`RcuFreeBox`] that this owns, where `T::TYPE` is
/// the type in the header.
pub(crate) struct ObjectBox<C: Owner>(NonNull<Header>, PhantomData<fn() -> C>);

// SAFETY: All kinds of objects are `Send`.
unsafe impl<C: Owner> Send for ObjectBox<C> {}

// SAFETY: The box keeps the memory for a grace period, in which the header stays valid
// (`RcuFreeSafe for Object`). Headers are aligned to 4 bytes.
unsafe impl<C: Owner> RcuPointer for ObjectBox<C> {
    type Target = Header;

    fn into_raw(self) -> NonNull<Header> {
        ManuallyDrop::new(self).0
    }

    unsafe fn from_raw(ptr: NonNull<Header>) -> Self {
        // INVARIANT: `ptr` comes from `into_raw()`.
        Self(ptr, PhantomData)
    }
}

impl<T: Registered> From<Pin<RcuFreeBox<Object<T>>>> for ObjectBox<T::Owner> {
    fn from(object: Pin<RcuFreeBox<Object<T>>>) -> Self {
        // INVARIANT: `Reserved::new()` made the header for this `T`.
        Self(RcuFreeBox::into_raw(object).cast(), PhantomData)
    }
}

impl<C: Owner> Deref for ObjectBox<C> {
    type Target = Header;

    fn deref(&self) -> &Header {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl<C: Owner> ObjectBox<C> {
    /// Returns the object, if it is of kind `T`.
    pub(crate) fn downcast<T: Registered<Owner = C>>(&self) -> Option<&Object<T>> {
        // SAFETY: By the type invariants it is an `Object<T>`, and has not been dropped.
        (self.kind == T::TYPE).then(|| unsafe { self.0.cast().as_ref() })
    }

    /// Puts the count that lets lookups succeed.
    ///
    /// Memory order: putting the last count is an acquire, so that writes under read sides are
    /// visible if it succeeds (`IOMMUFD+put+end-of-lookups`), and reads under them come before the
    /// caller's writes (`IOMMUFD+read+end-of-lookups`).
    pub(crate) fn end_lookups(self) -> Result<Drained<C>, Draining<C>> {
        if self.wait_cnt.dec_and_test() {
            // INVARIANT: It was the last one.
            Ok(Drained(self))
        } else {
            // INVARIANT: The count of the table was just put.
            Err(Draining(self))
        }
    }
}

/// An object that lookups do not find any more, and that may have read sides.
///
/// # Invariants
///
/// `wait_cnt` counts only read sides.
#[must_use = "the object leaks unless it is destroyed"]
pub(crate) struct Draining<C: Owner>(ObjectBox<C>);

impl<C: Owner> Draining<C> {
    /// Sleeps until the last read side is put. All writes under read sides are visible then.
    pub(crate) fn wait(self, owner: &C) -> Drained<C> {
        owner
            .destroy_wait()
            .wait_until(|| self.0.wait_cnt.as_atomic().load(Acquire) == 0);
        // The thread that has put the last one may not have finished the wake-up: see
        // `put_kept_read_side()`.
        drop(owner.objects().lock());
        // INVARIANT: There is no read side left.
        Drained(self.0)
    }
}

/// An object that lookups do not find any more, and that has no read side.
///
/// # Invariants
///
/// `wait_cnt` is zero.
#[must_use = "the object leaks unless it is destroyed"]
pub(crate) struct Drained<C: Owner>(ObjectBox<C>);

/// The write side of the destroying lock of an object: exclusive access.
///
/// [`Kind::destroy`] gets it, once in the life of an object that was published.
///
/// # Invariants
///
/// There are no read sides and no users of the object, and there will be none.
pub(crate) struct WriteSide<'a, T>(&'a Object<T>, &'a Cell<bool>);

impl<'a, T> WriteSide<'a, T> {
    /// Returns the object, which is dropped later.
    pub(crate) fn object(&self) -> &'a Object<T> {
        self.0
    }

    /// Records that the driver's part of the object has been destroyed, or is about to be.
    pub(in crate::object) fn set_ended(&self) {
        self.1.set(true);
    }
}

impl<T> Deref for WriteSide<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        self.0
    }
}

/// All kinds of objects that belong to an owner.
///
/// # Safety
///
/// A value is dropped, or its memory freed, only if no id of its table was ever reserved, or if
/// [`Owner::destroy_all`] has returned `true` and there has been no other reference to it since.
pub(crate) unsafe trait Kinds: Sized {
    /// Calls `visitor` with the type of this kind. Returns [`None`] if there is none.
    fn visit<V: Visitor<Self>>(kind: KindOfC, visitor: V) -> Option<V::Output>;
}

/// An operation on an object of any kind.
pub(crate) trait Visitor<C> {
    /// The result.
    type Output;

    /// Runs the operation for an object of kind `T`.
    fn visit<T: Registered<Owner = C>>(self) -> Self::Output;
}

impl<C: Owner> ObjectBox<C> {
    /// Puts the counts of `users` that the object has of its dependencies, when it was just
    /// claimed.
    pub(crate) fn put_dependencies(&self) {
        struct PutDependencies<'a, C: Owner>(&'a ObjectBox<C>);

        impl<C: Owner> Visitor<C> for PutDependencies<'_, C> {
            type Output = ();

            fn visit<T: Registered<Owner = C>>(self) {
                if let Some(object) = self.0.downcast::<T>() {
                    object.put_dependencies();
                }
            }
        }
        C::visit(self.kind, PutDependencies(self));
    }
}

impl<C: Owner> Drained<C> {
    /// Calls [`Kind::destroy`] of the object's kind, and drops the object.
    ///
    /// An object that has users is leaked, and so is one whose driver's part was not destroyed.
    /// Both are bugs of this driver.
    pub(crate) fn destroy(self) {
        struct Destroy<'a, C: Owner>(&'a ObjectBox<C>);

        impl<C: Owner> Visitor<C> for Destroy<'_, C> {
            /// Set if the object has no driver's part any more.
            type Output = bool;

            fn visit<T: Registered<Owner = C>>(self) -> bool {
                let ended = Cell::new(!T::DRIVEN);

                if let Some(object) = self.0.downcast::<T>() {
                    // INVARIANT: Both counts are zero, from which they are never raised.
                    Kind::destroy(WriteSide(object, &ended));
                }
                ended.get()
            }
        }
        let Self(object) = self;

        // Dropping it leaks the object, with a WARN.
        if object.users.as_atomic().load(Relaxed) != 0 {
            return;
        }
        if kernel::warn_on!(C::visit(object.kind, Destroy(&object)) == Some(false)) {
            core::mem::forget(object);
        }
    }
}

impl<C: Owner> Drop for ObjectBox<C> {
    fn drop(&mut self) {
        /// By the type invariants there is such a kind, so this is always called.
        struct Free<'a, C: Owner>(&'a mut ObjectBox<C>);

        impl<C: Owner> Visitor<C> for Free<'_, C> {
            type Output = ();

            fn visit<T: Registered<Owner = C>>(self) {
                if self.0.kind == T::TYPE {
                    // SAFETY: By the type invariants. The box is being dropped, and not used after
                    // this.
                    drop(unsafe { RcuFreeBox::from_raw(self.0 .0.cast::<Object<T>>()) })
                }
            }
        }
        let is_zero = |count: &Refcount| count.as_atomic().load(Acquire) == 0;

        // A claimed object has to be finished, by `Destroying::finish()`.
        if !kernel::warn_on!(!is_zero(&self.users) || !is_zero(&self.wait_cnt)) {
            C::visit(self.kind, Free(self));
        }
    }
}

/// Implements [`Kinds`] for an owner, and registers each kind of object: type, name in C, C
/// structure at its start, whether a driver extends that, field with the pointer to the owner,
/// fields with dependencies.
///
/// The user of this macro has to meet the requirements of [`Kinds`].
macro_rules! kinds {
    ($owner:ty; $(
        $(#[$attr:meta])*
        $kind:ty = $name:ident $(as $c:ident)? $(extended_by $by:ident)?
            $(in $($of:ident).+)? $(: $($($field:ident).+),+)?;
    )*) => {
        $(
            $(#[$attr])*
            // SAFETY: The arms of the match below are distinct, so no two kinds have the same type.
            // Headers are made for `Object<T>` with `T::TYPE` only. It is the same fields that are
            // visited each time.
            unsafe impl $crate::object::Registered for $kind {
                const TYPE: $crate::object::KindOfC = kernel::bindings::$name;
                const DRIVEN: bool = {
                    let by: &[&str] = &[$(stringify!($by))?];

                    !by.is_empty()
                };
                const DEPENDS: bool = {
                    let fields: &[&str] = &[$($(stringify!($($field).+)),+)?];

                    !fields.is_empty()
                };

                #[allow(unused_variables, reason = "where there are no fields")]
                fn dependencies(
                    &self,
                    f: &mut impl FnMut(&$crate::object::Header) -> bool,
                ) -> bool {
                    #[allow(unused_imports, reason = "where there are no fields")]
                    use $crate::object::Depends as _;

                    true $($(&& self.$($field).+.visit(f))+)?
                }

                #[allow(unused_variables, reason = "where there is no field")]
                fn belongs_to(&self, owner: &$owner) -> bool {
                    true $(&& self.$($of).+.is(owner))?
                }
            }

            $(
                // SAFETY: It is the same field each time. A path to another object leads through
                // a `Dependency`.
                unsafe impl $crate::object::Owned for $kind {
                    fn owner_ptr(&self) -> &$crate::object::OwnerPtr<$owner> {
                        &self.$($of).+
                    }
                }
            )?

            $(
                // SAFETY: It is asserted beside the type that the fields of the structure that C
                // accesses lie where it expects them.
                unsafe impl $crate::object::CLayout for $kind {
                    type Raw = kernel::bindings::$c;
                }
            )?
        )*

        // SAFETY: By the requirements of this macro.
        unsafe impl $crate::object::Kinds for $owner {
            fn visit<V: $crate::object::Visitor<Self>>(
                kind: $crate::object::KindOfC,
                visitor: V,
            ) -> Option<V::Output> {
                #[deny(unreachable_patterns)]
                match kind {
                    $($(#[$attr])* kernel::bindings::$name => Some(visitor.visit::<$kind>()),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use kinds;
