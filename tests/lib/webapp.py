"""A web application of others on a mount, and clients of it that know what they were promised.

TERMS    op: one request that adds, changes or removes a row; acknowledged: the application answered that it is done. Each Writer makes one
op after the other, so its rows are always those after its first k ops, and each k has rows of its own. Rows are {key: text}; the
writer's number stands in the key.
JUDGE    A restored file shows one k per writer. (1) Its rows are exactly those after k ops: nothing invented, nothing half. (2) With an op
it shows all that was acknowledged to anybody before that op was sent. (3) From one TXID to the next no
k falls, and they grow by one op in all at most: each op is a commit of its own. (4) The newest TXID shows all."""
import atexit
import collections
import datetime
import http.client
import json
import os
import queue
import random
import signal
import sqlite3
import subprocess
import threading
import time

from cluster import free_port
from faztlib import Failure, alive, fazt, fazt_json, file_hash, integrity, is_mounted, need, serialize_hash, wait_for

Op = collections.namedtuple("Op", "rows sent acked")  # rows: the writer's after it; acked: None where nobody knows when it was done
FILLER = "0123456789abcdefghijklmnopqrstuvwxyz"


class Unanswered(Exception):
    """The application did not say that it is done: it may be, or not."""


class Site:
    """What a scenario says of its application. home is below the mount, or elsewhere for a restored copy."""
    databases = []  # paths below the mount; the first holds the rows
    health = "/"    # a path that answers 200 once it serves
    pace = 0        # seconds that a client rests after each op

    def __init__(self, home, log):
        self.home, self.log, self.port, self.p = home, log, free_port(), None

    def command(self):
        """([program, ...], {environment}) of the server."""
        raise NotImplementedError

    def alive(self):
        """Whether it answers a request."""
        con = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            con.request("GET", self.health)
            return con.getresponse().status == 200
        except OSError:
            return False
        finally:
            con.close()

    def client(self, number):
        """A new client: add(key, text), change(key, text), remove(key), read() -> rows, close(). Unanswered when in doubt.
        renew(), where it has one: forgets what it knows itself, because the application may not."""
        raise NotImplementedError

    @staticmethod
    def rows(path):
        """The rows in a database file, by SQL."""
        raise NotImplementedError

    def start(self):
        args, env = self.command()
        with open(self.log, "ab") as out:
            self.p = subprocess.Popen(args, cwd=self.home, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True,
                                      env={**os.environ, **env})
        atexit.register(self.kill)  # also when the scenario fails before it knows this site

        def up():
            if self.p.poll() is not None:
                with open(self.log, errors="replace") as f:
                    raise Failure("%s ended with %d:\n%s" % (args[0], self.p.returncode, f.read()[-3000:]))
            return self.alive()
        wait_for("%s to answer" % os.path.basename(args[0]), up, 60)
        return self

    def group(self):
        """Its processes."""
        out = []
        for p in os.listdir("/proc"):
            if p.isdigit():
                try:
                    with open("/proc/%s/stat" % p) as f:
                        if int(f.read().rsplit(")", 1)[1].split()[3]) == self.p.pid:  # the session
                            out.append(int(p))
                except OSError:
                    pass
        return out

    def kill(self):
        """SIGKILL to all of it at once."""
        if not self.p:
            return
        pids = self.group()
        try:
            os.killpg(self.p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.p.wait()
        wait_for("the death of the application", lambda: not any(alive(p) for p in pids))
        self.p = None

    def end(self):
        """SIGTERM, as a service is stopped."""
        if self.p and self.p.poll() is None:
            pids = self.group()
            self.p.terminate()
            try:
                self.p.wait(30)
                wait_for("the end of the application", lambda: not any(alive(p) for p in pids))
            except (subprocess.TimeoutExpired, Failure):
                pass
        self.kill()


class Driver:
    """A client in another process: a line of JSON each way."""

    def __init__(self, args, env, log):
        with open(log, "ab") as err:
            self.p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True, env={**os.environ, **env})
        atexit.register(self.p.kill)
        self.answers = queue.Queue()
        self.reader = threading.Thread(target=self.collect, daemon=True)
        self.reader.start()

    def collect(self):
        for line in self.p.stdout:
            if line.startswith("{"):  # libraries print as well
                self.answers.put(json.loads(line))
        self.answers.put({"error": "the client ended"})

    def call(self, **what):
        try:
            self.p.stdin.write(json.dumps(what) + "\n")
            self.p.stdin.flush()
            answer = self.answers.get(timeout=60)
        except (OSError, ValueError, queue.Empty) as e:
            raise Unanswered("%s: %s" % (type(e).__name__, e)) from e
        if "error" in answer:
            raise Unanswered(answer["error"])
        return answer

    def close(self):
        self.p.kill()
        self.p.wait()
        self.reader.join()
        self.p.stdin.close()
        self.p.stdout.close()


