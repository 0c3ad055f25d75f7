// SPDX-License-Identifier: GPL-2.0

//! The domains of nested HWPTs.
//!
//! Locks: none.
#![forbid(unsafe_code)]

use super::HwptPaging;
use crate::{
    object::Dependency,
    sys,
    viommu::Viommu, //
};

/// The handle of a domain on its vIOMMU.
type OfViommu = Dependency<Viommu>;

/// The domain of a nested HWPT, with its parent and its vIOMMU.
pub(crate) type NestedDomain = sys::hwpt::NestedDomain<Dependency<HwptPaging>, OfViommu>;
