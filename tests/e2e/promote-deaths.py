#!/usr/bin/python3
# timeout: 240
"""The worker dies in the middle of a promotion: once the role is written this host is the primary, and the next worker finishes
what is left: every log begins the same epoch, every commit that had arrived is there, none of the new ones is lost, and the
former primary follows. A death before leaves the replica that it was."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, caught_up  # noqa: E402
from faztlib import fazt, fazt_json, main, need, serialize_hash, wait_for  # noqa: E402

NAMES = {"a.db": "WAL", "b.db": "DELETE", "c.db": "WAL"}
# Each worker counts for itself; with promote_raised:1 each one dies after the next log.
POINTS = ["promote_saved:1", "promote_raised:1", "promote_raised:2", "promote_raised:3", "promote_said_wal:1"]


def dies_at(base, point):
    p, r = Host(base, "one"), Host(base, "two")
    p.primary(r)
    r.replica_of(p)
    r.flags += ["--listen", r.address, "--follower", p.public]
    with p, r:
        p.start()
        r.start(env={"FAZT_CRASHPOINT": point})
        for n, mode in NAMES.items():
            a = Counted(os.path.join(p.dir, n), mode)
            for _ in range(20):
                a.commit()
            a.close()
            caught_up(p, r, n)
        p.kill_all()
        said = fazt("promote", r.dir, check=False)
        print(said.stderr.strip(), flush=True)
        wait_for("%s: another worker" % point, lambda: "taken over" in r.tail(200))
        need("ended by signal 9" in r.tail(200), "%s was never met: %s%s", point, said.stdout, said.stderr)
        status = r.status()
        need(status["role"] == "primary", "%s: it is a %s", point, status["role"])
        epochs = {d["name"]: d["epoch"] for d in status["databases"]}
        need(set(epochs.values()) == {status["epoch"]}, "%s: epoch %s, its logs %s", point, status["epoch"], epochs)
        for n in NAMES:
            a = Counted(os.path.join(r.dir, n))
            need(a.n == 20, "%s: %s has %d commits of 20", point, n, a.n)
            for _ in range(20):
                a.commit()
            a.close()
        fazt("sync", r.dir)
        live = fazt_json("verify", "--live", "--json", r.dir)
        need(live["differences"] == 0, "%s: verify --live: %s", point, live)
        for d in r.status()["databases"]:
            need(d["resyncs"] == 0, "%s: not all that was committed is a transaction: %s", point, d)
        need("of another version" not in r.tail(1000), "%s: the replica's agent is still there", point)
        p.replica_of(r)
        p.flags += ["--listen", p.address, "--follower", r.public]
        p.start()
        for n in NAMES:
            caught_up(r, p, n)
            need(serialize_hash(os.path.join(p.dir, n)) == serialize_hash(os.path.join(r.dir, n)), "%s: %s differs", point, n)
        fazt("handoff", r.dir, p.public)  # which needs the agent
        wait_for("%s: the roles to be changed back" % point, lambda: p.status()["role"] == "primary")
        a = Counted(os.path.join(p.dir, "b.db"))
        need(a.n == 40, "%s: %d commits of 40 after the handoff", point, a.n)
        a.commit()
        a.close()
        caught_up(p, r, "b.db")
        p.umount()
        r.umount()


def run(base):
    for i, point in enumerate(POINTS):
        print("--", point, flush=True)
        dies_at(os.path.join(base, str(i)), point)


main("promote-deaths", run)
