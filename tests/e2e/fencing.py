#!/usr/bin/python3
# timeout: 120
"""Two machines write to one prefix: the second is fenced, its own status says so, nothing of the first is overwritten and
the first goes on; with --take-over the second owns it and the first is fenced; so the other way round, for good. Then what may happen to a store and to the
primary's state: objects deleted by hand, plain level files lost, the whole ship directory lost. Each heals, without any
identity on the machine. At last, requests_per_month stretches the intervals."""
import os
import shutil
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, file_hash, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from oracle import Application, check_all, same  # noqa: E402


def tree(path):
    out = {}
    for d, _, fs in os.walk(path):
        for f in fs:
            with open(os.path.join(d, f), "rb") as g:
                out[os.path.relpath(os.path.join(d, f), path)] = g.read()
    return out


def target(m):
    return m.status()["targets"][0]


def fence(base, what, url, inside):
    """url: for mount; inside: the directory in which its objects lie."""
    source = url.replace("/prefix", "/prefix/app.db")
    out = os.path.join(base, "out.db")
    with Mount(base, name=what + "-1", targets=[url]) as one, Mount(base, name=what + "-2", targets=[url]) as two:
        one.start()
        a = Application(os.path.join(one.dir, "app.db"), seed=1)
        a.rows(5)
        one.sync()
        before = tree(inside)

        two.start()
        b = Application(os.path.join(two.dir, "app.db"), seed=2)
        b.rows(4)
        r = fazt("sync", "--wait", "--timeout", "20", two.dir, check=False)
        need(r.returncode == 1 and "FZ-1301" in r.stderr, "%s: sync of a fenced writer: exit %d %s", what, r.returncode, r.stderr)
        t = target(two)
        need("fazt mount --take-over" in r.stderr, "%s: the way out is not named: %s", what, r.stderr)
        need(t["state"] == "fenced" and "fazt mount --take-over" in t["last_error"], "%s: the second writer: %s", what, t)
        r = fazt("status", two.dir, check=False)
        need(r.returncode == 1 and "fenced" in r.stdout, "%s: status of a fenced writer: exit %d %s", what, r.returncode, r.stdout)
        need(target(one)["conditional_put"] == "native", "%s: status does not say how claims are made: %s", what, target(one))
        need(tree(inside) == before, "%s: the fenced writer changed the store", what)
        a.rows(3)
        one.sync()
        need(target(one)["state"] == "ok", "%s: the first writer: %s", what, target(one))
        now = tree(inside)
        need(all(now.get(k) == v for k, v in before.items()), "%s: an object of the first writer changed", what)
        check_all(a, one, out, source=source)

        # the second takes over
        b.close()
        two.umount()
        two.flags.append("--take-over")
        two.start()
        b.open()
        b.row()
        two.sync()
        need(target(two)["state"] == "ok" and two.status()["healthy"], "%s: after the take-over: %s", what, target(two))
        mine = tree(inside)
        need(all(mine.get(k) == v for k, v in now.items()), "%s: take-over changed the first writer's objects", what)
        a.close()
        one.umount()
        one.start()  # a start looks at the claim at once; a running mount does within a minute
        a.open()
        a.row()
        r = fazt("sync", "--wait", "--timeout", "20", one.dir, check=False)
        need(r.returncode == 1 and "FZ-1301" in r.stderr, "%s: sync of the first after a take-over: %d %s", what, r.returncode,
             r.stderr)
        need(target(one)["state"] == "fenced", "%s: the first after a take-over: %s", what, target(one))
        b.row()
        two.sync()
        listed = fazt_json("log", "--json", source, "-i", two.key)  # the first writer's commits are listed, too
        lineage = two.database("app.db")["lineage"]
        need({e["lineage"] for e in listed} == {lineage, one.database("app.db")["lineage"]}, "%s: lineages in the log", what)
        check_all(b, two, out, source=source, listed=[e for e in listed if e["lineage"] == lineage])
        fazt("verify", "--full", source, "-i", two.key)
        fazt("restore", source, "-i", two.key, "-o", out, "--force")
        need(file_hash(out) == b.hash[b.n], "%s: the latest is not the second writer's", what)

        # the first takes it back: the second was told to take over once, and its next worker does not do it again
        a.close()
        one.umount()
        one.flags.append("--take-over")
        one.start()
        a.open()
        a.row()
        one.sync()
        claims = sorted(os.listdir(os.path.join(inside, "app.db", "claim")))
        two.kill_worker()
        b.row()
        r = fazt("sync", "--wait", "--timeout", "20", two.dir, check=False)
        need(r.returncode == 1 and "FZ-1301" in r.stderr, "%s: sync of the second's next worker: %d %s", what, r.returncode, r.stderr)
        need(sorted(os.listdir(os.path.join(inside, "app.db", "claim"))) == claims, "%s: it was claimed once more", what)
        one.kill_worker()  # and what the first one's own next worker may do, it does
        a.row()
        one.sync()
        need(target(one)["state"] == "ok", "%s: the first after its worker's death: %s", what, target(one))
        a.close()
        b.close()
        two.umount()
        one.umount(wait=True)


HEAL = """[target t]
url = dir:%s/heal-store
ship_interval = 50ms
minute = 500ms
hour = 1500ms
day = 3s
snapshot_interval = 1d
"""


