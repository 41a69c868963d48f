#!/bin/bash
# SQLite's own TCL test suite, natively and with its files on a fazt mount, and the difference.
#   scripts/sqlite-tcl.sh [--all | FILE.test...]     default: the list in tests/sqlite-tcl.list
# Debian's source package of the installed SQLite builds `testfixture` (kept in $SQLITE_TCL_DIR for the next run, default
# build/sqlite-tcl). Prints a line per file that differs and a summary; exit 1 when a file passes natively but not on the
# mount. Each file runs in its own process and directory, with a time limit.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD
build=${B:-$top/build}
fazt=$build/fazt
work=${SQLITE_TCL_DIR:-$build/sqlite-tcl}
limit=${SQLITE_TCL_LIMIT:-300}

fetch_and_build() {
	mkdir -p "$work/apt/lists/partial"
	local uri suite
	suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
	uri=$(grep -rhoE 'https?://[^ ]*/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1)
	cat >"$work/apt/src.list" <<-LIST
		deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri:-http://deb.debian.org/debian} $suite main
	LIST
	local opts=(-o "Dir::Etc::sourcelist=$work/apt/src.list" -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=$work/apt/lists"
		-o APT::Sandbox::User=root)
	apt-get -qq "${opts[@]}" update
	(cd "$work" && apt-get -qq "${opts[@]}" source --download-only sqlite3 && dpkg-source --no-check -x sqlite3_*.dsc src)
	command -v tclsh >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -qq install -y tcl tcl-dev
	(cd "$work/src" && { ./configure --disable-static >configure.log 2>&1 || { tail -20 configure.log; exit 1; }; } &&
		nice make -j2 testfixture >make.log 2>&1) || { tail -20 "$work/src/make.log"; exit 1; }
}

[ -x "$work/src/testfixture" ] || [ -x "$work/src/.libs/testfixture" ] || { echo "building SQLite's testfixture (a few minutes)"; fetch_and_build; }
fixture=$work/src/testfixture
[ -x "$fazt" ] || { echo "$fazt is missing: run make first" >&2; exit 1; }

if [ "${1:-}" = --all ]; then
	mapfile -t files < <(cd "$work/src/test" && ls ./*.test | sed 's|^\./||' | grep -vE '^(all|full|quick|veryquick|extraquick|permutations|soak|memsubsys.*|mallocAll|misuse|fts3rnd|corruptL|sessionfuzz|fuzz_malloc|speed.*|savepoint6|tt3_.*|threadtest.*)\.test$')
elif [ $# -gt 0 ]; then
	files=("$@")
else
	mapfile -t files < <(grep -v '^#' tests/sqlite-tcl.list)
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/fazt-tcl-XXXXXX")
mnt=$scratch/mnt
cleanup() {
	"$fazt" umount "$mnt" >/dev/null 2>&1 || true
	mountpoint -q "$mnt" && umount -l "$mnt"
	rm -rf "$scratch"
}
trap cleanup EXIT
mkdir -p "$scratch/native" "$mnt"
"$fazt" mount --encrypt none --target "dir:$scratch/store" "$mnt" >"$scratch/mount.log" 2>&1 || { cat "$scratch/mount.log"; exit 1; }

# run_one DIR FILE: prints "errors/tests" of the file, or what went wrong
run_one() {
	local dir=$1/${2%.test} out
	mkdir -p "$dir" && cd "$dir"
	out=$(timeout "$limit" "$fixture" "$work/src/test/$2" </dev/null 2>&1) || true
	cd "$top"
	printf '%s\n' "$out" >"$scratch/$(basename "$1")-$2.log"
	printf '%s\n' "$out" | grep -oE '^[0-9]+ errors out of [0-9]+ tests' | tail -n 1 || true
	rm -rf "$dir"
}

same=0 differ=0 native_bad=0
for f in "${files[@]}"; do
	a=$(run_one "$scratch/native" "$f")
	b=$(run_one "$mnt" "$f")
	if [ "$a" = "$b" ] && [ -n "$a" ]; then
		same=$((same + 1))
	elif [ "${a%% *}" != 0 ] && [ "${b%% *}" != 0 ]; then
		native_bad=$((native_bad + 1))
		echo "both fail: $f: native ${a:-died}, mount ${b:-died}"
	elif [ "${b%% *}" = 0 ]; then
		same=$((same + 1)) # as many or more pass on the mount
	else
		differ=$((differ + 1))
		echo "DIFFERS: $f: native ${a:-died}, mount ${b:-died}"
		grep -E '^! |^Error|expected|got' "$scratch/mnt-$f.log" | head -n 6 || true
	fi
done
echo "SQLite's tests: ${#files[@]} files, $same the same on the mount, $differ differ, $native_bad fail natively too"
[ "$differ" = 0 ]
