#!/usr/bin/python3
# timeout: 120
"""Levels, snapshots and retention with times shortened from days to seconds. While an application writes, restores are
made over and over: every moment of the kept window is there, to the commit in the first tier and to the length of its
tier behind it; what is listed can be restored, also while retention deletes; old objects do go. Beside it a target with
`append_only = yes`, from which nothing goes, and one with a size limit, which stays near it."""
import json
import os
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Failure, Mount, fazt, fazt_json, main, need, wait_for  # noqa: E402
from oracle import CLOCK_MS, Application, rfc3339, same  # noqa: E402

COMMITS, MINUTES, HOURS, DAYS, GRACE = 3, 6, 9, 12, 1  # seconds
CONF = """[target tiers]
url = dir:%(base)s/tiers
ship_interval = 100ms
minute = 500ms
hour = 1500ms
day = 3s
snapshot_interval = 2s
keep_commits = 3s
keep_minutes = 6s
keep_hours = 9s
keep_days = 12s
delete_grace = 1s
[target everything]
url = dir:%(base)s/everything
ship_interval = 100ms
minute = 500ms
hour = 1500ms
day = 3s
snapshot_interval = 2s
keep_commits = 1s
keep_minutes = 1s
keep_hours = 1s
keep_days = 1s
delete_grace = 1ms
append_only = yes
[target small]
url = dir:%(base)s/small
ship_interval = 100ms
minute = 500ms
hour = 1500ms
day = 3s
snapshot_interval = 2s
keep_commits = 1s
keep_minutes = forever
keep_hours = forever
keep_days = forever
delete_grace = 100ms
keep_bytes = 300K
[encrypt]
encrypt = none
"""


def files(store):
    return {os.path.join(d, f): os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(store) for f in fs
            if not f.startswith(".")}


class Deleted:
    """Watches a store: what was ever there, and the most bytes at a time."""

    def __init__(self, store):
        self.store, self.ever, self.lost, self.stop = store, {}, set(), threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.stop.wait(0.05):
            try:
                now = files(self.store)
            except OSError:
                continue
            self.lost |= set(self.ever) - set(now)
            self.ever.update(now)

    def end(self):
        self.stop.set()
        self.thread.join()


def restore_at(app, source, at_ms, out):
    r = fazt("restore", source, "--at", rfc3339(at_ms), "-o", out, "--force", check=False)
    if r.returncode != 0:
        return None, r
    return same(app, out, "%s --at %s" % (source, rfc3339(at_ms))), r


def check_window(m, app, base, out, began_ms):
    """Moments of each tier: the answer is a commit at most a tier's length (and a snapshot's distance) before."""
    source = "dir:%s/tiers/app.db" % base
    now = time.time_ns() // 1000000
    m.sync()  # how long shipping takes is the machine's affair
    for age_ms, tier_ms in ((200, 5), (1000, 5), (2000, 5), (2700, 5), (4500, 500), (7500, 1500), (10500, 3000)):
        at = now - age_ms
        if at < began_ms + tier_ms:  # the first length of a tier ends in its first state
            continue
        n, r = restore_at(app, source, at, out)
        # what was kept when asked may have left its tier since: the check is as late as the answer
        late = time.time_ns() // 1000000 - now
        in_tier = age_ms + late < {5: COMMITS, 500: MINUTES, 1500: HOURS, 3000: DAYS}[tier_ms] * 1000
        if n is None and not in_tier:
            continue
        need(n is not None, "%d ms ago (asked %d ms ago) cannot be restored: exit %d %s", age_ms, late, r.returncode, r.stderr)
        want = max([k for k in app.after_ms if app.after_ms[k] <= at - tier_ms - (late if tier_ms > 5 else 0)], default=0)
        need(n >= want or not in_tier, "%d ms ago: commit %d, but %d was made by then", age_ms, n, want)
        need(n == 0 or app.before_ms[n] <= at + CLOCK_MS, "%d ms ago: commit %d was made %d ms later", age_ms, n,
             app.before_ms.get(n, at) - at)


