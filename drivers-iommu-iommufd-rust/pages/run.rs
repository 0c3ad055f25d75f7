// SPDX-License-Identifier: GPL-2.0

//! Runs of page frames, the unit in which PFNs move, and lists of them.
//!
//! A [`Run`] is a number of physically contiguous pages. A [`RunList`] has the PFNs of a range of
//! page indexes, as runs. It needs no allocation for contiguous memory.
//!
//! These are plain numbers: neither a run nor a list owns pins. For the owners of pins see
//! [`super`].
//!
//! Pure: no locks, no kernel state.
#![forbid(unsafe_code)]

use crate::range::PageRange;
pub(crate) use crate::range::Run;
use core::ops::Range;
use kernel::{
    alloc::{
        AllocError,
        Flags, //
    },
    prelude::*, //
};

/// The start of a run of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    index: usize,
    pfn: usize,
}

/// The PFNs of the `len` page indexes from `head.index` on, as runs that are as long as possible.
///
/// # Invariants
///
/// With `tail` as [`RunList::tail()`] returns it, which is without the first `skip` pieces:
///
/// - `head` and `tail` are ordered by index, all indexes differ and are less than that of the first
///   page behind the list. Each piece extends to the index before that of the next one, the last
///   one to the end of the list. (If `len` is zero, then `tail` is empty and `head.pfn` means
///   nothing.)
/// - No piece continues the physical memory of the one before it.
/// - `tail` is [`None`] if there is one run at most.
pub(crate) struct RunList {
    head: Piece,
    /// A list has less than 2^32 pages (16 TiB): records are small.
    len: u32,
    /// The number of pieces of `tail` that were cut off the front, see [`RunList::split`].
    skip: u32,
    /// [`None`] until there is a second run: most lists allocate nothing, and cost nothing to drop.
    tail: Option<KVVec<Piece>>,
}

impl RunList {
    /// The capacity of the first allocation, in runs (240 bytes).
    const FIRST_RESERVE: usize = 15;

    /// Creates an empty list, for the indexes from `first` on.
    #[inline]
    pub(crate) const fn new(first: usize) -> Self {
        // INVARIANT: It is empty.
        Self {
            head: Piece {
                index: first,
                pfn: 0,
            },
            len: 0,
            skip: 0,
            tail: None,
        }
    }

    /// Creates a list of one run, from index `first` on; an empty list if the run is too long.
    #[inline]
    pub(crate) const fn of(first: usize, run: Run) -> Self {
        // INVARIANT: There is no other piece.
        Self {
            head: Piece {
                index: first,
                pfn: run.pfn,
            },
            len: if run.len > u32::MAX as usize {
                0
            } else {
                // CAST: As was just checked.
                run.len as u32
            },
            skip: 0,
            tail: None,
        }
    }

    /// Returns all runs but the first.
    #[inline]
    fn tail(&self) -> &[Piece] {
        match &self.tail {
            // By the type invariant `skip` is within `tail`.
            Some(tail) => tail.get(self.skip as usize..).unwrap_or(&[]),
            None => &[],
        }
    }

    /// Returns all PFNs, if they are one run.
    #[inline]
    pub(crate) fn only_run(&self) -> Option<Run> {
        (self.len != 0 && self.tail.is_none()).then_some(Run {
            pfn: self.head.pfn,
            len: self.len(),
        })
    }

    /// Returns the indexes of the list; [`None`] if it is empty.
    #[inline]
    pub(crate) fn range(&self) -> Option<PageRange> {
        Some(PageRange {
            first: self.head.index,
            last: self.head.index.wrapping_add(self.len().checked_sub(1)?),
        })
    }

    /// Returns the first index behind the list.
    #[inline]
    pub(crate) fn end(&self) -> usize {
        self.head.index.wrapping_add(self.len())
    }

    /// Returns the number of indexes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns the number of runs.
    #[inline]
    pub(crate) fn run_count(&self) -> usize {
        usize::from(self.len != 0) + self.tail().len()
    }

    /// Returns whether the list has all of `range`.
    #[inline]
    fn covers(&self, range: PageRange) -> bool {
        self.range().is_some_and(|own| own.covers(range))
    }

    /// Returns the part of a run from `index`, which is in the list, to the end of the run.
    #[inline]
    pub(crate) fn run_at(&self, index: usize) -> Run {
        debug_assert!(self.covers(PageRange {
            first: index,
            last: index
        }));
        self.run_from(self.piece_of(index), index)
    }

