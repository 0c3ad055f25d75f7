// SPDX-License-Identifier: GPL-2.0

//! Closed ranges of IOVAs and of page indexes, and runs of page frames.
//!
//! An IOVA can be [`usize::MAX`], so neither the open end nor the length of a range of IOVAs need
//! fit into a `usize`. Both kinds of ranges are therefore closed (`last` is in the range) and never
//! empty, and code that walks them uses checked operations instead of `last + 1`.
//!
//! Pure: no locks, no kernel state.
#![forbid(unsafe_code)]

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The bytes of I/O virtual address space from `start` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IovaRange {
    /// The first byte.
    pub(crate) start: usize,
    /// The last byte; not less than `start`.
    pub(crate) last: usize,
}

impl IovaRange {
    /// The whole IOVA space.
    pub(crate) const ALL: Self = Self {
        start: 0,
        last: usize::MAX,
    };

    /// Returns the range from `start` to `last`, both inclusive; [`None`] if `last` is less.
    #[inline]
    pub(crate) const fn new(start: usize, last: usize) -> Option<Self> {
        if start <= last {
            Some(Self { start, last })
        } else {
            None
        }
    }

    /// Returns the range of the `len` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is zero, `EOVERFLOW` if the last byte does not fit into a `usize`.
    #[inline]
    pub(crate) fn from_len(start: usize, len: usize) -> Result<Self> {
        let tail = len.checked_sub(1).ok_or(EINVAL)?;
        let last = start.checked_add(tail).ok_or(EOVERFLOW)?;

        Ok(Self { start, last })
    }

    /// Returns the number of bytes; [`None`] for [`IovaRange::ALL`], where it is 2^64.
    #[inline]
    pub(crate) const fn len(self) -> Option<usize> {
        (self.last - self.start).checked_add(1)
    }

    /// Returns whether `iova` is in the range.
    #[inline]
    pub(crate) const fn contains(self, iova: usize) -> bool {
        self.start <= iova && iova <= self.last
    }

    /// Returns whether all of `other` is in this range.
    #[inline]
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// Returns the part of this range behind `last`, if there is one.
    #[inline]
    pub(crate) fn after(self, last: usize) -> Option<Self> {
        Self::new(self.start.max(last.checked_add(1)?), self.last)
    }
}

/// The pages from index `first` to index `last` of a linear array, both inclusive.
///
/// Bytes of the array fit into a `usize`, so an index is at most [`PageRange::MAX_INDEX`], and
/// `last + 1` and the length of a range do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    /// The index of the first page.
    pub(crate) first: usize,
    /// The index of the last page; not less than `first`.
    pub(crate) last: usize,
}

impl PageRange {
    /// The index of the page that contains byte `usize::MAX`.
    pub(crate) const MAX_INDEX: usize = usize::MAX / PAGE_SIZE;

    /// Returns the range from `first` to `last`, both inclusive; [`None`] if `last` is less, or
    /// greater than [`PageRange::MAX_INDEX`].
    #[inline]
    pub(crate) const fn new(first: usize, last: usize) -> Option<Self> {
        if first <= last && last <= Self::MAX_INDEX {
            Some(Self { first, last })
        } else {
            None
        }
    }

    /// Returns the pages of the `len` bytes from byte `start` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is zero, `EOVERFLOW` if the last byte does not fit into a `usize`.
    #[inline]
    pub(crate) fn of_bytes(start: usize, len: usize) -> Result<Self> {
        let bytes = IovaRange::from_len(start, len)?;

        Ok(Self {
            first: bytes.start / PAGE_SIZE,
            last: bytes.last / PAGE_SIZE,
        })
    }

    /// Returns the number of pages.
    #[inline]
    pub(crate) const fn len(self) -> usize {
        // Does not saturate, see the type's documentation. Fields are public, so do not panic.
        (self.last - self.first).saturating_add(1)
    }

    /// Returns whether page `index` is in the range.
    #[inline]
    pub(crate) const fn contains(self, index: usize) -> bool {
        self.first <= index && index <= self.last
    }

    /// Returns whether all of `other` is in this range.
    #[inline]
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// A run of `len` contiguous page frames from `pfn` on. `len` is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first page frame.
    pub(crate) pfn: usize,
    /// The number of page frames.
    pub(crate) len: usize,
}

