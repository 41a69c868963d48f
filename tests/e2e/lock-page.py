#!/usr/bin/python3
# timeout: 600
"""A database over 1 GiB: its page at byte 1073741824 holds SQLite's lock bytes and never any data. It lies there before the mount
(zeroblobs in pages of 64 KiB are made quickly), grows past that page in WAL and in rollback mode, and shrinks below it again."""
import os
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, file_hash, main, need  # noqa: E402
from witness import entries_of  # noqa: E402

LOCK = 1 << 30
SIZE = 65536


def make(path):
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA page_size=%d" % SIZE)
    con.execute("PRAGMA synchronous=OFF")
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    con.execute("BEGIN")
    con.execute("INSERT INTO t VALUES (1, zeroblob(540000000))")
    con.execute("INSERT INTO t VALUES (2, zeroblob(533300000))")
    con.execute("COMMIT")
    con.close()


def grow(mount, path, mode, first):
    """Six commits of three pages each; returns the size in bytes."""
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=" + mode)
    for i in range(first, first + 6):
        con.execute("INSERT INTO t VALUES (?, randomblob(150000))", (i,))
    con.execute("UPDATE t SET v=randomblob(140000) WHERE id=?", (first + 2,))
    con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    con.close()
    return os.path.getsize(path)


def run(base):
    mount = Mount(base)
    path, out = os.path.join(mount.dir, "big.db"), os.path.join(base, "out.db")
    make(path)
    need(LOCK - 12 * SIZE < os.path.getsize(path) < LOCK, "the database has %d bytes", os.path.getsize(path))
    with mount:
        mount.start()
        mount.sync(timeout=300)
        first = len(entries_of(mount, "big.db"))
        size = grow(mount, path, "WAL", 10)
        need(size > LOCK + SIZE, "the database did not grow past its lock page: %d bytes", size)
        size = grow(mount, path, "DELETE", 20)
        mount.sync(timeout=300)
        entries = entries_of(mount, "big.db")
        need(len(entries) >= first + 14, "%d commits, then 14 more, are %d", first, len(entries))
        fazt("restore", mount.source("big.db"), "-i", mount.key, "-o", out, timeout=300)
        need(subprocess.run(["cmp", out, path]).returncode == 0, "the restored database differs")
        os.unlink(out)
        live = fazt_json("verify", "--live", "--json", mount.dir, timeout=300)
        need(live["differences"] == 0 and size // SIZE - 1 <= live["pages"] <= size // SIZE, "verify --live: %s", live)
        con = sqlite3.connect(path, isolation_level=None)
        con.execute("DELETE FROM t WHERE id<>22")
        con.execute("VACUUM")
        con.execute("INSERT INTO t VALUES (30, 'small again')")
        con.close()
        need(os.path.getsize(path) < 20 * SIZE, "VACUUM left %d bytes", os.path.getsize(path))
        mount.sync(timeout=300)
        mount.restore("big.db", out)
        need(file_hash(out) == file_hash(path), "after VACUUM the restored database differs")
        r = fazt("verify", mount.source("big.db"), "-i", mount.key, check=False, timeout=300)
        need(r.returncode == 0, "fazt verify: exit %d: %s%s", r.returncode, r.stdout, r.stderr)
        mount.umount()


if __name__ == "__main__":
    main("lock-page", run)
