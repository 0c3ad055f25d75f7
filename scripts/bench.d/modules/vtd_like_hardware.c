// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let QEMU's VT-d be measured like the hardware that it stands for.
 *
 * The emulated unit says that its page walks do not snoop the caches, and that
 * it does not track dirty pages. No caches are emulated, and a server's unit
 * does both: with these two bits of the extended capability set, the kernel
 * takes the paths that it takes there. Only domains that are allocated from
 * then on differ. What is not emulated is the setting of dirty bits, so the
 * device must do no DMA that anybody wants to see in a dirty bitmap.
 */
#include <linux/module.h>
#include <linux/pci.h>

#include "iommu.h"

#define ECAP_COHERENT BIT_ULL(0)
#define ECAP_SECOND_STAGE_DIRTY BIT_ULL(45)
#define ECAP_SCALABLE_COHERENT BIT_ULL(48)

static int __init vtd_like_hardware_init(void)
{
	struct pci_dev *pdev = NULL;

	for_each_pci_dev(pdev) {
		struct intel_iommu *iommu;

		if (!pdev->dev.iommu || !pdev->dev.iommu->iommu_dev)
			continue;
		iommu = container_of(pdev->dev.iommu->iommu_dev,
				     struct intel_iommu, iommu);
		iommu->ecap |= ECAP_COHERENT;
		if (ecap_smts(iommu->ecap))
			iommu->ecap |= ECAP_SCALABLE_COHERENT |
				       ECAP_SECOND_STAGE_DIRTY;
	}
	return 0;
}
module_init(vtd_like_hardware_init);

MODULE_DESCRIPTION("Make QEMU's VT-d coherent and dirty tracking, to measure");
MODULE_LICENSE("GPL");
