"""Policies that users choose by an option."""

from __future__ import annotations

from enum import StrEnum


class BusyGpuPolicy(StrEnum):
    """What to do with a GPU that other processes hold (option ``busy_gpus``)."""

    ERROR = "error"
    SKIP = "skip"
    WAIT = "wait"


class TaskFailurePolicy(StrEnum):
    """What to do with a batch that keeps failing (option ``on_task_failure``)."""

    RAISE = "raise"
    QUARANTINE = "quarantine"
