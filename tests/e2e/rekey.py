#!/usr/bin/python3
# timeout: 150
"""fazt rekey, with the `age` program as the judge. A primary ships to a directory and to a real S3 server for one key; then it is
mounted for another one, and while its application commits on, what lies there is rekeyed: interrupted and killed again and again, until it
says that it is done. Then the old key opens no object and the new one all, the payloads are what they were, byte for byte, and every
commit restores to what SQLite had. At each kill every object opened with one of the two, and all of it verified and restored."""
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, fazt_json, main, need  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402
from oracle import Application, check_all  # noqa: E402


def age_files(top):
    return sorted(os.path.join(d, f) for d, _, fs in os.walk(top) for f in fs if f.endswith(".age") and not f.startswith("."))


def plain(path, key):
    """What `age` makes of it: the hash of the payload, or None."""
    p = subprocess.run(["age", "-d", "-i", key, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return hashlib.sha256(p.stdout).hexdigest() if p.returncode == 0 else None


def judge(top, old, new, was, what, must=True):
    """was: path below top -> payload. must: it is over; otherwise each object opens with one of the keys."""
    n = 0
    for path in age_files(top):
        a, b = plain(path, old), plain(path, new)
        rel = os.path.relpath(path, top)
        need(a or b, "%s: nothing opens %s", what, rel)
        need(not must or (b and not a), "%s: %s opens with the %s key", what, rel, "old" if a else "no")
        need(rel not in was or was[rel] == (a or b), "%s: the payload of %s is another one", what, rel)
        n += rel in was
    return n


def rekey(*args, env, wait=None, sig=None, top=None, replaced=0):
    """Sent a signal: after a time, or once so many objects below top were replaced."""
    was = {f: os.stat(f).st_ino for f in age_files(top)} if top else {}
    p = subprocess.Popen([FAZT, "rekey", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    if wait is not None:
        time.sleep(wait)
        p.send_signal(sig)
    elif top:
        while p.poll() is None and sum(os.stat(f).st_ino != i for f, i in was.items()) < replaced:
            pass
        p.send_signal(sig)
    out, err = p.communicate()
    return p.returncode, out, err


def key(base, name):
    path = os.path.join(base, name)
    fazt("keygen", "-o", path)
    with open(path) as f:
        return path, [w for l in f for w in l.split() if w.startswith("age1")][0]


def scenario(base):
    env = {**os.environ, **ENV}
    os.environ.update(ENV)
    old, r_old = key(base, "old")
    new, r_new = key(base, "new")
    third, r_third = key(base, "third")
    both = os.path.join(base, "both")
    with open(both, "w") as f, open(old) as a, open(new) as b:
        f.write(a.read() + b.read())
    os.chmod(both, 0o600)
    rnd = random.Random(11)
    with Gateway(base) as s3:
        targets = ["dir:" + os.path.join(base, "store"), s3.url("p")]
        store, bucket = os.path.join(base, "store"), s3.file("p")
        url = s3.url("p/app.db")
        with Mount(base, key=old, targets=targets) as m:
            m.start()
            app = Application(os.path.join(m.dir, "app.db"))
            for _ in range(10):
                app.rows(2, 500)
                m.sync()
            app.row(3000000)  # an object that is not small
            m.sync()
            app.close()
            m.umount(wait=True)
        was = {t: {os.path.relpath(p, t): plain(p, old) for p in age_files(t)} for t in (store, bucket)}
        need(all(len(w) >= 11 and all(w.values()) for w in was.values()), "objects: %s", was)
        copy = os.path.join(base, "copy")
        shutil.copytree(store, copy)

        # killed at many moments, in a copy: never is anything lost
        halves = 0
        for i in range(8):
            rekey("-i", old, "--recipient", r_new, "dir:%s/app.db" % copy, env=env, top=copy, replaced=i % 3,
                  sig=signal.SIGKILL if i % 2 else signal.SIGINT)
            judge(copy, old, new, was[store], "kill %d" % i, must=False)
            opened = {bool(plain(p, new)) for p in age_files(copy)}
            halves += len(opened) == 2
            fazt("verify", "--strict", "-i", both, "dir:%s/app.db" % copy)
        code, out, err = rekey("-i", old, "-i", new, "--recipient", r_new, "dir:%s/app.db" % copy, env=env)
        need(code == 0, "after the kills: exit %d %s", code, err)
        judge(copy, old, new, was[store], "after the kills")
        code, out, err = rekey("-i", old, "-i", new, "--recipient", r_new, "dir:%s/app.db" % copy, env=env)
        need(code == 0 and ": 0 objects" in out, "repeated: exit %d %s%s", code, out, err)
        code, out, err = rekey("-i", old, "--recipient", r_new, "dir:%s/app.db" % copy, env=env)
        need(code == 1 and "FZ-1201" in err, "a key that opens nothing: exit %d %s", code, err)
        # one recipient more; restores go on beside it
        code, out, err = rekey("-i", new, "--recipient", r_new, "--recipient", r_third, "dir:%s/app.db" % copy, env=env)
        need(code == 0, "one more: exit %d %s", code, err)
        judge(copy, old, third, was[store], "one more")
        need(all(plain(p, new) for p in age_files(copy)), "one more: the first one is shut out")

        # under a primary that ships for the new key already
        with Mount(base, key=new, targets=targets) as m:
            m.start()
            app2 = Application.__new__(Application)
            app2.__dict__.update(app.__dict__)
            app2.open()
            done = threading.Event()
            failed = []

            def restores():
                k = 0
                while not done.is_set():
                    r = fazt("restore", (m.source("app.db"), url)[k % 2], "-i", both, "-o", os.path.join(base, "r.db"), "--force",
                             check=False)
                    if r.returncode:
                        failed.append(r.stderr)
                    k += 1
            t = threading.Thread(target=restores)
            t.start()
            try:
                for i in range(6):  # cut off
                    app2.row(400)
                    rekey("-i", old, "-i", new, "--recipient", r_new, m.dir, env=env, wait=0.02 + rnd.random() * 0.2,
                          sig=signal.SIGKILL)
                code, out, err = rekey("-i", old, "-i", new, "--recipient", r_new, m.dir, env=env)
                need(code == 0, "under a primary: exit %d %s", code, err)
                app2.rows(3, 400)
                m.sync()
            finally:
                done.set()
                t.join()
            need(not failed, "a restore beside it failed: %s", failed[:1])
            for top, name in ((store, "dir"), (bucket, "s3")):
                n = judge(top, old, new, was[top], name)
                need(n > 0, "%s: none of the old objects is left to judge", name)
            for source in (m.source("app.db"), url):
                fazt("verify", "--full", "-i", new, source)
                r = fazt("restore", source, "-i", old, "-o", os.path.join(base, "x.db"), check=False)
                need(r.returncode == 1 and "FZ-1201" in r.stderr, "the old key restores: exit %d %s", r.returncode, r.stderr)
            listed = fazt_json("log", "--json", "-i", new, m.source("app.db"))
            need(check_all(app2, m, os.path.join(base, "out.db"), listed=listed[::3], complete=False), "no commit is left")
            app2.close()
            m.umount(wait=True)
        # a mount that encrypts for another key is told
        code, out, err = rekey("-i", new, "--recipient", r_third, m.dir, env=env)
        need(code == 0 and "configured to encrypt for " + r_new in err, "exit %d %s", code, err)
        plain_conf = os.path.join(base, "plain.conf")  # and of a target that is not encrypted nothing of the kind is told
        with open(plain_conf, "w") as f:
            f.write("[encrypt]\nrecipients = %s\n[target plain]\nurl = dir:%s\nencrypt = none\n" % (r_new, copy))
        code, out, err = rekey("-i", new, "--recipient", r_third, "--config", plain_conf, "plain", env=env)
        need(code == 0 and "configured to encrypt" not in err, "exit %d %s", code, err)
        need(halves, "no kill came in the middle")


main("rekey", scenario)
