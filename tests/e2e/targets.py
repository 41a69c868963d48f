#!/usr/bin/python3
# timeout: 120
"""Several targets at once, one of them down. The others are not held up, `fazt status` tells which one lags, how far and
why, and its exit code reaches a monitor; `fazt sync --wait` fails in time; the log keeps what is not shipped, also over a
restart. When it comes back it catches up, and every target holds every commit."""
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from oracle import Application, check_all  # noqa: E402

CONF = """[mount]
stop_grace = 500ms
[target near]
url = dir:%(base)s/near
[target far]
url = %(far)s
lag_max = 1s
timeout = 2s
[target blocked]
url = dir:%(base)s/blocked/store
lag_max = 1s
"""


def targets(m):
    return {t["name"]: t for t in m.status()["targets"]}


def broken(m, name, what):
    t = targets(m)[name]
    need(t["state"] in ("retrying", "failed") and t["last_error"], "%s: %s: %s", what, name, t)
    need(t["lag_bytes"] > 0 and t["lag_txns"] > 0 and t["lag_seconds"] >= 1, "%s: lag of %s: %s", what, name, t)


def scenario(base):
    os.environ.update(ENV)
    out = os.path.join(base, "out.db")
    with Gateway(base) as gw, Mount(base, "--config", os.path.join(base, "conf"), targets=[]) as m:
        with open(os.path.join(base, "conf"), "w") as f:
            f.write(CONF % {"base": base, "far": gw.url()})
        gw.kill()
        with open(os.path.join(base, "blocked"), "w"):  # a file where a directory is needed
            pass
        m.start()
        app = Application(os.path.join(m.dir, "app.db"))
        app.rows(20)
        head = m.database("app.db")["txid"]
        wait_for("the near target", lambda: targets(m)["near"]["txid"] == head, 120)
        near = targets(m)["near"]
        need(near["lag_bytes"] == 0 and near["lag_seconds"] == 0 and not near["last_error"], "near: %s", near)
        wait_for("the lag of the others", lambda: all(targets(m)[t]["lag_seconds"] > 1.1 for t in ("far", "blocked")))
        wait_for("their errors", lambda: all(targets(m)[t]["last_error"] for t in ("far", "blocked")))
        for t in ("far", "blocked"):
            broken(m, t, "down")
        r = fazt("status", m.dir, check=False)
        need(r.returncode == 1 and "problem: target far" in r.stdout and "problem: target blocked" in r.stdout and
             "problem: target near" not in r.stdout, "status: exit %d\n%s", r.returncode, r.stdout)
        s = m.status()
        need(not s["healthy"] and len(s["problems"]) == 2, "status --json: %s", s["problems"])
        for args in (("sync", "--wait", "--timeout", "1"), ("umount", "--wait", "--timeout", "1")):
            began = time.monotonic()
            r = fazt(*args, m.dir, check=False)
            need(r.returncode == 1 and "FZ-" in r.stderr, "%s: exit %d %s", args, r.returncode, r.stderr)
            need(time.monotonic() - began < 30, "%s took %.0f s", args, time.monotonic() - began)
        need(os.path.ismount(m.dir), "umount --wait went although two targets hold nothing")
        fazt("sync", m.dir)  # without --wait the targets do not matter
        for n in (1, 10, 21):  # the near one can be restored from all the while
            check_all(app, m, out, source="dir:%s/near/app.db" % base, complete=False,
                      listed=[{"txid": head - n + 1}])

        # what is not shipped outlives a restart
        lag = targets(m)["far"]["lag_txns"]
        app.close()
        m.umount()
        m.start()
        wait_for("the lag, again", lambda: targets(m)["far"]["lag_txns"] == lag)
        app.open()
        app.rows(3)

        # one comes back
        os.unlink(os.path.join(base, "blocked"))
        wait_for("the blocked target", lambda: targets(m)["blocked"]["lag_txns"] == 0, 60)
        broken(m, "far", "still down")
        need(fazt("status", m.dir, check=False).returncode == 1, "status with one target down")
        # and the other
        gw.start()
        m.sync()
        s = m.status()
        need(s["healthy"] and not any(t["last_error"] or t["lag_bytes"] for t in s["targets"]), "after all: %s", s)
        need(fazt("status", m.dir).returncode == 0, "status after all")
        app.row()
        m.sync()
        for source in ("dir:%s/near/app.db" % base, "dir:%s/blocked/store/app.db" % base, gw.url("prefix/app.db")):
            check_all(app, m, out, source=source)
            fazt("verify", "--full", source, "-i", m.key)
            need(len(fazt_json("log", "--json", source, "-i", m.key)) == m.database("app.db")["txid"], "log of %s", source)
        fazt("restore", "far/app.db", "--config", os.path.join(base, "conf"), "-i", m.key, "-o", out, "--force")

        # a target that was emptied is filled again
        app.close()
        m.umount()
        shutil.rmtree(os.path.join(base, "near", "app.db"))
        m.start()
        app.open()
        app.row()
        m.sync()
        near = "dir:%s/near/app.db" % base
        wait_for("the snapshot in the emptied target", lambda: fazt("log", near, check=False).returncode == 0)
        need(check_all(app, m, out, source=near, complete=False)[-1] == app.n, "the emptied target lacks the last commit")
        fazt("verify", "--full", near, "-i", m.key)
        app.close()
        m.umount(wait=True)


if __name__ == "__main__":
    main("targets", scenario)
