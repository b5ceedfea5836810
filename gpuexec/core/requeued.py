"""Which workers get the batches that are run again: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpuexec.core import decide
from gpuexec.core.batch import Batch
from gpuexec.core.worker import Worker


class Dealt(NamedTuple):
    """``sent``: workers with the batches that they get now. ``others``: the workers that may get other batches."""

    sent: list[tuple[Worker, list[Batch]]]
    others: list[Worker]


def deal_requeued(due: Sequence[Batch], ready: Sequence[Worker], in_flight: Sequence[int], limit: int) -> Dealt:
    """Deal batches that are due, the first ones first, to workers that are ready.

    Each goes alone to a worker with nothing in flight. This way the worker's earlier results reach us before it starts
    a batch that may kill it. Of an asynchronous stage, a batch that raised or was cancelled waits for no other: it goes
    to a worker with ``in_flight`` below ``limit``, beside other batches.
    """
    beside = [batch for batch in due if not goes_alone(batch)]
    alone = [batch for batch in due if goes_alone(batch)]
    sent: list[tuple[Worker, list[Batch]]] = []
    at = 0
    for worker, count in zip(ready, decide.share_out(len(beside), in_flight, limit), strict=True):
        if count:
            sent.append((worker, beside[at : at + count]))
            at += count
    busy = {worker.number for worker, _ in sent}
    by_load = sorted(ready, key=lambda worker: len(worker.in_flight) + (worker.number in busy))
    chosen, others = by_load[: len(alone)], by_load[len(alone) :]
    free = [worker for worker in chosen if not worker.in_flight and worker.number not in busy]
    sent += [(worker, [batch]) for worker, batch in zip(free, alone, strict=False)]
    return Dealt(sent, others)


def goes_alone(batch: Batch) -> bool:
    """Return whether a batch is sent alone: one that is run again, unless it was beside others and left them alone."""
    if not batch.requeued:
        return False
    if batch.stage.spec.max_concurrency is None or batch.lifecycle is None:
        return True
    return batch.lifecycle.history[-1].failure.kind.takes_worker


def has_lone_batch(worker: Worker) -> bool:
    """Return whether a worker has a batch that was sent alone."""
    return len(worker.in_flight) == 1 and goes_alone(next(iter(worker.in_flight.values())))
