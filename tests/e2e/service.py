#!/usr/bin/python3
# timeout: 120
"""What a service manager sees, played by this scenario with systemd's protocol: READY comes when the mount serves, the watchdog is
fed while the worker works and not when it hangs (it is replaced then), status lines tell the position; and the mount goes on, under
applications that write and hold a lock, when the supervisor is killed (with and without its worker) and the next one gets the
descriptors back, also when that one cannot start a worker at first or the configuration is wrong by then, and when both are replaced
by what is installed. A program that cannot take over changes nothing."""
import array
import contextlib
import ctypes
import datetime
import errno
import fcntl
import os
import select
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Failure, Mount, alive, children, fazt, is_mounted, main, need, wait_for  # noqa: E402
from witness import Writer, kept, sound  # noqa: E402

WATCHDOG_S = 4


class Manager(threading.Thread):
    """Hears what the service says, keeps its descriptors, and starts it with them."""

    def __init__(self, mount, exe):
        super().__init__(daemon=True)
        self.mount, self.exe, self.path = mount, exe, os.path.join(mount.base, "notify")
        self.conf = os.path.join(mount.base, "fazt.conf")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(self.path)
        self.said, self.store, self.end, self.mu = [], [], os.pipe(), threading.Lock()
        self.start_service()
        self.start()

    def run(self):
        while self.end[0] not in select.select([self.sock, self.end[0]], [], [])[0]:
            fds = array.array("i")
            data, control, _, _ = self.sock.recvmsg(8192, socket.CMSG_LEN(64))
            for level, kind, payload in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(payload[:len(payload) - len(payload) % fds.itemsize])
            lines = dict(line.split("=", 1) for line in data.decode().splitlines())
            with self.mu:
                if "FDSTORE" in lines:
                    self.store += [(lines["FDNAME"], fd) for fd in fds]
                elif "FDSTOREREMOVE" in lines:
                    for kept_fd in [k for k in self.store if k[0] == lines["FDNAME"]]:
                        os.close(kept_fd[1])
                        self.store.remove(kept_fd)
                self.said.append((time.time(), lines))

    def flags(self):
        return ["--config", self.conf] if os.path.exists(self.conf) else []

    def start_service(self, before=None):
        """With what is stored, as descriptors 3 and up. before: called in the process before its exec."""
        with self.mu:
            names, fds = [k[0] for k in self.store], [os.dup(k[1]) for k in self.store]
            self.said.clear()

        def place():
            high = [os.dup2(fd, 200 + i, inheritable=False) for i, fd in enumerate(fds)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i, inheritable=True)
            if before:
                before()
        env = {**os.environ, "NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": str(WATCHDOG_S * 1000000)}
        if names:
            env.update(LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
        script = 'export WATCHDOG_PID=$$; [ -z "$LISTEN_FDS" ] || export LISTEN_PID=$$; exec "$@"'
        log = open(os.path.join(self.mount.base, "fazt.log"), "ab")
        self.mount.proc = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", self.exe, "mount", "--foreground", *self.flags(), "--recipient", self.mount.recipient, "--target",
             "dir:" + self.mount.store, self.mount.dir], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
            start_new_session=True, close_fds=False, preexec_fn=place)
        log.close()
        for fd in fds:
            os.close(fd)

    def heard(self, key, value=None, since=0.0):
        with self.mu:
            return [t for t, m in self.said if t > since and key in m and (value is None or value in m[key])]

    def ready(self):
        def test():
            if self.mount.proc.poll() is not None:
                raise Failure("fazt ended with %d:\n%s" % (self.mount.proc.returncode, self.mount.tail()))
            return self.heard("READY")
        wait_for("READY=1", test)

    def close(self):
        os.write(self.end[1], b"x")
        self.join()
        for fd in [*self.end, *[k[1] for k in self.store]]:
            os.close(fd)
        self.sock.close()


def worker_of(mount):
    return mount.status()["worker_pid"]


def locked(mount):
    """The lock that another process took before still keeps others out."""
    con = sqlite3.connect(os.path.join(mount.dir, "locked.db"), timeout=0, isolation_level=None)
    try:
        con.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as e:
        return "locked" in str(e)
    finally:
        con.close()
    return False


