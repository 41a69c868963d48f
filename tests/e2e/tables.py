#!/usr/bin/python3
"""`fazt log --tables` names the tables each commit wrote. Judged twice: by what the statements were, and by a reader of
SQLite's file format in this file that finds the owner of every page before and after each commit. In WAL and DELETE mode, with
and without auto_vacuum; from the mount's own log and from an encrypted store; and told as unknown where it is."""
import os
import random
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, main, need, wait_for  # noqa: E402

ODD = 'od"d, n\u00e4me\x1b[31m'
FIXED = [  # statements of one commit, the tables they write
    (["CREATE TABLE a(id INTEGER PRIMARY KEY, k, v)"], {"a", "sqlite_schema"}),
    (["CREATE INDEX ai ON a(k)"], {"a", "sqlite_schema"}),
    (["CREATE TABLE b(id INTEGER PRIMARY KEY, v)"], {"b", "sqlite_schema"}),
    (["CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID"], {"w", "sqlite_schema"}),
    (["INSERT INTO a VALUES (1, 'x', randomblob(50))"], {"a"}),
    (["INSERT INTO a VALUES (2, 'y', randomblob(60000))"], {"a"}),  # overflow pages
    (["INSERT INTO a VALUES (3, 'z', randomblob(60000))"], {"a"}),
    (["UPDATE a SET v = zeroblob(60000) WHERE id = 2"], {"a"}),
    (["UPDATE a SET k = 'changed' WHERE id = 1"], {"a"}),  # the index too
    (["WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<300) "
      "INSERT INTO w SELECT 'key' || i, randomblob(100) FROM n"], {"w"}),
    (["INSERT INTO b VALUES (1, 'small')"], {"b"}),
    (["DELETE FROM a WHERE id = 2", "INSERT INTO b VALUES (2, zeroblob(60000))"], {"a", "b"}),
    (["UPDATE b SET v = randomblob(60000) WHERE id = 2"], {"b"}),
    (["DELETE FROM b WHERE id = 2"], {"b"}),  # frees pages
    (["INSERT INTO w SELECT k || 'more', v FROM w LIMIT 3"], {"w"}),
    (["PRAGMA user_version = 7"], set()),  # the file's header is no table's
    (["CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT, v)"], {"s", "sqlite_sequence", "sqlite_schema"}),
    (["INSERT INTO s(v) VALUES (1)"], {"s", "sqlite_sequence"}),
    (['CREATE TABLE "%s"(x)' % ODD.replace('"', '""')], {ODD, "sqlite_schema"}),
    (['INSERT INTO "%s" VALUES (1)' % ODD.replace('"', '""')], {ODD}),
    (["ALTER TABLE s RENAME TO s2"], {"sqlite_schema", "sqlite_sequence"}),
    (["INSERT INTO s2(v) VALUES (2)"], {"s2", "sqlite_sequence"}),
    (["DROP TABLE w"], {"w", "sqlite_schema"}),
    (["CREATE TABLE gone(x)", "INSERT INTO gone VALUES (randomblob(9000))", "DROP TABLE gone"], None),
    (["INSERT INTO a VALUES (4, 'q', randomblob(9000))"], {"a"}),
    (["DROP INDEX ai"], {"a", "sqlite_schema"}),
    (["VACUUM"], None),
    (["INSERT INTO b VALUES (9, 'after')"], {"b"}),
]


def varint(data, at):
    v = 0
    for i in range(9):
        byte = data[at + i]
        if i == 8:
            return v << 8 | byte, at + 9
        v = v << 7 | byte & 0x7f
        if byte < 0x80:
            return v, at + i + 1


def be(data, at, n):
    return int.from_bytes(data[at:at + n], "big")


