#!/usr/bin/python3
# timeout: 120
"""The application's user owns DIR and root runs fazt on it. What he plants there (links to places of root, a link where the copy
of an import is being written, a state directory, a key) must not have root write, or give away, what he could not write himself."""
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, Mount, fazt, fazt_json, main, need, wait_for  # noqa: E402

USER = 1111
SWAP = r"""
import os, sys, time
name, target = sys.argv[1:]
print("ready", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    for found in os.listdir("."):
        if found.startswith(name + ".fazt-"):
            os.rename(found, "taken")
            os.symlink(target, found)
            sys.exit(0)
sys.exit(1)
"""
TURN = r"""
import fcntl, os, sys
with open("held/app.db", "r+b") as f:
    fcntl.lockf(f, fcntl.LOCK_EX, 1, 0x40000001)  # SQLite's RESERVED
    print("held", flush=True)
    sys.stdin.readline()
    os.rename("held", "moved")
    os.symlink(sys.argv[1], "held")
"""
BENEATH = r"""
import os, sys
what, secret, under = sys.argv[1], sys.argv[2], int(sys.argv[3])
sub, top = os.open("sub", os.O_RDONLY), os.open(".", os.O_RDONLY)
os.rename("sub", "moved", src_dir_fd=under, dst_dir_fd=under)
os.symlink(secret, "sub", dir_fd=under)
try:
    if what == "mkdir":
        os.mkdir("made", dir_fd=sub)
    elif what == "symlink":
        os.symlink("x", "made", dir_fd=sub)
    elif what == "link":
        os.link("mine", "made", src_dir_fd=top, dst_dir_fd=sub)
    elif what == "rename":
        os.rename("app.db", "made", src_dir_fd=sub, dst_dir_fd=sub)
    elif what == "move":
        os.rename("app.db", "made", src_dir_fd=sub, dst_dir_fd=top)
    elif what == "unlink":
        os.unlink("app.db", dir_fd=sub)
    elif what == "rmdir":
        os.rmdir("d", dir_fd=sub)
    else:
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=sub))
    print("done")
except OSError as e:
    print("refused")
finally:
    os.unlink("sub", dir_fd=under)
    os.rename("moved", "sub", src_dir_fd=under, dst_dir_fd=under)
"""
HOT = r"""
import os, sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None)
con.execute("PRAGMA cache_size=5")
con.execute("BEGIN")
con.executemany("INSERT INTO t VALUES(?)", [(os.urandom(3000),) for _ in range(100)])
os.kill(os.getpid(), 9)
"""


def database(path, rows=5, journal="DELETE", size=100):
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=%s" % journal)
    con.execute("CREATE TABLE t(x)")
    con.execute("BEGIN")
    con.executemany("INSERT INTO t VALUES(?)", [(os.urandom(size),) for _ in range(rows)])
    con.execute("COMMIT")
    con.close()
    return path


def query(path, sql):
    con = sqlite3.connect(path)
    value = con.execute(sql).fetchone()[0]
    con.close()
    return value


def bytes_of(path):
    with open(path, "rb") as f:
        return f.read()


@contextlib.contextmanager
def unharmed(*paths):
    """Files and directories of root are afterwards what they were before."""
    def look(path):
        st = os.lstat(path)
        return (st.st_uid, st.st_mode, sorted(os.listdir(path)) if os.path.isdir(path) else bytes_of(path))
    before = {p: look(p) for p in paths}
    yield
    for p in paths:
        need(look(p) == before[p], "%s has changed: %s instead of %s", p, look(p)[:2], before[p][:2])


def as_user(directory, *args):
    subprocess.run(args, cwd=directory, user=USER, group=USER, extra_groups=[], check=True, timeout=60)


def refused(what, code, *args, **kw):
    r = fazt(*args, check=False, **kw)
    need(r.returncode in (1, 2) and code in r.stderr, "%s: exit %d instead of %s: %s%s", what, r.returncode, code, r.stdout, r.stderr)
    return r.stderr


