#!/usr/bin/python3
"""What the documents tell a reader to type works as it is written: every ```sh block of docs/getting-started.md, in order, in one shell
(those of docs/recovery.md: drill.py). Every command that any document or man page names is one, and has the options it is given there. And
every link between documents leads somewhere."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import BUILD, ROOT, fazt, is_mounted, main, need  # noqa: E402


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


def documents():
    return ["README.md", "SECURITY.md"] + ["docs/" + f for f in sorted(os.listdir(os.path.join(ROOT, "docs"))) if f.endswith(".md")]


def options_of(command):
    text = fazt(command, "--help").stdout.partition("\noptions:")[2].partition("\nexamples:")[0]
    return {"--help", *re.findall(r"^  (-\w), ", text, re.M), *re.findall(r"(--[a-z-]+)", text)}


def commands():
    """`fazt COMMAND ... --option`, up to what ends a command in a shell or in a sentence."""
    known = {c: options_of(c) for c in re.findall(r"^  ([a-z]+) ", fazt("--help").stdout.partition("commands:")[2].partition("\n\n")[0], re.M)}
    seen = 0
    man = ["docs/man/" + f for f in os.listdir(os.path.join(ROOT, "docs", "man"))]
    for doc in [*documents(), *man, "docs/fazt.conf.example", "scripts/prometheus-alerts.yml"]:
        text = text_of(doc).replace("\\-", "-")
        for quote, name, rest in re.findall(r"(?<![\w/.-])(`?)fazt ([a-z]+)((?:(?! -- )[^`\n|#;&])*)", re.sub(r"\$\([^)]*\)", "", text)):
            need(name in known or not quote, "%s: `fazt %s` is no command", doc, name)
            for option in re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest) if name in known else []:
                need(option in known[name], "%s: fazt %s has no option %s", doc, name, option)
                seen += 1
    need(seen > 100, "only %d options were looked at", seen)


def links():
    """Relative links, and the headings they name."""
    for doc in documents():
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
    commands()
    getting_started(base)


if __name__ == "__main__":
    main("docs", scenario)
