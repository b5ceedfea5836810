"""Keeps the numbers of workers right while a phase runs: looks at the stages, asks the planner, applies its answer.

    first results ──► all stages measured? ──► look: standings ─► balance ─► rebalance ─► start and stop workers
                      (or waited long enough)    ▲                                               │
                                                 └── batches finished (twice a second), a worker ended ◄┘

When to look is decided here, from what the loop reports; what to do, by the pure functions of ``plan``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec.core.pool import WorkerPool
from gpuexec.core.stage import StageState
from gpuexec.core.worker import EndReason, Worker
from gpuexec.plan.grants import Allocator
from gpuexec.plan.model import WorkerGrant
from gpuexec.plan.request import Request

if TYPE_CHECKING:  # the planner's second half costs 10 ms, which a run pays when it first looks
    from gpuexec.plan.forecast import Forecast
    from gpuexec.plan.proposal import Proposal, StageSnapshot

_EVERY_S = 0.5
_COST_SHARE = 20  # a look that takes long comes rarely: 5 % of the driver's time at most
_PATIENCE_S = 2.0  # for the first figures of every stage; without them the others' say little
_IDLE_SHARE = 0.5  # where even the slowest stage's workers wait so much for work, it is not workers that are missing


class Autoscaler:
    """One run's. ``tasks_left``: how many tasks the caller still has, ``None`` if nobody knows."""

    def __init__(
        self,
        room: Allocator,
        pool: WorkerPool,
        *,
        tasks_left: Callable[[], int | None],
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._room = room
        self._pool = pool
        self._tasks_left = tasks_left
        self._emit = emit
        self._active: Sequence[StageState] = ()
        self._has_choice = False
        self._news = False  # something has happened since the last look
        self._incomplete = True  # not all stages had figures yet
        self._next = 0.0  # the next look, on the monotonic clock
        self._not_before = 0.0
        self._changed_at = -math.inf
        self._stop_rounds = 0
        self._ids: set[str] = set()  # of all workers so far
        self._worked: dict[int, tuple[float, float]] = {}  # seconds busy and idle, by stage, as of the last look

    # ---- when --------------------------------------------------------------------------------------------

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """From now on these stages run."""
        self._active = active
        self._has_choice = any(not stage.has_fixed_count for stage in active)
        self._news, self._incomplete, self._next = False, True, math.inf
        self._changed_at, self._stop_rounds = -math.inf, 0
        self._ids |= {grant.worker_id for stage in active for grant in stage.pending_grants}

    def batches_finished(self) -> None:
        """There are new figures."""
        if not self._news:
            self._news = True
            if self._next == math.inf:
                self._next = time.monotonic() + _PATIENCE_S

    def worker_ended(self) -> None:
        """There is room that was not there before."""
        self._news = True
        if not self._incomplete:
            self._next = 0.0

    def next_cycle(self) -> float | None:
        """When to look, on the monotonic clock; ``None``: not before something happens."""
        if not (self._news and self._has_choice):
            return None
        if self._incomplete and all(stage.finished or stage.times.is_measured for stage in self._active):
            self._incomplete, self._next = False, 0.0
        return max(self._next, self._not_before)

    # ---- what --------------------------------------------------------------------------------------------

    def run_cycle_if_due(self, workers: Iterable[Worker]) -> None:
        """Start and stop workers, if it is time and worth it. ``workers``: all that are alive, of every stage."""
        due = self.next_cycle()
        if due is None or time.monotonic() < due:
            return
        began = time.monotonic()
        working = [stage for stage in self._active if not stage.finished]
        proposal = self._evaluate(working, list(workers), began)
        now = time.monotonic()
        self._news, self._next, self._not_before = False, now + _EVERY_S, now + _COST_SHARE * (now - began)
        if proposal is not None and proposal.actions:
            self._changed_at = now
            self._apply(proposal, {stage.spec.index: stage for stage in working}, now)

    def _evaluate(self, working: Sequence[StageState], workers: Sequence[Worker], now: float) -> Proposal | None:
        from gpuexec.plan.balance import balance, slowest_of
        from gpuexec.plan.rebalance import rebalance
        from gpuexec.plan.sharing import cpus_to_share

        if not working or any(worker.end_reason is EndReason.CORDONED for worker in workers):
            return None  # the end of those killed for their GPU leads to the next look
        for stage in working:
            if not stage.has_fixed_count:
                stage.pending_grants.clear()  # what is not started by now has no work: room for others
        room = self._room.without(self._pool.cordoned)
        snapshots = self._snapshots(working, room)
        loads = [snapshot.load for snapshot in snapshots]
        slowest, _ = slowest_of(loads, [load.workers for load in loads])
        starved = slowest is not None and self._idle_share(working[slowest]) > _IDLE_SHARE
        self._worked = {stage.spec.index: (stage.times.busy_s, stage.times.idle_s) for stage in working}
        if starved:
            return None
        targets = balance(loads, room.ledger, cpus_to_share(loads, room.usable_cpus)).counts
        return rebalance(
            snapshots,
            targets,
            room,
            stopping=leaving(workers, snapshots),
            taken_ids=self._ids,
            since_change_s=now - self._changed_at,
            stop_rounds=self._stop_rounds,
        )

    def _snapshots(self, working: Sequence[StageState], room: Allocator) -> list[StageSnapshot]:
        from gpuexec.plan.forecast import StageProgress, forecast

        first = working[0]
        from_caller = first.spec.index == 0 and not first.upstream_done
        passed = [StageProgress(stage.done_tasks, stage.made_tasks, stage.waiting_tasks) for stage in working]
        looks = forecast(passed, self._tasks_left() if from_caller else 0)
        return [
            snapshot(stage, room.requests[stage.spec.index], look)
            for stage, look in zip(working, by_remaining(looks), strict=True)
        ]

    def _idle_share(self, stage: StageState) -> float:
        busy, idle = self._worked.get(stage.spec.index, (0.0, 0.0))
        busy, idle = stage.times.busy_s - busy, stage.times.idle_s - idle
        return idle / (busy + idle) if busy + idle > 0 else 0.0

    def _apply(self, proposal: Proposal, stages: dict[int, StageState], now: float) -> None:
        from gpuexec.plan.proposal import Start, Stop

        stops = [action for action in proposal.actions if isinstance(action, Stop)]
        if stops:
            self._stop_rounds += 1
            names = ", ".join(stop.worker_id for stop in stops)
            saves = f", which should save {proposal.gain_s:.1f} s" if math.isfinite(proposal.gain_s) else ""
            self._emit(events.Noticed(f"workers end ({proposal.reason}{saves}): {names}", "INFO"))
        for stop in stops:
            self._pool.drain(stages[stop.stage_index], stop.worker_id, now)
        for action in proposal.actions:
            if isinstance(action, Start):
                self._ids.add(action.grant.worker_id)
                self._pool.add(stages[action.grant.stage_index], action.grant, str(action.reason), now)


def by_remaining(looks: Sequence[Forecast]) -> Sequence[Forecast]:
    """Where all that is left to do is known, count that instead of what one source task becomes.

    A stage that is behind the others then gets what it needs to catch up, one that is nearly done makes room.
    """
    from gpuexec.plan.forecast import Forecast

    if any(look.remaining is None for look in looks):
        return looks
    return [Forecast(look.remaining, look.remaining) for look in looks]


def snapshot(stage: StageState, request: Request, look: Forecast) -> StageSnapshot:
    """A stage as the planner sees it. Grants whose workers end soon are counted if they will be started again."""
    from gpuexec.plan.proposal import StageSnapshot

    grants = [w.grant for w in stage.workers.values() if not (w.node_setup or w.end_reason is EndReason.SURPLUS)]
    held = {grant.worker_id for grant in grants}
    grants += [grant for grant in stage.pending_grants if grant.worker_id not in held]
    most = None if look.remaining is None else max(1, math.ceil(look.remaining / stage.spec.batch_size))
    return StageSnapshot(
        request.for_count(len(grants)) if stage.has_fixed_count else request,
        tuple(grants),
        stage.times.task_s if stage.times.is_measured else None,
        stage.times.startup_s,
        stage.waiting_tasks,
        look.remaining,
        look.tasks,
        most,
    )


def leaving(workers: Iterable[Worker], snapshots: Sequence[StageSnapshot]) -> list[WorkerGrant]:
    """What workers hold that no standing counts: they end, or set up the node (with the grant of the first worker)."""
    counted = {grant.worker_id for snapshot in snapshots for grant in snapshot.grants}
    return list({w.grant.worker_id: w.grant for w in workers if w.grant.worker_id not in counted}.values())
