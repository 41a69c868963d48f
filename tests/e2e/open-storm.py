#!/usr/bin/python3
"""The same few files are opened, closed, looked at, made and removed by several processes at once, passed through and not: no
call is answered with an error that the file's state does not explain, and SQLite never fails to open a database whose
last handle somebody else just closes. The worker reports nothing (under sanitizers: no race, no bad access).
# timeout: 120
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import Failure, Mount, fazt, main, need  # noqa: E402

ROUNDS = int(os.environ.get("ROUNDS", "1500"))

STORM = r"""
import errno, os, sqlite3, sys, random
kind, top, rounds, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rnd = random.Random(seed)
files = [os.path.join(top, "f%d" % i) for i in range(3)]
spare = os.path.join(top, "spare")
for n in range(rounds):
    p = files[rnd.randrange(3)]
    if kind == "open":
        fd = os.open(p, os.O_RDWR)
        os.pwrite(fd, b"x" * 100, rnd.randrange(1000)) if n % 3 == 0 else os.pread(fd, 100, 0)
        os.close(fd)
    elif kind == "stat":                         # a change of attributes makes the kernel ask again
        os.utime(p)
        assert os.stat(p).st_size > 0
        os.chmod(p, 0o600 + (n & 4))
    elif kind == "size":
        os.truncate(p, 1000 + rnd.randrange(1000))
        fd = os.open(p, os.O_RDONLY)
        assert os.fstat(fd).st_size >= 1000
        os.close(fd)
    elif kind == "gone":
        try:
            if n % 2:
                os.close(os.open(spare, os.O_RDWR | os.O_CREAT, 0o644))
            else:
                os.unlink(spare)
            os.stat(spare)
        except FileNotFoundError:
            pass
        except OSError as e:                     # somebody removed it between the kernel's lookup and open, twice in a row
            if e.errno != errno.ESTALE:
                raise
    elif kind == "sqlite" and n % 5 == 0:
        c = sqlite3.connect(os.path.join(top, "app.db"), timeout=60, isolation_level=None)
        c.execute("SELECT count(*) FROM t").fetchall() if n % 2 else c.execute("INSERT INTO t VALUES(?)", (n,))
        c.close()
"""


def run(base):
    for flags in ((), ("--no-passthrough",)):
        os.makedirs(os.path.join(base, "app"), exist_ok=True)
        with Mount(base, *flags).start() as m:
            for i in range(3):
                with open(os.path.join(m.dir, "f%d" % i), "wb") as f:
                    f.write(b"y" * 1000)
            subprocess.run([sys.executable, "-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); "
                            "c.execute('CREATE TABLE IF NOT EXISTS t(x)')", os.path.join(m.dir, "app.db")], check=True)
            kinds = ["open", "open", "stat", "stat", "size", "gone", "gone", "sqlite", "sqlite"]
            running = [(k, subprocess.Popen([sys.executable, "-c", STORM, k, m.dir, str(ROUNDS), str(i)],
                                            stderr=subprocess.PIPE, text=True)) for i, k in enumerate(kinds)]
            failed = [(k, err) for k, p, err in ((k, p, p.communicate()[1]) for k, p in running) if p.returncode]
            if failed:
                raise Failure("%s %s: %s" % (" ".join(flags), failed[0][0], failed[0][1]))
            s = m.status()
            need(s["restarts"] == 0, "the worker was replaced %d times:\n%s", s["restarts"], m.tail())
            fazt("verify", "--live", m.dir)
            m.umount()
            for word in ("ThreadSanitizer", "AddressSanitizer", "runtime error"):
                need(word not in m.tail(400), "%s", m.tail(400))


main("open-storm", run)
