#!/usr/bin/python3
"""Databases that were there before the mount, or changed while nothing was mounted: new ones that nobody opens, rows added, a WAL
left behind, a checkpoint, VACUUM with a new page size, a hot journal, deletion, replacement, more of them in subdirectories.
Each is noticed at the start, and becomes a commit of its own."""
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, file_hash, main, need, serialize_hash  # noqa: E402
from witness import App, entries_of, once, restored, sound  # noqa: E402

KILLED = """
import os, sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("PRAGMA cache_size=2")
con.execute(sys.argv[2])
if len(sys.argv) > 3:
    con.execute("BEGIN IMMEDIATE")
    con.execute(sys.argv[3])
os.kill(os.getpid(), 9)
"""


def killed(path, sql, unfinished=None):
    """sql is committed, unfinished is not; then the application dies, with nothing closed."""
    r = subprocess.run(["/usr/bin/python3", "-c", KILLED, path, sql] + ([unfinished] if unfinished else []))
    need(r.returncode == -signal.SIGKILL, "the application to be killed ended with %d", r.returncode)


def native(path, *statements):
    con = sqlite3.connect(path, isolation_level=None)
    for s in statements:
        con.execute(s).fetchall()
    con.close()


def table(path, mode):
    native(path, "PRAGMA journal_mode=" + mode, "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)",
           "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<60) INSERT INTO t(v) SELECT randomblob(900) FROM n")


def wal_left(p):
    killed(p, "INSERT INTO t(v) VALUES ('in the WAL')")
    need(os.path.getsize(p + "-wal") > 0, "no WAL was left behind")


def hot_journal(p):
    killed(p, "INSERT INTO t(v) VALUES ('kept')", "UPDATE t SET v=randomblob(900)")
    need(os.path.getsize(p + "-journal") > 512, "no hot journal was left behind")


CASES = {
    "nothing": ("DELETE", lambda p: None),
    "rows": ("DELETE", lambda p: native(p, "INSERT INTO t(v) VALUES ('offline')")),
    "walrows": ("WAL", lambda p: native(p, "INSERT INTO t(v) VALUES ('offline')")),
    "walleft": ("WAL", wal_left),
    "checkpointed": ("WAL", lambda p: (wal_left(p), native(p, "PRAGMA wal_checkpoint(TRUNCATE)"))),
    "vacuum": ("DELETE", lambda p: native(p, "DELETE FROM t WHERE id%2", "VACUUM")),
    "pagesize": ("DELETE", lambda p: native(p, "PRAGMA page_size=1024", "VACUUM")),
    "tomode": ("WAL", lambda p: native(p, "PRAGMA journal_mode=DELETE", "INSERT INTO t(v) VALUES ('rollback')")),
    "hot": ("DELETE", hot_journal),
    "hotpersist": ("PERSIST", hot_journal),
    "shorter": ("DELETE", lambda p: (os.unlink(p), table(p, "DELETE"), native(p, "DELETE FROM t", "VACUUM"))),
    "touched": ("DELETE", lambda p: os.utime(p)),
}


def state_of(path):
    """What SQLite makes of it, looked at in a copy."""
    copy = path + ".look"
    for suffix in ("", "-wal", "-journal"):
        if os.path.exists(path + suffix):
            subprocess.run(["cp", path + suffix, copy + suffix], check=True)
    h = serialize_hash_rw(copy)
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(copy + suffix):
            os.unlink(copy + suffix)
    return h


def serialize_hash_rw(path):
    con = sqlite3.connect(path)
    con.execute("SELECT count(*) FROM t").fetchall()  # recovery, or rollback of the journal
    con.close()
    return serialize_hash(path)


def run(base):
    mount = Mount(base)
    os.makedirs(os.path.join(mount.dir, "deep/er"))
    paths = {n: os.path.join(mount.dir, "deep/er" if n == "rows" else "", n + ".db") for n in CASES}
    names = {n: os.path.relpath(p, mount.dir) for n, p in paths.items()}
    for n, (mode, _) in CASES.items():
        table(paths[n], mode)
    with open(os.path.join(mount.dir, "notes.txt"), "w") as f:
        f.write("SQLite format 2: not a database\n")
    states = {n: [state_of(p)] for n, p in paths.items()}
    with mount:
        for round_ in range(3):
            mount.start()
            mount.sync()  # nobody has opened them through the mount
            for n in CASES:
                got = once(restored(mount, names[n], entries_of(mount, names[n])))
                need(got == states[n], "%s, round %d: %d states are restorable, %d were there", n, round_, len(got),
                     len(states[n]))
            if round_ == 1:  # after an orderly end; the next one has an application that dies with the mount
                with App(mount, names["rows"], note=False) as a:
                    a.do("INSERT INTO t(v) VALUES ('online')")
                states["rows"].append(state_of(os.path.join(mount.dir, names["rows"])))
            known = {d["name"] for d in mount.status()["databases"]}
            need(known == set(names.values()), "status lists %s", known)
            sound(mount, *[names[n] for n in CASES])
            mount.umount()
            if round_ == 0:
                for n, (_, change) in CASES.items():
                    change(paths[n])
                    now = state_of(paths[n])
                    if now != states[n][-1]:
                        states[n].append(now)
        # deleted while not mounted, and replaced by another kind of file
        os.unlink(paths["nothing"])
        with open(paths["touched"], "w") as f:
            f.write("now a text\n")
        mount.start()
        mount.sync()
        known = {d["name"] for d in mount.status()["databases"]}
        need(names["nothing"] not in known, "a deleted database is still listed")
        out = os.path.join(base, "out.db")
        mount.restore(names["nothing"], out)
        need(file_hash(out) == states["nothing"][-1], "the deleted database cannot be restored as it was")
        mount.umount()


if __name__ == "__main__":
    main("offline", run)
