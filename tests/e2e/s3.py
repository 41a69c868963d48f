#!/usr/bin/python3
# timeout: 150
"""S3 from end to end, against a real server (versitygw): ship, log, restore by time and TXID, verify; the server is killed
and comes back while fazt ships and while it restores; wrong credentials, a missing bucket and a dead server are told as
what they are; an idle database makes no request (counted in the server's own access log)."""
import os
import re
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, fazt_json, file_hash, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway, free_port  # noqa: E402
from oracle import CLOCK_MS, Application, check_all, rfc3339, same  # noqa: E402

NOBODY = {"AWS_ACCESS_KEY_ID": "scenario", "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_EC2_METADATA_DISABLED": "true"}


def with_env(env):
    return {"env": {**os.environ, **env}}


def failing(code, word, *args, env=ENV):
    r = fazt(*args, check=False, **with_env(env))
    need(r.returncode == code and word in r.stderr, "fazt %s: exit %d, not %d with %s: %s%s", " ".join(map(str, args)),
         r.returncode, code, word, r.stdout, r.stderr)
    need("scenario-secret" not in r.stderr + r.stdout, "a secret is shown")
    return r


def end_to_end(base, gw):
    out = os.path.join(base, "out.db")
    with Mount(base, targets=[gw.url()], name="app") as m:
        m.start(env=ENV)
        os.mkdir(os.path.join(m.dir, "sub dir"))
        apps = [Application(os.path.join(m.dir, "app.db")), Application(os.path.join(m.dir, "sub dir", "b+ö.db"), "DELETE")]
        for _ in range(15):
            for a in apps:
                a.row()
        m.sync()
        stored = [f for d, _, fs in os.walk(gw.file("prefix")) for f in fs]
        need(any(f.endswith(".pack.age") for f in stored), "no pack in the bucket: %s", stored)
        need(not gw.requests("scenario-secret"), "the secret is in a request")
        t = m.status()["targets"][0]
        need(t["conditional_put"] == "native", "conditional PUT: %s", t["conditional_put"])
        need(t["requests"] == len(gw.requests()), "fazt counted %d requests, the server %d", t["requests"], len(gw.requests()))
        for a, name in zip(apps, ("app.db", "sub dir/b+ö.db")):
            url = gw.url("prefix/" + name)
            check_all(a, m, out, source=url, env=ENV)
            v = fazt_json("verify", "--full", "--json", url, "-i", m.key, **with_env(ENV))
            need(v["last_txid"] == m.database(name)["txid"], "verify ends at %s", v)
        for a, name, late in ((apps[1], "sub dir/b+ö.db", 0), (apps[0], "app.db", 5)):  # WAL: a tick of the kernel's clock
            url = gw.url("prefix/" + name)
            for n in (1, 7, 16):
                at = a.after_ms[n] + late
                r = fazt_json("restore", url, "-i", m.key, "--at", rfc3339(at), "-o", out, "--force", "--json",
                              **with_env(ENV))
                got = same(a, out, "--at commit %d" % n)
                need(got >= n and a.before_ms[got] <= at + CLOCK_MS, "--at commit %d (%d) restored %d (%s)", n, at, got, r)
        log = fazt_json("log", "--json", url, "-i", m.key, **with_env(ENV))
        need([e["txid"] for e in log] == list(range(1, m.database("app.db")["txid"] + 1)), "log lists %d commits", len(log))

        # idle: while both databases stay open and even read, the server is asked nothing
        m.sync()
        wait_for("the end of the last request", lambda: m.status()["targets"][0]["lag_bytes"] == 0)
        for last in (False, False, True):
            before = len(gw.requests())
            end = time.monotonic() + 4  # several ship_intervals: not a wait for something
            while time.monotonic() < end:
                a.con.execute("SELECT count(*) FROM t").fetchall()
                time.sleep(0.05)
            asked = gw.requests()[before:]
            if not asked:
                break
            # a minute, an hour or a day has just ended: its levels, once
            need(not last and all("PutObject" in r and re.search(r"/0{8}/[1-5]/", r) for r in asked),
                 "an idle database made %d requests: %s", len(asked), "".join(asked)[:1000])

        # the wrong key and the missing things
        failing(1, "FZ-1302", "restore", url, "-i", m.key, "-o", out + ".x", env=NOBODY)
        failing(1, "FZ-1302", "log", url, env=NOBODY)
        r = failing(1, "FZ-1302", "restore", gw.url("prefix/app.db", bucket="no-such-bucket"), "-i", m.key, "-o", out + ".x")
        need("NoSuchBucket" in r.stderr or "bucket" in r.stderr, "a missing bucket is told as: %s", r.stderr)
        failing(3, "FZ-1203", "restore", gw.url("prefix/none.db"), "-i", m.key, "-o", out + ".x")
        failing(3, "FZ-1203", "log", gw.url("prefix/none.db"))
        there = {o["database"]: o["txid"] for o in fazt_json("log", "--json", gw.url("prefix"), **with_env(ENV))}
        need(there == {d["name"]: d["txid"] for d in m.status()["databases"]}, "log of the whole prefix: %s", there)
        failing(3, "FZ-1203", "verify", gw.url("prefix/none.db"), "-i", m.key)
        failing(3, "FZ-1204", "restore", url, "-i", m.key, "--at", "3000 days ago", "-o", out + ".x")
        need(not os.path.exists(out + ".x"), "a failed restore left a file")

        # the server dies while the application goes on; commits are kept, the monitor sees it; it comes back
        gw.kill()
        for a in apps:
            a.rows(5)
        r = fazt("sync", "--wait", "--timeout", "1", m.dir, check=False)
        need(r.returncode == 1 and "FZ-" in r.stderr, "sync with a dead server: exit %d %s", r.returncode, r.stderr)
        t = m.status()["targets"][0]
        need(t["lag_bytes"] > 0 and t["lag_txns"] == 10 and t["state"] == "retrying", "status while the server is down: %s", t)
        wait_for("last_error", lambda: "FZ-1303" in m.status()["targets"][0]["last_error"] or
                 "connect" in m.status()["targets"][0]["last_error"].lower())
        gw.start()
        m.sync()
        for a in apps:
            a.row()
        # killed again and again in the middle of shipping
        for i in range(4):
            apps[0].con.execute("SELECT 1")
            apps[0].commit("INSERT INTO t(v) VALUES (randomblob(3000000))")
            wait_for("a request", lambda k=len(gw.requests()): len(gw.requests()) >= k)
            gw.kill()
            apps[1].row()
            gw.start()
        m.sync()
        for a, name in zip(apps, ("app.db", "sub dir/b+ö.db")):
            check_all(a, m, out, source=gw.url("prefix/" + name), env=ENV)
            fazt("verify", gw.url("prefix/" + name), "-i", m.key, **with_env(ENV))
            a.close()
        need(m.status()["healthy"] and not m.status()["targets"][0]["last_error"], "status after all: %s", m.status())
        m.umount(wait=True)
        restore_while_killed(base, gw, m, apps[0], url)


