#!/usr/bin/python3
# timeout: 180
"""failover = auto together with ack = replica and the policy `wait`: a primary that is cut off has commits that wait for a replica, and
that hold the lock which the fence needs. They end with an error in time, no application is killed, the replica takes over, and has every
commit that was acknowledged."""
import os
import sqlite3
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "lib")]
from cluster import Counted  # noqa: E402
from failover import LEASE_S, TAKES_S, Scene, Writer, has, lease, never_two, two_hosts  # noqa: E402
from faztlib import main, need, wait_for  # noqa: E402

NAMES = [("wal.db", "WAL"), ("old.db", "DELETE")]


def run(base):
    conf = os.path.join(base, "wait.conf")
    with open(conf, "w") as f:
        f.write("[link]\nack = replica\nack_policy = wait\n")
    with two_hosts(base, "--config", conf) as world:
        cut(base, *world)


def cut(base, net, gw, a, b):
    b.start()
    a.start()
    for name, mode in NAMES:
        wait_for("%s to be made" % name, lambda: made(os.path.join(a.dir, name), mode), TAKES_S)
    s = Scene(base, net, gw, a, b, [n for n, _ in NAMES])
    s.settle()
    old, new = ([Writer(base, h, n, "FULL") for n, _ in NAMES] for h in (a, b))
    try:
        for w in old:
            w.moves()
        net.link("a", False)
        wait_for("b to take over (%s)" % b.tail(5), lambda: b.status()["role"] == "primary" and lease(b)["held"], TAKES_S)
        for w in old:
            w.stands(0.5)
            need(w.p.poll() is None, "%s: the application that waited was killed", w.name)
        for w in new:
            w.stands(0.5)  # nobody follows
        net.link("a", True)
        wait_for("the former primary to follow (%s)" % a.tail(6), lambda: a.status()["role"] == "replica", TAKES_S)
        for w in new:  # they wait for the replica that was the primary
            w.moves()
        never_two(old, new)
    finally:
        for w in (*old, *new):
            w.kill()
    s.p, s.r = b, a
    s.settle()
    for w in (*old, *new):
        here, acked = set(has(os.path.join(b.dir, w.name), w.who)), [c[2] for c in w.commits()]
        lost = [n for n in acked if n not in here]
        need(not lost, "%s: of %d acknowledged commits %d are lost, the first %s", w.who, len(acked), len(lost), lost[:3])
    s.alike()
    for h in (a, b):
        h.umount()


def made(path, mode):
    """Without a replica that answers the first commits wait: they are asked for again."""
    try:
        x = Counted(path, mode)
        x.con.execute("CREATE TABLE IF NOT EXISTS who(who TEXT, n INTEGER)")
        x.close()
        return True
    except sqlite3.Error:
        return False


if __name__ == "__main__":
    main("failover-ack", run)
