// SPDX-License-Identifier: GPL-2.0

//! The groups of a context: which devices stand and fall together.
//!
//! An IOMMU group is the smallest set of devices that the hardware can tell apart, so it is
//! attached as a whole. A context has one [`Group`] for each IOMMU group of which devices are bound
//! to it; it is there from the first such device to the last ([`Member`]). A device without an
//! IOMMU has a group of its own that is not one of the IOMMU.
//!
//! Locks: the *group lock* protects [`GroupState`], which can be reached in no other way. It comes
//! after the mutex of an IOAS and before the locks of its IO page table, the mutex of the IOMMU
//! group and `sw_msi_lock`. The lock of [`Groups`] is a leaf.
#![forbid(unsafe_code)]

use super::attach::Attachment;
use crate::ffi::{
    device::BoundDevice,
    layout::same_plain_offset,
    sw_msi::SwMsiMaps, //
};
use kernel::{
    io::PhysAddr,
    iommu::group as iommu,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            ordering::Relaxed,
            Atomic, //
        },
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

/// A group of devices of one context. C knows how it begins.
#[repr(C)]
#[pin_data]
pub(crate) struct Group {
    /// Where the MSI window of the devices begins. Written under the group lock; `driver.c` reads
    /// it while the group is attached, when it does not change.
    sw_msi_start: Atomic<PhysAddr>,
    required_sw_msi: SwMsiMaps,
    iommu: Option<ARef<iommu::Group>>,
    #[pin]
    state: Mutex<GroupState>,
}

same_plain_offset!(Group, sw_msi_start, iommufd_group, sw_msi_start);
same_plain_offset!(Group, required_sw_msi, iommufd_group, required_sw_msi);

/// What the group lock protects.
pub(crate) struct GroupState {
    /// What is attached: at most one for each PASID.
    attached: KVec<Attachment>,
}

/// The group lock, held.
pub(crate) type GroupGuard<'a> = Guard<'a, GroupState, MutexBackend>;

/// No device of the group has an MSI window: `PHYS_ADDR_MAX`.
const NO_SW_MSI: PhysAddr = PhysAddr::MAX;

impl Group {
    fn new(iommu: Option<ARef<iommu::Group>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sw_msi_start: Atomic::new(NO_SW_MSI),
                required_sw_msi: SwMsiMaps::new(),
                iommu,
                state <- new_mutex!(GroupState { attached: KVec::new() }, "iommufd_group::lock"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes the group lock.
    pub(crate) fn lock(&self) -> GroupGuard<'_> {
        self.state.lock()
    }

    /// The lock itself, for what else it protects.
    pub(super) fn state(&self) -> &Mutex<GroupState> {
        &self.state
    }

    /// The IOMMU group, if there is an IOMMU.
    pub(crate) fn iommu(&self) -> Option<&iommu::Group> {
        self.iommu.as_deref()
    }

    /// Where the MSI window of the devices begins.
    pub(crate) fn sw_msi_start(&self) -> PhysAddr {
        self.sw_msi_start.load(Relaxed)
    }

    /// Sets where the MSI window begins.
    pub(super) fn set_sw_msi_start(&self, _lock: &GroupGuard<'_>, start: PhysAddr) {
        self.sw_msi_start.store(start, Relaxed);
    }

    /// Whether there is an MSI window.
    pub(super) fn has_sw_msi(&self) -> bool {
        self.sw_msi_start() != NO_SW_MSI
    }

    /// The pages of the MSI window that are in use.
    #[cfg(CONFIG_IRQ_MSI_IOMMU)]
    pub(crate) fn required_sw_msi(&self) -> &SwMsiMaps {
        &self.required_sw_msi
    }
}

impl GroupState {
    /// What this PASID is attached to.
    pub(super) fn find(&self, pasid: u32) -> Option<&Attachment> {
        self.attached.iter().find(|at| at.pasid() == pasid)
    }

    /// What this PASID is attached to, to change it.
    pub(super) fn find_mut(&mut self, pasid: u32) -> Option<&mut Attachment> {
        self.attached.iter_mut().find(|at| at.pasid() == pasid)
    }

    /// Everything that is attached.
    pub(super) fn all(&self) -> &[Attachment] {
        &self.attached
    }

    /// Makes room for one more.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn reserve(&mut self) -> Result {
        Ok(self.attached.reserve(1, GFP_KERNEL)?)
    }

    /// Adds what was not attached before.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`], unless there is room ([`Self::reserve`]).
    pub(super) fn add(&mut self, attachment: Attachment) -> Result {
        Ok(self.attached.push(attachment, GFP_KERNEL)?)
    }

    /// Detaches a PASID.
    pub(super) fn remove(&mut self, pasid: u32) {
        self.attached.retain(|at| at.pasid() != pasid);
    }
}

/// The groups of a context.
#[pin_data]
pub(crate) struct Groups {
    /// Each with the number of its devices, which is not zero.
    #[pin]
    groups: Mutex<KVec<(Arc<Group>, usize)>>,
}

impl Groups {
    /// None yet.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                groups <- new_mutex!(KVec::new(), "iommufd_ctx::groups"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Makes a device a member of its group.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if it has none, [`ENOMEM`].
    pub(super) fn join(groups: &Arc<Self>, dev: &BoundDevice) -> Result<Member> {
        let iommu = iommu::Group::of(dev).ok_or(ENODEV)?;
        let mut list = groups.groups.lock();
        let known = list
            .iter_mut()
            .find(|(group, _)| group.iommu().is_some_and(|g| core::ptr::eq(g, &*iommu)));

        let group = match known {
            Some((group, members)) => {
                *members += 1;
                group.clone()
            }
            None => {
                let group = Group::new(Some(iommu))?;
                list.push((group.clone(), 1), GFP_KERNEL)?;
                group
            }
        };
        drop(list);
        Ok(Member {
            group,
            groups: Some(groups.clone()),
        })
    }
}

/// A device's membership in a group.
pub(crate) struct Member {
    group: Arc<Group>,
    /// [`None`] if it is the only one and without an IOMMU.
    groups: Option<Arc<Groups>>,
}

impl Member {
    /// The only member of a group that is not one of an IOMMU.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn alone() -> Result<Self> {
        Ok(Self {
            group: Group::new(None)?,
            groups: None,
        })
    }

    /// The group.
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(groups) = &self.groups else {
            return;
        };
        let mut list = groups.groups.lock();

        list.retain(|(group, members)| {
            if Arc::ptr_eq(group, &self.group) {
                *members -= 1;
            }
            *members != 0
        });
    }
}