HOLD = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode=WAL")
c.execute("CREATE TABLE t(x)")
c.execute("BEGIN IMMEDIATE")
c.execute("INSERT INTO t VALUES (1)")
print("held", flush=True)
sys.stdin.read()
c.execute("COMMIT")
c.close()
"""


def no_fork():
    """From here on this process cannot have children: EAGAIN, as where there are too many."""
    clone, fork, clone3 = (220, 1079, 435) if os.uname().machine == "aarch64" else (56, 57, 435)
    code = [(0x20, 0, 0, 0)] + [(0x15, 3 - i, 0, nr) for i, nr in enumerate((clone, fork, clone3))]
    code += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050000 | errno.EAGAIN)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))

    class Prog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    prog = Prog(len(code), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(prog), 0, 0):  # NO_NEW_PRIVS, SECCOMP
        os._exit(99)


def kill_supervisor(mount, worker=None):
    """-9, as the kernel does when memory is short; with its worker at once."""
    others = children(mount.proc.pid)
    os.kill(mount.proc.pid, signal.SIGKILL)
    if worker:
        os.kill(worker, signal.SIGKILL)
    mount.proc.wait()
    return others


def scenario(mount, m, writers):
    m.ready()
    wait_for("the descriptors", lambda: {k[0] for k in m.store} >= {"fuse", "root", "state", "shared"})
    need(is_mounted(mount.dir) and fazt("status", mount.dir).returncode == 0, "READY, and the mount does not serve")
    writers += [Writer(mount, "wal.db", "journal_mode=WAL"), Writer(mount, "del.db", "journal_mode=DELETE")]
    holder = subprocess.Popen([sys.executable, "-c", HOLD, os.path.join(mount.dir, "locked.db")], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, universal_newlines=True)
    need(holder.stdout.readline() == "held\n", "the holder of a lock did not start")
    wait_for("a status with positions", lambda: m.heard("STATUS", "wal.db at ") and m.heard("STATUS", "behind"))
    wait_for("the watchdog to be fed", lambda: m.heard("WATCHDOG"))

    # the supervisor alone dies: its worker hands over to the next supervisor's
    old = worker_of(mount)
    others = kill_supervisor(mount)
    [w.more() for w in writers]
    need(alive(old), "the worker did not outlive its supervisor")
    m.start_service()
    m.ready()
    need(worker_of(mount) != old and not alive(old), "the former worker still serves")
    wait_for("the end of the former agent", lambda: not any(alive(p) for p in others))
    need(locked(mount), "a lock was lost with the supervisor")
    [w.more() for w in writers]

    # both die
    kill_supervisor(mount, worker_of(mount))
    m.start_service()
    m.ready()
    need(locked(mount), "a lock was lost with supervisor and worker")
    [w.more() for w in writers]

    # as well, and the next supervisor cannot start a worker: it tries on, and does not end the mount
    old = worker_of(mount)
    kill_supervisor(mount, old)
    wait_for("the end of the worker", lambda: not alive(old))
    n = mount.tail(10000).count("cannot start a worker")
    m.start_service(no_fork)
    wait_for("a supervisor that cannot fork", lambda: mount.proc.poll() is not None or mount.tail(10000).count("cannot start a worker") > n + 1)
    need(mount.proc.poll() is None and is_mounted(mount.dir), "the mount ended with a fork that failed:\n%s", mount.tail())
    kill_supervisor(mount)
    m.start_service()
    m.ready()
    [w.more() for w in writers]

    # somebody holds the locks of the state directory for a moment
    kill_supervisor(mount)
    locks = [open("/proc/%d/fd/12/%s" % (worker_of(mount), name)) for name in ("lock", "conf.lock")]
    for f in locks:
        fcntl.flock(f, fcntl.LOCK_EX)
    m.start_service()
    for f in locks:
        time.sleep(0.2)
        f.close()
    m.ready()
    need(locked(mount), "a lock was lost")
    [w.more() for w in writers]

    # the configuration is wrong by now: what serves goes on with what it has
    with open(m.conf, "w") as f:
        f.write("[mount]\nno such key = 1\n")
    kill_supervisor(mount)
    m.start_service()
    m.ready()
    os.unlink(m.conf)
    [w.more() for w in writers]

    # a worker that is stopped: reported dead, and replaced
    since, old = time.time(), worker_of(mount)
    wait_for("the watchdog to be fed", lambda: m.heard("WATCHDOG", since=since))
    os.kill(old, signal.SIGSTOP)
    stopped = time.time()
    wait_for("the end of the stopped worker", lambda: not alive(old))
    noticed = [line for line in mount.tail(1000).splitlines() if "process %d) has not worked" % old in line]
    need(len(noticed) == 1, "the log does not tell of the stopped worker")
    noticed = datetime.datetime.strptime(noticed[0].split()[0].removeprefix("time=") + "+0000", "%Y-%m-%dT%H:%M:%S.%fZ%z").timestamp()
    fed = [t for t in m.heard("WATCHDOG", since=stopped) if t < noticed]
    need(len(fed) <= 1, "a stopped worker was called alive %d times", len(fed))  # once: what it had said before
    [w.more() for w in writers]
    since = time.time()
    wait_for("the watchdog to be fed again", lambda: m.heard("WATCHDOG", since=since))

    # an upgrade: what is installed cannot run, then it can
    supervisor, old = mount.proc.pid, worker_of(mount)
    shutil.copy(m.exe, m.exe + ".good")
    for what in (b"#!/bin/sh\nexit 3\n", b"\177ELF half a file"):
        with open(m.exe + ".bad", "wb") as f:
            f.write(what)
        os.chmod(m.exe + ".bad", 0o755)
        os.rename(m.exe + ".bad", m.exe)
        n = mount.tail(1000).count("nothing is changed")
        os.kill(supervisor, signal.SIGUSR2)
        wait_for("the refusal", lambda: mount.tail(1000).count("nothing is changed") > n)
    [w.more() for w in writers]
    need(worker_of(mount) == old, "the worker was replaced by a program that cannot run")
    os.rename(m.exe + ".good", m.exe)
    inode = os.stat(m.exe).st_ino
    os.kill(supervisor, signal.SIGUSR2)
    wait_for("another worker", lambda: worker_of(mount) != old)
    need(os.stat("/proc/%d/exe" % supervisor).st_ino == inode, "the supervisor still runs the former program")
    need(os.stat("/proc/%d/exe" % worker_of(mount)).st_ino == inode, "the worker still runs the former program")
    need(mount.proc.poll() is None and mount.status()["supervisor_pid"] == supervisor, "the supervisor is another process")
    need(locked(mount), "a lock was lost in the upgrade")
    [w.more() for w in writers]

    # its descriptors are good for one more life; then the end, in order
    kill_supervisor(mount)
    m.start_service()
    m.ready()
    [w.more() for w in writers]
    holder.stdin.close()
    need(holder.wait(60) == 0, "the holder of the lock failed")
    holder.stdout.close()
    for w in writers:
        w.stop.set()
        w.join()
        need(not w.error, "the application saw: %s", w.error)
        w.app.close()
        kept(mount, w.app.name, w.app.states)
    sound(mount, "wal.db", "del.db", "locked.db")
    mount.proc.terminate()
    need(mount.proc.wait(60) == 0, "the service ended with %d", mount.proc.returncode)
    need(m.heard("STOPPING"), "the end was not announced")
    need(not is_mounted(mount.dir), "still mounted")
    # what is kept of an ended mount is of no use, and harms nobody
    m.start_service()
    m.ready()
    mount.proc.terminate()
    need(mount.proc.wait(60) == 0 and not is_mounted(mount.dir), "the service did not end")


def unit():
    """What the scenario counts on, and systemd would do otherwise; tests/system/service.py asks systemd itself."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts/systemd/fazt@.service")) as f:
        lines = f.read().splitlines()
    for line, why in (("KillMode=process", "the worker ends with the supervisor"), ("Restart=on-failure", "no supervisor comes back"),
                      ("OOMPolicy=continue", "a worker that is killed for want of memory ends the whole unit"),
                      ("Environment=HOME=/root", "~/.aws is not found: a service of root has no HOME")):
        need(line in lines, "fazt@.service without %s: %s", line, why)


def run(base):
    unit()
    exe = os.path.join(base, "fazt")
    shutil.copy(FAZT, exe)
    writers = []
    with Mount(base) as mount:
        m = Manager(mount, exe)
        try:
            scenario(mount, m, writers)
        finally:
            for w in writers:
                w.stop.set()
            if mount.proc.poll() is None:
                with contextlib.suppress(OSError):
                    mount.proc.send_signal(signal.SIGCONT)
            m.close()  # with what it keeps a mount dies, and nobody waits for an answer
            for w in writers:
                w.join(20)
                w.app.close()


main("service", run)
