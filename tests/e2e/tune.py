#!/usr/bin/python3
"""fazt tune, in a mount namespace whose /proc/sys, /proc/meminfo and /etc/sysctl.d are this scenario's own: what should be another, set, set
again, taken back; a database is changed only when it is named."""
import json
import os
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, need, scratch  # noqa: E402

SYSCTL = {"vm.dirty_background_bytes": "0", "vm.dirty_background_ratio": "10", "vm.dirty_bytes": "5000000000", "vm.dirty_ratio": "0",
          "fs.inotify.max_user_watches": "8192", "fs.inotify.max_user_instances": "128", "net.ipv4.tcp_slow_start_after_idle": "1"}
FILE = "60-fazt.conf"

with scratch("tune") as base:
    etc = os.path.join(base, "etc")
    os.mkdir(etc)

    def at(key):
        return os.path.join(base, key)

    def reset(values, available_kb):
        for k, v in values.items():
            with open(at(k), "w") as f:
                f.write(v + "\n")
        with open(at("meminfo"), "w") as f:
            f.write("MemTotal: 99 kB\nMemAvailable:   %d kB\n" % available_kb)

    def now():
        return {k: open(at(k)).read().strip() for k in SYSCTL}

    def run(*args, code=0):
        binds = ["mount --bind '%s' /proc/sys/%s" % (at(k), k.replace(".", "/")) for k in SYSCTL]
        if os.path.exists(at("mounts")):
            binds.append("mount --bind '%s' /proc/$$/mounts" % at("mounts"))
        script = "set -e; mount --bind '%s' /proc/meminfo; mkdir -p /etc/sysctl.d; mount --bind '%s' /etc/sysctl.d; %s; exec \"$@\"" % (
            at("meminfo"), etc, "; ".join(binds))
        r = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", FAZT, "tune", *args], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, timeout=60, stdin=subprocess.DEVNULL)
        need(r.returncode == code, "fazt tune %s: exit %d\n%s%s", args, r.returncode, r.stdout, r.stderr)
        return r

    def settings(*args):
        return {s["key"]: (s["now"], s["want"]) for s in json.loads(run("--json", *args).stdout)["settings"]}

    # a small machine: nothing; a large one: dirty memory is bounded
    reset({**SYSCTL, "vm.dirty_bytes": "100000000"}, 900000)
    need(settings() == {}, "a small machine: %s", settings())
    reset(SYSCTL, 16000000)
    have = settings()
    need(set(have) == {"vm.dirty_background_bytes", "vm.dirty_bytes"}, "a large machine: %s", have)
    need(have["vm.dirty_background_bytes"][1] == "67108864" and "10 %" in have["vm.dirty_background_bytes"][0], "%s", have)
    r = run()
    need("why:" in r.stdout and "sysctl -w vm.dirty_bytes=268435456" in r.stdout and "busy_timeout" in r.stdout, "for people:\n%s", r.stdout)
    need(now() == SYSCTL and not os.listdir(etc), "printing changed something")

    # applied, twice; what was is beside it
    run("--apply")
    need({k: v for k, v in now().items() if v != SYSCTL[k]} == {"vm.dirty_background_bytes": "67108864", "vm.dirty_bytes": "268435456"},
         "--apply set %s", now())
    with open(os.path.join(etc, FILE)) as f:
        text = f.read()
    need("# was: vm.dirty_background_ratio = 10\n" in text and "# was: vm.dirty_bytes = 5000000000\n" in text, "the file:\n%s", text)
    lines = [l for l in text.splitlines() if l and not l.startswith("#")]
    need(lines == ["vm.dirty_background_bytes = 67108864", "vm.dirty_bytes = 268435456"], "the file:\n%s", text)
    run("--apply")
    with open(os.path.join(etc, FILE)) as f:
        need(f.read() == text, "applied twice the file differs")
    # somebody set one otherwise since: again, and the way back stays
    with open(at("vm.dirty_bytes"), "w") as f:
        f.write("9000000000\n")
    run("--apply")
    with open(os.path.join(etc, FILE)) as f:
        need(f.read() == text and now()["vm.dirty_bytes"] == "268435456", "set again")
    need("2 settings" in run("--undo").stdout, "--undo")
    need(now()["vm.dirty_bytes"] == "5000000000" and now()["vm.dirty_background_ratio"] == "10" and not os.listdir(etc), "--undo left %s",
         (now(), os.listdir(etc)))
    need("nothing was set" in run("--undo").stdout, "--undo twice")
    with open(os.path.join(etc, FILE), "w") as f:
        f.write("vm.swappiness = 1\n")
    run("--undo", code=1)
    need(os.listdir(etc) == [FILE], "another's file was removed")
    os.unlink(os.path.join(etc, FILE))
    run("--apply", "--undo", code=2)
    run("--database", "x", code=2)
    for alone in ("--json", etc):
        need("alone" in run("--undo", alone, code=2).stderr, "--undo %s", alone)
    before = now()
    need("FZ-1203" in run("--apply", "--database", at("none.db"), code=3).stderr and now() == before and not os.listdir(etc),
         "a database that is not there: something was set")

    # the databases of a mount, and what its configuration adds
    reset({**SYSCTL, "vm.dirty_bytes": "100000000", "vm.dirty_background_bytes": "10000000", "fs.inotify.max_user_watches": "100"}, 900000)
    key, peer = os.path.join(base, "host.key"), os.path.join(base, "peer.key")
    fazt("keygen", "-o", key)
    follower = fazt("keygen", "-o", peer).stdout.strip()
    with Mount(base, "--identity", key, "--listen", "127.0.0.1:0", "--follower", follower, name="my app") as m:
        m.start()
        for name, size in (("a.db", 4096), ("b.db", 1024)):
            con = sqlite3.connect(os.path.join(m.dir, name), isolation_level=None)
            con.execute("PRAGMA page_size=%d" % size)
            con.execute("CREATE TABLE t(x)")
            con.close()
        have = settings(m.dir)
        need(set(have) == {"fs.inotify.max_user_watches", "net.ipv4.tcp_slow_start_after_idle", "a.db: journal_mode", "b.db: journal_mode",
                           "b.db: page_size"}, "a mount: %s", have)
        run("--apply", m.dir)

        def journal(name):
            with open(os.path.join(m.dir, name), "rb") as f:
                return f.read(20)[18]
        need((journal("a.db"), journal("b.db")) == (1, 1), "--apply changed a database that was not named")
        r = run("--apply", "--json", "--database", os.path.join(m.dir, "a.db"), m.dir)
        need(json.loads(r.stdout)["databases"] == [os.path.join(m.dir, "a.db")], "--json: %s", r.stdout)
        need((journal("a.db"), journal("b.db")) == (2, 1), "--database: %s", (journal("a.db"), journal("b.db")))
        con = sqlite3.connect(os.path.join(m.dir, "b.db"), isolation_level=None)
        con.execute("BEGIN IMMEDIATE")
        r = run("--apply", "--database", os.path.join(m.dir, "b.db"), m.dir, code=1)
        need("FZ-1401" in r.stderr and journal("b.db") == 1, "a database in use: %s", r.stderr)
        con.close()
        outside = os.path.join(base, "outside.db")  # where a link below the mount leads is not what was named
        with sqlite3.connect(outside) as con:
            con.execute("CREATE TABLE t(x)")
        con.close()
        os.symlink(outside, os.path.join(m.dir, "link.db"))
        r = run("--apply", "--database", os.path.join(m.dir, "link.db"), m.dir, code=1)
        with open(outside, "rb") as f:
            need("FZ-0001" in r.stderr and f.read(20)[18] == 1, "a link: %s", r.stderr)
        os.unlink(os.path.join(m.dir, "link.db"))
        run("--undo")
        need(now()["fs.inotify.max_user_watches"] == "100", "--undo: %s", now())

        # the filesystem below is the longest that covers the directory, whose name the kernel escapes
        with open(at("mounts"), "w") as f:
            f.write("/dev/a / ext4 rw,relatime 0 0\n/dev/b %s ext4 rw,relatime,nobarrier 0 0\n/dev/c %s/my ext4 rw 0 0\n" %
                    (m.dir.replace(" ", "\\040"), base))
        have = settings(m.dir)
        need(have.get("barrier") == ("off", "on") and "noatime" not in have, "a directory with a blank: %s", have)
        os.unlink(at("mounts"))

        # what is printed to be copied is what a shell takes, whatever a database is called; nothing else reaches the terminal
        odd = ["x';echo PWNED >&2;'.db", "$(echo PWNED).db", "line\nfeed\x1b[31m.db"]
        for name in odd:
            con = sqlite3.connect(os.path.join(m.dir, name), isolation_level=None)
            con.execute("PRAGMA page_size=1024")
            con.execute("CREATE TABLE t(x)")
            con.close()
        commands = {s["key"]: s["command"] for s in json.loads(run("--json", m.dir).stdout)["settings"]}
        for name in ["b.db"] + odd:
            path = os.path.join(m.dir, name)
            for key, want in (("journal_mode", ["fazt", "tune", "--apply", "--database", path, m.dir]),
                              ("page_size", ["sqlite3", path, "PRAGMA page_size=4096; VACUUM"])):
                line = commands["%s: %s" % (name, key)]
                r = subprocess.run(["bash", "-c", "printf '%s\\0' " + line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                need(r.stdout.split("\0")[:-1] == want and not r.stderr, "a shell takes %s for %s%s", line, r.stdout, r.stderr)
        shown = run(m.dir).stdout
        need(all(c == "\n" or c.isprintable() for c in shown) and "line\nfeed" not in shown, "raw on the terminal:\n%s", repr(shown))
        m.umount()

    # how the file system below is mounted, also where its name has a blank
    disk = os.path.join(base, "my disk")
    os.mkdir(disk)
    subprocess.run(["mount", "-t", "ramfs", "-o", "strictatime", "none", disk], check=True)
    try:
        with Mount(base, name="my disk/app") as m:
            m.start()
            need("noatime" in settings(m.dir), "strictatime is not seen: %s", settings(m.dir))
            m.umount()
    finally:
        subprocess.run(["umount", disk], check=True)
print("ok")
