"""Hosts in network namespaces of their own, joined by a fourth that routes: links that can be cut, routes that lose what goes one way."""
import contextlib
import ctypes
import os
import subprocess

from cluster import Host
from faztlib import Failure, need, wait_for


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

    @contextlib.contextmanager
    def inside(self, name):
        """What this thread starts meanwhile has its sockets there."""
        fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        other = os.open("/run/netns/" + self.ns(name), os.O_RDONLY)
        try:
            enter(other)
            yield
        finally:
            enter(fd)
            os.close(fd)
            os.close(other)

    def link(self, name, up):
        ip("-n", self.ns("hub"), "link", "set", "h" + name, "up" if up else "down")
        if up:
            ip("-n", self.ns("hub"), "route", "replace", "10.77.%d.0/24" % self.subnet(name), "dev", "h" + name)

    def lose(self, to, on):
        """The hub drops, without a word, all that goes to that host; what comes from it arrives."""
        ip("-n", self.ns("hub"), "route", "add" if on else "del", "blackhole", self.address(to) + "/32")

    def block(self, sender, to, on):
        """What one host sends to another one is lost; everything else arrives."""
        ip("-n", self.ns(sender), "route", "add" if on else "del", "blackhole", self.address(to) + "/32")


class Node(Host):
    def __init__(self, base, name, net):
        super().__init__(base, name)
        self.net, self.address = net, "%s:%d" % (net.address(name), self.port)

    def start(self):
        """The mount is this machine's, its sockets are the namespace's: ip would give it mounts of its own."""
        with self.net.inside(self.name):
            super().start(check=False)
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
    libc = ctypes.CDLL(None, use_errno=True)
    need(libc.setns(fd, 0x40000000) == 0, "setns: %s", os.strerror(ctypes.get_errno()))  # CLONE_NEWNET
