"""A sweep as one HTML file, which needs no network and no server. It links to the reports of its runs beside it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from gpuexec.bench.analysis import Analysis
from gpuexec.bench.labels import no_answer
from gpuexec.bench.model import Sweep
from gpuexec.bench.page_data import page_data
from gpuexec.bench.table import SweepTable
from gpuexec.report.compact_json import compact_json
from gpuexec.report.html_page import as_text, asset, chart_library, filled, one_script
from gpuexec.report.wording import on_one_line

_ASSETS = Path(__file__).parent / "assets"
_SHARED = ("format", "dom", "states", "charts", "shell")  # with the page of a report
_OWN = ("points", "maps", "curves", "front", "sweep")
_WITHOUT_SCRIPTS = "<p>The charts of this page need JavaScript. This is what it would say first:</p>{}<pre>{}</pre>"
_COLUMNS = 100  # of the table for those without JavaScript


def write_page(path: str | os.PathLike[str], sweep: Sweep, analysis: Analysis) -> None:
    """Write the page of a sweep. Links to reports are relative to its folder. Raises ``OSError``."""
    file = Path(path)
    file.write_text(render(sweep, analysis, str(file.absolute().parent)), encoding="utf-8")


def render(sweep: Sweep, analysis: Analysis, folder: str) -> str:
    """Return the page. ``folder``: where it will be."""
    style, script = _style_and_script()
    uplot = chart_library()[1]
    answer = analysis.answer
    sentences = answer.sentences if answer else (no_answer(sweep.goal),)
    parts = {
        "what": "answer",
        "label": "Answer",
        "first": _WITHOUT_SCRIPTS.format(
            "".join(f"<p>{as_text(sentence)}</p>" for sentence in sentences),
            as_text("\n".join(SweepTable(analysis, sweep).lines(_COLUMNS))),
        ),
        "data": compact_json(page_data(sweep, analysis, folder)),
        "uplot": uplot,
        "script": script,
    }
    return filled(
        asset("shell.html"), f"{on_one_line(sweep.target, 80)} · gpuexec bench", style, (uplot, script), parts
    )


@cache
def _style_and_script() -> tuple[str, str]:
    style = "\n".join((chart_library()[0], asset("page.css"), _own("sweep.css")))
    shared, own = (asset(f"{name}.js") for name in _SHARED), (_own(f"{name}.js") for name in _OWN)
    return style, one_script([*shared, *own])


def _own(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
