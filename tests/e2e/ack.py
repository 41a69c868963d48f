#!/usr/bin/python3
# timeout: 180
"""ack = replica: a FULL commit is acknowledged once a replica holds it durably. The primary is killed whole at random moments under load,
in all journal modes, and the replica that takes over has every commit that an application was told of, and the very states that
the application made. Without a replica: `degrade` goes on after the time limit, says so, and goes back by itself; `wait` waits, also across
the end of a worker and an upgrade, and holds up no other database. Two replicas: both are waited for."""
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Host, caught_up  # noqa: E402
from faztlib import Failure, fazt, integrity, main, need, wait_for  # noqa: E402

SEED = int(os.environ.get("ACK_SEED", "4"))
ROUNDS = int(os.environ.get("ACK_ROUNDS", "3"))

# What commit n does, so that its outcome can be made again elsewhere; a commit is told once COMMIT has returned.
STEPS = """
import os, random, sqlite3, sys, time

def begin(con):
    con.execute("CREATE TABLE IF NOT EXISTS meta(n INTEGER)")
    con.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
    if not con.execute("SELECT count(*) FROM meta").fetchone()[0]:
        con.execute("INSERT INTO meta VALUES (0)")

def step(con, seed, n):
    r = random.Random("%s-%d" % (seed, n))
    con.execute("INSERT INTO t VALUES (?, ?)", (n, r.randbytes(r.choice((20, 300, 9000)))))
    if n % 7 == 0:
        con.execute("DELETE FROM t WHERE id = ?", (r.randrange(1, n),))
    if n % 11 == 0:
        con.execute("UPDATE t SET v = ? WHERE id % 5 = ?", (r.randbytes(500), r.randrange(5)))
    con.execute("UPDATE meta SET n = ?", (n,))
"""
WRITER = STEPS + """
path, journal, seed, told, pause = sys.argv[1:6]
con = sqlite3.connect(path, isolation_level=None, timeout=30)
if journal == "EXCLUSIVE":
    con.execute("PRAGMA locking_mode=EXCLUSIVE")
    journal = "WAL"
con.execute("PRAGMA journal_mode=" + journal)
con.execute("PRAGMA synchronous=FULL")
con.execute("BEGIN IMMEDIATE")
begin(con)
con.execute("COMMIT")
n = con.execute("SELECT n FROM meta").fetchone()[0]
fd = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    n += 1
    con.execute("BEGIN IMMEDIATE")
    step(con, seed, n)
    con.execute("COMMIT")
    os.write(fd, b"%d\\n" % n)
    time.sleep(float(pause))
"""
shared = {}
exec(STEPS, shared)  # pylint: disable=exec-used


