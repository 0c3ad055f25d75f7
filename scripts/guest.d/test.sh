# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Every test that runs in a guest. A suite that fails does not stop the next one.

# shellcheck source=scripts/guest.d/tests.sh
. /guest/tests.sh

rc=0
phase load
[ ! -e /sys/kernel/debug/kmemleak ] || echo clear >/sys/kernel/debug/kmemleak
prepare_iommufd || exit 1
suite_vfio || rc=1
suite_iommufd || rc=1
suite_fail_nth || rc=1
suite_fault_sweep -q || rc=1
suite_vfio_selftests nvme || rc=1
suite_memlock 300 6 || rc=1
suite_edges || rc=1
suite_fuzz 20000 1 || rc=1
suite_kinds 1 || rc=1
suite_growth || rc=1
suite_blocked || rc=1
suite_model 10 || rc=1
suite leaks sh /guest/leaks || rc=1
suite unload sh /guest/unload || rc=1
suite_race "" 0.6 || rc=1
if [ -e /guest/files/iommufd-c.ko ]; then
	suite_diff || rc=1
	suite_fail_count || rc=1
	suite_kinds_reference || rc=1
fi
exit $rc
