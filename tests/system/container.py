#!/usr/bin/python3
# timeout: 2400
# roots: deb12
"""scripts/Dockerfile and its example under a real dockerd (Debian's docker.io), which is started for this scenario with directories of its own,
and without a bridge or packet filter. The base image debian:12 is the root that debootstrap made. `docker stop` is an orderly end, in which the
last commit is shipped; `docker kill` loses nothing; without the device or the capability the application never starts."""
import os
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Failure, main, need, wait_for  # noqa: E402
from nspawn import REPO, root_of  # noqa: E402

FUSE = ["--device", "/dev/fuse", "--cap-add", "SYS_ADMIN"]


class Docker:
    def __init__(self, base):
        self.base, self.socket = base, os.path.join(base, "s")
        need(shutil.which("dockerd") and shutil.which("docker"), "there is no dockerd: apt-get install docker.io")
        self.log = open(os.path.join(base, "dockerd.log"), "w+")
        self.proc = subprocess.Popen(["dockerd", "--data-root", base + "/data", "--exec-root", base + "/exec", "-H", "unix://" + self.socket,
                                      "--pidfile", base + "/pid", "--storage-driver", "vfs", "--iptables=false", "--bridge=none",
                                      "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"],
                                     stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)

    def run(self, *args, code=0, stdin=None, timeout=120):
        r = subprocess.run(["docker", *args], stdin=stdin or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           universal_newlines=True, errors="replace", timeout=timeout,
                           env={**os.environ, "DOCKER_HOST": "unix://" + self.socket, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": self.base})
        if code is not None and r.returncode != code:
            raise Failure("docker %s: exit %d\n%s%s" % (" ".join(args), r.returncode, r.stdout[-4000:], r.stderr[-4000:]))
        return r

    def __enter__(self):
        try:
            wait_for("dockerd", lambda: self.proc.poll() is not None or self.run("version", code=None).returncode == 0)
            need(self.proc.poll() is None, "dockerd ended")
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exc):
        if exc[0]:
            self.log.seek(0)
            print("".join(self.log.readlines()[-20:]), file=sys.stderr)
        if self.proc.poll() is None:
            for c in self.run("ps", "-aq", code=None).stdout.split():
                self.run("rm", "-f", c, code=None)
            self.proc.terminate()
            try:
                self.proc.wait(60)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        subprocess.run(["umount", self.base + "/exec/netns/default"], stderr=subprocess.DEVNULL)  # dockerd leaves it
        self.log.close()


def context(base):
    """The files that are in git."""
    to = os.path.join(base, "context")
    for name in subprocess.run(["git", "-c", "safe.directory=*", "-C", REPO, "ls-files", "-z"], check=True, stdout=subprocess.PIPE,
                               universal_newlines=True).stdout.split("\0")[:-1]:
        os.makedirs(os.path.dirname(os.path.join(to, name)), exist_ok=True)
        shutil.copy(os.path.join(REPO, name), os.path.join(to, name))
    return to


def images(d, base):
    with subprocess.Popen(["tar", "-C", root_of("deb12"), "-c", "."], stdout=subprocess.PIPE) as tar:
        d.run("import", "-", "debian:12", stdin=tar.stdout, timeout=600)
    need(tar.returncode == 0, "tar: exit %d", tar.returncode)
    tree = context(base)
    for name, file in (("fazt", "Dockerfile"), ("ticker", "Dockerfile.example")):
        print("--", file, flush=True)
        d.run("build", "-q", "--network", "host", "-t", name, "-f", os.path.join(tree, "scripts", file), tree, timeout=1800)


def never_without_a_mount(d):
    for flags in ([], FUSE[:2]):
        r = d.run("run", "--rm", "--network", "none", *flags, "fazt", "echo", "it ran", code=1)
        need("it ran" not in r.stdout and "FZ-1404" in r.stderr and "--cap-add SYS_ADMIN" in r.stderr, "said: %s%s", r.stdout, r.stderr)


def ends_as_the_command(d):
    r = d.run("run", "--rm", "--network", "none", *FUSE, "-e", "FAZT_ENCRYPT=none", "fazt", "bash", "-c", "grep -c fuse.fazt /proc/mounts; exit 5", code=5)
    need(r.stdout == "1\n", "in the container: %s", r.stdout)


def lives(d):
    run = ["run", "-d", "--name", "ticker", "--network", "none", *FUSE, "--security-opt", "apparmor=unconfined", "-v", "ticker:/data", "-v",
           "backup:/backup", "-e", "FAZT_TARGETS=dir:/backup", "-e", "FAZT_ENCRYPT=none", "--stop-timeout", "30", "ticker"]

    def log():
        r = d.run("exec", "ticker", "fazt", "log", "/data/ticker.db", code=None)
        return len(r.stdout.splitlines()) if r.returncode == 0 else 0

    def look(command):
        return d.run("run", "--rm", "--network", "none", "-v", "ticker:/data", "-v", "backup:/backup", "--entrypoint", "bash", "ticker", "-c",
                     command).stdout
    d.run(*run)
    wait_for("commits", lambda: log() > 4)
    d.run("stop", "ticker")
    need(d.run("inspect", "-f", "{{.State.ExitCode}}", "ticker").stdout == "143\n", "exit code after docker stop")
    said = d.run("logs", "ticker").stderr
    need("worker has stopped" in said, "no orderly end: %s", said)
    # a backup in order, whose newest state is the file that is left
    out = look("fazt verify --full dir:/backup/ticker.db >&2 && fazt restore dir:/backup/ticker.db -o /tmp/r >&2 && "
               "for f in /data/ticker.db /tmp/r; do sqlite3 $f 'SELECT count(*), max(at) FROM ticks'; done; ls -d /data/.fazt; ! grep -q fuse /proc/mounts")
    lines = out.splitlines()
    need(len(lines) == 3 and lines[0] == lines[1] and lines[2] == "/data/.fazt" and int(lines[0].split("|")[0]) > 2, "after the end: %s", out)
    before = int(lines[0].split("|")[0])
    d.run("start", "ticker")
    wait_for("more commits", lambda: log() > before + 6)
    d.run("kill", "ticker")
    d.run("start", "ticker")
    at = log()
    wait_for("commits after docker kill", lambda: log() > max(at, before + 6) + 2)
    need(d.run("exec", "ticker", "fazt", "verify", "--live", "/data").stdout.count("0 differ") == 1, "the mount differs from its log")
    d.run("stop", "ticker")


def run(base):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by the runner"))
    with Docker(base) as d:
        images(d, base)
        never_without_a_mount(d)
        ends_as_the_command(d)
        lives(d)


main("container", run)
