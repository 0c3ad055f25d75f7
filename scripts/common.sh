# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034 # the places are for those who source this
#
# What every script here shares: where things are, how to speak, and how to run a tool of the toolbox.
#
# Source it first:
#
#     set -euo pipefail
#     . "$(dirname "$(readlink -f "$0")")/common.sh"
#
# Places (absolute; all but TOP below the XDG cache directory):
#
#     TOP     this checkout                  CACHE   $XDG_CACHE_HOME/rust-iommufd
#     TREE    kernel work tree with the      BASE    pristine git repository of the base kernel (bare, tag `base`)
#             series applied                 LOGS    logs of the long steps
#     BUILD   build directories: $BUILD/rust, $BUILD/c, ...
#
# Settings, from the environment or make's command line:
#
#     IMPL=rust|c     implementation to build and boot     JOBS=N   parallel jobs (default: all processors)
#     KDIR=path       your own kernel tree as the base     O=path   build directories go there
#     LLVM=...        as for the kernel's own make         TOOLBOX=host   your own tools, no toolbox
#     TOOLCHAIN=new   the newest compilers of Debian's backports instead of those of its stable release
#     WS=name         a work space of its own: separate TREE, BUILD and LOGS; toolbox and base are shared
#     RETRIES=N       how often the network is tried before it is given up (3)
#
# Functions: say, warn, die, step, took, slowest, TIED, retry, lock, need_space, elapsed, in_toolbox, qemu_cannot, each
# described where it is defined.

[ -n "${BASH_VERSION:-}" ] || { echo "common.sh: needs bash" >&2; exit 1; }

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# If make or another script has started this script, it is killed when that parent exits for any reason. A script that a user
# has started does not end with the user's shell. The kernel sends the signal (PR_SET_PDEATHSIG); a parent that has exited
# before that was set is detected by its number.
if [ -n "${RUST_IOMMUFD_T0:-}" ] && [ "${BASH_SOURCE[-1]}" = "$0" ] && [ -x "$0" ] && command -v setpriv >/dev/null; then
	_tied=${RUST_IOMMUFD_TIED:-}
	[ "${_tied%:*}" = "$$" ] || RUST_IOMMUFD_TIED=$$:$PPID exec setpriv --pdeathsig TERM "$0" "$@"
	[ "${_tied#*:}" = "$PPID" ] || exit 143
fi

case ${TOOLCHAIN:=stable} in stable | new) ;; *) echo "TOOLCHAIN=$TOOLCHAIN: use stable or new" >&2; exit 2 ;; esac
# shellcheck source=scripts/versions
. "$TOP/scripts/versions"

if [ -z "${XDG_CACHE_HOME:-}" ] && [ -z "${HOME:-}" ]; then
	echo "error: neither HOME nor XDG_CACHE_HOME is set: there is no place for the kernel and the toolbox" >&2
	echo "  try: XDG_CACHE_HOME=/some/directory with 10 GB free, and the same command again" >&2
	exit 1
fi
CACHE=${XDG_CACHE_HOME:-${HOME:-}/.cache}/rust-iommufd
if ! mkdir -p "$CACHE" || ! [ -w "$CACHE" ]; then
	echo "error: $CACHE, where all that is made here goes, cannot be made or written" >&2
	echo "  try: XDG_CACHE_HOME=/some/directory of yours with 10 GB free, and the same command again" >&2
	exit 1
fi
CACHE=$(cd "$CACHE" && pwd -P)

IMPL=${IMPL:-rust}
JOBS=${JOBS:-$(nproc)}
KDIR=${KDIR:-}
TOOLBOX=${TOOLBOX:-}
WS=${WS:-}
RETRIES=${RETRIES:-3}

