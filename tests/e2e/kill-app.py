#!/usr/bin/python3
"""An application is killed at every system call of a commit, in every mode that survives it: with another connection open (in
WAL mode a commit frame without its wal-index header is then no commit, and the next writer overwrites it: a phantom) and
without one (SQLite's recovery keeps it). After each kill SQLite is asked what it kept, and the store must hold exactly
these states, in order: nothing that SQLite dropped, everything that it kept."""
import json
import os
import subprocess
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, main, need  # noqa: E402
from stepper import killed_at  # noqa: E402
from witness import App, kept, sound  # noqa: E402


class Keeper:
    """Another process that has the database open, and has read it."""

    def __init__(self, path):
        self.p = subprocess.Popen(["sqlite3", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.p.stdin.write("SELECT count(*) FROM t;\n")
        self.p.stdin.flush()
        need(self.p.stdout.readline().strip().isdigit(), "sqlite3 did not read %s", path)

    def close(self):
        self.p.stdin.close()
        self.p.wait(10)
        self.p.stdout.close()


def kill_everywhere(mount, name, mode, level, keeper, spill):
    with App(mount, name, "journal_mode=" + mode) as a:
        a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        a.commit("INSERT INTO t(v) VALUES (randomblob(9000))", "INSERT INTO t(v) VALUES (zeroblob(10))")
    states = a.states
    held = Keeper(a.path) if keeper else None
    n, kills = 0, 0

    def prepare():
        con = sqlite3.connect(a.path, isolation_level=None, timeout=20)
        con.execute("PRAGMA synchronous=" + level)
        con.execute("PRAGMA cache_size=%d" % (2 if spill else 100))
        con.execute("SELECT count(*) FROM t").fetchall()
        return con

    def act(con):
        con.execute("BEGIN IMMEDIATE")
        con.execute("UPDATE t SET v=randomblob(length(v)) WHERE id<=2")
        if spill:
            con.execute("INSERT INTO t(v) VALUES (randomblob(12000))")
            con.execute("DELETE FROM t WHERE id>2")
        con.execute("COMMIT")

    while True:
        n += 1
        killed = killed_at(n, prepare, act)
        kills += killed
        with App(mount, name, states=states) as b:
            b.query("SELECT count(*) FROM t")
            b.note("killed at stop %d" % n if killed else "not killed")
            if n % 3 == 0:
                b.do("UPDATE t SET v=randomblob(20) WHERE id=2")
        if not killed:
            break
    if held:
        held.close()
    need(kills > 8, "%s: the commit made %d stops only", name, kills)
    return states


# Fills the free list with more than one trunk's leaves, then writes into them and waits for its death.
SPILLER = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("PRAGMA page_size=1024")
con.execute("PRAGMA auto_vacuum=" + sys.argv[3])
con.execute("PRAGMA journal_mode=" + sys.argv[2])
con.execute("CREATE TABLE t(b)")
for q in ("BEGIN", "INSERT INTO t WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x<1500) "
          "SELECT randomblob(900) FROM c", "COMMIT", "DELETE FROM t", "PRAGMA cache_size=5", "BEGIN",
          "INSERT INTO t WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x+1 FROM c WHERE x<200) SELECT randomblob(900) FROM c"):
    con.execute(q)
print("ready", flush=True)
sys.stdin.read()
"""


def killed_in_free_pages(mount, name, mode, vacuum, keeper):
    """What a killed transaction wrote into pages that were free stays there when its journal is played back: it is captured."""
    path = os.path.join(mount.dir, name)
    if keeper:
        con = sqlite3.connect(path, isolation_level=None)
    p = subprocess.Popen(["/usr/bin/python3", "-c", SPILLER, path, mode, str(vacuum)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
    need(p.stdout.readline() == "ready\n", "%s: the application failed", name)
    p.kill()
    p.communicate()
    need(os.path.getsize(path + "-journal") > 0, "%s: no journal was left", name)
    if not keeper:
        con = sqlite3.connect(path, isolation_level=None)
    need(con.execute("SELECT count(*) FROM t").fetchone() == (0,), "%s: nothing was played back", name)
    con.close()
    r = fazt("verify", "--live", "--json", mount.dir, check=False)
    need(r.returncode == 0 and json.loads(r.stdout)["differences"] == 0, "%s: verify --live: %s%s", name, r.stdout, r.stderr)


CASES = [("WAL", "NORMAL", True, False), ("WAL", "FULL", True, True), ("WAL", "FULL", False, False),
         ("WAL", "NORMAL", False, True), ("DELETE", "NORMAL", True, False), ("DELETE", "FULL", False, True),
         ("TRUNCATE", "NORMAL", False, False), ("PERSIST", "FULL", True, False)]


def run(base):
    with Mount(base).start() as mount:
        done = []
        for mode, level, keeper, spill in CASES:
            name = "%s-%s%s%s.db" % (mode.lower(), level.lower(), "-keeper" if keeper else "", "-spill" if spill else "")
            done.append((name, kill_everywhere(mount, name, mode, level, keeper, spill)))
        for mode in ("DELETE", "TRUNCATE", "PERSIST"):
            for vacuum in (0, 2):
                for keeper in (False, True):
                    killed_in_free_pages(mount, "free-%s-%d-%d.db" % (mode.lower(), vacuum, keeper), mode, vacuum, keeper)
        mount.sync()
        for name, states in done:
            kept(mount, name, states, sync=False)
        sound(mount, *[d[0] for d in done])
        mount.umount()


if __name__ == "__main__":
    main("kill-app", run)
