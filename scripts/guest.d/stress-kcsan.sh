# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh

stress_part()
{
	part_rc=0
	suite_iommufd || part_rc=1
	must rmmod iommufd || part_rc=1
	suite_race "" "$(scaled 20)" || part_rc=1
	suite kcsan sh /guest/kcsan || part_rc=1
	return $part_rc
}
