/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Declarations that C and Rust share in the Rust implementation of iommufd.
 *
 * It takes the place of the private headers of drivers/iommu/iommufd for the C
 * code that both implementations share (driver.c, hwpt_noiommu.c, selftest.c),
 * and is read by bindgen. A structure here is the start of a Rust type: its
 * fields are those that C accesses, and assertions beside the Rust types keep
 * the layouts equal. C allocates none of them.
 */
#ifndef __IOMMUFD_RUST_H
#define __IOMMUFD_RUST_H

#include <linux/iommu.h>
#include <linux/iommufd.h>
#include <linux/iova_bitmap.h>
#include <linux/list.h>
#include <linux/maple_tree.h>
#include <linux/mman.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/uaccess.h>
#include <linux/xarray.h>
#include <uapi/linux/iommufd.h>
#include <uapi/linux/vfio.h>

#include "../iommu-priv.h"
#include "iommufd_rust_eventq.h"

struct dma_buf_attachment;
struct file;
struct phys_vec;

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/* bindgen does not evaluate the macro. */
enum { IOMMUFD_HPAGE_SHIFT = HPAGE_SHIFT };
#endif

/* A page of the MSI window, shared by all devices of a context. */
struct iommufd_sw_msi_map {
	struct list_head sw_msi_item;
	phys_addr_t sw_msi_start;
	phys_addr_t msi_addr;
	unsigned int pgoff;
	/* Bit in struct iommufd_sw_msi_maps */
	unsigned int id;
};

/* A set of struct iommufd_sw_msi_map. */
struct iommufd_sw_msi_maps {
	DECLARE_BITMAP(bitmap, 64);
};

struct iommufd_ctx {
	struct maple_tree mt_mmap;
	/* Protects the two fields below */
	struct mutex sw_msi_lock;
	struct list_head sw_msi_list;
	unsigned int sw_msi_id;
	struct file *file;
};

struct io_pagetable {
	struct rw_semaphore iova_rwsem;
};

struct iommufd_ioas {
	struct iommufd_object obj;
	struct io_pagetable iopt;
};

/* A command of /dev/iommu, for selftest.c */
struct iommufd_ucmd {
	struct iommufd_ctx *ictx;
	void __user *ubuffer;
	u32 user_size;
	void *cmd;
};

static inline int iommufd_ucmd_respond(struct iommufd_ucmd *ucmd,
				       size_t cmd_len)
{
	size_t len = min_t(size_t, ucmd->user_size, cmd_len);

	return copy_to_user(ucmd->ubuffer, ucmd->cmd, len) ? -EFAULT : 0;
}

/* shim.c, for Rust */
extern const struct file_operations iommufd_fops;
extern struct miscdevice iommufd_misc_dev;
extern struct miscdevice iommufd_vfio_misc_dev;

void iommufd_ctx_init(struct iommufd_ctx *ictx, struct file *file);
void iommufd_ctx_fini(struct iommufd_ctx *ictx);
size_t iommufd_shim_viommu_size(const struct iommu_ops *ops, struct device *dev,
				enum iommu_viommu_type type);
size_t iommufd_shim_hw_queue_size(struct iommufd_viommu *viommu,
				  enum iommu_hw_queue_type type);

/* Rust, for shim.c */
int iommufd_fops_open(struct inode *inode, struct file *file);
int iommufd_fops_release(struct inode *inode, struct file *file);
long iommufd_fops_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
int iommufd_fops_mmap(struct file *file, struct vm_area_struct *vma);

/* Rust, for C */
struct device *iommufd_global_device(void);

#ifdef CONFIG_IOMMUFD_TEST
#include "../iommufd/iommufd_test.h"

/* The start of kernel::gap_tree::Node, in the tree of the areas of an IOAS */
struct iopt_area {
	struct rb_node node;
	unsigned long iova;
	unsigned long last;
};

/* Rust, for selftest.c, which holds iova_rwsem: for writing to reserve */
struct iopt_area *iopt_area_iter_first(struct io_pagetable *iopt,
				       unsigned long start, unsigned long last);
int iopt_reserve_iova(struct io_pagetable *iopt, unsigned long start,
		      unsigned long last, void *owner);

static inline struct iopt_area *iopt_area_iter_next(struct iopt_area *area,
						    unsigned long start,
						    unsigned long last)
{
	struct iopt_area *next = rb_entry_safe(rb_next(&area->node),
					       struct iopt_area, node);

	return next && next->iova <= last ? next : NULL;
}

static inline unsigned long iopt_area_iova(struct iopt_area *area)
{
	return area->iova;
}

/* Rust, for selftest.c */
struct iommufd_object *iommufd_get_object(struct iommufd_ctx *ictx, u32 id,
					  enum iommufd_object_type type);
void iommufd_put_object(struct iommufd_ctx *ictx, struct iommufd_object *obj);
struct iommufd_object *_iommufd_object_alloc(struct iommufd_ctx *ictx,
					     size_t size,
					     enum iommufd_object_type type);
void iommufd_object_finalize(struct iommufd_ctx *ictx,
			     struct iommufd_object *obj);
void iommufd_object_abort(struct iommufd_ctx *ictx, struct iommufd_object *obj);

/* Allocate a structure whose member obj, the first one, is of this type. */
#define iommufd_object_alloc(ictx, ptr, type)                                  \
	((typeof(ptr))_iommufd_object_alloc(                                   \
		ictx,                                                          \
		sizeof((ptr)[0]) + BUILD_BUG_ON_ZERO(                          \
					   offsetof(typeof((ptr)[0]), obj)),   \
		type))

static inline struct iommufd_ioas *iommufd_get_ioas(struct iommufd_ctx *ictx,
						    u32 id)
{
	return container_of(iommufd_get_object(ictx, id, IOMMUFD_OBJ_IOAS),
			    struct iommufd_ioas, obj);
}

/* selftest.c, for Rust */
extern size_t iommufd_test_memory_limit;
int iommufd_test(struct iommufd_ucmd *ucmd);
void iommufd_selftest_destroy(struct iommufd_object *obj);
void iommufd_test_syz_conv_iova_id(struct iommufd_ucmd *ucmd,
				   unsigned int ioas_id, u64 *iova, u32 *flags);
bool iommufd_should_fail(void);
int iommufd_test_init(void);
void iommufd_test_exit(void);
bool iommufd_selftest_is_mock_dev(struct device *dev);
int iommufd_test_dma_buf_iommufd_map(struct dma_buf_attachment *attachment,
				     struct phys_vec *phys);

/* shim.c, for Rust */
int iommufd_shim_test_init(void);
#endif /* CONFIG_IOMMUFD_TEST */

/* shim.c, for Rust */
int iommufd_shim_vfio_dmabuf_map(struct dma_buf_attachment *attachment,
				 struct phys_vec *phys);
struct dma_buf *iommufd_shim_vfio_dmabuf_from_vma(struct vm_area_struct *vma,
						  unsigned long addr,
						  size_t len);

#include "iommufd_rust_device.h"

#endif
