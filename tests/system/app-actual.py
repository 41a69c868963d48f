#!/usr/bin/python3
# timeout: 1800
"""Actual Budget's server (npm), which keeps budgets with better-sqlite3 in rollback mode at synchronous=FULL, driven by its own API client:
each is a device with a copy of the budget, and what it adds, changes and removes is synchronised. What the server holds is read by a device that
begins anew, so that no other one's memory helps it."""
import http.client
import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from apps import node_program, npm  # noqa: E402
from faztlib import Failure, Mount, fazt, main  # noqa: E402
from webapp import Driver, Site, sql, story  # noqa: E402

PACKAGES = ["@actual-app/sync-server@26.9.0", "@actual-app/api@26.9.0"]
PASSWORD = "correct horse"
HERE = os.path.dirname(os.path.abspath(__file__))


class Device:
    """One that works, and as many new ones as there are questions."""

    def __init__(self, site):
        self.site = site
        self.renew()

    def begin(self):
        d = Driver([node_program(), os.path.join(HERE, "actual.mjs")],
                   {"MODULES": MODULES, "URL": "http://127.0.0.1:%d" % self.site.port, "PASSWORD": PASSWORD,
                    "DATA": tempfile.mkdtemp(prefix="device-", dir=os.path.dirname(self.site.log))}, self.site.log)
        d.call(do="open")
        return d

    def renew(self):
        self.close()
        self.driver = self.begin()

    def add(self, key, text):
        self.driver.call(do="add", key=key, text=text)

    def change(self, key, text):
        self.driver.call(do="change", key=key, text=text)

    def remove(self, key):
        self.driver.call(do="remove", key=key)

    def read(self):
        d = self.begin()
        try:
            return d.call(do="read")["rows"]
        finally:
            d.close()

    def close(self):
        if getattr(self, "driver", None):
            self.driver.close()


def fields(data):
    """The strings of a protobuf message, by number."""
    out, at = {}, 0
    while at < len(data):
        number, at = data[at] >> 3, at + 1
        size = shift = 0
        while True:
            size, shift, at = size | (data[at] & 127) << shift, shift + 7, at + 1
            if data[at - 1] < 128:
                break
        out[number], at = data[at:at + size].decode(), at + size
    return out


class Actual(Site):
    health = "/health"
    pace = 0.25  # the server answers 500 requests a minute from one address

    def command(self):
        return [node_program(), os.path.join(MODULES, "@actual-app", "sync-server", "build", "bin", "actual-server.js")], {
            "ACTUAL_DATA_DIR": self.home, "ACTUAL_PORT": str(self.port), "ACTUAL_HOSTNAME": "127.0.0.1", "NODE_ENV": "production"}

    def ask(self, method, path, body=None):
        con = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            con.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"} if body else {})
            answer = con.getresponse()
            answer.read()
            return answer.status
        except OSError:
            return 0
        finally:
            con.close()

    def client(self, number):
        return Device(self)

    @staticmethod
    def rows(path):
        """What the devices' messages come to: the last one on a column rules."""
        if not sql(path, "SELECT count(*) FROM sqlite_master WHERE name = 'messages_binary'")[0][0]:
            return {}
        notes, gone = {}, {}
        for (content,) in sql(path, "SELECT content FROM messages_binary WHERE NOT is_encrypted ORDER BY timestamp"):
            m = fields(content)
            if m.get(1) == "transactions" and m.get(3) == "notes":
                notes[m[2]] = m[4][2:]
            elif m.get(1) == "transactions" and m.get(3) == "tombstone":
                gone[m[2]] = m[4] == "N:1"
        return dict(n.split(" ", 1) for row, n in notes.items() if not gone.get(row))


def create(mount):
    home = os.path.join(mount.dir, "actual")
    os.mkdir(home)
    site = Actual(home, os.path.join(mount.base, "site.log")).start()
    status = site.ask("POST", "/account/bootstrap", {"password": PASSWORD})
    if status != 200:
        raise Failure("bootstrap: %d" % status)
    d = Device(site)
    d.driver.call(do="create")
    d.renew()  # downloads it and synchronises: then the server has a database for it
    d.close()
    groups = [f for f in os.listdir(os.path.join(home, "user-files")) if f.startswith("group-") and f.endswith(".sqlite")]
    if len(groups) != 1:
        raise Failure("budgets: %s" % os.listdir(os.path.join(home, "user-files")))
    site.databases = ["actual/user-files/" + groups[0], "actual/server-files/account.sqlite"]
    return site


def reader(crowd, moment):
    """The server itself serves what was restored, as on another machine, and a new device reads it. Which migrations were made, and
    a budget's first copy, are in plain files beside, which are copied."""
    home = os.path.join(crowd.mount.base, "copy-" + moment.name.replace(" ", "-"))
    shutil.copytree(crowd.site.home, home, ignore=shutil.ignore_patterns("*.sqlite*"))
    for d in crowd.site.databases:
        fazt("restore", crowd.mount.source(d), "-i", crowd.mount.key, "--txid", moment.txids[d], "-o",
             os.path.join(home, os.path.relpath(d, "actual")))
    copy = Actual(home, crowd.site.log)
    try:
        copy.start()
        d = Device(copy)
        try:
            return d.driver.call(do="read")["rows"]
        finally:
            d.close()
    finally:
        copy.end()


def scenario(base):
    global MODULES
    MODULES = os.path.join(npm("actual-26.9.0-node-22", *PACKAGES), "node_modules")
    with Mount(base) as m:
        story(base, m, lambda: create(m), writers=2, own_reader=reader)


if __name__ == "__main__":
    main("app-actual", scenario)
