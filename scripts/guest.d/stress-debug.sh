# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh

stress_part()
{
	part_rc=0
	suite_vfio || part_rc=1
	suite_iommufd || part_rc=1
	suite_fault_sweep -q || part_rc=1
	suite_memlock 300 6 || part_rc=1
	suite_edges || part_rc=1
	suite_fuzz "$(scaled 20000)" 1 || part_rc=1
	suite leaks sh /guest/leaks || part_rc=1
	# It makes an allocation four times as slow, and upstream's harness gives a test 30 seconds.
	phase no_kmemleak
	echo off >/sys/kernel/debug/kmemleak
	suite_fail_nth || part_rc=1
	suite unload sh /guest/unload || part_rc=1
	suite_race "" 3 || part_rc=1
	[ ! -e /guest/files/iommufd-c.ko ] || suite iommufd_diff sh /guest/diff -n "$(scaled 10000)" || part_rc=1
	return $part_rc
}
