# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# VFIO on whatever IOMMU the guest has: the kernel's selftests of it, on every device and with every page size, with the
# Rust module and then with the C one.

# shellcheck source=scripts/guest.d/tests.sh
. /guest/tests.sh

suites_vfio() # SUFFIX
{
	vfio_suffix=$1
	suites_rc=0
	suite_vfio_selftests nvme e1000e edu virtio_net igb || suites_rc=1
	suite_vfio_driver -v iommufd || suites_rc=1
	return $suites_rc
}

rc=0
phase load
prepare_iommufd || exit 1
suites_vfio "" || rc=1
if [ -e /guest/files/iommufd-c.ko ]; then
	phase load
	# insmod does not read the kernel's command line, as modprobe does.
	unsafe=$(cat /sys/module/iommufd/parameters/allow_unsafe_interrupts)
	must rmmod vfio_pci vfio_pci_core vfio && must rmmod iommufd && must insmod /guest/files/iommufd-c.ko &&
		echo "$unsafe" >/sys/module/iommufd/parameters/allow_unsafe_interrupts || exit 1
	suites_vfio _c || rc=1
fi
exit $rc