def swapped_copy(base, m, victim):
    """The copy is being written: its name leads to a database of root's now."""
    source = database(os.path.join(base, "source.db"), rows=3000, journal="WAL", size=4000)
    with unharmed(victim), subprocess.Popen([sys.executable, "-c", SWAP, "new.db", victim], cwd=m.dir, user=USER, group=USER, extra_groups=[],
                                            stdout=subprocess.PIPE, text=True) as thief:
        need(thief.stdout.readline() == "ready\n", "the thief does not start")
        refused("an import whose copy was swapped", "FZ-1207", "import", source, os.path.join(m.dir, "new.db"))
        need(thief.wait(60) == 0, "nothing was swapped")
    need(not os.path.lexists(os.path.join(m.dir, "new.db")), "it has got the name")
    need([f for f in os.listdir(m.dir) if "fazt-" in f] == [], "left behind: %s", os.listdir(m.dir))
    os.unlink(os.path.join(m.dir, "taken"))
    fazt("import", source, os.path.join(m.dir, "new.db"))
    os.unlink(os.path.join(m.dir, "new.db"))


def places(base, m, victim):
    """Links below DIR: to a directory of root's, to a file in it, to another mount. A link to DIR itself, and real directories, go on working."""
    secret, d = os.path.dirname(victim), m.dir
    app, source = database(os.path.join(d, "app.db")), database(os.path.join(base, "import.db"), rows=9)
    sql = os.path.join(base, "sql")
    os.mkdir(sql)
    with open(os.path.join(sql, "0001-a.sql"), "w") as f:
        f.write("CREATE TABLE a(x);")
    m.sync()
    with Mount(base, name="other", store="store2") as other:
        other.start()
        as_user(d, "ln", "-s", secret, "staging")
        as_user(d, "ln", "-s", victim, "link.db")
        as_user(d, "ln", "-s", os.path.join(secret, "nothing.db"), "dangling.db")
        as_user(d, "ln", "-s", other.dir, "elsewhere")
        as_user(d, "mkdir", "real")
        as_user(d, "mkdir", "list.db")
        with unharmed(victim, secret, other.dir):
            for there in ("staging", "elsewhere"):
                to = os.path.join(d, there, "new.db")
                refused("clone", "FZ-0001", "clone", app, to)
                refused("import", "FZ-0001", "import", source, to)
                refused("import --name", "FZ-0001", "import", "--name", there + "/new.db", source, d)
                refused("migrate", "FZ-0001", "migrate", to, sql)
                for command in (["restore", app, "-o", to], ["restore", m.source("app.db"), "-i", m.key, "-o", to], ["export", app, to]):
                    refused(command[0], "FZ-0001", *command)
                for command in (["restore", "app.db", "-o"], ["export", "app.db"], ["import", source], ["clone", "app.db"]):
                    refused("%s from within" % command[0], "FZ-0001", *command, there + "/new.db", cwd=d)
            to = os.path.join(d, "staging", "victim.db")
            refused("export --force", "FZ-0001", "export", app, to, "--force")
            refused("restore --in-place", "FZ-0001", "restore", app, "--in-place", "-o", to)
            for name in ("link.db", "dangling.db", "list.db"):
                to = os.path.join(d, name)
                said = refused("import --force", "FZ-0001", "import", "--force", source, to)
                need(to in said and "name the database itself" in said, "what to do: %s", said)
                for command in (["clone", app, to], ["migrate", to, sql], ["migrate", "--dry-run", to, sql], ["migrate", "--status", to],
                                ["migrate", "--undo", to], ["restore", app, "--in-place", "-o", to], ["export", app, to, "--force"]):
                    refused(command[0], "FZ-0001", *command)
    # what leads nowhere else
    for name in ("staging", "link.db", "dangling.db", "elsewhere"):
        os.unlink(os.path.join(d, name))
    way = os.path.join(base, "way")
    os.symlink(d, way)
    for k, top in enumerate((d, way)):
        to = os.path.join(top, "real", "clone-%d.db" % k)
        fazt("clone", app, to)
        fazt("migrate", to, sql)
        fazt("migrate", "--undo", to)
        fazt("import", "--force", source, to)
        fazt("import", source, os.path.join(top, "real", "import-%d.db" % k))
        to = os.path.join(top, "real", "new-%d.db" % k)
        fazt("restore", m.source("app.db"), "-i", m.key, "-o", to)
        need(os.stat(to).st_uid == USER, "the owner of %s: %d", to, os.stat(to).st_uid)
        fazt("restore", app, "--in-place", "-o", to)
        fazt("export", app, to, "--force")
        fazt("migrate", os.path.join(top, "real", "made-%d.db" % k), sql)
    fazt("export", app, os.path.join(way, "..", "out.db"))


