#!/usr/bin/python3
# timeout: 120
"""import, export and clone: FILE is imported while an application writes to it, in both journal modes, and what appears is one of
its commits; a name that is there stays unless --force says so, and then applications that have it open see one new commit, which can
be undone; what is no whole database is refused. An export beside a writer has every commit made before it. A clone is what SQLite had at
that commit, has a history of its own from its first commit on, and goes its own way. Killed or interrupted at many moments, a name
is there whole or not at all, and the next one leaves nothing behind."""
import contextlib
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, fazt_json, file_hash, integrity, main, need  # noqa: E402
from oracle import Application, check_all, entries, rfc3339, same  # noqa: E402


def content(path):
    """Everything a query can see. SQLite's backup interface counts change counter and schema cookie of the copy on."""
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=30)
    try:
        con.execute("BEGIN")
        h = hashlib.sha256()
        for row in con.execute("SELECT n FROM meta UNION ALL SELECT count(*) FROM t"):
            h.update(repr(row).encode())
        n = con.execute("SELECT n FROM meta").fetchone()[0]
        for row in con.execute("SELECT id, v FROM t ORDER BY id"):
            h.update(repr(row).encode())
        return n, h.hexdigest()
    finally:
        con.close()


class File:
    """A database outside of any mount, with what it held after each commit."""

    def __init__(self, path, journal, page_size=4096, rows=25):
        self.path, self.seen = path, {}
        self.con = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self.con.execute("PRAGMA page_size=%d" % page_size)
        self.con.execute("PRAGMA journal_mode=%s" % journal)
        self.con.execute("PRAGMA synchronous=OFF")
        self.con.execute("CREATE TABLE meta(n INTEGER)")
        self.con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        self.con.execute("INSERT INTO meta VALUES (0)")
        for _ in range(rows):
            self.con.execute("INSERT INTO t(v) VALUES (randomblob(100000))")
        self.note()

    def note(self):
        n, h = content(self.path)
        self.seen[n] = h

    def commit(self):
        self.con.execute("BEGIN IMMEDIATE")
        self.con.execute("UPDATE t SET v = randomblob(100000) WHERE id = 1 + abs(random()) % 20")
        self.con.execute("UPDATE meta SET n = n + 1")
        self.con.execute("COMMIT")
        self.note()

    def close(self):
        self.con.close()


def names(d):
    return sorted(f for f in os.listdir(d) if not f.startswith(".") and not f.endswith(("-wal", "-shm")))


def imports(base, m):
    for journal in ("WAL", "DELETE"):
        f = File(os.path.join(base, "file-%s.db" % journal), journal)
        done = threading.Event()

        def write():
            while not done.is_set():
                f.commit()
        t = threading.Thread(target=write)
        t.start()
        try:
            to = os.path.join(m.dir, "from-%s.db" % journal.lower())
            o = fazt_json("import", "--json", f.path, to)
        finally:
            done.set()
            t.join()
        n, h = content(to)
        need(f.seen.get(n) == h, "import (%s): commit %d is not what SQLite had then", journal, n)
        need(o["captured"] and o["new_txid"] == 1, "import (%s): %s", journal, o)
        with open(to, "rb") as g:
            need(g.read(20)[18] == (2 if journal == "WAL" else 1), "import (%s): the journal mode is another one", journal)
        need(integrity(f.path) == "ok", "import (%s) damaged the file", journal)
        f.commit()
        f.close()
    need(names(m.dir) == ["from-delete.db", "from-wal.db"], "left behind: %s", names(m.dir))
    # restored from the store: what it was at its first commit
    m.sync()
    for journal in ("wal", "delete"):
        to = os.path.join(m.dir, "from-%s.db" % journal)
        out = os.path.join(base, "first.db")
        m.restore("from-%s.db" % journal, out, "--txid", "1")
        need(file_hash(out) == file_hash(to), "%s: its first commit is not the file", journal)
        need(len(entries(m, "from-%s.db" % journal)) == 1, "%s: more than one commit", journal)


