// SPDX-License-Identifier: GPL-2.0

//! Accounting of pinned pages.
//!
//! Actors: the owner is the [`Process`] that the memory was mapped by, or that took over with
//! `IOMMU_IOAS_CHANGE_PROCESS`. An [`Account`] belongs to one [`Pages`](super::Pages): it counts
//! the pages that are pinned, and has the [`Charge`] to the owner. Pinning counts at once, the
//! charge follows when the work is done ([`Account::settle`]), since how many pages of a range are
//! pinned already is not known in advance. If the charge fails, the work is undone.
//!
//! A [`Handover`] moves the charges of many pages from their owners to the current process.
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

/// What can be charged, in this order.
const MODES: [AccountMode; 3] = [AccountMode::None, AccountMode::User, AccountMode::Mm];

/// What pages of the current process are charged to, in a context of this mode.
pub(super) fn mode_for_current(mode: AccountMode) -> AccountMode {
    if capable(Capability::IPC_LOCK) {
        AccountMode::None
    } else {
        mode
    }
}

/// What is pinned of some pages, and charged for it.
pub(super) struct Account {
    /// How many pages are pinned.
    pinned: usize,
    /// As many pages as `pinned`, but while PFNs are on the move, and more while pages that are
    /// tallied are unpinned. It is frozen while it is tallied: counted by a [`Handover`] in
    /// progress.
    charge: Charge,
}

impl Account {
    /// Nothing is pinned.
    pub(super) fn new(mode: AccountMode, owner: Process) -> Self {
        Self {
            pinned: 0,
            charge: Charge::new(owner, mode),
        }
    }

    /// Notes that `pages` more pages are pinned.
    #[inline]
    pub(super) fn pinned(&mut self, pages: usize) {
        self.pinned = self.pinned.saturating_add(pages);
    }

    /// Notes that `pages` pages are pinned no more.
    #[inline]
    pub(super) fn unpinned(&mut self, pages: usize) {
        warn_on!(pages > self.pinned);
        self.pinned = self.pinned.saturating_sub(pages);
    }

    /// How many pages are pinned.
    #[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
    pub(super) fn pages(&self) -> usize {
        self.pinned
    }

    /// Whether nothing is pinned.
    pub(super) fn is_empty(&self) -> bool {
        self.pinned == 0
    }

    /// Releases the lock that changing the charge takes, if the caller holds it.
    fn unlock(&self, remote: Option<&mut RemoteMm<'_>>) {
        if let (AccountMode::Mm, Some(remote)) = (self.charge.mode(), remote) {
            remote.unlock();
        }
    }

    /// Makes the charge match what is pinned.
    ///
    /// `remote` is a reference to the address space that the caller happens to have. Its lock is
    /// released if need be.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that is more than the limit, `ENOENT` if it is more than before and a
    /// [`Handover`] is in progress: then the IOAS is being destroyed. The caller must unpin what it
    /// has pinned.
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

    /// Makes the charge match what is pinned, where pages were only unpinned. Never fails.
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
/// First all pages that are concerned are [tallied](Self::tally), then the sum is
/// [charged](Self::charge) to the new owner, at last it replaces the old one of each of them. From
/// before to after, the caller holds the `iova_rwsem` of every IOAS that is in the table, for
/// writing, and has seen that no area is in flight.
///
/// An IOAS that is being destroyed is not in the table, and can have some of the same pages. A HWPT
/// that is being made for it is in its list until that fails, and an operation that has found it
/// before can map and unmap. So pages that are tallied can be unpinned, and stay charged until the
/// handover ends. But no more of them can be charged: the new owner could lack the limit for it
/// when it is too late to fail, while the operation is in vain anyway.
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
    /// Prepares to make the current process the owner.
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

    /// Adds what is charged for `pages`. Pages that were tallied before count once.
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
    /// `ENOMEM` if that exceeds the limit: nothing has been charged, and the handover has to be
    /// [cancelled](Self::cancel) for each of the pages.
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

    /// Leaves `pages`, which may have been tallied, to their owner.
    pub(crate) fn cancel(&self, pages: &Pages) {
        let mut inner = pages.lock();

        inner.account.charge.thaw();
        inner.account.settle_less(None);
    }
}

impl Charged {
    /// Makes the current process the owner of `pages`, which were tallied. Doing it twice is fine.
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
        // What was unpinned since it was tallied.
        account.charge.thaw();
        account.settle_less(None);
    }
}
