#!/usr/bin/python3
# timeout: 240
"""failover = auto: two hosts and a store in network namespaces. Whatever is cut, killed or stopped, no commit is acknowledged on the
former primary once the new one has acknowledged one (one clock: it is one machine), a replica takes over by itself only when it must,
every commit that had arrived is there, and what had not is a branch."""
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, caught_up  # noqa: E402
from faztlib import Failure, fazt, fazt_json, integrity, main, need, serialize_hash, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from netns import Net, Node  # noqa: E402

LEASE_S = 2
TAKES_S = 40  # several times what a lease, its margin and a promotion take: the machine may be busy

# An application that commits wherever it can, and opens anew whenever it cannot: each line is one commit that was acknowledged,
# with the moments before COMMIT and after it.
WRITER = """
import sqlite3, sys, time
path, who, sync = sys.argv[1:4]
con, n = None, 0
while True:
    try:
        if con is None:
            con = sqlite3.connect("file:%s?mode=rw" % path, uri=True, isolation_level=None, timeout=0.02)
            con.execute("PRAGMA synchronous=" + sync)
        con.execute("BEGIN IMMEDIATE")
        con.execute("INSERT INTO who VALUES (?, ?)", (who, n))
        t0 = time.monotonic_ns()
        con.execute("COMMIT")
        print(t0, time.monotonic_ns(), n, flush=True)
        n += 1
        time.sleep(0.002)
    except sqlite3.Error as e:
        print("#", time.monotonic_ns(), e, flush=True)
        try:
            con.close()
        except (AttributeError, sqlite3.Error):
            pass
        con = None
        time.sleep(0.005)
"""


class Writer:
    def __init__(self, base, host, name, sync="NORMAL"):
        self.host, self.name = host, name
        self.who = "%s-%d" % (host.name, time.monotonic_ns())
        self.out = os.path.join(base, "writer-%s-%s" % (self.who, name))
        self.f = open(self.out, "wb")
        self.p = subprocess.Popen([sys.executable, "-c", WRITER, os.path.join(host.dir, name), self.who, sync], stdout=self.f,
                                  stderr=self.f)

    def commits(self):
        """[(before, after, n)]"""
        with open(self.out) as f:
            lines = f.read().split("\n")[:-1]
        bad = [l for l in lines if not (l[:1].isdigit() or l[:1] == "#")]
        need(not bad or self.p.poll() is not None, "a writer says %s", bad[:5])
        return [tuple(map(int, l.split())) for l in lines if l[:1].isdigit()]

    def moves(self, seconds=TAKES_S, n=20):
        have = len(self.commits())
        wait_for("%s to commit to %s (%s)" % (self.who, self.name, self.host.tail(4)),
                 lambda: len(self.commits()) >= have + n, seconds)

    def stands(self, seconds):
        """No commit for so long."""
        end = time.monotonic() + TAKES_S
        while time.monotonic() < end:
            last = len(self.commits())
            time.sleep(seconds)
            if len(self.commits()) == last:
                return
        raise Failure("%s goes on committing to %s" % (self.who, self.name))

    def kill(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        self.f.close()


def has(path, who):
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=10)
    try:
        return [r[0] for r in con.execute("SELECT n FROM who WHERE who = ? ORDER BY n", (who,))]
    finally:
        con.close()


def never_two(old, new):
    """Judged after both have committed for a while."""
    for a, b in zip(old, new):
        first = b.commits()
        need(first, "%s has committed nothing", b.who)
        late = [c for c in a.commits() if c[0] > first[0][1]]
        need(not late, "%s: %d commits were acknowledged by %s after the first one of %s, the first %.1f ms later", a.name, len(late),
             a.who, b.who, (late[0][0] - first[0][1]) / 1e6 if late else 0)


def lease(host):
    return host.status()["lease"]


