#!/usr/bin/python3
"""fazt bench: a table for people and JSON, on a directory and beside a mount, and in a mount; whatever ends it, nothing is left. Speed is not judged."""
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, fazt_json, need, scratch, wait_for  # noqa: E402

QUICK = ("--rounds", "1", "--seconds", "0.02")


def below(d):
    return sorted(os.path.relpath(os.path.join(at, n), d) for at, ds, fs in os.walk(d) for n in ds + fs)


def mounts(d):
    with open("/proc/self/mounts") as f:
        return [l.split()[1] for l in f if l.split()[1].startswith(d + "/")]


with scratch("bench") as base:
    app = os.path.join(base, "app")
    os.mkdir(app)
    with open(os.path.join(app, "file"), "w"):
        pass
    os.chown(app, 65534, 65534)
    for d in (base, os.path.dirname(base)):  # the measuring processes are the owner of app
        os.chmod(d, os.stat(d).st_mode | 0o011)

    def clean(*more):
        need(below(base) == sorted(["app", "app/file", *more]) and not mounts(base), "left behind: %s %s", below(base), mounts(base))

    # a directory that is not mounted
    out = fazt("bench", *QUICK, app).stdout
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \| ([\d,]+) \| \d+ \|$", out, re.M)
    need(len(rows) == 8 and "| Measure | native | on the mount | percent |" in out and "user 65534" in out, "the table:\n%s", out)
    need(all(int(a.replace(",", "")) > 0 and int(b.replace(",", "")) > 0 for _, a, b in rows), "nothing was done:\n%s", out)
    clean()

    # what cannot be
    for args, code, says in (((app, "--rounds", "0"), 2, "--rounds"), ((app, "--seconds", "x"), 2, "--seconds"), (("--live", app), 1, "not mounted"),
                             ((os.path.join(base, "none"),), 1, "none"), (("--scratch", base + "/none", app), 1, "none")):
        r = fazt("bench", *args, check=False)
        need(r.returncode == code and says in r.stderr, "bench %s: %d %s", args, r.returncode, r.stderr)
    clean()

    # interrupted in the middle
    def ended(sig):
        p = subprocess.Popen([FAZT, "bench", "--rounds", "9", "--seconds", "30", app], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL, start_new_session=True)
        wait_for("the benchmark's database", lambda: any(n.endswith("bench-0.db") for n in below(app)))
        p.send_signal(sig)
        p.wait(timeout=60)
        with p.stderr:
            if sig == signal.SIGTERM:
                need(p.returncode == 1 and b"FZ-0125" in p.stderr.read(), "interrupted: exit %d", p.returncode)
    ended(signal.SIGTERM)
    clean()
    # killed: the next one tells what is left, which goes as it says
    ended(signal.SIGKILL)
    r = fazt("bench", *QUICK, app)
    left = re.search(r"work in (\S+/\.fazt-bench-\w+), or was killed", r.stderr)
    need(left and mounts(app) == [left[1] + "/mount"], "after a kill: %s %s", r.stderr, mounts(app))
    fazt("umount", left[1] + "/mount")  # nobody has a file open there any more
    shutil.rmtree(left[1])
    clean()

    # beside a mount: not in it; in it only when asked for, and then it is captured
    with Mount(base) as m:
        m.start()
        con = sqlite3.connect(m.dir + "/own.db", isolation_level=None)
        con.execute("CREATE TABLE t(x)")
        con.close()
        r = fazt_json("bench", *QUICK, "--json", app)
        need(len(r["rows"]) == 8 and not r["live"] and r["fdatasync_us"] > 0, "JSON: %s", r)
        need([d["name"] for d in m.status()["databases"]] == ["own.db"], "the mount has seen the benchmark: %s", m.status()["databases"])
        r = fazt_json("bench", *QUICK, "--json", "--live", app)
        need(r["live"] and all(len(row["mount_runs"]) == 1 and row["percent"] > 0 for row in r["rows"]), "--live: %s", r)
        need(below(app) == ["file", "own.db"] and [d["name"] for d in m.status()["databases"]] == ["own.db"], "left in the mount: %s", below(app))
        m.sync()
        need(any(n.startswith(".fazt-bench-") for n in os.listdir(m.store)), "--live was not captured: %s", os.listdir(m.store))
        m.umount()
    need(not [n for n in below(base) if "fazt-bench" in n and not n.startswith(("store/", "app/.fazt/"))], "left: %s", below(base))
print("ok")
