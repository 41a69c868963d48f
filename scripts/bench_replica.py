#!/usr/bin/python3
"""How fast a replica is: two mounts on this machine, joined over loopback; applications, primary and replica share its processors and
its disk. Timing is no test: it prints medians beside what must and what shall be reached, and fails on nothing but errors. Where there is
a `litefs` ($LITEFS, or on the PATH) a pair of it is measured in turn with fazt's; what goes wrong there is said and fails nothing.

usage: bench_replica.py [--rounds N] [--seconds S] [--megabytes M] [--only lag,sustained,reads,ack,new,promote,hour] [--json FILE]
--only hour: the longest wait of a reader while the primary commits 1,000 transactions a second for an hour (--hour-seconds)."""
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
import litefs  # noqa: E402
from cluster import Host, caught_up  # noqa: E402
from faztlib import BUILD, Failure, fazt, scratch, wait_for  # noqa: E402

PROGRAM = os.path.join(BUILD, "e2e", "bench_replica")
APP = os.path.join(BUILD, "e2e", "bench_app")


running = []


def start(*args, patient=False):
    p = subprocess.Popen([PROGRAM, *map(str, args)], stdout=subprocess.PIPE, text=True,
                         env={**os.environ, "BENCH_PATIENT": "1"} if patient else None)
    running.append(p)
    return p


def result(p):
    out = p.communicate()[0].split()
    running.remove(p)
    if p.returncode:
        raise Failure("%s ended with %d" % (" ".join(p.args), p.returncode))
    return [float(x) for x in out]


def stop_all():
    """What still runs when a measure failed."""
    while running:
        p = running.pop()
        p.kill()
        p.wait()


class Pair:
    def __init__(self, base, host=Host, *flags):
        self.base, self.litefs = base, host is not Host
        self.p, self.r = host(base, "one", *flags), host(base, "two")
        self.db = [os.path.join(h.dir, "lag.db") for h in (self.p, self.r)]
        self.times = os.path.join("/dev/shm", "fazt-bench-%d-%s" % (os.getpid(), host.__name__))
        try:
            self.p.primary(self.r).start()
            self.r.replica_of(self.p).start()
            result(self.write(100, 1))
            self.settle()
        except BaseException:
            self.close()
            raise

    def commits(self, seconds):
        """ms p50, p99, max of commits at FULL, one after the other."""
        return result(start("commit", self.db[0], seconds))[1:]

    def settle(self):
        if self.litefs:
            want = self.p.position("lag.db")[0]
            wait_for("LiteFS to have applied %d" % want, lambda: self.r.position("lag.db")[0] >= want, 120)
        else:
            caught_up(self.p, self.r, "lag.db", 120)

    def write(self, rate, seconds):
        with open(self.times, "wb"):
            pass
        return start("write", self.db[0], rate, seconds, self.times, patient=self.litefs)

    def read(self, seconds):
        return start("read", self.db[1], seconds, patient=self.litefs)

    def lag(self, rate, seconds):
        """ms p50, p99, max; what the primary committed a second."""
        w = self.write(rate, seconds)
        time.sleep(0.3)
        v = start("watch", self.db[1], seconds - 0.3, self.times, patient=self.litefs)
        _, p50, p99, worst = result(v)
        return p50, p99, worst, result(w)[0]

    def sustained(self, seconds):
        """What is applied a second while the primary commits as fast as it can, what it commits, and how long the rest takes then."""
        w = self.write(0, seconds)
        time.sleep(seconds / 4)
        a, t0 = self.r.position("lag.db")[0], time.monotonic()
        time.sleep(seconds / 2)
        b, t1 = self.r.position("lag.db")[0], time.monotonic()
        rate = result(w)[0]
        behind = time.monotonic()
        self.settle()
        return (b - a) / (t1 - t0), rate, time.monotonic() - behind

    def beside_writer(self, seconds, *readers):
        """What the readers tell that read while the primary commits as fast as it can; the last is what the primary committed."""
        w = self.write(0, seconds + 1)
        time.sleep(0.5)
        out = [result(r) for r in [r() for r in readers]]
        out.append(result(w)[0])
        return out

    def reads(self, seconds):
        """Reads a second on the replica, under full apply and while nothing happens; the longest wait, ms; the primary's rate."""
        idle, _ = result(self.read(seconds))
        (busy, worst), rate = self.beside_writer(seconds, lambda: self.read(seconds))
        self.settle()
        return busy, idle, worst, rate

    def not_applied(self, seconds):
        """Reads a second on the replica while the log of such a primary arrives, but nothing of it is applied."""
        agent = self.r.agent_pid()
        os.kill(agent, signal.SIGSTOP)
        try:
            (reads, _), _ = self.beside_writer(seconds, lambda: self.read(seconds))
        finally:
            os.kill(agent, signal.SIGCONT)
        self.settle()
        return reads

    def waits(self, seconds, native):
        """The longest waits, ms, of a reader under full apply and at the same time of one on a database that nobody else touches."""
        here, there, _ = self.beside_writer(seconds, lambda: self.read(seconds), lambda: start("read", native, seconds))
        self.settle()
        return here[1], there[1]

    def hour(self, seconds, native):
        """Reads, the longest wait in ms, waits over 1 and 10 ms: on the replica, and at the same time on a database that nobody else
        touches; what the primary committed a second."""
        w = self.write(1000, seconds + 2)
        time.sleep(1)
        readers = [start("pace", path, seconds, 1000) for path in (self.db[1], native)]
        out = [result(r) for r in readers]
        out.append(result(w))
        self.settle()
        return [x for v in out for x in v]

    def close(self):
        stop_all()
        self.r.cleanup()
        self.p.cleanup()
        if os.path.exists(self.times):
            os.unlink(self.times)


