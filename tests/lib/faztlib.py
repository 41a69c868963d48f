"""What the scenarios of tests/e2e share: a scratch directory, a mount, the fazt program, and cleaning up behind them."""
import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("B", os.path.join(ROOT, "build"))
FAZT = os.path.join(BUILD, "fazt")


class Failure(Exception):
    """A scenario's finding: the promise that was broken."""


def need(condition, text, *args):
    if not condition:
        raise Failure(text % args if args else text)


def fazt(*args, check=True, timeout=120, **kw):
    """Runs fazt; returns the CompletedProcess. check: exit code 0 is required."""
    r = subprocess.run([FAZT, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=timeout, stdin=subprocess.DEVNULL, **kw)
    if check and r.returncode != 0:
        raise Failure("fazt %s: exit %d\n%s%s" % (" ".join(map(str, args)), r.returncode, r.stdout, r.stderr))
    return r


def fazt_json(*args, **kw):
    return json.loads(fazt(*args, **kw).stdout)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, test, seconds=30.0):
    """Polls test() until it is true; a scenario that waits for ever fails with what it waited for."""
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            raise Failure("waited %.0f s for %s" % (seconds, what))
        time.sleep(0.01)


def copy_store(store, to):
    """A store that may be written at the time: what is being put has a name of its own until it is whole."""
    shutil.copytree(store, to, ignore=shutil.ignore_patterns(".fz-tmp.*"))


def children(pid):
    out = []
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                with open("/proc/%s/stat" % p) as f:
                    if int(f.read().rsplit(")", 1)[1].split()[1]) == pid:
                        out.append(int(p))
            except OSError:
                pass
    return out


def mounts():
    """Where something is mounted, without the escapes of the table."""
    with open("/proc/self/mounts", errors="surrogateescape") as f:
        return [re.sub(r"\\([0-3][0-7]{2})", lambda m: chr(int(m[1], 8)), l.split()[1]) for l in f]


def is_mounted(path):
    return path in mounts()


def evict(path):
    """Makes the kernel forget all names and inodes of this mount that nobody uses, as it does when memory is short: remounting
    with the same flags drops them."""
    flags = os.statvfs(path).f_flag
    same = flags & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    same |= 1 << 21 if flags & os.ST_RELATIME else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, os.fsencode(path), None, ctypes.c_ulong(32 | same), None):  # MS_REMOUNT
        raise OSError(ctypes.get_errno(), "remount", path)


