#!/usr/bin/python3
"""A power cut at any moment: ext4 lies on a loop device whose file a recording filesystem (recfs.c) serves. After a run of
applications on a fazt mount the recording is replayed up to chosen flushes, plus a random subset of the writes that
followed (a disk may reorder what was not flushed). On each such disk fazt starts again, and then
  (1) SQLite opens the databases and integrity_check passes;
  (2) every commit that synchronous=FULL acknowledged before the cut is there;
  (3) what had been shipped by then is a prefix of, or equal to, what the database holds;
  (4) the pages are those that SQLite showed at that commit; the mount goes on, ships, and the store verifies;
  (5) what the start takes for the log's own state is that: the scrub behind it finds no difference.
usage: powerloss.py [--seconds S] [--cuts N] [--ship T] [--seed N]"""
import argparse
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import (BUILD, Failure, Mount, fazt, file_hash, integrity, is_mounted, main, need,  # noqa: E402
                     serialize_hash, wait_for)

LIB = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib")
SIZE = 1 << 30
RECORD = struct.Struct("<IIQQ")
WORKLOADS = [("full.db", "WAL", "FULL"), ("del.db", "DELETE", "FULL"), ("normal.db", "WAL", "NORMAL")]


def sh(*args):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    need(r.returncode == 0, "%s: %s", " ".join(args), r.stdout)
    return r.stdout.strip()


def counter(path):
    with open(path, "rb") as f:
        return struct.unpack("<Q", f.read(8))[0]


class Disk:
    """A loop device with ext4 over an image file, mounted."""

    def __init__(self, image, at, make=False):
        self.image, self.at, self.loop = image, at, None
        os.makedirs(at, exist_ok=True)
        self.loop = sh("losetup", "-f", "--show", image)
        try:
            if make:
                sh("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-J", "size=4", self.loop)
            sh("mount", "-t", "ext4", self.loop, at)
        except Failure:
            self.close()
            raise

    def close(self):
        if is_mounted(self.at):
            sh("umount", self.at)
        if self.loop:
            sh("losetup", "-d", self.loop)
            self.loop = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Watch(threading.Thread):
    """Notes which objects the store held at which point of the recording."""

    def __init__(self, store, counter_path):
        super().__init__(daemon=True)
        self.store, self.counter_path, self.seen, self.stop = store, counter_path, [], threading.Event()

    def listing(self):
        return frozenset(os.path.relpath(os.path.join(d, f), self.store)
                         for d, _, files in os.walk(self.store) for f in files if ".tmp" not in f)

    def run(self):
        last = None
        while not self.stop.is_set():
            objects = self.listing()
            if objects != last:
                self.seen.append((counter(self.counter_path), objects))
                last = objects
            time.sleep(0.01)


def record(base, args, rnd):
    """Runs the applications; returns the acknowledgements of each, and the store's history."""
    image, log, count = (os.path.join(base, n) for n in ("disk.img", "disk.log", "disk.count"))
    rec = os.path.join(base, "rec")
    os.makedirs(rec)
    with open(image, "wb") as f:
        f.truncate(SIZE)
    fs = subprocess.Popen([os.path.join(BUILD, "e2e", "recfs"), rec, image, log, count], stdin=subprocess.DEVNULL)
    try:
        wait_for("recfs", lambda: is_mounted(rec) and os.path.exists(count) and os.path.getsize(count) == 8)
        with Disk(os.path.join(rec, "disk"), os.path.join(base, "mnt"), make=True) as disk:
            conf = os.path.join(base, "fazt.conf")
            store = os.path.join(base, "store")
            with open(conf, "w") as f:
                f.write("[target t]\nurl = dir:%s\nship_interval = %s\n" % (store, args.ship))
            mount = Mount(base, "--config", conf, name="mnt/app", targets=[])
            with mount:
                mount.start()
                os.makedirs(store, exist_ok=True)
                watch = Watch(store, count)
                watch.start()
                procs = []
                for name, journal, sync in WORKLOADS:
                    acks = os.path.join(base, name + ".acks")
                    with open(acks + ".json", "w") as f:
                        json.dump({"path": os.path.join(mount.dir, name), "acks": acks, "journal": journal, "sync": sync,
                                   "page_size": 4096, "cache": 50, "auto_vacuum": 0, "exclusive": False, "mmap": 0,
                                   "commits": 100000, "vacuum": 0, "pause": 0.01, "hashes": True, "skip_free": True,
                                   "savepoints": journal != "WAL", "seed": rnd.getrandbits(32),
                                   "counter": count}, f)
                    procs.append(subprocess.Popen(["/usr/bin/python3", os.path.join(LIB, "writer.py"), acks + ".json"],
                                                  stdin=subprocess.DEVNULL))
                time.sleep(args.seconds)
                need(all(p.poll() is None for p in procs), "an application ended early")
                end = counter(count)
                for p in procs:
                    p.kill()
                    p.wait()
                watch.stop.set()
                watch.join()
                mount.umount()
    finally:
        if is_mounted(rec):
            subprocess.run(["umount", rec])
        fs.wait(20)
    return image, log, end, watch.seen, mount


