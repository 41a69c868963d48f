#!/usr/bin/python3
# timeout: 120
"""alert_url: what is wrong with a mount reaches real web servers, signed, when it begins, again at intervals, and when it is over; also
after the worker was killed. A server that hangs, refuses or redirects holds nobody up and gets its message later, or the reason is
told; what it refuses of one problem is nothing to the next. What the URLs hold is in no log, status or answer."""
import hashlib
import hmac
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, fazt_json, main, need, wait_for  # noqa: E402
from hooks import CERT, Hook  # noqa: E402

TOKEN = "T00xSECRETx"
KEY = b"a key of 16 characters or more"
BEARER = "Bearer of-good-news"


def put(path, text, mode=0o600):
    with open(path, "w", errors="surrogateescape") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def commit(path, n=1):
    con = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("CREATE TABLE IF NOT EXISTS t(x)")
        for _ in range(n):
            con.execute("INSERT INTO t VALUES (randomblob(3000))")
    finally:
        con.close()


def conf(base, name, urls, extra=""):
    put(os.path.join(base, "urls"), "# one a line\n" + "".join(u + "\n" for u in urls))
    put(os.path.join(base, "secret"), KEY.decode() + "\n")
    put(os.path.join(base, "headers"), "Authorization: %s\n" % BEARER)
    return put(os.path.join(base, name), "[mount]\nalert_url = %s/urls\nalert_secret = %s/secret\nalert_headers = %s/headers\n"
               "alert_cacert = %s\nalert_timeout = 1s\nstop_grace = 100ms\n%s" % (base, base, base, CERT, extra))


def flip(path):
    with open(path, "r+b") as f:
        f.seek(-40, os.SEEK_END)
        b = f.read(1)
        f.seek(-40, os.SEEK_END)
        f.write(bytes([b[0] ^ 1]))


def secret_kept(base, *texts):
    for name in ("fazt.log",):
        with open(os.path.join(base, name), errors="replace") as f:
            texts += (f.read(),)
    for t in texts:
        for word in (TOKEN, BEARER, KEY.decode()):
            need(word not in t, "a secret is told: %s", t)


def well_formed(hook):
    for path, headers, body in hook.posts:
        o = json.loads(body)
        need(headers["X-Fazt-Signature"] == "sha256=" + hmac.new(KEY, body, hashlib.sha256).hexdigest(), "signature of %s", o)
        need(headers["Authorization"] == BEARER and headers["Content-Type"] == "application/json", "%s", headers)
        need(TOKEN in path and {"event", "kind", "about", "text", "host", "dir", "role", "id", "since", "time", "version"} <= set(o), "%s", o)


def lag(base):
    """One target that cannot be written; four servers."""
    blocked = put(os.path.join(base, "blocked"), "")
    with Hook(tls=True) as good, Hook(500, 503, 200) as sorry, Hook("hang") as hung, Hook() as elsewhere, \
            Hook(307, location=elsewhere.base + "/" + TOKEN) as moved:
        urls = [h.base + "/hook/" + TOKEN for h in (hung, good, sorry, moved)]
        c = conf(base, "lag.conf", urls, "alert_interval = 3s\n")
        m = Mount(base, "--config", c, targets=["dir:%s/store" % blocked])
        with open(c, "a") as f:
            f.write("[encrypt]\nencrypt = none\n[target broken]\nurl = dir:%s/store\nlag_max = 1ms\n" % blocked)
        m.targets = []
        with m:
            m.start()
            began = time.time()
            events = subprocess.Popen([FAZT, "events", m.dir], stdout=subprocess.PIPE, text=True)
            commit(os.path.join(m.dir, "a.db"))
            wait_for("the problem to arrive", lambda: "problem" in good.events("lag"))
            o = [o for o in good.told() if o["kind"] == "lag"][0]
            need(o["about"] == "broken" and "target broken lags" in o["message"] and m.dir in o["text"] and o["role"] == "primary", "%s", o)
            commit(os.path.join(m.dir, "a.db"), 50)  # nobody waits for the server that hangs
            wait_for("the server that refused twice", lambda: "problem" in sorry.events("lag") and len(sorry.posts) >= 3)
            wait_for("hung and moved to be asked", lambda: hung.posts and moved.posts)
            m.kill_worker()
            wait_for("a repetition", lambda: "repeat" in good.events("lag"))
            need(good.events("lag").count("problem") == 1, "the next worker told it anew: %s", good.events("lag"))
            wait_for("the redirect to be told", lambda: "redirect (307)" in fazt("alert", m.dir).stdout)
            r = fazt("alert", m.dir)
            need("lag: target broken" in r.stdout and "told 2 of 4" in r.stdout, "%s", r.stdout)
            os.unlink(blocked)
            os.mkdir(blocked)
            wait_for("the end to arrive", lambda: "resolved" in good.events("lag") and "resolved" in sorry.events("lag"))
            need(good.events("lag")[-1] == "resolved" and good.events("lag").count("resolved") == 1, "%s", good.events("lag"))
            told = [o for o in good.told() if o["kind"] == "lag"]
            need(len({o["id"] for o in told}) == 1 and "until" in told[-1], "%s", told)
            need(len(told) - 2 <= (time.time() - began) / 3, "more than one in an interval: %s", told)
            secret_kept(base, r.stdout, json.dumps(m.status()))

            t = fazt("alert", "--test", "--json", m.dir, check=False)
            need(t.returncode == 1, "a test with servers that fail: exit %d", t.returncode)
            by = dict(zip(("hung", "good", "sorry", "moved"), json.loads(t.stdout)["urls"]))
            need(by["good"]["arrived"] and by["good"]["status"] == 200 and by["sorry"]["arrived"], "%s", by)
            need(not by["hung"]["arrived"] and by["hung"]["code"] == 1306 and by["hung"]["took_ms"] >= 1000, "%s", by["hung"])
            need(by["moved"]["status"] == 307 and "redirect" in by["moved"]["error"] and by["moved"]["said"] == "no such hook", "%s", by)
            need(not elsewhere.posts, "a redirect was followed")
            need("test" in good.events("test"), "the test")
            secret_kept(base, t.stdout, t.stderr)
            m.umount()
            lines = [json.loads(line) for line in events.communicate(timeout=20)[0].splitlines()]
            need(len([o for o in lines if o["event"] == "problem" and o["kind"] == "lag"]) == 1, "events: once, whatever its numbers: %s", lines)
            need(not [o for o in good.told() if o["kind"] not in ("lag", "test", "failed")], "%s", good.told())
            with open(os.path.join(m.dir, ".fazt", "alerts")) as f:
                secret_kept(base, f.read())
        for h in (good, sorry, hung, moved):
            well_formed(h)
        secret_kept(base)


