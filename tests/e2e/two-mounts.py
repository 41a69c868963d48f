#!/usr/bin/python3
# timeout: 60
"""Several mounts on one host, each with a configuration of its own, and FAZT_CONFIG naming that of one. What a command does with another
one's databases concerns that one's stores, keys and state only, or none where it has no target; --config that is given wins."""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, main, need  # noqa: E402
from oracle import Application, read_n  # noqa: E402


def files(top):
    return {os.path.relpath(os.path.join(d, f), top) for d, _, fs in os.walk(top) for f in fs}


def mount(base, name, *lines):
    key, conf = os.path.join(base, "key-" + name), os.path.join(base, name + ".conf")
    m = Mount(base, "--config", conf, name=name, store="store-" + name, key=key, targets=[])
    with open(conf, "w") as f:
        f.write("\n".join(["[encrypt]", "identity = " + key, *lines, ""]))
    m.conf = conf
    m.start()
    m.app = Application(os.path.join(m.dir, "app.db"), seed=len(name))
    return m


def scenario(base):
    a = mount(base, "a", "[mount]", "state = %s/state-a" % base, "[target one]", "url = dir:%s/store-a" % base)
    bb = mount(base, "bb", "[target one]", "url = dir:%s/store-bb" % base)
    none = mount(base, "none")
    with a, bb, none:
        for m, n in ((a, 3), (bb, 6), (none, 2)):
            m.app.rows(n)
            m.app.close()
            fazt("sync", m.dir)
        a.sync()
        bb.sync()
        os.environ["FAZT_CONFIG"] = a.conf
        before = files(a.store)
        need(any(f.startswith("app.db/") for f in before), "nothing in %s", a.store)
        lineage = {m: m.database("app.db")["lineage"] for m in (a, bb)}

        # verify --all: the mount's stores, with the mount's keys
        r = fazt("verify", "--all", "--full", bb.dir)
        need(bb.store in r.stdout and a.store not in r.stdout and "structure only" not in r.stdout, "verify --all: %s", r.stdout)
        r = fazt("verify", "--all", none.dir, check=False)
        need(r.returncode == 3 and "ships to no target" in r.stderr, "verify --all without a target: %d %s", r.returncode, r.stderr)

        # of a mount without targets nothing else is dropped
        r = fazt("rekey", "-i", a.key, "--recipient", bb.recipient, none.dir, check=False)
        need(r.returncode == 3 and files(a.store) == before, "rekey without a target: %d %s", r.returncode, r.stderr)
        fazt("drop", "--yes", "--force", os.path.join(none.dir, "app.db"))
        need(files(a.store) == before, "drop took from another mount's store: %s", before - files(a.store))
        a.app.open()
        a.app.row()
        a.app.close()
        a.sync()
        need(a.status()["healthy"], "the other mount: %s", a.status()["problems"])

        # what the log does not have comes from the mount's own store, also when it is unmounted
        bb.umount()
        shutil.rmtree(os.path.join(bb.dir, ".fazt", "db"))
        path, out = os.path.join(bb.dir, "app.db"), os.path.join(base, "out.db")
        for source in (path, bb.dir):
            need({e["lineage"] for e in fazt_json("log", "--json", source)} == {lineage[bb]}, "log of %s is another one's", source)
        fazt("verify", path)
        fazt("restore", path, "-o", out)
        need(read_n(out) == bb.app.n, "restore gave another one's")
        need({e["lineage"] for e in fazt_json("log", "--json", "--config", a.conf, path)} == {lineage[a]}, "--config does not win")


if __name__ == "__main__":
    main("two-mounts", scenario)