def waits(pid):
    """In nanosleep(), for a lock of the database: what it does with the place has begun."""
    with open("/proc/%d/wchan" % pid) as f:
        return "nanosleep" in f.read()


def turned(base, m, secret):
    """The database is locked, so a command that has looked at the place waits; meanwhile a link to a directory of root's, with a database of that name,
    takes the place of the directory. The command goes on where it was, or not at all."""
    d, source, sql = m.dir, database(os.path.join(base, "turned.db"), rows=300), os.path.join(base, "turned-sql")
    held, moved = os.path.join(d, "held"), os.path.join(d, "moved")
    app, there = os.path.join(held, "app.db"), os.path.join(moved, "app.db")
    os.mkdir(sql)
    with open(os.path.join(sql, "0001-a.sql"), "w") as f:
        f.write("CREATE TABLE a(x);")

    def one(what, sqlite, code=0):
        as_user(d, "mkdir", "held")
        database(app)
        os.chown(app, USER, USER)
        m.sync()
        if what[:2] == ["migrate", "--undo"]:
            fazt("migrate", app, sql)
        with unharmed(secret, os.path.join(secret, "app.db")), \
                subprocess.Popen([sys.executable, "-c", TURN, secret], cwd=d, user=USER, group=USER, extra_groups=[], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True) as holder:
            need(holder.stdout.readline() == "held\n", "no lock")
            with subprocess.Popen([FAZT, *what], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True) as p:
                wait_for("%s to wait for the lock" % what, lambda: waits(p.pid) or p.poll() is not None)
                need(p.poll() is None, "%s did not wait: %s", what, p.returncode)
                os.kill(p.pid, signal.SIGSTOP)
                holder.communicate("go\n", timeout=60)
                need(holder.returncode == 0, "nothing was swapped")
                os.kill(p.pid, signal.SIGCONT)
                said = p.communicate(timeout=120)[0]
            need(p.returncode == code, "%s: exit %d: %s", what, p.returncode, said)
        need(os.path.islink(held), "nothing was swapped")
        need(query(there, sqlite[0]) == sqlite[1] and sorted(os.listdir(moved)) == ["app.db"], "%s: %s, %s", what, query(there, sqlite[0]), os.listdir(moved))
        os.unlink(held)
        shutil.rmtree(moved)
        return said

    rows = "SELECT count(*) FROM t"
    one(["import", "--force", source, app], (rows, 300))
    one(["restore", app, "--in-place"], (rows, 5))
    one(["migrate", app, sql], ("SELECT count(*) FROM a", 0))
    one(["migrate", "--undo", app], ("SELECT count(*) FROM a", 0), 1)  # another database has that name: nothing is undone


