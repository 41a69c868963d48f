#!/usr/bin/python3
# timeout: 1800
"""A Node.js site on better-sqlite3 (npm): two processes, WAL, memory-mapped reads, an index beside each row and a journal entry in the same
transaction; it vacuums and makes its own backup by SQLite's backup API in the mount. Driven over HTTP by four clients."""
import http.client
import json
import os
import shutil
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from apps import node_program, npm  # noqa: E402
from faztlib import Mount, fazt, integrity, main, need  # noqa: E402
from webapp import Site, Unanswered, difference, sql, story  # noqa: E402

PACKAGE = "better-sqlite3@12.11.1"
HERE = os.path.dirname(os.path.abspath(__file__))


class Client:
    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None):
        con = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        try:
            con.request(method, path, body)
            answer = con.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as e:
            raise Unanswered("%s %s: %s: %s" % (method, path, type(e).__name__, e)) from e
        finally:
            con.close()
        if answer.status != 200:
            raise Unanswered("%s %s: %d %s" % (method, path, answer.status, text[:300]))
        return json.loads(text)

    def add(self, key, text):
        self.ask("PUT", "/rows/" + urllib.parse.quote(key), text)

    def change(self, key, text):
        self.ask("PATCH", "/rows/" + urllib.parse.quote(key), text)

    def remove(self, key):
        self.ask("DELETE", "/rows/" + urllib.parse.quote(key))

    def read(self):
        return self.ask("GET", "/rows/")

    def close(self):
        pass


class NodeSite(Site):
    databases = ["node/site.db"]
    pace = 0.03

    def command(self):
        return [node_program(), os.path.join(HERE, "site.mjs")], {"MODULES": MODULES, "PORT": str(self.port)}

    def alive(self):
        try:
            self.client(0).read()
            return True
        except Unanswered:
            return False

    def client(self, number):
        return Client(self.port)

    @staticmethod
    def rows(path):
        return dict(sql(path, "SELECT key, text FROM rows")) if has_tables(path) else {}


def has_tables(path):
    return sql(path, "SELECT count(*) FROM sqlite_master WHERE name = 'journal'")[0][0]


def create(mount):
    home = os.path.join(mount.dir, "node")
    os.mkdir(home)
    return NodeSite(home, os.path.join(mount.base, "site.log")).start()


def in_its_journal(path, now):
    """Each op has its entry, in the same transaction."""
    if has_tables(path):
        ops = sum(now.values())
        entries = sql(path, "SELECT count(*) FROM journal")[0][0]
        need(entries == ops, "%s holds %d ops and %d entries of them", path, ops, entries)


def vacuum_and_backup(crowd):
    c = crowd.writers[0].client
    c.ask("POST", "/vacuum")
    c.ask("POST", "/backup")
    path = os.path.join(crowd.site.home, "backup.db")
    need(integrity(path) == "ok", "the site's own backup: %s", integrity(path))
    rows = NodeSite.rows(path)
    need(rows == crowd.known(), "the site's own backup: %s", difference(rows, crowd.known()))


def reader(crowd, moment):
    """The site itself on a restored file."""
    home = os.path.join(crowd.mount.base, "copy")
    os.mkdir(home)
    fazt("restore", crowd.mount.source(crowd.site.databases[0]), "-i", crowd.mount.key, "--txid", moment.txids[crowd.site.databases[0]], "-o",
         os.path.join(home, "site.db"))
    copy = NodeSite(home, crowd.site.log)
    try:
        return copy.start().client(0).read()
    finally:
        copy.end()
        shutil.rmtree(home)


def scenario(base):
    global MODULES
    MODULES = os.path.join(npm("better-sqlite3-12.11.1-node-22", PACKAGE), "node_modules")
    with Mount(base) as m:
        story(base, m, lambda: create(m), writers=4, extra=in_its_journal, own_reader=reader, at_rest=vacuum_and_backup)


if __name__ == "__main__":
    main("app-better-sqlite3", scenario)
