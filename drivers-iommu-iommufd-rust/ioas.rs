// SPDX-License-Identifier: GPL-2.0

//! The IOAS, an I/O address space, and its commands.
//!
//! The [`IoPagetable`] implements them.
//!
//! Locks: [`Ioas::hwpts`] is taken before all locks of the IO page table. IOAS_CHANGE_PROCESS takes
//! [`Context::ioas_creation_lock`], then the `iova` locks of all IOASes of the context in the order
//! of their ids.
#![forbid(unsafe_code)]

use crate::{
    command::{
        Answer,
        Published, //
    },
    context::{
        Command,
        Context,
        ContextPtr, //
    },
    hwpt::HwptIds,
    io_pagetable::{
        IoPagetable,
        IovaSpace, //
        Placement,
    },
    mapping::Prot,
    object::{
        Kind,
        Owner as _,
        Publish,
        Ref,
        Reserved,
        WriteSide, //
    },
    pages::{
        Handover,
        Pages, //
    },
    range::IovaRange,
    sys::{
        task::go_on,
        test::convert_iova,
        uapi::Plain, //
    }, //
};
use kernel::{
    bindings,
    interval_tree::{
        IntervalTree,
        Node, //
    },
    prelude::*,
    seg_vec::SegVec,
    sync::{
        new_mutex,
        rwsem::WriteGuard,
        Arc,
        Mutex, //
    },
    uaccess::{
        nofault::{
            copy_to_user_nofault,
            fault_in_writeable, //
        },
        UserPtr,
        UserSlice, //
    }, //
};

/// An I/O address space. C declares `struct iommufd_ioas` with the first field only.
#[repr(C)]
#[pin_data]
pub(crate) struct Ioas {
    #[pin]
    pub(crate) iopt: IoPagetable,
    /// The paging HWPTs of this IOAS. Locked while one is found or created for a device that is
    /// being attached.
    #[pin]
    pub(crate) hwpts: Mutex<HwptIds>,
    pub(crate) ctx: ContextPtr,
}

impl Kind for Ioas {
    type Owner = Context;

    fn destroy(this: WriteSide<'_, Self>) {
        this.iopt.destroy();
    }
}

impl Ioas {
    fn new(ctx: &Context) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            iopt <- IoPagetable::new(),
            hwpts <- new_mutex!(HwptIds::new(), "iommufd_ioas::mutex"),
            ctx: ContextPtr::from(ctx),
        }? Error)
    }

    /// Creates an empty IOAS that is not published.
    pub(crate) fn reserve(ctx: &Context) -> Result<NewIoas<'_>> {
        Ok(NewIoas(ctx.reserve(Self::new(ctx))?))
    }
}

/// An unpublished IOAS. Its publication waits for IOAS_CHANGE_PROCESS.
pub(crate) struct NewIoas<'a>(Reserved<'a, Ioas>);

impl NewIoas<'_> {
    /// Returns the id that the IOAS will have.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Publish for NewIoas<'_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let _creation = self.0.owner().ioas_creation_lock.read();

        self.0.publish(answer)
    }
}

/// Converts an IOVA or a length from user space. [`EOVERFLOW`] for one that cannot be mapped.
fn bounded(number: u64) -> Result<usize> {
    usize::try_from(number)
        .ok()
        .filter(|&number| number != usize::MAX)
        .ok_or(EOVERFLOW)
}

const FIXED: u32 = bindings::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA;
const WRITEABLE: u32 = bindings::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
const READABLE: u32 = bindings::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;

/// Returns whether there are flags that mapping commands do not have.
fn has_unknown_flags(flags: u32) -> bool {
    flags & !(FIXED | WRITEABLE | READABLE) != 0
}

/// Returns the protection that the flags of a mapping command ask for.
fn prot_of(flags: u32) -> Result<Prot> {
    Prot::ram(flags & READABLE != 0, flags & WRITEABLE != 0)
}

/// Returns the placement that the flags of a mapping command ask for.
fn placement_of(flags: u32, iova: usize) -> Placement {
    if flags & FIXED != 0 {
        Placement::Fixed(iova)
    } else {
        Placement::Any
    }
}

/// IOMMU_IOAS_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_ioas_alloc>) -> Result<Published> {
    if cmd.flags != 0 {
        return Err(EOPNOTSUPP);
    }

    let ioas = Ioas::reserve(cmd.ctx())?;
    cmd.out_ioas_id = ioas.id();
    cmd.publish(ioas)
}

/// A buffered writer of pairs of numbers to user memory, which does not sleep.
struct Pairs {
    user: UserPtr,
    /// The number of pairs that user space still has room for.
    room: usize,
    buffer: [[u64; 2]; 32],
    len: usize,
    result: Result,
}

