# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# The main job: real DMA through the module, then the kernel's own selftests of it.

# shellcheck source=scripts/guest.d/tests.sh
. /guest/tests.sh

rc=0
phase load
prepare_iommufd || exit 1
suite_vfio || rc=1
suite_iommufd || rc=1
exit $rc
