# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# The guest's half of scripts/bench.
#
#     guest.sh run SYMBOLS ARG...     the benchmark with these arguments; then, with SYMBOLS=yes, "symbol ..." lines:
#                                     /proc/kallsyms as far as it is of modules
#     guest.sh load c|core|rust|type1      make this the one that is loaded; the benchmark calls it before each turn

unload()
{
	for mod in iommufd_bench_access vfio_pci vfio_pci_core vfio_iommu_type1 vfio iommufd; do
		! grep -q "^$mod " /proc/modules || rmmod $mod || return 1
	done
}

# All edu devices go to vfio-pci.
bind_devices()
{
	for dev in /sys/bus/pci/devices/*; do
		[ "$(cat "$dev/vendor") $(cat "$dev/device")" = "0x1234 0x11e8" ] || continue
		echo vfio-pci >"$dev/driver_override"
		echo "${dev##*/}" >/sys/bus/pci/drivers_probe
	done
}

load()
{
	loaded=$(cat /tmp/loaded 2>/dev/null)
	# VFIO's own container is the same with both.
	[ "$1" != type1 ] || set -- "${loaded:-rust}"
	[ "$1" != "$loaded" ] || return 0
	unload || return 1
	case $1 in
	c) insmod /guest/files/iommufd-c-upstream.ko || return 1 ;;
	core) insmod /guest/files/iommufd-c.ko || return 1 ;;
	*) modprobe iommufd || return 1 ;;
	esac
	modprobe vfio-pci && modprobe vfio_iommu_type1 && insmod /guest/files/iommufd_bench_access.ko || return 1
	bind_devices
	echo "$1" >/tmp/loaded
}

command=$1
shift
case $command in
load) load "$1" ;;
run)
	symbols=$1
	shift
	insmod /guest/files/vtd_like_hardware.ko
	# Away from the processor that serves interrupts.
	taskset 2 /guest/tests/iommufd_bench -x "sh /guest/files/guest.sh load" "$@"
	rc=$?
	[ "$symbols" != yes ] || sed -n 's/^\([0-9a-f]*\) [tT] \([^\t]*\)\t.*/symbol \1 \2/p' /proc/kallsyms
	exit $rc
	;;
esac
