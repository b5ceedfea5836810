"""What the checks have to work with: the GPUs, the library, and what the command line says."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from gpu_checks.library import Library, load
from gpu_checks.results import CannotCheck
from gpuexec import LocalExecutor, Node, read_node
from gpuexec.hardware.model import Device
from gpuexec.hardware.tenants import Tenant, uses_of
from gpuexec.hardware.visible_devices import select
from gpuexec.units import GIB

_OTHERS = (Tenant.COMPUTE, Tenant.RUN, Tenant.UNLISTED)


class Machine:
    """Read when first asked. ``folder``: of this check alone, removed after it.

    ``library_name``: of the library for CUDA, ``None`` if there is none, and ``no_library`` says
    why. ``window_s``: seconds over which energy is measured.
    """

    def __init__(self, folder: Path, library_name: str | None, no_library: str, window_s: float) -> None:
        self.folder = folder
        self.library_name = library_name
        self.no_library = no_library
        self.window_s = window_s

    @cached_property
    def node(self) -> Node:
        """The node. Raises `CannotCheck` without a GPU."""
        node = read_node()
        if not node.gpus:
            raise CannotCheck(f"no GPU: {node.no_gpus_reason or 'NVML lists none'}")
        return node

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """What CUDA may use here, in its order: GPUs and MIG slices."""
        found = select(self.node.gpus, os.environ).devices
        if not found:
            raise CannotCheck("CUDA_VISIBLE_DEVICES selects none of this machine's GPUs, or all of them are lost")
        return found

    @property
    def library(self) -> Library:
        """The library for CUDA. Raises `CannotCheck` if there is none."""
        if self.library_name is None:
            raise CannotCheck(self.no_library)
        return load(self.library_name)

    @property
    def cuda(self) -> str:
        """The name of the library for CUDA, for stages. Raises `CannotCheck` if there is none."""
        _ = self.library
        return str(self.library_name)

    def free_devices(self, memory_bytes: int = 0) -> list[Device]:
        """Return the devices that nobody uses and that have so much memory free. Raises `CannotCheck` if none is."""
        free = [
            device for device in self.devices if (device.memory_free_bytes or 0) >= memory_bytes and _is_idle(device)
        ]
        if not free:
            raise CannotCheck(
                f"no GPU is idle with {memory_bytes / GIB:g} GiB free: end what uses them, then try again"
            )
        return free

    def supports(self, option: str) -> None:
        """Raise `CannotCheck` if this version of the executor has no such option."""
        from gpuexec.options import LocalOptions

        if option not in LocalOptions.__annotations__:
            raise CannotCheck(f"this version of gpuexec has no option {option}")


def executor(**options: object) -> LocalExecutor:
    """Return an executor that writes nothing to disk and draws nothing."""
    return LocalExecutor(**{"show_progress": False, "run_dir": None, "capsules": False, **options})


def _is_idle(device: Device) -> bool:
    """Whether other processes that compute hold at most a hundredth of its memory."""
    total = device.memory_total_bytes or 0
    others = [use for use in uses_of(device) if use.tenant in _OTHERS]
    return all(use.used_bytes is not None and use.used_bytes <= total / 100 for use in others)
