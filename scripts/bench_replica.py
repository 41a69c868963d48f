#!/usr/bin/python3
"""How fast a replica is: two mounts on this machine, joined over loopback; applications, primary and replica share its processors and
its disk. Timing is no test: it prints medians beside what must and what shall be reached, and fails on nothing but errors.

usage: bench_replica.py [--rounds N] [--seconds S] [--megabytes M] [--only lag,sustained,reads,new,promote] [--json FILE]"""
import argparse
import json
import os
import platform
import shutil
import signal
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
        time.sleep(seconds / 4)
        a, t0 = self.r.position("lag.db")[0], time.monotonic()
        time.sleep(seconds / 2)
        b, t1 = self.r.position("lag.db")[0], time.monotonic()
        rate = result(w)[0]
        behind = time.monotonic()
        self.settle()
        return (b - a) / (t1 - t0), rate, time.monotonic() - behind

    def reads(self, seconds):
        """Reads on the replica: while nothing happens; while the primary commits as fast as it can and all of it is applied; and
        while the primary does the same and its log arrives, but nothing is applied, which tells what the shared processors cost."""
        idle = result(start("read", self.db[1], seconds))
        w = self.write(0, seconds + 1)
        time.sleep(0.5)
        busy = result(start("read", self.db[1], seconds))
        result(w)
        self.settle()
        agent = self.r.agent_pid()
        os.kill(agent, signal.SIGSTOP)
        try:
            w = self.write(0, seconds + 1)
            time.sleep(0.5)
            beside = result(start("read", self.db[1], seconds))
            result(w)
        finally:
            os.kill(agent, signal.SIGCONT)
        self.settle()
        return idle, busy, beside

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
        want = p.database("big.db")["txid"]
        shown = os.path.join(r.dir, ".fazt", "big.db", "position")

        def arrived():  # reading the file costs nothing beside a command each time
            try:
                with open(shown) as f:
                    return int(f.read().split("/")[1], 16) >= want
            except (FileNotFoundError, IndexError):
                return False
        t = time.monotonic()
        r.replica_of(p).start()
        wait_for("the new replica", arrived, 600)
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
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--seconds", type=float, default=10)
    a.add_argument("--megabytes", type=int, default=400)
    a.add_argument("--only", default="")
    a.add_argument("--json", default=os.path.join(BUILD, "bench-replica.json"))
    a = a.parse_args()
    only = [o for o in a.only.split(",") if o]
    out = {"kernel": platform.release(), "cpus": os.cpu_count(), "time": time.strftime("%FT%TZ", time.gmtime()), "rounds": a.rounds,
           "rows": []}

    def wanted(name):
        return not only or name in only

    def rounds(measure):
        """The medians of each number, over the rounds."""
        each = [measure() for _ in range(a.rounds)]
        return [statistics.median(v) for v in zip(*each)], each

    def row(name, value, must, aim, values, note=""):
        out["rows"].append({"name": name, "value": value, "must": must, "aim": aim, "rounds": values})
        print("%-52s %14s %10s %10s  %s" % (name, value, must, aim, note), flush=True)
    print("%-52s %14s %10s %10s" % ("measure", "replica", "must", "aim"))
    with scratch("bench-replica") as base:
        if wanted("lag") or wanted("sustained") or wanted("reads"):
            pair = Pair(base)
            try:
                result(pair.write(100, 1))
                pair.settle()
                for rate, must, aim in ((50, "1 / 5", "0.3 / 2"), (5000, "5 / 50", "1 / 10")) if wanted("lag") else ():
                    def lag():
                        (_, p50, p99, worst), wrote = pair.lag(rate, a.seconds)
                        return p50, p99, worst, wrote
                    (p50, p99, worst, wrote), each = rounds(lag)
                    row("commit to visible at %d txn/s, ms p50 / p99" % rate, "%.2f / %.2f" % (p50, p99), must, aim, each,
                        "max %.2f; %.0f txn/s" % (worst, wrote))
                if wanted("sustained"):
                    (applied, wrote, tail), each = rounds(lambda: pair.sustained(a.seconds))
                    row("sustained apply, one-row txn/s", "%.0f" % applied, "25000", "primary's", each,
                        "the primary commits %.0f; %.2f s to the end" % (wrote, tail))
                if wanted("reads"):
                    def reads():
                        (idle, _), (busy, worst), (beside, _) = pair.reads(a.seconds)
                        return busy / idle, busy / beside, worst, idle, busy
                    (share, beside, worst, idle, busy), each = rounds(reads)
                    row("reads/s under full apply, of those without", "%.0f %%" % (100 * share), "70 %", "90 %", each,
                        "%.0f of %.0f; %.0f %% of those beside the same primary, nothing applied" % (busy, idle, 100 * beside))
                    row("longest wait of a reader meanwhile, ms", "%.2f" % worst, "10", "1", [e[2] for e in each])
            finally:
                pair.close()
        if wanted("new"):
            def new():
                shutil.rmtree(os.path.join(base, "new"), ignore_errors=True)
                os.makedirs(os.path.join(base, "new"))
                took, cp = fresh(os.path.join(base, "new"), a.megabytes)
                return took / cp, took, cp
            (times, took, cp), each = rounds(new)
            row("new replica of a %d MB database, against cp" % a.megabytes, "%.1f x" % times, "3 x", "1.5 x", each,
                "%.2f s, cp %.2f s" % (took, cp))
        if wanted("promote"):
            def one():
                shutil.rmtree(os.path.join(base, "promote"), ignore_errors=True)
                os.makedirs(os.path.join(base, "promote"))
                return [1000 * v for v in promote(base)]
            (first, command), each = rounds(one)
            row("promote: command to first accepted write, ms", "%.0f" % first, "1000", "100", each, "the command took %.0f" % command)
    with open(a.json, "w") as f:
        json.dump(out, f, indent=1)
    print("written: %s" % a.json)


if __name__ == "__main__":
    main()
