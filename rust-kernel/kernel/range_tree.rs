// SPDX-License-Identifier: GPL-2.0

//! What the owning trees of ranges have in common: nodes, their owner, and how they are reached.
//!
//! [`GapTree`] and [`IntervalTree`] differ in what nodes know and how they are searched, which they
//! tell as [`Links`]. They share the rest, and the argument why it is sound:
//!
//! - *One owner.* A node comes into being in a box. [`Tree::link`] takes the box, unlinking gives
//!   it back. So a node is in one tree at most, and who has its box, or a `&mut Node`, has one that
//!   is in no tree.
//! - *Links change under an exclusive borrow of the tree only.* A tree lends its nodes as `&Node`
//!   and its values as `&mut T`, never as `&mut Node`: two nodes cannot be swapped, nor a range be
//!   changed behind the tree's back.
//! - *A pointer to a node is kept with a borrow of its tree.* That is what [`At`] and [`Entry`]
//!   are.
//! - *Code of the caller runs with a node in the tree only if it cannot take it out.* It gets a
//!   `&Node` or a `&mut T`. It must not get a `&mut Entry`: it could put another one there, and
//!   remove that which it got.
//! - *The root may move.* No node points back to it.
//!
//! [`GapTree`]: crate::gap_tree::GapTree
//! [`IntervalTree`]: crate::interval_tree::IntervalTree

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
    ptr::NonNull, //
};

/// The part of a [`Node`] by which a kind of tree links and finds it.
///
/// # Safety
///
/// - A root has the nodes that were linked to it and not unlinked since; `EMPTY` has none.
///   `first()` and `next()` return nodes of that root only.
/// - `first()` and `next()` only read, and each function uses no memory but the root and its nodes.
/// - Roots may be moved. So may links that are in no tree.
/// - Roots and links may be used and dropped on any thread.
pub unsafe trait Links: Sized {
    /// Where a tree begins.
    type Root;

    /// Why a node may not be linked.
    type Refusal;

    /// The root of a tree without nodes.
    const EMPTY: Self::Root;

    /// Links of the closed range `[start, last]` that are in no tree.
    fn new(start: usize, last: usize) -> Self;

    /// The first and the last position of the range.
    fn range(&self) -> (usize, usize);

    /// Changes the range of links that are in no tree.
    fn set_range(&mut self, start: usize, last: usize);

    /// Returns whether a tree has no nodes.
    fn is_empty(root: &Self::Root) -> bool;

    /// Finds the first node that intersects `[start, last]`.
    ///
    /// # Safety
    ///
    /// The nodes of `root` are valid for reading, and `start <= last`.
    unsafe fn first(root: &Self::Root, start: usize, last: usize) -> Option<NonNull<Self>>;

    /// Finds the node behind `node` that intersects `[start, last]`.
    ///
    /// # Safety
    ///
    /// `node` is in a tree, whose nodes are valid for reading, and `start <= last`.
    unsafe fn next(node: NonNull<Self>, start: usize, last: usize) -> Option<NonNull<Self>>;

    /// Makes `node` part of a tree. It is in no tree still if this refuses to.
    ///
    /// # Safety
    ///
    /// `node` is in no tree. It and the nodes of `root` are valid, and used by nobody else.
    unsafe fn link(root: &mut Self::Root, node: NonNull<Self>) -> Result<(), Self::Refusal>;

    /// Takes `node` out of its tree.
    ///
    /// # Safety
    ///
    /// `node` is in the tree of `root`, whose nodes are valid, and used by nobody else.
    unsafe fn unlink(root: &mut Self::Root, node: NonNull<Self>);

    /// Takes the first node off what is left of a tree that is being taken to pieces.
    ///
    /// # Safety
    ///
    /// The nodes of `root` are valid, and used by nobody else. Nothing but this is done with `root`
    /// from now on.
    unsafe fn pop_first(root: &mut Self::Root) -> Option<NonNull<Self>>;
}