impl Pairs {
    fn new(user: UserPtr, room: usize) -> Self {
        Self {
            user,
            room,
            buffer: [[0; 2]; 32],
            len: 0,
            result: Ok(()),
        }
    }

    fn push(&mut self, pair: [u64; 2]) {
        if self.room == 0 || self.result.is_err() {
            return;
        }
        self.room -= 1;
        self.buffer[self.len] = pair;
        self.len += 1;
        if self.len == self.buffer.len() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let bytes = self.buffer[..self.len].as_bytes();

        self.result = copy_to_user_nofault(self.user, bytes);
        self.user = self.user.wrapping_byte_add(bytes.len());
        self.len = 0;
    }

    /// Writes the rest of the buffer. Returns the first error.
    fn finish(mut self) -> Result {
        if self.len != 0 && self.result.is_ok() {
            self.flush();
        }
        self.result
    }
}

/// Copies the usable ranges of an IOAS to user space, as two numbers each, at most `room` ranges.
/// Returns their total number, and the alignment of IOVAs.
///
/// `find` looks the IOAS up, which is not held during page faults. After a page fault all ranges
/// are copied again, so they are those of one point in time.
///
/// # Errors
///
/// [`EFAULT`], or what `find` returns.
pub(crate) fn copy_usable<'a>(
    find: impl Fn() -> Result<Ref<'a, Ioas>>,
    user: UserPtr,
    room: usize,
) -> Result<(usize, usize)> {
    // Faulted-in pages can be reclaimed before the copy, but not often.
    const TRIES: usize = 16;

    for _ in 0..TRIES {
        let ioas = find()?;
        let space = ioas.iopt.read();
        let mut pairs = Pairs::new(user, room);
        let mut count = 0_usize;

        for range in space.usable() {
            pairs.push([range.start as u64, range.last as u64]);
            count += 1;
        }
        let alignment = space.alignment();
        drop(space);
        drop(ioas);
        if pairs.finish().is_ok() {
            return Ok((count, alignment));
        }
        fault_in_writeable(user, count.min(room) * size_of::<[u64; 2]>())?;
    }
    Err(EFAULT)
}

/// IOMMU_IOAS_IOVA_RANGES.
pub(crate) fn iova_ranges(
    cmd: &mut Command<'_, bindings::iommu_ioas_iova_ranges>,
) -> Result<Answer> {
    const _: () = assert!(size_of::<bindings::iommu_iova_range>() == size_of::<[u64; 2]>());

    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }

    let (ctx, id) = (cmd.ctx(), cmd.ioas_id);
    // CAST: An address of user space, whatever it is; `usize` has at least 32 bits.
    let (user, room) = (
        UserPtr::from_addr(cmd.allowed_iovas as usize),
        cmd.num_iovas as usize,
    );
    let (count, alignment) = copy_usable(|| ctx.get::<Ioas>(id), user, room)?;

    cmd.num_iovas = count.try_into().unwrap_or(u32::MAX);
    cmd.out_iova_alignment = alignment as u64;
    if count > room {
        return Ok(Answer::Failure(EMSGSIZE));
    }
    Ok(Answer::Success)
}

/// Reads ranges, which must not overlap. User space chooses their number.
fn read_ranges(user: UserPtr, count: u32) -> Result<IntervalTree<()>> {
    let len = size_of::<bindings::iommu_iova_range>().saturating_mul(count as usize);
    let mut reader = UserSlice::new(user, len).reader();
    let mut ranges = IntervalTree::new();

    for _ in 0..count {
        let Plain(range) = reader.read::<Plain<bindings::iommu_iova_range>>()?;
        // CAST: IOVA has the size of `usize`.
        let (start, last) = (range.start as usize, range.last as usize);

        if start >= last || ranges.first(start, last).is_some() {
            return Err(EINVAL);
        }
        go_on()?;
        ranges.insert(Node::new(start, last, (), GFP_KERNEL_ACCOUNT)?);
    }
    Ok(ranges)
}

/// IOMMU_IOAS_ALLOW_IOVAS.
pub(crate) fn allow_iovas(cmd: &mut Command<'_, bindings::iommu_ioas_allow_iovas>) -> Result {
    const MANY: u32 = 64;

    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }

    let (ctx, id) = (cmd.ctx(), cmd.ioas_id);
    // A wrong id fails before many ranges are read.
    if cmd.num_iovas > MANY && ctx.find::<Ioas>(id).is_none() {
        return Err(ENOENT);
    }
    let user = UserPtr::from_addr(cmd.allowed_iovas as usize);
    // The IOAS is not held while user memory is accessed.
    let allowed = read_ranges(user, cmd.num_iovas);
    let ioas = ctx.get::<Ioas>(id)?;

    ioas.iopt.set_allowed(allowed?)
}

