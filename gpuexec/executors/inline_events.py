"""What an inline run tells its observers: the events of one worker per stage, which is this process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.core.worker_time import IdleReason, Work
from gpuexec.driver.host_state import read_host_state
from gpuexec.driver.observers import Observers
from gpuexec.planning.model import Plan
from gpuexec.run_facts import RunFacts

_REPORT_EVERY_S = 0.5
_TASKS_NAMED = 3  # of a slow batch
_FIRST_TASKS = 16  # of every batch


class InlineEvents:
    """Emits the events of one run. ``gauge_every_s``: seconds between gauges."""

    def __init__(
        self,
        plan: Plan,
        names: Sequence[str],
        facts: RunFacts,
        observers: Sequence[events.Observer],
        gauge_every_s: float,
    ) -> None:
        self._emit = Observers(observers).emit
        self._since = self._began = 0.0  # from when on this process's time is not accounted, and not reported
        self._parts: dict[str, float] = {}
        self._gauge_every_s = gauge_every_s
        self._next_gauge = 0.0
        self._done = [0] * len(names)
        self._made = [0] * len(names)
        self._batches = 0
        # The notes are about worker processes, of which there are none.
        self._emit(events.RunStarted(time.monotonic(), Plan(plan.phases), tuple(names), facts, time.time()))

    def stage_began(self, index: int, worker_id: str) -> None:
        """Note that a stage is about to be set up."""
        self._since = self._began = now = time.monotonic()
        self._emit(events.WorkerStarted(now, index, worker_id, os.getpid(), "this process runs it"))

    def node_set_up(self, index: int, began: float) -> None:
        """Note that ``setup_on_node`` has returned."""
        now = time.monotonic()
        self._emit(events.NodeSetUp(now, index, now - began))

    def stage_ready(self, index: int, worker_id: str, began: float) -> None:
        """Note that ``setup`` has returned."""
        now = time.monotonic()
        self._account(IdleReason.SETTING_UP, now)
        self._emit(events.WorkerReady(now, index, worker_id, now - began))

    def batch_done(
        self, index: int, worker_id: str, began: float, task_ids: Sequence[str], tasks_out: int, stats: Any
    ) -> None:
        """Note a finished batch. ``task_ids``: of its tasks. ``stats``: the adapter's, if there are any."""
        now, tasks_in = time.monotonic(), len(task_ids)
        self._done[index] += tasks_in
        self._made[index] += tasks_out
        self._batches += 1
        cost = BatchStats(
            batches=1,
            tasks_in=tasks_in,
            items=int(stats.num_items_processed) if stats is not None else 0,
            process_s=now - began,
            metrics=dict(stats.custom_metrics) if stats is not None else {},
            began=began,
            ended=now,
        )
        cost.note_time(now - began, self._batches)
        self._account(Work.TRANSFER, began)
        self._account(Work.BUSY, now)
        if now - self._began > _REPORT_EVERY_S:
            self._report(index, worker_id)
        self._emit(
            events.BatchesFinished(
                now,
                index,
                worker_id,
                (self._batches,),
                tasks_out,
                queued_s=0.0,
                in_worker_s=now - began,
                stats=cost,
                slowest=tuple(task_ids[:_TASKS_NAMED]),
                first_task_ids=tuple(task_ids[:_FIRST_TASKS]),
            )
        )

    def call_done(self, index: int, worker_id: str, began: float, stats: Any) -> None:
        """Note the call of the batch that was just done, for a caller who wants each of them."""
        now = time.monotonic()
        call = events.StageCall(
            began, now, stats.process_time, stats.actor_idle_time, stats.num_items_processed, dict(stats.custom_metrics)
        )
        self._emit(events.CallsRecorded(now, index, worker_id, (call,)))

    def gauge_if_due(self, index: int, left: int) -> None:
        """Show how far the run is. ``index``: the stage that runs, with ``left`` tasks to do."""
        now = time.monotonic()
        if now < self._next_gauge:
            return
        self._next_gauge = now + self._gauge_every_s
        queued = {index: left, index + 1: self._made[index]}
        gauges = tuple(
            events.StageGauges(
                done=done,
                queued=queued.get(stage, 0),
                in_flight=0,
                workers=int(stage == index),
                starting=0,
                finished=stage < index,
                made=made,
            )
            for stage, (done, made) in enumerate(zip(self._done, self._made, strict=True))
        )
        self._emit(events.Gauged(now, gauges, tasks_left=0))

    def stage_ended(self, index: int, worker_id: str, teardown_s: float | None) -> None:
        """Note that a stage is done, or has failed: then ``teardown_s`` is ``None``."""
        now = time.monotonic()
        self._account(Work.LOST if teardown_s is None else IdleReason.DRAINING, now)
        self._report(index, worker_id)
        reason = "its stage raised" if teardown_s is None else "its stage has no work left"
        self._emit(events.WorkerStopped(now, index, worker_id, 0, teardown_s, reason=reason))

    def run_ended(self, error: BaseException | None) -> None:
        """Note the end of the run."""
        if error is None:
            self._emit(events.RunEnded(time.monotonic(), None, host=read_host_state()))
            return
        from gpuexec.driver.exceptions import in_a_line, is_interruption  # a run that goes through does not need them

        self._emit(events.RunEnded(time.monotonic(), in_a_line(error), is_interruption(error), read_host_state()))

    def _account(self, part: Work | IdleReason, now: float) -> None:
        if now > self._since:
            self._parts[part.value] = self._parts.get(part.value, 0.0) + now - self._since
            self._since = now

    def _report(self, index: int, worker_id: str) -> None:
        if self._parts:
            parts, self._parts = tuple(self._parts.items()), {}
            self._emit(events.TimeAccounted(self._since, index, worker_id, self._began, parts))
            self._began = self._since
