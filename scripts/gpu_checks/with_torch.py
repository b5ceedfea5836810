"""CUDA through torch. See `library.Library`."""

from __future__ import annotations

import os
from typing import Any

import torch

from gpu_checks import driver_api
from gpu_checks.stages import Looks

NAME, VERSION = "torch", str(torch.__version__)


class WarmStage(Looks):
    """Its module imports torch."""


def visible_uuids() -> list[str]:
    count = torch.cuda.device_count()
    if not count:
        torch.cuda.init()  # says why there is none
    properties = [torch.cuda.get_device_properties(ordinal) for ordinal in range(count)]
    is_mig = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-")
    # For a MIG slice, some versions of CUDA's runtime give the UUID of its GPU; torch before 2.4 gives none.
    if is_mig or not all(hasattr(each, "uuid") for each in properties):
        return driver_api.visible_uuids()
    return [str(each.uuid) for each in properties]


def hold(ordinal: int, size: int) -> Any:
    held = torch.ones(size, dtype=torch.uint8, device=f"cuda:{ordinal}")
    torch.cuda.synchronize(ordinal)
    return [held]


def release(held: Any) -> None:
    held.clear()
    torch.cuda.empty_cache()


def allocated_bytes(ordinal: int) -> int:
    return int(torch.cuda.memory_allocated(ordinal))


def multiply(ordinal: int) -> None:
    matrix = torch.ones(4096, 4096, dtype=torch.float16, device=f"cuda:{ordinal}")
    for _ in range(20):
        matrix @ matrix  # the product itself is not wanted
    torch.cuda.synchronize(ordinal)


def trip(ordinal: int) -> None:
    values = torch.zeros(8, device=f"cuda:{ordinal}")
    values[torch.tensor([1_000_000], device=f"cuda:{ordinal}")]  # the kernel asserts that the index is in bounds
    torch.cuda.synchronize(ordinal)
