#!/usr/bin/python3
# timeout: 180
"""failover = auto with two replicas and a directory as the witness: the more advanced one takes over, the other one and the former primary
find in the lease whom to follow. Then the smaller things: a process that is in a transaction when the lease ends, a worker that is
killed or replaced, an agent that dies during a demotion, a primary that starts without its store."""
import atexit
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, caught_up  # noqa: E402
from faztlib import alive, children, fazt, integrity, main, need, serialize_hash, wait_for  # noqa: E402

LEASE_S = 2
TAKES_S = 40


def lease(host):
    return host.status()["lease"]


def held(host):
    wait_for("the lease of %s (%s)" % (host.name, host.tail(4)), lambda: lease(host)["held"], TAKES_S)


def insert(path, timeout=30):
    con = sqlite3.connect(path, isolation_level=None, timeout=timeout)
    try:
        con.execute("INSERT INTO t(k) VALUES (1)")
    finally:
        con.close()


def refused(path):
    try:
        insert(path, 0.1)
    except sqlite3.OperationalError as e:
        need(any(w in str(e) for w in ("readonly", "locked", "unable to open", "locking protocol")), "%s", e)
        return True
    return False


# Holds a transaction open until it is killed.
SITTER = """
import sqlite3, sys, time
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("BEGIN IMMEDIATE")
con.execute("INSERT INTO t(k) VALUES (4711)")
print("in", flush=True)
time.sleep(600)
"""


