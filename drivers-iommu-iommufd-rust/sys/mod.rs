// SPDX-License-Identifier: GPL-2.0

//! The boundary to C: every `unsafe` of the driver is below this module.
//!
//! Each file covers one neighbour and begins with the contract of the pointers that cross it. The
//! rooms above see safe types only. What C knows of our structures is declared in `iommufd_rust.h`;
//! the assertions beside each Rust type keep the two views the same.

pub(crate) mod access;
pub(crate) mod attach;
pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod dmabuf;
pub(crate) mod domain;
pub(crate) mod driven;
pub(crate) mod eventq;
pub(crate) mod file;
pub(crate) mod for_c;
pub(crate) mod hw_queue;
pub(crate) mod hwpt;
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) mod iopt;
pub(crate) mod layout;
pub(crate) mod mmap;
pub(crate) mod object;
pub(crate) mod pin;
pub(crate) mod sw_msi;
pub(crate) mod task;
pub(crate) mod test;
#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
pub(crate) mod test_domain;
pub(crate) mod uapi;
pub(crate) mod vdevice;
pub(crate) mod veventq;
pub(crate) mod vfio_compat;
pub(crate) mod viommu;
