"""What a worker was given: the value in ``WorkerMetadata.allocation``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gpuexec.records import Record


class GpuShare(Record):
    """A worker's share of one GPU or MIG slice.

    ``fraction`` is exact to the thousandth. ``memory_bytes`` is the part of the device's memory that the plan
    reserved for the worker (``None`` where the device's size is unknown). Nothing enforces either; the planner
    only promises not to give the same share to another worker.
    """

    index: int
    uuid: str
    name: str
    fraction: float
    memory_bytes: int | None


class Allocation(Record):
    """CPUs and GPUs of one worker. ``cuda_visible_devices`` is the value set in its environment."""

    gpus: tuple[GpuShare, ...] = ()
    cpus: float = 1.0
    cuda_visible_devices: str = ""

    @property
    def device_ids(self) -> tuple[int, ...]:
        """NVML indices of the worker's GPUs, in the order in which CUDA numbers them in the worker."""
        return tuple(share.index for share in self.gpus)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Allocation:
        """Build an allocation from what `to_dict` returned. Raises ``TypeError`` for unknown or missing fields."""
        return cls(**{**fields, "gpus": tuple(GpuShare(**share) for share in fields.get("gpus", ()))})
