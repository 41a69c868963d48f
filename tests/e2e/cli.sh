#!/bin/bash
# cli.sh - the commands as a user types them: help and man page, exit codes, refusals before anything is mounted, keys,
# configuration, status for monitors, restore in all its forms, inspect, and unmounting what is busy or dead.
set -u
B=${B:-$PWD/build}
FAZT=$B/fazt
W=$(mktemp -d)
HOME=$W # no ~/.aws of the machine
export HOME
failed=0 checks=0

cleanup() {
	local m
	for m in $(awk -v d="$W/" 'index($2, d) == 1 { print $2 }' /proc/self/mounts); do
		"$FAZT" umount "$m" >/dev/null 2>&1 || umount -l "$m" 2>/dev/null
	done
	rm -rf "$W"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

bad() {
	echo "cli.sh: line ${BASH_LINENO[1]}: $*" >&2
	sed 's/^/  | /' "$W/out" "$W/err" >&2
	failed=1
}
# run CODE ARGS...: fazt ARGS gives that exit code; what it printed is in $W/out and $W/err.
run() {
	local want=$1 got
	shift
	checks=$((checks + 1))
	"$FAZT" "$@" >"$W/out" 2>"$W/err" </dev/null
	got=$?
	[ "$got" = "$want" ] || bad "fazt $*: exit $got instead of $want"
	if [ "$want" != 0 ] && [ "${1:-}" != status ] && [ $# -gt 0 ]; then # every failure says what, with a code, and what to do
		grep -qE '\(FZ-[0-9]{4}\)$' "$W/err" || bad "fazt $*: no stable code"
	fi
}
out() { grep -qE -- "$1" "$W/out" || bad "stdout lacks /$1/"; }
err() { grep -qE -- "$1" "$W/err" || bad "stderr lacks /$1/"; }
is() { [ "$1" = "$2" ] || bad "'$1' is not '$2'"; }
json() { /usr/bin/python3 -c 'import json,sys; d=json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$W/out" "$1" || bad "no JSON"; }
not_mounted() { grep -q " $W/" /proc/self/mounts && bad "something is mounted"; }

echo "-- help, and the man pages: made from the same table, none without a page"
run 0 --help
commands=$(sed -n '/^commands:/,/^$/p' "$W/out" | awk 'NF > 1 { print $1 }')
[ "$(echo "$commands" | wc -l)" -ge 11 ] || bad "commands: $commands"
run 2
run 2 frobnicate
run 0 --version
out "^fazt [0-9]+\.[0-9]+\.[0-9]+$"
run 0 version --libraries
out "^sqlite 3"
scripts/man.sh "$FAZT" "$W/man" >"$W/out" 2>"$W/err" || bad "the man pages cannot be made"
for c in $commands; do
	run 0 "$c" --help
	out "^usage: fazt $c"
	out "^examples:"
	out "^  fazt $c"
	help=$(grep -oE '^  +(-[a-zA-Z], )? *--[a-z-]+' "$W/out" | grep -oE -- '--[a-z-]+' | sort)
	man=$(awk -v c="\"fazt $c " '/^\.S[HS] /{ on = index($0, c) > 0 } on && /^\\fB.*\\-\\-/' "$W"/man/*.1 | sed 's/\\-/-/g; s/\\f.//g' |
		grep -oE -- '--[a-z-]+' | sort)
	[ -s "$W/man/fazt-$c.1" ] || [ "$c" = mount ] || bad "there is no page fazt-$c(1)"
	is "$(echo "$help" | grep -vx -- --help)" "$man"
	run 2 "$c" --no-such-option
	err "--no-such-option"
done
keys=$(sed -n 's/^#\{0,1\}\([a-z_]*\) = .*/\1/p; /^#\[/q' docs/fazt.conf.example)
[ "$(echo "$keys" | wc -l)" -gt 40 ] || bad "keys of the configuration: $keys"
is "$(sed -n 's/^\\fB\([a-z_]*\)\\fR = .*/\1/p' "$W/man/fazt.conf.5")" "$keys"
for c in mount umount sync status log verify inspect restore; do
	run 2 "$c"
done

echo "-- make install: what the documents name is where it was put"
make -s B="$B" DESTDIR="$W/dest" PREFIX=/opt/x install >"$W/out" 2>"$W/err" || bad "make install"
for named in $(cd "$W/dest" && grep -rhoE '/(usr|opt)[a-z/]*/share/doc/fazt[a-zA-Z0-9_./-]*' opt/x/share/man opt/x/share/doc/fazt/docs | sed 's/[.]$//' | sort -u); do
	[ -e "$W/dest$named" ] || bad "the documents name $named"
done
doc=$W/dest/opt/x/share/doc/fazt
for page in "$doc"/*.md "$doc"/docs/*.md; do
	for link in $(grep -oE '\]\([a-zA-Z0-9_./-]+[)#]' "$page" | tr -d '](#)'); do
		[ -e "$(dirname "$page")/$link" ] || bad "${page##*/} links to $link"
	done
done
for prefix in "" x "$W/a b"; do
	scripts/install.sh --prefix "$prefix" >"$W/out" 2>"$W/err" && bad "install.sh --prefix '$prefix'"
	err "^install.sh: --prefix"
done

echo "-- output that cannot be written is a failure"
for c in "help" "version" "tune --json" "restore --help"; do
	run 0 $c
	"$FAZT" $c >/dev/full 2>"$W/err"
	is "$c $?" "$c 1"
	err '^fazt [a-z]+: writing the output: No space left on device \(FZ-0028\)$'
done

echo "-- refused before anything is mounted"
mkdir "$W/app"
conf() { printf '%b' "$1" >"$W/conf"; }
conf '[mount]\nlog_maxx = 1G\n'
run 2 mount --config "$W/conf" "$W/app"
err "$W/conf:2: unknown key 'log_maxx'"
conf '[target a]\nurl = dir:/x\nship_interval = soon\n'
run 2 mount --config "$W/conf" "$W/app"
err "$W/conf:3: ship_interval: 'soon'"
conf "[encrypt]\nrecipients = $W/none\n"
run 2 mount --config "$W/conf" "$W/app"
err "$W/conf:2: recipients: cannot read the key file"
run 2 mount --config "$W/none" "$W/app"
run 2 mount --recipient age1bad "$W/app"
run 2 mount --target ftp://x "$W/app"
run 2 mount --target dir:relative "$W/app"
run 2 mount --encrypt rot13 "$W/app"
run 2 mount --log-level loud "$W/app"
mkdir "$W/app/sub" # what the worker would need of the mount that it serves
ln -s app/sub "$W/to-app"
follower=$("$FAZT" keygen -o "$W/app/host.key")
printf '[default]\naws_access_key_id = key\naws_secret_access_key = secret\n' >"$W/app/file"
chmod 600 "$W/app/file"
for inside in "target|url = dir:$W/app" "target|url = dir:$W/app/sub/not/yet" "target|url = dir:$W/to-app/b" \
	"target|url = s3://bucket/p?region=r\ncredentials_file = $W/to-app/../file" "link|host_key = $W/app/host.key\nlisten = 127.0.0.1:0\nfollower = $follower" \
	"mount|alert_url = http://127.0.0.1:1/\nalert_secret = $W/app/file"; do
	section=${inside%%|*}
	conf "[encrypt]\nencrypt = none\n[${section/target/target a}]\n${inside#*|}\n"
	run 2 mount --config "$W/conf" "$W/app"
	err "lies below the mount $W/app itself"
	run 2 run --config "$W/conf" "$W/app" -- touch "$W/ran"
done
[ -e "$W/ran" ] && bad "a command ran without its mount"
rm -r "$W/app/sub" "$W/app/file" "$W/app/host.key" "$W/to-app"
FAZT_LOG_MAX=lots run 2 mount "$W/app"
err "FAZT_LOG_MAX: log_max: 'lots'"
run 1 mount "$W/nothing"
run 1 umount "$W/app"
err "not mounted by fazt \(FZ-1402\)"
run 1 status "$W/app"
run 1 sync --wait "$W/app"
run 2 sync --timeout soon "$W/app"
not_mounted
[ -e "$W/app/.fazt" ] && bad "a refused mount left a state directory"
exec 9>"$W/app/open.db"
run 1 mount "$W/app"
err "open.db"
exec 9>&-
rm "$W/app/open.db"
not_mounted

echo "-- keys"
run 0 keygen -o "$W/key"
is "$(stat -c %a "$W/key")" 600
recipient=$(cat "$W/out")
is "${recipient:0:4}" age1
run 1 keygen -o "$W/key"
err "FZ-1205"
run 2 keygen
is "$(age-keygen -y "$W/key")" "$recipient"
mkdir "$W/other"
run 0 init "$W/other"
out "identity \(secret\):  $W/other/.fazt/identity"
is "$(stat -c %a "$W/other/.fazt/identity")" 600
is "$(stat -c %a "$W/other/.fazt")" 700
run 1 init "$W/other"
run 2 init --remove "$W/other"
run 0 init --export "$W/moved" --remove "$W/other"
is "$(age-keygen -y "$W/moved")" "$(cat "$W/other/.fazt/recipient")"
[ -e "$W/other/.fazt/identity" ] && bad "the identity is still there"
run 3 init --export "$W/moved2" "$W/other"

echo "-- a mount: status, log, restore"
run 0 mount --target "dir:$W/store" --recipient "$recipient" "$W/app"
out "ships to dir:$W/store \(encrypted\)"
run 1 mount "$W/app"
err "FZ-1403"
[ -e "$W/app/.fazt/identity" ] && bad "the state directory shows"
sqlite3 "$W/app/a.db" "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)" >/dev/null
for i in 2 3 4; do sqlite3 "$W/app/a.db" "INSERT INTO t VALUES ($i)"; done
run 0 sync "$W/app"
run 0 sync --wait --timeout 60 "$W/app"
run 0 status "$W/app"
out "a.db: txid"
run 0 status --json "$W/app"
txid=$(json 'd["databases"][0]["txid"]')
is "$(json 'd["targets"][0]["txid"]')" "$txid"
is "$(json '[type(d["targets"][0][k]).__name__ for k in ("lag_seconds", "lag_bytes")]')" "['int', 'int']"
is "$(json 'd["targets"][0]["last_error"] or ""')" ""
is "$(json 'd["databases"][0]["name"] + str(len(d["databases"][0]["checksum"])) + d["databases"][0]["time"][-1]')" "a.db16Z"
is "$(json 'd["targets"][0]["name"]')" "dir:$W/store"
is "$(json 'd["restarts"]')" 0
kill -0 "$(json 'd["worker_pid"]')" || bad "worker_pid is no process"
sql() { sqlite3 "$1" "SELECT group_concat(x) FROM t"; }
for source in "$W/app/a.db" "dir:$W/store/a.db"; do
	run 0 log --json -i "$W/key" "$source"
	is "$(json 'd[-1]["txid"]')" "$txid"
	is "$(json '[e["txid"] for e in d] == list(range(1, d[-1]["txid"] + 1))')" True
	is "$(json 'sorted(k for k in d[0] if k in ("txid", "time", "pages", "bytes"))')" "['bytes', 'pages', 'time', 'txid']"
	third=$(json 'd[-2]["time"]')
	run 0 log -i "$W/key" "$source"
	is "$(wc -l <"$W/out")" "$txid"
	run 0 restore "$source" -i "$W/key" -o "$W/r"
	out "^commit $txid of "
	is "$(sql "$W/r")" 1,2,3,4
	run 1 restore "$source" -i "$W/key" -o "$W/r"
	err "FZ-1205"
	run 0 restore "$source" -i "$W/key" --at "$third" -o "$W/r" --force --json
	is "$(json 'd["txid"]')" $((txid - 1))
	is "$(json 'd["distance_ms"]')" 0
	is "$(sql "$W/r")" 1,2,3
	run 0 restore "$source" -i "$W/key" --txid $((txid - 2)) -o "$W/r" --force
	is "$(sql "$W/r")" 1,2
	rm "$W/r"
	run 0 restore "$source" -i "$W/key" --dry-run --latest
	[ -e "$W/r" ] && bad "--dry-run wrote a file"
	run 3 restore "$source" -i "$W/key" --at "4000 days ago" -o "$W/r"
	err "FZ-1204"
	run 3 restore "$source" -i "$W/key" --txid 100000 -o "$W/r"
	run 3 restore "${source%a.db}none.db" -i "$W/key" -o "$W/r"
	[ -e "$W/r" ] && bad "a failed restore left a file"
	run 0 verify --full "$source" -i "$W/key"
	run 0 verify --json "$source" -i "$W/key"
	is "$(json 'd["last_txid"]')" "$txid"
done
run 2 restore "$W/app/a.db" --at yesterdayish -o "$W/r"
run 2 restore "$W/app/a.db" --at now --latest -o "$W/r"
run 2 restore "$W/app/a.db" --txid -1 -o "$W/r"
run 2 restore "$W/app/a.db"
run 2 restore "dir:$W/store/a.db" -i "$W/none" -o "$W/r"
err "FZ-1003"
run 1 restore "dir:$W/store/a.db" -i "$W/moved" -o "$W/r"
err "FZ-1201"
run 0 verify "dir:$W/store/a.db"
out "structure only"
run 0 verify --live "$W/app"
out "0 differ"
run 0 verify --live --json "$W/app"
is "$(json 'd["differences"]')" 0
conf "[target away]\nurl = dir:$W/store\n[encrypt]\nidentity = $W/key\n"
run 0 restore --config "$W/conf" away/a.db -o "$W/r"
is "$(sql "$W/r")" 1,2,3,4
rm "$W/r"

echo "-- in place, with a reader that stays"
counts=$(/usr/bin/python3 - "$W/app/a.db" "$FAZT" $((txid - 2)) <<'PY'
import sqlite3, subprocess, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
count = lambda: con.execute("SELECT count(*) FROM t").fetchone()[0]
con.execute("BEGIN")
before = count()
subprocess.run([sys.argv[2], "restore", "--in-place", sys.argv[1], "--txid", sys.argv[3]], check=True, stdout=subprocess.DEVNULL)
inside = count()
con.execute("COMMIT")
print(before, inside, count())
PY
)
is "$counts" "4 4 2"
is "$(sql "$W/app/a.db")" 1,2
run 0 status --json "$W/app"
is "$(json 'd["databases"][0]["txid"]')" $((txid + 1))

echo "-- inspect"
run 0 sync --wait --timeout 60 "$W/app"
pack=$(find "$W/store/a.db" -name '*.pack.age' | sort | head -1)
run 0 inspect "$pack" -i "$W/key"
out "^verified +yes"
run 0 inspect --json --pages "$pack" -i "$W/key"
is "$(json 'd["kind"] + str(d["encrypted"]) + str(d["transactions"][0]["min_txid"])')" packTrue1
run 0 inspect "$pack"
out "^kind +age"
out "^verified +no"
age -d -i "$W/key" "$pack" >"$W/plain"
run 0 inspect "$W/plain"
cp "$pack" "$W/damaged"
printf x | dd of="$W/damaged" bs=1 seek=$(($(stat -c %s "$pack") - 40)) conv=notrunc 2>/dev/null
run 4 inspect "$W/damaged" -i "$W/key"
printf x | dd of="$W/plain" bs=1 seek=200 conv=notrunc 2>/dev/null
run 4 inspect "$W/plain"
run 3 inspect "$W/none"
echo rubbish >"$W/rubbish"
run 4 inspect "$W/rubbish"

echo "-- a damaged store"
cp -r "$W/store" "$W/store2"
printf x | dd of="$W/store2/${pack#"$W"/store/}" bs=1 seek=$(($(stat -c %s "$pack") - 40)) conv=notrunc 2>/dev/null
run 4 verify "dir:$W/store2/a.db" -i "$W/key"

echo "-- unmounting"
sqlite3 "$W/app/a.db" "SELECT 1" "SELECT count(*) FROM t" ".shell $FAZT umount $W/app >$W/out 2>$W/err; echo \$? >$W/code" >/dev/null
is "$(cat "$W/code")" 1
err "sqlite3.*a\.db|a\.db.*sqlite3"
grep -q " $W/app " /proc/self/mounts || bad "a busy mount is gone"
run 0 umount --wait "$W/app"
not_mounted
is "$(sql "$W/app/a.db")" 1,2
run 0 log "$W/app/a.db"
is "$(wc -l <"$W/out")" $((txid + 1))
"$FAZT" log --json "$W/app/a.db" >/dev/full 2>"$W/err"
is $? 1
err 'No space left'
run 0 restore "$W/app/a.db" -o "$W/r"
is "$(sql "$W/r")" 1,2

echo "-- DIR/DATABASE: its log as far as it reaches, the target for the rest"
mv "$W/store" "$W/gone"
run 0 restore "$W/app/a.db" --at "$third" -o "$W/r" --force
out "from the log of $W/app/a.db"
is "$(sql "$W/r")" 1,2,3
run 0 log "$W/app/a.db"
is "$(wc -l <"$W/out")" $((txid + 1))
mv "$W/gone" "$W/store"
mv "$W/app/.fazt/db" "$W/gone"
run 0 restore "$W/app/a.db" -i "$W/key" --at "$third" -o "$W/r" --force
out "from dir:$W/store"
is "$(sql "$W/r")" 1,2,3
run 0 log -i "$W/key" "$W/app/a.db"
is "$(wc -l <"$W/out")" $((txid + 1))
run 1 restore "$W/app/a.db" -o "$W/r" --force
err "FZ-1201"
mv "$W/gone" "$W/app/.fazt/db"

echo "-- a key is made when there is none, told, and works"
mkdir "$W/new"
run 0 mount --target "dir:$W/new-store" "$W/new"
out "identity \(secret\): $W/new/.fazt/identity"
out "fazt init --export KEY --remove $W/new"
sqlite3 "$W/new/b.db" "CREATE TABLE t(x); INSERT INTO t VALUES ('secret text')"
run 0 sync --wait --timeout 60 "$W/new"
grep -rqs "secret text" "$W/new-store" && bad "plain text in the store"
run 0 status "$W/new"
out "note: the secret key lies on this machine"
run 0 init --export "$W/new-key" --remove "$W/new"
run 0 status "$W/new"
grep -q "secret key" "$W/out" && bad "the note is still there"
run 0 restore "dir:$W/new-store/b.db" -i "$W/new-key" -o "$W/b"
is "$(sql "$W/b")" "secret text"

echo "-- a target that cannot be written: the monitor sees it"
run 0 umount "$W/new"
run 0 mount --encrypt none --target "dir:$W/plain-store" "$W/new"
out "NOT encrypted"
sqlite3 "$W/new/b.db" "INSERT INTO t VALUES (2)"
run 0 sync --wait --timeout 60 "$W/new"
run 0 verify "dir:$W/plain-store/b.db"
run 0 umount "$W/new"
: >"$W/file"
conf "[encrypt]\nencrypt = none\n[target broken]\nurl = dir:$W/file/store\nlag_max = 1ms\n"
run 0 mount --config "$W/conf" "$W/new"
sqlite3 "$W/new/b.db" "INSERT INTO t VALUES (3)"
run 1 sync --wait --timeout 1 "$W/new"
run 1 status "$W/new"
out "problem: target broken"
run 1 umount --wait --timeout 1 "$W/new"
grep -q " $W/new " /proc/self/mounts || bad "umount --wait went although the target holds nothing"
run 0 umount "$W/new"

echo "-- a dead mount is removed"
run 0 mount "$W/new"
run 0 status --json "$W/new"
kill -9 "$(json 'd["supervisor_pid"]')" "$(json 'd["worker_pid"]')"
run 0 umount "$W/new"
not_mounted
is "$(sql "$W/new/b.db" | tail -1)" "secret text,2,3"

echo "-- foreground"
"$FAZT" mount --foreground "$W/new" >"$W/fg" 2>&1 &
pid=$!
for i in $(seq 200); do
	"$FAZT" status "$W/new" >/dev/null 2>&1 && break
	kill -0 $pid 2>/dev/null || break
	sleep 0.05
done
sqlite3 "$W/new/b.db" "INSERT INTO t VALUES (4)"
kill -TERM $pid
wait $pid
is "$?" 0
not_mounted

echo "$checks runs of fazt"
exit $failed
