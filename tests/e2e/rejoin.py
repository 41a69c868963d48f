#!/usr/bin/python3
# timeout: 300
"""Two hosts that can take each other's place. A replica is promoted while its primary lives: the former primary fences itself (writers
get SQLITE_BUSY or SQLITE_READONLY, readers go on), what it had committed alone becomes a branch, and it follows the new primary
without a full copy, with the same connections open. Then the other way round."""
import contextlib
import os
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, Reader, caught_up  # noqa: E402
from faztlib import Failure, fazt, fazt_json, integrity, main, need, serialize_hash, wait_for  # noqa: E402
from proxy import Proxy  # noqa: E402

# Writes until it is refused; prints what was acknowledged, then why it ended. Its connection stays open and reads on.
WRITER = """
import sqlite3, sys, time
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=1)
n = con.execute("SELECT n FROM meta").fetchone()[0]
while True:
    try:
        con.execute("BEGIN IMMEDIATE")
        con.execute("INSERT INTO t(k, v) VALUES (7, randomblob(300))")
        con.execute("UPDATE meta SET n = n + 1, rows = rows + 1, total = total + 7")
        con.execute("COMMIT")
    except sqlite3.OperationalError as e:
        print("end", e, flush=True)
        break
    n += 1
    print(n, flush=True)
if con.in_transaction:
    con.execute("ROLLBACK")
while True:
    rows, total = con.execute("SELECT rows, total FROM meta").fetchone()
    there = con.execute("SELECT count(*), coalesce(sum(k), 0) FROM t").fetchone()
    print("sees", con.execute("SELECT n FROM meta").fetchone()[0], flush=True)
    time.sleep(0.02)
"""


# Reads with a new connection each time, of a database that nobody else has open: each makes its -wal and -shm anew.
OPENER = """
import sqlite3, sys
n = 0
while True:
    con = sqlite3.connect("file:%s?mode=rw" % sys.argv[1], uri=True, isolation_level=None, timeout=10)
    try:
        con.execute("SELECT n FROM meta").fetchone()
    except sqlite3.OperationalError as e:
        sys.exit("read %d: %s (%s)" % (n, e, e.sqlite_errorname))
    con.close()
    n += 1
    print(n, flush=True)
"""


class Opener:
    """Where the role changes, no read fails."""

    def __init__(self, base, path):
        self.path = path
        self.out = os.path.join(base, "opener-%d" % time.monotonic_ns())
        self.f = open(self.out, "wb")
        self.p = subprocess.Popen([sys.executable, "-c", OPENER, path], stdout=self.f, stderr=self.f)

    def check(self):
        with open(self.out) as f:
            need(self.p.poll() is None, "%s: %s", self.path, f.read()[-200:])

    def end(self):
        try:
            self.check()
        finally:
            self.p.kill()
            self.p.wait()
            self.f.close()


class Writer:
    def __init__(self, base, path):
        self.out = os.path.join(base, "writer-%d" % time.monotonic_ns())
        self.f = open(self.out, "wb")
        self.p = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=self.f, stderr=self.f)

    def lines(self):
        with open(self.out) as f:
            return f.read().split("\n")[:-1]

    def acknowledged(self):
        return max([int(l) for l in self.lines() if l.isdigit()], default=0)

    def ended(self):
        return next((l for l in self.lines() if l.startswith("end")), None)

    def sees(self):
        need(self.p.poll() is None, "a connection of before has died: %s", self.lines()[-3:])
        return max([int(l.split()[1]) for l in self.lines() if l.startswith("sees")][-1:], default=0)

    def kill(self):
        self.p.kill()
        self.p.wait()
        self.f.close()


