#!/usr/bin/python3
# timeout: 120
"""/api/history tells the moments that can be restored: of the local log what `fazt log` lists of it; of a target what the names of the
objects in its store say, tier by tier, also after a new worker, which lists the store once when it is first asked, and no more."""
import collections
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted, free_port  # noqa: E402
from faztlib import Mount, fazt_json, main, need, wait_for  # noqa: E402

KINDS = {3: "minutes", 4: "hours", 5: "days", 9: "snapshots"}


def history(port, name):
    url = "http://127.0.0.1:%d/api/history?database=%s" % (port, urllib.parse.quote(name, safe=""))
    with urllib.request.urlopen(url, timeout=30) as r:
        return {s["name"]: s for s in json.load(r)["sources"]}


def tiers(source):
    return {t["kind"]: (t["count"], t["from_ms"], t["to_ms"]) for t in source["tiers"]}


def listing(store, name):
    """The same from the names in the store."""
    txids, moments = {}, collections.defaultdict(list)
    for path, _, files in os.walk(os.path.join(store, name)):
        for f in files:
            where = os.path.relpath(path, os.path.join(store, name)).split("/")
            if len(where) != 3 or not f.split(".")[0].count("-") == 4:
                continue  # a claim
            low, high, first, last = (int(x, 16) for x in f.split("-")[:4])
            if int(where[2]) <= 2:
                for t in range(low, high + 1):
                    txids.setdefault(t, [first, last])
            else:
                moments[KINDS[int(where[2])]].append(last)
    out = {k: (len(v), min(v), max(v)) for k, v in moments.items()}
    if txids:
        out["commits"] = (len(txids), min(v[0] for v in txids.values()), max(v[1] for v in txids.values()))
    return out


def scenario(base):
    port, conf, name = free_port(), os.path.join(base, "conf"), "dir/a b&c.db"
    with open(conf, "w") as f:  # levels of seconds, so that all tiers are there soon
        f.write("[target good]\nurl = dir:%s/store\nminute = 300ms\nhour = 900ms\nday = 2s\n" % base)
    with Mount(base, "--config", conf, "--http", ":%d" % port, targets=[]).start() as m:
        os.mkdir(os.path.join(m.dir, "dir"))
        app = Counted(os.path.join(m.dir, name))
        end = time.monotonic() + 3
        while time.monotonic() < end:
            app.commit()
            time.sleep(0.02)
        m.sync()
        log = fazt_json("log", "--json", os.path.join(m.dir, name))
        told = tiers(history(port, name)["log"])
        need(told["commits"][0] == len(log), "the log has %d commits, told is %s", len(log), told)
        wait_for("every level to be made", lambda: {"minutes", "hours", "days"} <= set(listing(base + "/store", name)))
        settled = [None, 0]

        def quiet():  # nothing is written any more, and no level is due
            now = (listing(base + "/store", name), m.status()["targets"][0]["requests"])
            settled[1] = settled[1] + 1 if now == settled[0] else 0
            settled[0] = now
            time.sleep(0.1)
            return settled[1] >= 20
        wait_for("a store that does not change", quiet, 60)
        m.kill_worker()

        def listed():
            try:
                return tiers(history(port, name)["good"])
            except OSError:
                return False  # the new worker does not listen yet
        wait_for("a listing", listed, 60)
        there, told = listing(base + "/store", name), history(port, name)["good"]
        need(told["complete"] and tiers(told) == there, "the store holds %s, told is %s", there, told)
        requests = m.status()["targets"][0]["requests"]
        for _ in range(20):
            history(port, name)
        app.commit()
        m.sync()
        need(m.status()["targets"][0]["requests"] <= requests + 3, "20 questions cost requests")
        more = tiers(history(port, name)["good"])["commits"]
        need(more[0] == there["commits"][0] + 1 and more[2] > there["commits"][2], "one commit more, told is %s", more)
        try:
            history(port, "no.db")
            need(False, "a history of nothing")
        except urllib.error.HTTPError as e:
            need(e.code == 404, "no.db: %d", e.code)
        app.close()
        m.umount()


main("history", scenario)
