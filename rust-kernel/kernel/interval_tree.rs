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
//! C header: [`include/linux/interval_tree.h`](srctree/include/linux/interval_tree.h)

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
        NonNull, //
    }, //
};

/// An interval and its value: the element of an [`IntervalTree`].
///
/// # Invariants
///
/// * `raw.start <= raw.last`, and neither changes while the node is in a tree.
/// * The other fields of `raw` belong to the tree that the node is in, if any. They are written
///   only while that tree is borrowed exclusively.
#[repr(C)]
pub struct Node<T> {
    /// Must be the first field: a pointer to it is a pointer to the node.
    raw: bindings::interval_tree_node,
    value: T,
}

// SAFETY: The pointers in `raw` are private to the tree, whose methods follow them only under the
// borrow of the whole tree; what can be reached through a node alone is its interval and value.
unsafe impl<T: Send> Send for Node<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for Node<T> {}

impl<T> Node<T> {
    /// Creates a node for the closed interval `[start, last]` that is in no tree yet.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`, `ENOMEM` if memory is short.
    #[inline]
    pub fn new(start: usize, last: usize, value: T, flags: Flags) -> Result<KBox<Self>> {
        NodeReservation::new(flags)?.fill(start, last, value)
    }

    /// The first position in the interval.
    #[inline]
    pub fn start(&self) -> usize {
        self.raw.start
    }

    /// The last position in the interval (inclusive).
    #[inline]
    pub fn last(&self) -> usize {
        self.raw.last
    }

    /// How C sees the node.
    ///
    /// It is valid as long as the node is borrowed. C may use it to read the node, and those that
    /// it steps to from there as long as their tree is borrowed.
    #[inline]
    pub fn as_ptr(&self) -> *const bindings::interval_tree_node {
        from_ref(self).cast()
    }

    /// The value that belongs to the interval.
    #[inline]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value that belongs to the interval, for writing.
    #[inline]
    pub fn value_mut(&mut self) -> &mut T {
        &mut self.value
    }

    /// Changes the interval of a node that is in no tree.
    ///
    /// Trees lend their nodes as `&Node<T>` only, so the exclusive borrow shows that it is in none.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`; the node stays as it is.
    #[inline]
    pub fn set_interval(&mut self, start: usize, last: usize) -> Result {
        if start > last {
            return Err(EINVAL);
        }

        // INVARIANT: Checked above.
        self.raw.start = start;
        self.raw.last = last;
        Ok(())
    }

    /// Takes the value out of a node that is in no tree.
    #[inline]
    pub fn into_value(node: KBox<Self>) -> T {
        KBox::into_inner(node).value
    }
}

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

    /// Makes the node for the closed interval `[start, last]`. Needs no memory.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`.
    #[inline]
    pub fn fill(self, start: usize, last: usize, value: T) -> Result<KBox<Node<T>>> {
        if start > last {
            return Err(EINVAL);
        }

        // INVARIANT: The interval was checked above.
        let node = Node {
            raw: bindings::interval_tree_node {
                start,
                last,
                ..Default::default()
            },
            value,
        };
        Ok(KBox::write(self.memory, node))
    }
}

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
///
/// # Invariants
///
/// Each node that is linked into `root` came out of [`KBox::into_raw`] as a `Node<T>`, is linked
/// exactly once, and is owned by this tree.
pub struct IntervalTree<T> {
    /// No node points back to it, so that a tree may be moved.
    root: bindings::rb_root_cached,
    _owns: PhantomData<KBox<Node<T>>>,
}

// SAFETY: The tree owns its nodes and values, and gives out `&mut T` to the owner of the tree only.
unsafe impl<T: Send> Send for IntervalTree<T> {}
// SAFETY: Through `&IntervalTree<T>` the links are only read and values are only reached as `&T`.
unsafe impl<T: Sync> Sync for IntervalTree<T> {}

impl<T> Default for IntervalTree<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> IntervalTree<T> {
    /// Creates an empty tree.
    pub const fn new() -> Self {
        // INVARIANT: No node is linked into an empty root.
        Self {
            root: bindings::rb_root_cached {
                rb_root: bindings::rb_root {
                    rb_node: core::ptr::null_mut(),
                },
                rb_leftmost: core::ptr::null_mut(),
            },
            _owns: PhantomData,
        }
    }

