#!/usr/bin/python3
"""`fazt sync --wait` returns when the targets hold every commit made before the call: also of databases that nobody has opened
yet, of one whose first snapshot takes a while, and of an application that stays open in a mode that makes no request at a
commit. It waits neither for a transaction that is open nor for a lock that an idle application holds."""
import os
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, file_hash, main, need, wait_for  # noqa: E402
from witness import App, sound  # noqa: E402


def latest(mount, name):
    out = os.path.join(mount.base, "latest.db")
    mount.restore(name, out)
    return file_hash(out)


def one(base, *flags):
    n = len(flags)
    mount = Mount(base, *flags, name="app%d" % n, store="store%d" % n)
    before = os.path.join(mount.dir, "before.db")
    con = sqlite3.connect(before)
    con.execute("CREATE TABLE t(v)")
    con.execute("INSERT INTO t VALUES (randomblob(40000000))")  # more than is compared at once
    con.commit()
    con.close()
    with mount:
        mount.start()
        mount.sync()
        need(latest(mount, "before.db") == file_hash(before), "sync --wait did not wait for the first snapshot")
        with App(mount, "silent.db", "journal_mode=OFF", "synchronous=OFF") as a:
            a.do("CREATE TABLE t(v)")
            for i in range(8):
                a.do("INSERT INTO t VALUES (?)", i)
                mount.sync()
                need(latest(mount, "silent.db") == a.states[-1][0], "sync --wait missed silent commit %d", i)
        with App(mount, "open.db", "journal_mode=DELETE", "cache_size=5") as a:
            a.do("CREATE TABLE t(v)")
            a.do("BEGIN IMMEDIATE")
            a.do("INSERT INTO t VALUES (randomblob(3000000))")
            mount.sync(timeout=20)
            need(latest(mount, "open.db") == a.states[-1][0], "an open transaction was shipped")
            a.do("ROLLBACK")
            a.do("PRAGMA locking_mode=EXCLUSIVE")
            a.do("INSERT INTO t VALUES (1)")
            mount.sync(timeout=20)
            need(latest(mount, "open.db") == a.states[-1][0], "sync --wait missed a commit under an EXCLUSIVE lock")
        sound(mount, "before.db", "silent.db", "open.db")
        mount.umount()


def unshippable(base):
    """A name that no store takes: the others are shipped, and it is said instead of waited for."""
    with Mount(base, name="odd", store="odd-store") as mount:
        mount.start()
        for name in ("odd\x01name.db", "even.db"):
            with App(mount, name) as a:
                a.do("CREATE TABLE t(v)")
        for _ in range(2):
            r = fazt("sync", "--wait", mount.dir, check=False)
            need(r.returncode == 2 and "control character" in r.stderr, "sync: exit %d %s", r.returncode, r.stderr)
            need(latest(mount, "even.db") == a.states[-1][0], "the other one was not waited for")
        said = fazt("status", mount.dir, check=False).stdout
        need("last error: odd\\001name.db: " in said and "another name" in said and "    even.db: txid 1\n" in said, "status: %s", said)
        os.unlink(os.path.join(mount.dir, "odd\x01name.db"))
        mount.umount()


def many(base):
    """Whoever waits for a target that is away keeps nobody out, and nothing is left of him when he goes."""
    store = os.path.join(base, "many-store")
    with Mount(base, name="many", store="many-store") as mount:
        mount.start()
        with App(mount, "a.db") as a:
            a.do("CREATE TABLE t(v)")
            mount.sync()
            os.rename(store, store + ".away")
            with open(store, "w"):
                pass
            a.do("INSERT INTO t VALUES (1)")
            waiting = [subprocess.Popen([FAZT, "sync", "--wait", mount.dir], stdin=subprocess.DEVNULL) for _ in range(8)]
            try:
                wait_for("the outage to be seen", lambda: mount.status()["targets"][0]["last_error"])
                need(mount.status()["databases"], "no answer")
                need(all(p.poll() is None for p in waiting), "somebody did not wait")
            finally:
                for p in waiting:
                    p.kill()
                    p.wait()
            os.unlink(store)
            os.rename(store + ".away", store)
            mount.sync()
            need(latest(mount, "a.db") == a.states[-1][0], "what was committed meanwhile is missing")
        mount.umount()


def run(base):
    many(base)
    unshippable(base)
    one(base)
    one(base, "--no-passthrough")


if __name__ == "__main__":
    main("sync-wait", run)
