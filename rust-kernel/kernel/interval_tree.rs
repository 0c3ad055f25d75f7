// SPDX-License-Identifier: GPL-2.0

//! Interval trees.
//!
//! An [`IntervalTree`] holds closed intervals `[start, last]` of `usize`, each with a value, and
//! finds those that intersect a given one. Intervals may overlap or be equal. Nothing in here is
//! ever written as "one past the last": an interval may end at [`usize::MAX`].
//!
//! The tree is intrusive and owns its nodes as boxes. Memory is needed to create a [`Node`], never
//! to insert or to remove one, so that code that must not fail can still take its intervals apart.
//!
//! Finding the first intersecting interval costs `O(log n)`, and so does each step to the next.
//!
//! Intervals are ordered by their start, and those that start alike in the order of their
//! insertion. So one of any number that start alike can be found by bisection, if what tells them
//! apart grows from one insertion to the next.
//!
//! # Soundness
//!
//! What it shares with [`GapTree`], ownership and borrows above all, is argued in `range_tree.rs`.
//! Here are calls of the C implementation. It takes pointers to what it only reads as mutable ones;
//! [`Links`](range_tree::Links) says of each function which it is.
//!
//! [`GapTree`]: crate::gap_tree::GapTree
//!
//! C header: [`include/linux/interval_tree.h`](srctree/include/linux/interval_tree.h)

use crate::{
    bindings,
    prelude::*,
    range_tree, //
};
#[cfg(CONFIG_INTERVAL_TREE_SPAN_ITER)]
use core::marker::PhantomData;
use core::{
    convert::Infallible,
    ptr::{
        from_ref,
        null_mut,
        NonNull, //
    }, //
};

// SAFETY: The C functions keep track of what was inserted and not removed; the two that find only
// read. A node has no pointer to the root or to itself that is followed, and belongs to no thread.
unsafe impl range_tree::Links for bindings::interval_tree_node {
    type Root = bindings::rb_root_cached;
    type Refusal = Infallible;

    const EMPTY: bindings::rb_root_cached = bindings::rb_root_cached {
        rb_root: bindings::rb_root {
            rb_node: null_mut(),
        },
        rb_leftmost: null_mut(),
    };

    #[inline]
    fn new(start: usize, last: usize) -> Self {
        Self {
            start,
            last,
            ..Default::default()
        }
    }

    #[inline]
    fn range(&self) -> (usize, usize) {
        (self.start, self.last)
    }

    #[inline]
    fn set_range(&mut self, start: usize, last: usize) {
        // The other fields are written when the node is linked.
        self.start = start;
        self.last = last;
    }

    #[inline]
    fn is_empty(root: &bindings::rb_root_cached) -> bool {
        root.rb_root.rb_node.is_null()
    }

    #[inline]
    unsafe fn first(
        root: &bindings::rb_root_cached,
        start: usize,
        last: usize,
    ) -> Option<NonNull<Self>> {
        let root = from_ref(root).cast_mut();

        // SAFETY: By the safety requirements; this only reads the root and its nodes.
        NonNull::new(unsafe { bindings::interval_tree_iter_first(root, start, last) })
    }

    #[inline]
    unsafe fn next(node: NonNull<Self>, start: usize, last: usize) -> Option<NonNull<Self>> {
        // SAFETY: By the safety requirements; this only reads the node and its neighbours.
        NonNull::new(unsafe { bindings::interval_tree_iter_next(node.as_ptr(), start, last) })
    }

    #[inline]
    unsafe fn link(
        root: &mut bindings::rb_root_cached,
        node: NonNull<Self>,
    ) -> Result<(), Infallible> {
        // SAFETY: By the safety requirements.
        unsafe { bindings::interval_tree_insert(node.as_ptr(), root) };
        Ok(())
    }

    #[inline]
    unsafe fn unlink(root: &mut bindings::rb_root_cached, node: NonNull<Self>) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::interval_tree_remove(node.as_ptr(), root) };
    }

    #[inline]
    unsafe fn pop_first(root: &mut bindings::rb_root_cached) -> Option<NonNull<Self>> {
        const { assert!(core::mem::offset_of!(Self, rb) == 0) };

        // SAFETY: By the safety requirements. Links begin with the `rb_node`.
        Some(unsafe { range_tree::pop_first(&mut root.rb_root.rb_node) }?.cast())
    }
}

/// What a [`Node`] has besides its value.
type Links = bindings::interval_tree_node;

/// An interval and its value: the element of an [`IntervalTree`].
pub type Node<T> = range_tree::Node<Links, T>;

