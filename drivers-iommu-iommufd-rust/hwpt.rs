// SPDX-License-Identifier: GPL-2.0

//! Hardware page tables: IOMMU domains as objects.
//!
//! There are two kinds. A *paging* HWPT ([`HwptPaging`]) shows the mappings of one IOAS in the
//! format of one IOMMU: the kernel fills it. A *nested* HWPT ([`HwptNested`]) is filled by user
//! space, and translates to addresses that a paging HWPT, its parent, translates further.
//! [`HwptRef`] is a user of either.
//!
//! A paging HWPT is in the list of its IOAS, and its domain in the IO page table, from the moment
//! it is complete ([`ListedPaging`]) until it is destroyed. Both change under the mutex of the
//! IOAS, so that whoever looks for a HWPT to attach to finds none that is half made, and two of
//! them do not make the same one twice. A HWPT that the kernel made for a device that was attached
//! to an IOAS is *automatic*: it goes when nobody is attached to it.
//!
//! Dependencies: a HWPT depends on its IOAS or its parent, on its vIOMMU and on its fault queue. An
//! attachment is a user of the HWPT ([`HwptRef`]), which it gives up by [`HwptRef::put_or_claim`].
//! What a group is to be attached to is a [`Candidate`], which becomes a `HwptRef` when it is
//! attached.
//!
//! Locks: the mutex of the IOAS ([`Ioas::hwpts`]); then the group lock, then those of the IO page
//! table.
#![forbid(unsafe_code)]

use crate::{
    command::Published,
    context::{
        Command,
        Context, //
    },
    device::Device,
    eventq::Fault,
    ioas::Ioas,
    object::{
        same_offset,
        CLayout,
        Dependency,
        Destroying,
        Kind,
        LateDependency,
        Object,
        Owner as _,
        Publish,
        Ref,
        Reserved,
        Tentative,
        User,
        WriteSide, //
    },
    sys::{
        domain::{
            HwptDomain,
            PagingDomain, //
        },
        hwpt::{
            link,
            new_paging,
            user_data,
            HwptLayout,
            PagingOrNested, //
        },
        iopf::{
            route,
            AnswerFaults,
            FaultQueue,
            FaultRoute, //
        },
        sw_msi::{
            has_pages,
            SwMsiMaps, //
        }, //
    },
    viommu::Viommu, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    iommu::{
        domain::Domain,
        group::Capability, //
    },
    prelude::*,
    sync::{
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        Arc, //
    }, //
};

mod ids;
mod invalidate;
mod nested;

pub(crate) use self::{
    ids::HwptIds,
    invalidate::invalidate, //
};
use self::{
    ids::ListEntry,
    nested::NestedDomain, //
};

const NEST_PARENT: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT;
const DIRTY_TRACKING: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING;
const FAULT_ID_VALID: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID;
const ALLOC_PASID: u32 = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID;

/// A kind of HWPT: its object starts with a `struct iommufd_hw_pagetable`.
pub(crate) trait Hwpt: CLayout<Raw: HwptLayout> {
    /// The domain of the HWPT.
    fn domain(&self) -> &Domain;

    /// Where its page faults go.
    fn fault(&self) -> &LateDependency<Fault>;
}

impl<T: Hwpt> FaultRoute for Object<T> {
    fn fault_queue(&self) -> Option<&impl FaultQueue> {
        self.fault().get().map(|fault| &**fault)
    }
}

/// A HWPT that the kernel fills. C knows how it begins.
#[repr(C)]
pub(crate) struct HwptPaging {
    paging: HwptDomain,
    present_sw_msi: SwMsiMaps,
    auto: bool,
    nest_parent: bool,
    pasid_compatible: bool,
    enforces_coherency: bool,
    pub(crate) fault: LateDependency<Fault>,
    pub(crate) ioas: Dependency<Ioas>,
    /// Key in [`HwptIds`], if it is automatic. Changes with the mutex of the IOAS held.
    list_key: Atomic<u64>,
}

same_offset!(HwptPaging, paging, iommufd_hwpt_paging, common.domain);
same_offset!(
    HwptPaging,
    present_sw_msi,
    iommufd_hwpt_paging,
    present_sw_msi
);

impl HwptPaging {
    /// The IOAS whose mappings it shows.
    pub(crate) fn ioas(&self) -> &Dependency<Ioas> {
        &self.ioas
    }