    /// Returns the number of the run that has `index`; the head is number zero.
    #[inline]
    fn piece_of(&self, index: usize) -> usize {
        let tail = self.tail();

        // Most callers ask for the start or the end of the list.
        if tail.first().is_none_or(|piece| index < piece.index) {
            return 0;
        }
        if tail.last().is_some_and(|piece| piece.index <= index) {
            return tail.len();
        }
        tail.partition_point(|piece| piece.index <= index)
    }

    /// Returns the part of run number `n` from `index`, which is in it, to its end.
    #[inline]
    fn run_from(&self, n: usize, index: usize) -> Run {
        let piece = match n.checked_sub(1).and_then(|n| self.tail().get(n)) {
            Some(piece) => *piece,
            None => self.head,
        };
        let end = self.tail().get(n).map_or(self.end(), |next| next.index);

        Run {
            pfn: piece.pfn.wrapping_add(index.wrapping_sub(piece.index)),
            len: end.wrapping_sub(index),
        }
    }

    /// Appends a run for the indexes that follow those of the list.
    ///
    /// # Errors
    ///
    /// Fails without memory, or if the list would have 2^32 pages; then nothing has changed. The
    /// first run needs no memory.
    #[inline]
    pub(crate) fn push(&mut self, run: Run, flags: Flags) -> Result<(), AllocError> {
        let len = u32::try_from(self.len().saturating_add(run.len)).map_err(|_| AllocError)?;

        if self.len == 0 {
            self.head.pfn = run.pfn;
        } else {
            let index = self.end();
            let last = self.tail().last().copied().unwrap_or(self.head);

            // INVARIANT: A continuation is not a piece of its own.
            if last.pfn.wrapping_add(index.wrapping_sub(last.index)) != run.pfn {
                let piece = Piece {
                    index,
                    pfn: run.pfn,
                };
                let tail = self.tail.as_mut();

                if tail.is_none_or(|tail| tail.push_within_capacity(piece).is_err()) {
                    self.push_growing(piece, flags)?;
                }
            }
        }
        self.len = len;
        Ok(())
    }

    /// Adds the start of a run when the vector is full.
    #[inline(never)]
    fn push_growing(&mut self, piece: Piece, flags: Flags) -> Result<(), AllocError> {
        if let Some(tail) = &mut self.tail {
            return tail.push(piece, flags);
        }
        // More than needed: fragmented memory mostly has many runs.
        let mut tail = KVVec::with_capacity(Self::FIRST_RESERVE, flags)?;

        tail.push(piece, flags)?;
        self.tail = Some(tail);
        Ok(())
    }

