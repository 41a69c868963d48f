"""A mount in the role of a replica with a stand-in for the agent, as tests/unit/test_fs_replica.c serves it."""
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time

from faztlib import BUILD, Failure, is_mounted, need, wait_for

SERVE = os.path.join(BUILD, "unit", "test_fs_replica")
NOBODY = 65534


def let_others_in(base):
    """Another user gets to the mount; what lies between belongs to the test."""
    for d in (base, os.path.dirname(base)):
        if os.stat(d).st_uid == os.getuid() and os.path.basename(d).startswith("fazt-"):
            os.chmod(d, 0o711)


def refused(what, fn, *args, code=errno.EROFS):
    try:
        fn(*args)
    except OSError as e:
        need(e.errno == code, "%s: %s", what, e)
        return
    raise Failure("%s: it was done" % what)


class Replica:
    def __init__(self, base, *flags):
        self.base, self.flags = base, flags
        self.dir, self.state, self.side = (os.path.join(base, n) for n in ("app", "state", "side"))
        for d in (self.dir, self.state, self.side):
            os.makedirs(d, exist_ok=True)
        os.chmod(self.state, 0o700)
        self.write("role", "replica\n")
        self.write("protected", "")
        self.proc = None

    def path(self, *p):
        return os.path.join(self.dir, *p)

    def write(self, name, text):
        with open(os.path.join(self.state, name), "w") as f:
            f.write(text)

    def ask(self, who, cmd, wait=20.0):
        """The answer of worker or agent; waits until one listens."""
        end = time.monotonic() + wait
        while True:
            fd = os.open(self.state, os.O_RDONLY)
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect("/proc/self/fd/%d/%s.sock" % (fd, who))
                    s.sendall(cmd.encode())
                    s.shutdown(socket.SHUT_WR)
                    out = b""
                    while True:
                        part = s.recv(65536)
                        if not part:
                            break
                        out += part
                if out:
                    return out.decode()
            except (ConnectionError, FileNotFoundError):
                pass
            finally:
                os.close(fd)
            if self.proc.poll() is not None or time.monotonic() > end:
                raise Failure("%s does not answer %r:\n%s" % (who, cmd, self.tail()))
            time.sleep(0.005)

    def ok(self, who, cmd):
        a = self.ask(who, cmd)
        need(a == "ok", "%s: %s: %s", who, cmd, a)

    def sql(self, name, text):
        self.ok("agent", "sql %s\n%s" % (name, text))

    def protect(self, *names):
        for n in names:
            self.ok("worker", "protect " + n)
        self.write("protected", "".join(n + "\n" for n in names))

    def children(self):
        out = {}
        # one that was forked just now is called as its parent
        with open("/proc/%d/task/%d/children" % (self.proc.pid, self.proc.pid)) as f:
            for p in f.read().split():
                with contextlib.suppress(OSError, IndexError), open("/proc/%s/cmdline" % p) as c:
                    what = c.read().split("\0")[1]
                    if what != "mount":
                        out[what] = int(p)
        return out

    def restart(self, role=None):
        """Until worker and agent are new ones."""
        old = self.children()
        if role:
            self.write("role", role + "\n")
        self.ok("worker", "restart")

        def replaced():
            now = self.children()
            return all(now.get(k, v) != v for k, v in old.items())
        wait_for("new processes", replaced)
        self.ask("worker", "status")

    def tail(self):
        with open(os.path.join(self.base, "log"), errors="replace") as f:
            return "".join(f.readlines()[-30:])

    def __enter__(self):
        subprocess.run(["mount", "--bind", self.dir, self.side], check=True)
        subprocess.run(["mount", "--make-private", self.side], check=True)  # where / is shared the mount would appear there too
        self.log = open(os.path.join(self.base, "log"), "ab")
        self.proc = subprocess.Popen([SERVE, "mount", self.dir, self.state, *self.flags], stdin=subprocess.DEVNULL,
                                     stdout=self.log, stderr=self.log, start_new_session=True)
        self.ok("agent", "hello")
        return self

    def __exit__(self, *exc):
        subprocess.run(["umount", self.side])
        self.proc.send_signal(signal.SIGTERM)
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:
            for p in self.children().values():
                os.kill(p, signal.SIGKILL)
            self.proc.kill()
            self.proc.wait()
        if exc[0]:
            print(self.tail(), file=sys.stderr)
        self.log.close()
        need(exc[0] or self.proc.returncode == 0, "the supervisor ended with %s:\n%s", self.proc.returncode, self.tail())
        need(exc[0] or not is_mounted(self.dir), "still mounted")
