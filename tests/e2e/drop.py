#!/usr/bin/python3
# timeout: 120
"""fazt drop: what a deleted database had goes from the local log and from a directory and a real S3 server, and nothing else does. While it
is there, in use, or another host's, it is refused. A database of the same name then has a clean history, under a claim whose number was
never used; a host that was away and remembers the old claim is fenced by it, and writes nothing. Killed at many moments, what is left
verifies, and the repetition ends it."""
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, copy_store, fazt, fazt_json, main, need, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from oracle import Application, check_all  # noqa: E402


def files(top):
    return {os.path.relpath(os.path.join(d, f), top) for d, _, fs in os.walk(top) for f in fs if not f.startswith(".")}


def of(top, name):
    return sorted(f[len(name) + 1:] for f in files(top) if f.startswith(name + "/"))


def refused(code, number, *args):
    r = fazt("drop", *args, check=False)
    need(r.returncode == code and number in r.stderr, "drop %s: exit %d %s", args, r.returncode, r.stderr)


def fill(m, name, rows, seed=1):
    app = Application(os.path.join(m.dir, name), seed=seed)
    app.rows(rows, 300)
    return app


def scenario(base):
    os.environ.update(ENV)
    with Gateway(base) as s3:
        store, bucket = os.path.join(base, "store"), s3.file("p")
        targets = ["dir:" + store, s3.url("p")]
        with Mount(base, "--encrypt", "none", targets=targets) as m:
            m.start()
            fill(m, "app.db", 4).close()
            os.makedirs(os.path.join(m.dir, "app.db.d"))
            beside = fill(m, "app.db.d/x.db", 3)
            for k in range(3):  # three lives of one name
                m.sync()
                os.unlink(os.path.join(m.dir, "app.db"))
                app = fill(m, "app.db", 5 + k, seed=k)
                if k < 2:
                    app.close()
            m.sync()
            path = app.path
            refused(1, "FZ-1205", "--yes", path)
            refused(1, "FZ-1401", "--yes", "--force", path)  # a program has it open
            app.row(300)
            app.close()
            refused(2, "FZ-1001", "--force", path)  # nobody can be asked
            refused(1, "FZ-1301", "--yes", "dir:%s/app.db" % store)  # it lives, as far as the store knows
            refused(2, "FZ-1001", "--yes", m.dir)
            for code, number, name in ((2, "FZ-1001", "../outside.db"), (3, "FZ-1203", "notes.txt")):
                other = os.path.join(m.dir, name)
                with open(other, "w") as f:
                    f.write("none of fazt's")
                refused(code, number, "--yes", "--force", other)
                os.unlink(other)
            r = fazt("drop", "--dry-run", "--force", path)
            need(r.stdout.count("of 4 lineages would be deleted") == 2, r.stdout)
            rest = {t: {f for f in files(t) if not f.startswith("app.db/")} for t in (store, bucket)}
            os.unlink(path)
            m.sync()
            claim = max(f for f in of(store, "app.db") if f.startswith("claim/") and not f.endswith("-ended"))
            wait_for("the mark of the end", lambda: claim + "-ended" in of(store, "app.db"))
            copy = os.path.join(base, "copy")
            copy_store(store, copy)
            fazt("drop", "--yes", path)
            for t in (store, bucket):
                need(of(t, "app.db") == [claim, claim + "-ended"], "left: %s", of(t, "app.db"))
                need({f for f in files(t) if not f.startswith("app.db/")} >= rest[t], "something else is gone")
            for source in (path, "dir:%s/app.db" % store, s3.url("p/app.db")):
                r = fazt("restore", source, "-o", os.path.join(base, "x.db"), check=False)
                need(r.returncode == 3, "restore from %s: exit %d %s", source, r.returncode, r.stderr)
            refused(3, "FZ-1203", "--yes", os.path.join(m.dir, "never.db"))
            fazt("drop", "--yes", path)  # repeated
            # the same name again: a clean history
            again = fill(m, "app.db", 6, seed=9)
            m.sync()
            for source in ("dir:%s/app.db" % store, s3.url("p/app.db")):
                need(len({e["lineage"] for e in fazt_json("log", "--json", source)}) == 1, "a second lineage in %s", source)
                check_all(again, m, os.path.join(base, "out.db"), source)
                fazt("verify", "--strict", source)
            claims = [f for f in of(store, "app.db") if f.startswith("claim/")]
            need(max(claims) == "claim/%08x" % (int(claim[6:], 16) + 1), "claims: %s", claims)
            again.close()
            fazt("drop", "--yes", "--force", path)  # with the file
            need(not os.path.exists(path), "--force left the file")
            need(beside.con.execute("SELECT n FROM meta").fetchone()[0] == beside.n, "the other one")
            beside.row()
            beside.close()
            m.umount(wait=True)
            local = os.listdir(os.path.join(m.dir, ".fazt", "db"))
            need(all(x.startswith("app.db.d%2F") for x in local), "local logs: %s", local)
            for t in os.listdir(os.path.join(m.dir, ".fazt", "ship")):
                top = os.path.join(m.dir, ".fazt", "ship", t)
                need(not os.path.isdir(top) or all(x.startswith("app.db.d") for x in os.listdir(top)), "ship/%s keeps something", t)
            fazt("verify", "--strict", "dir:%s/app.db.d/x.db" % store)

    # killed when some of it is gone, in copies, until at least one was cut off in the middle
    i = cut = 0
    while i < 6 or (not cut and i < 60):
        one = os.path.join(base, "one")
        shutil.rmtree(one, ignore_errors=True)
        shutil.copytree(copy, one)
        url, n = "dir:%s/app.db" % one, len(of(one, "app.db"))
        p = subprocess.Popen([FAZT, "drop", "--yes", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while p.poll() is None and len(of(one, "app.db")) > n - i % 4:
            pass
        p.send_signal(signal.SIGKILL if i % 2 else signal.SIGINT)
        p.wait()
        left = of(one, "app.db")
        cut += left != [claim, claim + "-ended"] and len(left) < n
        r = fazt("verify", url, check=False)
        need(r.returncode in (0, 3), "killed %d: verify says %d %s", i, r.returncode, r.stderr)
        fazt("drop", "--yes", url)
        need(of(one, "app.db") == [claim, claim + "-ended"], "repeated: %s", of(one, "app.db"))
        i += 1
    need(cut, "no kill came in the middle")

    # A host that was away. Another one drops the history by force, and a third begins anew.
    with Mount(base, "--encrypt", "none", name="a", store="s2") as a, Mount(base, "--encrypt", "none", name="b", store="s2") as b:
        a.start()
        fill(a, "app.db", 3).close()
        a.sync()
        a.umount(wait=True)
        s2, url = a.store, "dir:%s/app.db" % a.store
        refused(1, "FZ-1301", "--yes", url)
        fazt("drop", "--yes", "--force", url)
        need(len(of(s2, "app.db")) == 2, "dropped by force: %s", of(s2, "app.db"))
        with open(os.path.join(s2, "app.db", of(s2, "app.db")[0])) as f:
            need("fazt drop" in json.load(f)["writer"], "the claim names nobody")
        b.start()
        new = fill(b, "app.db", 4, seed=4)
        new.close()
        b.sync()
        con = sqlite3.connect(os.path.join(a.dir, "app.db"))  # while nobody serves it
        con.close()
        before = of(s2, "app.db")
        a.start()
        con = sqlite3.connect(os.path.join(a.dir, "app.db"), isolation_level=None)
        con.execute("INSERT INTO t(v) VALUES (1)")
        con.close()
        wait_for("the host that was away to be fenced", lambda: any(t["state"] == "fenced" for t in a.status()["targets"]))
        need([f for f in of(s2, "app.db") if not f.startswith("claim")] >= [f for f in before if not f.startswith("claim")] and
             {f.split("/")[0] for f in of(s2, "app.db")} == {f.split("/")[0] for f in before}, "a fenced host wrote: %s", of(s2, "app.db"))
        check_all(new, b, os.path.join(base, "out.db"), url)
        a.umount()
        b.umount(wait=True)


main("drop", scenario)
