#!/usr/bin/python3
# timeout: 150
"""/metrics, /healthz, /api and /events of a mount with an S3 server and a directory as targets. promtool judges the format, the S3 server's
access log the requests, the application the commits, the directory the bytes. The S3 server dies: /healthz says 503 once its lag is over the
limit, 200 again when it is back. The worker dies: the same port answers. What does not belong is refused: other names, other methods,
too many listeners; and nothing listens beyond loopback."""
import datetime
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Host, caught_up, free_port  # noqa: E402
from faztlib import Failure, Mount, ROOT, copy_store, fazt, fazt_json, is_mounted, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402

SCRIPTS = os.path.join(ROOT, "scripts")
NAMES = ('app.db', 'sub dir/q"uote\\.db')  # the second needs escaping


def promtool(*args, text=None):
    program = shutil.which("promtool")
    need(program, "there is no promtool: scripts/deps.sh test")
    r = subprocess.run([program, *args], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    need(r.returncode == 0, "promtool %s: exit %d\n%s", " ".join(args), r.returncode, r.stdout)
    return r.stdout


class Page:
    def __init__(self, port):
        self.port = port

    def get(self, path, code=200, method="GET", host=None, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            c.request(method, path, body=body, headers={"Host": host} if host else {})
            r = c.getresponse()
            text = r.read().decode()
            need(code is None or r.status == code, "%s %s: %d %s", method, path, r.status, text[:500])
            self.code, self.headers = r.status, r.headers
            return text
        finally:
            c.close()

    def json(self, path, code=200):
        return json.loads(self.get(path, code))

    def scrape(self):
        """{name with labels as in the text: value}"""
        return parse(self.get("/metrics"))

    def metrics(self):
        """The same, checked by promtool."""
        text = self.get("/metrics")
        need(self.headers["Content-Type"].startswith("text/plain; version=0.0.4"), "type: %s", self.headers["Content-Type"])
        out = promtool("check", "metrics", text=text)
        need(not out.strip(), "promtool check metrics: %s", out)
        return parse(text)


def parse(text):
    return {m[1] + (m[2] or ""): float(m[3]) for m in re.finditer(r'^(\w+)({.*})? (\S+)$', text, re.M)}


def metric(m, name, **labels):
    want = "".join(',%s="%s"' % (k, v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for k, v in labels.items())
    key = name + ("{%s}" % want[1:] if want else "")
    need(key in m, "no %s among %s", key, sorted(k for k in m if k.startswith(name)))
    return m[key]


def commit(con, n):
    for _ in range(n):
        con.execute("INSERT INTO t(v) VALUES (randomblob(300))")


def database(m, name):
    os.makedirs(os.path.dirname(os.path.join(m.dir, name)), exist_ok=True)
    con = sqlite3.connect(os.path.join(m.dir, name), isolation_level=None, timeout=30)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("PRAGMA synchronous=NORMAL")
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
    return con


# ---- what is counted -----------------------------------------------------------------------------------------------

def counts_commits(m, page, cons):
    m.sync()  # what made the tables is captured
    before, txids = page.metrics(), {n: m.database(n)["txid"] for n in NAMES}
    for con, n in zip(cons, (23, 4)):
        commit(con, n)
    m.sync()
    after = page.metrics()
    for name, n in zip(NAMES, (23, 4)):
        def rise(what, **more):
            return metric(after, what, database=name, **more) - metric(before, what, database=name, **more)
        need(rise("fazt_commits_total") == n, "%s: %d commits, the counter rose by %s", name, n, rise("fazt_commits_total"))
        need(rise("fazt_captured_pages_total") >= n, "%s: %s pages", name, rise("fazt_captured_pages_total"))
        need(rise("fazt_captured_bytes_total") > n * 300, "%s: %s bytes of random data", name, rise("fazt_captured_bytes_total"))
        need(1 <= rise("fazt_capture_delay_seconds_count") <= n, "%s: %s delays", name, rise("fazt_capture_delay_seconds_count"))
        need(metric(after, "fazt_txid", database=name) == txids[name] + n, "%s: txid", name)
        for t in ("s3", "local"):
            need(metric(after, "fazt_shipped_txid", database=name, target=t) == txids[name] + n, "%s: shipped to %s", name, t)
            need(metric(after, "fazt_lag_commits", database=name, target=t) == 0, "%s lags in %s", name, t)
        need(metric(after, "fazt_log_size_bytes", database=name) >= metric(after, "fazt_captured_bytes_total", database=name), "log size")
    fd = os.open(os.path.join(m.dir, "plain"), os.O_CREAT | os.O_RDWR)
    for _ in range(7):
        os.write(fd, b"x")
        os.fsync(fd)
    os.close(fd)
    for i in range(5):
        os.mkdir(os.path.join(m.dir, "dir%d" % i))
    now = page.metrics()
    for op, n in (("fsync", 7), ("mkdir", 5)):
        got = metric(now, "fazt_fuse_requests_total", opcode=op) - metric(after, "fazt_fuse_requests_total", opcode=op)
        need(got == n, "%d requests of %s, counted %s", n, op, got)


def store_requests(gw):
    """By kind, as the access log has them."""
    kinds = {"put": 0, "get": 0, "list": 0, "delete": 0}
    for line in gw.requests():
        what = re.search(r" s3_(\w+) ", line)[1]
        kinds["delete" if what.startswith(("Delete", "Abort")) else "list" if what.startswith("List") else
              "get" if what.startswith(("Get", "Head")) else "put"] += 1
    return kinds


def counts_requests(page, gw):
    def mine(m):
        return {k: int(metric(m, "fazt_target_requests_total", target="s3", kind=k)) for k in ("put", "get", "list", "delete")}
    seen = {}

    def quiet():  # nothing was asked between the two looks at the counters
        a = mine(page.scrape())
        seen["log"] = store_requests(gw)
        m = page.scrape()
        seen["mine"], seen["cost"] = mine(m), {k: metric(m, "fazt_target_cost_total", target="s3", kind=k) for k in a}
        seen["uploads"] = sum(v for k, v in m.items() if k.startswith('fazt_target_uploads_total{target="s3"'))
        return a == seen["mine"]
    wait_for("the store to be quiet", quiet)
    need(seen["log"] == seen["mine"], "the server saw %s, the metrics say %s", seen["log"], seen["mine"])
    need(seen["mine"]["put"] > 2 and seen["mine"]["list"] > 0, "requests: %s", seen["mine"])
    need(0 < seen["uploads"] <= seen["mine"]["put"], "%s uploads with %s PUTs", seen["uploads"], seen["mine"]["put"])
    objects = sum(f.count(".") > 0 and "/claim/" not in d + "/" for d, _, fs in os.walk(gw.file("prefix")) for f in fs)
    need(seen["uploads"] >= objects > 0, "%s uploads made %d objects", seen["uploads"], objects)
    for k, per_1000 in (("put", 5), ("get", 0.4), ("list", 50), ("delete", 0)):
        need(abs(seen["cost"][k] - seen["mine"][k] * per_1000 / 1000) < 1e-9, "cost of %s: %s", k, seen["cost"][k])


def counts_bytes(page, store):
    m = page.metrics()
    there = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(store) for f in fs)
    need(metric(m, "fazt_target_requests_total", target="local", kind="delete") == 0, "something was deleted already")
    need(metric(m, "fazt_target_sent_bytes_total", target="local") == there, "%d bytes lie in %s, the counter says %s", there, store,
         metric(m, "fazt_target_sent_bytes_total", target="local"))
    need(not [k for k in m if k.startswith('fazt_target_cost_total{target="local"')], "a directory costs nothing")


# ---- health --------------------------------------------------------------------------------------------------------

def follows_an_outage(m, page, gw, con):
    well = page.json("/healthz")
    need(well["healthy"] and [t["name"] for t in well["targets"]] == ["s3", "local"], "healthz: %s", well)
    need(well["targets"][0]["lag_max_seconds"] == 2 and well["targets"][1]["lag_max_seconds"] == 60, "limits: %s", well)
    before = page.metrics()
    gw.kill()
    commit(con, 1)
    wait_for("/healthz to say 503", lambda: page.get("/healthz", None) and page.code == 503)
    ill = page.json("/healthz", 503)
    need(not ill["healthy"] and "s3" in ill["problems"][0], "healthz: %s", ill)
    need([t["name"] for t in ill["targets"] if t["lag_seconds"] > t["lag_max_seconds"]] == ["s3"], "who lags: %s", ill)

    def counted():
        now = page.scrape()
        errors = sum(v for k, v in now.items() if k.startswith('fazt_target_errors_total{target="s3",code="FZ-1303"'))
        return errors > 0 and metric(now, "fazt_target_retries_total", target="s3") > metric(before, "fazt_target_retries_total", target="s3")
    wait_for("errors and retries to be counted", counted)
    m1 = page.metrics()
    need(metric(m1, "fazt_healthy") == 0 and metric(m1, "fazt_problems") >= 1, "the metrics say that all is well")
    need(metric(m1, "fazt_lag_commits", database=NAMES[0], target="s3") == 1, "one commit is not shipped")
    need(metric(m1, "fazt_lag_bytes", database=NAMES[0], target="s3") > 300, "its bytes")
    need(metric(m1, "fazt_target_state", target="s3", state="retrying") == 1, "state of the target")
    need(metric(m1, "fazt_target_lag_seconds", target="local") < 60, "the other target")
    gw.start()
    wait_for("/healthz to say 200", lambda: page.get("/healthz", None) and page.code == 200)
    need(metric(page.metrics(), "fazt_target_lag_seconds", target="s3") <= 2, "it lags still")


def outlasts_a_crowd(page):
    """More connections than are served at once, none of which asks for anything; when they go nobody else makes the thread look up."""
    crowd = [socket.create_connection(("127.0.0.1", page.port), timeout=30) for _ in range(100)]
    for s in crowd:
        s.close()
    page.get("/healthz")


# ---- what is refused -----------------------------------------------------------------------------------------------

def listeners(port):
    """Addresses that listen on the port, as the kernel shows them."""
    out = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as f:
            for line in f.readlines()[1:]:
                address, state = line.split()[1], line.split()[3]
                if state == "0A" and int(address.split(":")[1], 16) == port:
                    out.append(address.split(":")[0])
    return out


def refuses(page):
    need(listeners(page.port) == ["0100007F"], "listens on %s", listeners(page.port))
    for host in ("evil.example", "evil.example:%d" % page.port, "127.0.0.1.evil.example", "localhost.evil", "[::1].evil", "db2.example.com", "localhost:1@evil",
                 "[::1]:x"):
        page.get("/healthz", 403, host=host)
        page.get("/events", 403, host=host)
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:7301", "192.0.2.7:80", "db1.example.com:8443"):
        page.get("/healthz", 200, host=host)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        page.get("/api/status", 405, method=method, body="x" * 100)
        need(page.headers["Allow"] == "GET, HEAD", "Allow: %s", page.headers["Allow"])
    page.get("/healthz", 400, body="a body")
    for path in ("/metrics/", "/../etc/passwd", "/api", "//"):
        page.get(path, 404)
    for path in ("/", "/metrics", "/healthz", "/api/status", "/events"):
        need(page.get(path, 200, method="HEAD") == "", "HEAD %s has a body", path)
        policy = page.headers["Content-Security-Policy"]
        need("default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "script-src 'sha256-" in policy and
             "script-src 'unsafe" not in policy, "policy: %s", policy)
        need(page.headers["X-Content-Type-Options"] == "nosniff" and not page.headers["Access-Control-Allow-Origin"], "headers of %s", path)
    need("<script" in page.get("/") and page.headers["Content-Type"].startswith("text/html"), "the page")
    page.get("/?" + "x" * 100000, None)  # no memory for that: refused, and the next one is served
    need(page.code in (400, 413, 414, 431), "a line of 100 kB: %d", page.code)
    page.get("/healthz")


# ---- what a browser is told ----------------------------------------------------------------------------------------

class Stream:
    """A listener to /events: next(name) is the next event's data."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.s.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.f = self.s.makefile("rb")
        self.code = int(self.f.readline().split()[1])
        while self.f.readline().strip():
            pass

    def next(self, name):
        event, end = None, time.monotonic() + 30
        while True:
            need(time.monotonic() < end, "no %s came", name)  # heartbeats do
            line = self.f.readline()
            if not line:
                raise Failure("the stream has ended")
            if line.startswith(b"event: "):
                event = line[7:].strip().decode()
            elif line.startswith(b"data: ") and event == name:
                return json.loads(line[6:])

    def transaction(self):
        while True:  # what else there is (a role, a problem) is not of interest
            e = self.next("event")
            if e["event"] == "transaction":
                return e

    def close(self):
        self.f.close()
        self.s.close()


def tells_browsers(m, page, con):
    a, b = Stream(page.port), Stream(page.port)
    try:
        need(a.next("heartbeat")["now_ms"] > 1e12, "no clock")
        first = a.next("status")
        need({"databases", "targets", "problems", "healthy"} <= set(first), "status: %s", sorted(first))
        need(set(first) == set(m.status()) == set(page.json("/api/status")), "not what fazt status says")
        role = a.next("event")
        need(role["event"] == "role" and role["role"] == "primary", "first event: %s", role)
        txid = m.database(NAMES[0])["txid"]
        commit(con, 3)
        for s in (a, b):
            got = [s.transaction() for _ in range(3)]
            need([(e["event"], e["database"], e["txid"]) for e in got] == [("transaction", NAMES[0], txid + i) for i in (1, 2, 3)], "events: %s", got)

        def shown():
            return next((d["txid"] for d in a.next("status")["databases"] if d["name"] == NAMES[0]), 0) == txid + 3
        wait_for("the status to follow", shown)
        commit(con, 1000)  # joined where there are many: none is missing, none comes twice
        last, n = txid + 3, 0
        while last < txid + 1003:
            e = b.transaction()
            need(e.get("min_txid", e["txid"]) == last + 1, "after %d comes %s", last, e)
            need(e["pages"] >= e["txid"] - last, "pages: %s", e)
            last, n = e["txid"], n + 1
        need(last == txid + 1003 and n < 1000, "%d events up to %d", n, last)
    finally:
        a.close()
        b.close()


def bounds_listeners(page):
    def all_in():
        streams.append(Stream(page.port))
        if streams[-1].code == 503:
            streams.pop().close()
        return len(streams) == 16
    streams = []
    try:
        wait_for("16 listeners", all_in)  # the two before may have to be noticed to be gone
        late = Stream(page.port)
        need(late.code == 503, "a 17th listener: %d", late.code)
        late.close()
        page.get("/healthz")
        streams.pop().close()

        def again():
            streams.append(Stream(page.port))
            if streams[-1].code == 503:
                streams.pop().close()
            return len(streams) == 16
        wait_for("a place to be free again", again)
    finally:
        for s in streams:
            s.close()


def knows_history(m, page, store, con):
    h = page.json("/api/history?" + urllib.parse.urlencode({"database": NAMES[1]}))
    need(h["database"] == NAMES[1], "history of %s", h["database"])
    log = next(s for s in h["sources"] if s["name"] == "log")
    tier = next(t for t in log["tiers"] if t["kind"] == "commits")
    need(tier["count"] == m.database(NAMES[1])["txid"] and tier["from_ms"] <= tier["to_ms"], "tiers: %s", log)
    # of a target: what `fazt log` lists there, without its being asked each time
    def known():
        return next(s for s in page.json("/api/history?" + urllib.parse.urlencode({"database": NAMES[1]}))["sources"] if s["name"] == "local")
    wait_for("the target to know its history", lambda: known()["complete"])
    for n in (0, 3):
        commit(con, n)
        m.sync()
        there = fazt_json("log", "--json", "-i", m.key, "dir:" + os.path.join(store, NAMES[1]))
        tier = next(t for t in known()["tiers"] if t["kind"] == "commits")
        times = [datetime.datetime.fromisoformat(c["time"].replace("Z", "+00:00")).timestamp() * 1000 for c in there]
        need(tier["count"] == len(there), "%d commits lie in the target, the history says %s", len(there), tier)
        need(abs(tier["from_ms"] - times[0]) < 1 and abs(tier["to_ms"] - times[-1]) < 1, "%s .. %s: %s", times[0], times[-1], tier)
    before = metric(page.scrape(), "fazt_target_requests_total", target="local", kind="list")
    for _ in range(20):
        known()
    need(metric(page.scrape(), "fazt_target_requests_total", target="local", kind="list") == before, "the store is asked each time")
    page.json("/api/history?database=none", 404)
    page.json("/api/history", 400)


# ---- the rest ------------------------------------------------------------------------------------------------------

def answers(page):
    try:
        return page.get("/healthz", None) != ""
    except (OSError, http.client.HTTPException):
        return False


def outlives_the_worker(m, page, con):
    pid = m.kill_worker()
    commit(con, 1)

    def back():
        return answers(page) and page.json("/api/status")["worker_pid"] != pid
    wait_for("the page to be back", back)
    need(metric(page.scrape(), "fazt_worker_restarts_total") == 2, "restarts")


def says_that_the_port_was_taken(m, page):
    """While no worker has it somebody else takes the port: applications go on, the status says what is missing."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(m.proc.pid, signal.SIGSTOP)  # nobody starts the next worker
        try:
            pid = m.kill_worker()

            def taken():
                try:
                    s.bind(("127.0.0.1", page.port))
                except OSError:
                    return False  # its last thread is not gone yet
                return True
            wait_for("the port to be free", taken)
            s.listen()
        finally:
            os.kill(m.proc.pid, signal.SIGCONT)
        wait_for("another worker", lambda: m.status()["worker_pid"] != pid)
        need([p for p in m.status()["problems"] if "status page" in p], "problems: %s", m.status()["problems"])
    m.kill_worker()
    wait_for("the page to be back", lambda: answers(page))


def refuses_a_port_in_use(base, port):
    second = os.path.join(base, "second")
    os.mkdir(second)
    r = fazt("mount", "--http", "127.0.0.1:%d" % port, second, check=False)
    need(r.returncode == 1 and "[http] listen" in r.stderr and "another program" in r.stderr, "exit %d: %s", r.returncode, r.stderr)
    for bad in ("7301", "127.0.0.1", "a b:1", "127.0.0.1:70000"):
        r = fazt("mount", "--http", bad, second, check=False)
        need(r.returncode == 2 and "[http] listen" in r.stderr, "--http %s: exit %d: %s", bad, r.returncode, r.stderr)
    need(not is_mounted(second), "it is mounted")


def remembers_drills(m, page, config, store, con):
    name = NAMES[1]

    def verify(source, *args, code=0):
        r = fazt("verify", "--config", config, source, *args, check=False, env={**os.environ, **ENV})
        need(r.returncode == code, "fazt verify %s: exit %d: %s%s", source, r.returncode, r.stdout, r.stderr)
        return page.metrics()

    def drill(got, what, target="s3"):
        return metric(got, what, database=name, target=target)

    def runs(got, target, result):
        return metric(got, "fazt_verify_runs_total", database=name, target=target, result=result)
    commit(con, 2)
    m.sync()
    last, there = m.database(name), os.path.join(store, name)
    got = verify("s3/" + name, "-i", m.key, "--full")
    need(drill(got, "fazt_verify_last_ok") == 1 and runs(got, "s3", "ok") == 1, "a drill that went well")
    need(drill(got, "fazt_proven_txid") == last["txid"], "proven up to %s of %d", drill(got, "fazt_proven_txid"), last["txid"])
    age = time.time() - datetime.datetime.fromisoformat(last["time"].replace("Z", "+00:00")).timestamp()
    need(0 <= age - drill(got, "fazt_proven_commit_age_seconds") < 30, "age %s, not %s", drill(got, "fazt_proven_commit_age_seconds"), age)
    commit(con, 1)
    m.sync()
    got = verify("s3/" + name)  # without a key contents are not read: that proves no restore
    need(runs(got, "s3", "ok") == 2 and drill(got, "fazt_proven_txid") == last["txid"], "structure alone is no proof")
    need(not m.status()["problems"], "problems: %s", m.status()["problems"])
    victim = max((os.path.join(d, f) for d, _, fs in os.walk(there) for f in fs if f.endswith(".age")), key=os.path.getmtime)
    with open(victim, "rb") as f:
        well = f.read()
    with open(victim, "wb") as f:
        f.write(well[:-20] + bytes([well[-20] ^ 1]) + well[-19:])
    got = verify("dir:" + there, "-i", m.key, code=4)
    need(drill(got, "fazt_verify_last_ok", "local") == 0 and runs(got, "local", "failed") == 1, "a drill that failed")
    need(any("verify" in p and name in p for p in page.json("/healthz", 503)["problems"]), "nobody is told")
    verify("dir:" + os.path.join(os.path.dirname(store), "elsewhere", name), code=3)
    copy_store(there, os.path.join(os.path.dirname(store), "copy", name))
    before = page.scrape()
    got = verify("dir:" + os.path.join(os.path.dirname(store), "copy", name), "-i", m.key, code=4)
    need({k: v for k, v in got.items() if "verify_runs" in k} == {k: v for k, v in before.items() if "verify_runs" in k}, "a foreign store counts")
    m.kill_worker()
    wait_for("the page to be back", lambda: answers(page) and page.scrape()['fazt_worker_restarts_total'] == 1)
    need(runs(page.metrics(), "local", "failed") == 1, "the next worker has forgotten")
    with open(victim, "wb") as f:
        f.write(well)
    got = verify("dir:" + there, "-i", m.key)
    need(drill(got, "fazt_verify_last_ok", "local") == 1 and drill(got, "fazt_proven_txid", "local") == last["txid"] + 1, "well again")
    page.get("/healthz", 200)


def name_that_is_no_text(m, page):
    """JSON is UTF-8 (need: Page and fazt_json() decode strictly); what it tells can be asked for."""
    told = "caf\\xe9.db"
    database(m, os.fsdecode(b"caf\xe9.db")).close()
    fazt("sync", m.dir)
    for status in (m.status, lambda: page.json("/api/status")):  # that may be 200 ms old
        wait_for("the name to be told", lambda: told in [d["name"] for d in status()["databases"]])
    h = page.json("/api/history?" + urllib.parse.urlencode({"database": told}))
    need(h["database"] == told and h["sources"][0]["tiers"], "history: %s", h)
    page.json("/api/history?database=%ff", 404)
    s = Stream(page.port)
    try:
        need(told in [d["name"] for d in s.next("status")["databases"]], "what a browser is told")
    finally:
        s.close()


def both_ends_of_a_link(base):
    """Scrapes of a primary and of its replica, which has all that the primary had."""
    ports = free_port(), free_port()
    with Host(base, "a", "--ack", "replica", "--http", ":%d" % ports[0]) as a, Host(base, "b", "--http", ":%d" % ports[1]) as b:
        a.primary(b).start()
        b.replica_of(a).start()
        con = database(a, NAMES[0])
        try:
            commit(con, 5)
            caught_up(a, b, NAMES[0])
            pages = [Page(p) for p in ports]
            wait_for("the primary to hear so", lambda: [v for k, v in pages[0].scrape().items() if k.startswith("fazt_replica_lag_commits")] == [0])
            there, here = (p.metrics() for p in pages)
            need(metric(here, "fazt_follow_connected") == 1 and metric(here, "fazt_follow_lag_commits", database=NAMES[0]) == 0, "the replica")
            need(metric(here, "fazt_follow_txid", database=NAMES[0]) == metric(there, "fazt_txid", database=NAMES[0]), "positions differ")
            need(metric(here, "fazt_commits_total", database=NAMES[0]) == metric(there, "fazt_txid", database=NAMES[0]), "commits received")
            need([v for k, v in there.items() if k.startswith("fazt_replica_connected")] == [1], "not connected")
            name_that_is_no_text(a, pages[0])
        finally:
            con.close()
        a.umount()
        b.kill_worker()  # the next one has never heard of a primary: what that has done since nobody knows

        def behind():
            with open(os.path.join(b.dir, ".fazt", NAMES[0], "lag")) as f:
                return int(f.read()) > 0
        wait_for("the next worker", lambda: answers(pages[1]) and pages[1].scrape()["fazt_follow_connected"] == 0)
        wait_for("a replica without a primary to lag", behind)
        need(not [k for k in pages[1].scrape() if k.startswith("fazt_follow_lag")], "it says how far it is behind")
        b.umount()
    return there, here


def dashboard_and_alerts(scrapes):
    promtool("check", "rules", os.path.join(SCRIPTS, "prometheus-alerts.yml"))
    promtool("test", "rules", os.path.join(SCRIPTS, "prometheus-alerts-test.yml"))
    there = set().union(*({re.sub(r"{.*", "", k) for k in s} for s in scrapes))
    with open(os.path.join(SCRIPTS, "grafana-dashboard.json")) as f:
        dash = json.load(f)
    with open(os.path.join(SCRIPTS, "prometheus-alerts.yml")) as f:
        named = set(re.findall(r"\bfazt_\w+", f.read()))
    ids = [p["id"] for p in dash["panels"]]
    need(len(set(ids)) == len(ids), "two panels have one id")
    for p in dash["panels"]:
        for t in p.get("targets", ()):
            names = set(re.findall(r"\b(?:fazt|process)_\w+", t["expr"]))
            need(names, "%s: no metric in %s", p["title"], t["expr"])
            named |= names
    # errors come with the first one only (their form: tests/unit/test_cmd_metrics.c)
    missing = sorted(n for n in named - there if n != "fazt_capture_errors_total")
    need(not missing, "named in scripts/, but in no scrape: %s", missing)
    with open(os.path.join(ROOT, "docs", "operations.md")) as f:
        section = f.read().split("\n### Metrics\n", 1)[1].split("\n##", 1)[0]
        told = set(re.findall(r"`(fazt_\w+)`", section))
    told = {t + "_count" if t == "fazt_capture_delay_seconds" else t for t in told}
    told.discard("fazt_capture_errors_total")
    need(told and not told - there, "docs/operations.md names %s", sorted(told - there))


def run(base):
    config, store, port = os.path.join(base, "conf"), os.path.join(base, "store"), free_port()
    with Gateway(base) as gw:
        with open(config, "w") as f:
            f.write("[http]\nlisten = :%d\nhosts = db1.example.com\n[target s3]\nurl = %s\nship_interval = 100ms\nlag_max = 2s\n"
                    "prices = put 5 get 0.4 list 50\n[target local]\nurl = dir:%s\nship_interval = 100ms\n" % (port, gw.url(), store))
        with Mount(base, "--config", config, targets=[]) as m:
            m.start(env=ENV)
            page = Page(port)
            cons = [database(m, n) for n in NAMES]
            try:
                counts_commits(m, page, cons)
                counts_requests(page, gw)
                counts_bytes(page, store)
                outlasts_a_crowd(page)
                refuses(page)
                tells_browsers(m, page, cons[0])
                bounds_listeners(page)
                knows_history(m, page, store, cons[1])
                follows_an_outage(m, page, gw, cons[0])
                ill = page.metrics()
                remembers_drills(m, page, config, store, cons[1])
                outlives_the_worker(m, page, cons[0])
                refuses_a_port_in_use(base, port)
                says_that_the_port_was_taken(m, page)
                dashboard_and_alerts([ill, page.metrics(), *both_ends_of_a_link(base)])
            finally:
                for c in cons:
                    c.close()
            m.umount()


main("metrics", run)
