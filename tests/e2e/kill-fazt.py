#!/usr/bin/python3
"""Worker, agent and supervisor are killed while an application writes: it sees no error, every commit is kept. A worker is
replaced, also in the middle of a commit, a checkpoint, a VACUUM, a restart of the WAL; so is an agent; without its
supervisor the worker serves on and says so, `fazt umount` cleans up, and the next mount goes on where it was."""
import contextlib
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, alive, children, fazt, is_mounted, main, need, wait_for  # noqa: E402
from witness import App, captured, kept, sound  # noqa: E402

MODES = [("WAL", "NORMAL"), ("WAL", "FULL"), ("DELETE", "NORMAL"), ("TRUNCATE", "FULL"), ("PERSIST", "NORMAL")]


class Killer(threading.Thread):
    """Kills each worker shortly after it has begun to serve, until told to stop. It is at least `least` kills."""

    def __init__(self, mount, least):
        super().__init__(daemon=True)
        self.mount, self.least, self.kills, self.stop, self.error = mount, least, 0, threading.Event(), None

    def run(self):
        last = None
        try:
            while not self.stop.is_set() or self.kills < self.least:
                pid = self.mount.status()["worker_pid"]
                if pid != last and alive(pid):
                    time.sleep(0.003 * (self.kills % 7))
                    os.kill(pid, signal.SIGKILL)
                    self.kills, last = self.kills + 1, pid
                time.sleep(0.01)
        except Exception as e:
            self.error = e


def pid_of(mount, role):
    for p in children(mount.proc.pid):
        with contextlib.suppress(OSError), open("/proc/%d/cmdline" % p, "rb") as f:
            if role.encode() in f.read().split(b"\0")[1:2]:
                return p
    return None


def work(app, rounds):
    for i in range(rounds):
        app.do("INSERT INTO t(v) VALUES (randomblob(?))", 300 + 4000 * (i % 3))
        if i % 7 == 3:
            app.commit("UPDATE t SET v=randomblob(100) WHERE id%4=1", "DELETE FROM t WHERE id%9=5")
        if i % 10 == 6:
            app.do("VACUUM")
        if i % 5 == 4 and app.name.startswith("wal"):
            app.query("PRAGMA wal_checkpoint(%s)" % ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[i // 5 % 4])


def workers(base, *flags):
    n = len(flags)
    mount = Mount(base, *flags, name="app%d" % n, store="store%d" % n)
    with mount:
        mount.start()
        apps = []
        killer = Killer(mount, 12)
        killer.start()
        for mode, level in MODES if not flags else MODES[1:3]:
            a = App(mount, "%s-%s.db" % (mode.lower(), level.lower()), "journal_mode=" + mode, "synchronous=" + level)
            a.do("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v BLOB)")
            work(a, 16)
            a.close()
            apps.append(a)
        for i in range(8):  # a database is made while nobody knows it yet
            mode, level = MODES[i % len(MODES)]
            with App(mount, "%s-new%d.db" % (mode.lower(), i), "journal_mode=" + mode, "synchronous=" + level) as a:
                a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                work(a, 3)
            apps.append(a)
        killer.stop.set()
        killer.join(60)
        need(not killer.is_alive() and not killer.error, "the killer of workers: %s", killer.error)
        status = mount.status()
        need(status["restarts"] == killer.kills, "%d kills, status says %d restarts", killer.kills, status["restarts"])
        mount.sync()
        for a in apps:
            kept(mount, a.name, a.states, sync=False)
        sound(mount, *[a.name for a in apps])
        mount.umount()


def agent(base):
    with Mount(base, name="agent", store="store-agent").start() as mount:
        with App(mount, "silent.db", "journal_mode=OFF", "synchronous=OFF") as a:  # needs the agent's lock
            a.do("CREATE TABLE t(v)")
            for i in range(3):
                captured(mount, "silent.db")
                old = pid_of(mount, "agent")
                need(old, "there is no agent")
                os.kill(old, signal.SIGKILL)
                wait_for("another agent", lambda: pid_of(mount, "agent") not in (None, old))
                a.do("INSERT INTO t VALUES (?)", i)
            captured(mount, "silent.db")
        kept(mount, "silent.db", a.states)
        sound(mount, "silent.db")
        mount.umount()


def supervisor(base):
    mount = Mount(base, name="super", store="store-super")
    with mount:
        mount.start()
        a = App(mount, "s.db", "journal_mode=WAL")
        a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        others = children(mount.proc.pid)
        os.kill(mount.proc.pid, signal.SIGKILL)
        mount.proc.wait()
        work(a, 10)
        wait_for("status that tells", lambda: any("supervisor" in t for t in mount.status()["problems"] + mount.status()["notes"]))
        mount.sync()
        kept(mount, "s.db", a.states)
        a.close()
        fazt("umount", mount.dir)
        need(not is_mounted(mount.dir), "umount without a supervisor left the mount")
        wait_for("the end of worker and agent", lambda: not any(alive(p) for p in others))
        mount.start()
        with App(mount, "s.db", states=a.states) as a:
            a.do("INSERT INTO t(v) VALUES ('after')")
        kept(mount, "s.db", a.states)
        sound(mount, "s.db")
        # supervisor and worker at once: applications get errors until the mount is cleaned up, no commit is lost
        with App(mount, "s.db", states=a.states) as a:
            for i in range(5):
                a.do("INSERT INTO t(v) VALUES (?)", i)
            mount.kill_all()
        if is_mounted(mount.dir):
            fazt("umount", mount.dir)
        mount.start()
        kept(mount, "s.db", a.states)
        need(mount.database("s.db")["resyncs"] == 0, "resyncs: %s", mount.database("s.db"))
        sound(mount, "s.db")
        mount.umount()


def run(base):
    workers(base)
    workers(base, "--no-passthrough")
    agent(base)
    supervisor(base)


if __name__ == "__main__":
    main("kill-fazt", run)
