"""What the driver should do next: pure functions of what it sees, no clock and no I/O."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

_CREDIT_SECONDS = 0.02  # work kept ready at a worker, so that it never waits for the driver
_MAX_CREDIT = 128
_LONG_BATCH_SECONDS = 0.2  # a round trip is lost in these; a batch waiting behind one is not
_CREDIT_BYTES = 64 * 1024 * 1024


class StartReason(StrEnum):
    """Why a worker is started."""

    NODE = "setup_on_node() has a process of its own"
    FIRST = "the stage's first"
    FIXED = "num_workers() asks for it"
    GPU_STAGE = "a GPU share is reserved for it and its set-up overlaps the others'"
    REPLACEMENT = "it takes the place of one that ended"


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage as decisions see it. ``spare`` counts grants without a worker, ``starting`` workers not ready."""

    queued: int
    returned: int  # batches to be done again
    batch_size: int
    upstream_done: bool
    in_flight: int  # batches
    live: int  # workers, starting ones included
    starting: int
    spare: int
    has_fixed_count: bool
    uses_gpu: bool


def batches_ready(view: StageView) -> int:
    """Batches that can be formed now: full ones, and the rest once nothing more will come."""
    full, rest = divmod(view.queued, view.batch_size)
    return view.returned + full + (1 if rest and view.upstream_done else 0)


def is_finished(view: StageView) -> bool:
    """Whether the stage has nothing left to do and nothing more will come."""
    return view.upstream_done and not view.queued and not view.returned and not view.in_flight


def credit(batch_s: float | None, batch_bytes: float) -> int:
    """Batches a worker may have in hand: one until its pace is known, then enough for 20 ms."""
    if batch_s is None or batch_s > _LONG_BATCH_SECONDS:
        return 1
    by_time = math.ceil(_CREDIT_SECONDS / max(batch_s, 1e-6))
    by_bytes = int(_CREDIT_BYTES / max(batch_bytes, 1.0))
    return max(2, min(by_time, by_bytes, _MAX_CREDIT))


def share_out(ready: int, in_flight: Sequence[int], limit: int) -> list[int]:
    """Deal ``ready`` batches to workers, those with the least in hand first, none above ``limit``."""
    dealt = [0] * len(in_flight)
    open_to_work = [(held, i) for i, held in enumerate(in_flight) if held < limit]
    heapq.heapify(open_to_work)
    while ready and open_to_work:
        held, worker = open_to_work[0]
        dealt[worker] += 1
        ready -= 1
        if held + 1 < limit:
            heapq.heapreplace(open_to_work, (held + 1, worker))
        else:
            heapq.heappop(open_to_work)
    return dealt


def workers_to_start(view: StageView) -> tuple[int, StartReason]:
    """How many of the spare grants to use now, and why.

    A stage's own count is started at once, and so is a GPU stage's: its set-up is long. A CPU stage begins with one
    worker; later on, grants are spare because a worker ended that was not to. Which stages get more is the planner's
    choice, see ``autoscaler``.
    """
    if not view.spare or is_finished(view):
        return 0, StartReason.REPLACEMENT
    if view.has_fixed_count:
        return view.spare, StartReason.FIXED
    if not view.live:
        return 1, StartReason.FIRST
    useful = view.spare if not view.upstream_done else batches_ready(view) - view.starting
    reason = StartReason.GPU_STAGE if view.uses_gpu else StartReason.REPLACEMENT
    return max(0, min(view.spare, useful)), reason


def next_setups(
    waiting: Sequence[tuple[str, tuple[str, ...]]], running: Collection[tuple[str, ...]], cap: int
) -> list[str]:
    """Workers whose ``setup`` may begin: one at a time per GPU, at most ``cap`` on the node.

    ``waiting``: (worker id, UUIDs of its GPUs), in the order they became ready; ``running``: the GPUs of
    each set-up under way. Loading a model in many workers of one GPU at once fails (vllm#55827).
    """
    taken = {uuid for gpus in running for uuid in gpus}
    room = cap - len(running)
    chosen = []
    for worker_id, gpus in waiting:
        if room > 0 and taken.isdisjoint(gpus):
            chosen.append(worker_id)
            taken.update(gpus)
            room -= 1
    return chosen
