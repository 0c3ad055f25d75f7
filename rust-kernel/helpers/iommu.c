// SPDX-License-Identifier: GPL-2.0

#include <linux/iommu.h>
#include <linux/iova_bitmap.h>

#ifdef CONFIG_IOMMU_API
__rust_helper void
rust_helper_iommu_iotlb_gather_init(struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_gather_init(gather);
}

__rust_helper void
rust_helper_iommu_iotlb_sync(struct iommu_domain *domain,
			     struct iommu_iotlb_gather *gather)
{
	iommu_iotlb_sync(domain, gather);
}

#if !IS_ENABLED(CONFIG_IOMMUFD_DRIVER)
__rust_helper struct iova_bitmap *
rust_helper_iova_bitmap_alloc(unsigned long iova, size_t length,
			      unsigned long page_size, u64 __user *data)
{
	return iova_bitmap_alloc(iova, length, page_size, data);
}

__rust_helper void rust_helper_iova_bitmap_free(struct iova_bitmap *bitmap)
{
	iova_bitmap_free(bitmap);
}
#endif
#endif /* CONFIG_IOMMU_API */
