#!/bin/sh
# Hours of randomized kills: make torture TORTURE_SECONDS=7200. One minute of the same runs in make check.
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-/usr/bin/python3}" tests/e2e/torture.py --seconds "${TORTURE_SECONDS:-3600}" "$@"
