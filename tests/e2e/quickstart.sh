#!/bin/sh
# quickstart.sh - what scripts/quickstart.sh shows works with the built binary, twice, and leaves nothing behind.
set -eu
B=${B:-$PWD/build}
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
for i in 1 2; do
	FAZT=$B/fazt TMPDIR=$T scripts/quickstart.sh
	[ -z "$(ls -A "$T")" ] || { echo "left behind: $(ls -A "$T")"; exit 1; }
done
