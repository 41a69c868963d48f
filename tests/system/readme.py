#!/usr/bin/python3
# timeout: 14400
# roots: deb12 deb13
"""The two commands of the README, scripts/quickstart.sh and scripts/check.sh, each in a Debian that has neither compiler nor libraries for it:
they install what they need, build, and run to their end. Between them scripts/install.sh: again and again the same, nothing enabled unless told,
and gone with `make uninstall`, but for the configuration. Of the test tools that are not in Debian, those that this machine has are
lent to it. README_COMMANDS="scripts/quickstart.sh" runs that one only, README_RELEASES=deb13 in that one only."""
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import main, need  # noqa: E402
from nspawn import REPO, Machine  # noqa: E402

COMMANDS = os.environ.get("README_COMMANDS", "scripts/quickstart.sh scripts/check.sh").split()
RELEASES = os.environ.get("README_RELEASES", "deb12 deb13").split()
LAST = {"scripts/quickstart.sh": "quickstart.sh: all steps worked", "scripts/check.sh": " passed, 0 failed"}


def put_tree(m):
    """What is in git, as a checkout has it."""
    names = subprocess.run(["git", "-c", "safe.directory=*", "-C", REPO, "ls-files", "-z"], check=True, stdout=subprocess.PIPE,
                           universal_newlines=True).stdout.split("\0")[:-1]
    for name in names:
        to = m.path("/root/fazt/" + name)
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy(os.path.join(REPO, name), to)


def installs(m):
    def tree():
        return m.sh("find /usr/local /etc/fazt /etc/systemd -type f -o -type l | sort | xargs stat -c '%n %a %Y %N'").out

    before = tree()
    first = m.sh("cd /root/fazt && scripts/install.sh", timeout=1200).out
    there = tree()
    need("0 files written" not in first and "/usr/local/bin/fazt" in there and "fazt@.service" in there and "fazt-mount.1" in there, "installed: %s", there)
    need("/etc/systemd/system/multi-user.target.wants/fazt" not in there, "something is enabled")
    m.sh("echo '# mine' >>/etc/fazt/fazt.conf")
    there = tree()
    again = m.sh("cd /root/fazt && scripts/install.sh", timeout=600).out
    need(again.startswith("0 files written") and tree() == there, "the second time: %s", again)
    m.sh("mkdir -p /srv/first && /usr/local/bin/fazt init --no-target /srv/first && mv /etc/fazt/fazt.conf.old /etc/fazt/fazt.conf")  # over the installed one
    m.sh("mkdir -p '/srv/a dir' && cd /root/fazt && scripts/install.sh --unit '/srv/a dir'", timeout=600)
    need(" /srv/a\\040dir fuse.fazt " in m.run("cat", "/proc/mounts").out, "--unit did not mount")
    unit = m.run("systemd-escape", "--path", "--template=fazt@.service", "/srv/a dir").out.strip()
    need(m.run("systemctl", "is-enabled", unit).out == "enabled\n", "--unit did not enable")
    need("/usr/local/bin/fazt " in m.run("systemctl", "show", "-P", "ExecStart", unit).out, "the unit runs another program")
    m.run("systemctl", "disable", "--now", unit)
    m.sh("cd /root/fazt && make -s uninstall")
    left = set(tree().splitlines()) - set(before.splitlines())
    need(len(left) == 1 and "/etc/fazt/fazt.conf" in left.pop(), "after make uninstall: %s", left)


def run(base):
    with open(os.path.join(REPO, "README.md")) as f:
        readme = f.read()
    for release in RELEASES:
        with Machine(release, base, like_a_host=True) as m:
            put_tree(m)
            m.put("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt", 0o644)
            for tool in ("ltx", "versitygw"):
                if shutil.which(tool):
                    m.put(shutil.which(tool), "/usr/local/bin/" + tool)
            m.boot()
            for command in COMMANDS:
                need(command in readme, "the README does not name %s", command)
                print("--", release, command, flush=True)
                log = m.path("/root/" + os.path.basename(command) + ".log")
                r = m.sh("cd /root/fazt && %s >/root/%s.log 2>&1" % (command, os.path.basename(command)), timeout=6000, check=False)
                with open(log, errors="replace") as f:
                    said = f.read()
                print("\n".join(said.splitlines()[-5:]), flush=True)
                failed = said[said.find("\nFAIL "):][:12000] if "\nFAIL " in said else said[-6000:]
                need(r.code == 0 and LAST[command] in said, "%s in %s: exit %d\n%s", command, release, r.code, failed)
                need("fuse.fazt" not in m.run("cat", "/proc/mounts").out, "%s left a mount", command)
                if command == COMMANDS[0]:
                    print("-- install.sh", flush=True)
                    installs(m)
            m.shutdown()


main("readme", run)