/// The memory of a [`Node`], for code that learns its interval where it cannot allocate.
///
/// # Examples
///
/// ```
/// use kernel::{interval_tree::{IntervalTree, NodeReservation}, sync::new_spinlock};
/// use pin_init::stack_pin_init;
///
/// stack_pin_init!(let tree = new_spinlock!(IntervalTree::new()));
///
/// let reservation = NodeReservation::new(GFP_KERNEL)?;
/// let mut tree = tree.lock();
/// let free = tree.first(0, 0).map_or(0, |node| node.last() + 1);
/// tree.insert(reservation.fill(free, free + 1, "mine")?);
/// assert!(tree.first(1, 1).is_some());
/// # Ok::<(), Error>(())
/// ```
pub type NodeReservation<T> = range_tree::NodeReservation<Links, T>;

/// Exclusive access to one interval of a tree.
pub type Entry<'a, T> = range_tree::Entry<'a, Links, T>;

/// An iterator over the intervals of an [`IntervalTree`] that intersect a given one.
pub type Iter<'a, T> = range_tree::Iter<'a, Links, T>;

/// A tree of closed intervals that owns its nodes.
///
/// # Examples
///
/// ```
/// use kernel::interval_tree::{IntervalTree, Node};
///
/// let mut tree = IntervalTree::new();
/// tree.insert(Node::new(10, 19, "ten", GFP_KERNEL)?);
/// tree.insert(Node::new(15, 29, "overlapping", GFP_KERNEL)?);
/// tree.insert(Node::new(usize::MAX, usize::MAX, "the end", GFP_KERNEL)?);
/// assert!(Node::new(2, 1, "backwards", GFP_KERNEL).is_err());
///
/// // Intervals come ordered by their start.
/// let mut hits = tree.iter(17, usize::MAX).map(Node::value);
/// assert_eq!(hits.next(), Some(&"ten"));
/// assert_eq!(hits.next(), Some(&"overlapping"));
/// assert_eq!(hits.next(), Some(&"the end"));
/// assert_eq!(hits.next(), None);
///
/// // An interval intersects if it shares one position.
/// assert_eq!(tree.first(0, 10).map(Node::value), Some(&"ten"));
/// assert!(tree.first(0, 9).is_none());
///
/// // Values can be changed in place, intervals cannot.
/// *tree.first_mut(20, 20).ok_or(ENOENT)?.into_value_mut() = "over";
/// assert_eq!(tree.first(29, 29).map(Node::value), Some(&"over"));
///
/// // Removal gives the box back.
/// let node = tree.remove_first(20, 20).ok_or(ENOENT)?;
/// assert_eq!((node.start(), node.last()), (15, 29));
/// assert!(tree.remove_first(20, 20).is_none());
///
/// tree.retain(|node| *node.value() == "ten");
/// assert_eq!(tree.iter(0, usize::MAX).count(), 1);
/// # Ok::<(), Error>(())
/// ```
pub type IntervalTree<T> = range_tree::Tree<Links, T>;

impl<T> IntervalTree<T> {
    /// Inserts a node. Needs no memory.
    #[inline]
    pub fn insert(&mut self, node: KBox<Node<T>>) {
        let Ok(()) = self.link(node);
    }

    /// Returns the last node of those for which `pred` is true.
    ///
    /// As with [`partition_point`], these must come before all others, in the order of the tree: by
    /// their start, and then in the order of their insertion. Calls `pred` `O(log n)` times.
    ///
    /// [`partition_point`]: slice::partition_point
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::interval_tree::{IntervalTree, Node};
    ///
    /// let mut tree = IntervalTree::new();
    /// for number in 0..10 {
    ///     // All of them start at 7.
    ///     tree.insert(Node::new(7, 7 + number % 3, number, GFP_KERNEL)?);
    /// }
    ///
    /// let sixth = tree.last_where(|node| (node.start(), *node.value()) <= (7, 6));
    /// assert_eq!(sixth.map(|node| (node.last(), *node.value())), Some((7, 6)));
    ///
    /// let entry = tree.last_where_mut(|node| (node.start(), *node.value()) <= (7, 6));
    /// assert_eq!(entry.map(|entry| *entry.remove().value()), Some(6));
    /// let sixth = tree.last_where(|node| (node.start(), *node.value()) <= (7, 6));
    /// assert_eq!(sixth.map(|node| *node.value()), Some(5));
    /// assert!(tree.last_where(|node| node.start() <= 6).is_none());
    /// # Ok::<(), Error>(())
    /// ```
    #[inline]
    pub fn last_where(&self, pred: impl FnMut(&Node<T>) -> bool) -> Option<&Node<T>> {
        // SAFETY: The nodes of the root are those of this tree, and this only reads them.
        unsafe { self.search(|root| last_where(root, pred)) }
    }

