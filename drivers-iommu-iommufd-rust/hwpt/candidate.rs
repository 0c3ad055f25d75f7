// SPDX-License-Identifier: GPL-2.0

//! Candidates: HWPTs that a group is about to be attached to, each of which becomes a [`HwptRef`]
//! when it is.
//!
//! A candidate has no user because of that, so IOMMU_DESTROY between the choice and the attach does
//! not return EBUSY.
#![forbid(unsafe_code)]

use super::{
    AnyHwpt,
    HwptNested,
    HwptPaging,
    HwptRef, //
};
use crate::{
    context::Context,
    object::{
        Destroying,
        Object,
        Ref,
        Tentative, //
    }, //
};
use kernel::prelude::*;

/// A HWPT that a group is about to be attached to. It has no user because of that yet.
pub(crate) trait Candidate: Sized {
    /// Returns the HWPT.
    fn get(&self) -> AnyHwpt<'_>;

    /// Makes the user of the attachment and passes it to `attach`, which attaches, or returns the
    /// user with its error.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the HWPT, or an IOAS that it depends on, is being destroyed; those of
    /// `attach`. The candidate is returned with the error, without a user.
    ///
    /// Context: the group lock is held.
    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)>;
}

/// A published paging HWPT, as a candidate. If it could not be attached the caller
/// [ends](Self::end) it.
///
/// All groups may be detached from it during the attempt. An automatic one is then claimed with the
/// user of the attempt, which is put with locks held, and destroyed later.
#[must_use = "an automatic HWPT that was claimed leaks unless this is ended"]
pub(crate) struct KnownPaging<'a> {
    ctx: &'a Context,
    hwpt: Ref<'a, HwptPaging>,
    claimed: Option<Destroying<'a, Context>>,
}

impl<'a> KnownPaging<'a> {
    /// A candidate of `ctx`.
    pub(crate) fn new(ctx: &'a Context, hwpt: Ref<'a, HwptPaging>) -> Self {
        Self {
            ctx,
            hwpt,
            claimed: None,
        }
    }

    /// Returns the HWPT.
    pub(crate) fn hwpt(&self) -> &Object<HwptPaging> {
        &self.hwpt
    }

    /// Returns whether the user of a failed attempt was the last one.
    pub(crate) fn was_last(&self) -> bool {
        self.claimed.is_some()
    }

    /// Destroys the HWPT if the user of a failed attempt was the last one.
    ///
    /// Context: takes the mutex of the IOAS.
    pub(crate) fn end(self) {
        let Self { hwpt, claimed, .. } = self;

        drop(hwpt);
        if let Some(claimed) = claimed {
            claimed.finish();
        }
    }
}

impl Candidate for KnownPaging<'_> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Paging(&self.hwpt)
    }

    fn attach<A>(
        mut self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        let user = match self.hwpt.user(tentative) {
            Ok(user) => HwptRef::Paging(user),
            Err(err) => return Err((self, err)),
        };

        attach(user).map_err(|(user, err)| {
            self.claimed = user.put_or_claim(self.ctx);
            (self, err)
        })
    }
}

impl Candidate for Ref<'_, HwptNested> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Nested(self)
    }

    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        match Ref::user(&self, tentative) {
            Ok(user) => attach(HwptRef::Nested(user)).map_err(|(_, err)| (self, err)),
            Err(err) => Err((self, err)),
        }
    }
}
