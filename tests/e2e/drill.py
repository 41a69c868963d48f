#!/usr/bin/python3
"""docs/recovery.md as it stands: its commands are run, with this test's store, key and directories in place of the document's. The drill finds
the newest commit of each database and disturbs nothing; the day makes another host the primary, whose history goes on, and fences the first.
# timeout: 120
"""
import os
import re
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import BUILD, ROOT, Mount, fazt, fazt_json, is_mounted, main, need  # noqa: E402


def rows(path):
    con = sqlite3.connect(path)
    try:
        return [r[0] for r in con.execute("SELECT x FROM t ORDER BY rowid")]
    finally:
        con.close()


def add(path, x):
    con = sqlite3.connect(path, isolation_level=None)
    try:
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("CREATE TABLE IF NOT EXISTS t(x)")
        con.execute("INSERT INTO t VALUES (?)", (x,))
    finally:
        con.close()


def objects(store):
    return {os.path.join(d, f) for d, _, files in os.walk(store) for f in files}


def run(base):
    with open(os.path.join(ROOT, "docs", "recovery.md")) as f:
        drill, day = [re.findall(r"^```sh\n(.*?)^```$", part, re.M | re.S) for part in f.read().split("\n## 2.")]
    need(len(drill) == 6 and len(day) == 2, "the document has %d and %d blocks", len(drill), len(day))
    os.mkdir(os.path.join(base, "bin"))
    os.symlink(os.path.join(BUILD, "fazt"), os.path.join(base, "bin", "fazt"))
    env = {**os.environ, "PATH": base + "/bin:" + os.environ["PATH"], "HOME": base}
    m = Mount(base)

    def sh(block):
        for a, b in (("s3://bucket/app?region=eu-central-1", "dir:" + m.store), ("/root/app.key", m.key), ("/root/drill", base + "/drill"),
                     ("/var/lib/app", base + "/new")):
            block = block.replace(a, b)
        r = subprocess.run(["sh", "-euc", block], env=env, cwd=base, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           stdin=subprocess.DEVNULL, text=True, timeout=60)
        need(r.returncode == 0, "exit %d of\n%s\n%s", r.returncode, block, r.stdout)
        return r.stdout

    with m:
        m.start()
        os.mkdir(m.dir + "/shop")
        for i in range(5):
            add(m.dir + "/app.db", i)
        add(m.dir + "/shop/orders.db", "order")
        m.sync()
        sh(drill[0])
        last = fazt_json("log", "--json", m.dir + "/app.db")[-1]
        need(sh(drill[1]).splitlines()[-1].split()[:2] == [str(last["txid"]), last["time"]], "step 2 does not end with %s", last)
        sh(drill[2])
        need("ok\n" in sh(drill[3]) and rows(base + "/drill/app.db") == [0, 1, 2, 3, 4], "step 4")
        sh(drill[4])
        need(rows(base + "/drill/all/app.db") == [0, 1, 2, 3, 4] and rows(base + "/drill/all/shop/orders.db") == ["order"], "step 5")
        sh(drill[5])
        need(not is_mounted(base + "/drill/all") and not os.path.exists(base + "/drill"), "the drill left something")
        # the primary has not noticed
        add(m.dir + "/app.db", 5)
        m.sync()
        need(m.status()["healthy"], "the primary is not well after the drill: %s", m.status())
        m.kill_all(unused=True)
        try:
            sh(day[0])
            need(rows(base + "/new/app.db") == [0, 1, 2, 3, 4, 5] and rows(base + "/new/shop/orders.db") == ["order"], "the new host")
            sh(day[1])
            was = objects(m.store)
            add(base + "/new/app.db", "new")
            fazt("sync", "--wait", "--timeout", "30", base + "/new")
            new = [f for f in objects(m.store) - was if "/claim/" not in f]
            need(new and all(f.endswith(".age") for f in new), "shipped unencrypted: %s", new)
            log = m.log("app.db")
            # what the new host took as a snapshot is one merged state now; behind it nothing may be missing
            need([c["txid"] for c in log] == list(range(1, last["txid"] + 3)), "the history has a hole: %s", [c["txid"] for c in log])
            m.restore("app.db", base + "/r")
            need(rows(base + "/r") == [0, 1, 2, 3, 4, 5, "new"], "the store holds %s", rows(base + "/r"))
            m.start()  # the host that was thought dead
            add(m.dir + "/app.db", "unseen")
            r = fazt("sync", "--wait", "--timeout", "20", m.dir, check=False)
            need(r.returncode != 0 and [t["state"] for t in m.status()["targets"]] == ["fenced"], "the old host is not fenced: %s", r.stderr)
            m.restore("app.db", base + "/r")
            need(rows(base + "/r")[-1] == "new", "the old host wrote into the new history")
        finally:
            if is_mounted(base + "/new"):
                fazt("umount", base + "/new", check=False)


main("drill", run)
