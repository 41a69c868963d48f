#!/bin/sh
# Hours of randomized kills: make torture TORTURE_SECONDS=7200, a half of them on one host and a half on three (a primary and its
# replicas). A short run of the first is in make check.
set -eu
cd "$(dirname "$0")/.."
half=$((${TORTURE_SECONDS:-3600} / 2))
python=${PYTHON:-/usr/bin/python3}
bad=0
"$python" tests/e2e/torture.py --seconds "$half" "$@" || bad=1
"$python" tests/e2e/replica-torture.py --seconds "$half" "$@" || bad=1
exit $bad
