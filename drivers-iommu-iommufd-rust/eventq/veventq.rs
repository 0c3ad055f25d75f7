// SPDX-License-Identifier: GPL-2.0

//! Events of a vIOMMU for user space.
//!
//! The IOMMU driver reports events for a guest's vIOMMU. `driver.c` queues each event in the
//! [`Veventq`] of its type, of which a vIOMMU has at most one. If `depth` events are queued
//! already, or without memory, the event is lost. Then a header without data at the end of the
//! queue says so, until the next event, whose sequence number shows the loss, too.
//!
//! The IOMMU driver finds the queue in the list of the vIOMMU. Entering the list is the last step
//! of its creation, leaving it the first step of its destruction: see
//! [`ViommuQueue`].
//!
//! Locks: `veventqs_rwsem` of the vIOMMU (write: to change the list; read: `driver.c`, to queue) ->
//! the lock of the queue, a spinlock. If several threads read one file, each gets some of the
//! events.
#![forbid(unsafe_code)]

use super::{
    partial,
    NewFile, //
};
use crate::{
    command::Published,
    context::{
        Command,
        Context,
        ContextRef, //
    },
    object::{
        same_offset,
        Dependency,
        Kind,
        Owner as _,
        Publish,
        Reserved,
        User, //
    },
    sys::{
        delay::Place,
        veventq::{
            EventQueue,
            VeventHeader,
            VeventqsGuard,
            ViommuQueue, //
        }, //
    },
    viommu::Viommu, //
};
use core::ops::Deref;
use kernel::{
    bindings,
    fs::{
        anon_inode::{
            AnonFile,
            POLL_IN, //
        },
        file::Offset, //
    },
    prelude::*,
    sync::poll::Poller,
    uaccess::UserSliceWriter, //
};

/// The events of one type of a vIOMMU: `struct iommufd_veventq`, less the object header, and with
/// the Rust part at the end.
#[repr(C)]
#[pin_data]
pub(crate) struct Veventq {
    #[pin]
    pub(crate) queue: ViommuQueue<Dependency<Viommu>>,
}

same_offset!(Veventq, queue, iommufd_veventq, node);

impl Kind for Veventq {
    type Owner = Context;
}

impl Veventq {
    /// Creates a queue that is in no list.
    fn new(
        type_: bindings::iommu_veventq_type,
        depth: u32,
        viommu: Dependency<Viommu>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            queue <- ViommuQueue::new(type_, depth, viommu),
        }? Error)
    }
}

impl Deref for Veventq {
    type Target = EventQueue;

    fn deref(&self) -> &EventQueue {
        &self.queue
    }
}

/// The same limit as in C; more than the hardware queue of any IOMMU holds.
const MAX_DEPTH: u32 = 1 << 19;

/// Copies the first event to user space, if it fits. Returns its size in bytes.
fn read_event(veventq: &EventQueue, out: &mut UserSliceWriter) -> Result<Option<usize>> {
    // A buffer too small for one event fails instead of blocking.
    let Some(event) = veventq.fetch(out.len())? else {
        return Ok(None);
    };
    Place::EventTaken.delay();
    let result = out
        .write(&event.header())
        .and_then(|()| out.write_slice(event.data()));

    if let Err(err) = result {
        veventq.restore(event);
        return Err(err);
    }
    let size = event.size();
    veventq.consume(event);
    Ok(Some(size))
}

/// Copies whole events to user space, as many as fit. Returns the number of bytes, and the reason
/// for the end.
fn read(veventq: &EventQueue, out: &mut UserSliceWriter) -> (usize, Result) {
    let mut done = 0;

    loop {
        match read_event(veventq, out) {
            Ok(Some(size)) => done += size,
            Ok(None) => return (done, Ok(())),
            Err(err) => return (done, Err(err)),
        }
    }
}

/// The file of a queue. The fields are dropped in order: the context comes last.
struct VeventFile {
    veventq: User<Veventq>,
    _ctx: ContextRef,
}

#[vtable]
impl AnonFile for VeventFile {
    type Ptr = KBox<Self>;
    const NAME: &'static CStr = c"[iommufd-viommu-event]";

    fn read(this: &Self, pos: Offset, mut out: UserSliceWriter) -> Result<usize> {
        if pos != 0 {
            return Err(ESPIPE);
        }
        if out.len() < size_of::<VeventHeader>() {
            return Err(EINVAL);
        }
        let (done, result) = read(&this.veventq, &mut out);
        partial(done, result)
    }

    fn poll<'a>(this: &'a Self, poller: &Poller<'a>) -> u32 {
        poller.register_wait(this.veventq.pollers());
        if this.veventq.is_empty() {
            0
        } else {
            POLL_IN
        }
    }
}

/// A queue that is not published, and its file.
struct NewVeventq<'a, 'v, 'l> {
    ctx: ContextRef,
    veventqs: &'l mut VeventqsGuard<'v>,
    veventq: Reserved<'a, Veventq>,
    file: NewFile<VeventFile>,
}

impl Publish for NewVeventq<'_, '_, '_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let veventq = self.veventq.publish_with_user(answer)?;

        self.veventqs.add(&veventq.queue);
        self.file.install(VeventFile {
            veventq,
            _ctx: self.ctx,
        });
        Ok(())
    }
}

/// IOMMU_VEVENTQ_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_veventq_alloc>) -> Result<Published> {
    if cmd.flags != 0
        || cmd.__reserved != 0
        || cmd.type_ == bindings::iommu_veventq_type_IOMMU_VEVENTQ_TYPE_DEFAULT
    {
        return Err(EOPNOTSUPP);
    }
    if !(1..=MAX_DEPTH).contains(&cmd.veventq_depth) {
        return Err(EINVAL);
    }

    let ctx = cmd.ctx();
    let viommu = ctx.get::<Viommu>(cmd.viommu_id)?;
    let mut veventqs = viommu.veventqs.lock();
    if veventqs.contains(cmd.type_) {
        return Err(EEXIST);
    }

    let veventq = ctx.reserve(Veventq::new(
        cmd.type_,
        cmd.veventq_depth,
        viommu.dependency(),
    ))?;
    let file = NewFile::new()?;

    cmd.out_veventq_id = veventq.id();
    cmd.out_veventq_fd = file.fd();
    cmd.publish(NewVeventq {
        ctx: ContextRef::get(ctx)?,
        veventqs: &mut veventqs,
        veventq,
        file,
    })
}
