#!/usr/bin/python3
"""A file that is shorter than its only page, which SQLite leaves behind after the backup of an empty database into one with
larger pages, is a database of one page. A header that claims more pages than the file holds is believed no more than SQLite
does: neither the table of checksums nor the log grows with it."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Mount, main, need  # noqa: E402


def short_page(m, base):
    path = os.path.join(m.dir, "short.db")
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA page_size=4096")
    con.execute("CREATE TABLE t(a, b)")
    empty = sqlite3.connect(os.path.join(m.dir, "empty.db"), isolation_level=None)
    empty.execute("PRAGMA page_size=1024")
    empty.backup(con)
    con.close()
    empty.close()
    with open(path, "rb") as f:
        real = f.read()
    need(len(real) == 1024 and real[16:18] == b"\x10\x00", "SQLite left %d bytes: this is not the case to be tested", len(real))
    m.sync()
    out = os.path.join(base, "out")
    m.restore("short.db", out)
    with open(out, "rb") as f:
        got = f.read()
    need(got == real + bytes(3072), "the restored file is not the page that SQLite reads: %d bytes", len(got))


def claim(m):
    path = os.path.join(m.dir, "claim.db")
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("CREATE TABLE t(a)")
    con.execute("INSERT INTO t VALUES(zeroblob(20000))")
    con.close()
    with open(path, "r+b") as f:
        f.seek(28)
        f.write(b"\xff\xff\xff\xfe")
    con = sqlite3.connect(path, isolation_level=None)
    try:
        con.execute("SELECT count(*) FROM t").fetchall()
        need(False, "SQLite accepts the header: this is not the case to be tested")
    except sqlite3.DatabaseError:
        pass
    con.close()
    m.sync()
    d = m.database("claim.db")
    need(d["pages"] * d["page_size"] == os.path.getsize(path), "%d pages of %d bytes are said to be there", d["pages"], d["page_size"])
    need(not d["last_error"], "capture reports: %s", d["last_error"])


def run(base):
    with Mount(base).start() as m:
        short_page(m, base)
        claim(m)
        m.umount()


main("odd-sizes", run)