    /// As [`Self::last_where`], to change the value of the node or to remove it.
    #[inline]
    pub fn last_where_mut(&mut self, pred: impl FnMut(&Node<T>) -> bool) -> Option<Entry<'_, T>> {
        // SAFETY: The nodes of the root are those of this tree, and this only reads them.
        unsafe { self.search_mut(|root| last_where(root, pred)) }
    }

    /// Divides `[first, last]` into spans that are covered by intervals and spans that are not.
    ///
    /// The spans are adjacent, ordered, as large as possible, and cover `[first, last]` exactly;
    /// used and unused ones alternate. There are none if `first > last`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::interval_tree::{IntervalTree, Node, Span};
    ///
    /// let mut tree = IntervalTree::new();
    /// tree.insert(Node::new(10, 19, (), GFP_KERNEL)?);
    /// tree.insert(Node::new(20, 29, (), GFP_KERNEL)?);
    ///
    /// let mut spans = tree.spans(5, usize::MAX);
    /// assert_eq!(spans.next(), Some(Span { start: 5, last: 9, used: false }));
    /// assert_eq!(spans.next(), Some(Span { start: 10, last: 29, used: true }));
    /// assert_eq!(spans.next(), Some(Span { start: 30, last: usize::MAX, used: false }));
    /// assert_eq!(spans.next(), None);
    /// # Ok::<(), Error>(())
    /// ```
    #[cfg(CONFIG_INTERVAL_TREE_SPAN_ITER)]
    #[inline]
    pub fn spans(&self, first: usize, last: usize) -> SpanIter<'_, T> {
        let mut raw = bindings::interval_tree_span_iter::default();

        if first > last {
            raw.is_hole = SpanIter::<T>::DONE;
        } else {
            let root = from_ref(self.root()).cast_mut();

            // SAFETY: The root is valid, and this only reads it and its nodes.
            unsafe { bindings::interval_tree_span_iter_first(&mut raw, root, first, last) };
        }

        // INVARIANT: The C function refers to nodes of this tree only.
        SpanIter {
            raw,
            _tree: PhantomData,
        }
    }
}

/// Returns the last node of a tree, in its order, for which `pred` is true.
///
/// # Safety
///
/// `root` is that of an [`IntervalTree<T>`], whose nodes do not change meanwhile.
unsafe fn last_where<T>(
    root: &bindings::rb_root_cached,
    mut pred: impl FnMut(&Node<T>) -> bool,
) -> Option<NonNull<Links>> {
    const { assert!(core::mem::offset_of!(Links, rb) == 0) };

    let mut next = root.rb_root.rb_node;
    let mut found = None;

    while let Some(rb) = NonNull::new(next) {
        // SAFETY: By the requirements of this function, the tree has nodes of this type. They begin
        // with the links, which begin with the `rb_node`.
        let is_before = pred(unsafe { rb.cast::<Node<T>>().as_ref() });
        // SAFETY: By the requirements of this function, the node is valid and does not change.
        let rb_node = unsafe { rb.as_ref() };

        if is_before {
            found = Some(rb.cast());
            next = rb_node.rb_right;
        } else {
            next = rb_node.rb_left;
        }
    }
    found
}

/// A run of positions that are either all covered by intervals or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first position.
    pub start: usize,
    /// The last position (inclusive).
    pub last: usize,
    /// Whether each position of the span is in at least one interval.
    pub used: bool,
}

/// An iterator over the used and unused spans of an [`IntervalTree`].
///
/// # Invariants
///
/// The nodes that `raw` refers to are in the tree that is borrowed for `'a`.
#[cfg(CONFIG_INTERVAL_TREE_SPAN_ITER)]
pub struct SpanIter<'a, T> {
    raw: bindings::interval_tree_span_iter,
    _tree: PhantomData<&'a IntervalTree<T>>,
}

#[cfg(CONFIG_INTERVAL_TREE_SPAN_ITER)]
impl<T> SpanIter<'_, T> {
    /// The value of `is_hole` after the last span.
    const DONE: crate::ffi::c_int = -1;
}

#[cfg(CONFIG_INTERVAL_TREE_SPAN_ITER)]
impl<T> Iterator for SpanIter<'_, T> {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        if self.raw.is_hole == Self::DONE {
            return None;
        }

        // SAFETY: Both members of each union are the same `unsigned long`.
        let (start, last) = unsafe {
            (
                self.raw.__bindgen_anon_1.start_used,
                self.raw.__bindgen_anon_2.last_used,
            )
        };
        let used = self.raw.is_hole == 0;

        // SAFETY: By the type invariant the nodes are valid and not changing; this only reads them.
        unsafe { bindings::interval_tree_span_iter_next(&mut self.raw) };
        Some(Span { start, last, used })
    }
}
