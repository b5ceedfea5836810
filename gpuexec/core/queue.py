"""The tasks that wait before a stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from gpuexec.core.batch import BlockSlice


class PutAway(Protocol):
    """Block slices that were written to disk together."""

    def load(self) -> list[BlockSlice]:
        """Return them, in their order. Raises ``SpillFailed``."""


class TaskQueue:
    """Block slices in order, counted by tasks, bytes of memory and segments."""

    __slots__ = ("_slices", "_tasks", "bytes", "segments")

    def __init__(self) -> None:
        self._slices: deque[BlockSlice | PutAway] = deque()
        self._tasks = 0
        self.bytes = 0
        self.segments = 0

    def __len__(self) -> int:
        return self._tasks

    @property
    def oldest_at(self) -> float:
        """When the first waiting task was queued. There must be one."""
        return self._first()[0].queued_at

    def push(self, part: BlockSlice) -> None:
        """Add (a part of) a block at the end."""
        block, start, stop = part
        self._slices.append(part)
        self._tasks += stop - start
        self.bytes += block.in_memory(stop - start)
        self.segments += block.in_segment

    def take(self, count: int) -> list[BlockSlice]:
        """Remove the first ``count`` tasks, or all there are. Raises ``SpillFailed`` if they cannot be read."""
        taken: list[BlockSlice] = []
        while count and self._slices:
            first = block, start, end = self._first()
            waiting = end - start
            if waiting <= count:
                self._slices.popleft()
                self.segments -= block.in_segment
                self.bytes -= block.in_memory(waiting)
                taken.append(first)
            else:
                stop = start + count
                self._slices[0] = (block, stop, end)
                self.bytes += block.in_memory(end - stop) - block.in_memory(waiting)
                taken.append((block, start, stop))
                waiting = count
            count -= waiting
            self._tasks -= waiting
        return taken

    def put_away(self, parts: int, write: Callable[[list[BlockSlice]], PutAway]) -> None:
        """Have the last ``parts`` slices, none of which lies in a segment, written to disk until they are taken."""
        last = [self._slices.pop() for _ in range(parts)][::-1]
        slices = [part for part in last if isinstance(part, tuple)]
        assert len(slices) == parts
        self._slices.append(write(slices))
        self.bytes -= sum(block.in_memory(stop - start) for block, start, stop in slices)

    def _first(self) -> BlockSlice:
        first = self._slices[0]
        while not isinstance(first, tuple):
            slices = first.load()
            self._slices.popleft()
            self._slices.extendleft(reversed(slices))
            self.bytes += sum(block.in_memory(stop - start) for block, start, stop in slices)
            first = self._slices[0]
        return first
