"""What an inline run tells its observers: the events of one worker per stage, which is this process."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.plan.model import Plan


class InlineEvents:
    """Emits the events of one run. ``gauge_every_s``: seconds between gauges, ``None`` for none."""

    def __init__(
        self, plan: Plan, names: Sequence[str], observers: Sequence[events.Observer], gauge_every_s: float | None
    ) -> None:
        self._observers = observers
        self._gauge_every_s = gauge_every_s
        self._next_gauge = 0.0
        self._done = [0] * len(names)
        self._batches = 0
        # The notes are about worker processes, of which there are none.
        self._emit(events.RunStarted(time.monotonic(), Plan(plan.phases), tuple(names)))

    def stage_began(self, index: int, worker_id: str) -> None:
        """Note that a stage is about to be set up."""
        self._emit(events.WorkerStarted(time.monotonic(), index, worker_id, os.getpid(), "this process runs it"))

    def node_set_up(self, index: int, began: float) -> None:
        """Note that ``setup_on_node`` has returned."""
        now = time.monotonic()
        self._emit(events.NodeSetUp(now, index, now - began))

    def stage_ready(self, index: int, worker_id: str, began: float) -> None:
        """Note that ``setup`` has returned."""
        now = time.monotonic()
        self._emit(events.WorkerReady(now, index, worker_id, now - began))

    def batch_done(self, index: int, worker_id: str, began: float, sizes: tuple[int, int], stats: Any) -> None:
        """Note a finished batch. ``sizes``: its tasks and its outputs. ``stats``: the adapter's, if there are any."""
        now, (tasks_in, tasks_out) = time.monotonic(), sizes
        self._done[index] += tasks_in
        self._batches += 1
        cost = BatchStats(
            batches=1,
            tasks_in=tasks_in,
            items=int(stats.num_items_processed) if stats is not None else 0,
            process_s=now - began,
            metrics=dict(stats.custom_metrics) if stats is not None else {},
        )
        self._emit(
            events.BatchesFinished(
                now, index, worker_id, (self._batches,), tasks_out, queued_s=0.0, in_worker_s=now - began, stats=cost
            )
        )

    def gauge_if_due(self, index: int, left: int) -> None:
        """Show how far the run is. ``index``: the stage that runs, with ``left`` tasks to do."""
        now = time.monotonic()
        if self._gauge_every_s is None or now < self._next_gauge:
            return
        self._next_gauge = now + self._gauge_every_s
        gauges = tuple(
            events.StageGauges(
                done=done,
                queued=left if stage == index else 0,
                in_flight=0,
                workers=int(stage == index),
                starting=0,
                finished=stage < index,
            )
            for stage, done in enumerate(self._done)
        )
        self._emit(events.Gauged(now, gauges))

    def stage_ended(self, index: int, worker_id: str, teardown_s: float | None) -> None:
        """Note that a stage is done, or has failed: then ``teardown_s`` is ``None``."""
        self._emit(events.WorkerStopped(time.monotonic(), index, worker_id, 0, teardown_s))

    def run_ended(self, error: BaseException | None) -> None:
        """Note the end of the run."""
        text = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
        self._emit(events.RunEnded(time.monotonic(), text))

    def _emit(self, event: events.RunEvent) -> None:
        for observer in self._observers:
            observer.on_event(event)