    /// Keeps the window for interrupts that begins at `start` reserved in the IOAS for as long as
    /// the HWPT exists. A device that has it reserved is about to be attached.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn keep_msi_window(&self, start: PhysAddr) -> Result {
        self.ioas.iopt.keep_msi_window(&self.paging, start)
    }

    /// Undoes [`Self::keep_msi_window`], unless there are pages in the window, or something is
    /// attached that makes them.
    pub(crate) fn forget_msi_window(this: &Object<Self>, ctx: &Context) {
        this.ioas.iopt.forget_msi_window_if(&this.paging, || {
            !this.is_used() && !has_pages(&ctx.c, &this.present_sw_msi)
        });
    }

    /// Whether it can be the parent of nested HWPTs.
    pub(crate) fn nest_parent(&self) -> bool {
        self.nest_parent
    }

    /// How the list of its IOAS knows it.
    fn list_entry(&self) -> ListEntry {
        ListEntry {
            auto: self.auto.then(|| self.list_key.load(Relaxed)),
            incoherent: !self.enforces_coherency,
        }
    }
}

impl Hwpt for HwptPaging {
    fn domain(&self) -> &Domain {
        &self.paging
    }

    fn fault(&self) -> &LateDependency<Fault> {
        &self.fault
    }
}

impl Kind for HwptPaging {
    type Owner = Context;

    fn goes_with_last_user(&self) -> bool {
        self.auto
    }

    fn destroy(this: WriteSide<'_, Self>) {
        this.ioas.hwpts.lock().remove(this.list_entry());
        this.ioas.iopt.remove_domain(&this.paging);
    }
}

/// A HWPT that user space fills. C knows how it begins.
#[repr(C)]
pub(crate) struct HwptNested {
    pub(crate) domain: NestedDomain,
    pasid_compatible: bool,
    pub(crate) fault: LateDependency<Fault>,
}

same_offset!(HwptNested, domain, iommufd_hwpt_nested, common.domain);

impl Hwpt for HwptNested {
    fn domain(&self) -> &Domain {
        &self.domain
    }

    fn fault(&self) -> &LateDependency<Fault> {
        &self.fault
    }
}

impl Kind for HwptNested {
    type Owner = Context;
}

/// A HWPT of either kind, borrowed.
#[derive(Clone, Copy)]
pub(crate) enum AnyHwpt<'a> {
    /// Filled by the kernel.
    Paging(&'a Object<HwptPaging>),
    /// Filled by user space.
    Nested(&'a Object<HwptNested>),
}

impl<'a> AnyHwpt<'a> {
    /// The domain of the HWPT.
    pub(crate) fn domain(self) -> &'a Domain {
        match self {
            Self::Paging(hwpt) => (**hwpt).domain(),
            Self::Nested(hwpt) => (**hwpt).domain(),
        }
    }

    /// The HWPT that leads to physical addresses: itself or its parent.
    pub(crate) fn paging(self) -> &'a Object<HwptPaging> {
        match self {
            Self::Paging(hwpt) => hwpt,
            Self::Nested(hwpt) => &hwpt.domain.parent,
        }
    }

    /// Where its page faults go.
    pub(crate) fn fault(self) -> Option<&'a Object<Fault>> {
        match self {
            Self::Paging(hwpt) => hwpt.fault.get(),
            Self::Nested(hwpt) => hwpt.fault.get(),
        }
    }

    /// Whether it was made to be used along with PASIDs.
    pub(crate) fn pasid_compatible(self) -> bool {
        match self {
            Self::Paging(hwpt) => hwpt.pasid_compatible,
            Self::Nested(hwpt) => hwpt.pasid_compatible,
        }
    }

    /// Whether both are the same HWPT.
    pub(crate) fn is_same(self, other: AnyHwpt<'_>) -> bool {
        self.domain().ptr_eq(other.domain())
    }
}

/// A user of a HWPT of either kind: what an attachment has.
pub(crate) type HwptRef = PagingOrNested<User<HwptPaging>, User<HwptNested>>;

impl AnswerFaults for HwptRef {
    fn answer_faults(&self, handle: *const bindings::iommu_attach_handle) {
        if let Some(fault) = self.get().fault() {
            fault.auto_respond(handle);
        }
    }
}

