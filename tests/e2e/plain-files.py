#!/usr/bin/python3
"""What is no database is not taken for one: files that begin empty, as all do, and are then written, closed and opened again,
and the companions' names without a database. A database that begins the same way is captured."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Mount, main, need  # noqa: E402


def run(base):
    with Mount(base).start() as m:
        for name, text in (("note.txt", b"x" * 160), ("large.bin", b"y" * 100000), ("a-wal", b"z" * 4096), ("b-journal", b"z" * 512)):
            path = os.path.join(m.dir, name)
            with open(path, "wb") as f:
                f.write(text)
            for mode in ("rb", "r+b", "ab"):
                with open(path, mode) as f:
                    if mode != "rb":
                        f.write(text)
                    f.flush()
                    os.fsync(f.fileno())
            with open(path, "rb") as f:
                need(f.read().startswith(text), "%s has another content", name)
        open(os.path.join(m.dir, "empty"), "wb").close()
        con = sqlite3.connect(os.path.join(m.dir, "real.db"), isolation_level=None)
        con.execute("CREATE TABLE t(x)")
        con.execute("INSERT INTO t VALUES(1)")
        con.close()
        m.sync()
        known = [d["name"] for d in m.status()["databases"]]
        need(known == ["real.db"], "databases are said to be %s", known)
        need(m.database("real.db")["txid"] == 2, "real.db has other commits than its two")
        m.umount()


main("plain-files", run)
