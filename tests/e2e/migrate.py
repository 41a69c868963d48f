#!/usr/bin/python3
# timeout: 180
"""fazt migrate: what numbered files make of a database is what SQLite makes of them elsewhere, each file is one commit, and undoing brings
back what was there, page by page but for the counters that SQLite's connections look at; with readers that stay, beside writers, in
WAL and in rollback mode. What cannot be a migration is refused before anything is applied."""
import contextlib
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, clear_free, fazt, fazt_json, integrity, main, need, wait_for  # noqa: E402

FILES = {
    "0001-users.sql": """-- a table; with a comment
CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL, at TEXT);
CREATE TRIGGER born AFTER INSERT ON users BEGIN
  UPDATE users SET at = 'then; or so' WHERE id = new.id; /* ; */
  INSERT INTO t VALUES (new.id);
END;
INSERT INTO users(name) VALUES ('a; b'), ('it''s c');
""",
    "0002_wide.sql": "ALTER TABLE users ADD COLUMN score REAL DEFAULT 1.5; CREATE INDEX by_name ON users(name)",
    "0003-many.sql": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)\n"
                     "INSERT INTO users(name) SELECT 'user ' || i FROM n;\nSELECT count(*) FROM users;\n",
    "0004-rebuild.sql": "CREATE TABLE new(id INTEGER PRIMARY KEY, name TEXT);\nINSERT INTO new SELECT id, name FROM users;\n"
                        "DROP TABLE users;\nALTER TABLE new RENAME TO users;\n",
}


def write(path, files):
    os.makedirs(path, exist_ok=True)
    for f in os.listdir(path):
        os.unlink(os.path.join(path, f))
    for name, sql in files.items():
        with open(os.path.join(path, name), "w") as f:
            f.write(sql)
    return path


def dump(path):
    """What the database holds, without the record of migrations."""
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=30)
    try:
        return [l for l in con.iterdump() if "fazt_migrations" not in l]
    finally:
        con.close()


def pages(path):
    """Hash of the pages that a fresh connection sees, without change counter, schema cookie and their companion (replica/inplace.h), mode and the
    content of free pages."""
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=30)
    try:
        con.execute("SELECT count(*) FROM sqlite_master").fetchall()
        data = bytearray(con.serialize())
    finally:
        con.close()
    for a, b in ((18, 20), (24, 28), (40, 44), (92, 100)):
        data[a:b] = bytes(b - a)
    clear_free(data)
    return hashlib.sha256(data).hexdigest()


def begin(path, mode):
    con = sqlite3.connect(path, isolation_level=None, timeout=30)
    con.execute("PRAGMA journal_mode=" + mode)
    con.execute("CREATE TABLE t(x)")
    con.execute("INSERT INTO t VALUES (0)")
    return con


