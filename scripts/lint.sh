#!/bin/sh
# lint.sh [FOLDER...] - the rules that a compiler does not check: format, each header alone, include order, scripts, and that
# the tests which comments name exist.
set -eu
cd "$(dirname "$0")/.."
bad=0
say() {
	echo "lint: $*"
	bad=1
}

# format, as clang-format 14 (Debian 12) sees it; other versions differ in details and cannot judge
if ! command -v clang-format >/dev/null; then
	say "there is no clang-format: scripts/deps.sh test"
elif ! clang-format --version | grep -q 'version 14\.'; then
	echo "lint: format not checked: needs clang-format 14"
elif ! clang-format --dry-run -Werror $(find base ltx store fs primary replica cmd tests -name '*.[ch]') 2>/tmp/lint.$$; then
	head -20 /tmp/lint.$$
	say "the format differs: clang-format -i FILE"
fi
rm -f /tmp/lint.$$

# each header compiles alone
flags="-std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -I. -Wall -Wextra -Wno-unused-parameter $(pkg-config --cflags fuse3 libcjson)"
for h in base/*.h ltx/*.h store/*.h fs/*.h primary/*.h replica/*.h cmd/*.h; do
	[ -f "$h" ] || continue
	printf '#include "%s"\ntypedef int nothing;\n' "$h" | ${CC:-cc} $flags -fsyntax-only -x c - || say "$h does not compile alone"
done

# include order: a folder includes itself and what lies below it
allowed() {
	case $1 in
	base) echo "base" ;;
	ltx) echo "base ltx" ;;
	store) echo "base ltx store" ;;
	fs) echo "base ltx fs" ;;
	primary) echo "base ltx store primary" ;;
	replica) echo "base ltx store replica" ;;
	cmd) echo "base ltx store fs primary replica cmd" ;;
	esac
}
for d in base ltx store fs primary replica cmd; do
	ok=" $(allowed $d) "
	grep -Hn '^#include "' $d/*.[ch] 2>/dev/null | sed 's/^\([^:]*:[0-9]*\):#include "\([^"]*\)".*/\1 \2/' >/tmp/lint.$$ || true
	while read -r where what; do
		case $what in
		*/*) from=${what%%/*} ;;
		*) from="?" ;;
		esac
		case $ok in
		*" $from "*) ;;
		*) say "$where includes $what: $d may include$ok only" ;;
		esac
	done </tmp/lint.$$
done
rm -f /tmp/lint.$$

# tests that comments and documents name exist
for t in $(grep -rhoE 'tests/(unit|e2e|fuzz|lib|system)/[A-Za-z0-9_./-]*[A-Za-z0-9_]\.(c|sh|py|h)\b' --include='*.[ch]' --include='*.sh' \
	--include='*.py' --include='*.md' base ltx store fs primary replica cmd tests docs scripts README.md 2>/dev/null | sort -u); do
	[ -e "$t" ] || say "$t is named but does not exist"
done

# a .c includes its own header first
for c in base/*.c ltx/*.c store/*.c fs/*.c primary/*.c replica/*.c cmd/*.c; do
	h=${c%.c}.h
	[ -f "$h" ] || continue
	first=$(grep -m1 '^#include "' "$c" | sed 's/#include "\(.*\)".*/\1/')
	[ "$first" = "$h" ] || say "$c includes $first before its own $h"
done

# shell scripts parse
for s in scripts/*.sh scripts/debian/p* tests/e2e/*.sh .ci/run; do
	[ -f "$s" ] || continue
	case $(head -1 "$s") in
	*bash*) bash -n "$s" || say "$s does not parse" ;;
	*) sh -n "$s" || say "$s does not parse" ;;
	esac
done
[ $bad = 0 ] && echo "lint: clean"
exit $bad