def dropped(m, secret):
    """Root is asked for the name once more; meanwhile a link takes the place of the database's directory. What is deleted is what was there."""
    as_user(m.dir, "mkdir", "gone")
    to = database(os.path.join(m.dir, "gone", "app.db"))
    m.sync()
    master, terminal = os.openpty()
    with unharmed(secret, os.path.join(secret, "app.db")), \
            subprocess.Popen([FAZT, "drop", "--force", to], stdin=terminal, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
        said = b""
        while b"Type the name" not in said:
            more = os.read(p.stderr.fileno(), 4096)
            need(more, "it does not ask: %s", said)
            said += more
        as_user(m.dir, "mv", "gone", "was")
        as_user(m.dir, "ln", "-s", secret, "gone")
        os.write(master, b"gone/app.db\n")
        said += p.communicate(timeout=60)[1]
    os.close(master)
    os.close(terminal)
    need(os.listdir(os.path.join(m.dir, "was")) == [], "it is still there: %s", said)
    refused("drop of what a link leads to", "FZ-0001", "drop", "--force", "--yes", to)


def beneath(base, secret):
    """A process of his was in DIR before the mount, and turns names there that the worker serves by path. What he then asks of the mount does not
    become root's work elsewhere."""
    m = Mount(base, name="under", store="store4")
    os.chown(m.dir, USER, USER)
    for name in ("sub", "sub/d"):
        as_user(m.dir, "mkdir", name)
    for name in ("mine", "sub/app.db"):
        as_user(m.dir, "touch", name)
    before = os.open(m.dir, os.O_RDONLY)
    ours, theirs = socket.socketpair()  # where nobody looks for open directories
    socket.send_fds(ours, [b"x"], [before])
    os.close(before)
    with m:
        m.start()
        before = socket.recv_fds(theirs, 1, 1)[1][0]
        for what in ("mkdir", "symlink", "link", "rename", "move", "unlink", "rmdir", "create"):
            said = subprocess.run([sys.executable, "-c", BENEATH, what, secret, str(before)], cwd=m.dir, user=USER, group=USER, extra_groups=[],
                                  pass_fds=[before], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
            need(said == "refused\n", "%s: %s", what, said)
        os.close(before)
        m.umount(wait=True)


def started(base, secret):
    """While nothing is mounted a link takes the place of a database's directory; the one that it leads to has a hot journal. A start plays nothing back there,
    and captures nothing of it."""
    m = Mount(base, name="again", store="store3")
    os.chown(m.dir, USER, USER)
    victim = os.path.join(secret, "app.db")
    with m:
        m.start()
        as_user(m.dir, "mkdir", "sub")
        for name in ("sub/app.db", "file.db"):
            database(os.path.join(m.dir, name))
        m.sync()
        m.umount(wait=True)
        as_user(m.dir, "mv", "sub", "away")
        as_user(m.dir, "ln", "-s", secret, "sub")
        as_user(m.dir, "ln", "-sf", victim, "file.db")
        subprocess.run([sys.executable, "-c", HOT, victim], check=False, timeout=60)
        need(os.path.getsize(victim + "-journal") > 512, "no hot journal")
        with unharmed(secret, victim, victim + "-journal"):
            m.start()
            m.sync()
            names = [d["name"] for d in fazt_json("status", "--json", m.dir)["databases"]]
            need(names == ["away/app.db"], "databases: %s", names)
            m.umount(wait=True)
    os.unlink(victim + "-journal")


def state(base):
    """DIR/.fazt is a link, or his own directory: neither a mount nor init takes it, or follows it."""
    d, target = os.path.join(base, "linked"), os.path.join(base, "target")
    os.mkdir(d)
    os.chown(d, USER, USER)
    os.makedirs(target + "/open/kept", 0o755)
    as_user(d, "ln", "-s", target, ".fazt")
    with unharmed(target, target + "/open"):
        for args in (["mount", "--encrypt", "none", d], ["mount", "--encrypt", "none", "--state", base + "/elsewhere", d], ["mount", "--foreground", "--target", "dir:%s/s" % base, d],
                     ["init", d], ["log", d],
                     ["init", "--no-probe", "--config", base + "/linked.conf", "--target", "dir:%s/s" % base, d],
                     ["init", "--export", base + "/out.key", "--remove", d]):
            said = refused("a state directory that is a link", "FZ-0001", *args)
            need(os.path.join(d, ".fazt") + " is a symbolic link" in said and "--state" in said, "what to do: %s", said)
    os.unlink(os.path.join(d, ".fazt"))
    as_user(d, "mkdir", ".fazt")
    for args in (["mount", "--encrypt", "none", d], ["init", d], ["log", d]):
        need("belongs to user %d" % USER in refused("a state directory of his", "FZ-0001", *args), "whose it is")
    need(os.listdir(os.path.join(d, ".fazt")) == [] and not os.path.exists(base + "/linked.conf"), "something was written")
    os.rmdir(os.path.join(d, ".fazt"))
    # as it says; a link in a path that root gave is root's
    os.symlink(target, base + "/given")
    fazt("mount", "--encrypt", "none", "--state", base + "/given", d)
    fazt("umount", d)
    need("mount.conf" in os.listdir(target), "--state: %s", os.listdir(target))


def keys(base):
    """His public key lies in DIR/.fazt: nothing is encrypted for it."""
    d, conf = os.path.join(base, "keys"), os.path.join(base, "keys.conf")
    os.mkdir(d)
    os.chown(d, USER, USER)
    fazt("keygen", "-o", base + "/his.key")
    with open(base + "/his.key") as f:
        his = next(w for l in f for w in l.split() if w.startswith("age1"))
    init = ["init", "--no-probe", "--config", conf, "--target", "dir:%s/keys-store" % base, d]
    hidden = os.path.join(d, ".fazt")
    recipient = os.path.join(hidden, "recipient")
    as_user(d, "sh", "-c", "mkdir .fazt && echo %s >.fazt/recipient" % his)
    refused("init with a planted directory", "FZ-0001", *init)
    os.chown(hidden, 0, 0)  # root's, but what lies there was not made by root
    os.chmod(hidden, 0o755)
    for what, change in (("belongs to user %d" % USER, lambda: None), ("can be written by others", lambda: (os.chown(recipient, 0, 0), os.chmod(recipient, 0o666))),
                         ("is a symbolic link", lambda: (os.rename(recipient, base + "/moved"), os.symlink(base + "/moved", recipient)))):
        change()
        said = refused("init with a planted key", "FZ-1003", *init)
        need(recipient + " " + what in said and "Move it away" in said, "%s: %s", what, said)
        refused("mount with a planted key", "FZ-1003", "mount", "--target", "dir:%s/keys-store" % base, d)
    need(not os.path.exists(conf) and not os.path.exists(hidden + "/identity"), "something was written")
    os.unlink(recipient)
    fazt(*init)
    with open(conf) as f:
        need(his not in f.read(), "it encrypts for his key")
    os.unlink(conf)
    with open(recipient) as f:
        ours = f.read().strip()
    fazt(*init)  # root's own is taken
    with open(conf) as f:
        need(ours in f.read(), "the key of root is not taken")


def scenario(base):
    secret = os.path.join(base, "secret")  # of root alone
    os.mkdir(secret, 0o700)
    victim = database(os.path.join(secret, "victim.db"))
    os.chmod(victim, 0o600)
    m = Mount(base)
    os.chown(m.dir, USER, USER)
    with m:
        m.start()
        swapped_copy(base, m, victim)
        places(base, m, victim)
        database(os.path.join(secret, "app.db"), rows=7)
        turned(base, m, secret)
        dropped(m, secret)
        m.umount(wait=True)
    os.mkdir(os.path.join(secret, "d"))
    with unharmed(secret, victim, os.path.join(secret, "app.db")):
        beneath(base, secret)
    started(base, secret)
    state(base)
    keys(base)


main("planted", scenario)
