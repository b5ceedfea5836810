"""From what workers told the ledger to the events that a run's observers get."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpuexec import events
from gpuexec.core.worker_time import IdleReason, Work
from gpuexec.driver.host_state import read_host_state
from gpuexec.driver.observers import Observers
from gpuexec.executors.ray import notes
from gpuexec.planning.cluster import ClusterPlan
from gpuexec.planning.model import Phase, Plan, StagePlan
from gpuexec.run_facts import RunFacts


class RayEvents:
    """Emits the events of one run. Times of workers are made times of this process's monotonic clock."""

    def __init__(
        self, plan: ClusterPlan, names: Sequence[str], facts: RunFacts, observers: Sequence[events.Observer]
    ) -> None:
        self._emit = Observers(observers).emit
        self._offset = time.monotonic() - time.time()
        self._done = [0] * len(names)
        self._made = [0] * len(names)
        self._batches = 0
        self._since: dict[str, float] = {}  # from when on a worker's time is not accounted yet
        self._stage_of: dict[str, int] = {}
        self._ready: set[str] = set()
        phases = tuple(
            Phase(
                tuple(
                    StagePlan(each.stage_index, each.name, (), each.at_least == each.at_most, each.reason)
                    for each in phase
                )
            )
            for phase in plan.phases
        )
        self._emit(events.RunStarted(time.monotonic(), Plan(phases, plan.notes), tuple(names), facts, time.time()))

    def take(self, new: Sequence[notes.Note]) -> None:
        """Emit the events of new notes."""
        for note in new:
            at = self._at(note.at)
            match note:
                case notes.Enrolled():
                    self._since[note.worker_id] = at
                    self._stage_of[note.worker_id] = note.stage_index
                    reason = "Ray Data gave it work"
                    self._emit(
                        events.WorkerStarted(at, note.stage_index, note.worker_id, note.pid, reason, gpus=note.gpus)
                    )
                case notes.NodeReady():
                    self._emit(events.NodeSetUp(at, note.stage_index, note.seconds))
                case notes.WorkerIsReady():
                    self._ready.add(note.worker_id)
                    self._account(note.worker_id, at, IdleReason.SETTING_UP)
                    self._emit(events.WorkerReady(at, note.stage_index, note.worker_id, note.seconds))
                case notes.BlockDone():
                    self._block_done(note, at)
                case notes.AttemptFailed():
                    self._failed(note, at)
                case notes.GaveUp():
                    self._emit(events.TasksQuarantined(at, note.stage_index, note.worker_id, note.task_ids, note.error))
                case notes.WorkerLeft():
                    self._stop_worker(note.worker_id, at, note.teardown_s, "its stage has no work left")

    def gauge(self, tasks_given: int) -> None:
        """Show how far the run is. ``tasks_given``: the number of initial tasks."""
        waiting = [tasks_given, *self._made]
        gauges = tuple(
            events.StageGauges(
                done=done,
                queued=max(0, waiting[index] - done),
                in_flight=0,
                workers=sum(1 for worker in self._since if self._stage_of[worker] == index),
                starting=0,
                finished=False,
                made=self._made[index],
            )
            for index, done in enumerate(self._done)
        )
        self._emit(events.Gauged(time.monotonic(), gauges, tasks_left=0))

    def end(self, error: BaseException | None) -> None:
        """Note the end of the run, and of the workers that have not left by themselves."""
        now = time.monotonic()
        for worker_id in list(self._since):
            self._stop_worker(worker_id, now, None, "the run has ended")
        if error is None:
            self._emit(events.RunEnded(now, None, host=read_host_state()))
            return
        from gpuexec.driver.exceptions import in_a_line, is_interruption  # a run that goes through does not need them

        self._emit(events.RunEnded(now, in_a_line(error), is_interruption(error), read_host_state()))

    def _at(self, posix: float) -> float:
        return posix + self._offset

    def _block_done(self, note: notes.BlockDone, at: float) -> None:
        index, stats = note.stage_index, note.stats
        self._done[index] += stats.tasks_in
        self._made[index] += note.tasks_out
        self._batches += stats.batches
        began = self._at(note.began)
        stats.began, stats.ended = began, at
        self._account(note.worker_id, began, IdleReason.NO_INPUT)
        self._account(note.worker_id, at, Work.BUSY)
        self._emit(
            events.BatchesFinished(
                at,
                index,
                note.worker_id,
                (self._batches,),
                note.tasks_out,
                queued_s=0.0,
                in_worker_s=max(0.0, at - began),
                stats=stats,
                slowest=note.task_ids[:3],
                first_task_ids=note.task_ids,
            )
        )
        if note.calls:
            calls = tuple(events.StageCall(self._at(call[0]), self._at(call[1]), *call[2:]) for call in note.calls)
            self._emit(events.CallsRecorded(at, index, note.worker_id, calls))

    def _failed(self, note: notes.AttemptFailed, at: float) -> None:
        batch = self._batches if note.task_ids else None
        self._account(note.worker_id, at, Work.LOST)
        self._emit(
            events.BatchFailed(
                at,
                note.stage_index,
                note.worker_id,
                batch,
                note.task_ids,
                note.elapsed_s,
                note.error,
                note.action,
                note.reason,
            )
        )

    def _stop_worker(self, worker_id: str, at: float, teardown_s: float | None, reason: str) -> None:
        if worker_id not in self._since:
            return
        self._account(worker_id, at, IdleReason.NO_INPUT if teardown_s is None else IdleReason.DRAINING)
        del self._since[worker_id]
        stage = self._stage_of[worker_id]
        self._emit(events.WorkerStopped(at, stage, worker_id, 0, teardown_s, reason=reason))

    def _account(self, worker_id: str, until: float, part: Work | IdleReason) -> None:
        since = self._since.get(worker_id)
        if since is None or until <= since:  # another worker has told of it, or clocks of nodes differ
            return
        self._since[worker_id] = until
        stage = self._stage_of[worker_id]
        self._emit(events.TimeAccounted(until, stage, worker_id, since, ((part.value, until - since),)))
