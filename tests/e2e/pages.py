#!/usr/bin/python3
"""Shapes of databases: page sizes from 512 to 65536, auto_vacuum, VACUUM with and without a new page size, shrinking, and
locking_mode=EXCLUSIVE in every journal mode. Every commit is restorable with the pages SQLite showed, and no other state."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, main, need  # noqa: E402
from witness import App, kept, sound  # noqa: E402

ROWS = ("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<%d) "
        "INSERT INTO t(v) SELECT randomblob(%d) FROM n")


def page_sizes(mount):
    for size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
        for mode in ("WAL", "DELETE"):
            with App(mount, "%d-%s.db" % (size, mode.lower()), "page_size=%d" % size, "journal_mode=" + mode) as a:
                a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                a.commit(ROWS % (20, size))
                a.commit("UPDATE t SET v=zeroblob(10) WHERE id=7")
                need(a.query("PRAGMA page_size") == [(size,)], "page size")
            yield a


def auto_vacuum(mount):
    for kind in ("FULL", "INCREMENTAL"):
        for mode in ("WAL", "DELETE", "TRUNCATE"):
            with App(mount, "av-%s-%s.db" % (kind.lower(), mode.lower()), "auto_vacuum=" + kind, "journal_mode=" + mode) as a:
                a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                a.commit(ROWS % (60, 3000))
                a.commit("DELETE FROM t WHERE id BETWEEN 10 AND 50")
                a.do("PRAGMA incremental_vacuum(7)")
                a.do("PRAGMA incremental_vacuum")
                a.do("DELETE FROM t")
                pages = a.query("PRAGMA page_count")[0][0]
                need(pages < 20 or kind == "INCREMENTAL", "auto_vacuum kept %d pages", pages)
            yield a


def vacuum(mount):
    for mode in ("WAL", "DELETE", "PERSIST", "MEMORY"):
        with App(mount, "vacuum-%s.db" % mode.lower(), "journal_mode=" + mode) as a:
            a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
            a.commit(ROWS % (150, 2000))
            a.do("DELETE FROM t WHERE id%3>0")
            a.do("VACUUM")
            a.do("INSERT INTO t(v) VALUES ('after')")
            if mode != "WAL":
                for size in (1024, 16384, 4096):
                    a.do("PRAGMA page_size=%d" % size)
                    a.do("VACUUM")
                    need(a.query("PRAGMA page_size") == [(size,)], "VACUUM did not change the page size")
                    a.do("INSERT INTO t(v) VALUES ('after %d')" % size)
            else:  # through DELETE and back: the only way to change the page size of a WAL database
                a.do("PRAGMA journal_mode=DELETE")
                a.do("PRAGMA page_size=1024")
                a.do("VACUUM")
                a.do("PRAGMA journal_mode=WAL")
                a.do("INSERT INTO t(v) VALUES ('after 1024')")
        yield a


def exclusive(mount):
    for first in (True, False):
        for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST"):
            pragmas = ["locking_mode=EXCLUSIVE", "journal_mode=" + mode]
            with App(mount, "exclusive-%d-%s.db" % (first, mode.lower()), *(pragmas if first else pragmas[::-1])) as a:
                a.do("PRAGMA wal_autocheckpoint=20")
                a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                for i in range(4):
                    a.commit(ROWS % (10, 2000 * i))
                a.do("DELETE FROM t WHERE id>5")
                if not first and mode == "WAL":
                    a.do("PRAGMA locking_mode=NORMAL")
                    a.do("INSERT INTO t(v) VALUES ('normal again')")
            yield a


def shrink(mount):
    with App(mount, "shrink.db", "journal_mode=WAL") as a:
        a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        a.commit(ROWS % (2000, 2000))
        a.do("DELETE FROM t WHERE id>3")
        a.do("VACUUM")
        a.do("PRAGMA wal_checkpoint(TRUNCATE)")
        need(os.path.getsize(a.path) < 100000, "the file did not shrink")
        a.commit(ROWS % (300, 2000))
        a.do("DROP TABLE t")
        a.do("VACUUM")
    yield a


def run(base):
    with Mount(base).start() as mount:
        apps = [a for make in (page_sizes, auto_vacuum, vacuum, exclusive, shrink) for a in make(mount)]
        mount.sync()
        for a in apps:
            kept(mount, a.name, a.states, sync=False)
        sound(mount, *[a.name for a in apps[::6]])
        mount.umount()


if __name__ == "__main__":
    main("pages", run)
