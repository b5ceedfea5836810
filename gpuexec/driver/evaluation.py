"""One evaluation of the running stages: snapshots for the planner, and the planner's answer as an event and a notice.

The autoscaler imports this module, and with it the half of the planner that only evaluations need, when the first
evaluation is due.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuexec import events
from gpuexec.core.stage import StageState
from gpuexec.core.worker import Worker
from gpuexec.planning.allocator import Allocator
from gpuexec.planning.balance import Balance, balance, slowest_of
from gpuexec.planning.model import WorkerGrant
from gpuexec.planning.rebalance import ActionReason, Proposal, rebalance
from gpuexec.planning.request import Request
from gpuexec.planning.workload import (
    Forecast,
    MemberLoad,
    StageProgress,
    StageSnapshot,
    by_remaining,
    effective_cpus,
    forecast,
    load_of_group,
)

_MAX_IDLE_SHARE = 0.5  # if the bottleneck's workers idle more than this, the bottleneck is elsewhere


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the planner was shown and what it answered."""

    snapshots: tuple[StageSnapshot, ...]
    balance: Balance
    proposal: Proposal

    def event(self, at: float) -> events.PlanDecided:
        """Return the event that reports it."""
        slowest, gain_s = self.balance.slowest, self.proposal.gain_s
        return events.PlanDecided(
            at=at,
            bottleneck=None if slowest is None else self.snapshots[slowest].request.stage_index,
            limit=self.balance.limit,
            proven=self.balance.proven,
            reason=self.proposal.reason,
            gain_s=gain_s if math.isfinite(gain_s) else None,
            stopped=tuple(stop.worker_id for stop in self.proposal.stops),
            started=tuple(start.grant.worker_id for start in self.proposal.starts),
            stages=tuple(
                events.StageTarget(
                    stage_index=s.request.stage_index,
                    workers=len(s.grants),
                    target=target,
                    task_s=s.task_s,
                    tasks=s.tasks,
                )
                for s, target in zip(self.snapshots, self.balance.counts, strict=True)
            ),
            throughput=self.balance.throughput,
        )

    def stop_notice(self) -> str:
        """Return the notice about the workers that are stopped."""
        stages = {stop.stage_index for stop in self.proposal.stops}
        on_gpu = any(s.request.uses_gpu for s in self.snapshots if s.request.stage_index in stages)
        if self.proposal.reason is ActionReason.MOVES:
            why = "a slower stage needs their GPUs, and they fit on others"
        else:
            why = f"their {'GPU' if on_gpu else 'CPU'} share speeds up a slower stage"
        gain_s = self.proposal.gain_s
        gain = f" (expected gain {gain_s:.1f} s)" if math.isfinite(gain_s) else ""
        return f"stopping workers {', '.join(stop.worker_id for stop in self.proposal.stops)}: {why}{gain}"


def evaluate(
    stages: Sequence[StageState],
    workers: Iterable[Worker],
    allocator: Allocator,
    *,
    tasks_left: int | None,
    idle_shares: Mapping[int, float],
    taken_ids: Collection[str],
    since_change_s: float,
    stop_rounds: int,
) -> Evaluation | None:
    """Ask the planner for the best counts of the unfinished stages, and for the next steps towards them.

    ``workers``: all that are alive, of every stage. ``tasks_left``: initial tasks not read yet, ``None`` if unknown.
    ``idle_shares``: by stage index, the fraction of their time that the stage's workers waited for work. For the
    other arguments see `rebalance`. Return ``None`` if the slowest stage mostly waits for work: then something else
    is slow, and more workers would not help.
    """
    snapshots = _snapshots(stages, allocator, tasks_left)
    loads = [snapshot.load for snapshot in snapshots]
    slowest, _ = slowest_of(loads, [load.workers for load in loads])
    if slowest is not None and idle_shares[stages[slowest].spec.index] > _MAX_IDLE_SHARE:
        return None
    best = balance(loads, allocator.ledger, effective_cpus(loads, allocator.usable_cpus))
    proposal = rebalance(
        snapshots,
        best.counts,
        allocator,
        stopping=uncounted_grants(workers, snapshots),
        taken_ids=taken_ids,
        since_change_s=since_change_s,
        stop_rounds=stop_rounds,
    )
    return Evaluation(tuple(snapshots), best, proposal)


def _snapshots(stages: Sequence[StageState], allocator: Allocator, tasks_left: int | None) -> list[StageSnapshot]:
    first = stages[0]
    reads_initial_tasks = first.spec.index == 0 and not first.upstream_done
    members = [member for stage in stages for member in stage.members]
    progress = [StageProgress(m.done_tasks, m.made_tasks, m.waiting_tasks) for m in members]
    forecasts = iter(by_remaining(forecast(progress, tasks_left if reads_initial_tasks else 0)))
    return [
        snapshot_of(stage, allocator.request(stage.spec.index), list(itertools.islice(forecasts, len(stage.members))))
        for stage in stages
    ]


def snapshot_of(stage: StageState, request: Request, forecasts: Sequence[Forecast]) -> StageSnapshot:
    """Return the stage, or the group that it leads, as the planner sees it. ``forecasts``: of its members.

    The grants of workers that are stopping count if they will be started again. Spare grants count only where the
    number of workers is fixed: elsewhere they have no work yet, and their share is free for other stages.
    """
    grants = [w.grant for w in stage.workers.values() if not (w.node_setup or w.grant_withdrawn)]
    if stage.has_fixed_count:
        held = {grant.worker_id for grant in grants}
        grants += [grant for grant in stage.pending_grants if grant.worker_id not in held]
    load = load_of_group(
        [MemberLoad(f, m.times.task_s, m.waiting_tasks) for f, m in zip(forecasts, stage.members, strict=True)]
    )
    is_measured = stage.group_times.is_measured
    at_once = stage.batch_size * (stage.spec.max_concurrency or 1)
    return StageSnapshot(
        request=request.with_fixed_count(len(grants)) if stage.has_fixed_count else request,
        grants=tuple(grants),
        task_s=load.task_s if is_measured else None,
        startup_s=stage.group_times.startup_s,
        waiting=load.waiting,
        remaining=load.remaining,
        tasks=load.tasks,
        max_workers=None if load.remaining is None else max(1, math.ceil(load.remaining / at_once)),
        at_most_s=None if is_measured else load.task_s,
    )


def uncounted_grants(workers: Iterable[Worker], snapshots: Sequence[StageSnapshot]) -> list[WorkerGrant]:
    """Return the grants held by workers that no snapshot counts.

    These workers are stopping, or run ``setup_on_node`` (with the grant of the stage's first worker).
    """
    counted = {grant.worker_id for snapshot in snapshots for grant in snapshot.grants}
    return list({w.grant.worker_id: w.grant for w in workers if w.grant.worker_id not in counted}.values())
