"""How far a run is, at one moment: what the progress table and ``gpuexec top`` show.

What is not known has no number: a total only where the input is finite and every stage before has measured how many
tasks it makes of one, a remaining time only where all totals and rates are known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec.core.worker_time import Work
from gpuexec.observe.stage_rates import StageRate
from gpuexec.records import Record

if TYPE_CHECKING:
    from gpuexec.hardware.process_readings import ProcessSample
    from gpuexec.hardware.telemetry import GpuSample
    from gpuexec.report.model import RunReport

_RATE_WINDOW_S = 5.0
_LONG_WINDOW_S = 30.0  # for the remaining time, which must not jump about
_SHARES_OVER_S = 10.0
_BUSY = 0.5  # a stage whose workers are busy for less of their time does not limit the run
_STEADY_AFTER_S = 5.0  # seconds of a run before it says how long it will take


class StageView(Record):
    """One stage. ``done``, ``queued``, ``in_flight``, ``failed_attempts`` and ``quarantined`` count tasks or attempts.

    ``total``: input tasks in the whole run, ``None`` if that is not known. ``is_estimate``: the total follows from how
    many tasks the stages before have made of each so far. ``rate``: tasks per second. ``seconds_left``: until
    it has done them all at the rate of the last half minute. ``busy``: the part of its workers' time that went to
    batches lately, and ``idle_reason`` what most of the rest went to. ``lead_index``: the stage whose workers run it.
    """

    index: int
    name: str
    lead_index: int
    done: int
    total: int | None
    is_estimate: bool
    queued: int
    in_flight: int
    workers: int
    starting: int
    finished: bool
    rate: float | None
    seconds_left: float | None
    busy: float | None
    idle_reason: str | None
    failed_attempts: int
    quarantined: int


class GpuView(Record):
    """The newest sample of a GPU. ``None``: not readable."""

    index: int
    uuid: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    sm_util_percent: int | None
    power_w: float | None
    temperature_c: int | None


class ProcessView(Record):
    """The newest sample of a worker's process, in bytes. ``None``: not readable. ``gpu_memory_bytes``: of all GPUs."""

    worker_id: str
    rss_bytes: int | None
    gpu_memory_bytes: int | None


class RunView(Record):
    """A run at one moment, ``seconds`` after its start. ``bottleneck``: index of the stage that limits it.

    ``remaining_s``: how long it will go on, ``None`` if that is not known. ``gpus`` and ``processes``: the newest
    sample of each.
    """

    seconds: float
    stages: tuple[StageView, ...]
    bottleneck: int | None = None
    remaining_s: float | None = None
    gpus: tuple[GpuView, ...] = ()
    processes: tuple[ProcessView, ...] = ()


class RunWatcher:
    """Builds views from events. ``report``: what the run's `ReportBuilder` builds from the same events, before."""

    def __init__(self, report: RunReport) -> None:
        self._report = report
        self._started_at = 0.0
        self._sample: events.NodeSampled | None = None  # the newest one
        self._limiting: int | None = None  # what the planner found last
        self._rates: list[StageRate] = []
        self._long_rates: list[StageRate] = []
        self._times: deque[tuple[float, list[dict[str, float]]]] = deque()  # seconds by what they went to, per stage
        self.view = RunView(0.0, ())

    def on_event(self, event: events.RunEvent) -> bool:
        """Take an event in; return whether there is a new view."""
        match event:
            case events.Gauged():
                self.view = self._viewed(event)
                return True
            case events.RunStarted():
                self._started_at = event.at
                self._rates = [StageRate(_RATE_WINDOW_S) for _ in event.stage_names]
                self._long_rates = [StageRate(_LONG_WINDOW_S) for _ in event.stage_names]
            case events.PlanDecided():
                self._limiting = event.bottleneck
            case events.NodeSampled():
                self._sample = event
        return False

    def _viewed(self, event: events.Gauged) -> RunView:
        totals = expected_totals(event.stages, event.tasks_left)
        shares = self._shares(event.at)
        stages = []
        for report, gauges in zip(self._report.stages, event.stages, strict=True):
            index, works = report.index, gauges.workers > 0
            total, is_estimate = totals[index]
            busy, idle_reason = shares[report.lead_index]
            long_rate = self._long_rates[index].update(event.at, gauges.done, works=works)
            view = StageView(
                index=index,
                name=report.name,
                lead_index=report.lead_index,
                done=gauges.done,
                total=total,
                is_estimate=is_estimate,
                queued=gauges.queued,
                in_flight=gauges.in_flight,
                workers=gauges.workers,
                starting=gauges.starting,
                finished=gauges.finished,
                rate=self._rates[index].update(event.at, gauges.done, works=works),
                seconds_left=seconds_left(gauges.done, total, long_rate),
                busy=busy,
                idle_reason=idle_reason,
                failed_attempts=report.failed_attempts,
                quarantined=report.quarantined,
            )
            stages.append(view)
        seconds = event.at - self._started_at
        remaining_s = remaining_time(stages) if seconds >= _STEADY_AFTER_S else None
        return RunView(
            seconds=seconds,
            stages=tuple(stages),
            bottleneck=bottleneck_of(stages, self._limiting),
            remaining_s=remaining_s,
            gpus=tuple(_gpu_view(gpu) for gpu in self._sample.gpus) if self._sample else (),
            processes=tuple(_process_view(process) for process in self._sample.processes) if self._sample else (),
        )

    def _shares(self, at: float) -> list[tuple[float | None, str | None]]:
        """Return of each stage how busy its workers were lately, and what most of their idle time went to."""
        now = [dict(stage.time) for stage in self._report.stages]
        self._times.append((at, now))
        while len(self._times) > 2 and at - self._times[1][0] >= _SHARES_OVER_S:
            self._times.popleft()
        return [shares_between(then, parts) for then, parts in zip(self._times[0][1], now, strict=True)]


