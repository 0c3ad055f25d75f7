// SPDX-License-Identifier: GPL-2.0

//! What a group is to be attached to: a candidate, which becomes a [`HwptRef`] when it is attached.
//!
//! A candidate has no user because of that: a destroyer that comes between the choice and the
//! attach is not told EBUSY.
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

/// A HWPT that a group is to be attached to. It has no user because of that yet.
pub(crate) trait Candidate: Sized {
    /// The HWPT.
    fn get(&self) -> AnyHwpt<'_>;

    /// Makes the user of the attachment, and has `attach` attach with it, which returns it if that
    /// fails.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the HWPT is being destroyed, or an IOAS is that it needs; what `attach`
    /// returns. With the candidate, which has no user because of this then.
    ///
    /// Context: the group lock is held.
    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)>;
}

/// A paging HWPT that is published, as a candidate. One that failed is to be [ended](Self::end).
///
/// What was attached to it may leave while it is tried. An automatic one then goes when its user is
/// given up, which happens with locks held.
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

    /// The HWPT.
    pub(crate) fn hwpt(&self) -> &Object<HwptPaging> {
        &self.hwpt
    }

    /// Whether the user that was given up was the last one.
    pub(crate) fn was_last(&self) -> bool {
        self.claimed.is_some()
    }

    /// Destroys the HWPT if the user that was given up was the last one.
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