def native_reads(base, rate, seconds):
    """Reads a second without any replication: beside a writer that commits at that rate, and alone. What the machine itself costs.
    A reader that sees the wal-index change takes the writer's lock for a moment: both wait for each other."""
    path, times = os.path.join(base, "native.db"), os.path.join(base, "native-times")
    result(start("write", path, 100, 1, times))
    idle, _ = result(start("read", path, seconds))
    w = start("write", path, rate, seconds + 1, times, patient=True)
    time.sleep(0.5)
    busy, _ = result(start("read", path, seconds, patient=True))
    return busy, idle, result(w)[0]


def shown(host, name):
    """What a replica shows, from the file that says it: a command each time would cost more than it tells."""
    if isinstance(host, litefs.Litefs):
        return host.position(name)[0]
    try:
        with open(os.path.join(host.dir, ".fazt", name, "position")) as f:
            return int(f.read().split("/")[1], 16)
    except (FileNotFoundError, IndexError):
        return 0


def fresh(base, megabytes, host):
    """A new replica of a large database until it shows everything, against cp of the file; seconds of both."""
    shutil.rmtree(base, ignore_errors=True)
    os.makedirs(base)
    p, r = host(base, "big-one"), host(base, "big-two")
    path = os.path.join(p.dir if host is Host else base, "big.db")
    subprocess.run([APP, "fill", path, "WAL", "NORMAL", str(megabytes), "0"], check=True, stdout=subprocess.DEVNULL)
    with p, r:
        p.primary(r).start()
        if host is not Host:
            p.load(path)
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
        t = time.monotonic()
        r.replica_of(p).start()
        wait_for("the new replica", lambda: shown(r, "big.db") >= want, 600)
        took, cp = time.monotonic() - t, statistics.median(copies)
        return took / cp, took, cp


