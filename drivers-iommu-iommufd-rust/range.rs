// SPDX-License-Identifier: GPL-2.0

//! Closed ranges of IOVAs and of page indexes, and runs of page frames.
//!
//! An IOVA can be [`usize::MAX`], so that neither the end nor the length of a range of IOVAs need
//! be a number. Both kinds of ranges therefore are closed (`last` is in the range) and never empty,
//! and code that walks them steps by checked operations: "one past the last" is not written.
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
    /// All there are.
    pub(crate) const ALL: Self = Self {
        start: 0,
        last: usize::MAX,
    };

    /// The range from `start` to `last`, both included, unless they are in the wrong order.
    #[inline]
    pub(crate) const fn new(start: usize, last: usize) -> Option<Self> {
        if start <= last {
            Some(Self { start, last })
        } else {
            None
        }
    }

    /// The `len` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is zero, `EOVERFLOW` if there are not so many bytes after `start`.
    #[inline]
    pub(crate) fn from_len(start: usize, len: usize) -> Result<Self> {
        let tail = len.checked_sub(1).ok_or(EINVAL)?;
        let last = start.checked_add(tail).ok_or(EOVERFLOW)?;

        Ok(Self { start, last })
    }

    /// The number of bytes; `None` for [`IovaRange::ALL`], which has one more than a `usize` holds.
    #[inline]
    pub(crate) const fn len(self) -> Option<usize> {
        (self.last - self.start).checked_add(1)
    }

    /// Whether `iova` is in the range.
    #[inline]
    pub(crate) const fn contains(self, iova: usize) -> bool {
        self.start <= iova && iova <= self.last
    }

    /// Whether all of `other` is in this range.
    #[inline]
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// What is left of this range behind `last`, if anything.
    #[inline]
    pub(crate) fn after(self, last: usize) -> Option<Self> {
        Self::new(self.start.max(last.checked_add(1)?), self.last)
    }
}

/// The pages from number `first` to number `last` of a linear array, both included.
///
/// Pages are counted in `usize`, and their bytes too: an index is never greater than
/// [`PageRange::MAX_INDEX`], which is far from overflow, so that the length is always a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRange {
    /// The index of the first page.
    pub(crate) first: usize,
    /// The index of the last page; not less than `first`.
    pub(crate) last: usize,
}

impl PageRange {
    /// The index of the page whose last byte is the last that a `usize` can name.
    pub(crate) const MAX_INDEX: usize = usize::MAX / PAGE_SIZE;

    /// The range from `first` to `last`, both included, unless they are in the wrong order or
    /// greater than [`PageRange::MAX_INDEX`].
    #[inline]
    pub(crate) const fn new(first: usize, last: usize) -> Option<Self> {
        if first <= last && last <= Self::MAX_INDEX {
            Some(Self { first, last })
        } else {
            None
        }
    }

    /// The pages that hold the `len` bytes from byte `start` on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `len` is zero, `EOVERFLOW` if there are not so many bytes after `start`.
    #[inline]
    pub(crate) fn of_bytes(start: usize, len: usize) -> Result<Self> {
        let bytes = IovaRange::from_len(start, len)?;

        Ok(Self {
            first: bytes.start / PAGE_SIZE,
            last: bytes.last / PAGE_SIZE,
        })
    }

    /// The number of pages.
    #[inline]
    pub(crate) const fn len(self) -> usize {
        // Saturation is out of reach, see the type's documentation; fields are public, though.
        (self.last - self.first).saturating_add(1)
    }

    /// Whether page number `index` is in the range.
    #[inline]
    pub(crate) const fn contains(self, index: usize) -> bool {
        self.first <= index && index <= self.last
    }

    /// Whether all of `other` is in this range.
    #[inline]
    pub(crate) const fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// The `len` page frames from `pfn` on. `len` is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first page frame.
    pub(crate) pfn: usize,
    /// The number of page frames.
    pub(crate) len: usize,
}

impl Run {
    /// Whether `next` is the continuation of this run.
    #[inline]
    pub(crate) const fn is_followed_by(self, next: Run) -> bool {
        self.pfn.wrapping_add(self.len) == next.pfn
    }

    /// Appends `next` if it is the continuation of this run, and tells whether it is.
    #[inline]
    pub(crate) fn try_append(&mut self, next: Run) -> bool {
        let follows = self.is_followed_by(next);

        if follows {
            self.len = self.len.wrapping_add(next.len);
        }
        follows
    }

    /// The part of the run that begins with its page number `skip`, at most `most` pages long.
    ///
    /// The run must have a page of that number, and `most` not be zero.
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

    /// Positions around which arithmetic goes wrong.
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

                // A range has no holes: it covers what it has both ends of.
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
