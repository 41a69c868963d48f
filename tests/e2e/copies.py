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
from faztlib import Mount, evict, file_hash, main, need  # noqa: E402
from witness import App, entries_of, kept, pages_hash, restored, sound  # noqa: E402


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


def turned(mount, base):
    """What was no database when it was opened becomes one while a handle stays open: by a new name, its own or a directory's, or by
    what is written into it. Who opens it then is captured, commit by commit; and under an excluded name nothing is."""
    os.makedirs(os.path.join(mount.dir, "part"))
    for mode in ("DELETE", "WAL"):
        for way, old, new in (("name", "a.part", "turned-%s.db"), ("companion", "b-journal", "companion-%s.db"),
                              ("directory", "part/in-%s.db", "whole/in-%s.db"), ("content", "same-%s.dat", "same-%s.dat"), ("empty", "empty-%s.dat", "empty-%s.dat")):
            old, new = [n % mode.lower() if "%" in n else n for n in (old, new)]
            source, path = os.path.join(base, "turned.db"), os.path.join(mount.dir, new)
            first = make(source, way, mode=mode)
            with open(source, "rb") as f:
                image = f.read()
            os.unlink(source)
            fd = os.open(os.path.join(mount.dir, old), os.O_RDWR | os.O_CREAT | os.O_EXCL)
            if way == "content":
                os.write(fd, b"no database so far")
                os.close(fd)
                fd = os.open(path, os.O_RDWR)
            os.pwrite(fd, image, 0)
            if way == "directory":
                os.rename(os.path.dirname(os.path.join(mount.dir, old)), os.path.dirname(path))
            elif old != new:
                os.rename(os.path.join(mount.dir, old), path)
            with App(mount, new) as a:
                a.states.append((first, "as it came", 0))
                for i in range(5):
                    a.do("INSERT INTO t(v) VALUES (?)", "%s %d" % (way, i))
            os.close(fd)
            kept(mount, new, a.states)
            if way == "directory":
                os.rename(os.path.dirname(path), os.path.dirname(os.path.join(mount.dir, old)))
    with App(mount, "back.db") as a:
        a.do("CREATE TABLE t(v)")
        fd = os.open(a.path, os.O_RDWR)
    os.rename(a.path, a.path + ".part")
    os.close(fd)
    with App(mount, "back.db.part") as b:
        b.do("INSERT INTO t VALUES ('unseen')")
    mount.sync()
    names = [d["name"] for d in mount.status()["databases"]]
    need("back.db" not in names and "back.db.part" not in names and "part/in-wal.db" not in names,
         "an excluded name is captured: %s", names)


def published(mount, base, mode):
    """A second name, then the first one goes: how many programs publish a file, and how some move it."""
    name = "linked-%s.db" % mode.lower()
    source, part = os.path.join(base, name), os.path.join(mount.dir, name + ".tmp")
    first = make(source, "linked", mode=mode)
    shutil.copy(source, part)
    fd = os.open(part, os.O_RDWR)
    os.link(part, os.path.join(mount.dir, name))
    os.unlink(part)
    with App(mount, name) as a:
        a.states.append((first, "as it came", 0))
        for i in range(5):
            a.do("INSERT INTO t(v) VALUES (?)", i)
    os.close(fd)
    kept(mount, name, a.states)

    # an application has it open; a name that it never used comes and goes first
    old, new = "old-" + name, "new-" + name
    with App(mount, old, "journal_mode=" + mode, "wal_autocheckpoint=0") as a:
        a.do("CREATE TABLE t(v)")
        os.link(a.path, a.path + ".bak")
        os.unlink(a.path + ".bak")
        a.do("INSERT INTO t VALUES ('by its name')")
        kept(mount, old, a.states)
        if mode == "WAL":
            a.query("PRAGMA wal_checkpoint")
        for end in ("", "-wal", "-shm"):
            if os.path.exists(a.path + end):
                os.link(a.path + end, os.path.join(mount.dir, new + end))
                os.unlink(a.path + end)
        with App(mount, new, states=a.states[-1:]) as b:
            for i in range(5):
                b.do("INSERT INTO t VALUES (?)", i)
            kept(mount, new, b.states)

    # two names for good: what is done by either is kept
    old, new = "one-" + name, "two-" + name
    with App(mount, old, "journal_mode=" + mode) as a:
        a.do("CREATE TABLE t(v)")
        a.do("CREATE TABLE u(v)")
    os.link(a.path, os.path.join(mount.dir, new))
    with App(mount, new, states=a.states[-1:]) as b:
        for i in range(5):
            b.do("INSERT INTO t VALUES (?)", i)
    kept(mount, new, b.states)
    with App(mount, old, states=b.states[-1:]) as a:  # pages that it does not touch itself have changed
        a.do("INSERT INTO u VALUES ('by the first name again')")
    latest(mount, old, a.states[-1][0], "written by the other name, then by this one")
    with App(mount, new, states=a.states[-1:]) as b:
        b.do("INSERT INTO t VALUES ('and by the second')")
    latest(mount, new, b.states[-1][0], "written by both names in turn")
    os.unlink(a.path)
    with App(mount, new, states=b.states) as b:
        b.do("INSERT INTO t VALUES ('left')")
    latest(mount, new, b.states[-1][0], "its other name is gone")


