"""Several fazt hosts on one machine: each a directory with a mount, a key and its own state. A Reader is a process that reads a
database of a replica without end and judges what it sees."""
import atexit
import os
import random
import socket
import sqlite3
import subprocess
import sys

from faztlib import Failure, Mount, fazt, need, wait_for


def free_port():
    """One that nothing uses, and that no outgoing connection or other listener is given by chance (those begin at 32768)."""
    while True:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", random.SystemRandom().randrange(10000, 32000)))
            except OSError:
                continue
            return s.getsockname()[1]


def host_key(path):
    """A host's key and its public part."""
    if not os.path.exists(path):
        fazt("keygen", "-o", path)
    with open(path) as f:
        return [w for l in f for w in l.split() if w.startswith("age1")][0]


class Host(Mount):
    """A mount with a name of its own; primary() and replica_of() say what it is."""

    def __init__(self, base, name, *flags, targets=()):
        self.home = os.path.join(base, name)
        os.makedirs(self.home, exist_ok=True)
        super().__init__(self.home, *flags, targets=list(targets))
        self.name, self.port = name, free_port()
        self.host_key = os.path.join(self.home, "host.key")
        self.public = host_key(self.host_key)
        self.address = "127.0.0.1:%d" % self.port
        self.own_flags = list(flags)

    def primary(self, *followers):
        self.flags = [*self.own_flags, "--identity", self.host_key, "--listen", self.address]
        for f in followers:
            self.flags += ["--follower", f if isinstance(f, str) else f.public]
        return self

    def replica_of(self, other, *extra):
        self.flags = [*self.own_flags, "--role", "replica", "--identity", self.host_key, "--primary", other.address,
                      "--primary-key", other.public, *extra]
        return self

    def position(self, name):
        """(applied TXID, what the primary has) of a database on a replica; (0, 0) before it is known, also whether it is the primary's."""
        for d in self.status().get("following", {}).get("databases", []):
            if d["name"] == name and d["agreed"]:
                return d["applied_txid"], d["primary_txid"]
        return 0, 0

    def agent_pid(self):
        for p in os.listdir("/proc"):
            if p.isdigit():
                try:
                    with open("/proc/%s/cmdline" % p, "rb") as f:
                        args = f.read().split(b"\0")
                except OSError:
                    continue
                if len(args) > 2 and args[1] == b"agent" and args[2] == self.dir.encode():
                    return int(p)
        raise Failure("%s has no agent" % self.name)


def caught_up(primary, replica, name, seconds=60):
    """Waits until the replica shows what the primary has committed by now."""
    fazt("sync", primary.dir)
    want = primary.database(name)
    wait_for("%s to have applied %s up to %d (%s)" % (replica.name, name, want["txid"], replica.tail(3)),
             lambda: replica.position(name)[0] >= want["txid"], seconds)


# Each read is one transaction that must be one of the application's states: meta.n says which, and the rows it has are
# those that the application counts there. Never back, never an error.
READER = """
import sqlite3, sys, time
path, keep = sys.argv[1], sys.argv[2] == "keep"
last, reads, con = -1, 0, None
while True:
    if con is None:
        con = sqlite3.connect("file:%s?mode=rw" % path, uri=True, isolation_level=None, timeout=0)
    con.execute("BEGIN")
    t0 = time.monotonic()
    n, rows, total = con.execute("SELECT n, rows, total FROM meta").fetchone()
    there = con.execute("SELECT count(*), coalesce(sum(k), 0) FROM t").fetchone()
    ms = (time.monotonic() - t0) * 1000
    con.execute("COMMIT")
    if (rows, total) != there:
        sys.exit("state %d: meta says %s rows with sum %s, there are %s" % (n, rows, total, there))
    if n < last:
        sys.exit("went back from %d to %d" % (last, n))
    last, reads = n, reads + 1
    print("%d %d %.3f" % (reads, n, ms), flush=True)
    if reads % 50 == 0:
        ok = con.execute("PRAGMA quick_check").fetchone()[0]
        if ok != "ok":
            sys.exit("quick_check: " + ok)
    if not keep:
        con.close()
        con = None
"""


class Reader:
    """Ends with the scenario at the latest."""

    def __init__(self, work, path, keep=True):
        os.makedirs(work, exist_ok=True)
        self.out = os.path.join(work, "reader-%d" % len(os.listdir(work)))
        self.f = open(self.out, "wb")
        self.e = open(self.out + ".err", "wb")
        self.p = subprocess.Popen([sys.executable, "-c", READER, path, "keep" if keep else "reopen"], stdout=self.f,
                                  stderr=self.e, stdin=subprocess.DEVNULL)
        atexit.register(self.kill)

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()

    def last(self):
        """(reads so far, meta.n of the last one)."""
        if self.p.poll() is not None:
            with open(self.out + ".err", errors="replace") as f:
                raise Failure("a reader ended with %d: %s" % (self.p.returncode, f.read()[-1500:]))
        with open(self.out, "rb") as f:
            f.seek(max(0, os.path.getsize(self.out) - 200))
            lines = f.read().split(b"\n")[:-1]
        return (int(lines[-1].split()[0]), int(lines[-1].split()[1])) if lines else (0, -1)

    def sees(self, n, seconds=60):
        wait_for("a reader to see state %d" % n, lambda: self.last()[1] >= n, seconds)

    def end(self):
        if self.p.poll() is None:
            self.last()
        self.kill()
        self.f.close()
        self.e.close()


class Counted:
    """An application whose states a Reader can judge: meta holds n, the number of rows of t and the sum of their k."""

    def __init__(self, path, journal="WAL", page_size=4096):
        self.path, self.con = path, sqlite3.connect(path, isolation_level=None, timeout=30)
        self.con.execute("PRAGMA page_size=%d" % page_size)
        self.con.execute("PRAGMA journal_mode=%s" % journal)
        self.con.execute("PRAGMA synchronous=NORMAL")
        if not self.con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
            self.con.execute("BEGIN")
            self.con.execute("CREATE TABLE meta(n INTEGER, rows INTEGER, total INTEGER)")
            self.con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB)")
            self.con.execute("INSERT INTO meta VALUES (0, 0, 0)")
            self.con.execute("COMMIT")
        self.n = self.con.execute("SELECT n FROM meta").fetchone()[0]

    def commit(self, size=200):
        k = (self.n * 7919) % 100003
        self.con.execute("BEGIN IMMEDIATE")
        self.con.execute("INSERT INTO t(k, v) VALUES (?, randomblob(?))", (k, size))
        self.con.execute("UPDATE meta SET n = n + 1, rows = rows + 1, total = total + ?", (k,))
        self.con.execute("COMMIT")
        self.n += 1

    def drop_half(self):
        self.con.execute("BEGIN IMMEDIATE")
        self.con.execute("DELETE FROM t WHERE id % 2 = 0")
        self.con.execute("UPDATE meta SET n = n + 1, rows = (SELECT count(*) FROM t), "
                         "total = (SELECT coalesce(sum(k), 0) FROM t)")
        self.con.execute("COMMIT")
        self.n += 1

    def close(self):
        self.con.close()


def refused(path, sql, *words):
    """SQLite says that the database is read-only, and nothing worse."""
    con = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        con.execute(sql).fetchall()
    except sqlite3.OperationalError as e:
        need("readonly" in str(e), "%s on a replica: %s", sql, e)
        return
    finally:
        con.close()
    raise Failure("%s was accepted on a replica" % sql)
