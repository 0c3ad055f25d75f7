// SPDX-License-Identifier: GPL-2.0

//! Reserved and allowed ranges of IOVA.
//!
//! Reserved ranges belong to a domain or a device and are removed with it. User space sets allowed
//! ranges: a device or domain that would reserve a part of one cannot be attached.
//!
//! Locks: the `iova` lock protects all ranges.
#![forbid(unsafe_code)]

use super::{
    IoPagetable,
    IovaSpace, //
};
use crate::{
    range::IovaRange,
    sys::{
        domain::PagingDomain,
        task::go_on,
        test::should_fail, //
    }, //
};
use core::convert::Infallible;
use kernel::{
    device::{
        Bound,
        Device, //
    },
    interval_tree::{
        IntervalTree,
        Node, //
    },
    io::PhysAddr,
    iommu::resv::{
        ResvRegion,
        ResvRegions,
        ResvType, //
    },
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    }, //
};

/// The owner of a reserved range.
///
/// A name that is only compared: it is not a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reserver {
    /// A domain that cannot translate it, by its address.
    Domain(usize),
    /// A device that uses it for something else, by its address.
    Device(usize),
    /// The mock driver of the selftests, which does not remove it.
    Test,
}

impl From<&PagingDomain> for Reserver {
    fn from(domain: &PagingDomain) -> Self {
        Self::Domain(core::ptr::from_ref(domain) as usize)
    }
}

impl From<&Device<Bound>> for Reserver {
    fn from(dev: &Device<Bound>) -> Self {
        Self::Device(core::ptr::from_ref(dev) as usize)
    }
}

/// The owners of a reserved range.
///
/// Domains of one IOMMU and devices of one kind reserve the same ranges. There are few different
/// ranges, but user space can create any number of owners.
pub(super) struct Owners {
    /// The first owner needs no allocation.
    one: Option<Reserver>,
    more: RBTree<Reserver, ()>,
}

impl Owners {
    fn new(owner: Reserver) -> Self {
        Self {
            one: Some(owner),
            more: RBTree::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.one.is_none() && self.more.is_empty()
    }

    fn has(&self, owner: Reserver) -> bool {
        self.one == Some(owner) || self.more.get(&owner).is_some()
    }

    /// Adds an owner, unless it is there already.
    fn add(&mut self, owner: Reserver) -> Result {
        if self.one.is_none() {
            self.one = Some(owner);
        } else if !self.has(owner) {
            self.more
                .insert(RBTreeNode::new(owner, (), GFP_KERNEL_ACCOUNT)?);
        }
        Ok(())
    }

    /// Removes an owner.
    fn remove(&mut self, owner: Reserver) {
        self.one = self.one.filter(|&one| one != owner);
        self.more.remove(&owner);
    }
}

impl IovaSpace {
    /// Reserves a range.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` if it intersects an area or an allowed range, `ENOMEM`.
    pub(crate) fn reserve(&mut self, range: IovaRange, owner: Reserver) -> Result {
        if self.areas.first(range).is_some() || self.is_allowed(range) {
            return Err(EADDRINUSE);
        }
        let same = self.reserved.find_mut(range.start, range.last, |node| {
            (node.start(), node.last()) == (range.start, range.last)
        });
        if let Some(mut same) = same {
            return same.value_mut().add(owner);
        }
        self.reserved.insert(Node::new(
            range.start,
            range.last,
            Owners::new(owner),
            GFP_KERNEL_ACCOUNT,
        )?);
        Ok(())
    }

    /// Removes `owner` from all reserved ranges. Allocates nothing.
    pub(crate) fn unreserve(&mut self, owner: Reserver) {
        let mut is_free = false;
        let leave = |_, owners: &mut Owners| -> Result<(), Infallible> {
            owners.remove(owner);
            is_free |= owners.is_empty();
            Ok(())
        };
        let Ok(()) = self.reserved.try_for_each_mut(0, usize::MAX, leave);

        if is_free {
            self.reserved.retain(|node| !node.value().is_empty());
        }
    }

