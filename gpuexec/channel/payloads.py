"""Where a payload goes, inside the message or into a segment, and back."""

from __future__ import annotations

from typing import Any

from gpuexec.channel import codec, segments
from gpuexec.channel.codec import Encoded
from gpuexec.channel.messages import Payload
from gpuexec.channel.segments import SegmentPool, SegmentRef, read_segment
from gpuexec.units import KIB

INLINE_LIMIT = 64 * KIB  # bytes; above, two copies through the socket cost more than a memfd


def needs_segment(encoded: Encoded) -> bool:
    """Whether a payload is better off in shared memory."""
    return encoded.size > INLINE_LIMIT and segments.SUPPORTED


def store(encoded: Encoded, pool: SegmentPool) -> Payload:
    """Write a payload down; a large one in a segment of its own, which its consumer may use again.

    Raises ``OSError`` where the system has no memory or descriptor left.
    """
    if not needs_segment(encoded):
        return encoded.join()
    segment = pool.acquire(encoded.size)
    segment.write(encoded.parts, 0)
    return SegmentRef(segment, 0, encoded.size, exclusive=True)


def load(payload: Payload) -> Any:
    """Unpickle a payload, wherever it lies, into objects that are writable and the caller's own."""
    if isinstance(payload, SegmentRef):
        return codec.decode(read_segment(payload), in_place=True)
    return codec.decode(payload, in_place=False)


class BlockSizer:
    """How many tasks to pickle at once: enough to share the cost, few enough to deal out in small portions."""

    _AIM_BYTES = 32 * 1024
    _MAX_TASKS = 256

    def __init__(self) -> None:
        self._task_bytes = float(self._AIM_BYTES)  # the first task goes alone, until sizes are known

    def next(self) -> int:
        """Return the number of tasks for the next parcel."""
        return max(1, min(self._MAX_TASKS, int(self._AIM_BYTES / self._task_bytes)))

    def learn(self, tasks: int, size: int) -> None:
        """Take note of a parcel: the mean follows quickly, since a stage's tasks are mostly alike."""
        self._task_bytes += 0.5 * (size / tasks - self._task_bytes)
