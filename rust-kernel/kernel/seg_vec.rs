// SPDX-License-Identifier: GPL-2.0

//! Vectors in segments.
//!
//! A [`SegVec`] grows by segments of at most a page, so that it does not need contiguous memory in
//! proportion to its length, and adding an element never moves those that are there. It suits lists
//! whose length user space chooses: a [`KVec`] asks for one `kmalloc()`, which warns where it is
//! larger than the page allocator can serve, and fails long before where memory is fragmented.

use crate::{
    alloc::{
        allocator::KVmalloc,
        AllocError,
        Flags,
        IntoIter, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};
use core::iter::Flatten;

/// A growable list whose memory is in pieces.
///
/// # Invariants
///
/// No segment is empty, and all but the last one are full.
///
/// # Examples
///
/// ```
/// use kernel::seg_vec::SegVec;
///
/// let mut squares = SegVec::new();
/// assert!(squares.is_empty());
/// for n in 0..2000_u64 {
///     squares.push(n * n, GFP_KERNEL)?;
/// }
/// assert_eq!(squares.len(), 2000);
/// assert_eq!(squares.first(), Some(&0));
/// assert!(squares.iter().copied().eq((0..2000).map(|n| n * n)));
///
/// squares.iter_mut().for_each(|square| *square += 1);
/// assert_eq!(squares.iter().last(), Some(&(1999 * 1999 + 1)));
/// assert!(squares.into_iter().eq((0..2000).map(|n| n * n + 1)));
/// # Ok::<(), Error>(())
/// ```
///
/// Whatever the size of the elements, and however many there are:
///
/// ```
/// use kernel::{page::PAGE_SIZE, seg_vec::SegVec};
///
/// fn check<T: Clone + PartialEq>(values: impl Iterator<Item = T> + Clone) -> Result {
///     let mut list = SegVec::new();
///
///     for (n, value) in values.clone().enumerate() {
///         assert_eq!((list.len(), list.is_empty()), (n, n == 0));
///         list.push(value, GFP_KERNEL)?;
///     }
///     assert!(list.iter().cloned().eq(values.clone()));
///     assert!(list.first().cloned() == values.clone().next());
///     Ok(())
/// }
///
/// for len in [0, 1, PAGE_SIZE / 8 - 1, PAGE_SIZE / 8, PAGE_SIZE / 8 + 1, PAGE_SIZE] {
///     check(0..len as u64)?;
/// }
/// check((0..2 * PAGE_SIZE + 1).map(|_| ()))?;
/// check((0..3000).map(|n| [n as u8; 24]))?;
/// check((0..9).map(|n| [n as u8; PAGE_SIZE / 2 + 1]))?;
/// # Ok::<(), Error>(())
/// ```
pub struct SegVec<T> {
    // The list of segments is a few hundred times shorter than that of the elements.
    segments: KVVec<KVec<T>>,
}

impl<T> SegVec<T> {
    /// How many elements a segment has room for.
    const SEGMENT: usize = match size_of::<T>() {
        0 => PAGE_SIZE,
        size if size < PAGE_SIZE => PAGE_SIZE / size,
        _ => 1,
    };

    /// Creates an empty list.
    pub const fn new() -> Self {
        // INVARIANT: There are no segments.
        Self {
            segments: KVVec::new(),
        }
    }

    /// Returns whether there are no elements.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        let full = self.segments.len().saturating_sub(1);

        full * Self::SEGMENT + self.segments.last().map_or(0, KVec::len)
    }

    /// Appends an element.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if memory is short; the element is dropped.
    pub fn push(&mut self, value: T, flags: Flags) -> Result<(), AllocError> {
        if let Some(last) = self.segments.last_mut() {
            if last.len() < Self::SEGMENT {
                // It has the capacity.
                return last.push(value, flags);
            }
        }

        let mut segment = KVec::with_capacity(Self::SEGMENT, flags)?;
        segment.push(value, flags)?;
        // INVARIANT: The segments before are full, and the new one is not empty.
        self.segments.push(segment, flags)
    }

    /// Returns the first element.
    #[inline]
    pub fn first(&self) -> Option<&T> {
        self.segments.first()?.first()
    }

    /// Iterates over the elements in the order in which they were added.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &T> + Clone {
        self.segments.iter().flatten()
    }

    /// Iterates over the elements in the order in which they were added, to change them.
    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.segments.iter_mut().flatten()
    }
}

impl<T> IntoIterator for SegVec<T> {
    type Item = T;
    type IntoIter = Flatten<IntoIter<KVec<T>, KVmalloc>>;

    /// Iterates over the elements in the order in which they were added, and frees each segment
    /// behind its last element.
    fn into_iter(self) -> Self::IntoIter {
        self.segments.into_iter().flatten()
    }
}

impl<T> Default for SegVec<T> {
    fn default() -> Self {
        Self::new()
    }
}
