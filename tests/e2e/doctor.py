#!/usr/bin/python3
# timeout: 150
"""fazt doctor: each thing that can be wrong is made wrong, and found under its code, with a command that names it; put right, it is found no more."""
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, ROOT, Mount, fazt, is_mounted, need, scratch, wait_for  # noqa: E402


def doctor(d, *flags, code=None, prefix=()):
    r = subprocess.run([*prefix, FAZT, "doctor", "--json", *flags, d], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=90, stdin=subprocess.DEVNULL)
    need(r.returncode in (0, 1), "fazt doctor: exit %d\n%s%s", r.returncode, r.stdout, r.stderr)
    out = json.loads(r.stdout)
    problems = [f for f in out["findings"] if f["gravity"] == "problem"]
    need((r.returncode == 1) == bool(problems) and out["healthy"] == (not problems), "exit %d with %s", r.returncode, problems)
    for f in out["findings"]:
        need(f["what"] and f["why"] and shlex.split(f["command"], comments=True), "a finding without its parts: %s", f)
    return {f["code"]: f for f in out["findings"]}


def found(d, code, word, *flags, command="", **kw):
    f = doctor(d, *flags, **kw).get(code)
    need(f and word in f["what"], "%s does not speak of '%s': %s", code, word, f)
    need(command in f["command"], "%s: the command is %s", code, f["command"])


def not_found(d, *codes):
    have = doctor(d)
    need(not set(codes) & set(have), "still found: %s", [have.get(c) for c in codes])


def state(m, *path):
    """The state directory, which the mount hides, as the worker has it."""
    return os.path.join("/proc/%d/fd/12" % m.status()["worker_pid"], *path)


def in_namespace(script):
    return ("unshare", "--mount", "sh", "-c", script + '; exec "$@"', "sh")