def found(base):
    """Little room; what the scrub finds; a writer that was fenced. One hook over plain HTTP."""
    with Hook() as hook:
        c = conf(base, "found.conf", [hook.base + "/" + TOKEN], "alert_interval = 2s\ndisk_min = 900T\n")
        store = "dir:" + os.path.join(base, "shared")
        with Mount(base, "--config", c, name="one", targets=[store]) as one, Mount(base, name="two", targets=[store]) as two:
            two.start()  # the prefix is its own
            commit(os.path.join(two.dir, "a.db"))
            two.sync()
            two.umount()
            one.start()
            wait_for("disk pressure", lambda: "problem" in hook.events("disk"))
            commit(os.path.join(one.dir, "a.db"))  # so that the mount has such a database, in that target
            fazt("sync", one.dir)
            damaged = max((os.path.join(d, f) for d, _, fs in os.walk(store[4:]) for f in fs if f.endswith(".age")), key=os.path.getsize)
            flip(damaged)
            r = fazt("verify", store + "/a.db", "-i", one.key, check=False)  # as a timer does it
            need(r.returncode == 4, "verify of a damaged store: %d %s", r.returncode, r.stderr)
            wait_for("the failed verify", lambda: any("last verify" in o["message"] for o in hook.told()))
            flip(damaged)
            fazt("verify", store + "/a.db", "-i", one.key)
            wait_for("the verify that succeeded", lambda: hook.events("verify")[-1] == "resolved")
            commit(os.path.join(one.dir, "a.db"), 20)
            wait_for("fencing", lambda: "problem" in hook.events("fenced"))
            con = sqlite3.connect(os.path.join(one.dir, "a.db"))
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            con.close()
            fazt("sync", one.dir)
            backing = "/proc/%d/fd/11/a.db" % one.status()["worker_pid"]  # around the mount
            with open(backing, "r+b") as f:
                f.seek(5 * 4096 + 2000)
                f.write(b"somebody else")
            fazt("verify", "--live", one.dir, check=False)
            wait_for("what the scrub found", lambda: any("the scrub found" in o["message"] and o["event"] == "problem" for o in hook.told()))
            need({o["about"] for o in hook.told() if o["kind"] == "verify"} == {"a.db"}, "%s", hook.told())
            with open(c) as f:
                text = f.read()
            put(c, text.replace("disk_min = 900T", "disk_min = 1"))
            fazt("reload", one.dir)
            wait_for("the room to be enough", lambda: "resolved" in hook.events("disk"))
        well_formed(hook)


