// SPDX-License-Identifier: GPL-2.0

//! What C calls: the functions of `include/linux/iommufd.h` and those of VFIO, the operations of
//! the character devices, and what the mock driver of the selftests sees.
//!
//! A raw pointer becomes a typed reference here, and one method is called: nothing is decided. Each
//! file begins with the contract of its callers.

pub(crate) mod access;
pub(crate) mod ctx;
pub(crate) mod device;
pub(crate) mod file;
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) mod iopt;
pub(crate) mod kinds;
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) mod selftest;
pub(crate) mod vfio;
