"""The way of the tasks: from the caller through the queues to the results."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

from gpuexec import events
from gpuexec.channel import codec, messages
from gpuexec.channel.messages import Payload
from gpuexec.channel.payloads import BlockSizer, load, store
from gpuexec.channel.segments import SegmentPool, SegmentRef, read_segment
from gpuexec.config import ExecutorConfig
from gpuexec.core import decide
from gpuexec.core.attempts import AttemptEvent, halve
from gpuexec.core.queue import Block, BlockSlice, place_among_siblings
from gpuexec.driver.initial_tasks import InitialTasks
from gpuexec.driver.lineage import Lineage
from gpuexec.driver.state import Batch, StageState, Worker
from gpuexec.errors import ResultNotPicklable, StageNotPicklable
from gpuexec.naming import abbreviated

_OPEN_FILES_SHARE = 4  # a quarter of the descriptor limit may be tasks in segments, all queues together


class Flow:
    """Every task of a run, wherever it is. ``send`` hands a message to a worker, ``tell`` reports an event."""

    def __init__(
        self,
        stages: Sequence[StageState],
        initial_tasks: InitialTasks,
        config: ExecutorConfig,
        *,
        send: Callable[[Worker, messages.Message], None],
        emit: Callable[[events.RunEvent], None],
        lineage: Lineage | None = None,
    ) -> None:
        self._stages = stages
        self._active: Sequence[StageState] = ()
        self._initial_tasks = initial_tasks
        self._config = config
        self._send = send
        self._emit = emit
        self._lineage = lineage
        self._pool = SegmentPool()
        self._encoder = codec.Encoder()
        self._block_sizer = BlockSizer()
        self._finished: list[tuple[bytes, Any]] = []
        self.hold_sources = False
        self._task_numbers = itertools.count()
        self._batch_ids = itertools.count()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._max_segments = max(1, limit // _OPEN_FILES_SHARE // len(stages))  # in one queue

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """From now on these stages run, joined by bounded queues."""
        self._active = active
        if active[0].spec.index > 0:
            active[0].upstream_done = True  # the phase before put everything in its queue

    @property
    def tasks_left(self) -> int | None:
        """Tasks that the caller still has for us; ``None`` where only he knows."""
        return self._initial_tasks.left

    def take_finished(self) -> list[tuple[bytes, Any]]:
        """Hand over the tasks that have come out of the last stage since, each with its place in the order."""
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Release the segments kept for reuse."""
        self._pool.close()

    def feed_initial_tasks(self) -> None:
        """Put the caller's tasks before the first stage, as far as there is room. Raises ``StageNotPicklable``."""
        stage = self._active[0]
        if stage.spec.index > 0:
            return
        while not stage.upstream_done and self._has_room(stage):
            room = max(1, self._config.queue_tasks - len(stage.queue))
            tasks = self._initial_tasks.take(min(room, self._block_sizer.next()))
            if tasks is None:
                stage.upstream_done = True
            if not tasks:
                return
            numbers = list(itertools.islice(self._task_numbers, len(tasks)))
            sources = None
            if self._lineage:
                tasks, numbers, sources = self._lineage.admit_initial_tasks(tasks, numbers)
            if tasks:
                stage.queue.push(self._pack_initial_tasks(tasks, numbers, sources))

    def _pack_initial_tasks(self, tasks: list[Any], numbers: list[int], sources: list[int] | None) -> Block:
        try:
            encoded = self._encoder.encode(tasks)
            payload = store(encoded, self._pool)
        except Exception as error:
            raise _unsendable_task(tasks, numbers, error) from error
        self._block_sizer.learn(len(tasks), encoded.size)
        paths = [place_among_siblings(number) for number in numbers]
        return Block(payload, [task.task_id for task in tasks], paths, time.monotonic(), sources)

    def following(self, stage: StageState) -> StageState | None:
        """The stage after this one."""
        index = stage.spec.index + 1
        return self._stages[index] if index < len(self._stages) else None

    def _has_room(self, stage: StageState) -> bool:
        """Whether more may be put before a stage; always, while the stage's own phase is yet to come."""
        if stage not in self._active:
            return True
        queue, config, batch = stage.queue, self._config, stage.spec.batch_size
        return (
            len(queue) < max(config.queue_tasks, batch)
            and (queue.bytes < config.queue_bytes or len(queue) < batch)
            and queue.segments + stage.segments_in_flight < max(self._max_segments, batch)
        )

    # ---- to the workers ------------------------------------------------------------------------------

    def send_batches(self, stage: StageState) -> None:
        """Deal waiting tasks out to a stage's workers, unless the next stage's queue is full."""
        following = self.following(stage)
        if not (stage.queue or stage.returned) or (following is not None and not self._has_room(following)):
            return
        if self.hold_sources and stage is self._active[0] and self._others_have_work(stage):
            return
        now = time.monotonic()
        ready = [w for w in stage.workers.values() if w.takes_work and not _is_at_returned(w)]
        if stage.returned:
            ready = self._send_returned(stage, ready, now)
        limit = decide.credit(stage.batch_s, stage.batch_bytes)
        held = [self._held(worker, limit) for worker in ready]
        dealt = decide.share_out(decide.batches_ready(stage.view()) - len(stage.returned), held, limit)
        for worker, count in zip(ready, dealt, strict=True):
            if count:
                take = stage.queue.take
                batches = [self._cut_batch(take(stage.spec.batch_size), now) for _ in range(count)]
                self._send_work(stage, worker, batches, now)

    def _send_returned(self, stage: StageState, ready: list[Worker], now: float) -> list[Worker]:
        """Send batches that came back, each alone to a worker with empty hands; return the workers left for others.

        What a worker has done is so heard of before it comes to a batch that may kill it, and not lost with it.
        """
        ready.sort(key=lambda worker: len(worker.in_flight))
        chosen, others = ready[: len(stage.returned)], ready[len(stage.returned) :]
        for worker in chosen:
            if not worker.in_flight:
                self._send_work(stage, worker, [stage.returned.popleft()], now)
        return others

    def _held(self, worker: Worker, limit: int) -> int:
        """Batches in a worker's hands; those above its share (``max_batches_per_worker``) count as taken already."""
        most = self._config.max_batches_per_worker
        in_flight = len(worker.in_flight)
        return in_flight if most is None else max(in_flight, limit - (most - worker.batches - in_flight))

    def _others_have_work(self, source: StageState) -> bool:
        """While memory is short the first stage waits, but only as long as others can free some.

        Too few tasks for a batch are no work: they wait for more.
        """
        others = (stage for stage in self._active if stage is not source)
        return any(stage.in_flight or decide.batches_ready(stage.view()) for stage in others)

    def _send_work(self, stage: StageState, worker: Worker, batches: Sequence[Batch], now: float) -> None:
        slices: list[list[int] | None] = []
        payloads: list[Payload] = []
        for batch in batches:
            batch.sent_at = now
            if batch.life is not None:
                batch.life.advance(AttemptEvent.SENT)
            worker.in_flight[batch.batch_id] = batch
            stage.segments_in_flight += batch.segments
            for block, start, stop in batch.slices:
                whole = stop - start == len(block.task_ids)
                if whole:
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
        self._send(worker, messages.Work(ids, sizes, slices, payloads=tuple(payloads)))

    def _cut_batch(self, slices: list[BlockSlice], now: float) -> Batch:
        size = input_bytes = segments = 0
        queued_s = 0.0
        for block, start, stop in slices:
            count = stop - start
            size += count
            input_bytes += block.share(count)
            queued_s += (now - block.queued_at) * count
            segments += isinstance(block.payload, SegmentRef)
        return Batch(next(self._batch_ids), slices, size, input_bytes, segments, queued_s)

    def split(self, stage: StageState, batch: Batch) -> None:
        """Put a batch that failed back as two halves, which no other task joins."""
        assert batch.life is not None
        self._discard_progress(stage, batch)
        singles = [(block, at, at + 1) for block, start, stop in batch.slices for at in range(start, stop)]
        halves = [self._cut_batch(list(half), batch.sent_at) for half in halve(singles)]
        for half, life in zip(halves, batch.life.halves(), strict=True):
            half.life, half.requeued = life, True
        stage.returned.extendleft(reversed(halves))

    def requeue(self, stage: StageState, batches: Sequence[Batch]) -> None:
        """Put batches that came back unfinished before all that waits, in their order; drop what they had made."""
        for batch in batches:
            self._discard_progress(stage, batch)
            batch.requeued = True
        stage.returned.extendleft(reversed(batches))

    @staticmethod
    def _discard_progress(stage: StageState, batch: Batch) -> None:
        """A batch left its worker unfinished: what it had made is dropped."""
        stage.segments_in_flight -= batch.segments
        batch.outputs, batch.made = [], 0
        batch.parents.clear()

    def quarantine(self, stage: StageState, batch: Batch, reason: str) -> None:
        """A batch is given up; the run goes on without its tasks."""
        self._discard_progress(stage, batch)
        if self._lineage:
            self._lineage.gave_up_batch(stage, batch, reason)
        stage.quarantined_tasks += batch.size

    # ---- from the workers ----------------------------------------------------------------------------

    def take_results(self, worker: Worker, results: messages.Results) -> None:
        """Note a worker's outputs; a batch that is complete enters the next queue."""
        now = time.monotonic()
        payloads, sizes = iter(results.payloads), iter(results.sizes)
        at = 0
        completed: list[Batch] = []
        if results.failed and self._lineage:
            self._lineage.gave_up_tasks(worker, results.failed)
        for batch_id, blocks, complete in zip(results.batch_ids, results.blocks, results.complete, strict=True):
            batch = worker.in_flight[batch_id]
            inputs = batch.paths() if blocks else []
            for _ in range(blocks):
                stop = at + next(sizes)
                paths = [
                    (inputs[parent] if parent >= 0 else min(inputs)) + place_among_siblings(number)
                    for number, parent in enumerate(results.parents[at:stop], batch.made)
                ]
                batch.outputs.append(Block(next(payloads), results.task_ids[at:stop], paths, now))
                if self._lineage:
                    batch.parents += results.parents[at:stop]
                batch.made += stop - at
                at = stop
            if complete:
                del worker.in_flight[batch_id]
                worker.stage.segments_in_flight -= batch.segments
                self._complete(worker.stage, batch)
                completed.append(batch)
        if results.stats is not None:
            self._account(worker, completed, messages.BatchStats(*results.stats), now)

    def _complete(self, stage: StageState, batch: Batch) -> None:
        if batch.life is not None:
            batch.life.advance(AttemptEvent.COMPLETED)
        following = self.following(stage)
        if following is None:
            self._finish(stage, batch)
        elif self._lineage is None:
            for block in batch.outputs:
                self._enqueue(following, block)
        else:
            for block_slice in self._lineage.completed(stage, batch):
                self._enqueue(following, *block_slice)

    def _finish(self, stage: StageState, batch: Batch) -> None:
        """Unpack the last stage's tasks; one that is a source too leaves out those that an earlier run has done."""
        unpacked = [self._unpack(stage, block) for block in batch.outputs]  # before it counts: it may raise
        if self._lineage is None:
            for block, tasks in zip(batch.outputs, unpacked, strict=True):
                self._finished += zip(block.paths, tasks, strict=True)
            return
        tasks_of = {id(block): tasks for block, tasks in zip(batch.outputs, unpacked, strict=True)}
        for block, start, stop in self._lineage.completed(stage, batch):
            self._finished += zip(block.paths[start:stop], tasks_of[id(block)][start:stop], strict=True)

    def _account(self, worker: Worker, completed: list[Batch], stats: messages.BatchStats, now: float) -> None:
        stage = worker.stage
        made = sum(batch.made for batch in completed)
        stage.done_tasks += stats.tasks_in
        stage.made_tasks += made
        stage.note_pace(stats, warm=worker.batches > 0)
        worker.batches += stats.batches
        worker.rss_peak_bytes = stats.rss_peak_bytes
        self._emit(
            events.BatchesFinished(
                now,
                stage.spec.index,
                worker.id,
                tuple(batch.batch_id for batch in completed),
                tasks_out=made,
                queued_s=sum(batch.queued_s for batch in completed),
                in_worker_s=sum(now - batch.sent_at for batch in completed),
                stats=stats,
            )
        )

    def _enqueue(self, stage: StageState, block: Block, start: int = 0, stop: int | None = None) -> None:
        """Queue tasks. What waits for a later phase may be far more than there are descriptors."""
        if (
            isinstance(block.payload, SegmentRef)
            and stage.queue.segments >= self._max_segments
            and stage not in self._active
        ):
            block.payload = read_segment(block.payload)
        stage.queue.push(block, start, stop)

    def _unpack(self, stage: StageState, block: Block) -> list[Any]:
        try:
            tasks: list[Any] = load(block.payload)
        except Exception as error:
            raise ResultNotPicklable(
                f"task {abbreviated(block.task_ids)} returned by stage {stage.spec.name!r} was pickled but cannot be "
                f"unpickled here: {type(error).__name__}: {error}"
            ) from error
        return tasks


def _is_at_returned(worker: Worker) -> bool:
    """Whether it has a batch that came back, which is always the only one in its hands."""
    return len(worker.in_flight) == 1 and next(iter(worker.in_flight.values())).requeued


def _unsendable_task(tasks: Sequence[Any], numbers: Sequence[int], error: Exception) -> StageNotPicklable:
    """Say which of the tasks it is."""
    for number, task in zip(numbers, tasks, strict=True):
        try:
            codec.encode(task)
        except Exception as own:  # noqa: BLE001 - whatever pickling raises, this is the one
            return StageNotPicklable(f"initial task {number} ({task!r}) cannot be sent to a worker: {own}")
    return StageNotPicklable(f"initial tasks from {numbers[0]} on cannot be sent to a worker: {error}")
