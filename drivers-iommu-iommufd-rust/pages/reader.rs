// SPDX-License-Identifier: GPL-2.0

//! Reading the PFNs of a range.
//!
//! A [`Reader`] walks a range of indexes and passes their PFNs to a [`Sink`], as runs. It takes
//! them from a holder of the index, or else from the source, where its [`Feed`] pins as many pages
//! at a time as there is temporary memory for. The queue of the feed owns pins until the sink gets
//! them.
//!
//! Locks: a reader is used under the mutex of its pages. It takes the `mmap` lock of the source's
//! process, and may keep it until it is [finished](Reader::finish).
#![forbid(unsafe_code)]

use super::{
    record::{
        pages_of,
        pfns_of, //
    },
    run::Run,
    source::{
        first_try,
        is_current,
        pin_flags,
        reserve_temporary,
        PinBuffer,
        Source,
        HUGETLB_PAGES, //
    },
    tiers::Holder,
    Inner, //
};
use crate::{
    range::PageRange,
    sys::{
        domain::PhysRuns,
        pin,
        task::is_being_killed,
        test::should_fail, //
    }, //
};
use kernel::{
    fs::File,
    mm::{
        folio::FolioQueue,
        gup::{
            PinFlags,
            PinQueue,
            RemoteMm, //
        },
        Mm,
        MmWithUser, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef,
    warn_on, //
};

/// Receives the runs that a [`Reader`] reads.
///
/// In fragmented memory each run is one page: both functions should be inlined.
pub(super) trait Sink {
    /// Receives a run that had no holder. Takes ownership of the pins, even on error.
    fn push(&mut self, run: Run) -> Result;

    /// Receives a run that has a holder, which owns the pins.
    #[inline(always)]
    fn push_held(&mut self, run: Run) -> Result {
        self.push(run)
    }
}

impl<F: FnMut(Run) -> Result> Sink for F {
    #[inline]
    fn push(&mut self, run: Run) -> Result {
        self(run)
    }
}

/// Walks a range of indexes and reads their PFNs.
pub(super) struct Reader<'a> {
    feed: Feed<'a>,
    /// The first index that was not read. The queue of the feed has the pages before it.
    index: usize,
    /// The last index.
    last: usize,
    /// The indexes from `index` to the one before this have no holder.
    unheld_end: usize,
    /// A buffer for PFNs that are read back from a domain.
    read: PhysRuns,
}

/// Pins pages at the source.
enum Feed<'a> {
    User(UserFeed<'a>),
    File(FileFeed<'a>),
}

struct UserFeed<'a> {
    mm: &'a Mm,
    start: usize,
    flags: PinFlags,
    queue: PinQueue<'a>,
    user_mm: UserMm<'a>,
    /// Set while all pages so far were pages of hugetlbfs.
    hugetlb: bool,
}

/// The mm that user memory belongs to.
enum UserMm<'a> {
    /// Not known yet. The place is for a reference to the users of the mm.
    Unknown(Option<&'a mut Option<ARef<MmWithUser>>>),
    /// That of the current task.
    Current,
    /// That of another process.
    Remote(RemoteMm<'a>),
}

struct FileFeed<'a> {
    file: &'a File,
    first_page: usize,
    queue: FolioQueue<'a>,
    ready: bool,
}

impl UserFeed<'_> {
    /// Pins pages from `index` on, at most `pages` of them. Returns how many.
    fn pin(&mut self, index: usize, pages: usize) -> Result<usize> {
        if let UserMm::Unknown(place) = &mut self.user_mm {
            let queue = &mut self.queue;
            reserve_temporary(pages, |n, gfp| queue.reserve(n, gfp))?;

            // Most often, those who map memory also have it.
            self.user_mm = if is_current(self.mm) {
                UserMm::Current
            } else {
                let mm = self.mm.mmget_not_zero().ok_or(EFAULT)?;
                let place = place.take().ok_or(EFAULT)?;

                UserMm::Remote(RemoteMm::new(place.insert(mm)))
            };
        }
        if should_fail() {
            return Err(EFAULT);
        }

        // If this wraps, pinning fails.
        let addr = self.start.wrapping_add(index.wrapping_mul(PAGE_SIZE));
        // Try to pin pages of hugetlbfs by folio. If they are not, that costs a call.
        let most = if self.hugetlb {
            first_try(addr, pages.min(self.queue.capacity()))
        } else {
            pages
        };
        let mut pinned = match &mut self.user_mm {
            UserMm::Remote(mm) => self.queue.pin_remote(mm, addr, most, self.flags)?,
            _ => self.queue.pin_current(addr, most, self.flags)?,
        };

        if self.hugetlb {
            let more = self.queue.extend_hugetlb(pages - 1);
            self.hugetlb = more != 0;
            pinned += more;
        }
        Ok(pinned)
    }

    /// Passes all pinned pages to `sink`, until it fails.
    #[inline]
    fn give_all(&mut self, sink: &mut impl Sink) -> Result {
        while let Some(run) = self.queue.next_run() {
            sink.push(pin::store(run))?;
        }
        Ok(())
    }
}

impl FileFeed<'_> {
    /// As [`UserFeed::pin`].
    fn pin(&mut self, index: usize, pages: usize) -> Result<usize> {
        if !self.ready {
            let queue = &mut self.queue;
            reserve_temporary(pages, |n, gfp| queue.reserve(n, gfp))?;
            self.ready = true;
        }
        if should_fail() {
            return Err(EFAULT);
        }

        let first = self.first_page.checked_add(index).ok_or(EINVAL)?;
        self.queue.pin(self.file, first, pages)
    }

    /// As [`UserFeed::give_all`].
    #[inline]
    fn give_all(&mut self, sink: &mut impl Sink) -> Result {
        while let Some(run) = self.queue.next_run()? {
            sink.push(pin::store(run))?;
        }
        Ok(())
    }
}

