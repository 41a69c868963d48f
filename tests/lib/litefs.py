"""LiteFS on this machine, for scripts/bench_replica.py: a primary by static lease and its replica, each with a mount, a data directory and a
port of its own, the API on loopback only. A Litefs answers what the bench asks of a Host of tests/lib/cluster.py."""
import os
import shutil
import subprocess

from cluster import free_port
from faztlib import Failure, is_mounted, need, wait_for

CONFIG = """fuse:
  dir: "%(dir)s"
data:
  dir: "%(data)s"
http:
  addr: "%(address)s"
lease:
  type: "static"
  hostname: "%(primary_name)s"
  advertise-url: "http://%(primary_address)s"
  candidate: %(candidate)s
"""


def program():
    """Where LiteFS is: what $LITEFS names, else what the PATH finds; None where there is none."""
    path = shutil.which(os.environ.get("LITEFS") or "litefs")
    return os.path.abspath(path) if path else None


def version():
    """What it says of itself, for the record; None where there is none."""
    if not program():
        return None
    return subprocess.run([program(), "version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.strip()


class Litefs:
    def __init__(self, base, name):
        self.name, self.home = name, os.path.join(base, "litefs-" + name)
        self.dir, self.data = os.path.join(self.home, "app"), os.path.join(self.home, "data")
        self.address = "127.0.0.1:%d" % free_port()
        self.log = os.path.join(self.home, "litefs.log")
        self.config = os.path.join(self.home, "litefs.yml")
        self.proc = None
        os.makedirs(self.dir)

    def _configure(self, leader, candidate):
        with open(self.config, "w") as f:
            f.write(CONFIG % {**vars(self), "primary_name": leader.name, "primary_address": leader.address, "candidate": candidate})
        return self

    def primary(self, *_):
        return self._configure(self, "true")

    def replica_of(self, other):
        return self._configure(other, "false")

    def start(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("LITEFS_CLOUD_")}  # it would send databases there
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([program(), "mount", "-config", self.config], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                         cwd=self.home, env=env, start_new_session=True)

        def ready():
            need(self.proc.poll() is None, "litefs ended with %s:\n%s", self.proc.returncode, self.tail())
            return is_mounted(self.dir)
        wait_for("the LiteFS mount of %s" % self.dir, ready)
        return self

    def tail(self, lines=20):
        with open(self.log, errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def position(self, name):
        """(TXID that this side has, the same): LiteFS shows it in a file beside the database. 0 before there is one."""
        try:
            with open(os.path.join(self.dir, name + "-pos")) as f:
                txid = int(f.read().split("/")[0], 16)
        except FileNotFoundError:
            return 0, 0
        except (OSError, ValueError) as e:
            raise Failure("LiteFS tells no position of %s: %s\n%s" % (name, e, self.tail()))
        return txid, txid

    def database(self, name):
        return {"txid": self.position(name)[0]}

    def load(self, path):
        """Brings in a database by LiteFS's own command."""
        wait_for("LiteFS to listen", lambda: "http server listening" in self.tail(1000))
        r = subprocess.run([program(), "import", "-url", "http://" + self.address, "-name", os.path.basename(path), path],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        need(r.returncode == 0, "litefs import: %s\n%s", r.stdout, self.tail())

    def cleanup(self):
        """Ends it whatever state it is in: SIGTERM unmounts, and may find the mount busy."""
        if self.proc and self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        if is_mounted(self.dir):
            subprocess.run(["umount", "-l", self.dir])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cleanup()
