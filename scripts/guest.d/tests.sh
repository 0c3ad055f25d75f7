# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# The suites, for run.sh and test.sh.

tests=/guest/tests

# What upstream's selftests find on any distribution.
prepare_iommufd()
{
	modprobe iommu_amdv1 2>/dev/null
	modprobe iommufd || return 1
	echo 256 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
}

suite_vfio()
{
	modprobe vfio-pci || return 1
	suite vfio_edu_dma $tests/vfio_edu_dma
}

suite_iommufd()
{
	suite iommufd $tests/iommufd
}

suite_fail_nth()
{
	suite iommufd_fail_nth $tests/iommufd_fail_nth
}

suite_race()
{
	race_rc=0
	suite iommufd_destroy_race $tests/iommufd_destroy_race 5 || race_rc=1
	suite iommufd_race $tests/iommufd_race || race_rc=1
	return $race_rc
}

# After unload, and with the C module among the guest's files. CALLS is a kernel parameter: how many on each module.
suite_diff()
{
	suite iommufd_diff sh /guest/diff -n "${CALLS:-55000}"
}
