"""What a trial's report says: its figures, what makes them doubtful, and why it did not go through. Pure.

A report is taken as ``RunReport.to_dict`` makes it, so that of a trial that was killed, the file that it has left says
as much as is known.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpuexec.bench.arrivals import Arrivals, StageTally
from gpuexec.bench.model import StageFigures, Trial, TrialResult, TrialStatus
from gpuexec.core.worker_time import IdleReason
from gpuexec.errors import (
    ConfigurationError,
    GpusLost,
    RemoteTraceback,
    ResourcesError,
    StageContractError,
    StageNotPicklable,
    WorkerDied,
)
from gpuexec.report.bounds import number, row, rows, throttled_share
from gpuexec.report.doubts import loaded_clock
from gpuexec.worker.gpu_memory_errors import is_out_of_gpu_memory

TENANT, THROTTLED, CLOCK = "another tenant", "throttled", "clock changed"
_THROTTLED_SHARE = 0.01  # of the samples
_SAME_CLOCK = 0.05
_FIXED_CLOCKS = {"application clocks", "display clocks", "sync boost"}
_MOST_CHARS = 300
_REFUSALS = (ResourcesError, ConfigurationError, StageContractError, StageNotPicklable)

Data = Mapping[str, Any]


def result_of(
    trial: Trial,
    status: TrialStatus,
    reason: str | None,
    *,
    started_at: float,
    report: Data | None = None,
    arrivals: Arrivals | None = None,
    run_folder: str | None = None,
) -> TrialResult:
    """Return the result of a trial. ``report``: as far as there is one; ``arrivals``: what its observer has seen."""
    report = report or {}
    seen = arrivals or Arrivals()
    joules_per_item, is_short = seen.joules_per_item()
    return TrialResult(
        trial=trial,
        status=status,
        reason=None if reason is None else _in_brief(reason),
        marks=marks_of(report),
        seconds=_known(report.get("wall_s")),
        items=seen.items if arrivals else None,
        throughput=seen.throughput,
        first_result_s=seen.first_result_s,
        latency_p50_s=seen.latency(0.5),
        latency_p99_s=seen.latency(0.99),
        joules=None if joules_per_item is None else joules_per_item * seen.items,
        joules_per_item=joules_per_item,
        energy_is_short=is_short,
        stages=tuple(_stage(report, stage, seen.stages) for stage in rows(report.get("stages"))),
        run_folder=run_folder,
        started_at=started_at,
        sm_clock_mhz=loaded_clock(report),
    )


def ending_of(error: BaseException | None, report: Data | None) -> tuple[TrialStatus, str | None]:
    """Return how a run ended, and why.

    ``error``: what it raised, ``None`` if it went through. ``report``: ``None`` if it was not begun.
    """
    if error is None:
        lost = next((q for q in rows((report or {}).get("quarantined")) if _tells_of_memory(str(q.get("error")))), None)
        return (TrialStatus.OK, None) if lost is None else (TrialStatus.OUT_OF_MEMORY, str(lost.get("error")))
    causes = list(_causes(error))
    if any(is_out_of_gpu_memory(each) or _tells_of_memory(f"{type(each).__name__}: {each}") for each in causes):
        return TrialStatus.OUT_OF_MEMORY, _what_was_raised(error)
    if report is None:
        return (TrialStatus.REFUSED if isinstance(error, _REFUSALS) else TrialStatus.FAILED), _what_was_raised(error)
    failures = rows(report.get("failures"))
    if failures and failures[-1].get("stacks"):  # it exceeded a time limit of the executor's
        return TrialStatus.TIMED_OUT, str(failures[-1].get("error"))
    if isinstance(error, WorkerDied | GpusLost):
        return TrialStatus.CRASHED, _what_was_raised(error)
    return TrialStatus.FAILED, _what_was_raised(error)


def marks_of(report: Data) -> tuple[str, ...]:
    """Return what makes a run's figures doubtful, as the kind and what was seen."""
    found = list(dict.fromkeys(_marks(report)))
    if not any(mark.startswith(THROTTLED) for mark in found):
        for gpu in rows(report.get("gpus")):
            share = throttled_share(gpu)
            if share is not None and share > _THROTTLED_SHARE:
                found.append(f"{THROTTLED}: GPU {gpu.get('index')} was throttled {share:.0%} of the time")
    return tuple(found)


