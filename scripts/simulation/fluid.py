"""A run as a fluid: at any moment the pipeline passes what its slowest stage can; who stops is gone a look later."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from gpuexec.plan.balance import balance
from gpuexec.plan.model import WorkerGrant
from gpuexec.plan.planner import plan_in
from gpuexec.plan.proposal import Proposal, StageSnapshot, Start, Stop
from gpuexec.plan.rebalance import rebalance
from simulation.problems import Problem

_LOOK_EVERY_S = 10.0
_PACE = 0.2  # weight of the newest figure in the running mean, as in the driver
_SCATTER = 0.2  # service times are off by up to this part


@dataclass(frozen=True, slots=True)
class Outcome:
    """``end``: source tasks a second at the end; times in seconds."""

    end: float
    settled_s: float
    stopped: int
    slowest_look_s: float


class Run:
    """One pipeline, looked at every few seconds for ``length_s``; service times scatter, proposals are carried out."""

    def __init__(self, problem: Problem, length_s: float, clock: Callable[[], float]) -> None:
        self._problem = problem
        self._length_s = length_s
        self._clock = clock
        self._rng = random.Random(problem.name)
        [phase] = plan_in(problem.room).phases
        self._alive: list[list[WorkerGrant]] = [
            list(plan.workers if problem.room.requests[plan.stage_index].uses_gpu else plan.workers[:1])
            for plan in phase.stages
        ]
        self._stopping: list[WorkerGrant] = []
        self._paces = list(problem.seconds)
        self._source_left = 1e6  # far from the end

    def play(self) -> Outcome:
        """Run to the end."""
        now, changed_at, settled, stopped, stop_rounds, slowest = 0.0, -1e9, 0.0, 0, 0, 0.0
        while now < self._length_s:
            began = self._clock()
            made = self._evaluate(now - changed_at, stop_rounds)
            slowest = max(slowest, self._clock() - began)
            self._stopping = []
            stops = [a for a in made.actions if isinstance(a, Stop)]
            for action in made.actions:
                self._carry_out(action)
            if made.actions:
                changed_at = settled = now
            stopped += len(stops)
            stop_rounds += bool(stops)
            now += _LOOK_EVERY_S
        return Outcome(self._throughput(), settled, stopped, slowest)

    def _evaluate(self, since_change_s: float, stop_rounds: int) -> Proposal:
        problem = self._problem
        self._paces = [
            pace + _PACE * (true * self._rng.uniform(1 - _SCATTER, 1 + _SCATTER) - pace)
            for pace, true in zip(self._paces, problem.seconds, strict=True)
        ]
        snapshots = [
            StageSnapshot(request, tuple(grants), pace, startup, 1, self._source_left * tasks, tasks)
            for request, grants, pace, startup, tasks in zip(
                problem.room.requests, self._alive, self._paces, problem.startup_s, problem.tasks, strict=True
            )
        ]
        targets = balance([s.load for s in snapshots], problem.room.ledger, problem.room.usable_cpus).counts
        return rebalance(
            snapshots,
            targets,
            problem.room,
            stopping=self._stopping,
            since_change_s=since_change_s,
            stop_rounds=stop_rounds,
        )

    def _carry_out(self, action: Start | Stop) -> None:
        if isinstance(action, Start):
            stage = action.grant.stage_index
            self._alive[stage].append(action.grant)
            return
        [grant] = [g for g in self._alive[action.stage_index] if g.worker_id == action.worker_id]
        self._alive[action.stage_index].remove(grant)
        self._stopping.append(grant)

    def _throughput(self) -> float:
        works = [s * t for s, t in zip(self._problem.seconds, self._problem.tasks, strict=True)]
        return min(len(grants) / work for grants, work in zip(self._alive, works, strict=True))
