#!/usr/bin/python3
"""PERSIST: the journal's end is a write that no request tells of, and the next transaction overwrites it at once. Commits that
were made so, and one that was killed on top of them, leave nothing uncaptured: neither the log nor the scrub misses a page."""
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Mount, fazt, main, need, serialize_hash, file_hash  # noqa: E402

# Commits that touch pages of their own, then one that dies when its journal is synced and pages are spilled.
APP = """
import os, signal, sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("PRAGMA page_size=1024")
con.execute("PRAGMA journal_mode=PERSIST")
con.execute("PRAGMA synchronous=OFF") # no fsync tells of a commit either
con.execute("CREATE TABLE IF NOT EXISTS t(a INTEGER PRIMARY KEY, b)")
if not con.execute("SELECT count(*) FROM t").fetchone()[0]:
    con.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<64) INSERT INTO t SELECT i, randomblob(700) FROM n")
for i in range(2, 20):
    con.execute("UPDATE t SET b=randomblob(700) WHERE a=?", (i,))
con.execute("PRAGMA cache_size=1")
con.execute("BEGIN")
con.execute("PRAGMA user_version=7") # page 1 is in the journal before the commit, too
con.execute("UPDATE t SET b=randomblob(700) WHERE a BETWEEN 40 AND 60")
os.kill(os.getpid(), signal.SIGKILL)
"""


def run(base):
    with Mount(base).start() as m:
        path = os.path.join(m.dir, "app.db")
        hold = sqlite3.connect(path)  # the file is new: as long as somebody has it open, its writes pass through
        hold.execute("SELECT count(*) FROM sqlite_master").fetchall()
        for n in range(10):
            r = subprocess.run([sys.executable, "-c", APP, path], stderr=subprocess.PIPE, text=True)
            need(r.returncode == -signal.SIGKILL, "the application ended with %d: %s", r.returncode, r.stderr)
            con = sqlite3.connect(path)  # rolls back
            need(con.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "run %d: the database is damaged", n)
            con.close()
            r = fazt("verify", "--live", m.dir, check=False)
            need(r.returncode == 0, "run %d: %s%s", n, r.stdout, r.stderr)
            need(m.database("app.db")["scrub_found"] == 0, "run %d: the scrub found what was not captured", n)
        hold.close()
        m.sync()
        m.restore("app.db", os.path.join(base, "out"))
        need(file_hash(os.path.join(base, "out")) == serialize_hash(path), "the restored database is another one")
        m.umount()


main("persist", run)
