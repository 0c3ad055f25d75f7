// SPDX-License-Identifier: GPL-2.0

//! Trees of disjoint ranges that know the gaps between them.
//!
//! A [`GapTree`] holds closed ranges `[start, last]` of `usize` that do not overlap, each with a
//! value. It finds the range that has a position as any ordered tree does, and the first gap of at
//! least some length in `O(log n)` too: each node knows the greatest gap in its subtree. Nothing in
//! here is ever written as "one past the last": a range may end at [`usize::MAX`].
//!
//! The tree is intrusive and owns its nodes as boxes. Memory is needed to create a [`Node`], never
//! to insert or to remove one.
//!
//! What it shares with [`IntervalTree`], ownership and borrows above all, is in `range_tree.rs`.
//! Here is an augmented red-black tree, see [`srctree/Documentation/core-api/rbtree.rst`].
//!
//! # Soundness
//!
//! Each pointer in [`Links`] is null or to links in the same tree, which are valid as long as the
//! tree has them. They are followed through [`Seen`] alone, which borrows the tree, but for the
//! callbacks of the C code: these run in the midst of a change, by whom the tree is borrowed
//! exclusively, and find it consistent but for the summaries that they are there to correct.
//!
//! [`IntervalTree`]: crate::interval_tree::IntervalTree
//! [`srctree/Documentation/core-api/rbtree.rst`]: srctree/Documentation/core-api/rbtree.rst

mod cut;

use crate::{
    bindings,
    prelude::*,
    range_tree, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::{
        from_ref,
        null_mut,
        NonNull, //
    }, //
};

/// What a node says about the subtree that it is the root of.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Summary {
    /// The start of the first range.
    start: usize,
    /// The last position of the last range.
    last: usize,
    /// The greatest number of free positions between two neighbours.
    gap: usize,
}

impl Summary {
    /// That of a node without children.
    #[inline]
    const fn leaf(start: usize, last: usize) -> Self {
        Self {
            start,
            last,
            gap: 0,
        }
    }
}

/// The number of free positions between a range that ends at `last` and one that starts at `start`.
#[inline]
const fn gap_between(last: usize, start: usize) -> usize {
    // Ranges do not overlap, and `start` comes after `last`.
    start.wrapping_sub(last).wrapping_sub(1)
}

/// What a [`Node`] has besides its value.
#[repr(C)]
pub struct Links {
    /// Must be the first field: a pointer to it is a pointer to the links.
    rb: bindings::rb_node,
    start: usize,
    last: usize,
    summary: Summary,
}

/// The range of the node that is being inserted overlaps one that is in the tree.
pub struct Overlap;

// SAFETY: The rules of a red-black tree: the tree of a root has the nodes that were linked by
// `rb_link_node()` and not erased. `first()` and `next()` follow its pointers and only read.
// Links have a pointer to the root of no tree, and none to themselves that is followed, and belong
// to no thread.
unsafe impl range_tree::Links for Links {
    type Root = bindings::rb_root;
    type Refusal = Overlap;

    const EMPTY: bindings::rb_root = bindings::rb_root {
        rb_node: null_mut(),
    };

