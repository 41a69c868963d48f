#!/usr/bin/python3
"""A database deep in the tree, whose path is longer than a file name may be, is captured, shipped and restored; and names as long
as SQLite can use are imported and restored to."""
import os
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Mount, fazt, file_hash, main, need  # noqa: E402


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
        for name in ("n" * 234, "n" * 235, "n" * 247, "xx" + "\u00e4" * 122):  # SQLite's own journal leaves no room for more
            here = os.path.join(base, name)
            fazt("import", out, os.path.join(m.dir, name))
            m.sync()
            fazt("restore", m.source(name), "-i", m.key, "-o", here)
            need(file_hash(here) == file_hash(os.path.join(m.dir, name)), "%s was restored to another", name)
            os.unlink(here)
        dead = subprocess.Popen(["true"])
        dead.wait()
        litter = os.path.join(base, "n" * 231 + ".fazt-%d-journal" % dead.pid)
        with open(litter, "w"):
            pass
        fazt("export", os.path.join(m.dir, "n" * 247), os.path.join(base, "n" * 247))
        need(not os.path.exists(litter), "what a killed process left under a shortened name")
        m.umount()


main("long-name", run)
