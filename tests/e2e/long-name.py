#!/usr/bin/python3
"""A database deep in the tree, whose path is longer than a file name may be, is captured, shipped and restored."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Mount, file_hash, main, need  # noqa: E402


def run(base):
    with Mount(base).start() as m:
        name = "/".join(["d" + 30 * "0"] * 10) + "/app.db"
        path = os.path.join(m.dir, name)
        os.makedirs(os.path.dirname(path))
        con = sqlite3.connect(path)
        con.execute("CREATE TABLE t(x)")
        con.execute("INSERT INTO t VALUES(1)")
        con.commit()
        con.close()
        m.sync()
        out = os.path.join(base, "out")
        m.restore(name, out)
        need(file_hash(out) == file_hash(path), "the restored database is another one")
        m.umount()


main("long-name", run)