def sit(path):
    p = subprocess.Popen([sys.executable, "-c", SITTER, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                         stdin=subprocess.DEVNULL)
    atexit.register(p.kill)
    p.stdout.readline()
    return p


def all_alike(hosts, name):
    """hosts[0] is the primary; the others follow it, or one that does."""
    for h in hosts[1:]:
        wait_for("%s to follow (%s)" % (h.name, h.tail(4)), lambda: h.status().get("following", {}).get("connected"), TAKES_S)
        caught_up(hosts[0], h, name)
        a, b = os.path.join(hosts[0].dir, name), os.path.join(h.dir, name)
        need(serialize_hash(a) == serialize_hash(b), "%s differs on %s", name, h.name)
        need(integrity(b) == "ok", "%s on %s", name, h.name)


def elected(a, b, c, app, name):
    """c is stopped while the last commits are made and the primary dies: it goes on behind b, which has them."""
    for r in (b, c):
        caught_up(a, r, name)
    worker = c.status()["worker_pid"]
    os.kill(worker, signal.SIGSTOP)
    for _ in range(60):  # more than what may be under way to it (4 MiB)
        app.commit(200000)
    caught_up(a, b, name)
    n = app.n
    app.close()
    a.kill_all()
    os.kill(worker, signal.SIGCONT)
    held(b)
    wait_for("b to be the primary", lambda: b.status()["role"] == "primary", TAKES_S)
    need(c.status()["role"] == "replica", "the replica that lacked commits has taken over")
    app = Counted(os.path.join(b.dir, name))
    need(app.n == n, "%d of %d commits are there", app.n, n)
    app.commit()
    app.close()
    a.start()
    all_alike([b, c, a], name)


def stays(host, path, what, do):
    """Nobody takes over."""
    held(host)
    term = lease(host)["term"]
    do()
    end = time.monotonic() + 2 * LEASE_S
    while time.monotonic() < end:
        insert(path)
        time.sleep(0.02)
    held(host)
    need(lease(host)["term"] == term and host.status()["role"] == "primary", "%s: the lease has changed hands", what)


def upgrade(host):
    """The agent that holds the lease's deadline is replaced only when the next worker is there."""
    before = host.agent_pid()
    os.kill(host.proc.pid, signal.SIGUSR2)
    wait_for("another agent", lambda: not alive(before), TAKES_S)
    wait_for("a status", lambda: fazt("status", host.dir, check=False).returncode in (0, 1), TAKES_S)


def without_store(base, host, path, hide):
    """Its witness is gone: whoever sits in a transaction is killed, nobody commits, and a mount that starts accepts nothing until it is back."""
    p = sit(path)
    try:
        held(host)
        hide(True)
        wait_for("the process in a transaction to be killed", lambda: p.poll() is not None, TAKES_S)
    finally:
        p.kill()
        p.wait()
    need(p.returncode == -signal.SIGKILL, "the process in a transaction ended with %d", p.returncode)
    wait_for("commits to be refused", lambda: refused(path), TAKES_S)
    def told():
        r = fazt("status", host.dir, check=False)
        return r.returncode == 1 and "accepts no commits" in r.stdout
    wait_for("its status to tell", told, TAKES_S)
    con = sqlite3.connect(path, timeout=1)
    need(con.execute("SELECT count(*) FROM t WHERE k = 4711").fetchone()[0] == 0, "a killed transaction is there")
    con.close()
    host.umount()
    host.start()
    t0 = time.monotonic()
    need(refused(path), "a primary that has never reached its witness accepts commits")
    need(time.monotonic() - t0 < 30, "refusing it took %.0f s", time.monotonic() - t0)
    hide(False)
    held(host)
    insert(path)


def agent_replaced(old, new):
    """The primary is stopped, another one takes over; when it goes on, a process sits in a transaction of a rollback database. The agent dies
    while it is waited for: its successor is one that the worker has never heard of, and it fences all the same."""
    path = os.path.join(old.dir, "old.db")
    app = Counted(path, "DELETE")
    app.commit()
    app.close()
    for n in ("app.db", "old.db"):
        caught_up(old, new, n)
    p = sit(path)
    worker = old.status()["worker_pid"]
    try:  # stopped between two renewals: within one it would keep the directory's lock
        wait_for("a renewal", lambda: 0 <= lease(old)["renewed_ms_ago"] < 100, TAKES_S)
        os.kill(worker, signal.SIGSTOP)
        try:
            wait_for("another primary", lambda: new.status()["role"] == "primary", TAKES_S)
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_for("it to wait for the writer", lambda: "fencing: old.db" in old.tail(40), TAKES_S)
        before = old.agent_pid()
        os.kill(before, signal.SIGKILL)
        wait_for("the death of its agent", lambda: not alive(before), TAKES_S)
    finally:
        p.kill()
        p.wait()
    wait_for("the former primary to follow (%s)" % old.tail(4), lambda: old.status()["role"] == "replica", TAKES_S)
    for n in ("app.db", "old.db"):
        all_alike([new, old], n)


def run(base):
    shared, away = os.path.join(base, "shared"), os.path.join(base, "away")
    os.mkdir(shared)
    hosts = [Host(base, n, "--failover", "auto", "--lease", "%ds" % LEASE_S, "--witness", "dir:" + shared) for n in "abc"]
    a, b, c = hosts
    a.primary(b, c)
    for h in (b, c):
        others = [x for o in hosts if o is not h for x in ("--follower", o.public)]
        h.replica_of(a, "--listen", h.address, *others)
    with a, b, c:
        for h in hosts:
            h.start()
        held(a)
        app = Counted(os.path.join(a.dir, "app.db"))
        for _ in range(100):
            app.commit()
        elected(a, b, c, app, "app.db")
        path = os.path.join(b.dir, "app.db")
        keep = sqlite3.connect(path, isolation_level=None)
        keep.execute("SELECT count(*) FROM t").fetchone()
        stays(b, path, "its worker is killed", b.kill_worker)
        need(len(children(b.proc.pid)) == 2, "worker and agent: %s", children(b.proc.pid))
        stays(b, path, "it is upgraded", lambda: upgrade(b))
        keep.close()
        fazt("handoff", b.dir, c.public)
        held(c)
        all_alike([c, a, b], "app.db")
        with open(os.path.join(shared, ".fazt", "lease")) as f:
            body = json.load(f)
        need(body["key"] == c.public and body["epoch"] == c.status()["epoch"], "the lease says %s", body)
        b.umount()  # whom a follows: the lease says where to go
        wait_for("a to follow c", lambda: a.status()["primary"] == c.address and a.status()["following"]["connected"], TAKES_S)
        all_alike([c, a], "app.db")
        agent_replaced(c, a)
        c.umount()
        without_store(base, a, os.path.join(a.dir, "app.db"), lambda on: os.rename(*((shared, away) if on else (away, shared))))
        a.umount()


main("failover-three", run)
