#!/usr/bin/python3
# timeout: 1800
# roots: deb12 deb13 deb12-build deb13-build
"""The package, in each Debian: built there, clean for lintian, the same bytes from another directory; installed by apt, which brings
what it needs; nothing starts; man pages, completions of the three shells, both configurations; the quick start with the installed
program; an upgrade beside a mount; no removal under a mount; removal and purge take what the package brought and leave every byte of
data, state and keys."""
import json
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Failure, main, need, wait_for  # noqa: E402
from nspawn import NSPAWN, REPO, Machine, root_of  # noqa: E402

DATA = ["/srv/app", "/srv/unit", "/var/lib/backup", "/var/lib/fazt", "/etc/fazt"]


def inside_build_root(release, out, src, *command, at="/src"):
    r = subprocess.run([*NSPAWN, "--pipe", "--volatile=overlay", "-D", root_of(release + "-build"), "--bind-ro=%s:%s" % (src, at),
                        "--bind=%s:%s.out" % (out, at), "--chdir=" + at, "--setenv=B=%s.out" % at, *command], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
    if r.returncode:
        raise Failure("%s for %s: exit %d\n%s" % (" ".join(command), release, r.returncode, r.stdout[-6000:]))
    return r.stdout


def build(release, base):
    """The package of that release; the objects are kept from run to run."""
    out = os.path.join(os.environ["B"], "system-deb-" + release)
    os.makedirs(out, exist_ok=True)
    name = re.findall(r"^/src.out/(fazt_.*\.deb)$", inside_build_root(release, out, REPO, "scripts/deb.sh"), re.M)[-1]
    said = inside_build_root(release, out, REPO, "lintian", "--allow-root", "--fail-on", "error,warning", "/src.out/" + name)
    print("   lintian:", said.strip() or "clean")
    return os.path.join(out, name)


def same_from_elsewhere(release, base, deb):
    """A copy of the tree at another path, all of it compiled anew, at another time."""
    src, out = os.path.join(base, "a-tree-elsewhere"), os.path.join(base, "out")
    os.mkdir(out)
    git = ["git", "-c", "safe.directory=*", "-C", REPO]
    for name in subprocess.run([*git, "ls-files", "-z"], check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout.split("\0")[:-1]:
        os.makedirs(os.path.dirname(os.path.join(src, name)), exist_ok=True)
        shutil.copy(os.path.join(REPO, name), os.path.join(src, name))
    epoch = subprocess.run([*git, "log", "-1", "--format=%ct"], check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout.strip()
    inside_build_root(release, out, src, "env", "SOURCE_DATE_EPOCH=" + epoch, "scripts/deb.sh", at="/somewhere-else")
    with open(deb, "rb") as a, open(os.path.join(out, os.path.basename(deb)), "rb") as b:
        need(a.read() == b.read(), "the package is another one when it is built elsewhere")


def apt(m, *args, check=True):
    return m.run("apt-get", "-y", "-q", "--no-install-recommends", *args, check=check, timeout=600)


def hashes(m):
    """Every file below DATA, with mode and content. Without fazt.conf, which is the package's."""
    return m.sh("for d in %s; do [ -e $d ] && find $d ! -path /etc/fazt/fazt.conf -exec stat -c '%%n %%a %%F' {} + ; done | sort; "
                "find %s -type f ! -path /etc/fazt/fazt.conf -exec sha256sum {} + | sort" % (" ".join(DATA), " ".join(DATA))).out


def installed(m, deb):
    # what it needs, apt must bring
    m.sh("apt-get update -q && apt-get purge -y -q 'libsodium23' 'libisal2' 'libinih1*' 'libcjson1' 'libfuse3-*' fuse3 libmicrohttpd12*", timeout=600)
    apt(m, "install", "man-db", "bash-completion", "zsh", "fish")
    m.put(deb, "/root/fazt.deb", 0o644)
    apt(m, "install", "/root/fazt.deb")
    need(m.run("fazt", "version").out.startswith("fazt "), "fazt does not run")
    need("not found" not in m.run("ldd", "/usr/bin/fazt").out, "a library is missing")
    need(not m.sh("dpkg --verify fazt").out, "files differ: %s", m.sh("dpkg --verify fazt").out)
    need("fuse.fazt" not in m.run("cat", "/proc/mounts").out and not m.sh("systemctl list-units --all --plain --no-legend 'fazt*'").out.strip(),
         "something runs after the installation")
    need(not m.sh("find /etc/systemd -name 'fazt*'").out, "something is enabled after the installation")
    need(m.run("getent", "passwd", "fazt").out.startswith("fazt:"), "there is no user for the workers")
    conf = m.read("/etc/fazt/fazt.conf").splitlines()
    need(all(not l or l[0] == "#" or l in ("[mount]", "[encrypt]", "[link]", "[monitor]", "[http]") for l in conf), "fazt.conf sets something")
    need(len(conf) > 60, "fazt.conf is empty")
    need(m.run("dpkg-query", "-W", "-f", "${Conffiles}", "fazt").out.split()[0] == "/etc/fazt/fazt.conf", "fazt.conf is no conffile")


def pages_and_completions(m):
    pages = m.sh("dpkg -L fazt | sed -n 's|^/usr/share/man/man./\\(.*\\)\\.\\(.\\)\\.gz$|\\2 \\1|p'").out.splitlines()
    need("1 fazt" in pages, "man pages: %s", pages)
    text = ""
    for page in pages:
        r = m.sh("MANWIDTH=100 man --warnings %s 2>/tmp/warnings | col -b; cat /tmp/warnings >&2" % page)
        need(len(r.out.splitlines()) > 20 and not r.err, "man %s: %d lines, %s", page, len(r.out.splitlines()), r.err)
        text += r.out
    for command in [l.split()[0] for l in m.run("fazt", "--help").out.split("commands:")[1].split("\n\n")[0].splitlines() if l.strip()]:
        need("fazt " + command in text, "no man page has fazt %s", command)
    # the packaged files are found by each shell, and are what the program prints
    need(m.run("bash", "-c", ". /usr/share/bash-completion/bash_completion; _completion_loader fazt 2>/dev/null || _comp_load fazt; complete -p fazt").out ==
         "complete -F _fazt fazt\n", "bash does not load the completion")
    need(m.run("zsh", "-f", "-c", "autoload -Uz compinit; compinit -u -D; print $_comps[fazt]").out == "_fazt\n", "zsh does not load it")
    need("mount\t" in m.run("fish", "-c", "complete -C 'fazt mou'").out, "fish does not load it")
    m.sh("mkdir -p /tmp/b && ln -sf /usr/bin/fazt /tmp/b/fazt && B=/tmp/b python3 /src/tests/e2e/completion.py", timeout=300)


def works(m):
    m.sh("FAZT=/usr/bin/fazt /src/scripts/quickstart.sh", timeout=300)
    # the installed configuration, in which nothing is set, is in nobody's way
    m.sh("mkdir -p /srv/first && fazt init --no-target /srv/first && mv /etc/fazt/fazt.conf.old /etc/fazt/fazt.conf")
    # the two lines that the README gives for a real directory, and a state directory of its own beside it
    m.sh("mkdir -p /srv/app /srv/other /var/lib/backup /var/lib/fazt && fazt init && chmod 600 /etc/fazt/identity")
    m.run("fazt", "mount", "--target", "dir:/var/lib/backup", "/srv/app")
    m.run("fazt", "mount", "--encrypt", "none", "--state", "/var/lib/fazt/other", "/srv/other")
    for d in ("app", "other"):
        m.sh("sqlite3 /srv/%s/a.db 'PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES (1)'" % d)
    m.run("fazt", "sync", "--wait", "--timeout", "30", "/srv/app")


WRITER = """
import sqlite3, sys, time
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
con.execute("PRAGMA journal_mode=WAL")
con.execute("CREATE TABLE IF NOT EXISTS w(n)")
n = 0
while True:
    con.execute("INSERT INTO w VALUES (?)", (n,))
    n += 1
    with open("/run/writer.%s" % sys.argv[2], "w") as f:
        f.write(str(n))
    time.sleep(0.005)
"""


def upgraded(m):
    """The package again, under two applications that write: one below a unit's mount, one below that of a command."""
    m.sh("mkdir -p /srv/unit /var/lib/backup-unit && echo FAZT_TARGETS=dir:/var/lib/backup-unit >/etc/fazt/srv-unit.env")
    m.run("systemctl", "enable", "--now", "fazt@srv-unit.service")
    m.write("/root/writer.py", WRITER)
    for name in ("unit", "other"):
        m.run("systemd-run", "--unit=writer-" + name, "python3", "/root/writer.py", "/srv/%s/w.db" % name, name)

    def pids(name):
        s = json.loads(m.run("fazt", "status", "--json", "/srv/" + name, check=False).out)
        return s["supervisor_pid"], s["worker_pid"]

    def count(name):
        return int("0" + m.sh("cat /run/writer." + name, check=False).out)
    for name in ("unit", "other"):
        wait_for("the writer of " + name, lambda: count(name) > 20)
    before = {name: pids(name) for name in ("unit", "other")}
    apt(m, "install", "--reinstall", "/root/fazt.deb")
    for name in ("unit", "other"):
        at = count(name)
        wait_for("the writer of %s to go on" % name, lambda: count(name) > at + 20)
        now = pids(name)
        need(now[1] != before[name][1], "%s: the worker is still %s", name, now)
        for pid in now:
            exe = m.run("readlink", "/proc/%d/exe" % pid).out.strip()
            need(exe == "/usr/bin/fazt", "%s: process %d runs %s", name, pid, exe)
        need(m.run("systemctl", "is-active", "writer-" + name).out == "active\n", "the writer of %s ended", name)
        m.run("systemctl", "stop", "writer-" + name)
        rows = int(m.run("sqlite3", "/srv/%s/w.db" % name, "SELECT count(*) FROM w").out)
        need(rows in (count(name), count(name) + 1), "%s: %d rows of %d", name, rows, count(name))
        need(len(m.run("fazt", "log", "/srv/%s/w.db" % name).out.splitlines()) >= rows, "%s: not each commit is in the log", name)
    m.run("systemctl", "disable", "--now", "fazt@srv-unit.service")
    need("/srv/unit" not in m.run("cat", "/proc/mounts").out, "the unit left its mount")


def not_removed_under_a_mount(m):
    pid = m.sh("fazt status --json /srv/app | sed -n 's/.*\"worker_pid\":[^0-9]*\\([0-9]*\\).*/\\1/p'").out.strip()
    for how in ("remove", "purge"):
        r = apt(m, how, "fazt", check=False)
        need(r.code != 0 and "/srv/app" in r.out + r.err and "umount" in r.out + r.err, "apt %s: exit %d, %s", how, r.code, r.err)
        need("install ok installed" in m.run("dpkg-query", "-W", "-f", "${Status}", "fazt").out, "half removed")
    m.run("kill", "-9", pid)  # a dying worker still finds its successor
    m.sh("sqlite3 /srv/app/a.db 'INSERT INTO t VALUES (2)'")
    m.run("fazt", "sync", "--wait", "--timeout", "30", "/srv/app")


def removed(m, deb):
    for d in ("app", "other"):
        m.run("fazt", "umount", "/srv/" + d)
    before = hashes(m)
    need("/srv/app/.fazt/" in before and "/etc/fazt/identity" in before and before.count("\n") > 20, "what is compared: %s", before)
    owned = m.sh("dpkg -L fazt | while read -r f; do [ -d \"$f\" ] || echo \"$f\"; done").out.split()
    apt(m, "remove", "fazt")
    left = [f for f in owned if os.path.lexists(m.path(f))]
    need(left == ["/etc/fazt/fazt.conf"], "after removal there are %s", left)
    need(hashes(m) == before, "removal changed data")
    need(m.sh("sqlite3 /srv/app/a.db 'SELECT group_concat(x) FROM t'").out == "1,2\n", "the data without fazt")
    before = hashes(m)  # sqlite3 made its WAL index anew
    apt(m, "install", "/root/fazt.deb")
    m.sh("echo '# mine' >>/etc/fazt/fazt.conf")
    apt(m, "install", "--reinstall", "/root/fazt.deb")
    need(m.read("/etc/fazt/fazt.conf").endswith("# mine\n"), "the configuration was replaced")
    apt(m, "purge", "fazt")
    need(not os.path.exists(m.path("/etc/fazt/fazt.conf")) and os.path.exists(m.path("/etc/fazt/identity")), "after purge")
    need(hashes(m) == before, "purge changed data")
    need(not m.run("dpkg-query", "-W", "fazt", check=False).out, "dpkg still knows it")
    # and everything is still there for a later installation
    apt(m, "install", "/root/fazt.deb")
    m.run("fazt", "verify", "--full", "dir:/var/lib/backup/a.db")
    m.run("fazt", "mount", "--target", "dir:/var/lib/backup", "/srv/app")
    need(len(m.run("fazt", "log", "/srv/app/a.db").out.splitlines()) >= 3, "the history is gone")
    m.run("fazt", "umount", "/srv/app")


def run(base):
    for release in ("deb12", "deb13"):
        print("--", release, flush=True)
        deb = build(release, base)
        if release == "deb12":
            same_from_elsewhere(release, base, deb)
        with Machine(release, base, bind={REPO: "/src"}) as m:
            m.boot()
            for part in (lambda: installed(m, deb), lambda: pages_and_completions(m), lambda: works(m), lambda: upgraded(m), lambda: not_removed_under_a_mount(m),
                         lambda: removed(m, deb)):
                part()
            m.shutdown()


main("package", run)
