"""Suggestions about the workers of stages: how many, and which share of a GPU each has. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from gpuexec.planning.model import StageDemand
from gpuexec.report import bounds
from gpuexec.report.bounds import StageLoad, number, ratio, row
from gpuexec.report.sizes import suggested_gpu_memory_gb
from gpuexec.report.suggestion import Suggestion, effect
from gpuexec.report.what_if import Outlook, RecordedRun
from gpuexec.report.wording import counted, named, percent, seconds
from gpuexec.units import GIB, format_bytes

GPU_IS_FULL = 0.8  # of a stage's busy time, for which kernels ran
_LARGEST_STEP = 4  # times as many workers: what is further away, another run has to show
_ENOUGH = 0.9  # of the largest gain: with fewer workers, if that is nearly as good
_MUCH_MORE = 0.05  # of the throughput: how much better a change of several stages has to be than that of one
_MOST_PER_GPU = 4


def worker_suggestions(run: RecordedRun) -> Iterator[Suggestion]:
    """Yield changes of the stages that limit the phases of a run, and of the phases themselves."""
    alone = 0.0
    for phase in run.phases:
        slowest = run.slowest(phase)
        if slowest is not None:
            for suggestion in (*_more_workers(run, slowest), *_smaller_share(run, slowest)):
                alone = max(alone, suggestion.gain_share)
                yield suggestion
    if len(run.phases) > 1:
        yield from _one_phase(run)
    else:
        yield from (each for each in _balanced(run) if each.gain_share >= alone + _MUCH_MORE)


def gpu_use(run: RecordedRun, load: StageLoad) -> float | None:
    """Return the share of its stage's busy time in which kernels ran on its GPUs; ``None`` if that was not sampled."""
    shares = []
    for gpu in bounds.gpus_of(run.report, load):
        used = bounds.mean(bounds.known(bounds.series(gpu, "sm_util")))
        time = row(gpu.get("time"))
        busy = ratio(max(0.0, number(time.get("busy"))), sum(max(0.0, number(value)) for value in time.values()))
        if used is not None and busy > 0:
            shares.append(min(1.0, used / 100 / busy))
    return max(shares, default=None)


def gpu_peak(run: RecordedRun, index: int) -> int | None:
    """Return the most GPU memory that a worker of a stage held, in bytes; ``None`` if it was not measured."""
    peaks = [number(row(stage.get("gpu_memory")).get("peak_bytes")) for stage in run.members(index)]
    return int(max(peaks)) or None


# ---- more workers -----------------------------------------------------------------------------------------


class _Tried(NamedTuple):
    """A change, and what it would give."""

    gain: float
    outlook: Outlook
    demand: StageDemand
    workers: int


def _more_workers(run: RecordedRun, load: StageLoad) -> Iterator[Suggestion]:
    """Give the slowest stage more workers, until the next limit is nearly reached."""
    index, now = load.index, run.workers(load.index)
    if run.is_group(index):  # with a number of its own, its first stage would no longer be fused
        return
    tried = []
    for count in range(now + 1, int(min(_LARGEST_STEP * now, load.batches)) + 1):
        demand = replace(run.demands[index], num_workers=count)
        outlook = run.with_demands({index: demand})
        if outlook is None:
            break
        tried.append(_Tried(run.gain(outlook), outlook, demand, count))
    if not tried:
        return
    gain, outlook, _, count = _smallest_that_is_enough(tried)
    name, fixed = run.name(index), run.demands[index].num_workers
    had = f"it had {load.workers:.2g} on average" if fixed is None else f"num_workers() is {fixed}"
    yield Suggestion(
        kind="more_workers",
        settings={f"{name}.num_workers": count},
        gain_share=gain,
        at_most=False,
        text=f"Give {named(name)} {counted(count, 'worker')} ({had}): it is the slowest stage.",
        arithmetic=f"{_division(run, load, count)}; {_then(run, outlook, gain)}",
    )


def _balanced(run: RecordedRun) -> Iterator[Suggestion]:
    """Add workers to whichever stage is the slowest, until that one can have no more."""
    changed: dict[int, StageDemand] = {}
    outlook = run.as_it_was
    while run.slowest(run.loads) is not None:
        index = outlook.slowest
        now = run.workers(index)
        count = (changed[index].num_workers or now if index in changed else now) + 1
        if run.is_group(index) or count > min(_LARGEST_STEP * now, run.loads[index].batches):
            break
        more = {**changed, index: replace(run.demands[index], num_workers=count)}
        found = run.with_demands(more)
        if found is None or run.gain(found) <= run.gain(outlook) or outlook.work_s[index] <= found.work_s[index]:
            break
        changed, outlook = more, found
    if len(changed) < 2:
        return
    gain = run.gain(outlook)
    counts = {index: demand.num_workers or 1 for index, demand in sorted(changed.items())}
    listed = ", ".join(f"{named(run.name(index))} {count}" for index, count in counts.items())
    divisions = "; ".join(_division(run, run.loads[index], count) for index, count in counts.items())
    yield Suggestion(
        kind="balanced_workers",
        settings={f"{run.name(index)}.num_workers": count for index, count in counts.items()},
        gain_share=gain,
        at_most=False,
        text=f"Give several stages more workers at once ({listed}): each is the slowest when the others have more.",
        arithmetic=f"{divisions}; {_then(run, outlook, gain)}",
    )


# ---- shares of GPUs ---------------------------------------------------------------------------------------


