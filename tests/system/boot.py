#!/usr/bin/python3
# timeout: 300
# roots: deb12 deb13 deb13-build
"""What the other scenarios stand on: each Debian boots, its units are in order, a program built for it runs there, commands inside
give back their output and exit code, and nothing is left of it afterwards."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, main, need  # noqa: E402
from nspawn import Machine, build  # noqa: E402


def run(base):
    for release in ("deb12", "deb13"):
        here = "bookworm" if release == "deb12" else "trixie"
        with open("/etc/os-release") as f:
            same = here in f.read()
        fazt = FAZT if same else build(release, os.path.join(os.environ["B"], "system-" + release))
        with Machine(release, base) as m:
            m.put(fazt, "/usr/bin/fazt")
            m.boot()
            need(m.run("systemctl", "is-system-running").out.strip() == "running", "not all units run:\n%s",
                 m.run("systemctl", "--failed").out)
            need(here in m.run("cat", "/etc/os-release").out, "another system")
            r = m.run("systemd-run", "--wait", "--pipe", "-q", "sh", "-c", "test -c /dev/fuse && exit 7", check=False)
            need(r.code == 7, "a unit's exit code: %d %s", r.code, r.err)
            need(m.run("fazt", "version").out.startswith("fazt "), "fazt does not run")
            m.run("fazt", "mount", "--encrypt", "none", "/srv")
            need(" /srv fuse.fazt " in m.run("cat", "/proc/1/mounts").out, "process 1 does not see the mount")
            m.run("fazt", "umount", "/srv")
            m.shutdown()
            where = m.scratch
        need(not os.path.exists(where), "%s is still there", where)


main("boot", run)
