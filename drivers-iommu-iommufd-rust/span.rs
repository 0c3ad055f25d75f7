// SPDX-License-Identifier: GPL-2.0

//! Where is a position known, if two trees may know it and the first is asked first?
//!
//! [`DoubleSpans`] lays the spans of two interval trees over each other. It divides a range into
//! the parts that the first tree covers, those that only the second covers, and holes. The pages
//! use it to find the tier that has a PFN, the IO page table to find free IOVA.
//!
//! Pure: no locks, no kernel state. Whoever protects the trees keeps them unchanged while the
//! iterator borrows them.
#![forbid(unsafe_code)]

use kernel::interval_tree::{
    IntervalTree,
    Span,
    SpanIter, //
};

/// Who covers a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Neither tree.
    Hole,
    /// The first tree, and maybe the second too.
    First,
    /// The second tree only.
    Second,
}

/// A run of positions that have the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DoubleSpan {
    /// The first position.
    pub(crate) start: usize,
    /// The last position (inclusive).
    pub(crate) last: usize,
    /// Who covers all of it.
    pub(crate) by: By,
}

/// An iterator over the spans of two trees laid over each other.
///
/// The spans are adjacent, ordered and as large as possible, and cover the range that was asked
/// for.
pub(crate) struct DoubleSpans<I1, I2> {
    first: I1,
    second: I2,
    /// The spans that the next position is in, `None` behind the end.
    current: Option<(Span, Span)>,
    /// The next position.
    start: usize,
}

impl<'a, T, U> DoubleSpans<SpanIter<'a, T>, SpanIter<'a, U>> {
    /// Divides `start..=last`; there are no spans if `start > last`.
    #[inline]
    pub(crate) fn new(
        first: &'a IntervalTree<T>,
        second: &'a IntervalTree<U>,
        start: usize,
        last: usize,
    ) -> Self {
        Self::overlay(first.spans(start, last), second.spans(start, last), start)
    }
}

impl<I1: Iterator<Item = Span>, I2: Iterator<Item = Span>> DoubleSpans<I1, I2> {
    /// Lays two sequences of alternating, adjacent spans over each other, which both begin at
    /// `start` and end at the same position.
    #[inline]
    fn overlay(mut first: I1, mut second: I2, start: usize) -> Self {
        let current = first.next().zip(second.next());

        Self {
            first,
            second,
            current,
            start,
        }
    }
}

impl<I1: Iterator<Item = Span>, I2: Iterator<Item = Span>> Iterator for DoubleSpans<I1, I2> {
    type Item = DoubleSpan;

    #[inline]
    fn next(&mut self) -> Option<DoubleSpan> {
        let (mut a, mut b) = self.current?;
        let (by, last) = match (a.used, b.used) {
            (true, _) => (By::First, a.last),
            (false, true) => (By::Second, a.last.min(b.last)),
            (false, false) => (By::Hole, a.last.min(b.last)),
        };
        let start = self.start;

        // Step to the spans of the position behind this one. A span of the first tree may hide any
        // number of those of the second.
        if a.last == last {
            match self.first.next() {
                Some(next) => a = next,
                None => {
                    self.current = None;
                    return Some(DoubleSpan { start, last, by });
                }
            }
        }
        while b.last <= last {
            match self.second.next() {
                Some(next) => b = next,
                None => break,
            }
        }

        // The first tree's spans go on behind `last`, so it is not the last of all positions.
        self.start = last.wrapping_add(1);
        self.current = Some((a, b));
        Some(DoubleSpan { start, last, by })
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(iommufd_span)]
mod tests {
    use super::*;
    use kernel::{
        interval_tree::Node,
        prelude::*, //
    };

    /// The intervals of a tree over 16 positions: one bit for each, of both of its bytes.
    ///
    /// Runs of set bits of either byte become intervals of their own, so that there are adjacent
    /// and overlapping ones.
    fn tree(base: usize, bits: u16) -> Result<IntervalTree<()>> {
        let mut tree = IntervalTree::new();
        let mut run = None;

        for at in 0..=16 {
            // Break the run at position 8: adjacent intervals.
            let set = at < 16 && bits & (1 << at) != 0;
            if let Some(start) = run.filter(|_| !set || at == 8) {
                tree.insert(Node::new(base + start, base + (at - 1), (), GFP_KERNEL)?);
                // And once more in part: overlapping intervals.
                tree.insert(Node::new(base + start, base + start, (), GFP_KERNEL)?);
                run = None;
            }
            if set && run.is_none() {
                run = Some(at);
            }
        }
        Ok(tree)
    }

    /// What one position must be.
    fn model(first: u16, second: u16, at: usize) -> By {
        match (first >> at & 1, second >> at & 1) {
            (1, _) => By::First,
            (_, 1) => By::Second,
            _ => By::Hole,
        }
    }

    /// An error instead of an assertion: those of helpers are not KUnit's.
    fn expect(condition: bool) -> Result {
        condition.then_some(()).ok_or(EINVAL)
    }

    fn check(base: usize, first: u16, second: u16, from: usize, to: usize) -> Result {
        let (one, two) = (tree(base, first)?, tree(base, second)?);
        let mut next = Some(base + from);
        let mut before = None;

        for span in DoubleSpans::new(&one, &two, base + from, base + to) {
            expect(Some(span.start) == next)?;
            expect(span.start <= span.last && span.last <= base + to)?;
            for at in span.start..=span.last {
                expect(span.by == model(first, second, at - base))?;
            }
            // As large as possible: neighbours differ.
            expect(before != Some(span.by))?;
            before = Some(span.by);
            next = span.last.checked_add(1);
        }
        expect(next == (base + to).checked_add(1))
    }

    #[test]
    fn spans_are_those_of_the_model() -> Result {
        // A fixed sequence of pairs (xorshift), at both ends of the number space.
        let mut seed: u32 = 0x2545_f491;

        for _ in 0..500 {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            let (first, second) = (seed as u16, (seed >> 16) as u16);

            for base in [0, usize::MAX - 15] {
                check(base, first, second, 0, 15)?;
                check(base, first, second, 3, 12)?;
                check(base, first, second, 7, 7)?;
            }
        }
        for bits in [0, 1, 0x8000, 0xffff] {
            check(usize::MAX - 15, bits, 0, 0, 15)?;
            check(usize::MAX - 15, 0, bits, 0, 15)?;
            check(0, bits, !bits, 0, 15)?;
        }
        Ok(())
    }

    #[test]
    fn an_inverted_range_has_no_spans() -> Result {
        let tree = tree(0, 0xff)?;

        assert!(DoubleSpans::new(&tree, &tree, 5, 4).next().is_none());
        Ok(())
    }
}
