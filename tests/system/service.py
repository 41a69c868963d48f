#!/usr/bin/python3
# timeout: 900
# roots: deb12 deb13 deb13-build
"""fazt@.service under real systemd, Debian 12 and 13: boot order with an application, READY and status, what the units' checkers
say, the mount seen from other units, deaths of worker and supervisor (killed, stopped) and a reload to another program under an
application that writes, the nightly restore drill, stop and shutdown. The application is the judge: it fails at the first error
that SQLite gives it or when it starts before the mount serves, and in the end every commit it made must be there."""
import json
import os
import shutil
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, main, need, wait_for  # noqa: E402
from nspawn import REPO, Machine, build  # noqa: E402

FZ = "fazt@var-lib-app.service"
UNITS = os.path.join(REPO, "scripts/systemd")
APP = r"""
import fcntl, os, sqlite3, sys, time
if " /var/lib/app fuse.fazt " not in open("/proc/self/mounts").read():
    sys.exit("started before the mount serves")
con = sqlite3.connect("/var/lib/app/app.db", isolation_level=None, timeout=60)
con.execute("PRAGMA journal_mode=WAL")
con.execute("CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, pid INTEGER)")
n = con.execute("SELECT coalesce(max(n), 0) FROM t").fetchone()[0]
log = open("/var/log/app-acks", "a", buffering=1)
lock = open("/var/lib/app/app.lock", "w")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
while True:
    n += 1
    con.execute("INSERT INTO t VALUES (?, ?)", (n, os.getpid()))
    log.write("%d\n" % n)
    time.sleep(0.02)
"""
APP_UNIT = """
[Service]
ExecStart=/usr/bin/python3 /usr/local/bin/app.py
[Install]
WantedBy=multi-user.target
"""
TAKE = "import fcntl; fcntl.lockf(open('/var/lib/app/app.lock', 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


