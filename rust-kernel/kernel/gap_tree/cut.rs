// SPDX-License-Identifier: GPL-2.0

//! Taking neighbours out of a tree, all at once.
//!
//! To remove ranges one by one costs a search, the balance and the summaries of all ancestors, for
//! each of them. Here the tree is *split* before the first and behind the last of them, and what is
//! left is *joined*: `O(log n)`, however many they are. What is taken is a tree, too.
//!
//! To join two trees of different height by a node that belongs between them, go down the side of
//! the higher one to a subtree that has the height of the lower one. The node takes its place, in
//! red, with that subtree and the lower tree as its children. This is how a tree looks in the midst
//! of an insertion, which is left to balance it. To split a tree, go up from the place of the cut
//! and join what is on either side, by the nodes on the way. Heights are counts of black nodes.
//!
//! To join costs as many steps as the heights differ: so long is the way down, and the way up on
//! which the insertion balances the tree and the summaries are updated. The heights of what a split
//! joins only grow on the way up, and those of what it is joined to follow them: the differences
//! add up to `O(log n)`. For this, a height must be known without counting.

use super::{
    propagate,
    rotate,
    Links,
    Seen, //
};
use crate::{
    bindings,
    ffi::c_int,
    range_tree::Links as _, //
};
use core::ptr::{
    null_mut,
    NonNull, //
};

const BLACK: c_int = bindings::RB_BLACK as c_int;

/// A tree without an owner.
///
/// # Invariants
///
/// `root` is null or that of a red-black tree of [`Links`], which is valid and used by nobody else;
/// the root is black. There are `height` black nodes on the way from it to each null link.
struct Part {
    root: *mut bindings::rb_node,
    height: usize,
}

impl Part {
    // INVARIANT: There is no node.
    const EMPTY: Self = Self {
        root: null_mut(),
        height: 0,
    };

    /// A subtree, which had `height` black nodes in each way, on its own.
    ///
    /// # Safety
    ///
    /// `root` is null or of a subtree that is valid and used by nobody else, nor by its parent.
    #[inline]
    unsafe fn of_child(root: *mut bindings::rb_node, height: usize) -> Self {
        if root.is_null() {
            return Self::EMPTY;
        }

        // SAFETY: By the safety requirements.
        let red = !unsafe { is_black(root) };
        // SAFETY: By the safety requirements; the parent has it no more.
        unsafe { bindings::rb_set_parent_color(root, null_mut(), BLACK) };
        // INVARIANT: Black now, which makes one more if it was not before.
        Self {
            root,
            height: height + usize::from(red),
        }
    }

    /// A whole tree.
    ///
    /// # Safety
    ///
    /// `root` is as the invariants say.
    unsafe fn of_root(root: *mut bindings::rb_node) -> Self {
        let (mut at, mut height) = (root, 0);

        while !at.is_null() {
            // SAFETY: By the safety requirements.
            height += usize::from(unsafe { is_black(at) });
            // SAFETY: By the safety requirements; it is not null.
            at = unsafe { (*at).rb_left };
        }
        // INVARIANT: As many on one way as on all.
        Self { root, height }
    }

