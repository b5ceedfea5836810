"""How long tasks wait for a full batch: ``batch_wait_s``."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gpuexec.core.stage import StageState
from gpuexec.core.worker import Worker


class BatchWaits:
    """When batches that are not full are due."""

    def __init__(self) -> None:
        self._since = -math.inf  # the earliest time from which a wait counts

    def restart(self, now: float) -> None:
        """Count from now how long tasks wait: nothing was taken in while the caller was busy."""
        self._since = now

    def next_due(self, stages: Iterable[StageState], now: float) -> float | None:
        """Return when the next batch that is not full shall go. Those that are due wait for something else."""
        dues = [due for due in map(self._due_at, stages) if due is not None and due > now]
        return min(dues, default=None)

    def is_over(self, stage: StageState, ready: Iterable[Worker], now: float) -> bool:
        """Return whether a batch that is not full goes now. Where every worker is busy, waiting costs nothing."""
        due = self._due_at(stage)
        at_once = stage.spec.max_concurrency or 1
        return due is not None and now >= due and any(len(worker.in_flight) < at_once for worker in ready)

    def _due_at(self, stage: StageState) -> float | None:
        """Return when the tasks before a stage go as a batch that is not full; ``None`` where that is not the case."""
        queue, wait_s = stage.queue, stage.spec.limits.batch_wait_s
        if wait_s is None or stage.upstream_done or not 0 < len(queue) < stage.batch_size:
            return None
        return max(queue.oldest_at, self._since) + wait_s
