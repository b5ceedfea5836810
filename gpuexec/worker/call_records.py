"""Each call of a stage's ``process_batch`` on record, for a run whose caller asks for them one by one."""

from __future__ import annotations

from typing import Any


class CallRecords:
    """The calls since the last `take`. Those of a batch count when the batch is complete: else it is run again."""

    def __init__(self) -> None:
        self._current: list[tuple[int, float, float, Any]] = []
        self._complete: list[list[Any]] = []

    def begin(self) -> None:
        """Begin a batch. What was noted of one that has failed is dropped."""
        self._current.clear()

    def note(self, stage: int, began: float, ended: float, stats: Any) -> None:
        """Note a call that has returned. ``stage``: of the group. ``stats``: the adapter's, if any."""
        self._current.append((stage, began, ended, stats))

    def complete(self) -> None:
        """End a batch: its calls are done."""
        self._complete += [
            [stage, began, ended, ended - began, 0.0, 0, {}]
            if stats is None
            else [
                stage,
                began,
                ended,
                stats.process_time,
                stats.actor_idle_time,
                int(stats.num_items_processed),
                dict(stats.custom_metrics),
            ]
            for stage, began, ended, stats in self._current
        ]
        self._current.clear()

    def take(self) -> list[list[Any]] | None:
        """Return the calls of complete batches, as ``Results.calls`` has them, and forget them."""
        calls, self._complete = self._complete, []
        return calls or None