class Scene:
    def __init__(self, base, net, gw, p, r, names):
        self.base, self.net, self.gw, self.p, self.r, self.names = base, net, gw, p, r, names

    def writers(self, host):
        return [Writer(self.base, host, n) for n in self.names]

    def settle(self):
        """The primary commits, the replica has everything, both know who has the lease."""
        wait_for("the lease of %s (%s)" % (self.p.name, self.p.tail(5)), lambda: lease(self.p)["held"], TAKES_S)
        wait_for("%s to follow" % self.r.name, self.r.connected, TAKES_S)
        for n in self.names:
            caught_up(self.p, self.r, n)

    def alike(self):
        """A writer that was killed between its last frame and the wal-index leaves a commit that the next one to open the database finds:
        that comes first."""
        for n in self.names:
            con = sqlite3.connect(os.path.join(self.p.dir, n), timeout=10)
            con.execute("SELECT count(*) FROM who").fetchone()
            con.close()
        for n in self.names:
            caught_up(self.p, self.r, n)
            a, b = os.path.join(self.p.dir, n), os.path.join(self.r.dir, n)
            need(serialize_hash(a) == serialize_hash(b), "%s differs", n)
            need(integrity(b) == "ok", "%s: %s", n, integrity(b))

    def take_over(self, what, cut, heal, back=True):
        """cut() takes the primary away; the replica takes over by itself; after heal() the former primary follows."""
        print("--", what, flush=True)
        self.settle()
        p, r = self.p, self.r
        old, new = self.writers(p), self.writers(r)
        try:
            for w in old:
                w.moves()
            arrived = {w.name: len(w.commits()) for w in old}
            for n in self.names:
                caught_up(p, r, n)
            need(not any(w.commits() for w in new), "%s: a replica accepts commits", what)
            cut(old)
            for w in new:
                w.moves()
            need(r.status()["role"] == "primary" and lease(r)["held"], "%s: %s", what, lease(r))
            heal()
            if back:
                wait_for("%s: the former primary to follow (%s)" % (what, p.tail(6)), lambda: p.status()["role"] == "replica",
                         TAKES_S)
            for w in new:
                w.moves()
            never_two(old, new)
        finally:
            for w in (*old, *new):
                w.kill()
        self.p, self.r = r, p
        self.settle()
        branches = fazt_json("branches", "--json", p.dir)
        for w in old:
            here = has(os.path.join(r.dir, w.name), w.who)
            acked = len(w.commits())
            need(here == list(range(len(here))) and len(here) >= arrived[w.name],
                 "%s: %d commits had arrived, %d are in the new history", what, arrived[w.name], len(here))
            need(acked <= len(here) + 1 or any(b["database"] == w.name for b in branches),
                 "%s: %d commits to %s are in neither history nor branch (%s)", what, acked - len(here), w.name, branches)
        for w in new:
            here = has(os.path.join(r.dir, w.name), w.who)
            need(len(here) >= len(w.commits()), "%s: the new primary lost %d of its commits", what, len(w.commits()) - len(here))
        self.alike()


    def stays(self, what, cut, heal):
        """Nobody takes over: the primary commits on."""
        print("--", what, flush=True)
        self.settle()
        term = lease(self.p)["term"]
        old, new = self.writers(self.p), self.writers(self.r)
        try:
            for w in old:
                w.moves()
            cut(self.p, self.r)
            time.sleep(2 * LEASE_S)
            for w in old:
                w.moves()
            heal(self.p, self.r)
            need(not any(w.commits() for w in new), "%s: the replica accepted commits", what)
        finally:
            for w in (*old, *new):
                w.kill()
        self.settle()
        need(lease(self.p)["term"] == term, "%s: the lease has changed hands", what)
        for w in old:
            need(has(os.path.join(self.r.dir, w.name), w.who)[-1] >= w.commits()[-1][2], "%s: commits are missing", what)
        self.alike()

    def store_away(self):
        """The primary accepts nothing without the store, nobody takes over, and it goes on when the store is back."""
        print("-- the store is away", flush=True)
        self.settle()
        old, new = self.writers(self.p), self.writers(self.r)
        try:
            for w in old:
                w.moves()
            self.gw.kill()
            wait_for("the primary to have no lease", lambda: not lease(self.p)["held"], TAKES_S)
            for w in old:
                w.stands(0.5)
            problems = self.p.status()["problems"]
            need(any("without a lease" in x for x in problems), "its status says %s", problems)
            time.sleep(LEASE_S)
            need(not any(w.commits() for w in new), "without a store the replica accepted commits")
            with self.net.inside("s"):
                self.gw.start()
            for w in old:
                w.moves()
            need(not any(w.commits() for w in new), "the replica accepted commits")
            need(self.p.status()["role"] == "primary", "another one is the primary")
        finally:
            for w in (*old, *new):
                w.kill()
        self.settle()
        for w in old:
            here = has(os.path.join(self.p.dir, w.name), w.who)
            acked = [c[2] for c in w.commits()]
            need(set(acked) <= set(here), "%d commits were acknowledged, %d are there", len(acked), len(here))
        self.alike()


