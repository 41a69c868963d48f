#!/bin/sh
# quickstart.sh - see fazt work: install what building needs, build, mount a temporary directory, run the sqlite3 shell on
# it, ship with encryption to a directory, delete rows, restore the moment before. Leaves nothing behind, also on failure.
# FAZT=/path/to/fazt skips installing and building.
set -eu
cd "$(dirname "$0")/.."

W=
step() {
	printf '\n== %s\n' "$*"
}
show() {
	printf '$ %s\n' "$*"
	"$@"
}
fail() {
	printf '\nquickstart.sh: %s\n' "$*" >&2
	exit 1
}
cleanup() {
	code=$?
	trap - EXIT
	if [ -n "$W" ]; then
		for m in "$W/second" "$W/app"; do
			if grep -q " $m " /proc/self/mounts; then
				"$FAZT" umount "$m" || { umount "$m" 2>/dev/null || fusermount3 -u "$m" 2>/dev/null || true; }
			fi
		done
		rm -rf "$W"
	fi
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -c /dev/fuse ]; then
	echo "quickstart.sh: there is no /dev/fuse here, and fazt cannot mount without it." >&2
	echo "  on a machine:     modprobe fuse   (as root)" >&2
	echo "  in a container:   start it with --device /dev/fuse --cap-add SYS_ADMIN" >&2
	exit 1
fi

if [ -z "${FAZT:-}" ]; then
	step "1. Install what building needs"
	scripts/deps.sh build
	echo "everything is there"
	step "2. Build"
	make -s -j"$(nproc)" || fail "the build failed"
	FAZT=$PWD/build/fazt
fi
show "$FAZT" version
W=$(mktemp -d)
mkdir "$W/app"

step "3. A key, and a mount over a directory"
echo '$ fazt keygen -o backup.key'
recipient=$("$FAZT" keygen -o "$W/backup.key")
echo "$recipient"
show "$FAZT" mount --target "dir:$W/backup" --recipient "$recipient" "$W/app"

step "4. An unmodified program: the sqlite3 shell"
sql() {
	printf '$ sqlite3 app.db "%s"\n' "$1"
	sqlite3 "$W/app/app.db" "$1"
}
sql "PRAGMA journal_mode=WAL"
sql "CREATE TABLE orders(id INTEGER PRIMARY KEY, what TEXT, at TEXT DEFAULT current_timestamp)"
i=1
while [ $i -le 5 ]; do
	sqlite3 "$W/app/app.db" "INSERT INTO orders(what) VALUES ('order $i')"
	i=$((i + 1))
done
sql "SELECT count(*) FROM orders"

step "5. Ship it, encrypted"
show "$FAZT" sync --wait --timeout 30 "$W/app"
show "$FAZT" status "$W/app"
if grep -rqs "order 3" "$W/backup"; then
	fail "the backup holds plain text"
fi
echo "the backup holds no plain text; its files:"
(cd "$W/backup" && find . -type f | sort | head -5)

step "6. An accident"
before=$("$FAZT" log --json "$W/app/app.db" | sed -n 's/.*"txid":\([0-9]*\),.*/\1/p' | tail -1)
# A moment after the last order and before the accident, as a person would name it.
sleep 0.05
moment=$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)
sleep 0.05
sql "DELETE FROM orders"
sql "SELECT count(*) FROM orders"
show "$FAZT" sync --wait --timeout 30 "$W/app"

step "7. The moment before"
show "$FAZT" log "dir:$W/backup/app.db" -i "$W/backup.key"
show "$FAZT" restore "dir:$W/backup/app.db" -i "$W/backup.key" --at "$moment" -o "$W/restored.db"
restored=$(sqlite3 "$W/restored.db" "SELECT count(*) FROM orders")
echo "restored rows: $restored (txid $before)"
[ "$restored" = 5 ] || fail "expected 5 rows"
[ "$(sqlite3 "$W/restored.db" "PRAGMA integrity_check")" = ok ] || fail "integrity_check failed"
show "$FAZT" verify "dir:$W/backup/app.db" -i "$W/backup.key"

step "8. Back in place, while the mount serves"
show "$FAZT" restore --in-place "$W/app/app.db" --at "$moment"
sql "SELECT count(*) FROM orders"
[ "$(sqlite3 "$W/app/app.db" "SELECT count(*) FROM orders")" = 5 ] || fail "expected 5 rows"

step "9. A replica, which would be on a second host: live, read-only, and it can take over"
show "$FAZT" umount "$W/app"
mkdir "$W/second"
one=$("$FAZT" keygen -o "$W/one.key")
two=$("$FAZT" keygen -o "$W/two.key")
# a free port: the kernel's choice, as this host tells it
"$FAZT" mount --target "dir:$W/backup" --recipient "$recipient" --listen 127.0.0.1:0 --identity "$W/one.key" --follower "$two" "$W/app"
at=$("$FAZT" status --json "$W/app" | sed -n 's/.*"link_address":[^"]*"\([^"]*\)".*/\1/p')
show "$FAZT" mount --role replica --primary "$at" --primary-key "$one" --identity "$W/two.key" "$W/second"
sql "INSERT INTO orders(what) VALUES ('seen on the replica')"
txid=$("$FAZT" log --json "$W/app/app.db" | sed -n 's/.*"txid":\([0-9]*\),.*/\1/p' | tail -1)
show "$FAZT" wait --timeout 20 "$W/second/app.db" "$txid"
seen=$(sqlite3 "$W/second/app.db" "SELECT what FROM orders ORDER BY id DESC LIMIT 1")
echo "on the replica: $seen"
[ "$seen" = "seen on the replica" ] || fail "the replica shows something else"
if sqlite3 "$W/second/app.db" "DELETE FROM orders" 2>"$W/refused"; then
	fail "the replica was written to"
fi
cat "$W/refused"
show "$FAZT" umount "$W/second"

step "10. Unmount: the files lie where they always did"
show "$FAZT" umount "$W/app"
sql "SELECT group_concat(what) FROM orders"

printf '\nquickstart.sh: all steps worked\n'
