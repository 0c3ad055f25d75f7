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
//! It is an augmented red-black tree, see [`srctree/Documentation/core-api/rbtree.rst`].
//!
//! [`srctree/Documentation/core-api/rbtree.rst`]: srctree/Documentation/core-api/rbtree.rst

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
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

/// The number of free positions between a range that ends at `last` and one that starts at `start`.
#[inline]
const fn gap_between(last: usize, start: usize) -> usize {
    // Ranges do not overlap, and `start` comes after `last`.
    start.wrapping_sub(last).wrapping_sub(1)
}

/// The part of a node that does not depend on the type of its value.
#[repr(C)]
struct Links {
    /// Must be the first field: a pointer to it is a pointer to the links.
    rb: bindings::rb_node,
    start: usize,
    last: usize,
    summary: Summary,
}

impl Links {
    /// # Safety
    ///
    /// `rb` is null or in [`Links`] that are valid for reading during `'a`.
    #[inline]
    unsafe fn at<'a>(rb: *mut bindings::rb_node) -> Option<&'a Self> {
        // SAFETY: `Links` begin with the `rb_node`; the rest is required.
        unsafe { rb.cast::<Self>().as_ref() }
    }

    /// # Safety
    ///
    /// The links are in a tree that does not change during `'a`.
    #[inline]
    unsafe fn left<'a>(&self) -> Option<&'a Self> {
        // SAFETY: Children are in the same tree.
        unsafe { Self::at(self.rb.rb_left) }
    }

    /// # Safety
    ///
    /// The links are in a tree that does not change during `'a`.
    #[inline]
    unsafe fn right<'a>(&self) -> Option<&'a Self> {
        // SAFETY: Children are in the same tree.
        unsafe { Self::at(self.rb.rb_right) }
    }

    /// # Safety
    ///
    /// The links are in a tree that does not change during `'a`.
    #[inline]
    unsafe fn parent<'a>(&self) -> Option<&'a Self> {
        // SAFETY: The parent is in the same tree.
        unsafe { Self::at(bindings::rb_parent(&self.rb)) }
    }

    #[inline]
    const fn leaf(start: usize, last: usize) -> Summary {
        Summary {
            start,
            last,
            gap: 0,
        }
    }

    /// Summarises the subtree from what its children say.
    ///
    /// # Safety
    ///
    /// The links are in a tree that does not change meanwhile.
    unsafe fn summarise(&self) -> Summary {
        let mut summary = Self::leaf(self.start, self.last);

        // SAFETY: As required.
        if let Some(left) = unsafe { self.left() } {
            let gap = gap_between(left.summary.last, self.start);

            summary.start = left.summary.start;
            summary.gap = summary.gap.max(left.summary.gap).max(gap);
        }
        // SAFETY: As required.
        if let Some(right) = unsafe { self.right() } {
            let gap = gap_between(self.last, right.summary.start);

            summary.last = right.summary.last;
            summary.gap = summary.gap.max(right.summary.gap).max(gap);
        }
        summary
    }
}

/// Updates the summaries from `rb` up to, but without, `stop`.
///
/// # Safety
///
/// `rb` is null or in links that are in a tree, which nobody else uses; `stop` is null or one of
/// its ancestors.
unsafe extern "C" fn propagate(mut rb: *mut bindings::rb_node, stop: *mut bindings::rb_node) {
    while !core::ptr::eq(rb, stop) {
        // SAFETY: By the safety requirements; null is an ancestor of the root.
        let Some((old, new)) = (unsafe { Links::at(rb) })
            // SAFETY: As above.
            .map(|links| (links.summary, unsafe { links.summarise() }))
        else {
            return;
        };
        if old == new {
            return;
        }
        // SAFETY: The links are valid, and nobody else uses them. The reference above has ended.
        unsafe { (*rb.cast::<Links>()).summary = new };
        // SAFETY: As above.
        rb = unsafe { bindings::rb_parent(rb) };
    }
}

/// `new` takes the place of `old`.
///
/// # Safety
///
/// Both are in links that nobody else uses.
unsafe extern "C" fn copy(old: *mut bindings::rb_node, new: *mut bindings::rb_node) {
    // SAFETY: By the safety requirements.
    unsafe { (*new.cast::<Links>()).summary = (*old.cast::<Links>()).summary };
}