    /// Iterates over all runs and their first indexes.
    #[cfg(any(CONFIG_IOMMUFD_TEST, CONFIG_IOMMUFD_RUST_KUNIT_TEST))]
    #[inline]
    pub(crate) fn iter(&self) -> Runs<'_> {
        Runs {
            list: self,
            piece: 0,
            rest: self.range(),
        }
    }

    /// Iterates over the runs of `range`, which is within the list, and their first indexes.
    #[inline]
    pub(crate) fn iter_range(&self, range: PageRange) -> Runs<'_> {
        debug_assert!(self.covers(range));
        Runs {
            list: self,
            piece: self.piece_of(range.first),
            rest: Some(range),
        }
    }

    /// Returns a list of the PFNs of `range`, which is within this list.
    ///
    /// # Errors
    ///
    /// Fails without memory.
    pub(crate) fn slice(&self, range: PageRange, flags: Flags) -> Result<RunList, AllocError> {
        debug_assert!(self.covers(range));

        let (first, last) = (self.piece_of(range.first), self.piece_of(range.last));
        let mut slice = RunList::of(range.first, self.run_from(first, range.first));

        // INVARIANT: The pieces behind the first one, up to the one that contains the end.
        slice.len = u32::try_from(range.len()).map_err(|_| AllocError)?;
        slice.tail = copy(self.tail().get(first..last).unwrap_or(&[]), flags)?;
        Ok(slice)
    }

    /// Splits the list into `left`, the front, and `right`, the rest. They share a page if the
    /// split is within that page.
    ///
    /// The part with more runs keeps the memory, the runs of the other one are copied. So a run is
    /// copied only to a list of at most half the length: splitting a list of `n` runs into pieces
    /// copies each run `O(log n)` times. The capacity of a list is at most four times its runs,
    /// unless shrinking fails.
    ///
    /// If there is no memory for a copy, that part is an empty list.
    pub(crate) fn split(mut self, left: PageRange, right: PageRange, flags: Flags) -> (Self, Self) {
        debug_assert!(self.covers(left) && self.covers(right));
        debug_assert!(left.first == self.head.index && right.last.wrapping_add(1) == self.end());

        // The number of pieces of `tail` that begin in the left part, and the number of those that
        // do not begin in the right one.
        let (n, m) = (self.piece_of(left.last), self.piece_of(right.first));
        let right_head = Piece {
            index: right.first,
            pfn: self.run_from(m, right.first).pfn,
        };
        let runs = self.tail().len();
        let left_is_less = n < runs - m;
        let (less, (head, range), more, (more_head, more_range)) = if left_is_less {
            (0..n, (self.head, left), m..runs, (right_head, right))
        } else {
            (m..runs, (right_head, right), 0..n, (self.head, left))
        };

        // INVARIANT: Each part has the pieces that begin in it, behind the one that it begins in.
        // CAST: No part has more pages than the whole.
        let copied = match copy(self.tail().get(less).unwrap_or(&[]), flags) {
            Ok(tail) => Self {
                head,
                len: range.len() as u32,
                skip: 0,
                tail,
            },
            Err(AllocError) => Self::new(range.first),
        };
        self.keep_pieces(more, flags);
        self.head = more_head;
        self.len = more_range.len() as u32;

        if left_is_less {
            (copied, self)
        } else {
            (self, copied)
        }
    }

    /// Drops all pieces of `tail` but these. Shrinks the vector if it is mostly empty, if there is
    /// memory for that.
    fn keep_pieces(&mut self, pieces: Range<usize>, flags: Flags) {
        let Some(tail) = &mut self.tail else {
            return;
        };

        if pieces.is_empty() {
            self.skip = 0;
            self.tail = None;
            return;
        }
        tail.truncate(self.skip as usize + pieces.end);
        // CAST: No more than the pages of this list.
        self.skip += pieces.start as u32;
        if tail.capacity() > Self::FIRST_RESERVE && pieces.len() < tail.capacity() / 4 {
            if let Ok(tail) = copy(self.tail(), flags) {
                self.tail = tail;
                self.skip = 0;
            }
        }
    }

    /// Iterates over all PFNs. Faster than [`Self::iter`] for short runs.
    #[inline]
    pub(crate) fn pfns(&self) -> impl Iterator<Item = usize> + '_ {
        let mut tail = self.tail();
        let mut pfn = self.head.pfn.wrapping_sub(1);

        (self.head.index..self.end()).map(move |index| {
            pfn = pfn.wrapping_add(1);
            if let Some((piece, rest)) = tail.split_first() {
                if piece.index == index {
                    (pfn, tail) = (piece.pfn, rest);
                }
            }
            pfn
        })
    }

    /// Calls `f` with each run, in order. Faster than [`Self::iter`] for short runs.
    #[inline]
    pub(crate) fn for_each(&self, mut f: impl FnMut(Run)) {
        let mut piece = self.head;
        let mut tail = self.tail().iter();

        if self.len == 0 {
            return;
        }
        // A single call of `f`, so that it is inlined.
        loop {
            let next = tail.next();
            let end = next.map_or(self.end(), |next| next.index);

            f(Run {
                pfn: piece.pfn,
                len: end.wrapping_sub(piece.index),
            });
            match next {
                Some(next) => piece = *next,
                None => return,
            }
        }
    }
}

/// Copies pieces. Allocates nothing if there are none.
fn copy(pieces: &[Piece], flags: Flags) -> Result<Option<KVVec<Piece>>, AllocError> {
    if pieces.is_empty() {
        return Ok(None);
    }

    let mut copy = KVVec::with_capacity(pieces.len(), flags)?;
    copy.extend_from_slice(pieces, flags)?;
    Ok(Some(copy))
}

/// An iterator over the runs of a part of a [`RunList`].
pub(crate) struct Runs<'a> {
    list: &'a RunList,
    /// The number of the run in which `rest` begins.
    piece: usize,
    rest: Option<PageRange>,
}

impl Iterator for Runs<'_> {
    type Item = (usize, Run);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest?;
        let run = self
            .list
            .run_from(self.piece, rest.first)
            .part(0, rest.len());

        self.piece = self.piece.wrapping_add(1);
        self.rest = PageRange::new(rest.first.wrapping_add(run.len), rest.last);
        Some((rest.first, run))
    }
}

