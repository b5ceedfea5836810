"""A stage's demand in exact numbers."""

from __future__ import annotations

import math
from dataclasses import replace

from gpuexec.errors import ConfigurationError
from gpuexec.planning.model import StageDemand
from gpuexec.records import Record
from gpuexec.units import GIB

WHOLE_GPU = 1000  # thousandths
_MIN_CPUS = 0.25  # a process that asks for (almost) nothing still needs some
_CPU_ROUNDING = 1e-9  # sums of floats: ten workers of 0.1 CPUs fit one CPU


class Request(Record):
    """What one worker needs: ``count`` whole GPUs, or ``share`` thousandths or ``memory`` bytes of one."""

    stage_index: int
    demand: StageDemand
    count: int = 0
    share: int = 0
    memory: int = 0

    @property
    def uses_gpu(self) -> bool:
        """Whether it needs a device at all."""
        return bool(self.count or self.share or self.memory)

    def with_fixed_count(self, workers: int) -> Request:
        """Return the same request of a stage that insists on this number of workers (at least one)."""
        return replace(self, demand=replace(self.demand, num_workers=max(1, workers)))

    def describe(self) -> str:
        """Return the request as the user wrote it."""
        if self.memory:
            return f"gpu_memory_gb={self.demand.gpu_memory_gb:g}"
        return f"gpus={self.demand.gpus:g}"


def request_of(stage_index: int, demand: StageDemand) -> Request:
    """Make a demand exact: GPU fractions to thousandths (half up, at least one), memory to bytes.

    Raises ``ConfigurationError`` for a demand that has no meaning.
    """
    for field in ("cpus", "gpus", "gpu_memory_gb"):
        value = getattr(demand, field)
        if not math.isfinite(value) or value < 0:
            raise ConfigurationError(f"stage {demand.name!r}: {field}={value!r} must be a finite number >= 0")
    if demand.gpus and demand.gpu_memory_gb:
        raise ConfigurationError(
            f"stage {demand.name!r} asks for gpus={demand.gpus:g} and gpu_memory_gb={demand.gpu_memory_gb:g}: "
            "give only one of them"
        )
    if demand.num_workers is not None and demand.num_workers < 1:
        raise ConfigurationError(f"stage {demand.name!r}: num_workers={demand.num_workers} must be at least 1")
    if demand.gpu_memory_gb:
        return Request(stage_index, demand, memory=math.ceil(demand.gpu_memory_gb * GIB))
    if demand.gpus > 1 and demand.gpus != int(demand.gpus):
        raise ConfigurationError(
            f"stage {demand.name!r} asks for gpus={demand.gpus:g}: above one GPU only whole numbers are possible"
        )
    if demand.gpus >= 1:
        return Request(stage_index, demand, count=int(demand.gpus))
    share = max(1, math.floor(demand.gpus * WHOLE_GPU + 0.5)) if demand.gpus else 0
    if share == WHOLE_GPU:
        return Request(stage_index, demand, count=1)
    return Request(stage_index, demand, share=share)


def cpus_of(request: Request) -> float:
    """Return the CPUs that one worker takes from the budget."""
    return max(request.demand.cpus, _MIN_CPUS)


def fits_cpus(needed: float, free: float) -> bool:
    """Return whether ``needed`` CPUs fit into ``free`` ones, up to rounding."""
    return needed <= free + _CPU_ROUNDING


def max_workers_on_cpus(request: Request, free: float) -> int:
    """Return how many workers ``free`` CPUs are enough for, up to rounding."""
    return math.floor((free + _CPU_ROUNDING) / cpus_of(request))
