#!/usr/bin/python3
# timeout: 900
# roots: deb12 deb13 deb13-build
"""What a mount logs under a real journald, Debian 12 and 13: as fields that journalctl filters by, with priorities, from supervisor and hardened
worker, after journald was restarted as well; and an alert reaches a web server from inside the unit."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, main, need, wait_for  # noqa: E402
from nspawn import REPO, Machine, build  # noqa: E402

FZ = "fazt@var-lib-app.service"
UNITS = os.path.join(REPO, "scripts/systemd")
HOOK = r"""
import http.server
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/var/log/hook", "ab") as f:
            f.write(self.rfile.read(int(self.headers["Content-Length"])) + b"\n")
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 8099), Hook).serve_forever()
"""
COMMIT = "import sqlite3; c = sqlite3.connect('/var/lib/app/app.db'); c.execute('CREATE TABLE IF NOT EXISTS t(x)'); " \
         "c.execute('INSERT INTO t VALUES (1)'); c.commit(); c.close()"


def entries(m, *match):
    out = m.run("journalctl", "--no-pager", "-o", "json", *match, check=False).out
    return [json.loads(l) for l in out.splitlines()]


def one(base, release):
    with open("/etc/os-release") as f:
        same = {"deb12": "bookworm", "deb13": "trixie"}[release] in f.read()
    with Machine(release, base) as m:
        m.put(FAZT if same else build(release, os.path.join(os.environ["B"], "system-" + release)), "/usr/bin/fazt")
        m.put(os.path.join(UNITS, "fazt@.service"), "/etc/systemd/system/fazt@.service", 0o644)
        m.write("/usr/local/bin/hook.py", HOOK)
        m.write("/etc/fazt/fazt.conf", "[mount]\nalert_url = http://127.0.0.1:8099/x\nalert_interval = 5s\n"
                "[encrypt]\nencrypt = none\n[target off site]\nurl = dir:/blocked/store\nlag_max = 1ms\n")
        m.write("/blocked", "")
        os.makedirs(m.path("/var/lib/app"), exist_ok=True)
        m.boot()
        m.run("systemd-run", "--unit=hook", "python3", "/usr/local/bin/hook.py")
        m.run("systemctl", "start", FZ)
        m.run("python3", "-c", COMMIT)
        wait_for("the line of the target", lambda: entries(m, "FZ_TARGET=off site", "FZ_DATABASE=app.db"))
        e = entries(m, "FZ_TARGET=off site", "FZ_DATABASE=app.db")[0]
        need(e["FZ_CODE"].startswith("FZ-") and e["PRIORITY"] == "3" and e["FZ_PART"] == "worker" and e["_SYSTEMD_UNIT"] == FZ and
             e["SYSLOG_IDENTIFIER"] == "fazt" and e["_TRANSPORT"] == "journal", "%s", e)
        need(e["MESSAGE"] in m.run("journalctl", "-u", FZ, "-p", "err", "--no-pager").out, "journalctl -u -p err")
        wait_for("the alert", lambda: m.run("cat", "/var/log/hook", check=False).out.count('"kind":"lag"'))
        pid = json.loads(m.run("fazt", "status", "--json", "/var/lib/app", check=False).out)["worker_pid"]
        m.run("systemctl", "restart", "systemd-journald")
        m.run("kill", "-KILL", pid)
        wait_for("the supervisor's line", lambda: entries(m, "FZ_PART=supervisor", "PRIORITY=4"))
        wait_for("the next worker's", lambda: [e for e in entries(m, "FZ_PART=worker", "PRIORITY=6") if e["_PID"] != str(pid) and
                                               "serving" in e["MESSAGE"]])
        m.run("systemctl", "stop", FZ)
        need(not [e for e in entries(m, "_SYSTEMD_UNIT=" + FZ) if e["_TRANSPORT"] == "stdout" and "level=" in e["MESSAGE"]],
             "lines went to stderr")


def run(base):
    for release in ("deb12", "deb13"):
        one(base, release)


main("journal", run)
