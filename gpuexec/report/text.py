"""A stored report as text."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping
from typing import Any

from gpuexec.report.columns import Column, lay_out, printable
from gpuexec.report.wording import counted
from gpuexec.report.wording import seconds as in_words

_COLUMNS = (
    Column("workers", 4),
    Column("in", 1),
    Column("out", 0),
    Column("tasks/s", 2),
    Column("busy", 3),
    Column("p50 s", 5),
    Column("p99 s", 6),
)
_IDLE_SHOWN = 2  # reasons of a stage
_SHARE_SHOWN = 0.01
_MOST_FAILURES = 5
_INDENT = "  "

Data = Mapping[str, Any]


def report_lines(report: Data, outcome: str, width: int) -> Iterator[str]:
    """Yield lines of at most ``width`` columns. ``outcome``: what became of the run.

    A dash stands for a figure that the report lacks.
    """
    yield from _wrapped(_heading(report, outcome), width)
    for finding in _rows(report, "verdict"):
        yield from _wrapped(str(finding.get("text", "")), width)
    stages = _rows(report, "stages")
    if stages:
        yield ""
        cells = [_cells(report, stage) for stage in stages]
        heading, *rows = lay_out("stage", [str(stage.get("name")) for stage in stages], _COLUMNS, cells, width)
        yield heading
        yield "─" * min(width, max(map(len, (heading, *rows))))
        for stage, row in zip(stages, rows, strict=True):
            yield row
            for detail in _details(stage):
                yield from _wrapped(detail, width, _INDENT)
    failures = _rows(report, "failures")
    if failures:
        yield ""
        yield counted(len(failures), "failed attempt") + (", the last ones:" if len(failures) > _MOST_FAILURES else ":")
        for failure in failures[-_MOST_FAILURES:]:
            yield from _wrapped(_failure(failure), width, _INDENT)


def _heading(report: Data, outcome: str) -> str:
    started = report.get("started_at")
    when = "" if started is None else f", {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(started))}"
    seconds = report.get("wall_s") or report.get("elapsed_s")
    took = "" if seconds is None else f" after {in_words(seconds)}"
    text = f"{_line(report.get('pipeline'))} ({report.get('run_id')}){when}: {outcome}{took}"
    tasks = f", {report.get('tasks_in') or 0:,} tasks in, {report.get('tasks_out') or 0:,} out"
    rate = report.get("throughput_per_s")
    error = report.get("error")
    return text + tasks + (f", {rate:,.4g}/s" if rate else "") + (f". {_line(error)}" if error else "")


def _cells(report: Data, stage: Data) -> list[str]:
    lead, spent = stage.get("lead_index"), stage.get("time") or {}
    workers = sum(w.get("stage_index") == lead and bool(w.get("batches")) for w in _rows(report, "workers"))
    lived, times = sum(spent.values()), stage.get("service_time") or {}
    return [
        str(workers),
        _figure(stage.get("tasks_in"), ","),
        _figure(stage.get("tasks_out"), ","),
        _figure(stage.get("tasks_per_s"), ",.4g"),
        f"{100 * spent.get('busy', 0.0) / lived:.0f} %" if lived else "–",
        _figure(times.get("p50_s"), ".3g"),
        _figure(times.get("p99_s"), ".3g"),
    ]


def _details(stage: Data) -> Iterator[str]:
    spent = stage.get("time") or {}
    lived = sum(spent.values())
    idle = sorted(((s, reason) for reason, s in spent.items() if reason != "busy"), reverse=True)
    shown = [
        f"{reason.replace('_', ' ')} {100 * s / lived:.0f} %"
        for s, reason in idle[:_IDLE_SHOWN]
        if s > _SHARE_SHOWN * lived
    ]
    if shown:
        yield "otherwise: " + ", ".join(shown)
    if failed := stage.get("failed_attempts"):
        yield counted(failed, "failed attempt")
    if quarantined := stage.get("quarantined"):
        yield f"{quarantined:,} quarantined"


def _failure(failure: Data) -> str:
    error = (str(failure.get("error")).splitlines() or [""])[-1]
    replay = f"; gpuexec replay {failure['capsule']}" if failure.get("capsule") else ""
    return f"{_line(failure.get('worker'))}: {_line(error)} ({failure.get('action')}){replay}"


def _figure(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)


def _line(text: Any) -> str:
    """Return a text as one line that moves no cursor."""
    return printable(str(text))


def _rows(report: Data, name: str) -> list[Data]:
    rows = report.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(text, max(20, width), initial_indent=indent, subsequent_indent=indent + _INDENT)