    /// Makes one tree of all of `left`, `mid`, and all of `right`, in this order.
    ///
    /// # Safety
    ///
    /// `mid` is in links that are valid, in no tree, and used by nobody else. They belong between
    /// `left` and `right`.
    unsafe fn join(left: Self, mid: *mut bindings::rb_node, right: Self) -> Self {
        let left_is_higher = left.height > right.height;
        let (high, low) = if left_is_higher {
            (&left, &right)
        } else {
            (&right, &left)
        };
        let (mut parent, mut at, mut height) = (null_mut(), high.root, high.height);

        // SAFETY: By the type invariants. A null link, which is as good as black, has height zero.
        while height > low.height || !unsafe { is_black(at) } {
            // SAFETY: By the type invariants; it is not null.
            height -= usize::from(unsafe { is_black(at) });
            parent = at;
            // SAFETY: By the type invariants; it is not null.
            at = unsafe {
                if left_is_higher {
                    (*at).rb_right
                } else {
                    (*at).rb_left
                }
            };
        }

        let mut root = bindings::rb_root { rb_node: high.root };
        // SAFETY: By the type invariants.
        let red_before = unsafe { has_red_children(high.root) };
        let (before, behind) = if left_is_higher {
            (at, low.root)
        } else {
            (low.root, at)
        };
        // SAFETY: `mid` takes the place of `at` below `parent`, or of the root, and has both as
        // children: that is where they belong, and so are the heights. They are black, and if
        // `mid`, which is red, has a red parent, then this is what an insertion puts right. The
        // summaries are right from below to `mid`, and updated above it before.
        unsafe {
            let link = if parent.is_null() {
                &raw mut root.rb_node
            } else if left_is_higher {
                &raw mut (*parent).rb_right
            } else {
                &raw mut (*parent).rb_left
            };
            bindings::rb_link_node(mid, parent, link);
            (*mid).rb_left = before;
            (*mid).rb_right = behind;
            for child in [before, behind] {
                if !child.is_null() {
                    bindings::rb_set_parent_color(child, mid, BLACK);
                }
            }
            summarise(mid);
            propagate(parent, null_mut());
            bindings::__rb_insert_augmented(mid, &mut root, Some(rotate));
        }
        if parent.is_null() {
            // INVARIANT: Both were as high as each other, and `mid` is the root, in black.
            return Self {
                root: mid,
                height: low.height + 1,
            };
        }
        // An insertion makes a tree higher in one way: it gets to the root with two red children of
        // it, which it makes black. It does not make them so otherwise, but by a rotation, which
        // takes the root down.
        // SAFETY: This is the tree.
        let red_after = unsafe { has_red_children(root.rb_node) };
        let grown = red_before && !red_after && core::ptr::eq(root.rb_node, high.root);
        // INVARIANT: The tree is balanced. There are as many black nodes on each way as before, or
        // one more.
        let joined = Self {
            root: root.rb_node,
            height: high.height + usize::from(grown),
        };
        debug_assert_eq!(
            joined.height,
            // SAFETY: This is the tree, and balanced.
            unsafe { Self::of_root(joined.root) }.height
        );
        joined
    }

    /// Makes one tree of all of `left` and all of `right`, in this order.
    ///
    /// # Safety
    ///
    /// `left` belongs before `right`.
    unsafe fn append(left: Self, right: Self) -> Self {
        let Some(mut first) = NonNull::new(right.root) else {
            return left;
        };
        if left.root.is_null() {
            return right;
        }

        // SAFETY: By the type invariants.
        while let Some(before) = NonNull::new(unsafe { first.as_ref() }.rb_left) {
            first = before;
        }
        let mut rest = bindings::rb_root {
            rb_node: right.root,
        };
        // SAFETY: The node is in this tree, which is used by nobody else.
        unsafe { Links::unlink(&mut rest, first.cast()) };
        // SAFETY: The node was the first one of the others, and is in no tree now.
        unsafe { Self::join(left, first.as_ptr(), Self::of_root(rest.rb_node)) }
    }

    /// Divides a tree: first what `is_behind` is not true of, then what it is true of.
    ///
    /// # Safety
    ///
    /// If `is_behind` is true of a node, then it is of all behind that one. It only reads.
    unsafe fn split(self, is_behind: impl Fn(&Links) -> bool) -> (Self, Self) {
        // Only for nodes of this tree that have not been joined to another one yet.
        let behind = |at: *mut bindings::rb_node| {
            // SAFETY: By the type invariants the node is valid.
            is_behind(unsafe { &*at.cast::<Links>() })
        };
        let (mut at, mut parent) = (self.root, null_mut());

        while !at.is_null() {
            parent = at;
            // SAFETY: By the type invariants: nothing has been changed so far.
            at = unsafe {
                if behind(at) {
                    (*at).rb_left
                } else {
                    (*at).rb_right
                }
            };
        }

        let (mut front, mut back) = (Self::EMPTY, Self::EMPTY);
        // Of the children of `at`.
        let mut height = 0;
        at = parent;
        while !at.is_null() {
            // SAFETY: What was joined was below `at`, which is as it was, and so is what is above.
            let (up, black) = unsafe { (bindings::rb_parent(at), is_black(at)) };

            // SAFETY: What is in `back` was below `at` on its left side, and what is in `front` on
            // its right side, while the other side has not been touched yet.
            unsafe {
                if behind(at) {
                    back = Self::join(back, at, Self::of_child((*at).rb_right, height));
                } else {
                    front = Self::join(Self::of_child((*at).rb_left, height), at, front);
                }
            }
            height += usize::from(black);
            at = up;
        }
        (front, back)
    }
}

