"""Decisions about batches and workers: pure functions of what they are given, without clock or I/O."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gpuexec.units import MIB

_PREFETCH_S = 0.02  # work kept ready at a worker, so that it never waits for the driver
_MAX_PREFETCH = 128  # batches
_PREFETCH_BYTES = 64 * MIB
_FUSED_BATCH_S = 0.02  # work of one batch of a group of fused stages, whose stats are handled stage by stage
MAX_FUSED_TASKS = 256
_LONG_BATCH_S = 0.2  # a round trip does not matter beside such a batch, but a batch waiting behind one does


class StartReason(StrEnum):
    """Why a worker is started."""

    NODE = "setup_on_node() has a process of its own"
    FIRST = "the stage's first"
    FIXED = "num_workers() asks for it"
    ASKED = "min_workers or initial_workers asks for it"
    GPU_STAGE = "a GPU share is reserved for it and its set-up overlaps the others'"
    REPLACEMENT = "it replaces one that ended"


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage as decisions see it. ``pending``: grants without a worker. ``starting``: workers not ready yet."""

    queued: int  # tasks
    requeued: int  # batches to run again
    batch_size: int
    upstream_done: bool
    in_flight: int  # batches
    live: int  # workers, starting ones included
    starting: int
    pending: int
    has_fixed_count: bool
    uses_gpu: bool


def batches_ready(view: StageView, *, rest_is_due: bool = False) -> int:
    """Return how many batches can be formed now: full ones, and the rest once nothing more will come.

    ``rest_is_due``: the first tasks have waited long enough for a batch that is not full.
    """
    full, rest = divmod(view.queued, view.batch_size)
    goes = rest and (view.upstream_done or (rest_is_due and not full))
    return view.requeued + full + (1 if goes else 0)


def is_finished(view: StageView) -> bool:
    """Return whether the stage has nothing left to do and nothing more will come."""
    return view.upstream_done and not view.queued and not view.requeued and not view.in_flight


def prefetch_limit(batch_s: float | None, batch_bytes: float) -> int:
    """Return how many batches a worker may have: one until the service time is known, then enough for 20 ms."""
    if batch_s is None or batch_s > _LONG_BATCH_S:
        return 1
    by_time = math.ceil(_PREFETCH_S / max(batch_s, 1e-6))
    by_bytes = int(_PREFETCH_BYTES / max(batch_bytes, 1.0))
    return max(2, min(by_time, by_bytes, _MAX_PREFETCH))


def concurrent_limit(max_concurrency: int, batch_s: float | None, batch_bytes: float) -> int:
    """Return how many batches a worker may have that has ``max_concurrency`` in flight: those, and some that wait.

    ``batch_s``: what a batch takes of the worker. Where that is long, none waits: another worker may be free sooner.
    """
    waiting = prefetch_limit(batch_s, batch_bytes)
    return max_concurrency + (waiting if waiting > 1 else 0)


def tasks_per_fused_batch(task_s: float | None, waiting: int, workers: int) -> int:
    """Return how many tasks one batch of a group has: one until the service time is known, then enough for 20 ms.

    The last tasks are spread over the ``workers``.
    """
    if task_s is None:
        return 1
    by_time = int(_FUSED_BATCH_S / max(task_s, 1e-6))
    return max(1, min(by_time, MAX_FUSED_TASKS, waiting // (2 * max(1, workers))))


def share_out(ready: int, in_flight: Sequence[int], limit: int) -> list[int]:
    """Deal ``ready`` batches to workers, those with the fewest in flight first, none above ``limit``."""
    dealt = [0] * len(in_flight)
    below_limit = [(count, i) for i, count in enumerate(in_flight) if count < limit]
    heapq.heapify(below_limit)
    while ready and below_limit:
        count, worker = below_limit[0]
        dealt[worker] += 1
        ready -= 1
        if count + 1 < limit:
            heapq.heapreplace(below_limit, (count + 1, worker))
        else:
            heapq.heappop(below_limit)
    return dealt


def workers_to_start(view: StageView) -> tuple[int, StartReason | None]:
    """Return how many of the pending grants to use now, and why (``None`` for 0).

    A stage's own count is started at once, and so is a GPU stage's, because its set-up takes long. A CPU stage begins
    with one worker. Later on, a grant is pending because its worker ended and is to be replaced. Which stages get more
    workers is the autoscaler's choice.
    """
    if not view.pending or is_finished(view):
        return 0, None
    if view.has_fixed_count:
        return view.pending, StartReason.FIXED
    if not view.live:
        return 1, StartReason.FIRST
    useful = view.pending if not view.upstream_done else batches_ready(view) - view.starting
    count = max(0, min(view.pending, useful))
    if not count:
        return 0, None
    return count, StartReason.GPU_STAGE if view.uses_gpu else StartReason.REPLACEMENT


def next_setups(
    waiting: Sequence[tuple[int, tuple[str, ...]]], running: Collection[tuple[str, ...]], max_parallel: int
) -> list[int]:
    """Return the workers whose ``setup`` may begin: one at a time per GPU, at most ``max_parallel`` on the node.

    ``waiting``: (worker number, UUIDs of its GPUs), in the order they became ready. ``running``: the GPUs of each
    set-up under way. Loading a model in many workers of one GPU at once fails (vllm#55827).
    """
    taken = {uuid for gpus in running for uuid in gpus}
    free = max_parallel - len(running)
    chosen = []
    for number, gpus in waiting:
        if free > 0 and taken.isdisjoint(gpus):
            chosen.append(number)
            taken.update(gpus)
            free -= 1
    return chosen
