#!/usr/bin/python3
"""Several processes and threads write to one database, with long readers in between, in WAL and in rollback mode. Each commit
adds one row, so the store must hold one restorable commit per row, each with exactly the rows before it."""
import os
import sqlite3
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, integrity, main, need  # noqa: E402
from witness import App, entries_of, sound  # noqa: E402

WRITER = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
con.execute("PRAGMA synchronous=NORMAL")
con.execute("PRAGMA wal_autocheckpoint=10")
for i in range(int(sys.argv[3])):
    con.execute("INSERT INTO t(who, i, v) VALUES (?, ?, randomblob(?))", (sys.argv[2], i, 100 + i * 37 % 3000))
con.close()
"""
PROCESSES, THREADS, EACH = 3, 3, 8


def thread(path, who, errors):
    try:
        con = sqlite3.connect(path, isolation_level=None, timeout=60)
        for i in range(EACH):
            con.execute("INSERT INTO t(who, i, v) VALUES (?, ?, randomblob(500))", (who, i))
        con.close()
    except sqlite3.Error as e:
        errors.append(e)


def reader(path, stop, errors):
    try:
        con = sqlite3.connect(path, isolation_level=None, timeout=60)
        while not stop.is_set():
            con.execute("BEGIN")
            a = con.execute("SELECT count(*), sum(length(v)) FROM t").fetchall()
            for _ in range(20):
                b = con.execute("SELECT count(*), sum(length(v)) FROM t").fetchall()
                if a != b:
                    raise sqlite3.Error("a snapshot moved from %s to %s" % (a, b))
            con.execute("COMMIT")
            stop.wait(0.02)
        con.close()
    except sqlite3.Error as e:
        errors.append(e)


def many(mount, name, mode):
    with App(mount, name, "journal_mode=" + mode, note=False) as a:
        a.do("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT, i INTEGER, v BLOB)")
    errors, stop = [], threading.Event()
    procs = [subprocess.Popen(["/usr/bin/python3", "-c", WRITER, a.path, "p%d" % i, str(EACH)]) for i in range(PROCESSES)]
    threads = [threading.Thread(target=thread, args=(a.path, "t%d" % i, errors)) for i in range(THREADS)]
    r = threading.Thread(target=reader, args=(a.path, stop, errors))
    for t in threads + [r]:
        t.start()
    for t in threads:
        t.join()
    codes = [p.wait(100) for p in procs]
    stop.set()
    r.join()
    need(codes == [0] * PROCESSES and not errors, "%s: an application failed: %s %s", name, codes, errors)


def judge(mount, name):
    want = (PROCESSES + THREADS) * EACH
    con = sqlite3.connect(os.path.join(mount.dir, name))
    rows = con.execute("SELECT id, who, i, v FROM t ORDER BY id").fetchall()
    con.close()
    need(len(rows) == want, "%s: %d rows", name, len(rows))
    counts = []
    for e in entries_of(mount, name):
        out = os.path.join(mount.base, "out.db")
        mount.restore(name, out, "--txid", str(e["txid"]))
        need(integrity(out) == "ok", "%s: TXID %d: %s", name, e["txid"], integrity(out))
        con = sqlite3.connect(out)
        try:
            got = con.execute("SELECT id, who, i, v FROM t ORDER BY id").fetchall()
        except sqlite3.OperationalError:
            continue
        finally:
            con.close()
        need(got == rows[:len(got)], "%s: TXID %d is no state that SQLite had", name, e["txid"])
        counts.append(len(got))
    # a commit of the last process to close WAL, or a change of the journal mode, adds no row
    need(sorted(set(counts)) == list(range(want + 1)) and counts == sorted(counts), "%s: commits by rows: %s", name, counts)


def run(base):
    with Mount(base).start() as mount:
        names = []
        for mode in ("WAL", "DELETE"):
            names.append("%s.db" % mode.lower())
            many(mount, names[-1], mode)
        names.append("through.db")  # a database in rollback mode that is opened again is written through
        with App(mount, "through.db", "journal_mode=PERSIST", note=False) as a:
            a.do("CREATE TABLE x(a)")
        many(mount, "through.db", "PERSIST")
        mount.sync()
        for n in names:
            judge(mount, n)
        sound(mount, *names)
        mount.umount()


if __name__ == "__main__":
    main("writers", run)
