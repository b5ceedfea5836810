"""What a run is: facts that its first event carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuexec.records import Record


class StageFacts(Record):
    """What a stage is and asks for. ``gpu_memory_gb`` is in GiB; ``num_workers`` is its own fixed count, if any.

    ``max_concurrency``: how many calls a worker has in flight at most; ``None`` for a stage that is not asynchronous.
    """

    name: str
    class_name: str
    batch_size: int
    cpus: float
    gpus: float
    gpu_memory_gb: float
    num_workers: int | None
    max_concurrency: int | None = None


class HostState(Record):
    """The machine at one moment, with whatever else runs on it. ``None``: not readable.

    ``load_1m``: the kernel's load average over the last minute, in tasks that run or wait for a CPU or a disk.
    ``memory_available_bytes``: what programs can still get, page cache included (``MemAvailable`` of the kernel).
    """

    load_1m: float | None = None
    memory_available_bytes: int | None = None


class RunFacts(Record):
    """What a run is.

    ``run_id``: six hexadecimal digits. ``pipeline``: the pipeline's name; "pipeline" if the executor was called
    without one. ``executor``: "local", "inline" or "ray".
    ``options``: those that differ from the defaults. ``versions``: of this program's libraries, as far as they are
    imported. ``node``: hostname, cpus, memory_bytes, platform, kernel; ``usable_cpus`` and ``devices``: what the
    planner could give to workers. ``host``: the machine before the run.
    """

    run_id: str = ""
    pipeline: str = "pipeline"
    executor: str = "local"
    options: Mapping[str, Any] = {}
    versions: Mapping[str, str] = {}
    node: Mapping[str, Any] = {}
    stages: tuple[StageFacts, ...] = ()
    host: HostState = HostState()
