"""The way of the tasks: from the caller through the queues to the results."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpuexec.channel import codec, messages
from gpuexec.channel.messages import Payload, payload_size
from gpuexec.channel.payloads import lay_down
from gpuexec.channel.segments import Range, SegmentPool, read_range
from gpuexec.config import ExecutorConfig
from gpuexec.driver import decide
from gpuexec.driver.state import Batch, StageState, TaskRef, Worker
from gpuexec.errors import ResultNotPicklable, StageNotPicklable
from gpuexec.observe import events

_OPEN_FILES_SHARE = 4  # a quarter of the descriptor limit may be tasks in segments, all queues together


class Flow:
    """Every task of a run, wherever it is. ``send`` hands a message to a worker, ``tell`` reports an event."""

    def __init__(
        self,
        stages: Sequence[StageState],
        seeds: Iterator[Any],
        config: ExecutorConfig,
        *,
        send: Callable[[Worker, messages.Message], None],
        tell: Callable[[events.RunEvent], None],
    ) -> None:
        self._stages = stages
        self._active: Sequence[StageState] = ()
        self._seeds = seeds
        self._config = config
        self._send = send
        self._tell = tell
        self._pool = SegmentPool()
        self._results: list[tuple[tuple[int, ...], Any]] = []
        self._seed_numbers = itertools.count()
        self._batch_ids = itertools.count()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_segments = max(1, limit // _OPEN_FILES_SHARE // len(stages))  # in one queue

    def begin_phase(self, active: Sequence[StageState]) -> None:
        """From now on these stages run, joined by bounded queues."""
        self._active = active
        if active[0].spec.index > 0:
            active[0].upstream_done = True  # the phase before put everything in its queue

    def results(self) -> list[Any]:
        """The last stage's tasks, in the order of one process working in turn."""
        self._results.sort(key=lambda result: result[0])
        return [task for _, task in self._results]

    def close(self) -> None:
        """Release the segments kept for reuse."""
        self._pool.close()

    def feed_seeds(self) -> None:
        """Put the caller's tasks before the first stage, as far as there is room. Raises ``StageNotPicklable``."""
        stage = self._active[0]
        if stage.spec.index > 0:
            return
        while not stage.upstream_done and self._has_room(stage):
            number = next(self._seed_numbers)
            task = next(self._seeds, None)
            if task is None:
                stage.upstream_done = True
                return
            try:
                payload = lay_down(codec.encode(task), self._pool)
            except Exception as error:
                raise StageNotPicklable(
                    f"initial task {number} ({task!r}) cannot be sent to a worker: {error}"
                ) from error
            stage.queue.push(TaskRef(task.task_id, (number,), payload, time.monotonic()))

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
            and queue.segments < max(self._most_segments, batch)
        )

    def send_batches(self, stage: StageState) -> None:
        """Deal waiting tasks out to a stage's workers, unless the next stage's queue is full."""
        following = self.following(stage)
        if not stage.queue or (following is not None and not self._has_room(following)):
            return
        ready = [w for w in stage.workers.values() if w.is_ready]
        limit = decide.credit(stage.batch_s, stage.batch_bytes)
        dealt = decide.share_out(decide.batches_ready(stage.view()), [len(worker.in_hand) for worker in ready], limit)
        for worker, count in zip(ready, dealt, strict=True):
            if count:
                self._send_work(stage, worker, count)

    def _send_work(self, stage: StageState, worker: Worker, count: int) -> None:
        now = time.monotonic()
        ids: list[int] = []
        counts: list[int] = []
        payloads: list[Payload] = []
        for _ in range(count):
            tasks = stage.queue.take(stage.spec.batch_size)
            batch = Batch(
                batch_id=next(self._batch_ids),
                task_ids=tuple(task.task_id for task in tasks),
                paths=[task.path for task in tasks],
                input_bytes=sum(payload_size(task.payload) for task in tasks),
                queued_s=sum(now - task.queued_at for task in tasks) / len(tasks),
                sent_at=now,
            )
            worker.in_hand[batch.batch_id] = batch
            ids.append(batch.batch_id)
            counts.append(len(tasks))
            payloads += [task.payload for task in tasks]
        self._send(worker, messages.Work(ids, counts, payloads=tuple(payloads)))

    def take_results(self, worker: Worker, results: messages.Results) -> None:
        """Note a worker's outputs; a batch that is complete enters the next queue."""
        at = 0
        now = time.monotonic()
        for batch_id, count, figures in zip(results.batch_ids, results.counts, results.figures, strict=True):
            batch = worker.in_hand[batch_id]
            for i in range(at, at + count):
                parent = results.parents[i]
                above = batch.paths[parent] if parent >= 0 else min(batch.paths)
                path = (*above, len(batch.outputs))
                batch.outputs.append(TaskRef(results.task_ids[i], path, results.payloads[i], now))
            at += count
            if figures is not None:
                self._complete(worker, batch, messages.Figures(*figures), now)

    def _complete(self, worker: Worker, batch: Batch, figures: messages.Figures, now: float) -> None:
        stage = worker.stage
        del worker.in_hand[batch.batch_id]
        worker.rss_peak_bytes = figures.rss_peak_bytes
        stage.done_tasks += len(batch.task_ids)
        stage.note_pace(figures.receive_s + figures.process_s + figures.send_s, batch.input_bytes)
        following = self.following(stage)
        if following is not None:
            for task in batch.outputs:
                self._put_by(following, task)
        else:
            self._results += [(task.path, self._decode_result(stage, task)) for task in batch.outputs]
        self._tell(
            events.BatchFinished(
                now,
                stage.spec.index,
                worker.id,
                batch.batch_id,
                len(batch.outputs),
                batch.queued_s,
                now - batch.sent_at,
                figures,
            )
        )

    def _put_by(self, stage: StageState, task: TaskRef) -> None:
        """Queue a task. What waits for a later phase may be far more than there are descriptors."""
        full = stage.queue.segments >= self._most_segments and stage not in self._active
        if full and isinstance(task.payload, Range):
            task.payload = read_range(task.payload)
        stage.queue.push(task)

    def _decode_result(self, stage: StageState, task: TaskRef) -> Any:
        # Copied out of its segment: a caller may keep a million results, but not a million descriptors.
        try:
            if isinstance(task.payload, Range):
                return codec.decode(read_range(task.payload), in_place=True)
            return codec.decode(task.payload, in_place=False)
        except Exception as error:
            raise ResultNotPicklable(
                f"task {task.task_id} returned by stage {stage.spec.name!r} was pickled but cannot be unpickled "
                f"here: {type(error).__name__}: {error}"
            ) from error
