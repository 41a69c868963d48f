"""A reader for the torture of replicas: reads without end, notes what it saw for the judge, and ends at the first read that fails.

usage: watcher.py CONFIG.json, with {path, out, keep, timeout, hold, seed}. Each line of the file `out`: s n nonce hash
(a state, as one transaction showed it; the hash is of the whole database), or - (the database is gone, or not yet there: what
comes next may be another one). On an error that SQLite gave: the text, on stderr, and exit code 1."""
import json
import os
import random
import sqlite3
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from faztlib import image_hash  # noqa: E402


def inode(path):
    try:
        st = os.stat(path)
        return (st.st_ino, st.st_size > 0)
    except FileNotFoundError:
        return None


def main():
    with open(sys.argv[1]) as f:
        conf = json.load(f)
    rnd = random.Random(conf["seed"])
    out = open(conf["out"], "a", buffering=1)
    path, con, mine, before = conf["path"], None, None, None

    def note(*what):
        line = " ".join(map(str, what))
        nonlocal before
        if line != before:
            out.write(line + "\n")
        before = line

    while True:
        now = inode(path)
        if con and (now is None or now[0] != mine[0]):
            con.close()
            con = None
            note("-")
        if now is None or not now[1]:
            note("-")
            time.sleep(0.01)
            continue
        try:
            if con is None:
                mine = now
                con = sqlite3.connect("file:%s?mode=rw" % path, uri=True, isolation_level=None, timeout=conf["timeout"])
            con.execute("BEGIN")
            if con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
                n, nonce = con.execute("SELECT n, nonce FROM meta").fetchone()
                if rnd.random() < conf["hold"]:
                    time.sleep(rnd.random())
                digest = image_hash(con.serialize())
                if con.execute("SELECT n, nonce FROM meta").fetchone() != (n, nonce):
                    sys.exit("a snapshot has moved")
                now = inode(path)
                if now and now[0] == mine[0]:  # else it was deleted, and what a writer had not committed may show without its journal
                    note("s", n, nonce, digest)
            con.execute("COMMIT")
        except sqlite3.Error as e:
            later = inode(path)
            if later and later[0] == mine[0]:
                sys.exit("%s (code %s) at %.3f" % (e, getattr(e, "sqlite_errorname", "?"), time.time()))
            note("-")  # it was deleted meanwhile, or another one took its place
            if con:
                con.close()
            con = None
            continue
        if not conf["keep"]:
            con.close()
            con = None
        time.sleep(rnd.choice([0, 0, 0.002, 0.02]))


main()