    /// Returns whether `range` intersects an allowed range.
    fn is_allowed(&self, range: IovaRange) -> bool {
        self.allowed.first(range.start, range.last).is_some()
    }

    /// Returns the ranges that are not reserved, in order, as large as possible.
    pub(crate) fn usable(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.reserved
            .spans(0, usize::MAX)
            .filter(|span| !span.used)
            .map(|span| IovaRange {
                start: span.start,
                last: span.last,
            })
    }

    /// Reserves the reserved regions of a device.
    fn reserve_regions(
        &mut self,
        regions: impl Iterator<Item = ResvRegion>,
        owner: Reserver,
        sw_msi: Option<&mut PhysAddr>,
    ) -> Result {
        let (mut hw_windows, mut sw_windows) = (0, 0);
        let mut sw_start = None;

        for region in regions {
            match region.kind {
                // Not needed by a device that user space drives.
                ResvType::DirectRelaxable => continue,
                ResvType::Msi => hw_windows += 1,
                ResvType::SwMsi => {
                    sw_windows += 1;
                    sw_start = Some(region.start);
                }
                ResvType::Direct | ResvType::Reserved => (),
            }
            // CAST: IOVA has the size of `usize`, whatever that of physical addresses is.
            let range = IovaRange::from_len(region.start as usize, region.length)?;
            self.reserve(range, owner)?;
        }

        if let Some(sw_msi) = sw_msi {
            if let Some(start) = sw_start {
                *sw_msi = start;
            }
            // More than one MSI window is a bug in the IOMMU driver.
            if kernel::warn_on!(sw_windows != 0 && hw_windows != 0)
                || kernel::warn_on!(sw_windows > 1)
            {
                return Err(EINVAL);
            }
        }
        Ok(())
    }
}

impl IoPagetable {
    /// Reserves the reserved regions of `dev`, before it is attached to a domain of this space.
    ///
    /// If `sw_msi` is given, it is set to the start of the software MSI window, if the device has
    /// one, and more than one MSI window is an error.
    ///
    /// # Errors
    ///
    /// Nothing is reserved for `dev` then:
    ///
    /// - `EADDRINUSE` if a region intersects an area or an allowed range;
    /// - `EINVAL` if the IOMMU driver reports several MSI windows; `ENOMEM`.
    pub(crate) fn enforce_reserved(
        &self,
        dev: &Device<Bound>,
        sw_msi: Option<&mut PhysAddr>,
    ) -> Result {
        if should_fail() {
            return Err(EINVAL);
        }

        let mut space = self.iova.write();
        pin_init::stack_pin_init!(let regions = ResvRegions::new(dev));
        let owner = Reserver::from(dev);

        space
            .reserve_regions(regions.as_ref().iter(), owner, sw_msi)
            .inspect_err(|_| space.unreserve(owner))
    }

    /// Adds `domain` as an owner of the MSI window that begins at `start` and that a device has
    /// reserved.
    ///
    /// MSI pages stay mapped in the domain after the device is detached. Nothing else must be
    /// mapped there until the domain leaves this space, or [`Self::forget_msi_window`] is called.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn keep_msi_window(&self, domain: &PagingDomain, start: PhysAddr) -> Result {
        let owner = Reserver::from(domain);
        // CAST: IOVA has the size of `usize`, whatever that of physical addresses is.
        let start = start as usize;
        let mut space = self.iova.write();
        let mut last = None;

        for node in space.reserved.iter(start, start) {
            if node.start() != start {
                continue;
            }
            if node.value().has(owner) {
                return Ok(());
            }
            last = last.max(Some(node.last()));
        }
        match last.and_then(|last| IovaRange::new(start, last)) {
            Some(window) => space.reserve(window, owner),
            None => Ok(()),
        }
    }

