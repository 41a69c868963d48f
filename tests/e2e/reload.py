#!/usr/bin/python3
# timeout: 120
"""fazt reload: another configuration under an application that goes on writing. What was committed is captured, whatever changes; a wrong
file changes nothing; what is fixed is said; flags go on to win; with one that no worker can start with, or a reload
that is killed, the former one stays in effect."""
import ctypes
import glob
import os
import platform
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, Host, Reader, caught_up, refused as refused_write  # noqa: E402
from faztlib import FAZT, Mount, alive, fazt, fazt_json, need, scratch, wait_for  # noqa: E402


class App(threading.Thread):
    """Two connections that stay open: one row a commit; an error of SQLite ends it and is the scenario's failure."""

    def __init__(self, path):
        super().__init__()
        self.path, self.n, self.error, self.stop = path, 0, None, threading.Event()

    def run(self):
        con = sqlite3.connect(self.path, isolation_level=None, timeout=20)
        try:
            con.execute("PRAGMA journal_mode=WAL")
            con.execute("CREATE TABLE IF NOT EXISTS t(k INTEGER PRIMARY KEY, v BLOB)")
            while not self.stop.is_set():
                con.execute("INSERT INTO t(v) VALUES (randomblob(300))")
                self.n += 1
                self.stop.wait(0.002)
        except sqlite3.Error as e:
            self.error = e
        finally:
            con.close()

    def advance(self, by=20):
        want = self.n + by
        wait_for("%d more commits (%s)" % (by, self.error), lambda: self.n >= want or self.error)
        need(not self.error, "the application got: %s", self.error)

    def end(self):
        self.stop.set()
        self.join()
        need(not self.error, "the application got: %s", self.error)


def dump(path):
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True)
    try:
        return list(con.iterdump())
    finally:
        con.close()


def refused(*args, code=2, says=""):
    r = fazt(*args, check=False)
    need(r.returncode == code and says in r.stderr, "%s: %d %s", args, r.returncode, r.stderr)
    return r.stderr


def snapshot(pid):
    """What the worker runs with: read through its own descriptor of the state directory."""
    with open("/proc/%d/fd/12/mount.conf" % pid) as f:
        return f.read()


