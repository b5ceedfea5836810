"""The table that closes a run."""

from __future__ import annotations

from rich import box
from rich.table import Table

from gpuexec.contract.metrics import OOM_SPLITS, gpu_peaks
from gpuexec.observe.report import RunReport, StageReport
from gpuexec.units import format_bytes


def stage_table(report: RunReport) -> Table:
    """Return a table with one row per stage."""
    wall = f"{report.wall_s:.2f} s" if report.wall_s is not None else "still running"
    how = "interrupted after" if report.interrupted else "failed in" if report.error else "done in"
    table = Table(
        title=f"{how} {wall}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("stage", overflow="fold", min_width=14)
    for heading in ("workers", "in", "out", "items/s", "busy s", "idle s", "wait s", "sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    with_gpu = any(gpu_peaks(stage.metrics) for stage in report.stages)
    if with_gpu:
        table.add_column("GPU peak", justify="right")
    for stage in report.stages:
        cells = _cells(report, stage)
        table.add_row(*cells, *([_peaks(stage)] if with_gpu else []))
    return table


def _cells(report: RunReport, stage: StageReport) -> list[str]:
    """Return a row's cells. "in" and "out" count tasks; "wait s" is a task's mean time in the queue."""
    return [
        "\n".join([stage.name, *_trouble_lines(report, stage)]),
        str(sum(w.stage_index == stage.index and w.batches > 0 for w in report.workers)),
        str(stage.tasks_in),
        str(stage.tasks_out),
        f"{stage.items / stage.process_s:,.0f}" if stage.process_s and stage.items else "–",
        f"{stage.process_s:.1f}",
        f"{stage.idle_s:.1f}",
        f"{stage.queued_s / stage.tasks_in:.2f}" if stage.tasks_in else "–",
        format_bytes(stage.output_bytes),
    ]


def _trouble_lines(report: RunReport, stage: StageReport) -> list[str]:
    quarantined = sum(task.stage_index == stage.index for task in report.quarantined)
    counts = {
        "failed attempts": stage.failed_attempts,
        "quarantined": quarantined,
        "halved for GPU memory": int(stage.metrics.get(OOM_SPLITS, 0)),
    }
    return [f"{count} {label}" for label, count in counts.items() if count]


def _peaks(stage: StageReport) -> str:
    return (
        "\n".join(f"{index}: {format_bytes(size)} ({figure})" for index, figure, size in gpu_peaks(stage.metrics))
        or "–"
    )
