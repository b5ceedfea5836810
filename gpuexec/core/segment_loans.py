"""Who writes next to shared memory that has been read: its pages exist, and a new segment's first have to be made.

A segment that holds one payload is free once the batch that read it is complete. Then it is written to again:

* by the worker that read it, for its own outputs, if it was *lent* to the worker. It is not if the worker has as many
  as it uses, or writes no segments at all.
* by the driver, for initial tasks or as a *spare* for a worker that writes more segments than it reads.

Until the batch is complete nobody writes to it, since another attempt is to get the same input. What was lent to a
worker that is gone is lent anew with the next attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuexec.channel.payload import Payload, SegmentRef

if TYPE_CHECKING:
    from gpuexec.core.batch import Batch, Block
    from gpuexec.core.memory_hold import MemoryHold
    from gpuexec.core.ports import Payloads
    from gpuexec.core.worker import Worker

_ENOUGH = 2  # segments: one that it writes to while it reads another


class SegmentLoans:
    """Keeps account of the segments that each worker got and wrote (``Worker.segments_lent``).

    While memory is short (``hold``), nothing is kept for later.
    """

    def __init__(self, payloads: Payloads, hold: MemoryHold) -> None:
        self._payloads = payloads
        self._hold = hold

    def send_whole(self, worker: Worker, batch: Batch, payload: Payload) -> Payload:
        """Return a payload, all tasks of which are in a batch for this worker, as it is to be sent."""
        if not isinstance(payload, SegmentRef) or not payload.exclusive:
            return payload
        if worker.segment_bytes and worker.segments_lent < _ENOUGH:
            worker.segments_lent += 1
            return payload
        batch.segments_kept.append(payload)
        return payload.shared()

    def spares_for(self, worker: Worker) -> list[Payload]:
        """Return free segments for a worker that has written more than it got."""
        spares: list[Payload] = []
        while worker.segments_lent < 0:
            spare = self._payloads.spare(worker.segment_bytes)
            if spare is None:
                break
            spares.append(spare)
            worker.segments_lent += 1
        return spares

    @staticmethod
    def written(worker: Worker, payload: Payload) -> None:
        """Take note of an output of a worker."""
        if isinstance(payload, SegmentRef) and payload.exclusive:
            worker.segments_lent = max(-_ENOUGH, worker.segments_lent - 1)
            worker.segment_bytes = payload.length

    def completed(self, batch: Batch, held: Sequence[int] | None) -> None:
        """Free the segments of a complete batch that were not lent. ``held``: batches whose inputs the stage can see.

        Inputs that a stage of a group raised about are still to be stored for a replay.
        """
        if not batch.segments_kept:
            return
        kept, batch.segments_kept = batch.segments_kept, []
        if not batch.failures and (held is None or batch.batch_id not in held):
            self._recycle(kept)

    def unpacked(self, blocks: Sequence[Block]) -> None:
        """Free the segments of outputs of the last stage, which nobody reads again."""
        payloads = [block.payload for block in blocks if block.in_segment]
        self._recycle([payload for payload in payloads if isinstance(payload, SegmentRef) and payload.exclusive])

    def _recycle(self, payloads: Sequence[SegmentRef]) -> None:
        for payload in payloads if not self._hold.is_on else ():
            self._payloads.recycle(payload)
