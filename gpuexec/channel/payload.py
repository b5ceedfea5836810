"""A payload: pickled tasks (or a stage, or an exception), inside a message or in a shared memory segment.

Whoever passes payloads on, as the driver does, needs only this module: it opens no file and maps no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuexec.channel.segments import Segment

Inline = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """Where a payload lies in a segment. ``exclusive``: the segment holds nothing else."""

    segment: Segment
    offset: int
    length: int
    exclusive: bool


Payload = Inline | SegmentRef


def payload_size(payload: Payload) -> int:
    """Return the size of a payload in bytes, wherever it lies."""
    return payload.length if isinstance(payload, SegmentRef) else len(payload)
