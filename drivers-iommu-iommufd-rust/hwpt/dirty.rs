// SPDX-License-Identifier: GPL-2.0

//! Dirty tracking of a paging HWPT: its commands.
#![forbid(unsafe_code)]

use super::HwptPaging;
use crate::{
    context::Command,
    object::Owner as _, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// IOMMU_HWPT_SET_DIRTY_TRACKING.
pub(crate) fn set_dirty_tracking(
    cmd: &mut Command<'_, bindings::iommu_hwpt_set_dirty_tracking>,
) -> Result {
    const ENABLE: u32 =
        bindings::iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE;

    if cmd.flags & !ENABLE != 0 {
        return Err(EOPNOTSUPP);
    }
    let hwpt = cmd.ctx().get::<HwptPaging>(cmd.hwpt_id)?;

    hwpt.ioas
        .iopt
        .set_dirty_tracking(&hwpt.paging, cmd.flags & ENABLE != 0)
}

/// IOMMU_HWPT_GET_DIRTY_BITMAP.
pub(crate) fn get_dirty_bitmap(
    cmd: &mut Command<'_, bindings::iommu_hwpt_get_dirty_bitmap>,
) -> Result {
    const NO_CLEAR: u32 =
        bindings::iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;

    if cmd.flags & !NO_CLEAR != 0 || cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    let hwpt = cmd.ctx().get::<HwptPaging>(cmd.hwpt_id)?;

    hwpt.ioas.iopt.read_dirty(&hwpt.paging, cmd.flags, cmd)
}
