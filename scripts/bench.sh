#!/bin/sh
# make bench: speed and memory beside native, interleaved. BENCH_ARGS="--rounds 3 --only WAL" chooses.
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-/usr/bin/python3}" scripts/bench.py ${BENCH_ARGS:-}
