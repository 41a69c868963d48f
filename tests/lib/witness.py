"""What a SQLite application saw is the judge of what fazt kept: App notes the database's pages after each commit, kept()
restores every commit of the store and requires the same states in the same order, none missing and none besides."""
import concurrent.futures
import contextlib
import hashlib
import os
import sqlite3
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faztlib import fazt, fazt_json, file_hash, integrity, need, wait_for  # noqa: E402


def pages_hash(data):
    """As faztlib.file_hash(): the bytes that say WAL or rollback are left out."""
    data = bytearray(data)
    if len(data) >= 20:
        data[18:20] = b"\0\0"
    return hashlib.sha256(data).hexdigest()


class App:
    """A connection that notes each state it has committed, in .states: (hash, what made it, time in ms)."""

    def __init__(self, mount, name, *pragmas, states=None, note=True):
        self.mount, self.name, self.noting = mount, name, note
        self.path = os.path.join(mount.dir, name)
        self.states = states if states is not None else []
        self.con = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
        try:
            for p in pragmas:
                self.do("PRAGMA " + p)
        except BaseException:
            self.con.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def query(self, sql, *args):
        return self.con.execute(sql, args).fetchall()

    def do(self, sql, *args):
        rows = self.query(sql, *args)
        if self.noting and not self.con.in_transaction:
            self.note(sql)
        return rows

    def commit(self, *statements):
        """One transaction of several statements."""
        self.do("BEGIN IMMEDIATE")
        for s in statements:
            self.do(s)
        self.do("COMMIT")

    def note(self, what, schema="main"):
        if self.query("PRAGMA %s.page_count" % schema) == [(0,)]:
            return  # nothing was committed yet
        digest = pages_hash(self.con.serialize(name=schema))
        if not self.states or self.states[-1][0] != digest:
            self.states.append((digest, what, int(time.time() * 1000)))

    def close(self):
        self.con.close()


class Writer(threading.Thread):
    """Commits as long as it is told to, each state noted; anew: and opens the database anew each time, to read it."""

    def __init__(self, mount, name, *pragmas, pause=0.1, anew=False):
        super().__init__(daemon=True)
        self.app, self.stop, self.error = App(mount, name, *pragmas), threading.Event(), None
        self.pause, self.anew = pause, anew
        self.app.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        self.start()

    def run(self):
        try:
            while not self.stop.is_set():
                if self.anew:
                    with contextlib.closing(sqlite3.connect(self.app.path, timeout=30)) as con:
                        con.execute("SELECT count(*) FROM t").fetchall()
                self.app.do("INSERT INTO t(v) VALUES (randomblob(200))")
                self.stop.wait(self.pause)
        except sqlite3.Error as e:
            self.error = e

    def more(self, n=2):
        """It goes on: n commits from now."""
        at = len(self.app.states)
        wait_for("the application to go on", lambda: self.error or len(self.app.states) >= at + n)
        need(not self.error, "the application saw: %s", self.error)

    def end(self):
        self.stop.set()
        self.join()
        self.app.close()
        need(not self.error, "the application saw: %s", self.error)


def captured(mount, name):
    """Waits until fazt has captured what the database shows now: for modes that make no request at a commit."""
    path = os.path.join(mount.dir, name)
    out = os.path.join(mount.base, name.replace("/", "_") + ".now")

    def same():
        r = fazt("restore", path, "-o", out, "--force", check=False)
        return r.returncode == 0 and file_hash(out) == file_hash(path)
    wait_for("the capture of %s" % name, same)


def entries_of(mount, name, source=None):
    entries = mount.log(name, source=source)
    need(entries, "%s: no commit is restorable", name)
    for lineage in {e["lineage"] for e in entries}:
        txids = [e["txid"] for e in entries if e["lineage"] == lineage]
        need(txids == sorted(set(txids)), "%s: TXIDs do not ascend: %s", name, txids)
    return entries


def restored(mount, name, entries, source=None):
    """The hash of each restorable commit."""
    def one(i):
        out = os.path.join(mount.base, "restored-%s-%d" % (name.replace("/", "_"), i))
        mount.restore(name, out, "--txid", str(entries[i]["txid"]), source=source)
        h = file_hash(out)
        os.unlink(out)
        return h
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        return list(pool.map(one, range(len(entries))))


def once(seq):
    return [x for i, x in enumerate(seq) if i == 0 or seq[i - 1] != x]


def kept(mount, name, states, exact=True, sync=True, source=None):
    """Every noted state is restorable, in order, and no other is (exact); or, where commits may merge, each restorable state
    is one of them, in order, and the last one is there. Returns the number of restorable commits."""
    if sync:
        mount.sync()
    entries = entries_of(mount, name, source)
    got = once(restored(mount, name, entries, source))
    want = [s[0] for s in states]
    texts = {s[0]: s[1] for s in states}
    at = 0
    for i, h in enumerate(got):
        need(h in texts, "%s: state %d of %d (after '%s') is none that the application saw", name, i + 1, len(got),
             texts.get(got[i - 1]) if i else "-")
        need(h in want[at:], "%s: state %d of %d comes out of order: '%s'", name, i + 1, len(got), texts[h])
        at = want.index(h, at)
    if exact:
        missing = [s[1] for s in states if s[0] not in got]
        need(not missing, "%s: %d of %d commits are not in the store: %s", name, len(missing), len(want), missing[:5])
        need(got == want, "%s: %d states in the store, %d were seen", name, len(got), len(want))
    need(got[-1] == want[-1], "%s: the latest state in the store is '%s', not '%s'", name, texts[got[-1]], texts[want[-1]])
    return len(entries)


def sound(mount, *names):
    """The store verifies, the real pages equal what was captured, and no scrub ever had to repair."""
    for n in names:
        r = fazt("verify", mount.source(n), "-i", mount.key, check=False)
        need(r.returncode == 0, "%s: fazt verify: exit %d: %s%s", n, r.returncode, r.stdout, r.stderr)
    live = fazt_json("verify", "--live", "--json", mount.dir)
    need(live["differences"] == 0, "verify --live found differences: %s", live)
    for d in mount.status()["databases"]:
        need(d["scrub_found"] == 0, "%s: the scrub found %s differences", d["name"], d["scrub_found"])
    for n in names:
        path = os.path.join(mount.dir, n)
        if os.path.exists(path):
            need(integrity(path) == "ok", "%s: integrity_check: %s", n, integrity(path))
