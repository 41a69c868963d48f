"""SQLite's own TCL test files, natively and on a fazt mount, and the difference. Started by scripts/sqlite-tcl.sh, which
builds the testfixture.

A file counts as the same when every test that passes natively passes on the mount, as many tests ran, and it ended in the
same way. What differs is run natively once more: what is not steady there is called flaky and is no finding. Each file runs
in a process group, a directory and a mount of its own, which are gone when it ends. After each file the databases it left
are restored from the mount's log and compared, byte by byte, with what SQLite makes of the files themselves."""
import argparse
import collections
import concurrent.futures
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("B", os.path.join(ROOT, "build"))
FAZT = os.path.join(BUILD, "fazt")
WORK = os.environ.get("SQLITE_TCL_DIR", os.path.join(BUILD, "sqlite-tcl"))
FIXTURE = os.path.join(WORK, "src", "testfixture")
TESTS = os.path.join(WORK, "src", "test")
LIST = os.path.join(ROOT, "tests", "sqlite-tcl.list")
# not tests of their own: they run others, or run for hours
COLLECTIONS = re.compile(r"^(all|full|quick|veryquick|extraquick|permutations|soak|memsubsys.*|mallocAll|misuse|fts3rnd|corruptL|"
                         r"sessionfuzz|fuzz_malloc|speed.*|savepoint6|tt3_.*|threadtest.*)\.test$")
MIN_FREE = 3 << 30  # bytes; a run that goes wild must not take the machine with it
SUMMARY = re.compile(r"^(\d+) errors out of (\d+) tests", re.M)
FAILED = re.compile(r"^!Failures on these tests: (.*)$", re.M)


class Result:
    """How one run of a file went."""

    def __init__(self, end, output, seconds):
        self.end, self.seconds = end, seconds
        m = SUMMARY.search(output)
        self.tests = int(m.group(2)) if m else None
        m = FAILED.search(output)
        self.failed = set(m.group(1).split()) if m else set()
        if self.tests is None and end.startswith("exit"):
            self.end = end + ", no summary"

    def passes(self):
        return self.end == "exit 0" and self.tests is not None and not self.failed

    def __str__(self):
        if self.tests is None:
            return self.end
        text = "%d of %d fail" % (len(self.failed), self.tests)
        return text if self.end in ("exit 0", "exit 1") else "%s, %s" % (text, self.end)

    def like(self, other):
        return (self.end, self.tests, self.failed) == (other.end, other.tests, other.failed)

    def to_json(self):
        return {"end": self.end, "tests": self.tests, "failed": sorted(self.failed), "seconds": self.seconds}

    @staticmethod
    def from_json(j):
        r = Result(j["end"], "", j["seconds"])
        r.end, r.tests, r.failed = j["end"], j["tests"], set(j["failed"])
        return r


def kill_group(pgid):
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_file(name, parent, log, limit, stop):
    """Runs one file in parent/<stem>, which stays for the caller to look at and to remove."""
    where = os.path.join(parent, name[:-len(".test")])
    os.makedirs(where)
    start = time.monotonic()
    with open(log, "wb") as out:
        p = subprocess.Popen([FIXTURE, os.path.join(TESTS, name)], cwd=where, stdin=subprocess.DEVNULL, stdout=out,
                             stderr=subprocess.STDOUT, start_new_session=True)
        end = None
        try:
            while end is None:
                try:
                    p.wait(1)
                    end = "exit %d" % p.returncode if p.returncode >= 0 else "died of " + signal.Signals(-p.returncode).name
                except subprocess.TimeoutExpired:
                    if time.monotonic() - start > limit:
                        end = "not done after %d s" % limit
                    elif stop.is_set():
                        end = "stopped"
                    elif shutil.disk_usage(parent).free < MIN_FREE:
                        end = "stopped: the disk is nearly full"
        finally:
            kill_group(p.pid)  # helpers that it left, too
        try:
            p.wait(30)
        except subprocess.TimeoutExpired:
            end = "cannot be killed"
    with open(log, errors="replace") as f:
        return Result(end, f.read(), round(time.monotonic() - start, 2))


