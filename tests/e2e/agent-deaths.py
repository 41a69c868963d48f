#!/usr/bin/python3
# timeout: 120
"""The agent dies again and again in the life of a mount without kernel passthrough, where it reads the wal-index. Each time the next one is
there at once, so nothing that waits for it is given up: `verify --live` answers and no commit's detail is lost."""
import os
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, children, fazt, fazt_json, main, need, wait_for  # noqa: E402

DEATHS = 9    # with a pause that doubles from 10 ms the next agent would come after 2.5 s
LIVES_S = 1.1
STOPPED_S = 2  # a commit waits 0.5 s


def agent(m):
    for p in children(m.proc.pid):
        try:
            with open("/proc/%d/cmdline" % p) as f:
                if f.read().split("\0")[1:2] == ["agent"]:
                    return p
        except OSError:
            pass
    return 0


def run(base):
    with Mount(base, "--no-passthrough") as m:
        m.start()
        con = sqlite3.connect(os.path.join(m.dir, "app.db"), isolation_level=None, timeout=30)
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("CREATE TABLE t(a)")
        for i in range(DEATHS):
            wait_for("an agent", lambda: agent(m))
            end = time.monotonic() + LIVES_S
            while time.monotonic() < end:
                con.execute("INSERT INTO t VALUES (randomblob(300))")
                time.sleep(0.02)
            os.kill(agent(m), signal.SIGKILL)
            con.execute("INSERT INTO t VALUES (randomblob(300))")
            r = fazt("verify", "--live", "--json", m.dir, check=False)
            need(r.returncode == 0, "after death %d: exit %d: %s", i + 1, r.returncode, r.stderr)
        con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        fazt("sync", m.dir)
        d = m.status()["databases"][0]
        commits = con.execute("SELECT count(*) FROM t").fetchone()[0]
        log = fazt_json("log", "--json", os.path.join(m.dir, "app.db"))
        need(d["resyncs"] == 0 and d["merged_txns"] == 0, "detail was lost: %s", d)
        need(len(log) >= commits, "%d commits, %d in the log", commits, len(log))
        # Who asks for all that was committed waits for the agent, and for longer than a commit does.
        con.execute("INSERT INTO t VALUES ('a WAL with a frame')")
        pid = agent(m)
        os.kill(pid, signal.SIGSTOP)
        try:
            p = subprocess.Popen([FAZT, "sync", m.dir], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(STOPPED_S)
            need(p.poll() is None, "sync did not wait: %s", p.poll() is not None and p.stderr.read())
        finally:
            os.kill(pid, signal.SIGCONT)
        said = p.communicate()[1]
        need(p.returncode == 0, "sync: exit %d: %s", p.returncode, said)
        con.close()
        m.umount()


main("agent-deaths", run)