@contextlib.contextmanager
def two_hosts(base, *flags):
    """A network, a store in it that is the witness, a primary and its replica, not started yet."""
    os.environ.update(ENV)
    with Net(("a", "b", "s")) as net:
        gw = Gateway(base, address=net.address("s"))
        a, b = Node(base, "a", net), Node(base, "b", net)
        for h in (a, b):
            h.own_flags, h.targets = [*flags, "--failover", "auto", "--lease", "%ds" % LEASE_S, "--witness", gw.url("app")], []
        with net.inside("s"):
            gw.start()
        try:
            a.primary(b)
            b.replica_of(a, "--listen", b.address, "--follower", a.public)
            with a, b:
                yield net, gw, a, b
        finally:
            gw.kill()


def run(base):
    with two_hosts(base) as world:
        scenes(base, *world)


def cut_link(net, p, r, on):
    net.block(p.name, r.name, on)
    net.block(r.name, p.name, on)


def die(p, writers):
    """With the applications: those that live on without any fazt process commit on, since their files are passed through."""
    for w in writers:
        w.kill()
    p.kill_all()


def stop(host):
    pid = host.status()["worker_pid"]
    os.kill(pid, signal.SIGSTOP)
    return pid


def scenes(base, net, gw, a, b):
    names = ["wal.db", "old.db"]
    a.start()
    for n, mode in zip(names, ("WAL", "DELETE")):
        x = Counted(os.path.join(a.dir, n), mode)
        x.con.execute("CREATE TABLE who(who TEXT, n INTEGER)")
        x.close()
    b.start()
    s = Scene(base, net, gw, a, b, names)
    s.settle()
    t = [time.monotonic()]

    def took():
        t.append(time.monotonic())
        print("   %.1f s" % (t[-1] - t[-2]), flush=True)

    def scene(what, cut, heal):
        p = s.p
        s.take_over(what, lambda old: cut(p, old), lambda: heal(p))
        took()

    scene("the primary is cut off", lambda p, old: net.link(p.name, False), lambda p: net.link(p.name, True))
    s.stays("the link is cut, the store is there", lambda p, r: cut_link(net, p, r, True), lambda p, r: cut_link(net, p, r, False))
    took()
    pid = []
    scene("its worker is stopped", lambda p, old: pid.append(stop(p)), lambda p: os.kill(pid[-1], signal.SIGCONT))
    s.store_away()
    took()
    scene("the machine dies", die, lambda p: p.start())
    s.stays("its agent is killed", lambda p, r: os.kill(p.agent_pid(), signal.SIGKILL), lambda p, r: None)
    took()
    scene("nothing reaches it, what it sends arrives", lambda p, old: net.lose(p.name, True), lambda p: net.lose(p.name, False))
    s.stays("its agent is stopped", lambda p, r: os.kill(p.agent_pid(), signal.SIGSTOP), lambda p, r: None)
    took()
    scene("a handoff", lambda p, old: fazt("handoff", p.dir, s.r.public), lambda p: None)
    scene("a take-over by force", lambda p, old: fazt("promote", "--force", s.r.dir), lambda p: None)
    for h in (a, b):
        h.umount()


if __name__ == "__main__":
    main("failover", run)
