"""Suggestions about options of the executor: queues, fusion, how workers start. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.policies import FusionPolicy, StartMethod
from gpuexec.report import bounds
from gpuexec.report.bounds import StageLoad, number, ratio, row, rows
from gpuexec.report.suggestion import Suggestion, effect
from gpuexec.report.what_if import CLEAR_SHARE, RecordedRun
from gpuexec.report.wording import counted, named, percent, seconds
from gpuexec.units import format_bytes

_LONGER = 4  # times as long a queue
_OFTEN_FULL = 0.1  # of its time, for which the stage before waited for room
_OF_MEMORY = 1 / 8  # of the host's: what one queue may take
_FORK_S = 0.01  # of a warm worker, once its template has imported its modules


def option_suggestions(run: RecordedRun) -> Iterator[Suggestion]:
    """Yield changes of executor options."""
    if len(run.phases) == 1:
        yield from _longer_queue(run)
        yield from _fusion(run)
    yield from _warm(run)


def _option(run: RecordedRun, name: str) -> Any:
    """Return the value of an option; a report has those that differ from the defaults."""
    options = row(run.report.get("options"))
    return options[name] if name in options else getattr(ExecutorConfig(), name)


def _longer_queue(run: RecordedRun) -> Iterator[Suggestion]:
    """Even out work that comes in bursts: a stage waited for input although the queue before it had been full."""
    loads = [run.loads[index] for index in sorted(run.loads)]
    limiting = bounds.limiting(loads)
    if limiting is None or limiting.own_s >= CLEAR_SHARE * run.wall_s:
        return
    pairs = [pair for pair in pairwise(loads) if pair[0].share("output_full") >= _OFTEN_FULL]
    if not pairs:
        return
    before, load = max(pairs, key=lambda pair: _in_bursts_s(*pair))
    # However evenly the work comes, the run takes as long as its slowest stage works.
    saved = min(_in_bursts_s(before, load), max(0.0, run.wall_s - max(each.work_s for each in loads)))
    gain, setting = run.gain_of(saved), _longer(run, before)
    if setting is None:
        return
    name, value, shown = setting
    yield Suggestion(
        kind="longer_queue",
        settings={f"option.{name}": value},
        gain_share=gain,
        at_most=True,
        text=f"Let more tasks wait before {named(load.name)} ({name}={shown}): its queue was full for "
        f"{percent(before.share('output_full'))} of the time of {named(before.name)}, yet it had no input for "
        f"{percent(load.share('no_input'))} of its own.",
        arithmetic=f"{named(load.name)} waited {seconds(load.share('no_input') * load.span_s)} for input, "
        f"{seconds(saved)} of it for want of room; {effect(run.wall_s, gain)} at most",
    )


def _in_bursts_s(before: StageLoad, load: StageLoad) -> float:
    """Return for how long a stage waited for input that had waited for room in its queue, at most."""
    return min(load.share("no_input") * load.span_s, before.share("output_full") * before.span_s)


def _longer(run: RecordedRun, before: StageLoad) -> tuple[str, int, str] | None:
    """Return which limit of the queue was reached, tasks or bytes, and a larger one, with the text for it."""
    stage = run.stage(before.index)
    tasks, size = int(number(_option(run, "queue_tasks"))), int(number(_option(run, "queue_bytes")))
    if ratio(number(stage.get("output_bytes")), number(stage.get("tasks_out"))) * tasks <= size:
        return "queue_tasks", _LONGER * max(1, tasks), f"{_LONGER * max(1, tasks)}"
    memory = number(row(run.report.get("node")).get("memory_bytes"))
    if _LONGER * size > _OF_MEMORY * memory:
        return None
    return "queue_bytes", _LONGER * size, f"{_LONGER * size}, {format_bytes(_LONGER * size)}"


def _fusion(run: RecordedRun) -> Iterator[Suggestion]:
    """Let neighbours that look light share their workers, if fusion is turned off."""
    if _option(run, "fusion") != FusionPolicy.OFF:
        return
    groups = [[run.loads[index] for index in group] for group in _neighbours(run) if len(group) > 1]
    if not groups:
        return
    group = max(groups, key=_moving_s)
    moving, workers = _moving_s(group), sum(load.workers for load in group)
    together = ratio(sum(run.worker_s(load.index) for load in group) - moving, workers)
    gain = run.gain(run.with_work({load.index: together for load in group}))
    yield Suggestion(
        kind="fusion",
        settings={"option.fusion": FusionPolicy.AUTO.value},
        gain_share=gain,
        at_most=True,
        text=f"Turn fusion on: {named(group[0].name)} to {named(group[-1].name)} can share their workers, if they "
        "have nothing to set up. What passes between them is not pickled then.",
        arithmetic=f"batches were on their way to {counted(len(group) - 1, 'stage')} for {seconds(moving)}; the "
        f"rest of the stages' work takes {workers:.2g} workers {seconds(together)}; {effect(run.wall_s, gain)} at most",
    )


def _moving_s(group: Sequence[StageLoad]) -> float:
    """Return for how long batches were on their way between the stages of a group."""
    return sum(load.time.get("transfer", 0.0) for load in group[1:])


def _neighbours(run: RecordedRun) -> list[list[int]]:
    """Return runs of neighbouring stages which, as far as a report tells, could be fused."""
    groups: list[list[int]] = [[]]
    for index in sorted(run.loads):
        stage = run.stage(index)
        size, is_async = number(stage.get("batch_size")), stage.get("max_concurrency") is not None
        if run.uses_gpu(index) or run.demands[index].num_workers is not None or size > 1 or is_async:
            groups.append([])
        else:
            groups[-1].append(index)
    return groups


def _warm(run: RecordedRun) -> Iterator[Suggestion]:
    """Import modules once, if every worker does so by itself."""
    slowest = bounds.limiting(list(run.loads.values()))
    if slowest is None or _option(run, "start_method") != StartMethod.SPAWN:
        return
    starts = [
        number(worker.get("spawn_s")) + number(worker.get("load_s"))
        for worker in rows(run.report.get("workers"))
        if worker.get("stage_index") == slowest.index
    ]
    quickest = min(starts, default=0.0)
    gain = run.gain_of(quickest - _FORK_S)
    yield Suggestion(
        kind="warm_start",
        settings={"option.start_method": StartMethod.WARM.value},
        gain_share=gain,
        at_most=True,
        text=f"Start workers warm: each worker of {named(slowest.name)} imports its modules itself, and a process that "
        "has done so once can be forked instead.",
        arithmetic=f"a worker took at least {seconds(quickest)} until its stage was loaded, a fork takes about "
        f"{seconds(_FORK_S)}; {effect(run.wall_s, gain)} at most",
    )
