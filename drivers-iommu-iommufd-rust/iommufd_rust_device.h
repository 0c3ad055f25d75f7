/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Devices, hardware page tables and accesses, as far as C uses them.
 *
 * Part of iommufd_rust.h. The structures are the starts of the Rust types
 * Device, Group, HwptPaging, HwptNested, AttachHandle and Access.
 */
#ifndef __IOMMUFD_RUST_DEVICE_H
#define __IOMMUFD_RUST_DEVICE_H

struct iommufd_hw_pagetable {
	struct iommufd_object obj;
	struct iommu_domain *domain;
};

struct iommufd_hwpt_paging {
	struct iommufd_hw_pagetable common;
	/* A reference to the domain, for Rust */
	void *shared;
	/* Pages of the MSI window that are mapped; iommufd_ctx::sw_msi_lock */
	struct iommufd_sw_msi_maps present_sw_msi;
};

struct iommufd_hwpt_nested {
	struct iommufd_hw_pagetable common;
	struct iommufd_hwpt_paging *parent;
};

struct iommufd_group {
	/* PHYS_ADDR_MAX if there is none */
	phys_addr_t sw_msi_start;
	/* Pages of the MSI window in use; iommufd_ctx::sw_msi_lock */
	struct iommufd_sw_msi_maps required_sw_msi;
};

struct iommufd_device {
	struct iommufd_object obj;
	struct iommufd_ctx *ictx;
	struct iommufd_group *igroup;
	struct device *dev;
};

struct iommufd_attach_handle {
	struct iommu_attach_handle handle;
	/* One of the attached devices, valid under the IOMMU group's mutex */
	struct iommufd_device *idev;
	/* Its id */
	u32 dev_id;
};

#define to_iommufd_handle(hdl)                                                 \
	container_of(hdl, struct iommufd_attach_handle, handle)

struct iommufd_access {
	struct iommufd_object obj;
	const struct iommufd_access_ops *ops;
	/* Protects ioas */
	struct mutex ioas_lock;
	struct iommufd_ioas *ioas;
};

/* The HWPT that translates to physical addresses: itself or its parent */
static inline struct iommufd_hwpt_paging *
find_hwpt_paging(struct iommufd_hw_pagetable *hwpt)
{
	if (hwpt->obj.type == IOMMUFD_OBJ_HWPT_PAGING)
		return container_of(hwpt, struct iommufd_hwpt_paging, common);
	if (hwpt->obj.type == IOMMUFD_OBJ_HWPT_NESTED)
		return container_of(hwpt, struct iommufd_hwpt_nested, common)
			->parent;
	return NULL;
}

/* driver.c, for Rust */
#ifdef CONFIG_IRQ_MSI_IOMMU
int iommufd_sw_msi_install(struct iommufd_ctx *ictx,
			   struct iommufd_hwpt_paging *hwpt_paging,
			   struct iommufd_sw_msi_map *msi_map);
#endif

/* hwpt_noiommu.c, for Rust */
#ifdef CONFIG_IOMMUFD_NOIOMMU
extern const struct iommu_ops iommufd_noiommu_ops;
#endif

/* shim.c, for Rust */
void *iommufd_shim_hw_info(const struct iommu_ops *ops, struct device *dev,
			   u32 *length, enum iommu_hw_info_type *type);

/* shim.c, for Rust: a module parameter, which can change at any time */
extern bool iommufd_allow_unsafe_interrupts;

#ifdef CONFIG_IOMMUFD_TEST
static inline struct iommufd_device *
iommufd_get_device(struct iommufd_ucmd *ucmd, u32 id)
{
	return container_of(iommufd_get_object(ucmd->ictx, id,
					       IOMMUFD_OBJ_DEVICE),
			    struct iommufd_device, obj);
}
#endif

#endif
