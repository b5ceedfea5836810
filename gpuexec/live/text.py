"""What a run says of itself, as lines of text: for ``gpuexec top --once``, and the parts that its display shares."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec.live.log_lines import LogEntry
from gpuexec.observe.live_table import FINISHED, LIMITS, done_of, memory_of, percent_of, rate_of, title_line, workers_of
from gpuexec.observe.run_view import GpuView, RunView, StageView
from gpuexec.report.columns import Column, lay_out, printable, shortened
from gpuexec.report.wording import counted, seconds
from gpuexec.units import format_bytes

STAGE_COLUMNS = (
    Column("done", 0),
    Column("rate", 1),
    Column("queued", 3),
    Column("in flight", 5),
    Column("workers", 2),
    Column("busy", 4),
    Column("idle for", 6),
)
WORKER_COLUMNS = (
    Column("state", 0),
    Column("GPU", 3),
    Column("batches", 2),
    Column("busy", 1),
    Column("idle for", 6),
    Column("memory", 4),
    Column("GPU memory", 5),
    Column("pid", 7),
)
GPU_COLUMNS = (
    Column("memory", 0),
    Column("SM", 1),
    Column("power", 3),
    Column("temperature", 4),
    Column("workers", 2),
)
_STALE_S = 5.0
_MOST_NAMES_WIDTH = 36  # of the workers on a GPU


def view_of(snapshot: Mapping[str, Any]) -> RunView:
    """Return the view in a snapshot."""
    return RunView(
        seconds=snapshot["seconds"],
        stages=tuple(_record(StageView, fields) for fields in snapshot["stages"]),
        bottleneck=snapshot["bottleneck"],
        remaining_s=snapshot["remaining_s"],
        gpus=tuple(_record(GpuView, fields) for fields in snapshot["gpus"]),
    )


def title_of(hello: Mapping[str, Any]) -> str:
    """Return which run it is."""
    return printable(f"{hello['pipeline']} · run {hello['run_id']} · pid {hello['pid']}")


def state_of(snapshot: Mapping[str, Any], width: int) -> str:
    """Return how far the run is, and if the driver has been silent for long."""
    age_s = time.time() - snapshot["at"]
    silent = f"no news for {age_s:.0f} s (the caller is busy, or the driver is stopped) · " if age_s > _STALE_S else ""
    state = silent + title_line(view_of(snapshot), 1000)
    if failed := snapshot["failed_attempts"]:
        state += f" · {counted(failed, 'failed attempt')}"
    if quarantined := snapshot["quarantined"]:
        state += f" · {quarantined:,} in quarantine"
    return shortened(state, width)


def stage_names(view: RunView) -> list[str]:
    """Return the stages' names, marked where they have finished or limit the run."""
    return [
        stage.name + (FINISHED if stage.finished else LIMITS if stage.index == view.bottleneck else "")
        for stage in view.stages
    ]


def stage_cells(stage: StageView) -> tuple[str, ...]:
    """Return the cells of `STAGE_COLUMNS`."""
    return (
        done_of(stage),
        rate_of(None if stage.finished else stage.rate),
        f"{stage.queued}",
        f"{stage.in_flight}",
        workers_of(stage),
        *(("–", "fused") if stage.lead_index != stage.index else (_share(stage.busy), _reason(stage.idle_reason))),
    )


def worker_cells(worker: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of `WORKER_COLUMNS`."""
    return (
        worker["state"],
        ",".join(map(str, worker["gpus"])) or "–",
        f"{worker['batches']}",
        _share(worker["busy"]),
        _reason(worker["idle_reason"]),
        _size(worker["rss_bytes"]),
        _size(worker["gpu_memory_bytes"]),
        f"{worker['pid']}",
    )


def gpu_rows(view: RunView, workers: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Return a line for each GPU below a heading, with the workers that are on it; nothing without GPUs."""
    if not view.gpus:
        return []
    rows = [_gpu_cells(gpu, [w["id"] for w in workers if {gpu.index, gpu.uuid} & set(w["gpus"])]) for gpu in view.gpus]
    return lay_out("GPU", [f"{gpu.index}" for gpu in view.gpus], GPU_COLUMNS, rows, width)


def _gpu_cells(gpu: GpuView, workers: Sequence[str]) -> tuple[str, ...]:
    return (
        memory_of(gpu.memory_used_bytes, gpu.memory_total_bytes),
        percent_of(gpu.sm_util_percent),
        "? W" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
        "? °C" if gpu.temperature_c is None else f"{gpu.temperature_c} °C",
        shortened(printable(" ".join(workers)), _MOST_NAMES_WIDTH) or "–",
    )


def log_line(entry: LogEntry) -> str:
    """Return a line of the log, without what would move a terminal's cursor."""
    moment = time.strftime("%H:%M:%S", time.localtime(entry["time"]))
    where = f"{entry['worker']}: " if entry["worker"] else ""
    level = "" if entry["level"] == "INFO" else f"{entry['level']} "
    return printable(f"{moment} {level}{where}{entry['text'].replace(chr(10), ' ⏎ ')}")


def snapshot_lines(
    hello: Mapping[str, Any], snapshot: Mapping[str, Any], log: Sequence[LogEntry], width: int, log_lines: int = 10
) -> list[str]:
    """Return everything as lines, none wider than ``width``; the last lines of the log come last."""
    view = view_of(snapshot)
    lines = [shortened(title_of(hello), width), state_of(snapshot, width), ""]
    lines += lay_out("stage", stage_names(view), STAGE_COLUMNS, [stage_cells(stage) for stage in view.stages], width)
    workers = snapshot["workers"]
    if view.gpus:
        lines += ["", *gpu_rows(view, workers, width)]
    if workers:
        names = [worker["id"] for worker in workers]
        lines += ["", *lay_out("worker", names, WORKER_COLUMNS, [worker_cells(worker) for worker in workers], width)]
        if snapshot["workers_left_out"]:
            lines.append(f"… {snapshot['workers_left_out']} more workers")
    if log:
        lines += ["", *(shortened(log_line(entry), width) for entry in log[-log_lines:])]
    return lines


def end_line(hello: Mapping[str, Any], end: Mapping[str, Any]) -> str:
    """Return how the run ended, and where to read what it did."""
    wall = "" if end["wall_s"] is None else f" after {seconds(end['wall_s'])}"
    outcome = {"ok": "is done", "interrupted": "was interrupted", "failed": "has failed"}.get(
        end["outcome"], "has ended"
    )
    error = f" ({end['error']})" if end["error"] else ""
    return printable(f"the run {outcome}{wall}{error}. What it did: gpuexec report {hello['run_id']}")


def _record(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Return the record. Fields that a newer version has added are left out."""
    return kind(**{name: fields[name] for name in kind.__match_args__})


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _reason(value: str | None) -> str:
    return "–" if value is None else value.replace("_", " ")


def _size(value: int | None) -> str:
    return "–" if value is None else format_bytes(value)
