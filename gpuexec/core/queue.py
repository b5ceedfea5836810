"""Tasks that wait before a stage, by reference: the driver never looks into one.

A payload holds a parcel: the outputs of one batch (or some of the caller's tasks) that were pickled together.
Batches are cut from parcels in order, so a parcel may be dealt out in portions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gpuexec.channel.payload import Payload, SegmentRef, payload_size

BlockSlice = tuple["Block", int, int]  # tasks from, up to


@dataclass(slots=True, eq=False)
class Block:
    """Tasks in one payload.

    ``paths``: each task's place in the order of results. It is made of its ancestors' positions among their
    siblings, so that sorting by it gives the order of one process doing everything in turn. ``sources``: the
    source partition that each descends from, where a journal is kept.
    """

    payload: Payload
    task_ids: list[str]
    paths: list[bytes]
    queued_at: float
    sources: list[int] | None = None
    bytes: int = 0

    def __post_init__(self) -> None:
        self.bytes = payload_size(self.payload)

    def share(self, count: int) -> int:
        """Bytes of ``count`` of its tasks, on average."""
        all_of_it = len(self.task_ids)
        return self.bytes if count == all_of_it else self.bytes * count // all_of_it


class TaskQueue:
    """Tasks that wait before a stage, counted by number, bytes and segments."""

    __slots__ = ("_slices", "_tasks", "bytes", "segments")

    def __init__(self) -> None:
        self._slices: deque[BlockSlice] = deque()
        self._tasks = 0
        self.bytes = 0
        self.segments = 0

    def __len__(self) -> int:
        return self._tasks

    def push(self, block: Block, start: int = 0, stop: int | None = None) -> None:
        """Add (a part of) a parcel at the end."""
        stop = len(block.task_ids) if stop is None else stop
        self._slices.append((block, start, stop))
        self._tasks += stop - start
        self.bytes += block.share(stop - start)
        self.segments += isinstance(block.payload, SegmentRef)

    def take(self, count: int) -> list[BlockSlice]:
        """Remove the first ``count`` tasks (or all there are)."""
        taken: list[BlockSlice] = []
        while count and self._slices:
            block_slice = block, start, end = self._slices[0]
            waiting = end - start
            if waiting <= count:
                self._slices.popleft()
                self.segments -= isinstance(block.payload, SegmentRef)
                self.bytes -= block.share(waiting)
                taken.append(block_slice)
            else:
                stop = start + count
                self._slices[0] = (block, stop, end)
                self.bytes += block.share(end - stop) - block.share(waiting)
                taken.append((block, start, stop))
                waiting = count
            count -= waiting
            self._tasks -= waiting
        return taken


_ONE_BYTE = tuple(bytes([number]) for number in range(0x80))


def place_among_siblings(number: int) -> bytes:
    """Encode a position so that bytes sort as the numbers do and none is the beginning of another."""
    if number < 0x80:
        return _ONE_BYTE[number]
    length = (number.bit_length() + 7) // 8
    return bytes([0x7F + length]) + number.to_bytes(length, "big")
