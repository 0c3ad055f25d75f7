// SPDX-License-Identifier: GPL-2.0

//! Entry points from C: the functions of `include/linux/iommufd.h` and those for VFIO, the
//! operations of the character devices, and the functions for the mock driver of the selftests.
//!
//! Each converts raw pointers to typed references and calls one method, without logic of its own.
//! Each file begins with the contract of its callers.

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