/// IOMMU_IOAS_MAP.
pub(crate) fn map(cmd: &mut Command<'_, bindings::iommu_ioas_map>) -> Result<Answer> {
    if has_unknown_flags(cmd.flags) || cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }

    let (iova, len) = (bounded(cmd.iova)?, bounded(cmd.length)?);
    let prot = prot_of(cmd.flags)?;
    let ctx = cmd.ctx();
    let ioas = ctx.get::<Ioas>(cmd.ioas_id)?;

    // CAST: An address of user space, whatever it is.
    let uptr = cmd.user_va as usize;
    let (pages, start_byte) = Pages::from_user(uptr, len, prot.writable(), ctx.account_mode())?;
    let placement = placement_of(cmd.flags, iova);
    cmd.iova = ioas.iopt.map(pages, start_byte, len, placement, prot)? as u64;
    Ok(Answer::Success)
}

/// IOMMU_IOAS_MAP_FILE.
pub(crate) fn map_file(cmd: &mut Command<'_, bindings::iommu_ioas_map_file>) -> Result<Answer> {
    if has_unknown_flags(cmd.flags) {
        return Err(EOPNOTSUPP);
    }

    let (iova, len) = (bounded(cmd.iova)?, bounded(cmd.length)?);
    let prot = prot_of(cmd.flags)?;
    let ctx = cmd.ctx();
    let ioas = ctx.get::<Ioas>(cmd.ioas_id)?;

    // CAST: Files have no more than `usize` bytes.
    let start = cmd.start as usize;
    let mode = ctx.account_mode();
    let (pages, start_byte) = Pages::from_fd(cmd.fd, start, len, prot.writable(), mode)?;
    let placement = placement_of(cmd.flags, iova);
    cmd.iova = ioas.iopt.map(pages, start_byte, len, placement, prot)? as u64;
    Ok(Answer::Success)
}

/// IOMMU_IOAS_COPY.
pub(crate) fn copy(cmd: &mut Command<'_, bindings::iommu_ioas_copy>) -> Result<Answer> {
    let ctx = cmd.ctx();
    let src_id = cmd.src_ioas_id;
    let (mut src_iova, mut flags) = (cmd.src_iova, cmd.flags);
    convert_iova(&ctx.c, src_id, &mut src_iova, &mut flags);
    (cmd.src_iova, cmd.flags) = (src_iova, flags);

    if has_unknown_flags(flags) {
        return Err(EOPNOTSUPP);
    }
    let (len, src_iova) = (bounded(cmd.length)?, bounded(src_iova)?);
    let dst_iova = bounded(cmd.dst_iova)?;
    let prot = prot_of(flags)?;

    let src = ctx.get::<Ioas>(src_id)?;
    let areas = src
        .iopt
        .areas_to_copy(IovaRange::from_len(src_iova, len)?)?;
    // The new areas have references of their own. The source can be the destination.
    drop(src);

    let dst = ctx.get::<Ioas>(cmd.dst_ioas_id)?;
    let placement = placement_of(flags, dst_iova);
    cmd.dst_iova = dst.iopt.map_areas(areas, len, placement, prot)? as u64;
    Ok(Answer::Success)
}

/// IOMMU_IOAS_UNMAP.
pub(crate) fn unmap(cmd: &mut Command<'_, bindings::iommu_ioas_unmap>) -> Result<Answer> {
    let ioas = cmd.ctx().get::<Ioas>(cmd.ioas_id)?;

    let bytes = if cmd.iova == 0 && cmd.length == u64::MAX {
        let (bytes, result) = ioas.iopt.unmap_all();

        result.map(|()| bytes)?
    } else {
        let range = IovaRange::from_len(bounded(cmd.iova)?, bounded(cmd.length)?)?;
        let (bytes, result) = ioas.iopt.unmap(range);

        result?;
        // No area was mapped there.
        (bytes != 0).then_some(bytes).ok_or(ENOENT)?
    };
    cmd.length = bytes as u64;
    Ok(Answer::Success)
}

