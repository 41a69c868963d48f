#!/usr/bin/python3
"""An application is killed at every system call of a commit, in every mode that survives it: with another connection open (in
WAL mode a commit frame without its wal-index header is then no commit, and the next writer overwrites it: a phantom) and
without one (SQLite's recovery keeps it). After each kill SQLite is asked what it kept, and the store must hold exactly
these states, in order: nothing that SQLite dropped, everything that it kept."""
import os
import subprocess
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, main, need  # noqa: E402
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


CASES = [("WAL", "NORMAL", True, False), ("WAL", "FULL", True, True), ("WAL", "FULL", False, False),
         ("WAL", "NORMAL", False, True), ("DELETE", "NORMAL", True, False), ("DELETE", "FULL", False, True),
         ("TRUNCATE", "NORMAL", False, False), ("PERSIST", "FULL", True, False)]


def run(base):
    with Mount(base).start() as mount:
        done = []
        for mode, level, keeper, spill in CASES:
            name = "%s-%s%s%s.db" % (mode.lower(), level.lower(), "-keeper" if keeper else "", "-spill" if spill else "")
            done.append((name, kill_everywhere(mount, name, mode, level, keeper, spill)))
        mount.sync()
        for name, states in done:
            kept(mount, name, states, sync=False)
        sound(mount, *[d[0] for d in done])
        mount.umount()


if __name__ == "__main__":
    main("kill-app", run)