    #[inline]
    fn new(start: usize, last: usize) -> Self {
        Self {
            rb: bindings::rb_node::default(),
            start,
            last,
            summary: Summary::leaf(start, last),
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
    fn is_empty(root: &bindings::rb_root) -> bool {
        root.rb_node.is_null()
    }

    #[inline]
    unsafe fn first(root: &bindings::rb_root, start: usize, last: usize) -> Option<NonNull<Self>> {
        // SAFETY: By the safety requirements.
        let found = unsafe { Seen::root(root) }?.lower_bound(start)?;

        (found.start <= last).then_some(found.links)
    }

    #[inline]
    unsafe fn next(node: NonNull<Self>, _start: usize, last: usize) -> Option<NonNull<Self>> {
        // SAFETY: By the safety requirements; this only reads nodes.
        let next = unsafe { Seen::at(bindings::rb_next(node.as_ptr().cast())) }?;

        (next.start <= last).then_some(next.links)
    }

    #[inline(always)]
    unsafe fn link(root: &mut bindings::rb_root, node: NonNull<Self>) -> Result<(), Overlap> {
        // SAFETY: By the safety requirements.
        let (start, last) = unsafe { (node.as_ref().start, node.as_ref().last) };
        // SAFETY: By the safety requirements.
        let mut at = unsafe { Seen::root(root) };
        let mut parent = None;

        while let Some(links) = at {
            let left = last < links.start;

            if !left && start <= links.last {
                return Err(Overlap);
            }
            parent = Some((links.as_ptr(), left));
            at = if left { links.left() } else { links.right() };
        }

        // SAFETY: The node belongs at the null link of `parent`, or of the root, that the search
        // ended at: the tree stays ordered. Node and tree are valid and used by nobody else, and
        // the summaries of the ancestors are updated before the tree is balanced.
        unsafe {
            (*node.as_ptr()).summary = Summary::leaf(start, last);
            let (parent, link) = match parent {
                None => (null_mut(), &raw mut root.rb_node),
                Some((parent, true)) => (parent, &raw mut (*parent).rb_left),
                Some((parent, false)) => (parent, &raw mut (*parent).rb_right),
            };
            bindings::rb_link_node(node.as_ptr().cast(), parent, link);
            propagate(parent, null_mut());
            bindings::__rb_insert_augmented(node.as_ptr().cast(), root, Some(rotate));
        }
        Ok(())
    }

    #[inline]
    unsafe fn unlink(root: &mut bindings::rb_root, node: NonNull<Self>) {
        // SAFETY: By the safety requirements; the callbacks keep the summaries.
        unsafe { bindings::rb_erase_augmented(node.as_ptr().cast(), root, &CALLBACKS) };
    }

    #[inline]
    unsafe fn pop_first(root: &mut bindings::rb_root) -> Option<NonNull<Self>> {
        // SAFETY: By the safety requirements. Links begin with the `rb_node`.
        Some(unsafe { range_tree::pop_first(&mut root.rb_node) }?.cast())
    }
}

/// Links of a tree that does not change during `'a`.
///
/// # Invariants
///
/// The links are in a tree, whose nodes are valid for reading and do not change during `'a`.
#[derive(Clone, Copy)]
struct Seen<'a> {
    links: NonNull<Links>,
    _tree: PhantomData<&'a Links>,
}

impl Deref for Seen<'_> {
    type Target = Links;

    #[inline]
    fn deref(&self) -> &Links {
        // SAFETY: By the type invariants.
        unsafe { self.links.as_ref() }
    }
}

impl<'a> Seen<'a> {
    /// # Safety
    ///
    /// `rb` is null or that of links that are in a tree, whose nodes are valid for reading and do
    /// not change during `'a`.
    #[inline]
    unsafe fn at(rb: *mut bindings::rb_node) -> Option<Self> {
        // INVARIANT: By the safety requirements. `Links` begin with the `rb_node`.
        Some(Self {
            links: NonNull::new(rb)?.cast(),
            _tree: PhantomData,
        })
    }

    /// # Safety
    ///
    /// The nodes of `root` are valid for reading, and do not change during `'a`.
    #[inline]
    unsafe fn root(root: &bindings::rb_root) -> Option<Self> {
        // SAFETY: By the safety requirements.
        unsafe { Self::at(root.rb_node) }
    }

    #[inline]
    fn as_ptr(self) -> *mut bindings::rb_node {
        self.links.as_ptr().cast()
    }

    #[inline]
    fn left(self) -> Option<Self> {
        // SAFETY: By the type invariants: children are in the same tree.
        unsafe { Self::at(self.rb.rb_left) }
    }

