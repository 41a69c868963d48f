#!/usr/bin/python3
# timeout: 120
"""A target that is down for so long that the log reaches log_max, while the worker is killed now and then: the application
goes on, the log stays near its limit, status tells that detail is given up, and the newest commits stay restorable from
the log; when the target is back, everything that was kept arrives and verifies. Then a database that is deleted, made
anew and renamed: each life can be restored by its time, and none is mixed with another."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, alive, fazt, fazt_json, file_hash, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from oracle import Application, check_all, read_n, rfc3339, same  # noqa: E402

LIMIT = 4 << 20


def outage(base, gw):
    conf = os.path.join(base, "conf")
    out = os.path.join(base, "out.db")
    with open(conf, "w") as f:
        f.write("[mount]\nlog_max = 4M\nstop_grace = 500ms\n[target far]\nurl = %s\nlag_max = 1s\ntimeout = 2s\n" % gw.url())
    with Mount(base, "--config", conf, targets=[]) as m:
        m.start()
        app = Application(os.path.join(m.dir, "app.db"))
        app.rows(5)
        m.sync()
        shipped = app.n
        gw.kill()
        app.row()
        try:
            biggest = 0
            for i in range(60):
                app.commit("UPDATE t SET v = randomblob(300000) WHERE id = 1")
                if i % 5 == 0:
                    app.row()
                if i in (10, 20):
                    pid = m.kill_worker()
                    wait_for("the death of the worker", lambda p=pid: not alive(p))
                    m.status()
                    taken_over = time.monotonic()
                biggest = max(biggest, m.database("app.db")["log_bytes"])
            need(biggest < 3 * LIMIT, "the log grew to %d bytes, log_max is %d", biggest, LIMIT)
            wait_for("the log's limit", lambda: m.database("app.db")["log_bytes"] <= LIMIT + (2 << 20), 30)
            need("app.db: its log has reached" in m.tail(), "the log file does not tell that detail was given up")
            merged = m.database("app.db")["merged_txns"]
            need(0 < merged < app.n, "status tells that %d of %d commits were merged", merged, app.n)
            t, down = m.status()["targets"][0], time.monotonic() - taken_over
            need(t["lag_seconds"] > down - 1, "lag of %.1f s after %.1f s: what was merged counts", t["lag_seconds"], down)
            wait_for("lag_max", lambda: m.status()["targets"][0]["lag_seconds"] > 1)
            r = fazt("status", m.dir, check=False)
            need(r.returncode == 1 and "far" in r.stdout, "status during the outage: exit %d %s", r.returncode, r.stdout)
            listed = fazt_json("log", "--json", app.path)
            need(len(listed) > 1, "the log lists %d commits", len(listed))
            seen = check_all(app, m, out, source=app.path, complete=False, listed=listed)
            need(seen[-1] == app.n, "the log's last commit is %d of %d", seen[-1], app.n)
        finally:
            gw.start()
        m.sync()
        need(m.status()["targets"][0]["lag_txns"] == 0, "lag after sync: %s", m.status()["targets"][0])
        app.rows(3)
        m.sync()
        seen = check_all(app, m, out, source=gw.url("prefix/app.db"), complete=False)
        need(seen[-1] == app.n and seen[-4:] == list(range(app.n - 3, app.n + 1)), "the store ends with %s of %d", seen[-6:], app.n)
        need(seen[:shipped] == list(range(1, shipped + 1)), "what was shipped before the outage: %s", seen[:shipped + 2])
        fazt("verify", "--full", gw.url("prefix/app.db"), "-i", m.key)
        need(m.status()["healthy"] or "merged" in str(m.status()["problems"]), "status: %s", m.status()["problems"])
        app.close()
        m.umount(wait=True)


def lives(base):
    out = os.path.join(base, "out.db")
    with Mount(base, name="lives", store="lives-store") as m:
        m.start()
        path = os.path.join(m.dir, "x.db")
        past = []
        for life in range(3):
            app = Application(path, ["WAL", "DELETE", "WAL"][life], seed=life)
            app.rows(3)
            m.sync()  # a commit's time is that of its capture at the latest
            third = time.time_ns() // 1000000 + 1
            app.rows(1 + life)
            m.sync()
            app.close()
            past.append((app, third, time.time_ns() // 1000000))
            if life < 2:
                time.sleep(0.02)
                for end in ("", "-wal", "-shm", "-journal"):
                    if os.path.exists(path + end):
                        os.unlink(path + end)
        for source in (m.source("x.db"), path):
            for app, third, until in past:
                fazt("restore", source, "-i", m.key, "--at", rfc3339(until), "-o", out, "--force")
                need(same(app, out, "%s at %d" % (source, until)) == app.n, "%s: life of %d: %d", source, app.n, read_n(out))
                fazt("restore", source, "-i", m.key, "--at", rfc3339(third), "-o", out, "--force")
                need(same(app, out, "%s, commit 3" % source) >= 3, "%s: commit 3 of a life", source)
        lineages = [e["lineage"] for e in fazt_json("log", "--json", m.source("x.db"), "-i", m.key)]
        need(len(set(lineages)) == 3, "lineages in the log: %s", set(lineages))
        need(all(a == b or b not in lineages[:i + 1] for i, (a, b) in enumerate(zip(lineages, lineages[1:]))),
             "lives are mixed in the log: %s", lineages)
        fazt("verify", "--full", m.source("x.db"), "-i", m.key)

        # renamed: the new name goes on, the old one keeps its past
        app = past[-1][0]
        os.rename(path, os.path.join(m.dir, "y.db"))
        app.path = os.path.join(m.dir, "y.db")
        app.open()
        app.rows(3)
        m.sync()
        app.close()
        fazt("restore", m.source("y.db"), "-i", m.key, "-o", out, "--force")
        need(file_hash(out) == app.hash[app.n], "the renamed database's last commit")
        fazt("restore", m.source("x.db"), "-i", m.key, "-o", out, "--force")
        need(same(app, out, "the old name") == app.n - 3, "the old name ends at %d", read_n(out))
        m.umount(wait=True)


def scenario(base):
    os.environ.update(ENV)
    with Gateway(base) as gw:
        outage(base, gw)
    lives(base)


if __name__ == "__main__":
    main("outage", scenario)
