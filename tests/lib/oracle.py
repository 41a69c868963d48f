"""What a database was after each commit, as SQLite itself shows it, and the comparison of every restore with that.

An Application writes through one connection; each commit moves meta.n on by one and is remembered with the hash of the
whole database and the moments around it. So a restored file tells by its own content which commit it claims to be."""
import datetime
import os
import random
import sqlite3
import time

from faztlib import Failure, fazt, fazt_json, file_hash, need, serialize_hash


def read_n(path):
    """meta.n of a restored file; 0 before the table was there."""
    con = sqlite3.connect("file:%s?mode=ro&immutable=1" % path, uri=True)
    try:
        return con.execute("SELECT n FROM meta").fetchone()[0]
    except sqlite3.OperationalError as e:
        if "no such table" in str(e):
            return 0
        raise
    finally:
        con.close()


def rfc3339(ms):
    t = datetime.datetime.fromtimestamp(ms // 1000, datetime.timezone.utc)
    return t.strftime("%Y-%m-%dT%H:%M:%S") + ".%03dZ" % (ms % 1000)


CLOCK_MS = 25  # a commit in WAL mode is dated by its file's clock, whose tick may come late on a busy machine (docs/limits.md)


class Application:
    def __init__(self, path, journal="WAL", seed=1, **pragmas):
        self.path, self.name, self.rnd = path, os.path.basename(path), random.Random(seed)
        self.hash, self.before_ms, self.after_ms, self.n = {}, {}, {}, 0
        self.open()
        for k, v in pragmas.items():
            self.con.execute("PRAGMA %s=%s" % (k, v))
        self.con.execute("PRAGMA journal_mode=%s" % journal)
        self.commit("CREATE TABLE meta(n INTEGER)", "CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)",
                    "INSERT INTO meta VALUES (0)")

    def commit(self, *statements):
        self.con.execute("BEGIN IMMEDIATE")
        for s in statements:
            self.con.execute(s)
        self.con.execute("UPDATE meta SET n = n + 1")
        now = time.time_ns() // 1000000
        self.con.execute("COMMIT")
        self.n += 1
        self.before_ms[self.n], self.after_ms[self.n] = now, time.time_ns() // 1000000
        self.hash[self.n] = serialize_hash(self.path)

    def row(self, size=None):
        self.commit("INSERT INTO t(v) VALUES (randomblob(%d))" % (size or self.rnd.choice([20, 300, 5000])))

    def rows(self, count, size=None):
        for _ in range(count):
            self.row(size)

    def open(self):
        self.con = sqlite3.connect(self.path, isolation_level=None, timeout=30)

    def close(self):
        self.con.close()


def same(app, out, what):
    """The restored file is the database as it was after one commit; returns which."""
    n = read_n(out)
    if n:
        need(n in app.hash, "%s: holds commit %d, which was never made", what, n)
        need(file_hash(out) == app.hash[n], "%s: is not the database as it was after commit %d", what, n)
    return n


def entries(mount, name, source=None, env=None):
    return fazt_json("log", "--json", "-i", mount.key, source or mount.source(name),
                     env={**os.environ, **(env or {})})


def check_all(app, mount, out, source=None, env=None, first=1, complete=True, listed=None):
    """Restores every commit that `fazt log` lists. complete: each commit from `first` on is there, none twice."""
    seen, what = [], source or mount.source(app.name)
    for e in listed if listed is not None else entries(mount, app.name, source, env):
        r = fazt("restore", what, "-i", mount.key, "--txid", e["txid"], "-o", out, "--force",
                 env={**os.environ, **(env or {})}, check=False)
        need(r.returncode == 0, "%s lists TXID %d, restoring it: exit %d: %s", what, e["txid"], r.returncode, r.stderr)
        n = same(app, out, "%s TXID %d" % (what, e["txid"]))
        if n:
            need(not seen or n >= seen[-1], "%s: commit %d after commit %d", what, n, seen[-1] if seen else 0)
            if seen and n == seen[-1]:
                raise Failure("%s: commit %d is there twice" % (what, n))
            seen.append(n)
    if complete:
        need(seen == list(range(first, app.n + 1)), "%s: commits %s of 1..%d", what, seen, app.n)
    return seen
