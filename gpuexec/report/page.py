"""The report of a run as one HTML file. It needs no network and no server.

The page is put together from the files in ``assets``; the report is data in it. Nothing of a report is ever written as
markup or executed: its JSON has no character that could end the script element, the page's scripts make text nodes
only, and `markup` does the rest.
"""

from __future__ import annotations

from functools import cache

from gpuexec.report.bounds import Data
from gpuexec.report.markup import ASSETS, chart_library, escaped, filled, one_script, read, source_hash
from gpuexec.report.page_data import page_json
from gpuexec.report.verdict import verdict
from gpuexec.report.wording import on_one_line

_SCRIPTS = ("format", "dom", "states", "charts", "shell", "overview", "stages", "gpus", "events", "node", "main")
_MOST_JSON = 5_000_000  # characters, so that a page has at most 6 MB


def render(report: Data) -> str:
    """Return the page for a report, as ``RunReport.to_dict`` makes it: ASCII only but for the title, at most 6 MB.

    A long run is shown with wider bins, and the newest entries of long lists; the page says what it leaves out. A
    report without a verdict gets one.
    """
    if not report.get("verdict"):
        report = {**report, "verdict": verdict(report)}
    style, script = _style_and_script()
    _, uplot = chart_library()
    parts = {
        "script-hashes": f"{source_hash(uplot)} {source_hash(script)}",
        "style-hash": source_hash(style),
        "title": escaped(f"{on_one_line(report.get('pipeline'), 80)} · gpuexec report"),
        "style": style,
        "sentences": "".join(f"<li>{escaped(found.get('text'))}</li>" for found in report["verdict"]),
        "data": page_json(report, _MOST_JSON),
        "uplot": uplot,
        "script": script,
    }
    return filled(ASSETS / "page.html", parts)


@cache
def _style_and_script() -> tuple[str, str]:
    style = f"{chart_library()[0]}\n{read(ASSETS / 'page.css')}"
    return style, one_script(ASSETS / f"{name}.js" for name in _SCRIPTS)
