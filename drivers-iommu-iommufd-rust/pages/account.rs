// SPDX-License-Identifier: GPL-2.0

//! Accounting of pinned pages.
//!
//! The owner is the [`Process`] that is charged: the one that mapped the memory, or a later one
//! that called `IOMMU_IOAS_CHANGE_PROCESS`. An [`Account`] belongs to one [`Pages`](super::Pages):
//! it counts the pinned pages, and has the [`Charge`] of the owner. Pinning changes the first; at
//! the end of an operation [`Account::settle`] charges the difference, since how many pages of a
//! range are pinned already is not known in advance. If the charge fails, the operation is undone.
//!
//! A [`Handover`] moves the charges of many [`Pages`] from their owners to the current process.
//!
//! Locks: an account is protected by the mutex of its pages. Charging an address space takes its
//! `mmap` lock for writing, inside of that mutex.
#![forbid(unsafe_code)]

use crate::{
    pages::Pages,
    sys::{
        task::{
            capable,
            AccountMode, //
        },
        test::should_fail, //
    }, //
};
use kernel::{
    capability::Capability,
    mm::{
        account::{
            Charge,
            Process, //
        },
        gup::RemoteMm, //
    },
    prelude::*,
    warn_on, //
};

/// The modes, in the order in which a handover charges them.
const MODES: [AccountMode; 3] = [AccountMode::None, AccountMode::User, AccountMode::Mm];

// Charges are found by the mode.
static_assert!(
    MODES[0] as usize == 0 && MODES[1] as usize == 1 && MODES[2] as usize == 2,
    "in the order of their values"
);

/// Returns the mode for pages of the current process, in a context of mode `mode`.
pub(super) fn mode_for_current(mode: AccountMode) -> AccountMode {
    if capable(Capability::IPC_LOCK) {
        AccountMode::None
    } else {
        mode
    }
}

/// The pinned and charged pages of one [`Pages`].
pub(super) struct Account {
    /// The number of pinned pages.
    pinned: usize,
    /// The charged pages. As many as `pinned` between operations, unless pages were unpinned while
    /// the charge is frozen: a [`Handover`] has counted it, so that it must not change meanwhile.
    charge: Charge,
}

impl Account {
    /// Creates an account of no pages.
    pub(super) fn new(mode: AccountMode, owner: Process) -> Self {
        Self {
            pinned: 0,
            charge: Charge::new(owner, mode),
        }
    }

    /// Records that `pages` more pages are pinned.
    #[inline]
    pub(super) fn pinned(&mut self, pages: usize) {
        self.pinned = self.pinned.saturating_add(pages);
    }

    /// Records that `pages` pages were unpinned.
    #[inline]
    pub(super) fn unpinned(&mut self, pages: usize) {
        warn_on!(pages > self.pinned);
        self.pinned = self.pinned.saturating_sub(pages);
    }

    /// Returns the number of pinned pages.
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    pub(super) fn pages(&self) -> usize {
        self.pinned
    }

    /// Returns whether nothing is pinned.
    pub(super) fn is_empty(&self) -> bool {
        self.pinned == 0
    }

    /// Releases the lock that changing the charge takes, if the caller holds it.
    fn unlock(&self, remote: Option<&mut RemoteMm<'_>>) {
        if let (AccountMode::Mm, Some(remote)) = (self.charge.mode(), remote) {
            remote.unlock();
        }
    }

    /// Charges or uncharges the difference of pinned and charged pages.
    ///
    /// `remote` is a reference to the address space that the caller happens to have. Its lock is
    /// released if need be.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if this exceeds the limit. `ENOENT` if more pages are pinned than before and a
    /// [`Handover`] is in progress: then the IOAS is being destroyed. The caller has to unpin what
    /// it has pinned.
    #[inline]
    pub(super) fn settle(&mut self, remote: Option<&mut RemoteMm<'_>>) -> Result {
        if self.pinned > self.charge.pages() {
            if self.charge.is_frozen() {
                return Err(ENOENT);
            }
            if should_fail() {
                return Err(ENOMEM);
            }
            self.unlock(remote);
            // Pages of a file can be pinned for a process that has exited, too.
            self.charge.grow_to(self.pinned)?;
        } else {
            self.settle_less(remote);
        }
        Ok(())
    }

