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

/// What a vIOMMU is held by that a domain was made for.
type OfViommu = Dependency<Viommu>;

/// The domain of a nested HWPT, and what it was made of.
pub(crate) type NestedDomain = sys::hwpt::NestedDomain<Dependency<HwptPaging>, OfViommu>;
