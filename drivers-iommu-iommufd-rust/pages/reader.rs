// SPDX-License-Identifier: GPL-2.0

//! How the PFNs of a range are read, wherever they are.
//!
//! Actors: a [`Reader`] walks a range of indexes and gives their PFNs to a [`Sink`], as runs: from
//! whoever holds an index already, else from the source, where its [`Feed`] pins as many pages at a
//! time as there is temporary memory for. What was pinned is owned by the queue of the feed until
//! the sink has it.
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
        Room,
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

/// Takes the runs that a [`Reader`] reads.
///
/// Where memory is fragmented, that is each page: let both functions be inlined.
pub(super) trait Sink {
    /// Takes a run that nobody held, and its pins. They are the sink's even if this fails.
    fn push(&mut self, run: Run) -> Result;

    /// Takes a run that somebody holds, who has its pins.
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

/// Walks a range of indexes and tells their PFNs.
pub(super) struct Reader<'a> {
    feed: Feed<'a>,
    /// The first index that was not read; the queue of the feed holds those right before it.
    index: usize,
    /// The last index.
    last: usize,
    /// Nobody holds the indexes from `index` to the one before this.
    unheld_end: usize,
    /// What was read back from a domain.
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
    from: From<'a>,
    /// Whether all pages so far were of hugetlbfs.
    hugetlb: bool,
}

/// Whose memory user memory is.
enum From<'a> {
    /// Not known yet. The place is for a reference to the users of the address space.
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
        if let From::Unknown(place) = &mut self.from {
            let queue = &mut self.queue;
            reserve_temporary(pages, |n, gfp| queue.reserve(n, gfp))?;

            // Most often, those who map memory also have it.
            self.from = if is_current(self.mm) {
                From::Current
            } else {
                let mm = self.mm.mmget_not_zero().ok_or(EFAULT)?;
                let place = place.take().ok_or(EFAULT)?;

                From::Remote(RemoteMm::new(place.insert(mm)))
            };
        }
        if should_fail() {
            return Err(EFAULT);
        }

        // An address that is none makes the pinning fail.
        let addr = self.start.wrapping_add(index.wrapping_mul(PAGE_SIZE));
        // Pages of hugetlbfs are pinned by the folio. To try costs a call if they are not.
        let most = if self.hugetlb {
            first_try(addr, pages.min(self.queue.capacity()))
        } else {
            pages
        };
        let mut pinned = match &mut self.from {
            From::Remote(mm) => self.queue.pin_remote(mm, addr, most, self.flags)?,
            _ => self.queue.pin_current(addr, most, self.flags)?,
        };

        if self.hugetlb {
            let more = self.queue.extend_hugetlb(pages - 1);
            self.hugetlb = more != 0;
            pinned += more;
        }
        Ok(pinned)
    }

    /// Gives all that is pinned to `sink`, until that fails.
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

    /// How many pages are pinned and not taken yet.
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
    /// `ENOMEM`, and `EINVAL` for a dma-buf: its PFNs are read from nowhere, they are known.
    pub(super) fn new(source: &'a Source, range: PageRange, room: &'a mut Room) -> Result<Self> {
        let feed = match source {
            Source::User {
                mm,
                start,
                writable,
            } => Feed::User(UserFeed {
                mm,
                start: *start,
                flags: pin_flags(*writable),
                queue: PinQueue::new(&mut room.pages),
                from: From::Unknown(Some(&mut room.mm)),
                hugetlb: range.len() >= HUGETLB_PAGES,
            }),
            Source::File { file, start } => Feed::File(FileFeed {
                file,
                first_page: start / PAGE_SIZE,
                queue: FolioQueue::new(&mut room.pages),
                ready: false,
            }),
            Source::DmaBuf { .. } => {
                warn_on!(true);
                return Err(EINVAL);
            }
        };
        // In C, there is an allocation here.
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

    /// Gives all runs to `sink`, until that fails.
    ///
    /// They are in order. Runs need not be as long as possible.
    ///
    /// # Errors
    ///
    /// What the sink returns, `EINTR` if the current task is being killed, and what pinning says:
    /// `EFAULT`, `ENOMEM`, `EINVAL` and others.
    #[inline]
    pub(super) fn read_to(&mut self, inner: &mut Inner, sink: &mut impl Sink) -> Result {
        while self.index <= self.last {
            // GUP does not ask this for pages that are there, nor does the page cache.
            if is_being_killed() {
                return Err(EINTR);
            }
            // A new area is mostly held by nobody from start to end: that is asked once.
            if self.index >= self.unheld_end {
                self.give_held(inner, sink)?;
            }
            if self.index >= self.unheld_end {
                continue;
            }
            // After an error it is of no interest how far this came.
            self.index += self.fill_queue(inner)?;
            match &mut self.feed {
                Feed::User(feed) => feed.give_all(sink)?,
                Feed::File(feed) => feed.give_all(sink)?,
            }
        }
        Ok(())
    }

    /// Gives the runs to `sink` that somebody holds, up to the first index that nobody does, or
    /// finds out how many nobody does.
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
                // What is mapped is there.
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

    /// Pins what comes next at the source, as much as there is room for, and tells how much that
    /// is. Nobody holds it, and the queue of the feed is empty.
    fn fill_queue(&mut self, inner: &mut Inner) -> Result<usize> {
        let pinned = self.feed.pin(self.index, self.unheld_end - self.index)?;

        if warn_on!(pinned == 0) {
            return Err(EFAULT);
        }
        inner.account.pinned(pinned);
        Ok(pinned)
    }

    /// Makes the charge match what is pinned, at the end of a successful operation.
    ///
    /// # Errors
    ///
    /// As [`Account::settle`](super::account::Account::settle).
    pub(super) fn settle(&mut self, inner: &mut Inner) -> Result {
        let remote = match &mut self.feed {
            Feed::User(UserFeed {
                from: From::Remote(mm),
                ..
            }) => Some(mm),
            _ => None,
        };

        inner.account.settle(remote)
    }

    /// Gives up what was pinned and not handed out, and the locks. To be called at the end of every
    /// operation, before others are undone.
    pub(super) fn finish(mut self, inner: &mut Inner) {
        inner.account.unpinned(self.feed.len());
        self.feed.clear();
    }
}
