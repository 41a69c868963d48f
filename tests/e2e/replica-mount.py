#!/usr/bin/python3
# timeout: 240
"""The mount in the role of a replica, without the link: databases that come from elsewhere are read-only for unmodified
SQLite, whoever runs it, and change under its readers only by the agent; all else is an ordinary file. Worker and agent are
replaced on request, the role changes with them, and applications keep their handles. A stand-in for the agent writes
(tests/unit/test_fs_replica.c)."""
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Failure, main, need, wait_for  # noqa: E402
from replica import NOBODY, Replica, let_others_in, refused  # noqa: E402

# Each statement on a connection of its own: READONLY, or an answer. SQLite itself says IOERR_LOCK where it wants an exclusive
# lock through a descriptor that is open for reading only (fcntl: EBADF): journal_mode=DELETE on any read-only WAL database.
STATEMENTS = [
    ("INSERT INTO t VALUES (2)", "SQLITE_READONLY"),
    ("UPDATE t SET x = 3", "SQLITE_READONLY"),
    ("DELETE FROM t", "SQLITE_READONLY"),
    ("CREATE TABLE u(x)", "SQLITE_READONLY"),
    ("DROP TABLE t", "SQLITE_READONLY"),
    ("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)", "SQLITE_READONLY"),
    ("BEGIN EXCLUSIVE; INSERT INTO t VALUES (2)", "SQLITE_READONLY"),
    ("VACUUM", "SQLITE_READONLY"),
    ("PRAGMA user_version = 4", "SQLITE_READONLY"),
    ("PRAGMA wal_checkpoint", "SQLITE_READONLY"),
    ("PRAGMA wal_checkpoint(TRUNCATE)", "SQLITE_READONLY"),
    ("PRAGMA journal_mode=WAL", [("wal",)]),
    ("PRAGMA journal_mode", [("wal",)]),
    ("PRAGMA journal_mode=DELETE", "SQLITE_IOERR_LOCK"),
    ("PRAGMA integrity_check", [("ok",)]),
    ("SELECT count(*) FROM t", "COUNT"),
]
APP = """
import json, os, sqlite3, sys
path, uid, statements = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
os.chdir(os.path.dirname(path))
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
out = []
for uri in (False, True):
    for s in statements:
        name = "file:%s?mode=ro" % os.path.basename(path) if uri else os.path.basename(path)
        con = sqlite3.connect(name, isolation_level=None, timeout=0.2, uri=uri)
        try:
            *first, last = s.split("; ")
            for f in first:
                con.execute(f)
            out.append(con.execute(last).fetchall())
        except sqlite3.OperationalError as e:
            out.append(e.sqlite_errorname)
        con.close()
print(json.dumps(out))
"""
# Opens, stats and reads as fast as it can, and says what its longest wait was. A request that fails ends it.
READER = """
import os, sqlite3, sys, time
path = sys.argv[1]
con = sqlite3.connect(path, isolation_level=None)
n, seen, worst, said = 0, 0, [0.0, 0.0], 0
while not os.path.exists(sys.argv[2]):
    t = time.monotonic()
    fd = os.open(path, os.O_RDONLY)
    if os.pread(fd, 15, 0) != b"SQLite format 3":
        sys.exit("not the database")
    os.close(fd)
    u = time.monotonic()
    rows = con.execute("SELECT count(*) FROM t").fetchone()[0]
    if rows < seen:
        sys.exit("back in time: %d after %d" % (rows, seen))
    seen = rows
    worst = [max(worst[0], u - t), max(worst[1], time.monotonic() - u)]
    n += 1
    if n % 100 == 1:
        print(n, rows, worst[0], worst[1], flush=True)
print(n, seen, *worst, flush=True)
"""


