// SPDX-License-Identifier: GPL-2.0

//! The list of the domains of an IO page table, and who asks for which alignment.
//!
//! Each map and each unmap goes through all domains, so they are kept as a slice. User space can
//! make any number of them: the slice is not one `kmalloc()`, and a domain is found by its address,
//! without a search through the others.
#![forbid(unsafe_code)]

use crate::ffi::domain::PagingDomain;
use core::{
    mem::take,
    ops::Deref, //
};
use kernel::{
    page::PAGE_SHIFT,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::Arc, //
};

/// How many ask for which alignment, a power of two that is at most the size of a page. They are
/// objects or belong to one, so there are less than 2^32.
pub(super) struct Alignments([u32; PAGE_SHIFT + 1]);

impl Alignments {
    pub(super) const fn new() -> Self {
        Self([0; PAGE_SHIFT + 1])
    }

    fn count(&mut self, alignment: usize) -> Option<&mut u32> {
        // CAST: A logarithm.
        self.0.get_mut(alignment.max(1).ilog2() as usize)
    }

    pub(super) fn add(&mut self, alignment: usize) {
        if let Some(count) = self.count(alignment) {
            *count += 1;
        }
    }

    /// Undoes one [`Self::add`] of the same alignment.
    pub(super) fn remove(&mut self, alignment: usize) {
        if let Some(count) = self.count(alignment) {
            *count -= 1;
        }
    }

    /// The least alignment that suits all.
    pub(super) fn greatest(&self) -> usize {
        1 << self.0.iter().rposition(|&count| count != 0).unwrap_or(0)
    }
}

/// What is known of a domain in the list.
struct Place {
    position: usize,
    /// What it asked for when it was added.
    alignment: usize,
}

/// The domains of an IO page table.
///
/// # Invariants
///
/// `places` has an entry for each domain of `dense` and no others, by its address, and `position`
/// is where it is there. `alignments` is what the entries have.
pub(super) struct DomainList {
    dense: KVVec<Arc<PagingDomain>>,
    places: RBTree<usize, Place>,
    alignments: Alignments,
}

/// The memory for one more domain, besides what the list itself has.
pub(super) struct DomainMemory(RBTreeNodeReservation<usize, Place>);

/// A domain that has left the list, and what is to be freed with it, without locks.
pub(super) struct Removed {
    _domain: Option<Arc<PagingDomain>>,
    _memory: Option<KVVec<Arc<PagingDomain>>>,
}

/// The address of a domain.
fn key(domain: &PagingDomain) -> usize {
    domain.as_raw().addr()
}

impl DomainList {
    pub(super) fn new() -> Self {
        // INVARIANT: There are none.
        Self {
            dense: KVVec::new(),
            places: RBTree::new(),
            alignments: Alignments::new(),
        }
    }

    pub(super) fn has(&self, domain: &PagingDomain) -> bool {
        self.places.get(&key(domain)).is_some()
    }

    /// The least alignment that suits all.
    pub(super) fn alignment(&self) -> usize {
        self.alignments.greatest()
    }

    /// Makes room for one more.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn reserve(&mut self) -> Result<DomainMemory> {
        self.dense.reserve(1, GFP_KERNEL_ACCOUNT)?;
        Ok(DomainMemory(RBTreeNodeReservation::new(
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// Adds a domain, which is not in the list, at the end of it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], but not if `memory` is what [`Self::reserve`] returned and the list has not
    /// changed since.
    pub(super) fn add(&mut self, domain: Arc<PagingDomain>, memory: DomainMemory) -> Result {
        let (key, alignment) = (key(&domain), domain.min_page_size());
        let position = self.dense.len();

        self.dense
            .push_within_capacity(domain)
            .map_err(|_| ENOMEM)?;
        // INVARIANT: This is where it is.
        let place = Place {
            position,
            alignment,
        };
        self.places.insert(memory.0.into_node(key, place));
        self.alignments.add(alignment);
        Ok(())
    }

    /// Removes a domain. Another takes its place: the order does not matter. Needs no memory.
    pub(super) fn remove(&mut self, domain: &PagingDomain) -> Option<Removed> {
        let Place {
            position,
            alignment,
        } = self.places.remove(&key(domain))?;

        self.alignments.remove(alignment);
        if let Some(end) = self.dense.len().checked_sub(1) {
            self.dense.swap(position, end);
        }
        let removed = self.dense.pop();
        // INVARIANT: The last one is at `position` now, unless it was the one.
        let moved = self.dense.get(position).map(|domain| key(domain));
        if let Some(place) = moved.and_then(|key| self.places.get_mut(&key)) {
            place.position = position;
        }
        Some(Removed {
            _domain: removed,
            _memory: self.dense.is_empty().then(|| take(&mut self.dense)),
        })
    }
}

impl Deref for DomainList {
    type Target = [Arc<PagingDomain>];

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.dense
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_domain_list)]
mod tests {
    use super::*;
    use crate::ffi::test_domain;
    use kernel::page::PAGE_SIZE;

    #[test]
    fn alignments() {
        let mut alignments = Alignments::new();

        assert_eq!(alignments.greatest(), 1);
        // A domain without page sizes has no wish.
        for alignment in [0, 1, 512, PAGE_SIZE, PAGE_SIZE] {
            alignments.add(alignment);
            assert_eq!(alignments.greatest(), alignment.max(1));
        }
        for (alignment, left) in [(PAGE_SIZE, PAGE_SIZE), (1, PAGE_SIZE), (PAGE_SIZE, 512)] {
            alignments.remove(alignment);
            assert_eq!(alignments.greatest(), left);
        }
        alignments.remove(512);
        alignments.remove(0);
        assert_eq!(alignments.greatest(), 1);
    }

    #[test]
    fn places_follow_the_domains() -> Result {
        const COUNT: usize = 64;
        let mut list = DomainList::new();
        let mut domains = KVec::new();

        for _ in 0..COUNT {
            domains.push(test_domain::new()?, GFP_KERNEL)?;
        }
        // Of each round some stay, in an order that differs from round to round.
        for round in [1, 7, 29, 63] {
            for domain in &domains {
                assert!(list.has(domain) == list.iter().any(|other| other.ptr_eq(domain)));
                if !list.has(domain) {
                    let memory = list.reserve()?;
                    list.add(domain.clone(), memory)?;
                }
                assert!(list.has(domain));
            }
            assert_eq!((list.len(), list.alignment()), (COUNT, PAGE_SIZE));

            for n in (0..COUNT).filter(|n| n % 5 != round % 5) {
                let domain = &domains[n * round % COUNT];

                assert!(list.remove(domain).is_some());
                assert!(!list.has(domain) && list.remove(domain).is_none());
                assert!(list.iter().all(|other| !other.ptr_eq(domain)));
                for (position, other) in list.iter().enumerate() {
                    let place = list.places.get(&key(other)).ok_or(ENOENT)?;
                    assert_eq!(place.position, position);
                }
            }
        }
        for domain in &domains {
            list.remove(domain);
        }
        assert!(list.is_empty() && list.places.is_empty());
        assert_eq!((list.dense.capacity(), list.alignment()), (0, 1));
        Ok(())
    }
}
