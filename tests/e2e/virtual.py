#!/usr/bin/python3
# timeout: 120
"""The files that the mount shows below .fazt/: any program of any user lists, reads and polls them, none can change them;
the kernel shows what is there now; and whoever waits in poll is woken by a change, and when the worker is replaced or dies."""
import errno
import os
import select
import signal
import stat
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import main, need, wait_for  # noqa: E402
from replica import NOBODY, Replica, let_others_in, refused  # noqa: E402

POSITION, LAG, PRIMARY = range(3)
BOTH = select.POLLIN | select.POLLPRI

# Waits for changes of a file for ever, and prints each text it reads.
WAITER = """
import os, select, sys
os.chdir(os.path.dirname(sys.argv[1]))
if sys.argv[2] == "nobody":
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
fd = os.open(os.path.basename(sys.argv[1]), os.O_RDONLY)
p = select.epoll() if sys.argv[3] == "epoll" else select.poll()
p.register(fd, select.POLLPRI)
while True:
    print(os.pread(fd, 400, 0).decode().strip(), flush=True)
    p.poll()
"""


def text(path):
    with open(path) as f:
        return f.read()


def changed(fd, ms=0):
    p = select.poll()
    p.register(fd, BOTH)
    got = p.poll(ms)
    need(not got or got[0][1] == BOTH, "poll says %s", got)
    return bool(got)