def _gpu_view(gpu: GpuSample) -> GpuView:
    return GpuView(
        index=gpu.index,
        uuid=gpu.uuid,
        memory_used_bytes=gpu.memory_used_bytes,
        memory_total_bytes=gpu.memory_total_bytes,
        sm_util_percent=gpu.sm_util_percent,
        power_w=gpu.power_w,
        temperature_c=gpu.temperature_c,
    )


def _process_view(process: ProcessSample) -> ProcessView:
    held = process.gpu_memory_bytes
    return ProcessView(process.worker_id, process.rss_bytes, None if held is None else sum(size for _, size in held))


def shares_between(then: dict[str, float], now: dict[str, float]) -> tuple[float | None, str | None]:
    """Return the busy part of the time between two moments, and the largest idle part's name.

    Where nothing has been accounted in between, as while long batches run, all of the time so far counts.
    """
    parts = {part: seconds - then.get(part, 0.0) for part, seconds in now.items()}
    if not any(seconds > 0 for seconds in parts.values()):
        parts = now
    total = sum(parts.values())
    if total <= 0:
        return None, None
    works = {work.value for work in Work}
    idle = {part: seconds for part, seconds in parts.items() if part not in works and seconds > 0}
    return parts.get(Work.BUSY.value, 0.0) / total, max(idle, key=lambda part: idle[part]) if idle else None


def expected_totals(stages: Sequence[events.StageGauges], tasks_left: int | None) -> list[tuple[int | None, bool]]:
    """Return of each stage how many tasks it will have had in all, ``None`` if unknown, and if that is an estimate.

    It is none if every stage before has finished, or has made one task of each.
    """
    from gpuexec.planning.workload import StageProgress, forecast

    progress = [StageProgress(gauges.done, gauges.made, gauges.queued + gauges.in_flight) for gauges in stages]
    totals: list[tuple[int | None, bool]] = []
    is_estimate = False
    forecasts = forecast(progress, tasks_left)
    upstream_finished = True
    for gauges, each in zip(stages, forecasts, strict=True):
        if gauges.finished:
            totals.append((gauges.done, False))
        else:
            remaining = each.remaining
            totals.append((None if remaining is None else gauges.done + round(remaining), is_estimate))
        upstream_finished = upstream_finished and gauges.finished
        is_estimate = not upstream_finished and (is_estimate or gauges.made != gauges.done)
    return totals


def seconds_left(done: int, total: int | None, rate: float | None) -> float | None:
    """Return how long a stage needs for the rest of its tasks, ``None`` if their number or its rate is unknown."""
    if total is None or (total > done and not rate):
        return None
    return (total - done) / rate if rate and total > done else 0.0


def remaining_time(stages: Sequence[StageView]) -> float | None:
    """Return the seconds until the stage that needs longest is done, ``None`` if that is not known of one."""
    left = [stage.seconds_left for stage in stages if not stage.finished]
    known = [seconds for seconds in left if seconds is not None]
    return max(known) if known and len(known) == len(left) else None


def bottleneck_of(stages: Sequence[StageView], planned: int | None) -> int | None:
    """Return the stage that limits the run: the planner's, else the one whose workers are busiest.

    ``None`` if it has finished or does not keep its workers busy, and for a single stage, which limits it always.
    """
    running = [stage for stage in stages if stage.lead_index == stage.index and not _group_finished(stages, stage)]
    if len(stages) < 2:
        return None
    if planned is not None and any(s.index == planned and (s.busy is None or s.busy >= _BUSY) for s in running):
        return planned
    busiest = max(running, key=lambda stage: stage.busy or 0.0, default=None)
    return busiest.index if busiest is not None and (busiest.busy or 0.0) >= _BUSY else None


def _group_finished(stages: Sequence[StageView], lead: StageView) -> bool:
    return all(stage.finished for stage in stages if stage.lead_index == lead.index)
