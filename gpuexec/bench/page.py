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
from gpuexec.report import markup
from gpuexec.report.compact_json import compact_json
from gpuexec.report.wording import on_one_line

_ASSETS = Path(__file__).parent / "assets"
_SHARED = ("format", "dom", "states", "charts", "shell")  # with the page of a report
_OWN = ("points", "maps", "curves", "front", "sweep")
_COLUMNS = 100  # of the table for those without JavaScript


def write_page(path: str | os.PathLike[str], sweep: Sweep, analysis: Analysis) -> None:
    """Write the page of a sweep. Links to reports are relative to its folder. Raises ``OSError``."""
    file = Path(path)
    file.write_text(render(sweep, analysis, str(file.absolute().parent)), encoding="utf-8")


def render(sweep: Sweep, analysis: Analysis, folder: str) -> str:
    """Return the page. ``folder``: where it will be."""
    style, script = _style_and_script()
    _, uplot = markup.chart_library()
    answer = analysis.answer
    sentences = answer.sentences if answer else (no_answer(sweep.goal),)
    parts = {
        "script-hashes": f"{markup.source_hash(uplot)} {markup.source_hash(script)}",
        "style-hash": markup.source_hash(style),
        "title": markup.escaped(f"{on_one_line(sweep.target, 80)} · gpuexec bench"),
        "style": style,
        "sentences": "".join(f"<p>{markup.escaped(sentence)}</p>" for sentence in sentences),
        "table": markup.escaped("\n".join(SweepTable(analysis, sweep).lines(_COLUMNS))),
        "data": compact_json(page_data(sweep, analysis, folder)),
        "uplot": uplot,
        "script": script,
    }
    return markup.filled(_ASSETS / "sweep.html", parts)


@cache
def _style_and_script() -> tuple[str, str]:
    styles = (markup.chart_library()[0], markup.read(markup.ASSETS / "page.css"), markup.read(_ASSETS / "sweep.css"))
    scripts = [markup.ASSETS / f"{name}.js" for name in _SHARED] + [_ASSETS / f"{name}.js" for name in _OWN]
    return "\n".join(styles), markup.one_script(scripts)
