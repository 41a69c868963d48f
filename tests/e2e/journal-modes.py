#!/usr/bin/python3
"""Every journal mode at every synchronous level: each commit is restorable with the pages that SQLite showed then, a rolled
back transaction never is. Where SQLite makes no request at a commit (README, "Limits") the application waits until one
commit is captured before it makes the next, and a burst of commits may merge but never ends in another state."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, main, need  # noqa: E402
from witness import App, captured, kept, sound  # noqa: E402

MODES = ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"]
LEVELS = ["OFF", "NORMAL", "FULL", "EXTRA"]


def work(mount, mode, level):
    silent = level == "OFF" and mode in ("MEMORY", "OFF", "PERSIST")
    name = "%s-%s.db" % (mode.lower(), level.lower())
    app = App(mount, name, "cache_size=5")
    got = app.do("PRAGMA journal_mode=" + mode)[0][0]
    need(got == mode.lower(), "%s: journal_mode is %s", name, got)
    app.do("PRAGMA synchronous=" + level)
    steps = [("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)",), ("INSERT INTO t(v) VALUES ('one')",),
             ("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<60) "
              "INSERT INTO t(v) SELECT randomblob(900) FROM n", "CREATE INDEX tv ON t(v)"),
             ("UPDATE t SET v=randomblob(900) WHERE id%9=0",), ("DELETE FROM t WHERE id>20",),
             ("INSERT INTO t(v) VALUES (randomblob(30000))",), ("DROP INDEX tv",)]
    for s in steps:
        app.commit(*s)
        if silent:
            captured(mount, name)
        if mode != "OFF":  # without a journal a rollback is undefined
            app.do("BEGIN")
            app.do("UPDATE t SET v=randomblob(800)")
            app.do("ROLLBACK")
    if silent:
        for i in range(5):
            app.do("INSERT INTO t(v) VALUES (randomblob(100))")
    app.close()
    return name, app.states, silent


def run(base):
    for flags in ([], ["--no-passthrough"]):
        if flags and not os.environ.get("SCENARIO_FULL"):
            modes = [("WAL", "FULL"), ("DELETE", "NORMAL"), ("PERSIST", "FULL"), ("OFF", "OFF")]
        else:
            modes = [(m, s) for m in MODES for s in LEVELS]
        n = len(flags)
        with Mount(base, *flags, name="app%d" % n, store="store%d" % n).start() as mount:
            done = [work(mount, m, s) for m, s in modes]
            mount.sync()
            for name, states, silent in done:
                kept(mount, name, states, exact=not silent, sync=False)
                need(mount.database(name)["resyncs"] <= 1, "%s: resyncs: %s", name, mount.database(name))
            sound(mount, *[d[0] for d in done[::5]])
            mount.umount()


if __name__ == "__main__":
    main("journal-modes", run)
