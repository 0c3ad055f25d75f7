// SPDX-License-Identifier: GPL-2.0

//! Delays between two steps of an operation, for tests of races.
//!
//! What other tasks can see between two steps lasts for nanoseconds, and a test meets it by chance.
//! With `CONFIG_IOMMUFD_TEST` a test can make it last: each [`Place`] has a file below
//! `iommufd_delays` in debugfs. A number written to it is how many microseconds a task that comes
//! to the place sleeps there. Reading returns that number, and how many tasks have slept since.
//!
//! Locks: none are taken; each place says which are held.
#![forbid(unsafe_code)]

#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) use self::imp::Files;

/// Defines the places, and the names of their files.
macro_rules! places {
    ($($(#[$doc:meta])* $place:ident => $file:literal,)*) => {
        /// A place between two steps.
        #[derive(Clone, Copy)]
        pub(crate) enum Place {
            $($(#[$doc])* $place,)*
        }

        #[cfg(CONFIG_IOMMUFD_TEST)]
        const FILES: &[&kernel::str::CStr] = &[$($file,)*];
    };
}

places! {
    /// A command has looked an object up. Its read side is held.
    Found => c"found",
    /// New objects are complete and not published. The command can hold locks.
    Complete => c"complete",
    /// An object has left the table, and may still have readers. Nothing is held.
    Claimed => c"claimed",
    /// An object has no readers any more and is not destroyed yet. Nothing is held.
    Drained => c"drained",
    /// An object of a driver has ended what belongs to it, and is in the table. Nothing is held.
    PreDestroyed => c"pre_destroyed",
    /// A group is attached to a new HWPT, and is a user of the old one. The group lock is held.
    Replaced => c"replaced",
    /// A group is detached, and is a user of the HWPT. The group lock is held.
    Detached => c"detached",
    /// An access is a user of its new IOAS, and still has pins in the old one. Its lock is held.
    AccessMoved => c"access_moved",
    /// Pages are pinned and mapped nowhere. The list of domains is locked.
    Pinned => c"pinned",
    /// New areas occupy their IOVAs and are not mapped. The list of domains is locked.
    Occupied => c"occupied",
    /// New areas are mapped in all domains and are not live. The list of domains is locked.
    Filled => c"filled",
    /// Accesses have to unpin an area, and were not told yet. Nothing is held.
    Accessed => c"accessed",
    /// Areas are unmapped, and their pages are pinned. The list of domains is locked, and can be
    /// the space.
    Unmapped => c"unmapped",
    /// An area is unmapped and released, and occupies its IOVA. The list of domains is locked.
    Emptied => c"emptied",
    /// All areas are mapped in a domain that is not in the list. List and space are locked.
    DomainFilled => c"domain_filled",
    /// All areas are mapped in a domain that has left the list. List and space are locked.
    DomainRemoved => c"domain_removed",
    /// A page fault is taken from its queue, and not copied to user space. Nothing is held.
    FaultTaken => c"fault_taken",
    /// An event is taken from its queue, and not copied to user space. Nothing is held.
    EventTaken => c"event_taken",
}

impl Place {
    /// Sleeps here if a test wants it.
    ///
    /// Context: may sleep with `CONFIG_IOMMUFD_TEST`; otherwise this is nothing.
    #[inline(always)]
    pub(crate) fn delay(self) {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        imp::delay(self);
    }
}

#[cfg(CONFIG_IOMMUFD_TEST)]
mod imp {
    use super::{
        Place,
        FILES, //
    };
    use kernel::{
        debugfs::{
            Reader,
            Scope,
            Writer, //
        },
        fmt,
        prelude::*,
        sync::atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        time::{
            delay::fsleep,
            Delta, //
        },
        uaccess::UserSliceReader, //
    };

    /// A longer delay would only look like a task that hangs.
    const MAX_US: u32 = 1_000_000;

    /// The delay at a place.
    struct Delay {
        us: Atomic<u32>,
        slept: Atomic<u32>,
    }

    static DELAYS: [Delay; FILES.len()] = [const {
        Delay {
            us: Atomic::new(0),
            slept: Atomic::new(0),
        }
    }; FILES.len()];

    #[inline(always)]
    pub(super) fn delay(place: Place) {
        // CAST: The index of the place.
        let delay = &DELAYS[place as usize];

        if delay.us.load(Relaxed) != 0 {
            delay.sleep();
        }
    }

    impl Delay {
        #[cold]
        fn sleep(&self) {
            self.slept.fetch_add(1, Relaxed);
            fsleep(Delta::from_micros(self.us.load(Relaxed).into()));
        }
    }

    impl Writer for Delay {
        fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let (us, slept) = (self.us.load(Relaxed), self.slept.load(Relaxed));

            writeln!(f, "{us} {slept}")
        }
    }

    impl Reader for Delay {
        fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
            let us = Atomic::new(0_u32);

            us.read_from_slice(reader)?;
            let us = us.load(Relaxed);
            if us > MAX_US {
                return Err(EINVAL);
            }
            self.slept.store(0, Relaxed);
            self.us.store(us, Relaxed);
            Ok(())
        }
    }

    /// The files in debugfs, which are there while this exists. Without debugfs there are none.
    pub(crate) struct Files(#[expect(dead_code, reason = "a guard")] Pin<KBox<Scope<()>>>);

    impl Files {
        /// Creates the files.
        ///
        /// # Errors
        ///
        /// [`ENOMEM`].
        pub(crate) fn new() -> Result<Self> {
            let scope = Scope::dir((), c"iommufd_delays", |(), dir| {
                for (delay, file) in DELAYS.iter().zip(FILES) {
                    dir.read_write_file(file, delay);
                }
            });

            Ok(Self(KBox::pin_init(scope, GFP_KERNEL)?))
        }
    }
}
