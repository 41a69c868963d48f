#!/usr/bin/python3
# timeout: 300
# beside
"""A replica that follows a store: every commit arrives as it was made, through restarts, a store that is away, retention, keys that fit
and keys that do not; and link and store take turns without a gap while writes go on."""
import json
import os
import shutil
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from cluster import Counted, Host, Reader, refused  # noqa: E402
from faztlib import Failure, fazt, fazt_json, integrity, main, need, serialize_hash, wait_for  # noqa: E402
from gateway import ENV, Gateway  # noqa: E402

def conf_file(base, name, text):
    path = os.path.join(base, name)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o600)
    return path


class Store:
    """A primary that ships to a store (and may be followed through a link), and hosts that follow it."""

    def __init__(self, base, url, conf="", env=None):
        self.base, self.url, self.env = base, url, env
        target = "[target t]\nurl = %s\nship_interval = 200ms\n%s" % (url, conf)
        self.p = Host(base, "one", "--config", conf_file(base, "one.conf", target))
        self.p.flags += ["--state", os.path.join(self.p.home, "state")]
        self.p.own_flags = list(self.p.flags)

    def replica(self, name, key=True, link=False, interval="200ms", conf=""):
        r = Host(self.base, name, "--config",
                 conf_file(self.base, name + ".conf", conf + "[link]\nfollow_interval = %s\n" % interval))
        r.own_flags += ["--state", os.path.join(r.home, "state"), "--follow", self.url]
        if key:
            r.own_flags += ["-i", self.p.key if key is True else key]
        r.flags = [*r.own_flags, "--role", "replica"]
        return r.replica_of(self.p) if link else r


def log_bytes(host, name):
    """All LTX files of a database's log, oldest first."""
    root, out = os.path.join(host.home, "state", "db"), b""
    for d in os.listdir(root):
        if d.startswith(name.replace("/", "%2F") + "."):
            for s in sorted(f for f in os.listdir(os.path.join(root, d)) if f.endswith(".seg")):
                with open(os.path.join(root, d, s), "rb") as f:
                    out += f.read()
    return out


def same_log(p, r, name):
    """Each transaction has arrived byte for byte, none is missing."""
    a, b = log_bytes(p, name), log_bytes(r, name)
    need(len(a) > 0 and a == b, "%s: %d bytes of transactions were made, %d arrived, they differ", name, len(a), len(b))
    commits = fazt_json("log", "--json", "%s/%s" % (r.dir, name))
    txids = [(c["min_txid"] if "min_txid" in c else c["txid"], c["txid"]) for c in commits]
    need(all(n[0] == m[1] + 1 for m, n in zip(txids, txids[1:])), "%s: TXIDs with gaps", name)


def following(r):
    return r.status().get("following", {})


def arrived(p, r, *names, seconds=60):
    fazt("sync", p.dir)
    for name in names:
        want = p.database(name)["txid"]
        try:
            wait_for("position", lambda: r.position(name)[0] >= want, seconds)
        except Failure:
            raise Failure("%s is at %s, not at %d of %s: %s\n%s" % (r.name, r.position(name), want, name, following(r),
                                                                    r.tail(5)))
        a, b = os.path.join(p.dir, name), os.path.join(r.dir, name)
        need(serialize_hash(a) == serialize_hash(b), "%s differs on %s", name, r.name)


def plain(base, url, env=None):
    """Everything from the first commit on, read while it is written; deaths and restarts in the middle."""
    s = Store(base, url, env=env)
    p, r = s.p, s.replica("two")
    with p, r:
        p.start(env)
        os.mkdir(os.path.join(p.dir, "sub"))
        a, b = Counted(os.path.join(p.dir, "a.db")), Counted(os.path.join(p.dir, "sub/b.db"), "DELETE", 1024)
        for _ in range(50):
            a.commit()
            b.commit()
        r.start(env)
        arrived(p, r, "a.db", "sub/b.db")
        f = following(r)
        need(f["source"] == "store" and f["connected"] and not f.get("last_error"), "status: %s", f)
        need({d["name"] for d in f["databases"]} == {"a.db", "sub/b.db"}, "databases: %s", f["databases"])
        refused(os.path.join(r.dir, "a.db"), "INSERT INTO t(k) VALUES (1)")
        reader = Reader(os.path.join(base, "work"), os.path.join(r.dir, "a.db"))
        for what in ("worker", "agent", None):
            for _ in range(100):
                a.commit(2000)
                b.commit()
            if what == "worker":
                r.kill_worker()
            elif what:
                os.kill(r.agent_pid(), signal.SIGKILL)
        reader.sees(a.n)
        arrived(p, r, "a.db", "sub/b.db")
        reader.end()
        r.umount()
        for _ in range(100):
            a.commit()
        c = Counted(os.path.join(p.dir, "c.db"))  # appears while nobody looks
        c.commit()
        r.start(env)
        arrived(p, r, "a.db", "sub/b.db", "c.db")
        big = a.con.execute("INSERT INTO t(k, v) VALUES (0, randomblob(20000000))")  # larger than what fits into memory
        need(big.rowcount == 1, "no large transaction")
        a.con.execute("UPDATE meta SET rows = rows + 1")
        arrived(p, r, "a.db")
        for x in ("a.db", "sub/b.db", "c.db"):
            same_log(p, r, x)
        for x in (a, b, c):
            x.close()
        r.umount()
        need(integrity(os.path.join(r.dir, "a.db")) == "ok", "what a replica leaves behind")
        p.umount()


