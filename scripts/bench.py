#!/usr/bin/python3
"""make bench: fazt beside native in one run, interleaved, medians. Fails on nothing: timing is no test.
usage: bench.py [--rounds N] [--seconds S] [--only NAME,...] [--megabytes M] [--json FILE]

Every measure runs natively and on the mount in turn, round after round, on the same disk; the ratio is that of the medians.
Capture is on, and a directory target gets everything, encrypted."""
import argparse
import glob
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "lib"))
from faztlib import BUILD, FAZT, Failure, Mount, fazt, is_mounted, scratch, wait_for  # noqa: E402

APP = os.path.join(BUILD, "e2e", "bench_app")
NOBODY = 65534
RATES = [  # name, what, journal, sync, amount, uid, mount flags, must, aim
    ("WAL/NORMAL txn/s", "txn", "WAL", "NORMAL", None, NOBODY, [], 70, 88),
    ("WAL/FULL txn/s, root", "txn", "WAL", "FULL", None, 0, [], 80, 95),
    ("WAL/FULL txn/s, not root", "txn", "WAL", "FULL", None, NOBODY, [], 70, 95),
    ("DELETE/NORMAL txn/s", "txn", "DELETE", "NORMAL", None, NOBODY, [], 60, 75),
    ("TRUNCATE/NORMAL txn/s", "txn", "TRUNCATE", "NORMAL", None, NOBODY, [], 60, 75),
    ("bulk rows/s, WAL", "bulk", "WAL", "NORMAL", 400000, NOBODY, [], 75, 95),
    ("point reads/s, WAL", "read", "WAL", "NORMAL", None, NOBODY, [], 90, 99),
    ("  nothing written since open", "read-only", "WAL", "NORMAL", None, NOBODY, [], 90, 99),
    ("point reads/s, DELETE", "read", "DELETE", "NORMAL", None, NOBODY, [], 90, 99),
    ("fallback WAL/NORMAL txn/s", "txn", "WAL", "NORMAL", None, NOBODY, ["--no-passthrough"], 10, 15),
    ("fallback WAL/FULL txn/s", "txn", "WAL", "FULL", None, NOBODY, ["--no-passthrough"], 45, 60),
]


def app(what, db, journal, sync, amount, uid, *more):
    r = subprocess.run([APP, what, db, journal, sync, str(amount), str(uid), *map(str, more)], stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True)
    if r.returncode:
        raise Failure("bench_app %s %s/%s: %s" % (what, journal, sync, r.stderr))
    return float(r.stdout.split()[0])


def remove(path):
    for suffix in ("", "-wal", "-shm", "-journal"):
        if os.path.exists(path + suffix):
            os.unlink(path + suffix)


def counters(mount):
    return mount.status().get("session", {})


def measure_rate(base, row, rounds, seconds):
    name, what, journal, sync, amount, uid, flags, must, aim = row
    native_dir = os.path.join(base, "native")
    os.makedirs(native_dir, exist_ok=True)
    os.chmod(native_dir, 0o777)
    native, mounted, extra = [], [], {}
    with Mount(base, *flags) as mount:
        mount.start()
        os.chmod(mount.dir, 0o777)
        for r in range(rounds):
            for where, out in ((native_dir, native), (mount.dir, mounted)):
                db = os.path.join(where, "b%d.db" % (r if not what.startswith("read") else 0))
                before = counters(mount) if where == mount.dir else None
                t0 = time.monotonic()
                out.append(app(what, db, journal, sync, amount or seconds, uid))
                if before is not None and what == "txn":
                    took = time.monotonic() - t0
                    commits = out[-1] * took
                    after = counters(mount)
                    for k in ("requests", "fsyncs"):
                        if isinstance(after.get(k), (int, float)):
                            extra.setdefault(k + "_per_commit", []).append((after[k] - before.get(k, 0)) / max(1, commits))
                if not what.startswith("read"):
                    remove(db)
        mount.umount()
    shutil.rmtree(mount.dir, ignore_errors=True)
    shutil.rmtree(mount.store, ignore_errors=True)
    result = {"name": name, "native": statistics.median(native), "fazt": statistics.median(mounted),
              "percent": 100 * statistics.median(mounted) / statistics.median(native), "must": must, "aim": aim,
              "native_runs": native, "fazt_runs": mounted}
    result.update({k: statistics.median(v) for k, v in extra.items()})
    return result


def rss_anon_mb(pid):
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) / 1024
    return 0.0


def context_switches(pid):
    n = 0
    for t in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/status" % (pid, t)) as f:
                n += sum(int(l.split()[1]) for l in f if l.startswith(("voluntary_ctxt", "nonvoluntary_ctxt")))
        except OSError:
            pass
    return n


