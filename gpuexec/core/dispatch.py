"""Every task of a run: from the caller's blocks through the queues and the workers to the results.

::

      initial blocks                                                      finished tasks
            │ add_block                                                         ▲ take_finished
            ▼                                                                   │
    ┌── queue 0 ──► workers of stage 0 ──► queue 1 ──► workers of stage 1 ──► … ┘
    │               (a full queue stops the stage before it)
    └── requeued batches go first, each alone to a worker with nothing in flight

Fused stages share their workers. A batch goes through them as far as its route says; what comes out earlier, since a
stage made many tasks of one, waits in the queue of the stage that it has reached. Later queues are emptied first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from gpuexec import events
from gpuexec.channel.messages import BatchStats, Failed, Results, Work
from gpuexec.channel.payload import Payload
from gpuexec.core import decide
from gpuexec.core.accounting import account, report_calls
from gpuexec.core.attempts import AttemptEvent, halve
from gpuexec.core.batch import Batch, Block, BlockSlice, OrderedTask, output_paths
from gpuexec.core.batch_waits import BatchWaits
from gpuexec.core.between_phases import BetweenPhases
from gpuexec.core.lineage import Lineage, NoLineage
from gpuexec.core.memory_hold import MemoryHold
from gpuexec.core.ports import Payloads, Processes
from gpuexec.core.requeued import deal_requeued, has_lone_batch
from gpuexec.core.segment_loans import SegmentLoans
from gpuexec.core.stage import StageState
from gpuexec.core.worker import Worker
from gpuexec.core.worker_time import IdleReason, WorkerTimes
from gpuexec.records import Record

RaisedTask = tuple[Batch, Failed, BlockSlice]
"""A task whose batch went on without it, of a group: the batch, what was raised, and what the task is kept as."""


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
        times: WorkerTimes,
    ) -> None:
        self._stages = stages
        self._times = times
        self._active: Sequence[StageState] = ()
        self._limits = limits
        self._processes = processes
        self._payloads = payloads
        self._lineage = lineage
        self._emit = emit
        self._finished: list[OrderedTask] = []
        self.waits = BatchWaits()
        self._batch_ids = itertools.count()
        self._between = BetweenPhases(limits, payloads)
        self.hold = MemoryHold(emit)
        self._loans = SegmentLoans(payloads, self.hold)

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """Run these stages from now on, joined by bounded queues."""
        self._active = self._between.running = active
        self.hold.begin_phase(active)
        if active[0].spec.index > 0:
            active[0].upstream_done = True  # the phase before put everything in its queue

    def following(self, stage: StageState) -> StageState | None:
        """Return the stage after this one, or after the group that it leads."""
        index = stage.members[-1].spec.index + 1
        return self._stages[index] if index < len(self._stages) else None

    def hold_first_stage(self, *, hold: bool, reason: str) -> None:
        """While memory is short, the first stage waits for others, and what waits for a later phase goes to disk."""
        self.hold.set(is_on=hold, reason=reason)
        self._between.memory_is_short = hold

    def end(self) -> None:
        """Take note that the run ends early: what waits for a later phase is not wanted any more."""
        self._between.ending = True

    # ---- from and to the caller ------------------------------------------------------------------------

    def initial_tasks_wanted(self) -> int:
        """Return how many initial tasks fit before the first stage now; 0 if it takes none."""
        stage = self._active[0]
        if (
            stage.spec.index > 0
            or stage.upstream_done
            or not self._has_free_space(stage)
            or self.hold.applies_to(stage)
        ):
            return 0
        waiting = sum(len(member.queue) for member in stage.members)
        if self.hold.is_on:  # nothing else can free memory: no more than can be worked on now
            limit = self._prefetch_limit(stage)
            batches = sum(max(0, limit - len(w.in_flight)) for w in stage.workers.values() if w.is_ready)
            return max(0, batches * stage.spec.batch_size - waiting)
        return max(1, self._limits.tasks - waiting)

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
        """Deal waiting tasks out to the workers of a stage or group, unless the next one's queue is full."""
        if not stage.has_waiting:
            return
        following = self.following(stage)
        if following is not None and not self._has_free_space(following):
            return
        if self.hold.applies_to(stage):
            return
        ready = [w for w in stage.workers.values() if w.is_ready and not has_lone_batch(w)]
        view = stage.view()
        if view.requeued:
            ready = self._send_requeued(stage, ready, now)
        limit = self._prefetch_limit(stage)
        in_flight = [self._counted(worker, limit) for worker in ready]
        if stage.is_fused:
            size = self._fused_batch_size(stage, view.queued, len(ready))
            waiting = sum(-(-len(member.queue) // size) for member in stage.members)
        else:
            size = view.batch_size
            waiting = decide.batches_ready(view, rest_is_due=self.waits.is_over(stage, ready, now)) - view.requeued
        dealt = decide.share_out(waiting, in_flight, limit)
        for worker, count in zip(ready, dealt, strict=True):
            if count:
                self._send_work(worker, [self._cut_batch(stage, size, now) for _ in range(count)], now)

    def why_idle(self, stage: StageState, now: float) -> IdleReason:
        """Return why the stage's workers that have no batch get none."""
        if self.hold.holds(stage):
            return IdleReason.MEMORY_PRESSURE
        following = self.following(stage)
        if stage.has_waiting and following is not None and not self._has_free_space(following):
            return IdleReason.OUTPUT_FULL
        if any(batch.not_before > now for member in stage.members for batch in member.requeued):
            return IdleReason.RETRY_DELAY
        return IdleReason.NO_INPUT

    def _fused_batch_size(self, stage: StageState, waiting: int, workers: int) -> int:
        if stage.spec.limits.max_batches_per_worker is not None:
            return 1  # which the option counts
        return decide.tasks_per_fused_batch(stage.group_times.task_s, waiting, workers)

    def _prefetch_limit(self, stage: StageState) -> int:
        if self.hold.limits_prefetch_of(stage) or stage.has_unmeasured_work:
            return 1
        times, at_once = stage.group_times, stage.spec.max_concurrency
        if at_once is not None:
            return decide.concurrent_limit(at_once, times.batch_s, times.batch_bytes)
        return decide.prefetch_limit(times.batch_s, times.batch_bytes)

    def _send_requeued(self, stage: StageState, ready: list[Worker], now: float) -> list[Worker]:
        """Send the requeued batches that are due; return the workers left for others."""
        due = [b for member in reversed(stage.members) for b in member.requeued if b.not_before <= now]
        limit = self._prefetch_limit(stage)
        dealt = deal_requeued(due, ready, [self._counted(worker, limit) for worker in ready], limit)
        for worker, batches in dealt.sent:
            for batch in batches:
                batch.stage.requeued.remove(batch)
            self._send_work(worker, batches, now)
        return dealt.others

    def next_retry(self, now: float) -> float | None:
        """Return when the next requeued batch that waits for its time is due; ``None`` if there is none."""
        members = (member for stage in self._active for member in stage.members)
        waiting = [b.not_before for member in members for b in member.requeued if b.not_before > now]
        return min(waiting, default=None)

    @staticmethod
    def _counted(worker: Worker, limit: int) -> int:
        """Return a worker's batches in flight; those beyond ``max_batches_per_worker`` count as sent already."""
        maximum, in_flight = worker.stage.spec.limits.max_batches_per_worker, len(worker.in_flight)
        return in_flight if maximum is None else max(in_flight, limit - (maximum - worker.batches_done - in_flight))

    def _has_free_space(self, stage: StageState) -> bool:
        """Return whether more may be put before a stage: always, while the stage's own phase is still to come."""
        if stage not in self._active:
            return True
        limits, batch_size = self._limits, stage.batch_size
        queues = [member.queue for member in stage.members]
        tasks = sum(map(len, queues))
        return (
            tasks < max(limits.tasks, batch_size)
            and (sum(queue.bytes for queue in queues) < limits.bytes or tasks < batch_size)
            and sum(queue.segments for queue in queues) + stage.segments_in_flight < max(limits.segments, batch_size)
        )

    def _cut_batch(self, stage: StageState, size: int, now: float) -> Batch:
        member = next(member for member in reversed(stage.members) if member.queue)
        return self.cut(member, member.queue.take(size), now)

    def cut(self, stage: StageState, slices: list[BlockSlice], now: float) -> Batch:
        """Make a batch of these slices, for a stage."""
        return Batch.cut(next(self._batch_ids), stage, slices, now)

    def _send_work(self, worker: Worker, batches: Sequence[Batch], now: float) -> None:
        slices: list[list[int] | None] = []
        payloads: list[Payload] = []
        for batch in batches:
            if batch.lifecycle is not None:
                batch.lifecycle.advance(AttemptEvent.SENT)
            worker.assign(batch, now)
            self._times.sent(worker, now)
            for block, start, stop in batch.slices:
                if stop - start == len(block.task_ids):
                    slices.append(None)
                    payloads.append(self._loans.send_whole(worker, batch, block.payload))
                    worker.open_block = None
                    continue
                if worker.open_block == (block, start):
                    slices.append([start, stop, 0])
                else:
                    slices.append([start, stop])
                    payloads.append(block.payload)
                worker.open_block = (block, stop) if stop < len(block.task_ids) else None
        ids, sizes = [batch.batch_id for batch in batches], [batch.size for batch in batches]
        routes = [batch.route() for batch in batches] if worker.stage.is_fused else None
        payloads += self._loans.spares_for(worker) if worker.segments_lent < 0 else ()
        self._processes.send(worker, Work(ids, sizes, slices, routes, payloads=tuple(payloads)))

    # ---- batches that left their worker unfinished -----------------------------------------------------

    def requeue(self, batches: Sequence[Batch]) -> None:
        """Put batches before everything that waits, in their order, without what they had made."""
        for batch in reversed(batches):
            batch.discard_progress()
            batch.requeued = True
            batch.stage.requeued.appendleft(batch)

    def split(self, batch: Batch) -> None:
        """Requeue a failed batch as two half batches; no other tasks are added to them."""
        assert batch.lifecycle is not None
        halves = [self.cut(batch.stage, list(half), batch.sent_at) for half in halve(batch.singles())]
        for half, lifecycle in zip(halves, batch.lifecycle.halves(), strict=True):
            half.lifecycle = lifecycle
        self.requeue(halves)

    def isolate(self, batch: Batch, index: int) -> Batch:
        """Return a batch of the one task at fault, with the history of the batch; the other tasks are requeued."""
        if batch.size == 1:
            return batch
        singles = batch.singles()
        parts = (singles[:index], singles[index + 1 :])
        self.requeue([self.cut(batch.stage, part, batch.sent_at) for part in parts if part])
        at_fault = self.cut(batch.stage, [singles[index]], batch.sent_at)
        at_fault.lifecycle, at_fault.sent_at = batch.lifecycle, batch.sent_at
        return at_fault

    def quarantine(self, batch: Batch, reason: str) -> None:
        """Give up a batch; the run goes on without its tasks."""
        self._lineage.gave_up_batch(batch.stage, batch, reason)
        batch.stage.quarantined_tasks += batch.size

    # ---- from the workers ------------------------------------------------------------------------------

    def take_results(self, worker: Worker, results: Results, now: float) -> list[RaisedTask]:
        """Take a worker's outputs; a batch that is complete enters the next queue.

        Return the tasks that a stage of the group raised about, of the batches that are complete. Raises
        ``ResultNotPicklable`` and ``SpillFailed``.
        """
        payloads, sizes, goes_to = iter(results.payloads), iter(results.sizes), iter(results.goes_to or ())
        at = 0
        completed: list[Batch] = []
        raised: list[RaisedTask] = []
        lead = worker.stage
        keeps_parents = self._lineage.keeps_parents
        later = self.following(lead) if lead is self._active[-1] else None
        spilled = later.spilled_bytes if later is not None else 0
        if results.failed:
            self._lineage.gave_up_tasks(worker, results.failed)
        for batch_id, blocks, complete in zip(results.batch_ids, results.blocks, results.complete, strict=True):
            batch = worker.in_flight[batch_id]
            inputs = batch.paths() if blocks else []
            for _ in range(blocks):
                size = next(sizes)
                stop = at + size
                paths = output_paths(inputs, results.parents[at:stop], batch.tasks_out)
                block = Block(next(payloads), results.task_ids[at:stop], paths, now)
                stage = next(goes_to, len(lead.members))
                block.goes_to = lead.members[stage].spec.index if stage < len(lead.members) else None
                self._loans.written(worker, block.payload)
                if later is not None and block.goes_to is None:
                    self._between.place(block, lead, batch, later)
                batch.outputs.append((block, 0, size))
                batch.tasks_out += size
                if keeps_parents:
                    batch.parents += results.parents[at:stop]
                at = stop
            if complete:
                worker.release(batch_id)
                raised += self._complete(batch, results.held)
                completed.append(batch)
        if later is not None and later.spilled_bytes > spilled:
            self._emit(events.PayloadsSpilled(now, later.spec.index, later.spilled_bytes - spilled))
        if results.stats is not None:
            totals = BatchStats.from_list(results.stats)
            made = [(0, sum(batch.tasks_out for batch in completed), totals)]
            if lead.is_fused:
                made = [
                    (stage, count, BatchStats.from_list(stats)) for stage, count, *stats in results.stage_stats or ()
                ]
            account(worker, completed, totals, made, now, self._emit)
            self._times.done(worker, totals.busy_s, totals.ended, now)
        report_calls(worker, results.calls or (), now, self._emit)
        return raised

    def _complete(self, batch: Batch, held: Sequence[int] | None) -> list[RaisedTask]:
        """Send a complete batch's outputs on, but for the tasks that a stage raised about: return those."""
        following = self.following(batch.stage.lead)
        leaving = [block for block, _, _ in batch.outputs if block.goes_to is None] if following is None else ()
        # Unpacking may raise, so it comes before the batch counts as done.
        tasks_of = {id(block): self._payloads.unpack(batch.stage.lead.members[-1], block) for block in leaving}
        self._loans.unpacked(leaving)
        parts = self._lineage.completed(batch.stage, batch)
        raised = self._take_raised(batch) if batch.failures else []
        taken = {id(part[0]) for _, _, part in raised}
        passed_on: list[BlockSlice] = []
        for part in parts:
            block, start, stop = part
            if id(block) in taken:
                continue
            if block.goes_to is not None and block.goes_to == batch.stops_before:
                passed_on.append(part)
            elif block.goes_to is not None:
                self._stages[block.goes_to].queue.push(part)
            elif following is None:
                self._finished += zip(block.paths[start:stop], tasks_of[id(block)][start:stop], strict=True)
            elif batch.stage.lead is self._active[-1]:
                self._between.push(part, following)
            else:
                following.queue.push(part)
        self._end_attempt(batch, passed_on)
        self._loans.completed(batch, held)
        return raised

    def _take_raised(self, batch: Batch) -> list[RaisedTask]:
        """Return the outputs that stand for tasks which a stage raised about, with what it raised."""
        numbers = itertools.accumulate((len(block) for block, _, _ in batch.outputs), initial=0)
        parts = dict(zip(numbers, batch.outputs, strict=False))
        return [(batch, failed, parts[number]) for number, failed in batch.failures.items()]

    def _end_attempt(self, batch: Batch, passed_on: list[BlockSlice]) -> None:
        """End a complete batch's attempt.

        If it was run again as far as the stage of its group that it failed in, what it made for that stage becomes a
        batch with its history, so that attempts count across the two.
        """
        if batch.lifecycle is None:
            return
        if not passed_on:
            batch.lifecycle.advance(AttemptEvent.COMPLETED)
            return
        assert batch.stops_before is not None
        batch.lifecycle.advance(AttemptEvent.PASSED_ON)
        rest = self.cut(self._stages[batch.stops_before], passed_on, batch.sent_at)
        rest.lifecycle = batch.lifecycle
        self.requeue([rest])
