// SPDX-License-Identifier: GPL-2.0

//! The list of domains of an IO page table, and the alignments that domains and accesses need.
//!
//! Each map and unmap walks all domains, so they are in a vector. User space can create any number
//! of them: the vector can use `vmalloc()`, and each domain stores its position.
#![forbid(unsafe_code)]

use crate::sys::domain::PagingDomain;
use core::{
    mem::take,
    ops::Deref, //
};
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::Arc, //
};

/// The number of domains and accesses by the alignment that they need, a power of two.
pub(super) struct Alignments(RBTree<usize, usize>);

/// Preallocated memory to count an alignment, if any is needed.
pub(super) struct AlignmentMemory(Option<RBTreeNodeReservation<usize, usize>>);

impl Alignments {
    pub(super) fn new() -> Self {
        Self(RBTree::new())
    }

    /// Allocates the memory to [add](Self::add) an alignment.
    pub(super) fn prepare(&self, alignment: usize) -> Result<AlignmentMemory> {
        Ok(AlignmentMemory(match self.0.get(&alignment) {
            Some(_) => None,
            None => Some(RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?),
        }))
    }

    /// Counts an alignment. `memory` was prepared for it, with no change in between.
    pub(super) fn add(&mut self, alignment: usize, memory: AlignmentMemory) {
        if let Some(count) = self.0.get_mut(&alignment) {
            *count += 1;
        } else if let AlignmentMemory(Some(memory)) = memory {
            self.0.insert(memory.into_node(alignment, 1));
        }
    }

    /// Undoes one [`Self::add`] of the same alignment. Allocates nothing.
    pub(super) fn remove(&mut self, alignment: usize) {
        let Some(mut entry) = self.0.find_mut(&alignment) else {
            return;
        };

        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }

    /// Returns the greatest alignment, which suits all.
    pub(super) fn greatest(&self) -> usize {
        let greatest = self.0.cursor_back().map(|cursor| *cursor.current().0);

        greatest.unwrap_or(1).max(1)
    }
}

/// The domains of an IO page table.
///
/// # Invariants
///
/// Each domain in the list has its position in its [`ListPlace`].
///
/// [`ListPlace`]: crate::sys::domain::ListPlace
pub(super) struct DomainList(KVVec<Arc<PagingDomain>>);

/// A domain that was removed from the list, and memory, to be dropped without locks.
pub(super) struct Removed {
    _domain: Option<Arc<PagingDomain>>,
    _memory: Option<KVVec<Arc<PagingDomain>>>,
}

impl DomainList {
    pub(super) fn new() -> Self {
        // INVARIANT: There are none.
        Self(KVVec::new())
    }

    /// Returns the position of `domain` in the list.
    fn position(&self, domain: &PagingDomain) -> Option<usize> {
        let position = domain.place().position();
        let found = self.0.get(position)?;

        found.ptr_eq(domain).then_some(position)
    }

    /// Returns whether `domain` is in the list.
    pub(super) fn has(&self, domain: &PagingDomain) -> bool {
        self.position(domain).is_some()
    }

    /// Reserves memory for one more domain.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn reserve(&mut self) -> Result {
        Ok(self.0.reserve(1, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?)
    }

    /// Adds a domain, which is in no list, at the end of this one.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`] if no memory was [reserved](Self::reserve).
    pub(super) fn add(&mut self, domain: Arc<PagingDomain>) -> Result {
        // INVARIANT: It is appended at this position.
        domain.place().set_position(self.0.len());
        self.0.push_within_capacity(domain).map_err(|_| ENOMEM)
    }

    /// Removes a domain, and moves the last one to its position. Allocates nothing.
    pub(super) fn remove(&mut self, domain: &PagingDomain) -> Option<Removed> {
        let position = self.position(domain)?;

        if let Some(end) = self.0.len().checked_sub(1) {
            self.0.swap(position, end);
        }
        let removed = self.0.pop();
        if let Some(moved) = self.0.get(position) {
            // INVARIANT: The last one was moved to this position.
            moved.place().set_position(position);
        }
        Some(Removed {
            _domain: removed,
            _memory: self.0.is_empty().then(|| take(&mut self.0)),
        })
    }
}

impl Deref for DomainList {
    type Target = [Arc<PagingDomain>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_domain_list)]
mod tests {
    use super::*;
    use crate::sys::test_domain;
    use kernel::page::PAGE_SIZE;

    #[test]
    fn alignments() -> Result {
        let mut alignments = Alignments::new();

        assert_eq!(alignments.greatest(), 1);
        // The alignment of a domain without page sizes is 0.
        for alignment in [0, 1, 512, PAGE_SIZE, PAGE_SIZE] {
            let memory = alignments.prepare(alignment)?;

            alignments.add(alignment, memory);
            assert_eq!(alignments.greatest(), alignment.max(1));
        }
        for (alignment, left) in [(PAGE_SIZE, PAGE_SIZE), (1, PAGE_SIZE), (PAGE_SIZE, 512)] {
            alignments.remove(alignment);
            assert_eq!(alignments.greatest(), left);
        }
        alignments.remove(512);
        alignments.remove(0);
        assert!(alignments.greatest() == 1 && alignments.0.is_empty());
        Ok(())
    }

    #[test]
    fn places_follow_the_domains() -> Result {
        const COUNT: usize = 64;
        let mut list = DomainList::new();
        let mut domains = KVec::new();

        for _ in 0..COUNT {
            domains.push(test_domain::new()?, GFP_KERNEL)?;
        }
        // Some domains stay in the list between rounds, in an order that differs.
        for round in [1, 7, 29, 63] {
            for domain in &domains {
                assert!(list.has(domain) == list.iter().any(|other| other.ptr_eq(domain)));
                if !list.has(domain) {
                    list.reserve()?;
                    list.add(domain.clone())?;
                }
                assert!(list.has(domain));
            }
            assert_eq!(list.len(), COUNT);

            for n in (0..COUNT).filter(|n| n % 5 != round % 5) {
                let domain = &domains[n * round % COUNT];

                assert!(list.remove(domain).is_some());
                assert!(!list.has(domain) && list.remove(domain).is_none());
                assert!(list.iter().all(|other| !other.ptr_eq(domain)));
                assert!(list.iter().all(|other| list.has(other)));
            }
        }
        for domain in &domains {
            list.remove(domain);
        }
        assert!(list.is_empty() && list.0.capacity() == 0);
        Ok(())
    }
}