def swap(base, old, new, names):
    """new takes over although old lives and is written to."""
    writers = {n: Writer(base, os.path.join(old.dir, n)) for n in names}
    try:
        wait_for("some commits", lambda: all(w.acknowledged() > 50 for w in writers.values()))
        r = fazt("promote", new.dir, check=False)
        need(r.returncode == 1, "promote beside a living primary: exit %d", r.returncode)
        fazt("promote", "--force", new.dir)
        apps = {n: Counted(os.path.join(new.dir, n)) for n in names}
        for a in apps.values():
            for _ in range(30):
                a.commit()
        for n, w in writers.items():
            wait_for("%s to be fenced on the former primary" % n, w.ended, 60)
            need("locked" in w.ended() or "readonly" in w.ended() or "busy" in w.ended(), "%s: %s", n, w.ended())
        wait_for("the former primary to follow", lambda: old.status()["role"] == "replica", 60)
        for n in names:
            fazt("sync", new.dir)  # on its own history the former primary may be further than that
            fazt("wait", "--timeout", 60, os.path.join(old.dir, n), new.database(n)["txid"])
            a, b = os.path.join(new.dir, n), os.path.join(old.dir, n)
            need(serialize_hash(a) == serialize_hash(b), "%s differs after the change of places", n)
            wait_for("a connection of before to see the new history",
                     lambda: writers[n].sees() == apps[n].n, 30)
        lost = {n: w.acknowledged() for n, w in writers.items()}
        for a in apps.values():
            a.close()
        return lost, {n: a.n for n, a in apps.items()}
    finally:
        for w in writers.values():
            w.kill()


def unknown(host, name):
    with open(os.path.join(host.home, "fazt.log")) as f:
        return f.read().count("%s: where it stands is not known" % name)


def hand_over(base, old, new, names):
    """fazt handoff under load: every acknowledged commit is in the new primary's history, and the writers' pause is short."""
    writers = {n: Writer(base, os.path.join(old.dir, n)) for n in names}
    try:
        wait_for("some commits", lambda: all(w.acknowledged() > 50 for w in writers.values()))
        r = fazt("handoff", old.dir, "nobody", check=False)
        need(r.returncode == 3 and "nobody" in r.stderr, "handoff to nobody: exit %d: %s", r.returncode, r.stderr)
        wait_for("writers that go on", lambda: all(w.ended() is None for w in writers.values()))
        before = len(fazt_json("branches", "--json", old.dir))
        compared = unknown(old, "wal.db")
        fazt("handoff", old.dir, new.public)
        need(new.status()["role"] == "primary", "after the handoff the follower is a %s", new.status()["role"])
        for n, w in writers.items():
            wait_for("%s to be fenced" % n, w.ended, 60)
            app = Counted(os.path.join(new.dir, n))
            need(app.n == w.acknowledged(), "%s: %d commits were acknowledged, the new primary has %d", n,
                 w.acknowledged(), app.n)
            app.commit()
            app.close()
            caught_up(new, old, n)
            need(serialize_hash(os.path.join(new.dir, n)) == serialize_hash(os.path.join(old.dir, n)), "%s differs", n)
        if "wal.db" in names:  # its capture had followed it to the last frame
            need(unknown(old, "wal.db") == compared, "after a handoff the former primary compared every page of wal.db")
        need(len(fazt_json("branches", "--json", old.dir)) == before, "a handoff left a branch: %s",
             fazt_json("branches", "--json", old.dir))
    finally:
        for w in writers.values():
            w.kill()


def kept(base, host, lost, epoch):
    """What the former primary had acknowledged alone is a branch, to the last commit, and restorable."""
    branches = {b["database"]: b for b in fazt_json("branches", "--json", host.dir) if b["epoch"] == epoch}
    for n, acknowledged in lost.items():
        need(n in branches, "%s: %d commits were acknowledged, there is no branch of epoch %d: %s", n, acknowledged, epoch,
             branches)
        out = os.path.join(base, "branch.db")
        fazt("restore", "%s/%s@%s" % (host.dir, n, branches[n]["branch"]), "--latest", "-o", out, "--force")
        con = sqlite3.connect(out)
        got = con.execute("SELECT n, rows, total FROM meta").fetchone()
        there = con.execute("SELECT count(*), sum(k) FROM t").fetchone()
        con.close()
        need(got[0] == acknowledged and got[1:] == there, "%s: the branch ends with commit %d, %d were acknowledged", n,
             got[0], acknowledged)
        need(integrity(out) == "ok", "the branch of %s", n)


def no_commit_twice(base, host, name):
    """No take-over captured again what the log had: commit by commit, n goes up."""
    before, out = -1, os.path.join(base, "history.db")
    for e in fazt_json("log", "--json", os.path.join(host.dir, name))[-50:]:  # it took over 30 commits ago
        fazt("restore", os.path.join(host.dir, name), "--txid", e["txid"], "-o", out, "--force")
        con = sqlite3.connect(out)
        n = con.execute("SELECT n FROM meta").fetchone()[0] if e["txid"] > 3 else 0
        con.close()
        need(n >= before, "%s: TXID %d goes back from commit %d to %d", name, e["txid"], before, n)
        before = n


