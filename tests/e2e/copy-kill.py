#!/usr/bin/python3
# beside
"""A database is written by something that is not SQLite (cp, an editor, a restore script) and the worker is killed at each
point of the copy: before the first byte, in the middle, between the last byte and the close. What the new worker knows of
the copy is what it finds; the log must hold exactly the copied file soon after the close, and nobody asks for a compare."""
import contextlib
import mmap
import os
import shutil
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, alive, fazt, file_hash, main, need, wait_for  # noqa: E402

CHUNKS = 6


def make(path, tag, rows, mode, live=False):
    """A database outside the mount; live: copied while it is open, so that its WAL goes along."""
    con = sqlite3.connect(path + ".made", isolation_level=None)
    con.execute("PRAGMA journal_mode=" + mode)
    con.execute("PRAGMA synchronous=OFF")
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    con.execute("INSERT INTO t(v) VALUES (?)", (tag,))
    con.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<%d) "
                "INSERT INTO t(v) SELECT randomblob(900) FROM n" % rows)
    if live:
        con.execute("PRAGMA wal_checkpoint")
        con.execute("UPDATE t SET v=randomblob(800) WHERE id % 3 = 0")
        shutil.copy(path + ".made-wal", path + "-wal")
    else:
        con.close()
    shutil.copy(path + ".made", path)
    con.close()
    os.unlink(path + ".made")


def content(path):
    """Hash of what SQLite sees in a database and its WAL, looked at in a copy."""
    copy = path + ".seen"
    for end in ("", "-wal"):
        if os.path.exists(path + end):
            shutil.copy(path + end, copy + end)
    con = sqlite3.connect(copy)
    con.execute("SELECT count(*) FROM sqlite_master").fetchall()
    con.close()
    h = file_hash(copy)
    os.unlink(copy)
    return h


def kill(mount, wait):
    old = mount.kill_worker()
    if wait:
        wait_for("another worker", lambda: not alive(old) and mount.status()["worker_pid"] != old)


