#!/usr/bin/python3
# timeout: 120
"""What lies in a store, judged without fazt: `age` opens every object, the script of docs/formats.md splits every pack, the
official `ltx` tool verifies, lists and applies every file, the chain of checksums holds from the first commit on, and each
state is the one SQLite showed. Levels are shortened so that each kind of object is there. Also encrypt = none, and several
recipients each of whom can restore alone."""
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, ROOT, Mount, fazt, file_hash, main, need, wait_for  # noqa: E402
from oracle import Application, read_n, same  # noqa: E402

CONF = """[encrypt]
%s
[target t]
url = dir:%s
ship_interval = 50ms
minute = 1s
hour = 3s
day = 6s
snapshot_interval = 4s
"""


def run(*args, cwd=None):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, timeout=60)
    need(r.returncode == 0, "%s: exit %d: %s", " ".join(args)[:300], r.returncode, r.stdout)
    return r.stdout


def split_script(base):
    with open(os.path.join(ROOT, "docs", "formats.md")) as f:
        blocks = re.findall(r"```python\n(.*?)```", f.read(), re.S)
    need(len(blocks) == 1, "docs/formats.md has %d scripts", len(blocks))
    path = os.path.join(base, "split.py")
    with open(path, "w") as f:
        f.write(blocks[0])
    return path


def objects(store, name):
    """{level: [(key, path)]} ascending."""
    out = {}
    for d, _, files in os.walk(os.path.join(store, name)):
        for f in files:
            if f.startswith(".") or os.path.basename(d) == "claim":
                continue
            out.setdefault(int(os.path.basename(d)), []).append((f, os.path.join(d, f)))
    return {k: sorted(v) for k, v in out.items()}


def listing(paths):
    rows = [l.split() for l in run("ltx", "list", *paths).splitlines()[1:]]
    need(len(rows) == len(paths), "ltx list tells %d of %d files", len(rows), len(paths))
    return [{"min": r[0], "max": r[1], "pre": r[4], "post": r[5], "time": r[6]} for r in rows]


def judge_chain(app, files, base, what, whole):
    """Each file verified; each pre-apply checksum is the one before; applied one by one they give SQLite's states."""
    need(files, "%s: no file", what)
    need(run("ltx", "verify", *files).strip().endswith("ok"), "%s: ltx does not verify it", what)
    rows = listing(files)
    need(int(rows[0]["min"], 16) == 1, "%s: begins at %s", what, rows[0]["min"])
    need(int(rows[0]["pre"], 16) == 0, "%s: the first file has pre-apply checksum %s", what, rows[0]["pre"])
    for a, b in zip(rows, rows[1:]):
        need(int(b["min"], 16) == int(a["max"], 16) + 1, "%s: %s does not follow %s", what, b["min"], a["max"])
        need(b["pre"] == a["post"], "%s: at %s the chain breaks", what, b["min"])
        need(b["time"] >= a["time"], "%s: time goes back at %s", what, b["min"])
    out = os.path.join(base, "applied.db")
    states = []
    if os.path.exists(out):
        os.unlink(out)
    for i, f in enumerate(files):
        run("ltx", "apply", "-db", out, f)
        need(run("ltx", "checksum", out).strip() == rows[i]["post"], "%s: checksum after %s", what, f)
        n = same(app, out, "%s, applied up to %s" % (what, rows[i]["max"]))
        need(n == 0 or n not in states, "%s: commit %d twice", what, n)
        states += [n] if n else []
    if whole:
        need(states == list(range(1, app.n + 1)), "%s: commits %s of 1..%d", what, states, app.n)
    return rows


def open_object(path, key, dest):
    if key:
        with open(path, "rb") as f:
            need(f.read(21) == b"age-encryption.org/v1", "%s is not age", path)
        run("age", "-d", "-i", key, "-o", dest, path)
    else:
        with open(path, "rb") as f, open(dest, "wb") as g:
            g.write(f.read())


