#!/usr/bin/python3
"""`fazt run`: the mount serves before the command starts and is gone when it has ended; its exit code, its signals, its output and
its working directory are the command's own; what it committed is in the target; without a mount it never runs; as a container's
first process it takes care of orphans and ends what the command left behind.
# timeout: 120
"""
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import FAZT, alive, children, fazt, is_mounted, main, need, wait_for  # noqa: E402

APP = """
import os, signal, sqlite3, sys
con = sqlite3.connect("app.db", isolation_level=None)
con.execute("PRAGMA journal_mode=WAL")
con.execute("CREATE TABLE IF NOT EXISTS t(x)")
con.execute("INSERT INTO t VALUES (?)", (sys.argv[1],))
mounts = [l.split()[1] for l in open("/proc/self/mounts") if "fuse.fazt" in l]
print("mounted" if os.getcwd() in mounts else "bare", flush=True)
"""
CATCH = APP + """
signal.signal(signal.SIGTERM, lambda *a: os._exit(7))
signal.signal(signal.SIGUSR1, lambda *a: print("usr1", flush=True))
print("ready", flush=True)
while True:
    signal.pause()
"""


class Run:
    def __init__(self, base, dir="app", wrap=()):
        self.base, self.dir, self.wrap = base, os.path.join(base, dir), list(wrap)
        self.store = os.path.join(base, "store")
        os.makedirs(self.dir, exist_ok=True)

    def args(self, *command, more=()):
        return [*self.wrap, FAZT, "run", "--encrypt", "none", "--target", "dir:" + self.store, *more, self.dir, "--", *command]

    def start(self, *command, more=(), **kw):
        self.log = open(os.path.join(self.base, "log"), "w+")
        kw.setdefault("cwd", self.dir)
        return subprocess.Popen(self.args(*command, more=more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
                                text=True, **kw)

    def end(self, p, code, out=None):
        text = p.stdout.read()
        got = p.wait(60)
        p.stdout.close()
        self.log.seek(0)
        self.said = self.log.read()
        self.log.close()
        need(got == code, "exit %d instead of %d:\n%s", got, code, self.said)
        need(out is None or text == out, "stdout is %r instead of %r", text, out)
        need(not is_mounted(self.dir), "%s is still mounted", self.dir)
        return text

    def rows(self, path=None):
        con = sqlite3.connect(path or os.path.join(self.dir, "app.db"))
        try:
            return [r[0] for r in con.execute("SELECT x FROM t")]
        finally:
            con.close()


def python(code, *args):
    return ["/usr/bin/python3", "-c", code, *args]


def ends_as_the_command_does(base):
    r = Run(base)
    # the working directory lies in DIR, as a container's WORKDIR does; the output is the command's alone
    r.end(r.start(*python(APP + "sys.exit(42)", "one")), 42, "mounted\n")
    r.end(r.start(*python(APP + "os.kill(os.getpid(), 9)", "two")), 128 + 9)
    r.end(r.start(*python(APP, "three"), more=["--foreground"]), 0)
    r.end(r.start("./no-such-command"), 127)
    need("cannot start ./no-such-command" in r.said, "why not: %s", r.said)
    r.end(r.start(r.dir), 126)
    env = {**os.environ, "FAZT_DIR": r.dir}
    p = subprocess.run([FAZT, "run", "--encrypt", "none", "--target", "dir:" + r.store, "--", *python(APP, "four")], env=env,
                       cwd=r.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    need(p.returncode == 0 and p.stdout == "mounted\n" and "FAZT_DIR" not in p.stderr, "FAZT_DIR: %s %s", p.stdout, p.stderr)
    want = ["one", "two", "three", "four"]
    need(r.rows() == want, "rows %s", r.rows())
    out = os.path.join(base, "restored.db")
    fazt("restore", "dir:%s/app.db" % r.store, "-o", out)
    need(r.rows(out) == want, "the target holds %s", r.rows(out))


def forwards_signals(base):
    r = Run(base)
    p = r.start(*python(CATCH, "five"))
    need([p.stdout.readline() for _ in range(2)] == ["mounted\n", "ready\n"], "the command does not run")
    p.send_signal(signal.SIGUSR1)
    need(p.stdout.readline() == "usr1\n", "SIGUSR1 did not arrive")
    p.send_signal(signal.SIGTERM)
    r.end(p, 7)
    p = r.start("sleep", "100")
    wait_for("sleep", lambda: any(open("/proc/%d/comm" % c).read() == "sleep\n" for c in children(p.pid)))
    p.send_signal(signal.SIGINT)
    r.end(p, 128 + 2)


def never_without_the_mount(base):
    r = Run(base)
    mark = os.path.join(base, "ran")
    for args, code in ((["--target", "ftp://x", r.dir, "--", "touch", mark], 2), ([r.dir, "touch", mark], 2), ([r.dir], 2), ([r.dir, "--"], 2),
                       (["--", "touch", mark], 2), ([r.dir + "/none", "--", "touch", mark], 1)):
        p = fazt("run", *args, check=False)
        need(p.returncode == code and "(FZ-" in p.stderr, "fazt run %s: exit %d, %s", args, p.returncode, p.stderr)
    with open(os.path.join(r.dir, "in-use.db"), "w"):
        p = r.start("touch", mark)
        r.end(p, 1)
        need("in-use.db" in r.said, "the error does not name the file: %s", r.said)
    os.unlink(os.path.join(r.dir, "in-use.db"))
    need(not os.path.exists(mark), "the command ran without a mount")


def as_the_first_process(base):
    """A namespace of its own, like a container: orphans come to it, and what is left behind does not keep the mount."""
    r = Run(base, "first", wrap=["unshare", "--pid", "--fork", "--mount-proc", "--propagation", "unchanged", "--kill-child"])
    orphans = APP + """
rd, wr = os.pipe()
os.set_inheritable(wr, True)
for code in ("pass", "import os, time; f = open('app.db'); os.write(%d, b'x'); time.sleep(1000)" % wr):
    if os.fork() == 0:
        if os.fork() == 0:
            os.execv("/usr/bin/python3", ["python3", "-c", code])
        os._exit(0)
    os.wait()
os.read(rd, 1)
import time
def states():
    for p in os.listdir("/proc"):
        if p.isdigit() and p != "1":
            try:
                f = open("/proc/%s/stat" % p).read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if f[1] == "1":
                yield f[0]
end = time.monotonic() + 20
while "Z" in states() and time.monotonic() < end:
    time.sleep(0.01)
print("zombies" if "Z" in states() else "reaped", flush=True)
"""
    p = r.start(*python(orphans, "six"))
    need(r.end(p, 0) == "mounted\nreaped\n", "an orphan was not reaped")
    need(r.rows() == ["six"], "rows %s", r.rows())
    fazt("restore", "dir:%s/app.db" % r.store, "-o", base + "/first.db")
    need("still mounted" not in r.said, "what was left kept the mount: %s", r.said)
    need("worker has stopped" in r.said, "no orderly end: %s", r.said)


def the_mount_ends_first(base):
    r = Run(base)
    p = r.start(*python("import signal, sys; print('ready', flush=True); signal.pause()"), cwd="/")
    need(p.stdout.readline() == "ready\n", "the command does not run")
    fazt("umount", r.dir)
    r.end(p, 1)
    need("the mount has ended" in r.said, "not said: %s", r.said)


def the_supervisor_dies(base):
    r = Run(base)
    p = r.start(*python(CATCH, "seven"))
    need([p.stdout.readline() for _ in range(2)] == ["mounted\n", "ready\n"], "the command does not run")
    pid = __import__("json").loads(fazt("status", "--json", r.dir, check=False).stdout)["supervisor_pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for("its end", lambda: not alive(pid))
    need(p.poll() is None and is_mounted(r.dir), "the command or the mount went with the supervisor")
    p.send_signal(signal.SIGTERM)
    r.end(p, 7)
    need(r.rows()[-1] == "seven", "rows %s", r.rows())


def run(base):
    for part in (ends_as_the_command_does, forwards_signals, never_without_the_mount, as_the_first_process, the_mount_ends_first,
                 the_supervisor_dies):
        print("--", part.__name__)
        part(base)


main("run", run)
