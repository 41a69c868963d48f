#!/usr/bin/python3
"""Worker, agent and supervisor are killed while an application writes: it sees no error, every commit is kept. A worker is
replaced, also in the middle of a commit, a checkpoint, a VACUUM, a restart of the WAL; so is an agent; without its
supervisor the worker serves on and says so, `fazt umount` cleans up, and the next mount goes on where it was. When no worker can
start any more, or one hangs before it serves, SIGTERM ends the mount once nobody has a file open, and what was committed meanwhile is
kept."""
import contextlib
import os
import resource
import select
import signal
import sqlite3
import subprocess
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
            need(is_mounted(mount.dir), "a mount that is in use went")
            r = fazt("mount", "--recipient", mount.recipient, mount.dir, check=False)
            need(r.returncode == 1 and "dead mount" in r.stderr, "mounted over a dead mount in use: %s", r.stderr)
        serving = mount.tail(10000).count("serving " + mount.dir)
        mount.start()  # removes the dead one
        wait_for("the mount", lambda: mount.tail(10000).count("serving " + mount.dir) > serving)
        need("was dead" in mount.tail(10000), "the removal of the dead mount was not told")
        kept(mount, "s.db", a.states)
        need(mount.database("s.db")["resyncs"] == 0, "resyncs: %s", mount.database("s.db"))
        sound(mount, "s.db")
        mount.umount()


def no_descriptor(base):
    """The supervisor gets no further descriptors for a moment: no worker is started without its sockets."""
    with Mount(base, name="nofd", store="store-nofd").start() as mount, App(mount, "d.db", "journal_mode=WAL") as a:
        a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
        soft, hard = resource.prlimit(mount.proc.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(mount.proc.pid, resource.RLIMIT_NOFILE, (32, hard))  # all that it keeps lies above
        old = pid_of(mount, "worker")
        os.kill(old, signal.SIGKILL)
        wait_for("the next worker, or what it lacks",
                 lambda: "cannot make sockets" in mount.tail(1000) or pid_of(mount, "worker") not in (None, old))
        resource.prlimit(mount.proc.pid, resource.RLIMIT_NOFILE, (soft, hard))
        need("cannot make sockets" in mount.tail(1000), "a worker was started without its sockets:\n%s", mount.tail())
        a.do("INSERT INTO t(v) VALUES ('after')")
        status = mount.status()
        need(not status["problems"], "the next worker: %s", status["problems"])
        mount.sync()
        kept(mount, "d.db", a.states)
        sound(mount, "d.db")


COMMITS = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode=WAL")
c.execute("PRAGMA synchronous=OFF")
c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
print("ready", flush=True)
for i in range(30):
    c.execute("INSERT INTO t(v) VALUES (randomblob(500))")
c.execute("PRAGMA wal_checkpoint(RESTART)")  # from now on the WAL does not grow
for line in sys.stdin:
    c.execute("INSERT INTO t(v) VALUES (randomblob(500))")
    print("committed", flush=True)
"""


def no_worker(base, hangs):
    name = "hangs" if hangs else "none"
    with Mount(base, name=name, store="store-" + name).start() as mount:
        path = os.path.join(mount.dir, "n.db")
        app = subprocess.Popen([sys.executable, "-c", COMMITS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def commit():
            app.stdin.write("one\n")
            app.stdin.flush()
            need(select.select([app.stdout], [], [], 20)[0] and app.stdout.readline() == "committed\n", "no commit")
        try:
            need(app.stdout.readline() == "ready\n", "the application does not start")
            commit()
            worker = mount.status()["worker_pid"]
            conf = "/proc/%d/fd/12/mount.conf" % worker
            os.unlink(conf)
            if hangs:
                os.mkfifo(conf)  # nobody ever writes: who reads waits
            else:
                with open(conf, "w") as f:
                    f.write("[nonsense\n")
            os.kill(worker, signal.SIGUSR2)  # it hands over
            wait_for("workers that do not come to work",
                     lambda: mount.tail(1000).count("worker ended with status") > (0 if hangs else 2) and pid_of(mount, "worker") != worker)
            for _ in range(5):  # what it has open it goes on with
                commit()
            r = fazt("umount", mount.dir, check=False, timeout=40)  # must not ask the mount: nobody answers
            need(r.returncode == 1 and "SIGTERM" in r.stderr, "umount without a worker: %d %s", r.returncode, r.stderr)
            mount.proc.terminate()
            wait_for("the supervisor to say who has a file open", lambda: "cannot unmount %s yet" % mount.dir in mount.tail(1000))
            need(mount.proc.poll() is None and is_mounted(mount.dir), "the mount went under an application")
        finally:
            app.kill()
            app.wait()
        wait_for("the end of the supervisor", lambda: mount.proc.poll() is not None)
        need(mount.proc.returncode == 0, "it ended with %d", mount.proc.returncode)
        need(not is_mounted(mount.dir), "still mounted")
        need("and the next mount captures what was committed" in mount.tail(1000), "the log does not say how it ended:\n%s", mount.tail())
        mount.start()
        with contextlib.closing(sqlite3.connect(path)) as con:
            need(con.execute("SELECT count(*) FROM t").fetchone() == (36,), "commits are lost")
        mount.sync()
        need(len(mount.log("n.db")) == 38, "not each commit was captured: %s", mount.log("n.db"))
        sound(mount, "n.db")
        mount.umount()


def run(base):
    no_descriptor(base)
    no_worker(base, hangs=True)
    no_worker(base, hangs=False)
    workers(base)
    workers(base, "--no-passthrough")
    agent(base)
    supervisor(base)


if __name__ == "__main__":
    main("kill-fazt", run)
