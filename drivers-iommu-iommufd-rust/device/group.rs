// SPDX-License-Identifier: GPL-2.0

//! The groups of a context: devices that are attached together.
//!
//! An IOMMU group is the smallest set of devices that the IOMMU can distinguish, so it is attached
//! as a whole. A context has one [`Group`] for each IOMMU group of which devices are bound to it,
//! from the first such device to the last ([`Member`]). A device without an IOMMU has a [`Group`]
//! of its own, without an IOMMU group.
//!
//! Locks: the *group lock* protects [`GroupState`], which is accessible only through its guard. It
//! comes after the mutex of an IOAS and before the locks of its IO page table, the mutex of the
//! IOMMU group and `sw_msi_lock`. The lock of [`Groups`] is a leaf.
#![forbid(unsafe_code)]

use super::attach::{
    Attachment,
    NO_PASID, //
};
use crate::{
    sys::{
        bound_device::{
            BoundDevice,
            DmaClaim, //
        },
        layout::same_plain_offset,
        sw_msi::SwMsiMaps, //
    }, //
};
use kernel::{
    io::PhysAddr,
    iommu::group as iommu,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
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

/// A group of devices of one context. C accesses the first fields.
#[repr(C)]
#[pin_data]
pub(crate) struct Group {
    /// The start of the MSI window of the devices. Written under the group lock; `driver.c` reads
    /// it while the group is attached, when it does not change.
    sw_msi_start: Atomic<PhysAddr>,
    required_sw_msi: SwMsiMaps,
    iommu: Option<ARef<iommu::Group>>,
    #[pin]
    state: Mutex<GroupState>,
}

same_plain_offset!(Group, sw_msi_start, iommufd_group, sw_msi_start);
same_plain_offset!(Group, required_sw_msi, iommufd_group, required_sw_msi);

/// The fields that the group lock protects.
pub(crate) struct GroupState {
    /// The attachments, by PASID.
    attached: RBTree<u32, Attachment>,
}

/// The memory for one more attachment.
pub(super) type AttachmentReservation = RBTreeNodeReservation<u32, Attachment>;

/// The group lock, held.
pub(crate) type GroupGuard<'a> = Guard<'a, GroupState, MutexBackend>;

/// The start of the MSI window if no device of the group has one: `PHYS_ADDR_MAX`.
const NO_SW_MSI: PhysAddr = PhysAddr::MAX;

impl Group {
    fn new(iommu: Option<ARef<iommu::Group>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sw_msi_start: Atomic::new(NO_SW_MSI),
                required_sw_msi: SwMsiMaps::new(),
                iommu,
                state <- new_mutex!(GroupState { attached: RBTree::new() }, "iommufd_group::lock"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes the group lock.
    pub(crate) fn lock(&self) -> GroupGuard<'_> {
        self.state.lock()
    }

    /// Returns the lock, for data outside that it protects, too.
    pub(super) fn state(&self) -> &Mutex<GroupState> {
        &self.state
    }

    /// Returns the IOMMU group, if there is an IOMMU.
    pub(crate) fn iommu(&self) -> Option<&iommu::Group> {
        self.iommu.as_deref()
    }

    /// Returns the start of the MSI window of the devices.
    pub(crate) fn sw_msi_start(&self) -> PhysAddr {
        self.sw_msi_start.load(Relaxed)
    }

    /// Sets the start of the MSI window.
    pub(super) fn set_sw_msi_start(&self, _lock: &GroupGuard<'_>, start: PhysAddr) {
        self.sw_msi_start.store(start, Relaxed);
    }

    /// Returns whether there is an MSI window.
    pub(super) fn has_sw_msi(&self) -> bool {
        self.sw_msi_start() != NO_SW_MSI
    }

    /// Returns the pages of the MSI window that are in use.
    pub(super) fn required_sw_msi(&self) -> &SwMsiMaps {
        &self.required_sw_msi
    }
}

impl GroupState {
    /// Returns the attachment of a PASID.
    pub(super) fn find(&self, pasid: u32) -> Option<&Attachment> {
        self.attached.get(&pasid)
    }

    /// Returns the attachment of a PASID, to change it.
    pub(super) fn find_mut(&mut self, pasid: u32) -> Option<&mut Attachment> {
        self.attached.get_mut(&pasid)
    }

    /// Returns all attachments.
    pub(super) fn attached(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values()
    }

    /// Returns whether a PASID is attached.
    pub(super) fn has_pasids(&self) -> bool {
        self.attached.cursor_lower_bound(&(NO_PASID + 1)).is_some()
    }

    /// Adds the attachment of an unattached PASID. Does not allocate.
    pub(super) fn add(&mut self, memory: AttachmentReservation, attachment: Attachment) {
        let replaced = self
            .attached
            .insert(memory.into_node(attachment.pasid(), attachment));

        kernel::warn_on_once!(replaced.is_some());
    }

    /// Removes the attachment of a PASID, for the caller to detach. Does not allocate.
    pub(super) fn remove(&mut self, pasid: u32) -> Option<Attachment> {
        self.attached.remove(&pasid)
    }
}

/// The groups of a context.
#[pin_data]
pub(crate) struct Groups {
    /// By the id of the IOMMU group, which the reference of the [`Group`] to that keeps from being
    /// reused.
    #[pin]
    groups: Mutex<RBTree<i32, Members>>,
}

/// A group, with the number of its devices.
struct Members {
    group: Arc<Group>,
    /// The number of devices, not zero.
    count: usize,
    /// The number of devices for which the context has claimed DMA of the group.
    claims: usize,
}

impl Groups {
    /// Creates an empty set of groups.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                groups <- new_mutex!(RBTree::new(), "iommufd_ctx::groups"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Makes a device a member of its group.
    ///
    /// # Errors
    ///
    /// [`ENODEV`] if it has no IOMMU group, [`ENOMEM`].
    pub(super) fn join(groups: &Arc<Self>, dev: &BoundDevice) -> Result<Member> {
        let iommu = iommu::Group::of(dev).ok_or(ENODEV)?;
        let id = iommu.id();
        // Allocated, and freed if it is not needed, without the lock.
        let group = Group::new(Some(iommu))?;
        let members = Members {
            group: group.clone(),
            count: 1,
            claims: 0,
        };
        let node = RBTreeNode::new(id, members, GFP_KERNEL_ACCOUNT)?;
        let mut known = groups.groups.lock();

        let group = match known.get_mut(&id) {
            Some(members) => {
                members.count += 1;
                members.group.clone()
            }
            None => {
                known.insert(node);
                group
            }
        };
        drop(known);
        Ok(Member {
            group,
            groups: Some(groups.clone()),
            owner: None,
        })
    }

    /// Returns whether the context owns DMA of the IOMMU group of this id.
    pub(crate) fn owns(&self, id: i32) -> bool {
        let known = self.groups.lock();

        known.get(&id).is_some_and(|members| members.claims != 0)
    }
}

/// The membership of a device in a group, and its claim of DMA of the group.
pub(crate) struct Member {
    group: Arc<Group>,
    /// [`None`] if the device has no IOMMU and so is the only member.
    groups: Option<Arc<Groups>>,
    /// It is counted in `claims`.
    owner: Option<DmaClaim<Groups>>,
}

impl Member {
    /// Creates the only member of a group without an IOMMU.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn alone() -> Result<Self> {
        Ok(Self {
            group: Group::new(None)?,
            groups: None,
            owner: None,
        })
    }

    /// Claims DMA of the group. The owner is `groups`, those of the context.
    ///
    /// # Errors
    ///
    /// Those of [`BoundDevice::claim_dma`].
    pub(super) fn claim_dma(&mut self, dev: &BoundDevice, groups: &Arc<Groups>) -> Result {
        let owner = dev.claim_dma(groups)?;

        if self.owner.replace(owner).is_none() {
            self.update(|members| members.claims += 1);
        }
        Ok(())
    }

    /// Changes the counts of the group, and removes the group if no member is left.
    fn update(&self, f: impl FnOnce(&mut Members)) {
        let (Some(groups), Some(iommu)) = (&self.groups, self.group.iommu()) else {
            return;
        };
        let mut known = groups.groups.lock();
        let Some(mut entry) = known.find_mut(&iommu.id()) else {
            return;
        };

        f(entry.get_mut());
        if entry.get().count == 0 {
            let last = entry.remove_node();
            // The reference to the group is put without the lock.
            drop(known);
            drop(last);
        }
    }

    /// The group.
    pub(crate) fn group(&self) -> &Arc<Group> {
        &self.group
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            // Uncount the claim before it is released: `Groups::owns()` relies on it.
            self.update(|members| members.claims -= 1);
            drop(owner);
        }
        self.update(|members| members.count -= 1);
    }
}
