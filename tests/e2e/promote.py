#!/usr/bin/python3
# timeout: 240
"""A replica takes over. It refuses while its primary lives or holds more, and says so; after that every commit that had arrived is
there, connections opened from then on write, older ones stay read-only and lose nothing; the store goes on under the new
epoch; a restart with the same flags keeps the new role."""
import contextlib
import os
import signal
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, Reader, caught_up, refused  # noqa: E402
from faztlib import Failure, fazt, fazt_json, file_hash, integrity, main, need, serialize_hash, wait_for  # noqa: E402


def promote(host, *flags, code=0):
    r = fazt("promote", *flags, host.dir, check=False)
    need(r.returncode == code, "promote %s: exit %d: %s%s", flags, r.returncode, r.stdout, r.stderr)
    return r.stdout + r.stderr


def states(path):
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True)
    try:
        return con.execute("SELECT n, rows, total FROM meta").fetchone()
    finally:
        con.close()


def run(base):
    store = "dir:" + os.path.join(base, "store")
    p, r = Host(base, "one", targets=[store]), Host(base, "two", targets=[store])
    r.key, r.recipient = p.key, p.recipient
    p.primary(r)
    r.replica_of(p)
    with p, r:
        p.start()
        r.start()
        apps = {"wal.db": Counted(os.path.join(p.dir, "wal.db")),
                "old.db": Counted(os.path.join(p.dir, "old.db"), "DELETE")}
        for _ in range(300):
            for a in apps.values():
                a.commit()
        fazt("sync", "--wait", p.dir)
        for name, a in apps.items():
            caught_up(p, r, name)
            need(states(os.path.join(r.dir, name)) == states(a.path), "%s differs", name)
        need(fazt("wait", "--caught-up", "--timeout", 20, r.dir).returncode == 0, "wait")
        txid = p.database("wal.db")["txid"]
        fazt("wait", "--timeout", 20, os.path.join(r.dir, "wal.db"), txid)
        need(fazt("wait", "--timeout", "0.2", os.path.join(r.dir, "wal.db"), txid + 1, check=False).returncode == 5,
             "wait for what is not there: exit code 5")
        out = promote(r, code=1)
        need("alive" in out and "--force" in out, "a living primary: %s", out)
        refused(os.path.join(r.dir, "wal.db"), "INSERT INTO t(k) VALUES (1)")

        readers = [Reader(os.path.join(base, "work"), os.path.join(r.dir, n)) for n in apps]
        for x in readers:
            x.sees(300)
        old = sqlite3.connect(os.path.join(r.dir, "wal.db"), isolation_level=None, timeout=0)
        old.execute("SELECT count(*) FROM t").fetchone()
        long = sqlite3.connect(os.path.join(r.dir, "wal.db"), isolation_level=None, timeout=0)
        long.execute("BEGIN")  # its snapshot keeps the WAL of before from being started anew
        need(long.execute("SELECT n FROM meta").fetchone()[0] == 300, "the long reader")
        for _ in range(50):
            for a in apps.values():
                a.commit()
        for name, a in apps.items():
            caught_up(p, r, name)
            a.close()
        p.kill_all()
        promote(r)
        need(r.status()["role"] == "primary", "%s", r.status()["role"])
        older = r.status()["read_only_handles"]
        need(older == 2 + len(readers), "%d handles of before, not %d", older, 2 + len(readers))
        need("stay read-only" in fazt("status", r.dir).stdout, "status counts the older connections")
        # each of them, not others; counted over the death of a worker
        os.kill(r.status()["worker_pid"], signal.SIGKILL)
        with contextlib.closing(sqlite3.connect("file:%s/wal.db?mode=ro" % r.dir, uri=True)) as c:
            c.execute("SELECT count(*) FROM t").fetchone()
        need(r.status()["read_only_handles"] == older, "%d, then %d", older, r.status()["read_only_handles"])
        apps = {n: Counted(os.path.join(r.dir, n)) for n in apps}
        for a in apps.values():
            need(a.n == 350, "%s: commit %d of 350 after the take-over", a.path, a.n)
            for _ in range(200):
                a.commit()
        for x in readers:
            x.sees(550)
        try:
            old.execute("INSERT INTO t(k) VALUES (1)")
            raise Failure("a connection of before writes")
        except sqlite3.OperationalError as e:
            need("readonly" in str(e), "a connection of before: %s", e)
        need(old.execute("SELECT n FROM meta").fetchone()[0] == 550, "a connection of before does not see the present")
        old.close()
        need(long.execute("SELECT n FROM meta").fetchone()[0] == 300, "the long reader's snapshot moved")
        long.close()
        fazt("sync", "--wait", "--timeout", 60, r.dir)
        live = fazt_json("verify", "--live", "--json", r.dir)
        need(live["differences"] == 0, "verify --live after the take-over: %s", live)
        for d in r.status()["databases"]:
            need(d["scrub_found"] == 0 and d["resyncs"] == 0 and d["merged_txns"] == 0,
                 "the take-over lost detail: %s", d)
        # every commit of both epochs is in the store
        for name, a in apps.items():
            source = "%s/%s" % (store, name)
            fazt("verify", source, "-i", p.key)
            seen, outf, last = [], os.path.join(base, "out.db"), None
            log = fazt_json("log", "--json", "-i", p.key, source)
            for e in log:
                seen.append(e["txid"])
                if e["txid"] % 37 and e is not log[-1] and not 345 < e["txid"] < 380:
                    continue
                fazt("restore", source, "-i", p.key, "--txid", e["txid"], "-o", outf, "--force")
                need(integrity(outf) == "ok", "TXID %d: %s", e["txid"], integrity(outf))
                if e["txid"] < 3:
                    continue  # its tables are being made
                n = states(outf)[0]
                if last and last[0] == e["txid"] - 1:  # the take-over itself may be a transaction, but no commit
                    need(n - last[1] == 1 or (n == last[1] and name == "old.db"),
                         "%s: TXID %d is state %d after state %d", name, e["txid"], n, last[1])
                last = (e["txid"], n)
            need(seen == list(range(1, seen[-1] + 1)), "%s: TXIDs are missing", name)
            need(file_hash(outf) == serialize_hash(a.path), "%s: the last commit restored is not the database", name)
            a.close()
        # This process' own are gone with its last connection (SQLite keeps a descriptor while another one holds a lock); RELEASE comes later.
        wait_for("the readers' handles to be the only ones", lambda: r.status()["read_only_handles"] == len(readers))
        for x in readers:
            x.end()
        wait_for("no handle of before", lambda: r.status()["read_only_handles"] == 0)
        r.umount()
        r.start()
        need(r.status()["role"] == "primary", "after a restart it is a replica again")
        again = Counted(os.path.join(r.dir, "wal.db"))
        again.commit()
        again.close()
        r.umount()


main("promote", run)