/// `new`, which was a child of `old`, has become its parent.
///
/// # Safety
///
/// Both are in links that are in a tree, which nobody else uses.
unsafe extern "C" fn rotate(old: *mut bindings::rb_node, new: *mut bindings::rb_node) {
    // SAFETY: By the safety requirements.
    unsafe { copy(old, new) };
    // SAFETY: By the safety requirements.
    let summary = unsafe { (*old.cast::<Links>()).summarise() };
    // SAFETY: By the safety requirements.
    unsafe { (*old.cast::<Links>()).summary = summary };
}

static CALLBACKS: bindings::rb_augment_callbacks = bindings::rb_augment_callbacks {
    propagate: Some(propagate),
    copy: Some(copy),
    rotate: Some(rotate),
};

/// A range and its value: the element of a [`GapTree`].
///
/// # Invariants
///
/// * `links.start <= links.last`, and neither changes while the node is in a tree.
/// * The other fields of `links` belong to the tree that the node is in, if any. They are written
///   only while that tree is borrowed exclusively.
#[repr(C)]
pub struct Node<T> {
    /// Must be the first field: a pointer to it is a pointer to the node.
    links: Links,
    value: T,
}

// SAFETY: The pointers in `links` are private to the tree, whose methods follow them only under the
// borrow of the whole tree; what can be reached through a node alone is its range and value.
unsafe impl<T: Send> Send for Node<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Node<T> {}

impl<T> Node<T> {
    /// Creates a node for the closed range `[start, last]` that is in no tree yet.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`, `ENOMEM` if memory is short.
    #[inline]
    pub fn new(start: usize, last: usize, value: T, flags: Flags) -> Result<KBox<Self>> {
        if start > last {
            return Err(EINVAL);
        }
        NodeReservation::new(flags)?.fill(start, last, value)
    }

    /// The first position in the range.
    #[inline]
    pub fn start(&self) -> usize {
        self.links.start
    }

    /// The last position in the range (inclusive).
    #[inline]
    pub fn last(&self) -> usize {
        self.links.last
    }

    /// How C sees the node, and behind it the first and the last position as `unsigned long`.
    ///
    /// It is valid as long as the node is borrowed. C may use it to read the node, and those that
    /// it steps to from there as long as their tree is borrowed.
    #[inline]
    pub fn as_ptr(&self) -> *const bindings::rb_node {
        from_ref(self).cast()
    }

    /// The value that belongs to the range.
    #[inline]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value that belongs to the range, for writing.
    #[inline]
    pub fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    /// Changes the range of a node that is in no tree.
    ///
    /// Trees lend their nodes as `&Node<T>` only, so the exclusive borrow shows that it is in none.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`; the node stays as it is.
    #[inline]
    pub fn set_range(&mut self, start: usize, last: usize) -> Result {
        if start > last {
            return Err(EINVAL);
        }

        // INVARIANT: Checked above.
        self.links.start = start;
        self.links.last = last;
        Ok(())
    }

    /// Takes the value out of a node that is in no tree.
    #[inline]
    pub fn into_value(node: KBox<Self>) -> T {
        KBox::into_inner(node).value
    }
}

/// The memory of a [`Node`], for code that learns its range where it cannot allocate.
pub struct NodeReservation<T> {
    memory: KBox<MaybeUninit<Node<T>>>,
}

