"""Stands for a library that uses CUDA, on a simulated node: ``scripts/gpu-check --library tests.nvml_sim.cuda``.

It sees the devices that CUDA_VISIBLE_DEVICES selects. What it holds is listed by the driver library while its process
lives. See ``gpu_checks.library.Library``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import weakref
from pathlib import Path
from typing import Any

from gpu_checks.stages import Looks

from gpuexec import read_node
from gpuexec.hardware.visible_devices import select
from tests.nvml_sim.simulator import VARIABLE, SimulatedNode

NAME, VERSION = "simulated", "1"

_held: dict[int, int] = {}
_is_broken = False


class OutOfMemoryError(RuntimeError):
    """Called as torch's own, by which gpuexec knows it."""

    __module__ = "torch"


class WarmStage(Looks):
    """Its module imports this library."""


def visible_uuids() -> list[str]:
    return [device.uuid for device in select(read_node().gpus, os.environ).devices]


def hold(ordinal: int, size: int) -> Any:
    if _is_broken:
        raise RuntimeError("CUDA error: device-side assert triggered")
    device = select(read_node().gpus, os.environ).devices[ordinal]
    if device.memory_free_bytes is not None and size > device.memory_free_bytes:
        raise OutOfMemoryError("CUDA out of memory")
    _change(device.index, size)
    held = _Held()
    held.free = weakref.finalize(held, _change, device.index, -size)
    held.free.atexit = False  # the process's end frees it
    return held


class _Held:
    """Memory that is freed with the last reference to it, as that of a tensor."""

    free: Any


def release(held: Any) -> None:
    held.free()


def allocated_bytes(ordinal: int) -> int:
    return _held.get(select(read_node().gpus, os.environ).devices[ordinal].index, 0)


def multiply(ordinal: int) -> None:
    time.sleep(0.01)


def trip(ordinal: int) -> None:
    global _is_broken  # noqa: PLW0603 - as a CUDA context is, for good
    _is_broken = True
    hold(ordinal, 0)


def _change(index: int, size: int) -> None:
    """Hold more or less of a GPU; other processes change the same description."""
    path = Path(os.environ[VARIABLE])
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        description = json.loads(path.read_text())
        gpu = description["gpus"][index]
        _held[index] = _held.get(index, 0) + size
        others = [process for process in gpu.get("processes", []) if process["pid"] != os.getpid()]
        mine = {"pid": os.getpid(), "used_bytes": _held[index], "while_alive": True}
        gpu["processes"] = [*others, *([mine] if _held[index] else [])]
        SimulatedNode(path, description)
