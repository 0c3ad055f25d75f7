// SPDX-License-Identifier: GPL-2.0

//! The VFIO container interface, on top of an IOAS.
//!
//! A VFIO container has one address space, without an id. The commands of a container act on the
//! *compatibility IOAS* of the context. VFIO creates it when the first group is attached; user
//! space can query its id, or select another one (IOMMU_VFIO_IOAS). It can be destroyed like any
//! other IOAS, and then there is none.
//!
//! TYPE1, unlike TYPE1v2, can unmap a part of what was mapped by one call. IOMMU drivers do not
//! split large page table entries, so these are disabled for TYPE1; then an area can be split at
//! any page.
//!
//! As with VFIO's own type1, what is mapped can be a BAR that vfio-pci has mapped at an address of
//! the process, or contain one. It is mapped as a dma-buf of the BAR would be by
//! IOMMU_IOAS_MAP_FILE, but is mapped again when the memory of the device comes back.
//!
//! A container for devices without an IOMMU has no IOAS, and commands that need one fail.
//!
//! Locks: the lock of the table of objects protects the context's `VfioContainer`, so that the id
//! always belongs to the selected IOAS. No IOAS is held while user memory is accessed, except while
//! pages are being pinned to be mapped.
#![forbid(unsafe_code)]

use crate::{
    command::Answer,
    context::{
        Command,
        Context, //
    },
    io_pagetable::Placement,
    ioas::{
        self,
        Ioas, //
    },
    mapping::Prot,
    object::{
        Owner as _,
        Publish,
        Ref, //
    },
    pages::{
        divide,
        Pages, //
    },
    range::IovaRange,
    sys::{
        task::capable,
        uapi::{
            Plain,
            Uapi, //
        },
        vfio_uapi::{
            CapHeader,
            CapRange,
            DmaMap,
            DmaUnmap,
            Info,
            INFO_MIN, //
        }, //
    }, //
};
use kernel::{
    bindings,
    capability::Capability,
    ioctl::_IO,
    prelude::*,
    sync::atomic::ordering::Relaxed,
    transmute::AsBytes,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// Returns the compatibility IOAS.
///
/// # Errors
///
/// [`ENODEV`] if there is none.
pub(crate) fn ioas(ctx: &Context) -> Result<Ref<'_, Ioas>> {
    let objects = ctx.objects.lock();
    // No object has the id 0.
    let object = objects.get(ctx.vfio.ioas.load(Relaxed)).ok_or(ENODEV)?;
    Ref::try_lock(&object, ctx).ok_or(ENODEV)
}

/// Creates the compatibility IOAS, unless there is one.
///
/// # Errors
///
/// [`EINVAL`] if the container is for devices without an IOMMU; those of creating an IOAS.
pub(crate) fn create(ctx: &Context) -> Result {
    let ioas = Ioas::reserve(ctx)?;
    let (id, state) = (ioas.id(), &ctx.vfio);
    let mut exists = false;

    // Store the id in the step that publishes the IOAS, with the lock of the table held: from then
    // on IOMMU_VFIO_IOAS_GET returns it.
    let created = ioas.publish(|| {
        if state.is_no_iommu() {
            return Err(EINVAL);
        }
        exists = state.ioas.load(Relaxed) != 0;
        if exists {
            return Err(EEXIST);
        }
        state.ioas.store(id, Relaxed);
        Ok(())
    });

    if exists {
        return Ok(());
    }
    created
}

/// Makes the container one for devices without an IOMMU.
///
/// # Errors
///
/// [`EINVAL`] if there is a compatibility IOAS.
pub(crate) fn set_no_iommu(ctx: &Context) -> Result {
    let objects = ctx.objects.lock();
    if ctx.vfio.ioas.load(Relaxed) != 0 {
        return Err(EINVAL);
    }
    ctx.vfio.no_iommu.store(true, Relaxed);
    drop(objects);
    Ok(())
}

