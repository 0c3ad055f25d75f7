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

/// The paging HWPTs of an IOAS. Each is removed before the IOAS is destroyed.
pub(crate) struct HwptIds {
    /// The ids of the automatic ones, in the order in which they were made: a device is attached to
    /// the first that is compatible with it. The others are only counted, as user space can make
    /// any number of them.
    auto: RBTree<u64, u32>,
    next_key: u64,
    /// The number of HWPTs.
    count: u32,
    /// The number of HWPTs that do not enforce cache coherency.
    incoherent: u32,
}

/// The data about a HWPT in [`HwptIds`].
#[derive(Clone, Copy)]
pub(super) struct ListEntry {
    /// The key, if it is automatic.
    pub(super) auto: Option<u64>,
    /// Set if it does not enforce cache coherency.
    pub(super) incoherent: bool,
}

/// The memory for one more HWPT in the list, if it needs any.
pub(super) type ListMemory = Option<RBTreeNodeReservation<u64, u32>>;

impl HwptIds {
    /// Creates an empty list.
    pub(crate) fn new() -> Self {
        Self {
            auto: RBTree::new(),
            next_key: 0,
            count: 0,
            incoherent: 0,
        }
    }

    /// Returns the automatic HWPTs of `ioas`, whose list this is, except those that are being
    /// destroyed.
    pub(crate) fn auto<'a, 'c: 'a>(
        &'a self,
        ctx: &'c Context,
        ioas: &'a Object<Ioas>,
    ) -> impl Iterator<Item = Ref<'c, HwptPaging>> + 'a {
        self.auto.iter().filter_map(move |(&key, &id)| {
            let hwpt = ctx.find::<HwptPaging>(id)?;

            // The id of a HWPT that is being destroyed may have been reused, possibly for one that
            // has no key.
            (hwpt.auto && hwpt.ioas.as_ptr() == ioas.as_ptr() && hwpt.list_key.load(Relaxed) == key)
                .then_some(hwpt)
        })
    }

    /// Returns whether all HWPTs enforce cache coherency.
    pub(crate) fn enforce_cache_coherency(&self) -> bool {
        self.incoherent == 0
    }

    /// Allocates the memory to add `hwpt`.
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

    /// Removes a HWPT that was added. Does not allocate.
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
