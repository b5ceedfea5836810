"""Follows a run of a trial by its events: what the stages did and when, how long tasks took, what GPUs used.

Start-up is left out everywhere: a stage counts from its first batch on. Where a run is made short, what comes after the
cut is left out too, since stages are fed no more then.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.hardware.telemetry import GpuSample
from gpuexec.report.energy import MEASURED_FROM_S, EnergyMeter

_MOST_ENTRIES = 65_536  # tasks that have entered and are not followed to their exit yet; the oldest are forgotten
_MOST_LATENCIES = 20_000  # a sample of them, beyond that


class StageTally:
    """What one stage has done. ``began``: its first batch, ``ended``: its last one, by the monotonic clock."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.ended: float | None = None
        self.tasks_in = 0
        self.tasks_out = 0
        self._taken = 0

    def add(self, event: events.BatchesFinished) -> None:
        """Count batches."""
        stats = event.stats
        self.tasks_in += stats.tasks_in
        self.tasks_out += event.tasks_out
        self._taken += stats.items
        self.began = stats.began if self.began is None else min(self.began, stats.began)
        self.ended = stats.ended if self.ended is None else max(self.ended, stats.ended)

    @property
    def items(self) -> int:
        """Items that it has taken in and is done with; of a stage that makes tasks of nothing, the tasks it has made.

        What comes out of a last stage is no measure: many return nothing, since they have stored it.
        """
        return self._taken or self.tasks_out

    @property
    def span_s(self) -> float | None:
        """Seconds from the begin of its first batch to the end of its last one, ``None`` of no time."""
        if self.began is None or self.ended is None or self.ended <= self.began:
            return None
        return self.ended - self.began

    @property
    def items_per_s(self) -> float | None:
        """Items a second in that time; ``None`` of no items."""
        return self.items / self.span_s if self.span_s and self.items else None


def throughput_of(stages: Sequence[StageTally], phases: Sequence[Sequence[int]]) -> float | None:
    """Return the items of the last stage that a run gets through in a second, once all stages are at work.

    It is the pace of the stage that limits: of each stage, the items of the last one that become of what it does in a
    second (so many tasks, times what has become of a task from stage to stage), and of these the lowest. Of a run that
    has gone to its end, that is all items by the time of the stage that took longest. ``phases``: the stages that run
    at the same time; what is done phase by phase takes the sum of their times. ``None`` if nothing has come through.
    """
    if not stages or not stages[-1].tasks_in:
        return None
    paces = []
    items_of_a_task = stages[-1].items / stages[-1].tasks_in
    for index, stage in reversed(list(enumerate(stages))):
        if index < len(stages) - 1:
            items_of_a_task *= stage.tasks_out / stage.tasks_in if stage.tasks_in else 0.0
        if stage.span_s is not None:
            paces.append((index, stage.tasks_in / stage.span_s * items_of_a_task))
    slowest = [min((pace for index, pace in paces if index in phase), default=None) for phase in phases]
    seconds_an_item = [1 / pace if pace else float("inf") for pace in slowest if pace is not None]
    return 1 / sum(seconds_an_item) if seconds_an_item and sum(seconds_an_item) < float("inf") else None