class Writer:
    """Commits as fast as it can, in a process of its own, until something fails or it is stopped."""

    def __init__(self, base, path, journal, pause=0):
        self.path, self.journal = path, journal
        self.seed = "%d-%s" % (SEED, journal)
        self.out = os.path.join(base, "told-%s-%s" % (journal, os.path.basename(path)))
        with open(self.out, "wb"), open(self.out + ".err", "wb") as e:
            self.p = subprocess.Popen([sys.executable, "-c", WRITER, path, journal, self.seed, self.out,
                                       str(pause)], stderr=e,
                                      stdin=subprocess.DEVNULL)

    def told(self):
        with open(self.out, "rb") as f:
            lines = f.read().split(b"\n")[:-1]
        return int(lines[-1]) if lines else 0

    def goes_on(self, more, seconds=30):
        n = self.told()

        def has():
            if self.p.poll() is not None:
                with open(self.out + ".err", errors="replace") as f:
                    raise Failure("the writer of %s ended: %s" % (self.path, f.read()[-600:]))
            return self.told() >= n + more
        wait_for("%d more commits of %s after %d" % (more, self.path, n), has, seconds)

    def stop(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        return self.told()


def state(path):
    """(n, hash of all that an application can read)."""
    con = sqlite3.connect(path, timeout=10)
    try:
        h = hashlib.sha256()
        n = con.execute("SELECT n FROM meta").fetchone()[0]
        for row in con.execute("SELECT id, v FROM t ORDER BY id"):
            h.update(repr(row).encode())
        return n, h.hexdigest()
    finally:
        con.close()


def expected(base, seed, n):
    path = os.path.join(base, "expected.db")
    if os.path.exists(path):
        os.remove(path)
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA synchronous=OFF")
    con.execute("BEGIN")
    shared["begin"](con)
    for i in range(1, n + 1):
        shared["step"](con, seed, i)
    con.execute("COMMIT")
    con.close()
    return state(path)


def ack(host):
    return host.status()["ack"]


def hosts(base, n=1, what="replica", flags=()):
    p = Host(base, "one", "--ack", what, *flags)
    replicas = [Host(base, "two-%d" % i) for i in range(n)]
    p.primary(*replicas)
    for r in replicas:
        r.replica_of(p)
    return [p, *replicas]


def lose_the_primary(base, rnd, flags):
    """Nothing that an application was told of is missing on the host that takes over."""
    p, r = hosts(base, flags=flags)
    with p, r:
        p.start(env={"FAZT_ACK_POLICY": "wait"})
        r.start()
        writers = [Writer(base, os.path.join(p.dir, j.lower() + ".db"), j)
                   for j in ("WAL", "EXCLUSIVE", "DELETE", "TRUNCATE", "PERSIST")]
        for w in writers:
            w.goes_on(20)
        time.sleep(rnd.uniform(0, 1))
        a = ack(p)
        need(not a["degraded"] and a["policy"] == "wait", "the state under load: %s", a)
        p.kill_all()
        told = [w.stop() for w in writers]
        wait_for("the replica to see that the primary is gone",
                 lambda: not r.status().get("following", {}).get("connected", True))
        out = fazt("promote", "--force", r.dir)
        for w, n in zip(writers, told):
            there = os.path.join(r.dir, os.path.basename(w.path))
            got = state(there)
            need(n <= got[0] <= n + 1, "%s: the application was told of commit %d, the new primary is at %d (%s)\n%s",
                 w.journal, n, got[0], out.stdout + out.stderr, r.tail(20))
            need(got == expected(base, w.seed, got[0]), "%s: commit %d is another state", w.journal, got[0])
            need(integrity(there) == "ok", "%s: %s", w.journal, integrity(there))
        again = Writer(base, os.path.join(r.dir, "wal.db"), "WAL")
        again.goes_on(5)
        again.stop()
        r.umount()
    return sum(told)


def degrade(base):
    p, r = hosts(base)
    with p, r:
        p.start(env={"FAZT_ACK_TIMEOUT": "300ms"})
        r.start()
        w = Writer(base, os.path.join(p.dir, "a.db"), "WAL")
        w.goes_on(50)
        caught_up(p, r, "a.db")
        a = ack(p)
        need(a["mode"] == "replica" and a["replicas"] == 1 and a["policy"] == "degrade", "%s", a)
        wait_for("to be in step", lambda: not ack(p)["degraded"])
        r.kill_all()
        w.goes_on(50)
        a = ack(p)
        need(a["degraded"] and a["since_ms"] > 0 and a["degraded_commits"] >= 40, "without a replica: %s", a)
        s = fazt("status", p.dir, check=False)
        need(s.returncode == 1 and "do not wait" in s.stdout + s.stderr, "status: %d %s", s.returncode, s.stdout)
        r.start()
        wait_for("to be in step again (%s)" % ack(p), lambda: not ack(p)["degraded"])
        before = ack(p)["databases"][0]["unacknowledged_commits"]
        w.goes_on(50)
        after = ack(p)["databases"][0]["unacknowledged_commits"]
        need(after == before, "back in step, %d commits were not waited for", after - before)
        need(fazt("status", p.dir, check=False).returncode == 0, "status is healthy again")
        w.stop()
        p.umount()
        r.umount()


def wait(base, *flags):
    p, r = hosts(base, flags=flags)
    with p, r:
        p.start(env={"FAZT_ACK_POLICY": "wait", "FAZT_ACK_TIMEOUT": "300ms"})
        r.start()
        w = Writer(base, os.path.join(p.dir, "a.db"), "WAL")
        d = Writer(base, os.path.join(p.dir, "b.db"), "DELETE")
        w.goes_on(20)
        d.goes_on(20)
        # (opened before: as root SQLite sets the owner of the -wal at each open, which waits for an FSYNC under way)
        reader = sqlite3.connect(w.path, timeout=5)
        reader.execute("SELECT n FROM meta").fetchone()
        r.kill_all()
        wait_for("two commits to wait", lambda: ack(p)["waiting"] == 2)
        told = w.told(), d.told()
        wait_for("status to call that a problem",
                 lambda: any("has waited" in t for t in p.status()["problems"]))
        # nobody else is held up: neither a reader of the same database, nor a writer that asks for less, nor other files
        need(reader.execute("SELECT n FROM meta").fetchone()[0] == told[0], "what waits can be read already")
        reader.close()
        con = sqlite3.connect(os.path.join(p.dir, "c.db"), timeout=5, isolation_level=None)
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("PRAGMA synchronous=NORMAL")
        con.execute("CREATE TABLE t(x)")
        for i in range(50):
            con.execute("INSERT INTO t VALUES (?)", (i,))
        con.close()
        with open(os.path.join(p.dir, "plain"), "w") as f:
            f.write("x")
            f.flush()
            os.fsync(f.fileno())
        for how in (signal.SIGKILL, signal.SIGUSR2):  # the worker dies; an upgrade
            old = p.status()["worker_pid"]
            if how == signal.SIGKILL:
                os.kill(old, how)
            else:
                os.kill(p.proc.pid, how)
            wait_for("another worker", lambda: p.status()["worker_pid"] != old)
            wait_for("the commits to wait again", lambda: ack(p)["waiting"] == 2)
            need((w.told(), d.told()) == told, "a commit was acknowledged that no replica holds")
        k = Writer(base, os.path.join(p.dir, "k.db"), "WAL")
        wait_for("a third commit to wait", lambda: ack(p)["waiting"] == 3)
        k.p.kill()
        k.p.wait(20)  # whoever waits can be killed
        wait_for("nobody to wait for it", lambda: ack(p)["waiting"] == 2)
        r.start()
        w.goes_on(20)
        d.goes_on(20)
        need(not ack(p)["degraded"], "%s", ack(p))
        w.stop()
        d.stop()
        p.umount()
        r.umount()


def wait_without_resend(base):
    wait(base, "--no-resend")


def two(base):
    p, a, b = hosts(base, 2, "2 replicas")
    with p, a, b:
        p.start(env={"FAZT_ACK_POLICY": "wait"})
        a.start()
        b.start()
        w = Writer(base, os.path.join(p.dir, "a.db"), "WAL")
        w.goes_on(50)
        b.kill_all()
        wait_for("a commit to wait for the second", lambda: ack(p)["waiting"] == 1)
        b.start()
        w.goes_on(50)
        p.kill_all()
        n = w.stop()
        for r in (a, b):
            fazt("promote", "--force", r.dir)
            got = state(os.path.join(r.dir, "a.db"))
            need(n <= got[0] <= n + 1, "%s: told %d, there is %d", r.name, n, got[0])
            r.umount()


def superseded(base):
    """The replica is promoted while the primary lives and commits: what waits there fails, and nothing that was acknowledged is a branch."""
    p, r = hosts(base)
    r.own_flags = ["--ack", "replica", "--listen", r.address, "--follower", p.public]
    p.own_flags = ["--ack", "replica"]
    p.primary(r)
    r.replica_of(p)
    with p, r:
        p.start(env={"FAZT_ACK_POLICY": "wait"})
        r.start(env={"FAZT_ACK_POLICY": "wait"})
        w = Writer(base, os.path.join(p.dir, "a.db"), "WAL")
        w.goes_on(50)
        fazt("promote", "--force", r.dir)
        w.p.wait(30)
        n = w.told()
        wait_for("the former primary to follow", lambda: p.status()["role"] == "replica", 30)
        got = state(os.path.join(r.dir, "a.db"))
        need(n <= got[0] <= n + 1, "told %d, the new primary is at %d", n, got[0])
        need(got == expected(base, w.seed, got[0]), "commit %d is another state", got[0])
        again = Writer(base, os.path.join(r.dir, "a.db"), "WAL")
        again.goes_on(20)  # the former primary holds them
        again.stop()
        r.umount()
        p.umount()


def handoff(base):
    p, r = hosts(base)
    r.own_flags = ["--ack", "replica", "--listen", r.address, "--follower", p.public]
    r.replica_of(p)
    with p, r:
        p.start(env={"FAZT_ACK_POLICY": "wait"})
        r.start(env={"FAZT_ACK_POLICY": "wait"})
        ws = [Writer(base, os.path.join(p.dir, n), j, 0.005) for n, j in (("a.db", "WAL"), ("b.db", "DELETE"))]
        for w in ws:
            w.goes_on(30)
        fazt("handoff", p.dir, r.public)
        need(r.status()["role"] == "primary", "handoff")
        for w in ws:
            n = w.stop()
            got = state(os.path.join(r.dir, os.path.basename(w.path)))
            need(n <= got[0] <= n + 1, "told %d, the new primary is at %d", n, got[0])
            again = Writer(base, os.path.join(r.dir, os.path.basename(w.path)), "WAL")
            again.goes_on(20)
            again.stop()
        r.umount()
        p.umount()


def large(base):
    """Larger than what is kept in memory anywhere."""
    p, r = hosts(base)
    with p, r:
        p.start(env={"FAZT_ACK_POLICY": "wait"})
        r.start()
        for name, journal in (("a.db", "WAL"), ("b.db", "DELETE")):
            con = sqlite3.connect(os.path.join(p.dir, name), isolation_level=None, timeout=30)
            con.execute("PRAGMA journal_mode=" + journal)
            con.execute("PRAGMA synchronous=FULL")
            con.execute("CREATE TABLE t(v)")
            for n in (5, 30, 5):
                con.execute("BEGIN")
                for _ in range(n):
                    con.execute("INSERT INTO t VALUES (randomblob(700000))")
                con.execute("COMMIT")
            con.close()
        p.kill_all()
        fazt("promote", "--force", r.dir)
        for name in ("a.db", "b.db"):
            con = sqlite3.connect(os.path.join(r.dir, name))
            need(con.execute("SELECT count(*) FROM t").fetchone()[0] == 40, "%s", name)
            con.close()
            need(integrity(os.path.join(r.dir, name)) == "ok", "%s", name)
        r.umount()


def run(base):
    rnd = random.Random(SEED)
    parts = os.environ.get("ACK_PARTS", "lose degrade wait wait_without_resend two superseded handoff large").split()
    for i in range(ROUNDS if "lose" in parts else 0):
        sub = os.path.join(base, "round-%d" % i)
        n = lose_the_primary(sub, rnd, ("--no-passthrough",) if i == 1 else ())
        print("round %d: %d commits acknowledged, none lost" % (i, n))
    for f in (degrade, wait, wait_without_resend, two, superseded, handoff, large):
        if f.__name__ in parts:
            f(os.path.join(base, f.__name__))


main("ack", run)
