# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Workers that do anything, for an hour.

stress_part()
{
	part_rc=0
	modprobe vfio-pci
	suite_model "$(scaled 3600)" || part_rc=1
	suite leaks sh /guest/leaks || part_rc=1
	suite unload sh /guest/unload || part_rc=1
	return $part_rc
}
