"""What one of several stages in a worker has done, counted until it is sent to the driver."""

from __future__ import annotations

from typing import Any

from gpuexec.channel.messages import BatchStats
from gpuexec.contract.metrics import add_metrics

_WEIGHT = 0.2  # of the newest time in a running mean


class StageTotals:
    """What one stage has done since the last flush. ``task_s``: running mean of a task, ``None`` before the first."""

    __slots__ = ("stats", "task_s", "tasks_out")

    def __init__(self) -> None:
        self.task_s: float | None = None
        self.clear()

    def clear(self) -> None:
        """Begin anew after a flush."""
        self.stats = BatchStats()
        self.tasks_out = 0

    def to_list(self) -> list[Any]:
        """Return the number of outputs and the stats, for ``Results.stage_stats``."""
        return [self.tasks_out, *self.stats.to_list()]

    def learn(self, seconds: float) -> None:
        """Take note of how long a task took, of a batch that may still fail."""
        mean = self.task_s
        self.task_s = seconds if mean is None else mean + _WEIGHT * (seconds - mean)

    def add(self, batch_id: int, began: float, seconds: float, at_input: int, tasks_out: int, own: Any) -> None:
        """Count one task of a complete batch. ``own``: the stats that the stage's adapter made, if any."""
        stats = self.stats
        stats.batches += 1
        stats.tasks_in += 1
        stats.process_s += seconds
        stats.began = stats.began or began
        stats.ended = began + seconds
        stats.note_time(seconds, batch_id, at_input)
        self.tasks_out += tasks_out
        if own is not None:
            stats.items += int(own.num_items_processed)
            if own.custom_metrics:
                add_metrics(stats.metrics, own.custom_metrics)
