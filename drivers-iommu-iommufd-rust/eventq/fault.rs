// SPDX-License-Identifier: GPL-2.0

//! I/O page faults for user space.
//!
//! If a HWPT has a fault queue, the page requests of its devices are queued there, in
//! [`FaultGroup`]s:
//!
//! - the fault handler ([`Fault::deliver`]) queues a group from the IOMMU core;
//! - `read()` copies a group to user space, all of its requests or none, with a new cookie;
//! - `write()` reads the response for a cookie, and responds to the group;
//! - detaching a device responds to its remaining groups ([`Fault::auto_respond`]), so that the
//!   device does not wait forever and the attach handle that the groups point to can be freed.
//!
//! A group has one owner at a time: the queue, the table of cookies, or one of these functions.
//! Dropping a group, or the queue, sends a response.
//!
//! Locks: `awaiting` (mutex) -> the lock of the queue (spinlock). `awaiting` is held while a group
//! changes its owner and while it gets a response, so that its holder finds all groups of a device;
//! the fault handler takes only the lock of the queue. Neither is held while user memory is
//! accessed, which can block, as detaching a device takes `awaiting`.
#![forbid(unsafe_code)]

use super::{
    cookies::Cookies,
    partial,
    unread::Unread,
    NewFile, //
};
use crate::{
    command::Published,
    context::{
        Command,
        Context,
        ContextPtr,
        ContextRef, //
    },
    object::{
        Kind,
        Owner as _,
        Publish,
        Reserved,
        User, //
    },
    sys::{
        delay::Place,
        iopf::{
            FaultGroup,
            FaultGroups,
            FaultQueue, //
        },
        pgfault::{
            PageFault,
            PageResponse, //
        }, //
    }, //
};
use core::ptr;
use kernel::{
    bindings,
    device::Device,
    fs::{
        anon_inode::{
            AnonFile,
            POLL_IN,
            POLL_OUT, //
        },
        file::Offset, //
    },
    iommu::iopf::{
        Pending,
        Response, //
    },
    new_mutex,
    prelude::*,
    sync::{
        poll::Poller,
        Mutex, //
    },
    transmute::AsBytes,
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
    unread: Unread,
    /// Groups that user space has read, or is reading, and that have no response.
    #[pin]
    awaiting: Mutex<Awaiting>,
    pub(crate) ctx: ContextPtr,
}

/// Groups by cookie.
struct Awaiting {
    cookies: Cookies<Delivery>,
    /// The serial number of the last delivery.
    deliveries: u64,
}

/// A group under a cookie.
struct Delivery {
    group: FaultGroup,
    /// The serial number. Unlike the cookie, it is not reused.
    serial: u64,
}

impl Awaiting {
    fn new() -> Self {
        Self {
            cookies: Cookies::new(),
            deliveries: 0,
        }
    }

    /// Removes a delivery from the table, unless it has got a response meanwhile.
    fn recall(&mut self, cookie: u32, serial: u64) -> Option<FaultGroup> {
        if self.cookies.get(cookie)?.serial != serial {
            return None;
        }
        Some(self.cookies.remove(cookie)?.group)
    }
}

/// Returns the size in bytes of the messages of a group.
fn size_of_messages(group: &Pending) -> usize {
    group.len().saturating_mul(size_of::<PageFault>())
}

impl Kind for Fault {
    type Owner = Context;
}

impl FaultQueue for Fault {
    /// Queues a group for user space.
    fn deliver(&self, group: FaultGroup) {
        self.unread.push_back(group);
    }
}

