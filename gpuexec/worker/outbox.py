"""Collects the outputs of batches into few messages: one message per batch would cost more than a tiny batch does.

The outputs of a batch are pickled as soon as it is done, so that what the stage does to them later is not seen
elsewhere. Small ones share a block. Small blocks travel inside the message. Large blocks are written to shared memory
at once and their tasks are dropped right then, so a batch that fans out to gigabytes is not held twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gpuexec.channel import codec, segments
from gpuexec.channel.block_sizer import BlockSizer
from gpuexec.channel.messages import BatchStats, Results
from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.payload_store import needs_segment, store
from gpuexec.channel.segments import Segment, SegmentPool
from gpuexec.channel.wire import BlockingConnection
from gpuexec.contract.metrics import add_metrics
from gpuexec.units import KIB, MIB
from gpuexec.worker.call_records import CallRecords
from gpuexec.worker.stage_totals import StageTotals

_FLUSH_BYTES = 256 * KIB
_FLUSH_SECONDS = 0.005
_FLUSH_SEGMENT_BYTES = 64 * MIB  # what a batch makes may be too much for memory, which only the driver can tell
_SEGMENT_REF_BYTES = 64  # what a reference to a segment adds to a message, roughly
_ARENA_BYTES = 16 * MIB  # large payloads of one batch share segments of this size


class Outbox:
    """Results on their way to the driver; for one thread.

    ``totals``: the stats of the batches finished since the last flush, added up. ``stage_totals``: of a group, the same
    by stage. ``added``: the tasks that the last `add` has stored, all of them unless it raised. ``calls``: the calls of
    stages, if they are sent too.
    """

    def __init__(self, connection: BlockingConnection, pool: SegmentPool) -> None:
        self._connection = connection
        self._pool = pool
        self._encoder = codec.Encoder()
        self._block_sizer = BlockSizer()
        self._arena: Segment | None = None
        self._arena_used = 0
        self.stage_totals: Sequence[StageTotals] = ()
        self.calls: CallRecords | None = None
        self.added = 0
        self._clear()

    def add(
        self,
        batch_id: int,
        tasks: list[Any],
        parents: Sequence[int],
        goes_to: int | None = None,
        *,
        shared_stats: bool = True,
    ) -> int:
        """Pickle a batch's outputs, emptying ``tasks``, and return their size in bytes.

        ``parents``: the index of each output's input. ``goes_to``: the stage of the group that gets them.
        ``shared_stats``: whether several of them have the same stats. Raises what pickling raised. Call `finish`
        afterwards.
        """
        total = at = self.added = 0
        many = len(tasks) > 1
        self._begin_piece(batch_id)
        tasks.reverse()
        while tasks:
            block = [tasks.pop() for _ in range(min(len(tasks), self._block_sizer.next()))]
            size = len(block)
            task_ids = [task.task_id for task in block]
            encoded = self._encoder.encode(block, shared_stats=many and shared_stats)
            self._block_sizer.learn(size, encoded.size)
            del block
            payload = self._store(encoded, many=many)
            if self._inline_bytes > _FLUSH_BYTES or self._segment_bytes > _FLUSH_SEGMENT_BYTES:
                self.flush()
                self._begin_piece(batch_id)
            self._blocks[-1] += 1
            self._sizes.append(size)
            self._task_ids += task_ids
            self._parents += parents[at : at + size]
            self._payloads.append(payload)
            if goes_to is not None:
                self._goes_to.append(goes_to)
            at += size
            self.added = at
            total += encoded.size
            if isinstance(payload, SegmentRef):
                self._inline_bytes += _SEGMENT_REF_BYTES
                self._segment_bytes += encoded.size
            else:
                self._inline_bytes += encoded.size
        if self._arena is not None:
            self._arena.trim(self._arena_used)  # it may have carried a large payload before, and nobody reuses it
            self._arena = None
        return total

    def add_pickled(self, batch_id: int, payload: bytes, task_id: str, parent: int, goes_to: int) -> None:
        """Add a block of one task that is pickled already."""
        self._begin_piece(batch_id)
        self._blocks[-1] += 1
        self._sizes.append(1)
        self._task_ids.append(task_id)
        self._parents.append(parent)
        self._payloads.append(payload)
        self._goes_to.append(goes_to)
        self._inline_bytes += len(payload)

    def finish(self, metrics: dict[str, float], rss_peak_bytes: int) -> None:
        """Mark the batch complete. The caller has added its times and sizes to ``totals`` already."""
        self._complete[-1] = 1
        totals = self.totals
        totals.rss_peak_bytes = rss_peak_bytes
        if metrics:
            add_metrics(totals.metrics, metrics)

    def note_failed(self, batch_id: int, parents: Sequence[int], stage: int = 0) -> None:
        """Note that a stage gave up tasks of the current batch that were made of these inputs."""
        self._failed += [[batch_id, parent, stage] for parent in parents]

    def note_held(self, batch_id: int) -> None:
        """Note that the stage has kept views of a batch's inputs."""
        self._held.append(batch_id)

    def reuse_when_sent(self, segment: Segment) -> None:
        """Reuse this input segment for outputs after the next flush, when the driver has the results made of it."""
        self._reusable.append(segment)

    def flush_if_due(self, *, idle: bool) -> None:
        """Send the collected results if the worker is idle, or has taken long enough over them.

        So a batch that takes longer is sent at once: the driver should send more before the worker is idle.
        """
        if self._batch_ids and (idle or time.monotonic() - self.totals.began > _FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Send the collected results, if any."""
        if not self._batch_ids:
            return
        message = Results(
            self._batch_ids,
            self._blocks,
            self._complete,
            self._sizes,
            self._task_ids,
            self._parents,
            self.totals.to_list() if self.totals.batches else None,
            self._failed,
            self._goes_to or None,
            [[n, *one.to_list()] for n, one in enumerate(self.stage_totals) if one.stats.batches] or None,
            self._held or None,
            self.calls.take() if self.calls is not None else None,
            payloads=tuple(self._payloads),
        )
        for one in self.stage_totals:
            one.clear()
        reusable = self._reusable
        self._clear()
        self._connection.send(message)
        for segment in reusable:
            self._pool.keep(segment)

    def drop_unfinished(self, batch_id: int) -> None:
        """Drop what was added of the current batch: its stage raised."""
        self._failed[:] = [failed for failed in self._failed if failed[0] != batch_id]
        while self._batch_ids and not self._complete[-1]:
            blocks = self._blocks[-1]
            size = sum(self._sizes[len(self._sizes) - blocks :])
            for column in (self._batch_ids, self._blocks, self._complete):
                column.pop()
            del self._sizes[len(self._sizes) - blocks :]
            del self._payloads[len(self._payloads) - blocks :]
            del self._task_ids[len(self._task_ids) - size :]
            del self._parents[len(self._parents) - size :]
            del self._goes_to[len(self._goes_to) - blocks :]
        self._arena = None

    def _clear(self) -> None:
        self._batch_ids: list[int] = []
        self._blocks: list[int] = []
        self._complete: list[int] = []
        self._sizes: list[int] = []
        self._task_ids: list[str] = []
        self._parents: list[int] = []
        self._payloads: list[Payload] = []
        self._reusable: list[Segment] = []
        self._failed: list[list[int]] = []
        self._goes_to: list[int] = []
        self._held: list[int] = []
        self.totals = BatchStats()
        self._inline_bytes = self._segment_bytes = 0

    def _begin_piece(self, batch_id: int) -> None:
        self._batch_ids.append(batch_id)
        self._blocks.append(0)
        self._complete.append(0)

    def _store(self, encoded: codec.Encoded, *, many: bool) -> Payload:
        if many and needs_segment(encoded):
            return self._store_in_arena(encoded)
        return store(encoded, self._pool)

    def _store_in_arena(self, encoded: codec.Encoded) -> SegmentRef:
        if self._arena is None or self._arena_used + encoded.size > self._arena.capacity:
            self._arena = self._pool.acquire(max(_ARENA_BYTES, encoded.size))
            self._arena_used = 0
        ref = SegmentRef(self._arena, self._arena_used, encoded.size, exclusive=False)
        self._arena.write(encoded.parts, ref.offset)
        self._arena_used += segments.page_aligned(encoded.size)
        return ref
