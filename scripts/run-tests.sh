#!/bin/bash
# run-tests.sh [NAME...] - runs what `make check` built: unit tests, replays of the fuzz corpora, scenarios (executable
# tests/e2e/*.sh and *.py); with names only those whose name contains one of them. One line each; the last line counts.
#
# Each test gets a scratch directory of its own (TMPDIR), a time limit (twice "# timeout: SECONDS" among its first
# lines; 300 by default) and a mark in its environment. A mount below its scratch directory or a process with its mark that
# is left behind makes it fail, and is removed. Output is kept in $B/test-logs; of a failed test its end is shown.
# Environment: B build directory, SAN sanitizers (limits are three times as long), JOBS unit tests at a time.
set -u
cd "$(dirname "$0")/.."
export B=${B:-$PWD/build}
export SAN=${SAN:-} PYTHON=${PYTHON:-/usr/bin/python3}
TOOLS=${FAZT_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/fazt-tools}
export PATH=$TOOLS/bin:$PATH:/usr/local/bin:/usr/sbin:/sbin
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:abort_on_error=0} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1 second_deadlock_stack=1}
unset XDG_RUNTIME_DIR FAZT_CONFIG
JOBS=${JOBS:-$(nproc)}
LOGS=$B/test-logs
ROOM=${TMPDIR:-/tmp}
[ -n "${TMPDIR:-}" ] || [ "$(stat -f -c %T /tmp)" != tmpfs ] || ROOM=/var/tmp # a database in memory is not what is tested
RESULTS=$(mktemp -d) || exit 1
trap 'rm -rf "$RESULTS"' EXIT
mkdir -p "$LOGS"

# Processes that carry the mark of test $1.
marked() {
	local p
	for p in $(grep -lzsx "FAZT_TEST_ID=$1" /proc/[0-9]*/environ 2>/dev/null); do
		p=${p#/proc/}
		p=${p%/environ}
		[ "$p" = "$$" ] || [ "$p" = "$BASHPID" ] || echo "$p"
	done
}

mounts_below() {
	awk -v d="$1/" 'index($2 "/", d) == 1 { print $2 }' /proc/self/mounts | sort -r
}

# Removes what test $1 left in scratch directory $2, and says so on stdout; silent when there was nothing.
sweep() {
	local id=$1 scratch=$2 p m i
	for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do # what is about to end may end
		[ -z "$(marked "$id")$(mounts_below "$scratch")" ] && return
		sleep 0.1
	done
	for p in $(marked "$id"); do
		echo "left behind: process $p: $(tr '\0' ' ' <"/proc/$p/cmdline" 2>/dev/null)"
		kill -9 "$p" 2>/dev/null
	done
	for m in $(mounts_below "$scratch"); do
		echo "left behind: mount $m"
		umount -l "$m" 2>/dev/null || fusermount3 -uz "$m" 2>/dev/null
	done
}

limit_of() {
	local t=
	case $1 in *.sh | *.py) t=$(head -25 "$1" | sed -n 's/^# timeout: \([0-9]*\)$/\1/p' | head -1) ;; esac
	t=$((${t:-300} * 2)) # it is there for what hangs; on a slow disk a test may need twice its time
	[ -n "$SAN" ] && t=$((t * 3))
	echo "$t"
}

# What the test itself says of its failure; the end of its log may be what fazt said.
why() {
	grep -aE '^(FAIL|not ok|[A-Za-z_.]*(Error|Expired|Failure)\b|(ERROR|SUMMARY|WARNING): )' "$1" | cut -c1-600 | head -n 4
}

# one NAME COMMAND...: runs a test, prints its line, notes the result.
one() {
	local name=$1 log start took rc left id scratch limit
	shift
	log=$LOGS/${name//\//-}.log
	id=$$.$RANDOM.${name//\//-}
	scratch=$(mktemp -d "$ROOM/fazt-test.XXXXXX") || exit 1
	limit=$(limit_of "$1")
	start=$(date +%s%N)
	FAZT_TEST_ID=$id TMPDIR=$scratch timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null
	rc=$?
	took=$(($(date +%s%N) - start))
	left=$(sweep "$id" "$scratch")
	rm -rf --one-file-system "$scratch" 2>>"$log"
	[ $rc -eq 124 ] && echo "took longer than $limit s" >>"$log"
	if [ $rc -eq 0 ] && [ -z "$left" ]; then
		printf 'ok    %-34s %3d.%d s\n' "$name" $((took / 1000000000)) $((took / 100000000 % 10))
		echo ok >"$RESULTS/${name//\//-}"
	else
		[ -n "$left" ] && echo "$left" >>"$log"
		{
			printf 'FAIL  %-34s %3d.%d s  exit %d, log %s\n' "$name" $((took / 1000000000)) \
				$((took / 100000000 % 10)) $rc "$log"
			{ why "$log"; tail -n 30 "$log"; } | sed 's/^/      | /'
		} >"$RESULTS/out.$BASHPID"
		cat "$RESULTS/out.$BASHPID" # in one piece
		rm -f "$RESULTS/out.$BASHPID"
		echo failed >"$RESULTS/${name//\//-}"
	fi
}

wanted() {
	local w
	[ ${#names[@]} -eq 0 ] && return 0
	for w in "${names[@]}"; do
		case $1 in *"$w"*) return 0 ;; esac
	done
	return 1
}

names=("$@")
for t in tests/unit/test_*.c; do
	t=$(basename "$t" .c)
	wanted "unit/$t" || continue
	while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
	one "unit/$t" "$B/unit/$t" &
done
for t in tests/fuzz/fuzz_*.c; do
	[ -f "$t" ] || continue
	t=$(basename "$t" .c)
	wanted "fuzz/$t" || continue
	while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; done
	one "fuzz/$t" "$B/fuzz/$t" "tests/fuzz/corpus/$t" &
done
wait
# Scenarios run one after another; those that say "# beside" among their first lines, which are long and spend most of it
# waiting, do so in a lane of their own.
beside() {
	head -25 "$1" | grep -q '^# beside$'
}
lane() {
	local t name
	for t in tests/e2e/*.sh tests/e2e/*.py; do
		[ -x "$t" ] || continue
		name=e2e/$(basename "$t")
		wanted "$name" || continue
		if beside "$t"; then [ "$1" = beside ]; else [ "$1" = rest ]; fi || continue
		one "$name" "$t"
	done
}
lane beside &
lane rest
wait

passed=$(cat "$RESULTS"/* 2>/dev/null | grep -c '^ok$')
failed=$(cat "$RESULTS"/* 2>/dev/null | grep -c '^failed$')
[ "$passed" -eq 0 ] && [ "$failed" -eq 0 ] && echo "no test was found" && failed=1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