def refusals(base, m):
    f, to = os.path.join(base, "file-WAL.db"), os.path.join(m.dir, "from-wal.db")
    was = content(to)
    for what, code, args in (
            ("an existing name", 1, (f, to)), ("no file", 1, (os.path.join(base, "none"), os.path.join(m.dir, "x.db"))),
            ("no database", 2, ("/etc/passwd", os.path.join(m.dir, "x.db"))),
            ("no mount", 1, (f, os.path.join(base, "x.db"))), ("the same file", 2, ("--force", to, to)),
            ("a name that is none", 2, (f, os.path.join(m.dir, "x.db-wal")))):
        r = fazt("import", *args, check=False)
        need(r.returncode in (code, 3) and "FZ-" in r.stderr, "%s: exit %d %s", what, r.returncode, r.stderr)
    with contextlib.closing(sqlite3.connect(to)) as con:  # what a live database needs beside it is not to be replaced
        con.execute("SELECT count(*) FROM t").fetchall()
        for args in (("export", to, to + "-wal", "--force"), ("restore", to, "-o", to + "-shm", "--force")):
            r = fazt(*args, check=False)
            need(r.returncode == 2 and "cannot be the name" in r.stderr, "%s: exit %d %s", args, r.returncode, r.stderr)
    damaged = os.path.join(base, "damaged.db")
    with open(f, "rb") as g:
        image = bytearray(g.read())
    for at in range(4096 * 3, len(image), 4096 * 7):
        image[at:at + 16] = os.urandom(16)
    with open(damaged, "wb") as g:
        g.write(image)
    r = fazt("import", damaged, os.path.join(m.dir, "x.db"), check=False)
    need(r.returncode in (1, 4) and "damaged" in r.stderr, "a damaged file: exit %d %s", r.returncode, r.stderr)
    r = fazt("export", m.source("form-wal.db"), os.path.join(base, "x.db"), check=False)  # mistyped
    need(r.returncode == 3 and "FZ-1203" in r.stderr and "is the name right" in r.stderr, "export of a mistyped name: exit %d %s", r.returncode, r.stderr)
    need(content(to) == was and names(m.dir) == ["from-delete.db", "from-wal.db"], "a refused import left something: %s", names(m.dir))


def forced(base, m):
    """Applications hold it open: they see one new commit."""
    f = File(os.path.join(base, "new.db"), "DELETE", rows=20)
    for journal in ("wal", "delete"):
        to = os.path.join(m.dir, "from-%s.db" % journal)
        app = sqlite3.connect(to, isolation_level=None)
        app.execute("SELECT count(*) FROM t").fetchone()
        before, old = len(entries(m, os.path.basename(to), to)), content(to)
        f.commit()
        o = fazt_json("import", "--json", "--force", f.path, to)
        need(o["in_place"] and app.execute("SELECT n FROM meta").fetchone()[0] == content(f.path)[0], "import --force: %s", o)
        need(content(to) == content(f.path), "import --force (%s): it is not the file", journal)
        need(app.execute("PRAGMA journal_mode").fetchone()[0] == journal, "the journal mode has changed")
        listed = entries(m, os.path.basename(to), to)
        need(len(listed) == before + 1, "import --force (%s): %d commits instead of one", journal, len(listed) - before)
        fazt("restore", "--in-place", to, "--txid", listed[-2]["txid"])
        need(content(to) == old, "import --force (%s) cannot be undone", journal)
        app.close()
    f.close()
    g = File(os.path.join(base, "small.db"), "DELETE", page_size=1024, rows=3)
    g.close()
    r = fazt("import", "--force", g.path, to, check=False)
    need(r.returncode == 2 and "page_size=4096" in r.stderr, "another page size: exit %d %s", r.returncode, r.stderr)
    con = sqlite3.connect(g.path, isolation_level=None)  # as the message says
    con.execute("PRAGMA page_size=4096")
    con.execute("VACUUM INTO '%s'" % os.path.join(base, "copy.db"))
    con.close()
    fazt("import", "--force", os.path.join(base, "copy.db"), to)
    need(content(to) == content(g.path), "import --force of the copy with the right pages")


