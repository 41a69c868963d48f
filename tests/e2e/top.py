#!/usr/bin/python3
# timeout: 120
"""`fazt top` in a real terminal (tmux): shows what `fazt status` says, live; follows the terminal's size; obeys its keys; shows hostile
names harmlessly; goes on over a worker's death; and leaves the terminal as it was, however it ends: q, SIGTERM, the mount's end."""
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Counted  # noqa: E402
from faztlib import FAZT, Mount, alive, children, fazt, main, need, wait_for  # noqa: E402
from terminal import Terminal  # noqa: E402

COLOUR = re.compile(r"\x1b\[[0-9;]*\b3[1-6]m")


class Writing:
    """Commits without a pause until it ends."""

    def __init__(self, mount, name):
        self.mount, self.path, self.stop = mount, os.path.join(mount.dir, name), threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        c = Counted(self.path)
        while not self.stop.is_set():
            c.commit()
        c.close()

    def __enter__(self):
        self.thread.start()
        wait_for("the first commit", lambda: "database busy.db" in fazt("status", self.mount.dir).stdout)
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()


def row(text, name):
    """The columns of a database's line, or None."""
    for l in text.split("\n"):
        if l.startswith(name + " "):
            return l[len(name):].split()
    return None


def once(m):
    text = fazt("top", "--once", m.dir).stdout
    with Writing(m, "busy.db"):
        moving = fazt("top", "--once", m.dir).stdout
    need("all well" in text and "primary, epoch 0" in text, "top --once says\n%s", text)
    need(row(text, "app.db")[:1] == ["0"], "nobody wrote, but top says\n%s", text)
    need(str(m.database("app.db")["txid"]) in row(text, "app.db"), "another TXID than status has:\n%s", text)
    need(float(row(moving, "busy.db")[0]) > 1, "commits without a pause, but top says\n%s", moving)
    need("\x1b" not in moving and max(len(l) for l in moving.split("\n")) <= 120, "no plain text:\n%r", moving)
    hostile = row(text, "a?[31m?b.db")
    need(hostile and hostile[-1] == "ok", "the hostile name is not shown as text:\n%s", text)


def refused(base, m):
    """Where there is no terminal to draw on there is a sentence."""
    r = fazt("top", m.dir, check=False)
    need(r.returncode == 2 and "--once" in r.stderr, "without a terminal: %d %s", r.returncode, r.stderr)
    r = fazt("top", base, check=False)
    need(r.returncode == 1 and "not mounted" in r.stderr, "without a mount: %d %s", r.returncode, r.stderr)


def pictures(t, m, c):
    run = t.say("%s top %s" % (FAZT, m.dir))
    t.shows("app.db")
    need(t.full_screen(), "it does not use the alternate screen")
    c.commit()
    fazt("sync", m.dir)
    txid = str(m.database("app.db")["txid"])
    t.shows(lambda s: txid in (row(s, "app.db") or []))
    need(COLOUR.search(t.screen(colours=True)), "no colours:\n%r", t.screen(colours=True))
    for width, height in ((60, 16), (140, 45), (20, 5), (1, 1), (100, 30)):
        t.resize(width, height)
        if width >= 60:
            t.shows(lambda s: s.split("\n")[height - 1].startswith("q quit") and row(s, "app.db"))
    t.keys("s", "s")
    t.shows("sort: lag")
    t.keys("/", "b", "u", "s", "y")
    t.shows(lambda s: "filter: busy" in s and not row(s, "app.db") and row(s, "busy.db"))
    t.keys("Escape")
    t.shows(lambda s: "filter:" not in s.split("\n")[29] and row(s, "app.db"))
    t.keys("?")
    t.shows("KEYS")
    t.keys("x")
    t.keys("p")
    t.shows("NOTES")
    t.keys("p")
    m.kill_worker()
    t.shows("restarts 1")
    return run


def endings(base, m, t, run):
    def program():
        return [p for p in children(t.pid()) if alive(p)]

    def terminal():
        t.wait_end(t.say("stty -g >%s/stty" % base))
        with open(os.path.join(base, "stty")) as f:
            return f.read()
    t.keys("q")
    need(t.wait_end(run) == 0, "q: exit %s", t.ended(run))
    need(not t.full_screen(), "the alternate screen is still there after q")
    need(terminal() == t.before, "the terminal's settings differ after q")
    run = t.say("NO_COLOR=1 %s top %s" % (FAZT, m.dir))
    t.shows(lambda s: row(s, "app.db"))
    need(not COLOUR.search(t.screen(colours=True)), "colours in spite of NO_COLOR")
    os.kill(program()[0], signal.SIGTERM)
    need(t.wait_end(run) == 0 and not t.full_screen(), "SIGTERM: exit %s", t.ended(run))
    need(terminal() == t.before, "the terminal's settings differ after SIGTERM")
    need(t.wait_end(t.say("TERM=dumb %s top %s" % (FAZT, m.dir))) == 2, "TERM=dumb")
    t.shows("cannot place the cursor")
    run = t.say("clear; %s top %s" % (FAZT, m.dir))
    t.shows(lambda s: row(s, "app.db"))
    m.umount()
    need(t.wait_end(run) == 0 and not t.full_screen(), "umount: exit %s", t.ended(run))
    t.shows("is not mounted any more")
    need(terminal() == t.before, "the terminal's settings differ after umount")


def scenario(base):
    conf = os.path.join(base, "conf")
    with open(conf, "w") as f:  # a store takes no name with a control character: do not wait for it at the end
        f.write("[mount]\nstop_grace = 100ms\n")
    with Mount(base, "--config", conf).start() as m, Terminal(base) as t:
        c = Counted(os.path.join(m.dir, "app.db"))
        for _ in range(20):
            c.commit()
        con = sqlite3.connect(os.path.join(m.dir, "a\x1b[31m\u202eb.db"))
        con.execute("CREATE TABLE t(x)")
        con.close()
        fazt("sync", m.dir)
        t.wait_end(t.say("stty -g >%s/before" % base))
        with open(os.path.join(base, "before")) as f:
            t.before = f.read()
        once(m)
        refused(base, m)
        run = pictures(t, m, c)
        c.close()
        endings(base, m, t, run)


main("top", scenario)