class Image:
    """Owners of the pages of a database file, from the format's description."""

    def __init__(self, data):
        self.data, self.owner = data, {}
        self.size = be(data, 16, 2) if be(data, 16, 2) != 1 else 65536
        self.usable = self.size - data[20]
        con = sqlite3.connect(":memory:")
        con.deserialize(bytes(data[:18]) + b"\1\1" + bytes(data[20:]))
        roots = con.execute("SELECT rootpage, tbl_name FROM sqlite_master WHERE rootpage>0").fetchall()
        con.close()
        for root, table in [(1, "sqlite_schema"), *roots]:
            self.tree(root, table)

    def page(self, n):
        return self.data[(n - 1) * self.size:n * self.size]

    def tree(self, n, table):
        need(n not in self.owner, "page %d has two owners", n)
        self.owner[n] = table
        p, h = self.page(n), 100 if n == 1 else 0
        kind, cells = p[h], be(p, h + 3, 2)
        interior = kind in (2, 5)
        need(kind in (2, 5, 10, 13), "page %d of %s is no b-tree page", n, table)
        for i in range(cells):
            at = be(p, h + (12 if interior else 8) + 2 * i, 2)
            if interior:
                self.tree(be(p, at, 4), table)
                at += 4
            if kind == 5:
                continue
            payload, at = varint(p, at)
            if kind == 13:
                at = varint(p, at)[1]
            top = self.usable - 35 if kind == 13 else (self.usable - 12) * 64 // 255 - 23
            low = (self.usable - 12) * 32 // 255 - 23
            if payload > top:
                local = low + (payload - low) % (self.usable - 4)
                at += local if local <= top else low
                n2 = be(p, at, 4)
                while n2:
                    self.owner[n2] = table
                    n2 = be(self.page(n2), 0, 4)
        if interior:
            self.tree(be(p, h + 8, 4), table)


