#!/bin/sh
# fuzz.sh SECONDS TARGET... - builds each fuzz target with clang's libFuzzer and lets it run so long from its corpus. What it
# finds is left in build-fuzz/found/<target>; new inputs that reach new code in build-fuzz/corpus/<target>.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
CC=${CC:-clang}
B=${B:-build-fuzz}
command -v "$CC" >/dev/null || { echo "fuzz.sh: there is no $CC: apt-get install clang" >&2; exit 1; }

make -s CC="$CC" B="$B" SANFLAGS="-fsanitize=fuzzer-no-link,address,undefined -fno-omit-frame-pointer" \
	-j"$(nproc)" $(for d in base ltx store fs primary replica cmd; do echo "$B/lib$d.a"; done)
flags="-std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFZ_LIBFUZZER -I. -g -O1 $(pkg-config --cflags libcjson fuse3)"
libs=$(pkg-config --libs fuse3 sqlite3 libcurl libcrypto liblz4 libsodium libisal expat inih libcjson)
bad=0
for t in "$@"; do
	mkdir -p "$B/fuzz" "$B/corpus/$t" "$B/found/$t"
	"$CC" $flags -fsanitize=fuzzer,address,undefined -o "$B/fuzz/$t" "tests/fuzz/$t.c" tests/fuzz/replay.c \
		-Wl,--start-group "$B"/lib*.a -Wl,--end-group $libs -pthread -lm
	echo "== $t, $seconds s"
	"$B/fuzz/$t" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
		-artifact_prefix="$B/found/$t/" "$B/corpus/$t" "tests/fuzz/corpus/$t" 2>"$B/found/$t.log" || {
		tail -30 "$B/found/$t.log"
		bad=1
	}
	grep -E 'stat::(number_of_executed_units|new_units_added)' "$B/found/$t.log" || true
done
exit $bad
