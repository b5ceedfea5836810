"""Tasks as they arrive, dealt out batch by batch.

A parcel (a payload of several tasks) may serve several batches, in one message or in several. It is unpickled
once, when its first task is due, and each of its tasks is handed out once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from gpuexec.channel.messages import Work
from gpuexec.channel.payload import Payload, SegmentRef, payload_size
from gpuexec.channel.payloads import load
from gpuexec.channel.segments import Segment

_Part = tuple[Payload, int, int, bool]  # payload, first task, end, whether that is all of it


class Inbox:
    """The work of the messages accepted so far; ``release`` gets each exclusive segment that is read out."""

    def __init__(self, release: Callable[[Segment], None]) -> None:
        self._release = release
        self._waiting: deque[tuple[Payload, list[int] | None]] = deque()
        self._open: list[Any | None] = []
        self._payload: Payload = b""
        self._at = self._stop = 0
        self._batch: list[_Part] = []  # where the batch in hand came from

    def accept(self, work: Work) -> None:
        """Queue a message's spans."""
        payloads = iter(work.payloads)
        last = self._waiting[-1][0] if self._waiting else self._payload
        for slice_ in work.slices:
            if slice_ is None or len(slice_) == 2:
                last = next(payloads)
            self._waiting.append((last, slice_))

    def take(self, count: int) -> tuple[list[Any], int]:
        """Return the next ``count`` tasks and their size in bytes (of a parcel in parts, its share)."""
        tasks: list[Any] = []
        size = 0
        self._batch = []
        while len(tasks) < count:
            if self._at == self._stop:
                self._begin_slice()
                if not (tasks or self._at) and self._stop == count == len(self._open):  # usual for tiny batches
                    tasks, self._open, self._at = self._open, [], 0
                    self._stop = 0
                    self._batch.append((self._payload, 0, count, True))
                    return tasks, payload_size(self._payload)
            stop = min(self._stop, self._at + count - len(tasks))
            self._batch.append((self._payload, self._at, stop, self._at == 0 and stop == len(self._open)))
            size += payload_size(self._payload) * (stop - self._at) // max(1, len(self._open))
            tasks += self._open[self._at : stop]
            self._open[self._at : stop] = [None] * (stop - self._at)  # a task's memory is its batch's to free
            self._at = stop
        return tasks, size

    def take_again(self) -> list[Any]:
        """Return the batch in hand anew, as it arrived, whatever the stage did to its tasks."""
        tasks: list[Any] = []
        for payload, start, stop, _ in self._batch:
            tasks += load(payload)[start:stop]
        return tasks

    def done(self) -> None:
        """The batch in hand is complete: a segment that was all its own is released."""
        for payload, _, _, whole in self._batch:
            if whole and isinstance(payload, SegmentRef) and payload.exclusive:
                self._release(payload.segment)
        self._batch = []

    def _begin_slice(self) -> None:
        payload, slice_ = self._waiting.popleft()
        if slice_ is None or len(slice_) == 2:
            self._payload = payload
            self._open = load(payload)
            start, stop = slice_ or (0, len(self._open))
        else:
            start, stop, _ = slice_
        self._at, self._stop = start, stop
