"""The report of a run as one HTML file. It needs no network and no server.

The page is put together from the files in ``assets``; the report is data in it. Nothing of a report is ever written as
markup or executed: its JSON has no character that could end the script element, the page's scripts make text nodes
only, and the page's content security policy allows its own scripts by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from functools import cache
from pathlib import Path

from gpuexec.report.bounds import Data, rows
from gpuexec.report.page_data import page_json
from gpuexec.report.verdict import verdict
from gpuexec.report.wording import on_one_line

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("format", "dom", "states", "charts", "overview", "stages", "gpus", "events", "node", "main")
_MOST_JSON = 5_000_000  # characters, so that a page has at most 6 MB
_MARKER = re.compile(r"\{\{([\w-]+)\}\}")


def render(report: Data) -> str:
    """Return the page for a report, as ``RunReport.to_dict`` makes it: ASCII only but for the title, at most 6 MB.

    A long run is shown with wider bins, and the newest entries of long lists; the page says what it leaves out. A
    report without a verdict gets one.
    """
    report = {**report, "verdict": rows(report.get("verdict")) or verdict(report)}
    style, uplot, script, template = _assets()
    parts = {
        "script-hashes": f"{source_hash(uplot)} {source_hash(script)}",
        "style-hash": source_hash(style),
        "title": _text(f"{on_one_line(report.get('pipeline'), 80)} · gpuexec report"),
        "style": style,
        "sentences": "".join(f"<li>{_text(found.get('text'))}</li>" for found in report["verdict"]),
        "data": page_json(report, _MOST_JSON),
        "uplot": uplot,
        "script": script,
    }
    # One pass: what is put in is not searched for markers.
    return _MARKER.sub(lambda found: parts[found.group(1)], template)


def _text(value: object) -> str:
    """Return text for use as markup. Halves of surrogate pairs, as in undecodable file names, have no UTF-8 form."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


@cache
def _assets() -> tuple[str, str, str, str]:
    """Return style, chart library, script and template."""
    uplot = _ASSETS / "uplot"
    style = f"{_read(uplot / 'uPlot.min.css')}\n{_read(_ASSETS / 'page.css')}"
    body = "\n".join(_read(_ASSETS / f"{name}.js") for name in _SCRIPTS)
    # One function around all, so that the page has no global names but the chart library's.
    script = f'(() => {{\n"use strict";\n{body}}})();\n'
    licence = "\n".join(f" * {line}".rstrip() for line in _read(uplot / "LICENSE").splitlines())
    library = f"/*\n{licence}\n */\n{_read(uplot / 'uPlot.iife.min.js')}"
    return style, library, script, _read(_ASSETS / "page.html")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def source_hash(text: str) -> str:
    """Return what stands for a script or style in a content security policy."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
