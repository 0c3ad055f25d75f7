# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# The suites, for run.sh and test.sh.

tests=/guest/tests

# What upstream's selftests find on any distribution.
prepare_iommufd()
{
	must modprobe iommu_amdv1 || return 1
	must modprobe iommufd || return 1
	echo 256 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
}

suite_vfio()
{
	must modprobe vfio-pci || return 1
	vfio_rc=0
	suite vfio_edu_dma $tests/vfio_edu_dma || vfio_rc=1
	suite vfio_edu_container $tests/vfio_edu_container || vfio_rc=1
	suite vfio_edu_group $tests/vfio_edu_group || vfio_rc=1
	suite vfio_edu_bar $tests/vfio_edu_bar || vfio_rc=1
	return $vfio_rc
}

suite_iommufd()
{
	suite iommufd $tests/iommufd
}

suite_fail_nth()
{
	suite iommufd_fail_nth $tests/iommufd_fail_nth
}

# What comes after this is for a kernel with the Rust module; with C, the races would say what it does otherwise.
rust_module=/lib/modules/$(uname -r)/kernel/drivers/iommu/iommufd-rust/iommufd.ko

# suite_race SUFFIX SECONDS [ARG...]: iommufd must not be loaded. Each case loads the module and unloads it afterwards.
suite_race()
{
	race_name=iommufd_race$1
	race_seconds=$2
	shift 2
	[ -e "$rust_module" ] || return 0
	no_kunit
	suite "$race_name" $tests/iommufd_race -t "$race_seconds" ${SEED:+-s "$SEED"} -m "$rust_module" "$@"
}

# The option that skips cases in which the C driver is known to behave differently.
on_c()
{
	[ -e "$rust_module" ] || echo -c
}

# suite_fuzz CALLS ROUNDS
suite_fuzz()
{
	# shellcheck disable=SC2046 # words
	suite iommufd_fuzz $tests/iommufd_fuzz $(on_c) -n "$1" -k "$2" ${SEED:+-s "$SEED"}
}

# suite_memlock CALLS ROUNDS
suite_memlock()
{
	suite iommufd_memlock $tests/iommufd_memlock -n "$1" -k "$2" ${SEED:+-s "$SEED"}
}

# suite_edges: at and beyond the last of what there is.
suite_edges()
{
	suite iommufd_edges $tests/iommufd_edges
}

# suite_kinds SECONDS: kinds of bugs in lifetimes, a race each.
suite_kinds()
{
	# shellcheck disable=SC2046 # words
	suite iommufd_kinds $tests/iommufd_kinds $(on_c) -t "$1"
}

# suite_busy TIMES: no EBUSY beside calls that fail, so often.
suite_busy()
{
	suite iommufd_busy $tests/iommufd_kinds -t 1 -n "$1" never_busy
}

# suite_growth: what operations cost beside many objects.
suite_growth()
{
	# shellcheck disable=SC2046 # words
	suite iommufd_growth $tests/iommufd_growth $(on_c)
}

# suite_blocked: calls must not wait for a call that waits for user memory; with C they do.
suite_blocked()
{
	[ -e "$rust_module" ] || return 0
	suite iommufd_blocked $tests/iommufd_blocked
}

# suite_model SECONDS: workers that do anything, and what must hold when they rest. Its seed is another each time, and
# printed; MODEL_SEED is a kernel parameter.
suite_model()
{
	# shellcheck disable=SC2046 # words
	suite iommufd_model $tests/iommufd_model $(on_c) -t "$1" -s "${MODEL_SEED:-0}"
}

# With the C module among the guest's files, after unload: what is right with C is judged right.
suite_kinds_reference()
{
	no_kunit
	must insmod /guest/files/iommufd-c.ko || return 1
	suite reference_kinds $tests/iommufd_kinds -c -t 0.3
	reference_rc=$?
	must rmmod iommufd || reference_rc=1
	return $reference_rc
}

# KUnit runs its suites whenever a module with some is loaded. Once is enough.
no_kunit()
{
	[ ! -w /sys/module/kunit/parameters/filter_glob ] || echo none >/sys/module/kunit/parameters/filter_glob
}

