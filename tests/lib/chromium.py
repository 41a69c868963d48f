"""A headless Chromium, driven over the DevTools protocol through two pipes (descriptors 3 and 4 of the browser): one page, what it
asks for, what it says on its console, pictures of it."""
import base64
import collections
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

from faztlib import Failure


def find():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path:
            return path
    raise Failure("there is no chromium: scripts/deps.sh system installs it")


class Chromium:
    """As a context it ends with its browser. requests: URLs in order; complaints: errors of console, scripts and policies."""

    def __init__(self, base, width=1280, height=900):
        self.profile = tempfile.mkdtemp(prefix="chromium-", dir=base)
        theirs_in, self.w = os.pipe()
        self.r, theirs_out = os.pipe()
        args = [find(), "--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + self.profile, "--no-first-run",
                "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--no-default-browser-check", "--mute-audio", "about:blank"]
        if os.geteuid() == 0:
            args.insert(1, "--no-sandbox")  # it refuses to run as root with one
        self.log = open(os.path.join(base, "chromium.log"), "wb")
        self.p = subprocess.Popen(["sh", "-c", 'exec "$@" 3<&%d 4>&%d' % (theirs_in, theirs_out), "sh", *args],
                                  pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=self.log,
                                  stderr=self.log, start_new_session=True, env={**os.environ, "HOME": self.profile})
        os.close(theirs_in)
        os.close(theirs_out)
        self.id, self.buf, self.events, self.answers = 0, b"", collections.deque(), {}
        self.session, self.requests, self.complaints = None, [], []
        try:
            self.begin(width, height)
        except BaseException:
            self.close()
            raise

    def begin(self, width, height):
        pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        target = pages[0]["targetId"] if pages else self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")
        self.size(width, height)

    def pump(self, seconds):
        """Takes one message from the browser; False when there is none in time."""
        end = time.monotonic() + seconds
        while b"\0" not in self.buf:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.r], [], [], left)[0]:
                return False
            some = os.read(self.r, 1 << 20)
            if not some:
                raise Failure("the browser ended: see chromium.log")
            self.buf += some
        text, self.buf = self.buf.split(b"\0", 1)
        m = json.loads(text)
        if "id" in m:
            self.answers[m["id"]] = m
            return True
        p, what = m.get("params", {}), m.get("method")
        if what == "Network.requestWillBeSent":
            self.requests.append(p["request"]["url"])
        elif what == "Runtime.exceptionThrown":
            self.complaints.append("exception: %s" % p["exceptionDetails"].get("exception", {}).get("description", p))
        elif what == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.complaints.append("console.%s: %s" % (p["type"], [a.get("value") for a in p["args"]]))
        elif what == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.complaints.append("%(source)s: %(text)s" % p["entry"] + " " + p["entry"].get("url", ""))
        return True

    def call(self, method, **params):
        self.id += 1
        m = {"id": self.id, "method": method, "params": params}
        if self.session:
            m["sessionId"] = self.session
        data = json.dumps(m).encode() + b"\0"
        while data:
            data = data[os.write(self.w, data):]
        end = time.monotonic() + 60
        while self.id not in self.answers:
            if not self.pump(end - time.monotonic()):
                raise Failure("the browser does not answer %s" % method)
        a = self.answers.pop(self.id)
        if "error" in a:
            raise Failure("%s: %s" % (method, a["error"]))
        return a["result"]

    def size(self, width, height=900, scale=1):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=width < 500)

    def media(self, **features):
        """media(prefers_color_scheme="dark")"""
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": k.replace("_", "-"), "value": v} for k, v in features.items()])

    def open(self, url):
        r = self.call("Page.navigate", url=url)
        if "errorText" in r:
            raise Failure("%s: %s" % (url, r["errorText"]))
        self.until("the page", "location.href.startsWith(%s) && document.readyState === 'complete'" % json.dumps(url))

    def js(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in r:
            raise Failure("%s: %s" % (expression, r["exceptionDetails"]))
        return r["result"].get("value")

    def until(self, what, expression, seconds=60):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.js("!!(%s)" % expression):
            if time.monotonic() > end:
                raise Failure("waited %.0f s for %s: %s\n%s" % (seconds, what, expression, self.text()[:3000]))
            self.pump(0.05)

    def text(self):
        return self.js("document.body.innerText")

    def key(self, name, code, text=None):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def picture(self, path, whole=True):
        r = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole,
                      **({"clip": {"x": 0, "y": 0, "scale": 1, "width": self.js("innerWidth"),
                                   "height": self.js("document.documentElement.scrollHeight")}} if whole else {}))
        with open(path, "wb") as f:
            f.write(base64.b64decode(r["data"]))
        return path

    def close(self):
        with contextlib.suppress(Failure, OSError, subprocess.TimeoutExpired):
            self.session = None
            self.call("Browser.close")  # so that it takes its own temporary files away
            self.p.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.p.pid, signal.SIGKILL)  # its own session: all of its processes, and no other
        self.p.wait()
        os.close(self.w)
        os.close(self.r)
        self.log.close()
        shutil.rmtree(self.profile, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
