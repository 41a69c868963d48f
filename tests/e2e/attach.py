#!/usr/bin/python3
"""ATTACH: one commit over two databases, in WAL and in rollback modes; in the latter the application is killed at every system
call around the super-journal. After each kill both databases show the same commit (rollback modes promise that), and each
store holds exactly the states that SQLite kept."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, main, need  # noqa: E402
from stepper import killed_at  # noqa: E402
from witness import App, kept, sound  # noqa: E402


class Pair:
    def __init__(self, mount, mode, sub):
        self.mount, self.mode = mount, mode
        self.names = ["%s-a.db" % mode.lower(), "%s%s-b.db" % (sub, mode.lower())]
        self.states = [[], []]
        os.makedirs(os.path.join(mount.dir, sub or "."), exist_ok=True)
        for n, s in zip(self.names, self.states):
            with App(mount, n, "journal_mode=" + mode, states=s) as a:
                a.do("CREATE TABLE t(n INTEGER)")
                a.do("INSERT INTO t VALUES (0)")

    def connect(self):
        con = sqlite3.connect(os.path.join(self.mount.dir, self.names[0]), isolation_level=None, timeout=20)
        con.execute("ATTACH ? AS b", (os.path.join(self.mount.dir, self.names[1]),))
        con.execute("SELECT * FROM main.t, b.t").fetchall()
        return con

    @staticmethod
    def act(con):
        con.execute("BEGIN IMMEDIATE")
        con.execute("UPDATE main.t SET n=n+1")
        con.execute("UPDATE b.t SET n=n+1")
        con.execute("COMMIT")

    def look(self, what):
        """Notes both; returns their numbers."""
        with App(self.mount, self.names[0], states=self.states[0]) as a:
            a.query("ATTACH ? AS b", os.path.join(self.mount.dir, self.names[1]))
            got = a.query("SELECT main.t.n, b.t.n FROM main.t, b.t")[0]
            a.note(what)
            a.states = self.states[1]
            a.note(what, schema="b")
        return got


def run(base):
    with Mount(base).start() as mount:
        pairs = []
        for mode, sub in (("WAL", ""), ("DELETE", "sub/"), ("TRUNCATE", ""), ("PERSIST", "sub/")):
            p = Pair(mount, mode, sub)
            pairs.append(p)
            n, last = 0, 0
            while True:
                n += 1
                killed = killed_at(n, p.connect, p.act)
                x, y = p.look("killed at stop %d" % n if killed else "not killed")
                need(mode == "WAL" or x == y, "%s: SQLite itself kept %d and %d", mode, x, y)
                need(x >= last, "%s: %d after %d", mode, x, last)
                last = x
                if not killed:
                    break
            need(n > 20, "%s: the commit made %d stops only", mode, n)
            for i in range(3):
                con = p.connect()
                p.act(con)
                con.close()
                p.look("commit %d" % i)
        mount.sync()
        for p in pairs:
            for n, s in zip(p.names, p.states):
                kept(mount, n, s, sync=False)
        sound(mount, *[n for p in pairs for n in p.names])
        mount.umount()


if __name__ == "__main__":
    main("attach", run)
