// SPDX-License-Identifier: GPL-2.0

//! iommufd: I/O address spaces, hardware page tables and devices for user space.
//!
//! This is the Rust implementation of `/dev/iommu`. It has the uAPI, the exported symbols and the
//! error codes of the one in `drivers/iommu/iommufd`, and shares with it the code that IOMMU
//! drivers call even if the module is not loaded (`driver.c`, `iova_bitmap.c`).
//!
//! The layers, from top to bottom. A module uses only modules that come after it in this list:
//!
//! - [`exports`]: entry points from C, which convert raw pointers to typed references;
//! - [`ioctl`], [`vfio_compat`]: the commands of `/dev/iommu` and of a VFIO container;
//! - [`context`], [`access`], [`viommu`], [`eventq`], [`device`], [`hwpt`], [`ioas`]: the objects,
//!   and the open file that owns them. This is the one cycle: they use each other;
//! - [`io_pagetable`]: the IOVA space of an IOAS: areas, reserved and allowed ranges, domains;
//! - [`pages`]: sources and storage of PFNs, and accounting of pinned pages;
//! - [`command`]: reading the arguments of a command and writing the response;
//! - [`object`]: ids, publication and destruction, for objects of any type;
//! - [`sys`]: calls into C, and callbacks from C;
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

/// The module. It owns the character devices.
///
/// The fields are dropped in order.
struct Iommufd {
    _iommu: sys::miscdev::Registration,
    _vfio: Option<sys::miscdev::Registration>,
    _test: sys::test::Mock,
    #[cfg(CONFIG_IOMMUFD_TEST)]
    _delays: sys::delay::Files,
}

impl kernel::Module for Iommufd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // If the init function fails the module is freed even if files are open. So `/dev/iommu` is
        // registered last: no file can be opened before. See `sys::miscdev`.
        let test = sys::test::Mock::new()?;
        let vfio = sys::miscdev::Registration::vfio()?;
        Ok(Self {
            _iommu: sys::miscdev::Registration::iommu()?,
            _vfio: vfio,
            _test: test,
            #[cfg(CONFIG_IOMMUFD_TEST)]
            _delays: sys::delay::Files::new()?,
        })
    }
}
