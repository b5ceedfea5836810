"""Timing stats that travel with tasks."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpuexec.contract.metrics import merge_metrics
from gpuexec.units import MIB

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import StageLike


@dataclass(slots=True, weakref_slot=True)
class StagePerfStats:
    """What one batch cost in one stage. All tasks of the batch share the object.

    Times are in seconds. ``input_data_size_mb`` is kept for compatibility with NeMo Curator, where it holds
    the number of items divided by 2**20. True sizes are in ``custom_metrics["gpuexec.input_bytes"]``.
    """

    stage_name: str
    process_time: float = 0.0
    actor_idle_time: float = 0.0
    input_data_size_mb: float = 0.0
    num_items_processed: int = 0
    custom_metrics: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: StagePerfStats) -> StagePerfStats:
        """Add the stats of two batches. Of memory peaks, the larger one is kept."""
        if not isinstance(other, StagePerfStats):
            return NotImplemented
        return StagePerfStats(
            stage_name=self.stage_name,
            process_time=self.process_time + other.process_time,
            actor_idle_time=self.actor_idle_time + other.actor_idle_time,
            input_data_size_mb=self.input_data_size_mb + other.input_data_size_mb,
            num_items_processed=self.num_items_processed + other.num_items_processed,
            custom_metrics=merge_metrics(self.custom_metrics, other.custom_metrics),
        )

    def __radd__(self, other: object) -> StagePerfStats:
        """Let ``sum()`` start from 0."""
        if other == 0:
            return self
        return NotImplemented

    def reset(self) -> None:
        """Set all stats to zero."""
        self.process_time = self.actor_idle_time = self.input_data_size_mb = 0.0
        self.num_items_processed = 0
        self.custom_metrics = {}

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the fields as a dict."""
        return dataclasses.asdict(self)

    def items(self) -> list[tuple[str, float | int]]:
        """Return (name, value) of all stats; custom metrics are named ``custom.<key>``."""
        stats = self.to_dict()
        del stats["stage_name"]
        custom = stats.pop("custom_metrics")
        return [*stats.items(), *((f"custom.{key}", value) for key, value in custom.items())]


class StageTimer:
    """Times the batches of one stage in one worker, on the monotonic clock."""

    def __init__(self, stage: StageLike) -> None:
        self._stage_name = str(stage.name)
        self._active_until: float | None = None
        self._start = time.monotonic()
        self._idle_s = 0.0
        self._input_size = 0
        self._num_items = 0
        self._durations_s: list[float] = []

    def reinit(self, stage_input_size: int = 1) -> None:
        """Begin a batch of ``stage_input_size`` items. Time before the first batch does not count as idle."""
        self._start = time.monotonic()
        self._idle_s = 0.0 if self._active_until is None else self._start - self._active_until
        self._input_size = stage_input_size
        self._num_items = 0
        self._durations_s = []

    @contextlib.contextmanager
    def time_process(self, num_items: int = 1) -> Iterator[None]:
        """Time the processing of ``num_items`` items."""
        started = time.monotonic()
        yield
        self._num_items += num_items
        if num_items:
            self._durations_s.append((time.monotonic() - started) / num_items)

    def count(self, num_items: int) -> None:
        """Record that ``num_items`` items were processed since ``reinit``, like `time_process` of the whole batch."""
        self._num_items += num_items
        if num_items:
            self._durations_s.append((time.monotonic() - self._start) / num_items)

    def log_stats(self, *, verbose: bool = False) -> tuple[str, StagePerfStats]:
        """End the batch; return the stage's name and the batch's stats."""
        now = time.monotonic()
        self._active_until = now
        stats = StagePerfStats(  # by position, which is faster
            self._stage_name, now - self._start, self._idle_s, self._input_size / MIB, self._num_items
        )
        if verbose:
            from loguru import logger

            each = sum(self._durations_s) / max(1, len(self._durations_s))
            logger.info(
                "{}: {} items in {:.3f} s ({:.4f} s each), idle {:.3f} s before",
                self._stage_name,
                stats.num_items_processed,
                stats.process_time,
                each,
                stats.actor_idle_time,
            )
        return self._stage_name, stats
