// SPDX-License-Identifier: GPL-2.0

//! Who pays for pinned pages.
//!
//! Actors: the [`Payer`] is the process that the memory was mapped by, or that took over with
//! `IOMMU_IOAS_CHANGE_PROCESS`. An [`Account`] belongs to one [`Pages`](super::Pages): it counts
//! the pages that are pinned and the pages that the owner was charged for. Pinning counts at once,
//! the charge follows when the work is done ([`Account::settle`]), since how many pages of a range
//! are pinned already is not known in advance. If the charge fails, the work is undone.
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

/// What can be charged, in this order.
const MODES: [AccountMode; 3] = [AccountMode::None, AccountMode::User, AccountMode::Mm];

/// What pages of the current process are charged to, in a context of this mode.
pub(super) fn mode_for_current(mode: AccountMode) -> AccountMode {
    if capable(bindings::CAP_IPC_LOCK) {
        AccountMode::None
    } else {
        mode
    }
}

/// A process that pays for pages.
#[derive(Clone)]
pub(super) struct Payer {
    mm: ARef<Mm>,
    task: ARef<Task>,
    user: ARef<UserStruct>,
}

impl Payer {
    /// The current process.
    ///
    /// # Errors
    ///
    /// `EINVAL` in a kernel thread, which is no process.
    pub(super) fn current() -> Result<Self> {
        let current = current!();

        Ok(Self {
            mm: ARef::from(&**current.mm().ok_or(EINVAL)?),
            task: ARef::from(current.group_leader()),
            user: UserStruct::current(),
        })
    }

    /// The address space.
    pub(super) fn mm(&self) -> &ARef<Mm> {
        &self.mm
    }

    /// Whether a charge in this mode would go to another account than it would for `other`.
    fn pays_elsewhere(&self, other: &Payer, mode: AccountMode) -> bool {
        // The address space shows the number of pinned pages in each mode.
        !core::ptr::eq(&*self.mm, &*other.mm)
            || mode == AccountMode::User && !self.user.is(&other.user)
    }

    /// Charges `pages` pages.
    ///
    /// `remote` is a reference to the address space that the caller happens to have. Its lock is
    /// given up.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that is more than the limit.
    fn charge(&self, mode: AccountMode, pages: usize, remote: Option<&mut RemoteMm<'_>>) -> Result {
        match mode {
            AccountMode::None => {}
            AccountMode::User => self
                .user
                .charge_locked_vm(pages, memlock_limit(&self.task))?,
            AccountMode::Mm => {
                if let Some(remote) = remote {
                    remote.unlock();
                }
                // Pages of a file can be pinned for a process that has exited, too.
                self.mm.charge_locked_vm(pages, &self.task)?;
            }
        }
        self.mm.add_pinned_vm(pages);
        Ok(())
    }

    /// Undoes as much of [`Self::charge`]. Never fails.
    fn uncharge(&self, mode: AccountMode, pages: usize, remote: Option<&mut RemoteMm<'_>>) {
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

/// What is pinned of some pages, and charged for it.
pub(super) struct Account {
    mode: AccountMode,
    owner: Payer,
    /// How many pages are pinned.
    pinned: usize,
    /// How many pages are charged. The same as `pinned` but while PFNs are on the move, and more
    /// while pages that are tallied are unpinned.
    charged: usize,
    /// Whether a [`Handover`] in progress has counted `charged`, which does not change meanwhile.
    tallied: bool,
}

impl Account {
    /// Nothing is pinned.
    pub(super) fn new(mode: AccountMode, owner: Payer) -> Self {
        Self {
            mode,
            owner,
            pinned: 0,
            charged: 0,
            tallied: false,
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

    /// Makes the charge match what is pinned.
    ///
    /// `remote` is as for [`Payer::charge`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that is more than the limit, `ENOENT` if it is more than before and a
    /// [`Handover`] is in progress: then the IOAS is being destroyed. The caller must unpin what it
    /// has pinned.
    #[inline]
    pub(super) fn settle(&mut self, remote: Option<&mut RemoteMm<'_>>) -> Result {
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

    /// Makes the charge match what is pinned, where pages were only unpinned. Never fails.
    #[inline]
    pub(super) fn settle_less(&mut self, remote: Option<&mut RemoteMm<'_>>) {
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
    to: Payer,
    sums: [usize; MODES.len()],
}

/// A [`Handover`] whose sum has been charged.
pub(crate) struct Charged {
    to: Payer,
}

impl Handover {
    /// Prepares to make the current process the owner.
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

    /// Adds what is charged for `pages`. Pages that were tallied before count once.
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
    /// As [`Payer::charge`]: nothing has been charged, and the handover has to be
    /// [cancelled](Self::cancel) for each of the pages.
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

    /// Leaves `pages`, which may have been tallied, to their owner.
    pub(crate) fn cancel(&self, pages: &Pages) {
        let mut inner = pages.lock();

        inner.account.tallied = false;
        inner.account.settle_less(None);
    }
}

impl Charged {
    /// Makes the current process the owner of `pages`, which were tallied. Doing it twice is fine.
    pub(crate) fn apply(&self, pages: &Pages) {
        let mut inner = pages.lock();
        let account = &mut inner.account;

        if account.tallied {
            account.owner.uncharge(account.mode, account.charged, None);
        }
        account.owner = self.to.clone();
        // What was unpinned since it was tallied.
        account.tallied = false;
        account.settle_less(None);
    }
}
