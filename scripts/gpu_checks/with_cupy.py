"""CUDA through cupy. See `library.Library`."""

from __future__ import annotations

from typing import Any

import cupy

from gpu_checks import driver_api
from gpu_checks.stages import Looks

NAME, VERSION = "cupy", str(cupy.__version__)

_TRAP = 'extern "C" __global__ void fail() { asm("trap;"); }'  # an assertion of cupy's compiler needs headers of CUDA


class WarmStage(Looks):
    """Its module imports cupy."""


def visible_uuids() -> list[str]:
    return driver_api.visible_uuids()


def hold(ordinal: int, size: int) -> Any:
    with cupy.cuda.Device(ordinal):
        held = cupy.ones(size, dtype=cupy.uint8)
        cupy.cuda.get_current_stream().synchronize()
    return [held]


def release(held: Any) -> None:
    held.clear()
    cupy.get_default_memory_pool().free_all_blocks()


def allocated_bytes(ordinal: int) -> int:
    with cupy.cuda.Device(ordinal):
        return int(cupy.get_default_memory_pool().used_bytes())


def multiply(ordinal: int) -> None:
    with cupy.cuda.Device(ordinal):
        matrix = cupy.ones((4096, 4096), dtype=cupy.float16)
        for _ in range(20):
            matrix @ matrix  # the product itself is not wanted
        cupy.cuda.get_current_stream().synchronize()


def trip(ordinal: int) -> None:
    with cupy.cuda.Device(ordinal):
        cupy.RawKernel(_TRAP, "fail")((1,), (1,), ())
        cupy.cuda.get_current_stream().synchronize()
