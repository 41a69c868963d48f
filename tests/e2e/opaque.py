#!/usr/bin/python3
"""A database that does not look like one: SQLCipher encrypts every page, so there is no SQLite header, and `databases` in the
config names it. An application that behaves as SQLCipher does (pages of random bytes, a rollback journal with SQLite's own
header, unlinked at the commit) is captured page by page, commit by commit."""
import hashlib
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import Mount, fazt, fazt_json, main, need  # noqa: E402
from witness import entries_of, once, restored  # noqa: E402

PAGE = 4096
MAGIC = bytes.fromhex("d9d505f920a163d7")


def digest(pages):
    data = bytearray(b"".join(pages))
    data[18:20] = b"\0\0"
    return hashlib.sha256(data).hexdigest()


class Cipher:
    """Writes as SQLite's pager does in journal_mode=DELETE, synchronous=FULL. states: what is committed."""

    def __init__(self, path):
        self.path, self.pages, self.states, self.uncut = path, [], [], set()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def commit(self, changes, size=None, rollback=False):
        """changes: page number -> new bytes; size: number of pages afterwards."""
        old = list(self.pages)
        size = size or max([len(old), *changes])
        j = os.open(self.path + "-journal", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        before = [p for p in sorted(set(changes) | set(range(size + 1, len(old) + 1))) if p <= len(old)]
        nonce = 12345
        os.pwrite(j, struct.pack(">8sIIIII", MAGIC, len(before), nonce, len(old), 512, PAGE).ljust(512, b"\0"), 0)
        at = 512
        for p in before:
            page = old[p - 1]
            check = (nonce + sum(page[i] for i in range(PAGE - 200, 0, -200))) & 0xffffffff
            os.pwrite(j, struct.pack(">I", p) + page + struct.pack(">I", check), at)
            at += PAGE + 8
        os.fsync(j)
        for p, data in changes.items():
            os.pwrite(self.fd, data, (p - 1) * PAGE)
        if rollback:
            for p in before:
                os.pwrite(self.fd, old[p - 1], (p - 1) * PAGE)
            os.ftruncate(self.fd, len(old) * PAGE)
            os.fsync(self.fd)
        else:
            self.pages = (old + [bytes(PAGE)] * size)[:size]
            for p, data in changes.items():
                if p <= size:
                    self.pages[p - 1] = data
            os.fsync(self.fd)
        os.close(j)
        os.unlink(self.path + "-journal")
        if not rollback:
            self.note(self.pages)
            if size < len(old):
                # the file is cut after the commit, and only the encrypted header tells where: until then its old end
                # belongs to it, as far as anybody without the key can know
                self.uncut.add(digest(self.pages + old[size:]))
                os.ftruncate(self.fd, size * PAGE)

    def note(self, pages):
        self.states.append(digest(pages))

    def reopen(self):
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def close(self):
        os.close(self.fd)


def work(c):
    c.commit({1: os.urandom(PAGE), 2: os.urandom(PAGE)})
    c.commit({2: os.urandom(PAGE), **{p: os.urandom(PAGE) for p in range(3, 40)}})
    c.commit({5: os.urandom(PAGE), 6: os.urandom(PAGE)}, rollback=True)
    c.reopen()
    c.commit({7: os.urandom(PAGE)})
    c.commit({8: os.urandom(PAGE), 41: os.urandom(PAGE), 40: os.urandom(PAGE)}, rollback=True)
    c.commit({1: os.urandom(PAGE)}, size=20)
    c.commit({1: os.urandom(PAGE), 21: os.urandom(PAGE)})


def judge(mount, name, states, uncut):
    mount.sync()
    got = [g for g in once(restored(mount, name, entries_of(mount, name))) if g not in uncut]
    need(all(g in states for g in got), "%s: a state in the store was never committed", name)
    need(got == states, "%s: %d of %d commits are in the store", name, len(got), len(states))


def run(base):
    conf = os.path.join(base, "fazt.conf")
    with open(conf, "w") as f:
        f.write("[mount]\ndatabases = *.cipher\n")
    mount = Mount(base, "--config", conf)
    # one is there before the mount, and nobody opens it
    before = Cipher(os.path.join(mount.dir, "before.cipher"))
    before.commit({p: os.urandom(PAGE) for p in range(1, 6)})
    before.close()
    with mount:
        mount.start()
        judge(mount, "before.cipher", before.states, before.uncut)
        c = Cipher(os.path.join(mount.dir, "app.cipher"))
        work(c)
        judge(mount, "app.cipher", c.states, c.uncut)
        c.close()
        with open(os.path.join(mount.dir, "other.bin"), "wb") as f:
            f.write(os.urandom(PAGE * 3))
        mount.sync()
        names = {d["name"] for d in mount.status()["databases"]}
        need(names == {"before.cipher", "app.cipher"}, "databases: %s", names)
        mount.umount()
        mount.start()
        c = Cipher(os.path.join(mount.dir, "app.cipher"))
        c.pages = [os.pread(c.fd, PAGE, i * PAGE) for i in range(os.fstat(c.fd).st_size // PAGE)]
        first = len(entries_of(mount, "app.cipher"))
        c.commit({3: os.urandom(PAGE)})
        mount.sync()
        need(len(entries_of(mount, "app.cipher")) == first + 1, "after a new mount: one commit more was expected")
        mount.restore("app.cipher", os.path.join(base, "out"))
        with open(os.path.join(base, "out"), "rb") as f:
            need(f.read() == b"".join(c.pages), "the latest state differs")
        c.close()
        r = fazt("log", "--tables", "--json", "-i", mount.key, mount.source("app.cipher"))
        need('"tables"' not in r.stdout and "the tables cannot be told" in r.stderr, "tables of opaque pages: %s", r.stderr)
        live = fazt_json("verify", "--live", "--json", mount.dir)
        need(live["differences"] == 0, "verify --live: %s", live)
        mount.umount()


if __name__ == "__main__":
    main("opaque", run)
