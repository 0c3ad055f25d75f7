# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# DESTROY says EBUSY while there is a dependent, and only then: often, and with C's module to see that it can fail.

stress_part()
{
	part_rc=0
	must modprobe vfio-pci || part_rc=1
	suite_busy "$(scaled 10000000)" || part_rc=1
	suite leaks sh /guest/leaks || part_rc=1
	suite unload sh /guest/unload || part_rc=1
	c=/guest/files/iommufd-c-upstream.ko
	[ ! -e $c ] || suite iommufd_busy_c sh /guest/busy_c $c || part_rc=1
	return $part_rc
}