/// IOMMU_VFIO_IOAS.
pub(crate) fn ioas_command(
    cmd: &mut Command<'_, bindings::iommu_vfio_ioas>,
) -> Result<Option<Answer>> {
    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    let ctx = cmd.ctx();
    match u32::from(cmd.op) {
        bindings::iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_GET => {
            cmd.ioas_id = ioas(ctx)?.id();
            Ok(Some(Answer::Success))
        }
        bindings::iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_SET => {
            let ioas = ctx.get::<Ioas>(cmd.ioas_id)?;
            let objects = ctx.objects.lock();
            // It may have been removed from the table since, and its id reused.
            let object = objects.get(ioas.id()).ok_or(ENOENT)?;
            if !object
                .downcast::<Ioas>()
                .is_some_and(|found| core::ptr::eq(found, &*ioas))
            {
                return Err(ENOENT);
            }
            ctx.vfio.ioas.store(ioas.id(), Relaxed);
            drop(objects);
            Ok(None)
        }
        bindings::iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_CLEAR => {
            let objects = ctx.objects.lock();
            ctx.vfio.ioas.store(0, Relaxed);
            drop(objects);
            Ok(None)
        }
        _ => Err(EOPNOTSUPP),
    }
}

/// Reads a structure of the uAPI.
fn read<T: Uapi>(user: UserPtr) -> Result<T> {
    let Plain(value) = UserSlice::new(user, size_of::<T>()).reader().read()?;
    Ok(value)
}

/// Writes the first `len` bytes of a structure of the uAPI.
fn write<T: Uapi>(user: UserPtr, value: T, len: usize) -> Result {
    let value = Plain(value);
    let bytes = value.as_bytes();
    let len = len.min(bytes.len());
    UserSlice::new(user, len)
        .writer()
        .write_slice(&bytes[..len])
}

/// VFIO_IOMMU_MAP_DMA.
fn map_dma(ctx: &Context, user: UserPtr) -> Result<isize> {
    const FLAGS: u32 = bindings::VFIO_DMA_MAP_FLAG_READ | bindings::VFIO_DMA_MAP_FLAG_WRITE;

    let map: DmaMap = read(user)?;
    if (map.argsz as usize) < size_of::<DmaMap>() || map.flags & !FLAGS != 0 {
        return Err(EINVAL);
    }
    let prot = Prot::ram(
        map.flags & bindings::VFIO_DMA_MAP_FLAG_READ != 0,
        map.flags & bindings::VFIO_DMA_MAP_FLAG_WRITE != 0,
    )?;

    let ioas = ioas(ctx)?;
    let (vaddr, len) = (to_usize(map.vaddr)?, to_usize(map.size)?);
    let (writable, mode) = (prot.writable(), ctx.account_mode());
    let map_memory = || {
        let (pages, start) = Pages::from_user(vaddr, len, writable, mode)?;
        let iova = Placement::Fixed(to_usize(map.iova)?);

        ioas.iopt.map(pages, start, len, iova, prot).map(|_| 0)
    };

    // Mostly it is memory: BARs are looked for when that fails. Without a domain it does not.
    let has_domains = ioas.iopt.has_domains();
    if has_domains {
        match map_memory() {
            Err(EFAULT) => {}
            done => return done,
        }
    }
    match divide(vaddr, len, writable) {
        Ok(Some(parts)) => {
            let iova = to_usize(map.iova)?;

            ioas.iopt
                .map_parts(parts.into_iter(), len, iova, prot, mode)
                .map(|()| 0)
        }
        Ok(None) | Err(EFAULT | EOVERFLOW) if !has_domains => map_memory(),
        Ok(None) => Err(EFAULT),
        Err(err) => Err(err),
    }
}

/// VFIO_IOMMU_UNMAP_DMA.
fn unmap_dma(ctx: &Context, user: UserPtr) -> Result<isize> {
    // The dirty bitmap of the old interface is not supported.
    const FLAGS: u32 = bindings::VFIO_DMA_UNMAP_FLAG_ALL;

    let mut unmap: DmaUnmap = read(user)?;
    if (unmap.argsz as usize) < size_of::<DmaUnmap>() || unmap.flags & !FLAGS != 0 {
        return Err(EINVAL);
    }

    let ioas = ioas(ctx)?;
    let (unmapped, result) = if unmap.flags & bindings::VFIO_DMA_UNMAP_FLAG_ALL != 0 {
        if unmap.iova != 0 || unmap.size != 0 {
            return Err(EINVAL);
        }
        ioas.iopt.unmap_all()
    } else {
        let (iova, size) = (to_usize(unmap.iova)?, to_usize(unmap.size)?);
        if !ioas.iopt.large_pages() {
            // TYPE1: the range can begin and end within areas.
            let last = iova.wrapping_add(size).wrapping_sub(1);
            match iova.checked_sub(1) {
                Some(before) => ioas.iopt.cut(&[last, before])?,
                None => ioas.iopt.cut(&[last])?,
            }
        }
        match IovaRange::from_len(iova, size) {
            Ok(range) => ioas.iopt.unmap(range),
            Err(err) => (0, Err(err)),
        }
    };
    drop(ioas);
    // The number of unmapped bytes is reported even on error.
    unmap.size = unmapped as u64;
    write(user, unmap, size_of::<DmaUnmap>())?;
    result.map(|()| 0)
}

