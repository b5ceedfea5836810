"""Follows a run of a trial by its events: what came out of the stages and when, how long tasks took, what GPUs used.

Start-up is left out everywhere: a run's *work* begins with the first batch of any stage. Where a run is made short,
what comes after the cut is left out too, since stages are then fed no more.
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
        self._taken = 0
        self._made = 0

    def add(self, event: events.BatchesFinished) -> None:
        """Count batches."""
        stats = event.stats
        self._taken += stats.items
        self._made += event.tasks_out
        self.began = stats.began if self.began is None else min(self.began, stats.began)
        self.ended = stats.ended if self.ended is None else max(self.ended, stats.ended)

    @property
    def items(self) -> int:
        """Items that it has taken in and is done with; of a stage that makes tasks of nothing, the tasks it has made.

        What comes out of a last stage is no measure: many return nothing, since they have stored it.
        """
        return self._taken or self._made

    @property
    def items_per_s(self) -> float | None:
        """Items a second between the begin of its first batch and the end of its last one; ``None`` of no items."""
        if self.began is None or self.ended is None or self.ended <= self.began or not self.items:
            return None
        return self.items / (self.ended - self.began)


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


class WorkEnergy:
    """What all GPUs of a run used while it worked, from their counters."""

    def __init__(self) -> None:
        self._meters: dict[str, EnergyMeter] = {}
        self._waiting: list[GpuSample] = []  # of which it is not known yet whether the run still worked

    def add(self, samples: Sequence[GpuSample]) -> None:
        """Add a sample of each GPU."""
        self._waiting += samples

    def worked(self, began: float, until: float) -> None:
        """Count the samples between the begin of the run's work and ``until``."""
        for sample in (each for each in self._waiting if began <= each.at <= until):
            meter = self._meters.setdefault(sample.uuid, EnergyMeter())
            meter.add(sample.at, sample.energy_mj, sample.unknown.get("energy_mj"))
        self._waiting = [each for each in self._waiting if each.at > until]

    def joules(self, seconds: float) -> tuple[float | None, bool]:
        """Return the joules in so many seconds of work, at the mean power measured, and whether that is a short time.

        ``None`` if a GPU's energy is not known.
        """
        results = [meter.result() for meter in self._meters.values()]
        watts = [each.joules / each.seconds for each in results if each.joules is not None and each.seconds]
        if not results or len(watts) < len(results):
            return None, False
        return sum(watts) * seconds, min(each.seconds for each in results) < MEASURED_FROM_S


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
        self._phases = 1
        self._latencies = Latencies(0)
        self._energy = WorkEnergy()
        self.stages: list[StageTally] = []
        self.first_result_s: float | None = None

    def on_event(self, event: events.RunEvent) -> None:
        """Take an event in."""
        if isinstance(event, events.BatchesFinished):
            if not self.was_cut:
                self._add_batches(event)
        elif isinstance(event, events.NodeSampled):
            self._energy.add(event.gpus)
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
    def work_s(self) -> float | None:
        """Seconds from the begin of the first batch of any stage to the end of the last stage's last one."""
        begins = [stage.began for stage in self.stages if stage.began is not None]
        ended = self.stages[-1].ended if self.stages else None
        return ended - min(begins) if begins and ended is not None else None

    @property
    def throughput(self) -> float | None:
        """Items that the last stage is done with, by `work_s`; ``None`` of no items."""
        return self.items / self.work_s if self.work_s and self.items else None

    def latency(self, share: float) -> float | None:
        """Return a quantile of the tasks' seconds from entry to exit."""
        return self._latencies.quantile(share)

    def joules(self) -> tuple[float | None, bool]:
        """Return the joules of the GPUs during the work, and whether they were measured for too short a time."""
        return self._energy.joules(self.work_s) if self.work_s else (None, False)

    def _begin(self, event: events.RunStarted) -> None:
        self._started_at, self._phases = event.at, len(event.plan.phases)
        self.stages = [StageTally() for _ in event.stage_names]
        last = len(event.stage_names) - 1
        leads = {i: stage.stage_index for phase in event.plan.phases for stage in phase.stages for i in stage.fused}
        self._latencies = Latencies(leads.get(last, last))

    def _add_batches(self, event: events.BatchesFinished) -> None:
        self.stages[event.stage_index].add(event)
        self._latencies.add(event)
        if event.stage_index != len(self.stages) - 1:
            return
        began = min(stage.began for stage in self.stages if stage.began is not None)
        self._energy.worked(began, event.stats.ended)
        if self.first_result_s is None:
            self.first_result_s = event.at - self._started_at
            if self._budget_s is not None and self._phases == 1:
                self._timer = threading.Timer(self._budget_s, self._use_up)
                self._timer.daemon = True
                self._timer.start()

    def _use_up(self) -> None:
        self._cut_at = time.monotonic()
        self._cut()
