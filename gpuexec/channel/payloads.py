"""Where a payload goes: inside the message, or into a segment."""

from __future__ import annotations

from gpuexec.channel import segments
from gpuexec.channel.codec import Encoded
from gpuexec.channel.messages import Payload
from gpuexec.channel.segments import Range, SegmentPool

INLINE_LIMIT = 64 * 1024  # bytes; above, two copies through the socket cost more than a memfd


def needs_segment(encoded: Encoded) -> bool:
    """Whether a payload is better off in shared memory."""
    return encoded.size > INLINE_LIMIT and segments.SUPPORTED


def lay_down(encoded: Encoded, pool: SegmentPool) -> Payload:
    """Write a payload down; a large one in a segment of its own, which its consumer may use again.

    Raises ``OSError`` where the system has no memory or descriptor left.
    """
    if not needs_segment(encoded):
        return encoded.join()
    segment = pool.acquire(encoded.size)
    segment.write(encoded.parts, 0)
    return Range(segment, 0, encoded.size, exclusive=True)