    #[inline]
    fn right(self) -> Option<Self> {
        // SAFETY: By the type invariants: children are in the same tree.
        unsafe { Self::at(self.rb.rb_right) }
    }

    #[inline]
    fn parent(self) -> Option<Self> {
        // SAFETY: By the type invariants: the parent is in the same tree.
        unsafe { Self::at(bindings::rb_parent(self.as_ptr())) }
    }

    /// Summarises the subtree from what its children say.
    fn summarise(self) -> Summary {
        let mut summary = Summary::leaf(self.start, self.last);

        if let Some(left) = self.left() {
            let gap = gap_between(left.summary.last, self.start);

            summary.start = left.summary.start;
            summary.gap = left.summary.gap.max(gap);
        }
        if let Some(right) = self.right() {
            let gap = gap_between(self.last, right.summary.start);

            summary.last = right.summary.last;
            summary.gap = summary.gap.max(right.summary.gap).max(gap);
        }
        summary
    }

    /// Finds the first node of the subtree that does not end before `start`.
    #[inline]
    fn lower_bound(self, start: usize) -> Option<Self> {
        let (mut at, mut found) = (Some(self), None);

        while let Some(links) = at {
            at = if links.last >= start {
                found = at;
                links.left()
            } else {
                links.right()
            };
        }
        found
    }

    /// Finds the first gap behind this node that fits. See [`GapTree::find_gap`].
    fn gap_after(self, fits: impl Fn(usize) -> bool) -> Option<(usize, Option<usize>)> {
        let mut at = self;

        loop {
            if let Some(right) = at.right() {
                if fits(gap_between(at.last, right.summary.start)) {
                    return Some((at.last + 1, Some(right.summary.start - 1)));
                }
                if fits(right.summary.gap) {
                    return right.first_gap(fits);
                }
            }

            // All of the subtree is done: go on behind the first ancestor that it is left of.
            let done = loop {
                let child = at;
                let Some(parent) = at.parent() else {
                    // The last range of all may end where positions do.
                    return Some((at.summary.last.checked_add(1)?, None));
                };

                at = parent;
                if at.rb.rb_left == child.as_ptr() {
                    break child.summary.last;
                }
            };
            if fits(gap_between(done, at.start)) {
                return Some((done + 1, Some(at.start - 1)));
            }
        }
    }

    /// Finds the first gap in the subtree of this node that fits; there is one.
    fn first_gap(self, fits: impl Fn(usize) -> bool) -> Option<(usize, Option<usize>)> {
        let mut at = self;

        loop {
            if let Some(left) = at.left() {
                if fits(left.summary.gap) {
                    at = left;
                    continue;
                }
                if fits(gap_between(left.summary.last, at.start)) {
                    return Some((left.summary.last + 1, Some(at.start - 1)));
                }
            }
            let right = at.right()?;
            if fits(gap_between(at.last, right.summary.start)) {
                return Some((at.last + 1, Some(right.summary.start - 1)));
            }
            at = right;
        }
    }
}

/// Updates the summaries from `rb` up to, but without, `stop`.
///
/// # Safety
///
/// `rb` is null or in links that are in a tree, which is valid and used by nobody else; `stop` is
/// null or one of its ancestors.
unsafe extern "C" fn propagate(mut rb: *mut bindings::rb_node, stop: *mut bindings::rb_node) {
    while !core::ptr::eq(rb, stop) {
        // SAFETY: By the safety requirements, and an ancestor is in the same tree or null. It is
        // not used any more when the tree changes below.
        let Some(links) = (unsafe { Seen::at(rb) }) else {
            return;
        };
        let (old, new) = (links.summary, links.summarise());
        if old == new {
            return;
        }
        let parent = links.parent().map_or(null_mut(), Seen::as_ptr);
        // SAFETY: Links begin with the `rb_node`, are valid, and used by nobody else.
        unsafe { (*rb.cast::<Links>()).summary = new };
        rb = parent;
    }
}

