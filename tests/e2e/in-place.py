#!/usr/bin/python3
# timeout: 120
"""fazt restore --in-place while other processes read and write, in WAL and in rollback mode. Readers go on and see one
state or the other, never a mixture or SQLITE_CORRUPT; open connections see the schema of the restored state; writers go
on from there; what was written in place is one commit of the log, can be restored itself and undone the same way."""
import json
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Failure, Mount, fazt, fazt_json, file_hash, integrity, main, need, serialize_hash, wait_for  # noqa: E402

# Both keep one connection open all the time. The invariant: t holds `rows` rows whose k sum up to `total`.
READER = """
import sqlite3, sys, json
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
seen, n = set(), 0
while True:
    con.execute("BEGIN")
    rows, total, era = con.execute("SELECT rows, total, era FROM meta").fetchone()
    there = con.execute("SELECT count(*), coalesce(sum(k), 0) FROM t").fetchone()
    cols = [r[1] for r in con.execute("PRAGMA table_info(t)")]
    con.execute("SELECT * FROM t ORDER BY k LIMIT 5").fetchall()
    con.execute("COMMIT")
    if (rows, total) != there:
        sys.exit("meta says %s rows, sum %s; t has %s" % (rows, total, there))
    if ("extra" in cols) != (era >= 2):
        sys.exit("era %d with columns %s" % (era, cols))
    n += 1
    seen.add(era)
    if n % 20 == 1:
        check = con.execute("PRAGMA quick_check").fetchone()[0]
        if check != "ok":
            sys.exit("quick_check: " + check)
    print(json.dumps({"n": n, "era": era, "rows": rows}), flush=True)
"""
WRITER = """
import sqlite3, sys, json, random, time
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
rnd = random.Random(int(sys.argv[2]))
n = 0
while True:
    con.execute("BEGIN IMMEDIATE")
    k = rnd.getrandbits(20)
    con.execute("INSERT INTO t(k, v) VALUES (?, randomblob(?))", (k, rnd.choice([10, 400, 6000])))
    con.execute("UPDATE meta SET rows = rows + 1, total = total + ?", (k,))
    con.execute("COMMIT")
    n += 1
    era, rows = con.execute("SELECT era, rows FROM meta").fetchone()
    print(json.dumps({"n": n, "era": era, "rows": rows}), flush=True)
    time.sleep(0.002)  # SQLite's locks are not fair: on a slow disk nobody else would ever get one
"""


def links(pid):
    """What a process has open."""
    fds = "/proc/%d/fd" % pid
    try:
        return [os.readlink(os.path.join(fds, n)) for n in os.listdir(fds)]
    except OSError:
        return []


class Process:
    def __init__(self, base, code, *args):
        self.out = os.path.join(base, "p%d" % len(os.listdir(base)))
        self.f = open(self.out, "wb")
        self.e = open(self.out + ".err", "wb")
        self.p = subprocess.Popen([sys.executable, "-c", code, *args], stdout=self.f, stderr=self.e, stdin=subprocess.DEVNULL)

    def last(self):
        if self.p.poll() is not None:
            with open(self.out + ".err", errors="replace") as f:
                raise Failure("%s ended with %d: %s" % (self.p.args[2].split("\n")[6:8], self.p.returncode, f.read()[-1500:]))
        with open(self.out, "rb") as f:
            f.seek(max(0, os.path.getsize(self.out) - 300))
            lines = f.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else {"n": 0, "era": 0, "rows": 0}

    def goes_on(self, what, rounds=2):
        n = self.last()["n"]
        wait_for(what, lambda: self.last()["n"] >= n + rounds)

    def end(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        self.f.close()
        self.e.close()


def content(path):
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=30)
    try:
        return list(con.iterdump())
    finally:
        con.close()


