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
#     WS=name         a work space of its own: separate TREE, BUILD and LOGS; toolbox and base are shared
#
# Functions: say, warn, die, step, retry, lock, elapsed, in_toolbox, each described where it is defined.

[ -n "${BASH_VERSION:-}" ] || { echo "common.sh: needs bash" >&2; exit 1; }

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/versions
. "$TOP/scripts/versions"

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rust-iommufd
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd -P)

IMPL=${IMPL:-rust}
JOBS=${JOBS:-$(nproc)}
KDIR=${KDIR:-}
TOOLBOX=${TOOLBOX:-}
WS=${WS:-}

case $IMPL in rust | c) ;; *) echo "IMPL=$IMPL: use rust or c" >&2; exit 2 ;; esac
case $WS in */* | .*) echo "WS=$WS: a plain name, please" >&2; exit 2 ;; esac

# A user's own tree is a base of its own: its work tree and objects must not mix with Debian's.
_space=$CACHE${WS:+/ws/$WS}
if [ -n "$KDIR" ]; then
	KDIR=$(cd "$KDIR" 2>/dev/null && pwd -P) || { echo "KDIR: no such directory" >&2; exit 2; }
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
TOOLBOX_ID=$( (grep -v -e '^#' -e '^KERNEL' "$TOP/scripts/versions"
	       sed -n '/^# recipe {/,/^# }/p' "$TOP/scripts/toolbox") | sha256sum | cut -c1-12)
TOOLBOX_DIR=$CACHE/toolbox-$TOOLBOX_ID

# LLVM= given but empty means GCC, as in the kernel; not given, it is the toolbox's clang, or the host's: the one without
# a number in its name, else the newest. A host without clang uses GCC.
if [ -z "${LLVM+set}" ]; then
	if [ "$TOOLBOX" != host ]; then
		LLVM=-$LLVM_MAJOR
	elif command -v clang >/dev/null; then
		LLVM=1
	else
		LLVM=$(compgen -c clang- | sed -n -E 's/^clang(-[0-9]+)$/\1/p' | sort -V | tail -n 1)
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

# die WHAT [NEXT...]: what failed, then what to try next, one per line; exits.
die()
{
	printf '\nerror: %s\n' "$1" >&2
	shift
	[ $# -eq 0 ] || printf '  try: %s\n' "$@" >&2
	exit 1
}

# step NAME TITLE COMMAND...: run a long command (or function) with its output in $LOGS/NAME.log. Shows TITLE, progress
# and the time it took; if it fails, the end of the log, its name, and $STEP_HINT, and exits. STEP_PROGRESS may name a
# function that is given the log's path and prints a few words of progress.
step()
{
	local title=$2 log=$LOGS/$1.log t0 pid rc=0 beat
	shift 2
	t0=$(date +%s)
	say "$title ..."
	# A process group of its own, so that an interrupt ends all of it.
	set -m
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	# shellcheck disable=SC2064 # the process of this step, not of a later one
	trap "kill -- -$pid 2>/dev/null; exit 130" INT TERM HUP
	beat=$t0
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
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
	say "$title: done in $(elapsed "$t0")"
}

_error='(^|[^a-z_])(fatal error|error):|^error\[|undefined symbol'

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

# lock NAME: hold an exclusive lock of the cache until this script exits; says so when it has to wait.
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
