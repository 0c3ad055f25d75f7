# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# VFIO on whatever IOMMU the guest has: the kernel's selftests of it, on every device and with every page size.

# shellcheck source=scripts/guest.d/tests.sh
. /guest/tests.sh

rc=0
phase load
prepare_iommufd || exit 1
suite_vfio_selftests nvme igb || rc=1
suite_vfio_driver -v iommufd || rc=1
exit $rc
