// SPDX-License-Identifier: GPL-2.0

//! The holders of pages.
//!
//! Each index of an array of pages has any number of holders: in-kernel accesses, and areas that
//! are mapped in domains. Whenever the mutex is free, an index is pinned if and only if it has a
//! holder. While it is held, an operation can own further pins, of pages that it is about to store
//! or has just removed. Every holder has the PFN. Accesses come first, as they have it in memory.
//!
//! Locks: the trees are protected by the mutex of their pages.
#![forbid(unsafe_code)]

use super::{
    record::{
        Key,
        Record,
        Records, //
    },
    run::{
        Run,
        RunList, //
    }, //
};
use crate::range::PageRange;
use kernel::interval_tree::IntervalTree;

/// The holders of the indexes of an array of pages.
pub(super) struct Tiers {
    /// In-kernel accesses. They can overlap.
    pub(super) accesses: IntervalTree<Access>,
    /// Areas that at least one domain maps.
    pub(super) records: Records,
}

/// A range of indexes that is pinned for [CPU access](super::cpu_access). The range is that of
/// `runs` and that of the node.
pub(super) struct Access {
    /// The number of times that it was pinned.
    pub(super) users: usize,
    /// The PFNs.
    pub(super) runs: RunList,
}

/// A holder of an index.
pub(super) enum Holder<'a> {
    /// An access, and possibly a domain, too.
    Access(&'a RunList),
    /// A domain only.
    Domain(&'a Record),
    /// Nobody: it is not pinned.
    Nobody,
}

impl<'a> Holder<'a> {
    /// Returns the PFNs, if the holder has them in memory.
    #[inline]
    pub(super) fn known(&self) -> Option<&'a RunList> {
        match self {
            Self::Access(runs) => Some(runs),
            Self::Domain(record) => record.known(),
            Self::Nobody => None,
        }
    }
}

impl Tiers {
    pub(super) const fn new() -> Self {
        Self {
            accesses: IntervalTree::new(),
            records: Records::new(),
        }
    }

    /// Returns whether there is no holder at all.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.accesses.is_empty() && self.records.is_empty()
    }

    /// Returns the PFNs of the area that has `key`, if they are one run and have no other holder.
    #[inline]
    pub(super) fn only_run_of(&self, key: &Key) -> Option<Run> {
        if !self.accesses.is_empty() {
            return None;
        }
        self.records.only_run_of(key)
    }

    /// Returns a holder of the first index of `range`, and the last index of `range` up to which it
    /// is the holder. (The next span can have the same holder.)
    #[inline]
    pub(super) fn holder(&self, range: PageRange) -> (Holder<'_>, usize) {
        let mut last = range.last;

        if let Some(node) = self.accesses.first(range.first, last) {
            match before(node.start(), range.first) {
                None => return (Holder::Access(&node.value().runs), last.min(node.last())),
                Some(hole_last) => last = hole_last,
            }
        }
        if let Some((pages, record)) = self.records.first(range.first, last) {
            match before(pages.first, range.first) {
                None => return (Holder::Domain(record), last.min(pages.last)),
                Some(hole_last) => last = hole_last,
            }
        }
        (Holder::Nobody, last)
    }

    /// Calls `f` with each span of `range` that has no holder.
    #[inline]
    pub(super) fn for_each_unheld(&self, range: PageRange, mut f: impl FnMut(PageRange)) {
        let mut rest = Some(range);

        while let Some(range) = rest {
            let (holder, last) = self.holder(range);

            if let Holder::Nobody = holder {
                f(PageRange {
                    first: range.first,
                    last,
                });
            }
            rest = PageRange::new(last.wrapping_add(1), range.last);
        }
    }

    /// Returns whether each index of `range` has a holder.
    pub(super) fn all_held(&self, range: PageRange) -> bool {
        let mut all = true;

        if self.is_empty() {
            return false;
        }
        self.for_each_unheld(range, |_| all = false);
        all
    }
}

/// Returns the last index before a holder that starts at `start`, if `first` is before it; [`None`]
/// if `first` is in it. The holder ends at `first` or later.
#[inline]
fn before(start: usize, first: usize) -> Option<usize> {
    (first < start).then(|| start - 1)
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(iommufd_tiers)]
mod tests {
    use super::*;
    use crate::pages::run::Random;
    use kernel::{
        interval_tree::Node,
        prelude::*, //
    };

    const INDEXES: usize = 40;

    /// Creates random accesses, and a model: the number of holders of each index.
    fn random_tiers(random: &mut Random, count: usize) -> Result<(Tiers, [usize; INDEXES])> {
        let mut tiers = Tiers::new();
        let mut held = [0; INDEXES];

        for _ in 0..count {
            let first = random.below(INDEXES);
            let last = (first + random.below(6)).min(INDEXES - 1);
            let access = Access {
                users: 1,
                runs: RunList::new(first),
            };
            let node = Node::new(first, last, access, GFP_KERNEL)?;

            tiers.accesses.insert(node);
            held.iter_mut()
                .take(last + 1)
                .skip(first)
                .for_each(|n| *n += 1);
        }
        Ok((tiers, held))
    }

    #[test]
    fn unheld_spans_are_those_of_the_model() -> Result {
        let mut random = Random::new(3);

        for count in 0..30 {
            let (tiers, held) = random_tiers(&mut random, count)?;

            assert_eq!(tiers.is_empty(), count == 0);
            for first in 0..INDEXES {
                for last in first..INDEXES {
                    let range = PageRange { first, last };
                    let mut seen = [false; INDEXES];
                    let mut next = first;

                    tiers.for_each_unheld(range, |span| {
                        // In order, without overlap, within the range.
                        assert!(next <= span.first && span.first <= span.last);
                        assert!(span.last <= last);
                        next = span.last + 1;
                        seen.iter_mut()
                            .take(next)
                            .skip(span.first)
                            .for_each(|s| *s = true);
                    });
                    for index in first..=last {
                        assert_eq!(seen[index], held[index] == 0);
                    }
                    let all = held[first..=last].iter().all(|&n| n != 0);
                    assert_eq!(tiers.all_held(range), all);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_holder_has_the_first_index() -> Result {
        let mut random = Random::new(4);

        for count in 0..30 {
            let (tiers, held) = random_tiers(&mut random, count)?;

            for first in 0..INDEXES {
                let range = PageRange {
                    first,
                    last: INDEXES - 1,
                };
                let (holder, last) = tiers.holder(range);
                let is_held = matches!(holder, Holder::Access(_));

                assert!(range.contains(last));
                assert!(held[first..=last].iter().all(|&n| (n != 0) == is_held));
            }
        }
        Ok(())
    }
}