impl<T> NodeReservation<T> {
    /// Allocates the memory of a node.
    #[inline]
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self {
            memory: KBox::new_uninit(flags)?,
        })
    }

    /// Makes the node for the closed range `[start, last]`. Needs no memory.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`.
    #[inline]
    pub fn fill(self, start: usize, last: usize, value: T) -> Result<KBox<Node<T>>> {
        if start > last {
            return Err(EINVAL);
        }

        // INVARIANT: The range was checked above.
        let node = Node {
            links: Links {
                rb: bindings::rb_node::default(),
                start,
                last,
                summary: Links::leaf(start, last),
            },
            value,
        };
        Ok(KBox::write(self.memory, node))
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
///
/// # Invariants
///
/// * Each node that is linked into `root` came out of [`KBox::into_raw`] as a `Node<T>`, is linked
///   exactly once, and is owned by this tree.
/// * The ranges of the nodes are disjoint and in order, and each node's summary is that of its
///   subtree.
pub struct GapTree<T> {
    /// No node points back to it, so that a tree may be moved.
    root: bindings::rb_root,
    _owns: PhantomData<KBox<Node<T>>>,
}

// SAFETY: The tree owns its nodes and values, and gives out `&mut T` to the owner of the tree only.
unsafe impl<T: Send> Send for GapTree<T> {}
// SAFETY: Through `&GapTree<T>` the links are only read and values are only reached as `&T`.
unsafe impl<T: Sync> Sync for GapTree<T> {}

impl<T> Default for GapTree<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> GapTree<T> {
    /// Creates an empty tree.
    pub const fn new() -> Self {
        // INVARIANT: No node is linked into an empty root.
        Self {
            root: bindings::rb_root {
                rb_node: null_mut(),
            },
            _owns: PhantomData,
        }
    }

    /// Returns whether there is no range in the tree.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root.rb_node.is_null()
    }

    /// Inserts a node.
    ///
    /// # Errors
    ///
    /// The node, if its range overlaps one that is in the tree.
    pub fn insert(&mut self, node: KBox<Node<T>>) -> Result<(), KBox<Node<T>>> {
        let (start, last) = (node.start(), node.last());
        let mut link: *mut *mut bindings::rb_node = &mut self.root.rb_node;
        let mut parent = null_mut::<bindings::rb_node>();

        loop {
            // SAFETY: `link` is that of the root, or of a node of this tree.
            let rb = unsafe { *link };
            let at = rb.cast::<Links>();
            if at.is_null() {
                break;
            }
            // SAFETY: Not null, thus a node of this tree, which is borrowed exclusively.
            let (at_start, at_last) = unsafe { ((*at).start, (*at).last) };
            parent = rb;
            link = if last < at_start {
                // SAFETY: As above.
                unsafe { &raw mut (*rb).rb_left }
            } else if start > at_last {
                // SAFETY: As above.
                unsafe { &raw mut (*rb).rb_right }
            } else {
                return Err(node);
            };
        }

        let node = KBox::into_raw(node);
        // SAFETY: The node is valid and in no tree.
        unsafe { (*node).links.summary = Links::leaf(start, last) };
        // INVARIANT: The tree owns the box from here on. Its place was found by order, and no range
        // overlaps it. The summaries of its ancestors are updated before the tree is balanced.
        // SAFETY: `link` is the null link of `parent`, or of the root, that the node belongs at.
        unsafe {
            bindings::rb_link_node(node.cast(), parent, link);
            propagate(parent, null_mut());
            bindings::__rb_insert_augmented(node.cast(), &mut self.root, Some(rotate));
        }
        Ok(())
    }

    /// Finds the first node that does not end before `start`.
    #[inline]
    fn lower_bound(&self, start: usize) -> Option<NonNull<Node<T>>> {
        let (mut rb, mut found) = (self.root.rb_node, None);

        while let Some(node) = NonNull::new(rb.cast::<Node<T>>()) {
            // SAFETY: It is in this tree, which is borrowed.
            let links = unsafe { &node.as_ref().links };

            rb = if links.last >= start {
                found = Some(node);
                links.rb.rb_left
            } else {
                links.rb.rb_right
            };
        }
        found
    }

    /// Finds the first node that intersects `[start, last]`.
    #[inline]
    fn find(&self, start: usize, last: usize) -> Option<NonNull<Node<T>>> {
        let node = self.lower_bound(start)?;

        // SAFETY: It is in this tree, which is borrowed.
        (start <= last && unsafe { node.as_ref() }.start() <= last).then_some(node)
    }

    /// Finds the node after `node`, if it does not start behind `last`.
    ///
    /// # Safety
    ///
    /// `node` is in this tree.
    #[inline]
    unsafe fn find_next(&self, node: NonNull<Node<T>>, last: usize) -> Option<NonNull<Node<T>>> {
        // SAFETY: By the safety requirements; this only reads nodes.
        let next = unsafe { bindings::rb_next(node.as_ptr().cast()) };
        let next = NonNull::new(next.cast::<Node<T>>())?;

        // SAFETY: It is in this tree, too.
        (unsafe { next.as_ref() }.start() <= last).then_some(next)
    }

    /// Unlinks a node and gives its ownership to the caller.
    ///
    /// # Safety
    ///
    /// `node` is in this tree, and nobody borrows it.
    #[inline]
    unsafe fn unlink(&mut self, node: NonNull<Node<T>>) -> KBox<Node<T>> {
        // SAFETY: By the safety requirements.
        unsafe {
            bindings::rb_erase_augmented(node.as_ptr().cast(), &mut self.root, &CALLBACKS);
        }

        // SAFETY: By the type invariant it came out of `KBox::into_raw`, and the tree, which owned
        // it until now, has just forgotten it.
        unsafe { KBox::from_raw(node.as_ptr()) }
    }

    /// Returns the first range that intersects `[start, last]`. Nothing does if `start > last`.
    #[inline]
    pub fn first(&self, start: usize, last: usize) -> Option<&Node<T>> {
        // SAFETY: By the type invariant it is a valid node of this tree, which stays borrowed.
        self.find(start, last).map(|node| unsafe { node.as_ref() })
    }

    /// Returns the first range that intersects `[start, last]`, to change its value or to remove
    /// it.
    #[inline]
    pub fn first_mut(&mut self, start: usize, last: usize) -> Option<Entry<'_, T>> {
        let node = self.find(start, last)?;

        // INVARIANT: `find()` returns nodes of this tree.
        Some(Entry { tree: self, node })
    }

    /// Removes the first range that intersects `[start, last]` and returns it. Needs no memory.
    #[inline]
    pub fn remove_first(&mut self, start: usize, last: usize) -> Option<KBox<Node<T>>> {
        Some(self.first_mut(start, last)?.remove())
    }

    /// Iterates over the ranges that intersect `[start, last]`, in order.
    #[inline]
    pub fn iter(&self, start: usize, last: usize) -> Iter<'_, T> {
        // INVARIANT: `find()` returns nodes of this tree.
        Iter {
            tree: self,
            next: self.find(start, last),
            last,
        }
    }

    /// Calls `f` with each range that intersects `[start, last]`, in order, and its value for
    /// writing. Stops at the first error.
    pub fn try_for_each_mut<E>(
        &mut self,
        start: usize,
        last: usize,
        mut f: impl FnMut(&mut Entry<'_, T>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut cursor = self.find(start, last);

        while let Some(node) = cursor {
            // INVARIANT: `node` is in this tree: an entry borrowed by `f` cannot be removed.
            f(&mut Entry { tree: self, node })?;
            // SAFETY: As above.
            cursor = unsafe { self.find_next(node, last) };
        }
        Ok(())
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
        let Some(node) = self.lower_bound(from) else {
            return Some((from, None));
        };
        // SAFETY: It is in this tree, which is borrowed.
        let node = unsafe { &node.as_ref().links };
        let fits = |gap: usize| gap > more;

        // The one that `from` may be in the middle of.
        if node.start > from && fits(node.start - from) {
            return Some((from, Some(node.start - 1)));
        }
        // SAFETY: The tree is borrowed.
        unsafe { node.gap_after(fits) }
    }
}

