"""Anonymous shared memory for large payloads, and its reuse.

A segment is a memfd, or what `anonymous` has in its stead: it has no name, so nothing can be left behind in
``/dev/shm``, and the 64 MB limit that containers put on that mount does not apply to a memfd. Several payloads may
share one segment, each in its own page-aligned range.

A consumer copies its payload into memory of its own, unless it only reads. Measured for 16 MiB: copying takes 1.7 ms;
mapping takes 2.0 ms of page faults, and 9 ms more if a private mapping is written to. Without a mapping the segment
stays as the producer wrote it until the batch is complete: another attempt gets the same input.

The first write to a new segment costs page faults (7.6 ms for 16 MiB, against 2.6 ms once its pages exist). Therefore a
segment that carried a single payload is written to again. ``core.segment_loans`` decides by whom.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

from gpuexec.channel.anonymous import anonymous_file
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.references import only_its_list_has
from gpuexec.units import MIB

PAGE = mmap.ALLOCATIONGRANULARITY

_IOV_MAX = os.sysconf("SC_IOV_MAX")
_MAX_FREE_SEGMENTS = 4
_MAX_FREE_BYTES = 256 * MIB


def page_aligned(size: int) -> int:
    """Round a size in bytes up to whole pages."""
    return -(-size // PAGE) * PAGE


def roomy(size: int) -> int:
    """Return the capacity for a payload: up to an eighth more, since the next one may be a bit larger.

    Pages that are not written to take no memory.
    """
    return page_aligned(-(-size // step) * step if (step := 1 << max(0, size.bit_length() - 4)) > PAGE else size)


class Segment:
    """A descriptor of shared memory, closed when the last ``SegmentRef`` (or pool) that refers to it is gone."""

    __slots__ = ("capacity", "fd")

    def __init__(self, fd: int, capacity: int) -> None:
        self.fd = fd
        self.capacity = capacity

    def write(self, parts: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        """Write buffers one after the other from ``offset``, without a mapping and its page faults."""
        pending = [memoryview(part).cast("B") for part in parts if len(part)]
        while pending:
            written = os.pwritev(self.fd, pending[:_IOV_MAX], offset)
            offset += written
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = pending[0][written:]

    def trim(self, size: int) -> None:
        """Give back the memory beyond the first ``size`` bytes."""
        size = page_aligned(size)
        if size < self.capacity:
            os.ftruncate(self.fd, size)
            self.capacity = size

    def close(self) -> None:
        """Close the descriptor now. Safe to repeat."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class SegmentPool:
    """The free segments of one process. Not thread-safe: only the thread that encodes uses it."""

    def __init__(self) -> None:
        self._free: list[Segment] = []

    def acquire(self, size: int) -> Segment:
        """Return a segment of at least ``size`` bytes: a free one unless it is more than four times too large.

        Raises ``OSError`` if the system has no memory or descriptor left.
        """
        free = self.take_free(size)
        if free is not None:
            return free
        capacity = roomy(size)
        return Segment(anonymous_file("gpuexec", capacity), capacity)

    def take_free(self, size: int) -> Segment | None:
        """Return a free segment of at least ``size`` bytes that is not more than four times too large, if any."""
        fitting = [s for s in self._free if size <= s.capacity <= 4 * size]
        if not fitting:
            return None
        best = min(fitting, key=lambda s: s.capacity)
        self._free.remove(best)
        return best

    def keep(self, segment: Segment) -> None:
        """Take back a segment that nobody reads any more. The pool is bounded; segments beyond the limit are closed."""
        free_bytes = sum(s.capacity for s in self._free)
        if len(self._free) >= _MAX_FREE_SEGMENTS or free_bytes + segment.capacity > _MAX_FREE_BYTES:
            segment.close()
        else:
            self._free.append(segment)

    def close(self) -> None:
        """Close every free segment."""
        while self._free:
            self._free.pop().close()


class SegmentViews:
    """Read-only views of the segments that a batch came in. Without a copy: 0.3 ms for 16 MiB that are hardly read.

    The pages are mapped privately and writable, so not even code that goes round Python's protection can change what
    another attempt gets.
    """

    def __init__(self) -> None:
        self._mappings: list[mmap.mmap] = []

    @property
    def any(self) -> bool:
        """Whether there are views of which it is not known whether something refers to them."""
        return bool(self._mappings)

    def view(self, ref: SegmentRef, start: int, length: int) -> memoryview | None:
        """Return a view of so many bytes of a payload; ``None`` if that is to be copied."""
        start += ref.offset
        before = start % PAGE
        try:
            fcntl.fcntl(ref.segment.fd, fcntl.F_GET_SEALS)  # fails for a file on disk, which may fail to be read
            mapping = mmap.mmap(ref.segment.fd, before + length, flags=mmap.MAP_PRIVATE, offset=start - before)
        except OSError:
            return None
        self._mappings.append(mapping)
        return memoryview(mapping)[before : before + length].toreadonly()

    def end(self) -> bool:
        """Forget the views; return whether nothing refers to them any more, so that the segments may be reused."""
        mappings, self._mappings = self._mappings, []
        unused = True
        while mappings:
            unused = unused and only_its_list_has(mappings)
            mappings.pop()
        return unused


def read_segment(ref: SegmentRef) -> bytearray:
    """Return a copy of a payload, in memory of its own."""
    copy = bytearray(ref.length)
    read_into(ref, [copy], 0)
    return copy


def read_into(ref: SegmentRef, targets: Sequence[bytearray | memoryview], start: int) -> None:
    """Fill buffers one after the other with the bytes of a payload from ``start`` on."""
    pending = [memoryview(target) for target in targets if len(target)]
    pending.reverse()  # taking from the end costs the same however many are left
    offset = ref.offset + start
    while pending:
        read = os.preadv(ref.segment.fd, pending[: -_IOV_MAX - 1 : -1], offset)
        if not read:
            raise EOFError(f"segment ends at {offset}, {sum(map(len, pending))} bytes short")
        offset += read
        while pending and read >= len(pending[-1]):
            read -= len(pending.pop())
        if read:
            pending[-1] = pending[-1][read:]
