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
    /// What is attached, by PASID.
    attached: RBTree<u32, Attachment>,
}

/// The memory for one more PASID that is attached.
pub(super) type AttachmentReservation = RBTreeNodeReservation<u32, Attachment>;

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
                state <- new_mutex!(GroupState { attached: RBTree::new() }, "iommufd_group::lock"),
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
    pub(super) fn required_sw_msi(&self) -> &SwMsiMaps {
        &self.required_sw_msi
    }
}

impl GroupState {
    /// What this PASID is attached to.
    pub(super) fn find(&self, pasid: u32) -> Option<&Attachment> {
        self.attached.get(&pasid)
    }

    /// What this PASID is attached to, to change it.
    pub(super) fn find_mut(&mut self, pasid: u32) -> Option<&mut Attachment> {
        self.attached.get_mut(&pasid)
    }

    /// All that is attached.
    pub(super) fn attached(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values()
    }

    /// Whether DMA with some PASID is attached.
    pub(super) fn has_pasids(&self) -> bool {
        self.attached.cursor_lower_bound(&(NO_PASID + 1)).is_some()
    }

    /// Adds what was not attached before. Needs no more memory.
    pub(super) fn add(&mut self, memory: AttachmentReservation, attachment: Attachment) {
        let replaced = self
            .attached
            .insert(memory.into_node(attachment.pasid(), attachment));

        kernel::warn_on_once!(replaced.is_some());
    }

    /// Takes out what this PASID is attached to, to be detached. Needs no memory.
    pub(super) fn remove(&mut self, pasid: u32) -> Option<Attachment> {
        self.attached.remove(&pasid)
    }
}

/// The groups of a context.
#[pin_data]
pub(crate) struct Groups {
    /// By the number of the IOMMU group, which the group keeps from being used for another.
    #[pin]
    groups: Mutex<RBTree<i32, Members>>,
}

/// A group and the devices that are in it.
struct Members {
    group: Arc<Group>,
    /// How many there are, not zero.
    count: usize,
    /// For how many of them the context has claimed the group.
    claims: usize,
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
                groups <- new_mutex!(RBTree::new(), "iommufd_ctx::groups"),
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
        let id = iommu.id();
        // Made, and dropped if it is not needed, without the lock.
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

    /// Returns whether the context controls DMA of the IOMMU group of this number.
    pub(crate) fn owns(&self, id: i32) -> bool {
        let known = self.groups.lock();

        known.get(&id).is_some_and(|members| members.claims != 0)
    }
}

/// A device's membership in a group, and its part in the control over DMA of the group.
pub(crate) struct Member {
    group: Arc<Group>,
    /// [`None`] if it is the only one and without an IOMMU.
    groups: Option<Arc<Groups>>,
    /// It is counted in `claims`.
    owner: Option<DmaClaim<Groups>>,
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
            owner: None,
        })
    }

    /// Takes control over DMA of the group, in the name of `groups`, those of the context.
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

    /// Changes what is known of the members, and forgets the group if there are none.
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
            // The group is put without the lock.
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
            // Whoever finds a claim can rely on it.
            self.update(|members| members.claims -= 1);
            drop(owner);
        }
        self.update(|members| members.count -= 1);
    }
}