/// As [`Links::pop_first`] for a tree of `rb_node`s: it becomes a list as far as need be, which
/// costs no more than two steps for each node, and is not balanced any more.
///
/// # Safety
///
/// `root` is null or that of a binary tree whose nodes are valid, and used by nobody else.
#[inline]
pub(crate) unsafe fn pop_first(
    root: &mut *mut bindings::rb_node,
) -> Option<NonNull<bindings::rb_node>> {
    let mut top = NonNull::new(*root)?;

    // SAFETY: By the safety requirements. A node and its left child change places.
    unsafe {
        while let Some(mut left) = NonNull::new(top.as_ref().rb_left) {
            top.as_mut().rb_left = left.as_ref().rb_right;
            left.as_mut().rb_right = top.as_ptr();
            top = left;
        }
        *root = top.as_ref().rb_right;
    }
    Some(top)
}

/// A range and its value: the element of a tree.
///
/// # Invariants
///
/// The range of `links` is in order. While the node is in a tree, `links` belong to that tree.
#[repr(C)]
pub struct Node<L, T> {
    /// Must be the first field: a pointer to it is a pointer to the node.
    links: L,
    value: T,
}

// SAFETY: Links may be used on any thread, by the requirements of `Links`. What can be reached
// through a node alone is its range and value.
unsafe impl<L: Links, T: Send> Send for Node<L, T> {}
// SAFETY: Links may be used on any thread, by the requirements of `Links`. Through `&Node` the
// value is only reached as `&T`.
unsafe impl<L: Links, T: Sync> Sync for Node<L, T> {}

impl<L: Links, T> Node<L, T> {
    /// Creates a node for the closed range `[start, last]` that is in no tree yet.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `start > last`, `ENOMEM` if memory is short.
    #[inline]
    pub fn new(start: usize, last: usize, value: T, flags: Flags) -> Result<KBox<Self>> {
        NodeReservation::new(flags)?.fill(start, last, value)
    }

    /// The first position in the range.
    #[inline]
    pub fn start(&self) -> usize {
        self.links.range().0
    }

    /// The last position in the range (inclusive).
    #[inline]
    pub fn last(&self) -> usize {
        self.links.range().1
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
    /// Trees lend their nodes as `&Node` only, so the exclusive borrow shows that it is in none.
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
        self.links.set_range(start, last);
        Ok(())
    }

    /// Takes the value out of a node that is in no tree.
    #[inline]
    pub fn into_value(node: KBox<Self>) -> T {
        KBox::into_inner(node).value
    }
}

/// The memory of a [`Node`], for code that learns its range where it cannot allocate.
pub struct NodeReservation<L, T> {
    memory: KBox<MaybeUninit<Node<L, T>>>,
}

impl<L: Links, T> NodeReservation<L, T> {
    /// Allocates the memory of a node.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if memory is short.
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
    #[inline(always)]
    pub fn fill(self, start: usize, last: usize, value: T) -> Result<KBox<Node<L, T>>> {
        if start > last {
            return Err(EINVAL);
        }

        // INVARIANT: The range was checked above.
        let node = Node {
            links: L::new(start, last),
            value,
        };
        Ok(KBox::write(self.memory, node))
    }
}

/// A node that a tree has refused to link, and why.
pub(crate) type Refused<L, T> = (KBox<Node<L, T>>, <L as Links>::Refusal);

/// A tree of closed ranges that owns its nodes.
///
/// # Invariants
///
/// Each node of `root` is the `links` of a `Node<L, T>` that came out of [`KBox::into_raw`], and is
/// owned by this tree.
pub struct Tree<L: Links, T> {
    root: L::Root,
    _owns: PhantomData<KBox<Node<L, T>>>,
}

// SAFETY: Roots and links may be used on any thread, by the requirements of `Links`. The tree owns
// its values, and gives out `&mut T` to the owner of the tree only.
unsafe impl<L: Links, T: Send> Send for Tree<L, T> {}
// SAFETY: Roots and links may be used on any thread, by the requirements of `Links`. Through
// `&Tree` links are only read, and values are only reached as `&T`.
unsafe impl<L: Links, T: Sync> Sync for Tree<L, T> {}

impl<L: Links, T> Default for Tree<L, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Links, T> Tree<L, T> {
    /// Creates an empty tree.
    pub const fn new() -> Self {
        // INVARIANT: There are no nodes.
        Self {
            root: L::EMPTY,
            _owns: PhantomData,
        }
    }