class Mount:
    """fazt over a scratch directory, in the foreground; its end is a finding."""

    def __init__(self, scratch, flags):
        self.dir = os.path.join(scratch, "mnt")
        self.log = os.path.join(scratch, "fazt.log")
        self.store = os.path.join(scratch, "store")
        self.flags = flags
        self.proc = None
        os.makedirs(self.dir)

    def start(self):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([FAZT, "mount", "--foreground", "--encrypt", "none", "--target", "dir:" + self.store,
                                          *self.flags, self.dir], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         start_new_session=True)
        end = time.monotonic() + 60
        while self.proc.poll() is None and time.monotonic() < end:
            if self.mounted() and self.status(5):
                return
            time.sleep(0.05)
        with open(self.log, errors="replace") as f:
            raise RuntimeError("fazt mount does not serve:\n" + f.read())

    def mounted(self):
        with open("/proc/self/mounts") as f:
            return any(line.split()[1] == self.dir for line in f)

    def status(self, timeout=30):
        try:
            r = subprocess.run([FAZT, "status", "--json", self.dir], capture_output=True, text=True, timeout=timeout,
                               stdin=subprocess.DEVNULL)
            return json.loads(r.stdout)
        except (ValueError, subprocess.TimeoutExpired):
            return None

    def worker(self):
        """A pidfd of the worker, which is a child of the supervisor; -1 between two of them."""
        try:
            with open("/proc/%d/task/%d/children" % (self.proc.pid, self.proc.pid)) as f:
                pids = [int(p) for p in f.read().split()]
        except OSError:
            return -1
        for pid in pids:
            try:
                fd = os.pidfd_open(pid)
                with open("/proc/%d/cmdline" % pid, "rb") as f:
                    if f.read().split(b"\0")[1:2] == [b"worker"]:
                        return fd
                os.close(fd)
            except OSError:
                pass
        return -1

    def stop(self):
        """Returns what was wrong, or nothing."""
        if not self.proc:
            return []
        wrong = []
        try:
            if self.proc.poll() is None:
                r = subprocess.run([FAZT, "umount", self.dir], capture_output=True, text=True, timeout=120)
                if r.returncode != 0:
                    wrong.append("fazt umount: exit %d: %s" % (r.returncode, r.stderr.strip()))
            self.proc.wait(30)
            if self.proc.returncode != 0:
                wrong.append("fazt mount ended with %d" % self.proc.returncode)
        except subprocess.TimeoutExpired:
            wrong.append("fazt umount does not end")
        if self.proc.poll() is None:
            kill_group(self.proc.pid)
        if self.mounted():
            wrong.append("still mounted")
            subprocess.run(["umount", "-l", self.dir], check=False)
        self.proc = None
        return wrong


class Killer:
    """SIGKILLs the worker again and again while a file runs."""

    def __init__(self, mount, ms, seed):
        self.mount, self.ms, self.kills = mount, ms, 0
        self.rng = random.Random(seed)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.wait(self.rng.uniform(0.5, 1.5) * self.ms / 1000):
            fd = self.mount.worker()
            if fd >= 0:
                try:
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    pass
                os.close(fd)

    def __enter__(self):
        if self.ms:
            self.thread.start()
        return self

    def __exit__(self, *exc):
        if self.ms:
            self.stop.set()
            self.thread.join()


