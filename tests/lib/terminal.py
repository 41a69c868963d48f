"""A real terminal for programs that draw: tmux on a socket of its own, without the user's configuration."""
import os
import subprocess

from faztlib import Failure, wait_for


class Terminal:
    """One window with a shell in it. As a context it ends with its tmux, and everything in it, also on failure."""

    def __init__(self, base, width=100, height=30, env=None):
        self.base, self.socket, self.n = base, os.path.join(base, "tmux.sock"), 0
        self.env = {k: v for k, v in os.environ.items() if k not in ("TMUX", "NO_COLOR", "TERM", "LC_ALL")}
        self.env.update({"LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PS1": "$ ", **(env or {})})
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", width, "-y", height, "-s", "t", "sh")
        self.tmux("set-option", "-g", "status", "off")
        self.tmux("resize-window", "-t", "t", "-x", width, "-y", height)

    def tmux(self, *args, check=True):
        r = subprocess.run(["tmux", "-u", "-S", self.socket, *map(str, args)], env=self.env, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
        if check and r.returncode != 0:
            raise Failure("tmux %s: %s" % (" ".join(map(str, args)), r.stdout))
        return r.stdout

    def screen(self, colours=False):
        return self.tmux("capture-pane", "-t", "t", "-p", *(["-e"] if colours else []))

    def lines(self):
        return self.screen().split("\n")[:-1]

    def keys(self, *keys):
        self.tmux("send-keys", "-t", "t", *keys)

    def say(self, command):
        """Types a line into the shell, which notes how it ended."""
        self.n += 1
        self.tmux("send-keys", "-t", "t", "-l", "%s; echo $? >%s/ended.%d" % (command, self.base, self.n))
        self.keys("Enter")
        return self.n

    def ended(self, n):
        """Its exit code; None while it runs."""
        try:
            with open("%s/ended.%d" % (self.base, n)) as f:
                return int(f.read())
        except (OSError, ValueError):  # the shell makes the file before the number is in it
            return None

    def wait_end(self, n, seconds=30):
        wait_for("the command to end; the screen is\n" + self.screen(), lambda: self.ended(n) is not None, seconds)
        return self.ended(n)

    def shows(self, text, seconds=20):
        """Waits until the screen has this text, or passes this test."""
        test = text if callable(text) else lambda s: text in s
        try:
            wait_for(repr(text), lambda: test(self.screen()), seconds)
        except Failure as e:
            raise Failure("%s; the screen is\n%s" % (e, self.screen()))

    def resize(self, width, height):
        self.tmux("resize-window", "-t", "t", "-x", width, "-y", height)

    def full_screen(self):
        """Whether a program has taken the screen over (the alternate one)."""
        return self.tmux("display-message", "-t", "t", "-p", "#{alternate_on}").strip() == "1"

    def pid(self):
        return int(self.tmux("display-message", "-t", "t", "-p", "#{pane_pid}"))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.tmux("kill-server", check=False)
