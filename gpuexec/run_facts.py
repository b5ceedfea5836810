"""What a run is: facts that its first event carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuexec.records import Record


class StageFacts(Record):
    """What a stage is and asks for. ``gpu_memory_gb`` is in GiB; ``num_workers`` is its own fixed count, if any."""

    name: str
    class_name: str
    batch_size: int
    cpus: float
    gpus: float
    gpu_memory_gb: float
    num_workers: int | None


class RunFacts(Record):
    """What a run is.

    ``run_id``: six hexadecimal digits. ``pipeline``: the pipeline's name; "pipeline" if the executor was called
    without one. ``executor``: "local" or "inline".
    ``options``: those that differ from the defaults. ``versions``: of this program's libraries, as far as they are
    imported. ``node``: hostname, cpus, memory_bytes, platform, kernel; ``usable_cpus`` and ``devices``: what the
    planner could give to workers.
    """

    run_id: str = ""
    pipeline: str = "pipeline"
    executor: str = "local"
    options: Mapping[str, Any] = {}
    versions: Mapping[str, str] = {}
    node: Mapping[str, Any] = {}
    stages: tuple[StageFacts, ...] = ()