def exports_and_clones(base, m):
    app = Application(os.path.join(m.dir, "app.db"), seed=3)
    app.rows(8)
    out = os.path.join(base, "out.db")
    for i in range(3):  # what was committed before is in it, without a sync
        app.rows(2)
        fazt("export", app.path, out, "--force")
        need(same(app, out, "export") == app.n, "export: commit %d is not in it", app.n)
    r = fazt("export", app.path, out, check=False)
    need(r.returncode == 1 and "FZ-1205" in r.stderr, "export over a file: exit %d %s", r.returncode, r.stderr)
    m.sync()
    listed = entries(m, "app.db", app.path)
    for source in (app.path, m.source("app.db")):
        fazt("export", "-i", m.key, "--txid", listed[5]["txid"], source, out, "--force")
        n = same(app, out, "export --txid")
        fazt("export", "-i", m.key, "--at", rfc3339(listed[5]["time_ms"]), source, out, "--force")
        later = sum(e["time_ms"] == listed[5]["time_ms"] for e in listed[6:])  # of the same millisecond
        need(n <= same(app, out, "export --at") <= n + later, "export --at from %s", source)
    for k, (source, e) in enumerate(((app.path, listed[4]), (m.source("app.db"), listed[6]), (app.path, listed[-1]))):
        to = os.path.join(m.dir, "clone-%d.db" % k)
        o = fazt_json("clone", "--json", "-i", m.key, source, "--txid", e["txid"], to)
        n = same(app, to, "clone of %s" % source)
        need(n > 0 and o["captured"] and o["new_txid"] == 1, "clone: commit %d, %s", n, o)
        need(o["lineage"] not in {x["lineage"] for x in m.status()["databases"] if x["name"] == "app.db"}, "a clone shares the lineage")
        r = fazt("clone", app.path, to, check=False)
        need(r.returncode == 1 and "FZ-1205" in r.stderr, "clone over a file: exit %d %s", r.returncode, r.stderr)
        with open(os.path.join(m.dir, "left.db-wal"), "w") as f:
            f.write("x")
        left = fazt("clone", app.path, os.path.join(m.dir, "left.db"), check=False)
        os.unlink(f.name)
        for said in (r.stderr, left.stderr):  # clone has no --force
            need("FZ-1205" in said and "--force" not in said.splitlines()[0], "clone offers what it has not: %s", said)
        copy = Application.__new__(Application)  # it goes its own way, captured
        copy.path, copy.name, copy.rnd, copy.hash = to, os.path.basename(to), random.Random(k), {n: app.hash[n]}
        copy.before_ms, copy.after_ms, copy.n = {}, {}, n
        copy.open()
        copy.rows(3)
        m.sync()
        check_all(copy, m, out, first=n)
        copy.close()
    app.row()
    need(app.con.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "the original")
    app.close()


def within(base, m):
    """A name is one below the working directory, as for any command."""
    out = os.path.join(base, "within.db")
    os.mkdir(os.path.join(m.dir, "sub dir"))
    for at, name in ((m.dir, "app.db"), (m.dir, "sub dir/c.db"), (os.path.join(m.dir, "sub dir"), "./d.db"), (base, os.path.basename(m.dir) + "/e.db")):
        if name != "app.db":
            fazt("clone", os.path.join(m.dir, "app.db"), name, cwd=at)
        fazt("export", name, out, "--force", cwd=at)
        need(content(out) == content(os.path.join(at, name)), "export of %s in %s", name, at)
        need(fazt_json("log", "--json", name, cwd=at), "log of %s in %s", name, at)
    os.unlink(os.path.join(m.dir, "sub dir", "d.db"))
    fazt("drop", "--yes", "d.db", cwd=os.path.join(m.dir, "sub dir"))


