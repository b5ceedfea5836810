"""The tasks that wait before a stage."""

from __future__ import annotations

from collections import deque

from gpuexec.core.batch import BlockSlice


class TaskQueue:
    """Block slices in order, counted by tasks, bytes of memory and segments."""

    __slots__ = ("_slices", "_tasks", "bytes", "segments")

    def __init__(self) -> None:
        self._slices: deque[BlockSlice] = deque()
        self._tasks = 0
        self.bytes = 0
        self.segments = 0

    def __len__(self) -> int:
        return self._tasks

    @property
    def oldest_at(self) -> float:
        """When the first waiting task was queued. There must be one."""
        return self._slices[0][0].queued_at

    def push(self, part: BlockSlice) -> None:
        """Add (a part of) a block at the end."""
        block, start, stop = part
        self._slices.append(part)
        self._tasks += stop - start
        self.bytes += block.in_memory(stop - start)
        self.segments += block.in_segment

    def take(self, count: int) -> list[BlockSlice]:
        """Remove the first ``count`` tasks, or all there are."""
        taken: list[BlockSlice] = []
        while count and self._slices:
            first = block, start, end = self._slices[0]
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
