#!/bin/bash
# passthrough.sh - a mount behaves like the directory below it: tests/e2e/tree.py on both, side by side, in every mode of
# serving, and while the worker is killed: at random moments, and at each crash point in turn.
# timeout: 400
# beside
set -eu
cd "$(dirname "$0")/../.."
B=${B:-$PWD/build}
PYTHON=${PYTHON:-/usr/bin/python3}
FAZT=$B/fazt
SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
base=$(mktemp -d "${FAZT_SCRATCH:-${TMPDIR:-/tmp}}/passthrough.XXXXXX")
sup=

end() {
	[ -n "$sup" ] && kill -TERM "$sup" 2>/dev/null && wait "$sup"
	[ -d "$base/mnt" ] && mountpoint -q "$base/mnt" && umount -l "$base/mnt"
	rm -rf "$base"
}
trap end EXIT

fail() {
	tail -n 20 "$base/log" 2>/dev/null
	cat "$base/tree" 2>/dev/null
	echo "FAIL: $*"
	exit 1
}

# up FLAGS...: a fresh mount on $base/mnt, served.
up() {
	rm -rf "$base/mnt" "$base/native"
	mkdir "$base/mnt" "$base/native"
	"$FAZT" mount --foreground --encrypt none "$@" "$base/mnt" >"$base/log" 2>&1 &
	sup=$!
	for _ in $(seq 600); do
		mountpoint -q "$base/mnt" && timeout 5 "$FAZT" status "$base/mnt" >"$base/status" 2>&1 && return
		kill -0 "$sup" 2>/dev/null || fail "mount $* ended"
		sleep 0.05
	done
	fail "mount $* does not serve: $(cat "$base/status")"
}

down() {
	"$FAZT" umount "$base/mnt" || fail "umount"
	wait "$sup" || fail "the supervisor ended with $?"
	sup=
	! mountpoint -q "$base/mnt" || fail "still mounted"
	[ -z "$(ls -A "$base/mnt/.fazt/open")" ] || fail "hidden files were left: $(ls "$base/mnt/.fazt/open")"
	diff -r --exclude=.fazt --exclude=sock --exclude=p --exclude=fifo "$base/native" "$base/mnt/t" >"$base/diff" 2>&1 ||
		true # what differs in content was compared by tree.py; odd files make diff complain
}

worker() {
	local p
	for p in $(cat "/proc/$sup/task/$sup/children"); do
		{ tr '\0' ' ' <"/proc/$p/cmdline"; } 2>/dev/null | grep -q ' worker ' && echo "$p"
	done
}

tree() {
	timeout 200 "$PYTHON" tests/e2e/tree.py "$base/native" "$base/mnt/t" "$@" >"$base/tree" 2>&1 ||
		fail "tree.py $* ($mode)"
	cat "$base/tree"
}

for mode in "" "--no-passthrough" "--no-passthrough --no-resend"; do
	# shellcheck disable=SC2086
	up $mode
	tree "$SEED" 800
	down
	echo "alike: ${mode:-passthrough}"
done

# SIGKILL at random moments; with sanitizers a worker needs longer until it serves
tenth=0
[ -z "${SAN:-}" ] || tenth=
for mode in "" "--no-passthrough" "--no-passthrough --no-resend"; do
	# shellcheck disable=SC2086
	up $mode
	tree "$SEED" 2000 &
	t=$!
	kills=0
	while kill -0 $t 2>/dev/null; do
		# each fourth one comes so far that it serves, however slow the machine is
		[ $((kills % 4)) -ne 3 ] || timeout 60 "$FAZT" status "$base/mnt" >/dev/null 2>&1 || true
		sleep "0.$tenth$((RANDOM % 6 + 3))"
		for p in $(worker); do
			kill -0 $t 2>/dev/null && kill -KILL "$p" 2>/dev/null && kills=$((kills + 1))
		done
	done
	wait $t || exit 1 # it has told why
	[ $kills -ge 3 ] || fail "only $kills kills"
	down
	echo "alike under $kills kills: ${mode:-passthrough}"
done

# each crash point: every worker dies when it comes there for the nth time
for point in $(grep -rhoE 'FS_CRASHPOINT\(([a-z_]+)\)' fs/*.c | sed 's/.*(\(.*\))/\1/' | sort -u); do
	mode="crash point $point"
	nth=5
	case $point in
	init_* | redone | reopened) continue ;; # at the start: it would never serve; below
	request* | repl* | redo_*) nth=60 ;;
	backing_opened | create_made) nth=20 ;;
	rename_linked) nth=2 ;; # 1 would meet the request again and again
	esac
	FAZT_CRASHPOINT=$point:$nth up
	tree "$SEED" 200
	n=$(grep -c 'ended by signal 9' "$base/log") || true
	case $point in
	written) ;; # write-through only
	rename_linked | link_made) ;; # too rare in a short walk to be sure
	*) [ "$n" -gt 0 ] || fail "crash point $point was never met" ;;
	esac
	down
	echo "alike under $n deaths at $point"
done
