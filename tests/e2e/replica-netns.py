#!/usr/bin/python3
# timeout: 240
"""Three hosts in network namespaces of their own, joined by a fourth that routes: real cuts of a link, and routes that lose what goes
one way. Each is noticed within seconds, at the end that it concerns; readers go on; what was cut comes back by itself and
misses nothing."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Reader, caught_up  # noqa: E402
from faztlib import integrity, main, need, serialize_hash, wait_for  # noqa: E402
from netns import Net, Node  # noqa: E402

NOTICED_S = 6   # 3 s without a word, and what a busy machine takes
BACK_S = 30     # the pause between two calls is 10 s at most


def seen_by(primary, replica):
    """Whether the primary counts that replica as connected."""
    return any(x["connected"] and replica.public in str(x) for x in primary.status()["replicas"])


def outage(what, cut, heal, p, hit, well, app, readers):
    """cut() happens to the replica `hit`, while `well` has no trouble."""
    cut()
    t0 = time.monotonic()
    wait_for("%s: the replica to notice" % what, lambda: not hit.connected(), NOTICED_S)
    wait_for("%s: the primary to notice" % what, lambda: not seen_by(p, hit), NOTICED_S)
    while time.monotonic() - t0 < 4:  # it stays away for a while
        app.commit()
        time.sleep(0.002)
    need(hit.status()["following"]["last_error"], "%s: its status does not tell why", what)
    need(not hit.connected(), "%s: it is connected through a cut link", what)
    caught_up(p, well, "app.db", 10)
    heal()
    wait_for("%s: the replica to come back" % what, hit.connected, BACK_S)
    for r in (hit, well):
        caught_up(p, r, "app.db")
        a, b = os.path.join(p.dir, "app.db"), os.path.join(r.dir, "app.db")
        need(serialize_hash(a) == serialize_hash(b), "%s: %s differs", what, r.name)
    for x in readers:
        x.sees(app.n)


def run(base):
    with Net(("a", "b", "c")) as net:
        p, b, c = (Node(base, n, net) for n in net.names)
        p.primary(b, c)
        b.replica_of(p)
        c.replica_of(p)
        with p, b, c:
            p.start()
            b.start()
            c.start()
            app = Counted(os.path.join(p.dir, "app.db"))
            for _ in range(100):
                app.commit()
            for r in (b, c):
                caught_up(p, r, "app.db")
            readers = [Reader(os.path.join(base, "work"), os.path.join(r.dir, "app.db"), keep) for r in (b, c)
                       for keep in (True, False)]
            outage("a link that is down", lambda: net.link("b", False), lambda: net.link("b", True), p, b, c, app, readers)
            outage("nothing reaches the replica", lambda: net.lose("b", True), lambda: net.lose("b", False), p, b, c, app,
                   readers)
            for i in range(3):  # shorter than anything that is noticed
                net.link("c", False)
                for _ in range(50):
                    app.commit()
                net.link("c", True)
                caught_up(p, c, "app.db")
            # what goes to the primary is lost, for both: it has to find out by itself that it is talking to nobody
            net.lose("a", True)
            for r in (b, c):
                wait_for("%s to notice" % r.name, lambda: not r.connected(), NOTICED_S)
                wait_for("the primary to notice", lambda: not seen_by(p, r), NOTICED_S)
            for _ in range(200):
                app.commit()
            net.lose("a", False)
            for r in (b, c):
                wait_for("%s to come back" % r.name, r.connected, BACK_S)
                caught_up(p, r, "app.db")
            for x in readers:
                x.sees(app.n)
                x.end()
            app.close()
            for r in (b, c):
                need(integrity(os.path.join(r.dir, "app.db")) == "ok", "%s: integrity_check", r.name)
                need(serialize_hash(os.path.join(p.dir, "app.db")) == serialize_hash(os.path.join(r.dir, "app.db")),
                     "%s differs at the end", r.name)
            for h in (c, b, p):
                h.umount()


main("replica-netns", run)