impl Links {
    /// Finds the first gap behind this node that fits. See [`GapTree::find_gap`].
    ///
    /// # Safety
    ///
    /// The links are in a tree that does not change meanwhile.
    unsafe fn gap_after(&self, fits: impl Fn(usize) -> bool) -> Option<(usize, Option<usize>)> {
        let mut at = self;

        loop {
            // SAFETY: The tree does not change.
            if let Some(right) = unsafe { at.right() } {
                if fits(gap_between(at.last, right.summary.start)) {
                    return Some((at.last + 1, Some(right.summary.start - 1)));
                }
                if fits(right.summary.gap) {
                    // SAFETY: The tree does not change.
                    return unsafe { right.first_gap(fits) };
                }
            }

            // All of the subtree is done: go on behind the first ancestor that it is left of.
            let done = loop {
                let child = at;
                // SAFETY: The tree does not change.
                let Some(parent) = (unsafe { at.parent() }) else {
                    // The last range of all may end where positions do.
                    return Some((at.summary.last.checked_add(1)?, None));
                };

                at = parent;
                if core::ptr::eq(at.rb.rb_left.cast(), child) {
                    break child.summary.last;
                }
            };
            if fits(gap_between(done, at.start)) {
                return Some((done + 1, Some(at.start - 1)));
            }
        }
    }