/// `new` takes the place of `old`.
///
/// # Safety
///
/// Both are in links that are valid and used by nobody else.
unsafe extern "C" fn copy(old: *mut bindings::rb_node, new: *mut bindings::rb_node) {
    // SAFETY: Links begin with the `rb_node`; the rest is required.
    unsafe { (*new.cast::<Links>()).summary = (*old.cast::<Links>()).summary };
}

/// `new`, which was a child of `old`, has become its parent.
///
/// # Safety
///
/// Both are in links that are in a tree, which is valid and used by nobody else.
unsafe extern "C" fn rotate(old: *mut bindings::rb_node, new: *mut bindings::rb_node) {
    // SAFETY: By the safety requirements.
    unsafe { copy(old, new) };
    // SAFETY: By the safety requirements. It is not used any more when the tree changes below.
    let Some(summary) = (unsafe { Seen::at(old) }).map(Seen::summarise) else {
        return;
    };
    // SAFETY: Links begin with the `rb_node`; the rest is required.
    unsafe { (*old.cast::<Links>()).summary = summary };
}

static CALLBACKS: bindings::rb_augment_callbacks = bindings::rb_augment_callbacks {
    propagate: Some(propagate),
    copy: Some(copy),
    rotate: Some(rotate),
};

/// A range and its value: the element of a [`GapTree`].
pub type Node<T> = range_tree::Node<Links, T>;

/// The memory of a [`Node`], for code that learns its range where it cannot allocate.
pub type NodeReservation<T> = range_tree::NodeReservation<Links, T>;

/// Exclusive access to one range of a tree.
pub type Entry<'a, T> = range_tree::Entry<'a, Links, T>;

/// An iterator over the ranges of a [`GapTree`] that intersect a given one.
pub type Iter<'a, T> = range_tree::Iter<'a, Links, T>;

impl<T> Node<T> {
    /// How C sees the node, and behind it the first and the last position as `unsigned long`.
    ///
    /// It is valid as long as the node is borrowed. C may use it to read the node, and those that
    /// it steps to from there as long as their tree is borrowed.
    #[inline]
    pub fn as_ptr(&self) -> *const bindings::rb_node {
        from_ref(self).cast()
    }
}

/// A tree of disjoint closed ranges that owns its nodes.
///
/// # Examples
///
/// ```
/// use kernel::gap_tree::{GapTree, Node};
///
/// let mut tree = GapTree::new();
/// assert!(tree.insert(Node::new(10, 19, "ten", GFP_KERNEL)?).is_ok());
/// assert!(tree.insert(Node::new(30, 30, "thirty", GFP_KERNEL)?).is_ok());
/// assert!(tree.insert(Node::new(32, usize::MAX, "rest", GFP_KERNEL)?).is_ok());
///
/// // Ranges do not overlap: the node comes back.
/// let node = Node::new(0, 10, "overlapping", GFP_KERNEL)?;
/// let node = tree.insert(node).err().ok_or(EINVAL)?;
/// assert_eq!(node.last(), 10);
///
/// let mut hits = tree.iter(19, 40).map(Node::value);
/// assert_eq!(hits.next(), Some(&"ten"));
/// assert_eq!(hits.next(), Some(&"thirty"));
/// assert_eq!(hits.next(), Some(&"rest"));
/// assert_eq!(hits.next(), None);
/// assert!(tree.first(20, 29).is_none());
///
/// // Gaps of two positions at least, in a window.
/// let mut gaps = tree.gaps(5, usize::MAX, 2);
/// assert_eq!(gaps.next(), Some((5, 9)));
/// assert_eq!(gaps.next(), Some((20, 29)));
/// assert_eq!(gaps.next(), None);
///
/// let node = tree.remove_first(30, 30).ok_or(ENOENT)?;
/// assert_eq!(Node::into_value(node), "thirty");
/// assert_eq!(tree.gaps(0, usize::MAX, 11).next(), Some((20, 31)));
/// # Ok::<(), Error>(())
/// ```
pub type GapTree<T> = range_tree::Tree<Links, T>;