with scratch("doctor") as base:
    conf, around = os.path.join(base, "x.conf"), os.path.join(base, "around")
    with Mount(base, "--config", conf) as m:
        with open(conf, "w") as f:
            f.write("[mount]\nlog_max = 100M\n")
        found(m.dir, "FZD-10", "not mounted", command="fazt mount " + m.dir)
        os.mkdir(around)
        subprocess.run(["mount", "--bind", m.dir, around], check=True)
        subprocess.run(["mount", "--make-private", around], check=True)  # where / is shared the mount would appear there too
        m.start()
        con = sqlite3.connect(m.dir + "/a.db", isolation_level=None)
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("CREATE TABLE t(x)")
        m.sync()

        # well: nothing but what this machine is like
        have = doctor(m.dir)
        need(set(have) <= {"FZD-04", "FZD-05", "FZD-06", "FZD-16", "FZD-18", "FZD-45", "FZD-51", "FZD-60"}, "a healthy mount: %s", have)
        need("FZD-45" in have, "the target lies on the same disk: %s", have)
        r = fazt("doctor", m.dir)
        need("why:" in r.stdout and "do:" in r.stdout and "0 problem" in r.stdout, "for people:\n%s", r.stdout)
        need(fazt("doctor", "--strict", m.dir, check=False).returncode == 1, "--strict")

        # keys and state
        fazt("keygen", "-o", state(m, "identity"))
        found(m.dir, "FZD-24", "secret key", command="--remove " + m.dir)
        os.chmod(state(m, "identity"), 0o644)
        found(m.dir, "FZD-23", "identity", command="chmod 600")
        os.unlink(state(m, "identity"))
        os.chmod(state(m), 0o755)
        found(m.dir, "FZD-30", "0755", command="chmod 700")
        os.chmod(state(m), 0o700)

        # the configuration
        with open(conf, "w") as f:
            f.write("[mount]\nlog_max = 200M\n")
        found(m.dir, "FZD-22", "log_max", command="fazt reload " + m.dir)
        with open(conf, "w") as f:
            f.write("[mount]\nlog_maxx = 200M\n")
        found(m.dir, "FZD-20", conf + ":2: unknown key", command="fazt config check " + conf)
        with open(conf, "w") as f:
            f.write("[mount]\nlog_max = 100M\n[link]\nlease = 5s\n")
        found(m.dir, "FZD-21", "no effect", command=conf)
        with open(conf, "w") as f:
            f.write("[mount]\nlog_max = 100M\n")

        # around the mount
        p = subprocess.Popen([sys.executable, "-c", "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()",
                              around + "/a.db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        p.stdout.readline()
        found(m.dir, "FZD-15", "a.db", command="kill %d" % p.pid)
        p.stdin.close()
        p.wait()
        p.stdout.close()
        subprocess.run(["umount", around], check=True)

        # databases
        other = sqlite3.connect(m.dir + "/b.db", isolation_level=None)
        other.execute("CREATE TABLE t(x)")
        found(m.dir, "FZD-35", "b.db", command="PRAGMA journal_mode=WAL")
        other.execute("PRAGMA journal_mode=WAL")
        other.close()
        other = sqlite3.connect(m.dir + "/b.db", isolation_level=None)
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("INSERT INTO t VALUES (1)")
        found(m.dir, "FZD-36", "b.db")
        other.close()
        con.execute("PRAGMA wal_autocheckpoint=0")
        con.execute("INSERT INTO t VALUES (zeroblob(70000000))")
        found(m.dir, "FZD-34", "a.db-wal", command="wal_checkpoint")
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        m.sync()
        not_found(m.dir, *("FZD-%d" % n for n in (15, 20, 21, 22, 23, 24, 30, 34, 35, 36)))

        # a target that cannot be written to any more
        os.rename(m.store, m.store + ".away")
        with open(m.store, "w"):
            pass
        found(m.dir, "FZD-40", "put failed")
        need("FZD-40" not in doctor(m.dir, "--no-probe"), "--no-probe tried the store")
        os.unlink(m.store)
        os.rename(m.store + ".away", m.store)
        m.sync()
        not_found(m.dir, "FZD-40")
        left = [n for _, d, fs in os.walk(m.store) for n in d + fs if "probe" in n]
        need(not [n for n in left if n != ".fazt-probe"], "left in the store: %s", left)

        # another mount that ships to the same place; and stores that misbehave
        fake = subprocess.Popen([sys.executable, os.path.join(ROOT, "tests", "unit", "fake_s3.py")], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        try:
            port = int(fake.stdout.readline())
            for k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                os.environ[k] = "x"
            urls = ["s3://%s/p?endpoint=http://127.0.0.1:%d&region=r&path-style=yes" % (b, port) for b in ("skewed", "ignores")]
            os.mkdir(os.path.join(base, "2"))
            with Mount(os.path.join(base, "2"), targets=["dir:" + m.store, *urls]) as second:
                second.start()
                have = doctor(second.dir)
                need(re.search(r"is (1079.|1080.) s slow", have["FZD-50"]["what"]), "the clock: %s", have.get("FZD-50"))
                need("ignores" in have["FZD-41"]["what"], "the condition: %s", have.get("FZD-41"))
                need(m.dir in have["FZD-44"]["what"], "the same target: %s", have.get("FZD-44"))
                second.umount()
        finally:
            fake.stdin.close()
            fake.wait()
            fake.stdout.close()

        # kernel, users and systemd, as another mount namespace sees them
        with open("/etc/passwd") as f, open(base + "/passwd", "w") as without, open(base + "/passwd2", "w") as having:
            lines = [l for l in f if not l.startswith("fazt:")]
            without.writelines(lines)
            having.writelines(lines + ["fazt:x:65533:65533::/:/usr/sbin/nologin\n"])
        with_users = ["mount --bind '%s/%s' /etc/passwd" % (base, p) for p in ("passwd", "passwd2")]
        found(m.dir, "FZD-18", "no user fazt", prefix=in_namespace(with_users[0]), command="useradd")
        need("FZD-18" not in doctor(m.dir, prefix=in_namespace(with_users[1])), "a user that is there is missed")
        found(m.dir, "FZD-02", "/dev/fuse", prefix=in_namespace("mount -t tmpfs none /dev"))
        units = "mount -t tmpfs none /etc/systemd; mount -t tmpfs none /run; mkdir -p /run/systemd/system /etc/systemd/system/x.wants"
        name = subprocess.run(["systemd-escape", "--path", m.dir], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        os.mkdir(os.path.join(base, "run"))
        script = "mount --bind /run '%s/run'; %s; mkdir -p /run/fazt; mount --bind '%s/run/fazt' /run/fazt" % (base, units, base)
        found(m.dir, "FZD-16", "after a reboot", prefix=in_namespace(script), command="fazt@")
        script += "; touch '/etc/systemd/system/x.wants/fazt@%s.service'" % name.replace("\\", "\\\\")
        need("FZD-16" not in doctor(m.dir, prefix=in_namespace(script.replace("\\\\", "\\"))), "an enabled unit is not seen")

        # the worker was killed; the whole mount is dead
        m.kill_worker()
        wait_for("the next worker", lambda: m.status()["restarts"] == 1)
        found(m.dir, "FZD-14", "1 times", command=".fazt/fazt.log")
        con.close()
        fd = os.open(m.dir, os.O_RDONLY)
        m.kill_all()
        need(is_mounted(m.dir), "the mount should be dead, and is gone")
        found(m.dir, "FZD-11", "dead", command="fazt umount " + m.dir)
        os.close(fd)
        fazt("umount", m.dir)
        need(not is_mounted(m.dir), "umount of the dead mount")
        m.start()
        not_found(m.dir, "FZD-11", "FZD-12", "FZD-13", "FZD-14")
        # a worker that does not answer
        pid = m.status()["worker_pid"]
        sup = m.proc.pid
        os.kill(sup, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            found(m.dir, "FZD-12", "", command="tail")
        finally:
            os.kill(sup, signal.SIGCONT)
        wait_for("an answer", lambda: fazt("status", m.dir, check=False).returncode == 0)

        # commands that mount: with what it was mounted with before, without a pause where something serves
        def do(code):
            env = {**os.environ, "PATH": os.path.dirname(FAZT) + ":" + os.environ["PATH"]}
            subprocess.run(["bash", "-c", doctor(m.dir)[code]["command"]], check=True, stdout=subprocess.DEVNULL, env=env, timeout=60)
        m.proc.kill()
        m.proc.wait()
        wait_for("the supervisor to be missed", lambda: "FZD-13" in doctor(m.dir, "--no-probe"))
        worker = open(m.dir + "/held", "w")
        do("FZD-13")
        worker.write("still there")
        worker.close()
        not_found(m.dir, "FZD-13")
        was = [t["url"] for t in m.status()["targets"]]
        fazt("umount", m.dir)
        found(m.dir, "FZD-10", "not mounted", command="fazt mount --config %s " % conf)
        wants = script.replace("\\\\", "\\")
        found(m.dir, "FZD-10", "not mounted", command="systemctl start 'fazt@%s.service'" % name, prefix=in_namespace(wants))
        do("FZD-10")
        need([t["url"] for t in m.status()["targets"]] == was and was, "mounted again with %s", m.status()["targets"])

        fazt("umount", m.dir)
    # a name of any bytes: what is printed is UTF-8 without control characters, and no other JSON
    with Mount(base, name="odd", targets=[]).start() as m:
        odd = os.fsencode(m.dir) + b"/\xff\xc2\x9b1m\x1b[31m\x7f.db"
        other = sqlite3.connect(odd, isolation_level=None)
        other.execute("CREATE TABLE t(x)")
        other.close()
        wait_for("the mount to know it", lambda: b"31m" in subprocess.run([FAZT, "status", "--json", m.dir], stdout=subprocess.PIPE).stdout)
        for args in (["status", m.dir], ["status", "--json", m.dir], ["doctor", m.dir], ["doctor", "--json", m.dir],
                     ["log", os.fsencode(m.dir) + b"/none\xff\x1b.db"]):
            r = subprocess.run([FAZT, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, stdin=subprocess.DEVNULL)
            text = (r.stdout + r.stderr).decode()
            need(all(c in "\n\t" or c.isprintable() for c in text), "fazt %s prints raw:\n%r", args, text)
            if args[0] != "log":
                need(".db" in text and "31m" in text, "fazt %s says nothing of it:\n%s", args, text)
        names = [d["name"] for d in m.status()["databases"]]
        need("\\xff\x9b1m\x1b[31m\x7f.db" in names, "in JSON: %s", names)
        m.umount()
print("ok")
