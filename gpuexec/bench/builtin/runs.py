"""Runs of pipelines whose times are measured: each leaves no folder and draws no progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from gpuexec.bench.builtin.stages import Piece
from gpuexec.executors.local import LocalExecutor

_QUIET: dict[str, Any] = {"show_progress": False, "run_dir": None, "capsules": False, "log_level": "ERROR"}


def executor(**options: Any) -> LocalExecutor:
    """Return an executor whose runs leave nothing behind."""
    return LocalExecutor(**{**_QUIET, "fusion": "off", **options})


def pieces(values: Iterable[Any]) -> list[Piece]:
    """Return a task for each value."""
    return [Piece("builtin", value) for value in values]


def results_per_s(stages: Sequence[Any], tasks: Sequence[Piece], **options: Any) -> float:
    """Run stages and return the results a second, from the first one to the last."""
    first = last = 0.0
    count = 0
    for _ in executor(**options).execute_iter(stages, tasks):
        last = time.monotonic()
        first = first or last
        count += 1
    return (count - 1) / (last - first)


def seconds_to_first_result(stages: Sequence[Any], **options: Any) -> float:
    """Run stages with one task and return the seconds from the call to its result."""
    began = time.monotonic()
    executor(**options).execute(stages, pieces([0]))
    return time.monotonic() - began
