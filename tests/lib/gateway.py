"""A real S3 server (versitygw) for the scenarios: one bucket directory, an access log, stop and start on the same port."""
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request

from faztlib import Failure, wait_for

ACCESS, SECRET = "scenario", "scenario-secret"
ENV = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Gateway:
    """Objects lie as files below root/<bucket>/ ; every request is a line of the access log."""

    def __init__(self, base, bucket="bucket", name="s3", address="127.0.0.1"):
        self.bucket, self.port, self.proc, self.address = bucket, free_port(), None, address
        self.root = os.path.join(base, name)
        self.access_log = os.path.join(base, name + ".access")
        self.program = shutil.which("versitygw") or "/usr/local/bin/versitygw"
        os.makedirs(os.path.join(self.root, bucket))

    def start(self):
        self.out = open(self.access_log + ".out", "ab")
        self.proc = subprocess.Popen([self.program, "--access", ACCESS, "--secret", SECRET, "--quiet", "--port",
                                      "%s:%d" % (self.address, self.port), "--access-log", self.access_log, "posix", self.root],
                                     stdout=self.out, stderr=self.out, stdin=subprocess.DEVNULL)

        def ready():
            if self.proc.poll() is not None:
                with open(self.access_log + ".out", errors="replace") as f:
                    raise Failure("versitygw ended with %d: %s" % (self.proc.returncode, f.read()[-2000:]))
            try:
                urllib.request.urlopen("http://%s:%d/" % (self.address, self.port), timeout=1)
            except urllib.error.HTTPError:
                return True  # it answers: 403 without credentials
            except OSError:
                return False
            return True
        wait_for("versitygw", ready)
        return self

    def kill(self):
        if self.proc:
            self.proc.kill()
            self.proc.wait()
            self.proc = None
            self.out.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.kill()

    def url(self, path="prefix", bucket=None):
        return "s3://%s/%s?endpoint=http://%s:%d&region=us-east-1&path-style=yes" % (
            bucket or self.bucket, path, self.address, self.port)

    def file(self, path=""):
        return os.path.join(self.root, self.bucket, path)

    def requests(self, word=""):
        """Lines of the access log with that word, the readiness probe left out."""
        try:
            with open(self.access_log) as f:
                return [l for l in f if self.bucket in l and word in l]
        except FileNotFoundError:
            return []
