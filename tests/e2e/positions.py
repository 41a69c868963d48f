#!/usr/bin/python3
# timeout: 120
"""The files below .fazt: any program reads where a database stands, and waits for it with poll. A program that has committed on the
primary finds its commit in `position` there, waits on the replica until `position` has come so far, and then reads what it wrote."""
import json
import os
import select
import socket
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, caught_up  # noqa: E402
from faztlib import FAZT, fazt, main, need, wait_for  # noqa: E402


def read(host, name, what):
    with open(os.path.join(host.dir, ".fazt", name, what)) as f:
        return f.read().strip()


def txid(text):
    return int(text.split("/")[1], 16)


def place(text):
    """In the order of history: a former primary may have a higher TXID of an epoch that has ended."""
    return int(text.split("/")[0]), txid(text)


def wait_position(host, name, want, seconds=30):
    """As an application would: poll() and read again."""
    fd = os.open(os.path.join(host.dir, ".fazt", name, "position"), os.O_RDONLY)
    poll = select.poll()
    poll.register(fd, select.POLLPRI | select.POLLIN)
    end = time.monotonic() + seconds
    try:
        while True:
            text = os.pread(fd, 200, 0).decode()
            if place(text) >= want:
                return text.strip()
            need(time.monotonic() < end, "%s stays at %s, wanted %s", host.name, text, want)
            poll.poll(1000 * max(0.01, end - time.monotonic()))
    finally:
        os.close(fd)


def run(base):
    p, r = Host(base, "one"), Host(base, "two")
    p.primary(r)
    r.replica_of(p)
    with p, r:
        p.start()
        r.start()
        os.mkdir(os.path.join(p.dir, "sub"))
        names = ["a.db", "sub/b.db"]
        told = open(os.path.join(base, "events"), "w+")
        events = subprocess.Popen([FAZT, "events", r.dir], stdout=told, stderr=subprocess.STDOUT)
        wait_for("fazt events", lambda: os.path.getsize(told.name) > 0)
        apps = [Counted(os.path.join(p.dir, names[0])), Counted(os.path.join(p.dir, names[1]), "DELETE")]
        for name in names:
            caught_up(p, r, name)
            wait_for("the files of %s" % name, lambda: os.path.exists(os.path.join(r.dir, ".fazt", name, "position")))
        last = {}
        con = [sqlite3.connect(os.path.join(r.dir, n), isolation_level=None) for n in names]
        for i in range(200):
            k = i % 2
            apps[k].commit()
            at = read(p, names[k], "position")
            there = wait_position(r, names[k], place(at))
            last[names[k]] = txid(at)
            n = con[k].execute("SELECT n FROM meta").fetchone()[0]
            need(n == apps[k].n, "%s: read %d at %s, wrote %d at %s", names[k], n, there, apps[k].n, at)
            need(there == at, "%s: the same position, %s there and %s here", names[k], at, there)
        for c in con:
            c.close()
        need(read(p, "a.db", "primary") == socket.gethostname(), "primary on the primary: %s", read(p, "a.db", "primary"))
        need(read(r, "a.db", "primary") == p.address, "primary on the replica: %s", read(r, "a.db", "primary"))
        need(read(p, "a.db", "lag") == "0", "lag on the primary: %s", read(p, "a.db", "lag"))
        wait_for("no lag", lambda: read(r, "a.db", "lag") == "0")
        # a primary that is gone: the lag grows; a waiter is there when it comes back
        apps[0].close()
        apps[1].close()
        p.umount()
        wait_for("the lag to grow", lambda: int(read(r, "a.db", "lag")) > 2500)
        p.start()
        app = Counted(os.path.join(p.dir, "a.db"))
        app.commit()
        wait_position(r, "a.db", place(read(p, "a.db", "position")))
        need(fazt("wait", "--caught-up", "--timeout", 20, r.dir, check=False).returncode == 0, "wait --caught-up")
        app.close()
        os.unlink(os.path.join(p.dir, "a.db"))
        wait_for("its files to go", lambda: not os.path.exists(os.path.join(r.dir, ".fazt", "a.db")))
        r.umount()
        need(events.wait(20) == 0, "fazt events ended with %s", events.returncode)
        told.seek(0)
        lines = [json.loads(l) for l in told]
        for name, at in last.items():
            seen = [e["txid"] for e in lines if e["event"] == "transaction" and e["database"] == name]
            need(seen == list(range(1, seen[-1] + 1)) and seen[-1] >= at, "%s: events of TXIDs %s, position %d", name, seen, at)
        kinds = {e["event"] for e in lines}
        need(kinds == {"role", "database", "transaction", "problem", "ended"}, "kinds of events: %s", kinds)
        p.umount()


main("positions", run)
