#!/usr/bin/python3
# timeout: 60
"""The status page as a file: one, small, in the binary as it is, loads nothing from elsewhere, runs nothing that its policy forbids, never
makes markup of what it is told, and its colours have the contrast that WCAG asks for (4.5) in both schemes. tests/system/page.py opens it."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from faztlib import FAZT, ROOT, main, need  # noqa: E402

SVG = "http://www.w3.org/2000/svg"
FORBIDDEN = {
    "an address": r"(?i)\b(?:https?|wss?|ftp):|[\"'(=]\s*//[a-z0-9]",
    "something to load": r"(?i)\bsrc\s*=|@import|\burl\(|<(?:iframe|object|embed|base|form)\b|\bimport\s*\(|XMLHttpRequest|WebSocket|sendBeacon",
    "an inline handler": r"(?i)<[^>]*\son[a-z]+\s*=",
    "markup made of text": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML|srcdoc",
    "code made of text": r"\beval\s*\(|new Function|set(?:Timeout|Interval)\s*\(\s*[\"'`]|javascript:",
}


def luminance(colour):
    c = colour.lstrip("#")
    c = "".join(x * 2 for x in c) if len(c) == 3 else c
    v = [int(c[i:i + 2], 16) / 255 for i in (0, 2, 4)]
    v = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in v]
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]


def contrast(a, b):
    x, y = sorted((luminance(a), luminance(b)), reverse=True)
    return (x + 0.05) / (y + 0.05)


def colours(text):
    schemes = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)]
    need(len(schemes) == 2 and all(len(s) == 12 for s in schemes), "the page has other colours than it should: %s", schemes)
    for s in schemes:
        for ground in ("bg", "card", "soft"):
            for name in ("text", "muted", "ok", "note", "bad", "accent"):
                c = contrast(s[name], s[ground])
                need(c >= 4.5, "%s %s on %s %s: contrast %.2f", name, s[name], ground, s[ground], c)
        for name in ("accent", "ok", "note", "second", "bad"):  # bars with text of the card's colour; lines
            need(contrast(s["card"], s[name]) >= 4.5, "text on %s: %.2f", name, contrast(s["card"], s[name]))
        need(contrast(s["edge"], s["card"]) >= 3, "borders of boxes and fields: %.2f", contrast(s["edge"], s["card"]))


def scenario(base):
    with open(os.path.join(ROOT, "cmd/page.html"), "rb") as f:
        data = f.read()
    text = data.decode()
    need(len(data) < 60000, "the page has %d bytes", len(data))
    for what, pattern in FORBIDDEN.items():
        m = re.search(pattern, text.replace(SVG, ""))
        need(not m, "the page has %s: %s", what, m and text[max(0, m.start() - 40):m.end() + 40])
    for href in re.findall(r"href=\"(.*?)\"", text):
        need(href == "data:,", "the page refers to %s", href)
    asked = re.findall(r"(?:fetch|EventSource)\(([^,)]*)", text)
    need(sorted(asked) == ['"api/history?database=" + encodeURIComponent(d.name', '"events"'], "the page asks for %s", asked)
    need(text.count("<script>") == 1 and text.count("<script") == 1, "not one script")
    for word in ('lang="en"', "width=device-width", "prefers-color-scheme: dark", "prefers-reduced-motion", ":focus-visible"):
        need(word in text, "the page lacks %s", word)
    colours(text)
    with open(FAZT, "rb") as f:
        need(data in f.read(), "the binary does not hold this page")


main("page", scenario)