def contents(path):
    """What SQLite makes of a database: its pages by their header's count, bytes 18 and 19 (WAL or rollback) left out."""
    with open(path, "rb") as f:
        data = bytearray(f.read())
    if len(data) < 100 or data[:16] != b"SQLite format 3\0":
        return bytes(data)
    size = int.from_bytes(data[16:18], "big")
    size = 65536 if size == 1 else size
    count = int.from_bytes(data[28:32], "big")
    if data[24:28] == data[92:96] and 0 < count * size <= len(data):
        del data[count * size:]
    if size >= 512:
        data.extend(bytes(-len(data) % size))  # SQLite reads zeros there
    data[18:20] = b"\0\0"
    return bytes(data)


def truth(db, scratch):
    """The database as SQLite recovers it, from copies of its files. None: SQLite does not open it."""
    where = tempfile.mkdtemp(dir=scratch)
    copy = os.path.join(where, os.path.basename(db))
    try:
        for suffix in ("", "-wal", "-journal"):
            if os.path.exists(db + suffix):
                shutil.copyfile(db + suffix, copy + suffix)
        con = sqlite3.connect(copy, isolation_level=None)
        try:
            con.execute("SELECT count(*) FROM sqlite_master").fetchall()
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            con.close()
        return contents(copy)
    except (sqlite3.Error, OSError):
        return None
    finally:
        shutil.rmtree(where)