/// Pseudo-random numbers for tests, reproducible.
#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
pub(super) struct Random(u64);

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number less than `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_runs)]
mod tests {
    use super::*;

    const FIRST: usize = 1000;

    /// Makes a list of `len` indexes from random runs, and a model of it: one PFN per index.
    fn random_list(random: &mut Random, len: usize) -> Result<(RunList, KVec<usize>)> {
        let mut model = KVec::with_capacity(len, GFP_KERNEL)?;
        let mut list = RunList::new(FIRST);
        let mut pfn = 0;

        while model.len() < len {
            // Contiguous to the last run, behind it, or anywhere.
            pfn = match random.below(3) {
                0 => pfn,
                1 => pfn + 1 + random.below(50),
                _ => 10_000 + random.below(1000),
            };
            let run = Run {
                pfn,
                len: (1 + random.below(9)).min(len - model.len()),
            };
            list.push(run, GFP_KERNEL)?;
            for n in 0..run.len {
                model.push(run.pfn + n, GFP_KERNEL)?;
            }
            pfn += run.len;
        }
        Ok((list, model))
    }

    /// Checks that `list` has the PFNs of `model` for the indexes from `first` on, in runs that are
    /// as long as possible.
    fn assert_tells(list: &RunList, first: usize, model: &[usize]) {
        let range = PageRange {
            first,
            last: first + model.len() - 1,
        };
        let mut at = 0;
        let mut end = None;

        for (index, run) in list.iter_range(range) {
            assert_eq!(index, first + at);
            assert!(run.len != 0);
            // Otherwise it would be part of the last run.
            assert!(end != Some(run.pfn));
            for n in 0..run.len {
                assert_eq!(model.get(at + n).copied(), Some(run.pfn + n));
            }
            end = Some(run.pfn + run.len);
            at += run.len;
        }
        assert_eq!(at, model.len());
    }

    /// A run of one page frame.
    fn page(pfn: usize) -> Run {
        Run { pfn, len: 1 }
    }

    #[test]
    fn lists_tell_what_was_pushed() -> Result {
        let mut random = Random::new(1);

        for len in 1..100 {
            let (list, model) = random_list(&mut random, len)?;

            assert_eq!(list.len(), len);
            assert_eq!(list.iter().count(), list.run_count());
            assert_tells(&list, FIRST, &model);
            let mut runs = list.iter().map(|(_, run)| run);
            list.for_each(|run| assert_eq!(runs.next(), Some(run)));
            assert_eq!(runs.next(), None);
            assert!(list.pfns().eq(model.iter().copied()));
            for (n, pfn) in model.iter().enumerate() {
                let run = list.run_at(FIRST + n);

                assert_eq!(run.pfn, *pfn);
                // It extends to the first page that is not contiguous.
                let end = (n + 1..len)
                    .find(|&k| model[k] != pfn + (k - n))
                    .unwrap_or(len);
                assert_eq!(run.len, end - n);
            }
        }
        Ok(())
    }

    #[test]
    fn slices_tell_what_the_list_does() -> Result {
        let mut random = Random::new(2);
        let (list, model) = random_list(&mut random, 60)?;

        for from in 0..model.len() {
            for to in from..model.len() {
                let range = PageRange {
                    first: FIRST + from,
                    last: FIRST + to,
                };
                let slice = list.slice(range, GFP_KERNEL)?;

                assert_eq!(slice.range(), Some(range));
                assert_tells(&slice, FIRST + from, &model[from..=to]);
                assert_tells(&list, FIRST + from, &model[from..=to]);
            }
        }
        Ok(())
    }

    /// The parts of a list have its PFNs, in bounded memory.
    #[test]
    fn parts_tell_what_the_list_does() -> Result {
        let mut random = Random::new(11);

        for round in 0..60 {
            let len = 2 + random.below(300);
            let (list, model) = random_list(&mut random, len)?;
            let mut parts = KVec::with_capacity(50, GFP_KERNEL)?;
            parts.push(list, GFP_KERNEL)?;

            for _ in 0..40 {
                let n = match round % 3 {
                    // Split the front, the end, or any part.
                    0 => parts.len() - 1,
                    1 => 0,
                    _ => random.below(parts.len()),
                };
                let part = parts.remove(n).map_err(|_| EINVAL)?;
                let range = part.range().ok_or(EINVAL)?;
                if range.len() < 2 {
                    parts.insert_within_capacity(n, part).map_err(|_| EINVAL)?;
                    continue;
                }
                let cut = range.first
                    + match round % 3 {
                        0 => random.below(range.len().min(8) - 1),
                        1 => range.len() - 2 - random.below(range.len().min(8) - 1),
                        _ => random.below(range.len() - 1),
                    };
                // Sometimes a page is in both parts.
                let shared = usize::from(random.below(4) != 0);
                let left = PageRange { last: cut, ..range };
                let right = PageRange {
                    first: cut + shared,
                    ..range
                };
                if shared == 0 {
                    let (left, right) = part.split(left, right, GFP_KERNEL);
                    for part in [left, right] {
                        let range = part.range().ok_or(EINVAL)?;
                        let (from, to) = (range.first - FIRST, range.last - FIRST);
                        assert_tells(&part, range.first, &model[from..=to]);
                    }
                    break;
                }

                let (left, right) = part.split(left, right, GFP_KERNEL);
                for part in [right, left] {
                    parts.insert_within_capacity(n, part).map_err(|_| EINVAL)?;
                }
            }

            for part in &parts {
                let range = part.range().ok_or(EINVAL)?;
                let (from, to) = (range.first - FIRST, range.last - FIRST);

                assert_tells(part, range.first, &model[from..=to]);
                assert_eq!(part.tail.is_none(), part.run_count() == 1);
                let room = part.tail.as_ref().map_or(0, KVVec::capacity);
                assert!(room <= (4 * part.run_count()).max(RunList::FIRST_RESERVE));
            }
        }
        Ok(())
    }

    /// Only the part with fewer runs is copied: the first pages of a long list are cut off one by
    /// one.
    #[test]
    fn the_part_with_more_runs_keeps_the_memory() -> Result {
        let mut list = RunList::new(0);
        for n in 0..1000 {
            list.push(page(2 * n), GFP_KERNEL)?;
        }
        let memory = |list: &RunList| list.tail.as_ref().map(|tail| tail.as_ptr());
        let before = memory(&list);
        let mut moves = 0;

        for n in 0..998 {
            let left = PageRange { first: n, last: n };
            let right = PageRange {
                first: n + 1,
                last: 999,
            };
            let at = memory(&list);
            let (one, rest) = list.split(left, right, GFP_KERNEL);

            assert!(one.tail.is_none());
            assert_eq!(one.only_run(), Some(page(2 * n)));
            assert_eq!(
                rest.run_at(n + 1),
                Run {
                    pfn: 2 * n + 2,
                    len: 1
                }
            );
            moves += usize::from(memory(&rest) != at);
            list = rest;
            assert!(n > 400 || memory(&list) == before);
        }
        // Moved once for each factor of four.
        assert!(moves <= 5);
        Ok(())
    }

    #[test]
    fn a_list_has_less_than_2_to_the_32_pages() -> Result {
        let long = 1 << 32;
        let mut list = RunList::new(0);

        list.push(
            Run {
                pfn: 0,
                len: long - 2,
            },
            GFP_KERNEL,
        )?;
        list.push(page(long), GFP_KERNEL)?;
        assert!(list.push(page(7), GFP_KERNEL).is_err());
        assert_eq!((list.len(), list.run_count()), (long - 1, 2));
        assert_eq!(RunList::of(0, Run { pfn: 0, len: long }).only_run(), None);
        Ok(())
    }

    #[test]
    fn contiguous_memory_is_one_run() -> Result {
        let mut list = RunList::new(0);

        assert_eq!((list.range(), list.run_count()), (None, 0));
        assert_eq!(list.only_run(), None);
        assert_eq!(list.iter().count(), 0);
        list.push(Run { pfn: 7, len: 3 }, GFP_KERNEL)?;
        list.push(Run { pfn: 10, len: 5 }, GFP_KERNEL)?;
        assert_eq!(list.run_count(), 1);
        assert_eq!(list.only_run(), Some(Run { pfn: 7, len: 8 }));
        assert_eq!(list.run_at(1), Run { pfn: 8, len: 7 });
        list.push(page(14), GFP_KERNEL)?;
        list.push(page(15), GFP_KERNEL)?;
        assert_eq!((list.run_count(), list.only_run()), (2, None));
        assert_eq!(list.run_at(8), Run { pfn: 14, len: 2 });
        assert!(list.pfns().eq([7, 8, 9, 10, 11, 12, 13, 14, 14, 15]));
        assert_eq!(RunList::new(0).pfns().next(), None);
        Ok(())
    }

    #[test]
    fn runs_are_joined_and_cut() {
        let mut run = Run { pfn: 5, len: 2 };

        assert!(!run.try_append(page(5)));
        assert!(!run.try_append(page(8)));
        assert_eq!(run, Run { pfn: 5, len: 2 });
        assert!(run.try_append(Run { pfn: 7, len: 4 }));
        assert_eq!(run, Run { pfn: 5, len: 6 });
        assert_eq!(run.part(0, usize::MAX), run);
        assert_eq!(run.part(2, 3), Run { pfn: 7, len: 3 });
        assert_eq!(run.part(5, 9), Run { pfn: 10, len: 1 });
    }
}