# suite_fault_sweep [ARG...]: each call with each of its points of failure failing.
suite_fault_sweep()
{
	suite iommufd_fault_sweep $tests/iommufd_fault_sweep "$@"
}

# After unload, and with the C module among the guest's files. CALLS is a kernel parameter: how many on each module.
suite_diff()
{
	suite iommufd_diff sh /guest/diff -f 55000 -n "${CALLS:-55000}" ${SEED:+-s "$SEED"}
}

# The same.
suite_fail_count()
{
	suite iommufd_fail_count sh /guest/fail_count
}

# Devices of scripts/guest, by the names that the suites below have for them.
vfio_devices="edu nvme e1000e virtio_net igb"

# bdf NAME: where it is.
bdf()
{
	case $1 in
	edu) bdf_id=0x1234:0x11e8 ;;
	nvme) bdf_id=0x1b36:0x0010 ;;
	e1000e) bdf_id=0x8086:0x10d3 ;;
	virtio_net) bdf_id=0x1af4:0x1041 ;;
	igb) bdf_id=0x8086:0x10c9 ;;
	esac
	for bdf_dir in /sys/bus/pci/devices/*; do
		if [ "$(cat "$bdf_dir/vendor"):$(cat "$bdf_dir/device")" = "$bdf_id" ]; then
			basename "$bdf_dir"
			return 0
		fi
	done
	return 1
}

# vfio_devices_to DRIVER: bind all of them ("" to unbind).
vfio_devices_to()
{
	for vfio_device in $vfio_devices; do
		vfio_bdf=$(bdf "$vfio_device") || continue
		vfio_dir=/sys/bus/pci/devices/$vfio_bdf
		[ ! -e "$vfio_dir/driver" ] || echo "$vfio_bdf" >"$vfio_dir/driver/unbind"
		echo "$1" >"$vfio_dir/driver_override"
		[ -z "$1" ] || echo "$vfio_bdf" >/sys/bus/pci/drivers_probe
	done
}

# Of the names of the suites below, for what runs a second time.
vfio_suffix=

# vfio_suite TEST DEVICE [ARG...]: one of the kernel's selftests of VFIO on one device. A device that is not there makes
# the test fail by its own doing.
vfio_suite()
{
	vfio_test=$1
	vfio_device=$2
	shift 2
	suite "vfio_$vfio_test.$vfio_device$vfio_suffix" "$tests/vfio_${vfio_test}_test" "$@" "$(bdf "$vfio_device")"
}

# suite_vfio_selftests DEVICE...: the kernel's own selftests of VFIO; those that map memory, on these devices only. A page
# of 1 GB costs ten seconds of clearing it for each test, and needs hugepagesz=1G hugepages=1 on the kernel's command line;
# the test skips what it cannot have.
suite_vfio_selftests()
{
	vfio_rc=0
	vfio_all=
	must modprobe vfio-pci || return 1
	vfio_devices_to vfio-pci
	for vfio_name in $vfio_devices; do
		vfio_suite iommufd_setup "$vfio_name" || vfio_rc=1
		vfio_suite pci_device "$vfio_name" || vfio_rc=1
		vfio_suite dma_mapping_mmio "$vfio_name" || vfio_rc=1
		vfio_all="$vfio_all $(bdf "$vfio_name")"
	done
	# shellcheck disable=SC2086 # words
	suite "vfio_pci_device_init_perf.all$vfio_suffix" $tests/vfio_pci_device_init_perf_test $vfio_all || vfio_rc=1
	for vfio_name in "$@"; do
		vfio_suite dma_mapping "$vfio_name" || vfio_rc=1
	done
	vfio_devices_to ""
	return $vfio_rc
}

# suite_vfio_driver [ARG...]: DMA of a device that the selftests have a driver of their own for.
suite_vfio_driver()
{
	must modprobe vfio-pci || return 1
	vfio_devices_to vfio-pci
	vfio_suite pci_driver igb "$@"
	vfio_rc=$?
	vfio_devices_to ""
	return $vfio_rc
}
