#!/usr/bin/python3
"""Applications that open a database for each request and close it again (PHP, CGI): the last close costs what was written, not
the size of the database. Counted by /proc/PID/io of the worker; each commit is in the log, and nothing differs."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt_json, main, need, wait_for  # noqa: E402

REQUESTS = 25


def read_bytes(mount):
    with open("/proc/%d/io" % mount.status()["worker_pid"]) as f:
        return int(f.readline().split()[1])


def make(path, mode):
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=" + mode)
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    con.execute("BEGIN")
    for _ in range(24):
        con.execute("INSERT INTO t(v) VALUES (randomblob(1000000))")
    con.execute("COMMIT")
    con.close()


def run(base):
    for flags in ([], ["--no-passthrough"]):
        mount = Mount(base, *flags, name="app%d" % len(flags), targets=[])
        for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST"):
            make(os.path.join(mount.dir, mode + ".db"), mode)
        with mount:
            mount.start()
            wait_for("the first snapshots", lambda: [d["capture"] for d in mount.status()["databases"]].count("baseline") == 0 and
                     len(mount.status()["databases"]) == 4)
            for mode in ("WAL", "DELETE", "TRUNCATE", "PERSIST"):
                name, path = mode + ".db", os.path.join(mount.dir, mode + ".db")

                def request(i):
                    con = sqlite3.connect(path, isolation_level=None)
                    con.execute("PRAGMA journal_mode=" + mode)
                    con.execute("INSERT INTO t(v) VALUES (?)", (i,))
                    con.close()
                request(-1)
                before, txid = read_bytes(mount), mount.database(name)["txid"]
                for i in range(REQUESTS):
                    request(i)
                wait_for("the commits of " + name, lambda: mount.database(name)["txid"] >= txid + REQUESTS)
                n = read_bytes(mount) - before
                need(mount.database(name)["txid"] == txid + REQUESTS, "%s%s: more transactions than commits", mode, flags)
                need(n < os.path.getsize(path), "%s%s: the worker read %d bytes for %d small commits", mode, flags, n, REQUESTS)
            need(fazt_json("verify", "--live", "--json", mount.dir)["differences"] == 0, "verify --live")
            mount.umount()


if __name__ == "__main__":
    main("short-lives", run)
