# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh

stress_part()
{
	part_rc=0
	must modprobe vfio-pci || part_rc=1
	suite_fault_sweep || part_rc=1
	suite leaks sh /guest/leaks sweep || part_rc=1
	suite unload sh /guest/unload || part_rc=1
	# The C module, then the Rust one.
	[ ! -e /guest/files/iommufd-c.ko ] || suite_fault_sweep /guest/files/iommufd-c.ko \
		"/lib/modules/$(uname -r)/kernel/drivers/iommu/iommufd-rust/iommufd.ko" || part_rc=1
	return $part_rc
}
