#!/bin/bash
# system-test.sh [NAME...] - runs the scenarios of tests/system (executables; with names only those whose name contains one of
# them), one after the other, and says ok or not ok. They need a whole system: root, and what they boot is made from Debian's
# packages once (scripts/system-root.sh). Not part of `make check`.
#
# Among a scenario's first 25 lines: "# timeout: SECONDS" (900 by default) and "# roots: deb12 deb13", the systems it
# boots: they are there when it starts, below FAZT_ROOTS. Each gets a scratch directory of its own (TEST_SCRATCH, TMPDIR); mounts
# left below it make it fail. Environment: B build directory, PYTHON, TEST_KEEP=1 keeps what they made. Output: $B/system-logs.
set -u
cd "$(dirname "$0")/.."
export B=${B:-$PWD/build} PYTHON=${PYTHON:-/usr/bin/python3}
export FAZT_ROOTS=${FAZT_ROOTS:-${XDG_CACHE_HOME:-$HOME/.cache}/fazt-roots}
TOOLS=${FAZT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/fazt-tools}
export PATH=$TOOLS/bin:$PATH:/usr/local/bin:/usr/sbin:/sbin
unset XDG_RUNTIME_DIR FAZT_CONFIG NOTIFY_SOCKET
LOGS=$B/system-logs
mkdir -p "$LOGS"
failed=0 passed=0

said() { # FILE KEY DEFAULT
	local v
	v=$(head -25 "$1" | sed -n "s/^# $2: *//p" | head -1)
	echo "${v:-$3}"
}

wanted() {
	local w
	[ $# -eq 1 ] && return 0
	for w in "${@:2}"; do
		case $1 in *"$w"*) return 0 ;; esac
	done
	return 1
}

mounts_below() {
	awk -v d="$1/" 'index($2 "/", d) == 1 { print $2 }' /proc/self/mounts | sort -r
}

for t in tests/system/*; do
	name=$(basename "$t")
	if [ ! -f "$t" ] || [ ! -x "$t" ] || ! wanted "$name" "$@"; then continue; fi
	log=$LOGS/$name.log
	start=$(date +%s)
	scratch=$(mktemp -d "${TMPDIR:-/tmp}/fazt-system.XXXXXX") || exit 1
	rc=0 left=
	roots=$(said "$t" roots "")
	: >"$log"
	if [ -n "$roots" ]; then
		# shellcheck disable=SC2086
		scripts/system-root.sh $roots >>"$log" 2>&1 || rc=$?
	fi
	if [ $rc -eq 0 ]; then
		TEST_SCRATCH=$scratch TMPDIR=$scratch timeout -k 30 "$(said "$t" timeout 900)" "$t" >>"$log" 2>&1 </dev/null
		rc=$?
		[ $rc -eq 124 ] && echo "took longer than $(said "$t" timeout 900) s" >>"$log"
	fi
	for m in $(mounts_below "$scratch"); do
		left="$left $m"
		umount -l "$m"
	done
	[ -n "$left" ] && echo "left behind: mounts$left" >>"$log"
	[ -n "${TEST_KEEP:-}" ] || rm -rf --one-file-system "$scratch" 2>>"$log"
	if [ $rc -eq 0 ] && [ -z "$left" ]; then
		passed=$((passed + 1))
		printf 'ok      %-30s %4d s\n' "$name" $(($(date +%s) - start))
	else
		failed=$((failed + 1))
		printf 'not ok  %-30s %4d s  exit %d, log %s\n' "$name" $(($(date +%s) - start)) $rc "$log"
		tail -n 40 "$log" | sed 's/^/        | /'
	fi
done
[ $passed -eq 0 ] && [ $failed -eq 0 ] && echo "no scenario was found" && failed=1
echo "$passed ok, $failed not ok"
[ $failed -eq 0 ]
