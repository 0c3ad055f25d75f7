# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh disable=SC3040 # busybox ash has pipefail
#
# For scripts that run in the guest (see init): the report on descriptor 3, and suites of tests.

set -o pipefail

# stamp: each line of standard input goes to the report after a time stamp in seconds.
stamp()
{
	ts '%.s' >&3
}

# control WORDS...: a control line, for the host.
control()
{
	echo "%% $*" | stamp
}

# phase NAME: names in the kernel's log what runs from here on; each phase has its own list of lines to expect.
phase()
{
	echo "guest: phase $*" >/dev/kmsg
}

# must COMMAND...: run what has to work between the suites; if it fails, that is a failed test.
must()
{
	must_rc=0
	"$@" || must_rc=$?
	[ "$must_rc" -eq 0 ] || control "failed $*"
	return "$must_rc"
}

# suite NAME COMMAND...: run COMMAND, which prints TAP; returns its status. One that this QEMU cannot do (tests/qemu.list)
# is one test that is skipped for that reason.
suite()
{
	suite_name=$1
	shift
	phase "$suite_name"
	control "suite $suite_name"
	suite_why=$(sed -n "s/^${suite_name%_c} //p" /guest/skip 2>/dev/null)
	if [ -n "$suite_why" ]; then
		printf 'TAP version 13\n1..1\nok 1 all # SKIP %s\n' "$suite_why" | stamp
	else
		"$@" 2>&1 | stamp
	fi
	suite_rc=$?
	control "end $suite_name $suite_rc"
	phase idle
	return $suite_rc
}

# A suite written in shell: plan N, then check "NAME" COMMAND... N times; done_checks gives the status for suite.
plan()
{
	checks=0
	checks_failed=0
	echo "TAP version 13"
	echo "1..$1"
}

check()
{
	check_name=$1
	shift
	checks=$((checks + 1))
	if check_out=$("$@" 2>&1); then
		echo "ok $checks $check_name"
	else
		[ -z "$check_out" ] || echo "$check_out" | sed 's/^/# /'
		echo "not ok $checks $check_name"
		checks_failed=$((checks_failed + 1))
	fi
}

done_checks()
{
	[ "$checks_failed" -eq 0 ]
}
