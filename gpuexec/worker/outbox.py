"""Collects the outputs of batches into few messages: a message a batch would cost more than a tiny batch.

Small payloads travel inside the message. Large ones are written to shared memory as soon as they are
encoded, and the task is dropped right then, so a batch that fans out to gigabytes is not held twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gpuexec.channel import codec, segments
from gpuexec.channel.messages import Figures, Payload, Results
from gpuexec.channel.payloads import lay_down, needs_segment
from gpuexec.channel.segments import Range, Segment, SegmentPool
from gpuexec.channel.wire import BlockingConnection

_FLUSH_BYTES = 256 * 1024
_FLUSH_SECONDS = 0.005
_ARENA = 16 * 1024 * 1024  # large payloads of one batch share segments of this size


class Outbox:
    """Results on their way to the driver; one thread uses it."""

    def __init__(self, connection: BlockingConnection, pool: SegmentPool) -> None:
        self._connection = connection
        self._pool = pool
        self._arena: Segment | None = None
        self._arena_used = 0
        self._oldest = 0.0
        self._clear()

    def add(self, batch_id: int, tasks: list[Any], parents: Sequence[int]) -> int:
        """Encode a batch's outputs, emptying ``tasks``; return their size in bytes.

        Raises what pickling raised. ``finish`` must follow.
        """
        total = 0
        many = len(tasks) > 1
        tasks.reverse()
        for parent in parents:
            task = tasks.pop()
            task_id = task.task_id
            encoded = codec.encode(task)
            del task
            payload = self._place(encoded, many=many)
            if not self._batch_ids or self._batch_ids[-1] != batch_id:
                self._open_piece(batch_id)
            self._counts[-1] += 1
            self._task_ids.append(task_id)
            self._parents.append(parent)
            self._payloads.append(payload)
            total += encoded.size
            self._inline_bytes += encoded.size if not isinstance(payload, Range) else 64
            if self._inline_bytes > _FLUSH_BYTES:
                self.flush()
        self._arena = None
        return total

    def finish(self, batch_id: int, figures: Figures) -> None:
        """Mark the batch complete."""
        if not self._batch_ids or self._batch_ids[-1] != batch_id:
            self._open_piece(batch_id)
        self._figures[-1] = figures.to_list()
        self._oldest = self._oldest or time.monotonic()

    def flush_if_due(self, *, idle: bool) -> None:
        """Send what has gathered if nothing else is to be done or it has waited long enough."""
        if self._batch_ids and (idle or time.monotonic() - self._oldest > _FLUSH_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        if not self._batch_ids:
            return
        message = Results(
            self._batch_ids,
            self._counts,
            self._figures,
            self._task_ids,
            self._parents,
            payloads=tuple(self._payloads),
        )
        self._clear()
        self._connection.send(message)

    def _clear(self) -> None:
        self._batch_ids: list[int] = []
        self._counts: list[int] = []
        self._figures: list[list[Any] | None] = []
        self._task_ids: list[str] = []
        self._parents: list[int] = []
        self._payloads: list[Payload] = []
        self._inline_bytes = 0
        self._oldest = 0.0

    def _open_piece(self, batch_id: int) -> None:
        self._batch_ids.append(batch_id)
        self._counts.append(0)
        self._figures.append(None)

    def _place(self, encoded: codec.Encoded, *, many: bool) -> Payload:
        if many and needs_segment(encoded):
            return self._place_in_arena(encoded)
        return lay_down(encoded, self._pool)

    def _place_in_arena(self, encoded: codec.Encoded) -> Range:
        if self._arena is None or self._arena_used + encoded.size > self._arena.capacity:
            self._arena = self._pool.acquire(max(_ARENA, encoded.size))
            self._arena_used = 0
        place = Range(self._arena, self._arena_used, encoded.size, exclusive=False)
        self._arena.write(encoded.parts, place.offset)
        self._arena_used += segments.page_aligned(encoded.size)
        return place