def promote(base):
    """From the command to the first accepted write."""
    pair = Pair(base)
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
        running.append(w)
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
    a.add_argument("--hour-seconds", type=float, default=3600)
    a.add_argument("--json", default=os.path.join(BUILD, "bench-replica.json"))
    a = a.parse_args()
    only = [o for o in a.only.split(",") if o]
    out = {"kernel": platform.release(), "cpus": os.cpu_count(), "time": time.strftime("%FT%TZ", time.gmtime()), "rounds": a.rounds,
           "litefs": litefs.version(), "rows": []}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def wanted(name):
        return not only or name in only

    def on_litefs(what, *args):
        """What it measures on LiteFS, or None: it is not there, or failed."""
        if not litefs.program():
            return None
        try:
            return what(*args)
        except (Failure, OSError, subprocess.SubprocessError) as e:
            stop_all()
            print("LiteFS: %s" % e, file=sys.stderr)
            return None

    def rounds(measure, here, there=False):
        """measure(here) and, for LiteFS, measure(there) in turn: the medians of each number, and the numbers themselves, and what to say
        of LiteFS without any. there: None did not start, False cannot do that."""
        each, other = [], []
        for _ in range(a.rounds):
            each.append(measure(here))
            o = on_litefs(measure, there) if there else None
            other += [o] if o else []
        return median(each), median(other), each, other, "-" if there is False or not litefs.program() else "failed"

    def median(each):
        return [statistics.median(v) for v in zip(*each)]

    def row(name, form, must, aim, m, of=lambda v: v[:1], *notes):
        """m is what rounds() gave; the columns show of() its medians, notes come below."""
        value, other = [form % tuple(of(v)) if v else m[4] for v in m[:2]]
        out["rows"].append({"name": name, "value": value, "litefs": other, "must": must, "aim": aim, "notes": notes,
                            "rounds": m[2], "litefs_rounds": m[3]})
        print("%-48s %14s %14s %10s %10s" % (name, value, other, must, aim))
        print("".join("    %s\n" % n for n in notes if n), end="", flush=True)

    def also(text, v, of):
        """A note on LiteFS's numbers, where there are any."""
        return "LiteFS: " + text % tuple(of(v)) if v else ""
    print("%-48s %14s %14s %10s %10s" % ("measure", "replica", "LiteFS", "must", "aim"))
    with scratch("bench-replica") as base:
        if wanted("lag") or wanted("sustained") or wanted("reads"):
            pair, other = Pair(base), None
            try:
                other = on_litefs(Pair, base, litefs.Litefs)
                for rate, must, aim in ((50, "1 / 5", "0.3 / 2"), (5000, "5 / 50", "1 / 10")) if wanted("lag") else ():
                    m = rounds(lambda x: x.lag(rate, a.seconds), pair, other)
                    text = "max %.2f; %.0f txn/s"
                    row("commit to visible at %d txn/s, ms p50 / p99" % rate, "%.2f / %.2f", must, aim, m, lambda v: v[:2],
                        text % tuple(m[0][2:]), also(text, m[1], lambda v: v[2:]))
                if wanted("sustained"):
                    m = rounds(lambda x: x.sustained(a.seconds), pair, other)
                    text = "the primary commits %.0f; %.2f s to the end"
                    row("sustained apply, one-row txn/s", "%.0f", "25000", "primary's", m, lambda v: v[:1],
                        text % tuple(m[0][1:]), also(text, m[1], lambda v: v[1:]))
                if wanted("reads"):
                    def reads(x):
                        v = x.reads(a.seconds)
                        if x is pair:  # and, in the same round, what the machine alone costs
                            v += (x.not_applied(a.seconds), *native_reads(base, v[3], a.seconds),
                                  *x.waits(a.seconds, os.path.join(base, "native.db")))
                        return v

                    def rates(v):
                        return v[0], v[1], v[3]
                    m = rounds(reads, pair, other)
                    busy, _, _, _, stopped, native, native_idle, native_rate, wait, native_wait = m[0]
                    text = "%.0f of %.0f reads/s while the primary commits %.0f"
                    row("reads/s under full apply, of those without", "%.0f %%", "70 %", "90 %", m, lambda v: [100 * v[0] / v[1]],
                        text % rates(m[0]), also(text, m[1], rates),
                        "%.0f %% of those beside the same primary, nothing applied (%.0f)" % (100 * busy / stopped, stopped),
                        "native, no replication: %.0f %% beside a native writer of %.0f txn/s (%.0f of %.0f)" %
                        (100 * native / native_idle, native_rate, native, native_idle))
                    row("longest wait of a reader meanwhile, ms", "%.2f", "10", "1", m, lambda v: v[2:3],
                        "%.2f with a second reader beside it, on a native database nobody writes to, whose own is %.2f" %
                        (wait, native_wait))
            finally:
                if other:
                    other.close()
                pair.close()
        if "hour" in only:
            native = os.path.join(base, "native.db")
            result(start("write", native, 1000, 1, os.path.join(base, "native-times")))
            pair = Pair(base)
            try:
                one = pair.hour(a.hour_seconds, native)
            finally:
                pair.close()
            row("longest wait of a reader in %.0f s, ms" % a.hour_seconds, "%.2f", "10", "1", (one, None, [one], [], "-"),
                lambda v: v[1:2], "%d reads, %d over 1 ms, %d over 10 ms; the primary commits %.0f/s" % (one[0], *one[2:4], one[8]),
                "on a native database that nobody else touches: longest %.2f, %d over 1 ms, %d over 10 ms" % tuple(one[5:8]))
        if wanted("ack"):
            pairs = []
            try:
                pairs = [Pair(os.path.join(base, n), Host, *flags)
                         for n, flags in (("acked", ("--ack", "replica")), ("local", ()))]
                m = rounds(lambda both: both[0].commits(a.seconds) + both[1].commits(a.seconds), pairs)
                degraded = pairs[0].p.status()["ack"]["databases"][0]["unacknowledged_commits"]
                row("commit at FULL, ack = replica, ms p50 / p99", "%.2f / %.2f", "-", "-", m, lambda v: v[:2],
                    "ack = local: %.2f / %.2f" % tuple(m[0][3:5]),
                    "%d commits were not waited for" % degraded if degraded else "")
            finally:
                for pair in pairs:
                    pair.close()
        if wanted("new"):
            m = rounds(lambda host: fresh(os.path.join(base, "new"), a.megabytes, host), Host, litefs.Litefs)
            text = "%.2f s, cp %.2f s"
            row("new replica of a %d MB database, against cp" % a.megabytes, "%.1f x", "3 x", "1.5 x", m, lambda v: v[:1],
                text % tuple(m[0][1:]), also(text, m[1], lambda v: v[1:]))
        if wanted("promote"):
            def one(at):
                shutil.rmtree(at, ignore_errors=True)
                os.makedirs(at)
                return [1000 * v for v in promote(at)]
            m = rounds(one, os.path.join(base, "promote"))
            row("promote: command to first accepted write, ms", "%.0f", "1000", "100", m, lambda v: v[:1],
                "the command took %.0f" % m[0][1])
    with open(a.json, "w") as f:
        json.dump(out, f, indent=1)
    print("written: %s" % a.json)


if __name__ == "__main__":
    main()
