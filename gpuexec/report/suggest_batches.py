"""Suggestions about the size of batches. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gpuexec.report.bounds import StageLoad, number, ratio, row, rows
from gpuexec.report.suggest_workers import GPU_IS_FULL, gpu_peak, gpu_use
from gpuexec.report.suggestion import Suggestion, effect
from gpuexec.report.what_if import RecordedRun
from gpuexec.report.wording import counted, named, percent, seconds
from gpuexec.units import KIB, format_bytes

_BATCHES_PER_WORKER = 4  # with fewer, the last batches leave workers idle
_FULL_BATCH = 0.8  # of batch_size: where batches are smaller, there were not enough tasks for larger ones
_SMALL_BATCH_BYTES = 64 * KIB  # what is sent inside a message; above that, the way takes longer the more there is
_SMALL_BATCH_TIMES = 8
_LARGEST_BATCH = 256
_OUT_OF_MEMORY = ("out of memory", "outofmemory")


def batch_suggestions(run: RecordedRun) -> Iterator[Suggestion]:
    """Yield changes of ``batch_size``: of the stages that limit phases, and of those that ran out of GPU memory."""
    for phase in run.phases:
        slowest = run.slowest(phase)
        if slowest is not None and not run.is_group(slowest.index) and _size(run, slowest.index) >= 1:
            yield from _larger_on_gpu(run, slowest)
            yield from _larger_on_the_way(run, slowest)
            yield from _smaller(run, slowest)
    yield from _out_of_memory(run)


def _size(run: RecordedRun, index: int) -> int:
    """Return the size of a stage's batches; 0 if it is unknown, or another one would have no effect."""
    stage = run.stage(index)
    size = int(number(stage.get("batch_size")))
    takes_single_tasks = size == 1 and stage.get("max_concurrency") is not None
    return 0 if takes_single_tasks else size


def _instead(run: RecordedRun, index: int, size: int) -> str:
    """Say which size to use instead of which."""
    return f"Give {named(run.name(index))} {counted(size, 'task')} a batch instead of {_size(run, index):,}"


def _could_be(run: RecordedRun, load: StageLoad, size: int) -> bool:
    """Return whether there are tasks enough for batches of this size."""
    is_full = ratio(load.tasks, load.batches) >= _FULL_BATCH * _size(run, load.index)
    return is_full and load.tasks / size >= _BATCHES_PER_WORKER * run.workers(load.index)


def _larger_on_gpu(run: RecordedRun, load: StageLoad) -> Iterator[Suggestion]:
    """Fill a GPU that has idle moments while its stage is busy, as far as the memory of the stage's share allows."""
    size, used, peak = _size(run, load.index), gpu_use(run, load), gpu_peak(run, load.index)
    share = number(row(run.stage(load.index).get("gpu_memory")).get("asked_bytes"))
    if not run.uses_gpu(load.index) or used is None or used >= GPU_IS_FULL or peak is None:
        return
    times = max((t for t in (2, 4) if t * peak <= share and _could_be(run, load, t * size)), default=0)
    if not times:
        return
    kernels_s = used * load.work_s
    gain = run.gain(run.with_work({load.index: max(load.work_s / times, kernels_s)}))
    yield Suggestion(
        kind="larger_batch",
        settings={f"{run.name(load.index)}.batch_size": times * size},
        gain_share=gain,
        at_most=True,
        text=f"{_instead(run, load.index, times * size)}: kernels ran for {percent(used)} of its busy time.",
        arithmetic=f"{named(load.name)} worked {seconds(load.work_s)}, and kernels ran for {seconds(kernels_s)} of it; "
        f"{times} × its peak of {format_bytes(peak)} fit the {format_bytes(share)} that it has; "
        f"{effect(run.wall_s, gain)} at most",
    )


def _larger_on_the_way(run: RecordedRun, load: StageLoad) -> Iterator[Suggestion]:
    """Send small tasks together: what a batch takes on its way does not depend on its size, while that is small."""
    size, moving = _size(run, load.index), load.share("transfer") * load.span_s
    larger = min(_SMALL_BATCH_TIMES * size, _LARGEST_BATCH)
    bytes_per_task = ratio(number(run.stage(load.index).get("input_bytes")), load.tasks)
    if larger <= size or not moving or bytes_per_task * larger > _SMALL_BATCH_BYTES or not _could_be(run, load, larger):
        return
    saved = moving * (1 - size / larger)
    gain = run.gain(run.with_work({load.index: load.work_s - saved}))
    yield Suggestion(
        kind="larger_batch",
        settings={f"{run.name(load.index)}.batch_size": larger},
        gain_share=gain,
        at_most=True,
        text=f"{_instead(run, load.index, larger)}: its batches were on their way for "
        f"{percent(load.share('transfer'))} of its time.",
        arithmetic=f"{counted(load.batches, 'batch')} took {seconds(moving)} on their way; "
        f"{counted(load.tasks / larger, 'batch')} would save {seconds(saved)}, and {effect(run.wall_s, gain)} at most",
    )


def _smaller(run: RecordedRun, load: StageLoad) -> Iterator[Suggestion]:
    """Make enough batches for all workers that the stage has, or could have."""
    index, size = load.index, _size(run, load.index)
    planned = max((phase.get(index, 0) for phase in run.planned or ()), default=0)
    workers = run.demands[index].num_workers or planned
    if workers < 2 or load.batches >= 2 * workers:
        return
    smaller = max(1, math.floor(load.tasks / (_BATCHES_PER_WORKER * workers)))
    if smaller >= size:
        return
    then = min(load.work_s, ratio(run.worker_s(index), workers))
    gain = run.gain(run.with_work({index: then}))
    yield Suggestion(
        kind="smaller_batch",
        settings={f"{run.name(index)}.batch_size": smaller},
        gain_share=gain,
        at_most=True,
        text=f"{_instead(run, index, smaller)}: it had only {counted(load.batches, 'batch')} for up to "
        f"{counted(workers, 'worker')}.",
        arithmetic=f"{named(load.name)} worked {seconds(run.worker_s(index))}: {seconds(load.work_s)} with its few "
        f"batches, {seconds(then)} if {workers} workers share it; {effect(run.wall_s, gain)} at most",
    )


def _out_of_memory(run: RecordedRun) -> Iterator[Suggestion]:
    """Halve the batches of a stage that ran out of GPU memory."""
    for index, load in run.loads.items():
        members, size = {stage.get("name") for stage in run.members(index)}, _size(run, index)
        failures = [
            failure
            for failure in rows(run.report.get("failures"))
            if failure.get("stage") in members
            and any(words in str(failure.get("error")).lower() for words in _OUT_OF_MEMORY)
        ]
        if not failures or size < 2 or not run.uses_gpu(index):
            continue
        lost = load.share("lost") * load.span_s
        gain = run.gain_of(lost)
        is_end = any(failure.get("action") == "raise" for failure in failures)
        yield Suggestion(
            kind="smaller_batch",
            settings={f"{run.name(index)}.batch_size": size // 2},
            gain_share=gain,
            at_most=True,
            text=f"{_instead(run, index, size // 2)}: it ran out of GPU memory {counted(len(failures), 'time')}"
            f"{', which ended the run' if is_end else ''}. With split_on_oom=True, only batches that fail are halved.",
            arithmetic=f"attempts that failed took {seconds(lost)}; without them, {effect(run.wall_s, gain)} at most",
            is_needed=is_end,
        )
