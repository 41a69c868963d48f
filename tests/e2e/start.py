#!/usr/bin/python3
"""Start does not wait for reading databases: with a clean marker nothing of them is read at all, after a crash the mount serves
at once and compares behind. Counted by /proc/PID/io of the worker, on a database that is larger than what may be read."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt_json, main, need, wait_for  # noqa: E402
from witness import App  # noqa: E402

MB = 1 << 20


def read_bytes(mount):
    with open("/proc/%d/io" % mount.status()["worker_pid"]) as f:
        return int(f.readline().split()[1])  # rchar: what read calls returned, from a cache or not


def run(base):
    conf = os.path.join(base, "fazt.conf")
    with open(conf, "w") as f:
        f.write("[mount]\nscrub_rate = 4M\n")
    mount = Mount(base, "--config", conf, targets=[])
    path = os.path.join(mount.dir, "big.db")
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    con.execute("BEGIN")
    for _ in range(64):
        con.execute("INSERT INTO t(v) VALUES (randomblob(1000000))")
    con.execute("COMMIT")
    con.close()
    size = os.path.getsize(path)
    with mount:
        # never seen: it serves while the base is being made, and commits meanwhile are kept
        mount.start()
        with App(mount, "big.db", note=False) as a:
            a.do("INSERT INTO t(v) VALUES ('meanwhile')")
        wait_for("the base of big.db", lambda: any(d["name"] == "big.db" and d["txid"] > 0
                                                   for d in mount.status()["databases"]))
        need(fazt_json("verify", "--live", "--json", mount.dir)["differences"] == 0, "verify --live after the base")
        mount.umount()
        # clean
        mount.start()
        need(read_bytes(mount) < 4 * MB, "a start with a clean marker read %d bytes", read_bytes(mount))
        with App(mount, "big.db", note=False) as a:
            need(a.query("SELECT count(*) FROM t") == [(65,)], "rows")
            a.do("INSERT INTO t(v) VALUES ('after')")
        n = read_bytes(mount)
        need(n < 4 * MB, "after a start with a clean marker %d bytes were read", n)
        txid = mount.database("big.db")["txid"]
        # unclean: it serves long before it can have read the file, and then compares all of it
        mount.kill_all()
        mount.start()
        n = read_bytes(mount)
        need(n < size // 2, "an unclean start read %d of %d bytes before it served", n, size)
        with App(mount, "big.db", note=False) as a:
            a.do("INSERT INTO t(v) VALUES ('at once')")
        wait_for("the commit", lambda: mount.database("big.db")["txid"] > txid)
        d = mount.database("big.db")
        need(d["scrub_found"] == 0 and d["resyncs"] == 0, "an unclean start found %s", d)
        need(fazt_json("verify", "--live", "--json", mount.dir)["differences"] == 0, "verify --live")
        mount.umount()


if __name__ == "__main__":
    main("start", run)
