#!/usr/bin/python3
"""Randomized torture with a seed: SQLite applications in every journal mode and page size are killed, and so are worker,
supervisor and the lot; then every commit of the store is restored and compared with the database as SQLite itself
serialized it at that commit. usage: torture.py [--seconds S] [--seed N] [--rounds N] (defaults: 60 s, a seed that is printed)

Checked in each round:
  (1) each acknowledged commit that SQLite kept is a state of its own in the store, in order, none twice, none missing
      (unless status says that detail was merged, or the mode gives no event at a commit: README, "Limits");
  (2) each restored state equals, page by page, one that SQLite showed for that commit: nothing is invented;
  (3) the latest state equals the live database; fazt verify finds the store sound, verify --live finds no difference."""
import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import (Failure, Mount, alive, fazt, file_hash, integrity, main, need, serialize_hash,  # noqa: E402
                     wait_for)

LIB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib")


class Database:
    def __init__(self, base, mount, name, rnd):
        self.mount, self.name, self.rnd = mount, name, rnd
        self.path = os.path.join(mount.dir, name)
        self.acks = os.path.join(base, name.replace("/", "_") + ".acks")
        self.conf_path = self.acks + ".json"
        journal = rnd.choice(["WAL", "WAL", "WAL", "DELETE", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"])
        self.conf = {
            "path": self.path, "acks": self.acks, "journal": journal,
            "sync": rnd.choice(["OFF", "NORMAL", "NORMAL", "FULL", "FULL", "EXTRA"]),
            "page_size": rnd.choice([512, 1024, 4096, 4096, 4096, 8192, 65536]),
            "cache": rnd.choice([5, 50, -2000]), "auto_vacuum": rnd.choice([0, 0, 1, 2]),
            "exclusive": rnd.random() < 0.15, "mmap": rnd.choice([0, 0, 1 << 24]), "commits": rnd.randrange(15, 60),
            "vacuum": rnd.choice([0, 0, 0.05]), "hashes": True, "seed": 0,
        }
        # without a journal SQLite itself cannot survive a kill: the application is left alone there
        self.killable = journal not in ("MEMORY", "OFF")
        # no request is made at such a commit: it is captured soon after, and several may be captured as one; with an EXCLUSIVE lock
        # a journal in DELETE mode is zeroed as in PERSIST (pager.c, pager_end_transaction)
        self.eventless = self.conf["sync"] == "OFF" and (
            journal in ("MEMORY", "OFF", "PERSIST") or (journal == "DELETE" and self.conf["exclusive"]))
        self.proc = None
        os.makedirs(os.path.dirname(self.path), exist_ok=True)

    def launch(self):
        self.conf["seed"] = self.rnd.getrandbits(32)
        with open(self.conf_path, "w") as f:
            json.dump(self.conf, f)
        self.err = open(self.acks + ".err", "ab")
        self.proc = subprocess.Popen(["/usr/bin/python3", os.path.join(LIB, "writer.py"), self.conf_path],
                                     stdout=self.err, stderr=self.err, stdin=subprocess.DEVNULL)

    def kill(self):
        self.proc.kill()
        self.proc.wait()

    def errors(self):
        with open(self.acks + ".err") as f:
            return f.read()[-3000:]

    def read_acks(self):
        hashes, acked, tried = {}, [], set()
        with open(self.acks) as f:
            for line in f:
                w = line.split()
                if not line.endswith("\n") or len(w) < 3:
                    continue
                n, nonce = int(w[1]), int(w[2])
                tried.add((n, nonce))
                if w[0] in "CSV":
                    if not acked or acked[-1] != (n, nonce):
                        acked.append((n, nonce))
                    if len(w) > 3 and w[3] != "-":
                        hashes.setdefault((n, nonce), set()).add(w[3])
        return hashes, acked, tried


def meta(path):
    con = sqlite3.connect("file:%s?mode=ro&immutable=1" % path, uri=True)
    try:
        return con.execute("SELECT n, nonce FROM meta").fetchone()
    except sqlite3.OperationalError as e:
        if "no such table" in str(e):
            return None
        raise
    finally:
        con.close()


def restored_states(base, mount, db, source, entries):
    out = os.path.join(base, "restored.db")
    for e in entries:
        mount.restore(db.name, out, "--txid", str(e["txid"]), source=source)
        yield e, meta(out), file_hash(out)


def check_database(base, mount, db, rnd):
    what = "%s (%s)" % (db.name, json.dumps(db.conf))
    hashes, acked, tried = db.read_acks()
    live = serialize_hash(db.path)
    entries = mount.log(db.name)
    need(entries, "%s: the store has no commit", what)
    txids = [e["txid"] for e in entries]
    need(txids == sorted(set(txids)), "%s: TXIDs are not ascending: %s", what, txids)
    status = mount.database(db.name)
    merged = status["merged_txns"]
    previous, seen, last_hash = None, [], None
    for e, state, digest in restored_states(base, mount, db, None, entries):
        last_hash = digest
        if state is None:
            need(previous is None, "%s: TXID %d has no meta table after one that had", what, e["txid"])
            continue
        state = tuple(state)
        if state == (0, 0):
            continue
        need(state in tried, "%s: TXID %d holds commit %s, which the application never made", what, e["txid"], state)
        if previous is not None:
            need(state[0] >= previous[0], "%s: TXID %d goes back from commit %s to %s", what, e["txid"], previous, state)
        if hashes.get(state):
            need(digest in hashes[state], "%s: TXID %d: the pages differ from the database at commit %s", what,
                 e["txid"], state)
        if not seen or seen[-1] != state:
            need(state not in seen, "%s: commit %s comes back", what, state)
            seen.append(state)
        previous = state
    need(last_hash == live, "%s: the latest state in the store is not the live database", what)
    # what SQLite kept: an acknowledged commit whose number was used again later was lost by SQLite (synchronous=OFF
    # and a killed machine); none of our kills loses one, so each must be there
    if merged == 0 and not db.eventless:
        missing = [a for a in acked if a != (0, 0) and a not in seen]
        need(not missing, "%s: %d of %d acknowledged commits are not in the store, first %s", what, len(missing),
             len(acked), missing[:3])
    phantom = [s for s in seen if s not in acked]
    # a commit that was not acknowledged may have happened (killed before the answer): then the next process saw it
    need(not phantom, "%s: the store holds commits that no application ever saw: %s", what, phantom[:3])
    r = fazt("verify", mount.source(db.name), "-i", mount.key, check=False)
    need(r.returncode == 0, "%s: fazt verify: exit %d: %s%s", what, r.returncode, r.stdout, r.stderr)
    return len(seen), merged


def one_round(base, number, seed):
    rnd = random.Random(seed)
    flags = rnd.choice([[], [], [], ["--no-passthrough"]])
    kills = rnd.choice([[], ["app"], ["worker"], ["app", "worker"], ["worker"], ["all"]])
    mount = Mount(base, *flags, name="app%d" % number, store="store%d" % number)
    with mount:
        mount.start()
        dbs = [Database(base, mount, name, rnd)
               for name in ["r%d.db" % number, "sub/r%d.sqlite" % number][:rnd.choice([1, 1, 2])]]
        if "all" in kills and any(not d.killable for d in dbs):
            kills = ["worker"]
        for d in dbs:
            # SQLite (3.40 at least) leaves frames without checksums in a WAL when a transaction that has spilled goes back to a
            # savepoint: it then loses commits itself when it is killed (walRewriteChecksums, sqlite3WalSavepointUndo)
            d.conf["savepoints"] = d.conf["journal"] != "WAL" or not {"app", "all"} & set(kills)
            d.launch()
        restarts = rnd.randrange(1, 4)
        while True:
            time.sleep(rnd.random() * 0.25)
            if "all" in kills and restarts > 0:
                for d in dbs:
                    d.kill()
                mount.kill_all()
                mount.start()
                for d in dbs:
                    d.launch()
                restarts -= 1
            if "worker" in kills and restarts > 0:
                mount.kill_worker()
                restarts -= 1 if "app" not in kills else 0
            if "app" in kills and restarts > 0:
                d = rnd.choice(dbs)
                if d.killable and d.proc.poll() is None:
                    d.kill()
                    d.launch()
                restarts -= 1
            if all(d.proc.poll() is not None for d in dbs):
                break
        for d in dbs:
            need(d.proc.returncode == 0, "%s (%s, kills %s %s): the application failed: %s", d.name, json.dumps(d.conf), kills,
                 flags, d.errors())
            need(integrity(d.path) == "ok", "%s: integrity_check: %s", d.name, integrity(d.path))
        mount.sync()
        commits = merged = 0
        for d in dbs:
            c, m = check_database(base, mount, d, rnd)
            commits, merged = commits + c, merged + m
        live = fazt("verify", "--live", "--json", mount.dir, check=False)
        need(live.returncode == 0, "verify --live: exit %d: %s%s", live.returncode, live.stdout, live.stderr)
        need(json.loads(live.stdout)["differences"] == 0, "verify --live found differences: %s", live.stdout)
        for d in mount.status()["databases"]:
            need(d["scrub_found"] == 0, "%s: the scrub found %s differences", d["name"], d["scrub_found"])
        mount.umount()
        for d in dbs:
            need(integrity(d.path) == "ok", "%s: after umount: %s", d.name, integrity(d.path))
    return "%s%s %s: %d commits%s" % ("+".join(kills) or "no kill", " ".join(flags),
                                     ", ".join("%(journal)s/%(sync)s/%(page_size)d" % d.conf for d in dbs), commits,
                                     ", %d merged" % merged if merged else "")


def run(base):
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=float(os.environ.get("TORTURE_SECONDS", "60")))
    p.add_argument("--seed", type=int, default=int(os.environ.get("TORTURE_SEED", "0")) or int(time.time()))
    p.add_argument("--rounds", type=int, default=1 << 30)
    p.add_argument("--keep-going", action="store_true", help="tell every seed that fails")
    args = p.parse_args()
    print("torture: seed %d, %.0f s (repeat a round with --seed N --rounds 1)" % (args.seed, args.seconds), flush=True)
    end, number, failed = time.monotonic() + args.seconds, 0, []
    while number < args.rounds and (time.monotonic() < end or number == 0):
        seed = args.seed + number
        try:
            print("  seed %d: %s" % (seed, one_round(base, number, seed)), flush=True)
        except (Failure, sqlite3.Error, OSError, subprocess.SubprocessError) as e:
            if not args.keep_going:
                raise Failure("seed %d: %s" % (seed, e))
            print("  FAIL seed %d: %s" % (seed, e), flush=True)
            failed.append(seed)
        number += 1
    need(not failed, "%d of %d rounds failed: seeds %s", len(failed), number, failed)


if __name__ == "__main__":
    main("torture", run)
