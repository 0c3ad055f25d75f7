# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # STEP_RC is for those who source this
#
# The steps of the long commands: some at a time, and each remembered when it ends, so that RESUME=1 goes on where a run was
# interrupted. Source it after common.sh, then:
#
#     steps_begin NAME WORD...    what the results depend on beside the commit, the base kernel and the toolbox
#     STEP_FILES=(FILE...)        what the next step leaves behind
#     step_is_done STEP [ID]      an earlier run had it, with the same ID (of a build, say): its files are there again
#     start_step STEP ID COMMAND...   ... or start it, once one of the SLOTS is free
#     wait_for_step STEP          it has ended
#     wait_for_steps              all that were started have ended
#     ${STEP_RC[STEP]}            what came of it; ${STEP_SECONDS[STEP]} is the time it took
#
# What was interrupted is not done. What has failed is: RESUME=1 does not give it another chance.

# One emulated guest keeps about one processor busy, and has 4 GB.
SLOTS=${SLOTS:-$(awk -v cpus="$JOBS" '/^MemAvailable:/ { n = int($2 / 5e6); n = n < cpus ? n : cpus; print (n > 1 ? n : 1) }' /proc/meminfo)}

declare -A STEP_RC=() STEP_SECONDS=() _step_of=() _step_start=() _step_id=() _step_files=()
STEP_FILES=()
_steps=

steps_begin() # NAME WORD...
{
	local key done='' resumed=''
	_steps=$LOGS/steps-$1
	shift
	key=$(_steps_key "$@")
	if [ -n "${RESUME:-}" ]; then
		if [ ! -e "$_steps/key" ]; then
			say "RESUME=1: no earlier run is there to go on with: starting at the beginning"
		elif [[ $key == *"uncommitted changes"* ]]; then
			say "RESUME=1: this checkout has uncommitted changes: starting at the beginning"
		elif [ "$key" != "$(cat "$_steps/key")" ]; then
			say "RESUME=1: the earlier run was of something else: starting at the beginning"
			diff "$_steps/key" <(echo "$key") | sed -n 's/^< /    it had /p; s/^> /    this has /p' || true
		else
			done=$(cd "$_steps" && find . -name '*.done' -printf '%f\n' | sed 's/\.done$//' | sort | tr '\n' ' ')
			say "RESUME=1: going on with the run of $(date -u -r "$_steps/key" '+%F %R') UTC; done: ${done:-nothing}"
			resumed=1
		fi
	fi
	if [ -z "$resumed" ]; then
		# Nor do the scripts that this one starts.
		RESUME=
		rm -rf "$_steps"
		mkdir -p "$_steps"
		echo "$key" >"$_steps/key"
	fi
	_steps_began=$(date +%s)
	trap '_stop_steps 130' INT
	trap '_stop_steps 143' TERM HUP
}

_steps_key()
{
	local commit changes
	commit=$(git -C "$TOP" -c safe.directory='*' rev-parse HEAD 2>/dev/null || echo none)
	# What the commands themselves write there is no change.
	changes=$(git -C "$TOP" -c safe.directory='*' status --porcelain -- . ':!results' 2>/dev/null || echo unknown)
	echo "commit $commit${changes:+ with uncommitted changes}"
	echo "base $(git --git-dir="$BASE" -c safe.directory='*' rev-parse -q --verify 'refs/tags/base^{commit}' 2>/dev/null || echo none)"
	echo "toolbox ${TOOLBOX:-$TOOLBOX_ID} $LLVM"
	printf '%s\n' "$@"
}

# seed: what the suites draw from. SEED, or else one of the commit: each has another, and the same one has it again.
seed()
{
	local commit
	commit=$(git -C "$TOP" -c safe.directory='*' rev-parse HEAD 2>/dev/null || echo 00001)
	echo "${SEED:-$((16#${commit:0:5}))}"
}

# build_id DIR...: changes when a kernel there does, or its iommufd.
build_id()
{
	local dir
	for dir; do
		find "$dir" -maxdepth 5 \( -path '*/arch/*/boot/bzImage' -o -path '*/arch/*/boot/Image' -o -name 'iommufd*.ko' \) \
			-not -path '*/modules/*' -type f 2>/dev/null
	done | sort | xargs -r cat 2>/dev/null | sha256sum | cut -c1-16
}