def wrote(old, new):
    if old.size != new.size:
        return set(old.owner.values()) | set(new.owner.values())
    tables = set()
    for n in range(1, max(len(old.data), len(new.data)) // new.size + 1):
        skip = 100 if n == 1 else 0
        if old.page(n)[skip:] != new.page(n)[skip:]:
            tables |= {old.owner.get(n), new.owner.get(n)}
    return tables - {None}


class App:
    def __init__(self, m, name, *pragmas):
        self.name, self.path, self.images, self.known = name, os.path.join(m.dir, name), [], {}
        self.con = sqlite3.connect(self.path, isolation_level=None)
        for p in pragmas:
            self.con.execute("PRAGMA " + p).fetchall()
        self.con.execute("CREATE TABLE first(x)")
        self.images.append(Image(self.con.serialize()))

    def commit(self, statements, tables=None):
        if len(statements) > 1:
            self.con.execute("BEGIN")
        for s in statements:
            self.con.execute(s).fetchall()
        if len(statements) > 1:
            self.con.execute("COMMIT")
        data = self.con.serialize()
        if bytes(data) == bytes(self.images[-1].data):
            return
        self.images.append(Image(data))
        if tables is not None:
            self.known[len(self.images) - 1] = tables

    def query(self, sql):
        return self.con.execute(sql).fetchone()[0]

    def chance(self, rnd, count):
        """Random commits: several tables at once, overflow, deletes, tables and indexes that come and go."""
        for i in range(count):
            todo = []
            for _ in range(rnd.choice((1, 1, 2, 4))):
                t = "t%d" % rnd.randrange(4)
                todo.append(rnd.choice((
                    "CREATE TABLE IF NOT EXISTS %s(id INTEGER PRIMARY KEY, k, v)" % t,
                    "INSERT INTO %s(k, v) VALUES (%d, randomblob(%d))" % (t, i, rnd.choice((20, 700, 5000, 30000))),
                    "INSERT INTO %s(k, v) VALUES (%d, randomblob(%d))" % (t, i, rnd.choice((20, 700, 5000))),
                    "UPDATE %s SET v = randomblob(length(v)) WHERE id %% 5 = %d" % (t, rnd.randrange(5)),
                    "DELETE FROM %s WHERE id %% 4 = %d" % (t, rnd.randrange(4)),
                    "CREATE INDEX IF NOT EXISTS %si ON %s(k)" % (t, t),
                    "DROP TABLE IF EXISTS %s" % t if rnd.random() < 0.2 else "UPDATE %s SET k = k + 1 WHERE id < 9" % t)))
            for t in range(4):
                todo.insert(0, "CREATE TABLE IF NOT EXISTS t%d(id INTEGER PRIMARY KEY, k, v)" % t)
            self.commit([s for s in todo if "DROP" not in s] + [s for s in todo if "DROP" in s])
            if i % 25 == 24:
                self.commit([rnd.choice(("VACUUM", "PRAGMA incremental_vacuum(3)"))])

    def judge(self, log, what, complete=True):
        """The last entries of the log are the commits that were noted; a merged one is its range as a whole."""
        last, told = log[-1]["txid"], 0
        for e in log:
            after, before = len(self.images) - 1 - (last - e["txid"]), len(self.images) - 1 - (last - e["min_txid"]) - 1
            if before < 0:
                continue
            need("tables" in e, "%s %s: the tables of %s are not told", self.name, what, e)
            want = wrote(self.images[before], self.images[after])
            need(set(e["tables"]) == want and e["tables"] == sorted(set(e["tables"])), "%s %s, commit %d: %s, not %s", self.name,
                 what, after, e["tables"], sorted(want))
            told += after - before
            if before == after - 1 and after in self.known:
                need(want == self.known[after], "%s: commit %d wrote %s, not %s", self.name, after, want, self.known[after])
        need(told == len(self.images) - 1 if complete else told > 0, "%s %s: %d of %d commits", self.name, what, told,
             len(self.images) - 1)


def same_counts(app, what):
    """The last commit moved pages, and page 1 tells nothing of it: size, freelist and schema cookie are what they were."""
    old, new = app.images[-2:]
    need(old.owner != new.owner and old.data[28:44] == new.data[28:44], "%s does not show what it is made for", what)


def unseen_moves(m, mode):
    a = App(m, "moves-%s.db" % mode.lower(), "journal_mode=" + mode)
    a.commit(["CREATE TABLE x(id INTEGER PRIMARY KEY, v)"])
    a.commit(["CREATE TABLE y(id INTEGER PRIMARY KEY, v)"])
    a.commit(["INSERT INTO x VALUES (1, randomblob(100000))"], {"x"})
    a.commit(["DELETE FROM x", "INSERT INTO y VALUES (1, randomblob(100000))"], {"x", "y"})
    same_counts(a, "from x to y")

    def each_page(table, row):
        """One byte of each overflow page in turn: no other page changes."""
        for at in range(a.query("SELECT length(v) FROM %s WHERE id=%d" % (table, row)) - 1, 4096, -4000):
            with a.con.blobopen(table, "v", row) as blob:
                blob.seek(at)
                old = blob.read(1)
                blob.seek(at)
                blob.write(bytes([old[0] ^ 1]))
            a.commit(["SELECT 1"], {table})
    each_page("y", 1)
    a.commit(["INSERT INTO x VALUES (2, randomblob(200000))"], {"x"})
    a.commit(["DELETE FROM x WHERE id = 2"], {"x"})
    for i in range(3, 6):  # with a freelist: other pages of it each time
        a.commit(["INSERT INTO x VALUES (%d, randomblob(50000))" % i], {"x"})
    a.commit(["DELETE FROM x WHERE id = 4", "INSERT INTO x VALUES (6, randomblob(50000))"], {"x"})
    same_counts(a, "within x, through the freelist")
    each_page("x", 6)
    # the roots change places and the cookie does not tell
    a.con.execute("PRAGMA writable_schema=ON")
    a.commit(["UPDATE sqlite_schema SET rootpage = (SELECT sum(rootpage) FROM sqlite_schema WHERE name IN ('x', 'y')) - rootpage "
              "WHERE name IN ('x', 'y')"], {"sqlite_schema"})
    same_counts(a, "roots")
    a.con.close()
    a.con = sqlite3.connect(a.path, isolation_level=None)
    a.commit(["INSERT INTO x VALUES (100, 1)"], {"x"})
    return a


MERGING = """[target t]
url = dir:%s/merged-store
ship_interval = 50ms
minute = 300ms
hour = 1s
snapshot_interval = 1d
keep_commits = 300ms
keep_minutes = forever
delete_grace = 1ms
"""


def merged(base):
    """Ranges are told as a whole."""
    conf = os.path.join(base, "merging.conf")
    with open(conf, "w") as f:
        f.write(MERGING % base)
    with Mount(base, "--config", conf, name="merged", store="merged-store", targets=[]) as m:
        m.start()
        a, rnd = App(m, "app.db", "journal_mode=WAL"), random.Random(7)

        def ranges():
            a.chance(rnd, 5)
            m.sync()
            return sum(e["min_txid"] < e["txid"] for e in m.log("app.db")[1:]) > 2
        wait_for("merged ranges", ranges, 60)
        a.chance(rnd, 3)
        a.con.close()
        m.umount(wait=True)
        log = fazt_json("log", "--tables", "--json", "-i", m.key, m.source("app.db"))
        need([e for e in log[1:] if e["min_txid"] < e["txid"]], "no merged range is left: %s", log)
        a.judge(log, "from merged ranges", complete=False)  # the first one is a snapshot
        a.judge(fazt_json("log", "--tables", "--json", "-i", m.key, a.path), "from store and log", complete=False)


def run(base):
    merged(base)
    with Mount(base).start() as m:
        apps = []
        for mode in ("WAL", "DELETE"):
            a = App(m, "fixed-%s.db" % mode.lower(), "journal_mode=" + mode)
            for statements, tables in FIXED:
                a.commit(statements, tables)
            if mode == "DELETE":
                a.con.execute("PRAGMA page_size=1024")
                a.commit(["VACUUM"], {"a", "b", "first", "s2", "sqlite_sequence", ODD, "sqlite_schema"})
                need(a.images[-1].size == 1024, "the page size did not change")
                a.commit(["INSERT INTO b VALUES (10, 'after')"], {"b"})
            apps += [a, unseen_moves(m, mode)]
            for kind, size in (("NONE", 4096), ("FULL", 1024), ("INCREMENTAL", 512)):
                a = App(m, "%s-%s.db" % (kind.lower(), mode.lower()), "page_size=%d" % size, "auto_vacuum=" + kind,
                        "journal_mode=" + mode)
                a.chance(random.Random(kind + mode), 60)
                apps.append(a)
        m.sync()
        for a in apps:
            a.judge(fazt_json("log", "--tables", "--json", a.path), "from the log")
            a.judge(fazt_json("log", "--tables", "--json", "-i", m.key, m.source(a.name)), "from the store")

        source = m.source("fixed-wal.db")
        text = fazt("log", "--tables", "-i", m.key, source).stdout.splitlines()
        need("\x1b" not in "".join(text), "a table's name reaches the terminal as it is")
        need(text[0].endswith("  tables: -"), "the first snapshot is told as %r", text[0])
        need(any(l.endswith('  tables: sqlite_schema, w') for l in text), "no line of w: %s", text)
        need(any(l.endswith('  tables: (none)') for l in text), "no line of no table: %s", text)
        need(any(l.endswith('  tables: "od""d, n\u00e4me?[31m"') for l in text), "no line of the odd name: %s", text)
        need("tables" not in "".join(fazt("log", "-i", m.key, source).stdout), "tables were not asked for")
        blind = fazt("log", "--tables", "--json", source)  # no key
        need('"tables"' not in blind.stdout and "-i KEY" in blind.stderr, "without a key: %s%s", blind.stdout[:300], blind.stderr)
        for a in apps:
            a.con.close()
        m.umount()


if __name__ == "__main__":
    main("tables", run)
