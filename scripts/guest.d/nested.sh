# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Run a nested guest with the Rust module and then with the C one, or as NESTED= on the kernel command line says (c,rust).

# shellcheck source=scripts/guest.d/lib.sh
. /guest/lib.sh

[ ! -e /guest/files/iommufd-c.ko ] || both=,c
rc=0
for module in $(echo "${NESTED:-rust$both}" | tr , ' '); do
	case $module in
	rust) suite nested sh /guest/nested || rc=1 ;;
	c)
		phase load
		must insmod /guest/files/iommufd-c.ko && suite nested_c sh /guest/nested || rc=1 ;;
	esac
done
exit $rc
