// SPDX-License-Identifier: GPL-2.0

//! Accounting of pinned pages.
//!
//! A [`Payer`] is the process that is charged: the one that mapped the memory, or a later one that
//! called `IOMMU_IOAS_CHANGE_PROCESS`. An [`Account`] belongs to one [`Pages`](super::Pages) and
//! has two counts: pinned pages and charged pages. Pinning changes the first; at the end of an
//! operation [`Account::settle`] charges the difference, since how many pages of a range are pinned
//! already is not known in advance. If the charge fails, the operation is undone.
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
    bindings,
    mm::{
        account::{
            memlock_limit,
            UserStruct, //
        },
        gup::RemoteMm,
        Mm, //
    },
    prelude::*,
    sync::aref::ARef,
    task::Task,
    warn_on, //
};

/// The modes, in the order in which a handover charges them.
const MODES: [AccountMode; 3] = [AccountMode::None, AccountMode::User, AccountMode::Mm];

/// Returns the mode for pages of the current process, in a context of mode `mode`.
pub(super) fn mode_for_current(mode: AccountMode) -> AccountMode {
    if capable(bindings::CAP_IPC_LOCK) {
        AccountMode::None
    } else {
        mode
    }
}

/// A process to be charged.
#[derive(Clone)]
pub(super) struct Payer {
    mm: ARef<Mm>,
    task: ARef<Task>,
    user: ARef<UserStruct>,
}

impl Payer {
    /// Returns the current process.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a kernel thread.
    pub(super) fn current() -> Result<Self> {
        let current = current!();

        Ok(Self {
            mm: ARef::from(&**current.mm().ok_or(EINVAL)?),
            task: ARef::from(current.group_leader()),
            user: UserStruct::current(),
        })
    }

    /// Returns the mm.
    pub(super) fn mm(&self) -> &ARef<Mm> {
        &self.mm
    }

    /// Returns whether a charge in this mode changes other counters than one of `other` does.
    fn pays_elsewhere(&self, other: &Payer, mode: AccountMode) -> bool {
        // pinned_vm of the mm changes in each mode.
        !core::ptr::eq(&*self.mm, &*other.mm)
            || mode == AccountMode::User && !self.user.is(&other.user)
    }

    /// Charges `pages` pages.
    ///
    /// `remote` is a reference to the mm, if the caller has one, whose `mmap` lock is released.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if this exceeds the limit.
    fn charge(&self, mode: AccountMode, pages: usize, remote: Option<&mut RemoteMm>) -> Result {
        match mode {
            AccountMode::None => {}
            AccountMode::User => self
                .user
                .charge_locked_vm(pages, memlock_limit(&self.task))?,
            AccountMode::Mm => {
                if let Some(remote) = remote {
                    remote.unlock();
                }
                // Also for a process that has exited, for which pages of a file can be pinned.
                self.mm.charge_locked_vm(pages, &self.task)?;
            }
        }
        self.mm.add_pinned_vm(pages);
        Ok(())
    }

    /// Undoes [`Self::charge`] for `pages` pages. Never fails.
    fn uncharge(&self, mode: AccountMode, pages: usize, remote: Option<&mut RemoteMm>) {
        match mode {
            AccountMode::None => {}
            AccountMode::User => self.user.uncharge_locked_vm(pages),
            AccountMode::Mm => {
                if let Some(remote) = remote {
                    remote.unlock();
                }
                self.mm.uncharge_locked_vm(pages, &self.task);
            }
        }
        self.mm.sub_pinned_vm(pages);
    }
}

/// The pinned and charged pages of one [`Pages`].
pub(super) struct Account {
    mode: AccountMode,
    owner: Payer,
    /// The number of pinned pages.
    pinned: usize,
    /// The number of charged pages. Equal to `pinned` between operations, unless pages were
    /// unpinned while `tallied` is set.
    charged: usize,
    /// Set while a [`Handover`] has counted `charged`, which must not change meanwhile.
    tallied: bool,
}