class Writer(threading.Thread):
    """One client and what it knows. It works while the crowd is told to, and stops at the first op that nobody answered."""

    def __init__(self, crowd, number):
        super().__init__(daemon=True)
        self.crowd, self.number, self.rnd = crowd, number, random.Random(number)
        self.client = crowd.site.client(number)
        self.ops, self.doubt, self.error, self.idle, self.stop = [Op({}, 0, 0)], None, None, threading.Event(), False
        self.made = 0

    @property
    def known(self):
        return self.ops[-1].rows

    def one(self):
        self.made += 1
        rows = dict(self.known)
        text = "op %d %s" % (self.made, FILLER * self.rnd.choice([0, 0, 1, 2]))
        text = text.strip()
        dice = self.rnd.random()
        if dice < 0.65 or len(rows) < 5 or not self.crowd.edits:
            key = "w%d-%d" % (self.number, self.made)
            call, args, rows[key] = self.client.add, (key, text), text
        elif dice < 0.9:
            key = self.rnd.choice(sorted(rows))
            call, args, rows[key] = self.client.change, (key, text), text
        else:
            key = min(rows, key=lambda k: int(k.split("-")[1]))
            del rows[key]
            call, args = self.client.remove, (key,)
        sent = time.monotonic_ns()
        try:
            call(*args)
        except Unanswered as e:
            self.doubt = (rows, sent, str(e))
            return
        self.ops.append(Op(rows, sent, time.monotonic_ns()))
        time.sleep(self.crowd.site.pace)

    def run(self):
        try:
            while not self.stop:
                if not self.crowd.go.is_set() or self.doubt:
                    self.idle.set()
                    self.crowd.go.wait(0.05)
                    if self.doubt:
                        time.sleep(0.02)
                    continue
                self.idle.clear()
                self.one()
        except Exception as e:  # told by the crowd
            self.error = e
        finally:
            self.idle.set()

    def renew(self):
        if hasattr(self.client, "renew"):
            self.client.renew()

    def settle(self, mine):
        """mine: its rows as the application shows them. The op in doubt was done, or not; all else is as it was."""
        if self.doubt:
            rows, sent, _ = self.doubt
            self.renew()
            if mine == rows:
                self.ops.append(Op(rows, sent, None))
            self.doubt = None
        need(mine == self.known, "writer %d: the application shows what it never said was done, or lost what it said was: %s",
             self.number, difference(mine, self.known))


def difference(got, want):
    return {"missing": sorted(set(want) - set(got))[:5], "besides": sorted(set(got) - set(want))[:5],
            "other": [(k, got[k], want[k]) for k in sorted(set(got) & set(want)) if got[k] != want[k]][:5]}


def by_writer(rows):
    out = collections.defaultdict(dict)
    for k, v in rows.items():
        need(k.startswith("w") and "-" in k, "a row that nobody wrote: %s", k)
        out[int(k[1:].split("-")[0])][k] = v
    return out


Moment = collections.namedtuple("Moment", "name txids at rows hash")


