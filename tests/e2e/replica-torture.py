#!/usr/bin/python3
# timeout: 240
"""Three hosts under randomized torture with a seed: a primary and two replicas, or a replica of the replica, while applications commit and
readers read. Processes of every host are killed, the link goes through a proxy that breaks it in all its ways, a replica's disk fills
up, databases are vacuumed, deleted and made anew, replicas are promoted by force and the former primary follows.
usage: replica-torture.py [--seconds S] [--seed N] [--rounds N] [--length S] [--kinds A,B] (also TORTURE_SECONDS, TORTURE_SEED). Without: two short
rounds whose seeds are fixed, which promote hosts of a chain and do all the harm there is; `make torture` draws seeds.

Checked in each round:
  (1) each state that a reader saw on any host is one that an application committed, with the very pages it had then;
  (2) none goes back within one process, but from a commit that became part of a branch; no read fails;
  (3) in the end all hosts show the same, integrity_check and verify --live find nothing, and nothing had to be repaired;
  (4) each acknowledged commit is in the history that all share or in a branch, none twice."""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from cluster import Host  # noqa: E402
from faztlib import (Failure, alive, children, fazt, fazt_json, integrity, is_mounted, main, need,  # noqa: E402
                     serialize_hash, wait_for)
from proxy import MODES, Proxy  # noqa: E402

LIB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib")
GENERATION = 1000000  # meta.n of a database that was made anew begins at a multiple
BUSY_S = 10           # of a reader, for the time in which agents are killed
CHECK_SEED = 6006     # a chain with promotions; the next one: all kinds of harm


class Node(Host):
    """A host on a disk of its own (so that it can fill up), whose port is reached through a proxy."""

    def __init__(self, base, name, flags, rnd):
        self.disk = os.path.join(base, name)
        os.mkdir(self.disk)
        image = os.path.join(base, name + ".img")
        with open(image, "wb") as f:
            f.truncate(192 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, self.disk], check=True)
        super().__init__(base, name, *flags)
        self.proxy = Proxy(("127.0.0.1", self.port), rnd.getrandbits(32))
        self.through = self.proxy.address
        self.conf = os.path.join(self.home, "fazt.conf")
        with open(self.conf, "w") as f:
            f.write("[link]\nadvertise = %s\n" % self.through)
        self.up = False

    def link(self, others, primary=None):
        """What it is called with in this round: promotions and demotions do not change that."""
        self.flags = [*self.own_flags, "--config", self.conf, "--identity", self.host_key, "--listen", self.address]
        for o in others:
            self.flags += ["--follower", o.public]
        if primary:
            self.flags += ["--role", "replica", "--primary", primary.through, "--primary-key", primary.public]

    def start(self):
        super().start()
        self.up = True

    def stop(self):
        self.up = False
        self.kill_all(unused=True)

    def fill(self):
        with contextlib.suppress(OSError), open(os.path.join(self.disk, "ballast"), "wb", buffering=0) as f:
            size = 1 << 22
            while size >= 512:
                try:
                    while True:
                        f.write(b"x" * size)
                except OSError:
                    size //= 8

    def empty(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.disk, "ballast"))

    def remove(self):
        self.empty()
        self.cleanup()
        self.proxy.close()
        subprocess.run(["umount", "-l", self.disk], stderr=subprocess.DEVNULL)


