# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh

stress_part()
{
	suite_race
}
