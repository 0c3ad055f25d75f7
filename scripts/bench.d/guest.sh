# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# The guest's half of scripts/bench: load C and Rust in turn and run the benchmark on each.
#
#     guest.sh "IMPLEMENTATIONS" ROUNDS [ARG of iommufd_bench]...
#
# Prints "round IMPLEMENTATION N" before each round of the benchmark's own lines, and after it, for the profile,
# "symbol ..." lines: /proc/kallsyms as far as it is of modules.

impls=$1
rounds=$2
shift 2

unload()
{
	for mod in vfio_pci vfio_pci_core vfio_iommu_type1 vfio iommufd; do
		! grep -q "^$mod " /proc/modules || rmmod $mod || return 1
	done
}

# The first edu device goes to vfio-pci.
bind_device()
{
	for dev in /sys/bus/pci/devices/*; do
		[ "$(cat "$dev/vendor") $(cat "$dev/device")" = "0x1234 0x11e8" ] || continue
		echo vfio-pci >"$dev/driver_override"
		echo "${dev##*/}" >/sys/bus/pci/drivers_probe
		return
	done
	return 1
}

load()
{
	case $1 in
	c) insmod /guest/files/iommufd-c.ko || return 1 ;;
	*) modprobe iommufd || return 1 ;;
	esac
	modprobe vfio-pci || return 1
	# Only in kernels that have VFIO's own container.
	modprobe vfio_iommu_type1 2>/dev/null
	bind_device
}

rc=0
round=1
while [ "$round" -le "$rounds" ]; do
	for impl in $impls; do
		[ "$impl" != type1 ] || [ "$round" -eq 1 ] || continue
		module=$impl
		backend=iommufd
		if [ "$impl" = type1 ]; then
			module=rust
			backend=type1
		fi
		echo "round $impl $round"
		if unload && load "$module"; then
			# Away from the processor that serves interrupts.
			taskset 2 /guest/tests/iommufd_bench -b $backend "$@" || rc=1
		else
			echo "cannot load $module"
			rc=1
		fi
		[ "$rounds" -gt 1 ] || sed -n 's/^\([0-9a-f]*\) [tT] \([^\t]*\)\t.*/symbol \1 \2/p' /proc/kallsyms
	done
	round=$((round + 1))
done
exit $rc