impl HwptRef {
    /// The HWPT.
    pub(crate) fn get(&self) -> AnyHwpt<'_> {
        match self {
            Self::Paging(hwpt) => AnyHwpt::Paging(hwpt),
            Self::Nested(hwpt) => AnyHwpt::Nested(hwpt),
        }
    }

    /// Puts a user of a HWPT that is not published.
    pub(crate) fn put_unpublished(self) {
        match self {
            Self::Paging(hwpt) => hwpt.put_unclaimed(),
            Self::Nested(hwpt) => drop(hwpt),
        }
    }

    /// Puts the user of somebody who was attached, and claims an automatic HWPT if it was the last
    /// one. What was claimed is to be finished when the caller holds no lock, as that takes the
    /// mutex of the IOAS.
    ///
    /// Context: any locks may be held.
    pub(crate) fn put_or_claim(self, ctx: &Context) -> Option<Destroying<'_, Context>> {
        match self {
            Self::Paging(hwpt) if hwpt.auto => hwpt.put_or_claim(ctx),
            hwpt => {
                drop(hwpt);
                None
            }
        }
    }
}

/// A HWPT that a group is to be attached to. It has no user because of that yet.
pub(crate) trait Candidate: Sized {
    /// The HWPT.
    fn get(&self) -> AnyHwpt<'_>;

    /// Makes the user of the attachment, and has `attach` attach with it, which returns it if that
    /// fails.
    ///
    /// # Errors
    ///
    /// [`ENOENT`] if the HWPT is being destroyed, or an IOAS is that it needs; what `attach`
    /// returns. With the candidate, which has no user because of this then.
    ///
    /// Context: the group lock is held.
    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)>;
}

/// A paging HWPT that is published, as a candidate. One that failed is to be [ended](Self::end).
///
/// What was attached to it may leave while it is tried. An automatic one then goes when its user is
/// given up, which happens with locks held.
#[must_use = "an automatic HWPT that was claimed leaks unless this is ended"]
pub(crate) struct KnownPaging<'a> {
    ctx: &'a Context,
    hwpt: Ref<'a, HwptPaging>,
    claimed: Option<Destroying<'a, Context>>,
}

impl<'a> KnownPaging<'a> {
    /// A candidate of `ctx`.
    pub(crate) fn new(ctx: &'a Context, hwpt: Ref<'a, HwptPaging>) -> Self {
        Self {
            ctx,
            hwpt,
            claimed: None,
        }
    }

    /// The HWPT.
    pub(crate) fn hwpt(&self) -> &Object<HwptPaging> {
        &self.hwpt
    }

    /// Whether the user that was given up was the last one.
    pub(crate) fn was_last(&self) -> bool {
        self.claimed.is_some()
    }

    /// Destroys the HWPT if the user that was given up was the last one.
    ///
    /// Context: takes the mutex of the IOAS.
    pub(crate) fn end(self) {
        let Self { hwpt, claimed, .. } = self;

        drop(hwpt);
        if let Some(claimed) = claimed {
            claimed.finish();
        }
    }
}

impl Candidate for KnownPaging<'_> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Paging(&self.hwpt)
    }

    fn attach<A>(
        mut self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        let user = match self.hwpt.user(tentative) {
            Ok(user) => HwptRef::Paging(user),
            Err(err) => return Err((self, err)),
        };

        attach(user).map_err(|(user, err)| {
            self.claimed = user.put_or_claim(self.ctx);
            (self, err)
        })
    }
}

impl Candidate for Ref<'_, HwptNested> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Nested(self)
    }

    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        match Ref::user(&self, tentative) {
            Ok(user) => attach(HwptRef::Nested(user)).map_err(|(_, err)| (self, err)),
            Err(err) => Err((self, err)),
        }
    }
}

/// An automatic HWPT that is neither published nor filled: no lookup finds it yet.
impl Candidate for &mut NewPaging<'_> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Paging(&self.0)
    }

    fn attach<A>(
        self,
        _tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        attach(HwptRef::Paging(self.0.hold())).map_err(|(user, err)| {
            user.put_unpublished();
            (self, err)
        })
    }
}

/// An automatic HWPT that is complete: it is published in the step that attaches a group to it.
impl Candidate for ListedPaging<'_, '_> {
    fn get(&self) -> AnyHwpt<'_> {
        AnyHwpt::Paging(&self.hwpt)
    }

    fn attach<A>(
        self,
        tentative: &Tentative<'_>,
        attach: impl FnOnce(HwptRef) -> Result<A, (HwptRef, Error)>,
    ) -> Result<A, (Self, Error)> {
        let Self { hwpt, mut listed } = self;
        let mut hwpt = match hwpt.depend(tentative) {
            Ok(hwpt) => hwpt,
            Err((hwpt, err)) => return Err((Self { listed, hwpt }, err)),
        };

        match attach(HwptRef::Paging(hwpt.hold())) {
            Ok(attached) => {
                listed.armed = false;
                hwpt.publish();
                Ok(attached)
            }
            Err((user, err)) => {
                user.put_unpublished();
                let hwpt = hwpt.give_up();

                Err((Self { listed, hwpt }, err))
            }
        }
    }
}

