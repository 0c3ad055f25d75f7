// SPDX-License-Identifier: GPL-2.0

//! iommufd: I/O address spaces, hardware page tables and devices for user space.
//!
//! This is the Rust implementation of `/dev/iommu`. It has the uAPI, the exported symbols and the
//! error codes of the one in `drivers/iommu/iommufd`, and shares with it the code that IOMMU
//! drivers call while the module is not loaded (`driver.c`, `iova_bitmap.c`).
//!
//! The layers, from top to bottom. A module names only modules that come after it in this list:
//!
//! - [`exports`]: what C calls. Raw pointers become typed references;
//! - [`ioctl`], [`vfio_compat`]: the commands of `/dev/iommu` and of a VFIO container;
//! - [`context`], [`access`], [`viommu`], [`eventq`], [`device`], [`hwpt`], [`ioas`]: the objects,
//!   and the open file that they belong to. This is the one cycle: they know each other;
//! - [`io_pagetable`]: the IOVA space of an IOAS: areas, reserved and allowed ranges, domains;
//! - [`pages`]: where PFNs come from, where they are kept, and who is charged for them;
//! - [`command`]: how a command is read and answered, whatever it is;
//! - [`object`]: ids, publication and destruction, whatever the objects are;
//! - [`sys`]: what the driver calls in C, and what calls back;
//! - [`mapping`], [`range`]: arithmetic.
//!
//! Unsafe code is in [`exports`], [`sys`] and the core of [`object`].
//!
//! `Documentation/driver-api/iommufd-rust.rst` is the design document.

use kernel::prelude::*;

mod access;
mod command;
mod context;
mod device;
mod eventq;
mod exports;
mod hwpt;
mod io_pagetable;
mod ioas;
mod ioctl;
mod mapping;
mod object;
mod pages;
mod range;
mod sys;
mod vfio_compat;
mod viommu;

module! {
    type: Iommufd,
    name: "iommufd",
    description: "I/O Address Space Management for passthrough devices",
    license: "GPL",
    imports_ns: ["IOMMUFD_INTERNAL", "IOMMUFD", "DMA_BUF", "GENERIC_PT_IOMMU"],
}

/// The module: while it lives, the character devices are there.
///
/// The fields are dropped in order.
struct Iommufd {
    _iommu: sys::miscdev::Registration,
    _vfio: Option<sys::miscdev::Registration>,
    _test: sys::test::Mock,
}

impl kernel::Module for Iommufd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // An open file does not keep a module whose init function fails. `/dev/iommu` comes last,
        // as nothing can be opened before it is there: see `sys::miscdev`.
        let test = sys::test::Mock::new()?;
        let vfio = sys::miscdev::Registration::vfio()?;
        Ok(Self {
            _iommu: sys::miscdev::Registration::iommu()?,
            _vfio: vfio,
            _test: test,
        })
    }
}
