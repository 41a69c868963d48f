#!/usr/bin/python3
# timeout: 1800
"""PocketBase, a Go program with SQLite in pure Go (modernc.org/sqlite) in WAL mode and two databases, driven by its own JavaScript SDK
(npm): records are added, changed and removed by four clients at once; its own backup is made on the mount, and it serves what was restored."""
import os
import sys
import zipfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from apps import go_program, node_program, npm, run  # noqa: E402
from faztlib import Mount, fazt, integrity, main, need  # noqa: E402
from webapp import Driver, Site, difference, sql, story  # noqa: E402

PACKAGE, VERSION, SDK = "github.com/pocketbase/pocketbase/examples/base", "v0.39.0", "pocketbase@0.28.1"
USER, PASSWORD = "admin@example.org", "correct horse"


class Sdk(Driver):
    def __init__(self, site):
        super().__init__([node_program(), os.path.join(os.path.dirname(os.path.abspath(__file__)), "pocketbase.mjs")],
                         {"MODULES": MODULES, "URL": "http://127.0.0.1:%d" % site.port}, site.log)
        self.call(do="signIn", user=USER, password=PASSWORD)

    def add(self, key, text):
        self.call(do="add", key=key, text=text)

    def change(self, key, text):
        self.call(do="change", key=key, text=text)

    def remove(self, key):
        self.call(do="remove", key=key)

    def read(self):
        return self.call(do="read")["rows"]


class PocketBase(Site):
    databases = ["pb/pb_data/data.db", "pb/pb_data/auxiliary.db"]
    health = "/api/health"

    def command(self):
        return [PROGRAM, "serve", "--http", "127.0.0.1:%d" % self.port, "--dir", os.path.join(self.home, "pb_data")], {}

    def client(self, number):
        return Sdk(self)

    @staticmethod
    def rows(path):
        if not sql(path, "SELECT count(*) FROM sqlite_master WHERE name = 'items'")[0][0]:
            return {}
        return dict(sql(path, "SELECT key, text FROM items"))


def create(mount):
    home = os.path.join(mount.dir, "pb")
    os.mkdir(home)
    run(PROGRAM, "superuser", "upsert", USER, PASSWORD, "--dir", os.path.join(home, "pb_data"))
    site = PocketBase(home, os.path.join(mount.base, "site.log")).start()
    c = Sdk(site)
    c.call(do="create")
    c.close()
    return site


def reader(crowd, moment):
    """PocketBase itself serves the restored databases, as on another machine."""
    home = os.path.join(crowd.mount.base, "copy-" + moment.name.replace(" ", "-"))
    os.makedirs(os.path.join(home, "pb_data"))
    for d in crowd.site.databases:
        fazt("restore", crowd.mount.source(d), "-i", crowd.mount.key, "--txid", moment.txids[d], "-o",
             os.path.join(home, "pb_data", os.path.basename(d)))
    copy = PocketBase(home, crowd.site.log)
    try:
        copy.start()
        c = Sdk(copy)
        try:
            return c.read()
        finally:
            c.close()
    finally:
        copy.end()


def own_backup(crowd):
    """PocketBase's backup, a zip of what lies in the mount, holds what the clients know."""
    c = Sdk(crowd.site)
    c.call(do="backup", name="now.zip")
    c.close()
    out = os.path.join(crowd.mount.base, "unzipped")
    with zipfile.ZipFile(os.path.join(crowd.site.home, "pb_data", "backups", "now.zip")) as z:
        z.extractall(out)
    path = os.path.join(out, "data.db")
    need(integrity(path) == "ok", "PocketBase's own backup: %s", integrity(path))
    rows = PocketBase.rows(path)
    need(rows == crowd.known(), "PocketBase's own backup: %s", difference(rows, crowd.known()))


def scenario(base):
    global PROGRAM, MODULES
    PROGRAM = go_program("pocketbase-" + VERSION, PACKAGE, VERSION)
    MODULES = os.path.join(npm("pocketbase-sdk-" + SDK.split("@")[1], SDK), "node_modules")
    with Mount(base) as m:
        story(base, m, lambda: create(m), writers=4, own_reader=reader, at_rest=own_backup)


if __name__ == "__main__":
    main("app-pocketbase", scenario)
