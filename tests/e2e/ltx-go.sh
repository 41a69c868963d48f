#!/bin/sh
# ltx-go.sh - the official LTX tool judges what fazt's encoder and merge write: it must verify and list every file,
# apply each chain of commits onto nothing so that SQLite's own file comes out, and agree about its checksum.
# Files: unit/test_ltx_sqlite (real SQLite commits). Judge: ltx (go install github.com/superfly/ltx/cmd/ltx@v0.5.3).
set -eu
B=${B:-build}
PATH=$PATH:/usr/local/bin:/usr/local/go/bin:$HOME/go/bin
if ! command -v ltx >/dev/null; then
	echo "ltx-go.sh: no ltx program: go install github.com/superfly/ltx/cmd/ltx@v0.5.3" >&2
	exit 1
fi
W=$(mktemp -d)
trap 'rm -rf "$W"' EXIT
trap 'exit 1' INT TERM

fail() {
	echo "ltx-go.sh: $*" >&2
	exit 1
}

# apply HISTORY NAME-OF-THE-STATE FILE...: onto nothing
apply() {
	h=$1 want=$2
	shift 2
	rm -f "$W/db"
	ltx apply -db "$W/db" "$@" >"$W/out" 2>&1 || fail "$h: apply $*: $(cat "$W/out")"
	cmp "$W/db" "$W/files/$h/after-$want.db" || fail "$h: $* does not give the database after $want"
}

mkdir "$W/files"
"$B/unit/test_ltx_sqlite" "$W/files" >"$W/out" 2>&1 || fail "$(cat "$W/out")"

n=0
last=000000000000000c before=000000000000000b
for dir in "$W"/files/*/; do
	h=$(basename "$dir")
	for f in "$dir"*.ltx; do
		ltx verify "$f" >"$W/out" 2>&1 || fail "$h: verify $f: $(cat "$W/out")"
		grep -qx ok "$W/out" || fail "$h: verify $f said: $(cat "$W/out")"
		ltx dump "$f" >/dev/null || fail "$h: dump $f"
		# the trailer's checksum, and the one the tool computes from SQLite's file
		txid=$(ltx list "$f" | awk 'NR == 2 { print $2 }')
		listed=$(ltx list "$f" | awk 'NR == 2 { print $6 }')
		case $(basename "$f") in *"-$txid.ltx") ;; *) fail "$h: $f lists max TXID $txid" ;; esac
		sum=$(ltx checksum "$dir/after-$txid.db")
		[ "$listed" = "$sum" ] || fail "$h: $f has post-apply checksum $listed, the database $sum"
		n=$((n + 1))
	done
	# commit after commit (the tool reads the old database in pages of the new size: so not over a changed page size)
	set --
	for f in "$dir"0*.ltx; do
		txid=$(basename "$f" .ltx | cut -d- -f2)
		[ "$h" = page-size-changes ] && [ "$txid" = $last ] && break
		set -- "$@" "$f"
		apply "$h" "$txid" "$@"
	done
	apply "$h" $last "$dir/m-0000000000000001-$last.ltx"
	apply "$h" $before "$dir/m-0000000000000001-$before.ltx"
	apply "$h" $before "$dir/0000000000000001-0000000000000001.ltx" "$dir/0000000000000002-0000000000000002.ltx" \
		"$dir/m-0000000000000003-$before.ltx"
	[ "$h" = page-size-changes ] && continue
	apply "$h" $last "$dir/m-0000000000000001-$before.ltx" "$dir/$last-$last.ltx"
done
[ $n -eq 60 ] || fail "$n files judged, not 60"

# the judge does refuse what is wrong
f=$W/files/page-512/m-0000000000000001-$last.ltx
size=$(wc -c <"$f")
with='\377'
[ "$(tail -c 1 "$f" | od -An -tu1 | tr -d ' ')" = 255 ] && with='\376'
# shellcheck disable=SC2059 # an octal escape
printf "$with" | dd of="$f" bs=1 seek=$((size - 1)) conv=notrunc 2>/dev/null
if ltx verify "$f" >"$W/out" 2>&1 && grep -qx ok "$W/out"; then
	fail "the judge takes a damaged file"
fi
echo "ltx-go.sh: $n files verified and applied by the official tool"