/// IOMMU_OPTION_HUGE_PAGES.
pub(crate) fn option_huge_pages(ctx: &Context, option: &mut bindings::iommu_option) -> Result {
    let ioas = ctx.get::<Ioas>(option.object_id)?;

    match u32::from(option.op) {
        bindings::iommufd_option_ops_IOMMU_OPTION_OP_GET => {
            option.val64 = u64::from(ioas.iopt.large_pages());
            Ok(())
        }
        bindings::iommufd_option_ops_IOMMU_OPTION_OP_SET => match option.val64 {
            0 => ioas.iopt.set_large_pages(false),
            1 => ioas.iopt.set_large_pages(true),
            _ => Err(EINVAL),
        },
        _ => Err(EOPNOTSUPP),
    }
}

/// IOMMU_IOAS_NOIOMMU_GET_PA.
#[cfg(CONFIG_IOMMUFD_NOIOMMU)]
pub(crate) fn noiommu_get_pa(
    cmd: &mut Command<'_, bindings::iommu_ioas_noiommu_get_pa>,
) -> Result<Answer> {
    if !crate::sys::task::capable(kernel::capability::Capability::SYS_RAWIO) {
        return Err(EPERM);
    }
    if cmd.flags != 0 || cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    if cmd.length == 0 {
        return Err(EINVAL);
    }

    let iova = bounded(cmd.iova)?;
    let ioas = cmd.ctx().get::<Ioas>(cmd.ioas_id)?;
    (cmd.out_phys, cmd.length) = ioas.iopt.noiommu_phys(iova, cmd.length)?;
    Ok(Answer::Success)
}

/// IOMMU_IOAS_NOIOMMU_GET_PA, without CONFIG_IOMMUFD_NOIOMMU.
#[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
pub(crate) fn noiommu_get_pa(_: &mut Command<'_, bindings::iommu_ioas_noiommu_get_pa>) -> Result {
    Err(EOPNOTSUPP)
}

/// Returns the IOAS with the lowest id from `from` on that is not being destroyed.
///
/// # Errors
///
/// [`EINTR`] if the current task is being killed.
fn next_ioas<'a>(ctx: &'a Context, from: &mut u32) -> Result<Option<Ref<'a, Ioas>>> {
    loop {
        go_on()?;
        // There can be many other objects between two IOASes: unlock the table after each.
        let table = ctx.objects.lock();
        let Some((id, object)) = table.find(*from) else {
            return Ok(None);
        };

        *from = id + 1;
        if let Some(ioas) = Ref::try_lock(&object, ctx) {
            return Ok(Some(ioas));
        }
    }
}

/// The IOVA spaces of all IOASes of a context, locked.
type Spaces<'a> = SegVec<WriteGuard<'a, IovaSpace>>;

/// Returns the pages of all areas of locked IOASes, once for each area.
fn all_pages<'a>(spaces: &'a Spaces<'_>) -> impl Iterator<Item = Option<&'a Arc<Pages>>> {
    spaces
        .iter()
        .flat_map(|space| space.areas().map(|area| area.pages()))
}

/// IOMMU_IOAS_CHANGE_PROCESS.
///
/// The owner of pages has no lock of its own, which accesses would have to take for each copy.
/// Instead all IOASes of the context are locked, since pages can be in any of them.
pub(crate) fn change_process(cmd: &mut Command<'_, bindings::iommu_ioas_change_process>) -> Result {
    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }

    // Prevents new IOASes, and that another thread takes the locks of several of them.
    let ctx = cmd.ctx();
    let creation = ctx.ioas_creation_lock.write();
    let (mut ioases, mut from) = (SegVec::new(), 0);
    while let Some(ioas) = next_ioas(ctx, &mut from)? {
        ioases.push(ioas, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
    }
    let mut spaces = Spaces::new();
    for ioas in ioases.iter() {
        go_on()?;
        spaces.push(
            ioas.iopt.write_nested_in(&creation),
            GFP_KERNEL_ACCOUNT | __GFP_NOWARN,
        )?;
    }

    for pages in all_pages(&spaces) {
        go_on()?;
        if !pages.ok_or(EBUSY)?.is_file() {
            return Err(EINVAL);
        }
    }
    hand_over(&spaces)
}

/// Makes the current process the owner of all pages.
fn hand_over(spaces: &Spaces<'_>) -> Result {
    let mut handover = Handover::to_current()?;
    let tallied = all_pages(spaces).flatten().try_for_each(|pages| {
        go_on()?;
        handover.tally(pages);
        Ok(())
    });

    let charged = match tallied {
        Ok(()) => handover.charge(),
        Err(error) => Err((error, handover)),
    };
    match charged {
        Ok(mut charged) => {
            all_pages(spaces)
                .flatten()
                .for_each(|pages| charged.apply(pages));
            Ok(())
        }
        Err((error, handover)) => {
            all_pages(spaces)
                .flatten()
                .for_each(|pages| handover.cancel(pages));
            Err(error)
        }
    }
}
