#!/usr/bin/python3
# timeout: 120
"""What a package put in place of the program cannot go on with the mount: it ends with an error, is half copied, or is not there. An
upgrade refuses it; and when worker or agent die later, the program that serves goes on to serve, whether an upgrade
was asked for or not. A good one that comes then is taken."""
import contextlib
import os
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, children, is_mounted, main, need, wait_for  # noqa: E402
from witness import Writer, kept, sound  # noqa: E402

BAD = {"ends with an error": b"#!/bin/sh\nexit 1\n", "is half copied": b"\177ELF half a file", "is not there": None}


def install(mount, content):
    """As a package does: the new file takes the old one's name."""
    if content is None:
        os.unlink(mount.exe)
        return
    with open(mount.exe + ".new", "wb") as f:
        f.write(content)
    os.chmod(mount.exe + ".new", 0o755)
    os.rename(mount.exe + ".new", mount.exe)


def child(mount, role):
    """The worker or agent, once it is what it shall be."""
    for p in children(mount.proc.pid):
        with contextlib.suppress(OSError), open("/proc/%d/cmdline" % p, "rb") as f:
            if f.read().split(b"\0")[1:2] == [role]:
                return p
    return None


def dies(mount, role):
    old = child(mount, role)
    need(old, "there is no %s", role.decode())
    os.kill(old, signal.SIGKILL)
    wait_for("another %s" % role.decode(), lambda: child(mount, role) not in (None, old))


def refusals(mount):
    return mount.tail(10000).count("nothing is changed")


def serves_on(mount, writer):
    for role in (b"worker", b"agent", b"worker"):
        dies(mount, role)
        writer.more()


def run(base):
    with Mount(base) as mount:
        mount.exe = os.path.join(base, "fazt")
        shutil.copy(FAZT, mount.exe)
        with open(mount.exe, "rb") as f:
            good = f.read()
        mount.start()
        writer = Writer(mount, "app.db", "journal_mode=WAL", pause=0.02, anew=True)
        try:
            writer.more()
            for what, content in BAD.items():
                for asked in (True, False):
                    install(mount, content)
                    n, old = refusals(mount), mount.status()["worker_pid"]
                    if asked:
                        os.kill(mount.proc.pid, signal.SIGUSR2)
                        wait_for("the refusal of a program that %s" % what, lambda: refusals(mount) > n)
                        need(mount.status()["worker_pid"] == old, "a program that %s replaced the worker", what)
                    serves_on(mount, writer)
                    need("the program that this supervisor runs" in mount.tail(10000), "the log does not say which program it is")
                    # and a good one is taken
                    install(mount, good)
                    inode, old = os.stat(mount.exe).st_ino, mount.status()["worker_pid"]
                    os.kill(mount.proc.pid, signal.SIGUSR2)
                    wait_for("another worker", lambda: mount.status()["worker_pid"] != old)
                    for pid in (mount.proc.pid, mount.status()["worker_pid"]):
                        need(os.stat("/proc/%d/exe" % pid).st_ino == inode, "process %d is not the good program", pid)
                    writer.more()
            install(mount, BAD["ends with an error"])
            dies(mount, b"worker")
            writer.more()
        finally:
            if mount.proc.poll() is None and not writer.error:
                writer.stop.set()
                writer.join(5)
        writer.end()
        kept(mount, "app.db", writer.app.states)
        sound(mount, "app.db")
        mount.umount()
        need(not is_mounted(mount.dir), "still mounted")


main("upgrade", run)