def owners(base, m):
    """Below a mount a new file is for those who can use the live database, else for the directory's owner; elsewhere it is ours alone."""
    live, out = os.path.join(m.dir, "owned.db"), os.path.join(base, "owned.db")
    con = sqlite3.connect(live, isolation_level=None)
    con.execute("CREATE TABLE t(x)")
    con.close()
    m.sync()

    def owner(path):
        st = os.stat(path)
        return st.st_uid, st.st_gid, st.st_mode & 0o777
    was = owner(m.dir)
    try:
        os.chown(m.dir, 1111, 1112)
        os.chown(live, 2221, 2222)
        os.chmod(live, 0o640)
        for k, args in enumerate((["clone", live], ["restore", live, "-o"])):
            to = os.path.join(m.dir, "as-live-%d.db" % k)
            fazt(*args, to)
            need(owner(to) == (2221, 2222, 0o640), "%s of a live database: %s", args[0], owner(to))
            to = os.path.join(m.dir, "as-dir-%d.db" % k)
            fazt(args[0], "-i", m.key, m.source("owned.db"), *args[2:], to)
            need(owner(to) == (1111, 1112, 0o600), "%s from a store: %s", args[0], owner(to))
        for args in (["export", live], ["restore", live, "-o"]):
            fazt(*args, out)
            need(owner(out) == (os.getuid(), os.getgid(), 0o600), "%s out of the mount: %s", args[0], owner(out))
            os.chown(out, 3331, 3332)
            os.chmod(out, 0o604)
            fazt(*args, out, "--force")
            need(owner(out) == (3331, 3332, 0o604), "%s over a file: %s", args[0], owner(out))
            os.unlink(out)
    finally:
        os.chown(m.dir, *was[:2])


def killed(base, m):
    """At many moments, by SIGINT and SIGKILL: whole or not at all."""
    f = os.path.join(base, "file-WAL.db")
    app = os.path.join(m.dir, "app.db")
    rnd, whole, cut = random.Random(7), 0, 0
    before = names(m.dir)
    for i in range(9):
        to = os.path.join(m.dir, "killed-%d.db" % i)
        sig = signal.SIGKILL if i % 3 else signal.SIGINT
        args = ["import", f, to] if i % 2 else ["clone", app, to]
        p = subprocess.Popen([FAZT, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rnd.random() * 0.06)
        p.send_signal(sig)
        p.wait()
        if os.path.exists(to):
            whole += 1
            need(content(to) == content(args[1]), "%s %d: half of it is there", args[0], i)
        else:
            cut += 1
            if sig == signal.SIGINT:
                need(not [x for x in names(m.dir) if x.startswith("killed-%d." % i)], "SIGINT left something: %s", names(m.dir))
            fazt(*args)  # repeated
            need(content(to) == content(args[1]), "%s %d repeated", args[0], i)
        left = [x for x in names(m.dir) if x.startswith("killed-%d.db" % i) and x != "killed-%d.db" % i]
        need(not left, "left behind after the repetition: %s", left)
        os.unlink(to)
    need(cut > 0, "only %d of 9 were cut off", cut)
    known = {d["name"] for d in m.status()["databases"]}
    need(not [x for x in known if "fazt-" in x], "a temporary name was taken for a database: %s", known)
    need([x for x in names(m.dir) if x not in before and not x.startswith("killed-")] == [], "left: %s", names(m.dir))


def scenario(base):
    with Mount(base) as m:
        m.start()
        for part in (imports, refusals, forced, exports_and_clones, within, owners, killed):
            part(base, m)
        r = fazt("clone", "--progress", os.path.join(m.dir, "from-wal.db"), os.path.join(m.dir, "seen.db"))
        need("cloning" in r.stderr and "MB" in r.stderr, "--progress says: %s", r.stderr)
        m.umount(wait=True)
    for d in os.listdir(os.path.join(m.dir, ".fazt", "db")):
        need("fazt-" not in d, "a temporary file got a log: %s", d)


main("import-export", scenario)
