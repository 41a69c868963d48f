#!/usr/bin/python3
"""WAL housekeeping: wal_checkpoint in all four modes, by hand and automatic, with and without a long reader, journal_size_limit,
a second process that checkpoints, switching between WAL and rollback while the database is open elsewhere. No commit is
lost when the WAL starts again, and none is captured twice."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, main, need  # noqa: E402
from witness import App, kept, sound  # noqa: E402


def table(mount, name, *pragmas):
    a = App(mount, name, "journal_mode=WAL", *pragmas)
    a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    return a


def insert(a, n=1, size=700):
    for _ in range(n):
        a.do("INSERT INTO t(v) VALUES (randomblob(?))", size)


def by_hand(mount):
    for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
        with table(mount, "%s.db" % kind.lower(), "wal_autocheckpoint=0") as a:
            for i in range(4):
                insert(a, 2)
                need(a.query("PRAGMA wal_checkpoint(%s)" % kind)[0][0] == 0, "%s: busy", kind)
            insert(a)
        yield a


def automatic(mount):
    for limit in (-1, 0, 20000):
        with table(mount, "limit%d.db" % limit, "wal_autocheckpoint=3", "journal_size_limit=%d" % limit) as a:
            insert(a, 8, 5000)
            a.do("DELETE FROM t WHERE id%2")
            a.do("VACUUM")
            insert(a, 2)
        yield a


def long_reader(mount):
    with table(mount, "reader.db", "wal_autocheckpoint=2") as a, App(mount, "reader.db", note=False) as r:
        insert(a, 3)
        r.do("BEGIN")
        seen = r.query("SELECT count(*) FROM t")
        for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            insert(a, 2, 4000)
            a.con.execute("PRAGMA busy_timeout=50")
            a.query("PRAGMA wal_checkpoint(%s)" % kind)
        need(r.query("SELECT count(*) FROM t") == seen, "the reader's snapshot moved")
        r.do("COMMIT")
        insert(a, 3)
        a.query("PRAGMA wal_checkpoint(TRUNCATE)")
        insert(a, 2)
    yield a


def other_process(mount):
    with table(mount, "other.db", "wal_autocheckpoint=0") as a:
        for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
            insert(a, 2)
            r = subprocess.run(["sqlite3", a.path, "PRAGMA wal_checkpoint(%s);" % kind], stdout=subprocess.PIPE, text=True)
            need(r.returncode == 0 and r.stdout.startswith("0|"), "sqlite3: %s", r.stdout)
        insert(a, 2)
    yield a


def switching(mount):
    """While the database stays open: by the connection itself, and (into WAL) while another one is open too; SQLite leaves WAL
    only when there is no other. Twice: in a new file, and reopened in the mode the first round ended with."""
    states = []
    for last in ("DELETE", "WAL", "PERSIST"):
        with App(mount, "switch.db", states=states) as a:
            a.do("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
            for mode in ("WAL", "DELETE", "WAL", "TRUNCATE", "PERSIST", "WAL", "WAL", "MEMORY", "WAL", last):
                if mode == "WAL":
                    b = App(mount, "switch.db", note=False)
                    b.query("SELECT count(*) FROM t")
                got = a.do("PRAGMA journal_mode=" + mode)
                need(got == [(mode.lower(),)], "journal_mode=%s gave %s", mode, got)
                insert(a, 2)
                if mode == "WAL":
                    b.do("INSERT INTO t(v) VALUES ('by the other')")
                    a.note("by the other")
                    b.close()
                    insert(a)
    yield a


def run(base):
    with Mount(base).start() as mount:
        apps = [a for make in (by_hand, automatic, long_reader, other_process, switching) for a in make(mount)]
        mount.sync()
        for a in apps:
            kept(mount, a.name, a.states, sync=False)
        sound(mount, *[a.name for a in apps])
        mount.umount()


if __name__ == "__main__":
    main("checkpoints", run)