/// # Safety
///
/// `at` is null or a valid node.
#[inline]
unsafe fn is_black(at: *const bindings::rb_node) -> bool {
    // SAFETY: By the safety requirements.
    at.is_null() || unsafe { bindings::rb_is_black(at) }
}

/// Returns whether both children of `at` are there and red.
///
/// # Safety
///
/// `at` is null or a valid node.
#[inline]
unsafe fn has_red_children(at: *const bindings::rb_node) -> bool {
    // SAFETY: By the safety requirements; children are valid or null.
    !at.is_null() && unsafe { !is_black((*at).rb_left) && !is_black((*at).rb_right) }
}

/// Makes a node know what is below it.
///
/// # Safety
///
/// `at` is in links that are in a tree, which is valid and used by nobody else.
#[inline]
unsafe fn summarise(at: *mut bindings::rb_node) {
    // SAFETY: By the safety requirements. It is not used any more when the tree changes below.
    if let Some(summary) = unsafe { Seen::at(at) }.map(Seen::summarise) {
        // SAFETY: Links begin with the `rb_node`; the rest is required.
        unsafe { (*at.cast::<Links>()).summary = summary };
    }
}

/// Moves the nodes that intersect `[start, last]` to a root of their own.
///
/// # Safety
///
/// The nodes of `root` are valid, and used by nobody else.
pub(super) unsafe fn take(
    root: &mut bindings::rb_root,
    start: usize,
    last: usize,
) -> bindings::rb_root {
    // SAFETY: By the safety requirements. The ranges of a tree are disjoint and in order, and so
    // are their ends.
    let (front, taken, back) = unsafe {
        let (front, rest) = Part::of_root(root.rb_node).split(|links| links.last >= start);
        let (taken, back) = rest.split(|links| links.start > last);

        (front, taken, back)
    };

    // SAFETY: One is from before `start`, the other from behind `last`.
    root.rb_node = unsafe { Part::append(front, back) }.root;
    bindings::rb_root {
        rb_node: taken.root,
    }
}

/// Whether the tree is what it must be: ordered, balanced, and every summary right.
///
/// # Safety
///
/// The nodes of `root` are valid for reading, and do not change meanwhile.
#[cfg(CONFIG_KUNIT)]
pub(super) unsafe fn is_sound(root: &bindings::rb_root) -> bool {
    /// How many black nodes there are on each way down, if all is well.
    fn height(seen: Option<Seen<'_>>, parent: *mut bindings::rb_node) -> Option<usize> {
        let Some(links) = seen else {
            return Some(0);
        };
        // SAFETY: What is seen is valid.
        let is_black = |links: Seen<'_>| unsafe { is_black(links.as_ptr()) };
        let black = is_black(links);
        let (left, right) = (links.left(), links.right());
        let red_child = [left, right]
            .into_iter()
            .flatten()
            .any(|child| !is_black(child));
        let ordered = left.is_none_or(|left| left.summary.last < links.start)
            && right.is_none_or(|right| right.summary.start > links.last);
        let below = height(left, links.as_ptr())?;

        (height(right, links.as_ptr()) == Some(below)
            && links.parent().map_or(null_mut(), Seen::as_ptr) == parent
            && ordered
            && (black || !red_child)
            && links.summary == links.summarise())
        .then_some(below + usize::from(black))
    }

    // SAFETY: By the safety requirements.
    let seen = unsafe { Seen::root(root) };
    // SAFETY: What is seen is valid.
    seen.is_none_or(|links| unsafe { is_black(links.as_ptr()) })
        && height(seen, null_mut()).is_some()
}