def one(base, m, journal, writers):
    path = os.path.join(m.dir, journal + ".db")
    out = os.path.join(base, "out.db")
    work = os.path.join(base, "work-" + journal)
    os.mkdir(work)
    con = sqlite3.connect(path, isolation_level=None, timeout=30)
    con.execute("PRAGMA journal_mode=" + journal)
    con.execute("BEGIN")
    con.execute("CREATE TABLE meta(rows INTEGER, total INTEGER, era INTEGER)")
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB)")
    con.execute("CREATE INDEX tk ON t(k)")
    con.execute("INSERT INTO meta VALUES (0, 0, 1)")
    con.execute("COMMIT")
    procs = [Process(work, READER, path) for _ in range(writers)] + [Process(work, WRITER, path, str(i)) for i in range(writers)]
    try:
        for p in procs:
            p.goes_on("the processes", 4)
        fazt("sync", m.dir)
        early = m.database(journal + ".db")["txid"]
        fazt("restore", path, "--txid", early, "-o", out, "--force")
        early_content = content(out)
        c = sqlite3.connect(out)
        early_rows = c.execute("SELECT rows FROM meta").fetchone()[0]
        c.close()  # a connection keeps its lock until it is collected, and a restore refuses a file in use
        con.execute("BEGIN IMMEDIATE")
        con.execute("ALTER TABLE t ADD COLUMN extra TEXT DEFAULT 'x'")
        con.execute("CREATE TABLE later(x)")
        con.execute("DROP INDEX tk")
        con.execute("UPDATE meta SET era = 2")
        con.execute("COMMIT")
        for p in procs:
            wait_for("era 2", lambda p=p: p.last()["era"] == 2)
            p.goes_on("the processes in era 2")

        def back(txid, era):
            """In place to txid; returns the TXID that did it."""
            r = fazt_json("restore", "--in-place", path, "--txid", txid, "--json")
            need(r["txid"] == txid, "it took %s", r)
            for p in procs:
                wait_for("era %d" % era, lambda p=p: p.last()["era"] == era)
                p.goes_on("the processes after a restore in place")
            return r
        before = m.database(journal + ".db")["txid"]
        back(early, 1)
        # this connection has been open all the while
        need([r[1] for r in con.execute("PRAGMA table_info(t)")] == ["id", "k", "v"], "an open connection keeps a stale schema")
        try:
            con.execute("SELECT extra FROM t").fetchall()
            raise Failure("an open connection still sees a column of the other schema")
        except sqlite3.OperationalError as e:
            need("no such column" in str(e), "%s", e)
        con.execute("SELECT count(*) FROM t INDEXED BY tk").fetchall()
        fazt("sync", m.dir)
        # exactly one commit of the log is the restored state
        hits = []
        listed = [e["txid"] for e in fazt_json("log", "--json", path) if e["txid"] > before]
        for t in listed[:400]:
            fazt("restore", path, "--txid", t, "-o", out, "--force")
            c = sqlite3.connect(out)
            era, rows = c.execute("SELECT era, rows FROM meta").fetchone()
            c.close()
            if era == 1:
                need(rows == early_rows, "the first commit in the old era has %d rows, not %d", rows, early_rows)
                need(content(out) == early_content, "what was restored in place is not the state of TXID %d", early)
                need(integrity(out) == "ok", "integrity of the restored state")
                hits.append(t)
                break
        need(hits, "no commit of the log holds what was restored in place: %s", listed)
        back(hits[0] - 1, 2)  # undone
        need([r[1] for r in con.execute("PRAGMA table_info(t)")][-1] == "extra", "the column did not come back")
        back(hits[0], 1)      # and the commit made in place is a moment as any other
        for p in procs:
            p.goes_on("the processes at the end", 2)
        need(con.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "integrity of the live database")
    finally:
        for p in procs:
            p.end()
    con.execute("SELECT * FROM meta").fetchall()  # plays back the journal of a killed writer
    m.sync()
    fazt("restore", m.source(journal + ".db"), "-i", m.key, "-o", out, "--force")
    need(file_hash(out) == serialize_hash(path), "the latest commit of the store is not the live database")
    r = fazt("verify", "--live", m.dir)
    need("0 differ" in r.stdout, "verify --live: %s", r.stdout)
    fazt("verify", "--full", m.source(journal + ".db"), "-i", m.key)
    d = m.database(journal + ".db")
    need(not d["scrub_found"] and not d["last_error"], "status: %s", d)
    con.close()


