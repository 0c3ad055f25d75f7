// SPDX-License-Identifier: GPL-2.0

//! The owner of an object of whatever kind, how it ends, and the table of the kinds.
//!
//! The table of ids has objects as [`ObjectBox`]. What was taken out of there ends in steps, each
//! of which is a type: lookups are over ([`Draining`]), the last read side is put ([`Drained`]),
//! and if there is no user either, that is the write side of the destroying lock ([`WriteSide`]),
//! under which [`Kind::destroy`] runs.
//!
//! See [`crate::object`] for the memory order of the counts.

use super::{
    Depends,
    Header,
    Kind,
    KindOfC,
    Object,
    Registered, //
};
use crate::context::Context;
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    id_table::RcuPointer,
    prelude::*,
    sync::{
        atomic::ordering::{
            Acquire,
            Relaxed, //
        },
        rcu_box::RcuBox,
        wait_queue::WaitQueue,
        Refcount, //
    }, //
};

/// The owner of an object of whatever kind.
///
/// An object that has users or read sides when it is dropped is leaked: they would be left with
/// freed memory.
///
/// # Invariants
///
/// Points to the header of an `Object<T>` in an [`RcuBox`] that this owns, where `T::TYPE` is the
/// type in the header.
pub(crate) struct ObjectBox(NonNull<Header>);

// SAFETY: All kinds of objects are `Send`.
unsafe impl Send for ObjectBox {}

// SAFETY: The box keeps the memory for a grace period, and dropping an object leaves its header,
// which has no destructor and whose counts are atomic, as it is. Headers are aligned to 4 bytes.
unsafe impl RcuPointer for ObjectBox {
    type Target = Header;

    fn into_raw(self) -> NonNull<Header> {
        ManuallyDrop::new(self).0
    }

    unsafe fn from_raw(ptr: NonNull<Header>) -> Self {
        // INVARIANT: `ptr` comes from `into_raw()`.
        Self(ptr)
    }
}

impl<T: Registered> From<Pin<RcuBox<Object<T>>>> for ObjectBox {
    fn from(object: Pin<RcuBox<Object<T>>>) -> Self {
        // INVARIANT: `Reserved::new()` made the header for this `T`.
        Self(RcuBox::into_raw(object).cast())
    }
}

impl Deref for ObjectBox {
    type Target = Header;

    fn deref(&self) -> &Header {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl ObjectBox {
    /// The object, if it is of kind `T`.
    pub(crate) fn downcast<T: Registered>(&self) -> Option<&Object<T>> {
        // SAFETY: By the type invariants it is an `Object<T>`, and has not been dropped.
        (self.kind == T::TYPE).then(|| unsafe { self.0.cast().as_ref() })
    }

    /// Gives up the count that lets lookups succeed.
    ///
    /// Memory order: putting the last count is an acquire, so that what was done under read sides
    /// is visible if it succeeds (`IOMMUFD+put+end-of-lookups`), and comes before what the caller
    /// does to the object (`IOMMUFD+read+end-of-lookups`).
    pub(crate) fn end_lookups(self) -> Result<Drained, Draining> {
        if self.wait_cnt.dec_and_test() {
            // INVARIANT: It was the last.
            Ok(Drained(self))
        } else {
            // INVARIANT: The count of the table was just put.
            Err(Draining(self))
        }
    }
}

/// An object that no lookup finds any more, and that read sides were left of.
///
/// # Invariants
///
/// What is left of `wait_cnt` are read sides.
#[must_use = "the object leaks unless it is destroyed"]
pub(crate) struct Draining(ObjectBox);

impl Draining {
    /// Sleeps on `queue`, which is that of the context, until the last read side is put. All that
    /// was done under it is visible then.
    pub(crate) fn wait(self, queue: &WaitQueue) -> Drained {
        queue.wait_until(|| self.0.wait_cnt.as_atomic().load(Acquire) == 0);
        // INVARIANT: There is no read side left.
        Drained(self.0)
    }
}

/// An object that no lookup finds any more, and that has no read side.
///
/// # Invariants
///
/// `wait_cnt` is zero.
#[must_use = "the object leaks unless it is destroyed"]
pub(crate) struct Drained(ObjectBox);

/// The write side of the destroying lock of an object: nobody else can reach it.
///
/// [`Kind::destroy`] gets it, once in the life of an object that was published.
///
/// # Invariants
///
/// There are no read sides and no users of the object, and there will be none.
pub(crate) struct WriteSide<'a, T>(&'a Object<T>);

impl<'a, T> WriteSide<'a, T> {
    /// The object, which is dropped later.
    pub(crate) fn object(&self) -> &'a Object<T> {
        self.0
    }
}

