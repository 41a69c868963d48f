#!/usr/bin/python3
# timeout: 900
"""The status page in a real Chromium: a primary with 500 databases, some with hostile names, one target that works and one that does
not, and a replica. What is committed shows; names are text; nothing is asked of anybody else; the console stays silent; narrow and
wide, light and dark, by keyboard and with reduced motion; what it says about restoring is true; a lost connection is told and comes
back. Pictures are left in $B/system-logs."""
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from chromium import Chromium  # noqa: E402
from cluster import Counted, Host, free_port  # noqa: E402
from faztlib import BUILD, FAZT, fazt, fazt_json, main, need, serialize_hash, wait_for  # noqa: E402

PICTURES = os.path.join(BUILD, "system-logs")
MANY = 500
HOSTILE = ["<img src=x onerror=\"window.hacked=1\">.db", "'; window.hacked=1; '$(touch hacked)`touch hacked`.db",
           "\u202edb.gpj \"quoted\" \\ .db", "</script><script>window.hacked=1</script>.db"[:-3].replace("/", "\\") + ".db",
           os.fsdecode(b"caf\xe9 \\' latin1.db")]
ROW = "[...document.querySelectorAll('#rows tr')].find(r => r.querySelector('bdi').textContent === %s)"
CELL = {"rate": 1, "txid": 3, "lag": 5, "state": 6}


def typed(name):
    """As one asks the page for it: bytes that are no UTF-8 as they are told."""
    return re.sub("[\udc80-\udcff]", lambda m: "\\x%02x" % (ord(m[0]) - 0xdc00), name)


def visible(name):
    """As the page shows it."""
    return re.sub("[\u202a-\u202e]", lambda m: "\u27e8U+%04X\u27e9" % ord(m[0]), typed(name))


def row(name):
    return ROW % json.dumps(visible(name))


def cell(c, name, what):
    return c.js("%s?.children[%d].textContent" % (row(name), CELL[what]))


def look_for(c, text):
    c.js("{ const f = document.getElementById('filter'); f.value = %s; f.dispatchEvent(new Event('input')) }" % json.dumps(text))


