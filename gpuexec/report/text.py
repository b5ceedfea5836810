"""A stored report as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpuexec.report.bounds import Data, finite, number, row, rows, shard_of
from gpuexec.report.columns import INDENT, Column, cell_width, lay_out, wrapped
from gpuexec.report.wording import counted, moment
from gpuexec.report.wording import seconds as in_words
from gpuexec.units import format_bytes

_COLUMNS = (
    Column("workers", 4),
    Column("in", 1),
    Column("out", 0),
    Column("tasks/s", 2),
    Column("busy", 3),
    Column("p50", 5),
    Column("p99", 6),
)
_IDLE_SHOWN = 2  # reasons of a stage
_SHARE_SHOWN = 0.01
_MOST_FAILURES = 5


def report_lines(report: Data, outcome: str, width: int) -> Iterator[str]:
    """Yield lines of at most ``width`` columns. ``outcome``: what became of the run.

    A dash stands for a figure that the report lacks, or has something else than a number for.
    """
    yield from wrapped(_heading(report, outcome), width)
    for finding in rows(report.get("verdict")):
        yield from wrapped(str(finding.get("text", "")), width)
    stages = rows(report.get("stages"))
    if stages:
        yield ""
        cells = [_cells(report, stage) for stage in stages]
        heading, *lines = lay_out("stage", [str(stage.get("name")) for stage in stages], _COLUMNS, cells, width)
        yield heading
        yield "─" * min(width, max(map(cell_width, (heading, *lines))))
        for stage, line in zip(stages, lines, strict=True):
            yield line
            for detail in _details(stage):
                yield from wrapped(detail, width, INDENT)
    failures = rows(report.get("failures"))
    if failures:
        yield ""
        yield counted(len(failures), "failed attempt") + (", the last ones:" if len(failures) > _MOST_FAILURES else ":")
        for failure in failures[-_MOST_FAILURES:]:
            yield from wrapped(_failure(failure), width, INDENT)


def _heading(report: Data, outcome: str) -> str:
    started = moment(report.get("started_at"))
    when = "" if started is None else f", {started}"
    seconds = finite(report.get("wall_s")) or finite(report.get("elapsed_s"))
    took = "" if seconds is None else f" after {in_words(seconds)}"
    shard = shard_of(report)
    part = "" if shard is None else f", shard {shard}"
    text = f"{report.get('pipeline')} ({report.get('run_id')}){part}{when}: {outcome}{took}"
    tasks = f", {counted(number(report.get('tasks_in')), 'task')} in, {number(report.get('tasks_out')):,.0f} out"
    rate = finite(report.get("throughput_per_s"))
    error = report.get("error")
    return text + tasks + (f", {rate:,.4g}/s" if rate else "") + (f". {error}" if error else "")


def _cells(report: Data, stage: Data) -> list[str]:
    lead, spent = stage.get("lead_index"), _time(stage)
    workers = sum(w.get("stage_index") == lead and bool(w.get("batches")) for w in rows(report.get("workers")))
    lived, times = sum(spent.values()), row(stage.get("service_time"))
    return [
        str(workers),
        _figure(stage.get("tasks_in"), ",.0f"),
        _figure(stage.get("tasks_out"), ",.0f"),
        _figure(stage.get("tasks_per_s"), ",.4g"),
        f"{100 * spent.get('busy', 0.0) / lived:.0f} %" if lived > 0 else "–",
        _duration(times.get("p50_s")),
        _duration(times.get("p99_s")),
    ]


def _details(stage: Data) -> Iterator[str]:
    spent = _time(stage)
    lived = sum(spent.values())
    idle = sorted(((s, reason) for reason, s in spent.items() if reason != "busy"), reverse=True)
    shown = [
        f"{reason.replace('_', ' ')} {100 * s / lived:.0f} %"
        for s, reason in idle[:_IDLE_SHOWN]
        if s > _SHARE_SHOWN * lived
    ]
    if shown:
        yield "otherwise: " + ", ".join(shown)
    yield from _gpu_memory(row(stage.get("gpu_memory")))
    if failed := number(stage.get("failed_attempts")):
        yield counted(int(failed), "failed attempt")
    if quarantined := number(stage.get("quarantined")):
        yield f"{quarantined:,.0f} quarantined"


def _gpu_memory(memory: Data) -> Iterator[str]:
    peak, asked, suggested = (finite(memory.get(name)) for name in ("peak_bytes", "asked_bytes", "suggested_gb"))
    if peak is not None:
        of = "" if asked is None else f" of {format_bytes(int(asked))} asked for"
        enough = "" if suggested is None else f"; gpu_memory_gb={suggested:g} would be enough"
        yield f"GPU memory of a worker: measured peak {format_bytes(int(peak))}{of}{enough}"


def _time(stage: Data) -> dict[str, float]:
    """Return the seconds of a stage's workers by what they went to."""
    return {str(part): max(0.0, number(seconds)) for part, seconds in row(stage.get("time")).items()}


def _failure(failure: Data) -> str:
    error = (str(failure.get("error")).splitlines() or [""])[-1]
    replay = f"; gpuexec replay {failure['capsule']}" if failure.get("capsule") else ""
    return f"{failure.get('worker')}: {error} ({failure.get('action')}){replay}"


def _duration(value: Any) -> str:
    known = finite(value)
    return "–" if known is None else in_words(known)


def _figure(value: Any, form: str) -> str:
    known = finite(value)
    return "–" if known is None else format(known, form)