def choosy(base):
    """Problems of a state directory whose name is no UTF-8, and of a target. A receiver that refuses the first gets the second and its
    end; of what it never took it hears no end, and the book keeps nothing of it. One that fails over the first gets the second too, again
    and again, until the first is given up."""
    app, state = os.path.join(base, "choosy"), os.path.join(base, os.fsdecode(b"caf\xe9"))
    os.mkdir(app)
    blocked = put(os.path.join(base, "in-the-way"), "")
    with Hook(refuse="disk") as hook, Hook() as other, Hook(fail="disk") as ill:
        c = conf(base, "choosy.conf", [h.base + "/" + TOKEN for h in (hook, other, ill)],
                 "alert_interval = 1s\nstate = %s\ndisk_min = 900T\n[encrypt]\nencrypt = none\n"
                 "[target broken]\nurl = dir:%s/store\nlag_max = 1ms\n" % (state, blocked))
        fazt("mount", "--config", c, app)
        try:
            wait_for("the disk's problem to be refused", lambda: hook.posts)
            commit(os.path.join(app, "a.db"))
            wait_for("the problem behind it", lambda: [o for o in hook.taken if o["kind"] == "lag"])
            wait_for("the same where the first ends in an error", lambda: [o for o in ill.taken if o["kind"] == "lag"])

            def given_up():
                return [u["given_up"] for u in fazt_json("alert", "--json", app)["urls"]]
            wait_for("the first to be given up there", lambda: given_up()[2])
            need(given_up()[1] == 0 and len(ill.events("disk")) >= 6, "given up: %s after %s", given_up(), ill.events("disk"))
            need("given up, while others arrived" in fazt("alert", app).stdout, "who is told that it was given up")
            ill.fail = None
            wait_for("the first, which is tried anew", lambda: [o for o in ill.taken if o["kind"] == "disk"])
            wait_for("who takes both", lambda: {"disk", "lag"} <= {o["kind"] for o in other.taken})
            shown = [o["about"] for o in other.taken if o["kind"] == "disk"][0]
            need(shown == os.path.join(base, "caf\\xe9"), "the name is told as %s", shown)
            with open(c, errors="surrogateescape") as f:
                text = f.read()
            put(c, text.replace("disk_min = 900T", "disk_min = 1"))
            fazt("reload", app)
            os.unlink(blocked)
            os.mkdir(blocked)
            wait_for("its end", lambda: hook.taken[-1]["event"] == "resolved")
            wait_for("the end of both", lambda: all("resolved" in h.events(kind) for h in (other, ill) for kind in ("disk", "lag")))
            wait_for("both to be forgotten", lambda: not [a for a in fazt_json("alert", "--json", app)["alerts"] if a["kind"] in ("disk", "lag")])
            need("resolved" not in hook.events("disk"), "the end of what was refused: %s", hook.events("disk"))
        finally:
            fazt("umount", app)
        for h in (hook, other, ill):
            well_formed(h)


def link(path, to):
    os.symlink(to, path)
    return path


def refused(base):
    app = os.path.join(base, "refused")
    os.mkdir(app)
    good = put(os.path.join(base, "urls"), "https://127.0.0.1:1/%s\n" % TOKEN)
    for line, code, says in (
            ("alert_url = %s" % put(os.path.join(base, "open"), "https://x/y\n", 0o644), 2, "chmod 600"),
            ("alert_url = %s" % put(os.path.join(base, "none"), "# nothing\n"), 2, "holds no URL"),
            ("alert_url = %s" % put(os.path.join(base, "ftp"), "ftp://%s\n" % TOKEN), 2, "ftp, line 1: neither https"),
            ("alert_url = https://%s" % (TOKEN + "x" * 130), 2, "longer than 120 bytes"),
            ("alert_url = %s\nalert_secret = %s" % (good, put(os.path.join(base, "short"), "short\n")), 2, "less than 16"),
            ("alert_url = %s\nalert_headers = %s" % (good, put(os.path.join(base, "bad"), "no colon\n")), 2, "not NAME: VALUE"),
            ("alert_url = %s" % put(os.path.join(app, "inside"), "https://x/y\n"), 2, "below the mount"),
            ("alert_url = %s" % link(os.path.join(base, "to-link"), link(os.path.join(base, "to-file"), "refused/inside")), 2, "below the mount")):
        c = put(os.path.join(base, "refused.conf"), "[mount]\n%s\n" % line)
        r = fazt("mount", "--config", c, app, check=False)
        need(r.returncode == code and says in r.stderr and TOKEN not in r.stderr, "%s: exit %d: %s", line, r.returncode, r.stderr)
    c = put(os.path.join(base, "refused.conf"), "[mount]\nalert_url = %s\n" % good)
    r = fazt("alert", "--test", "--config", c, app, check=False)  # not mounted: from here
    need(r.returncode == 1 and "https://127.0.0.1:1/..." in r.stdout and "FZ-1303" in r.stdout and TOKEN not in r.stdout, "%s", r.stdout)


def no_names(base):
    """A name server that never answers keeps nobody from unmounting. In a mount namespace of its own (see below)."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    app = os.path.join(base, "names")
    os.mkdir(app)
    try:
        server.bind(("127.0.0.9", 53))
        subprocess.run(["mount", "--bind", put(os.path.join(base, "resolv.conf"),
                                               "nameserver 127.0.0.9\noptions timeout:30 attempts:5\n", 0o644),
                        os.path.realpath("/etc/resolv.conf")], check=True)
        c = put(os.path.join(base, "names.conf"), "[mount]\nalert_url = https://hooks.example.test/x\nalert_interval = 1s\n"
                "alert_timeout = 100s\ndisk_min = 900T\n")
        fazt("mount", "--config", c, app)
        server.settimeout(30)
        server.recv(4096)  # it asks
        fazt("umount", app, timeout=30)
    finally:
        server.close()


def run(base):
    refused(base)
    lag(base)
    found(base)
    choosy(base)
    no_names(base)


if not os.environ.get("ALERTS_OWN_NAMESPACE"):
    os.environ["ALERTS_OWN_NAMESPACE"] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
main("alerts", run)