def check_listed(app, base, out, every):
    source = "dir:%s/tiers/app.db" % base
    listed = fazt_json("log", "--json", source)
    done = 0
    for e in listed[-1::-every]:  # newest first: the oldest may go while this runs
        r = fazt("restore", source, "--txid", e["txid"], "-o", out, "--force", check=False)
        if r.returncode == 3 and e["time_ms"] < time.time_ns() // 1000000 - COMMITS * 1000:
            continue  # it has left the window since it was listed
        need(r.returncode == 0, "TXID %d is listed: exit %d %s", e["txid"], r.returncode, r.stderr)
        same(app, out, "TXID %d" % e["txid"])
        done += 1
    return listed, done


def scenario(base):
    conf = os.path.join(base, "conf")
    with open(conf, "w") as f:
        f.write(CONF % {"base": base})
    with Mount(base, "--config", conf, "--encrypt", "none", targets=[]) as m:
        m.start()
        app = Application(os.path.join(m.dir, "app.db"))
        began = time.time_ns() // 1000000
        kept = Deleted(os.path.join(base, "everything"))
        tiers = Deleted(os.path.join(base, "tiers"))
        halt, trouble, verified = threading.Event(), [], []

        def checks():
            out = os.path.join(base, "out.db")
            try:
                wait_for("the first object", lambda: fazt("log", "dir:%s/tiers/app.db" % base, check=False).returncode == 0)
                while not halt.is_set():
                    check_window(m, app, base, out, began + 1000)
                    check_listed(app, base, out, 7)
                    r = fazt("verify", "--json", "dir:%s/tiers/app.db" % base, check=False)
                    if "is listed but cannot be read" in r.stderr:
                        continue  # removed since it was listed: in this store a matter of seconds
                    need(r.returncode in (0, 1) and r.stdout, "verify: exit %d: %s", r.returncode, r.stderr)
                    for f in json.loads(r.stdout).get("problems", []):
                        raise Failure("verify: %s" % f)
                    verified.append(True)
            except Exception as e:
                trouble.append(e)
        try:
            checker = threading.Thread(target=checks)
            checker.start()
            end = time.monotonic() + 17

            def over():  # a slow machine comes later to the first snapshot that is not needed any more
                now = time.monotonic()
                return now > end + 60 or (now > end and any("/9/" in k for k in list(tiers.lost)))
            while not over() and not trouble:
                app.row()
                time.sleep(0.02)
        finally:
            halt.set()
            checker.join()
            kept.end()
            tiers.end()
        if trouble:
            raise trouble[0]
        need(verified, "no verification of the store came to its end")
        m.sync()
        need(not kept.lost, "append_only: deleted %s", sorted(kept.lost)[:3])
        need(any("/0/" in k for k in tiers.lost), "no pack was ever deleted")
        need(any("/9/" in k for k in tiers.lost), "no snapshot was ever deleted")
        levels = {int(os.path.basename(os.path.dirname(k))) for k in tiers.ever if "/claim/" not in k}
        need(levels == {0, 1, 2, 3, 4, 5, 9}, "levels: %s", levels)
        out = os.path.join(base, "out.db")
        listed, done = check_listed(app, base, out, 1)
        need(done > 10, "only %d commits were restored", done)
        everything = fazt_json("log", "--json", "dir:%s/everything/app.db" % base)
        need([e["txid"] for e in everything] == list(range(1, m.database("app.db")["txid"] + 1)), "append_only lists %d",
             len(everything))
        need(len(listed) < len(everything), "tiers list as much as append_only")
        for e in everything[::29]:
            fazt("restore", "dir:%s/everything/app.db" % base, "--txid", e["txid"], "-o", out, "--force")
            same(app, out, "append_only %d" % e["txid"])
        total = sum(kept.ever.values())
        wait_for("the size limit", lambda: app.row() or sum(files(os.path.join(base, "small")).values()) < max(
            600 << 10, total // 3), 20)
        m.sync()
        fazt("restore", "dir:%s/small/app.db" % base, "-o", out, "--force")
        need(same(app, out, "small") == app.n, "small: not the last commit")
        for t in ("tiers", "everything", "small"):
            fazt("verify", "--full", "dir:%s/%s/app.db" % (base, t))
        need(m.status()["healthy"], "status: %s", m.status()["problems"])
        # after all that, idle: everything is worked off, nothing goes on
        app.close()
        m.umount(wait=True)



if __name__ == "__main__":
    main("retention", scenario)
