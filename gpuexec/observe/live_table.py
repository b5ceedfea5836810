"""The lines of the live progress table, for a terminal of any size."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.observe.run_view import GpuView, RunView, StageView
from gpuexec.report.columns import Column, cell_width, lay_out, printable, shortened
from gpuexec.report.wording import seconds
from gpuexec.units import GIB

_COLUMNS = (
    Column("done", 0),
    Column("queued", 3),
    Column("in flight", 4),
    Column("workers", 2),
    Column("rate", 1),
)
_MIN_TABLE_HEIGHT = 4  # title, headings, a stage, and the number of the others
_MIN_HEIGHT_WITH_GPUS = 8
_MOST_GPU_LINES = 8
_GAP = "   "
FINISHED, LIMITS = " ✓", " ◄"


def live_lines(view: RunView, width: int, height: int) -> list[str]:
    """Return the table's lines, no wider and no more than there is room for.

    Where there are more stages than rows, finished stages are left out first, then the last ones.
    """
    if width < 1 or height < 1:
        return []
    title = title_line(view, width)
    if height < _MIN_TABLE_HEIGHT:
        return [title]
    room = height - 2
    gpus: list[str] = []
    if view.gpus and height >= _MIN_HEIGHT_WITH_GPUS:
        gpus = gpu_lines(view.gpus, width, max(1, min(_MOST_GPU_LINES, room - len(view.stages))))
    chosen = _stages_shown(view.stages, room - len(gpus))
    rows = [_cells(view.stages[n]) for n in chosen]
    names = [view.stages[n].name + _mark(view, view.stages[n]) for n in chosen]
    lines = [title, *lay_out("stage", names, _COLUMNS, rows, width)]
    left_out = [stage for stage in view.stages if stage.index not in set(chosen)]
    if left_out:
        finished = sum(stage.finished for stage in left_out)
        lines.append(shortened(f"… {len(left_out)} more stages, {finished} of them finished", width))
    return lines + gpus


def title_line(view: RunView, width: int) -> str:
    """Return how long the run has gone on, how long it will, and which stage limits it, as far as there is room."""
    parts = [f"running for {steady(view.seconds)}"]
    if view.remaining_s is not None:
        parts.append(f"about {steady(view.remaining_s)} left")
    if view.bottleneck is not None:
        parts.append(f"limited by {printable(view.stages[view.bottleneck].name)}")
    title = parts[0]
    for part in parts[1:]:
        longer = f"{title} · {part}"
        if cell_width(longer) <= width:
            title = longer
    return shortened(title, width)


def gpu_lines(gpus: Sequence[GpuView], width: int, most: int) -> list[str]:
    """Return what each GPU holds and does, several in a line; if that takes more than ``most`` lines, all in one."""
    lines: list[str] = []
    for cell in map(_gpu_cell, gpus):
        joined = f"{lines[-1]}{_GAP}{cell}" if lines else cell
        if lines and cell_width(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(cell)
    if len(lines) > most or any(cell_width(line) > width for line in lines):
        return [shortened(_all_gpus(gpus), width)]
    return lines


def steady(duration: float) -> str:
    """Return a duration in words, of ten minutes or more without seconds: what changes all the time is hard to read."""
    step = 1 if duration < 600 else 60
    return seconds(round(duration / step) * step).removesuffix(" 0 s")


def done_of(stage: StageView) -> str:
    """Return how many tasks are done, and of how many if that is known; ``~`` before an estimate."""
    if stage.total is None or stage.finished:
        return f"{stage.done}"
    return f"{stage.done}/{'~' if stage.is_estimate else ''}{stage.total}"


def workers_of(stage: StageView) -> str:
    """Return how many workers are ready, and how many are starting."""
    return f"{stage.workers}" + (f" (+{stage.starting} starting)" if stage.starting else "")


def rate_of(rate: float | None) -> str:
    """Return a rate with three digits, so that the last one does not change all the time."""
    if rate is None:
        return "–"
    if rate < 0.1 and rate:
        return f"{rate * 60:.1f}/min"
    return f"{rate:.2f}/s" if rate < 1 else f"{rate:.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def _mark(view: RunView, stage: StageView) -> str:
    return FINISHED if stage.finished else LIMITS if stage.index == view.bottleneck else ""


def _cells(stage: StageView) -> tuple[str, ...]:
    rate = None if stage.finished else stage.rate
    return done_of(stage), f"{stage.queued}", f"{stage.in_flight}", workers_of(stage), rate_of(rate)


def _stages_shown(stages: Sequence[StageView], rows: int) -> list[int]:
    """Return which stages to show in so many rows, one of which tells of the others if there are too many."""
    if len(stages) <= rows:
        return list(range(len(stages)))
    by_interest = sorted(range(len(stages)), key=lambda n: stages[n].finished)
    return sorted(by_interest[: max(0, rows - 1)])


def _gpu_cell(gpu: GpuView) -> str:
    return (
        f"GPU {gpu.index} {memory_of(gpu.memory_used_bytes, gpu.memory_total_bytes)} {percent_of(gpu.sm_util_percent)}"
    )


def _all_gpus(gpus: Sequence[GpuView]) -> str:
    used = [gpu.memory_used_bytes for gpu in gpus if gpu.memory_used_bytes is not None]
    totals = [gpu.memory_total_bytes for gpu in gpus if gpu.memory_total_bytes is not None]
    busy = [gpu.sm_util_percent for gpu in gpus if gpu.sm_util_percent is not None]
    memory = memory_of(sum(used), sum(totals)) if used and totals else "memory unknown"
    share = percent_of(round(sum(busy) / len(busy)) if busy else None)
    return f"{len(gpus)} GPUs {memory} {share}"


def memory_of(used: int | None, total: int | None) -> str:
    """Return how much of a memory is in use, and how large it is, in GiB."""
    if used is None:
        return "memory ?"
    return f"{used / GIB:.1f}" + (f"/{total / GIB:.0f}" if total else "") + " GiB"


def percent_of(value: float | None) -> str:
    """Return a utilisation."""
    return "? %" if value is None else f"{value} %"
