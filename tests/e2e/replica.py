#!/usr/bin/python3
# timeout: 300
"""A primary and a replica on one machine. What is committed there is seen here, by readers of any length that never fail, wait or
go back; applications that write get SQLITE_READONLY; either host, and each of its processes, may die and comes back;
databases in rollback mode, in subdirectories, with other page sizes, made anew, vacuumed and deleted all arrive."""
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, Reader, caught_up, host_key, refused  # noqa: E402
from faztlib import fazt, integrity, main, need, serialize_hash, wait_for  # noqa: E402


def equal(primary, replica, *names):
    for name in names:
        caught_up(primary, replica, name)
        a, b = os.path.join(primary.dir, name), os.path.join(replica.dir, name)
        need(serialize_hash(a) == serialize_hash(b), "%s differs on the replica", name)
        need(integrity(b) == "ok", "%s on the replica: %s", name, integrity(b))


def start(base):
    p, r = Host(base, "one"), Host(base, "two")
    os.mkdir(os.path.join(p.dir, "sub"))
    before = Counted(os.path.join(p.dir, "before.db"))  # it is there before fazt is
    for _ in range(300):
        before.commit(2000)
    before.close()
    os.mkdir(os.path.join(p.dir, "uploads"))
    for n in range(4):
        with open(os.path.join(p.dir, "uploads/photo-%d.jpg" % n), "wb") as f:
            f.write(b"x" * 5000)
    p.primary(r)
    r.replica_of(p)
    return p, r


def others(p, r):
    """What does not come along is told, once; a second primary's worker does not tell it anew."""
    def noted():
        return any("uploads/photo" in n for n in r.status()["notes"])
    wait_for("a word about what is not replicated", noted)
    p.kill_worker()
    wait_for("the link", lambda: r.status()["following"]["connected"])
    wait_for("the word of the new worker", noted)
    f = r.status()["following"]
    need(f["other_files"] == 4 and f["other_file"].startswith("uploads/photo"), "other files: %s", f)
    told = [x for x in r.tail(10000).splitlines() if "not replicated" in x]
    need(len(told) == 1 and "4; such as" in told[0], "it was told so: %s", told)
    need(not os.path.exists(os.path.join(r.dir, "uploads")), "uploads were replicated")


def modes(base, p, r):
    """Readers while WAL and rollback databases are written; writes refused; other files stay local."""
    wal, old = Counted(os.path.join(p.dir, "wal.db")), Counted(os.path.join(p.dir, "sub/old.db"), "DELETE", 512)
    wal.commit()
    old.commit()
    equal(p, r, "before.db", "wal.db", "sub/old.db")
    paths = [os.path.join(r.dir, n) for n in ("wal.db", "sub/old.db")]
    readers = [Reader(os.path.join(base, "work"), x, keep) for x in paths for keep in (True, False)]
    long = sqlite3.connect(paths[0], isolation_level=None)
    long.execute("BEGIN")
    seen = long.execute("SELECT n FROM meta").fetchone()[0]
    for i in range(600):
        wal.commit(3000)
        old.commit()
        if i % 200 == 100:
            wal.drop_half()
            old.drop_half()
    for x, app in zip(readers, (wal, wal, old, old)):
        x.sees(app.n)
    need(long.execute("SELECT n FROM meta").fetchone()[0] == seen, "a long reader's snapshot moved")
    long.execute("COMMIT")
    need(long.execute("SELECT n FROM meta").fetchone()[0] >= wal.n, "it does not see the present")
    long.close()
    for x in paths:
        for sql in ("INSERT INTO t(k) VALUES (1)", "CREATE TABLE x(y)", "VACUUM", "PRAGMA user_version=7"):
            refused(x, sql)
        r1 = subprocess.run(["sh", "-c", "echo x > '%s'" % x], stderr=subprocess.PIPE)
        need(r1.returncode != 0 and b"Read-only" in r1.stderr, "a shell may write to %s: %s", x, r1.stderr)
    with open(os.path.join(r.dir, "note.txt"), "w") as f:
        f.write("local")
    need(not os.path.exists(os.path.join(p.dir, "note.txt")), "a local file went to the primary")
    return wal, old, readers


def deaths(p, r, wal, old, readers):
    """Each process of both hosts dies while there is work."""
    def some(n=100):
        for _ in range(n):
            wal.commit()
    for what in ("worker", "agent", "primary's worker", "replica", "primary"):
        some()
        if what == "worker":
            r.kill_worker()
        elif what == "agent":
            os.kill(r.agent_pid(), signal.SIGKILL)
        elif what == "primary's worker":
            p.kill_worker()
        elif what == "replica":
            for x in readers:
                x.end()
            r.umount()
            some()
            r.start()
        else:
            wal.close()
            old.close()
            p.umount()
            r.status()
            p.start()
            wal, old = Counted(wal.path), Counted(old.path, "DELETE", 512)
        some()
        equal(p, r, "wal.db")
        if what != "replica":
            continue
        readers[:] = [Reader(os.path.dirname(readers[0].out), os.path.join(r.dir, "wal.db"))]
    readers[0].sees(wal.n)
    return wal, old


