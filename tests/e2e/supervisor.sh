#!/bin/bash
# supervisor.sh - who may mount and unmount when: a directory in use is refused and the user named, umount waits for open
# files, an upgrade replaces the worker under a running application, and a database reached around the mount is locked.
# timeout: 120
set -eu
cd "$(dirname "$0")/../.."
B=${B:-$PWD/build}
PYTHON=${PYTHON:-/usr/bin/python3}
FAZT=$B/fazt
base=$(mktemp -d "${FAZT_SCRATCH:-${TMPDIR:-/tmp}}/supervisor.XXXXXX")
dir=$base/app
sup=
pids=

end() {
	for p in $pids; do kill "$p" 2>/dev/null || true; done
	if [ -n "$sup" ]; then kill -TERM "$sup" 2>/dev/null && wait "$sup"; fi
	mountpoint -q "$base/side" && umount "$base/side"
	mountpoint -q "$dir" && umount -l "$dir"
	rm -rf "$base"
}
trap end EXIT

fail() {
	echo "FAIL: $*"
	tail -n 30 "$base/log" 2>/dev/null
	exit 1
}

up() {
	"$FAZT" mount --foreground --encrypt none "$dir" >>"$base/log" 2>&1 &
	sup=$!
	for _ in $(seq 600); do
		mountpoint -q "$dir" && timeout 5 "$FAZT" status "$dir" >"$base/status" 2>&1 && return
		kill -0 "$sup" 2>/dev/null || fail "the mount ended"
		sleep 0.05
	done
	fail "the mount does not serve"
}

until_true() { # WHAT COMMAND...
	local what=$1
	shift
	for _ in $(seq 600); do
		"$@" && return
		sleep 0.05
	done
	fail "waited for $what"
}

worker() {
	local p
	for p in $(cat "/proc/$sup/task/$sup/children"); do
		case $(cat "/proc/$p/cmdline" 2>/dev/null | tr '\0' ' ') in *" worker "*) echo "$p" ;; esac
	done
}

holder() { # opens $1 and says so
	"$PYTHON" -c '
import sys, time
f = open(sys.argv[1], "r+b")
open(sys.argv[2], "w").close()
time.sleep(600)' "$1" "$base/held" &
	pids="$pids $!"
	until_true "the holder" test -e "$base/held"
	rm "$base/held"
}

mkdir "$dir" "$base/side"
"$PYTHON" -c '
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("PRAGMA journal_mode=WAL")
c.execute("CREATE TABLE t(x)")
c.commit()' "$dir/app.db"

# in use: refused, named, nothing mounted
holder "$dir/app.db"
h=$!
if "$FAZT" mount --foreground --encrypt none "$dir" >"$base/refused" 2>&1; then fail "mounted over a file in use"; fi
grep -q "\[$h\] has app.db open" "$base/refused" || fail "does not name the user: $(cat "$base/refused")"
mountpoint -q "$dir" && fail "refused, and yet mounted"
kill $h
wait $h 2>/dev/null || true
echo "refused while in use"

# a working directory counts as well
(cd "$dir" && exec sleep 600) &
h=$!
pids="$pids $h"
until_true "a working directory" eval '[ "$(readlink "/proc/$h/cwd")" = "$dir" ]'
if "$FAZT" mount --foreground --encrypt none "$dir" >"$base/refused" 2>&1; then fail "mounted over a working directory"; fi
grep -q "sleep\[$h\]" "$base/refused" || fail "does not name the user: $(cat "$base/refused")"
kill $h
wait $h 2>/dev/null || true

mount --bind "$dir" "$base/side"
mount --make-private "$base/side" # where / is shared the mount would appear there too
up
if "$FAZT" mount --foreground --encrypt none "$dir" >"$base/refused" 2>&1; then fail "mounted twice"; fi
grep -q FZ-1403 "$base/refused" || fail "second mount: $(cat "$base/refused")"
[ ! -e "$dir/.fazt/lock" ] && [ ! -e "$dir/.fazt/db" ] || fail "the mount shows the state directory"
ls -A "$dir" | grep -q fazt && fail "the mount lists .fazt"
if mkdir "$dir/.fazt" 2>/dev/null; then fail "made .fazt"; fi

# around the mount: locked
"$PYTHON" - "$dir/app.db" "$base/side/app.db" <<'PY' || fail "around the mount"
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("INSERT INTO t VALUES(1)")
c.commit()
d = sqlite3.connect(sys.argv[2], timeout=0)
try:
    d.execute("SELECT count(*) FROM t").fetchall()
    print("read a database around the mount")
    sys.exit(1)
except sqlite3.OperationalError as e:
    if "locked" not in str(e):
        print(e)
        sys.exit(1)
PY
echo "locked for who goes around the mount"

# an upgrade under an application that writes
"$PYTHON" - "$dir/app.db" "$base/stop" >"$base/app.out" 2>&1 <<'PY' &
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
n = 0
while not os.path.exists(sys.argv[2]):
    c.execute("INSERT INTO t VALUES(?)", (n,))
    n += 1
