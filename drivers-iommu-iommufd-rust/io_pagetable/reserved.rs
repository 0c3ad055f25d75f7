// SPDX-License-Identifier: GPL-2.0

//! IOVA that cannot be used, IOVA that must stay usable, and what is left.
//!
//! Reserved ranges come with a domain or a device, and go with it. Allowed ranges are set by user
//! space, which thereby keeps others from making them useless: a device that would reserve some of
//! it cannot be attached.
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

/// On whose behalf a range is reserved.
///
/// Only compared: it does not keep anything alive, nor refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reserver {
    /// A domain that cannot translate it. Has the address of the domain.
    Domain(usize),
    /// A device that uses it for something else. Has the address of the device.
    Device(usize),
    /// Nobody: the mock driver of the tests, which forgets about it.
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

/// On whose behalf a range is reserved.
///
/// Domains of one IOMMU and devices of one kind reserve the same ranges, and user space can make
/// any number of them. There are few different ranges.
pub(super) struct Owners {
    /// One of them needs no memory of its own.
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

    /// Adds an owner, unless it is one.
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
    /// `EADDRINUSE` if there is an area or allowed range in it, `ENOMEM`.
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

    /// Gives up all ranges that are reserved on behalf of `owner`. Needs no memory.
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

    /// Whether some of `range` was allowed explicitly.
    fn is_allowed(&self, range: IovaRange) -> bool {
        self.allowed.first(range.start, range.last).is_some()
    }

    /// The ranges that are not reserved, ordered, as large as possible.
    pub(crate) fn usable(&self) -> impl Iterator<Item = IovaRange> + '_ {
        self.reserved
            .spans(0, usize::MAX)
            .filter(|span| !span.used)
            .map(|span| IovaRange {
                start: span.start,
                last: span.last,
            })
    }

    /// Reserves the IOVA that a device cannot use for what user space maps.
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
                // A device that user space drives does not need it.
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
            // Drivers offer one way for interrupts: it is theirs if there are more.
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
    /// Reserves what `dev` cannot use, before it is attached to a domain of this space.
    ///
    /// If `sw_msi` is given, it is set to the start of the window for interrupts that software
    /// manages, if the device has one, and drivers must offer no more than one way for interrupts.
    ///
    /// # Errors
    ///
    /// With nothing reserved for `dev` any more:
    ///
    /// - `EADDRINUSE` if there is an area or allowed range in what is to be reserved;
    /// - `EINVAL` if the driver is wrong; `ENOMEM`.
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

    /// Keeps the window for interrupts that begins at `start`, which is reserved on behalf of a
    /// device, reserved on behalf of `domain`, too.
    ///
    /// The pages that are mapped there stay in the domain when the device leaves it. Nothing else
    /// must be mapped there as long as the domain is of this space, or is
    /// [forgotten](Self::forget_msi_window).
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

    /// Undoes [`Self::keep_msi_window`] for a domain that does not become one of this space.
    pub(crate) fn forget_msi_window(&self, domain: &PagingDomain) {
        self.iova.write().unreserve(Reserver::from(domain));
    }

    /// Gives up what is reserved on behalf of `dev`. Needs no memory.
    pub(crate) fn remove_reserved(&self, dev: &Device<Bound>) {
        self.iova.write().unreserve(Reserver::from(dev));
    }

    /// Makes `allowed` the ranges that must not be reserved. If there are none, nothing is allowed
    /// explicitly, and all that is not reserved may be used.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` if some of it is reserved, `EINTR` if the current task is being killed; then
    /// nothing changes.
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
        // What was allowed before is freed here, without the lock.
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

        // Some twice, and all together with a range that overlaps both.
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
