// SPDX-License-Identifier: GPL-2.0

//! The list of the paging HWPTs of an IOAS.
//!
//! Locks: the mutex of the IOAS protects it.
#![forbid(unsafe_code)]

use super::HwptPaging;
use crate::{
    context::Context,
    ioas::Ioas,
    object::{
        Object,
        Owner as _,
        Ref, //
    }, //
};
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::atomic::ordering::Relaxed, //
};

/// The paging HWPTs of an IOAS. Each leaves before its IOAS goes.
pub(crate) struct HwptIds {
    /// The ids of the automatic ones, in the order in which they were made: a device is attached to
    /// the first that suits it. User space can make any number of the others.
    auto: RBTree<u64, u32>,
    next_key: u64,
    /// How many there are.
    count: u32,
    /// How many there are that devices can bypass the caches with.
    incoherent: u32,
}

/// What [`HwptIds`] has of a HWPT.
#[derive(Clone, Copy)]
pub(super) struct ListEntry {
    /// The key of an automatic one.
    pub(super) auto: Option<u64>,
    /// Devices can bypass the caches with it.
    pub(super) incoherent: bool,
}

/// The memory for one more HWPT in the list, if it takes any.
pub(super) type ListMemory = Option<RBTreeNodeReservation<u64, u32>>;

impl HwptIds {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            auto: RBTree::new(),
            next_key: 0,
            count: 0,
            incoherent: 0,
        }
    }

    /// The automatic HWPTs of `ioas`, whose list this is, but for those that are on their way out.
    pub(crate) fn auto<'a, 'c: 'a>(
        &'a self,
        ctx: &'c Context,
        ioas: &'a Object<Ioas>,
    ) -> impl Iterator<Item = Ref<'c, HwptPaging>> + 'a {
        self.auto.iter().filter_map(move |(&key, &id)| {
            let hwpt = ctx.find::<HwptPaging>(id)?;

            // The id of one that is on its way out may be that of another by now, which may be one
            // that has no key.
            (hwpt.auto && hwpt.ioas.as_ptr() == ioas.as_ptr() && hwpt.list_key.load(Relaxed) == key)
                .then_some(hwpt)
        })
    }

    /// Whether no HWPT lets devices bypass the caches.
    pub(crate) fn enforce_cache_coherency(&self) -> bool {
        self.incoherent == 0
    }

    /// Allocates what it takes to add `hwpt`.
    pub(super) fn prepare(hwpt: &HwptPaging) -> Result<ListMemory> {
        if hwpt.auto {
            Ok(Some(RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?))
        } else {
            Ok(None)
        }
    }

    /// Adds a HWPT for which `memory` was prepared.
    pub(super) fn add(&mut self, hwpt: &Object<HwptPaging>, memory: ListMemory) {
        if let Some(memory) = memory {
            let key = self.next_key;

            self.next_key += 1;
            hwpt.list_key.store(key, Relaxed);
            self.auto.insert(memory.into_node(key, hwpt.id()));
        }
        self.count += 1;
        self.incoherent += u32::from(!hwpt.enforces_coherency);
    }

    /// Removes a HWPT that was added. Needs no memory.
    pub(super) fn remove(&mut self, entry: ListEntry) {
        if let Some(key) = entry.auto {
            self.auto.remove(&key);
        }
        self.count -= 1;
        self.incoherent -= u32::from(entry.incoherent);
    }
}

impl Drop for HwptIds {
    fn drop(&mut self) {
        kernel::warn_on!(self.count != 0);
    }
}
