#!/bin/sh
# make bench: speed and memory beside native, interleaved; then a replica. BENCH_ARGS="--rounds 3 --only WAL" and
# REPLICA_BENCH_ARGS="--only lag" choose.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-/usr/bin/python3}"
"$python" scripts/bench.py ${BENCH_ARGS:-}
exec "$python" scripts/bench_replica.py ${REPLICA_BENCH_ARGS:-}