class Latencies:
    """Seconds from a task's entry to its exit, for a sample of tasks.

    A task enters when the first stage begins with it; if that stage makes tasks of nothing, when it has made it. It
    leaves with the end of its batch in the last stage. Ids tell which task descends from which, so there is no latency
    where a stage makes other numbers of tasks of several (their ids are random then).
    """

    def __init__(self, exit_stage: int) -> None:
        self._exit_stage = exit_stage
        self._entered: dict[str, float] = {}
        self._seen = 0
        self._random = random.Random(0)  # noqa: S311 - no secret
        self.seconds: list[float] = []

    def add(self, event: events.BatchesFinished) -> None:
        """Follow the first tasks of batches."""
        if event.stage_index == 0:
            for task_id in event.first_task_ids:
                self._enter(task_id, event)
        if event.stage_index == self._exit_stage:
            for task_id in event.first_task_ids:
                entered = self._entry_of(task_id)
                if entered is not None:
                    self._keep(max(0.0, event.at - entered))

    def quantile(self, share: float) -> float | None:
        """Return the latency that this share of the tasks did not exceed, ``None`` if none is known."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    def _enter(self, task_id: str, event: events.BatchesFinished) -> None:
        is_empty_task = "_" not in task_id
        if is_empty_task and self._exit_stage == 0:
            return  # what is made of it has left already
        self._entered[task_id] = event.at if is_empty_task else event.stats.began
        if len(self._entered) > _MOST_ENTRIES:
            del self._entered[next(iter(self._entered))]

    def _entry_of(self, task_id: str) -> float | None:
        while task_id:
            if task_id in self._entered:
                return self._entered[task_id]
            task_id = task_id.rpartition("_")[0]
        return None

    def _keep(self, seconds: float) -> None:
        self._seen += 1
        if len(self.seconds) < _MOST_LATENCIES:
            self.seconds.append(seconds)
        elif (at := self._random.randrange(self._seen)) < _MOST_LATENCIES:
            self.seconds[at] = seconds


class WorkPower:
    """What all GPUs of a run draw while all of its stages work, from their energy counters."""

    def __init__(self) -> None:
        self._meters: dict[str, EnergyMeter] = {}
        self._waiting: list[GpuSample] = []  # of which it is not known yet whether the run still worked

    def add(self, samples: Sequence[GpuSample]) -> None:
        """Add a sample of each GPU."""
        self._waiting += samples

    def worked(self, began: float, until: float) -> None:
        """Count the samples from ``began`` to ``until``."""
        for sample in (each for each in self._waiting if began <= each.at <= until):
            meter = self._meters.setdefault(sample.uuid, EnergyMeter())
            meter.add(sample.at, sample.energy_mj, sample.unknown.get("energy_mj"))
        self._waiting = [each for each in self._waiting if each.at > until]

    def watts(self) -> tuple[float | None, bool]:
        """Return the watts, and whether they were measured for too short a time.

        ``None`` if a GPU's energy is not known.
        """
        results = [meter.result() for meter in self._meters.values()]
        watts = [each.joules / each.seconds for each in results if each.joules is not None and each.seconds]
        if not results or len(watts) < len(results):
            return None, False
        return sum(watts), min(each.seconds for each in results) < MEASURED_FROM_S


class Arrivals:
    """An observer of one run. ``budget_s``: seconds after its first result from which on it is ended by ``cut``.

    A run whose stages do not fit together gives results in its last phase only, so it is never cut.
    ``was_cut``: it was. ``first_result_s``: since its start.
    """

    def __init__(self, budget_s: float | None = None, cut: Callable[[], None] = lambda: None) -> None:
        self._budget_s = budget_s
        self._cut = cut
        self._timer: threading.Timer | None = None
        self._cut_at: float | None = None
        self._started_at = 0.0
        self._phases: list[list[int]] = []
        self._latencies = Latencies(0)
        self._power = WorkPower()
        self.stages: list[StageTally] = []
        self.first_result_s: float | None = None

    def on_event(self, event: events.RunEvent) -> None:
        """Take an event in."""
        if isinstance(event, events.BatchesFinished):
            if not self.was_cut:
                self._add_batches(event)
        elif isinstance(event, events.NodeSampled):
            self._power.add(event.gpus)
        elif isinstance(event, events.RunStarted):
            self._begin(event)
        elif isinstance(event, events.RunEnded):
            self.close()

    def close(self) -> None:
        """End the timer. Safe to repeat."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def was_cut(self) -> bool:
        """Whether the run was ended when its budget was used up."""
        return self._cut_at is not None

    @property
    def items(self) -> int:
        """Items that the last stage is done with."""
        return self.stages[-1].items if self.stages else 0

    @property
    def throughput(self) -> float | None:
        """Items of the last stage per second: see `throughput_of`."""
        return throughput_of(self.stages, self._phases)

    def latency(self, share: float) -> float | None:
        """Return a quantile of the tasks' seconds from entry to exit."""
        return self._latencies.quantile(share)

    def joules_per_item(self) -> tuple[float | None, bool]:
        """Return the joules that the GPUs use for an item at this pace, and whether the time was too short to tell."""
        watts, is_short = self._power.watts()
        return (watts / self.throughput, is_short) if watts is not None and self.throughput else (None, False)

    def _begin(self, event: events.RunStarted) -> None:
        self._started_at = event.at
        self._phases = [
            [index for stage in phase.stages for index in (stage.stage_index, *stage.fused)]
            for phase in event.plan.phases
        ]
        self.stages = [StageTally() for _ in event.stage_names]
        last = len(event.stage_names) - 1
        leads = {i: stage.stage_index for phase in event.plan.phases for stage in phase.stages for i in stage.fused}
        self._latencies = Latencies(leads.get(last, last))

    def _add_batches(self, event: events.BatchesFinished) -> None:
        self.stages[event.stage_index].add(event)
        self._latencies.add(event)
        if event.stage_index != len(self.stages) - 1:
            return
        begins = [stage.began for stage in self.stages if stage.began is not None]
        self._power.worked(max(begins) if self._is_one_phase else min(begins), event.stats.ended)
        if self.first_result_s is None:
            self.first_result_s = event.at - self._started_at
            if self._budget_s is not None and self._is_one_phase:
                self._timer = threading.Timer(self._budget_s, self._use_up)
                self._timer.daemon = True
                self._timer.start()

    @property
    def _is_one_phase(self) -> bool:
        return len(self._phases) == 1

    def _use_up(self) -> None:
        self._cut_at = time.monotonic()
        self._cut()
