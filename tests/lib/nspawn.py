"""A whole Debian system for a scenario: a copy of a root made by scripts/system-root.sh, booted by systemd-nspawn.

    with Machine("deb12", scratch) as m:
        m.write("/etc/fazt/fazt.conf", "...")          # before or after the boot
        m.boot()
        m.run("systemctl", "start", "fazt@var-lib-app") # Result with .out and .code; Failure when code != 0
        m.sh("echo $HOSTNAME; systemctl is-active x", check=False).code

The system sees the machine's network, /dev/fuse and what is bound (Machine(..., bind={"/host/dir": "/inside"})). It is shut
down, and its copy removed, at the end of the block, also on failure; the end of the runner's patience (SIGTERM) counts as one.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from faztlib import Failure, wait_for

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOTS = os.environ.get("FAZT_ROOTS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fazt-roots")
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
       "DEBIAN_FRONTEND=noninteractive"]
NSPAWN = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--link-journal=no"]


def root_of(name):
    """The directory of a root; made when it is not there."""
    path = os.path.join(ROOTS, name)
    if not os.path.isdir(path):
        subprocess.run([os.path.join(REPO, "scripts/system-root.sh"), name], check=True, stdout=subprocess.DEVNULL)
    return path


def copy_tree(src, dst):
    subprocess.run(["cp", "-a", "--reflink=auto", src, dst], check=True)


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def build(release, directory):
    """The path of a fazt built for that release, in directory (kept from call to call: only what changed is built)."""
    os.makedirs(directory, exist_ok=True)
    r = subprocess.run([*NSPAWN, "--pipe", "--volatile=overlay", "-D", root_of(release + "-build"),
                        "--bind-ro=%s:/src" % REPO, "--bind=%s:/out" % os.path.abspath(directory), "--chdir=/src",
                        "make", "-s", "-j2", "B=/out", "all"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, universal_newlines=True)
    if r.returncode:
        raise Failure("cannot build for %s:\n%s" % (release, r.stdout[-4000:]))
    return os.path.join(directory, "fazt")


class Machine:
    def __init__(self, root, scratch, bind=None, private_network=False, like_a_host=False):
        """like_a_host: with loop devices, and a /proc/sys and /sys that can be written to (network namespaces that forward)."""
        self.scratch = tempfile.mkdtemp(prefix=root + "-", dir=scratch)
        self.name = os.path.basename(self.scratch).replace("_", "0")  # no host's name ends with a hyphen
        self.root = os.path.join(self.scratch, "root")
        self.bind, self.private_network, self.like_a_host = dict(bind or {}), private_network, like_a_host
        self.proc = self.leader = None
        self.console = os.path.join(self.scratch, "console.log")
        copy_tree(root_of(root), self.root)
        self.write("/etc/hostname", self.name + "\n")
        if not os.path.exists(self.path("/etc/hosts")):  # an installer writes it
            self.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path("/etc/resolv.conf"))
        shutil.copy("/etc/resolv.conf", self.path("/etc/resolv.conf"))

    # ---- files, while it does not run or for what no mount inside covers ----
    def path(self, inside):
        return os.path.join(self.root, inside.lstrip("/"))

    def write(self, inside, text, mode=0o644):
        p = self.path(inside)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        with open(p + ".new", "w") as f:
            f.write(text)
        os.chmod(p + ".new", mode)
        os.rename(p + ".new", p)

    def put(self, src, inside, mode=0o755):
        """A host's file, in one step: a program that runs keeps its old one."""
        p = self.path(inside)
        os.makedirs(os.path.dirname(p), exist_ok=True)
        shutil.copyfile(src, p + ".new")
        os.chmod(p + ".new", mode)
        os.rename(p + ".new", p)

    def read(self, inside):
        with open(self.path(inside), errors="replace") as f:
            return f.read()

    # ---- life ----
    def boot(self, seconds=90):
        cmd = [*NSPAWN, "-D", self.root, "-b", "--bind=/dev/fuse", "--console=read-only", "--resolv-conf=off", "--timezone=off",
               "--machine=" + self.name, "--private-users=no"]
        cmd += ["--bind=%s:%s" % b for b in self.bind.items()]
        if self.private_network:
            cmd.append("--private-network")
        with open(self.console, "ab") as log:
            self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                         env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                                              "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes" if self.like_a_host else "no"})
        wait_for("the system to start", self._find_leader, seconds)

        def up():
            r = self.run("systemctl", "is-system-running", check=False)
            return r.out.strip() in ("running", "degraded")
        wait_for("the system to be up", up, seconds)
        if self.like_a_host:
            self.sh("[ -e /dev/loop-control ] || mknod -m 600 /dev/loop-control c 10 237; "
                    "for i in $(seq 0 63); do [ -e /dev/loop$i ] || mknod -m 660 /dev/loop$i b 7 $i; done")
        return self

    def _find_leader(self):
        """Process 1 of the system: the one below systemd-nspawn that is 1 to itself."""
        if self.proc.poll() is not None:
            raise Failure("systemd-nspawn ended with %d:\n%s" % (self.proc.returncode, self.console_tail()))
        todo = [self.proc.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                with open("/proc/%d/status" % pid) as f:
                    ns = [line.split()[1:] for line in f if line.startswith("NSpid:")][0]
                if len(ns) > 1 and ns[-1] == "1":
                    with open("/proc/%d/comm" % pid) as f:
                        if f.read().strip() == "systemd":
                            self.leader = pid
                            return True
                for task in os.listdir("/proc/%d/task" % pid):
                    with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                        todo += [int(p) for p in f.read().split()]
        return False

    def console_tail(self, lines=40):
        with open(self.console, errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def argv(self, *args):
        """What runs args inside."""
        return ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--", "env", "-i", *ENV,
                *map(str, args)]

    def run(self, *args, check=True, timeout=120, stdin=None):
        r = subprocess.run(self.argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                           errors="replace", timeout=timeout, **({"input": stdin} if stdin is not None else
                                                                 {"stdin": subprocess.DEVNULL}))
        if check and r.returncode:
            raise Failure("%s: exit %d\n%s%s" % (" ".join(map(str, args)), r.returncode, r.stdout, r.stderr))
        return Result(r.returncode, r.stdout, r.stderr)

    def sh(self, script, **kw):
        return self.run("sh", "-c", script, **kw)

    def read_proc(self, pid, name):
        """A file of /proc/PID, PID as seen inside."""
        return self.run("cat", "/proc/%d/%s" % (pid, name)).out

    def show(self, unit, *properties):
        """Properties of a unit as a dict."""
        out = self.run("systemctl", "show", unit, *["-p" + p for p in properties]).out
        return dict(line.split("=", 1) for line in out.splitlines() if "=" in line)

    def journal(self, *args):
        return self.run("journalctl", "--no-pager", "-o", "short-precise", *args, check=False).out

    def shutdown(self, seconds=60):
        """In order, as `poweroff` does. Returns the seconds it took."""
        start = time.monotonic()
        self.run("systemctl", "poweroff", check=False)
        try:
            self.proc.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure("the system does not shut down:\n" + self.console_tail())
        self.leader = None
        return time.monotonic() - start

    def cleanup(self):
        if self.proc and self.proc.poll() is None:
            if self.leader:
                with contextlib.suppress(OSError):
                    os.kill(self.leader, signal.SIGRTMIN + 4)  # poweroff
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.proc.wait(20)
            if self.proc.poll() is None:
                if self.leader:
                    with contextlib.suppress(OSError):
                        os.kill(self.leader, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.proc.wait(10)
            if self.proc.poll() is None:
                self.proc.kill()
                self.proc.wait()
        if os.environ.get("TEST_KEEP"):
            print("kept:", self.scratch)
        else:
            subprocess.run(["rm", "-rf", "--one-file-system", self.scratch])

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by the runner"))
        return self

    def __exit__(self, *exc):
        if exc[0] and self.leader and self.proc.poll() is None:
            with contextlib.suppress(Exception):
                print(self.journal("-n", "120"), file=sys.stderr)
        self.cleanup()