class Scenario:
    def __init__(self, m):
        self.m, self.app_pid = m, None

    # ---- what is there ----
    def main_pid(self):
        return int(self.m.show(FZ, "MainPID")["MainPID"])

    def worker(self):
        r = self.m.run("fazt", "status", "--json", "/var/lib/app", check=False)
        need(r.code in (0, 1), "fazt status: %s%s", r.out, r.err)
        return json.loads(r.out)["worker_pid"]

    def alive(self, pid):
        return self.m.sh("grep -q '^State:.[^ZX]' /proc/%d/status" % pid, check=False).code == 0

    def exe(self, pid):
        return self.m.run("stat", "-L", "-c", "%i", "/proc/%d/exe" % pid).out.strip()

    def acks(self):
        return [int(n) for n in self.m.read("/var/log/app-acks").split("\n")[:-1]]  # whole lines

    def app_goes_on(self, what):
        at = len(self.acks())
        wait_for("the application to go on " + what, lambda: len(self.acks()) >= at + 5)
        show = self.m.show("app.service", "MainPID", "ActiveState")
        if self.app_pid is None:
            self.app_pid = show["MainPID"]
        need(show == {"MainPID": self.app_pid, "ActiveState": "active"}, "the application was restarted %s: %s", what, show)
        r = self.m.run("python3", "-c", TAKE, check=False)
        need("Resource temporarily unavailable" in r.err, "the application's lock is gone %s: %s", what, r.err)

    def restarted(self, old, what):
        wait_for("systemd to start a supervisor " + what,
                 lambda: self.main_pid() not in (0, old) and self.m.show(FZ, "ActiveState")["ActiveState"] == "active")

    # ---- steps ----
    def checkers(self):
        names = [FZ, "fazt-verify@var-lib-app.service", "fazt-verify@var-lib-app.timer", "app.service"]
        for n in names:
            r = self.m.run("systemd-analyze", "verify", "--man=no", n, check=False)
            need(r.code == 0 and not (r.out + r.err).strip(), "systemd-analyze verify %s: %s%s", n, r.out, r.err)
        for n, most in ((FZ, 55), (names[1], 30)):  # tenths: 100 is no protection at all
            r = self.m.run("systemd-analyze", "security", "--no-pager", "--threshold=%d" % most, n, check=False)
            print(n, r.out.strip().splitlines()[-1].strip())
            need(r.code == 0, "systemd-analyze security %s: %s", n, r.out)

    def hardened(self):
        """What the kernel says of the three."""
        pid1 = self.m.run("readlink", "/proc/1/ns/mnt").out
        agent = int(self.m.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q '^[^ ]*fazt agent' && echo ${p#/proc/}; "
                              "done 2>/dev/null", check=False).out.split()[0])
        for who, pid in (("supervisor", self.main_pid()), ("worker", self.worker()), ("agent", agent)):
            need(self.m.run("readlink", "/proc/%d/ns/mnt" % pid).out == pid1, "the %s has a mount namespace of its own", who)
            status = dict(line.split(":", 1) for line in self.m.read_proc(pid, "status").splitlines() if ":" in line)
            need(status["NoNewPrivs"].strip() == "1", "%s: NoNewPrivs %s", who, status["NoNewPrivs"])
            need(status["Seccomp"].strip() == "2", "%s: Seccomp %s", who, status["Seccomp"])
            caps = {k: int(status[k], 16) for k in ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")}
            worker = {0, 1, 2, 3, 4, 6, 7, 14, 21, 24, 27}  # chown to mknod, ipc_lock, sys_admin
            allowed = {"worker": worker, "supervisor": worker | {5, 8, 19}, "agent": {0, 1, 2, 3, 4, 5, 19, 24}}[who]
            for k, v in caps.items():
                more = {b for b in range(64) if v >> b & 1} - allowed
                need(not more, "%s: %s holds capabilities %s", who, k, sorted(more))
            ids = [int(n) for n in status["Uid"].split()]  # real, effective, saved, of the filesystem
            need(ids == ([0] * 4 if who == "supervisor" else [990, 990, 990, 0]), "%s: ids %s", who, ids)

    def run(self):
        m = self.m
        show = m.show(FZ, "ActiveState", "Type", "StatusText", "NFileDescriptorStore", "ActiveEnterTimestampMonotonic", "NRestarts")
        need(show["ActiveState"] == "active" and show["Type"] == "notify", "after the boot: %s", show)
        start = m.show("app.service", "ExecMainStartTimestampMonotonic", "ActiveState")
        need(start["ActiveState"] == "active", "the application does not run: %s", m.journal("-u", "app.service"))
        need(int(show["ActiveEnterTimestampMonotonic"]) <= int(start["ExecMainStartTimestampMonotonic"]),
             "the application started before the mount served")
        policy = m.show(FZ, "OOMPolicy")["OOMPolicy"]
        need(policy == "continue", "OOMPolicy=%s: a worker that the kernel kills for want of memory ends the unit", policy)
        need(int(show["NFileDescriptorStore"]) >= 4, "systemd holds %s descriptors", show["NFileDescriptorStore"])
        self.app_goes_on("after the boot")
        self.checkers()
        self.hardened()
        wait_for("a status text with position and lag", lambda: "app.db at " in m.show(FZ, "StatusText")["StatusText"]
                 and " behind" in m.show(FZ, "StatusText")["StatusText"])
        listed = m.run("systemd-run", "--wait", "--pipe", "-q", "-p", "ProtectSystem=full", "ls", "/var/lib/app").out.split()
        need("app.db" in listed and ".fazt" not in listed, "another unit sees %s", listed)

        old = self.worker()
        m.run("kill", "-9", str(old))
        self.app_goes_on("after the worker was killed")
        need(self.worker() != old, "the worker was not replaced")

        restarts = int(m.show(FZ, "NRestarts")["NRestarts"])
        for what in ("after the supervisor was killed", "after supervisor and worker were killed"):
            old, worker = self.main_pid(), self.worker()
            m.run("kill", "-9", str(old), *([str(worker)] if "worker" in what else []))
            self.restarted(old, what)
            self.app_goes_on(what)
            need(self.worker() != worker and not self.alive(worker), "a former worker serves on " + what)
            restarts += 1
            need(int(m.show(FZ, "NRestarts")["NRestarts"]) == restarts, "restarts %s: %s", what, m.show(FZ, "NRestarts"))
        need(m.show("app.service", "NRestarts")["NRestarts"] == "0", "the application was restarted")

        old, supervisor = self.worker(), self.main_pid()
        m.run("kill", "-STOP", str(old))  # WatchdogSec is 6 here: the supervisor acts first
        wait_for("the end of the stopped worker", lambda: not self.alive(old), 60)
        self.app_goes_on("after the worker was stopped")
        need(self.main_pid() == supervisor, "the supervisor was replaced with the worker")
        m.run("kill", "-STOP", str(supervisor))  # this is systemd's to find
        self.restarted(supervisor, "after the supervisor was stopped")
        need("watchdog" in m.journal("-u", FZ).lower(), "systemd does not speak of its watchdog")
        self.app_goes_on("after the supervisor was stopped")

        supervisor, worker = self.main_pid(), self.worker()
        was = self.exe(supervisor)
        m.put(m.path("/usr/bin/fazt"), "/usr/bin/fazt")  # another file: as a package does
        m.run("systemctl", "reload", FZ)
        need(self.main_pid() == supervisor and self.worker() != worker, "the reload replaced the wrong ones")
        need(self.exe(supervisor) != was and self.exe(supervisor) == self.exe(self.worker()), "the former program still runs")
        self.app_goes_on("after the reload")
        with open(m.path("/usr/bin/fazt"), "rb") as f:
            good = f.read()
        m.write("/usr/bin/fazt.good", "")
        with open(m.path("/usr/bin/fazt.good"), "wb") as f:
            f.write(good)
        m.write("/usr/bin/fazt", "#!/bin/sh\nexit 1\n", 0o755)
        need(m.run("systemctl", "reload", FZ, check=False).code != 0, "a reload to a broken program is called a success")
        m.put(m.path("/usr/bin/fazt.good"), "/usr/bin/fazt")
        self.app_goes_on("after a reload that was refused")
        self.hardened()
        self.drill()
        self.busy()
        self.stop()

    def busy(self):
        """Stopped under an application that goes on: nothing is taken from it, and the next start goes on with what is there."""
        m = self.m
        worker = self.worker()
        m.run("systemctl", "stop", FZ, check=False)  # TimeoutStopSec is 3 here
        need(m.show(FZ, "Result")["Result"] == "timeout", "stopped under an application: %s", m.show(FZ, "Result", "ActiveState"))
        need("has app.db open" in m.journal("-u", FZ), "the journal does not name who has a file open")
        self.app_goes_on("after its mount's service was stopped")
        need(self.worker() == worker, "another worker serves than before")
        m.run("systemctl", "start", FZ)
        self.app_goes_on("after its mount's service was started again")
        need(self.worker() != worker and not self.alive(worker), "the worker of before serves on")
        need(int(m.show(FZ, "NFileDescriptorStore")["NFileDescriptorStore"]) >= 4, "systemd holds nothing after that start")

    def drill(self):
        m = self.m
        need("fazt-verify@var-lib-app.timer" in m.run("systemctl", "list-timers", "--all", "--no-pager").out, "no timer")
        m.run("fazt", "sync", "--wait", "--timeout", "60", "/var/lib/app")
        m.run("systemctl", "start", "fazt-verify@var-lib-app.service")
        said = m.journal("-u", "fazt-verify@var-lib-app.service")
        need("integrity_check are in order" in said, "the drill says: %s", said)
        known = json.loads(m.run("fazt", "status", "--json", "/var/lib/app", check=False).out)["drills"]
        need([(d["database"], d["ok"], d["full"]) for d in known] == [("app.db", True, True)], "the mount knows of drills: %s", known)
        objects = m.sh("find /var/backups/app -name '*.age' -size +0").out.split()
        need(objects, "nothing was shipped")
        for o in objects:
            p = m.path(o)
            with open(p, "r+b") as f:
                f.seek(os.path.getsize(p) // 2)
                c = f.read(1)
                f.seek(-1, 1)
                f.write(bytes([c[0] ^ 1]))
        need(m.run("systemctl", "start", "fazt-verify@var-lib-app.service", check=False).code != 0, "the drill passes a damaged backup")
        m.run("systemctl", "reset-failed")

    def stop(self):
        m = self.m
        worker = self.worker()
        m.run("systemctl", "stop", FZ, "app.service")
        need(" /var/lib/app " not in m.run("cat", "/proc/1/mounts").out, "still mounted after the stop")
        need(not self.alive(worker), "the worker outlived the service")
        show = m.show(FZ, "Result", "ActiveState", "NFileDescriptorStore")
        need(show["Result"] == "success" and show["ActiveState"] == "inactive", "after the stop: %s", show)
        app = m.show("app.service", "InactiveEnterTimestampMonotonic", "ActiveState")
        gone = m.show(FZ, "InactiveEnterTimestampMonotonic")["InactiveEnterTimestampMonotonic"]
        need(int(app["InactiveEnterTimestampMonotonic"]) <= int(gone), "the mount was stopped before the application")
        m.write("/etc/fazt/bad.conf", "[mount]\nno_such_key = 1\n")
        m.write("/etc/fazt/var-lib-app.env", "FAZT_CONFIG=/etc/fazt/bad.conf\n")
        need(m.run("systemctl", "start", "app.service", check=False).code != 0, "the application starts without its mount")
        need(m.show(FZ, "Result")["Result"] == "exit-code" and m.show(FZ, "NRestarts")["NRestarts"] == "0",
             "a wrong configuration is tried again and again")
        m.write("/etc/fazt/var-lib-app.env", "")
        m.run("systemctl", "reset-failed")
        m.run("systemctl", "start", "app.service")  # brings its mount with it
        need(m.show(FZ, "ActiveState")["ActiveState"] == "active", "the application's start did not start the mount")
        self.app_pid = None
        self.app_goes_on("after stop and start")


def prepare(m, fazt):
    m.put(fazt, "/usr/bin/fazt")
    for unit in ("fazt@.service", "fazt-verify@.service", "fazt-verify@.timer"):
        m.put(os.path.join(UNITS, unit), "/usr/lib/systemd/system/" + unit, 0o644)
    m.put(os.path.join(UNITS, "example-app.service.d/fazt.conf"), "/etc/systemd/system/app.service.d/fazt.conf", 0o644)
    m.write("/etc/systemd/system/fazt@.service.d/faster.conf", "[Service]\nWatchdogSec=6\nTimeoutStopSec=3\n")
    m.write("/etc/systemd/system/app.service", APP_UNIT)
    m.write("/usr/local/bin/app.py", APP)
    m.write("/var/log/app-acks", "")
    for name, line in (("passwd", "fazt:x:990:990:fazt workers:/:/usr/sbin/nologin"), ("group", "fazt:x:990:")):
        m.write("/etc/" + name, m.read("/etc/" + name) + line + "\n")  # as fazt.sysusers has it made
    os.makedirs(m.path("/var/lib/app"))
    os.makedirs(m.path("/etc/fazt"), exist_ok=True)
    os.makedirs(m.path("/var/backups/app"))
    os.system("%s keygen -o %s >/dev/null" % (FAZT, m.path("/etc/fazt/backup.key")))
    recipient = [w for w in m.read("/etc/fazt/backup.key").split() if w.startswith("age1")][0]
    m.write("/etc/fazt/fazt.conf", "[encrypt]\nrecipients = %s\nidentity = /etc/fazt/backup.key\n"
            "[target backup]\nurl = dir:/var/backups/app\n" % recipient)
    os.makedirs(m.path("/etc/systemd/system/multi-user.target.wants"), exist_ok=True)
    os.makedirs(m.path("/etc/systemd/system/timers.target.wants"), exist_ok=True)
    for unit, wants, name in (("/usr/lib/systemd/system/fazt@.service", "multi-user", FZ),
                              ("/etc/systemd/system/app.service", "multi-user", "app.service"),
                              ("/usr/lib/systemd/system/fazt-verify@.timer", "timers", "fazt-verify@var-lib-app.timer")):
        os.symlink(unit, m.path("/etc/systemd/system/%s.target.wants/%s" % (wants, name)))


def one(base, release):
    with open("/etc/os-release") as f:
        same = {"deb12": "bookworm", "deb13": "trixie"}[release] in f.read()
    with Machine(release, base) as m:
        prepare(m, FAZT if same else build(release, os.path.join(os.environ["B"], "system-" + release)))
        m.boot()
        s = Scenario(m)
        s.run()
        took = m.shutdown()
        acks = s.acks()
        need(acks == sorted(set(acks)), "acknowledged twice or not in order")
        out = os.path.join(base, "after.db")
        for end in ("", "-wal", "-shm"):
            if os.path.exists(m.path("/var/lib/app/app.db" + end)):
                shutil.copy(m.path("/var/lib/app/app.db" + end), out + end)
        con = sqlite3.connect(out)
        rows = [r[0] for r in con.execute("SELECT n FROM t ORDER BY n")]
        ok = con.execute("PRAGMA integrity_check").fetchone()[0]
        con.close()
        # a commit whose acknowledgement the application's end cut off is the only one besides: once for each of its two lives
        need(ok == "ok" and rows == list(range(1, len(rows) + 1)) and set(acks) <= set(rows) and len(rows) - len(acks) <= 2,
             "%d commits of %d are left (%s)", len(rows), len(acks), ok)
        need(os.path.exists(m.path("/var/lib/app/.fazt")), "no state directory below the mount")
        print("%s: %d commits, shut down in %.1f s" % (release, len(acks), took))


def run(base):
    for release in ("deb12", "deb13"):
        began = time.monotonic()
        one(base, release)
        print("%s: ok, %.0f s" % (release, time.monotonic() - began))


main("service", run)