def judge_store(app, store, keys, base):
    script = split_script(base)
    objs = objects(store, app.name)
    commits = {}
    for level in sorted(objs):
        files = []
        for i, (name, path) in enumerate(objs[level]):
            where = os.path.join(base, "l%d-%03d" % (level, i))
            os.mkdir(where)
            plain = os.path.join(where, "object")
            open_object(path, keys[i % len(keys)], plain)
            lo, hi, _, last_ms, post = name.split(".")[0].split("-")
            if level <= 2:
                run("/usr/bin/python3", script, plain, cwd=where)
                os.unlink(plain)
                found = sorted(os.path.join(where, f) for f in os.listdir(where))
            else:
                found = [plain]
            rows = listing(found)
            need((rows[0]["min"], rows[-1]["max"], rows[-1]["post"]) == (lo, hi, post), "%s says %s", name, rows)
            files.append(found)
        if level == 9:
            for (name, _), f in zip(objs[9], files):
                judge_chain(app, f, base, "snapshot %s" % name, False)
            continue
        flat = [f for fs in files for f in fs]
        if level in (1, 2):  # the commits of level 0, each on its own; a window with one pack needs no repacking
            need(run("ltx", "verify", *flat).strip().endswith("ok"), "level %d: ltx does not verify it", level)
            for r in listing(flat):
                need(commits.get(r["min"]) == r, "level %d has %s, level 0 %s", level, r, commits.get(r["min"]))
            continue
        rows = judge_chain(app, flat, base, "level %d" % level, level == 0)
        if level == 0:
            need(all(r["min"] == r["max"] for r in rows), "level 0 has merged commits")
            commits = {r["min"]: r for r in rows}
    return objs


def mounted(base, name, encrypt, recipients):
    conf = os.path.join(base, name + ".conf")
    store = os.path.join(base, name + "-store")
    with open(conf, "w") as f:
        f.write(CONF % (encrypt, store))
    m = Mount(base, "--config", conf, name=name, store=name + "-store", targets=[])
    m.recipient = recipients[0]
    for r in recipients[1:]:
        m.flags += ["--recipient", r]
    return m


def key_of(base, name):
    path = os.path.join(base, name)
    return path, fazt("keygen", "-o", path).stdout.strip()


def scenario(base):
    keys = [key_of(base, "key-%d" % i) for i in range(3)]
    stranger, _ = key_of(base, "key-stranger")
    for name, encrypt, use, levels in (("locked", "", keys, {0, 1, 2, 3, 4, 5, 9}), ("plain", "encrypt = none", [], {0, 3})):
        m = mounted(base, name, encrypt, [r for _, r in use] or ["-"])
        if not use:
            m.flags += ["--encrypt", "none"]
        with m:
            if use:
                m.start()
            else:  # no recipient at all
                start_plain(m)
            app = Application(os.path.join(m.dir, name + ".db"))

            def enough():
                app.row()
                time.sleep(0.05)
                there = objects(m.store, app.name)
                return levels <= set(there) and len(there[3]) > 1
            wait_for("every kind of object", enough, 60)
            m.sync()
            app.close()
            m.umount(wait=True)
            work = os.path.join(base, "work-" + name)
            os.mkdir(work)
            judge_store(app, m.store, [k for k, _ in use] or [None], work)
            out = os.path.join(base, "out.db")
            for key, _ in use or [(m.key, None)]:
                m.key = key
                m.restore(app.name, out)
                need(same(app, out, key) == app.n, "%s: the latest state is %d of %d", key, read_n(out), app.n)
            if use:
                r = fazt("restore", m.source(app.name), "-i", stranger, "-o", out + ".x", check=False)
                need(r.returncode == 1 and "FZ-1201" in r.stderr, "a stranger's key: exit %d %s", r.returncode, r.stderr)
                need(not os.path.exists(out + ".x"), "a stranger's key left a file")
                r = fazt("restore", m.source(app.name), "-o", out + ".x", check=False)
                need(r.returncode == 1 and "FZ-1201" in r.stderr, "no key: exit %d %s", r.returncode, r.stderr)
            else:
                fazt("restore", m.source(app.name), "-o", out, "--force")
                need(file_hash(out) == app.hash[app.n], "plain store without a key")
            fazt("verify", "--full", m.source(app.name), "-i", m.key)


def start_plain(m):
    m.proc = None
    m.logfile = open(os.path.join(m.base, "fazt.log"), "ab")
    m.proc = subprocess.Popen([FAZT, "mount", "--foreground", *m.flags, m.dir], stdout=m.logfile, stderr=m.logfile,
                              stdin=subprocess.DEVNULL, start_new_session=True)
    wait_for("the mount", lambda: fazt("status", "--json", m.dir, check=False).returncode in (0, 1)
             and os.path.ismount(m.dir))


if __name__ == "__main__":
    main("formats", scenario)
