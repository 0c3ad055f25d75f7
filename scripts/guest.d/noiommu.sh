# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A device without an IOMMU, with the Rust module and then with the C one.

# shellcheck source=scripts/guest.d/tests.sh
. /guest/tests.sh

suite_noiommu() # NAME
{
	must modprobe vfio enable_unsafe_noiommu_mode=1 && must modprobe vfio-pci || return 1
	suite "$1" $tests/vfio_edu_noiommu
	noiommu_rc=$?
	must rmmod vfio_pci vfio_pci_core vfio && must rmmod iommufd || return 1
	return $noiommu_rc
}

rc=0
phase load
suite_noiommu vfio_edu_noiommu || rc=1
if [ -e /guest/files/iommufd-c.ko ]; then
	phase load
	must insmod /guest/files/iommufd-c.ko && suite_noiommu vfio_edu_noiommu_c || rc=1
fi
exit $rc
