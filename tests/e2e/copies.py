#!/usr/bin/python3
"""Databases as files: cp into the mount (with and without a sync), cp over an existing one, mv in, out and within, deletion and
re-creation (a new lineage; the old one stays restorable by its time), a new file renamed over the old, a directory renamed
with databases in it. What the store holds last is always what the file is, and nothing it never was."""
import os
import shutil
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, file_hash, main, need  # noqa: E402
from witness import App, entries_of, restored, sound  # noqa: E402


def sh(*args):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    need(r.returncode == 0, "%s: %s", " ".join(args), r.stdout)


def make(path, tag, rows=40, mode="DELETE"):
    """A database outside the mount; returns its hash."""
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=" + mode)
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    con.execute("INSERT INTO t(v) VALUES (?)", (tag,))
    con.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<%d) "
                "INSERT INTO t(v) SELECT randomblob(900) FROM n" % rows)
    con.close()
    return file_hash(path)


def latest(mount, name, want, what):
    mount.sync()
    out = os.path.join(mount.base, "latest.db")
    mount.restore(name, out)
    need(file_hash(out) == want, "%s: the store's latest state is not the file", what)
    return entries_of(mount, name)


def only(mount, name, hashes, what):
    got = set(restored(mount, name, entries_of(mount, name)))
    need(got <= set(hashes), "%s: %d states in the store were never the database", what, len(got - set(hashes)))


def cp(mount, base):
    for mode in ("DELETE", "WAL"):
        for sync in (False, True):
            name = "cp-%s-%d.db" % (mode.lower(), sync)
            source = os.path.join(base, name)
            first = make(source, "first", mode=mode)
            sh("cp", source, os.path.join(mount.dir, name))
            if sync:
                sh("sync", os.path.join(mount.dir, name))
            latest(mount, name, first, "cp of " + name)
            only(mount, name, [first], "cp of " + name)
            with App(mount, name) as a:
                a.do("INSERT INTO t(v) VALUES ('grown')")
            grown = a.states[-1][0]
            latest(mount, name, grown, name)
            for rows in (200, 5):  # over the existing one: longer, then shorter
                os.unlink(source)
                second = make(source, "over %d" % rows, rows, mode)
                sh("cp", source, os.path.join(mount.dir, name))
                if sync:
                    sh("sync", os.path.join(mount.dir, name))
                latest(mount, name, second, "cp over " + name)
                with App(mount, name) as a:
                    a.do("INSERT INTO t(v) VALUES ('after')")
                latest(mount, name, a.states[-1][0], name)


def mv(mount, base):
    source = os.path.join(base, "mv.db")
    first = make(source, "mv")
    shutil.move(source, os.path.join(mount.dir, "in.db"))
    latest(mount, "in.db", first, "mv in")
    shutil.move(os.path.join(mount.dir, "in.db"), source)
    need(file_hash(source) == first, "mv out changed the file")
    with App(mount, "kept.db", "journal_mode=WAL") as a:
        a.do("CREATE TABLE t(v)")
    os.makedirs(os.path.join(mount.dir, "d1/d2"))
    for old, new in (("kept.db", "renamed.db"), ("renamed.db", "d1/d2/deep.db")):
        os.rename(os.path.join(mount.dir, old), os.path.join(mount.dir, new))
        with App(mount, new) as b:
            b.do("INSERT INTO t VALUES (?)", new)
        latest(mount, new, b.states[-1][0], "rename to " + new)
    os.rename(os.path.join(mount.dir, "d1"), os.path.join(mount.dir, "d9"))
    with App(mount, "d9/d2/deep.db") as b:
        b.do("INSERT INTO t VALUES ('directory')")
    latest(mount, "d9/d2/deep.db", b.states[-1][0], "rename of a directory")
    names = [d["name"] for d in mount.status()["databases"]]
    need(not {"in.db", "kept.db", "renamed.db", "d1/d2/deep.db"} & set(names), "status still lists %s", names)


def again(mount):
    """Deleted and made anew."""
    with App(mount, "again.db") as a:
        for statement in ("PRAGMA journal_mode=WAL", "CREATE TABLE t(v)", "INSERT INTO t VALUES ('old')"):
            a.do(statement)
            time.sleep(0.05)  # commits are told apart by time
    old = a.states
    mount.sync()
    lineage = mount.database("again.db")["lineage"]
    os.unlink(a.path)
    time.sleep(0.05)
    with App(mount, "again.db", "journal_mode=DELETE") as b:
        b.do("CREATE TABLE other(v)")
        b.do("INSERT INTO other VALUES ('new')")
    latest(mount, "again.db", b.states[-1][0], "the new one")
    need(mount.database("again.db")["lineage"] != lineage, "the new database goes on in the old one's lineage")
    out = os.path.join(mount.base, "old.db")
    for digest, what, ms in old:
        ms += 25
        mount.restore("again.db", out, "--at", "%s.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms / 1000)), ms % 1000))
        need(file_hash(out) == digest, "--at in the old one's time, after '%s', gives another state", what)
    return b


def over(mount, base):
    """The way editors save: write anew beside it, sync, rename over."""
    with App(mount, "over.db", "journal_mode=DELETE") as a:
        a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        a.do("INSERT INTO t(v) VALUES ('first life')")
    mount.sync()
    fresh = make(os.path.join(mount.dir, "over.db.new"), "fresh")
    os.rename(os.path.join(mount.dir, "over.db.new"), a.path)
    latest(mount, "over.db", fresh, "rename over")
    with App(mount, "over.db") as b:
        b.do("INSERT INTO t(v) VALUES ('second life')")
    latest(mount, "over.db", b.states[-1][0], "after the rename over")


def run(base):
    with Mount(base).start() as mount:
        cp(mount, base)
        mv(mount, base)
        again(mount)
        over(mount, base)
        for d in mount.status()["databases"]:
            sound(mount, d["name"])
        mount.umount()


if __name__ == "__main__":
    main("copies", run)