def databases(m):
    """Hostile ones first, and then so many that nobody would want all of them in a page."""
    for name in HOSTILE + ["many/%03d.db" % i for i in range(MANY - len(HOSTILE) - 1)]:
        path = os.path.join(m.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        con = sqlite3.connect(path)
        con.execute("PRAGMA journal_mode=WAL")
        con.execute("CREATE TABLE t(x)")
        con.close()
    fazt("sync", m.dir)


def harmless(c, origin):
    """Nobody else was asked, nothing complained, no name became markup or code."""
    for url in c.requests:
        need(url.startswith(origin) or url in ("about:blank", "data:,"), "the page asked for %s", url)
    need(not c.complaints, "the browser complains: %s", c.complaints)
    need(c.js("document.querySelectorAll('img, iframe, object, embed').length + document.scripts.length") == 1, "foreign elements")
    need(c.js("window.hacked") is None, "a name was run")


def commits_show(c, m, app):
    c.until("the row", row("app.db"))
    for _ in range(3):
        app.commit()
        fazt("sync", m.dir)
        txid = m.database("app.db")["txid"]
        c.until("transaction %d" % txid, "%s.children[3].textContent.replaceAll(',', '') === '%d'" % (row("app.db"), txid))
        c.until("its event", "[...document.querySelectorAll('#events li')].some(l => /app\\.db: transactions? (.* to )?%s,/"
                ".test(l.textContent))" % format(txid, ","))

    def rate():
        for _ in range(20):
            app.commit()
        c.pump(0.05)
        return c.js("parseFloat(document.getElementById('rate-now').textContent.replaceAll(',', '')) > 1")
    wait_for("a rate of commits", rate, 90)
    need(c.js("document.querySelector('#rate .first').getAttribute('d').length") > 20, "the plot is empty")


def picture_tells(c, replica):
    """The topology: each with its state as a word, and lines that differ by more than their colour."""
    text = c.js("document.querySelector('#picture svg').textContent")
    for words in ("this host: primary", "good", "ok", "broken", "retrying", "connected", "target, lag", "replica, lag"):
        need(words in text, "the picture lacks '%s': %s", words, text)
    label = c.js("document.querySelector('#picture svg').getAttribute('aria-label')")
    need("target good: ok" in label and "target broken: retrying" in label, "its label: %s", label)
    lines = c.js("[...document.querySelectorAll('#picture .edge')].map(e => getComputedStyle(e).strokeDasharray)")
    need(len(set(lines)) == 2, "lines to what is well and what is not look alike without colours: %s", lines)
    c.until("the problem", "document.getElementById('problems').textContent.includes('target broken')")
    replica.umount()
    c.until("the replica's absence", "document.querySelector('#picture svg').textContent.includes('away')")


def plots(c):
    """Numbers of any size have room beside the axes; what there is has a line, and nothing else."""
    cut = c.js("(series.push({ t: Date.now(), rate: 123456, targets: 300000, replicas: 0 }), draw_plots(), series.pop(), "
               "[...document.querySelectorAll('#rate text, #lag text')].filter(e => e.getBBox().x < 0).map(e => e.textContent))")
    need(not cut, "labels begin outside the plot: %s", cut)
    lines = c.js("[[], status.targets].map((t, i, all) => { status.targets = t; draw_plots(); "
                 "return document.querySelectorAll('#lag .first').length })")
    need(lines == [0, 1], "lines of targets, without and with any: %s", lines)


def many(c):
    count = "document.querySelectorAll('#rows tr').length"
    look_for(c, "")
    c.until("not all rows at once", count + " === 20")
    c.js("document.getElementById('more').click()")
    c.until("more rows", count + " === 120")
    look_for(c, "MANY/123")
    c.until("the one", count + " === 1 && " + row("many/123.db"))
    for name in HOSTILE:
        look_for(c, typed(name))
        c.until("%r as text" % name, row(name))
        need(c.js(row(name) + ".querySelector('bdi').childElementCount") == 0, "%r became markup", name)
    look_for(c, "no such name")
    c.until("a word about none", "document.getElementById('shown').textContent.includes('No database')")
    look_for(c, "")


def run_command(c, base, name):
    """Runs what the page says, and returns the file that it made."""
    text = c.js("document.getElementById('command').textContent")
    out = os.path.join(base, "restored.db")
    if os.path.exists(out):
        os.unlink(out)
    need(text.startswith("fazt restore ") and text.endswith(" -o restored.db"), "the command is %s", text)
    r = subprocess.run(["bash", "-c", 'fazt() { "%s" "$@"; }; %s' % (FAZT, text)], cwd=base, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, errors="replace", timeout=60)
    need(r.returncode == 0 and os.path.exists(out), "%s: exit %d: %s", text, r.returncode, r.stdout)
    need(not os.path.exists(os.path.join(base, "hacked")), "the name of %r was run by the shell", name)
    return out


def restoring(c, base, m, app):
    """By keyboard: a database is chosen, and a moment of it."""
    for name in (HOSTILE[1], HOSTILE[2], HOSTILE[4], "app.db"):
        look_for(c, typed(name))
        c.until("its row", row(name))
        c.js(row(name) + ".querySelector('button').focus()")
        c.key("Enter", 13, "\r")
        c.until("it to be chosen", "document.getElementById('time-of').textContent === %s" % json.dumps(visible(name)))
        c.until("its moments", "/every commit/.test(document.getElementById('tiers').textContent) && "
                "!document.getElementById('command').hidden")
        path = os.path.join(m.dir, name)
        need(serialize_hash(run_command(c, base, name)) == serialize_hash(path), "restored from the page, %r differs", name)
    app.commit()
    fazt("sync", m.dir)
    moments = len(fazt_json("log", "--json", os.path.join(m.dir, "app.db")))
    c.until("all of %d moments" % moments, "document.getElementById('tiers').textContent.replaceAll(',', '')"
            ".includes('local log: every commit %d moments')" % moments, 40)
    fazt("sync", m.dir)
    c.until("the moments that the target can bring back", "document.getElementById('tiers').textContent.includes('good: every commit')", 60)
    lanes = c.js("document.querySelector('#timeline svg').textContent")
    need("local log" in lanes and "good" in lanes and "now" in lanes, "the timeline shows %s", lanes)
    c.until("that nothing is proven", "document.getElementById('tiers').textContent.includes('No restore drill')")
    fazt("verify", "--full", "-i", m.key, "dir:%s/store/app.db" % base)
    c.until("what the drill proved", "/good: commit [0-9,]+ of .* was proven/.test(document.getElementById('tiers').textContent)", 60)
    c.js("document.getElementById('moment').focus()")
    for _ in range(30):
        c.key("ArrowLeft", 37)
    c.until("an older moment", "document.getElementById('command').textContent.includes(' --at ')")
    at = c.js("document.getElementById('command').textContent").split(" --at ")[1].split()[0]
    out = run_command(c, base, "app.db")
    told = fazt_json("restore", os.path.join(m.dir, "app.db"), "--at", at, "--json", "--dry-run", "-o", "x")
    con = sqlite3.connect(out)
    n, rows = con.execute("SELECT n, (SELECT count(*) FROM t) FROM meta").fetchone()
    con.close()
    need(n == rows and told["txid"] <= moments + 1, "restored state %d has %d rows", n, rows)
    look_for(c, "")


def fits(c, base):
    for scheme in ("light", "dark"):
        c.media(prefers_color_scheme=scheme)
        for width in (320, 390, 760, 1280):
            c.size(width, 800, 2 if width < 500 else 1)
            c.until("a picture as wide as the page", "document.querySelector('#picture svg').viewBox.baseVal.width <= innerWidth")
            need(c.js("document.documentElement.scrollWidth") <= width, "a page %d wide scrolls to the side", width)
            beyond = c.js("[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 0.5 && "
                          "!e.closest('svg') && !e.closest('thead')).map(e => e.tagName + '#' + e.id + '.' + e.className)")
            need(not beyond, "at %d wide these stick out: %s", width, beyond)
            c.picture(os.path.join(PICTURES, "page-%s-%d.png" % (scheme, width)))
        need(c.js("getComputedStyle(document.body).backgroundColor") == {"light": "rgb(244, 246, 248)", "dark": "rgb(14, 20, 26)"}[scheme],
             "%s has another ground", scheme)
    c.media(prefers_reduced_motion="reduce")
    c.until("no motion", "document.getAnimations().length === 0")
    c.media()


def named(c):
    """Whatever can be operated or is a picture has a name for those who cannot see it; and each can be reached by Tab."""
    c.call("Accessibility.enable")
    for node in c.call("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in ("button", "textbox", "searchbox", "combobox", "slider", "checkbox", "image", "img", "table"):
            if role == "table":
                continue
            need(node.get("name", {}).get("value", "").strip(), "a %s has no name: %s", role, node)
    c.call("Accessibility.disable")
    need(c.js("[...document.querySelectorAll('[tabindex]')].every(e => e.tabIndex === 0)"), "a place in the order of Tab is forced")
    reached = set()
    c.js("document.activeElement?.blur()")
    for _ in range(70):
        c.key("Tab", 9)
        reached.add(c.js("document.activeElement?.id || document.activeElement?.type || document.activeElement?.tagName"))
    need({"filter", "order", "button", "moment", "command", "with-tx", "events"} <= reached, "Tab reaches %s", reached)
    outline = c.js("document.getElementById('filter').focus(), getComputedStyle(document.getElementById('filter')).outlineWidth")
    need(outline == "3px", "what has the focus is not marked: %s", outline)


def connection(c, m, app, origin):
    m.kill_worker()
    c.until("a word about the lost connection", "!document.getElementById('lost').hidden")
    c.until("its return", "document.getElementById('lost').hidden && document.getElementById('live').textContent === 'live'")
    c.until("the restart", "document.getElementById('facts').textContent.includes('Restarts1')")
    app.commit()
    fazt("sync", m.dir)
    txid = format(m.database("app.db")["txid"], ",")
    look_for(c, "app.db")
    c.until("what was committed since", "%s.children[3].textContent === '%s'" % (row("app.db"), txid))
    # The browser itself says that a connection broke; nothing else may be said.
    c.complaints = [x for x in c.complaints if not (x.startswith("network: Failed to load resource: net::ERR_") and origin in x)]
    harmless(c, origin)
    app.close()
    m.umount()
    c.until("the end", "!document.getElementById('lost').hidden && document.title.startsWith('not connected')")


def scenario(base):
    os.makedirs(PICTURES, exist_ok=True)
    port, conf = free_port(), os.path.join(base, "conf")
    open(os.path.join(base, "file"), "w").close()
    with open(conf, "w") as f:
        f.write("[target good]\nurl = dir:%s/store\n[target broken]\nurl = dir:%s/file/x\nlag_max = 1ms\n" % (base, base))
    m = Host(base, "one", "--config", conf, "--http", ":%d" % port)
    replica = Host(base, "two")
    m.primary(replica)
    replica.replica_of(m)
    origin = "http://127.0.0.1:%d/" % port
    with m.start(), replica.start(), Chromium(base) as c:
        app = Counted(os.path.join(m.dir, "app.db"))
        databases(m)
        c.open(origin)
        c.until("the page", "!document.getElementById('main').hidden")
        look_for(c, "app.db")
        commits_show(c, m, app)
        look_for(c, "")
        fits(c, base)
        c.size(1280)
        plots(c)
        picture_tells(c, replica)
        many(c)
        named(c)
        restoring(c, base, m, app)
        harmless(c, origin)
        connection(c, m, app, origin)


if not shutil.which("bash"):
    sys.exit("bash is needed")
main("page", scenario)