def check_capture(mount, stem, scratch):
    """Compares what capture holds of the databases that a file left with the databases. Returns (databases, findings)."""
    findings, count = [], 0
    status = mount.status()
    if status is None:
        return 0, ["fazt status does not answer"]
    for d in status["databases"]:
        name, path = d["name"], os.path.join(mount.dir, d["name"])
        if not name.startswith(stem + "/"):
            continue
        if d["last_error"]:
            findings.append("%s: last_error: %s" % (name, d["last_error"]))
        if d["scrub_found"]:
            findings.append("%s: scrub found %d pages" % (name, d["scrub_found"]))
        if not os.path.isfile(path):
            findings.append("%s: status shows a database that is not there" % name)
            continue
        want = truth(path, scratch)
        if not want:  # damaged on purpose, or without content
            continue
        count += 1
        out = os.path.join(scratch, "restored")
        r = subprocess.run([FAZT, "restore", path, "--latest", "-o", out, "--force"], capture_output=True, text=True,
                           timeout=300, stdin=subprocess.DEVNULL)
        if r.returncode != 0:
            findings.append("%s: fazt restore: exit %d: %s" % (name, r.returncode, r.stderr.strip()))
            continue
        got = contents(out)
        os.unlink(out)
        if got != want:
            size = int.from_bytes(want[16:18], "big") if len(want) > 18 else 0
            size = {0: 4096, 1: 65536}.get(size, size)
            pages = [i // size + 1 for i in range(0, max(len(got), len(want)), size) if got[i:i + size] != want[i:i + size]]
            findings.append("%s (%s): restored and real differ: %d and %d bytes, pages %s%s" %
                            (name, d["journal_mode"], len(got), len(want), pages[:8], "..." if pages[8:] else ""))
    r = subprocess.run([FAZT, "verify", "--live", mount.dir], capture_output=True, text=True, timeout=300,
                       stdin=subprocess.DEVNULL)
    if r.returncode != 0:
        findings.append("fazt verify --live: exit %d: %s" % (r.returncode, (r.stdout + r.stderr).strip()))
    return count, findings


def why(log):
    """The first failures in a file's output."""
    with open(log, errors="replace") as f:
        lines = [line.rstrip()[:200] for line in f]
    picked = [line for line in lines if re.match(r"^(! |Error|child|couldn't)|.*(expected:|got:)", line)]
    return (picked or lines[-4:])[:8]


def expected(name, line):
    """walcrash*: the simulated crash loses writes of the WAL, but not the wal-index, which no power cut would leave."""
    return name.startswith("walcrash") and "-wal ends before frame" in line


def remove(path):
    """Removes a directory through the mount. Some tests take away permissions; root does not mind."""
    for _ in range(3):
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return True
        time.sleep(0.2)
    return False


SAME, DIFFERS, NATIVE, FLAKY = "same", "DIFFERS", "fails natively", "flaky"


class Run:
    """What the files of one run share."""

    def __init__(self, args, scratch):
        self.args, self.scratch = args, scratch
        self.stop = threading.Event()
        self.mu = threading.Lock()
        self.rows, self.cache = {}, {}
        self.cache_path = os.path.join(WORK, "native.json")
        if os.path.exists(self.cache_path):
            with open(self.cache_path) as f:
                self.cache = json.load(f)

    def native(self, name):
        where = tempfile.mkdtemp(prefix="native-", dir=self.scratch)
        res = run_file(name, where, os.path.join(self.args.results, name + ".native"), self.args.limit, self.stop)
        shutil.rmtree(where, ignore_errors=True)
        with self.mu:
            self.cache[name] = res.to_json()
            with open(self.cache_path + ".new", "w") as out:
                json.dump(self.cache, out, indent=0)
            os.rename(self.cache_path + ".new", self.cache_path)
        return res

    def mounted(self, name, row, limit):
        """A mount of its own for each file: what one file makes of it is not the next one's trouble."""
        stem, found = name[:-len(".test")], row["findings"]
        where = tempfile.mkdtemp(prefix="mount-", dir=self.scratch)
        mount = Mount(where, self.args.mount_flag)
        try:
            mount.start()
            with Killer(mount, self.args.kill_worker, "%d %s" % (self.args.seed, name)) as killer:
                res = run_file(name, mount.dir, os.path.join(self.args.results, name + ".mount"), limit, self.stop)
            row["kills"] = killer.kills
            row["databases"], wrong = check_capture(mount, stem, where)
            found += wrong
            status = mount.status()
            if status is None:
                found.append("the mount is dead")
            elif status["restarts"] and not self.args.kill_worker:
                found.append("the worker died %d times" % status["restarts"])
            if not remove(os.path.join(mount.dir, stem)):
                found.append("its directory cannot be removed")
        finally:
            found += mount.stop()
            shutil.copy(mount.log, os.path.join(self.args.results, name + ".fazt.log"))
            shutil.rmtree(where, ignore_errors=True)
        with open(os.path.join(self.args.results, name + ".fazt.log"), errors="replace") as f:
            lines = f.read().splitlines()
        found += [line for line in lines if " error: " in line and not expected(name, line)]
        row["warnings"] = sum(1 for line in lines if " warning: " in line)
        return res

    def file(self, name):
        """Runs one file; returns the lines to print."""
        nat = Result.from_json(self.cache[name]) if self.args.reuse_native and name in self.cache else self.native(name)
        row = {"native": nat.to_json(), "databases": 0, "kills": 0, "findings": []}
        out = []
        if self.args.native_only:
            row["verdict"] = SAME if nat.passes() else NATIVE
            out.append("%s: %s (%.1f s)" % (name, nat, nat.seconds))
        else:
            limit = min(self.args.limit, 30 + 20 * nat.seconds) * (3 if self.args.kill_worker else 1)
            res = self.mounted(name, row, limit)
            row["mount"] = res.to_json()
            row["verdict"] = self.judge(name, nat, res)
            if row["verdict"] != SAME:
                out.append("%s: %s: native %s, mount %s" % (row["verdict"], name, nat, res))
            if row["verdict"] == DIFFERS:
                only = sorted(res.failed - nat.failed)
                if only:
                    out.append("    only on the mount: " + " ".join(only[:20]))
                out += ["    " + line for line in why(os.path.join(self.args.results, name + ".mount"))]
            out += ["CAPTURE: %s: %s" % (name, line[:400]) for line in row["findings"][:6]]
            if row["findings"][6:]:
                out.append("CAPTURE: %s: and %d more" % (name, len(row["findings"]) - 6))
        with self.mu:
            self.rows[name] = row
        return "".join(line + "\n" for line in out)

    def judge(self, name, nat, res):
        if nat.like(res):
            return SAME if nat.passes() else NATIVE
        again = self.native(name)
        for _ in range(3):  # how many tests a file runs may depend on chance: then the number differs natively, too
            if not res.passes() or not again.passes() or again.tests != nat.tests:
                break
            again = self.native(name)
        if res.failed - nat.failed - again.failed or res.end not in (nat.end, again.end):
            return DIFFERS
        if res.passes() and again.passes():
            return DIFFERS if again.tests == nat.tests else SAME
        return FLAKY if nat.passes() or again.passes() else NATIVE


def main():
    p = argparse.ArgumentParser(prog="sqlite-tcl.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*", metavar="FILE.test", help="instead of those in tests/sqlite-tcl.list")
    p.add_argument("--all", action="store_true", help="every file that is no collection of others")
    p.add_argument("--mount-flag", action="append", default=[], metavar="FLAG", help="for fazt mount, as --mount-flag=--no-resend")
    p.add_argument("--no-passthrough", dest="mount_flag", action="append_const", const="--no-passthrough",
                   help="the same as --mount-flag=--no-passthrough")
    p.add_argument("--kill-worker", type=int, nargs="?", const=200, default=0, metavar="MS",
                   help="SIGKILL the worker about every MS milliseconds (200)")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="files at a time (1)")
    p.add_argument("--seed", type=int, default=int(time.time()), help="of the kills")
    p.add_argument("--limit", type=int, default=int(os.environ.get("SQLITE_TCL_LIMIT", "300")), metavar="S",
                   help="seconds for a file (300); on the mount no more than 30 + 20 times what it took natively; "
                   "three times as many with --kill-worker")
    p.add_argument("--reuse-native", action="store_true", help="take native results from the last run that has them")
    p.add_argument("--native-only", action="store_true", help="no mount: what passes here at all")
    p.add_argument("--results", default=os.path.join(WORK, "results"), help="directory for outputs and results")
    args = p.parse_args()

    if args.all:
        files = sorted(f for f in os.listdir(TESTS) if f.endswith(".test") and not COLLECTIONS.match(f))
    elif args.files:
        files = args.files
    else:
        with open(LIST) as f:
            files = [line.strip() for line in f if line.strip() and not line.startswith("#")]
    for f in files:
        if not os.path.exists(os.path.join(TESTS, f)):
            sys.exit("there is no %s in %s" % (f, TESTS))

    os.makedirs(args.results, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix="fazt-tcl-")
    run = Run(args, scratch)
    try:
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            waiting = [pool.submit(run.file, name) for name in files]
            try:
                for f in concurrent.futures.as_completed(waiting):
                    print(f.result(), end="", flush=True)
            except BaseException:
                run.stop.set()
                for f in waiting:
                    f.cancel()
                raise
    finally:
        if os.environ.get("TEST_KEEP"):
            print("kept:", scratch)
        else:
            shutil.rmtree(scratch, ignore_errors=True)
        with open(os.path.join(args.results, "results.json"), "w") as f:
            json.dump(run.rows, f, indent=1)
    n = collections.Counter(row["verdict"] for row in run.rows.values())
    if args.native_only:
        print("SQLite's tests natively: %d files, %d pass, %d do not" % (len(files), n[SAME], n[NATIVE]))
        return 0
    found = sum(1 for row in run.rows.values() if row["findings"])
    print("SQLite's tests: %d files, %d the same on the mount, %d differ, %d fail natively, %d flaky natively; capture: %d "
          "databases compared, %d files with findings%s" %
          (len(files), n[SAME], n[DIFFERS], n[NATIVE], n[FLAKY], sum(row["databases"] for row in run.rows.values()), found,
           "; the worker was killed %d times (seed %d)" % (sum(row["kills"] for row in run.rows.values()), args.seed)
           if args.kill_worker else ""))
    return 1 if n[DIFFERS] or found else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
    sys.exit(main())