def _smaller_share(run: RecordedRun, load: StageLoad) -> Iterator[Suggestion]:
    """Let more workers of the slowest stage share its GPUs, where their memory and their idle moments allow it."""
    index = load.index
    peak, used = gpu_peak(run, index), gpu_use(run, load)
    if not run.uses_gpu(index) or peak is None or used is None or used >= GPU_IS_FULL:
        return
    kernels_s = used * load.work_s  # kernels of all workers on a GPU take their time one after the other
    tried = []
    for demand in _smaller_demands(run, load, peak):
        outlook = run.with_demands({index: demand})
        workers = max((phase.get(index, 0) for phase in outlook.phases), default=0) if outlook else 0
        if outlook is not None and workers > run.workers(index):
            work = {**outlook.work_s, index: max(outlook.work_s[index], kernels_s)}
            outlook = Outlook(work, outlook.phases)
            tried.append(_Tried(run.gain(outlook), outlook, demand, workers))
    if not tried:
        return
    gain, outlook, demand, workers = _smallest_that_is_enough(tried)
    name, changed = run.name(index), _changed(run.demands[index], demand)
    share = ", ".join(f"{key}={value:g}" for key, value in changed.items() if key != "num_workers")
    yield Suggestion(
        kind="gpu_share",
        settings={f"{name}.{key}": value for key, value in changed.items()},
        gain_share=gain,
        at_most=True,
        text=f"Let {counted(workers, 'worker')} of {named(name)} share its GPUs ({share}): kernels ran for "
        f"{percent(used)} of its busy time, and a worker held {format_bytes(peak)} at most.",
        arithmetic=f"{_division(run, load, workers)}, but no less than the {seconds(kernels_s)} in which kernels ran; "
        f"{_then(run, outlook, gain)} at most",
    )


def _smaller_demands(run: RecordedRun, load: StageLoad, peak: int) -> Iterator[StageDemand]:
    """Yield demands with which more workers fit on the same GPUs, each with room for the measured peak."""
    demand, needed = run.demands[load.index], suggested_gpu_memory_gb(peak)
    fixed = demand.num_workers
    if demand.gpu_memory_gb:
        if needed < demand.gpu_memory_gb:
            times = max(2, math.floor(demand.gpu_memory_gb / needed))
            yield replace(demand, gpu_memory_gb=needed, num_workers=None if fixed is None else fixed * times)
        return
    sizes = [size for gpu in bounds.gpus_of(run.report, load) if (size := number(gpu.get("memory_bytes")))]
    for times in range(2, _MOST_PER_GPU + 1) if sizes and demand.gpus <= 1 else ():
        share = math.floor(1000 * demand.gpus / times) / 1000
        if share * min(sizes) >= needed * GIB:
            yield replace(demand, gpus=share, num_workers=None if fixed is None else fixed * times)


def _one_phase(run: RecordedRun) -> Iterator[Suggestion]:
    """Ask for as much GPU memory as was measured, so that stages of several phases fit at once."""
    changed = {}
    for index, demand in run.demands.items():
        peak = gpu_peak(run, index)
        if run.uses_gpu(index) and peak is not None and demand.gpus <= 1:
            changed[index] = replace(demand, gpus=0.0, gpu_memory_gb=suggested_gpu_memory_gb(peak))
    outlook = run.with_demands(changed) if changed else None
    if outlook is None or len(outlook.phases) >= len(run.phases):
        return
    gain = run.gain(outlook)
    sizes = ", ".join(f"{named(run.name(index))} {demand.gpu_memory_gb:g}" for index, demand in changed.items())
    slowest = (run.slowest(phase) for phase in run.phases)
    times = " + ".join(seconds(load.work_s) for load in slowest if load is not None)
    yield Suggestion(
        kind="one_phase",
        settings={f"{run.name(index)}.gpu_memory_gb": demand.gpu_memory_gb for index, demand in changed.items()},
        gain_share=gain,
        at_most=True,
        text=f"Ask for the GPU memory that was measured (gpu_memory_gb: {sizes}): then stages run at the same time "
        f"that ran one after the other, in {len(run.phases)} phases.",
        arithmetic=f"the slowest stages of the phases took {times}; {_then(run, outlook, gain)} at most",
    )


# ---- in words ---------------------------------------------------------------------------------------------


def _smallest_that_is_enough(tried: list[_Tried]) -> _Tried:
    """Return the first change that gives nearly as much as the best one. ``tried``: the smallest first."""
    best = max(each.gain for each in tried)
    return next(each for each in tried if each.gain >= _ENOUGH * best)


def _changed(before: StageDemand, after: StageDemand) -> Mapping[str, Any]:
    pairs = ((key, getattr(before, key), getattr(after, key)) for key in ("gpus", "gpu_memory_gb", "num_workers"))
    return {key: then for key, now, then in pairs if now != then and then}


def _division(run: RecordedRun, load: StageLoad, count: int) -> str:
    had = f"{load.workers:.2g} worker{'' if round(load.workers, 1) == 1 else 's'}"
    return (
        f"{named(load.name)} worked {seconds(run.worker_s(load.index))}: {seconds(load.work_s)} with {had}, "
        f"{seconds(run.work_with(load.index, count))} with {count}"
    )


def _then(run: RecordedRun, outlook: Outlook, gain: float) -> str:
    """Say what would limit the run then, and what that makes of all of it."""
    slowest = outlook.slowest
    work, phase = outlook.work_s[slowest], next((each for each in outlook.phases if slowest in each), {})
    cpus = run.cpu_bound_s(phase)
    limit = f"then {named(run.name(slowest))} is the slowest, with {seconds(work)}"
    if cpus > work:
        limit = f"then the CPU time of all stages is the limit, {seconds(cpus)} on {run.room.usable_cpus:g} CPUs"
    return f"{limit}; {effect(run.wall_s, gain)}"