def no_usr2():
    """In a child: whoever sends SIGUSR2 is ended by seccomp(2) in that moment."""
    def op(code, k, yes=0, no=0):
        return struct.pack("=HBBI", code, yes, no, k)
    number = {"x86_64": 62, "aarch64": 129}[platform.machine()]
    filters = b"".join([op(0x20, 0), op(0x15, number, 0, 3),                  # kill(2)?
                        op(0x20, 24), op(0x15, signal.SIGUSR2, 0, 1),         # its second argument
                        op(0x06, 0x80000000), op(0x06, 0x7fff0000)])          # SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ALLOW
    room = ctypes.create_string_buffer(filters)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, struct.pack("@HP", len(filters) // 8, ctypes.addressof(room))):
        os._exit(126)


def killed_in_telling(path):
    r = subprocess.run([FAZT, "reload", path], preexec_fn=no_usr2, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    need(r.returncode == -signal.SIGSYS, "reload was not killed: %d %s", r.returncode, r.stderr)


def pending(pid, sig):
    with open("/proc/%d/status" % pid) as f:
        return any(l.startswith(("SigPnd:", "ShdPnd:")) and int(l.split()[1], 16) >> (sig - 1) & 1 for l in f)


with scratch("reload") as base:
    conf, store2 = os.path.join(base, "fazt.conf"), os.path.join(base, "store2")

    def write(text, targets=("first",)):
        with open(conf, "w") as f:
            f.write(text)
            for t in targets:
                f.write("[target %s]\nurl = dir:%s\n" % (t, store2 if t == "second" else os.path.join(base, "store")))

    with Mount(base, "--config", conf, "--log-level", "info", targets=[]) as m:
        write("[mount]\nlog_max = 100M\n")
        m.start(env={"FAZT_LOG_KEEP": "2h"})
        app, second = App(os.path.join(m.dir, "a.db")), App(os.path.join(m.dir, "b.db"))
        app.start()
        second.start()
        app.advance()
        second.advance()
        pid = m.status()["worker_pid"]

        # nothing differs: nobody is replaced
        need("nothing differs" in fazt("reload", m.dir).stdout, "a reload without a change")
        need(m.status()["worker_pid"] == pid, "the worker was replaced for nothing")

        # wrong: nothing changes, and it says where
        write("[mount]\nlog_max = 200M\nlog_keeep = 1h\n")
        refused("reload", m.dir, says="%s:3: unknown key 'log_keeep'" % conf)
        write("[mount]\nlog_max = 200M\n[encrypt]\nidentity = %s/none\n" % base)
        refused("reload", m.dir, says="cannot read the key file")
        for fixed, section in (("state = %s/s" % base, "mount"), ("private_mount = yes", "mount"), ("no_resend = yes", "mount"),
                               ("log_file = %s/l" % base, "mount")):
            write("[%s]\n%s\nlog_max = 200M\n" % (section, fixed))
            refused("reload", m.dir, says="%s cannot change" % fixed.split()[0])
        write("[mount]\nlog_max = 200M\n[target within]\nurl = dir:%s/backup\n" % m.dir)
        refused("reload", m.dir, says="lies below the mount")
        need(m.status()["worker_pid"] == pid and "log_max = 104857600" in snapshot(pid), "a refused reload changed something")

        # a dry run
        write("[mount]\nlog_max = 200M\nlog_keep = 5h\nlog_level = debug\n")
        changes = fazt_json("reload", "--dry-run", "--json", m.dir)["changes"]
        need([(c["key"], c["from"], c["to"]) for c in changes] == [("log_max", "104857600", "209715200")],
             "the environment's log_keep and the flag's log_level must win: %s", changes)
        need(m.status()["worker_pid"] == pid, "a dry run replaced the worker")

        # for real, the application writing
        r = fazt("reload", m.dir)
        need("log_max: 104857600 -> 209715200" in r.stdout, "reload says: %s", r.stdout)
        new = m.status()["worker_pid"]
        text = snapshot(new)
        need(new != pid and "log_max = 209715200" in text and "log_keep = 7200000ms" in text and "log_level = info" in text,
             "the new worker runs with:\n%s", text)
        wait_for("no trace of the reload to be left", lambda: not glob.glob("/proc/%d/fd/12/mount.conf.*" % new))
        app.advance()

        # one database out, and in again; what was committed meanwhile is captured when it is back
        write("[mount]\nlog_max = 200M\nexclude = b.db\n")
        fazt("reload", m.dir)
        app.advance()
        second.advance(100)
        write("[mount]\nlog_max = 200M\n")
        fazt("reload", m.dir)
        second.advance()

        # by SIGHUP
        pid = m.status()["worker_pid"]
        write("[mount]\nlog_max = 300M\n")
        os.kill(m.proc.pid, signal.SIGHUP)
        wait_for("SIGHUP to take effect (%s)" % m.tail(5), lambda: m.status()["worker_pid"] != pid)
        need("log_max = 314572800" in snapshot(m.status()["worker_pid"]), "SIGHUP: %s", snapshot(m.status()["worker_pid"]))

        # a reload that is killed before it has told the supervisor: the former one runs, also in the next worker, until somebody reloads again
        write("[mount]\nlog_max = 350M\n")
        killed_in_telling(m.dir)
        changes = fazt_json("reload", "--dry-run", "--json", m.dir)["changes"]
        need([(c["key"], c["from"], c["to"]) for c in changes] == [("log_max", "314572800", "367001600")], "a dry run says: %s", changes)
        need("FZD-22" in fazt("doctor", m.dir, check=False).stdout, "doctor takes what nobody runs with for what runs")
        pid = m.kill_worker()
        wait_for("the next worker", lambda: m.status()["worker_pid"] != pid)
        need("log_max = 314572800" in snapshot(m.status()["worker_pid"]), "a reload that was killed took effect:\n%s",
             snapshot(m.status()["worker_pid"]))
        need("a reload was ended before" in m.tail(1000), "the log does not tell of it:\n%s", m.tail())
        app.advance()
        killed_in_telling(m.dir)
        pid = m.status()["worker_pid"]
        r = fazt("reload", m.dir)
        need("log_max: 314572800 -> 367001600" in r.stdout, "a reload that ended too early, again: %s", r.stdout)
        need(m.status()["worker_pid"] != pid and "log_max = 367001600" in snapshot(m.status()["worker_pid"]), "nobody was replaced")
        # and when the file was changed back meanwhile, nothing is left of it
        pid = m.status()["worker_pid"]
        write("[mount]\nlog_max = 370M\n")
        killed_in_telling(m.dir)
        write("[mount]\nlog_max = 350M\n")
        need("nothing differs" in fazt("reload", m.dir).stdout, "a reload of what runs")
        need(m.status()["worker_pid"] == pid and "log_max = 367001600" in snapshot(pid) and
             not glob.glob("/proc/%d/fd/12/mount.conf.*" % pid), "the next worker would start with:\n%s", snapshot(pid))
        # killed when it has told the supervisor, which has not come to it yet
        write("[mount]\nlog_max = 370M\n")
        os.kill(m.proc.pid, signal.SIGSTOP)
        p = subprocess.Popen([FAZT, "reload", m.dir])
        wait_for("the supervisor to be told", lambda: pending(m.proc.pid, signal.SIGUSR2))
        p.kill()
        p.wait()
        os.kill(m.proc.pid, signal.SIGCONT)
        wait_for("another worker", lambda: m.status()["worker_pid"] != pid)
        need("log_max = 367001600" in snapshot(m.status()["worker_pid"]), "a reload that was killed took effect")
        # several at once: one of them finds what differs
        all_at_once = [subprocess.Popen([FAZT, "reload", m.dir], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        said = sorted("in effect" in p.communicate(timeout=60)[0] for p in all_at_once)
        need(said == [False, False, False, True] and not any(p.returncode for p in all_at_once), "four at once: %s", said)
        need("log_max = 387973120" in snapshot(m.status()["worker_pid"]), "four at once:\n%s", snapshot(m.status()["worker_pid"]))
        app.advance()
        write("[mount]\nlog_max = 300M\n")
        fazt("reload", m.dir)

        # a configuration that passes the check and that no worker can start with, since the address is in use: the former one is put back
        busy = socket.socket()
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        key = os.path.join(base, "host.key")
        fazt("keygen", "-o", key)
        peer = fazt("keygen", "-o", os.path.join(base, "peer.key")).stdout.strip()
        write("[mount]\nlog_max = 400M\n[link]\nhost_key = %s\nlisten = 127.0.0.1:%d\nfollower = %s\n" %
              (key, busy.getsockname()[1], peer))
        refused("reload", m.dir, says="the former configuration is in effect")
        text = snapshot(m.status()["worker_pid"])
        need("log_max = 314572800" in text and "listen" not in text, "after a refused start:\n%s", text)
        busy.close()
        app.advance()
        second.advance()
        fazt("reload", m.dir)
        need("listen = 127" in snapshot(m.status()["worker_pid"]), "the same once it can")

        # SIGKILL in the middle of a reload loses nothing
        write("[mount]\nlog_max = 500M\n", targets=("first", "second"))
        p = subprocess.Popen([FAZT, "reload", m.dir], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        m.kill_worker()
        p.wait(90)
        app.advance()
        second.advance()
        fazt("reload", m.dir)  # whatever has become of it
        need([t["name"] for t in m.status()["targets"]] == ["first", "second"], "the second target: %s", m.status()["targets"])

        app.end()
        second.end()
        m.sync()
        need(fazt_json("verify", "--live", "--json", m.dir)["differences"] == 0, "the live compare found differences")
        for source, name in ((s, n) for s in (m.store, store2) for n in ("a.db", "b.db")):
            out = os.path.join(base, "out.db")
            fazt("restore", "dir:%s/%s" % (source, name), "-i", m.key, "-o", out, "--force")
            need(dump(out) == dump(os.path.join(m.dir, name)), "%s in %s is not what the application wrote", name, source)
        m.umount()
    # a primary and its replica, with a reader there that stays
    write("[mount]\nlog_max = 100M\n", targets=())
    a, b = Host(base, "p", "--config", conf), Host(base, "r", "--config", conf)
    a.primary(b)
    b.replica_of(a)
    with a, b:
        a.start()
        b.start()
        counted = Counted(os.path.join(a.dir, "x.db"))
        counted.commit()
        caught_up(a, b, "x.db")
        reader = Reader(os.path.join(base, "reader"), os.path.join(b.dir, "x.db"))
        reader.sees(counted.n)
        write("[mount]\nlog_max = 200M\n", targets=())
        for host in (a, b):
            fazt("reload", host.dir)
            for _ in range(20):
                counted.commit()
            caught_up(a, b, "x.db")
            reader.sees(counted.n)
        refused_write(os.path.join(b.dir, "x.db"), "INSERT INTO t(k) VALUES (1)", "readonly")
        reader.end()
        counted.close()
        b.umount()
        a.umount()

    # from a named recipient to none: a look makes no key, nor does a reload that is refused, and one that does says so
    conf, alone = os.path.join(base, "key.conf"), os.path.join(base, "alone")
    peer = fazt("keygen", "-o", os.path.join(base, "named.key")).stdout.strip()
    os.mkdir(alone)
    write("[encrypt]\nrecipients = %s\n" % peer)
    fazt("mount", "--config", conf, alone)
    state = "/proc/%d/fd/12/" % fazt_json("status", "--json", alone)["worker_pid"]
    write("")
    r = fazt("reload", "--dry-run", alone)
    need("recipients: %s -> a key made then" % peer in r.stdout and "there is no key" in r.stdout, "a dry run says: %s", r.stdout)
    r = fazt("doctor", alone, check=False)
    need("a key made then" in r.stdout, "doctor says: %s", r.stdout)
    write("[mount]\nprivate_mount = yes\n")
    refused("reload", alone, says="private_mount cannot change")
    need(not os.path.exists(state + "identity") and not os.path.exists(state + "recipient"), "a look made a key")
    write("")
    r = fazt("reload", alone)
    state = "/proc/%d/fd/12/" % fazt_json("status", "--json", alone)["worker_pid"]
    with open(state + "recipient") as f:
        made = f.read().strip()
    need("recipients: %s -> %s" % (peer, made) in r.stdout and "A key was made" in r.stdout, "a reload that makes a key says: %s", r.stdout)
    with open(state + "mount.conf") as f:
        need("recipients = " + made in f.read(), "the recipient in effect")

    # nobody is there to be told: nothing has changed
    status = fazt_json("status", "--json", alone)
    os.kill(status["supervisor_pid"], signal.SIGKILL)
    wait_for("the supervisor's end", lambda: not alive(status["supervisor_pid"]))
    write("[mount]\nlog_max = 200M\n")
    for _ in range(2):
        refused("reload", alone, code=1, says="the supervisor of")
        need("log_max = 209715200" not in snapshot(status["worker_pid"]) and not glob.glob(state + "mount.conf.*"),
             "a reload that failed is left for the next worker")
    fazt("umount", alone)

    # an unmounted directory
    need("not mounted" in refused("reload", os.path.join(base, "app"), code=1), "reload of what is not mounted")
print("ok")
