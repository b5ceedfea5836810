"""A run as a fluid: at any moment the pipeline passes what its slowest stage can; stopped workers end a cycle later."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from gpuexec.planning.balance import balance
from gpuexec.planning.model import WorkerGrant
from gpuexec.planning.planner import plan_phases
from gpuexec.planning.rebalance import Proposal, rebalance
from gpuexec.planning.workload import StageSnapshot
from simulation.problems import Problem

_CYCLE_S = 10.0
_NEWEST_WEIGHT = 0.2  # of the newest service time in the running mean, as in the driver
_NOISE = 0.2  # service times are off by up to this fraction


@dataclass(frozen=True, slots=True)
class Outcome:
    """``throughput``: source tasks a second at the end. ``cycles_s``: CPU seconds of each cycle."""

    throughput: float
    settled_s: float
    stopped: int
    cycles_s: tuple[float, ...]


class Run:
    """A run of ``length_s`` with noisy service times, evaluated in cycles; every proposal is carried out."""

    def __init__(self, problem: Problem, length_s: float, clock: Callable[[], float]) -> None:
        self._problem = problem
        self._allocator = problem.allocator
        self._length_s = length_s
        self._clock = clock
        self._rng = random.Random(problem.name)
        [phase] = plan_phases(self._allocator).phases
        self._alive: list[list[WorkerGrant]] = [
            list(plan.workers if self._allocator.requests[plan.stage_index].uses_gpu else plan.workers[:1])
            for plan in phase.stages
        ]
        self._stopping: list[WorkerGrant] = []
        self._mean_task_s = list(problem.task_s)
        self._source_tasks_left = 1e6  # far from the end

    def play(self) -> Outcome:
        """Run to the end."""
        now, changed_at, settled, stopped, stop_rounds = 0.0, -1e9, 0.0, 0, 0
        cycles_s: list[float] = []
        while now < self._length_s:
            began = self._clock()
            proposal = self._evaluate(now - changed_at, stop_rounds)
            cycles_s.append(self._clock() - began)
            self._carry_out(proposal)
            if proposal.has_actions:
                changed_at = settled = now
            stopped += len(proposal.stops)
            stop_rounds += bool(proposal.stops)
            now += _CYCLE_S
        return Outcome(self._throughput(), settled, stopped, tuple(cycles_s))

    def _evaluate(self, since_change_s: float, stop_rounds: int) -> Proposal:
        problem, allocator = self._problem, self._allocator
        self._mean_task_s = [
            mean + _NEWEST_WEIGHT * (true * self._rng.uniform(1 - _NOISE, 1 + _NOISE) - mean)
            for mean, true in zip(self._mean_task_s, problem.task_s, strict=True)
        ]
        snapshots = [
            StageSnapshot(
                request,
                tuple(grants),
                task_s=task_s,
                startup_s=startup_s,
                waiting=1,
                remaining=self._source_tasks_left * tasks,
                tasks=tasks,
            )
            for request, grants, task_s, startup_s, tasks in zip(
                allocator.requests, self._alive, self._mean_task_s, problem.startup_s, problem.tasks, strict=True
            )
        ]
        targets = balance([s.load for s in snapshots], allocator.ledger, allocator.usable_cpus).counts
        return rebalance(
            snapshots,
            targets,
            allocator,
            stopping=self._stopping,
            since_change_s=since_change_s,
            stop_rounds=stop_rounds,
        )

    def _carry_out(self, proposal: Proposal) -> None:
        self._stopping = []  # those of the cycle before have ended
        for stop in proposal.stops:
            [grant] = [g for g in self._alive[stop.stage_index] if g.worker_id == stop.worker_id]
            self._alive[stop.stage_index].remove(grant)
            self._stopping.append(grant)
        for start in proposal.starts:
            self._alive[start.grant.stage_index].append(start.grant)

    def _throughput(self) -> float:
        works = [s * t for s, t in zip(self._problem.task_s, self._problem.tasks, strict=True)]
        return min(len(grants) / work for grants, work in zip(self._alive, works, strict=True))
