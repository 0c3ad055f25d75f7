// SPDX-License-Identifier: GPL-2.0

//! Choice of an IOVA: first fit.
//!
//! The result is visible to user space and the same as that of the C driver, including these
//! details:
//!
//! - The first and the last page of the space are never chosen.
//! - The IOVA is aligned to the length, rounded up to a power of two, but at most to the alignment
//!   of the memory and to a huge page, so that huge pages can be used.
//! - The page offset of the memory is or-ed into the aligned start of the window and of the hole.
//!   Bits below the page size that are set there already stay set.
//! - A free range of one byte is not used.
//!
//! Pure: no locks. The trees must not change during the search.
#![forbid(unsafe_code)]

use crate::{
    range::IovaRange,
    sys::task::go_on, //
};
use kernel::{
    gap_tree::GapTree,
    interval_tree::{
        IntervalTree,
        Span, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

/// The range of IOVAs that can be chosen.
const WINDOW: IovaRange = IovaRange {
    start: PAGE_SIZE,
    last: usize::MAX - PAGE_SIZE,
};

/// The greatest useful alignment.
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
const MAX_ALIGNMENT: usize = 1 << kernel::bindings::IOMMUFD_HPAGE_SHIFT;
#[cfg(not(CONFIG_TRANSPARENT_HUGEPAGE))]
const MAX_ALIGNMENT: usize = PAGE_SIZE;

/// A request for IOVA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// Bytes, not zero.
    len: usize,
    /// A power of two.
    alignment: usize,
    /// Less than [`PAGE_SIZE`].
    page_offset: usize,
}

impl Request {
    /// Creates a request for `len` bytes, for memory at `address` of its process or file. The IOVA
    /// is to be aligned to `required` at least, a power of two.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` if `len` is zero or about half of the space or more, `EINVAL` if the memory, or
    /// its length, is not aligned as required.
    pub(super) fn new(address: usize, len: usize, required: usize) -> Result<Self> {
        if len == 0 || len >= usize::MAX / 2 {
            return Err(EOVERFLOW);
        }

        // Cannot overflow, see above.
        let mut alignment = len.next_power_of_two().min(MAX_ALIGNMENT);
        if address != 0 {
            alignment = alignment.min(1 << address.trailing_zeros());
        }
        if alignment < required {
            return Err(EINVAL);
        }
        Ok(Self {
            len,
            alignment,
            page_offset: address % PAGE_SIZE,
        })
    }

    /// Returns the first start in `range` with enough room behind it.
    fn place(&self, range: IovaRange) -> Option<usize> {
        let mask = self.alignment - 1;
        let start = (range.start.checked_add(mask)? & !mask) | self.page_offset;

        (start < range.last && range.last - start >= self.len - 1).then_some(start)
    }

    /// Searches the holes of each window, and returns the first start that fits.
    ///
    /// # Errors
    ///
    /// As [`Self::first_fit`].
    fn search<H: Iterator<Item = IovaRange>>(
        &self,
        windows: impl Iterator<Item = IovaRange>,
        mut holes_of: impl FnMut(IovaRange) -> H,
    ) -> Result<usize> {
        for window in windows {
            go_on()?;
            let Some(start) = self.place(window) else {
                continue;
            };
            for hole in holes_of(IovaRange { start, ..window }) {
                if let Some(iova) = self.place(hole) {
                    return Ok(iova);
                }
                go_on()?;
            }
        }
        Err(ENOSPC)
    }

    /// Finds the lowest IOVA at which the request intersects neither `reserved` nor `used`, and is
    /// within contiguous ranges of `allowed`, if there are any.
    ///
    /// Gaps shorter than the request cost nothing. A gap that is long enough but has no aligned
    /// start with enough room behind it costs `O(log n)`, and so does a window that is too small.
    ///
    /// # Errors
    ///
    /// `ENOSPC`, or `EINTR` if the current task is being killed.
    pub(super) fn first_fit<T, U, V>(
        &self,
        allowed: &IntervalTree<T>,
        reserved: &IntervalTree<U>,
        used: &GapTree<V>,
    ) -> Result<usize> {
        // Only gaps that are long enough are visited.
        let holes_of = |window: IovaRange| {
            let gaps = used.gaps(window.start, window.last, self.len);

            gaps.flat_map(|(start, last)| reserved.spans(start, last))
                .filter_map(|Span { start, last, used }| {
                    (!used).then_some(IovaRange { start, last })
                })
        };
        if allowed.is_empty() {
            self.search(core::iter::once(WINDOW), holes_of)
        } else {
            let windows = allowed
                .spans(WINDOW.start, WINDOW.last)
                .filter_map(|Span { start, last, used }| used.then_some(IovaRange { start, last }));

            self.search(windows, holes_of)
        }
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_fit)]
mod tests {
    use super::*;
    use kernel::{
        gap_tree,
        interval_tree::Node, //
    };

    type Ranges<'a> = &'a [(usize, usize)];

    fn tree(ranges: Ranges<'_>) -> Result<IntervalTree<()>> {
        let mut tree = IntervalTree::new();

        for &(start, last) in ranges {
            tree.insert(Node::new(start, last, (), GFP_KERNEL)?);
        }
        Ok(tree)
    }

    fn gap_tree(ranges: Ranges<'_>) -> Result<GapTree<()>> {
        let mut tree = GapTree::new();

        for &(start, last) in ranges {
            let node = gap_tree::Node::new(start, last, (), GFP_KERNEL)?;
            tree.insert(node).map_err(|_| EEXIST)?;
        }
        Ok(tree)
    }

    fn fit(
        (address, len): (usize, usize),
        allowed: Ranges<'_>,
        reserved: Ranges<'_>,
        used: Ranges<'_>,
    ) -> Result<usize> {
        Request::new(address, len, 1)?.first_fit(
            &tree(allowed)?,
            &tree(reserved)?,
            &gap_tree(used)?,
        )
    }

    /// Aligning a start at the top of the space does not wrap to its bottom.
    #[test]
    fn alignment_does_not_wrap() {
        let last = usize::MAX - PAGE_SIZE;

        for alignment in [2 * PAGE_SIZE, 1 << 21, 1 << 30] {
            let request = Request {
                len: PAGE_SIZE,
                alignment,
                page_offset: 0,
            };
            assert_eq!(request.place(IovaRange { start: last, last }), None);
            let start = usize::MAX - alignment + 2;
            assert_eq!(request.place(IovaRange { start, last }), None);
        }
    }

    #[test]
    fn requests_that_cannot_be_met() {
        let error = |address, len, required| Request::new(address, len, required).err();

        for len in [0, usize::MAX / 2, usize::MAX / 2 + 1, usize::MAX] {
            assert_eq!(error(0, len, 1), Some(EOVERFLOW));
        }
        assert_eq!(error(0, usize::MAX / 2 - 1, 1), None);
        assert_eq!(error(0, PAGE_SIZE, PAGE_SIZE), None);
        assert_eq!(error(0, PAGE_SIZE / 2, PAGE_SIZE), Some(EINVAL));
        assert_eq!(error(PAGE_SIZE / 2, PAGE_SIZE, PAGE_SIZE), Some(EINVAL));
    }

    #[test]
    fn alignment_follows_length_and_address() {
        let alignment = |address, len| Request::new(address, len, 1).map(|r| r.alignment);

        assert_eq!(alignment(0, 1), Ok(1));
        assert_eq!(alignment(0, PAGE_SIZE + 1), Ok(2 * PAGE_SIZE));
        assert_eq!(alignment(0, usize::MAX / 2 - 1), Ok(MAX_ALIGNMENT));
        assert_eq!(alignment(3 * PAGE_SIZE, 4 * PAGE_SIZE), Ok(PAGE_SIZE));
        assert_eq!(alignment(512, PAGE_SIZE), Ok(512));
        assert_eq!(alignment(usize::MAX, PAGE_SIZE), Ok(1));
        assert_eq!(alignment(1 << 63, 64 * MAX_ALIGNMENT), Ok(MAX_ALIGNMENT));
    }

    #[test]
    fn the_ends_of_the_space_are_not_given_out() {
        assert_eq!(fit((0, PAGE_SIZE), &[], &[], &[]), Ok(PAGE_SIZE));
        // Everything but the last pages is in use.
        let last_page = usize::MAX - PAGE_SIZE + 1;
        assert_eq!(
            fit((0, PAGE_SIZE), &[], &[(0, last_page - 1)], &[]),
            Err(ENOSPC)
        );
        assert_eq!(
            fit((0, PAGE_SIZE), &[], &[], &[(0, last_page - PAGE_SIZE - 1)]),
            Ok(last_page - PAGE_SIZE)
        );
        assert_eq!(
            fit((0, PAGE_SIZE), &[(last_page, usize::MAX)], &[], &[]),
            Err(ENOSPC)
        );
    }

    #[test]
    fn first_of_the_holes() {
        let page = |n: usize| n * PAGE_SIZE;
        let pages = |first: usize, last: usize| (page(first), page(last) + (PAGE_SIZE - 1));

        // Page 3 is too small for two, 5 and 6 are not aligned to two, 8 and 9 will do.
        let (reserved, used) = ([pages(0, 2), pages(7, 7)], [pages(4, 4)]);
        assert_eq!(fit((0, page(2)), &[], &reserved, &used), Ok(page(8)));
        assert_eq!(fit((page(1), page(2)), &[], &reserved, &used), Ok(page(5)));
        assert_eq!(fit((0, page(1)), &[], &reserved, &used), Ok(page(3)));
        // Allowed ranges that touch are one.
        let allowed = [pages(3, 5), pages(6, 6), pages(20, 30)];
        assert_eq!(
            fit((page(1), page(2)), &allowed, &reserved, &used),
            Ok(page(5))
        );
        assert_eq!(fit((0, page(2)), &allowed, &reserved, &used), Ok(page(20)));
    }

    #[test]
    fn offsets_are_merged_into_the_start() {
        assert_eq!(fit((512, PAGE_SIZE), &[], &[], &[]), Ok(PAGE_SIZE + 512));
        assert_eq!(
            fit(
                (PAGE_SIZE + 512, 512),
                &[],
                &[],
                &[(PAGE_SIZE, PAGE_SIZE + 1023)]
            ),
            Ok(PAGE_SIZE + 512 + 1024)
        );
        assert_eq!(
            fit(
                (3 * 512, 512),
                &[],
                &[],
                &[(PAGE_SIZE, PAGE_SIZE + 3 * 512)]
            ),
            Ok(PAGE_SIZE + 7 * 512)
        );
    }

    #[test]
    fn one_byte_is_no_hole() {
        assert_eq!(
            fit((0, 1), &[(5 * PAGE_SIZE, 5 * PAGE_SIZE)], &[], &[]),
            Err(ENOSPC)
        );
        assert_eq!(
            fit((0, 1), &[(5 * PAGE_SIZE, 5 * PAGE_SIZE + 1)], &[], &[]),
            Ok(5 * PAGE_SIZE)
        );
    }

    /// Whole pages that start at a page, in a space of a few pages: try each.
    #[test]
    fn whole_pages_are_where_the_model_puts_them() -> Result {
        const PAGES: usize = 24;
        let mut seed: u32 = 0x9e37_79b9;

        for round in 0..300_usize {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            let (taken, len) = (seed as usize, 1 + round % 5);
            let is_free = |page: usize| taken >> page & 1 == 0;

            let end = (PAGES * PAGE_SIZE, usize::MAX);
            let mut taken_ranges = KVec::new();
            for page in (0..PAGES).filter(|&page| !is_free(page)) {
                let start = page * PAGE_SIZE;
                taken_ranges.push((start, start + (PAGE_SIZE - 1)), GFP_KERNEL)?;
            }
            taken_ranges.push(end, GFP_KERNEL)?;

            let step = len.next_power_of_two();
            let model = (1..PAGES)
                .filter(|start| start % step == 0 && start + len <= PAGES)
                .find(|&start| (start..start + len).all(is_free));
            // Every other range is reserved, or all are, or none.
            let split = [round % 2, 2, 3].map(|kind| {
                let is_reserved = |n: usize| kind == 2 || n % 2 == kind;
                let pick = |reserved: bool| {
                    let mut ranges = KVec::new();
                    for (n, range) in taken_ranges.iter().enumerate() {
                        if is_reserved(n) == reserved {
                            ranges.push(*range, GFP_KERNEL)?;
                        }
                    }
                    Ok::<_, Error>(ranges)
                };
                Ok::<_, Error>((tree(&pick(true)?)?, gap_tree(&pick(false)?)?))
            });
            let request = Request::new(0, len * PAGE_SIZE, 1)?;
            let expected = model.map(|page| page * PAGE_SIZE).ok_or(ENOSPC);

            for case in split {
                let (reserved, used) = case?;
                let found = request.first_fit(&IntervalTree::<()>::new(), &reserved, &used);
                assert_eq!(found, expected);
            }
        }
        Ok(())
    }

    /// Single positions of the last 64 that there are come and go; each time, all gaps are
    /// compared.
    #[test]
    fn gaps_are_those_of_the_model() -> Result {
        const BASE: usize = usize::MAX - 63;
        let mut tree = GapTree::new();
        let (mut taken, mut seed) = (0_u64, 0x853c_49e6_748f_ea9b_u64);

        for _ in 0..600 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let (at, window, more) = (seed as usize % 64, seed >> 8, (seed >> 20) as usize % 4);

            let iova = BASE + at;
            if tree.remove_first(iova, iova).is_none() {
                let node = gap_tree::Node::new(iova, iova, (), GFP_KERNEL)?;
                assert!(tree.insert(node).is_ok());
            }
            taken ^= 1 << at;
            assert_eq!(tree.first(iova, iova).is_some(), taken >> at & 1 == 1);

            let (from, to) = (window as usize % 64, (window >> 6) as usize % 64);
            let mut gaps = tree.gaps(BASE + from, BASE + to, more + 1);
            let is_free = |n: &usize| taken >> n & 1 == 0;
            let mut next = from;
            while let Some(start) = (next..=to).find(is_free) {
                let end = (start..=to).take_while(is_free).last().unwrap_or(start);
                next = end + 1;
                if end - start >= more {
                    assert_eq!(gaps.next(), Some((BASE + start, BASE + end)));
                }
            }
            assert_eq!(gaps.next(), None);
        }
        Ok(())
    }

    /// Neighbours are taken out at once, and half of them put back in. Nothing is lost, and what
    /// was taken and what is left are trees as good as any.
    #[test]
    fn neighbours_are_taken_as_if_one_by_one() -> Result {
        let mut tree = GapTree::new();
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) as usize % n as usize
        };
        let all = |tree: &GapTree<()>| -> Result<KVec<usize>> {
            let mut starts = KVec::new();
            for node in tree.iter(0, usize::MAX) {
                starts.push(node.start(), GFP_KERNEL)?;
            }
            Ok(starts)
        };

        for round in 0..300 {
            // Sometimes there are few, and sometimes the tree is a lean one.
            for n in 0..random(if round % 3 == 0 { 8 } else { 120 }) {
                let start = if round % 5 == 0 { n } else { random(200) } * 16 + random(8);
                let node = gap_tree::Node::new(start, start + random(8), (), GFP_KERNEL)?;
                let _ = tree.insert(node);
            }
            assert!(tree.is_sound());

            let (start, last) = (random(3200), random(3200));
            let before = all(&tree)?;
            let mut inside = KVec::new();
            for node in tree.iter(start, last) {
                inside.push(node.start(), GFP_KERNEL)?;
            }
            let taken = tree.take(start, last);
            assert!(taken.is_sound() && tree.is_sound());
            assert!(all(&taken)?[..] == inside[..]);
            let outside = before.iter().filter(|at| !inside.contains(at));
            assert!(all(&tree)?.iter().eq(outside));

            for (n, node) in taken.into_iter().enumerate() {
                assert_eq!(node.start(), inside[n]);
                if random(2) == 0 {
                    assert!(tree.insert(node).is_ok());
                }
            }
            assert!(tree.is_sound());
        }
        Ok(())
    }
}
