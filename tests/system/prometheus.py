#!/usr/bin/python3
# timeout: 240
"""A real Prometheus scrapes a mount and evaluates the alert rules that ship with fazt: what its queries say is what the application did; the
dashboard's queries are all answered; the target goes away and the alert fires, it comes back and the alert ends."""
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import free_port  # noqa: E402
from faztlib import ROOT, Failure, Mount, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402


class Prometheus:
    def __init__(self, base, scraped):
        self.base, self.port, self.proc = base, free_port(), None
        self.program = shutil.which("prometheus")
        need(self.program, "there is no prometheus: scripts/deps.sh test")
        # as they ship, but no alert waits for minutes
        with open(os.path.join(ROOT, "scripts", "prometheus-alerts.yml")) as f:
            rules = "\n".join(l for l in f.read().split("\n") if not l.strip().startswith("for: "))
        with open(os.path.join(base, "rules.yml"), "w") as f:
            f.write(rules)
        with open(os.path.join(base, "prometheus.yml"), "w") as f:
            json.dump({"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["rules.yml"],
                       "scrape_configs": [{"job_name": "fazt", "static_configs": [{"targets": ["127.0.0.1:%d" % scraped]}]}]}, f)

    def __enter__(self):
        self.out = open(os.path.join(self.base, "prometheus.log"), "ab")
        self.proc = subprocess.Popen([self.program, "--config.file=" + os.path.join(self.base, "prometheus.yml"),
                                      "--storage.tsdb.path=" + os.path.join(self.base, "tsdb"), "--web.listen-address=127.0.0.1:%d" % self.port],
                                     stdout=self.out, stderr=self.out, stdin=subprocess.DEVNULL)

        def ready():
            if self.proc.poll() is not None:
                with open(os.path.join(self.base, "prometheus.log"), errors="replace") as f:
                    raise Failure("prometheus ended with %d: %s" % (self.proc.returncode, f.read()[-2000:]))
            try:
                urllib.request.urlopen("http://127.0.0.1:%d/-/ready" % self.port, timeout=5).close()
                return True
            except OSError:
                return False
        wait_for("Prometheus", ready, 60)
        return self

    def __exit__(self, *exc):
        self.proc.kill()
        self.proc.wait()
        self.out.close()

    def api(self, path, **query):
        try:
            with urllib.request.urlopen("http://127.0.0.1:%d/api/v1/%s?%s" % (self.port, path, urllib.parse.urlencode(query)), timeout=30) as r:
                return json.load(r)["data"]
        except urllib.error.HTTPError as e:
            raise Failure("%s %s: %s" % (path, query, e.read().decode()[:500]))

    def value(self, query):
        """Of the one series there is; None before."""
        result = self.api("query", query=query)["result"]
        need(len(result) < 2, "%s: %s", query, result)
        return float(result[0]["value"][1]) if result else None

    def firing(self):
        return {a["labels"]["alertname"] for a in self.api("alerts")["alerts"] if a["state"] == "firing"}


def answers_the_dashboard(p):
    with open(os.path.join(ROOT, "scripts", "grafana-dashboard.json")) as f:
        panels = json.load(f)["panels"]
    for panel in panels:
        for t in panel.get("targets", ()):
            p.api("query", query=t["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m"))


def run(base):
    port = free_port()
    with Gateway(base) as gw:
        config = os.path.join(base, "conf")
        with open(config, "w") as f:
            f.write("[http]\nlisten = :%d\n[target s3]\nurl = %s\nship_interval = 200ms\nlag_max = 3s\n" % (port, gw.url()))
        with Mount(base, "--config", config, targets=[]) as m:
            m.start(env=ENV)
            con = sqlite3.connect(os.path.join(m.dir, "app.db"), isolation_level=None, timeout=30)
            try:
                con.execute("PRAGMA journal_mode=WAL")
                con.execute("CREATE TABLE t(v)")
                for i in range(100):
                    con.execute("INSERT INTO t VALUES (?)", (i,))
                m.sync()
                txid = m.database("app.db")["txid"]  # the journal mode and the table are commits too
                need(txid >= 101, "txid %d", txid)
                with Prometheus(base, port) as p:
                    wait_for("a scrape", lambda: p.value('up{job="fazt"}') == 1)
                    wait_for("all commits", lambda: p.value('fazt_commits_total{database="app.db"}') == txid)
                    need(p.value("fazt_healthy") == 1, "not well")
                    for i in range(50):
                        con.execute("INSERT INTO t VALUES (?)", (i,))
                    wait_for("50 more", lambda: p.value('fazt_commits_total{database="app.db"}') == txid + 50)
                    wait_for("what was shipped", lambda: p.value('fazt_shipped_txid{database="app.db",target="s3"}') == txid + 50)
                    answers_the_dashboard(p)
                    rules = [r for g in p.api("rules")["groups"] for r in g["rules"]]
                    wait_for("every rule to be evaluated", lambda: all(r["health"] == "ok" for g in p.api("rules")["groups"] for r in g["rules"]))
                    need(len(rules) >= 14 and not p.firing(), "%d rules, firing: %s", len(rules), p.firing())
                    gw.kill()
                    con.execute("INSERT INTO t VALUES (1)")
                    wait_for("the alert", lambda: {"FaztTargetLag", "FaztUnhealthy"} <= p.firing(), 60)
                    gw.start()
                    wait_for("its end", lambda: not p.firing() & {"FaztTargetLag", "FaztUnhealthy"}, 60)
            finally:
                con.close()
            m.umount()


main("prometheus", run)