def reading(r):
    d = r.path(".fazt")
    need(os.listdir(d) == [], "%s", os.listdir(d))
    need(".fazt" not in os.listdir(r.dir), "the root lists .fazt")
    r.ok("worker", "set app.db %d 1/0000000000000007/00000000000000ff\n" % POSITION)
    r.ok("worker", "set sub/x.db %d 12\n" % LAG)
    need(sorted(os.listdir(d)) == ["app.db", "sub"], "%s", os.listdir(d))
    need(os.listdir(d + "/sub") == ["x.db"], "sub: %s", os.listdir(d + "/sub"))
    need(sorted(os.listdir(d + "/sub/x.db")) == ["lag", "position", "primary"], "%s", os.listdir(d + "/sub/x.db"))
    need(text(d + "/app.db/position") == "1/0000000000000007/00000000000000ff\n", "position")
    need(text(d + "/sub/x.db/lag") == "12\n" and text(d + "/sub/x.db/primary") == "", "lag and primary")
    r.ok("worker", "set sub/x.db %d 13\n" % LAG)
    need(text(d + "/sub/x.db/lag") == "13\n", "what it was is cached")
    for i in range(200):  # a directory larger than one reply of the kernel's
        r.ok("worker", "set many/%s%03d.db %d x\n" % ("n" * 100, i, LAG))
        if i in (0, 10):
            need(len(os.listdir(d + "/many")) == i + 1, "many: %d", len(os.listdir(d + "/many")))
    need(sorted(os.listdir(d + "/many")) == ["%s%03d.db" % ("n" * 100, i) for i in range(200)], "many")
    for i in range(200):
        r.ok("worker", "remove many/%s%03d.db" % ("n" * 100, i))
    need(sorted(os.listdir(d)) == ["app.db", "sub"] and not os.path.exists(d + "/many"), "%s", os.listdir(d))
    st = os.stat(d + "/app.db/position")
    need(stat.S_ISREG(st.st_mode) and st.st_mode & 0o777 == 0o444 and st.st_size == 36 and st.st_uid == 0, "stat: %s", st)
    p = subprocess.run(["find", ".fazt", "-type", "f", "-exec", "cat", "{}", "+"], cwd=r.dir, user=NOBODY, group=NOBODY,
                       extra_groups=[], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    need(p.returncode == 0 and "13\n" in p.stdout and "1/00" in p.stdout, "as another user: %s", p)
    # a file that is read in pieces is one text
    with open(d + "/app.db/position", buffering=1) as f:
        first = f.read(5)
        r.ok("worker", "set app.db %d 2/0000000000000008/00000000000000ee\n" % POSITION)
        need(first + f.read() == "1/0000000000000007/00000000000000ff\n", "pieces of two texts")
        f.seek(0)
        need(f.read().startswith("2/"), "the text of a read from the start")
        need(os.fstat(f.fileno()).st_size == 36, "size")
        r.ok("worker", "set app.db %d 2/8/e\n" % POSITION)
        need(os.fstat(f.fileno()).st_size == 6, "the size it had is cached")


def refusing(r):
    d, p = r.path(".fazt"), r.path(".fazt/app.db/position")
    with open(r.path("own"), "w") as f:
        f.write("own")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        refused("open with %o" % flags, os.open, p, flags)
    refused("create", os.open, d + "/new", os.O_WRONLY | os.O_CREAT)
    refused("mkdir", os.mkdir, d + "/new")
    refused("mkdir .fazt", os.mkdir, d, code=errno.EEXIST)
    refused("symlink", os.symlink, "x", d + "/app.db/new")
    refused("mknod", os.mknod, d + "/app.db/new")
    refused("link", os.link, r.path("own"), d + "/new")
    refused("unlink", os.unlink, p)
    refused("rmdir", os.rmdir, d + "/app.db")
    refused("rmdir .fazt", os.rmdir, d)
    refused("rename", os.rename, p, d + "/app.db/new")
    refused("rename out", os.rename, d + "/app.db", r.path("out"))
    refused("rename in", os.rename, r.path("own"), d + "/own")
    refused("rename .fazt", os.rename, d, r.path("out"))
    refused("chmod", os.chmod, p, 0o777)
    refused("chown", os.chown, d, 1, 1)
    refused("truncate", os.truncate, p, 0)
    refused("utime", os.utime, p)
    need(text(p).startswith("2/"), "it was changed")


def polling(r):
    with open(r.path("own")) as f:  # an ordinary file is always ready, and that does not end polls for good
        p = select.poll()
        p.register(f, select.POLLIN | select.POLLOUT)
        need(p.poll(0) == [(f.fileno(), select.POLLIN | select.POLLOUT)], "an ordinary file")
    fd = os.open(r.path(".fazt/app.db/position"), os.O_RDONLY)
    lag = os.open(r.path(".fazt/app.db/lag"), os.O_RDONLY)
    need(changed(fd), "what was never read is new")
    os.pread(fd, 400, 0)
    os.pread(lag, 400, 0)
    need(not changed(fd) and not changed(fd, 50), "nothing has changed")
    r.ok("worker", "set app.db %d 3\n" % POSITION)
    need(changed(fd) and changed(fd, 1000) and not changed(lag), "it has changed")
    need(os.pread(fd, 400, 0) == b"3\n" and not changed(fd), "it was read")
    r.ok("worker", "set app.db %d 3\n" % POSITION)
    need(not changed(fd), "the same text")
    os.close(fd)
    os.close(lag)


class Waiter:
    def __init__(self, r, name, user, how):
        self.out = os.path.join(r.base, "waiter-%s-%s" % (user, how))
        with open(self.out, "wb") as f:
            self.p = subprocess.Popen([sys.executable, "-c", WAITER, r.path(".fazt", name), user, how], stdout=f, stderr=f)

    def lines(self):
        need(self.p.poll() is None, "a waiter ended: %s", text(self.out))
        return text(self.out).split("\n")[:-1]

    def sees(self, want, count):
        wait_for("a waiter to see %s" % want, lambda: self.lines()[-1:] == [want] and len(self.lines()) >= count)


def waiting(r):
    """Processes that wait for ever, with poll and epoll, as root and as another user: woken by each change, and by a new worker."""
    r.write("virtual", "app.db %d 10\n" % POSITION)
    r.ok("worker", "set app.db %d 9\n" % POSITION)
    ws = [Waiter(r, "app.db/position", u, h) for u in ("root", "nobody") for h in ("poll", "epoll")]
    fd = os.open(r.path(".fazt/app.db/position"), os.O_RDONLY)
    gone = os.open(r.path(".fazt/sub/x.db/lag"), os.O_RDONLY)
    try:
        for w in ws:
            w.sees("9", 1)
        n = 1
        for end in (lambda: r.restart(), lambda: os.kill(r.children()["worker"], signal.SIGKILL), lambda: r.restart()):
            old = r.children()["worker"]
            end()
            wait_for("a new worker", lambda: r.children().get("worker", old) != old)
            n += 1  # nothing says that they wait again but what they print
            for w in ws:
                w.sees("10", n)
            need(os.pread(fd, 400, 0) == b"10\n", "a handle of a former worker")
            # what the new worker does not know: stale for who has it open, not there for who looks
            refused("a database that is gone", os.pread, gone, 10, 0, code=errno.ESTALE)
            need(not os.path.exists(r.path(".fazt/sub")) and os.listdir(r.path(".fazt")) == ["app.db"], "sub is still there")
            r.ok("worker", "set sub/x.db %d 5\n" % LAG)
            need(os.pread(gone, 10, 0) == b"5\n" and text(r.path(".fazt/sub/x.db/lag")) == "5\n", "it is back")
            r.ok("worker", "set app.db %d 11\n" % POSITION)
            n += 1
            for w in ws:
                w.sees("11", n)
        alone = int(r.ask("worker", "often sub/x.db"))
        with_waiters = int(r.ask("worker", "often app.db"))
        print("     texts set in a second: %d; %d with 4 processes waiting" % (alone, with_waiters))
        final = text(r.path(".fazt/app.db/position")).strip()
        for w in ws:
            w.sees(final, 1)
    finally:
        os.close(fd)
        os.close(gone)
        for w in ws:
            w.p.kill()
            w.p.wait()


def scenario(base):
    let_others_in(base)
    for flags in ((), ("no-passthrough", "no-resend")):
        here = os.path.join(base, "-".join(flags) or "passthrough")
        os.mkdir(here)
        with Replica(here, *flags) as r:
            for part in (reading, refusing, polling, waiting):
                part(r)


if __name__ == "__main__":
    main("virtual", scenario)
