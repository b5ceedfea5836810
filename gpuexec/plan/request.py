"""A stage's demand in exact numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gpuexec.errors import ConfigurationError
from gpuexec.plan.model import StageDemand
from gpuexec.units import GIB

WHOLE = 1000  # thousandths of a GPU


@dataclass(frozen=True, slots=True)
class Request:
    """What one worker needs: ``count`` whole GPUs, or ``share`` thousandths or ``memory`` bytes of one."""

    stage: int
    demand: StageDemand
    count: int = 0
    share: int = 0
    memory: int = 0

    @property
    def uses_gpu(self) -> bool:
        """Whether it needs a device at all."""
        return bool(self.count or self.share or self.memory)

    def for_count(self, workers: int) -> Request:
        """The same with a number of workers that the stage insists on."""
        return replace(self, demand=replace(self.demand, num_workers=max(1, workers)))

    def describe(self) -> str:
        """Say it in the user's words."""
        if self.memory:
            return f"gpu_memory_gb={self.demand.gpu_memory_gb:g}"
        return f"gpus={self.demand.gpus:g}"


def request_of(stage: int, demand: StageDemand) -> Request:
    """Make a demand exact: GPU fractions to thousandths (half up, at least one), memory to bytes.

    Raises ``ConfigurationError`` for what has no meaning.
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
        return Request(stage, demand, memory=math.ceil(demand.gpu_memory_gb * GIB))
    if demand.gpus > 1 and demand.gpus != int(demand.gpus):
        raise ConfigurationError(
            f"stage {demand.name!r} asks for gpus={demand.gpus:g}: above one GPU only whole numbers are possible"
        )
    if demand.gpus >= 1:
        return Request(stage, demand, count=int(demand.gpus))
    share = max(1, math.floor(demand.gpus * WHOLE + 0.5)) if demand.gpus else 0
    return Request(stage, demand, count=1) if share == WHOLE else Request(stage, demand, share=share)
