"""Which GPUs may be used, given the processes of others on them."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.errors import GpusBusy, ResourcesError
from gpuexec.hardware.model import ComputeMode, Device
from gpuexec.plan.explain import describe
from gpuexec.plan.model import PlanOptions
from gpuexec.policies import BusyGpuPolicy


def usable_devices(devices: Sequence[Device], options: PlanOptions) -> tuple[list[Device], list[str]]:
    """Return the devices to plan with, and notes on those left out.

    Raises ``ResourcesError`` (policy error) or ``GpusBusy`` (policy wait).
    """
    usable, busy, notes = [], [], []
    for device in devices:
        if device.compute_mode is ComputeMode.PROHIBITED:
            notes.append(f"GPU {device.index} is in compute mode prohibited: no process may use it")
        elif _is_busy(device, options.busy_memory_fraction):
            busy.append(device)
        else:
            usable.append(device)
    if not busy:
        return usable, notes
    described = "; ".join(_describe_busy(device) for device in busy)
    if options.busy_gpus is BusyGpuPolicy.ERROR:
        raise ResourcesError(f"other processes hold GPUs (busy_gpus='error'): {described}")
    if options.busy_gpus is BusyGpuPolicy.WAIT:
        raise GpusBusy(f"other processes hold GPUs and did not free them in time (busy_gpus='wait'): {described}")
    notes += [f"left out, held by other processes: {_describe_busy(device)}" for device in busy]
    return usable, notes


def _is_busy(device: Device, max_used_fraction: float) -> bool:
    if device.compute_mode is ComputeMode.EXCLUSIVE_PROCESS and device.process_count:
        return True
    total, free = device.memory_total_bytes, device.memory_free_bytes
    if device.unified_memory or not total or free is None:
        return False  # unified memory is used by the whole system, which does not make the GPU busy
    return total - free > max_used_fraction * total


def _describe_busy(device: Device) -> str:
    processes = "" if device.process_count is None else f" ({device.process_count} process(es))"
    return describe(device) + processes
