// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parts that need C: character devices, symbol exports, module parameters
 * and aliases, macros. There is no policy here.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/vfio_pci_core.h>

#include "iommufd_rust.h"

const struct file_operations iommufd_fops = {
	.owner = THIS_MODULE,
	.open = iommufd_fops_open,
	.release = iommufd_fops_release,
	.unlocked_ioctl = iommufd_fops_ioctl,
	.mmap = iommufd_fops_mmap,
};

struct miscdevice iommufd_misc_dev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "iommu",
	.fops = &iommufd_fops,
	.nodename = "iommu",
	.mode = 0660,
};

struct miscdevice iommufd_vfio_misc_dev = {
	.minor = VFIO_MINOR,
	.name = "vfio",
	.fops = &iommufd_fops,
	.nodename = "vfio/vfio",
	.mode = 0666,
};

bool iommufd_allow_unsafe_interrupts;
module_param_named(allow_unsafe_interrupts, iommufd_allow_unsafe_interrupts,
		   bool, 0644);
MODULE_PARM_DESC(allow_unsafe_interrupts,
		 "Let devices be bound whose interrupts the platform cannot isolate. This weakens security.");

/* Initialises the fields that driver.c uses. */
void iommufd_ctx_init(struct iommufd_ctx *ictx, struct file *file)
{
	mt_init_flags(&ictx->mt_mmap, MT_FLAGS_ALLOC_RANGE);
	mutex_init(&ictx->sw_msi_lock);
	INIT_LIST_HEAD(&ictx->sw_msi_list);
	ictx->sw_msi_id = 0;
	ictx->file = file;
}

void iommufd_ctx_fini(struct iommufd_ctx *ictx)
{
	mtree_destroy(&ictx->mt_mmap);
	mutex_destroy(&ictx->sw_msi_lock);
}

/*
 * Rust cannot call function pointers that take an enum: the languages disagree
 * on its type, which CFI checks.
 */
size_t iommufd_shim_viommu_size(const struct iommu_ops *ops, struct device *dev,
				enum iommu_viommu_type type)
{
	return ops->get_viommu_size(dev, type);
}

void *iommufd_shim_hw_info(const struct iommu_ops *ops, struct device *dev,
			   u32 *length, enum iommu_hw_info_type *type)
{
	return ops->hw_info(dev, length, type);
}

size_t iommufd_shim_hw_queue_size(struct iommufd_viommu *viommu,
				  enum iommu_hw_queue_type type)
{
	return viommu->ops->get_hw_queue_size(viommu, type);
}

#ifdef CONFIG_IOMMUFD_TEST
/* Called by the init function of the module, which modpost cannot see */
int __ref iommufd_shim_test_init(void)
{
	return iommufd_test_init();
}
#endif

/* vfio-pci depends on this module, so the symbol is looked up at run time. */
int iommufd_shim_vfio_dmabuf_map(struct dma_buf_attachment *attachment,
				 struct phys_vec *phys)
{
	typeof(vfio_pci_dma_buf_iommufd_map) *map = NULL;
	int rc = -EOPNOTSUPP;

	if (IS_ENABLED(CONFIG_VFIO_PCI_DMABUF))
		map = symbol_get(vfio_pci_dma_buf_iommufd_map);
	if (map) {
		rc = map(attachment, phys);
		symbol_put(vfio_pci_dma_buf_iommufd_map);
	}
	return rc;
}

struct dma_buf *iommufd_shim_vfio_dmabuf_from_vma(struct vm_area_struct *vma,
						  unsigned long addr,
						  size_t len)
{
	typeof(vfio_pci_dma_buf_from_vma) *from_vma = NULL;
	struct dma_buf *dmabuf = ERR_PTR(-EOPNOTSUPP);

	if (IS_ENABLED(CONFIG_VFIO_PCI_DMABUF))
		from_vma = symbol_get(vfio_pci_dma_buf_from_vma);
	if (from_vma) {
		dmabuf = from_vma(vma, addr, len);
		symbol_put(vfio_pci_dma_buf_from_vma);
	}
	return dmabuf;
}

/* Exports sym(), a Rust function: Rust has no macro for it. */
#define RUST_EXPORT(sym, ns) EXPORT_SYMBOL_NS_GPL(sym, ns)

RUST_EXPORT(iommufd_access_attach, "IOMMUFD");
RUST_EXPORT(iommufd_access_create, "IOMMUFD");
RUST_EXPORT(iommufd_access_destroy, "IOMMUFD");
RUST_EXPORT(iommufd_access_detach, "IOMMUFD");
RUST_EXPORT(iommufd_access_pin_pages, "IOMMUFD");
RUST_EXPORT(iommufd_access_replace, "IOMMUFD");
RUST_EXPORT(iommufd_access_rw, "IOMMUFD");
RUST_EXPORT(iommufd_access_unpin_pages, "IOMMUFD");
RUST_EXPORT(iommufd_ctx_from_fd, "IOMMUFD");
RUST_EXPORT(iommufd_ctx_from_file, "IOMMUFD");
RUST_EXPORT(iommufd_ctx_get, "IOMMUFD");
RUST_EXPORT(iommufd_ctx_has_group, "IOMMUFD");
RUST_EXPORT(iommufd_ctx_put, "IOMMUFD");
RUST_EXPORT(iommufd_device_attach, "IOMMUFD");
RUST_EXPORT(iommufd_device_bind, "IOMMUFD");
RUST_EXPORT(iommufd_device_detach, "IOMMUFD");
RUST_EXPORT(iommufd_device_replace, "IOMMUFD");
RUST_EXPORT(iommufd_device_to_ictx, "IOMMUFD");
RUST_EXPORT(iommufd_device_to_id, "IOMMUFD");
RUST_EXPORT(iommufd_device_unbind, "IOMMUFD");
RUST_EXPORT(iommufd_vfio_compat_ioas_create, "IOMMUFD_VFIO");
RUST_EXPORT(iommufd_vfio_compat_ioas_get_id, "IOMMUFD_VFIO");
RUST_EXPORT(iommufd_vfio_compat_set_no_iommu, "IOMMUFD_VFIO");

#if IS_ENABLED(CONFIG_IOMMUFD_VFIO_CONTAINER)
MODULE_ALIAS_MISCDEV(VFIO_MINOR);
MODULE_ALIAS("devname:vfio/vfio");
#endif
