"""The figures of a slice of batches: how many, how long, and what the stage has logged with ``_log_metric``."""

from __future__ import annotations

import math

from gpuexec.channel.messages import BatchStats
from gpuexec.report.trace_names import quoted

MOST_NAMES = 100  # of logged figures in a trace: a stage may log each under another name, and a slice must stay small

_OWN = ("batches", "tasks", "tasks_out", "process_s")


class Amounts:
    """Makes the figures of slices, all of which add up. Their names are the inner parts of JSON texts."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}  # by name, of what was logged

    def of(self, stats: BatchStats, tasks_out: int) -> dict[str, float]:
        """Return the figures of one or several batches; of those that were logged, the sums of the finite ones."""
        amounts: dict[str, float] = {
            "batches": stats.batches,
            "tasks": stats.tasks_in,
            "tasks_out": tasks_out,
            "process_s": stats.process_s,
        }
        for name, value in stats.metrics.items():
            key = self._keys.get(name) or self._new_key(name)
            if key and math.isfinite(value):
                amounts[key] = value
        return amounts

    def _new_key(self, name: str) -> str:
        """Return the key of a figure, nothing if it is not shown: the executor's own are in the report."""
        if name.startswith("gpuexec.") or len(self._keys) >= MOST_NAMES:
            return ""
        shown = f"{name} (logged)" if name in _OWN else name
        key = self._keys[name] = quoted(shown)[1:-1]
        return key