def restore_while_killed(base, gw, m, app, url):
    """The server is stopped in mid-answer, killed, started anew: the restore resumes."""
    out = os.path.join(base, "resumed.db")
    before = len(gw.requests("GET"))
    p = subprocess.Popen([FAZT, "restore", url, "-i", m.key, "-o", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, **with_env(ENV))
    while p.poll() is None and len(gw.requests("GET")) < before + 2:
        time.sleep(0.001)
    gw.kill()
    gw.start()
    _, err = p.communicate(timeout=90)
    need(p.returncode == 0, "restore while the server was restarted: exit %d: %s", p.returncode, err)
    need(file_hash(out) == app.hash[app.n], "the resumed restore differs")
    gw.kill()
    conf = os.path.join(base, "off.conf")
    with open(conf, "w") as f:
        f.write("[target off]\nurl = %s\ntimeout = 1s\n" % gw.url())
    r = fazt("restore", "off/app.db", "-c", conf, "-i", m.key, "-o", out + ".2", check=False, **with_env(ENV))
    need(r.returncode == 1 and "FZ-1303" in r.stderr, "restore from a dead server: exit %d %s", r.returncode, r.stderr)
    need(not os.path.exists(out + ".2"), "a failed restore left a file")
    need([f for f in os.listdir(base) if f.startswith("resumed.db")] == ["resumed.db"], "litter: %s", os.listdir(base))
    gw.start()


def wrong_from_the_start(base, gw):
    """Mounted with wrong credentials or a missing bucket: it serves, status says why, and put right it catches up."""
    for name, env, url, word in (("creds", NOBODY, gw.url("wrong"), "Signature"),
                                 ("bucket", ENV, gw.url("p", bucket="late-bucket"), "NoSuchBucket")):
        with Mount(base, targets=[url], name=name) as m:
            m.start(env=env)
            app = Application(os.path.join(m.dir, "a.db"))
            app.rows(3)
            wait_for("last_error", lambda: word in m.status()["targets"][0]["last_error"])
            r = fazt("status", m.dir, check=False)
            need(r.returncode == 1, "status with %s: exit %d %s", name, r.returncode, r.stdout)
            r = fazt("sync", "--wait", "--timeout", "1", m.dir, check=False)
            need(r.returncode == 1, "sync with %s: exit %d", name, r.returncode)
            if name == "bucket":
                os.mkdir(os.path.join(gw.root, "late-bucket"))
                m.sync()
                app.row()
                m.sync()
                check_all(app, m, os.path.join(base, "o.db"), source=gw.url("p/a.db", bucket="late-bucket"), env=ENV)
                need(fazt("status", m.dir).returncode == 0, "status after the bucket came")
            app.close()
            m.umount()


def told_while_waiting(base):
    """Whoever waits for a store that does not answer is told for what, once; one that refuses from the start is given up on
    sooner than one that is merely silent."""
    key, conf, out = os.path.join(base, "wait.key"), os.path.join(base, "wait.conf"), os.path.join(base, "wait.db")
    fazt("keygen", "-o", key)
    nobody = "127.0.0.1:%d" % free_port()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        mute = "127.0.0.1:%d" % silent.getsockname()[1]
        with open(conf, "w") as f:
            f.write("[target mute]\nurl = s3://bucket/p?endpoint=http://%s\ntimeout = 8s\n" % mute)
        url = "s3://bucket/p/app.db?endpoint=http://" + nobody
        cases = [(["log", url], nobody, "refused", "15 s", "FZ-1303"),
                 (["verify", url, "-i", key], nobody, "refused", "15 s", "FZ-1303"),
                 (["restore", url, "-i", key, "-o", out], nobody, "refused", "15 s", "FZ-1303"),
                 (["log", "mute/app.db", "-c", conf], mute, "nothing was heard", "5 s", "FZ-1306")]
        running = [subprocess.Popen([FAZT, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                    stdin=subprocess.DEVNULL, **with_env(ENV)) for args, *_ in cases]
        try:
            for p, (args, host, why, most, code) in zip(running, cases):
                _, err = p.communicate(timeout=90)
                told = [l for l in err.splitlines() if "does not answer" in l]
                need(len(told) == 1 and "http://%s does not answer" % host in told[0] and why in told[0] and
                     "trying on for up to" in told[0], "fazt %s is told as: %s", " ".join(args), err)
                left = int(told[0].rsplit("up to ", 1)[1].split()[0])
                need(left <= int(most.split()[0]), "fazt %s tries on for %d s", args[0], left)
                need(p.returncode == 1 and code in err.split("does not answer", 1)[1], "fazt %s: exit %d: %s", args[0],
                     p.returncode, err)
                need("secret" not in err, "a secret is shown: %s", err)
        finally:
            for p in running:
                p.kill()
                p.wait()
    need(not os.path.exists(out), "a failed restore left a file")


def scenario(base):
    told_while_waiting(base)
    with Gateway(base) as gw:
        end_to_end(base, gw)
        wrong_from_the_start(base, gw)


if __name__ == "__main__":
    main("s3", scenario)