impl<T> Deref for WriteSide<'_, T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        self.0
    }
}

/// Registers the kinds of objects: type, name in C, fields that name what the object depends on.
macro_rules! kinds {
    ($($(#[$attr:meta])* $kind:ty = $name:ident $(: $($field:ident)+)?;)*) => {
        $(
            $(#[$attr])*
            // SAFETY: The arms of the matches below are distinct, so no two kinds have the same
            // type. Headers are made for `Object<T>` with `T::TYPE` only. It is the same fields
            // that are visited each time.
            unsafe impl Registered for $kind {
                const TYPE: KindOfC = bindings::$name;
                const DEPENDS: bool = {
                    let fields: &[&str] = &[$($(stringify!($field)),+)?];

                    !fields.is_empty()
                };

                #[allow(unused_variables, reason = "where there are no fields")]
                fn dependencies(&self, f: &mut impl FnMut(&Header) -> bool) -> bool {
                    true $($(&& self.$field.visit(f))+)?
                }
            }
        )*

        impl Draining {
            /// [`Kind::pre_destroy`] of the object's kind.
            pub(crate) fn pre_destroy(&self, ctx: &Context) {
                $($(#[$attr])*
                if let Some(object) = self.0.downcast::<$kind>() {
                    return Kind::pre_destroy(object, ctx);
                })*
            }
        }

        impl Drained {
            /// [`Kind::destroy`] of the object's kind, and Drop.
            ///
            /// An object that has users, which is a bug of this driver, is leaked.
            pub(crate) fn destroy(self) {
                let Self(object) = self;

                if kernel::warn_on!(object.users.as_atomic().load(Relaxed) != 0) {
                    return;
                }
                match object.kind {
                    $($(#[$attr])* bindings::$name => {
                        if let Some(object) = object.downcast::<$kind>() {
                            // INVARIANT: Both counts are zero, and taken only from what is not.
                            Kind::destroy(WriteSide(object));
                            // From now on what it depended on can be destroyed. Whoever does so
                            // waits for the read sides, which end with the object.
                            object.put_dependencies();
                        }
                    })*
                    // Not reached, by the invariants of `ObjectBox`.
                    _ => (),
                }
            }
        }

        impl Drop for ObjectBox {
            fn drop(&mut self) {
                let is_zero = |count: &Refcount| count.as_atomic().load(Acquire) == 0;

                if !is_zero(&self.users) || !is_zero(&self.wait_cnt) {
                    return;
                }
                #[deny(unreachable_patterns)]
                match self.kind {
                    $($(#[$attr])* bindings::$name => {
                        // SAFETY: By the type invariants. The box is not used after this.
                        drop(unsafe { RcuBox::from_raw(self.0.cast::<Object<$kind>>()) })
                    })*
                    // Not reached, by the type invariants; a leak would be harmless.
                    _ => (),
                }
            }
        }
    };
}

kinds! {
    crate::eventq::Fault = iommufd_object_type_IOMMUFD_OBJ_FAULT;
    crate::eventq::Veventq = iommufd_object_type_IOMMUFD_OBJ_VEVENTQ: viommu;
    crate::viommu::HwQueue = iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE: viommu;
    crate::viommu::Vdevice = iommufd_object_type_IOMMUFD_OBJ_VDEVICE: viommu;
    crate::viommu::Viommu = iommufd_object_type_IOMMUFD_OBJ_VIOMMU: hwpt;
    crate::access::Access = iommufd_object_type_IOMMUFD_OBJ_ACCESS;
    crate::device::Device = iommufd_object_type_IOMMUFD_OBJ_DEVICE;
    crate::hwpt::HwptNested = iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED: domain fault;
    crate::hwpt::HwptPaging = iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING: ioas fault;
    crate::ioas::Ioas = iommufd_object_type_IOMMUFD_OBJ_IOAS;
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    crate::object::tests::Probe = iommufd_object_type_IOMMUFD_OBJ_MAX: on;
    #[cfg(CONFIG_IOMMUFD_TEST)]
    crate::sys::test::Selftest = iommufd_object_type_IOMMUFD_OBJ_SELFTEST;
}
