#!/usr/bin/python3
"""The disk that holds the log is full, or its state directory cannot be written: the application goes on as if nothing were,
status, exit code and log line tell, and when there is space again the history goes on by itself: the store holds the
latest state, and no state that never was."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, file_hash, integrity, is_mounted, main, need, wait_for  # noqa: E402
from witness import App, entries_of, once, restored, sound  # noqa: E402


def sh(*args):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    need(r.returncode == 0, "%s: %s", " ".join(args), r.stdout)


def work(app, n, size=20000):
    for i in range(n):
        app.do("INSERT INTO t(v) VALUES (randomblob(?))", size)
        app.do("UPDATE t SET v=randomblob(100) WHERE id=?", i)


def told(mount, what):
    """status and its exit code say that something is wrong; so does the log."""
    def wrong():
        return fazt("status", mount.dir, check=False).returncode == 1
    wait_for("a status that tells of " + what, wrong)
    problems = mount.status()["problems"]
    need(any("app.db" in p or "state" in p for p in problems), "%s: problems are %s", what, problems)


def judge(mount, states, name="app.db"):
    mount.sync()
    got = once(restored(mount, name, entries_of(mount, name)))
    seen = [s[0] for s in states]
    need(all(g in seen for g in got), "a state in the store was never the database")
    need([seen.index(g) for g in got] == sorted(seen.index(g) for g in got), "states are out of order")
    need(got[-1] == seen[-1], "the latest state is not in the store")
    return len(got)


def full(base, mode):
    state = os.path.join(base, "state-" + mode)
    os.makedirs(state)
    sh("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", state)
    conf = os.path.join(base, mode + ".conf")
    with open(conf, "w") as f:
        f.write("[mount]\nstate = %s/fazt\n[target t]\nurl = dir:%s/store-%s\nship_interval = 200ms\n" % (state, base, mode))
    mount = Mount(base, "--config", conf, name="app-" + mode, store="store-" + mode, targets=[])
    try:
        with mount:
            mount.start()
            with App(mount, "app.db", "journal_mode=" + mode, "wal_autocheckpoint=20") as a:
                a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                work(a, 4)
                mount.sync()
                ballast = os.path.join(state, "ballast")
                with open(ballast, "wb", buffering=0) as f:
                    try:
                        while True:
                            f.write(b"x" * 4096)
                    except OSError:
                        pass
                work(a, 40)  # about 800 KB, several times round the WAL
                told(mount, "a full disk")
                need(integrity(a.path) == "ok", "integrity_check")
                r = fazt("umount", mount.dir, check=False)
                need(r.returncode == 1 and is_mounted(mount.dir), "umount with a file open: exit %d", r.returncode)
                os.unlink(ballast)
                work(a, 3)
                wait_for("a healthy status", lambda: fazt("status", mount.dir, check=False).returncode == 0)
                work(a, 3)
            n = judge(mount, a.states)
            need(n > 8, "%s: only %d states are kept", mode, n)
            sound(mount, "app.db")
            mount.umount()
            with open(os.path.join(base, "fazt.log")) as f:
                need("No space left" in f.read(), "the log says nothing of a full disk")
    finally:
        mount.cleanup()
        sh("umount", state)


def read_only(base):
    """Became read-only while mounted; and a mount on such a one is refused."""
    state = os.path.join(base, "state-ro")
    os.makedirs(state)
    sh("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", state)
    conf = os.path.join(base, "ro.conf")
    with open(conf, "w") as f:
        f.write("[mount]\nstate = %s/fazt\n[target t]\nurl = dir:%s/store-ro\n" % (state, base))
    mount = Mount(base, "--config", conf, name="app-ro", store="store-ro", targets=[])
    try:
        sh("mount", "-o", "remount,ro", state)
        r = fazt("mount", "--config", conf, mount.dir, check=False)
        need(r.returncode == 1 and not is_mounted(mount.dir), "mount on a read-only state: exit %d", r.returncode)
        need("Read-only" in r.stderr and state in r.stderr, "the refusal does not say why: %s", r.stderr)
        sh("mount", "-o", "remount,rw", state)
        with mount:
            mount.start()
            with App(mount, "app.db", "journal_mode=WAL") as a:
                a.do("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB)")
                work(a, 3)
            mount.sync()
            mount.umount()
            sh("mount", "-o", "remount,ro", state)
            r = fazt("mount", "--config", conf, mount.dir, check=False)
            need(r.returncode == 1 and not is_mounted(mount.dir), "mount on a read-only state: exit %d", r.returncode)
            out = os.path.join(base, "ro.db")
            mount.restore("app.db", out)
            need(file_hash(out) == a.states[-1][0], "the store is of no use while the state cannot be written")
            sh("mount", "-o", "remount,rw", state)
            mount.start()
            need(fazt_json("verify", "--live", "--json", mount.dir)["differences"] == 0, "verify --live")
            mount.umount()
    finally:
        mount.cleanup()
        sh("umount", state)


def run(base):
    full(base, "WAL")
    full(base, "DELETE")
    read_only(base)


if __name__ == "__main__":
    main("state-disk", run)