def one(base, m, mode):
    sql = os.path.join(base, "sql")
    db, native = os.path.join(m.dir, mode + ".db"), os.path.join(base, mode + "-native.db")
    out = os.path.join(base, "out.db")
    con, there = begin(db, mode), begin(native, mode)
    states = [(m.database(mode + ".db")["txid"] if not fazt("sync", m.dir).returncode else 0, pages(db), dump(db))]
    todo = {}
    for name in sorted(FILES):  # one at a time, and each beside what SQLite makes of it
        todo[name] = FILES[name]
        write(sql, todo)
        before = pages(db)
        r = fazt("migrate", "--dry-run", "--progress", db, sql)
        need(re.search(r"^copying .*MB", r.stderr, re.M), "--progress: %r", r.stderr)
        need(pages(db) == before, "%s: --dry-run has changed something", name)
        got = json.loads(fazt("migrate", "--json", db, sql).stdout)
        need([(g["name"], g["txid_before"], g["txid"]) for g in got] == [(name, states[-1][0], states[-1][0] + 1)], "%s: %s", name, got)
        there.executescript("BEGIN;" + FILES[name] + ";COMMIT")
        need(dump(db) == dump(native), "%s %s: not what SQLite makes of it", mode, name)
        states.append((got[0]["txid"], pages(db), dump(db)))
        need(con.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 1, "the connection that stays")
    need("up to date" in fazt("migrate", db, sql).stdout, "again")
    need(m.database(mode + ".db")["txid"] == states[-1][0], "more commits than migrations")
    for txid, _, text in states:  # each state is a commit of the log
        fazt("restore", db, "--txid", txid, "-o", out, "--force")
        need(dump(out) == text, "%s: restored %d", mode, txid)
    listed = fazt_json("migrate", "--status", "--json", db, sql)
    need([(e["name"], e["state"], e["txid_before"]) for e in listed] ==
         [(n, "applied", s[0]) for n, s in zip(sorted(FILES), states)], "%s", listed)
    for number in (4, 3, None):  # back, one by one; None: the newest, which is 2
        r = fazt_json("migrate", "--json", "--undo", *([] if number is None else [number]), db)
        at = (number or 2) - 1
        need(r["number"] == at + 1 and r["undone_commits"] == 1 and r["of_others"] == 0, "%s", r)
        need(pages(db) == states[at][1] and dump(db) == states[at][2], "%s: undoing %d is not the state before it", mode, at + 1)
        need(integrity(db) == "ok" and con.execute("SELECT max(x) FROM t").fetchone(), "after undoing %d", at + 1)
    fazt("migrate", db, sql)  # and forth
    need(dump(db) == dump(native), "%s: forth again", mode)
    con.execute("INSERT INTO t VALUES (77)")
    con.execute("INSERT INTO t VALUES (78)")
    before = dump(db)
    r = fazt("migrate", "--undo", 2, db, check=False)
    need(r.returncode == 1 and "FZ-1207" in r.stderr and re.search(r"2 commits of others, from 20\S+Z to 20\S+Z", r.stderr), "%s", r.stderr)
    need(dump(db) == before, "refused, and yet something was undone")
    r = fazt("migrate", "--undo", "--dry-run", "--force", 2, db)
    need("5 commits would be undone, 2 of others" in r.stdout and dump(db) == before, "%s", r.stdout)
    tail = m.database(mode + ".db")["txid"]
    r = fazt("migrate", "--json", "--progress", "--undo", "--force", 2, db)
    need(re.search(r"^restoring .*MB", r.stderr, re.M), "--progress: %r", r.stderr)
    r = json.loads(r.stdout)
    need((r["undone_commits"], r["of_others"], r["txid"]) == (5, 2, tail + 1) and pages(db) == states[1][1], "%s", r)
    fazt("restore", "--in-place", db, "--txid", tail)  # the way back of the way back
    need(dump(db) == before, "brought again")
    r = fazt("migrate", "--undo", db, check=False)
    need(r.returncode == 1 and "commit" in r.stderr, "a restore in place is a commit of somebody: %s", r.stderr)
    con.close()
    there.close()


WRITER = """
import sqlite3, sys, time
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
while True:
    con.execute("INSERT INTO t VALUES (1)")
    time.sleep(0.005)  # SQLite's lock is not fair: without a pause nobody else would get it
    print("+", flush=True)
"""