def read_acks(path):
    hashes, acked = {}, []
    with open(path) as f:
        for line in f:
            w = line.split()
            if len(w) == 5 and line.endswith("\n") and w[0] in "CSV":
                acked.append((int(w[1]), int(w[2]), int(w[4])))
                hashes.setdefault((int(w[1]), int(w[2])), set()).add(w[3])
    return hashes, acked


def records(log, end):
    """(position after the record, type, offset, data position, length)"""
    with open(log, "rb") as f:
        pos = 0
        while pos < end:
            head = f.read(RECORD.size)
            if len(head) < RECORD.size:
                return
            kind, length, off, _ = RECORD.unpack(head)
            yield pos + RECORD.size + length, chr(kind), off, pos + RECORD.size, length
            f.seek(length, 1)
            pos += RECORD.size + length


def copy_record(log, image, r):
    log.seek(r[3])
    image.seek(r[2])
    image.write(log.read(r[4]))


def check_cut(base, number, image, flushed, cut, seen, key_mount, rnd):
    """Starts fazt on a disk as the cut left it, and asks SQLite."""
    work = os.path.join(base, "cut%d" % number)
    os.makedirs(work)
    shipped = frozenset()
    for at, objects in seen:
        if at <= cut:
            shipped = objects
    store = os.path.join(work, "store")
    os.makedirs(store)
    for o in shipped:
        source = os.path.join(key_mount.store, o)
        if os.path.exists(source):
            os.makedirs(os.path.dirname(os.path.join(store, o)), exist_ok=True)
            shutil.copyfile(source, os.path.join(store, o))
    report = []
    with Disk(image, os.path.join(work, "mnt")):
        if not os.path.isdir(os.path.join(work, "mnt", "app")):
            return "nothing was on the disk yet"
        mount = Mount(work, name="mnt/app", store="store", key=key_mount.key)
        before = {}
        for name, _, _ in WORKLOADS:
            out = os.path.join(work, "shipped-" + name)
            r = mount.restore(name, out, check=False)
            if r.returncode == 0:
                con = sqlite3.connect(out)
                tables = con.execute("SELECT count(*) FROM sqlite_master WHERE name='meta'").fetchone()[0]
                before[name] = con.execute("SELECT n, nonce FROM meta").fetchone() if tables else None
                con.close()
            else:
                need(r.returncode == 3, "cut %d, %s: restore of what was shipped: exit %d: %s", number, name, r.returncode,
                     r.stderr)
        with mount:
            mount.start()
            for name, journal, sync in WORKLOADS:
                path = os.path.join(mount.dir, name)
                hashes, acked = read_acks(os.path.join(base, name + ".acks"))
                durable = [a for a in acked if 0 < a[2] <= flushed] if sync == "FULL" else []
                what = "cut %d (flush at %d), %s %s/%s" % (number, flushed, name, journal, sync)
                if not os.path.exists(path) or os.path.getsize(path) == 0:
                    need(not durable and not before.get(name), "%s: the database is gone", what)
                    continue
                need(integrity(path) == "ok", "%s: integrity_check: %s", what, integrity(path))
                con = sqlite3.connect(path)
                tables = con.execute("SELECT count(*) FROM sqlite_master WHERE name='meta'").fetchone()[0]
                state = con.execute("SELECT n, nonce FROM meta").fetchone() if tables else None
                con.close()
                if state is None:
                    need(not durable and not before.get(name), "%s: the database is empty", what)
                    continue
                if durable:
                    need(state[0] >= durable[-1][0], "%s: commit %d was acknowledged, the database has %d", what,
                         durable[-1][0], state[0])
                if before.get(name):
                    need(before[name][0] <= state[0], "%s: commit %d was shipped, the database has %d", what,
                         before[name][0], state[0])
                if state in hashes:
                    need(serialize_hash(path, True) in hashes[state], "%s: pages differ from commit %s", what, state)
                con = sqlite3.connect(path, timeout=20)
                con.execute("INSERT INTO t(k, v) VALUES (-1, 'after the cut')")
                con.commit()
                con.close()
                report.append("%s %d (shipped %s)" % (name, state[0], before[name][0] if before.get(name) else "-"))
            mount.sync()
            for name, _, _ in WORKLOADS:
                path = os.path.join(mount.dir, name)
                if os.path.exists(path) and os.path.getsize(path):
                    out = os.path.join(work, "after-" + name)
                    mount.restore(name, out)
                    need(file_hash(out) == serialize_hash(path), "cut %d, %s: the store's latest state is not the live one",
                         number, name)
                    r = fazt("verify", mount.source(name), "-i", mount.key, check=False)
                    need(r.returncode == 0, "cut %d, %s: fazt verify: %s%s", number, name, r.stdout, r.stderr)
            live = fazt("verify", "--live", "--json", mount.dir, check=False)
            need(live.returncode == 0 and json.loads(live.stdout)["differences"] == 0, "cut %d: verify --live: %s%s", number,
                 live.stdout, live.stderr)
            mount.umount()
            need("not what was captured" not in mount.tail(1000), "cut %d: the start took the log's end for what the database is",
                 number)
    shutil.rmtree(work, ignore_errors=True)
    return ", ".join(report)