impl<T> GapTree<T> {
    /// Inserts a node. Needs no memory.
    ///
    /// # Errors
    ///
    /// The node, if its range overlaps one that is in the tree.
    #[inline]
    pub fn insert(&mut self, node: KBox<Node<T>>) -> Result<(), KBox<Node<T>>> {
        self.link(node).map_err(|(node, Overlap)| node)
    }

    /// Takes out all ranges that intersect `[start, last]`, as a tree of their own.
    /// Needs no memory.
    ///
    /// Costs `O(log n)`, however many they are; removing a single one costs less.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::gap_tree::{GapTree, Node};
    ///
    /// let mut tree = GapTree::new();
    /// for start in (0..100).step_by(10) {
    ///     assert!(tree.insert(Node::new(start, start + 4, start, GFP_KERNEL)?).is_ok());
    /// }
    ///
    /// let taken = tree.take(24, 55);
    /// assert!(taken.into_iter().map(Node::into_value).eq([20, 30, 40, 50]));
    /// assert_eq!(tree.gaps(0, 99, 10).next(), Some((15, 59)));
    /// assert!(tree.take(15, 59).is_empty());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn take(&mut self, start: usize, last: usize) -> Self {
        if start > last {
            return Self::new();
        }

        // SAFETY: The nodes are valid, and borrowed exclusively with the tree; each goes to one of
        // both roots.
        unsafe { self.divide(|root| cut::take(root, start, last)) }
    }

    /// For tests: whether the tree is ordered and balanced, and knows its gaps.
    #[cfg(CONFIG_KUNIT)]
    pub fn is_sound(&self) -> bool {
        // SAFETY: The nodes of a tree are valid, and it is borrowed.
        unsafe { cut::is_sound(self.root()) }
    }

    /// Iterates over the gaps in `[first, last]` that have `len` positions at least, in order. Each
    /// is given by its first and its last position (inclusive), and as large as possible.
    ///
    /// Costs `O(log n)` for each of them, however many smaller ones there are.
    #[inline]
    pub fn gaps(&self, first: usize, last: usize, len: usize) -> Gaps<'_, T> {
        Gaps {
            tree: self,
            from: Some(first),
            last,
            more: len.saturating_sub(1),
        }
    }

    /// Finds the first gap that begins at `from` or later, as it were if the position before `from`
    /// was taken, and has `more` positions behind its first one at least.
    ///
    /// Returns the first position of the gap, and the last, or `None` for the last if no range
    /// follows.
    fn find_gap(&self, from: usize, more: usize) -> Option<(usize, Option<usize>)> {
        // SAFETY: The nodes of a tree are valid, and it is borrowed.
        let root = unsafe { Seen::root(self.root()) };
        let Some(node) = root.and_then(|root| root.lower_bound(from)) else {
            return Some((from, None));
        };
        let fits = |gap: usize| gap > more;

        // The one that `from` may be in the middle of.
        if node.start > from && fits(node.start - from) {
            return Some((from, Some(node.start - 1)));
        }
        node.gap_after(fits)
    }
}

/// An iterator over the gaps of a [`GapTree`], see [`GapTree::gaps`].
pub struct Gaps<'a, T> {
    tree: &'a GapTree<T>,
    /// Where to go on; `None` at the end.
    from: Option<usize>,
    last: usize,
    /// How many positions a gap has behind its first one, at least.
    more: usize,
}

impl<T> Iterator for Gaps<'_, T> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let from = self.from.take()?;
        let (start, end) = self.tree.find_gap(from, self.more)?;
        let end = end.unwrap_or(self.last).min(self.last);

        // A gap that reaches behind the window may be too short within it; it is the last one.
        if start > end || end - start < self.more {
            return None;
        }
        if end < self.last {
            self.from = end.checked_add(1);
        }
        Some((start, end))
    }
}