impl Feed<'_> {
    fn pin(&mut self, index: usize, pages: usize) -> Result<usize> {
        match self {
            Feed::User(feed) => feed.pin(index, pages),
            Feed::File(feed) => feed.pin(index, pages),
        }
    }

    /// Returns the number of pages in the queue.
    #[inline]
    fn len(&self) -> usize {
        match self {
            Feed::User(feed) => feed.queue.len(),
            Feed::File(feed) => feed.queue.len(),
        }
    }

    fn clear(&mut self) {
        match self {
            Feed::User(feed) => feed.queue.clear(),
            Feed::File(feed) => feed.queue.clear(),
        }
    }
}

impl<'a> Reader<'a> {
    /// Prepares to read `range`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EINVAL` for a dma-buf, whose PFNs are computed.
    pub(super) fn new(
        source: &'a Source,
        range: PageRange,
        buffer: &'a mut PinBuffer,
    ) -> Result<Self> {
        let feed = match source {
            Source::User {
                mm,
                start,
                writable,
            } => Feed::User(UserFeed {
                mm,
                start: *start,
                flags: pin_flags(*writable),
                queue: PinQueue::new(&mut buffer.pages),
                user_mm: UserMm::Unknown(Some(&mut buffer.mm)),
                hugetlb: range.len() >= HUGETLB_PAGES,
            }),
            Source::File { file, start } => Feed::File(FileFeed {
                file,
                first_page: start / PAGE_SIZE,
                queue: FolioQueue::new(&mut buffer.pages),
                ready: false,
            }),
            Source::DmaBuf { .. } => {
                warn_on!(true);
                return Err(EINVAL);
            }
        };
        // A point of fault injection: the C driver allocates here.
        if should_fail() {
            return Err(ENOMEM);
        }

        Ok(Self {
            feed,
            index: range.first,
            last: range.last,
            unheld_end: 0,
            read: PhysRuns::new(),
        })
    }

    /// Passes all runs to `sink`, until it fails.
    ///
    /// They are in order. Runs need not be as long as possible.
    ///
    /// # Errors
    ///
    /// What the sink returns, `EINTR` if the current task is being killed, and what pinning
    /// returns: `EFAULT`, `ENOMEM`, `EINVAL` and others.
    #[inline]
    pub(super) fn read_to(&mut self, inner: &mut Inner, sink: &mut impl Sink) -> Result {
        while self.index <= self.last {
            // GUP checks for signals only when it faults pages in.
            if is_being_killed() {
                return Err(EINTR);
            }
            // Most new areas have no holders at all, which one lookup finds out.
            if self.index >= self.unheld_end {
                self.give_held(inner, sink)?;
            }
            if self.index >= self.unheld_end {
                continue;
            }
            // After an error `index` is not used.
            self.index += self.fill_queue(inner)?;
            match &mut self.feed {
                Feed::User(feed) => feed.give_all(sink)?,
                Feed::File(feed) => feed.give_all(sink)?,
            }
        }
        Ok(())
    }

    /// Passes runs that have a holder to `sink`, up to the first index without one, and determines
    /// how many indexes have none.
    fn give_held(&mut self, inner: &Inner, sink: &mut impl Sink) -> Result {
        while self.index <= self.last {
            if is_being_killed() {
                return Err(EINTR);
            }
            let rest = PageRange {
                first: self.index,
                last: self.last,
            };
            let (holder, last) = inner.tiers.holder(rest);
            let span = PageRange { last, ..rest };

            if let Some(runs) = holder.known() {
                for (_, run) in runs.iter_range(span) {
                    sink.push_held(run)?;
                }
                self.index = last + 1;
            } else if let Holder::Domain(record) = holder {
                let read = record.read_back(span, &mut self.read);
                // A mapped range has at least one page.
                if warn_on!(read.is_empty()) {
                    return Err(EFAULT);
                }
                for run in read.iter().map(pfns_of) {
                    sink.push_held(run)?;
                }
                self.index += pages_of(read);
            } else {
                self.unheld_end = last + 1;
                break;
            }
        }
        Ok(())
    }

    /// Pins the next pages at the source, as many as the buffer has room for. Returns their number.
    /// They have no holder, and the queue of the feed is empty.
    fn fill_queue(&mut self, inner: &mut Inner) -> Result<usize> {
        let pinned = self.feed.pin(self.index, self.unheld_end - self.index)?;

        if warn_on!(pinned == 0) {
            return Err(EFAULT);
        }
        inner.account.pinned(pinned);
        Ok(pinned)
    }

    /// Charges the pinned pages, at the end of a successful operation.
    ///
    /// # Errors
    ///
    /// As [`Account::settle`](super::account::Account::settle).
    pub(super) fn settle(&mut self, inner: &mut Inner) -> Result {
        let remote = match &mut self.feed {
            Feed::User(UserFeed {
                user_mm: UserMm::Remote(mm),
                ..
            }) => Some(mm),
            _ => None,
        };

        inner.account.settle(remote)
    }

    /// Unpins pages that the sink has not received, and releases the `mmap` lock. Called at the end
    /// of every operation, before anything else is undone.
    pub(super) fn finish(mut self, inner: &mut Inner) {
        inner.account.unpinned(self.feed.len());
        self.feed.clear();
    }
}