/// A paging HWPT that is in no IOAS yet. Dropping it frees it.
pub(crate) struct NewPaging<'a>(Reserved<'a, HwptPaging>);

impl<'a> NewPaging<'a> {
    /// Makes an automatic HWPT for a device.
    ///
    /// # Errors
    ///
    /// - [`ENODEV`] if the device has lost its IOMMU;
    /// - [`ENOMEM`], or what the IOMMU driver says.
    pub(crate) fn auto(ctx: &'a Context, ioas: &Ref<'_, Ioas>, device: &Device) -> Result<Self> {
        Self::new(ctx, ioas, device, 0, None, true)
    }

    /// Makes a HWPT.
    ///
    /// # Errors
    ///
    /// - [`ENODEV`] if the device has lost its IOMMU;
    /// - [`EOPNOTSUPP`] for what the IOMMU or this kernel cannot do;
    /// - [`ENOMEM`], or what the IOMMU driver says.
    fn new(
        ctx: &'a Context,
        ioas: &Ref<'_, Ioas>,
        device: &Device,
        flags: u32,
        data: Option<&bindings::iommu_user_data>,
        auto: bool,
    ) -> Result<Self> {
        let ops = device.ops().ok_or(ENODEV)?;
        if (flags != 0 || data.is_some()) && ops.domain_alloc_paging_flags.is_none() {
            return Err(EOPNOTSUPP);
        }
        if flags & !(NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | ALLOC_PASID) != 0 {
            return Err(EOPNOTSUPP);
        }
        if flags & DIRTY_TRACKING != 0 && !device.dev().can(Capability::DirtyTracking) {
            return Err(EOPNOTSUPP);
        }
        // Only what user space fills in can fault on purpose.
        if flags & FAULT_ID_VALID != 0 && flags & NEST_PARENT != 0 {
            return Err(EOPNOTSUPP);
        }

        let mut domain = new_paging(ops, device.dev(), flags & !FAULT_ID_VALID, data)?;
        // This comes before the first mapping, as some IOMMUs note it in each entry, and never
        // changes: a HWPT for a device that cannot enforce it serves those that can, but not the
        // other way round.
        let enforces_coherency =
            device.enforce_cache_coherency() && domain.enforce_cache_coherency();
        // An IOMMU driver that claims the ability fails for a new domain.
        if kernel::warn_on!(device.enforce_cache_coherency() && !enforces_coherency) {
            return Err(EINVAL);
        }

        let shared = Arc::new(domain, GFP_KERNEL_ACCOUNT)?;
        let hwpt = ctx.reserve(try_init!(HwptPaging {
            paging: HwptDomain::from(shared),
            present_sw_msi: SwMsiMaps::new(),
            auto,
            nest_parent: flags & NEST_PARENT != 0,
            pasid_compatible: flags & ALLOC_PASID != 0,
            enforces_coherency,
            fault: LateDependency::new(),
            ioas: ioas.dependency(),
            list_key: Atomic::new(0),
        }? Error))?;
        link(&*hwpt);
        Ok(Self(hwpt))
    }

    /// Gives up what was reserved in the IOAS for interrupts of devices that were attached.
    pub(crate) fn forget_msi_window(&self) {
        self.0.ioas.iopt.forget_msi_window(&self.0.paging);
    }

    /// Enters the HWPT in the list of its IOAS, and maps there what the IOAS maps.
    ///
    /// The mutex of the IOAS, which `hwpts` stands for, is held until the HWPT is published.
    ///
    /// # Errors
    ///
    /// [`EADDRINUSE`] if the IOAS maps what the domain cannot translate, or [`ENOMEM`]; with the
    /// HWPT, as it was.
    pub(crate) fn list<'h>(
        self,
        hwpts: &'h mut HwptIds,
    ) -> Result<ListedPaging<'a, 'h>, (Self, Error)> {
        match Listed::new(&self.0, hwpts) {
            Ok(listed) => Ok(ListedPaging {
                listed,
                hwpt: self.0,
            }),
            Err(err) => Err((self, err)),
        }
    }
}

