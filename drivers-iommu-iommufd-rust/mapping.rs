// SPDX-License-Identifier: GPL-2.0

//! The mapping of an area: which bytes of its pages are at which IOVAs.
//!
//! A [`Mapping`] is a plain value: it is copied out of the tree of areas with the lock held, and
//! used without the lock by the thread that owns the area's transition. It converts between
//!
//! - an IOVA, which need not be aligned to pages;
//! - a byte of the linear array of pages ("start byte");
//! - a page of that array ("index").
//!
//! The first and the last page may be mapped in part only. If the mapping starts in the middle of a
//! page, page boundaries of the memory are not at multiples of the page size of the IOVA.
//!
//! Pure: no locks, no kernel state.
#![forbid(unsafe_code)]

use crate::range::{
    IovaRange,
    PageRange, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

/// The protection of a mapping: a combination of the `IOMMU_*` flags of
/// [`include/linux/iommu.h`](srctree/include/linux/iommu.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prot(pub(crate) u32);

impl Prot {
    /// Returns the protection of RAM for reading, writing or both.
    ///
    /// Always cacheable: user space cannot flush caches, and devices with non-coherent DMA cannot
    /// be bound.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for neither, which IOMMUs cannot map.
    pub(crate) fn ram(read: bool, write: bool) -> Result<Self> {
        let mut prot = bindings::IOMMU_CACHE;

        if read {
            prot |= bindings::IOMMU_READ;
        }
        if write {
            prot |= bindings::IOMMU_WRITE;
        }
        if !read && !write {
            return Err(EINVAL);
        }
        Ok(Self(prot))
    }

    /// Returns whether reads are allowed.
    #[inline]
    pub(crate) const fn readable(self) -> bool {
        self.0 & bindings::IOMMU_READ != 0
    }

    /// Returns whether writes are allowed.
    #[inline]
    pub(crate) const fn writable(self) -> bool {
        self.0 & bindings::IOMMU_WRITE != 0
    }

    /// Returns the same protection for memory that is not RAM.
    #[inline]
    pub(crate) const fn mmio(self) -> Self {
        // Memory of a device must not be cached.
        Self((self.0 & !bindings::IOMMU_CACHE) | bindings::IOMMU_MMIO)
    }
}

/// A slice of a linear array of pages, at an IOVA.
///
/// # Invariants
///
/// `first_byte` plus the length of `iova` does not overflow. In particular, `iova` is not the whole
/// IOVA space, whose length does not fit into a `usize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// The IOVA range.
    pub(crate) iova: IovaRange,
    /// The first mapped byte of the array of pages. The range of pages is computed from it, to keep
    /// the mapping small: each area stores it twice (see [`crate::pages`]).
    pub(crate) first_byte: usize,
    /// The protection.
    pub(crate) prot: Prot,
}

impl Mapping {
    /// Creates a mapping at `iova` of the bytes of an array of pages from `start_byte` on.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` if the last byte does not fit into a `usize`.
    #[inline]
    pub(crate) fn new(iova: IovaRange, start_byte: usize, prot: Prot) -> Result<Self> {
        start_byte
            .checked_add(iova.last - iova.start)
            .filter(|_| iova != IovaRange::ALL)
            .ok_or(EOVERFLOW)?;

        // INVARIANT: As was just checked.
        Ok(Self {
            iova,
            first_byte: start_byte,
            prot,
        })
    }

    /// Returns the pages that are mapped. The first and the last may be mapped in part.
    #[inline]
    pub(crate) const fn pages(&self) -> PageRange {
        PageRange {
            first: self.first_byte / PAGE_SIZE,
            last: self.last_byte() / PAGE_SIZE,
        }
    }

    /// Returns the number of bytes before the mapping in its first page.
    #[inline]
    pub(crate) const fn page_offset(&self) -> usize {
        self.first_byte % PAGE_SIZE
    }

    /// Returns the last mapped byte of the array of pages.
    #[inline]
    const fn last_byte(&self) -> usize {
        // By the type invariant this does not wrap.
        self.first_byte
            .wrapping_add(self.iova.last - self.iova.start)
    }

    /// Returns the number of bytes.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        // By the type invariant this does not wrap.
        (self.iova.last - self.iova.start).wrapping_add(1)
    }

    /// Returns the byte of the array of pages that is mapped at `iova`, an IOVA of the mapping.
    #[inline]
    pub(crate) fn start_byte(&self, iova: usize) -> usize {
        debug_assert!(self.iova.contains(iova));
        // By the type invariant this does not wrap for an IOVA of the mapping.
        self.first_byte
            .wrapping_add(iova.wrapping_sub(self.iova.start))
    }

    /// Returns the index of the page that is mapped at `iova`, an IOVA of the mapping.
    #[inline]
    pub(crate) fn iova_to_index(&self, iova: usize) -> usize {
        self.start_byte(iova) / PAGE_SIZE
    }

    /// Returns the first IOVA of page `index`, a page of the mapping.
    #[inline]
    pub(crate) fn index_to_iova(&self, index: usize) -> usize {
        debug_assert!(self.pages().contains(index));
        let byte = index.wrapping_mul(PAGE_SIZE);

        // Only the first page can start before the mapping.
        self.iova
            .start
            .wrapping_add(byte.saturating_sub(self.first_byte))
    }

    /// Returns the last IOVA of page `index`, a page of the mapping.
    #[inline]
    pub(crate) fn index_to_iova_last(&self, index: usize) -> usize {
        debug_assert!(self.pages().contains(index));
        let byte = index.wrapping_mul(PAGE_SIZE) | (PAGE_SIZE - 1);
        let left = self.last_byte().saturating_sub(byte);

        // Only the last page can end behind the mapping.
        self.iova.last.wrapping_sub(left)
    }

    /// Returns the IOVAs of `pages`, a range within the mapping.
    #[inline]
    pub(crate) fn iova_of(&self, pages: PageRange) -> IovaRange {
        IovaRange {
            start: self.index_to_iova(pages.first),
            last: self.index_to_iova_last(pages.last),
        }
    }

    /// Returns the pages of `iova`, a range within the mapping. They may be partial.
    #[inline]
    pub(crate) fn pages_of(&self, iova: IovaRange) -> PageRange {
        PageRange {
            first: self.iova_to_index(iova.start),
            last: self.iova_to_index(iova.last),
        }
    }

    /// Splits the mapping behind the IOVA `last_of_left`.
    ///
    /// If this is within a page, that page is in both parts.
    ///
    /// # Errors
    ///
    /// `EINVAL` if one of the parts would be empty.
    pub(crate) fn split_at(&self, last_of_left: usize) -> Result<(Self, Self)> {
        let left = IovaRange::new(self.iova.start, last_of_left).ok_or(EINVAL)?;
        let right = self.iova.after(last_of_left).ok_or(EINVAL)?;
        let part = |iova: IovaRange| Self::new(iova, self.start_byte(iova.start), self.prot);

        Ok((part(left)?, part(right)?))
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kunit_tests(iommufd_mapping)]
mod tests {
    use super::*;