    /// As [`Self::settle`], if pages were only unpinned. Never fails.
    #[inline]
    pub(super) fn settle_less(&mut self, remote: Option<&mut RemoteMm<'_>>) {
        if self.pinned < self.charge.pages() {
            if self.charge.is_frozen() {
                return;
            }
            self.unlock(remote);
            self.charge.shrink_to(self.pinned);
        }
        warn_on!(self.pinned != self.charge.pages());
    }
}

/// Moves the charges for many pages to the current process. (`IOMMU_IOAS_CHANGE_PROCESS`)
///
/// First all pages are [tallied](Self::tally), then the sum is [charged](Self::charge) to the new
/// owner, then the owner of each [`Pages`] is [replaced](Charged::apply). During all of this the
/// caller holds the `iova_rwsem` of every IOAS in the table for writing, and has checked that no
/// area is in transition.
///
/// An IOAS that is being destroyed is not in the table, and can share pages. An operation that
/// found it earlier can still map and unmap, and so can the creation of a HWPT for it, which will
/// fail. So tallied pages can be unpinned; they stay charged until the handover ends. More of them
/// cannot be charged, because the limit of the new owner could be exceeded after the handover can
/// no longer fail. The operation gets an error, which its IOAS would cause anyway.
pub(crate) struct Handover {
    to: Process,
    sums: [usize; MODES.len()],
}

/// A [`Handover`] whose sum has been charged. Dropping it uncharges what was not applied.
pub(crate) struct Charged {
    to: Process,
    charges: [Charge; MODES.len()],
}

impl Handover {
    /// Begins a handover to the current process.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a kernel thread.
    pub(crate) fn to_current() -> Result<Self> {
        Ok(Self {
            to: Process::current()?,
            sums: [0; MODES.len()],
        })
    }

    /// Adds the charge of `pages` to the sum, once if they are tallied several times.
    pub(crate) fn tally(&mut self, pages: &Pages) {
        let mut inner = pages.lock();
        let account = &mut inner.account;

        if !account.charge.is_frozen() && account.charge.is_foreign_to(&self.to) {
            if let Some(sum) = self.sums.get_mut(account.charge.mode() as usize) {
                *sum = sum.saturating_add(account.charge.pages());
            }
            account.charge.freeze();
        }
    }

    /// Charges the sum to the current process.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if this exceeds the limit. Nothing is charged then, and the handover has to be
    /// [cancelled](Self::cancel) for all pages.
    pub(crate) fn charge(self) -> Result<Charged, (Error, Self)> {
        let mut charges = MODES.map(|mode| Charge::new(self.to.clone(), mode));

        for (charge, sum) in charges.iter_mut().zip(self.sums) {
            if let Err(err) = charge.grow_to(sum) {
                return Err((err, self));
            }
        }
        Ok(Charged {
            to: self.to,
            charges,
        })
    }

    /// Leaves `pages`, which may be tallied, to their owner.
    pub(crate) fn cancel(&self, pages: &Pages) {
        let mut inner = pages.lock();

        inner.account.charge.thaw();
        inner.account.settle_less(None);
    }
}

impl Charged {
    /// Makes the current process the owner of `pages`, which were tallied. Can be repeated.
    pub(crate) fn apply(&mut self, pages: &Pages) {
        let mut inner = pages.lock();
        let account = &mut inner.account;

        if account.charge.is_frozen() {
            if let Some(sum) = self.charges.get_mut(account.charge.mode() as usize) {
                // The old charge is dropped.
                account.charge = sum.split_off(account.charge.pages());
            }
        } else {
            account.charge.set_process(&self.to);
        }
        // For pages that were unpinned since the tally.
        account.charge.thaw();
        account.settle_less(None);
    }
}
