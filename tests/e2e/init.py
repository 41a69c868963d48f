#!/usr/bin/python3
# timeout: 120
"""fazt init: by flags and by questions at a terminal, against a directory and a real S3 server. What it writes can be mounted with; the secret
is in one file that only root reads; a store that does not do what it must is told of before anything is written."""
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, ROOT, Failure, is_mounted, need, scratch  # noqa: E402
from gateway import ACCESS, ENV, SECRET, Gateway  # noqa: E402

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "FAZT_"))}


def run(*args, code=0, env=None, **kw):
    r = subprocess.run([FAZT, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60,
                       env={**CLEAN, "HOME": "/nonexistent", **(env or {})}, **{"stdin": subprocess.DEVNULL, **kw})
    need(r.returncode == code, "fazt %s: exit %d instead of %d\n%s%s", args, r.returncode, code, r.stdout, r.stderr)
    return r


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def read(path):
    with open(path) as f:
        return f.read()


class Terminal:
    """fazt at a pseudo-terminal; everything that appears there is kept."""

    def __init__(self, *args, cwd=None, env=None):
        self.seen, self.at = "", 0  # at: what was answered already
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            if cwd:
                os.chdir(cwd)
            os.execve(FAZT, [FAZT, *args], {**CLEAN, "HOME": "/nonexistent", **(env or {})})

    def read(self):
        if not select.select([self.fd], [], [], 0.1)[0]:
            return False
        try:
            got = os.read(self.fd, 4096)
        except OSError:
            got = b""
        self.seen += got.decode(errors="replace")
        return not got

    def answer(self, question, text):
        end = time.monotonic() + 30
        while question not in self.seen[self.at:]:
            if self.read() or time.monotonic() > end:
                raise Failure("never asked '%s':\n%s" % (question, self.seen))
        self.at = self.seen.rindex(question) + len(question)
        os.write(self.fd, text.encode())

    def end(self):
        end = time.monotonic() + 60
        while not self.read():
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise Failure("fazt does not end:\n%s" % self.seen)
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


with scratch("init") as base, Gateway(base) as s3:
    app, conf = os.path.join(base, "app"), os.path.join(base, "etc", "x.conf")
    credentials = conf[:-5] + ".credentials"
    os.mkdir(app)

    def nothing_written():
        need(not os.path.exists(conf) and not os.path.exists(credentials) and not os.path.exists(app + "/.fazt"), "something was written")

    # without a terminal: what is missing is named, and nothing is written
    for args, says in ((("--force", app), "--target URL is missing"), (("--target", "dir:/x"), "DIR is missing"),
                       (("--target", "dir:x", app), "absolute"), (("--target", "s3://bucket/p", "--access-key", "a", app), "belong together"),
                       (("--target", "dir:/x", "--access-key", "a", "--secret-file", "/x", app), "no use"),
                       (("--target", "dir:/x", "--recipient", "age1x", app), "no age recipient"),
                       (("--tagret=dir:/x", app), "did you mean --target?"),
                       (("--target", "dir:/x", "--recipient", "AGE-SECRET-KEY-1X", app), "no age recipient"),
                       (("--target", "dir:/x", "--encrypt", "rot13", app), "neither age nor none")):
        r = run("init", "--config", conf, *args, code=2)
        need(says in r.stderr and "AGE-SECRET" not in r.stderr, "init %s: %s", args, r.stderr)
    # a place that the worker could only reach through its own mount; a value that inih would read as something else; not a file
    os.symlink(app, base + "/to-app")
    for url, says in (("dir:" + app, "below the mount"), ("dir:%s/to-app/new/b" % base, "below the mount"), ("dir:/x ;y", "cannot be written")):
        r = run("init", "--config", conf, "--no-probe", "--target", url, app, code=2)
        need(says in r.stderr, "init --target %s: %s", url, r.stderr)
    nothing_written()
    for force in ((), ("--force",)):
        r = run("init", *force, "--no-probe", "--config", base, "--no-target", app, code=2)
        need("no file" in r.stderr and not os.path.exists(base + ".old"), "a directory as configuration: %s", r.stderr)
    nothing_written()
    for args, says in ((("--target", "dir:/x", "--no-target", app), "--no-target"), (("--export", base + "/k", "--target", "dir:/x", app), "--export")):
        r = run("init", "--config", conf, "--no-probe", *args, code=2)
        need(says in r.stderr, "init %s: %s", args, r.stderr)
    os.chmod(base, 0o755)
    shutil.copy(FAZT, base + "/fazt")  # the build directory may be root's
    relative = [os.path.relpath(p, base) for p in (conf, app)]  # the directories above may be root's too
    r = subprocess.run(["./fazt", "init", "--config", relative[0], "--target", "dir:/x", relative[1]], user=65534, stdin=subprocess.DEVNULL,
                       stderr=subprocess.PIPE, text=True, timeout=60, cwd=base)
    need(r.returncode == 1 and "root" in r.stderr and "--no-probe" in r.stderr, "not root: %d %s", r.returncode, r.stderr)
    nothing_written()

    # stores that will not do
    r = run("init", "--config", conf, "--target", s3.url(bucket="nobucket"), app, code=1, env=ENV)
    need("put" in r.stderr and re.search(r"put +FAILED", r.stdout), "a bucket that is not there: %s%s", r.stdout, r.stderr)
    r = run("init", "--config", conf, "--target", s3.url(), app, code=1, env={**ENV, "AWS_SECRET_ACCESS_KEY": "wrong"})
    need("FZ-1302" in r.stderr, "a wrong secret: %s", r.stderr)
    run("init", "--config", conf, "--target", "dir:/proc/nowhere", app, code=1)
    nothing_written()

    # by flags, the secret from a file: everything is tried, in the store nothing is left, and a mount needs no more
    secret = os.path.join(base, "secret")
    with open(secret, "w") as f:
        f.write(SECRET + "\n")
    r = run("init", "--config", conf, "--target", s3.url(), "--access-key", ACCESS, "--secret-file", secret, app)
    for step in ("put", "list", "range", "conditional put", "conditional replacement", "delete", "mount", "FUSE protocol"):
        need(re.search(r"^  %s +ok" % step, r.stdout, re.M), "no '%s' in\n%s", step, r.stdout)
    for verb in ("PutObject", "ListObjectsV2", "GetObject", "DeleteObject"):
        need(s3.requests(verb) or s3.requests(verb.upper()), "the server saw no %s:\n%s", verb, "".join(s3.requests())[-2000:])
    left = [f for d, _, fs in os.walk(s3.file()) for f in fs if "probe" in os.path.join(d, f)]
    need(not left, "left in the store: %s", left)
    need(mode(credentials) == 0o600 and SECRET in read(credentials), "the credentials file")
    need(mode(app + "/.fazt/identity") == 0o600, "the identity's mode")
    need(SECRET not in read(conf) and SECRET not in r.stdout + r.stderr, "the secret is shown")
    need("credentials_file = " + credentials in read(conf), "the configuration:\n%s", read(conf))
    key = read(app + "/.fazt/identity")
    command = r.stdout.split("Next:\n")[1].split()
    need(command == ["fazt", "mount", "--config", conf, app], "the next command: %s", command)
    run("config", "check", conf)
    run(*command[1:])
    con = sqlite3.connect(app + "/a.db", isolation_level=None)
    con.execute("CREATE TABLE t(x)")
    con.close()
    run("sync", "--wait", "--timeout", "60", app)
    r = run("init", "--config", conf, "--force", "--target", s3.url(), app, code=1)
    need("FZ-1403" in r.stderr, "init of a mount: %s", r.stderr)
    run("umount", app)
    need(os.path.exists(s3.file("prefix/a.db")), "nothing was shipped")

    # again: refused; by force the configuration is kept, and the key is used
    before = read(conf)
    r = run("init", "--config", conf, "--target", "dir:%s/b" % base, app, code=1)
    need("FZ-1205" in r.stderr and read(conf) == before, "an existing configuration: %s", r.stderr)
    r = run("init", "--config", conf, "--force", "--target", "dir:%s/b" % base, app)
    need(read(conf + ".old") == before and "dir:%s/b" % base in read(conf), "by force")
    need(read(app + "/.fazt/identity") == key and "same filesystem" in r.stdout, "the key, or the note:\n%s", r.stdout)
    # what is replaced is kept, each time, and only once the new one passed: credentials too
    had = {conf + ".old": before, conf + ".old.2": read(conf), credentials + ".old": read(credentials)}
    with open(base + "/secret2", "w") as f:
        f.write("another\n")
    new = ("--force", "--no-probe", "--target", s3.url(), "--access-key", "OTHER", "--secret-file", base + "/secret2", app)
    is_there = {p: read(p) for p in (conf, conf + ".old", credentials)}
    run("init", "--config", conf, "--target", s3.url(), *new, code=2)
    need({p: read(p) for p in is_there} == is_there and not os.path.exists(credentials + ".old"), "a refused --force changed something")
    r = run("init", "--config", conf, *new)
    need({p: read(p) for p in had} == had, "what was there is not kept: %s", os.listdir(os.path.dirname(conf)))
    need(conf + ".old.2" in r.stdout and credentials + ".old" in r.stdout, "not told what is kept:\n%s", r.stdout)
    need("another" in read(credentials) and mode(credentials) == 0o600 and mode(credentials + ".old") == 0o600, "the new credentials")
    need(sorted(os.listdir(os.path.dirname(conf))) == sorted(os.path.basename(p) for p in [conf, credentials, *had]), "litter")
    os.unlink(conf)
    run("init", "--config", conf, "--no-target", "--encrypt", "none", "--no-probe", app)
    need("encrypt = none" in read(conf) and "\n[target" not in read(conf), "no target:\n%s", read(conf))
    os.unlink(conf)

    # as it is installed, with all of it commented out, it is in nobody's way; what somebody set in it is
    with open(os.path.join(ROOT, "docs", "fazt.conf.example")) as f:
        lines = f.read().splitlines(True)
    at = next(i for i, l in enumerate(lines) if l.startswith("[target"))
    installed = "".join(lines[:at] + [l if l[0] in "#\n" else "#" + l for l in lines[at:]])  # as the Makefile does it
    for text, code in ((installed, 0), ("[mount]\n \tlog_max = 1G\n", 1), ("[mount]\nlog_max\n", 1)):
        with open(conf, "w") as f:
            f.write(text)
        r = run("init", "--config", conf, "--no-target", "--no-probe", app, code=code)
        kept = [read(os.path.join(os.path.dirname(conf), n)) for n in os.listdir(os.path.dirname(conf)) if n.startswith("x.conf.old")]
        need((text in kept) == (code == 0) and (read(conf) == text) == (code == 1), "over '%s...': %s", text[:20], r.stdout + r.stderr)

    # where systemd runs: the unit, and the file that tells it the configuration, and what it does not have of this shell
    name = subprocess.run(["systemd-escape", "--path", app], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def with_systemd(*args, env=CLEAN):
        if os.path.exists(conf):
            os.unlink(conf)
        return subprocess.run(["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /run; mount -t tmpfs none /etc/systemd; mkdir -p "
                               "/run/systemd/system /etc/systemd/system; touch /etc/systemd/system/fazt@.service; exec \"$@\"", "sh", FAZT, "init",
                               "--no-probe", *args], stdout=subprocess.PIPE, text=True, check=True, timeout=60, env=env).stdout
    out = with_systemd("--config", conf, "--no-target", app)
    need("systemctl enable --now 'fazt@%s.service'" % name in out and "FAZT_CONFIG=%s > '/etc/fazt/%s.env'" % (conf, name) in out, "the unit:\n%s", out)
    need("AWS_" not in out + with_systemd("--config", conf, "--target", "dir:/x", app, env={**CLEAN, **ENV}), "AWS_* without use:\n%s", out)
    out = with_systemd("--config", conf, "--target", "s3://bucket/p?region=r", app, env={**CLEAN, **ENV})
    need("AWS_*" in out and "'/etc/fazt/%s.env'" % name in out, "what the unit lacks:\n%s", out)

    # a file that somebody has open, whose name is any bytes
    os.unlink(conf)
    with open(os.fsencode(app) + b"/\xff\x1b[31m.db", "wb"):
        raw = subprocess.run([FAZT, "init", "--config", conf, "--no-target", "--no-probe", app], stdout=subprocess.PIPE, check=True,
                             timeout=60).stdout.decode()
    need("stop what uses" in raw and "31m.db" in raw and all(c == "\n" or c.isprintable() for c in raw), "printed raw:\n%r", raw)
    os.unlink(os.fsencode(app) + b"/\xff\x1b[31m.db")

    # what is printed to be copied is what a shell takes, whatever the names
    odd, odd_conf = os.path.join(base, "my app;'x"), os.path.join(base, "it's mine\t.conf")
    os.mkdir(odd)
    out = with_systemd("--config", odd_conf, "--no-target", odd)
    commands = [l for l in out.splitlines() if re.match("  (fazt|echo) ", l)]
    need(len(commands) == 3 and "\t" not in "".join(commands), "the commands:\n%s", out)
    after = [l[2:] for l in read(odd_conf).splitlines() if l.startswith("#   fazt ")]
    for line, words in zip(after, (["fazt", "config", "check", odd_conf], ["fazt", "reload", odd])):
        got = subprocess.run(["bash", "-c", "printf '%s\\0' " + line], stdout=subprocess.PIPE, text=True, check=True).stdout
        need(got.split("\0")[:-1] == words, "a shell takes %s for %s", line, got)
    for name in ("line\n[target x]\nurl = dir:/x", "l" * 200 + "/" + "m" * 200):
        os.makedirs(os.path.join(base, name))
        run("init", "--config", base + "/odd.conf", "--no-target", "--no-probe", os.path.join(base, name))
        need("\n[target x]" not in read(base + "/odd.conf") and "\nrecipients = age1" in read(base + "/odd.conf"), "%s:\n%s", name, read(base + "/odd.conf"))
        run("config", "check", base + "/odd.conf")
        os.unlink(base + "/odd.conf")
    want = [["fazt", "init", "--export", "KEY", "--remove", odd], ["fazt", "mount", "--config", odd_conf, odd], ["echo", "FAZT_CONFIG=" + odd_conf]]
    for line, words in zip(commands, want):
        got = subprocess.run(["bash", "-c", "printf '%s\\0' " + line.split(" > ")[0]], stdout=subprocess.PIPE, text=True, check=True).stdout
        need(got.split("\0")[:-1] == words, "a shell takes %s for %s", line, got)

    # at a terminal
    for f in (conf + ".old", credentials):
        os.unlink(f)
    app2 = os.path.join(base, "second")
    os.mkdir(app2)
    t = Terminal("init", "--config", conf, cwd=app2)
    t.answer("Directory of the databases", "\n")
    t.answer("Target", "ftp://x\n")
    t.answer("Target", s3.url("two") + "\n")
    t.answer("Access key ID", ACCESS + "\n")
    t.answer("Secret access key", SECRET + "\n")
    t.answer("Public key", "age1nonsense\n")
    t.answer("Public key", "\n")
    code = t.end()
    need(code == 0, "at a terminal: exit %d\n%s", code, t.seen)
    need(SECRET not in t.seen and "ftp" in t.seen, "what the terminal showed:\n%s", t.seen)
    need("fazt mount --config %s %s" % (conf, app2) in t.seen, "the next command:\n%s", t.seen)
    need(mode(credentials) == 0o600 and SECRET in read(credentials) and SECRET not in read(conf), "what was written")
    recipient = read(app2 + "/.fazt/recipient").strip()
    need("recipients = " + recipient in read(conf), "the recipient:\n%s", read(conf))

    # refused before the first question
    t = Terminal("init", "--config", conf, app2)
    code = t.end()
    need(code == 1 and "FZ-1205" in t.seen and "Target" not in t.seen, "exists: %d\n%s", code, t.seen)

    # a store that cannot be reached: shall it be written all the same? no
    conf2 = os.path.join(base, "y.conf")
    t = Terminal("init", "--config", conf2, app2, "--target", "dir:/proc/nowhere")
    t.answer("all the same", "\n")
    code = t.end()
    need(code == 1 and not os.path.exists(conf2), "no: %d\n%s", code, t.seen)

    # Ctrl-C while the secret is typed: the terminal echoes again
    t = Terminal("init", "--config", conf2, "--target", s3.url("three"), "--access-key", ACCESS, app2)
    t.answer("Secret access key", "abc")

    def echo():
        return bool(termios.tcgetattr(t.fd)[3] & termios.ECHO)
    end = time.monotonic() + 20
    while echo() and time.monotonic() < end:
        t.read()
    need(not echo(), "a secret is echoed")
    slave = os.open(os.readlink("/proc/%d/fd/0" % t.pid), os.O_RDWR | os.O_NOCTTY)  # the terminal outlives it
    os.write(t.fd, b"\x03")
    need(os.waitstatus_to_exitcode(os.waitpid(t.pid, 0)[1]) == -signal.SIGINT, "Ctrl-C")
    need(echo(), "the terminal stays mute after Ctrl-C")
    os.close(slave)
    os.close(t.fd)
    need(not os.path.exists(conf2), "written after Ctrl-C")

    # a secret without its access key: that is asked for; one without the other is refused
    for args, question in ((("--secret-file", secret), "Access key ID"), (("--access-key", ACCESS), "Secret access key")):
        t = Terminal("init", "--config", conf2, "--target", s3.url("three"), *args, app2)
        t.answer(question, "\n")
        code = t.end()
        need(code == 2 and "belong together" in t.seen, "%s alone: %d\n%s", args[0], code, t.seen)
        need(not os.path.exists(conf2) and not os.path.exists(conf2[:-5] + ".credentials"), "%s alone: written", args[0])
    t = Terminal("init", "--config", conf2, "--target", s3.url("three"), "--secret-file", secret, app2)
    t.answer("Access key ID", ACCESS + "\n")
    code = t.end()
    need(code == 0 and SECRET not in t.seen, "--secret-file at a terminal: %d\n%s", code, t.seen)
    text = read(conf2[:-5] + ".credentials")
    need("aws_access_key_id = %s\naws_secret_access_key = %s\n" % (ACCESS, SECRET) in text, "the credentials:\n%s", text)

    # an identity without its recipient (copied here, or the disk was full when it was made): later backups are for the same key
    app3, saved = os.path.join(base, "third"), os.path.join(base, "saved.key")
    state = app3 + "/.fazt/"
    os.mkdir(app3)
    run("init", app3)
    ours = read(state + "recipient")

    def same_key(what):
        run("mount", "--target", "dir:%s/third-store" % base, app3)
        run("umount", app3)
        need("recipients = " + ours in read(state + "mount.conf"), "%s: a mount takes another key:\n%s", what, read(state + "mount.conf"))

    os.unlink(state + "recipient")
    run("init", "--export", saved, "--remove", app3)
    need(not os.path.exists(state + "identity"), "the identity stays")
    same_key("exported and removed")
    need(not os.path.exists(state + "identity") and read(state + "recipient") == ours, "the key was replaced")
    shutil.copy(saved, state + "identity")
    os.unlink(state + "recipient")
    same_key("copied here")
    os.unlink(state + "identity")
    same_key("removed by hand")
    with open(state + "identity", "w") as f:
        f.write("no identity\n")
    os.unlink(state + "recipient")
    run("init", "--export", base + "/none.key", "--remove", app3, code=2)
    need(os.path.exists(state + "identity") and not os.path.exists(base + "/none.key"), "what is no identity was removed")
    need(not is_mounted(app) and not is_mounted(app2) and not is_mounted(app3), "mounted")
print("ok")
