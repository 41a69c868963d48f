#!/usr/bin/python3
# timeout: 120
"""What the processes of a mount log: each line is whole logfmt or JSON with the fields that are known; the file is bounded, and opened anew
when somebody moved it, also below the mount and by the next worker; what is the journal gets datagrams of its own protocol (a
socket in journald's place), from the hardened worker too; a command at a terminal speaks plainly."""
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, Failure, fazt, fazt_json, is_mounted, main, need, wait_for  # noqa: E402

JOURNAL = "/run/systemd/journal/socket"
PAIR = re.compile(r'([a-z_]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=]+))(?: |$)')


def logfmt(line):
    out, at = {}, 0
    while at < len(line):
        m = PAIR.match(line, at)
        need(m, "no logfmt at column %d: %s", at, line)
        need(m.group(1) not in out, "%s twice: %s", m.group(1), line)
        out[m.group(1)] = re.sub(r"\\(.)", r"\1", m.group(2)) if m.group(2) is not None else m.group(3)
        at = m.end()
    return out


def lines(path, parse):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    need(text.endswith("\n"), "%s ends in the middle of a line", path)
    out = [parse(l) for l in text.splitlines()]
    for e in out:
        need(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", e["time"]), "time: %s", e)
        need(e["level"] in ("error", "warning", "info", "debug") and e["part"] in ("supervisor", "worker", "agent") and
             int(e["pid"]) > 1 and e["msg"], "fields: %s", e)
    return out


def commit(path, n=1):
    con = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        con.execute("CREATE TABLE IF NOT EXISTS t(x)")
        for _ in range(n):
            con.execute("INSERT INTO t VALUES (1)")
    finally:
        con.close()


def in_file(base, form, parse, where):
    """A target that cannot be written: its line has database, target and code. The file is moved under the mount, then removed."""
    blocked = os.path.join(base, "no-directory")
    with open(blocked, "w"):
        pass
    home = os.path.join(base, form)
    app = os.path.join(home, "app")
    state = os.path.join(home, "state")  # below DIR/.fazt by default: then the mount hides it
    os.makedirs(app)
    conf = os.path.join(home, "conf")
    with open(conf, "w") as f:
        f.write("[mount]\nstop_grace = 100ms\nlog_format = %s\n%s[encrypt]\nencrypt = none\n[target off site]\nurl = dir:%s/x\n" %
                (form, where % state if where else "", blocked))
    if where:
        os.makedirs(state)
    fazt("mount", "--config", conf, app)
    try:
        s = fazt_json("status", "--json", app, check=False)
        # the state directory is hidden by the mount: the worker's own descriptor of it shows the file
        log = os.path.join(state, "fazt.log") if where else "/proc/%d/root%s/.fazt/fazt.log" % (s["supervisor_pid"], app)
        look = log if where else None
        commit(os.path.join(app, "my db.db"))

        def entries():
            p = look or "/proc/%d/fd/2" % s["worker_pid"]
            return lines(p, parse)
        wait_for("the line of the target", lambda: any(e.get("target") == "off site" and e.get("db") == "my db.db" for e in entries()))
        e = [e for e in entries() if e.get("target") == "off site"][0]
        need(e["level"] == "error" and e["part"] == "worker" and re.fullmatch(r"FZ-\d{4}", e["code"]), "%s", e)
        need(e["pid"] in (s["worker_pid"], str(s["worker_pid"])), "%s", e)
        if look:
            os.rename(look, look + ".moved")
            os.kill(s["worker_pid"], signal.SIGKILL)  # supervisor and the next worker write on, in a new file
            wait_for("the next worker", lambda: os.path.exists(look) and {"supervisor", "worker"} <= {e["part"] for e in entries()})
            need(os.stat(look).st_mode & 0o777 == 0o600, "mode of the new file")
            lines(look + ".moved", parse)
    finally:
        fazt("umount", app)
    lines(look or os.path.join(app, ".fazt", "fazt.log"), parse)


def bounded(base):
    """At debug level, which nothing else limits, with a small limit."""
    app = os.path.join(base, "bounded")
    os.makedirs(app)
    conf = os.path.join(base, "bounded.conf")
    with open(conf, "w") as f:
        f.write("[mount]\nlog_level = debug\nlog_file_max = 4096\n")
    log = os.path.join(app, ".fazt", "fazt.log")
    for _ in range(8):
        fazt("mount", "--config", conf, app)
        s = fazt_json("status", "--json", app, check=False)
        os.kill(s["worker_pid"], signal.SIGKILL)
        commit(os.path.join(app, "a.db"), 3)
        fazt("umount", app)
    for name in (log, log + ".1"):
        need(os.path.getsize(name) < 4096 + 3 * 2048, "%s has %d bytes", name, os.path.getsize(name))
        lines(name, logfmt)
    need(os.path.getsize(log + ".1") > 4096, "%s.1 is not full", log)
    need(sorted(n for n in os.listdir(os.path.dirname(log)) if n.startswith("fazt.log")) == ["fazt.log", "fazt.log.1"], "log files")


def links(base):
    """No log file is a link, since whoever can write to its directory says where that leads; what /dev has are links all the same."""
    app = os.path.join(base, "linked")
    os.makedirs(app)
    victim, log = os.path.join(base, "victim"), os.path.join(base, "linked.log")
    with open(victim, "w") as f:
        f.write("mine\n")
    os.symlink(victim, log)
    r = fazt("mount", "--log-file", log, app, check=False)
    need(r.returncode == 2 and log + " is a symbolic link" in r.stderr, "exit %d: %s", r.returncode, r.stderr)
    need(os.path.getsize(victim) == 5, "the file that the link leads to was written")
    out = os.path.join(base, "stderr.log")
    with open(out, "w") as f:
        p = subprocess.Popen([FAZT, "mount", "--foreground", "--log-file", "/dev/stderr", app], stderr=f, stdout=subprocess.DEVNULL)
    try:
        wait_for("it to serve", lambda: is_mounted(app) and os.path.getsize(out))
        os.kill(fazt_json("status", "--json", app, check=False)["worker_pid"], signal.SIGKILL)
        wait_for("both to log there", lambda: {"supervisor", "worker"} <= {e["part"] for e in lines(out, logfmt)})
    finally:
        p.terminate()
        need(p.wait(60) == 0, "exit %d", p.returncode)
    lines(out, logfmt)


def journald(base):
    """In a mount namespace of its own (see below), so that a real journald stays what it is."""
    os.makedirs(os.path.dirname(JOURNAL), exist_ok=True)
    at = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    at.bind(JOURNAL)
    at.settimeout(30)
    stream = open(os.path.join(base, "fazt.log"), "wb")
    st = os.fstat(stream.fileno())
    m = Mount(base, name="j")
    env = dict(os.environ, JOURNAL_STREAM="%d:%d" % (st.st_dev, st.st_ino))
    m.logfile = stream
    m.proc = subprocess.Popen([FAZT, "mount", "--foreground", "--recipient", m.recipient, "--target", "dir:" + m.store, m.dir],
                              stdout=subprocess.DEVNULL, stderr=stream, stdin=subprocess.DEVNULL, env=env)
    try:
        def next_one():
            got = at.recv(65536).decode("utf-8")
            need(got.endswith("\n"), "a datagram without an end: %r", got)
            return dict(l.split("=", 1) for l in got[:-1].split("\n"))

        def until(text):
            for _ in range(100):
                e = next_one()
                need(e["SYSLOG_IDENTIFIER"] == "fazt" and e["PRIORITY"] in "3467" and e["FZ_PART"] in ("supervisor", "worker", "agent"),
                     "%s", e)
                if text in e["MESSAGE"]:
                    return e
            raise Failure("no datagram says " + text)
        need(until("serving")["PRIORITY"] == "6", "priority of an info line")
        commit(os.path.join(m.dir, "a.db"))
        m.sync()
        pid = m.kill_worker()
        e = until("worker ended by signal 9")
        need(e["FZ_PART"] == "supervisor" and e["PRIORITY"] == "4", "%s", e)
        until("serving")
        need(m.status()["worker_pid"] != pid, "the worker")
        os.rename(m.store, m.store + "-away")
        with open(m.store, "w"):
            pass
        commit(os.path.join(m.dir, "a.db"))
        e = until("shipping waits")  # from the worker, which is hardened by now
        need(e["FZ_DATABASE"] == "a.db" and e["FZ_TARGET"] == "dir:" + m.store and re.fullmatch(r"FZ-\d{4}", e["FZ_CODE"]) and
             e["PRIORITY"] == "3" and e["MESSAGE"].startswith("worker: "), "%s", e)
        os.unlink(m.store)
        os.rename(m.store + "-away", m.store)
        m.sync()
        need(os.path.getsize(os.path.join(base, "fazt.log")) == 0, "something went to stderr as well")
        os.unlink(JOURNAL)  # nobody is there any more: its stream gets the lines, with their priority
        m.umount()
    finally:
        m.cleanup()
        at.close()
        stream.close()
    with open(os.path.join(base, "fazt.log"), encoding="utf-8") as f:
        rest = f.read().splitlines()
    need(rest and all(re.match(r"<[3467]>level=", l) for l in rest), "stderr: %s", rest)


def spoken(base):
    r = fazt("log", "--config", os.path.join(base, "none"), "x/y", check=False)
    need("level=" not in r.stderr and "(FZ-" in r.stderr, "a command's error: %s", r.stderr)
    app = os.path.join(base, "spoken")
    os.makedirs(app)
    r = fazt("mount", app, env=dict(os.environ, FAZT_LOG_FORMAT="xml"), check=False)
    need(r.returncode == 2 and "log_format: 'xml' is none of logfmt, json, text" in r.stderr, "%s", r.stderr)


def run(base):
    in_file(base, "logfmt", logfmt, "")
    in_file(base, "json", json.loads, "log_file = %s/fazt.log\n")
    bounded(base)
    spoken(base)
    links(base)
    journald(base)


if not os.environ.get("LOGS_OWN_NAMESPACE"):
    os.environ["LOGS_OWN_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                          'mount -t tmpfs tmpfs /run && exec "$@"', "sh", sys.executable, *sys.argv])
main("logs", run)