def write_over(mount, source, target, at, way, meanwhile=None):
    """cp in chunks; the worker is killed before chunk `at` (CHUNKS: before the close; beyond: never). way: "cp" empties the
    file first, "over" does not, "holes" leaves pages of zeros unwritten; "slow" pauses, so that parts of it are captured;
    "blind" goes on without waiting for the new worker."""
    with open(source, "rb") as f:
        data = f.read()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | (0 if "over" in way else os.O_TRUNC), 0o644)
    step = (len(data) // CHUNKS // 4096 + 1) * 4096
    for i in range(CHUNKS + 1):
        if i == at:
            if meanwhile:
                meanwhile()
            kill(mount, "blind" not in way)
        for off in range(i * step, min((i + 1) * step, len(data)), 4096):
            page = data[off:off + 4096]
            if "holes" not in way or page.strip(b"\0"):
                os.pwrite(fd, page, off)
        if "slow" in way:
            time.sleep(0.08)  # more than it takes to look quiet
    os.ftruncate(fd, len(data))
    os.close(fd)


def captured(mount, name, want, what):
    """The log holds it, and nobody asked for it."""
    out = os.path.join(mount.base, "now.db")

    def same():
        r = fazt("restore", os.path.join(mount.dir, name), "-o", out, "--force", check=False)
        return r.returncode == 0 and file_hash(out) == want
    try:
        wait_for("the log to hold the copy", same, 10)
    except Exception as e:
        raise type(e)("%s: %s" % (what, e))


NEVER = CHUNKS + 1
CASES = []
for old_mode in (None, "DELETE", "WAL"):
    for new_mode in ("DELETE", "WAL"):
        for at in (0, 3, CHUNKS):
            for way in ("cp", "cp slow", "cp blind", "over", "over slow", "holes"):
                if old_mode or "over" not in way:
                    CASES.append((old_mode, new_mode, at, way, "closed"))
        CASES.append((old_mode, new_mode, NEVER, "cp slow", "closed"))
for at in (0, 3, CHUNKS):
    for way in ("cp", "cp slow"):
        CASES.append(("DELETE", "DELETE", at, way, "sqlite"))  # a connection is open, and closed meanwhile
        CASES.append(("WAL", "DELETE", at, way, "opened"))     # one was open before
        CASES.append((None, "WAL", at, way, "live"))           # its WAL is copied as well
        CASES.append(("WAL", "WAL", at, way, "live"))
        CASES.append(("WAL", "WAL", at, way, "held"))          # emptied and written under a WAL that is in use
CASES.append(("WAL", "WAL", NEVER, "cp slow", "held"))


def case(mount, base, k, old_mode, new_mode, at, way, extra):
    name = "c%d.db" % k
    target = os.path.join(mount.dir, name)
    what = "%s: %s over %s by %s, %s, killed at %d" % (name, new_mode, old_mode, way, extra, at)
    old, new = os.path.join(base, "old.db"), os.path.join(base, "new.db")
    con = None
    if old_mode:
        make(old, "old", 60, old_mode)
        shutil.copy(old, target)
        captured(mount, name, file_hash(old), what + " (before)")
    if extra in ("sqlite", "opened", "held"):
        con = sqlite3.connect(target, isolation_level=None)
        con.execute("INSERT INTO t(v) VALUES ('by SQLite')")
        if extra == "opened":
            con.close()
            con = None
    make(new, "new", 60 if way == "over" else 45 + 30 * (k % 2), new_mode, extra == "live")
    if "holes" in way:
        con2 = sqlite3.connect(new, isolation_level=None)
        con2.execute("INSERT INTO t(v) VALUES (zeroblob(40000))")
        con2.close()
    want = content(new)
    if extra == "held":
        with contextlib.closing(con):
            held(mount, con, new, target, at, way)
            captured(mount, name, want, what)
    else:
        write_over(mount, new, target, at, way, con and con.close)
    if extra == "live":
        write_over(mount, new + "-wal", target + "-wal", at, way)
        captured_live(mount, name, want, what)
    elif extra != "held":
        captured(mount, name, want, what)
    for f in (old, new, new + "-wal"):
        if os.path.exists(f):
            os.unlink(f)


def held(mount, con, new, target, at, way):
    """As a restore does it that takes all of SQLite's locks first (sqlite3demo_superlock): the wal-index is voided, the
    file and its WAL are written, whoever comes next recovers."""
    with open(target + "-shm", "r+b") as f, mmap.mmap(f.fileno(), 4096) as shm:
        shm[0:32] = bytes(32)
        write_over(mount, new, target, at, way)
        os.truncate(target + "-wal", 0)
    con.execute("SELECT count(*) FROM t").fetchall()


def captured_live(mount, name, want, what):
    """A WAL that was copied is not the database's before a connection has looked at it."""
    con = sqlite3.connect(os.path.join(mount.dir, name))
    con.execute("SELECT count(*) FROM t").fetchall()
    captured(mount, name, want, what)
    con.close()
    captured(mount, name, want, what + " (closed)")


def run(base):
    only = [int(a) for a in sys.argv[1:]]
    bad = []
    for flags in ([], ["--no-passthrough"]):
        with Mount(base, *flags, name="app%d" % len(flags), store="store%d" % len(flags)).start() as mount:
            for k, c in enumerate(CASES):
                if only and k not in only:
                    continue
                try:
                    case(mount, base, k, *c)
                except Exception as e:
                    bad.append("%s %s" % (flags, e))
                    print(bad[-1], flush=True)
            for d in mount.status()["databases"]:
                if d["scrub_found"]:
                    bad.append("%s: the scrub found %s differences" % (d["name"], d["scrub_found"]))
            mount.umount()
    need(not bad, "%d cases: %s", len(bad), "; ".join(bad))


if __name__ == "__main__":
    main("copy-kill", run)