/// A paging HWPT that is complete, but not published. Dropping it undoes everything.
///
/// The fields are dropped in order: it leaves the IOAS before it is freed.
pub(crate) struct ListedPaging<'a, 'h> {
    listed: Listed<'h>,
    hwpt: Reserved<'a, HwptPaging>,
}

impl ListedPaging<'_, '_> {
    /// The id that the HWPT is going to have.
    pub(crate) fn id(&self) -> u32 {
        self.hwpt.id()
    }

    /// As [`Publish::publish`], of a HWPT that may be attached: one that cannot be published is
    /// returned.
    pub(crate) fn publish_or_return(self) -> Result<(), (Self, Error)> {
        let Self { hwpt, mut listed } = self;

        match hwpt.publish_or_return() {
            Ok(()) => {
                listed.armed = false;
                Ok(())
            }
            Err((hwpt, err)) => Err((Self { listed, hwpt }, err)),
        }
    }
}

impl Publish for ListedPaging<'_, '_> {
    fn publish(self, answer: impl FnOnce() -> Result) -> Result {
        let Self { hwpt, mut listed } = self;

        // The list cannot be used before its lock is released.
        Reserved::publish(hwpt, answer)?;
        listed.armed = false;
        Ok(())
    }
}

/// A new HWPT is in the list of its IOAS, and its domain in the IO page table.
struct Listed<'h> {
    hwpts: &'h mut HwptIds,
    entry: ListEntry,
    ioas: Dependency<Ioas>,
    domain: Arc<PagingDomain>,
    armed: bool,
}

impl<'h> Listed<'h> {
    fn new(hwpt: &Reserved<'_, HwptPaging>, hwpts: &'h mut HwptIds) -> Result<Self> {
        let memory = HwptIds::prepare(hwpt)?;
        hwpt.ioas.iopt.add_domain(&hwpt.paging)?;
        hwpts.add(hwpt, memory);
        Ok(Self {
            hwpts,
            entry: hwpt.list_entry(),
            ioas: hwpt.ioas.another(),
            domain: hwpt.paging.clone(),
            armed: true,
        })
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.hwpts.remove(self.entry);
            self.ioas.iopt.remove_domain(&self.domain);
        }
    }
}

/// What is for the IOMMU driver of a request for a nested HWPT: flags, and data in its own terms.
///
/// # Errors
///
/// [`EOPNOTSUPP`] if there are other flags, or is no data.
fn for_driver(
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<(u32, &bindings::iommu_user_data)> {
    if flags & !(FAULT_ID_VALID | ALLOC_PASID) != 0 {
        return Err(EOPNOTSUPP);
    }
    Ok((flags & !FAULT_ID_VALID, data.ok_or(EOPNOTSUPP)?))
}

/// Makes a nested HWPT on top of a parent.
fn new_nested<'a>(
    ctx: &'a Context,
    parent: Dependency<HwptPaging>,
    device: &Device,
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<Reserved<'a, HwptNested>> {
    let ops = device.ops().ok_or(ENODEV)?;
    let (driver_flags, data) = for_driver(flags, data)?;
    if ops.domain_alloc_nested.is_none() {
        return Err(EOPNOTSUPP);
    }
    if parent.auto || !parent.nest_parent || !parent.paging.is_owned_by(ops) {
        return Err(EINVAL);
    }
    let domain = NestedDomain::new(device.dev(), parent, driver_flags, data)?;

    reserve_nested(ctx, domain, flags)
}

/// Makes a nested HWPT for a vIOMMU.
fn new_nested_of_viommu<'a>(
    ctx: &'a Context,
    viommu: Dependency<Viommu>,
    device: &Device,
    flags: u32,
    data: Option<&bindings::iommu_user_data>,
) -> Result<Reserved<'a, HwptNested>> {
    if !device.iommu().is_some_and(|iommu| viommu.is_on(iommu)) {
        return Err(EINVAL);
    }
    let (driver_flags, data) = for_driver(flags, data)?;
    let parent = viommu.hwpt().another();
    let domain = NestedDomain::of_viommu(viommu, parent, driver_flags, data)?;

    reserve_nested(ctx, domain, flags)
}

fn reserve_nested<'a>(
    ctx: &'a Context,
    domain: NestedDomain,
    flags: u32,
) -> Result<Reserved<'a, HwptNested>> {
    let hwpt = ctx.reserve(try_init!(HwptNested {
        domain,
        pasid_compatible: flags & ALLOC_PASID != 0,
        fault: LateDependency::new(),
    }? Error))?;
    link(&*hwpt);
    Ok(hwpt)
}

