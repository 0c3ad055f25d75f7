# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# A guest in the guest, with the Rust module and then with the C one.

# shellcheck source=scripts/guest.d/lib.sh
. /guest/lib.sh

rc=0
suite nested sh /guest/nested || rc=1
if [ -e /guest/files/iommufd-c.ko ]; then
	phase load
	insmod /guest/files/iommufd-c.ko && suite nested_c sh /guest/nested || rc=1
fi
exit $rc
