// SPDX-License-Identifier: GPL-2.0

//! I/O page faults for user space.
//!
//! A HWPT that is created with a fault queue sends the page requests of its devices there, in
//! [`Group`]s. The actors:
//!
//! - the fault handler ([`Fault::deliver`]) queues a group that the IOMMU core hands over;
//! - `read()` gives a group to user space, all of its requests or none, under a new cookie;
//! - `write()` brings the answer for a cookie, which ends the group;
//! - detaching a device answers what is left of its groups ([`Fault::auto_respond`]), so that the
//!   device does not wait for ever, and the attach handle that the groups name can be freed.
//!
//! At any time a group is in one place: the queue, the table of cookies, or the hands of one of the
//! above. Whoever holds it last answers it; that includes dropping the whole queue.
//!
//! Locks: `awaiting` (mutex) -> `queue` (spinlock). `awaiting` is held while a group moves between
//! the two, so that who holds it knows all groups of a device; the handler only needs `queue`.
#![forbid(unsafe_code)]

use super::{
    cookies::Cookies,
    partial,
    NewFile, //
};
use crate::{
    context::ContextRef,
    ffi::eventq::{
        PageFault,
        PageResponse, //
    },
    ioctl::Command,
    object::{
        Kind,
        User, //
    }, //
};
use core::ptr;
use kernel::{
    bindings,
    fs::{
        anon_inode::{
            new_poll_head,
            AnonFile,
            PollHead,
            Poller,
            POLL_IN,
            POLL_OUT, //
        },
        file::Offset, //
    },
    iommu::iopf::{
        Group,
        Queue,
        Response, //
    },
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        Mutex,
        SpinLock, //
    },
    uaccess::{
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

/// A fault queue.
#[pin_data]
pub(crate) struct Fault {
    /// Groups that user space has not read.
    #[pin]
    queue: SpinLock<Queue>,
    /// Groups that user space has read and not answered.
    #[pin]
    awaiting: Mutex<Cookies<Group>>,
    #[pin]
    pollers: PollHead,
}

impl Kind for Fault {}

impl Fault {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            queue <- new_spinlock!(Queue::new(), "iommufd_fault::queue"),
            awaiting <- new_mutex!(Cookies::new(), "iommufd_fault::awaiting"),
            pollers <- new_poll_head!("iommufd_fault::pollers"),
        }? Error)
    }

    /// Queues a group for user space.
    ///
    /// Context: any in which a spinlock can be taken, interrupts excepted.
    pub(crate) fn deliver(&self, group: Group) {
        self.queue.lock().push_back(group);
        self.pollers.notify();
    }

    /// Answers, as invalid, the groups of the device that was attached with `handle`.
    ///
    /// To be called when the device cannot fault under this handle any more, and before the handle
    /// is freed. The handle is not dereferenced.
    ///
    /// Context: process context; may sleep.
    pub(crate) fn auto_respond(&self, handle: *const bindings::iommu_attach_handle) {
        let mut awaiting = self.awaiting.lock();
        let unread = self
            .queue
            .lock()
            .extract(|group| ptr::eq(group.attach_handle(), handle));
        drop(unread);
        awaiting.remove_if(|group| ptr::eq(group.attach_handle(), handle), drop);
    }

    fn next(&self) -> Option<Group> {
        self.queue.lock().pop_front()
    }

    fn put_back(&self, group: Group) {
        self.queue.lock().push_front(group);
    }

    /// Gives whole groups to user space, as many as fit. Returns how many bytes that were, and why
    /// there are no more.
    fn read(&self, out: &mut UserSliceWriter) -> (usize, Result) {
        let mut awaiting = self.awaiting.lock();
        let mut done = 0;
        while let Some(group) = self.next() {
            let size = group.len().saturating_mul(size_of::<PageFault>());
            if size > out.len() {
                self.put_back(group);
                // Whoever offers too little for the first group would wait for ever.
                let result = if done == 0 { Err(EINVAL) } else { Ok(()) };
                return (done, result);
            }
            let vacancy = match awaiting.reserve() {
                Ok(vacancy) => vacancy,
                Err(err) => {
                    self.put_back(group);
                    return (done, Err(err));
                }
            };
            // The handler tags groups with the device.
            let (dev_id, cookie) = (group.tag(), vacancy.cookie());
            let result = group
                .requests()
                .try_for_each(|request| out.write(&PageFault::new(&request, dev_id, cookie)));
            if result.is_err() {
                self.put_back(group);
                return (done, result);
            }
            vacancy.fill(group);
            done += size;
        }
        (done, Ok(()))
    }

    /// Takes answers from user space. Returns how many bytes were used, and what was wrong with the
    /// rest.
    fn write(&self, data: &mut UserSliceReader) -> (usize, Result) {
        let mut awaiting = self.awaiting.lock();
        let mut done = 0;
        while !data.is_empty() {
            let answer = PageResponse::read(data).and_then(|PageResponse { cookie, code }| {
                let response = match code {
                    bindings::iommufd_page_response_code_IOMMUFD_PAGE_RESP_SUCCESS => {
                        Response::Success
                    }
                    bindings::iommufd_page_response_code_IOMMUFD_PAGE_RESP_INVALID => {
                        Response::Invalid
                    }
                    _ => return Err(EINVAL),
                };
                Ok((awaiting.remove(cookie).ok_or(EINVAL)?, response))
            });
            match answer {
                Ok((group, response)) => group.respond(response),
                Err(err) => return (done, Err(err)),
            }
            done += size_of::<PageResponse>();
        }
        (done, Ok(()))
    }
}

/// The file of a fault queue. The fields are dropped in order: the context comes last.
struct FaultFile {
    fault: User<Fault>,
    _ctx: ContextRef,
}

#[vtable]
impl AnonFile for FaultFile {
    type Ptr = KBox<Self>;
    const NAME: &'static CStr = c"[iommufd-pgfault]";

    fn read(this: &Self, pos: Offset, mut out: UserSliceWriter) -> Result<usize> {
        if pos != 0 || out.len() % size_of::<PageFault>() != 0 {
            return Err(ESPIPE);
        }
        let (done, result) = this.fault.read(&mut out);
        partial(done, result)
    }

    fn write(this: &Self, pos: Offset, mut data: UserSliceReader) -> Result<usize> {
        if pos != 0 || data.len() % size_of::<PageResponse>() != 0 {
            return Err(ESPIPE);
        }
        let (done, result) = this.fault.write(&mut data);
        partial(done, result)
    }

    fn poll<'a>(this: &'a Self, poller: &Poller<'a>) -> u32 {
        poller.wait_on(&this.fault.pollers);
        if this.fault.queue.lock().is_empty() {
            POLL_OUT
        } else {
            POLL_OUT | POLL_IN
        }
    }
}

/// IOMMU_FAULT_QUEUE_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_fault_alloc>) -> Result {
    if cmd.flags != 0 {
        return Err(EOPNOTSUPP);
    }

    let ctx = cmd.ctx();
    let fault = ctx.reserve(Fault::new())?;
    let file = NewFile::new()?;

    cmd.out_fault_id = fault.id();
    cmd.out_fault_fd = file.fd();
    cmd.respond()?;

    file.install(FaultFile {
        fault: fault.publish_with_user(),
        _ctx: ContextRef::from(ctx),
    });
    Ok(())
}