    const PROT: Prot = Prot(bindings::IOMMU_READ);

    /// Calls `check` with mappings at both ends of the IOVA space and of an array of pages, with
    /// lengths around multiples of the page size, at several offsets.
    fn for_each_mapping(mut check: impl FnMut(&Mapping)) {
        let lens = [1, 2, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 3 * PAGE_SIZE];
        let offsets = [0, 1, 512, PAGE_SIZE - 1];

        for len in lens {
            for offset in offsets {
                for page in [0, 7, PageRange::MAX_INDEX - 4] {
                    let iovas = [0, 1, PAGE_SIZE + 512, usize::MAX - (len - 1)];
                    for start in iovas {
                        let iova = IovaRange::from_len(start, len).unwrap_or(IovaRange::ALL);
                        let byte = page * PAGE_SIZE + offset;
                        let mapping = Mapping::new(iova, byte, PROT);

                        assert!(mapping.is_ok());
                        mapping.iter().for_each(&mut check);
                    }
                }
            }
        }
    }

    #[test]
    fn each_byte_is_in_its_page() {
        for_each_mapping(|m| {
            assert!(m.page_offset() < PAGE_SIZE);
            let first = m.start_byte(m.iova.start);
            assert_eq!(first, m.pages().first * PAGE_SIZE + m.page_offset());
            assert_eq!(m.start_byte(m.iova.last) / PAGE_SIZE, m.pages().last);
            assert_eq!(m.start_byte(m.iova.last) - first, m.len() - 1);
            assert_eq!(m.pages_of(m.iova), m.pages());
        });
    }

    #[test]
    fn pages_tile_the_iovas() {
        for_each_mapping(|m| {
            let mut next = Some(m.iova.start);
            for index in m.pages().first..=m.pages().last {
                let range = m.iova_of(PageRange {
                    first: index,
                    last: index,
                });

                assert_eq!(Some(range.start), next);
                assert!(m.iova.covers(range));
                assert_eq!(m.iova_to_index(range.start), index);
                assert_eq!(m.iova_to_index(range.last), index);
                next = range.last.checked_add(1);
            }
            assert_eq!(next, m.iova.last.checked_add(1));
            assert_eq!(m.iova_of(m.pages()), m.iova);
        });
    }

    #[test]
    fn parts_show_what_the_whole_did() {
        for_each_mapping(|m| {
            for cut in [0, 1, 511, PAGE_SIZE - 1, PAGE_SIZE, m.len() - 1, m.len()] {
                let last = m.iova.start.wrapping_add(cut);
                let Ok((left, right)) = m.split_at(last) else {
                    assert!(!m.iova.contains(last) || last == m.iova.last);
                    continue;
                };

                assert_eq!((left.iova.start, left.iova.last), (m.iova.start, last));
                assert_eq!((right.iova.start, right.iova.last), (last + 1, m.iova.last));
                for part in [left, right] {
                    assert_eq!(part.prot, m.prot);
                    for iova in [part.iova.start, part.iova.last] {
                        assert_eq!(part.start_byte(iova), m.start_byte(iova));
                    }
                    assert!(m.pages().covers(part.pages()));
                }
            }
        });
    }

    #[test]
    fn a_mapping_is_shorter_than_the_space() {
        assert_eq!(Mapping::new(IovaRange::ALL, 0, PROT), Err(EOVERFLOW));
        let most = IovaRange {
            start: 1,
            last: usize::MAX,
        };
        assert!(Mapping::new(most, 0, PROT).is_ok());
        assert!(Mapping::new(most, 1, PROT).is_ok());
        assert_eq!(Mapping::new(most, 2, PROT), Err(EOVERFLOW));
    }

    #[test]
    fn protection_of_mmio() {
        let ram = Prot(bindings::IOMMU_READ | bindings::IOMMU_WRITE | bindings::IOMMU_CACHE);

        assert!(ram.readable() && ram.writable());
        assert!(!PROT.writable());
        assert!(ram.mmio().readable() && ram.mmio().writable());
        assert_eq!(ram.mmio().0 & bindings::IOMMU_CACHE, 0);
        assert_eq!(ram.mmio().0 & bindings::IOMMU_MMIO, bindings::IOMMU_MMIO);
    }
}
