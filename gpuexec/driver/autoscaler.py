"""Keeps the numbers of workers right while a phase runs: evaluates the stages in cycles, applies what the planner says.

    first results ──► all stages measured? ──► evaluate: snapshots ─► balance ─► rebalance ──► start and stop workers
                      (or waited long enough)    ▲                                               │
                                                 └── batches finished (twice a second), a worker ended ◄┘

This module decides when a cycle is due, from what the loop reports. What to do then is decided by the pure functions
of ``planning``, which `evaluation` calls.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec.core.pool import WorkerPool
from gpuexec.core.stage import StageState
from gpuexec.core.worker import EndReason, Worker
from gpuexec.planning.allocator import Allocator

if TYPE_CHECKING:
    from gpuexec.driver.evaluation import Evaluation
    from gpuexec.planning.rebalance import Proposal

_CYCLE_S = 0.5
_COST_FACTOR = 20  # a pause of this many times the cycle's own duration: at most 5 % of the driver's time
_REFUSED_PAUSE_S = 10.0  # after the system has refused a process: it will hardly give one before long
_PATIENCE_S = 2.0  # how long to wait until every stage has been measured; partial measurements mislead


class Autoscaler:
    """The autoscaler of one run. ``tasks_left``: initial tasks not read yet; ``None`` if unknown."""

    def __init__(
        self,
        allocator: Allocator,
        pool: WorkerPool,
        *,
        tasks_left: Callable[[], int | None],
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._allocator = allocator
        self._pool = pool
        self._tasks_left = tasks_left
        self._emit = emit
        self._active: Sequence[StageState] = ()
        self._has_choice = False
        self._has_news = False  # something has happened since the last cycle
        self._awaits_stats = True  # not all stages were measured yet
        self._due_at = 0.0  # the next cycle, on the monotonic clock
        self._not_before = 0.0
        self._changed_at = -math.inf
        self._stop_rounds = 0
        self._times: dict[int, tuple[float, float]] = {}  # seconds busy and idle, by stage index, as of the last cycle
        self._last_outcome: tuple[object, ...] | None = None

    # ---- when --------------------------------------------------------------------------------------------

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """Take over these stages, which run from now on."""
        self._active = active
        self._has_choice = any(not stage.has_fixed_count for stage in active)
        self._has_news, self._awaits_stats, self._due_at = False, True, math.inf
        self._changed_at, self._stop_rounds = -math.inf, 0
        self._last_outcome = None

    def batches_finished(self) -> None:
        """Note that there are new stats."""
        self._has_news = True
        if self._due_at == math.inf:
            self._due_at = time.monotonic() + _PATIENCE_S

    def worker_ended(self) -> None:
        """Note that a worker's share is free now."""
        self._has_news = True
        if not self._awaits_stats:
            self._due_at = 0.0

    def next_cycle(self) -> float | None:
        """Return when the next cycle is due, on the monotonic clock; ``None``: not before something happens."""
        if not (self._has_news and self._has_choice):
            return None
        if self._awaits_stats and all(stage.finished or stage.group_times.is_measured for stage in self._active):
            self._awaits_stats, self._due_at = False, 0.0
        return max(self._due_at, self._not_before)

    # ---- what --------------------------------------------------------------------------------------------

    def run_cycle_if_due(self, workers: Iterable[Worker]) -> None:
        """Start and stop workers, if it is time and worth it. ``workers``: all that are alive, of every stage."""
        due = self.next_cycle()
        if due is None or time.monotonic() < due:
            return
        unfinished = [stage for stage in self._active if not stage.finished]
        if unfinished:
            importlib.import_module("gpuexec.driver.evaluation")  # 20 ms, once: not a part of the cycle's own duration
        began = time.monotonic()
        evaluation = self._evaluate(unfinished, list(workers), began)
        now = time.monotonic()
        self._has_news, self._due_at, self._not_before = False, now + _CYCLE_S, now + _COST_FACTOR * (now - began)
        if evaluation is None:
            return
        self._emit_if_new(evaluation, now)
        if evaluation.proposal.has_actions:
            self._changed_at = now
            if evaluation.proposal.stops:
                self._stop_rounds += 1
                self._emit(events.Noticed(evaluation.stop_notice(), "INFO"))
            self._apply(evaluation.proposal, unfinished, now)

    def _evaluate(self, stages: Sequence[StageState], workers: Sequence[Worker], now: float) -> Evaluation | None:
        if not stages or any(worker.end_reason is EndReason.CORDONED for worker in workers):
            return None  # the exit of workers killed for their GPU leads to the next cycle
        from gpuexec.driver.evaluation import evaluate  # not before a run needs it

        idle_shares = {stage.spec.index: self._idle_share(stage) for stage in stages}
        self._times = {stage.spec.index: (stage.group_times.busy_s, stage.group_times.idle_s) for stage in stages}
        return evaluate(
            stages,
            workers,
            self._allocator.without(self._pool.cordoned),
            tasks_left=self._tasks_left(),
            idle_shares=idle_shares,
            taken_ids=self._pool.worker_ids,
            since_change_s=now - self._changed_at,
            stop_rounds=self._stop_rounds,
        )

    def _idle_share(self, stage: StageState) -> float:
        """Return the fraction of their time that the stage's workers waited for work since the last cycle."""
        busy_before, idle_before = self._times.get(stage.spec.index, (0.0, 0.0))
        busy_s, idle_s = stage.group_times.busy_s - busy_before, stage.group_times.idle_s - idle_before
        return idle_s / (busy_s + idle_s) if busy_s + idle_s > 0 else 0.0

    def _emit_if_new(self, evaluation: Evaluation, now: float) -> None:
        """Emit the outcome unless it is the last one again: an idle run must not flood its observers."""
        event = evaluation.event(now)
        counts = tuple((stage.stage_index, stage.workers, stage.target) for stage in event.stages)
        outcome = (event.bottleneck, event.limit, event.proven, event.reason, counts)
        if evaluation.proposal.has_actions or outcome != self._last_outcome:
            self._last_outcome = outcome
            self._emit(event)

    def _apply(self, proposal: Proposal, stages: Sequence[StageState], now: float) -> None:
        by_index = {stage.spec.index: stage for stage in stages}
        served = {start.grant.stage_index for start in proposal.starts}
        for stage in stages:
            # No snapshot counted these grants: their share may go to others now. A CPU stage's only one stays, since
            # stages downstream hold their share while they wait for it; CPUs may be shared by more than fit.
            is_only = not stage.workers and stage.spec.index not in served and not stage.spec.uses_gpu
            if not (stage.has_fixed_count or is_only):
                self._pool.withdraw_pending(stage)
        for stop in proposal.stops:
            self._pool.drain(by_index[stop.stage_index], stop.worker_id, now)
        for start in proposal.starts:
            self._pool.worker_ids.add(start.grant.worker_id)
            stage = by_index[start.grant.stage_index]
            if not self._pool.add(stage, start.grant, str(start.reason), now):
                self._not_before = now + _REFUSED_PAUSE_S
                if not stage.workers:  # while it has none, nothing happens that would lead to the next cycle
                    stage.pending_grants.append(start.grant)