def interrupted(base, m):
    """SIGINT ends the wait for the writer's lock, while another has it, and no plain copy stays, not even after SIGKILL."""
    path, tmp, sql = os.path.join(m.dir, "kept.db"), os.path.join(base, "tmp"), os.path.join(base, "sql")
    for d in (tmp, sql):
        os.mkdir(d)
    with open(os.path.join(sql, "1-a.sql"), "w") as f:
        f.write("CREATE TABLE a(x)")
    con = sqlite3.connect(path, isolation_level=None, timeout=30)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("CREATE TABLE t(x)")
    fazt("migrate", path, sql)
    was, txid = content(path), m.database("kept.db")["txid"]
    other = os.path.join(base, "other.db")
    c = sqlite3.connect(other)
    c.execute("CREATE TABLE other(x)")
    c.close()
    for what, args in (("restore", ["restore", "--in-place", path, "--txid", "1"]), ("undo", ["migrate", "--undo", path]),
                       ("import", ["import", "--force", other, path])):
        for sig in (signal.SIGINT, signal.SIGKILL):
            con.execute("BEGIN IMMEDIATE")
            p = subprocess.Popen([FAZT, *args], env={**os.environ, "TMPDIR": tmp}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_for("copy and live database in its hands", lambda p=p: path in links(p.pid) and tmp + "/" in str(links(p.pid)))
            p.send_signal(sig)
            said = p.communicate(timeout=60)[1].decode()  # the lock is held all the time
            con.execute("ROLLBACK")
            if sig == signal.SIGINT:
                need(p.returncode == 1 and "interrupted" in said, "%s after SIGINT: exit %d: %s", what, p.returncode, said)
            need(content(path) == was, "%s did its work after signal %d", what, sig)
            need(m.database("kept.db")["txid"] == txid, "%s made a commit after signal %d", what, sig)
            if what != "import" or sig == signal.SIGINT:
                need(not os.listdir(tmp), "%s left %s after signal %d", what, os.listdir(tmp), sig)
    need(len(os.listdir(tmp)) == 1, "the killed import left %s", os.listdir(tmp))
    fazt("import", "--force", other, path, env={**os.environ, "TMPDIR": tmp})
    need(not os.listdir(tmp), "the next import left %s", os.listdir(tmp))
    # whichever lock it is, and whoever holds it: of an exclusive application, of a reader that keeps a writer out, of the file that is imported
    def ended(what, held, sql, *args):
        c = sqlite3.connect(held, isolation_level=None, timeout=30)
        for line in sql:
            c.execute(line).fetchall()
        p = subprocess.Popen([FAZT, *args], env={**os.environ, "TMPDIR": tmp}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for("%s to have it open" % what, lambda: held in links(p.pid))
        p.send_signal(signal.SIGINT)
        said = p.communicate(timeout=60)[1].decode()
        need(p.returncode == 1 and "interrupted" in said, "%s after SIGINT: exit %d: %s", what, p.returncode, said)
        c.close()

    rollback = os.path.join(m.dir, "rollback.db")
    fazt("import", other, rollback)
    ended("exclusive", rollback, ["PRAGMA locking_mode=EXCLUSIVE", "CREATE TABLE kept(x)"], "restore", "--in-place", rollback, "--txid", "1")
    ended("a reader", rollback, ["BEGIN", "SELECT count(*) FROM other"], "restore", "--in-place", rollback, "--txid", "1")
    ended("the imported file", other, ["BEGIN EXCLUSIVE"], "import", other, os.path.join(m.dir, "never.db"))
    need(not os.path.exists(os.path.join(m.dir, "never.db")) and not os.listdir(tmp), "an interrupted import")
    con.close()


def scenario(base):
    with Mount(base) as m:
        m.start()
        one(base, m, "WAL", 2)
        one(base, m, "DELETE", 1)
        interrupted(base, m)
        r = fazt("restore", "--in-place", os.path.join(m.dir, "none.db"), "--latest", check=False)
        need(r.returncode == 3 and "FZ-1203" in r.stderr, "no such database: exit %d %s", r.returncode, r.stderr)
        r = fazt("restore", "--in-place", os.path.join(m.dir, "WAL.db"), "--txid", "99999999", check=False)
        need(r.returncode == 3 and "FZ-1204" in r.stderr, "no such commit: exit %d %s", r.returncode, r.stderr)
        need(m.status()["healthy"] and m.status()["restarts"] == 0, "status: %s", m.status()["problems"])
        m.umount(wait=True)


if __name__ == "__main__":
    main("in-place", scenario)
