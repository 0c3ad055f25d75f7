# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# scripts/guest stress PART: run one part of scripts/stress.

# shellcheck source=scripts/guest.d/tests.sh
. /guest/tests.sh

# scaled N: that many, times SCALE percent.
# shellcheck disable=SC2317 # for the parts
scaled()
{
	echo $(((($1 * ${SCALE:-100}) + 99) / 100))
}

phase load
[ ! -e /sys/kernel/debug/kmemleak ] || echo clear >/sys/kernel/debug/kmemleak
prepare_iommufd || exit 1
# shellcheck source=/dev/null
. "/guest/stress-$STRESS.sh"
stress_part
