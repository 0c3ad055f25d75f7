// SPDX-License-Identifier: GPL-2.0

//! Calls into C, and callbacks from C.
//!
//! Each file covers one neighbour and begins with the contract of the pointers that cross the
//! boundary. Nothing here names the layers above: where C calls back, or keeps a pointer to one of
//! their values, there is a trait that they implement. `iommufd_rust.h` declares the fields of our
//! structures that C accesses; assertions beside each Rust type keep the layouts equal.

pub(crate) mod bound_device;
pub(crate) mod ctx;
pub(crate) mod delay;
pub(crate) mod dmabuf;
pub(crate) mod domain;
pub(crate) mod driven;
pub(crate) mod file;
pub(crate) mod for_c;
pub(crate) mod handle;
pub(crate) mod hwpt;
pub(crate) mod iopf;
pub(crate) mod layout;
pub(crate) mod miscdev;
pub(crate) mod mmap;
pub(crate) mod notifier;
pub(crate) mod pgfault;
pub(crate) mod pin;
pub(crate) mod sw_msi;
pub(crate) mod task;
pub(crate) mod test;
#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
pub(crate) mod test_domain;
pub(crate) mod uapi;
pub(crate) mod vdevs;
pub(crate) mod veventq;
pub(crate) mod vfio_uapi;
pub(crate) mod viommu;
