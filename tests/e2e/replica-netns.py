#!/usr/bin/python3
# timeout: 240
"""Three hosts in network namespaces of their own, joined by a fourth that routes: real cuts of a link, and routes that lose what goes
one way. Each is noticed within seconds, at the end that it concerns; readers go on; what was cut comes back by itself and
misses nothing."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, Reader, caught_up  # noqa: E402
from faztlib import Failure, integrity, main, need, serialize_hash, wait_for  # noqa: E402

NOTICED_S = 6   # 3 s without a word, and what a busy machine takes
BACK_S = 30     # the pause between two calls is 10 s at most


def ip(*args, check=True):
    r = subprocess.run(["ip", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    need(not check or r.returncode == 0, "ip %s: %s", " ".join(args), r.stdout)


class Net:
    """Namespaces fz<pid>a, b, c and a hub. Host i has 10.77.i.2, its side of the hub 10.77.i.1."""

    def __init__(self, names):
        self.names, self.tag = names, "fz%d" % os.getpid()

    def ns(self, name):
        return self.tag + name

    def subnet(self, name):
        return self.names.index(name) + 1

    def address(self, name):
        return "10.77.%d.2" % self.subnet(name)

    def __enter__(self):
        try:
            self.build()
        except Failure:
            self.__exit__()
            raise
        return self

    def build(self):
        hub = self.ns("hub")
        ip("netns", "add", hub)
        for n in self.names:
            mine, net = self.ns(n), self.subnet(n)
            ip("netns", "add", mine)
            ip("-n", hub, "link", "add", "h" + n, "type", "veth", "peer", "name", "eth0", "netns", mine)
            for where, dev, end in ((mine, "eth0", 2), (hub, "h" + n, 1)):
                ip("-n", where, "addr", "add", "10.77.%d.%d/24" % (net, end), "dev", dev)
                ip("-n", where, "link", "set", dev, "up")
            ip("-n", mine, "link", "set", "lo", "up")
            ip("-n", mine, "route", "add", "default", "via", "10.77.%d.1" % net)
        ip("netns", "exec", hub, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def __exit__(self, *exc):
        for n in (*self.names, "hub"):
            ip("netns", "del", self.ns(n), check=False)

    def link(self, name, up):
        ip("-n", self.ns("hub"), "link", "set", "h" + name, "up" if up else "down")
        if up:
            ip("-n", self.ns("hub"), "route", "replace", "10.77.%d.0/24" % self.subnet(name), "dev", "h" + name)

    def lose(self, to, on):
        """The hub drops, without a word, all that goes to that host; what comes from it arrives."""
        ip("-n", self.ns("hub"), "route", "add" if on else "del", "blackhole", self.address(to) + "/32")


class Node(Host):
    def __init__(self, base, name, net):
        super().__init__(base, name)
        self.net, self.address = net, "%s:%d" % (net.address(name), self.port)

    def start(self):
        """The mount is this machine's, its sockets are the namespace's: ip would give it mounts of its own."""
        fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        other = os.open("/run/netns/" + self.net.ns(self.name), os.O_RDONLY)
        try:
            enter(other)
            super().start(check=False)
        finally:
            enter(fd)
            os.close(fd)
            os.close(other)
        wait_for("the mount of %s" % self.name, lambda: self.proc.poll() is not None or self.answers(), 30)
        need(self.proc.poll() is None, "%s: %s", self.name, self.tail())

    def answers(self):
        try:
            return bool(self.status())
        except (Failure, ValueError):  # not yet
            return False

    def connected(self):
        return self.status()["following"]["connected"]


def enter(fd):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    need(libc.setns(fd, 0x40000000) == 0, "setns: %s", os.strerror(ctypes.get_errno()))  # CLONE_NEWNET


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