def unlinked(mount, mode):
    """A database is unlinked while it is open, and has another name that nobody has looked up. It is captured by that name, after a
    worker's death as well; under the path where it lives on without a name it is no database."""
    first, other = "first-%s.db" % mode, "other-%s.db" % mode
    with App(mount, first, "journal_mode=" + mode) as a:
        a.do("CREATE TABLE t(v)")
    path = a.path
    os.link(path, os.path.join(mount.dir, other))
    evict(mount.dir)
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    mount.kill_worker()
    with App(mount, other) as a:
        a.note("as it came")
        for i in range(3):
            a.do("INSERT INTO t VALUES (?)", i)
    kept(mount, other, a.states)
    os.unlink(a.path)
    again = os.open("/proc/self/fd/%d" % fd, os.O_RDONLY)
    need(os.pread(again, 15, 0) == b"SQLite format 3", "the unlinked file reads differently")
    mount.sync()
    known = [d["name"] for d in mount.status()["databases"]]
    need(not [n for n in known if n.startswith(".fazt") or n in (first, other)], "known are %s", known)
    os.close(again)
    os.close(fd)


def followed(mount, base, mode):
    """Companions that are open when names change: their directory's, or one after the other."""
    keep = "PERSIST" if mode == "DELETE" else mode
    d1, d2 = os.path.join(mount.dir, "from-" + mode), os.path.join(mount.dir, "to-" + mode)
    os.mkdir(d1)
    with App(mount, "from-%s/x.db" % mode, *(["locking_mode=EXCLUSIVE"] if keep == "PERSIST" else []), "journal_mode=" + keep) as a:
        a.do("CREATE TABLE t(v)")
        os.rename(d1, d2)
        before, states = a.states, a.states[-1:]
        a.states = states
        for i in range(5):
            a.do("INSERT INTO t VALUES (?)", i)
        kept(mount, "to-%s/x.db" % mode, states)
        kept(mount, "from-%s/x.db" % mode, before)
    kept(mount, "to-%s/x.db" % mode, states)
    if mode != "WAL":
        return
    with App(mount, "m.db", "journal_mode=WAL") as a:
        a.do("CREATE TABLE t(v)")
        a.query("PRAGMA wal_checkpoint(TRUNCATE)")
        file = a.states[-1]
        a.do("INSERT INTO t VALUES ('in the WAL')")
        a.states = [file, a.states[-1]]
        for end in ("", "-shm", "-wal"):
            os.rename(a.path + end, os.path.join(d2, "m.db" + end))
        for i in range(5):
            a.do("INSERT INTO t VALUES (?)", i)
        kept(mount, "to-WAL/m.db", a.states)
        with App(mount, "to-WAL/m.db", states=a.states) as b:
            b.do("INSERT INTO t VALUES ('another connection')")
            kept(mount, "to-WAL/m.db", b.states)


KILLED = """
import os, signal, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode=WAL")
c.execute("CREATE TABLE t(v)")
c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
for i in range(20):
    c.execute("INSERT INTO t VALUES (randomblob(900))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_behind(mount, base):
    """Nobody opens a database that was killed and moved; its WAL comes last."""
    for way in (os.rename, lambda a, b: (os.link(a, b), os.unlink(a))):
        path, new = os.path.join(mount.dir, "killed.db"), os.path.join(mount.dir, "left.db")
        subprocess.run([sys.executable, "-c", KILLED, path])
        for end in ("", "-wal"):
            shutil.copy(path + end, os.path.join(base, "killed.db" + end))
        for end in ("", "-shm", "-wal"):
            way(path + end, new + end)
        con = sqlite3.connect(os.path.join(base, "killed.db"))
        need(con.execute("SELECT count(*) FROM t").fetchone() == (20,), "the test's own database")
        want = pages_hash(con.serialize())
        con.close()
        latest(mount, "left.db", want, "moved with its WAL")
        with App(mount, "left.db") as a:
            a.do("INSERT INTO t VALUES ('goes on')")
        latest(mount, "left.db", a.states[-1][0], "opened after that")
        os.unlink(new)


def names(mount, base):
    for mode in ("DELETE", "WAL"):
        published(mount, base, mode)
        followed(mount, base, mode)
        unlinked(mount, mode)
    left_behind(mount, base)
    for d in mount.status()["databases"]:
        sound(mount, d["name"])


def run(base):
    conf = os.path.join(base, "fazt.conf")
    with open(conf, "w") as f:
        f.write("[mount]\nexclude = *.part\nexclude = part/*\n")
    with Mount(base, "--config", conf).start() as mount:
        turned(mount, base)
        names(mount, base)
        cp(mount, base)
        mv(mount, base)
        again(mount)
        over(mount, base)
        for d in mount.status()["databases"]:
            sound(mount, d["name"])
        mount.umount()
    base = os.path.join(base, "told")
    os.mkdir(base)
    with Mount(base, "--no-passthrough").start() as mount:
        names(mount, base)
        mount.umount()


if __name__ == "__main__":
    main("copies", run)
