"""The GPUs that Ray gave to this process, as an `Allocation` that stages read."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.hardware.model import Gpu
from gpuexec.policies import GpuPinning


def allocation_of(cpus: float, gpus: float, ids: Sequence[str], pinning: str, *, sees_gpus: bool) -> Allocation:
    """Return the allocation of a worker. ``ids``: what Ray says it may use, NVML indices or UUIDs.

    ``gpus``: how many, or which part of one. What NVML does not tell of a GPU is ``None`` in its share.
    """
    if not gpus:
        return Allocation(
            cpus=cpus, cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES", "") if sees_gpus else ""
        )
    known = _known_gpus()
    shares = tuple(_share(text, min(1.0, gpus), known.get(text)) for text in ids)
    by_uuid = pinning == GpuPinning.UUID and all(text in known for text in ids)
    names = [share.uuid for share in shares] if by_uuid else list(ids)
    return Allocation(gpus=shares, cpus=cpus, cuda_visible_devices=",".join(names))


def _known_gpus() -> dict[str, Gpu]:
    """Return this node's GPUs by index and by UUID, as texts; none where NVML is not usable."""
    from gpuexec.hardware.inventory import read_node

    gpus = [gpu for gpu in read_node().gpus if gpu.uuid]
    return {str(gpu.index): gpu for gpu in gpus} | {str(gpu.uuid): gpu for gpu in gpus}


def _share(text: str, fraction: float, gpu: Gpu | None) -> GpuShare:
    if gpu is None or gpu.uuid is None:
        return GpuShare(int(text) if text.isdigit() else -1, text, "unknown GPU", fraction, None, None)
    total = gpu.memory_total_bytes
    memory = None if total is None else int(total * fraction)
    return GpuShare(gpu.index, gpu.uuid, gpu.name or "unknown GPU", fraction, memory, total)
