"""The table that closes a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions
from rich.text import Text

from gpuexec.contract.metrics import OOM_SPLITS, gpu_peaks
from gpuexec.core.worker_time import Work
from gpuexec.report.bounds import number
from gpuexec.report.columns import Column, cell_width, lay_out
from gpuexec.report.model import RunReport, StageReport
from gpuexec.report.wording import counted, seconds
from gpuexec.units import format_bytes

# "in" and "out" count tasks; "busy" and "idle for" are parts of the workers' time, the latter the largest one that was
# no work; "wait s" is a task's mean time in the queue.
_COLUMNS = (
    Column("workers", 5),
    Column("in", 1),
    Column("out", 0),
    Column("items/s", 6),
    Column("process s", 4),
    Column("busy", 2),
    Column("idle for", 3),
    Column("wait s", 7),
    Column("sent", 8),
)
_INDENT = "  "
_WORTH_SAYING = 0.01  # of the time of a stage's workers


class StageTable:
    """A row per stage, for a rich console of any width or, as `lines`, for anything else."""

    def __init__(self, report: RunReport) -> None:
        self._report = report

    def lines(self, width: int) -> Iterator[str]:
        """Yield lines of at most ``width`` columns; what is special about a stage follows its row."""
        report = self._report
        outcome = "interrupted after" if report.interrupted else "failed in" if report.error else "done in"
        yield "still running" if report.wall_s is None else f"{outcome} {seconds(report.wall_s)}"
        names = [stage.name for stage in report.stages]
        heading, *rows = lay_out("stage", names, _COLUMNS, [_cells(report, stage) for stage in report.stages], width)
        yield heading
        yield "─" * max(map(cell_width, (heading, *rows)))
        for stage, row in zip(report.stages, rows, strict=True):
            yield row
            for detail in (*_trouble_lines(stage), *_spill_lines(stage), *_peak_lines(stage)):
                yield from textwrap.wrap(detail, max(20, width), initial_indent=_INDENT, subsequent_indent=_INDENT * 2)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Render for rich."""
        for at, line in enumerate(self.lines(options.max_width)):
            yield Text(line, style="italic" if at == 0 else "bold" if at == 1 else "")


def stage_table(report: RunReport) -> StageTable:
    """Return a table with one row per stage."""
    return StageTable(report)


def _cells(report: RunReport, stage: StageReport) -> list[str]:
    return [
        str(sum(w.stage_index == stage.lead_index and w.batches > 0 for w in report.workers)),
        str(stage.tasks_in),
        str(stage.tasks_out),
        f"{stage.items / stage.process_s:,.0f}" if stage.process_s and stage.items else "–",
        f"{stage.process_s:.1f}",
        *_time_cells(stage),
        f"{stage.queued_s / stage.tasks_in:.2f}" if stage.tasks_in else "–",
        format_bytes(stage.output_bytes),
    ]


def _time_cells(stage: StageReport) -> tuple[str, str]:
    """Return which part of its workers' time a stage was busy, and what most of the rest went to.

    The workers of a fused stage are its lead's, and so is their time.
    """
    if stage.lead_index != stage.index:
        return "–", "fused"
    total = sum(stage.time.values())
    if total <= 0:
        return "–", "–"
    rest = {part: seconds for part, seconds in stage.time.items() if part != Work.BUSY.value}
    most = max(rest, key=lambda part: rest[part], default=None)
    idle = "–" if most is None or rest[most] < _WORTH_SAYING * total else f"{_words(most)} {rest[most] / total:.0%}"
    return f"{stage.time.get(Work.BUSY.value, 0.0) / total:.0%}", idle


def _words(part: str) -> str:
    return part.replace("_", " ")


def _trouble_lines(stage: StageReport) -> list[str]:
    halved = int(number(stage.metrics.get(OOM_SPLITS)))
    counts = ((stage.quarantined, "quarantined"), (halved, "halved for GPU memory"))
    failed = [counted(stage.failed_attempts, "failed attempt")] if stage.failed_attempts else []
    return failed + [f"{count} {label}" for count, label in counts if count]


def _spill_lines(stage: StageReport) -> list[str]:
    return [f"{format_bytes(stage.spilled_bytes)} waited on disk before it"] if stage.spilled_bytes else []


def _peak_lines(stage: StageReport) -> list[str]:
    return [f"GPU peak {index}: {format_bytes(size)} ({figure})" for index, figure, size in gpu_peaks(stage.metrics)]
