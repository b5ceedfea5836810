"""Tasks as they arrive, dealt out batch by batch.

A block (several tasks pickled into one payload) may serve several batches, in one message or in several. It is
unpickled once, when its first task is due, and each of its tasks is handed out once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from gpuexec.channel.messages import Work
from gpuexec.channel.payload import Payload, SegmentRef, payload_size
from gpuexec.channel.payload_store import load
from gpuexec.channel.segments import Segment, SegmentViews

BatchPart = tuple[Payload, int, int, bool]  # block, first task, end, whether these are all its tasks


class Inbox:
    """The tasks of the messages accepted so far; ``release`` gets each exclusive segment that was read to its end.

    ``reads_only``: the stage does not write to what it gets, so large arrays may be views of the segment.
    """

    def __init__(self, release: Callable[[Segment], None], *, reads_only: bool = False) -> None:
        self._release = release
        self._views = SegmentViews() if reads_only else None
        self._slices: deque[tuple[Payload, list[int] | None]] = deque()  # of blocks, not begun yet
        self._block: list[Any | None] = []  # the block being dealt out; tasks already dealt out are None
        self._payload: Payload = b""  # what it was unpickled from
        self._next = self._stop = 0  # the rest of its current slice
        self._batch: list[BatchPart] = []  # where the tasks of the current batch came from

    def accept(self, work: Work) -> list[Segment]:
        """Queue the block slices of a message; return the segments that came with it to be written to."""
        payloads = iter(work.payloads)
        last = self._slices[-1][0] if self._slices else self._payload
        for slice_ in work.slices:
            if slice_ is None or len(slice_) == 2:
                last = next(payloads)
            self._slices.append((last, slice_))
        return [payload.segment for payload in payloads if isinstance(payload, SegmentRef)]

    def take(self, count: int) -> tuple[list[Any], int]:
        """Return the next ``count`` tasks and their size in bytes; a part of a block counts by its share of tasks."""
        tasks: list[Any] = []
        size = 0
        self._batch = []
        while len(tasks) < count:
            if self._next == self._stop:
                self._begin_slice()
                if not (tasks or self._next) and self._stop == count == len(self._block):  # usual for tiny batches
                    tasks, self._block, self._next = self._block, [], 0
                    self._stop = 0
                    self._batch.append((self._payload, 0, count, True))
                    return tasks, payload_size(self._payload)
            stop = min(self._stop, self._next + count - len(tasks))
            self._batch.append((self._payload, self._next, stop, self._next == 0 and stop == len(self._block)))
            size += payload_size(self._payload) * (stop - self._next) // max(1, len(self._block))
            tasks += self._block[self._next : stop]
            self._block[self._next : stop] = [None] * (stop - self._next)  # so a task's memory is freed with its batch
            self._next = stop
        return tasks, size

    def take_again(self) -> list[Any]:
        """Unpickle the current batch again, unaffected by what the stage did to the first copy."""
        tasks: list[Any] = []
        for payload, start, stop, _ in self._batch:
            tasks += load(payload)[start:stop]
        return tasks

    def detach(self) -> list[BatchPart]:
        """Return where the current batch's tasks came from, so that another batch may be taken before it is done."""
        parts, self._batch = self._batch, []
        return parts

    def attach(self, parts: list[BatchPart]) -> None:
        """Make a detached batch the current one again."""
        self._batch = parts

    def done(self) -> bool:
        """Finish the current batch: release every segment that held nothing else.

        Return False if the stage has kept a view of one: then nobody may write to the batch's segments. Such a stage
        gets copies from then on, since a view holds a descriptor.
        """
        if self._views is not None and self._views.any:
            if any(task is not None for task in self._block):  # a later batch's tasks refer to some of them
                self._batch = []
                return False
            if not self._views.end():
                self._views, self._batch = None, []
                return False
        for payload, _, _, whole in self._batch:
            if whole and isinstance(payload, SegmentRef) and payload.exclusive:
                self._release(payload.segment)
        self._batch = []
        return True

    def _begin_slice(self) -> None:
        payload, slice_ = self._slices.popleft()
        if slice_ is None or len(slice_) == 2:
            self._payload = payload
            self._block = load(payload, self._views)
            start, stop = slice_ or (0, len(self._block))
        else:
            start, stop, _ = slice_
        self._next, self._stop = start, stop
