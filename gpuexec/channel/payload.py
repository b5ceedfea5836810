"""A payload: pickled tasks (or a stage, or an exception), inside a message or in a shared memory segment.

Whoever passes payloads on, as the driver does, needs only this module: it opens no file and maps no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuexec.records import Record

if TYPE_CHECKING:
    from gpuexec.channel.segments import Segment

Inline = bytes | bytearray | memoryview


class SegmentRef(Record):
    """Where a payload lies in a segment. ``exclusive``: the segment holds nothing else."""

    segment: Segment
    offset: int
    length: int
    exclusive: bool

    def shared(self) -> SegmentRef:
        """Return the same payload for several readers: none of them may reuse its segment."""
        return SegmentRef(self.segment, self.offset, self.length, exclusive=False)


Payload = Inline | SegmentRef


def payload_size(payload: Payload) -> int:
    """Return the size of a payload in bytes, wherever it lies."""
    return payload.length if isinstance(payload, SegmentRef) else len(payload)
