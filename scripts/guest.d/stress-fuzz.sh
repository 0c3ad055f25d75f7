# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Hostile calls, and the account of pinned memory.

stress_part()
{
	part_rc=0
	must modprobe vfio-pci || part_rc=1
	suite_memlock "$(scaled 20000)" "$(scaled 200)" || part_rc=1
	suite_fuzz "$(scaled 2000000)" "$(scaled 20)" || part_rc=1
	suite leaks sh /guest/leaks || part_rc=1
	return $part_rc
}