def away(base):
    """The store cannot be reached for a while: told, a problem, and nothing is lost."""
    g = Gateway(base, name="away").start()
    s = Store(base, g.url(), env=ENV)
    p, r = s.p, s.replica("two")
    with p, r:
        p.start(ENV)
        a = Counted(os.path.join(p.dir, "a.db"))
        a.commit()
        r.start(ENV)
        arrived(p, r, "a.db")
        before = len(g.requests("GET"))
        looks = following(r)["looks"]
        wait_for("some looks", lambda: following(r)["looks"] >= looks + 10)
        cost, looks = len(g.requests("GET")) - before, following(r)["looks"] - looks
        need(cost <= 2 * looks + 4, "%d requests for %d looks at one database", cost, looks)
        g.kill()
        for _ in range(50):
            a.commit()
        wait_for("the trouble to be told", lambda: following(r).get("last_error"), 90)
        need(not following(r)["connected"], "connected to a store that is away")
        need(fazt("status", r.dir, check=False).returncode == 1, "a replica without its store calls itself well")
        g.start()
        arrived(p, r, "a.db", seconds=90)
        same_log(p, r, "a.db")
        need(fazt("status", r.dir, check=False).returncode == 0, "not well again: %s", r.status()["problems"])
        a.close()
        r.umount()
        p.umount()
    g.kill()


def keys(base):
    """What is encrypted is not taken without the right key, and is once it is there."""
    s = Store(base, "dir:" + os.path.join(base, "store"))
    other = os.path.join(base, "other.key")
    fazt("keygen", "-o", other)
    p, none, wrong = s.p, s.replica("none", key=False), s.replica("wrong", key=other)
    with p, none, wrong:
        p.start()
        a = Counted(os.path.join(p.dir, "a.db"))
        for _ in range(20):
            a.commit()
        p.sync()
        for r in (none, wrong):
            r.start()
            wait_for("%s to say that it has no key" % r.name,
                     lambda: any("identit" in (d.get("last_error") or "") for d in following(r).get("databases", [])))
            need(not os.path.exists(os.path.join(r.dir, "a.db")), "%s shows a database", r.name)
            need(not log_bytes(r, "a.db"), "%s has transactions", r.name)
            need(fazt("status", r.dir, check=False).returncode == 1, "%s calls itself well", r.name)
            r.umount()
        os.chmod(other, 0o644)
        need(fazt("mount", "--role", "replica", "--follow", s.url, "-i", other, wrong.dir, check=False).returncode == 2,
             "a key that all can read was taken")
        wrong.flags = [p.key if f == other else f for f in wrong.flags]
        wrong.start()
        arrived(p, wrong, "a.db")
        same_log(p, wrong, "a.db")
        a.close()
        wrong.umount()
        p.umount()


TIERS = """minute = 300ms
hour = 900ms
day = 2s
snapshot_interval = 1s
keep_commits = 1s
keep_minutes = 1s
keep_hours = 1s
keep_days = 1s
delete_grace = 100ms
"""


