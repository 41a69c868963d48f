#!/usr/bin/python3
"""How fast a replica is: two mounts on this machine, joined over loopback. Timing is no test: it prints, and fails on nothing but errors.

usage: bench_replica.py [--seconds S] [--megabytes M] [--json FILE]"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "lib"))
from cluster import Host, caught_up  # noqa: E402
from faztlib import BUILD, fazt, scratch, wait_for  # noqa: E402

PROGRAM = os.path.join(BUILD, "e2e", "bench_replica")
APP = os.path.join(BUILD, "e2e", "bench_app")


def start(*args):
    return subprocess.Popen([PROGRAM, *map(str, args)], stdout=subprocess.PIPE, text=True)


def result(p):
    out = p.communicate()[0].split()
    if p.returncode:
        sys.exit("bench_replica ended with %d" % p.returncode)
    return [float(x) for x in out]


class Pair:
    def __init__(self, base):
        self.base = base
        self.p, self.r = Host(base, "one"), Host(base, "two")
        self.p.primary(self.r).start()
        self.r.replica_of(self.p).start()
        self.db = [os.path.join(h.dir, "lag.db") for h in (self.p, self.r)]
        self.times = os.path.join("/dev/shm", "fazt-bench-%d" % os.getpid())

    def settle(self):
        caught_up(self.p, self.r, "lag.db", 120)

    def write(self, rate, seconds):
        with open(self.times, "wb"):
            pass
        return start("write", self.db[0], rate, seconds, self.times)

    def lag(self, rate, seconds):
        w = self.write(rate, seconds)
        time.sleep(0.3)
        v = start("watch", self.db[1], seconds - 0.3, self.times)
        return result(v), result(w)[0]

    def sustained(self, seconds):
        """What is applied a second while the primary commits as fast as it can, and how far behind it ends."""
        w = self.write(0, seconds)
        time.sleep(1)
        a, t0 = self.r.position("lag.db")[0], time.monotonic()
        time.sleep(seconds - 2)
        b, t1 = self.r.position("lag.db")[0], time.monotonic()
        rate = result(w)[0]
        behind = time.monotonic()
        self.settle()
        return (b - a) / (t1 - t0), rate, time.monotonic() - behind

    def reads(self, seconds):
        idle = result(start("read", self.db[1], seconds))
        w = self.write(0, seconds + 1)
        time.sleep(0.5)
        busy = result(start("read", self.db[1], seconds))
        result(w)
        self.settle()
        return idle, busy

    def close(self):
        self.r.cleanup()
        self.p.cleanup()
        if os.path.exists(self.times):
            os.unlink(self.times)


def fresh(base, megabytes):
    """A new replica of a large database until it shows everything, against cp of the file."""
    p, r = Host(base, "big-one"), Host(base, "big-two")
    path = os.path.join(p.dir, "big.db")
    subprocess.run([APP, "fill", path, "WAL", "NORMAL", str(megabytes), "0"], check=True, stdout=subprocess.DEVNULL)
    with p, r:
        p.primary(r).start()
        wait_for("the first snapshot", lambda: p.database("big.db")["txid"] > 0, 300)
        copies = []
        for _ in range(3):
            t = time.monotonic()
            shutil.copyfile(path, os.path.join(base, "copy"))
            with open(os.path.join(base, "copy"), "rb+") as f:
                os.fsync(f.fileno())
            copies.append(time.monotonic() - t)
            os.unlink(os.path.join(base, "copy"))
        t = time.monotonic()
        r.replica_of(p).start()
        caught_up(p, r, "big.db", 600)
        return time.monotonic() - t, statistics.median(copies)


def promote(base):
    """From the command to the first accepted write."""
    pair = Pair(os.path.join(base, "promote"))
    try:
        result(pair.write(0, 2))
        pair.settle()
        pair.p.kill_all()
        program = "import sqlite3, sys, time\n" \
                  "while True:\n" \
                  "    con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)\n" \
                  "    try:\n" \
                  "        con.execute('INSERT INTO lag VALUES (NULL, 1)')\n" \
                  "        print(time.monotonic())\n" \
                  "        break\n" \
                  "    except sqlite3.OperationalError:\n" \
                  "        con.close()\n" \
                  "        time.sleep(0.002)\n"
        w = subprocess.Popen([sys.executable, "-c", program, pair.db[1]], stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        t = time.monotonic()
        fazt("promote", "--force", pair.r.dir)
        done = time.monotonic()
        return float(w.communicate(timeout=30)[0]) - t, done - t
    finally:
        pair.close()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--seconds", type=float, default=10)
    a.add_argument("--megabytes", type=int, default=400)
    a.add_argument("--json")
    a = a.parse_args()
    out = {}

    def row(name, value, text):
        out[name] = value
        print("%-58s %s" % (name, text), flush=True)
    with scratch("bench-replica") as base:
        pair = Pair(base)
        try:
            result(pair.write(100, 1))
            pair.settle()
            for rate in (50, 5000):
                (n, p50, p99, worst), wrote = pair.lag(rate, a.seconds)
                row("commit to visible at %d txn/s, ms p50 / p99 / max" % rate, [p50, p99, worst],
                    "%.2f / %.2f / %.2f   (%.0f txn/s)" % (p50, p99, worst, wrote))
            applied, wrote, tail = pair.sustained(a.seconds)
            row("sustained apply, one-row txn/s", applied,
                "%.0f   (the primary commits %.0f; %.2f s to the end)" % (applied, wrote, tail))
            (idle, _), (busy, worst) = pair.reads(a.seconds)
            row("reads/s under full apply, of those without", busy / idle, "%.0f %%   (%.0f of %.0f)" % (100 * busy / idle, busy, idle))
            row("longest wait of a reader meanwhile, ms", worst, "%.2f" % worst)
        finally:
            pair.close()
        took, cp = fresh(base, a.megabytes)
        row("new replica of a %d MB database, against cp" % a.megabytes, took / cp, "%.1f x   (%.1f s, cp %.1f s)" % (took / cp, took, cp))
        os.makedirs(os.path.join(base, "promote"))
        first, command = promote(base)
        row("promote: command to first accepted write, ms", first * 1000, "%.0f   (the command took %.0f)" % (first * 1000, command * 1000))
    if a.json:
        with open(a.json, "w") as f:
            json.dump(out, f, indent=1)


main()
