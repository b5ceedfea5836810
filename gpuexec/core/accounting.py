"""Counts what workers have done, stage by stage, and reports it as events."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.core.batch import Batch
from gpuexec.core.stage import StageState
from gpuexec.core.worker import Worker

Emit = Callable[[events.RunEvent], None]

_SLOWEST_KEPT = 20  # batches of a stage whose tasks are named
_TASKS_NAMED = 3  # of each
_FIRST_TASKS = 16  # whose ids are reported, so that a trace can follow them
_TASKS_WITHOUT_OUTPUT = 100  # after so many, the stage's author may have forgotten to return them


def account(
    worker: Worker,
    completed: Sequence[Batch],
    totals: BatchStats,
    by_stage: Sequence[tuple[int, int, BatchStats]],
    now: float,
    emit: Emit,
) -> None:
    """Count what a worker has done. ``by_stage``: stage of the group, number of its outputs, and its stats."""
    lead = worker.stage
    warm = worker.batches_done > 0
    lead.group_times.add(totals, warm=warm)
    worker.batches_done += totals.batches
    worker.rss_peak_bytes = totals.rss_peak_bytes
    at_once = lead.spec.max_concurrency
    own_s = totals.busy_s if at_once is None else totals.slot_s * at_once  # of the batches, as if one after the other
    transfer_s = max(0.0, sum(now - batch.sent_at for batch in completed) - own_s)
    own_batches: dict[StageState, list[Batch]] = {}
    for batch in completed:
        own_batches.setdefault(batch.stage, []).append(batch)
    for offset, made, stats in by_stage:
        stage = lead.members[offset]
        if lead.is_fused:
            stage.times.add(stats, warm=warm)
        own = own_batches.get(stage, ())
        stage.done_tasks += stats.tasks_in
        stage.made_tasks += made
        if not stage.made_tasks and stage.done_tasks >= _TASKS_WITHOUT_OUTPUT and not stage.hinted:
            _hint_at_no_output(stage, emit)
        emit(
            events.BatchesFinished(
                now,
                stage.spec.index,
                worker.worker_id,
                tuple([batch.batch_id for batch in own]),
                made,
                sum([batch.queued_s for batch in own]),
                stats.busy_s + transfer_s,
                stats,
                _tasks_of_slowest(stage, completed, stats),
                own[0].first_task_ids(_FIRST_TASKS if len(own) == 1 else 2) if own else (),
            )
        )
        transfer_s = 0.0  # it was one for all stages of the group


def report_calls(worker: Worker, calls: Sequence[Sequence[Any]], now: float, emit: Emit) -> None:
    """Report calls of stages. Each has the stage of the group, and the fields of a ``StageCall``."""
    for offset in dict.fromkeys(call[0] for call in calls):
        stage = worker.stage.members[offset]
        own = tuple(events.StageCall(*fields) for number, *fields in calls if number == offset)
        emit(events.CallsRecorded(now, stage.spec.index, worker.worker_id, own))


def _tasks_of_slowest(stage: StageState, completed: Sequence[Batch], stats: BatchStats) -> tuple[str, ...]:
    """Return the ids of the first tasks of the longest batch, if it is among the longest of the stage so far."""
    longest = stage.longest_s
    if len(longest) >= _SLOWEST_KEPT and stats.longest_s <= longest[0]:
        return ()
    batch = next((batch for batch in completed if batch.batch_id == stats.longest_batch), None)
    if batch is None:
        return ()
    heapq.heappush(longest, stats.longest_s)
    if len(longest) > _SLOWEST_KEPT:
        heapq.heappop(longest)
    return batch.task_ids[stats.longest_input : stats.longest_input + (1 if stage.is_fused else _TASKS_NAMED)]


def _hint_at_no_output(stage: StageState, emit: Emit) -> None:
    stage.hinted = True
    emit(
        events.Noticed(
            f"stage {stage.spec.name!r} has dropped all of its first {stage.done_tasks} tasks: its process() "
            "returned None, or an empty list, for each. If it should pass tasks on, return them at its end"
        )
    )