case $IMPL in rust | c) ;; *) echo "IMPL=$IMPL: use rust or c" >&2; exit 2 ;; esac
case $WS in */* | .*) echo "WS=$WS: a plain name, please" >&2; exit 2 ;; esac

# A user's own tree is a base of its own: its work tree and objects must not mix with Debian's.
_space=$CACHE${WS:+/ws/$WS}
if [ -n "$KDIR" ]; then
	[ -d "$KDIR" ] || { echo "error: KDIR=$KDIR: no such directory" >&2; exit 2; }
	KDIR=$(cd "$KDIR" && pwd -P)
	if ! grep -q '^PATCHLEVEL = ' "$KDIR/Makefile" 2>/dev/null; then
		echo "error: KDIR=$KDIR is no kernel tree" >&2
		echo "  try: KDIR=path of a Linux $KERNEL_SERIES tree (git or unpacked)" >&2
		exit 2
	fi
	_id=kdir-$(printf %s "$KDIR" | sha256sum | cut -c1-12)
	_space=$_space/$_id
	BASE=$CACHE/linux-base/$_id
else
	BASE=$CACHE/linux-base/$KERNEL_PACKAGE_VERSION
fi
TREE=$_space/linux
LOGS=$_space/logs
if [ -n "${O:-}" ]; then
	mkdir -p "$O"
	BUILD=$(cd "$O" && pwd -P)
else
	BUILD=$_space/build
fi
mkdir -p "$LOGS" "$BUILD"

# Named by what it is made of, so that an edit of the recipe makes a new one, and nothing else does.
toolbox_dir() # TOOLCHAIN
{
	(echo "$1"
	 grep -v -e '^[ 	]*#' -e '^KERNEL' "$TOP/scripts/versions"
	 sed -n '/^# recipe {/,/^# }/p' "$TOP/scripts/toolbox" | grep -v '^[ 	]*#') |
		sha256sum | sed -E "s|^(.{12}).*|$CACHE/toolbox-\\1|"
}
TOOLBOX_DIR=$(toolbox_dir "$TOOLCHAIN")
# Changes when that does.
TOOLBOX_ID=${TOOLBOX_DIR##*-}

# LLVM= given but empty means GCC, as in the kernel; not given, it is the toolbox's clang, or the host's: the one without
# a number in its name, else the newest. A host without clang uses GCC. In the toolbox, clang without a number is the one
# whose LLVM is rustc's; where no version is pinned, that is its name.
if [ -z "${LLVM+set}" ]; then
	if [ "$TOOLBOX" != host ]; then
		LLVM=${LLVM_MAJOR:+-$LLVM_MAJOR}
		LLVM=${LLVM:-1}
	elif command -v clang >/dev/null; then
		LLVM=1
	else
		LLVM=$({ compgen -c clang- || true; } | sed -n -E 's/^clang(-[0-9]+)$/\1/p' | sort -V | tail -n 1)
	fi
fi

# ---- speech ---------------------------------------------------------------------------------------------------------

_T0=${RUST_IOMMUFD_T0:-$(date +%s)}
export RUST_IOMMUFD_T0=$_T0

# elapsed [SINCE]: m:ss since SINCE (seconds of the epoch), or since the outermost script started.
elapsed()
{
	local s=$(($(date +%s) - ${1:-$_T0}))
	printf '%d:%02d' $((s / 60)) $((s % 60))
}

# say WORDS...: one line of progress, with the time since the start.
say()
{
	printf '[%5s] %s\n' "$(elapsed)" "$*"
}

# warn WORDS...: something to know about that stops nothing.
warn()
{
	printf '[%5s] note: %s\n' "$(elapsed)" "$*" >&2
}

# die WHAT [NEXT...]: print what failed and what to try next, one per line, and exit. In a step, the step prints this.
die()
{
	[ -z "${_WHY:-}" ] || printf '%s\n' "$@" >"$_WHY"
	printf '\nerror: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  try: %s\n' "$@" >&2
	exit 1
}

# step NAME TITLE COMMAND...: run a long command (or function) with its output in $LOGS/NAME.log. Shows TITLE, progress
# and the time it took; if it fails, exits with the reason: what the command itself said to die with, a disk that is full,
# a network that is not there, or else the end of the log, its name, and $STEP_HINT. STEP_PROGRESS may name a function that
# is given the log's path and prints a few words of progress.
step()
{
	local title=$2 log=$LOGS/$1.log t0 pid rc=0 beat outer=${_WHY:-}
	local -a why=()
	shift 2
	t0=$(date +%s)
	say "$title ..."
	rm -f "$log.why"
	# A process group of its own, so that an interrupt ends all of it.
	set -m
	_WHY=$log.why "$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	# shellcheck disable=SC2064 # the process of this step, not of a later one
	trap "_end_group $pid; exit 130" INT TERM HUP
	beat=$t0
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		# In a subshell, this is not what the signal for the script reaches.
		kill -0 $$ 2>/dev/null || { _end_group "$pid"; exit 143; }
		if [ -t 1 ]; then
			[ $(($(date +%s) - t0)) -lt 2 ] || printf '\r\033[K        %s %s' "$(elapsed "$t0")" "$(_progress "$log")"
		elif [ $(($(date +%s) - beat)) -ge 30 ]; then
			beat=$(date +%s)
			say "    $(elapsed "$t0") $(_progress "$log")"
		fi
	done
	wait "$pid" || rc=$?
	trap - INT TERM HUP
	[ ! -t 1 ] || printf '\r\033[K'
	if [ "$rc" -ne 0 ]; then
		_WHY=$outer
		[ ! -s "$log.why" ] || mapfile -t why <"$log.why"
		rm -f "$log.why"
		if grep -q -m 1 -E "$_full" "$log"; then
			why=("the disk is full: $(space_left) MB are left for $CACHE" "make room, then the same command again"
			     "XDG_CACHE_HOME=/some/directory with 10 GB free, and the same command again")
		fi
		if [ ${#why[@]} -gt 0 ]; then
			say "$title: failed after $(elapsed "$t0"); the log is $log" >&2
			die "${why[@]}"
		fi
		# In a parallel build the reason is often far above the end.
		if grep -q -m 1 -E "$_error" "$log"; then
			echo "---- errors in $log:" >&2
			grep -n -m 12 -A 6 -E "$_error" "$log" | cut -c1-200 >&2
		fi
		echo "---- the last lines of $log:" >&2
		tail -n 25 "$log" >&2
		echo "----" >&2
		die "$title: failed after $(elapsed "$t0") (status $rc); the whole log is $log" ${STEP_HINT:+"$STEP_HINT"}
	fi
	took "$t0" "$title"
	say "$title: done in $(elapsed "$t0")"
}

# End a process group, and wait for that: what it leaves half made, the next run must not find it still being made.
_end_group() # PID
{
	local i
	kill -TERM -- "-$1" 2>/dev/null || return 0
	for ((i = 0; i < 50; i++)); do
		kill -0 -- "-$1" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -KILL -- "-$1" 2>/dev/null || true
}

# "${TIED[@]}" PROGRAM...: run a program that ends with this script, as the scripts themselves do. No function, since in a
# pipeline that would be in a subshell, which does not end.
TIED=()
! command -v setpriv >/dev/null || TIED=(setpriv --pdeathsig TERM)

_full='No space left on device|ENOSPC|Disk quota exceeded|enough free space'
_error='(^|[^a-z_])(fatal error|error):|^error\[|undefined symbol'

# took SINCE TITLE: remember how long something took, for slowest.
took()
{
	echo "$(($(date +%s) - $1)) $2" >>"$LOGS/times-$_T0"
}

# slowest: one line of what took longest since the outermost script started. A part of something is named beside it.
slowest()
{
	local file=$LOGS/times-$_T0 s title line=
	find "$LOGS" -name 'times-*' -mtime +1 -delete
	[ -e "$file" ] || return 0
	while read -r s title; do
		[ "$s" -lt 2 ] || line+="${line:+, }$title $(elapsed $(($(date +%s) - s)))"
	done < <(sort -rn "$file" | head -n 6)
	rm "$file"
	say "took longest: ${line:-nothing took 2 s}"
}

_progress()
{
	if [ -n "${STEP_PROGRESS:-}" ]; then
		"$STEP_PROGRESS" "$1"
	else
		tail -n 1 "$1" 2>/dev/null | tr -d '\r' | cut -c1-70
	fi
}

# retry N COMMAND...: run COMMAND until it succeeds, N times at most, waiting longer each time (for the network).
retry()
{
	local n=$1 i
	shift
	for ((i = 1; ; i++)); do
		if "$@"; then return 0; fi
		[ "$i" -lt "$n" ] || return 1
		echo "attempt $i of $n failed: $*; again in $((i * 5)) s" >&2
		sleep $((i * 5))
	done
}

# space_left: MB that may be written below the cache.
space_left()
{
	df -P -B 1M "$CACHE" | awk 'NR == 2 { print $4 }'
}

# need_space MB WHAT: that much must be free in the cache for WHAT. Found out first, not after minutes.
need_space()
{
	local left
	left=$(space_left)
	[ "$left" -lt "$1" ] || return 0
	die "$2 takes $1 MB, and $left MB are free for $CACHE" "make room there" \
		"XDG_CACHE_HOME=/some/directory with more room, and the same command again"
}

# lock NAME: hold an exclusive lock of the cache until this script exits; prints a line if it has to wait.
lock()
{
	local file=$CACHE/.lock-$1 fd
	exec {fd}>"$file"
	if ! flock -n "$fd"; then
		say "waiting for another run that holds $file"
		flock "$fd"
	fi
}

# ---- toolbox --------------------------------------------------------------------------------------------------------

# in_toolbox COMMAND...: run COMMAND with the pinned tools: same paths, same user, same directory as outside; only /usr,
# /etc and /var are the toolbox's. Builds the toolbox first when there is none. With TOOLBOX=host, just runs COMMAND.
in_toolbox()
{
	"$TOP/scripts/toolbox" exec "$@"
}

# qemu_cannot [WHAT]: what the toolbox's QEMU (the host's) is too old for, by tests/qemu.list, as `WHAT REASON` lines; with
# WHAT, the reason. False if there is nothing.
qemu_cannot()
{
	local have since what reason
	have=${QEMU_VERSION:-$(in_toolbox qemu-system-x86_64 --version | sed -n -E '1s/.*version ([0-9.]+).*/\1/p')}
	while read -r since what reason; do
		case $since in '' | '#'*) continue ;; esac
		[ "$(printf '%s\n' "$since" "$have" | sort -V | head -n 1)" != "$since" ] || continue
		reason="QEMU $have $reason; $since can"
		if [ -z "${1:-}" ]; then echo "$what $reason"; elif [ "$what" = "$1" ]; then echo "$reason"; fi
	done <"$TOP/tests/qemu.list" | grep .
}
