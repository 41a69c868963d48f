#!/usr/bin/python3
# timeout: 1800
"""The steps of docs/faq.md for those who come from Litestream, and from LiteFS where there is one (LITEFS names it, or the PATH), with
these programs themselves: what they kept goes on under fazt, no row is lost, and what they leave in the directory does no harm."""
import os
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
import litefs  # noqa: E402
from apps import go_program, run  # noqa: E402
from cluster import free_port  # noqa: E402
from faztlib import Mount, fazt, is_mounted, main, need, wait_for  # noqa: E402

LITESTREAM = ("litestream-0.5.9", "github.com/benbjohnson/litestream/cmd/litestream", "v0.5.9")


def rows(path):
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True, timeout=10)
    try:
        return [r[0] for r in con.execute("SELECT v FROM t ORDER BY id")]
    finally:
        con.close()


def write(path, *values):
    con = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        con.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT)")
        for v in values:
            con.execute("INSERT INTO t(v) VALUES (?)", (v,))
    finally:
        con.close()


class Program:
    """In the foreground, until its SIGTERM."""

    def __init__(self, log, *args):
        self.log = log
        with open(log, "ab") as out:
            self.p = subprocess.Popen(args, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def end(self):
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(30)
            except subprocess.TimeoutExpired:
                self.p.kill()
                self.p.wait()

    def __exit__(self, *exc):
        self.end()
        if exc[0]:
            with open(self.log, errors="replace") as f:
                print(f.read()[-3000:])


def goes_on(base, m, before):
    """The application goes on under fazt; every commit from now on is one of its own, and the history begins with what was there."""
    path = os.path.join(m.dir, "app.db")
    need(rows(path) == before, "under the mount: %s", rows(path))
    write(path, "first under fazt", "second under fazt")
    m.sync()
    out = os.path.join(base, "restored.db")
    m.restore("app.db", out)
    need(rows(out) == before + ["first under fazt", "second under fazt"], "restored: %s", rows(out))
    txid = m.database("app.db")["txid"]
    m.restore("app.db", out, "--txid", str(txid - 1))
    need(rows(out) == before + ["first under fazt"], "one commit before: %s", rows(out))
    fazt("verify", "--full", m.source("app.db"), "-i", m.key)
    names = [d["name"] for d in m.status()["databases"]]
    need(names == ["app.db"], "databases: %s", names)
    need(m.status()["healthy"], "status: %s", m.status()["problems"])
    m.umount(wait=True)


def from_litestream(base):
    program = go_program(*LITESTREAM)
    with Mount(base) as m:
        path, old = os.path.join(m.dir, "app.db"), os.path.join(base, "litestream")
        con = sqlite3.connect(path)
        need(con.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal", "no WAL")
        con.close()
        write(path, "before")
        with Program(os.path.join(base, "litestream.log"), program, "replicate", path, "file://" + old) as litestream:
            def shipped():
                return any(f.endswith(".ltx") for _, _, files in os.walk(old) for f in files)
            wait_for("Litestream's first file", shipped, 30)
            write(path, "under litestream")
            r = fazt("mount", m.dir, check=False)  # step 2: it says what stands in the way
            need(r.returncode == 1 and "FZ-1401" in r.stderr and "litestream" in r.stderr, "with Litestream running: exit %d %s", r.returncode, r.stderr)
            litestream.end()
        # step 1: its own history stays what it was
        out = os.path.join(base, "theirs.db")
        run(program, "restore", "-o", out, "file://" + old)
        need(rows(out) == ["before", "under litestream"], "Litestream's restore: %s", rows(out))
        # step 3
        con = sqlite3.connect(path, isolation_level=None)
        con.execute("DROP TABLE IF EXISTS _litestream_seq")
        con.execute("DROP TABLE IF EXISTS _litestream_lock")
        need(con.execute("SELECT group_concat(name) FROM sqlite_master").fetchone()[0] == "t", "tables are left")
        con.close()
        m.start()
        goes_on(base, m, ["before", "under litestream"])


def from_litefs(base):
    program = litefs.program()
    old, data, config = (os.path.join(base, n) for n in ("litefs", "litefs-data", "litefs.yml"))
    port = free_port()
    os.mkdir(old)
    with open(config, "w") as f:
        f.write('fuse:\n  dir: "%s"\ndata:\n  dir: "%s"\nhttp:\n  addr: "127.0.0.1:%d"\nlease:\n  type: "static"\n  hostname: "one"\n'
                '  advertise-url: "http://127.0.0.1:%d"\n  candidate: true\n' % (old, data, port, port))
    env = {k: v for k, v in os.environ.items() if not k.startswith("LITEFS_CLOUD_")}
    need(env == dict(os.environ), "LITEFS_CLOUD_* is set: it would send databases there")
    copy = os.path.join(base, "app.db")
    with Program(os.path.join(base, "litefs.log"), program, "mount", "-config", config) as server:
        try:
            wait_for("LiteFS's mount", lambda: is_mounted(old), 30)
            write(os.path.join(old, "app.db"), "under litefs", "and again")
            run(program, "export", "-url", "http://127.0.0.1:%d" % port, "-name", "app.db", copy)  # step 1
        finally:
            server.end()
            if is_mounted(old):
                subprocess.run(["umount", "-l", old])
    with Mount(base, name="litefs", store="store-litefs") as m:  # step 3: the old mount point
        os.rename(copy, os.path.join(m.dir, "app.db"))
        m.start()
        goes_on(base, m, ["under litefs", "and again"])


def scenario(base):
    steps = [("litestream", from_litestream)]
    if litefs.program():
        steps.append(("litefs", from_litefs))
    else:
        print("there is no litefs program (LITEFS, PATH): coming from LiteFS is not tried")
    for name, one in steps:
        here = os.path.join(base, "from-" + name)
        os.mkdir(here)
        one(here)


if __name__ == "__main__":
    main("migrate", scenario)