def retention(base):
    """What the replica would need next has been deleted meanwhile: a snapshot takes its place, and readers go on."""
    store = os.path.join(base, "store")
    s = Store(base, "dir:" + store, TIERS)
    p, r = s.p, s.replica("two")
    with p, r:
        p.start()
        a = Counted(os.path.join(p.dir, "a.db"))
        for _ in range(20):
            a.commit()
        r.start()
        arrived(p, r, "a.db")
        r.umount()
        first = p.database("a.db")["txid"] + 1

        def lost():
            a.commit(3000)
            names = [f for d, _, fs in os.walk(store) for f in fs if f.count("-") == 4]
            spans = [(int(f[:16], 16), int(f[17:33], 16)) for f in names]
            return spans and not any(x == first or (x > 1 and x <= first <= y) for x, y in spans)
        wait_for("retention to delete what comes next", lost, 60)
        r.start()
        reader = Reader(os.path.join(base, "work"), os.path.join(r.dir, "a.db"))
        for _ in range(200):
            a.commit()
        arrived(p, r, "a.db")
        reader.sees(a.n)
        reader.end()
        a.close()
        need(integrity(os.path.join(r.dir, "a.db")) == "ok", "integrity after a snapshot")
        r.umount()
        p.umount()


def turns(base):
    """Link and store, in turn, while an application commits without end."""
    s = Store(base, "dir:" + os.path.join(base, "store"))
    p, r = s.p, s.replica("two", link=True)
    p.primary(r)
    quiet = list(p.own_flags)  # ships, but does not listen
    with p, r:
        p.start()
        a = Counted(os.path.join(p.dir, "a.db"))
        a.commit()
        r.start()
        arrived(p, r, "a.db")
        need(following(r)["source"] == "link", "the link comes first: %s", following(r))
        reader = Reader(os.path.join(base, "work"), os.path.join(r.dir, "a.db"))
        for turn in range(4):
            source = "store" if turn % 2 == 0 else "link"
            a.close()
            p.umount()
            p.flags = quiet if source == "store" else p.primary(r).flags
            p.start()
            a = Counted(a.path)

            def there():
                a.commit()
                f = following(r)
                return f["source"] == source and f["connected"]
            wait_for("the %s to be followed" % source, there, 60)
            for _ in range(100):
                a.commit()
            arrived(p, r, "a.db")
            need(following(r)["source"] == source, "%s, not %s", following(r)["source"], source)
            need(fazt("status", r.dir, check=False).returncode == 0, "%s", r.status()["problems"])
            if source == "store":
                need(any("cannot be reached" in n for n in r.status()["notes"]), "no word of the primary")
        reader.sees(a.n)
        reader.end()
        same_log(p, r, "a.db")
        a.close()
        r.umount()
        p.umount()


def first(base):
    """A new replica with both gets its first copy from the store, and the rest by the link."""
    s = Store(base, "dir:" + os.path.join(base, "store"))
    p, r = s.p, s.replica("two", link=True)
    p.primary(r)
    path = os.path.join(p.dir, "a.db")
    os.makedirs(p.dir, exist_ok=True)
    a = Counted(path)
    a.commit()
    a.con.execute("CREATE TABLE big AS SELECT randomblob(20000000) AS x")
    a.close()
    with p, r:
        p.start()
        a = Counted(path)
        a.commit()
        p.sync()
        r.start()
        arrived(p, r, "a.db")
        f = following(r)
        need(f["source"] == "link" and f["bytes_in"] < 4000000, "%d bytes came by the link", f["bytes_in"])
        for _ in range(50):
            a.commit()
        arrived(p, r, "a.db")
        a.close()
        r.umount()
        p.umount()


def deleted(base):
    """A deletion is told through the store, also one that nobody could be told of for a while; the backup knows it and can be restored."""
    g = Gateway(base, name="deleted").start()
    s = Store(base, g.url(), env=ENV)
    p, r = s.p, s.replica("two")
    with p, r:
        p.start(ENV)
        dbs = [Counted(os.path.join(p.dir, n)) for n in ("a.db", "b.db", "c.db")]
        for x in dbs:
            for _ in range(5):
                x.commit()
        r.start(ENV)
        arrived(p, r, "a.db", "b.db", "c.db")
        reader = Reader(os.path.join(base, "work"), os.path.join(r.dir, "a.db"))
        reader.sees(dbs[0].n)
        dbs[0].commit()
        hashes = [serialize_hash(x.path) for x in dbs]
        for x in dbs:
            x.close()
        os.unlink(dbs[0].path)
        wait_for("a.db to go away", lambda: not os.path.exists(os.path.join(r.dir, "a.db")))
        reader.sees(dbs[0].n - 1)  # who has it open keeps it
        reader.end()
        need(sorted(d["name"] for d in following(r)["databases"]) == ["b.db", "c.db"], "%s", following(r))
        g.kill()
        os.rename(dbs[1].path, os.path.join(p.dir, "renamed.db"))
        os.unlink(dbs[2].path)
        p.kill_worker()
        p.umount()
        g.start()
        need(os.path.exists(os.path.join(r.dir, "c.db")), "deleted without a word")
        p.start(ENV)
        wait_for("the others to go away", lambda: [n for n in os.listdir(r.dir) if n.endswith(".db")] == ["renamed.db"], 90)
        arrived(p, r, "renamed.db")
        env = {**os.environ, **ENV}
        for name, want in zip(("a.db", "b.db", "c.db"), hashes):
            source, out = g.url("prefix/" + name), os.path.join(base, "restored-" + name)
            text = fazt("log", "-i", p.key, source, env=env).stdout.splitlines()
            need(text[-1].startswith("deleted "), "fazt log %s ends with %s", name, text[-1])
            need("deleted" in json.loads(fazt("log", "--json", source, env=env).stdout)[-1], "JSON")
            fazt("restore", "-i", p.key, source, "-o", out, env=env)
            need(serialize_hash(out) == want, "%s was restored as something else", name)
        r.umount()
        p.umount()
    g.kill()