def statements(r, name, uid, rows):
    want = [[(rows,)] if w == "COUNT" else w for _, w in STATEMENTS] * 2
    p = subprocess.run([sys.executable, "-c", APP, r.path(name), str(uid), json.dumps([s for s, _ in STATEMENTS])],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    need(p.returncode == 0, "application as %d: %s", uid, p.stderr)
    for (s, _), got, w in zip(STATEMENTS * 2, json.loads(p.stdout), want):
        if isinstance(got, list):
            got = [tuple(x) for x in got]
        need(got == w, "%s as user %d: %s: %s, not %s", name, uid, s, got, w)


def read_only(r):
    """What applications may do with what is replicated."""
    os.mkdir(r.path("sub"))
    r.protect("app.db", "sub/x.db")
    os.umask(0)
    for i, name in enumerate(("app.db", "sub/x.db")):
        r.sql(name, "CREATE TABLE t(x); INSERT INTO t VALUES (1)")
        for f in ("", "-wal", "-shm"):
            need(os.path.exists(r.path(name + f)), "%s%s is not there", name, f)
        statements(r, name, 0, 1)
        statements(r, name, NOBODY, 1)  # the agent's files are 0644: it may not write to the -shm either
    os.umask(0o022)
    shell = subprocess.run(["sqlite3", r.path("app.db"), "SELECT x FROM t; INSERT INTO t VALUES (9);"], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)
    need(shell.stdout == "1\n" and "attempt to write a readonly database" in shell.stderr, "the shell: %s", shell)
    # a reader holds its snapshot, and sees the new state afterwards
    con = sqlite3.connect(r.path("app.db"), isolation_level=None)
    con.execute("BEGIN")
    need(con.execute("SELECT count(*) FROM t").fetchone() == (1,), "rows")
    r.sql("app.db", "INSERT INTO t VALUES (2)")
    need(con.execute("SELECT count(*) FROM t").fetchone() == (1,), "its snapshot moved")
    con.execute("COMMIT")
    need(con.execute("SELECT count(*) FROM t").fetchone() == (2,), "it does not see what was applied")
    r.sql("app.db", "INSERT INTO t VALUES (3); PRAGMA wal_checkpoint(RESTART)")
    r.sql("app.db", "INSERT INTO t VALUES (4)")
    need(con.execute("SELECT count(*) FROM t").fetchone() == (4,), "it does not see what came after a checkpoint")
    con.close()
    statements(r, "app.db", NOBODY, 4)


def first_readers(r):
    """A reader that comes while nobody else has the database open, the agent neither: it begins the -shm anew, as after a reboot."""
    r.ok("agent", "close app.db")
    r.ok("worker", "attached app.db")
    fd = os.open(r.path("app.db-shm"), os.O_RDWR)
    refused("ftruncate -shm while the agent holds it", os.ftruncate, fd, 3)
    r.ok("worker", "detached app.db")
    os.close(fd)
    for uid in (0, NOBODY):
        before = open(r.path("app.db-wal"), "rb").read()
        r.ok("agent", "spoil app.db-shm")
        statements(r, "app.db", uid, 4)
        need(open(r.path("app.db-wal"), "rb").read() == before, "the WAL was changed")
    r.sql("app.db", "INSERT INTO t VALUES (5)")
    r.ok("worker", "attached app.db")
    statements(r, "app.db", NOBODY, 5)


def file_operations(r):
    for f in ("app.db", "app.db-wal", "sub/x.db", "sub/x.db-wal"):
        p = r.path(f)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            refused("open %s with %o" % (f, flags), os.open, p, flags)
        os.close(os.open(p, os.O_RDONLY))
        refused("truncate " + f, os.truncate, p, 0)
    fd = os.open(r.path("app.db-shm"), os.O_RDWR)  # as readers do
    refused("ftruncate -shm", os.ftruncate, fd, 0)
    os.close(fd)
    for f in ("app.db", "app.db-wal", "app.db-shm"):
        p = r.path(f)
        refused("unlink " + f, os.unlink, p)
        refused("chmod " + f, os.chmod, p, 0o600)
        refused("chown " + f, os.chown, p, 1, 1)
        refused("utime " + f, os.utime, p)
        refused("rename " + f, os.rename, p, r.path("other"))
        refused("link " + f, os.link, p, r.path("other"))
        try:
            os.setxattr(p, "user.x", b"1")
            raise Failure("setxattr on %s" % f)
        except OSError as e:
            need(e.errno in (errno.EROFS, errno.EOPNOTSUPP), "setxattr: %s", e)
    with open(r.path("local"), "w") as f:
        f.write("local")
    refused("rename over a database", os.rename, r.path("local"), r.path("app.db"))
    refused("rename to a journal", os.rename, r.path("local"), r.path("app.db-journal"))
    refused("link as a journal", os.link, r.path("local"), r.path("app.db-journal"))
    refused("make a journal", os.open, r.path("app.db-journal"), os.O_RDWR | os.O_CREAT)
    refused("a symbolic link as journal", os.symlink, "local", r.path("app.db-journal"))
    refused("mkdir", os.mkdir, r.path("app.db-journal"))
    refused("mknod", os.mknod, r.path("app.db-journal"))
    refused("rename the directory", os.rename, r.path("sub"), r.path("bus"))
    for f in ("x.db", "x.db-wal", "x.db-shm"):
        refused("unlink " + f, os.unlink, r.path("sub", f))
    refused("rmdir", os.rmdir, r.path("sub"))
    # the rest is an ordinary tree
    os.mkdir(r.path("own"))
    os.rename(r.path("local"), r.path("own", "local"))
    os.link(r.path("own", "local"), r.path("sub", "second"))
    os.chmod(r.path("own", "local"), 0o600)
    os.truncate(r.path("own", "local"), 2)
    os.rename(r.path("own"), r.path("sub", "own"))
    for mode in ("WAL", "DELETE"):
        con = sqlite3.connect(r.path("sub/own", mode + ".db"), isolation_level=None)
        need(con.execute("PRAGMA journal_mode=" + mode).fetchone()[0] == mode.lower(), "journal mode")
        con.execute("CREATE TABLE t(x)")
        con.execute("INSERT INTO t VALUES (1)")
        con.execute("VACUUM")
        con.close()
        con = sqlite3.connect(r.path("sub/own", mode + ".db"), isolation_level=None)
        need(con.execute("SELECT x FROM t").fetchall() == [(1,)], "a local database")
        con.close()
        os.unlink(r.path("sub/own", mode + ".db"))
    os.unlink(r.path("sub", "own", "local"))
    os.rmdir(r.path("sub", "own"))
    os.unlink(r.path("sub", "second"))


def agents_work(r):
    """Everything that apply needs to do is allowed to the agent, through the mount."""
    r.protect("app.db", "sub/x.db", "new.db", "gone.db")
    refused("make a database that is awaited", os.open, r.path("new.db"), os.O_RDWR | os.O_CREAT)
    r.sql("gone.db", "CREATE TABLE t(x); INSERT INTO t VALUES (1)")
    con = sqlite3.connect(r.path("gone.db"))
    need(con.execute("SELECT count(*) FROM t").fetchone() == (1,), "rows")
    con.close()
    r.ok("agent", "close gone.db")
    for f in ("gone.db-shm", "gone.db-wal"):
        r.ok("agent", "cut %s 0" % f)
        r.ok("agent", "fsync " + f)
    r.ok("agent", "rename gone.db new.db")
    for f in ("gone.db-shm", "gone.db-wal"):
        r.ok("agent", "unlink " + f)
    r.sql("new.db", "INSERT INTO t VALUES (2)")
    statements(r, "new.db", 0, 2)
    refused("write the renamed one", os.open, r.path("new.db"), os.O_RDWR)
    r.ok("agent", "close new.db")
    for f in ("", "-wal", "-shm"):
        r.ok("agent", "unlink new.db" + f)
    need(not os.path.exists(r.path("new.db")), "it is still there")
    r.protect("app.db", "sub/x.db")
    r.ok("worker", "unprotect new.db")
    r.ok("worker", "unprotect gone.db")
    con = sqlite3.connect(r.path("new.db"))  # the name is free again
    con.execute("CREATE TABLE own(x)")
    con.close()
    os.unlink(r.path("new.db"))


def around(r, name):
    """Who goes around the mount meets the supervisor's lock."""
    con = sqlite3.connect(os.path.join(r.side, name), timeout=0)
    try:
        con.execute("SELECT count(*) FROM t").fetchall()
        raise Failure("%s was read around the mount" % name)
    except sqlite3.OperationalError as e:
        need("locked" in str(e), "around the mount: %s", e)
    finally:
        con.close()


def restarts(r):
    """Worker and agent anew while applications read, and the agent writes between."""
    stop, out = os.path.join(r.base, "stop"), os.path.join(r.base, "reader")
    with open(out, "wb") as f:
        p = subprocess.Popen([sys.executable, "-c", READER, r.path("app.db"), stop], stdout=f, stderr=f)

    def last():
        need(p.poll() is None, "the reader ended: %s", open(out).read()[-2000:])
        with open(out, "rb") as f:
            lines = f.read().split(b"\n")[:-1]
        return [float(x) for x in lines[-1].split()] if lines else [0, 0, 0, 0]
    try:
        wait_for("the reader", lambda: last()[0] > 100)
        before = last()
        rows = int(before[1])
        for i in range(5):
            old = r.children()
            r.restart()
            new = r.children()
            need(new["worker"] != old["worker"] and new["agent"] != old["agent"], "the same processes: %s", new)
            r.sql("app.db", "INSERT INTO t VALUES (%d)" % i)
            wait_for("the reader to see it", lambda i=i: last()[1] >= rows + i + 1)
            around(r, "app.db")
            refused("write after a restart", os.open, r.path("app.db"), os.O_RDWR)
        open(stop, "w").close()
        p.wait(20)
        with open(out) as f:
            end = f.read().split("\n")[-2].split()
        need(p.returncode == 0 and int(end[1]) == rows + 5, "the reader: %s", end)
        print("     longest open %.1f ms, longest read of an open connection %.1f ms over 5 restarts (before: %.1f, %.1f)"
              % (float(end[2]) * 1000, float(end[3]) * 1000, before[2] * 1000, before[3] * 1000))
    finally:
        if p.poll() is None:
            p.kill()
        p.wait()
        os.unlink(stop)


def kills(r):
    """A worker that dies takes the agent with it; both come back."""
    con = sqlite3.connect(r.path("app.db"), isolation_level=None)
    rows = con.execute("SELECT count(*) FROM t").fetchone()[0]
    for i, who in enumerate(("worker", "agent", "worker")):
        old = r.children()
        os.kill(old[who], signal.SIGKILL)
        for new in (who, "agent"):
            wait_for("a new " + new, lambda new=new: r.children().get(new, old[new]) != old[new])
        r.sql("app.db", "INSERT INTO t VALUES (0)")
        need(con.execute("SELECT count(*) FROM t").fetchone()[0] == rows + i + 1, "rows after the death of the " + who)
        refused("write after the death of the " + who, os.open, r.path("app.db"), os.O_RDWR)
    con.close()


def roles(r):
    """To a primary and back, with applications that stay."""
    old = sqlite3.connect(r.path("app.db"), isolation_level=None, timeout=5)
    rows = old.execute("SELECT count(*) FROM t").fetchone()[0]
    r.ok("agent", "close app.db")
    r.ok("agent", "close sub/x.db")
    r.restart("primary")
    new = sqlite3.connect(r.path("app.db"), isolation_level=None, timeout=5)
    new.execute("INSERT INTO t VALUES (100)")
    need(old.execute("SELECT count(*) FROM t").fetchone()[0] == rows + 1, "the older connection does not see a commit")
    try:
        old.execute("INSERT INTO t VALUES (101)")
        raise Failure("a connection that was opened read-only writes")
    except sqlite3.OperationalError as e:
        need(e.sqlite_errorname == "SQLITE_READONLY", "%s", e.sqlite_errorname)
    new.execute("INSERT INTO t VALUES (102)")
    r.ok("worker", "sync")
    db = {d["name"]: d for d in json.loads(r.ask("worker", "status"))}["app.db"]
    need(db["txid"] >= 1 and not db["last_error"] and db["capture"] in ("wal", "baseline"), "captured: %s", db)
    around(r, "app.db")
    # back: what is open for writing stays so, what is opened now cannot write
    r.restart("replica")
    need(new.execute("SELECT count(*) FROM t").fetchone()[0] == rows + 2, "rows")
    refused("write after the demotion", os.open, r.path("app.db"), os.O_RDWR)
    refused("unlink after the demotion", os.unlink, r.path("app.db"))
    db = {d["name"]: d for d in json.loads(r.ask("worker", "status"))}["app.db"]
    need(db["capture"] == "none" and db["txid"] >= 1, "status of a replica: %s", db)
    old.close()
    new.close()
    r.sql("app.db", "INSERT INTO t VALUES (103)")
    statements(r, "app.db", NOBODY, rows + 3)


def scenario(base):
    let_others_in(base)
    for flags in ((), ("no-passthrough",), ("no-passthrough", "no-resend")):
        here = os.path.join(base, "-".join(flags) or "passthrough")
        os.mkdir(here)
        with Replica(here, *flags) as r:
            for part in (read_only, first_readers, file_operations, agents_work, restarts, kills, roles):
                part(r)
                print("     %s: %s" % (" ".join(flags) or "passthrough", part.__name__))


if __name__ == "__main__":
    main("replica-mount", scenario)
