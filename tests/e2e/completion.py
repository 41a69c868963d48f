#!/usr/bin/python3
"""Completion in bash, zsh and fish, by the shells themselves: the keys that insert all completions are typed, and what then stands in
the command line must be what `fazt --help` and `fazt COMMAND --help` list, the words of an option, or the files that are there.
# timeout: 120
"""
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from faztlib import BUILD, Failure, fazt, main, need  # noqa: E402

PROMPT, ALL, END = "<<prompt>>", "<<all>>", "<<end>>"


class Typed:
    """An interactive shell at a terminal of its own; expand() types a line and the keys that insert every completion."""

    def __init__(self, argv, setup, keys, env, cwd):
        self.keys, self.buf = keys, ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        for line in setup:
            self.write(line + "\n")
        self.write("PS1='<<'prompt'>>'; echo '<<'start'>>'\n")
        self.until("<<start>>")
        self.until(PROMPT)

    def write(self, text):
        os.write(self.fd, text.encode())

    def until(self, mark):
        end = time.monotonic() + 20
        while mark not in self.buf:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                raise Failure("%r does not come: %r" % (mark, self.buf[-2000:]))
            self.buf += os.read(self.fd, 65536).decode(errors="replace")
        got, self.buf = self.buf.split(mark, 1)
        return got

    def expand(self, line):
        self.write(line + self.keys + "\x01printf '<%s>\\n' '<<'all'>>' \x05 '<<'end'>>'\n")
        self.until("<" + ALL + ">")
        got = self.until("<" + END + ">")
        self.until(PROMPT)
        return re.findall(r"^<(.*)>\r?$", got, re.M)

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


class Fish:
    def __init__(self, script, env, cwd):
        self.script, self.env, self.cwd = script, env, cwd

    def many(self, lines):
        code = "source %s\n" % self.script + "".join("complete -C '%s'; echo '%s'\n" % (l, END) for l in lines)
        r = subprocess.run(["fish", "--no-config", "-c", code], cwd=self.cwd, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, timeout=60)
        need(r.returncode == 0 and not r.stderr, "fish: %s", r.stderr)
        return [[w.split("\t")[0] for w in part.splitlines() if w] for part in r.stdout.split(END + "\n")[:-1]]

    def expand(self, line):
        return line.split()[:-1 if line[-1] != " " else None] + self.many([line])[0]


def options_of(command):
    text = fazt(command, "--help").stdout
    return set(re.findall(r"^  (?:-\w, |    )(--[a-z-]+)", text.split("\nexamples:")[0], re.M))


def check(shell, one, commands):
    def same(line, want, prefix=None):
        got = set(w.rstrip("/") for w in one(line)[len(line.split()) - (line[-1] != " "):])
        need(got == set(want), "%s: '%s' gives %s instead of %s", shell, line, sorted(got), sorted(want))

    for c in commands:
        same("fazt %s --" % c, options_of(c))
    same("fazt mount --encrypt ", ["age", "none"])
    same("fazt mount --no-resend -t dir:/x --failover m", ["manual"])
    same("fazt mount --config ", ["dir one", "sub", "a.conf", "app.db"])
    same("fazt mount -c a", ["a.conf", "app.db"])
    same("fazt mount ", ["dir one", "sub"])
    same("fazt umount --timeout 5 s", ["sub"])
    same("fazt inspect -i key a", ["a.conf", "app.db"])
    same("fazt verify app", ["app.db"])
    same("fazt run --encrypt none sub -- fazt-only-", ["fazt-only-here"])
    same("fazt completion ", ["bash", "zsh", "fish", "man"])
    same("fazt handoff sub ", [])
    if shell != "bash":  # bash knows no more than the part behind the colon
        same("fazt mount --target dir:s", ["dir:sub"])
        same("fazt mount --encrypt=", ["--encrypt=age", "--encrypt=none"])
    else:
        need(one("fazt mount --target dir:s")[-1] == "dir:sub/", "bash: a store's directory: %s", one("fazt mount --target dir:s"))
        need(one("fazt mount --encrypt=n")[-1] == "--encrypt=none", "bash: --encrypt=n: %s", one("fazt mount --encrypt=n"))


def run(base):
    there = os.path.join(base, "cwd")
    for d in ("dir one", "sub"):
        os.makedirs(os.path.join(there, d))
    for f in ("a.conf", "app.db"):
        open(os.path.join(there, f), "w").close()
    os.mkdir(os.path.join(base, "bin"))
    os.symlink(os.path.join(BUILD, "fazt"), os.path.join(base, "bin", "fazt"))
    os.symlink("/bin/true", os.path.join(base, "bin", "fazt-only-here"))
    env = {"PATH": base + "/bin:/usr/bin:/bin", "HOME": base, "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    commands = re.findall(r"^  ([a-z]+) ", fazt("--help").stdout.split("commands:")[1].split("\n\n")[0], re.M)
    need(len(commands) > 15 and "completion" in commands, "commands: %s", commands)
    for shell in ("bash", "zsh", "fish"):
        with open(os.path.join(base, shell), "w") as f:
            f.write(fazt("completion", shell).stdout)
    setups = {
        "bash": (["bash", "--norc", "--noprofile", "-i"],
                 ["bind 'set bell-style none'", "bind 'set enable-bracketed-paste off'", "source %s/bash" % base], "\x1b*"),
        "zsh": (["zsh", "-f", "-i"],
                ["fpath=(%s/functions $fpath)" % base, "autoload -Uz compinit", "compinit -u -D", "unsetopt beep prompt_cr prompt_sp auto_remove_slash",
                 "zstyle ':completion:*' completer _all_matches _complete", "zstyle ':completion:*:all-matches:*' insert true",
                 "bindkey -e", "unset zle_bracketed_paste"], "\t"),
    }
    os.mkdir(os.path.join(base, "functions"))
    shutil.copy(os.path.join(base, "zsh"), os.path.join(base, "functions", "_fazt"))
    for shell, (argv, setup, keys) in setups.items():
        t = Typed(argv, setup, keys, env, there)
        try:
            got = set(t.expand("fazt ")[1:])
            need(got - {"help"} == set(commands), "%s: the commands are %s", shell, sorted(got))
            check(shell, t.expand, commands)
        finally:
            t.close()
        print("--", shell)
    fish = Fish(base + "/fish", env, there)
    need(set(fish.expand("fazt ")[1:]) == set(commands), "fish: the commands are %s", fish.expand("fazt "))
    check("fish", fish.expand, commands)
    print("-- fish")
    # as the packages and `eval` load them
    r = subprocess.run(["zsh", "-f", "-c", "autoload -Uz compinit; compinit -u -D; source %s/zsh; print $_comps[fazt]" % base], env=env,
                       stdout=subprocess.PIPE, text=True)
    need(r.stdout == "_fazt\n", "zsh: source does not work: %s", r.stdout)


main("completion", run)