class Crowd:
    """The writers of a site on a mount."""

    def __init__(self, mount, site, count, edits=True):
        self.mount, self.site, self.edits, self.go = mount, site, edits, threading.Event()
        self.moments = []
        self.writers = [Writer(self, i) for i in range(count)]
        for w in self.writers:
            w.start()

    def check(self):
        for w in self.writers:
            if w.error:
                raise Failure("writer %d: %s: %s" % (w.number, type(w.error).__name__, w.error))

    def count(self):
        return sum(len(w.ops) - 1 for w in self.writers)

    def in_doubt(self):
        return [w.doubt[2] for w in self.writers if w.doubt]

    def work(self, more, meanwhile=None, seconds=90):
        """All write until there are `more` acknowledged ops; meanwhile() runs beside them. No op may stay unanswered."""
        want = self.count() + more
        self.go.set()
        try:
            if meanwhile:
                meanwhile()

            def done():
                self.check()
                need(not self.in_doubt(), "a request failed while nothing was killed that the application should notice: %s", self.in_doubt())
                return self.count() >= want
            wait_for("%d acknowledged writes" % more, done, seconds)
        finally:
            self.pause()
        need(not self.in_doubt(), "a request failed: %s", self.in_doubt())

    def until_cut(self, more, cut):
        """All write; after `more` acknowledged ops cut() ends something under them."""
        want = self.count() + more
        self.go.set()
        try:
            wait_for("%d acknowledged writes" % more, lambda: self.check() or self.count() >= want or len(self.in_doubt()) == len(self.writers), 90)
            need(not self.in_doubt(), "a request failed before anything was killed: %s", self.in_doubt())
            cut()
        finally:
            self.pause()

    def pause(self):
        self.go.clear()
        time.sleep(0.06)  # whoever has just looked at go has begun
        wait_for("the clients to come to rest", lambda: all(w.idle.is_set() or w.error for w in self.writers), 90)
        self.check()

    def settle(self):
        """The application shows what the clients know."""
        mine = by_writer(self.writers[0].client.read())
        for w in self.writers:
            w.settle(mine.pop(w.number, {}))
        need(not mine, "rows that nobody wrote: %s", mine)

    def known(self):
        return {k: v for w in self.writers for k, v in w.known.items()}

    def moment(self, name):
        """Nobody writes; what is restored of this moment must be what is known now."""
        self.settle()
        m = self.mount
        fazt("sync", m.dir)
        txids = {d: m.database(d)["txid"] for d in self.site.databases}
        now = time.time_ns() // 1000000 + 1
        wait_for("the next millisecond", lambda: time.time_ns() // 1000000 > now)
        self.moments.append(Moment(name, txids, now, self.known(), serialize_hash(os.path.join(m.dir, self.site.databases[0]))))

    def back_at(self, moment):
        """The clients know what they knew then: the history of a writer begins anew."""
        mine = by_writer(moment.rows)
        for w in self.writers:
            w.ops, w.doubt = [Op(mine.get(w.number, {}), 0, 0)], None
            w.renew()

    def end(self):
        for w in self.writers:
            w.stop = True
        self.go.set()
        for w in self.writers:
            w.join(60)
            w.client.close()


def time_text(ms):
    t = datetime.datetime.fromtimestamp(ms // 1000, datetime.timezone.utc)
    return t.strftime("%Y-%m-%dT%H:%M:%S") + ".%03dZ" % (ms % 1000)


def judge_moments(crowd, base):
    """Each moment, by TXID and by time, from the store and from the mount: the bytes that SQLite showed then, and the rows."""
    m, main = crowd.mount, crowd.site.databases[0]
    for i, moment in enumerate(crowd.moments):
        for j, (source, how) in enumerate([(m.source(main), ["--txid", moment.txids[main]]), (m.source(main), ["--at", time_text(moment.at)]),
                                           (os.path.join(m.dir, main), ["--at", time_text(moment.at)])]):
            out = os.path.join(base, "moment-%d-%d.db" % (i, j))
            r = json.loads(fazt("restore", source, "-i", m.key, *how, "-o", out, "--force", "--json").stdout)
            what = "%s %s (%s)" % (source, how, moment.name)
            need(r["txid"] == moment.txids[main], "%s took TXID %d, not %d", what, r["txid"], moment.txids[main])
            need(file_hash(out) == moment.hash, "%s is not the database as SQLite showed it then", what)
            rows = crowd.site.rows(out)
            need(rows == moment.rows, "%s differs from what the clients knew: %s", what, difference(rows, moment.rows))
            need(integrity(out) == "ok", "%s: integrity_check: %s", what, integrity(out))
            os.unlink(out)


def judge_history(crowd, base, extra=None):
    """Every TXID of the store, by the rules above. extra(path, k of each writer) looks at what else the application keeps."""
    m, main = crowd.mount, crowd.site.databases[0]
    index = {}  # writer -> rows -> k
    for w in crowd.writers:
        index[w.number] = {json.dumps(op.rows, sort_keys=True): k for k, op in enumerate(w.ops)}
        need(len(index[w.number]) == len(w.ops), "writer %d made the same rows twice", w.number)
    last, out, count = {w.number: 0 for w in crowd.writers}, os.path.join(base, "history.db"), 0
    for e in m.log(main):
        m.restore(main, out, "--txid", str(e["txid"]))
        mine, now = by_writer(crowd.site.rows(out)), {}
        for w in crowd.writers:
            text = json.dumps(mine.pop(w.number, {}), sort_keys=True)
            need(text in index[w.number], "TXID %d holds rows of writer %d that were never all there is", e["txid"], w.number)
            now[w.number] = index[w.number][text]
            need(now[w.number] >= last[w.number], "TXID %d takes writer %d back", e["txid"], w.number)
        need(not mine, "TXID %d: rows that nobody wrote", e["txid"])
        need(sum(now.values()) <= sum(last.values()) + 1, "TXID %d has more than one op: %s after %s", e["txid"], now, last)
        newest = max(w.ops[now[w.number]].sent for w in crowd.writers)
        for w in crowd.writers:
            after = w.ops[now[w.number] + 1:now[w.number] + 2]
            need(not after or after[0].acked is None or after[0].acked >= newest,
                 "TXID %d lacks an op of writer %d that was acknowledged before another in it was sent", e["txid"], w.number)
        if extra:
            extra(out, now)
        need(integrity(out) == "ok", "TXID %d: integrity_check: %s", e["txid"], integrity(out))
        last, count = now, count + 1
    for w in crowd.writers:
        need(last[w.number] == len(w.ops) - 1, "the newest TXID shows %d of %d ops of writer %d", last[w.number], len(w.ops) - 1, w.number)
    return count


def sql(path, text, *args):
    """Read-only: it never deletes a WAL when it closes. An application that once opened and closed its database beside SQLite (PocketBase's
    own backup) has lost its POSIX locks, and any program that may write would take itself for the last one, natively too."""
    con = sqlite3.connect("file:%s?mode=ro" % path, uri=True)
    try:
        return con.execute(text, args).fetchall()
    finally:
        con.close()


def workers_die(mount, times):
    """SIGKILL to that many workers, each as soon as it serves."""
    def run():
        last = None
        for _ in range(times):
            def next_one():
                pid = mount.status()["worker_pid"]
                return pid != last and alive(pid)
            wait_for("the next worker", next_one)
            last = mount.kill_worker()
    return run


def story(base, mount, make, writers=3, edits=True, extra=None, own_reader=None, at_rest=None):
    """The scenario. make(): creates the application in the mount and returns its Site, which runs; own_reader(crowd, moment): the
    application itself reads what was restored of a moment, and returns the rows; at_rest(crowd): what else it can, while nobody writes."""
    mount.start()
    site = make()
    crowd = None
    try:
        crowd = Crowd(mount, site, writers, edits)
        crowd.work(40)
        crowd.moment("written to")
        crowd.work(40, workers_die(mount, 4))
        need(mount.status()["restarts"] >= 4, "workers were not replaced: %s", mount.status()["restarts"])
        crowd.moment("workers killed")
        for _ in range(3):
            crowd.until_cut(12, site.kill)
            site.start()
            crowd.settle()
        crowd.moment("application killed")
        for _ in range(2):
            crowd.until_cut(12, mount.kill_all)
            site.kill()
            if is_mounted(mount.dir):
                fazt("umount", mount.dir)
            mount.start()
            site.start()
            crowd.settle()
        crowd.moment("all of fazt killed")
        crowd.work(20)
        if at_rest:
            crowd.settle()
            at_rest(crowd)
        crowd.moment("going on")
        mount.sync()
        print("%d acknowledged ops of %d clients" % (crowd.count(), writers), flush=True)
        judge_moments(crowd, base)
        n = judge_history(crowd, base, extra)
        print("%d TXIDs restored, each one moment of the clients" % n, flush=True)
        for d in site.databases:
            fazt("verify", "--full", mount.source(d), "-i", mount.key)
        if own_reader:
            for moment in crowd.moments[1:4]:
                rows = own_reader(crowd, moment)
                need(rows == moment.rows, "the application reads of '%s': %s", moment.name, difference(rows, moment.rows))
        in_place(crowd, base)
        live = fazt_json("verify", "--live", "--json", mount.dir)
        need(live["differences"] == 0, "verify --live found differences: %s", live)
        need(mount.status()["healthy"], "status: %s", mount.status()["problems"])
        site.end()
        crowd_rows = crowd.known()
        mount.umount(wait=True)
        site.start()  # without fazt, where it always was
        need(crowd.writers[0].client.read() == crowd_rows, "without the mount the application shows something else")
    finally:
        if crowd:
            crowd.end()
        site.kill()


def in_place(crowd, base):
    """Back in place under the running application, on from there, and the undoing of it."""
    m, site, main = crowd.mount, crowd.site, crowd.site.databases[0]
    newest, path = crowd.moments[-1], os.path.join(m.dir, crowd.site.databases[0])
    for moment in (crowd.moments[1], crowd.moments[3]):
        fazt("restore", "--in-place", path, "--txid", moment.txids[main])
        crowd.back_at(moment)
        crowd.settle()
        ok = sql(path, "PRAGMA integrity_check")[0][0]
        need(ok == "ok", "in place: integrity_check: %s", ok)
        crowd.work(15)
        crowd.settle()
    fazt("restore", "--in-place", path, "--txid", newest.txids[main])
    crowd.back_at(newest)
    crowd.settle()
    m.sync()
    out = os.path.join(base, "latest.db")
    m.restore(main, out)
    need(site.rows(out) == crowd.known(), "the newest commit of the store: %s", difference(site.rows(out), crowd.known()))
    os.unlink(out)