    /// Finds the first gap in the subtree of this node that fits; there is one.
    ///
    /// # Safety
    ///
    /// The links are in a tree that does not change meanwhile.
    unsafe fn first_gap(&self, fits: impl Fn(usize) -> bool) -> Option<(usize, Option<usize>)> {
        let mut at = self;

        loop {
            // SAFETY: The tree does not change.
            if let Some(left) = unsafe { at.left() } {
                if fits(left.summary.gap) {
                    at = left;
                    continue;
                }
                if fits(gap_between(left.summary.last, at.start)) {
                    return Some((left.summary.last + 1, Some(at.start - 1)));
                }
            }
            // SAFETY: The tree does not change.
            let right = unsafe { at.right() }?;
            if fits(gap_between(at.last, right.summary.start)) {
                return Some((at.last + 1, Some(right.summary.start - 1)));
            }
            at = right;
        }
    }
}

impl<T> Drop for GapTree<T> {
    fn drop(&mut self) {
        while let Some(node) = self.remove_first(0, usize::MAX) {
            drop(node);
        }
    }
}

/// Exclusive access to one range of a tree.
///
/// # Invariants
///
/// `node` is in `tree`.
pub struct Entry<'a, T> {
    tree: &'a mut GapTree<T>,
    node: NonNull<Node<T>>,
}

impl<'a, T> Entry<'a, T> {
    /// Returns the node, for reading.
    ///
    /// There is no way to get a `&mut Node<T>` of a tree: swapping two of them would tear the tree.
    #[inline]
    pub fn node(&self) -> &Node<T> {
        // SAFETY: By the type invariant the node is valid, and `self` is borrowed.
        unsafe { self.node.as_ref() }
    }

    /// Returns the value, for writing.
    #[inline]
    pub fn value_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant the node is valid; the tree is borrowed exclusively by
        // `self`, which is borrowed exclusively. The links are not covered by the reference.
        unsafe { &mut (*self.node.as_ptr()).value }
    }

    /// Returns the value, for writing as long as the tree is borrowed.
    #[inline]
    pub fn into_value_mut(self) -> &'a mut T {
        // SAFETY: As for `value_mut()`; `self` is consumed, and the tree stays borrowed for `'a`.
        unsafe { &mut (*self.node.as_ptr()).value }
    }

    /// Removes the range from the tree. Needs no memory.
    #[inline]
    pub fn remove(self) -> KBox<Node<T>> {
        // SAFETY: By the type invariant the node is in this tree; the tree is borrowed exclusively
        // by `self`, which is consumed.
        unsafe { self.tree.unlink(self.node) }
    }
}

/// An iterator over the ranges of a [`GapTree`] that intersect a given one.
///
/// # Invariants
///
/// `next`, if any, is in `tree`.
pub struct Iter<'a, T> {
    tree: &'a GapTree<T>,
    next: Option<NonNull<Node<T>>>,
    last: usize,
}

// SAFETY: It is a shared borrow of the tree.
unsafe impl<T: Sync> Send for Iter<'_, T> {}
// SAFETY: It is a shared borrow of the tree.
unsafe impl<T: Sync> Sync for Iter<'_, T> {}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a Node<T>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let node = self.next?;

        // INVARIANT: `find_next()` returns nodes of the same tree.
        // SAFETY: By the type invariant.
        self.next = unsafe { self.tree.find_next(node, self.last) };
        // SAFETY: By the type invariant the node is valid, and the tree stays borrowed for `'a`.
        Some(unsafe { node.as_ref() })
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