    /// Returns whether there is no range in the tree.
    #[inline]
    pub fn is_empty(&self) -> bool {
        L::is_empty(&self.root)
    }

    /// The root, whose nodes are valid and do not change while the tree is borrowed.
    #[inline]
    pub(crate) fn root(&self) -> &L::Root {
        &self.root
    }

    /// Moves nodes to a tree of their own, whose root `f` returns.
    ///
    /// # Safety
    ///
    /// After `f`, each node that was in the tree is in one of both.
    #[inline]
    pub(crate) unsafe fn divide(&mut self, f: impl FnOnce(&mut L::Root) -> L::Root) -> Self {
        // INVARIANT: What one tree owned is owned by one of two.
        Self {
            root: f(&mut self.root),
            _owns: PhantomData,
        }
    }

    /// Empties the tree.
    #[inline]
    fn take_apart(&mut self) -> IntoIter<L, T> {
        // INVARIANT: The nodes of the root were owned by the tree, which has none any more.
        IntoIter {
            root: core::mem::replace(&mut self.root, L::EMPTY),
            _owns: PhantomData,
        }
    }

    /// Makes a node part of the tree. It comes back with the reason if the tree refuses it.
    #[inline]
    pub(crate) fn link(&mut self, node: KBox<Node<L, T>>) -> Result<(), Refused<L, T>> {
        let node = NonNull::from(KBox::leak(node));

        // INVARIANT: It was a box, which the tree owns from here on unless it refuses.
        // SAFETY: A node of which there is a box is in no tree, and borrowed by nobody; so are the
        // nodes of this tree, which is borrowed exclusively.
        unsafe { L::link(&mut self.root, node.cast()) }.map_err(|refusal| {
            // SAFETY: It is the box of above, and not in the tree.
            (unsafe { KBox::from_raw(node.as_ptr()) }, refusal)
        })
    }

    /// Finds the first node that intersects `[start, last]`.
    #[inline]
    fn find(&self, start: usize, last: usize) -> Option<At<'_, L, T>> {
        if start > last {
            return None;
        }

        // SAFETY: By the type invariants the nodes are valid, and they are borrowed with the tree;
        // the range was checked above.
        let links = unsafe { L::first(&self.root, start, last) }?;

        // INVARIANT: `first()` returns nodes of this tree.
        Some(At(links.cast(), PhantomData))
    }

    /// Returns the node that `search` finds.
    ///
    /// # Safety
    ///
    /// `search` returns a node of the root that it gets, and only reads.
    #[inline]
    pub(crate) unsafe fn search(
        &self,
        search: impl FnOnce(&L::Root) -> Option<NonNull<L>>,
    ) -> Option<&Node<L, T>> {
        let links = search(&self.root)?;

        // INVARIANT: It is in this tree, by the requirements of this function.
        Some(At::<L, T>(links.cast(), PhantomData).node())
    }

    /// Returns the node that `search` finds, to change its value or to remove it.
    ///
    /// # Safety
    ///
    /// As for [`Self::search`].
    #[inline]
    pub(crate) unsafe fn search_mut(
        &mut self,
        search: impl FnOnce(&L::Root) -> Option<NonNull<L>>,
    ) -> Option<Entry<'_, L, T>> {
        let node = search(&self.root)?.cast();

        // INVARIANT: It is in this tree, by the requirements of this function.
        Some(Entry { tree: self, node })
    }

    /// Returns the first range that intersects `[start, last]`: the one with the smallest start.
    /// Nothing does if `start > last`.
    #[inline]
    pub fn first(&self, start: usize, last: usize) -> Option<&Node<L, T>> {
        self.find(start, last).map(At::node)
    }

    /// Returns the first range that intersects `[start, last]`, to change its value or to remove
    /// it.
    #[inline]
    pub fn first_mut(&mut self, start: usize, last: usize) -> Option<Entry<'_, L, T>> {
        let At(node, _) = self.find(start, last)?;

        // INVARIANT: `node` is in this tree.
        Some(Entry { tree: self, node })
    }

    /// Returns the first range that intersects `[start, last]` and satisfies `pred`, to change its
    /// value or to remove it.
    #[inline]
    pub fn find_mut(
        &mut self,
        start: usize,
        last: usize,
        mut pred: impl FnMut(&Node<L, T>) -> bool,
    ) -> Option<Entry<'_, L, T>> {
        let mut cursor = self.find(start, last);

        while let Some(at) = cursor {
            if pred(at.node()) {
                let At(node, _) = at;

                // INVARIANT: `node` is in this tree.
                return Some(Entry { tree: self, node });
            }
            cursor = at.next(start, last);
        }
        None
    }

    /// Removes the first range that intersects `[start, last]` and returns it. Needs no memory.
    #[inline]
    pub fn remove_first(&mut self, start: usize, last: usize) -> Option<KBox<Node<L, T>>> {
        Some(self.first_mut(start, last)?.remove())
    }

    /// Iterates over the ranges that intersect `[start, last]`, ordered by their start.
    #[inline]
    pub fn iter(&self, start: usize, last: usize) -> Iter<'_, L, T> {
        Iter {
            next: self.find(start, last),
            start,
            last,
        }
    }

    /// Calls `f` with the first and the last position of each range that intersects
    /// `[start, last]`, and with its value, ordered by their start. Stops at the first error.
    pub fn try_for_each_mut<E>(
        &mut self,
        start: usize,
        last: usize,
        mut f: impl FnMut((usize, usize), &mut T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut cursor = self.first_mut(start, last);

        while let Some(mut entry) = cursor {
            f(entry.node().links.range(), entry.value_mut())?;
            cursor = entry.next(start, last);
        }
        Ok(())
    }

    /// Removes and frees all ranges for which `keep` returns `false`. Needs no memory.
    pub fn retain(&mut self, mut keep: impl FnMut(&Node<L, T>) -> bool) {
        let mut cursor = self.first_mut(0, usize::MAX);

        while let Some(entry) = cursor {
            cursor = if keep(entry.node()) {
                entry.next(0, usize::MAX)
            } else {
                entry.free_and_next()
            };
        }
    }
}