impl Account {
    /// Creates an account of no pages.
    pub(super) fn new(mode: AccountMode, owner: Payer) -> Self {
        Self {
            mode,
            owner,
            pinned: 0,
            charged: 0,
            tallied: false,
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

    /// Charges or uncharges the difference of pinned and charged pages.
    ///
    /// `remote` is as for [`Payer::charge`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` if this exceeds the limit. `ENOENT` if more pages are pinned than before and a
    /// [`Handover`] is in progress: then the IOAS is being destroyed. The caller has to unpin what
    /// it has pinned.
    #[inline]
    pub(super) fn settle(&mut self, remote: Option<&mut RemoteMm>) -> Result {
        if self.pinned > self.charged {
            if self.tallied {
                return Err(ENOENT);
            }
            if should_fail() {
                return Err(ENOMEM);
            }
            self.owner
                .charge(self.mode, self.pinned - self.charged, remote)?;
            self.charged = self.pinned;
        } else {
            self.settle_less(remote);
        }
        Ok(())
    }

    /// As [`Self::settle`], if pages were only unpinned. Never fails.
    #[inline]
    pub(super) fn settle_less(&mut self, remote: Option<&mut RemoteMm>) {
        if self.pinned < self.charged {
            if self.tallied {
                return;
            }
            self.owner
                .uncharge(self.mode, self.charged - self.pinned, remote);
            self.charged = self.pinned;
        }
        warn_on!(self.pinned != self.charged);
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
    to: Payer,
    sums: [usize; MODES.len()],
}

/// A [`Handover`] whose sum has been charged.
pub(crate) struct Charged {
    to: Payer,
}

impl Handover {
    /// Begins a handover to the current process.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a kernel thread.
    pub(crate) fn to_current() -> Result<Self> {
        Ok(Self {
            to: Payer::current()?,
            sums: [0; MODES.len()],
        })
    }

    /// Adds the charge of `pages` to the sum, once if they are tallied several times.
    pub(crate) fn tally(&mut self, pages: &Pages) {
        let mut inner = pages.lock();
        let account = &mut inner.account;

        if !account.tallied && account.owner.pays_elsewhere(&self.to, account.mode) {
            if let Some(sum) = self.sums.get_mut(account.mode as usize) {
                *sum = sum.saturating_add(account.charged);
            }
            account.tallied = true;
        }
    }

    /// Charges the sum to the current process.
    ///
    /// # Errors
    ///
    /// As [`Payer::charge`]. Nothing is charged then, and the handover has to be
    /// [cancelled](Self::cancel) for all pages.
    pub(crate) fn charge(self) -> Result<Charged, (Error, Self)> {
        for (n, mode) in MODES.into_iter().enumerate() {
            let sum = self.sum(mode);
            if sum == 0 {
                continue;
            }
            if let Err(err) = self.to.charge(mode, sum, None) {
                for done in MODES.into_iter().take(n) {
                    match self.sum(done) {
                        0 => {}
                        sum => self.to.uncharge(done, sum, None),
                    }
                }
                return Err((err, self));
            }
        }
        Ok(Charged { to: self.to })
    }

    fn sum(&self, mode: AccountMode) -> usize {
        self.sums.get(mode as usize).copied().unwrap_or(0)
    }

    /// Leaves `pages`, which may be tallied, to their owner.
    pub(crate) fn cancel(&self, pages: &Pages) {
        let mut inner = pages.lock();

        inner.account.tallied = false;
        inner.account.settle_less(None);
    }
}

impl Charged {
    /// Makes the current process the owner of `pages`, which were tallied. Can be repeated.
    pub(crate) fn apply(&self, pages: &Pages) {
        let mut inner = pages.lock();
        let account = &mut inner.account;

        if account.tallied {
            account.owner.uncharge(account.mode, account.charged, None);
        }
        account.owner = self.to.clone();
        // For pages that were unpinned since the tally.
        account.tallied = false;
        account.settle_less(None);
    }
}
