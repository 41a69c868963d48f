#!/usr/bin/python3
# timeout: 1800
"""A Django site as `django-admin startproject` makes it (PyPI), served by gunicorn with two processes: with the rollback journal that is
its default, and in WAL mode as its documentation sets it. Clients sign in to the admin and add, rename and remove groups; of each addition the
admin's own log must tell, in the same transaction."""
import html
import http.client
import json
import os
import re
import shutil
import sys
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from apps import run, venv  # noqa: E402
from faztlib import Failure, Mount, fazt, main, need  # noqa: E402
from webapp import Site, Unanswered, sql, story  # noqa: E402

PACKAGES = ["Django==5.2.19", "gunicorn==27.0.1"]
WAL = '''
DATABASES["default"]["OPTIONS"] = {"transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"}
'''


class Browser:
    """Signed in to the admin; keeps cookies and sends forms as a browser does."""

    def __init__(self, port):
        self.port, self.cookies, self.ids = port, {}, {}
        self.ask("GET", "/admin/login/")
        if self.ask("POST", "/admin/login/?next=/admin/", username="admin", password="correct horse")[0] != 302:
            raise Failure("the admin did not let us in")

    def ask(self, method, path, **form):
        con = http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)
        headers = {"Cookie": "; ".join("%s=%s" % c for c in self.cookies.items())}
        body = None
        if method == "POST":
            body = urllib.parse.urlencode({**form, "csrfmiddlewaretoken": self.cookies["csrftoken"]})
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            con.request(method, path, body, headers)
            answer = con.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as e:
            raise Unanswered("%s %s: %s: %s" % (method, path, type(e).__name__, e)) from e
        finally:
            con.close()
        if answer.status >= 500:
            raise Unanswered("%s %s: %d %s" % (method, path, answer.status, re.sub(r"\s+", " ", text)[:300]))
        for line in answer.headers.get_all("Set-Cookie") or []:
            name, value = line.split(";")[0].split("=", 1)
            if name != "messages":  # what it shows once; it would grow
                self.cookies[name] = value
        return answer.status, text, answer.headers.get("Location", "")

    def form(self, path, **fields):
        status, text, location = self.ask("POST", path, **fields)
        if status != 302:
            raise Failure("%s: %d %s" % (path, status, re.findall(r'errorlist[^<]*<li>[^<]*', text)))
        return location

    def add(self, key, text):
        at = self.form("/admin/auth/group/add/", name="%s %s" % (key, text), _continue="1")
        self.ids[key] = at.strip("/").split("/")[3]

    def change(self, key, text):
        self.form("/admin/auth/group/%s/change/" % self.id_of(key), name="%s %s" % (key, text))

    def remove(self, key):
        self.form("/admin/auth/group/%s/delete/" % self.id_of(key), post="yes")

    def id_of(self, key):
        if key not in self.ids:
            self.read()
        return self.ids[key]

    def read(self):
        rows, page = {}, 1
        while True:
            text = self.ask("GET", "/admin/auth/group/?p=%d" % page)[1]
            found = re.findall(r'<a href="/admin/auth/group/(\d+)/change/[^"]*">([^<]*)</a>', text)
            for number, name in found:
                key, value = html.unescape(name).split(" ", 1)
                rows[key], self.ids[key] = value, number
            if len(found) < 100:
                return rows
            page += 1

    def close(self):
        pass


class Django(Site):
    databases = ["mysite/db.sqlite3"]
    health = "/admin/login/"

    def command(self):
        return [os.path.join(BIN, "gunicorn"), "mysite.wsgi", "--bind", "127.0.0.1:%d" % self.port, "--workers", "2", "--threads", "2",
                "--worker-class", "gthread"], {}

    def client(self, number):
        return Browser(self.port)

    @staticmethod
    def rows(path):
        return dict(r[0].split(" ", 1) for r in sql(path, "SELECT name FROM auth_group")) if tables(path, "auth_group") else {}


def tables(path, name):
    return sql(path, "SELECT count(*) FROM sqlite_master WHERE name = ?", name)[0][0]


def manage(home, *args):
    return run(os.path.join(BIN, "python"), "manage.py", *args, cwd=home,
               env={**os.environ, "DJANGO_SUPERUSER_PASSWORD": "correct horse", "PYTHONDONTWRITEBYTECODE": "1"})


def create(mount, settings):
    run(os.path.join(BIN, "django-admin"), "startproject", "mysite", cwd=mount.dir)
    home = os.path.join(mount.dir, "mysite")
    with open(os.path.join(home, "mysite", "settings.py"), "a") as f:
        f.write(settings)
    manage(home, "migrate")
    manage(home, "createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.org")
    return Django(home, os.path.join(mount.base, "site.log")).start()


def logged(path, now):
    """Additions and removals in the admin's log, which is written in the same transaction."""
    if tables(path, "django_admin_log"):
        made, gone = (sql(path, "SELECT count(*) FROM django_admin_log WHERE action_flag = ?", f)[0][0] for f in (1, 3))
        need(made - gone == sql(path, "SELECT count(*) FROM auth_group")[0][0], "%s: the admin's log tells of %d additions and %d removals",
             path, made, gone)


def reader(crowd, moment):
    """manage.py on a copy of the project with the restored file, as on another machine."""
    home = os.path.join(crowd.mount.base, "copy")
    shutil.copytree(crowd.site.home, home, ignore=shutil.ignore_patterns("db.sqlite3*"))
    fazt("restore", crowd.mount.source(crowd.site.databases[0]), "-i", crowd.mount.key, "--txid", moment.txids[crowd.site.databases[0]],
         "-o", os.path.join(home, "db.sqlite3"))
    manage(home, "check", "--database", "default")
    manage(home, "migrate", "--check")
    groups = json.loads(manage(home, "dumpdata", "auth.group"))
    shutil.rmtree(home)
    return dict(g["fields"]["name"].split(" ", 1) for g in groups)


def scenario(base):
    global BIN
    BIN = venv("django-5.2.19", *PACKAGES)
    for name, settings, writers in (("journal", "", 1), ("wal", WAL, 3)):
        print("Django, %s" % name, flush=True)
        with Mount(base, name=name, store="store-" + name) as m:
            story(base, m, lambda: create(m, settings), writers=writers, extra=logged, own_reader=reader)


if __name__ == "__main__":
    main("app-django", scenario)
