"""What a worker was given: the value in ``WorkerMetadata.allocation``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gpuexec.records import Record
from gpuexec.units import MIB

CONTEXT_BYTES = 512 * MIB
"""What a CUDA context takes of a GPU outside every allocator: its own structures and the kernels that are loaded.

An estimate for GPUs of 2020 and later with lazily loaded kernels (CUDA 12). NVIDIA states no figure.
"""

_VLLM_FRACTION = 0.9  # vLLM's default for a GPU of its own; the rest is for what it does not count
_ROUNDING = 1e-9  # floats lie on either side of a thousandth


class GpuShare(Record):
    """A worker's share of one GPU or MIG slice.

    ``fraction`` is exact to the thousandth. ``memory_bytes``: the part of the device's memory that the plan reserved
    for the worker, its CUDA context included. ``memory_total_bytes``: the size of the device. Both are ``None`` where
    the device's size is unknown. The planner promises the share to no other worker; how the worker is held to it says
    docs/gpu-shares.md.
    """

    index: int
    uuid: str
    name: str
    fraction: float
    memory_bytes: int | None
    memory_total_bytes: int | None = None

    @property
    def is_partial(self) -> bool:
        """Whether other workers may share the device."""
        return self.fraction < 1.0

    @property
    def allocator_bytes(self) -> int | None:
        """The bytes that allocators in the worker may take: the share without `CONTEXT_BYTES`, and half of it at least.

        ``None`` if the size of the share is unknown.
        """
        return None if self.memory_bytes is None else self.memory_bytes - min(CONTEXT_BYTES, self.memory_bytes // 2)

    @property
    def allocator_fraction(self) -> float:
        """The same as a fraction of the device; `fraction` if the size of the device is unknown."""
        if self.allocator_bytes is None or not self.memory_total_bytes:
            return self.fraction
        return self.allocator_bytes / self.memory_total_bytes


class Allocation(Record):
    """CPUs and GPUs of one worker. ``cuda_visible_devices`` is the value set in its environment."""

    gpus: tuple[GpuShare, ...] = ()
    cpus: float = 1.0
    cuda_visible_devices: str = ""

    @property
    def device_ids(self) -> tuple[int, ...]:
        """NVML indices of the worker's GPUs, in the order in which CUDA numbers them in the worker."""
        return tuple(share.index for share in self.gpus)

    @property
    def gpu_memory_utilization(self) -> float | None:
        """What a vLLM stage passes as ``gpu_memory_utilization``; ``None`` without a GPU.

        vLLM reads it as a fraction of the whole device, whatever else is there. Its default of 0.9 for a device of its
        own leaves a tenth for what it does not count: the CUDA context, CUDA graphs, fragmentation. A share is treated
        alike: 0.9 * ``memory_bytes`` / ``memory_total_bytes``, rounded down to thousandths. For ``gpu_memory_gb=20`` on
        80 GiB that is 0.225. Of several GPUs, the smallest value counts.
        """
        parts = [
            share.fraction
            if share.memory_bytes is None or not share.memory_total_bytes
            else share.memory_bytes / share.memory_total_bytes
            for share in self.gpus
        ]
        return math.floor(_VLLM_FRACTION * min(parts) * 1000 + _ROUNDING) / 1000 if parts else None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Allocation:
        """Build an allocation from what `to_dict` returned. Raises ``TypeError`` for unknown or missing fields."""
        return cls(**{**fields, "gpus": tuple(GpuShare(**share) for share in fields.get("gpus", ()))})