impl<L: Links, T> Drop for Tree<L, T> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.take_apart().for_each(drop);
        }
    }
}

impl<L: Links, T> IntoIterator for Tree<L, T> {
    type Item = KBox<Node<L, T>>;
    type IntoIter = IntoIter<L, T>;

    #[inline]
    fn into_iter(mut self) -> IntoIter<L, T> {
        self.take_apart()
    }
}

/// An iterator over all nodes of a tree that it takes to pieces, ordered by their start. Needs no
/// memory, and is far cheaper than to remove them.
///
/// # Invariants
///
/// What is left of `root` are nodes that were in a tree and are owned by this.
pub struct IntoIter<L: Links, T> {
    root: L::Root,
    _owns: PhantomData<KBox<Node<L, T>>>,
}

// SAFETY: It owns a tree.
unsafe impl<L: Links, T: Send> Send for IntoIter<L, T> {}
// SAFETY: There are no methods of a shared reference.
unsafe impl<L: Links, T: Sync> Sync for IntoIter<L, T> {}

impl<L: Links, T> Iterator for IntoIter<L, T> {
    type Item = KBox<Node<L, T>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: By the type invariants; nothing else is done with the root.
        let links = unsafe { L::pop_first(&mut self.root) }?;

        // SAFETY: By those of the tree, it came out of a box.
        Some(unsafe { KBox::from_raw(links.as_ptr().cast()) })
    }
}

impl<L: Links, T> Drop for IntoIter<L, T> {
    #[inline]
    fn drop(&mut self) {
        if !L::is_empty(&self.root) {
            self.for_each(drop);
        }
    }
}

/// A node of a tree that is borrowed for `'a`.
///
/// # Invariants
///
/// The node is in the tree.
struct At<'a, L: Links, T>(NonNull<Node<L, T>>, PhantomData<&'a Tree<L, T>>);

impl<L: Links, T> Clone for At<'_, L, T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Links, T> Copy for At<'_, L, T> {}

// SAFETY: It is a shared borrow of the tree.
unsafe impl<L: Links, T: Sync> Send for At<'_, L, T> {}
// SAFETY: It is a shared borrow of the tree.
unsafe impl<L: Links, T: Sync> Sync for At<'_, L, T> {}

