// SPDX-License-Identifier: GPL-2.0

//! What one area shows: which bytes of which pages appear at which IOVAs.
//!
//! A [`Mapping`] is a value without ties: it is copied out of the tree of areas while a lock is
//! held, and used after the lock is gone by whoever owns the area's transition. It relates three
//! ways of counting:
//!
//! - an IOVA, which need not be aligned to pages;
//! - a byte of the linear array of pages ("start byte");
//! - a page of that array ("index").
//!
//! The first and the last page may be shown in part only. Where the mapping starts in the middle of
//! a page, page boundaries are not at multiples of the page size of the IOVA either.
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

/// What a device may do with a mapping: a combination of the `IOMMU_*` flags of
/// `include/linux/iommu.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prot(pub(crate) u32);

impl Prot {
    /// RAM, for reading, writing or both.
    ///
    /// Always by way of the caches: user space has no means to flush them, and devices whose DMA is
    /// not coherent are not bound.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] for neither: an IOMMU has no such page.
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

    /// Whether reads are allowed.
    #[inline]
    pub(crate) const fn readable(self) -> bool {
        self.0 & bindings::IOMMU_READ != 0
    }

    /// Whether writes are allowed.
    #[inline]
    pub(crate) const fn writable(self) -> bool {
        self.0 & bindings::IOMMU_WRITE != 0
    }

    /// The same for memory that is not RAM.
    #[inline]
    pub(crate) const fn mmio(self) -> Self {
        // Caches must not hold what a device may change.
        Self((self.0 & !bindings::IOMMU_CACHE) | bindings::IOMMU_MMIO)
    }
}

/// A slice of a linear array of pages, at an IOVA.
///
/// # Invariants
///
/// `iova` is as long as some bytes from `first_byte` on. In particular, it is never the whole IOVA
/// space, so that its length is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Where it is shown.
    pub(crate) iova: IovaRange,
    /// The byte of the array of pages that is shown first. The pages follow from it: an area has
    /// its mapping twice (see [`crate::pages`]), so it is small.
    pub(crate) first_byte: usize,
    /// What may be done with it.
    pub(crate) prot: Prot,
}

impl Mapping {
    /// Shows the bytes of an array of pages from `start_byte` on at `iova`.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` if there are not so many bytes after `start_byte`.
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

    /// The pages that it shows, the first and the last maybe in part.
    #[inline]
    pub(crate) const fn pages(&self) -> PageRange {
        PageRange {
            first: self.first_byte / PAGE_SIZE,
            last: self.last_byte() / PAGE_SIZE,
        }
    }

    /// The number of bytes of the first page that it does not show.
    #[inline]
    pub(crate) const fn page_offset(&self) -> usize {
        self.first_byte % PAGE_SIZE
    }

    /// The byte of the array of pages that is shown last.
    #[inline]
    const fn last_byte(&self) -> usize {
        // By the type invariant this does not wrap.
        self.first_byte
            .wrapping_add(self.iova.last - self.iova.start)
    }

    /// The number of bytes.
    #[inline]
    pub(crate) const fn len(&self) -> usize {
        // By the type invariant this does not wrap.
        (self.iova.last - self.iova.start).wrapping_add(1)
    }

    /// The byte of the array of pages that is shown at `iova`, which must be in the mapping.
    #[inline]
    pub(crate) fn start_byte(&self, iova: usize) -> usize {
        debug_assert!(self.iova.contains(iova));
        // By the type invariant this does not wrap for an IOVA of the mapping.
        self.first_byte
            .wrapping_add(iova.wrapping_sub(self.iova.start))
    }

    /// The index of the page that is shown at `iova`, which must be in the mapping.
    #[inline]
    pub(crate) fn iova_to_index(&self, iova: usize) -> usize {
        self.start_byte(iova) / PAGE_SIZE
    }

    /// The first IOVA at which page `index`, one of the mapping, is shown.
    #[inline]
    pub(crate) fn index_to_iova(&self, index: usize) -> usize {
        debug_assert!(self.pages().contains(index));
        let byte = index.wrapping_mul(PAGE_SIZE);

        // The start of the first page may be before the mapping, that of a further one is in it.
        self.iova
            .start
            .wrapping_add(byte.saturating_sub(self.first_byte))
    }

    /// The last IOVA at which page `index`, one of the mapping, is shown.
    #[inline]
    pub(crate) fn index_to_iova_last(&self, index: usize) -> usize {
        debug_assert!(self.pages().contains(index));
        let byte = index.wrapping_mul(PAGE_SIZE) | (PAGE_SIZE - 1);
        let left = self.last_byte().saturating_sub(byte);

        // The end of the last page may be behind the mapping, that of another one is in it.
        self.iova.last.wrapping_sub(left)
    }

    /// The IOVAs at which `pages`, some of the mapping, are shown.
    #[inline]
    pub(crate) fn iova_of(&self, pages: PageRange) -> IovaRange {
        IovaRange {
            start: self.index_to_iova(pages.first),
            last: self.index_to_iova_last(pages.last),
        }
    }

    /// The pages that are shown, in part or as a whole, at `iova`, a range within the mapping.
    #[inline]
    pub(crate) fn pages_of(&self, iova: IovaRange) -> PageRange {
        PageRange {
            first: self.iova_to_index(iova.start),
            last: self.iova_to_index(iova.last),
        }
    }

    /// Divides the mapping behind `last_of_left`.
    ///
    /// The page that is divided, if it is one, is in both parts.
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

    /// Calls `check` with mappings at both ends of the IOVA space and of an array of pages, of
    /// lengths around multiples of the page size, at all kinds of offsets.
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