/// IOMMU_HWPT_ALLOC.
pub(crate) fn alloc(cmd: &mut Command<'_, bindings::iommu_hwpt_alloc>) -> Result<Published> {
    const NONE: u32 = bindings::iommu_hwpt_data_type_IOMMU_HWPT_DATA_NONE;

    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    if (cmd.data_type == NONE) != (cmd.data_len == 0) {
        return Err(EINVAL);
    }
    let data = user_data(cmd.data_type, cmd.data_uptr, cmd.data_len);
    let data = data.as_ref();
    let ctx = cmd.ctx();
    let device = ctx.get::<Device>(cmd.dev_id)?;
    let on = ctx.get_any(cmd.pt_id).map_err(|_| EINVAL)?;

    let on = match on.downcast::<Ioas>() {
        Ok(ioas) => {
            // The driver reads what user space tells it without the mutex.
            let hwpt = NewPaging::new(ctx, &ioas, &device, cmd.flags, data, false)?;
            // Pinning what the IOAS maps can take as long as user space likes, and whoever unbinds
            // the device would wait for that.
            drop(device);
            let mut hwpts = ioas.hwpts.lock();
            let mut hwpt = hwpt.list(&mut hwpts).map_err(|(_, err)| gone(&ioas, err))?;

            connect_fault_queue(cmd, &mut hwpt.hwpt)?;
            cmd.out_hwpt_id = hwpt.id();
            return cmd.publish(hwpt).map_err(|err| gone(&ioas, err));
        }
        Err(other) => other,
    };
    match on.downcast::<HwptPaging>() {
        Ok(parent) => {
            let hwpt = new_nested(ctx, parent.dependency(), &device, cmd.flags, data)?;

            publish_nested(cmd, hwpt).map_err(|err| gone(&parent, err))
        }
        Err(other) => {
            let viommu = other.downcast::<Viommu>().map_err(|_| EINVAL)?;
            let hwpt = new_nested_of_viommu(ctx, viommu.dependency(), &device, cmd.flags, data)?;

            publish_nested(cmd, hwpt).map_err(|err| gone(&viommu, err))
        }
    }
}

fn publish_nested(
    cmd: &mut Command<'_, bindings::iommu_hwpt_alloc>,
    mut hwpt: Reserved<'_, HwptNested>,
) -> Result<Published> {
    connect_fault_queue(cmd, &mut hwpt)?;
    cmd.out_hwpt_id = hwpt.id();
    cmd.publish(hwpt)
}

/// Connects the fault queue, if there is to be one.
fn connect_fault_queue<T: Hwpt>(
    cmd: &Command<'_, bindings::iommu_hwpt_alloc>,
    hwpt: &mut Reserved<'_, T>,
) -> Result {
    if cmd.flags & FAULT_ID_VALID == 0 {
        return Ok(());
    }
    let fault = cmd.ctx().get::<Fault>(cmd.fault_id)?.dependency();

    hwpt.add_dependency(|hwpt| hwpt.fault(), fault)?;
    route(&**hwpt);
    Ok(())
}

/// The error of publishing a HWPT on top of `on`. If that is being destroyed, it is the error of a
/// lookup that comes too late.
fn gone<T>(on: &Object<T>, err: Error) -> Error {
    if on.is_claimed() {
        EINVAL
    } else {
        err
    }
}

/// IOMMU_HWPT_SET_DIRTY_TRACKING.
pub(crate) fn set_dirty_tracking(
    cmd: &mut Command<'_, bindings::iommu_hwpt_set_dirty_tracking>,
) -> Result {
    const ENABLE: u32 =
        bindings::iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE;

    if cmd.flags & !ENABLE != 0 {
        return Err(EOPNOTSUPP);
    }
    let hwpt = cmd.ctx().get::<HwptPaging>(cmd.hwpt_id)?;

    hwpt.ioas
        .iopt
        .set_dirty_tracking(&hwpt.paging, cmd.flags & ENABLE != 0)
}

/// IOMMU_HWPT_GET_DIRTY_BITMAP.
pub(crate) fn get_dirty_bitmap(
    cmd: &mut Command<'_, bindings::iommu_hwpt_get_dirty_bitmap>,
) -> Result {
    const NO_CLEAR: u32 =
        bindings::iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR;

    if cmd.flags & !NO_CLEAR != 0 || cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    let hwpt = cmd.ctx().get::<HwptPaging>(cmd.hwpt_id)?;

    hwpt.ioas.iopt.read_dirty(&hwpt.paging, cmd.flags, cmd)
}