step_is_done() # STEP [ID]
{
	local dir=$_steps/${1//\//_}.done rc seconds id file n=0
	[ -e "$dir/status" ] || return 1
	read -r rc seconds id <"$dir/status"
	if [ "$id" != "${2:--}" ]; then
		say "$1: its build has changed since, so that it is run again"
		rm -rf "$dir"
		return 1
	fi
	for file in "${STEP_FILES[@]}"; do
		n=$((n + 1))
		rm -f "$file"
		[ ! -e "$dir/$n" ] || cp -p "$dir/$n" "$file"
	done
	STEP_RC[$1]=$rc
	STEP_SECONDS[$1]=$seconds
	say "$1: taken over from the earlier run, where it took $((seconds / 60)):$(printf %02d $((seconds % 60)))"
}

# In a process group of its own, which an interrupt ends.
start_step() # STEP ID COMMAND...
{
	local step=$1 id=${2:--} pid
	shift 2
	while [ "${#_step_of[@]}" -ge "$SLOTS" ]; do _end_step; done
	rm -rf "$_steps/${step//\//_}.done"
	unset "STEP_RC[$step]"
	set -m
	"$@" </dev/null &
	pid=$!
	set +m
	_step_of[$pid]=$step
	_step_id[$pid]=$id
	_step_start[$pid]=$(date +%s)
	_step_files[$pid]=$(printf '%s\n' "${STEP_FILES[@]}")
}

wait_for_step() # STEP
{
	while [ -z "${STEP_RC[$1]:-}" ]; do _end_step; done
}

wait_for_steps()
{
	while [ "${#_step_of[@]}" -gt 0 ]; do _end_step; done
}

_end_step()
{
	local pid='' rc=0 step dir file n=0 seconds
	wait -n -p pid "${!_step_of[@]}" || rc=$?
	step=${_step_of[$pid]}
	dir=$_steps/${step//\//_}.done
	seconds=$(($(date +%s) - ${_step_start[$pid]}))
	STEP_RC[$step]=$rc
	STEP_SECONDS[$step]=$seconds
	rm -rf "$dir.tmp" "$dir"
	mkdir "$dir.tmp"
	while IFS= read -r file; do
		n=$((n + 1))
		[ ! -e "$file" ] || cp -p "$file" "$dir.tmp/$n"
	done <<<"${_step_files[$pid]}"
	echo "$rc $seconds ${_step_id[$pid]}" >"$dir.tmp/status"
	mv "$dir.tmp" "$dir"
	echo $(($(date +%s) - _steps_began)) >"$_steps/spent-$_steps_began-$$"
	unset "_step_of[$pid]" "_step_id[$pid]" "_step_start[$pid]" "_step_files[$pid]"
}

_stop_steps() # STATUS
{
	local pid steps
	trap '' INT TERM HUP
	steps=${_step_of[*]}
	for pid in "${!_step_of[@]}"; do _end_group "$pid"; done
	printf '\n' >&2
	say "interrupted${steps:+ in: $steps}; RESUME=1 goes on with what is not done" >&2
	exit "$1"
}

# steps_about TITLE: write the description of the run for scripts/results --record.
steps_about()
{
	local seconds runs step
	echo $(($(date +%s) - _steps_began)) >"$_steps/spent-$_steps_began-$$"
	seconds=$(cat "$_steps"/spent-* | awk '{ n += $1 } END { print n }')
	runs=$(find "$_steps" -name 'spent-*' | wc -l)
	echo "title  $1"
	sed -n -E 's/^(commit|base|toolbox) /\1  /p' "$_steps/key"
	echo "date  $(date -u '+%F %R') UTC"
	echo "duration  $((seconds / 60)) minutes, in $runs $([ "$runs" = 1 ] && echo run || echo runs)"
	echo "machine  $JOBS processors, $SLOTS guests at a time"
	for step in "${!STEP_SECONDS[@]}"; do echo "took  $step ${STEP_SECONDS[$step]}"; done | sort
}

# prefixed NAME COMMAND...: run a command and prefix its output with NAME, if several run at a time.
prefixed()
{
	local name=$1
	shift
	"$@" 2>&1 | sed -u -E "s/^(\[[ 0-9:]+\]) /\1 $name: /"
}
