"""What is known of stages that run: their workers, their service times, and the work still to come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpuexec.planning.model import WorkerGrant
from gpuexec.planning.request import Request, cpus_of

_NEGLIGIBLE = 0.1  # fraction of its time: a worker that is busy for less is not counted


@dataclass(frozen=True, slots=True)
class StageProgress:
    """A stage's tasks: ``done``, ``made`` of those done, and ``waiting`` (queued or in flight)."""

    done: int
    made: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """``tasks``: how many tasks one source task becomes here; ``remaining``: tasks to do; ``None``: not known yet."""

    tasks: float | None
    remaining: float | None


@dataclass(frozen=True, slots=True)
class StageLoad:
    """A stage and the work it has.

    ``workers``: how many it has now. ``task_s``: mean seconds a worker spends on a task. ``tasks``: how many tasks
    one source task becomes here, or, for all stages alike, how many tasks are still to be done. A stage for which
    ``task_s`` or ``tasks`` is ``None`` (not measured) keeps its workers. ``max_workers``: more would find no work.
    ``at_most_s``: of a stage that is not measured, what a task took a worker that had just started, if that is known.
    """

    request: Request
    workers: int
    task_s: float | None
    tasks: float | None = 1.0
    max_workers: int | None = None
    at_most_s: float | None = None

    @property
    def work_s(self) -> float | None:
        """Worker seconds per source task."""
        return None if self.task_s is None or self.tasks is None else self.task_s * self.tasks

    @property
    def fixed_count(self) -> int | None:
        """The stage's own count of workers, ``None`` if it leaves the choice."""
        return self.request.demand.num_workers

    @property
    def fewest(self) -> int:
        """The number of workers that it has at least."""
        return self.request.demand.fewest

    @property
    def most(self) -> int | None:
        """The number of workers beyond which it may not have more, or more would find no work."""
        bounds = [n for n in (self.request.demand.most, self.max_workers) if n is not None]
        return min(bounds, default=None)


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """A running stage. ``grants``: of its live workers, oldest first; starting ones included, stopping ones not.

    ``task_s``, ``tasks``, ``max_workers`` and ``at_most_s``: see `StageLoad`. ``waiting``: tasks queued or in flight.
    ``remaining``: tasks still to do; ``None`` if unknown, and then only those ``waiting`` are counted.
    ``startup_s``: from spawn to ready.
    """

    request: Request
    grants: tuple[WorkerGrant, ...]
    task_s: float | None
    startup_s: float | None
    waiting: int
    remaining: float | None
    tasks: float | None = 1.0
    max_workers: int | None = None
    at_most_s: float | None = None

    @property
    def load(self) -> StageLoad:
        """The stage as `balance` takes it."""
        return StageLoad(self.request, len(self.grants), self.task_s, self.tasks, self.max_workers, self.at_most_s)

    @property
    def work_left_s(self) -> float:
        """Worker seconds still to be done, as far as is known."""
        return (self.task_s or 0.0) * (self.waiting if self.remaining is None else self.remaining)


def forecast(stages: Sequence[StageProgress], tasks_left: int | None) -> list[Forecast]:
    """Follow the tasks down the unfinished stages, assuming that each becomes as many as those before it did.

    ``tasks_left``: tasks not yet in the first stage's queue; ``None`` if unknown.
    """
    forecasts = []
    tasks: float | None = 1.0
    coming = None if tasks_left is None else float(tasks_left)
    for stage in stages:
        remaining = None if coming is None else coming + stage.waiting
        forecasts.append(Forecast(tasks, remaining))
        ratio = stage.made / stage.done if stage.done else None
        tasks = None if tasks is None or ratio is None else tasks * ratio
        coming = 0.0 if remaining == 0 else None if remaining is None or ratio is None else remaining * ratio
    return forecasts


def by_remaining(forecasts: Sequence[Forecast]) -> Sequence[Forecast]:
    """If the remaining tasks of all stages are known, return forecasts whose ``tasks`` are those.

    Counts chosen for the remaining work let a stage that is behind catch up, and one that is nearly done shrink.
    """
    if any(f.remaining is None for f in forecasts):
        return forecasts
    return [Forecast(f.remaining, f.remaining) for f in forecasts]


@dataclass(frozen=True, slots=True)
class MemberLoad:
    """One stage of a group of fused ones. ``task_s``: mean seconds for a task, ``None`` if it has done none."""

    forecast: Forecast
    task_s: float | None
    waiting: int


@dataclass(frozen=True, slots=True)
class GroupLoad:
    """The load of a group as that of a single stage: see `StageSnapshot`."""

    task_s: float | None
    tasks: float | None
    remaining: float | None
    waiting: int


def load_of_group(members: Sequence[MemberLoad]) -> GroupLoad:
    """Return the load of fused stages as if one stage did their work.

    Its tasks are as many as those of the stage that has most, and each takes the time that all stages together spend
    on it. Of a group in which a stage has tasks but has done none, the time is not known.
    """
    if len(members) == 1:
        (only,) = members
        return GroupLoad(only.task_s, only.forecast.tasks, only.forecast.remaining, only.waiting)
    measured = [(member, member.task_s) for member in members if member.task_s is not None]
    unknown = any(member.task_s is None and member.waiting for member in members)
    counts = [member.forecast.tasks for member, _ in measured]
    tasks = None if None in counts or not counts else max(count for count in counts if count is not None)
    each_s = math.fsum(task_s for _, task_s in measured)
    task_s = each_s
    if tasks:
        task_s = math.fsum((member.forecast.tasks or 0.0) * seconds for member, seconds in measured) / tasks
    if unknown or not measured or not task_s:
        waiting = sum(member.waiting for member in members)
        return GroupLoad(None, tasks, members[0].forecast.remaining, waiting)
    remaining: float | None = None
    if all(member.forecast.remaining is not None for member, _ in measured):
        remaining = math.fsum((member.forecast.remaining or 0.0) * seconds for member, seconds in measured) / task_s
    waiting_s = math.fsum(member.waiting * seconds for member, seconds in measured)
    return GroupLoad(task_s, tasks, remaining, math.ceil(waiting_s / task_s))


def effective_cpus(stages: Sequence[StageLoad], usable_cpus: float) -> float:
    """Return the CPUs to plan with: the usable ones, and what the first workers of the stages leave idle of theirs.

    Every stage has a worker, so whole CPUs for all of them would leave none for the heavy stage of a pipeline with
    more light stages than CPUs. At the throughput that all CPUs together allow, the first worker of a stage is busy
    for at most that throughput times its work, and at any lower throughput for less. Of a stage that is not measured,
    the first tasks of a new worker are known to take longer than others. It counts in full if it has done none, and so
    does a stage with a fixed count.
    """
    measured = [(stage, work) for stage in stages if (work := stage.work_s) is not None]
    cpu_s = math.fsum(work * cpus_of(stage.request) for stage, work in measured)
    if not cpu_s:
        return usable_cpus
    throughput = usable_cpus / cpu_s
    bounded = [
        (stage, stage.at_most_s * stage.tasks)
        for stage in stages
        if stage.work_s is None and stage.at_most_s is not None and stage.tasks is not None
    ]
    idle = [
        cpus_of(stage.request) * (1.0 if busy < _NEGLIGIBLE else 1.0 - busy)
        for stage, work in (*measured, *bounded)
        if stage.fixed_count is None and (busy := throughput * work) < 1.0
    ]
    return usable_cpus + math.fsum(idle)