    /// Returns whether there is no interval in the tree.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root.rb_root.rb_node.is_null()
    }

    /// Inserts a node.
    #[inline]
    pub fn insert(&mut self, node: KBox<Node<T>>) {
        let node = KBox::into_raw(node);

        // INVARIANT: The tree owns the box from here on; that it was a box shows that it was in no
        // tree.
        // SAFETY: The node and the root are valid and borrowed by nobody else.
        unsafe { bindings::interval_tree_insert(node.cast(), &mut self.root) };
    }

    /// Finds the first node that intersects `[start, last]`.
    #[inline]
    fn find(&self, start: usize, last: usize) -> Option<NonNull<Node<T>>> {
        // The C function makes no sense of an inverted query, it would return nearby intervals.
        if start > last {
            return None;
        }

        let root = from_ref(&self.root).cast_mut();

        // SAFETY: The root is valid, and this only reads it and its nodes.
        NonNull::new(unsafe { bindings::interval_tree_iter_first(root, start, last) }.cast())
    }

    /// Finds the node after `node` that intersects `[start, last]`.
    ///
    /// # Safety
    ///
    /// `node` is in this tree, and `start <= last`.
    #[inline]
    unsafe fn find_next(
        &self,
        node: NonNull<Node<T>>,
        start: usize,
        last: usize,
    ) -> Option<NonNull<Node<T>>> {
        // SAFETY: The node is valid as it is in this tree; this only reads it and its neighbours.
        let next = unsafe { bindings::interval_tree_iter_next(node.as_ptr().cast(), start, last) };

        NonNull::new(next.cast())
    }

    /// Unlinks a node and gives its ownership to the caller.
    ///
    /// # Safety
    ///
    /// `node` is in this tree, and nobody borrows it.
    #[inline]
    unsafe fn unlink(&mut self, node: NonNull<Node<T>>) -> KBox<Node<T>> {
        // SAFETY: By the safety requirements.
        unsafe { bindings::interval_tree_remove(node.as_ptr().cast(), &mut self.root) };

        // SAFETY: By the type invariant it came out of `KBox::into_raw`, and the tree, which owned
        // it until now, has just forgotten it.
        unsafe { KBox::from_raw(node.as_ptr()) }
    }

    /// Returns the first interval that intersects `[start, last]`.
    ///
    /// "First" is the one with the smallest start. Nothing intersects if `start > last`.
    #[inline]
    pub fn first(&self, start: usize, last: usize) -> Option<&Node<T>> {
        // SAFETY: By the type invariant it is a valid node of this tree, which stays borrowed.
        self.find(start, last).map(|node| unsafe { node.as_ref() })
    }

    /// Returns the first interval that intersects `[start, last]`, to change its value or to
    /// remove it.
    #[inline]
    pub fn first_mut(&mut self, start: usize, last: usize) -> Option<Entry<'_, T>> {
        let node = self.find(start, last)?;

        // INVARIANT: `find()` returns nodes of this tree.
        Some(Entry { tree: self, node })
    }

    /// Returns the first interval that intersects `[start, last]` and satisfies `pred`, to change
    /// its value or to remove it.
    #[inline]
    pub fn find_mut(
        &mut self,
        start: usize,
        last: usize,
        mut pred: impl FnMut(&Node<T>) -> bool,
    ) -> Option<Entry<'_, T>> {
        let mut cursor = self.find(start, last);

        while let Some(node) = cursor {
            // SAFETY: The node is valid, and the tree is borrowed.
            if pred(unsafe { node.as_ref() }) {
                // INVARIANT: `node` is in this tree.
                return Some(Entry { tree: self, node });
            }
            // SAFETY: `node` is in this tree, and as it was found, `start <= last`.
            cursor = unsafe { self.find_next(node, start, last) };
        }
        None
    }

    /// Removes the first interval that intersects `[start, last]` and returns it.
    #[inline]
    pub fn remove_first(&mut self, start: usize, last: usize) -> Option<KBox<Node<T>>> {
        Some(self.first_mut(start, last)?.remove())
    }

    /// Iterates over the intervals that intersect `[start, last]`, ordered by their start.
    #[inline]
    pub fn iter(&self, start: usize, last: usize) -> Iter<'_, T> {
        // INVARIANT: `find()` returns nodes of this tree, and none if `start > last`.
        Iter {
            tree: self,
            next: self.find(start, last),
            start,
            last,
        }
    }

    /// Calls `f` with each interval that intersects `[start, last]`, ordered by their start, and
    /// its value for writing. Stops at the first error.
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
            // SAFETY: As above; a node was found, so `start <= last`.
            cursor = unsafe { self.find_next(node, start, last) };
        }
        Ok(())
    }

    /// Removes and frees all intervals for which `keep` returns `false`. Needs no memory.
    pub fn retain(&mut self, mut keep: impl FnMut(&Node<T>) -> bool) {
        let mut cursor = self.find(0, usize::MAX);

        while let Some(node) = cursor {
            // Step first: the links of a removed node are gone, those of its successor stay valid.
            //
            // SAFETY: `node` is in this tree.
            cursor = unsafe { self.find_next(node, 0, usize::MAX) };
            // SAFETY: The node is valid, and the tree is borrowed exclusively.
            if !keep(unsafe { node.as_ref() }) {
                // SAFETY: It is in this tree, and the borrow of the line above has ended.
                drop(unsafe { self.unlink(node) });
            }
        }
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
            let root = from_ref(&self.root).cast_mut();

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

impl<T> Drop for IntervalTree<T> {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}

/// Exclusive access to one interval of a tree.
///
/// # Invariants
///
/// `node` is in `tree`.
pub struct Entry<'a, T> {
    tree: &'a mut IntervalTree<T>,
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

    /// Removes the interval from the tree. Needs no memory.
    #[inline]
    pub fn remove(self) -> KBox<Node<T>> {
        // SAFETY: By the type invariant the node is in this tree; the tree is borrowed exclusively
        // by `self`, which is consumed.
        unsafe { self.tree.unlink(self.node) }
    }
}

/// An iterator over the intervals of an [`IntervalTree`] that intersect a given one.
///
/// # Invariants
///
/// `next`, if any, is in `tree`, and then `start <= last`.
pub struct Iter<'a, T> {
    tree: &'a IntervalTree<T>,
    next: Option<NonNull<Node<T>>>,
    start: usize,
    last: usize,
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        // INVARIANT: Those of `self` hold for the copy.
        Self { ..*self }
    }
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
        self.next = unsafe { self.tree.find_next(node, self.start, self.last) };
        // SAFETY: By the type invariant the node is valid, and the tree stays borrowed for `'a`.
        Some(unsafe { node.as_ref() })
    }
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