def changes(base, a, b, names, openers):
    lost, _ = swap(base, a, b, names)
    kept(base, a, lost, 0)
    need(b.status()["epoch"] == 1 and a.status()["epoch"] == 1, "epochs %s %s", a.status()["epoch"], b.status()["epoch"])
    lost, _ = swap(base, b, a, names)
    kept(base, b, lost, 1)
    need(a.status()["role"] == "primary" and a.status()["epoch"] == 2, "%s", a.status()["role"])
    hand_over(base, a, b, names)
    hand_over(base, b, a, names)
    for o in openers:
        o.check()


def made_anew(base):
    """A database that the former primary made anew, and the new one has never heard of that: what was committed to it is a branch, and
    whoever still has it open commits nothing more, though it is gone."""
    a, b = Host(base, "anew-a"), Host(base, "anew-b")
    proxy = Proxy(("127.0.0.1", a.port), 1)
    with contextlib.closing(proxy), a, b:
        a.primary(b)
        b.replica_of(a, "--listen", b.address, "--follower", a.public)
        b.flags[b.flags.index("--primary") + 1] = proxy.address
        a.start()
        b.start()
        path = os.path.join(a.dir, "app.db")
        app = Counted(path)
        for _ in range(20):
            app.commit()
        caught_up(a, b, "app.db")
        proxy.set("reset")
        app.close()
        os.unlink(path)
        app = Counted(path)
        for _ in range(30):
            app.commit()
        fazt("promote", "--force", b.dir, timeout=90)
        proxy.set("pass")
        wait_for("the former primary to follow", lambda: a.status()["role"] == "replica", 60)

        def shown():
            with contextlib.closing(sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=10)) as con:
                return con.execute("SELECT n FROM meta").fetchone()[0]

        def is_old():
            with contextlib.suppress(sqlite3.OperationalError):
                return shown() == 20
        wait_for("the life that the new primary has", is_old, 60)
        app.con.execute("PRAGMA busy_timeout=300")
        for _ in range(3):
            try:
                app.commit()
                raise Failure("a commit to a database that is gone was acknowledged")
            except sqlite3.OperationalError:
                if app.con.in_transaction:
                    app.con.execute("ROLLBACK")
        out = os.path.join(base, "anew.db")
        branch = [x["branch"] for x in fazt_json("branches", "--json", a.dir) if x["database"] == "app.db"]
        need(len(branch) == 1, "branches: %s", branch)
        fazt("restore", "%s@%s" % (path, branch[0]), "-o", out)
        con = sqlite3.connect(out)
        need(con.execute("SELECT n FROM meta").fetchone()[0] == 30 and integrity(out) == "ok", "the branch is not what was committed")
        con.close()
        app.close()
        a.umount()
        b.umount()


def run(base):
    made_anew(base)
    a, b = Host(base, "one"), Host(base, "two")
    a.primary(b)
    b.replica_of(a, "--listen", b.address, "--follower", a.public)
    with a, b:
        a.start()
        b.start()
        names = ["wal.db", "old.db"]
        for n, mode in zip(names, ("WAL", "DELETE")):
            x = Counted(os.path.join(a.dir, n), mode)
            for _ in range(40):
                x.commit()
            x.close()
            caught_up(a, b, n)
        x = Counted(os.path.join(a.dir, "idle.db"), "WAL")
        x.commit()
        x.close()
        caught_up(a, b, "idle.db")
        reader = Reader(os.path.join(base, "work"), os.path.join(b.dir, "wal.db"))
        openers = [Opener(base, os.path.join(h.dir, "idle.db")) for h in (a, b)]
        try:
            changes(base, a, b, names, openers)
        finally:
            for o in openers:
                o.end()
        for n in names:
            need(integrity(os.path.join(a.dir, n)) == "ok" and integrity(os.path.join(b.dir, n)) == "ok", n)
        for n in names:
            no_commit_twice(base, a, n)
        reader.end()
        b.umount()
        a.umount()


main("rejoin", run)
