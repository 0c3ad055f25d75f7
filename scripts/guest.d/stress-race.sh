# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Threads on one context, on both modules side by side. Upstream's C module is there for its stalls only.

stress_part()
{
	part_rc=0
	must rmmod iommufd || part_rc=1
	c=/guest/files/iommufd-c
	if [ -e $c-upstream.ko ]; then set -- -r $c-upstream.ko; fi
	suite_race _lookup "$(scaled 60)" -v "$@" lookup || part_rc=1
	set --
	if [ -e $c.ko ]; then set -- -r $c.ko; fi
	suite_race "" "$(scaled 20)" -v "$@" || part_rc=1
	return $part_rc
}
