"""Errors for demands that can never be met: which stage, what it asks for, what the node has."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.errors import ResourcesError
from gpuexec.hardware.model import ComputeMode, Device
from gpuexec.hardware.tenants import uses_of
from gpuexec.planning.ledger import Ledger
from gpuexec.planning.request import WHOLE_GPU, Request
from gpuexec.units import GIB


def refuse_cpus(request: Request, usable_cpus: float, total_cpus: float, reserved: float) -> ResourcesError:
    """Return the error for a stage whose single worker asks for more CPUs than there are."""
    kept = f" ({total_cpus:g} in the affinity mask and quota − {reserved:g} reserved)" if reserved else ""
    return ResourcesError(
        f"stage {request.demand.name!r} asks for cpus={request.demand.cpus:g} for one worker, "
        f"but this node has {usable_cpus:g} usable CPU(s){kept}; lower Resources(cpus=…)"
    )


def refuse_gpus(
    request: Request, ledger: Ledger, notes: Sequence[str], no_devices_reason: str | None
) -> ResourcesError:
    """Return the error for a stage that does not fit the devices even alone."""
    name, wanted = request.demand.name, request.describe()
    workers = request.demand.fewest
    if not ledger.slots:
        reason = no_devices_reason or "; ".join(notes) or "the node has no usable GPU"
        return ResourcesError(f"stage {name!r} asks for {wanted}, but there is no GPU for it: {reason}")
    each = f"{workers} workers of {wanted} each" if workers > 1 else wanted
    lines = [f"stage {name!r} asks for {each}, which can never fit here: {_arithmetic(request, ledger)}"]
    for slot in ledger.slots:
        lines.append(f"  {describe(slot.device)}" + _reserve(slot.free, slot.capacity))
        lines += [f"    in use by {use.describe()}" for use in uses_of(slot.device)]
    lines += [f"  note: {note}" for note in notes]
    return ResourcesError("\n".join(lines))


def describe(device: Device) -> str:
    """Return one line about a device."""
    parts = [f"GPU {device.index} {device.name}"]
    if device.memory_total_bytes is None:
        parts.append("memory size unknown")
    else:
        total, free = device.memory_total_bytes, device.memory_free_bytes
        parts.append(f"{total / GIB:.2f} GiB" + ("" if free is None else f", {free / GIB:.2f} GiB free"))
    if device.compute_mode not in (None, ComputeMode.DEFAULT):
        parts.append(f"compute mode {device.compute_mode}")
    return ", ".join(parts)


def _arithmetic(request: Request, ledger: Ledger) -> str:
    slots = ledger.slots
    workers = request.demand.fewest
    if request.count > 1:
        whole = sum(slot.fits(request) and not slot.device.is_mig for slot in slots)
        return f"{workers} × {request.count} whole GPUs are needed, {whole} are free (MIG slices cannot be joined)"
    if request.count:
        return f"{workers} whole GPU(s) or MIG slice(s) are needed, {sum(s.fits(request) for s in slots)} are free"
    if request.memory:
        max_free = max((slot.memory_left or 0 for slot in slots), default=0)
        fitting = sum((slot.memory_left or 0) // request.memory for slot in slots)
        if workers == 1 or not fitting:
            needed = f"{request.memory / GIB:.2f} GiB on one device is needed"
            return f"{needed}, the most that is free on one is {max_free / GIB:.2f} GiB"
        return f"{fitting} such worker(s) fit on the devices"
    fitting = sum(slot.free // (slot.units(request) or 1) for slot in slots)
    return f"{fitting} worker(s) of {request.share / WHOLE_GPU:g} GPU fit on the devices"


def _reserve(free: int, capacity: int) -> str:
    return f", {100 * (capacity - free) / capacity:.0f} % reserved" if free < capacity else ""