/// Returns whether every HWPT of the IOAS enforces cache coherency of DMA.
fn is_cache_coherent(ctx: &Context) -> Result<bool> {
    let ioas = ioas(ctx)?;
    let coherent = ioas.hwpts.lock().enforce_cache_coherency();
    Ok(coherent)
}

/// VFIO_CHECK_EXTENSION.
fn check_extension(ctx: &Context, extension: usize) -> Result<isize> {
    let Ok(extension) = u32::try_from(extension) else {
        return Ok(0);
    };
    let has = match extension {
        bindings::VFIO_TYPE1_IOMMU | bindings::VFIO_TYPE1v2_IOMMU | bindings::VFIO_UNMAP_ALL => {
            !ctx.vfio.is_no_iommu()
        }
        bindings::VFIO_NOIOMMU_IOMMU => cfg!(CONFIG_VFIO_NOIOMMU),
        bindings::VFIO_DMA_CC_IOMMU => is_cache_coherent(ctx)?,
        // As in C: neither nesting nor VFIO_UPDATE_VADDR.
        _ => false,
    };
    Ok(has.into())
}

/// VFIO_SET_IOMMU.
fn set_iommu(ctx: &Context, type_: usize) -> Result<isize> {
    let no_iommu = ctx.vfio.is_no_iommu();
    match u32::try_from(type_) {
        // VFIO refuses most other commands then; here they fail because there is no IOAS.
        Ok(bindings::VFIO_NOIOMMU_IOMMU) if cfg!(CONFIG_VFIO_NOIOMMU) && no_iommu => {
            if !capable(Capability::SYS_RAWIO) {
                return Err(EPERM);
            }
        }
        Ok(bindings::VFIO_TYPE1_IOMMU) if !no_iommu => ioas(ctx)?.iopt.set_large_pages(false)?,
        // As with VFIO, fails before a group is attached, when there is no IOAS.
        Ok(bindings::VFIO_TYPE1v2_IOMMU) if !no_iommu => drop(ioas(ctx)?),
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// The writer of the capabilities behind `struct vfio_iommu_type1_info`.
///
/// They are a linked list. Each is written behind the previous one, and its offset into the header
/// of that one. A capability that does not fit is only counted, to report the required size.
struct Capabilities {
    user: UserPtr,
    argsz: usize,
    /// The size of info and capabilities so far, in bytes.
    total: usize,
    last: Option<usize>,
}

impl Capabilities {
    /// Returns the number of bytes left for the next capability.
    fn avail(&self) -> usize {
        self.argsz.saturating_sub(self.total)
    }

    fn at(&self, offset: usize) -> UserPtr {
        self.user.wrapping_byte_add(self.total + offset)
    }

    /// Ends a capability of `size` bytes, and links it.
    fn end(&mut self, size: usize) -> Result {
        if let Some(last) = self.last.filter(|_| self.argsz >= self.total) {
            let next = core::mem::offset_of!(CapHeader, next);
            UserSlice::new(self.user.wrapping_byte_add(last + next), size_of::<u32>())
                .writer()
                // CAST: At most `argsz`, which has 32 bits.
                .write(&(self.total as u32))?;
        }
        self.last = Some(self.total);
        self.total += size.next_multiple_of(size_of::<u64>());
        Ok(())
    }

    /// Writes a capability of `size` bytes, if it fits: the header and the numbers behind it.
    fn add<const N: usize>(&mut self, id: u32, numbers: [u32; N], size: usize) -> Result {
        if self.avail() >= size {
            let header = CapHeader {
                // CAST: A small number.
                id: id as u16,
                version: 1,
                next: 0,
            };
            write(self.at(0), header, size_of::<CapHeader>())?;
            UserSlice::new(self.at(size_of::<CapHeader>()), size_of::<[u32; N]>())
                .writer()
                .write(&numbers)?;
        }
        self.end(size)
    }

    /// Adds the number of further mappings that are possible.
    fn add_dma_avail(&mut self) -> Result {
        const ID: u32 = bindings::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;

        // Mappings are limited by the memory cgroup only. VFIO reports `U16_MAX` by default, but
        // QEMU on s390 uses the number as a limit, and needs more.
        self.add(ID, [u32::MAX], size_of::<CapHeader>() + size_of::<u32>())
    }

    /// Adds the ranges of IOVA that are not reserved.
    fn add_iova_ranges(&mut self, ctx: &Context) -> Result {
        const ID: u32 = bindings::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
        const HEADER: usize = size_of::<CapHeader>() + 2 * size_of::<u32>();
        const RANGE: usize = size_of::<CapRange>();
        const _: () = assert!(RANGE == size_of::<[u64; 2]>());

        let room = self.avail().saturating_sub(HEADER) / RANGE;
        let (count, _) = ioas::copy_usable(|| ioas(ctx), self.at(HEADER), room)?;
        // CAST: It would take billions of reserved ranges.
        self.add(ID, [count as u32, 0], HEADER + count * RANGE)
    }
}

/// VFIO_IOMMU_GET_INFO.
fn get_info(ctx: &Context, user: UserPtr) -> Result<isize> {
    let [argsz, ..] = UserSlice::new(user, INFO_MIN)
        .reader()
        .read::<[u32; INFO_MIN / size_of::<u32>()]>()?;
    if (argsz as usize) < INFO_MIN {
        return Err(EINVAL);
    }

    let iova_pgsizes = ioas(ctx)?.iopt.page_sizes() as u64;
    let mut caps = Capabilities {
        user,
        argsz: argsz as usize,
        total: size_of::<Info>(),
        last: None,
    };
    caps.add_dma_avail()?;
    caps.add_iova_ranges(ctx)?;

    let info = Info {
        // CAST: It would take billions of reserved ranges.
        argsz: caps.total as u32,
        flags: bindings::VFIO_IOMMU_INFO_PGSIZES | bindings::VFIO_IOMMU_INFO_CAPS,
        iova_pgsizes,
        cap_offset: if caps.argsz >= caps.total {
            // CAST: A small number.
            size_of::<Info>() as u32
        } else {
            0
        },
        pad: 0,
    };
    write(user, info, caps.argsz)?;
    Ok(0)
}

/// Converts a number of the uAPI, which has 64 bits.
fn to_usize(value: u64) -> Result<usize> {
    value.try_into().map_err(|_| EOVERFLOW)
}

/// Executes a command of a VFIO container.
///
/// # Errors
///
/// [`ENOIOCTLCMD`] if there is no such command; what the command returns.
pub(crate) fn ioctl(ctx: &Context, cmd: u32, arg: usize) -> Result<isize> {
    const fn nr(nr: u32) -> u32 {
        // CAST: A character.
        _IO(bindings::VFIO_TYPE as u32, bindings::VFIO_BASE + nr)
    }
    const GET_API_VERSION: u32 = nr(0);
    const CHECK_EXTENSION: u32 = nr(1);
    const SET_IOMMU: u32 = nr(2);
    const GET_INFO: u32 = nr(12);
    const MAP_DMA: u32 = nr(13);
    const UNMAP_DMA: u32 = nr(14);

    let user = UserPtr::from_addr(arg);
    match cmd {
        GET_API_VERSION => Ok(bindings::VFIO_API_VERSION as isize),
        CHECK_EXTENSION => check_extension(ctx, arg),
        SET_IOMMU => set_iommu(ctx, arg),
        GET_INFO => get_info(ctx, user),
        MAP_DMA => map_dma(ctx, user),
        UNMAP_DMA => unmap_dma(ctx, user),
        // The dirty tracking of the old interface is not supported.
        _ => Err(ENOIOCTLCMD),
    }
}
