"""Policies that users choose by an option."""

from __future__ import annotations

from enum import StrEnum


class BusyGpuPolicy(StrEnum):
    """What to do with a GPU that other processes hold (option ``busy_gpus``)."""

    ERROR = "error"
    SKIP = "skip"
    WAIT = "wait"


class FusionPolicy(StrEnum):
    """Whether neighbouring light stages share their workers (option ``fusion``)."""

    AUTO = "auto"
    OFF = "off"


class GpuPinning(StrEnum):
    """How CUDA_VISIBLE_DEVICES names a worker's GPUs (option ``gpu_pinning``)."""

    UUID = "uuid"
    INDEX = "index"


class MpsPolicy(StrEnum):
    """Whether workers get limits of NVIDIA's Multi-Process Service, and who starts it (option ``mps``)."""

    OFF = "off"
    AUTO = "auto"
    START = "start"


class ShareEnforcement(StrEnum):
    """How a worker is held to its share of a GPU's memory (option ``share_enforcement``)."""

    AUTO = "auto"
    OFF = "off"
    STRICT = "strict"


class StartMethod(StrEnum):
    """How worker processes start (option ``start_method``)."""

    WARM = "warm"
    SPAWN = "spawn"


class TaskFailurePolicy(StrEnum):
    """What to do with a batch that keeps failing (option ``on_task_failure``)."""

    RAISE = "raise"
    QUARANTINE = "quarantine"
