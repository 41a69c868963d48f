#!/bin/sh
# check.sh - installs what the tests need, builds, and runs every test. Works again and again; leaves no mount and no process.
set -eu
cd "$(dirname "$0")/.."

if [ ! -c /dev/fuse ]; then
	echo "check.sh: there is no /dev/fuse here, and most tests mount." >&2
	echo "  on a machine:     modprobe fuse   (as root)" >&2
	echo "  in a container:   start it with --device /dev/fuse --cap-add SYS_ADMIN" >&2
	exit 1
fi
echo "== packages"
scripts/deps.sh test
jobs=$(nproc)
echo "== build"
make -s -j"$jobs" all unit helpers fuzz-replay
echo "== lint"
make -s lint
echo "== tests"
make -s check