impl<'a, L: Links, T> At<'a, L, T> {
    #[inline]
    fn node(self) -> &'a Node<L, T> {
        // SAFETY: By the type invariants the node is in a tree, which is borrowed for `'a`.
        unsafe { self.0.as_ref() }
    }

    /// The next node that intersects `[start, last]`, if `start <= last`.
    #[inline]
    fn next(self, start: usize, last: usize) -> Option<Self> {
        if start > last {
            return None;
        }

        // SAFETY: By the type invariants the node is in a tree, which is borrowed for `'a`; the
        // range was checked above.
        let links = unsafe { L::next(self.0.cast(), start, last) }?;

        // INVARIANT: `next()` returns nodes of the same tree.
        Some(Self(links.cast(), PhantomData))
    }
}

/// Exclusive access to one range of a tree.
///
/// # Invariants
///
/// `node` is in `tree`.
pub struct Entry<'a, L: Links, T> {
    tree: &'a mut Tree<L, T>,
    node: NonNull<Node<L, T>>,
}

impl<'a, L: Links, T> Entry<'a, L, T> {
    #[inline]
    fn at(&self) -> At<'_, L, T> {
        // INVARIANT: By those of `self`, which has the tree borrowed.
        At(self.node, PhantomData)
    }

    /// Returns the node, for reading.
    ///
    /// There is no way to get a `&mut Node` of a tree: swapping two of them would tear the tree.
    #[inline]
    pub fn node(&self) -> &Node<L, T> {
        self.at().node()
    }

    /// Returns the value, for writing.
    #[inline]
    pub fn value_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariants the node is valid; the tree is borrowed exclusively by
        // `self`, which is borrowed exclusively. The reference does not cover the links.
        unsafe { &mut (*self.node.as_ptr()).value }
    }

    /// Returns the value, for writing as long as the tree is borrowed.
    #[inline]
    pub fn into_value_mut(self) -> &'a mut T {
        // SAFETY: By the type invariants the node is valid; the tree is borrowed exclusively for
        // `'a` by `self`, which ends here. The reference does not cover the links.
        unsafe { &mut (*self.node.as_ptr()).value }
    }

    /// Iterates over the ranges behind this one that intersect `[start, last]`.
    #[inline]
    pub fn iter_behind(&self, start: usize, last: usize) -> Iter<'_, L, T> {
        Iter {
            next: self.at().next(start, last),
            start,
            last,
        }
    }

    /// The next range that intersects `[start, last]`.
    #[inline]
    fn next(self, start: usize, last: usize) -> Option<Self> {
        let At(node, _) = self.at().next(start, last)?;

        // INVARIANT: `node` is in the same tree.
        Some(Self { node, ..self })
    }

    /// Removes the range from the tree. Needs no memory.
    #[inline]
    pub fn remove(self) -> KBox<Node<L, T>> {
        // SAFETY: By the type invariants the node is in this tree, which is borrowed exclusively by
        // `self`, and that ends here.
        unsafe { L::unlink(&mut self.tree.root, self.node.cast()) };

        // SAFETY: By the type invariants of the tree it came out of a box, and the tree, which
        // owned it until now, has just forgotten it.
        unsafe { KBox::from_raw(self.node.as_ptr()) }
    }

    /// Frees the range, and goes on to the next one of all.
    fn free_and_next(self) -> Option<Self> {
        // The links of a removed node are gone, those of its successor stay valid.
        let next = self.at().next(0, usize::MAX).map(|At(node, _)| node);
        let Self { tree, node } = self;

        // INVARIANT: `node` is that of `self`.
        drop(
            Entry {
                tree: &mut *tree,
                node,
            }
            .remove(),
        );
        // INVARIANT: `next` was in the tree, from which another node was taken.
        next.map(|node| Self { tree, node })
    }
}

/// An iterator over the ranges of a tree that intersect a given one.
pub struct Iter<'a, L: Links, T> {
    next: Option<At<'a, L, T>>,
    start: usize,
    last: usize,
}

impl<L: Links, T> Clone for Iter<'_, L, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, L: Links, T> Iterator for Iter<'a, L, T> {
    type Item = &'a Node<L, T>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next?;

        self.next = at.next(self.start, self.last);
        Some(at.node())
    }
}