def run(base):
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=4)
    p.add_argument("--cuts", type=int, default=8)
    p.add_argument("--ship", help="ship_interval; a log is synced for that too")
    p.add_argument("--seed", type=int, default=int(time.time()))
    args = p.parse_args()
    rnd = random.Random(args.seed)
    args.ship = args.ship or rnd.choice(["50ms", "2s"])
    print("powerloss: seed %d, ship_interval %s" % (args.seed, args.ship), flush=True)
    _, log, end, seen, mount = record(base, args, rnd)
    all_records = list(records(log, end))
    flushes = [i for i, r in enumerate(all_records) if r[1] == "F"]
    need(len(flushes) > 20, "only %d flushes were recorded", len(flushes))
    # the first tenth is mkfs and the empty mount
    chosen = sorted(rnd.sample(flushes[len(flushes) // 10:-1], min(args.cuts, len(flushes) - len(flushes) // 10 - 1)))
    base_image = os.path.join(base, "base.img")
    with open(base_image, "wb") as f:
        f.truncate(SIZE)
    done = 0
    for number, i in enumerate(chosen):
        with open(log, "rb") as lf, open(base_image, "r+b") as image:
            for r in all_records[done:i]:
                if r[1] == "W":
                    copy_record(lf, image, r)
        done = i
        cut_image = os.path.join(base, "cut.img")
        sh("cp", "--sparse=always", base_image, cut_image)
        following = next(j for j in flushes if j > i)
        chance = rnd.choice([0, 0.3, 0.7, 1])
        with open(log, "rb") as lf, open(cut_image, "r+b") as image:
            for r in all_records[i + 1:following]:
                if r[1] == "W" and rnd.random() < chance:
                    copy_record(lf, image, r)
        print("  cut %d after flush %d of %d: %s" % (
            number, flushes.index(i), len(flushes),
            check_cut(base, number, cut_image, all_records[i][0], all_records[following][0] - 1, seen, mount, rnd)), flush=True)


if __name__ == "__main__":
    main("powerloss", run)
