// SPDX-License-Identifier: GPL-2.0

#include <linux/iommu.h>

#ifndef CONFIG_IOMMU_IOPF
__rust_helper void rust_helper_iopf_free_group(struct iopf_group *group)
{
	iopf_free_group(group);
}

__rust_helper void
rust_helper_iopf_group_response(struct iopf_group *group,
				enum iommu_page_response_code status)
{
	iopf_group_response(group, status);
}

__rust_helper void rust_helper_iopf_group_dequeue(struct iopf_group *group)
{
	iopf_group_dequeue(group);
}
#endif