class Database:
    def __init__(self, world, name):
        self.world, self.name, self.generation, self.writers = world, name, 0, []
        self.acks = os.path.join(world.base, name.replace("/", "_") + ".acks")
        self.draw()

    def draw(self):
        rnd = self.world.rnd
        self.conf = {
            "journal": rnd.choice(["WAL", "WAL", "WAL", "DELETE", "TRUNCATE", "PERSIST"]),
            "sync": rnd.choice(["OFF", "NORMAL", "NORMAL", "FULL"]), "page_size": rnd.choice([512, 1024, 4096, 4096, 65536]),
            "cache": rnd.choice([5, 50, -2000]), "auto_vacuum": rnd.choice([0, 0, 1, 2]), "exclusive": False, "mmap": 0,
            "vacuum": rnd.choice([0, 0.01, 0.05]), "hashes": True, "savepoints": False, "history": True,
            "first": self.generation * GENERATION, "commits": 1 << 30, "pause": rnd.choice([0, 0.005, 0.03]),
        }

    def launch(self):
        """On the host that is the primary now; what wrote elsewhere goes on until it is refused."""
        host = self.world.primary
        path = os.path.join(host.dir, self.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        acks = "%s.%d" % (self.acks, len(self.writers))
        conf = dict(self.conf, path=path, acks=acks, seed=self.world.rnd.getrandbits(32))
        conf_path = acks + ".json"
        with open(conf_path, "w") as f:
            json.dump(conf, f)
        err = open(conf_path + ".err", "wb")
        p = subprocess.Popen(["/usr/bin/python3", os.path.join(LIB, "writer.py"), conf_path], stdout=err, stderr=err,
                             stdin=subprocess.DEVNULL)
        p.err, p.host, p.acks, p.journal = conf_path + ".err", host, acks, conf["journal"]
        err.close()
        self.writers.append(p)

    def kill(self, host=None):
        for p in self.writers:
            if p.poll() is None and (host is None or p.host is host):
                p.kill()
                p.wait()

    def check_writer(self):
        """The writer on the primary lives; one on a host that was superseded may have been refused."""
        p = self.writers[-1]
        if p.poll() is not None and p.returncode > 0 and p.host is self.world.primary:
            with open(p.err) as f:
                raise Failure("%s on %s: the application failed: %s" % (self.name, p.host.name, f.read()[-1500:]))

    def read_acks(self):
        hashes, acked, tried, unsure = {}, set(), set(), set()
        for p in self.writers:
            doubt, last = set(), ()  # last: where it was killed, and what it may have gone back to
            with contextlib.suppress(FileNotFoundError), open(p.acks) as f:
                for line in f:
                    w = line.split()
                    if not line.endswith("\n") or len(w) < 4:
                        continue
                    state = (int(w[1]), int(w[2]))
                    last = (*last[-1:], state)
                    tried.add(state)
                    if w[0] == "U" or w[0] in "SV" and w[3] == "-":  # "-": it shows another host's history already
                        doubt.add(state)
                    elif w[0] in "SV":
                        doubt.discard(state)
                    if w[0] in "CSV":
                        acked.add(state)
                        if w[3] != "-":
                            hashes.setdefault(state, set()).add(w[3])
            if p.journal != "WAL":
                doubt.update(last)
            unsure |= doubt
        # Killed before it could tell what VACUUM made of it; or, in rollback mode, with pages written: those that were free
        # before are not in the journal, and keep that. Another process may find and note it, but not on this host.
        for state in unsure:
            hashes.pop(state, None)
        return hashes, acked, tried


class Watcher:
    def __init__(self, world, host, db):
        self.host, self.db = host, db
        self.out = os.path.join(world.base, "watch-%d" % len(world.watchers))
        conf = {"path": os.path.join(host.dir, db.name), "out": self.out, "keep": world.rnd.random() < 0.6, "timeout": BUSY_S,
                "hold": world.rnd.choice([0, 0, 0.1]), "seed": world.rnd.getrandbits(32)}
        open(self.out, "w").close()
        with open(self.out + ".json", "w") as f:
            json.dump(conf, f)
        with open(self.out + ".err", "wb") as err:
            self.p = subprocess.Popen(["/usr/bin/python3", os.path.join(LIB, "watcher.py"), self.out + ".json"], stdout=err,
                                      stderr=err, stdin=subprocess.DEVNULL)

    def check(self):
        if self.p.poll() is not None and self.p.returncode != -signal.SIGKILL:
            with open(self.out + ".err", errors="replace") as f:
                raise Failure("a read of %s on %s failed: %s" % (self.db.name, self.host.name, f.read()[-1500:]))

    def end(self):
        self.check()
        if self.p.poll() is None:
            self.p.kill()
            self.p.wait()

    def states(self):
        with open(self.out) as f:
            for line in f:
                w = line.split()
                if line.endswith("\n"):
                    yield (int(w[1]), int(w[2]), w[3]) if w[0] == "s" else None


class World:
    def __init__(self, base, seed, kinds):
        self.base, self.rnd, self.watchers, self.told = base, random.Random(seed), [], []
        rnd = self.rnd
        flags = rnd.choice([[], [], [], ["--no-passthrough"]])
        self.nodes = []
        for name in ("a", "b", "c"):
            self.nodes.append(Node(base, name, flags, rnd))
        a, b, c = self.nodes
        self.primary = a
        self.chain = rnd.random() < 0.4
        a.link([b, c])
        b.link([a, c], a)
        c.link([a, b], b if self.chain else a)
        self.dbs = [Database(self, n) for n in ("one.db", "sub/two.sqlite", "three.db")[:rnd.choice([1, 2, 3])]]
        self.kinds = rnd.choice([("link",), ("kill",), ("disk",), ("link", "kill"), ("link", "kill", "disk", "drop"),
                                 ("drop", "kill"), ("promote",), ("promote", "link"), ("promote", "kill"),
                                 ("promote", "kill", "link", "drop", "disk")])
        self.kinds = kinds or self.kinds
        self.promotions = 0

    def tell(self, what, *args):
        self.told.append("%.3f %s" % (time.time(), what % args if args else what))
        if os.environ.get("TORTURE_TRACE"):
            print("    " + self.told[-1], flush=True)

    def replicas(self):
        return [n for n in self.nodes if n is not self.primary]

    # ---- readers ----

    def watch(self, host):
        for d in self.dbs:
            for _ in range(self.rnd.choice([1, 1, 2])):
                self.watchers.append(Watcher(self, host, d))

    def unwatch(self, host):
        for w in self.watchers:
            if w.host is host:
                w.end()

    def check(self):
        for w in self.watchers:
            w.check()
        for d in self.dbs:
            d.check_writer()
        for n in self.nodes:
            need(not n.up or n.proc.poll() is None, "fazt mount of %s ended by itself:\n%s", n.name, n.tail())

    # ---- what happens ----

    def power_off(self, n):
        for d in self.dbs:
            d.kill(n)
        self.unwatch(n)
        n.stop()

    def link(self):
        n, mode = self.rnd.choice(self.nodes), self.rnd.choice(MODES)
        self.tell("link to %s: %s", n.name, mode)
        n.proxy.set(mode)

    def kill(self):
        n = self.rnd.choice(self.nodes)
        what = self.rnd.choice(["worker", "worker", "agent", "agent", "all", "application"])
        self.tell("kill %s of %s", what, n.name)
        if what == "application":
            d = self.rnd.choice(self.dbs)
            d.kill()
            d.launch()
        elif what == "all":
            self.power_off(n)
            time.sleep(self.rnd.random() * 0.5)
            n.start()
            self.watch(n)
            if n is self.primary:
                for d in self.dbs:
                    d.launch()
        else:
            for p in children(n.proc.pid):
                with contextlib.suppress(OSError), open("/proc/%d/cmdline" % p) as f:
                    if f.read().split("\0")[1:2] == [what]:
                        os.kill(p, signal.SIGKILL)

    def disk(self):
        n = self.rnd.choice(self.replicas())
        self.tell("the disk of %s is full", n.name)
        n.fill()
        time.sleep(self.rnd.random() * 2)
        n.empty()
        self.tell("the disk of %s has room", n.name)

    def drop(self):
        d = self.rnd.choice(self.dbs)
        self.tell("%s is made anew", d.name)
        d.kill()
        path = os.path.join(self.primary.dir, d.name)
        for s in ("", "-wal", "-shm", "-journal"):  # the database first: without its log it would be another state
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + s)
        time.sleep(self.rnd.choice([0, 0, 0.3]))
        d.generation += 1
        d.draw()
        d.launch()

    def promote(self):
        new, old = self.rnd.choice(self.replicas()), self.primary
        if self.promotions >= 3:
            return
        # what a forced promotion needs: this host has each database, and its link to others works again by itself
        for d in self.dbs:
            if not os.path.exists(os.path.join(new.dir, d.name)):
                return
        if new.status()["epoch"] < old.status()["epoch"]:  # it would begin the same one again: docs/replication.md "Limits"
            return
        self.promotions += 1
        how = self.rnd.choice(["alive", "alive", "dead"])
        self.tell("promote %s while %s is %s", new.name, old.name, how)
        for n in self.nodes:
            n.proxy.set("pass")
        if how == "dead":
            self.power_off(old)
        fazt("promote", "--force", new.dir, timeout=90)
        self.primary = new
        for d in self.dbs:
            d.conf["journal"] = "WAL"
            d.launch()
        if how == "dead":
            time.sleep(self.rnd.random())
            old.start()
        # kill what wrote there once it is fenced: it waits for a lock it will not get
        wait_for("%s to become a replica" % old.name, lambda: old.status()["role"] == "replica", 60)
        for d in self.dbs:
            d.kill(old)
        self.tell("%s is a replica", old.name)
        if how == "dead":
            self.watch(old)

    def run(self, seconds):
        for n in self.nodes:
            n.start()
        for d in self.dbs:
            d.launch()
        for n in self.nodes if all(d.conf["journal"] == "WAL" for d in self.dbs) else self.replicas():
            self.watch(n)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(self.rnd.random() * 0.8)
            getattr(self, self.rnd.choice(self.kinds))()
            self.check()
        for n in self.nodes:
            n.proxy.set("pass")
        for d in self.dbs:
            d.kill()
        self.settle()

    # ---- the judge ----

    def tails(self, host):
        return {d["name"]: d["txid"] for d in host.status()["databases"] if d.get("state") != "ended"}

    def equal(self, name):
        try:
            want = serialize_hash(os.path.join(self.primary.dir, name))
            return all(serialize_hash(os.path.join(n.dir, name)) == want for n in self.replicas())
        except sqlite3.OperationalError:  # not there yet
            return False

    def settle(self):
        self.tell("settle; the primary is %s", self.primary.name)
        for d in self.dbs:  # an application that was killed may have left a journal, which only a writer can play back
            con = sqlite3.connect(os.path.join(self.primary.dir, d.name), timeout=BUSY_S)
            if not con.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                con.execute("CREATE TABLE begun(x)")  # it was killed before its first commit
            con.close()
        fazt("sync", self.primary.dir)
        for d in self.dbs:
            wait_for("%s to be the same on all hosts" % d.name, lambda d=d: self.equal(d.name), 60)
            for n in self.nodes:
                need(integrity(os.path.join(n.dir, d.name)) == "ok", "%s on %s: integrity_check", d.name, n.name)
        for w in self.watchers:
            w.end()
        def answered():  # not at once while an agent or a worker that was killed is being replaced
            return fazt("verify", "--live", "--json", self.primary.dir, check=False).returncode == 0
        wait_for("verify --live to be answered, without differences", answered, 60)
        live = fazt_json("verify", "--live", "--json", self.primary.dir)
        need(live["differences"] == 0, "verify --live: %s", live)
        for n in self.nodes:
            for d in n.status()["databases"]:
                need(d.get("scrub_found", 0) == 0, "%s: the scrub of %s found %s", n.name, d["name"], d.get("scrub_found"))
            with open(os.path.join(n.home, "fazt.log"), errors="replace") as f:
                for line in f:
                    for word in ("Sanitizer", "runtime error", "assert", "differs from"):
                        need(word not in line, "the log of %s: %s", n.name, line)
            for f in n.status().get("following", {}).get("databases", []):
                need(not f.get("diverged"), "%s: %s has diverged for good: %s", n.name, f["name"], f)

    def histories(self, d):
        """The commits of the shared history, and those of each branch."""
        def rows(path):
            with contextlib.closing(sqlite3.connect("file:%s?mode=ro" % path, uri=True)) as con:
                if not con.execute("SELECT count(*) FROM sqlite_master WHERE name = 'history'").fetchone()[0]:
                    return set()
                return set(con.execute("SELECT n, nonce FROM history").fetchall())
        shared, branches = rows(os.path.join(self.primary.dir, d.name)), set()
        for n in self.nodes:
            for b in fazt_json("branches", "--json", n.dir):
                if b["database"] != d.name:
                    continue
                out = os.path.join(self.base, "branch.db")
                fazt("restore", "%s/%s@%s" % (n.dir, d.name, b["branch"]), "--latest", "-o", out, "--force")
                need(integrity(out) == "ok", "the branch %s of %s: integrity_check", b["branch"], d.name)
                branches |= rows(out)
        return shared, branches

    def judge(self):
        seen = 0
        for d in self.dbs:
            hashes, acked, tried = d.read_acks()
            shared, branches = self.histories(d)
            numbers = sorted(n for n, _ in shared)
            first = d.generation * GENERATION
            if self.promotions == 0 or numbers and numbers[0] > first:
                need(numbers == list(range(first + 1, first + 1 + len(numbers))), "%s: its history has holes", d.name)
            current = numbers[0] // GENERATION if numbers else d.generation
            lives = (current, d.generation)  # the last one may have been made where nobody else has heard of it
            lost = [a for a in acked if a[1] and a[0] // GENERATION in lives and a not in shared and a not in branches]
            need(not lost, "%s: %d acknowledged commits are neither in the history nor in a branch, first %s", d.name,
                 len(lost), sorted(lost)[:3])
            need(shared | branches <= tried, "%s: commits that were never made", d.name)
            for w in self.watchers:
                if w.db is not d:
                    continue
                before = None
                for s in w.states():
                    if s is None:
                        before = None
                        continue
                    seen += 1
                    state = s[:2]
                    need(state in tried or state[1] == 0, "%s on %s shows commit %s, which was never made", d.name, w.host.name,
                         state)
                    if hashes.get(state):
                        need(s[2] in hashes[state], "%s on %s (%s): at commit %s its pages were others", d.name, w.host.name,
                             w.out, state)
                    if before and state[0] < before[0]:
                        # a branch on one host may be history again when another one takes over later
                        need(before in branches or before[0] // GENERATION != state[0] // GENERATION,
                             "%s on %s (%s) went back from %s to %s", d.name, w.host.name, w.out, before, state)
                    before = state
        return seen


def one_round(base, number, seed, seconds, kinds):
    here = os.path.join(base, "round%d" % number)
    os.mkdir(here)
    w = World.__new__(World)
    w.nodes, w.dbs, w.watchers, w.told = [], [], [], []
    try:
        w.__init__(here, seed, kinds)
        w.run(seconds)
        seen = w.judge()
        for n in w.nodes:
            n.umount()
        commits = sum(len(d.read_acks()[1]) for d in w.dbs)
        need(seen > 0, "no reader saw anything")
        return "%s%s: %s: %d commits, %d states read, %d promotions" % (
            "+".join(w.kinds), ", a chain" if w.chain else "", ", ".join("%(journal)s/%(page_size)d" % d.conf for d in w.dbs),
            commits, seen, w.promotions)
    except BaseException:
        print("\n".join(w.told[-40:]), file=sys.stderr)
        for n in w.nodes:
            print("--- %s\n%s" % (n.name, n.tail(40)), file=sys.stderr)
        raise
    finally:
        for d in w.dbs:
            d.kill()
        for x in w.watchers:
            if x.p.poll() is None:
                x.p.kill()
                x.p.wait()
        for n in w.nodes:
            n.remove()
        if not os.environ.get("TEST_KEEP"):
            shutil.rmtree(here, ignore_errors=True)


def run(base):
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=float(os.environ.get("TORTURE_SECONDS", "0")))
    p.add_argument("--seed", type=int, default=int(os.environ.get("TORTURE_SEED", "0")))
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--length", type=float, default=0, help="seconds of a round, without its judge: 8")
    p.add_argument("--kinds", type=lambda s: tuple(s.split(",")), help="of what happens, instead of those that the seed draws")
    args = p.parse_args()
    short = not args.seconds and not args.rounds
    args.length = args.length or (7 if short else 8)
    args.rounds = args.rounds or (2 if short else 1 << 30)
    args.seconds = args.seconds or 3600
    args.seed = args.seed or (CHECK_SEED if short else int(time.time()))
    print("replica torture: seed %d (repeat a round with --seed N --rounds 1)" % args.seed, flush=True)
    end, number = time.monotonic() + args.seconds, 0
    while number < args.rounds and (time.monotonic() < end or number == 0):
        seed = args.seed + number
        try:
            print("  seed %d: %s" % (seed, one_round(base, number, seed, args.length, args.kinds)), flush=True)
        except (Failure, sqlite3.Error, OSError, subprocess.SubprocessError) as e:
            raise Failure("seed %d: %s" % (seed, e))
        number += 1


if __name__ == "__main__":
    main("replica-torture", run)
