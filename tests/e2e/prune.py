#!/usr/bin/python3
# timeout: 120
"""fazt prune. The tiers last seconds and the grace an hour, so nothing goes by itself. What --dry-run names is what goes then, and
nothing else; the commits that it calls lost are those that `fazt log` no longer lists, and no other; all that is listed afterwards
restores to what SQLite had, verify passes, and a second prune finds nothing. By the worker, by the command on a store, and killed at many
moments: what is left always verifies and restores."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, copy_store, fazt, fazt_json, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from oracle import Application, check_all  # noqa: E402

TARGET = """[target %(name)s]
url = %(url)s
ship_interval = 50ms
minute = 400ms
hour = 1200ms
day = 2400ms
snapshot_interval = 1500ms
keep_commits = 1s
keep_minutes = 2s
keep_hours = 3s
keep_days = 4s
delete_grace = 1h
append_only = %(append_only)s
"""


def conf(base, name, url, append_only="no", s3=None):
    path = os.path.join(base, name)
    with open(path, "w") as f:
        f.write(TARGET % {"name": "tiers", "url": "dir:" + url, "append_only": append_only})
        if s3:
            f.write(TARGET % {"name": "s3", "url": s3, "append_only": append_only})
        f.write("[encrypt]\nencrypt = none\n")
    return path


def files(store):
    return {os.path.relpath(os.path.join(d, f), store) for d, _, fs in os.walk(store) for f in fs if not f.startswith(".")}


def listed(source):
    return {e["txid"]: e for e in fazt_json("log", "--json", source)}


def check(app, m, base, source, before, dry, deleted, what):
    """After it: the list, the losses, every restore."""
    after = listed(source)
    need(set(after) <= set(before), "%s: TXIDs came from nowhere", what)
    lost = {t for l in dry["lost"] for t in range(l["first_txid"], l["last_txid"] + 1)}
    single = {t for t, e in before.items()} - set(after)
    need(single <= lost, "%s: %s are gone and were not named", what, sorted(single - lost)[:9])
    need(not lost & set(after), "%s: %s were named and are there", what, sorted(lost & set(after))[:9])
    need(max(after) == max(before), "%s: the newest commit is gone", what)
    fazt("verify", source)
    some = sorted(after)[::len(after) // 8 + 1] + [max(after)]
    check_all(app, m, os.path.join(base, "out.db"), source, complete=False, listed=[after[t] for t in sorted(set(some))])
    return after


def scenario(base):
    os.environ.update(ENV)
    store = os.path.join(base, "store")
    with Gateway(base) as s3, \
            Mount(base, "--config", conf(base, "conf", store, s3=s3.url("p")), "--encrypt", "none", targets=[]) as m:
        m.start()
        app = Application(os.path.join(m.dir, "app.db"))
        other = Application(os.path.join(m.dir, "other.db"), seed=2)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            app.rows(3, 300)
            other.row(300)
            time.sleep(0.01)
        m.sync()
        copy = os.path.join(base, "copy")
        copy_store(store, copy)  # for later
        source = "dir:%s/app.db" % store
        was, before, bucket = files(store), listed(source), files(s3.file("p"))
        dry = fazt_json("prune", "--json", "--dry-run", app.path)
        need(len(dry) == 2 and all(d["objects"] > 5 and d["deleted"] == 0 for d in dry), "--dry-run: %s", dry)
        need(was <= files(store), "--dry-run deleted something")
        r = fazt("prune", "--dry-run", m.dir)
        need("would be deleted" in r.stdout and "other.db" in r.stdout and "could no longer be restored" in r.stdout, r.stdout)
        r = fazt("prune", "--json", "--progress", app.path)  # stderr: what the worker tells
        done, there = json.loads(r.stdout)
        shown = re.findall(r"^pruning.* (\d+) of (\d+) objects", r.stderr, re.M)
        need(shown and shown[-1] == (str(there["deleted"]), str(there["objects"])), "--progress: %r", r.stderr)
        gone = was - files(store)
        need(done["deleted"] == done["objects"] >= dry[0]["objects"], "%s", done)
        need(all(g.startswith("app.db/") for g in gone) and 5 < len(gone) <= done["deleted"], "deleted: %s", sorted(gone))
        need(5 < len(bucket - files(s3.file("p"))) <= there["deleted"] == there["objects"], "s3: %s", there)
        fazt("verify", s3.url("p/app.db"))
        check(app, m, base, source, before, done, gone, "by the worker")
        app.rows(5)
        m.sync()
        fazt("prune", m.dir)
        again = fazt_json("prune", "--json", m.dir)
        need(len(again) == 4, "both databases, both targets: %s", again)
        fazt("verify", source)
        fazt("verify", "dir:%s/other.db" % store)
        need(fazt("prune", os.path.join(m.dir, "none.db"), check=False).returncode == 3, "prune of no database")
        app.rows(2)  # what is shipped from now on continues it
        m.sync()
        app.close()
        other.close()
        m.umount(wait=True)
        fazt("verify", "--full", source)
        fazt("verify", "--full", s3.url("p/app.db"))
    # the copy, by the command: by target, by URL, and where the primary may not delete
    append = conf(base, "append", copy, "yes")
    before = listed("dir:%s/app.db" % copy)
    dry = fazt_json("prune", "--json", "--dry-run", "--config", append, "dir:%s/app.db" % copy)[0]
    need(dry["objects"] > 5 and dry["deleted"] == 0 and listed("dir:%s/app.db" % copy) == before, "--dry-run: %s", dry)
    whole, i, cut = len(files(copy)), 0, 0
    while i < 6 or (not cut and i < 60):  # until at least one was cut off in the middle
        one = os.path.join(base, "one")
        shutil.rmtree(one, ignore_errors=True)
        shutil.copytree(copy, one)
        c = conf(base, "one.conf", one)
        p = subprocess.Popen([FAZT, "prune", "--config", c, "tiers"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while p.poll() is None and len(files(one)) > whole - i % 4:
            pass
        p.send_signal(signal.SIGKILL if i % 2 else signal.SIGINT)
        p.wait()
        cut += p.returncode != 0 and len(files(one)) < whole
        fazt("verify", "dir:%s/app.db" % one)
        fazt("verify", "dir:%s/other.db" % one)
        i += 1
    need(cut, "no kill came in the middle")
    fazt("prune", "--config", c, "tiers")  # repeated
    fazt("verify", "dir:%s/app.db" % one)
    shutil.rmtree(one)
    shutil.copytree(copy, one)
    done = fazt_json("prune", "--json", "--config", c, "tiers/app.db")[0]
    check(app, m, base, "dir:%s/app.db" % one, before, done, None, "by the command")
    wait_for("a prune that finds nothing", lambda: fazt_json("prune", "--json", "--config", c, "tiers/app.db")[0]["objects"] == 0)
    r = fazt("prune", "--config", c, "dir:/nowhere/app.db", check=False)
    need(r.returncode == 2 and "FZ-1002" in r.stderr, "a URL without a target: exit %d %s", r.returncode, r.stderr)


main("prune", scenario)