def with_clock_mark(result: TrialResult, earlier: Sequence[TrialResult]) -> TrialResult:
    """Return the result, marked if its GPUs ran at another clock than in earlier trials of its point."""
    clocks = [
        each.sm_clock_mhz
        for each in earlier
        if each.trial.point_id == result.trial.point_id and each.sm_clock_mhz is not None and not each.marks
    ]
    if result.sm_clock_mhz is None or not clocks:
        return result
    usual = statistics.median(clocks)
    if abs(result.sm_clock_mhz / usual - 1) <= _SAME_CLOCK:
        return result
    mark = f"{CLOCK}: {result.sm_clock_mhz:,.0f} MHz under load, and {usual:,.0f} MHz in the point's other trials"
    return replace(result, marks=(*result.marks, mark))


def _marks(report: Data) -> Iterator[str]:
    doubts = report.get("doubts")
    for doubt in doubts if isinstance(doubts, list) else ():
        if "another process" in doubt or "a process that was there" in doubt:
            yield f"{TENANT}: {doubt}"
        elif "was throttled" in doubt:
            yield f"{THROTTLED}: {doubt}"
        elif "power limit was changed" in doubt:
            yield f"{CLOCK}: {doubt}"
    before, after = (rows(row(report.get(name)).get("gpus")) for name in ("gpus_before", "gpus_after"))
    later = {gpu.get("uuid"): gpu for gpu in after}
    for gpu in before:
        reasons = [
            set(each.get("clock_reasons") or ()) & _FIXED_CLOCKS for each in (gpu, later.get(gpu.get("uuid"), gpu))
        ]
        if reasons[0] != reasons[1]:
            ends = [", ".join(sorted(each)) or "not fixed" for each in reasons]
            yield f"{CLOCK}: the clocks of GPU {gpu.get('index')} were {ends[0]} before the run, and {ends[1]} after it"


def _stage(report: Data, stage: Data, tallies: Sequence[StageTally]) -> StageFigures:
    index, times = int(number(stage.get("index"))), row(stage.get("service_time"))
    joules, items = row(stage.get("energy")).get("joules"), number(stage.get("items"))
    idle = {reason.value for reason in IdleReason}
    return StageFigures(
        name=str(stage.get("name")),
        items_per_s=tallies[index].items_per_s if index < len(tallies) else None,
        service_p50_s=_known(times.get("p50_s")),
        service_p90_s=_known(times.get("p90_s")),
        service_p99_s=_known(times.get("p99_s")),
        peak_gpu_bytes=row(stage.get("gpu_memory")).get("peak_bytes"),
        joules_per_item=number(joules) / items if joules is not None and items else None,
        idle={part: number(seconds) for part, seconds in row(stage.get("time")).items() if part in idle},
        workers=_mean_workers(report, stage),
        gpu_memory_gb=_known(stage.get("gpu_memory_gb")) or None,
    )


def _mean_workers(report: Data, stage: Data) -> float | None:
    """Return the mean number of workers of a stage, or of the stage whose workers run it, while it had any."""
    now = number(report.get("elapsed_s"))
    lives = [
        (number(worker.get("started_s")), now if worker.get("ended_s") is None else number(worker.get("ended_s")))
        for worker in rows(report.get("workers"))
        if worker.get("stage_index") == stage.get("lead_index")
    ]
    span = max((end for _, end in lives), default=0.0) - min((begin for begin, _ in lives), default=0.0)
    return sum(end - begin for begin, end in lives) / span if span > 0 else None


def _what_was_raised(error: BaseException) -> str:
    """Return what an error says, and in which stage it was raised."""
    if isinstance(error, WorkerDied):
        return f"stage {error.stage!r}: {error.cause}"
    remote = next((each for each in _causes(error) if isinstance(each, RemoteTraceback)), None)
    where = f"stage {remote.stage!r}: " if remote is not None else ""
    is_own = type(error).__module__ == "gpuexec.errors"
    return f"{where}{error}" if is_own else f"{where}{type(error).__name__}: {error}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _tells_of_memory(text: str) -> bool:
    return "OutOfMemoryError" in text or is_out_of_gpu_memory(RuntimeError(text))


def _in_brief(text: str) -> str:
    """Return the first line that says something: what follows it, such as arithmetic, is in the trial's output."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    line = next(filter(None, lines), "")
    return line if len(line) <= _MOST_CHARS else f"{line[: _MOST_CHARS - 1]}…"


def _known(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
