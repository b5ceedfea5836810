"""Tasks that wait before a stage, by reference: the driver never looks into one.

A payload holds a parcel: the outputs of one batch (or some of the caller's tasks) that were pickled together.
Batches are cut from parcels in order, so a parcel may be dealt out in portions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gpuexec.channel.messages import Payload, payload_size
from gpuexec.channel.segments import Range

Portion = tuple["Parcel", int, int]  # tasks from, up to


@dataclass(slots=True, eq=False)
class Parcel:
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

    def share(self, count: int) -> int:
        """Bytes of ``count`` of its tasks, on average."""
        return payload_size(self.payload) * count // len(self.task_ids)


class TaskQueue:
    """Parcels that wait before a stage, counted by tasks, bytes and segments."""

    __slots__ = ("_at", "_parcels", "_tasks", "bytes", "segments")

    def __init__(self) -> None:
        self._parcels: deque[Parcel] = deque()
        self._at = 0  # tasks of the first parcel that are dealt out already
        self._tasks = 0
        self.bytes = 0
        self.segments = 0

    def __len__(self) -> int:
        return self._tasks

    def push(self, parcel: Parcel) -> None:
        """Add a parcel at the end."""
        self._parcels.append(parcel)
        self._tasks += len(parcel.task_ids)
        self.bytes += payload_size(parcel.payload)
        self.segments += isinstance(parcel.payload, Range)

    def take(self, count: int) -> list[Portion]:
        """Remove the first ``count`` tasks (or all there are)."""
        portions: list[Portion] = []
        while count and self._parcels:
            parcel, start = self._parcels[0], self._at
            stop = min(start + count, len(parcel.task_ids))
            portions.append((parcel, start, stop))
            count -= stop - start
            self._tasks -= stop - start
            self._at = stop
            if stop == len(parcel.task_ids):
                self._at = 0
                self._parcels.popleft()
                self.bytes -= payload_size(parcel.payload)
                self.segments -= isinstance(parcel.payload, Range)
        return portions


_ONE_BYTE = tuple(bytes([number]) for number in range(0x80))


def place_among_siblings(number: int) -> bytes:
    """Encode a position so that bytes sort as the numbers do and none is the beginning of another."""
    if number < 0x80:
        return _ONE_BYTE[number]
    length = (number.bit_length() + 7) // 8
    return bytes([0x7F + length]) + number.to_bytes(length, "big")