def excluded(base):
    """What the replica's configuration leaves out is not followed, by link or store; all else is."""
    s = Store(base, "dir:" + os.path.join(base, "store"))
    left_out = "[mount]\nexclude = cache/*.db\nexclude = b.db\n"
    p, r, x = s.p, s.replica("two", conf=left_out), s.replica("three", link=True, conf=left_out)
    p.primary(x)
    with p, r, x:
        p.start()
        os.mkdir(os.path.join(p.dir, "cache"))
        for n in ("b.db", "cache/x.db", "a.db"):
            c = Counted(os.path.join(p.dir, n))
            c.commit()
            c.close()
        p.sync()
        for h in (r, x):
            h.start()
            arrived(p, h, "a.db")
            wait_for("%s to have looked at all" % h.name, lambda: following(h).get("looks", 99) > 20)
            need([d["name"] for d in following(h)["databases"]] == ["a.db"], "%s follows %s", h.name, following(h))
            need(not os.path.exists(os.path.join(h.dir, "b.db")) and not os.path.exists(os.path.join(h.dir, "cache")),
                 "%s shows what is left out", h.name)
            need(fazt("status", h.dir, check=False).returncode == 0, "%s", h.status()["problems"])
            h.umount()
        p.umount()


def another(base):
    """Another host takes over at the store: its epoch is followed, and what is here beyond it becomes a branch; then a new life."""
    s = Store(base, "dir:" + os.path.join(base, "store"))
    p, r = s.p, s.replica("two")
    with p, r:
        p.start()
        a = Counted(os.path.join(p.dir, "a.db"))
        for _ in range(30):
            a.commit()
        r.start()
        arrived(p, r, "a.db")
        r.umount()
        a.close()
        p.umount()
        r.flags += ["--target", s.url, "--recipient", p.recipient]
        r.start()  # the same replica, able to ship once it is promoted
        wait_for("the replica", lambda: r.position("a.db")[0] > 0)
        three = s.replica("three")
        with three:
            three.start()
            fazt("promote", r.dir)
            wait_for("the new primary", lambda: r.status()["role"] == "primary")
            b = Counted(os.path.join(r.dir, "a.db"))
            for _ in range(30):
                b.commit()
            arrived(r, three, "a.db")
            need(following(three)["databases"][0]["epoch"] >= 1, "the epoch: %s", following(three))
            b.close()
            life = following(three)["databases"][0]["lineage"]
            os.unlink(b.path)
            c = Counted(b.path, "DELETE")  # another life of that name
            for _ in range(3):
                c.commit()
            wait_for("the new life", lambda: [d for d in following(three)["databases"] if d["lineage"] != life], 60)
            arrived(r, three, "a.db")
            c.close()
            three.umount()
        r.umount()
        r.start()
        need(r.status()["role"] == "primary", "the same flags made it a replica again")
        r.umount()
        os.mkdir(os.path.join(base, "elsewhere"))
        r.flags[r.flags.index("--follow") + 1] = "dir:" + os.path.join(base, "elsewhere")
        r.start()
        need(r.status()["role"] == "replica", "another store to follow was not noticed")
        r.umount()


def run(base):
    def part(what, *args, **kw):
        d = os.path.join(base, what.__name__.strip("<>") + str(len(os.listdir(base))))
        os.makedirs(d)
        what(d, *args, **kw)
        shutil.rmtree(d)
    part(lambda x: plain(x, "dir:" + os.path.join(x, "store")))
    with Gateway(base) as g:
        part(lambda x: plain(x, g.url(), ENV))
    for what in (away, keys, retention, turns, first, deleted, excluded, another):
        part(what)


main("follow-store", run)