def beside_writers(base, m, mode):
    """Two migrate the same at once while others write: each file once, and its TXID is exact although commits surround it."""
    db, sql, out = os.path.join(m.dir, "busy-%s.db" % mode), write(os.path.join(base, "sql"), FILES), os.path.join(base, "out.db")
    begin(db, mode).close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, db], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    both = []
    try:
        writer.stdout.readline()
        both = [subprocess.Popen([FAZT, "migrate", "--json", db, sql], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        said = [p.communicate(timeout=60) for p in both]
        need([p.returncode for p in both] == [0, 0], "%s", said)
        done = [e for o, _ in said for e in json.loads(o)]
        need(sorted(e["number"] for e in done) == [1, 2, 3, 4], "applied: %s", done)
        with contextlib.closing(sqlite3.connect(db, timeout=30)) as con:  # what it has said may be old
            def rows():
                return con.execute("SELECT count(*) FROM t").fetchone()[0]
            n = rows()
            wait_for("a commit after the migration", lambda: rows() > n)
        r = fazt("migrate", "--undo", db, check=False)
        need(r.returncode == 1 and "FZ-1207" in r.stderr, "undone under a writer: %s", r.stderr)
        fazt("migrate", "--undo", "--force", 3, db)
        need(integrity(db) == "ok", "after an undoing beside a writer")
        writer.stdout.readline()
    finally:
        for p in [writer, *both]:
            if p.poll() is None:
                p.kill()
            p.wait()
            for f in (p.stdout, p.stderr):
                if f:
                    f.close()
    fazt("sync", m.dir)
    for e in done:  # right before it is not there, right after it is
        for txid, rows in ((e["txid_before"], 0), (e["txid_before"] + 1, 1)):
            fazt("restore", db, "--txid", txid, "-o", out, "--force")
            con = sqlite3.connect(out)
            try:
                n = con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'fazt_migrations'").fetchone()[0]
                n = n and con.execute("SELECT count(*) FROM fazt_migrations WHERE number = ?", (e["number"],)).fetchone()[0]
            finally:
                con.close()
            need(n == rows, "%s: transaction %d has migration %d %d times", mode, txid, e["number"], n)
    need(fazt_json("verify", "--live", "--json", m.dir)["differences"] == 0, "verify --live")


def refused(base, m):
    db, sql = os.path.join(m.dir, "refused.db"), os.path.join(base, "sql")
    con = begin(db, "WAL")
    con.close()
    first = {"1-a.sql": "CREATE TABLE a(x)", "2-b.sql": "CREATE TABLE b(x)"}
    fazt("migrate", db, write(sql, first))
    before, state = dump(db), pages(db)
    for what, files, code, says in (
            ("changed", {"1-a.sql": "CREATE TABLE a(x) "}, 1, r"1-a\.sql is not what was applied .*FZ-1207"),
            ("gone", {"1-a.sql": None, "2-b.sql": first["2-b.sql"]}, 1, r"migration 1 \(1-a\.sql\) was applied"),
            ("twice", {"2-c.sql": "SELECT 1"}, 2, r"have the same number"),
            ("a gap", {"4-d.sql": "SELECT 1"}, 2, r"number 3 is missing"),
            ("no number", {"c.sql": "SELECT 1"}, 2, r"c\.sql: the name does not begin with a number"),
            ("a date and time", {"20260101120000-c.sql": "SELECT 1"}, 2, r"20260101120000-c\.sql: its number has more than 9 digits"),
            ("empty", {"3-c.sql": "-- nothing\n"}, 2, r"holds no statement"),
            ("BEGIN", {"3-c.sql": "CREATE TABLE c(x);\n/* now */ begin immediate;\n"}, 2, r"3-c\.sql:2: .*leave BEGIN and COMMIT out"),
            ("COMMIT", {"3-c.sql": "CREATE TABLE c(x); COMMIT"}, 2, r"3-c\.sql:1: "),
            ("VACUUM", {"3-c.sql": "\n\nVACUUM;"}, 2, r"3-c\.sql:3: VACUUM cannot run"),
            ("journal_mode", {"3-c.sql": "PRAGMA main . journal_mode = DELETE"}, 2, r"journal mode cannot change"),
            ("foreign_keys", {"3-c.sql": "PRAGMA foreign_keys=OFF"}, 2, r"foreign keys are not enforced"),
            ("ATTACH", {"3-c.sql": "ATTACH '/tmp/x' AS x"}, 2, r"without a way back"),
            ("shell", {"3-c.sql": ".mode csv\n"}, 2, r"commands of the sqlite3 shell"),
            ("explained", {"3-c.sql": "EXPLAIN COMMIT"}, 1, r"3-c\.sql:1:\d+: not authorized"),
            ("fails", {"3-c.sql": "CREATE TABLE c(x);\nINSERT INTO c VALUES (1);\nINSERT INTO c\n  VALUES (1, nope);\n"}, 1,
             r"3-c\.sql:4:14: no such column: nope; the file was rolled back .*FZ-1208"),
            ("fails late", {"3-c.sql": "CREATE TABLE c(x UNIQUE);\nINSERT INTO c VALUES (1);\n INSERT INTO c VALUES (1);\n"}, 1,
             r"3-c\.sql:3:2: UNIQUE constraint failed"),
            ("ends it", {"3-c.sql": "CREATE TABLE c(x UNIQUE);INSERT INTO c VALUES (1);INSERT OR ROLLBACK INTO c VALUES (1)"}, 1,
             r"3-c\.sql:1:\d+: UNIQUE constraint failed"),
            ("no such directory", None, 1, r"cannot read the directory"),
            ("no file", {n: None for n in first}, 3, r"holds no migration")):
        files = {} if files is None else {n: s for n, s in {**first, **files}.items() if s is not None}
        where = write(sql, files) if what != "no such directory" else sql + "-none"
        for extra in ([], ["--dry-run"]):
            r = fazt("migrate", *extra, db, where, check=False)
            need(r.returncode == code and re.search(says, r.stderr, re.S), "%s %s: exit %d: %s", what, extra, r.returncode, r.stderr)
        need(dump(db) == before and pages(db) == state, "%s: the database has changed", what)
    out = os.path.join(m.dir, "excluded.db")
    begin(out, "WAL").close()
    r = fazt("migrate", out, write(sql, first))
    need("transaction" not in r.stdout and "it cannot be undone" in r.stdout, "excluded: %s", r.stdout)
    r = fazt("migrate", "--undo", out, check=False)
    need(r.returncode == 3 and "the configuration excludes" in r.stderr, "undoing what is excluded: %d %s", r.returncode, r.stderr)
    r = fazt("migrate", os.path.join(base, "outside.db"), write(sql, first), check=False)
    need(r.returncode == 3, "outside of a mount: %s", r.stderr)
    new = os.path.join(m.dir, "new.db")  # there is none yet: it is the directory's owner's
    os.chown(m.dir, 12345, 12345)
    need(fazt_json("migrate", "--json", new, sql)[0]["txid_before"] == 0, "a new database")
    need(os.stat(new).st_uid == 12345, "its owner")
    r = fazt("migrate", "--undo", 1, new, check=False)
    need(r.returncode == 1 and "did not exist before" in r.stderr, "%s", r.stderr)


def foreign_keys(base, m):
    """As in SQLite's shell they are not enforced, so that a table can be made anew under those that refer to it: nothing is deleted along."""
    db = os.path.join(m.dir, "refer.db")
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as con:
        con.executescript("CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(p REFERENCES p ON DELETE CASCADE);"
                          "INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)")
    fazt("migrate", db, write(os.path.join(base, "sql"), {"1-p.sql": "CREATE TABLE q(id INTEGER PRIMARY KEY, x); INSERT INTO q SELECT id, 0 FROM p;"
                                                                     "DROP TABLE p; ALTER TABLE q RENAME TO p"}))
    with contextlib.closing(sqlite3.connect(db)) as con:
        need(con.execute("SELECT p FROM c").fetchall() == [(1,)] and not con.execute("PRAGMA foreign_key_check").fetchall(), "rows went along")


def written(base, m):
    """As editors of other systems write files, and names that are not plain; in a directory below."""
    os.mkdir(os.path.join(m.dir, "sub dir"))
    db = os.path.join(m.dir, "sub dir", "d\u00e4t\u00e4 1.db")
    sql = write(os.path.join(base, "sql w"), {})
    with open(os.path.join(sql, "7-\u00fc b.SQL"), "wb") as f:
        f.write(b"\xef\xbb\xbfCREATE TABLE a(x);\r\n-- c; d\r\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\r\n"
                b"  UPDATE a SET x = CASE WHEN x THEN 'b;' ELSE 2 END;\r\nEND;\r\nINSERT INTO a VALUES (1);\r\n")
    got = fazt_json("migrate", "--json", db, sql)
    need([(g["number"], g["name"]) for g in got] == [(7, "7-\u00fc b.SQL")], "%s", got)
    with contextlib.closing(sqlite3.connect(db)) as con:
        need(con.execute("SELECT x FROM a").fetchall() == [("b;",)], "the trigger")
    with open(os.path.join(sql, "7-\u00fc b.SQL"), "ab") as f:
        f.write(b"\n")
    need("FZ-1207" in fazt("migrate", db, sql, check=False).stderr, "a line end more is another file")


SLOW = "CREATE TABLE slow(x);\nWITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO slow SELECT i FROM n;\n"


def cut_off(base, m, mode):
    """Interrupted or killed in the middle of a file that never ends, or while another holds the lock: the files before it stay, of it there is
    nothing, no copy stays, and the repetition goes on from there."""
    db, tmp = os.path.join(m.dir, "cut-%s.db" % mode), os.path.join(base, "tmp-" + mode)
    os.mkdir(tmp)
    con = begin(db, mode)
    sql = write(os.path.join(base, "sql"), {"1-a.sql": "CREATE TABLE a(x)", "2-slow.sql": SLOW})
    first = fazt_json("migrate", "--json", db, write(os.path.join(base, "one"), {"1-a.sql": "CREATE TABLE a(x)"}))

    def start(*args):
        return subprocess.Popen([FAZT, "migrate", *args, db, sql], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": tmp})

    def locked():
        try:
            con.execute("PRAGMA busy_timeout=0")
            con.execute("BEGIN IMMEDIATE")
            con.execute("ROLLBACK")
            return False
        except sqlite3.OperationalError:
            return True

    def unchanged(what):
        need(not os.listdir(tmp), "%s left %s", what, os.listdir(tmp))
        con.execute("PRAGMA busy_timeout=30000")
        need(con.execute("SELECT number FROM fazt_migrations").fetchall() == [(1,)] and integrity(db) == "ok", "%s", what)
        need(not con.execute("SELECT 1 FROM sqlite_master WHERE name = 'slow'").fetchall(), "%s: half a file", what)

    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        p = start()
        wait_for("the file to run", locked)
        p.send_signal(sig)
        said = p.communicate(timeout=60)[1].decode()
        need(sig == signal.SIGKILL or (p.returncode == 1 and "2-slow.sql:2:" in said and "interrupted" in said), "%s: %d %s", sig, p.returncode, said)
        unchanged("signal %d" % sig)
    p = start("--dry-run")
    wait_for("the copy to be worked on", lambda: any(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(tmp) for f in fs
                                                     if f.endswith("-journal") or f.endswith("-wal")))
    p.send_signal(signal.SIGINT)
    said = p.communicate(timeout=60)[1].decode()
    need(p.returncode == 1 and "interrupted" in said, "--dry-run: %d %s", p.returncode, said)
    unchanged("--dry-run")
    con.execute("BEGIN IMMEDIATE")
    p = start()
    wait_for("it to wait for the lock", lambda: db in [os.path.realpath(os.path.join("/proc/%d/fd" % p.pid, f)) for f in os.listdir("/proc/%d/fd" % p.pid)])
    p.send_signal(signal.SIGINT)
    said = p.communicate(timeout=60)[1].decode()
    con.execute("ROLLBACK")
    need(p.returncode == 1 and "interrupted" in said, "waiting: %d %s", p.returncode, said)
    unchanged("waiting")
    if mode == "WAL":  # who never lets it go is named
        con.execute("BEGIN IMMEDIATE")
        r = fazt("migrate", db, sql, check=False)
        con.execute("ROLLBACK")
        need(r.returncode == 1 and "FZ-1401" in r.stderr and "[%d] has %s open" % (os.getpid(), db) in r.stderr, "%s", r.stderr)
    con.close()
    write(sql, {"1-a.sql": "CREATE TABLE a(x)", "2-b.sql": "CREATE TABLE b(x)"})
    second = fazt_json("migrate", "--json", db, sql)
    need([e["number"] for e in second] == [2] and second[0]["txid_before"] == first[0]["txid"], "the repetition: %s %s", first, second)


def run(base):
    conf = os.path.join(base, "conf")
    with open(conf, "w") as f:
        f.write("[mount]\nexclude = excluded.db\n")
    with Mount(base, "--config", conf).start() as m:
        for mode in ("WAL", "DELETE"):
            one(base, m, mode)
            beside_writers(base, m, mode)
            cut_off(base, m, mode)
        refused(base, m)
        written(base, m)
        foreign_keys(base, m)
        m.umount(wait=True)


main("migrate", run)
