"""The options of the executors as types, for editors and type checkers.

    options: LocalOptions = {"max_attempts": 5, "retry_on": ConnectionError}
    LocalExecutor(**options)

``gpuexec.config.ExecutorConfig`` says what each of them means, and has the defaults; a test holds the two against each
other. `gpuexec options` and docs/options.md list them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from gpuexec.policies import (
    BusyGpuPolicy,
    FusionPolicy,
    GpuPinning,
    MpsPolicy,
    ShareEnforcement,
    StartMethod,
    TaskFailurePolicy,
)

FolderPath: TypeAlias = str | os.PathLike[str]
ExceptionNames: TypeAlias = type[BaseException] | str | Collection[type[BaseException] | str]  # one or several
LogLevel: TypeAlias = Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]


class StageOptions(TypedDict, total=False):
    """Options of ``LocalExecutor`` that a single stage may have too: of ``with_()`` and ``stage_options``."""

    share_enforcement: Literal["auto", "off", "strict"] | ShareEnforcement
    fusion: Literal["auto", "off"] | FusionPolicy
    batch_wait_s: float | None
    stop_timeout_s: float
    max_attempts: int
    on_task_failure: Literal["raise", "quarantine"] | TaskFailurePolicy
    max_quarantined: float | None
    retry_delay_s: float
    retry_on: ExceptionNames
    retire_on: ExceptionNames
    split_on_oom: bool
    batch_timeout_s: float | None
    setup_timeout_s: float | None
    max_batches_per_worker: int | None
    max_worker_lifetime_s: float | None
    max_concurrency: int | None
    worker_memory_limit_bytes: int | None


class InlineOptions(TypedDict, total=False):
    """Options that have an effect in both executors. ``InlineExecutor`` takes the others too, and ignores them."""

    show_progress: bool
    progress_interval_s: float
    prometheus_port: int | None
    cpus: float | None
    reserved_cpus: float
    reserved_gpus: float
    busy_gpus: Literal["error", "skip", "wait"] | BusyGpuPolicy
    busy_gpu_memory_fraction: float
    busy_gpu_timeout_s: float
    lease_dir: FolderPath | None
    cpu_stages_see_gpus: bool
    max_concurrency: int | None
    gpu_pinning: Literal["uuid", "index"] | GpuPinning
    run_dir: FolderPath | None
    task_seed: int | None
    shard: str | None
    runtime_env: Mapping[str, Any] | None
    accept_unmet_requirements: bool


class LocalOptions(InlineOptions, StageOptions, total=False):
    """All options of ``LocalExecutor``."""

    sample_interval_s: float | None
    mps: Literal["off", "auto", "start"] | MpsPolicy
    queue_tasks: int
    queue_bytes: int
    spill_dir: FolderPath | None
    start_method: Literal["warm", "spawn"] | StartMethod
    warm_idle_s: float
    max_parallel_setups: int
    memory_high_watermark: float
    checkpoint: FolderPath | None
    accept_changed_pipeline: bool
    capsules: bool
    capsule_dir: FolderPath | None
    log_level: LogLevel
    stage_options: Mapping[str, StageOptions] | None