def heal(base):
    conf = os.path.join(base, "heal.conf")
    with open(conf, "w") as f:
        f.write(HEAL % base)
    store = os.path.join(base, "heal-store", "app.db")
    out = os.path.join(base, "out.db")
    m = Mount(base, "--config", conf, name="heal", store="heal-store", targets=[])
    secret = m.key + ".away"
    os.rename(m.key, secret)  # the machine has no identity at all
    with m:
        m.start()
        need(not os.path.exists(os.path.join(m.dir, ".fazt", "identity")), "an identity was made")
        app = Application(os.path.join(m.dir, "app.db"))

        def levels():
            return {int(os.path.basename(d)): sorted(os.path.join(d, f) for f in fs if not f.startswith("."))
                    for d, _, fs in os.walk(store) if os.path.basename(d).isdigit() and len(os.path.basename(d)) == 1}

        def until(level, n=1):
            wait_for("level %d" % level, lambda: app.row() or time.sleep(0.03) or len(levels().get(level, [])) >= n, 40)
        until(4)
        state = os.path.join(m.dir, ".fazt")
        for _ in range(10):  # plain files of the levels that the next level has not consumed when it ends
            m.sync()
            app.close()
            m.umount(wait=True)
            plain = [os.path.join(d, f) for d, _, fs in os.walk(os.path.join(state, "ship")) for f in fs
                     if f.startswith("plain+")]
            if plain:
                break
            m.start()
            app.open()
            app.rows(5)
        m.key = secret
        check_all(app, m, out)
        need(plain, "no plain level file in the state directory")
        for f in plain:  # are lost while it does not run
            os.unlink(f)
        m.start()
        app.open()
        until(5)
        m.sync()
        check_all(app, m, out)
        fazt("verify", "--full", m.source("app.db"), "-i", m.key)
        days = levels()[5]

        # a hole in the newest packs, made by hand: what the primary still holds is shipped as a snapshot
        app.close()
        m.umount(wait=True)
        there = levels()
        for level in (0, 1, 2, 3, 4, 5, 9):
            for f in there.get(level, [])[-1:]:
                os.unlink(f)
        listed = [e["txid"] for e in fazt_json("log", "--json", m.source("app.db"), "-i", m.key)]
        for n in listed[::9]:  # what is still told to be restorable is
            m.restore("app.db", out, "--txid", n)
            same(app, out, "TXID %d behind a hole" % n)
        m.start()
        app.open()
        app.rows(3)
        m.sync()

        def whole():
            app.row()
            m.sync()
            r = m.restore("app.db", out, check=False)
            return r.returncode == 0 and same(app, out, "after the hole") == app.n
        wait_for("a snapshot over the hole", whole, 20)
        need(days, "no day")

        # the whole ship directory is lost
        app.close()
        m.umount(wait=True)
        shutil.rmtree(os.path.join(state, "ship"))
        m.start()
        app.open()
        app.rows(3)
        r = fazt("sync", "--wait", "--timeout", "20", m.dir, check=False)
        if r.returncode:  # it forgot who it is: the operator says that it may go on
            need("FZ-1301" in r.stderr, "without its ship directory: %s", r.stderr)
            app.close()
            m.umount()
            m.flags.append("--take-over")
            m.start()
            app.open()
            app.rows(3)
            m.sync()
        m.restore("app.db", out)
        need(same(app, out, "after the ship directory was lost") == app.n, "the last commit is missing")
        app.close()
        m.umount(wait=True)
        need("identity" not in os.listdir(state), "an identity was made")


def budget(base, gw):
    """A month's requests that allow one in minutes: the first burst goes out, then the interval is stretched."""
    conf = os.path.join(base, "budget.conf")
    with open(conf, "w") as f:
        f.write("[encrypt]\nencrypt = none\n[target s3]\nurl = %s\nship_interval = 20ms\nrequests_per_month = 300\n"
                "lag_max = 1h\n" % gw.url("budget"))
    with Mount(base, "--encrypt", "none", "--config", conf, name="budget", targets=[]) as m:
        m.start()
        app = Application(os.path.join(m.dir, "app.db"))
        before = len(gw.requests("budget"))
        end = time.monotonic() + 4
        while time.monotonic() < end:
            app.row(20)
            time.sleep(0.01)
        used = len(gw.requests("budget")) - before
        t = target(m)
        need(used <= 12, "%d requests in 4 s although 300 a month (10 at once) were allowed", used)
        need(t["ship_interval_ms"] > 20 and t["requests_per_month"] == 300, "status: %s", t)
        m.sync()  # an explicit sync is never held back
        need(target(m)["lag_txns"] == 0, "sync --wait did not ship")
        fazt("restore", gw.url("budget/app.db"), "-o", os.path.join(base, "b.db"))
        need(file_hash(os.path.join(base, "b.db")) == app.hash[app.n], "not the last commit")
        app.close()
        m.umount()


def scenario(base):
    os.environ.update(ENV)
    os.makedirs(os.path.join(base, "shared"))
    fence(base, "dir", "dir:%s/shared/prefix" % base, os.path.join(base, "shared", "prefix"))
    with Gateway(base) as gw:
        fence(base, "s3", gw.url(), gw.file("prefix"))
        budget(base, gw)
    heal(base)


if __name__ == "__main__":
    main("fencing", scenario)
