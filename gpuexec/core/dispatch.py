"""Every task of a run: from the caller's blocks through the queues and the workers to the results.

::

      initial blocks                                                      finished tasks
            │ add_block                                                         ▲ take_finished
            ▼                                                                   │
    ┌── queue 0 ──► workers of stage 0 ──► queue 1 ──► workers of stage 1 ──► … ┘
    │               (a full queue stops the stage before it)
    └── requeued batches go first, each alone to a worker with nothing in flight
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.channel.messages import BatchStats, Results, Work
from gpuexec.channel.payload import Payload
from gpuexec.core import decide
from gpuexec.core.attempts import AttemptEvent, halve
from gpuexec.core.batch import Batch, Block, BlockSlice, OrderedTask, place_among_siblings
from gpuexec.core.lineage import Lineage, NoLineage
from gpuexec.core.ports import Payloads, Processes
from gpuexec.core.stage import StageState
from gpuexec.core.worker import Worker
from gpuexec.records import Record

_TASKS_WITHOUT_OUTPUT = 100  # after so many, the stage's author may have forgotten to return them


class QueueLimits(Record):
    """How much may wait before one stage: tasks, bytes, and segments (each holds a file descriptor)."""

    tasks: int
    bytes: int
    segments: int


class Dispatcher:
    """The tasks of a run, wherever they are. ``emit`` reports an event."""

    def __init__(
        self,
        stages: Sequence[StageState],
        limits: QueueLimits,
        *,
        processes: Processes,
        payloads: Payloads,
        lineage: Lineage | NoLineage,
        emit: Callable[[events.RunEvent], None],
    ) -> None:
        self._stages = stages
        self._active: Sequence[StageState] = ()
        self._limits = limits
        self._processes = processes
        self._payloads = payloads
        self._lineage = lineage
        self._emit = emit
        self._finished: list[OrderedTask] = []
        self._waits_since = -math.inf  # the earliest time from which a batch's wait counts
        self._batch_ids = itertools.count()
        self.hold_sources = False  # memory is short: the first stage waits while others have work

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """Run these stages from now on, joined by bounded queues."""
        self._active = active
        if active[0].spec.index > 0:
            active[0].upstream_done = True  # the phase before put everything in its queue

    def following(self, stage: StageState) -> StageState | None:
        """Return the stage after this one."""
        index = stage.spec.index + 1
        return self._stages[index] if index < len(self._stages) else None

    def hold_first_stage(self, *, hold: bool) -> None:
        """Let the first stage wait while others have work, because memory is short; or end that."""
        self.hold_sources = hold

    # ---- from and to the caller ------------------------------------------------------------------------

    def initial_tasks_wanted(self) -> int:
        """Return how many initial tasks fit before the first stage now; 0 if it takes none."""
        stage = self._active[0]
        if stage.spec.index > 0 or stage.upstream_done or not self._has_free_space(stage):
            return 0
        return max(1, self._limits.tasks - len(stage.queue))

    def add_block(self, block: Block) -> None:
        """Put initial tasks before the first stage."""
        self._active[0].queue.push((block, 0, len(block)))

    def end_of_initial_tasks(self) -> None:
        """Note that the caller has no more tasks."""
        self._active[0].upstream_done = True

    def take_finished(self) -> list[OrderedTask]:
        """Return the tasks that have come out of the last stage since the last call."""
        finished, self._finished = self._finished, []
        return finished

    # ---- to the workers --------------------------------------------------------------------------------

    def send_batches(self, stage: StageState, now: float) -> None:
        """Deal waiting tasks out to a stage's workers, unless the next stage's queue is full."""
        if not (stage.queue or stage.requeued):
            return
        following = self.following(stage)
        if following is not None and not self._has_free_space(following):
            return
        if self.hold_sources and stage is self._active[0] and self._others_have_work(stage):
            return
        ready = [w for w in stage.workers.values() if w.is_ready and not _has_requeued_batch(w)]
        if stage.requeued:
            ready = self._send_requeued(stage, ready, now)
        limit = decide.prefetch_limit(stage.times.batch_s, stage.times.batch_bytes)
        in_flight = [self._counted(worker, limit) for worker in ready]
        waiting = decide.batches_ready(stage.view(), rest_is_due=self._rest_is_due(stage, ready, now))
        dealt = decide.share_out(waiting - len(stage.requeued), in_flight, limit)
        for worker, count in zip(ready, dealt, strict=True):
            if count:
                self._send_work(worker, [self._cut_batch(stage, now) for _ in range(count)], now)

    def restart_waits(self, now: float) -> None:
        """Count from now how long tasks wait for a full batch: nothing was taken in while the caller was busy."""
        self._waits_since = now

    def next_due(self, now: float) -> float | None:
        """Return when the next batch that is not full shall go. Those that are due wait for something else."""
        dues = [due for due in map(self._rest_due_at, self._active) if due is not None and due > now]
        return min(dues, default=None)

    def _rest_is_due(self, stage: StageState, ready: Sequence[Worker], now: float) -> bool:
        """Return whether a batch that is not full goes now. Where every worker is busy, waiting costs nothing."""
        due = self._rest_due_at(stage)
        return due is not None and now >= due and any(not worker.in_flight for worker in ready)

    def _rest_due_at(self, stage: StageState) -> float | None:
        """Return when the tasks before a stage go as a batch that is not full; ``None`` where that is not the case."""
        queue, wait_s = stage.queue, stage.spec.limits.batch_wait_s
        if wait_s is None or stage.upstream_done or not 0 < len(queue) < stage.spec.batch_size:
            return None
        return max(queue.oldest_at, self._waits_since) + wait_s

    def _send_requeued(self, stage: StageState, ready: list[Worker], now: float) -> list[Worker]:
        """Send requeued batches, each alone to a worker with nothing in flight; return the workers left for others.

        This way the worker's earlier results reach us before it starts a batch that may kill it.
        """
        due = [batch for batch in stage.requeued if batch.not_before <= now]
        ready.sort(key=lambda worker: len(worker.in_flight))
        chosen, others = ready[: len(due)], ready[len(due) :]
        for worker in chosen:
            if not worker.in_flight:
                batch = due.pop(0)
                stage.requeued.remove(batch)
                self._send_work(worker, [batch], now)
        return others

    def next_retry(self, now: float) -> float | None:
        """Return when the next requeued batch that waits for its time is due; ``None`` if there is none."""
        waiting = [b.not_before for stage in self._active for b in stage.requeued if b.not_before > now]
        return min(waiting, default=None)

    @staticmethod
    def _counted(worker: Worker, limit: int) -> int:
        """Return a worker's batches in flight; those beyond ``max_batches_per_worker`` count as sent already."""
        maximum, in_flight = worker.stage.spec.limits.max_batches_per_worker, len(worker.in_flight)
        return in_flight if maximum is None else max(in_flight, limit - (maximum - worker.batches_done - in_flight))

    def _others_have_work(self, source: StageState) -> bool:
        """Return whether a stage after the first can free memory. Fewer tasks than a full batch do not count."""
        others = (stage for stage in self._active if stage is not source)
        return any(stage.in_flight or decide.batches_ready(stage.view()) for stage in others)

    def _has_free_space(self, stage: StageState) -> bool:
        """Return whether more may be put before a stage: always, while the stage's own phase is still to come."""
        if stage not in self._active:
            return True
        queue, limits, batch_size = stage.queue, self._limits, stage.spec.batch_size
        return (
            len(queue) < max(limits.tasks, batch_size)
            and (queue.bytes < limits.bytes or len(queue) < batch_size)
            and queue.segments + stage.segments_in_flight < max(limits.segments, batch_size)
        )

    def _cut_batch(self, stage: StageState, now: float) -> Batch:
        return Batch.cut(next(self._batch_ids), stage.queue.take(stage.spec.batch_size), now)

    def _send_work(self, worker: Worker, batches: Sequence[Batch], now: float) -> None:
        slices: list[list[int] | None] = []
        payloads: list[Payload] = []
        for batch in batches:
            if batch.lifecycle is not None:
                batch.lifecycle.advance(AttemptEvent.SENT)
            worker.assign(batch, now)
            for block, start, stop in batch.slices:
                if stop - start == len(block.task_ids):
                    slices.append(None)
                    payloads.append(block.payload)
                    worker.open_block = None
                    continue
                if worker.open_block == (block, start):
                    slices.append([start, stop, 0])
                else:
                    slices.append([start, stop])
                    payloads.append(block.payload)
                worker.open_block = (block, stop) if stop < len(block.task_ids) else None
        ids, sizes = [batch.batch_id for batch in batches], [batch.size for batch in batches]
        self._processes.send(worker, Work(ids, sizes, slices, payloads=tuple(payloads)))

    # ---- batches that left their worker unfinished -----------------------------------------------------

    def requeue(self, stage: StageState, batches: Sequence[Batch]) -> None:
        """Put batches before everything that waits, in their order, without what they had made."""
        for batch in batches:
            batch.discard_progress()
            batch.requeued = True
        stage.requeued.extendleft(reversed(batches))

    def split(self, stage: StageState, batch: Batch) -> None:
        """Requeue a failed batch as two half batches; no other tasks are added to them."""
        assert batch.lifecycle is not None
        singles = [(block, at, at + 1) for block, start, stop in batch.slices for at in range(start, stop)]
        halves = [Batch.cut(next(self._batch_ids), list(half), batch.sent_at) for half in halve(singles)]
        for half, lifecycle in zip(halves, batch.lifecycle.halves(), strict=True):
            half.lifecycle = lifecycle
        self.requeue(stage, halves)

    def quarantine(self, stage: StageState, batch: Batch, reason: str) -> None:
        """Give up a batch; the run goes on without its tasks."""
        self._lineage.gave_up_batch(stage, batch, reason)
        stage.quarantined_tasks += batch.size

    # ---- from the workers ------------------------------------------------------------------------------

    def take_results(self, worker: Worker, results: Results, now: float) -> None:
        """Take a worker's outputs; a batch that is complete enters the next queue. Raises ``ResultNotPicklable``."""
        payloads, sizes = iter(results.payloads), iter(results.sizes)
        at = 0
        completed: list[Batch] = []
        keeps_parents = self._lineage.keeps_parents
        if results.failed:
            self._lineage.gave_up_tasks(worker, results.failed)
        for batch_id, blocks, complete in zip(results.batch_ids, results.blocks, results.complete, strict=True):
            batch = worker.in_flight[batch_id]
            inputs = batch.paths() if blocks else []
            for _ in range(blocks):
                size = next(sizes)
                stop = at + size
                paths = _output_paths(inputs, results.parents[at:stop], batch.tasks_out)
                batch.outputs.append((Block(next(payloads), results.task_ids[at:stop], paths, now), 0, size))
                batch.tasks_out += size
                if keeps_parents:
                    batch.parents += results.parents[at:stop]
                at = stop
            if complete:
                worker.release(batch_id)
                self._complete(worker.stage, batch)
                completed.append(batch)
        if results.stats is not None:
            self._account(worker, completed, BatchStats(*results.stats), now)

    def _complete(self, stage: StageState, batch: Batch) -> None:
        if batch.lifecycle is not None:
            batch.lifecycle.advance(AttemptEvent.COMPLETED)
        following = self.following(stage)
        if following is None:
            # Unpacking may raise, so it comes before the batch counts as done.
            tasks_of = {id(block): self._payloads.unpack(stage, block) for block, _, _ in batch.outputs}
            for block, start, stop in self._lineage.completed(stage, batch):
                self._finished += zip(block.paths[start:stop], tasks_of[id(block)][start:stop], strict=True)
        else:
            for part in self._lineage.completed(stage, batch):
                self._enqueue(following, part)

    def _enqueue(self, stage: StageState, part: BlockSlice) -> None:
        """Put tasks before a stage.

        Blocks for a later phase are copied out of shared memory, since they may outnumber the file descriptors.
        """
        block = part[0]
        if block.in_segment and stage.queue.segments >= self._limits.segments and stage not in self._active:
            block.move(self._payloads.copy_out(block.payload))
        stage.queue.push(part)

    def _account(self, worker: Worker, completed: Sequence[Batch], stats: BatchStats, now: float) -> None:
        stage = worker.stage
        made = sum(batch.tasks_out for batch in completed)
        stage.done_tasks += stats.tasks_in
        stage.made_tasks += made
        if not stage.made_tasks and stage.done_tasks >= _TASKS_WITHOUT_OUTPUT and not stage.hinted:
            self._hint_at_no_output(stage)
        stage.times.add(stats, warm=worker.batches_done > 0)
        worker.batches_done += stats.batches
        worker.rss_peak_bytes = stats.rss_peak_bytes
        self._emit(
            events.BatchesFinished(
                now,
                stage.spec.index,
                worker.worker_id,
                tuple(batch.batch_id for batch in completed),
                tasks_out=made,
                queued_s=sum(batch.queued_s for batch in completed),
                in_worker_s=sum(now - batch.sent_at for batch in completed),
                stats=stats,
            )
        )

    def _hint_at_no_output(self, stage: StageState) -> None:
        stage.hinted = True
        self._emit(
            events.Noticed(
                f"stage {stage.spec.name!r} has dropped all of its first {stage.done_tasks} tasks: its process() "
                "returned None, or an empty list, for each. If it should pass tasks on, return them at its end"
            )
        )


def _output_paths(inputs: Sequence[bytes], parents: Sequence[int], made: int) -> list[bytes]:
    """Return the places of outputs in the order of results: after their parents', in the order they were made.

    ``inputs``: the places of the batch's inputs. ``parents``: the index of each output's input, -1 if unknown.
    ``made``: how many outputs the batch has already.
    """
    if len(parents) == 1:  # most blocks of tiny batches; a list comprehension would take twice as long
        return [(inputs[parents[0]] if parents[0] >= 0 else min(inputs)) + place_among_siblings(made)]
    return [
        (inputs[parent] if parent >= 0 else min(inputs)) + place_among_siblings(number)
        for number, parent in enumerate(parents, made)
    ]


def _has_requeued_batch(worker: Worker) -> bool:
    """Return whether it has a requeued batch, which is always its only one."""
    return len(worker.in_flight) == 1 and next(iter(worker.in_flight.values())).requeued
