#!/usr/bin/python3
# timeout: 150
"""fazt restore as people use it: every form of a moment, between commits, before the first, after the last; files that are
there, directories that are not, read-only or full disks, an old -wal beside the output; wrong keys; objects with one byte
changed or cut short (exit 4, and the object named); a mount's own log when the store is gone; and 200 MB on a terminal:
progress with rate and time left, bounded memory."""
import contextlib
import json
import os
import pty
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, copy_store, fazt, fazt_json, file_hash, integrity, main, need, wait_for  # noqa: E402
from oracle import Application, check_all, rfc3339, same  # noqa: E402


def refused(code, word, *args, **kw):
    r = fazt(*args, check=False, **kw)
    need(r.returncode == code and word in r.stderr, "fazt %s: exit %d, not %d with %s: %s%s", " ".join(map(str, args)),
         r.returncode, code, word, r.stdout, r.stderr)
    return r


def moments(app, m, out):
    source = m.source("app.db")
    log = fazt_json("log", "--json", "-i", m.key, source)
    first, last = log[0]["time_ms"], log[-1]["time_ms"]

    def at(text, want, tz="UTC", **kw):
        r = fazt("restore", source, "-i", m.key, "--at", text, "-o", out, "--force", env={**os.environ, "TZ": tz}, **kw)
        got = same(app, out, text)
        need(got == want, "--at '%s' (%s) took commit %d, not %d: %s", text, tz, got, want, r.stdout)
        return r

    def local(ms, tz, fmt):
        p = subprocess.run(["date", "-d", "@%d.%03d" % (ms // 1000, ms % 1000), fmt], stdout=subprocess.PIPE, text=True,
                           env={**os.environ, "TZ": tz}, check=True)
        return p.stdout.strip()
    for n in (2, 5, app.n - 1):
        ms = (app.after_ms[n] + app.before_ms[n + 1]) // 2  # between two commits
        at(rfc3339(ms), n)
        at(local(ms, "Asia/Kolkata", "+%Y-%m-%dT%H:%M:%S.%3N+05:30"), n)
        at(local(ms, "America/New_York", "+%Y-%m-%dT%H:%M:%S.%3N%:z"), n, tz="Asia/Tokyo")
        for tz in ("America/New_York", "Asia/Kolkata", "UTC"):
            at(local(ms, tz, "+%Y-%m-%d %H:%M:%S.%3N"), n, tz=tz)
            at(local(ms, tz, "+%Y-%m-%dT%H:%M:%S.%3N"), n, tz=tz)
        r = fazt("restore", source, "-i", m.key, "--at", rfc3339(ms), "-o", out + ".dry", "--dry-run", "--json")
        need('"dry_run":\ttrue' in r.stdout and not os.path.exists(out + ".dry"), "--dry-run: %s", r.stdout)
    for e in log:  # the moment of each commit itself, and one ms before it
        r = fazt_json("restore", source, "-i", m.key, "--at", e["time"], "--dry-run", "--json")
        need(r["txid"] >= e["txid"] and r["time_ms"] == e["time_ms"] and r["distance_ms"] == 0, "--at its own time: %s %s", e, r)
        before = [x["txid"] for x in log if x["time_ms"] < e["time_ms"]]
        if before:
            r = fazt_json("restore", source, "-i", m.key, "--at", rfc3339(e["time_ms"] - 1), "--dry-run", "--json")
            need(r["txid"] == before[-1], "--at 1 ms before %s: %s", e, r)
    seconds = (time.time_ns() // 1000000 - app.after_ms[4]) / 1000
    for text in ("%f seconds ago" % (seconds - 0.1), "0 seconds ago", "now", "1h ago", "30 minutes ago", "2 days ago", "90s ago"):
        # relative ones move with the clock: only which side of history they fall on is sure
        r = fazt("restore", source, "-i", m.key, "--at", text, "--dry-run", "--json", check=False)
        want = 0 if text in ("now", "0 seconds ago") else 3
        need("f" in text or r.returncode == want or text.endswith("seconds ago"), "--at '%s': exit %d %s", text, r.returncode,
             r.stderr)
    at("now", app.n)
    at(rfc3339(last + 86400000), app.n)
    r = refused(3, "FZ-1204", "restore", source, "-i", m.key, "--at", rfc3339(first - 1), "-o", out + ".none")
    need(rfc3339(first)[:19] in r.stderr, "it does not say when history begins: %s", r.stderr)
    for text in ("yesterday noonish", "2026-13-01", "25:00", "-5 minutes ago", "", "2026-01-01T00:00:00+99:00", "12"):
        refused(2, "FZ-1001", "restore", source, "-i", m.key, "--at", text, "-o", out + ".none")
    need(not os.path.exists(out + ".none"), "a refused restore left a file")
    r = fazt("restore", source, "-i", m.key, "--at", rfc3339(app.before_ms[7] - 1), "-o", out, "--force")
    need(re.search(r"commit \d+ of \d{4}-\d\d-\d\dT", r.stdout), "it does not say what it took: %s", r.stdout)


def files(app, m, base, out):
    source = m.source("app.db")
    with open(out, "w") as f:
        f.write("precious")
    refused(1, "FZ-1205", "restore", source, "-i", m.key, "-o", out)
    with open(out) as f:
        need(f.read() == "precious", "an existing file was changed")
    fazt("restore", source, "-i", m.key, "-o", out, "--force")
    need(same(app, out, "--force") == app.n, "--force")
    refused(1, "FZ-", "restore", source, "-i", m.key, "-o", os.path.join(base, "none", "x.db"))
    refused(2, "FZ-1001", "restore", source, "-i", m.key, "-o", base, "--force")  # a directory
    need(os.path.isdir(base), "the directory was replaced")
    # a full and a read-only disk
    small = os.path.join(base, "small")
    os.mkdir(small)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", small], check=True)
    try:
        r = refused(1, "FZ-0028", "restore", source, "-i", m.key, "-o", os.path.join(small, "x.db"))
        need(not os.listdir(small), "a full disk keeps %s", os.listdir(small))
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        r = refused(1, "FZ-0030", "restore", source, "-i", m.key, "-o", os.path.join(small, "x.db"))
        need("x.db" in r.stderr or small in r.stderr, "it does not say where: %s", r.stderr)
    finally:
        subprocess.run(["umount", small], check=True)
    # the WAL of another life beside the output would be played into the restored database
    victim = os.path.join(base, "victim.db")
    subprocess.run([sys.executable, "-c", "import sqlite3, os, sys\n"
                    "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
                    "c.execute('PRAGMA journal_mode=WAL')\n"
                    "c.execute('CREATE TABLE other(x)')\n"
                    "c.execute('INSERT INTO other VALUES (zeroblob(50000))')\n"
                    "os._exit(0)\n", victim], check=True)
    need(os.path.getsize(victim + "-wal") > 0, "no -wal was left by the killed program")
    r = fazt("restore", source, "-i", m.key, "-o", victim, "--force", check=False)
    if r.returncode == 0:
        con = sqlite3.connect(victim)
        tables = [t for t, in con.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
        n = con.execute("SELECT n FROM meta").fetchone()[0] if "meta" in tables else None
        con.close()
        need(tables == ["meta", "t"] and n == app.n, "an old -wal came back into the restored database: %s", tables)
        need(integrity(victim) == "ok", "integrity after a restore beside an old -wal")


def keys(app, m, base, out):
    other = os.path.join(base, "other.key")
    fazt("keygen", "-o", other)
    for args in (["-i", other], []):
        r = refused(1, "FZ-1201", "restore", m.source("app.db"), *args, "-o", out + ".x")
        need("app.db" in r.stderr, "it does not say what cannot be decrypted: %s", r.stderr)
    r = refused(1, "FZ-1201", "verify", "--full", m.source("app.db"), "-i", other)
    refused(2, "FZ-1003", "restore", m.source("app.db"), "-i", base + "/nokey", "-o", out + ".x")
    with open(base + "/badkey", "w") as f:
        f.write("AGE-SECRET-KEY-1NONSENSE\n")
    os.chmod(base + "/badkey", 0o600)
    refused(2, "FZ-1003", "restore", m.source("app.db"), "-i", base + "/badkey", "-o", out + ".x")
    shutil.copy(m.key, base + "/openkey")
    os.chmod(base + "/openkey", 0o644)
    r = fazt("restore", m.source("app.db"), "-i", base + "/openkey", "-o", out, "--force", check=False)
    need(r.returncode in (0, 2), "a key others can read: exit %d", r.returncode)
    need(not os.path.exists(out + ".x"), "a failed restore left a file")


def damage(app, m, base, out):
    # A copy, with level 0 and snapshots alone: a pack of a minute would stand in for what is damaged.
    store = base + "/damaged"
    copy_store(m.store, store)
    for d, _, _ in list(os.walk(store)):
        if os.path.basename(d) in ("1", "2", "3", "4", "5"):
            shutil.rmtree(d)
    source = "dir:%s/app.db" % store
    packs = sorted(os.path.join(d, f) for d, _, fs in os.walk(store) for f in fs if ".pack" in f or ".ltx" in f)
    pack = packs[len(packs) // 2]
    with open(pack, "rb") as f:
        good = f.read()
    size = len(good)
    name = os.path.basename(pack)
    txid = int(name.split("-")[1], 16)
    for what, bad in [("byte %d" % at, good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1:])
                      for at in (0, 30, 100, 180, 230, size // 2, size - 60, size - 1)] + \
                     [("cut to %d" % n, good[:n]) for n in (0, 10, 150, size // 2, size - 1)] + [("longer", good + b"x")]:
        with open(pack, "wb") as f:
            f.write(bad)
        r = fazt("restore", source, "-i", m.key, "--txid", txid, "-o", out + ".x", check=False)
        # a changed recipient stanza is one of somebody else's, as far as age can tell
        codes = (1, 4) if what in ("byte 30", "byte 100") else (4,)
        need(r.returncode in codes and name in r.stderr, "%s of %s: restore: exit %d: %s", what, name, r.returncode, r.stderr)
        need(not os.path.exists(out + ".x"), "a restore from a damaged store left a file")
        r = fazt("verify", source, "-i", m.key, check=False)
        need(r.returncode in codes and name in r.stdout + r.stderr, "%s of %s: verify: exit %d: %s%s", what, name, r.returncode,
             r.stdout, r.stderr)
    os.unlink(pack)
    r = fazt("verify", source, "-i", m.key, check=False)
    need(r.returncode == 4, "an object is missing: verify: exit %d %s%s", r.returncode, r.stdout, r.stderr)
    r = fazt("verify", source, check=False)
    need(r.returncode == 4, "an object is missing: verify without a key: exit %d %s%s", r.returncode, r.stdout, r.stderr)
    r = fazt("restore", source, "-i", m.key, "--txid", txid, "-o", out + ".x", check=False)
    need(r.returncode in (3, 4) and "FZ-" in r.stderr, "an object is missing: restore: exit %d %s", r.returncode, r.stderr)
    with open(pack, "wb") as f:
        f.write(good)
    fazt("verify", "--full", source, "-i", m.key)
    r = fazt("verify", source)
    need("structure only" in r.stdout, "verify without a key: %s", r.stdout)


def own_log(app, m, out):
    away = m.store + ".away"
    os.rename(m.store, away)
    name = os.path.join(m.dir, "app.db")
    app.rows(3)
    listed = fazt_json("log", "--json", name)
    check_all(app, m, out, source=name, listed=listed)
    fazt("verify", "--full", name)
    r = fazt("restore", name, "--latest", "-o", out, "--force")
    need(same(app, out, "own log") == app.n, "not the last commit: %s", r.stdout)
    refused(3, "FZ-1203", "restore", os.path.join(m.dir, "none.db"), "-o", out + ".x")


def names(m):
    """Without a database's name: which ones are there, one that was deleted too; in a store, in a directory of it, in a mount's store."""
    os.mkdir(os.path.join(m.dir, "sub"))
    for name in ("sub/two.db", "sub/gone.db"):
        with contextlib.closing(sqlite3.connect(os.path.join(m.dir, name))) as con:
            con.execute("CREATE TABLE t(a)")
    m.sync()
    want = {d["name"]: d["txid"] for d in m.status()["databases"]}
    os.unlink(os.path.join(m.dir, "sub/gone.db"))
    wait_for("the store to know of the deletion", lambda: "(deleted " in fazt("log", "dir:" + m.store).stdout)
    for source in ("dir:" + m.store, m.dir):
        got = fazt_json("log", "--json", source)
        need({o["database"]: o["txid"] for o in got} == want, "log %s: %s, not %s", source, got, want)
        need([o["database"] for o in got if "deleted" in o] == ["sub/gone.db"], "log %s: %s", source, got)
    r = fazt("log", "dir:" + m.store + "/sub")
    lines = sorted(x.split(None, 2)[2] for x in r.stdout.splitlines())
    need([x.split("  ")[0] for x in lines] == ["gone.db", "two.db"] and "(deleted " in lines[0], "log of a directory: %s", r.stdout)
    refused(3, "FZ-1203", "log", "dir:" + m.dir)

    # what cannot be read is told, and does not hide the rest
    copy, conf = os.path.join(m.base, "copy"), os.path.join(m.base, "log.conf")
    copy_store(m.store, copy)
    os.makedirs(os.path.join(copy, "a\1b", "claim"))
    for claim in ("a\1b/claim/00000001", "sub/two.db/claim/00000001"):
        with open(os.path.join(copy, claim), "w") as f:
            f.write("{")
    r = fazt("log", "--json", "dir:" + copy, check=False)
    need(r.returncode == 4 and "sub/two.db" in r.stderr, "a damaged claim: exit %d %s", r.returncode, r.stderr)
    need({o["database"] for o in json.loads(r.stdout)} == set(want) - {"sub/two.db"}, "a damaged claim hides: %s", r.stdout)
    with open(conf, "w") as f:
        f.write("[target lost]\nurl = dir:%s/x\n[target good]\nurl = dir:%s\n" % (conf, m.store))
    r = fazt("log", "--config", conf, "lost", check=False)
    need(r.returncode == 1 and "FZ-1203" not in r.stderr and "lost" in r.stderr, "a lost target: %d %s", r.returncode, r.stderr)
    r = fazt("log", "--json", "--config", conf, m.dir, check=False)
    need(r.returncode == 1 and "lost" in r.stderr and {o["database"] for o in json.loads(r.stdout)} == set(want),
         "a lost target hides the other: %d %s%s", r.returncode, r.stdout, r.stderr)


def terminal(base, m):
    path = os.path.join(m.dir, "big.db")
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("CREATE TABLE b(x)")
    for _ in range(10):
        con.execute("BEGIN")
        for _ in range(20):
            con.execute("INSERT INTO b VALUES (randomblob(1000000))")
        con.execute("COMMIT")
    con.close()
    m.sync()
    out = os.path.join(base, "big.out")
    parent, child = pty.openpty()
    p = subprocess.Popen([FAZT, "restore", m.source("big.db"), "-i", m.key, "-o", out], stdin=child, stdout=child, stderr=child)
    os.close(child)
    shown, anon = b"", 0
    while True:
        with open("/proc/%d/status" % p.pid) as f:
            for line in f:
                if line.startswith("RssAnon"):
                    anon = max(anon, int(line.split()[1]))
        if select.select([parent], [], [], 0.002)[0]:
            try:
                data = os.read(parent, 65536)
            except OSError:
                break
            if not data:
                break
            shown += data
    need(p.wait() == 0, "restore on a terminal: exit %d: %s", p.returncode, shown[-500:])
    os.close(parent)
    text = shown.decode()
    print("restore of 200 MB: RssAnon %d KiB at most; %s" % (anon, re.sub(r"\s+", " ", text[-200:])))
    need(re.search(r"\d+(\.\d+)? ?%|\d+ of \d+", text) and re.search(r"[kMG]i?B/s", text) and re.search(r"left", text),
         "no progress with rate and time left: %r", text[-600:])
    need("\r" in text, "progress is not drawn in place")
    if not os.environ.get("SAN"):
        need(anon <= 60 << 10, "restore used %d KiB", anon)
    need(os.path.getsize(out) == os.path.getsize(path) and file_hash(out) == file_hash(path), "the restored 200 MB differ")
    r = fazt("restore", m.source("big.db"), "-i", m.key, "-o", out, "--force")
    need("\r" not in r.stdout + r.stderr, "progress without a terminal: %r", r.stderr[:200])


def steps(base, m, app, out):
    for i in range(16):
        app.row(30000 if i == 8 else None)
        time.sleep(0.012)  # moments between two commits, also in milliseconds
        if i % 5 == 4:
            m.sync()
    m.sync()
    moments(app, m, out)
    files(app, m, base, out)
    keys(app, m, base, out)
    damage(app, m, base, out)
    terminal(base, m)
    names(m)
    own_log(app, m, out)


def gaps(base):
    """Commits whose objects are gone, before a later snapshot: verify lists them and is content, --strict is not."""
    conf = os.path.join(base, "gaps.conf")
    with open(conf, "w") as f:
        f.write("[target t]\nurl = dir:%s/gaps-store\nship_interval = 50ms\nsnapshot_interval = 1s\n" % base)

    def objects(level):  # (first TXID, last TXID, path), ascending
        found = [os.path.join(d, f) for d, _, fs in os.walk(os.path.join(base, "gaps-store", "app.db")) for f in fs
                 if os.path.basename(d) == str(level) and not f.startswith(".")]
        return sorted((int(os.path.basename(p).split("-")[0], 16), int(os.path.basename(p).split("-")[1], 16), p) for p in found)
    with Mount(base, "--config", conf, name="gaps", store="gaps-store", targets=[]) as m:
        m.start()
        app = Application(os.path.join(m.dir, "app.db"))

        def enough():
            app.row()
            m.sync()
            return any(last > 8 for _, last, _ in objects(9)) and objects(0)[-1][1] > objects(9)[-1][1]
        wait_for("a snapshot that is not the first", enough)
        app.close()
        m.umount(wait=True)
    source = m.source("app.db")
    whole = fazt_json("verify", "--strict", "--json", source, "-i", m.key)
    need(whole["gaps"] == [] and whole["last_txid"] == objects(0)[-1][1], "verify of a whole store: %s", whole)
    snapshot = [last for _, last, _ in objects(9) if last > 8][0]
    packs = [o for o in objects(0) if 2 < o[0] and o[1] < snapshot]
    first, last, path = packs[len(packs) // 2]
    os.unlink(path)
    before = min(l for _, l, _ in objects(9) if l > last)
    r = fazt_json("verify", "--json", source, "-i", m.key)
    need([(g["after"], g["before"]) for g in r["gaps"]] == [(first - 1, before)], "TXIDs %d to %d are gone: %s", first, last, r)
    need(r["last_txid"] == whole["last_txid"], "the newest state is told as %s", r)
    r = fazt("verify", source, "-i", m.key)
    need("after txid %d and before txid %d " % (first - 1, before) in r.stdout, "the gap is not listed: %s", r.stdout)
    for args in ([], ["-i", m.key], ["-i", m.key, "--full"]):
        r = refused(4, "FZ-1206", "verify", "--strict", "--json", source, *args)
        told = json.loads(r.stdout)  # the findings are printed all the same
        need([(g["after"], g["before"]) for g in told["gaps"]] == [(first - 1, before)], "--strict --json %s: %s", args, told)
    r = refused(4, "FZ-1206", "verify", "--strict", source, "-i", m.key)
    need("has 1 gap in" in r.stderr, "--strict: %s", r.stderr)
    refused(2, "FZ-1001", "verify", "--strict", "--live", m.dir)


def scenario(base):
    gaps(base)
    out = os.path.join(base, "out.db")
    with Mount(base) as m:
        m.start()
        app = Application(os.path.join(m.dir, "app.db"), "DELETE")
        try:
            steps(base, m, app, out)
        finally:
            app.close()
        m.umount()


if __name__ == "__main__":
    main("restore", scenario)