    /// Undoes [`Self::keep_msi_window`] for a domain that is not added to this space.
    pub(crate) fn forget_msi_window(&self, domain: &PagingDomain) {
        self.forget_msi_window_if(domain, || true);
    }

    /// Undoes [`Self::keep_msi_window`] for a domain that no device was attached to, if `unused`
    /// still returns true with the IOVA space locked.
    pub(crate) fn forget_msi_window_if(
        &self,
        domain: &PagingDomain,
        unused: impl FnOnce() -> bool,
    ) {
        let mut space = self.iova.write();

        if unused() {
            space.unreserve(Reserver::from(domain));
        }
    }

    /// Removes the reserved regions of `dev`. Allocates nothing.
    pub(crate) fn remove_reserved(&self, dev: &Device<Bound>) {
        self.iova.write().unreserve(Reserver::from(dev));
    }

    /// Replaces the allowed ranges. If there are none, every IOVA that is not reserved can be used.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` if a part is reserved, `EINTR` if the current task is being killed. Nothing has
    /// changed then.
    pub(crate) fn set_allowed(&self, mut allowed: IntervalTree<()>) -> Result {
        let mut space = self.iova.write();

        for range in allowed.iter(0, usize::MAX) {
            go_on()?;
            if space.reserved.first(range.start(), range.last()).is_some() {
                return Err(EADDRINUSE);
            }
        }
        core::mem::swap(&mut space.allowed, &mut allowed);
        drop(space);
        // Frees the previous ranges, without the lock.
        Ok(())
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_reserved)]
mod tests {
    use super::*;

    const OWNERS: [Reserver; 4] = [
        Reserver::Domain(1),
        Reserver::Domain(2),
        Reserver::Device(1),
        Reserver::Test,
    ];

    /// What is not reserved.
    fn usable(space: &IovaSpace) -> Result<KVec<IovaRange>> {
        let mut ranges = KVec::new();

        for range in space.usable() {
            ranges.push(range, GFP_KERNEL)?;
        }
        Ok(ranges)
    }

    #[test]
    fn a_range_is_reserved_until_the_last_owner_leaves() -> Result {
        let range = |start, last| IovaRange { start, last };
        let (low, high) = (range(0, 0xfff), range(0x10000, usize::MAX));
        let between = range(0x1000, 0xffff);
        let mut space = IovaSpace::new();

        // Each owner twice, and another range that overlaps both.
        for owner in [OWNERS, OWNERS].into_iter().flatten() {
            space.reserve(low, owner)?;
            space.reserve(high, owner)?;
        }
        assert!(*usable(&space)? == [between]);
        assert_eq!(space.reserved.iter(0, usize::MAX).count(), 2);
        space.reserve(range(0x800, 0x10800), Reserver::Domain(3))?;
        assert!(usable(&space)?.is_empty());
        assert_eq!(space.reserved.iter(0, usize::MAX).count(), 3);
        space.unreserve(Reserver::Domain(3));

        for owner in OWNERS {
            assert!(*usable(&space)? == [between]);
            space.unreserve(owner);
        }
        assert!(*usable(&space)? == [IovaRange::ALL] && space.reserved.is_empty());
        Ok(())
    }

    #[test]
    fn ranges_with_a_common_end_are_kept_apart() -> Result {
        let mut space = IovaSpace::new();
        let ranges = [(0, 0x1fff), (0, 0xfff), (0x1000, 0x1fff), (0, 0xfff)];

        for (owner, (start, last)) in OWNERS.into_iter().zip(ranges) {
            space.reserve(IovaRange { start, last }, owner)?;
        }
        assert_eq!(space.reserved.iter(0, usize::MAX).count(), 3);
        // The first covers the others.
        for (owner, start) in OWNERS.into_iter().zip([0x2000, 0x2000, 0x2000, 0x1000]) {
            assert_eq!(
                usable(&space)?.first().map(|range| range.start),
                Some(start)
            );
            space.unreserve(owner);
        }
        assert!(space.reserved.is_empty());
        Ok(())
    }
}
