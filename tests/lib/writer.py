"""An ordinary SQLite application, for the torture test: one writer, random work, every acknowledged commit noted.

usage: writer.py CONFIG.json, with {path, acks, journal, sync, page_size, cache, auto_vacuum, exclusive, mmap, commits, seed,
vacuum, hashes, savepoints, first, history}. Each transaction moves meta.n on by one and draws a new meta.nonce; n begins at `first` (0). With `history` a table of that
name holds every (n, nonce) that the database has seen. Lines of the file `acks`:
  T n nonce        about to commit it          C n nonce hash     SQLite said it is committed; hash of the whole database
  S n nonce hash   what a new process found    V n nonce hash     the same n after VACUUM, a new page size or journal mode
  U n nonce        its pages may change now, without a commit (VACUUM, ROLLBACK, PRAGMA); a V follows
With a counter file (of recfs) each line ends with its value when SQLite answered."""
import json
import os
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faztlib import serialize_hash  # noqa: E402


def main():
    with open(sys.argv[1]) as f:
        conf = json.load(f)
    rnd = random.Random(conf["seed"])
    acks = os.open(conf["acks"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    path, skip_free = conf["path"], conf.get("skip_free", False)

    def counter():
        if not conf.get("counter"):
            return 0
        with open(conf["counter"], "rb") as f:
            return struct.unpack("<Q", f.read(8))[0]

    def note(kind, n, nonce, digest="-", at=0):
        os.write(acks, ("%s %d %d %s %d\n" % (kind, n, nonce, digest, at)).encode())

    def shown(n, nonce):  # a host that was superseded may show the history of another one already
        return (n, nonce) if conf.get("history") else None

    def digest():
        if not conf["hashes"]:
            return "-"
        if not conf["exclusive"]:
            return serialize_hash(path, skip_free, shown(n, nonce))
        # No other connection can read it: what a copy holds. Another process copies, since with a descriptor of the database
        # that is closed here this connection would lose its locks.
        with tempfile.TemporaryDirectory(dir=os.path.dirname(conf["acks"])) as d:
            subprocess.run(["cp"] + [path + s for s in ("", "-wal") if os.path.exists(path + s)] + [d], check=True)
            # After a savepoint's rollback the frames of this WAL may not pass SQLite's own recovery: the copy is older then.
            return serialize_hash(os.path.join(d, os.path.basename(path)), skip_free, (n, nonce))

    def step():
        """A PRAGMA may have written page 1, and the next one may again."""
        if n is not None:
            note("V", n, nonce, digest())
            note("U", n, nonce)

    n = nonce = None
    if os.path.exists(path):  # what a killed process left, before this one commits anything
        con = sqlite3.connect(path, isolation_level=None, timeout=30)
        if con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
            n, nonce = con.execute("SELECT n, nonce FROM meta").fetchone()
            con.close()
            note("S", n, nonce, serialize_hash(path, skip_free, shown(n, nonce)) if conf["hashes"] else "-")
            note("U", n, nonce)  # PRAGMA auto_vacuum and journal_mode write page 1
        con.close()
    con = sqlite3.connect(path, isolation_level=None, timeout=30)
    con.execute("PRAGMA page_size=%d" % conf["page_size"])
    con.execute("PRAGMA auto_vacuum=%d" % conf["auto_vacuum"])
    step()
    if conf["exclusive"]:
        con.execute("PRAGMA locking_mode=EXCLUSIVE")
    con.execute("PRAGMA journal_mode=%s" % conf["journal"])
    step()
    con.execute("PRAGMA synchronous=%s" % conf["sync"])
    con.execute("PRAGMA cache_size=%d" % conf["cache"])
    con.execute("PRAGMA mmap_size=%d" % conf["mmap"])
    con.execute("PRAGMA journal_size_limit=%d" % rnd.choice([-1, 0, 65536]))
    con.execute("PRAGMA wal_autocheckpoint=%d" % rnd.choice([4, 50, 1000]))

    con.execute("BEGIN IMMEDIATE")
    con.execute("CREATE TABLE IF NOT EXISTS meta(id INTEGER PRIMARY KEY CHECK (id = 1), n INTEGER, nonce INTEGER)")
    con.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB)")
    con.execute("CREATE INDEX IF NOT EXISTS tk ON t(k)")
    con.execute("INSERT OR IGNORE INTO meta VALUES (1, ?, 0)", (conf.get("first", 0),))
    if conf.get("history"):
        con.execute("CREATE TABLE IF NOT EXISTS history(n INTEGER PRIMARY KEY, nonce INTEGER)")
    con.execute("COMMIT")
    n, nonce = con.execute("SELECT n, nonce FROM meta").fetchone()
    note("V", n, nonce, digest())
    reader = None
    for _ in range(conf["commits"]):
        time.sleep(conf.get("pause", 0))
        if reader and rnd.random() < 0.2:
            reader.close()
            reader = None
        elif not reader and not conf["exclusive"] and conf["journal"] == "WAL" and rnd.random() < 0.1:
            reader = sqlite3.connect(path, isolation_level=None, timeout=30)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM t").fetchall()
        last = nonce
        n, nonce = n + 1, rnd.getrandbits(62)
        con.execute("BEGIN IMMEDIATE")
        con.execute("UPDATE meta SET n=?, nonce=?", (n, nonce))
        if conf.get("history"):
            con.execute("INSERT INTO history VALUES (?, ?)", (n, nonce))
        kind = rnd.random()
        if kind < 0.70:
            for _ in range(rnd.choice([1, 1, 1, 3, 30])):
                con.execute("INSERT INTO t(k, v) VALUES (?, ?)",
                            (rnd.getrandbits(30), rnd.randbytes(rnd.choice([20, 200, 3000]))))
        elif kind < 0.80:
            con.execute("DELETE FROM t WHERE id % 7 = ?", (rnd.randrange(7),))
        elif kind < 0.90:
            con.execute("UPDATE t SET v = randomblob(length(v)) WHERE id % 5 = ?", (rnd.randrange(5),))
        elif kind < 0.95:
            for _ in range(300):
                con.execute("INSERT INTO t(k, v) VALUES (?, ?)", (rnd.getrandbits(30), rnd.randbytes(500)))
        else:
            con.execute("DELETE FROM t")
        # without a journal a rollback is undefined
        if rnd.random() < 0.15 and conf["journal"] != "OFF" and conf.get("savepoints", True):
            con.execute("SAVEPOINT s")
            for _ in range(rnd.choice([2, 60])):
                con.execute("INSERT INTO t(k, v) VALUES (1, randomblob(900))")
            con.execute("ROLLBACK TO s")
            con.execute("RELEASE s")
        if rnd.random() < 0.06 and conf["journal"] != "OFF":
            note("U", n - 1, last)
            con.execute("ROLLBACK")
            n -= 1
            nonce = con.execute("SELECT nonce FROM meta").fetchone()[0]
            note("V", n, nonce, digest())  # free pages that had been written before keep what was written
            continue
        note("T", n, nonce)
        con.execute("COMMIT")
        at = counter()
        note("C", n, nonce, digest(), at)
        if rnd.random() < 0.08 and conf["journal"] == "WAL":
            con.execute("PRAGMA wal_checkpoint(%s)" % rnd.choice(
                ["PASSIVE"] if reader else ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])).fetchall()
        if rnd.random() < conf["vacuum"] and not reader:
            note("U", n, nonce)
            if rnd.random() < 0.3 and conf["journal"] != "WAL":
                con.execute("PRAGMA page_size=%d" % rnd.choice([512, 1024, 4096, 8192]))
            con.execute("VACUUM")
            note("V", n, nonce, digest())
    if reader:
        reader.close()
    con.close()
    note("V", n, nonce, serialize_hash(path, skip_free) if conf["hashes"] else "-")


main()
