"""The report of a run as one HTML file. It needs no network and no server.

The page is put together from the files in ``assets``; the report is data in it. Nothing of a report is ever written as
markup or executed: its JSON has no character that could end the script element, the page's scripts make text nodes
only, and the page's content security policy allows its own scripts by their hashes and nothing else.
"""

from __future__ import annotations

from functools import cache

from gpuexec.report.bounds import Data, rows
from gpuexec.report.html_page import as_text, asset, chart_library, filled, one_script
from gpuexec.report.page_data import page_json
from gpuexec.report.verdict import verdict
from gpuexec.report.wording import on_one_line

_SCRIPTS = ("format", "dom", "states", "charts", "shell", "overview", "stages", "gpus", "events", "node", "main")
_WITHOUT_SCRIPTS = "<p>The charts of this page need JavaScript. This is what they would say first:</p><ul>{}</ul>"
_MOST_JSON = 5_000_000  # characters, so that a page has at most 6 MB


def render(report: Data) -> str:
    """Return the page for a report, as ``RunReport.to_dict`` makes it: ASCII only but for the title, at most 6 MB.

    A long run is shown with wider bins, and the newest entries of long lists; the page says what it leaves out. A
    report without a verdict gets one.
    """
    report = {**report, "verdict": rows(report.get("verdict")) or verdict(report)}
    style, script = _style_and_script()
    uplot = chart_library()[1]
    parts = {
        "what": "verdict",
        "label": "Verdict",
        "first": _WITHOUT_SCRIPTS.format(
            "".join(f"<li>{as_text(found.get('text'))}</li>" for found in report["verdict"])
        ),
        "data": page_json(report, _MOST_JSON),
        "uplot": uplot,
        "script": script,
    }
    title = f"{on_one_line(report.get('pipeline'), 80)} · gpuexec report"
    return filled(asset("shell.html"), title, style, (uplot, script), parts)


@cache
def _style_and_script() -> tuple[str, str]:
    style = f"{chart_library()[0]}\n{asset('page.css')}"
    return style, one_script(asset(f"{name}.js") for name in _SCRIPTS)
