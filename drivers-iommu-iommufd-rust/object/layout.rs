// SPDX-License-Identifier: GPL-2.0

//! Assertions about the memory layout of objects that C knows.
#![forbid(unsafe_code)]

/// Asserts that a field of the data of an object has the same offset as in C. The data begin behind
/// the header, aligned.
macro_rules! same_offset {
    ($rust:ty, $field:ident, $c:ident, $($cfield:tt)+) => {
        const _: () = assert!(
            size_of::<kernel::bindings::iommufd_object>().next_multiple_of(align_of::<$rust>())
                + core::mem::offset_of!($rust, $field)
                == core::mem::offset_of!(kernel::bindings::$c, $($cfield)+)
        );
    };
}
pub(crate) use same_offset;

/// Asserts that an object has the same layout and size as in C: drivers embed it.
macro_rules! same_layout {
    ($rust:ty, $c:ident: $($field:ident)+) => {
        $($crate::object::same_offset!($rust, $field, $c, $field);)+
        const _: () = assert!(
            size_of::<$crate::object::Object<$rust>>() == size_of::<kernel::bindings::$c>()
        );
    };
}
pub(crate) use same_layout;
