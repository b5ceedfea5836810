"""Store a payload, inside the message or in a segment, and load it again."""

from __future__ import annotations

import functools
from typing import Any

from gpuexec.channel import codec
from gpuexec.channel.codec import Encoded
from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.segments import SegmentPool, SegmentViews, read_into
from gpuexec.units import KIB

INLINE_LIMIT = 64 * KIB  # bytes; above it, two copies through the socket cost more than a memfd


def needs_segment(encoded: Encoded) -> bool:
    """Return whether a payload goes to shared memory. Nothing else decides that."""
    return encoded.size > INLINE_LIMIT


def store(encoded: Encoded, pool: SegmentPool) -> Payload:
    """Write a payload to a bytes object or, if it is large, to a segment of its own, which its consumer may reuse.

    Raises ``OSError`` if the system has no memory or descriptor left.
    """
    if not needs_segment(encoded):
        return encoded.join()
    segment = pool.acquire(encoded.size)
    segment.write(encoded.parts, 0)
    return SegmentRef(segment, 0, encoded.size, exclusive=True)


def load(payload: Payload, views: SegmentViews | None = None) -> Any:
    """Unpickle an inline payload or one in a segment; the objects are writable and owned by the caller.

    ``views``: for a caller that only reads. A large buffer may then be a read-only view of the segment.
    """
    if isinstance(payload, SegmentRef):
        view = None if views is None else functools.partial(views.view, payload)
        return codec.decode_from(payload.length, functools.partial(read_into, payload), view)
    return codec.decode(payload, in_place=False)