impl Run {
    /// Returns whether `next` continues this run.
    #[inline]
    pub(crate) const fn is_followed_by(self, next: Run) -> bool {
        self.pfn.wrapping_add(self.len) == next.pfn
    }

    /// Appends `next` if it continues this run. Returns whether it does.
    #[inline]
    pub(crate) fn try_append(&mut self, next: Run) -> bool {
        let follows = self.is_followed_by(next);

        if follows {
            self.len = self.len.wrapping_add(next.len);
        }
        follows
    }

    /// Returns the part of the run behind the first `skip` pages, at most `most` pages long.
    ///
    /// `skip` is less than the length, and `most` is not zero.
    #[inline]
    pub(crate) fn part(self, skip: usize, most: usize) -> Self {
        debug_assert!(skip < self.len && most != 0);
        Self {
            pfn: self.pfn.wrapping_add(skip),
            len: self.len.saturating_sub(skip).min(most),
        }
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_range)]
mod tests {
    use super::*;

    /// Values at which arithmetic can overflow.
    pub(super) const EDGES: [usize; 9] = [
        0,
        1,
        PAGE_SIZE - 1,
        PAGE_SIZE,
        usize::MAX / 2,
        usize::MAX / 2 + 1,
        usize::MAX - PAGE_SIZE,
        usize::MAX - 1,
        usize::MAX,
    ];

    #[test]
    fn ranges_are_never_empty() {
        for start in EDGES {
            for last in EDGES {
                assert_eq!(IovaRange::new(start, last).is_some(), start <= last);
            }
            assert_eq!(IovaRange::from_len(start, 0), Err(EINVAL));
            assert_eq!(
                IovaRange::from_len(start, 1),
                Ok(IovaRange { start, last: start })
            );
        }
    }

    #[test]
    fn length_is_that_of_the_model() {
        for start in EDGES {
            for len in EDGES {
                // The model counts in twice as many bits.
                let last = start as u128 + len as u128 - u128::from(len != 0);
                let fits = last <= usize::MAX as u128;

                match IovaRange::from_len(start, len) {
                    Ok(range) => {
                        assert!(len != 0 && fits);
                        assert_eq!(range.last as u128, last);
                        assert_eq!(range.len(), Some(len));
                    }
                    Err(e) if e == EINVAL => assert_eq!(len, 0),
                    Err(e) => assert!(e == EOVERFLOW && !fits),
                }
            }
        }
        assert_eq!(IovaRange::ALL.len(), None);
    }

    #[test]
    fn relations_agree_with_each_other() {
        for (a, b) in EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b))) {
            for (c, d) in EDGES.into_iter().flat_map(|c| EDGES.map(|d| (c, d))) {
                let (Some(x), Some(y)) = (IovaRange::new(a, b), IovaRange::new(c, d)) else {
                    continue;
                };

                // A range covers another one if it contains both ends of it.
                assert_eq!(x.covers(y), x.contains(y.start) && x.contains(y.last));
                assert_eq!(x.covers(y) && y.covers(x), x == y);
            }
        }
    }

    #[test]
    fn what_is_after_the_last_byte() {
        assert_eq!(IovaRange::ALL.after(usize::MAX), None);
        assert_eq!(
            IovaRange::ALL.after(usize::MAX - 1),
            IovaRange::new(usize::MAX, usize::MAX)
        );
        let range = IovaRange { start: 5, last: 9 };
        assert_eq!(range.after(2), Some(range));
        assert_eq!(range.after(5), IovaRange::new(6, 9));
        assert_eq!(range.after(9), None);
    }

    #[test]
    fn pages_hold_their_bytes() {
        for start in EDGES {
            for len in EDGES {
                let Ok(pages) = PageRange::of_bytes(start, len) else {
                    continue;
                };

                assert!(PageRange::new(pages.first, pages.last).is_some());
                assert!(pages.contains(start / PAGE_SIZE));
                assert!(pages.contains((start + (len - 1)) / PAGE_SIZE));
                assert!(pages.len() >= len.div_ceil(PAGE_SIZE));
                assert!(pages.len() <= len.div_ceil(PAGE_SIZE).saturating_add(1));
            }
        }
        let all = PageRange::new(0, PageRange::MAX_INDEX);
        assert_eq!(all.map(PageRange::len), Some(PageRange::MAX_INDEX + 1));
        assert_eq!(PageRange::new(0, usize::MAX), None);
    }
}
