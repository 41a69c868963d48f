#!/usr/bin/python3
# timeout: 240
"""A chain of three hosts, one - two - three, each of which knows and lists its neighbours only. The last one is promoted while the first one
is the primary and is written to: the one between passes it on, so the first one stops taking commits, keeps what it had alone as a
branch, and the chain is turned round. Also when the first one is away meanwhile and the one between is killed before it
could pass it on; and then the other way."""
import os
import sqlite3
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, Reader, caught_up, refused  # noqa: E402
from faztlib import fazt, fazt_json, integrity, main, need, serialize_hash, wait_for  # noqa: E402

NAME = "app.db"


def path(host):
    return os.path.join(host.dir, NAME)


def commits(app, n):
    for _ in range(n):
        app.commit()


def equal(hosts):
    want = serialize_hash(path(hosts[0]))
    for h in hosts[1:]:
        caught_up(hosts[0], h, NAME)
        need(serialize_hash(path(h)) == want, "%s differs on %s", NAME, h.name)


def roles(primary, epoch, *replicas):
    for h in (primary, *replicas):
        wait_for("%s to know of epoch %d" % (h.name, epoch), lambda: h.status()["epoch"] == epoch, 60)
    need(primary.status()["role"] == "primary", "%s is no primary", primary.name)
    for h in replicas:
        need(h.status()["role"] == "replica", "%s is a %s", h.name, h.status()["role"])


def fenced(host, app):
    """Its application is refused from some moment on; returns how many commits were acknowledged."""
    def refuses():
        try:
            app.commit()
            return False
        except sqlite3.OperationalError as e:
            need("locked" in str(e) or "readonly" in str(e), "%s: %s", host.name, e)
            return True
    app.con.execute("PRAGMA busy_timeout=100")
    wait_for("%s to be fenced" % host.name, refuses, 60)
    n = app.n
    app.close()
    return n


def branch(base, host, epoch):
    """The last commit of what the host kept of that epoch; 0 = nothing."""
    for b in fazt_json("branches", "--json", host.dir):
        if b["database"] == NAME and b["epoch"] == epoch:
            out = os.path.join(base, "branch.db")
            fazt("restore", "%s@%s" % (path(host), b["branch"]), "--latest", "-o", out, "--force")
            need(integrity(out) == "ok", "the branch of %s", host.name)
            con = sqlite3.connect(out)
            n = con.execute("SELECT n FROM meta").fetchone()[0]
            con.close()
            return n
    return 0


def run(base):
    a, b, c = hosts = [Host(base, n) for n in ("one", "two", "three")]
    a.primary(b)
    b.replica_of(a, "--listen", b.address, "--follower", a.public, "--follower", c.public)
    c.replica_of(b, "--listen", c.address, "--follower", b.public)
    with a, b, c:
        for h in hosts:
            h.start()
        app = Counted(path(a))
        commits(app, 30)
        equal([a, b, c])

        # all alive
        fazt("promote", "--force", c.dir)
        last = fenced(a, app)
        roles(c, 1, b, a)
        app = Counted(path(c))
        commits(app, last + 20 - app.n)
        equal([c, b, a])
        reader = Reader(os.path.join(base, "work"), path(a))
        need(branch(base, a, 0) in (0, last), "the branch ends with %d of %d", branch(base, a, 0), last)
        refused(path(a), "DELETE FROM meta")
        need(b.status()["primary"] == c.address and a.status()["primary"] == b.address, "the chain is not turned round")
        wait_for("nobody to be left who was not told", lambda: not any("not_told" in h.status() for h in hosts), 30)

        # the primary is away, and the one between is killed when it knows and cannot say so yet
        alone = app
        commits(alone, 10)
        equal([c, b, a])
        alone.close()
        c.kill_all()
        fazt("promote", "--force", a.dir)
        wait_for("two to know", lambda: b.status()["epoch"] == 2, 60)
        need(b.status()["not_told"] == [c.address], "not told: %s", b.status().get("not_told"))
        b.kill_all()
        app = Counted(path(a))
        commits(app, 20)
        c.start()  # takes commits: nobody is there who could tell it
        alone = Counted(path(c))
        need(alone.n == app.n - 20, "three has %d commits", alone.n)
        commits(alone, 5)
        b.start()
        lost = fenced(c, alone)
        roles(a, 2, b, c)
        need(branch(base, c, 1) == lost, "the branch ends with %d of %d", branch(base, c, 1), lost)
        equal([a, b, c])
        reader.sees(app.n)
        reader.end()
        app.close()
        wait_for("nobody to be left who was not told", lambda: not any("not_told" in h.status() for h in hosts), 30)
        for h in hosts:
            need(integrity(path(h)) == "ok", h.name)
            h.umount()


main("chain", run)