def shapes(p, r, old):
    """VACUUM with another page size, shrinking, a rename, deletion and re-creation."""
    keep = sqlite3.connect(os.path.join(r.dir, "sub/old.db"), isolation_level=None)
    keep.execute("SELECT * FROM meta").fetchall()
    for size in (4096, 1024, 65536, 512):
        old.con.execute("PRAGMA page_size=%d" % size)
        old.con.execute("VACUUM")
        old.commit()
        equal(p, r, "sub/old.db")
        n = keep.execute("SELECT n FROM meta").fetchone()[0]
        need(n == old.n, "a connection from before the new page size sees %d, not %d", n, old.n)
    old.con.execute("DELETE FROM t")
    old.con.execute("UPDATE meta SET rows = 0, total = 0")
    old.con.execute("VACUUM")
    equal(p, r, "sub/old.db")
    keep.close()
    old.close()
    os.unlink(old.path)
    wait_for("the replica to delete it", lambda: not os.path.exists(os.path.join(r.dir, "sub/old.db")))
    again = Counted(old.path, "TRUNCATE", 1024)
    again.commit()
    equal(p, r, "sub/old.db")
    again.close()
    os.rename(old.path, os.path.join(p.dir, "new.db"))
    wait_for("the replica to rename it", lambda: not os.path.exists(os.path.join(r.dir, "sub/old.db")))
    equal(p, r, "new.db")


def late_deletion(p, r, wal):
    """The agent sleeps while a database is deleted: nothing else waits for that, and a worker that dies meanwhile leaves no database behind."""
    late = Counted(os.path.join(p.dir, "late.db"))
    late.commit()
    equal(p, r, "late.db")
    late.close()
    agent = r.agent_pid()
    os.kill(agent, signal.SIGSTOP)
    os.unlink(late.path)

    def received():
        return {d["name"]: d["received_txid"] for d in r.status()["following"]["databases"]}
    wait_for("the replica to hear of it", lambda: "late.db" not in received())
    wal.commit()
    fazt("sync", p.dir)
    want = p.database("wal.db")["txid"]
    wait_for("another database's commit", lambda: received()["wal.db"] >= want, 3)
    need(os.path.exists(os.path.join(r.dir, "late.db")), "the agent does not sleep")
    refused(os.path.join(r.dir, "late.db"), "INSERT INTO t(k) VALUES (1)")
    r.kill_worker()
    r.status()
    refused(os.path.join(r.dir, "late.db"), "INSERT INTO t(k) VALUES (1)")
    os.kill(agent, signal.SIGCONT)
    wait_for("it to go", lambda: not os.path.exists(os.path.join(r.dir, "late.db")))
    equal(p, r, "wal.db")

    def free():
        try:
            open(os.path.join(r.dir, "late.db"), "w").close()
        except OSError:
            return False
        os.unlink(os.path.join(r.dir, "late.db"))
        return True
    wait_for("its name to be free", free)


def strangers(base, p, r):
    """A host that is not listed gets nothing."""
    s = Host(base, "three").replica_of(p)
    with s:
        s.start()
        wait_for("the refusal", lambda: s.status()["following"].get("last_error"))
        need(not s.status()["following"].get("databases"), "a stranger was told what there is")
        need(os.listdir(s.dir) == [], "a stranger has %s", os.listdir(s.dir))
        need(fazt("status", s.dir, check=False).returncode == 1, "a replica without its primary calls itself well")
        s.umount()


def run(base):
    p, r = start(base)
    with p, r:
        p.start()
        r.start()
        others(p, r)
        wal, old, readers = modes(base, p, r)
        st = p.status()["replicas"]
        need(len(st) == 1 and st[0]["connected"] and any(d["name"] == "wal.db" for d in st[0]["databases"]),
             "the primary's status: %s", st)
        wal, old = deaths(p, r, wal, old, readers)
        shapes(p, r, old)
        late_deletion(p, r, wal)
        strangers(base, p, r)
        for x in readers:
            x.end()
        wal.close()
        live = r.status()
        need(all(not d.get("last_error") for d in live["following"]["databases"]), "%s", live["following"])
        r.umount()
        need(integrity(os.path.join(r.dir, "wal.db")) == "ok", "what a replica leaves behind")
        p.umount()


main("replica", run)
