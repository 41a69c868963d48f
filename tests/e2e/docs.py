#!/usr/bin/python3
"""What the documents tell a reader to type works as it is written: every ```sh block of docs/getting-started.md, in order, in one shell
(those of docs/recovery.md: drill.py). And every link between documents leads somewhere."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import BUILD, ROOT, is_mounted, main, need  # noqa: E402


def text_of(name):
    with open(os.path.join(ROOT, name)) as f:
        return f.read()


def blocks(name):
    """The shell commands of a document."""
    found = re.findall(r"^```sh\n(.*?)^```$", text_of(name), re.S | re.M)
    need(found, "%s has no commands", name)
    return found


def shell(base, script):
    """Runs it as a person would type it; the first command that fails ends it."""
    home = os.path.join(base, "home")
    os.makedirs(home, exist_ok=True)
    r = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       stdin=subprocess.DEVNULL, env={**os.environ, "HOME": home, "PATH": BUILD + ":" + os.environ["PATH"]}, timeout=100)
    need(r.returncode == 0, "exit %d of:\n%s\n%s", r.returncode, script, r.stdout)
    return r.stdout


def links():
    """Relative links, and the headings they name."""
    docs = ["README.md", "SECURITY.md"] + ["docs/" + f for f in sorted(os.listdir(os.path.join(ROOT, "docs"))) if f.endswith(".md")]
    for doc in docs:
        for target in re.findall(r"\]\(([^)\s]+)\)", text_of(doc)):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(doc), path)) if path else doc
            need(os.path.exists(os.path.join(ROOT, path)), "%s links to %s, which is not there", doc, target)
            if anchor:
                heads = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text_of(path), re.M)]
                need(anchor in heads, "%s links to %s, and there is no such heading: %s", doc, target, heads)


def getting_started(base):
    out = shell(base, "\n".join(blocks("docs/getting-started.md")))
    counts = re.findall(r"^(\d+)$", out, re.M)
    need(counts == ["3", "3", "3"], "the counts are %s:\n%s", counts, out)
    need(re.findall(r"^ok$", out, re.M) == ["ok"], "no integrity_check:\n%s", out)
    need(not is_mounted(os.path.join(base, "home", "try", "app")), "the page leaves the directory mounted")


def scenario(base):
    links()
    getting_started(base)


if __name__ == "__main__":
    main("docs", scenario)