def measure_lag(base, seconds):
    """Commit to log at 5,000 transactions a second. The worker cannot see the delay before it looks, so the application
    measures: it notes when each COMMIT returned and watches the committed TXID in the log's mapped head."""
    state = os.path.join(base, "state")
    with Mount(base, "--state", state) as mount:
        mount.start()
        db = os.path.join(mount.dir, "lag.db")
        idle = rss_anon_mb(mount.status()["worker_pid"])
        time.sleep(2)
        pid = mount.status()["worker_pid"]
        a = context_switches(pid)
        time.sleep(5)
        wakeups = (context_switches(pid) - a) / 5
        peak, stop = [0.0], threading.Event()

        def watch():
            while not stop.is_set():
                peak[0] = max(peak[0], rss_anon_mb(pid))
                stop.wait(0.05)
        t = threading.Thread(target=watch)
        t.start()
        app("txn", db, "WAL", "NORMAL", 0.1, 0)
        heads = glob.glob(os.path.join(state, "db", "lag.db.*", "head"))
        if not heads:
            raise Failure("no log of lag.db below %s" % state)
        r = subprocess.run([APP, "lag", db, "WAL", "NORMAL", str(max(2, seconds)), "0", "5000", heads[0]],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if not r.stdout:
            raise Failure("bench_app lag: %s" % r.stderr)
        lag = json.loads(r.stdout)
        app("txn", db, "WAL", "NORMAL", seconds, 0)
        app("bulk", db, "WAL", "NORMAL", 400000, 0)
        stop.set()
        t.join()
        mount.umount()
    shutil.rmtree(mount.dir, ignore_errors=True)
    shutil.rmtree(mount.store, ignore_errors=True)
    return {"capture_lag_ms": lag, "worker_idle_mb": idle, "worker_load_mb": peak[0], "idle_wakeups_per_s": wakeups}


def free_port():
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure_restore(base, megabytes, rounds):
    """A database of 400 MB from a local S3 server against cp of it."""
    gateway = shutil.which("versitygw") or os.path.expanduser("~/go/bin/versitygw")
    if not os.path.exists(gateway):
        return {"error": "no S3 server (versitygw) on this machine"}
    port, s3 = free_port(), os.path.join(base, "s3")
    os.makedirs(os.path.join(s3, "bucket"))
    env = {**os.environ, "AWS_ACCESS_KEY_ID": "benchaccess", "AWS_SECRET_ACCESS_KEY": "benchsecret"}
    server = subprocess.Popen([gateway, "--access", "benchaccess", "--secret", "benchsecret", "--port",
                               "127.0.0.1:%d" % port, "posix", s3], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = "s3://bucket/p?endpoint=http://127.0.0.1:%d&region=us-east-1&path-style=yes" % port
        source = url.replace("/p?", "/p/big.db?")
        with Mount(base, targets=[url]) as mount:
            os.environ.update({k: env[k] for k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")})
            mount.start()
            db = os.path.join(mount.dir, "big.db")
            app("fill", db, "WAL", "NORMAL", megabytes, 0)
            mount.sync(timeout=600)
            cp, restore, peak = [], [], 0.0
            plain = os.path.join(base, "plain.db")
            out = os.path.join(base, "out.db")
            subprocess.run(["cp", db, plain], check=True)
            for _ in range(rounds):
                for path in (out, out + ".cp"):
                    if os.path.exists(path):
                        os.unlink(path)
                os.sync()
                t = time.monotonic()
                subprocess.run(["cp", plain, out + ".cp"], check=True)
                subprocess.run(["sync", out + ".cp"], check=True)
                cp.append(time.monotonic() - t)
                t = time.monotonic()
                p = subprocess.Popen([FAZT, "restore", source, "-i", mount.key, "-o", out], stdout=subprocess.DEVNULL,
                                     env=env)
                while p.poll() is None:
                    try:
                        peak = max(peak, rss_anon_mb(p.pid))
                    except OSError:
                        pass
                    time.sleep(0.01)
                if p.returncode:
                    raise Failure("restore failed with %d" % p.returncode)
                restore.append(time.monotonic() - t)
            size = os.path.getsize(out)
            mount.umount()
        return {"size_mb": size / 1e6, "cp_s": statistics.median(cp), "restore_s": statistics.median(restore),
                "times_cp": statistics.median(restore) / statistics.median(cp), "restore_mb": peak}
    finally:
        server.terminate()
        server.wait()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=2)
    p.add_argument("--megabytes", type=int, default=400)
    p.add_argument("--only", default="")
    p.add_argument("--json", default=os.path.join(BUILD, "bench.json"))
    args = p.parse_args()
    only = [o for o in args.only.split(",") if o]
    results = {"kernel": platform.release(), "cpus": os.cpu_count(), "time": time.strftime("%FT%TZ", time.gmtime()),
               "rounds": args.rounds, "rates": []}

    def wanted(name):
        return not only or any(o in name for o in only)
    print("%-28s %12s %12s %8s %6s %5s  %s" % ("measure", "native", "fazt", "percent", "must", "aim", "per commit"))
    for row in RATES:
        if not wanted(row[0]):
            continue
        with scratch("bench") as base:
            os.chmod(base, 0o755)
            r = measure_rate(base, row, args.rounds, args.seconds)
        results["rates"].append(r)
        print("%-28s %12.0f %12.0f %7.0f%% %5d%% %4d%%  %s" % (
            r["name"], r["native"], r["fazt"], r["percent"], r["must"], r["aim"],
            " ".join("%s %.2f" % (k[:-11], r[k]) for k in ("requests_per_commit", "fsyncs_per_commit") if k in r)), flush=True)
    if wanted("lag"):
        with scratch("bench") as base:
            results["lag"] = r = measure_lag(base, args.seconds)
        print("commit to log, ms: %s (must 0.5 / 5)" % json.dumps(r["capture_lag_ms"]))
        print("worker RssAnon MB: idle %.1f (must 15), under load %.1f (must 40); idle wake-ups/s %.1f (must 0)" % (
            r["worker_idle_mb"], r["worker_load_mb"], r["idle_wakeups_per_s"]), flush=True)
    if wanted("restore"):
        with scratch("bench") as base:
            results["restore"] = r = measure_restore(base, args.megabytes, args.rounds)
        if "error" in r:
            print("restore: %s" % r["error"])
        else:
            print("restore of %.0f MB from local S3: %.2f s, cp %.2f s: %.1f x (must 4, aim 1.5); memory %.1f MB (must 60)" % (
                r["size_mb"], r["restore_s"], r["cp_s"], r["times_cp"], r["restore_mb"]))
    with open(args.json, "w") as f:
        json.dump(results, f, indent=1)
    print("written: %s" % args.json)


main()
