#!/usr/bin/python3
"""A scenario's scratch directory leaves no mount behind, also where there is no program yet that could unmount it."""
import os
import subprocess
import sys

LIB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib")
sys.path.insert(0, LIB)
from faztlib import need, scratch  # noqa: E402

FAILS = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from faztlib import scratch
with scratch("fails") as base:
    for name in ("disk", "another disk"):
        os.mkdir(os.path.join(base, name))
        subprocess.run(["mount", "-t", "tmpfs", "fazt-test-scratch", os.path.join(base, name)], check=True)
    raise ValueError("this scenario fails")
"""

with scratch("scratch") as base:
    r = subprocess.run([sys.executable, "-c", FAILS, LIB], stderr=subprocess.PIPE, text=True,
                       env={**os.environ, "B": os.path.join(base, "nothing built"), "TEST_SCRATCH": base})
    need("ValueError: this scenario fails" in r.stderr.splitlines()[-1], "it ended with: %s", r.stderr)
    with open("/proc/self/mounts") as f:
        need(base not in f.read(), "a mount is left")
    need(os.listdir(base) == [], "files are left: %s", os.listdir(base))
print("ok")