impl Fault {
    fn new(ctx: &Context) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            ctx: ContextPtr::from(ctx),
            unread <- Unread::new(),
            awaiting <- new_mutex!(Awaiting::new(), "iommufd_fault::awaiting"),
        }? Error)
    }

    /// Responds with "invalid" to the groups of the device that was attached with `handle`.
    ///
    /// Called when the device cannot fault with this handle any more, and before the handle is
    /// freed. The handle is not dereferenced.
    ///
    /// Context: process context; may sleep.
    pub(crate) fn auto_respond(&self, handle: *const bindings::iommu_attach_handle) {
        self.respond_to(|group| ptr::eq(group.attach_handle(), handle));
    }

    /// As [`Self::auto_respond`], to the groups of `dev`, which is about to be unbound. Other
    /// devices of its IOMMU group may stay attached with the same handle.
    pub(crate) fn respond_to_device(&self, dev: &Device) {
        self.respond_to(|group| group.is_of(dev));
    }

    fn respond_to(&self, which: impl Fn(&Pending) -> bool) {
        let mut awaiting = self.awaiting.lock();
        {
            // Dropping the queue answers its groups.
            pin_init::stack_pin_init!(let unread = FaultGroups::new());
            self.unread.extract(unread.as_mut(), &which);
        }
        awaiting
            .cookies
            .remove_if(|delivery| which(&delivery.group), drop);
    }

    /// Moves the first unread group to the table, if its messages fit into `room` bytes, and
    /// composes them in `messages`. Returns the cookie and the serial number of the delivery.
    fn take(&self, room: usize, messages: &mut KVVec<PageFault>) -> Result<Option<(u32, u64)>> {
        let mut awaiting = self.awaiting.lock();
        let Awaiting {
            cookies,
            deliveries,
        } = &mut *awaiting;
        // A buffer too small for one group fails instead of blocking.
        let Some(group) = self
            .unread
            .pop_front(|group| size_of_messages(group) <= room)?
        else {
            return Ok(None);
        };
        let vacancy = match messages
            .reserve(group.len(), GFP_KERNEL_ACCOUNT)
            .map_err(Error::from)
            .and_then(|()| cookies.reserve())
        {
            Ok(vacancy) => vacancy,
            Err(err) => {
                self.unread.push_front(group);
                return Err(err);
            }
        };

        let (dev_id, cookie) = (group.leader_id(), vacancy.cookie());
        for request in group.requests() {
            // The memory for all requests of the group is reserved, so this does not fail.
            let _ = messages.push_within_capacity(PageFault::new(&request, dev_id, cookie));
        }
        *deliveries += 1;
        vacancy.fill(Delivery {
            group,
            serial: *deliveries,
        });
        Ok(Some((cookie, *deliveries)))
    }

    /// Copies the first unread group to user space, if it fits. Returns its size in bytes.
    fn read_group(
        &self,
        out: &mut UserSliceWriter,
        messages: &mut KVVec<PageFault>,
    ) -> Result<Option<usize>> {
        messages.clear();
        let Some((cookie, serial)) = self.take(out.len(), messages)? else {
            return Ok(None);
        };
        Place::FaultTaken.delay();
        let result = messages
            .iter()
            .try_for_each(|message| out.write_slice(message.as_bytes()));

        if let Err(err) = result {
            let mut awaiting = self.awaiting.lock();
            // If the device was detached meanwhile, its group has got a response.
            if let Some(group) = awaiting.recall(cookie, serial) {
                self.unread.push_front(group);
            }
            return Err(err);
        }
        Ok(Some(messages.len() * size_of::<PageFault>()))
    }

    /// Copies whole groups to user space, as many as fit. Returns the number of bytes, and the
    /// reason for the end.
    fn read(&self, out: &mut UserSliceWriter) -> (usize, Result) {
        let mut messages = KVVec::new();
        let mut done = 0;

        loop {
            match self.read_group(out, &mut messages) {
                Ok(Some(size)) => done += size,
                Ok(None) => return (done, Ok(())),
                Err(err) => return (done, Err(err)),
            }
        }
    }

    /// Reads one response from user space.
    fn write_answer(&self, data: &mut UserSliceReader) -> Result {
        let PageResponse { cookie, code } = PageResponse::read(data)?;
        let response = match code {
            bindings::iommufd_page_response_code_IOMMUFD_PAGE_RESP_SUCCESS => Response::Success,
            bindings::iommufd_page_response_code_IOMMUFD_PAGE_RESP_INVALID => Response::Invalid,
            _ => return Err(EINVAL),
        };
        let mut awaiting = self.awaiting.lock();
        let delivery = awaiting.cookies.remove(cookie).ok_or(EINVAL)?;

        // With the lock held: detaching the device relies on the response being complete.
        delivery.group.respond(response);
        Ok(())
    }

    /// Reads responses from user space. Returns the number of bytes used, and the error of the next
    /// response.
    fn write(&self, data: &mut UserSliceReader) -> (usize, Result) {
        let mut done = 0;

        while !data.is_empty() {
            if let Err(err) = self.write_answer(data) {
                return (done, Err(err));
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
        if this.fault.unread.poll(poller) {
            POLL_OUT | POLL_IN
        } else {
            POLL_OUT
        }
    }
}

/// A fault queue that is not published, and its file.
struct NewFault<'a> {
    ctx: ContextRef,
    fault: Reserved<'a, Fault>,
    file: NewFile<FaultFile>,
}

impl Publish for NewFault<'_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let fault = self.fault.publish_with_user(answer)?;

        self.file.install(FaultFile {
            fault,
            _ctx: self.ctx,
        });
        Ok(())
    }
}

/// IOMMU_FAULT_QUEUE_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_fault_alloc>) -> Result<Published> {
    if cmd.flags != 0 {
        return Err(EOPNOTSUPP);
    }

    let ctx = cmd.ctx();
    let fault = ctx.reserve(Fault::new(ctx))?;
    let file = NewFile::new()?;

    cmd.out_fault_id = fault.id();
    cmd.out_fault_fd = file.fd();
    cmd.publish(NewFault {
        ctx: ContextRef::get(ctx)?,
        fault,
        file,
    })
}