print(c.execute("PRAGMA integrity_check").fetchone()[0])
PY
app=$!
pids="$pids $app"
for _ in 1 2 3; do
	old=$(worker)
	kill -USR2 "$sup"
	until_true "a new worker" eval '[ -n "$(worker)" ] && [ "$(worker)" != '"$old"' ]'
	until_true "the new worker's answer" timeout 5 "$FAZT" status "$dir" >/dev/null
done

# umount is refused while a file is open, and says who
if "$FAZT" umount "$dir" >"$base/refused" 2>&1; then fail "unmounted under an application"; fi
grep -q "\[$app\]" "$base/refused" || fail "umount does not name the user: $(cat "$base/refused")"
kill -0 $app || fail "the application ended: $(cat "$base/app.out")"
touch "$base/stop"
wait $app || fail "the application failed: $(cat "$base/app.out")"
grep -qx ok "$base/app.out" || fail "integrity: $(cat "$base/app.out")"
echo "upgraded under an application"

# SIGTERM with an open file: waits, serves on, leaves when it is closed
holder "$dir/app.db"
h=$!
kill -TERM "$sup"
until_true "the warning" grep -q "cannot unmount .*\[$h\]" "$base/log"
[ "$(cat "$dir/app.db" | head -c 6)" = SQLite ] || fail "does not serve while it waits"
kill $h
wait $h 2>/dev/null || true
wait "$sup" || fail "the supervisor ended with $?"
sup=
mountpoint -q "$dir" && fail "still mounted"

# without its supervisor the worker serves on; then the dead mount is cleaned
up
w=$(worker)
kill -KILL "$sup"
wait "$sup" 2>/dev/null || true
sup=
ls "$dir" >/dev/null || fail "does not serve without supervisor"
"$PYTHON" -c '
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.execute("INSERT INTO t VALUES(2)")
c.commit()' "$dir/app.db" || fail "no commit without supervisor"
until_true "the worker's warning" grep -q "supervisor is gone" "$base/log"

# who mounts again becomes its supervisor, under an application that holds a lock and writes
"$PYTHON" -c '
import os, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN IMMEDIATE")
open(sys.argv[2], "w").close()
n = 0
while not os.path.exists(sys.argv[3]):
    c.execute("INSERT INTO t VALUES(3)")
    n += 1
c.execute("COMMIT")
print(n)' "$dir/app.db" "$base/held" "$base/stop2" >"$base/app2.out" 2>&1 &
app=$!
pids="$pids $app"
until_true "the application" test -e "$base/held"
"$FAZT" mount "$dir" >"$base/again" 2>&1 || fail "no supervisor for an orphan: $(cat "$base/again")"
grep -q "has one again" "$base/again" || fail "mount of an orphan says: $(cat "$base/again")"
until_true "the end of the orphan" eval "! kill -0 $w 2>/dev/null"
new=$("$FAZT" status --json "$dir" | sed -n 's/.*"supervisor_pid":[^0-9]*\([0-9]*\).*/\1/p' | head -1)
[ "$(cat "/proc/$new/comm")" = fazt ] || fail "supervisor '$new'"
if "$FAZT" mount "$dir" >"$base/refused" 2>&1; then fail "a mount that has a supervisor got another one"; fi
grep -q FZ-1403 "$base/refused" || fail "second mount: $(cat "$base/refused")"
touch "$base/stop2"
wait $app || fail "the application failed: $(cat "$base/app2.out")"
kill -KILL "$new"
until_true "the end of the second supervisor" eval "! kill -0 $new 2>/dev/null"
w=$("$FAZT" status --json "$dir" | sed -n 's/.*"worker_pid":[^0-9]*\([0-9]*\).*/\1/p' | head -1)
echo "found another supervisor"

kill -KILL "$w"
until_true "the worker's end" eval "! kill -0 $w 2>/dev/null"
"$FAZT" umount "$dir" || fail "cannot clean a dead mount"
mountpoint -q "$dir" && fail "the dead mount is still there"
umount "$base/side"
echo "outlived its supervisor"

# why a worker cannot start reaches the one who mounts, and nothing stays mounted
mv "$dir/.fazt/db" "$dir/.fazt/db.away"
: >"$dir/.fazt/db"
if "$FAZT" mount --encrypt none "$dir" >"$base/refused" 2>&1; then fail "mounted without its logs"; fi
grep -q "opening the local logs" "$base/refused" || fail "does not say why: $(cat "$base/refused")"
mountpoint -q "$dir" && fail "failed, and yet mounted"
rm "$dir/.fazt/db"
mv "$dir/.fazt/db.away" "$dir/.fazt/db"
echo "told why it cannot start"

# without root: said so
install -m 755 "$FAZT" "$base/fazt"
chmod 755 "$base"
mkdir -m 777 "$base/theirs"
if setpriv --reuid 65534 --regid 65534 --clear-groups "$base/fazt" mount --encrypt none "$base/theirs" >"$base/refused" 2>&1; then
	fail "mounted without root"
fi
grep -q "must run as root" "$base/refused" || fail "without root: $(cat "$base/refused")"