@contextlib.contextmanager
def scratch(name):
    """A directory that is removed at the end, with every mount below it, also on failure."""
    base = os.environ.get("TEST_SCRATCH") or None
    path = tempfile.mkdtemp(prefix="fazt-%s-" % name, dir=base)
    try:
        yield path
    finally:
        for m in sorted((m for m in mounts() if m.startswith(path)), reverse=True):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it may be what was not built, or does not work
                subprocess.run([FAZT, "umount", m], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
            if is_mounted(m):
                subprocess.run(["umount", "-l", m])
        if os.environ.get("TEST_KEEP"):
            print("kept:", path)
        else:
            shutil.rmtree(path, ignore_errors=True)


class Mount:
    """fazt over one directory, run in the foreground by this process so that its end is seen."""
    exe = FAZT

    def __init__(self, base, *flags, name="app", store="store", key=None, targets=None):
        self.base, self.flags = base, list(flags)
        self.dir = os.path.join(base, name)
        self.store = os.path.join(base, store)
        self.key = key or os.path.join(base, "key")
        self.targets = targets
        self.proc = None
        os.makedirs(self.dir, exist_ok=True)
        if not os.path.exists(self.key):
            fazt("keygen", "-o", self.key)
        with open(self.key) as f:
            self.recipient = [w for l in f for w in l.split() if w.startswith("age1")][0]

    def start(self, env=None, check=True):
        targets = self.targets if self.targets is not None else ["dir:" + self.store]
        cmd = [self.exe, "mount", "--foreground", "--recipient", self.recipient, *self.flags]
        for t in targets:
            cmd += ["--target", t]
        self.logfile = open(os.path.join(self.base, "fazt.log"), "ab")
        self.proc = subprocess.Popen([*cmd, self.dir], stdout=self.logfile, stderr=self.logfile, stdin=subprocess.DEVNULL,
                                     env={**os.environ, **(env or {})}, start_new_session=True)
        if not check:
            return self

        def ready():
            if self.proc.poll() is not None:
                raise Failure("fazt mount ended with %d:\n%s" % (self.proc.returncode, self.tail()))
            return is_mounted(self.dir) and fazt("status", "--json", self.dir, check=False).returncode in (0, 1)
        wait_for("the mount of %s" % self.dir, ready)
        return self

    def tail(self, lines=40):
        with open(os.path.join(self.base, "fazt.log"), errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def status(self):
        r = fazt("status", "--json", self.dir, check=False)
        need(r.returncode in (0, 1), "fazt status: exit %d: %s%s", r.returncode, r.stdout, r.stderr)
        return json.loads(r.stdout)

    def database(self, name):
        for d in self.status()["databases"]:
            if d["name"] == name:
                return d
        raise Failure("status does not know %s" % name)

    def kill_worker(self):
        pid = self.status()["worker_pid"]
        os.kill(pid, signal.SIGKILL)
        return pid

    def sync(self, timeout=60):
        fazt("sync", "--wait", "--timeout", timeout, self.dir, timeout=timeout + 30)

    def umount(self, wait=False):
        fazt("umount", *(["--wait"] if wait else []), self.dir)
        wait_for("the end of fazt mount", lambda: self.proc.poll() is not None)
        need(self.proc.returncode == 0, "fazt mount ended with %d:\n%s", self.proc.returncode, self.tail())
        need(not is_mounted(self.dir), "%s is still mounted", self.dir)

    def kill_all(self, unused=False):
        """SIGKILL to supervisor, worker and agent: the machine's end, as far as fazt is concerned. Their mount goes too, at the latest
        a moment after they do; unless an application has something open there (then unused must not be said)."""
        def stopped():
            with open("/proc/%d/stat" % self.proc.pid) as f:
                return f.read().rsplit(")", 1)[1].split()[0] in "TZ"
        os.kill(self.proc.pid, signal.SIGSTOP)  # so that it starts nothing that is not in the list
        wait_for("the supervisor to stop", stopped)
        pids = children(self.proc.pid)
        os.kill(self.proc.pid, signal.SIGKILL)
        for p in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(p, signal.SIGKILL)
        self.proc.wait()
        wait_for("the death of worker and agent", lambda: not any(alive(p) for p in pids))
        end = time.monotonic() + 2

        def gone():
            subprocess.run(["umount", self.dir], stderr=subprocess.DEVNULL)
            return not is_mounted(self.dir) or (not unused and time.monotonic() > end)
        wait_for("the mount of the dead to go", gone)

    def cleanup(self):
        if self.proc and self.proc.poll() is None:
            fazt("umount", self.dir, check=False)
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.kill_all()
        if is_mounted(self.dir):
            subprocess.run(["umount", "-l", self.dir])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.cleanup()
        if exc[0]:
            print(self.tail(), file=sys.stderr)

    def source(self, name):
        return "dir:%s/%s" % (self.store, name)

    def restore(self, name, out, *args, source=None, check=True):
        return fazt("restore", source or self.source(name), "-i", self.key, *args, "-o", out, "--json", "--force",
                    check=check)

    def log(self, name, source=None):
        """Restorable commits of the store, oldest first."""
        return fazt_json("log", "--json", "-i", self.key, source or self.source(name), timeout=300)


def clear_free(data):
    """Zeros in the free pages of a database's bytes, as far as they are leaves of the list of free pages."""
    size = int.from_bytes(data[16:18], "big")
    size = 65536 if size == 1 else size
    trunk = int.from_bytes(data[32:36], "big")
    while trunk:
        at = (trunk - 1) * size
        for k in range(int.from_bytes(data[at + 4:at + 8], "big")):
            leaf = int.from_bytes(data[at + 8 + 4 * k:at + 12 + 4 * k], "big")
            data[(leaf - 1) * size:leaf * size] = bytes(size)
        trunk = int.from_bytes(data[at:at + 4], "big")


def image_hash(image, skip_free=False):
    """Hash of a database's bytes, with those that say WAL or rollback (18, 19) left out; with skip_free also the content of
    free pages, which a rollback need not bring back (it is not journalled)."""
    data = bytearray(image)
    if len(data) >= 100:
        data[18:20] = b"\0\0"
        if skip_free:
            clear_free(data)
    return hashlib.sha256(data).hexdigest()


def file_hash(path):
    """Hash of a database file's pages."""
    with open(path, "rb") as f:
        return image_hash(f.read())


def serialize_hash(path, skip_free=False, state=None):
    """The same for what a fresh connection sees of a live database, as SQLite itself serializes it; "-" when that is not this
    (n, nonce) of meta."""
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=30)
    try:
        con.execute("BEGIN")
        con.execute("SELECT count(*) FROM sqlite_master").fetchall()
        if state and con.execute("SELECT n, nonce FROM meta").fetchone() != state:
            return "-"
        return image_hash(con.serialize(), skip_free)
    finally:
        con.close()


def integrity(path):
    con = sqlite3.connect(path)
    try:
        return con.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as e:
        return str(e)
    finally:
        con.close()


def main(name, run):
    """Runs a scenario in a scratch directory: exit code 0 or 1, and why. What a thread of it does not catch is a failure too."""
    uncaught = []

    def in_thread(args):
        uncaught.append(args.exc_value)
        threading.__excepthook__(args)
    threading.excepthook = in_thread
    try:
        with scratch(name) as base:
            run(base)
        need(not uncaught, "a thread of this test: %r", uncaught)
    except Failure as e:
        print("FAIL %s: %s" % (name, e))
        sys.exit(1)
    print("ok   %s" % name)
