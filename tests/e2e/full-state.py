#!/usr/bin/python3
"""The disk of the state directory is full: the application commits on, shipping says so once and not again and again,
`fazt umount` refuses in one clear sentence, `fazt umount --force` unmounts, and with room again the next mount captures what
is missing by comparing: what is restored is the database.
# timeout: 120
"""
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Mount, fazt, is_mounted, main, need, wait_for  # noqa: E402


def run(base):
    state = os.path.join(base, "state")
    os.mkdir(state)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", state], check=True)
    try:
        storm(base, state)
    finally:
        subprocess.run(["umount", state], check=False)


def storm(base, state):
    with Mount(base, "--state", state).start() as m:
        path = os.path.join(m.dir, "app.db")
        con = sqlite3.connect(path, isolation_level=None)
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("PRAGMA wal_autocheckpoint=0")
        con.execute("CREATE TABLE t(x)")
        con.execute("INSERT INTO t VALUES('before')")
        other, new = os.path.join(m.dir, "other.db"), os.path.join(base, "new.db")
        for name in (other, new):
            with contextlib.closing(sqlite3.connect(name)) as c:
                c.execute("CREATE TABLE t AS SELECT ? AS name", (name,))
                c.commit()
        m.sync()
        with open(os.path.join(state, "fill"), "wb", buffering=0) as fill:
            try:
                while True:
                    fill.write(b"\0" * 4096)
            except OSError:
                pass
        for n in range(400):
            con.execute("INSERT INTO t VALUES(?)", (os.urandom(20000),))
        con.close()
        r = fazt("import", "--force", new, other, check=False)
        need(r.returncode == 1 and "other.db is written, but" in r.stderr, "import with a full state disk: exit %d: %s", r.returncode, r.stderr)
        with contextlib.closing(sqlite3.connect(other)) as c:
            need(c.execute("SELECT name FROM t").fetchone()[0] == new, "and it is not")
        r = fazt("umount", m.dir, check=False)
        need(r.returncode == 1 and is_mounted(m.dir), "umount with a full state disk: exit %d: %s", r.returncode, r.stderr)
        need("--force" in r.stderr and "No space left" in r.stderr, "umount does not say what to do: %s", r.stderr)
        for _ in range(3):
            fazt("umount", m.dir, check=False)
        con = sqlite3.connect(path)
        n = con.execute("SELECT count(*) FROM t").fetchone()[0]
        con.close()
        need(n == 401, "the mount does not serve on: %d rows", n)
        fazt("umount", "--force", m.dir)
        wait_for("the end of fazt mount", lambda: m.proc.poll() is not None)
        need(m.proc.returncode == 0 and not is_mounted(m.dir), "forced, and yet: %s", m.tail())
        with open(os.path.join(base, "fazt.log")) as f:
            said = sum("shipping waits" in line or " again" in line for line in f)
        need(said <= 4, "%d lines about one full disk:\n%s", said, m.tail())
        os.unlink(os.path.join(state, "fill"))
        subprocess.run(["mount", "-o", "remount,size=64m", state], check=True)
    with Mount(base, "--state", state).start() as m:
        m.sync()
        m.restore("app.db", os.path.join(base, "out.db"))
        m.umount()
    for name in ("app.db", "app.db-wal"):
        if os.path.exists(os.path.join(base, "app", name)):
            shutil.copy(os.path.join(base, "app", name), os.path.join(base, name.replace("app", "copy")))
    con = sqlite3.connect(os.path.join(base, "copy.db"), isolation_level=None)
    con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    con.execute("PRAGMA journal_mode=DELETE")
    con.close()
    out = sqlite3.connect(os.path.join(base, "out.db"))
    need(out.execute("SELECT count(*) FROM t").fetchone()[0] == 401, "commits are missing")
    out.close()
    need(integrity_same(base), "the restore is not the database")


def integrity_same(base):
    rows = []
    for name in ("copy.db", "out.db"):
        con = sqlite3.connect(os.path.join(base, name))
        need(con.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "%s is damaged", name)
        rows.append(con.execute("SELECT rowid, x FROM t ORDER BY rowid").fetchall())
        con.close()
    return rows[0] == rows[1]


main("full-state", run)
